//! Decides how much of the disk a task's directory takes, and when to look again.
//!
//! Knows no task and ends nothing. What is measured is what the file system has given, name by
//! name; between two looks a step can take more, so that a look also comes before each start.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Names looked at; a directory with more counts as full. Each costs a system call.
const NAMES_MAX: u32 = 65_536;
/// Between two looks, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// A look takes at most one part of so many of the time: a large directory is looked at less often.
const SHARE: u32 = 20;
/// `st_blocks` counts these, whatever the file system's own are (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// A directory and how many bytes the files in it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Which.
    pub directory: PathBuf,
    /// How many.
    pub bytes: u64,
}

impl Quota {
    /// A sentence, when the directory takes more. What cannot be looked at takes nothing.
    #[must_use]
    pub fn excess(&self) -> Option<String> {
        let (bytes, directory) = (self.bytes, self.directory.display());
        match self.used() {
            None => Some(format!("cannot keep {directory}: it has more than {NAMES_MAX} names")),
            Some(used) if used > bytes => {
                Some(format!("cannot keep {directory} within {bytes} bytes: its files take {used}"))
            }
            Some(_) => None,
        }
    }

    /// Bytes that its files take; `None` when there are too many to count.
    fn used(&self) -> Option<u64> {
        let (mut used, mut names) = (0_u64, 0);
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries.flatten() {
                names += 1;
                if names > NAMES_MAX {
                    return None;
                }
                // Of the name itself: a link is not followed.
                let Ok(found) = entry.metadata() else { continue };
                used = used.saturating_add(found.blocks().saturating_mul(BLOCK_BYTES));
                if found.is_dir() {
                    directories.push(entry.path());
                }
            }
        }
        Some(used)
    }
}

/// When to look.
#[derive(Debug)]
pub struct Rounds {
    next: Instant,
}

impl Rounds {
    /// The first look comes after the pause.
    #[must_use]
    pub fn new(now: Instant) -> Rounds {
        Rounds { next: now + PAUSE }
    }

    /// How long until the next look.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// A look began at `began` and has ended at `now`.
    pub fn looked(&mut self, began: Instant, now: Instant) {
        self.next = now + PAUSE.max((now - began) * SHARE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn quota(directory: &tempfile::TempDir, bytes: u64) -> Quota {
        Quota { directory: directory.path().to_owned(), bytes }
    }

    /// Files in every depth count, holes and what links lead to do not.
    #[test]
    fn what_the_files_take_is_counted() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        let hole = fs::File::create(inside.path().join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        assert_eq!(quota(&inside, 1 << 18).excess(), None);
        fs::create_dir_all(inside.path().join("a/b/c")).unwrap();
        fs::write(inside.path().join("a/b/c/file"), vec![1; 1 << 19]).unwrap();
        let said = quota(&inside, 1 << 18).excess().expect("too much");
        assert!(said.contains("within 262144 bytes"), "{said}");
        assert_eq!(quota(&inside, 1 << 20).excess(), None);
    }

    /// A directory that is not there yet is empty.
    #[test]
    fn a_missing_directory_takes_nothing() {
        let missing = Quota { directory: "/does/not/exist".into(), bytes: 0 };
        assert_eq!(missing.excess(), None);
    }

    /// A slow look makes the next one come later.
    #[test]
    fn looks_keep_their_share_of_the_time() {
        let start = Instant::now();
        let mut rounds = Rounds::new(start);
        assert_eq!(rounds.wait(start), PAUSE);
        let end = start + Duration::from_secs(3);
        rounds.looked(start, end);
        assert_eq!(rounds.wait(end), Duration::from_secs(60));
        rounds.looked(end, end);
        assert_eq!(rounds.wait(end), PAUSE);
    }
}
