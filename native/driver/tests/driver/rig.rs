//! A host for the tests: submits plans, collects what it is told.

use limpet_driver::driver::Driver;
use limpet_driver::host::{Request, Told};
use limpet_driver::launch::Refusal;
use limpet_driver::memory::Rows;
use limpet_driver::settings::Settings;
use limpet_driver::{intake, names};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// No test waits longer; none is judged by how long it took.
const PATIENCE: Duration = Duration::from_secs(60);

/// One driver at a time: it takes every child of the process for its own.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Rig {
    /// What is set beside the usual.
    more: Value,
    driver: Option<Driver>,
    directory: tempfile::TempDir,
    results: HashMap<String, (u64, Value)>,
    answers: HashMap<u64, (u32, Value)>,
    tokens: u64,
    _alone: MutexGuard<'static, ()>,
}

pub fn step(name: &str, input: Value) -> Value {
    json!({
        "name": name, "tool": "exec", "finally": false, "stop": true, "guarded": false,
        "keep": false,
        "clocks": {
            "schedule_to_start_ms": null, "start_to_close_ms": 30_000, "heartbeat_ms": null,
            "grace_ms": 1_000,
        },
        "retry": {
            "maximum_attempts": 1, "initial_interval_ms": 10, "backoff_coefficient_milli": 2000,
            "maximum_interval_ms": 1000, "jitter_milli": 0, "on": "any",
        },
        "when": null, "limits": {}, "input": input,
    })
}

pub fn finally(mut step: Value) -> Value {
    step["finally"] = json!(true);
    step
}

