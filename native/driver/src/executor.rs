//! How each executor turns a checked input into the work of an attempt.
//!
//! Whether the step may run at all was decided before. The refusals that are left come from the
//! values: `argument_too_long` (above 8 KiB, or more than 64 of them), `argument_has_nul`,
//! `argument_is_option` (a text that begins with `-` and would be read as an option),
//! `input_too_long` (stdin above 64 KiB), `environment_invalid`, `topic_invalid`,
//! `payload_too_long`, and `parameter_missing` and `parameter_invalid` for an input that lacks its
//! executor's form.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::authorise::Gate;
use crate::expand::TEXT_BYTES_MAX;
use crate::launch::{Launch, Refusal, Work};
use crate::parameter::{Kind, Parameter};
use crate::table::{ARGUMENTS_MAX, Acceptance, Element, Executor, SCRIPT_BYTES_MAX, is_variable};

/// Bytes of a child's standard input.
pub const STDIN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a published payload.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Levels of a published topic.
pub const TOPIC_LEVELS_MAX: usize = 4;
/// The native tool that is told which models the policy admits.
const INSPECT: &str = "inspect";
/// Where a child finds programs, unless its tool says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The work of one attempt; `inputs` were admitted by the tool's parameters.
pub(crate) fn work(gate: &Gate, inputs: Map<String, Value>) -> Result<Work, Refusal> {
    match gate.tool.executor {
        Executor::Process => process(gate, &inputs),
        Executor::Native => native(gate, &inputs),
        Executor::Python => python(gate, inputs),
        Executor::Exec => exec(gate, &inputs),
        Executor::Shell => shell(gate, &inputs),
        Executor::Sleep => sleep(gate, &inputs),
        Executor::Publish => publish(gate, &inputs),
        Executor::Reboot => Ok(Work::Reboot),
    }
}

fn process(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let mut argv = Vec::new();
    // After a literal "--" the program itself no longer looks for options.
    let mut open = true;
    for element in &gate.tool.argv {
        let (name, value) = match element {
            Element::Literal(text) => {
                open = open && text != "--";
                argv.push(text.clone());
                continue;
            }
            Element::Parameter { param } => (param, inputs.get(param)),
        };
        let kind = gate.tool.params.get(name).map(|parameter| &parameter.kind);
        let text = match (value, kind) {
            (None, _) => continue,
            (Some(value), Some(Kind::Json { .. })) => value.to_string(),
            (Some(Value::String(text)), _) => text.clone(),
            (Some(value), _) => value.to_string(),
        };
        if open && text.starts_with('-') && matches!(kind, Some(Kind::Text { .. })) {
            let cause = format!("parameter '{name}' begins with '-' and no \"--\" precedes it");
            return Err(gate.refuse("argument_is_option", &cause));
        }
        argv.push(text);
    }
    check_arguments(gate, &argv)?;
    Ok(launch(gate, guarded(gate, inputs, argv), None, BTreeMap::new()))
}

