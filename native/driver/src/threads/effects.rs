//! What the machine asks for, performed: each effect is an order to another thread, or a signal.

use crate::host::Told;
use crate::launch::Work;
use crate::names::pack_attempt;
use crate::spawn::AttemptName;
use crate::threads::timer::Timer;
use crate::threads::{journal, spawner};
use limpet_core::message::{Attached, AttemptRef, Effect};
use limpet_core::record::{FIXED_BYTES_MAX, Record};

impl Timer {
    pub(crate) fn perform(&mut self) {
        while let Some(effect) = self.parts.machine.poll_effect() {
            self.recorder.effect(&effect);
            match effect {
                Effect::Append { seq, task, record, attached, urgent } => {
                    self.append(seq, task, &record, attached);
                    self.urgent |= urgent;
                }
                Effect::Load { attempt, task, step } => {
                    self.parts.journal.send(journal::Order::Load { attempt, task, step });
                }
                Effect::Start { attempt, task, step, number, .. } => {
                    self.start(attempt, task, step, number);
                }
                Effect::Signal { attempt, signal, due } => {
                    if let Some(live) = self.live_of(attempt) {
                        live.signal(signal);
                    }
                    let now = self.parts.clock.at();
                    if let Some(live) = self.live_of(attempt) {
                        live.late_us = due.map(|due| now.0.saturating_sub(due.0) / 1_000);
                    }
                    self.spawner_of(attempt).send(spawner::Order::Signal { attempt, signal });
                }
                Effect::Sweep(attempt) => {
                    self.spawner_of(attempt).send(spawner::Order::Sweep(attempt));
                }
                Effect::Discard(attempt) => {
                    let live =
                        self.live[attempt.slot as usize].take_if(|it| it.reference == attempt);
                    if live.is_none_or(|live| live.is_held) {
                        self.spawner_of(attempt).send(spawner::Order::Forget(attempt));
                    }
                }
                Effect::Release { task, keep_from } => {
                    self.parts.journal.send(journal::Order::Release { task, keep_from });
                }
            }
        }
    }

    fn append(&mut self, seq: u64, task: u64, record: &Record, attached: Attached) {
        let mut bytes = vec![0; FIXED_BYTES_MAX];
        let used = self.parts.machine.encode(task, record, &mut bytes);
        bytes.truncate(used);
        match attached {
            Attached::None => {}
            Attached::Plan | Attached::Extension => bytes.extend_from_slice(&self.attached),
            Attached::Attempt(attempt) => {
                if let Some(live) = self.live_of(attempt) {
                    bytes.extend_from_slice(&live.payload(record));
                }
            }
        }
        let kind = record.kind();
        self.parts.journal.send(journal::Order::Append { seq, task, kind, bytes });
    }

    fn start(&mut self, attempt: AttemptRef, task: u64, step: u8, number: u8) {
        let instance = self.parts.instance.clone();
        let wall_ms = self.parts.clock.wall_ms();
        let Some(live) = self.live_of(attempt) else { return };
        (live.step, live.number) = (step, number);
        // Here the attempt's clock starts: making its process is part of it.
        live.started_ms = wall_ms;
        match live.work.take() {
            Some(Work::Process(launch)) => {
                live.log_to(&launch.directory);
                let name = AttemptName { instance, task, step, attempt: u32::from(number) };
                let (limits, quota) = (live.limits(), live.quota(&launch.directory));
                let launch = Box::new(launch);
                let order = spawner::Order::Spawn { attempt, name, launch, limits, quota };
                live.is_held = true;
                self.spawner_of(attempt).send(order);
                self.gather.asked();
            }
            Some(work @ (Work::Publish { .. } | Work::Reboot)) => {
                let text = super::telling::host_work(&work);
                self.told.push_back(Told::Work { attempt: pack_attempt(attempt), text });
            }
            Some(Work::Sleep(_)) | None => {}
        }
    }
}
