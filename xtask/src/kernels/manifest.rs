//! `target/kernels/manifest.json`: what was compiled of what, and what the compiler said of each kernel.

use super::folder;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::PathBuf};

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) compiler: String,
    pub(super) images: Vec<Image>,
}

/// One `.cu` for one architecture.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Image {
    /// `sm_90a` for machine code, `compute_80` for PTX.
    pub(super) arch: String,
    /// `gemm.cubin`
    pub(super) file: String,
    /// Hash of the source, the headers it includes, the options and the compiler: what makes it up to date.
    pub(super) made_of: String,
    pub(super) sha256: String,
    pub(super) bytes: usize,
    /// As embedded.
    pub(super) compressed: usize,
    pub(super) compile_ms: u64,
    pub(super) warnings: Vec<String>,
    pub(super) kernels: Vec<Kernel>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) bounds: Bounds,
    /// None for PTX: the driver decides.
    pub(super) resources: Option<Resources>,
    /// Machine instructions by name, where a disassembler counted them.
    pub(super) instructions: Option<BTreeMap<String, u32>>,
}

/// Of `__launch_bounds__`; 0 where it says nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Bounds {
    pub(super) threads: u32,
    pub(super) blocks: u32,
}

/// As ptxas reports them; bytes but for the registers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Resources {
    pub(super) registers: u32,
    pub(super) shared: u32,
    pub(super) stack: u32,
    pub(super) spill_stores: u32,
    pub(super) spill_loads: u32,
}

impl Manifest {
    /// The manifest of the last run; an empty one if there is none that can be read.
    pub(super) fn read() -> Self {
        let text = fs::read(Self::path()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(Self::path(), format!("{text}\n"))
            .with_context(|| format!("cannot write {}", Self::path().display()))
    }

    fn path() -> PathBuf {
        folder().join("manifest.json")
    }
}

impl Image {
    pub(super) fn is_machine_code(&self) -> bool {
        self.arch.starts_with("sm_")
    }

    /// `gemm` of `gemm.cubin`.
    pub(super) fn stem(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }

    /// What compilers and disassemblers read.
    pub(super) fn path(&self) -> PathBuf {
        folder().join(&self.arch).join(&self.file)
    }

    /// What the crate `tokenmill-kernels` embeds: compressed by zlib.
    pub(super) fn embedded(&self) -> PathBuf {
        folder().join("embedded").join(&self.arch).join(format!("{}.z", self.file))
    }
}
