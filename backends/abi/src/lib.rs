//! The backend ABI: `include/tokenmill.h` is the contract, this is its `#[repr(C)]` mirror.
//!
//! Field meanings, thread rules and pointer lifetimes stand in the header, once. `tests/layout.rs`
//! compiles the header with the C compiler and compares every size and offset.
//!
//! Invariant: declarations only; no behaviour, no dependency.

use std::ffi::{c_char, c_void};

pub const MAJOR: u32 = 1;
pub const MINOR: u32 = 0;

/// Object-file section of the manifest, as the header names it.
#[cfg(target_vendor = "apple")]
pub const MANIFEST_SECTION: &str = "__DATA,__tokenmill";
/// Object-file section of the manifest, as the header names it.
#[cfg(not(target_vendor = "apple"))]
pub const MANIFEST_SECTION: &str = ".tokenmill";

/// The exported symbol, NUL-terminated.
pub const SYMBOL: &[u8] = b"tm_backend\0";

/// Puts the manifest of a Rust backend into its section.
///
/// `manifest!("cpu", "1.2.3", "what it is")`; invoke it once per library, at module scope.
#[macro_export]
macro_rules! manifest {
    ($name:literal, $description:literal) => {
        const _: () = {
            const TEXT: &str = concat!(
                "abi=1.0\nname=",
                $name,
                "\nversion=",
                env!("CARGO_PKG_VERSION"),
                "\ndescription=",
                $description,
                "\n"
            );
            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__tokenmill"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".tokenmill"))]
            static MANIFEST: [u8; TEXT.len()] = {
                let mut bytes = [0; TEXT.len()];
                let mut i = 0;
                while i < bytes.len() {
                    bytes[i] = TEXT.as_bytes()[i];
                    i += 1;
                }
                bytes
            };
        };
    };
}

/// A loaded model; opaque to the host.
#[repr(C)]
pub struct Model {
    _opaque: [u8; 0],
}

pub type Ticket = u64;
pub type Code = i32;

pub const OK: Code = 0;
pub const INVALID: Code = 1;
pub const UNSUPPORTED: Code = 2;
pub const NO_MEMORY: Code = 3;
pub const AGAIN: Code = 4;
pub const TIMEOUT: Code = 5;
pub const LOST: Code = 6;
pub const INTERNAL: Code = 7;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Message {
    pub text: [c_char; 256],
}

impl Default for Message {
    fn default() -> Self {
        Self { text: [0; 256] }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Load {
    pub size: usize,
    pub dir: *const c_char,
    pub devices: *const i32,
    pub n_devices: u32,
    pub tensor_parallel: u32,
    pub block_tokens: u32,
    pub max_tokens: u32,
    pub max_rows: u32,
    pub max_seqs: u32,
    pub depth: u32,
    pub reserved: u32,
    pub kv_bytes: u64,
    pub options: *const c_char,
    pub progress: Option<unsafe extern "C" fn(*mut c_void, u64, u64)>,
    pub user: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    pub size: usize,
    pub vocab: u32,
    pub max_context: u32,
    pub n_blocks: u32,
    pub block_tokens: u32,
    pub max_tokens: u32,
    pub max_rows: u32,
    pub max_seqs: u32,
    pub depth: u32,
    pub weight_bytes: u64,
    pub kv_block_bytes: u64,
    pub arch: [c_char; 32],
    pub device: [c_char; 64],
    pub weights: [c_char; 32],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Batch {
    pub size: usize,
    pub tokens: *const i32,
    pub seq_start: *const u32,
    pub seq_pos: *const u32,
    pub block_start: *const u32,
    pub blocks: *const u32,
    pub rows: *const u32,
    pub n_seqs: u32,
    pub n_rows: u32,
    pub copies: *const u32,
    pub n_copies: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition: f32,
    pub presence: f32,
    pub frequency: f32,
    pub top_k: u32,
    pub forced: i32,
    pub bias: u32,
    pub n_bias: u32,
    pub seen: u32,
    pub n_seen: u32,
    pub mask: u32,
    pub reserved: u32,
}

/// Greedy, everything else off.
impl Default for Row {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            top_k: 0,
            forced: -1,
            bias: 0,
            n_bias: 0,
            seen: 0,
            n_seen: 0,
            mask: 0,
            reserved: 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sampling {
    pub size: usize,
    pub rows: *const Row,
    pub bias_token: *const u32,
    pub bias_value: *const f32,
    pub n_bias: u32,
    pub n_seen: u32,
    pub seen_token: *const u32,
    pub seen_count: *const u32,
    pub masks: *const u32,
    pub n_masks: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Outcome {
    pub size: usize,
    pub tokens: *mut i32,
    pub logprobs: *mut f32,
    pub capacity: u32,
    pub n_rows: u32,
}

/// The function table. Every entry is set, in every minor version of this major.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Api {
    pub size: usize,
    pub major: u32,
    pub minor: u32,
    pub name: *const c_char,
    pub probe: unsafe extern "C" fn(*mut Message) -> i32,
    pub load: unsafe extern "C" fn(*const Load, *mut *mut Model, *mut Message) -> Code,
    pub unload: unsafe extern "C" fn(*mut Model),
    pub info: unsafe extern "C" fn(*const Model, *mut Info, *mut Message) -> Code,
    pub submit: unsafe extern "C" fn(*mut Model, *const Batch, *mut Ticket, *mut Message) -> Code,
    pub sample: unsafe extern "C" fn(*mut Model, Ticket, *const Sampling, *mut Message) -> Code,
    pub wait: unsafe extern "C" fn(*mut Model, Ticket, u64, *mut Outcome, *mut Message) -> Code,
    pub topk: unsafe extern "C" fn(*mut Model, Ticket, u32, u32, *mut u32, *mut f32, *mut Message) -> Code,
    pub logits: unsafe extern "C" fn(*mut Model, Ticket, u32, *mut *const f32, *mut Message) -> Code,
    pub release: unsafe extern "C" fn(*mut Model, Ticket),
    pub extension: unsafe extern "C" fn(*const c_char) -> *const c_void,
}

// SAFETY: the table is immutable and its pointers refer to static data and functions.
unsafe impl Sync for Api {}

pub type Entry = unsafe extern "C" fn(major: u32) -> *const Api;
