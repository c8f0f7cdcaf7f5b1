//! `mysql_instance`: the server on this machine and its parameters. Users, databases and replication are other modules'.
//!
//! It does not install the package, move data, or say who may be written to.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::local::{self, Place, State};
use crate::options::{self, Parameters};
use crate::sql::literal;

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
        let mut steps = Vec::new();
        if !current.initialised {
            steps.push(Step::Initialise {
                data: current.data.clone(),
            });
        }
        let old = options::assignments(&current.file);
        if let Some(wanted) = &desired.parameters {
            let text = rendered(wanted);
            let nothing = current.file.is_empty() && wanted.is_empty();
            if text != current.file && !nothing {
                steps.push(Step::WriteParameters {
                    text,
                    names: differing(&old, wanted),
                });
            }
        }
        if !current.at_boot {
            steps.push(Step::EnableAtBoot);
        }
        if !current.running {
            steps.push(Step::Start);
            return steps;
        }
        for (name, setting) in &current.settings {
            let Setting::Variable {
                value,
                dynamic,
                from_file,
                persisted,
            } = setting
            else {
                continue;
            };
            let wanted = desired.parameters.as_ref().and_then(|it| it.get(name));
            if wanted.is_some() && *persisted {
                steps.push(Step::ResetPersisted { name: name.clone() });
            }
            if !*dynamic {
                continue;
            }
            match wanted {
                Some(wanted) if !*from_file && !options::same(value, wanted) => {
                    steps.push(Step::Set {
                        name: name.clone(),
                        value: Some(wanted.clone()),
                    });
                }
                Some(wanted)
                    if *from_file
                        && old.get(name) != Some(wanted)
                        && !options::same(value, wanted) =>
                {
                    steps.push(Step::Set {
                        name: name.clone(),
                        value: Some(wanted.clone()),
                    });
                }
                Some(_) => {}
                None if desired.parameters.is_some() => steps.push(Step::Set {
                    name: name.clone(),
                    value: current.others.get(name).cloned(),
                }),
                None => {}
            }
        }
        let names = needs_restart(desired, current);
        if !names.is_empty() && desired.restart {
            steps.push(Step::Restart { names });
        }
        steps
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

fn rendered(parameters: &Parameters) -> String {
    options::render(MysqlInstance::NAME, parameters)
}

