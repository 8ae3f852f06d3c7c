use tokenmill_policy::schedule::{Order, View};

/// Plans a step for a scheduler that is a rank: what decodes gets its token, and prompts get the rest of the
/// budget in the order of their rank. That order also decides who is preempted: the last.
pub struct Queue<K> {
    /// Those that can run now, by rank.
    entries: Vec<Entry<K>>,
    /// Those of them that hold no KV yet.
    waiting: Vec<Entry<K>>,
    /// Which entries are prompts.
    prompts: Vec<usize>,
}

/// A sequence with something to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq {
    pub index: usize,
    /// Tokens to compute, at least one.
    pub pending: u32,
    /// Tokens whose KV is held.
    pub resident: u32,
}

impl Seq {
    pub fn decodes(&self) -> bool {
        self.resident > 0 && self.pending == 1
    }

    /// Whether it has yet to start.
    pub fn waits(&self) -> bool {
        self.resident == 0
    }
}

#[derive(Clone, Copy)]
struct Entry<K> {
    rank: K,
    seq: Seq,
    tokens: u32,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), waiting: Vec::new(), prompts: Vec::new() }
    }
}

/// No share is smaller than this part of the budget, unless less is pending or left: tiny chunks waste a step.
const LEAST: u32 = 8;

impl<K: Ord + Copy> Queue<K> {
    /// `rank` gives a sequence its place, the least first and of equal ones those that run, then in
    /// order of arrival; none holds it back.
    /// Of two prompts in a row that `share`, the first takes at most half of what is left.
    pub fn plan(
        &mut self,
        view: &dyn View,
        order: &mut Order,
        rank: impl FnMut(&Seq) -> Option<K>,
        share: impl Fn(K, K) -> bool,
    ) {
        let decoding = self.fill(view, rank);
        self.seat(view.free_seqs() as usize);
        let budget = view.token_budget();
        self.give(budget, budget.saturating_sub(decoding), share);
        order.indices.reserve(self.entries.len());
        order.tokens.reserve(self.entries.len());
        for Entry { seq, tokens, .. } in &self.entries {
            // A prompt that gets nothing now keeps its place all the same.
            if *tokens > 0 || !seq.waits() {
                order.indices.push(seq.index as u32);
                order.tokens.push(*tokens);
            }
        }
    }

    /// Ranks what has something to compute; counts those that decode.
    fn fill(&mut self, view: &dyn View, mut rank: impl FnMut(&Seq) -> Option<K>) -> u32 {
        self.entries.clear();
        self.waiting.clear();
        let seats = view.free_seqs() > 0;
        let mut decoding = 0;
        for (index, (&pending, &resident)) in view.pending().iter().zip(view.resident()).enumerate() {
            let seq = Seq { index, pending, resident };
            if pending == 0 {
                continue;
            }
            let Some(rank) = rank(&seq) else { continue };
            if seq.waits() {
                if seats {
                    self.waiting.push(Entry { rank, seq, tokens: 0 });
                }
            } else {
                let tokens = u32::from(seq.decodes());
                decoding += tokens;
                self.entries.push(Entry { rank, seq, tokens });
            }
        }
        decoding
    }

    /// The first `seats` of those that wait join the others.
    fn seat(&mut self, seats: usize) {
        let Self { entries, waiting, .. } = self;
        // Indices make the choice between equal ranks that of arrival.
        if seats < waiting.len() {
            waiting.select_nth_unstable_by_key(seats, |entry| (entry.rank, entry.seq.index));
            waiting.truncate(seats);
            waiting.sort_unstable_by_key(|entry| entry.seq.index);
        }
        entries.append(waiting);
        // Ranks are few or nearly in order, which a stable sort is quick with.
        entries.sort_by_key(|entry| entry.rank);
    }

    /// Divides what the decoding sequences leave of the budget among the prompts.
    fn give(&mut self, budget: u32, mut left: u32, share: impl Fn(K, K) -> bool) {
        let Self { entries, prompts, .. } = self;
        prompts.clear();
        prompts.extend((0..entries.len()).filter(|&i| !entries[i].seq.decodes()));
        // What later prompts leave over goes to the earlier ones.
        for all in [false, true] {
            for (nth, &i) in prompts.iter().enumerate() {
                if left == 0 {
                    return;
                }
                let behind = prompts.get(nth + 1).filter(|_| !all).map(|&next| entries[next].rank);
                let half = behind.is_some_and(|behind| share(entries[i].rank, behind));
                let most = if half { left.div_ceil(2).max(budget / LEAST).min(left) } else { left };
                let entry = &mut entries[i];
                let more = (entry.seq.pending - entry.tokens).min(most);
                entry.tokens += more;
                left -= more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenmill_policy::{Fcfs, Scheduler, schedule::Columns};

    fn plan<K: Ord + Copy>(
        view: &Columns,
        rank: impl FnMut(&Seq) -> Option<K>,
        share: impl Fn(K, K) -> bool,
    ) -> Vec<(u32, u32)> {
        let mut order = Order::default();
        Queue::default().plan(view, &mut order, rank, share);
        order.indices.into_iter().zip(order.tokens).collect()
    }

    #[test]
    fn ranks_decide_who_gets_what_is_left_and_who_starts() {
        let view = Columns {
            token_budget: 10,
            free_seqs: 1,
            pending: &[1, 20, 20, 3, 0],
            resident: &[5, 9, 0, 0, 7],
            ..Columns::default()
        };
        let backwards = |seq: &Seq| Some(9 - seq.index);
        assert_eq!(plan(&view, backwards, |_, _| false), [(3, 3), (1, 6), (0, 1)]);
        assert_eq!(plan(&view, backwards, |_, _| true), [(3, 3), (1, 6), (0, 1)]);
        let held = |seq: &Seq| (seq.index != 3).then_some(seq.index);
        assert_eq!(plan(&view, held, |_, _| false), [(0, 1), (1, 9)]);
        assert_eq!(plan(&view, held, |_, _| true), [(0, 1), (1, 5), (2, 4)]);
    }

    proptest! {
        #[test]
        fn in_order_of_arrival_with_shares_it_is_fcfs(
            budget in 0u32..600,
            free_seqs in 0u32..6,
            sequences in prop::collection::vec((prop_oneof![0u32..3, 0u32..300], prop_oneof![Just(0u32), 0u32..99]), 0..20),
        ) {
            let (pending, resident): (Vec<u32>, Vec<u32>) = sequences.into_iter().unzip();
            let columns = Columns { token_budget: budget, free_seqs, ..Columns::default() };
            let view = Columns { pending: &pending, resident: &resident, ..columns };
            let mut order = Order::default();
            prop_assert_eq!(Fcfs::default().plan(&view, &mut order), Ok(()));
            let expected: Vec<_> = order.indices.into_iter().zip(order.tokens).collect();
            prop_assert_eq!(plan(&view, |seq| Some(seq.index), |_, _| true), expected);
        }
    }
}
