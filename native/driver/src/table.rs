//! The form of the policy table: which tools exist, who may use them and within what bounds.
//!
//! It was compiled from the operator's files, which it names so that a refusal can. It decides
//! nothing about a task; see [`crate::authorise`].
//!
//! The table is one JSON object of at most 1 MiB. Unknown keys are errors, and so is a key that an
//! executor does not use. A key marked "optional" may be absent; texts and numbers may be null.
//!
//! - `device`: the name that `${device.name}` stands for, 1 to 128 bytes.
//! - `policy_file`: the file an operator edits to allow more.
//! - `task_root`: an absolute directory; a task works in `task_root/SOURCE.ID`, see
//!   [`Table::directory`].
//! - `directory_bytes` (optional): what the files of one task may take there.
//! - `loopback`: whether the broker is this device; `exec` and `shell` are refused when false.
//! - `allow`: rules; an empty list denies everything.
//! - `tools`: tool name (1 to 64 of `[A-Za-z0-9._-]`) to declaration.
//! - `worker` (optional): argv before the program of a `python` tool, such as
//!   `["/usr/bin/limpet", "worker"]`.
//! - `native` (optional): argv before the name of a `native` tool, such as
//!   `["/usr/bin/limpet-tool"]`.
//! - `models` (optional): `accept` (`ok` or `suspect`: the worst verdict of a model that a step may
//!   use), `trusted` (optional: the absolute file with the hashes it must have), `keys` (optional:
//!   the absolute file with the keys of which one has signed that).
//!
//! A rule:
//!
//! - `source`: a source, or `*`.
//! - `tools`: names, or `*`, which does not cover `exec` and `shell` tools: those must be named.
//! - `origin`: `FILE:LINE`.
//!
//! A tool:
//!
//! - `executor`: `process`, `native`, `python`, `exec`, `shell`, `sleep`, `publish` or `reboot`.
//! - `argv`: of a `process` only, 1 to 64 elements. Each is a text or `{"param": NAME}`, which is
//!   one element or, when the parameter has no value, none. The first is an absolute path, literal.
//!   Every parameter must occur in it.
//! - `program`: of `python` an absolute file, of `native` the tool's name, else absent.
//! - `params` (optional): name to [`Parameter`], at most 64. `exec`, `shell`, `sleep`, `publish`
//!   and `reboot` bring their own, see [`Executor`]; a declaration may only narrow those.
//! - `environment` (optional): name to value, beside or instead of `PATH`, `HOME` and `LANG`.
//! - `secrets` (optional): environment name to absolute file, read at each start.
//! - `user` (optional): login name; absent keeps the agent's own.
//! - `hosts` (optional): of a `native` only, `HOST:PORT` or `HOST:*` that it may contact; empty
//!   denies all.
//! - `ceilings` (optional): `start_to_close_ms`, `memory_bytes`, `output_bytes`, each optional.
//!   Where a step sets no limit, the ceiling is its limit.
//! - `on_interruption`: `stop` or `rerun`: a step must say the same; `any`: either.
//! - `heartbeat` (optional, false): it writes to descriptor 3, so a heartbeat clock makes sense.
//! - `origin`: `FILE:LINE` of the declaration.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expand::TEXT_BYTES_MAX;
use crate::parameter::{Kind, Parameter, is_normal};
use crate::plan::{CLOCK_MS_MAX, Step, is_name};

/// Bytes of a policy table.
pub const TABLE_BYTES_MAX: usize = 1024 * 1024;
/// Elements of an argv.
pub const ARGUMENTS_MAX: usize = 64;
/// Bytes of a script.
pub const SCRIPT_BYTES_MAX: usize = 16 * 1024;

/// The policy of this device; the module says what its JSON looks like.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Name of the device.
    pub device: String,
    /// The file an operator edits to allow more.
    pub policy_file: String,
    /// Parent of the tasks' directories.
    pub task_root: String,
    /// What the files in one of them may take; `None` is no limit.
    #[serde(default)]
    pub directory_bytes: Option<u64>,
    /// The broker is this device.
    pub loopback: bool,
    /// Who may use what.
    pub allow: Vec<Rule>,
    /// Declarations by name.
    pub tools: BTreeMap<String, Tool>,
    /// argv before the program of a Python tool.
    #[serde(default)]
    pub worker: Vec<String>,
    /// argv before the name of a native tool.
    #[serde(default)]
    pub native: Vec<String>,
    /// Which model files a step may use.
    #[serde(default)]
    pub models: Models,
    /// What all steps may have of memory together: of the device, not of the policy.
    #[serde(skip, default = "unbounded")]
    pub pool_bytes: u64,
    /// A step's memory where neither it nor its tool says; likewise.
    #[serde(skip)]
    pub step_bytes: Option<u64>,
}

