//! Decides what surrounds an attempt's program: its user, directory, environment, descriptors,
//! signals and containment. The child either runs the program so, or the program never ran.
//!
//! Knows nothing of tasks, policies or deadlines. A launch is already decided.
//!
//! # Which thread
//!
//! [`spawn`] must be called by a thread that lives as long as the agent. The kernel ties a child's
//! parent-death signal to the thread that forked it, not to the process: were that thread to end,
//! every attempt it started would be killed.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fchown, fcntl_add_seals, fcntl_setfl, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getegid, geteuid, getpid, kill_process,
    pidfd_open, waitid,
};

use crate::containment::{Cell, Containment, Limits};
use crate::launch::Launch;
use account::Account;
pub(crate) use child::stop_ignoring;
use child::{Plan, REPORT_FD, Stage, Strings, aside};
pub(crate) use handover::reserve;

mod account;
mod child;
mod clone;
mod directory;
mod handover;

/// Environment name of the entry that marks every process of an attempt.
pub const MARKER: &str = "LIMPET_ATTEMPT";
/// Environment name that holds the number of the report descriptor.
const REPORT: &str = "LIMPET_FD";
/// Most bytes for standard input, all of which are kept in memory.
const STDIN_BYTES: usize = 64 * 1024;
/// Largest secret.
const SECRET_BYTES: u64 = 4096;

/// Which attempt a process is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptName {
    /// Stable id of this state directory: the containment's.
    pub instance: String,
    /// Sequence number of the task's acceptance.
    pub task: u64,
    /// Index of the step.
    pub step: u8,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

impl AttemptName {
    /// The value of [`MARKER`]: `instance:task:step:attempt`.
    pub fn marker(&self) -> String {
        format!("{}:{}:{}:{}", self.instance, self.task, self.step, self.attempt)
    }
}

/// A program that runs. All descriptors are non-blocking and closed at exec.
#[derive(Debug)]
pub struct Child {
    /// Its process, session and process group; not reused before it is reaped.
    pub pid: Pid,
    /// Readable when the leader has exited.
    pub pidfd: OwnedFd,
    /// Read end of its standard output.
    pub stdout: OwnedFd,
    /// Read end of its standard error.
    pub stderr: OwnedFd,
    /// Read end of its descriptor 3.
    pub report: OwnedFd,
    /// Where its descendants are found.
    pub cell: Cell,
}

/// Why an attempt has no process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnError {
    /// Stable reason: `argument_invalid`, `environment_invalid`, `secret_unreadable`,
    /// `user_unknown`, `user_refused`, `directory_unusable`, `containment_failed`,
    /// `exec_failed` or `spawn_failed`.
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
    /// True when the program certainly has not run, so that another attempt repeats nothing.
    pub before_exec: bool,
}

/// Starts `launch` as the leader of a new session in a cell of its own. Blocks until the program
/// runs, which includes reading it from disk.
///
/// # Errors
///
/// A [`SpawnError`]; nothing of the attempt is left behind then.
pub fn spawn(
    containment: &Containment,
    name: &AttemptName,
    launch: &Launch,
    limits: &Limits,
) -> Result<Child, SpawnError> {
    spawn_in(None, containment, name, launch, limits)
}

/// The same in a working directory that was `opened` already.
pub(crate) fn spawn_in(
    opened: Option<OwnedFd>,
    containment: &Containment,
    name: &AttemptName,
    launch: &Launch,
    limits: &Limits,
) -> Result<Child, SpawnError> {
    let program = program(launch)?;
    let account = launch.user.as_deref().map(account).transpose()?.flatten();
    let environment = environment(name, launch)?;
    let open = || directory::open(&launch.directory, account.as_ref());
    let directory = opened.map_or_else(open, Ok).map_err(|cause| {
        let object = launch.directory.display();
        failure("directory_unusable", format!("open directory {object}"), &cause)
    })?;
    let mut cell = containment
        .create(name, limits)
        .map_err(|cause| failure("containment_failed", "make the control groups", &cause))?;
    let plumb = |cause: io::Error| failure("spawn_failed", "make the descriptors", &cause);
    let pipes = Pipes::new(account.as_ref()).map_err(plumb)?;
    let input = input(launch.stdin.as_deref()).map_err(plumb)?;
    let plan = Plan {
        program,
        environment,
        directory: aside(directory).map_err(plumb)?,
        entrances: cell.entrances(),
        input,
        outputs: [pipes.stdout.1, pipes.stderr.1],
        report: pipes.report.1,
        account,
        data_bytes: containment.backstop_bytes(limits),
        parent: getpid(),
    };
    let pid = containment
        .start(&mut cell, || child::start(plan))
        .map_err(|(stage, cause)| explain(stage, &cause, launch))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|errno| abandon(containment, &cell, pid, errno.into()))?;
    let (stdout, stderr, report) = (pipes.stdout.0, pipes.stderr.0, pipes.report.0);
    Ok(Child { pid, pidfd, stdout, stderr, report, cell })
}

/// Read and write ends.
struct Pipes {
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
    report: (OwnedFd, OwnedFd),
}

impl Pipes {
    fn new(account: Option<&Account>) -> io::Result<Pipes> {
        let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            // Only our end: a program does not expect its output to be non-blocking.
            fcntl_setfl(&read, OFlags::NONBLOCK)?;
            // So that the user may open /dev/stdout again. Who may not give a pipe away may not
            // change its user either, and the child will tell.
            if let Some(account) = account {
                let _ = fchown(&write, Some(account.uid), Some(account.gid));
            }
            Ok((read, aside(write)?))
        };
        Ok(Pipes { stdout: pipe()?, stderr: pipe()?, report: pipe()? })
    }
}

