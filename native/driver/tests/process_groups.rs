//! Proves what control groups alone can promise: that they are found where they are lent, also by
//! those who start later, and that they hold a fork bomb and files in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use limpet_driver::containment::{Containment, Limits, Tier};
use limpet_driver::spawn::{Child, spawn};
use rustix::fs::statfs;
use rustix::process::{Signal, pidfd_send_signal};
use tempfile::tempdir_in;

mod process;
use process::{
    PYTHON, Scene, acting, end, has_ended, instance, launch, name, play, read_line, tiers,
    wait_readable,
};

/// What whoever runs this program expects of the system: the tiers of containment and memory, and
/// the limits that nothing keeps, all with blanks in between.
const LENT: &str = "LIMPET_TEST_LENT";
const LIMIT: u64 = 32 * 1024 * 1024;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const PROCESSES: u32 = 24;
/// Only a test that would hang for ever meets it.
const HANG_S: u32 = 120;
const STAY: &str = "import os, time\nos.write(1, b'here\\n')\ntime.sleep(600)";

impl Scene {
    /// Every containment of this system whose groups keep `limit`.
    fn keeping(&self, limit: &str) -> Vec<Containment> {
        let mut found = tiers(&self.instance);
        found.retain(|containment| {
            let kept = match limit {
                "memory" => containment.tiers().memory.starts_with("cgroup"),
                other => !containment.not_enforced(&everything()).contains(&other),
            };
            containment.tier() != "marker" && kept
        });
        if found.is_empty() {
            eprintln!("skipped: no control group keeps {limit} here");
        }
        found
    }

    fn start(&self, containment: &Containment, attempt: u32, code: &str, limits: Limits) -> Child {
        let launch = launch(self.directory.path(), &[PYTHON, "-c", code]);
        spawn(containment, &name(&self.instance, attempt), &launch, &limits).expect("a child")
    }

    /// An attempt beside the one that is tested.
    fn sibling(&self, containment: &Containment) -> Child {
        let sibling = self.start(containment, 2, STAY, everything());
        assert_eq!(read_line(&sibling.stdout), "here");
        sibling
    }
}

fn everything() -> Limits {
    Limits { memory_bytes: Some(LIMIT), pids: Some(PROCESSES), cpu_milli: Some(1000) }
}

