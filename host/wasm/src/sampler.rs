//! A component as a `Sampler`: an instance per tenant, so that none sees what belongs to another.

use std::time::Instant;

use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

use crate::answer::{self, Part};
use crate::error::{Failure, Reason};
use crate::instance::Instance;
use crate::lend;
use crate::plugin::Plugin;
use crate::scheduler::quarantined;
use crate::shown::{Columns, Seen, Shown};

/// Tenants without a live sequence whose instances are kept warm.
const IDLE: usize = 8;

pub(crate) struct Tenants {
    plugin: Plugin,
    tenants: Vec<Tenant>,
    /// Those with rows in the step, by first row.
    active: Vec<usize>,
    /// Whose a row is, and its number among those.
    owners: Vec<(usize, u32)>,
    step: u64,
    /// Whether the last answer was given out, and nobody has complained of it so far.
    answered: bool,
}

#[derive(Default)]
struct Tenant {
    tenant: u64,
    instance: Option<Instance>,
    seen: Seen,
    /// Sequences that ended since the instance was last asked.
    finished: Vec<u64>,
    rows: Vec<u32>,
    columns: Columns,
    /// The last step with rows.
    used: u64,
}

/// One call of one tenant's instance.
#[derive(Clone, Copy)]
struct Call {
    /// All rows of the step are the tenant's.
    alone: bool,
    began: Instant,
}

impl Tenants {
    pub(crate) fn new(plugin: Plugin) -> Self {
        let (tenants, active, owners) = (Vec::new(), Vec::new(), Vec::new());
        Self { plugin, tenants, active, owners, step: 0, answered: false }
    }

    /// Sorts the rows of a step and the sequences that ended by tenant.
    fn sort(&mut self, view: &dyn View) {
        for tenant in self.active.drain(..) {
            self.tenants[tenant].finished.clear();
            self.tenants[tenant].rows.clear();
        }
        for &id in view.finished() {
            if let Some(tenant) = self.tenants.iter_mut().find(|tenant| tenant.seen.contains_key(&id)) {
                tenant.seen.remove(&id);
                tenant.finished.push(id);
            }
        }
        self.step += 1;
        self.forget();
        self.owners.clear();
        let mut last = usize::MAX;
        for (row, &tenant) in view.tenants().iter().enumerate() {
            if self.tenants.get(last).is_none_or(|last| last.tenant != tenant) {
                last = self.place(tenant);
            }
            let owner = &mut self.tenants[last];
            if owner.rows.is_empty() {
                owner.used = self.step;
                self.active.push(last);
            }
            self.owners.push((last, owner.rows.len() as u32));
            owner.rows.push(row as u32);
        }
    }

    fn place(&mut self, tenant: u64) -> usize {
        let known = self.tenants.iter().position(|known| known.tenant == tenant);
        known.unwrap_or_else(|| {
            self.tenants.push(Tenant { tenant, ..Tenant::default() });
            self.tenants.len() - 1
        })
    }

    /// Drops the instances that have been idle longest.
    fn forget(&mut self) {
        while self.tenants.iter().filter(|tenant| tenant.seen.is_empty()).count() > IDLE {
            let idle = self.tenants.iter().enumerate().filter(|(_, tenant)| tenant.seen.is_empty());
            let Some((oldest, _)) = idle.min_by_key(|(_, tenant)| tenant.used) else { return };
            self.tenants.swap_remove(oldest);
        }
    }

    /// Asks each tenant's instance. Returns those that failed, unless all did: what fails for one tenant is
    /// no matter of the others.
    fn each(
        &mut self,
        mut ask: impl FnMut(&Plugin, &mut Tenant, Call) -> Result<(), Failure>,
    ) -> Result<Vec<usize>, Error> {
        let (began, alone) = (Instant::now(), self.active.len() == 1);
        let (mut failures, mut failed) = (Vec::new(), Vec::new());
        for &nth in &self.active {
            let tenant = &mut self.tenants[nth];
            let call = Call { alone, began: if alone { began } else { Instant::now() } };
            if let Err(failure) = ask(&self.plugin, tenant, call) {
                failures.push(failure);
                failed.push(nth);
            }
            if tenant.instance.as_ref().is_some_and(Instance::broken) {
                tenant.instance = None;
                tenant.seen.clear();
            }
        }
        let record = self.plugin.record();
        record.called(self.active.len() as u64, began);
        self.answered = failed.is_empty();
        if failed.is_empty() {
            return Ok(failed);
        }
        if failed.len() < self.active.len() {
            failures.iter().for_each(|failure| record.failed(failure));
            record.good();
            return Ok(failed);
        }
        // What it is to blame for, if that is among them.
        failures.sort_by_key(|failure: &Failure| failure.reason == Reason::Undecided);
        let (worst, others) = (&failures[0], &failures[1..]);
        others.iter().for_each(|failure| record.failed(failure));
        record.lost(worst);
        Err(worst.clone().into())
    }
}

