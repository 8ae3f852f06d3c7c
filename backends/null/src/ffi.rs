//! The C functions: pointers become slices, faults become codes and messages.

use std::ffi::{CStr, c_char, c_void};
use std::mem::{size_of, zeroed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokenmill_backend_abi as abi;

use crate::kv::Kv;
use crate::model::Model;
use crate::validate::{Columns, Limits, Parameters};
use crate::{Fault, Options, invalid};

/// What `tm_model` points to. [T] calls run beside [M] calls, so everything is under the lock.
type Handle = Mutex<Model>;

static API: abi::Api = abi::Api {
    size: size_of::<abi::Api>(),
    major: abi::MAJOR,
    minor: abi::MINOR,
    name: c"null".as_ptr(),
    probe,
    load,
    unload,
    info,
    submit,
    sample,
    wait,
    topk,
    logits,
    release,
    extension,
};

/// The backend for a program that links it in. It can link in no other backend beside it, as each brings the symbol
/// `tm_backend`: the linker says so. (Were this function that symbol, it would quietly take one for the other.)
pub extern "C" fn entry(major: u32) -> *const abi::Api {
    if major == abi::MAJOR { &raw const API } else { std::ptr::null() }
}

/// Runs `body`; what it reports, or that it panicked, becomes a code and a message.
fn call(message: *mut abi::Message, body: impl FnOnce() -> Result<(), Fault>) -> abi::Code {
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return abi::OK,
        Ok(Err(fault)) => fault,
        Err(_) => Fault { code: abi::INTERNAL, text: "the null backend panicked".to_owned() },
    };
    // SAFETY: NULL or the caller's message.
    if let Some(message) = unsafe { message.as_mut() } {
        write_text(&mut message.text, &fault.text);
    }
    fault.code
}

/// Runs `body` on the model under its lock.
fn with<T>(model: *const abi::Model, body: impl FnOnce(&mut Model) -> Result<T, Fault>) -> Result<T, Fault> {
    // SAFETY: NULL or what load returned and unload has not had.
    let handle = unsafe { model.cast::<Handle>().as_ref() }.ok_or_else(|| invalid("model is NULL"))?;
    body(&mut handle.lock().unwrap_or_else(PoisonError::into_inner))
}

/// UTF-8 with a NUL, cut at a character if too long.
fn write_text(to: &mut [c_char], text: &str) {
    let end = text.floor_char_boundary(to.len() - 1);
    for (to, byte) in to.iter_mut().zip(text.as_bytes()[..end].iter().chain([&0])) {
        *to = *byte as c_char;
    }
}

/// A struct of the caller, who may know fewer or more fields: missing ones are zero.
///
/// # Safety
/// `T` begins with its `size`, all its fields may be zero, and `from` is NULL or points to `size` bytes.
unsafe fn read<T>(from: *const T, what: &str) -> Result<T, Fault> {
    if from.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    // SAFETY: as promised by the caller.
    unsafe {
        let mut value: T = zeroed();
        let size = from.cast::<usize>().read().min(size_of::<T>());
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), size);
        Ok(value)
    }
}

/// # Safety
/// `from` points to `len` values that outlive the result, or `len` is 0.
unsafe fn slice<'a, T>(column: &str, from: *const T, len: u32) -> Result<&'a [T], Fault> {
    match (len, from.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(invalid(format!("{column} is NULL"))),
        // SAFETY: as promised by the caller.
        (len, false) => Ok(unsafe { std::slice::from_raw_parts(from, len as usize) }),
    }
}

/// # Safety
/// `from` is NULL or a NUL-terminated text that outlives the result.
unsafe fn text<'a>(what: &str, from: *const c_char) -> Result<&'a str, Fault> {
    if from.is_null() {
        return Ok("");
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(from) }.to_str().map_err(|_| invalid(format!("{what} is not UTF-8")))
}

unsafe extern "C" fn probe(_message: *mut abi::Message) -> i32 {
    1
}

unsafe extern "C" fn load(
    from: *const abi::Load,
    model: *mut *mut abi::Model,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's struct; zero is a value of every field.
        let load = unsafe { read(from, "load") }?;
        let options = {
            // SAFETY: NULL or NUL-terminated texts that live for the call.
            let (dir, options) = unsafe { (text("dir", load.dir)?, text("options", load.options)?) };
            Options::parse(options, Path::new(dir))?
        };
        let limits = limits(&load, &options)?;
        if let Some(code) = options.load_fail {
            return Err(Fault { code, text: "load fails because load_fail says so".to_owned() });
        }
        let handle: Box<Handle> = Box::new(Mutex::new(Model::new(options, limits)));
        if let Some(progress) = load.progress {
            // SAFETY: the callback and its argument are the caller's.
            unsafe { progress(load.user, 1, 1) };
        }
        // SAFETY: where the caller wants the model.
        unsafe { model.write(Box::into_raw(handle).cast()) };
        Ok(())
    })
}

