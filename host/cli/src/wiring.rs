//! From flags to a loaded model and a running engine.

use crate::{
    args::{EngineArgs, ModelArgs},
    backend,
    progress::Progress,
};
use anyhow::{Context, Result, bail};
use std::{
    cell::RefCell,
    path::Path,
    thread::{Builder, JoinHandle},
    time::Instant,
};
use tokenmill_backend::{Load, Model};
use tokenmill_engine::{Config, Engine, Handle, Samplers};
use tokenmill_policy::Fcfs;

/// Steps in flight: the host plans one while the device runs the other.
const DEPTH: u32 = 2;
/// Requests and prompt tokens that may wait before clients are told to come back later.
const MAX_WAITING: u32 = 1024;
const MAX_WAITING_TOKENS: u64 = 4 << 20;

/// Loads the weights, with a progress bar.
pub(crate) fn load(dir: &Path, model: &ModelArgs, engine: &EngineArgs) -> Result<Model> {
    let library = backend::open(&model.backend)?;
    library.probe().with_context(|| format!("the backend {} cannot run here", library.name()))?;
    let (ranks, stages) = (model.tensor_parallel_size, model.pipeline_parallel_size);
    let devices = match ranks.checked_mul(stages) {
        Some(devices @ 1..=64) => (0..devices as i32).collect::<Vec<_>>(),
        _ => {
            bail!("--tensor-parallel-size {ranks} x --pipeline-parallel-size {stages} is not 1 to 64 devices")
        }
    };
    let mut options = model.backend_options.clone();
    options.extend(model.dtype.map(|dtype| format!("dtype={dtype}")));
    options.extend(model.max_model_len.map(|longest| format!("context={longest}")));
    let bar = RefCell::new(Progress::new());
    let show = |done, total| bar.borrow_mut().update("loading weights", done, Some(total));
    let load = Load {
        dir,
        devices: &devices,
        tensor_parallel: model.tensor_parallel_size,
        block_tokens: model.block_size,
        max_tokens: engine.max_num_batched_tokens,
        max_rows: engine.max_num_seqs.max(engine.max_num_batched_tokens.min(512)),
        max_seqs: engine.max_num_seqs,
        depth: DEPTH,
        kv_bytes: model.kv_cache_memory_bytes.unwrap_or(0),
        options: &options.join("\n"),
        progress: Some(&show),
    };
    let loaded =
        library.load(&load).with_context(|| format!("cannot load the model in {}", dir.display()))?;
    drop(bar);
    let info = loaded.info();
    tracing::info!(
        "{} ({}, {:.0} MB) on {}: {} KV blocks of {} tokens ({:.0} MB)",
        info.arch,
        info.weights,
        info.weight_bytes as f64 / 1e6,
        info.device,
        info.n_blocks,
        info.block_tokens,
        info.n_blocks as f64 * info.kv_block_bytes as f64 / 1e6,
    );
    Ok(loaded)
}

/// Starts the engine's one thread. Its clock stands at 0 at `epoch`.
pub(crate) fn start(
    model: Model,
    max_model_len: Option<u32>,
    engine: &EngineArgs,
    epoch: Instant,
) -> Result<(Handle, JoinHandle<()>)> {
    let longest = model.info().max_context;
    if let Some(asked) = max_model_len.filter(|asked| *asked > longest || *asked == 0) {
        bail!("--max-model-len {asked}: this model handles 1 to {longest} tokens");
    }
    let config = Config {
        max_seqs: engine.max_num_seqs,
        max_batched_tokens: engine.max_num_batched_tokens,
        max_model_len: max_model_len.unwrap_or(longest),
        max_waiting: MAX_WAITING,
        max_waiting_tokens: MAX_WAITING_TOKENS,
        prefix_caching: !engine.no_enable_prefix_caching,
        depth: DEPTH,
        draft_tokens: engine.num_speculative_tokens,
        seed: engine.seed,
    };
    let engine = Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), config)?;
    let handle = engine.handle();
    let clock = move || epoch.elapsed().as_micros() as u64;
    let thread = Builder::new()
        .name("engine".to_owned())
        .spawn(move || engine.run(clock))
        .context("the engine's thread")?;
    Ok((handle, thread))
}
