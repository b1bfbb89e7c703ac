//! The standard library's primitives, or loom's.

#[cfg(not(loom))]
pub use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
#[cfg(not(loom))]
pub use std::sync::{Arc, Mutex, MutexGuard};

#[cfg(loom)]
pub use channel::{Receiver, SyncSender, sync_channel};
#[cfg(loom)]
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What loom lacks: a bounded channel with the promises of the standard library's.
#[cfg(loom)]
mod channel {
    use super::{Arc, Condvar, Mutex};
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::mpsc::{SendError, TryRecvError, TrySendError};

    struct Shared<T> {
        /// What is under way, the number of senders, and whether there is a receiver.
        state: Mutex<(VecDeque<T>, usize, bool)>,
        capacity: usize,
        changed: Condvar,
    }

    pub struct SyncSender<T>(Arc<Shared<T>>);

    pub struct Receiver<T>(Arc<Shared<T>>);

    pub fn sync_channel<T>(capacity: usize) -> (SyncSender<T>, Receiver<T>) {
        let state = Mutex::new((VecDeque::new(), 1, true));
        let shared = Arc::new(Shared { state, capacity, changed: Condvar::new() });
        (SyncSender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> SyncSender<T> {
        pub fn send(&self, message: T) -> Result<(), SendError<T>> {
            let mut state = self.0.state.lock().unwrap();
            while state.2 && state.0.len() >= self.0.capacity {
                state = self.0.changed.wait(state).unwrap();
            }
            if !state.2 {
                return Err(SendError(message));
            }
            state.0.push_back(message);
            self.0.changed.notify_all();
            Ok(())
        }

        pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
            let mut state = self.0.state.lock().unwrap();
            if !state.2 {
                return Err(TrySendError::Disconnected(message));
            }
            if state.0.len() >= self.0.capacity {
                return Err(TrySendError::Full(message));
            }
            state.0.push_back(message);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Clone for SyncSender<T> {
        fn clone(&self) -> SyncSender<T> {
            self.0.state.lock().unwrap().1 += 1;
            SyncSender(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for SyncSender<T> {
        fn drop(&mut self) {
            self.0.state.lock().unwrap().1 -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.state.lock().unwrap();
            loop {
                if let Some(message) = state.0.pop_front() {
                    self.0.changed.notify_all();
                    return Ok(message);
                }
                if state.1 == 0 {
                    return Err(TryRecvError::Disconnected);
                }
                state = self.0.changed.wait(state).unwrap();
            }
        }

        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.state.lock().unwrap();
            let message = state.0.pop_front().ok_or(TryRecvError::Empty)?;
            self.0.changed.notify_all();
            Ok(message)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.state.lock().unwrap().2 = false;
            self.0.changed.notify_all();
        }
    }

    impl<T> fmt::Debug for SyncSender<T> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("SyncSender")
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("Receiver")
        }
    }
}
