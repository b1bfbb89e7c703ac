//! Proves that an attempt in groups that an earlier one has left is as well off as in new ones: in
//! its limits, in what is told of its memory, and in who is taken for its own.

use std::path::PathBuf;

use limpet_driver::containment::{Containment, Limits, become_subreaper};
use limpet_driver::spawn::{Child, spawn};

mod process;
use process::{
    PYTHON, Scene, acting, launch, name, play, read_all, read_line, tiers, wait_readable,
};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 64 * MIB;
const STAY: &str = "os.write(1, b'here\\n'); time.sleep(600)";
const TAKE: &str = "x = b'x' * (24 << 20)";
/// Files on a tmpfs are counted for who has written them, for as long as they are there.
const LEAVE: &str = "open(f'/dev/shm/{os.getpid()}', 'wb').write(bytes(8 << 20))";
const RAISE: &str = "\
for line in open('/proc/self/cgroup'):
  _, names, group = line.strip().split(':', 2)
  if group.rpartition('/')[0].rpartition('/')[2].startswith('limpet-test'):
    places = glob.glob(f'/sys/fs/cgroup/{names}{group}') or glob.glob(f'/sys/fs/cgroup{group}')
    for place in places:
      for file in ('memory.limit_in_bytes', 'memory.max'):
        if os.path.exists(f'{place}/{file}'):
          open(f'{place}/{file}', 'w').write('-1' if names else 'max')
          os.write(1, b'raised\\n')";

fn limits(memory_bytes: u64) -> Limits {
    Limits { memory_bytes: Some(memory_bytes), ..Limits::default() }
}

/// One containment and its attempts, one after the other.
struct Case<'a> {
    scene: &'a Scene,
    containment: &'a Containment,
    attempt: u32,
}

impl Case<'_> {
    fn start(&mut self, code: &str, limits: &Limits) -> Child {
        self.attempt += 1;
        let words = [PYTHON, "-c", &format!("import glob, os, time\n{code}")];
        let launch = launch(self.scene.directory.path(), &words);
        spawn(self.containment, &name(&self.scene.instance, self.attempt), &launch, limits)
            .expect("a child")
    }

    /// Runs it to its end as the spawner does; returns its groups, what it has said and its peak.
    fn run(&mut self, code: &str, limits: &Limits) -> (Vec<PathBuf>, String, u64) {
        let mut child = self.start(code, limits);
        let (said, groups) = (read_all(&child.stdout), child.cell.groups().to_vec());
        wait_readable(&child.pidfd);
        let usage = child.cell.meter().expect("it is counted").read();
        self.containment.empty(&mut child.cell);
        self.containment.bury(child.cell);
        (groups, said, usage.peak_bytes.unwrap_or_default())
    }

    /// Whether the groups of an attempt that does `code` are those of the next one.
    fn is_followed(&mut self, code: &str) -> bool {
        let first = self.run(code, &limits(LIMIT)).0;
        self.run("", &limits(LIMIT)).0 == first
    }
}

/// Groups are used again after an attempt that left nothing, and after no other.
#[test]
fn clean_groups_are_used_again() {
    play(&[], "again");
}

/// Started again by [`play`]: orphans come to that process alone, as they come to the agent.
#[test]
fn acts() {
    if acting().as_deref() != Some("again") {
        return;
    }
    become_subreaper().expect("it is allowed");
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        knows_who_is_alone(&mut Case { scene: &scene, containment: &containment, attempt: 0 });
        if !containment.tiers().memory.starts_with("cgroup") {
            eprintln!("skipped: no controller counts memory in {}", containment.tier());
            continue;
        }
        let mut case = Case { scene: &scene, containment: &containment, attempt: 0 };
        // The first one has the files that it reads charged to it, and leaves them.
        case.run("", &limits(LIMIT));
        let followed = case.is_followed("");
        if !followed && containment.tiers().memory == "cgroup_v2" {
            eprintln!("skipped: this kernel forgets no peak (it may be older than 6.12)");
            continue;
        }
        assert!(followed, "{:?}", containment.tiers());
        leaves_nothing(&mut case);
        leaves_something(&mut case);
    }
}

/// A leader is alone until it, or a thread of it, has a child or has left one to us.
fn knows_who_is_alone(case: &mut Case<'_>) {
    let stay = "time.sleep(600)";
    let fork = "os.fork() or time.sleep(600)";
    let orphan = format!("os.fork() or (os.setsid(), {fork}, os._exit(0)); os.wait()");
    let thread = format!(
        "import threading; threading.Thread(target=lambda: {fork}, daemon=True).start(); \
         time.sleep(0.5)"
    );
    for (code, alone) in [("", true), (fork, false), (&orphan, false), (&thread, false)] {
        let child = case.start(&format!("{code}\nos.write(1, b'here\\n')\n{stay}"), &limits(LIMIT));
        assert_eq!(read_line(&child.stdout), "here");
        let tier = case.containment.tier();
        assert_eq!(case.containment.is_alone(&child.cell), alone, "{tier} {code}");
        assert_eq!(case.containment.sweep(&child.cell).remaining, 0);
        case.containment.reap_strays();
        case.containment.bury(child.cell);
    }
}

fn leaves_nothing(case: &mut Case<'_>) {
    // The peak is the later one's.
    let (first, _, peak) = case.run(TAKE, &limits(LIMIT));
    assert!(peak >= 24 * MIB, "{peak}");
    let (second, _, peak) = case.run("", &limits(LIMIT));
    assert_eq!(first, second);
    assert!(peak < 24 * MIB, "{peak}");
    // The later one's limit may be below that of the earlier one, or above.
    for bytes in [LIMIT / 2, 2 * LIMIT, LIMIT] {
        assert_eq!(case.run("", &limits(bytes)).0, first);
    }
    // Limits are those of the later one, also after somebody has changed them.
    let (_, said, _) = case.run(RAISE, &limits(LIMIT));
    assert_eq!(said, "raised");
    let (third, said, _) = case.run(&format!("{TAKE}; print('free')"), &limits(16 * MIB));
    assert_eq!((&third, said.as_str()), (&second, ""));
    // The kernel has killed there, so the next one's would be counted with it.
    let (fourth, said, _) = case.run(&format!("{TAKE}; print('free')"), &limits(LIMIT));
    assert_eq!(said, "free");
    assert_ne!(fourth, third);
    // No limit stays where none is wanted.
    let (fifth, said, _) = case.run(&format!("{TAKE}; print('free')"), &Limits::default());
    assert_eq!(said, "free");
    assert_ne!(fifth, fourth);
    // At once there are never two in one.
    let one = case.start(STAY, &limits(LIMIT));
    let other = case.start(STAY, &limits(LIMIT));
    assert!(!one.cell.groups().iter().any(|group| other.cell.groups().contains(group)));
    for child in [one, other] {
        assert_eq!(read_line(&child.stdout), "here");
        assert_eq!(case.containment.sweep(&child.cell).remaining, 0);
        case.containment.bury(child.cell);
    }
}

fn leaves_something(case: &mut Case<'_>) {
    assert!(case.is_followed(""));
    let daemon = "os.fork() or (os.setsid(), os.close(1), os.close(2), os.close(3), time.sleep(9))";
    assert!(!case.is_followed(daemon), "somebody was in it");
    let (group, _, _) = case.run(LEAVE, &limits(LIMIT));
    let (next, _, peak) =
        case.run("[os.remove(f) for f in glob.glob('/dev/shm/[0-9]*')]", &limits(LIMIT));
    assert!(group != next && peak < 24 * MIB, "{peak}");
}
