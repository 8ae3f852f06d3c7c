//! Where sampling policies go: into the engine, alone and within forms of the output.

use std::sync::Arc;
use tokenmill_engine::Handle;
use tokenmill_grammar::{Grammars, SAMPLER, within};
use tokenmill_policy::{Host, Named, Scheduler, Shared, Within};
use tokenmill_wasm::Target;

use super::builtin;

/// The engine. Without a component of its name, a built-in policy is there again.
#[derive(Clone)]
pub(crate) struct Installer {
    engine: Handle,
    pub(super) host: Host,
    /// Of models with a tokenizer.
    forms: Option<Arc<Grammars>>,
}

impl Installer {
    /// Installs the policy of the forms themselves.
    pub(crate) fn new(engine: Handle, host: Host, forms: Option<Arc<Grammars>>) -> Self {
        if let Some(forms) = &forms {
            let (name, sampler) = (SAMPLER.to_owned(), forms.sampler());
            engine.install_sampler(Named { name, sampler, enforcing: true });
        }
        Self { engine, host, forms }
    }

    pub(super) fn install(&self, named: Named) {
        let Named { name, sampler, enforcing } = named;
        let sampler = Shared::new(sampler);
        if let Some(forms) = &self.forms {
            let within_form =
                Within::new(forms.sampler(), Box::new(sampler.clone()), enforcing, self.host.vocab());
            let named = Named { name: within(&name), sampler: Box::new(within_form), enforcing: true };
            self.engine.install_sampler(named);
        }
        self.engine.install_sampler(Named { name, sampler: Box::new(sampler), enforcing });
    }
}

impl Target for Installer {
    fn install_sampler(&self, named: Named) {
        self.install(named);
    }

    fn remove_sampler(&self, name: &str) {
        match builtin::named(name, &self.host) {
            Some(Ok(named)) => self.install(named),
            _ => {
                self.engine.remove_sampler(&within(name));
                self.engine.remove_sampler(name);
            }
        }
    }

    fn set_scheduler(&self, scheduler: Box<dyn Scheduler>) {
        self.engine.set_scheduler(scheduler);
    }
}
