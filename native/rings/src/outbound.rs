//! The queue towards the host. A thread that must never wait only tries the lock, and leaves what
//! it has where it was while the queue is full or taken.

use crate::sync::{Arc, Mutex, MutexGuard};
use crate::wake::Wake;
use std::collections::VecDeque;
use std::fmt;

/// The queue; clones share it.
pub struct Outbound<T> {
    queue: Arc<Mutex<VecDeque<T>>>,
    capacity: usize,
    /// Readable while there may be something to poll.
    pub wake: Wake,
}

/// What the host found in the queue.
#[derive(Debug)]
pub struct Popped<T> {
    /// The next event, if there is one that fits.
    pub event: Option<T>,
    /// Whether others wait behind it.
    pub more: bool,
    /// Whether there was no room, so that `try_fill` may have left something: who calls that is to
    /// be told.
    pub was_full: bool,
}

impl<T> Clone for Outbound<T> {
    fn clone(&self) -> Outbound<T> {
        let (queue, wake) = (Arc::clone(&self.queue), self.wake.clone());
        Outbound { queue, capacity: self.capacity, wake }
    }
}

impl<T> fmt::Debug for Outbound<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Outbound")
    }
}

impl<T> Outbound<T> {
    /// An empty queue, which `try_fill` fills up to `capacity`.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(capacity: usize) -> std::io::Result<Outbound<T>> {
        let queue = Arc::new(Mutex::new(VecDeque::with_capacity(capacity)));
        Ok(Outbound { queue, capacity, wake: Wake::new()? })
    }

    /// For threads that may wait: adds an event. Few can come this way at once (results within the
    /// machine's window, one connection's stages), so the queue stays near its bound.
    pub fn push(&self, event: T) {
        self.post(event);
        self.wake.wake();
    }

    /// The same without waking the host: whoever has posted the last one of several wakes it once.
    pub fn post(&self, event: T) {
        self.lock().push_back(event);
    }

    /// For a thread that must not: fills the queue from `next` until that has nothing more or the
    /// queue is full. False when the lock is taken: try again soon.
    pub fn try_fill(&self, mut next: impl FnMut() -> Option<T>) -> bool {
        let Ok(mut queue) = self.queue.try_lock() else { return false };
        let mut added = false;
        while queue.len() < self.capacity {
            let Some(event) = next() else { break };
            queue.push_back(event);
            added = true;
        }
        if added {
            self.wake.wake();
        }
        true
    }

    /// For the host: the next event, if it passes `fits`. The host lets `wake` rest before the
    /// first one of a turn, and wakes it again if it leaves some.
    pub fn pop(&self, fits: impl FnOnce(&T) -> bool) -> Popped<T> {
        let mut queue = self.lock();
        let was_full = queue.len() >= self.capacity;
        let event = match queue.front() {
            Some(front) if fits(front) => queue.pop_front(),
            _ => None,
        };
        Popped { event, more: !queue.is_empty(), was_full }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        // A panic elsewhere leaves a queue of whole events: nothing in it can be half done.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
