//! Which part of a model one rank holds: layers by stage (GPipe's split, arXiv 1811.06965), and of each
//! layer a shard (Megatron-LM's split, arXiv 1909.08053).

use std::ops::Range;

use crate::config::Config;
use crate::device::Heads;
use crate::error::Error;

/// Where a rank stands. Rank `r` is shard `r % tensor_parallel` of stage `r / tensor_parallel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub stage: Stage,
    pub shard: Shard,
}

impl Place {
    /// Of `rank` among `ranks`, which `tensor_parallel` divides.
    pub fn of(rank: usize, ranks: usize, tensor_parallel: usize) -> Self {
        Self {
            stage: Stage { index: rank / tensor_parallel, count: ranks / tensor_parallel },
            shard: Shard { rank: rank % tensor_parallel, ranks: tensor_parallel },
        }
    }

    /// Whether the model can be split this way.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        self.stage.check(config)?;
        self.shard.check(config)
    }

    /// Its number among all ranks of the model.
    pub fn rank(&self) -> usize {
        self.rank_in(self.stage.index)
    }

    /// The same shard of another stage.
    fn rank_in(&self, stage: usize) -> usize {
        stage * self.shard.ranks + self.shard.rank
    }

    /// The rank that activations go to, unless this is the last stage.
    pub fn next(&self) -> Option<usize> {
        (!self.stage.is_last()).then(|| self.rank_in(self.stage.index + 1))
    }

    /// The rank that activations come from, unless this is the first stage.
    pub fn before(&self) -> Option<usize> {
        self.stage.index.checked_sub(1).map(|stage| self.rank_in(stage))
    }

    /// The rank that embeds what this one samples.
    pub fn first(&self) -> usize {
        self.rank_in(0)
    }

    /// The rank that samples what this one embeds.
    pub fn last(&self) -> usize {
        self.rank_in(self.stage.count - 1)
    }
}

/// Stage `index` of `count` that follow each other. The first embeds, the last has the output layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub index: usize,
    pub count: usize,
}

impl Stage {
    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    pub fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }

    /// This stage's share of `count` layers; shares differ by one at most.
    pub fn layers(&self, count: usize) -> Range<usize> {
        share(self.index, self.count, count)
    }

    fn check(&self, config: &Config) -> Result<(), Error> {
        let (stages, layers) = (self.count, config.layers.len());
        if stages <= layers {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "n_devices / tensor_parallel = {stages} pipeline stages: the model has {layers} layers"
        )))
    }
}

/// Part `index` of `parts` of `count` things.
fn share(index: usize, parts: usize, count: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// Shard `rank` of `ranks` that share every layer of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub ranks: usize,
}

impl Shard {
    /// This rank's share of `count` rows or columns; shares differ by one at most.
    pub fn split(&self, count: usize) -> Range<usize> {
        share(self.rank, self.ranks, count)
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

    fn check(&self, config: &Config) -> Result<(), Error> {
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
    fn stages_hold_all_layers_in_order() {
        for (layers, count) in [(5, 3), (4, 4), (32, 2)] {
            let held = (0..count).flat_map(|index| Stage { index, count }.layers(layers));
            assert!(held.eq(0..layers), "{count} stages");
        }
    }

    #[test]
    fn neighbours_are_the_same_shard_of_other_stages() {
        let place = |rank| Place::of(rank, 6, 2);
        assert_eq!(place(3).stage, Stage { index: 1, count: 3 });
        assert_eq!(place(3).shard, Shard { rank: 1, ranks: 2 });
        assert_eq!([0, 3, 4].map(|rank| place(rank).rank()), [0, 3, 4]);
        assert_eq!([1, 3, 5].map(|rank| place(rank).next()), [Some(3), Some(5), None]);
        assert_eq!([1, 3, 5].map(|rank| place(rank).before()), [None, Some(1), Some(3)]);
        assert_eq!([0, 3, 4].map(|rank| (place(rank).first(), place(rank).last())), [(0, 4), (1, 5), (0, 4)]);
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
