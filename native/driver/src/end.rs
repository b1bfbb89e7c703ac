//! How a step ended, as the journal keeps it: one JSON object within a bound.
#![forbid(unsafe_code)]

use limpet_core::message::Outcome;
use serde::Serialize;
use serde_json::{Map, Value};

/// No end of a step takes more of the journal; see `Limits::ended_bytes`.
const ENDED_BYTES_MAX: usize = 8 * 1024 - 64;

/// The end of a step. The default is that of a step without an attempt, but for its outcome.
#[derive(Debug, Default, Serialize)]
pub struct End<'a> {
    /// Index of the step.
    pub step: u8,
    /// Its last attempt, 0 if there was none.
    pub attempt: u8,
    /// Its outcome's name.
    pub outcome: &'static str,
    /// The code that its leader ended with, if it did.
    pub exit_code: Option<i32>,
    /// The signal that ended its leader, if one did.
    pub signal: Option<i32>,
    /// The clock that ran out.
    pub clock: Option<&'static str>,
    /// Why it was refused or did not start.
    pub reason: Option<&'a str>,
    /// The same as a sentence.
    pub detail: Option<&'a str>,
    /// The JSON object that it reported.
    pub result: Option<&'a Map<String, Value>>,
    /// What it wrote to its standard output.
    pub stdout: Output<'a>,
    /// What it wrote to its standard error.
    pub stderr: Output<'a>,
    /// Time on the processor, ms.
    pub user_ms: u64,
    /// Time in the kernel, ms.
    pub system_ms: u64,
    /// The most memory that its processes took together.
    pub peak_bytes: Option<u64>,
    /// What they might have taken.
    pub limit_bytes: Option<u64>,
    /// What kept that limit.
    pub memory: &'static str,
    /// Limits that nothing kept.
    pub not_enforced: &'a [&'static str],
    /// Descendants that had to be killed after its leader's end.
    pub stragglers: u32,
    /// How late a clock was kept that ended it, in µs.
    pub late_us: Option<u64>,
    /// Wall clock of its start, ms since 1970.
    pub started_ms: u64,
    /// Wall clock of its end.
    pub ended_ms: u64,
    /// What contained its processes.
    pub containment: &'static str,
}

/// What was kept of an output.
#[derive(Debug, Default, Serialize)]
pub struct Output<'a> {
    /// Its beginning.
    pub head: &'a str,
    /// Its end.
    pub tail: &'a str,
    /// Bytes written, kept or not.
    pub bytes: u64,
}

impl End<'_> {
    /// The end of a step whose attempt, if there was one, left nothing to tell.
    #[must_use]
    pub fn bare(step: u8, attempt: u8, outcome: Outcome, code: i32) -> Self {
        let exited = matches!(outcome, Outcome::Succeeded | Outcome::Failed) && code >= 0;
        let exit_code = exited.then_some(code);
        End { step, attempt, outcome: outcome.name(), exit_code, ..End::default() }
    }

    /// As JSON within [`ENDED_BYTES_MAX`]: escapes can make four kilobytes of output six times as
    /// long. Ends of outputs go first, then their beginnings.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        for cut in [
            |end: &mut Self| end.stdout.tail = "",
            |end: &mut Self| end.stderr.tail = "",
            |end: &mut Self| end.stderr.head = "",
            |end: &mut Self| end.stdout.head = "",
        ] {
            let bytes = self.written();
            if bytes.len() <= ENDED_BYTES_MAX {
                return bytes;
            }
            cut(&mut self);
        }
        self.written()
    }

    fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("all keys are text")
    }
}
