//! The only reader of clocks in the driver.

use limpet_core::{Instant, Now};
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::path::{Path, PathBuf};

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

/// The clocks of this device in this boot.
#[derive(Debug, Clone)]
pub struct Clock {
    boot: u32,
    trust: Trust,
    mark: PathBuf,
    /// When the mark was last looked for, in seconds, and whether it was there.
    looked: Cell<(u64, bool)>,
}

impl Clock {
    /// Reads which boot this is.
    ///
    /// # Errors
    /// A sentence, when the boot id cannot be read.
    pub fn new(boot_id_file: &Path, trust: Trust) -> Result<Clock, String> {
        let text = std::fs::read_to_string(boot_id_file).map_err(|cause| {
            let file = boot_id_file.display();
            format!("cannot read boot id {file}: {cause} (the agent does not start)")
        })?;
        let digest = ring::digest::digest(&ring::digest::SHA256, text.trim().as_bytes());
        let mut boot = [0; 4];
        boot.copy_from_slice(&digest.as_ref()[..4]);
        let mark = PathBuf::from(SYNCHRONISED);
        let looked = Cell::new((u64::MAX, trust == Trust::Always));
        Ok(Clock { boot: u32::from_le_bytes(boot), trust, mark, looked })
    }

    /// All clocks at this instant.
    #[must_use]
    pub fn now(&self) -> Now {
        let at = monotonic();
        let second = at.0 / 1_000_000_000;
        if self.trust != Trust::Always && self.looked.get().0 != second {
            self.looked.set((second, self.mark.exists()));
        }
        Now { at, wall_ms: wall_ms(), trusted: self.looked.get().1, boot: self.boot }
    }
}

/// Nanoseconds since boot, sleep included.
#[must_use]
pub fn monotonic() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Instant(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
