//! The forward pass: the same sequence gives the same logits however it is batched, chunked and paged.

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Error, Load, Model, Sampling};

use crate::Body;
use crate::subject::{BLOCK, Ran, Seq, Step, Stop, Subject, ensure, finish, forward, prompt, run, start};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("a ragged batch gives each sequence what it gets alone", ragged),
    ("rows may repeat and come in any order", rows),
    ("a prompt in chunks gives what it gives at once", chunks),
    ("which blocks a sequence has does not matter", block_ids),
    ("blocks beyond the last position are allowed", spare_blocks),
    ("the block size does not matter", block_sizes),
    ("a step computes anew what the blocks held before", overwritten),
    ("a block may go to another sequence in the next step", handed_on),
    ("copies are whole, in order, before the step, and independent after", copies),
    ("references give what explicit tokens give", references),
    ("a reference may be to a step that is released", released_references),
    ("references may cross sequences and repeat", crossed_references),
    ("two models of one backend are independent", two_models),
    ("two ranks that share the layers give what one gives", shared_layers),
    ("two ranks that follow each other give what one gives", stages),
];

/// Blocks of the n-th sequence of a check: enough for 64 positions.
fn blocks(n: u32) -> [u32; 4] {
    [0, 1, 2, 3].map(|i| n * 4 + i)
}

fn prompts(model: &Model) -> [Vec<i32>; 4] {
    [prompt(model, 1, 1), prompt(model, 2, 5), prompt(model, 3, 17), prompt(model, 4, 32)]
}

fn ragged(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let seqs: Vec<Seq> =
        (0..).zip(prompts(model)).map(|(n, tokens)| Seq::new(&tokens, 0, &blocks(n))).collect();
    let together = forward(model, &seqs)?;
    for (i, seq) in seqs.iter().enumerate() {
        let alone = forward(model, std::slice::from_ref(seq))?;
        subject.same(model, &format!("sequence {i}"), &together.logits[i], &alone.logits[0])?;
    }
    // Decoding beside a prompt.
    let next = prompt(model, 5, 1);
    let mixed = [Seq::new(&next, 17, &blocks(2)), Seq::new(&prompt(model, 6, 9), 0, &blocks(5))];
    let together = forward(model, &mixed)?;
    for (i, seq) in mixed.iter().enumerate() {
        let alone = forward(model, std::slice::from_ref(seq))?;
        subject.same(model, &format!("mixed sequence {i}"), &together.logits[i], &alone.logits[0])?;
    }
    Ok(())
}

fn rows(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 1, 20);
    let all = forward(model, &[Seq::new(&tokens, 0, &blocks(0)).all_rows()])?;
    let picked = [19, 3, 19, 0, 3, 7];
    let mut seq = Seq::new(&tokens, 0, &blocks(1));
    seq.rows = picked.to_vec();
    let some = forward(model, &[seq])?;
    for (i, &row) in picked.iter().enumerate() {
        subject.same(
            model,
            &format!("row {i} at token {row}"),
            &some.logits[i],
            &all.logits[row as usize],
        )?;
    }
    ensure(some.logits[0] == some.logits[2], || "two rows of one token differ".to_owned())?;
    // A step without rows only fills the cache.
    let mut silent = Seq::new(&tokens, 0, &blocks(2));
    silent.rows.clear();
    let none = forward(model, &[silent])?;
    ensure(none.tokens.is_empty(), || "a step without rows has results".to_owned())?;
    let next = prompt(model, 2, 1);
    let a = forward(model, &[Seq::new(&next, 20, &blocks(0)), Seq::new(&next, 20, &blocks(2))])?;
    subject.same(model, "after a step without rows", &a.logits[0], &a.logits[1])
}

fn chunks(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 7, 40);
    let once = forward(model, &[Seq::new(&tokens, 0, &blocks(0)).all_rows().tail(32)])?;
    for size in [1, 5, 16, 23, 32] {
        let mut rows = Ran { tokens: Vec::new(), logprobs: Vec::new(), logits: Vec::new() };
        for (i, chunk) in tokens.chunks(size).enumerate() {
            let ran = forward(model, &[Seq::new(chunk, (i * size) as u32, &blocks(1)).all_rows()])?;
            rows.logits.extend(ran.logits);
        }
        subject.all_same(model, &format!("chunks of {size}"), &once.logits, &rows.logits[8..])?;
    }
    Ok(())
}