fn differing(old: &Parameters, new: &Parameters) -> Vec<String> {
    let mut names: Vec<String> = old
        .keys()
        .chain(new.keys())
        .filter(|name| old.get(*name) != new.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The parameters that are wanted, are not in force, and cannot be without a restart.
fn needs_restart(desired: &Desired, current: &Current) -> Vec<String> {
    let Some(wanted) = &desired.parameters else {
        return Vec::new();
    };
    let changed = differing(&options::assignments(&current.file), wanted);
    let needs = |(name, setting): &(&String, &Setting)| match setting {
        Setting::Variable { dynamic: true, .. } => false,
        Setting::Variable {
            value, from_file, ..
        } => match wanted.get(*name) {
            Some(wanted) => {
                !options::same(value, wanted) && (changed.contains(name) || !*from_file)
            }
            None => changed.contains(name),
        },
        Setting::Option { in_force } => changed.contains(name) || !*in_force,
    };
    current
        .settings
        .iter()
        .filter(needs)
        .map(|(name, _)| name.clone())
        .collect()
}

fn observe(place: &Place, desired: &Desired) -> anyhow::Result<Current> {
    let ours = Path::new(options::OURS);
    let text = file::read(ours)?.unwrap_or_default();
    let mut current = Current {
        data: place.data.clone(),
        file: text,
        others: options::assignments(&options::expand(
            Path::new(options::MAIN),
            Some((ours, "")),
        )?),
        ..Current::default()
    };
    let mut client = match place.state()? {
        State::Absent => {
            refuse_foreign(&place.data)?;
            // A package that an earlier task is about to install makes its data and has itself started at boot.
            let to_come = !local::is_installed();
            current.initialised = to_come;
            current.at_boot = to_come || local::starts_at_boot()?;
            return Ok(current);
        }
        State::Stopped => {
            current.initialised = true;
            current.at_boot = local::starts_at_boot()?;
            return Ok(current);
        }
        State::Running(client) => client,
    };
    current.initialised = true;
    current.running = true;
    current.at_boot = local::starts_at_boot()?;
    let mut names: Vec<String> = options::assignments(&current.file).into_keys().collect();
    names.extend(desired.parameters.iter().flatten().map(|it| it.0.clone()));
    names.sort();
    names.dedup();
    for name in names {
        let wanted = desired.parameters.as_ref().and_then(|it| it.get(&name));
        let setting = ask(&mut client, &name, wanted.map(String::as_str))
            .with_context(|| format!("look up the option {name:?}"))?;
        current.settings.insert(name, setting);
    }
    Ok(current)
}

/// Data that is neither a server's nor ours is not covered up.
fn refuse_foreign(data: &Path) -> anyhow::Result<()> {
    let mut names: Vec<String> = match fs::read_dir(data) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
            .with_context(|| format!("list {}", data.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", data.display())),
    };
    if names.iter().any(|it| it == UNFINISHED) {
        return Ok(());
    }
    names.retain(|it| it != "lost+found" && it != "debian-5.7.flag");
    if !names.is_empty() {
        names.sort();
        bail!(
            "{} holds something, but no server's data: {}",
            data.display(),
            names.join(", ")
        );
    }
    Ok(())
}

/// A variable's name; a component's has two parts.
fn variable(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(crate::sql::identifier).collect();
    parts.join(".")
}

/// `ER_UNKNOWN_SYSTEM_VARIABLE`, `ER_INCORRECT_GLOBAL_LOCAL_VAR`.
const UNKNOWN: u16 = 1193;
const READ_ONLY: u16 = 1238;

fn ask(client: &mut Client, name: &str, wanted: Option<&str>) -> anyhow::Result<Setting> {
    let rows = client.query(&format!(
        "SELECT v.VARIABLE_VALUE, i.VARIABLE_PATH,
                EXISTS (SELECT 1 FROM performance_schema.persisted_variables p WHERE p.VARIABLE_NAME = v.VARIABLE_NAME)
         FROM performance_schema.global_variables v JOIN performance_schema.variables_info i USING (VARIABLE_NAME)
         WHERE v.VARIABLE_NAME = {}",
        literal(name)
    ))?;
    let Some(row) = rows.first() else {
        return Ok(Setting::Option {
            in_force: is_in_force(client, name, wanted)?,
        });
    };
    // No table says it. A value that cannot be evaluated is refused with another number only after the variable was found to be settable.
    let probe = format!("SET GLOBAL {} = (SELECT 1 UNION SELECT 2)", variable(name));
    let code = match client.run(&probe) {
        Ok(()) => bail!("the server took two values for one"),
        Err(error) if error.code().is_none() => return Err(error.into()),
        Err(error) => error.code(),
    };
    let from_file = row.text(1) == options::OURS && is_read(client)?;
    Ok(Setting::Variable {
        value: row.text(0).to_owned(),
        dynamic: !matches!(code, Some(UNKNOWN | READ_ONLY)),
        from_file,
        persisted: row.text(2) == "1",
    })
}

/// An option that is no variable. Plugins can be asked for; for the rest, the age of the file tells.
fn is_in_force(client: &mut Client, name: &str, wanted: Option<&str>) -> anyhow::Result<bool> {
    if !matches!(
        name,
        "plugin_load_add" | "plugin_load" | "early_plugin_load"
    ) {
        return is_read(client);
    }
    let loaded = client.query("SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS")?;
    let wanted = wanted.unwrap_or_default();
    // Each is `library` or `name=library`.
    let mut libraries = wanted
        .split(';')
        .map(|it| it.rsplit('=').next().unwrap_or(it).trim())
        .filter(|it| !it.is_empty());
    Ok(libraries.all(|library| loaded.iter().any(|row| row.text(0) == library)))
}

/// Whether the server has read our file as it is now.
fn is_read(client: &mut Client) -> anyhow::Result<bool> {
    let changed = match fs::metadata(options::OURS) {
        Ok(meta) => meta.modified().context("ask for the age of a file")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("look at {}", options::OURS)),
    };
    let up = client.value(
        "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Uptime'",
    )?;
    let up: u64 = up.parse().context("read the server's uptime")?;
    let started = SystemTime::now() - Duration::from_secs(up);
    Ok(changed <= started)
}

/// Sets it and looks at what the server made of it, for one that it rounds would be set in every run.
fn set(client: &mut Client, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    let at = format!("parameters.{name}");
    let Some(value) = value else {
        return Ok(client.run(&format!("SET GLOBAL {} = DEFAULT", variable(name)))?);
    };
    let written = match options::number(value) {
        Some(number) => number.to_string(),
        None if value.parse::<f64>().is_ok() => value.to_owned(),
        None => literal(value),
    };
    let sql = format!("SET GLOBAL {} = {written}", variable(name));
    client
        .run(&sql)
        .map_err(|error| Invalid::new(at.clone(), error.to_string()))?;
    let made = client.value(&format!(
        "SELECT VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME = {}",
        literal(name)
    ))?;
    if !options::same(&made, value) {
        return Err(Invalid::new(
            at,
            format!("the server makes {made} of {value}: write that"),
        )
        .into());
    }
    Ok(())
}

/// Asks the server's own program about all option files with ours as it would be.
fn validate(parameters: &Parameters, text: &str) -> anyhow::Result<()> {
    local::require_installed()?;
    let whole = options::expand(
        Path::new(options::MAIN),
        Some((Path::new(options::OURS), text)),
    )?;
    let candidate = Path::new("/etc/mysql/.ondol-candidate.cnf");
    // As readable as the files that it is made of: the server reads them as another user.
    file::write(candidate, &whole, 0o644)?;
    let output = local::server()
        .args([
            &format!("--defaults-file={}", candidate.display()),
            "--validate-config",
            &format!("--user={}", local::OWNER),
            "--log-error-verbosity=1",
        ])
        .run();
    fs::remove_file(candidate).with_context(|| format!("remove {}", candidate.display()))?;
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    let said = format!("{}\n{}", output.stderr, output.stdout);
    let words = local::errors(&said).unwrap_or_else(|| output.words().to_owned());
    let name = parameters
        .keys()
        .find(|name| words.contains(name.as_str()) || words.contains(&name.replace('_', "-")));
    let at = match name {
        Some(name) => format!("parameters.{name}"),
        None => "parameters".to_owned(),
    };
    Err(Invalid::new(at, format!("the server says: {words}")).into())
}

/// Where data is made before it is complete, within the data directory: AppArmor lets the server write nowhere else.
const UNFINISHED: &str = ".ondol-new";
/// In there, once the server has done its part.
const COMPLETE: &str = ".complete";
/// What tells data from none, so it is moved last.
const LAST: &str = "mysql";

/// Root is given to the local root before the server could listen for the first time. What a crash leaves is finished or made anew.
fn initialise(data: &Path) -> anyhow::Result<()> {
    local::require_installed()?;
    let new = data.join(UNFINISHED);
    if !new.join(COMPLETE).exists() {
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("remove {}", new.display()))?;
        }
        make(data, &new)?;
    }
    let mut names: Vec<_> = fs::read_dir(&new)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<_>>()
        })
        .with_context(|| format!("list {}", new.display()))?;
    names.retain(|name| name != COMPLETE);
    names.sort_by_key(|name| name == LAST);
    for name in names {
        fs::rename(new.join(&name), data.join(&name))
            .with_context(|| format!("move {} into {}", name.display(), data.display()))?;
    }
    fs::remove_dir_all(&new).with_context(|| format!("remove {}", new.display()))
}

