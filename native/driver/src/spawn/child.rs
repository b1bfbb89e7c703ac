//! Decides what a child does between fork and exec. Everything it needs was made before the fork:
//! here nothing allocates, locks or reads the environment.
//!
//! Knows nothing of launches or policies.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, fstat};
use rustix::io::{Errno, FdFlags, dup2, fcntl_setfd, write};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, fchdir, getppid, getrlimit, set_parent_process_death_signal,
    setpriority_process, setrlimit, setsid, umask,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::account::Account;

/// The descriptor that a child reports on.
pub(super) const REPORT_FD: RawFd = 3;
/// Highest signal number on Linux.
const SIGNALS: c_int = 64;
/// Of a step whose memory is looked at, as nice(1) counts it: half of what there is.
const NICE: i32 = 10;
/// A failed step of [`Plan::run`] travels in the one number that a child can send back: errno in
/// the low bits (the kernel's are below 4096), the stage above.
const STAGE_SHIFT: u32 = 12;

/// The steps of [`Plan::run`] that can fail, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Session = 1,
    Containment,
    Descriptors,
    User,
    Directory,
    Privileges,
    Parent,
    Execute,
}

/// Everything the child needs, made by its parent.
pub(super) struct Plan {
    pub program: Strings,
    pub environment: Strings,
    /// Working directory; not on descriptor 3.
    pub directory: OwnedFd,
    /// `cgroup.procs` of the attempt's groups, open for writing.
    pub groups: Vec<OwnedFd>,
    pub report: OwnedFd,
    /// Device and inode of whatever holds descriptor 3 in the parent.
    pub occupant: (u64, u64),
    pub account: Option<Account>,
    /// Most private writable memory of each process, in bytes.
    pub data_bytes: Option<u64>,
    pub parent: Pid,
}

/// C strings and the NULL-ended array of pointers to them that exec takes.
pub(super) struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers are to the heap buffers of `_owned`, which move and are shared as well as
// any CString and are never changed.
unsafe impl Send for Strings {}
// SAFETY: as above; only ever read.
unsafe impl Sync for Strings {}

impl Strings {
    pub fn new(owned: Vec<CString>) -> Strings {
        let ends = [std::ptr::null()];
        let pointers = owned.iter().map(|text| text.as_ptr()).chain(ends).collect();
        Strings { _owned: owned, pointers }
    }
}

type SignalSet = [u64; 16];
const SIG_SETMASK: c_int =
    if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 3 } else { 2 };
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const CLOSE_RANGE_CLOEXEC: c_int = 4;

