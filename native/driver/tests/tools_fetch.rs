//! `fetch`: a file is put in its place only when it is the right one, whatever happens on the way.

mod tools_harness;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tempfile::tempdir;
use tools_harness::*;

/// What is fetched: several pieces of it, and no two alike.
fn content() -> Vec<u8> {
    (0..50_000u32).flat_map(u32::to_be_bytes).collect()
}

fn sum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn call(port: u16, sha256: &str) -> Value {
    let url = format!("http://127.0.0.1:{port}/app");
    json!({"input": {"url": url, "sha256": sha256, "to": "app"}, "hosts": ["127.0.0.1:*"]})
}

fn fetch(here: &Path, port: u16, sha256: &str) -> Ended {
    run(here, "fetch", &call(port, sha256))
}

/// An answer that says it has `length` bytes and has `body`.
fn sends(headers: &str, length: usize, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{headers}\r\n");
    say([head.as_bytes(), body].concat())
}

/// The answer to a request for the rest from `first` on.
fn rest(first: usize, body: &[u8]) -> Answer {
    let (last, length) = (body.len() - 1, body.len() - first);
    let head = format!(
        "HTTP/1.1 206 Partial\r\nContent-Length: {length}\r\n\
         Content-Range: bytes {first}-{last}/{}\r\n\r\n",
        body.len(),
    );
    say([head.as_bytes(), &body[first..]].concat())
}

const TAG: &str = "ETag: \"v1\"\r\n";

/// The file is there, alone, with what it is; on the way its progress was told.
#[test]
fn a_file_is_fetched() {
    let (here, content) = (tempdir().unwrap(), content());
    let (port, server) = serve(vec![sends(TAG, content.len(), &content)]);
    let ended = fetch(here.path(), port, &sum(&content));
    assert_eq!(ended.progress[0], json!({"bytes": 0, "total": content.len()}));
    let expected = json!({
        "path": "app", "bytes": content.len(), "sha256": sum(&content), "fetched": content.len(),
    });
    assert_eq!(ended.succeeded(), expected);
    assert_eq!(fs::read(here.path().join("app")).unwrap(), content);
    assert_eq!(names(here.path()), ["app"]);
    server.join().unwrap();
    // It is there by now, and there is no server any more.
    assert_eq!(fetch(here.path(), port, &sum(&content)).succeeded()["fetched"], 0);
}

/// Fetches until the connection is cut after `half`, then once more with `second` answering.
fn resume(half: usize, second: Answer) -> (tempfile::TempDir, Ended, Vec<String>) {
    let (here, content) = (tempdir().unwrap(), content());
    let first = sends(TAG, content.len(), &content[..half]);
    let (port, server) = serve(vec![first, second]);
    let error = fetch(here.path(), port, &sum(&content)).failed();
    assert!(error.contains(&format!("{half} bytes are kept")), "{error}");
    assert_eq!(names(here.path()), [".app.etag", ".app.part"]);
    let ended = fetch(here.path(), port, &sum(&content));
    (here, ended, server.join().unwrap())
}

/// After a cut only the rest is asked for, on the condition that it is of the same thing.
#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let content = content();
    let (here, ended, requests) = resume(70_001, rest(70_001, &content));
    assert_eq!(ended.succeeded()["fetched"], content.len() - 70_001);
    assert_eq!(fs::read(here.path().join("app")).unwrap(), content);
    assert_eq!(names(here.path()), ["app"]);
    assert!(!requests[0].contains("Range"));
    assert!(requests[1].contains("\r\nRange: bytes=70001-\r\nIf-Range: \"v1\"\r\n"));
}

/// A server that has something else by now sends all of it.
#[test]
fn a_download_that_changed_begins_anew() {
    let content = content();
    let (here, ended, _) = resume(100, sends("ETag: \"v2\"\r\n", content.len(), &content));
    assert_eq!(ended.succeeded()["fetched"], content.len());
    assert_eq!(fs::read(here.path().join("app")).unwrap(), content);
}

/// Another part than the one asked for is thrown away with what there was.
#[test]
fn a_part_of_something_else_is_refused() {
    let (here, ended, _) = resume(100, rest(99, &content()));
    assert!(ended.failed().contains("another part"));
    assert_eq!(names(here.path()), [""; 0]);
}

/// A part that was damaged in the meantime, or is longer than the file is now, costs one fresh
/// start and no failure.
#[test]
fn a_damaged_part_costs_a_fresh_start() {
    let content = content();
    let beyond = "HTTP/1.1 416 Range\r\nContent-Length: 0\r\n\r\n";
    for second in [rest(100, &content), say(beyond)] {
        let here = tempdir().unwrap();
        let (port, server) = serve(vec![
            sends(TAG, content.len(), &content[..100]),
            second,
            sends(TAG, content.len(), &content),
        ]);
        fetch(here.path(), port, &sum(&content)).failed();
        fs::write(here.path().join(".app.part"), [b'x'; 100]).unwrap();
        fetch(here.path(), port, &sum(&content)).succeeded();
        assert_eq!(fs::read(here.path().join("app")).unwrap(), content);
        assert!(!server.join().unwrap()[2].contains("Range"));
    }
}

