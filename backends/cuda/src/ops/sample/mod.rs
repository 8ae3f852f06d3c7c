//! Sampling on the device, without waiting: the steps are those of `tm_row` in `tokenmill.h`.
//!
//! Who owns what: a rank has one [`Space`], since steps are sampled one after the other. Each slot of the decoder has
//! one [`Sampled`]: its upload and staging, its tokens on the device (where the next step's `embed` reads them) and its
//! results on the host, with the event that tells when they are there.

mod pack;

use tokenmill_backend_model::device::{RowSampling, Rows};
use tokenmill_backend_model::error::Error;

use crate::buffer::Buffer;
use crate::event::Event;
use crate::gpu::{Arg, Gpu, Grid};
use crate::memory::{Memory, Pinned};
use pack::{Packer, words_for};

/// Logits of a block of the kernels that work on pieces of the vocabulary; see `kernels/include/sampling.cuh`.
const PIECE: usize = 8192;
const MAX_PIECES: usize = 256;
/// Bytes that are kept of a piece.
const PIECE_BYTES: usize = 32;
/// Bytes of a row's histogram.
const BINS_BYTES: usize = 3 * 1024 * 4;
/// Entries of lists that rows have room for, on average.
const USUAL_EDITS: usize = 2048;

/// What the kernels keep from one to the next.
pub struct Space {
    pieces: Memory,
    bins: Memory,
    edited: Memory,
    rows: usize,
    vocab: usize,
}

impl Space {
    pub fn new(gpu: &Gpu, rows: usize, vocab: usize) -> Result<Self, Error> {
        if vocab > PIECE * MAX_PIECES {
            return Err(Error::Unsupported(format!("a vocabulary of {vocab} tokens")));
        }
        let [pieces, bins, edited] = Self::parts(rows, vocab);
        Ok(Self {
            pieces: gpu.alloc(pieces)?,
            bins: gpu.alloc(bins)?,
            edited: gpu.alloc(edited)?,
            rows,
            vocab,
        })
    }

    /// Bytes of device memory that it takes.
    pub fn bytes(rows: usize, vocab: usize) -> usize {
        Self::parts(rows, vocab).iter().sum()
    }

    fn parts(rows: usize, vocab: usize) -> [usize; 3] {
        let pieces = vocab.div_ceil(PIECE);
        [rows * pieces * PIECE_BYTES, rows * BINS_BYTES, rows * vocab.next_multiple_of(4) * 4]
    }
}

/// Tokens and log-probabilities of one step's rows, on the device and, some time later, on the host.
pub struct Sampled {
    packer: Packer,
    upload: Memory,
    staging: Pinned<u32>,
    /// Tokens, and the log-probabilities of as many rows behind them.
    device: Memory,
    host: Pinned<u32>,
    /// After the copy to `host`, so also after that from `staging`.
    done: Event,
    rows: usize,
}

impl Sampled {
    /// Room for `rows` rows with a mask each and as many edits as is usual. More makes room, and waits for the device
    /// to do so.
    pub fn new(gpu: &Gpu, rows: usize, vocab: usize) -> Result<Self, Error> {
        let words = words_for(rows, USUAL_EDITS.min(2 * vocab), rows * vocab.div_ceil(32));
        Ok(Self {
            packer: Packer::default(),
            upload: gpu.alloc(4 * words)?,
            staging: gpu.pinned(words)?,
            device: gpu.zeroed(8 * rows)?,
            host: gpu.pinned(2 * rows)?,
            done: gpu.event()?,
            rows: 0,
        })
    }

    /// Address of the tokens, one i32 a row.
    pub fn tokens(&self) -> u64 {
        self.device.ptr()
    }

    /// Appends tokens and log-probabilities when they are there.
    pub fn fetch(&self, tokens: &mut Vec<i32>, logprobs: &mut Vec<f32>) -> Result<(), Error> {
        self.done.wait()?;
        let results = self.results();
        // SAFETY: they are there, and `self` is borrowed.
        let (found, of_them) = unsafe { results.read() };
        tokens.extend_from_slice(found);
        logprobs.extend_from_slice(of_them);
        Ok(())
    }

    /// Where the results of the last sampling will be, for another thread.
    pub(crate) fn results(&self) -> Results {
        Results { words: self.host.as_slice().as_ptr(), rows: self.rows }
    }

    /// Packs `rows` and queues their copy to the device.
    fn upload(&mut self, gpu: &Gpu, rows: &[RowSampling<'_>], vocab: usize) -> Result<(), Error> {
        // Over at once unless a ticket was released while it ran.
        self.done.wait()?;
        let words = self.packer.measure(rows, vocab);
        if words > self.staging.as_slice().len() {
            let words = words.next_power_of_two();
            (self.upload, self.staging) = (gpu.alloc(4 * words)?, gpu.pinned(words)?);
        }
        self.packer.write(rows, self.staging.as_mut_slice());
        gpu.queue_upload(self.upload.ptr(), &self.staging, words)
    }
}

/// A step's results on the host, apart from the slot that owns them.
pub(crate) struct Results {
    /// Tokens, and the log-probabilities behind them.
    words: *const u32,
    rows: usize,
}

// SAFETY: it only reads, and where that is allowed is the caller's to know.
unsafe impl Send for Results {}

impl Results {
    /// # Safety
    /// The slot is alive, and the device has written what it sampled.
    pub(crate) unsafe fn read(&self) -> Rows<'_> {
        // SAFETY: as promised; every u32 is an i32 and an f32 too.
        unsafe {
            let tokens = std::slice::from_raw_parts(self.words.cast(), self.rows);
            let logprobs = std::slice::from_raw_parts(self.words.add(self.rows).cast(), self.rows);
            (tokens, logprobs)
        }
    }
}

/// Queues sampling of every row of `logits`, which stay as they are.
pub fn sample(
    gpu: &Gpu,
    logits: &Buffer,
    rows: &[RowSampling<'_>],
    space: &Space,
    out: &mut Sampled,
) -> Result<(), Error> {
    let (n, vocab) = (rows.len(), logits.cols);
    assert!(n <= space.rows && vocab == space.vocab, "{n} rows of {vocab} logits");
    // Not the buffer's rows: a replayed step leaves those of the step before it in the same slot.
    assert!(n <= logits.capacity && 2 * n <= out.host.as_slice().len(), "{n} rows");
    out.upload(gpu, rows, vocab)?;
    out.rows = n;

    let [logits, how] = [logits.ptr(), out.upload.ptr()].map(Arg::Ptr);
    let [pieces, bins, edited] = [&space.pieces, &space.bins, &space.edited].map(|m| Arg::Ptr(m.ptr()));
    let tokens = out.device.ptr();
    let logprobs = tokens + 4 * n as u64;
    let size = Arg::U32(vocab as u32);
    let by_piece = Grid { blocks: [vocab.div_ceil(PIECE) as u32, n as u32, 1], threads: 256, shared: 0 };
    let by_row = Grid { blocks: [n as u32, 1, 1], threads: 512, shared: 0 };
    gpu.launch("sample_scan", by_piece, &[logits, how, pieces, bins, edited, size])?;
    if rows.iter().any(|row| row.forced.is_none() && row.temperature > 0.0) {
        gpu.launch("sample_weigh", by_piece, &[logits, how, pieces, bins, edited, size])?;
    }
    let results = [Arg::Ptr(tokens), Arg::Ptr(logprobs)];
    let pick = [logits, how, pieces, bins, edited, results[0], results[1], size];
    gpu.launch("sample_pick", by_row, &pick)?;
    gpu.queue_download(&mut out.host, tokens, 2 * n)?;
    out.done.record()
}
