//! Proves the child's contract: what a program finds when it starts, and that a program that
//! cannot be started so has not run.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use limpet_driver::containment::{Containment, Limits};
use limpet_driver::launch::Launch;
use limpet_driver::spawn::{SpawnError, spawn};
use tempfile::{TempDir, tempdir};

mod process;
use process::{
    Ended, PYTHON, acting, end, instance, is_root, launch, name, pidfd, play, read_line, role,
    wait_readable,
};

fn scene() -> (TempDir, Containment, String) {
    let instance = instance();
    (tempdir().expect("a directory"), Containment::probe(&instance), instance)
}

fn run_launch(launch: &Launch) -> Ended {
    let (_, containment, instance) = scene();
    let child =
        spawn(&containment, &name(&instance, 1), launch, &Limits::default()).expect("a child");
    end(&containment, child)
}

fn run(argv: &[&str]) -> String {
    let (directory, ..) = scene();
    run_launch(&launch(directory.path(), argv)).stdout
}

fn refusal(launch: &Launch) -> SpawnError {
    let (_, containment, instance) = scene();
    let refused = spawn(&containment, &name(&instance, 1), launch, &Limits::default())
        .expect_err("a refusal");
    assert!(refused.before_exec, "{refused:?}");
    assert!(refused.detail.starts_with("cannot "), "{refused:?}");
    refused
}

/// The program of a role; see `process::role`.
#[test]
fn acts() {
    match acting().as_deref() {
        Some("signals") => {
            let status = run(&["/bin/cat", "/proc/self/status"]);
            // libc keeps 32 and 33 to itself, and its posix_spawn starts us with 32 ignored.
            let status = status.replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000");
            for field in ["SigBlk", "SigIgn", "SigCgt"] {
                assert!(status.contains(&format!("{field}:\t0000000000000000")), "{status}");
            }
        }
        Some("third") => third_descriptor(),
        Some("stranger") => {
            let directory = std::env::temp_dir().join(instance());
            let mut launch = launch(&std::env::temp_dir(), &["/bin/true"]);
            launch.user = Some("root".to_owned());
            assert_eq!(refusal(&launch).code, "user_refused");
            launch.directory.clone_from(&directory);
            assert_eq!(refusal(&launch).code, "directory_unusable");
            assert!(!directory.exists(), "it could not be given to the user");
            launch.user = Some(rustix::process::geteuid().as_raw().to_string());
            assert_eq!(run_launch(&launch).status.exit_status(), Some(0));
            fs::remove_dir(directory).expect("the directory it made");
        }
        Some("orphan") => {
            let (directory, _, instance) = scene();
            let containment = Containment::marker_only(&instance);
            let argv = ["/bin/sh", "-c", "trap '' TERM HUP; read line <&3; :"];
            let launch = launch(directory.path(), &argv);
            let child = spawn(&containment, &name(&instance, 1), &launch, &Limits::default())
                .expect("a child");
            println!("child {}", child.pid.as_raw_pid());
            wait_readable(&child.pidfd);
        }
        _ => {}
    }
}

/// A program gets three standard descriptors and the report pipe, whatever the agent has open.
#[test]
fn other_descriptors_are_closed() {
    let open = File::open("/dev/null").expect("a file");
    let _inherited = rustix::io::dup(open.as_fd()).expect("a descriptor without close-on-exec");
    let list = "import os\nfor n in sorted(os.listdir('/proc/self/fd')):\n \
                p = '/proc/self/fd/' + n\n if os.path.lexists(p): print(n)";
    assert_eq!(run(&[PYTHON, "-c", list]), "0\n1\n2\n3");
}

/// A program starts with the default signals and an empty mask, even though its agent ignores and
/// blocks some (Python ignores SIGPIPE and SIGXFSZ).
#[test]
fn signals_are_reset() {
    let ignore = "import os, signal, sys\n\
                  for n in (1, 2, 3, 10, 34, 64): signal.signal(n, signal.SIG_IGN)\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, {2, 12, 15, 17, 40})\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    play(&[PYTHON, "-c", ignore], "signals");
}

