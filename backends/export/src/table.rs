//! The C functions: each catches panics, checks pointers, and turns faults into codes and messages.

use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::null;

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::device::Step;

use crate::arguments::{read, slice, text, write, write_text};
use crate::fault::Fault;
use crate::job::Sampling;
use crate::load::{self, Request};
use crate::model_handle::Model;
use crate::options::Options;
use crate::platform::Platform;

/// The function table of a platform. `name` ends with a NUL.
pub const fn table<P: Platform>(name: &'static str) -> abi::Api {
    abi::Api {
        size: size_of::<abi::Api>(),
        major: abi::MAJOR,
        minor: abi::MINOR,
        name: name.as_ptr().cast(),
        probe: probe::<P>,
        load: load::<P>,
        unload,
        info,
        submit,
        sample,
        wait,
        topk,
        logits,
        release,
        extension,
    }
}

/// Runs `body`; what it reports, or that it panicked, becomes a code and a message.
fn call(message: *mut abi::Message, body: impl FnOnce() -> Result<(), Fault>) -> abi::Code {
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return abi::OK,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::panic(&*panic),
    };
    // SAFETY: NULL or the caller's message.
    if let Some(message) = unsafe { message.as_mut() } {
        write_text(&mut message.text, &fault.text);
    }
    fault.code
}

/// # Safety
/// `model` is NULL or came from `load` and was not unloaded.
unsafe fn handle<'a>(model: *const abi::Model) -> Result<&'a Model, Fault> {
    // SAFETY: as promised.
    unsafe { model.cast::<Model>().as_ref() }.ok_or_else(|| Fault::invalid("model is NULL"))
}

fn not_null<T>(what: &str, pointer: *mut T) -> Result<*mut T, Fault> {
    if pointer.is_null() { Err(Fault::invalid(format!("{what} is NULL"))) } else { Ok(pointer) }
}

unsafe extern "C" fn probe<P: Platform>(message: *mut abi::Message) -> i32 {
    i32::from(call(message, || P::probe().map_err(Fault::from)) == abi::OK)
}

unsafe extern "C" fn load<P: Platform>(
    from: *const abi::Load,
    model: *mut *mut abi::Model,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        let model = not_null("model", model)?;
        // SAFETY: the caller's struct and its pointers, for the duration of the call.
        let (raw, dir, options, devices) = unsafe {
            let raw = read(from, "load")?;
            let devices = slice("devices", raw.devices, raw.n_devices as usize)?;
            (raw, text("dir", raw.dir)?, text("options", raw.options)?, devices)
        };
        let request = request(&raw, devices)?;
        let options = Options::parse(options, P::OPTIONS)?;
        let mut progress = |done, total| {
            if let Some(progress) = raw.progress {
                // SAFETY: the callback and its argument are the caller's.
                unsafe { progress(raw.user, done, total) };
            }
        };
        let loaded = load::load::<P>(Path::new(dir), &request, &options, &mut progress)?;
        // SAFETY: not NULL; where the caller wants the model.
        unsafe { model.write(Box::into_raw(Box::new(loaded)).cast()) };
        Ok(())
    })
}

const MAX_RANKS: usize = 64;

fn request(raw: &abi::Load, devices: &[i32]) -> Result<Request, Fault> {
    let invalid = |what: &str, value: u32| Err(Fault::invalid(format!("{what} = {value} is out of range")));
    match raw {
        _ if devices.is_empty() || devices.len() > MAX_RANKS => {
            return invalid("devices: n_devices", raw.n_devices);
        }
        _ if raw.tensor_parallel == 0 || !raw.n_devices.is_multiple_of(raw.tensor_parallel) => {
            let n = raw.n_devices;
            return Err(Fault::invalid(format!(
                "tensor_parallel = {} does not divide {n} devices",
                raw.tensor_parallel
            )));
        }
        _ if !raw.block_tokens.is_power_of_two() || raw.block_tokens > 256 => {
            return invalid("block_tokens", raw.block_tokens);
        }
        _ if !(1..=1 << 20).contains(&raw.max_tokens) => return invalid("max_tokens", raw.max_tokens),
        _ if !(1..=1 << 20).contains(&raw.max_rows) => return invalid("max_rows", raw.max_rows),
        _ if !(1..=1 << 20).contains(&raw.max_seqs) => return invalid("max_seqs", raw.max_seqs),
        _ if !(1..=4).contains(&raw.depth) => return invalid("depth", raw.depth),
        _ => {}
    }
    Ok(Request {
        devices: devices.to_vec(),
        tensor_parallel: raw.tensor_parallel as usize,
        block_tokens: raw.block_tokens as usize,
        max_tokens: raw.max_tokens as usize,
        max_rows: raw.max_rows as usize,
        max_seqs: raw.max_seqs as usize,
        depth: raw.depth as usize,
        kv_bytes: raw.kv_bytes,
    })
}

unsafe extern "C" fn unload(model: *mut abi::Model) {
    call(std::ptr::null_mut(), || {
        if !model.is_null() {
            // SAFETY: what load made with into_raw; the caller gives it up.
            drop(unsafe { Box::from_raw(model.cast::<Model>()) });
        }
        Ok(())
    });
}

