//! How fast this machine reads memory: the ceiling of decoding.

use crate::isa::{Isa, Kernel};
use crate::memory::Slab;
use crate::simd::{LANES, Simd};
use crate::system::cores;
use crate::threads::Pool;
use std::time::Instant;

/// Read bandwidth in GB/s (10^9 bytes) over some passes.
#[derive(Clone, Copy, Debug)]
pub struct ReadSpeed {
    pub best: f64,
    pub median: f64,
}

/// Reads `bytes` of memory `passes` times on `threads` threads.
pub fn read_speed(threads: usize, bytes: usize, passes: usize) -> ReadSpeed {
    const CHUNK: usize = 1 << 18;
    let isa = Isa::available()[0];
    let mut pool = Pool::new(threads);
    let mut data = Slab::<f32>::zeroed(bytes.max(1 << 20) / 4);
    // Untouched pages would all be the one zero page.
    data.iter_mut().for_each(|x| *x = 1.0);
    let data = &data[..];
    let chunks: Vec<&[f32]> = data.chunks(CHUNK / 4).collect();
    let mut speeds: Vec<f64> = (0..passes.max(1))
        .map(|_| {
            let start = Instant::now();
            pool.run(chunks.len(), |chunk, _| {
                std::hint::black_box(isa.run(Read(chunks[chunk])));
            });
            size_of_val(data) as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    ReadSpeed { best: speeds[speeds.len() - 1], median: speeds[speeds.len() / 2] }
}

/// The best of a few passes over 512 MiB on all cores.
pub fn read_bandwidth_gb_s() -> f64 {
    read_speed(cores(), 512 << 20, 7).best
}

/// Sums a slice whose length is a multiple of 64 numbers, four vectors at a time.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 4];
        for four in self.0.as_chunks::<LANES>().0.as_chunks::<4>().0 {
            for (sum, x) in sums.iter_mut().zip(four) {
                *sum = s.add(*sum, s.load(x));
            }
        }
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}
