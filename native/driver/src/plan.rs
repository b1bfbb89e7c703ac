//! The form and the bounds of a compiled task; it knows no tool and no policy.
//!
//! A plan was compiled and checked before it was journaled, but a journal is a file and a file can
//! lie: every bound is checked again here, so that nothing behind this module has to.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::launch::Refusal;
use crate::template::Input;

/// Bytes of a plan together with its extensions.
pub const PLAN_BYTES_MAX: usize = 128 * 1024;
/// Steps of one plan, main and finally, extensions included.
pub const STEPS_MAX: usize = 32;
/// Characters of a name: of a step, a tool, a task id or a source.
pub const NAME_LENGTH_MAX: usize = 64;
/// Milliseconds of any clock or interval: 24 days, so that a sum of them fits everywhere.
pub const CLOCK_MS_MAX: u32 = 1 << 31;
/// The last instant, in milliseconds since 1970, whose nanoseconds fit 63 bits (year 2262).
pub const INSTANT_MS_MAX: u64 = 9_223_372_036_854;
/// Names on the way into a result.
pub const PATH_LENGTH_MAX: usize = 16;
/// Bytes of one name on the way into a result.
pub const PATH_NAME_BYTES_MAX: usize = 128;
/// Bytes of a refusal's detail; a task cannot fill a log with its own text.
const DETAIL_BYTES_MAX: usize = 1024;

/// A compiled task: main steps first, then finally steps, then main steps of extensions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this form; 1.
    #[serde(rename = "plan")]
    pub version: u8,
    /// The controller's name for the task: 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Who sent it, in the same alphabet.
    pub source: String,
    /// When the task is stale, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Timeout of the whole task, in milliseconds; `None` is none.
    pub schedule_to_close_ms: Option<u32>,
    /// Timeout of all finally steps together, in milliseconds.
    pub finally_ms: u32,
    /// Higher goes first: -100 to 100.
    pub priority: i8,
    /// What of it the host is told. Plans of version 0.1.0 and before do not say.
    #[serde(default)]
    pub report: Report,
    /// What extensions may add.
    pub ceilings: Ceilings,
    /// At most 32 steps; a step's index is its position here.
    pub steps: Vec<Step>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    added: usize,
}

/// What the host is told of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Every state, and the result.
    #[default]
    All,
    /// The result alone.
    Result,
}

/// What the extensions of a plan may add to it; nothing by default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Steps, over all extensions.
    pub steps: usize,
    /// The tools that added steps may use, by name.
    pub tools: Vec<String>,
}

/// One tool call of a task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique within the plan: 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// The tool to run, in the same alphabet.
    pub tool: String,
    /// Runs after the task's outcome is fixed.
    pub finally: bool,
    /// Interrupted, it is not run again: the task becomes uncertain.
    pub stop: bool,
    /// Its failure does not end the task.
    pub guarded: bool,
    /// Its directory is kept for debugging.
    pub keep: bool,
    /// Timeouts of its attempts.
    pub clocks: Clocks,
    /// When a failed attempt is repeated.
    pub retry: Retry,
    /// Condition under which it runs at all.
    pub when: Option<When>,
    /// Bounds on what an attempt may use.
    pub limits: Limits,
    /// What the tool gets, with references still in it.
    pub input: Input,
}

/// Timeouts of one attempt, each 1 to 2^31 milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// From runnable to started, waiting for memory included.
    pub schedule_to_start_ms: Option<u32>,
    /// From started to ended.
    pub start_to_close_ms: u32,
    /// Between two lines on the child's descriptor 3.
    pub heartbeat_ms: Option<u32>,
    /// Between TERM and KILL.
    pub grace_ms: u32,
}

/// Which failed attempts are repeated, how often and when.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// 1 to 100; 1 means never again.
    pub maximum_attempts: u32,
    /// Wait before the second attempt, 1 to 2^31 milliseconds.
    pub initial_interval_ms: u32,
    /// Growth of the wait in thousandths: 1000 to 10000.
    pub backoff_coefficient_milli: u32,
    /// Longest wait, 1 to 2^31 milliseconds.
    pub maximum_interval_ms: u32,
    /// Part of the wait that is random, in thousandths: 0 to 1000.
    pub jitter_milli: u32,
    /// Which failures count.
    pub on: RetryOn,
}

