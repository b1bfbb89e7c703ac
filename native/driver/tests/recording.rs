//! A machine is recorded and fed again: the same decisions, whatever was dropped in between; and
//! files that are not what they should be.

use limpet_core::message::{Exit, Input, StepHeader, Submit};
use limpet_core::{Instant, Limits, Machine, Now};
use limpet_driver::recording::{Recorder, replay};
use serde_json::Value;
use std::fs;
use std::path::Path;

const STEP: StepHeader = StepHeader {
    finally: false,
    stop: true,
    guarded: false,
    reboot: false,
    schedule_to_start_ms: 0,
    memory_kib: 0,
    when: limpet_core::message::When::Always,
};

/// A machine whose world answers at once, and its recorder.
struct Bench {
    machine: Machine,
    recorder: Recorder,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        let limits = Limits { tasks: 4, steps: 16, ids: 64, ..Limits::default() };
        let now = Now { at: Instant(1), wall_ms: 1_000, trusted: true, boot: 1 };
        let mut machine = Machine::new(limits, 7, now).expect("limits");
        machine.recovered(now);
        while machine.poll_effect().is_some() {}
        Bench { recorder: Recorder::new(&machine), machine, now }
    }

    fn feed(&mut self, input: Input<'_>) {
        self.now.at = Instant(self.now.at.0 + 1_000_000);
        self.now.wall_ms += 1;
        self.recorder.input(&self.machine, self.now, &input);
        self.machine.handle(self.now, input);
        while let Some(effect) = self.machine.poll_effect() {
            self.recorder.effect(&effect);
        }
        while self.machine.poll_event().is_some() {}
    }

    /// A task of two steps, cancelled as soon as the machine asks for its first record.
    fn task(&mut self, key: u128) {
        self.feed(Input::Submit(Submit {
            token: 1,
            key,
            digest: 2,
            source: 3,
            expires_ms: self.now.wall_ms + 10,
            clock_waived: false,
            schedule_to_close_ms: 0,
            finally_ms: 1_000,
            priority: 0,
            bytes: 100,
            additions: 0,
            steps: &[STEP, STEP],
        }));
        self.feed(Input::Durable(self.machine.next_seq() - 1));
        self.feed(Input::Cancel { token: 2, key, source: 3, any: false, expires_ms: 9_000 });
        for task in self.machine.tasks().collect::<Vec<_>>() {
            for _ in 0..4 {
                self.feed(Input::Durable(self.machine.next_seq() - 1));
            }
            self.feed(Input::Delivered(task));
        }
    }

    fn written(&self, directory: &Path) -> std::path::PathBuf {
        self.recorder.take("asked").write(directory).expect("written")
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let (text, more) = replay(path, 0, 1 << 24).expect("a recording");
    assert!(!more);
    text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

/// However long it has run, what is kept is bounded, ends with the newest input, and leads to the
/// same decisions.
#[test]
fn the_same_inputs_lead_to_the_same_decisions() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new();
    for tasks in [1, 40, 500] {
        for key in 0..tasks {
            bench.task(key);
        }
        let lines = lines(&bench.written(directory.path()));
        let (sum, inputs) = lines.split_last().expect("a sum");
        assert_eq!((&sum["differ"], &sum["panics"]), (&0.into(), &Value::Null), "{sum}");
        assert_eq!(inputs.last().expect("inputs")["at_ns"], bench.now.at.0);
        assert!(inputs.len() <= 1024 && inputs.len() as u64 <= bench.machine.stats().inputs);
        assert!(tasks < 500 || inputs.len() >= 512, "half of the room is history");
        assert!(inputs.iter().any(|line| line["changes"] != Value::Array(Vec::new())));
    }
}

/// A decision that differs is pointed at, and a machine that panicked does so again.
#[test]
fn what_differs_and_what_panics_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new();
    bench.task(1);
    let file = bench.written(directory.path());
    let text = fs::read_to_string(&file).expect("text");
    let mut document: Value = serde_json::from_str(&text).expect("a document");
    let third = &mut document["generations"][0]["entries"][2];
    third["digest"] = (third["digest"].as_u64().expect("a digest") ^ 1).into();
    fs::write(&file, document.to_string()).expect("written");
    let told = lines(&file);
    let differs: Vec<_> = told.iter().filter(|line| line["same"] == false).collect();
    assert_eq!((differs.len(), &differs[0]["number"]), (1, &3.into()));
    assert_eq!(told.last().expect("a sum")["differ"], 1);

    // Time that runs back is a bug of the caller, and a panic.
    bench.now.at = Instant(0);
    let input = Input::Exited {
        attempt: limpet_core::message::AttemptRef { slot: 0, generation: 1 },
        exit: Exit::Code(0),
        continues: false,
    };
    bench.recorder.input(&bench.machine, bench.now, &input);
    let told = lines(&bench.written(directory.path()));
    let sum = told.last().expect("a sum");
    assert!(sum["panics"].as_str().expect("a panic").contains("time must not run back"), "{sum}");
}

/// The newest of a directory is meant; the oldest gives way; a piece at a time is the whole.
#[test]
fn files_are_few_and_read_in_pieces() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new();
    for key in 0..6 {
        bench.task(key);
        bench.written(directory.path());
    }
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4);
    assert_eq!(names[3], "00000006-asked.json");
    let whole = lines(&directory.path().join(&names[3]));
    let (mut pieces, mut after) = (Vec::new(), 0);
    loop {
        let (text, _) = replay(directory.path(), after, 2_000).expect("a piece");
        if text.is_empty() {
            break;
        }
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line");
            after = line["number"].as_u64().expect("a number");
            pieces.push(line);
        }
    }
    assert_eq!(pieces, whole);
}

/// What is no recording of this version is refused in one sentence.
#[test]
fn what_cannot_be_replayed_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("00000001-asked.json");
    let refused = |what: &str| {
        let refused = replay(&file, 0, 1 << 20).expect_err("a refusal");
        assert!(refused.starts_with("cannot replay ") && refused.contains(what), "{refused}");
    };
    refused("No such file");
    for bytes in [&b""[..], b"{}", b"\xff", b"[1]", &[b'['; 100_000]] {
        fs::write(&file, bytes).expect("written");
        refused(" (nothing is run)");
    }
    fs::remove_file(&file).expect("removed");
    assert!(replay(directory.path(), 0, 1000).is_err_and(|text| text.contains("no recording")));
    let written = Bench::new().written(directory.path());
    let text = fs::read_to_string(&written).expect("text");
    fs::write(&file, text.replace("\"limpet\":\"", "\"limpet\":\"9")).expect("written");
    refused("wrote it, and this is");
}
