//! `mysql_instance`: the server on this machine and its parameters. Users, databases and replication are other modules'.
//!
//! It does not install the package, move data, or say who may be written to.

mod io;
mod plan;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use self::io::{initialise, observe, set, validate, variable};
use self::plan::{needs_restart, rendered};
use crate::local::{self, Place};
use crate::options::{self, Parameters};

/// Manage the MySQL server on this machine and its parameters
///
/// A new server's data is made so that only the system's root becomes its root, over the local socket (C(auth_socket)): there is no moment with an
/// empty password. Parameters go to C(/etc/mysql/mysql.conf.d/zz-ondol.cnf), after the server's own program has validated them; what it does not
/// accept is the error, in its words. What can be changed live is, with C(SET GLOBAL); the rest needs a restart. If the server does not come up with
/// them, the former ones are put back.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Server options by name, all values as text: quote V("ON") and V("1"). Those not named are the distribution's.
    parameters: Option<BTreeMap<String, String>>,
    /// Whether the server may be restarted where a change needs it. Else a warning names what waits.
    #[serde(default)]
    restart: Restart,
}

/// Whether sessions may be ended by a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    #[default]
    Never,
    Allowed,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    parameters: Option<Parameters>,
    restart: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self {
            parameters: params.parameters.map(options::check).transpose()?,
            restart: params.restart == Restart::Allowed,
        })
    }
}

/// What is on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    data: PathBuf,
    initialised: bool,
    running: bool,
    at_boot: bool,
    /// Text of our option file; empty if there is none.
    file: String,
    /// Of the parameters that are wanted or in our file. Empty unless it runs.
    settings: BTreeMap<String, Setting>,
    /// What the other option files say about a parameter of ours.
    others: Parameters,
}

/// One parameter of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    Variable {
        value: String,
        /// May be set while the server runs.
        dynamic: bool,
        /// The value comes from our file as it is now.
        from_file: bool,
        /// `SET PERSIST` wins over every file.
        persisted: bool,
    },
    /// An option that is no variable: whether the server was started with our file as it is now.
    Option { in_force: bool },
}

/// One act on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Initialise { data: PathBuf },
    WriteParameters { text: String, names: Vec<String> },
    ResetPersisted { name: String },
    Set { name: String, value: Option<String> },
    EnableAtBoot,
    Start,
    Restart { names: Vec<String> },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialise { data } => write!(
                f,
                "initialise the data in {}, root by auth_socket",
                data.display()
            ),
            Self::WriteParameters { names, .. } => {
                write!(f, "write {}: {}", options::OURS, names.join(", "))
            }
            Self::ResetPersisted { name } => {
                write!(f, "undo SET PERSIST {name}, which wins over the file")
            }
            Self::Set {
                name,
                value: Some(value),
            } => write!(f, "set {name} = {value}"),
            Self::Set { name, value: None } => write!(f, "set {name} to its default"),
            Self::EnableAtBoot => f.write_str("start the server at boot"),
            Self::Start => f.write_str("start the server"),
            Self::Restart { names } => write!(f, "restart the server for {}", names.join(", ")),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlInstance {
    place: Option<Place>,
    /// Our file as it was before this run changed it.
    before: Option<String>,
    waiting: Vec<String>,
}

impl Module for MysqlInstance {
    const NAME: &'static str = "mysql_instance";
    const EXAMPLES: &'static str = r#"
- name: A server that listens to its network, ready for replication
  ondol.cloud.mysql_instance:
    parameters:
      bind_address: "*"
      server_id: "1"
      gtid_mode: "ON"
      enforce_gtid_consistency: "ON"
      innodb_buffer_pool_size: 256M
      plugin_load_add: mysql_clone.so;semisync_source.so;semisync_replica.so
    restart: allowed
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let place = local::place()?;
        let current = observe(&place, desired)?;
        if let Some(parameters) = &desired.parameters
            && let text = rendered(parameters)
            && text != current.file
            && Path::new(options::MAIN).exists()
        {
            validate(parameters, &text)?;
        }
        self.waiting = if desired.restart {
            Vec::new()
        } else {
            needs_restart(desired, &current)
        };
        self.place = Some(place);
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan::steps(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let place = self.place.clone().expect("observe comes first");
        match step {
            Step::Initialise { data } => initialise(data),
            Step::WriteParameters { text, .. } => {
                let path = Path::new(options::OURS);
                self.before = Some(file::read(path)?.unwrap_or_default());
                file::write(path, text, 0o644)
            }
            Step::ResetPersisted { name } => {
                let sql = format!("RESET PERSIST IF EXISTS {}", variable(name));
                Ok(place.client()?.run(&sql)?)
            }
            Step::Set { name, value } => set(&mut place.client()?, name, value.as_deref()),
            Step::EnableAtBoot => local::start_at_boot(),
            Step::Start => self.come_up(&place, Place::start),
            Step::Restart { .. } => self.come_up(&place, Place::restart),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        desired
            .parameters
            .iter()
            .map(rendered)
            .filter(|text| *text != current.file)
            .map(|text| TextDiff::new(options::OURS, current.file.clone(), text))
            .collect()
    }

    fn notices(&mut self) -> Notices {
        let mut notices = Notices::default();
        if !self.waiting.is_empty() {
            notices.warnings.push(format!(
                "in force only after a restart, which restart: allowed would do: {}",
                self.waiting.join(", ")
            ));
        }
        notices
    }
}

impl MysqlInstance {
    fn come_up(
        &self,
        place: &Place,
        act: impl Fn(&Place) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Err(error) = act(place) else {
            return Ok(());
        };
        let Some(before) = &self.before else {
            return Err(error);
        };
        let path = Path::new(options::OURS);
        file::write(path, before, 0o644)?;
        place
            .start()
            .with_context(|| format!("go back to the former parameters after: {error:#}"))?;
        Err(error.context("the server did not come up; it runs with the former parameters again"))
    }
}

#[cfg(test)]
mod tests;
