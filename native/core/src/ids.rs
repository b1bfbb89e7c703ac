//! Which task ids are known: live ones, ended ones until they expire, and cancels that came first.

use crate::message::Outcome;

/// Tags that are compared at once.
const TAGS: usize = 16;

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Kind {
    Free,
    /// The task lives in this slot.
    Live(u16),
    /// It ended so.
    Ended(Outcome),
    /// A cancel came before it.
    Tombstone,
}

/// One remembered id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry {
    pub key: u128,
    pub digest: u64,
    /// Sequence number of the task's acceptance, or of the tombstone.
    pub seq: u64,
    /// Wall seconds until which it is remembered; rounded up.
    pub expires_s: u32,
    pub kind: Kind,
}

/// The table. Never forgets before an entry has expired; full is an answer.
///
/// A submission searches it four times, so what it looks for is found without reading all of it.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Entries", into = "Entries"))]
pub struct Ids {
    entries: Box<[Entry]>,
    /// The low bits of each key.
    tags: Box<[u32]>,
    /// No entry before this one is free.
    free_from: usize,
    /// None that may be forgotten expires before this second.
    expires_from_s: u32,
}

/// The table as a recording has it.
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Entries {
    #[cfg_attr(feature = "serde", serde(with = "crate::runs"))]
    entries: Box<[Entry]>,
}

impl From<Entries> for Ids {
    fn from(Entries { entries }: Entries) -> Ids {
        let tags = entries.iter().map(|entry| tag(entry.key)).collect();
        Ids { entries, tags, free_from: 0, expires_from_s: 0 }
    }
}

impl From<Ids> for Entries {
    fn from(ids: Ids) -> Entries {
        Entries { entries: ids.entries }
    }
}

impl Ids {
    pub fn new(capacity: u16) -> Ids {
        let free = Entry { key: 0, digest: 0, seq: 0, expires_s: 0, kind: Kind::Free };
        Entries { entries: vec![free; capacity as usize].into_boxed_slice() }.into()
    }

    /// Finds a key. Linear over the tags of at most 4096 entries: about a microsecond.
    pub fn find(&self, key: u128) -> Option<u16> {
        let tag = tag(key);
        // Without a branch for each, so that several are compared at once.
        let has_it = |tags: &[u32]| tags.iter().fold(false, |found, &one| found | (one == tag));
        let near = self.tags.chunks(TAGS).zip(self.entries.chunks(TAGS)).enumerate();
        let mut near = near.filter(|(_, (tags, _))| has_it(tags));
        let is = |entry: &Entry| entry.key == key && entry.kind != Kind::Free;
        let slot = near.find_map(|(place, (_, entries))| {
            entries.iter().position(is).map(|at| place * TAGS + at)
        })?;
        u16::try_from(slot).ok()
    }

    pub fn free_slot(&self) -> Option<u16> {
        let mut later = self.entries.iter().skip(self.free_from);
        let slot = self.free_from + later.position(|entry| entry.kind == Kind::Free)?;
        u16::try_from(slot).ok()
    }

    /// An entry that has expired and belongs to no live task: it may be forgotten.
    pub fn expired(&mut self, wall_ms: u64) -> Option<u16> {
        let has_expired = |expires_s: u32| u64::from(expires_s) * 1000 < wall_ms;
        if !has_expired(self.expires_from_s) {
            return None;
        }
        let found =
            self.entries.iter().position(|entry| is_over(entry) && has_expired(entry.expires_s));
        if found.is_none() {
            let over = self.entries.iter().filter(|entry| is_over(entry));
            self.expires_from_s = over.map(|entry| entry.expires_s).min().unwrap_or(u32::MAX);
        }
        u16::try_from(found?).ok()
    }

    /// The entry that expires first among those that belong to no live task.
    pub fn first_to_expire(&self) -> Option<u16> {
        let over = self.entries.iter().enumerate().filter(|(_, entry)| is_over(entry));
        let (slot, _) = over.min_by_key(|(_, entry)| entry.expires_s)?;
        u16::try_from(slot).ok()
    }

    pub fn get(&self, slot: u16) -> &Entry {
        &self.entries[slot as usize]
    }

    pub fn set(
        &mut self,
        slot: u16,
        key: u128,
        digest: u64,
        seq: u64,
        expires_ms: u64,
        kind: Kind,
    ) {
        let expires_s = u32::try_from(expires_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        let first_free = self.free_slot();
        self.entries[slot as usize] = Entry { key, digest, seq, expires_s, kind: Kind::Free };
        self.tags[slot as usize] = tag(key);
        self.set_kind(slot, kind);
        if first_free == Some(slot) {
            self.free_from = slot as usize + 1;
        }
    }

    pub fn set_kind(&mut self, slot: u16, kind: Kind) {
        let entry = &mut self.entries[slot as usize];
        entry.kind = kind;
        if is_over(entry) {
            self.expires_from_s = self.expires_from_s.min(entry.expires_s);
        }
    }

    pub fn forget(&mut self, slot: u16) {
        self.entries[slot as usize].kind = Kind::Free;
        self.free_from = self.free_from.min(slot as usize);
    }
}

/// Whether an entry belongs to no live task.
fn is_over(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Ended(_) | Kind::Tombstone)
}

fn tag(key: u128) -> u32 {
    key as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: u16 = 40;

    /// What a search through everything finds.
    fn searched(ids: &Ids, found: impl Fn(&Entry) -> bool) -> Option<u16> {
        ids.entries.iter().position(found).and_then(|slot| u16::try_from(slot).ok())
    }

    proptest! {
        /// Whatever is remembered and forgotten, each search finds what a search through everything
        /// finds. Keys share their tags.
        #[test]
        fn searches_find_the_first(steps in prop::collection::vec(
            (0..4u8, 0u128..6, 0u128..12, 0u64..30), 1..300)) {
            let mut ids = Ids::new(CAPACITY);
            for (what, high, low, second) in steps {
                let key = high << 64 | low;
                let (expires_ms, wall_ms) = (second * 1000, second * 1000);
                match (what, ids.free_slot()) {
                    (0, Some(slot)) => ids.set(slot, key, 0, 1, expires_ms, Kind::Live(7)),
                    (1, Some(slot)) => ids.set(slot, key, 0, 1, expires_ms, Kind::Tombstone),
                    (2, _) => {
                        if let Some(slot) = ids.find(key) {
                            ids.set_kind(slot, Kind::Ended(Outcome::Failed));
                        }
                    }
                    _ => {
                        let due = |e: &Entry| is_over(e) && u64::from(e.expires_s) * 1000 < wall_ms;
                        let expected = searched(&ids, due);
                        let expired = ids.expired(wall_ms);
                        prop_assert_eq!(expired, expected);
                        if let Some(slot) = expired {
                            ids.forget(slot);
                        }
                    }
                }
                let same = |e: &Entry| e.key == key && e.kind != Kind::Free;
                prop_assert_eq!(ids.find(key), searched(&ids, same));
                prop_assert_eq!(ids.free_slot(), searched(&ids, |e| e.kind == Kind::Free));
            }
        }
    }
}
