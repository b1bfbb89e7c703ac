//! Reads how much memory the kernel lets the agent and its steps have: the smallest cap on the way
//! up from a group, or all the memory of the device.

use crate::budget::{Cap, Caps};
use std::path::Path;

/// Files in which a group's cap stands: of version 2, and of version 1.
const FILES: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// How much memory the kernel lets this process have where it is: nothing is made, nobody is moved.
#[must_use]
pub fn caps_here() -> Caps {
    // Of version 2, else of version 1.
    let group = ["", "memory"].into_iter().find_map(super::cgroup::own_group);
    read(group.as_deref(), None)
}

/// The caps of the agent, whose own group is `agent`, and of groups made in `steps`. `None` where
/// no group counts memory.
pub(super) fn read(agent: Option<&Path>, steps: Option<&Path>) -> Caps {
    let device = Cap { bytes: device_bytes(), group: None };
    let cap = |group: Option<&Path>| {
        let capped = group.and_then(smallest).filter(|cap| cap.bytes < device.bytes);
        capped.unwrap_or_else(|| device.clone())
    };
    let agent_group = agent.map(Path::to_owned);
    Caps { agent: cap(agent), steps: cap(steps.or(agent)), agent_group }
}

fn smallest(group: &Path) -> Option<Cap> {
    let cap = |group: &Path| {
        let text = FILES.iter().find_map(|file| std::fs::read_to_string(group.join(file)).ok())?;
        // "max" is no cap; so is a number beyond all memory, as version 1 writes it.
        let bytes = text.trim().parse().ok()?;
        Some(Cap { bytes, group: Some(group.to_owned()) })
    };
    group.ancestors().filter_map(cap).min_by_key(|cap| cap.bytes)
}

/// All memory of the device, from `MemTotal` of `/proc/meminfo`, which counts in KiB (proc(5)).
fn device_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The smallest cap on the way up counts, wherever it stands, in either version's words.
    #[test]
    fn the_smallest_cap_on_the_way_up_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b/c");
        fs::create_dir_all(&inner).expect("made");
        let set = |group: &str, file: &str, text: &str| {
            fs::write(root.path().join(group).join(file), text).expect("written");
        };
        assert_eq!(read(Some(&inner), None).agent.group, None, "no group, no cap");
        set("a/b", "memory.max", "max\n");
        assert_eq!(read(Some(&inner), None).agent.group, None, "max is no cap");
        set("a", "memory.max", "40000\n");
        set("a/b/c", "memory.max", "50000\n");
        let caps = read(Some(&inner), Some(&root.path().join("a/b")));
        let cap = Cap { bytes: 40_000, group: Some(root.path().join("a")) };
        assert_eq!((caps.agent, caps.steps), (cap.clone(), cap));
        set("a/b/c", "memory.max", "30000\n");
        let caps = read(Some(&inner), Some(&root.path().join("a/b")));
        assert_eq!((caps.agent.bytes, caps.steps.bytes), (30_000, 40_000));
        set("", "memory.limit_in_bytes", "20000\n");
        assert_eq!(read(Some(&inner), None).agent.bytes, 20_000);
        set("", "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(read(Some(&inner), None).agent.bytes, 30_000);
    }

    /// A device has some memory.
    #[test]
    fn a_device_has_memory() {
        assert!(((8 << 20)..u64::MAX).contains(&device_bytes()));
    }
}
