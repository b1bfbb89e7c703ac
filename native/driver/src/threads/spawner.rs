//! A spawner's thread: it creates the processes of its attempts, and removes what they leave
//! behind. There are a few, so that one starts programs while another waits for one to be read.
//!
//! It lives as long as the driver, because the parent-death signal of a child is tied to the thread
//! that created it. Whatever it waits for (a slow `exec`, a search of `/proc`) keeps no deadline
//! waiting: those are the timer's, which signals leaders and groups by itself.

use crate::containment::{Cell, Containment, Limits, Meter, Scope, Swept};
use crate::launch::Launch;
use crate::memory::{Board, Subject, Watch};
use crate::quota::{Quota, Rounds};
use crate::spawn::{AttemptName, SpawnError, spawn_in};
use crate::threads::timer::{Inbox, Message};
use crate::workplaces::Workplaces;
use limpet_core::message::{AttemptRef, Signal};
use rustix::fd::OwnedFd;
use rustix::process::Pid;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long nothing was asked of a spawner that has time for what is not urgent.
const IDLE: Duration = Duration::from_millis(100);

/// What the spawner is asked to do.
#[derive(Debug)]
pub enum Order {
    /// Create a process.
    Spawn {
        /// For which attempt.
        attempt: AttemptRef,
        /// Its name for containment.
        name: AttemptName,
        /// What to run.
        launch: Box<Launch>,
        /// What it may use.
        limits: Limits,
        /// What its task's directory may take.
        quota: Option<Quota>,
    },
    /// Signal everything but the leader.
    Signal {
        /// Of which attempt.
        attempt: AttemptRef,
        /// What to send.
        signal: Signal,
    },
    /// Kill everything that is left, and say so. Nothing is held of an attempt of which nothing is
    /// left.
    Sweep(AttemptRef),
    /// The attempt is given up, though something is left of it.
    Forget(AttemptRef),
    /// Remove a task's working directory, or set it aside.
    Retire {
        /// Which.
        directory: PathBuf,
        /// Whether somebody wants to look at it.
        keep: bool,
    },
    /// For tests of the other threads: do nothing for a while.
    Stall(Duration),
    /// End the thread.
    Close,
}

/// What the timer needs of a process that runs.
#[derive(Debug)]
pub struct Running {
    /// Leader of a session and a process group of its own.
    pub pid: Pid,
    /// Readable when it has exited.
    pub pidfd: OwnedFd,
    /// Its standard output, standard error and report descriptor.
    pub pipes: [OwnedFd; 3],
    /// Tells the memory it takes, where anything does.
    pub meter: Option<Arc<Meter>>,
    /// What the sampler finds out about it.
    pub watch: Arc<Watch>,
    /// Bytes of private writable memory that the kernel lets each process have, where the sampler
    /// keeps the limit.
    pub backstop_bytes: Option<u64>,
    /// Limits that nothing keeps here.
    pub not_enforced: Vec<&'static str>,
}

/// Works until `Close` or until nobody can send any more.
pub fn run(
    containment: &Containment,
    places: &Workplaces,
    timer: &Inbox,
    board: &Board,
    orders: &Receiver<Order>,
) {
    let mut spawner = Spawner { containment, timer, board, held: HashMap::new(), places };
    let mut rounds = Rounds::new(Instant::now());
    loop {
        let wait = || {
            let look = spawner.has_quotas().then(|| rounds.wait(Instant::now()));
            look.into_iter().chain(places.is_untidy().then_some(IDLE)).min()
        };
        match next(orders, wait, || containment.prepare()) {
            Ok(Order::Close) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(order) => spawner.perform(order),
            Err(RecvTimeoutError::Timeout) => {
                let began = Instant::now();
                if spawner.has_quotas() && rounds.wait(began).is_zero() {
                    spawner.look();
                    rounds.looked(began, Instant::now());
                }
                places.tidy();
            }
        }
    }
    for held in spawner.held.values() {
        containment.sweep(&held.cell);
    }
    board.close();
}