fn limits(load: &abi::Load, options: &Options) -> Result<Limits, Fault> {
    let wrong = [
        ("n_devices", load.n_devices, load.n_devices == 0),
        ("tensor_parallel", load.tensor_parallel, !ranks_divide(load)),
        ("block_tokens", load.block_tokens, !load.block_tokens.is_power_of_two() || load.block_tokens > 256),
        ("max_tokens", load.max_tokens, load.max_tokens == 0),
        ("max_rows", load.max_rows, load.max_rows == 0),
        ("max_seqs", load.max_seqs, load.max_seqs == 0),
        ("depth", load.depth, !(1..=4).contains(&load.depth)),
    ];
    if let Some((field, value, _)) = wrong.into_iter().find(|&(.., wrong)| wrong) {
        return Err(invalid(format!("{field} = {value} is out of range")));
    }
    let fitting = match load.kv_bytes {
        0 => 4096,
        bytes => bytes / (u64::from(load.block_tokens) * Kv::SLOT_BYTES),
    };
    let n_blocks = options.blocks.unwrap_or_else(|| fitting.min(i32::MAX as u64) as u32);
    if n_blocks == 0 {
        let text = format!("kv_bytes = {} holds no block", load.kv_bytes);
        return Err(Fault { code: abi::NO_MEMORY, text });
    }
    Ok(Limits {
        vocab: options.vocab,
        context: options.context,
        n_blocks,
        block_tokens: load.block_tokens,
        max_tokens: load.max_tokens,
        max_rows: load.max_rows,
        max_seqs: load.max_seqs,
        depth: load.depth,
    })
}

fn ranks_divide(load: &abi::Load) -> bool {
    load.tensor_parallel > 0 && load.n_devices.is_multiple_of(load.tensor_parallel)
}

unsafe extern "C" fn unload(model: *mut abi::Model) {
    if !model.is_null() {
        // SAFETY: what load made with into_raw; the caller gives it up.
        drop(unsafe { Box::from_raw(model.cast::<Handle>()) });
    }
}

unsafe extern "C" fn info(
    model: *const abi::Model,
    to: *mut abi::Info,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's struct; zero is a value of every field.
        let mut info = unsafe { read(to, "info") }?;
        with(model, |model| {
            let limits = model.limits();
            info.vocab = limits.vocab;
            info.max_context = limits.context;
            info.n_blocks = limits.n_blocks;
            info.block_tokens = limits.block_tokens;
            info.max_tokens = limits.max_tokens;
            info.max_rows = limits.max_rows;
            info.max_seqs = limits.max_seqs;
            info.depth = limits.depth;
            info.weight_bytes = 0;
            info.kv_block_bytes = u64::from(limits.block_tokens) * Kv::SLOT_BYTES;
            Ok(())
        })?;
        write_text(&mut info.arch, "null");
        write_text(&mut info.device, "none");
        write_text(&mut info.weights, "none");
        // SAFETY: as many bytes as the caller's struct has, at most ours.
        unsafe {
            let size = info.size.min(size_of::<abi::Info>());
            std::ptr::copy_nonoverlapping((&raw const info).cast::<u8>(), to.cast::<u8>(), size);
        }
        Ok(())
    })
}

unsafe extern "C" fn submit(
    model: *mut abi::Model,
    batch: *const abi::Batch,
    ticket: *mut abi::Ticket,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's struct; zero is a value of every field.
        let batch = unsafe { read(batch, "batch") }?;
        with(model, |model| {
            // SAFETY: the caller's columns, for the duration of the call.
            let columns = unsafe { columns(&batch, model.limits()) }?;
            let submitted = model.submit(&columns)?;
            // SAFETY: where the caller wants the ticket.
            unsafe { ticket.write(submitted) };
            Ok(())
        })
    })
}

/// # Safety
/// The columns have the lengths that the header gives them.
unsafe fn columns<'a>(batch: &abi::Batch, limits: &Limits) -> Result<Columns<'a>, Fault> {
    let n_seqs = batch.n_seqs;
    // Before anything is read at an index that depends on it.
    if n_seqs == 0 || n_seqs > limits.max_seqs {
        return Err(invalid(format!("n_seqs = {n_seqs}, max_seqs is {}", limits.max_seqs)));
    }
    let pairs = batch.n_copies.checked_mul(2).ok_or_else(|| invalid("n_copies is too large"))?;
    // SAFETY: as promised by the caller.
    unsafe {
        let seq_start = slice("seq_start", batch.seq_start, n_seqs + 1)?;
        let block_start = slice("block_start", batch.block_start, n_seqs + 1)?;
        Ok(Columns {
            tokens: slice("tokens", batch.tokens, seq_start[n_seqs as usize])?,
            seq_start,
            seq_pos: slice("seq_pos", batch.seq_pos, n_seqs)?,
            block_start,
            blocks: slice("blocks", batch.blocks, block_start[n_seqs as usize])?,
            rows: slice("rows", batch.rows, batch.n_rows)?,
            copies: slice("copies", batch.copies, pairs)?,
        })
    }
}