/// Which model files a step may use: what a parameter of type `model` admits.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// The worst verdict.
    pub accept: Acceptance,
    /// The file with the hashes that are trusted; absent: every hash.
    pub trusted: Option<String>,
    /// The file with the keys of which one has signed the hashes; absent: they need no signature.
    pub keys: Option<String>,
}

/// The worst verdict of a model that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// Nothing speaks against it.
    #[default]
    Ok,
    /// Somebody should look.
    Suspect,
}

const fn unbounded() -> u64 {
    u64::MAX
}

/// Lets a source use tools.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A source, or `*`.
    pub source: String,
    /// Names of tools, or `*`.
    pub tools: Vec<String>,
    /// `FILE:LINE`.
    pub origin: String,
}

/// A declared tool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The top of this file describes each key.
pub struct Tool {
    pub executor: Executor,
    #[serde(default)]
    pub argv: Vec<Element>,
    pub program: Option<String>,
    #[serde(default)]
    pub params: BTreeMap<String, Parameter>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    pub user: Option<String>,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub ceilings: ToolCeilings,
    pub on_interruption: Interruption,
    #[serde(default)]
    pub heartbeat: bool,
    pub origin: String,
}

/// What carries a tool out, and the input it takes where a tool does not declare its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// The declared argv.
    Process,
    /// The project's own tool named by `program`; its stdin is `{"input": {...}, "hosts": [...],
    /// "beneath": {...}}`, the last giving the directory of each `path` parameter by its name.
    Native,
    /// The operator's Python file `program`; its stdin is the input.
    Python,
    /// `argv` (1 to 64 texts, numbers or booleans; the first literal and absolute), `environment`
    /// (name to text), `stdin` (text, at most 64 KiB).
    Exec,
    /// `script` (literal, at most 16 KiB), `arguments` (its `$1` and so on).
    Shell,
    /// `duration_ms`, 0 to 2^31.
    Sleep,
    /// `topic` (below the device's prefix: 1 to 4 levels), `payload` (a text, sent as it is, or
    /// JSON; at most 16 KiB), `retain` (false when absent).
    Publish,
    /// Nothing.
    Reboot,
}

/// An element of a declared argv.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Element {
    /// As it stands.
    Literal(String),
    /// The value of a parameter, or nothing when it has none.
    Parameter {
        /// Its name.
        param: String,
    },
}

/// Bounds that no step may exceed; absent means none of the tool's own.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCeilings {
    /// Of the clock with this name.
    pub start_to_close_ms: Option<u32>,
    /// Of memory.
    pub memory_bytes: Option<u64>,
    /// Of spooled output.
    pub output_bytes: Option<u64>,
}

/// What a tool allows a step to say about being interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// It must not be run again.
    Stop,
    /// It must be.
    Rerun,
    /// Either.
    Any,
}

impl Table {
    /// Reads a policy table and checks that it makes sense; the error is a sentence for the
    /// operator.
    pub fn parse(bytes: &[u8]) -> Result<Table, String> {
        let unusable = |cause: String| format!("cannot use policy table: {cause} (not loaded)");
        if bytes.len() > TABLE_BYTES_MAX {
            return Err(unusable(format!("{} bytes exceed {TABLE_BYTES_MAX}", bytes.len())));
        }
        let mut table: Table =
            serde_json::from_slice(bytes).map_err(|error| unusable(error.to_string()))?;
        table.check().map_err(unusable)?;
        for (name, tool) in &mut table.tools {
            let prefix = match tool.executor {
                Executor::Native => Some(("native", &table.native)),
                Executor::Python => Some(("worker", &table.worker)),
                _ => None,
            };
            if tool.uses_models() && table.native.is_empty() {
                return Err(unusable(format!("tool '{name}' needs the table's \"native\"")));
            }
            tool.complete()
                .and_then(|()| tool.check(name, prefix))
                .map_err(|cause| unusable(format!("tool '{name}' of {}: {cause}", tool.origin)))?;
        }
        Ok(table)
    }

