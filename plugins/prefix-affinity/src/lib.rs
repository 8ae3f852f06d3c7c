//! Sequences whose prompts begin alike go together, so that later ones find the first one's blocks in the cache.
//!
//! Of those that share a prefix, one computes its prompt while the others wait for it; then they go before
//! prompts that nobody has begun, while their blocks are still there. SGLang's scheduler orders by the cached
//! prefix too (Zheng et al. 2023, arXiv 2312.07104, section 3); the contract shows only which prompts share
//! their first block, which is enough for system prompts and the turns of a conversation.
//!
//! Affinity is worth `patience_ms`: nobody waits longer than that for the one in front, or is overtaken by what
//! arrives more than that after it. Else the order is that of arrival, with shares as in `fcfs`. What decodes
//! keeps decoding. Configuration: `{"patience_ms": 1000}`, the default.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use tokenmill_plugin_common::{Groups, Queue, Track, config};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct PrefixAffinity {
    settings: Settings,
    prefixes: Groups<Prefix>,
    /// The group of each sequence.
    track: Track<usize>,
    /// By when it arrived, or would have without its affinity.
    queue: Queue<u64>,
}

/// What the sequences of one prefix do in this step.
#[derive(Default)]
struct Prefix {
    /// Some prompt is computed, and in the cache: its sequence decodes.
    warm: bool,
    /// A prompt is being computed, or will be.
    led: bool,
    /// Since when one that has started is, the first of this prefix.
    since: Option<u64>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    patience_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { patience_ms: 1000 }
    }
}

impl Scheduler for PrefixAffinity {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        self.look(view);
        let (now, arrived) = (view.now_us(), view.arrived_us());
        let patience = u64::from(self.settings.patience_ms) * 1000;
        let Self { prefixes, track, queue, .. } = self;
        let (groups, places) = (prefixes.all(), track.entries());
        queue.plan(
            view,
            order,
            |seq| {
                if seq.decodes() {
                    return Some(0);
                }
                let (prefix, arrived) = (&mut groups[places[seq.index].1].value, arrived[seq.index]);
                if prefix.warm {
                    return Some(arrived.saturating_sub(patience).max(1));
                }
                // The first that waits leads, if no prompt is being computed.
                let led = std::mem::replace(&mut prefix.led, true);
                let patient = prefix.since.is_none_or(|since| now.saturating_sub(since) < patience);
                let follows = seq.waits() && led && patient;
                (!follows).then_some(arrived.max(1))
            },
            |_, _| true,
        );
        Ok(())
    }
}

impl PrefixAffinity {
    /// Finds out which prefixes are warm and which are being computed, and since when.
    fn look(&mut self, view: &dyn View) {
        let Self { prefixes, track, .. } = self;
        let now = view.now_us();
        let (keys, pending, resident) = (view.prefix(), view.pending(), view.resident());
        track.advance(view, |i| prefixes.join(keys[i]));
        let mut left = false;
        for place in track.ended() {
            prefixes.leave(place);
            left = true;
        }
        if left {
            prefixes.sweep(|_| false);
        }
        let groups = prefixes.all();
        for group in groups.iter_mut() {
            (group.value.warm, group.value.led) = (false, false);
        }
        for ((&(_, place), &pending), &resident) in track.entries().iter().zip(pending).zip(resident) {
            let prefix = &mut groups[place].value;
            prefix.warm |= resident > 0 && pending <= 1;
            prefix.led |= resident > 0;
        }
        for group in groups {
            let Prefix { warm, led, since } = &mut group.value;
            *since = (*led && !*warm).then(|| since.unwrap_or(now));
        }
    }
}

tokenmill_guest::export_scheduler!(PrefixAffinity);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokenmill_plugin_traffic::{Arrival, Traffic};
    use tokenmill_policy::{Fcfs, Silent};

    fn arrival(prefix: u64) -> Arrival {
        Arrival { prefix, prompt: 48, ..Arrival::default() }
    }

    #[test]
    fn one_computes_what_the_others_wait_for() {
        let mut traffic = Traffic::new(200, 9);
        let mut policy = PrefixAffinity::default();
        for prefix in [1, 2, 1, 1] {
            traffic.arrive(arrival(prefix));
        }
        assert_eq!(traffic.step(&mut policy), [(1, 48), (2, 48)]);
        assert_eq!(traffic.step(&mut policy), [(1, 1), (2, 1), (3, 32), (4, 32)]);
        assert_eq!(traffic.prefix_hits, 2);
    }

    #[test]
    fn a_warm_prefix_goes_before_what_arrived_a_little_earlier() {
        let mut traffic = Traffic::new(64, 9);
        let mut policy = PrefixAffinity::default();
        traffic.arrive(arrival(1));
        traffic.step(&mut policy);
        traffic.arrive(arrival(2));
        traffic.step(&mut Idle);
        traffic.arrive(arrival(1));
        assert_eq!(traffic.plan(&mut policy), [(0, 1), (2, 32), (1, 31)]);
    }

    #[test]
    fn patience_ends() {
        let mut policy = PrefixAffinity::default();
        policy.configure(r#"{"patience_ms": 50}"#, Arc::new(Silent::default())).unwrap();
        let mut traffic = Traffic::new(64, 2);
        traffic.arrive(Arrival { prompt: 10_000, ..arrival(1) });
        let (follower, cold) = (traffic.arrive(arrival(1)), traffic.arrive(arrival(2)));
        traffic.step(&mut policy);
        assert_eq!((traffic.waits(follower), traffic.waits(cold)), (Some(true), Some(false)));
        while traffic.waits(follower) == Some(true) {
            traffic.step(&mut policy);
            assert!(traffic.now_us() <= 300_000, "it waits for longer than patience and a seat");
        }
    }

    #[test]
    fn more_hits_than_first_come_first_served() {
        let hits = |policy: &mut dyn Scheduler| {
            let mut traffic = Traffic::new(512, 16);
            for i in 0..200_u64 {
                traffic.arrive(arrival(i / 10));
            }
            while traffic.unfinished() > 0 {
                traffic.step(policy);
            }
            traffic.prefix_hits
        };
        let (ours, fcfs) = (hits(&mut PrefixAffinity::default()), hits(&mut Fcfs::default()));
        assert!(ours > 170 && fcfs < 100, "{ours} and {fcfs} of 180");
    }

    /// Runs nothing.
    struct Idle;
    impl Scheduler for Idle {
        fn plan(&mut self, _: &dyn View, _: &mut Order) -> Result<(), Error> {
            Ok(())
        }
    }
}
