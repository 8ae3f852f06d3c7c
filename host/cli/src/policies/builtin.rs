//! Policies of `plugins/` that are compiled in: they serve what the HTTP API promises out of the box.

use anyhow::{Context, Result};
use tokenmill_plugin_beam_search::BeamSearch;
use tokenmill_plugin_best_of_n::BestOfN;
use tokenmill_policy::{Fcfs, Host, Named, Sampler, Scheduler};
use tokenmill_wasm::Native;

use super::installer::Installer;

/// The sampling policies that requests find without the operator's doing.
pub(super) const NAMES: [&str; 2] = ["beam-search", "best-of-n"];

fn sampler(name: &str) -> Option<Box<dyn Sampler>> {
    match name {
        "beam-search" => Some(Box::new(BeamSearch::default())),
        "best-of-n" => Some(Box::new(BestOfN::default())),
        _ => None,
    }
}

pub(super) fn install(installer: &Installer) -> Result<()> {
    for name in NAMES {
        if let Some(named) = named(name, &installer.host) {
            installer.install(named?);
        }
    }
    Ok(())
}

/// The built-in sampling policy of a name. Its requests fail if it fails: what they ask for is nothing that
/// plain sampling gives.
pub(super) fn named(name: &str, host: &Host) -> Option<Result<Named>> {
    let mut sampler = sampler(name)?;
    let configured = sampler.configure("", host.clone());
    let named = Named { name: name.to_owned(), sampler, enforcing: true };
    Some(configured.map(|()| named).with_context(|| format!("the built-in policy {name}")))
}

/// A policy that is compiled in, configured, to compare its component with.
pub(crate) fn native(name: &str, config: &str, host: Host) -> Result<Native> {
    if let Some(mut sampler) = sampler(name) {
        sampler.configure(config, host)?;
        return Ok(Native::Sampler(sampler));
    }
    let known = || format!("--native {name}: compiled in are fcfs, {}", NAMES.join(" and "));
    let mut scheduler = (name == "fcfs").then(Fcfs::default).with_context(known)?;
    scheduler.configure(config, host)?;
    Ok(Native::Scheduler(Box::new(scheduler)))
}
