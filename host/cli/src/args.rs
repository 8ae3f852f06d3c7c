//! Flags that several commands share; named as in `vllm serve` where the meaning is the same.

use clap::Args;
use std::path::PathBuf;
use tokenmill_models::{DEFAULT_MODEL, Dtype};

/// Which model, in which precision, on which backend.
#[derive(Args, Clone)]
pub(crate) struct ModelArgs {
    /// Element type of the weights: auto (as stored), bfloat16, float16 or float32.
    #[arg(long, default_value = "auto", value_parser = dtype)]
    pub(crate) dtype: AutoDtype,
    /// Longest prompt plus answer, in tokens; the model's own limit if not given.
    #[arg(long)]
    pub(crate) max_model_len: Option<u32>,
    /// Tokens per KV cache block: a power of two.
    #[arg(long, default_value_t = 16)]
    pub(crate) block_size: u32,
    /// Ranks that share each layer.
    #[arg(long, short = 't', visible_alias = "tp", default_value_t = 1)]
    pub(crate) tensor_parallel_size: u32,
    /// Stages that share out the layers, each of as many ranks.
    #[arg(long, visible_alias = "pp", default_value_t = 1)]
    pub(crate) pipeline_parallel_size: u32,
    /// Memory for the KV cache, in bytes over all ranks; the backend chooses if not given.
    #[arg(long)]
    pub(crate) kv_cache_memory_bytes: Option<u64>,
    /// What computes: cpu (built in), the NAME of a library beside this program, or its PATH.
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: String,
    /// An option of the backend itself, KEY=VALUE; may be given several times (cpu: threads, kv_dtype; cuda: graphs, gemm).
    #[arg(long = "backend-option", value_name = "KEY=VALUE")]
    pub(crate) backend_options: Vec<String>,
}

/// How much runs at once.
#[derive(Args, Clone)]
pub(crate) struct EngineArgs {
    /// Sequences that run at once, at most.
    #[arg(long, default_value_t = 256)]
    pub(crate) max_num_seqs: u32,
    /// Tokens computed in one step, at most; prompts are cut into chunks that fit.
    #[arg(long, default_value_t = 2048)]
    pub(crate) max_num_batched_tokens: u32,
    /// Tokens to guess ahead in each step from the sequence's own text (prompt lookup); 0: none.
    #[arg(long, default_value_t = 0)]
    pub(crate) num_speculative_tokens: u32,
    /// Compute every prompt from its first token.
    #[arg(long)]
    pub(crate) no_enable_prefix_caching: bool,
    /// Seed of requests that bring none.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// `None` = as stored.
pub(crate) type AutoDtype = Option<Dtype>;

fn dtype(text: &str) -> Result<AutoDtype, String> {
    match text {
        "auto" => Ok(None),
        other => {
            other.parse().map(Some).map_err(|_| "expected auto, bfloat16, float16 or float32".to_owned())
        }
    }
}

/// A model's name (`SmolLM2-135M-Instruct`, `owner/name`) or its folder.
pub(crate) fn model_or_default(given: Option<&String>) -> String {
    given.cloned().unwrap_or_else(|| DEFAULT_MODEL.to_owned())
}

/// How a model is called in answers when nobody named it: the last part of its name or path.
pub(crate) fn short_name(model: &str) -> String {
    let path = PathBuf::from(model);
    path.file_name().map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}
