//! What a module may rely on, seen from outside: check mode, rounds, failures in the middle, secrets, panics.

use std::cell::RefCell;
use std::fmt;

use ondol_kit::{
    Call, Entry, Finding, Invalid, Module, Notices, Probe, Reply, Secret, TextDiff, run,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A role on a server.
///
/// It is the smallest thing with a password.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Name of the role.
    name: String,
    /// Its password.
    password: Option<Secret>,
    /// Its former name.
    #[deprecated]
    #[expect(dead_code, reason = "giving it is what counts")]
    old_name: Option<String>,
}

struct Desired(Params);

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if params.name.contains(' ') {
            return Err(Invalid::new("name", "must not hold a space"));
        }
        Ok(Self(params))
    }
}

/// The server, kept for each thread and so for each test.
#[derive(Clone, Default)]
struct World {
    exists: bool,
    password: Option<String>,
    applied: usize,
    /// What goes wrong.
    fault: Fault,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    Lies,
    RefusesPassword,
    Panics,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

#[derive(Default)]
struct Role;

enum Step {
    Create { name: String },
    SetPassword { name: String, password: Secret },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name } => write!(f, "create role {name:?}"),
            Self::SetPassword { name, password } => {
                write!(f, "set password of {name:?} to {password}")
            }
        }
    }
}

impl Module for Role {
    const NAME: &'static str = "role";
    const EXAMPLES: &'static str = "- ondol.cloud.role:\n    name: app\n";
    const ROUNDS: usize = 2;

    type Params = Params;
    type Desired = Desired;
    type Current = World;
    type Step = Step;

    fn observe(&mut self, _: &Desired) -> anyhow::Result<World> {
        Ok(WORLD.with_borrow(Clone::clone))
    }

    /// A password can only be set once the role exists, so it takes two rounds.
    fn plan(desired: &Desired, current: &World) -> Vec<Step> {
        let name = desired.0.name.clone();
        if !current.exists {
            return vec![Step::Create { name }];
        }
        desired
            .0
            .password
            .iter()
            .filter(|password| current.password.as_deref() != Some(password.expose()))
            .map(|password| Step::SetPassword {
                name: name.clone(),
                password: password.clone(),
            })
            .collect()
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        WORLD.with_borrow_mut(|world| {
            world.applied += 1;
            match (world.fault, step) {
                (Fault::Lies, _) => {}
                (Fault::Panics, Step::SetPassword { password, .. }) => {
                    panic!("no idea what to do with {:?}", password.expose())
                }
                (Fault::RefusesPassword, Step::SetPassword { password, .. }) => {
                    let refused = format!("server says: {:?} is too short", password.expose());
                    return Err(anyhow::anyhow!(refused).context("send the password"));
                }
                (_, Step::Create { .. }) => world.exists = true,
                (_, Step::SetPassword { password, .. }) => {
                    world.password = Some(password.expose().to_owned());
                }
            }
            Ok(())
        })
    }

    fn diff(desired: &Desired, current: &World) -> Vec<TextDiff> {
        if current.exists {
            return Vec::new();
        }
        let after = format!("{}\n", desired.0.name);
        vec![TextDiff::new("roles", "", after)]
    }

    fn notices(&mut self) -> Notices {
        Notices {
            warnings: vec!["the server is old".to_owned()],
            deprecations: Vec::new(),
        }
    }
}

fn call(args: Value) -> Reply {
    let call = Call::parse(&args.to_string()).expect("an object");
    run(&Entry::module::<Role>(), &call)
}

fn fault(fault: Fault) {
    WORLD.with_borrow_mut(|world| world.fault = fault);
}

fn applied() -> usize {
    WORLD.with_borrow(|world| world.applied)
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.to_line()).expect("a reply is JSON")
}

#[test]
fn check_apply_repeat() {
    let args = json!({"name": "app", "password": "hunter2", "_ansible_diff": true});
    let mut checked = args.clone();
    checked["_ansible_check_mode"] = json!(true);
    let diff = json!([{"before": "", "after": "app\n", "before_header": "roles", "after_header": "roles"}]);
    let warnings = json!(["the server is old"]);

    assert_eq!(
        json_of(&call(checked)),
        json!({"changed": true, "diff": diff, "steps": ["create role \"app\""], "warnings": warnings})
    );
    assert_eq!(applied(), 0, "check mode must not apply");
    let steps = ["create role \"app\"", "set password of \"app\" to ***"];
    assert_eq!(
        json_of(&call(args.clone())),
        json!({"changed": true, "diff": diff, "steps": steps, "warnings": warnings})
    );
    assert_eq!(
        json_of(&call(args)),
        json!({"changed": false, "steps": [], "warnings": warnings})
    );
    assert_eq!(applied(), 2);
}

#[test]
fn without_texts_the_step_lines_are_the_diff() {
    WORLD.with_borrow_mut(|world| world.exists = true);
    let reply = call(json!({"name": "app", "password": "hunter2", "_ansible_diff": true}));
    assert_eq!(
        reply.get("diff"),
        Some(&json!({"prepared": "set password of \"app\" to ***\n"}))
    );
    let reply = call(json!({"name": "app", "password": "hunter3"}));
    assert_eq!(reply.get("diff"), None, "no diff unless it is asked for");
}

