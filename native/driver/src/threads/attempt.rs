//! What the timer keeps of one live attempt: its descriptors, what it said, how it ended.

use crate::containment::{Limits, Meter, Tiers, Usage};
use crate::end::{End, Output};
use crate::launch::Work;
use crate::memory::Watch;
use crate::names::pack_attempt;
use crate::output::{HeadTail, Parts, ReportLines, ReportSummary};
use crate::prepare::Spec;
use crate::quota::Quota;
use crate::syscalls::{self, Ended};
use crate::threads::spawner::Running;
use crate::threads::vigil::{Vigil, Watched};
use limpet_core::message::{AttemptRef, Exit, Outcome, Signal};
use limpet_core::record::Record;
use rustix::process::{Pid, kill_process_group, pidfd_send_signal};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Read from a pipe at one turn: a chatty child costs each turn this much and no more.
const READ_BYTES: usize = 64 * 1024;
/// Kept of each output for the journal: its beginning ...
const HEAD_BYTES: usize = 2 * 1024;
/// ... and its end.
const TAIL_BYTES: usize = 1024;
/// Where the place among its descriptors stands in a token, above the name of the attempt.
pub const PLACE_SHIFT: u32 = 60;
/// The leader's place among the descriptors of an attempt; its pipes come before.
pub const LEADER: u64 = 3;
/// The number of SIGKILL, which is the same everywhere.
const KILL_NUMBER: i32 = 9;

/// One live attempt, from the moment its step was read.
#[derive(Debug)]
pub struct Live {
    /// Its name in the machine.
    pub reference: AttemptRef,
    /// What it runs; taken when it starts.
    pub work: Option<Work>,
    /// Its bounds.
    pub spec: Option<Spec>,
    /// Index of its step.
    pub step: u8,
    /// Which try.
    pub number: u8,
    /// Why it was refused or could not start.
    pub reason: Option<(String, String)>,
    /// A spawner has its process, or was asked for it.
    pub is_held: bool,
    /// Leader's pid, until it is buried.
    pub pid: Option<Pid>,
    /// The leader's descriptor.
    pub pidfd: Option<Watched>,
    /// Standard output, standard error, report.
    pub pipes: [Option<Watched>; 3],
    outputs: [HeadTail; 2],
    log: Option<Log>,
    report: Option<ReportLines>,
    summary: ReportSummary,
    exit: Option<Exit>,
    /// Wall time of the start.
    pub started_ms: u64,
    ended_ms: u64,
    cpu_ms: (u64, u64),
    /// From the deadline that had it signalled last to the return of that, if it was a deadline.
    pub late_us: Option<u64>,
    /// Processes killed after the leader's end.
    pub stragglers: u32,
    /// What contains it and keeps it within its limits.
    pub tiers: Tiers,
    meter: Option<Arc<Meter>>,
    usage: Usage,
    watch: Arc<Watch>,
    backstop_bytes: Option<u64>,
    not_enforced: Vec<&'static str>,
}

impl Live {
    /// Nothing but a name.
    #[must_use]
    pub fn new(reference: AttemptRef) -> Live {
        Live {
            reference,
            work: None,
            spec: None,
            step: 0,
            number: 0,
            reason: None,
            is_held: false,
            pid: None,
            pidfd: None,
            pipes: [None, None, None],
            outputs: [HeadTail::new(HEAD_BYTES, TAIL_BYTES), HeadTail::new(HEAD_BYTES, TAIL_BYTES)],
            log: None,
            report: None,
            summary: ReportSummary::default(),
            exit: None,
            started_ms: 0,
            ended_ms: 0,
            cpu_ms: (0, 0),
            late_us: None,
            stragglers: 0,
            tiers: Tiers::default(),
            meter: None,
            usage: Usage::default(),
            watch: Arc::default(),
            backstop_bytes: None,
            not_enforced: Vec::new(),
        }
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.spec.as_ref().map(|spec| spec.limits).unwrap_or_default()
    }

    /// What its task's directory may take.
    #[must_use]
    pub fn quota(&self, directory: &Path) -> Option<Quota> {
        let bytes = self.spec.as_ref()?.directory_bytes?;
        Some(Quota { directory: directory.to_owned(), bytes })
    }

