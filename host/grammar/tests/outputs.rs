//! Random texts that the masks let through follow their grammars, whatever the tokens are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenmill_grammar::{ATTRIBUTE, Error, Grammar, Grammars, Prepared};
use tokenmill_policy::sample::{Attributes, Columns, Knobs, Ragged, Sampler};
use tokenmill_policy::{Services, sample::Choices};

/// All single bytes, some longer pieces that cross JSON's tokens, and an end token.
struct Pieces(Vec<Vec<u8>>);

const LONG: &[&str] = &[
    "{\"",
    "\":",
    "\": ",
    "\",",
    "\"}",
    "\"}}",
    ",\"",
    "[1",
    "]]",
    "true",
    "fal",
    "null",
    "name",
    "ag",
    "age",
    " \"",
    "12",
    "e5",
    "\\u00",
    "  ",
    "é",
    "日",
    "\u{1f600}",
    "ab",
    "aab",
    "red",
    "gre",
    "en",
];

impl Pieces {
    fn new() -> Self {
        let single = (0..=255u8).map(|byte| vec![byte]);
        let long = LONG.iter().map(|piece| piece.as_bytes().to_vec());
        Self(single.chain(long).chain([Vec::new()]).collect())
    }

    fn end(&self) -> u32 {
        self.0.len() as u32 - 1
    }
}

impl Services for Pieces {
    fn log(&self, _: &str) {}

    fn vocab(&self) -> u32 {
        self.0.len() as u32
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let (mut starts, mut bytes) = (vec![0], Vec::new());
        for piece in self.0.iter().skip(first as usize).take(count as usize) {
            bytes.extend_from_slice(piece);
            starts.push(bytes.len() as u32);
        }
        (starts, bytes)
    }

    fn tokenize(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }
}

struct Asked<'a> {
    number: String,
    ends: &'a [u32],
}

impl Attributes for Asked<'_> {
    fn attribute(&self, _: usize, key: &str) -> Option<&str> {
        (key == ATTRIBUTE).then_some(&self.number)
    }

    fn stop_tokens(&self, _: usize) -> Cow<'_, [u32]> {
        self.ends.into()
    }
}

/// One sequence with a prompt of three tokens.
struct Walk {
    pieces: Pieces,
    sampler: Box<dyn Sampler>,
    prepared: Prepared,
    tokens: Vec<u32>,
    told: usize,
    ends: Vec<u32>,
}

const PROMPT: [u32; 3] = [7, 8, 9];

impl Walk {
    fn new(grammars: &Arc<Grammars>, grammar: &Grammar) -> Self {
        let pieces = Pieces::new();
        let ends = vec![pieces.end()];
        let prepared = grammars.prepare(grammar).unwrap();
        Self { pieces, sampler: grammars.sampler(), prepared, tokens: PROMPT.to_vec(), told: 0, ends }
    }

    fn columns<R>(&self, use_it: impl FnOnce(&Columns<'_>) -> R) -> R {
        let asked = Asked { number: self.prepared.attribute().1, ends: &self.ends };
        let new = &self.tokens[self.told..];
        use_it(&Columns {
            ids: &[5],
            requests: &[1],
            positions: &[self.tokens.len() as u32],
            generated: &[(self.tokens.len() - PROMPT.len()) as u32],
            accepted: Ragged { starts: &[0, new.len() as u32], values: new },
            attributes: Some(&asked),
            ..Columns::default()
        })
    }

    /// Tokens that the policy allows next; none: it ends the branch.
    fn allowed(&mut self) -> Vec<u32> {
        let mut knobs = Knobs::default();
        let mut sampler = std::mem::replace(&mut self.sampler, Box::new(Nobody));
        self.columns(|columns| sampler.plan(columns, &mut knobs)).unwrap();
        self.sampler = sampler;
        self.told = self.tokens.len();
        knobs.check(1, self.pieces.vocab()).unwrap();
        if knobs.inspect == [0] {
            return Vec::new();
        }
        let mask = &knobs.allow[0].1;
        (0..self.pieces.vocab()).filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1).collect()
    }

    fn text(&self) -> Vec<u8> {
        self.tokens[PROMPT.len()..].iter().flat_map(|&token| self.pieces.0[token as usize].clone()).collect()
    }
}

struct Nobody;
impl Sampler for Nobody {
    fn plan(
        &mut self,
        _: &dyn tokenmill_policy::sample::View,
        _: &mut Knobs,
    ) -> Result<(), tokenmill_policy::Error> {
        Ok(())
    }
}

fn grammars() -> Arc<Grammars> {
    let pieces = Pieces::new();
    Grammars::new(&pieces, &[pieces.end()]).unwrap()
}

