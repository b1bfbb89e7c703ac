//! The whole driver with real processes and a real disk, without a host language or a broker.

mod memory;
mod realtime;
mod rig;

use rig::{Rig, finally, step};
use serde_json::json;
use std::time::Duration;

#[test]
fn a_task_runs_to_its_durable_result_with_references_and_finally() {
    let mut rig = Rig::new();
    rig.submit(
        "first",
        json!([
            step("say", json!({"argv": ["/bin/sh", "-c", "echo '{\"result\":{\"n\":7}}' >&3"]})),
            step(
                "use",
                json!({"argv": ["/bin/echo", {"$": [{"step": 0, "path": ["result", "n"]}]}]})
            ),
            rig::finally(step("end", json!({"argv": ["/bin/true"]}))),
        ]),
    );
    let told = rig.result("first");
    assert_eq!(told["outcome"], "succeeded", "{told:#}");
    assert_eq!(told["steps"][0]["result"]["n"], 7);
    assert_eq!(told["steps"][1]["stdout"]["head"], "7\n");
    assert_eq!(told["steps"][2]["outcome"], "succeeded");
}

/// What an answer waits for must not stand behind a question that waits for answers.
#[test]
fn more_questions_at_once_than_answers_have_room_are_all_answered() {
    let limits = json!({"tasks": 200, "steps": 256, "attempts": 8, "ids": 256});
    let mut rig = Rig::with(json!({"limits": limits, "segment_bytes": 8 * 1024 * 1024}));
    // Nobody's acceptance is durable before all have asked.
    rig.stall(Duration::from_millis(300));
    rig.submit_all(180, &json!([step("it", json!({"argv": ["/bin/true"]}))]));
}

#[test]
fn exit_code_signal_and_clock_are_told_apart() {
    let mut rig = Rig::new();
    let mut slow = step("slow", json!({"argv": ["/bin/sleep", "60"]}));
    slow["clocks"]["start_to_close_ms"] = json!(80);
    for (id, step) in [
        ("code", step("code", json!({"argv": ["/bin/sh", "-c", "exit 3"]}))),
        ("signal", step("signal", json!({"argv": ["/bin/sh", "-c", "kill -SEGV $$"]}))),
        ("clock", slow),
        ("missing", step("missing", json!({"argv": ["/does/not/exist"]}))),
    ] {
        rig.submit(id, json!([step]));
    }
    let told = |rig: &mut Rig, id| rig.result(id)["steps"][0].clone();
    let code = told(&mut rig, "code");
    assert_eq!((&code["outcome"], &code["exit_code"]), (&json!("failed"), &json!(3)));
    let signal = told(&mut rig, "signal");
    assert_eq!((&signal["outcome"], &signal["signal"]), (&json!("killed"), &json!(11)));
    let clock = told(&mut rig, "clock");
    assert_eq!(
        (&clock["outcome"], &clock["clock"]),
        (&json!("timed_out"), &json!("start_to_close"))
    );
    assert!(clock["late_us"].is_u64(), "{clock:#}");
    assert!(code["late_us"].is_null() && signal["late_us"].is_null());
    let missing = told(&mut rig, "missing");
    assert_eq!(
        (&missing["outcome"], &missing["reason"]),
        (&json!("failed"), &json!("exec_failed"))
    );
}

#[test]
fn a_failed_attempt_is_tried_again_and_the_tries_are_counted() {
    let mut rig = Rig::new();
    let script = "test -e seen && exit 0; touch seen; exit 1";
    let mut step = step("flaky", json!({"argv": ["/bin/sh", "-c", script]}));
    step["retry"]["maximum_attempts"] = json!(3);
    step["stop"] = json!(false);
    rig.submit("again", json!([step]));
    let told = rig.result("again");
    assert_eq!(told["outcome"], "succeeded", "{told:#}");
    assert_eq!(told["steps"][0]["attempts"], 2);
}

