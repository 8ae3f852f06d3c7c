//! Policies in other languages: `examples/sampler-in-…`.

use super::{cargo, publish, toolchain::Toolchain};
use crate::process::{command, exists, output, root, run};
use anyhow::Result;
use std::path::Path;

const WASI_SYSROOT: &str = "/usr/lib/wasm32-wasi";
const COMPILERS: [&str; 2] = ["clang", "clang-19"];
const DEBIAN: [&str; 2] = ["clang-19", "wasi-libc"];
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

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

/// `sampler-in-python`, with CPython around it.
pub(super) fn in_python() -> Result<()> {
    let folder = root().join("target/guests/python");
    let tools = folder.join("bin");
    if !tools.join("componentize-py").exists() {
        run(command("python3").args(["-m", "venv"]).arg(&folder))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", COMPONENTIZE_PY];
        run(command(tools.join("python")).args(install))?;
    }
    let component = folder.join("epsilon.wasm");
    run(command(tools.join("componentize-py"))
        .current_dir(root().join("examples/sampler-in-python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg("--wit-path")
        .arg(root().join("wit"))
        .args(["--world", "sampling", "componentize", "--stub-wasi", "epsilon", "--output"])
        .arg(&component))?;
    publish(&component, "epsilon-python")
}