fn make(data: &Path, new: &Path) -> anyhow::Result<()> {
    for path in [data, new] {
        if !path.exists() {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(path)
                .with_context(|| format!("make {}", path.display()))?;
            local::give_to_owner(path)?;
        }
    }
    let init = new.with_extension("sql");
    file::write(
        &init,
        "INSTALL PLUGIN auth_socket SONAME 'auth_socket.so';\n\
         ALTER USER 'root'@'localhost' IDENTIFIED WITH auth_socket;\n",
        0o600,
    )?;
    local::give_to_owner(&init)?;
    let done = local::server()
        .args([
            "--initialize-insecure",
            &format!("--user={}", local::OWNER),
            &format!("--datadir={}", new.display()),
            &format!("--init-file={}", init.display()),
            "--log-error-verbosity=1",
            "--log-error=stderr",
        ])
        .within(Duration::from_secs(300))
        .succeed();
    fs::remove_file(&init).with_context(|| format!("remove {}", init.display()))?;
    done?;
    file::write(&new.join(COMPLETE), "", 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Desired {
        let params: Params = serde_json::from_value(json).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn lines(json: serde_json::Value, current: &Current) -> Vec<String> {
        let steps = MysqlInstance::plan(&desired(json), current);
        steps.iter().map(ToString::to_string).collect()
    }

    fn variable(value: &str, dynamic: bool, from_file: bool) -> Setting {
        Setting::Variable {
            value: value.to_owned(),
            dynamic,
            from_file,
            persisted: false,
        }
    }

    fn running(file: &[(&str, &str)], settings: &[(&str, Setting)]) -> Current {
        let parameters: Parameters = file
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Current {
            data: "/var/lib/mysql".into(),
            initialised: true,
            running: true,
            at_boot: true,
            file: if file.is_empty() {
                String::new()
            } else {
                rendered(&parameters)
            },
            settings: settings
                .iter()
                .map(|(name, setting)| ((*name).to_owned(), setting.clone()))
                .collect(),
            others: Parameters::new(),
        }
    }

    #[test]
    fn plans() {
        let none = Current {
            data: "/var/lib/mysql".into(),
            at_boot: true,
            ..Current::default()
        };
        assert_eq!(
            lines(serde_json::json!({"parameters": {"server-id": "7"}}), &none),
            [
                "initialise the data in /var/lib/mysql, root by auth_socket",
                "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: server_id",
                "start the server",
            ]
        );
        let wanted = serde_json::json!({"parameters": {"max_connections": "200", "port": "3307", "plugin_load_add": "mysql_clone.so"}});
        let before = running(
            &[],
            &[
                ("max_connections", variable("151", true, false)),
                ("plugin_load_add", Setting::Option { in_force: false }),
                ("port", variable("3306", false, false)),
            ],
        );
        let live = [
            "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: max_connections, plugin_load_add, port",
            "set max_connections = 200",
        ];
        assert_eq!(lines(wanted.clone(), &before), live);
        let mut allowed = wanted.clone();
        allowed["restart"] = "allowed".into();
        assert_eq!(
            lines(allowed.clone(), &before),
            [
                live[0],
                live[1],
                "restart the server for plugin_load_add, port"
            ]
        );
        let file = [
            ("max_connections", "200"),
            ("plugin_load_add", "mysql_clone.so"),
            ("port", "3307"),
        ];
        let after = running(
            &file,
            &[
                ("max_connections", variable("200", true, false)),
                ("plugin_load_add", Setting::Option { in_force: true }),
                ("port", variable("3307", false, true)),
            ],
        );
        assert_eq!(lines(allowed.clone(), &after), [""; 0]);
        // Somebody set it by hand.
        let mut drifted = after.clone();
        drifted
            .settings
            .insert("max_connections".to_owned(), variable("10", true, false));
        assert_eq!(
            lines(allowed.clone(), &drifted),
            ["set max_connections = 200"]
        );
        // What the server rounded when it read our file is right.
        let mut rounded = after.clone();
        rounded
            .settings
            .insert("max_connections".to_owned(), variable("208", true, true));
        assert_eq!(lines(allowed, &rounded), [""; 0]);
        // What is no longer wanted gets its default, or what another file says.
        let mut less = after;
        less.others
            .insert("max_connections".to_owned(), "99".to_owned());
        assert_eq!(
            lines(
                serde_json::json!({"parameters": {"port": "3307"}, "restart": "allowed"}),
                &less
            ),
            [
                "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: max_connections, plugin_load_add",
                "set max_connections = 99",
                "restart the server for plugin_load_add"
            ]
        );
        assert_eq!(lines(serde_json::json!({}), &less), [""; 0]);
    }

    #[test]
    fn a_stopped_server_is_started_and_stays_for_the_next_boot() {
        let stopped = Current {
            initialised: true,
            data: "/var/lib/mysql".into(),
            ..Current::default()
        };
        assert_eq!(
            lines(serde_json::json!({}), &stopped),
            ["start the server at boot", "start the server"]
        );
    }

    #[test]
    fn what_persists_over_the_file_is_undone() {
        let mut current = running(
            &[("max_connections", "200")],
            &[("max_connections", variable("10", true, false))],
        );
        current.settings.insert(
            "max_connections".to_owned(),
            Setting::Variable {
                value: "10".to_owned(),
                dynamic: true,
                from_file: false,
                persisted: true,
            },
        );
        assert_eq!(
            lines(
                serde_json::json!({"parameters": {"max_connections": "200"}}),
                &current
            ),
            [
                "undo SET PERSIST max_connections, which wins over the file",
                "set max_connections = 200"
            ]
        );
    }

    #[test]
    fn data_that_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        refuse_foreign(folder.path()).expect("empty");
        refuse_foreign(&folder.path().join("none")).expect("not there");
        fs::create_dir(folder.path().join("lost+found")).expect("made");
        refuse_foreign(folder.path()).expect("a file system's own");
        fs::write(folder.path().join("ibdata1"), "").expect("written");
        let error = refuse_foreign(folder.path()).expect_err("foreign");
        assert!(error.to_string().contains("ibdata1"), "{error}");
        fs::create_dir(folder.path().join(UNFINISHED)).expect("made");
        refuse_foreign(folder.path()).expect("ours, broken off");
    }
}
