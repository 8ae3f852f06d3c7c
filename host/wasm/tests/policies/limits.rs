//! Policies that take more than they may, or trap: the call ends, the host goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokenmill_wasm::{Error, Limits, Plugin, Reason, Runtime};

use crate::guests::{self, Code, compiler, host, load, plan};
use crate::steps::{self, failures, only};

crate::tests!(
    p01_an_endless_loop_is_cut_off_in_every_hook,
    p02_a_loop_at_the_start_or_over_host_calls_is_cut_off,
    p03_memory_tables_handles_and_lists_are_bounded,
    p04_a_trap_ends_the_instance_and_not_the_policy,
    p15_a_panic_of_the_host_poisons_nothing,
    quarantine_after_five_failures_in_a_row,
    waiting_for_the_device_is_not_the_policys_time,
);

/// One step of a policy fails for this reason alone, and the next finds a fresh instance.
fn fails(code: &Code<'_>, reason: Reason) {
    let plugin = load(&code.sampler()).unwrap();
    steps::once(&plugin).unwrap_err();
    assert_eq!(failures(&plugin), only(reason), "{:?}", plugin.health().last_failure);
}

fn p01_an_endless_loop_is_cut_off_in_every_hook() {
    let began = Instant::now();
    fails(&plan("(loop (br 0))"), Reason::Deadline);
    let inspect = "(call $inspect (local.get $out) (i32.const 96) (i32.const 1))";
    fails(&Code { plan: inspect, pick: "(loop (br 0))", ..Code::default() }, Reason::Deadline);
    let plugin = load(&plan("(loop (br 0))").scheduler()).unwrap();
    steps::order(&mut *plugin.scheduler().unwrap(), 3).unwrap_err();
    assert_eq!(failures(&plugin), only(Reason::Deadline));
    assert!(began.elapsed() < Duration::from_secs(300), "none of them ends by itself");
}

fn p02_a_loop_at_the_start_or_over_host_calls_is_cut_off() {
    let start = Code { more: "(func $spin (loop (br 0))) (start $spin)", ..Code::default() };
    let Err(Error::Failed { reason, .. }) = load(&start.sampler()) else { panic!("it was loaded") };
    assert_eq!(reason, Reason::Deadline);
    fails(&plan("(loop (drop (call $vocab)) (br 0))"), Reason::Deadline);
    fails(
        &plan(
            "(loop (call $token_bytes (i32.const 0) (i32.const -1) (i32.const 64)) (global.set $heap (i32.const 4096)) (br 0))",
        ),
        Reason::Deadline,
    );
    fails(
        &plan(
            "(loop (call $ids (local.get $view) (i32.const 64)) (global.set $heap (i32.const 4096)) (br 0))",
        ),
        Reason::Deadline,
    );
}

