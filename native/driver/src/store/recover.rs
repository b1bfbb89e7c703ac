//! What a journal still says when it is opened, and what it has lost.
//!
//! Decides what is alive after a restart; changes no file, so a scan of a journal in use, or of a
//! copy on read-only media, reads it the same way.

use std::io;

use super::live::{LiveSet, Place};
use super::record::{Gap, HEADER_BYTES};
use super::segment::{Segment, Tail};
use super::{Recovered, SEGMENT_BYTES_MAX};

/// What was found.
#[derive(Default)]
pub(super) struct Recovery {
    pub live: LiveSet,
    pub tail: Tail,
    pub records: u64,
}

/// Hands out, in order, what the active segment says, and what segments without a readable header
/// (number and size) may have said.
pub(super) fn recover(
    active: Option<&Segment>,
    damaged: &[(u32, u64)],
    visit: &mut dyn FnMut(Recovered<'_>),
) -> io::Result<Recovery> {
    let mut recovery = Recovery::default();
    if let Some(active) = active {
        recovery.read(active, visit)?;
    }
    // Such a segment may have been newer than the active one, or only the spare: nobody can know.
    for &(_, bytes) in damaged {
        recovery.lose(bytes, 0, visit);
    }
    Ok(recovery)
}

impl Recovery {
    fn read(&mut self, active: &Segment, visit: &mut dyn FnMut(Recovered<'_>)) -> io::Result<()> {
        self.tail = active.walk(&mut |offset, found| {
            match found {
                Recovered::Record { task, seq, kind, payload } => {
                    let (offset, length) = (offset as u32, payload.len() as u32);
                    self.live.insert(task, seq, Place { offset, length, kind });
                    self.records += 1;
                }
                Recovered::Gap { first_lost, next_seq, bytes } => {
                    self.live.insert_gap(Gap { first_lost, next_seq, bytes });
                }
            }
            visit(found);
        })?;
        let (seal, size) = (active.seal, active.file.size()?);
        let shortened = size < seal.segment_bytes;
        let ended = self.tail.torn_bytes == 0 && self.tail.offset + HEADER_BYTES <= size;
        if shortened && !ended {
            self.lose(seal.segment_bytes - self.tail.offset, seal.sealed_seq, visit);
        } else if self.tail.offset < seal.sealed_end {
            self.lose(seal.sealed_end - self.tail.offset, seal.sealed_seq, visit);
        }
        self.tail.damaged |= shortened || self.tail.offset < seal.sealed_end;
        Ok(())
    }

    /// Notes that bytes at the end, which were durable once, are gone. As many numbers count as
    /// lost as a segment can hold, so that none is given out twice.
    fn lose(&mut self, bytes: u64, sealed_seq: u64, visit: &mut dyn FnMut(Recovered<'_>)) {
        let first_lost = self.tail.last_seq + 1;
        let next_seq = first_lost.max(sealed_seq) + SEGMENT_BYTES_MAX / HEADER_BYTES;
        let gap = Gap { first_lost, next_seq, bytes };
        self.live.insert_gap(gap);
        visit(gap.into());
        self.tail.last_seq = next_seq - 1;
    }
}