unsafe extern "C" fn sample(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    sampling: *const abi::Sampling,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's struct; zero is a value of every field.
        let sampling = unsafe { read(sampling, "sampling") }?;
        with(model, |model| {
            let n_rows = model.rows(ticket)?;
            let words = sampling.n_masks.checked_mul(model.limits().vocab.div_ceil(32));
            let words = words.ok_or_else(|| invalid("n_masks is too large"))?;
            // SAFETY: the caller's columns, for the duration of the call; one row for each of the batch.
            let parameters = unsafe {
                Parameters {
                    rows: slice("rows", sampling.rows, n_rows)?,
                    bias_token: slice("bias_token", sampling.bias_token, sampling.n_bias)?,
                    bias_value: slice("bias_value", sampling.bias_value, sampling.n_bias)?,
                    seen_token: slice("seen_token", sampling.seen_token, sampling.n_seen)?,
                    seen_count: slice("seen_count", sampling.seen_count, sampling.n_seen)?,
                    masks: slice("masks", sampling.masks, words)?,
                }
            };
            model.sample(ticket, &parameters)
        })
    })
}

unsafe extern "C" fn wait(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    ns: u64,
    to: *mut abi::Outcome,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's struct; zero is a value of every field.
        let outcome = unsafe { read(to, "result") }?;
        if outcome.size < size_of::<abi::Outcome>() {
            return Err(invalid(format!("result.size = {}", outcome.size)));
        }
        sleep(model, ticket, ns)?;
        with(model, |model| {
            let (tokens, logprobs) = model.results(ticket)?;
            let n_rows = tokens.len();
            if n_rows > outcome.capacity as usize {
                return Err(invalid(format!("capacity = {}, the step has {n_rows} rows", outcome.capacity)));
            }
            // SAFETY: both columns of the caller have room for `capacity` entries.
            unsafe {
                if n_rows > 0 {
                    std::ptr::copy_nonoverlapping(tokens.as_ptr(), outcome.tokens, n_rows);
                    std::ptr::copy_nonoverlapping(logprobs.as_ptr(), outcome.logprobs, n_rows);
                }
                (*to).n_rows = n_rows as u32;
            }
            Ok(())
        })
    })
}

/// Until the ticket is done, without the lock; at most `ns`.
fn sleep(model: *const abi::Model, ticket: abi::Ticket, ns: u64) -> Result<(), Fault> {
    let Some(done) = with(model, |model| model.done(ticket))? else { return Ok(()) };
    let left = done.saturating_duration_since(Instant::now());
    std::thread::sleep(left.min(Duration::from_nanos(ns)));
    if left > Duration::from_nanos(ns) {
        return Err(Fault { code: abi::TIMEOUT, text: format!("ticket {ticket} is still running") });
    }
    Ok(())
}

unsafe extern "C" fn topk(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    row: u32,
    k: u32,
    ids: *mut u32,
    logprobs: *mut f32,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        sleep(model, ticket, u64::MAX)?;
        with(model, |model| {
            let vocab = model.limits().vocab;
            if k > vocab {
                return Err(invalid(format!("k = {k}, the vocabulary has {vocab} tokens")));
            }
            let logits = model.row_logits(ticket, row)?;
            for nth in 0..k {
                let (id, logprob) = model.nth(logits, nth);
                // SAFETY: both columns of the caller have room for k entries.
                unsafe {
                    ids.add(nth as usize).write(id);
                    logprobs.add(nth as usize).write(logprob);
                }
            }
            Ok(())
        })
    })
}

unsafe extern "C" fn logits(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    row: u32,
    to: *mut *const f32,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        sleep(model, ticket, u64::MAX)?;
        let lent = with(model, |model| model.logits(ticket, row))?;
        // SAFETY: where the caller wants the pointer.
        unsafe { to.write(lent) };
        Ok(())
    })
}

unsafe extern "C" fn release(model: *mut abi::Model, ticket: abi::Ticket) {
    call(std::ptr::null_mut(), || {
        with(model, |model| {
            model.release(ticket);
            Ok(())
        })
    });
}

unsafe extern "C" fn extension(_id: *const c_char) -> *const c_void {
    std::ptr::null()
}