    /// The working directory of a task: `task_root/SOURCE.ID`, with `+` for each `.` of the source
    /// so that no two tasks share a directory.
    pub fn directory(&self, source: &str, id: &str) -> String {
        let root = self.task_root.trim_end_matches('/');
        format!("{root}/{}", directory_name(source, id))
    }

    /// Bytes of memory that the processes of a step may use together: what it says, else its tool's
    /// ceiling, else this device's. `None` is no limit.
    #[must_use]
    pub fn memory_bytes(&self, step: &Step) -> Option<u64> {
        let ceiling = self.tools.get(&step.tool).and_then(|tool| tool.ceilings.memory_bytes);
        step.limits
            .memory_bytes
            .or(ceiling.map(|bytes| bytes.min(self.pool_bytes)))
            .or(self.step_bytes)
    }

    /// What an attempt of a step takes from the pool, in KiB: nothing, where it runs no process.
    #[must_use]
    pub fn share_kib(&self, step: &Step) -> u32 {
        let runs = self.tools.get(&step.tool).is_some_and(|tool| tool.executor.is_process());
        let bytes = self.memory_bytes(step).filter(|_| runs).unwrap_or(0);
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
    }

    fn check(&self) -> Result<(), String> {
        let device = (1..=128).contains(&self.device.len());
        require(device && !self.device.contains('\0'), "\"device\" is not 1 to 128 bytes")?;
        require(is_normal(&self.task_root), "\"task_root\" is not absolute and plain")?;
        for prefix in [&self.worker, &self.native] {
            let plain = prefix.first().is_none_or(|program| is_normal(program));
            require(plain, "\"worker\" or \"native\" does not begin with an absolute path")?;
            require(
                prefix.iter().all(|text| is_argument(text)),
                "\"worker\" or \"native\" has NUL",
            )?;
        }
        for file in [&self.models.trusted, &self.models.keys].into_iter().flatten() {
            require(is_normal(file), "a file of \"models\" is not absolute and plain")?;
        }
        for rule in &self.allow {
            let named = |name: &String| name == "*" || is_name(name);
            if !(named(&rule.source) && rule.tools.iter().all(named)) {
                return Err(format!("the rule of {} holds what is not a name", rule.origin));
            }
        }
        Ok(())
    }
}

impl Executor {
    /// The parameters it brings along; `None` where a tool declares its own.
    fn form(self) -> Option<Vec<(&'static str, Parameter)>> {
        let text = |most| Kind::Text { alphabet: None, maximum_length: Some(most) };
        let json = || Kind::Json { maximum_bytes: None };
        Some(match self {
            Executor::Process | Executor::Native | Executor::Python => return None,
            Executor::Exec => vec![
                ("argv", Parameter::new(true, json())),
                ("environment", Parameter::new(false, json())),
                ("stdin", Parameter::new(false, text(64 * 1024))),
            ],
            Executor::Shell => vec![
                ("script", Parameter::new(true, text(SCRIPT_BYTES_MAX))),
                ("arguments", Parameter::new(false, json())),
            ],
            Executor::Sleep => {
                let range = Kind::Integer { minimum: Some(0), maximum: Some(CLOCK_MS_MAX.into()) };
                vec![("duration_ms", Parameter::new(true, range))]
            }
            Executor::Publish => vec![
                ("topic", Parameter::new(true, text(256))),
                ("payload", Parameter::new(true, json())),
                ("retain", Parameter::new(false, Kind::Boolean {})),
            ],
            Executor::Reboot => vec![],
        })
    }

    /// Whether an attempt is a process, with memory of its own.
    fn is_process(self) -> bool {
        !matches!(self, Executor::Sleep | Executor::Publish | Executor::Reboot)
    }

    /// Whether the task itself says what to run: such tools must be allowed by name.
    pub(crate) fn is_raw(self) -> bool {
        matches!(self, Executor::Exec | Executor::Shell)
    }
}

impl Tool {
    /// Whether a program of the operator's gets model files, before which a gate must stand.
    pub(crate) fn uses_models(&self) -> bool {
        let model = |parameter: &Parameter| matches!(parameter.kind, Kind::Model { .. });
        self.params.values().any(model)
    }