/// Follows random numbers through the masks until the policy allows the end and the numbers want it.
fn generate(grammar: &Grammar, random: &[u16]) -> Option<Vec<u8>> {
    let mut walk = Walk::new(&grammars(), grammar);
    for &number in random {
        let allowed = walk.allowed();
        assert!(!allowed.is_empty(), "nothing can follow {:?}", String::from_utf8_lossy(&walk.text()));
        let end = walk.pieces.end();
        // Ends often, so that many walks do.
        let token = match allowed.contains(&end) && number % 3 > 0 {
            true => end,
            false => allowed[usize::from(number) % allowed.len()],
        };
        if token == end {
            return Some(walk.text());
        }
        walk.tokens.push(token);
    }
    None
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 4 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "colour": { "enum": ["red", "green"] },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 2 }
        },
        "required": ["name", "age", "colour"],
        "additionalProperties": false,
        "$defs": { "tag": { "type": "boolean" } }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_schema_holds(random in proptest::collection::vec(any::<u16>(), 200)) {
        let Some(text) = generate(&Grammar::JsonSchema(person()), &random) else { return Ok(()) };
        let value: Value = serde_json::from_slice(&text).unwrap();
        let object = value.as_object().unwrap();
        prop_assert!(object.keys().all(|key| ["name", "age", "colour", "tags"].contains(&key.as_str())));
        prop_assert!(object["name"].as_str().unwrap().chars().count() <= 4);
        prop_assert!((0..=120).contains(&object["age"].as_i64().unwrap()));
        prop_assert!(["red", "green"].contains(&object["colour"].as_str().unwrap()));
        if let Some(tags) = object.get("tags") {
            let tags = tags.as_array().unwrap();
            prop_assert!(tags.len() <= 2 && tags.iter().all(Value::is_boolean));
        }
    }

    #[test]
    fn a_regular_expression_holds(random in proptest::collection::vec(any::<u16>(), 60)) {
        let Some(text) = generate(&Grammar::Regex("a{1,3}b|[0-9]{4}-(x|é)".into()), &random) else {
            return Ok(());
        };
        let text = String::from_utf8(text).unwrap();
        let good = ["ab", "aab", "aaab"].contains(&text.as_str())
            || text.len() >= 6 && text.is_char_boundary(5) && text[..4].chars().all(|c| c.is_ascii_digit())
                && ["-x", "-é"].contains(&&text[4..]);
        prop_assert!(good, "{text}");
    }

    #[test]
    fn one_of_the_choices_comes_out(random in proptest::collection::vec(any::<u16>(), 60)) {
        let choices: Vec<String> = ["red", "re.d|", "日本", "green"].map(String::from).into();
        let text = generate(&Grammar::Choice(choices.clone()), &random);
        let text = text.map(|text| String::from_utf8(text).unwrap());
        prop_assert!(text.is_some_and(|text| choices.contains(&text)));
    }
}

#[test]
fn any_object_is_json() {
    let mut complete = 0;
    for seed in 0..50u64 {
        let random: Vec<u16> =
            (0..300u64).map(|i| (((seed * 7919 + i) * 2_654_435_761) >> 7) as u16).collect();
        if let Some(text) = generate(&Grammar::JsonObject, &random) {
            // Numbers may be too large for f64, which is no matter of grammar.
            serde_json::from_slice::<serde::de::IgnoredAny>(&text).unwrap();
            assert_eq!(text[0], b'{');
            complete += 1;
        }
    }
    assert!(complete > 0);
}

#[test]
fn a_request_without_stop_tokens_ends_when_the_text_is_complete() {
    let mut walk = Walk::new(&grammars(), &Grammar::Choice(vec!["ab".into()]));
    walk.ends.clear();
    let ab = 256 + LONG.iter().position(|piece| *piece == "ab").unwrap() as u32;
    assert_eq!(walk.allowed(), [u32::from(b'a'), ab]);
    walk.tokens.push(ab);
    assert!(walk.allowed().is_empty());
    let mut choices = Choices::default();
    let mut sampler = std::mem::replace(&mut walk.sampler, Box::new(Nobody));
    struct NoLogits;
    impl tokenmill_policy::sample::Logits for NoLogits {
        fn vocab(&self) -> u32 {
            0
        }
        fn top_k(&mut self, _: u32, _: u32) -> Result<(Vec<u32>, Vec<f32>), tokenmill_policy::Error> {
            panic!("nothing to look at")
        }
        fn read(&mut self, _: u32) -> Result<&[f32], tokenmill_policy::Error> {
            panic!("nothing to look at")
        }
    }
    walk.columns(|columns| sampler.pick(columns, &mut NoLogits, &[0], &mut choices)).unwrap();
    assert_eq!(choices.finish, [0]);
}

#[test]
fn a_sequence_that_is_shown_anew_goes_on_where_it_was() {
    let mut walk = Walk::new(&grammars(), &Grammar::Choice(vec!["red".into(), "rod".into()]));
    for byte in *b"ro" {
        walk.allowed();
        walk.tokens.push(u32::from(byte));
    }
    walk.told = 0;
    assert_eq!(walk.allowed(), [u32::from(b'd')]);
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let grammars = grammars();
    let refused = |grammar: Grammar| match grammars.prepare(&grammar).map(|_| ()) {
        Err(Error::Grammar(why)) => why,
        other => panic!("{grammar:?}: {other:?}"),
    };
    assert!(!refused(Grammar::Regex("a(".into())).is_empty());
    assert!(
        !refused(Grammar::JsonSchema(json!({ "type": "integer", "minimum": 3, "maximum": 2 }))).is_empty()
    );
    assert!(!refused(Grammar::JsonSchema(json!({ "type": "nothing" }))).is_empty());
    assert_eq!(refused(Grammar::JsonSchema(json!(7))), "a JSON schema is an object");
    assert!(refused(Grammar::Choice(vec![])).contains("at least one"));
    assert!(refused(Grammar::Regex("a".repeat(300_000))).contains("longer"));
    assert!(!refused(Grammar::JsonSchema(json!({ "$ref": "https://example.com/x.json" }))).is_empty());
    // Recursion is fine, and so is backtracking's favourite.
    let list = json!({ "type": "object", "properties": { "next": { "$ref": "#" } } });
    assert!(grammars.prepare(&Grammar::JsonSchema(list)).is_ok());
    assert!(grammars.prepare(&Grammar::Regex("(a+)+b".into())).is_ok());
}

#[test]
fn a_vocabulary_without_text_or_end_is_refused() {
    let host = tokenmill_policy::Silent { vocab: 10 };
    assert!(matches!(Grammars::new(&host, &[]), Err(Error::Vocabulary(_))));
    assert!(matches!(Grammars::new(&host, &[99]), Err(Error::Vocabulary(_))));
}
