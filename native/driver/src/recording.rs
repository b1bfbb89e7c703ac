//! The last inputs of the machine, and the same machine fed with them again at somebody's desk.
//!
//! Decides what is kept, when it is worth a file, and what counts as the same decision. It keeps
//! two generations: when one is full, the older is dropped and begun anew with the machine as it is
//! then, so that half of the room is history at any time. Knows nothing of plans or processes.

use limpet_core::message::{Effect, Event, Input, Outcome, StepHeader};
use limpet_core::record::Record;
use limpet_core::{Instant, Machine, Now};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Version of the file.
const VERSION: u32 = 2;
/// Inputs of one generation.
const ENTRIES_MAX: usize = 512;
/// Step headers that belong to them.
const HEADERS_MAX: usize = 512;
/// Files kept; the oldest gives way.
const FILES_MAX: usize = 4;
/// Between two files that nobody asked for: a step that fails every time must not wear flash.
const PAUSE_MS: u64 = 600_000;
/// A file is read whole.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One input.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    now: Now,
    input: Input<'static>,
    /// How many of the generation's headers are its steps.
    headers: usize,
    /// A hash over what the machine asked for.
    digest: u64,
}

/// A machine and what it was told from then on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Generation {
    machine: Machine,
    entries: Vec<Entry>,
    headers: Vec<StepHeader>,
}

impl Generation {
    fn new(machine: &Machine) -> Generation {
        Generation {
            machine: machine.clone(),
            entries: Vec::with_capacity(ENTRIES_MAX),
            headers: Vec::with_capacity(HEADERS_MAX),
        }
    }

    fn begin_anew(&mut self, machine: &Machine) {
        self.machine.clone_from(machine);
        self.entries.clear();
        self.headers.clear();
    }
}

/// The two generations.
#[derive(Debug)]
pub struct Recorder {
    older: Option<Generation>,
    newer: Generation,
    /// Why the present turn is worth a file.
    reason: Option<&'static str>,
    /// No file for `reason` before this instant.
    quiet_until: Instant,
}

impl Recorder {
    /// Begins with a machine that has handled nothing yet.
    #[must_use]
    pub fn new(machine: &Machine) -> Recorder {
        let newer = Generation::new(machine);
        Recorder { older: None, newer, reason: None, quiet_until: Instant(0) }
    }

    /// Keeps an input, before the machine handles it.
    pub fn input(&mut self, machine: &Machine, now: Now, input: &Input<'_>) {
        let steps = input.steps();
        let full = self.newer.entries.len() == ENTRIES_MAX
            || self.newer.headers.len() + steps.len() > HEADERS_MAX;
        if full {
            match &mut self.older {
                Some(older) => {
                    std::mem::swap(older, &mut self.newer);
                    self.newer.begin_anew(machine);
                }
                None => {
                    let newer = Generation::new(machine);
                    self.older = Some(std::mem::replace(&mut self.newer, newer));
                }
            }
        }
        self.newer.headers.extend_from_slice(steps);
        let headers = steps.len();
        self.newer.entries.push(Entry { now, input: input.with_steps(&[]), headers, digest: 0 });
    }

    /// Notes what the machine asks for upon the newest input.
    pub fn effect(&mut self, effect: &Effect) {
        if let Some(entry) = self.newer.entries.last_mut() {
            entry.digest = digest(entry.digest, effect);
        }
        match effect {
            Effect::Append { record: Record::Decided { outcome, .. }, .. }
                if matches!(outcome, Outcome::Dead | Outcome::Uncertain) =>
            {
                self.reason = Some(outcome.name());
            }
            _ => {}
        }
    }

    /// What is to be written now, if anything is: a task was decided `dead` or `uncertain`.
    pub fn due(&mut self, now: Instant) -> Option<Recording> {
        let reason = self.reason.take().filter(|_| now >= self.quiet_until)?;
        self.quiet_until = now.after_ms(PAUSE_MS);
        Some(self.take(reason))
    }

    /// What is kept, for whatever reason.
    #[must_use]
    pub fn take(&self, reason: &str) -> Recording {
        let generations = self.older.iter().chain([&self.newer]).cloned().collect();
        let (limpet, reason) = (env!("CARGO_PKG_VERSION").to_owned(), reason.to_owned());
        Recording { recording: VERSION, limpet, reason, generations }
    }
}

/// Both generations with what a reader must know: the content of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    recording: u32,
    limpet: String,
    reason: String,
    generations: Vec<Generation>,
}

impl Recording {
    /// Writes a file into `directory`; returns its path.
    ///
    /// # Errors
    /// What the file system says; then there is at most an unfinished `new` file.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        match fs::create_dir(directory) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        let mut files = files_of(directory)?;
        let number = files.last().map_or(1, |(number, _)| number.saturating_add(1));
        let unfinished = directory.join("new");
        let file = directory.join(format!("{number:08}-{}.json", self.reason));
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(&unfinished, &file)?;
        files.truncate((files.len() + 1).saturating_sub(FILES_MAX));
        for (_, oldest) in files {
            fs::remove_file(oldest)?;
        }
        Ok(file)
    }
}

