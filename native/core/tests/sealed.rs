//! `handle` allocates nothing: an allocator that can be sealed aborts the test if it does.

use limpet_core::message::{
    Effect, Event, Executor, Exit, Input, Loaded, Spec, StepHeader, Submit, When,
};
use limpet_core::record::FIXED_BYTES_MAX;
use limpet_core::{Instant, Limits, Machine, Now};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;

thread_local! {
    static SEALED: Cell<bool> = const { Cell::new(false) };
    static BROKEN: Cell<u32> = const { Cell::new(0) };
}

struct Sealable;

fn count() {
    if SEALED.get() {
        BROKEN.set(BROKEN.get() + 1);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches thread-locals that
// need no allocation.
unsafe impl GlobalAlloc for Sealable {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Sealable = Sealable;

fn sealed<T>(work: impl FnOnce() -> T) -> T {
    SEALED.set(true);
    let value = work();
    SEALED.set(false);
    value
}

fn now(at: u64) -> Now {
    Now { at: Instant(at), wall_ms: 1_790_000_000_000, trusted: true, boot: 1 }
}

fn header(stop: bool, finally: bool) -> StepHeader {
    StepHeader { stop, finally, when: When::Always, ..StepHeader::default() }
}

fn submit(key: u32, steps: &[StepHeader]) -> Submit<'_> {
    Submit {
        token: 1,
        key: u128::from(key),
        digest: 1,
        source: 1,
        expires_ms: 1_790_000_100_000,
        clock_waived: false,
        schedule_to_close_ms: 60_000,
        finally_ms: 1_000,
        priority: 0,
        bytes: 100,
        additions: 0,
        steps,
    }
}

/// What the world answers to an effect: starts fail now and then, processes end by TERM only.
fn reply<'a>(effect: Effect, key: u32) -> Option<Input<'a>> {
    let spec = Spec { start_to_close_ms: 50, maximum_attempts: 2, ..Spec::default() };
    match effect {
        Effect::Load { attempt, .. } => {
            Some(Input::Loaded(attempt, Loaded::Start(Executor::Process, spec)))
        }
        Effect::Start { attempt, number: 1, .. } if key % 3 == 0 => {
            Some(Input::SpawnFailed { attempt, before_exec: true })
        }
        Effect::Start { attempt, .. } => Some(Input::Spawned(attempt)),
        Effect::Signal { attempt, .. } => {
            Some(Input::Exited { attempt, exit: Exit::Signal(15), continues: false })
        }
        Effect::Sweep(attempt) => Some(Input::Swept(attempt)),
        _ => None,
    }
}

/// A thousand tasks of three steps through their whole life, with failures, retries and cancels.
#[test]
fn handling_allocates_nothing_after_open() {
    let mut machine = Machine::new(Limits::default(), 1, now(1)).expect("defaults are in range");
    let steps = [header(true, false), header(false, false), header(false, true)];
    let mut record = [0u8; FIXED_BYTES_MAX];
    let mut pending = VecDeque::with_capacity(1024);
    let (mut at, mut delivered, mut written, mut durable) = (1u64, 0, 0, 0);
    sealed(|| {
        for key in 1..=1000u32 {
            machine.handle(now(at), Input::Submit(submit(key, &steps)));
            for turn in 0..400 {
                while let Some(effect) = machine.poll_effect() {
                    if let Effect::Append { seq, task, record: ref what, .. } = effect {
                        machine.encode(task, what, &mut record);
                        written = seq;
                    }
                    pending.push_back(effect);
                }
                let mut result = None;
                while let Some(event) = machine.poll_event() {
                    if let Event::Result(task) = event {
                        result = Some(task);
                    }
                }
                at += 10_000;
                if let Some(task) = result {
                    machine.handle(now(at), Input::Delivered(task));
                    delivered += 1;
                    continue;
                }
                if machine.tasks().next().is_none() {
                    break;
                }
                let source = u64::from(key % 2);
                let (any, expires_ms, cancels) = (false, 0, key % 7 == 0 && turn == 9);
                let input = if cancels {
                    Input::Cancel { token: 2, key: u128::from(key), source, any, expires_ms }
                } else if let Some(effect) = pending.pop_front() {
                    let Some(input) = reply(effect, key) else { continue };
                    input
                } else if durable < written {
                    durable = written;
                    Input::Durable(durable)
                } else {
                    at = at.max(machine.next_deadline().0);
                    Input::Timeout
                };
                machine.handle(now(at), input);
            }
        }
    });
    assert_eq!(BROKEN.get(), 0, "allocations while sealed");
    assert_eq!(delivered, 1000);
    assert_eq!(machine.stats().accepted, 1000);
}
