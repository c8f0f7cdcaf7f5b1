//! What a manager, an MDS and a gateway have in common: a user of their own in the cluster, its keyring, and a service.

use std::fmt;
use std::path::{Path, PathBuf};

use ondol_kit::Secret;
use ondol_machine::file;

use crate::cluster::Cluster;
use crate::key::{self, Caps, User};
use crate::system::{self, Unit};

/// A daemon that takes its right to be from a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Manager,
    Mds,
    Gateway,
}

impl Kind {
    /// What its service and its directory are called after.
    fn word(self) -> &'static str {
        match self {
            Self::Manager => "mgr",
            Self::Mds => "mds",
            Self::Gateway => "radosgw",
        }
    }

    /// As the packages' own tools give them.
    fn caps(self) -> Caps {
        let caps: &[(&str, &str)] = match self {
            Self::Manager => &[
                ("mds", "allow *"),
                ("mon", "allow profile mgr"),
                ("osd", "allow *"),
            ],
            Self::Gateway => &[
                ("mgr", "allow rw"),
                ("mon", "allow rw"),
                ("osd", "allow rwx"),
            ],
            Self::Mds => &[
                ("mds", "allow"),
                ("mgr", "profile mds"),
                ("mon", "profile mds"),
                ("osd", "allow rw tag cephfs *=*"),
            ],
        };
        caps.iter()
            .map(|(kind, words)| ((*kind).to_owned(), (*words).to_owned()))
            .collect()
    }
}

/// One daemon of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl Daemon {
    /// Its user.
    pub(crate) fn entity(&self) -> String {
        match self.kind {
            // To the cluster a gateway is a client.
            Kind::Gateway => format!("client.rgw.{}", self.name),
            Kind::Manager | Kind::Mds => format!("{}.{}", self.kind.word(), self.name),
        }
    }

    /// Its name to its service and in its directory.
    fn instance(&self) -> String {
        match self.kind {
            Kind::Gateway => format!("rgw.{}", self.name),
            Kind::Manager | Kind::Mds => self.name.clone(),
        }
    }

    pub(crate) fn unit(&self) -> String {
        format!("ceph-{}@{}", self.kind.word(), self.instance())
    }

    fn folder(&self) -> PathBuf {
        Path::new("/var/lib/ceph")
            .join(self.kind.word())
            .join(format!("ceph-{}", self.instance()))
    }

    pub(crate) fn observe(&self, cluster: &Cluster) -> anyhow::Result<Observed> {
        let entity = self.entity();
        let users: Option<Vec<User>> = cluster.find(&["auth", "get", &entity])?;
        Ok(Observed {
            user: users.and_then(|users| users.into_iter().next()),
            keyring: file::read(&self.folder().join("keyring"))?
                .and_then(|text| key::in_keyring(&text, &entity)),
            folder: self.folder().exists(),
            unit: system::unit(&self.unit())?,
        })
    }

    pub(crate) fn apply(&self, cluster: &Cluster, act: &Act) -> anyhow::Result<()> {
        let entity = self.entity();
        let caps = self.kind.caps();
        match act {
            Act::CreateUser => {
                let args = [
                    vec!["auth", "get-or-create", entity.as_str()],
                    key::arguments(&caps),
                ];
                cluster.run(&args.concat())?;
            }
            Act::SetCaps { .. } => {
                let args = [vec!["auth", "caps", entity.as_str()], key::arguments(&caps)];
                cluster.run(&args.concat())?;
            }
            Act::WriteKeyring => {
                let users: Vec<User> = cluster.ask(&["auth", "get", &entity])?;
                let user = users
                    .first()
                    .ok_or_else(|| anyhow::anyhow!("the user {entity} is gone"))?;
                system::create_dir(&self.folder())?;
                system::write_private(
                    &self.folder().join("keyring"),
                    &key::keyring(&entity, &user.key, &Caps::new()),
                )?;
            }
            Act::Enable => system::systemctl(&["enable", "--quiet", &self.unit()])?,
            Act::Start => system::start(&self.unit())?,
            Act::Stop => system::systemctl(&["disable", "--quiet", "--now", &self.unit()])?,
            Act::RemoveUser => {
                cluster.run(&["auth", "rm", &entity])?;
            }
            Act::RemoveFolder => system::remove_dir(&self.folder())?,
        }
        Ok(())
    }
}

