//! A steady step allocates nothing: not in the host's wrapper, and not in the null backend.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Load, Sampling};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steady_steps_allocate_nothing() {
    const SEQS: u32 = 64;
    let backend = Backend::from_entry(tokenmill_null::entry).unwrap();
    let mut model = backend
        .load(&Load {
            dir: Path::new("unused"),
            devices: &[0],
            tensor_parallel: 1,
            block_tokens: 16,
            max_tokens: 64,
            max_rows: 64,
            max_seqs: 64,
            depth: 2,
            kv_bytes: 0,
            options: "",
            progress: None,
        })
        .unwrap();
    let starts: Vec<u32> = (0..=SEQS).collect();
    let own: Vec<u32> = (0..SEQS).collect();
    let copies: Vec<(u32, u32)> = (0..SEQS).map(|i| (i, 100 + i)).collect();
    let rows: Vec<Row> =
        (0..SEQS).map(|i| Row { temperature: (i % 2) as f32, n_bias: 1, ..Row::default() }).collect();
    let sampling = Sampling { rows: &rows, bias_token: &[3], bias_value: &[1.0], ..Sampling::default() };
    let mut asked: Vec<i32> = (0..SEQS as i32).collect();
    let mut positions = vec![0; SEQS as usize];
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    let mut before = 0;
    let mut previous = None;
    for position in 0..16 {
        positions.fill(position);
        let batch = Batch {
            tokens: &asked,
            seq_start: &starts,
            seq_pos: &positions,
            block_start: &starts,
            blocks: &own,
            rows: &own,
            copies: &copies,
        };
        if position == 4 {
            before = COUNT.load(Ordering::Relaxed);
        }
        let ticket = model.submit(&batch).unwrap();
        model.sample(ticket, &sampling).unwrap();
        // Two steps in flight; all but the first refer to the one before.
        if let Some(previous) = previous.replace(ticket) {
            model.wait(previous, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
            model.release(previous);
        }
        asked.iter_mut().zip(0..).for_each(|(token, row)| *token = -1 - row);
    }
    assert_eq!(COUNT.load(Ordering::Relaxed), before);
}
