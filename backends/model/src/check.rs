//! Checks every index of a step and of its sampling before they reach a device: a device may trust
//! them. Errors name the column.

use crate::device::{RowSampling, Step};
use crate::error::Error;

/// What the columns of a step must stay within.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub vocab: usize,
    pub context: usize,
    pub blocks: usize,
    pub block_tokens: usize,
    /// Of one step, at most.
    pub max_tokens: usize,
    pub max_rows: usize,
    pub max_seqs: usize,
    pub max_block_refs: usize,
}

/// Checks steps one after the other; keeps scratch, so that nothing is allocated per step.
#[derive(Debug)]
pub struct Checker {
    pub limits: Limits,
    /// The step that wrote each block last.
    written: Vec<u64>,
    step: u64,
}

fn invalid(text: String) -> Error {
    Error::Invalid(text)
}

impl Checker {
    pub fn new(limits: Limits) -> Self {
        Self { limits, written: vec![0; limits.blocks], step: 0 }
    }

    /// `previous` is the number of rows that the previous step sampled, if it was sampled: what tokens
    /// `-1-r` may refer to.
    pub fn step(&mut self, step: &Step<'_>, previous: Option<usize>) -> Result<(), Error> {
        let limits = self.limits;
        let seqs = step.seq_pos.len();
        if seqs == 0 {
            return Err(invalid("seq_pos is empty: a step has at least one sequence".into()));
        }
        at_most("seq_pos", seqs, limits.max_seqs, "max_seqs")?;
        at_most("tokens", step.tokens.len(), limits.max_tokens, "max_tokens")?;
        at_most("rows", step.rows.len(), limits.max_rows, "max_rows")?;
        at_most("blocks", step.blocks.len(), limits.max_block_refs, "max_seqs x blocks of a context")?;
        rising("seq_start", step.seq_start, seqs, step.tokens.len())?;
        rising("block_start", step.block_start, seqs, step.blocks.len())?;
        below("blocks", step.blocks, limits.blocks, "blocks")?;
        below("rows", step.rows, step.tokens.len(), "tokens")?;
        tokens(step.tokens, limits.vocab, previous)?;
        copies(step.copies, limits.blocks)?;
        self.positions(step)
    }

