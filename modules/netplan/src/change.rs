//! A change of a guest's network that takes itself back: the scripts for the guest, and the reading of what they answer.
//!
//! `begin` checks the candidate with netplan's own generator and starts a guard on the guest, a transient systemd unit. The guard
//! brings the candidate up from `/run/netplan`, where it shadows `/etc/netplan` and does not survive a reboot, and waits. `confirm`, sent over the
//! new address, makes it durable. Without it (client killed, guest cut off, time over, guard killed) the old state comes back.
//!
//! Nothing here runs anything. Every script is for `sh` as root, best on its standard input, and answers on standard output;
//! a non-zero exit is trouble with the transport, not an answer.

use std::fmt::Write as _;
use std::time::Duration;

use crate::observe::{FILE, Observed};
use crate::plan::{Desired, Presence, Step, link_of};
use crate::render::render;
use crate::status::{Status, parse_status_lines};

const STATUS: &str = include_str!("scripts/status.sh");
const BEGIN: &str = include_str!("scripts/begin.sh");
const APPLY: &str = include_str!("scripts/apply.sh");
const SETTLE: &str = include_str!("scripts/settle.sh");
const CONFIRM: &str = include_str!("scripts/confirm.sh");
const ABORT: &str = include_str!("scripts/abort.sh");

/// What `begin` needs to know. Made by `Change::of`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub id: ChangeId,
    /// The file's text.
    pub text: String,
    /// Whole seconds until the guest takes the change back.
    pub rollback_after: Duration,
    /// Paths of files that have to go.
    replaces: Vec<String>,
    /// Devices as they are called now, and as they will be called.
    devices: Vec<(String, String)>,
    /// `ADDRESS DEVICE` that must be up before the change may be confirmed.
    addresses: Vec<(String, String)>,
}

/// Letters, digits and hyphens, 1 to 64 of them; chosen by the client, for example a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeId(String);

impl ChangeId {
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fine.then_some(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Change {
    /// `None` when no step of the plan needs a change that can be taken back.
    pub fn of(
        desired: &Desired,
        observed: &Observed,
        steps: &[Step],
        id: ChangeId,
        rollback_after: Duration,
    ) -> Option<Self> {
        let Presence::Present(network) = &desired.presence else {
            return None;
        };
        if !steps.iter().any(Step::is_risky) {
            return None;
        }
        let replaces = steps.iter().filter_map(|step| match step {
            Step::MoveAside { path, .. } => Some(path.clone()),
            _ => None,
        });
        let mut devices = Vec::new();
        let mut addresses = Vec::new();
        for (key, interface) in &network.interfaces {
            let Some((now, link)) = link_of(key, interface, observed) else {
                continue;
            };
            let then = interface.set_name.as_deref().unwrap_or(now);
            devices.push((now.to_owned(), then.to_owned()));
            // Without a carrier networkd sets no address, and `optional` says that this is fine.
            if link.carrier || interface.optional != Some(true) {
                for address in &interface.addresses {
                    addresses.push((address.to_string(), then.to_owned()));
                }
            }
        }
        Some(Self {
            id,
            text: render(network),
            // systemd would read 0 as "for ever".
            rollback_after: Duration::from_secs(rollback_after.as_secs().max(1)),
            replaces: replaces.collect(),
            devices,
            addresses,
        })
    }
}

/// Starts the change. Answer: `parse_begin`.
pub fn begin(change: &Change) -> String {
    let lines = |lines: &mut dyn Iterator<Item = String>| -> String {
        lines.map(|line| line + "\n").collect()
    };
    let renames = change.devices.iter().filter(|(now, then)| now != then);
    let files = [
        ("id", lines(&mut [change.id.0.clone()].into_iter())),
        ("candidate", change.text.clone()),
        (
            "after",
            lines(&mut [change.rollback_after.as_secs().to_string()].into_iter()),
        ),
        ("replaces", lines(&mut change.replaces.iter().cloned())),
        (
            "devices",
            lines(&mut change.devices.iter().map(|(now, _)| now.clone())),
        ),
        (
            "renames",
            lines(&mut renames.map(|(now, then)| format!("{now} {then}"))),
        ),
        (
            "addresses",
            lines(
                &mut change
                    .addresses
                    .iter()
                    .map(|(address, device)| format!("{address} {device}")),
            ),
        ),
    ];
    let mut script = String::from(STATUS);
    // $1: directory of the change; $2: directory of the guard's scripts.
    script.push_str("ondol_netplan_payload() {\n");
    for (name, text) in &files {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "printf %s {} > \"$1/{name}\" &&", quote(text));
    }
    for (name, text) in [("apply.sh", APPLY), ("settle.sh", SETTLE)] {
        let _ = writeln!(script, "printf %s {} > \"$2/{name}\" &&", quote(text));
    }
    script.push_str("true\n}\n");
    script.push_str(BEGIN);
    script
}

/// Why a change was not begun. The guest is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// Another change is under way; try again when it has settled.
    #[error("the guest refuses: {0}")]
    Refused(String),
    /// netplan's own words.
    #[error("netplan refuses the configuration: {0}")]
    Invalid(String),
    #[error("the change could not be begun: {0}")]
    Failed(String),
    /// Not an answer of the script: the connection broke, or something else printed. The change may have been begun: ask `status`.
    #[error("the guest's answer cannot be read: {0:?}")]
    Unreadable(String),
}