    /// Ends an attempt whose task's directory is full, unless it has ended by itself.
    pub fn fill(&mut self, detail: String) {
        if self.exit.is_none() {
            self.reason = Some(("directory_full".to_owned(), detail));
            self.signal(Signal::Kill);
        }
    }

    /// Lets the outputs be logged under the name of the task's working directory.
    pub fn log_to(&mut self, directory: &Path) {
        let task = directory.file_name().map(|name| name.to_string_lossy().into_owned());
        if let (Some(task), Some(spec)) = (task, &self.spec) {
            let file = format!("{:02}-{}.{}", self.step, spec.step, self.number);
            self.log =
                Some(Log { task, file, left: spec.output_bytes, waiting: Default::default() });
        }
    }

    /// What was said since the last call: task, file, bytes.
    pub fn take_logged(&mut self) -> Vec<(String, String, Vec<u8>)> {
        let Some(log) = &mut self.log else { return Vec::new() };
        let mut taken = Vec::new();
        for (waiting, stream) in log.waiting.iter_mut().zip(["stdout", "stderr"]) {
            if !waiting.is_empty() {
                let file = format!("{}.{stream}", log.file);
                taken.push((log.task.clone(), file, std::mem::take(waiting)));
            }
        }
        taken
    }

    /// Takes over a process that runs, and has its descriptors waited for.
    pub fn runs(&mut self, running: Running, vigil: &Vigil) {
        let watch = |fd, place: u64| {
            Some(vigil.watch(fd, place << PLACE_SHIFT | pack_attempt(self.reference)))
        };
        let [stdout, stderr, report] = running.pipes;
        self.pipes = [watch(stdout, 0), watch(stderr, 1), watch(report, 2)];
        (self.pid, self.pidfd) = (Some(running.pid), watch(running.pidfd, LEADER));
        self.report = Some(ReportLines::new());
        (self.meter, self.watch) = (running.meter, running.watch);
        (self.backstop_bytes, self.not_enforced) = (running.backstop_bytes, running.not_enforced);
    }

    /// Signals the leader and its process group, at once and without waiting for anybody. The
    /// leader is not reaped before its attempt has ended, so neither number can have been reused.
    pub fn signal(&self, signal: Signal) {
        let native = super::spawner::native(signal);
        if let (Some(pidfd), Some(pid)) = (&self.pidfd, self.pid) {
            let _ = pidfd_send_signal(pidfd, native);
            let _ = kill_process_group(pid, native);
            if signal == Signal::Terminate {
                // A stopped process must run to act on it.
                let _ = kill_process_group(pid, rustix::process::Signal::CONT);
            }
        }
    }

    /// Reads what one pipe holds, up to a bound. Closes it at its end. Returns completed report
    /// lines.
    pub fn read(&mut self, pipe: usize, buffer: &mut [u8], now_ms: u64) -> u64 {
        let mut lines = 0;
        let mut left = READ_BYTES;
        while left > 0 {
            let Some(fd) = &self.pipes[pipe] else { return lines };
            let most = buffer.len().min(left);
            let count = match rustix::io::read(fd, &mut buffer[..most]) {
                Ok(0) => {
                    self.pipes[pipe] = None;
                    return lines;
                }
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => return lines,
                Err(_) => {
                    self.pipes[pipe] = None;
                    return lines;
                }
            };
            left -= count;
            if pipe == 2 {
                lines += self.report.as_mut().map_or(0, |r| r.push(now_ms, &buffer[..count]));
            } else {
                self.outputs[pipe].push(&buffer[..count]);
                if let Some(log) = &mut self.log {
                    log.push(pipe, &buffer[..count]);
                }
            }
        }
        lines
    }

