//! What makes the null backend a test double: it notices wrong blocks, and fails when told to.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use std::path::Path;
use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Error, Load, Model, Sampling, Ticket, Waited};

fn load(options: &str) -> Result<Model, Error> {
    load_from(Path::new("unused"), options)
}

fn load_from(dir: &Path, options: &str) -> Result<Model, Error> {
    Backend::open(&common::beside("tokenmill_null")).unwrap().load(&Load {
        dir,
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: 4,
        max_tokens: 64,
        max_rows: 8,
        max_seqs: 4,
        depth: 2,
        kv_bytes: 0,
        options,
        progress: None,
    })
}

fn submit(model: &mut Model, tokens: &[i32], position: u32, blocks: &[u32]) -> Result<Ticket, Error> {
    let len = tokens.len() as u32;
    let ticket = model.submit(&Batch {
        tokens,
        seq_start: &[0, len],
        seq_pos: &[position],
        block_start: &[0, blocks.len() as u32],
        blocks,
        rows: &[len - 1],
        copies: &[],
    })?;
    model.sample(ticket, &Sampling { rows: &[Row::default()], ..Sampling::default() })?;
    Ok(ticket)
}

fn wait(model: &mut Model, ticket: Ticket) -> Result<i32, Error> {
    let mut tokens = Vec::new();
    let waited = model.wait(ticket, Duration::MAX, &mut tokens, &mut Vec::new());
    if waited.is_ok() {
        model.release(ticket);
    }
    waited.map(|_| tokens[0])
}

/// One sequence, one row: its token.
fn step(model: &mut Model, tokens: &[i32], position: u32, blocks: &[u32]) -> Result<i32, Error> {
    let ticket = submit(model, tokens, position, blocks)?;
    let token = wait(model, ticket);
    model.release(ticket);
    token
}

#[track_caller]
fn defect(result: Result<i32, Error>, parts: &[&str]) {
    match result {
        Err(Error::Internal(text)) => {
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in {text:?}");
        }
        other => panic!("{parts:?}: {other:?}"),
    }
}

#[test]
fn wrong_blocks_are_named() {
    let model = &mut load("").unwrap();
    step(model, &[1, 2, 3, 4, 5, 6], 0, &[0, 1]).unwrap();
    step(model, &[9, 8, 7, 6, 5, 4], 0, &[2, 3]).unwrap();
    defect(step(model, &[7], 6, &[0, 3]), &["position 4", "block 3", "another prefix"]);
    defect(step(model, &[7], 6, &[2, 1]), &["position 4", "block 1", "another prefix"]);
    defect(step(model, &[7], 6, &[9, 1]), &["position 0", "block 9", "never written"]);
    step(model, &[1, 2, 3, 4, 5, 6], 0, &[10, 11]).unwrap();
    defect(step(model, &[7], 8, &[10, 11, 12]), &["position 6", "block 11", "never written"]);
    // A hole: nobody has written position 4 of this sequence.
    step(model, &[1, 2, 3, 4], 0, &[5]).unwrap();
    defect(step(model, &[6], 5, &[5, 6]), &["position 4", "block 6", "never written"]);
    // A block that another sequence took over meanwhile.
    step(model, &[1, 2, 3, 4, 5, 6], 0, &[7, 8]).unwrap();
    step(model, &[3, 3], 0, &[7]).unwrap();
    defect(step(model, &[7], 6, &[7, 8]), &["another prefix"]);
    // The one that was never wrong still is not.
    step(model, &[7, 8], 6, &[0, 1]).unwrap();
}

#[test]
fn without_checks_wrong_blocks_still_give_other_tokens() {
    let (checked, fast) = (&mut load("").unwrap(), &mut load("check=0").unwrap());
    let right = step(checked, &[1, 2, 3, 4, 5, 6, 7], 0, &[0, 1]).unwrap();
    assert_eq!(
        step(fast, &[1, 2, 3, 4, 5, 6], 0, &[0, 1]).unwrap(),
        step(checked, &[1, 2, 3, 4, 5, 6], 0, &[4, 5]).unwrap()
    );
    assert_eq!(step(fast, &[7], 6, &[0, 1]).unwrap(), right);
    step(fast, &[9, 8, 7, 6, 5, 4], 0, &[2, 3]).unwrap();
    assert_ne!(step(fast, &[7], 6, &[0, 3]).unwrap(), right);
}

#[test]
fn equal_prefixes_give_equal_tokens_and_others_do_not() {
    let model = &mut load("").unwrap();
    let prompt: Vec<i32> = (0..30).map(|i| i * 31 % 1000).collect();
    let blocks: Vec<u32> = (0..8).collect();
    let once = step(model, &prompt, 0, &blocks).unwrap();
    for cut in 1..30 {
        step(model, &prompt[..cut], 0, &blocks).unwrap();
        assert_eq!(step(model, &prompt[cut..], cut as u32, &blocks).unwrap(), once);
    }
    let mut other = prompt.clone();
    other[0] += 1;
    assert_ne!(step(model, &other, 0, &blocks).unwrap(), once);
}

