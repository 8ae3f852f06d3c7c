//! Stop strings over a stream: holds back text that may still become one.
//!
//! One Knuth-Morris-Pratt automaton per stop string (Knuth, Morris, Pratt 1977) runs over the bytes of the
//! output, so the answer never depends on where tokens were cut. The stop string that is complete first wins;
//! of several complete at the same byte, the longest.

/// A stop string was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopMatch {
    /// Index into the list given to [`StopMatcher::new`].
    pub stop: usize,
    /// Byte offset in the whole output at which the stop string begins.
    pub position: usize,
}

/// What one [`StopMatcher::push`] lets out.
#[derive(Debug, PartialEq, Eq)]
pub struct StopOutput<'a> {
    /// Text that may be sent now.
    pub text: &'a str,
    /// Set when a stop string is complete; `text` is then the last text of this sequence.
    pub matched: Option<StopMatch>,
}

/// Watches the output of one sequence for its stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    include_stop: bool,
    /// Text not let out yet, then (from `sent` on) what the last call returned is dropped lazily.
    held: String,
    sent: usize,
    /// Byte offset of `held[0]` in the whole output.
    start: usize,
    done: bool,
}

#[derive(Debug, Clone)]
struct Stop {
    index: usize,
    text: Vec<u8>,
    /// `fail[n]`: length of the longest proper prefix that is also a suffix of the first `n` bytes.
    fail: Vec<usize>,
    /// How many bytes of `text` the output ends with now.
    state: usize,
}

impl Stop {
    fn new(index: usize, text: &str) -> Stop {
        let text = text.as_bytes().to_vec();
        let mut fail = vec![0; text.len() + 1];
        let mut k = 0;
        for i in 1..text.len() {
            while k > 0 && text[i] != text[k] {
                k = fail[k];
            }
            k += usize::from(text[i] == text[k]);
            fail[i + 1] = k;
        }
        Stop { index, text, fail, state: 0 }
    }

    /// Moves on by one byte; true when the stop string is complete.
    fn step(&mut self, byte: u8) -> bool {
        while self.state > 0 && self.text[self.state] != byte {
            self.state = self.fail[self.state];
        }
        self.state += usize::from(self.text[self.state] == byte);
        self.state == self.text.len()
    }
}

impl StopMatcher {
    /// A matcher for `stops`; empty ones are left out. With `include_stop` the stop string itself is let out too.
    pub fn new(stops: &[String], include_stop: bool) -> Self {
        let stops = stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        let stops = stops.map(|(index, text)| Stop::new(index, text)).collect();
        StopMatcher { stops, include_stop, held: String::new(), sent: 0, start: 0, done: false }
    }

    /// Takes the next piece of output; after a match every further push returns nothing.
    pub fn push(&mut self, piece: &str) -> StopOutput<'_> {
        self.drop_sent();
        if self.done {
            return StopOutput { text: "", matched: None };
        }
        let old = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            let complete =
                self.stops.iter_mut().filter_map(|s| s.step(byte).then_some((s.text.len(), s.index)));
            // Longest first; of equal strings the first in the list.
            if let Some((len, stop)) = complete.max_by_key(|&(len, index)| (len, std::cmp::Reverse(index))) {
                let end = old + i + 1;
                let matched = Some(StopMatch { stop, position: self.start + end - len });
                self.done = true;
                self.sent = self.held.len();
                let text = &self.held[..if self.include_stop { end } else { end - len }];
                return StopOutput { text, matched };
            }
        }
        // A stop string begins with a whole character, so this cut is never inside one.
        let keep = self.stops.iter().map(|s| s.state).max().unwrap_or(0);
        self.sent = self.held.len() - keep;
        StopOutput { text: &self.held[..self.sent], matched: None }
    }

    /// The text still held back, for a sequence that ends without a match.
    pub fn flush(&mut self) -> &str {
        self.drop_sent();
        self.done = true;
        self.sent = self.held.len();
        &self.held
    }

    fn drop_sent(&mut self) {
        self.held.drain(..self.sent);
        self.start += self.sent;
        self.sent = 0;
    }
}
