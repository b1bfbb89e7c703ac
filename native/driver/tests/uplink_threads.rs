//! What an uplink leaves behind: nothing. Alone in its binary, because it counts the process's.

mod uplink_harness;

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use limpet_driver::uplink::Stage;
use uplink_harness::*;

/// Threads of this process that belong to an uplink.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.flatten().flat_map(|task| fs::read_to_string(task.path().join("comm")));
    names.filter(|name| ["uplink\n", "uplink-lookup\n"].contains(&name.as_str())).count()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A joined thread stays listed for a moment after it has ended.
fn eventually(count: impl Fn() -> usize, expected: usize) {
    let patience = Instant::now() + PATIENCE;
    while count() != expected {
        assert!(Instant::now() < patience, "{} instead of {expected}", count());
        thread::yield_now();
    }
}

/// Connections that fail, end, are replaced or hang in any stage leave no thread and no
/// descriptor, and dropping the uplink waits for none of them.
#[test]
fn nothing_is_left_behind() {
    let (_silent, silent) = silent_listener();
    let (listener, address) = listener();
    let gate = Arc::new(Mutex::new(()));
    let hanging = gate.lock().unwrap();
    let before = descriptors();
    for round in 0..3 {
        let gate = gate.clone();
        let host = Host::with_resolver(Arc::new(move |_: &str, _| {
            drop(gate.lock());
            Ok(vec![address])
        }));
        // The lookups of the hosts before this one still hang, two for each.
        eventually(threads, 2 * round + 1);
        host.failure(target("127.0.0.1", closed_address().port()));
        for _ in 0..10 {
            let (_, mut end) = host.up(target("127.0.0.1", address.port()));
            let mut stream = accept(&listener);
            let broker = thread::spawn(move || welcome(&mut stream));
            greet(&mut end);
            broker.join().unwrap();
        }
        for _ in 0..4 {
            let mut target = target("broker.lan", 1883);
            target.timeouts.resolve = Duration::from_millis(20);
            assert_eq!(host.failure(target).0, "resolve_timeout");
        }
        eventually(threads, 2 * round + 3);
        let epoch = host.uplink.connect(target("127.0.0.1", silent.port()));
        host.reach(epoch, Stage::Connecting);
        drop(host);
    }
    drop(hanging);
    eventually(threads, 0);
    eventually(descriptors, before);
}
