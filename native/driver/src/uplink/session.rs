//! What the host's side and the uplink's thread share, and the one place where the thread waits.
//!
//! Every wait also hears the host: an order that ends the current connection ends the wait. This
//! file knows nothing of stages, sockets' contents or MQTT.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{LinkRecord, Target};

/// Room for three connections' worth of records: the newest connection makes at most five, so
/// when the queue is full its oldest record belongs to a connection that has been replaced.
const RECORDS_MAX: usize = 16;
/// Longest detail of a failure, in bytes; a broker's certificate may list any number of names.
const DETAIL_BYTES_MAX: usize = 320;
/// Upper bound of every limit of time here: a configured stage never waits longer.
const LIMIT_MAX: Duration = Duration::from_secs(3600);

/// Why a connection ended or never came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: &'static str,
    pub detail: String,
}

impl Failure {
    pub fn new(code: &'static str, detail: impl Into<String>) -> Failure {
        let mut detail = detail.into();
        if detail.len() > DETAIL_BYTES_MAX {
            let end = (0..=DETAIL_BYTES_MAX).rev().find(|&at| detail.is_char_boundary(at));
            detail.truncate(end.unwrap_or(0));
            detail.push_str("...");
        }
        Failure { code, detail }
    }

    /// The failure for an error of a connected or connecting socket.
    pub fn from_socket(error: &io::Error) -> Failure {
        let code = match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused",
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => "reset",
            _ => "unreachable",
        };
        Failure::new(code, error.to_string())
    }
}

/// An instant by which something must have happened, and the failure if it has not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    at: Instant,
    timeout: Duration,
    code: &'static str,
}

impl Limit {
    pub fn after(timeout: Duration, code: &'static str) -> Limit {
        let timeout = timeout.min(LIMIT_MAX);
        Limit { at: Instant::now() + timeout, timeout, code }
    }

    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub fn failure(&self) -> Failure {
        Failure::new(self.code, format!("no answer within {} ms", self.timeout.as_millis()))
    }
}

/// What the host last asked for.
#[derive(Default)]
pub(super) struct Orders {
    /// Of the newest connection asked for; 0 before the first.
    pub epoch: u64,
    /// Where to connect, until the thread has taken it.
    pub target: Option<Target>,
    /// The newest connection has been called off.
    pub called_off: bool,
    /// The thread has to end.
    pub stopping: bool,
}

/// Shared by the host's handle, the uplink's thread and the lookups.
pub(super) struct Shared {
    orders: Mutex<Orders>,
    records: Mutex<VecDeque<LinkRecord>>,
    wake: OwnedFd,
}

impl Shared {
    pub fn new() -> io::Result<Shared> {
        Ok(Shared {
            orders: Mutex::default(),
            records: Mutex::new(VecDeque::with_capacity(RECORDS_MAX)),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread's current wait, so that it looks at what has changed.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then the wait ends anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn push(&self, record: LinkRecord) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }

    pub fn pop(&self) -> Option<LinkRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Waits for an order; `None` when the thread has to end.
    pub fn next_target(&self) -> Option<(u64, Target)> {
        loop {
            {
                let mut orders = self.orders();
                if orders.stopping {
                    return None;
                }
                if let Some(target) = orders.target.take() {
                    return Some((orders.epoch, target));
                }
            }
            self.poll(&mut [self.watch()], None);
        }
    }

    fn watch(&self) -> PollFd<'_> {
        PollFd::new(&self.wake, PollFlags::IN)
    }

    /// One poll; `fds[0]` must be `watch()`. A failed poll (a signal, no memory) counts as a
    /// wakeup without events: every caller looks again at what it waits for.
    fn poll(&self, fds: &mut [PollFd<'_>], timeout: Option<Duration>) {
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        if poll(fds, timeout.as_ref()).is_err() {
            for fd in fds {
                fd.clear_revents();
            }
        } else if !fds[0].revents().is_empty() {
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
    }
}

/// One connection, as the uplink's thread sees it while it lasts.
pub(super) struct Session<'a> {
    pub shared: &'a Shared,
    pub epoch: u64,
}

impl<'a> Session<'a> {
    /// For the first place of every list of descriptors to wait for, and for any idle place in it.
    pub fn watch(&self) -> PollFd<'a> {
        self.shared.watch()
    }

    /// Waits until a descriptor of `fds` is ready, something was said to the thread, or `limit`
    /// has passed; `block` unset only looks. `Ok(false)`: the limit had passed before.
    ///
    /// # Errors
    /// `replaced`, `disconnected` or `stopped`: the host no longer wants this connection.
    pub fn wait(
        &self,
        fds: &mut [PollFd<'_>],
        limit: Option<&Limit>,
        block: bool,
    ) -> Result<bool, Failure> {
        let left = limit.map(Limit::left);
        let in_time = left != Some(Duration::ZERO);
        if in_time {
            self.shared.poll(fds, if block { left } else { Some(Duration::ZERO) });
        }
        self.still_wanted()?;
        Ok(in_time)
    }

    /// Like `wait`, but a limit that passes is its own failure.
    pub fn within(&self, fds: &mut [PollFd<'_>], limit: &Limit) -> Result<(), Failure> {
        if self.wait(fds, Some(limit), true)? { Ok(()) } else { Err(limit.failure()) }
    }

    fn still_wanted(&self) -> Result<(), Failure> {
        let orders = self.shared.orders();
        if orders.stopping {
            return Err(Failure::new("stopped", "the uplink is being closed"));
        }
        if orders.epoch != self.epoch {
            return Err(Failure::new("replaced", "the host asked for another connection"));
        }
        if orders.called_off {
            return Err(Failure::new("disconnected", "the host called the connection off"));
        }
        Ok(())
    }
}