    /// Every position lies within the context and a block, and no block is written by two sequences.
    fn positions(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let Limits { context, block_tokens, .. } = self.limits;
        self.step += 1;
        for seq in 0..step.seq_pos.len() {
            let len = (step.seq_start[seq + 1] - step.seq_start[seq]) as usize;
            let pos = step.seq_pos[seq] as usize;
            let end = pos + len;
            if end > context {
                return Err(invalid(format!(
                    "seq_pos[{seq}] = {pos} with {len} tokens: the context has {context}"
                )));
            }
            let range = step.block_start[seq] as usize..step.block_start[seq + 1] as usize;
            let blocks = &step.blocks[range.clone()];
            if blocks.len() * block_tokens < end {
                let held = blocks.len() * block_tokens;
                return Err(invalid(format!(
                    "block_start[{seq}]: the blocks hold {held} positions, {end} are used"
                )));
            }
            let written = pos / block_tokens..end.div_ceil(block_tokens);
            for (index, block) in blocks.iter().enumerate().take(written.end).skip(written.start) {
                if std::mem::replace(&mut self.written[*block as usize], self.step) == self.step {
                    let at = range.start + index;
                    return Err(invalid(format!(
                        "blocks[{at}]: block {block} is written twice in this step"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Row `index` of a sampling.
    pub fn row(&self, index: usize, row: &RowSampling<'_>) -> Result<(), Error> {
        let vocab = self.limits.vocab;
        let ids = |ids: &[u32]| ids.iter().all(|id| (*id as usize) < vocab);
        let field = match row {
            row if !(row.temperature >= 0.0 && row.temperature.is_finite()) => "temperature",
            row if !(0.0..=f32::MAX).contains(&row.top_p) => "top_p",
            row if !(0.0..=1.0).contains(&row.min_p) => "min_p",
            row if !(row.repetition > 0.0 && row.repetition.is_finite()) => "repetition",
            row if !row.presence.is_finite() => "presence",
            row if !row.frequency.is_finite() => "frequency",
            row if row.forced.is_some_and(|id| id as usize >= vocab) => "forced",
            row if !ids(row.bias_token) => "bias: bias_token",
            row if row.bias_value.iter().any(|value| value.is_nan()) => "bias: bias_value",
            row if !ids(row.seen_token) => "seen: seen_token",
            _ => return Ok(()),
        };
        Err(invalid(format!("rows[{index}].{field} is out of range")))
    }
}

fn at_most(column: &str, len: usize, limit: usize, name: &str) -> Result<(), Error> {
    if len <= limit {
        return Ok(());
    }
    Err(invalid(format!("{column} has {len} entries; {name} is {limit}")))
}

/// Offsets into a column of `len`: from 0, each larger than the one before, the last `len`.
fn rising(column: &str, starts: &[u32], seqs: usize, len: usize) -> Result<(), Error> {
    let (Some(first), Some(last)) = (starts.first(), starts.last()) else {
        return Err(invalid(format!("{column} is empty")));
    };
    if starts.len() != seqs + 1 {
        return Err(invalid(format!(
            "{column} has {} entries, {seqs} sequences need {}",
            starts.len(),
            seqs + 1
        )));
    }
    if *first != 0 {
        return Err(invalid(format!("{column}[0] = {first}, expected 0")));
    }
    if let Some(i) = starts.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(invalid(format!("{column}[{}] = {} does not rise", i + 1, starts[i + 1])));
    }
    if *last as usize != len {
        return Err(invalid(format!("{column} ends at {last}, expected {len}")));
    }
    Ok(())
}

fn below(column: &str, values: &[u32], limit: usize, what: &str) -> Result<(), Error> {
    match values.iter().position(|value| *value as usize >= limit) {
        Some(i) => Err(invalid(format!("{column}[{i}] = {}: there are {limit} {what}", values[i]))),
        None => Ok(()),
    }
}

fn tokens(tokens: &[i32], vocab: usize, previous: Option<usize>) -> Result<(), Error> {
    let rows = previous.unwrap_or(0) as i64;
    let valid = |id: i64| if id >= 0 { id < vocab as i64 } else { -1 - id < rows };
    let Some(i) = tokens.iter().position(|id| !valid(i64::from(*id))) else { return Ok(()) };
    let id = i64::from(tokens[i]);
    Err(invalid(match previous {
        _ if id >= 0 => format!("tokens[{i}] = {id}: the vocabulary has {vocab}"),
        Some(rows) => {
            format!("tokens[{i}] = {id} refers to row {}: the previous step sampled {rows}", -1 - id)
        }
        None => format!("tokens[{i}] = {id} refers to the previous step, which was not sampled"),
    }))
}

fn copies(copies: &[(u32, u32)], blocks: usize) -> Result<(), Error> {
    for (i, &(from, to)) in copies.iter().enumerate() {
        if let Some(out) = [from, to].into_iter().find(|block| *block as usize >= blocks) {
            return Err(invalid(format!("copies[{i}] names block {out}: there are {blocks} blocks")));
        }
        if from == to {
            return Err(invalid(format!("copies[{i}] copies block {from} onto itself")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        vocab: 100,
        context: 16,
        blocks: 8,
        block_tokens: 4,
        max_tokens: 8,
        max_rows: 4,
        max_seqs: 2,
        max_block_refs: 8,
    };

    const GOOD: Step<'static> = Step {
        tokens: &[5, 6, 7, -2],
        seq_start: &[0, 3, 4],
        seq_pos: &[2, 9],
        block_start: &[0, 2, 5],
        blocks: &[0, 1, 0, 2, 3],
        rows: &[2, 3, 3],
        copies: &[(1, 4)],
    };

    #[test]
    fn accepts_a_ragged_step_with_a_shared_prefix() {
        let mut checker = Checker::new(LIMITS);
        for _ in 0..3 {
            assert_eq!(checker.step(&GOOD, Some(2)), Ok(()));
        }
    }

    #[test]
    fn every_wrong_index_is_named() {
        let cases: [(&str, Step<'_>); 20] = [
            ("seq_pos is empty", Step::default()),
            ("seq_pos has 3", Step { seq_pos: &[0; 3], ..GOOD }),
            ("tokens has 9", Step { tokens: &[0; 9], ..GOOD }),
            ("rows has 5", Step { rows: &[0; 5], ..GOOD }),
            ("blocks has 9", Step { blocks: &[0; 9], ..GOOD }),
            ("seq_start has 2", Step { seq_start: &[0, 4], ..GOOD }),
            ("seq_start is empty", Step { seq_start: &[], ..GOOD }),
            ("seq_start[0] = 1", Step { seq_start: &[1, 3, 4], ..GOOD }),
            ("seq_start[2] = 3", Step { seq_start: &[0, 3, 3], ..GOOD }),
            ("seq_start ends at 5", Step { seq_start: &[0, 3, 5], ..GOOD }),
            ("block_start[1] = 0", Step { block_start: &[0, 0, 5], ..GOOD }),
            ("blocks[4] = 8", Step { blocks: &[0, 1, 0, 2, 8], ..GOOD }),
            ("rows[1] = 4", Step { rows: &[2, 4], ..GOOD }),
            ("tokens[0] = 100", Step { tokens: &[100, 6, 7, 8], ..GOOD }),
            ("tokens[3] = -3", Step { tokens: &[5, 6, 7, -3], ..GOOD }),
            ("tokens[3] = -2147483648", Step { tokens: &[5, 6, 7, i32::MIN], ..GOOD }),
            ("copies[0] names block 8", Step { copies: &[(8, 0)], ..GOOD }),
            ("copies[0] copies block 3", Step { copies: &[(3, 3)], ..GOOD }),
            ("seq_pos[1] = 4294967295", Step { seq_pos: &[2, u32::MAX], ..GOOD }),
            ("block_start[1]: the blocks hold 12", Step { seq_pos: &[2, 12], ..GOOD }),
        ];
        for (named, step) in cases {
            let error = Checker::new(LIMITS).step(&step, Some(2)).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        let twice = Step { blocks: &[0, 1, 0, 2, 1], ..GOOD };
        assert!(
            Checker::new(LIMITS).step(&twice, Some(2)).unwrap_err().to_string().contains("written twice")
        );
        assert!(Checker::new(LIMITS).step(&GOOD, None).unwrap_err().to_string().contains("not sampled"));
    }
}
