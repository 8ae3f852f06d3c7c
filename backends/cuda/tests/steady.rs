//! What a step of a steady decode costs the driver: no memory, no waiting, one graph. Alone in its process,
//! since the driver counts for all of it.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "backend/support.rs"]
mod support;

use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Batch, Model, Sampling, Ticket};
use tokenmill_emulator::{Counters, counters};

use support::{BLOCK, cuda, fixtures, load};

const SEQS: usize = 5;
/// Until every slot has recorded its graph.
const WARM: usize = 8;
const STEPS: u64 = 10;

/// Decode steps of some sequences, each from what the step before sampled, two in flight.
struct Decode {
    model: Model,
    before: Option<Ticket>,
    position: u32,
    sampled: Vec<i32>,
}

impl Decode {
    fn new(options: &str) -> Self {
        let model = load(&cuda(), &fixtures().join("models/llama-gqa"), &[0], 1, options);
        Self { model, before: None, position: 0, sampled: Vec::new() }
    }

    /// Queues a step, then takes the results of the one before.
    fn step(&mut self) {
        let per_seq = 128 / BLOCK;
        let tokens: Vec<i32> =
            (0..SEQS as i32).map(|seq| if self.before.is_none() { 3 + seq } else { -1 - seq }).collect();
        let starts: Vec<u32> = (0..=SEQS as u32).collect();
        let batch = Batch {
            tokens: &tokens,
            seq_start: &starts,
            seq_pos: &[self.position; SEQS],
            block_start: &starts.iter().map(|start| start * per_seq).collect::<Vec<_>>(),
            blocks: &(0..SEQS as u32 * per_seq).collect::<Vec<_>>(),
            rows: &starts[..SEQS],
            copies: &[],
        };
        let ticket = self.model.submit(&batch).unwrap();
        self.model
            .sample(ticket, &Sampling { rows: &[Row::default(); SEQS], ..Sampling::default() })
            .unwrap();
        self.position += 1;
        let before = self.before.replace(ticket);
        before.into_iter().for_each(|before| self.take(before));
    }

    /// The counters once all that was queued has run.
    fn settled(&mut self) -> Counters {
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        self.model.wait(self.before.unwrap(), Duration::MAX, &mut tokens, &mut logprobs).unwrap();
        counters()
    }

    fn take(&mut self, ticket: Ticket) {
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        self.model.wait(ticket, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
        self.model.release(ticket);
        self.sampled.extend(tokens);
    }
}

fn difference(from: Counters, to: Counters) -> Counters {
    Counters {
        launches: to.launches - from.launches,
        kernels: to.kernels - from.kernels,
        graph_launches: to.graph_launches - from.graph_launches,
        allocations: to.allocations - from.allocations,
        host_allocations: to.host_allocations - from.host_allocations,
        synchronisations: to.synchronisations - from.synchronisations,
        copies: to.copies - from.copies,
        memsets: to.memsets - from.memsets,
    }
}

/// Tokens of all steps, and what the steady ones cost.
fn decode(options: &str) -> (Vec<i32>, Counters) {
    let mut decode = Decode::new(options);
    (0..WARM).for_each(|_| decode.step());
    let from = decode.settled();
    (0..STEPS).for_each(|_| decode.step());
    let cost = difference(from, decode.settled());
    (decode.sampled, cost)
}

#[test]
fn a_steady_step_is_one_graph_and_a_few_kernels_of_sampling() {
    let (replayed, graphs) = decode("graphs=on");
    let (queued, plain) = decode("graphs=off");
    println!("with graphs {graphs:?}\nwithout {plain:?}");
    assert_eq!(replayed, queued, "a replayed step gives other tokens");
    assert_eq!(replayed.len(), SEQS * (WARM + STEPS as usize - 1));
    if tokenmill_emulator::is_real_gpu() {
        return;
    }
    assert_eq!((graphs.graph_launches, plain.graph_launches), (STEPS, 0));
    for cost in [graphs, plain] {
        assert_eq!((cost.allocations, cost.host_allocations), (0, 0), "a step allocates: {cost:?}");
        // The thread that tells when a step is computed and when it is sampled waits for either; nobody else does.
        assert!(cost.synchronisations <= 2 * STEPS, "a step waits: {cost:?}");
    }
    assert!(graphs.launches <= 3 * STEPS, "sampling takes more than three kernels: {graphs:?}");
    assert!(graphs.copies <= 4 * STEPS, "{graphs:?}");
}
