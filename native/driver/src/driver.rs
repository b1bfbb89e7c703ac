//! Opening and closing: reads the journal into a machine, starts the threads, ends them again.

use crate::budget::Budget;
use crate::clock::Clock;
use crate::containment::{Containment, Tiers, become_subreaper};
use crate::host::{Outbound, QUEUE_MAX, Request};
use crate::memory::{Board, Rows};
use crate::names;
use crate::plan::Report;
use crate::settings::{Containing, Settings};
use crate::spawn;
use crate::spool::Spool;
use crate::store::{Options, Recovered, Store};
use crate::table::{Table, directory_name};
use crate::threads::timer::{INBOX_MAX, Inbox, Message, Owner, Parts, Timer};
use crate::threads::{journal, sampler, spawner};
use crate::workplaces::{Workplaces, clear_directories};
use limpet_core::Machine;
use limpet_core::machine::Stats;
use limpet_core::record::Record;
use limpet_rings::inbox::{Inbox as Ring, Patient};
use rustix::rand::{GetRandomFlags, getrandom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Stack of each thread: no recursion deeper than a bounded JSON document.
const STACK_BYTES: usize = 512 * 1024;
/// Messages on their way to the journal or a spawner before the timer keeps them itself.
const RING_MAX: usize = 256;
/// Threads that make processes: while some wait for a program to be read and to run, another has
/// its turn. So many that a processor which a process leaves finds one that is ready to go on; the
/// kernel takes none from the other processor for it that has just run there.
const SPAWNERS: usize = 8;
/// Exit code of an agent that met its own mistake: `EX_SOFTWARE` of sysexits(3), as in Python.
const EXIT_PANICKED: i32 = 70;

/// What opening found, for whoever wants to know.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Opened {
    /// There was no journal before.
    pub created: bool,
    /// Records read.
    pub records: u64,
    /// Bytes of an unfinished write.
    pub torn_bytes: u64,
    /// Gaps in the sequence of records.
    pub gaps: u64,
    /// Where damaged segments are kept.
    pub quarantined: Vec<String>,
    /// Live tasks found.
    pub tasks: usize,
    /// Processes of an earlier run that were still alive, and were killed.
    pub leftovers: u32,
    /// What contains attempts and keeps them within their limits.
    #[serde(flatten)]
    pub tiers: Tiers,
    /// Whether orphaned descendants become children of the agent.
    pub adopts_orphans: bool,
    /// Why control groups of version 2 are writable and yet keep no limits, if so.
    pub obstacle: Option<String>,
    /// How memory divides.
    pub budget: Budget,
    /// Whether the timer's thread comes before every ordinary one.
    pub realtime: bool,
    /// Bytes of the machine's arena.
    pub arena_bytes: usize,
    /// Its terms: what, how many, bytes of one, why that many.
    pub arithmetic: Vec<(&'static str, usize, usize, &'static str)>,
    /// The newest wall time that was ever vouched for, in ms: no certificate is judged by less.
    pub known_wall_ms: u64,
}

/// A running driver.
pub struct Driver {
    /// Its policy.
    pub table: Arc<Table>,
    /// Events for the host.
    pub host: Outbound,
    /// What opening found.
    pub opened: Opened,
    timer: Inbox,
    asking: Ring<Request>,
    stats: Arc<Mutex<Stats>>,
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
}

impl Driver {
    /// Reads the journal, ends what an earlier run left behind, starts the threads.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what happens next.
    pub fn open(settings: &Settings) -> Result<Driver, String> {
        spawn::reserve(SPAWNERS).map_err(|cause| {
            format!("cannot keep descriptors for children: {cause} (the agent does not start)")
        })?;
        let clock = Clock::new(&settings.boot_id_file, settings.clock)?;
        let instance = instance(&settings.state_directory)?;
        let mut containment = match settings.containment {
            Containing::Auto => Containment::probe(&instance),
            Containing::Marker => Containment::marker_only(&instance),
        };
        let tiers = containment.tiers();
        settings.require.check(&tiers)?;
        let sampled = containment.samples_memory();
        let budget = Budget::divide(&settings.memory, &containment.caps(), sampled)?;
        containment.heed(&budget);
        let containment = Arc::new(containment);
        // Where it is refused, as by an emulator, orphans are found by their group or marker alone.
        let adopts = become_subreaper().is_ok();
        let (journal_orders, spawner_orders, mut unstarted) =
            Unstarted::assemble(settings, clock, instance, (tiers, budget), random())?;
        unstarted.opened.adopts_orphans = adopts;
        unstarted.opened.obstacle = containment.obstacle().map(str::to_owned);
        // Whatever an earlier run left behind ends before any task of it is judged.
        let swept = containment.sweep_leftovers();
        unstarted.opened.leftovers = swept.killed;
        if swept.remaining > 0 {
            return Err(format!(
                "cannot end {} processes of an earlier run: they do not die (no task is replayed)",
                swept.remaining
            ));
        }
        clear_directories(Path::new(&unstarted.table.task_root), &unstarted.directories);
        let Unstarted { table, host, opened, inbox, asking, stats, timer, journal, .. } = unstarted;
        let recordings = recordings(settings);
        let board = Arc::new(Board::default());
        let (same, looked_at) = (Arc::clone(&containment), Arc::clone(&board));
        let (realtime, (tell, told)) = (settings.realtime, std::sync::mpsc::channel());
        let mut threads = vec![thread("limpet-sampler", move || sampler::run(&same, &looked_at))?];
        let places = Arc::new(Workplaces::new(PathBuf::from(&table.task_root)));
        for orders in spawner_orders {
            let (containment, places) = (Arc::clone(&containment), Arc::clone(&places));
            let (timer, board) = (inbox.clone(), Arc::clone(&board));
            threads.push(thread("limpet-spawner", move || {
                spawner::run(&containment, &places, &timer, &board, &orders);
            })?);
        }
        threads.push(thread("limpet-journal", move || journal.run(&journal_orders))?);
        threads.push(thread("limpet-timer", move || {
            let _ = tell.send(timer.raise(realtime));
            timer.run(&recordings);
        })?);
        let timer = inbox;
        let driver = Driver { table, host, opened, timer, asking, stats, board, threads };
        told.recv().map_err(|cause| failed("start the timer", &cause))??;
        Ok(driver)
    }

