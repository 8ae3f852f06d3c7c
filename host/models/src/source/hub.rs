//! The Hugging Face hub. Only files on an allow list are fetched: no code, no pickle.
use crate::{Dtype, Event, ModelsError, OnEvent, weights};
use hf_hub::api::{
    Progress, RepoInfo,
    sync::{ApiBuilder, ApiError, ApiRepo},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long the hub may take to say which files a model has.
const PATIENCE: Duration = Duration::from_secs(4);

/// Files a model directory may have besides its weights.
const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

pub(crate) enum Outcome {
    Fetched(PathBuf),
    /// The hub answered that it has no such model for us.
    Missing(String),
    /// The hub did not answer (in time), with the reason.
    Silent(String),
}

pub(crate) fn fetch(
    name: &str,
    dtype: Dtype,
    scratch: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<Outcome, ModelsError> {
    let builder =
        ApiBuilder::from_env().with_cache_dir(scratch.join("hub")).with_progress(false).with_retries(2);
    // The client itself only reads the file that `huggingface-cli login` writes.
    let builder = match env::var("HF_TOKEN") {
        Ok(token) if !token.trim().is_empty() => builder.with_token(Some(token.trim().to_string())),
        _ => builder,
    };
    let api = match builder.build() {
        Ok(api) => api,
        Err(e) => return Ok(Outcome::Silent(e.to_string())),
    };
    let repo = api.model(name.to_string());
    let info = match ask(api.model(name.to_string())) {
        Answer::Info(info) => info,
        Answer::No(reason) => return Ok(Outcome::Missing(reason)),
        Answer::Nothing(reason) => return Ok(Outcome::Silent(reason)),
    };
    let folder = scratch.join("model");
    fs::create_dir(&folder).map_err(|e| ModelsError::cache(&folder, e))?;
    let names: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).filter(|n| wanted(n)).collect();
    if !names.iter().any(|n| n.ends_with(".safetensors")) {
        return Err(ModelsError::NotFound {
            name: name.into(),
            reason: "it has no safetensors weights".into(),
        });
    }
    for file in names {
        let unavailable =
            |e: String| ModelsError::Unavailable { name: name.into(), reason: format!("{file}: {e}") };
        let refused = |e: ApiError| match status(&e) {
            Some(401 | 403) => unavailable(format!(
                "the hub shows the model, but not this file ({e}): accept the model's terms there and set HF_TOKEN"
            )),
            _ => unavailable(e.to_string()),
        };
        let bar = Bar { on_event: &mut *on_event, phase: format!("download {file}"), done: 0, total: 0 };
        let link = repo.download_with_progress(file, bar).map_err(refused)?;
        let blob = link.canonicalize().map_err(|e| unavailable(e.to_string()))?;
        fs::rename(blob, folder.join(file)).map_err(|e| ModelsError::cache(&folder, e))?;
    }
    weights::set_dtype(&folder, dtype, on_event)?;
    Ok(Outcome::Fetched(folder))
}

/// Top-level weights and the files on the list; nothing in sub-folders.
fn wanted(file: &str) -> bool {
    let weights = file.ends_with(".safetensors") || file == "model.safetensors.index.json";
    // Some repositories hold the weights a second time in their own layout.
    let second = file.starts_with("consolidated");
    !file.contains(['/', '\\']) && !file.starts_with('.') && !second && (weights || FILES.contains(&file))
}

enum Answer {
    Info(RepoInfo),
    /// The hub says there is no such model (or none for us).
    No(String),
    Nothing(String),
}

/// Asks on a thread of its own: name look-up, proxies and TLS each have time-outs longer than our patience.
/// A thread that gets its answer late just ends.
fn ask(repo: ApiRepo) -> Answer {
    let (send, answer) = mpsc::channel();
    let asking = thread::Builder::new().name("hub".into()).spawn(move || send.send(repo.info()));
    if let Err(e) = asking {
        return Answer::Nothing(e.to_string());
    }
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(info)) => Answer::Info(info),
        Ok(Err(e)) => match status(&e) {
            Some(401 | 403 | 404) => Answer::No(format!(
                "the Hugging Face hub refuses it ({e}): a wrong name, or one that needs HF_TOKEN"
            )),
            _ => Answer::Nothing(format!("the Hugging Face hub does not answer: {e}")),
        },
        Err(_) => {
            Answer::Nothing(format!("the Hugging Face hub does not answer within {} s", PATIENCE.as_secs()))
        }
    }
}

/// The HTTP status inside an error of the client, which only tells it in words ("http status: 404").
fn status(error: &ApiError) -> Option<u16> {
    let text = error.to_string();
    text.split_once("http status: ")?.1.get(..3)?.parse().ok()
}

struct Bar<'a, 'b> {
    on_event: &'a mut OnEvent<'b>,
    phase: String,
    done: u64,
    total: u64,
}

impl Progress for Bar<'_, '_> {
    fn init(&mut self, size: usize, _: &str) {
        self.total = size as u64;
        self.update(0);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.on_event)(Event::Progress { phase: &self.phase, done: self.done, total: Some(self.total) });
    }

    fn finish(&mut self) {}
}
