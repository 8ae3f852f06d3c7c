//! Blocks: reference counts, the free list and what the prefix cache knows.

use crate::hash::{Hash, chained};
use crate::index::Index;
use crate::list::List;

/// No block is left: preempt somebody, or wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all KV blocks are in use")]
pub struct Full;

/// Blocks of a prefix that are looked up side by side.
pub(crate) const AHEAD: usize = 16;

/// All KV blocks of a model.
pub struct Pool {
    pub(crate) blocks: Vec<Block>,
    /// `block_tokens` entries per block; meaningful where the block is known.
    tokens: Vec<u32>,
    /// Blocks without references: first those with nothing to keep, then cached ones, the least
    /// recently used first.
    pub(crate) idle: List,
    pub(crate) index: Index,
    pub(crate) cached: u32,
    shift: u32,
    serials: u64,
    hash: Hash,
}

/// One block. It is *known* (serial > 0) if it is full and the cache may hand it out again.
#[derive(Clone, Copy, Default)]
pub(crate) struct Block {
    pub(crate) refs: u32,
    /// Blocks before it in its prefix.
    depth: u32,
    pub(crate) hash: u64,
    /// The serial of the block before it; the salt where there is none. Serials are never reused, so a
    /// block is only reached through the prefix it was computed with, whatever the hashes say.
    parent: u64,
    pub(crate) serial: u64,
}

/// How far a prefix is known: its blocks, the hash of the last, and its serial (or the salt).
#[derive(Clone, Copy, Default)]
pub(crate) struct Chain {
    pub(crate) blocks: u32,
    hash: u64,
    parent: u64,
}

impl Chain {
    pub(crate) fn new(salt: u64) -> Self {
        Self { blocks: 0, hash: salt, parent: salt }
    }
}

impl Pool {
    /// `block_tokens` must be a power of two; block ids are below `blocks`.
    pub fn new(blocks: u32, block_tokens: u32) -> Self {
        Self::with_hash(blocks, block_tokens, chained)
    }

    /// With another hash, for tests of what happens when hashes collide.
    pub fn with_hash(blocks: u32, block_tokens: u32, hash: Hash) -> Self {
        debug_assert!(block_tokens.is_power_of_two());
        Self {
            blocks: vec![Block::default(); blocks as usize],
            tokens: vec![0; blocks as usize * block_tokens as usize],
            idle: List::full(blocks),
            index: Index::new(blocks),
            cached: 0,
            shift: block_tokens.trailing_zeros(),
            serials: 0,
            hash,
        }
    }

    pub fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks that some table holds.
    pub fn used(&self) -> u32 {
        self.total() - self.idle.len()
    }

    /// Blocks that nobody holds and the prefix cache knows.
    pub fn cached(&self) -> u32 {
        self.cached
    }

    /// Blocks that can be handed out: free and cached ones.
    pub fn available(&self) -> u32 {
        self.idle.len()
    }

    pub fn block_tokens(&self) -> u32 {
        1 << self.shift
    }

    /// Blocks that hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_tokens())
    }

    /// The block of a position.
    pub(crate) fn block_at(&self, position: u32) -> usize {
        (position >> self.shift) as usize
    }

    /// Tables that hold a block.
    pub fn refs(&self, block: u32) -> u32 {
        self.blocks[block as usize].refs
    }

    /// Whether a block may be written: one table holds it and the cache does not know it.
    pub fn writable(&self, block: u32) -> bool {
        let Block { refs, serial, .. } = self.blocks[block as usize];
        refs == 1 && serial == 0
    }

    /// A block that nobody else holds; what it cached is forgotten.
    pub(crate) fn allocate(&mut self) -> Result<u32, Full> {
        let id = self.idle.pop_front().ok_or(Full)?;
        if self.blocks[id as usize].serial > 0 {
            self.cached -= 1;
            self.forget(id);
        }
        self.blocks[id as usize].refs = 1;
        Ok(id)
    }

    pub(crate) fn retain(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        block.refs += 1;
        if block.refs == 1 {
            self.cached -= u32::from(block.serial > 0);
            self.idle.remove(id);
        }
    }

    pub(crate) fn release(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.refs > 0);
        block.refs -= 1;
        if block.refs == 0 {
            if block.serial > 0 {
                self.cached += 1;
                self.idle.push_back(id);
            } else {
                self.idle.push_front(id);
            }
        }
    }

    /// The hashes of the full blocks among these tokens after `chain`, and the blocks that have them.
    pub(crate) fn find_ahead(&self, chain: &Chain, tokens: &[u32]) -> [(u64, Option<u32>); AHEAD] {
        let mut hashes = [chain.hash; AHEAD];
        let mut hash = chain.hash;
        for (entry, block) in hashes.iter_mut().zip(tokens.chunks_exact(1 << self.shift)) {
            hash = (self.hash)(hash, block);
            *entry = hash;
        }
        self.index.prefetch(&hashes);
        hashes.map(|hash| (hash, self.index.find(hash)))
    }

    /// The block that continues `chain` with these tokens, which must fill it, if it is the one that has
    /// their hash; moves the chain on.
    pub(crate) fn follow(
        &self,
        chain: &mut Chain,
        tokens: &[u32],
        (hash, found): (u64, Option<u32>),
    ) -> Option<u32> {
        let id = found.filter(|&id| self.is(id, chain, tokens))?;
        *chain = Chain { blocks: chain.blocks + 1, hash, parent: self.blocks[id as usize].serial };
        Some(id)
    }

    /// Makes a full block known as the continuation of `chain`, unless another one is; moves the chain on.
    pub(crate) fn learn(&mut self, chain: &mut Chain, id: u32, tokens: &[u32]) {
        let hash = (self.hash)(chain.hash, tokens);
        let holder = match self.index.find(hash) {
            Some(other) if self.is(other, chain, tokens) => other,
            other => {
                if let Some(other) = other {
                    self.displace(other);
                }
                self.serials += 1;
                let block = &mut self.blocks[id as usize];
                debug_assert!(block.serial == 0 && block.refs > 0);
                (block.depth, block.hash) = (chain.blocks, hash);
                (block.parent, block.serial) = (chain.parent, self.serials);
                self.index.insert(hash, id);
                let start = (id as usize) << self.shift;
                self.tokens[start..][..tokens.len()].copy_from_slice(tokens);
                id
            }
        };
        *chain = Chain { blocks: chain.blocks + 1, hash, parent: self.blocks[holder as usize].serial };
    }

    /// Whether a known block holds these tokens after this prefix.
    fn is(&self, id: u32, chain: &Chain, tokens: &[u32]) -> bool {
        let block = &self.blocks[id as usize];
        let start = (id as usize) << self.shift;
        block.parent == chain.parent
            && block.depth == chain.blocks
            && self.tokens[start..][..tokens.len()] == *tokens
    }

    /// Its hash goes to another block.
    fn displace(&mut self, id: u32) {
        self.forget(id);
        if self.blocks[id as usize].refs == 0 {
            self.cached -= 1;
            self.idle.remove(id);
            self.idle.push_front(id);
        }
    }

    fn forget(&mut self, id: u32) {
        self.blocks[id as usize].serial = 0;
        self.index.remove(id, |id| self.blocks[id as usize].hash);
    }
}
