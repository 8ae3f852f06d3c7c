//! What can compile Rust for wasm32 here.

use crate::process::{command, exists, output, run};
use anyhow::{Context, Result, bail};
use std::{fs, path::PathBuf, process::Command};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// A compiler and the source of its standard library, which have to be of the same release.
const DEBIAN: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

pub(super) struct Toolchain {
    /// `wasm-component-ld`, which rustup's toolchains bring, and the `wasm-ld` beside it.
    linker: PathBuf,
    lld: PathBuf,
    kind: Kind,
}

enum Kind {
    /// The target is installed.
    Installed,
    /// Debian's compiler builds the standard library from Debian's source.
    Debian,
}

impl Toolchain {
    /// What there is; `install` lets root's `apt-get` change the answer.
    pub(super) fn find(install: bool) -> Result<Self> {
        let kind = match Kind::find() {
            Some(kind) => kind,
            None if install && exists("apt-get") && is_root() => {
                run(command("apt-get")
                    .args(["install", "-y", "-qq", "--no-install-recommends"])
                    .args(DEBIAN))?;
                Kind::find().context("Debian's packages are installed, but not where they are looked for")?
            }
            None => bail!(
                "policies need a compiler for {TARGET}: either `rustup target add {TARGET}`, or on Debian, where \
                 rustup can fetch nothing, `apt-get install --no-install-recommends {}` (with the repository of \
                 security updates: it has the new releases)",
                DEBIAN.join(" ")
            ),
        };
        let about = output(command("rustc").arg("-vV"))?;
        let host =
            about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let bin = sysroot("rustc")?.join("lib/rustlib").join(host).join("bin");
        let (linker, lld) = (bin.join("wasm-component-ld"), bin.join("gcc-ld/wasm-ld"));
        for program in [&linker, &lld] {
            if !program.exists() {
                bail!("{} is missing; toolchains that rustup installed have it", program.display());
            }
        }
        Ok(Self { linker, lld, kind })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Installed => "the installed wasm32 target",
            Kind::Debian => "Debian's rustc-web, which builds the standard library once",
        }
    }

    /// Makes `cargo build --target` give components. Another linker or other flags would rebuild everything.
    pub(super) fn prepare(&self, cargo: &mut Command) {
        let flags = format!("-Clink-arg=--wasm-ld-path={} -Ctarget-feature=+simd128", self.lld.display());
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &self.linker)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags);
        if let Kind::Debian = self.kind {
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
    }

    /// Makes a component of objects.
    pub(super) fn linker(&self) -> Command {
        let mut linker = command(&self.linker);
        linker.arg(format!("--wasm-ld-path={}", self.lld.display()));
        linker
    }
}

impl Kind {
    fn find() -> Option<Self> {
        let libraries = print("rustc", &["target-libdir", "--target", TARGET]).ok();
        let has_core = |folder: PathBuf| {
            let mut files = fs::read_dir(folder).into_iter().flatten().flatten();
            files.any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        };
        if libraries.is_some_and(has_core) {
            return Some(Self::Installed);
        }
        let source = sysroot(DEBIAN_RUSTC).ok()?.join("lib/rustlib/src/rust/library/Cargo.lock");
        source.exists().then_some(Self::Debian)
    }
}

fn sysroot(rustc: &str) -> Result<PathBuf> {
    print(rustc, &["sysroot"])
}

/// A path that `rustc --print` gives; silent where it knows none.
fn print(rustc: &str, what: &[&str]) -> Result<PathBuf> {
    let out =
        command(rustc).arg("--print").args(what).output().with_context(|| format!("cannot start {rustc}"))?;
    if !out.status.success() {
        bail!("{rustc} does not know {}", what.join(" "));
    }
    Ok(String::from_utf8(out.stdout)?.trim().into())
}

fn is_root() -> bool {
    let id = command("id").arg("-u").output();
    id.is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}