/// The daemon as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    user: Option<User>,
    /// Key in its keyring on this machine.
    keyring: Option<Secret>,
    folder: bool,
    pub(crate) unit: Unit,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    CreateUser,
    SetCaps { from: String },
    WriteKeyring,
    Enable,
    Start,
    Stop,
    RemoveUser,
    RemoveFolder,
}

impl Act {
    /// Its line, given what the daemon is called.
    pub(crate) fn line(&self, f: &mut fmt::Formatter<'_>, daemon: &str) -> fmt::Result {
        match self {
            Self::CreateUser => write!(f, "create the user {daemon}"),
            Self::SetCaps { from } => {
                write!(f, "restore the capabilities of {daemon} (has {from})")
            }
            Self::WriteKeyring => write!(f, "write the keyring of {daemon}"),
            Self::Enable => write!(f, "enable the service of {daemon}"),
            Self::Start => write!(f, "start {daemon}"),
            Self::Stop => write!(f, "stop and disable the service of {daemon}"),
            Self::RemoveUser => write!(f, "remove the user {daemon}"),
            Self::RemoveFolder => write!(f, "remove the directory of {daemon}"),
        }
    }
}

pub(crate) fn plan_present(daemon: &Daemon, observed: &Observed) -> Vec<Act> {
    let mut acts = Vec::new();
    match &observed.user {
        None => acts.push(Act::CreateUser),
        Some(user) if !key::same_caps(&user.caps, &daemon.kind.caps()) => acts.push(Act::SetCaps {
            from: key::show(&user.caps),
        }),
        Some(_) => {}
    }
    let key = observed.user.as_ref().map(|user| &user.key);
    if key.is_none() || key != observed.keyring.as_ref() {
        acts.push(Act::WriteKeyring);
    }
    if !observed.unit.enabled {
        acts.push(Act::Enable);
    }
    if !observed.unit.active {
        acts.push(Act::Start);
    }
    acts
}

pub(crate) fn plan_absent(observed: &Observed) -> Vec<Act> {
    let mut acts = Vec::new();
    if observed.unit.active || observed.unit.enabled {
        acts.push(Act::Stop);
    }
    if observed.user.is_some() {
        acts.push(Act::RemoveUser);
    }
    if observed.folder {
        acts.push(Act::RemoveFolder);
    }
    acts
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn daemon() -> Daemon {
        Daemon {
            kind: Kind::Manager,
            name: "a".to_owned(),
        }
    }

    pub(crate) fn settled(kind: Kind) -> Observed {
        Observed {
            user: Some(User {
                key: Secret::new("K"),
                caps: kind.caps(),
            }),
            keyring: Some(Secret::new("K")),
            folder: true,
            unit: Unit {
                active: true,
                enabled: true,
            },
        }
    }

    #[test]
    fn what_is_missing_is_made_and_nothing_else() {
        let change = |change: fn(&mut Observed)| {
            let mut observed = settled(Kind::Manager);
            change(&mut observed);
            plan_present(&daemon(), &observed)
        };
        assert_eq!(change(|_| {}), []);
        assert_eq!(
            change(|it| *it = Observed::default()),
            [Act::CreateUser, Act::WriteKeyring, Act::Enable, Act::Start]
        );
        assert_eq!(
            change(|it| it.keyring = Some(Secret::new("old"))),
            [Act::WriteKeyring]
        );
        assert_eq!(
            change(|it| {
                it.user
                    .as_mut()
                    .unwrap()
                    .caps
                    .insert("mon".into(), "allow *".into());
            }),
            [Act::SetCaps {
                from: "mds \"allow *\", mon \"allow *\", osd \"allow *\"".into()
            }]
        );
        assert_eq!(change(|it| it.unit.active = false), [Act::Start]);
    }

    #[test]
    fn removal_leaves_nothing_and_repeats_as_nothing() {
        assert_eq!(
            plan_absent(&settled(Kind::Manager)),
            [Act::Stop, Act::RemoveUser, Act::RemoveFolder]
        );
        assert_eq!(plan_absent(&Observed::default()), []);
    }
}
