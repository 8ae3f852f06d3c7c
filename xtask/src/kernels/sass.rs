//! Machine instructions of each kernel, by NVIDIA's disassembler.

use super::wheel;
use crate::process::command;
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

const PACKAGE: &str = "nvidia-cuda-nvdisasm";
const VERSION: &str = "13.5.37";

/// Of one kernel, by name without modifiers: `HMMA`, `LDSM`.
pub(super) type Instructions = BTreeMap<String, u32>;

pub(super) struct Disassembler(PathBuf);

impl Disassembler {
    /// The program at `$NVDISASM`, of the toolkit in `$CUDA_HOME`, or of the package index, in this order.
    pub(super) fn find() -> Result<Self> {
        if let Some(path) = env::var_os("NVDISASM") {
            return Ok(Self(path.into()));
        }
        let toolkit = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvdisasm"));
        if let Some(path) = toolkit.filter(|path| path.exists()) {
            return Ok(Self(path));
        }
        let folder = wheel::install(PACKAGE, VERSION)?;
        // The folder of the package is that of its version of CUDA: cu13.
        for entry in fs::read_dir(folder.join("nvidia"))? {
            let program = entry?.path().join("bin/nvdisasm");
            if program.exists() {
                return Ok(Self(program));
            }
        }
        bail!("{PACKAGE} holds no nvdisasm");
    }

    /// Counts the instructions of each kernel of a cubin.
    pub(super) fn count(&self, cubin: &Path) -> Result<BTreeMap<String, Instructions>> {
        // Newer than the compiler, it warns that the format is old.
        let out = command(&self.0)
            .arg("-c")
            .arg(cubin)
            .output()
            .with_context(|| format!("cannot start {}", self.0.display()))?;
        if !out.status.success() {
            bail!("nvdisasm of {}: {}", cubin.display(), String::from_utf8_lossy(&out.stderr).trim_end());
        }
        Ok(count(&String::from_utf8_lossy(&out.stdout)))
    }
}

fn count(text: &str) -> BTreeMap<String, Instructions> {
    let mut found: BTreeMap<String, Instructions> = BTreeMap::new();
    let mut kernel = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            kernel = Some(name.to_owned());
            found.entry(name.to_owned()).or_default();
        }
        let (Some(name), Some(instruction)) = (&kernel, instruction(line)) else { continue };
        *found.entry(name.clone()).or_default().entry(instruction).or_default() += 1;
    }
    found
}

/// `HMMA` of `/*0040*/  @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;`
fn instruction(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("/*")?;
    let (address, rest) = rest.split_once("*/")?;
    if !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut words = rest.split_whitespace();
    let mut word = words.next()?;
    if word.starts_with('@') {
        word = words.next()?;
    }
    let name = word.split('.').next()?.trim_end_matches(';');
    name.starts_with(|first: char| first.is_ascii_uppercase()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_kernel_without_predicate_and_modifiers() {
        let text = "\
.section	.text.one,\"ax\",@progbits
one:
.text.one:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*00b0*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*00c0*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
.L_x_0:
.text.two:
        /*0000*/                   EXIT ;
";
        let found = count(text);
        assert_eq!(found["one"], Instructions::from([("IMAD".into(), 1), ("HMMA".into(), 2)]));
        assert_eq!(found["two"], Instructions::from([("EXIT".into(), 1)]));
    }
}
