//! THE table: what each state of a task does on each trigger. Nothing that changes a state lives
//! elsewhere than in the actions named here.
//!
//! # Rules of this file
//!
//! 1. Every pair of state and trigger has a cell. `Never` is a claim ("this cannot arrive here"),
//!    counted when it is wrong and otherwise without effect; `Ignore` is legitimate and late.
//! 2. An action names the states it may lead to; the machine checks that it did.
//! 3. This file does not know how an action does its work, only where it may lead.

/// Where a task is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum State {
    /// The slot is free.
    Free,
    /// Read back from the journal; not yet judged.
    Recovering,
    /// A step is runnable and waits for its turn.
    Queued,
    /// A turn was given; a record that must come first is on its way to the disk.
    Committing,
    /// The step and what it refers to are being read.
    Loading,
    /// The process is being created.
    Starting,
    /// The attempt runs.
    Running,
    /// It was told to end and has its grace.
    Stopping,
    /// It was killed and has not been seen to die.
    Killing,
    /// It has ended; its descendants are being removed.
    Sweeping,
    /// It failed and will be tried again after a delay.
    Backoff,
    /// Its result asks for more steps, which the host prepares.
    Planning,
    /// All is over; the last record is on its way to the disk.
    Closing,
    /// The result waits to be delivered.
    Reporting,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Trigger {
    /// The record it waits for is on disk.
    Durable,
    /// It is its turn.
    Admitted,
    /// The step was read and may start.
    LoadedStart,
    /// The step was read and its condition does not hold.
    LoadedSkip,
    /// The step was read and is not allowed.
    LoadedRefused,
    /// Its process runs.
    Spawned,
    /// Its process could not be created.
    SpawnFailed,
    /// Its process, or the host's work for it, has ended.
    Exited,
    /// Its descendants are gone.
    Swept,
    /// It reported that it lives.
    Heartbeat,
    /// The clock of its state ran out.
    PhaseOver,
    /// It was silent for too long.
    HeartbeatOver,
    /// The clock of the whole ran out.
    CloseOver,
    /// Somebody asked for its end.
    Cancel,
    /// The agent stops and has waited long enough.
    Interrupt,
    /// The host has prepared the steps that a result asked for.
    Extended,
    /// The result reached the broker.
    Delivered,
    /// It is its turn to be judged after a restart.
    Recovered,
}

/// What is done in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Claim the attempt, record the start.
    Admit,
    /// Ask for the step to be read.
    Load,
    /// Start what was read.
    Launch,
    /// Go on without the step.
    Skip,
    /// End the step as refused.
    Refuse,
    /// Start its clocks; or stop it, if it was to end meanwhile.
    Run,
    /// End the attempt that never ran.
    FailStart,
    /// Remove its descendants; or settle at once, if it had no process.
    Sweep,
    /// Postpone the heartbeat's deadline.
    Beat,
    /// Begin the stop ladder.
    Stop,
    /// Second rung: SIGKILL.
    Kill,
    /// Leave behind what cannot be killed.
    GiveUp,
    /// Decide what the attempt's end means.
    Settle,
    /// Remember to end; whoever answers next acts on it.
    Mark,
    /// Give an attempt up that has not started.
    Abandon,
    /// Put a task back whose attempt has not started, because the agent stops.
    Requeue,
    /// The wait for the start was too long.
    MissStart,
    /// The delay before the next attempt is over.
    Retry,
    /// Fix the outcome from outside: cancelled or timed out.
    EndTask,
    /// Add the steps, or fail if there are none.
    Extend,
    /// Offer the result.
    Offer,
    /// Free the slot; remember the id.
    Forget,
    /// Judge what the journal says about the task.
    Judge,
}

/// One cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Cannot happen.
    Never,
    /// May happen and changes nothing.
    Ignore,
    /// Is acted on.
    Do(Action),
}