#[test]
fn the_end_of_a_task_ends_its_whole_tree() {
    let mut rig = Rig::new();
    let mark = rig.path("tree");
    // Double-forked, in a session of its own, deaf to TERM, with the pipes open.
    let script = format!(
        "trap '' TERM; \
         (setsid sh -c \"trap '' TERM; echo \\$\\$ > {0}; exec sleep 1000\" &) ; sleep 1000",
        mark.display()
    );
    let mut step = step("tree", json!({"argv": ["/bin/sh", "-c", script]}));
    step["clocks"]["grace_ms"] = json!(100);
    rig.submit("tree", json!([step]));
    let pid = rig.wait_for_file(&mark);
    rig.cancel("tree");
    let told = rig.result("tree");
    assert_eq!(told["outcome"], "cancelled", "{told:#}");
    assert_eq!(told["steps"][0]["outcome"], "cancelled");
    assert!(!rig::alive(&pid), "descendant {pid} outlived its task");
}

/// The deadline does what a cancel does, and says which clock it was.
#[test]
fn a_deadline_ends_the_whole_tree() {
    let mut rig = Rig::new();
    let mark = rig.path("late");
    let script = format!(
        "trap '' TERM; \
         (setsid sh -c \"trap '' TERM; echo \\$\\$ > {0}; exec sleep 1000\" &) ; \
         while :; do sleep 1000; done",
        mark.display()
    );
    let mut step = step("late", json!({"argv": ["/bin/sh", "-c", script]}));
    step["clocks"]["start_to_close_ms"] = json!(2_000);
    step["clocks"]["grace_ms"] = json!(100);
    rig.submit("late", json!([step]));
    let pid = rig.wait_for_file(&mark);
    let told = rig.result("late")["steps"][0].clone();
    assert_eq!((&told["outcome"], &told["clock"]), (&json!("timed_out"), &json!("start_to_close")));
    assert_eq!(told["signal"], 9, "TERM is ignored: {told:#}");
    assert!(!rig::alive(&pid), "descendant {pid} outlived its deadline");
}

#[test]
fn a_chatty_stderr_and_a_held_pipe_block_nothing() {
    let mut rig = Rig::new();
    let chatty = "yes chatter | head -c 3000000 >&2; (setsid sleep 1000 &); echo done";
    rig.submit("chatty", json!([step("chatty", json!({"argv": ["/bin/sh", "-c", chatty]}))]));
    let told = rig.result("chatty");
    assert_eq!(told["outcome"], "succeeded", "{told:#}");
    assert_eq!(told["steps"][0]["stderr"]["bytes"], 3_000_000);
    assert_eq!(told["steps"][0]["stdout"]["head"], "done\n");
    assert!(told["steps"][0]["stragglers"].as_u64() >= Some(1), "{told:#}");
}

/// A step that takes what is left of the pool waits for it, and what takes less than is left does
/// not; what can never fit is refused with the numbers, and nothing of it is kept.
#[test]
fn steps_share_a_pool_of_memory() {
    let mut rig = Rig::with(json!({"memory": {"pool_bytes": 48 << 20, "step_bytes": 8 << 20}}));
    let script = "echo > $0; while ! [ -e $1 ]; do sleep 0.01; done";
    let take = |rig: &Rig, name: &str, limits: serde_json::Value| {
        let files = [rig.path(name), rig.path("go")];
        let argv = json!(["/bin/sh", "-c", script, files[0], files[1]]);
        let mut step = step(name, json!({"argv": argv}));
        step["limits"] = limits;
        step
    };
    for (name, limits) in [
        ("a", json!({"memory_bytes": 32 << 20})),
        ("b", json!({"memory_bytes": 17 << 20})),
        ("c", json!({})),
    ] {
        let steps = json!([take(&rig, name, limits)]);
        rig.submit(name, steps);
    }
    for name in ["a", "c"] {
        rig.wait_for_file(&rig.path(name));
    }
    assert!(!rig.path("b").exists(), "32 and 8 MiB leave no 17");
    let too_much = take(&rig, "d", json!({"memory_bytes": 49 << 20}));
    let refusal = rig.refused(&rig.plan("d", json!([too_much])));
    assert_eq!(refusal.code, "memory_impossible");
    assert!(refusal.detail.contains("51380224 is above the 50331648"), "{}", refusal.detail);
    std::fs::write(rig.path("go"), "").expect("written");
    for name in ["a", "b", "c"] {
        assert_eq!(rig.result(name)["outcome"], "succeeded");
    }
    assert!(rig.path("b").exists());
}

