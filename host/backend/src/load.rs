//! Loading a model directory, and what the backend says about the result.

use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use tokenmill_backend_abi as abi;

use crate::{Error, Model, error};

/// What to load and how large; each field as in the header's `tm_load`.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// config.json and *.safetensors.
    pub dir: &'a Path,
    /// One ordinal per rank; the same ordinal may appear twice.
    pub devices: &'a [i32],
    /// Ranks that share each layer; divides the number of devices.
    pub tensor_parallel: u32,
    /// Tokens per KV block: a power of two, 1..=256.
    pub block_tokens: u32,
    /// Tokens, logits rows and sequences of one batch, at most.
    pub max_tokens: u32,
    pub max_rows: u32,
    pub max_seqs: u32,
    /// Tickets alive at once: 1..=4.
    pub depth: u32,
    /// KV arena over all ranks; 0 = the backend chooses.
    pub kv_bytes: u64,
    /// Lines `key=value` of the backend's own.
    pub options: &'a str,
    /// Called with (done, total) weight bytes, on the thread that loads.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

/// What the backend made of it, checked: sizes are positive, `depth` is 1..=4, texts are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Logits per row; token ids are below it.
    pub vocab: u32,
    /// Positions the model was made for.
    pub max_context: u32,
    /// KV blocks; valid ids are below it.
    pub n_blocks: u32,
    pub block_tokens: u32,
    pub max_tokens: u32,
    pub max_rows: u32,
    pub max_seqs: u32,
    pub depth: u32,
    /// Summed over ranks.
    pub weight_bytes: u64,
    /// One block, all layers, summed over ranks.
    pub kv_block_bytes: u64,
    pub arch: String,
    pub device: String,
    pub weights: String,
}

/// What the progress callback works on: the caller's function, and the panic that ended it.
struct Progress<'a> {
    call: &'a dyn Fn(u64, u64),
    panic: Option<Box<dyn Any + Send>>,
}

pub(crate) fn load(api: &'static abi::Api, load: &Load<'_>) -> Result<Model, Error> {
    let dir = load.dir.to_str().ok_or_else(|| Error::Invalid("load: dir is not UTF-8".to_owned()))?;
    let dir = c_string("dir", dir)?;
    let options = c_string("options", load.options)?;
    let n_devices =
        u32::try_from(load.devices.len()).map_err(|_| Error::Invalid("load: too many devices".to_owned()))?;
    let mut progress = load.progress.map(|call| Progress { call, panic: None });
    let user =
        progress.as_mut().map_or(std::ptr::null_mut(), |progress| (&raw mut *progress).cast::<c_void>());
    let arguments = abi::Load {
        size: size_of::<abi::Load>(),
        dir: dir.as_ptr(),
        devices: load.devices.as_ptr(),
        n_devices,
        tensor_parallel: load.tensor_parallel,
        block_tokens: load.block_tokens,
        max_tokens: load.max_tokens,
        max_rows: load.max_rows,
        max_seqs: load.max_seqs,
        depth: load.depth,
        reserved: 0,
        kv_bytes: load.kv_bytes,
        options: options.as_ptr(),
        progress: if user.is_null() { None } else { Some(report) },
        user,
    };
    let mut handle = std::ptr::null_mut();
    let mut message = abi::Message::default();
    // SAFETY: every pointer in `arguments` lives until the call returns.
    let code = unsafe { (api.load)(&raw const arguments, &raw mut handle, &raw mut message) };
    if code != abi::OK {
        return Err(Error::from_code("load", code, &message));
    }
    if handle.is_null() {
        return Err(Error::Internal("load succeeded without a model".to_owned()));
    }
    // From here on dropping the model unloads it.
    let model = Model::new(api, handle, |handle| info(api, handle))?;
    match progress.and_then(|progress| progress.panic) {
        Some(panic) => resume_unwind(panic),
        None => Ok(model),
    }
}

fn c_string(what: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Invalid(format!("load: {what} contains a NUL character")))
}

/// The C side of the progress callback. A panic waits until the backend has returned.
unsafe extern "C" fn report(user: *mut c_void, done: u64, total: u64) {
    // SAFETY: `user` is the `Progress` of the load call that is running on this thread.
    let progress = unsafe { &mut *user.cast::<Progress<'_>>() };
    if progress.panic.is_none() {
        progress.panic = catch_unwind(AssertUnwindSafe(|| (progress.call)(done, total))).err();
    }
}

fn info(api: &abi::Api, handle: *const abi::Model) -> Result<Info, Error> {
    let mut raw = abi::Info {
        size: size_of::<abi::Info>(),
        vocab: 0,
        max_context: 0,
        n_blocks: 0,
        block_tokens: 0,
        max_tokens: 0,
        max_rows: 0,
        max_seqs: 0,
        depth: 0,
        weight_bytes: 0,
        kv_block_bytes: 0,
        arch: [0; 32],
        device: [0; 64],
        weights: [0; 32],
    };
    let mut message = abi::Message::default();
    // SAFETY: a model that load returned, and our own structs.
    let code = unsafe { (api.info)(handle, &raw mut raw, &raw mut message) };
    if code != abi::OK {
        return Err(Error::from_code("info", code, &message));
    }
    check(&raw)?;
    Ok(Info {
        vocab: raw.vocab,
        max_context: raw.max_context,
        n_blocks: raw.n_blocks,
        block_tokens: raw.block_tokens,
        max_tokens: raw.max_tokens,
        max_rows: raw.max_rows,
        max_seqs: raw.max_seqs,
        depth: raw.depth,
        weight_bytes: raw.weight_bytes,
        kv_block_bytes: raw.kv_block_bytes,
        arch: text("arch", &raw.arch)?,
        device: text("device", &raw.device)?,
        weights: text("weights", &raw.weights)?,
    })
}

fn check(raw: &abi::Info) -> Result<(), Error> {
    let wrong = |field: &str, value: u32| Err(Error::Internal(format!("info: {field} = {value}")));
    let positive = [
        ("vocab", raw.vocab),
        ("max_context", raw.max_context),
        ("n_blocks", raw.n_blocks),
        ("max_tokens", raw.max_tokens),
        ("max_rows", raw.max_rows),
        ("max_seqs", raw.max_seqs),
    ];
    // Token ids travel as i32.
    if let Some((field, value)) =
        positive.into_iter().find(|&(_, value)| value == 0 || value > i32::MAX as u32)
    {
        return wrong(field, value);
    }
    if !raw.block_tokens.is_power_of_two() || raw.block_tokens > 256 {
        return wrong("block_tokens", raw.block_tokens);
    }
    if !(1..=4).contains(&raw.depth) {
        return wrong("depth", raw.depth);
    }
    Ok(())
}

fn text(field: &str, chars: &[c_char]) -> Result<String, Error> {
    error::text(chars).map_err(|_| Error::Internal(format!("info: {field} is not NUL-terminated UTF-8")))
}
