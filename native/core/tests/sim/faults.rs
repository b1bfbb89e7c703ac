//! What goes wrong in a world: clocks are set, disks fail and rot, the agent ends, in order or not.

use crate::world::{MS, Stored, World};
use limpet_core::message::Input;
use limpet_core::record::Record;
use limpet_core::{Instant, Machine};
use std::collections::BTreeMap;

impl World {
    /// Sets the wall clock: by seconds or by decades, in either direction, or to what a board
    /// without a battery says.
    pub fn set_clock(&mut self) {
        const UNITS_MS: [u64; 5] = [1_000, 3_600_000, 86_400_000, 31_557_600_000, 631_152_000_000];
        let unit = UNITS_MS[usize::try_from(self.random.below(5)).expect("small")];
        let by = self.random.below(unit);
        self.wall_ms = match self.random.below(5) {
            0 => by,
            1 | 2 => self.wall_ms.saturating_sub(by),
            _ => self.wall_ms + by,
        };
        self.trusted = self.random.one_in(2);
        self.was_set = true;
        self.feed(Input::Timeout);
    }

    /// The disk takes nothing any more; what the agent has not synced is lost with its next end.
    pub fn fail_disk(&mut self) {
        self.store_failed = true;
        self.feed(Input::StoreFailed);
    }

    pub fn drain(&mut self) {
        self.draining = true;
        let until = Instant(self.at + self.random.below(2_000) * MS);
        self.feed(Input::Drain { until });
    }

    /// The agent has ended in order, and is started again by the same boot.
    pub fn restart(&mut self) {
        self.machine.stopped(self.now());
        self.perform();
        self.synced = self.disk.len();
        self.begin_again(0);
    }

    /// The agent dies; with the power, if `power`. Every process of it goes too.
    pub fn crash(&mut self, power: bool) {
        let kept = self.random.below(self.unsynced() as u64 + 1);
        self.crash_with(power, usize::try_from(kept).expect("small"));
    }

    /// The same, with so many of the records that are not synced.
    pub fn crash_with(&mut self, power: bool, kept: usize) {
        self.crashes += 1;
        self.disk.truncate(self.synced + kept);
        self.check.crashed();
        if !power {
            self.find_what_it_met();
        }
        let pause_ms = self.random.below(5_000);
        self.real_ms += pause_ms;
        self.seen_ms += pause_ms;
        self.wall_ms += pause_ms;
        if power {
            (self.at, self.boot) = (1 + self.random.below(1000) * MS, self.boot + 1);
            let before = self.trusted;
            self.trusted = !self.random.one_in(4);
            if !(before && self.trusted) || self.was_set {
                self.check.time_lost();
            }
            self.was_set = false;
        } else {
            self.at += pause_ms * MS;
        }
        self.begin_again(self.random.0);
    }

    /// What the next start finds under way, by the records alone.
    fn find_what_it_met(&mut self) {
        let mut under_way = BTreeMap::new();
        for stored in &self.disk {
            match Record::decode(stored.kind, &stored.bytes).expect("as written").0 {
                Record::Started { .. } => under_way.insert(stored.task, true),
                Record::Tried { .. } | Record::Ended { .. } | Record::Interrupted { .. } => {
                    under_way.insert(stored.task, false)
                }
                _ => None,
            };
        }
        for (task, _) in under_way.into_iter().filter(|(_, is)| *is) {
            self.check.met(self.keys[&task]);
        }
    }

    /// What survived is what the next start reads, and so as good as synced. With the right `fate`
    /// a record of it has rotted; not the newest, which would pass for an unfinished write.
    fn begin_again(&mut self, fate: u64) {
        self.queue.clear();
        self.happenings.clear();
        self.processes.clear();
        self.dead.clear();
        (self.syncing, self.draining, self.drained) = (false, false, false);
        self.store_failed = false;
        let older = (self.disk.len() as u64).saturating_sub(1);
        let rotten = (self.unkind && fate % 7 == 1 && older > 0)
            .then(|| usize::try_from(self.random.below(older)).expect("small"));
        if let Some(place) = rotten {
            let Stored { seq, task, kind, bytes } = self.disk.remove(place);
            self.gaps.push(seq);
            let (record, ..) = Record::decode(kind, &bytes).expect("written by the machine");
            self.check.lost(&record, self.keys.get(&task).copied());
        }
        self.synced = self.disk.len();
        self.announced = self.disk.last().map_or(0, |stored| stored.seq);
        self.urgent = self.announced;
        let seed = self.random.next();
        self.machine = Machine::new(self.limits, seed, self.now()).expect("as before");
        self.floor_ms = 0;
        let mut passed = 0;
        for stored in &self.disk {
            if self.gaps.iter().any(|gap| (passed..stored.seq).contains(gap)) {
                self.machine.replay_gap(stored.seq);
            }
            passed = stored.seq;
            let (_, stamp, ..) = Record::decode(stored.kind, &stored.bytes).expect("as written");
            if stamp.now.trusted {
                self.floor_ms = self.floor_ms.max(stamp.now.wall_ms);
            }
            let replayed = self.machine.replay(stored.seq, stored.task, stored.kind, &stored.bytes);
            replayed.expect("what was written can be read");
        }
        self.dead = self.machine.take_released();
        self.forget_lost_extensions();
        self.check.survived(self.disk.iter().map(|stored| stored.seq));
        self.machine.recovered(self.now());
        self.look_at_the_clock();
        self.perform();
        self.hear();
    }

    /// Steps whose addition was not on disk are not part of their plan any more.
    fn forget_lost_extensions(&mut self) {
        // The newest task of a key: an older one may have lost its acceptance.
        let mut counts = BTreeMap::<u128, (u64, usize)>::new();
        for stored in &self.disk {
            match Record::decode(stored.kind, &stored.bytes) {
                Ok((Record::Accepted(a), ..)) => {
                    counts.insert(a.key, (stored.task, a.steps as usize));
                }
                Ok((Record::Extended { steps, .. }, ..)) => {
                    let newest = counts.get_mut(&self.keys[&stored.task]);
                    if let Some((_, count)) = newest.filter(|(task, _)| *task == stored.task) {
                        *count += steps as usize;
                    }
                }
                _ => {}
            }
        }
        for (key, (_, count)) in counts {
            if let Some(plan) = self.plans.get_mut(&key) {
                plan.steps.truncate(count);
            }
        }
    }
}
