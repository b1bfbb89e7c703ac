//! The outputs of steps as files, for `limpet logs`: one directory per task, one file per attempt
//! and stream.
//!
//! Bounded in bytes over all tasks; the oldest tasks go first. Nothing waits for these files to be
//! durable, and nothing depends on them: what cannot be written is left out.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that all logs together may take before the oldest task's are removed.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes written between two looks at the sum.
const LOOK_EVERY: u64 = 1024 * 1024;

/// The directory of logs.
#[derive(Debug)]
pub struct Spool {
    root: PathBuf,
    since_look: u64,
}

impl Spool {
    /// Logs beneath a directory, which is made when it is needed.
    #[must_use]
    pub fn new(root: &Path) -> Spool {
        Spool { root: root.to_owned(), since_look: LOOK_EVERY }
    }

    /// Adds bytes to a file of a task.
    pub fn append(&mut self, task: &str, file: &str, bytes: &[u8]) {
        let directory = self.root.join(task);
        let path = directory.join(file);
        let open = || File::options().append(true).create(true).open(&path);
        let opened = open().or_else(|_| {
            fs::create_dir_all(&directory)?;
            open()
        });
        if let Ok(mut file) = opened {
            let _ = file.write_all(bytes);
        }
        self.since_look += bytes.len() as u64;
        if self.since_look >= LOOK_EVERY {
            self.since_look = 0;
            self.prune();
        }
    }

    /// Removes the tasks that were written to longest ago until the rest is within the bound.
    fn prune(&self) {
        let mut tasks: Vec<(SystemTime, u64, PathBuf)> = entries(&self.root)
            .map(|task| {
                let files = entries(&task).filter_map(|file| fs::metadata(file).ok());
                let newest =
                    |meta: &fs::Metadata| meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let (mut time, mut bytes) = (SystemTime::UNIX_EPOCH, 0);
                for file in files {
                    (time, bytes) = (time.max(newest(&file)), bytes + file.len());
                }
                (time, bytes, task)
            })
            .collect();
        tasks.sort();
        let mut sum: u64 = tasks.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, task) in tasks {
            if sum <= BYTES_MAX {
                return;
            }
            if fs::remove_dir_all(task).is_ok() {
                sum -= bytes;
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
