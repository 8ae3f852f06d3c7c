//! Hostile, broken and honest policies, each a real component. This program runs itself again as the process that
//! compiles. The numbers P01 to P17 are those of the security notes' test cases.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and has no harness that prints its name"
)]

mod answers;
mod contract;
mod guests;
mod languages;
mod limits;
mod loading;
mod manager;
mod reports;
mod steps;
mod tenants;

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "compile" {
        if let Err(error) = tokenmill_wasm::compile_worker() {
            std::io::Write::write_all(&mut std::io::stderr(), error.to_string().as_bytes()).unwrap();
            std::process::exit(1);
        }
        return;
    }
    if argument == "write-contract" {
        return contract::write();
    }
    let tests: Vec<(&str, fn())> = [
        loading::TESTS,
        limits::TESTS,
        answers::TESTS,
        tenants::TESTS,
        manager::TESTS,
        reports::TESTS,
        contract::TESTS,
        languages::TESTS,
    ]
    .concat();
    for (name, test) in tests {
        if name.contains(argument.trim_start_matches('-')) || argument.starts_with('-') {
            println!("test {name}");
            test();
        }
    }
}

/// Test functions with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;