fn p03_memory_tables_handles_and_lists_are_bounded() {
    let before = resident();
    fails(&plan("(drop (memory.grow (i32.const 65535)))"), Reason::Memory);
    fails(&plan("(drop (table.grow $table (ref.null func) (i32.const 0x7fffffff)))"), Reason::Memory);
    fails(&plan("(loop (drop (call $mask (i32.const 96) (i32.const 1))) (br 0))"), Reason::Memory);
    fails(&plan("(call $log (i32.const 0) (i32.const 0x40000000))"), Reason::Trap);
    // In its memory, and still more than a call may bring along.
    fails(
        &plan("(drop (memory.grow (i32.const 150))) (call $log (i32.const 0) (i32.const 8388608))"),
        Reason::Trap,
    );
    let endless = "(loop (call $temperature (local.get $out) (i32.const 8192) (i32.const 10000) (i32.const 8192) (i32.const 10000)) (br 0))";
    let at_once = endless.replace("temperature (local.get $out)", "params").replace(
        ") (br 0)",
        " (i32.const 8192) (i32.const 10000) (i32.const 8192) (i32.const 10000)) (br 0)",
    );
    for endless in [endless, &at_once] {
        steps::once(&load(&plan(endless).sampler()).unwrap()).unwrap_err();
    }
    assert!(resident() < before + (64 << 20), "{} MiB more", (resident() - before) >> 20);
    // More at once than a module may ask for is refused when it is loaded.
    let big = Code { more: "(memory 1000)", ..Code::default() };
    assert!(load(&big.sampler()).is_err());
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn p04_a_trap_ends_the_instance_and_not_the_policy() {
    for code in [
        "(unreachable)",
        "(call $deep)",
        "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
        "(drop (i32.load (i32.const -8)))",
        "(call_indirect (i32.const 0))",
        // A borrowed handle that is kept, and one that was never given.
        "(return (i32.const 16))",
        "(call $drop_view (i32.const 77))",
        "(call $allow (local.get $out) (i32.const 0) (i32.const 99))",
    ] {
        fails(&plan(code), Reason::Trap);
    }
    // Fails in its first call: a fresh instance fails again, and sees all tokens again each time.
    let first = "(if (i32.eq (global.get $calls) (i32.const 2)) (then unreachable))";
    let plugin = load(&plan(first).sampler()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    let mut step =
        |position, tokens: &[u32]| steps::plan(&mut *sampler, &[(1, 0, position, tokens)], &[]).is_ok();
    assert!(step(2, &[1, 2]));
    assert!(!step(3, &[3]), "the second call traps");
    assert!(step(4, &[1, 2, 3, 4]), "a fresh instance counts from the start");
    assert_eq!(failures(&plugin), only(Reason::Trap));
    assert_eq!(plugin.health().in_a_row, 1);
    assert!(!step(5, &[5]) && plugin.health().in_a_row == 1, "a good answer in between");
}

fn p15_a_panic_of_the_host_poisons_nothing() {
    let code =
        "(if (i32.eq (global.get $calls) (i32.const 2)) (then (call $log (i32.const 1024) (i32.const 9))))";
    let panicking = Code { plan: code, more: r#"(data (i32.const 1024) "panic now")"#, ..Code::default() };
    let plugin = load(&panicking.sampler()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    let mut step =
        |position, tokens: &[u32]| steps::plan(&mut *sampler, &[(1, 0, position, tokens)], &[]).is_ok();
    assert!(step(2, &[1, 2]));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    catch_unwind(AssertUnwindSafe(|| step(3, &[3]))).unwrap_err();
    std::panic::set_hook(hook);
    assert!(!step(4, &[4]), "the fresh instance was not shown the start");
    assert!(step(4, &[1, 2, 3, 4]));
    assert_eq!(plugin.health().in_a_row, 0);
}

fn quarantine_after_five_failures_in_a_row() {
    let plugin = load(&plan("(unreachable)").sampler()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    for nth in 1..=8 {
        steps::plan(&mut *sampler, &[(1, 0, 1, &[1])], &[]).unwrap_err();
        assert_eq!(plugin.health().quarantined, nth >= 5);
    }
    assert_eq!(failures(&plugin)[&Reason::Trap], 5, "it is not asked any more");
    // Answers that the engine refuses count, although the calls went well.
    let plugin = load(&Code::default().scheduler()).unwrap();
    let mut scheduler = plugin.scheduler().unwrap();
    for _ in 0..5 {
        steps::order(&mut *scheduler, 2).unwrap();
        scheduler.refused(&tokenmill_policy::Error::Undecided("no".into()));
    }
    assert!(plugin.health().quarantined && steps::order(&mut *scheduler, 2).is_err());
}

/// The logits of a slow device.
struct Slow(Vec<f32>);

impl tokenmill_policy::sample::Logits for Slow {
    fn vocab(&self) -> u32 {
        self.0.len() as u32
    }

    fn top_k(&mut self, _: u32, _: u32) -> Result<(Vec<u32>, Vec<f32>), tokenmill_policy::Error> {
        Ok((Vec::new(), Vec::new()))
    }

    fn read(&mut self, _: u32) -> Result<&[f32], tokenmill_policy::Error> {
        std::thread::sleep(Duration::from_millis(60));
        Ok(&self.0)
    }
}

fn waiting_for_the_device_is_not_the_policys_time() {
    // Some processor time around the wait, so that a deadline would be noticed.
    let work = "(local.set $a (i32.const 1000)) (loop (br_if 0 (local.tee $a (i32.sub (local.get $a) (i32.const 1)))))";
    let read = "(call $read (local.get $logits) (i32.const 0) (i32.const 64))";
    let again = format!("{read}{work}{read}{work}");
    let forever = format!("(loop {read} (global.set $heap (i32.const 8192)) (br 0))");
    let inspect = "(call $inspect (local.get $out) (i32.const 96) (i32.const 1))";
    // Wide limits: a busy machine may stop this thread at any time.
    let limits = Limits { sampling: Duration::from_millis(50), ..guests::limits() };
    let runtime = Runtime::new(limits, compiler, None).unwrap();
    for (pick, good) in [(&again, true), (&forever, false)] {
        let code = Code { plan: inspect, pick, ..Code::default() };
        let plugin = Plugin::load(&runtime, "slow", &code.sampler(), "", host()).unwrap();
        let mut sampler = plugin.sampler().unwrap();
        let asked = steps::ask_with(&mut *sampler, &[(1, 0, 1, &[1])], &[], &[7], &mut Slow(vec![0.5; 32]));
        assert_eq!(asked.is_ok(), good, "{:?}", plugin.health().last_failure);
        assert_eq!(failures(&plugin).get(&Reason::Deadline), (!good).then_some(&1));
    }
}
