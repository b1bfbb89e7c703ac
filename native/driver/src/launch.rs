//! What one attempt runs, after expansion and authorisation: the only form the spawner accepts.
//!
//! Everything here has been decided; nothing in it refers back to a task or a policy.

use std::path::PathBuf;
use std::time::Duration;

/// The work of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A child process.
    Process(Launch),
    /// Nothing but time (`sleep`): succeeds when it has passed.
    Sleep(Duration),
    /// A message below the device's own prefix, sent by the host.
    Publish {
        /// Topic below the device's prefix, without leading slash.
        topic: String,
        /// Payload bytes, already encoded.
        payload: Vec<u8>,
        /// Whether the broker keeps it.
        retain: bool,
    },
    /// A restart of the device, carried out by the host; succeeds when the boot id has changed.
    Reboot,
}

/// A process to start. All strings are free of NUL bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Name of its step, for whoever asks what runs.
    pub step: String,
    /// argv; `argv[0]` is an absolute path.
    pub argv: Vec<String>,
    /// The whole environment of the child, except `LIMPET_FD`, which the spawner adds.
    pub environment: Vec<(String, String)>,
    /// Working directory, created by the spawner if missing (mode 0700, owned by `user`).
    pub directory: PathBuf,
    /// Bytes for the child's standard input (at most 64 KiB); `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// Login name to run as; `None` keeps the agent's own user.
    pub user: Option<String>,
    /// Secrets, as environment name and the file that holds it: read just before the start.
    pub secrets: Vec<(String, PathBuf)>,
}

/// Why an attempt was refused: a stable code and a sentence that names what would allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable `snake_case` reason code.
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
}