    /// Adds the executor's own parameters to those that the declaration narrows.
    fn complete(&mut self) -> Result<(), String> {
        let Some(form) = self.executor.form() else {
            return Ok(());
        };
        let known = |name: &String| form.iter().any(|(own, _)| own == name);
        if let Some(name) = self.params.keys().find(|name| !known(name)) {
            return Err(format!("its executor has no parameter '{name}'"));
        }
        for (name, parameter) in form {
            self.params.entry(name.into()).or_insert(parameter);
        }
        Ok(())
    }

    fn check(&self, name: &str, prefix: Option<(&str, &Vec<String>)>) -> Result<(), String> {
        require(is_name(name), "its name is not a name")?;
        require(self.params.len() <= ARGUMENTS_MAX, "it has more than 64 parameters")?;
        require(self.params.keys().all(|name| is_name(name)), "a parameter's name is not a name")?;
        if let Some((key, [])) = prefix.map(|(key, argv)| (key, argv.as_slice())) {
            return Err(format!("its executor needs the table's \"{key}\""));
        }
        self.check_argv()?;
        let program = self.program.as_deref();
        let fits = match self.executor {
            Executor::Python => program.is_some_and(is_normal),
            Executor::Native => program.is_some_and(is_name),
            _ => program.is_none(),
        };
        require(fits, "its \"program\" does not fit its executor")?;
        self.check_environment()?;
        let login = |user: &String| is_name(user) && !user.starts_with('-');
        require(self.user.as_ref().is_none_or(login), "its \"user\" is not a login name")?;
        let native = self.executor == Executor::Native || self.hosts.is_empty();
        require(native, "only a native tool has \"hosts\"")?;
        let colon = |host: &String| host.len() <= 255 && host.contains(':');
        require(self.hosts.iter().all(colon), "one of \"hosts\" is not HOST:PORT")?;
        let bounds = &self.ceilings;
        let clock = bounds.start_to_close_ms.is_none_or(|ms| (1..=CLOCK_MS_MAX).contains(&ms));
        let limits = [bounds.memory_bytes, bounds.output_bytes];
        require(clock && !limits.contains(&Some(0)), "a ceiling is out of range")
    }

    fn check_argv(&self) -> Result<(), String> {
        if self.executor != Executor::Process {
            return require(self.argv.is_empty(), "only a process tool has \"argv\"");
        }
        let absolute = match self.argv.first() {
            Some(Element::Literal(program)) => is_normal(program) && program != "/",
            _ => false,
        };
        require(absolute, "its argv does not begin with an absolute path")?;
        require(self.argv.len() <= ARGUMENTS_MAX, "its argv has more than 64 elements")?;
        let sound = self.argv.iter().all(|element| match element {
            Element::Literal(text) => is_argument(text),
            Element::Parameter { param } => self.params.contains_key(param),
        });
        require(sound, "its argv names an unknown parameter, or is too long or has NUL")?;
        let used = |name: &String| {
            self.argv.iter().any(|e| matches!(e, Element::Parameter { param } if param == name))
        };
        require(self.params.keys().all(used), "one of its parameters is not in its argv")
    }

    fn check_environment(&self) -> Result<(), String> {
        let mut names = self.environment.keys().chain(self.secrets.keys());
        require(names.all(|name| is_variable(name)), "a name in its environment is not one")?;
        let plain = self.environment.values().all(|value| is_argument(value));
        require(plain, "a value in its environment is too long or has NUL")?;
        let apart = self.secrets.keys().all(|name| !self.environment.contains_key(name));
        require(apart, "a secret is in its environment too")?;
        let files = self.secrets.values().all(|file| is_normal(file));
        require(files, "a secret's file is not absolute and plain")
    }
}

/// Whether a text may name an environment variable; `LIMPET_...` are the spawner's own.
pub(crate) fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let short = (1..=64).contains(&name.len()) && !name.starts_with("LIMPET_");
    short && !name.starts_with(|first: char| first.is_ascii_digit()) && name.bytes().all(plain)
}

fn is_argument(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains('\0')
}

fn require(condition: bool, cause: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(cause.into()) }
}

/// Name of a task's working directory: the source with `+` for each `.`, so that no two tasks share
/// it.
#[must_use]
pub fn directory_name(source: &str, id: &str) -> String {
    format!("{}.{id}", source.replace('.', "+"))
}
