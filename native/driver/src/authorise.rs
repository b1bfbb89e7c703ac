//! Whether a step may run: the policy table applied to a task, at submit and again per attempt.
//!
//! It is the final yes or no: nothing starts that did not pass [`Table::authorise`] with its
//! expanded input. It does not know how a tool is carried out.
//!
//! Every refusal names the step, the tool, and the file and line that would allow it. The codes, in
//! the order of the checks: `unknown_tool`, `not_allowed`, `signature_required` (`exec` and `shell`
//! on a broker elsewhere), `interruption_not_allowed`, `heartbeat_not_declared`,
//! `clock_above_ceiling`, `limit_above_ceiling`, `memory_impossible`, `reference_in_command`
//! (`exec`'s program), `reference_in_environment` (`exec`'s names), `reference_in_script`,
//! `parameter_unknown`, `parameter_missing`, `parameter_invalid`, and those of [`crate::executor`].
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::executor;
use crate::launch::{Refusal, Work};
use crate::plan::{Plan, Step, brief, refusal};
use crate::table::{Executor, Interruption, Table, Tool};
use crate::template::Template;

impl Table {
    /// Whether a task may be accepted. Values that hold references are checked for presence only;
    /// a step without references is checked as at dispatch.
    pub fn admit(&self, plan: &Plan) -> Result<(), Refusal> {
        for index in 0..plan.steps.len() {
            let gate = Gate::pass(self, plan, index)?;
            let mut literal = Map::new();
            let mut deferred = Vec::new();
            for (name, template) in &gate.step.input.0 {
                match template.literal() {
                    Some(value) => drop(literal.insert(name.clone(), value.clone())),
                    None => deferred.push(name.as_str()),
                }
            }
            let inputs = gate.parameters(literal, &deferred)?;
            if deferred.is_empty() {
                executor::work(&gate, inputs)?;
            }
        }
        Ok(())
    }

    /// What one attempt of a step runs, given its expanded input: everything is checked again, for
    /// the policy may have changed since the task was admitted.
    pub fn authorise(
        &self,
        plan: &Plan,
        step: usize,
        expanded: Map<String, Value>,
    ) -> Result<Work, Refusal> {
        let gate = Gate::pass(self, plan, step)?;
        let inputs = gate.parameters(expanded, &[])?;
        executor::work(&gate, inputs)
    }
}

/// A step whose tool, source, clocks and limits the policy allows; its input is yet to be checked.
pub(crate) struct Gate<'a> {
    pub(crate) table: &'a Table,
    pub(crate) plan: &'a Plan,
    pub(crate) step: &'a Step,
    pub(crate) tool: &'a Tool,
}

