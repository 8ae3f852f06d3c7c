//! A rank that fails or panics: the ticket says so, everything after is lost, nothing hangs.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::CString;
use std::mem::size_of;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokenmill_backend_abi as abi;
use tokenmill_backend_export::model::device::*;
use tokenmill_backend_export::model::error::Error;
use tokenmill_backend_export::model::shard::Place;
use tokenmill_backend_export::{Options, Platform, Ranks, table};

/// Ranks meet here; `None` once aborted.
#[derive(Default)]
struct Meeting {
    counts: Mutex<Option<Counts>>,
    changed: Condvar,
}

struct Counts {
    /// Ranks that have their device.
    opened: usize,
    /// Calls of `all_reduce`, by stage.
    sums: Vec<u64>,
    /// Sent and not received, by receiver.
    letters: Vec<u64>,
}

impl Meeting {
    fn lost() -> Error {
        Error::Lost("another rank failed".into())
    }

    /// Counts with `count`, then waits until `done`.
    fn wait(&self, count: impl FnOnce(&mut Counts), done: impl Fn(&mut Counts) -> bool) -> Done {
        let mut counts = self.counts.lock().unwrap();
        count(counts.as_mut().ok_or_else(Self::lost)?);
        self.changed.notify_all();
        while !done(counts.as_mut().ok_or_else(Self::lost)?) {
            counts = self.changed.wait(counts).unwrap();
        }
        Ok(())
    }

    fn send(&self, to: usize) -> Done {
        self.wait(|counts| counts.letters[to] += 1, |_| true)
    }

    fn receive(&self, at: usize) -> Done {
        let take = |counts: &mut Counts| {
            let waits = counts.letters[at] > 0;
            counts.letters[at] -= u64::from(waits);
            waits
        };
        self.wait(|_| {}, take)
    }
}

/// Computes nothing. The rank and the way to fail are options.
struct Fake {
    rank: usize,
    place: Place,
    fail: Option<String>,
    meeting: Arc<Meeting>,
}

struct FakePlatform;

impl Platform for FakePlatform {
    type Device = Fake;
    type Rank = Fake;
    const OPTIONS: &'static [&'static str] = &["fail", "rank"];

    fn probe() -> Result<(), Error> {
        Ok(())
    }

    fn open(ordinals: &[i32], tensor_parallel: usize, options: &Options) -> Result<Ranks<Fake>, Error> {
        let failing = options.own_number("rank", 0, 8)?.unwrap_or(0);
        let ranks = ordinals.len();
        let counts = Counts { opened: 0, sums: vec![0; ranks / tensor_parallel], letters: vec![0; ranks] };
        let meeting = Arc::new(Meeting { counts: Mutex::new(Some(counts)), changed: Condvar::new() });
        let make = |rank| Fake {
            rank,
            place: Place::of(rank, ranks, tensor_parallel),
            fail: options.own("fail").filter(|_| rank == failing).map(str::to_owned),
            meeting: meeting.clone(),
        };
        let ranks = (0..ranks).map(make).collect();
        let abort = move || {
            *meeting.counts.lock().unwrap() = None;
            meeting.changed.notify_all();
        };
        Ok(Ranks { ranks, abort: Box::new(abort) })
    }

    fn device(rank: Fake) -> Result<Fake, Error> {
        match rank.fail.as_deref() {
            Some("device") => return Err(Error::Unsupported("this device is a fake".into())),
            Some("device panic") => panic!("no driver"),
            _ => {}
        }
        // As ranks do that connect with each other.
        let all = rank.place.stage.count * rank.place.shard.ranks;
        rank.meeting.wait(|counts| counts.opened += 1, |counts| counts.opened == all)?;
        Ok(rank)
    }
}

type Done = Result<(), Error>;

impl Device for Fake {
    type Buffer = ();
    type Weight = ();
    type Vector = ();
    type Rope = ();
    type Cache = ();
    type Batch = ();
    type Sampled = usize;