impl Seq {
    /// Keeps the last `n` rows.
    fn tail(mut self, n: usize) -> Self {
        self.rows.drain(..self.rows.len() - n);
        self
    }
}

fn block_ids(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 8, 40);
    let last = model.info().n_blocks - 1;
    let once = forward(model, &[Seq::new(&tokens, 0, &[0, 1, 2]).all_rows().tail(8)])?;
    for ids in [[2, 1, 0], [17, 3, 9], [last, 0, last - 1]] {
        let again = forward(model, &[Seq::new(&tokens, 0, &ids).all_rows().tail(8)])?;
        subject.all_same(model, &format!("blocks {ids:?}"), &once.logits, &again.logits)?;
    }
    // Two sequences whose blocks lie between each other's, in two steps.
    let other = prompt(model, 25, 40);
    let (ours, theirs) = ([6, 4, 8], [5, 7, 3]);
    forward(model, &[Seq::new(&tokens[..20], 0, &ours), Seq::new(&other[..30], 0, &theirs)])?;
    let rest = [Seq::new(&other[30..], 30, &theirs), Seq::new(&tokens[20..], 20, &ours).all_rows().tail(8)];
    let again = forward(model, &rest)?;
    subject.all_same(model, "interleaved blocks", &once.logits, &again.logits[1..])
}

fn spare_blocks(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 9, 5);
    let few = forward(model, &[Seq::new(&tokens, 0, &[0])])?;
    let many = forward(model, &[Seq::new(&tokens, 0, &[4, 5, 6]), Seq::new(&tokens, 0, &[7, 8])])?;
    subject.same(model, "three blocks", &few.logits[0], &many.logits[0])?;
    subject.same(model, "two blocks", &few.logits[0], &many.logits[1])
}

fn block_sizes(subject: &Subject<'_>) -> Result<(), Stop> {
    let usual = &mut subject.load()?;
    let tokens = prompt(usual, 10, 40);
    let once = forward(usual, &[Seq::new(&tokens, 0, &blocks(0)).all_rows().tail(8)])?;
    let mut refused = Vec::new();
    for size in [1, 2, 8, 32, 64, 128, 256] {
        let model = &mut match subject.backend.load(&Load { block_tokens: size, ..subject.request() }) {
            Err(Error::Unsupported(_)) => {
                refused.push(size);
                continue;
            }
            other => other?,
        };
        let n = 40_u32.div_ceil(size);
        let ids: Vec<u32> = (0..n).rev().collect();
        let first = forward(model, &[Seq::new(&tokens[..33], 0, &ids)])?;
        let rest = forward(model, &[Seq::new(&tokens[33..], 33, &ids).all_rows()])?;
        subject.same(model, &format!("block_tokens {size}"), &once.logits[0], &first.logits[0])?;
        subject.all_same(model, &format!("block_tokens {size}"), &once.logits[1..], &rest.logits)?;
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Stop::Skip(format!("block_tokens {refused:?} are unsupported")))
    }
}

fn overwritten(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 11, 30);
    let first = forward(model, &[Seq::new(&tokens, 0, &blocks(0))])?;
    // Another sequence, longer, in the same blocks; then the first from its middle on, after its beginning again.
    forward(model, &[Seq::new(&prompt(model, 12, 44), 0, &blocks(0))])?;
    forward(model, &[Seq::new(&tokens[..11], 0, &blocks(0))])?;
    let again = forward(model, &[Seq::new(&tokens[11..], 11, &blocks(0))])?;
    subject.all_same(model, "computed again", &first.logits, &again.logits)
}

/// Two steps in flight: the second gives the blocks of the first one's sequence to another.
fn handed_on(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let (a, b) = (prompt(model, 13, 30), prompt(model, 14, 30));
    let alone = forward(model, &[Seq::new(&a, 0, &blocks(0)), Seq::new(&b, 0, &blocks(1))])?;
    let first = start(model, &Step::new(&[Seq::new(&a, 0, &blocks(2))]))?;
    let second = start(model, &Step::new(&[Seq::new(&b, 0, &blocks(2))]))?;
    let first = finish(model, first, 1)?;
    let second = finish(model, second, 1)?;
    subject.same(model, "the step before", &alone.logits[0], &first.logits[0])?;
    subject.same(model, "the step after", &alone.logits[1], &second.logits[0])
}

