//! Newest first: of the prompts that wait, the one that came last starts first. What decodes goes on.
//!
//! Configuration: `{"patience_ms": 1000}`; a prompt that has waited for longer goes before all newer ones.

use tokenmill_plugin_common::{Queue, config};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

#[derive(Default)]
pub struct Policy {
    settings: Settings,
    queue: Queue<(u8, u64)>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    patience_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { patience_ms: 1000 }
    }
}

impl Scheduler for Policy {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        Ok(())
    }

    /// Once per step, while the device runs the step before: who computes how many tokens.
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let (now, arrived) = (view.now_us(), view.arrived_us());
        let patience = self.settings.patience_ms.saturating_mul(1000);
        // The least rank first.
        let rank = |seq: &tokenmill_plugin_common::Seq| {
            let waited = now.saturating_sub(arrived[seq.index]);
            Some(match seq.decodes() {
                true => (0, 0),
                false if waited > patience => (1, arrived[seq.index]),
                false => (2, waited),
            })
        };
        self.queue.plan(view, order, rank, |_, _| false);
        Ok(())
    }
}

tokenmill_guest::export_scheduler!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::schedule::Columns;

    /// Three prompts of ten tokens, and the order in which they run at a time.
    fn order(now_us: u64) -> Vec<u32> {
        let view = Columns {
            now_us,
            token_budget: 100,
            free_blocks: 100,
            block_tokens: 16,
            free_seqs: 3,
            ids: &[1, 2, 3],
            pending: &[10; 3],
            resident: &[0; 3],
            generated: &[0; 3],
            arrived_us: &[0, 1_000, 2_000],
            ..Columns::default()
        };
        let mut order = Order::default();
        Policy::default().plan(&view, &mut order).expect("a decision");
        order.indices
    }

    #[test]
    fn the_newest_goes_first_until_patience_ends() {
        assert_eq!(order(10_000), [2, 1, 0]);
        assert_eq!(order(1_001_500), [0, 1, 2]);
    }
}
