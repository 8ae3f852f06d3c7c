//! `wit/policy.wit` as Rust, and what of it a component claims to speak.

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::plugin::Kind;
use crate::state::State;

#[allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "generated")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package tokenmill:host;
            world both {
                import tokenmill:policy/host@0.1.0;
                export tokenmill:policy/scheduler@0.1.0;
                export tokenmill:policy/sampler@0.1.0;
            }
        ",
        world: "tokenmill:host/both",
        imports: { default: trappable },
        with: {
            "tokenmill:policy/schedule-host.view": crate::handles::ScheduleView,
            "tokenmill:policy/schedule-host.order": crate::handles::Order,
            "tokenmill:policy/sample-host.view": crate::handles::SampleView,
            "tokenmill:policy/sample-host.mask": tokenmill_policy::sample::Mask,
            "tokenmill:policy/sample-host.knobs": crate::handles::Knobs,
            "tokenmill:policy/sample-host.logits": crate::handles::Logits,
            "tokenmill:policy/sample-host.choices": crate::handles::Choices,
        },
    });
}

pub(crate) use bindings::exports::tokenmill::policy::{sampler, scheduler};
pub(crate) use bindings::tokenmill::policy::{host, sample_host, schedule_host, types};

/// The package of the contract, and the versions that this host speaks: 0.1.x.
const PACKAGE: &str = "tokenmill:policy/";
const VERSION: (u64, u64) = (0, 1);

/// All that a policy can import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    host::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    schedule_host::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    sample_host::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What a component exports of the contract: its kind and the version it was built against.
pub(crate) struct Claim {
    pub(crate) kind: Kind,
    pub(crate) version: String,
}

/// Names of imports and exports, interfaces with their version.
pub(crate) fn names(engine: &Engine, component: &Component) -> (Vec<String>, Vec<String>) {
    let ty = component.component_type();
    let imports = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    (imports, exports)
}

/// Reads the claim, or says in one sentence what is wrong with it.
pub(crate) fn claim(engine: &Engine, component: &Component) -> Result<Claim, String> {
    let (imports, exports) = names(engine, component);
    for name in &imports {
        match contract_name(name) {
            Some((_, version)) if !spoken(version) => return Err(other_version(name)),
            Some((interface, _)) if KNOWN.contains(&interface) => {}
            _ => return Err(format!("it imports {name}, which policies are not given")),
        }
    }
    let mut claims = exports.iter().filter_map(|name| {
        let (interface, version) = contract_name(name)?;
        let kind = [Kind::Scheduler, Kind::Sampler].into_iter().find(|kind| kind.to_string() == interface)?;
        Some((name, kind, version))
    });
    let Some((name, kind, version)) = claims.next() else {
        return Err(
            "it exports neither tokenmill:policy/scheduler@0.1.0 nor tokenmill:policy/sampler@0.1.0".into()
        );
    };
    if !spoken(version) {
        return Err(other_version(name));
    }
    if claims.next().is_some() {
        return Err("it exports both a scheduler and a sampler; a component is one of them".into());
    }
    let needed: &[&str] = match kind {
        Kind::Scheduler => &["configure", "plan"],
        Kind::Sampler => &["configure", "plan", "pick"],
    };
    let ty = component.component_type();
    if let Some(ComponentItem::ComponentInstance(interface)) = ty.get_export(engine, name).map(|item| item.ty)
    {
        let has = |function: &str| interface.exports(engine).any(|(name, _)| name == function);
        if let Some(missing) = needed.iter().find(|function| !has(function)) {
            return Err(format!("{name} lacks the function {missing}"));
        }
    }
    Ok(Claim { kind, version: version.into() })
}

/// Interfaces that a policy can import.
const KNOWN: [&str; 4] = ["types", "host", "schedule-host", "sample-host"];

/// `tokenmill:policy/sampler@0.1.0` has the interface `sampler` and the version `0.1.0`.
fn contract_name(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn spoken(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    (parts.next().flatten(), parts.next().flatten()) == (Some(VERSION.0), Some(VERSION.1))
}

fn other_version(name: &str) -> String {
    format!(
        "it is built for {name}, and this host speaks version {}.{}.x of the contract",
        VERSION.0, VERSION.1
    )
}
