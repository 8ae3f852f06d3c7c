//! Hostile templates and tokenizers meet the limits of a process apart. This program runs itself again as that process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use serde_json::{Map, Value, json};
use std::{env, fs, path::Path, process::Command};
use tempfile::TempDir;
use tokenmill_text::{Chat, ChatTemplate, TextError, Tokenizer, open_apart};

const MEMORY: u64 = 64 << 20;

fn main() {
    if let Some(dir) =
        env::args().nth(1).and_then(|argument| argument.strip_prefix("dir=").map(str::to_owned))
    {
        return tokenmill_text::work(Path::new(&dir)).unwrap();
    }
    honest_templates_render_as_they_do_here();
    hostile_templates_end_within_their_memory();
    a_long_conversation_may_take_more_memory_than_a_short_one();
    hostile_tokenizers_are_refused();
}

/// The fixtures' tokenizer with a template of our choice.
fn model(template: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let good =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa/tokenizer.json");
    fs::copy(good, dir.path().join("tokenizer.json")).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    dir
}

fn open(dir: &Path) -> Result<(Tokenizer, Option<ChatTemplate>), TextError> {
    let argument = format!("dir={}", dir.display());
    open_apart(dir, move || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg(&argument);
        command
    })
}

fn template(dir: &TempDir) -> ChatTemplate {
    open(dir.path()).unwrap().1.unwrap()
}