    fn describe(&self) -> String {
        format!("fake rank {}", self.rank)
    }
    fn free_memory(&self) -> u64 {
        1 << 30
    }
    fn buffer(&mut self, _: usize, _: usize, _: Precision) -> Done {
        Ok(())
    }
    fn weight(&mut self, _: &[Matrix<'_>]) -> Done {
        Ok(())
    }
    fn vector(&mut self, _: &[f32]) -> Done {
        Ok(())
    }
    fn rope(&mut self, _: &[f32], _: &[f32], _: usize) -> Done {
        Ok(())
    }
    fn cache(&mut self, _: CacheShape) -> Done {
        Ok(())
    }
    fn batch(&mut self, _: usize, _: usize, _: usize, _: usize) -> Done {
        Ok(())
    }
    fn sampled(&mut self, _: usize, _: usize) -> Result<usize, Error> {
        Ok(0)
    }
    fn begin(&mut self, _: &Step<'_>, _: &mut (), _: &mut ()) -> Done {
        Ok(())
    }
    fn embed(&mut self, _: &(), _: Option<&usize>, _: &(), _: f32, _: &mut ()) -> Done {
        Ok(())
    }
    fn rms_norm(&mut self, _: &mut (), _: &(), _: f32) -> Done {
        Ok(())
    }
    fn add_rms_norm(&mut self, _: &mut (), _: &(), _: &(), _: f32, _: &mut ()) -> Done {
        Ok(())
    }
    fn linear(&mut self, _: &(), _: &(), _: Option<&()>, _: &mut (), _: usize) -> Done {
        Ok(())
    }
    fn rope_store(
        &mut self,
        _: &(),
        _: &mut (),
        _: Heads,
        _: Option<QkNorm<'_, ()>>,
        _: &(),
        _: usize,
        _: &mut (),
    ) -> Done {
        Ok(())
    }
    fn attention(&mut self, _: &(), _: &(), _: usize, _: &(), _: &Attention, _: &mut ()) -> Done {
        match self.fail.as_deref() {
            Some("panic") => panic!("kernel trapped"),
            Some("lost") => Err(Error::Lost("it fell off the bus".into())),
            Some("memory") => Err(Error::NoMemory("no room for a workspace".into())),
            _ => Ok(()),
        }
    }
    fn gate_mul(&mut self, _: &(), _: Activation, _: &mut ()) -> Done {
        Ok(())
    }
    fn gather_rows(&mut self, _: &(), _: &(), _: &mut ()) -> Done {
        Ok(())
    }
    fn softcap(&mut self, _: &mut (), _: f32) -> Done {
        Ok(())
    }
    fn zero(&mut self, _: &mut (), _: usize) -> Done {
        Ok(())
    }
    /// Waits until as many calls were made by all ranks.
    fn all_reduce(&mut self, _: &mut ()) -> Done {
        let Place { stage, shard } = self.place;
        let mut all = 0;
        let arrive = |counts: &mut Counts| {
            counts.sums[stage.index] += 1;
            all = counts.sums[stage.index].next_multiple_of(shard.ranks as u64);
        };
        self.meeting.wait(arrive, |_| true)?;
        self.meeting.wait(|_| {}, |counts| counts.sums[stage.index] >= all)
    }
    fn send(&mut self, _: &(), _: &()) -> Done {
        self.place.next().map_or(Ok(()), |next| self.meeting.send(next))
    }
    fn receive(&mut self, _: &(), _: &mut ()) -> Done {
        self.meeting.receive(self.rank)
    }
    fn send_sampled(&mut self, _: &usize, _: usize) -> Done {
        self.meeting.send(self.place.first())
    }
    fn receive_sampled(&mut self, _: &mut usize, _: usize) -> Done {
        self.meeting.receive(self.rank)
    }
    fn sample(&mut self, _: &(), rows: &[RowSampling<'_>], out: &mut usize) -> Done {
        *out = rows.len();
        Ok(())
    }
    /// As a device does whose work ends later, on a thread of its own.
    fn finished(&mut self, done: impl FnOnce(Done) + Send + 'static) -> Done {
        let fate = match self.fail.as_deref() {
            Some("later") => Err(Error::Lost("an illegal address, noticed late".into())),
            _ => Ok(()),
        };
        std::thread::spawn(move || done(fate));
        Ok(())
    }
    fn fetch(&mut self, rows: &usize, done: impl FnOnce(Result<Rows<'_>, Error>) + Send + 'static) -> Done {
        let rows = *rows;
        std::thread::spawn(move || done(Ok((&vec![7; rows], &vec![-1.0; rows]))));
        Ok(())
    }
    fn top_k(&mut self, _: &(), _: usize, _: &mut [u32], _: &mut [f32]) -> Done {
        Err(Error::Unsupported("a fake knows no logits".into()))
    }
    fn row(&mut self, _: &(), _: usize, out: &mut [f32]) -> Done {
        out.fill(0.5);
        Ok(())
    }
}

static API: abi::Api = table::<FakePlatform>("fake\0");

struct Loaded(*mut abi::Model);

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: what load returned, once.
        unsafe { (API.unload)(self.0) };
    }
}

fn said(message: &abi::Message) -> String {
    message.text.iter().map(|c| *c as u8).take_while(|c| *c != 0).map(char::from).collect()
}

fn load(stages: usize, tensor_parallel: usize, options: &str) -> Result<Loaded, (abi::Code, String)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama-gqa");
    let (dir, options) = (CString::new(dir).unwrap(), CString::new(options).unwrap());
    let devices = vec![0; stages * tensor_parallel];
    let load = abi::Load {
        size: size_of::<abi::Load>(),
        dir: dir.as_ptr(),
        devices: devices.as_ptr(),
        n_devices: devices.len() as u32,
        tensor_parallel: tensor_parallel as u32,
        block_tokens: 16,
        max_tokens: 8,
        max_rows: 8,
        max_seqs: 2,
        depth: 2,
        reserved: 0,
        kv_bytes: 0,
        options: options.as_ptr(),
        progress: None,
        user: null_mut(),
    };
    let (mut model, mut message) = (null_mut(), abi::Message::default());
    // SAFETY: every pointer lives through the call.
    let code = unsafe { (API.load)(&raw const load, &raw mut model, &raw mut message) };
    if code == abi::OK { Ok(Loaded(model)) } else { Err((code, said(&message))) }
}

