use tokenmill_policy::schedule::View;

/// What a scheduler remembers of each sequence, in the order of the view: the view keeps its order from call
/// to call, so that one walk beside it finds them all.
pub struct Track<T> {
    known: Vec<(u64, T)>,
    next: Vec<(u64, T)>,
    ended: Vec<T>,
}

impl<T> Default for Track<T> {
    fn default() -> Self {
        Self { known: Vec::new(), next: Vec::new(), ended: Vec::new() }
    }
}

impl<T> Track<T> {
    /// Goes to the sequences of this view; `first` is asked for what is new. Entry i, with its id, is then
    /// of the view's sequence i.
    pub fn advance(&mut self, view: &dyn View, mut first: impl FnMut(usize) -> T) -> &mut [(u64, T)] {
        let Self { known, next, ended } = self;
        let ids = view.ids();
        let same = known.len() <= ids.len() && known.iter().zip(ids).all(|(one, id)| one.0 == *id);
        if !same {
            next.clear();
            let mut before = known.drain(..).peekable();
            for (i, &id) in ids.iter().enumerate() {
                // New sequences come last: one that is not here has ended.
                while let Some((_, gone)) = before.next_if(|one| one.0 != id) {
                    ended.push(gone);
                }
                let entry = before.next().map_or_else(|| first(i), |one| one.1);
                next.push((id, entry));
            }
            ended.extend(before.map(|(_, gone)| gone));
            std::mem::swap(known, next);
        }
        for (i, &id) in ids.iter().enumerate().skip(known.len()) {
            known.push((id, first(i)));
        }
        known
    }

    /// By sequence of the view that was advanced to.
    pub fn entries(&mut self) -> &mut [(u64, T)] {
        &mut self.known
    }

    /// Takes the entries of the sequences that have ended.
    pub fn ended(&mut self) -> impl Iterator<Item = T> {
        self.ended.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::schedule::Columns;

    #[test]
    fn entries_follow_their_sequences() {
        let mut track = Track::default();
        let mut step = |ids: &[u64]| -> (Vec<(u64, u64)>, Vec<u64>) {
            let view = Columns { ids, ..Columns::default() };
            (track.advance(&view, |i| ids[i] * 10).to_vec(), track.ended().collect())
        };
        assert_eq!(step(&[1, 2, 3]), (vec![(1, 10), (2, 20), (3, 30)], vec![]));
        assert_eq!(step(&[1, 2, 3, 4]), (vec![(1, 10), (2, 20), (3, 30), (4, 40)], vec![]));
        assert_eq!(step(&[2, 4, 5]), (vec![(2, 20), (4, 40), (5, 50)], vec![10, 30]));
        assert_eq!(step(&[]), (vec![], vec![20, 40, 50]));
    }
}
