//! The arithmetic of the arena, against the real sizes and the promise.

use limpet_core::limits::{ARENA_BYTES_MAX, IDS_MAX, Limits, TASKS_MAX};

#[test]
fn the_arena_at_its_ceilings_keeps_the_promise() {
    let ceilings = Limits { attempts: 64, ..Limits::default() };
    let terms = ceilings.arithmetic();
    for term in &terms {
        println!("{:9} {:5} x {:3} B  {}", term.name, term.count, term.bytes, term.reason);
    }
    let sum: usize = terms.iter().map(|term| term.count * term.bytes).sum();
    assert_eq!(sum, ceilings.arena_bytes());
    assert!(sum <= ARENA_BYTES_MAX, "{sum} bytes");
}

#[test]
fn each_limit_is_refused_outside_its_range_by_name() {
    let bad = [
        ("tasks", Limits { tasks: 0, ..Limits::default() }),
        ("tasks", Limits { tasks: TASKS_MAX + 1, ..Limits::default() }),
        ("steps", Limits { steps: 0, ..Limits::default() }),
        ("attempts", Limits { attempts: 65, ..Limits::default() }),
        ("ids", Limits { ids: IDS_MAX + 1, ..Limits::default() }),
        ("ids", Limits { ids: 1, tasks: 2, ..Limits::default() }),
        ("live_bytes", Limits { live_bytes: 1, ..Limits::default() }),
        ("live_bytes", Limits { live_bytes: 1 << 33, ..Limits::default() }),
        ("ended_bytes", Limits { ended_bytes: 1, ..Limits::default() }),
        ("reports", Limits { reports: 0, ..Limits::default() }),
        ("suspicions", Limits { suspicions: 0, ..Limits::default() }),
        ("reap_ms", Limits { reap_ms: 0, ..Limits::default() }),
        ("checkpoint_ms", Limits { checkpoint_ms: 1, ..Limits::default() }),
    ];
    for (name, limits) in bad {
        let error = limits.check().expect_err(name);
        assert!(error.starts_with(&format!("cannot use limit {name} = ")), "{error}");
    }
    assert_eq!(Limits::default().check(), Ok(()));
    let least = Limits { ended_bytes: 4096, live_bytes: 8192, ..Limits::default() };
    assert_eq!(least.check(), Ok(()), "room for two ends");
    assert!(Limits { live_bytes: 8191, ..least }.check().is_err());
}
