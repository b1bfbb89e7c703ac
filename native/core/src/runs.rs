//! Slots as runs of equal ones, for a recording: most of them are free, and look the same.

use crate::arena::{NONE, Step};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Slots of any table; their number is a `u16`.
const SLOTS_MAX: usize = NONE as usize;

/// Writes slots as pairs of a count and a value.
pub fn serialize<T, S>(slots: &[T], to: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + PartialEq,
    S: Serializer,
{
    let runs = slots.chunk_by(|one, next| one == next);
    to.collect_seq(runs.map(|run| (run.len(), &run[0])))
}

/// Reads them back; more than a table may have is an error.
pub fn deserialize<'de, T, D>(from: D) -> Result<Box<[T]>, D::Error>
where
    T: Deserialize<'de> + Clone,
    D: Deserializer<'de>,
{
    let mut slots = Vec::new();
    for (count, value) in Vec::<(usize, T)>::deserialize(from)? {
        if count > SLOTS_MAX - slots.len() {
            return Err(Error::custom("more slots than a table may have"));
        }
        slots.resize(slots.len() + count, value);
    }
    Ok(slots.into_boxed_slice())
}

/// The pool of steps: a link is told by how many steps it passes over, which is 0 along the free
/// ones. No step links to itself, so that number is never `NONE`.
pub mod linked {
    use super::{Deserializer, NONE, Serializer, Step};

    fn each(steps: &[Step], turned: impl Fn(u16, u16) -> u16) -> Box<[Step]> {
        let turn = |(index, step): (u16, &Step)| match step.next {
            NONE => *step,
            next => Step { next: turned(next, index), ..*step },
        };
        (0..).zip(steps).map(turn).collect()
    }

    /// Writes such numbers.
    pub fn serialize<S: Serializer>(steps: &[Step], to: S) -> Result<S::Ok, S::Error> {
        let passed = |next: u16, index: u16| next.wrapping_sub(index).wrapping_sub(1);
        super::serialize(&each(steps, passed), to)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Box<[Step]>, D::Error> {
        let next = |passed: u16, index: u16| index.wrapping_add(passed).wrapping_add(1);
        Ok(each(&super::deserialize::<Step, D>(from)?, next))
    }
}
