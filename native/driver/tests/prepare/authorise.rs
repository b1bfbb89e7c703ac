//! Nothing runs that the policy does not allow, and what runs is what the policy says.

use std::path::PathBuf;
use std::time::Duration;

use limpet_driver::launch::{Refusal, Work};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::sample::{TOOL, ended, launched, plan, policy, run, set, step, table, task, update};

/// A result chooses no program, no script and no name of a variable, however it is smuggled in.
#[test]
fn references_stay_out_of_what_is_run() {
    let found = json!({"$": [{"step": 0, "path": ["result", "x"]}]});
    let joined = json!({"$": ["/bin/", {"step": 0, "path": ["result", "x"]}]});
    let cases = [
        ("exec", json!({"argv": found}), "reference_in_command"),
        ("exec", json!({"argv": [found, "a"]}), "reference_in_command"),
        ("exec", json!({"argv": [joined]}), "reference_in_command"),
        ("exec", json!({"argv": {"a": found}}), "reference_in_command"),
        ("exec", json!({"argv": [[found]]}), "reference_in_command"),
        ("exec", json!({"argv": ["/a"], "environment": found}), "reference_in_environment"),
        ("shell", json!({"script": joined}), "reference_in_script"),
        ("shell", json!({"script": [found]}), "reference_in_script"),
    ];
    for (name, input, code) in cases {
        let steps = [step("get", "sleep", json!({"duration_ms": 1})), step("s", name, input)];
        let (table, plan) = (table(&policy()), plan(&task(&steps)));
        let submitted = table.admit(&plan).expect_err("it is refused");
        assert_eq!(submitted.code, code);
        assert!(submitted.detail.contains(TOOL));
        let whole = json!({"argv": ["/bin/sh"], "script": "id"});
        let dispatched = table.authorise(&plan, 1, whole.as_object().expect("an object").clone());
        assert_eq!(dispatched.map_err(|refusal| refusal.code), Err(code));
    }
}

/// At submit, a value with references is checked for presence, the others in full.
#[test]
fn references_are_checked_by_presence() {
    let submit = |tool: &str, input: Value| -> Result<(), Refusal> {
        let get = step("get", "sleep", json!({"duration_ms": 1}));
        table(&policy()).admit(&plan(&task(&[get, step("s", tool, input)])))
    };
    let found = json!({"$": [{"step": 0, "path": ["result", "x"]}]});
    assert_eq!(submit("deb-install", json!({"file": found})), Ok(()));
    assert_eq!(submit("shell", json!({"script": "echo $1", "arguments": [found]})), Ok(()));
    let wrong = [
        (submit("deb-install", json!({"other": found})), "parameter_unknown"),
        (submit("journal-tail", json!({"lines": found})), "parameter_missing"),
        (submit("journal-tail", json!({"lines": found, "unit": ";"})), "parameter_invalid"),
    ];
    for (found, code) in wrong {
        assert_eq!(found.map_err(|refusal| refusal.code), Err(code));
    }
}

