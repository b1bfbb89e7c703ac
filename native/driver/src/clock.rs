//! The only reader of clocks in the driver, and the clock that tests move by hand.

use limpet_core::{Instant, Now};
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the wall clock comes to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// When the time service says that it has synchronised.
    Synchronised,
    /// Always: the operator vouches for it.
    Always,
}

/// Where systemd-timesyncd, and chrony's and ntpsec's packages on Debian, leave their mark.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// Where a clock that is moved by hand begins: a day of 2026.
const HAND_WALL_MS: u64 = 1_790_000_000_000;

/// The clocks of this device in this boot.
#[derive(Debug, Clone)]
pub struct Clock {
    boot: u32,
    trust: Trust,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// The kernel's; with when the mark was last looked for, in seconds, and whether it was there.
    Kernel { mark: PathBuf, looked: Cell<(u64, bool)> },
    /// A number of nanoseconds that somebody moves.
    Hand(Arc<AtomicU64>),
}

impl Clock {
    /// Reads which boot this is.
    ///
    /// # Errors
    /// A sentence, when the boot id cannot be read.
    pub fn new(boot_id_file: &Path, trust: Trust) -> Result<Clock, String> {
        let looked = Cell::new((u64::MAX, false));
        let source = Source::Kernel { mark: PathBuf::from(SYNCHRONISED), looked };
        Ok(Clock { boot: boot(boot_id_file)?, trust, source })
    }

    /// A clock that moves only by the number it is given, in nanoseconds.
    ///
    /// # Errors
    /// As [`Clock::new`].
    pub fn by_hand(boot_id_file: &Path, trust: Trust, at: Arc<AtomicU64>) -> Result<Clock, String> {
        Ok(Clock { boot: boot(boot_id_file)?, trust, source: Source::Hand(at) })
    }

    /// All clocks at this instant.
    #[must_use]
    pub fn now(&self) -> Now {
        let at = self.at();
        let synchronised = match &self.source {
            Source::Hand(_) => false,
            Source::Kernel { mark, looked } => {
                let second = at.0 / 1_000_000_000;
                if self.trust == Trust::Synchronised && looked.get().0 != second {
                    looked.set((second, mark.exists()));
                }
                looked.get().1
            }
        };
        let trusted = self.trust == Trust::Always || synchronised;
        Now { at, wall_ms: self.wall_ms(), trusted, boot: self.boot }
    }

    /// The monotonic instant.
    #[must_use]
    pub fn at(&self) -> Instant {
        match &self.source {
            Source::Kernel { .. } => Instant(nanoseconds(ClockId::Boottime)),
            Source::Hand(at) => Instant(at.load(Ordering::SeqCst)),
        }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        match &self.source {
            Source::Kernel { .. } => nanoseconds(ClockId::Realtime) / 1_000_000,
            Source::Hand(at) => HAND_WALL_MS + at.load(Ordering::SeqCst) / 1_000_000,
        }
    }
}

fn boot(file: &Path) -> Result<u32, String> {
    let text = std::fs::read_to_string(file).map_err(|cause| {
        format!("cannot read boot id {}: {cause} (the agent does not start)", file.display())
    })?;
    let digest = ring::digest::digest(&ring::digest::SHA256, text.trim().as_bytes());
    let mut boot = [0; 4];
    boot.copy_from_slice(&digest.as_ref()[..4]);
    Ok(u32::from_le_bytes(boot))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
