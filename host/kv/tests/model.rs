//! Random sequences of operations against a model that writes down what each position must hold.

use proptest::prelude::*;
use tokenmill_kv::{Hash, Pool, Table};

const BLOCK: u32 = 4;

#[derive(Clone, Debug)]
enum Operation {
    Add { salt: u64, tokens: Vec<u32> },
    Append { sequence: usize, tokens: Vec<u32> },
    Fork { sequence: usize },
    Free { sequence: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    // Two tokens and two salts: prefixes meet often.
    let tokens = |len| prop::collection::vec(0..2u32, 1..len);
    let sequence = any::<prop::sample::Index>();
    prop_oneof![
        3 => (0..2u64, tokens(20)).prop_map(|(salt, tokens)| Operation::Add { salt, tokens }),
        4 => (sequence, tokens(6)).prop_map(|(i, tokens)| Operation::Append { sequence: i.index(1 << 16), tokens }),
        2 => any::<prop::sample::Index>().prop_map(|i| Operation::Fork { sequence: i.index(1 << 16) }),
        3 => any::<prop::sample::Index>().prop_map(|i| Operation::Free { sequence: i.index(1 << 16) }),
    ]
}

struct Sequence {
    salt: u64,
    tokens: Vec<u32>,
    table: Table,
}

/// What a slot holds: the salt and all tokens up to it.
type Slot = Option<(u64, Vec<u32>)>;

struct Model {
    pool: Pool,
    slots: Vec<Slot>,
    sequences: Vec<Sequence>,
    /// Every prefix of whole blocks that was ever committed.
    committed: Vec<(u64, Vec<u32>)>,
}

impl Model {
    fn new(blocks: u32, hash: Option<Hash>) -> Self {
        let pool = match hash {
            Some(hash) => Pool::with_hash(blocks, BLOCK, hash),
            None => Pool::new(blocks, BLOCK),
        };
        let slots = vec![None; (blocks * BLOCK) as usize];
        Self { pool, slots, sequences: Vec::new(), committed: Vec::new() }
    }

    fn apply(&mut self, operation: &Operation) {
        let at = |sequence: &usize, len: usize| (len > 0).then(|| sequence % len.max(1));
        match operation {
            Operation::Add { salt, tokens } => {
                let mut table = Table::default();
                // At least one token stays to be computed, as in the engine.
                let hits = self.pool.adopt(&mut table, *salt, &tokens[..tokens.len() - 1]);
                self.check_hits(*salt, tokens, hits);
                self.sequences.push(Sequence {
                    salt: *salt,
                    tokens: tokens[..hits as usize].to_vec(),
                    table,
                });
                self.append(self.sequences.len() - 1, &tokens[hits as usize..]);
            }
            Operation::Append { sequence, tokens } => {
                if let Some(i) = at(sequence, self.sequences.len()) {
                    self.append(i, tokens);
                }
            }
            Operation::Fork { sequence } => {
                if let Some(i) = at(sequence, self.sequences.len()) {
                    let parent = &mut self.sequences[i];
                    let table = self.pool.fork(&mut parent.table);
                    let child = Sequence { salt: parent.salt, tokens: parent.tokens.clone(), table };
                    self.sequences.push(child);
                }
            }
            Operation::Free { sequence } => {
                if let Some(i) = at(sequence, self.sequences.len()) {
                    let mut sequence = self.sequences.swap_remove(i);
                    self.pool.free(&mut sequence.table);
                }
            }
        }
        self.check();
    }

    fn append(&mut self, i: usize, tokens: &[u32]) {
        let sequence = &mut self.sequences[i];
        let from = sequence.tokens.len() as u32;
        let to = from + tokens.len() as u32;
        let mut copies = Vec::new();
        let extended = self.pool.extend(&mut sequence.table, from, to, &mut copies);
        for (from, to) in copies {
            for offset in 0..BLOCK {
                self.slots[(to * BLOCK + offset) as usize] =
                    self.slots[(from * BLOCK + offset) as usize].clone();
            }
        }
        if extended.is_err() {
            let mut sequence = self.sequences.swap_remove(i);
            self.pool.free(&mut sequence.table);
            return;
        }
        for &token in tokens {
            let position = sequence.tokens.len() as u32;
            sequence.tokens.push(token);
            let block = sequence.table.blocks()[(position / BLOCK) as usize];
            assert!(self.pool.writable(block), "a shared block is written");
            self.slots[(block * BLOCK + position % BLOCK) as usize] =
                Some((sequence.salt, sequence.tokens.clone()));
        }
        self.pool.commit(&mut sequence.table, &sequence.tokens);
        for end in (BLOCK as usize..=sequence.tokens.len()).step_by(BLOCK as usize) {
            self.committed.push((sequence.salt, sequence.tokens[..end].to_vec()));
        }
    }

