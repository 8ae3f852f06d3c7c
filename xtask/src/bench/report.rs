//! One result file: the figures, and the machine, commit and date they belong to.

use crate::process::{command, root};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

/// Writes `bench/results/<name>.json` and prints it.
pub(crate) fn write(name: &str, figures: Value) -> Result<()> {
    let report = json!({
        "benchmark": name,
        "machine": machine(),
        "commit": text("git", &["rev-parse", "--short", "HEAD"]),
        "uncommitted": !text("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "date": text("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "rustc": text("rustc", &["--version"]),
        "figures": figures,
    });
    let folder = root().join("bench/results");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("{name}.json"));
    let pretty = serde_json::to_string_pretty(&report)?;
    fs::write(&file, format!("{pretty}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{pretty}\nwritten to {}", file.display());
    Ok(())
}

/// Processor, cores, memory and the vector extensions that matter here.
fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let known = ["avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8"];
    let flags = field("flags");
    let extensions: Vec<&str> = flags.split(' ').filter(|flag| known.contains(flag)).collect();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim(),
        "extensions": extensions,
    })
}

fn text(program: &str, args: &[&str]) -> String {
    let out = command(program).args(args).output();
    out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
}
