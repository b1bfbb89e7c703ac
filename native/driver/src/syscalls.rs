//! System calls that rustix does not have: waitid(2) with the fifth argument that libc leaves out,
//! process_mrelease(2), kcmp(2), ioprio_set(2) and signal(2); and the numbers of those that are
//! called by number.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::process::Pid;
use std::ffi::{CString, c_char, c_int, c_long};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use number::{IOPRIO_SET, KCMP, WAITID};

/// Numbers of system calls, for the architectures that limpet is built for.
#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub const CLONE: u16 = 56;
    pub const WAITID: u16 = 247;
    pub const KCMP: u16 = 312;
    pub const IOPRIO_SET: u16 = 251;
}
#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub const CLONE: u16 = 220;
    pub const WAITID: u16 = 95;
    pub const KCMP: u16 = 272;
    pub const IOPRIO_SET: u16 = 30;
}
#[cfg(target_arch = "arm")]
pub(crate) mod number {
    pub const CLONE: u16 = 120;
    pub const WAITID: u16 = 280;
    pub const KCMP: u16 = 378;
    pub const IOPRIO_SET: u16 = 314;
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
/// `ru_maxrss`, behind two times of two words each.
const MOST_RESIDENT: usize = 4;

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

/// The most resident bytes that `child`, which is dead and not reaped, or one of those it has
/// waited for, has had: mapped files included. `None` too if that may be what the agent had when it
/// forked, for that counts as the child's.
#[must_use]
pub fn most_resident_bytes(child: Pid) -> Option<u64> {
    // `struct rusage` of the system call: 18 words.
    let mut usage = [0 as c_long; 18];
    let pid = c_long::from(child.as_raw_nonzero().get());
    let no_info: *mut u8 = ptr::null_mut();
    // SAFETY: waitid(idtype, id, infop, options, rusage) writes at most 18 words to `usage`, which
    // has them, and nothing through a null `infop`.
    let done = unsafe { syscall(WAITID.into(), P_PID, pid, no_info, PEEK, usage.as_mut_ptr()) };
    let kibibytes = u64::try_from(usage[MOST_RESIDENT]).ok().filter(|_| done == 0)?;
    Some(kibibytes.saturating_mul(1024)).filter(|&bytes| bytes > own_most_resident_bytes())
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

    /// A child that is dead is asked twice, and can still be waited for. What it had is told only
    /// if it is more than we ever had.
    #[test]
    fn a_dead_child_is_asked_and_kept() {
        let mut small = Command::new("/bin/true").spawn().expect("a child");
        let _ = rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&small)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        );
        assert_eq!(most_resident_bytes(Pid::from_child(&small)), None);
        assert!(small.wait().expect("kept").success());
        let more = own_most_resident_bytes() + (64 << 20);
        let fill = format!("head -c {more} /dev/zero | tail -n 1 >/dev/null");
        let mut child = Command::new("/bin/sh").args(["-c", &fill]).spawn().expect("a child");
        let pid = Pid::from_child(&child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).expect("it ends");
        let most = most_resident_bytes(pid);
        assert!(most.is_some_and(|bytes| bytes >= more), "{most:?}");
        assert_eq!(most_resident_bytes(pid), most);
        assert!(child.wait().expect("kept").success());
        assert_eq!(most_resident_bytes(pid), None);
    }
}
