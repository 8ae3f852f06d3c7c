use tokenmill_policy::Error;
use tokenmill_policy::sample::{Choices, View};

use crate::Sequences;

impl<T> Sequences<Result<T, String>> {
    /// Chooses a token for each inspected row, except for requests that were refused. `token` is given what is known of
    /// the row's sequence, the row and its random number.
    pub fn choose(
        &mut self,
        view: &dyn View,
        rows: &[u32],
        choices: &mut Choices,
        mut token: impl FnMut(&mut T, u32, u64) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        for &row in rows {
            let at = row as usize;
            if let Some(Ok(known)) = self.find(view.ids()[at]) {
                choices.accept.push((row, token(known, row, view.seeds()[at])?));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::sample::Columns;

    #[test]
    fn refused_requests_and_new_ones_are_left_out() {
        let mut known: Sequences<Result<u32, String>> = Sequences::default();
        known.get(7, || Ok(70)).as_mut().map(|token| *token += 1).unwrap_or_default();
        known.get(8, || Err("no".into())).as_ref().unwrap_err();
        let view = Columns { ids: &[9, 8, 7], seeds: &[1, 2, 3], ..Columns::default() };
        let mut choices = Choices::default();
        let token = |token: &mut u32, row, seed| Ok(*token + 1000 * row + 10_000 * seed as u32);
        assert_eq!(known.choose(&view, &[0, 1, 2], &mut choices, token), Ok(()));
        assert_eq!(choices.accept, [(2, 32_071)]);
        let no = Err(Error::Undecided("no".into()));
        assert_eq!(known.choose(&view, &[2], &mut choices, |_, _, _| no.clone()).err(), no.err());
    }
}
