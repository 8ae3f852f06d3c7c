//! The interface `sample-host`: the view and the logits that are lent, and the answers that the guest writes.

use tokenmill_policy::sample::{Mask, Ragged};
use wasmtime::component::Resource;

use crate::contract::{sample_host, types};
use crate::error::{Failure, Reason};
use crate::handles::{Choices, Knobs, Logits, SampleView as View};
use crate::lend;
use crate::state::{MOST_ENTRIES, State};

/// Bytes of a refusal that its client is told.
const WHY: usize = 512;

impl sample_host::Host for State {}

macro_rules! column {
    ($name:ident, $ty:ty) => {
        fn $name(&mut self, _: Resource<View>) -> wasmtime::Result<Vec<$ty>> {
            lend::sample(|view| view.$name().to_vec())
        }
    };
}

impl sample_host::HostView for State {
    column!(ids, u64);
    column!(requests, u64);
    column!(positions, u32);
    column!(generated, u32);
    column!(remaining, u32);
    column!(scores, f32);
    column!(seeds, u64);
    column!(finished, u64);

    fn accepted(&mut self, _: Resource<View>) -> wasmtime::Result<types::Ragged> {
        lend::sample(|view| ragged(view.accepted()))
    }

    fn assumed(&mut self, _: Resource<View>) -> wasmtime::Result<types::Ragged> {
        lend::sample(|view| ragged(view.assumed()))
    }

    fn batch_update(&mut self) -> wasmtime::Result<Option<(Vec<u64>, Vec<u64>)>> {
        lend::sample(|view| {
            let (ids, finished) = (view.ids(), view.finished());
            if finished.is_empty() && self.batch == ids {
                return None;
            }
            self.batch.clear();
            self.batch.extend_from_slice(ids);
            Some((ids.to_vec(), finished.to_vec()))
        })
    }

    fn attribute(&mut self, _: Resource<View>, row: u32, key: String) -> wasmtime::Result<Option<String>> {
        self.within(row)?;
        lend::sample(|view| view.attribute(row as usize, &key).map(String::from))
    }

    fn stop_tokens(&mut self, _: Resource<View>, row: u32) -> wasmtime::Result<Vec<u32>> {
        self.within(row)?;
        lend::sample(|view| view.stop_tokens(row as usize).into_owned())
    }

    fn drop(&mut self, _: Resource<View>) -> wasmtime::Result<()> {
        Ok(())
    }
}

fn ragged(lists: Ragged<'_>) -> types::Ragged {
    types::Ragged { starts: lists.starts.to_vec(), values: lists.values.to_vec() }
}

impl sample_host::HostMask for State {
    fn new(&mut self, bits: Vec<u32>) -> wasmtime::Result<Resource<Mask>> {
        let words = self.services.vocab().div_ceil(32) as usize;
        if bits.len() != words {
            return Err(Failure::bad(format!("a mask of {} words for {words}", bits.len())).into());
        }
        let full = |_| Failure::new(Reason::Memory, "it holds more masks than it may");
        Ok(self.masks.push(Mask::from(bits)).map_err(full)?)
    }

    fn drop(&mut self, mask: Resource<Mask>) -> wasmtime::Result<()> {
        self.masks.delete(mask)?;
        Ok(())
    }
}

macro_rules! knob {
    ($name:ident, $what:literal, $ty:ty) => {
        fn $name(&mut self, _: Resource<Knobs>, rows: Vec<u32>, values: Vec<$ty>) -> wasmtime::Result<()> {
            if self.paired($what, rows.len(), values.len())? && self.known($what, &rows) {
                self.knobs.$name.extend(rows.into_iter().zip(values));
            }
            Ok(())
        }
    };
}

impl sample_host::HostKnobs for State {
    knob!(temperature, "temperature", f32);
    knob!(top_k, "top-k", u32);
    knob!(top_p, "top-p", f32);
    knob!(min_p, "min-p", f32);

    fn params(
        &mut self,
        temperature: Vec<f32>,
        top_k: Vec<u32>,
        top_p: Vec<f32>,
        min_p: Vec<f32>,
    ) -> wasmtime::Result<()> {
        // No handle says so.
        if !lend::planning() {
            return Err(Failure::bad("params are for plan to set").into());
        }
        let rows = self.len as usize;
        macro_rules! set {
            ($($name:ident),*) => {
                $(if !$name.is_empty() && self.paired(stringify!($name), rows, $name.len())? {
                    self.knobs.$name.extend((0..).zip($name));
                })*
            };
        }
        set!(temperature, top_k, top_p, min_p);
        Ok(())
    }

    fn bias(
        &mut self,
        _: Resource<Knobs>,
        row: u32,
        tokens: Vec<u32>,
        values: Vec<f32>,
    ) -> wasmtime::Result<()> {
        if self.paired("bias", tokens.len(), values.len())? && self.known("bias", &[row]) {
            self.knobs.bias.extend(tokens.into_iter().zip(values).map(|(token, value)| (row, token, value)));
        }
        Ok(())
    }

    fn allow(&mut self, _: Resource<Knobs>, row: u32, mask: Resource<Mask>) -> wasmtime::Result<()> {
        self.add(1)?;
        if self.known("allow", &[row]) {
            let mask = self.mask(&mask)?;
            self.knobs.allow.push((row, mask));
        }
        Ok(())
    }

    fn inspect(&mut self, _: Resource<Knobs>, rows: Vec<u32>) -> wasmtime::Result<()> {
        self.add(rows.len())?;
        if self.known("inspect", &rows) {
            self.knobs.inspect.extend(rows);
        }
        Ok(())
    }

