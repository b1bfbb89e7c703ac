//! The machine by scripts: send this at that instant, expect exactly these effects and events, and
//! nothing more. The notation is explained in `script`.

mod abuse;
mod admission;
mod cancel;
mod clocks;
mod damage;
mod drain;
mod intake;
mod planning;
mod recovery;
mod replay;
mod reports;
mod retry;
mod script;
mod steps;