impl Loaded {
    /// One token of one sequence, with a row.
    fn submit(&self) -> (abi::Code, u64) {
        let (tokens, start, zero) = ([3], [0, 1], [0]);
        let batch = abi::Batch {
            size: size_of::<abi::Batch>(),
            tokens: tokens.as_ptr(),
            seq_start: start.as_ptr(),
            seq_pos: zero.as_ptr(),
            block_start: start.as_ptr(),
            blocks: zero.as_ptr(),
            rows: zero.as_ptr(),
            n_seqs: 1,
            n_rows: 1,
            copies: null(),
            n_copies: 0,
            reserved: 0,
        };
        let mut ticket = 0;
        // SAFETY: a loaded model; every pointer lives through the call.
        let code = unsafe { (API.submit)(self.0, &raw const batch, &raw mut ticket, null_mut()) };
        (code, ticket)
    }

    fn sample(&self, ticket: u64) -> abi::Code {
        let row = abi::Row::default();
        let sampling = abi::Sampling {
            size: size_of::<abi::Sampling>(),
            rows: &raw const row,
            bias_token: null(),
            bias_value: null(),
            n_bias: 0,
            n_seen: 0,
            seen_token: null(),
            seen_count: null(),
            masks: null(),
            n_masks: 0,
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { (API.sample)(self.0, ticket, &raw const sampling, null_mut()) }
    }

    fn wait(&self, ticket: u64) -> (abi::Code, String, Vec<i32>) {
        let (mut tokens, mut logprobs) = ([0; 8], [0.0; 8]);
        let mut outcome = abi::Outcome {
            size: size_of::<abi::Outcome>(),
            tokens: tokens.as_mut_ptr(),
            logprobs: logprobs.as_mut_ptr(),
            capacity: 8,
            n_rows: 0,
        };
        let mut message = abi::Message::default();
        // SAFETY: as above.
        let code = unsafe { (API.wait)(self.0, ticket, u64::MAX, &raw mut outcome, &raw mut message) };
        (code, said(&message), tokens[..outcome.n_rows as usize].to_vec())
    }

    fn top_k(&self, ticket: u64) -> abi::Code {
        let (mut ids, mut logprobs) = ([0; 2], [0.0; 2]);
        // SAFETY: as above.
        unsafe { (API.topk)(self.0, ticket, 0, 2, ids.as_mut_ptr(), logprobs.as_mut_ptr(), null_mut()) }
    }
}

#[test]
fn healthy_ranks_answer() {
    for (stages, tensor_parallel) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2)] {
        let model = load(stages, tensor_parallel, "").unwrap_or_else(|(_, text)| panic!("{text}"));
        for expected in 1..=20 {
            let (code, ticket) = model.submit();
            assert_eq!((code, ticket), (abi::OK, expected));
            assert_eq!(model.sample(ticket), abi::OK);
            assert_eq!(model.wait(ticket), (abi::OK, String::new(), vec![7]));
            // SAFETY: a loaded model.
            unsafe { (API.release)(model.0, ticket) };
        }
    }
}

