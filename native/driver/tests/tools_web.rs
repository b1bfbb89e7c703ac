//! `http` against servers that do what they should and what they should not.

mod tools_harness;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tempfile::tempdir;
use tools_harness::*;

/// Calls `http` with all of 127.0.0.1 allowed.
fn http(input: Value) -> Ended {
    let here = tempdir().unwrap();
    run(here.path(), "http", &json!({"input": input, "hosts": ["127.0.0.1:*"]}))
}

/// An answer with this status and these header lines.
fn with(status: u16, headers: &str, body: &str) -> Answer {
    let length = body.len();
    say(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}"))
}

/// JSON comes back as what it means, so that later steps can refer to its members.
#[test]
fn json_is_understood() {
    let kind = "Content-Type: application/json; charset=utf-8\r\n";
    let (port, server) = serve(vec![with(200, kind, " { \"ok\" : [ true ] } ")]);
    let url = format!("http://127.0.0.1:{port}/health?x=1");
    let result = http(json!({"url": url})).succeeded();
    let expected = json!({"status": 200, "url": url, "body": {"ok": [true]}, "truncated": false});
    assert_eq!(result, expected);
    let request = &server.join().unwrap()[0];
    assert!(request.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")), "{request}");
}

/// Each method sends what it was given: JSON as JSON, text as it is, nothing with its length.
#[test]
fn a_body_is_sent_as_what_it_is() {
    let (port, server) = serve((0..4).map(|_| with(204, "", "")).collect());
    let url = format!("http://127.0.0.1:{port}/");
    http(json!({"url": url, "method": "POST", "body": {"a": 1}})).succeeded();
    http(json!({"url": url, "method": "PUT", "body": "a\r\nb"})).succeeded();
    http(json!({"url": url, "method": "POST"})).succeeded();
    http(json!({"url": url, "method": "HEAD"})).succeeded();
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("POST ") && requests[0].ends_with("\r\n\r\n{\"a\":1}"));
    assert!(requests[0].contains("Content-Type: application/json\r\n"));
    assert!(requests[1].starts_with("PUT ") && requests[1].ends_with("\r\n\r\na\r\nb"));
    assert!(requests[2].contains("\r\nContent-Length: 0\r\n"));
    assert!(requests[3].starts_with("HEAD ") && !requests[3].contains("Content-Length"));
}

/// Any 2xx is a success unless the call names a status; what fails has its status in the result.
#[test]
fn the_status_decides() {
    let expect = |status: u16, wanted: Option<u16>, code: i32| {
        let (port, server) = serve(vec![with(status, "", "why")]);
        let mut input = json!({"url": format!("http://127.0.0.1:{port}/")});
        if let Some(wanted) = wanted {
            input["status"] = json!(wanted);
        }
        let ended = http(input);
        assert_eq!((ended.code, &ended.result["status"]), (Some(code), &json!(status)));
        assert_eq!(ended.result["body"], "why");
        assert!(code == 0 || ended.error.contains(&format!("answered {status}")));
        server.join().unwrap();
    };
    expect(201, None, 0);
    expect(302, None, 1);
    expect(404, None, 1);
    expect(503, None, 1);
    expect(404, Some(404), 0);
    expect(200, Some(404), 1);
}

/// Nobody is contacted whom policy does not name, and the error says where it would.
#[test]
fn a_host_that_is_not_allowed_is_not_contacted() {
    let (port, check) = unvisited();
    let url = format!("http://127.0.0.1:{port}/");
    for hosts in [json!([]), json!(["127.0.0.1:1"]), json!(["localhost:*"])] {
        for tool in ["http", "fetch"] {
            let here = tempdir().unwrap();
            let input = json!({"url": url, "to": "f", "sha256": "0".repeat(64)});
            let error = run(here.path(), tool, &json!({"input": input, "hosts": hosts})).failed();
            assert!(error.contains("[hosts] of policy.toml"), "{error}");
            assert_eq!(names(here.path()), [""; 0]);
        }
    }
    check();
}

