//! What the timer's thread waits for: descriptors, and an instant of the machine's clock.
//!
//! The instant is a timerfd's and not the time limit of the wait, which the kernel rounds up to
//! whole milliseconds, lets slip by its timer slack, and does not count while the device sleeps.

use limpet_core::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Events taken from the kernel at one turn.
const EVENTS_MAX: usize = 64;
/// The alarm's name among the descriptors.
const ALARM: u64 = u64::MAX;
const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The descriptors, each with the token it was added by, and the alarm.
#[derive(Debug)]
pub struct Vigil {
    poll: Arc<OwnedFd>,
    alarm: OwnedFd,
    set: Instant,
    /// Tokens of what was readable at the end of the last wait.
    ready: Vec<u64>,
}

/// A descriptor that is waited for until it is dropped.
///
/// To close it is not enough: a process that is being made has a copy of it until its program runs,
/// and so long the kernel would tell of it over and over.
#[derive(Debug)]
pub struct Watched {
    fd: OwnedFd,
    poll: Arc<OwnedFd>,
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.poll, &self.fd);
    }
}

impl Vigil {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Vigil> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let alarm = timerfd_create(TimerfdClockId::Boottime, flags)?;
        // Told once and not while it stands, so that nobody has to read it.
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, &alarm, epoll::EventData::new_u64(ALARM), once)?;
        let ready = Vec::with_capacity(EVENTS_MAX);
        Ok(Vigil { poll: Arc::new(poll), alarm, set: Instant::NEVER, ready })
    }

    /// Waits for a descriptor to be readable, too, until it is dropped. `token` is below
    /// `u64::MAX`.
    pub fn watch(&self, fd: OwnedFd, token: u64) -> Watched {
        // Only a lack of kernel memory can refuse this; the clocks then end the attempt.
        let _ = self.add(&fd, token);
        Watched { fd, poll: Arc::clone(&self.poll) }
    }

    /// The same of one that is there as long as this is.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.poll, fd, data, epoll::EventFlags::IN)?)
    }

    /// Waits until some descriptor is readable or `until` has come; `now` is this instant.
    pub fn wait(&mut self, until: Instant, now: Instant) {
        let timeout = (until <= now).then_some(NONE);
        if timeout.is_none() {
            self.alarm_at(until);
        }
        self.ready.clear();
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        // An interrupted wait is a short one; everything is looked at again anyway.
        let (events, _) =
            epoll::wait(&self.poll, &mut events, timeout.as_ref()).unwrap_or_default();
        let tokens = events.iter().map(|event| event.data.u64());
        self.ready.extend(tokens.filter(|&token| token != ALARM));
    }

    /// Waits until `until` has come, whatever is readable.
    pub fn sleep(&mut self, until: Instant) {
        self.alarm_at(until);
        // An interrupted sleep is a short one.
        let _ = poll(&mut [PollFd::new(&self.alarm, PollFlags::IN)], None);
    }

    fn alarm_at(&mut self, until: Instant) {
        if until != self.set {
            self.set = until;
            // The alarm is ours, and any instant will do: nothing of this can be refused.
            let _ = timerfd_settime(&self.alarm, TimerfdTimerFlags::ABSTIME, &at(until));
        }
    }

    /// The token in `place` of what was readable at the end of the last wait.
    pub fn ready(&self, place: usize) -> Option<u64> {
        self.ready.get(place).copied()
    }
}

/// As the kernel spells it; zero, which is no instant of a running system, means never.
fn at(until: Instant) -> Itimerspec {
    let it_value = if until == Instant::NEVER {
        NONE
    } else {
        let seconds = i64::try_from(until.0 / 1_000_000_000).unwrap_or(i64::MAX);
        Timespec { tv_sec: seconds, tv_nsec: (until.0 % 1_000_000_000) as _ }
    };
    Itimerspec { it_interval: NONE, it_value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Trust};
    use limpet_rings::wake::Wake;
    use std::path::Path;

    /// What was dropped is told of no more, though somebody has a copy.
    #[test]
    fn a_copy_elsewhere_does_not_keep_a_descriptor_watched() {
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let clock = Clock::new(boot, Trust::Always).expect("a boot id");
        let mut vigil = Vigil::new().expect("descriptors");
        let (end, other) = rustix::pipe::pipe().expect("a pipe");
        drop(other);
        let copy = end.try_clone().expect("a copy");
        let watched = vigil.watch(end, 7);
        vigil.wait(Instant::NEVER, clock.at());
        assert_eq!(vigil.ready(0), Some(7));
        drop(watched);
        vigil.wait(Instant(1), clock.at());
        assert_eq!(vigil.ready(0), None);
        drop(copy);
    }

    /// The alarm is never early, goes off for each instant anew, and for what is past at once; what
    /// else is readable is told by its token.
    #[test]
    fn an_instant_is_kept_between_milliseconds() {
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let clock = Clock::new(boot, Trust::Always).expect("a boot id");
        let mut vigil = Vigil::new().expect("descriptors");
        let wake = Wake::new().expect("a descriptor");
        vigil.add(&wake, 7).expect("room");
        let mut early = 0;
        for _ in 0..50 {
            let due = Instant(clock.at().0 + 300_000);
            vigil.wait(due, clock.at());
            early += u32::from(clock.at() < due);
            assert_eq!(vigil.ready(0), None);
        }
        assert_eq!(early, 0);
        vigil.wait(Instant(1), clock.at());
        assert_eq!(vigil.ready(0), None);
        wake.wake();
        let due = Instant(clock.at().0 + 300_000);
        vigil.sleep(due);
        assert!(clock.at() >= due, "nothing but the alarm ends it");
        vigil.wait(Instant::NEVER, clock.at());
        assert_eq!((vigil.ready(0), vigil.ready(1)), (Some(7), None));
    }
}
