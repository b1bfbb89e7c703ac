//! The tools that work on files: what they put where, and that nothing leads them elsewhere.

mod tools_harness;

use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use tempfile::tempdir;
use tools_harness::*;

/// SHA-256 of `abc` (FIPS 180-2).
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// The sum is that of the standard, and an expected one that differs fails and names both.
#[test]
fn hash_sums_and_compares() {
    let here = tempdir().unwrap();
    fs::write(here.path().join("f"), "abc").unwrap();
    let expected = json!({"sha256": ABC, "bytes": 3});
    let call = |sha256: &str| json!({"input": {"path": "f", "sha256": sha256}});
    assert_eq!(run(here.path(), "hash", &call(ABC)).succeeded(), expected);
    let other = "0".repeat(64);
    let ended = run(here.path(), "hash", &call(&other));
    assert_eq!(ended.result, expected);
    let error = ended.failed();
    assert!(error.contains(ABC) && error.contains(&other), "{error}");
}

/// A file can be read in pieces: text between characters, anything else as base64.
#[test]
fn read_takes_a_file_piece_by_piece() {
    let here = tempdir().unwrap();
    fs::write(here.path().join("f"), "aé\u{1}b\u{ff}z").unwrap();
    fs::write(here.path().join("raw"), [0xff, 0xfe]).unwrap();
    let call = |offset: u64, most: u64| {
        let input = json!({"path": "f", "offset": offset, "maximum_bytes": most});
        json!({"input": input})
    };
    let piece = |data: &str, bytes: u64, offset: u64, end: bool| {
        let mut piece = json!({"data": data, "bytes": bytes, "offset": offset, "end": end});
        piece["encoding"] = json!("text");
        piece
    };
    assert_eq!(run(here.path(), "read", &call(0, 2)).succeeded(), piece("a", 1, 0, false));
    assert_eq!(run(here.path(), "read", &call(1, 99)).succeeded(), piece("é\u{1}bÿz", 7, 1, true));
    assert_eq!(run(here.path(), "read", &call(99, 99)).succeeded(), piece("", 0, 99, true));
    let raw = run(here.path(), "read", &json!({"input": {"path": "raw"}})).succeeded();
    assert_eq!((&raw["data"], &raw["encoding"]), (&json!("//4="), &json!("base64")));
}

/// Whatever is in a file, a piece of it fits into a result.
#[test]
fn read_always_fits_a_result() {
    let here = tempdir().unwrap();
    for content in [vec![1; 9000], vec![0xff; 9000], vec![b'"'; 9000], "é".repeat(9000).into()] {
        fs::write(here.path().join("f"), &content).unwrap();
        let piece = run(here.path(), "read", &json!({"input": {"path": "f"}})).succeeded();
        assert!(piece["bytes"].as_u64().unwrap() > 500, "{piece}");
        assert_eq!(piece["end"], false);
    }
}

