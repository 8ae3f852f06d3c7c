//! What only a C caller can do: structs of other sizes, NULL where it is allowed, wrong tickets, other threads.

use std::ffi::{CString, c_void};
use std::mem::{offset_of, size_of};
use std::ptr::{null, null_mut};

use tokenmill_backend::abi;

use crate::Body;
use crate::subject::{BLOCK, DEPTH, MAX_ROWS, MAX_SEQS, MAX_TOKENS, Stop, Subject, ensure};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("unknown tickets are invalid, and ignored by release", unknown_tickets),
    ("structs of an older and of a newer host are read", other_sizes),
    ("info writes no more than it is asked for", short_info),
    ("messages may be NULL", null_messages),
    ("too few result entries are invalid", small_results),
    ("wait, topk and logits run beside submit and release", threads),
    ("unload takes NULL, and extensions that are not there are NULL", nothing),
];

/// A model behind its bare handle.
struct Raw {
    api: &'static abi::Api,
    handle: *mut abi::Model,
}

// SAFETY: the checks call [M] functions from one thread at a time.
unsafe impl Send for Raw {}
// SAFETY: as above; the other threads call [T] functions only.
unsafe impl Sync for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: the handle came from load; this is its last use.
        unsafe { (self.api.unload)(self.handle) }
    }
}

/// The columns of a good step of one sequence, and what it needs to stay alive.
struct Columns {
    tokens: Vec<i32>,
    starts: [u32; 2],
    block_starts: [u32; 2],
    position: u32,
    blocks: Vec<u32>,
    rows: Vec<u32>,
}

impl Columns {
    fn new(first_block: u32) -> Self {
        let tokens: Vec<i32> = (1..=20).collect();
        Self {
            starts: [0, tokens.len() as u32],
            block_starts: [0, 2],
            position: 0,
            blocks: vec![first_block, first_block + 1],
            rows: vec![tokens.len() as u32 - 1, 4],
            tokens,
        }
    }

    fn batch(&self) -> abi::Batch {
        abi::Batch {
            size: size_of::<abi::Batch>(),
            tokens: self.tokens.as_ptr(),
            seq_start: self.starts.as_ptr(),
            seq_pos: &raw const self.position,
            block_start: self.block_starts.as_ptr(),
            blocks: self.blocks.as_ptr(),
            rows: self.rows.as_ptr(),
            n_seqs: 1,
            n_rows: self.rows.len() as u32,
            copies: null(),
            n_copies: 0,
            reserved: 0,
        }
    }
}

/// A struct as a host of a later minor would pass it: with more behind it.
#[repr(C)]
struct Longer<T> {
    known: T,
    unknown: [u64; 8],
}

impl Raw {
    fn load(subject: &Subject<'_>) -> Result<Self, Stop> {
        let api = subject.backend.api();
        let text = |text: &str| CString::new(text).map_err(|error| Stop::Fail(error.to_string()));
        let (dir, options) = (text(&subject.dir.to_string_lossy())?, text(subject.options)?);
        let load = Longer {
            known: abi::Load {
                size: size_of::<Longer<abi::Load>>(),
                dir: dir.as_ptr(),
                devices: subject.ranks.devices.as_ptr(),
                n_devices: subject.ranks.devices.len() as u32,
                tensor_parallel: subject.ranks.tensor_parallel,
                block_tokens: BLOCK,
                max_tokens: MAX_TOKENS,
                max_rows: MAX_ROWS,
                max_seqs: MAX_SEQS,
                depth: DEPTH,
                reserved: 0,
                kv_bytes: subject.request().kv_bytes,
                options: options.as_ptr(),
                progress: None,
                user: null_mut::<c_void>(),
            },
            unknown: [u64::MAX; 8],
        };
        let mut handle = null_mut();
        // SAFETY: everything the struct points to outlives the call.
        let code = unsafe { (api.load)((&raw const load).cast(), &raw mut handle, null_mut()) };
        ensure(code == abi::OK, || format!("load gave code {code}"))?;
        Ok(Self { api, handle })
    }

    fn submit(&self, batch: *const abi::Batch) -> Result<u64, Stop> {
        let mut ticket = 0;
        // SAFETY: the callers' batches point to live columns.
        let code = unsafe { (self.api.submit)(self.handle, batch, &raw mut ticket, null_mut()) };
        ensure(code == abi::OK, || format!("submit gave code {code}"))?;
        Ok(ticket)
    }