/// Standard input: nothing, or bytes to read as a file, so that nobody has to write them while the
/// child runs.
fn input(bytes: Option<&[u8]>) -> io::Result<Arc<OwnedFd>> {
    let Some(bytes) = bytes else { return nothing() };
    if bytes.len() > STDIN_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "standard input is above 64 KiB"));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(c"stdin", flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    aside(file.into()).map(Arc::new)
}

/// One for all: it has neither a place nor a state that one child could change for another.
fn nothing() -> io::Result<Arc<OwnedFd>> {
    static NOTHING: OnceLock<Arc<OwnedFd>> = OnceLock::new();
    if let Some(nothing) = NOTHING.get() {
        return Ok(Arc::clone(nothing));
    }
    let opened = Arc::new(aside(File::open("/dev/null")?.into())?);
    Ok(Arc::clone(NOTHING.get_or_init(|| opened)))
}

fn program(launch: &Launch) -> Result<Strings, SpawnError> {
    let invalid = |why| failure("argument_invalid", "use the arguments", &io::Error::other(why));
    if !launch.argv.first().is_some_and(|program| program.starts_with('/')) {
        return Err(invalid("the program is not an absolute path"));
    }
    let argv: Result<_, _> = launch.argv.iter().map(|text| CString::new(text.as_str())).collect();
    argv.map(Strings::new).map_err(|_| invalid("one of them holds a NUL"))
}

/// The account to change to, or `None` when it is the agent's own.
fn account(user: &str) -> Result<Option<Account>, SpawnError> {
    let account = Account::of(user)
        .map_err(|cause| failure("user_unknown", format!("run as {user:?}"), &cause))?;
    let own = account.uid == geteuid() && account.gid == getegid();
    Ok((!own).then_some(account))
}

/// The marker, the report descriptor, the launch's entries, its secrets; nothing of our own.
fn environment(name: &AttemptName, launch: &Launch) -> Result<Strings, SpawnError> {
    let ours = [(MARKER.to_owned(), name.marker()), (REPORT.to_owned(), REPORT_FD.to_string())];
    let mut entries = Vec::new();
    for (key, value) in ours.iter().chain(&launch.environment) {
        push_entry(&mut entries, key, value.as_bytes())?;
    }
    for (key, path) in &launch.secrets {
        let value = secret(path).map_err(|cause| {
            let object = format!("read the secret {key} from {}", path.display());
            failure("secret_unreadable", object, &cause)
        })?;
        push_entry(&mut entries, key, &value)?;
    }
    Ok(Strings::new(entries))
}

fn push_entry(entries: &mut Vec<CString>, key: &str, value: &[u8]) -> Result<(), SpawnError> {
    let invalid = |why| {
        let object = format!("set the environment name {key:?}");
        failure("environment_invalid", object, &io::Error::other(why))
    };
    if key.is_empty() || key.contains('=') {
        return Err(invalid("it is not a name"));
    }
    let entry = CString::new([key.as_bytes(), b"=", value].concat())
        .map_err(|_| invalid("it or its value holds a NUL"))?;
    let start = key.len() + 1;
    if entries.iter().any(|other| other.to_bytes().get(..start) == entry.to_bytes().get(..start)) {
        return Err(invalid("it is set twice, or reserved"));
    }
    entries.push(entry);
    Ok(())
}

/// The bytes of a regular file of at most 4 KiB, without one newline at the end.
fn secret(path: &Path) -> io::Result<Vec<u8>> {
    let refuse = |kind, why| Err(io::Error::new(kind, why));
    // Opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return refuse(io::ErrorKind::InvalidInput, "it is not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SECRET_BYTES {
        return refuse(io::ErrorKind::FileTooLarge, "it is above 4 KiB");
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

/// Tells what the child could not do.
fn explain(stage: Stage, cause: &io::Error, launch: &Launch) -> SpawnError {
    let program = &launch.argv[0];
    match stage {
        Stage::Execute => failure("exec_failed", format!("execute {program}"), cause),
        Stage::Containment => failure("containment_failed", "enter the control group", cause),
        Stage::User => {
            let user = launch.user.as_deref().unwrap_or_default();
            failure("user_refused", format!("change to user {user:?}"), cause)
        }
        Stage::Directory => {
            let directory = launch.directory.display();
            failure("directory_unusable", format!("enter directory {directory}"), cause)
        }
        Stage::Clone => failure("spawn_failed", format!("make a process for {program}"), cause),
        stage => failure("spawn_failed", format!("prepare a process ({stage:?})"), cause),
    }
}

fn failure(code: &'static str, object: impl Into<String>, cause: &io::Error) -> SpawnError {
    let object = object.into();
    let detail = format!("cannot {object}: {cause} (the attempt has not started)");
    SpawnError { code, detail, before_exec: true }
}

/// Ends a program that runs but cannot be watched. Its pid is safe: it was not reaped.
fn abandon(containment: &Containment, cell: &Cell, pid: Pid, cause: io::Error) -> SpawnError {
    let _ = kill_process(pid, Signal::KILL);
    containment.sweep(cell);
    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    let detail = format!("cannot watch process {}: {cause} (it was killed)", pid.as_raw_pid());
    SpawnError { code: "spawn_failed", detail, before_exec: false }
}
