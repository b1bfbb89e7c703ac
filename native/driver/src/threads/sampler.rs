//! The sampler's thread: it keeps attempts within their memory where no controller of the kernel's
//! does, by looking at their processes, and tells everywhere which of them is the largest.
//!
//! Decides how often. An attempt that is far from its limit cannot pass it before the time that
//! the fastest program takes to fill the rest, so it is left alone for that long. What is found
//! goes into the attempt's watch before anybody is killed for it: whoever sees the leader end
//! finds the reason there, and no message has to arrive first.
//!
//! It may wait for /proc, and nobody waits for it: while it is held up, a limit is kept by the
//! backstop alone, and everything else goes on.

use crate::containment::{Births, Cheap, Containment, Footprint, Members, is_swapping, number};
use crate::memory::{Board, Excess, KEPT_PAUSE, Row, Subject, Turn};
use limpet_core::message::AttemptRef;
use rustix::process::setpriority_process;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How fast a program can fill memory, in bytes per second; one that is faster is seen later, by
/// as much of what it had left.
const FILL_RATE: u64 = 2 << 30;
/// Between two looks at one attempt, at least: what is filled meanwhile is passed by. Half of what
/// a program of 1 GB/s takes for the 8 MiB that it may pass its limit by.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Between two rounds of rows for the host.
const ROWS_PAUSE: Duration = Duration::from_secs(1);
/// A look that is due within one part of so many of its pause is made with the others: waking up
/// costs more than looking.
const TOGETHER: u32 = 4;
/// Growth of what is resident after which it is told apart what of it counts.
const GROWTH_BYTES: u64 = 1 << 20;
/// Two divisions in a row are trusted if they differ by at most one part of so many.
const STEADY_SHARE: u64 = 16;
/// Looks in a row with a sum that is not trusted, after which it is believed all the same.
const DOUBTS_MAX: u32 = 16;
/// As nice(1) counts it.
const PRIORITY: i32 = -10;
/// Looks without growth after which an attempt is still.
const STILL_LOOKS: u32 = 8;
/// Dividing shared pages takes at most one part of so many of the time of one attempt.
const DIVIDING_SHARE: u32 = 10;

/// Looks until the board is closed.
pub fn run(containment: &Containment, board: &Board) {
    // On a busy processor it must come before those it looks at. Of this thread alone, and only
    // where we may.
    let _ = setpriority_process(None, PRIORITY);
    let births = Births::new(Instant::now());
    let pace = Pace::new(Instant::now());
    let mut sampler = Sampler { containment, births, looked: HashMap::new(), pace };
    let mut until = None;
    while let Some(turn) = board.wait(until, ROWS_PAUSE) {
        until = sampler.turn(board, turn);
    }
}

struct Sampler<'a> {
    containment: &'a Containment,
    births: Births,
    looked: HashMap<AttemptRef, Looked>,
    pace: Pace,
}

/// What is kept of one attempt between looks.
struct Looked {
    subject: Arc<Subject>,
    members: Members,
    /// What its control group has now and had at most, where one counts.
    counted: Option<(File, Option<File>)>,
    due: Instant,
    pause: Duration,
    told_apart: Apart,
    /// Bytes that it has, as far as is known.
    bytes: u64,
    still: u32,
    /// What dividing shared pages came to last.
    divided: u64,
    /// Looks in a row that found too much in a sum that is not to be trusted.
    doubts: u32,
    ended: bool,
}

/// What of the resident memory counted when it was last told apart.
#[derive(Debug, Clone, Copy, Default)]
struct Apart {
    cheap: Cheap,
    bytes: u64,
    /// Counted more than once in `bytes`: pages that several processes share.
    shared: u64,
    /// Shared pages are not divided again before.
    divide_at: Option<Instant>,
}

