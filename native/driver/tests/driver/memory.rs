//! What a result tells of memory, with the kernel's controllers and without them.

use crate::rig::{Rig, step};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: u64 = 64 << 20;

fn python(code: &str) -> Value {
    let mut step = step("hog", json!({"argv": ["/usr/bin/python3", "-c", code]}));
    step["limits"] = json!({"memory_bytes": LIMIT});
    step
}

fn run(rig: &mut Rig, step: Value) -> Value {
    rig.submit("hog", json!([step]));
    let told = rig.result("hog")["steps"][0].clone();
    let missing = if told["memory"] == "sampled" { json!(["tmpfs"]) } else { json!([]) };
    assert_eq!((&told["limit_bytes"], &told["not_enforced"]), (&json!(LIMIT), &missing));
    told
}

fn assert_exceeded(told: &Value) -> &str {
    assert_eq!(told["outcome"], "out_of_memory", "{told:#}");
    assert_eq!(told["reason"], "memory_exceeded", "{told:#}");
    let detail = told["detail"].as_str().expect("a sentence");
    assert!(detail.starts_with("cannot stay within 67108864 bytes: "), "{detail}");
    detail
}

/// Whatever keeps the limit, the result says so, and names the process where it was a single one.
#[test]
fn a_step_that_passes_its_memory_is_told_so() {
    let mut rig = Rig::new();
    let told = run(&mut rig, python("x = bytearray(b'x') * (400 << 20)"));
    let detail = assert_exceeded(&told);
    assert!(detail.contains("python3 (pid "), "{detail}");
    if told["memory"] != "sampled" {
        assert!(told["peak_bytes"].is_null() || told["peak_bytes"].as_u64() <= Some(LIMIT));
    }
}

/// Without a controller the sampler ends it, and names who had the most.
#[test]
fn a_step_that_is_sampled_is_told_apart_too() {
    let mut rig = Rig::without_groups();
    let code = "import os; os.fork() or bytearray(b'x') * (400 << 20); os.wait()";
    let told = run(&mut rig, python(code));
    let detail = assert_exceeded(&told);
    assert_eq!((&told["memory"], &told["containment"]), (&json!("sampled"), &json!("marker")));
    let peak = told["peak_bytes"].as_u64().expect("it was seen");
    assert!(peak > LIMIT, "{peak}");
    let all = format!(" of the {peak} bytes of its processes (killed)");
    assert!(detail.contains(": python3 (pid ") && detail.ends_with(&all), "{detail}");
}

/// Nobody looks while it takes what it can: an allocation is refused to it at the backstop.
#[test]
fn a_runaway_that_nobody_looks_at_is_bounded() {
    let mut rig = Rig::without_groups();
    let code = "import time\nprint('here', flush=True)\n\
                while not __import__('os').path.exists('go'): time.sleep(.01)\n\
                kept = []\nwhile True: kept.append(bytearray(b'x') * (1 << 20))";
    let mut held = python(&format!("open('up', 'w').write('x\\n')\n{code}"));
    held["clocks"]["start_to_close_ms"] = json!(120_000);
    rig.submit("held", json!([held]));
    let directory = rig.path("tasks").join("ops.held");
    rig.wait_for_file(&directory.join("up"));
    rig.stall_sampler(Duration::from_secs(600));
    std::fs::write(directory.join("go"), "").expect("written");
    let told = rig.result("held")["steps"][0].clone();
    let detail = assert_exceeded(&told);
    let backstop = 4 * LIMIT + (512 << 20);
    assert!(detail.ends_with(&format!("of at most {backstop} bytes (it failed then)")), "{detail}");
    assert!(told["stderr"].to_string().contains("MemoryError"), "{told:#}");
    let peak = told["peak_bytes"].as_u64().expect("the kernel knows it");
    assert!((backstop / 8 * 7..=backstop + LIMIT).contains(&peak), "{peak}");
}

/// A program that reserves all that it may without touching it fails, and is told why.
#[test]
fn a_reserve_that_is_refused_is_told_so() {
    let mut rig = Rig::without_groups();
    let code = "import mmap, time\nkept = []\n\
                while True: kept.append(mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE)); time.sleep(.1)";
    let told = run(&mut rig, python(code));
    let detail = assert_exceeded(&told);
    assert!(detail.contains("python3 (pid ") && detail.contains(" had reserved "), "{detail}");
    assert!(told["peak_bytes"].as_u64() < Some(LIMIT), "{told:#}");
}

/// One allocation that is refused leaves nothing to be seen but what the program says last.
#[test]
fn a_program_that_says_it_ran_out_is_believed() {
    let mut rig = Rig::without_groups();
    let told = run(&mut rig, python("kept = bytearray(1 << 40)"));
    let detail = assert_exceeded(&told);
    assert!(detail.ends_with("it failed, and had said \"MemoryError\""), "{detail}");
    assert_eq!(told["exit_code"], json!(null));
}

/// A failure that has nothing to do with memory stays one.
#[test]
fn a_small_failure_is_not_taken_for_a_lack_of_memory() {
    let mut rig = Rig::without_groups();
    let told = run(&mut rig, python("kept = bytearray(b'x') * (20 << 20); raise SystemExit(3)"));
    assert_eq!((&told["outcome"], &told["exit_code"]), (&json!("failed"), &json!(3)));
    assert!(told["reason"].is_null(), "{told:#}");
}

/// The host finds every attempt that runs, with what it has and may have.
#[test]
fn the_memory_of_what_runs_is_told() {
    for new in [Rig::new, Rig::without_groups] {
        let mut rig = new();
        let code = "kept = bytearray(b'x') * (30 << 20); open('up', 'w').write('x\\n')\n\
                    import time; time.sleep(600)";
        rig.submit("big", json!([python(code)]));
        rig.wait_for_file(&rig.path("tasks").join("ops.big/up"));
        let rows = rig.memory().attempts;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].directory.as_str(), rows[0].step, rows[0].number), ("ops.big", 0, 1));
        assert_eq!(rows[0].name, "hog");
        assert_eq!((rows[0].limit_bytes, rows[0].processes), (Some(LIMIT), 1));
        assert!((30 << 20..LIMIT).contains(&rows[0].bytes), "{rows:?}");
        rig.cancel("big");
        rig.result("big");
    }
}
