//! Results on their way out, records of the time, and the silence of an idle agent.

use crate::script::{Plan, RERUN, STOP, Script, WALL_MS, limits, plan};
use limpet_core::Limits;
use limpet_core::message::{Event, Exit, Input};
use limpet_core::record::Record;
use limpet_core::table::State;

fn window(reports: u16) -> Script {
    Script::with(Limits { reports, tasks: 8, attempts: 8, ..limits() }, 1)
}

fn ended(s: &mut Script, names: &str) {
    for name in names.chars() {
        s.submit(&plan(name, &[RERUN]));
    }
    s.sync();
    for name in names.chars() {
        s.run(name, Exit::Code(0));
    }
}

/// At most `reports` results are under way; each delivery offers the oldest that waits, whatever
/// slot it is in.
#[test]
fn results_leave_through_a_window() {
    let mut s = window(2);
    ended(&mut s, "abcde");
    assert_eq!(
        s.sync(),
        "a result succeeded; b result succeeded; c is reporting; d is reporting; e is reporting"
    );
    assert_eq!(s.submit(&plan('c', &[RERUN])), "#6 alive", "waiting it still lives");
    assert_eq!(s.delivered('b'), "b delivered succeeded; b release; c result succeeded");
    s.submit(&plan('f', &[RERUN]));
    s.run('f', Exit::Code(0));
    assert_eq!(s.sync(), "f is reporting", "a newer task in an older slot waits behind");
    assert_eq!(s.delivered('a'), "a delivered succeeded; a release; d result succeeded");
    assert_eq!(s.delivered('c'), "c delivered succeeded; c release; e result succeeded");
    assert_eq!(s.delivered('d'), "d delivered succeeded; d release; f result succeeded");
}

/// Deliveries that arrive together open the window as wide as they would have one by one.
#[test]
fn deliveries_together_open_the_window_wide() {
    let mut s = window(3);
    ended(&mut s, "abcdef");
    s.sync();
    for name in "abc".chars() {
        let task = s.task(name);
        s.machine.handle(s.now, Input::Delivered(task));
        while s.machine.poll_effect().is_some() {}
    }
    assert_eq!(s.collect(), "d result succeeded; e result succeeded; f result succeeded");
}

/// The delivery is recorded with what is needed to remember the id, releases all older records of
/// the task, and gives everything back; a second one finds nothing.
#[test]
fn a_delivery_gives_everything_back() {
    let mut s = Script::new();
    s.submit(&Plan { expires_ms: WALL_MS + 5_001, ..plan('a', &[STOP, STOP]) });
    s.until('a', State::Reporting);
    assert_eq!(s.machine.live_attempts(), 0);
    assert!(s.machine.live_bytes() > 0, "until then the end keeps its room");
    let task = s.task('a');
    let view = s.machine.view(task).expect("it lives");
    assert_eq!(s.delivered('a'), "a delivered succeeded; a release");
    let record = s.disk.last().expect("written").clone();
    assert_eq!(s.released, [(view.accepted_seq, record.seq)]);
    let Record::Delivered { key, digest, expires_ms, .. } = record.record else { panic!() };
    assert_eq!((key, digest, expires_ms), ('a' as u128, 1, WALL_MS + 6_000));
    assert_eq!(s.machine.live_bytes(), 0);
    assert_eq!(s.machine.view(task), None);
    assert_eq!(s.feed(Input::Delivered(task)), "");
    assert_eq!(s.machine.stats().stale, 1);
    for name in "bcd".chars() {
        s.submit(&plan(name, &[RERUN; 20]));
    }
    assert!(
        s.submit(&plan('e', &[RERUN; 4])).contains("e accepted"),
        "all slots and steps are free"
    );
}

/// A reference to a task that is gone names no other, though the slot is the same.
#[test]
fn an_old_reference_names_no_newer_task() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Reporting);
    let old = s.task('a');
    s.delivered('a');
    s.submit(&plan('b', &[RERUN]));
    s.until('b', State::Reporting);
    assert_eq!(s.task('b').slot, old.slot);
    assert_eq!(s.feed(Input::Delivered(old)), "");
    assert_eq!((s.state('b'), s.machine.stats().stale), (State::Reporting, 1));
}

/// Of more tasks than a word of marks has bits, each is heard as itself.
#[test]
fn a_large_table_is_heard_whole() {
    let limits = Limits { tasks: 100, steps: 100, ids: 100, ..limits() };
    let mut s = Script::with(limits, 1);
    for number in 0..100u8 {
        let name = char::from(number.wrapping_add(b' '));
        s.ask(&plan(name, &[RERUN]));
        while s.machine.poll_effect().is_some() {}
    }
    let heard = std::iter::from_fn(|| s.machine.poll_event());
    let heard: Vec<_> = heard
        .map(|event| match event {
            Event::Changed(task) => usize::from(task.slot),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(heard, (0..100).collect::<Vec<_>>());
}

/// A result is told once per run of the agent, and again after a restart, the same.
#[test]
fn a_result_is_told_again_after_a_restart() {
    let mut s = Script::new();
    s.submit(&plan('a', &[RERUN]));
    s.run('a', Exit::Code(3));
    assert_eq!(s.sync(), "a result failed");
    assert_eq!(s.feed(Input::Timeout), "");
    let before = s.steps('a');
    let (s, said) = s.restart(true);
    assert_eq!(said, "* opened!; a result failed");
    assert_eq!(s.steps('a'), before);
}

/// While a task lives the time is recorded at most once a minute, and not at all once nothing but a
/// delivery is awaited.
#[test]
fn time_is_recorded_once_a_minute_while_a_task_lives() {
    let mut s = Script::with(Limits { checkpoint_ms: 60_000, ..limits() }, 1);
    s.spec.start_to_close_ms = 10_000_000;
    s.set(500);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Running);
    assert_eq!(s.due(60_500), "* checkpoint!");
    s.set(100_000);
    assert_eq!(s.feed(Input::Timeout), "");
    assert_eq!(s.due(120_500), "* checkpoint!");
    s.set(600_000);
    assert_eq!(s.feed(Input::Timeout), "* checkpoint!", "a device that slept owes one, not eight");
    assert_eq!(s.next_ms(), Some(660_000));
    s.run('a', Exit::Code(0));
    assert_eq!(s.next_ms(), None, "closing");
    s.sync();
    assert_eq!(s.next_ms(), None, "reporting");
}

/// An idle machine asks for nothing, says nothing and has no deadline, before its first task and
/// after its last, however often it is asked.
#[test]
fn an_idle_machine_is_silent() {
    let mut s = Script::with(Limits { checkpoint_ms: 1_000, ..limits() }, 1);
    assert_eq!(s.next_ms(), None);
    s.submit(&plan('a', &[RERUN]));
    s.until('a', State::Reporting);
    s.delivered('a');
    assert_eq!(s.sync(), "");
    for hour in 1..100 {
        s.set(hour * 3_600_000);
        assert_eq!(s.feed(Input::Timeout), "");
        assert_eq!(s.next_ms(), None);
    }
}