impl Sampler<'_> {
    /// Looks at whoever is due, and says when the next one is.
    fn turn(&mut self, board: &Board, turn: Turn) -> Option<Instant> {
        let now = Instant::now();
        if let Some(subjects) = turn.subjects {
            self.adopt(subjects, now);
        }
        let rows = turn.rows_due.is_some_and(|due| due <= now);
        let due = self.looked.iter().filter(|(_, one)| rows || one.is_due(now));
        let (still, growing): (Vec<_>, Vec<_>) =
            due.map(|(&attempt, one)| (attempt, one.is_still())).partition(|&(_, still)| still);
        let began = thread_time();
        let mut swapping = false;
        if still.len() + growing.len() > 0 {
            swapping = is_swapping();
            let mut all: Vec<&mut Members> =
                self.looked.values_mut().map(|one| &mut one.members).collect();
            self.births.notice(self.containment, &mut all, now);
        }
        still.into_iter().for_each(|(attempt, _)| self.look(attempt, swapping));
        self.pace.spent(thread_time().saturating_sub(began), now);
        growing.into_iter().for_each(|(attempt, _)| self.look(attempt, swapping));
        if rows {
            board.put_rows(self.looked.values().map(Looked::row).collect(), now);
        }
        self.looked.values().filter(|one| one.is_looked_at()).map(|one| one.due).min()
    }

    fn adopt(&mut self, subjects: Vec<Arc<Subject>>, now: Instant) {
        let lives = |one: &Looked| subjects.iter().any(|other| Arc::ptr_eq(other, &one.subject));
        self.looked.retain(|_, one| lives(one));
        for subject in subjects {
            self.looked.entry(subject.attempt).or_insert_with(|| {
                let mut new = Looked::new(subject, now);
                // Who is known goes before the agent when the kernel needs memory. The others are
                // looked at in this turn.
                if !new.is_looked_at() {
                    new.members.update(&self.births);
                }
                new
            });
        }
    }

    fn look(&mut self, attempt: AttemptRef, swapping: bool) {
        let Some(one) = self.looked.get_mut(&attempt) else { return };
        one.members.update(&self.births);
        if one.subject.sampled {
            one.sample(self.containment, swapping);
        } else {
            one.count();
        }
        one.pause = one.pause() * if one.is_still() { self.pace.stretch } else { 1 };
        one.due = Instant::now() + one.pause;
    }
}