impl<'a> Gate<'a> {
    fn pass(table: &'a Table, plan: &'a Plan, index: usize) -> Result<Gate<'a>, Refusal> {
        let Some(step) = plan.steps.get(index) else {
            let text = format!("cannot run step {index}: task '{}' has none (refused)", plan.id);
            return Err(refusal("plan_invalid", text));
        };
        let Some(tool) = table.tools.get(&step.tool) else {
            let text = format!(
                "cannot run step '{}': tool '{}' is not declared (refused; see {})",
                step.name, step.tool, table.policy_file
            );
            return Err(refusal("unknown_tool", text));
        };
        let gate = Gate { table, plan, step, tool };
        gate.check_allowed()?;
        gate.check_manner()?;
        gate.check_references()?;
        Ok(gate)
    }

    /// A refusal that names the declaration of the tool.
    pub(crate) fn refuse(&self, code: &'static str, cause: &str) -> Refusal {
        self.refuse_at(code, cause, &self.tool.origin)
    }

    fn refuse_at(&self, code: &'static str, cause: &str, origin: &str) -> Refusal {
        let (step, tool) = (&self.step.name, &self.step.tool);
        let head = format!("cannot run step '{step}' with tool '{tool}'");
        refusal(code, format!("{head}: {cause} (refused; see {origin})"))
    }

    /// Where no rule allows the tool, the first rule for this source is named, else the whole file.
    fn check_allowed(&self) -> Result<(), Refusal> {
        let (source, raw) = (&self.plan.source, self.tool.executor.is_raw());
        let names = |name: &String| *name == self.step.tool || (name == "*" && !raw);
        let rules = self.table.allow.iter();
        let mut rules =
            rules.filter(|rule| rule.source == "*" || rule.source == *source).peekable();
        let nearest = rules.peek().map_or(&self.table.policy_file, |rule| &rule.origin);
        let Some(rule) = rules.find(|rule| rule.tools.iter().any(names)) else {
            let manner = if raw { " by its name" } else { "" };
            let cause = format!("no rule allows it to source '{source}'{manner}");
            return Err(self.refuse_at("not_allowed", &cause, nearest));
        };
        if raw && !self.table.loopback {
            let cause = "the broker is not this device, and no signed task is known";
            return Err(self.refuse_at("signature_required", cause, &rule.origin));
        }
        Ok(())
    }

    /// How a step may run: interruption, clocks and limits.
    fn check_manner(&self) -> Result<(), Refusal> {
        let (step, tool) = (self.step, self.tool);
        let fits = match tool.on_interruption {
            Interruption::Stop => step.stop,
            Interruption::Rerun => !step.stop,
            Interruption::Any => true,
        };
        if !fits {
            let word = if step.stop { "stop" } else { "rerun" };
            let cause = format!("its on_interruption may not be \"{word}\"");
            return Err(self.refuse("interruption_not_allowed", &cause));
        }
        if step.clocks.heartbeat_ms.is_some() && !tool.heartbeat {
            let cause = "it has a heartbeat clock, which the tool does not declare";
            return Err(self.refuse("heartbeat_not_declared", cause));
        }
        let clock = Some(u64::from(step.clocks.start_to_close_ms));
        let ceiling = tool.ceilings.start_to_close_ms.map(u64::from);
        self.check_ceiling("clock_above_ceiling", "start_to_close_ms", clock, ceiling)?;
        let (limits, bounds) = (&step.limits, &tool.ceilings);
        let code = "limit_above_ceiling";
        self.check_ceiling(code, "memory_bytes", limits.memory_bytes, bounds.memory_bytes)?;
        self.check_ceiling(code, "output_bytes", limits.output_bytes, bounds.output_bytes)?;
        let (wanted, pool) = (self.table.memory_bytes(step).unwrap_or(0), self.table.pool_bytes);
        if wanted > pool {
            let cause = format!("its memory {wanted} is above the {pool} of all steps together");
            return Err(self.refuse("memory_impossible", &cause));
        }
        Ok(())
    }

    fn check_ceiling(
        &self,
        code: &'static str,
        name: &str,
        wanted: Option<u64>,
        ceiling: Option<u64>,
    ) -> Result<(), Refusal> {
        match (wanted, ceiling) {
            (Some(wanted), Some(ceiling)) if wanted > ceiling => {
                let cause = format!("{name} {wanted} is above its ceiling {ceiling}");
                Err(self.refuse(code, &cause))
            }
            _ => Ok(()),
        }
    }

    /// What is run must be readable in the task itself: a result of an earlier step chooses no
    /// program, no script and no name of a variable.
    fn check_references(&self) -> Result<(), Refusal> {
        let input = &self.step.input.0;
        if self.tool.executor == Executor::Exec {
            let literal = match input.get("argv") {
                Some(Template::Array(items)) => items.first().is_some_and(is_literal),
                other => other.is_none_or(is_literal),
            };
            if !literal {
                let cause = "a reference decides argv[0]";
                return Err(self.refuse("reference_in_command", cause));
            }
            if let Some(Template::Text(_)) = input.get("environment") {
                let cause = "a reference decides the names in \"environment\"";
                return Err(self.refuse("reference_in_environment", cause));
            }
        }
        let script = input.get("script").is_none_or(is_literal);
        if self.tool.executor == Executor::Shell && !script {
            let cause = "\"script\" holds a reference; \"arguments\" may";
            return Err(self.refuse("reference_in_script", cause));
        }
        Ok(())
    }

    /// Checks values against the tool's parameters and returns them as the tool gets them, defaults
    /// included; the values of `deferred` names are not known yet.
    fn parameters(
        &self,
        values: Map<String, Value>,
        deferred: &[&str],
    ) -> Result<Map<String, Value>, Refusal> {
        let params = &self.tool.params;
        let given = values.keys().map(String::as_str).chain(deferred.iter().copied());
        for name in given {
            if !params.contains_key(name) {
                let cause = format!("it has no parameter '{}'", brief(name));
                return Err(self.refuse("parameter_unknown", &cause));
            }
        }
        let directory = self.table.directory(&self.plan.source, &self.plan.id);
        let mut admitted = Map::new();
        for (name, parameter) in params {
            let value = values.get(name).or(parameter.default.as_ref());
            if deferred.contains(&name.as_str()) {
                continue;
            }
            let Some(value) = value else {
                if parameter.required {
                    let cause = format!("parameter '{name}' has no value");
                    return Err(self.refuse("parameter_missing", &cause));
                }
                continue;
            };
            let value = parameter.admit(value, &directory).map_err(|cause| {
                self.refuse("parameter_invalid", &format!("parameter '{name}' {cause}"))
            })?;
            admitted.insert(name.clone(), value);
        }
        Ok(admitted)
    }
}

fn is_literal(template: &Template) -> bool {
    template.literal().is_some()
}
