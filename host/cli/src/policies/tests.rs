use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    policies: PolicyArgs,
}

fn resolve(flags: &[&str]) -> Result<Chosen> {
    Line::try_parse_from(["serve"].iter().chain(flags))?.policies.resolve()
}

/// All that is said about what is wrong.
fn complaint(flags: &[&str]) -> String {
    match resolve(flags) {
        Ok(_) => panic!("{flags:?} should be refused"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn nothing_is_chosen_that_was_not_named() {
    let chosen = resolve(&[]).unwrap();
    assert!(chosen.entries.is_empty() && chosen.default_sampler.is_none());
}

#[test]
fn flags_name_configure_and_enforce() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    fs::write(&config, "{\"b\": 2}").unwrap();
    let from_file = format!("fair=@{}", config.display());
    let flags =
        ["--sampler", "dry=a/dry.wasm", "--scheduler", "b/Fair.wasm", "--policy-config", "dry={\"a\": 1}"];
    let more = ["--policy-config", &from_file, "--enforcing", "dry", "--default-sampler", "dry"];
    let chosen = resolve(&[&flags[..], &more[..]].concat()).unwrap();
    let shown: Vec<_> = chosen.entries.iter().map(|e| (&*e.name, &*e.config, e.enforcing)).collect();
    assert_eq!(shown, [("dry", "{\"a\": 1}", true), ("fair", "{\"b\": 2}", false)]);
    assert_eq!(chosen.default_sampler.as_deref(), Some("dry"));
    assert_eq!(resolve(&["--default-sampler", "beam-search"]).unwrap().entries.len(), 0);
}

#[test]
fn what_is_wrong_with_a_flag_is_named() {
    let two = ["--sampler", "a=x.wasm", "--sampler", "a=y.wasm"];
    for (flags, part) in [
        (&["--sampler", "dry.wasm"][..], "--sampler"),
        (&["--policy-config", "dry={}"], "--policy-config dry"),
        (&["--sampler", "a=x.wasm", "--policy-config", "a=@/none"], "cannot read /none"),
        (&["--enforcing", "dry"], "--enforcing dry"),
        (&["--scheduler", "f.wasm", "--enforcing", "f"], "--enforcing f"),
        (&["--default-sampler", "dry"], "--default-sampler dry"),
        (&["--sampler", "grammar=x.wasm"], "--sampler grammar=x.wasm"),
        (&two, "--sampler a=y.wasm"),
        (&["--policies", "/none"], "--policies /none"),
    ] {
        let said = complaint(flags);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_file_says_the_same_as_flags() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policies.json");
    let flag = path.display().to_string();
    let digest = "AB".repeat(32);
    let text = format!(
        r#"{{"policies": [
            {{"name": "dry", "kind": "sampler", "file": "dry.wasm", "config": {{"a": 1}}, "enforcing": true}},
            {{"name": "f", "kind": "scheduler", "file": "/f.wasm", "config": "text", "sha256": "{digest}"}}
        ], "default_sampler": "dry"}}"#
    );
    fs::write(&path, text).unwrap();
    let Chosen { entries, default_sampler } = resolve(&["--policies", &flag]).unwrap();
    assert_eq!(default_sampler.as_deref(), Some("dry"));
    assert_eq!(
        (&*entries[0].config, entries[0].enforcing, entries[0].kind),
        ("{\"a\":1}", true, Kind::Sampler)
    );
    assert_eq!(entries[0].file, folder.path().join("dry.wasm"));
    assert_eq!((&*entries[1].config, entries[1].kind), ("text", Kind::Scheduler));
    assert_eq!((&*entries[1].file, entries[1].sha256.clone()), (Path::new("/f.wasm"), Some("ab".repeat(32))));

    let policy = |rest: &str| format!(r#"{{"policies": [{{"name": "a", "file": "x", {rest}}}]}}"#);
    for (text, part) in [
        ("{".to_owned(), "EOF"),
        (r#"{"policy": []}"#.to_owned(), "unknown field `policy`"),
        (policy(r#""kind": "drafter""#), "policies[0] (a): `kind`"),
        (policy(r#""kind": "sampler", "sha256": "12""#), "policies[0] (a): `sha256`"),
        (policy(r#""kind": "scheduler", "enforcing": true"#), "policies[0] (a): `enforcing`"),
        (r#"{"default_sampler": "none"}"#.to_owned(), "--default-sampler none"),
    ] {
        fs::write(&path, text).unwrap();
        let said = complaint(&["--policies", &flag]);
        assert!(said.contains(part), "{said}");
    }
}
