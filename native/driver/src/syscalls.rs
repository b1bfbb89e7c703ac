//! System calls that rustix does not have: waitid(2) with the fifth argument that libc leaves out,
//! process_mrelease(2), kcmp(2), ioprio_set(2), sched_setattr(2) and signal(2); and the numbers of
//! those that are called by number.

use limpet_core::message::Exit;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::process::{Pid, getpriority_process};
use std::ffi::{CString, c_char, c_int, c_long};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use number::{IOPRIO_SET, KCMP, SCHED_SETATTR, WAITID};

/// Numbers of system calls, for the architectures that limpet is built for.
#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub const CLONE: u16 = 56;
    pub const RT_SIGACTION: u16 = 13;
    pub const WAITID: u16 = 247;
    pub const KCMP: u16 = 312;
    pub const IOPRIO_SET: u16 = 251;
    pub const SCHED_SETATTR: u16 = 314;
}
#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub const CLONE: u16 = 220;
    pub const RT_SIGACTION: u16 = 134;
    pub const WAITID: u16 = 95;
    pub const KCMP: u16 = 272;
    pub const IOPRIO_SET: u16 = 30;
    pub const SCHED_SETATTR: u16 = 274;
}
#[cfg(target_arch = "arm")]
pub(crate) mod number {
    pub const CLONE: u16 = 120;
    pub const RT_SIGACTION: u16 = 174;
    pub const WAITID: u16 = 280;
    pub const KCMP: u16 = 378;
    pub const IOPRIO_SET: u16 = 314;
    pub const SCHED_SETATTR: u16 = 380;
}
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
compile_error!("cannot call the kernel of this architecture: native/driver/src/syscalls.rs");
/// The same everywhere, like that of every system call since Linux 5.1 (clone3(2): 5.3;
/// process_mrelease(2): 5.15).
pub(crate) const CLONE3: u16 = 435;
const PROCESS_MRELEASE: u16 = 448;

/// Compares the memory of two processes.
const KCMP_VM: c_long = 1;
const P_PID: c_long = 1;
/// WNOHANG, WEXITED and WNOWAIT: only look, and never wait.
const PEEK: c_long = 1 | 4 | 0x0100_0000;
/// Words of `struct rusage` of the system call: two times, each in seconds and microseconds, then
/// `ru_maxrss`, and more.
const USAGE_WORDS: usize = 18;
/// Numbers of `siginfo_t` (sigaction(2)), and where among them `si_code` and `si_status` are: the
/// one behind two, the other behind three, a gap where pointers are long, and two more.
const INFO_NUMBERS: usize = 32;
const INFO_CODE: usize = 2;
const INFO_STATUS: usize = if cfg!(target_pointer_width = "64") { 6 } else { 5 };
const CLD_EXITED: c_int = 1;

// SAFETY: the prototype of libc. Each call made through it is described where it is made.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    safe fn signal(number: c_int, disposition: usize) -> usize;
    fn execv(path: *const c_char, argv: *const *const c_char) -> c_int;
}

/// Takes the memory of a process that was killed back at once, rather than when it has come to its
/// end on a busy processor. Best effort: what has more than one process to it is left alone.
pub fn release_memory(pidfd: BorrowedFd<'_>) {
    let fd = c_long::from(pidfd.as_raw_fd());
    // SAFETY: process_mrelease(pidfd, flags) takes two numbers and touches no memory of ours.
    let _ = unsafe { syscall(PROCESS_MRELEASE.into(), fd, c_long::from(0)) };
}

/// Reads and writes of this thread give way to everybody else's. Best effort: not every scheduler
/// of a disk knows classes.
pub fn become_idle() {
    const PROCESS: c_long = 1;
    const CLASS_IDLE: c_long = 3 << 13;
    let own: c_long = 0;
    // SAFETY: ioprio_set(which, who, ioprio) takes three numbers and touches no memory of ours.
    let _ = unsafe { syscall(IOPRIO_SET.into(), PROCESS, own, CLASS_IDLE) };
}