/// The argv behind a gate, where it uses models: our own file looks at them in the attempt's
/// process, within its clocks and limits, and becomes the program if the policy admits them.
fn guarded(gate: &Gate, inputs: &Map<String, Value>, argv: Vec<String>) -> Vec<String> {
    let model = |(name, parameter): (&String, &Parameter)| match parameter.kind {
        Kind::Model { .. } => inputs.get(name).and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let models: Vec<String> = gate.tool.params.iter().filter_map(model).collect();
    if models.is_empty() {
        return argv;
    }
    let policy = &gate.table.models;
    let mut whole = gate.table.native.clone();
    whole.push("gate".into());
    if policy.accept == Acceptance::Suspect {
        whole.push("--accept-suspect".into());
    }
    for (option, value) in [("--trusted", &policy.trusted), ("--keys", &policy.keys)] {
        whole.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
    }
    whole.extend(models.into_iter().flat_map(|model| ["--model".to_owned(), model]));
    whole.push("--".into());
    whole.extend(argv);
    whole
}

/// A tool of ours opens files beneath their directory with the kernel's help, so it is told which.
fn native(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let directory = gate.table.directory(&gate.plan.source, &gate.plan.id);
    let mut beneath = Map::new();
    for (name, parameter) in &gate.tool.params {
        if let Kind::Path { beneath: root } | Kind::Model { beneath: root } = &parameter.kind {
            let root = root.as_deref().unwrap_or(&directory);
            beneath.insert(name.clone(), root.into());
        }
    }
    let mut stdin = json!({"input": inputs, "hosts": gate.tool.hosts, "beneath": beneath});
    if gate.tool.program.as_deref() == Some(INSPECT) {
        stdin["models"] = json!(gate.table.models);
        stdin["pool_bytes"] = json!(gate.table.pool_bytes);
    }
    program(gate, &gate.table.native, stdin.to_string())
        .map(|(argv, stdin)| launch(gate, argv, Some(stdin), BTreeMap::new()))
}

fn python(gate: &Gate, inputs: Map<String, Value>) -> Result<Work, Refusal> {
    let stdin = Value::Object(inputs.clone()).to_string();
    let (argv, stdin) = program(gate, &gate.table.worker, stdin)?;
    Ok(launch(gate, guarded(gate, &inputs, argv), Some(stdin), BTreeMap::new()))
}

fn program(
    gate: &Gate,
    prefix: &[String],
    stdin: String,
) -> Result<(Vec<String>, Vec<u8>), Refusal> {
    let argv = prefix.iter().chain(&gate.tool.program).cloned().collect();
    Ok((argv, check_stdin(gate, stdin)?))
}

fn exec(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let argv = arguments(gate, "argv", Some(required(gate, inputs, "argv")?))?;
    if !argv.first().is_some_and(|program| program.starts_with('/')) {
        return Err(gate.refuse("parameter_invalid", "argv[0] is not an absolute path"));
    }
    let stdin = match inputs.get("stdin") {
        None => None,
        Some(value) => Some(check_stdin(gate, text(gate, "stdin", value)?.to_owned())?),
    };
    let mut environment = BTreeMap::new();
    match inputs.get("environment") {
        None => {}
        Some(Value::Object(map)) => {
            for (name, value) in map {
                let value = text(gate, "environment", value)?;
                check_variable(gate, name, value)?;
                environment.insert(name.clone(), value.to_owned());
            }
        }
        Some(_) => {
            let cause = "parameter 'environment' is not an object";
            return Err(gate.refuse("parameter_invalid", cause));
        }
    }
    Ok(launch(gate, argv, stdin, environment))
}

fn shell(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let script = text(gate, "script", required(gate, inputs, "script")?)?;
    if script.len() > SCRIPT_BYTES_MAX {
        let cause = format!("its script exceeds {SCRIPT_BYTES_MAX} bytes");
        return Err(gate.refuse("argument_too_long", &cause));
    }
    if script.contains('\0') {
        return Err(gate.refuse("argument_has_nul", "its script holds NUL"));
    }
    let arguments = arguments(gate, "arguments", inputs.get("arguments"))?;
    let mut argv: Vec<String> = ["/bin/sh", "-eu", "-c", script].map(String::from).into();
    if !arguments.is_empty() {
        // The shell takes the first word after a script as `$0`.
        argv.push("sh".into());
        argv.extend(arguments);
    }
    Ok(launch(gate, argv, None, BTreeMap::new()))
}

fn sleep(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let duration = required(gate, inputs, "duration_ms")?.as_u64();
    let invalid = || gate.refuse("parameter_invalid", "parameter 'duration_ms' is not a duration");
    duration.map(Duration::from_millis).map(Work::Sleep).ok_or_else(invalid)
}

fn publish(gate: &Gate, inputs: &Map<String, Value>) -> Result<Work, Refusal> {
    let topic = text(gate, "topic", required(gate, inputs, "topic")?)?;
    let levels = topic.split('/').count();
    let forbidden = |character: char| character.is_control() || "+#".contains(character);
    if levels > TOPIC_LEVELS_MAX
        || topic.split('/').any(str::is_empty)
        || topic.starts_with('$')
        || topic.contains(forbidden)
    {
        let cause = "its topic is not 1 to 4 levels below the device's prefix, without + and #";
        return Err(gate.refuse("topic_invalid", cause));
    }
    let payload = match required(gate, inputs, "payload")? {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        let cause = format!("its payload exceeds {PAYLOAD_BYTES_MAX} bytes");
        return Err(gate.refuse("payload_too_long", &cause));
    }
    let retain = inputs.get("retain") == Some(&Value::Bool(true));
    Ok(Work::Publish { topic: topic.into(), payload: payload.into_bytes(), retain })
}

/// A child with everything the declaration says about it. The declaration's variables win over the
/// base; `environment`, which comes from a task, was checked not to touch them.
fn launch(
    gate: &Gate,
    argv: Vec<String>,
    stdin: Option<Vec<u8>>,
    environment: BTreeMap<String, String>,
) -> Work {
    let directory = gate.table.directory(&gate.plan.source, &gate.plan.id);
    let base = [("PATH", PATH), ("HOME", &directory), ("LANG", "C.UTF-8")];
    let mut whole: BTreeMap<String, String> =
        base.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    whole.extend(environment);
    whole.extend(gate.tool.environment.clone());
    let secrets = gate.tool.secrets.iter();
    Work::Process(Launch {
        step: gate.step.name.clone(),
        argv,
        environment: whole.into_iter().collect(),
        directory: PathBuf::from(directory),
        stdin,
        user: gate.tool.user.clone(),
        secrets: secrets.map(|(name, file)| (name.clone(), PathBuf::from(file))).collect(),
    })
}

/// The elements of an argv that comes from a task: texts, numbers and booleans.
fn arguments(gate: &Gate, name: &str, value: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let invalid =
        |cause: &str| gate.refuse("parameter_invalid", &format!("parameter '{name}' {cause}"));
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(invalid("is not an array")),
    };
    let texts = items.iter().map(|item| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(item.to_string()),
        _ => Err(invalid("holds what is not a text, a number or a boolean")),
    });
    let argv = texts.collect::<Result<Vec<String>, Refusal>>()?;
    check_arguments(gate, &argv)?;
    Ok(argv)
}