/// The recordings in a directory by number, ascending.
fn files_of(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
        if let Some(number) = number.filter(|_| name.ends_with(".json")) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Feeds the same machine again: JSON lines behind number `after`, as many as fit, one per input,
/// then one with the sum; and whether there are more. `path` is a recording, or a directory whose
/// newest is meant.
///
/// # Errors
/// A sentence, when that is no recording which this version can replay.
pub fn replay(path: &Path, after: u64, bytes_max: usize) -> Result<(String, bool), String> {
    let recording = read(path)?;
    let (mut text, mut number, mut differ) = (String::new(), 0, 0_u64);
    let total: usize = recording.generations.iter().map(|one| one.entries.len()).sum();
    let mut add = |number: u64, line: &Value| {
        let line = format!("{line}\n");
        if number <= after {
            return true;
        }
        let fits = text.len() + line.len() <= bytes_max;
        if fits {
            text.push_str(&line);
        }
        fits
    };
    let mut ended = None;
    for generation in recording.generations {
        let mut desk = Desk { machine: generation.machine, headers: &generation.headers };
        for entry in &generation.entries {
            number += 1;
            let mut line = desk.handle(entry);
            differ += u64::from(line["same"] == false);
            ended = line.get("panics").cloned();
            line["number"] = number.into();
            if !add(number, &line) {
                return Ok((text, true));
            }
        }
    }
    let (reason, limpet) = (recording.reason, recording.limpet);
    let sum = json!({
        "number": number + 1, "inputs": total, "differ": differ, "panics": ended,
        "reason": reason, "limpet": limpet,
    });
    let fits = add(number + 1, &sum);
    Ok((text, !fits))
}

fn read(path: &Path) -> Result<Recording, String> {
    let failed = |cause: &dyn std::fmt::Display| {
        format!("cannot replay {}: {cause} (nothing is run)", path.display())
    };
    let mut file = path.to_path_buf();
    if path.is_dir() {
        let files = files_of(path).map_err(|cause| failed(&cause))?;
        file = files.last().ok_or_else(|| failed(&"there is no recording"))?.1.clone();
    }
    let bytes = fs::metadata(&file).map_err(|cause| failed(&cause))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(failed(&"it is above 64 MiB"));
    }
    let bytes = fs::read(&file).map_err(|cause| failed(&cause))?;
    let recording: Recording = serde_json::from_slice(&bytes).map_err(|cause| failed(&cause))?;
    let (own, other) = (env!("CARGO_PKG_VERSION"), &recording.limpet);
    if recording.recording != VERSION || other != own {
        return Err(failed(&format!("limpet {other} wrote it, and this is {own}")));
    }
    Ok(recording)
}

/// A machine at somebody's desk.
struct Desk<'a> {
    machine: Machine,
    headers: &'a [StepHeader],
}

impl Desk<'_> {
    /// Handles an input as it was handled then, and says what came of it.
    fn handle(&mut self, entry: &Entry) -> Value {
        let (steps, rest) = self.headers.split_at(entry.headers.min(self.headers.len()));
        self.headers = rest;
        let before = self.states();
        let input = entry.input.with_steps(steps);
        let machine = &mut self.machine;
        let outcome = catch_unwind(AssertUnwindSafe(|| machine.handle(entry.now, input)));
        let mut line = json!({
            "at_ns": entry.now.at.0, "wall_ms": entry.now.wall_ms, "input": word(&input),
        });
        if let Err(panic) = outcome {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            line["panics"] = said.or(panic.downcast_ref().copied()).unwrap_or("?").into();
            return line;
        }
        let (mut sum, mut asked) = (0, Vec::new());
        while let Some(effect) = self.machine.poll_effect() {
            sum = digest(sum, &effect);
            asked.push(word(&effect));
        }
        let mut told = Vec::new();
        while let Some(event) = self.machine.poll_event() {
            if matches!(event, Event::Answer(_)) {
                told.push(word(&event));
            }
        }
        let after = self.states();
        let slots: BTreeSet<&u16> = before.keys().chain(after.keys()).collect();
        let state = |states: &BTreeMap<u16, String>, slot| {
            states.get(slot).map_or("free", String::as_str).to_owned()
        };
        let changes: Vec<Value> = slots
            .into_iter()
            .map(|slot| (slot, state(&before, slot), state(&after, slot)))
            .filter(|(_, from, to)| from != to)
            .map(|(slot, from, to)| json!([slot, from, to]))
            .collect();
        line["asks"] = asked.into();
        line["answers"] = told.into();
        line["changes"] = changes.into();
        line["same"] = (sum == entry.digest).into();
        line
    }

    /// The state of every live task in words, by its slot.
    fn states(&self) -> BTreeMap<u16, String> {
        let mut states = BTreeMap::new();
        for task in self.machine.tasks() {
            let Some(view) = self.machine.view(task) else { continue };
            let mut state = word(&view.state).to_lowercase();
            if view.outcome != Outcome::None {
                state = format!("{state}, {}", view.outcome.name());
            }
            states.insert(task.slot, state);
        }
        states
    }
}

/// A value as the words of its declaration, for people.
fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

/// A hash over an effect and those before it, by FNV-1a with 64 bits (Fowler, Noll, Vo).
fn digest(before: u64, effect: &Effect) -> u64 {
    let mut fnv = Fnv(before ^ 0xcbf2_9ce4_8422_2325);
    effect.hash(&mut fnv);
    fnv.finish()
}

/// Takes numbers of the machine's word as 64 bits: a board and a desk come to the same sum.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }

    fn write_isize(&mut self, number: isize) {
        self.write(&(number as i64).to_le_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.write(&(number as u64).to_le_bytes());
    }
}
