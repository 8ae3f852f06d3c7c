//! What is loaded, and what is refused by name.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokenmill_wasm::{Error, Kind, Limits, Plugin, Reason, Runtime};

use crate::guests::{self, Code, RUNTIME, WIT, compiler, component, host, load};
use crate::steps;

crate::tests!(
    honest_policies_load,
    p07_what_is_not_a_policy_is_refused_by_name,
    p08_broken_files_are_refused,
    p08_a_compilation_that_takes_too_long_is_ended,
    p09_compiled_code_is_never_taken_from_a_user,
    p09_the_cache_takes_nothing_that_was_changed,
    p14_a_configuration_is_refused_with_a_reason,
);

fn refusal(result: Result<Plugin, Error>) -> String {
    match result {
        Err(Error::Refused(why)) => why,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was loaded"),
    }
}

fn honest_policies_load() {
    let plugin = load(&Code::default().sampler()).unwrap();
    assert_eq!((plugin.kind(), plugin.contract(), plugin.id().len()), (Kind::Sampler, "0.1.0", 64));
    plugin.self_test().unwrap();
    steps::once(&plugin).unwrap();
    assert!(plugin.scheduler().is_err());
    let plugin = load(&Code::default().scheduler()).unwrap();
    assert_eq!(plugin.kind(), Kind::Scheduler);
    plugin.self_test().unwrap();
    assert_eq!(plugin.health().calls, 0, "the self-test does not count");
}

fn p07_what_is_not_a_policy_is_refused_by_name() {
    let text = Code::default().sampler_text();
    let core = wat::parse_str("(module)").unwrap();
    assert!(refusal(load(&core)).contains("core module"));
    assert!(refusal(load(b"hello")).contains("not WebAssembly"));
    let newer = component(&text.replace("@0.1.0", "@0.2.0"), &WIT.replace("0.1.0", "0.2.0"), "sampling");
    let why = refusal(load(&newer));
    assert!(why.contains("@0.2.0") && why.contains("0.1.x"), "{why}");
    let wit = WIT.replace(
        "world sampling { import host;",
        "world sampling { import host; import wasi:clocks/monotonic-clock@0.2.0;",
    );
    let import = r#"(module (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))"#;
    let clock = component(&text.replacen("(module", import, 1), &wit, "sampling");
    let why = refusal(load(&clock));
    assert!(why.contains("wasi:clocks/monotonic-clock@0.2.0"), "{why}");
    let wit = WIT.replace(
        "  vocab: func() -> u32;\n  /// The bytes",
        "  vocab: func() -> u32;\n  random: func() -> u64;\n  /// The bytes",
    );
    let import = r#"(module (import "tokenmill:policy/host@0.1.0" "random" (func $random (result i64)))"#;
    let why = refusal(load(&component(&text.replacen("(module", import, 1), &wit, "sampling")));
    assert!(why.contains("random"), "{why}");
    let empty = component("(module)", "package a:b; world nothing {}", "nothing");
    assert!(refusal(load(&empty)).contains("exports neither"));
}

fn p08_broken_files_are_refused() {
    let good = Code::default().sampler();
    for len in (0..good.len()).step_by(good.len() / 24) {
        refusal(load(&good[..len]));
    }
    let huge = vec![0; RUNTIME.limits().component_bytes + 1];
    assert!(refusal(load(&huge)).contains("more than"));
    // Damage beyond the header: some of it is in names and data and does no harm; nothing may crash.
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let damage = proptest::collection::vec((8..good.len(), any::<u8>()), 1..4);
    runner
        .run(&damage, |damage| {
            let mut bytes = good.clone();
            damage.iter().for_each(|&(at, byte)| bytes[at] = byte);
            if let Ok(plugin) = load(&bytes) {
                let _ = steps::once(&plugin);
            }
            Ok(())
        })
        .unwrap();
}

fn p08_a_compilation_that_takes_too_long_is_ended() {
    let limits = Limits { compile_time: Duration::from_millis(300), ..guests::limits() };
    let sleeping = || {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    };
    let runtime = Runtime::new(limits, sleeping, None).unwrap();
    let began = Instant::now();
    let why = refusal(Plugin::load(&runtime, "slow", &Code::default().sampler(), "", host()));
    assert!(why.contains("longer than"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(300), "it was waited for");
    // The memory of the process that compiles is bounded too.
    let limits = Limits { compile_memory: 1 << 20, ..guests::limits() };
    let runtime = Runtime::new(limits, compiler, None).unwrap();
    refusal(Plugin::load(&runtime, "big", &Code::default().sampler(), "", host()));
    // Functions without number compile in time, or are refused.
    let many: String = (0..100_000).map(|i| format!("(func (result i32) (i32.const {i}))")).collect();
    match load(&Code { more: &many, ..Code::default() }.sampler()) {
        Ok(plugin) => drop(steps::once(&plugin).unwrap()),
        Err(error) => assert!(matches!(error, Error::Refused(_)), "{error}"),
    }
}

fn p09_compiled_code_is_never_taken_from_a_user() {
    assert!(refusal(load(b"\x7fELF\x02\x01\x01 whatever wasmtime compiled")).contains("compiled code"));
}

fn p09_the_cache_takes_nothing_that_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("compiled");
    let runtime = || Runtime::new(guests::limits(), compiler, Some(cache.clone()));
    let component = Code::default().sampler();
    let run =
        || Plugin::load(&runtime().unwrap(), "cached", &component, "", host()).unwrap().self_test().unwrap();
    run();
    let files = || std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    let [file] = &files()[..] else { panic!("one file") };
    let whole = std::fs::read(file).unwrap();
    let mut bad = whole.clone();
    bad[whole.len() / 2] ^= 1;
    std::fs::write(file, &bad).unwrap();
    run();
    assert_eq!(std::fs::read(file).unwrap(), whole, "it was compiled again");
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
    run();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(runtime().err(), Some(Error::File { .. })), "others could write there");
}

fn p14_a_configuration_is_refused_with_a_reason() {
    let honest = Code::default().sampler();
    let with =
        |component: &[u8], config: &str| Plugin::load(&RUNTIME, "test", component, config, host()).err();
    assert!(matches!(with(&honest, &"x".repeat(2 << 20)), Some(Error::Config(_))));
    // Error: bad-config("no").
    let no = "(i32.store (i32.const 96) (i32.const 1)) (i32.store (i32.const 100) (i32.const 0))
        (i32.store (i32.const 104) (i32.const 1024)) (i32.store (i32.const 108) (i32.const 2))
        (return (i32.const 96))";
    let data = r#"(data (i32.const 1024) "no")"#;
    let picky = Code { configure: no, more: data, ..Code::default() };
    assert!(matches!(with(&picky.sampler(), "x"), Some(Error::Config(why)) if why == "no"));
    assert!(matches!(with(&picky.scheduler(), "x"), Some(Error::Config(why)) if why == "no"));
    let spinning = Code { configure: "(loop (br 0))", ..Code::default() };
    let Some(Error::Failed { reason, .. }) = with(&spinning.sampler(), "") else { panic!("it was loaded") };
    assert_eq!(reason, Reason::Deadline);
}
