//! Decides what a child takes along of a table of descriptors that it shares with the agent: it
//! copies those up to a number that it names, so what it needs is put on low numbers first.
//!
//! Knows nothing of what they are for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};

use super::child::REPORT_FD;
use super::nothing;

/// Descriptors that are handed over.
pub(super) const HANDED: usize = 5;

/// On each is nothing while nobody uses it.
type Numbers = [OwnedFd; HANDED];

/// Sets of numbers that nobody uses at this moment.
static FREE: Mutex<Vec<Numbers>> = Mutex::new(Vec::new());

/// Keeps numbers for so many threads that start processes at once: those that are free now, and for
/// as long as the agent runs. Who calls it early gets low ones.
///
/// # Errors
///
/// The agent has as many descriptors as it may.
pub(crate) fn reserve(threads: usize) -> io::Result<()> {
    let missing = threads.saturating_sub(free(|free| free.len()));
    for _ in 0..missing {
        let numbers = open()?;
        free(|free| free.push(numbers));
    }
    Ok(())
}

/// Calls `act` with copies of `descriptors` on low numbers, which are gone when it returns.
///
/// # Errors
///
/// The agent has as many descriptors as it may; nothing was called then.
pub(super) fn with<T>(
    descriptors: [BorrowedFd<'_>; HANDED],
    act: impl FnOnce([BorrowedFd<'_>; HANDED]) -> T,
) -> io::Result<T> {
    let nothing = nothing()?;
    let mut numbers = free(Vec::pop).map_or_else(open, Ok)?;
    for (number, descriptor) in numbers.iter_mut().zip(descriptors) {
        dup3(descriptor, number, DupFlags::CLOEXEC)?;
    }
    let done = act(numbers.each_ref().map(AsFd::as_fd));
    if numbers.iter_mut().all(|number| dup3(&nothing, number, DupFlags::CLOEXEC).is_ok()) {
        free(|free| free.push(numbers));
    }
    Ok(done)
}

/// A panic elsewhere leaves a whole list.
fn free<T>(act: impl FnOnce(&mut Vec<Numbers>) -> T) -> T {
    act(&mut FREE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open() -> io::Result<Numbers> {
    let nothing = nothing()?;
    let number = || fcntl_dupfd_cloexec(&nothing, REPORT_FD + 1);
    Ok([number()?, number()?, number()?, number()?, number()?])
}
