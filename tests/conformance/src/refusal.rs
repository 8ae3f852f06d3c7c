//! Arguments that break the contract: refused with the name of the column, and nothing has changed.

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Error, Model, Sampling};

use crate::Body;
use crate::subject::{BLOCK, MAX_ROWS, MAX_SEQS, MAX_TOKENS, Seq, Step, Stop, Subject, ensure, prompt, run};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("a wrong step is refused by column and changes nothing", steps),
    ("whatever the columns hold, a step is run or refused", garbage),
    ("a wrong reference is refused and changes nothing", wrong_references),
    ("wrong sampling is refused by column and can be repeated rightly", sampling),
    ("rows and k out of range are refused", rows),
];

/// What is wrong, the column that the message must name, and how a good step becomes that.
type Spoil = (&'static str, &'static str, fn(&mut Step, &Model));

const STEPS: &[Spoil] = &[
    ("a token beyond the vocabulary", "tokens", |step, model| step.tokens[7] = model.info().vocab as i32),
    ("the largest token", "tokens", |step, _| step.tokens[0] = i32::MAX),
    ("a block that is not there", "blocks", |step, model| step.blocks[1] = model.info().n_blocks),
    ("the largest block", "blocks", |step, _| step.blocks[0] = u32::MAX),
    ("a sequence that starts before the one before", "seq_start", |step, _| step.seq_start[1] = 60),
    ("a sequence without tokens", "seq_start", |step, _| step.seq_start[1] = 0),
    ("a first sequence that starts late", "seq_start", |step, _| step.seq_start[0] = 1),
    ("blocks that start before the ones before", "block_start", |step, _| step.block_start[1] = 9),
    ("blocks that start late", "block_start", |step, _| step.block_start[0] = 1),
    ("fewer blocks than positions", "block", |step, _| step.seq_pos[0] = BLOCK),
    ("a position beyond the context", "seq_pos", |step, model| step.seq_pos[1] = model.info().max_context),
    ("the largest position", "seq_pos", |step, _| step.seq_pos[1] = u32::MAX),
    ("a row without a token", "rows", |step, _| step.rows[0] = step.tokens.len() as u32),
    ("too many rows", "rows", |step, _| step.rows = vec![0; MAX_ROWS as usize + 1]),
    ("a copy from no block", "copies", |step, model| step.copies = vec![(0, 1), (model.info().n_blocks, 1)]),
    ("a copy to no block", "copies", |step, _| step.copies = vec![(0, u32::MAX)]),
    ("a copy onto itself", "copies", |step, _| step.copies = vec![(4, 5), (3, 3)]),
    ("a block that two sequences write", "blocks", |step, _| step.blocks[1] = step.blocks[0]),
    ("too many tokens", "tokens", |step, model| {
        let tokens = prompt(model, 1, MAX_TOKENS as usize + 1);
        let blocks: Vec<u32> = (0..=MAX_TOKENS / BLOCK).collect();
        *step = Step::new(&[Seq::new(&tokens, 0, &blocks)]);
    }),
    ("too many sequences", "seqs", |step, _| {
        *step = Step::new(&(0..=MAX_SEQS).map(|n| Seq::new(&[1], 0, &[n])).collect::<Vec<_>>());
    }),
    ("no sequence", "seqs", |step, _| *step = Step::new(&[])),
];

fn good(model: &Model) -> Step {
    Step::new(&[Seq::new(&prompt(model, 1, 16), 0, &[0]), Seq::new(&prompt(model, 2, 20), 0, &[1, 2])])
}

fn steps(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let good = good(model);
    let expected = run(model, &good)?;
    let follow = Step::new(&[Seq::new(&[1], 16, &[0, 5]), Seq::new(&[2], 20, &[1, 2])]);
    let followed = run(model, &follow)?;
    for &(what, column, spoil) in STEPS {
        let mut step = good.clone();
        spoil(&mut step, model);
        invalid(what, column, model.submit(&step.batch()))?;
        // The KV is as it was, not only the next step.
        let after = run(model, &follow)?;
        subject.all_same(model, what, &followed.logits, &after.logits)?;
    }
    let again = run(model, &good)?;
    subject.all_same(model, "after all refusals", &expected.logits, &again.logits)
}

