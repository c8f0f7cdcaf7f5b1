//! `ceph_key`: one user of a cluster, its capabilities, and its keyring on this machine. The key itself is never told.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Secret};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::key::{self, Caps, User};

/// Create, change or remove a user of a Ceph cluster, and write its keyring
///
/// The user has exactly the capabilities that are named. Its key is made by the cluster unless it is given; it is never shown. The machine needs
/// C(/etc/ceph/ceph.conf) and the administrator's keyring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the user, with its type: `client.backup`.
    name: String,
    /// Capabilities by kind of daemon (`mon`, `osd`, `mgr`, `mds`), such as `profile rbd pool=vms`.
    #[serde(default)]
    caps: Caps,
    /// Allow capabilities that reach everything, such as `allow *`.
    #[serde(default)]
    unrestricted: bool,
    /// The key. Left alone, or made by the cluster, by default.
    key: Option<Secret>,
    /// File to write the user's keyring to, mode 0600.
    keyring: Option<String>,
    /// Owner of the keyring.
    #[serde(default = "root")]
    owner: String,
    /// Whether the user should exist. With `absent` the `keyring` is removed, too.
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

fn root() -> String {
    "root".to_owned()
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    caps: Caps,
    key: Option<Secret>,
    keyring: Option<PathBuf>,
    owner: String,
    present: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let name = params.name;
        let fine = name.strip_prefix("client.").is_some_and(|id| {
            !id.is_empty()
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        if !fine {
            return Err(Invalid::new(
                "name",
                format!("{name:?} is not a user such as client.backup"),
            ));
        }
        let present = params.state == State::Present;
        if !present && name == "client.admin" {
            return Err(Invalid::new("name", "the administrator cannot be removed"));
        }
        for (kind, words) in &params.caps {
            let at = || format!("caps.{kind}");
            if !["mon", "osd", "mgr", "mds"].contains(&kind.as_str()) {
                return Err(Invalid::new(at(), "is not one of mon, osd, mgr, mds"));
            }
            if words.contains(['"', '\n']) {
                return Err(Invalid::new(at(), "holds a quote or a line break"));
            }
            if let Some(part) = words.split(',').map(str::trim).find(|it| is_everything(it))
                && !params.unrestricted
            {
                return Err(Invalid::new(
                    at(),
                    format!(
                        "{part:?} reaches everything; name a profile and a pool, or say `unrestricted: true`"
                    ),
                ));
            }
        }
        if let Some(key) = &params.key {
            key::check(key).map_err(|reason| Invalid::new("key", reason))?;
        }
        let keyring = params.keyring.map(PathBuf::from);
        if keyring.as_ref().is_some_and(|it| !it.is_absolute()) {
            return Err(Invalid::new("keyring", "is not an absolute path"));
        }
        Ok(Self {
            name,
            caps: params.caps,
            key: params.key,
            keyring,
            owner: params.owner,
            present,
        })
    }
}

/// A grant of all that a kind of daemon can do.
fn is_everything(grant: &str) -> bool {
    let words: Vec<&str> = grant.split_whitespace().collect();
    matches!(words.as_slice(), ["allow", "*" | "all"])
}

/// The user and its keyring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    user: Option<User>,
    keyring: Keyring,
}

