//! `samba_user`: one user of the SMB server with a password that you choose and nobody sees.
//!
//! The password goes to `smbpasswd` on standard input. The system's user is ansible.builtin.user's.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ondol_kit::{Invalid, Module, Secret};
use ondol_machine::program::Program;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::md4::nt_hash;
use crate::service::word;

/// Give a system user an SMB password, or take it away
///
/// The password is compared with what Samba keeps, so that a second run changes nothing. The system user of the same name must exist.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the user.
    name: String,
    /// Its password. Required for `present`.
    password: Option<Secret>,
    /// Whether the user may log in.
    #[serde(default = "yes")]
    enabled: bool,
    /// Whether Samba should know the user.
    #[serde(default)]
    state: State,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

fn yes() -> bool {
    true
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    want: Option<Want>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Want {
    password: Secret,
    enabled: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        word("name", &params.name)?;
        let want = match params.state {
            State::Absent => None,
            State::Present => {
                let password = params.password.ok_or_else(|| {
                    Invalid::new("password", "is required for a user that is present")
                })?;
                if password.expose().is_empty() || password.expose().contains('\n') {
                    return Err(Invalid::new("password", "is empty or holds a line break"));
                }
                Some(Want {
                    password,
                    enabled: params.enabled,
                })
            }
        };
        Ok(Self {
            name: params.name,
            want,
        })
    }
}

/// What Samba keeps of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// MD4 of the password.
    hash: Secret,
    enabled: bool,
}

/// From a line of smbpasswd(5), such as `anna:1000:XX…:8846F7EA…:[U          ]:LCT-5F1E2D3C:`.
fn account(printed: &str, name: &str) -> Option<Account> {
    printed.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [user, _, _, hash, flags, ..] = fields.as_slice() else {
            return None;
        };
        (*user == name).then(|| Account {
            hash: Secret::new(*hash),
            enabled: !flags.contains('D'),
        })
    })
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create { password: Secret },
    SetPassword { password: Secret },
    Enable,
    Disable,
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create { .. } => "create the SMB user",
            Self::SetPassword { .. } => "set the password (it differs)",
            Self::Enable => "let the user in",
            Self::Disable => "lock the user out",
            Self::Remove => "remove the SMB user",
        })
    }
}

fn plan(desired: &Desired, current: Option<&Account>) -> Vec<Step> {
    let Some(want) = &desired.want else {
        return current.map(|_| Step::Remove).into_iter().collect();
    };
    let mut steps = Vec::new();
    let password = want.password.clone();
    match current {
        None => steps.push(Step::Create { password }),
        Some(account) if account.hash.expose() != nt_hash(password.expose()) => {
            steps.push(Step::SetPassword { password });
        }
        Some(_) => {}
    }
    // A new one is enabled.
    match (want.enabled, current.is_none_or(|it| it.enabled)) {
        (true, false) => steps.push(Step::Enable),
        (false, true) => steps.push(Step::Disable),
        _ => {}
    }
    steps
}

const PDBEDIT: &str = "/usr/bin/pdbedit";

/// The module.
#[derive(Default)]
pub struct SambaUser {
    /// Of the desired state, which `apply` is not given.
    name: String,
}

impl SambaUser {
    fn smbpasswd(&self, args: &[&str], stdin: String) -> anyhow::Result<()> {
        Program::new("smbpasswd")
            .args(args)
            .args([&self.name])
            .stdin(stdin)
            .succeed()?;
        Ok(())
    }

    fn set(&self, args: &[&str], password: &Secret) -> anyhow::Result<()> {
        let known = nix::unistd::User::from_name(&self.name).context("look for the user")?;
        ensure!(
            known.is_some(),
            "the system has no user {}: make it first, with ansible.builtin.user",
            self.name
        );
        self.smbpasswd(args, format!("{0}\n{0}\n", password.expose()))
    }
}

impl Module for SambaUser {
    const NAME: &'static str = "samba_user";
    const EXAMPLES: &'static str = r#"
- name: The team's user
  ondol.cloud.samba_user:
    name: team
    password: "{{ samba_team_password }}"
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Option<Account>;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Option<Account>> {
        self.name.clone_from(&desired.name);
        // Check mode comes here before the package does.
        if !Path::new(PDBEDIT).exists() {
            return Ok(None);
        }
        let printed = Program::new(PDBEDIT)
            .args(["--list", "--smbpasswd-style"])
            .succeed()
            .context("list Samba's users")?;
        Ok(account(&printed.stdout, &desired.name))
    }

    fn plan(desired: &Desired, current: &Option<Account>) -> Vec<Step> {
        plan(desired, current.as_ref())
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Create { password } => self.set(&["-s", "-a"], password),
            Step::SetPassword { password } => self.set(&["-s"], password),
            Step::Enable => self.smbpasswd(&["-e"], String::new()),
            Step::Disable => self.smbpasswd(&["-d"], String::new()),
            Step::Remove => self.smbpasswd(&["-x"], String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(change: serde_json::Value) -> Result<Desired, Invalid> {
        let mut json = serde_json::json!({"name": "anna", "password": "password"});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    const LINE: &str = "anna:1000:XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX:8846F7EAEE8FB117AD06BDD830B7586C:[U          ]:LCT-5F1E2D3C:\n";

    #[test]
    fn a_user_is_made_changed_left_alone_and_removed() {
        let is = account(LINE, "anna");
        let locked = account(&LINE.replace("[U ", "[DU"), "anna");
        for (change, current, wanted) in [
            (serde_json::json!({}), None, vec!["create the SMB user"]),
            (serde_json::json!({}), is.clone(), vec![]),
            (
                serde_json::json!({"password": "another"}),
                is.clone(),
                vec!["set the password (it differs)"],
            ),
            (serde_json::json!({}), locked, vec!["let the user in"]),
            (
                serde_json::json!({"enabled": false}),
                None,
                vec!["create the SMB user", "lock the user out"],
            ),
            (
                serde_json::json!({"state": "absent"}),
                is,
                vec!["remove the SMB user"],
            ),
            (serde_json::json!({"state": "absent"}), None, vec![]),
        ] {
            let desired = desired(change.clone()).unwrap();
            let steps: Vec<String> = plan(&desired, current.as_ref())
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(steps, wanted, "{change}");
        }
    }

    #[test]
    fn another_users_line_is_not_taken_for_this_one() {
        assert_eq!(account(LINE, "ann"), None);
        assert_eq!(account("", "anna"), None);
    }

    #[test]
    fn a_password_is_needed_and_never_shown() {
        for change in [
            serde_json::json!({"password": null}),
            serde_json::json!({"password": ""}),
            serde_json::json!({"password": "a\nb"}),
            serde_json::json!({"name": "../x"}),
        ] {
            assert!(desired(change.clone()).is_err(), "{change}");
        }
        let steps = plan(
            &desired(serde_json::json!({"password": "hunter2"})).unwrap(),
            None,
        );
        assert!(!format!("{steps:?}").contains("hunter2"));
    }
}
