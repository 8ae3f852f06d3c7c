//! Loading: one thread per rank reads its weights, then all agree on the number of KV blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::check::{Checker, Limits};
use tokenmill_backend_model::config::Config;
use tokenmill_backend_model::decoder::{Decoder, Sizes};
use tokenmill_backend_model::device::{Device, Dtype};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;
use tokenmill_backend_model::source::Source;
use tokenmill_backend_model::transformer::{How, Transformer};
use tokenmill_backend_model::weights::Weights;

use crate::directory::Directory;
use crate::fault::Fault;
use crate::model_handle::{Description, Model};
use crate::options::Options;
use crate::platform::Platform;
use crate::queue::Queue;
use crate::rank::{self, Shared};
use crate::sizing::{self, Facts};
use crate::tickets::Tickets;

/// `tm_load`, checked, without its directory and options.
pub(crate) struct Request {
    pub(crate) devices: Vec<i32>,
    /// Divides the number of devices.
    pub(crate) tensor_parallel: usize,
    pub(crate) block_tokens: usize,
    pub(crate) max_tokens: usize,
    pub(crate) max_rows: usize,
    pub(crate) max_seqs: usize,
    pub(crate) depth: usize,
    pub(crate) kv_bytes: u64,
}

impl Request {
    fn place(&self, rank: usize) -> Place {
        Place::of(rank, self.devices.len(), self.tensor_parallel)
    }

    /// The first rank of the last stage: the one that answers.
    fn speaker(&self) -> usize {
        self.place(0).last()
    }
}

/// Ranks to the loading thread.
enum Event {
    /// So many bytes more.
    Read(u64),
    Loaded(usize, Facts),
    Ready,
    Failed(Fault),
}

/// What every rank reads from while loading.
struct Files {
    config: Config,
    weights: Weights<memmap2::Mmap>,
    context: usize,
    dtype: Option<Dtype>,
    kv_dtype: Option<Dtype>,
}

impl Files {
    fn open(dir: &Path, options: &Options) -> Result<Self, Error> {
        let source = Directory::open(dir)?;
        let config = source.read("config.json")?;
        let config = config.ok_or_else(|| Error::Invalid(format!("{} has no config.json", dir.display())))?;
        let config = Config::parse(&config)?;
        let context = options.context.unwrap_or(config.max_context);
        if context > config.max_context {
            let most = config.max_context;
            return Err(Error::Invalid(format!("options: context={context}: the model was made for {most}")));
        }
        let weights = Weights::open(&source)?;
        Ok(Self { config, weights, context, dtype: options.dtype, kv_dtype: options.kv_dtype })
    }
}

