//! Runs native tools as the programs they are, and web servers that behave as told.

#![allow(dead_code, reason = "each test program uses its part")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

/// How a tool ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub result: Value,
    pub progress: Vec<Value>,
    pub error: String,
}

impl Ended {
    /// The result of a success.
    pub fn succeeded(self) -> Value {
        assert_eq!((self.code, self.error.as_str()), (Some(0), ""));
        self.result
    }

    /// The sentence of a failure.
    pub fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.error.lines().count(), 1, "{}", self.error);
        self.error
    }
}

/// Runs a tool in `directory`.
pub fn run(directory: &Path, tool: &str, call: &Value) -> Ended {
    run_as(Command::new(env!("CARGO_BIN_EXE_limpet-tool")).args(["native", tool]), directory, call)
}

/// Runs a tool with a command of its own.
pub fn run_as(command: &mut Command, directory: &Path, call: &Value) -> Ended {
    let command = command.current_dir(directory).env("LIMPET_FD", "1");
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // A tool that knows better at once does not read it.
    let _ = child.stdin.take().unwrap().write_all(call.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    let mut ended = Ended {
        code: output.status.code(),
        result: Value::Null,
        progress: Vec::new(),
        error: String::from_utf8(output.stderr).unwrap(),
    };
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        match line.get("progress") {
            Some(progress) => ended.progress.push(progress.clone()),
            None => {
                ended.result = line["result"].take();
                assert!(ended.result.to_string().len() <= 4096, "a result is too large");
            }
        }
    }
    ended
}

/// The names in a directory, in order.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A server's part in one connection, after the request was read.
pub type Answer = Box<dyn FnOnce(&mut dyn Write) + Send>;

/// Sends these bytes and closes.
pub fn say(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    Box::new(move |stream| {
        // A client may have heard enough before everything was sent.
        let _ = stream.write_all(&bytes);
    })
}

/// Sends `start` and then `more` until the client has enough.
pub fn endless(start: &'static str, more: &'static str) -> Answer {
    Box::new(move |stream| {
        let more = more.repeat(1024);
        let mut going = stream.write_all(start.as_bytes());
        while going.is_ok() {
            going = stream.write_all(more.as_bytes());
        }
    })
}

/// A server on 127.0.0.1 with one connection for each answer: its port, and the requests it read.
pub fn serve(answers: Vec<Answer>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            requests.push(request(&mut stream));
            answer(&mut stream);
        }
        requests
    };
    (port, thread::spawn(requests))
}

/// Reads a request with its body.
pub fn request(stream: &mut dyn Read) -> String {
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut text, mut length) = (String::new(), 0);
    while !text.ends_with("\r\n\r\n") {
        let start = text.len();
        if reader.read_line(&mut text).unwrap() == 0 {
            return text;
        }
        if let Some(value) = text[start..].strip_prefix("Content-Length: ") {
            length = value.trim_end().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    text + &String::from_utf8(body).unwrap()
}

/// A plain server that nobody contacts: its port.
pub fn unvisited() -> (u16, impl FnOnce()) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = move || {
        listener.set_nonblocking(true).unwrap();
        let visit: std::io::Result<(TcpStream, _)> = listener.accept();
        assert_eq!(visit.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    };
    (port, check)
}
