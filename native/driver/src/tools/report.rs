//! What a tool says on the descriptor that `LIMPET_FD` names: one JSON object a line.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Two lines a second show movement and cost nothing.
const INTERVAL: Duration = Duration::from_millis(500);

/// Writes the result; to standard output when there is no descriptor.
///
/// # Errors
/// A sentence.
pub fn result(result: &Value) -> Result<(), String> {
    let line = format!("{}\n", json!({"result": result}));
    let written = match descriptor() {
        Some(file) => file.and_then(|mut file| file.write_all(line.as_bytes())),
        None => io::stdout().write_all(line.as_bytes()),
    };
    written.map_err(|cause| format!("cannot report the result: {cause}"))
}

fn descriptor() -> Option<io::Result<File>> {
    let fd = std::env::var("LIMPET_FD").ok()?;
    Some(File::options().write(true).open(format!("/proc/self/fd/{fd}")))
}

/// Tells how far a tool has come; each line is its heartbeat, too.
#[derive(Debug)]
pub struct Progress {
    to: Option<File>,
    told: Option<Instant>,
}

impl Progress {
    /// Without a descriptor nothing is told.
    pub fn open() -> Progress {
        Progress { to: descriptor().and_then(Result::ok), told: None }
    }

    /// Tells it unless that was done within the last half second.
    pub fn tell(&mut self, bytes: u64, total: Option<u64>) {
        if self.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        self.told = Some(Instant::now());
        let line = format!("{}\n", json!({"progress": {"bytes": bytes, "total": total}}));
        // Nobody listening is no reason to stop.
        self.to = self.to.take().filter(|mut to| to.write_all(line.as_bytes()).is_ok());
    }
}
