//! Every decoding sequence gets its token; then prompts, the newest first.

use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

#[derive(Default)]
pub struct Policy;

impl Scheduler for Policy {
    /// Once, before anything else; `config` is what the operator gave.
    fn configure(&mut self, config: &str, host: Host) -> Result<(), Error> {
        if !config.trim().is_empty() {
            return Err(Error::BadConfig("this policy takes none".into()));
        }
        host.log("newest first");
        Ok(())
    }

    /// Once per step, while the device still runs the step before.
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let (pending, resident) = (view.pending(), view.resident());
        let decodes = |i: usize| pending[i] == 1 && resident[i] > 0;
        let mut left = view.token_budget();
        for i in (0..pending.len()).filter(|&i| decodes(i)) {
            order.run(&[i as u32], &[1]);
            left = left.saturating_sub(1);
        }
        let mut seats = view.free_seqs();
        for i in (0..pending.len()).rev().filter(|&i| pending[i] > 0 && !decodes(i)) {
            let starts = resident[i] == 0;
            if starts && (seats == 0 || left == 0) {
                continue;
            }
            seats -= u32::from(starts);
            let tokens = pending[i].min(left);
            left -= tokens;
            // With 0 tokens it keeps its place: what is not listed is preempted first.
            order.run(&[i as u32], &[tokens]);
        }
        Ok(())
    }
}

tokenmill_guest::export_scheduler!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::schedule::Columns;

    #[test]
    fn the_newest_prompt_goes_first() {
        let view = Columns {
            token_budget: 10,
            free_seqs: 2,
            pending: &[1, 20, 4, 5],
            resident: &[7, 3, 0, 0],
            ..Columns::default()
        };
        let mut order = Order::default();
        Policy.plan(&view, &mut order).unwrap();
        assert_eq!((order.indices, order.tokens), (vec![0, 3, 2, 1], vec![1, 5, 4, 0]));
    }
}
