//! What a request asks for besides its prompt: every field both completion routes know, with its range.

use crate::app::{Defaults, Server};
use crate::caller::fnv1a;
use crate::error::ApiError;
use crate::fields::{Fields, Float, Int};
use crate::limits::Limits;
use crate::steering::Steering;
use serde_json::value::RawValue;
use std::collections::HashMap;
use tokenmill_engine::Params;

/// Fields of either route that are known and not supported, with the values that mean "off".
const REFUSED: &[(&str, &[&str])] = &[
    ("guided_grammar", &[]),
    ("allowed_token_ids", &[]),
    ("bad_words", &["[]"]),
    ("typical_p", &["1", "1.0"]),
    ("prompt_logprobs", &[]),
    ("truncate_prompt_tokens", &[]),
    ("spaces_between_special_tokens", &["true"]),
    ("return_tokens_as_token_ids", &["false"]),
    ("logits_processors", &["[]"]),
    ("prompt_embeds", &[]),
    ("mm_processor_kwargs", &[]),
    ("kv_transfer_params", &[]),
    ("vllm_xargs", &[]),
    ("lora_request", &[]),
];

const TEMPERATURE: Float = Float { name: "temperature", min: 0.0, max: 2.0 };
const TOP_P: Float = Float { name: "top_p", min: 0.0, max: 1.0 };
/// What `top_p: 0` means: the likeliest token alone.
const SMALLEST_TOP_P: f32 = 1e-6;
const MIN_P: Float = Float { name: "min_p", min: 0.0, max: 1.0 };
const REPETITION: Float = Float { name: "repetition_penalty", min: 0.01, max: 100.0 };
const PRESENCE: Float = Float { name: "presence_penalty", min: -2.0, max: 2.0 };
const FREQUENCY: Float = Float { name: "frequency_penalty", min: -2.0, max: 2.0 };
/// -1 and 0: off.
const TOP_K: Int = Int { name: "top_k", min: -1, max: i32::MAX as i64 };
/// Negative seeds are seeds like any other.
const SEED: Int = Int { name: "seed", min: i64::MIN, max: i64::MAX };
const PRIORITY: Int = Int { name: "priority", min: i32::MIN as i64, max: i32::MAX as i64 };
const MIN_TOKENS: Int = Int { name: "min_tokens", min: 0, max: i32::MAX as i64 };
const BIAS: f32 = 100.0;

/// The fields that mean the same for chat and text completions.
pub(crate) struct Common {
    /// Its seed is set when the request is submitted.
    pub(crate) sampling: Params,
    pub(crate) seed: Option<u64>,
    pub(crate) n: u32,
    pub(crate) min_tokens: u32,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) return_ids: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: u64,
    pub(crate) stream: Option<Streaming>,
    pub(crate) steering: Steering,
}

/// `stream: true` and its options.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Streaming {
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
}

impl Common {
    pub(crate) fn read(fields: &Fields<'_>, server: &Server) -> Result<Self, ApiError> {
        let (app, limits) = (&server.app, &server.app.limits);
        fields.refuse(REFUSED)?;
        let vocab = app.engine.limits().vocab;
        let n = Int { name: "n", min: 1, max: i64::from(limits.n.min(app.engine.limits().max_branches)) };
        let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
        let mut stop_tokens = stop_token_ids(fields, vocab, limits)?;
        if !ignore_eos {
            stop_tokens.extend_from_slice(&app.card.end_tokens);
        }
        let stops = stop_strings(fields, limits)?;
        if app.tokenizer.is_none() && !stops.is_empty() {
            return Err(ApiError::invalid(
                "stop",
                "`stop` needs a tokenizer, and this server runs without one",
            ));
        }
        let n = fields.int(n)?.unwrap_or(1) as u32;
        Ok(Self {
            steering: Steering::read(fields, app, n)?,
            sampling: sampling(fields, &app.defaults, vocab, limits)?,
            seed: fields.int(SEED)?.map(|seed| seed as u64),
            n,
            min_tokens: fields.int(MIN_TOKENS)?.unwrap_or(0) as u32,
            stops,
            stop_tokens,
            include_stop: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
            skip_special: fields.flag("skip_special_tokens")?.unwrap_or(true),
            return_ids: fields.flag("return_token_ids")?.unwrap_or(false) || app.tokenizer.is_none(),
            priority: fields.int(PRIORITY)?.unwrap_or(0) as i32,
            cache_salt: cache_salt(fields)?,
            stream: streaming(fields)?,
        })
    }
}

