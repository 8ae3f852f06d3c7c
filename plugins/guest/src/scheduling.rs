//! A scheduler behind the contract's world `scheduling`.

use std::{borrow::Cow, cell::OnceCell};

use tokenmill_policy::{
    Scheduler,
    schedule::{self, Order},
};

use crate::bindings::scheduling as wit;

/// A component's one policy, with its answer's memory.
#[derive(Default)]
pub struct Instance<P> {
    policy: P,
    order: Order,
}

impl<P: Scheduler> Instance<P> {
    pub fn configure(&mut self, config: &str) -> Result<(), wit::Error> {
        crate::host::log_panics();
        self.policy.configure(config, crate::host::services()).map_err(error)
    }

    pub fn plan(&mut self, view: &wit::View, out: &wit::Order) -> Result<(), wit::Error> {
        let Self { policy, order } = self;
        order.clear();
        policy.plan(&View::new(view), order).map_err(error)?;
        if !order.indices.is_empty() {
            out.run(&order.indices, &order.tokens);
        }
        if !order.rejected.is_empty() {
            out.reject(&order.rejected);
        }
        Ok(())
    }
}

fn error(error: tokenmill_policy::Error) -> wit::Error {
    match error {
        tokenmill_policy::Error::BadConfig(why) => wit::Error::BadConfig(why),
        tokenmill_policy::Error::Undecided(why) => wit::Error::Undecided(why),
    }
}

/// The host's view, of which each column is fetched when it is first asked for.
struct View<'a> {
    host: &'a wit::View,
    ids: OnceCell<Vec<u64>>,
    pending: OnceCell<Vec<u32>>,
    resident: OnceCell<Vec<u32>>,
    generated: OnceCell<Vec<u32>>,
    arrived_us: OnceCell<Vec<u64>>,
    priority: OnceCell<Vec<i32>>,
    tenant: OnceCell<Vec<u64>>,
    deadline_us: OnceCell<Vec<u64>>,
    prefix: OnceCell<Vec<u64>>,
    finished: OnceCell<Vec<u64>>,
}

impl<'a> View<'a> {
    fn new(host: &'a wit::View) -> Self {
        Self {
            host,
            ids: OnceCell::new(),
            pending: OnceCell::new(),
            resident: OnceCell::new(),
            generated: OnceCell::new(),
            arrived_us: OnceCell::new(),
            priority: OnceCell::new(),
            tenant: OnceCell::new(),
            deadline_us: OnceCell::new(),
            prefix: OnceCell::new(),
            finished: OnceCell::new(),
        }
    }
}

impl schedule::View for View<'_> {
    fn now_us(&self) -> u64 {
        self.host.now_us()
    }

    fn token_budget(&self) -> u32 {
        self.host.token_budget()
    }

    fn free_blocks(&self) -> u32 {
        self.host.free_blocks()
    }

    fn block_tokens(&self) -> u32 {
        self.host.block_tokens()
    }

    fn free_seqs(&self) -> u32 {
        self.host.free_seqs()
    }

    fn ids(&self) -> &[u64] {
        self.ids.get_or_init(|| self.host.ids())
    }

    fn pending(&self) -> &[u32] {
        self.pending.get_or_init(|| self.host.pending())
    }

    fn resident(&self) -> &[u32] {
        self.resident.get_or_init(|| self.host.resident())
    }

    fn generated(&self) -> &[u32] {
        self.generated.get_or_init(|| self.host.generated())
    }

    fn arrived_us(&self) -> &[u64] {
        self.arrived_us.get_or_init(|| self.host.arrived_us())
    }

    fn priority(&self) -> &[i32] {
        self.priority.get_or_init(|| self.host.priority())
    }

    fn tenant(&self) -> &[u64] {
        self.tenant.get_or_init(|| self.host.tenant())
    }

    fn deadline_us(&self) -> &[u64] {
        self.deadline_us.get_or_init(|| self.host.deadline_us())
    }

    fn prefix(&self) -> &[u64] {
        self.prefix.get_or_init(|| self.host.prefix())
    }

    fn finished(&self) -> &[u64] {
        self.finished.get_or_init(|| self.host.finished())
    }

    fn attribute(&self, index: usize, key: &str) -> Option<Cow<'_, str>> {
        self.host.attribute(index as u32, key).map(Cow::Owned)
    }
}
