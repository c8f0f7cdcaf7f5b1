//! `ceph_rgw_user`: one user of the object gateways with an S3 key that you choose and nobody sees.
//!
//! The secret goes to `radosgw-admin` on standard input: on its command line everyone on the machine could read it. Buckets are not its business.

use std::fmt;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{Cluster, parse};
use crate::rgw_zone::has_pool;

/// Create, change or remove a user of a Ceph object gateway (S3)
///
/// The user has the one S3 key that is given; other keys go. A user that owns buckets is not removed without a word. The machine needs
/// C(/etc/ceph/ceph.conf) and the administrator's keyring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Identifier of the user.
    uid: String,
    /// Name for people. Required for `present`.
    display_name: Option<String>,
    /// Public half of the S3 key. Required for `present`.
    access_key: Option<String>,
    /// Secret half of the S3 key. Required for `present`.
    secret_key: Option<Secret>,
    /// Most buckets the user may own.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_buckets: Option<u32>,
    /// Whether the user is locked out.
    suspended: Option<bool>,
    /// Zone of the user.
    #[serde(default = "default_zone")]
    zone: String,
    /// Whether the user should exist.
    #[serde(default)]
    state: State,
    /// With `absent`: remove the user's buckets and objects, too.
    #[serde(default)]
    delete_data: bool,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

fn default_zone() -> String {
    "default".to_owned()
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    uid: String,
    zone: String,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Present {
        display_name: String,
        key: Key,
        max_buckets: Option<u32>,
        suspended: Option<bool>,
    },
    Absent {
        delete_data: bool,
    },
}

/// An S3 key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Key {
    access_key: String,
    secret_key: Secret,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let is_word = |text: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
        };
        if !is_word(&params.uid) {
            return Err(Invalid::new(
                "uid",
                format!(
                    "{:?} is not an identifier (letters, digits, `-`, `_`, `.`, `@`)",
                    params.uid
                ),
            ));
        }
        if !is_word(&params.zone) {
            return Err(Invalid::new(
                "zone",
                format!("{:?} is not a name", params.zone),
            ));
        }
        let required =
            |param: &'static str| Invalid::new(param, "is required for a user that is present");
        let want = match params.state {
            State::Absent => Want::Absent {
                delete_data: params.delete_data,
            },
            State::Present => {
                let access_key = params.access_key.ok_or_else(|| required("access_key"))?;
                if !is_word(&access_key) {
                    return Err(Invalid::new(
                        "access_key",
                        format!("{access_key:?} holds more than letters and digits"),
                    ));
                }
                let secret_key = params.secret_key.ok_or_else(|| required("secret_key"))?;
                if secret_key.expose().len() < 16 {
                    return Err(Invalid::new("secret_key", "needs at least 16 characters"));
                }
                Want::Present {
                    display_name: params
                        .display_name
                        .ok_or_else(|| required("display_name"))?,
                    key: Key {
                        access_key,
                        secret_key,
                    },
                    max_buckets: params.max_buckets,
                    suspended: params.suspended,
                }
            }
        };
        Ok(Self {
            uid: params.uid,
            zone: params.zone,
            want,
        })
    }
}

/// What `radosgw-admin user info` tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct User {
    display_name: String,
    /// 0 or 1.
    suspended: u8,
    max_buckets: i64,
    keys: Vec<Key>,
}

