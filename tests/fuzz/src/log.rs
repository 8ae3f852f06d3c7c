//! A receiver that finds fault with the order and the content of its events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokenmill_engine::{Event, Failure, FinishReason, Output, Request};

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Heard>>);

#[derive(Default)]
pub(crate) struct Heard {
    vocab: u32,
    most_tokens: usize,
    /// Branches that have not ended, at most.
    most_branches: usize,
    branches: BTreeMap<u32, Branch>,
    /// Its first token comes next.
    forked: Option<u32>,
    pub(crate) prompt: bool,
    pub(crate) done: bool,
    pub(crate) failure: Option<Failure>,
}

#[derive(Clone, Default)]
pub(crate) struct Branch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) reason: Option<FinishReason>,
}

impl Log {
    pub(crate) fn new(request: &Request, vocab: u32) -> Self {
        let heard = Heard {
            vocab,
            most_tokens: request.max_tokens as usize,
            most_branches: request.n.max(request.max_branches) as usize,
            branches: (0..request.n).map(|branch| (branch, Branch::default())).collect(),
            ..Heard::default()
        };
        Self(Arc::new(Mutex::new(heard)))
    }

    pub(crate) fn output(&self) -> Box<dyn Output> {
        Box::new(self.clone())
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&Heard) -> R) -> R {
        read(&self.0.lock().unwrap())
    }
}

impl Output for Log {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        self.0.lock().unwrap().hear(event);
        true
    }
}

impl Heard {
    pub(crate) fn ended(&self) -> bool {
        self.done || self.failure.is_some()
    }

    pub(crate) fn tokens(&self, branch: u32) -> &[u32] {
        &self.branches[&branch].tokens
    }

    pub(crate) fn all(&self, holds: impl Fn(&[u32]) -> bool) -> bool {
        self.branches.values().all(|branch| holds(&branch.tokens))
    }

    fn hear(&mut self, event: Event<'_>) {
        assert!(!self.ended(), "{event:?} after the last event");
        if let Some(branch) = self.forked.take() {
            let own = matches!(event, Event::Token { branch: of, .. } if of == branch);
            assert!(own || matches!(event, Event::Failed(_)), "{event:?} instead of a new branch's token");
        }
        match event {
            Event::Prompt { .. } => assert!(!std::mem::replace(&mut self.prompt, true), "the prompt twice"),
            Event::Forked { branch, parent } => {
                let copy = self.branches[&parent].clone();
                assert_eq!(copy.reason, None, "branch {parent} ended before branch {branch}");
                assert!(self.branches.insert(branch, copy).is_none(), "branch {branch} is not new");
                self.forked = Some(branch);
            }
            Event::Token { branch, token, logprob, .. } => self.token(branch, token, logprob),
            Event::Finished { branch, reason } => {
                let branch = self.branches.get_mut(&branch).unwrap();
                assert_eq!(branch.reason.replace(reason), None, "a branch ended twice");
            }
            Event::Done(_) => {
                assert!(self.branches.values().all(|branch| branch.reason.is_some()), "a branch has no end");
                self.done = true;
            }
            Event::Failed(failure) => self.failure = Some(failure.clone()),
        }
    }

    fn token(&mut self, branch: u32, token: u32, logprob: f32) {
        assert!(self.prompt, "a token before the prompt");
        assert!(token < self.vocab && !logprob.is_nan(), "token {token} with log-probability {logprob}");
        let branch = self.branches.get_mut(&branch).unwrap();
        assert_eq!(branch.reason, None, "a token after the end");
        branch.tokens.push(token);
        assert!(branch.tokens.len() <= self.most_tokens, "more tokens than were asked for");
        let open = self.branches.values().filter(|branch| branch.reason.is_none()).count();
        // Those that ended in this step are not told of yet, nor is the end of one that began at its end.
        assert!(open <= 2 * self.most_branches + 1, "{open} branches of {}", self.most_branches);
    }
}