impl Tenant {
    fn shown<'a>(&'a self, view: &'a dyn View, alone: bool) -> Shown<'a> {
        let rows = (!alone).then_some(&self.rows[..]);
        Shown { view, columns: &self.columns, rows, finished: &self.finished }
    }

    fn plan(
        &mut self,
        plugin: &Plugin,
        view: &dyn View,
        Call { alone, began }: Call,
        knobs: &mut Knobs,
    ) -> Result<(), Failure> {
        let (mut instance, began) = match self.instance.take() {
            Some(instance) => (instance, began),
            None => {
                self.seen.clear();
                (plugin.instance()?, Instant::now())
            }
        };
        let asked = if self.columns.fill(view, &self.rows, alone, &mut self.seen) {
            let shown = self.shown(view, alone);
            let time = (began, plugin.limits().sampling);
            lend::with_sample(&shown, || instance.plan(time, self.rows.len()))
        } else {
            Err(Failure::new(
                Reason::Undecided,
                "its instance is new, and must be shown the sequence from the start",
            ))
        };
        let answer = &mut instance.state().knobs;
        let checked = asked.and_then(|()| {
            answer.check(self.rows.len(), plugin.vocab()).map_err(|error| Failure::bad(error.to_string()))
        });
        if checked.is_ok() {
            answer::add_knobs(knobs, answer, Part::of(&self.rows, alone));
        }
        self.instance = Some(instance);
        checked
    }

    fn pick(
        &mut self,
        plugin: &Plugin,
        view: &dyn View,
        Call { alone, began }: Call,
        logits: &mut dyn Logits,
        (rows, choices): (&[u32], &mut Choices),
    ) -> Result<(), Failure> {
        let gone = || Failure::new(Reason::Undecided, "its instance ended with plan");
        let mut instance = self.instance.take().ok_or_else(gone)?;
        let part = Part::of(&self.rows, alone);
        let shown = self.shown(view, alone);
        let limits = plugin.limits();
        let limit = limits.sampling + limits.inspected_row.saturating_mul(rows.len() as u32);
        let time = (began, limit);
        let asked = lend::with_sample(&shown, || {
            lend::with_logits(&mut answer::PartLogits { logits, part }, || {
                instance.pick(time, self.rows.len(), rows)
            })
        });
        let answer = &mut instance.state().choices;
        let vocab = plugin.vocab();
        let checked = asked.and_then(|()| match answer.accept.iter().find(|(_, token)| *token >= vocab) {
            Some((_, token)) => Err(Failure::bad(format!("accept: token {token} is outside the vocabulary"))),
            None => Ok(()),
        });
        if checked.is_ok() {
            answer::add_choices(choices, answer, part);
        }
        self.instance = Some(instance);
        checked
    }
}

impl Sampler for Tenants {
    /// The plugin was configured when it was loaded.
    fn configure(&mut self, _: &str, _: Host) -> Result<(), Error> {
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        if !self.plugin.record().admits(std::mem::take(&mut self.answered)) {
            return Err(quarantined().into());
        }
        self.sort(view);
        for nth in self.each(|plugin, tenant, call| tenant.plan(plugin, view, call, knobs))? {
            knobs.undecided.extend_from_slice(&self.tenants[nth].rows);
        }
        Ok(())
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        let owners = std::mem::take(&mut self.owners);
        let mut own = Vec::with_capacity(rows.len());
        let mut nth = 0;
        let active = self.active.clone();
        let picked = self.each(|plugin, tenant, call| {
            own.clear();
            let of = |row: &&u32| owners.get(**row as usize).is_some_and(|owner| owner.0 == active[nth]);
            own.extend(rows.iter().filter(of).map(|&row| owners[row as usize].1));
            nth += 1;
            if own.is_empty() {
                return Ok(());
            }
            tenant.pick(plugin, view, call, logits, (&own, choices))
        });
        if let Ok(failed) = &picked {
            let of = |row: &&u32| owners.get(**row as usize).is_some_and(|owner| failed.contains(&owner.0));
            choices.undecided.extend(rows.iter().filter(of));
        }
        self.owners = owners;
        picked.map(|_| ())
    }

    fn refused(&mut self, why: &Error) {
        self.answered = false;
        self.plugin.record().lost(&Failure::bad(why.to_string()));
    }
}
