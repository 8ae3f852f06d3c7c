//! Which policy samples a request, and what it is told: `policy`, beam search, and the fields that ask for
//! a form of the output.

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, Float, Int};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use tokenmill_grammar::{Grammar, SAMPLER as GRAMMAR, within};

/// The sampling policy behind `use_beam_search`.
const BEAM_SEARCH: &str = "beam-search";
/// Arguments of a policy: how many, and bytes in total.
const MAX_ARGS: usize = 64;
const MAX_ARGS_BYTES: usize = 16 << 10;
const LENGTH_PENALTY: Float = Float { name: "length_penalty", min: -10.0, max: 10.0 };

/// What a request says about policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Steering {
    pub(crate) sampler: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
    /// Branches that a policy may have at a time; 0: as many as the request begins with.
    pub(crate) branches: u32,
    /// The form of the output, to be compiled before the request is submitted.
    pub(crate) grammar: Option<Grammar>,
    /// Choices are the branches with the largest log-probability / length^this.
    pub(crate) ranking: Option<f64>,
}

impl Steering {
    /// `n` is the number of choices to show.
    pub(crate) fn read(fields: &Fields<'_>, app: &App, n: u32) -> Result<Self, ApiError> {
        let grammar = grammar(fields)?;
        let policy = policy(fields, app, n)?;
        let beams = beam_search(fields, app, n)?;
        if beams.is_some() && (policy.is_some() || grammar.is_some()) {
            let message = "`use_beam_search` cannot be combined with `policy` or a form of the output";
            return Err(ApiError::invalid("use_beam_search", message));
        }
        let Some((field, grammar)) = grammar else {
            return Ok(policy
                .or(beams)
                .unwrap_or_else(|| Self { sampler: app.default_sampler.clone(), ..Self::default() }));
        };
        if app.grammars.is_none() {
            let message = format!("`{field}` needs a tokenizer with an end token");
            return Err(ApiError::invalid(field, message));
        }
        let policy =
            policy.unwrap_or_else(|| Self { sampler: app.default_sampler.clone(), ..Self::default() });
        let sampler = match &policy.sampler {
            None => GRAMMAR.to_owned(),
            Some(name) => within_form(name, app)?,
        };
        Ok(Self { sampler: Some(sampler), grammar: Some(grammar), ..policy })
    }
}

/// The policy that a request names, within the form that it asks for.
fn within_form(name: &str, app: &App) -> Result<String, ApiError> {
    let both = within(name);
    if app.engine.samplers().contains(&both) {
        return Ok(both);
    }
    Err(ApiError::invalid("policy", format!("`policy.sampler` names {name:?}, which is not loaded")))
}

/// `{"sampler": NAME, "args": {…}, "branches": N}`
fn policy(fields: &Fields<'_>, app: &App, n: u32) -> Result<Option<Steering>, ApiError> {
    let invalid = |message: String| ApiError::invalid("policy", message);
    let expected = "an object with `sampler`, `args` and `branches`";
    let Some(policy) = fields.get::<HashMap<String, &RawValue>>("policy", expected)? else { return Ok(None) };
    if let Some(unknown) = policy.keys().find(|key| !["sampler", "args", "branches"].contains(&key.as_str()))
    {
        return Err(invalid(format!("`policy` has no field {unknown:?}; it is {expected}")));
    }
    let part = |name: &str| policy.get(name).map(|raw| raw.get()).filter(|text| *text != "null");
    let sampler = match part("sampler").map(serde_json::from_str::<String>) {
        None => app.default_sampler.clone(),
        Some(Ok(name)) if app.default_sampler.as_ref().is_none_or(|default| *default == name) => Some(name),
        Some(Ok(_)) => return Err(invalid("the sampling policy of this server is fixed".into())),
        Some(Err(_)) => return Err(invalid("`policy.sampler` must be a string".into())),
    };
    if sampler.as_ref().is_some_and(|name| name.split('+').next() == Some(GRAMMAR)) {
        return Err(invalid(format!("{GRAMMAR:?} is chosen by `response_format` or `structured_outputs`")));
    }
    let most = app.limits.n.min(app.engine.limits().max_branches);
    let branches = match part("branches").map(str::parse::<u32>) {
        None => 0,
        Some(Ok(branches)) if (n..=most).contains(&branches) => branches,
        Some(_) => {
            return Err(invalid(format!("`policy.branches` must be a whole number from {n} to {most}")));
        }
    };
    let attributes = args(part("args")).map_err(invalid)?;
    let ranking = (branches > n).then_some(1.0);
    Ok(Some(Steering { sampler, attributes, branches, ranking, ..Steering::default() }))
}

