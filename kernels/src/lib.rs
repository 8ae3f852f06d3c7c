//! Device images of the kernels in this folder, embedded if `cargo xtask kernels` made them before the build.
//!
//! Each `.cu` is one image per architecture: machine code (a cubin) for the GPUs we know, PTX, which the
//! driver translates, for newer ones. A GPU gets all files of one architecture, never a mixture.
//!
//! Invariant: knows nothing of drivers or devices; it holds bytes and picks them.
#![forbid(unsafe_code)]

mod architecture;

use architecture::Architecture;
use miniz_oxide::inflate::decompress_to_vec_zlib;

/// Everything embedded.
pub fn images() -> &'static [Image] {
    include!(concat!(env!("OUT_DIR"), "/images.rs"))
}

/// One `.cu` compiled for one architecture.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// `sm_90a` is machine code, `compute_80` PTX.
    pub architecture: &'static str,
    /// `gemm.cubin` or `gemm.ptx`.
    pub file: &'static str,
    compressed: &'static [u8],
}

/// What a driver loads: a cubin, or PTX with the zero byte at its end that drivers want.
#[derive(Debug, Clone)]
pub struct Module {
    pub file: &'static str,
    pub bytes: Vec<u8>,
}

/// Why there are no modules for a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("this library was built without GPU kernels: run `cargo xtask kernels`, then build it again")]
    Kernels,
    #[error("GPUs of compute capability {0}.{1} are not supported: there are kernels for {2}")]
    Architecture(u32, u32, String),
    #[error("the embedded kernel image {0} is damaged")]
    Damaged(&'static str),
}

/// The modules for a GPU of compute capability `major.minor`.
pub fn select(major: u32, minor: u32) -> Result<Vec<Module>, Missing> {
    let all = images();
    let chosen = choose(all, major, minor)?;
    all.iter().filter(|image| image.architecture == chosen).map(Image::module).collect()
}

/// The best architecture of `all` for a GPU: machine code before PTX, the newer before the older.
fn choose(all: &[Image], major: u32, minor: u32) -> Result<&'static str, Missing> {
    let mut names: Vec<&'static str> = all.iter().map(|image| image.architecture).collect();
    names.sort_unstable();
    names.dedup();
    let known = names.iter().filter_map(|name| Architecture::parse(name).map(|parsed| (parsed, *name)));
    let best = known.filter(|(parsed, _)| parsed.runs_on(major, minor)).max();
    match best {
        Some((_, name)) => Ok(name),
        None if names.is_empty() => Err(Missing::Kernels),
        None => Err(Missing::Architecture(major, minor, names.join(", "))),
    }
}

impl Image {
    /// Bytes in the library.
    pub fn size(&self) -> usize {
        self.compressed.len()
    }

    /// Decompresses the image.
    pub fn module(&self) -> Result<Module, Missing> {
        let mut bytes = decompress_to_vec_zlib(self.compressed).map_err(|_| Missing::Damaged(self.file))?;
        let text = self.file.ends_with(".ptx");
        if text && bytes.last() != Some(&0) {
            bytes.push(0);
        }
        Ok(Module { file: self.file, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn image(architecture: &'static str, file: &'static str, compressed: &'static [u8]) -> Image {
        Image { architecture, file, compressed }
    }

    fn of(architectures: &[&'static str]) -> Vec<Image> {
        architectures.iter().map(|name| image(name, "a.cubin", &[])).collect()
    }

    #[test]
    fn each_gpu_gets_the_best_code_it_can_run() {
        let all = of(&["compute_80", "sm_80", "sm_86", "sm_89", "sm_90a"]);
        for (gpu, chosen) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_86"),
            ((8, 7), "sm_86"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90a"),
            ((10, 0), "compute_80"),
            ((12, 1), "compute_80"),
        ] {
            assert_eq!(choose(&all, gpu.0, gpu.1), Ok(chosen), "GPU {gpu:?}");
        }
    }

    #[test]
    fn code_of_the_same_generation_stands_in_for_what_is_not_there() {
        let all = of(&["compute_80", "sm_80"]);
        assert_eq!(choose(&all, 8, 9), Ok("sm_80"));
        assert_eq!(choose(&all, 9, 0), Ok("compute_80"));
    }

    #[test]
    fn a_gpu_that_nothing_runs_on_is_named_with_what_there_is() {
        let error = choose(&of(&["compute_80", "sm_80"]), 7, 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "GPUs of compute capability 7.5 are not supported: there are kernels for compute_80, sm_80"
        );
    }

    #[test]
    fn no_images_at_all_names_the_command_that_makes_them() {
        let error = choose(&[], 9, 0).unwrap_err();
        assert_eq!(error, Missing::Kernels);
        assert!(error.to_string().contains("cargo xtask kernels"));
    }

    #[test]
    fn ptx_ends_with_the_zero_that_drivers_want_and_machine_code_is_unchanged() {
        // "hi" by zlib.
        const HI: &[u8] = &[0x78, 0x9c, 0xcb, 0xc8, 0x04, 0x00, 0x01, 0x3b, 0x00, 0xd2];
        assert_eq!(image("compute_80", "a.ptx", HI).module().unwrap().bytes, b"hi\0");
        assert_eq!(image("sm_80", "a.cubin", HI).module().unwrap().bytes, b"hi");
    }

    #[test]
    fn a_damaged_image_is_an_error_with_its_name() {
        let error = image("sm_80", "gemm.cubin", &[0x78, 0x9c, 1, 2, 3]).module().unwrap_err();
        assert_eq!(error, Missing::Damaged("gemm.cubin"));
    }

    #[test]
    fn every_embedded_image_decompresses_and_is_what_its_name_says() {
        for image in images() {
            let bytes = image.module().unwrap().bytes;
            let cubin = bytes.starts_with(b"\x7fELF");
            assert_eq!(cubin, image.file.ends_with(".cubin"), "{} of {}", image.file, image.architecture);
            assert_eq!(cubin, image.architecture.starts_with("sm_"));
        }
    }
}
