//! Many sequences of random lengths, in random chunks and blocks, forking and ending, two steps in flight; each
//! row against the same prefix computed alone and at once.

use tokenmill_backend::{Model, Ticket};

use crate::Body;
use crate::subject::{
    BLOCK, BLOCKS, MAX_SEQS, MAX_TOKENS, Seq, Step, Stop, Subject, finish, forward, prompt, start,
};

pub(crate) const CHECKS: &[(&str, Body)] =
    &[("a random schedule gives each sequence what it gets alone", random_schedule)];

const STEPS: usize = 30;
const LONGEST: u32 = 48;

/// Lehmer's generator with Knuth's MMIX constants; the check must be the same in every run.
struct Random(u64);

impl Random {
    /// Below `n`.
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }
}

/// A sequence with its tokens to come.
struct Live {
    tokens: Vec<i32>,
    computed: u32,
    blocks: Vec<u32>,
}

struct Schedule {
    random: Random,
    live: Vec<Live>,
    /// Sequences that hold each block.
    holders: Vec<u32>,
    /// For the next step that runs.
    copies: Vec<(u32, u32)>,
    salt: u32,
}

impl Schedule {
    fn new() -> Self {
        Self {
            random: Random(1),
            live: Vec::new(),
            holders: vec![0; BLOCKS as usize],
            copies: Vec::new(),
            salt: 100,
        }
    }

    /// Any free block.
    fn take(&mut self) -> Option<u32> {
        let free: Vec<u32> = (0..BLOCKS).filter(|&block| self.holders[block as usize] == 0).collect();
        let block = *free.get(self.random.below(free.len().max(1) as u32) as usize)?;
        self.holders[block as usize] = 1;
        Some(block)
    }

    fn tokens(&mut self, model: &Model, at_least: u32) -> Vec<i32> {
        self.salt += 1;
        let len = at_least + 1 + self.random.below(LONGEST - at_least);
        prompt(model, self.salt, len as usize)
    }

    /// A second sequence with the past of `live[index]` and its own future. Full blocks are shared; the one that both
    /// go on to write is copied.
    fn fork(&mut self, model: &Model, index: usize) {
        let computed = self.live[index].computed;
        let mut blocks = self.live[index].blocks.clone();
        blocks.truncate(computed.div_ceil(BLOCK) as usize);
        let mut tokens = self.tokens(model, computed);
        tokens[..computed as usize].copy_from_slice(&self.live[index].tokens[..computed as usize]);
        let full = (computed / BLOCK) as usize;
        if let Some(last) = blocks.get_mut(full) {
            let Some(own) = self.take() else { return };
            self.copies.push((*last, own));
            *last = own;
        }
        blocks[..full].iter().for_each(|&block| self.holders[block as usize] += 1);
        self.live.push(Live { tokens, computed, blocks });
    }

    /// The next step, and the prefix of each of its rows. Sequences that it completes give their blocks back at once: a
    /// later step may write them while this one runs.
    fn step(&mut self, model: &Model) -> (Step, Vec<Vec<i32>>) {
        let (mut seqs, mut prefixes) = (Vec::new(), Vec::new());
        while self.live.len() < 4 {
            let tokens = self.tokens(model, 0);
            self.live.push(Live { tokens, computed: 0, blocks: Vec::new() });
        }
        let forked = self.random.below(self.live.len() as u32) as usize;
        if self.random.below(3) == 0
            && self.live.len() < MAX_SEQS as usize
            && self.live[forked].computed < LONGEST
        {
            self.fork(model, forked);
        }
        let mut budget = MAX_TOKENS;
        for index in 0..self.live.len() {
            let left = self.live[index].tokens.len() as u32 - self.live[index].computed;
            let most = left.min(budget);
            if most == 0 || self.random.below(4) == 0 {
                continue;
            }
            let chunk = 1 + self.random.below(most);
            let end = self.live[index].computed + chunk;
            while self.live[index].blocks.len() < end.div_ceil(BLOCK) as usize {
                let Some(block) = self.take() else { break };
                self.live[index].blocks.push(block);
            }
            let live = &mut self.live[index];
            if live.blocks.len() * (BLOCK as usize) < end as usize {
                continue;
            }
            let tokens = &live.tokens[live.computed as usize..end as usize];
            seqs.push(Seq::new(tokens, live.computed, &live.blocks));
            prefixes.push(live.tokens[..end as usize].to_vec());
            live.computed = end;
            budget -= chunk;
        }
        let mut step = Step::new(&seqs);
        if !seqs.is_empty() {
            step.copies = std::mem::take(&mut self.copies);
        }
        self.retire();
        (step, prefixes)
    }

    fn retire(&mut self) {
        let holders = &mut self.holders;
        self.live.retain(|live| {
            let more = (live.computed as usize) < live.tokens.len();
            if !more {
                live.blocks.iter().for_each(|&block| holders[block as usize] -= 1);
            }
            more
        });
    }
}

fn random_schedule(subject: &Subject<'_>) -> Result<(), Stop> {
    let (model, alone) = (&mut subject.load()?, &mut subject.load()?);
    let mut schedule = Schedule::new();
    let mut running: Option<(Ticket, Vec<Vec<i32>>)> = None;
    for n in 0..=STEPS {
        let (step, prefixes) = if n < STEPS { schedule.step(model) } else { Default::default() };
        // Now and then no sequence moves.
        let next = match prefixes.is_empty() {
            true => None,
            false => Some((start(model, &step)?, prefixes)),
        };
        let Some((ticket, prefixes)) = std::mem::replace(&mut running, next) else { continue };
        let ran = finish(model, ticket, prefixes.len())?;
        for (row, prefix) in prefixes.iter().enumerate() {
            let blocks: Vec<u32> = (0..prefix.len().div_ceil(BLOCK as usize) as u32).collect();
            let expected = forward(alone, &[Seq::new(prefix, 0, &blocks)])?;
            let what = format!("step {n}, row {row}, position {}", prefix.len() - 1);
            subject.same(model, &what, &expected.logits[0], &ran.logits[row])?;
        }
    }
    Ok(())
}
