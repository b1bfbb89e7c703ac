//! From what the host hands in to a submission: everything about a task that can be checked without
//! knowing the others.

use crate::host::Submission;
use crate::launch::Refusal;
use crate::names;
use crate::plan::{Extension, Outcome, Plan, Step, Test};
use crate::table::{Executor, Table};
use limpet_core::message::{self, StepHeader, When};

/// Checks a compiled task against form and policy.
///
/// # Errors
/// The first refusal.
pub fn submission(
    table: &Table,
    token: u64,
    digest: &[u8; 32],
    clock_waived: bool,
    bytes: &[u8],
) -> Result<Submission, Refusal> {
    let plan = Plan::parse(bytes)?;
    table.admit(&plan)?;
    Ok(Submission {
        token,
        digest: names::short(digest),
        expires_ms: plan.expires_at_ms,
        clock_waived,
        schedule_to_close_ms: plan.schedule_to_close_ms.map_or(0, u64::from),
        finally_ms: plan.finally_ms,
        priority: plan.priority,
        report: plan.report,
        additions: u8::try_from(plan.ceilings.steps).unwrap_or(u8::MAX),
        headers: plan.steps.iter().map(|step| header(table, step)).collect(),
        id: plan.id,
        source: plan.source,
        plan: bytes.to_vec(),
    })
}

/// Checks steps that a result asks for against the plan they extend, and policy.
///
/// # Errors
/// The first refusal.
pub fn extension(
    table: &Table,
    plan: &[u8],
    earlier: &[Vec<u8>],
    bytes: &[u8],
) -> Result<Vec<StepHeader>, Refusal> {
    let mut plan = Plan::parse(plan)?;
    for extension in earlier {
        plan.extend(Extension::parse(extension)?)?;
    }
    let before = plan.steps.len();
    plan.extend(Extension::parse(bytes)?)?;
    table.admit(&plan)?;
    Ok(plan.steps[before..].iter().map(|step| header(table, step)).collect())
}

/// What the machine keeps of a step.
fn header(table: &Table, step: &Step) -> StepHeader {
    let executor = table.tools.get(&step.tool).map(|tool| tool.executor);
    let when = match &step.when {
        None => When::Always,
        Some(when) => match &when.test {
            Test::Outcome(outcome) => When::Outcome {
                step: when.step,
                outcome: in_machine(*outcome),
                negate: when.negate,
            },
            Test::ExitCode(code) => {
                When::ExitCode { step: when.step, code: *code, negate: when.negate }
            }
            // Judged when the step is read: the machine holds no results.
            Test::Result(..) => When::Always,
        },
    };
    StepHeader {
        finally: step.finally,
        stop: step.stop,
        guarded: step.guarded,
        reboot: executor == Some(Executor::Reboot),
        schedule_to_start_ms: step.clocks.schedule_to_start_ms.unwrap_or(0),
        memory_kib: table.share_kib(step),
        when,
    }
}

fn in_machine(outcome: Outcome) -> message::Outcome {
    match outcome {
        Outcome::Succeeded => message::Outcome::Succeeded,
        Outcome::Failed => message::Outcome::Failed,
        Outcome::TimedOut => message::Outcome::TimedOut,
        Outcome::Cancelled => message::Outcome::Cancelled,
        Outcome::OutOfMemory => message::Outcome::OutOfMemory,
        Outcome::Killed => message::Outcome::Killed,
        Outcome::Uncertain => message::Outcome::Uncertain,
        Outcome::Dead => message::Outcome::Dead,
        Outcome::Refused => message::Outcome::Refused,
        Outcome::Skipped => message::Outcome::Skipped,
    }
}
