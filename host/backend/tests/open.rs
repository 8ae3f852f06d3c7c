//! Files that are no backends, or not for this host: one clear sentence each, and none of their code runs.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "../../../tests/conformance/tests/common/mod.rs"]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokenmill_backend::{Backend, Error, Manifest};

/// The start of each C text below; `M` is the manifest, `E` what tm_backend does.
fn library(name: &str, manifest: &str, rest: &str) -> PathBuf {
    let manifest = if manifest.is_empty() { String::new() } else { format!("TM_MANIFEST({manifest:?});\n") };
    common::compile(&format!("open-{name}"), &format!("#include \"tokenmill.h\"\n{manifest}{rest}\n"))
}

const GOOD: &str = "abi=1.0\nname=x\nversion=1\ndescription=d\n";
const NULL_ENTRY: &str = "const tm_api *tm_backend(uint32_t major) { (void)major; return 0; }";

fn error(path: &Path) -> Error {
    Backend::open(path).expect_err("this is not to be opened")
}

#[track_caller]
fn says(error: &Error, part: &str) {
    let text = error.to_string();
    assert!(text.contains(part), "{part:?} is not in {text:?}");
    assert_eq!(text.lines().count(), 1, "{text:?}");
}

fn scratch(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_is_not_there_is_not_found() {
    let error = error(Path::new("/no/such/libtokenmill_x.so"));
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    says(&error, "/no/such/libtokenmill_x.so");
}

#[test]
fn a_name_is_looked_for_and_the_places_are_told() {
    let found = Backend::find("no-such-backend").unwrap_err();
    let here = std::env::current_exe().unwrap();
    says(&found, "libtokenmill_no-such-backend");
    says(&found, here.parent().unwrap().to_str().unwrap());
    says(&found, "lib/tokenmill");
    // A path is a path, even if it does not lead anywhere.
    says(&Backend::find("./no-such-backend").unwrap_err(), "./no-such-backend");
}

#[test]
fn other_files_are_not_backends() {
    for (name, bytes) in
        [("text", b"hello, this is a text\n".as_slice()), ("empty", b""), ("zeros", &[0; 4096])]
    {
        let error = error(&scratch(name, bytes));
        assert!(matches!(error, Error::NotABackend { .. }), "{error}");
        says(&error, "not a shared library");
    }
    says(&error(Path::new(env!("CARGO_TARGET_TMPDIR"))), "not a file");
}

#[test]
fn a_library_without_a_manifest_is_refused() {
    says(&error(&library("bare", "", NULL_ENTRY)), "no section");
}

#[test]
fn a_manifest_must_say_abi_and_name() {
    for (i, (manifest, part)) in [
        ("name=x\n", "abi="),
        ("abi=1.0\n", "name="),
        ("abi=one\nname=x\n", "abi=one"),
        ("abi=1\nname=x\n", "abi=1"),
        ("abi=-1.0\nname=x\n", "abi=-1.0"),
    ]
    .into_iter()
    .enumerate()
    {
        says(&error(&library(&format!("manifest-{i}"), manifest, NULL_ENTRY)), part);
    }
}

/// Its constructor would leave a mark.
#[test]
fn another_major_is_refused_and_no_code_runs() {
    let mark = Path::new(env!("CARGO_TARGET_TMPDIR")).join("constructor-ran");
    let _ = std::fs::remove_file(&mark);
    let constructor = format!(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen({:?}, \"w\")); }}\n",
        mark.to_str().unwrap()
    );
    let other = library("major", "abi=2.3\nname=x\n", &format!("{constructor}{NULL_ENTRY}"));
    let refused = error(&other);
    assert!(matches!(refused, Error::WrongAbi { theirs: 2, ours: 1, .. }), "{refused}");
    says(&refused, "speaks backend ABI 2, this host speaks 1");
    assert!(!mark.exists());
    // The mark is one: with the right major the constructor does run.
    let same = library("same-major", GOOD, &format!("{constructor}{NULL_ENTRY}"));
    error(&same);
    assert!(mark.exists());
}

#[test]
fn another_processor_or_system_is_named() {
    let good = std::fs::read(common::compile("open-good", &common::c_source())).unwrap();
    // e_machine of an ELF file, two bytes at offset 18 (System V ABI, chapter 4).
    let mut other = good.clone();
    let (machine, name): (u16, _) =
        if cfg!(target_arch = "x86_64") { (183, "Aarch64") } else { (62, "X86_64") };
    other[18..20].copy_from_slice(&machine.to_le_bytes());
    let refused = error(&scratch("other-processor.so", &other));
    says(&refused, name);
    says(&refused, std::env::consts::ARCH);
    // The header of a Mach-O library for the same processor, no load commands.
    let cpu: u32 = if cfg!(target_arch = "x86_64") { 0x0100_0007 } else { 0x0100_000c };
    let words: [u32; 8] = [0xfeed_facf, cpu, 0, 6, 0, 0, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    says(&error(&scratch("other-system.dylib", &bytes)), "MachO");
}

#[test]
fn half_a_file_is_refused() {
    let good = std::fs::read(common::compile("open-half", &common::c_source())).unwrap();
    for part in 1..64 {
        error(&scratch("half.so", &good[..good.len() * part / 64]));
    }
}

#[test]
fn the_symbol_and_the_table_must_be_there() {
    says(&error(&library("no-symbol", GOOD, "int x;")), "tm_backend");
    says(&error(&library("null-table", GOOD, NULL_ENTRY)), "NULL");
}

#[test]
fn a_table_is_complete_and_of_this_major() {
    let source = common::c_source();
    let build = |name: &str, from: &str, to: &str| {
        assert!(source.contains(from), "{from}");
        common::compile(&format!("open-table-{name}"), &source.replacen(from, to, 1))
    };
    let table = "{sizeof(tm_api), TM_MAJOR, TM_MINOR, \"markov\",";
    says(
        &error(&build("short", table, "{sizeof(tm_api) - 8, TM_MAJOR, TM_MINOR, \"markov\",")),
        "function table has",
    );
    says(&error(&build("empty", table, "{0, TM_MAJOR, TM_MINOR, \"markov\",")), "function table has 0 bytes");
    says(&error(&build("major", table, "{sizeof(tm_api), 7, TM_MINOR, \"markov\",")), "speaks backend ABI 7");
    says(&error(&build("name", table, "{sizeof(tm_api), TM_MAJOR, TM_MINOR, 0,")), "no name");
    says(&error(&build("utf8", table, "{sizeof(tm_api), TM_MAJOR, TM_MINOR, \"\\xff\",")), "UTF-8");
    says(&error(&build("wait", "wait,     topk,", "0,     topk,")), "no wait");
    says(&error(&build("last", "release, extension}", "release, 0}")), "no extension");
    // A later minor of this major, with more behind the table: welcome.
    let newer = build("newer", table, "{sizeof(tm_api) + 800, TM_MAJOR, 9, \"markov\",");
    assert_eq!(Backend::open(&newer).unwrap().version(), (1, 9));
}

#[test]
fn what_the_dynamic_loader_says_is_passed_on() {
    let call = format!(
        "void somebody_elses_function(void);\nvoid f(void) {{ somebody_elses_function(); }}\n{NULL_ENTRY}"
    );
    let refused = error(&library("unresolved", GOOD, &call));
    assert!(matches!(refused, Error::Open { .. }), "{refused}");
    says(&refused, "somebody_elses_function");
}

#[test]
fn a_file_that_everybody_may_write_is_refused() {
    let path = library("writable", GOOD, NULL_ENTRY);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    says(&error(&path), "every user may write it");
}

#[test]
fn a_manifest_is_read_without_opening() {
    let path = library("manifest", "abi=1.4\nfuture=yes\nname=n\nversion=1.2\ndescription=a = b\n", "int x;");
    let manifest = Manifest::read(&path).unwrap();
    assert_eq!((manifest.major, manifest.minor), (1, 4));
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("n", "1.2"));
    assert_eq!(manifest.description, "a = b");
}
