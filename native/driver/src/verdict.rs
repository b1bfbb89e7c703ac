//! Verdicts of the machine as numbers and words for the host.

use limpet_core::message::Verdict;
use serde_json::json;

/// Accepted, and durable.
pub const ACCEPTED: u32 = 1;
/// Known: it lives.
pub const ALIVE: u32 = 2;
/// Known: it has ended.
pub const ENDED: u32 = 3;
/// Refused.
pub const REFUSED: u32 = 4;
/// A cancel was taken up.
pub const CANCELLING: u32 = 5;
/// A cancel is remembered for a task that has not come yet.
pub const REMEMBERED: u32 = 6;

/// The number of a verdict, and a JSON object with what else there is to say.
#[must_use]
pub fn told(verdict: &Verdict) -> (u32, String) {
    let (number, value) = match verdict {
        Verdict::Accepted => (ACCEPTED, json!({})),
        Verdict::Alive => (ALIVE, json!({})),
        Verdict::Ended(outcome) => (ENDED, json!({"outcome": outcome.name()})),
        Verdict::Refused(reason) => (REFUSED, json!({"code": reason.code()})),
        Verdict::Cancelling => (CANCELLING, json!({})),
        Verdict::Remembered => (REMEMBERED, json!({})),
    };
    (number, value.to_string())
}
