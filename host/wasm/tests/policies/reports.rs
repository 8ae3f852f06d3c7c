//! What `tokenmill policy check` and `bench` tell.

use tokenmill_policy::Fcfs;
use tokenmill_wasm::{Kind, Native, bench, check};

use crate::guests::{Code, RUNTIME, host, plan};

crate::tests!(check_says_what_is_in_a_file, bench_counts_every_size);

fn check_says_what_is_in_a_file() {
    let report = check(&RUNTIME, &Code::default().sampler(), "", host());
    assert!(report.ok && report.error.is_none() && report.kind == Some(Kind::Sampler));
    assert!(report.exports.contains(&"tokenmill:policy/sampler@0.1.0".to_owned()));
    assert!(report.imports.contains(&"tokenmill:policy/host@0.1.0".to_owned()));
    assert!(report.to_string().contains("contract 0.1.0"));
    let report = check(&RUNTIME, &plan("(unreachable)").scheduler(), "", host());
    assert!(!report.ok && report.kind == Some(Kind::Scheduler));
    assert!(report.error.clone().unwrap().contains("unreachable"), "{report}");
    let report = check(&RUNTIME, b"\0asm\x01\0\0\0", "", host());
    assert!(!report.ok && report.kind.is_none() && report.to_string().contains("core module"));
}

fn bench_counts_every_size() {
    let pending = "(call $pending (local.get $view) (i32.const 64))
        (local.set $a (i32.load (i32.const 68)))
        (loop (br_if 0 (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))";
    let native = Native::Scheduler(Box::new(Fcfs::default()));
    let report = bench(&RUNTIME, &plan(pending).scheduler(), "", host(), Some(native)).unwrap();
    println!("{report}");
    assert!(report.steps.iter().map(|step| step.rows).collect::<Vec<_>>().starts_with(&[1, 64, 256, 1024]));
    assert!(report.steps.iter().all(|step| step.us_per_step > 0.0 && step.native_us_per_step > Some(0.0)));
    let many = |row: &str| {
        format!(
            "(call $ids (local.get $view) (i32.const 64)) (call $seeds (local.get $view) (i32.const 64)) {row}"
        )
    };
    let report = bench(&RUNTIME, &plan(&many("")).sampler(), "", host(), None).unwrap();
    println!("{report}");
    assert!(report.instantiate_us > 0.0);
}
