//! The process apart that compiles a component for the tests.
#![forbid(unsafe_code)]

fn main() -> std::io::Result<()> {
    tokenmill_wasm::compile_worker()
}
