//! The timer in a made-up world: its turns and the answers of processes that do not exist. See
//! [`crate::manual`].

use crate::threads::timer::Timer;
use limpet_core::message::{AttemptRef, Exit, Input};

impl Timer {
    /// Whether messages wait to be read. Takes the next one to find out.
    pub(crate) fn has_mail(&mut self) -> bool {
        match self.parts.messages.take() {
            Some(message) => {
                self.message(message);
                true
            }
            None => self.held.is_some(),
        }
    }

    /// For a world that is made up: a process of this attempt has ended so, having said this.
    pub(crate) fn pretend_exit(&mut self, attempt: AttemptRef, exit: Exit, said: &[u8]) {
        let wall_ms = self.parts.clock.wall_ms();
        if let Some(live) = self.live_of(attempt) {
            live.pretend_exit(exit, said, wall_ms);
            let continues = live.continues();
            self.feed(Input::Exited { attempt, exit, continues });
        }
    }

    /// For a made-up world: a process of this attempt runs.
    pub(crate) fn pretend_start(&mut self, attempt: AttemptRef) {
        let wall_ms = self.parts.clock.wall_ms();
        self.gather.answered();
        if let Some(live) = self.live_of(attempt) {
            live.started_ms = wall_ms;
            self.feed(Input::Spawned(attempt));
        }
    }
}
