//! Every target over its seeds and over what was found once. This program runs itself again as the process that
//! compiles components.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and has no harness")]

use std::fs;
use std::path::Path;

use tokenmill_fuzz::TARGETS;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("compile") {
        if let Err(error) = tokenmill_wasm::compile_worker() {
            std::io::Write::write_all(&mut std::io::stderr(), error.to_string().as_bytes()).unwrap();
            std::process::exit(1);
        }
        return;
    }
    for (name, run) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            println!("test {name}: {}", seed.file_name().unwrap().to_string_lossy());
            run(&fs::read(seed).unwrap());
        }
    }
}
