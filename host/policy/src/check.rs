//! Whether an answer can be applied. Nothing a policy writes reaches a device unchecked.

use std::ops::RangeInclusive;

use crate::Error;
use crate::sample::{Choices, Knobs};

fn refused<T>(what: &str) -> Result<T, Error> {
    Err(Error::Undecided(format!("its answer was refused: {what}")))
}

impl Knobs {
    /// Rows are below `rows`, tokens below `vocab`, values in the range of their parameter.
    pub fn check(&self, rows: usize, vocab: u32) -> Result<(), Error> {
        let known = |row: &u32| (*row as usize) < rows;
        let good = |all: &[(u32, f32)], range: RangeInclusive<f32>| {
            all.iter().all(|(row, value)| known(row) && range.contains(value))
        };
        if !good(&self.temperature, 0.0..=f32::MAX) {
            return refused("temperature");
        }
        if !good(&self.top_p, f32::MIN_POSITIVE..=1.0) {
            return refused("top-p");
        }
        if !good(&self.min_p, 0.0..=1.0) {
            return refused("min-p");
        }
        if !self.top_k.iter().all(|(row, _)| known(row)) {
            return refused("top-k");
        }
        let bias =
            |(row, token, value): &(u32, u32, f32)| known(row) && *token < vocab && *value < f32::INFINITY;
        if !self.bias.iter().all(bias) {
            return refused("bias");
        }
        let words = vocab.div_ceil(32) as usize;
        if !self.allow.iter().all(|(row, mask)| known(row) && mask.len() == words && allows(mask, vocab)) {
            return refused("allow");
        }
        if !self.undecided.iter().chain(&self.again).all(known) {
            return refused("undecided");
        }
        if !self.inspect.iter().all(known) {
            return refused("inspect");
        }
        if !self.refuse.iter().all(|(row, _)| known(row)) {
            return refused("refuse");
        }
        Ok(())
    }
}

/// Whether a mask leaves at least one token.
fn allows(mask: &[u32], vocab: u32) -> bool {
    let Some((last, full)) = mask.split_last() else { return false };
    full.iter().any(|&word| word != 0) || last << ((32 - vocab % 32) % 32) != 0
}

impl Choices {
    /// Rows are among those inspected, tokens below `vocab`.
    pub fn check(&self, inspected: &[u32], vocab: u32) -> Result<(), Error> {
        let known = |row: &u32| inspected.contains(row);
        if !self.accept.iter().all(|(row, token)| known(row) && *token < vocab) {
            return refused("accept");
        }
        if ![&self.defer, &self.finish, &self.undecided, &self.again].into_iter().flatten().all(known) {
            return refused("defer, finish or undecided");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let with = |change: fn(&mut Knobs)| {
            let mut knobs = Knobs::default();
            change(&mut knobs);
            knobs.check(2, 40).map_err(|error| error.to_string())
        };
        let refused = |what: &str| Err(format!("the policy did not decide: its answer was refused: {what}"));
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|k| k.temperature.push((0, f32::NAN))), refused("temperature"));
        assert_eq!(with(|k| k.temperature.push((2, 1.0))), refused("temperature"));
        assert_eq!(with(|k| k.top_p.push((0, 0.0))), refused("top-p"));
        assert_eq!(with(|k| k.min_p.push((0, 1.5))), refused("min-p"));
        assert_eq!(with(|k| k.top_k.push((9, 1))), refused("top-k"));
        assert_eq!(with(|k| k.bias.push((0, 40, 0.0))), refused("bias"));
        assert_eq!(with(|k| k.bias.push((0, 0, f32::INFINITY))), refused("bias"));
        assert_eq!(with(|k| k.allow.push((0, [1].into()))), refused("allow"));
        assert_eq!(with(|k| k.allow.push((0, [0, 0].into()))), refused("allow"));
        assert_eq!(with(|k| k.allow.push((0, [0, 0x100].into()))), refused("allow"));
        assert_eq!(with(|k| k.allow.push((0, [0, 0x80].into()))), Ok(()));
        assert_eq!(with(|k| k.inspect.push(2)), refused("inspect"));
        assert_eq!(with(|k| k.refuse.push((2, String::new()))), refused("refuse"));
    }

    #[test]
    fn only_inspected_rows_can_be_chosen_for() {
        let accept = |row, token| Choices { accept: vec![(row, token)], ..Choices::default() };
        assert_eq!(accept(3, 9).check(&[1, 3], 10), Ok(()));
        assert!(accept(2, 9).check(&[1, 3], 10).is_err());
        assert!(accept(3, 10).check(&[1, 3], 10).is_err());
        let deferred = Choices { defer: vec![0], ..Choices::default() };
        assert!(deferred.check(&[1], 10).is_err());
        let finished = Choices { finish: vec![0], ..Choices::default() };
        assert!(finished.check(&[1], 10).is_err());
    }
}