#[test]
fn scripts_are_followed_by_position() {
    let model = &mut load("script=5,6,7,2\nvocab=16").unwrap();
    // Three tokens before it: the sampled one is at position 3.
    assert_eq!(step(model, &[1, 1, 1], 0, &[0]).unwrap(), 2);
    for position in 3..12 {
        assert_eq!(
            step(model, &[1], position, &[0, 1, 2]).unwrap(),
            [5, 6, 7, 2][(position as usize + 1) % 4]
        );
    }
}

#[test]
fn end_tokens_come_once_in_a_period_and_never_else() {
    let ends = |options: &str| {
        let model = &mut load(options).unwrap();
        (0..600).filter(|&i| step(model, &[i % 30, i / 30], 0, &[0]).unwrap() == 7).count()
    };
    assert!((20..100).contains(&ends("vocab=30\neos=7@10")));
    assert_eq!(ends("vocab=30\neos=7@1000000007"), 0);
    assert_eq!(ends("vocab=30\neos=7@1"), 600);
}

#[test]
fn steps_take_their_time_one_after_the_other() {
    let model = &mut load("step_us=500000").unwrap();
    let first = submit(model, &[1], 0, &[0]).unwrap();
    let second = submit(model, &[1], 0, &[1]).unwrap();
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    assert_eq!(model.wait(second, Duration::ZERO, &mut tokens, &mut logprobs).unwrap(), Waited::TimedOut);
    assert!(tokens.is_empty());
    assert_eq!(model.wait(second, Duration::MAX, &mut tokens, &mut logprobs).unwrap(), Waited::Done);
    // In order: the first is done by now, too.
    assert_eq!(model.wait(first, Duration::ZERO, &mut tokens, &mut logprobs).unwrap(), Waited::Done);
    assert_eq!(tokens.len(), 1);
}

#[test]
fn steps_fail_when_told_to() {
    let model = &mut load("fail_step=2:3,4:7").unwrap();
    assert!(step(model, &[1], 0, &[0]).is_ok());
    let failed = submit(model, &[1], 0, &[0]).unwrap();
    for _ in 0..2 {
        assert!(matches!(wait(model, failed), Err(Error::NoMemory(_))));
        assert!(matches!(model.logits(failed, 0), Err(Error::NoMemory(_))));
    }
    model.release(failed);
    assert!(step(model, &[1], 0, &[0]).is_ok());
    assert!(matches!(step(model, &[1], 0, &[0]), Err(Error::Internal(_))));
    assert!(step(model, &[1], 0, &[0]).is_ok());
}

#[test]
fn a_lost_device_stays_lost() {
    let model = &mut load("lost_at=2").unwrap();
    assert!(step(model, &[1], 0, &[0]).is_ok());
    assert!(matches!(step(model, &[1], 0, &[0]), Err(Error::Lost(_))));
    assert!(matches!(step(model, &[1], 0, &[0]), Err(Error::Lost(_))));
    drop(std::mem::replace(model, load("").unwrap()));
    assert!(step(model, &[1], 0, &[0]).is_ok());
}

#[test]
fn a_row_of_nan_gives_no_token_and_its_neighbour_is_untouched() {
    let both = |options: &str| {
        let model = &mut load(options).unwrap();
        let batch = Batch {
            tokens: &[1, 2],
            seq_start: &[0, 1, 2],
            seq_pos: &[0, 0],
            block_start: &[0, 1, 2],
            blocks: &[0, 1],
            rows: &[0, 1],
            copies: &[],
        };
        let ticket = model.submit(&batch).unwrap();
        model.sample(ticket, &Sampling { rows: &[Row::default(); 2], ..Sampling::default() }).unwrap();
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        model.wait(ticket, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
        let nan = model.logits(ticket, 0).unwrap().iter().all(|logit| logit.is_nan());
        (tokens, logprobs[1], nan)
    };
    let (plain, broken) = (both(""), both("nan_row=1:0"));
    assert_eq!((broken.0[0], broken.2), (-1, true));
    assert_eq!((broken.0[1], broken.1), (plain.0[1], plain.1));
}

#[test]
fn loading_fails_when_told_to() {
    assert!(matches!(load("load_fail=3"), Err(Error::NoMemory(_))));
    assert!(matches!(load("load_fail=2"), Err(Error::Unsupported(_))));
    for option in
        ["vocab=1", "vocab=many", "blocks=0", "script=1,x", "script=40000", "eos=7", "fail_step=3", "nan=1"]
    {
        let error = load(option).map(|_| ()).unwrap_err();
        let key = option.split('=').next().unwrap();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(key)), "{option}: {error}");
    }
}

#[test]
fn sizes_come_from_the_model_directory_unless_given() {
    let dir = common::repository().join("tests/fixtures/models/llama-gqa");
    let model = load_from(&dir, "").unwrap();
    assert_eq!((model.info().vocab, model.info().max_context), (320, 128));
    let model = load_from(&dir, "vocab=50\ncontext=9\nblocks=77").unwrap();
    assert_eq!((model.info().vocab, model.info().max_context, model.info().n_blocks), (50, 9, 77));
}
