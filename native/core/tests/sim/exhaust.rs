//! Every history of a tiny machine, up to a depth: at each turn everything that may come next does,
//! in one history after the other. The agent may end at any turn, with any part of what is not
//! synced.

use crate::plan::{Behaviour, Plan, PlannedStep, SPEC};
use crate::world::{Options, World};
use limpet_core::limits::Limits;
use limpet_core::message::{StepHeader, When};

/// Turns that are tried in every way; what follows takes its usual course.
const DEPTH: u64 = 8;
/// Ends of the agent, and cancels, in one history.
const CRASHES: usize = 2;
const CANCELS: usize = 1;

/// The choices of one history, and how many there were at each turn.
#[derive(Default)]
struct Choices {
    taken: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn next(&mut self, count: usize) -> usize {
        if self.at == self.taken.len() {
            self.taken.push((0, count));
        }
        let (taken, known) = self.taken[self.at];
        assert_eq!(known, count, "the same choices lead to the same turn");
        self.at += 1;
        taken
    }

    /// The next history; false after the last.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((taken, count)) = self.taken.pop() {
            if taken + 1 < count {
                self.taken.push((taken + 1, count));
                return true;
            }
        }
        false
    }
}

pub const STEP: StepHeader = StepHeader {
    finally: false,
    stop: true,
    guarded: false,
    reboot: false,
    schedule_to_start_ms: 0,
    memory_kib: 0,
    when: When::Always,
};

/// One task of these steps, each of which runs for 20 ms.
pub fn plan(steps: &[StepHeader], close_ms: u64) -> Plan {
    let steps = steps.iter().map(|header| PlannedStep {
        header: *header,
        spec: SPEC,
        seed: 0,
        fixed: Some(Behaviour { run_ms: 20, ..Behaviour::PLAIN }),
    });
    Plan {
        key: 7,
        digest: 1,
        source: 1,
        expires_ms: u64::MAX / 2,
        waived: true,
        close_ms,
        finally_ms: 300,
        priority: 0,
        additions: 0,
        steps: steps.collect(),
    }
}

/// One history by these choices.
fn live(plan: &Plan, choices: &mut Choices) {
    let limits = Limits { tasks: 1, steps: 3, attempts: 1, ids: 1, ..Limits::default() };
    let options = Options { tasks: 1, crash_one_in: 0, unkind: false, limits };
    let mut world = World::new(1, options);
    let (mut crashes, mut cancels) = (0, 0);
    world.submit(plan);
    for _ in 0..crate::number("DEPTH").unwrap_or(DEPTH) {
        let happenings = world.waiting();
        let deadline = usize::from(world.machine.next_deadline() != limpet_core::Instant::NEVER);
        // A kill with each part of what is not synced, and a power cut with all of it.
        let ends = if crashes < CRASHES { world.unsynced() + 2 } else { 0 };
        let cancel = usize::from(cancels < CANCELS);
        let count = happenings + deadline + ends + cancel;
        if count == 0 {
            break;
        }
        let choice = choices.next(count);
        if choice < happenings {
            world.happen_now(choice);
        } else if choice < happenings + deadline {
            world.be_late();
        } else if choice < happenings + deadline + ends {
            crashes += 1;
            let kept = choice - happenings - deadline;
            world.crash_with(kept > world.unsynced(), kept.min(world.unsynced()));
            if !world.check.is_accepted(plan.key) {
                world.submit(plan);
            }
        } else {
            cancels += 1;
            world.cancel(plan.key, plan.source, false);
        }
    }
    crate::finish(&mut world, std::slice::from_ref(plan));
}

/// Every history of these plans; how many there were.
fn every_history(plans: &[Plan]) -> u64 {
    let mut histories = 0;
    for plan in plans {
        let mut choices = Choices::default();
        loop {
            live(plan, &mut choices);
            histories += 1;
            if !choices.advance() {
                break;
            }
        }
    }
    histories
}

#[test]
fn every_history_of_a_tiny_machine_keeps_the_promises() {
    let rerun = StepHeader { stop: false, ..STEP };
    let finally = StepHeader { finally: true, ..STEP };
    let plans = [plan(&[STEP], 0), plan(&[rerun, STEP], 100), plan(&[STEP, finally], 0)];
    let histories = every_history(&plans);
    println!("measured exhaustive: histories={histories}");
    assert!(histories > 10_000, "{histories} are not every history");
}
