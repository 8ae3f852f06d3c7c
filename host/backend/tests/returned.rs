//! What a wrong backend returns is an error that says what is wrong, and never a wrong index in the host.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "../../../tests/conformance/tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Error, Load, Model, Sampling, Waited};

/// The C example with one thing changed.
fn backend(name: &str, from: &str, to: &str) -> Backend {
    let source = common::c_source();
    assert!(source.contains(from), "{from}");
    Backend::open(&common::compile(&format!("returned-{name}"), &source.replacen(from, to, 1))).unwrap()
}

fn request() -> Load<'static> {
    Load {
        dir: Path::new("unused"),
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: 16,
        max_tokens: 64,
        max_rows: 8,
        max_seqs: 4,
        depth: 2,
        kv_bytes: 1 << 20,
        options: "",
        progress: None,
    }
}

const BATCH: Batch<'_> = Batch {
    tokens: &[1, 2, 3],
    seq_start: &[0, 3],
    seq_pos: &[0],
    block_start: &[0, 1],
    blocks: &[0],
    rows: &[2, 2],
    copies: &[],
};
const GREEDY: Sampling<'_> = Sampling {
    rows: &[Row {
        seed: 0,
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        top_k: 0,
        forced: -1,
        bias: 0,
        n_bias: 0,
        seen: 0,
        n_seen: 0,
        mask: 0,
        reserved: 0,
    }; 2],
    bias_token: &[],
    bias_value: &[],
    seen_token: &[],
    seen_count: &[],
    masks: &[],
};

fn step(model: &mut Model) -> Result<Vec<i32>, Error> {
    let ticket = model.submit(&BATCH)?;
    model.sample(ticket, &GREEDY)?;
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    assert_eq!(model.wait(ticket, Duration::MAX, &mut tokens, &mut logprobs)?, Waited::Done);
    model.top_k(ticket, 0, 2, &mut Vec::new(), &mut Vec::new())?;
    model.logits(ticket, 1)?;
    model.release(ticket);
    Ok(tokens)
}