/// Failures after which an attempt may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Every failure.
    Any,
    /// Only those proven to have happened before the program ran: safe for a `stop` step.
    BeforeExec,
}

/// Bounds on one attempt; absent means what the tool's ceiling says.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of all its processes together, at least 1.
    pub memory_bytes: Option<u64>,
    /// Output spooled to its log, at least 1.
    pub output_bytes: Option<u64>,
    /// Processes and threads at once, at least 1.
    pub pids: Option<u32>,
    /// Processor time per time, in thousandths of one processor, at least 1.
    pub cpu_milli: Option<u32>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are the protocol's; each is one word of it.
pub enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    OutOfMemory,
    Killed,
    Uncertain,
    Dead,
    Refused,
    Skipped,
}

/// A condition on an earlier step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawWhen")]
pub struct When {
    /// Index of that step.
    pub step: u8,
    /// What must be so.
    pub test: Test,
    /// ... or must not be so.
    pub negate: bool,
}

/// What a condition compares.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// The step's outcome.
    Outcome(Outcome),
    /// The exit code of its last attempt.
    ExitCode(i32),
    /// A scalar inside its result, found by these names.
    Result(Vec<String>, Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWhen {
    step: u8,
    negate: bool,
    outcome: Option<Outcome>,
    exit_code: Option<i32>,
    path: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// Keeps an explicit `null` apart from an absent value.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl TryFrom<RawWhen> for When {
    type Error = String;

    fn try_from(raw: RawWhen) -> Result<When, String> {
        let test = match (raw.outcome, raw.exit_code, raw.path, raw.value) {
            (Some(outcome), None, None, None) => Test::Outcome(outcome),
            (None, Some(code), None, None) => Test::ExitCode(code),
            (None, None, Some(_), Some(Value::Array(_) | Value::Object(_))) => {
                return Err("a when compares with a scalar only".into());
            }
            (None, None, Some(path), Some(value)) => {
                check_path(&path)?;
                Test::Result(path, value)
            }
            _ => return Err("a when holds exactly one test".into()),
        };
        Ok(When { step: raw.step, test, negate: raw.negate })
    }
}

/// Steps that a running task adds to itself: main steps only, indexes continue the plan's.
///
/// The fields beside `steps` are optional: they say which plan is meant, and must fit it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Version of this form; 1.
    #[serde(rename = "plan")]
    pub version: Option<u8>,
    /// The task.
    pub id: Option<String>,
    /// Its source.
    pub source: Option<String>,
    /// Index of the step whose result asked for the new ones.
    pub after: Option<u8>,
    /// What may still be added afterwards; the plan keeps its own count and never trusts this.
    pub ceilings: Option<Ceilings>,
    /// At least one step.
    pub steps: Vec<Step>,
    #[serde(skip)]
    bytes: usize,
}

impl Plan {
    /// Reads a compiled task and checks every bound of it.
    ///
    /// Refusals: `plan_too_long` above 128 KiB, before anything is parsed, and `plan_invalid`.
    pub fn parse(bytes: &[u8]) -> Result<Plan, Refusal> {
        check_size(bytes.len())?;
        let mut plan: Plan = serde_json::from_slice(bytes)
            .map_err(|error| refusal("plan_invalid", unreadable("plan", &error)))?;
        plan.bytes = bytes.len();
        plan.check().map_err(|cause| {
            refusal("plan_invalid", format!("cannot accept plan: {cause} (the task is refused)"))
        })?;
        Ok(plan)
    }

