//! Compiled policies of earlier runs. Only files that this program wrote are read back.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::Error;
use crate::artifact::Artifact;

/// A folder that nobody else can write to. A file is named after the component's sha256 and the version and
/// settings of the engine, and begins with the sha256 of what follows.
pub(crate) struct Cache {
    folder: PathBuf,
    engine: u64,
}

const DIGEST: usize = 32;

impl Cache {
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self, Error> {
        let bad = |reason: String| Error::File { path: folder.into(), reason };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| bad(error.to_string()))?;
        // Not through a link, which somebody else could turn.
        let meta = fs::symlink_metadata(folder).map_err(|error| bad(error.to_string()))?;
        let own = meta.uid() == rustix::process::geteuid().as_raw();
        if !meta.is_dir() || !own || meta.mode() & 0o077 != 0 {
            return Err(bad(
                "compiled policies need a folder that only this user can open (mode 0700)".into()
            ));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: folder.into(), engine: hasher.finish() })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}-{:016x}.compiled", self.engine))
    }

    /// The code of the component with this sha256, if it is there and whole.
    pub(crate) fn get(&self, id: &str) -> Option<Artifact> {
        let mut file = fs::read(self.path(id)).ok()?;
        if file.len() <= DIGEST || Sha256::digest(&file[DIGEST..])[..] != file[..DIGEST] {
            return None;
        }
        file.drain(..DIGEST);
        Some(Artifact::trusted(file))
    }

    /// Keeps code; without it the next start only takes longer.
    pub(crate) fn put(&self, id: &str, artifact: &Artifact) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&Sha256::digest(artifact.bytes()))?;
            file.write_all(artifact.bytes())?;
            file.persist(self.path(id))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("a compiled policy was not kept in {}: {error}", self.folder.display());
        }
    }
}