/// The user and what it owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    user: Option<User>,
    /// Only asked for a user that should go.
    buckets: Vec<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create { display_name: String },
    SetKey { key: Key, why: &'static str },
    Rename { display_name: String, from: String },
    SetMaxBuckets { count: u32, from: Option<i64> },
    Suspend,
    Enable,
    Remove { purge: bool },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { display_name } => write!(f, "create the user {display_name:?}"),
            Self::SetKey { key, why } => write!(f, "set the key {} ({why})", key.access_key),
            Self::Rename { display_name, from } => {
                write!(f, "set the display name to {display_name:?} (is {from:?})")
            }
            Self::SetMaxBuckets { count, from } => {
                write!(f, "allow {count} buckets")?;
                match from {
                    Some(from) => write!(f, " (is {from})"),
                    None => Ok(()),
                }
            }
            Self::Suspend => write!(f, "suspend the user"),
            Self::Enable => write!(f, "let the user in again"),
            Self::Remove { purge: false } => write!(f, "remove the user"),
            Self::Remove { purge: true } => write!(f, "remove the user with its buckets"),
        }
    }
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    match desired.want {
        Want::Absent { delete_data: false } if !current.buckets.is_empty() => Some(format!(
            "the user {} owns {}; `delete_data: true` removes them with it",
            desired.uid,
            current.buckets.join(", ")
        )),
        _ => None,
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let (name, key, max_buckets, suspended) = match (&desired.want, &current.user) {
        (Want::Absent { .. }, None) => return steps,
        (Want::Absent { .. }, Some(_)) => {
            return vec![Step::Remove {
                purge: !current.buckets.is_empty(),
            }];
        }
        (
            Want::Present {
                display_name,
                key,
                max_buckets,
                suspended,
            },
            _,
        ) => (display_name, key, *max_buckets, *suspended),
    };
    let user = current.user.as_ref();
    match user {
        None => steps.push(Step::Create {
            display_name: name.clone(),
        }),
        Some(user) if user.display_name != *name => steps.push(Step::Rename {
            display_name: name.clone(),
            from: user.display_name.clone(),
        }),
        Some(_) => {}
    }
    let why = match user.map(|it| it.keys.as_slice()) {
        None | Some([]) => Some("there is none"),
        Some([one]) if one == key => None,
        Some([one]) if one.access_key == key.access_key => Some("its secret differs"),
        Some(_) => Some("there is another"),
    };
    if let Some(why) = why {
        steps.push(Step::SetKey {
            key: key.clone(),
            why,
        });
    }
    if let Some(count) = max_buckets
        && user.map(|it| it.max_buckets) != Some(count.into())
    {
        steps.push(Step::SetMaxBuckets {
            count,
            from: user.map(|it| it.max_buckets),
        });
    }
    match (suspended, user.is_some_and(|it| it.suspended != 0)) {
        (Some(true), false) => steps.push(Step::Suspend),
        (Some(false), true) => steps.push(Step::Enable),
        _ => {}
    }
    steps
}

/// The user's record with this key and no other.
fn with_key(mut record: Value, uid: &str, key: &Key) -> anyhow::Result<Value> {
    let data = record
        .get_mut("data")
        .and_then(Value::as_object_mut)
        .context("the user's record has no data")?;
    data.insert(
        "keys".to_owned(),
        json!([{"user": uid, "access_key": key.access_key, "secret_key": key.secret_key.expose()}]),
    );
    Ok(record)
}

/// The module.
#[derive(Default)]
pub struct CephRgwUser {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    uid: String,
    zone: Vec<String>,
}

impl CephRgwUser {
    fn admin(&self, args: &[&str], stdin: &str) -> anyhow::Result<String> {
        let zone: Vec<&str> = self.zone.iter().map(String::as_str).collect();
        self.cluster
            .tool("radosgw-admin", &[args, &zone].concat(), stdin)
    }
}

