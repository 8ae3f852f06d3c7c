use std::collections::BTreeMap;

/// Sequences that have something in common (a tenant, a prefix), with what is known of each such group.
/// A group keeps its place, a small number, as long as it is not removed.
pub struct Groups<T> {
    places: BTreeMap<u64, usize>,
    groups: Vec<Group<T>>,
    spare: Vec<usize>,
}

/// One of them.
pub struct Group<T> {
    /// What its members have in common.
    pub key: u64,
    /// Members that have not left.
    pub members: u32,
    pub value: T,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { places: BTreeMap::new(), groups: Vec::new(), spare: Vec::new() }
    }
}

impl<T: Default> Groups<T> {
    /// A sequence joins the group of `key`; returns the group's place.
    pub fn join(&mut self, key: u64) -> usize {
        let Self { places, groups, spare } = self;
        let place = *places.entry(key).or_insert_with(|| {
            let group = Group { key, members: 0, value: T::default() };
            if let Some(place) = spare.pop() {
                groups[place] = group;
                return place;
            }
            groups.push(group);
            groups.len() - 1
        });
        groups[place].members += 1;
        place
    }

    /// A member has ended. The group stays, even without any.
    pub fn leave(&mut self, place: usize) {
        self.groups[place].members -= 1;
    }

    /// Removes groups without members, but for those that `keep` names.
    pub fn sweep(&mut self, keep: impl Fn(&T) -> bool) {
        let Self { places, groups, spare } = self;
        places.retain(|_, place| {
            let group = &mut groups[*place];
            let stays = group.members > 0 || keep(&group.value);
            if !stays {
                group.value = T::default();
                spare.push(*place);
            }
            stays
        });
    }

    /// Groups there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// By place; a place that is not in use has no members and a default value.
    pub fn all(&mut self) -> &mut [Group<T>] {
        &mut self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_lasts_until_it_is_swept() {
        let mut groups: Groups<u32> = Groups::default();
        let (one, two) = (groups.join(70), groups.join(80));
        assert_eq!(groups.join(70), one);
        groups.all()[one].value = 7;
        groups.all()[two].value = 8;
        groups.leave(one);
        groups.leave(two);
        groups.sweep(|_| false);
        assert_eq!((groups.len(), groups.all()[one].value, groups.all()[two].value), (1, 7, 0));
        groups.leave(one);
        groups.sweep(|value| *value == 7);
        assert_eq!((groups.join(70), groups.join(90)), (one, two));
        assert_eq!(groups.all()[one].value, 7);
    }
}