    /// A hit is a prefix that was committed; how long it is depends on what was evicted since.
    fn check_hits(&self, salt: u64, tokens: &[u32], hits: u32) {
        assert!(hits < tokens.len() as u32);
        let prefix = &tokens[..hits as usize];
        assert!(hits == 0 || self.committed.iter().any(|(s, p)| *s == salt && p == prefix));
    }

    fn check(&self) {
        assert_eq!(self.pool.check(self.sequences.iter().map(|sequence| &sequence.table)), Ok(()));
        for sequence in &self.sequences {
            for position in 0..sequence.tokens.len() {
                let block = sequence.table.blocks()[position / BLOCK as usize];
                let slot = &self.slots[(block * BLOCK) as usize + position % BLOCK as usize];
                let expected = (sequence.salt, sequence.tokens[..=position].to_vec());
                assert_eq!(slot.as_ref(), Some(&expected), "position {position} in block {block}");
            }
        }
    }
}

/// Collides all the time: every block that starts alike, under any prefix.
fn weak(_: u64, tokens: &[u32]) -> u64 {
    u64::from(tokens[0])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_position_holds_its_own_prefix(operations in prop::collection::vec(operation(), 1..120), blocks in 1..24u32) {
        let mut model = Model::new(blocks, None);
        operations.iter().for_each(|operation| model.apply(operation));
    }

    #[test]
    fn colliding_hashes_are_misses(operations in prop::collection::vec(operation(), 1..120), blocks in 1..24u32) {
        let mut model = Model::new(blocks, Some(weak));
        operations.iter().for_each(|operation| model.apply(operation));
    }

    #[test]
    fn nothing_is_forgotten_while_there_is_room(operations in prop::collection::vec(operation(), 1..60)) {
        let mut model = Model::new(4096, None);
        for operation in &operations {
            if let Operation::Add { salt, tokens } = operation {
                let limit = tokens.len() - 1;
                let longest = (0..=limit)
                    .filter(|&end| model.committed.iter().any(|(s, p)| s == salt && *p == tokens[..end]))
                    .max();
                let mut table = Table::default();
                let hits = model.pool.adopt(&mut table, *salt, &tokens[..limit]);
                prop_assert_eq!(hits as usize, longest.unwrap_or(0));
                model.pool.free(&mut table);
            }
            model.apply(operation);
        }
    }
}

#[test]
fn all_blocks_come_back() {
    let mut model = Model::new(8, None);
    model.apply(&Operation::Add { salt: 0, tokens: vec![1; 13] });
    model.apply(&Operation::Fork { sequence: 0 });
    model.apply(&Operation::Append { sequence: 1, tokens: vec![0] });
    assert_eq!((model.pool.used(), model.pool.available()), (5, 3));
    model.apply(&Operation::Free { sequence: 0 });
    model.apply(&Operation::Free { sequence: 0 });
    assert_eq!((model.pool.used(), model.pool.available(), model.pool.cached()), (0, 8, 3));
}

#[test]
fn the_end_of_a_prefix_is_evicted_first() {
    let mut model = Model::new(4, None);
    let tokens: Vec<u32> = (0..13).collect();
    model.apply(&Operation::Add { salt: 0, tokens: tokens.clone() });
    model.apply(&Operation::Free { sequence: 0 });
    // Two blocks: the one that was not full, then the last of the three cached ones.
    model.apply(&Operation::Add { salt: 1, tokens: vec![7; 8] });
    let mut table = Table::default();
    assert_eq!(model.pool.adopt(&mut table, 0, &tokens), 8);
    model.pool.free(&mut table);
    assert_eq!(model.pool.adopt(&mut table, 1, &tokens), 0, "another salt");
}