/// Reads the answer of `begin`.
pub fn parse_begin(id: &ChangeId, stdout: &str) -> Result<(), BeginError> {
    let (first, rest) = stdout.split_once('\n').unwrap_or((stdout, ""));
    let (word, why) = first.split_once(' ').unwrap_or((first, ""));
    match word {
        "begun" if why == id.0 => Ok(()),
        "refused" => Err(BeginError::Refused(why.to_owned())),
        "invalid" => Err(BeginError::Invalid(rest.trim().to_owned())),
        "failed" => Err(BeginError::Failed(why.to_owned())),
        _ => Err(BeginError::Unreadable(stdout.chars().take(200).collect())),
    }
}

/// Makes the change durable; waits on the guest until its addresses are up, at most until the deadline. Answer: `parse_status`,
/// which says `Confirmed` or why not.
pub fn confirm(id: &ChangeId) -> String {
    format!(
        "{STATUS}{CONFIRM}ondol_netplan_confirm {} < /dev/null\n",
        quote(&id.0)
    )
}

/// Takes the change back now. `reason` becomes that of `RolledBack`. Answer: `parse_status`.
pub fn abort(id: &ChangeId, reason: &str) -> String {
    format!(
        "{STATUS}{ABORT}ondol_netplan_abort {} {} < /dev/null\n",
        quote(&id.0),
        quote(reason)
    )
}

/// Asks how the last change stands. Answer: `parse_status`.
pub fn status() -> String {
    format!("{STATUS}ondol_netplan_status < /dev/null\n")
}

/// Reads the answer of `confirm`, `abort` and `status`.
pub fn parse_status(stdout: &str) -> Status {
    let lines: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("status "))
        .collect();
    parse_status_lines(&lines)
}

/// The steps that cannot cut the guest off, as one script; `None` when there are none. It stops at the first failure, with a
/// non-zero exit and the reason on standard error. Run it after a change was confirmed.
pub fn direct(steps: &[Step]) -> Option<String> {
    let mut acts = String::new();
    for step in steps {
        // Writing to a String cannot fail.
        let _ = match step {
            Step::SetHostname { name, .. } => {
                writeln!(acts, "ondol_hostname {}", quote(name))
            }
            Step::Protect { .. } => writeln!(acts, "chown 0:0 {FILE} && chmod 0600 {FILE}"),
            Step::Restore { name } => writeln!(acts, "ondol_restore {}", quote(name)),
            Step::RemoveFile => writeln!(acts, "ondol_remove"),
            Step::MoveAside { .. } | Step::WriteFile { .. } | Step::Apply { .. } => Ok(()),
        };
    }
    (!acts.is_empty()).then(|| {
        format!(
            "{}ondol_netplan_direct() {{\nset -e\n{acts}}}\nondol_netplan_direct < /dev/null\n",
            include_str!("scripts/direct.sh")
        )
    })
}

/// A word for the shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_answers_are_told_apart() {
        let id = ChangeId::new("c-1").unwrap();
        let table = [
            ("begun c-1\n", Ok(())),
            (
                "begun other\n",
                Err(BeginError::Unreadable("begun other\n".to_owned())),
            ),
            ("", Err(BeginError::Unreadable(String::new()))),
            (
                "refused a change is being settled\n",
                Err(BeginError::Refused("a change is being settled".to_owned())),
            ),
            (
                "invalid\n/run/netplan/60-ondol.yaml:3:1: Error\n",
                Err(BeginError::Invalid(
                    "/run/netplan/60-ondol.yaml:3:1: Error".to_owned(),
                )),
            ),
            (
                "failed netplan.io is not installed on the guest\n",
                Err(BeginError::Failed(
                    "netplan.io is not installed on the guest".to_owned(),
                )),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse_begin(&id, text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_id_cannot_carry_shell_or_lines() {
        for bad in ["", "a b", "a;b", "a\n", &"a".repeat(65)] {
            assert_eq!(ChangeId::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_word_survives_the_shell() {
        let word = "it's $HOME `x`\n\"\\";
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quote(word))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn harmless_steps_make_one_script_and_risky_ones_none() {
        assert_eq!(direct(&[Step::Apply { because: vec![] }]), None);
        let script = direct(&[
            Step::Restore {
                name: "50-cloud-init.yaml".to_owned(),
            },
            Step::RemoveFile,
        ])
        .unwrap();
        let restore = script.find("ondol_restore '50-cloud-init.yaml'").unwrap();
        let remove = script.rfind("ondol_remove").unwrap();
        assert!(restore < remove);
    }
}