/// The next order, or a timeout after `wait`, which is asked for, as `meanwhile` is called before,
/// only where there is nothing to do.
fn next(
    orders: &Receiver<Order>,
    wait: impl FnOnce() -> Option<Duration>,
    meanwhile: impl FnOnce(),
) -> Result<Order, RecvTimeoutError> {
    if let Ok(order) = orders.try_recv() {
        return Ok(order);
    }
    meanwhile();
    match wait() {
        Some(wait) => orders.recv_timeout(wait),
        None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// What is kept of a process that runs.
struct Held {
    cell: Cell,
    /// Of its task.
    directory: PathBuf,
    /// Until it was exceeded.
    quota: Option<Quota>,
}

impl Held {
    /// Before it is told that the attempt is over: its task's directory may then be retired by
    /// another spawner.
    fn doubt(&self, places: &Workplaces) {
        if !self.cell.is_deserted() {
            places.doubt(&self.directory);
        }
    }
}

struct Spawner<'a> {
    containment: &'a Containment,
    timer: &'a Inbox,
    board: &'a Board,
    held: HashMap<AttemptRef, Held>,
    places: &'a Workplaces,
}

impl Spawner<'_> {
    fn perform(&mut self, order: Order) {
        match order {
            Order::Spawn { attempt, name, launch, limits, quota } => {
                let spawned = Box::new(self.spawn(attempt, &name, &launch, &limits, quota));
                self.timer.send(Message::Spawned { attempt, spawned });
            }
            Order::Signal { attempt, signal } => {
                if let Some(held) = self.held.get(&attempt) {
                    self.containment.signal(&held.cell, native(signal));
                }
            }
            Order::Sweep(attempt) => self.sweep(attempt),
            Order::Forget(attempt) => {
                self.board.forget(attempt);
                self.give_up(attempt);
            }
            Order::Retire { directory, keep } => self.places.retire(&directory, keep),
            Order::Stall(duration) => std::thread::sleep(duration),
            Order::Close => {}
        }
    }

    /// Starts a process, unless what earlier steps have left is too much already.
    fn spawn(
        &mut self,
        attempt: AttemptRef,
        name: &AttemptName,
        launch: &Launch,
        limits: &Limits,
        quota: Option<Quota>,
    ) -> Result<Running, SpawnError> {
        let made = if launch.user.is_none() { self.places.make(&launch.directory) } else { None };
        // One that was made now has nothing in it.
        let looked = quota.as_ref().filter(|_| made.is_none());
        if let Some(excess) = looked.and_then(Quota::excess) {
            let detail = format!("{excess} (the attempt has not started)");
            return Err(SpawnError { code: "directory_full", detail, before_exec: true });
        }
        let child = spawn_in(made, self.containment, name, launch, limits)?;
        let meter = child.cell.meter();
        let not_enforced = self.containment.not_enforced(limits);
        let directory = launch.directory.clone();
        let watch = Arc::new(Watch::default());
        let backstop_bytes = self.containment.backstop_bytes(limits);
        self.board.watch(Subject {
            attempt,
            task: name.task,
            step: name.step,
            name: launch.step.clone(),
            number: name.attempt,
            directory: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            scope: Scope::of(&child.cell),
            limit_bytes: limits.memory_bytes,
            sampled: self.containment.samples_memory(),
            backstop_bytes,
            watch: Arc::clone(&watch),
        });
        self.held.insert(attempt, Held { cell: child.cell, directory, quota });
        let (pid, pidfd) = (child.pid, child.pidfd);
        let pipes = [child.stdout, child.stderr, child.report];
        Ok(Running { pid, pidfd, pipes, meter, watch, backstop_bytes, not_enforced })
    }

    fn sweep(&mut self, attempt: AttemptRef) {
        self.board.forget(attempt);
        let (mut killed, mut remaining) = (0, 0);
        if let Some(held) = self.held.get_mut(&attempt) {
            Swept { killed, remaining } = self.containment.empty(&mut held.cell);
            held.doubt(self.places);
        }
        self.timer.send(Message::Swept { attempt, killed, remaining });
        if remaining == 0 {
            self.give_up(attempt);
        }
    }

    fn give_up(&mut self, attempt: AttemptRef) {
        if let Some(held) = self.held.remove(&attempt) {
            held.doubt(self.places);
            self.containment.bury(held.cell);
        }
    }

    fn has_quotas(&self) -> bool {
        self.held.values().any(|held| held.quota.is_some())
    }

    /// Ends whoever has filled its task's directory.
    fn look(&mut self) {
        for (&attempt, held) in &mut self.held {
            let Some(excess) = held.quota.as_ref().and_then(Quota::excess) else { continue };
            held.quota = None;
            let detail = format!("{excess} (its processes were killed)");
            self.timer.send(Message::Full { attempt, detail });
            self.containment.signal(&held.cell, rustix::process::Signal::KILL);
        }
    }
}

/// The machine's word for a signal as the system's.
#[must_use]
pub fn native(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}
