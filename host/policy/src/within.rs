//! A policy inside a form of the output: what the form's policy lets through bounds what the other may choose.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sample::{Choices, Knobs, Logits, Mask, Sampler, View};
use crate::{Error, Host};

/// A policy that several names stand for: alone, and within a form. Each call is about sequences of one of them.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Box<dyn Sampler>>>);

impl Shared {
    pub fn new(sampler: Box<dyn Sampler>) -> Self {
        Self(Arc::new(Mutex::new(sampler)))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Sampler>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sampler for Shared {
    fn configure(&mut self, config: &str, host: Host) -> Result<(), Error> {
        self.lock().configure(config, host)
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.lock().plan(view, knobs)
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        self.lock().pick(view, logits, rows, choices)
    }

    fn refused(&mut self, why: &Error) {
        self.lock().refused(why);
    }
}

/// Asks both about the same rows. Masks are combined, and the policy is shown the logits of the tokens that the form
/// lets through as if there were no others. A row that the form ends is no matter of the policy.
///
/// The form holds whatever the policy does: a row for which the policy fails, or leaves no token of the form, goes on
/// with the form alone, or has no decision if the policy is enforcing. So install it as enforcing.
pub struct Within {
    form: Box<dyn Sampler>,
    policy: Box<dyn Sampler>,
    enforcing: bool,
    vocab: u32,
    /// By row of the view.
    masks: Vec<Option<Mask>>,
    own: Knobs,
    /// Rows that the form inspects, and those for which the policy failed.
    ended: Vec<u32>,
    failed: Vec<u32>,
}

impl Within {
    /// `form` answers with masks, and inspects rows to end them.
    pub fn new(form: Box<dyn Sampler>, policy: Box<dyn Sampler>, enforcing: bool, vocab: u32) -> Self {
        let (masks, own, ended, failed) = (Vec::new(), Knobs::default(), Vec::new(), Vec::new());
        Self { form, policy, enforcing, vocab, masks, own, ended, failed }
    }

    /// Asks the policy; on failure there is nothing of it.
    fn ask(&mut self, view: &dyn View) {
        self.own.clear();
        self.failed.clear();
        let rows = view.ids().len();
        let mut asked = self.policy.plan(view, &mut self.own);
        if asked.is_ok() {
            asked = self.own.check(rows, self.vocab).inspect_err(|why| self.policy.refused(why));
        }
        match asked {
            Ok(()) => self.failed.append(&mut self.own.undecided),
            Err(_) => {
                self.own.clear();
                self.failed.extend(0..rows as u32);
            }
        }
    }

    /// Narrows the masks of the form by those of the policy.
    fn narrow(&mut self) {
        for (row, allowed) in std::mem::take(&mut self.own.allow) {
            let Some(mask) = &mut self.masks[row as usize] else { continue };
            let both: Vec<u32> = mask.iter().zip(allowed.iter()).map(|(one, other)| one & other).collect();
            match both.iter().any(|word| *word != 0) {
                true => *mask = both.into(),
                false => self.failed.push(row),
            }
        }
    }
}

impl Sampler for Within {
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.form.plan(view, knobs)?;
        self.ended = std::mem::take(&mut knobs.inspect);
        self.masks.clear();
        self.masks.resize(view.ids().len(), None);
        for (row, mask) in std::mem::take(&mut knobs.allow) {
            self.masks[row as usize] = Some(mask);
        }
        let form = self.masks.clone();
        self.ask(view);
        self.narrow();
        for &row in &self.failed {
            self.masks[row as usize].clone_from(&form[row as usize]);
        }
        let masks = self.masks.iter().enumerate();
        knobs.allow.extend(masks.filter_map(|(row, mask)| Some((row as u32, mask.clone()?))));
        knobs.again.extend_from_slice(&self.failed);
        if self.enforcing {
            knobs.undecided.extend_from_slice(&self.failed);
        }
        let own = &mut self.own;
        let kept = |row: &u32| !self.failed.contains(row) && !self.ended.contains(row);
        own.inspect.retain(kept);
        knobs.inspect.extend(self.ended.iter().chain(&own.inspect));
        knobs.temperature.extend(own.temperature.iter().filter(|knob| kept(&knob.0)));
        knobs.top_k.extend(own.top_k.iter().filter(|knob| kept(&knob.0)));
        knobs.top_p.extend(own.top_p.iter().filter(|knob| kept(&knob.0)));
        knobs.min_p.extend(own.min_p.iter().filter(|knob| kept(&knob.0)));
        knobs.bias.extend(own.bias.iter().filter(|knob| kept(&knob.0)));
        knobs.refuse.append(&mut own.refuse);
        Ok(())
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        if !self.ended.is_empty() {
            self.form.pick(view, logits, &self.ended, choices)?;
        }
        let own: Vec<u32> = rows.iter().copied().filter(|row| !self.ended.contains(row)).collect();
        if own.is_empty() {
            return Ok(());
        }
        let mut answer = Choices::default();
        let mut masked = Masked { logits, masks: &self.masks, row: Vec::new() };
        let mut asked = self.policy.pick(view, &mut masked, &own, &mut answer);
        if asked.is_ok() {
            asked = self.check(&own, &answer).inspect_err(|why| self.policy.refused(why));
        }
        let failed = match asked {
            Ok(()) => std::mem::take(&mut answer.undecided),
            Err(_) => {
                answer.clear();
                own
            }
        };
        choices.again.extend_from_slice(&failed);
        let left = if self.enforcing { &mut choices.undecided } else { &mut choices.defer };
        left.extend(failed);
        choices.accept.append(&mut answer.accept);
        choices.defer.append(&mut answer.defer);
        choices.finish.append(&mut answer.finish);
        Ok(())
    }
}

impl Within {
    /// No token leaves the form.
    fn check(&self, rows: &[u32], answer: &Choices) -> Result<(), Error> {
        answer.check(rows, self.vocab)?;
        let outside = |(row, token): &&(u32, u32)| {
            let mask = self.masks[*row as usize].as_deref();
            !mask.is_none_or(|mask| allows(mask, *token))
        };
        match answer.accept.iter().find(outside) {
            Some((_, token)) => {
                Err(Error::Undecided(format!("token {token} is outside of the form of the output")))
            }
            None => Ok(()),
        }
    }
}

fn allows(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Logits in which only the tokens of a mask are left.
struct Masked<'a> {
    logits: &'a mut dyn Logits,
    masks: &'a [Option<Mask>],
    row: Vec<f32>,
}

impl Logits for Masked<'_> {
    fn vocab(&self) -> u32 {
        self.logits.vocab()
    }

    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        let all = self.read(row)?;
        let mut tokens: Vec<u32> = (0..all.len() as u32).collect();
        tokens.retain(|token| all[*token as usize] > f32::NEG_INFINITY);
        let likely = |one: &u32, other: &u32| {
            all[*other as usize].total_cmp(&all[*one as usize]).then_with(|| one.cmp(other))
        };
        let k = (k as usize).min(tokens.len());
        if k > 0 && k < tokens.len() {
            tokens.select_nth_unstable_by(k - 1, likely);
        }
        tokens.truncate(k);
        tokens.sort_unstable_by(likely);
        let logprobs = crate::sample::gather(all, &tokens)?;
        Ok((tokens, logprobs))
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        let all = self.logits.read(row)?;
        let Some(mask) = self.masks.get(row as usize).and_then(Option::as_deref) else { return Ok(all) };
        let one = |(token, &logit)| if allows(mask, token as u32) { logit } else { f32::NEG_INFINITY };
        self.row.clear();
        self.row.extend(all.iter().enumerate().map(one));
        Ok(&self.row)
    }
}

#[cfg(test)]
#[path = "within/tests.rs"]
mod tests;