/// The declaration gives argv, environment, directory, user and secrets; a task gives values only.
#[test]
fn a_declared_process_is_built_from_its_declaration() {
    let launch = launched(&policy(), step("s", "deb-install", json!({"file": "/var/lib/a/../b"})));
    assert_eq!(launch.argv, ["/usr/bin/dpkg", "-i", "/var/lib/b"]);
    let wanted = [
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("HOME", "/var/lib/limpet/tasks/ops.app-1"),
        ("LANG", "C"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ];
    assert_eq!(launch.environment, wanted.map(|(name, value)| (name.into(), value.into())));
    assert_eq!(launch.directory, PathBuf::from("/var/lib/limpet/tasks/ops.app-1"));
    assert_eq!(launch.user.as_deref(), Some("installer"));
    assert_eq!(launch.secrets, [("TOKEN".into(), PathBuf::from("/etc/limpet/secrets/token"))]);
    assert_eq!(launch.stdin, None);

    let own = launched(&policy(), step("s", "deb-install", json!({"file": "app.deb"})));
    assert_eq!(own.argv[2], "/var/lib/limpet/tasks/ops.app-1/app.deb");
}

/// An optional parameter without value leaves no element; with one, it is one element as text.
#[test]
fn an_absent_parameter_leaves_no_element() {
    let argv = |input: Value| launched(&policy(), step("s", "journal-tail", input)).argv;
    assert_eq!(argv(json!({"unit": "app"})), ["/usr/bin/journalctl", "-u", "app"]);
    let full = argv(json!({"unit": "app", "lines": -5}));
    assert_eq!(full, ["/usr/bin/journalctl", "-u", "app", "-5"]);
    let mut whole = policy();
    set(&mut whole, "/tools/journal-tail/params/lines/default", json!(9));
    assert_eq!(launched(&whole, step("s", "journal-tail", json!({"unit": "app"}))).argv[3], "9");
    let after = json!(["/usr/bin/journalctl", "--", {"param": "unit"}, {"param": "lines"}]);
    set(&mut whole, "/tools/journal-tail/argv", after);
    assert_eq!(launched(&whole, step("s", "journal-tail", json!({"unit": "-x"}))).argv[2], "-x");
}

/// Native and Python tools get their input as JSON on stdin, after the table's own prefix.
#[test]
fn tools_of_ours_read_their_input() {
    let json_of = |bytes: Option<Vec<u8>>| -> Value {
        serde_json::from_slice(&bytes.expect("it has stdin")).expect("it is JSON")
    };
    let input = json!({"url": "https://fleet.lan/a", "to": "./a"});
    let fetch = launched(&policy(), step("s", "fetch", input));
    assert_eq!(fetch.argv, ["/usr/bin/limpet-tool", "fetch"]);
    let wanted = json!({
        "hosts": ["fleet.lan:443"],
        "beneath": {"to": "/var/lib/limpet/tasks/ops.app-1"},
        "input": {"to": "/var/lib/limpet/tasks/ops.app-1/a", "url": "https://fleet.lan/a"},
    });
    assert_eq!(json_of(fetch.stdin), wanted);
    let python = launched(&policy(), step("s", "plan", json!({"goal": [1]})));
    assert_eq!(python.argv, ["/usr/bin/limpet", "worker", "/etc/limpet/tools/plan.py"]);
    assert_eq!(json_of(python.stdin), json!({"goal": [1]}));
}

/// A program that uses models stands behind a gate that knows what the policy admits; a path is
/// judged as any other.
#[test]
fn a_gate_stands_before_who_uses_models() {
    let gate = ["/usr/bin/limpet-tool", "gate"];
    let chat = launched(&policy(), step("s", "chat", json!({"model": "/srv/m.gguf"})));
    let program = ["/usr/bin/llama-cli", "-m", "/srv/m.gguf"];
    assert_eq!(chat.argv, [&gate[..], &["--model", "/srv/m.gguf", "--"], &program].concat());
    let mut policy = policy();
    set(
        &mut policy,
        "/models",
        json!({"accept": "suspect", "trusted": "/etc/t", "keys": "/etc/k"}),
    );
    let input = json!({"model": "/srv/m.gguf", "draft": "d.gguf"});
    let chat = launched(&policy, step("s", "chat", input));
    let options = ["--accept-suspect", "--trusted", "/etc/t", "--keys", "/etc/k"];
    let draft = "/var/lib/limpet/tasks/ops.app-1/d.gguf";
    let models = ["--model", draft, "--model", "/srv/m.gguf", "--"];
    assert_eq!(chat.argv, [&gate[..], &options, &models, &program, &[draft]].concat());
    let embed = launched(&policy, step("s", "embed", json!({"model": "/srv/m.gguf"})));
    let worker = ["/usr/bin/limpet", "worker", "/etc/limpet/tools/embed.py"];
    let model = ["--model", "/srv/m.gguf", "--"];
    assert_eq!(embed.argv, [&gate[..], &options, &model, &worker].concat());
    assert_eq!(embed.stdin.as_deref(), Some(&br#"{"model":"/srv/m.gguf"}"#[..]));
    let refused = run(&policy, step("s", "chat", json!({"model": "/etc/passwd"})));
    assert_eq!(refused.expect_err("outside").code, "parameter_invalid");
}

/// `exec` and `shell` take what the task says, where policy names them.
#[test]
fn raw_tools_take_the_tasks_words() {
    let input = json!({"argv": ["/bin/echo", "a b", 5, true], "stdin": "in",
                       "environment": {"A": "1", "PATH": "/bin"}});
    let exec = launched(&policy(), step("s", "exec", input));
    assert_eq!(exec.argv, ["/bin/echo", "a b", "5", "true"]);
    assert_eq!(exec.stdin.as_deref(), Some(&b"in"[..]));
    assert!(exec.environment.contains(&("A".into(), "1".into())));
    assert!(exec.environment.contains(&("PATH".into(), "/bin".into())));
    assert_eq!(exec.environment.len(), 4);

    let bare = launched(&policy(), step("s", "shell", json!({"script": "echo $HOME"})));
    assert_eq!(bare.argv, ["/bin/sh", "-eu", "-c", "echo $HOME"]);
    let input = json!({"script": "echo $1", "arguments": ["; reboot", 2]});
    let shell = launched(&policy(), step("s", "shell", input));
    assert_eq!(shell.argv, ["/bin/sh", "-eu", "-c", "echo $1", "sh", "; reboot", "2"]);
}

/// What needs no process is said in its own terms.
#[test]
fn host_work_is_built() {
    let sleep = run(&policy(), step("s", "sleep", json!({"duration_ms": 1_500})));
    assert_eq!(sleep, Ok(Work::Sleep(Duration::from_millis(1_500))));
    assert_eq!(run(&policy(), step("s", "reboot", json!({}))), Ok(Work::Reboot));
    let publish = |input: Value| run(&policy(), step("s", "publish", input));
    let message = |topic: &str, payload: &str, retain| {
        let (topic, payload) = (topic.into(), payload.as_bytes().into());
        Ok(Work::Publish { topic, payload, retain })
    };
    let text = json!({"topic": "a/b/c/d", "payload": "text", "retain": true});
    assert_eq!(publish(text), message("a/b/c/d", "text", true));
    let object = json!({"topic": "a", "payload": {"b": [1, null]}});
    assert_eq!(publish(object), message("a", "{\"b\":[1,null]}", false));
}

/// Two tasks never share a directory, whatever dots their names hold.
#[test]
fn every_task_has_its_own_directory() {
    let directory = |source: &str, id: &str| table(&policy()).directory(source, id);
    assert_eq!(directory("ops", "app.1"), "/var/lib/limpet/tasks/ops.app.1");
    assert_ne!(directory("a.b", "c"), directory("a", "b.c"));
    assert_eq!(directory("..", ".."), "/var/lib/limpet/tasks/++...");
}

/// The design's example is admitted whole, and its second step gets the path of the first.
#[test]
fn the_example_is_admitted() {
    let (table, plan) = (table(&policy()), plan(&update()));
    assert_eq!(table.admit(&plan), Ok(()));
    let file = "/var/lib/limpet/tasks/ops.app-2.4.1-kitchen/app.deb";
    let first = ended(0, json!({"result": {"path": file}}));
    let inputs = limpet_driver::expand::expand(&plan, 1, &[first], "kitchen").expect("expands");
    match table.authorise(&plan, 1, inputs) {
        Ok(Work::Process(launch)) => assert_eq!(launch.argv[2], file),
        other => panic!("not a process: {other:?}"),
    }
}

/// A value in which the result of the first step stands alone, joined, or inside.
fn value() -> impl Strategy<Value = Value> {
    let found = || json!({"$": [{"step": 0, "path": ["result", "x"]}]});
    let joined = json!({"$": ["/bin/", {"step": 0, "path": ["result", "x"]}]});
    prop::sample::select(vec![
        found(),
        joined.clone(),
        json!([found()]),
        json!([joined]),
        json!(["/bin/true", found()]),
        json!({"A": found()}),
        json!("/bin/true"),
        json!(["/bin/true"]),
    ])
}

/// An input for a tool, in which every value may hold the result.
fn called() -> impl Strategy<Value = (&'static str, Value)> {
    let exec = (value(), prop::option::of(value())).prop_map(|(argv, environment)| {
        let environment = environment.unwrap_or(json!({}));
        ("exec", json!({"argv": argv, "environment": environment}))
    });
    let shell = (value(), prop::option::of(value())).prop_map(|(script, arguments)| {
        let arguments = arguments.unwrap_or(json!([]));
        ("shell", json!({"script": script, "arguments": arguments}))
    });
    let install = value().prop_map(|file| ("deb-install", json!({"file": file})));
    let goal = value().prop_map(|goal| ("plan", json!({"goal": goal})));
    prop_oneof![4 => exec, 3 => shell, 1 => install, 1 => goal]
}

proptest! {
    /// Whatever a task writes and an earlier step returns, the program, the script and the names of
    /// variables are the task's or the declaration's own, and no text has NUL.
    #[test]
    fn results_decide_values_only(
        (name, input) in called(),
        found in prop::sample::select(vec![
            json!("/EVIL"), json!(["/EVIL"]), json!({"EVIL": "x"}), json!("/var/lib/EVIL"),
            json!("\0EVIL"),
        ]),
    ) {
        let steps = [step("get", "fetch", json!({})), step("s", name, input)];
        let (table, plan) = (table(&policy()), plan(&task(&steps)));
        let first = ended(0, json!({"result": {"x": found}}));
        let work = limpet_driver::expand::expand(&plan, 1, &[first], "kitchen")
            .and_then(|inputs| table.authorise(&plan, 1, inputs));
        if let Ok(Work::Process(launch)) = work {
            let fixed = if name == "shell" { 4 } else { 1 };
            prop_assert!(launch.argv[0].starts_with('/'));
            prop_assert!(launch.argv[..fixed].iter().all(|text| !text.contains("EVIL")));
            prop_assert!(launch.environment.iter().all(|(name, _)| !name.contains("EVIL")));
            let values = launch.environment.iter().map(|(_, value)| value);
            prop_assert!(launch.argv.iter().chain(values).all(|text| !text.contains('\0')));
            prop_assert!(launch.argv.iter().all(|text| text.len() <= 8 * 1024));
        }
    }
}
