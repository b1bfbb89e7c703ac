//! Lets the timer's thread come before every ordinary thread of the system, and keeps what it works
//! on in memory.
//!
//! Of this thread alone: the others may wait, and what a step runs never inherits it. A timer that
//! works without a pause for [`RUN_MAX`] is mistaken, and would take a processor for ever: the
//! kernel ends the agent then, and its supervisor starts it anew.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use rustix::mm::mlock;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

use crate::syscalls;

/// Above every ordinary thread, and below the interrupt threads of a kernel that has them (50).
const PRIORITY: c_int = 40;
const SCHED_FIFO: c_int = 1;
/// What is forked has the ordinary policy (sched(7)).
const SCHED_RESET_ON_FORK: c_int = 0x4000_0000;
/// As nice(1) counts it.
const NICE: i32 = -20;
/// Of what is short of work: the least that the kernel takes (kernel/sched/syscalls.c). One that
/// may take the processor for milliseconds has to wait until another has had as much.
const TURN: Duration = Duration::from_micros(100);
/// Without a system call that waits.
const RUN_MAX: Duration = Duration::from_millis(500);
/// Of the stack below here, a multiple of what a turn of the timer takes.
const STACK_BYTES: usize = 128 * 1024;

#[repr(C)]
struct Parameter {
    priority: c_int,
}

// SAFETY: the prototype of libc; pid 0 is the calling thread, and it only reads `parameter`.
unsafe extern "C" {
    safe fn sched_setscheduler(pid: c_int, policy: c_int, parameter: &Parameter) -> c_int;
}

/// Where it is not asked to come before every ordinary thread, the calling one still comes before
/// most of them, if it may: it is short of work, and what it does is late at once. A nice value
/// counts among the agent's own threads only, where each session has its share of the processor;
/// that turns are short counts among all.
pub fn prefer() {
    let _ = setpriority_process(None, NICE);
    syscalls::take_turns_of(TURN);
}

/// Raises the calling thread, which works on `places` (in memory that it owns).
///
/// # Errors
/// A sentence that names what the kernel refuses.
pub fn enter(places: &[(*const u8, usize)]) -> Result<(), String> {
    let refused = |what: &str, cause: std::io::Error| {
        format!("cannot {what}: {cause} (the agent does not start with device.realtime)")
    };
    let here = (&raw const places).cast::<u8>();
    let stack = [(here.wrapping_sub(STACK_BYTES), STACK_BYTES)];
    for &(place, bytes) in places.iter().chain(&stack) {
        // SAFETY: locking changes no byte. The arena is the caller's; the stack reaches further
        // down than that, and is mapped whole.
        unsafe { mlock(place.cast_mut().cast::<c_void>(), bytes) }
            .map_err(|errno| refused("lock the timer's memory", errno.into()))?;
    }
    let maximum = getrlimit(Resource::Rttime).maximum;
    let microseconds = u64::try_from(RUN_MAX.as_micros()).unwrap_or(u64::MAX);
    let current = Some(maximum.map_or(microseconds, |most| most.min(microseconds)));
    setrlimit(Resource::Rttime, Rlimit { current, maximum })
        .map_err(|errno| refused("bound the timer's run", errno.into()))?;
    let policy = SCHED_FIFO | SCHED_RESET_ON_FORK;
    match sched_setscheduler(0, policy, &Parameter { priority: PRIORITY }) {
        0 => Ok(()),
        _ => Err(refused("raise the timer's priority", std::io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Where the kernel knows turns of different lengths, those of the thread are short; where it
    /// may not be less nice, too.
    #[test]
    fn who_is_preferred_takes_short_turns() {
        let value = |name: &str| {
            let told = fs::read_to_string("/proc/thread-self/sched").ok()?;
            let line = told.lines().find(|line| line.starts_with(name))?.to_owned();
            line.rsplit(' ').next()?.parse::<u64>().ok()
        };
        std::thread::spawn(move || {
            let before = (value("se.slice"), value("prio"));
            prefer();
            let after = (value("se.slice"), value("prio"));
            let turn = u64::try_from(TURN.as_nanos()).ok();
            assert!(after.0 == before.0 || after.0 == turn, "{before:?} {after:?}");
            assert!(after.1 <= before.1, "{before:?} {after:?}");
            if knows_turns() && before.0.is_some() {
                assert_eq!(after.0, turn);
            }
        })
        .join()
        .expect("what it checks holds");
    }

    fn knows_turns() -> bool {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(6), Some(12))
    }
}