    fn refuse(&mut self, _: Resource<Knobs>, row: u32, why: String) -> wasmtime::Result<()> {
        self.add(1 + WHY)?;
        if self.known("refuse", &[row]) {
            self.knobs.refuse.push((row, why.chars().take(WHY).collect()));
        }
        Ok(())
    }

    fn drop(&mut self, _: Resource<Knobs>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl sample_host::HostLogits for State {
    fn vocab(&mut self, _: Resource<Logits>) -> wasmtime::Result<u32> {
        lend::logits(|logits| logits.vocab())
    }

    fn top_k(&mut self, _: Resource<Logits>, row: u32, k: u32) -> wasmtime::Result<(Vec<u32>, Vec<f32>)> {
        self.within(row)?;
        self.look(1, || lend::logits(|logits| logits.top_k(row, k.min(logits.vocab()))))??
            .map_err(host_failed)
    }

    fn batch_top_k(
        &mut self,
        _: Resource<Logits>,
        rows: Vec<u32>,
        mut k: Vec<u32>,
    ) -> wasmtime::Result<(types::Ragged, Vec<f32>)> {
        self.batch(&rows, &mut k)?;
        let work = || lend::logits(|logits| logits.batch_top_k(&rows, &k));
        let found = self.look(rows.len() as u32, work)??.map_err(host_failed)?;
        Ok((types::Ragged { starts: found.starts, values: found.tokens }, found.logprobs))
    }

    fn gather(&mut self, _: Resource<Logits>, row: u32, tokens: Vec<u32>) -> wasmtime::Result<Vec<f32>> {
        self.within(row)?;
        let vocab = self.services.vocab();
        if let Some(token) = tokens.iter().find(|token| **token >= vocab) {
            return Err(
                Failure::bad(format!("gather: token {token} is outside the vocabulary of {vocab}")).into()
            );
        }
        self.look(1, || lend::logits(|logits| logits.gather(row, &tokens)))??.map_err(host_failed)
    }

    fn entropy(&mut self, _: Resource<Logits>, row: u32) -> wasmtime::Result<f32> {
        self.within(row)?;
        self.look(1, || lend::logits(|logits| logits.entropy(row)))??.map_err(host_failed)
    }

    fn read(&mut self, _: Resource<Logits>, row: u32) -> wasmtime::Result<Vec<f32>> {
        self.within(row)?;
        self.look(1, || lend::logits(|logits| logits.read(row).map(<[f32]>::to_vec)))??.map_err(host_failed)
    }

    fn drop(&mut self, _: Resource<Logits>) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// The device could not read a row: nobody decides, and the policy is not to blame.
fn host_failed(error: tokenmill_policy::Error) -> wasmtime::Error {
    Failure::new(Reason::Undecided, error.to_string()).into()
}

impl sample_host::HostChoices for State {
    fn accept(&mut self, _: Resource<Choices>, rows: Vec<u32>, tokens: Vec<u32>) -> wasmtime::Result<()> {
        if self.paired("accept", rows.len(), tokens.len())? && self.asked("accept", &rows) {
            self.choices.accept.extend(rows.into_iter().zip(tokens));
        }
        Ok(())
    }

    fn defer(&mut self, _: Resource<Choices>, rows: Vec<u32>) -> wasmtime::Result<()> {
        self.add(rows.len())?;
        if self.asked("defer", &rows) {
            self.choices.defer.extend(rows);
        }
        Ok(())
    }

    fn finish(&mut self, _: Resource<Choices>, rows: Vec<u32>) -> wasmtime::Result<()> {
        self.add(rows.len())?;
        if self.asked("finish", &rows) {
            self.choices.finish.extend(rows);
        }
        Ok(())
    }

    fn drop(&mut self, _: Resource<Choices>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl State {
    /// What asks for something of a row gets an answer or a trap: there is no third way in the contract.
    fn within(&self, row: u32) -> Result<(), Failure> {
        if row < self.len {
            Ok(())
        } else {
            Err(Failure::bad(format!("row {row}, and there are {}", self.len)))
        }
    }

    /// Checks the rows of one call, and leaves no `k` above the vocabulary: what the host does and copies then has an
    /// end.
    fn batch(&self, rows: &[u32], k: &mut [u32]) -> wasmtime::Result<()> {
        let bad = |what: String| Err(Failure::bad(format!("batch-top-k: {what}")).into());
        if rows.len() != k.len() {
            return bad(format!("lists of {} and {} entries", rows.len(), k.len()));
        }
        if rows.len() > self.picked {
            return bad(format!("{} rows, and pick is about {}", rows.len(), self.picked));
        }
        rows.iter().try_for_each(|&row| self.within(row))?;
        let vocab = lend::logits(|logits| logits.vocab())?;
        k.iter_mut().for_each(|k| *k = vocab.min(*k));
        let candidates: usize = k.iter().map(|&k| k as usize).sum();
        if candidates > MOST_ENTRIES {
            return bad(format!("{candidates} candidates, at most {MOST_ENTRIES}"));
        }
        Ok(())
    }

    /// Whether `pick` is about all of these rows; otherwise the answer is wrong.
    fn asked(&mut self, what: &str, rows: &[u32]) -> bool {
        let other = rows.iter().find(|row| self.inspected.get(**row as usize) != Some(&true));
        if let Some(row) = other {
            self.blame(format!("{what}: row {row} was not asked about"));
        }
        other.is_none()
    }
}