#[test]
fn a_server_that_lies_is_an_error() {
    fault(Fault::Lies);
    let reply = call(json!({"name": "app"}));
    assert!(reply.failed());
    assert_eq!(
        reply.get("msg"),
        Some(&json!("did not converge: create role \"app\""))
    );
    assert_eq!(applied(), 2, "one for each round");
}

#[test]
fn a_failure_in_the_middle_tells_what_was_done_and_the_whole_chain() {
    fault(Fault::RefusesPassword);
    let reply = call(json!({"name": "app", "password": "hunter2"}));
    assert_eq!(
        json_of(&reply),
        json!({
            "changed": true, "failed": true, "steps": ["create role \"app\""],
            "msg": "set password of \"app\" to ***: send the password: server says: \"***\" is too short",
            "warnings": ["the server is old"],
        })
    );
}

#[test]
fn a_panic_is_a_failure_without_the_secret() {
    fault(Fault::Panics);
    let reply = call(json!({"name": "app", "password": "hunter2"}));
    let message = reply.get("msg").and_then(Value::as_str).unwrap_or_default();
    assert!(reply.failed());
    assert!(
        message.starts_with(
            "bug in ondol.cloud.role: no idea what to do with \"***\" at modules/kit/tests/contract.rs:"
        ),
        "{message}"
    );
}

#[test]
fn arguments_are_echoed_for_vvv_only_and_without_secrets() {
    let args = |verbosity: u8, no_log: bool| json!({"name": "app", "password": "hunter2", "_ansible_verbosity": verbosity, "_ansible_no_log": no_log});
    let echo = json!({"module_args": {"name": "app", "password": "***"}});
    assert_eq!(call(args(3, false)).get("invocation"), Some(&echo));
    assert_eq!(call(args(2, false)).get("invocation"), None);
    assert_eq!(call(args(3, true)).get("invocation"), None);
    assert!(!call(args(4, false)).to_line().contains("hunter2"));
}

#[test]
fn wrong_arguments_touch_nothing() {
    for (args, message) in [
        (json!({"name": "a b"}), "name: must not hold a space"),
        (
            json!({"nme": "app"}),
            "nme: unknown parameter, did you mean \"name\"? (known are name, password, old_name); name: missing required parameter: Name of the role.",
        ),
    ] {
        let reply = call(args);
        assert_eq!(
            json_of(&reply),
            json!({"changed": false, "failed": true, "msg": message})
        );
    }
    assert_eq!(applied(), 0);
}

#[test]
fn a_misspelt_secret_is_not_shown_either() {
    let reply = call(json!({"name": "hunter2", "passwrd": "hunter2", "_ansible_verbosity": 4}));
    assert!(reply.failed());
    assert!(!reply.to_line().contains("hunter2"), "{}", reply.to_line());
}

#[test]
fn a_deprecated_parameter_says_so() {
    let reply = call(json!({"name": "app", "old_name": "x", "_ansible_check_mode": true}));
    assert_eq!(
        reply.get("deprecations"),
        Some(&json!([{
            "msg": "parameter \"old_name\" of ondol.cloud.role", "version": "2.0.0",
            "collection_name": "ondol.cloud",
        }]))
    );
}

#[test]
fn documentation_comes_from_the_parameters() {
    let docs = Entry::module::<Role>().docs().expect("documented");
    let text: String = docs
        .iter()
        .map(|(name, yaml)| format!("{name}:\n{yaml}"))
        .collect();
    insta::assert_snapshot!(text);
}

/// Looks at a port.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Look {
    /// The port.
    port: u16,
}

#[derive(Serialize, JsonSchema)]
struct Seen {
    /// Whether it is open.
    open: bool,
}

#[derive(Default)]
struct Port;

impl Probe for Port {
    const NAME: &'static str = "port";
    const EXAMPLES: &'static str = "- ondol.cloud.port:\n    port: 22\n";

    type Params = Look;
    type Desired = Look;
    type Answer = Seen;

    fn probe(&mut self, desired: &Look) -> anyhow::Result<Finding<Seen>> {
        match desired.port {
            0 => Err(anyhow::anyhow!("no such port").context("look at port 0")),
            22 => Ok(Finding::good(Seen { open: true }).warn("slow")),
            port => Ok(Finding::bad(
                Seen { open: false },
                format!("port {port} is closed"),
            )),
        }
    }
}

#[test]
fn a_probe_never_changes_and_keeps_its_answer_when_it_fails() {
    for check in [false, true] {
        for (port, wanted) in [
            (
                22,
                json!({"changed": false, "open": true, "warnings": ["slow"]}),
            ),
            (
                23,
                json!({"changed": false, "failed": true, "msg": "port 23 is closed", "open": false}),
            ),
            (
                0,
                json!({"changed": false, "failed": true, "msg": "look at port 0: no such port"}),
            ),
        ] {
            let args = json!({"port": port, "_ansible_check_mode": check}).to_string();
            let reply = run(
                &Entry::probe::<Port>(),
                &Call::parse(&args).expect("an object"),
            );
            assert_eq!(json_of(&reply), wanted);
        }
    }
}
