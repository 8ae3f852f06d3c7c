//! Integrity: what must hold between any two calls.

use crate::{Pool, Table};

impl Pool {
    /// Compares every count with what it counts. `tables` are all that hold blocks of this pool.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a Table>) -> Result<(), String> {
        let mut refs = vec![0; self.blocks.len()];
        for &id in tables.flat_map(Table::blocks) {
            refs[id as usize] += 1;
        }
        for (id, (block, &held)) in self.blocks.iter().zip(&refs).enumerate() {
            if block.refs != held {
                return Err(format!("block {id} has {} references, {held} tables hold it", block.refs));
            }
            if block.serial > 0 && self.index.find(block.hash) != Some(id as u32) {
                return Err(format!("block {id} is known but not in the index"));
            }
        }
        let mut cached = 0;
        let mut idle = vec![false; self.blocks.len()];
        for id in self.idle.iter() {
            let block = &self.blocks[id as usize];
            if std::mem::replace(&mut idle[id as usize], true) {
                return Err(format!("block {id} is twice in the free list"));
            }
            if block.refs > 0 {
                return Err(format!("block {id} is in the free list with {} references", block.refs));
            }
            if block.serial == 0 && cached > 0 {
                return Err(format!("block {id} keeps nothing but stands behind cached ones"));
            }
            cached += u32::from(block.serial > 0);
        }
        let lost = idle.iter().zip(&refs).position(|(&idle, &refs)| !idle && refs == 0);
        if let Some(id) = lost {
            return Err(format!("block {id} is lost: nobody holds it and it is not in the free list"));
        }
        let known = self.blocks.iter().filter(|block| block.serial > 0).count();
        if self.index.len() != known {
            return Err(format!("the index has {} blocks, {known} are known", self.index.len()));
        }
        if cached != self.cached || self.available() + self.used() != self.total() {
            return Err(format!("{} blocks are counted as cached, {cached} are", self.cached));
        }
        Ok(())
    }
}
