//! A policy table is taken only if it makes sense as a whole.

use limpet_driver::table::{TABLE_BYTES_MAX, Table};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sample::{TOOL, bytes, policy, set, table};

/// Each of these single changes makes the table unusable, in a sentence for the operator.
#[test]
fn senseless_tables_are_refused() {
    let wrong: Vec<(&str, Value)> = vec![
        ("/more", json!(1)),
        ("/device", json!("")),
        ("/task_root", json!("tasks")),
        ("/task_root", json!("/tasks/../etc")),
        ("/worker", json!(["limpet", "worker"])),
        ("/native", json!(["/usr/bin/limpet-tool", "\0"])),
        ("/worker", json!([])),
        ("/native", json!([])),
        ("/models", json!({"accept": "malformed"})),
        ("/models", json!({"trusted": "trusted"})),
        ("/models", json!({"keys": "/etc/../keys"})),
        ("/models", json!({"more": 1})),
        ("/allow/0/source", json!("a b")),
        ("/allow/0/tools", json!(["a b"])),
        ("/allow/0/more", json!(1)),
        ("/tools/a b", policy()["tools"]["sleep"].clone()),
        ("/tools/sleep/executor", json!("thread")),
        ("/tools/sleep/more", json!(1)),
        ("/tools/sleep/argv", json!(["/bin/sleep"])),
        ("/tools/sleep/program", json!("/bin/sleep")),
        ("/tools/sleep/hosts", json!(["a:1"])),
        ("/tools/sleep/on_interruption", json!("never")),
        ("/tools/sleep/params", json!({"duration": {"type": "integer"}})),
        ("/tools/fetch/program", json!("/usr/bin/fetch")),
        ("/tools/fetch/hosts", json!(["fleet.lan"])),
        ("/tools/plan/program", json!("plan.py")),
        ("/tools/plan/program", json!(null)),
        ("/tools/deb-rollback/argv", json!([])),
        ("/tools/deb-rollback/argv", json!(["rollback"])),
        ("/tools/deb-rollback/argv", json!([{"param": "file"}])),
        ("/tools/deb-rollback/argv", json!(["/bin/a", "\0"])),
        ("/tools/deb-rollback/argv", json!(["/bin/a", {"param": "file"}])),
        ("/tools/deb-rollback/argv", json!(["/bin/a", {"param": "file", "or": "x"}])),
        ("/tools/deb-rollback/argv", json!(vec!["/bin/a"; 65])),
        ("/tools/deb-install/argv", json!(["/usr/bin/dpkg"])),
        ("/tools/deb-install/params/file/type", json!("file")),
        ("/tools/deb-install/params/$x", json!({"type": "integer"})),
        ("/tools/deb-install/environment", json!({"1A": "x"})),
        ("/tools/deb-install/environment", json!({"LIMPET_FD": "3"})),
        ("/tools/deb-install/environment", json!({"A": "\0"})),
        ("/tools/deb-install/environment", json!({"TOKEN": "x"})),
        ("/tools/deb-install/secrets", json!({"TOKEN": "token"})),
        ("/tools/deb-install/secrets", json!({"A-B": "/token"})),
        ("/tools/deb-install/user", json!("-x")),
        ("/tools/deb-install/ceilings/memory_bytes", json!(0)),
        ("/tools/deb-install/ceilings/start_to_close_ms", json!(0)),
        ("/tools/deb-install/ceilings/disk_bytes", json!(1)),
    ];
    for (pointer, value) in wrong {
        let mut whole = policy();
        set(&mut whole, pointer, value.clone());
        let error = Table::parse(&bytes(&whole)).expect_err("unusable");
        assert!(error.starts_with("cannot use policy table: "), "{pointer} = {value}: {error}");
    }
}

/// Who uses models needs the gate, which is a native tool.
#[test]
fn models_need_a_gate() {
    let mut whole = policy();
    for name in ["fetch", "http"] {
        whole["tools"].as_object_mut().expect("an object").remove(name);
    }
    set(&mut whole, "/native", json!([]));
    let error = Table::parse(&bytes(&whole)).expect_err("unusable");
    assert!(error.contains("needs the table's \"native\""), "{error}");
    for name in ["chat", "embed"] {
        whole["tools"].as_object_mut().expect("an object").remove(name);
    }
    Table::parse(&bytes(&whole)).expect("nobody needs it");
}

/// A fault in a tool is told with the place of its declaration.
#[test]
fn a_fault_names_its_declaration() {
    let mut whole = policy();
    set(&mut whole, "/tools/deb-install/user", json!("-x"));
    let error = Table::parse(&bytes(&whole)).expect_err("unusable");
    assert!(error.contains("'deb-install'") && error.contains(TOOL), "{error}");
}

/// A declaration may narrow what its executor takes; the rest stays as the executor has it.
#[test]
fn a_declaration_narrows_its_executor() {
    let mut whole = policy();
    let topic = json!({"topic": {"type": "choice", "choices": ["alarm"], "required": true}});
    set(&mut whole, "/tools/publish/params", topic);
    let names: Vec<String> = table(&whole).tools["publish"].params.keys().cloned().collect();
    assert_eq!(names, ["payload", "retain", "topic"]);
}

/// Nulls stand for absent texts and numbers, as a compiler of tables writes them.
#[test]
fn nulls_are_absent() {
    let mut whole = policy();
    set(&mut whole, "/tools/sleep/program", json!(null));
    set(&mut whole, "/tools/sleep/user", json!(null));
    let none = json!({"start_to_close_ms": null, "memory_bytes": null, "output_bytes": null});
    set(&mut whole, "/tools/sleep/ceilings", none);
    assert_eq!(table(&whole), table(&policy()));
}

/// Its size is judged before it is parsed.
#[test]
fn a_table_has_a_size() {
    let mut whole = bytes(&policy());
    whole.resize(TABLE_BYTES_MAX, b' ');
    assert!(Table::parse(&whole).is_ok());
    whole.push(b' ');
    assert!(Table::parse(&whole).is_err());
}

proptest! {
    /// Arbitrary bytes, and a sound table with one byte changed, never cause a panic.
    #[test]
    fn the_parser_is_total(noise in proptest::collection::vec(any::<u8>(), 0..200),
                           place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = Table::parse(&noise);
        let mut whole = bytes(&policy());
        let place = place.index(whole.len());
        whole[place] = byte;
        let _ = Table::parse(&whole);
    }
}