/// Loads the model of `dir` on every rank. `progress` gets (done, total) bytes, on this thread.
pub(crate) fn load<P: Platform>(
    dir: &Path,
    request: &Request,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Model, Fault> {
    let files = Arc::new(Files::open(dir, options)?);
    let ranks = request.devices.len();
    request.place(0).check(&files.config)?;
    let opened = P::open(&request.devices, request.tensor_parallel, options)?;
    let (events, inbox) = channel();
    let mut crew = Crew::new(request, opened.abort);
    for (rank, seed) in opened.ranks.into_iter().enumerate() {
        crew.spawn::<P>(rank, seed, request, &files, &events)?;
    }
    drop(events);
    let (config, context, total) = (files.config.clone(), files.context, files.weights.bytes());
    // The last rank to finish unmaps the weights.
    drop(files);
    let facts = wait_loaded(&inbox, ranks, &mut |done| progress(done.min(total), total))?;
    let first = facts.first().ok_or_else(|| Fault::invalid("devices is empty"))?;
    let blocks = sizing::blocks(request, context, &facts)?;
    let sizes = sizing::sizes(request, context, blocks, first.kv_dtype);
    crew.plan(sizes);
    wait_ready(&inbox, ranks)?;
    progress(total, total);
    let description = Description {
        depth: request.depth,
        weight_bytes: facts.iter().map(|facts| facts.weight_bytes).sum(),
        kv_block_bytes: facts.iter().map(|facts| facts.block_bytes).sum(),
        arch: config.arch,
        device: if ranks == 1 { first.device.clone() } else { format!("{ranks} x {}", first.device) },
        weights: first.dtype.name(),
    };
    let limits = Limits {
        vocab: config.vocab,
        context,
        blocks,
        block_tokens: request.block_tokens,
        max_tokens: request.max_tokens,
        max_rows: request.max_rows,
        max_seqs: request.max_seqs,
        max_block_refs: sizes.max_block_refs,
    };
    Ok(Model::new(crew, Checker::new(limits), description))
}

/// The threads of a model. Dropping it lets them finish what is queued, and joins them.
pub(crate) struct Crew {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    plans: Vec<SyncSender<Sizes>>,
}

impl Crew {
    fn new(request: &Request, abort: Box<dyn Fn() + Send + Sync>) -> Self {
        let queues = request.devices.iter().map(|_| Queue::default()).collect();
        let tickets = Tickets::new(request.depth, request.max_rows);
        let shared = Arc::new(Shared { queues, speaker: request.speaker(), tickets, abort });
        Self { shared, threads: Vec::new(), plans: Vec::new() }
    }

    fn spawn<P: Platform>(
        &mut self,
        rank: usize,
        seed: P::Rank,
        request: &Request,
        files: &Arc<Files>,
        events: &Sender<Event>,
    ) -> Result<(), Fault> {
        let (plan, planned) = sync_channel(1);
        self.plans.push(plan);
        let (files, events, shared) = (files.clone(), events.clone(), self.shared.clone());
        let work = sizing::sizes(request, files.context, 0, Dtype::F32);
        let place = request.place(rank);
        let body = move || {
            let prepared =
                catch_unwind(AssertUnwindSafe(|| prepare::<P>(seed, place, files, &work, &events, &planned)));
            let prepared = match prepared {
                Ok(prepared) => prepared.map_err(Fault::from),
                Err(panic) => Err(Fault::panic(&*panic)),
            };
            // The loading thread may have given up; then the queue is closed too.
            match prepared {
                Ok(decoder) => {
                    let _ = events.send(Event::Ready);
                    drop(events);
                    rank::run(decoder, rank, &shared, work.max_rows);
                }
                Err(fault) => {
                    drop(events.send(Event::Failed(fault)));
                    // After the reason: ranks that waited for this one.
                    (shared.abort)();
                }
            }
        };
        let thread = Builder::new().name(format!("rank-{rank}")).spawn(body);
        let thread = thread.map_err(|e| Fault::new(abi::NO_MEMORY, format!("cannot start a thread: {e}")))?;
        self.threads.push(thread);
        Ok(())
    }

    fn plan(&mut self, sizes: Sizes) {
        for plan in self.plans.drain(..) {
            // A rank that is gone has said why.
            let _ = plan.send(sizes);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.plans.is_empty() {
            // Loading ended early: no rank may wait for one that never came.
            (self.shared.abort)();
        }
        self.plans.clear();
        self.shared.queues.iter().for_each(Queue::close);
        for thread in self.threads.drain(..) {
            // A rank that panicked has been reported.
            let _ = thread.join();
        }
    }
}

/// On the thread of a rank: weights, then the decoder once all ranks agreed on its sizes.
fn prepare<P: Platform>(
    seed: P::Rank,
    place: Place,
    files: Arc<Files>,
    work: &Sizes,
    events: &Sender<Event>,
    planned: &Receiver<Sizes>,
) -> Result<Decoder<P::Device>, Error> {
    let mut device = P::device(seed)?;
    let progress = &mut |bytes| drop(events.send(Event::Read(bytes)));
    let how = How { place, dtype: files.dtype, context: files.context, progress };
    let model = Transformer::load(&mut device, &files.config, &files.weights, how)?;
    let kv_dtype = files.kv_dtype.unwrap_or_else(|| device.kv_dtype(model.dtype));
    drop(files);
    let facts = Facts {
        free: device.free_memory(),
        block_bytes: model.cache_shape(work.block_tokens, 1, kv_dtype).block_bytes() as u64,
        work_bytes: model.work_bytes(work),
        weight_bytes: model.bytes,
        device: device.describe(),
        dtype: model.dtype,
        kv_dtype,
    };
    let gone = |_| Error::Lost("loading was given up".into());
    events
        .send(Event::Loaded(place.rank(), facts))
        .map_err(|_| Error::Lost("loading was given up".into()))?;
    let sizes = planned.recv().map_err(gone)?;
    Decoder::new(device, model, &sizes)
}

/// Until every rank has its weights.
fn wait_loaded(
    inbox: &Receiver<Event>,
    ranks: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Facts>, Fault> {
    let mut facts: Vec<Option<Facts>> = vec![None; ranks];
    let mut read = 0;
    while facts.iter().any(Option::is_none) {
        match inbox.recv() {
            Ok(Event::Read(bytes)) => {
                read += bytes;
                progress(read);
            }
            Ok(Event::Loaded(rank, its)) => facts[rank] = Some(its),
            Ok(Event::Ready) => {}
            Ok(Event::Failed(fault)) => return Err(fault),
            Err(_) => return Err(Fault::new(abi::INTERNAL, "a rank ended without a word")),
        }
    }
    Ok(facts.into_iter().flatten().collect())
}

/// Until every rank has its decoder.
fn wait_ready(inbox: &Receiver<Event>, ranks: usize) -> Result<(), Fault> {
    let mut ready = 0;
    while ready < ranks {
        match inbox.recv() {
            Ok(Event::Failed(fault)) => return Err(fault),
            Ok(Event::Ready) => ready += 1,
            Ok(Event::Read(_) | Event::Loaded(..)) => {}
            Err(_) => return Err(Fault::new(abi::INTERNAL, "a rank ended without a word")),
        }
    }
    Ok(())
}