/// Strings as they are, anything else as JSON; `null` is the same as a missing argument.
fn args(raw: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.len() > MAX_ARGS_BYTES {
        return Err(format!("`policy.args` has more than {MAX_ARGS_BYTES} bytes"));
    }
    let args: BTreeMap<String, Value> =
        serde_json::from_str(raw).map_err(|_| "`policy.args` must be an object".to_owned())?;
    if args.len() > MAX_ARGS {
        return Err(format!("`policy.args` has more than {MAX_ARGS} members"));
    }
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let given = args.into_iter().filter(|(_, value)| !value.is_null());
    Ok(given.map(|(key, value)| (key, text(value))).collect())
}

/// As in vLLM: `n` beams, or `best_of` of them; greedy, whatever the temperature.
fn beam_search(fields: &Fields<'_>, app: &App, n: u32) -> Result<Option<Steering>, ApiError> {
    let penalty = fields.float(LENGTH_PENALTY)?.map_or(1.0, f64::from);
    let early = match fields.raw("early_stopping").map_or("false", RawValue::get) {
        early @ ("false" | "true" | "\"never\"") => early.trim_matches('"'),
        _ => {
            let message = "`early_stopping` must be true, false or \"never\"";
            return Err(ApiError::invalid("early_stopping", message));
        }
    };
    if !fields.flag("use_beam_search")?.unwrap_or(false) {
        return match (penalty == 1.0, early == "false") {
            (true, true) => Ok(None),
            (false, _) => Err(needs_beams("length_penalty")),
            (_, false) => Err(needs_beams("early_stopping")),
        };
    }
    if app.default_sampler.is_some() {
        let message = "`use_beam_search` cannot be combined with the policy of this server";
        return Err(ApiError::invalid("use_beam_search", message));
    }
    if !app.engine.samplers().iter().any(|name| name == BEAM_SEARCH) {
        return Err(ApiError::unsupported("use_beam_search"));
    }
    if fields.flag("stream")?.unwrap_or(false) {
        let message = "`use_beam_search` cannot be streamed: the best answer is known at the end";
        return Err(ApiError::invalid("use_beam_search", message));
    }
    let most = app.limits.n.min(app.engine.limits().max_branches);
    let width = Int { name: "best_of", min: i64::from(n), max: i64::from(most) };
    let width = fields.int(width)?.map_or(n, |width| width as u32);
    let attributes = [
        ("width", width.to_string()),
        ("length_penalty", penalty.to_string()),
        ("early_stopping", early.to_owned()),
    ];
    Ok(Some(Steering {
        sampler: Some(BEAM_SEARCH.to_owned()),
        attributes: attributes.map(|(key, value)| (key.to_owned(), value)).into(),
        branches: width,
        grammar: None,
        ranking: Some(penalty),
    }))
}

fn needs_beams(name: &'static str) -> ApiError {
    ApiError::invalid(name, format!("`{name}` needs `use_beam_search: true`"))
}

/// The field that asks for a form of the output, and the form.
fn grammar(fields: &Fields<'_>) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let mut asked = [
        response_format(fields)?.map(|form| ("response_format", form)),
        structured(fields)?.map(|form| ("structured_outputs", form)),
        schema(fields, "guided_json")?.map(|form| ("guided_json", form)),
        fields.text("guided_regex")?.map(|regex| ("guided_regex", Grammar::Regex(regex))),
        choice(fields)?.map(|form| ("guided_choice", form)),
    ]
    .into_iter()
    .flatten();
    let first = asked.next();
    match asked.next() {
        Some((second, _)) => {
            let message = format!("`{second}` asks for a second form of the output; only one can hold");
            Err(ApiError::invalid(second, message))
        }
        None => Ok(first),
    }
}