/// A journal may hold a step that the pool has no room for any more: it is refused in its turn.
#[test]
fn a_step_above_a_pool_that_shrank_is_refused() {
    let mut rig = Rig::with(json!({"memory": {"pool_bytes": 64 << 20}}));
    let first = step("first", json!({"argv": ["/bin/sh", "-c", "exec sleep 1000"]}));
    let mut second = finally(step("second", json!({"argv": ["/bin/true"]})));
    second["limits"] = json!({"memory_bytes": 64 << 20});
    rig.submit("shrunk", json!([first, second]));
    rig.set(json!({"memory": {"pool_bytes": 32 << 20}}));
    rig.restart();
    let told = rig.result("shrunk");
    assert_eq!(told["outcome"], "uncertain", "{told:#}");
    assert_eq!(told["steps"][1]["outcome"], "refused", "{told:#}");
    assert_eq!(told["steps"][1]["reason"], "memory_impossible");
}

/// Below what is demanded, and where the numbers do not add up, nothing starts.
#[test]
fn the_driver_does_not_open_below_what_is_required() {
    let mut rig = Rig::new();
    for (more, said) in [
        (json!({"containment": "marker", "require": {"memory": "cgroup"}}), "require.memory"),
        (
            json!({"containment": "marker", "require": {"containment": "cgroup"}}),
            "require.containment demands it and the tier is marker",
        ),
        (json!({"memory": {"pool_bytes": 1_u64 << 50}}), "a pool of 1125899906842624 is wanted"),
    ] {
        let refusal = rig.does_not_open(more);
        assert!(refusal.contains(said), "{refusal}");
    }
    rig.restart();
}

/// A segment that was cut may have held any number of records: as many numbers count as lost, and
/// the machine gives none of them again.
#[test]
fn a_device_whose_journal_was_cut_goes_on() {
    let mut rig = Rig::new();
    let steps = json!([step("a", json!({"argv": ["/bin/true"]}))]);
    for id in ["one", "two", "three"] {
        rig.submit(id, steps.clone());
        rig.result(id);
    }
    rig.stop();
    let journal = std::fs::read_dir(rig.path("journal")).expect("listed");
    for file in journal.map(|entry| entry.expect("an entry").path()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if end > 8192 {
            std::fs::write(&file, &bytes[..end - 100]).expect("cut");
        }
    }
    rig.restart();
    assert_ne!(rig.gaps(), 0, "it was damaged");
    rig.submit("after", steps);
    assert_eq!(rig.result("after")["outcome"], "succeeded");
}