    /// Learns how the leader has ended; false while it runs. It stays a zombie until the spawner
    /// buries it: its pid names the session in which its descendants are looked for.
    pub fn notice_exit(&mut self, buffer: &mut [u8], now_ms: u64, wall_ms: u64) -> bool {
        let Some(pid) = self.pid else { return false };
        if self.exit.is_some() {
            return false;
        }
        let Some(ended) = syscalls::ended(pid) else { return false };
        self.cpu_ms = ended.cpu_ms;
        // Before it is judged: its last words may say why it failed.
        for pipe in 0..3 {
            self.read(pipe, buffer, now_ms);
        }
        let exit = match self.exceeded(pid, &ended) {
            Some(detail) => {
                self.reason = Some(("memory_exceeded".to_owned(), detail));
                Exit::OutOfMemory
            }
            None => ended.exit,
        };
        (self.exit, self.ended_ms) = (Some(exit), wall_ms);
        self.pidfd = None;
        if let Some(report) = self.report.take() {
            self.summary = report.finish(now_ms);
        }
        true
    }

    /// What it did, if it took more memory than it may: the kernel has killed it for that, or the
    /// sampler has, or it has failed at its backstop.
    ///
    /// That a program failed because an allocation was refused is never told. It is taken for
    /// granted where it failed after one of its processes had nearly as much as its backstop, in
    /// reserve (seen by the sampler) or resident (its own, or that of one it has waited for, where
    /// that is more than the agent had), or after it has said so. It is not known of one that says
    /// nothing and asked for more than all of it at once, nor of one that nobody has waited for
    /// while the sampler was held up; those end as `failed` or `killed`.
    fn exceeded(&mut self, pid: Pid, ended: &Ended) -> Option<String> {
        self.usage = match self.meter.take() {
            Some(meter) => meter.read(),
            None => Usage { peak_bytes: self.watch.peak_bytes(), kills: 0 },
        };
        let limit = self.limits().memory_bytes?;
        let cannot = format!("cannot stay within {limit} bytes");
        if self.usage.kills > 0 {
            return Some(format!("{cannot}: the kernel killed {}", self.killed(pid, ended.exit)));
        }
        if let Some(excess) = self.watch.excess() {
            let (one, all) = (&excess.largest, excess.bytes);
            return Some(format!(
                "{cannot}: {} (pid {}) had {} of the {all} bytes of its processes (killed)",
                one.name, one.pid, one.bytes
            ));
        }
        let backstop = self.backstop_bytes.filter(|_| ended.exit != Exit::Code(0))?;
        if let Some(one) = self.watch.starved() {
            return Some(format!(
                "{cannot}: {} (pid {}) had reserved {} of at most {backstop} bytes \
                 (it failed then)",
                one.name, one.pid, one.data
            ));
        }
        let most = ended.most_resident_bytes().filter(|&most| most >= backstop / 8 * 7);
        if let Some(most) = most {
            self.usage.peak_bytes = self.usage.peak_bytes.max(Some(most));
            return Some(format!(
                "{cannot}: one of its processes had {most} of at most {backstop} bytes \
                 (it failed then)"
            ));
        }
        let words = complaint(&self.outputs[1].to_parts())?;
        Some(format!("{cannot}: it failed, and had said \"{words}\""))
    }

    /// Whom the kernel has killed, as far as it is known.
    fn killed(&self, pid: Pid, ended: Exit) -> String {
        let kills = self.usage.kills;
        if kills == 1 && ended == Exit::Signal(KILL_NUMBER) {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            return format!(
                "{} (pid {})",
                name.unwrap_or_default().trim_end(),
                pid.as_raw_nonzero()
            );
        }
        let killed = if kills == 1 { "a process".to_owned() } else { format!("{kills} processes") };
        match self.watch.largest() {
            Some(one) => {
                format!("{killed} of it; its largest was {} (pid {})", one.name, one.pid)
            }
            None => format!("{killed} of it"),
        }
    }

