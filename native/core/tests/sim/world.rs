//! A world for the machine: a virtual clock, a disk that forgets what was not synced, processes
//! that behave as planned, a host that answers late. One seed decides everything.

use limpet_core::limits::Limits;
use limpet_core::message::{
    AttemptRef, Effect, Event, Executor, Exit, Input, Loaded, Signal, Submit, TaskRef, When,
};
use limpet_core::record::{FIXED_BYTES_MAX, Record};
use limpet_core::{Instant, Machine, Now};
use std::collections::{BTreeMap, BinaryHeap};

use crate::check::{Checker, Circumstances};
use crate::plan::{Behaviour, Plan, Random, random_step};

pub const MS: u64 = 1_000_000;
/// Kinds of records, as the format numbers them.
const ACCEPTED: u8 = 15;
const EXTENDED: u8 = 16;

/// What was written, in order.
#[derive(Clone)]
pub struct Stored {
    pub seq: u64,
    pub task: u64,
    pub kind: u8,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Synced(u64),
    Loaded(AttemptRef, u64, u8),
    Spawned(AttemptRef, u64, u8, u8),
    Exit(AttemptRef, u64),
    Beat(AttemptRef, u64),
    Swept(AttemptRef),
    HostDone(AttemptRef, i32),
    Delivered(TaskRef),
    Extend(TaskRef, u64),
}

pub struct Process {
    run: u64,
    behaviour: Behaviour,
    continues: bool,
    memory_kib: u32,
}

/// Faults and sizes of one run.
#[derive(Clone, Copy)]
pub struct Options {
    pub tasks: u64,
    pub crash_one_in: u64,
    /// Clocks that jump, disks that stall, rot and fail, orderly ends.
    pub unkind: bool,
    pub limits: Limits,
}

pub struct World {
    pub random: Random,
    pub at: u64,
    /// Time as it really passes, whatever the clocks say.
    pub real_ms: u64,
    pub wall_ms: u64,
    /// The wall clock was set in this boot.
    pub was_set: bool,
    /// The newest trusted time that the machine has seen or read.
    pub floor_ms: u64,
    /// The newest time that the wall clock has ever said, and what has passed since.
    pub seen_ms: u64,
    pub trusted: bool,
    pub boot: u32,
    pub machine: Machine,
    pub limits: Limits,
    pub unkind: bool,
    pub draining: bool,
    pub drained: bool,
    pub store_failed: bool,
    pub disk: Vec<Stored>,
    pub synced: usize,
    /// Numbers of records that have rotted; every start is told of them again.
    pub gaps: Vec<u64>,
    pub plans: BTreeMap<u128, Plan>,
    pub check: Checker,
    pub inputs: u64,
    pub crashes: u64,
    pub trace: u64,
    pub dead: Vec<(u64, u64)>,
    pub syncing: bool,
    pub urgent: u64,
    pub announced: u64,
    pub queue: BinaryHeap<(core::cmp::Reverse<(u64, u64)>, usize)>,
    pub happenings: Vec<Option<Happening>>,
    pub counter: u64,
    pub processes: BTreeMap<(u16, u32), Process>,
    pub runs: u64,
    pub keys: BTreeMap<u64, u128>,
    pub host_deaf: bool,
}

