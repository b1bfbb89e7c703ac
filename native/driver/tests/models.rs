//! Model files through the programs that look at them: the tool `inspect`, the gate before a
//! program that uses one, and the verb.

#[path = "../../inventory/tests/files/mod.rs"]
mod files;
mod tools_harness;

use files::Gguf;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::{TempDir, tempdir};
use tools_harness::run;

fn sound() -> Gguf {
    Gguf::new().text("general.architecture", "llama").tensor("a", &[8, 4])
}

fn put(root: &TempDir, name: &str, gguf: &Gguf) -> String {
    let path = root.path().join(name);
    fs::write(&path, gguf.bytes()).expect("written");
    path.to_str().expect("text").to_owned()
}

fn sum(path: &str) -> String {
    let told = Command::new("sha256sum").arg(path).output().expect("it runs");
    String::from_utf8(told.stdout).expect("text")[..64].to_owned()
}

fn call(root: &TempDir, input: Value) -> Value {
    json!({"input": input, "beneath": {"path": root.path()}, "pool_bytes": 1_u64 << 30})
}

#[test]
fn a_sound_model_is_a_success() {
    let root = tempdir().expect("a directory");
    let path = put(&root, "m.gguf", &sound());
    let call = call(&root, json!({"path": "m.gguf", "sha256": sum(&path)}));
    let result = run(root.path(), "inspect", &call).succeeded();
    assert_eq!(result["verdict"], "ok");
    assert_eq!(result["sha256"], sum(&path));
    assert_eq!((&result["architecture"], &result["parameters"]), (&json!("llama"), &json!(32)));
    assert_eq!((&result["trusted"], &result["findings"]), (&Value::Null, &json!([])));
    assert_eq!(result["fit"]["budget_bytes"], 1_u64 << 30);
}

/// What is not accepted fails, and tells its result nevertheless.
#[test]
fn what_is_not_accepted_fails() {
    let root = tempdir().expect("a directory");
    put(&root, "suspect.gguf", &Gguf { trailing: 1, ..sound() });
    put(&root, "broken.gguf", &Gguf { version: 9, ..sound() });
    for (file, accept, accepted) in [
        ("suspect.gguf", "ok", false),
        ("suspect.gguf", "suspect", true),
        ("broken.gguf", "suspect", false),
        ("broken.gguf", "malformed", true),
    ] {
        let call = call(&root, json!({"path": file, "accept": accept}));
        let ended = run(root.path(), "inspect", &call);
        assert_eq!(ended.code, Some(if accepted { 0 } else { 1 }), "{file} {accept}");
        assert_eq!(ended.result["findings_count"], 1);
        assert_eq!(ended.error.is_empty(), accepted);
    }
    let mut large = call(
        &root,
        json!({"path": "suspect.gguf", "accept": "suspect",
        "require_fit": true}),
    );
    large["pool_bytes"] = json!(1000);
    let error = run(root.path(), "inspect", &large).failed();
    assert!(error.contains("bytes of 1000"), "{error}");
    let other = call(&root, json!({"path": "suspect.gguf", "sha256": "ab".repeat(32)}));
    let error = run(root.path(), "inspect", &other).failed();
    assert!(error.contains("malformed, trust.hash_mismatch"), "{error}");
}

/// A result has room for whatever a file says of itself.
#[test]
fn a_result_is_small() {
    let root = tempdir().expect("a directory");
    let long = "\u{1f4a3}\u{1}\"\\".repeat(500);
    let mut gguf = Gguf { trailing: 1, ..sound() };
    for key in ["general.name", "general.license", "../a", "a\u{7}", "", "tokenizer.chat_template"]
    {
        gguf = gguf.text(key, &format!("{long}__class__ https://x os.popen"));
    }
    put(&root, "m.gguf", &gguf.info(long.as_bytes(), &[1], 4, 7));
    let ended = run(root.path(), "inspect", &call(&root, json!({"path": "m.gguf"})));
    assert!(ended.result["findings_count"].as_u64() > Some(8), "{}", ended.result);
    assert!(ended.result.to_string().len() < 4000, "{}", ended.result.to_string().len());
}

/// Signs `list` as an administrator would; returns the file of the key that may.
fn sign(root: &TempDir, list: &Path, key: &str) -> String {
    let key = root.path().join(key);
    let keygen = |arguments: &[&str]| {
        let done = Command::new("ssh-keygen").args(arguments).output().expect("it runs");
        assert!(done.status.success(), "{done:?}");
    };
    let (path, list) = (key.to_str().expect("text"), list.to_str().expect("text"));
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f", path]);
    let _ = fs::remove_file(format!("{list}.sig"));
    keygen(&["-q", "-Y", "sign", "-n", "limpet-models", "-f", path, list]);
    format!("{path}.pub")
}

