//! A doubly linked list of block ids through arrays: every operation is O(1) and allocates nothing.

const NONE: u32 = u32::MAX;

/// Blocks that nobody holds; the front is handed out next.
pub(crate) struct List {
    links: Vec<Link>,
    front: u32,
    back: u32,
    len: u32,
}

#[derive(Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

impl List {
    /// All ids below `blocks`, rising.
    pub(crate) fn full(blocks: u32) -> Self {
        let links = vec![Link { before: NONE, after: NONE }; blocks as usize];
        let mut list = Self { links, front: NONE, back: NONE, len: 0 };
        (0..blocks).for_each(|id| list.push_back(id));
        list
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn push_front(&mut self, id: u32) {
        self.links[id as usize] = Link { before: NONE, after: self.front };
        match self.front {
            NONE => self.back = id,
            front => self.links[front as usize].before = id,
        }
        self.front = id;
        self.len += 1;
    }

    pub(crate) fn push_back(&mut self, id: u32) {
        self.links[id as usize] = Link { before: self.back, after: NONE };
        match self.back {
            NONE => self.front = id,
            back => self.links[back as usize].after = id,
        }
        self.back = id;
        self.len += 1;
    }

    pub(crate) fn pop_front(&mut self) -> Option<u32> {
        let id = self.front;
        (id != NONE).then(|| {
            self.remove(id);
            id
        })
    }

    /// The id must be in the list.
    pub(crate) fn remove(&mut self, id: u32) {
        let Link { before, after } = self.links[id as usize];
        match before {
            NONE => self.front = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NONE => self.back = before,
            after => self.links[after as usize].before = before,
        }
        self.len -= 1;
    }

    /// Front to back; ends early, not never, if the links are broken.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let step = |&id: &u32| Some(self.links[id as usize].after).filter(|&id| id != NONE);
        std::iter::successors(Some(self.front).filter(|&id| id != NONE), step).take(self.links.len() + 1)
    }
}