/// `struct sched_attr` of sched_setattr(2), as of Linux 3.14.
#[repr(C)]
#[derive(Default)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// The calling thread takes the processor for at most `turn` at a time, and comes sooner to it for
/// that, by the ordinary policy and as nice as it is. Best effort: before Linux 6.12 all turns are
/// of one length.
pub fn take_turns_of(turn: Duration) {
    let own: c_long = 0;
    let attributes = Scheduling {
        size: size_of::<Scheduling>() as u32,
        nice: getpriority_process(None).unwrap_or(0),
        runtime_ns: u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX),
        ..Scheduling::default()
    };
    let place = ptr::from_ref(&attributes);
    // SAFETY: sched_setattr(pid, attr, flags) reads as many bytes at `attr` as they say.
    let _ = unsafe { syscall(SCHED_SETATTR.into(), own, place, own) };
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM only note that they came: see [`was_interrupted`]. For a program
/// of one thread that asks often.
pub fn note_interrupts() {
    extern "C" fn note(_number: c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for number in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        // It only touches an atomic, which a handler may.
        let _ = signal(number.as_raw(), note as extern "C" fn(c_int) as usize);
    }
}

/// Becomes the program that `words` name, with our environment and signals as a program expects
/// them; returns only the cause why not. The standard library's way would bring all that starts
/// processes.
pub fn become_program(words: &[CString]) -> io::Error {
    crate::spawn::stop_ignoring(rustix::process::Signal::PIPE);
    let mut argv: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(ptr::null());
    // SAFETY: execv(path, argv) reads texts that end with NUL, and a list of them that ends with
    // null.
    unsafe { execv(argv[0], argv.as_ptr()) };
    io::Error::last_os_error()
}

/// Whether SIGINT or SIGTERM has come since [`note_interrupts`].
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Whether two processes have one memory, as between vfork and exec; `None` where the kernel cannot
/// tell, or not us.
pub fn have_one_memory(one: Pid, other: Pid) -> Option<bool> {
    let pid = |pid: Pid| c_long::from(pid.as_raw_pid());
    let none: c_long = 0;
    // SAFETY: kcmp(pid1, pid2, type, idx1, idx2) takes five numbers and touches no memory of ours.
    match unsafe { syscall(KCMP.into(), pid(one), pid(other), KCMP_VM, none, none) } {
        0 => Some(true),
        1..=3 => Some(false),
        _ => None,
    }
}

/// A child that has ended and was not reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// Milliseconds of user and of system time that it has taken, with those it has waited for.
    pub cpu_ms: (u64, u64),
    most_resident: u64,
}

/// How `child` has ended, if it has: it stays to be waited for.
#[must_use]
pub fn ended(child: Pid) -> Option<Ended> {
    let mut info = [0 as c_int; INFO_NUMBERS];
    let mut usage = [0 as c_long; USAGE_WORDS];
    let pid = c_long::from(child.as_raw_nonzero().get());
    let (to_info, to_usage) = (info.as_mut_ptr(), usage.as_mut_ptr());
    // SAFETY: waitid(idtype, id, infop, options, rusage) writes at most 128 bytes to `info` and 18
    // words to `usage`, which have them.
    let done = unsafe { syscall(WAITID.into(), P_PID, pid, to_info, PEEK, to_usage) };
    // It also returns 0 when nobody has ended, and then writes zeroes.
    if done != 0 || info[INFO_CODE] == 0 {
        return None;
    }
    let status = info[INFO_STATUS];
    let exit =
        if info[INFO_CODE] == CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    let word = |place: usize| u64::try_from(usage[place]).unwrap_or(0);
    let ms = |place| word(place).saturating_mul(1000).saturating_add(word(place + 1) / 1000);
    Some(Ended { exit, cpu_ms: (ms(0), ms(2)), most_resident: word(4).saturating_mul(1024) })
}

