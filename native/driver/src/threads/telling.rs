//! What the timer tells the host: events of the machine, turned into words.

use crate::history::Facts;
use crate::host::Told;
use crate::launch::Work;
use crate::names::pack_task;
use crate::plan::Report;
use crate::threads::attempt::Live;
use crate::threads::journal;
use crate::threads::timer::Timer;
use limpet_core::message::{Event, TaskRef};
use serde::Serialize;
use serde_json::Value;

impl Timer {
    pub(crate) fn tell(&mut self) {
        let host = self.parts.host.clone();
        // What is told is put into words here, which takes its time: a deadline has its own.
        let filled = host.try_fill(|| if self.is_due() { None } else { self.next_told() });
        self.retry = !filled;
        if let Ok(mut stats) = self.parts.stats.try_lock() {
            *stats = self.parts.machine.stats();
        }
        self.send();
    }

    fn next_told(&mut self) -> Option<Told> {
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        if let Some(listing) = &mut self.listing {
            if let Some(task) = listing.pop() {
                if let Some(told) = self.changed(task) {
                    return Some(told);
                }
                return self.next_told();
            }
            self.listing = None;
            return Some(Told::Listed);
        }
        loop {
            match self.parts.machine.poll_event()? {
                Event::Answer(answer) => {
                    let (verdict, text) = crate::verdict::told(&answer.verdict);
                    let task = answer.task.map_or(u64::MAX, pack_task);
                    return Some(Told::Answer { token: answer.token, task, verdict, text });
                }
                // Of a task that reports its result alone the host hears once that it lives.
                Event::Changed(task) if self.is_quiet(task) => {}
                Event::Changed(task) => {
                    if let Some(told) = self.changed(task) {
                        return Some(told);
                    }
                }
                Event::Continue { task, step } => {
                    if let Some(view) = self.parts.machine.view(task) {
                        let (reference, task) = (task, view.accepted_seq);
                        let order = journal::Order::Continue { reference, task, step };
                        self.parts.journal.send(order);
                    }
                }
                Event::Result(task) => {
                    if let Some(view) = self.parts.machine.view(task) {
                        let facts = Facts {
                            clock_uncertain: view.flags.clock_uncertain,
                            unreaped: view.flags.unreaped,
                            gap: view.flags.gap,
                        };
                        let (reference, task) = (task, view.accepted_seq);
                        let order = journal::Order::History { reference, task, facts };
                        self.parts.journal.send(order);
                    }
                }
                Event::Drained => return Some(Told::Drained),
            }
        }
    }

    fn is_quiet(&mut self, task: TaskRef) -> bool {
        let owner = &mut self.parts.owners[task.slot as usize];
        std::mem::replace(&mut owner.known, true) && owner.report == Report::Result
    }

    fn changed(&mut self, task: TaskRef) -> Option<Told> {
        let view = self.parts.machine.view(task)?;
        let owner = &self.parts.owners[task.slot as usize];
        let live = self.live.iter_mut().flatten();
        let progress = live
            .filter(|live| self.parts.machine.task_of_attempt(live.reference) == Some(task))
            .find_map(Live::take_progress)
            .and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let change = Change {
            id: &owner.id,
            source: &owner.source,
            state: view.state.name(),
            step: (view.step != u8::MAX).then_some(view.step),
            attempt: view.attempt,
            outcome: Some(view.outcome.name()).filter(|name| *name != "none"),
            sequence: self.parts.machine.next_seq() - 1,
            progress,
            report: owner.report,
        };
        let text = serde_json::to_string(&change).expect("all keys are text");
        Some(Told::Changed { task: pack_task(task), text })
    }
}

/// What the host is told of a task that lives.
#[derive(Serialize)]
struct Change<'a> {
    id: &'a str,
    source: &'a str,
    state: &'static str,
    step: Option<u8>,
    attempt: u8,
    outcome: Option<&'static str>,
    sequence: u64,
    progress: Option<Value>,
    report: Report,
}

/// What the host is to do for an attempt.
pub(super) fn host_work(work: &Work) -> String {
    match work {
        Work::Publish { topic, payload, retain } => {
            let payload = String::from_utf8_lossy(payload);
            serde_json::json!({"publish": {"topic": topic, "payload": payload, "retain": retain}})
        }
        _ => serde_json::json!({"reboot": {}}),
    }
    .to_string()
}
