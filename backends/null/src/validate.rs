//! The columns of a batch and of a sampling as slices, and the checks the contract allows a backend to make.
//! Each message names the column.

use std::ops::Range;

use tokenmill_backend_abi as abi;

use crate::{Fault, invalid};

/// `tm_batch` as slices.
pub(crate) struct Columns<'a> {
    pub(crate) tokens: &'a [i32],
    pub(crate) seq_start: &'a [u32],
    pub(crate) seq_pos: &'a [u32],
    pub(crate) block_start: &'a [u32],
    pub(crate) blocks: &'a [u32],
    pub(crate) rows: &'a [u32],
    /// Pairs (from, to), flat.
    pub(crate) copies: &'a [u32],
}

/// `tm_sampling` as slices.
pub(crate) struct Parameters<'a> {
    pub(crate) rows: &'a [abi::Row],
    pub(crate) bias_token: &'a [u32],
    pub(crate) bias_value: &'a [f32],
    pub(crate) seen_token: &'a [u32],
    pub(crate) seen_count: &'a [u32],
    pub(crate) masks: &'a [u32],
}

pub(crate) struct Limits {
    pub(crate) vocab: u32,
    pub(crate) context: u32,
    pub(crate) n_blocks: u32,
    pub(crate) block_tokens: u32,
    pub(crate) max_tokens: u32,
    pub(crate) max_rows: u32,
    pub(crate) max_seqs: u32,
    pub(crate) depth: u32,
}

impl Columns<'_> {
    /// Indices of the tokens of sequence `i`.
    pub(crate) fn seq_range(&self, i: usize) -> Range<usize> {
        self.seq_start[i] as usize..self.seq_start[i + 1] as usize
    }

    pub(crate) fn seq_blocks(&self, i: usize) -> &[u32] {
        &self.blocks[self.block_start[i] as usize..self.block_start[i + 1] as usize]
    }

    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Fault> {
        at_most("seq_pos", self.seq_pos.len(), limits.max_seqs, "max_seqs")?;
        at_most("tokens", self.tokens.len(), limits.max_tokens, "max_tokens")?;
        at_most("rows", self.rows.len(), limits.max_rows, "max_rows")?;
        rising("seq_start", self.seq_start)?;
        rising("block_start", self.block_start)?;
        below("blocks", self.blocks, limits.n_blocks, "blocks")?;
        below("rows", self.rows, self.tokens.len() as u32, "tokens")?;
        below("copies", self.copies, limits.n_blocks, "blocks")?;
        if let Some(i) = self.copies.chunks_exact(2).position(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!("copies[{i}]: block {} onto itself", self.copies[2 * i])));
        }
        for i in 0..self.seq_pos.len() {
            let (position, len) = (self.seq_pos[i], self.seq_range(i).len());
            let end = u64::from(position) + len as u64;
            if end > u64::from(limits.context) {
                let context = limits.context;
                return Err(invalid(format!(
                    "seq_pos[{i}] = {position} with {len} tokens: the context has {context}"
                )));
            }
            let covered = self.seq_blocks(i).len() as u64 * u64::from(limits.block_tokens);
            if covered < end {
                return Err(invalid(format!(
                    "block_start[{i}]: the blocks hold {covered} positions, {end} are used"
                )));
            }
        }
        Ok(())
    }
}

impl Parameters<'_> {
    pub(crate) fn check(&self, vocab: u32) -> Result<(), Fault> {
        below("bias_token", self.bias_token, vocab, "tokens")?;
        below("seen_token", self.seen_token, vocab, "tokens")?;
        let n_masks = self.masks.len() as u64 / u64::from(vocab.div_ceil(32));
        for (i, row) in self.rows.iter().enumerate() {
            let range = |start: u32, n: u32, len: usize| u64::from(start) + u64::from(n) <= len as u64;
            let wrong = [
                ("bias", !range(row.bias, row.n_bias, self.bias_token.len())),
                ("seen", !range(row.seen, row.n_seen, self.seen_token.len())),
                ("mask", u64::from(row.mask) > n_masks),
                ("forced", row.forced < -1 || i64::from(row.forced) >= i64::from(vocab)),
                ("temperature", !(row.temperature >= 0.0 && row.temperature.is_finite())),
                ("top_p", !(0.0..=f32::MAX).contains(&row.top_p)),
                ("min_p", !(0.0..=1.0).contains(&row.min_p)),
                ("repetition", !(row.repetition > 0.0 && row.repetition.is_finite())),
                ("presence", !row.presence.is_finite()),
                ("frequency", !row.frequency.is_finite()),
            ];
            if let Some((field, _)) = wrong.into_iter().find(|&(_, wrong)| wrong) {
                return Err(invalid(format!("rows[{i}].{field} is out of range")));
            }
        }
        Ok(())
    }
}

fn at_most(column: &str, len: usize, limit: u32, name: &str) -> Result<(), Fault> {
    if len <= limit as usize {
        return Ok(());
    }
    Err(invalid(format!("{column} has {len} entries, {name} is {limit}")))
}

/// Offsets: from 0 on, each larger than the one before (every sequence has tokens and blocks).
fn rising(column: &str, starts: &[u32]) -> Result<(), Fault> {
    if starts[0] != 0 {
        return Err(invalid(format!("{column}[0] = {}, expected 0", starts[0])));
    }
    match starts.windows(2).position(|pair| pair[0] >= pair[1]) {
        Some(i) => Err(invalid(format!("{column}[{}] = {} does not rise", i + 1, starts[i + 1]))),
        None => Ok(()),
    }
}

fn below(column: &str, values: &[u32], limit: u32, what: &str) -> Result<(), Fault> {
    // Without an early end the compiler compares many at once.
    if values.iter().fold(true, |all, &value| all & (value < limit)) {
        return Ok(());
    }
    match values.iter().position(|&value| value >= limit) {
        Some(i) => Err(invalid(format!("{column}[{i}] = {}, there are {limit} {what}", values[i]))),
        None => Ok(()),
    }
}
