//! The driver without threads, processes or passing time: for tests of a host against the real
//! machine, the real journal and the real policy, on a clock that the test moves.
//!
//! What the spawner would be asked to do comes out as JSON effects; how the world answers goes in.

use crate::budget::{Budget, Cap, Caps};
use crate::clock::Clock;
use crate::containment::Tiers;
use crate::driver::Unstarted;
use crate::host::Request;
use crate::names::{pack_attempt, unpack_attempt};
use crate::settings::Settings;
use crate::threads::journal;
use crate::threads::spawner::{self, native};
use limpet_core::Instant;
use limpet_core::message::{Exit, Input};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

/// Turns after which something is wrong: one turn of the machine asks for a bounded number of
/// others.
const TURNS_MAX: usize = 10_000;
/// Memory of the made-up device.
const DEVICE_BYTES: u64 = 1 << 30;

/// How the made-up world answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Answer {
    /// The process runs.
    Spawned(u64),
    /// It could not be created; its program has certainly not run.
    SpawnFailed(u64),
    /// It has ended.
    Exited {
        attempt: u64,
        code: Option<i32>,
        signal: Option<i32>,
        #[serde(default)]
        said: String,
    },
    /// Its descendants are gone.
    Swept(u64),
}

/// A driver that moves only when told.
pub struct Manual {
    /// Its parts.
    pub(crate) parts: Unstarted,
    at: Arc<AtomicU64>,
    journal_orders: Receiver<journal::Order>,
    spawner_orders: Vec<Receiver<spawner::Order>>,
    effects: Vec<Value>,
}

impl Manual {
    /// Opens a state directory at an instant.
    ///
    /// # Errors
    /// As [`crate::driver::Driver::open`].
    pub fn open(settings: &Settings, seed: u64, at: Instant) -> Result<Manual, String> {
        let at = Arc::new(AtomicU64::new(at.0));
        let clock = Clock::by_hand(&settings.boot_id_file, settings.clock, Arc::clone(&at))?;
        let name = "manual".to_owned();
        let tiers = Tiers { containment: "manual", memory: "manual" };
        let cap = Cap { bytes: DEVICE_BYTES, group: None };
        let caps = Caps { agent: cap.clone(), steps: cap, agent_group: None };
        let budget = Budget::divide(&settings.memory, &caps, false)?;
        let (journal_orders, spawner_orders, parts) =
            Unstarted::assemble(settings, clock, name, (tiers, budget), seed)?;
        let mut manual = Manual { parts, at, journal_orders, spawner_orders, effects: Vec::new() };
        manual.parts.timer.perform();
        manual.settle();
        Ok(manual)
    }

    /// Handles a request at once.
    pub fn request(&mut self, request: Request) {
        self.parts.timer.request(request);
        self.settle();
    }

    /// Moves the clock, stopping at each deadline on the way. It never moves back.
    pub fn advance(&mut self, to: Instant) {
        loop {
            let now = self.at.load(Ordering::SeqCst);
            let next = self.parts.timer.next_deadline().0.clamp(now, to.0.max(now));
            self.at.store(next, Ordering::SeqCst);
            self.settle();
            if next >= to.0 {
                return;
            }
        }
    }

    /// Takes an answer of the world, as JSON.
    ///
    /// # Errors
    /// A sentence, when it is not one.
    pub fn inject(&mut self, text: &[u8]) -> Result<(), String> {
        let answer = serde_json::from_slice(text)
            .map_err(|cause| format!("cannot read an answer of the world: {cause} (ignored)"))?;
        let timer = &mut self.parts.timer;
        match answer {
            Answer::Spawned(attempt) => timer.pretend_start(unpack_attempt(attempt)),
            Answer::SpawnFailed(attempt) => {
                let attempt = unpack_attempt(attempt);
                timer.feed(Input::SpawnFailed { attempt, before_exec: true });
            }
            Answer::Exited { attempt, code, signal, said } => {
                let exit = signal.map_or(Exit::Code(code.unwrap_or(0)), Exit::Signal);
                timer.pretend_exit(unpack_attempt(attempt), exit, said.as_bytes());
            }
            Answer::Swept(attempt) => timer.feed(Input::Swept(unpack_attempt(attempt))),
        }
        self.settle();
        Ok(())
    }

    /// What the world was asked to do since the last call, and when the machine wants to be called
    /// again.
    pub fn take_effects(&mut self) -> String {
        let effects = std::mem::take(&mut self.effects);
        let next = self.parts.timer.next_deadline();
        let next = (next != Instant::NEVER).then_some(next.0);
        json!({"effects": effects, "next_deadline": next}).to_string()
    }

    /// Lets machine, journal and host's queue come to rest at this instant.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.parts.timer.turn();
            self.parts.timer.tell();
            let wrote = self.parts.journal.turn(&self.journal_orders);
            let asked: Vec<_> = self.spawner_orders.iter().flat_map(Receiver::try_iter).collect();
            self.effects.extend(asked.iter().filter_map(shown));
            let due = self.parts.timer.next_deadline().0 <= self.at.load(Ordering::SeqCst);
            if !wrote && asked.is_empty() && !due && !self.parts.timer.has_mail() {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }
}

fn shown(order: &spawner::Order) -> Option<Value> {
    Some(match order {
        spawner::Order::Spawn { attempt, name, launch, .. } => json!({
            "spawn": pack_attempt(*attempt), "task": name.task, "step": name.step,
            "attempt": name.attempt, "argv": launch.argv,
        }),
        spawner::Order::Signal { attempt, signal } => {
            json!({"signal": pack_attempt(*attempt), "number": native(*signal).as_raw()})
        }
        spawner::Order::Sweep(attempt) => json!({"sweep": pack_attempt(*attempt)}),
        _ => return None,
    })
}