    fn sample(&self, ticket: u64) -> abi::Code {
        let rows = [abi::Row::default(); 2];
        let sampling = sampling(&rows);
        // SAFETY: the struct and its rows live until the call returns.
        unsafe { (self.api.sample)(self.handle, ticket, &raw const sampling, null_mut()) }
    }

    /// Two results, or the code.
    fn wait(&self, ticket: u64, capacity: u32) -> Result<[i32; 2], abi::Code> {
        let (mut tokens, mut logprobs) = ([-7; 2], [0.0; 2]);
        let mut outcome = abi::Outcome {
            size: size_of::<abi::Outcome>(),
            tokens: tokens.as_mut_ptr(),
            logprobs: logprobs.as_mut_ptr(),
            capacity,
            n_rows: 99,
        };
        // SAFETY: both columns have at least `capacity` entries.
        let code = unsafe { (self.api.wait)(self.handle, ticket, u64::MAX, &raw mut outcome, null_mut()) };
        if code == abi::OK { Ok(tokens) } else { Err(code) }
    }

    fn logit(&self, ticket: u64, row: u32) -> Result<f32, abi::Code> {
        let mut logits = null();
        // SAFETY: where the pointer goes.
        let code = unsafe { (self.api.logits)(self.handle, ticket, row, &raw mut logits, null_mut()) };
        // SAFETY: a row of at least one logit, until release.
        if code == abi::OK { Ok(unsafe { logits.read() }) } else { Err(code) }
    }

    fn topk(&self, ticket: u64) -> Result<u32, abi::Code> {
        let (mut id, mut logprob) = (0, 0.0);
        // SAFETY: both columns have one entry.
        let code =
            unsafe { (self.api.topk)(self.handle, ticket, 0, 1, &raw mut id, &raw mut logprob, null_mut()) };
        if code == abi::OK { Ok(id) } else { Err(code) }
    }

    fn release(&self, ticket: u64) {
        // SAFETY: any number is allowed.
        unsafe { (self.api.release)(self.handle, ticket) }
    }

    /// One step from beginning to end.
    fn run(&self, batch: *const abi::Batch) -> Result<[i32; 2], Stop> {
        let ticket = self.submit(batch)?;
        let code = self.sample(ticket);
        ensure(code == abi::OK, || format!("sample gave code {code}"))?;
        let result = self.wait(ticket, 2).map_err(|code| Stop::Fail(format!("wait gave code {code}")));
        self.release(ticket);
        result
    }
}

fn sampling(rows: &[abi::Row]) -> abi::Sampling {
    abi::Sampling {
        size: size_of::<abi::Sampling>(),
        rows: rows.as_ptr(),
        bias_token: null(),
        bias_value: null(),
        n_bias: 0,
        n_seen: 0,
        seen_token: null(),
        seen_count: null(),
        masks: null(),
        n_masks: 0,
        reserved: 0,
    }
}

fn unknown_tickets(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let columns = Columns::new(0);
    let expected = raw.run(&columns.batch())?;
    // Never given, released, and not yet given.
    for ticket in [0, 1, 2, u64::MAX] {
        let codes = [
            raw.sample(ticket),
            raw.wait(ticket, 2).err().unwrap_or(abi::OK),
            raw.topk(ticket).err().unwrap_or(abi::OK),
            raw.logit(ticket, 0).err().unwrap_or(abi::OK),
        ];
        ensure(codes == [abi::INVALID; 4], || {
            format!("sample, wait, topk and logits of ticket {ticket} gave codes {codes:?}")
        })?;
        raw.release(ticket);
    }
    let again = raw.run(&columns.batch())?;
    ensure(again == expected, || format!("{again:?}, expected {expected:?}"))
}

fn other_sizes(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let columns = Columns::new(0);
    let expected = raw.run(&columns.batch())?;

    let mut longer = Longer { known: columns.batch(), unknown: [u64::MAX; 8] };
    longer.known.size = size_of::<Longer<abi::Batch>>();
    let ran = raw.run((&raw const longer).cast())?;
    ensure(ran == expected, || format!("a longer batch gave {ran:?}, expected {expected:?}"))?;

    // Before copies were there, so to speak: what lies in their place is not for reading.
    let wrong = [u32::MAX; 2];
    let mut shorter = columns.batch();
    shorter.size = offset_of!(abi::Batch, copies);
    (shorter.copies, shorter.n_copies) = (wrong.as_ptr(), 1);
    let ran = raw.run(&raw const shorter)?;
    ensure(ran == expected, || format!("a shorter batch gave {ran:?}, expected {expected:?}"))?;

    // Nor are biases, in a sampling that ends before them.
    let rows = [abi::Row::default(); 2];
    let mut short = sampling(&rows);
    short.size = offset_of!(abi::Sampling, bias_token);
    (short.bias_token, short.bias_value, short.n_bias) = (wrong.as_ptr(), [f32::NAN; 1].as_ptr(), 1);
    let ticket = raw.submit(&columns.batch())?;
    // SAFETY: the struct and its rows live until the call returns.
    let code = unsafe { (raw.api.sample)(raw.handle, ticket, &raw const short, null_mut()) };
    ensure(code == abi::OK, || format!("a shorter sampling gave code {code}"))?;
    let ran = raw.wait(ticket, 2);
    ensure(ran == Ok(expected), || format!("a shorter sampling gave {ran:?}, expected {expected:?}"))
}