fn copies(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 15, 24);
    forward(model, &[Seq::new(&tokens[..20], 0, &[0, 1])])?;
    let plain = forward(model, &[Seq::new(&tokens[20..], 20, &[0, 1]).all_rows()])?;

    // Block 1 goes to 5 by way of 4; both sequences then write their own tokens at the same positions.
    forward(model, &[Seq::new(&tokens[..20], 0, &[0, 1])])?;
    let other = prompt(model, 16, 4);
    let mut step = Step::new(&[
        Seq::new(&other, 20, &[0, 1]).all_rows(),
        Seq::new(&tokens[20..], 20, &[0, 5]).all_rows(),
    ]);
    step.copies = vec![(1, 4), (4, 5)];
    let forked = run(model, &step)?;
    subject.all_same(model, "the copy", &plain.logits, &forked.logits[4..])?;

    // The block between was a copy too, and nothing has written to it since.
    let between = forward(model, &[Seq::new(&tokens[20..], 20, &[0, 4]).all_rows()])?;
    subject.all_same(model, "the copy between", &plain.logits, &between.logits)?;

    // A copy undone: 5 gets what 1 holds now.
    let mut step = Step::new(&[Seq::new(&prompt(model, 17, 1), 24, &[0, 5])]);
    step.copies = vec![(1, 5)];
    let copied = run(model, &step)?;
    let original = forward(model, &[Seq::new(&prompt(model, 17, 1), 24, &[0, 1])])?;
    subject.all_same(model, "the second copy", &original.logits, &copied.logits)
}

/// Greedy decoding of two sequences, two steps in flight, against one step at a time.
fn references(subject: &Subject<'_>) -> Result<(), Stop> {
    const STEPS: u32 = 20;
    let model = &mut subject.load()?;
    let prompts = [prompt(model, 18, 13), prompt(model, 19, 6)];
    let begin = |n: u32| {
        (0..).zip(&prompts).map(|(i, tokens)| Seq::new(tokens, 0, &blocks(n + i))).collect::<Vec<_>>()
    };
    let next = |n: u32, step: u32, tokens: [i32; 2]| {
        (0..)
            .zip(&prompts)
            .map(|(i, prompt)| Seq::new(&[tokens[i as usize]], prompt.len() as u32 + step, &blocks(n + i)))
            .collect::<Vec<_>>()
    };
    let mut plain = vec![forward(model, &begin(0))?];
    for step in 0..STEPS {
        let tokens = [plain[step as usize].tokens[0], plain[step as usize].tokens[1]];
        plain.push(forward(model, &next(0, step, tokens))?);
    }

    let mut running = start(model, &Step::new(&begin(2)))?;
    for step in 0..=STEPS {
        let following = match step {
            STEPS => None,
            _ => Some(start(model, &Step::new(&next(2, step, [-1, -2])))?),
        };
        let ran = finish(model, running, 2)?;
        let expected = &plain[step as usize];
        subject.all_same(model, &format!("step {step}"), &expected.logits, &ran.logits)?;
        if ran.tokens != expected.tokens {
            // Only a near tie may fall either way; what follows is then another text.
            for (logits, (a, b)) in expected.logits.iter().zip(expected.tokens.iter().zip(&ran.tokens)) {
                let pair = [logits[*a as usize], logits[*b as usize]];
                subject.tie(model, logits, pair, &format!("step {step}"))?;
            }
            break;
        }
        let Some(following) = following else { break };
        running = following;
    }
    Ok(())
}

impl Subject<'_> {
    /// Whether two logits of a row are as close as computing them twice may bring them.
    fn tie(&self, model: &Model, logits: &[f32], pair: [f32; 2], what: &str) -> Result<(), Stop> {
        let moved: Vec<f32> = logits.iter().map(|logit| logit + (pair[0] - pair[1]).abs() / 2.0).collect();
        self.same(model, &format!("{what} sampled other tokens"), logits, &moved)
    }
}