impl Ended {
    /// The most resident bytes that it, or one of those it has waited for, has had: mapped files
    /// included. `None` if that may be what the agent had when it forked, for that counts as the
    /// child's.
    #[must_use]
    pub fn most_resident_bytes(&self) -> Option<u64> {
        Some(self.most_resident).filter(|&bytes| bytes > own_most_resident_bytes())
    }
}

/// The most resident bytes that this process has had: `VmHWM` of /proc/self/status (proc(5)).
fn own_most_resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    kibibytes.map_or(u64::MAX, |kibibytes: u64| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A process has one memory with itself, and another than its child's program.
    #[test]
    fn one_memory_is_told_from_two() {
        let own = rustix::process::getpid();
        let mut child = Command::new("/bin/sleep").arg("60").spawn().expect("a child");
        let other = Pid::from_child(&child);
        let told = [have_one_memory(own, own), have_one_memory(own, other)];
        child.kill().expect("alive");
        child.wait().expect("ours");
        // A kernel without kcmp tells neither.
        assert!([[Some(true), Some(false)], [None, None]].contains(&told), "{told:?}");
    }

    /// Waits until it has ended, and keeps it.
    fn await_end(child: &std::process::Child) -> Pid {
        let pid = Pid::from_child(child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).expect("it ends");
        pid
    }

    fn shell(words: &str) -> std::process::Child {
        Command::new("/bin/sh").args(["-c", words]).spawn().expect("a child")
    }

    /// A child that is dead is asked twice, and can still be waited for. What it had is told only
    /// if it is more than we ever had.
    #[test]
    fn a_dead_child_is_asked_and_kept() {
        let mut small = Command::new("/bin/true").spawn().expect("a child");
        let pid = await_end(&small);
        assert_eq!(ended(pid).and_then(|it| it.most_resident_bytes()), None);
        assert!(small.wait().expect("kept").success());
        let more = own_most_resident_bytes() + (64 << 20);
        let mut child = shell(&format!("head -c {more} /dev/zero | tail -n 1 >/dev/null"));
        let pid = await_end(&child);
        let most = ended(pid).and_then(|it| it.most_resident_bytes());
        assert!(most.is_some_and(|bytes| bytes >= more), "{most:?}");
        assert_eq!(ended(pid).and_then(|it| it.most_resident_bytes()), most);
        assert!(child.wait().expect("kept").success());
        assert_eq!(ended(pid), None);
    }

    /// How a child has ended and what it took is what the standard library and /proc say of it.
    #[test]
    fn an_end_is_told_as_others_tell_it() {
        for (words, exit) in [
            ("exit 7", Exit::Code(7)),
            ("kill -TERM $$", Exit::Signal(15)),
            ("i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; /bin/true", Exit::Code(0)),
        ] {
            let mut child = shell(words);
            let pid = await_end(&child);
            let told = ended(pid).expect("it has ended");
            assert_eq!(told.exit, exit);
            let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
            let text = std::fs::read_to_string(path).expect("a zombie has one");
            let (_, fields) = text.rsplit_once(')').expect("a name");
            let fields: Vec<u64> =
                fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
            let tick_ms = 1000 / rustix::param::clock_ticks_per_second();
            for (ms, own, others) in [(told.cpu_ms.0, 11, 13), (told.cpu_ms.1, 12, 14)] {
                // Each of the two is cut off to whole ticks.
                let least = (fields[own] + fields[others]) * tick_ms;
                assert!((least..least + 2 * tick_ms + 1).contains(&ms), "{ms} {text}");
            }
            child.wait().expect("kept");
        }
        let mut alive = shell("exec sleep 60");
        assert_eq!(ended(Pid::from_child(&alive)), None);
        alive.kill().expect("alive");
        alive.wait().expect("ours");
    }
}
