//! `tokenmill pull` and `tokenmill models`.

use crate::{args, progress::Progress};
use anyhow::Result;
use clap::Args;
use tokenmill_models::{Cache, Dtype, ModelDir};

#[derive(Args)]
pub(crate) struct Pull {
    /// Name on the Hugging Face hub, or of a model this program knows another source for.
    name: Option<String>,
    /// Element type to store: bf16, f16 or f32.
    #[arg(long, default_value_t = Dtype::default())]
    dtype: Dtype,
}

impl Pull {
    pub(crate) fn run(self) -> Result<()> {
        let model = resolve(&args::model_or_default(self.name.as_ref()), self.dtype)?;
        println!("{} ({}) is in {}", model.name, self.dtype, model.path.display());
        Ok(())
    }
}

/// Finds a model by folder, in the cache, or by name from its sources, with a progress bar.
pub(crate) fn resolve(name_or_path: &str, dtype: Dtype) -> Result<ModelDir> {
    let cache = Cache::from_env()?;
    if let Some(model) = cache.find(name_or_path, dtype)? {
        return Ok(model);
    }
    if let Some(terms) = tokenmill_models::terms(name_or_path) {
        println!("{terms}");
    }
    let mut progress = Progress::new();
    Ok(cache.pull(name_or_path, dtype, &mut |event| progress.on_event(&event))?)
}

pub(crate) fn list() -> Result<()> {
    let models = Cache::from_env()?.list()?;
    if models.is_empty() {
        println!("no models yet: try `tokenmill pull`");
    }
    for model in models {
        println!(
            "{:40} {:6} {:8.1} MB  {}",
            model.name,
            model.dtype,
            model.bytes as f64 / 1e6,
            model.path.display()
        );
    }
    Ok(())
}
