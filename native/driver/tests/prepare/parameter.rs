//! A declared parameter admits what its declaration says and nothing else.

use limpet_driver::parameter::{Alphabet, Parameter, path_beneath};
use proptest::prelude::*;
use serde_json::{Value, json};

const DIRECTORY: &str = "/tasks/ops.app-1";

fn parameter(declaration: Value) -> Parameter {
    serde_json::from_value(declaration).expect("a sound declaration")
}

/// Values on both sides of every bound of every type.
#[test]
fn every_type_has_its_bounds() {
    let integer = json!({"type": "integer", "minimum": -1, "maximum": 3});
    let choice = json!({"type": "choice", "choices": ["a", "--b"]});
    let text = json!({"type": "text", "alphabet": "a-c", "maximum_length": 2});
    let cases: Vec<(&Value, Value, bool)> = vec![
        (&integer, json!(-1), true),
        (&integer, json!(3), true),
        (&integer, json!(-2), false),
        (&integer, json!(4), false),
        (&integer, json!(1.0), false),
        (&integer, json!("1"), false),
        (&integer, json!(u64::MAX), false),
        (&integer, json!(null), false),
        (&choice, json!("--b"), true),
        (&choice, json!("b"), false),
        (&choice, json!(["a"]), false),
        (&text, json!("ab"), true),
        (&text, json!(""), true),
        (&text, json!("abc"), false),
        (&text, json!("d"), false),
        (&text, json!(1), false),
    ];
    for (declaration, value, wanted) in cases {
        let found = parameter(declaration.clone()).admit(&value, DIRECTORY);
        assert_eq!(found.is_ok(), wanted, "{declaration} {value}: {found:?}");
        assert!(!wanted || found == Ok(value));
    }
    let boolean = parameter(json!({"type": "boolean"}));
    assert!(boolean.admit(&json!(false), DIRECTORY).is_ok());
    assert!(boolean.admit(&json!(0), DIRECTORY).is_err());
    let any = parameter(json!({"type": "json", "maximum_bytes": 4}));
    assert!(any.admit(&json!([12]), DIRECTORY).is_ok());
    assert!(any.admit(&json!([123]), DIRECTORY).is_err());
    let wide = parameter(json!({"type": "text", "maximum_length": 2, "alphabet": null}));
    assert!(wide.admit(&json!("ßé"), DIRECTORY).is_ok());
}

/// Declarations that cannot be meant are refused when the table is read.
#[test]
fn senseless_declarations_are_refused() {
    for wrong in [
        json!({"type": "number"}),
        json!({"required": true}),
        json!({"type": "integer", "required": "yes"}),
        json!({"type": "integer", "choices": ["a"]}),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
        json!({"type": "integer", "maximum": 1, "default": 2}),
        json!({"type": "integer", "required": true, "default": 2}),
        json!({"type": "choice", "choices": []}),
        json!({"type": "choice"}),
        json!({"type": "text", "alphabet": ""}),
        json!({"type": "path", "beneath": "var/lib"}),
        json!({"type": "path", "beneath": "/var/../etc"}),
        json!({"type": "path", "default": "../x"}),
    ] {
        assert!(serde_json::from_value::<Parameter>(wrong.clone()).is_err(), "{wrong}");
    }
    let sound = parameter(json!({"type": "integer", "default": null, "minimum": null}));
    assert_eq!(sound.default, None);
}

/// The notation of alphabets, by example.
#[test]
fn alphabets_are_read_as_written() {
    let all = |text: &str| -> String {
        let set = Alphabet::parse(text).expect("an alphabet");
        ('\0'..='~').filter(|character| set.contains(*character)).collect()
    };
    assert_eq!(all("a-c"), "abc");
    assert_eq!(all("-a"), "-a");
    assert_eq!(all("a-"), "-a");
    assert_eq!(all("a-c-e"), "-abce");
    assert_eq!(all("---"), "-");
    assert_eq!(all("a-zA-Z0-9_-").len(), 64);
    assert!(Alphabet::parse("à-ü").is_ok_and(|set| set.contains('é')));
    for wrong in ["", "z-a", "\0", "\0-a"] {
        assert!(Alphabet::parse(wrong).is_err(), "{wrong:?}");
    }
}