/// The environment is what was built, in order, and nothing of the agent's own.
#[test]
fn the_environment_is_exact() {
    let (directory, containment, instance) = scene();
    let secret = directory.path().join("secret");
    fs::write(&secret, "two\n\n").expect("a secret");
    let mut launch = launch(directory.path(), &["/usr/bin/env"]);
    launch.secrets = vec![("TOKEN".to_owned(), secret)];
    let child =
        spawn(&containment, &name(&instance, 3), &launch, &Limits::default()).expect("a child");
    let marker = format!("LIMPET_ATTEMPT={instance}:7:0:3");
    let expected = format!("{marker}\nLIMPET_FD=3\nPATH=/usr/bin:/bin\nTOKEN=two\n");
    assert_eq!(end(&containment, child).stdout, expected.trim_end());
}

/// Secrets that cannot be used whole, and names that are taken, are refused.
#[test]
fn bad_environments_are_refused() {
    let (directory, ..) = scene();
    let path = directory.path().join("secret");
    let mut with_secret = launch(directory.path(), &["/bin/true"]);
    with_secret.secrets = vec![("TOKEN".to_owned(), path.clone())];
    assert_eq!(refusal(&with_secret).code, "secret_unreadable");
    for (content, code) in
        [(vec![b'x'; 4097], "secret_unreadable"), (b"a\0b".to_vec(), "environment_invalid")]
    {
        fs::write(&path, content).expect("a secret");
        assert_eq!(refusal(&with_secret).code, code);
    }
    for key in ["LIMPET_FD", "LIMPET_ATTEMPT", "PATH", "", "A=B"] {
        let mut launch = launch(directory.path(), &["/bin/true"]);
        launch.environment.push((key.to_owned(), "x".to_owned()));
        assert_eq!(refusal(&launch).code, "environment_invalid", "{key:?}");
    }
}

/// Standard input is the given bytes, all at once and then its end; without any it is empty.
#[test]
fn standard_input_is_given() {
    let (directory, ..) = scene();
    let mut launch = launch(directory.path(), &["/usr/bin/md5sum"]);
    let empty = run_launch(&launch).stdout;
    assert!(empty.starts_with("d41d8cd98f00b204e9800998ecf8427e"), "{empty}");
    launch.stdin = Some(vec![b'x'; 65536]);
    launch.argv = vec!["/usr/bin/wc".to_owned(), "-c".to_owned()];
    assert_eq!(run_launch(&launch).stdout, "65536");
    launch.stdin = Some(vec![b'x'; 65537]);
    assert_eq!(refusal(&launch).code, "spawn_failed");
}

/// A program leads its own session, cannot gain privileges, and reports on descriptor 3.
#[test]
fn a_program_leads_its_session() {
    let (directory, containment, instance) = scene();
    let tell = "umask; grep NoNewPrivs /proc/self/status; \
                echo $(ps -o sid=,pgid= -p $$) $$; pwd; echo said >&3; echo wrong >&2; exit 5";
    let cwd = directory.path().join("task");
    let launch = launch(&cwd, &["/bin/sh", "-c", tell]);
    let child =
        spawn(&containment, &name(&instance, 1), &launch, &Limits::default()).expect("a child");
    let pid = child.pid.as_raw_pid();
    let ended = end(&containment, child);
    let cwd = cwd.canonicalize().expect("it was made");
    let expected =
        format!("0022\nNoNewPrivs:\t1\n{pid} {pid} {pid}\n{}", cwd.to_str().expect("text"));
    assert_eq!(ended.stdout, expected);
    assert_eq!((ended.report.as_str(), ended.stderr.as_str()), ("said", "wrong"));
    assert_eq!((ended.status.exit_status(), ended.swept.killed), (Some(5), 0));
    assert_eq!(fs::metadata(cwd).expect("a directory").mode() & 0o7777, 0o700);
}

