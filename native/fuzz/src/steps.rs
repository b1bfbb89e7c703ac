//! Compiled tasks, their extensions and the ends of their steps as JSON; 0xff parts them, which no
//! JSON holds.

use limpet_driver::launch::Work;
use limpet_driver::prepare::{self, Prepared};
use limpet_driver::table::Table;
use limpet_driver::{intake, plan::Plan};
use std::sync::LazyLock;

static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::parse(include_bytes!("table.json")).expect("the table is sound"));
/// All that the table's tools may execute.
const PROGRAMS: [&str; 5] = [
    "/usr/bin/dpkg",
    "/usr/bin/rollback",
    "/usr/bin/journalctl",
    "/usr/bin/limpet",
    "/usr/bin/limpet-tool",
];

/// A submission is refused, or its plan can be read again and has the steps that were counted.
pub fn plan(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0xff);
    let first = parts.next().unwrap_or_default();
    if let Ok(submission) = intake::submission(&TABLE, 1, &[7; 32], true, first) {
        let plan = Plan::parse(first).expect("it was accepted");
        assert_eq!(plan.steps.len(), submission.headers.len());
        assert!((1..=32).contains(&plan.steps.len()));
    }
    if let Some(extension) = parts.next() {
        let _ = intake::extension(&TABLE, first, &[], extension);
    }
}

/// Whatever a task and the results of its steps say, only declared programs start, in the task's
/// own directory, with no byte that ends a string.
pub fn prepare(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0xff);
    let first = parts.next().unwrap_or_default();
    let ends: Vec<(u8, Vec<u8>)> =
        (0..=u8::MAX).zip(parts).map(|(i, end)| (i, end.to_vec())).collect();
    let step = u8::try_from(ends.len()).unwrap_or(u8::MAX);
    let prepared = prepare::prepare(&TABLE, first, &[], step, &ends);
    if let Prepared::Start { work: Work::Process(launch), .. } = prepared {
        assert!(PROGRAMS.contains(&launch.argv[0].as_str()), "{launch:?}");
        assert!(launch.directory.starts_with("/var/lib/limpet/tasks"), "{launch:?}");
        assert!(launch.argv.iter().all(|text| !text.contains('\0')), "{launch:?}");
        assert!(launch.environment.iter().all(|(name, _)| !name.contains('=')), "{launch:?}");
    }
}
