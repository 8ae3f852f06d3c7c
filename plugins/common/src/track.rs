use tokenmill_policy::schedule::View;

/// What a scheduler remembers of each sequence, in the order of the view: the view keeps its order from call
/// to call, so that one walk beside it finds them all.
pub struct Track<T> {
    known: Vec<(u64, T)>,
    next: Vec<(u64, T)>,
}

impl<T> Default for Track<T> {
    fn default() -> Self {
        Self { known: Vec::new(), next: Vec::new() }
    }
}

impl<T> Track<T> {
    /// Goes to the sequences of this view: `first` is asked for what is new, `last` is told what ended.
    /// Entry i is then of the view's sequence i.
    pub fn advance(
        &mut self,
        view: &dyn View,
        mut first: impl FnMut(usize) -> T,
        mut last: impl FnMut(T),
    ) -> &mut [(u64, T)] {
        let ids = view.ids();
        let same = self.known.len() <= ids.len() && self.known.iter().zip(ids).all(|(one, id)| one.0 == *id);
        if !same {
            let mut known = self.known.drain(..).peekable();
            self.next.clear();
            for (i, &id) in ids.iter().enumerate() {
                // New sequences come last: one that is not here has ended.
                while let Some((_, gone)) = known.next_if(|one| one.0 != id) {
                    last(gone);
                }
                let entry = known.next().map_or_else(|| first(i), |one| one.1);
                self.next.push((id, entry));
            }
            known.for_each(|(_, gone)| last(gone));
            std::mem::swap(&mut self.known, &mut self.next);
        }
        for (i, &id) in ids.iter().enumerate().skip(self.known.len()) {
            self.known.push((id, first(i)));
        }
        &mut self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::schedule::Columns;

    #[test]
    fn entries_follow_their_sequences() {
        let mut track = Track::default();
        let mut ended = Vec::new();
        let mut step = |ids: &[u64]| -> Vec<(u64, u64)> {
            let view = Columns { ids, ..Columns::default() };
            track.advance(&view, |i| ids[i] * 10, |gone| ended.push(gone)).to_vec()
        };
        assert_eq!(step(&[1, 2, 3]), [(1, 10), (2, 20), (3, 30)]);
        assert_eq!(step(&[1, 2, 3, 4]), [(1, 10), (2, 20), (3, 30), (4, 40)]);
        assert_eq!(step(&[2, 4, 5]), [(2, 20), (4, 40), (5, 50)]);
        assert_eq!(step(&[]), []);
        assert_eq!(ended, [10, 30, 20, 40, 50]);
    }
}
