//! How a journal is opened: which refusals come first, and what is set right before the first
//! append.
//!
//! Decides the order in which damage is recorded, replaced and moved away, so that a crash at any
//! point of it loses no word of it; what is damage is decided by the walk over a segment.

use std::path::{Path, PathBuf};

use super::directory::{self, Directory, Survey};
use super::disk::{Disk, FileSystem};
use super::error::StoreError;
use super::record::HEADER_BYTES;
use super::recover::{Recovery, recover};
use super::segment::{RECORDS_START, Segment};
use super::{Fate, OpenReport, Options, Recovered, Stats, Store, allowed_size};

impl Store {
    /// Opens the journal in `dir`, makes it if there is none, and hands out what it holds.
    ///
    /// Memory is bounded by the live records' index and one payload.
    ///
    /// # Errors
    /// A named refusal ([`StoreError`]) that loses nothing; what was handed out before it is void.
    /// Damage is no error: it is handed out as a gap, and the segment is kept in quarantine.
    pub fn open(
        dir: &Path,
        options: &Options,
        visit: &mut dyn FnMut(Recovered<'_>),
    ) -> Result<(Store, OpenReport), StoreError> {
        Self::open_on(Box::new(FileSystem), dir, options, visit)
    }

    pub(super) fn open_on(
        disk: Box<dyn Disk>,
        dir: &Path,
        options: &Options,
        visit: &mut dyn FnMut(Recovered<'_>),
    ) -> Result<(Store, OpenReport), StoreError> {
        let &Options { segment_bytes, instance } = options;
        if !allowed_size(segment_bytes) {
            return Err(StoreError::SegmentBytes { given: segment_bytes });
        }
        let mut directory = Directory::open(disk, dir)?;
        let Survey { active, others, damaged } = directory.survey()?;
        let recovered = recover(active.as_ref(), &damaged, visit);
        let Recovery { live, tail, records } =
            recovered.map_err(|cause| StoreError::io("read journal", dir, cause))?;
        if RECORDS_START + live.bytes() + HEADER_BYTES > segment_bytes {
            let (path, live_bytes) = (dir.to_path_buf(), live.bytes());
            return Err(StoreError::SegmentTooSmall { path, live_bytes });
        }
        let fate = match &active {
            None => Some(Fate::Spare),
            Some(_) if tail.damaged => Some(Fate::Quarantine),
            Some(active) if active.seal.segment_bytes != segment_bytes => Some(Fate::Remove),
            Some(_) => (!damaged.is_empty()).then_some(Fate::Spare),
        };
        let created = active.is_none() && damaged.is_empty();
        let mut spare = take_spare(&directory, others, segment_bytes)?;
        let active = match active.or_else(|| spare.take()) {
            Some(active) => active,
            None => directory.create_segment(segment_bytes)?,
        };
        let mut store = Store {
            directory,
            segment_bytes,
            instance,
            generation: active.seal.generation,
            active,
            spare,
            live,
            tail: tail.offset,
            last_seq: tail.last_seq,
            durable_seq: tail.last_seq,
            unsynced: Vec::new(),
            flushed: 0,
            stats: Stats::default(),
            failed: None,
        };
        let report = OpenReport {
            created,
            records,
            torn_bytes: tail.torn_bytes,
            quarantined: store.settle(fate, tail.torn_bytes, &damaged)?,
            last_seq: store.last_seq,
            live_bytes: store.live_bytes(),
        };
        Ok((store, report))
    }

    /// Makes both segments fit for appends after a recovery, and sets aside what is not. What was
    /// lost is in the new segment before the evidence moves away.
    fn settle(
        &mut self,
        fate: Option<Fate>,
        torn_bytes: u64,
        damaged: &[(u32, u64)],
    ) -> Result<Vec<PathBuf>, StoreError> {
        let mut quarantined = Vec::new();
        self.need_spare()?;
        if let Some(fate) = fate {
            quarantined.extend(self.switch(fate)?);
        } else {
            let path = self.directory.path_of(self.active.number);
            let mended = self.active.mend(self.tail, torn_bytes);
            mended.map_err(|cause| StoreError::refused("mend", &path, cause))?;
        }
        for &(number, _) in damaged {
            let path = self.directory.path_of(number);
            let kept = self.directory.quarantine(number);
            quarantined.push(kept.map_err(|cause| StoreError::refused("move", &path, cause))?);
        }
        self.need_spare()?;
        self.stats = Stats::default();
        Ok(quarantined)
    }

    fn need_spare(&mut self) -> Result<(), StoreError> {
        if self.spare.is_none() {
            self.spare = Some(self.directory.create_segment(self.segment_bytes)?);
        }
        Ok(())
    }
}

/// Keeps one segment that can be compacted into, removes the others.
fn take_spare(
    directory: &Directory,
    others: Vec<Segment>,
    segment_bytes: u64,
) -> Result<Option<Segment>, StoreError> {
    let mut spare = None;
    for segment in others {
        let whole = segment.file.size().is_ok_and(|size| size == segment_bytes);
        if spare.is_none() && whole && segment.seal.segment_bytes == segment_bytes {
            spare = Some(segment);
        } else {
            directory.remove(segment.number)?;
        }
    }
    Ok(spare)
}

/// Hands out what the journal in `dir` holds without locking or changing it.
///
/// While its owner runs this shows one moment, unless two compactions overtake it: records then
/// appear as a gap.
///
/// # Errors
/// Refuses what [`Store::open`] refuses to read.
pub fn scan(dir: &Path, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<OpenReport, StoreError> {
    let Survey { active, damaged, .. } = directory::survey(&FileSystem, dir, false)?;
    let recovered = recover(active.as_ref(), &damaged, visit);
    let Recovery { live, tail, records } =
        recovered.map_err(|cause| StoreError::io("read journal", dir, cause))?;
    Ok(OpenReport {
        created: false,
        records,
        torn_bytes: tail.torn_bytes,
        quarantined: Vec::new(),
        last_seq: tail.last_seq,
        live_bytes: live.bytes(),
    })
}