/// A good step with one entry of one column replaced, many times.
fn garbage(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let good = good(model);
    let expected = run(model, &good)?;
    let info = model.info().clone();
    let values = [
        0,
        1,
        2,
        3,
        BLOCK,
        info.n_blocks - 1,
        info.n_blocks,
        info.vocab,
        info.max_context,
        1 << 31,
        u32::MAX,
    ];
    for n in 0..400 {
        let mut step = good.clone();
        step.copies = vec![(3, 4), (5, 6)];
        let value = values[n / 6 % values.len()];
        match n % 6 {
            0 => step.seq_start[n / 6 % 2] = value,
            1 => step.block_start[n / 6 % 2] = value,
            2 => step.seq_pos[n / 66 % 2] = value,
            3 => step.blocks[n / 66 % 3] = value,
            4 => step.rows[n / 66 % 2] = value,
            _ => step.copies[n / 66 % 2].1 = value,
        }
        step.tokens[n % 36] = if n % 7 == 0 { value as i32 } else { 1 };
        match model.submit(&step.batch()) {
            Ok(ticket) => model.release(ticket),
            Err(Error::Invalid(_)) => {}
            Err(other) => return Err(Stop::Fail(format!("{other} for {step:?}"))),
        }
    }
    let again = run(model, &good)?;
    subject.all_same(model, "after all of it", &expected.logits, &again.logits)
}

fn wrong_references(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let refer = |row: i32| Step::new(&[Seq::new(&[-1 - row], 16, &[0, 4])]);
    invalid("a reference in the first step", "tokens", model.submit(&refer(0).batch()))?;
    let good = good(model);
    let expected = run(model, &good)?;
    let ticket = model.submit(&good.batch())?;
    invalid("a reference to a step that is not sampled", "tokens", model.submit(&refer(0).batch()))?;
    model.sample(ticket, &Sampling { rows: &[Row::default(); 2], ..Sampling::default() })?;
    invalid("a reference to a row too many", "tokens", model.submit(&refer(2).batch()))?;
    invalid("the least reference", "tokens", model.submit(&refer(i32::MAX).batch()))?;
    let next = model.submit(&refer(1).batch())?;
    model.release(ticket);
    model.release(next);
    let again = run(model, &good)?;
    subject.all_same(model, "after all refusals", &expected.logits, &again.logits)
}

fn sampling(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let good = good(model);
    let expected = run(model, &good)?;
    let vocab = model.info().vocab;
    let masks = vec![u32::MAX; vocab.div_ceil(32) as usize];
    let plain = Row::default();
    let cases: [(&str, Row, &[u32], &[u32]); 10] = [
        ("bias", Row { n_bias: 2, ..plain }, &[1], &[]),
        ("bias", Row { bias: u32::MAX, n_bias: 2, ..plain }, &[1], &[]),
        ("bias_token", Row { n_bias: 1, ..plain }, &[vocab], &[]),
        ("seen", Row { seen: 1, n_seen: 1, ..plain }, &[], &[1]),
        ("seen_token", Row { n_seen: 1, ..plain }, &[], &[vocab]),
        ("mask", Row { mask: 2, ..plain }, &[], &[]),
        ("mask", Row { mask: u32::MAX, ..plain }, &[], &[]),
        ("forced", Row { forced: vocab as i32, ..plain }, &[], &[]),
        ("forced", Row { forced: -2, ..plain }, &[], &[]),
        ("temperature", Row { temperature: f32::NAN, ..plain }, &[], &[]),
    ];
    let ticket = model.submit(&good.batch())?;
    for (field, row, bias_token, seen_token) in cases {
        let all = Sampling {
            rows: &[plain, row],
            bias_token,
            bias_value: &vec![0.0; bias_token.len()],
            seen_token,
            seen_count: &vec![1; seen_token.len()],
            masks: &masks,
        };
        invalid(&format!("{field} of {row:?}"), field, model.sample(ticket, &all))?;
    }
    model.sample(ticket, &Sampling { rows: &[plain; 2], ..Sampling::default() })?;
    let ran = crate::subject::finish(model, ticket, 2)?;
    ensure(ran.tokens == expected.tokens, || format!("{:?}, expected {:?}", ran.tokens, expected.tokens))
}

fn rows(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let ticket = model.submit(&good(model).batch())?;
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for row in [2, u32::MAX] {
        invalid("topk", "row", model.top_k(ticket, row, 1, &mut ids, &mut values))?;
        invalid("logits", "row", model.logits(ticket, row).map(<[f32]>::len))?;
    }
    model.top_k(ticket, 1, 1, &mut ids, &mut values)?;
    Ok(())
}

fn invalid<T: std::fmt::Debug>(what: &str, named: &str, result: Result<T, Error>) -> Result<(), Stop> {
    match result {
        Err(Error::Invalid(text)) => {
            ensure(text.contains(named), || format!("{what}: {named} is not named in {text:?}"))
        }
        Err(other) => Err(Stop::Fail(format!("{what}: expected an invalid argument, got {other}"))),
        Ok(_) => Err(Stop::Fail(format!("{what} is accepted"))),
    }
}