impl Module for CephRgwUser {
    const NAME: &'static str = "ceph_rgw_user";
    const EXAMPLES: &'static str = r#"
- name: A user for backups
  ondol.cloud.ceph_rgw_user:
    uid: backup
    display_name: Backups
    access_key: BACKUP
    secret_key: "{{ s3_backup_secret }}"
    max_buckets: 10
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.uid.clone_from(&desired.uid);
        self.zone = vec!["--rgw-zone".to_owned(), desired.zone.clone()];
        let mut current = Current::default();
        if matches!(desired.want, Want::Present { .. }) && !self.cluster.is_known() {
            return Ok(current);
        }
        // Looking would make the pools of a zone that is not there.
        if !has_pool(&self.cluster, &format!("{}.rgw.meta", desired.zone))? {
            return Ok(current);
        }
        let listed = self.admin(&["metadata", "list", "user"], "")?;
        let uids: Vec<String> = parse(&listed).context("read the list of users")?;
        if uids.contains(&desired.uid) {
            let told = self.admin(&["user", "info", "--uid", &desired.uid], "")?;
            current.user = Some(parse(&told).context("read about the user")?);
            if let Want::Absent { .. } = desired.want {
                let told = self.admin(&["bucket", "list", "--uid", &desired.uid], "")?;
                current.buckets = parse(&told).context("read the user's buckets")?;
            }
        }
        match refusal(desired, &current) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let uid = self.uid.as_str();
        match step {
            Step::Create { display_name } => {
                self.admin(
                    &[
                        "user",
                        "create",
                        "--uid",
                        uid,
                        "--display-name",
                        display_name,
                    ],
                    "",
                )?;
            }
            Step::SetKey { key, .. } => {
                let name = format!("user:{uid}");
                let record: Value = parse(&self.admin(&["metadata", "get", &name], "")?)
                    .context("read the user's record")?;
                let record = with_key(record, uid, key)?.to_string();
                self.admin(&["metadata", "put", &name], &record)?;
            }
            Step::Rename { display_name, .. } => {
                self.admin(
                    &[
                        "user",
                        "modify",
                        "--uid",
                        uid,
                        "--display-name",
                        display_name,
                    ],
                    "",
                )?;
            }
            Step::SetMaxBuckets { count, .. } => {
                let count = count.to_string();
                self.admin(
                    &["user", "modify", "--uid", uid, "--max-buckets", &count],
                    "",
                )?;
            }
            Step::Suspend => {
                self.admin(&["user", "suspend", "--uid", uid], "")?;
            }
            Step::Enable => {
                self.admin(&["user", "enable", "--uid", uid], "")?;
            }
            Step::Remove { purge } => {
                let mut args = vec!["user", "rm", "--uid", uid];
                if *purge {
                    args.push("--purge-data");
                }
                self.admin(&args, "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-of-some-length";

    fn desired(change: Value) -> Result<Desired, Invalid> {
        let mut json = json!({
            "uid": "backup", "display_name": "Backups", "access_key": "BACKUP", "secret_key": SECRET
        });
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn present() -> Current {
        Current {
            user: Some(User {
                display_name: "Backups".into(),
                suspended: 0,
                max_buckets: 1000,
                keys: vec![Key {
                    access_key: "BACKUP".into(),
                    secret_key: Secret::new(SECRET),
                }],
            }),
            buckets: Vec::new(),
        }
    }

    fn lines(change: Value, current: &Current) -> Vec<String> {
        let desired = desired(change).unwrap();
        assert_eq!(refusal(&desired, current), None);
        plan(&desired, current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_user_is_made_changed_left_alone_and_removed() {
        let with = |change: fn(&mut User)| {
            let mut current = present();
            change(current.user.as_mut().unwrap());
            current
        };
        for (change, current, wanted) in [
            (
                json!({"max_buckets": 5, "suspended": false}),
                Current::default(),
                vec![
                    "create the user \"Backups\"",
                    "set the key BACKUP (there is none)",
                    "allow 5 buckets",
                ],
            ),
            (json!({"max_buckets": 1000}), present(), vec![]),
            (
                json!({"display_name": "B", "suspended": true}),
                present(),
                vec![
                    "set the display name to \"B\" (is \"Backups\")",
                    "suspend the user",
                ],
            ),
            (
                json!({"suspended": false}),
                with(|it| it.suspended = 1),
                vec!["let the user in again"],
            ),
            (
                json!({}),
                with(|it| it.keys[0].secret_key = Secret::new("x")),
                vec!["set the key BACKUP (its secret differs)"],
            ),
            (
                json!({"access_key": "OTHER"}),
                present(),
                vec!["set the key OTHER (there is another)"],
            ),
            (
                json!({"state": "absent"}),
                present(),
                vec!["remove the user"],
            ),
            (json!({"state": "absent"}), Current::default(), vec![]),
        ] {
            assert_eq!(lines(change, &current), wanted);
        }
    }

    #[test]
    fn buckets_are_not_lost_without_a_word() {
        let mut current = present();
        current.buckets = vec!["a".into(), "b".into()];
        assert_eq!(
            refusal(&desired(json!({"state": "absent"})).unwrap(), &current).as_deref(),
            Some("the user backup owns a, b; `delete_data: true` removes them with it")
        );
        assert_eq!(
            lines(json!({"state": "absent", "delete_data": true}), &current),
            ["remove the user with its buckets"]
        );
    }

    #[test]
    fn a_users_record_gets_one_key_and_keeps_the_rest() {
        let record = json!({"key": "user:backup", "ver": {"tag": "t"}, "data": {"user_id": "backup", "keys": [1, 2]}});
        let key = Key {
            access_key: "A".into(),
            secret_key: Secret::new("S"),
        };
        assert_eq!(
            with_key(record, "backup", &key).unwrap(),
            json!({"key": "user:backup", "ver": {"tag": "t"}, "data": {
                "user_id": "backup", "keys": [{"user": "backup", "access_key": "A", "secret_key": "S"}]
            }})
        );
        assert!(with_key(json!({}), "backup", &key).is_err());
    }

    #[test]
    fn parameters_are_refused_by_name_and_no_secret_is_printed() {
        for (change, wanted) in [
            (json!({"uid": "a b"}), "uid: "),
            (json!({"secret_key": "short"}), "secret_key: needs at least"),
            (json!({"access_key": null}), "access_key: is required"),
            (json!({"zone": "-x"}), "zone: "),
        ] {
            let error = desired(change).unwrap_err().to_string();
            assert!(
                error.starts_with(wanted) && !error.contains("short\""),
                "{error}"
            );
        }
        let text = format!(
            "{:?}",
            plan(&desired(json!({})).unwrap(), &Current::default())
        );
        assert!(!text.contains(SECRET), "{text}");
    }
}
