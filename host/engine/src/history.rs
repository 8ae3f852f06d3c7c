//! The tokens of a sequence, cheap to add to.

/// What a sequence touches in every step fills two cache lines with them.
const RECENT: usize = 14;

/// The newest tokens lie beside the rest of the sequence and move to the long list some at a time: with
/// thousands of sequences each list is a page of its own, and touching all of them in every step is dear.
#[derive(Default)]
#[repr(C)]
pub(crate) struct History {
    older: Vec<u32>,
    n: u32,
    recent: [u32; RECENT],
}

impl History {
    pub(crate) fn new(tokens: Vec<u32>) -> Self {
        Self { older: tokens, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.older.len() + self.n as usize
    }

    #[inline]
    pub(crate) fn push(&mut self, token: u32) {
        if self.n as usize == RECENT {
            self.flush();
        }
        self.recent[self.n as usize] = token;
        self.n += 1;
    }

    /// All tokens in order.
    pub(crate) fn all(&mut self) -> &[u32] {
        self.flush();
        &self.older
    }

    /// Room for so many tokens without another allocation.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        self.older.reserve_exact(tokens.saturating_sub(self.older.len()));
    }

    fn flush(&mut self) {
        self.older.extend_from_slice(&self.recent[..self.n as usize]);
        self.n = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_in_order_whenever_they_are_read() {
        for every in 1..40 {
            let mut history = History::new(vec![0, 1, 2]);
            for token in 3..100 {
                history.push(token);
                assert_eq!(history.len() as u32, token + 1);
                if token % every == 0 {
                    assert!(history.all().iter().copied().eq(0..=token));
                }
            }
        }
    }
}
