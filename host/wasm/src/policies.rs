//! The policies of a server: added, replaced and removed while it runs.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokenmill_policy::{Fcfs, Host, Named, Scheduler};

use crate::plugin::{Kind, Plugin, hex};
use crate::watch::{self, Watch};
use crate::{Error, Health, Runtime};

/// How often watched files are looked at.
const POLL: Duration = Duration::from_millis(250);
/// Characters of a name.
const MOST_NAME: usize = 64;

/// Where policies go: an engine's handle.
pub trait Target: Send + Sync {
    fn install_sampler(&self, named: Named);
    fn remove_sampler(&self, name: &str);
    fn set_scheduler(&self, scheduler: Box<dyn Scheduler>);
}

/// Whether a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Active,
    /// It failed too often, and there is no earlier version; the default applies.
    Quarantined,
}

/// A policy, as the operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub name: String,
    pub kind: Kind,
    /// sha256 of the file.
    pub id: String,
    /// Version of the contract that it was built against.
    pub contract: String,
    pub bytes: usize,
    pub enforcing: bool,
    /// Watched for changes.
    pub file: Option<PathBuf>,
    pub state: State,
    /// The version that was put in quarantine and replaced by this one, the last that was good.
    pub restored_from: Option<String>,
    /// Why the last change of the file was not taken over.
    pub last_error: Option<String>,
    pub health: Health,
}

/// Loads, tries, installs, watches and restores policies. Cheap to clone; what runs stays with the target
/// when the last clone is gone.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    runtime: Runtime,
    host: Host,
    target: Box<dyn Target>,
    entries: Mutex<Vec<Entry>>,
    alarms: Sender<Alarm>,
}

struct Entry {
    name: String,
    version: Version,
    /// What was active before, and did well.
    good: Option<Version>,
    file: Option<Watch>,
    state: State,
    restored_from: Option<String>,
    last_error: Option<String>,
}

#[derive(Clone)]
struct Version {
    plugin: Plugin,
    config: String,
    enforcing: bool,
}

/// A policy was put in quarantine.
struct Alarm {
    name: String,
    id: String,
}

impl Policies {
    /// `host` is what the policies may call.
    pub fn new(runtime: Runtime, host: Host, target: impl Target + 'static) -> Self {
        let (alarms, raised) = mpsc::channel();
        let target = Box::new(target);
        let shared = Arc::new(Shared { runtime, host, target, entries: Mutex::default(), alarms });
        let guarded = Arc::downgrade(&shared);
        let started = thread::Builder::new().name("policies".into()).spawn(move || guard(&guarded, &raised));
        if let Err(error) = started {
            tracing::error!("policy files are not watched: {error}");
        }
        Self(shared)
    }

    /// Loads and tries a policy, then installs it in place of the one of its name, which serves the
    /// requests that began with it. Without success nothing changes. Takes as long as compiling does, ten
    /// seconds at most. A policy that fails is bypassed, or fails its requests if it is `enforcing`.
    pub fn put(
        &self,
        name: &str,
        kind: Option<Kind>,
        bytes: &[u8],
        config: &str,
        enforcing: bool,
    ) -> Result<Status, Error> {
        let version = self.0.load(name, kind, bytes, config, enforcing)?;
        self.0.install(name, version, None)
    }

    /// The same from a file, and again whenever it changes; a change that fails leaves the old version.
    pub fn put_file(
        &self,
        name: &str,
        kind: Option<Kind>,
        path: &Path,
        config: &str,
        enforcing: bool,
    ) -> Result<Status, Error> {
        let stamp = watch::stamp(path);
        let bytes = self.0.read(path)?;
        let version = self.0.load(name, kind, &bytes, config, enforcing)?;
        self.0.install(name, version, Some(Watch::new(path, stamp)))
    }

    pub fn list(&self) -> Vec<Status> {
        self.0.entries().iter().map(Entry::status).collect()
    }

    pub fn get(&self, name: &str) -> Option<Status> {
        self.0.entries().iter().find(|entry| entry.name == name).map(Entry::status)
    }

