use crate::Sampler;

/// The sampling policies of a server, by name. A request without one is sampled on the device with its
/// own parameters.
#[derive(Default)]
pub struct Samplers {
    all: Vec<Named>,
}

/// One of them.
pub struct Named {
    pub name: String,
    pub sampler: Box<dyn Sampler>,
    /// A request of this policy fails when the policy does, instead of going on without it.
    pub enforcing: bool,
}

impl Samplers {
    /// Replaces a policy of the same name.
    pub fn add(&mut self, named: Named) {
        self.all.retain(|other| other.name != named.name);
        self.all.push(named);
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|named| named.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|named| named.name.as_str())
    }

    pub fn as_mut_slice(&mut self) -> &mut [Named] {
        &mut self.all
    }
}
