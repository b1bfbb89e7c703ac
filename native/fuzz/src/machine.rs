//! The machine under any sequence of inputs and under any sequence of records.

use crate::bytes::Bytes;
use limpet_core::message::{
    Attached, AttemptRef, Effect, Event, Executor, Exit, Input, Loaded, Spec, StepHeader, Submit,
    TaskRef, When,
};
use limpet_core::record::FIXED_BYTES_MAX;
use limpet_core::{Instant, Limits, Machine, Now};

const MS: u64 = 1_000_000;
const START: Now =
    Now { at: Instant(1_000 * MS), wall_ms: 1_790_000_000_000, trusted: true, boot: 1 };
/// What one input may lead to, at these limits.
const EFFECTS_MAX: usize = 2_000;

fn limits() -> Limits {
    Limits {
        tasks: 3,
        steps: 40,
        attempts: 2,
        ids: 6,
        reap_ms: 1_000,
        pool_kib: 250,
        ..Limits::default()
    }
}

/// A machine, its journal and its clock.
struct World {
    machine: Machine,
    records: Vec<(u64, u64, u8, Vec<u8>)>,
    durable: u64,
    now: Now,
}

/// Any input in any state, and a crash now and then: what the machine has written it can read.
pub fn inputs(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new(bytes.byte());
    while !bytes.is_empty() {
        world.pass(bytes.byte());
        match bytes.below(24) {
            0 => world.crash(bytes.flag()),
            choice => world.input(choice, &mut bytes),
        }
    }
}

impl World {
    fn new(seed: u8) -> World {
        let mut machine = Machine::new(limits(), u64::from(seed), START).expect("limits");
        machine.recovered(START);
        let mut world = World { machine, records: Vec::new(), durable: 0, now: START };
        world.settle();
        world
    }

    fn pass(&mut self, amount: u8) {
        // Up to half an hour at a time, mostly milliseconds.
        let ms = if amount < 200 { u64::from(amount) } else { u64::from(amount - 199) * 32_000 };
        self.now.at = Instant(self.now.at.0 + ms * MS);
        self.now.wall_ms += ms;
    }

    fn crash(&mut self, reboot: bool) {
        if reboot {
            self.now.boot += 1;
            self.now.at = START.at;
        }
        let mut machine = Machine::new(limits(), 7, self.now).expect("limits");
        self.records.retain(|(seq, ..)| *seq <= self.durable);
        for (seq, task, kind, payload) in &self.records {
            machine.replay(*seq, *task, *kind, payload).expect("its own record");
        }
        machine.take_released();
        machine.recovered(self.now);
        self.machine = machine;
        self.settle();
    }

    fn settle(&mut self) {
        let mut count = 0;
        while let Some(effect) = self.machine.poll_effect() {
            count += 1;
            assert!(count < EFFECTS_MAX, "it asks without end");
            if let Effect::Append { seq, task, record, attached, .. } = effect {
                let mut payload = [0; FIXED_BYTES_MAX];
                let length = self.machine.encode(task, &record, &mut payload);
                let mut payload = payload[..length].to_vec();
                if attached != Attached::None {
                    payload.extend_from_slice(b"{}");
                }
                self.records.push((seq, task, record.kind(), payload));
            }
        }
        while let Some(event) = self.machine.poll_event() {
            if let Event::Answer(answer) = event {
                assert!(answer.token < 256);
            }
        }
        assert!(self.machine.live_attempts() <= limits().attempts);
        assert!(self.machine.next_deadline() >= Instant(0));
    }

