//! Decode steps as CUDA graphs: recorded the second time a size occurs, replayed from then on.
//!
//! A recorded step holds addresses and grids, nothing of the step itself: kernels read counts and indices
//! from the batch. So one recording serves every step of its bucket in the same slot.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::{CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};
use tokenmill_backend_model::error::Error;

use crate::context::Context;
use crate::driver::failed;

/// What tells recordings apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Addresses of the batch and of the tokens that it refers to (0: none).
    pub(crate) batch: u64,
    pub(crate) previous: u64,
    pub(crate) bucket: usize,
}

enum Known {
    /// It ran once as it is: all its kernels are loaded, which must not happen while recording.
    Seen,
    Recorded(Graph),
}

#[derive(Default)]
pub(crate) struct Graphs {
    known: HashMap<Key, Known>,
    recording: Option<Key>,
}

impl Graphs {
    /// Replays the step if it is recorded; else the caller queues it, and it may be recorded until `end`.
    pub(crate) fn replay(&mut self, context: &Arc<Context>, key: Key) -> Result<bool, Error> {
        match self.known.get(&key) {
            Some(Known::Recorded(graph)) => graph.launch().map(|()| true),
            Some(Known::Seen) => {
                self.recording = Some(key);
                begin(context).map(|()| false)
            }
            None => {
                self.known.insert(key, Known::Seen);
                Ok(false)
            }
        }
    }

    /// Ends a recording, if there is one, and runs it.
    pub(crate) fn end(&mut self, context: &Arc<Context>) -> Result<(), Error> {
        let Some(key) = self.recording.take() else { return Ok(()) };
        let graph = Graph::end(context)?;
        graph.launch()?;
        self.known.insert(key, Known::Recorded(graph));
        Ok(())
    }
}

/// From here on what is queued is recorded and does not run.
pub(crate) fn begin(context: &Context) -> Result<(), Error> {
    // Other threads of the process may call what a recording forbids: it concerns this thread alone.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: a stream that is alive.
    unsafe { result::stream::begin_capture(context.stream(), mode) }
        .map_err(|e| failed("recording a step", &e))
}

/// Launches that were recorded, and run as one.
pub struct Graph {
    context: Arc<Context>,
    graph: CUgraphExec,
}

// SAFETY: a handle that the driver lets any thread use, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Ends what `begin` began, whatever was queued since.
    pub(crate) fn end(context: &Arc<Context>) -> Result<Self, Error> {
        let made = || {
            // SAFETY: `begin` was called; the recording is freed once it is made executable.
            unsafe {
                let recorded = result::stream::end_capture(context.stream())?;
                let graph = result::graph::instantiate(recorded, CUgraphInstantiate_flags(0));
                result::graph::destroy(recorded)?;
                graph
            }
        };
        let graph = made().map_err(|e| failed("making a graph of a step", &e))?;
        Ok(Self { context: context.clone(), graph })
    }

    /// Queues a run of it.
    pub fn launch(&self) -> Result<(), Error> {
        // SAFETY: both are alive, and so are the buffers it names, as `Cuda::record` asks and as those of one decoder are.
        unsafe { result::graph::launch(self.graph, self.context.stream()) }
            .map_err(|e| failed("launching a recorded step", &e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.context.make_current();
        // SAFETY: made in `end`. The driver waits for a run of it.
        let _ = unsafe { result::graph::exec_destroy(self.graph) };
    }
}