    /// Lets the dead leader go, whose descendants are gone: the spawner reaps it.
    pub fn bury(&mut self) {
        if self.exit.is_some() {
            self.pid = None;
        }
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Notes an end that was told and not seen: the host's.
    pub fn told_exit(&mut self, exit: Exit, detail: Option<String>, wall_ms: u64) {
        (self.exit, self.ended_ms) = (Some(exit), wall_ms);
        self.reason = detail.map(|detail| ("host_failed".to_owned(), detail));
    }

    /// For a made-up world: ended so, having written this to its report descriptor.
    pub fn pretend_exit(&mut self, exit: Exit, said: &[u8], wall_ms: u64) {
        let mut report = ReportLines::new();
        report.push(0, said);
        self.summary = report.finish(0);
        (self.exit, self.ended_ms) = (Some(exit), wall_ms);
    }

    /// Whether its result asks for more steps.
    #[must_use]
    pub fn continues(&self) -> bool {
        let next = self.summary.result.as_ref().and_then(|result| result.get("next"));
        matches!(next, Some(Value::Array(steps)) if !steps.is_empty())
    }

    /// The newest progress that was not told yet, as JSON.
    pub fn take_progress(&mut self) -> Option<String> {
        self.report.as_mut().and_then(ReportLines::take_progress)
    }

    /// Gives the pipes up: what descendants still write is not the attempt's.
    pub fn close(&mut self, buffer: &mut [u8], now_ms: u64) {
        for pipe in 0..2 {
            self.read(pipe, buffer, now_ms);
        }
        self.pipes = [None, None, None];
    }

    /// The end of a step as the journal keeps it.
    #[must_use]
    pub fn payload(&self, record: &Record) -> Vec<u8> {
        let (step, number, outcome, clock) = match *record {
            Record::Ended { step, attempt, outcome, clock, .. } => (step, attempt, outcome, clock),
            Record::Tried { step, attempt, outcome } => {
                (step, attempt, outcome, limpet_core::message::Clock::None)
            }
            _ => return Vec::new(),
        };
        let (exit_code, signal) = match self.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            _ => (None, None),
        };
        let mut reason = self.reason.clone();
        if let (None, Some(error)) = (&reason, self.summary.result_error) {
            reason = Some((error.to_owned(), "the result was not kept".to_owned()));
        }
        let result = (outcome == Outcome::Succeeded || self.summary.result.is_some())
            .then_some(self.summary.result.as_ref())
            .flatten();
        let parts = [self.outputs[0].to_parts(), self.outputs[1].to_parts()];
        let end = End {
            step,
            attempt: number,
            outcome: outcome.name(),
            exit_code,
            signal,
            clock: Some(clock.name()).filter(|name| *name != "none"),
            reason: reason.as_ref().map(|reason| reason.0.as_str()),
            detail: reason.as_ref().map(|reason| reason.1.as_str()),
            result,
            stdout: told(&parts[0]),
            stderr: told(&parts[1]),
            user_ms: self.cpu_ms.0,
            system_ms: self.cpu_ms.1,
            peak_bytes: self.usage.peak_bytes,
            limit_bytes: self.limits().memory_bytes,
            memory: self.tiers.memory,
            not_enforced: &self.not_enforced,
            stragglers: self.stragglers,
            late_us: self.late_us,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            containment: self.tiers.containment,
        };
        end.into_bytes()
    }
}

/// Output on its way to the log.
#[derive(Debug)]
struct Log {
    task: String,
    file: String,
    /// Bytes that the attempt may still log.
    left: u64,
    waiting: [Vec<u8>; 2],
}

impl Log {
    /// Keeps bytes for the log, up to what one read brings; the rest was not taken away in time.
    fn push(&mut self, stream: usize, bytes: &[u8]) {
        let room = READ_BYTES.saturating_sub(self.waiting[stream].len());
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = bytes.len().min(room).min(left);
        self.waiting[stream].extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
    }
}

/// What programs say whose allocation was refused: libc's ENOMEM, the coreutils, shells, Python,
/// C++, Rust.
const COMPLAINTS: [&str; 6] = [
    "Cannot allocate memory",
    "memory exhausted",
    "Out of memory",
    "MemoryError",
    "std::bad_alloc",
    "memory allocation of",
];

/// The complaint that stands in what was kept of an output.
fn complaint(said: &Parts) -> Option<&'static str> {
    let says = |words: &&str| {
        [&said.head, &said.tail]
            .iter()
            .any(|part| part.to_ascii_lowercase().contains(&words.to_ascii_lowercase()))
    };
    COMPLAINTS.into_iter().find(says)
}

fn told(parts: &Parts) -> Output<'_> {
    Output { head: &parts.head, tail: &parts.tail, bytes: parts.bytes }
}
