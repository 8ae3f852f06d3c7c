//! Compiles what is not up to date, two files at a time, and keeps `target/kernels/` free of anything else.

use super::{
    folder,
    include::closure,
    manifest::{Image, Kernel, Manifest},
    nvrtc::{Nvrtc, Output},
    ptxas,
};
use crate::process::root;
use anyhow::{Context, Result, bail};
use miniz_oxide::deflate::compress_to_vec_zlib;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

/// PTX for GPUs that are newer than all of these, and machine code for those we know.
const ARCHITECTURES: [&str; 5] = ["compute_80", "sm_80", "sm_86", "sm_89", "sm_90a"];
/// `-v`: registers, shared memory and spills of each kernel go to the log.
const OPTIONS: [&str; 3] = ["--std=c++17", "--extra-device-vectorization", "--ptxas-options=-v"];
/// Builds share their machine with others, and one file takes well under a second.
const THREADS: usize = 2;
/// The compressor's best: it runs once, and everybody carries the result.
const COMPRESSION: u8 = 10;

/// One `.cu` for one architecture.
struct Job {
    arch: &'static str,
    source: PathBuf,
    text: String,
    made_of: String,
}

/// Brings `target/kernels/` up to date.
pub(super) fn all() -> Result<Manifest> {
    let nvrtc = Nvrtc::find()?;
    let compiler = format!("NVRTC {}", nvrtc.version()?);
    let old = Manifest::read();
    let mut images = Vec::new();
    let mut waiting = Vec::new();
    for job in jobs(&compiler)? {
        match old.images.iter().find(|image| job.is_done_by(image)) {
            Some(image) => images.push(image.clone()),
            None => waiting.push(job),
        }
    }
    let kept = images.len();
    let start = Instant::now();
    let (new, errors) = compile(&nvrtc, &waiting);
    images.extend(new);
    images.sort_by(|a, b| (&a.file, &a.arch).cmp(&(&b.file, &b.arch)));
    let manifest = Manifest { compiler, images };
    prune(&manifest)?;
    manifest.write()?;
    for error in &errors {
        println!("{error:?}");
    }
    if !errors.is_empty() {
        bail!("{} of {} images were not compiled", errors.len(), waiting.len());
    }
    summary(&nvrtc, &manifest, kept, start);
    Ok(manifest)
}

/// Every source for every architecture, with the hash of all that its image is made of.
fn jobs(compiler: &str) -> Result<Vec<Job>> {
    let mut sources: Vec<PathBuf> = fs::read_dir(root().join("kernels"))?
        .map(|entry| Ok(entry?.path()))
        .filter(|path: &Result<PathBuf>| path.as_ref().map_or(true, |path| has_extension(path, "cu")))
        .collect::<Result<_>>()?;
    sources.sort();
    let mut jobs = Vec::new();
    for source in sources {
        let text =
            fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let headers = closure(&text, &headers())?;
        for arch in ARCHITECTURES {
            let mut hash = Sha256::new();
            let parts = [compiler, arch].into_iter().chain(OPTIONS).chain([text.as_str()]);
            for part in parts.chain(headers.values().map(String::as_str)) {
                hash.update(part);
                hash.update([0]);
            }
            let made_of = hex(&hash.finalize());
            jobs.push(Job { arch, source: source.clone(), text: text.clone(), made_of });
        }
    }
    Ok(jobs)
}

/// Compiles `jobs`; the images of those that went well, and the errors of the others.
fn compile(nvrtc: &Nvrtc, jobs: &[Job]) -> (Vec<Image>, Vec<anyhow::Error>) {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
            let result = job.run(nvrtc);
            let Ok(mut done) = done.lock() else { return };
            if let Ok(image) = &result {
                let count = done.len() + 1;
                println!(
                    "[{count:>3}/{}] {} {}: {} ms, {} KB",
                    jobs.len(),
                    image.arch,
                    image.file,
                    image.compile_ms,
                    image.bytes.div_ceil(1024)
                );
            }
            done.push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let (mut images, mut errors) = (Vec::new(), Vec::new());
    for result in done.into_inner().unwrap_or_default() {
        match result {
            Ok(image) => images.push(image),
            Err(error) => errors.push(error),
        }
    }
    (images, errors)
}

impl Job {
    fn is_done_by(&self, image: &Image) -> bool {
        image.arch == self.arch
            && image.file == self.file()
            && image.made_of == self.made_of
            && image.path().exists()
            && image.embedded().exists()
    }

    /// PTX is for virtual architectures, machine code for real ones.
    fn is_ptx(&self) -> bool {
        self.arch.starts_with("compute_")
    }

    fn file(&self) -> String {
        let extension = if self.is_ptx() { "ptx" } else { "cubin" };
        let name = self.source.file_stem().unwrap_or_default().to_string_lossy();
        format!("{name}.{extension}")
    }

    fn run(&self, nvrtc: &Nvrtc) -> Result<Image> {
        let start = Instant::now();
        let mut options: Vec<String> = OPTIONS.iter().map(ToString::to_string).collect();
        options.push(format!("--gpu-architecture={}", self.arch));
        options.push(format!("--include-path={}", headers().display()));
        let name = self.source.file_name().unwrap_or_default().to_string_lossy();
        let output = nvrtc.compile(&name, &self.text, &options).with_context(|| self.arch)?;
        let bytes = if self.is_ptx() { output.ptx.as_bytes() } else { &output.cubin };
        let compressed = compress_to_vec_zlib(bytes, COMPRESSION);
        let image = Image {
            arch: self.arch.to_owned(),
            file: self.file(),
            made_of: self.made_of.clone(),
            sha256: hex(&Sha256::digest(bytes)),
            bytes: bytes.len(),
            compressed: compressed.len(),
            compile_ms: u64::try_from(start.elapsed().as_millis())?,
            warnings: ptxas::warnings(&output.log),
            kernels: kernels(&output),
        };
        write(&image.path(), bytes)?;
        write(&image.embedded(), &compressed)?;
        Ok(image)
    }
}

/// The kernels of an image; PTX has no resources yet.
fn kernels(output: &Output) -> Vec<Kernel> {
    let resources = ptxas::resources(&output.log);
    let bounds = ptxas::bounds(&output.ptx);
    let kernel = |(name, bounds): (String, _)| Kernel {
        bounds,
        resources: resources.get(&name).copied(),
        instructions: None,
        name,
    };
    bounds.into_iter().map(kernel).collect()
}

/// Removes images that are not in the manifest.
fn prune(manifest: &Manifest) -> Result<()> {
    let kept: BTreeSet<PathBuf> =
        manifest.images.iter().flat_map(|image| [image.path(), image.embedded()]).collect();
    let roots = [folder(), folder().join("embedded")];
    for arch in roots.iter().flat_map(|folder| subfolders(folder)) {
        for entry in fs::read_dir(&arch)? {
            let path = entry?.path();
            if path.is_file() && !kept.contains(&path) {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn summary(nvrtc: &Nvrtc, manifest: &Manifest, kept: usize, start: Instant) {
    let total = manifest.images.len();
    let compressed: usize = manifest.images.iter().map(|image| image.compressed).sum();
    println!(
        "{total} images, {} KB to embed; {} compiled in {:.1} s, {kept} up to date ({}, {})",
        compressed.div_ceil(1024),
        total - kept,
        start.elapsed().as_secs_f64(),
        manifest.compiler,
        nvrtc.path().display()
    );
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn headers() -> PathBuf {
    root().join("kernels/include")
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