/// A program runs as the user it was given, with that user's groups only; its directory and its
/// output are the user's.
#[test]
fn the_user_is_changed() {
    if !is_root() {
        return;
    }
    let (directory, ..) = scene();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("our directory");
    let tell = "id -u; id -G; : > mine; echo again > /dev/stdout; grep CapEff /proc/self/status";
    let mut launch = launch(&directory.path().join("task"), &["/bin/sh", "-c", tell]);
    launch.user = Some("nobody".to_owned());
    let output = run_launch(&launch);
    let id = |flag| {
        let id = std::process::Command::new("id").args([flag, "nobody"]).output().expect("id");
        String::from_utf8(id.stdout).expect("text").trim().to_owned()
    };
    let expected = format!("{}\n{}\nagain\nCapEff:\t0000000000000000", id("-u"), id("-G"));
    assert_eq!((output.stdout, output.stderr), (expected, String::new()));
    let owner = fs::metadata(&launch.directory).expect("it was made").uid();
    assert_eq!(owner.to_string(), id("-u"));
}

/// Nobody else is taken for an unknown user, nor for one that the agent may not become.
#[test]
fn another_user_is_never_taken() {
    let (directory, ..) = scene();
    let mut unknown = launch(directory.path(), &["/bin/true"]);
    unknown.user = Some("nobody-of-that-name".to_owned());
    assert_eq!(refusal(&unknown).code, "user_unknown");
    if is_root() {
        play(&["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "stranger");
    }
}

/// A program that cannot be executed is known not to have run. An empty file is one: no shell is
/// asked to make sense of it.
#[test]
fn a_failed_exec_is_known() {
    let (directory, ..) = scene();
    let path = directory.path().join("program");
    let program = path.to_str().expect("text");
    assert!(refusal(&launch(directory.path(), &[program])).detail.contains("No such file"));
    fs::write(&path, "").expect("a file");
    assert!(refusal(&launch(directory.path(), &[program])).detail.contains("Permission denied"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a file");
    let refused = refusal(&launch(directory.path(), &[program]));
    assert!(refused.detail.contains("Exec format error"), "{refused:?}");
    let long = "x".repeat(256 * 1024);
    let refused = refusal(&launch(directory.path(), &["/bin/echo", &long]));
    assert!(refused.code == "exec_failed" && refused.detail.contains("too long"), "{refused:?}");
    for argv in [&["true"][..], &[], &["/bin/echo", "a\0b"]] {
        assert_eq!(refusal(&launch(directory.path(), argv)).code, "argument_invalid");
    }
}

/// A working directory that is a link, a file, relative or out of reach is refused.
#[test]
fn odd_directories_are_refused() {
    let (directory, ..) = scene();
    let (link, file) = (directory.path().join("link"), directory.path().join("file"));
    symlink("/tmp", &link).expect("a link");
    fs::write(&file, "").expect("a file");
    let missing = directory.path().join("missing/task");
    for path in [&link, &file, &missing, Path::new("task"), Path::new("/"), &link.join("..")] {
        let refused = refusal(&launch(path, &["/bin/true"]));
        assert_eq!(refused.code, "directory_unusable", "{refused:?}");
    }
}

/// An attempt does not outlive its agent, even when that is killed.
#[test]
fn a_dead_agent_takes_its_child_along() {
    let mut agent = role(&[], "orphan").stdout(std::process::Stdio::piped()).spawn().expect("it");
    let stdout = agent.stdout.take().expect("a pipe").into();
    let child = loop {
        if let Some((_, pid)) = read_line(&stdout).split_once("child ") {
            break pidfd(pid.parse().expect("a pid"));
        }
    };
    agent.kill().expect("a live agent");
    wait_readable(child);
    agent.wait().expect("our child");
}

/// Descriptor 3 is the child's report, and errors of exec are still told, whether 3 was free in
/// the agent or in use.
#[test]
fn descriptor_three_may_be_anything() {
    play(&["/bin/sh", "-c", "exec \"$0\" \"$@\" 3<&-"], "third");
    play(&["/bin/sh", "-c", "exec \"$0\" \"$@\" 3</dev/null"], "third");
}

fn third_descriptor() {
    let (directory, containment, instance) = scene();
    for attempt in 0..8 {
        let say = launch(directory.path(), &["/bin/sh", "-c", "echo here >&3"]);
        let child = spawn(&containment, &name(&instance, attempt), &say, &Limits::default())
            .expect("a child");
        assert_eq!(end(&containment, child).report, "here");
        let missing = launch(directory.path(), &["/nowhere"]);
        let refused = spawn(&containment, &name(&instance, attempt), &missing, &Limits::default());
        assert_eq!(refused.expect_err("a refusal").code, "exec_failed");
    }
}
