//! `gate`: stands before a program that uses model files, in its own process, and becomes it if the
//! policy admits them all.
//!
//! `gate [--accept-suspect] [--trusted FILE [--keys FILE]] --model FILE... -- PROGRAM ARGUMENT...`
//!
//! What it has looked at is what the program opens, as long as nobody writes to the file meanwhile:
//! a model belongs where only those whom the policy trusts may write.

use super::inspect::Waiting;
use crate::models::{places, trusted};
use crate::syscalls::become_program;
use limpet_inventory::rules::Verdict;
use limpet_inventory::trust::List;
use limpet_inventory::{Failure, Inspector};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What shells say of a program that may not run, and of one that is not there.
const REFUSED: u8 = 126;
const MISSING: u8 = 127;

#[derive(Default)]
struct Gate {
    suspect: bool,
    trusted: Option<PathBuf>,
    keys: Option<PathBuf>,
    models: Vec<PathBuf>,
    program: Vec<CString>,
}

/// Runs with the words behind its name. It returns only where the program does not run.
#[must_use]
pub fn main(words: &[OsString]) -> u8 {
    let refusal = match Gate::parse(words) {
        None => "cannot run gate: its words are wrong".to_owned(),
        Some(gate) => match gate.judge() {
            Err(text) => text,
            Ok(()) => {
                let cause = become_program(&gate.program);
                eprintln!("cannot start {}: {cause}", gate.program[0].to_string_lossy());
                return MISSING;
            }
        },
    };
    eprintln!("{refusal}");
    REFUSED
}

impl Gate {
    fn parse(words: &[OsString]) -> Option<Gate> {
        let mut gate = Gate::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_str()? {
                "--accept-suspect" => gate.suspect = true,
                "--trusted" => gate.trusted = Some(words.next()?.into()),
                "--keys" => gate.keys = Some(words.next()?.into()),
                "--model" => gate.models.push(words.next()?.into()),
                "--" => break,
                _ => return None,
            }
        }
        let word = |word: &OsString| CString::new(word.as_bytes()).ok();
        gate.program = words.map(word).collect::<Option<_>>()?;
        (!gate.program.is_empty() && !gate.models.is_empty()).then_some(gate)
    }

    fn judge(&self) -> Result<(), String> {
        let list = trusted::read(self.trusted.as_deref(), self.keys.as_deref())?;
        let accepted = if self.suspect { Verdict::Suspect } else { Verdict::Ok };
        self.models.iter().try_for_each(|path| admit(path, list.as_ref(), accepted))
    }
}

fn admit(path: &PathBuf, list: Option<&List>, accepted: Verdict) -> Result<(), String> {
    let found = places::find(std::slice::from_ref(path))?;
    let waiting = Waiting::begin();
    let inspector = Inspector::new(list.is_some(), &waiting);
    let refused = |cause: &str| format!("cannot use model {}: {cause}", path.display());
    let [one] = &found[..] else {
        return Err(refused("it is a folder"));
    };
    let model = inspector.model(&one.folder, &one.name, &one.shown, &mut |_| ());
    let mut model = model.map_err(|failure| match failure {
        Failure::Unreadable(text) => text,
        Failure::Cancelled => refused("interrupted"),
    })?;
    if let Some(list) = list {
        list.judge(&mut model, true);
    }
    if model.verdict() <= accepted {
        return Ok(());
    }
    let worst = model.findings.iter().max_by_key(|finding| finding.rule.severity());
    let worst =
        worst.map_or(String::new(), |worst| format!(", {}: {}", worst.rule.id(), worst.evidence));
    Err(refused(&format!("it is {}{worst} (the step does not run)", model.verdict().word())))
}
