//! Why the journal refuses or fails, in words an operator can act on.
//!
//! Decides the names and the sentences; must not decide what happens next, only say it.

use std::io;
use std::path::{Path, PathBuf};
use std::{error, fmt};

/// A refusal at open, or a failure later. Nothing that was committed is lost by any of them.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The segment size in the options is outside its bounds or not whole pages.
    SegmentBytes {
        /// What was asked for.
        given: u64,
    },
    /// What is alive does not fit segments of the size in the options.
    SegmentTooSmall {
        /// The journal's directory.
        path: PathBuf,
        /// Bytes that are alive.
        live_bytes: u64,
    },
    /// The directory that should hold the journal's directory does not exist.
    MissingParent {
        /// The journal's directory.
        path: PathBuf,
    },
    /// The path, or one above it, is something else than a directory.
    NotADirectory {
        /// The journal's directory.
        path: PathBuf,
    },
    /// The directory or its file system cannot be written.
    ReadOnly {
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has this journal open.
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file with a segment's name that no limpet wrote.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A segment written by a newer limpet.
    FromTheFuture {
        /// The segment.
        path: PathBuf,
        /// The format version it has.
        version: u32,
    },
    /// The segments cannot be filled with zeros in advance.
    NoSpace {
        /// The segment that could not be made.
        path: PathBuf,
        /// Bytes it needs.
        segment_bytes: u64,
    },
    /// A payload above [`PAYLOAD_BYTES_MAX`](super::PAYLOAD_BYTES_MAX).
    RecordTooLarge {
        /// Bytes of the payload.
        bytes: u64,
    },
    /// The live records leave no room for this one; ask `room_for` before accepting.
    Full {
        /// Bytes that are alive.
        live_bytes: u64,
    },
    /// The system refused an operation.
    Io {
        /// What was being done, as in `cannot <verb> <path>`.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A segment could not be synced, nor the one that should replace it. Permanent.
    Failed {
        /// The journal's directory.
        path: PathBuf,
        /// The last failure.
        cause: String,
    },
}

impl StoreError {
    /// An operation that failed for a cause of its own.
    pub(super) fn io(verb: &'static str, path: &Path, cause: io::Error) -> StoreError {
        StoreError::Io { verb, path: path.to_path_buf(), cause }
    }

    /// A write that the place itself refuses, if that is what the cause says.
    pub(super) fn refused(verb: &'static str, path: &Path, cause: io::Error) -> StoreError {
        let path = path.to_path_buf();
        match cause.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                StoreError::ReadOnly { path, cause }
            }
            io::ErrorKind::NotADirectory => StoreError::NotADirectory { path },
            _ => StoreError::Io { verb, path, cause },
        }
    }

    /// What and why, without what follows from it.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Io { path, cause, .. } | Self::ReadOnly { path, cause } => {
                format!("{}: {cause}", path.display())
            }
            Self::NoSpace { path, .. } => format!("{}: no space", path.display()),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, path, cause) = self.parts();
        match path {
            Some(path) => write!(f, "cannot {verb} {}: {cause}", path.display()),
            None => write!(f, "cannot {verb}: {cause}"),
        }
    }
}

impl StoreError {
    /// What was not done, to what, and why (with what happens next).
    fn parts(&self) -> (&'static str, Option<&Path>, String) {
        match self {
            Self::SegmentBytes { given } => {
                let (least, most) = (super::SEGMENT_BYTES_MIN, super::SEGMENT_BYTES_MAX);
                let cause = format!("{given} bytes are not whole pages from {least} to {most}");
                ("use segment size", None, cause + " (not starting)")
            }
            Self::SegmentTooSmall { path, live_bytes } => {
                let cause = format!("{live_bytes} live bytes do not fit (raise the segment size)");
                ("open journal", Some(path), cause)
            }
            Self::MissingParent { path } => {
                let cause = "its parent does not exist (not starting)";
                ("create journal", Some(path), cause.into())
            }
            Self::NotADirectory { path } => {
                let cause = "not a directory (not starting)";
                ("open journal", Some(path), cause.into())
            }
            Self::ReadOnly { path, cause } => {
                ("write", Some(path), format!("{cause} (not starting)"))
            }
            Self::Locked { path } => {
                let cause = "another process holds it (not starting)";
                ("lock journal", Some(path), cause.into())
            }
            Self::Foreign { path } => {
                let cause = "not written by limpet (left untouched; move it away)";
                ("read segment", Some(path), cause.into())
            }
            Self::FromTheFuture { path, version } => {
                let cause = format!("format version {version} is newer than this limpet");
                ("read segment", Some(path), cause + " (left untouched)")
            }
            Self::NoSpace { path, segment_bytes } => {
                let cause = format!("no space for its {segment_bytes} bytes (free some)");
                ("create segment", Some(path), cause)
            }
            Self::RecordTooLarge { bytes } => {
                let most = super::PAYLOAD_BYTES_MAX;
                let cause = format!("{bytes} bytes of payload are above {most} (not written)");
                ("append record", None, cause)
            }
            Self::Full { live_bytes } => {
                let cause = format!("{live_bytes} live bytes leave no room (not written)");
                ("append record", None, cause)
            }
            Self::Io { verb, path, cause } => {
                (verb, Some(path), format!("{cause} (nothing committed is lost)"))
            }
            Self::Failed { path, cause } => {
                let cause = format!("two segments failed, the last one at {cause}");
                ("write journal", Some(path), cause + " (what was committed stays)")
            }
        }
    }
}

impl error::Error for StoreError {}

/// Why a record cannot be read back.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// No live record has this task and number.
    Missing {
        /// The record's task.
        task: u64,
        /// The record's number.
        seq: u64,
    },
    /// The record no longer passes its checksum; the next compaction turns it into a gap.
    Damaged {
        /// The record's task.
        task: u64,
        /// The record's number.
        seq: u64,
    },
    /// The system refused to read.
    Io {
        /// What the system said.
        cause: io::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { task, seq } => {
                write!(f, "cannot read record {seq} of task {task}: not in the journal (skipped)")
            }
            Self::Damaged { task, seq } => {
                write!(f, "cannot read record {seq} of task {task}: wrong checksum (skipped)")
            }
            Self::Io { cause } => write!(f, "cannot read record: {cause} (skipped)"),
        }
    }
}

impl error::Error for ReadError {}