/// `{"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": {…}}}`
fn response_format(fields: &Fields<'_>) -> Result<Option<Grammar>, ApiError> {
    let name = "response_format";
    let expected = "an object with `type`: \"text\", \"json_object\" or \"json_schema\"";
    let refusal = |message: String| ApiError::invalid(name, message);
    let Some(format) = fields.get::<BTreeMap<String, Value>>(name, expected)? else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => {
            let wrapper = format.get("json_schema").and_then(Value::as_object);
            let schema = wrapper.and_then(|wrapper| wrapper.get("schema").or_else(|| wrapper.get("schema_")));
            let missing = || refusal("`response_format.json_schema.schema` is missing".to_owned());
            Ok(Some(Grammar::JsonSchema(schema.ok_or_else(missing)?.clone())))
        }
        _ => Err(refusal(format!("`{name}` must be {expected}"))),
    }
}

/// vLLM's `{"json" | "regex" | "choice" | "json_object": …}`
fn structured(fields: &Fields<'_>) -> Result<Option<Grammar>, ApiError> {
    let name = "structured_outputs";
    let expected = "an object with one of `json`, `regex`, `choice` and `json_object`";
    let refusal = || ApiError::invalid(name, format!("`{name}` must be {expected}"));
    let Some(mut asked) = fields.get::<BTreeMap<String, Value>>(name, expected)? else { return Ok(None) };
    asked.retain(|_, value| !value.is_null());
    let mut asked = asked.into_iter();
    let (Some((kind, value)), None) = (asked.next(), asked.next()) else { return Err(refusal()) };
    Ok(Some(match (kind.as_str(), value) {
        ("json", Value::String(text)) => {
            Grammar::JsonSchema(serde_json::from_str(&text).map_err(|_| refusal())?)
        }
        ("json", schema) => Grammar::JsonSchema(schema),
        ("json_object", Value::Bool(true)) => Grammar::JsonObject,
        ("regex", Value::String(regex)) => Grammar::Regex(regex),
        ("choice", texts) => Grammar::Choice(serde_json::from_value(texts).map_err(|_| refusal())?),
        _ => return Err(refusal()),
    }))
}

/// A schema, or its text.
fn schema(fields: &Fields<'_>, name: &'static str) -> Result<Option<Grammar>, ApiError> {
    let expected = "a JSON schema";
    let schema = match fields.get::<Value>(name, expected)? {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|_| ApiError::invalid(name, format!("`{name}` must be {expected}")))?,
        Some(schema) => schema,
    };
    Ok(Some(Grammar::JsonSchema(schema)))
}

