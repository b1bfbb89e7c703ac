//! The timer's thread, where it may come before every ordinary one.

use crate::rig::{Rig, step};
use serde_json::json;
use std::fs;
use std::process::Command;

/// Fields 40 and 41 of `/proc/PID/stat` (proc(5)): real-time priority and policy.
fn scheduling(stat: &str) -> (String, String) {
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let field = |number: usize| rest.split_whitespace().nth(number - 3).expect("it").to_owned();
    (field(40), field(41))
}

fn threads() -> Vec<(String, (String, String))> {
    let tasks = fs::read_dir("/proc/self/task").expect("ours").map(|entry| entry.expect("one"));
    let read = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((name.trim().to_owned(), scheduling(&stat)))
    };
    tasks.filter_map(read).collect()
}

/// It is the only one, its memory is locked, it is stopped if it never waits, and what it starts is
/// as ordinary as ever.
#[test]
fn only_the_timer_comes_first() {
    let allowed = Command::new("chrt").args(["-f", "40", "/bin/true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs the right to real-time scheduling");
        return;
    }
    let mut rig = Rig::with(json!({"realtime": true}));
    let (fifo, ordinary) = (("40".to_owned(), "1".to_owned()), ("0".to_owned(), "0".to_owned()));
    for (name, scheduling) in threads() {
        let expected = if name == "limpet-timer" { &fifo } else { &ordinary };
        assert_eq!(&scheduling, expected, "{name}");
    }
    let limits = fs::read_to_string("/proc/self/limits").expect("ours");
    assert!(limits.lines().any(|line| line.starts_with("Max realtime timeout      500000 ")));
    let status = fs::read_to_string("/proc/self/status").expect("ours");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("it");
    let kibibytes: u64 = locked.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kibibytes >= 128, "{locked}");
    rig.submit("told", json!([step("told", json!({"argv": ["/bin/cat", "/proc/self/stat"]}))]));
    let told = rig.result("told")["steps"][0].clone();
    let stat = told["stdout"]["head"].as_str().expect("what it says");
    assert_eq!(scheduling(stat), ordinary, "{told:#}");
}
