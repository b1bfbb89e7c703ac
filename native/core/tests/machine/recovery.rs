//! After a restart: what the records say of tasks that were under way.

use crate::script::{FINALLY, Plan, REBOOT, RERUN, STOP, Script, limits, plan};
use limpet_core::message::{Executor, Exit, Input, Outcome, StepHeader, When};
use limpet_core::record::Record;
use limpet_core::table::State;
use limpet_core::{Instant, Limits};

fn running(steps: &[StepHeader]) -> Script {
    let mut s = Script::new();
    s.submit(&plan('a', steps));
    s.until('a', State::Running);
    s
}

fn flags(s: &Script) -> limpet_core::machine::View {
    s.machine.view(s.task('a')).expect("it lives")
}

/// A step that must not be repeated and was found without its end is uncertain, and nothing follows
/// it but what cleans up; that it was guarded makes no difference.
#[test]
fn a_stop_step_without_its_end_is_uncertain() {
    for step in [STOP, StepHeader { guarded: true, ..STOP }] {
        for power in [false, true] {
            let (mut s, said) = running(&[step, RERUN, FINALLY]).restart(power);
            assert_eq!(
                said,
                "* opened!; a ended 0.1 uncertain!; a decided uncertain at 0!; a started 2.1; \
                 a is committing"
            );
            assert_eq!(s.outcome('a'), Outcome::Uncertain);
            assert_eq!(s.steps('a'), "0 uncertain, 1 skipped, 2 succeeded");
        }
    }
}

