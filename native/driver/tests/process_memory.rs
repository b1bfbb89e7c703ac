//! Proves that no attempt takes more than its limits, in every tier that this system lends: whoever
//! passes them ends, whoever only seems to does not, and nobody else notices.

use limpet_core::message::AttemptRef;
use limpet_driver::containment::{Containment, Limits, Scope, Tiers, become_subreaper};
use limpet_driver::memory::{Board, Excess, Subject, Watch};
use limpet_driver::spawn::{Child, spawn};
use limpet_driver::threads::sampler;
use rustix::process::{Signal, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

mod process;
use process::{
    Ended, PYTHON, Scene, acting, end, has_ended, launch, name, play, read_line, tiers,
    wait_readable,
};

const LIMIT: u64 = 32 * 1024 * 1024;
/// Name of the thread that is measured.
const SAMPLER: &str = "limpet-sampler";
/// Number of the next attempt that is run to its end; those below are of attempts beside it.
static NEXT: AtomicU16 = AtomicU16::new(100);
/// What becomes of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ends,
    Lives,
}
use Fate::{Ends, Lives};

/// What a program does, and what becomes of it under a controller of the kernel's and where its
/// memory is sampled. `limit` is argv[1], `big` a file of ten times that size.
const CASES: [(&str, &str, Fate, Fate); 16] = [
    ("at once", "bytearray(b'x') * (10 * limit)", Ends, Ends),
    (
        "slowly",
        "kept = [(time.sleep(.002), bytearray(b'x') * MB) for _ in range(limit >> 18)]",
        Ends,
        Ends,
    ),
    ("shared", "m = mmap.mmap(-1, 10 * limit); [m.__setitem__(i, 1) for i in pages]", Ends, Ends),
    ("in a child", "os.fork() or hog(); os.wait()", Ends, Ends),
    ("in another session", "os.fork() or (os.setsid(), hog()); os.wait()", Ends, Ends),
    (
        "in an orphan",
        // It goes when the orphan does: version 1 kills that one alone.
        "r, w = os.pipe()\n\
         os.fork() or (os.setsid(), os.fork() and os._exit(0), hog())\n\
         os.wait(); os.close(w); os.read(r, 1)",
        Ends,
        Ends,
    ),
    (
        "in many children",
        "for _ in range(40):\n    if not os.fork(): k = b'x' * (limit >> 4); time.sleep(600)\n\
         os.wait()",
        Ends,
        Ends,
    ),
    (
        "in pages that were shared with the parent",
        "kept = bytearray(b'x') * (limit >> 1)\n\
         for _ in range(10):\n    if not os.fork(): touch(kept); time.sleep(600)\n\
         os.wait()",
        Ends,
        Ends,
    ),
    // Nobody maps it: only the kernel knows whose it is.
    ("in a file on a tmpfs", "fd = os.memfd_create('x'); fill(fd)", Ends, Lives),
    ("reserved", "m = mmap.mmap(-1, 10 * limit)", Lives, Lives),
    ("reserved, private", "m = mmap.mmap(-1, 10 * limit, mmap.MAP_PRIVATE)", Lives, Lives),
    ("nothing, read from a file", "f = open('big', 'rb')\nwhile f.read(MB): pass", Lives, Lives),
    (
        "nothing, mapped from a file",
        "f = open('big', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
         sum(m[i] for i in pages)",
        Lives,
        Lives,
    ),
    (
        "pages shared with ten children",
        "kept = bytearray(b'x') * (limit >> 1)\n\
         for _ in range(10):\n    if not os.fork(): time.sleep(.5); os._exit(0)\n\
         [os.wait() for _ in range(10)]",
        Lives,
        Lives,
    ),
    (
        "a mapping shared with ten children",
        "m = mmap.mmap(-1, limit >> 1); touch(m)\n\
         for _ in range(10):\n    if not os.fork(): touch(m); time.sleep(.5); os._exit(0)\n\
         [os.wait() for _ in range(10)]",
        Lives,
        Lives,
    ),
    (
        "a child in its own memory before exec",
        "kept = bytearray(b'x') * (limit * 5 >> 3)\n\
         import subprocess\n\
         for _ in range(60): subprocess.run(['/bin/true'], close_fds=False)",
        Lives,
        Lives,
    ),
];
const PRELUDE: &str = "
import mmap, os, sys, time
limit = int(sys.argv[1])
MB = 1 << 20
pages = range(0, 10 * limit, 4096)
def hog():
    bytearray(b'x') * (10 * limit)
    os._exit(0)