fn sampling(
    fields: &Fields<'_>,
    defaults: &Defaults,
    vocab: u32,
    limits: &Limits,
) -> Result<Params, ApiError> {
    let off = Params::default();
    let top_p = fields.float(TOP_P)?.or(defaults.top_p).unwrap_or(off.top_p);
    let top_k = fields.int(TOP_K)?.map(|k| k.max(0) as u32);
    Ok(Params {
        temperature: fields.float(TEMPERATURE)?.or(defaults.temperature).unwrap_or(off.temperature),
        top_p: top_p.max(SMALLEST_TOP_P),
        min_p: fields.float(MIN_P)?.or(defaults.min_p).unwrap_or(off.min_p),
        repetition: fields.float(REPETITION)?.or(defaults.repetition_penalty).unwrap_or(off.repetition),
        presence: fields.float(PRESENCE)?.unwrap_or(off.presence),
        frequency: fields.float(FREQUENCY)?.unwrap_or(off.frequency),
        top_k: top_k.or(defaults.top_k).unwrap_or(off.top_k),
        seed: off.seed,
        logit_bias: logit_bias(fields, vocab, limits)?,
    })
}

fn stop_strings(fields: &Fields<'_>, limits: &Limits) -> Result<Vec<String>, ApiError> {
    let Some(raw) = fields.raw("stop") else { return Ok(Vec::new()) };
    let stops = if raw.get().starts_with('"') {
        fields.text("stop")?.into_iter().collect()
    } else {
        fields.get::<Vec<String>>("stop", "a string or a list of strings")?.unwrap_or_default()
    };
    let (strings, bytes) = (limits.stop_strings, limits.stop_bytes);
    if stops.len() > strings || stops.iter().any(|stop| stop.is_empty() || stop.len() > bytes) {
        let message = format!("`stop` takes at most {strings} strings of 1 to {bytes} bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stops)
}

fn stop_token_ids(fields: &Fields<'_>, vocab: u32, limits: &Limits) -> Result<Vec<u32>, ApiError> {
    let ids = fields.get::<Vec<u32>>("stop_token_ids", "a list of token ids")?.unwrap_or_default();
    if ids.len() > limits.stop_token_ids || ids.iter().any(|&id| id >= vocab) {
        let message = format!("`stop_token_ids` takes at most {} ids below {vocab}", limits.stop_token_ids);
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(ids)
}

fn logit_bias(fields: &Fields<'_>, vocab: u32, limits: &Limits) -> Result<Vec<(u32, f32)>, ApiError> {
    let refusal = || {
        let most = limits.logit_bias;
        let message = format!(
            "`logit_bias` maps at most {most} token ids below {vocab} to numbers from -{BIAS} to {BIAS}"
        );
        ApiError::invalid("logit_bias", message)
    };
    let Some(raw) = fields.raw("logit_bias") else { return Ok(Vec::new()) };
    if crate::json::measure(raw.get().as_bytes(), limits.json_depth).values > limits.logit_bias + 2 {
        return Err(refusal());
    }
    let map: HashMap<String, f32> = serde_json::from_str(raw.get()).map_err(|_| refusal())?;
    let mut bias = Vec::with_capacity(map.len());
    for (id, value) in map {
        match id.parse::<u32>() {
            Ok(id) if id < vocab && value.abs() <= BIAS => bias.push((id, value)),
            _ => return Err(refusal()),
        }
    }
    if bias.len() > limits.logit_bias {
        return Err(refusal());
    }
    bias.sort_unstable_by_key(|&(id, _)| id);
    Ok(bias)
}

/// Requests with different salts share no cached prefix.
fn cache_salt(fields: &Fields<'_>) -> Result<u64, ApiError> {
    let Some(salt) = fields.text("cache_salt")? else { return Ok(0) };
    if salt.is_empty() || salt.len() > 256 {
        return Err(ApiError::invalid("cache_salt", "`cache_salt` must be a string of 1 to 256 bytes"));
    }
    Ok(fnv1a(salt.as_bytes()))
}

fn streaming(fields: &Fields<'_>) -> Result<Option<Streaming>, ApiError> {
    let name = "stream_options";
    let stream = fields.flag("stream")?.unwrap_or(false);
    let options: Option<HashMap<String, &RawValue>> = fields.get(name, "an object")?;
    let Some(options) = options else { return Ok(stream.then(Streaming::default)) };
    if !stream {
        return Err(ApiError::invalid(name, "`stream_options` is only allowed with `stream: true`"));
    }
    let flag = |key: &str| match options.get(key).map_or("null", |raw| raw.get()) {
        "true" => Ok(true),
        "false" | "null" => Ok(false),
        _ => Err(ApiError::invalid(name, format!("`stream_options.{key}` must be true or false"))),
    };
    Ok(Some(Streaming {
        include_usage: flag("include_usage")?,
        continuous_usage: flag("continuous_usage_stats")?,
    }))
}
