//! Proves that no descendant of an attempt outlives its sweep, in every tier that this system
//! lends, and that nobody else is hit.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use limpet_driver::containment::{Containment, Limits, Swept, Tier, become_subreaper};
use limpet_driver::spawn::{Child, spawn};
use rustix::process::Signal;

mod process;
use process::{
    PYTHON, Scene, acting, end, has_ended, is_root, launch, name, pidfd, play, read_all, read_line,
    reap, role, tiers, wait_readable,
};

/// Tells its pid on standard output, then ignores TERM and HUP and stays. `daemon` is orphaned and
/// leads a session of its own; `hidden` has no marker either.
const TREE: &str = r#"
import os, signal, sys
def stay():
    for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
    os.write(1, b"%d\n" % os.getpid())
    while True: signal.pause()
def daemon(then):
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    os.setsid()
    if os.fork() == 0: then()
    os._exit(0)
def hide():
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[1], "stay"], {})
def child():
    if os.fork() == 0: stay()
for word in sys.argv[2:]:
    {"stay": stay, "child": child, "daemon": lambda: daemon(stay),
     "hidden": lambda: daemon(hide)}[word]()
"#;

/// A chain of processes, each of which forks the next one and exits: no pid lives long enough to
/// be killed by name.
const COMET: &str = r#"
import os
if os.fork(): os._exit(0)
os.setsid()
os.write(1, b"flying\n")
while True:
    try:
        if os.fork(): os._exit(0)
    except OSError: pass
"#;

impl Scene {
    fn start(&self, containment: &Containment, attempt: u32, argv: &[&str]) -> Child {
        let launch = launch(self.directory.path(), argv);
        spawn(containment, &name(&self.instance, attempt), &launch, &Limits::default())
            .expect("a child")
    }

    /// Starts a tree, waits until each of `words` has told its pid, and returns the descendants.
    fn tree(
        &self,
        containment: &Containment,
        attempt: u32,
        words: &[&str],
    ) -> (Child, Vec<OwnedFd>) {
        let argv = [&[PYTHON, "-c", TREE, TREE], words].concat();
        let child = self.start(containment, attempt, &argv);
        let told = |_: &&str| read_line(&child.stdout).parse().expect("a pid");
        let pids: Vec<i32> = words.iter().map(told).collect();
        let leader = child.pid.as_raw_pid();
        let members = pids.into_iter().filter(|&pid| pid != leader).map(pidfd).collect();
        (child, members)
    }
}

/// A leader that has exited leaves nobody: not a child, not a daemon that ignores TERM and holds
/// the output open, and not one that hides its marker if `hidden` is asked for.
fn assert_swept(containment: &Containment, scene: &Scene, hidden: bool) {
    let words = if hidden { &["child", "daemon", "hidden"][..] } else { &["child", "daemon"] };
    let (child, members) = scene.tree(containment, 1, words);
    wait_readable(&child.pidfd);
    let expected = Swept { killed: u32::try_from(words.len()).expect("few"), remaining: 0 };
    assert_eq!(containment.sweep(&child.cell), expected, "{}", containment.tier());
    assert!(members.iter().all(has_ended));
    assert_eq!(read_all(&child.stdout), "", "nobody holds the output");
    assert!(!child.cell.groups().iter().any(|group| group.exists()));
    assert_eq!(reap(&child).exit_status(), Some(0), "the leader's own status is kept");
}

