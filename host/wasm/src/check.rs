//! What `tokenmill policy check` tells.

use std::fmt;
use std::time::Instant;

use serde::Serialize;
use tokenmill_policy::Host;

use crate::plugin::{self, Kind, Plugin};
use crate::{Error, Runtime, contract};

/// A component, looked at from all sides. What is not known because something before failed is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// A server would take it.
    pub ok: bool,
    pub bytes: usize,
    /// sha256 of the file.
    pub id: Option<String>,
    pub kind: Option<Kind>,
    pub contract: Option<String>,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// In the process apart, its start included; about 0 if it was compiled before.
    pub compile_ms: Option<u64>,
    /// Why it is not ok, in one sentence.
    pub error: Option<String>,
}

/// Checks imports, exports, contract version and size, configures it and tries it on made-up views.
/// `host` should have the vocabulary of a model.
pub fn check(runtime: &Runtime, bytes: &[u8], config: &str, host: Host) -> CheckReport {
    let mut report = CheckReport { bytes: bytes.len(), ..CheckReport::default() };
    match fill(&mut report, runtime, bytes, config, host) {
        Ok(()) => report.ok = true,
        Err(error) => report.error = Some(error.to_string()),
    }
    report
}

fn fill(
    report: &mut CheckReport,
    runtime: &Runtime,
    bytes: &[u8],
    config: &str,
    host: Host,
) -> Result<(), Error> {
    let began = Instant::now();
    let compiled = plugin::compile(runtime, bytes, config)?;
    report.compile_ms = Some(began.elapsed().as_millis() as u64);
    report.id = Some(compiled.id.clone());
    (report.imports, report.exports) = contract::names(runtime.engine(), &compiled.component);
    let plugin = Plugin::link(runtime, "check", compiled, config, host)?;
    report.kind = Some(plugin.kind());
    report.contract = Some(plugin.contract().into());
    plugin.self_test()
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(kind), Some(contract)) = (self.kind, &self.contract) {
            writeln!(f, "kind      {kind}, contract {contract}")?;
        }
        writeln!(f, "size      {} bytes", self.bytes)?;
        if let Some(id) = &self.id {
            writeln!(f, "sha256    {id}")?;
        }
        for name in &self.imports {
            writeln!(f, "imports   {name}")?;
        }
        for name in &self.exports {
            writeln!(f, "exports   {name}")?;
        }
        if let Some(ms) = self.compile_ms {
            writeln!(f, "compiled  in {ms} ms")?;
        }
        match &self.error {
            None => write!(f, "ok        configured, and tried on made-up views"),
            Some(error) => write!(f, "refused   {error}"),
        }
    }
}