/// The file as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Keyring {
    text: Option<String>,
    /// Owner and mode are as they should be.
    is_guarded: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create {
        caps: Caps,
        key: Option<Secret>,
    },
    SetCaps {
        caps: Caps,
        from: Caps,
    },
    ReplaceKey {
        caps: Caps,
        key: Secret,
    },
    WriteKeyring {
        path: PathBuf,
        owner: String,
        why: &'static str,
    },
    RemoveUser,
    RemoveKeyring {
        path: PathBuf,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { caps, .. } => write!(f, "create the user with {}", key::show(caps)),
            Self::SetCaps { caps, from } => {
                write!(
                    f,
                    "set the capabilities to {} (is {})",
                    key::show(caps),
                    key::show(from)
                )
            }
            Self::ReplaceKey { .. } => write!(f, "replace the key"),
            Self::WriteKeyring { path, why, .. } => write!(f, "write {} ({why})", path.display()),
            Self::RemoveUser => write!(f, "remove the user"),
            Self::RemoveKeyring { path } => write!(f, "remove {}", path.display()),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    if !desired.present {
        if current.user.is_some() {
            steps.push(Step::RemoveUser);
        }
        if let (Some(path), Some(_)) = (&desired.keyring, &current.keyring.text) {
            steps.push(Step::RemoveKeyring { path: path.clone() });
        }
        return steps;
    }
    let caps = desired.caps.clone();
    // The key as it will be, if that is known before.
    let mut key = None;
    match &current.user {
        None => steps.push(Step::Create {
            caps,
            key: desired.key.clone(),
        }),
        Some(user) => {
            key = Some(user.key.clone());
            match &desired.key {
                Some(wanted) if *wanted != user.key => {
                    key = Some(wanted.clone());
                    steps.push(Step::ReplaceKey {
                        caps,
                        key: wanted.clone(),
                    });
                }
                _ if !key::same_caps(&caps, &user.caps) => steps.push(Step::SetCaps {
                    caps,
                    from: user.caps.clone(),
                }),
                _ => {}
            }
        }
    }
    if let Some(path) = &desired.keyring {
        let is = current.keyring.text.as_deref();
        let why = match (is, key) {
            (None, _) => Some("it is missing"),
            (Some(text), Some(key))
                if key::in_keyring(text, &desired.name) == Some(key.clone()) =>
            {
                (!current.keyring.is_guarded).then_some("its owner or mode is wrong")
            }
            (Some(_), _) => Some("it holds another key"),
        };
        if let Some(why) = why {
            steps.push(Step::WriteKeyring {
                path: path.clone(),
                owner: desired.owner.clone(),
                why,
            });
        }
    }
    steps
}

fn user_of(name: &str) -> anyhow::Result<nix::unistd::User> {
    nix::unistd::User::from_name(name)
        .with_context(|| format!("look for the user {name}"))?
        .with_context(|| format!("this machine has no user {name}"))
}

/// The module.
#[derive(Default)]
pub struct CephKey {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    name: String,
}

impl CephKey {
    fn user(&self) -> anyhow::Result<Option<User>> {
        let users: Option<Vec<User>> = self.cluster.find(&["auth", "get", &self.name])?;
        Ok(users.and_then(|users| users.into_iter().next()))
    }

    fn import(&self, key: &Secret, caps: &Caps) -> anyhow::Result<()> {
        let text = key::keyring(&self.name, key, caps);
        self.cluster
            .run_with(&["auth", "import", "-i", "-"], &text)?;
        Ok(())
    }
}