/// The program of a role; see `process::role`.
#[test]
fn acts() {
    match acting().as_deref() {
        Some("plain") => {
            let scene = Scene::new();
            let containment = Containment::probe(&scene.instance);
            assert_eq!(containment.tier(), "marker", "no control group is lent here");
            assert_swept(&containment, &scene, false);
        }
        Some("subreaper") => {
            become_subreaper().expect("the right to adopt");
            let scene = Scene::new();
            assert_swept(&Containment::marker_only(&scene.instance), &scene, true);
        }
        Some("strays") => reaps_strays(),
        Some("ignoring") => {
            become_subreaper().expect("the right to adopt");
            let scene = Scene::new();
            let containment = Containment::marker_only(&scene.instance);
            let child = scene.start(&containment, 1, &["/bin/sh", "-c", "exit 3"]);
            assert_eq!(end(&containment, child).status.exit_status(), Some(3));
        }
        Some(agent) => {
            let scene = Scene::new();
            let instance = agent.split(' ').next().expect("an instance").to_owned();
            let scene = Scene { instance, ..scene };
            let containment = tiers(&scene.instance)
                .into_iter()
                .find(|containment| agent.ends_with(containment.tier()))
                .expect("the tier");
            let (child, _) = scene.tree(&containment, 1, &["daemon", "stay"]);
            println!("ready {}", child.pid.as_raw_pid());
            wait_readable(&child.pidfd);
        }
        None => {}
    }
}

/// Children, daemons and whoever holds the output are gone after the sweep; a control group also
/// holds those that hide.
#[test]
fn a_sweep_leaves_nobody() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        assert_swept(&containment, &scene, containment.tier() != "marker");
    }
}

/// The best-effort tier needs neither root nor control groups, mounted or not.
#[test]
fn a_plain_system_is_enough() {
    if is_root() {
        play(&["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "plain");
        let unmount = "umount -R /sys/fs/cgroup && exec \"$0\" \"$@\"";
        play(&["/usr/bin/unshare", "-m", "/bin/sh", "-c", unmount], "plain");
    } else {
        let scene = Scene::new();
        assert_swept(&Containment::marker_only(&scene.instance), &scene, false);
    }
}

/// With adoption the best-effort tier finds a daemon that hides its marker, too.
#[test]
fn the_hidden_are_adopted_and_found() {
    play(&[], "subreaper");
}

/// `docker exec` and a container's first process: our session began outside our pid namespace and
/// has no number inside it.
#[test]
fn a_session_from_outside_the_namespace_is_no_obstacle() {
    if is_root() {
        let inside = ["/usr/bin/unshare", "--pid", "--fork", "--mount-proc"];
        play(&inside, "subreaper");
        play(&inside, "strays");
    }
}

/// The exit status of a leader is not lost to an agent that was started with SIGCHLD ignored.
#[test]
fn an_inherited_ignore_is_undone() {
    let ignore = "import os, signal, sys\nsignal.signal(17, signal.SIG_IGN)\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    play(&[PYTHON, "-c", ignore], "ignoring");
}

/// What forks faster than it can be found is stopped by its control group.
#[test]
fn a_fork_chain_is_stopped() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        if containment.tier() == "marker" {
            continue;
        }
        let child = scene.start(&containment, 1, &[PYTHON, "-c", COMET]);
        assert_eq!(read_line(&child.stdout), "flying");
        wait_readable(&child.pidfd);
        assert_eq!(containment.sweep(&child.cell).remaining, 0, "{}", containment.tier());
        assert_eq!(read_all(&child.stdout), "");
        reap(&child);
    }
}

/// A signal meets every descendant and not the leader; a sweep kills a living leader, uncounted.
#[test]
fn a_signal_meets_descendants() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        let (child, members) = scene.tree(&containment, 1, &["daemon", "stay"]);
        containment.signal(&child.cell, Signal::USR1);
        wait_readable(&members[0]);
        assert!(!has_ended(&child.pidfd), "the leader is left to its pidfd");
        assert_eq!(containment.sweep(&child.cell), Swept { killed: 0, remaining: 0 });
        assert_eq!(reap(&child).terminating_signal(), Some(Signal::KILL.as_raw()));
    }
}

/// A sweep spares other attempts, also one whose number only begins alike.
#[test]
fn other_attempts_are_spared() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        let (first, _) = scene.tree(&containment, 1, &["daemon", "stay"]);
        let (tenth, others) = scene.tree(&containment, 10, &["daemon", "stay"]);
        assert_eq!(containment.sweep(&first.cell), Swept { killed: 1, remaining: 0 });
        assert!(!others.iter().any(has_ended), "{}", containment.tier());
        assert_eq!(containment.sweep(&tenth.cell), Swept { killed: 1, remaining: 0 });
        assert!(others.iter().all(has_ended));
        reap(&first);
        reap(&tenth);
    }
}

