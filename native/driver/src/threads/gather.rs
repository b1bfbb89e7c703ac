//! Decides how long what is for the journal waits for more of it.
//!
//! While processes stand in line to be started, nothing that is written sooner starts anything
//! sooner: what the turns of that time write shares one commit, one wake of the journal and one
//! turn of the host. Where the line is short or somebody is alone, nothing waits.

use limpet_core::Instant;

/// A line is long if it has one part in so many of the attempts that there may be: what is written
/// meanwhile is on disk before all of these are started.
const LINE_SHARE: usize = 4;
/// Fewer are no line: each has a spawner of its own.
const LINE_MIN: usize = 5;
/// What waits longest, in ns: several starts on a slow board, and no time for whoever waits for an
/// answer.
const HOLD_NS: u64 = 10_000_000;
/// How long nobody looks meanwhile at what has come, in ns: each look that finds one thing only
/// costs a wake-up and two switches of threads.
const NAP_NS: u64 = 1_500_000;

/// What the line is, and since when something waits.
#[derive(Debug)]
pub struct Gather {
    /// Starts under way, and from how many on nothing hurries.
    starting: usize,
    line: usize,
    until: Option<Instant>,
}

impl Gather {
    /// For so many attempts at once.
    #[must_use]
    pub fn new(attempts: usize) -> Gather {
        Gather { starting: 0, line: (attempts / LINE_SHARE).max(LINE_MIN), until: None }
    }

    /// A process was asked for.
    pub fn asked(&mut self) {
        self.starting += 1;
    }

    /// A process that was asked for was made, or not.
    pub fn answered(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// Whether what waits goes on waiting. A turn asks once, if something waits.
    pub fn holds(&mut self, now: Instant) -> bool {
        let until = *self.until.get_or_insert(Instant(now.0.saturating_add(HOLD_NS)));
        let holds = self.is_line() && now < until;
        if !holds {
            self.until = None;
        }
        holds
    }

    /// Lets what waits go with the next turn: it is more than a few words.
    pub fn hurry(&mut self) {
        self.until = Some(Instant(0));
    }

    /// Until when nothing but a deadline is worth a look; past, where everything is.
    #[must_use]
    pub fn nap(&self, now: Instant) -> Instant {
        let rested = now.0.saturating_add(if self.is_line() { NAP_NS } else { 0 });
        Instant(rested).min(self.until())
    }

    fn is_line(&self) -> bool {
        self.starting >= self.line
    }

    /// When what waits has waited long enough.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until.unwrap_or(Instant::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing waits without a line, nor longer than it may; then the time begins anew.
    #[test]
    fn what_waits_does_so_in_a_line_and_for_a_while() {
        let mut gather = Gather::new(16);
        let at = |ms: u64| Instant(ms * 1_000_000);
        for _ in 1..5 {
            gather.asked();
            assert!(!gather.holds(at(0)), "there is no line");
        }
        gather.asked();
        assert_eq!(gather.nap(at(0)), Instant(1_500_000), "what comes is more then");
        assert!(gather.holds(at(1)) && gather.holds(at(10)));
        assert_eq!(gather.until(), at(11));
        assert_eq!((gather.nap(at(9)), gather.nap(at(10))), (Instant(10_500_000), at(11)));
        assert!(!gather.holds(at(11)), "it has waited long enough");
        assert_eq!(gather.until(), Instant::NEVER);
        assert!(gather.holds(at(12)) && gather.holds(at(21)));
        gather.answered();
        assert!(!gather.holds(at(21)), "the line is short again");
        assert_eq!(gather.nap(at(21)), at(21));
        gather.asked();
        assert!(gather.holds(at(22)));
        gather.hurry();
        assert!(gather.nap(at(23)) <= at(23));
        assert!(!gather.holds(at(23)), "it was not to wait");
        assert!(gather.holds(at(23)));
    }
}
