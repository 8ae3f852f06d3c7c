//! A component as a `Scheduler`.

use std::time::Instant;

use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

use crate::error::{Failure, Reason};
use crate::instance::Instance;
use crate::lend;
use crate::plugin::Plugin;

/// One instance decides about all sequences; after a trap a fresh one does.
pub(crate) struct Planner {
    plugin: Plugin,
    instance: Option<Instance>,
    /// Whether the last answer was given out, and nobody has complained of it so far.
    answered: bool,
    listed: Vec<bool>,
}

impl Planner {
    pub(crate) fn new(plugin: Plugin) -> Self {
        Self { plugin, instance: None, answered: false, listed: Vec::new() }
    }

    fn ask(&mut self, view: &dyn View, began: Instant, order: &mut Order) -> Result<(), Failure> {
        let (mut instance, began) = match self.instance.take() {
            Some(instance) => (instance, began),
            None => (self.plugin.instance()?, Instant::now()),
        };
        let (time, len) = ((began, self.plugin.limits().scheduling), view.ids().len());
        let asked = lend::with_schedule(view, || instance.schedule(time, len));
        std::mem::swap(order, &mut instance.state().order);
        if !instance.broken() {
            self.instance = Some(instance);
        }
        asked?;
        self.once(&order.indices, len)?;
        self.once(&order.rejected, len)
    }

    /// A sequence is listed once at most.
    fn once(&mut self, indices: &[u32], len: usize) -> Result<(), Failure> {
        self.listed.clear();
        self.listed.resize(len, false);
        for &index in indices {
            if std::mem::replace(&mut self.listed[index as usize], true) {
                return Err(Failure::bad(format!("its order lists sequence {index} twice")));
            }
        }
        Ok(())
    }
}

impl Scheduler for Planner {
    /// The plugin was configured when it was loaded.
    fn configure(&mut self, _: &str, _: Host) -> Result<(), Error> {
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        if !self.plugin.record().admits(std::mem::take(&mut self.answered)) {
            return Err(quarantined().into());
        }
        let began = Instant::now();
        let asked = self.ask(view, began, order);
        self.plugin.record().called(1, began);
        self.answered = asked.is_ok();
        asked.map_err(|failure| {
            order.clear();
            self.plugin.record().lost(&failure);
            failure.into()
        })
    }

    fn refused(&mut self, why: &Error) {
        self.answered = false;
        self.plugin.record().lost(&Failure::bad(why.to_string()));
    }
}

/// Not counted: the policy is not asked.
pub(crate) fn quarantined() -> Failure {
    Failure::new(Reason::Undecided, "it is in quarantine")
}
