//! Decides which controller keeps an attempt within which limit, and reads how much memory it took.
//! One controller at a time: a Raspberry Pi as it comes lends `pids` and `cpu`, and no `memory`.
//!
//! Knows nothing of killing, and nothing of how a process enters a group.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::caps;
use super::cgroup::{self, Entrances, Hierarchy, Version};
use crate::budget::Caps;

/// Period of the scheduler over which processor time is counted, in microseconds: its default.
const CPU_PERIOD_US: u64 = 100_000;
/// Least processor time that the kernel takes for one period, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// More than any file of the kernel's that is read here.
const TEXT_BYTES: usize = 512;

/// What the processes of one attempt may use together; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, swap included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads at once.
    pub pids: Option<u32>,
    /// Thousandths of one processor.
    pub cpu_milli: Option<u32>,
}

impl Limits {
    /// Whether they set each limit that `earlier` set, so that none of those stays.
    pub(super) fn cover(&self, earlier: &Limits) -> bool {
        earlier.memory_bytes.is_none_or(|_| self.memory_bytes.is_some())
            && earlier.pids.is_none_or(|_| self.pids.is_some())
            && earlier.cpu_milli.is_none_or(|_| self.cpu_milli.is_some())
    }
}

/// A place where groups with one controller can be made.
#[derive(Debug)]
struct Controller {
    base: PathBuf,
    version: Version,
}

/// The controllers that this system lends.
#[derive(Debug, Default)]
pub(super) struct Controllers {
    memory: Option<Controller>,
    pids: Option<Controller>,
    cpu: Option<Controller>,
}

impl Controllers {
    /// Those of version 2 in the tree of `hierarchy`, and of version 1 what that does not lend.
    pub fn probe(instance: &str, hierarchy: &Hierarchy) -> Controllers {
        let second = |name| {
            let lent = hierarchy.enable(name);
            lent.then(|| Controller { base: hierarchy.base.clone(), version: Version::Second })
        };
        let first = |name| {
            let base = cgroup::base_of_first_version(instance, name)?;
            Some(Controller { base, version: Version::First })
        };
        let either = |name| second(name).or_else(|| first(name));
        Controllers { memory: either("memory"), pids: either("pids"), cpu: either("cpu") }
    }

    /// `cgroup_v2`, `cgroup_v1` or `sampled`, as results and `doctor` report it.
    pub fn memory_tier(&self) -> &'static str {
        match self.memory.as_ref().map(|controller| controller.version) {
            Some(Version::Second) => "cgroup_v2",
            Some(Version::First) => "cgroup_v1",
            None => "sampled",
        }
    }

    /// Those of `limits` that nothing keeps, by their names in a task. Memory is kept everywhere:
    /// by looking at it where no controller is lent.
    pub fn not_enforced(&self, limits: &Limits) -> Vec<&'static str> {
        let set = [
            // Of memory: its files on a tmpfs, which no process maps and only a controller counts.
            ("tmpfs", limits.memory_bytes.is_some() && self.memory.is_none()),
            ("pids", limits.pids.is_some() && self.pids.is_none()),
            ("cpu", limits.cpu_milli.is_some() && self.cpu.is_none()),
        ];
        set.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name).collect()
    }

    /// Counts the memory of an attempt whose first group is in `groups`: makes the group for it
    /// that is not there yet, and adds it.
    pub fn count(&self, groups: &mut Vec<PathBuf>) -> io::Result<Option<Meter>> {
        let Some(controller) = &self.memory else { return Ok(None) };
        Meter::open(&controller.group(groups)?, controller.version).map(Some)
    }

    /// Makes the groups that `limits` need of an attempt that has `groups`, and adds them.
    pub fn provide(&self, limits: &Limits, groups: &mut Vec<PathBuf>) -> io::Result<()> {
        self.needed(limits).try_for_each(|controller| controller.group(groups).map(|_| ()))
    }

    /// Sets `limits` in the groups that they need, which are all there and open.
    pub fn limit(&self, limits: &Limits, groups: &[PathBuf], opened: &Entrances) -> io::Result<()> {
        let place = |controller: &Controller| groups.iter().position(|it| controller.is_over(it));
        let write = |controller, file: &str, text: &str| {
            let place = place(controller).ok_or(io::ErrorKind::NotFound)?;
            opened.write(place, file, text)
        };
        if let (Some(controller), Some(pids)) = (&self.pids, limits.pids) {
            write(controller, "pids.max", &pids.to_string())?;
        }
        if let (Some(controller), Some(milli)) = (&self.cpu, limits.cpu_milli) {
            controller.limit_cpu(milli, |file, text| write(controller, file, text))?;
        }
        if let (Some(controller), Some(bytes)) = (&self.memory, limits.memory_bytes) {
            controller.limit_memory(bytes, |file, text| write(controller, file, text))?;
        }
        Ok(())
    }

    fn needed(&self, limits: &Limits) -> impl Iterator<Item = &Controller> {
        let set = [
            (&self.pids, limits.pids.is_some()),
            (&self.cpu, limits.cpu_milli.is_some()),
            (&self.memory, limits.memory_bytes.is_some()),
        ];
        set.into_iter().filter(|&(_, needed)| needed).filter_map(|(it, _)| it.as_ref())
    }

    /// How much memory the kernel lets the agent and its steps have.
    pub fn caps(&self) -> Caps {
        let steps = self.memory.as_ref().map(|controller| controller.base.as_path());
        caps::read(self.agent_memory().as_deref(), steps)
    }

    /// The group that counts the agent's own memory.
    fn agent_memory(&self) -> Option<PathBuf> {
        ["", "memory"].into_iter().filter_map(cgroup::own_group).find(|group| {
            let counts = |file| group.join(file).exists();
            // The root of version 2 has no file of its own, and no cap.
            counts("memory.max") || counts("memory.limit_in_bytes")
        })
    }

    /// Every group of this instance.
    pub fn groups(&self) -> Vec<PathBuf> {
        self.each().flat_map(|controller| cgroup::children(&controller.base)).collect()
    }

    fn each(&self) -> impl Iterator<Item = &Controller> {
        [&self.memory, &self.pids, &self.cpu].into_iter().flatten()
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        // Refused by the kernel while an attempt's group is still there.
        self.each().for_each(|controller| _ = fs::remove_dir(&controller.base));
    }
}