/// A redirection is reported; it is followed as often as the call says, each time only to a host
/// that is allowed.
#[test]
fn redirections_are_followed_only_as_allowed() {
    let to = |location: &str| with(302, &format!("Location: {location}\r\n"), "");
    let (forbidden, check) = unvisited();
    let away = format!("http://localhost:{forbidden}/");
    let (port, server) = serve(vec![
        to("/next"),
        to("/next"),
        with(200, "", "there"),
        to(&away),
        to("/again"),
        to("/again"),
    ]);
    let url = format!("http://127.0.0.1:{port}/");
    let reported = http(json!({"url": url}));
    assert_eq!((reported.code, &reported.result["location"]), (Some(1), &json!("/next")));
    let followed = http(json!({"url": url, "redirects": 1})).succeeded();
    assert_eq!(
        (&followed["body"], &followed["url"]),
        (&json!("there"), &json!(format!("{url}next")))
    );
    let error = http(json!({"url": url, "redirects": 1})).failed();
    assert!(error.contains("cannot contact localhost"), "{error}");
    let endless = http(json!({"url": url, "redirects": 1}));
    assert_eq!((endless.code, &endless.result["status"]), (Some(1), &json!(302)));
    assert_eq!(server.join().unwrap().len(), 6);
    check();
}

/// A body without end is cut to what a result holds, whatever is in it; headers without end fail.
#[test]
fn nothing_is_read_without_end() {
    let start = "HTTP/1.1 200 OK\r\n\r\n";
    for more in ["x", "\u{1}", "\"", "é"] {
        let (port, server) = serve(vec![endless(start, more)]);
        let result = http(json!({"url": format!("http://127.0.0.1:{port}/")})).succeeded();
        assert_eq!(result["truncated"], true);
        assert!(result["body"].as_str().unwrap().starts_with(more));
        server.join().unwrap();
    }
    let (port, server) = serve(vec![endless("HTTP/1.1 200 OK\r\n", "A: b\r\n")]);
    let error = http(json!({"url": format!("http://127.0.0.1:{port}/")})).failed();
    assert!(error.contains("too long"), "{error}");
    server.join().unwrap();
}

/// A connection that ends early, or at once, is a failure; so is a server that is not there.
#[test]
fn a_cut_answer_is_a_failure() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let (port, server) = serve(vec![say(cut), say("")]);
    let url = format!("http://127.0.0.1:{port}/");
    assert!(http(json!({"url": url})).failed().contains("before the body did"));
    assert!(http(json!({"url": url})).failed().contains("before the answer did"));
    server.join().unwrap();
    assert!(http(json!({"url": url})).failed().contains("refused"));
}

/// What a server for `localhost` needs whose authority is written to `authority.pem`.
fn identity(directory: &Path, authority: &str) -> Arc<ServerConfig> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, authority);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    fs::write(directory.join(format!("{authority}.pem")), pem).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let chain = vec![params.signed_by(&key, &issuer).unwrap().into()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// A TLS server for one connection; `properly` says whether it takes its leave.
fn serve_tls(identity: Arc<ServerConfig>, properly: bool) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(identity).unwrap(), stream);
        if stream.conn.complete_io(&mut stream.sock).is_err() {
            return;
        }
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsecret").unwrap();
        if properly {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    (port, server)
}

/// https is spoken with servers that a known authority vouches for and under their own name; a
/// body that ends with the connection must be ended by the server, not by whoever is between.
#[test]
fn https_proves_who_answers_and_that_it_is_whole() {
    let here = tempdir().unwrap();
    let known = identity(here.path(), "known");
    let ask = |name: &str, identity: &Arc<ServerConfig>, properly: bool| {
        let (port, server) = serve_tls(identity.clone(), properly);
        let mut command = Command::new(env!("CARGO_BIN_EXE_limpet-tool"));
        command.args(["native", "http"]).env("SSL_CERT_FILE", here.path().join("known.pem"));
        let input = json!({"url": format!("https://{name}:{port}/")});
        let call = json!({"input": input, "hosts": ["localhost:*", "127.0.0.1:*"]});
        let ended = run_as(&mut command, here.path(), &call);
        server.join().unwrap();
        ended
    };
    assert_eq!(ask("localhost", &known, true).succeeded()["body"], "secret");
    assert!(ask("localhost", &known, false).failed().contains("close_notify"));
    assert!(ask("127.0.0.1", &known, true).failed().contains("not valid for name"));
    let unknown = identity(here.path(), "unknown");
    assert!(ask("localhost", &unknown, true).failed().contains("UnknownIssuer"));
}