/// A file appears with its mode, a text as it is and anything else as JSON, and nothing beside it.
#[test]
fn write_puts_a_file_in_its_place() {
    let here = tempdir().unwrap();
    let call =
        |data: serde_json::Value| json!({"input": {"path": "f", "data": data, "mode": "0600"}});
    let result = run(here.path(), "write", &call(json!("abc"))).succeeded();
    assert_eq!(result, json!({"path": "f", "bytes": 3, "sha256": ABC}));
    assert_eq!(fs::read(here.path().join("f")).unwrap(), b"abc");
    let mode = fs::metadata(here.path().join("f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    run(here.path(), "write", &call(json!({"a": [1]}))).succeeded();
    assert_eq!(fs::read(here.path().join("f")).unwrap(), b"{\"a\":[1]}");
    assert_eq!(names(here.path()), ["f"]);
}

/// When the disk has no room the old file is what it was, and nothing is left beside it.
#[test]
fn write_on_a_full_disk_changes_nothing() {
    let here = tempdir().unwrap();
    fs::write(here.path().join("f"), "old").unwrap();
    let mut command = Command::new("/bin/sh");
    // A limit of 8 blocks of 512 bytes; ignored, its signal becomes an error.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" native write";
    command.args(["-c", script, env!("CARGO_BIN_EXE_limpet-tool")]);
    let call = json!({"input": {"path": "f", "data": "x".repeat(20_000)}});
    let error = run_as(&mut command, here.path(), &call).failed();
    assert!(error.contains("File too large") && error.contains("as it was"), "{error}");
    assert_eq!(fs::read(here.path().join("f")).unwrap(), b"old");
    assert_eq!(names(here.path()), ["f"]);
}

/// No path leads out of its directory: not by its text, not by a link to a file or a directory.
#[test]
fn nothing_leads_out_of_its_directory() {
    let (root, outside) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), root.path().join("directory")).unwrap();
    symlink(outside.path().join("secret"), root.path().join("file")).unwrap();
    symlink("..", root.path().join("up")).unwrap();
    let secret = outside.path().join("secret");
    let beyond = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    let through = format!("up/{}", &beyond[3..]);
    for path in ["directory/secret", "file", &beyond, &through, secret.to_str().unwrap()] {
        for tool in ["hash", "read", "device", "inspect", "write"] {
            // To write to a link is to replace it, which changes nothing behind it.
            if tool == "write" && path == "file" {
                continue;
            }
            let call = json!({
                "input": {"path": path, "data": "x"}, "beneath": {"path": root.path()},
            });
            let error = run(root.path(), tool, &call).failed();
            assert!(error.contains("leads out of"), "{tool} {path}: {error}");
        }
    }
    assert_eq!(fs::read(&secret).unwrap(), b"s");
    assert_eq!(names(outside.path()), ["secret"]);
}

/// A link that stays inside is a way like any other.
#[test]
fn a_link_inside_is_followed() {
    let root = tempdir().unwrap();
    fs::write(root.path().join("f"), "abc").unwrap();
    symlink("f", root.path().join("link")).unwrap();
    let path = root.path().join("link");
    let call = json!({"input": {"path": path}, "beneath": {"path": root.path()}});
    assert_eq!(run(root.path(), "hash", &call).succeeded()["sha256"], ABC);
}

/// A pipe or a directory is refused before it is opened, so nothing blocks.
#[test]
fn only_regular_files_are_read() {
    let here = tempdir().unwrap();
    let made = Command::new("mkfifo").arg(here.path().join("pipe")).status().unwrap();
    assert!(made.success());
    for path in ["pipe", "."] {
        for tool in ["hash", "read"] {
            let error = run(here.path(), tool, &json!({"input": {"path": path}})).failed();
            assert!(error.contains("no regular file"), "{error}");
        }
    }
}

/// Every device knows its kernel, its memory and the room on its disk.
#[test]
fn device_tells_about_the_device() {
    let here = tempdir().unwrap();
    let facts = run(here.path(), "device", &json!({"input": {}})).succeeded();
    assert!(facts["kernel"].is_string() && facts["uptime_s"].is_u64(), "{facts}");
    for part in ["memory", "disk"] {
        let bytes = |which: &str| facts[part][which].as_u64().unwrap();
        assert!(bytes("available_bytes") <= bytes("total_bytes"), "{facts}");
    }
    let error = run(here.path(), "device", &json!({"input": {"path": "none"}})).failed();
    assert!(error.contains("No such file"), "{error}");
}

/// A wrong call has its own exit code: an unknown tool, no JSON, an unknown member.
#[test]
fn a_wrong_call_is_no_failure_of_the_tool() {
    let here = tempdir().unwrap();
    assert_eq!(run(here.path(), "none", &json!({"input": {}})).code, Some(2));
    assert_eq!(run(here.path(), "hash", &json!("text")).code, Some(2));
    assert_eq!(run(here.path(), "hash", &json!({"input": {}, "else": 1})).code, Some(2));
    let error = run(here.path(), "hash", &json!({"input": {"path": 1}})).failed();
    assert!(error.contains("'path'"), "{error}");
}
