//! Decides how the memory there is divides: what the agent may take itself, what is left alone, and
//! the pool from which steps get their limits.
//!
//! Pure arithmetic over what the kernel says; knows no process and enforces nothing.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const MIB: u64 = 1 << 20;
/// What an idle agent needs with room for its bursts; less makes it refuse and restart for nothing.
const AGENT_BYTES_MIN: u64 = 16 * MIB;
/// The agent's tables are bounded far below this; more would only hide a leak.
const AGENT_BYTES_MAX: u64 = 64 * MIB;
/// Of a device's memory, one part of so many is left to its system and its other programs.
const SYSTEM_SHARE: u64 = 4;
/// Of a group's memory, one part of so many is left to what the kernel charges beside processes:
/// page tables, sockets, names of files.
const KERNEL_SHARE: u64 = 16;
const KERNEL_BYTES_MIN: u64 = 2 * MIB;
/// What one process can take beyond its limit before a sampler has noticed and killed it; the
/// bound that `tests/results/memory-sampled.json` is held against.
pub(crate) const OVERSHOOT_BYTES: u64 = 8 * MIB;
/// Enough for an interpreter with a script; what needs more says so.
const STEP_BYTES: u64 = 64 * MIB;
/// No step takes less.
const POOL_BYTES_MIN: u64 = MIB;

/// What the operator asks for; `None` is derived.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// What the agent may take itself.
    pub agent_bytes: Option<u64>,
    /// What all steps may have together.
    pub pool_bytes: Option<u64>,
    /// The limit of a step where neither it nor its tool sets one.
    pub step_bytes: Option<u64>,
}

/// A bound that the kernel sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// How much.
    pub bytes: u64,
    /// The group that has it; `None` is the device's memory.
    pub group: Option<PathBuf>,
}

/// What bounds whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// The agent.
    pub agent: Cap,
    /// The steps, and with them the agent: it is in the same group or below it.
    pub steps: Cap,
    /// The group that counts the agent's memory, capped or not.
    pub agent_group: Option<PathBuf>,
}

/// How the memory divides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// What there is.
    pub cap_bytes: u64,
    /// The group that says so; `None` is the device's memory.
    pub cap_group: Option<PathBuf>,
    /// The group that counts the agent's memory, where one does.
    pub agent_group: Option<PathBuf>,
    /// What the agent may take itself.
    pub agent_bytes: u64,
    /// What nobody gets.
    pub reserve_bytes: u64,
    /// What all steps may have together.
    pub pool_bytes: u64,
    /// The limit of a step where neither it nor its tool sets one.
    pub step_bytes: u64,
}

impl Budget {
    /// Divides what `caps` leave; `sampled` says that no kernel keeps a step within its limit.
    ///
    /// # Errors
    /// A sentence with the numbers, when they do not add up.
    pub fn divide(wanted: &Wanted, caps: &Caps, sampled: bool) -> Result<Budget, String> {
        let cap = caps.steps.bytes;
        let own = (cap / 2).clamp(AGENT_BYTES_MIN, AGENT_BYTES_MAX).min(caps.agent.bytes);
        let agent_bytes = wanted.agent_bytes.unwrap_or(own);
        let overshoot = if sampled { OVERSHOOT_BYTES } else { 0 };
        let reserve_bytes = overshoot
            + match caps.steps.group {
                Some(_) => (cap / KERNEL_SHARE).max(KERNEL_BYTES_MIN),
                None => cap / SYSTEM_SHARE,
            };
        let left = cap.saturating_sub(agent_bytes).saturating_sub(reserve_bytes);
        let pool_bytes = wanted.pool_bytes.unwrap_or(left);
        let budget = Budget {
            cap_bytes: cap,
            cap_group: caps.steps.group.clone(),
            agent_group: caps.agent_group.clone(),
            agent_bytes,
            reserve_bytes,
            pool_bytes,
            step_bytes: wanted.step_bytes.unwrap_or(STEP_BYTES).min(pool_bytes),
        };
        if agent_bytes > caps.agent.bytes {
            let bytes = caps.agent.bytes;
            return Err(budget.refusal(&format!("the agent itself is capped at {bytes}")));
        }
        if pool_bytes > left || pool_bytes < POOL_BYTES_MIN {
            return Err(budget.refusal(&format!("{left} are left for steps")));
        }
        Ok(budget)
    }

