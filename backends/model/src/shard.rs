//! Which part of a model one rank holds (Megatron-LM's split, arXiv 1909.08053).

use std::ops::Range;

use crate::config::Config;
use crate::device::Heads;
use crate::error::Error;

/// Rank `rank` of `ranks` that share every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub ranks: usize,
}

impl Shard {
    /// This rank's share of `count` rows or columns; shares differ by one at most.
    pub fn split(&self, count: usize) -> Range<usize> {
        count * self.rank / self.ranks..count * (self.rank + 1) / self.ranks
    }

    /// This rank's share of the heads.
    pub fn heads(&self, all: Heads) -> Heads {
        Heads { query: all.query / self.ranks, kv: self.kv_heads(all.kv).len(), dim: all.dim }
    }

    /// Key and value heads are split, or repeated where there are fewer than ranks.
    pub fn kv_heads(&self, count: usize) -> Range<usize> {
        if count >= self.ranks {
            return self.split(count);
        }
        let head = self.rank * count / self.ranks;
        head..head + 1
    }

    /// Whether the model can be split this way.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        let unsupported = |what: &str, count: usize| {
            let ranks = self.ranks;
            Err(Error::Unsupported(format!(
                "tensor_parallel {ranks} does not divide the model's {count} {what}"
            )))
        };
        let Heads { query, kv, .. } = config.heads;
        if !query.is_multiple_of(self.ranks) {
            return unsupported("query heads", query);
        }
        if !kv.is_multiple_of(self.ranks) && !self.ranks.is_multiple_of(kv) {
            return unsupported("key and value heads", kv);
        }
        if config.vocab < self.ranks {
            return unsupported("tokens of vocabulary", config.vocab);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_kv_heads_are_repeated() {
        let of = |rank, ranks, kv| Shard { rank, ranks }.kv_heads(kv);
        assert_eq!([of(0, 4, 2), of(1, 4, 2), of(2, 4, 2), of(3, 4, 2)], [0..1, 0..1, 1..2, 1..2]);
        assert_eq!([of(0, 2, 4), of(1, 2, 4)], [0..2, 2..4]);
        assert_eq!(Shard { rank: 1, ranks: 4 }.heads(Heads { query: 8, kv: 1, dim: 16 }).kv, 1);
    }

    #[test]
    fn shares_cover_everything_once() {
        for (count, ranks) in [(7, 3), (49_152, 4), (1, 1)] {
            let mut next = 0;
            for rank in 0..ranks {
                let share = Shard { rank, ranks }.split(count);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, count);
        }
    }
}
