use tokenmill_policy::Error;
use tokenmill_policy::sample::{Choices, Logits, View};

use crate::Sequences;

/// Candidates of a row to ask for where the distribution decides how many it takes: more than most need.
pub const FEW: u32 = 64;
/// Candidates to ask for at most: what costs a step microseconds, and leaves out what is hardly ever drawn.
const MOST: u32 = 512;
/// Rows of one call of the host: its cost is next to nothing for each, and their candidates stay in a processor's cache.
const BATCH: usize = 64;

/// The most likely tokens of an inspected row, most likely first; there is at least one.
pub struct Candidates<'a> {
    pub tokens: &'a [u32],
    pub logprobs: &'a [f32],
    /// The row's random number.
    pub seed: u64,
    /// More are not to be had.
    pub last: bool,
}

impl<T> Sequences<Result<T, String>> {
    /// Chooses a token for each inspected row, except for requests that were refused. `k` says how many candidates a
    /// sequence needs at first. `token` is given what is known of it and these; if it returns none it is asked again
    /// with four times as many, and must choose once they are the last: 512, or all that there are.
    pub fn choose(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        (rows, choices): (&[u32], &mut Choices),
        k: impl Fn(&T) -> u32,
        mut token: impl FnMut(&mut T, Candidates<'_>) -> Option<u32>,
    ) -> Result<(), Error> {
        let (ids, seeds) = (view.ids(), view.seeds());
        let undecided = |why: &str| Err(Error::Undecided(why.into()));
        let (mut asked, mut ks) = (Vec::new(), Vec::new());
        for batch in rows.chunks(BATCH) {
            for &row in batch {
                if let Some(Ok(known)) = self.find(ids[row as usize]) {
                    asked.push(row);
                    ks.push(k(known));
                }
            }
            while !asked.is_empty() {
                let found = logits.batch_top_k(&asked, &ks)?;
                let mut more = 0;
                for nth in 0..asked.len() {
                    let (row, k, (tokens, logprobs)) = (asked[nth], ks[nth], found.get(nth));
                    let Some(Ok(known)) = self.find(ids[row as usize]) else { continue };
                    if tokens.is_empty() {
                        return undecided("a row has no candidates");
                    }
                    let last = k >= MOST || tokens.len() < k as usize;
                    match token(known, Candidates { tokens, logprobs, seed: seeds[row as usize], last }) {
                        Some(token) => choices.accept.push((row, token)),
                        None if last => return undecided("no candidate of a row was chosen"),
                        None => {
                            (asked[more], ks[more]) = (row, (k * 4).min(MOST));
                            more += 1;
                        }
                    }
                }
                asked.truncate(more);
                ks.truncate(more);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::sample::Columns;

    /// Of so many tokens, token t has the log-probability -t; which rows were asked for how many.
    struct Falling(u32, Vec<(u32, u32)>);

    impl Logits for Falling {
        fn vocab(&self) -> u32 {
            self.0
        }

        fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
            self.1.push((row, k));
            let all = 0..k.min(self.0);
            Ok((all.clone().collect(), all.map(|t| -(t as f32)).collect()))
        }

        fn read(&mut self, _: u32) -> Result<&[f32], Error> {
            Err(Error::Undecided("not needed".into()))
        }
    }

    const ROWS: Columns<'_> = Columns {
        ids: &[9, 8, 7, 6],
        seeds: &[1, 2, 3, 4],
        requests: &[],
        tenants: &[],
        positions: &[],
        generated: &[],
        remaining: &[],
        scores: &[],
        accepted: tokenmill_policy::sample::Ragged { starts: &[], values: &[] },
        assumed: tokenmill_policy::sample::Ragged { starts: &[], values: &[] },
        finished: &[],
        attributes: None,
    };

    /// Sequence 9 is new, 8 was refused, the others want as many candidates as is known of them.
    fn known() -> Sequences<Result<usize, String>> {
        let mut known = Sequences::default();
        known.get(8, || Err("no".into())).as_ref().unwrap_err();
        known.get(7, || Ok(3)).as_ref().unwrap();
        known.get(6, || Ok(100)).as_ref().unwrap();
        known
    }

    #[test]
    fn refused_requests_and_new_ones_are_left_out() {
        let (mut logits, mut choices) = (Falling(2000, Vec::new()), Choices::default());
        let token = |_: &mut usize, row: Candidates<'_>| Some(row.tokens.len() as u32 * 10 + row.seed as u32);
        let chosen = known().choose(&ROWS, &mut logits, (&[0, 1, 2], &mut choices), |_| 5, token);
        assert_eq!((chosen, choices.accept), (Ok(()), vec![(2, 53)]));
    }

    #[test]
    fn candidates_grow_until_they_are_enough_or_the_last() {
        let choose = |vocab, wanted: usize| {
            let (mut logits, mut choices) = (Falling(vocab, Vec::new()), Choices::default());
            let token = |least: &mut usize, row: Candidates<'_>| {
                (row.last || row.tokens.len() >= *least + wanted).then_some(row.tokens.len() as u32)
            };
            known().choose(&ROWS, &mut logits, (&[2, 3], &mut choices), |_| FEW, token).unwrap();
            (choices.accept, logits.1)
        };
        let (both, more) = ([(2, 64), (3, 64)], [(2, 256), (3, 256)]);
        assert_eq!(choose(2000, 0), (vec![(2, 64), (3, 256)], [&both[..], &more[1..]].concat()));
        assert_eq!(choose(70, 100), (vec![(2, 70), (3, 70)], [both, more].concat()));
        let last = [(2, 512), (3, 512)];
        assert_eq!(choose(2000, 9999), (last.into(), [both, more, last].concat()));
    }

    #[test]
    fn there_is_no_choice_without_candidates() {
        let choose = |vocab| {
            let choices = &mut Choices::default();
            known().choose(&ROWS, &mut Falling(vocab, Vec::new()), (&[2], choices), |_| FEW, |_, _| None)
        };
        let why = |chosen: Result<(), Error>| chosen.unwrap_err().to_string();
        assert!(why(choose(0)).contains("a row has no candidates"));
        assert!(why(choose(2000)).contains("no candidate of a row was chosen"));
    }
}
