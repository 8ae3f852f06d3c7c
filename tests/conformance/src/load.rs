//! Loading, refusing to load, and unloading.

use std::cell::RefCell;
use std::path::Path;

use tokenmill_backend::{Error, Load};

use crate::Body;
use crate::subject::{BLOCK, BLOCKS, DEPTH, MAX_ROWS, MAX_SEQS, MAX_TOKENS, Stop, Subject, ensure};

pub(crate) const CHECKS: &[(&str, Body)] = &[
    ("the model loads and its sizes are as asked, at most", sizes),
    ("progress rises to its total", progress),
    ("a directory that is not there is refused", missing_directory),
    ("an unknown option is refused by name", unknown_option),
    ("sizes out of range are refused by name", bad_sizes),
    ("loading many times leaks no memory, threads or files", leaks),
];

fn sizes(subject: &Subject<'_>) -> Result<(), Stop> {
    let asked = subject.request();
    let model = subject.load()?;
    let info = model.info();
    let most = [
        ("max_tokens", info.max_tokens, MAX_TOKENS),
        ("max_rows", info.max_rows, MAX_ROWS),
        ("max_seqs", info.max_seqs, MAX_SEQS),
        ("depth", info.depth, DEPTH),
    ];
    for (field, have, asked) in most {
        ensure(have == asked, || format!("{field} = {have}, asked for {asked}"))?;
    }
    ensure(info.block_tokens == BLOCK, || {
        format!("block_tokens = {}, asked for {BLOCK}", info.block_tokens)
    })?;
    let arena = u64::from(info.n_blocks) * info.kv_block_bytes;
    ensure(arena <= asked.kv_bytes, || {
        format!("{arena} bytes of KV blocks, kv_bytes was {}", asked.kv_bytes)
    })?;
    ensure(info.n_blocks >= BLOCKS, || format!("n_blocks = {}, the suite needs {BLOCKS}", info.n_blocks))?;
    ensure(info.max_context >= 64, || format!("max_context = {}, the suite needs 64", info.max_context))?;
    ensure(info.vocab >= 32, || format!("vocab = {}, the suite needs 32", info.vocab))?;
    let named = !info.arch.is_empty() && !info.device.is_empty() && !info.weights.is_empty();
    ensure(named, || format!("arch, device or weights is empty: {info:?}"))
}

fn progress(subject: &Subject<'_>) -> Result<(), Stop> {
    let seen = RefCell::new(Vec::new());
    let note = |done, total| seen.borrow_mut().push((done, total));
    subject.backend.load(&Load { progress: Some(&note), ..subject.request() })?;
    let seen = seen.borrow();
    let rising = seen.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 == pair[1].1);
    let complete = seen.last().is_none_or(|(done, total)| done == total);
    ensure(rising && complete, || format!("progress went {seen:?}"))
}

fn missing_directory(subject: &Subject<'_>) -> Result<(), Stop> {
    let dir = Path::new("/there is no such directory");
    match subject.backend.load(&Load { dir, ..subject.request() }) {
        Ok(_) => Err(Stop::Skip("this backend reads no directory".to_owned())),
        Err(error) => ensure(error.to_string().contains("no such directory"), || {
            format!("not named in {:?}", error.to_string())
        }),
    }
}

fn unknown_option(subject: &Subject<'_>) -> Result<(), Stop> {
    let options = format!("{}\nno_such_option=1\n", subject.options);
    refused(subject, &Load { options: &options, ..subject.request() }, "no_such_option")
}

fn bad_sizes(subject: &Subject<'_>) -> Result<(), Stop> {
    let good = subject.request();
    let cases: [(&str, Load<'_>); 13] = [
        ("devices", Load { devices: &[], ..good }),
        ("tensor_parallel", Load { tensor_parallel: 0, ..good }),
        ("tensor_parallel", Load { devices: &[0], tensor_parallel: 2, ..good }),
        ("block_tokens", Load { block_tokens: 0, ..good }),
        ("block_tokens", Load { block_tokens: 24, ..good }),
        ("block_tokens", Load { block_tokens: 512, ..good }),
        ("max_tokens", Load { max_tokens: 0, ..good }),
        ("max_rows", Load { max_rows: 0, ..good }),
        ("max_seqs", Load { max_seqs: 0, ..good }),
        ("depth", Load { depth: 0, ..good }),
        ("depth", Load { depth: 5, ..good }),
        ("option", Load { options: "no equals sign", ..good }),
        ("depth", Load { depth: u32::MAX, ..good }),
    ];
    for (field, load) in cases {
        refused(subject, &load, field)?;
    }
    Ok(())
}

fn refused(subject: &Subject<'_>, load: &Load<'_>, named: &str) -> Result<(), Stop> {
    match subject.backend.load(load) {
        Err(Error::Invalid(text)) => {
            ensure(text.contains(named), || format!("{named} is not named in {text:?}"))
        }
        Err(other) => Err(Stop::Fail(format!("{named}: expected an invalid argument, got {other}"))),
        Ok(_) => Err(Stop::Fail(format!("{named} is accepted"))),
    }
}

fn leaks(subject: &Subject<'_>) -> Result<(), Stop> {
    // An arena that stands out if it is left behind.
    let request = subject.request();
    let load = Load { kv_bytes: request.kv_bytes.max(16 << 20), ..request };
    let (mut weights, arena) = (0, load.kv_bytes);
    let mut rounds = |n| -> Result<Option<Usage>, Stop> {
        for _ in 0..n {
            weights = subject.backend.load(&load)?.info().weight_bytes;
        }
        Ok(Usage::now())
    };
    // What is kept once (thread pools, compiled kernels) is there after the first rounds.
    let Some(before) = rounds(2)? else {
        return Err(Stop::Skip("this system does not tell what a process uses".to_owned()));
    };
    let Some(after) = rounds(8)? else { return Ok(()) };
    let grown = after.resident.saturating_sub(before.resident);
    ensure(after.threads <= before.threads, || {
        format!("threads: {} and then {}", before.threads, after.threads)
    })?;
    ensure(after.files <= before.files, || format!("open files: {} and then {}", before.files, after.files))?;
    // Room for what allocators keep; far less than eight of anything.
    ensure(grown <= (16 << 20) + 2 * (weights + arena), || {
        format!("8 loads of {weights} bytes and {arena} bytes of KV grew the process by {grown}")
    })
}

struct Usage {
    /// Bytes.
    resident: u64,
    threads: usize,
    files: usize,
}

impl Usage {
    /// As Linux tells it.
    fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        let entries = |path| Some(std::fs::read_dir(path).ok()?.count());
        Some(Self {
            resident: kib << 10,
            threads: entries("/proc/self/task")?,
            files: entries("/proc/self/fd")?,
        })
    }
}
