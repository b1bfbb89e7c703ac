//! What the tests of processes share: launches, waiting for ends, and this very program started
//! again in a role.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use limpet_driver::containment::{Containment, Swept, Tier};
use limpet_driver::launch::Launch;
use limpet_driver::spawn::{AttemptName, Child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};
use tempfile::{TempDir, tempdir};

pub const PYTHON: &str = "/usr/bin/python3";
/// Names the role of a program started by [`role`].
const ROLE: &str = "LIMPET_TEST_ROLE";
/// Only a test that would hang for ever meets it.
const HANG: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// A directory and an instance for one test.
pub struct Scene {
    pub directory: TempDir,
    pub instance: String,
}

impl Scene {
    pub fn new() -> Scene {
        Scene { directory: tempdir().expect("a directory"), instance: instance() }
    }
}

/// An instance that no other test has.
pub fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn name(instance: &str, attempt: u32) -> AttemptName {
    AttemptName { instance: instance.to_owned(), task: 7, step: 0, attempt }
}

pub fn launch(directory: &Path, argv: &[&str]) -> Launch {
    Launch {
        step: "take".into(),
        argv: argv.iter().map(|&text| text.to_owned()).collect(),
        environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        directory: directory.to_owned(),
        stdin: None,
        user: None,
        secrets: Vec::new(),
    }
}

/// Every containment that this system and this user have.
pub fn tiers(instance: &str) -> Vec<Containment> {
    let tiers = [Tier::CgroupV2, Tier::CgroupV1, Tier::Marker];
    tiers.iter().filter_map(|&tier| Containment::of_tier(instance, tier)).collect()
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

pub fn wait_readable(fd: impl AsFd) {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&HANG)).expect("poll"), 1, "hung");
}

pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).expect("poll") == 1
}

pub fn pidfd(pid: i32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("a process")
}

/// Reads a non-blocking pipe up to a newline, or to its end.
pub fn read_line(fd: &OwnedFd) -> String {
    read_until(fd, Some(b'\n'))
}

pub fn read_all(fd: &OwnedFd) -> String {
    read_until(fd, None)
}

fn read_until(fd: &OwnedFd, end: Option<u8>) -> String {
    let mut file = File::from(fd.try_clone().expect("a descriptor"));
    let (mut text, mut chunk) = (Vec::new(), vec![0; if end.is_some() { 1 } else { 65536 }]);
    loop {
        wait_readable(fd);
        let count = file.read(&mut chunk).expect("a pipe");
        text.extend_from_slice(&chunk[..count]);
        if count == 0 || end.is_some() && text.last() == end.as_ref() {
            return String::from_utf8(text).expect("text").trim_end_matches('\n').to_owned();
        }
    }
}

/// What an attempt left when it has ended, was swept and reaped.
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub report: String,
    pub status: WaitIdStatus,
    pub swept: Swept,
}

/// In the order the agent does it.
pub fn end(containment: &Containment, child: Child) -> Ended {
    let (stdout, stderr) = (read_all(&child.stdout), read_all(&child.stderr));
    let report = read_all(&child.report);
    wait_readable(&child.pidfd);
    let swept = containment.sweep(&child.cell);
    Ended { stdout, stderr, report, status: reap(&child), swept }
}

pub fn reap(child: &Child) -> WaitIdStatus {
    let leader = WaitId::PidFd(child.pidfd.as_fd());
    waitid(leader, WaitIdOptions::EXITED).expect("our child").expect("its status")
}

/// A program that runs the test `acts` of this test program, in which [`acting`] is `role`.
/// It is started by the words of `prefix`, a program that ends in exec.
pub fn role(prefix: &[&str], role: &str) -> Command {
    let own = std::env::current_exe().expect("our own path");
    let mut words = prefix.iter().map(PathBuf::from).chain([own]);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).args(["acts", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role);
    command
}

pub fn acting() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs a role to its end; what fails in it fails here.
pub fn play(prefix: &[&str], name: &str) {
    let output = role(prefix, name).output().expect("a role");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {text}{errors}");
}
