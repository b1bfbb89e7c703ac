//! What cannot be said, said anyway: a driver or host with a bug is counted and does no harm.

use crate::script::{FINALLY, Plan, RERUN, SPEC, STOP, Script, limits, plan};
use limpet_core::Limits;
use limpet_core::limits::ANSWERS_MAX;
use limpet_core::message::{
    AttemptRef, Effect, Event, Executor, Exit, Input, Loaded, Spec, TaskRef,
};
use limpet_core::table::State;
use std::collections::BTreeSet;

/// An input that the table says cannot arrive is counted and leaves no trace: no clock, no exit and
/// no proof that nothing ran comes of it.
#[test]
fn what_cannot_happen_has_no_effect() {
    let mut s = Script::new();
    s.spec.maximum_attempts = 3;
    s.submit(&plan('a', &[STOP]));
    s.until('a', State::Running);
    s.never = 1;
    assert_eq!(s.spawn_failed('a', true), "");
    s.never = 2;
    s.executor = Executor::Timer(1);
    assert_eq!(s.loaded('a'), "");
    s.never = 3;
    assert_eq!(s.swept('a'), "");
    assert_eq!(s.next_ms(), Some(10_000));
    assert_eq!(s.exited('a', Exit::Code(1)), "a sweep; a is sweeping");
    s.never = 4;
    assert_eq!(s.exited('a', Exit::Code(0)), "");
    assert!(s.swept('a').starts_with("a ended 0.1 failed code 1+!; a discard; a decided failed"));
}

/// The script's own generator of nonsense.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64* (Vigna 2016)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }

    fn attempt(&mut self) -> AttemptRef {
        let (slot, generation) = (self.below(4), self.below(12));
        AttemptRef {
            slot: u16::try_from(slot).expect("small"),
            generation: u32::try_from(generation).expect("small"),
        }
    }

    fn task(&mut self) -> TaskRef {
        let AttemptRef { slot, generation } = self.attempt();
        TaskRef { slot, generation }
    }

    fn loaded(&mut self) -> Loaded {
        let spec =
            Spec { maximum_attempts: 3, heartbeat_ms: 700, start_to_close_ms: 2_000, ..SPEC };
        match self.below(6) {
            0 => Loaded::Skip,
            1 => Loaded::Refused,
            2 => Loaded::Start(Executor::Timer(300), spec),
            3 => Loaded::Start(Executor::Host, spec),
            _ => Loaded::Start(Executor::Process, spec),
        }
    }
}

/// Any input in any state.
fn babble(s: &mut Script, random: &mut Random, names: &[char]) {
    let attempt = random.attempt();
    let name = names[usize::try_from(random.below(names.len() as u64)).expect("small")];
    let (exit, continues) = (Exit::Code(i32::from(random.below(2) == 1)), random.below(3) == 0);
    let input = match random.below(16) {
        0..=2 => Input::Durable(s.machine.next_seq() - 1),
        3 | 4 => Input::Loaded(attempt, random.loaded()),
        5 | 6 => Input::Spawned(attempt),
        7 => Input::SpawnFailed { attempt, before_exec: random.below(2) == 0 },
        8 => Input::Exited { attempt, exit, continues },
        9 => Input::Swept(attempt),
        10 => Input::Heartbeat(attempt),
        11 => Input::Delivered(random.task()),
        12 => Input::Extend { token: 0, task: random.task(), steps: &[STOP, RERUN], bytes: 5 },
        13 => {
            let (key, source, any, expires_ms) = (name as u128, 1, false, u64::MAX >> 1);
            Input::Cancel { token: 0, key, source, any, expires_ms }
        }
        14 if random.below(60) == 0 => Input::Drain { until: s.now.at.after_ms(500) },
        14 => Input::Timeout,
        _ => {
            let plan = plan(name, &[RERUN, STOP, RERUN, FINALLY]);
            let close_ms = random.below(3) * 3_000;
            return s.ask(&Plan { additions: 4, close_ms, ..plan });
        }
    };
    s.machine.handle(s.now, input);
}

/// Whatever is said in whatever order, the machine neither fails nor exceeds a limit, and once it
/// is left in peace everything that it holds has a reason to be held.
#[test]
fn no_order_of_inputs_breaks_it() {
    let limits = Limits { attempts: 3, reap_ms: 900, reports: 1, ..limits() };
    let names: Vec<char> = ('a'..='j').collect();
    let mut seen = BTreeSet::new();
    for seed in 1..3_000 {
        let (mut s, mut random) = (Script::with(limits, seed), Random(seed));
        for _ in 0..300 {
            if random.below(4) == 0 {
                let step = random.below(400);
                s.now.at = s.now.at.after_ms(step);
                s.now.wall_ms += step;
            }
            if s.machine.can_take() {
                babble(&mut s, &mut random, &names);
            }
            drain(&mut s);
            let tasks = s.machine.tasks().filter_map(|task| s.machine.view(task));
            seen.extend(tasks.map(|view| view.state));
            let held = u64::from(s.machine.live_attempts());
            assert!(held <= u64::from(limits.attempts), "seed {seed}: {held} attempts");
            assert!(s.machine.live_bytes() <= limits.live_bytes);
        }
        let tasks = s.machine.tasks().count();
        assert_eq!(tasks == 0, s.machine.live_bytes() == 0, "seed {seed}: {tasks} tasks");
    }
    assert_eq!(seen.len(), State::ALL.len() - 2, "all but free and recovering: {seen:?}");
}

fn drain(s: &mut Script) {
    while let Some(effect) = s.machine.poll_effect() {
        if let Effect::Append { task, record, .. } = effect {
            let mut bytes = [0; limpet_core::record::FIXED_BYTES_MAX];
            s.machine.encode(task, &record, &mut bytes);
        }
    }
    let mut events = 0;
    while let Some(event) = s.machine.poll_event() {
        assert!(!matches!(event, Event::Result(task) if s.machine.view(task).is_none()));
        events += 1;
        assert!(events < ANSWERS_MAX + 10, "events have no end");
    }
}