/// What a killed agent has left is gone after the first sweep of the next one, groups included;
/// another instance is spared.
#[test]
fn leftovers_of_a_killed_agent_are_swept() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        let words = format!("{} {}", scene.instance, containment.tier());
        let mut agent = role(&[], &words).stdout(Stdio::piped()).spawn().expect("an agent");
        let stdout = agent.stdout.take().expect("a pipe").into();
        let leader = loop {
            if let Some((_, pid)) = read_line(&stdout).split_once("ready ") {
                break pidfd(pid.parse().expect("a pid"));
            }
        };
        let other = Scene::new();
        let spared = Containment::marker_only(&other.instance);
        let (spared_child, spared_members) = other.tree(&spared, 1, &["child", "stay"]);

        agent.kill().expect("a live agent");
        agent.wait().expect("our child");
        wait_readable(&leader);
        let swept = containment.sweep_leftovers();
        assert_eq!(swept, Swept { killed: 1, remaining: 0 }, "{}", containment.tier());
        assert_eq!(containment.sweep_leftovers(), Swept { killed: 0, remaining: 0 });
        assert!(
            containment.create(&name(&scene.instance, 1), &Limits::default()).is_ok(),
            "its name is free again"
        );
        assert!(!spared_members.iter().any(has_ended));
        assert_eq!(spared.sweep(&spared_child.cell).remaining, 0);
        reap(&spared_child);
    }
}

/// Adopted processes that ended are reaped, and a leader that ended keeps its status.
#[test]
fn strays_are_reaped_and_leaders_are_not() {
    play(&[], "strays");
}

fn reaps_strays() {
    become_subreaper().expect("the right to adopt");
    let scene = Scene::new();
    let containment = Containment::probe(&scene.instance);
    let (child, _) = scene.tree(&containment, 1, &["daemon", "daemon"]);
    wait_readable(&child.pidfd);
    assert_eq!(containment.sweep(&child.cell), Swept { killed: 2, remaining: 0 });
    containment.reap_strays();
    assert_eq!(children(), [child.pid.as_raw_pid()], "the leader is not reaped");
    assert_eq!(reap(&child).exit_status(), Some(0));
    // Who leaves nobody is swept by that alone, while another attempt and its children live.
    let (other, members) = scene.tree(&containment, 2, &["child", "stay"]);
    let plain = scene.start(&containment, 3, &["/bin/sh", "-c", "exit 3"]);
    wait_readable(&plain.pidfd);
    assert!(containment.is_deserted(&plain.cell) && !containment.is_deserted(&other.cell));
    assert!(!plain.cell.groups().iter().any(|group| group.exists()));
    assert_eq!(reap(&plain).exit_status(), Some(3));
    assert!(!members.iter().any(has_ended), "nobody else is hit");
    assert_eq!(containment.sweep(&other.cell), Swept { killed: 1, remaining: 0 });
    reap(&other);
}

/// Pids of our children, dead or alive.
fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("our threads");
    let lists =
        tasks.map(|task| fs::read_to_string(task.expect("a thread").path().join("children")));
    let lists: Vec<String> = lists.collect::<Result<_, _>>().expect("lists of children");
    lists
        .iter()
        .flat_map(|list| list.split_whitespace())
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

/// A name of another instance gets no cell, and no tier is claimed that is not there.
#[test]
fn foreign_names_are_refused() {
    let scene = Scene::new();
    for containment in tiers(&scene.instance) {
        assert!(containment.create(&name("another", 1), &Limits::default()).is_err());
    }
    let probed = Containment::probe(&scene.instance).tier();
    let lends = |tier| Containment::of_tier(&scene.instance, tier).is_some();
    assert_eq!(probed == "cgroup_v2", lends(Tier::CgroupV2));
    assert_eq!(probed == "marker", !lends(Tier::CgroupV2) && !lends(Tier::CgroupV1));
}
