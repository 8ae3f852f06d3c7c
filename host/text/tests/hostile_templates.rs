//! Hostile chat templates end in an error, soon, and without taking memory.
#![allow(clippy::unwrap_used)]
use serde_json::{Map, json};
use tokenmill_text::{Chat, ChatTemplate, TextError};

fn render(source: &str) -> Result<String, TextError> {
    let messages = [json!({"role": "user", "content": "hi"})];
    ChatTemplate::new(source, &Map::new())?.render(&Chat { messages: &messages, ..Chat::default() })
}

#[test]
fn loops_and_memory_bombs_run_out_of_budget() {
    let doubling = "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
    let replace = "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', 'aaaa') %}{% endfor %}";
    let filter = replace.replace(".replace('a', 'aaaa')", "|replace('a', 'aaaa')");
    let join = "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}{% endfor %}";
    let json =
        "{% set ns = namespace(s='\"') %}{% for i in range(60) %}{% set ns.s = ns.s|tojson %}{% endfor %}";
    let format = "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = '%s%s' | format(ns.s, ns.s) %}{% endfor %}";
    let date = "{% for i in range(100000) %}{{ strftime_now('%Y' * 10000) }}{% endfor %}";
    let nested = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
    for source in [doubling, replace, &filter, join, json, format, date, nested] {
        assert!(matches!(render(source), Err(TextError::TemplateBudget)), "{source}");
    }
}

/// One step that would take gigabytes from megabytes that were paid for.
#[test]
fn one_step_cannot_take_more_than_the_budget() {
    let big = "{% set s = 'a' * 1000000 %}";
    for step in [
        "{{ s.replace('a', s) }}",
        "{{ s|replace('a', s) }}",
        "{{ s.join(s) }}",
        "{{ s|join(s) }}",
        "{{ ([s] * 10000)|tojson }}",
        "{{ ('{}' * 10000).format(s) }}",
        "{{ ('{0}' * 10000).format(s) }}",
        "{{ (s * 20).split('a') }}",
        "{{ (s * 20)|list }}",
        "{{ (s * 20)|split('a') }}",
    ] {
        let rendered = render(&format!("{big}{step}"));
        let length = rendered.as_ref().map_or(0, String::len);
        assert!(length <= 30 << 20, "{step}: {length} bytes");
        let failed = matches!(rendered, Err(TextError::TemplateBudget | TextError::Template(_)));
        assert!(failed || length < 1 << 20, "{step}");
    }
}

/// These stop one way or another: an error, or a small result.
#[test]
fn single_huge_steps_are_refused() {
    for source in [
        "{{ 'a' * 100000000000 }}",
        "{{ 'x'|indent(100000000) }}",
        "{{ range(100000000000)|list }}",
        "{{ [1] * 100000000000 }}",
        "{{ '%100000000000d' | format(1) }}",
        "{{ '{:>100000000000}'.format(1) }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ messages|tojson(indent=100000000) }}",
    ] {
        let length = render(source).map_or(0, |text| text.len());
        assert!(length < 1 << 20, "{source}: {length} bytes");
    }
}

#[test]
fn recursion_and_deep_nesting_are_errors() {
    let (parens, close) = ("(".repeat(100_000), ")".repeat(100_000));
    let (ifs, ends) = ("{% if true %}".repeat(20_000), "{% endif %}".repeat(20_000));
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_string(),
        format!("{{{{ {parens}1{close} }}}}"),
        format!("{ifs}x{ends}"),
    ] {
        assert!(render(&source).is_err());
    }
}

/// Found by the property test of damaged templates: the tag's opening and closing share their percent sign.
#[test]
fn a_tag_of_one_percent_sign_is_an_error() {
    for source in ["{%}", "{%} x %}", "a {%}{% if true %}b{% endif %}"] {
        assert!(matches!(render(source), Err(TextError::Template(_))), "{source}");
    }
}

#[test]
fn templates_reach_no_files_and_their_own_message_comes_through() {
    for source in
        ["{% include '/etc/passwd' %}", "{% import '/etc/passwd' as x %}", "{% extends '/etc/passwd' %}"]
    {
        assert!(matches!(render(source), Err(TextError::Template(_))), "{source}");
    }
    assert!(matches!(render("{{ messages[0].nothing.more }}"), Err(TextError::Template(_))));
    assert!(matches!(render("{{ raise_exception('No!') }}"), Err(TextError::Template(m)) if m == "No!"));
}

#[test]
fn a_long_honest_conversation_stays_within_budget() {
    let turn =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}";
    let template = ChatTemplate::new(turn, &Map::new()).unwrap();
    let long = "word ".repeat(200_000);
    let messages: Vec<_> =
        (0..2000).map(|i| json!({"role": "user", "content": format!("turn {i}")})).collect();
    assert!(template.render(&Chat { messages: &messages, ..Chat::default() }).is_ok());
    let messages: Vec<_> = (0..4).map(|_| json!({"role": "user", "content": long})).collect();
    assert!(template.render(&Chat { messages: &messages, ..Chat::default() }).is_ok());
}
