//! What a device library brings: ranks, and the names of its options.

use tokenmill_backend_model::device::Device;
use tokenmill_backend_model::error::Error;

use crate::options::Options;

/// A kind of device. `export_backend!` turns an implementation into the C ABI.
pub trait Platform: 'static {
    type Device: Device;
    /// What the thread of one rank needs to make its device.
    type Rank: Send + 'static;

    /// Option keys of this platform's own, beyond those of [`Options`].
    const OPTIONS: &'static [&'static str];

    /// Whether this machine has such a device; the error says what is missing.
    fn probe() -> Result<(), Error>;

    /// Prepares one rank per entry of `ordinals`; an ordinal may repeat. Each `tensor_parallel` in a row are
    /// one stage (`model::shard::Place`). Checks ordinals and options.
    fn open(ordinals: &[i32], tensor_parallel: usize, options: &Options) -> Result<Ranks<Self::Rank>, Error>;

    /// Makes the device, on the thread that alone will use it. It may wait for the other ranks to do the same.
    fn device(rank: Self::Rank) -> Result<Self::Device, Error>;
}

/// The ranks of one model.
pub struct Ranks<R> {
    /// In the order of the ordinals.
    pub ranks: Vec<R>,
    /// Called when a rank failed, also while loading, from any thread, perhaps more than once: every rank that waits for
    /// another, now or later, must return `Error::Lost`.
    pub abort: Box<dyn Fn() + Send + Sync>,
}
