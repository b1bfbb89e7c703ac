//! The journal's thread: the only one that touches the disk. It appends, commits, reads back.
//!
//! It commits whenever the previous commit has ended and somebody waits: no timer collects records,
//! the duration of a sync does.

use crate::end::End;
use crate::history::{self, History, Remains};
use crate::host::{Outbound, Told};
use crate::names::pack_task;
use crate::prepare::{Prepared, prepare};
use crate::recording::Recording;
use crate::spool::Spool;
use crate::store::{Store, StoreError};
use crate::table::Table;
use crate::threads::offers::Offers;
use crate::threads::timer::{Inbox, Message};
use limpet_core::message::{AttemptRef, TaskRef};
use limpet_core::record::{ENDED, PLANS, Record};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// What the journal's thread is asked to do.
#[derive(Debug)]
pub enum Order {
    /// Write a record.
    Append {
        /// Its number.
        seq: u64,
        /// Its task.
        task: u64,
        /// Its kind.
        kind: u8,
        /// Fixed part and what is attached.
        bytes: Vec<u8>,
    },
    /// Somebody waits for what was written so far. Comes after everything that one turn of the
    /// machine had to write, so that all of it shares a commit.
    Commit,
    /// Prepare a step for its start.
    Load {
        /// For which attempt.
        attempt: AttemptRef,
        /// Which task.
        task: u64,
        /// Index of the step.
        step: u8,
    },
    /// Forget records of a task before a number.
    Release {
        /// Which task.
        task: u64,
        /// The first to keep.
        keep_from: u64,
    },
    /// Add to the log of an attempt.
    Spool {
        /// Name of the task's directory.
        task: String,
        /// Name of the file.
        file: String,
        /// What to add.
        bytes: Vec<u8>,
    },
    /// Tell the host how a task went.
    History {
        /// The host's name for it.
        reference: TaskRef,
        /// Its name in the journal.
        task: u64,
        /// What only the machine knows, as JSON members.
        facts: history::Facts,
    },
    /// Tell the host which steps a result asks for.
    Continue {
        /// The host's name for it.
        reference: TaskRef,
        /// Its name in the journal.
        task: u64,
        /// Index of the step that asked.
        step: u8,
    },
    /// Keep what the machine was told lately.
    Record(Box<Recording>),
    /// For tests of the other threads: do nothing for a while.
    Stall(Duration),
    /// Commit what is left and end.
    Close,
}

/// The thread's state.
pub struct Journal {
    store: Store,
    table: Arc<Table>,
    timer: Inbox,
    host: Outbound,
    spool: Spool,
    recordings: PathBuf,
    offers: Offers<(TaskRef, u64, history::Facts)>,
    /// What the tasks leave behind whose results the host has.
    remains: HashMap<u64, Remains>,
    awaited: bool,
    /// The timer has something in its inbox that it was not woken for.
    posted: bool,
    /// The host has something in its queue that it was not woken for.
    reported: bool,
}

impl Journal {
    /// Makes the state; `run` is the thread.
    #[must_use]
    pub fn new(
        store: Store,
        table: Arc<Table>,
        timer: Inbox,
        host: Outbound,
        spool: Spool,
        recordings: PathBuf,
    ) -> Journal {
        Journal {
            store,
            table,
            timer,
            host,
            spool,
            recordings,
            offers: Offers::default(),
            remains: HashMap::new(),
            awaited: false,
            posted: false,
            reported: false,
        }
    }