    /// Posts a request for the timer; returns it when there is no room just now.
    ///
    /// # Errors
    /// The request.
    pub fn request(&self, request: Request) -> Result<(), Request> {
        self.asking.try_post(request)
    }

    /// Wakes the timer: there are requests for it, or the host's queue has room again. The timer
    /// comes before the host, so each time costs the host two switches: once for all requests.
    pub fn nudge(&self) {
        self.timer.nudge();
    }

    /// For tests of the promise that nothing slow moves a deadline: the threads of the journal, the
    /// spawner and the sampler do nothing for a while.
    pub fn stall_others(&self, time: Duration) {
        self.timer.send(Message::Stall(time));
        self.stall_sampler(time);
    }

    /// For tests of the backstop: the sampler does nothing for a while.
    pub fn stall_sampler(&self, time: Duration) {
        self.board.stall(time);
    }

    /// Memory of every attempt that runs a process.
    #[must_use]
    pub fn memory(&self) -> Rows {
        self.board.rows()
    }

    /// Counters of the machine, a moment old.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.timer.send(Message::Close);
        // Timer first: the others end when it has told them.
        while let Some(thread) = self.threads.pop() {
            let _ = thread.join();
        }
    }
}

/// All the parts of a driver before its threads start, or without them.
pub(crate) struct Unstarted {
    pub table: Arc<Table>,
    pub host: Outbound,
    pub opened: Opened,
    pub inbox: Inbox,
    pub asking: Ring<Request>,
    pub stats: Arc<Mutex<Stats>>,
    pub timer: Timer,
    pub journal: journal::Journal,
    /// Names of the live tasks' working directories.
    pub directories: Vec<String>,
}

type Orders = (Receiver<journal::Order>, Vec<Receiver<spawner::Order>>, Unstarted);

impl Unstarted {
    /// Reads the journal into a machine and puts the parts together. `seed` is of this opening
    /// alone: it draws jitter, and marks the segments that are written from now on.
    pub fn assemble(
        settings: &Settings,
        clock: Clock,
        instance: String,
        (tiers, budget): (Tiers, Budget),
        seed: u64,
    ) -> Result<Orders, String> {
        let mut table = Table::parse(settings.table.to_string().as_bytes())?;
        table.pool_bytes = budget.pool_bytes;
        table.step_bytes = Some(budget.step_bytes);
        let table = Arc::new(table);
        let limits = settings.limits.limits(settings.segment_bytes, budget.pool_bytes);
        let mut machine = Machine::new(limits, seed, clock.now())?;
        let arena_bytes = limits.arena_bytes();
        let terms = limits.arithmetic().into_iter();
        let arithmetic = terms.map(|t| (t.name, t.count, t.bytes, t.reason)).collect();
        let realtime = settings.realtime;
        let mut opened =
            Opened { arena_bytes, arithmetic, tiers, budget, realtime, ..Opened::default() };
        let mut owners = vec![Owner::default(); limits.tasks as usize];
        let directory = settings.state_directory.join("journal");
        let options = Options { segment_bytes: settings.segment_bytes, instance: seed };
        let store = replay(&directory, &options, &mut machine, &mut owners, &mut opened)?;
        machine.recovered(clock.now());
        opened.tasks = machine.tasks().count();
        opened.known_wall_ms = machine.known_wall_ms();
        let descriptor = |cause| failed("make a descriptor", &cause);
        let owned = |task: limpet_core::message::TaskRef| {
            let Owner { id, source, .. } = &owners[task.slot as usize];
            directory_name(source, id)
        };
        let directories = machine.tasks().map(owned).collect();
        let host = Outbound::new(QUEUE_MAX).map_err(descriptor)?;
        let (inbox, messages) = Inbox::new(INBOX_MAX).map_err(descriptor)?;
        let (asking, requests) = inbox.beside(INBOX_MAX);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (to_journal, journal_orders) = Patient::new(RING_MAX);
        let (spawners, spawner_orders) = (0..SPAWNERS).map(|_| Patient::new(RING_MAX)).unzip();
        let parts = Parts {
            machine,
            owners,
            clock,
            messages,
            requests,
            host: host.clone(),
            journal: to_journal,
            spawners,
            instance,
            tiers,
            stats: Arc::clone(&stats),
        };
        let timer = Timer::new(parts, limits.attempts).map_err(descriptor)?;
        let spool = Spool::new(&settings.state_directory.join("logs"));
        let journal = journal::Journal::new(
            store,
            Arc::clone(&table),
            inbox.clone(),
            host.clone(),
            spool,
            recordings(settings),
        );
        let unstarted =
            Unstarted { table, host, opened, inbox, asking, stats, timer, journal, directories };
        Ok((journal_orders, spawner_orders, unstarted))
    }
}

