//! A component that calls the host's functions as the input says: any function, any pointer, any length, any handle,
//! and any answer at the end of a call.

use tokenmill_policy::sample::{self, Choices, Knobs, Logits, Ragged, Sampler};
use tokenmill_policy::schedule::{self, Order};
use tokenmill_policy::{Error, Scheduler};
use tokenmill_wasm::Plugin;

use crate::bytes::Bytes;
use crate::guest;
use crate::sandbox::{RUNTIME, VOCAB, host};

const STEPS: usize = 3;
/// Bytes of an operation of the guest.
const MOST_WORDS: usize = 1024;

pub(crate) fn run(input: &[u8]) {
    let bytes = Bytes::new(input);
    match bytes.yes() {
        false => sampler(&bytes),
        true => scheduler(&bytes),
    }
}

fn load(component: &[u8]) -> Plugin {
    Plugin::load(&RUNTIME, "calls", component, "", host()).expect("the guest itself is honest")
}

fn words(bytes: &Bytes) -> Vec<u32> {
    std::iter::from_fn(|| (!bytes.at_end()).then(|| bytes.word())).take(MOST_WORDS).collect()
}

fn sampler(bytes: &Bytes) {
    let plugin = load(&guest::SAMPLER);
    let mut sampler = plugin.sampler().expect("it is one");
    let mut rows = Rows::new(1 + bytes.below(3), 1 + bytes.below(2));
    let steps = 1 + bytes.below(STEPS) as usize;
    let words = words(bytes);
    for program in words.chunks(words.len().div_ceil(steps).max(1)) {
        rows.step(&mut *sampler, program);
    }
    // Nothing of it is left to the next instance.
    if !plugin.health().quarantined {
        let mut fresh = plugin.sampler().expect("it is one");
        assert!(Rows::new(2, 2).step(&mut *fresh, &[]), "{:?}", plugin.health().last_failure);
    }
}

/// Rows that decode, some of one tenant.
struct Rows {
    ids: Vec<u64>,
    tenants: Vec<u64>,
    /// What each was shown.
    shown: Vec<Vec<u32>>,
    failed: bool,
}

impl Rows {
    fn new(rows: u32, tenants: u32) -> Self {
        Self {
            ids: (1..=rows.into()).collect(),
            tenants: (0..rows).map(|row| (row % tenants).into()).collect(),
            shown: vec![Vec::new(); rows as usize],
            failed: false,
        }
    }

    /// Shows each row the program; whether there was an answer.
    fn step(&mut self, sampler: &mut dyn Sampler, program: &[u32]) -> bool {
        let n = self.ids.len();
        self.shown.iter_mut().for_each(|shown| shown.extend_from_slice(program));
        let positions: Vec<u32> = self.shown.iter().map(|shown| shown.len() as u32).collect();
        let (mut starts, mut accepted) = (vec![0], Vec::new());
        for shown in &self.shown {
            let from = if self.failed { 0 } else { shown.len() - program.len() };
            accepted.extend_from_slice(&shown[from..]);
            starts.push(accepted.len() as u32);
        }
        let seeds: Vec<u64> = self.ids.iter().map(|id| id << 32 | u64::from(positions[0])).collect();
        let view = sample::Columns {
            ids: &self.ids,
            requests: &self.ids,
            tenants: &self.tenants,
            positions: &positions,
            generated: &vec![1; n],
            remaining: &vec![9; n],
            scores: &vec![-1.0; n],
            seeds: &seeds,
            accepted: Ragged { starts: &starts, values: &accepted },
            assumed: Ragged { starts: &vec![0; n + 1], values: &[] },
            finished: &[77],
            attributes: None,
        };
        let (mut knobs, mut choices) = (Knobs::default(), Choices::default());
        let mut answer = sampler.plan(&view, &mut knobs);
        if answer.is_ok() {
            assert_eq!(knobs.check(n, VOCAB), Ok(()));
            if !knobs.inspect.is_empty() {
                answer = sampler.pick(&view, &mut Flat([0.5; VOCAB as usize]), &knobs.inspect, &mut choices);
            }
        }
        if answer.is_ok() {
            assert_eq!(choices.check(&knobs.inspect, VOCAB), Ok(()));
        }
        self.failed = answer.is_err() || !knobs.undecided.is_empty() || !choices.undecided.is_empty();
        !self.failed
    }
}

struct Flat([f32; VOCAB as usize]);

impl Logits for Flat {
    fn vocab(&self) -> u32 {
        VOCAB
    }

    fn top_k(&mut self, _: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        assert!(k <= VOCAB);
        Ok(((0..k).collect(), vec![-1.0; k as usize]))
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        assert!(row < 3, "row {row} is not in the view");
        Ok(&self.0)
    }
}

fn scheduler(bytes: &Bytes) {
    let plugin = load(&guest::SCHEDULER);
    let mut scheduler = plugin.scheduler().expect("it is one");
    let words = words(bytes);
    for _ in 0..2 {
        order(&mut *scheduler, &words);
    }
    if !plugin.health().quarantined {
        assert!(order(&mut *plugin.scheduler().expect("it is one"), &[]).is_some());
    }
}

/// Its program is the column `pending`.
fn order(scheduler: &mut dyn Scheduler, program: &[u32]) -> Option<Order> {
    let n = program.len();
    let ids: Vec<u64> = (1..=n as u64).collect();
    let view = schedule::Columns {
        now_us: 5,
        token_budget: 64,
        free_blocks: 64,
        block_tokens: 16,
        free_seqs: 8,
        ids: &ids,
        pending: program,
        resident: &vec![1; n],
        generated: &vec![1; n],
        arrived_us: &ids,
        priority: &vec![-1; n],
        tenant: &ids,
        deadline_us: &ids,
        prefix: &ids,
        finished: &[77],
        attributes: None,
    };
    let mut order = Order::default();
    scheduler.plan(&view, &mut order).ok()?;
    assert_eq!(order.indices.len(), order.tokens.len());
    for list in [&order.indices, &order.rejected] {
        let mut seen = vec![false; n];
        let new = |&index: &u32| !std::mem::replace(&mut seen[index as usize], true);
        assert!(list.iter().all(new), "{list:?}");
    }
    Some(order)
}
