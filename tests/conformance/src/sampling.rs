//! Sampling: every result against the definition, computed from the raw logits that the backend lends.

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Model, Sampling};

use crate::definition::{adjusted, is_drawn, is_greedy, logprob};
use crate::subject::{Ran, Seq, Stop, Subject, ensure, prompt, sampled};
use crate::{Body, subject};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("greedy rows are the largest logit", greedy),
    ("log-probabilities are the log-softmax of the raw logits", logprobs),
    ("topk is the largest, falling, lower id first on a tie", topk),
    ("forced tokens are the result, with their own log-probability", forced),
    ("biases are added", biases),
    ("masks leave what they allow", masks),
    ("penalties follow their formulas", penalties),
    ("top_k keeps every tie of the k-th", ties),
    ("seeded draws follow their definition", draws),
    ("rows of one step are sampled each in its own way", mixed),
];

const ROWS: usize = 16;

/// One sequence whose first 16 tokens each have a row.
fn seqs(model: &Model, salt: u32) -> [Seq; 1] {
    [Seq::new(&prompt(model, salt, ROWS), 0, &[0]).all_rows()]
}

/// Runs the rows of `seqs` and holds every result against the definition.
fn run(model: &mut Model, salt: u32, sampling: &Sampling<'_>) -> Result<Ran, Stop> {
    let seqs = seqs(model, salt);
    let ran = sampled(model, &seqs, sampling)?;
    for (i, row) in sampling.rows.iter().enumerate() {
        let (logits, token) = (&ran.logits[i], ran.tokens[i]);
        let adjusted = adjusted(logits, row, sampling);
        let some = adjusted.iter().any(|logit| logit.is_finite());
        let allowed = match token {
            -1 => !some && row.forced < 0,
            token if row.forced >= 0 => token == row.forced,
            token if row.temperature == 0.0 => some && is_greedy(&adjusted, token as usize),
            token => some && is_drawn(&adjusted, row, token as u32),
        };
        ensure(allowed, || format!("row {i} gave {token}, which {row:?} does not allow"))?;
        if token >= 0 {
            let (have, want) = (ran.logprobs[i], logprob(logits, token as usize));
            let near = (f64::from(have) - want).abs() <= 2e-3 + 1e-4 * want.abs();
            ensure(near, || format!("row {i}: log-probability {have} of token {token}, expected {want}"))?;
        }
    }
    Ok(ran)
}

fn greedy(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    // What shapes a distribution changes nothing at temperature 0.
    let rows: Vec<Row> = (0..ROWS as u32)
        .map(|i| Row { top_k: i % 3, top_p: 0.5, min_p: 0.1, seed: u64::from(i), ..Row::default() })
        .collect();
    run(model, 1, &Sampling { rows: &rows, ..Sampling::default() })?;
    Ok(())
}

fn logprobs(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let rows = [Row { temperature: 2.0, top_k: 5, ..Row::default() }; ROWS];
    run(model, 2, &Sampling { rows: &rows, ..Sampling::default() })?;
    Ok(())
}

fn topk(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let vocab = model.info().vocab;
    let step = subject::Step::new(&seqs(model, 3));
    let ticket = model.submit(&step.batch())?;
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for (row, k) in [(0, 1), (3, 5), (15, vocab.min(100)), (7, vocab), (3, 0)] {
        let logits = model.logits(ticket, row)?.to_vec();
        model.top_k(ticket, row, k, &mut ids, &mut values)?;
        let mut order: Vec<u32> = (0..vocab).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(k as usize);
        let first = ids.iter().zip(&order).position(|(a, b)| a != b);
        ensure(first.is_none(), || {
            let n = first.unwrap_or(0);
            format!("row {row}, k = {k}: entry {n} is token {}, expected {}", ids[n], order[n])
        })?;
        for (id, value) in ids.iter().zip(&values) {
            let want = logprob(&logits, *id as usize);
            let near = (f64::from(*value) - want).abs() <= 2e-3 + 1e-4 * want.abs();
            ensure(near, || format!("row {row}: log-probability {value} of token {id}, expected {want}"))?;
        }
    }
    Ok(())
}