/// Where paths lead, by example.
#[test]
fn paths_are_normalised_and_confined() {
    let path = |text: &str| path_beneath(text, DIRECTORY, "/var/lib").ok();
    assert_eq!(path("/var/lib/a//./b/../c"), Some("/var/lib/a/c".into()));
    assert_eq!(path("../../var/lib/x"), Some("/var/lib/x".into()));
    for out in
        ["", "x", "/var/lib", "/var/lib/", "/var/lib/..", "/var/library/x", "/var/lib/a/../.."]
    {
        assert_eq!(path(out), None, "{out}");
    }
    assert_eq!(path("/var/lib/a\0b"), None);
    assert_eq!(path(&format!("/var/lib/{}", "a".repeat(256))), None);
    assert_eq!(path(&format!("/var/lib/{}", "a/".repeat(2_100))), None);
    let own = path_beneath("app.deb", DIRECTORY, DIRECTORY);
    assert_eq!(own, Ok("/tasks/ops.app-1/app.deb".into()));
    assert!(path_beneath("../ops.app-2/app.deb", DIRECTORY, DIRECTORY).is_err());
    assert_eq!(path_beneath("/a", DIRECTORY, "/"), Ok("/a".into()));
    assert!(path_beneath("/..", DIRECTORY, "/").is_err());
}

/// Walks a path as the kernel would in a file system without links.
fn walk(text: &str, directory: &str) -> Vec<String> {
    let whole = if text.starts_with('/') { text.into() } else { format!("{directory}/{text}") };
    let mut place = Vec::new();
    for part in whole.split('/') {
        if part == ".." {
            place.pop();
        } else if !part.is_empty() && part != "." {
            place.push(part.to_owned());
        }
    }
    place
}

proptest! {
    /// A path is admitted exactly when walking it ends beneath the root, and what is passed on is
    /// plain and leads to the same place.
    #[test]
    fn no_path_leaves_its_root(
        parts in proptest::collection::vec(
            prop::sample::select(vec!["..", ".", "", "tasks", "a", "ops.app-1"]),
            1..9,
        ),
        absolute in any::<bool>(),
        root in prop_oneof![Just("/tasks"), Just(DIRECTORY), Just("/tasks/a"), Just("/")],
    ) {
        let text = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        prop_assume!(!text.is_empty());
        let (end, bound) = (walk(&text, DIRECTORY), walk(root, ""));
        let beneath = end.len() > bound.len() && end.starts_with(&bound);
        match path_beneath(&text, DIRECTORY, root) {
            Ok(path) => {
                prop_assert!(beneath);
                prop_assert_eq!(path, format!("/{}", end.join("/")));
            }
            Err(_) => prop_assert!(!beneath),
        }
    }

    /// Any text is a path beneath the root or an error.
    #[test]
    fn any_text_stays_beneath(text in "\\PC{0,60}|[./a]{0,30}") {
        if let Ok(path) = path_beneath(&text, DIRECTORY, "/var/lib") {
            prop_assert!(path.starts_with("/var/lib/"));
            prop_assert!(path[1..].split('/').all(|part| !["", ".", ".."].contains(&part)));
        }
    }

    /// An alphabet written as a list of distinct characters holds exactly those.
    #[test]
    fn alphabets_without_ranges_are_lists(text in "[a-z0-9_.]{1,20}", other in any::<char>()) {
        let set = Alphabet::parse(&text).expect("an alphabet");
        prop_assert_eq!(set.contains(other), text.contains(other));
        prop_assert!(text.chars().all(|character| set.contains(character)));
    }

    /// Any text is an alphabet or an error.
    #[test]
    fn alphabets_are_total(text in any::<String>()) {
        let _ = Alphabet::parse(&text);
    }
}
