//! A thread's inbox: a bounded queue with a wake-up for a thread that polls, and senders of two
//! kinds: those that may wait for room, and one that must not.

use crate::sync::{Receiver, SyncSender, sync_channel};
use crate::wake::Wake;
use std::collections::VecDeque;
use std::sync::mpsc::TrySendError;

/// The sending side for a thread that must never wait. What it sends is kept here, in order, until
/// it flushes; what finds the queue full stays. The machine's own bounds limit how much that is.
///
/// A receiver that has read everything sleeps, and to wake it costs more than most messages: those
/// of one turn wake it once.
#[derive(Debug)]
pub struct Patient<T> {
    sender: SyncSender<T>,
    kept: VecDeque<T>,
    full: bool,
}

impl<T> Patient<T> {
    /// A queue of `capacity` and its receiver.
    #[must_use]
    pub fn new(capacity: usize) -> (Patient<T>, Receiver<T>) {
        let (sender, receiver) = sync_channel(capacity);
        (Patient { sender, kept: VecDeque::new(), full: false }, receiver)
    }

    /// Sends with the next flush.
    pub fn send(&mut self, message: T) {
        self.kept.push_back(message);
    }

    /// Sends what was kept, as far as there is room. A receiver that is gone takes nothing any
    /// more.
    pub fn flush(&mut self) {
        self.full = false;
        while let Some(message) = self.kept.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.full = true;
                    return self.kept.push_front(message);
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// Sends everything and a last message, waiting for room: for the end of a thread. A thread
    /// whose inbox the receiver answers to must have closed that first, or each could wait for room
    /// at the other.
    pub fn close(mut self, last: T) {
        self.kept.push_back(last);
        for message in self.kept {
            if self.sender.send(message).is_err() {
                return;
            }
        }
    }

    /// Whether nothing waits for a flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether the last flush found no room for all.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }
}

/// The sending side of an inbox, for threads that may wait.
#[derive(Debug)]
pub struct Inbox<T> {
    sender: SyncSender<T>,
    wake: Wake,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Inbox<T> {
        Inbox { sender: self.sender.clone(), wake: self.wake.clone() }
    }
}

impl<T> Inbox<T> {
    /// An inbox of `capacity` and its reading side.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(capacity: usize) -> std::io::Result<(Inbox<T>, Mailbox<T>)> {
        let (sender, receiver) = sync_channel(capacity);
        let wake = Wake::new()?;
        Ok((Inbox { sender, wake: wake.clone() }, Mailbox { receiver, wake }))
    }

    /// An inbox of `capacity` that the same reader reads, with the same wake-up: what waits in one
    /// stands in nobody's way in the other.
    #[must_use]
    pub fn beside<U>(&self, capacity: usize) -> (Inbox<U>, Mailbox<U>) {
        let (sender, receiver) = sync_channel(capacity);
        let wake = self.wake.clone();
        (Inbox { sender, wake: wake.clone() }, Mailbox { receiver, wake })
    }

    /// Sends a message; waits while the inbox is full. A reader that is gone hears nothing.
    pub fn send(&self, message: T) {
        let _ = self.sender.send(message);
        self.wake.wake();
    }

    /// Sends a message without waking the reader: a sender of several nudges once after them.
    /// Where there is no room it wakes and waits.
    pub fn post(&self, message: T) {
        if let Err(TrySendError::Full(message)) = self.sender.try_send(message) {
            self.wake.wake();
            self.send(message);
        }
    }

    /// Posts a message if there is room; returns it otherwise. Does not wake the reader: whoever
    /// has posted the last one of several nudges it once.
    ///
    /// # Errors
    /// The message, when the inbox is full.
    pub fn try_post(&self, message: T) -> Result<(), T> {
        self.sender.try_send(message).map_err(|refused| match refused {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })
    }

    /// Wakes the reader: for messages that were posted, or for something else that it waits for.
    pub fn nudge(&self) {
        self.wake.wake();
    }
}

/// The reading side of an inbox. A turn rests, then reads until there is nothing, or nudges itself:
/// whatever is sent after the rest makes it readable again.
#[derive(Debug)]
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    /// Readable while there may be something to read.
    pub wake: Wake,
}

impl<T> Mailbox<T> {
    /// The next message, if there is one.
    pub fn take(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}
