//! Which names there have been, in bounded memory: 64 bits of a keyed hash for each.
//!
//! The key is chosen at random for each process, so nobody can make names that collide; that two do
//! by chance takes billions of them. Beyond the bound nothing is looked up any more, and the caller
//! is told so.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Tensors of a model that are told apart: as many names as a full table holds.
pub const TENSORS_MAX: usize = SLOTS_MAX / 2;
/// Slots of the table when it is full; each takes eight bytes.
const SLOTS_MAX: usize = 1 << 18;
const SLOTS_MIN: usize = 1 << 10;

/// Hashes names; the same for everything that is compared.
#[derive(Debug, Clone, Default)]
pub struct Naming(RandomState);

impl Naming {
    /// A hash that is still growing.
    pub fn hasher(&self) -> impl Hasher + use<> {
        self.0.build_hasher()
    }
}

/// What a look at a name came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It is the first of that name.
    New,
    /// There was one.
    Again,
    /// There are too many to tell.
    Full,
}

/// The names that there have been.
#[derive(Debug)]
pub struct Seen {
    slots: Vec<u64>,
    count: usize,
    count_max: usize,
}

impl Seen {
    /// Tells at most `count_max` names apart, at most half of the slots there can be.
    pub fn new(count_max: usize) -> Seen {
        Seen { slots: Vec::new(), count: 0, count_max: count_max.min(SLOTS_MAX / 2) }
    }

    /// Looks at a name by its hash, and remembers it.
    pub fn look(&mut self, hash: u64) -> Look {
        // Zero marks a slot that is free.
        let hash = hash.max(1);
        if self.count * 2 >= self.slots.len() && self.slots.len() < SLOTS_MAX {
            self.grow();
        }
        let slot = slot(&self.slots, hash);
        if self.slots[slot] == hash {
            return Look::Again;
        }
        if self.count == self.count_max {
            return Look::Full;
        }
        self.slots[slot] = hash;
        self.count += 1;
        Look::New
    }

    fn grow(&mut self) {
        let mut slots = vec![0; (self.slots.len() * 2).max(SLOTS_MIN)];
        for &hash in self.slots.iter().filter(|&&hash| hash != 0) {
            let slot = slot(&slots, hash);
            slots[slot] = hash;
        }
        self.slots = slots;
    }
}

/// Where the hash is, or the free slot where it would be.
fn slot(slots: &[u64], hash: u64) -> usize {
    let mask = slots.len() - 1;
    let mut slot = (hash >> 32) as usize & mask;
    while slots[slot] != 0 && slots[slot] != hash {
        slot = (slot + 1) & mask;
    }
    slot
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name is known again, through every growth, up to the bound and not beyond it.
    #[test]
    fn a_name_is_known_again() {
        let naming = Naming::default();
        let mut seen = Seen::new(3000);
        let hash = |number: u32| {
            let mut hasher = naming.hasher();
            hasher.write_u32(number);
            hasher.finish()
        };
        for number in 0..3000 {
            assert_eq!(seen.look(hash(number)), Look::New);
        }
        for number in 0..3000 {
            assert_eq!(seen.look(hash(number)), Look::Again);
        }
        assert_eq!(seen.look(hash(3000)), Look::Full);
        assert_eq!(seen.look(hash(7)), Look::Again);
    }
}