impl World {
    pub fn new(seed: u64, Options { limits, unkind, .. }: Options) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let now = Now { at: Instant(1), wall_ms: 1_790_000_000_000, trusted: true, boot: 1 };
        let machine = Machine::new(limits, random.next(), now).expect("limits are in range");
        let mut world = World {
            random,
            at: 1,
            real_ms: 0,
            wall_ms: now.wall_ms,
            was_set: false,
            floor_ms: now.wall_ms,
            seen_ms: now.wall_ms,
            trusted: true,
            boot: 1,
            machine,
            limits,
            unkind,
            draining: false,
            drained: false,
            store_failed: false,
            disk: Vec::new(),
            synced: 0,
            gaps: Vec::new(),
            plans: BTreeMap::new(),
            check: Checker::default(),
            inputs: 0,
            crashes: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            dead: Vec::new(),
            syncing: false,
            urgent: 0,
            announced: 0,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            counter: 0,
            processes: BTreeMap::new(),
            runs: 0,
            keys: BTreeMap::new(),
            host_deaf: false,
        };
        world.machine.recovered(now);
        world.perform();
        world
    }

    pub fn now(&self) -> Now {
        Now { at: Instant(self.at), wall_ms: self.wall_ms, trusted: self.trusted, boot: self.boot }
    }

    fn circumstances(&self) -> Circumstances {
        let tasks = u16::try_from(self.machine.tasks().count()).expect("bounded");
        Circumstances {
            trusted: self.trusted,
            floor_ms: self.floor_ms,
            seen_ms: self.seen_ms,
            tasks,
            draining: self.draining,
            store_failed: self.store_failed,
        }
    }

    pub fn look_at_the_clock(&mut self) {
        self.seen_ms = self.seen_ms.max(self.wall_ms);
        if self.trusted {
            self.floor_ms = self.floor_ms.max(self.wall_ms);
        }
    }

    fn note(&mut self, value: u64) {
        // FNV-1a over everything that is observable: two runs of a seed must agree on it.
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3);
    }

    fn later(&mut self, delay_ns: u64, happening: Happening) {
        self.counter += 1;
        self.happenings.push(Some(happening));
        let due = core::cmp::Reverse((self.at + delay_ns, self.counter));
        self.queue.push((due, self.happenings.len() - 1));
    }

    pub fn submit(&mut self, plan: &Plan) {
        let steps: Vec<_> = plan.steps.iter().map(|step| step.header).collect();
        self.plans.entry(plan.key).or_insert_with(|| plan.clone());
        self.look_at_the_clock();
        let token = self.check.asked(plan, self.circumstances());
        let seq = self.machine.next_seq();
        self.keys.entry(seq).or_insert(plan.key);
        let submit = Submit {
            token,
            key: plan.key,
            digest: plan.digest,
            source: plan.source,
            expires_ms: plan.expires_ms,
            clock_waived: plan.waived,
            schedule_to_close_ms: plan.close_ms,
            finally_ms: plan.finally_ms,
            priority: plan.priority,
            bytes: 500,
            additions: plan.additions,
            steps: &steps,
        };
        self.feed(Input::Submit(submit));
        // A task whose id was lost to damage is accepted anew, without what an earlier life added.
        let written = self.disk.iter().rev().take_while(|stored| stored.seq >= seq);
        if written.filter(|stored| stored.task == seq).any(|s| s.kind == ACCEPTED) {
            self.plans.insert(plan.key, plan.clone());
        }
    }

    pub fn cancel(&mut self, key: u128, source: u64, any: bool) {
        self.look_at_the_clock();
        let expires_ms = self.wall_ms + 86_400_000;
        let token = self.check.asked_cancel(key, (source, any), expires_ms, self.circumstances());
        self.feed(Input::Cancel { token, key, source, any, expires_ms });
    }

    pub fn feed(&mut self, input: Input<'_>) {
        self.inputs += 1;
        self.look_at_the_clock();
        self.machine.handle(self.now(), input);
        self.perform();
        self.hear();
        for (slot, generation) in self.processes.keys() {
            self.check.in_time(*slot, *generation, self.at);
        }
    }

    /// Moves to the next thing that happens, or to the machine's deadline. False when there is
    /// neither.
    pub fn step(&mut self) -> bool {
        let deadline = self.machine.next_deadline().0;
        let next = self.queue.peek().map(|(core::cmp::Reverse((at, _)), _)| *at);
        let target = next.unwrap_or(u64::MAX).min(deadline);
        if target == u64::MAX {
            return false;
        }
        self.pass(target.saturating_sub(self.at));
        if deadline <= self.at {
            self.feed(Input::Timeout);
            return true;
        }
        let (_, index) = self.queue.pop().expect("peeked");
        if let Some(happening) = self.happenings[index].take() {
            self.happen(happening);
        }
        true
    }

    /// How many things are under way, each of which may be the next to happen.
    pub fn waiting(&self) -> usize {
        self.happenings.iter().flatten().count()
    }

    /// Lets the one in this place happen, before everything else and at once.
    pub fn happen_now(&mut self, place: usize) {
        let happening = self.happenings.iter_mut().filter(|happening| happening.is_some());
        let happening = happening.skip(place).find_map(Option::take).expect("it waits");
        self.happen(happening);
    }

    /// Lets the nearest deadline come before everything that is under way.
    pub fn be_late(&mut self) {
        let passed = self.machine.next_deadline().0.saturating_sub(self.at);
        self.pass(passed);
        self.feed(Input::Timeout);
    }

    pub fn unsynced(&self) -> usize {
        self.disk.len() - self.synced
    }

    fn pass(&mut self, passed: u64) {
        self.at += passed;
        self.real_ms += passed / MS;
        self.seen_ms += passed.div_ceil(MS);
        self.wall_ms += passed / MS;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Synced(_) if self.store_failed => {}
            Happening::Synced(seq) => {
                self.syncing = false;
                self.announced = seq;
                let covered = self.disk.iter().take_while(|stored| stored.seq <= seq).count();
                self.synced = self.synced.max(covered);
                self.check.durable(seq);
                self.feed(Input::Durable(seq));
                self.sync();
            }
            Happening::Loaded(attempt, task, step) => self.loaded(attempt, task, step),
            Happening::Spawned(attempt, task, step, number) => {
                self.spawned(attempt, task, step, number);
            }
            Happening::Exit(attempt, run) => self.exit(attempt, run),
            Happening::Beat(attempt, run) => {
                if self
                    .processes
                    .get(&(attempt.slot, attempt.generation))
                    .is_some_and(|p| p.run == run)
                {
                    self.feed(Input::Heartbeat(attempt));
                    self.later(30 * MS, Happening::Beat(attempt, run));
                }
            }
            Happening::Swept(attempt) => self.feed(Input::Swept(attempt)),
            Happening::HostDone(attempt, code) => {
                self.feed(Input::Exited { attempt, exit: Exit::Code(code), continues: false });
            }
            Happening::Delivered(task) => self.feed(Input::Delivered(task)),
            Happening::Extend(task, accepted) => self.extend(task, accepted),
        }
    }

    fn extend(&mut self, task: TaskRef, accepted: u64) {
        let count = self.random.below(3);
        let Some(plan) = self.keys.get(&accepted).and_then(|key| self.plans.get(key)) else {
            return;
        };
        let mut plan = plan.clone();
        let waiting = self.machine.view(task).is_some_and(|view| view.accepted_seq == accepted);
        if !waiting {
            return;
        }
        let first = plan.steps.len();
        for _ in 0..count {
            let mut step = random_step(&mut self.random, first, false);
            step.header.when = When::Always;
            plan.steps.push(step);
        }
        let headers: Vec<_> = plan.steps[first..].iter().map(|step| step.header).collect();
        let before = self.machine.next_seq();
        let token = self.check.asked_extend(plan.key, self.circumstances());
        self.feed(Input::Extend { token, task, steps: &headers, bytes: 300 });
        let taken =
            self.disk.iter().any(|s| s.seq >= before && s.kind == EXTENDED && s.task == accepted);
        if taken {
            self.plans.insert(plan.key, plan);
        }
    }

    fn loaded(&mut self, attempt: AttemptRef, task: u64, step: u8) {
        let key = self.keys[&task];
        let plan = &self.plans[&key];
        let number = self.check.attempts(key, step) + 1;
        let behaviour = plan.behaviour(step, number);
        let spec = plan.steps[step as usize].spec;
        let reboot = plan.steps[step as usize].header.reboot;
        let loaded = match behaviour {
            Behaviour { refused: true, .. } => Loaded::Refused,
            Behaviour { skipped: true, .. } => Loaded::Skip,
            _ if reboot => Loaded::Start(Executor::Host, spec),
            Behaviour { executor: 0, .. } => {
                Loaded::Start(Executor::Timer(u32::try_from(behaviour.run_ms).unwrap_or(1)), spec)
            }
            Behaviour { executor: 1, .. } => Loaded::Start(Executor::Host, spec),
            _ => Loaded::Start(Executor::Process, spec),
        };
        self.feed(Input::Loaded(attempt, loaded));
    }

    fn spawned(&mut self, attempt: AttemptRef, task: u64, step: u8, number: u8) {
        let key = self.keys[&task];
        let plan = &self.plans[&key];
        let behaviour = plan.behaviour(step, number);
        if behaviour.spawn_fails {
            self.feed(Input::SpawnFailed { attempt, before_exec: true });
            return;
        }
        self.runs += 1;
        let run = self.runs;
        let memory_kib = plan.steps[step as usize].header.memory_kib;
        let process = Process { run, behaviour, continues: behaviour.continues, memory_kib };
        self.processes.insert((attempt.slot, attempt.generation), process);
        self.check.fits(self.processes.values().map(|process| process.memory_kib), &self.limits);
        self.check.process_started(key, step);
        if !behaviour.unkillable {
            self.later(behaviour.run_ms * MS, Happening::Exit(attempt, run));
        }
        if !behaviour.silent {
            self.later(20 * MS, Happening::Beat(attempt, run));
        }
        self.feed(Input::Spawned(attempt));
    }

    fn exit(&mut self, attempt: AttemptRef, run: u64) {
        let key = (attempt.slot, attempt.generation);
        if self.processes.get(&key).is_none_or(|process| process.run != run) {
            return;
        }
        let process = self.processes.remove(&key).expect("looked up");
        let exit = Exit::Code(process.behaviour.exit);
        self.feed(Input::Exited { attempt, exit, continues: process.continues });
    }

    // --- effects --------------------------------------------------------------------------------

    pub fn perform(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Append { seq, task, record, urgent, .. } => {
                    let mut bytes = vec![0; FIXED_BYTES_MAX];
                    let used = self.machine.encode(task, &record, &mut bytes);
                    bytes.truncate(used);
                    self.note(seq ^ (u64::from(record.kind()) << 56));
                    let ends = self.draining || self.store_failed;
                    let begins = matches!(record, Record::Started { .. });
                    assert!(!ends || !begins, "nothing more is begun at the end, or on no disk");
                    let key = self.keys.get(&task).copied();
                    self.check.recorded(&record, key, self.real_ms, self.seen_ms);
                    if let Record::Accepted(accepted) = record {
                        self.keys.insert(seq, accepted.key);
                    }
                    self.disk.push(Stored { seq, task, kind: record.kind(), bytes });
                    if urgent {
                        self.urgent = seq;
                    }
                }
                Effect::Load { attempt, task, step } => {
                    let delay = self.latency();
                    self.later(delay, Happening::Loaded(attempt, task, step));
                }
                Effect::Start { attempt, task, step, number, host } => {
                    self.start(attempt, task, step, number, host);
                }
                Effect::Signal { attempt, signal, .. } => self.signal(attempt, signal),
                Effect::Sweep(attempt) => {
                    self.processes.remove(&(attempt.slot, attempt.generation));
                    let delay = self.latency();
                    self.later(delay, Happening::Swept(attempt));
                }
                Effect::Discard(attempt) => self.check.discarded(attempt),
                Effect::Release { task, keep_from } => {
                    self.dead.push((task, keep_from));
                    if self.random.one_in(3) {
                        self.compact();
                    }
                }
            }
        }
        self.sync();
    }

    /// A compaction rewrites what lives, synced or not, and syncs it before the old is gone. The
    /// newest record stays: no number is given out twice.
    fn compact(&mut self) {
        let dead = core::mem::take(&mut self.dead);
        let is_dead = |s: &Stored| dead.iter().any(|(task, from)| s.task == *task && s.seq < *from);
        let newest = self.disk.last().map(|stored| stored.seq);
        self.disk.retain(|stored| !is_dead(stored) || Some(stored.seq) == newest);
        self.synced = self.disk.len();
    }

    fn start(&mut self, attempt: AttemptRef, task: u64, step: u8, number: u8, host: bool) {
        let key = self.keys[&task];
        let plan = &self.plans[&key];
        let header = plan.steps[step as usize].header;
        let spec = plan.steps[step as usize].spec;
        let synced = self.disk[..self.synced].iter().filter(|stored| stored.task == task);
        let durable: Vec<_> = synced
            .filter_map(|s| Record::decode(s.kind, &s.bytes).ok().map(|(record, ..)| record))
            .collect();
        if !header.finally {
            self.check.within_its_clock(plan, self.real_ms);
        }
        self.check.asked_to_start(key, step, &header, number, &durable, host);
        self.check.clock(attempt, key, self.at + u64::from(spec.start_to_close_ms) * MS);
        self.note(u64::from(step) << 8 | u64::from(number));
        let delay = self.latency();
        if host {
            let code = i32::from(self.random.one_in(4));
            self.later(delay, Happening::HostDone(attempt, code));
        } else {
            self.later(delay, Happening::Spawned(attempt, task, step, number));
        }
    }

    fn signal(&mut self, attempt: AttemptRef, signal: Signal) {
        self.check.signalled(attempt, signal, self.at);
        let Some(process) = self.processes.get(&(attempt.slot, attempt.generation)) else { return };
        let (run, behaviour) = (process.run, process.behaviour);
        let obeys = match signal {
            Signal::Terminate => !behaviour.ignores_term && !behaviour.unkillable,
            Signal::Kill => !behaviour.unkillable,
        };
        if obeys {
            let delay = self.latency();
            self.later(delay, Happening::Exit(attempt, run));
        }
    }

    fn latency(&mut self) -> u64 {
        match self.random.below(300) {
            0 if self.unkind => self.random.below(60_000 * MS),
            0..6 => self.random.below(3_000 * MS),
            _ => self.random.below(5 * MS),
        }
    }

    fn sync(&mut self) {
        if self.syncing || self.store_failed || self.urgent <= self.announced {
            return;
        }
        let seq = self.disk.last().map_or(0, |stored| stored.seq);
        self.syncing = true;
        let delay = self.latency();
        self.later(delay, Happening::Synced(seq));
    }

    pub fn hear(&mut self) {
        if self.host_deaf {
            return;
        }
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Answer(answer) => {
                    self.note(answer.token);
                    self.check.answered(&answer, &self.limits, &self.plans);
                }
                Event::Changed(_) => {}
                Event::Drained => self.drained = true,
                Event::Continue { task, .. } => {
                    let accepted = self.machine.view(task).map_or(0, |view| view.accepted_seq);
                    let delay = self.latency();
                    self.later(delay, Happening::Extend(task, accepted));
                }
                Event::Result(task) => {
                    let view = self.machine.view(task).expect("a result is of a live task");
                    let key = self.keys[&view.accepted_seq];
                    self.note(view.outcome as u64);
                    let steps: Vec<_> = self.machine.outcomes(task).collect();
                    let plan = &self.plans[&key];
                    let unreaped = view.flags.unreaped;
                    self.check.result(plan, view.outcome, &steps, unreaped, &self.limits);
                    let delay = self.latency();
                    self.later(delay, Happening::Delivered(task));
                }
            }
        }
    }

    pub fn quiet(&self) -> bool {
        self.machine.tasks().next().is_none()
    }
}