impl State {
    /// Every state, in order.
    pub const ALL: [State; 14] = [
        State::Free,
        State::Recovering,
        State::Queued,
        State::Committing,
        State::Loading,
        State::Starting,
        State::Running,
        State::Stopping,
        State::Killing,
        State::Sweeping,
        State::Backoff,
        State::Planning,
        State::Closing,
        State::Reporting,
    ];

    /// Its name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Free => "free",
            State::Recovering => "recovering",
            State::Queued => "queued",
            State::Committing => "committing",
            State::Loading => "loading",
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::Killing => "killing",
            State::Sweeping => "sweeping",
            State::Backoff => "backoff",
            State::Planning => "planning",
            State::Closing => "closing",
            State::Reporting => "reporting",
        }
    }

    /// Whether an attempt slot belongs to a task in this state.
    #[must_use]
    pub const fn has_attempt(self) -> bool {
        matches!(
            self,
            State::Committing
                | State::Loading
                | State::Starting
                | State::Running
                | State::Stopping
                | State::Killing
                | State::Sweeping
        )
    }
}

impl Trigger {
    /// Every trigger, in order.
    pub const ALL: [Trigger; 18] = [
        Trigger::Durable,
        Trigger::Admitted,
        Trigger::LoadedStart,
        Trigger::LoadedSkip,
        Trigger::LoadedRefused,
        Trigger::Spawned,
        Trigger::SpawnFailed,
        Trigger::Exited,
        Trigger::Swept,
        Trigger::Heartbeat,
        Trigger::PhaseOver,
        Trigger::HeartbeatOver,
        Trigger::CloseOver,
        Trigger::Cancel,
        Trigger::Interrupt,
        Trigger::Extended,
        Trigger::Delivered,
        Trigger::Recovered,
    ];
}

impl Action {
    /// The states this action may lead to from a given one.
    #[must_use]
    pub const fn leads_to(self) -> &'static [State] {
        use State::*;
        match self {
            Action::Admit => &[Committing, Loading],
            Action::Load => &[Loading],
            Action::Launch => &[Starting, Running],
            Action::Skip
            | Action::Refuse
            | Action::Abandon
            | Action::EndTask
            | Action::MissStart => &[Queued, Backoff, Planning, Closing],
            Action::Run => &[Running, Stopping],
            Action::FailStart | Action::Settle | Action::GiveUp => {
                &[Queued, Backoff, Planning, Closing]
            }
            Action::Sweep => &[Sweeping, Queued, Backoff, Planning, Closing],
            Action::Beat => &[Running],
            Action::Stop => &[Stopping, Queued, Backoff, Planning, Closing],
            Action::Kill => &[Killing],
            Action::Mark => &[Recovering, Starting, Stopping, Killing, Sweeping],
            Action::Requeue | Action::Retry => &[Queued],
            Action::Extend => &[Queued, Closing],
            Action::Offer => &[Reporting],
            Action::Forget => &[Free],
            Action::Judge => &[Queued, Planning, Closing, Reporting],
        }
    }
}

