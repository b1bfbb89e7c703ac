//! `limpet inspect`: what model files are, whether they are sound, trusted and fit, and their bills
//! of materials.
//!
//! A program of its own like the native tools, and for the same reason: it starts no Python. What a
//! model is, `limpet_inventory` decides; here is where files are found, what is asked for, and
//! where it goes.
//!
//! | What | Where |
//! | --- | --- |
//! | the command line | `arguments` |
//! | files and folders | `places` |
//! | whoever waits | `patience` |
//! | the list of trusted models | `trusted` |
#![forbid(unsafe_code)]

mod arguments;
mod patience;
pub mod places;
pub mod trusted;

use arguments::{Format, Wish};
use limpet_inventory::model::Model;
use limpet_inventory::rules::Verdict;
use limpet_inventory::trust::List;
use limpet_inventory::write::{self, About, Card};
use limpet_inventory::{Failure, Inspector};
use patience::Patience;
use places::Found;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::budget::{Budget, Wanted};
use crate::containment::caps_here;

const CLEAN: u8 = 0;
const FOUND: u8 = 1;
const BROKEN: u8 = 2;
const INTERRUPTED: u8 = 130;
/// Models in one bill of materials, which is kept until it is written.
const MODELS_MAX: usize = 1024;

/// Runs `limpet inspect` with the words behind it; returns its exit code.
#[must_use]
pub fn main(words: &[OsString]) -> u8 {
    let wish = match Wish::parse(words) {
        Ok(wish) => wish,
        Err(cause) => {
            eprintln!("cannot read the command line: {cause} (see limpet inspect --help)");
            return BROKEN;
        }
    };
    if wish.help || wish.rules {
        let mut out = io::stdout().lock();
        // Whoever does not read it has had enough.
        let _ = match wish.help {
            true => out.write_all(arguments::HELP.as_bytes()),
            false => write::rules(&mut out),
        };
        return CLEAN;
    }
    match run(&wish) {
        Ok(code) => code,
        Err(Failure::Cancelled) => {
            eprintln!("cannot inspect: interrupted (nothing is written)");
            INTERRUPTED
        }
        Err(Failure::Unreadable(text)) => {
            eprintln!("{text}");
            BROKEN
        }
    }
}

fn failed(text: String) -> Failure {
    Failure::Unreadable(text)
}

fn run(wish: &Wish) -> Result<u8, Failure> {
    let list = trusted::read(wish.trusted.as_deref(), wish.keys.as_deref()).map_err(failed)?;
    let found = places::find(&wish.paths).map_err(failed)?;
    let patience = Patience::begin(wish.hash, found.iter().map(|one| one.bytes).sum());
    if wish.idle {
        crate::syscalls::become_idle();
    }
    let budget = wish.memory.or_else(|| wish.fit().then(pool_bytes));
    let version = env!("CARGO_PKG_VERSION");
    let about = About { version, seconds: seconds(), context: wish.context, budget };
    let inspector = Inspector::new(wish.hash, &patience);
    let job = Job { wish, about, inspector, list, patience: &patience };
    let mut output = Output::open(wish.output.as_deref()).map_err(failed)?;
    let worst = job.write(&found, &mut output)?;
    output.keep().map_err(failed)?;
    Ok(match worst {
        None => BROKEN,
        Some(Verdict::Ok) => CLEAN,
        Some(Verdict::Suspect) => FOUND,
        Some(Verdict::Malformed) => BROKEN,
    })
}

/// What steps may have together on this device.
#[must_use]
pub fn pool_bytes() -> u64 {
    let caps = caps_here();
    let budget = Budget::divide(&Wanted::default(), &caps, false);
    budget.map_or(caps.steps.bytes, |budget| budget.pool_bytes)
}

/// Now, or what the environment says it is for whoever wants the same bytes again.
fn seconds() -> u64 {
    let told = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    })
}

struct Job<'j> {
    wish: &'j Wish,
    about: About<'j>,
    inspector: Inspector<'j>,
    list: Option<List>,
    patience: &'j Patience,
}

