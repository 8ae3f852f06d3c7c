use std::sync::{Arc, Mutex};

use tokenmill_engine::{Event, Failure, FinishReason, Output};

/// One branch of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Branch {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub end: Option<FinishReason>,
}

impl Branch {
    /// Sum of log-probabilities by a power of the length.
    pub fn score(&self, penalty: f64) -> f64 {
        let sum: f64 = self.logprobs.iter().copied().map(f64::from).sum();
        sum / (self.tokens.len() as f64).powf(penalty)
    }
}

/// What the engine told of a request, branch by branch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub branches: Vec<Branch>,
    pub failure: Option<Failure>,
    pub done: bool,
}

impl Answer {
    /// The best of what was not pruned, best first.
    pub fn best(&self, penalty: f64) -> Vec<&Branch> {
        let mut kept: Vec<_> =
            self.branches.iter().filter(|branch| branch.end != Some(FinishReason::Pruned)).collect();
        kept.sort_by(|a, b| b.score(penalty).total_cmp(&a.score(penalty)));
        kept
    }

    /// The only branch of an answer.
    pub fn only(&self) -> &Branch {
        assert_eq!((self.branches.len(), &self.failure), (1, &None));
        &self.branches[0]
    }

    fn branch(&mut self, branch: u32) -> &mut Branch {
        let len = self.branches.len().max(branch as usize + 1);
        self.branches.resize_with(len, Branch::default);
        &mut self.branches[branch as usize]
    }
}

/// Writes an answer down.
#[derive(Clone, Default)]
pub(crate) struct Recorder(pub(crate) Arc<Mutex<Answer>>);

impl Output for Recorder {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        let mut answer = self.0.lock().unwrap();
        match event {
            Event::Prompt { .. } => {}
            Event::Token { branch, token, logprob, .. } => {
                let branch = answer.branch(branch);
                assert_eq!(branch.end, None);
                branch.tokens.push(token);
                branch.logprobs.push(logprob);
            }
            Event::Forked { branch, parent } => {
                let parent = answer.branch(parent).clone();
                assert_eq!(parent.end, None);
                *answer.branch(branch) = parent;
            }
            Event::Finished { branch, reason } => answer.branch(branch).end = Some(reason),
            Event::Done(_) => answer.done = true,
            Event::Failed(failure) => answer.failure = Some(failure.clone()),
        }
        true
    }
}
