//! Lists what `cargo xtask kernels` left in `target/kernels/embedded/<architecture>/<file>.z` as a table of
//! `Image`s. Nothing there is no error: the crate then holds no images, and says so when asked for some.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Of compressed images; everything else in the folders is passed over.
const SUFFIX: &str = ".z";

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-env-changed=TOKENMILL_KERNELS");
    println!("cargo:rerun-if-changed=build.rs");
    let images = env::var_os("TOKENMILL_KERNELS")
        .map_or_else(|| manifest.join("../target/kernels"), PathBuf::from)
        .join("embedded");
    // Cargo cannot wait for a folder to appear, only for one to change. Where it cannot be made, images that
    // come later are seen late.
    let _ = fs::create_dir_all(&images);
    if images.exists() {
        println!("cargo:rerun-if-changed={}", images.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("images.rs"), table(&images)?)
}

/// A Rust array literal with one `Image` a file.
fn table(images: &Path) -> io::Result<String> {
    let mut text = String::from("&[\n");
    for folder in sorted(images)? {
        for file in sorted(&folder)? {
            let (Some(architecture), Some(name)) = (name(&folder), name(&file)) else { continue };
            let Some(name) = name.strip_suffix(SUFFIX) else { continue };
            let path = file.canonicalize()?;
            text.push_str(&format!(
                "    Image {{ architecture: {architecture:?}, file: {name:?}, compressed: include_bytes!({path:?}) }},\n"
            ));
        }
    }
    text.push_str("]\n");
    Ok(text)
}

/// What lies in a folder, in an order that does not depend on the file system; nothing if it is none.
fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}
