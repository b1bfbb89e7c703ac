//! Decides what a child does before it runs its program. Everything it needs was made before it:
//! here nothing allocates, locks or reads the environment, nor changes memory of the agent's, but
//! for the word that it leaves.
//!
//! Knows nothing of launches or policies.

use std::ffi::{CString, c_char, c_int, c_long, c_uint};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::Mode;
use rustix::io::{Errno, dup2, fcntl_dupfd_cloexec, read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, fchdir, getppid, getrlimit,
    set_parent_process_death_signal, setpriority_process, setrlimit, setsid, umask, waitid,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::account::Account;
use super::clone::{Shared, clone};
use super::handover::{self, HANDED};
use crate::containment::Entrances;
use crate::syscalls::number::RT_SIGACTION;

/// The descriptor that a child reports on.
pub(super) const REPORT_FD: RawFd = 3;
/// Highest signal number on Linux.
const SIGNALS: c_int = 64;
/// Of a step whose memory is looked at, as nice(1) counts it: half of what there is.
const NICE: i32 = 10;

/// What can fail before the program runs, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The process itself.
    Clone,
    Session,
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
    /// Working directory.
    pub directory: OwnedFd,
    pub entrances: Arc<Entrances>,
    /// Standard input, which may be everybody's.
    pub input: Arc<OwnedFd>,
    /// Standard output and error.
    pub outputs: [OwnedFd; 2],
    pub report: OwnedFd,
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
const CLOSE_RANGE_UNSHARE: c_int = 2;
const CLOSE_RANGE_CLOEXEC: c_int = 4;
/// Those that Python ignores by itself, and its half of the agent: HUP, PIPE and XFSZ.
const IGNORED: u64 = 1 << 0 | 1 << 12 | 1 << 24;

// SAFETY: prototypes as in glibc 2.36. `signal` takes and returns a function address as an
// integer, of which only SIG_DFL, SIG_IGN and what it returned itself are passed. The set is
// glibc's 1024 bits, in which zero is the empty set; a null old set is allowed.
unsafe extern "C" {
    safe fn signal(number: c_int, disposition: usize) -> usize;
    safe fn sigprocmask(how: c_int, set: &SignalSet, old: Option<&mut SignalSet>) -> c_int;
    safe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    safe fn _exit(status: c_int) -> !;
    fn syscall(number: c_long, ...) -> c_long;
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

/// A descriptor that none of those a program is given can take the place of.
pub(super) fn aside(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    if descriptor.as_raw_fd() > REPORT_FD {
        return Ok(descriptor);
    }
    Ok(fcntl_dupfd_cloexec(descriptor, REPORT_FD + 1)?)
}

/// Whether children run in our memory, as one has proved: then we wait until each has run its
/// program or ended, and see what it has left. An emulator of processors, and valgrind, make a fork
/// of such a child and go on at once.
static ARE_SEEN: AtomicBool = AtomicBool::new(false);

/// Starts the program of `plan`, and returns once it runs.
pub(super) fn start(plan: Plan) -> Result<Pid, (Stage, io::Error)> {
    let is_seen = plan.account.is_none() && ARE_SEEN.load(Ordering::Relaxed);
    let begun = if is_seen { start_seen(&plan) } else { start_told(&plan) };
    // Its write ends, too: now only the child has them.
    drop(plan);
    let (started, left) = begun.map_err(|cause| (Stage::Descriptors, cause))?;
    let pid = started.map_err(|cause| (Stage::Clone, cause))?;
    let Some(failure) = failure(left) else { return Ok(pid) };
    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    Err(failure)
}

/// The process, and the [`word`] that it has left.
type Begun = (io::Result<Pid>, u32);

/// The way of a child that runs in our memory.
fn start_seen(plan: &Plan) -> io::Result<Begun> {
    handover::with(plan.handed(), |handed| {
        let mut child = Child::new(plan, Shared::MemoryAndTable, handed);
        let started = child.start();
        (started, child.left.into_inner())
    })
}

/// That of any other, which tells through a pipe.
fn start_told(plan: &Plan) -> io::Result<Begun> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let tell = aside(tell)?;
    // Between its change of user and its program, whoever is that user could reach the agent's
    // memory through the child.
    let shared = if plan.account.is_some() { Shared::Nothing } else { Shared::Memory };
    let mut child = Child { tell: Some(tell.as_fd()), ..Child::new(plan, shared, plan.handed()) };
    let started = child.start();
    ARE_SEEN.fetch_or(child.left.into_inner() != 0, Ordering::Relaxed);
    // Now only the child has one, until it runs its program.
    drop(tell);
    let mut word = [0; 4];
    if started.is_ok() {
        // One that is begun comes whole; none, when the program runs.
        retry_on_intr(|| read(&told, &mut word))?;
    }
    Ok((started, u32::from_le_bytes(word)))
}

/// The signals that the agent ignores, which its children would too: one bit each, from signal 1.
fn ignored() -> u64 {
    // Whatever it was started with. It does not change its mind afterwards but for ours.
    static FOUND: OnceLock<u64> = OnceLock::new();
    IGNORED
        | FOUND.get_or_init(|| {
            let found = (1..=SIGNALS).filter(|&number| is_ignored(number));
            found.fold(0, |all, number| all | 1 << (number - 1))
        })
}

fn is_ignored(number: c_int) -> bool {
    let (null, mut found) = (std::ptr::null::<usize>(), [0_usize; 16]);
    let (call, number) = (c_long::from(RT_SIGACTION), c_long::from(number));
    // SAFETY: rt_sigaction(number, new, old, 8) writes a sigaction, which is shorter, to `found`,
    // and changes nothing when `new` is null. It begins with the disposition, where it has not
    // failed.
    unsafe { syscall(call, number, null, found.as_mut_ptr(), size_of::<u64>()) };
    found[0] == SIG_IGN
}

/// What a child has left that is about to run its program.
const BEGUN: u32 = 1 << 24;

/// What one leaves that could not: also the stage, and errno in two bytes (the kernel's are below
/// 4096).
fn word(stage: Stage, errno: Errno) -> u32 {
    let errno = u16::try_from(errno.raw_os_error()).unwrap_or(u16::MAX);
    BEGUN | u32::from(errno) << 8 | stage as u32
}

fn failure(word: u32) -> Option<(Stage, io::Error)> {
    let [stage, low, high, _] = word.to_le_bytes();
    let errno = u16::from_le_bytes([low, high]);
    Some((Stage::of(stage)?, io::Error::from_raw_os_error(errno.into())))
}

/// No handler of ours may run in a child that has our memory.
fn blocking_signals<T>(act: impl FnOnce() -> T) -> T {
    let mut before = [0; 16];
    sigprocmask(SIG_SETMASK, &[u64::MAX; 16], Some(&mut before));
    let done = act();
    sigprocmask(SIG_SETMASK, &before, None);
    done
}

impl Stage {
    /// `None` for what no child can fail at.
    fn of(number: u8) -> Option<Stage> {
        use Stage::{
            Containment, Descriptors, Directory, Execute, Parent, Privileges, Session, User,
        };
        [Session, Containment, Descriptors, User, Directory, Privileges, Parent, Execute]
            .into_iter()
            .find(|&stage| stage as u8 == number)
    }
}

/// What a child finds.
struct Child<'a> {
    plan: &'a Plan,
    shared: Shared,
    /// Of the plan, as [`Plan::handed`] has them.
    handed: [BorrowedFd<'a>; HANDED],
    /// Where it says why it could not run its program, unless we see it.
    tell: Option<BorrowedFd<'a>>,
    /// As [`ignored`] tells them.
    ignored: u64,
    /// A [`word`], or nothing yet.
    left: AtomicU32,
    /// Whether it was born in its group of version 2, and without our signal handlers.
    is_born_inside: bool,
}

impl Child<'_> {
    fn new<'a>(plan: &'a Plan, shared: Shared, handed: [BorrowedFd<'a>; HANDED]) -> Child<'a> {
        let (ignored, left) = (ignored(), AtomicU32::new(0));
        Child { plan, shared, handed, tell: None, ignored, left, is_born_inside: true }
    }

    fn start(&mut self) -> io::Result<Pid> {
        blocking_signals(|| self.clone())
    }

    fn clone(&mut self) -> io::Result<Pid> {
        if let Some(group) = self.plan.entrances.birthplace() {
            // SAFETY: `run` makes system calls only and ends in exec or exit; it neither allocates
            // nor takes a lock. Of what we have it changes `left` only, which is atomic, and no
            // descriptor before it has left a table that is ours. Signals are blocked.
            let born = unsafe { clone(self.shared, Some(group), run, self) };
            // Containers commonly forbid clone3; nothing is lost but time.
            match born.as_ref().map_err(Errno::from_io_error) {
                Ok(_) | Err(Some(Errno::AGAIN | Errno::NOMEM)) => return born,
                Err(_) => {}
            }
        }
        self.is_born_inside = false;
        // SAFETY: as above.
        unsafe { clone(self.shared, None, run, self) }
    }
}

/// Becomes the program, or tells why not and ends.
extern "C" fn run(child: &Child<'_>) -> ! {
    child.left.store(BEGUN, Ordering::Relaxed);
    let (stage, errno) = match child.prepare() {
        Ok(()) => (Stage::Execute, child.plan.execute()),
        Err(failed) => failed,
    };
    let word = word(stage, errno);
    child.left.store(word, Ordering::Relaxed);
    if let Some(tell) = child.tell {
        let _ = write(tell, &word.to_le_bytes());
    }
    _exit(1)
}

impl Child<'_> {
    fn prepare(&self) -> Result<(), (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        let Child { plan, .. } = self;
        setsid().map_err(at(Stage::Session))?;
        // A program expects the defaults; what the agent ignores or blocks would be inherited.
        reset_signals(if self.is_born_inside { self.ignored } else { u64::MAX });
        plan.entrances.enter(self.is_born_inside).map_err(at(Stage::Containment))?;
        plan.bound_data();
        let directory = self.place_descriptors().map_err(at(Stage::Descriptors))?;
        if let Some(account) = &plan.account {
            become_account(account).map_err(at(Stage::User))?;
        }
        umask(Mode::from_raw_mode(0o022));
        fchdir(directory).map_err(at(Stage::Directory))?;
        set_no_new_privs(true).map_err(at(Stage::Privileges))?;
        // After the change of user, which would clear it. The parent may have died before it was
        // set; then there is nobody to send the signal.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::Parent))?;
        if getppid() != Some(plan.parent) {
            return Err((Stage::Parent, Errno::SRCH));
        }
        Ok(())
    }

    /// Puts them on 0 to 3, and closes all after that at exec; what the agent has on 3 is only
    /// closed in the child. Returns the working directory.
    fn place_descriptors(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.shared == Shared::MemoryAndTable {
            // Of what is above them nothing is copied.
            let highest = self.handed.iter().map(AsRawFd::as_raw_fd).max();
            close_from(highest.unwrap_or(REPORT_FD) + 1, CLOSE_RANGE_UNSHARE)?;
        }
        let [places @ .., directory] = self.handed;
        for (number, descriptor) in (0..).zip(places) {
            // SAFETY: nobody else in this process has anything on that number, and it is not closed
            // because this is never dropped. dup2 takes one that is not open, too.
            let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
            dup2(descriptor, &mut place)?;
        }
        close_from(REPORT_FD + 1, CLOSE_RANGE_CLOEXEC)?;
        Ok(directory)
    }
}