pub fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the year 584 million")
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(json!({}))
    }

    /// Without control groups, wherever the tests run.
    pub fn without_groups() -> Rig {
        Rig::with(json!({"containment": "marker"}))
    }

    /// A driver with `more` settings.
    pub fn with(more: Value) -> Rig {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rig = Rig {
            more,
            _alone: alone,
            directory,
            driver: None,
            results: HashMap::new(),
            answers: HashMap::new(),
            tokens: 0,
        };
        rig.restart();
        rig
    }

    fn settings(&self) -> Settings {
        let root = self.directory.path();
        let mut settings = json!({
            "state_directory": root, "clock": "always", "segment_bytes": 1024 * 1024,
            "limits": {"tasks": 64, "steps": 256, "attempts": 8, "ids": 256},
            "table": {
                "device": "bench", "policy_file": "/etc/limpet/policy.toml",
                "task_root": root.join("tasks"), "loopback": true,
                "directory_bytes": 4_000_000,
                "worker": ["/bin/false"], "native": ["/bin/false"],
                "allow": [{
                    "source": "ops", "tools": ["exec"], "origin": "/etc/limpet/policy.toml:3",
                }],
                "tools": {"exec": {
                    "executor": "exec", "params": {}, "environment": {}, "secrets": {},
                    "user": null, "on_interruption": "any", "heartbeat": false,
                    "ceilings": {
                        "start_to_close_ms": null, "memory_bytes": null, "output_bytes": null,
                    },
                    "origin": "built in",
                }},
            },
        });
        for (key, value) in self.more.as_object().expect("an object") {
            settings[key] = value.clone();
        }
        serde_json::from_value(settings).expect("the settings are well formed")
    }

    pub fn stop(&mut self) {
        self.driver = None;
    }

    /// From the next start on.
    pub fn set(&mut self, more: Value) {
        self.more = more;
    }

    /// Why the driver does not open with `more` settings.
    pub fn does_not_open(&mut self, more: Value) -> String {
        self.stop();
        let usual = std::mem::replace(&mut self.more, more);
        let refusal = Driver::open(&self.settings()).err().expect("it does not open");
        self.more = usual;
        refusal
    }

    pub fn restart(&mut self) {
        self.stop();
        self.results.clear();
        std::fs::create_dir_all(self.path("tasks")).expect("a directory can be made");
        self.driver = Some(Driver::open(&self.settings()).expect("the driver opens"));
    }

    /// Gaps in the journal that the last start has found.
    pub fn gaps(&self) -> u64 {
        self.driver().opened.gaps
    }

    /// Processes of an earlier run that the last start has ended.
    pub fn leftovers(&self) -> u32 {
        self.driver().opened.leftovers
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn driver(&self) -> &Driver {
        self.driver.as_ref().expect("open")
    }

    pub fn plan(&self, id: &str, steps: Value) -> Value {
        json!({
            "plan": 1, "id": id, "source": "ops", "expires_at_ms": wall_ms() + 3_600_000,
            "schedule_to_close_ms": null, "finally_ms": 30_000, "priority": 0,
            "ceilings": {"steps": 0, "tools": []}, "steps": steps,
        })
    }

    fn hand_in(&mut self, plan: &Value) -> Result<u64, Refusal> {
        self.tokens += 1;
        let text = plan.to_string();
        let digest = [7; 32];
        let table = &self.driver().table;
        let submission = intake::submission(table, self.tokens, &digest, false, text.as_bytes())?;
        self.driver().request(Request::Submit(Box::new(submission))).expect("there is room");
        self.driver().nudge();
        Ok(self.tokens)
    }

    pub fn submit(&mut self, id: &str, steps: Value) {
        let plan = self.plan(id, steps);
        let token = self.hand_in(&plan).expect("allowed");
        let (verdict, _) = self.answer(token);
        assert_eq!(verdict, limpet_driver::verdict::ACCEPTED);
    }

    /// Hands in so many tasks before it hears of any; all are accepted.
    pub fn submit_all(&mut self, count: usize, steps: &Value) {
        let plans: Vec<_> =
            (0..count).map(|n| self.plan(&format!("t{n}"), steps.clone())).collect();
        let tokens: Vec<_> =
            plans.iter().map(|plan| self.hand_in(plan).expect("allowed")).collect();
        for token in tokens {
            let (verdict, text) = self.answer(token);
            assert_eq!(verdict, limpet_driver::verdict::ACCEPTED, "{text}");
        }
    }

    pub fn submit_again(&mut self, id: &str, steps: Value) -> Value {
        let plan = self.plan(id, steps);
        let token = self.hand_in(&plan).expect("allowed");
        let (verdict, text) = self.answer(token);
        assert_eq!(verdict, limpet_driver::verdict::ENDED);
        text
    }

    pub fn refused(&mut self, plan: &Value) -> Refusal {
        self.hand_in(plan).expect_err("refused")
    }

    pub fn cancel(&mut self, id: &str) {
        self.tokens += 1;
        let (token, source) = (self.tokens, names::source("ops"));
        let request = Request::Cancel {
            token,
            key: names::key("ops", id),
            source,
            any: false,
            expires_ms: wall_ms() + 1000,
        };
        self.driver().request(request).expect("there is room");
        self.driver().nudge();
    }

    pub fn stall(&self, time: Duration) {
        self.driver().stall_others(time);
    }

    pub fn stall_sampler(&self, time: Duration) {
        self.driver().stall_sampler(time);
    }

    /// Memory of what runs, once it was looked at.
    pub fn memory(&mut self) -> Rows {
        self.until(|rig| {
            let rows = rig.driver().memory();
            rows.age_ms.is_some().then_some(rows)
        })
    }

    fn answer(&mut self, token: u64) -> (u32, Value) {
        self.until(|rig| rig.answers.remove(&token))
    }

    /// The result of a task, which is then delivered.
    pub fn result(&mut self, id: &str) -> Value {
        let told = self.result_undelivered(id);
        self.deliver(id);
        told
    }

    pub fn result_undelivered(&mut self, id: &str) -> Value {
        let id = id.to_owned();
        self.until(move |rig| rig.results.get(&id).map(|(_, told)| told.clone()))
    }

    pub fn deliver(&mut self, id: &str) {
        let (task, _) = self.results.remove(id).expect("it was told");
        let request = Request::Delivered(names::unpack_task(task));
        self.driver().request(request).expect("there is room");
        self.driver().nudge();
    }

    fn until<T>(&mut self, mut found: impl FnMut(&mut Rig) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            self.hear();
            if let Some(value) = found(self) {
                return value;
            }
            assert!(begin.elapsed() < PATIENCE, "it never came");
            let wake = self.driver().host.wake.clone();
            let mut fds = [PollFd::new(&wake, PollFlags::IN)];
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut fds, Some(&second));
        }
    }

    fn hear(&mut self) {
        self.driver().host.wake.rest();
        while let Some(told) = self.driver().host.pop(|_| true).event {
            match told {
                Told::Answer { token, verdict, text, .. } => {
                    let text = serde_json::from_str(&text).expect("JSON");
                    self.answers.insert(token, (verdict, text));
                }
                Told::Result { task, text, head } => {
                    let told: Value = serde_json::from_str(&text[head..]).expect("JSON");
                    let id = told["id"].as_str().expect("an id").to_owned();
                    self.results.insert(id, (task, told));
                }
                _ => {}
            }
        }
        self.driver().nudge();
    }

    pub fn wait_for_file(&mut self, path: &Path) -> String {
        self.until(|_| {
            let text = std::fs::read_to_string(path).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        })
    }

    pub fn wait_until_gone(&mut self, path: &Path) {
        self.until(|_| (!path.exists()).then_some(()));
    }

    /// Wall ms at which a process was found dead.
    pub fn wait_for_death(&mut self, pid: &str) -> u64 {
        let begin = Instant::now();
        while alive(pid) {
            assert!(begin.elapsed() < PATIENCE, "it never died");
            std::thread::yield_now();
        }
        wall_ms()
    }
}
