//! Which task ids are known: live ones, ended ones until they expire, and cancels that came first.

use crate::message::Outcome;

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
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ids {
    #[cfg_attr(feature = "serde", serde(with = "crate::runs"))]
    entries: Box<[Entry]>,
}

impl Ids {
    pub fn new(capacity: u16) -> Ids {
        let free = Entry { key: 0, digest: 0, seq: 0, expires_s: 0, kind: Kind::Free };
        Ids { entries: vec![free; capacity as usize].into_boxed_slice() }
    }

    /// Finds a key. Linear over at most 4096 entries: some 10 us, once per submission.
    pub fn find(&self, key: u128) -> Option<u16> {
        let slot = self.entries.iter().position(|e| e.key == key && e.kind != Kind::Free)?;
        u16::try_from(slot).ok()
    }

    pub fn free_slot(&self) -> Option<u16> {
        let slot = self.entries.iter().position(|entry| entry.kind == Kind::Free)?;
        u16::try_from(slot).ok()
    }

    /// An entry that has expired and belongs to no live task: it may be forgotten.
    pub fn expired(&self, wall_ms: u64) -> Option<u16> {
        let expired = |entry: &Entry| {
            matches!(entry.kind, Kind::Ended(_) | Kind::Tombstone)
                && u64::from(entry.expires_s) * 1000 < wall_ms
        };
        u16::try_from(self.entries.iter().position(expired)?).ok()
    }

    /// The entry that expires first among those that belong to no live task.
    pub fn first_to_expire(&self) -> Option<u16> {
        let ended =
            |(_, entry): &(usize, &Entry)| matches!(entry.kind, Kind::Ended(_) | Kind::Tombstone);
        let ended = self.entries.iter().enumerate().filter(ended);
        let (slot, _) = ended.min_by_key(|(_, entry)| entry.expires_s)?;
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
        self.entries[slot as usize] = Entry { key, digest, seq, expires_s, kind };
    }

    pub fn set_kind(&mut self, slot: u16, kind: Kind) {
        self.entries[slot as usize].kind = kind;
    }

    pub fn forget(&mut self, slot: u16) {
        self.entries[slot as usize].kind = Kind::Free;
    }
}
