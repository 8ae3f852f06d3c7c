//! The columns of a step and of its sampling. Lengths are checked against each other here; the values in
//! them (ids, ranges, positions) are the backend's to check.

use std::mem::size_of;

use tokenmill_backend_abi as abi;

use crate::Error;

/// One step; the meaning of each column stands at `tm_batch` in the header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Of all sequences, one after the other.
    pub tokens: &'a [i32],
    /// n_seqs + 1.
    pub seq_start: &'a [u32],
    /// n_seqs.
    pub seq_pos: &'a [u32],
    /// n_seqs + 1.
    pub block_start: &'a [u32],
    /// Of all sequences, one after the other.
    pub blocks: &'a [u32],
    /// Indices into `tokens`.
    pub rows: &'a [u32],
    /// (from, to), whole blocks, before the step.
    pub copies: &'a [(u32, u32)],
}

/// How the rows of a step are sampled; the meaning of each column stands at `tm_sampling` in the header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampling<'a> {
    /// One per row of the batch.
    pub rows: &'a [abi::Row],
    pub bias_token: &'a [u32],
    pub bias_value: &'a [f32],
    pub seen_token: &'a [u32],
    pub seen_count: &'a [u32],
    /// Whole masks of ceil(vocab / 32) words.
    pub masks: &'a [u32],
}

impl Batch<'_> {
    /// The C struct; `copies` is scratch that must outlive it.
    pub(crate) fn to_abi(self, copies: &mut Vec<u32>) -> Result<abi::Batch, Error> {
        let n_seqs = self.seq_pos.len();
        starts("seq_start", self.seq_start, n_seqs, "tokens", self.tokens.len())?;
        starts("block_start", self.block_start, n_seqs, "blocks", self.blocks.len())?;
        // A pair of u32 has no layout promised by the language.
        copies.clear();
        copies.extend(self.copies.iter().flat_map(|&(from, to)| [from, to]));
        Ok(abi::Batch {
            size: size_of::<abi::Batch>(),
            tokens: self.tokens.as_ptr(),
            seq_start: self.seq_start.as_ptr(),
            seq_pos: self.seq_pos.as_ptr(),
            block_start: self.block_start.as_ptr(),
            blocks: self.blocks.as_ptr(),
            rows: self.rows.as_ptr(),
            n_seqs: count("seq_pos", n_seqs)?,
            n_rows: count("rows", self.rows.len())?,
            copies: copies.as_ptr(),
            n_copies: count("copies", self.copies.len())?,
            reserved: 0,
        })
    }
}

impl Sampling<'_> {
    /// The C struct for a step of `n_rows` rows over `vocab` tokens.
    pub(crate) fn to_abi(self, n_rows: u32, vocab: u32) -> Result<abi::Sampling, Error> {
        if self.rows.len() != n_rows as usize {
            return Err(Error::Invalid(format!(
                "rows has {} entries, the step has {n_rows} rows",
                self.rows.len()
            )));
        }
        same("bias_value", self.bias_value.len(), "bias_token", self.bias_token.len())?;
        same("seen_count", self.seen_count.len(), "seen_token", self.seen_token.len())?;
        let words = vocab.div_ceil(32) as usize;
        if !self.masks.len().is_multiple_of(words) {
            return Err(Error::Invalid(format!(
                "masks has {} words, one mask has {words}",
                self.masks.len()
            )));
        }
        Ok(abi::Sampling {
            size: size_of::<abi::Sampling>(),
            rows: self.rows.as_ptr(),
            bias_token: self.bias_token.as_ptr(),
            bias_value: self.bias_value.as_ptr(),
            n_bias: count("bias_token", self.bias_token.len())?,
            n_seen: count("seen_token", self.seen_token.len())?,
            seen_token: self.seen_token.as_ptr(),
            seen_count: self.seen_count.as_ptr(),
            masks: self.masks.as_ptr(),
            n_masks: count("masks", self.masks.len() / words)?,
            reserved: 0,
        })
    }
}

/// A column of n_seqs + 1 offsets into another column of `len` entries.
fn starts(column: &str, starts: &[u32], n_seqs: usize, into: &str, len: usize) -> Result<(), Error> {
    if starts.len() != n_seqs + 1 {
        let have = starts.len();
        return Err(Error::Invalid(format!(
            "{column} has {have} entries, {n_seqs} sequences need {}",
            n_seqs + 1
        )));
    }
    if starts[n_seqs] as usize != len {
        return Err(Error::Invalid(format!("{column} ends at {}, {into} has {len} entries", starts[n_seqs])));
    }
    Ok(())
}

fn same(column: &str, len: usize, other: &str, other_len: usize) -> Result<(), Error> {
    if len == other_len {
        return Ok(());
    }
    Err(Error::Invalid(format!("{column} has {len} entries, {other} has {other_len}")))
}

fn count(column: &str, len: usize) -> Result<u32, Error> {
    u32::try_from(len).map_err(|_| Error::Invalid(format!("{column} has {len} entries")))
}