fn honest_templates_render_as_they_do_here() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m|tojson }}{{ name }}\n{% endfor %}\
        {% if add_generation_prompt %}{{ tools }}{% endif %}{% if messages[0].fail %}{{ raise_exception('No!') }}{% endif %}";
    let dir = model(source);
    let (here, apart) = (ChatTemplate::new(source, &Map::new()).unwrap(), template(&dir));
    let messages =
        [json!({"role": "user", "z": 0.1, "content": "Grüße \u{0}\n", "a": [1e300, {"b": null, "a": 1}]})];
    let extra = json!({"name": "x"});
    let chat = Chat {
        messages: &messages,
        extra: extra.as_object(),
        add_generation_prompt: true,
        ..Chat::default()
    };
    assert_eq!(apart.render(&chat).unwrap(), here.render(&chat).unwrap());
    let chat = Chat { continue_final_message: true, add_generation_prompt: false, ..chat };
    assert_eq!(apart.render(&chat).unwrap(), here.render(&chat).unwrap());
    let failing = [json!({"fail": true})];
    let error = apart.render(&Chat { messages: &failing, ..Chat::default() }).unwrap_err();
    assert!(matches!(error, TextError::Template(text) if text == "No!"));
    // A worker that died while it was idle (here: that we end) costs nobody an answer.
    let workers = children();
    assert!(!workers.is_empty());
    for worker in workers {
        assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
        while !fs::read_to_string(format!("/proc/{worker}/status")).unwrap().contains("State:\tZ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert_eq!(apart.render(&chat).unwrap(), here.render(&chat).unwrap());
    // A directory without a template is none, not an error.
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    assert!(open(dir.path()).unwrap().1.is_none());
}

/// Lists that double take almost nothing to make; each of these would take 2^60 bytes or steps to use.
fn hostile_templates_end_within_their_memory() {
    let bombs = [
        "{% set ns.s = ns.s ~ ns.s %}§{{ ns.s }}",
        "{% set ns.s = ns.s.replace('a', ns.s) %}§{{ ns.s }}",
        "{% set ns.s = ns.s|replace('a', ns.s) %}§{{ ns.s }}",
        "{% set ns.l = [ns.l, ns.l] %}§{{ ns.l }}",
        "{% set ns.l = [ns.l, ns.l] %}§{{ ns.l ~ 'x' }}",
        "{% set ns.l = [ns.l, ns.l] %}§{{ ns.l|upper }}",
        "{% set ns.l = [ns.l, ns.l] %}§{{ ns.l|tojson }}",
        "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}§{{ ns.l == ns.m }}",
        "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}§{{ {ns.l: 1}[ns.m] }}",
        "{% set ns.l = ns.l + ns.l %}§{{ ns.l }}",
        "{% set ns.l = ns.l + ns.l %}§{{ ns.l|list }}",
        "{% set ns.l = ns.l + ns.l %}§{{ ns.l|join }}",
        "{% set ns.l = ns.l + ns.l %}§{{ ns.l|sort }}",
        "{% set ns.l = ns.l + ns.l %}§{{ ns.l|unique|list }}",
        "§{{ (['a' * 10000] * 10000000) }}",
        "§{{ (['a' * 10000] * 10000000)|string }}",
        "§{{ 'x'|indent(100000000) }}{{ 1 / 0 }}",
        "§{{ ('x\n' * 1000)|indent(1000000) }}",
    ];
    for bomb in bombs {
        let (step, end) = bomb.split_once('§').unwrap();
        let source = format!(
            "{{% if messages %}}{{% set ns = namespace(s='aaaaaaaa', l=['a'], m=['a']) %}}\
             {{% for i in range(60) %}}{step}{{% endfor %}}{end}{{% endif %}}"
        );
        let dir = model(&source);
        let hostile = template(&dir);
        let messages = [json!({"role": "user", "content": "hi"})];
        let before = peak_memory();
        for _ in 0..2 {
            let rendered = hostile.render(&Chat { messages: &messages, ..Chat::default() });
            assert!(
                matches!(rendered, Err(TextError::TemplateBudget | TextError::Template(_))),
                "{bomb}: {rendered:?}"
            );
            // The worker was replaced if it had to be: the same template still serves those it does not attack.
            assert_eq!(hostile.render(&Chat::default()).unwrap(), "");
        }
        assert!(peak_memory() - before < MEMORY, "{bomb}: this process took {} more", peak_memory() - before);
    }
    assert!(largest_worker() < MEMORY, "a worker took {} bytes", largest_worker());
}

fn a_long_conversation_may_take_more_memory_than_a_short_one() {
    let dir = model("{% for m in messages %}<|{{ m.role }}|>{{ m.content|trim }}<|end|>{% endfor %}");
    let apart = template(&dir);
    let long = "word ".repeat(1 << 20);
    let messages: Vec<Value> = (0..4).map(|_| json!({"role": "user", "content": long})).collect();
    assert!(apart.render(&Chat { messages: &messages, ..Chat::default() }).unwrap().len() > 20 << 20);
}

fn hostile_tokenizers_are_refused() {
    let good = model("x");
    let path = good.path().join("tokenizer.json");
    let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let cases = [
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("decoder", json!({"type": "Strip", "content": "a", "start": 5, "stop": 5})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
    ];
    for (key, part) in cases {
        let mut json = json.clone();
        json[key] = part;
        fs::write(&path, json.to_string()).unwrap();
        assert!(matches!(open(good.path()), Err(TextError::File { .. })), "{key}");
    }
    // A tokenizer that aborts its process there is not loaded here, though this one would load.
    let good = model("x");
    for (script, words) in [("kill -ABRT $$", "signal: 6"), ("exit 3", "exit status: 3")] {
        let dying = move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        match open_apart(good.path(), dying) {
            Err(TextError::File { reason, .. }) => assert!(reason.contains(words), "{reason}"),
            _ => panic!("a process that ended with {words} was taken for a good sign"),
        }
    }
}

/// The processes this one has started.
fn children() -> Vec<String> {
    let parent = format!("PPid:\t{}\n", std::process::id());
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| fs::read_to_string(format!("/proc/{name}/status")).is_ok_and(|s| s.contains(&parent)))
        .collect()
}

/// Most memory this process has held so far, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Most memory any worker that has ended held, in bytes.
fn largest_worker() -> u64 {
    // SAFETY: all zeros is a valid rusage, and the pointer is good for the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), 0);
        usage.ru_maxrss as u64 * 1024
    }
}
