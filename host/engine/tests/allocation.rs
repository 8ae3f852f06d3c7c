//! A steady decode step allocates nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use support::{Setup, greedy};
use tokenmill_engine::{Config, Event, Output, Params, Progress, Request};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Sink;

impl Output for Sink {
    fn deliver(&mut self, _: Event<'_>) -> bool {
        true
    }
}

#[test]
fn a_steady_step_allocates_nothing() {
    let greedy_params = Params { temperature: 0.0, ..Params::default() };
    let drawn = Params { top_k: 5, logit_bias: vec![(1, 1.0)], ..Params::default() };
    let penalised = Params { repetition: 1.2, presence: 0.5, ..Params::default() };
    for (seqs, sampling) in [(256, greedy_params), (16, drawn), (16, penalised)] {
        let config = Config { max_seqs: seqs, max_batched_tokens: 2048, ..Config::default() };
        let setup = Setup {
            blocks: seqs * 80,
            block_tokens: 16,
            max_tokens: 2048,
            max_rows: seqs,
            max_seqs: seqs,
            options: "vocab=1000\ncheck=0",
            config,
        };
        let mut engine = setup.engine();
        let handle = engine.handle();
        for i in 0..seqs {
            let request = Request { sampling: sampling.clone(), ..greedy(i..i + 20 + i % 16, 1000) };
            let request =
                Request { prompt: request.prompt.iter().map(|token| token % 1000).collect(), ..request };
            handle.submit(request, Box::new(Sink)).unwrap();
        }
        // Everything has started, and the columns have their size.
        let warm = 300;
        (0..warm).for_each(|now| assert_eq!(engine.step(|| now), Progress::Worked));
        assert_eq!(handle.stats().running, u64::from(seqs));
        // Long enough for blocks to fill and tables to grow.
        let generated = handle.stats().generated_tokens;
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (warm..warm + 500).for_each(|now| assert_eq!(engine.step(|| now), Progress::Worked));
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(handle.stats().generated_tokens - generated, 500 * u64::from(seqs));
        assert_eq!(allocations, 0, "{seqs} sequences");
    }
}
