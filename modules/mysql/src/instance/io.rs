//! Looking at the server and its files, and the acts on them. Nothing here decides.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use ondol_kit::Invalid;
use ondol_machine::file;

use super::{Current, Desired, Setting};
use crate::client::Client;
use crate::local::{self, Place, State};
use crate::options::{self, Parameters};
use crate::sql::literal;

pub(super) fn observe(place: &Place, desired: &Desired) -> anyhow::Result<Current> {
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
pub(super) fn refuse_foreign(data: &Path) -> anyhow::Result<()> {
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
pub(super) fn variable(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(crate::sql::identifier).collect();
    parts.join(".")
}

/// `ER_UNKNOWN_SYSTEM_VARIABLE`, `ER_INCORRECT_GLOBAL_LOCAL_VAR`.
const UNKNOWN: u16 = 1193;
const READ_ONLY: u16 = 1238;

pub(super) fn ask(
    client: &mut Client,
    name: &str,
    wanted: Option<&str>,
) -> anyhow::Result<Setting> {
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
pub(super) fn is_in_force(
    client: &mut Client,
    name: &str,
    wanted: Option<&str>,
) -> anyhow::Result<bool> {
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
pub(super) fn is_read(client: &mut Client) -> anyhow::Result<bool> {
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
pub(super) fn set(client: &mut Client, name: &str, value: Option<&str>) -> anyhow::Result<()> {
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
pub(super) fn validate(parameters: &Parameters, text: &str) -> anyhow::Result<()> {
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
pub(super) const UNFINISHED: &str = ".ondol-new";
/// In there, once the server has done its part.
const COMPLETE: &str = ".complete";
/// What tells data from none, so it is moved last.
const LAST: &str = "mysql";

/// Root is given to the local root before the server could listen for the first time. What a crash leaves is finished or made anew.
pub(super) fn initialise(data: &Path) -> anyhow::Result<()> {
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

pub(super) fn make(data: &Path, new: &Path) -> anyhow::Result<()> {
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
