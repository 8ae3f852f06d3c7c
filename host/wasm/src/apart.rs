//! Compiling in a process apart: the time and memory that Cranelift takes are decided by a stranger's file,
//! and only the kernel can bound both.

use std::io::{self, Read, Write, stdin, stdout};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::artifact::Artifact;
use crate::{Error, Limits, config};

/// Starts a process that calls [`compile_worker`].
pub(crate) type Compiler = dyn Fn() -> Command + Send + Sync;

/// Compiled code is at most so many times as long as its source.
const GROWTH: u64 = 64;

/// What the process apart runs: reads a component from standard input, writes its compiled code to standard
/// output, or fails with the reason. It limits its own memory and processor time first, so call it in a
/// process made for it.
pub fn compile_worker() -> io::Result<()> {
    let mut input = stdin().lock();
    let mut head = [0; 16];
    input.read_exact(&mut head)?;
    let (memory, seconds) = head.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    limit(number(memory), number(seconds))?;
    let mut component = Vec::new();
    input.read_to_end(&mut component)?;
    let engine = config::compiling().map_err(io::Error::other)?;
    let code = engine.precompile_component(&component);
    stdout().lock().write_all(&code.map_err(|error| io::Error::other(format!("{error:#}")))?)
}

#[cfg(target_os = "linux")]
fn limit(memory: u64, seconds: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let hard = |resource, value| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).map_err(io::Error::from)
    };
    hard(Resource::Core, 0)?;
    hard(Resource::As, memory)?;
    hard(Resource::Cpu, seconds)
}

/// Elsewhere only the time that the owner waits is bounded.
#[cfg(not(target_os = "linux"))]
fn limit(_: u64, _: u64) -> io::Result<()> {
    Ok(())
}

/// Compiles a component, or says why it cannot be.
pub(crate) fn compile(compiler: &Compiler, limits: &Limits, component: &[u8]) -> Result<Artifact, Error> {
    if cfg!(fuzzing) {
        return here(component);
    }
    let cannot = |error: io::Error| Error::Host(format!("the compiler does not start: {error}"));
    let mut command = compiler();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    let talk = talk(&mut child, limits, component.to_vec())?;
    let answer = talk.recv_timeout(limits.compile_time);
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(cannot)?;
    let (code, said) = match answer {
        Ok(answer) => answer.map_err(cannot)?,
        Err(_) => return Err(refused(format!("it took longer than {:?}", limits.compile_time))),
    };
    if status.success() && !code.is_empty() {
        return Ok(Artifact::trusted(code));
    }
    let why = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>();
    let why = why.join(" ");
    Err(refused(match status.code() {
        Some(_) if !why.is_empty() => why.trim_start_matches("Error: ").into(),
        // Killed by the kernel, or aborted because it got no more memory.
        _ => format!(
            "it took more than {} MiB or {:?} of processor",
            limits.compile_memory >> 20,
            limits.compile_time
        ),
    }))
}

/// For fuzzers, which try hundreds of components a second; an answer that is wrong is found all the same.
fn here(component: &[u8]) -> Result<Artifact, Error> {
    let engine = config::compiling().map_err(|error| Error::Host(error.to_string()))?;
    let code = engine.precompile_component(component);
    code.map(Artifact::trusted).map_err(|error| refused(format!("{error:#}")))
}

fn refused(why: String) -> Error {
    Error::Refused(format!("it does not compile: {why}"))
}

type Talk = mpsc::Receiver<io::Result<(Vec<u8>, String)>>;

/// Hands the child its work and collects what it says, in a thread that ends with the child.
fn talk(child: &mut Child, limits: &Limits, component: Vec<u8>) -> Result<Talk, Error> {
    let (Some(mut input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Error::Host("the compiler has no pipes".into()));
    };
    let seconds = limits.compile_time.max(Duration::from_secs(1)).as_secs();
    let head = [limits.compile_memory.to_le_bytes(), seconds.to_le_bytes()].concat();
    let most = GROWTH * limits.component_bytes as u64;
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        let mut code = Vec::new();
        let mut said = Vec::new();
        // A child that ends early closes its end; its exit status tells more than the broken pipe.
        let _ = input.write_all(&head).and_then(|()| input.write_all(&component));
        drop(input);
        let read = output.take(most).read_to_end(&mut code);
        let read = read.and_then(|_| errors.take(64 << 10).read_to_end(&mut said));
        let _ = sender.send(read.map(|_| (code, String::from_utf8_lossy(&said).into_owned())));
    };
    let started = thread::Builder::new().name("policy-compile".into()).spawn(work);
    started.map(|_| receiver).map_err(|error| Error::Host(error.to_string()))
}
