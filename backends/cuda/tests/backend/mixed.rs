//! Steps of many sizes after one another: what is recorded of one must not depend on the others.

use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Batch, Sampling};

use crate::support::{cuda, fixtures, load};

/// Each in a block of its own.
const SEQS: u32 = 8;

/// Tokens sampled by decode steps of all sequences, with short prompts of one sequence between them.
fn sampled(options: &str) -> Vec<i32> {
    let mut model = load(&cuda(), &fixtures().join("models/llama-gqa"), &[0], 1, options);
    let (mut all, mut tokens, mut logprobs) = (Vec::new(), Vec::new(), Vec::new());
    // Sequences and tokens of each, and where those begin: every slot records decode steps, runs a prompt, replays.
    let decode = (0..6).map(|position| (SEQS, 1, position));
    let steps = decode.chain([(1, 3, 0), (1, 3, 3)]).chain((6..10).map(|position| (SEQS, 1, position)));
    for (seqs, count, position) in steps {
        let fed: Vec<i32> = (0..seqs * count).map(|i| (3 + i * 5 + position) as i32).collect();
        let starts: Vec<u32> = (0..=seqs).map(|i| i * count).collect();
        let each: Vec<u32> = (0..=seqs).collect();
        let batch = Batch {
            tokens: &fed,
            seq_start: &starts,
            seq_pos: &vec![position; seqs as usize],
            block_start: &each,
            blocks: &each[..seqs as usize],
            rows: &starts[1..].iter().map(|end| end - 1).collect::<Vec<_>>(),
            copies: &[],
        };
        let ticket = model.submit(&batch).unwrap();
        let rows = vec![Row::default(); seqs as usize];
        model.sample(ticket, &Sampling { rows: &rows, ..Sampling::default() }).unwrap();
        model.wait(ticket, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
        model.release(ticket);
        all.extend(&tokens);
    }
    all
}

#[test]
fn a_recorded_step_is_right_after_smaller_steps_in_its_slot() {
    assert_eq!(sampled("graphs=on"), sampled("graphs=off"));
}