impl Job<'_> {
    /// Writes everything; returns the worst verdict, `None` if a file could not be read.
    fn write(&self, found: &[Found], output: &mut Output) -> Result<Option<Verdict>, Failure> {
        match self.wish.format {
            Format::Json => self.documents(found, output),
            Format::Table | Format::Readme => self.each(found, output),
            Format::CycloneDx | Format::Spdx | Format::SpdxJson => self.bill(found, output),
        }
    }

    fn documents(&self, found: &[Found], output: &mut Output) -> Result<Option<Verdict>, Failure> {
        let several = found.len() != 1 || self.wish.several();
        let mut documents = write::documents(output, &self.about, several);
        let mut worst = Worst::default();
        for one in found {
            if let Some(model) = self.model(one, &mut worst)? {
                if self.wish.tensors {
                    documents.add(&model, Some(&mut |sink| self.tensors(one, sink)));
                } else {
                    documents.add(&model, None);
                }
            }
        }
        documents.end().map_err(unwritten)?;
        Ok(worst.0)
    }

    /// Shows the tensors of a model that was read already: again, without hashing.
    fn tensors(&self, one: &Found, sink: &mut dyn FnMut(&limpet_inventory::model::Tensor<'_>)) {
        let inspector = Inspector::new(false, self.patience);
        // What is wrong with it was told before.
        let _ = inspector.model(&one.folder, &one.name, &one.shown, sink);
    }

    fn each(&self, found: &[Found], output: &mut Output) -> Result<Option<Verdict>, Failure> {
        if self.wish.format == Format::Readme && found.len() != 1 {
            let text =
                format!("cannot write a card: it is for one model, here are {}", found.len());
            return Err(failed(text));
        }
        let wish = self.wish;
        let card = Card {
            title: wish.title.as_deref(),
            sdk: wish.sdk.as_deref(),
            app_file: wish.app_file.as_deref(),
            app_port: wish.app_port,
            short_description: wish.short_description.as_deref(),
        };
        let mut worst = Worst::default();
        for (index, one) in found.iter().enumerate() {
            let Some(model) = self.model(one, &mut worst)? else {
                continue;
            };
            let written = match wish.format {
                Format::Readme => write::readme(output, &model, &card, &self.about),
                _ if index > 0 => {
                    writeln!(output).and_then(|()| write::table(output, &model, &self.about))
                }
                _ => write::table(output, &model, &self.about),
            };
            written.map_err(unwritten)?;
        }
        Ok(worst.0)
    }

    fn bill(&self, found: &[Found], output: &mut Output) -> Result<Option<Verdict>, Failure> {
        if found.len() > MODELS_MAX {
            let text =
                format!("cannot write a bill of {} models, at most {MODELS_MAX}", found.len());
            return Err(failed(text));
        }
        let (mut models, mut worst) = (Vec::new(), Worst::default());
        for one in found {
            if let Some(mut model) = self.model(one, &mut worst)? {
                // What a bill tells was taken from it; what is kept is bounded.
                model.metadata = limpet_inventory::metadata::Metadata::default();
                models.push(model);
            }
        }
        let write = match self.wish.format {
            Format::CycloneDx => write::cyclonedx,
            Format::Spdx => write::spdx_tags,
            _ => write::spdx_json,
        };
        write(output, &models, &self.about).map_err(unwritten)?;
        Ok(worst.0)
    }

    /// One model, judged; `None`, told on standard error, if it cannot be read.
    fn model(&self, one: &Found, worst: &mut Worst) -> Result<Option<Model>, Failure> {
        let shown = if self.wish.absolute { absolute(&one.shown) } else { one.shown.clone() };
        self.patience.next(&one.name);
        let model = self.inspector.model(&one.folder, &one.name, &shown, &mut |_| ());
        self.patience.clear();
        match model {
            Ok(mut model) => {
                if let Some(list) = &self.list {
                    list.judge(&mut model, self.wish.require_trusted);
                }
                worst.0 = worst.0.map(|worst| worst.max(model.verdict()));
                Ok(Some(model))
            }
            Err(Failure::Unreadable(text)) => {
                eprintln!("{text}");
                worst.0 = None;
                Ok(None)
            }
            Err(cancelled) => Err(cancelled),
        }
    }
}

/// The worst verdict; `None` once a file could not be read.
struct Worst(Option<Verdict>);

impl Default for Worst {
    fn default() -> Worst {
        Worst(Some(Verdict::Ok))
    }
}

fn absolute(path: &str) -> String {
    let absolute = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    absolute.map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

fn unwritten(cause: io::Error) -> Failure {
    // Whoever read our output has enough, which is no failure of ours.
    failed(format!("cannot write the output: {cause}"))
}

/// Standard output, or a file that appears whole or not at all.
struct Output {
    to: BufWriter<Box<dyn Write>>,
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    fn open(file: Option<&Path>) -> Result<Output, String> {
        let Some(file) = file else {
            let to = BufWriter::new(Box::new(io::stdout()) as Box<dyn Write>);
            return Ok(Output { to, names: None });
        };
        let failed = |cause: io::Error| format!("cannot write {}: {cause}", file.display());
        let name = file.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let temporary = file.with_file_name(hidden);
        if let Some(parent) = file.parent().filter(|parent| *parent != Path::new("")) {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let to = BufWriter::new(Box::new(File::create(&temporary).map_err(failed)?) as Box<_>);
        Ok(Output { to, names: Some((temporary, file.to_owned())) })
    }

    /// Gives what was written its name.
    fn keep(mut self) -> Result<(), String> {
        self.to.flush().map_err(|cause| format!("cannot write the output: {cause}"))?;
        if let Some((temporary, file)) = self.names.take() {
            fs::rename(&temporary, &file).map_err(|cause| {
                // It is of no use to anybody.
                let _ = fs::remove_file(&temporary);
                format!("cannot write {}: {cause}", file.display())
            })?;
        }
        Ok(())
    }
}

impl Drop for Output {
    /// What was not kept is removed.
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