    fn input(&mut self, choice: u8, bytes: &mut Bytes<'_>) {
        let asks = matches!(choice, 1..=5 | 20);
        if asks && !self.machine.can_take() {
            return;
        }
        let attempt =
            AttemptRef { slot: u16::from(bytes.below(3)), generation: u32::from(bytes.below(16)) };
        let task = TaskRef { slot: u16::from(bytes.below(4)), generation: attempt.generation };
        let steps: Vec<StepHeader> = match choice {
            1..=3 | 20 => (0..=bytes.below(6)).map(|_| header(bytes)).collect(),
            _ => Vec::new(),
        };
        let input = match choice {
            1..=3 => submit(bytes, self.now.wall_ms, &steps),
            4 | 5 => {
                let key = u128::from(bytes.below(8));
                let expires_ms = self.now.wall_ms + u64::from(bytes.byte()) * 1000;
                Input::Cancel { token: 1, key, source: 3, any: bytes.flag(), expires_ms }
            }
            6..=9 => {
                let newest = self.machine.next_seq() - 1;
                self.durable = self.durable.max(newest.saturating_sub(u64::from(bytes.below(2))));
                Input::Durable(self.durable)
            }
            10 | 11 => Input::Loaded(attempt, loaded(bytes)),
            12 | 13 => Input::Spawned(attempt),
            14 => Input::SpawnFailed { attempt, before_exec: bytes.flag() },
            15 | 16 => Input::Exited { attempt, exit: exit(bytes), continues: bytes.flag() },
            17 => Input::Swept(attempt),
            18 => Input::Heartbeat(attempt),
            19 => Input::Delivered(task),
            20 => Input::Extend { token: 2, task, steps: &steps, bytes: 10 },
            21 if bytes.below(16) == 0 => Input::StoreFailed,
            22 if bytes.below(16) == 0 => Input::Drain { until: self.now.at.after_ms(500) },
            _ => Input::Timeout,
        };
        self.machine.handle(self.now, input);
        self.settle();
    }
}

fn submit<'a>(bytes: &mut Bytes<'_>, wall_ms: u64, steps: &'a [StepHeader]) -> Input<'a> {
    Input::Submit(Submit {
        token: 3,
        key: u128::from(bytes.below(8)),
        digest: u64::from(bytes.below(2)),
        source: u64::from(bytes.below(4)),
        expires_ms: wall_ms + u64::from(bytes.byte()) * 500,
        clock_waived: bytes.flag(),
        schedule_to_close_ms: u64::from(bytes.byte()) * 40,
        finally_ms: u32::from(bytes.byte()) * 10 + 1,
        priority: i8::from_le_bytes([bytes.byte()]),
        bytes: u32::from(bytes.short()),
        additions: bytes.below(8),
        steps,
    })
}

fn header(bytes: &mut Bytes<'_>) -> StepHeader {
    let bits = bytes.byte();
    StepHeader {
        finally: bits & 1 != 0,
        stop: bits & 2 != 0,
        guarded: bits & 4 != 0,
        reboot: bits & 24 == 24,
        schedule_to_start_ms: u32::from(bits & 32) * 30,
        memory_kib: u32::from(bits >> 6) * 100,
        when: When::Always,
    }
}

fn loaded(bytes: &mut Bytes<'_>) -> Loaded {
    let spec = Spec {
        start_to_close_ms: u32::from(bytes.short()) + 1,
        heartbeat_ms: u32::from(bytes.byte()),
        grace_ms: u32::from(bytes.byte()),
        maximum_attempts: bytes.below(4) + 1,
        before_exec_only: bytes.flag(),
        initial_interval_ms: u32::from(bytes.byte()) + 1,
        backoff_milli: 1_000 + u32::from(bytes.short()),
        maximum_interval_ms: 60_000,
        jitter_milli: u32::from(bytes.byte()) * 3,
    };
    match bytes.below(6) {
        0 => Loaded::Skip,
        1 => Loaded::Refused,
        2 => Loaded::Start(Executor::Timer(u32::from(bytes.short())), spec),
        3 => Loaded::Start(Executor::Host, spec),
        _ => Loaded::Start(Executor::Process, spec),
    }
}

fn exit(bytes: &mut Bytes<'_>) -> Exit {
    match bytes.below(4) {
        0 => Exit::OutOfMemory,
        1 => Exit::Signal(9),
        2 => Exit::Code(1),
        _ => Exit::Code(0),
    }
}

/// Records that nobody wrote, with sums that fit: refused or folded in, and then time passes.
pub fn records(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut machine = Machine::new(limits(), 7, START).expect("limits");
    for seq in 1.. {
        if bytes.is_empty() {
            break;
        }
        let (kind, task) = (bytes.below(16), u64::from(bytes.below(4)));
        let length = usize::from(bytes.byte());
        if machine.replay(seq, task, kind, bytes.take(length)).is_err() {
            // Then the agent does not start.
            return;
        }
    }
    machine.take_released();
    machine.recovered(START);
    let mut world = World { machine, records: Vec::new(), durable: 0, now: START };
    world.settle();
}
