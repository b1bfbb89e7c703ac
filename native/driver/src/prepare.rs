//! From journaled bytes to what one attempt runs: the one call made at dispatch.
//!
//! It decides only the order of the checks. The bytes come from a journal, so each may be damaged.
#![forbid(unsafe_code)]

use crate::containment::Limits;
use crate::expand::{Ended, expand};
use crate::launch::{Refusal, Work};
use crate::plan::{Extension, Plan, Retry};
use crate::table::Table;

/// Bytes of an attempt's spooled output where neither the step nor its tool bounds it.
pub const OUTPUT_BYTES: u64 = 1024 * 1024;

/// What is to be done with a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// Start an attempt.
    Start {
        /// What it runs.
        work: Work,
        /// Its bounds.
        spec: Box<Spec>,
    },
    /// Its `when` does not hold.
    Skip,
    /// It may not run.
    Refused(Refusal),
    /// The journal holds what was never written; a sentence says where.
    Damaged(String),
}

/// The bounds of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name of the step.
    pub step: String,
    /// From started to ended, in milliseconds.
    pub start_to_close_ms: u32,
    /// Between two lines on descriptor 3, in milliseconds.
    pub heartbeat_ms: Option<u32>,
    /// Between TERM and KILL, in milliseconds.
    pub grace_ms: u32,
    /// When it is repeated.
    pub retry: Retry,
    /// What its processes may use together.
    pub limits: Limits,
    /// Output spooled to its log.
    pub output_bytes: u64,
    /// What its task's directory may take.
    pub directory_bytes: Option<u64>,
}

impl Spec {
    /// What of it the machine keeps.
    #[must_use]
    pub fn bounds(&self) -> limpet_core::message::Spec {
        limpet_core::message::Spec {
            start_to_close_ms: self.start_to_close_ms,
            heartbeat_ms: self.heartbeat_ms.unwrap_or(0),
            grace_ms: self.grace_ms,
            maximum_attempts: u8::try_from(self.retry.maximum_attempts).unwrap_or(u8::MAX),
            before_exec_only: self.retry.on == crate::plan::RetryOn::BeforeExec,
            initial_interval_ms: self.retry.initial_interval_ms,
            backoff_milli: self.retry.backoff_coefficient_milli,
            maximum_interval_ms: self.retry.maximum_interval_ms,
            jitter_milli: self.retry.jitter_milli,
        }
    }
}

/// Decides what to do with step `step` of a journaled task; `prior` holds the ends of earlier steps
/// by index, of which the last for an index counts.
///
/// In this order: the plan is read and its extensions are appended in theirs (`Damaged` on any
/// fault: they were checked before they were written), the ends are read (`Damaged`), `when` is
/// evaluated (`Skip`, which needs no permission), the input is expanded, and the outcome is
/// authorised (`Refused`).
pub fn prepare(
    table: &Table,
    plan: &[u8],
    extensions: &[Vec<u8>],
    step: u8,
    prior: &[(u8, Vec<u8>)],
) -> Prepared {
    let index = usize::from(step);
    let plan = match read_plan(plan, extensions) {
        Ok(plan) => plan,
        Err(refusal) => return Prepared::Damaged(refusal.detail),
    };
    let Some(subject) = plan.steps.get(index) else {
        let count = plan.steps.len();
        let text = format!("cannot start step {step}: its plan has {count} (task not continued)");
        return Prepared::Damaged(text);
    };
    let ends = match read_ends(&plan, prior) {
        Ok(ends) => ends,
        Err(cause) => return Prepared::Damaged(cause),
    };
    if subject.when.as_ref().is_some_and(|when| !when.holds(&ends)) {
        return Prepared::Skip;
    }
    let work = expand(&plan, index, &ends, &table.device)
        .and_then(|expanded| table.authorise(&plan, index, expanded));
    match work {
        Ok(work) => Prepared::Start { work, spec: Box::new(spec(table, &plan, index)) },
        Err(refusal) => Prepared::Refused(refusal),
    }
}

fn read_plan(plan: &[u8], extensions: &[Vec<u8>]) -> Result<Plan, Refusal> {
    let mut plan = Plan::parse(plan)?;
    for extension in extensions {
        plan.extend(Extension::parse(extension)?)?;
    }
    Ok(plan)
}

fn read_ends(plan: &Plan, prior: &[(u8, Vec<u8>)]) -> Result<Vec<Option<Ended>>, String> {
    let mut ends = vec![None; plan.steps.len()];
    for (index, payload) in prior {
        let damaged = |cause: &str| {
            format!("cannot read the end of step {index}: {cause} (the task is not continued)")
        };
        let ended = Ended::parse(payload).map_err(|cause| damaged(&cause))?;
        let place = ends.get_mut(usize::from(*index)).filter(|_| ended.step == *index);
        *place.ok_or_else(|| damaged("it is of another step"))? = Some(ended);
    }
    Ok(ends)
}

/// The step's bounds; where it sets no limit, its tool's ceiling is the limit.
fn spec(table: &Table, plan: &Plan, index: usize) -> Spec {
    let step = &plan.steps[index];
    let ceilings = table.tools.get(&step.tool).map(|tool| &tool.ceilings);
    let output = step.limits.output_bytes.or(ceilings.and_then(|bounds| bounds.output_bytes));
    Spec {
        step: step.name.clone(),
        start_to_close_ms: step.clocks.start_to_close_ms,
        heartbeat_ms: step.clocks.heartbeat_ms,
        grace_ms: step.clocks.grace_ms,
        retry: step.retry.clone(),
        limits: Limits {
            memory_bytes: table.memory_bytes(step),
            pids: step.limits.pids,
            cpu_milli: step.limits.cpu_milli,
        },
        output_bytes: output.unwrap_or(OUTPUT_BYTES),
        directory_bytes: table.directory_bytes,
    }
}
