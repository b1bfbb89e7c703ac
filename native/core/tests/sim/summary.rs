//! What fixed seeds come to, in a committed file: whatever a change of the machine moves shows in
//! its review. `UPDATE=1` writes the file anew.

use crate::world::{Options, World};
use crate::{run, small};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const SEEDS: u64 = 60;

/// Counts of many worlds.
#[derive(Default)]
pub struct Sums {
    worlds: u64,
    inputs: u64,
    pub crashes: u64,
    results: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<&'static str, u64>,
    trace: u64,
}

impl Sums {
    pub fn add(&mut self, world: &World) {
        self.worlds += 1;
        self.inputs += world.inputs;
        self.crashes += world.crashes;
        self.results += world.check.results;
        self.trace = self.trace.rotate_left(1) ^ world.trace;
        for (into, from) in [
            (&mut self.outcomes, &world.check.outcomes),
            (&mut self.refusals, &world.check.refusals),
        ] {
            for (name, count) in from {
                *into.entry(*name).or_default() += count;
            }
        }
    }

    /// One line for whoever runs many worlds.
    pub fn line(&self) -> String {
        let Sums { worlds, inputs, crashes, results, .. } = self;
        format!("worlds={worlds} inputs={inputs} crashes={crashes} results={results}")
    }
}

fn told() -> String {
    let options =
        |crash_one_in, unkind| Options { tasks: 20, crash_one_in, unkind, limits: small() };
    let mut text = String::new();
    for (name, options) in [
        ("calm", options(0, false)),
        ("crashes", options(60, false)),
        ("everything", options(100, true)),
    ] {
        let mut sums = Sums::default();
        (0..SEEDS).for_each(|seed| sums.add(&run(seed, options).1));
        writeln!(text, "{name}: {}", sums.line()).expect("a string");
        writeln!(text, "  outcomes {:?}", sums.outcomes).expect("a string");
        writeln!(text, "  refusals {:?}", sums.refusals).expect("a string");
        writeln!(text, "  trace {:016x}", sums.trace).expect("a string");
    }
    text
}

#[test]
fn fixed_seeds_come_to_what_they_came_to() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/summary.txt");
    let told = told();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &told).expect("written");
    }
    let committed = std::fs::read_to_string(&file).expect("a committed file");
    assert!(
        told == committed,
        "the machine does otherwise than before; if that is meant, review what \
         `UPDATE=1 cargo test -p limpet-core --test sim` writes\nnow:\n{told}before:\n{committed}"
    );
}