    /// New requests cannot name it; without a scheduler it is first come, first served.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let mut entries = self.0.entries();
        let found = entries.iter().position(|entry| entry.name == name);
        let entry = entries.remove(found.ok_or_else(|| Error::Unknown(name.into()))?);
        self.0.withdraw(&entry);
        Ok(())
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let most = self.runtime.limits().component_bytes;
        watch::read(path, most).map_err(|error| Error::File { path: path.into(), reason: error.to_string() })
    }

    fn load(
        &self,
        name: &str,
        kind: Option<Kind>,
        bytes: &[u8],
        config: &str,
        enforcing: bool,
    ) -> Result<Version, Error> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MOST_NAME || !name.chars().all(plain) {
            let what = format!("its name may have up to {MOST_NAME} of a-z, 0-9, - and _, not {name:?}");
            return Err(Error::Refused(what));
        }
        let plugin = Plugin::load(&self.runtime, name, bytes, config, self.host.clone())?;
        kind.map_or(Ok(()), |kind| plugin.is(kind))?;
        plugin.self_test()?;
        Ok(Version { plugin, config: config.into(), enforcing })
    }

    /// Makes a version that was tried the active one.
    fn install(&self, name: &str, version: Version, file: Option<Watch>) -> Result<Status, Error> {
        let mut entries = self.entries();
        let kind = version.plugin.kind();
        self.activate(name, &version)?;
        let old = entries.iter().position(|entry| entry.name == name).map(|at| entries.remove(at));
        if let Some(old) = &old
            && old.version.plugin.kind() != kind
        {
            self.withdraw(old);
        }
        if kind == Kind::Scheduler {
            entries.retain(|entry| entry.version.plugin.kind() != kind);
        }
        let good = old.and_then(|old| {
            let same = old.version.plugin.kind() == kind && old.state == State::Active;
            if same { Some(old.version) } else { old.good.filter(|good| good.plugin.kind() == kind) }
        });
        tracing::info!("policy {name}: {kind} {} is active", version.plugin.id());
        let (state, restored_from, last_error) = (State::Active, None, None);
        let entry = Entry { name: name.into(), version, good, file, state, restored_from, last_error };
        let status = entry.status();
        entries.push(entry);
        Ok(status)
    }

    /// Hands a version to the target.
    fn activate(&self, name: &str, version: &Version) -> Result<(), Error> {
        let (alarms, id) = (self.alarms.clone(), version.plugin.id().to_owned());
        let alarm = Alarm { name: name.into(), id };
        version.plugin.record().set_alarm(Box::new(move || drop(alarms.send(alarm))));
        match version.plugin.kind() {
            Kind::Scheduler => self.target.set_scheduler(version.plugin.scheduler()?),
            Kind::Sampler => self.target.install_sampler(Named {
                name: name.into(),
                sampler: version.plugin.sampler()?,
                enforcing: version.enforcing,
            }),
        }
        Ok(())
    }

    fn withdraw(&self, entry: &Entry) {
        match entry.version.plugin.kind() {
            Kind::Scheduler => self.target.set_scheduler(Box::new(Fcfs::default())),
            Kind::Sampler => self.target.remove_sampler(&entry.name),
        }
    }

    /// Brings back the last good version of a policy that failed too often.
    fn restore(&self, alarm: &Alarm) {
        let mut entries = self.entries();
        let active = |entry: &&mut Entry| entry.name == alarm.name && entry.version.plugin.id() == alarm.id;
        // An earlier version may still serve old requests when it fails; that changes nothing for new ones.
        let Some(entry) = entries.iter_mut().find(active) else { return };
        let why = entry.version.plugin.health().last_failure.unwrap_or_default();
        let good = entry.good.take().filter(|good| !good.plugin.health().quarantined);
        match good {
            Some(good) if self.activate(&alarm.name, &good).is_ok() => {
                tracing::error!(
                    "policy {}: {} failed too often ({why}); {} is back",
                    alarm.name,
                    alarm.id,
                    good.plugin.id()
                );
                entry.restored_from = Some(alarm.id.clone());
                entry.version = good;
            }
            _ => {
                tracing::error!(
                    "policy {}: {} failed too often ({why}) and is not asked any more",
                    alarm.name,
                    alarm.id
                );
                entry.state = State::Quarantined;
                if entry.version.plugin.kind() == Kind::Scheduler {
                    self.target.set_scheduler(Box::new(Fcfs::default()));
                }
            }
        }
    }

    /// Looks at all watched files once.
    fn poll(&self) {
        let mut settled = Vec::new();
        for entry in self.entries().iter_mut() {
            if let Some(file) = &mut entry.file
                && file.settled()
            {
                settled.push((entry.name.clone(), file.clone(), entry.version.clone()));
            }
        }
        for (name, file, version) in settled {
            if let Err(error) = self.reload(&name, &file, &version) {
                tracing::error!("policy {name}: the old version stays: {error}");
                let mut entries = self.entries();
                if let Some(entry) = entries.iter_mut().find(|entry| entry.name == name) {
                    entry.last_error = Some(error.to_string());
                }
            }
        }
    }

    fn reload(&self, name: &str, file: &Watch, old: &Version) -> Result<(), Error> {
        let bytes = self.read(file.path())?;
        if hex(&Sha256::digest(&bytes)) == old.plugin.id() {
            return Ok(());
        }
        let version = self.load(name, Some(old.plugin.kind()), &bytes, &old.config, old.enforcing)?;
        // Deleted or replaced while this one was compiled?
        let current = |entry: &Entry| entry.name == name && entry.version.plugin.id() == old.plugin.id();
        if self.entries().iter().any(current) {
            self.install(name, version, Some(file.clone()))?;
        }
        Ok(())
    }
}

impl Entry {
    fn status(&self) -> Status {
        let Version { plugin, enforcing, .. } = &self.version;
        Status {
            name: self.name.clone(),
            kind: plugin.kind(),
            id: plugin.id().into(),
            contract: plugin.contract().into(),
            bytes: plugin.bytes(),
            enforcing: *enforcing,
            file: self.file.as_ref().map(|file| file.path().into()),
            state: self.state,
            restored_from: self.restored_from.clone(),
            last_error: self.last_error.clone(),
            health: plugin.health(),
        }
    }
}

/// Runs until the last `Policies` is gone.
fn guard(shared: &Weak<Shared>, raised: &Receiver<Alarm>) {
    loop {
        let alarm = raised.recv_timeout(POLL);
        let Some(shared) = shared.upgrade() else { return };
        match alarm {
            Ok(alarm) => shared.restore(&alarm),
            Err(_) => shared.poll(),
        }
    }
}