fn close_from(first: RawFd, flags: c_int) -> Result<(), Errno> {
    match close_range(first as c_uint, c_uint::MAX, flags) {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

impl Plan {
    /// What is placed on 0 to 3, and the working directory.
    fn handed(&self) -> [BorrowedFd<'_>; HANDED] {
        let [output, error] = &self.outputs;
        [
            self.input.as_fd(),
            output.as_fd(),
            error.as_fd(),
            self.report.as_fd(),
            self.directory.as_fd(),
        ]
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

    fn execute(&self) -> Errno {
        let (argv, environment) = (&self.program.pointers, &self.environment.pointers);
        // SAFETY: both arrays end in NULL and point to C strings that live as long as `self`.
        // execve itself and not execvp, which runs a file of unknown format (an empty one, one for
        // another processor) as a shell script.
        unsafe { execve(argv[0], argv.as_ptr(), environment.as_ptr()) };
        last_error()
    }
}

/// Gives signals their defaults, those of `which`, and lets all come.
fn reset_signals(which: u64) {
    // Zero is the default, without flags or mask, however an architecture orders them.
    let (default, old) = ([0_u64; 8], std::ptr::null::<u64>());
    for number in (1..=SIGNALS).filter(|&number| which >> (number - 1) & 1 == 1) {
        let (call, number) = (c_long::from(RT_SIGACTION), c_long::from(number));
        // SAFETY: rt_sigaction(number, new, old, 8) reads a sigaction, which is shorter, at
        // `default`, and writes nothing through a null `old`. It is refused for KILL and STOP,
        // whose dispositions nobody can change. The child's dispositions are its own; libc, whose
        // two are among them, is not called any more for what they are for.
        unsafe { syscall(call, number, default.as_ptr(), old, size_of::<u64>()) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containment::{Containment, Limits};
    use crate::spawn::AttemptName;
    use rustix::process::getpid;
    use std::fs::{self, File};
    use std::io::Read;

    fn open(path: &str) -> OwnedFd {
        aside(File::options().read(true).open(path).expect(path).into()).expect("a descriptor")
    }

    fn words(words: &[&str]) -> Strings {
        Strings::new(words.iter().map(|&it| CString::new(it).expect("text")).collect())
    }

    fn plan(program: &[&str], output: OwnedFd, entrances: Entrances) -> Plan {
        Plan {
            program: words(program),
            environment: words(&[]),
            directory: open("/"),
            entrances: Arc::new(entrances),
            input: Arc::new(open("/dev/null")),
            outputs: [output, open("/dev/null")],
            report: open("/dev/null"),
            account: None,
            data_bytes: None,
            parent: getpid(),
        }
    }

    /// Why a program did not run is told before it is known whether a child's memory is ours, and
    /// after.
    #[test]
    fn a_failure_is_told_either_way() {
        let missing = || {
            let plan = plan(&["/nowhere/at/all"], open("/dev/null"), Entrances::default());
            let (stage, cause) = start(plan).expect_err("there is no such program");
            (stage, cause.raw_os_error())
        };
        let told = (Stage::Execute, Some(Errno::NOENT.raw_os_error()));
        ARE_SEEN.store(false, Ordering::Relaxed);
        assert_eq!([missing(), missing()], [told, told]);
    }

    /// A child that shares the table of descriptors changes none of the agent's, and has none of
    /// them but those that it was handed.
    #[test]
    fn the_agent_keeps_its_descriptors() {
        // Ours from here on, unless it is inherited: a test beside this one may have it for now.
        let null = open("/dev/null");
        let claim = |_| {
            let claimed = fcntl_dupfd_cloexec(&null, REPORT_FD).expect("a descriptor");
            std::thread::sleep(std::time::Duration::from_millis(1));
            (claimed.as_raw_fd() == REPORT_FD).then_some(claimed)
        };
        let _ours = (0..1000).find_map(claim);
        let ours =
            || (0..=REPORT_FD).map(|number| fs::read_link(format!("/proc/self/fd/{number}")));
        let ours = || ours().map(Result::ok).collect::<Vec<_>>();
        let before = ours();
        let list = || {
            let (told, tell) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            let program = ["/bin/ls", "/proc/self/fd"];
            let plan = plan(&program, aside(tell).expect("a descriptor"), Entrances::default());
            let pid = start(plan).expect("a child");
            let mut listed = String::new();
            File::from(told).read_to_string(&mut listed).expect("what it says");
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            listed
        };
        // The last is that of the directory which it lists.
        assert_eq!([list(), list()], ["0\n1\n2\n3\n4\n"; 2]);
        assert_eq!(ours(), before);
    }

    /// A child whose agent may not say where it is to be born goes there itself.
    #[test]
    fn who_is_not_born_in_its_groups_enters_them() {
        let instance = format!("test-child-{}", std::process::id());
        let containment = Containment::probe(&instance);
        for birthplace in [false, true] {
            let name = AttemptName { instance: instance.clone(), task: 1, step: 0, attempt: 1 };
            let mut cell = containment.create(&name, &Limits::default()).expect("a cell");
            let mut entrances = Entrances::open(cell.groups()).expect("they are there");
            if !birthplace {
                // No group, so clone3 refuses it.
                entrances.misplace(open("/tmp"));
            }
            let (told, tell) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            let tell = aside(tell).expect("a descriptor");
            let plan = plan(&["/bin/cat", "/proc/self/cgroup"], tell, entrances);
            let pid = containment.start(&mut cell, || start(plan)).expect("a child");
            let mut text = String::new();
            File::from(told).read_to_string(&mut text).expect("what it says");
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            let groups = cell.groups();
            let holds = |line: &str| {
                let mut names = groups.iter().filter_map(|group| group.file_name()?.to_str());
                names.any(|name| line.ends_with(&format!("{instance}/{name}")))
            };
            let found = text.lines().filter(|line| holds(line)).count();
            assert_eq!(found, groups.len(), "{text} {groups:?}");
        }
    }
}
