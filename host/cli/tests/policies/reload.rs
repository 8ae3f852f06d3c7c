//! New versions while requests run.

use crate::guests::always;
use crate::server::{Server, Stream};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn requests_finish_on_the_version_they_began_with() {
    let server = Server::start(&["--backend-option", "step_us=5000", "--backend-option", "context=1024"]);
    server.put("mine", &always(7));
    let mut old = Stream::begin(&server.address, "mine", 200);
    assert_eq!(old.next(), Some(Ok(vec![7])));
    assert_eq!(server.put("mine", &always(9)).status, 200);
    assert_eq!(server.tokens(Some("mine"), 10), [9; 10]);
    let mut rest = Vec::new();
    server.operate("DELETE", "/admin/policies/mine");
    while let Some(tokens) = old.next() {
        rest.extend(tokens.unwrap());
    }
    assert_eq!(rest, [7; 199]);
}

#[test]
fn a_changed_file_is_a_new_version() {
    let folder = tempfile::tempdir().unwrap();
    let (file, new) = (folder.path().join("mine.wasm"), folder.path().join("new"));
    fs::write(&file, always(7)).unwrap();
    let server = Server::start(&["--sampler", &format!("mine={}", file.display())]);
    assert_eq!(server.tokens(Some("mine"), 4), [7; 4]);

    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    fs::write(&new, always(9)).unwrap();
    fs::rename(&new, &file).unwrap();
    wait("the new version", &|| server.tokens(Some("mine"), 4) == [9; 4]);
    // In place, and broken: the old one stays, and the operator can see why.
    fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
    let error = || server.operate("GET", "/admin/policies/mine").json()["last_error"].clone();
    wait("the error", &|| error().as_str().is_some_and(|error| error.contains("core module")));
    assert_eq!(server.tokens(Some("mine"), 4), [9; 4]);
    fs::write(&file, always(7)).unwrap();
    wait("the repaired version", &|| server.tokens(Some("mine"), 4) == [7; 4]);
    assert!(error().is_null());
}

/// P11 of the security notes, over HTTP.
#[test]
fn a_thousand_versions_pass_under_64_live_streams_without_a_failed_request() {
    let server = Server::start(&[]);
    let versions = [always(7), always(9)];
    let by = |tokens: &[u64], version| tokens.iter().filter(|token| **token == version).count();
    assert_eq!(server.put("mine", &versions[0]).status, 200);
    let (stop, answers, live) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let stream = || {
        while !stop.load(Ordering::Relaxed) {
            let mut stream = Stream::begin(&server.address, "mine", 100);
            let first = stream.next().unwrap().unwrap();
            live.fetch_add(1, Ordering::Relaxed);
            let all = [first, stream.rest().unwrap()].concat();
            assert_eq!(all.len(), 100);
            // One version from its first token to its last. On a machine as busy as this a call may come too
            // late, which makes it a default's token and no failure.
            let (seven, nine) = (by(&all, 7), by(&all, 9));
            assert!(seven.min(nine) <= 1 && seven.max(nine) > 50, "{all:?}");
            answers.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..64).map(|_| scope.spawn(stream)).collect();
        while live.load(Ordering::Relaxed) < 64 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let puts: Vec<_> = (1..=1000).map(|version| server.put("mine", &versions[version % 2])).collect();
        stop.store(true, Ordering::Relaxed);
        streams.into_iter().for_each(|stream| stream.join().unwrap());
        puts.iter().for_each(|put| assert_eq!(put.status, 200, "{}", put.body));
    });
    assert!(answers.load(Ordering::Relaxed) >= 64);
    assert_eq!(server.tokens(Some("mine"), 4), [7; 4]);
}
