//! An event descriptor: how one thread tells another, or the host, that there is something to read.

pub use descriptor::Wake;

#[cfg(not(loom))]
mod descriptor {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::io;
    use std::sync::Arc;

    /// A counter that polls readable while it is not zero. Clones share it.
    #[derive(Debug, Clone)]
    pub struct Wake(Arc<OwnedFd>);

    impl Wake {
        /// A quiet one.
        ///
        /// # Errors
        /// When the process has no descriptor left.
        pub fn new() -> io::Result<Wake> {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Wake(Arc::new(fd)))
        }

        /// Makes it readable. Never blocks: a counter that is full is readable already.
        pub fn wake(&self) {
            let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
        }

        /// Makes it quiet again.
        pub fn rest(&self) {
            let mut count = [0; 8];
            let _ = rustix::io::read(&*self.0, &mut count);
        }
    }

    impl AsFd for Wake {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

/// The kernel's counter as loom can see it.
#[cfg(loom)]
#[expect(missing_docs, reason = "they are those of its namesake")]
mod descriptor {
    use crate::sync::{Arc, Condvar, Mutex};
    use std::io;

    #[derive(Debug, Clone)]
    pub struct Wake(Arc<(Mutex<u64>, Condvar)>);

    impl Wake {
        pub fn new() -> io::Result<Wake> {
            Ok(Wake(Arc::new((Mutex::new(0), Condvar::new()))))
        }

        pub fn wake(&self) {
            *self.0.0.lock().unwrap() += 1;
            self.0.1.notify_all();
        }

        pub fn rest(&self) {
            *self.0.0.lock().unwrap() = 0;
        }

        /// What `epoll_wait` does: returns once it is readable, and leaves it so.
        pub fn wait(&self) {
            let mut count = self.0.0.lock().unwrap();
            while *count == 0 {
                count = self.0.1.wait(count).unwrap();
            }
        }
    }
}