    /// Appends an extension, within the plan's ceilings; on a refusal the plan is unchanged.
    ///
    /// Refusals: `plan_too_long`, `plan_invalid`, and `extension_above_ceiling`, which names the
    /// ceiling.
    pub fn extend(&mut self, extension: Extension) -> Result<(), Refusal> {
        let refused = |code, cause: String| {
            let head = format!("cannot extend task '{}'", self.id);
            refusal(code, format!("{head}: {cause} (the steps are refused)"))
        };
        self.check_meant(&extension).map_err(|cause| refused("plan_invalid", cause))?;
        let added = self.added + extension.steps.len();
        if added > self.ceilings.steps {
            let cause = format!("{added} added steps exceed its ceiling {}", self.ceilings.steps);
            return Err(refused("extension_above_ceiling", cause));
        }
        let foreign = |step: &&Step| !self.ceilings.tools.contains(&step.tool);
        if let Some(step) = extension.steps.iter().find(foreign) {
            let cause = format!("its ceilings do not name tool '{}'", brief(&step.tool));
            return Err(refused("extension_above_ceiling", cause));
        }
        check_size(self.bytes + extension.bytes)?;
        let mut extended = self.clone();
        extended.steps.extend(extension.steps);
        extended.check_steps(self.steps.len()).map_err(|cause| refused("plan_invalid", cause))?;
        extended.added = added;
        extended.bytes += extension.bytes;
        *self = extended;
        Ok(())
    }

    /// Whether an extension is of this very plan, as far as it says.
    fn check_meant(&self, extension: &Extension) -> Result<(), String> {
        require(extension.version.is_none_or(|version| version == 1), "its version is not 1")?;
        let same = extension.id.as_ref().is_none_or(|id| *id == self.id)
            && extension.source.as_ref().is_none_or(|source| *source == self.source);
        require(same, "the extension is of another task")?;
        let after = extension.after.map(usize::from);
        require(after.is_none_or(|step| step < self.steps.len()), "it has no such step")
    }

    fn check(&self) -> Result<(), String> {
        require(self.version == 1, "its version is not 1")?;
        require(is_name(&self.id), "its id is not a name")?;
        require(is_name(&self.source), "its source is not a name")?;
        let instant = (1..=INSTANT_MS_MAX).contains(&self.expires_at_ms);
        require(instant, "expires_at_ms is out of range")?;
        require(
            self.schedule_to_close_ms.is_none_or(is_clock),
            "schedule_to_close_ms is out of range",
        )?;
        require(is_clock(self.finally_ms), "finally_ms is out of range")?;
        require(self.priority.unsigned_abs() <= 100, "its priority is not -100 to 100")?;
        let few = self.ceilings.steps <= STEPS_MAX && self.ceilings.tools.len() <= STEPS_MAX;
        require(few, "a ceiling is above 32")?;
        let named = self.ceilings.tools.iter().all(|tool| is_name(tool));
        require(named, "a tool of its ceilings is not a name")?;
        require(self.steps.first().is_some_and(|step| !step.finally), "it has no main step")?;
        let ordered = self.steps.is_sorted_by_key(|step| step.finally);
        require(ordered, "a main step follows a finally step")?;
        self.check_steps(0)
    }

    /// Checks the steps from index `from` on; those before it were checked already.
    fn check_steps(&self, from: usize) -> Result<(), String> {
        require(self.steps.len() <= STEPS_MAX, "it has more than 32 steps")?;
        let mut names = BTreeSet::new();
        for (index, step) in self.steps.iter().enumerate() {
            require(names.insert(&step.name), "two steps have the same name")?;
            if index >= from {
                step.check()
                    .and_then(|()| self.check_references(index, step))
                    .map_err(|cause| format!("step '{}': {cause}", brief(&step.name)))?;
            }
        }
        Ok(())
    }

    /// A step may look back only; a main step never at a finally step, which has yet to run.
    fn check_references(&self, index: usize, step: &Step) -> Result<(), String> {
        let mut targets = step.input.steps();
        targets.extend(step.when.as_ref().map(|when| when.step));
        for target in targets.into_iter().map(usize::from) {
            require(target < index, "it refers to a step that is not earlier")?;
            let main = step.finally || !self.steps[target].finally;
            require(main, "a main step refers to a finally step")?;
        }
        Ok(())
    }
}

