//! Tickets: their numbers, their order, and how long results live.

use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Error, Sampling, Ticket, Waited};

use crate::Body;
use crate::subject::{DEPTH, Seq, Step, Stop, Subject, ensure, finish, forward, prompt, run, start};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("tickets count 1, 2, 3, …", numbers),
    ("as many tickets as `depth` are alive, and not one more", depth),
    ("tickets may be released in any order, while they run, and twice", release),
    ("only the newest ticket is sampled, and once", sample_once),
    ("a step that is not sampled has logits and no results", unsampled),
    ("results stay until release", lasting),
    ("wait without patience ends at once, and may be asked again", impatient),
];

const ALWAYS: Duration = Duration::MAX;

fn numbers(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let step = Step::new(&[Seq::new(&prompt(model, 1, 3), 0, &[0])]);
    for number in 1..=5 {
        let ticket = start(model, &step)?;
        ensure(ticket == Ticket(number), || format!("step {number} has ticket {}", ticket.0))?;
        finish(model, ticket, 1)?;
    }
    Ok(())
}

fn depth(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let step = |n: u32| Seq::new(&[1, 2, 3], 0, &[n]);
    let mut alive = Vec::new();
    for n in 0..DEPTH {
        alive.push(start(model, &Step::new(&[step(n)]))?);
    }
    // Not running does not mean released.
    model.wait(alive[0], ALWAYS, &mut Vec::new(), &mut Vec::new())?;
    for _ in 0..2 {
        match model.submit(&Step::new(&[step(DEPTH)]).batch()) {
            Err(Error::Again(_)) => {}
            other => return Err(Stop::Fail(format!("ticket {} gave {other:?}", DEPTH + 1))),
        }
    }
    model.release(alive[0]);
    let ticket = start(model, &Step::new(&[step(DEPTH)]))?;
    ensure(ticket == Ticket(u64::from(DEPTH) + 1), || format!("a refused step took a number: {}", ticket.0))
}

fn release(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let seqs = [Seq::new(&prompt(model, 2, 12), 0, &[0])];
    let expected = forward(model, &seqs)?;
    let first = start(model, &Step::new(&seqs))?;
    let second = start(model, &Step::new(&[Seq::new(&prompt(model, 3, 12), 0, &[1])]))?;
    model.release(second);
    let ran = finish(model, first, 1)?;
    subject.all_same(model, "the older one", &expected.logits, &ran.logits)?;
    for _ in 0..3 * DEPTH {
        let running = start(model, &Step::new(&seqs))?;
        model.release(running);
        model.release(running);
    }
    model.release(Ticket(0));
    model.release(Ticket(1 << 60));
    let ran = run(model, &Step::new(&seqs))?;
    subject.all_same(model, "afterwards", &expected.logits, &ran.logits)
}

fn sample_once(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let step = |n: u32| Step::new(&[Seq::new(&[1, 2, 3], 0, &[n])]);
    let greedy = Sampling { rows: &[Row::default()], ..Sampling::default() };
    let first = model.submit(&step(0).batch())?;
    let second = model.submit(&step(1).batch())?;
    let refused = |what: &str, result: Result<(), Error>| match result {
        Err(Error::Invalid(_)) => Ok(()),
        other => Err(Stop::Fail(format!("{what}: {other:?}"))),
    };
    refused("sampling an older ticket", model.sample(first, &greedy))?;
    model.sample(second, &greedy)?;
    refused("sampling twice", model.sample(second, &greedy))?;
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    model.wait(second, ALWAYS, &mut tokens, &mut logprobs)?;
    ensure(tokens.len() == 1, || format!("{} results of one row", tokens.len()))
}

fn unsampled(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let seqs = [Seq::new(&prompt(model, 4, 7), 0, &[0])];
    let expected = forward(model, &seqs)?;
    let ticket = model.submit(&Step::new(&seqs).batch())?;
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    model.wait(ticket, ALWAYS, &mut tokens, &mut logprobs)?;
    ensure(tokens.is_empty(), || format!("{} results without sampling", tokens.len()))?;
    let logits = model.logits(ticket, 0)?.to_vec();
    subject.same(model, "before sampling", &expected.logits[0], &logits)?;
    // Waiting and looking do not use the one chance to sample up.
    model.sample(ticket, &Sampling { rows: &[Row::default()], ..Sampling::default() })?;
    let ran = finish(model, ticket, 1)?;
    ensure(ran.tokens.len() == 1, || "no result after sampling".to_owned())
}

fn lasting(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let ticket = start(model, &Step::new(&[Seq::new(&prompt(model, 5, 9), 0, &[0]).all_rows()]))?;
    let read = |model: &mut tokenmill_backend::Model| -> Result<_, Stop> {
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        model.wait(ticket, ALWAYS, &mut tokens, &mut logprobs)?;
        let mut logits = Vec::new();
        for row in [8, 0, 4] {
            logits.push(model.logits(ticket, row)?.to_vec());
        }
        Ok((tokens, logprobs, logits))
    };
    let before = read(model)?;
    for n in 0..4 {
        run(model, &Step::new(&[Seq::new(&prompt(model, 6 + n, 20), 0, &[0, 1]).all_rows()]))?;
    }
    let after = read(model)?;
    ensure(before == after, || "results changed while later steps ran".to_owned())
}

fn impatient(subject: &Subject<'_>) -> Result<(), Stop> {
    let model = &mut subject.load()?;
    let step = Step::new(&[Seq::new(&prompt(model, 10, 48), 0, &[0, 1, 2])]);
    let expected = run(model, &step)?;
    let ticket = start(model, &step)?;
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    let mut tries = 0_u64;
    // Grows, so that a slow device is not asked a billion times.
    while model.wait(ticket, Duration::from_nanos(tries * 1000), &mut tokens, &mut logprobs)?
        == Waited::TimedOut
    {
        ensure(tokens.is_empty(), || "a timeout came with results".to_owned())?;
        tries += 1;
    }
    ensure(tokens == expected.tokens, || format!("{tokens:?}, expected {:?}", expected.tokens))
}
