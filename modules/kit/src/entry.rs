//! One module with its type erased, and the course of one call: decode, check, run, redact, answer.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::converge::converge;
use crate::docs;
use crate::module::{Finding, Invalid, Module, Notices, Probe};
use crate::params::{Learnt, decode_learning};
use crate::redact::Redactor;
use crate::reference;
use crate::reply::{Call, Reply};
use crate::schema;

/// One module in the list of a binary.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub examples: &'static str,
    /// Whether it only looks.
    pub read_only: bool,
    call: fn(&Call, &mut Learnt) -> Reply,
    params: fn() -> Value,
    answer: Option<fn() -> Value>,
}

impl Entry {
    pub const fn module<M: Module>() -> Self {
        Self {
            name: M::NAME,
            examples: M::EXAMPLES,
            read_only: false,
            call: call_module::<M>,
            params: schema::of_params::<M::Params>,
            answer: None,
        }
    }

    pub const fn probe<P: Probe>() -> Self {
        Self {
            name: P::NAME,
            examples: P::EXAMPLES,
            read_only: true,
            call: call_probe::<P>,
            params: schema::of_params::<P::Params>,
            answer: Some(schema::of_answer::<P::Answer>),
        }
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Value {
        (self.params)()
    }

    /// JSON Schema of what a probe returns.
    pub fn answer_schema(&self) -> Option<Value> {
        self.answer.map(|answer| answer())
    }

    /// Ansible's `DOCUMENTATION`, `EXAMPLES` and `RETURN`, each in YAML.
    pub fn docs(&self) -> anyhow::Result<[(&'static str, String); 3]> {
        docs::of(self)
    }

    /// A page of Markdown. `collection` is the module's, such as `ondol.cloud`; the pages of its other modules are
    /// taken to be beside this one.
    pub fn reference(&self, collection: &str) -> anyhow::Result<String> {
        reference::page(self, collection)
    }

    /// What it is for, in one sentence of Markdown.
    pub fn summary(&self, collection: &str) -> String {
        reference::summary(self, collection)
    }
}

/// Answers one call of one module. A panic becomes a failure.
pub fn run(entry: &Entry, call: &Call) -> Reply {
    let mut learnt = Learnt::default();
    let mut reply = match guarded(|| (entry.call)(call, &mut learnt)) {
        Ok(reply) => reply,
        Err(panic) => Reply::failure(format!("bug in ondol.cloud.{}: {panic}", entry.name)),
    };
    reply.note(Notices {
        warnings: Vec::new(),
        deprecations: std::mem::take(&mut learnt.deprecated)
            .into_iter()
            .map(|path| format!("parameter {path:?} of ondol.cloud.{}", entry.name))
            .collect(),
    });
    // Ansible itself shows the arguments from -vvv on.
    if call.verbosity >= 3 && !call.no_log {
        reply.echo(std::mem::take(&mut learnt.echo));
    }
    reply.redact(&Redactor::new(learnt.secrets));
    reply
}

fn desired<P, D>(call: &Call, learnt: &mut Learnt) -> Result<D, Reply>
where
    P: DeserializeOwned + JsonSchema,
    D: TryFrom<P, Error: Into<Invalid>>,
{
    let params: P = decode_learning(call.args.clone(), learnt)
        .map_err(|problems| Reply::failure(problems.to_string()))?;
    D::try_from(params).map_err(|error| {
        let invalid: Invalid = error.into();
        Reply::failure(invalid.to_string())
    })
}

fn call_module<M: Module>(call: &Call, learnt: &mut Learnt) -> Reply {
    match desired::<M::Params, M::Desired>(call, learnt) {
        Ok(desired) => Reply::of_outcome(
            converge(&mut M::default(), &desired, call.mode()),
            call.diff,
        ),
        Err(reply) => reply,
    }
}

fn call_probe<P: Probe>(call: &Call, learnt: &mut Learnt) -> Reply {
    let desired = match desired::<P::Params, P::Desired>(call, learnt) {
        Ok(desired) => desired,
        Err(reply) => return reply,
    };
    let finding = match P::default().probe(&desired) {
        Ok(finding) => finding,
        Err(error) => return Reply::failure(format!("{error:#}")),
    };
    match serde_json::to_value(finding.answer) {
        Ok(answer) => Reply::of_finding(Finding {
            answer,
            failure: finding.failure,
            notices: finding.notices,
        }),
        Err(error) => Reply::failure(format!(
            "bug in the module: its answer is not JSON: {error}"
        )),
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `act`; a panic comes back as its message and place. The usual report on standard error is left out: over a
/// terminal it would mix with the result.
fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        PANIC.set(Some(format!("{}{place}", payload(info.payload()))));
    }));
    let result = catch_unwind(AssertUnwindSafe(act));
    std::panic::set_hook(before);
    result.map_err(|panic| PANIC.take().unwrap_or_else(|| payload(&*panic)))
}

fn payload(panic: &dyn Any) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}