def touch(kept):
    for at in range(0, len(kept), 4096): kept[at] = 1
def fill(fd):
    for _ in range(10 * limit >> 20): os.write(fd, b'x' * MB)
";

/// A scene with a file of ten times the limit.
fn scene() -> Scene {
    let scene = Scene::new();
    let big = std::fs::File::create(scene.directory.path().join("big")).expect("a file");
    big.set_len(10 * LIMIT).expect("a sparse file");
    scene
}

impl Scene {
    fn start(&self, containment: &Containment, attempt: u32, code: &str, limits: Limits) -> Child {
        let code = format!("{PRELUDE}{code}");
        let limit = LIMIT.to_string();
        let launch = launch(self.directory.path(), &[PYTHON, "-c", &code, &limit]);
        spawn(containment, &name(&self.instance, attempt), &launch, &limits).expect("a child")
    }

    fn run(&self, sampling: &Sampling, code: &str, limits: Limits) -> Found {
        // Each has a name of its own, as in the agent: whoever ends one looks for its name until it
        // finds nobody, and may not be through when the leader has gone.
        let attempt = NEXT.fetch_add(1, Ordering::Relaxed);
        let child = self.start(&sampling.containment, attempt.into(), code, limits);
        let meter = child.cell.meter();
        let watch = sampling.watch(&child, attempt, limits);
        wait_readable(&child.pidfd);
        let (excess, counted) = (watch.excess().cloned(), meter.map(|meter| meter.read()));
        sampling.board.forget(attempt_reference(attempt));
        let peak_bytes = counted.map_or(watch.peak_bytes(), |usage| usage.peak_bytes);
        let kills = counted.map_or(0, |usage| usage.kills);
        // Before its output is read to the end: whoever is left holds it open.
        sampling.containment.sweep(&child.cell);
        Found { kills, excess, peak_bytes, ended: end(&sampling.containment, child) }
    }
}

/// What was found out about an attempt that has ended.
struct Found {
    kills: u64,
    excess: Option<Excess>,
    peak_bytes: Option<u64>,
    ended: Ended,
}

impl Found {
    fn fate(&self) -> Fate {
        if self.kills > 0 || self.excess.is_some() { Ends } else { Lives }
    }
}

/// A containment and the thread that looks at what it contains.
struct Sampling {
    containment: Arc<Containment>,
    board: Arc<Board>,
    thread: Option<JoinHandle<()>>,
}

impl Sampling {
    fn new(containment: Containment) -> Sampling {
        let (containment, board) = (Arc::new(containment), Arc::new(Board::default()));
        let (looks, looked_at) = (Arc::clone(&containment), Arc::clone(&board));
        let thread = Builder::new().name(SAMPLER.to_owned());
        let thread = thread.spawn(move || sampler::run(&looks, &looked_at)).expect("a thread");
        Sampling { containment, board, thread: Some(thread) }
    }

    /// One for every containment of this system.
    fn all(instance: &str) -> Vec<Sampling> {
        tiers(instance).into_iter().map(Sampling::new).collect()
    }

    fn tier(&self) -> String {
        let tiers = self.containment.tiers();
        format!("{} and {}", tiers.containment, tiers.memory)
    }