#[track_caller]
fn defect<T: std::fmt::Debug>(result: Result<T, Error>, part: &str) {
    match result {
        Err(Error::Internal(text)) => assert!(text.contains(part), "{part:?} is not in {text:?}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn sizes_of_a_model_are_checked() {
    for (i, (from, to, part)) in [
        ("info.vocab = VOCAB", "info.vocab = 0", "vocab = 0"),
        ("info.vocab = VOCAB", "info.vocab = UINT32_MAX", "vocab = 4294967295"),
        ("info.n_blocks = model->n_blocks", "info.n_blocks = 0", "n_blocks = 0"),
        ("info.max_context = CONTEXT", "info.max_context = 0", "max_context = 0"),
        ("info.block_tokens = model->block_tokens", "info.block_tokens = 24", "block_tokens = 24"),
        ("info.depth = model->depth", "info.depth = 9", "depth = 9"),
        ("info.max_rows = model->max_rows", "info.max_rows = 0", "max_rows = 0"),
        ("strcpy(info.arch, \"markov\")", "memset(info.arch, 'x', sizeof info.arch)", "arch"),
        ("strcpy(info.device, \"CPU\")", "strcpy(info.device, \"\\xc3(\")", "device"),
        ("*out = model;", "unload(model); *out = NULL;", "without a model"),
    ]
    .into_iter()
    .enumerate()
    {
        defect(
            backend(&format!("info-{i}"), from, to).load(&request()).map(|model| model.info().clone()),
            part,
        );
    }
}

#[test]
fn results_of_a_step_are_checked() {
    for (i, (from, to, part)) in [
        ("step->ticket = ++model->newest", "step->ticket = model->newest", "ticket 0"),
        ("step->tokens[i] = token;", "step->tokens[i] = VOCAB;", "token 257 of 257"),
        ("step->tokens[i] = token;", "step->tokens[i] = -2;", "token -2"),
        ("step->sampled ? step->n_rows : 0;", "1;", "1 rows of 2"),
        ("ids[i] = sorted[i];", "ids[i] = VOCAB;", "token 257"),
        ("*out = step->logits + (size_t)row * VOCAB;", "*out = row == 1 ? NULL : step->logits;", "logits"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut model = backend(&format!("step-{i}"), from, to).load(&request()).unwrap();
        defect(step(&mut model), part);
    }
}

#[test]
fn codes_become_errors_and_messages_are_read_with_care() {
    let submit = "code = check_batch(model, &batch, message);";
    let with = |name: &str, to: &str| {
        let mut model = backend(name, submit, to).load(&request()).unwrap();
        let first = step(&mut model).unwrap_err();
        (first, step(&mut model).unwrap_err())
    };
    let (error, _) = with("no-memory", "code = fail(message, TM_NO_MEMORY, \"too %s\", \"big\");");
    assert!(matches!(&error, Error::NoMemory(text) if text == "submit: too big"), "{error:?}");
    let (error, _) = with("unknown", "code = fail(message, 77, \"strange\");");
    assert!(matches!(&error, Error::Internal(text) if text.contains("77")), "{error:?}");
    let (error, _) = with("timeout", "code = fail(message, TM_TIMEOUT, \"late\");");
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
    let (error, _) = with("silent", "code = TM_UNSUPPORTED;");
    assert!(matches!(&error, Error::Unsupported(text) if text == "submit failed"), "{error:?}");
    let (error, _) = with("endless", "code = TM_INVALID; memset(message, 'x', sizeof *message);");
    assert!(matches!(&error, Error::Invalid(text) if text.len() < 300), "{error:?}");
    let (error, _) = with("latin", "code = fail(message, TM_INVALID, \"caf\\xe9\");");
    assert!(matches!(&error, Error::Invalid(text) if text.contains("caf\u{fffd}")), "{error:?}");
    // Lost is for good, and the backend is not asked again.
    let (lost, after) =
        with("lost", "code = model->checks++ ? TM_INVALID : fail(message, TM_LOST, \"fell off\");");
    assert!(matches!(&lost, Error::Lost(text) if text.contains("fell off")), "{lost:?}");
    assert!(matches!(after, Error::Lost(_)), "{after:?}");
}

#[test]
fn columns_of_other_lengths_are_refused_by_name() {
    let mut model = backend("lengths", "markov", "markov").load(&request()).unwrap();
    let wrong: [(&str, Batch<'_>); 4] = [
        ("seq_start", Batch { seq_start: &[0], ..BATCH }),
        ("seq_start", Batch { seq_start: &[0, 4], ..BATCH }),
        ("block_start", Batch { block_start: &[0, 1, 2], ..BATCH }),
        ("block_start", Batch { block_start: &[0, 2], ..BATCH }),
    ];
    for (column, batch) in wrong {
        let error = model.submit(&batch).unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(column)), "{column}: {error:?}");
    }
    let ticket = model.submit(&BATCH).unwrap();
    let wrong: [(&str, Sampling<'_>); 4] = [
        ("rows", Sampling { rows: &GREEDY.rows[..1], ..GREEDY }),
        ("bias_value", Sampling { bias_token: &[1], ..GREEDY }),
        ("seen_count", Sampling { seen_token: &[1], ..GREEDY }),
        ("masks", Sampling { masks: &[0; 8], ..GREEDY }),
    ];
    for (column, sampling) in wrong {
        let error = model.sample(ticket, &sampling).unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains(column)), "{column}: {error:?}");
    }
    model.sample(ticket, &GREEDY).unwrap();
}

#[test]
fn a_panic_in_progress_comes_back_after_the_load() {
    let backend = backend("progress", "markov", "markov");
    let progress = |_, _| panic!("as the caller wished");
    let load = || backend.load(&Load { progress: Some(&progress), ..request() });
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load)).map(|_| ()).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as the caller wished"));
    assert!(backend.load(&request()).is_ok());
}