/// Where the machine's last inputs are kept.
fn recordings(settings: &Settings) -> PathBuf {
    settings.state_directory.join("recordings")
}

fn replay(
    directory: &Path,
    options: &Options,
    machine: &mut Machine,
    owners: &mut [Owner],
    opened: &mut Opened,
) -> Result<Store, String> {
    let mut trouble = None;
    let mut visit = |recovered: Recovered<'_>| match recovered {
        Recovered::Record { task, seq, kind, payload } => {
            if trouble.is_some() {
                return;
            }
            if let Err(cause) = machine.replay(seq, task, kind, payload) {
                trouble = Some(format!(
                    "cannot replay record {seq}: {cause:?} (the agent does not start)"
                ));
            } else if let Some(owner) = owner_of(kind, payload) {
                if let Some(task) = machine.task_accepted_as(seq) {
                    owners[task.slot as usize] = owner;
                }
            }
        }
        Recovered::Gap { next_seq, .. } => {
            opened.gaps += 1;
            machine.replay_gap(next_seq);
        }
    };
    let (mut store, report) =
        Store::open(directory, options, &mut visit).map_err(|cause| cause.to_string())?;
    for (task, keep_from) in machine.take_released() {
        store.release(task, keep_from);
    }
    opened.created = report.created;
    opened.records = report.records;
    opened.torn_bytes = report.torn_bytes;
    opened.quarantined = report.quarantined.iter().map(|path| path.display().to_string()).collect();
    trouble.map_or(Ok(store), Err)
}

#[derive(serde::Deserialize)]
struct PlanOwner {
    id: String,
    source: String,
    #[serde(default)]
    report: Report,
}

fn owner_of(kind: u8, payload: &[u8]) -> Option<Owner> {
    let (record, _, _, attached) = Record::decode(kind, payload).ok()?;
    if !matches!(record, Record::Accepted(_)) {
        return None;
    }
    let PlanOwner { id, source, report } = serde_json::from_slice(attached).ok()?;
    Some(Owner { id, source, report, known: false })
}

/// The stable id of a state directory: random, made once.
fn instance(directory: &Path) -> Result<String, String> {
    let file = directory.join("instance");
    let plain = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    if plain(known.trim()) {
        return Ok(known.trim().to_owned());
    }
    let id = format!("{:016x}", random());
    std::fs::write(&file, &id).map_err(|cause| {
        format!("cannot write {}: {cause} (the agent does not start)", file.display())
    })?;
    Ok(id)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        // Only a kernel without random numbers comes here.
        _ => u64::from(std::process::id()) ^ names::source("limpet"),
    }
}

/// Starts a thread without which no promise holds: if it panics, the agent ends at once, even while
/// Python hangs, and its supervisor starts it anew from the journal.
fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    let fatal = move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            exit(EXIT_PANICKED);
        }
    };
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(fatal)
        .map_err(|cause| failed("start a thread", &cause))
}

fn failed(what: &str, cause: &dyn std::fmt::Display) -> String {
    format!("cannot {what}: {cause} (the agent does not start)")
}

#[cfg(test)]
mod tests {
    use super::{EXIT_PANICKED, thread};
    use std::process::Command;

    /// The program of the test below, in a process that it may end.
    #[test]
    fn panics_when_asked() {
        if std::env::var_os("LIMPET_TEST_PANIC").is_some() {
            let panics = thread("limpet-test", || panic!("for the test")).expect("a thread");
            let _ = panics.join();
            unreachable!("the process has ended");
        }
    }

    #[test]
    fn a_thread_that_panics_ends_the_agent() {
        let own = std::env::current_exe().expect("this program");
        let ended = Command::new(own)
            .args(["driver::tests::panics_when_asked", "--exact"])
            .env("LIMPET_TEST_PANIC", "1")
            .output()
            .expect("this program again");
        assert_eq!(ended.status.code(), Some(EXIT_PANICKED));
    }
}
