//! Time as integers. Whoever calls the machine reads the clocks; nothing here does.

/// An instant in nanoseconds on the clock that also counts while the device sleeps
/// (`CLOCK_BOOTTIME`). Only differences within one boot have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Instant(pub u64);

impl Instant {
    /// Later than every deadline: nothing is due.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// This instant moved by a number of milliseconds; stays `NEVER` at the end of time.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Milliseconds since an earlier instant; zero if that one is not earlier.
    #[must_use]
    pub const fn ms_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Everything the machine may know of time at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Now {
    /// Monotonic instant.
    pub at: Instant,
    /// Wall time in milliseconds since 1970.
    pub wall_ms: u64,
    /// Whether the wall clock is known to be right (synchronised, or vouched for by an operator).
    pub trusted: bool,
    /// Which boot of the device `at` belongs to: 32 bits of its boot id.
    pub boot: u32,
}
