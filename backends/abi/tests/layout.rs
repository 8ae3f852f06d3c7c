//! The Rust mirror against the header, as the C and the C++ compiler lay it out.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.
use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use tokenmill_backend_abi as abi;

/// Name in C, and what Rust thinks.
type Facts = Vec<(String, String)>;

fn width<S, F>(_field: impl Fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Size of a struct, offset and size of each of its fields; the names are the same in both languages.
macro_rules! facts {
    ($($rust:ident = $c:literal { $($field:ident),* $(,)? })*) => {{
        let mut facts = Facts::new();
        $(
            facts.push((format!("sizeof({})", $c), size_of::<abi::$rust>().to_string()));
            $(
                let name = stringify!($field);
                facts.push((format!("offsetof({}, {name})", $c), offset_of!(abi::$rust, $field).to_string()));
                let size = width(|of: &abi::$rust| &of.$field);
                facts.push((format!("sizeof((({} *)0)->{name})", $c), size.to_string()));
            )*
        )*
        facts
    }};
}

fn structs() -> Facts {
    facts! {
        Message = "tm_message" { text }
        Load = "tm_load" {
            size, dir, devices, n_devices, tensor_parallel, block_tokens, max_tokens, max_rows, max_seqs, depth,
            reserved, kv_bytes, options, progress, user,
        }
        Info = "tm_info" {
            size, vocab, max_context, n_blocks, block_tokens, max_tokens, max_rows, max_seqs, depth, weight_bytes,
            kv_block_bytes, arch, device, weights,
        }
        Batch = "tm_batch" {
            size, tokens, seq_start, seq_pos, block_start, blocks, rows, n_seqs, n_rows, copies, n_copies, reserved,
        }
        Row = "tm_row" {
            seed, temperature, top_p, min_p, repetition, presence, frequency, top_k, forced, bias, n_bias, seen,
            n_seen, mask, reserved,
        }
        Sampling = "tm_sampling" {
            size, rows, bias_token, bias_value, n_bias, n_seen, seen_token, seen_count, masks, n_masks, reserved,
        }
        Outcome = "tm_result" { size, tokens, logprobs, capacity, n_rows }
        Api = "tm_api" {
            size, major, minor, name, probe, load, unload, info, submit, sample, wait, topk, logits, release,
            extension,
        }
    }
}

fn constants() -> Facts {
    let numbers = [
        ("TM_MAJOR", i64::from(abi::MAJOR)),
        ("TM_MINOR", i64::from(abi::MINOR)),
        ("TM_OK", i64::from(abi::OK)),
        ("TM_INVALID", i64::from(abi::INVALID)),
        ("TM_UNSUPPORTED", i64::from(abi::UNSUPPORTED)),
        ("TM_NO_MEMORY", i64::from(abi::NO_MEMORY)),
        ("TM_AGAIN", i64::from(abi::AGAIN)),
        ("TM_TIMEOUT", i64::from(abi::TIMEOUT)),
        ("TM_LOST", i64::from(abi::LOST)),
        ("TM_INTERNAL", i64::from(abi::INTERNAL)),
        ("sizeof(tm_ticket)", size_of::<abi::Ticket>() as i64),
        ("sizeof(tm_code)", size_of::<abi::Code>() as i64),
    ];
    numbers.map(|(name, value)| (name.to_owned(), value.to_string())).to_vec()
}

/// Compiles `source` as strictly as the flags say, runs it, and reads its lines `name=value`.
fn ask(
    compiler: &str,
    default: &str,
    flags: &[&str],
    extension: &str,
    source: &str,
) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{extension}"));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, program) = (folder.join(format!("layout.{extension}")), folder.join("layout"));
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var(compiler).unwrap_or_else(|_| default.to_owned());
    let out = Command::new(&compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {compiler}: {error}"));
    assert!(out.status.success(), "{compiler}:\n{}", String::from_utf8_lossy(&out.stderr));
    let out = Command::new(&program).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn program(names: &[&String]) -> String {
    let mut source = String::from("#include \"tokenmill.h\"\n#include <stdio.h>\n#include <stddef.h>\n");
    source += "TM_MANIFEST(\"abi=1.0\\nname=layout\\n\");\n";
    source += "int main(void) {\n    (void)tm_manifest;\n";
    for name in names {
        source += &format!("    printf(\"%s=%lld\\n\", \"{name}\", (long long)({name}));\n");
    }
    source += "    printf(\"section=%s\\n\", TM_MANIFEST_SECTION);\n    return 0;\n}\n";
    source
}

#[test]
fn the_mirror_is_laid_out_as_the_header() {
    let mut facts = structs();
    facts.extend(constants());
    let source = program(&facts.iter().map(|(name, _)| name).collect::<Vec<_>>());
    facts.push(("section".to_owned(), abi::MANIFEST_SECTION.to_owned()));
    for (compiler, default, standard, extension) in
        [("CC", "cc", "-std=c99", "c"), ("CC", "cc", "-std=c17", "c"), ("CXX", "c++", "-std=c++11", "cpp")]
    {
        let seen = ask(compiler, default, &[standard], extension, &source);
        assert_eq!(seen.len(), facts.len(), "{standard}: every fact is printed once");
        for (name, rust) in &facts {
            assert_eq!(seen.get(name), Some(rust), "{standard}: {name}");
        }
    }
}