    fn refusal(&self, cause: &str) -> String {
        let place = match &self.cap_group {
            Some(group) => format!("the cap of {}", group.display()),
            None => "this device's memory".to_owned(),
        };
        format!(
            "cannot divide {place}, {} bytes: {} are the agent's, {} are reserved, a pool of {} is \
             wanted, and {cause} (the agent does not start; see limits.memory)",
            self.cap_bytes, self.agent_bytes, self.reserve_bytes, self.pool_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(agent: u64, steps: u64, grouped: bool) -> Caps {
        let group = grouped.then(|| PathBuf::from("/sys/fs/cgroup/x"));
        let cap = |mib| Cap { bytes: mib * MIB, group: group.clone() };
        Caps { agent: cap(agent), steps: cap(steps), agent_group: None }
    }

    fn divided(wanted: Wanted, caps: &Caps, sampled: bool) -> [u64; 4] {
        let budget = Budget::divide(&wanted, caps, sampled).expect("it adds up");
        let Budget { agent_bytes, reserve_bytes, pool_bytes, step_bytes, .. } = budget;
        [agent_bytes, reserve_bytes, pool_bytes, step_bytes].map(|bytes| bytes / MIB)
    }

    /// A device leaves a quarter to its system, a group a sixteenth to the kernel; what a sampler
    /// notices late is reserved.
    #[test]
    fn what_there_is_is_divided() {
        let free = Wanted::default();
        assert_eq!(divided(free, &caps(1024, 1024, false), false), [64, 256, 704, 64]);
        assert_eq!(divided(free, &caps(1024, 1024, false), true), [64, 264, 696, 64]);
        assert_eq!(divided(free, &caps(64, 64, true), false), [32, 4, 28, 28]);
        assert_eq!(divided(free, &caps(32, 32, true), false), [16, 2, 14, 14]);
        assert_eq!(divided(free, &caps(32, 32, true), true), [16, 10, 6, 6]);
        // The agent alone is capped; its steps are in groups beside it.
        assert_eq!(divided(free, &caps(24, 1024, false), false), [24, 256, 744, 64]);
    }

    /// What the operator asks for is taken, as far as it adds up.
    #[test]
    fn what_is_wanted_is_taken() {
        let mib = |count: u64| Some(count * MIB);
        let (agent_bytes, pool_bytes, step_bytes) = (mib(30), mib(100), mib(8));
        let wanted = Wanted { agent_bytes, pool_bytes, step_bytes };
        assert_eq!(divided(wanted, &caps(512, 512, false), false), [30, 128, 100, 8]);
        let wanted = Wanted { step_bytes: mib(64), ..Wanted::default() };
        assert_eq!(divided(wanted, &caps(32, 32, true), false), [16, 2, 14, 14]);
    }

    /// What does not add up is refused with the numbers.
    #[test]
    fn what_does_not_add_up_is_refused() {
        let none = Wanted::default();
        let pool = |mib: u64| Wanted { pool_bytes: Some(mib * MIB), ..none };
        let agent = |mib: u64| Wanted { agent_bytes: Some(mib * MIB), ..none };
        for (wanted, caps, said) in [
            (none, caps(16, 16, true), "0 are left for steps"),
            (pool(15), caps(32, 32, true), "14680064 are left for steps"),
            (pool(0), caps(32, 32, true), "14680064 are left for steps"),
            (agent(25), caps(24, 64, true), "the agent itself is capped at 25165824"),
        ] {
            let refusal = Budget::divide(&wanted, &caps, false).expect_err("it does not");
            assert!(refusal.contains(said), "{refusal}");
            assert!(refusal.contains("the cap of /sys/fs/cgroup/x"), "{refusal}");
        }
        let device = Budget::divide(&pool(10_000), &caps(64, 64, false), false);
        assert!(device.expect_err("too much").contains("this device's memory, 67108864 bytes"));
    }
}