fn choice(fields: &Fields<'_>) -> Result<Option<Grammar>, ApiError> {
    Ok(fields.get::<Vec<String>>("guided_choice", "a list of strings")?.map(Grammar::Choice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;
    use tokenmill_policy::sample::{Knobs, View};
    use tokenmill_policy::{Error, Named, Sampler};

    struct Beams;
    impl Sampler for Beams {
        fn plan(&mut self, _: &dyn View, _: &mut Knobs) -> Result<(), Error> {
            Ok(())
        }
    }

    fn read(body: Value) -> Result<Steering, (String, String)> {
        let server = testing::server("", |_| {});
        let sampler = Box::new(Beams);
        server.app.engine.install_sampler(Named { name: BEAM_SEARCH.into(), sampler, enforcing: false });
        let body = body.to_string();
        let fields = Fields::parse(body.as_bytes(), &server.app.limits).unwrap();
        Steering::read(&fields, &server.app, 2)
            .map_err(|error| (error.param.clone().unwrap_or_default(), error.message.clone()))
    }

    #[test]
    fn arguments_reach_the_policy_as_text() {
        let args = json!({"a": "x", "b": 1.5, "c": [1, 2], "d": null, "e": true});
        let steering = read(json!({"policy": {"sampler": "mine", "args": args, "branches": 4}})).unwrap();
        assert_eq!((steering.sampler.as_deref(), steering.branches), (Some("mine"), 4));
        let pairs = [("a", "x"), ("b", "1.5"), ("c", "[1,2]"), ("e", "true")];
        assert_eq!(steering.attributes, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(steering.ranking, Some(1.0));
        assert_eq!(read(json!({})), Ok(Steering::default()));
        assert_eq!(read(json!({"use_beam_search": false, "policy": null})), Ok(Steering::default()));
    }

    #[test]
    fn beam_search_is_a_policy() {
        let body =
            json!({"use_beam_search": true, "best_of": 4, "length_penalty": 0.5, "early_stopping": true});
        let steering = read(body).unwrap();
        assert_eq!((steering.sampler.as_deref(), steering.branches), (Some("beam-search"), 4));
        assert_eq!(steering.ranking, Some(0.5));
        let value = |key: &str| steering.attributes.iter().find(|(name, _)| name == key).unwrap().1.clone();
        assert_eq!((value("width"), value("length_penalty")), ("4".into(), "0.5".into()));
        assert_eq!(value("early_stopping"), "true");
    }

    #[test]
    fn the_wrong_field_is_named() {
        let long = "x".repeat(20_000);
        let many: BTreeMap<String, u32> = (0..70).map(|i| (i.to_string(), i)).collect();
        for (body, param) in [
            (json!({"policy": 7}), "policy"),
            (json!({"policy": {"sampler": 7}}), "policy"),
            (json!({"policy": {"smapler": "x"}}), "policy"),
            (json!({"policy": {"branches": 1}}), "policy"),
            (json!({"policy": {"branches": -1}}), "policy"),
            (json!({"policy": {"branches": 1_000_000}}), "policy"),
            (json!({"policy": {"args": []}}), "policy"),
            (json!({"policy": {"args": {"a": long}}}), "policy"),
            (json!({"policy": {"args": many}}), "policy"),
            (json!({"policy": {"sampler": "grammar"}}), "policy"),
            (json!({"policy": {"sampler": "grammar+a"}}), "policy"),
            (json!({"policy": {"sampler": "a"}, "use_beam_search": true}), "use_beam_search"),
            (json!({"use_beam_search": 1}), "use_beam_search"),
            (json!({"use_beam_search": true, "stream": true}), "use_beam_search"),
            (json!({"use_beam_search": true, "best_of": 1}), "best_of"),
            (json!({"length_penalty": 2}), "length_penalty"),
            (json!({"length_penalty": "2"}), "length_penalty"),
            (json!({"early_stopping": "always"}), "early_stopping"),
            (json!({"early_stopping": true}), "early_stopping"),
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format"),
            (json!({"response_format": "json"}), "response_format"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
            (json!({"structured_outputs": {"grammar": "a"}}), "structured_outputs"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_regex": 7}), "guided_regex"),
            (json!({"guided_choice": "a"}), "guided_choice"),
            (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice"),
            // This server has no tokenizer.
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
        ] {
            let (named, message) = read(body.clone()).unwrap_err();
            assert_eq!(named, param, "{body}: {message}");
        }
    }

    #[test]
    fn one_form_is_spelled_in_several_ways() {
        let schema = json!({"type": "object"});
        let form = |body: Value| {
            let body = body.to_string();
            let limits = crate::limits::Limits::default();
            grammar(&Fields::parse(body.as_bytes(), &limits).unwrap()).unwrap().unwrap().1
        };
        let expected = Grammar::JsonSchema(schema.clone());
        let openai = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        assert_eq!(form(json!({"response_format": openai})), expected);
        assert_eq!(form(json!({"structured_outputs": {"json": schema, "regex": null}})), expected);
        assert_eq!(form(json!({"guided_json": schema.to_string()})), expected);
        assert_eq!(form(json!({"response_format": {"type": "json_object"}})), Grammar::JsonObject);
        let choice = Grammar::Choice(vec!["a".into(), "b".into()]);
        assert_eq!(form(json!({"structured_outputs": {"choice": ["a", "b"]}})), choice);
        assert_eq!(form(json!({"guided_choice": ["a", "b"]})), choice);
        assert_eq!(form(json!({"guided_regex": "a"})), Grammar::Regex("a".into()));
    }
}