/// Waits until a file of one of the child's groups reads so.
fn wait_until(child: &Child, file: &str, holds: impl Fn(&str) -> bool) {
    let read = |group: &PathBuf| fs::read_to_string(group.join(file));
    for _ in 0..HANG_S * 100 {
        if child.cell.groups().iter().flat_map(read).any(|text| holds(&text)) {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("{file} never told");
}

fn dismiss(containment: &Containment, sibling: Child) {
    assert!(!has_ended(&sibling.pidfd), "{}", containment.tier());
    pidfd_send_signal(&sibling.pidfd, Signal::KILL).expect("sent");
    assert_eq!(end(containment, sibling).swept.remaining, 0);
}

/// The directory that holds the directory of this instance.
fn place(containment: &Containment, instance: &str) -> String {
    let cell = containment.create(&name(instance, 9), &Limits::default()).expect("a cell");
    let place = cell.groups()[0].ancestors().nth(2).expect("a place");
    place.to_str().expect("text").to_owned()
}

/// An emulated machine says what it lends; elsewhere nobody knows.
#[test]
fn what_is_lent_is_what_is_expected() {
    let Ok(expected) = std::env::var(LENT) else {
        eprintln!("skipped: nobody has said what is lent here");
        return;
    };
    let containment = Containment::probe(&instance());
    let tiers = containment.tiers();
    let missing = containment.not_enforced(&everything());
    let found = [&[tiers.containment, tiers.memory], &missing[..]].concat().join(" ");
    assert_eq!(found, expected, "{:?}", containment.obstacle());
}

/// The program of a role; see `process::role`.
#[test]
fn acts() {
    let Some(expected) = acting() else { return };
    let instance = instance();
    let again = Containment::of_tier(&instance, Tier::CgroupV2).expect("it was there before");
    assert_eq!(format!("{} {}", place(&again, &instance), again.tiers().memory), expected);
}

/// Whoever starts later finds the same place and the same controllers: an agent that starts itself
/// again, or another beside it. Nobody nests deeper each time.
#[test]
fn who_starts_later_finds_the_same_groups() {
    let instance = instance();
    let Some(first) = Containment::of_tier(&instance, Tier::CgroupV2) else {
        eprintln!("skipped: no control group of version 2 is lent here");
        return;
    };
    let expected = format!("{} {}", place(&first, &instance), first.tiers().memory);
    play(&[], &expected);
    play(&[], &expected);
}

/// A group that an earlier run could not empty keeps its name, and is in nobody's way.
#[test]
fn what_is_left_keeps_its_groups() {
    let scene = Scene::new();
    for tier in [Tier::CgroupV2, Tier::CgroupV1] {
        let Some(earlier) = Containment::of_tier(&scene.instance, tier) else { continue };
        let left = scene.sibling(&earlier);
        let later = Containment::of_tier(&scene.instance, tier).expect("it was there before");
        later.prepare();
        let cell = later.create(&name(&scene.instance, 1), &everything()).expect("a cell");
        assert!(cell.groups().iter().all(|group| !left.cell.groups().contains(group)));
        drop(cell);
        dismiss(&earlier, left);
    }
}

/// Groups that were made ahead are the next attempt's, and go with who made them.
#[test]
fn groups_that_are_ready_are_used_and_given_up() {
    let scene = Scene::new();
    for tier in [Tier::CgroupV2, Tier::CgroupV1] {
        let Some(containment) = Containment::of_tier(&scene.instance, tier) else { continue };
        let create = || containment.create(&name(&scene.instance, 1), &Limits::default());
        let place = create().expect("a cell").groups()[0].clone();
        let base = place.parent().expect("a place").to_owned();
        let count = || fs::read_dir(&base).expect("listed").flatten().filter(is_directory).count();
        containment.prepare();
        assert_eq!(count(), 1);
        containment.prepare();
        assert_eq!(count(), 1, "one is enough");
        let cell = create().expect("a cell");
        assert_eq!(count(), 1);
        drop(cell);
        containment.prepare();
        drop(containment);
        assert!(!base.exists());
    }
}

fn is_directory(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// A fork bomb meets its bound, dies as a whole, and nobody else notices.
#[test]
fn a_fork_bomb_is_held() {
    let bomb =
        "import os\nos.write(1, b'lit\\n')\nwhile True:\n try: os.fork()\n except OSError: pass";
    let scene = Scene::new();
    for containment in scene.keeping("pids") {
        let tier = containment.tier();
        let sibling = scene.sibling(&containment);
        let child = scene.start(&containment, 1, bomb, everything());
        assert_eq!(read_line(&child.stdout), "lit");
        wait_until(&child, "pids.current", |text| text.trim() == PROCESSES.to_string());
        let swept = containment.sweep(&child.cell);
        assert_eq!(swept.remaining, 0, "{tier}");
        assert!(swept.killed > 0 && swept.killed < PROCESSES, "{tier}: {swept:?}");
        end(&containment, child);
        dismiss(&containment, sibling);
    }
}

/// Who wants more of a processor than it may have is held back by the kernel.
#[test]
fn processor_time_is_held() {
    let scene = Scene::new();
    for containment in scene.keeping("cpu") {
        let limits = Limits { cpu_milli: Some(100), ..Limits::default() };
        let child = scene.start(&containment, 1, "while True: pass", limits);
        wait_until(&child, "cpu.stat", |text| {
            let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            count.is_some_and(|count| count != "0")
        });
        containment.sweep(&child.cell);
        end(&containment, child);
    }
}

/// What a step writes into a file system in memory is its memory, and ends it as any other.
#[test]
fn files_in_memory_are_counted() {
    let shm = Path::new("/dev/shm");
    if !statfs(shm).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS_MAGIC)) {
        eprintln!("skipped: /dev/shm is no file system in memory");
        return;
    }
    let scene = Scene::new();
    for containment in scene.keeping("memory") {
        let tier = containment.tiers().memory;
        let sibling = scene.sibling(&containment);
        let files = tempdir_in(shm).expect("a directory");
        let path = files.path().join("big");
        let write = format!(
            "f = open({path:?}, 'wb', buffering=0)\n\
             for _ in range({}): f.write(bytes(1 << 20))",
            (10 * LIMIT) >> 20
        );
        let child = scene.start(&containment, 1, &write, everything());
        let meter = child.cell.meter().expect("a meter");
        wait_readable(&child.pidfd);
        let usage = meter.read();
        let ended = end(&containment, child);
        assert!(usage.kills >= 1, "{tier}: {usage:?} {}", ended.stderr);
        assert!(usage.peak_bytes.is_none_or(|peak| peak <= LIMIT), "{tier}: {usage:?}");
        // The file outlives its writer; the next attempt does not pay for it.
        assert!(path.exists());
        let next = scene.start(&containment, 3, "print('fits')", everything());
        assert_eq!(read_line(&next.stdout), "fits");
        end(&containment, next);
        dismiss(&containment, sibling);
    }
}