/// A step that may be repeated runs again and its lost try does not count; its acceptance needs no
/// second commit.
#[test]
fn a_rerun_step_runs_again() {
    let mut s = running(&[RERUN]);
    s.spec.maximum_attempts = 2;
    let (mut s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a started 0.1; a load 0; a is loading");
    assert!(s.run('a', Exit::Code(1)).starts_with("a tried 0.1 failed"));
    let (mut s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a started 0.2; a load 0; a is loading", "tries that failed count");
    assert!(s.run('a', Exit::Code(1)).starts_with("a ended 0.2 failed code 1"));
}

/// A reboot has succeeded when the boot has changed since it was asked for, and is uncertain in the
/// same boot.
#[test]
fn a_reboot_succeeds_by_the_change_of_boot() {
    let mut s = Script::new();
    s.executor = Executor::Host;
    s.submit(&plan('a', &[REBOOT, RERUN]));
    s.until('a', State::Running);
    let (_, said) = s.restart(false);
    assert!(said.starts_with("* opened!; a ended 0.1 uncertain!; a decided uncertain at 0!"));
    let (back, said) = s.restart(true);
    assert_eq!(said, "* opened!; a ended 0.1 succeeded!; a started 1.1; a load 1; a is loading");

    // The power goes again when the start was recorded and the end of the step was not.
    let kept = s.disk.len() + 1;
    assert_eq!(back.disk[kept - 1].record, Record::Opened);
    let mut again = back.restarted(&back.disk[..kept], false);
    assert!(again.recover().starts_with("* opened!; a ended 0.1 succeeded!; a started 1.1"));
}

/// Unclean exits in the same boot with a step in flight count against it; at the bound it is dead,
/// its task with it, and nothing cleans up.
#[test]
fn suspicion_counts_up_to_dead() {
    let mut s = running(&[RERUN, FINALLY]);
    for suspicions in [1, 2] {
        let (next, said) = s.restart(false);
        assert_eq!(
            said,
            format!("* opened!; a started 0.1 suspect {suspicions}; a load 0; a is loading")
        );
        s = next;
        s.until('a', State::Running);
    }
    let (mut s, said) = s.restart(false);
    assert_eq!(
        said,
        "* opened!; a ended 0.1 dead!; a decided dead at 0!; a finished!; a is closing"
    );
    assert_eq!(s.outcome('a'), Outcome::Dead);
    assert_eq!(s.steps('a'), "0 dead, 1 skipped");
}

/// A suspect whose step has ended well is none any more, also if only the journal remembers.
#[test]
fn suspicion_ends_with_the_step_in_the_journal_too() {
    let (mut s, _) = running(&[RERUN, RERUN]).restart(false);
    s.run('a', Exit::Code(0));
    let ended = s.disk.iter().rposition(|stored| matches!(stored.record, Record::Ended { .. }));
    let mut next = s.restarted(&s.disk[..=ended.expect("written")], true);
    assert_eq!(next.recover(), "* opened!; a started 1.1; a load 1; a is loading");
}

/// That a process could not be killed is told by the result, whenever that comes.
#[test]
fn unreaped_is_remembered() {
    let mut s = running(&[RERUN, FINALLY]);
    s.due(10_000);
    s.due(10_500);
    s.due(20_500);
    let (mut s, _) = s.restart(true);
    assert!(flags(&s).flags.unreaped);
    assert_eq!(s.outcome('a'), Outcome::Failed);
    assert!(flags(&s).flags.unreaped);
}

/// Power cuts and orderly stops are nobody's fault, and a task that was waiting is not suspect.
#[test]
fn only_crashes_in_flight_count() {
    let mut s = running(&[RERUN]);
    for _ in 0..5 {
        let (next, said) = s.restart(true);
        assert_eq!(said, "* opened!; a started 0.1; a load 0; a is loading");
        s = next;
    }
    s.machine.stopped(s.now);
    s.collect();
    let (s, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 0.1; a load 0; a is loading");
    let mut s = s;
    s.spec.maximum_attempts = 2;
    s.run('a', Exit::Code(1));
    let (_, said) = s.restart(false);
    assert_eq!(said, "* opened!; a started 0.2; a load 0; a is loading");
}

/// A crash in a boot in which the attempt was not in flight is not its doing.
#[test]
fn a_crash_before_the_rerun_is_not_counted() {
    let (after_power, _) = running(&[RERUN]).restart(true);
    let opened = after_power.disk.iter().rposition(|stored| stored.record == Record::Opened);
    let mut s = after_power.restarted(&after_power.disk[..=opened.expect("it started")], false);
    assert_eq!(s.recover(), "* opened!; a started 0.1; a load 0; a is loading");
}

/// In the same boot the clock of the whole goes on exactly, to the millisecond, however finely the
/// records cut the time.
#[test]
fn the_clock_of_the_whole_is_exact_within_a_boot() {
    let mut s = Script::with(Limits { ids: 2_000, ..limits() }, 1);
    s.submit(&Plan { close_ms: 20_000, ..plan('a', &[RERUN]) });
    s.until('a', State::Running);
    for name in ('\u{1000}'..).take(1000) {
        s.now.at.0 += 900_000;
        s.cancel(name);
        s.sync();
    }
    s.set(1_000);
    let mut next = s.restarted(&s.disk, false);
    next.set(4_000);
    next.recover();
    assert_eq!(next.next_ms(), Some(20_000));
    assert!(!flags(&next).flags.clock_uncertain);
}

/// What passed before a task was accepted is none of its time.
#[test]
fn the_clock_of_the_whole_begins_with_the_acceptance() {
    let mut s = Script::new();
    s.submit(&plan('b', &[RERUN]));
    s.set(5_000);
    s.submit(&Plan { close_ms: 20_000, ..plan('a', &[RERUN]) });
    s.until('a', State::Running);
    s.set(9_000);
    let (next, _) = s.restart(false);
    assert_eq!(next.next_ms(), Some(25_000));
}

/// Across boots the time without power counts when both ends are trusted; else it is not counted
/// and the task says that it could not be.
#[test]
fn time_off_counts_when_trusted() {
    for (before, after, left, uncertain) in
        [(true, true, 10_000, false), (false, true, 15_000, true), (true, false, 15_000, true)]
    {
        let mut s = Script::new();
        s.submit(&Plan { close_ms: 20_000, waived: true, ..plan('a', &[RERUN]) });
        s.until('a', State::Loading);
        s.set(5_000);
        s.now.trusted = before;
        s.loaded('a');
        s.run('a', Exit::OutOfMemory);
        let mut s = Script::new();
        s.submit(&Plan { close_ms: 20_000, waived: true, ..plan('a', &[RERUN, RERUN]) });
        s.until('a', State::Running);
        s.set(5_000);
        s.now.trusted = before;
        s.run('a', Exit::Code(0));
        let mut next = s.restarted(&s.disk, true);
        next.now.wall_ms += 5_000;
        next.now.trusted = after;
        next.recover();
        assert_eq!(next.next_ms(), Some(left), "{before} {after}");
        assert_eq!(flags(&next).flags.clock_uncertain, uncertain);
    }
}

/// Time that was lost once stays lost, and what cleans up has its whole clock after each restart.
#[test]
fn uncertain_time_and_the_finally_clock() {
    let mut s = Script::new();
    s.spec.start_to_close_ms = 300_000;
    s.submit(&Plan { close_ms: 20_000, waived: true, ..plan('a', &[RERUN, FINALLY]) });
    s.run('a', Exit::Code(0));
    s.now.trusted = false;
    let (mut s, _) = s.restart(true);
    s.until('a', State::Running);
    s.set(30_000);
    let (s, _) = s.restart(false);
    assert!(flags(&s).flags.clock_uncertain);
    assert_eq!(s.next_ms(), Some(90_000));
}

/// A wall clock that ran backwards over a boot tells nothing.
#[test]
fn a_wall_clock_that_ran_back_is_no_measure() {
    let mut s = Script::new();
    s.submit(&Plan { close_ms: 20_000, ..plan('a', &[RERUN]) });
    s.set(5_000);
    s.cancel('z');
    let mut next = s.restarted(&s.disk, true);
    next.now.wall_ms -= 60_000;
    next.recover();
    assert_eq!(next.next_ms(), Some(15_000));
    assert!(flags(&next).flags.clock_uncertain);
}

/// A task whose clock ran out while the agent was away ends by it and runs nothing.
#[test]
fn a_clock_that_ran_out_meanwhile_ends_the_task() {
    let mut s = Script::new();
    s.submit(&Plan { close_ms: 20_000, ..plan('a', &[STOP]) });
    s.sync();
    let accepted = s.disk.iter().position(|stored| matches!(stored.record, Record::Accepted(_)));
    let mut next = s.restarted(&s.disk[..=accepted.expect("written")], true);
    next.now.wall_ms += 30_000;
    next.recover();
    let said = next.finish('a');
    assert!(!said.contains("start 0"), "{said}");
    assert!(said.contains("a result timed_out"), "{said}");
}

/// A decision that is made again names the step that it found the task at.
#[test]
fn a_decision_names_its_step() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 2;
    s.submit(&plan('a', &[RERUN, RERUN]));
    s.run('a', Exit::Code(0));
    s.run('a', Exit::Code(1));
    assert_eq!(s.state('a'), State::Backoff);
    assert!(s.cancel('a').contains("a cancel requested!; a decided cancelled at 1!"));
    let asked = s.disk.iter().position(|one| one.record == Record::CancelRequested);
    let mut next = s.restarted(&s.disk[..=asked.expect("written")], true);
    assert!(next.recover().contains("a decided cancelled at 1!"));
}

/// The end of a step by the clock of the whole, without the decision behind it, leads to the
/// decision that was lost and not to a failure.
#[test]
fn a_lost_decision_is_made_again() {
    let mut s = Script::new();
    let guarded = StepHeader { guarded: true, ..RERUN };
    for (name, step) in [('a', RERUN), ('b', guarded)] {
        s.submit(&Plan { close_ms: 900, ..plan(name, &[step, RERUN]) });
        s.until(name, State::Running);
    }
    s.due(900);
    s.feed(Input::Timeout);
    for name in ['a', 'b'] {
        s.exited(name, Exit::Signal(15));
        s.swept(name);
        let ended = s.disk.iter().rposition(|stored| matches!(stored.record, Record::Ended { .. }));
        let mut next = s.restarted(&s.disk[..=ended.expect("written")], true);
        let said = next.recover();
        let decided = format!("{name} decided timed_out at 0 by schedule_to_close!");
        assert!(said.contains(&decided), "{said}");
    }
}

/// A task that lived over a gap in the journal is uncertain if any of its steps must not be
/// repeated, and goes on otherwise. The verdict stays what it is when the gap is gone.
#[test]
fn a_gap_makes_stop_steps_uncertain() {
    for (steps, outcome) in [
        ([RERUN, STOP, FINALLY], "uncertain"),
        ([STOP, RERUN, FINALLY], "uncertain"),
        ([RERUN, RERUN, FINALLY], "succeeded"),
    ] {
        let s = running(&steps);
        let mut next = s.restarted(&[], true);
        for stored in &s.disk {
            let kind = stored.record.kind();
            next.machine.replay(stored.seq, stored.task, kind, &stored.bytes).expect("whole");
        }
        next.machine.replay_gap();
        next.disk.clone_from(&s.disk);
        next.machine.recovered(next.now);
        next.collect();
        let said = next.feed(Input::Timeout);
        assert_eq!(said.contains("a decided uncertain at 0!"), outcome == "uncertain", "{said}");
        let mut kept = next.disk.as_slice();
        let decided = kept.iter().position(|s| matches!(s.record, Record::Decided { .. }));
        kept = &kept[..decided.map_or(kept.len(), |at| at + 1)];
        let mut again = next.restarted(kept, true);
        let said = again.recover();
        assert!(!said.contains("ended 0"), "a main step does not end after the decision: {said}");
        assert_eq!(again.outcome('a').name(), outcome);
    }
}

/// An extension that was lost in a gap is no reason not to start: a task with a step nobody knows
/// is uncertain, all others go on.
#[test]
fn a_lost_extension_stops_its_task_only() {
    let mut s = running(&[RERUN]);
    let wants = Plan { additions: 2, ..plan('b', &[RERUN]) };
    s.submit(&wants);
    s.until('b', State::Running);
    let attempt = s.attempt('b');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept('b');
    s.extend('b', &[STOP]);
    s.until('b', State::Running);
    let mut next = s.restarted(&[], false);
    for stored in &s.disk {
        if matches!(stored.record, Record::Extended { .. }) {
            next.machine.replay_gap();
            continue;
        }
        let kind = stored.record.kind();
        let read = next.machine.replay(stored.seq, stored.task, kind, &stored.bytes);
        assert_eq!(read, Ok(()), "{:?}", stored.record);
    }
    next.machine.recovered(next.now);
    next.collect();
    let said = next.feed(Input::Timeout);
    assert!(said.contains("b decided uncertain"), "{said}");
    assert!(said.contains("a load 0"), "{said}");
}

/// Conditions on steps that were skipped hold after a restart as before.
#[test]
fn skipped_steps_stay_skipped() {
    let when = |step, outcome| When::Outcome { step, outcome, negate: false };
    let never = StepHeader { when: when(0, Outcome::Failed), ..RERUN };
    let then = StepHeader { when: when(1, Outcome::Skipped), ..RERUN };
    let mut s = running(&[RERUN, never, RERUN, then]);
    s.run('a', Exit::Code(0));
    s.until('a', State::Running);
    let (mut s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a started 2.1; a load 2; a is loading");
    assert_eq!(s.steps('a'), "0 succeeded, 1 skipped, 2 none, 3 none");
    assert_eq!(s.outcome('a'), Outcome::Succeeded);
    assert_eq!(s.steps('a'), "0 succeeded, 1 skipped, 2 succeeded, 3 succeeded");
}

/// A cancel that was recorded is carried out after the restart, whatever the task was doing; one
/// that comes before the task was judged counts as well.
#[test]
fn a_cancel_survives() {
    for (steps, ended) in [([RERUN], "cancelled"), ([STOP], "uncertain")] {
        let mut s = running(&steps);
        s.cancel('a');
        let (mut s, said) = s.restart(false);
        assert!(
            said.contains(&format!("a ended 0.1 {ended}!; a decided cancelled at 0!")),
            "{said}"
        );
        assert_eq!(s.outcome('a'), Outcome::Cancelled);
    }
    let s = running(&[RERUN]);
    let mut next = s.restarted(&[], true);
    for stored in &s.disk {
        let kind = stored.record.kind();
        next.machine.replay(stored.seq, stored.task, kind, &stored.bytes).expect("whole");
    }
    next.machine.recovered(next.now);
    next.collect();
    assert_eq!(
        next.cancel('a'),
        "a cancel requested!; a ended 0.1 cancelled!; a decided cancelled at 0!; a finished!; \
         a is closing"
    );
}

/// A task that waited for the host to plan waits again, and says so again.
#[test]
fn planning_is_asked_again() {
    let mut s = Script::new();
    s.submit(&Plan { additions: 2, ..plan('a', &[RERUN]) });
    s.until('a', State::Running);
    let attempt = s.attempt('a');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept('a');
    let (mut s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a continues behind 0");
    assert!(s.extend('a', &[RERUN]).starts_with("a extended 0 by 1+!"));
    let (mut s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a started 1.1; a load 1; a is loading");
    assert_eq!(s.outcome('a'), Outcome::Succeeded);
}

/// That the host refused to plan is recorded before the task fails of it, and is enough to fail.
#[test]
fn a_refused_plan_is_remembered() {
    let mut s = Script::new();
    s.submit(&Plan { additions: 2, ..plan('a', &[RERUN, RERUN]) });
    s.until('a', State::Running);
    let attempt = s.attempt('a');
    s.feed(Input::Exited { attempt, exit: Exit::Code(0), continues: true });
    s.swept('a');
    s.extend('a', &[]);
    let refused = s.disk.iter().rposition(|s| matches!(s.record, Record::Extended { .. }));
    let mut next = s.restarted(&s.disk[..=refused.expect("written")], true);
    assert_eq!(next.recover(), "* opened!; a decided failed at 0!; a finished!; a is closing");
}

/// Known ids are known after a restart: live, ended and cancelled before.
#[test]
fn ids_survive() {
    let mut s = Script::with(Limits { ids: 4, ..limits() }, 1);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    s.submit(&plan('b', &[RERUN]));
    s.run('b', Exit::Code(1));
    s.until('b', State::Reporting);
    s.delivered('b');
    s.cancel('c');
    let (mut s, _) = s.restart(true);
    s.sync();
    assert_eq!(s.submit(&plan('a', &[RERUN])), "#1 alive");
    assert_eq!(s.submit(&plan('b', &[RERUN])), "#2 ended failed");
    assert_eq!(s.submit(&Plan { digest: 2, ..plan('b', &[RERUN]) }), "#3 refused id_conflict");
    assert_eq!(s.submit(&plan('c', &[RERUN])), "#4 refused cancelled_before");
    s.submit(&plan('d', &[RERUN]));
    assert!(s.sync().contains("#5 accepted"));
    s.until('a', State::Reporting);
    assert_eq!(s.submit(&plan('e', &[RERUN])), "#6 refused busy_ids");
}

/// A step that was put back before it ran is not in flight: after a crash it starts as if for the
/// first time, even if it must not be repeated, and nobody suspects it.
#[test]
fn what_was_put_back_is_not_in_flight() {
    for step in [STOP, RERUN] {
        let mut s = Script::new();
        s.submit(&plan('a', &[step]));
        s.until('a', State::Loading);
        s.drain(0);
        assert!(s.feed(Input::Timeout).contains("a interrupted 0!"));
        let (_, said) = s.restart(false);
        assert!(said.contains("a started 0.1; ") || said.contains("a started 0.1!; "), "{said}");
    }
}

/// The most that one call can ask for: a batch of tasks that are out of time, one of tasks that are
/// judged and end, and a full admission. Until all are judged the machine wants to be called at
/// once.
#[test]
fn the_fullest_call_fits_its_queue() {
    let crowd = Limits { tasks: 128, steps: 256, ids: 128, attempts: 32, ..limits() };
    let mut s = Script::with(crowd, 1);
    let names: Vec<_> = (0..128u8).map(|number| char::from(b' ' + number)).collect();
    for (name, number) in names.iter().zip(0..) {
        s.submit(&match number {
            0..32 => Plan { close_ms: 100_000, ..plan(*name, &[RERUN; 2]) },
            32..96 => plan(*name, &[RERUN]),
            _ => Plan { priority: 1, ..plan(*name, &[STOP]) },
        });
        s.sync();
    }
    for name in &names[..32] {
        s.run(*name, Exit::Code(0));
    }
    s.limits.attempts = 64;
    let (mut s, _) = s.restart(true);
    for _ in 1..3 {
        assert_eq!(s.machine.live_attempts(), 0, "all are judged before any is admitted");
        assert_eq!(s.machine.next_deadline(), Instant(0));
        s.feed(Input::Timeout);
    }
    s.set(200_000);
    let records = s.disk.len();
    let said = s.feed(Input::Timeout);
    assert_eq!(s.machine.live_attempts(), 64);
    assert_eq!(s.disk.len() - records + said.matches(" load ").count(), 32 * 5 + 64 * 2);
}
