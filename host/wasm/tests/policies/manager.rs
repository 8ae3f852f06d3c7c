//! Policies come, go, fail and come back while a server runs.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokenmill_policy::{Named, Samplers, Scheduler};
use tokenmill_wasm::{Error, Kind, Policies, Reason, State, Status, Target};

use crate::guests::{Code, RUNTIME, host, plan};
use crate::steps;

crate::tests!(
    policies_come_and_go,
    p11_a_thousand_reloads_under_load,
    p12_a_version_that_fails_its_test_changes_nothing,
    p13_files_are_taken_when_they_are_whole,
    quarantine_brings_the_last_good_version_back,
);

/// What an engine keeps of policies.
#[derive(Default)]
struct Engine {
    samplers: Mutex<Samplers>,
    scheduler: Mutex<Option<Box<dyn Scheduler>>>,
    installed: AtomicU64,
}

struct Handle(Arc<Engine>);

impl Target for Handle {
    fn install_sampler(&self, named: Named) {
        self.0.samplers.lock().unwrap().add(named);
        self.0.installed.fetch_add(1, Ordering::SeqCst);
    }

    fn remove_sampler(&self, name: &str) {
        self.0.samplers.lock().unwrap().retire(name);
    }

    fn set_scheduler(&self, scheduler: Box<dyn Scheduler>) {
        *self.0.scheduler.lock().unwrap() = Some(scheduler);
        self.0.installed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Engine {
    fn start() -> (Arc<Self>, Policies) {
        let engine = Arc::new(Self::default());
        let policies = Policies::new(RUNTIME.clone(), host(), Handle(engine.clone()));
        (engine, policies)
    }

    /// One step with the newest sampler of a name.
    fn step(&self, name: &str) -> Option<f32> {
        let mut samplers = self.samplers.lock().unwrap();
        let place = samplers.position(name)?;
        let sampler = &mut *samplers.get_mut(place)?.sampler;
        steps::plan(sampler, &[(1, 0, 1, &[1])], &[]).ok()?.temperature.first().map(|knob| knob.1)
    }
}

/// A sampler that sets this temperature.
fn warm(temperature: f32) -> Vec<u8> {
    let code = format!(
        "(f32.store (i32.const 100) (f32.const {temperature})) (i32.store (i32.const 96) (i32.const 0))
        (call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))"
    );
    plan(&code).sampler()
}

fn policies_come_and_go() {
    let (engine, policies) = Engine::start();
    let status = policies.put("a-1", None, &warm(0.5), "", true).unwrap();
    assert_eq!((status.kind, status.state, status.enforcing), (Kind::Sampler, State::Active, true));
    assert_eq!(engine.step("a-1"), Some(0.5));
    let refused = |result: Result<Status, Error>| matches!(result, Err(Error::Refused(_)));
    assert!(refused(policies.put("A b", None, &warm(0.5), "", false)));
    assert!(refused(policies.put("b", Some(Kind::Scheduler), &warm(0.5), "", false)));
    policies.put("one", Some(Kind::Scheduler), &Code::default().scheduler(), "", false).unwrap();
    policies.put("two", None, &Code::default().scheduler(), "", false).unwrap();
    let names: Vec<_> = policies.list().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["a-1", "two"], "there is one scheduler");
    policies.delete("two").unwrap();
    policies.delete("a-1").unwrap();
    assert!(matches!(policies.delete("a-1"), Err(Error::Unknown(_))));
    assert_eq!(engine.step("a-1"), None);
    // First come, first served again: everybody who decodes gets a token.
    let mut scheduler = engine.scheduler.lock().unwrap().take().unwrap();
    assert_eq!(steps::order(&mut *scheduler, 2).unwrap().tokens, [1, 1]);
}

fn p11_a_thousand_reloads_under_load() {
    let (engine, policies) = Engine::start();
    let versions = [warm(0.25), warm(0.75)];
    policies.put("hot", None, &versions[0], "", false).unwrap();
    let done = AtomicBool::new(false);
    let (mut steps, mut seen) = (0u64, [0u64; 2]);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // Each step is one version's, whole.
                match engine.step("hot") {
                    Some(0.25) => seen[0] += 1,
                    Some(0.75) => seen[1] += 1,
                    other => panic!("a step failed: {other:?}"),
                }
                steps += 1;
                engine.samplers.lock().unwrap().reclaim(|_| false);
                thread::yield_now();
            }
        });
        for nth in 1..=1000 {
            policies.put("hot", None, &versions[nth % 2], "", false).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        load.join().unwrap();
    });
    assert!(seen[0] > 0 && seen[1] > 0, "{steps} steps, {seen:?}");
    assert_eq!(policies.list().len(), 1);
}