fn short_info(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let size = offset_of!(abi::Info, arch);
    // Words, for alignment.
    let mut room = vec![u64::MAX; size_of::<abi::Info>() / 8 + 1];
    room[0] = size as u64;
    // SAFETY: the room is longer than its first word says.
    let code = unsafe { (raw.api.info)(raw.handle, room.as_mut_ptr().cast(), null_mut()) };
    ensure(code == abi::OK, || format!("info gave code {code}"))?;
    ensure(room[size / 8..].iter().all(|&word| word == u64::MAX), || "info wrote beyond `size`".to_owned())?;
    ensure(room[1] != u64::MAX && room[0] == size as u64, || {
        "info wrote no vocab, or changed `size`".to_owned()
    })
}

fn null_messages(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let columns = Columns::new(0);
    let batch = abi::Batch { n_seqs: MAX_SEQS + 1, ..columns.batch() };
    let mut ticket = 0;
    // SAFETY: too many sequences, which the backend must see before it reads their columns.
    let code = unsafe { (raw.api.submit)(raw.handle, &raw const batch, &raw mut ticket, null_mut()) };
    ensure(code == abi::INVALID, || format!("too many sequences gave code {code}"))?;
    let mut message = abi::Message { text: [0x41; 256] };
    // SAFETY: as above.
    unsafe { (raw.api.submit)(raw.handle, &raw const batch, &raw mut ticket, &raw mut message) };
    ensure(message.text.contains(&0) && message.text[0] != 0, || {
        "the message has no NUL, or no text".to_owned()
    })?;
    raw.run(&columns.batch())?;
    Ok(())
}

fn small_results(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let columns = Columns::new(0);
    let ticket = raw.submit(&columns.batch())?;
    ensure(raw.sample(ticket) == abi::OK, || "sample failed".to_owned())?;
    let refused = raw.wait(ticket, 1);
    ensure(refused == Err(abi::INVALID), || format!("one entry for two rows gave {refused:?}"))?;
    let ran = raw.wait(ticket, 2);
    ensure(ran.is_ok(), || format!("and then two entries {ran:?}"))
}

/// Other threads wait for and read ticket n while this one submits, samples and releases n + 1.
fn threads(subject: &Subject<'_>) -> Result<(), Stop> {
    let raw = &Raw::load(subject)?;
    let columns = [Columns::new(0), Columns::new(2)];
    let expected = raw.run(&columns[0].batch())?;
    for _ in 0..20 {
        let ticket = raw.submit(&columns[0].batch())?;
        ensure(raw.sample(ticket) == abi::OK, || "sample failed".to_owned())?;
        let read = || (raw.wait(ticket, 2), raw.topk(ticket), raw.logit(ticket, 1));
        let (seen, mine) = std::thread::scope(|scope| {
            let others = [scope.spawn(read), scope.spawn(read)];
            let mine = (0..3).try_for_each(|_| raw.run(&columns[1].batch()).map(|_| ()));
            (others.map(|thread| thread.join()), mine)
        });
        mine?;
        for thread in seen {
            let Ok((result, topk, logit)) = thread else {
                return Err(Stop::Fail("a reading thread panicked".to_owned()));
            };
            ensure(result == Ok(expected), || format!("{result:?}, expected {expected:?}"))?;
            ensure(topk.is_ok() && logit.is_ok(), || format!("topk gave {topk:?}, logits {logit:?}"))?;
        }
        raw.release(ticket);
    }
    Ok(())
}

fn nothing(subject: &Subject<'_>) -> Result<(), Stop> {
    let api = subject.backend.api();
    // SAFETY: NULL is allowed.
    unsafe { (api.unload)(null_mut()) };
    // SAFETY: a NUL-terminated text.
    let extension = unsafe { (api.extension)(c"no-such-extension/1".as_ptr()) };
    ensure(extension.is_null(), || "an extension nobody has heard of is there".to_owned())
}
