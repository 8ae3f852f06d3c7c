//! The thread that waits for the device, so that the rank's thread can go on queueing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokenmill_backend_model::error::Error;

use crate::context::Context;
use crate::event::Event;
use crate::gpu::Gpu;

type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Dropping it waits until everything was told.
pub(crate) struct Completion {
    queue: Option<Sender<(Event, Done)>>,
    thread: Option<JoinHandle<()>>,
    /// Events to use again.
    spare: Arc<Mutex<Vec<Event>>>,
}

impl Completion {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, Error> {
        let (queue, inbox) = channel();
        let spare = Arc::<Mutex<Vec<Event>>>::default();
        let (context, used) = (gpu.context().clone(), spare.clone());
        let thread = Builder::new()
            .name("device-waits".into())
            .spawn(move || tell(&context, &inbox, &used))
            .map_err(|e| Error::NoMemory(format!("cannot start a thread: {e}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), spare })
    }

    /// Calls `done` on the other thread once all that is queued so far has run.
    pub(crate) fn after(
        &self,
        gpu: &Gpu,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let event = spare.map_or_else(|| gpu.event(), Ok)?;
        event.record()?;
        let gone = || Error::Lost("the thread that waits for the device is gone".into());
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send((event, Box::new(done))).map_err(|_| gone())
    }
}

fn tell(context: &Context, inbox: &Receiver<(Event, Done)>, spare: &Mutex<Vec<Event>>) {
    let entered = context.make_current();
    for (event, done) in inbox {
        done(entered.clone().and_then(|()| event.wait()));
        spare.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It only panics where a caller's `done` does.
            let _ = thread.join();
        }
    }
}
