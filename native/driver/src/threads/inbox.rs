//! A thread's inbox: a bounded queue whose senders never block, with a wake-up for a thread that
//! polls.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The sending side for a thread that must never wait. What finds the queue full is kept here, in
/// order; the machine's own bounds limit how much that can be.
#[derive(Debug)]
pub struct Patient<T> {
    sender: SyncSender<T>,
    kept: VecDeque<T>,
}

impl<T> Patient<T> {
    /// A queue of `capacity` and its receiver.
    #[must_use]
    pub fn new(capacity: usize) -> (Patient<T>, Receiver<T>) {
        let (sender, receiver) = sync_channel(capacity);
        (Patient { sender, kept: VecDeque::new() }, receiver)
    }

    /// Sends, or keeps for later.
    pub fn send(&mut self, message: T) {
        self.kept.push_back(message);
        self.flush();
    }

    /// Sends what was kept, as far as there is room. A receiver that is gone takes nothing any
    /// more.
    pub fn flush(&mut self) {
        while let Some(message) = self.kept.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => return self.kept.push_front(message),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Sends everything and a last message, waiting for room: for the end of a thread.
    pub fn close(mut self, last: T) {
        self.kept.push_back(last);
        for message in self.kept {
            if self.sender.send(message).is_err() {
                return;
            }
        }
    }

    /// Whether messages wait for room.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.kept.is_empty()
    }
}