impl Step {
    fn check(&self) -> Result<(), String> {
        require(is_name(&self.name), "its name is not a name")?;
        require(is_name(&self.tool), "its tool is not a name")?;
        let clocks = &self.clocks;
        let optional = [clocks.schedule_to_start_ms, clocks.heartbeat_ms];
        let in_range = is_clock(clocks.start_to_close_ms)
            && is_clock(clocks.grace_ms)
            && optional.into_iter().flatten().all(is_clock);
        require(in_range, "a clock is out of range")?;
        let limits = &self.limits;
        let zero = [limits.memory_bytes, limits.output_bytes].contains(&Some(0))
            || [limits.pids, limits.cpu_milli].contains(&Some(0));
        require(!zero, "a limit is zero")?;
        self.retry.check()?;
        let once = !self.stop || self.retry.maximum_attempts == 1;
        let safe = once || self.retry.on == RetryOn::BeforeExec;
        require(safe, "a stop step may be repeated only before exec")
    }
}

impl Retry {
    fn check(&self) -> Result<(), String> {
        let attempts = (1..=100).contains(&self.maximum_attempts);
        require(attempts, "maximum_attempts is not 1 to 100")?;
        let coefficient = (1000..=10_000).contains(&self.backoff_coefficient_milli);
        require(coefficient, "backoff_coefficient_milli is not 1000 to 10000")?;
        require(self.jitter_milli <= 1000, "jitter_milli is not 0 to 1000")?;
        let intervals = is_clock(self.initial_interval_ms) && is_clock(self.maximum_interval_ms);
        require(intervals, "a retry interval is out of range")
    }
}

impl Extension {
    /// Reads the steps a task adds to itself; what depends on the plan is checked by
    /// [`Plan::extend`]. Refusals: `plan_too_long`, `plan_invalid`.
    pub fn parse(bytes: &[u8]) -> Result<Extension, Refusal> {
        check_size(bytes.len())?;
        let mut extension: Extension = serde_json::from_slice(bytes)
            .map_err(|error| refusal("plan_invalid", unreadable("extension", &error)))?;
        extension.bytes = bytes.len();
        let main = extension.steps.iter().all(|step| !step.finally);
        if extension.steps.is_empty() || !main {
            let text = "cannot accept extension: it adds no step, or a finally step (refused)";
            return Err(refusal("plan_invalid", text));
        }
        Ok(extension)
    }
}

/// A refusal with its detail cut to 1 KiB.
pub(crate) fn refusal(code: &'static str, detail: impl Into<String>) -> Refusal {
    let mut detail = detail.into();
    let mut end = DETAIL_BYTES_MAX.min(detail.len());
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail.truncate(end);
    Refusal { code, detail }
}

/// The first characters of a text from outside, for use inside a sentence.
pub(crate) fn brief(text: &str) -> String {
    let mut short: String =
        text.chars().take(NAME_LENGTH_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(NAME_LENGTH_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// Whether a text is 1 to 64 characters of `[A-Za-z0-9._-]`.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether the names that lead into a result are few, short and not empty.
pub(crate) fn check_path(path: &[String]) -> Result<(), String> {
    let few = (1..=PATH_LENGTH_MAX).contains(&path.len());
    let short = path.iter().all(|name| (1..=PATH_NAME_BYTES_MAX).contains(&name.len()));
    require(few && short, "a path into a result is empty or too long")
}

fn is_clock(milliseconds: u32) -> bool {
    (1..=CLOCK_MS_MAX).contains(&milliseconds)
}

fn check_size(bytes: usize) -> Result<(), Refusal> {
    if bytes <= PLAN_BYTES_MAX {
        return Ok(());
    }
    let text = format!("cannot accept plan: {bytes} bytes exceed {PLAN_BYTES_MAX} (it is refused)");
    Err(refusal("plan_too_long", text))
}

fn unreadable(what: &str, error: &serde_json::Error) -> String {
    format!("cannot read {what}: {error} (it is refused)")
}

fn require(condition: bool, cause: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(cause.into()) }
}
