//! The blocks of one sequence.

use crate::pool::{AHEAD, Chain, Full, Pool};

/// Position p of the sequence lies in `blocks()[p / block_tokens]`. A table belongs to the pool that made
/// it and must be given back with [`Pool::free`].
#[derive(Default)]
pub struct Table {
    blocks: Vec<u32>,
    chain: Chain,
    /// Another table may hold the last block.
    forked: bool,
}

impl Table {
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Room for this many blocks without another allocation.
    pub fn reserve(&mut self, blocks: usize) {
        self.blocks.reserve_exact(blocks.saturating_sub(self.blocks.len()));
    }
}

impl Pool {
    /// Fills an empty table with the known blocks of a prefix of `tokens`, and says how many tokens they
    /// hold. Only sequences under the same salt share blocks.
    pub fn adopt(&mut self, table: &mut Table, salt: u64, tokens: &[u32]) -> u32 {
        debug_assert!(table.blocks.is_empty());
        table.chain = Chain::new(salt);
        let size = self.block_tokens() as usize;
        // Where a block would be depends on tokens alone: some are looked up side by side.
        'known: for ahead in tokens.chunks(size * AHEAD) {
            let places = self.find_ahead(&table.chain, ahead);
            for (block, place) in ahead.chunks_exact(size).zip(places) {
                let Some(id) = self.follow(&mut table.chain, block, place) else { break 'known };
                self.retain(id);
                table.blocks.push(id);
            }
        }
        table.blocks.len() as u32 * self.block_tokens()
    }

    /// Whether [`Pool::extend`] has nothing to do.
    pub fn covers(&self, table: &Table, to: u32) -> bool {
        !table.forked && to as usize <= table.blocks.len() * self.block_tokens() as usize
    }

    /// Makes positions `from..to` the table's own to write: adds blocks, and replaces one that is shared
    /// by a copy that the caller must make first (`copies`, pairs from, to). On `Full` the table keeps
    /// what it got, and the call can be repeated.
    pub fn extend(
        &mut self,
        table: &mut Table,
        from: u32,
        to: u32,
        copies: &mut Vec<(u32, u32)>,
    ) -> Result<(), Full> {
        let need = self.blocks_for(to) as usize;
        for i in self.block_at(from)..table.blocks.len().min(need) {
            let shared = table.blocks[i];
            if !self.writable(shared) {
                let own = self.allocate()?;
                copies.push((shared, own));
                self.release(shared);
                table.blocks[i] = own;
            }
        }
        table.forked = false;
        while table.blocks.len() < need {
            let id = self.allocate()?;
            table.blocks.push(id);
        }
        Ok(())
    }

    /// A second table of the same blocks.
    pub fn fork(&mut self, table: &mut Table) -> Table {
        for &id in &table.blocks {
            self.retain(id);
        }
        table.forked = true;
        Table { blocks: table.blocks.clone(), chain: table.chain, forked: true }
    }

    /// Makes the table's full blocks known to the prefix cache. `tokens` are those of the sequence from
    /// its start whose KV is computed.
    pub fn commit(&mut self, table: &mut Table, tokens: &[u32]) {
        let size = self.block_tokens() as usize;
        let known = table.chain.blocks as usize;
        for (i, block) in tokens.chunks_exact(size).enumerate().skip(known) {
            self.learn(&mut table.chain, table.blocks[i], block);
        }
    }

    /// Takes all blocks back; the table is as new. The end of a prefix is evicted before its beginning.
    pub fn free(&mut self, table: &mut Table) {
        for &id in table.blocks.iter().rev() {
            self.release(id);
        }
        table.blocks.clear();
        table.chain = Chain::default();
        table.forked = false;
    }
}
