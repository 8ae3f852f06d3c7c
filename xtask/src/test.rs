//! `cargo xtask test`: everything, with what it needs installed under `target/`.

use crate::process::{built, cargo, command, exists, output, root, run};
use crate::{fuzz, kernels, plugins};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
};

/// The policies of `plugins/` by kind.
const SAMPLERS: [&str; 9] =
    ["beam-search", "best-of-n", "budget", "dry", "mirostat-v2", "standard", "typical", "watermark", "xtc"];
/// Built where there is a C compiler for WebAssembly.
const IN_C: &str = "epsilon-c";
const SCHEDULERS: [&str; 5] =
    ["fair-share", "fcfs", "prefix-affinity", "priority-deadline", "shortest-first"];
/// Seconds.
const FUZZING: u32 = 5;
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn all() -> Result<()> {
    require_tools()?;
    dependencies()?;
    plugins::all(true)?;
    plugins::test()?;
    kernels::checked()?;
    run(cargo().args(["build", "--release", "--workspace"]))?;
    run(cargo().args(["test", "--release", "--workspace"]))?;
    fuzzed()?;
    clients()
}

/// A few seconds for each target.
fn fuzzed() -> Result<()> {
    if !exists("c++") {
        println!("nothing was fuzzed: libFuzzer needs a C++ compiler");
        return Ok(());
    }
    fuzz::all(FUZZING)
}

fn require_tools() -> Result<()> {
    for (program, why) in [
        ("cc", "to compile the C header and the example backend"),
        ("c++", "to compile the emulator of GPU kernels"),
        ("python3", "to run real client programs"),
    ] {
        if !exists(program) {
            bail!("`{program}` is needed {why}; on Debian: apt-get install build-essential python3-venv");
        }
    }
    Ok(())
}

/// Licences, sources and duplicate bans of every dependency; advisories where their database can be reached.
fn dependencies() -> Result<()> {
    let tools = root().join("target/tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.exists() {
        run(cargo()
            .args([
                "install",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--locked",
                "--no-default-features",
                "--root",
            ])
            .arg(&tools))?;
    }
    let check = ["check", "licenses", "bans", "sources"];
    run(command(&deny).args(check))?;
    let of_plugins = ["--manifest-path", "plugins/Cargo.toml", "--config", "deny.toml"];
    run(command(&deny).args(of_plugins).args(check))?;
    if run(command(&deny).args(["fetch", "db"])).is_err() {
        println!("advisories were NOT checked: their database cannot be reached from here");
        return Ok(());
    }
    run(command(&deny).args(["check", "advisories"]))
}

/// Real client programs against the real server with the default model.
fn clients() -> Result<()> {
    let folder = root().join("tests/clients");
    let python = virtual_environment(&folder.join("requirements.txt"))?;
    let program = built()?.join("tokenmill");
    output(command(&program).args(["pull", "SmolLM2-135M-Instruct"]))?;
    let server = Server::start(&[])?;
    run(command(&python).arg(folder.join("run.py")).arg("--base-url").arg(&server.url))?;
    drop(server);
    policies(&python, &folder.join("policies.py"))
}

/// Every sampler and every scheduler of `plugins/` on the real model. The texts of a batch must not depend
/// on who schedules it.
fn policies(python: &Path, script: &Path) -> Result<()> {
    let flag = |name: &&str| ["--sampler".to_owned(), format!("{name}={}", plugins::place(name).display())];
    let mut flags: Vec<String> = SAMPLERS.iter().flat_map(flag).collect();
    flags.extend(["--enforcing", "budget"].map(str::to_owned));
    let in_c = plugins::place(IN_C).exists();
    if in_c {
        flags.extend(flag(&IN_C));
    }
    let server = Server::start(&flags)?;
    let mut all = command(python);
    all.arg(script).arg("--base-url").arg(&server.url);
    if !in_c {
        println!("the sampler in C was NOT built, and is not tested");
        all.args(["--without", "epsilon_in_c_draws_only_what_is_likely"]);
    }
    run(&mut all)?;
    drop(server);
    for name in SCHEDULERS {
        let scheduler = ["--scheduler".to_owned(), plugins::place(name).display().to_string()];
        let server = Server::start(&[&flags[..], &scheduler].concat())?;
        let batch = ["--only", "policies_share_a_batch", "--base-url", &server.url];
        run(command(python).arg(script).args(batch))?;
    }
    Ok(())
}

/// A Python with the pinned packages of `requirements`, made once.
fn virtual_environment(requirements: &Path) -> Result<PathBuf> {
    let folder = root().join("target/clients");
    let python = folder.join("bin/python");
    if !python.exists() {
        run(command("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    run(command(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(requirements))?;
    Ok(python)
}

/// `tokenmill serve` on a free port; killed when dropped.
struct Server {
    child: Child,
    url: String,
    /// Kept open: the server would fail to print into a closed pipe.
    _out: BufReader<ChildStdout>,
}

impl Server {
    fn start(flags: &[String]) -> Result<Self> {
        let mut child = command(built()?.join("tokenmill"))
            .args(["serve", "--port", "0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .context("tokenmill serve")?;
        let mut out = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        while out.read_line(&mut line)? > 0 {
            print!("{line}");
            if let Some(at) = line.find("http://") {
                let url = line[at..].split_whitespace().next().unwrap_or_default().to_owned();
                return Ok(Self { child, url, _out: out });
            }
            line.clear();
        }
        bail!("tokenmill serve ended without saying where it listens");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a child that cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