    /// Works until `Close` or until nobody can send any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut next = Some(first);
            while let Some(order) = next {
                if matches!(order, Order::Close) {
                    self.awaited = true;
                    return self.end_turn();
                }
                if let Err(cause) = self.perform(order) {
                    return self.fail(&cause, orders);
                }
                next = orders.try_recv().ok();
            }
            self.end_turn();
        }
    }

    /// For a caller without a thread: does what is asked now, then commits. False when there was
    /// nothing.
    pub(crate) fn turn(&mut self, orders: &Receiver<Order>) -> bool {
        let mut done = false;
        while let Ok(order) = orders.try_recv() {
            done = true;
            if let Err(cause) = self.perform(order) {
                self.timer.send(Message::StoreFailed(cause.to_string()));
            }
        }
        self.end_turn();
        done
    }

    fn perform(&mut self, order: Order) -> Result<(), StoreError> {
        match order {
            Order::Append { seq, task, kind, bytes } => {
                self.store.append(task, seq, kind, &[&bytes])?;
            }
            Order::Commit => self.awaited = true,
            Order::Load { attempt, task, step } => {
                let prepared = Box::new(self.load(task, step));
                self.tell(Message::Loaded { attempt, prepared });
            }
            Order::Release { task, keep_from } => {
                self.retire(task);
                self.store.release(task, keep_from);
                self.offers.delivered(task);
                self.offer();
            }
            Order::Spool { task, file, bytes } => self.spool.append(&task, &file, &bytes),
            Order::History { reference, task, facts } => {
                self.offers.push((reference, task, facts));
                self.offer();
            }
            Order::Continue { reference, task, step } => {
                let text = history::continuation(&self.records(task, |_| true), step);
                self.report(Told::Continue { task: pack_task(reference), step, text });
            }
            Order::Record(recording) => self.record(&recording),
            Order::Stall(duration) => std::thread::sleep(duration),
            Order::Close => {}
        }
        Ok(())
    }

    /// Tells the host how tasks went, as far as it has room for it.
    fn offer(&mut self) {
        while let Some((reference, task, facts)) = self.offers.next() {
            let told = history::tell(&self.records(task, |_| true), &facts);
            let History { text, head, remains } = told;
            self.offers.offered(task, text.len());
            self.remains.extend(remains.map(|remains| (task, remains)));
            self.report(Told::Result { task: pack_task(reference), text, head });
        }
    }

    /// Tells the timer, which is woken once for all that a turn has for it.
    fn tell(&mut self, message: Message) {
        self.timer.post(message);
        self.posted = true;
    }

    /// Tells the host, in the same way.
    fn report(&mut self, told: Told) {
        self.host.post(told);
        self.reported = true;
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.posted) {
            self.timer.nudge();
        }
        if std::mem::take(&mut self.reported) {
            self.host.wake.wake();
        }
    }

    fn record(&self, recording: &Recording) {
        let text = match recording.write(&self.recordings) {
            Ok(file) => serde_json::json!({"file": file}),
            Err(cause) => {
                let directory = self.recordings.display();
                let fault = format!("cannot write into {directory}: {cause} (nothing is kept)");
                serde_json::json!({"fault": fault})
            }
        };
        self.host.push(Told::Recorded { text: text.to_string() });
    }

    /// Wakes whom the turn has something for; then what it wrote goes to the system, and to the
    /// disk if somebody waits for that.
    fn end_turn(&mut self) {
        self.wake();
        let done = if std::mem::take(&mut self.awaited) {
            self.store.commit().map(|seq| self.timer.send(Message::Durable(seq)))
        } else {
            self.store.flush()
        };
        if let Err(cause) = done {
            self.timer.send(Message::StoreFailed(cause.to_string()));
        }
    }

    /// The disk is lost. Whoever asks for a step to be read must still be answered: the task then
    /// ends.
    fn fail(&mut self, cause: &StoreError, orders: &Receiver<Order>) {
        self.wake();
        self.timer.send(Message::StoreFailed(cause.to_string()));
        while let Ok(order) = orders.recv() {
            match order {
                Order::Load { attempt, .. } => {
                    let prepared = Box::new(Prepared::Damaged(cause.to_string()));
                    self.timer.send(Message::Loaded { attempt, prepared });
                }
                Order::Close => return,
                _ => {}
            }
        }
    }

    /// Asks for the end of a task's working directory, while its plan can still be read.
    fn retire(&mut self, task: u64) {
        let told = self.remains.remove(&task);
        let read = || history::remains(&self.records(task, |kind| PLANS.contains(&kind)));
        let Some(Remains { id, source, keep }) = told.or_else(read) else { return };
        let directory = PathBuf::from(self.table.directory(&source, &id));
        // Most of what needs no process has none.
        if directory.symlink_metadata().is_ok() {
            self.tell(Message::Retire { directory, keep });
        }
    }

    /// The live records of a task that can be read and whose kinds are `wanted`, decoded, with what
    /// was attached.
    fn records(&self, task: u64, wanted: impl Fn(u8) -> bool) -> Vec<history::Entry> {
        let mut bytes = Vec::new();
        self.store
            .sequences(task)
            .filter(|&(_, kind)| wanted(kind))
            .filter_map(|(seq, kind)| {
                self.store.read(task, seq, &mut bytes).ok()?;
                let (record, stamp, _, attached) = Record::decode(kind, &bytes).ok()?;
                Some(history::Entry { seq, record, stamp, attached: attached.to_vec() })
            })
            .collect()
    }

    fn load(&self, task: u64, step: u8) -> Prepared {
        let records = self.records(task, |kind| kind == ENDED || PLANS.contains(&kind));
        let mut plan = None;
        let (mut extensions, mut ended) = (Vec::new(), Vec::new());
        for entry in records {
            if let Some((index, end)) = entry.end() {
                ended.push((index, end.into_owned()));
            }
            match entry.record {
                Record::Accepted(_) => plan = Some(entry.attached),
                Record::Extended { .. } => extensions.push(entry.attached),
                _ => {}
            }
        }
        let Some(plan) = plan else {
            return Prepared::Damaged(format!(
                "cannot read the plan of task {task}: its record is gone (the step is refused)"
            ));
        };
        // A step whose condition did not hold has no record: the machine skips without writing.
        for index in 0..step {
            if !ended.iter().any(|(ended, _)| *ended == index) {
                let skipped = limpet_core::message::Outcome::Skipped;
                ended.push((index, End::bare(index, 0, skipped, 0).into_bytes()));
            }
        }
        prepare(&self.table, &plan, &extensions, step, &ended)
    }
}