/// Without a strong tag there is nothing to go on from, so nothing is kept.
#[test]
fn without_a_strong_tag_nothing_is_kept() {
    for tag in ["", "ETag: W/\"v1\"\r\n", "ETag: v1\r\n", "ETag: \"a\"\r\nETag: \"b\"\r\n"] {
        let (here, content) = (tempdir().unwrap(), content());
        let (port, server) = serve(vec![sends(tag, content.len(), &content[..100])]);
        fetch(here.path(), port, &sum(&content)).failed();
        assert_eq!(names(here.path()), [""; 0]);
        server.join().unwrap();
    }
}

/// The wrong bytes leave no file, and an old one as it was; the error has both sums.
#[test]
fn the_wrong_bytes_leave_nothing() {
    for old in [None, Some("old")] {
        let here = tempdir().unwrap();
        if let Some(old) = old {
            fs::write(here.path().join("app"), old).unwrap();
        }
        let (port, server) = serve(vec![sends(TAG, 5, b"wrong")]);
        let error = fetch(here.path(), port, &sum(b"right")).failed();
        assert!(error.contains(&sum(b"wrong")) && error.contains(&sum(b"right")), "{error}");
        let left: Vec<String> = old.map(|_| "app".into()).into_iter().collect();
        assert_eq!(names(here.path()), left);
        assert_eq!(fs::read_to_string(here.path().join("app")).ok().as_deref(), old);
        server.join().unwrap();
    }
}

/// What is too long ends where the bound is, whether or not its length was told; nothing is kept.
#[test]
fn a_file_that_is_too_long_is_given_up() {
    let chunked = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n";
    for answer in [
        sends(TAG, 1001, b""),
        endless(chunked, "1\r\nx\r\n"),
        endless("HTTP/1.1 200 OK\r\nETag: \"a\"\r\n\r\n", "x"),
    ] {
        let here = tempdir().unwrap();
        let (port, server) = serve(vec![answer]);
        let mut call = call(port, &sum(b""));
        call["input"]["sha256"] = json!(sum(b"x"));
        call["input"]["maximum_bytes"] = json!(1000);
        let error = run(here.path(), "fetch", &call).failed();
        assert!(error.contains("longer than 1000 bytes"), "{error}");
        assert_eq!(names(here.path()), [""; 0]);
        server.join().unwrap();
    }
}

/// Another status is a failure with the status in its result; a kept part survives it.
#[test]
fn another_status_is_a_failure() {
    let unavailable = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let (here, ended, _) = resume(100, say(unavailable));
    assert_eq!(ended.result, json!({"status": 503}));
    assert!(ended.failed().contains("answered 503"));
    assert_eq!(names(here.path()), [".app.etag", ".app.part"]);
}

/// When the disk has no room nothing is left to fill it.
#[test]
fn a_full_disk_keeps_nothing() {
    let (here, content) = (tempdir().unwrap(), content());
    let (port, server) = serve(vec![sends(TAG, content.len(), &content)]);
    let mut command = Command::new("/bin/sh");
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" native fetch";
    command.args(["-c", script, env!("CARGO_BIN_EXE_limpet-tool")]);
    let error = run_as(&mut command, here.path(), &call(port, &sum(&content))).failed();
    assert!(error.contains("File too large"), "{error}");
    assert_eq!(names(here.path()), [""; 0]);
    server.join().unwrap();
}

/// No link leads what is fetched elsewhere: not one in its path, not one in its place, not one
/// where its part is kept.
#[test]
fn nothing_is_fetched_through_a_link() {
    let (root, outside) = (tempdir().unwrap(), tempdir().unwrap());
    let here = root.path();
    let target = outside.path().join("target");
    fs::write(&target, "kept").unwrap();
    symlink(outside.path(), here.join("directory")).unwrap();
    symlink(&target, here.join("app")).unwrap();
    let (port, check) = unvisited();
    let mut through = call(port, &sum(b"new"));
    through["input"]["to"] = json!("directory/target");
    assert!(run(here, "fetch", &through).failed().contains("leads out of"));
    symlink(&target, here.join(".app.part")).unwrap();
    fetch(here, port, &sum(b"new")).failed();
    check();
    fs::remove_file(here.join(".app.part")).unwrap();
    let (port, server) = serve(vec![sends(TAG, 3, b"new")]);
    fetch(here, port, &sum(b"new")).succeeded();
    server.join().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"kept");
    assert!(fs::symlink_metadata(here.join("app")).unwrap().is_file());
    assert_eq!(names(outside.path()), ["target"]);
}
