use super::*;
use crate::sample::Columns;

/// Rows, and the two most likely tokens of the first with their log-probabilities.
type Shown = (Vec<u32>, Vec<u32>, Vec<f32>);

/// Answers as it is told; inspects what `pick` has an answer for.
#[derive(Clone, Default)]
struct Says {
    knobs: Knobs,
    choices: Choices,
    fails: bool,
    /// What the last `pick` was shown.
    shown: Arc<Mutex<Shown>>,
}

impl Sampler for Says {
    fn plan(&mut self, _: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        *knobs = self.knobs.clone();
        if self.fails { Err(Error::Undecided("no".into())) } else { Ok(()) }
    }

    fn pick(
        &mut self,
        _: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        let (tokens, logprobs) = logits.top_k(rows[0], 2).unwrap_or_default();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = (rows.to_vec(), tokens, logprobs);
        *choices = self.choices.clone();
        Ok(())
    }
}

/// Token t has the logit t.
struct Rising;

impl Logits for Rising {
    fn vocab(&self) -> u32 {
        40
    }

    fn top_k(&mut self, _: u32, _: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        Err(Error::Undecided("it knows of no mask".into()))
    }

    fn read(&mut self, _: u32) -> Result<&[f32], Error> {
        static ALL: [f32; 40] = {
            let mut all = [0.0; 40];
            let mut token = 0;
            while token < 40 {
                all[token] = token as f32;
                token += 1;
            }
            all
        };
        Ok(&ALL)
    }
}

fn mask(tokens: &[u32]) -> Mask {
    let mut words = [0u32; 2];
    tokens.iter().for_each(|token| words[*token as usize / 32] |= 1 << (token % 32));
    words.into()
}

/// The form lets 1, 2, 3 and 33 through in rows 0 and 1, and ends row 2.
fn form() -> Says {
    let allow = vec![(0, mask(&[1, 2, 3, 33])), (1, mask(&[1, 2, 3, 33]))];
    let finish = Choices { finish: vec![2], ..Choices::default() };
    Says { knobs: Knobs { allow, inspect: vec![2], ..Knobs::default() }, choices: finish, ..Says::default() }
}

fn ask(policy: Says, enforcing: bool) -> Result<(Knobs, Choices), Error> {
    let mut both = Within::new(Box::new(form()), Box::new(policy), enforcing, 40);
    let view = Columns { ids: &[1, 2, 3], ..Columns::default() };
    let (mut knobs, mut choices) = (Knobs::default(), Choices::default());
    both.plan(&view, &mut knobs)?;
    both.pick(&view, &mut Rising, &knobs.inspect, &mut choices)?;
    Ok((knobs, choices))
}

fn knobs(knobs: Knobs) -> Says {
    Says { knobs, ..Says::default() }
}

#[test]
fn masks_hold_together_and_other_knobs_pass() {
    let asked = Knobs {
        allow: vec![(0, mask(&[2, 33, 39])), (2, mask(&[7]))],
        temperature: vec![(0, 0.5), (2, 0.1)],
        bias: vec![(1, 3, 4.0)],
        ..Knobs::default()
    };
    let (turned, choices) = ask(knobs(asked), false).unwrap_or_default();
    assert_eq!(turned.allow, [(0, mask(&[2, 33])), (1, mask(&[1, 2, 3, 33]))]);
    assert_eq!((turned.temperature, turned.bias), (vec![(0, 0.5)], vec![(1, 3, 4.0)]));
    assert_eq!((turned.inspect, choices.finish), (vec![2], vec![2]));
    assert!(turned.undecided.is_empty() && turned.again.is_empty());
}

#[test]
fn a_policy_is_shown_the_tokens_of_the_form_alone() {
    let asked = Knobs { inspect: vec![0, 1, 2], allow: vec![(0, mask(&[1, 33]))], ..Knobs::default() };
    let choices = Choices { accept: vec![(0, 33), (1, 2), (1, 3)], ..Choices::default() };
    let policy = Says { knobs: asked, choices, ..Says::default() };
    let shown = policy.shown.clone();
    let (turned, choices) = ask(policy, false).unwrap_or_default();
    assert_eq!(turned.inspect, [2, 0, 1]);
    assert_eq!((choices.finish, choices.accept), (vec![2], vec![(0, 33), (1, 2), (1, 3)]));
    let (rows, tokens, logprobs) = shown.lock().map(|shown| shown.clone()).unwrap_or_default();
    assert_eq!((rows, tokens), (vec![0, 1], vec![33, 1]));
    assert!(logprobs[0].abs() < 1e-6 && (logprobs[1] + 32.0).abs() < 1e-5, "{logprobs:?}");
}

#[test]
fn whatever_the_policy_does_the_form_holds() {
    let nothing_left = Knobs { allow: vec![(0, mask(&[7]))], ..Knobs::default() };
    let wrong = Knobs { allow: vec![(9, mask(&[1]))], inspect: vec![9], ..Knobs::default() };
    let outside = Says {
        knobs: Knobs { inspect: vec![0], ..Knobs::default() },
        choices: Choices { accept: vec![(0, 7)], ..Choices::default() },
        ..Says::default()
    };
    let failing = Says { fails: true, ..Says::default() };
    for (policy, rows) in
        [(knobs(nothing_left), &[0][..]), (knobs(wrong), &[0, 1, 2]), (outside, &[0]), (failing, &[0, 1, 2])]
    {
        for enforcing in [false, true] {
            let (turned, choices) = ask(policy.clone(), enforcing).unwrap_or_default();
            assert_eq!(turned.allow, form().knobs.allow);
            assert_eq!([turned.again, choices.again].concat(), rows);
            let undecided = [turned.undecided, choices.undecided].concat();
            assert_eq!(undecided, if enforcing { rows } else { &[] });
            assert!(choices.accept.is_empty() && choices.finish == [2]);
        }
    }
}

#[test]
fn without_the_form_there_is_no_answer() {
    let failing = Says { fails: true, ..form() };
    let mut both = Within::new(Box::new(failing), Box::new(Says::default()), false, 40);
    let view = Columns { ids: &[1, 2, 3], ..Columns::default() };
    assert!(both.plan(&view, &mut Knobs::default()).is_err());
}
