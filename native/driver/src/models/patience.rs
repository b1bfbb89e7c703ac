//! Whoever waits while a model is hashed: sees how far it has come, on a terminal only, and may
//! interrupt it.

use limpet_inventory::source::Watch;
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Often enough to be seen to move.
const INTERVAL: Duration = Duration::from_millis(100);
/// Nobody sees a bar for what is over at once.
const FIRST: Duration = Duration::from_millis(500);

/// See the head of this file.
#[derive(Debug)]
pub struct Patience {
    shown: bool,
    total: u64,
    hashed: Cell<u64>,
    began: Instant,
    told: Cell<Option<Instant>>,
    name: RefCell<String>,
}

impl Patience {
    /// Begins to wait for `total` bytes.
    pub fn begin(hashes: bool, total: u64) -> Patience {
        crate::syscalls::note_interrupts();
        Patience {
            shown: hashes && stderr().is_terminal(),
            total,
            hashed: Cell::new(0),
            began: Instant::now(),
            told: Cell::new(None),
            name: RefCell::default(),
        }
    }

    /// The next file.
    pub fn next(&self, name: &str) {
        *self.name.borrow_mut() = name.chars().filter(|sign| !sign.is_control()).take(40).collect();
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if self.told.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Watch for Patience {
    fn cancelled(&self) -> bool {
        let cancelled = crate::syscalls::was_interrupted();
        if cancelled {
            self.clear();
        }
        cancelled
    }

    fn hashed(&self, bytes: u64) {
        self.hashed.set(self.hashed.get() + bytes);
        let due = match self.told.get() {
            None => self.began.elapsed() >= FIRST,
            Some(told) => told.elapsed() >= INTERVAL,
        };
        if !self.shown || !due {
            return;
        }
        self.told.set(Some(Instant::now()));
        let line = line(&self.name.borrow(), self.hashed.get(), self.total, self.began.elapsed());
        // Nobody looking is no reason to stop.
        let _ = write!(stderr(), "\r\x1b[K{line}");
    }
}

/// `model.gguf [#####...............] 25%  1024 of 4096 MiB, 512 MiB/s`. Of a set only the first
/// file may have been counted.
fn line(name: &str, hashed: u64, total: u64, time: Duration) -> String {
    const WIDTH: u64 = 20;
    let mib = |bytes: u64| bytes >> 20;
    let speed = mib(hashed) * 1000 / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    if hashed > total {
        return format!("{name} {} MiB, {speed} MiB/s", mib(hashed));
    }
    let part = |of: u64| (u128::from(hashed) * u128::from(of) / u128::from(total.max(1))) as usize;
    let (done, percent) = (part(WIDTH), part(100));
    let bar = format!("{}{}", "#".repeat(done), ".".repeat(WIDTH as usize - done));
    format!("{name} [{bar}] {percent}%  {} of {} MiB, {speed} MiB/s", mib(hashed), mib(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_far_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("m", 1 << 30, 4 << 30, second),
            "m [#####...............] 25%  1024 of 4096 MiB, 1024 MiB/s"
        );
        assert_eq!(line("m", 2 << 20, 1 << 20, second), "m 2 MiB, 2 MiB/s");
        assert!(line("m", 0, 0, Duration::ZERO).contains("0%"));
    }
}
