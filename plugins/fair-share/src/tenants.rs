use tokenmill_plugin_common::Groups;

/// The counters of all tenants that have sequences, or are owed less than the others.
#[derive(Default)]
pub(crate) struct Tenants {
    groups: Groups<Tenant>,
    /// Where a tenant that comes back begins at least.
    floor: u64,
}

/// Places of tenants without sequences, before they are looked through.
const IDLE: usize = 64;

#[derive(Clone, Copy, Default)]
struct Tenant {
    /// Weighted tokens it got.
    counter: u64,
    /// The same, with what this step's order may give.
    reserved: u64,
    /// Whether a sequence of its waits to start, now and when the last order was made.
    waits: bool,
    waited: bool,
}

impl Tenants {
    /// A sequence of `tenant` arrives; returns the tenant's place.
    pub(crate) fn join(&mut self, tenant: u64) -> usize {
        self.groups.join(tenant)
    }

    pub(crate) fn leave(&mut self, place: usize) {
        self.groups.leave(place);
    }

    /// Counts what a sequence got.
    pub(crate) fn charge(&mut self, place: usize, cost: u64, waits: bool) {
        let tenant = &mut self.groups.all()[place].value;
        tenant.counter += cost;
        tenant.waits |= waits;
    }

    /// After all charges of a step: those that begin to wait do not begin below those that waited before.
    pub(crate) fn lift(&mut self) {
        let all = self.groups.all();
        let counters = |still: bool| {
            let some =
                all.iter().map(|group| group.value).filter(move |one| one.waited && one.waits == still);
            some.map(|one| one.counter).min()
        };
        // Those that wait still, or else the last that did.
        self.floor = counters(true).or_else(|| counters(false)).unwrap_or(self.floor);
        for group in all {
            let tenant = &mut group.value;
            if tenant.waits && !tenant.waited {
                tenant.counter = tenant.counter.max(self.floor);
            }
            (tenant.waited, tenant.waits) = (tenant.waits, false);
            tenant.reserved = tenant.counter;
        }
        let idle = self.groups.all().iter().filter(|group| group.members == 0).count();
        if idle > IDLE {
            // Below the floor there is nothing to remember: coming back lifts it.
            let floor = self.floor;
            self.groups.sweep(|tenant| tenant.counter > floor);
        }
    }

    /// What its tenant will have got when a prompt of `cost` begins.
    pub(crate) fn reserve(&mut self, place: usize, cost: u64) -> u64 {
        let tenant = &mut self.groups.all()[place].value;
        let before = tenant.reserved;
        tenant.reserved += cost;
        before
    }

    /// Of tenants that are not forgotten.
    #[cfg(test)]
    pub(crate) fn counters(&mut self) -> Vec<(u64, u64)> {
        let used = self.groups.all().iter().filter(|group| group.members > 0 || group.value.counter > 0);
        used.map(|group| (group.key, group.value.counter)).collect()
    }
}
