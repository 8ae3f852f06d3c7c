//! Sizes and manners of source files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_RUST_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;
const MAX_KERNEL_LINES: usize = 600;
/// Folders whose crates may contain `unsafe`.
const UNSAFE_FOLDERS: &[&str] = &[
    "host/backend",
    // One module, for compiled components that it made itself.
    "host/wasm",
    "backends/abi",
    "backends/export",
    "backends/cpu",
    "backends/cuda",
    "backends/null",
    "kernels",
];

#[test]
fn rust_files_stay_small() {
    let long = sources().into_iter().filter(|(_, text)| text.lines().count() > MAX_RUST_LINES);
    let list: Vec<_> =
        long.map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count())).collect();
    assert!(list.is_empty(), "over {MAX_RUST_LINES} lines:\n{}", list.join("\n"));
}

#[test]
fn kernels_stay_small_open_with_their_contract_and_use_no_header_of_cuda() {
    let mut wrong = Vec::new();
    for (path, text) in files(&["kernels"], &["cu", "cuh", "cpp", "h"]) {
        let shown = path.display();
        if text.lines().count() > MAX_KERNEL_LINES {
            wrong.push(format!("{shown}: over {MAX_KERNEL_LINES} lines"));
        }
        if path.extension().is_none_or(|extension| extension != "cu" && extension != "cuh") {
            continue;
        }
        if !text.starts_with("// ") {
            wrong.push(format!("{shown}: does not open with its contract"));
        }
        let foreign = text.lines().filter(|line| line.starts_with("#include <"));
        wrong.extend(foreign.map(|line| format!("{shown}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut list = Vec::new();
    for (path, text) in sources() {
        for (name, line, length) in functions(&text) {
            if length > MAX_FUNCTION_LINES {
                list.push(format!("{}:{line}: {name} has {length} lines", path.display()));
            }
        }
    }
    assert!(list.is_empty(), "over {MAX_FUNCTION_LINES} lines:\n{}", list.join("\n"));
}

#[test]
fn unsafe_stays_in_the_crates_that_need_it() {
    let mut list = Vec::new();
    for (path, text) in sources() {
        let shown = path.display().to_string();
        let is_root = shown.starts_with("host/")
            && (shown.ends_with("src/lib.rs") || shown.ends_with("src/main.rs"))
            || shown.starts_with("backends/") && shown.ends_with("src/lib.rs");
        let allowed = UNSAFE_FOLDERS.iter().any(|folder| shown.starts_with(folder));
        if is_root && !allowed && !text.contains("#![forbid(unsafe_code)]") {
            list.push(format!("{shown}: `#![forbid(unsafe_code)]` is missing"));
        }
    }
    assert!(list.is_empty(), "{}", list.join("\n"));
}

#[test]
fn every_crate_says_what_it_must_not_know() {
    let mut list = Vec::new();
    for (path, text) in sources() {
        let shown = path.display().to_string();
        let is_crate =
            (shown.starts_with("host/") || shown.starts_with("backends/")) && shown.ends_with("src/lib.rs");
        if is_crate && !text.contains("Invariant: ") {
            list.push(format!("{shown}: its opening text has no `Invariant: …`"));
        }
    }
    assert!(list.is_empty(), "{}", list.join("\n"));
}

/// Name, first line and length of every function that rustfmt laid out over several lines.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else { continue };
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[i..].iter().position(|line| **line == end).map_or(1, |n| n + 1);
        if !lines[i..i + length.min(lines.len() - i)]
            .iter()
            .any(|line| line.trim_end().ends_with(';') && line.len() - line.trim_start().len() == indent)
        {
            found.push((name, i + 1, length));
        }
    }
    found
}

fn function_name(code: &str) -> Option<String> {
    let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "];
    let mut rest = code;
    while let Some(word) = words.iter().find(|word| rest.starts_with(**word)) {
        rest = &rest[word.len()..];
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.split(['(', '<']).next()?.to_owned())
}

/// All Rust files of the repository with their text, by path relative to its root.
fn sources() -> Vec<(PathBuf, String)> {
    files(&["backends", "host", "tests", "xtask", "examples", "plugins", "kernels"], &["rs"])
}

fn files(folders: &[&str], extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let built = path.file_name().is_some_and(|name| name == "target");
                folders.extend((!built).then_some(path));
            } else if path.extension().is_some_and(|is| extensions.iter().any(|wanted| is == *wanted)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 20, "the repository's sources were not found");
    found
}