    fn watch(&self, child: &Child, attempt: u16, limits: Limits) -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        self.board.watch(Subject {
            attempt: attempt_reference(attempt),
            task: 7,
            step: 0,
            name: "take".to_owned(),
            number: u32::from(attempt),
            directory: "ops.t-1".to_owned(),
            scope: Scope::of(&child.cell),
            limit_bytes: limits.memory_bytes,
            sampled: self.containment.samples_memory(),
            backstop_bytes: self.containment.backstop_bytes(&limits),
            watch: Arc::clone(&watch),
        });
        watch
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.board.close();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn attempt_reference(attempt: u16) -> AttemptRef {
    AttemptRef { slot: attempt, generation: 1 }
}

fn within(memory_bytes: u64) -> Limits {
    Limits { memory_bytes: Some(memory_bytes), ..Limits::default() }
}

/// Whoever takes more ends as a whole, whoever only seems to does not, as the table says for each
/// tier; a sibling at the same limit lives on.
#[test]
fn every_case_meets_its_fate_in_every_tier() {
    play(&[], "cases");
}

/// Started again by [`play`]: orphans come to that process alone, as they come to the agent.
#[test]
fn acts() {
    if acting().as_deref() == Some("cases") {
        become_subreaper().expect("it is allowed");
        cases();
    }
}

fn cases() {
    let scene = scene();
    for sampling in Sampling::all(&scene.instance) {
        let (tier, sampled) = (sampling.tier(), sampling.containment.samples_memory());
        let stay = "os.write(1, b'here\\n'); time.sleep(600)";
        let sibling = scene.start(&sampling.containment, 2, stay, within(LIMIT));
        sampling.watch(&sibling, 2, within(LIMIT));
        assert_eq!(read_line(&sibling.stdout), "here");
        for (how, code, counted, looked_at) in CASES {
            eprintln!("{tier}: {how}");
            let found = scene.run(&sampling, code, within(LIMIT));
            let (fate, said) = (if sampled { looked_at } else { counted }, &found.ended.stderr);
            assert_eq!(found.fate(), fate, "{tier}: {how}: {:?} {said}", found.excess);
            assert_eq!(found.ended.swept.remaining, 0, "{tier}: {how}");
            if fate == Lives {
                assert_eq!(found.ended.status.exit_status(), Some(0), "{tier}: {how}: {said}");
            } else if sampled {
                let excess = found.excess.expect("it was killed for it");
                assert_eq!(found.peak_bytes, Some(excess.bytes), "{tier}: {how}");
                assert!(excess.bytes > LIMIT, "{tier}: {how}: {excess:?}");
                assert!(excess.largest.name.starts_with("python"), "{tier}: {how}: {excess:?}");
            } else if let Some(peak) = found.peak_bytes {
                assert!((LIMIT / 2..=LIMIT).contains(&peak), "{tier}: {how}: {peak}");
            }
        }
        assert!(!has_ended(&sibling.pidfd), "{tier}");
        pidfd_send_signal(&sibling.pidfd, Signal::KILL).expect("sent");
        end(&sampling.containment, sibling);
    }
}

/// Memory is counted where a controller does that and sets no limit.
#[test]
fn what_an_attempt_took_is_told_without_a_limit() {
    let scene = scene();
    for sampling in Sampling::all(&scene.instance) {
        let code = "bytearray(b'x') * (2 * limit)";
        let found = scene.run(&sampling, code, Limits::default());
        assert_eq!(found.fate(), Lives);
        assert_eq!(found.ended.status.exit_status(), Some(0), "{}", found.ended.stderr);
        let peak = found.peak_bytes;
        assert!(peak.is_none_or(|peak| peak > 2 * LIMIT), "{}: {peak:?}", sampling.tier());
    }
}

/// When the device runs out of memory the kernel takes a step before the agent: whoever is known,
/// with whom it had started before that, and whom it starts later.
#[test]
fn steps_go_first_in_every_tier() {
    let scene = scene();
    for sampling in Sampling::all(&scene.instance) {
        let code = "mine = '/proc/self/oom_score_adj'\n\
                    early = os.fork()\n\
                    while open(mine).read() != '1000\\n': time.sleep(.001)\n\
                    if not early: os.closerange(1, 9); time.sleep(600)\n\
                    while open(f'/proc/{early}/oom_score_adj').read() != '1000\\n': pass\n\
                    os.system(f'cat {mine}')";
        let child = scene.start(&sampling.containment, 1, code, within(4 * LIMIT));
        sampling.watch(&child, 1, within(4 * LIMIT));
        let ended = end(&sampling.containment, child);
        assert_eq!(ended.stdout, "1000", "{}: {}", sampling.tier(), ended.stderr);
        assert_eq!(ended.swept.killed, 1, "{}", sampling.tier());
    }
}

/// The host reads what every attempt has, in every tier and without a limit too, while it asks.
#[test]
fn memory_of_the_living_is_told_to_who_asks() {
    let scene = scene();
    for sampling in Sampling::all(&scene.instance) {
        let code = "k = bytearray(b'x') * limit; os.write(1, b'here\\n'); time.sleep(600)";
        let limited = within(4 * LIMIT);
        let children = [
            scene.start(&sampling.containment, 1, code, limited),
            scene.start(&sampling.containment, 2, code, Limits::default()),
        ];
        for (child, (attempt, limits)) in
            children.iter().zip([(1, limited), (2, Limits::default())])
        {
            assert_eq!(read_line(&child.stdout), "here");
            sampling.watch(child, attempt, limits);
        }
        let mut rows = sampling.board.rows();
        let begun = Instant::now();
        while rows.age_ms.is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "they never came");
            std::thread::sleep(Duration::from_millis(10));
            rows = sampling.board.rows();
        }
        let mut rows = rows.attempts;
        rows.sort_by_key(|row| row.number);
        assert_eq!(rows.len(), 2, "{}: {rows:?}", sampling.tier());
        for (row, limit) in rows.iter().zip([Some(4 * LIMIT), None]) {
            assert_eq!((row.processes, row.limit_bytes), (1, limit), "{}", sampling.tier());
            assert!((LIMIT..2 * LIMIT).contains(&row.bytes), "{}: {row:?}", sampling.tier());
            assert!(row.peak_bytes >= row.bytes, "{}: {row:?}", sampling.tier());
        }
        for child in children {
            pidfd_send_signal(&child.pidfd, Signal::KILL).expect("sent");
            end(&sampling.containment, child);
        }
    }
}

