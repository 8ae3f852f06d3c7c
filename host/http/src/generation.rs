//! A job that the engine runs: submitted as a whole or not at all, cancelled when dropped.

use crate::app::Server;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::job::Job;
use crate::live::Entry;
use crate::queue::{Batch, Numbering, Queue, Sink};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokenmill_engine::RequestId;

pub(crate) struct Generation {
    server: Arc<Server>,
    queue: Arc<Queue>,
    /// One per prompt; `None` once it is done.
    requests: Vec<Option<RequestId>>,
    pub(crate) numbering: Numbering,
    _live: Entry,
}

impl Generation {
    pub(crate) fn start(server: &Arc<Server>, job: &Job, caller: &Caller) -> Result<Self, ApiError> {
        let queue = Queue::new(server.app.limits.unread_bytes);
        let live = server.live.enter(queue.clone());
        let requests = Vec::with_capacity(job.prompts.len());
        let numbering = Numbering { prompts: job.prompts.len() as u32, branches: job.best_of };
        // From here on a refusal drops `started`, which cancels the prompts before it.
        let mut started =
            Self { server: server.clone(), queue: queue.clone(), requests, numbering, _live: live };
        for (i, prompt) in job.prompts.iter().enumerate() {
            let sink = Sink::new(queue.clone(), i as u32, numbering);
            let id = server.app.engine.submit(job.request(prompt, caller, server), Box::new(sink))?;
            started.requests.push(Some(id));
        }
        Ok(started)
    }

    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<()> {
        self.queue.poll_take(cx, batch)
    }

    pub(crate) fn end_branch(&self, choice: usize) {
        let (prompt, branch) = self.numbering.place(choice as u32);
        if let Some(&Some(id)) = self.requests.get(prompt as usize) {
            self.server.app.engine.end_branch(id, branch);
        }
    }

    pub(crate) fn done(&mut self, prompt: u32) {
        if let Some(request) = self.requests.get_mut(prompt as usize) {
            *request = None;
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.requests.iter().all(Option::is_none)
    }

    /// The engine ended everything it had of this job.
    pub(crate) fn failed(&mut self) {
        self.cancel();
    }

    fn cancel(&mut self) {
        for id in self.requests.iter_mut().filter_map(Option::take) {
            self.server.app.engine.cancel(id);
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.queue.close();
        if !self.is_done() {
            self.server.metrics.aborted.add(1);
            self.cancel();
        }
    }
}
