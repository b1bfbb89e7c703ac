//! The slots of the machine: tasks, their steps, live attempts. Fixed in number, touched when made.

use crate::limits::Limits;
use crate::message::{Clock, Executor, Outcome, Spec, StepHeader, TaskRef, When};
use crate::table::State;
use crate::time::Instant;

/// The end of a list, or no slot.
pub const NONE: u16 = u16::MAX;
/// No step.
pub const NO_STEP: u8 = u8::MAX;

/// One live task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Task {
    pub state: State,
    pub generation: u32,
    /// Sequence number of its acceptance: its name in the journal.
    pub accepted_seq: u64,
    /// The record that must be durable before it may go on.
    pub awaited_seq: u64,
    /// When `schedule_to_close` (or the finally clock) runs out.
    pub close_at: Instant,
    /// When the clock of its present state runs out.
    pub phase_at: Instant,
    /// When it became runnable: first come, first served within a priority.
    pub queued_at: Instant,
    /// Hash of who sent it.
    pub source: u64,
    pub schedule_to_close_ms: u64,
    pub finally_ms: u32,
    pub reserved: u32,
    /// Agent time used before this start, in ms; see `recovery`.
    pub used_ms: u64,
    /// Read back: the boot in which the step at hand was started.
    pub boot: u32,
    /// Its entry in the table of ids.
    pub id: u16,
    /// First step, in order of execution.
    pub first: u16,
    /// The step at hand.
    pub current: u16,
    /// Its live attempt.
    pub attempt: u16,
    pub priority: i8,
    pub steps: u8,
    pub additions: u8,
    pub suspicions: u8,
    /// What ends the task although its step would go on: cancelled or timed out.
    pub ending: Outcome,
    pub outcome: Outcome,
    pub outcome_step: u8,
    pub outcome_clock: Clock,
    pub flags: TaskFlags,
}

/// Facts about a task that are either so or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TaskFlags {
    /// The outcome is fixed; only finally steps run.
    pub finally: bool,
    /// Read back: the step at hand was started and has not ended.
    pub in_flight: bool,
    /// Its result was handed to the host.
    pub reported: bool,
    /// Time spent without power could not be measured.
    pub clock_uncertain: bool,
    /// Some process of it could not be killed.
    pub unreaped: bool,
    /// Records may be missing from its history.
    pub gap: bool,
    /// Read back: steps ran that nobody knows; what added them is missing.
    pub lost_steps: bool,
    /// It had finished before a gap, so its delivery may be among the records that are gone.
    pub perhaps_delivered: bool,
    /// Read back: the last step asked for more steps, and nobody has answered.
    pub planning: bool,
    /// Read back: the host refused the steps that the last step asked for.
    pub refused_plan: bool,
    /// Read back: all is over.
    pub finished: bool,
}

/// One step: a link in its task's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Step {
    pub next: u16,
    pub index: u8,
    pub attempts: u8,
    pub outcome: Outcome,
    pub header: StepHeader,
    pub code: i32,
}

/// Why the agent ends an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Cause {
    /// It does not.
    None,
    /// The attempt's own clock, or its silence.
    Clock(Clock),
    /// The task is to end.
    Ending,
    /// The agent stops.
    Interrupted,
}

/// One live attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Attempt {
    pub generation: u32,
    /// Its task's slot; `NONE` once the task has given it up.
    pub task: u16,
    pub live: bool,
    /// It runs, or ran: there are processes to sweep.
    pub process: bool,
    pub continues: bool,
    /// Its program certainly did not run.
    pub before_exec: bool,
    /// It could not be killed; the slot stays held until it is seen to die.
    pub lost: bool,
    pub cause: Cause,
    /// How it ended by itself.
    pub exit: Outcome,
    pub code: i32,
    /// What it has of the pool until it is gone.
    pub memory_kib: u32,
    pub executor: Executor,
    pub spec: Spec,
    pub close_at: Instant,
    pub heartbeat_at: Instant,
    /// When a timer's work is done.
    pub timer_at: Instant,
}

impl Task {
    pub const FREE: Task = Task {
        state: State::Free,
        generation: 0,
        accepted_seq: 0,
        awaited_seq: 0,
        close_at: Instant::NEVER,
        phase_at: Instant::NEVER,
        queued_at: Instant::NEVER,
        source: 0,
        schedule_to_close_ms: 0,
        finally_ms: 0,
        reserved: 0,
        used_ms: 0,
        boot: 0,
        id: NONE,
        first: NONE,
        current: NONE,
        attempt: NONE,
        priority: 0,
        steps: 0,
        additions: 0,
        suspicions: 0,
        ending: Outcome::None,
        outcome: Outcome::None,
        outcome_step: NO_STEP,
        outcome_clock: Clock::None,
        flags: TaskFlags {
            finally: false,
            in_flight: false,
            reported: false,
            clock_uncertain: false,
            unreaped: false,
            gap: false,
            lost_steps: false,
            perhaps_delivered: false,
            planning: false,
            refused_plan: false,
            finished: false,
        },
    };
}

impl Step {
    const FREE: Step = Step {
        next: NONE,
        index: 0,
        attempts: 0,
        outcome: Outcome::None,
        header: StepHeader {
            finally: false,
            stop: false,
            guarded: false,
            reboot: false,
            schedule_to_start_ms: 0,
            memory_kib: 0,
            when: When::Always,
        },
        code: 0,
    };
}