#[test]
fn a_list_of_trusted_models_decides() {
    let root = tempdir().expect("a directory");
    let path = put(&root, "m.gguf", &sound());
    let list = root.path().join("trusted");
    let inspect = |keys: Option<&str>, required: bool| {
        let mut call = call(&root, json!({"path": "m.gguf", "require_trusted": required}));
        call["models"] = json!({"accept": "ok", "trusted": list, "keys": keys});
        run(root.path(), "inspect", &call)
    };
    fs::write(&list, "# none\n").expect("written");
    assert_eq!(inspect(None, false).succeeded()["trusted"], false);
    assert!(inspect(None, true).failed().contains("trust.unlisted"));
    fs::write(&list, format!("{}  m.gguf\n", sum(&path))).expect("written");
    assert_eq!(inspect(None, true).succeeded()["trusted"], true);
    let key = sign(&root, &list, "one");
    assert_eq!(inspect(Some(&key), true).succeeded()["trusted"], true);
    let other = sign(&root, &list, "other");
    assert!(inspect(Some(&key), true).failed().contains("a key that is not trusted"));
    assert_eq!(inspect(Some(&other), true).succeeded()["trusted"], true);
    fs::write(&list, format!("{}  m.gguf\n\n", sum(&path))).expect("written");
    assert!(inspect(Some(&other), true).failed().contains("does not fit it"));
    let nothing = call(&root, json!({"path": "m.gguf", "require_trusted": true}));
    assert!(run(root.path(), "inspect", &nothing).failed().contains("has no trusted models"));
}

fn gate(words: &[&str], model: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limpet-tool"));
    command.args(["native", "gate"]).args(words).args(["--model", model, "--"]);
    command.args(["/bin/echo", "ran", model]).output().expect("it runs")
}

#[test]
fn the_gate_becomes_the_program_or_ends() {
    let root = tempdir().expect("a directory");
    let good = put(&root, "good.gguf", &sound());
    let suspect = put(&root, "suspect.gguf", &Gguf { trailing: 1, ..sound() });
    let broken = put(&root, "broken.gguf", &Gguf { version: 9, ..sound() });
    let list = root.path().join("trusted");
    fs::write(&list, format!("{}  good.gguf\n", sum(&good))).expect("written");
    let list = list.to_str().expect("text");
    let missing = format!("{good}.none");
    for (words, model, admitted) in [
        (&[][..], &good, true),
        (&[], &suspect, false),
        (&["--accept-suspect"], &suspect, true),
        (&["--accept-suspect"], &broken, false),
        (&["--trusted", list], &good, true),
        (&["--accept-suspect", "--trusted", list], &suspect, false),
        (&["--trusted", &missing], &good, false),
        (&[], &missing, false),
        (&["--nonsense"], &good, false),
    ] {
        let ended = gate(words, model);
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        if admitted {
            assert_eq!((ended.status.code(), said), (Some(0), format!("ran {model}\n")));
        } else {
            assert_eq!((ended.status.code(), said), (Some(126), String::new()), "{words:?}");
            assert!(!ended.stderr.is_empty());
        }
    }
}

fn inspect(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limpet-tool"));
    command.arg("inspect").args(words).env("SOURCE_DATE_EPOCH", "0").output().expect("it runs")
}

#[test]
fn the_verb_tells_by_its_exit_code() {
    let root = tempdir().expect("a directory");
    let good = put(&root, "good.gguf", &sound());
    let suspect = put(&root, "suspect.gguf", &Gguf { trailing: 1, ..sound() });
    let broken = put(&root, "broken.gguf", &Gguf { version: 9, ..sound() });
    let code = |words: &[&str]| inspect(words).status.code();
    assert_eq!(code(&[&good]), Some(0));
    assert_eq!(code(&[&good, &suspect]), Some(1));
    assert_eq!(code(&[&suspect, &broken]), Some(2));
    assert_eq!(code(&[root.path().to_str().expect("text")]), Some(2));
    assert_eq!(code(&["/nowhere"]), Some(2));
    assert_eq!(code(&["--nonsense"]), Some(2));
    assert_eq!(code(&["--rules"]), Some(0));
    assert_eq!(code(&["--help"]), Some(0));
}

#[test]
fn an_output_appears_whole_and_is_the_same_again() {
    let root = tempdir().expect("a directory");
    let good = put(&root, "good.gguf", &sound());
    let file = root.path().join("new/bill.json");
    let name = file.to_str().expect("text");
    for format in ["json", "cyclonedx", "spdx", "spdx-json", "hf-readme", "table"] {
        let twice = [(); 2].map(|()| {
            let ended = inspect(&[&good, "--format", format, "--output", name]);
            assert_eq!((ended.status.code(), ended.stdout), (Some(0), vec![]), "{format}");
            fs::read(&file).expect("written")
        });
        assert!(!twice[0].is_empty() && twice[0] == twice[1], "{format}");
        let told = inspect(&[&good, "--format", format]).stdout;
        assert_eq!(twice[0], told, "{format}");
    }
    let failed = inspect(&[&good, &good, "--format", "hf-readme", "--output", name]);
    assert_eq!(failed.status.code(), Some(2));
    let names = fs::read_dir(root.path().join("new")).expect("there").count();
    assert_eq!(names, 1, "what was not finished is removed");
}