fn forced(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let vocab = model.info().vocab as i32;
    let rows: Vec<Row> = (0..ROWS as i32)
        .map(|i| Row {
            forced: (i * 37) % vocab,
            temperature: 0.1 * i as f32,
            mask: u32::from(i % 2 == 0),
            ..Row::default()
        })
        .collect();
    // The mask allows nothing, and still the forced token is the result.
    let nothing = vec![0; vocab.unsigned_abs().div_ceil(32) as usize];
    run(model, 4, &Sampling { rows: &rows, masks: &nothing, ..Sampling::default() })?;
    Ok(())
}

fn biases(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let plain = run(model, 5, &Sampling { rows: &[Row::default(); ROWS], ..Sampling::default() })?;
    // Row i: a token of its own lifted over all others; and the best one pushed below the second.
    let (mut bias_token, mut bias_value, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (i, logits) in plain.logits.iter().enumerate() {
        let best = plain.tokens[i] as usize;
        let spread = logits.iter().map(|logit| logits[best] - logit).fold(0.0, f32::max);
        rows.push(Row { bias: bias_token.len() as u32, n_bias: 2, ..Row::default() });
        match i % 2 {
            0 => {
                bias_token.extend([i as u32, best as u32]);
                bias_value.extend([spread + 1.0, 0.25]);
            }
            _ => {
                bias_token.extend([best as u32, (best as u32 + 1) % model.info().vocab]);
                bias_value.extend([-spread - 1.0, -0.5]);
            }
        }
    }
    let sampling =
        Sampling { rows: &rows, bias_token: &bias_token, bias_value: &bias_value, ..Sampling::default() };
    let biased = run(model, 5, &sampling)?;
    for i in 0..ROWS {
        let moved =
            if i % 2 == 0 { biased.tokens[i] == i as i32 } else { biased.tokens[i] != plain.tokens[i] };
        ensure(moved, || format!("row {i} gave {}, without biases {}", biased.tokens[i], plain.tokens[i]))?;
    }
    Ok(())
}

fn masks(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let vocab = model.info().vocab;
    let words = vocab.div_ceil(32) as usize;
    // One mask a row: its edges, two tokens, all, none.
    let allowed: [&[u32]; 5] = [&[0], &[31.min(vocab - 1)], &[vocab - 1], &[7, 19], &[]];
    let mut masks = vec![0_u32; (allowed.len() + 1) * words];
    for (n, tokens) in allowed.iter().enumerate() {
        for &token in *tokens {
            masks[n * words + token as usize / 32] |= 1 << (token % 32);
        }
    }
    masks[allowed.len() * words..].fill(u32::MAX);
    let rows: Vec<Row> = (0..ROWS as u32)
        .map(|i| Row {
            mask: i % 7,
            temperature: if i < 7 { 0.0 } else { 1.0 },
            seed: u64::from(i),
            ..Row::default()
        })
        .collect();
    let ran = run(model, 6, &Sampling { rows: &rows, masks: &masks, ..Sampling::default() })?;
    ensure(ran.tokens[5] == -1, || format!("a mask that allows nothing gave {}", ran.tokens[5]))?;
    ensure(ran.tokens[1] == 0, || format!("a mask that allows token 0 gave {}", ran.tokens[1]))
}

/// Tokens seen before, so that a row's best ones are among them: `(token, count)` per row.
fn seen(plain: &Ran, vocab: u32) -> (Vec<u32>, Vec<u32>) {
    let best = |i: usize| plain.tokens[i] as u32;
    (0..ROWS)
        .flat_map(|i| [(best(i), i as u32 % 4), ((best(i) + 1) % vocab, 0), ((best(i) + 5) % vocab, 2)])
        .unzip()
}

fn penalties(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let plain = run(model, 7, &Sampling { rows: &[Row::default(); ROWS], ..Sampling::default() })?;
    let (seen_token, seen_count) = seen(&plain, model.info().vocab);
    let base = Row { n_seen: 3, ..Row::default() };
    let kinds = [
        Row { repetition: 1.3, ..base },
        Row { repetition: 50.0, ..base },
        Row { repetition: 0.5, ..base },
        Row { presence: 1.5, ..base },
        Row { presence: 1e4, ..base },
        Row { frequency: 1.0, ..base },
        Row { frequency: 1e4, ..base },
        Row { frequency: -2.0, presence: 0.5, repetition: 1.1, ..base },
    ];
    let mut moved = 0;
    for kind in kinds {
        let rows: Vec<Row> = (0..ROWS as u32).map(|i| Row { seen: 3 * i, ..kind }).collect();
        let sampling =
            Sampling { rows: &rows, seen_token: &seen_token, seen_count: &seen_count, ..Sampling::default() };
        let ran = run(model, 7, &sampling)?;
        moved += ran.tokens.iter().zip(&plain.tokens).filter(|(a, b)| a != b).count();
    }
    ensure(moved > 0, || "no penalty changed any token".to_owned())
}

fn ties(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    // Beside 1e9 an f32 has no room for a logit.
    let (bias_token, bias_value) = ([3, 9, 17, 21, 30], [1e9; 5]);
    let rows: Vec<Row> = (0..ROWS as u32)
        .map(|i| Row {
            seed: u64::from(i),
            temperature: 1.0,
            top_k: 1 + i % 4,
            top_p: if i % 2 == 0 { 1.0 } else { 0.5 },
            n_bias: 5,
            ..Row::default()
        })
        .collect();
    let sampling =
        Sampling { rows: &rows, bias_token: &bias_token, bias_value: &bias_value, ..Sampling::default() };
    run(model, 22, &sampling)?;
    Ok(())
}

/// Parameters that look random, all of them in use somewhere.
fn shaped(i: u64) -> Row {
    Row {
        seed: i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i,
        temperature: [0.5, 1.0, 1.7, 4.0][(i % 4) as usize],
        top_k: [0, 1, 3, 20, 1_000_000][(i % 5) as usize],
        top_p: [1.0, 0.9, 0.5, 0.05, 0.999, 0.7, 1.0][(i % 7) as usize],
        min_p: [0.0, 0.0, 0.05, 0.5][(i / 4 % 4) as usize],
        ..Row::default()
    }
}

fn draws(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    for round in 0..10 {
        let rows: Vec<Row> = (0..ROWS as u64).map(|i| shaped(round * ROWS as u64 + i)).collect();
        run(model, 8 + round as u32, &Sampling { rows: &rows, ..Sampling::default() })?;
    }
    // Seeds at the ends of their range.
    let rows: Vec<Row> = (0..ROWS as u64)
        .map(|i| Row { seed: if i % 2 == 0 { i } else { u64::MAX - i }, temperature: 3.0, ..Row::default() })
        .collect();
    run(model, 20, &Sampling { rows: &rows, ..Sampling::default() })?;
    Ok(())
}

fn mixed(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let vocab = model.info().vocab;
    let plain = run(model, 21, &Sampling { rows: &[Row::default(); ROWS], ..Sampling::default() })?;
    let (seen_token, seen_count) = seen(&plain, vocab);
    let words = vocab.div_ceil(32) as usize;
    let masks: Vec<u32> =
        (0..2 * words).map(|word| if word < words { 0x5555_5555 } else { 0x0f0f_0f0f }).collect();
    let bias_token: Vec<u32> = (0..8).map(|i| i * 3 % vocab).collect();
    let bias_value: Vec<f32> = (0..8).map(|i| i as f32 - 3.0).collect();
    let rows: Vec<Row> = (0..ROWS as u32)
        .map(|i| Row {
            temperature: if i % 3 == 0 { 0.0 } else { 0.7 + i as f32 * 0.1 },
            repetition: 1.2,
            frequency: 0.3,
            presence: 0.2,
            seen: 3 * i,
            n_seen: 3 * (i % 2),
            bias: i % 4,
            n_bias: i % 5,
            mask: i % 3,
            forced: if i == 5 { 3 } else { -1 },
            ..shaped(u64::from(i) + 1000)
        })
        .collect();
    let sampling = Sampling {
        rows: &rows,
        bias_token: &bias_token,
        bias_value: &bias_value,
        seen_token: &seen_token,
        seen_count: &seen_count,
        masks: &masks,
    };
    run(model, 21, &sampling)?;
    Ok(())
}
