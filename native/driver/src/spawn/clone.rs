//! Decides how a process comes to be: in the memory of the agent, which is not copied for it, and
//! in the control group where it belongs.
//!
//! Knows nothing of what the child does.
//!
//! fork(2) copies the agent's page tables, and afterwards every page that any of its threads
//! writes; under a cap of a few MiB there may be no room for either. Here only the calling thread
//! waits, like in vfork(2), until the child runs its program; the others go on. That is what the C
//! library's posix_spawn(3) does too, which cannot do the rest: a child that writes itself into a
//! group of version 2 waits until every processor of the system has come by (a lock for all
//! forks, kernel/cgroup/cgroup.c), some ten milliseconds; one that is born there waits for nothing.
//!
//! Nor need the table of descriptors be copied: a busy agent has some two hundred, of which the
//! kernel would count each up, and close each again when the program runs.

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::syscalls::{CLONE3, number::CLONE};

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SIGCHLD: u64 = 17;

/// What of the agent's a child has that is not its own copy, until it executes its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// Nothing.
    Nothing,
    /// Its memory.
    Memory,
    /// Its memory, and its table of descriptors, which the child leaves before it changes any.
    MemoryAndTable,
}

/// `struct clone_args` of clone3(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts a process that calls `child(argument)`. In a `group` (the directory of one of version 2),
/// if there is one, it is born, and without our signal handlers. Unless nothing is shared this
/// returns when the child has executed a program or ended.
///
/// # Errors
///
/// That of clone(2) or, with a group, of clone3(2).
///
/// # Safety
///
/// `child` may be called with `argument` in a process that has this thread only: it takes no lock
/// and allocates nothing. What it changes in shared memory, we see. All signals are blocked, for
/// our handlers would run in the child.
pub(super) unsafe fn clone<T>(
    shared: Shared,
    group: Option<BorrowedFd<'_>>,
    child: extern "C" fn(&T) -> !,
    argument: &T,
) -> io::Result<Pid> {
    let flags = match shared {
        Shared::Nothing => 0,
        Shared::Memory => CLONE_VM | CLONE_VFORK,
        Shared::MemoryAndTable => CLONE_VM | CLONE_VFORK | CLONE_FILES,
    };
    let (child, argument) = (child as usize, std::ptr::from_ref(argument) as usize);
    let result = if let Some(group) = group {
        let arguments = Arguments {
            flags: flags | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND,
            exit_signal: SIGCHLD,
            cgroup: group.as_raw_fd() as u64,
            ..Arguments::default()
        };
        let place = std::ptr::from_ref(&arguments) as usize;
        // SAFETY: clone3 reads that many bytes at `place`. For the rest the caller answers.
        unsafe { divide([CLONE3.into(), place, size_of::<Arguments>()], child, argument) }
    } else {
        // SAFETY: clone takes flags and no stack here. For the rest the caller answers.
        unsafe { divide([CLONE.into(), (flags | SIGCHLD) as usize, 0], child, argument) }
    };
    let pid = i32::try_from(result).unwrap_or(-Errno::INVAL.raw_os_error());
    Pid::from_raw(pid.max(0)).ok_or_else(|| io::Error::from_raw_os_error(-pid))
}

/// Makes a system call (its number and two arguments, the others being 0) that returns twice, and
/// calls `child(argument)` where it returns 0.
///
/// # Safety
///
/// The call must be one that leaves the child on this stack, or on a copy of it. The child goes
/// down from here, where nothing of ours is, and never comes back; we only go on when it has left.
unsafe fn divide(call: [usize; 3], child: usize, argument: usize) -> isize {
    let [number, first, second] = call;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: see above. The call changes rax, rcx and r11; what the child changes is its own.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, {argument}",
            "call {child}",
            "ud2",
            "2:",
            argument = in(reg) argument,
            child = in(reg) child,
            inout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            out("rcx") _,
            out("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: see above. The call changes x0.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, {argument}",
            "blr {child}",
            "brk #1",
            "2:",
            argument = in(reg) argument,
            child = in(reg) child,
            in("x8") number,
            inout("x0") first => result,
            in("x1") second,
            in("x2") 0,
            in("x3") 0,
            in("x4") 0,
        );
    }
    #[cfg(target_arch = "arm")]
    // SAFETY: see above. The call changes r0.
    unsafe {
        asm!(
            "svc #0",
            "cmp r0, #0",
            "bne 2f",
            "mov r0, {argument}",
            "blx {child}",
            "udf #0",
            "2:",
            argument = in(reg) argument,
            child = in(reg) child,
            in("r7") number,
            inout("r0") first => result,
            in("r1") second,
            in("r2") 0,
            in("r3") 0,
            in("r4") 0,
        );
    }
    result
}
