//! Answers of schedulers and samplers, right and wrong, applied by an engine. No sandbox is in between: whatever a
//! component can answer arrives as the same columns, and a thousand times a second.

use tokenmill_engine::Samplers;
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler};
use tokenmill_policy::schedule::{self, Order, Scheduler};
use tokenmill_policy::{Error, Fcfs, Named, Within, sample};

use crate::bytes::Bytes;
use crate::engine::{self, SAMPLER, Scene, VOCAB};

/// Parts of an answer at most.
const PARTS: usize = 6;

pub(crate) fn run(input: &[u8]) {
    let bytes = Bytes::new(input);
    let scene = Scene::read(&bytes);
    let (scheduling, kind) = (bytes.yes(), bytes.byte());
    // Rare, so that what was found without a form is found again.
    let (enforcing, form) = (kind % 2 == 1, kind >= 0xe0);
    let made = |bytes: &Bytes| {
        let made = Box::new(Made { bytes: bytes.clone() });
        let sampler: Box<dyn Sampler> =
            if form { Box::new(Within::new(Box::new(Even), made, enforcing, VOCAB)) } else { made };
        Named { name: SAMPLER.into(), sampler, enforcing: enforcing || form }
    };
    let mut samplers = Samplers::default();
    samplers.add(made(&bytes));
    let scheduler: Box<dyn Scheduler> = match scheduling {
        true => Box::new(MadeScheduler { bytes: bytes.clone(), fcfs: Fcfs::default() }),
        false => Box::new(Fcfs::default()),
    };
    let swapped = bytes.clone();
    engine::play(&scene, scheduler, samplers, form, move || made(&swapped));
}

/// A form of the output: even tokens, and no more than four of them.
struct Even;

impl Sampler for Even {
    fn plan(&mut self, view: &dyn sample::View, knobs: &mut Knobs) -> Result<(), Error> {
        for (row, &generated) in view.generated().iter().enumerate() {
            match generated {
                0..4 => knobs.allow.push((row as u32, [0x5555_5555, 0x55].into())),
                _ => knobs.inspect.push(row as u32),
            }
        }
        Ok(())
    }

    fn pick(
        &mut self,
        _: &dyn sample::View,
        _: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        choices.finish.extend(rows);
        Ok(())
    }
}

/// Answers with what comes next in the input, and decides nothing when it ends.
struct Made {
    bytes: Bytes,
}

impl Made {
    fn knob(&self, rows: usize, knobs: &mut Knobs) -> Result<(), Error> {
        let bytes = &self.bytes;
        let row = bytes.index(rows);
        match bytes.below(12) {
            0 => knobs.temperature.push((row, bytes.float())),
            1 => knobs.top_k.push((row, bytes.index(VOCAB as usize))),
            2 => knobs.top_p.push((row, bytes.float())),
            3 => knobs.min_p.push((row, bytes.float())),
            4 => knobs.bias.push((row, bytes.index(VOCAB as usize), bytes.float())),
            5 => knobs.allow.push((row, (0..1 + bytes.below(3)).map(|_| bytes.word()).collect())),
            6 => knobs.inspect.push(row),
            7 => knobs.inspect.extend(0..rows as u32),
            8 => knobs.undecided.push(row),
            9 => knobs.refuse.push((row, "it does not like the request".into())),
            10 => return Err(Error::Undecided("no".into())),
            _ => {}
        }
        Ok(())
    }

    fn choice(&self, rows: &[u32], logits: &mut dyn Logits, choices: &mut Choices) -> Result<(), Error> {
        let bytes = &self.bytes;
        let place = bytes.index(rows.len());
        let row = rows.get(place as usize).copied().unwrap_or(place);
        match bytes.below(11) {
            0 | 1 => choices.accept.push((row, bytes.index(VOCAB as usize))),
            2 => choices.defer.push(row),
            3 => choices.finish.push(row),
            4 => choices.undecided.push(row),
            5 => {
                choices.accept.extend(logits.top_k(row, bytes.index(4))?.0.iter().map(|&token| (row, token)))
            }
            6 => drop(logits.read(row)?.len()),
            7 => drop(logits.gather(row, &[bytes.index(VOCAB as usize)])?),
            8 => assert!(logits.entropy(row)? >= 0.0),
            9 => return Err(Error::Undecided("no".into())),
            _ => choices.defer.extend(rows),
        }
        Ok(())
    }
}

impl Sampler for Made {
    fn plan(&mut self, view: &dyn sample::View, knobs: &mut Knobs) -> Result<(), Error> {
        engine::check_rows(view);
        let rows = view.ids().len();
        (0..self.bytes.below(PARTS)).try_for_each(|_| self.knob(rows, knobs))
    }

    fn pick(
        &mut self,
        _: &dyn sample::View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        if self.bytes.at_end() {
            choices.defer.extend(rows);
            return Ok(());
        }
        (0..self.bytes.below(PARTS)).try_for_each(|_| self.choice(rows, logits, choices))
    }
}

/// Orders what comes next in the input, and then first come, first served.
struct MadeScheduler {
    bytes: Bytes,
    fcfs: Fcfs,
}

impl Scheduler for MadeScheduler {
    fn plan(&mut self, view: &dyn schedule::View, order: &mut Order) -> Result<(), Error> {
        let bytes = &self.bytes;
        let sequences = view.ids().len();
        if bytes.at_end() {
            return self.fcfs.plan(view, order);
        }
        for _ in 0..bytes.below(PARTS) {
            let index = bytes.index(sequences);
            match bytes.below(8) {
                0..=3 => order.run(&[index], &[bytes.index(64)]),
                4 => order.run(&[index], &[view.pending().get(index as usize).copied().unwrap_or(1)]),
                5 => order.reject(&[index]),
                6 => order.tokens.push(1),
                _ => return Err(Error::Undecided("no".into())),
            }
        }
        Ok(())
    }
}