/// The cell for a state and a trigger.
#[must_use]
pub const fn cell(state: State, trigger: Trigger) -> Cell {
    use Cell::{Do, Ignore, Never};
    use State as S;
    use Trigger as T;
    match (state, trigger) {
        (S::Free, _) => Never,

        (S::Recovering, T::Recovered) => Do(Action::Judge),
        (S::Recovering, T::Cancel) => Do(Action::Mark),
        (S::Recovering, T::Durable | T::Interrupt) => Ignore,

        (S::Queued, T::Admitted) => Do(Action::Admit),
        (S::Queued, T::PhaseOver) => Do(Action::MissStart),
        (S::Queued, T::CloseOver | T::Cancel) => Do(Action::EndTask),
        (S::Queued, T::Durable | T::Interrupt) => Ignore,

        (S::Committing, T::Durable) => Do(Action::Load),
        (S::Committing, T::PhaseOver) => Do(Action::MissStart),
        (S::Committing, T::CloseOver | T::Cancel) => Do(Action::Abandon),
        (S::Committing, T::Interrupt) => Do(Action::Requeue),

        (S::Loading, T::LoadedStart) => Do(Action::Launch),
        (S::Loading, T::LoadedSkip) => Do(Action::Skip),
        (S::Loading, T::LoadedRefused) => Do(Action::Refuse),
        (S::Loading, T::PhaseOver) => Do(Action::MissStart),
        (S::Loading, T::CloseOver | T::Cancel) => Do(Action::Abandon),
        (S::Loading, T::Interrupt) => Do(Action::Requeue),
        (S::Loading, T::Durable) => Ignore,

        (S::Starting, T::Spawned) => Do(Action::Run),
        (S::Starting, T::SpawnFailed) => Do(Action::FailStart),
        (S::Starting, T::PhaseOver | T::CloseOver | T::Cancel | T::Interrupt) => Do(Action::Mark),
        (S::Starting, T::Durable) => Ignore,

        (S::Running, T::Exited) => Do(Action::Sweep),
        (S::Running, T::Heartbeat) => Do(Action::Beat),
        (S::Running, T::PhaseOver | T::HeartbeatOver) => Do(Action::Stop),
        (S::Running, T::CloseOver | T::Cancel | T::Interrupt) => Do(Action::Stop),
        (S::Running, T::Durable) => Ignore,

        (S::Stopping, T::Exited) => Do(Action::Sweep),
        (S::Stopping, T::PhaseOver) => Do(Action::Kill),
        (S::Stopping, T::CloseOver | T::Cancel | T::Interrupt) => Do(Action::Mark),
        (S::Stopping, T::Heartbeat | T::Durable) => Ignore,

        (S::Killing, T::Exited) => Do(Action::Sweep),
        (S::Killing, T::PhaseOver) => Do(Action::GiveUp),
        (S::Killing, T::CloseOver | T::Cancel | T::Interrupt) => Do(Action::Mark),
        (S::Killing, T::Heartbeat | T::Durable) => Ignore,

        (S::Sweeping, T::Swept) => Do(Action::Settle),
        (S::Sweeping, T::PhaseOver) => Do(Action::GiveUp),
        (S::Sweeping, T::CloseOver | T::Cancel | T::Interrupt) => Do(Action::Mark),
        (S::Sweeping, T::Heartbeat | T::Durable) => Ignore,

        (S::Backoff, T::PhaseOver) => Do(Action::Retry),
        (S::Planning, T::Extended) => Do(Action::Extend),
        (S::Backoff | S::Planning, T::CloseOver | T::Cancel) => Do(Action::EndTask),
        (S::Backoff | S::Planning, T::Interrupt | T::Durable) => Ignore,

        (S::Closing, T::Durable) => Do(Action::Offer),
        (S::Closing, T::Cancel | T::Interrupt) => Ignore,

        (S::Reporting, T::Delivered) => Do(Action::Forget),
        (S::Reporting, T::Cancel | T::Interrupt | T::Durable) => Ignore,

        _ => Never,
    }
}

/// The table as a Mermaid state diagram: every move it allows, with its triggers.
#[must_use]
pub fn diagram() -> String {
    use core::fmt::Write;
    let mut out = String::from(
        "stateDiagram-v2\n    [*] --> Queued: submit\n    [*] --> Recovering: restart\n",
    );
    for from in State::ALL {
        for to in State::ALL {
            let leads =
                |t: &&Trigger| matches!(cell(from, **t), Cell::Do(a) if a.leads_to().contains(&to));
            let names: Vec<_> =
                Trigger::ALL.iter().filter(leads).map(|t| format!("{t:?}")).collect();
            if from != to && !names.is_empty() {
                let to = if to == State::Free { "[*]".to_owned() } else { format!("{to:?}") };
                let _ = writeln!(out, "    {from:?} --> {to}: {}", names.join(", "));
            }
        }
    }
    out
}