fn released_references(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let tokens = prompt(model, 29, 5);
    let explicit = {
        let first = forward(model, &[Seq::new(&tokens, 0, &[0])])?;
        forward(model, &[Seq::new(&first.tokens, 5, &[0])])?
    };
    for wait in [true, false] {
        let first = start(model, &Step::new(&[Seq::new(&tokens, 0, &[1])]))?;
        if wait {
            finish(model, first, 1)?;
        }
        model.release(first);
        let referred = forward(model, &[Seq::new(&[-1], 5, &[1])])?;
        subject.all_same(model, "after release", &explicit.logits, &referred.logits)?;
    }
    Ok(())
}

/// One sequence forks into three rows' worth of continuations; another takes its neighbour's token.
fn crossed_references(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let (a, b) = (prompt(model, 20, BLOCK as usize), prompt(model, 21, BLOCK as usize));
    let begin = Step::new(&[Seq::new(&a, 0, &[0]), Seq::new(&b, 0, &[1])]);
    // Forced, so that the two tokens differ.
    let first = model.submit(&begin.batch())?;
    let rows = [11, 23].map(|forced| Row { forced, ..Row::default() });
    model.sample(first, &Sampling { rows: &rows, ..Sampling::default() })?;
    // Row 1 into both sequences, and twice into one: the last is row 0.
    let crossed = start(
        model,
        &Step::new(&[Seq::new(&[-2, -1, -2], BLOCK, &[0, 2]).all_rows(), Seq::new(&[-2], BLOCK, &[1, 3])]),
    )?;
    finish(model, first, 2)?;
    let crossed = finish(model, crossed, 4)?;
    let (row0, row1) = (11, 23);
    let explicit = forward(
        model,
        &[Seq::new(&[row1, row0, row1], BLOCK, &[0, 2]).all_rows(), Seq::new(&[row1], BLOCK, &[1, 3])],
    )?;
    subject.all_same(model, "crossed", &explicit.logits, &crossed.logits)
}

fn two_models(subject: &Subject<'_>) -> Result<(), Stop> {
    let (one, two) = (&mut subject.load()?, &mut subject.load()?);
    let (a, b) = (prompt(one, 22, 20), prompt(one, 23, 20));
    let next = prompt(one, 24, 1);
    let alone = {
        forward(one, &[Seq::new(&a, 0, &blocks(0))])?;
        forward(one, &[Seq::new(&next, 20, &blocks(0))])?
    };
    forward(one, &[Seq::new(&a, 0, &blocks(0))])?;
    forward(two, &[Seq::new(&b, 0, &blocks(0))])?;
    let first = start(one, &Step::new(&[Seq::new(&next, 20, &blocks(0))]))?;
    let second = start(two, &Step::new(&[Seq::new(&next, 20, &blocks(0))]))?;
    finish(two, second, 1)?;
    let beside = finish(one, first, 1)?;
    subject.all_same(one, "beside another model", &alone.logits, &beside.logits)
}

fn shared_layers(subject: &Subject<'_>) -> Result<(), Stop> {
    ranks(subject, &Load { devices: &[0, 0], tensor_parallel: 2, ..subject.request() })
}

fn stages(subject: &Subject<'_>) -> Result<(), Stop> {
    ranks(subject, &Load { devices: &[0, 0], tensor_parallel: 1, ..subject.request() })
}

fn ranks(subject: &Subject<'_>, load: &Load<'_>) -> Result<(), Stop> {
    let one = &mut subject.load()?;
    let many = &mut match subject.backend.load(load) {
        Err(Error::Unsupported(why)) => return Err(Stop::Skip(why)),
        other => other?,
    };
    let (a, b) = (prompt(one, 26, 25), prompt(one, 27, 10));
    let next = prompt(one, 28, 2);
    let mut steps = [
        Step::new(&[Seq::new(&a, 0, &blocks(0)), Seq::new(&b, 0, &blocks(1))]),
        Step::new(&[Seq::new(&next[..1], 25, &blocks(2)), Seq::new(&next[1..], 10, &blocks(1))]),
    ];
    steps[1].copies = vec![(0, 8), (1, 9)];
    for step in &steps {
        let (expected, ran) = (run(one, step)?, run(many, step)?);
        subject.all_same(one, "two ranks", &expected.logits, &ran.logits)?;
        subject.all_same(one, "log-probabilities of two ranks", &[expected.logprobs], &[ran.logprobs])?;
    }
    Ok(())
}
