//! Who meets whom: one communicator for each stage, one of all ranks for what stages send each other.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;

use super::communicator::{Communicator, Watch, lost};
use super::library::{Element, Library, UniqueId};
use crate::gpu::Gpu;

/// The ranks of one model.
pub struct Group {
    meeting: Arc<Meeting>,
    memberships: Vec<Membership>,
}

/// What a rank brings to its thread.
pub struct Membership {
    place: Place,
    meeting: Arc<Meeting>,
    /// `None`: it is alone in it.
    stage: Option<UniqueId>,
    all: Option<UniqueId>,
}

/// Ranks meet here before they connect, because NCCL waits for those that never come.
#[derive(Default)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    arrived: usize,
    aborted: bool,
    communicators: Vec<Arc<Communicator>>,
}

impl Group {
    /// Ranks on the devices `ordinals`, each `tensor_parallel` in a row one stage. NCCL is needed for more
    /// than one.
    pub fn new(ordinals: &[i32], tensor_parallel: usize) -> Result<Self, Error> {
        let ranks = ordinals.len();
        check_distinct(ordinals)?;
        let id = || {
            Library::get().and_then(Library::unique_id).map_err(|error| match error {
                Error::Unsupported(why) => Error::Unsupported(format!("{ranks} devices need NCCL: {why}")),
                other => other,
            })
        };
        let stages = (0..ranks / tensor_parallel).map(|_| (tensor_parallel > 1).then(id).transpose());
        let stages = stages.collect::<Result<Vec<_>, _>>()?;
        let all = (tensor_parallel < ranks).then(id).transpose()?;
        let meeting = Arc::<Meeting>::default();
        let membership = |rank| {
            let place = Place::of(rank, ranks, tensor_parallel);
            Membership { place, meeting: meeting.clone(), stage: stages[place.stage.index], all }
        };
        let memberships = (0..ranks).map(membership).collect();
        Ok(Self { meeting, memberships })
    }

    /// In the order of the ordinals, and what releases ranks that wait for one that failed: from any thread.
    pub fn split(self) -> (Vec<Membership>, impl Fn() + Send + Sync + use<>) {
        let meeting = self.meeting;
        (self.memberships, move || meeting.abort())
    }
}

fn check_distinct(ordinals: &[i32]) -> Result<(), Error> {
    for (rank, ordinal) in ordinals.iter().enumerate() {
        if let Some(before) = ordinals[..rank].iter().position(|other| other == ordinal) {
            return Err(Error::Unsupported(format!(
                "devices[{rank}] = {ordinal} is devices[{before}] again: NCCL runs one rank on a GPU"
            )));
        }
    }
    Ok(())
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all `ranks` are here.
    fn arrive(&self, ranks: usize) -> Result<(), Error> {
        let mut state = self.lock();
        state.arrived += 1;
        self.changed.notify_all();
        while state.arrived < ranks && !state.aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.aborted { Err(lost()) } else { Ok(()) }
    }

    /// From now on an abort ends it.
    fn add(&self, communicator: Arc<Communicator>) {
        let mut state = self.lock();
        if state.aborted {
            drop(state);
            communicator.abort();
        } else {
            state.communicators.push(communicator);
        }
    }

    fn abort(&self) {
        let mut state = self.lock();
        state.aborted = true;
        let communicators = std::mem::take(&mut state.communicators);
        drop(state);
        self.changed.notify_all();
        communicators.iter().for_each(|communicator| communicator.abort());
    }
}

impl Membership {
    /// On the rank's thread, where `gpu` is current: connects it with the others, and waits for them.
    pub fn join(self, gpu: &Gpu) -> Result<Comm, Error> {
        let Self { place, meeting, stage, all } = self;
        let ranks = place.stage.count * place.shard.ranks;
        meeting.arrive(ranks)?;
        let connect = |id: Option<UniqueId>, ranks, rank| {
            let Some(id) = id else { return Ok(None) };
            let communicator = Communicator::new(Library::get()?, ranks, id, rank)?;
            meeting.add(communicator.clone());
            Ok(Some(communicator))
        };
        let stage = connect(stage, place.shard.ranks, place.shard.rank)?;
        let all = connect(all, ranks, place.rank())?;
        let watch = Watch::new(stage.iter().chain(&all).cloned());
        let comm = Comm { place, stage, all, watch };
        comm.warm_up(gpu)?;
        Ok(comm)
    }
}

/// A rank among its peers; operations that have none do nothing. All are queued in the stream of `gpu`. Graphs
/// that hold them must be dropped before it.
pub struct Comm {
    place: Place,
    stage: Option<Arc<Communicator>>,
    all: Option<Arc<Communicator>>,
    watch: Watch,
}

impl Comm {
    /// Everything once: NCCL makes its connections and their memory when they are first used, which must be
    /// neither while a step is recorded nor after memory was shared out.
    fn warm_up(&self, gpu: &Gpu) -> Result<(), Error> {
        let place = gpu.zeroed(4)?;
        self.all_reduce(gpu, place.ptr(), 1)?;
        self.receive(gpu, place.ptr(), 1)?;
        self.send(gpu, place.ptr(), 1)?;
        if self.place.stage.is_last() {
            self.send_tokens(gpu, place.ptr(), 1)?;
        }
        if self.place.stage.is_first() {
            self.receive_tokens(gpu, place.ptr(), 1)?;
        }
        gpu.synchronize()?;
        self.watch.check()
    }

    /// For whoever waits for the device on another thread.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Sums `count` f32 at `x` over the ranks of this stage.
    pub fn all_reduce(&self, gpu: &Gpu, x: u64, count: usize) -> Result<(), Error> {
        match &self.stage {
            Some(stage) if count > 0 => stage.all_reduce(x, count, gpu.context().stream()),
            _ => Ok(()),
        }
    }

    /// Sends `count` f32 at `x` to the next stage.
    pub fn send(&self, gpu: &Gpu, x: u64, count: usize) -> Result<(), Error> {
        self.send_to(self.place.next(), gpu, x, count, Element::F32)
    }

    /// `x` gets `count` f32 from the stage before.
    pub fn receive(&self, gpu: &Gpu, x: u64, count: usize) -> Result<(), Error> {
        self.receive_from(self.place.before(), gpu, x, count, Element::F32)
    }

    /// Sends `count` i32 at `x` from the last stage to the first.
    pub fn send_tokens(&self, gpu: &Gpu, x: u64, count: usize) -> Result<(), Error> {
        self.send_to(Some(self.place.first()), gpu, x, count, Element::I32)
    }

    /// `x` gets `count` i32 that the last stage sent to this one, the first.
    pub fn receive_tokens(&self, gpu: &Gpu, x: u64, count: usize) -> Result<(), Error> {
        self.receive_from(Some(self.place.last()), gpu, x, count, Element::I32)
    }

    fn send_to(
        &self,
        to: Option<usize>,
        gpu: &Gpu,
        x: u64,
        count: usize,
        element: Element,
    ) -> Result<(), Error> {
        match (&self.all, to) {
            (Some(all), Some(to)) if count > 0 => all.send(x, count, element, to, gpu.context().stream()),
            _ => Ok(()),
        }
    }

    fn receive_from(
        &self,
        from: Option<usize>,
        gpu: &Gpu,
        x: u64,
        count: usize,
        element: Element,
    ) -> Result<(), Error> {
        match (&self.all, from) {
            (Some(all), Some(from)) if count > 0 => {
                all.receive(x, count, element, from, gpu.context().stream())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.stage.iter().chain(&self.all).for_each(|communicator| communicator.close());
    }
}