impl Controller {
    /// Its group for the attempt whose groups these are: they all have the name of the first.
    fn group(&self, groups: &mut Vec<PathBuf>) -> io::Result<PathBuf> {
        let first = groups.first().and_then(|first| first.file_name());
        let group = self.base.join(first.unwrap_or_default());
        if !groups.contains(&group) {
            cgroup::make(&group)?;
            groups.push(group.clone());
        }
        Ok(group)
    }

    /// Whether `group` is one of its groups.
    fn is_over(&self, group: &Path) -> bool {
        group.parent() == Some(&self.base)
    }

    /// Without swap, and as a whole: a process that goes on after the death of its helper would
    /// only come to a wrong result later. Version 1 knows neither by one word.
    fn limit_memory(
        &self,
        bytes: u64,
        write: impl Fn(&str, &str) -> io::Result<()>,
    ) -> io::Result<()> {
        let bytes = bytes.to_string();
        match self.version {
            Version::Second => {
                write("memory.max", &bytes)?;
                write("memory.oom.group", "1")?;
                // Not there in a kernel without swap.
                optional(write("memory.swap.max", "0"))
            }
            Version::First => {
                // Counts swap too, where the kernel does; then it adds nothing to the limit.
                let with_swap = || optional(write("memory.memsw.limit_in_bytes", &bytes));
                // Never above it: a group that is used again may have a lower one of that.
                write("memory.limit_in_bytes", &bytes).or_else(|_| {
                    with_swap()?;
                    write("memory.limit_in_bytes", &bytes)
                })?;
                with_swap()?;
                optional(write("memory.swappiness", "0"))
            }
        }
    }

    fn limit_cpu(
        &self,
        milli: u32,
        write: impl Fn(&str, &str) -> io::Result<()>,
    ) -> io::Result<()> {
        let quota = (u64::from(milli) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US);
        match self.version {
            Version::Second => write("cpu.max", &format!("{quota} {CPU_PERIOD_US}")),
            Version::First => {
                write("cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                write("cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }
}

fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How much memory an attempt took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most that all of its processes used at one time, cached files included; `None` where the
    /// kernel does not tell (version 2 before 5.19).
    pub peak_bytes: Option<u64>,
    /// Processes that the kernel killed for its limit.
    pub kills: u64,
}

/// Reads an attempt's usage from files of the kernel's, which wait for no disk.
#[derive(Debug)]
pub struct Meter {
    peak: Option<File>,
    events: File,
}

impl Meter {
    fn open(group: &Path, version: Version) -> io::Result<Meter> {
        let (peak, events) = match version {
            Version::Second => ("memory.peak", "memory.events"),
            Version::First => ("memory.max_usage_in_bytes", "memory.oom_control"),
        };
        let peak = group.join(peak);
        let writable = File::options().read(true).write(true).open(&peak);
        let peak = writable.or_else(|_| File::open(&peak)).ok();
        Ok(Meter { peak, events: File::open(group.join(events))? })
    }

    /// Begins anew in a group that nobody is in, and tells the bytes that are left in it. `None`
    /// where the kernel does not forget the peak (version 2 before 6.12), or has killed.
    pub(super) fn renew(&self) -> Option<u64> {
        // Any text resets it (cgroup-v2.rst, for this descriptor; memory.rst of version 1).
        self.peak.as_ref()?.write_at(b"0", 0).ok()?;
        let usage = self.read();
        usage.peak_bytes.filter(|_| usage.kills == 0)
    }

    /// What it is now. Zeroes once the group is gone.
    pub fn read(&self) -> Usage {
        let peak = self.peak.as_ref().and_then(text);
        let events = text(&self.events).unwrap_or_default();
        Usage { peak_bytes: peak.and_then(|peak| peak.trim().parse().ok()), kills: kills(&events) }
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; TEXT_BYTES];
    let count = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The number behind `oom_kill`, which both versions write so (cgroup-v2.rst; memcontrol-v1.c).
fn kills(events: &str) -> u64 {
    let number = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::kills;

    /// Both versions' files are read; what is no such file counts nothing.
    #[test]
    fn kills_are_read_from_either_version() {
        assert_eq!(kills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n"), 3);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills(""), 0);
        assert_eq!(kills("oom_kill many\n"), 0);
    }
}