fn check_arguments(gate: &Gate, argv: &[String]) -> Result<(), Refusal> {
    if argv.len() > ARGUMENTS_MAX || argv.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        let cause =
            format!("an argument exceeds {TEXT_BYTES_MAX} bytes, or {ARGUMENTS_MAX} in all");
        return Err(gate.refuse("argument_too_long", &cause));
    }
    if argv.iter().any(|text| text.contains('\0')) {
        return Err(gate.refuse("argument_has_nul", "an argument holds NUL"));
    }
    Ok(())
}

fn check_variable(gate: &Gate, name: &str, value: &str) -> Result<(), Refusal> {
    let tool = gate.tool;
    if !is_variable(name) || tool.environment.contains_key(name) || tool.secrets.contains_key(name)
    {
        let cause = "a variable has no valid name, or is set by the declaration";
        return Err(gate.refuse("environment_invalid", cause));
    }
    if value.len() > TEXT_BYTES_MAX {
        let cause = format!("a variable exceeds {TEXT_BYTES_MAX} bytes");
        return Err(gate.refuse("argument_too_long", &cause));
    }
    if value.contains('\0') {
        return Err(gate.refuse("argument_has_nul", "a variable holds NUL"));
    }
    Ok(())
}

fn check_stdin(gate: &Gate, text: String) -> Result<Vec<u8>, Refusal> {
    if text.len() <= STDIN_BYTES_MAX {
        return Ok(text.into_bytes());
    }
    let cause = format!("its input exceeds {STDIN_BYTES_MAX} bytes");
    Err(gate.refuse("input_too_long", &cause))
}

fn required<'v>(
    gate: &Gate,
    inputs: &'v Map<String, Value>,
    name: &str,
) -> Result<&'v Value, Refusal> {
    let missing = || gate.refuse("parameter_missing", &format!("parameter '{name}' has no value"));
    inputs.get(name).ok_or_else(missing)
}

fn text<'v>(gate: &Gate, name: &str, value: &'v Value) -> Result<&'v str, Refusal> {
    let cause = || gate.refuse("parameter_invalid", &format!("parameter '{name}' is not a text"));
    value.as_str().ok_or_else(cause)
}
