//! How rows are sampled, packed for one copy: see `kernels/include/sampling.cuh`, whose header this writes.

use tokenmill_backend_model::device::RowSampling;

/// Words of the header and of a row.
const HEADER: usize = 8;
const ROW: usize = 16;

/// Words for `rows` rows, `edits` entries of lists each, and `masks` words of masks.
pub(super) fn words_for(rows: usize, edits: usize, masks: usize) -> usize {
    HEADER + rows * (ROW + 2 * edits) + masks
}

/// Writes uploads. What it holds is used again, so that a steady state allocates nothing.
#[derive(Default)]
pub(super) struct Packer {
    /// Masks of the step, each once: where the caller has them.
    masks: Vec<*const u32>,
    /// By row: 1 + the mask's index, 0 = none.
    mask_of: Vec<u32>,
    mask_words: usize,
    bias: usize,
    seen: usize,
    /// Tokens met in a list.
    met: Met,
    /// Entries of a list by token.
    order: Vec<u32>,
}

// SAFETY: the pointers are compared, never followed.
unsafe impl Send for Packer {}

/// Where the entries of two lists go.
struct Lists {
    bias: usize,
    seen: usize,
}

impl Packer {
    /// Words that `write` will need.
    pub(super) fn measure(&mut self, rows: &[RowSampling<'_>], vocab: usize) -> usize {
        self.met.resize(vocab);
        self.mask_words = vocab.div_ceil(32);
        self.masks.clear();
        self.mask_of.clear();
        // Rows of one grammar often share their mask.
        for row in rows {
            let index = self.masks.iter().position(|mask| *mask == row.mask.as_ptr());
            self.mask_of.push(match index {
                _ if row.mask.is_empty() => 0,
                Some(index) => index as u32 + 1,
                None => {
                    self.masks.push(row.mask.as_ptr());
                    self.masks.len() as u32
                }
            });
        }
        self.bias = rows.iter().map(|row| row.bias_token.len()).sum();
        self.seen = rows.iter().map(|row| row.seen_token.len()).sum();
        HEADER + ROW * rows.len() + 2 * (self.bias + self.seen) + self.masks.len() * self.mask_words
    }

    /// Writes what was measured.
    pub(super) fn write(&mut self, rows: &[RowSampling<'_>], words: &mut [u32]) {
        let bias = HEADER + ROW * rows.len();
        let seen = bias + 2 * self.bias;
        let masks = seen + 2 * self.seen;
        let ends = [bias, bias + self.bias, seen, seen + self.seen, masks, self.mask_words];
        words[0] = rows.len() as u32;
        words[1] = HEADER as u32;
        words[2..HEADER].iter_mut().zip(ends).for_each(|(word, at)| *word = at as u32);

        let mut at = Lists { bias: 0, seen: 0 };
        let mut written = 0;
        for (i, row) in rows.iter().enumerate() {
            let mask = self.mask_of[i];
            words[HEADER + ROW * i..][..ROW].copy_from_slice(&fields(row, &at, mask));
            let values = |entry: usize| row.bias_value[entry].to_bits();
            self.list(words, bias + at.bias, self.bias, row.bias_token, values);
            self.list(words, seen + at.seen, self.seen, row.seen_token, |entry| row.seen_count[entry]);
            at.bias += row.bias_token.len();
            at.seen += row.seen_token.len();
            if mask > written {
                words[masks + (mask as usize - 1) * self.mask_words..][..self.mask_words]
                    .copy_from_slice(&row.mask[..self.mask_words]);
                written = mask;
            }
        }
    }

    /// Writes tokens at `to` and their values `distance` words behind. Entries of one token, which apply in their
    /// order, become neighbours.
    fn list(
        &mut self,
        words: &mut [u32],
        to: usize,
        distance: usize,
        tokens: &[u32],
        value: impl Fn(usize) -> u32,
    ) {
        if self.met.all_once(tokens) {
            words[to..][..tokens.len()].copy_from_slice(tokens);
            for entry in 0..tokens.len() {
                words[to + distance + entry] = value(entry);
            }
            return;
        }
        self.order.clear();
        self.order.extend(0..tokens.len() as u32);
        // By token, then by place.
        self.order.sort_unstable_by_key(|entry| (tokens[*entry as usize], *entry));
        for (i, entry) in self.order.iter().enumerate() {
            words[to + i] = tokens[*entry as usize];
            words[to + distance + i] = value(*entry as usize);
        }
    }
}

/// A row as kernels read it; its lists begin at `at`.
fn fields(row: &RowSampling<'_>, at: &Lists, mask: u32) -> [u32; ROW] {
    [
        row.seed as u32,
        (row.seed >> 32) as u32,
        row.temperature.to_bits(),
        row.top_p.to_bits(),
        row.min_p.to_bits(),
        row.repetition.to_bits(),
        row.presence.to_bits(),
        row.frequency.to_bits(),
        row.top_k,
        row.forced.unwrap_or(u32::MAX),
        at.bias as u32,
        row.bias_token.len() as u32,
        at.seen as u32,
        row.seen_token.len() as u32,
        mask,
        0,
    ]
}

/// A set of tokens.
#[derive(Default)]
struct Met(Vec<u64>);

impl Met {
    fn resize(&mut self, vocab: usize) {
        self.0.resize(vocab.div_ceil(64), 0);
    }

    /// Whether no token comes twice; the set is empty before and after.
    fn all_once(&mut self, tokens: &[u32]) -> bool {
        let once = tokens.iter().position(|token| {
            let (word, bit) = (&mut self.0[*token as usize / 64], 1 << (token % 64));
            let met = *word & bit != 0;
            *word |= bit;
            met
        });
        for token in &tokens[..once.unwrap_or(tokens.len())] {
            self.0[*token as usize / 64] = 0;
        }
        once.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(rows: &[RowSampling<'_>], vocab: usize) -> Vec<u32> {
        let mut packer = Packer::default();
        let mut words = vec![0xdead; packer.measure(rows, vocab)];
        packer.write(rows, &mut words);
        words
    }

    fn ranges(words: &[u32], row: usize) -> [usize; 5] {
        std::array::from_fn(|i| words[HEADER + ROW * row + 10 + i] as usize)
    }

    #[test]
    fn lists_follow_their_rows_in_order() {
        let rows = [
            RowSampling { bias_token: &[9, 2], bias_value: &[0.5, 1.5], ..RowSampling::PLAIN },
            RowSampling {
                bias_token: &[1],
                bias_value: &[2.5],
                seen_token: &[8, 3, 5],
                seen_count: &[1, 0, 2],
                ..RowSampling::PLAIN
            },
        ];
        let words = packed(&rows, 40);
        assert_eq!(words[..2], [2, HEADER as u32]);
        let at = |word: usize| words[word] as usize;
        assert_eq!(words[at(2)..][..3], [9, 2, 1]);
        assert_eq!(words[at(3)..][..3], [0.5, 1.5, 2.5].map(f32::to_bits));
        assert_eq!(words[at(4)..][..3], [8, 3, 5]);
        assert_eq!(words[at(5)..][..3], [1, 0, 2]);
        assert_eq!((at(6), at(7)), (words.len(), 2));
        assert_eq!(ranges(&words, 0), [0, 2, 0, 0, 0]);
        assert_eq!(ranges(&words, 1), [2, 1, 0, 3, 0]);
    }

    #[test]
    fn entries_of_one_token_become_neighbours_in_their_order() {
        let row = RowSampling {
            bias_token: &[7, 3, 7, 5, 3],
            bias_value: &[1.0, 2.0, 3.0, 4.0, 5.0],
            ..RowSampling::PLAIN
        };
        let words = packed(&[row], 8);
        assert_eq!(words[words[2] as usize..][..5], [3, 3, 5, 7, 7]);
        assert_eq!(words[words[3] as usize..][..5], [2.0, 5.0, 4.0, 1.0, 3.0].map(f32::to_bits));
    }

    #[test]
    fn a_mask_that_rows_share_is_written_once() {
        let masks = [[1, 2], [3, 4]];
        let rows = [1, 0, 1, 9]
            .map(|i| RowSampling { mask: masks.get(i).map_or(&[], |m| &m[..]), ..RowSampling::PLAIN });
        let words = packed(&rows, 33);
        assert_eq!(words[words[6] as usize..], [3, 4, 1, 2]);
        assert_eq!([0, 1, 2, 3].map(|row| ranges(&words, row)[4]), [1, 2, 1, 0]);
    }

    #[test]
    fn a_list_leaves_no_token_behind_for_the_next() {
        let mut met = Met::default();
        met.resize(200);
        for tokens in [&[1, 64, 199][..], &[5, 6, 5, 9], &[9, 6, 5, 1, 64, 199]] {
            let twice = (1..tokens.len()).any(|i| tokens[..i].contains(&tokens[i]));
            assert_eq!(met.all_once(tokens), !twice);
        }
    }
}