fn p12_a_version_that_fails_its_test_changes_nothing() {
    let (engine, policies) = Engine::start();
    let good = policies.put("x", None, &warm(0.5), "", false).unwrap();
    let installed = engine.installed.load(Ordering::SeqCst);
    for (code, reason) in [("(unreachable)", Reason::Trap), ("(loop (br 0))", Reason::Deadline)] {
        let result = policies.put("x", None, &plan(code).sampler(), "", false);
        assert!(matches!(result, Err(Error::Failed { reason: why, .. }) if why == reason));
    }
    assert!(matches!(policies.put("x", None, b"junk", "", false), Err(Error::Refused(_))));
    assert_eq!(policies.get("x").unwrap().id, good.id);
    assert_eq!(engine.installed.load(Ordering::SeqCst), installed);
    assert_eq!(engine.step("x"), Some(0.5));
}

/// Waits, as long as a slow machine may need.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn p13_files_are_taken_when_they_are_whole() {
    let (engine, policies) = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    write("a.wasm", &warm(0.25));
    write("b.wasm", &warm(0.75));
    let link = |to: &str| {
        let _ = fs::remove_file(at("new"));
        std::os::unix::fs::symlink(at(to), at("new")).unwrap();
        fs::rename(at("new"), at("live.wasm")).unwrap();
    };
    link("a.wasm");
    policies.put_file("f", None, &at("live.wasm"), "", false).unwrap();
    let status = || policies.get("f").unwrap();
    let first = status().id;
    // Half a file is no policy: the old version stays, and says why.
    let whole = warm(0.5);
    write("a.wasm", &whole[..whole.len() / 2]);
    until("half a file is tried", || status().last_error.is_some());
    assert_eq!((status().id, engine.step("f")), (first, Some(0.25)));
    write("a.wasm", &whole);
    until("the whole file is taken", || engine.step("f") == Some(0.5));
    assert_eq!(status().last_error, None);
    link("b.wasm");
    until("the link is followed", || engine.step("f") == Some(0.75));
    let installed = engine.installed.load(Ordering::SeqCst);
    fs::remove_file(at("live.wasm")).unwrap();
    thread::sleep(Duration::from_millis(700));
    // The same content again, touched many times: nothing to take over.
    for _ in 0..100 {
        write("live.wasm", &warm(0.75));
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(900));
    assert_eq!((engine.step("f"), engine.installed.load(Ordering::SeqCst)), (Some(0.75), installed));
    write("live.wasm", &warm(0.25));
    until("a file that was gone is watched", || engine.step("f") == Some(0.25));
    assert!(policies.put_file("g", None, Path::new("/dev/zero"), "", false).is_err());
    assert!(policies.put_file("g", None, &at("none.wasm"), "", false).is_err());
}

fn quarantine_brings_the_last_good_version_back() {
    // Traps when it sees a sequence that the self-test does not have.
    let broken = Code {
        plan: "(call $ids (local.get $view) (i32.const 64))
        (if (i32.eq (i32.load (i32.load (i32.const 64))) (i32.const 999)) (then unreachable))",
        ..Code::default()
    }
    .sampler();
    let (engine, policies) = Engine::start();
    let good = policies.put("q", None, &warm(0.5), "", false).unwrap();
    let bad = policies.put("q", None, &broken, "", false).unwrap();
    let fail = || {
        let mut samplers = engine.samplers.lock().unwrap();
        let place = samplers.position("q").unwrap();
        let sampler = &mut *samplers.get_mut(place).unwrap().sampler;
        for _ in 0..5 {
            let _ = steps::plan(sampler, &[(999, 0, 1, &[1])], &[]);
        }
    };
    fail();
    until("the good version is back", || engine.step("q") == Some(0.5));
    let status = policies.get("q").unwrap();
    assert_eq!((status.id, status.restored_from, status.state), (good.id, Some(bad.id), State::Active));
    // Without an earlier version it is left alone.
    policies.delete("q").unwrap();
    policies.put("q", None, &broken, "", false).unwrap();
    fail();
    until("it is in quarantine", || policies.get("q").unwrap().state == State::Quarantined);
    assert_eq!(engine.step("q"), None);
}