impl Module for CephKey {
    const NAME: &'static str = "ceph_key";
    const EXAMPLES: &'static str = r#"
- name: The hypervisors may use their pool and nothing else
  ondol.cloud.ceph_key:
    name: client.vms
    caps:
      mon: profile rbd
      osd: profile rbd pool=vms
    keyring: /etc/ceph/ceph.client.vms.keyring
    owner: root
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        use std::os::unix::fs::MetadataExt as _;
        self.name.clone_from(&desired.name);
        if desired.present && !self.cluster.is_known() {
            return Ok(Current::default());
        }
        let mut keyring = Keyring::default();
        if let Some(path) = &desired.keyring {
            keyring.text = file::read(path)?;
            if desired.present {
                let owner = user_of(&desired.owner)?;
                keyring.is_guarded = std::fs::metadata(path)
                    .is_ok_and(|it| it.uid() == owner.uid.as_raw() && it.mode() & 0o777 == 0o600);
            }
        }
        Ok(Current {
            user: self.user()?,
            keyring,
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Create {
                caps,
                key: Some(key),
            }
            | Step::ReplaceKey { caps, key } => self.import(key, caps),
            Step::Create { caps, key: None } => {
                let args = [
                    vec!["auth", "get-or-create", self.name.as_str()],
                    key::arguments(caps),
                ];
                self.cluster.run(&args.concat())?;
                Ok(())
            }
            Step::SetCaps { caps, .. } => {
                let args = [
                    vec!["auth", "caps", self.name.as_str()],
                    key::arguments(caps),
                ];
                self.cluster.run(&args.concat())?;
                Ok(())
            }
            Step::WriteKeyring { path, owner, .. } => {
                let Some(user) = self.user()? else {
                    bail!("the user {} is gone", self.name);
                };
                file::write(
                    path,
                    &key::keyring(&self.name, &user.key, &Caps::new()),
                    0o600,
                )?;
                let owner = user_of(owner)?;
                std::os::unix::fs::chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
                    .with_context(|| format!("give {} to {}", path.display(), owner.name))
            }
            Step::RemoveUser => {
                self.cluster.run(&["auth", "rm", &self.name])?;
                Ok(())
            }
            Step::RemoveKeyring { path } => remove(path),
        }
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQBzzzzzAAAAABAAvzzzzzzzzzzzzzzzzzzzzA==";
    const OTHER: &str = "AQBzzzzzAAAAABAAvzzzzzzzzzzzzzzzzzzzzQ==";

    fn try_desired(change: serde_json::Value) -> Result<Desired, Invalid> {
        let mut json = serde_json::json!({
            "name": "client.vms", "caps": {"mon": "profile rbd", "osd": "profile rbd pool=vms"}
        });
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn lines(change: serde_json::Value, current: &Current) -> Vec<String> {
        let steps = plan(&try_desired(change).unwrap(), current);
        steps.iter().map(ToString::to_string).collect()
    }

    fn settled() -> Current {
        let desired = try_desired(serde_json::json!({})).unwrap();
        Current {
            user: Some(User {
                key: Secret::new(KEY),
                caps: desired.caps,
            }),
            keyring: Keyring {
                text: Some(key::keyring("client.vms", &Secret::new(KEY), &Caps::new())),
                is_guarded: true,
            },
        }
    }

    #[test]
    fn a_user_and_its_keyring_are_made_kept_and_mended() {
        let path = serde_json::json!({"keyring": "/k"});
        assert_eq!(
            lines(path.clone(), &Current::default()),
            [
                "create the user with mon \"profile rbd\", osd \"profile rbd pool=vms\"",
                "write /k (it is missing)"
            ]
        );
        assert_eq!(lines(path.clone(), &settled()), [""; 0]);
        let mut current = settled();
        current.keyring.is_guarded = false;
        assert_eq!(
            lines(path.clone(), &current),
            ["write /k (its owner or mode is wrong)"]
        );
        current.user.as_mut().unwrap().key = Secret::new(OTHER);
        assert_eq!(lines(path, &current), ["write /k (it holds another key)"]);
        assert_eq!(
            lines(serde_json::json!({"caps": {"mon": "allow r"}}), &settled()),
            [
                "set the capabilities to mon \"allow r\" (is mon \"profile rbd\", osd \"profile rbd pool=vms\")"
            ]
        );
    }

    #[test]
    fn a_given_key_replaces_the_one_that_is_there() {
        let given = serde_json::json!({"key": OTHER, "keyring": "/k"});
        assert_eq!(
            lines(given, &settled()),
            ["replace the key", "write /k (it holds another key)"]
        );
        assert_eq!(lines(serde_json::json!({"key": KEY}), &settled()), [""; 0]);
    }

    #[test]
    fn removal_takes_the_keyring_along() {
        let absent = serde_json::json!({"state": "absent", "keyring": "/k"});
        assert_eq!(
            lines(absent.clone(), &settled()),
            ["remove the user", "remove /k"]
        );
        assert_eq!(lines(absent, &Current::default()), [""; 0]);
    }

    #[test]
    fn everything_is_given_to_no_one_without_a_word() {
        for (change, wanted) in [
            (
                serde_json::json!({"caps": {"osd": "allow *"}}),
                "caps.osd: \"allow *\" reaches everything",
            ),
            (
                serde_json::json!({"caps": {"mon": "allow r, allow  *"}}),
                "caps.mon: ",
            ),
            (
                serde_json::json!({"caps": {"os": "allow r"}}),
                "caps.os: is not one of",
            ),
            (
                serde_json::json!({"name": "vms"}),
                "name: \"vms\" is not a user",
            ),
            (
                serde_json::json!({"name": "client.admin", "state": "absent"}),
                "name: the administrator",
            ),
            (
                serde_json::json!({"key": "hunter2"}),
                "key: is not a key of Ceph's",
            ),
            (
                serde_json::json!({"keyring": "k"}),
                "keyring: is not an absolute path",
            ),
        ] {
            let error = try_desired(change).unwrap_err().to_string();
            assert!(
                error.starts_with(wanted) && !error.contains("hunter2"),
                "{error}"
            );
        }
        let word = serde_json::json!({"caps": {"osd": "allow *"}, "unrestricted": true});
        assert!(try_desired(word).is_ok());
        let tagged = serde_json::json!({"caps": {"osd": "allow rw tag cephfs *=*"}});
        assert!(try_desired(tagged).is_ok());
    }

    #[test]
    fn no_key_is_printed() {
        let text = format!(
            "{:?}",
            plan(
                &try_desired(serde_json::json!({"key": OTHER})).unwrap(),
                &settled()
            )
        );
        assert!(!text.contains(KEY) && !text.contains(OTHER), "{text}");
    }
}
