use crate::Sampler;

/// The sampling policies of a server, by name. A request without one is sampled on the device with its
/// own parameters.
///
/// A place is for life: a policy that was replaced or removed keeps serving the requests that began with
/// it, until [`Samplers::reclaim`] finds that none is left.
#[derive(Default)]
pub struct Samplers {
    places: Vec<Place>,
}

enum Place {
    Active(Named),
    /// New requests cannot name it.
    Retired(Named),
    Empty,
}

/// One of them.
pub struct Named {
    pub name: String,
    pub sampler: Box<dyn Sampler>,
    /// A request of this policy fails when the policy does, instead of going on without it.
    pub enforcing: bool,
}

impl Samplers {
    /// Adds a policy in a place of its own, which it returns; retires one of the same name.
    pub fn add(&mut self, named: Named) -> usize {
        self.retire(&named.name);
        let empty = self.places.iter().position(|place| matches!(place, Place::Empty));
        let position = empty.unwrap_or(self.places.len());
        if empty.is_none() {
            self.places.push(Place::Empty);
        }
        self.places[position] = Place::Active(named);
        position
    }

    /// No new request finds it; false if there is none of the name.
    pub fn retire(&mut self, name: &str) -> bool {
        let Some(position) = self.position(name) else { return false };
        let place = &mut self.places[position];
        if let Place::Active(named) = std::mem::replace(place, Place::Empty) {
            *place = Place::Retired(named);
        }
        true
    }

    /// Drops retired policies that no request uses.
    pub fn reclaim(&mut self, mut used: impl FnMut(usize) -> bool) {
        for (position, place) in self.places.iter_mut().enumerate() {
            if matches!(place, Place::Retired(_)) && !used(position) {
                *place = Place::Empty;
            }
        }
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        let is = |place: &Place| matches!(place, Place::Active(named) if named.name == name);
        self.places.iter().position(is)
    }

    /// Of those that new requests can name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.iter().filter_map(|place| match place {
            Place::Active(named) => Some(named.name.as_str()),
            Place::Retired(_) | Place::Empty => None,
        })
    }

    /// Places, empty ones included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn get_mut(&mut self, position: usize) -> Option<&mut Named> {
        match self.places.get_mut(position)? {
            Place::Active(named) | Place::Retired(named) => Some(named),
            Place::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::sample::{Knobs, View};

    struct Nothing;
    impl Sampler for Nothing {
        fn plan(&mut self, _: &dyn View, _: &mut Knobs) -> Result<(), Error> {
            Ok(())
        }
    }

    fn named(name: &str) -> Named {
        Named { name: name.into(), sampler: Box::new(Nothing), enforcing: false }
    }

    #[test]
    fn a_replaced_policy_keeps_its_place_until_nobody_uses_it() {
        let mut samplers = Samplers::default();
        samplers.add(named("a"));
        samplers.add(named("b"));
        samplers.add(named("a"));
        assert_eq!((samplers.position("a"), samplers.position("b")), (Some(2), Some(1)));
        assert!(samplers.get_mut(0).is_some_and(|named| named.name == "a"));
        samplers.reclaim(|position| position == 0);
        assert!(samplers.get_mut(0).is_some());
        samplers.reclaim(|_| false);
        assert!(samplers.get_mut(0).is_none() && samplers.len() == 3);
        samplers.add(named("c"));
        assert_eq!(samplers.position("c"), Some(0));
        assert!(samplers.retire("b") && !samplers.retire("b"));
        assert_eq!(samplers.names().collect::<Vec<_>>(), ["c", "a"]);
    }
}
