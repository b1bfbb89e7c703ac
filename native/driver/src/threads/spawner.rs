//! The spawner's thread: it creates every process, and removes what attempts leave behind.
//!
//! It lives as long as the driver, because the parent-death signal of a child is tied to the thread
//! that created it. Whatever it waits for (a slow `exec`, a search of `/proc`) keeps no deadline
//! waiting: those are the timer's, which signals leaders and groups by itself.

use crate::containment::{Cell, Containment, Limits, Meter};
use crate::launch::Launch;
use crate::spawn::{AttemptName, spawn};
use crate::spool;
use crate::threads::timer::{Inbox, Message};
use limpet_core::message::{AttemptRef, Signal};
use rustix::fd::OwnedFd;
use rustix::process::Pid;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

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
    },
    /// Signal everything but the leader.
    Signal {
        /// Of which attempt.
        attempt: AttemptRef,
        /// What to send.
        signal: Signal,
    },
    /// Kill everything that is left, and say so.
    Sweep(AttemptRef),
    /// The attempt is over: give its containment up.
    Forget(AttemptRef),
    /// Remove a task's working directory, or set it aside.
    Retire {
        /// Which.
        directory: PathBuf,
        /// Whether somebody wants to look at it.
        keep: bool,
    },
    /// Collect adopted children that have died.
    ReapStrays,
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
    pub meter: Option<Meter>,
    /// Limits that nothing keeps here.
    pub not_enforced: Vec<&'static str>,
}

/// Works until `Close` or until nobody can send any more.
pub fn run(containment: &Arc<Containment>, timer: &Inbox, orders: &Receiver<Order>) {
    let mut cells: HashMap<AttemptRef, Cell> = HashMap::new();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Spawn { attempt, name, launch, limits } => {
                let spawned = spawn(containment, &name, &launch, &limits).map(|mut child| {
                    let meter = child.cell.take_meter();
                    let not_enforced = containment.not_enforced(&limits);
                    cells.insert(attempt, child.cell);
                    let pipes = [child.stdout, child.stderr, child.report];
                    Running { pid: child.pid, pidfd: child.pidfd, pipes, meter, not_enforced }
                });
                timer.send(Message::Spawned { attempt, spawned: Box::new(spawned) });
            }
            Order::Signal { attempt, signal } => {
                if let Some(cell) = cells.get(&attempt) {
                    containment.signal(cell, native(signal));
                }
            }
            Order::Sweep(attempt) => {
                let swept = cells.get(&attempt).map(|cell| containment.sweep(cell));
                containment.reap_strays();
                let (killed, remaining) =
                    swept.map_or((0, 0), |swept| (swept.killed, swept.remaining));
                timer.send(Message::Swept { attempt, killed, remaining });
            }
            Order::Forget(attempt) => drop(cells.remove(&attempt)),
            Order::Retire { directory, keep } => spool::retire(&directory, keep),
            Order::ReapStrays => drop(containment.reap_strays()),
            Order::Stall(duration) => std::thread::sleep(duration),
            Order::Close => break,
        }
    }
    for cell in cells.values() {
        containment.sweep(cell);
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