// SAFETY: prototypes as in glibc 2.36. `signal` takes and returns a function address as an
// integer, of which only SIG_DFL, SIG_IGN and what it returned itself are passed. The set is
// glibc's 1024 bits, in which zero is the empty set; a null old set is allowed.
unsafe extern "C" {
    safe fn signal(number: c_int, disposition: usize) -> usize;
    safe fn sigprocmask(how: c_int, set: &SignalSet, old: Option<&mut SignalSet>) -> c_int;
    safe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn execve(
        path: *const c_char,
        argv: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int;
}

/// Replaces "ignore" of a signal by its default, and leaves a handler alone.
pub(crate) fn stop_ignoring(number: Signal) {
    let previous = signal(number.as_raw(), SIG_DFL);
    if previous != SIG_IGN {
        signal(number.as_raw(), previous);
    }
}

/// Lets `command` do as `plan` says in its child. The command's own program, arguments and
/// environment are never used.
pub(super) fn follow(command: &mut Command, plan: Plan) {
    // SAFETY: `run` makes system calls only and ends in exec or an error; it neither allocates nor
    // takes a lock, so it may follow a fork of a process with threads.
    unsafe {
        command.pre_exec(move || Err(plan.run()));
    }
}

/// What failed in the child: nothing of ours is `None` (the fork, or the standard descriptors).
pub(super) fn stage_of(error: &io::Error) -> (Option<Stage>, io::Error) {
    use Stage::{Containment, Descriptors, Directory, Execute, Parent, Privileges, Session, User};
    let raw = error.raw_os_error().unwrap_or_default();
    let stage = [Session, Containment, Descriptors, User, Directory, Privileges, Parent, Execute]
        .into_iter()
        .find(|&stage| stage as i32 == raw >> STAGE_SHIFT);
    let errno = raw & ((1 << STAGE_SHIFT) - 1);
    (stage, io::Error::from_raw_os_error(errno))
}

impl Plan {
    /// Becomes the program, or says why not.
    fn run(&self) -> io::Error {
        let (stage, errno) = match self.prepare() {
            Ok(()) => (Stage::Execute, self.execute()),
            Err(failed) => failed,
        };
        io::Error::from_raw_os_error(((stage as i32) << STAGE_SHIFT) | errno.raw_os_error())
    }

    fn prepare(&self) -> Result<(), (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        setsid().map_err(at(Stage::Session))?;
        reset_signals();
        for group in &self.groups {
            // 0 is the writer itself.
            write(group, b"0").map_err(at(Stage::Containment))?;
        }
        self.bound_data();
        self.place_descriptors().map_err(at(Stage::Descriptors))?;
        if let Some(account) = &self.account {
            become_account(account).map_err(at(Stage::User))?;
        }
        umask(Mode::from_raw_mode(0o022));
        fchdir(&self.directory).map_err(at(Stage::Directory))?;
        set_no_new_privs(true).map_err(at(Stage::Privileges))?;
        // After the change of user, which would clear it. The parent may have died before it was
        // set; then there is nobody to send the signal.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::Parent))?;
        if getppid() != Some(self.parent) {
            return Err((Stage::Parent, Errno::SRCH));
        }
        Ok(())
    }

    /// Best effort: a backstop for when the limit itself cannot be kept. Never above what the agent
    /// itself may have. Where it is needed somebody looks at what the attempt has, and must come
    /// before it on a busy processor.
    fn bound_data(&self) {
        if let Some(bytes) = self.data_bytes {
            let _ = setpriority_process(None, NICE);
            let Rlimit { maximum, .. } = getrlimit(Resource::Data);
            let bytes = maximum.map_or(bytes, |most| most.min(bytes));
            let _ =
                setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) });
        }
    }

    /// Puts the report pipe on descriptor 3 and closes all after it at exec.
    fn place_descriptors(&self) -> Result<(), Errno> {
        // SAFETY: the parent saw to it that 3 is open, and it is never closed through this.
        let held = unsafe { BorrowedFd::borrow_raw(REPORT_FD) };
        let found = fstat(held)?;
        // Its holder let go of 3 just before the fork: then it may be the pipe through which
        // errors of this function travel, which must not be overwritten.
        #[allow(clippy::unnecessary_cast, reason = "their width depends on the architecture")]
        if (found.st_dev as u64, found.st_ino as u64) != self.occupant {
            return Err(Errno::AGAIN);
        }
        // SAFETY: as above: it is open, and not closed because it is never dropped.
        let mut third = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(REPORT_FD) });
        dup2(&self.report, &mut third)?;
        // The pipe may have been on 3 already, and then dup2 leaves its close-on-exec as it is.
        fcntl_setfd(third.as_fd(), FdFlags::empty())?;
        match close_range(REPORT_FD as c_uint + 1, c_uint::MAX, CLOSE_RANGE_CLOEXEC) {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    fn execute(&self) -> Errno {
        let (argv, environment) = (&self.program.pointers, &self.environment.pointers);
        // SAFETY: both arrays end in NULL and point to C strings that live as long as `self`.
        // execve itself and not execvp, which runs a file of unknown format (an empty one, one for
        // another processor) as a shell script.
        unsafe { execve(argv[0], argv.as_ptr(), environment.as_ptr()) };
        last_error()
    }
}

/// A program expects the defaults; what the agent ignores or blocks would be inherited.
fn reset_signals() {
    for number in 1..=SIGNALS {
        // Refused for KILL, STOP and libc's own two, whose dispositions nobody can change.
        signal(number, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &[0; 16], None);
}

/// Groups first: without the old user there is no right to change them.
fn become_account(account: &Account) -> Result<(), Errno> {
    set_thread_groups(&account.groups)?;
    set_thread_res_gid(account.gid, account.gid, account.gid)?;
    set_thread_res_uid(account.uid, account.uid, account.uid)
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