/// Its task's files are measured while it runs, and before the next step starts.
#[test]
fn a_step_that_fills_its_directory_is_killed_and_the_next_does_not_start() {
    let mut rig = Rig::new();
    let fill = "head -c 8000000 /dev/zero > big; exec sleep 1000";
    let mut first = step("fill", json!({"argv": ["/bin/sh", "-c", fill]}));
    first["guarded"] = json!(true);
    let second = step("next", json!({"argv": ["/bin/true"]}));
    rig.submit("full", json!([first, second]));
    let told = rig.result("full");
    let reasons: Vec<_> = (0..2).map(|step| told["steps"][step]["reason"].clone()).collect();
    assert_eq!(reasons, ["directory_full", "directory_full"], "{told:#}");
    assert_eq!(told["steps"][0]["outcome"], "killed");
    assert_eq!(told["steps"][1]["outcome"], "failed");
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_is_kept() {
    let mut rig = Rig::new();
    let mut plan = rig.plan("no", json!([step("no", json!({"argv": ["/bin/true"]}))]));
    plan["source"] = json!("stranger");
    let refusal = rig.refused(&plan);
    assert_eq!(refusal.code, "not_allowed");
    assert!(refusal.detail.contains("policy.toml"), "{}", refusal.detail);
}

#[test]
fn a_restart_keeps_results_and_identities() {
    let mut rig = Rig::new();
    rig.submit("kept", json!([step("ok", json!({"argv": ["/bin/true"]}))]));
    let first = rig.result_undelivered("kept");
    rig.restart();
    let second = rig.result_undelivered("kept");
    assert_eq!(first, second, "a result is the same whenever it is told");
    rig.deliver("kept");
    rig.restart();
    let again = rig.submit_again("kept", json!([step("ok", json!({"argv": ["/bin/true"]}))]));
    assert_eq!(again["outcome"], "succeeded", "the id is remembered with its outcome");
}

#[test]
fn what_an_earlier_run_left_ends_before_its_tasks_are_replayed() {
    let mut rig = Rig::new();
    let instance = std::fs::read_to_string(rig.path("instance")).expect("made by the first run");
    let mut left = std::process::Command::new("/bin/sleep")
        .arg("60")
        .env("LIMPET_ATTEMPT", format!("{instance}:1:0:1"))
        .spawn()
        .expect("a process that looks like an attempt of the first run");
    rig.restart();
    let survived = rig::alive(&left.id().to_string());
    // It may have been reaped already, as one that the driver adopted.
    let _ = left.kill().and_then(|()| left.wait());
    assert_eq!((rig.leftovers(), survived), (1, false));
}

#[test]
fn a_stalled_journal_and_a_stalled_spawner_move_no_deadline() {
    let mut rig = Rig::new();
    let mark = rig.path("running");
    let script = format!("echo $$ > {}; exec sleep 60", mark.display());
    let mut slow = step("slow", json!({"argv": ["/bin/sh", "-c", script]}));
    slow["clocks"]["start_to_close_ms"] = json!(1_500);
    rig.submit("slow", json!([slow]));
    let pid = rig.wait_for_file(&mark);
    rig.stall(Duration::from_secs(5));
    let ended = rig.wait_for_death(&pid);
    let told = rig.result("slow");
    let started = told["steps"][0]["started_ms"].as_u64().expect("a number");
    assert_eq!(told["steps"][0]["clock"], "start_to_close");
    assert!(ended < started + 1_500 + 1_000, "ended {} ms after its start", ended - started);
}

#[test]
fn outputs_are_logged_and_the_working_directory_ends_with_the_task() {
    let mut rig = Rig::new();
    let script = "yes line | head -c 100000; echo oops >&2; touch left-behind";
    rig.submit("logged", json!([step("talk", json!({"argv": ["/bin/sh", "-c", script]}))]));
    let told = rig.result_undelivered("logged");
    assert_eq!(told["outcome"], "succeeded", "{told:#}");
    let directory = rig.path("tasks/ops.logged");
    assert!(directory.join("left-behind").exists(), "it is kept until the result is delivered");
    rig.deliver("logged");
    rig.wait_until_gone(&directory);
    let log = |stream| std::fs::read(rig.path(&format!("logs/ops.logged/00-talk.1.{stream}")));
    assert_eq!(log("stdout").expect("a log").len(), 100_000);
    assert_eq!(log("stderr").expect("a log"), b"oops\n");
}

#[test]
fn a_working_directory_is_kept_on_demand_and_an_orphaned_one_is_not() {
    let mut rig = Rig::new();
    let mut step = step("keep", json!({"argv": ["/usr/bin/touch", "here"]}));
    step["keep"] = json!(true);
    rig.submit("kept", json!([step]));
    rig.result("kept");
    rig.wait_until_gone(&rig.path("tasks/ops.kept"));
    std::fs::create_dir(rig.path("tasks/ops.orphan")).expect("a directory can be made");
    rig.restart();
    assert!(rig.path("tasks/ops.kept.kept/here").exists());
    assert!(!rig.path("tasks/ops.orphan").exists());
}
