//! The table of transitions, cell by cell, and the picture drawn from it.

use limpet_core::table::{Action, Cell, State, Trigger, cell, diagram};
use std::collections::BTreeSet;

fn actions() -> impl Iterator<Item = (State, Trigger, Action)> {
    State::ALL.into_iter().flat_map(|state| {
        Trigger::ALL.into_iter().filter_map(move |trigger| match cell(state, trigger) {
            Cell::Do(action) => Some((state, trigger, action)),
            _ => None,
        })
    })
}

/// One line per state, one letter per trigger: `.` never, `-` ignored, `x` acted on. A change of
/// the table shows here as a change of one letter, and nowhere else by accident.
#[test]
fn every_cell_is_what_was_decided() {
    let drawn: Vec<String> = State::ALL
        .iter()
        .map(|state| {
            let cells = Trigger::ALL.iter().map(|trigger| match cell(*state, *trigger) {
                Cell::Never => '.',
                Cell::Ignore => '-',
                Cell::Do(_) => 'x',
            });
            format!("{:10} {}", state.name(), cells.collect::<String>())
        })
        .collect();
    let decided = [
        //          DALLLSSESHPHCCIEDR
        "free       ..................",
        "recovering -............x-..x",
        "queued     -x........x.xx-...",
        "committing x.........x.xxx...",
        "loading    -.xxx.....x.xxx...",
        "starting   -....xx...x.xxx...",
        "running    -......x.xxxxxx...",
        "stopping   -......x.-x.xxx...",
        "killing    -......x.-x.xxx...",
        "sweeping   -.......x-x.xxx...",
        "backoff    -.........x.xx-...",
        "planning   -...........xx-x..",
        "closing    x............--...",
        "reporting  -............--.x.",
    ];
    assert_eq!(drawn, decided);
}

#[test]
fn every_state_can_be_reached_and_left() {
    let mut reached = BTreeSet::from([State::Queued, State::Recovering]);
    for _ in State::ALL {
        for (from, _, action) in actions() {
            if reached.contains(&from) {
                reached.extend(action.leads_to());
            }
        }
    }
    assert_eq!(reached, State::ALL.into_iter().collect());
    for state in State::ALL.into_iter().filter(|state| *state != State::Free) {
        let leaves = actions().any(|(from, _, action)| {
            from == state && action.leads_to().iter().any(|to| *to != state)
        });
        assert!(leaves, "{state:?} is a trap");
    }
}

/// From every state there is a way to the end that needs nothing but time: no answer of the world,
/// of a controller or of the host can hold a task for ever, except the disk and the broker, which
/// are waited for.
#[test]
fn clocks_alone_end_every_task_that_waits_for_a_process() {
    for state in [State::Running, State::Stopping, State::Killing, State::Sweeping] {
        assert!(matches!(cell(state, Trigger::PhaseOver), Cell::Do(_)), "{state:?}");
    }
    for state in State::ALL {
        let ends =
            !matches!(state, State::Free | State::Recovering | State::Closing | State::Reporting);
        assert_eq!(matches!(cell(state, Trigger::CloseOver), Cell::Do(_)), ends, "{state:?}");
        assert_eq!(
            matches!(cell(state, Trigger::Cancel), Cell::Do(_)),
            ends || state == State::Recovering
        );
    }
}

#[test]
fn nothing_starts_but_from_loading_and_nothing_loads_but_after_its_record() {
    for (from, trigger, action) in actions() {
        if action.leads_to().contains(&State::Starting) {
            let marks = action == Action::Mark && from == State::Starting;
            assert!(
                marks
                    || (from, trigger) == (State::Loading, Trigger::LoadedStart)
                    || action == Action::Mark
            );
        }
        if action.leads_to().contains(&State::Loading) {
            assert!(matches!(from, State::Queued | State::Committing));
        }
    }
}

/// ARCHITECTURE.md shows the diagram that this table draws. `UPDATE=1` rewrites it.
#[test]
fn the_diagram_in_the_documents_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md is there");
    let (begin, end) = ("```mermaid\n%% generated from native/core/src/table.rs\n", "```");
    let start = text.find(begin).expect("the marker is there") + begin.len();
    let stop = start + text[start..].find(end).expect("the block ends");
    if std::env::var_os("UPDATE").is_some() {
        let updated = format!("{}{}{}", &text[..start], diagram(), &text[stop..]);
        std::fs::write(path, updated).expect("ARCHITECTURE.md can be written");
        return;
    }
    assert_eq!(
        &text[start..stop],
        diagram(),
        "run: UPDATE=1 cargo test -p limpet-core --test table"
    );
}