/// A fork bomb meets its bound, and is told by name where nothing keeps it.
#[test]
fn processes_and_time_are_bounded_or_named() {
    let scene = scene();
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
    assert_eq!(nothing.not_enforced(&within(1)), ["tmpfs"]);
}

/// Takes memory at `rate` bytes per second and keeps count where it can be read after its death:
/// what it had at first, and how many MiB it has taken or is about to.
const FILLS: &str = "
rate = RATE
first = [line for line in open('/proc/self/status') if line.startswith('RssAnon')]
open('first', 'w').write(first[0].split()[1])
open('count', 'wb').write(bytes(8))
count = mmap.mmap(os.open('count', os.O_RDWR), 8)
kept, begun = [], time.monotonic()
for number in range(1, 4096):
    count[:8] = number.to_bytes(8, 'little')
    kept.append(b'x' * MB)
    while time.monotonic() - begun < number * MB / rate: pass
";

/// Bytes by which a program of that rate passes a limit before it is dead, and its rate.
fn overshoot(scene: &Scene, sampling: &Sampling, limit: u64, rate: &str) -> (i64, u64) {
    let begun = Instant::now();
    let found = scene.run(sampling, &FILLS.replace("RATE", rate), within(limit));
    let took = u64::try_from(begun.elapsed().as_millis()).expect("short").max(1);
    assert_eq!(found.fate(), Ends, "{:?} {}", found.ended.status, found.ended.stderr);
    let read = |name| std::fs::read(scene.directory.path().join(name)).expect("written");
    let first = String::from_utf8(read("first")).expect("a number").parse::<u64>();
    let count = u64::from_le_bytes(read("count").try_into().expect("8 bytes"));
    let most = (first.expect("a number") << 10) + (count << 20);
    (
        i64::try_from(most).expect("small") - i64::try_from(limit).expect("small"),
        count * 1000 / took,
    )
}

/// Nanoseconds that the sampler's thread has been on a processor.
fn sampler_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("listed").flatten();
    let read = |task: &std::fs::DirEntry, file| {
        std::fs::read_to_string(task.path().join(file)).unwrap_or_default()
    };
    let ours = tasks.filter(|task| read(task, "comm").trim() == SAMPLER);
    let spent = ours.map(|task| read(&task, "schedstat"));
    spent.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Share of one processor, in millionths, that `count` steps cost which do nothing.
