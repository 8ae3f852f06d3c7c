//! Policies in other languages: `examples/sampler-in-…`.

use super::{cargo, publish, toolchain::Toolchain};
use crate::process::{command, exists, output, root, run};
use anyhow::{Context, Result};
use std::{fs, path::Path};

const WASI_SYSROOT: &str = "/usr/lib/wasm32-wasi";
const COMPILERS: [&str; 2] = ["clang", "clang-19"];
const DEBIAN: [&str; 2] = ["clang-19", "wasi-libc"];
const COMPONENTIZE_QJS: &str = "componentize-qjs@0.4.5";

/// `sampler-in-c`, by clang and wasi-libc, linked like the policies in Rust. Says so where there are none.
pub(super) fn in_c(toolchain: &Toolchain, install: bool) -> Result<()> {
    let clang = match clang()? {
        None if install && exists("apt-get") => {
            run(command("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(DEBIAN))?;
            clang()?
        }
        found => found,
    };
    let Some(clang) = clang else {
        println!("examples/sampler-in-c is NOT built; on Debian: apt-get install {}", DEBIAN.join(" "));
        return Ok(());
    };
    let example = root().join("examples/sampler-in-c/epsilon.c");
    let folder = root().join("target/guests/c");
    run(cargo().args(["run", "--release", "--quiet", "-p", "tokenmill-c-bindings", "--"]).args([
        root().join("wit").as_os_str(),
        "sampling".as_ref(),
        folder.as_os_str(),
    ]))?;
    let compile = |source: &Path, object: &str, warnings: &[&str]| {
        let flags = ["--target=wasm32-wasi", "-O3", "-msimd128", "-I", ".", "-c", "-o", object];
        run(command(clang).current_dir(&folder).args(flags).args(warnings).arg(source))
    };
    compile(&example, "epsilon.o", &["-Wall", "-Wextra", "-Werror"])?;
    compile(Path::new("sampling.c"), "sampling.o", &["-w"])?;
    run(toolchain
        .linker()
        .current_dir(&folder)
        // Nothing of WASI may be left.
        .args(["--wasi-adapter=none", "--no-entry", "--gc-sections", "--strip-all", "-z", "stack-size=65536"])
        .args(["epsilon.o", "sampling.o", "sampling_component_type.o", "-o", "epsilon.wasm"])
        .args(["-L", WASI_SYSROOT, "-lm", "-lc"]))?;
    publish(&folder.join("epsilon.wasm"), "epsilon-c")
}

/// A clang that compiles for wasm32, if wasi-libc is there too.
fn clang() -> Result<Option<&'static str>> {
    if !Path::new(WASI_SYSROOT).exists() {
        return Ok(None);
    }
    for clang in COMPILERS.into_iter().filter(|clang| exists(clang)) {
        if output(command(clang).arg("--print-targets"))?.contains("wasm32") {
            return Ok(Some(clang));
        }
    }
    Ok(None)
}

/// `sampler-in-js`, with the QuickJS interpreter around it.
pub(super) fn in_js() -> Result<()> {
    let folder = root().join("target/guests/js");
    fs::create_dir_all(&folder)?;
    let program = folder.join("node_modules/.bin/componentize-qjs");
    if !program.exists() {
        let install = ["install", "--no-audit", "--no-fund", "--prefix", ".", COMPONENTIZE_QJS];
        run(command("npm").current_dir(&folder).args(install))
            .context("npm comes with Node.js; on Debian: apt-get install npm")?;
    }
    let component = folder.join("epsilon.wasm");
    run(command(program)
        .arg("--js")
        .arg(root().join("examples/sampler-in-js/epsilon.js"))
        .arg("--wit")
        .arg(root().join("wit"))
        .args(["--world", "sampling", "--sync", "--stub-wasi", "--opt-size", "--output"])
        .arg(&component))?;
    publish(&component, "epsilon-js")
}