#[test]
fn a_failing_rank_is_reported_and_then_everything_is_lost() {
    let ways = [
        ("panic", abi::INTERNAL, "kernel trapped"),
        ("lost", abi::LOST, "fell off the bus"),
        ("memory", abi::NO_MEMORY, "no room"),
        ("later", abi::LOST, "noticed late"),
    ];
    let ranks = [(1, 1, 0), (1, 2, 0), (1, 2, 1), (1, 4, 2), (2, 1, 0), (2, 1, 1), (2, 2, 1), (2, 2, 2)];
    for (stages, tensor_parallel, rank) in ranks {
        // What others notice late may be after the rank that answers is done.
        let speaks = rank == (stages - 1) * tensor_parallel;
        for (fail, code, text) in ways.into_iter().filter(|(fail, ..)| speaks || *fail != "later") {
            let options = format!("fail={fail}\nrank={rank}");
            let model = load(stages, tensor_parallel, &options).unwrap_or_else(|(_, e)| panic!("{e}"));
            let (submitted, ticket) = model.submit();
            assert_eq!(submitted, abi::OK);
            // Loss may be known by now; then nothing more is taken.
            assert!([abi::OK, abi::LOST].contains(&model.sample(ticket)));
            for _ in 0..2 {
                let (got, message, tokens) = model.wait(ticket);
                assert_eq!(got, code, "{fail} on rank {rank} of {stages} x {tensor_parallel}: {message}");
                assert!(message.contains(text), "{message}");
                assert!(tokens.is_empty());
            }
            assert_eq!(model.top_k(ticket), code);
            assert_eq!(model.submit().0, abi::LOST);
        }
    }
}

#[test]
fn a_rank_that_fails_late_and_does_not_answer_is_noticed_too() {
    let model = load(2, 1, "fail=later\nrank=0").unwrap_or_else(|(_, text)| panic!("{text}"));
    assert_eq!(model.submit().0, abi::OK);
    let start = Instant::now();
    while model.submit().0 != abi::LOST {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody noticed");
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_failed_read_harms_nobody() {
    let model = load(1, 1, "").unwrap_or_else(|(_, text)| panic!("{text}"));
    let (_, ticket) = model.submit();
    assert_eq!(model.top_k(ticket), abi::UNSUPPORTED);
    assert_eq!(model.sample(ticket), abi::OK);
    assert_eq!(model.wait(ticket).2, [7]);
}

#[test]
fn a_device_that_does_not_open_fails_the_load() {
    for (fail, code, text) in
        [("device", abi::UNSUPPORTED, "is a fake"), ("device panic", abi::INTERNAL, "no driver")]
    {
        let (got, message) = load(1, 2, &format!("fail={fail}\nrank=1")).err().unwrap();
        assert_eq!(got, code);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn more_stages_than_layers_are_refused() {
    let (code, message) = load(3, 1, "").err().unwrap();
    assert_eq!(code, abi::UNSUPPORTED);
    assert!(message.contains("n_devices / tensor_parallel = 3 pipeline stages"), "{message}");
}