unsafe extern "C" fn info(
    model: *const abi::Model,
    to: *mut abi::Info,
    message: *mut abi::Message,
) -> abi::Code {
    call(message, || {
        // SAFETY: the caller's model and struct.
        let (model, mut info) = unsafe { (handle(model)?, read(to, "info")?) };
        let (limits, about) = (&model.limits, &model.description);
        info.vocab = limits.vocab as u32;
        info.max_context = limits.context as u32;
        info.n_blocks = limits.blocks as u32;
        info.block_tokens = limits.block_tokens as u32;
        info.max_tokens = limits.max_tokens as u32;
        info.max_rows = limits.max_rows as u32;
        info.max_seqs = limits.max_seqs as u32;
        info.depth = about.depth as u32;
        info.weight_bytes = about.weight_bytes;
        info.kv_block_bytes = about.kv_block_bytes;
        write_text(&mut info.arch, about.arch);
        write_text(&mut info.device, &about.device);
        write_text(&mut info.weights, about.weights);
        // SAFETY: the caller's struct has `size` bytes.
        unsafe { write(to, &info, info.size) };
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
        let ticket = not_null("ticket", ticket)?;
        // SAFETY: the caller's model, struct and columns, for the duration of the call.
        let submitted = unsafe {
            let model = handle(model)?;
            let raw = read(batch, "batch")?;
            let copies = slice("copies", raw.copies, 2 * raw.n_copies as usize)?;
            model.submit(&step(&raw, model.limits.max_seqs)?, copies)?
        };
        // SAFETY: not NULL; where the caller wants the ticket.
        unsafe { ticket.write(submitted) };
        Ok(())
    })
}

/// All but the copies.
///
/// # Safety
/// The columns have the lengths that the header gives them.
unsafe fn step<'a>(batch: &abi::Batch, max_seqs: usize) -> Result<Step<'a>, Fault> {
    let seqs = batch.n_seqs as usize;
    // Before anything is read at an index that depends on it.
    if seqs == 0 || seqs > max_seqs {
        return Err(Fault::invalid(format!("n_seqs = {seqs}, expected 1 to max_seqs {max_seqs}")));
    }
    // SAFETY: as promised.
    unsafe {
        let seq_start = slice("seq_start", batch.seq_start, seqs + 1)?;
        let block_start = slice("block_start", batch.block_start, seqs + 1)?;
        Ok(Step {
            tokens: slice("tokens", batch.tokens, seq_start[seqs] as usize)?,
            seq_start,
            seq_pos: slice("seq_pos", batch.seq_pos, seqs)?,
            block_start,
            blocks: slice("blocks", batch.blocks, block_start[seqs] as usize)?,
            rows: slice("rows", batch.rows, batch.n_rows as usize)?,
            copies: &[],
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
        // SAFETY: the caller's model, struct and columns, for the duration of the call.
        unsafe {
            let model = handle(model)?;
            let raw = read(sampling, "sampling")?;
            let rows = model.rows_to_sample(ticket)?;
            let mask_words = model.limits.vocab.div_ceil(32);
            let columns = Sampling {
                rows: slice("rows", raw.rows, rows)?,
                bias_token: slice("bias_token", raw.bias_token, raw.n_bias as usize)?,
                bias_value: slice("bias_value", raw.bias_value, raw.n_bias as usize)?,
                seen_token: slice("seen_token", raw.seen_token, raw.n_seen as usize)?,
                seen_count: slice("seen_count", raw.seen_count, raw.n_seen as usize)?,
                masks: slice("masks", raw.masks, raw.n_masks as usize * mask_words)?,
                mask_words,
            };
            model.sample(ticket, &columns)
        }
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
        // SAFETY: the caller's model and struct.
        let (model, mut outcome) = unsafe { (handle(model)?, read(to, "result")?) };
        model.wait(ticket, ns, |tokens, logprobs| {
            let rows = tokens.len();
            if rows > outcome.capacity as usize {
                return Err(Fault::invalid(format!(
                    "capacity = {}: the step has {rows} rows",
                    outcome.capacity
                )));
            }
            if rows > 0 {
                let (to_tokens, to_logprobs) =
                    (not_null("tokens", outcome.tokens)?, not_null("logprobs", outcome.logprobs)?);
                // SAFETY: both columns of the caller have room for `capacity` entries.
                unsafe {
                    std::ptr::copy_nonoverlapping(tokens.as_ptr(), to_tokens, rows);
                    std::ptr::copy_nonoverlapping(logprobs.as_ptr(), to_logprobs, rows);
                }
            }
            outcome.n_rows = rows as u32;
            // SAFETY: the caller's struct has `size` bytes.
            unsafe { write(to, &outcome, outcome.size) };
            Ok(())
        })
    })
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
        // SAFETY: the caller's model.
        let found = unsafe { handle(model)? }.top_k(ticket, row, k)?;
        if k > 0 {
            let (ids, logprobs) = (not_null("ids", ids)?, not_null("logprobs", logprobs)?);
            // SAFETY: both columns of the caller have room for k entries, and that many were found.
            unsafe {
                std::ptr::copy_nonoverlapping(found.0.as_ptr(), ids, found.0.len());
                std::ptr::copy_nonoverlapping(found.1.as_ptr(), logprobs, found.1.len());
            }
        }
        Ok(())
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
        let to = not_null("logits", to)?;
        // SAFETY: the caller's model.
        let lent = unsafe { handle(model)? }.logits(ticket, row)?;
        // SAFETY: not NULL; where the caller wants the pointer.
        unsafe { to.write(lent) };
        Ok(())
    })
}

unsafe extern "C" fn release(model: *mut abi::Model, ticket: abi::Ticket) {
    call(std::ptr::null_mut(), || {
        // SAFETY: the caller's model.
        unsafe { handle(model)? }.release(ticket);
        Ok(())
    });
}

unsafe extern "C" fn extension(_id: *const c_char) -> *const c_void {
    null()
}