fn cost(scene: &Scene, count: u16, limit: u64) -> u64 {
    let sampling = Sampling::new(Containment::marker_only(&scene.instance));
    let sleeps = launch(scene.directory.path(), &["/bin/sleep", "600"]);
    let limits = within(limit);
    let start = |attempt| {
        let name = name(&scene.instance, u32::from(attempt));
        let child = spawn(&sampling.containment, &name, &sleeps, &limits).expect("a child");
        sampling.watch(&child, attempt, limits);
        child
    };
    let children: Vec<Child> = (1..=count).map(start).collect();
    std::thread::sleep(Duration::from_secs(5));
    let (before, begun) = (sampler_ns(), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    let spent = sampler_ns() - before;
    let share = u128::from(spent) * 1_000_000 / begun.elapsed().as_nanos();
    for child in children {
        pidfd_send_signal(&child.pidfd, Signal::KILL).expect("sent");
        end(&sampling.containment, child);
    }
    u64::try_from(share).expect("small")
}

/// Prints what `tests/e2e/sampled.py` writes down.
#[test]
#[ignore = "measures for minutes, and judges nothing"]
fn measures() {
    let scene = scene();
    let sampling = Sampling::new(Containment::marker_only(&scene.instance));
    for limit in [64_u64 << 20, 200 << 20] {
        for rate in ["1e9", "1e12"] {
            for _ in 0..20 {
                let (bytes, mib_s) = overshoot(&scene, &sampling, limit, rate);
                println!("\novershoot {limit} {rate} {bytes} {mib_s}");
            }
        }
    }
    drop(sampling);
    for limit in [16_u64 << 20, 64 << 20] {
        println!("\ncost 64 {limit} {}", cost(&scene, 64, limit));
    }
}

/// Prints what `tests/e2e/sampled.py` writes down.
#[test]
#[ignore = "measures for minutes, and judges nothing"]
fn measures_starts() {
    let scene = scene();
    let program = scene.directory.path().join("child");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/bench/probes/child.c");
    let mut compiler = Command::new("cc");
    let built = compiler.args(["-O2", "-static", "-o"]).arg(&program).arg(source).status();
    assert!(built.expect("a compiler").success());
    for (rounds, pause_ms) in [(300, 0), (100, 100)] {
        for (tier, begun, known) in starts(&scene, rounds, Duration::from_millis(pause_ms)) {
            let Tiers { containment, memory } = tier;
            let (begun, known) = (begun.as_micros(), known.as_micros());
            println!("\nstart {pause_ms} {containment} {memory} {begun} {known}");
        }
    }
}

/// How long the start of a limited step takes, until the first instruction of its program and until
/// the agent knows of it: the medians in each tier of starts that take turns, after so long a pause
/// each. As in the agent, the pause is for making the next groups ready.
fn starts(scene: &Scene, rounds: u32, pause: Duration) -> Vec<(Tiers, Duration, Duration)> {
    let containments = tiers(&scene.instance);
    let mut times = vec![(Vec::new(), Vec::new()); containments.len()];
    let (program, file) = (scene.directory.path().join("child"), scene.directory.path().join("at"));
    let words = [&program, &file].map(|path| path.to_str().expect("text"));
    std::fs::write(&file, [0; 8]).expect("written");
    for round in 1..=rounds {
        for (containment, (begun, known)) in containments.iter().zip(&mut times) {
            let launch = launch(scene.directory.path(), &[words[0], words[1], "0"]);
            let name = name(&scene.instance, round);
            containment.prepare();
            std::thread::sleep(pause);
            let from = monotonic();
            let child = spawn(containment, &name, &launch, &within(LIMIT)).expect("a child");
            known.push(monotonic() - from);
            wait_readable(&child.pidfd);
            let at = std::fs::read(&file).expect("written").try_into().expect("8 bytes");
            begun.push(Duration::from_nanos(u64::from_ne_bytes(at)) - from);
            containment.sweep(&child.cell);
            end(containment, child);
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let times = times.into_iter().map(|(begun, known)| (median(begun), median(known)));
    let tiers = containments.iter().map(Containment::tiers);
    tiers.zip(times).map(|(tier, (begun, known))| (tier, begun, known)).collect()
}

/// The clock that the program reads too.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("below a second"))
}
