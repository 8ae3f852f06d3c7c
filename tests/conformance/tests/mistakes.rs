//! The suite finds what it is there to find: each of a list of mistakes in the C backend.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use std::path::Path;

use tokenmill_backend::Backend;
use tokenmill_conformance::{Outcome, run};

/// What is wrong, and how the source becomes that. Each is a mistake that a backend could well make.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("too many tickets are a defect", "code = fail(message, TM_AGAIN", "code = fail(message, TM_INTERNAL"),
    (
        "blocks are taken to follow each other",
        "blocks[position / model->block_tokens]",
        "(blocks[0] + position / model->block_tokens) % model->n_blocks",
    ),
    ("only the first block is used", "blocks[position / model->block_tokens]", "blocks[0 * position]"),
    ("the offset in a block is lost", "+ position % model->block_tokens];", "];"),
    (
        "all rows are at the end of their sequence",
        "batch->seq_pos[s] + batch->rows[i] - batch->seq_start[s]",
        "batch->seq_pos[s] + batch->seq_start[s + 1] - 1 - batch->seq_start[s]",
    ),
    (
        "positions begin at 0 in every step",
        "*slot(model, blocks, batch->seq_pos[s] + t",
        "*slot(model, blocks, t",
    ),
    (
        "copies go the other way",
        "copies[2 * i + 1] * model->block_tokens,",
        "copies[2 * i] * model->block_tokens,",
    ),
    ("copies are cut short", "size_t block_bytes = model->block_tokens", "size_t block_bytes = 2"),
    (
        "copies are forgotten",
        "for (i = 0; i < batch->n_copies; i++) {\n        memcpy",
        "for (i = batch->n_copies; i < batch->n_copies; i++) {\n        memcpy",
    ),
    ("references always mean row 0", "model->previous[-1 - token]", "model->previous[0 * token]"),
    (
        "references are off by one",
        "model->previous[-1 - token]",
        "model->previous[-token % (int)model->max_rows]",
    ),
    (
        "references are allowed before sampling",
        "model->n_previous = 0;",
        "model->n_previous = model->max_rows;",
    ),
    ("tickets begin at 0", "step->ticket = ++model->newest", "step->ticket = model->newest += 2"),
    (
        "a refused step has changed the cache",
        "code = check_batch(model, &batch, message);",
        "code = check_batch(model, &batch, message); if (code) *model->kv = 65;",
    ),
    ("sampling twice is allowed", "!step || step->sampled", "!step"),
    ("any ticket is sampled", "ticket && ticket == model->newest ?", "ticket ?"),
    (
        "an unsampled step has results",
        "result->n_rows = step->sampled ? step->n_rows : 0;",
        "result->n_rows = step->n_rows;",
    ),
    (
        "results are gone after the first wait",
        "result->n_rows = step->sampled ? step->n_rows : 0;",
        "result->n_rows = step->sampled ? step->n_rows : 0; step->sampled = 0;",
    ),
    (
        "log-probabilities are of temperature",
        "return (float)(logits[token] - largest - log(sum));",
        "return (float)(logits[token] / 2 - largest - log(sum));",
    ),
    ("ties are in any order", "logits[ids[i - 1]] < logits[t]", "logits[ids[i - 1]] <= logits[t]"),
    ("another generator", "z >> 30", "z >> 31"),
    ("biases are multiplied", "+= all->bias_value[i]", "*= all->bias_value[i]"),
    ("biases begin at 0", "for (i = row->bias; i < row->bias + row->n_bias", "for (i = 0; i < row->n_bias"),
    ("there is one mask", "(row->mask - 1) * MASK_WORDS", "0 * MASK_WORDS"),
    (
        "masks are short of a word",
        "if (!(mask[t / 32] >> (t % 32) & 1))",
        "if (t < 256 && !(mask[t / 32] >> (t % 32) & 1))",
    ),
    ("masks forbid", "if (!(mask[t / 32] >> (t % 32) & 1))", "if (mask[t / 32] >> (t % 32) & 1)"),
    ("repetition divides always", ": *logit * row->repetition", ": *logit / row->repetition"),
    ("presence counts the prompt", "(count > 0 ? row->presence : 0)", "row->presence"),
    ("frequency is counted once", "row->frequency * (float)count", "row->frequency * (float)(count > 0)"),
    ("top_k cuts ties", "while (logits[ids[n - 1]] < kth) n--;", "n = row->top_k + 0 * (kth > 0);"),
    ("top_p leaves out the last", "n = i;", "n = i > 1 ? i - 1 : 1;"),
    ("top_p comes before temperature", "target = row->top_p * sum", "target = row->top_p * row->top_p * sum"),
    ("min_p is absolute", "weights[n - 1] < row->min_p", "n > 1 && weights[n - 1] < row->min_p * sum"),
    ("the draw is by falling probability", "by_id[ids[i]] = weights[i]", "by_id[i] = weights[i]"),
    ("temperature is squared", "/ row->temperature)", "/ row->temperature / row->temperature)"),
    ("forced tokens are ignored", "if (row->forced >= 0) return row->forced;", ""),
    (
        "a mask without tokens gives one",
        "if (!(logits[ids[0]] > -INFINITY)) return -1;",
        "if (!(logits[ids[0]] > -INFINITY)) return 0;",
    ),
    (
        "the newer host's fields are read as sizes",
        "memcpy(to, from, given < size ? given : size);",
        "memcpy(to, from, size); (void)given;",
    ),
    (
        "info writes all it knows",
        "memcpy(out, &info, out->size < sizeof info ? out->size : sizeof info);",
        "memcpy(out, &info, sizeof info);",
    ),
    (
        "unload forgets the cache",
        "free(model->kv);",
        "memset(model->kv, 1, (size_t)model->n_blocks * model->block_tokens * 2);",
    ),
    ("small results overflow", "step->sampled && result->capacity < step->n_rows", "0"),
    ("unknown options are ignored", "load->options && load->options[", "0 && load->options["),
    ("released tickets stay", "if (step) step->ticket = 0;", "if (step) step->ticket = step->ticket;"),
];

/// A suite that a wrong backend passes would be worth nothing.
#[test]
fn each_mistake_is_found() {
    let right = common::c_source();
    let mut unnoticed = Vec::new();
    for (i, &(what, from, to)) in MISTAKES.iter().enumerate() {
        assert_eq!(right.matches(from).count(), 1, "{what}: {from:?} must stand in markov.c once");
        let library = common::compile(&format!("mistake-{i}"), &right.replace(from, to));
        let report = run(&Backend::open(&library).unwrap(), Path::new("unused"), "");
        let found = report.checks.iter().find(|check| matches!(check.outcome, Outcome::Failed(_)));
        match found {
            Some(check) => println!("{what}: {} {:?}", check.name, check.outcome),
            None => unnoticed.push(what),
        }
    }
    assert!(unnoticed.is_empty(), "mistakes that no check noticed: {unnoticed:#?}");
}
