//! Masks that the host knows already.

use std::sync::Arc;

use tokenmill_policy::sample::Mask;

use crate::bindings::sampling as wit;

/// The host's limit of handles is not far above; a step with more different masks makes some again.
const MOST: usize = 256;

/// The host's handles by the address of what they were made of, the last used at the end. A mask is kept as long as the
/// policy keeps it: an address that is in the table cannot be another mask's.
#[derive(Default)]
pub(crate) struct Masks {
    known: Vec<(Mask, wit::Mask)>,
}

impl Masks {
    /// The host's handle of `mask`, made if there is none.
    pub(crate) fn known(&mut self, mask: Mask) -> &wit::Mask {
        let known = &mut self.known;
        match known.iter().rposition(|(one, _)| Arc::ptr_eq(one, &mask)) {
            Some(at) => known[at..].rotate_left(1),
            None => {
                if known.len() == MOST {
                    known.remove(0);
                }
                let handle = wit::Mask::new(&mask);
                known.push((mask, handle));
            }
        }
        &known[known.len() - 1].1
    }

    /// Forgets the masks that the policy has let go of.
    pub(crate) fn drop_unused(&mut self) {
        self.known.retain(|(mask, _)| Arc::strong_count(mask) > 1);
    }
}