impl Looked {
    fn new(subject: Arc<Subject>, now: Instant) -> Looked {
        let members = Members::new(subject.scope.clone());
        let now_file = || members.group_file(&["memory.current", "memory.usage_in_bytes"]);
        let peak_file = || members.group_file(&["memory.peak", "memory.max_usage_in_bytes"]);
        let counted = if subject.sampled { None } else { now_file().map(|it| (it, peak_file())) };
        Looked {
            subject,
            members,
            counted,
            due: now,
            pause: Duration::ZERO,
            told_apart: Apart::default(),
            bytes: 0,
            still: 0,
            divided: 0,
            doubts: 0,
            ended: false,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_looked_at() && self.due <= now + self.pause / TOGETHER
    }

    /// Without a limit there is nothing to keep: only rows are made of it.
    fn is_looked_at(&self) -> bool {
        self.subject.limit_bytes.is_some() && !self.ended
    }

    fn is_still(&self) -> bool {
        self.still >= STILL_LOOKS
    }

    /// The kernel counts it; what is left to know is who the largest is.
    fn count(&mut self) {
        let cheap = self.members.cheap();
        self.told_apart.cheap = cheap;
        let (now, peak) = match &self.counted {
            Some((now, peak)) => (number(now), peak.as_ref().and_then(number)),
            None => (None, None),
        };
        let footprints = self.members.footprints();
        self.bytes = now.unwrap_or_else(|| footprints.iter().map(|one| one.bytes).sum());
        self.subject.watch.saw(peak.unwrap_or(0).max(self.bytes));
        if !footprints.is_empty() {
            self.subject.watch.saw_largest(footprints.into_iter().next());
        }
    }

    /// Sums what counts, as cheaply as will do, and ends whoever has too much.
    fn sample(&mut self, containment: &Containment, swapping: bool) {
        let cheap = self.members.cheap();
        let last = self.told_apart;
        let grown = cheap.resident > last.cheap.resident + GROWTH_BYTES;
        let others = cheap.processes != last.cheap.processes;
        // Whatever became resident since may be of the kind that counts. Shared pages that became
        // private are not seen in this sum: above the limit it is divided again.
        let most = last.bytes + cheap.resident.saturating_sub(last.cheap.resident);
        let limit = self.subject.limit_bytes.unwrap_or(u64::MAX);
        self.still = if grown || others { 0 } else { self.still.saturating_add(1) };
        if grown || others || most > limit || swapping {
            self.tell_apart(containment, cheap, limit);
        } else {
            self.bytes = most.saturating_sub(last.shared);
        }
        self.notice_starved(cheap);
    }

    fn tell_apart(&mut self, containment: &Containment, cheap: Cheap, limit: u64) {
        let mut footprints = self.members.footprints();
        let mut sum = total(&footprints);
        let mut apart = Apart { cheap, bytes: sum, ..self.told_apart };
        if cheap.processes != self.told_apart.cheap.processes {
            apart.shared = 0;
        }
        let now = Instant::now();
        let may_divide = apart.divide_at.is_none_or(|at| now >= at);
        let mut certain = true;
        if sum > limit && footprints.len() > 1 {
            let least = self.members.least();
            if least > limit {
                sum = least;
            } else if sum.saturating_sub(apart.shared) > limit || may_divide {
                (footprints, certain) = self.members.divided();
                let divided = total(&footprints);
                // Who maps or leaves pages while others are read makes the sum too large.
                certain &= self.divided.abs_diff(divided) <= divided / STEADY_SHARE;
                self.divided = divided;
                apart.shared = sum.saturating_sub(divided);
                apart.divide_at = Some(now + now.elapsed() * DIVIDING_SHARE);
                sum = divided;
            } else {
                sum -= apart.shared;
                certain = self.doubts == 0;
            }
        }
        (self.told_apart, self.bytes) = (apart, sum);
        self.doubts = if certain || sum <= limit { 0 } else { self.doubts + 1 };
        let watch = &self.subject.watch;
        if self.doubts == 0 {
            watch.saw(sum);
        }
        // Whoever is never steady is not spared for ever.
        let doubted = (1..DOUBTS_MAX).contains(&self.doubts);
        let exceeds = sum > limit && !doubted && !self.ended;
        let Some(largest) = footprints.first().filter(|_| exceeds) else { return };
        // Also what is believed only because it was seen so often.
        watch.saw(sum);
        watch.exceed(Excess { bytes: sum, largest: largest.clone() });
        self.members.kill(containment, &footprints);
        self.ended = true;
    }

    fn notice_starved(&self, cheap: Cheap) {
        let near = self.subject.backstop_bytes.map_or(u64::MAX, |bytes| bytes - bytes / 8);
        if cheap.data >= near && self.subject.watch.starved().is_none() {
            let footprints = self.members.footprints();
            let one = footprints.into_iter().max_by_key(|one| one.data);
            if let Some(one) = one.filter(|one| one.data >= near) {
                self.subject.watch.starve(one);
            }
        }
    }

    /// Until the next look.
    fn pause(&self) -> Duration {
        if !self.subject.sampled {
            return KEPT_PAUSE;
        }
        let left = self.subject.limit_bytes.unwrap_or(u64::MAX).saturating_sub(self.bytes);
        let pause = Duration::from_micros(left / (FILL_RATE / 1_000_000));
        pause.clamp(PAUSE_MIN, PAUSE_MAX)
    }

    fn row(&self) -> Row {
        let peak = self.subject.watch.peak_bytes().unwrap_or(0).max(self.bytes);
        Row::new(&self.subject, self.bytes, peak, self.told_apart.cheap.processes)
    }
}

fn total(footprints: &[Footprint]) -> u64 {
    footprints.iter().map(|one| one.bytes).sum()
}

/// Processor time that this thread has taken.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Keeps the looks at whoever does not grow below their share of the processor: there may be many
/// of them, and a slow processor. They are left alone for longer then.
struct Pace {
    stretch: u32,
    since: Instant,
    spent: Duration,
}

impl Pace {
    /// Over which the share is taken.
    const WINDOW: Duration = Duration::from_millis(500);
    /// Most and least of the processor, in thousandths.
    const SHARE_MILLI: (u32, u32) = (4, 1);
    const STRETCH_MAX: u32 = 8;

    fn new(now: Instant) -> Pace {
        Pace { stretch: 1, since: now, spent: Duration::ZERO }
    }

    fn spent(&mut self, time: Duration, now: Instant) {
        self.spent += time;
        let window = now.saturating_duration_since(self.since);
        if window < Self::WINDOW {
            return;
        }
        let (most, least) = Self::SHARE_MILLI;
        if self.spent * 1000 > window * most {
            self.stretch = (self.stretch * 2).min(Self::STRETCH_MAX);
        } else if self.spent * 1000 < window * least {
            self.stretch = (self.stretch / 2).max(1);
        }
        (self.since, self.spent) = (now, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costly looks become rare, cheap ones frequent again.
    #[test]
    fn the_pace_keeps_its_share() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut at = start;
        for _ in 0..9 {
            at += Pace::WINDOW;
            pace.spent(Duration::from_millis(4), at);
        }
        assert_eq!(pace.stretch, Pace::STRETCH_MAX);
        for _ in 0..9 {
            at += Pace::WINDOW;
            pace.spent(Duration::from_micros(100), at);
        }
        assert_eq!(pace.stretch, 1);
    }
}