impl Attempt {
    const FREE: Attempt = Attempt {
        generation: 0,
        task: NONE,
        live: false,
        process: false,
        continues: false,
        before_exec: false,
        lost: false,
        cause: Cause::None,
        exit: Outcome::None,
        code: 0,
        memory_kib: 0,
        executor: Executor::Process,
        spec: Spec {
            start_to_close_ms: 1,
            heartbeat_ms: 0,
            grace_ms: 0,
            maximum_attempts: 1,
            before_exec_only: false,
            initial_interval_ms: 0,
            backoff_milli: 1000,
            maximum_interval_ms: 0,
            jitter_milli: 0,
        },
        close_at: Instant::NEVER,
        heartbeat_at: Instant::NEVER,
        timer_at: Instant::NEVER,
    };

    pub fn claim(&mut self, task: u16, memory_kib: u32) {
        let generation = self.generation.wrapping_add(1);
        *self = Attempt { generation, task, live: true, memory_kib, ..Attempt::FREE };
    }

    pub fn free(&mut self) {
        *self = Attempt { generation: self.generation, ..Attempt::FREE };
    }
}

/// All slots, with the list of free steps threaded through the pool.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Arena {
    #[cfg_attr(feature = "serde", serde(with = "crate::runs"))]
    pub tasks: Box<[Task]>,
    /// Earliest deadline of each task, kept apart so that one scan reads little memory.
    #[cfg_attr(feature = "serde", serde(with = "crate::runs"))]
    pub due: Box<[Instant]>,
    #[cfg_attr(feature = "serde", serde(with = "crate::runs::linked"))]
    pub steps: Box<[Step]>,
    #[cfg_attr(feature = "serde", serde(with = "crate::runs"))]
    pub attempts: Box<[Attempt]>,
    free_step: u16,
    free_steps: u16,
}

fn place<T>(slots: &[T]) -> (*const u8, usize) {
    (slots.as_ptr().cast(), size_of_val(slots))
}

impl Arena {
    pub fn new(limits: &Limits) -> Arena {
        let mut steps = vec![Step::FREE; limits.steps as usize].into_boxed_slice();
        for (index, step) in (1..).zip(steps.iter_mut()) {
            step.next = if index < limits.steps { index } else { NONE };
        }
        Arena {
            tasks: vec![Task::FREE; limits.tasks as usize].into_boxed_slice(),
            due: vec![Instant::NEVER; limits.tasks as usize].into_boxed_slice(),
            steps,
            attempts: vec![Attempt::FREE; limits.attempts as usize].into_boxed_slice(),
            free_step: 0,
            free_steps: limits.steps,
        }
    }

    pub fn free_steps(&self) -> u16 {
        self.free_steps
    }

    /// Where it lies in memory: places and bytes.
    pub fn places(&self) -> [(*const u8, usize); 4] {
        [place(&self.tasks), place(&self.due), place(&self.steps), place(&self.attempts)]
    }

    /// Takes a step from the pool. The caller has asked `free_steps`.
    pub fn take_step(&mut self, index: u8, header: StepHeader) -> u16 {
        let slot = self.free_step;
        assert!(slot != NONE);
        self.free_step = self.steps[slot as usize].next;
        self.free_steps -= 1;
        self.steps[slot as usize] = Step { index, header, ..Step::FREE };
        slot
    }

    /// Gives a whole list of steps back.
    pub fn give_steps(&mut self, first: u16) {
        let mut slot = first;
        while slot != NONE {
            let next = self.steps[slot as usize].next;
            self.steps[slot as usize] = Step { next: self.free_step, ..Step::FREE };
            self.free_step = slot;
            self.free_steps += 1;
            slot = next;
        }
    }

    /// Chains new steps behind `behind` (or as the head of a new list); returns the first of them.
    pub fn link_steps(
        &mut self,
        behind: u16,
        first_index: u8,
        headers: impl Iterator<Item = StepHeader>,
    ) -> u16 {
        let rest = if behind == NONE { NONE } else { self.steps[behind as usize].next };
        let (mut first, mut last) = (NONE, behind);
        for (index, header) in (first_index..).zip(headers) {
            let slot = self.take_step(index, header);
            if last != NONE {
                self.steps[last as usize].next = slot;
            }
            if first == NONE {
                first = slot;
            }
            last = slot;
        }
        if last != NONE {
            self.steps[last as usize].next = rest;
        }
        first
    }

    /// The slots of a task's steps in order of execution.
    pub fn steps_of(&self, first: u16) -> StepsOf<'_> {
        StepsOf { arena: self, slot: first }
    }

    pub fn free_task(&self) -> Option<u16> {
        // Linear over at most 1024 slots, once per acceptance; a free list would be one more
        // invariant.
        let slot = self.tasks.iter().position(|task| task.state == State::Free)?;
        u16::try_from(slot).ok()
    }

    pub fn free_attempt(&self) -> Option<u16> {
        let slot = self.attempts.iter().position(|attempt| !attempt.live)?;
        u16::try_from(slot).ok()
    }

    pub fn task_ref(&self, slot: u16) -> TaskRef {
        TaskRef { slot, generation: self.tasks[slot as usize].generation }
    }
}

/// Iterator over the step slots of one task.
pub struct StepsOf<'a> {
    arena: &'a Arena,
    slot: u16,
}

impl Iterator for StepsOf<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let slot = self.slot;
        if slot == NONE {
            return None;
        }
        self.slot = self.arena.steps[slot as usize].next;
        Some(slot)
    }
}
