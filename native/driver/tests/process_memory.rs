//! Proves that no attempt takes more than its limits, in every tier that this system lends: whoever
//! passes them ends, whoever only seems to does not, and nobody else notices.

use limpet_driver::containment::{Containment, Limits, Usage};
use limpet_driver::spawn::{Child, spawn};
use rustix::process::{Signal, pidfd_send_signal};
use tempfile::{TempDir, tempdir};

mod process;
use process::{
    Ended, PYTHON, end, has_ended, instance, launch, name, read_line, tiers, wait_readable,
};

const LIMIT: u64 = 32 * 1024 * 1024;
/// What a program does with ten times its limit; `LIMIT` is argv[1], `big` a file of that size.
const PASS: [(&str, &str); 5] = [
    ("at once", "bytearray(b'x') * (10 * limit)"),
    ("slowly", "kept = [bytearray(b'x') * (1 << 20) for _ in range(10 * limit >> 20)]"),
    ("shared", "m = mmap.mmap(-1, 10 * limit); [m.__setitem__(i, 1) for i in pages]"),
    ("in a child", "os.fork() or hog(); os.wait()"),
    ("in another session", "os.fork() or (os.setsid(), hog()); os.wait()"),
];
const STAY: [(&str, &str); 3] = [
    ("reserved", "m = mmap.mmap(-1, 10 * limit)"),
    ("read from a file", "f = open('big', 'rb')\nwhile f.read(1 << 20): pass"),
    (
        "mapped from a file",
        "f = open('big', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
         sum(m[i] for i in pages)",
    ),
];
const PRELUDE: &str = "
import mmap, os, sys
limit = int(sys.argv[1])
pages = range(0, 10 * limit, 4096)
def hog():
    bytearray(b'x') * (10 * limit)
    os._exit(0)
";

struct Scene {
    directory: TempDir,
    instance: String,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempdir().expect("a directory");
        let big = std::fs::File::create(directory.path().join("big")).expect("a file");
        big.set_len(10 * LIMIT).expect("a sparse file");
        Scene { directory, instance: instance() }
    }

    /// Every containment of this system that keeps memory; none where nothing does.
    fn keeping(&self) -> Vec<Containment> {
        let mut found = tiers(&self.instance);
        found.retain(|containment| containment.tiers().memory != "none");
        if found.is_empty() {
            eprintln!("skipped: no memory controller is lent here");
        }
        found
    }

    fn start(&self, containment: &Containment, attempt: u32, code: &str, limits: Limits) -> Child {
        let code = format!("{PRELUDE}{code}");
        let limit = LIMIT.to_string();
        let launch = launch(self.directory.path(), &[PYTHON, "-c", &code, &limit]);
        spawn(containment, &name(&self.instance, attempt), &launch, &limits).expect("a child")
    }

    fn run(&self, containment: &Containment, code: &str, limits: Limits) -> (Usage, Ended) {
        let mut child = self.start(containment, 1, code, limits);
        let meter = child.cell.take_meter().expect("a meter");
        wait_readable(&child.pidfd);
        (meter.read(), end(containment, child))
    }
}

fn within(memory_bytes: u64) -> Limits {
    Limits { memory_bytes: Some(memory_bytes), ..Limits::default() }
}

/// Whoever takes more is killed, is counted, and never had more; its sibling lives on.
#[test]
fn whoever_passes_its_memory_ends_and_nobody_else() {
    let scene = Scene::new();
    for containment in scene.keeping() {
        let tier = containment.tiers().memory;
        let stay = "os.write(1, b'here\\n'); sys.stdin.read(); import time; time.sleep(600)";
        let sibling = scene.start(&containment, 2, stay, within(LIMIT));
        assert_eq!(read_line(&sibling.stdout), "here");
        for (how, code) in PASS {
            let (usage, ended) = scene.run(&containment, code, within(LIMIT));
            assert!(usage.kills >= 1, "{tier}: {how}: {usage:?} {}", ended.stderr);
            if let Some(peak) = usage.peak_bytes {
                assert!((LIMIT / 2..=LIMIT).contains(&peak), "{tier}: {how}: {usage:?}");
            }
            assert_eq!(ended.swept.remaining, 0, "{tier}: {how}");
        }
        assert!(!has_ended(&sibling.pidfd), "{tier}");
        pidfd_send_signal(&sibling.pidfd, Signal::KILL).expect("sent");
        end(&containment, sibling);
    }
}

/// What only looks large is not counted: memory that was never touched, files that can go.
#[test]
fn whoever_only_seems_to_take_memory_lives() {
    let scene = Scene::new();
    for containment in scene.keeping() {
        for (how, code) in STAY {
            let (usage, ended) = scene.run(&containment, code, within(LIMIT));
            let tier = containment.tiers().memory;
            assert_eq!(ended.status.exit_status(), Some(0), "{tier}: {how}: {}", ended.stderr);
            assert_eq!(usage.kills, 0, "{tier}: {how}");
        }
    }
}

/// Memory is counted where it is not limited.
#[test]
fn what_an_attempt_took_is_told_without_a_limit() {
    let scene = Scene::new();
    for containment in scene.keeping() {
        let code = "bytearray(b'x') * (2 * limit)";
        let (usage, _) = scene.run(&containment, code, Limits::default());
        assert_eq!(usage.kills, 0);
        assert!(usage.peak_bytes.is_none_or(|peak| peak > 2 * LIMIT), "{usage:?}");
    }
}

/// A fork bomb meets its bound, and is told by name where nothing keeps it.
#[test]
fn processes_and_time_are_bounded_or_named() {
    let scene = Scene::new();
    let bomb = "
count = 1
try:
    while count < 100:
        if os.fork() == 0:
            import time; time.sleep(600)
        count += 1
except BlockingIOError: pass
print(count)";
    let limits = Limits { pids: Some(12), cpu_milli: Some(500), memory_bytes: None };
    for containment in tiers(&scene.instance) {
        let missing = containment.not_enforced(&limits);
        let child = scene.start(&containment, 1, bomb, limits);
        let count: u32 = read_line(&child.stdout).parse().expect("a count");
        if missing.contains(&"pids") {
            assert_eq!(count, 100, "{}", containment.tier());
        } else {
            assert_eq!(count, 12, "{}", containment.tier());
        }
        wait_readable(&child.pidfd);
        containment.sweep(&child.cell);
        end(&containment, child);
    }
    let nothing = Containment::marker_only(&scene.instance);
    assert_eq!(nothing.not_enforced(&limits), ["pids", "cpu"]);
    assert_eq!(nothing.not_enforced(&within(1)), ["memory"]);
}
