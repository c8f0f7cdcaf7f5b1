//! `ondol_ansible_inventory`: the inventory file that Ansible reads, and the known_hosts file beside it.
//!
//! The text is rendered while planning, so a plan shows whether it changes. Only these two files are touched.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path as FilePath, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Dynamic, Failure, Key, Operation, Path, Planned, Resource,
    attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics;
use crate::ssh::{known_hosts_name, openssh_text, parse_pin};

const HEADER: &str = "# Written by Terraform (ondol_ansible_inventory). A change made here is undone by the next apply.\n";
const DEFAULT_PORT: u16 = 22;

/// An inventory file in YAML for Ansible.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The file's path.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// Where the inventory is written.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub path: Attr<String>,
    /// Hosts by inventory name.
    #[schemars(transform = attribute::required)]
    pub hosts: Attr<BTreeMap<String, Host>>,
    /// Groups with children or variables of their own, by name. A group that only hosts name needs no entry.
    pub groups: Attr<BTreeMap<String, Group>>,
    /// Variables of all hosts: an object.
    pub variables: Attr<Dynamic>,
    /// How Ansible reaches all hosts.
    pub ssh: Attr<Ssh>,
    /// SHA-256 of the inventory file. Known while planning if everything in it is.
    #[schemars(transform = attribute::computed)]
    pub content_sha256: Attr<String>,
    /// SHA-256 of the known_hosts file; null if there is none.
    #[schemars(transform = attribute::computed)]
    pub known_hosts_sha256: Attr<String>,
}

/// A host of the inventory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Its address, `ansible_host`.
    #[schemars(transform = attribute::required)]
    pub address: Attr<String>,
    /// The groups that it belongs to.
    pub groups: Attr<Vec<String>>,
    /// Its variables: an object.
    pub variables: Attr<Dynamic>,
    /// Its public SSH host key, for the known_hosts file.
    pub host_key: Attr<String>,
}

/// A group of the inventory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Groups that belong to it.
    pub children: Attr<Vec<String>>,
    /// Its variables: an object.
    pub variables: Attr<Dynamic>,
}

/// How Ansible reaches the hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ssh {
    /// The user to log in as.
    pub user: Attr<String>,
    /// TCP port.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_PORT), range(min = 1, max = 65535))]
    pub port: Attr<u16>,
    /// The private key file.
    pub private_key_file: Attr<String>,
    /// Where the hosts' keys are written. Ansible then accepts these and no others.
    pub known_hosts_path: Attr<String>,
    /// The command that opens the connection; `%h` and `%p` are address and port.
    pub proxy_command: Attr<String>,
}

/// The two files, as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    inventory: String,
    /// Path and text.
    known_hosts: Option<(PathBuf, String)>,
}

impl Model {
    /// `None` while something is unknown.
    fn files(&self) -> Option<Result<Files, Diagnostics>> {
        let mut diagnostics = Diagnostics::new();
        let files = render(self, &mut diagnostics)?;
        Some(diagnostics.into_result().map(|()| files))
    }

    fn known_hosts_path(&self) -> Option<PathBuf> {
        self.ssh
            .known()?
            .known_hosts_path
            .known()
            .map(PathBuf::from)
    }
}

/// `Some(None)` is a value that is not given, `None` one that is not known.
fn given<T>(value: &Attr<T>) -> Option<Option<&T>> {
    match value {
        Attr::Known(value) => Some(Some(value)),
        Attr::Null => Some(None),
        Attr::Unknown => None,
    }
}

/// An object's variables, sorted; a complaint if it is something else.
fn variables(
    value: &Attr<Dynamic>,
    at: &Path,
    diagnostics: &mut Diagnostics,
) -> Option<BTreeMap<String, Value>> {
    let Some(dynamic) = given(value)? else {
        return Some(BTreeMap::new());
    };
    // JSON cannot express what is unknown: then the file is unknown too.
    let json = dynamic.to_json().ok()?;
    match serde_json::from_str(&json) {
        Ok(Value::Object(object)) => Some(
            object
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect(),
        ),
        _ => {
            diagnostics::complain(
                diagnostics,
                at.clone(),
                format!("{at} is not an object"),
                "Variables have names: write { name = value }.",
            );
            Some(BTreeMap::new())
        }
    }
}

/// Terraform's own order of attributes is by name, but a value from elsewhere may have another.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<String, Value> = object
                .into_iter()
                .map(|(key, value)| (key, sorted_value(value)))
                .collect();
            Value::Object(sorted.into_iter().collect())
        }
        other => sorted_value(other),
    }
}

fn sorted_value(value: Value) -> Value {
    match value {
        Value::Object(_) => sorted(value),
        Value::Array(elements) => Value::Array(elements.into_iter().map(sorted_value).collect()),
        other => other,
    }
}

fn render(model: &Model, diagnostics: &mut Diagnostics) -> Option<Files> {
    let hosts = model.hosts.known()?;
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut all_hosts = Map::new();
    let mut known_hosts = Vec::new();
    let ssh = given(&model.ssh)?;
    let port = match ssh {
        None => DEFAULT_PORT,
        Some(ssh) => given(&ssh.port)?.copied().unwrap_or(DEFAULT_PORT),
    };
    for (name, host) in hosts {
        let at = path!["hosts", Key(name)];
        let mut vars = variables(&host.variables, &at.child("variables"), diagnostics)?;
        let address = host.address.known()?;
        vars.insert("ansible_host".to_owned(), address.clone().into());
        if let Some(key) = given(&host.host_key)? {
            let socket = control_path(address, port, key, ssh)?;
            vars.insert("ansible_control_path".to_owned(), socket.into());
        }
        all_hosts.insert(name.clone(), Value::Object(vars.into_iter().collect()));
        for group in given(&host.groups)?.into_iter().flatten() {
            groups
                .entry(group.clone())
                .or_default()
                .insert(name.clone());
        }
        if let Some(key) = given(&host.host_key)? {
            match parse_pin(key) {
                Ok(key) => known_hosts.push(format!(
                    "{} {}\n",
                    known_hosts_name(address, port),
                    openssh_text(&key)
                )),
                Err(error) => diagnostics::complain(
                    diagnostics,
                    at.child("host_key"),
                    "host_key is not a public key",
                    error.to_string(),
                ),
            }
        }
    }
    let mut children = render_groups(model, groups, diagnostics)?;
    children.sort_keys();
    let mut vars = variables(&model.variables, &path!["variables"], diagnostics)?;
    let mut known_hosts_file = None;
    if let Some(ssh) = ssh {
        known_hosts_file = given(&ssh.known_hosts_path)?.map(PathBuf::from);
        connection(ssh, port, &mut vars)?;
    }
    let mut all = Map::new();
    if !vars.is_empty() {
        all.insert("vars".to_owned(), Value::Object(vars.into_iter().collect()));
    }
    all.insert("hosts".to_owned(), Value::Object(all_hosts));
    if !children.is_empty() {
        all.insert("children".to_owned(), Value::Object(children));
    }
    let tree: Map<String, Value> = [("all".to_owned(), Value::Object(all))]
        .into_iter()
        .collect();
    let yaml = serde_norway::to_string(&tree).expect("a tree with string keys is YAML");
    Some(Files {
        inventory: format!("{HEADER}{yaml}"),
        known_hosts: known_hosts_file
            .map(|path| (path, format!("{HEADER}{}", known_hosts.concat()))),
    })
}

fn render_groups(
    model: &Model,
    mut members: BTreeMap<String, BTreeSet<String>>,
    diagnostics: &mut Diagnostics,
) -> Option<Map<String, Value>> {
    let declared = given(&model.groups)?;
    let mut rendered = Map::new();
    for (name, group) in declared.into_iter().flatten() {
        let at = path!["groups", Key(name)];
        let vars = variables(&group.variables, &at.child("variables"), diagnostics)?;
        let mut entry = group_entry(members.remove(name).unwrap_or_default());
        if !vars.is_empty() {
            entry.insert("vars".to_owned(), Value::Object(vars.into_iter().collect()));
        }
        let children: BTreeSet<&String> = given(&group.children)?.into_iter().flatten().collect();
        if !children.is_empty() {
            let children = children
                .into_iter()
                .map(|child| (child.clone(), Value::Object(Map::new())));
            entry.insert("children".to_owned(), Value::Object(children.collect()));
        }
        rendered.insert(name.clone(), Value::Object(entry));
    }
    for (name, hosts) in members {
        rendered.insert(name, Value::Object(group_entry(hosts)));
    }
    Some(rendered)
}

fn group_entry(hosts: BTreeSet<String>) -> Map<String, Value> {
    let hosts: Map<String, Value> = hosts
        .into_iter()
        .map(|host| (host, Value::Object(Map::new())))
        .collect();
    if hosts.is_empty() {
        Map::new()
    } else {
        [("hosts".to_owned(), Value::Object(hosts))]
            .into_iter()
            .collect()
    }
}

/// Ansible's connection variables. `None` while something is unknown.
fn connection(ssh: &Ssh, port: u16, vars: &mut BTreeMap<String, Value>) -> Option<()> {
    let mut options: Vec<String> = Vec::new();
    if let Some(path) = given(&ssh.known_hosts_path)? {
        options.push(format!("-o UserKnownHostsFile={path}"));
        options.push("-o StrictHostKeyChecking=yes".to_owned());
    }
    if let Some(command) = given(&ssh.proxy_command)? {
        options.push(format!("-o ProxyCommand=\"{command}\""));
    }
    if !options.is_empty() {
        vars.insert(
            "ansible_ssh_common_args".to_owned(),
            options.join(" ").into(),
        );
    }
    if let Some(user) = given(&ssh.user)? {
        vars.insert("ansible_user".to_owned(), user.clone().into());
    }
    if let Some(file) = given(&ssh.private_key_file)? {
        vars.insert(
            "ansible_ssh_private_key_file".to_owned(),
            file.clone().into(),
        );
    }
    if port != DEFAULT_PORT {
        vars.insert("ansible_port".to_owned(), port.into());
    }
    Some(())
}

/// Where OpenSSH keeps its shared connection (ssh_config(5), ControlPath). Ansible's own choice knows a machine by address, port and user:
/// after a machine was made anew, or with two labs of the same addresses, it would talk to the wrong one, or to none. `None` while
/// something is unknown.
fn control_path(address: &str, port: u16, host_key: &str, ssh: Option<&Ssh>) -> Option<String> {
    let mut identity = format!("{address}\n{port}\n{}", host_key.trim());
    if let Some(ssh) = ssh {
        for part in [given(&ssh.user)?, given(&ssh.proxy_command)?] {
            identity.push('\n');
            identity.push_str(part.map_or("", String::as_str));
        }
    }
    // Short, because the path of a socket holds 107 bytes (unix(7)).
    let name = &sha256(identity.as_bytes())[..16];
    Some(format!("%(directory)s/ondol-{name}"))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn plan(mut planned: Model, diagnostics: &mut Diagnostics) -> Model {
    planned.id = planned.path.clone();
    planned.content_sha256 = Attr::Unknown;
    planned.known_hosts_sha256 = Attr::Unknown;
    match planned.files() {
        None => {}
        Some(Err(problems)) => diagnostics.extend(problems),
        Some(Ok(files)) => {
            planned.content_sha256 = sha256(files.inventory.as_bytes()).into();
            planned.known_hosts_sha256 = files
                .known_hosts
                .map(|(_, text)| sha256(text.as_bytes()))
                .into();
        }
    }
    planned
}

pub struct AnsibleInventoryResource;

impl Resource for AnsibleInventoryResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_ansible_inventory";
    const IMPORT_ID: Option<&'static str> = Some("PATH");

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        for (name, host) in config.hosts.known().into_iter().flatten() {
            for (index, group) in host.groups.known().into_iter().flatten().enumerate() {
                if !is_group_name(group) {
                    diagnostics.push(bad_group(group, path!["hosts", Key(name), "groups", index]));
                }
            }
        }
        for name in config
            .groups
            .known()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            if !is_group_name(name) {
                diagnostics.push(bad_group(name, path!["groups", Key(name)]));
            }
        }
        if let Some(Err(problems)) = config.files() {
            diagnostics.extend(problems);
        }
    }

    fn plan(
        _: Option<&Model>,
        planned: Model,
        _: &Model,
        diagnostics: &mut Diagnostics,
    ) -> Planned<Model> {
        plan(planned, diagnostics).into()
    }

    async fn create(
        _: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(write(planned)?)
    }

    async fn read(_: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let path = state.path.require(path!["path"])?;
        let Some(content_sha256) = digest_of(FilePath::new(path))? else {
            return Ok(None);
        };
        let known_hosts_sha256 = match state.known_hosts_path() {
            Some(path) => digest_of(&path)?.into(),
            None => Attr::Null,
        };
        Ok(Some(Model {
            content_sha256: content_sha256.into(),
            known_hosts_sha256,
            ..state
        }))
    }

    async fn update(
        _: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let abandoned = prior
            .known_hosts_path()
            .filter(|path| Some(path) != planned.known_hosts_path().as_ref());
        let (digest, written) = (prior.known_hosts_sha256, write(planned)?);
        if let (Some(path), Some(digest)) = (abandoned, digest.known()) {
            remove_own(&path, digest)?;
        }
        Ok(written)
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let own = [
            (
                state.path.known().map(PathBuf::from),
                state.content_sha256.known(),
            ),
            (state.known_hosts_path(), state.known_hosts_sha256.known()),
        ];
        for (path, digest) in own {
            let (Some(path), Some(digest)) = (path, digest) else {
                continue;
            };
            if !remove_own(&path, digest)? {
                cx.warn(
                    Diagnostic::warning(format!("{} is kept", path.display()))
                        .detail("It was changed after Terraform wrote it. Remove it by hand if it is not needed."),
                );
            }
        }
        Ok(())
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        Ok(Model {
            id: id.into(),
            path: id.into(),
            ..Model::default()
        })
    }
}

/// What Ansible accepts for a group without a warning.
fn is_group_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn bad_group(name: &str, at: Path) -> Diagnostic {
    let error = Diagnostic::error(format!("{name:?} cannot name a group"))
        .detail("Ansible takes letters, digits and underscores, and no digit first.");
    diagnostics::at(error, at)
}

fn write(planned: Model) -> Result<Model, Diagnostics> {
    let files = planned.files().unwrap_or_else(|| {
        Err(Diagnostic::error("The inventory is not fully described")
            .detail("A value has none at apply time. This is a bug in the provider.")
            .into())
    })?;
    let path = planned.path.require(path!["path"])?.clone();
    // Keys first: a reader that finds the new inventory must find its keys.
    let mut known_hosts_sha256 = Attr::Null;
    if let Some((path, text)) = &files.known_hosts {
        replace(path, text, 0o600)
            .map_err(|words| failure(path, &words, path!["ssh", "known_hosts_path"]))?;
        known_hosts_sha256 = sha256(text.as_bytes()).into();
    }
    replace(FilePath::new(&path), &files.inventory, 0o644)
        .map_err(|words| failure(FilePath::new(&path), &words, path!["path"]))?;
    Ok(Model {
        content_sha256: sha256(files.inventory.as_bytes()).into(),
        known_hosts_sha256,
        ..planned
    })
}

fn failure(path: &FilePath, error: &std::io::Error, at: Path) -> Diagnostic {
    Diagnostic::error(format!("Could not write {}", path.display()))
        .detail(format!("{error}."))
        .at(at)
}

/// Complete or not at all: written beside the file, then renamed over it.
fn replace(path: &FilePath, text: &str, mode: u32) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => FilePath::new("."),
    };
    std::fs::create_dir_all(parent)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| {
        std::io::Error::new(ErrorKind::InvalidInput, "the path ends in no file name")
    })?);
    name.push(".ondol-new");
    let temporary = parent.join(name);
    let mut file = std::fs::File::create(&temporary)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

fn digest_of(path: &FilePath) -> Result<Option<String>, Diagnostic> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(sha256(&bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(
            Diagnostic::error(format!("Could not read {}", path.display()))
                .detail(format!("{error}."))
                .at(path!["path"]),
        ),
    }
}

/// Removes a file that is still as written. False if it is not ours any more.
fn remove_own(path: &FilePath, digest: &str) -> Result<bool, Diagnostic> {
    match digest_of(path)? {
        None => Ok(true),
        Some(found) if found != digest => Ok(false),
        Some(_) => std::fs::remove_file(path).map(|()| true).map_err(|error| {
            Diagnostic::error(format!("Could not remove {}", path.display()))
                .detail(format!("{error}."))
        }),
    }
}

#[cfg(test)]
mod tests {
    use tfplugin::cty::{Type, Value as Cty};

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn object(pairs: &[(&str, &str)]) -> Attr<Dynamic> {
        let types = pairs
            .iter()
            .map(|(key, _)| ((*key).to_owned(), Type::String))
            .collect();
        let values = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Cty::String((*value).to_owned())))
            .collect();
        Dynamic {
            kind: Type::Object(types),
            value: Cty::Map(values),
        }
        .into()
    }

    fn host(address: &str, groups: &[&str]) -> Host {
        Host {
            address: address.into(),
            groups: groups
                .iter()
                .map(|&group| group.to_owned())
                .collect::<Vec<_>>()
                .into(),
            variables: object(&[("app", "Web Server: 01"), ("id", "0123")]),
            host_key: format!("{KEY} root@x").into(),
        }
    }

    fn model() -> Model {
        Model {
            path: "/tmp/hosts.yml".into(),
            hosts: BTreeMap::from([
                (
                    "web-02".to_owned(),
                    host("192.168.10.31", &["web", "load_balancer"]),
                ),
                ("web-01".to_owned(), host("192.168.10.29", &["web"])),
            ])
            .into(),
            groups: BTreeMap::from([(
                "frontend".to_owned(),
                Group {
                    children: vec!["web".to_owned()].into(),
                    variables: object(&[("tier", "1")]),
                },
            )])
            .into(),
            variables: object(&[("domain", "infra.internal")]),
            ssh: Ssh {
                user: "ondol".into(),
                port: 22.into(),
                private_key_file: "/keys/id".into(),
                known_hosts_path: "/tmp/known_hosts".into(),
                proxy_command: "ondol-lab --lab x proxy %h %p".into(),
            }
            .into(),
            ..Model::default()
        }
    }

    #[test]
    fn the_files_are_rendered_whole_and_in_one_order() {
        let files = model().files().unwrap().unwrap();
        insta::assert_snapshot!(files.inventory, @r#"
        # Written by Terraform (ondol_ansible_inventory). A change made here is undone by the next apply.
        all:
          vars:
            ansible_ssh_common_args: -o UserKnownHostsFile=/tmp/known_hosts -o StrictHostKeyChecking=yes -o ProxyCommand="ondol-lab --lab x proxy %h %p"
            ansible_ssh_private_key_file: /keys/id
            ansible_user: ondol
            domain: infra.internal
          hosts:
            web-01:
              ansible_control_path: '%(directory)s/ondol-eb0b680fbef91910'
              ansible_host: 192.168.10.29
              app: 'Web Server: 01'
              id: '0123'
            web-02:
              ansible_control_path: '%(directory)s/ondol-5a5cccf3ba72ed0c'
              ansible_host: 192.168.10.31
              app: 'Web Server: 01'
              id: '0123'
          children:
            frontend:
              vars:
                tier: '1'
              children:
                web: {}
            load_balancer:
              hosts:
                web-02: {}
            web:
              hosts:
                web-01: {}
                web-02: {}
        "#);
        let (path, known_hosts) = files.known_hosts.unwrap();
        assert_eq!(path, FilePath::new("/tmp/known_hosts"));
        assert_eq!(
            known_hosts,
            format!("{HEADER}192.168.10.29 {KEY}\n192.168.10.31 {KEY}\n")
        );
    }

    #[test]
    fn a_machine_made_anew_gets_a_connection_of_its_own() {
        let ssh = Ssh {
            user: "ondol".into(),
            proxy_command: "ondol-lab --lab x proxy %h %p".into(),
            ..Ssh::default()
        };
        let path = |address: &str, key: &str, ssh: &Ssh| control_path(address, 22, key, Some(ssh));
        let first = path("192.168.10.29", "ssh-ed25519 AAAA", &ssh).unwrap();
        assert_eq!(
            path("192.168.10.29", "ssh-ed25519 AAAA\n", &ssh).as_ref(),
            Some(&first)
        );
        let other_lab = Ssh {
            proxy_command: "ondol-lab --lab y proxy %h %p".into(),
            ..ssh.clone()
        };
        let others = [
            path("192.168.10.30", "ssh-ed25519 AAAA", &ssh),
            path("192.168.10.29", "ssh-ed25519 BBBB", &ssh),
            path("192.168.10.29", "ssh-ed25519 AAAA", &other_lab),
        ];
        for other in others {
            assert_ne!(other.as_ref(), Some(&first));
        }
        let unknown = Ssh {
            user: Attr::Unknown,
            ..ssh
        };
        assert_eq!(path("192.168.10.29", "ssh-ed25519 AAAA", &unknown), None);
    }

    #[test]
    fn an_unknown_address_makes_the_file_unknown() {
        let mut unknown = model();
        unknown
            .hosts
            .known_mut()
            .unwrap()
            .get_mut("web-01")
            .unwrap()
            .address = Attr::Unknown;
        let planned = plan(unknown, &mut Diagnostics::new());
        assert_eq!(
            (planned.content_sha256, planned.known_hosts_sha256),
            (Attr::Unknown, Attr::Unknown)
        );
    }

    #[test]
    fn what_is_no_group_no_object_and_no_key_is_named() {
        let mut wrong = model();
        wrong.variables = Dynamic {
            kind: Type::String,
            value: Cty::String("x".to_owned()),
        }
        .into();
        wrong.hosts = BTreeMap::from([(
            "web-01".to_owned(),
            Host {
                host_key: "junk".into(),
                ..host("10.0.0.1", &["load-balancer"])
            },
        )])
        .into();
        let mut diagnostics = Diagnostics::new();
        AnsibleInventoryResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(
            paths,
            [
                "hosts[\"web-01\"].groups[0]",
                "hosts[\"web-01\"].host_key",
                "variables"
            ]
        );
    }

    #[test]
    fn files_are_replaced_whole_and_removed_only_while_ours() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("new").join(name);
        let mut model = model();
        model.path = at("hosts.yml").display().to_string().into();
        model.ssh.known_mut().unwrap().known_hosts_path =
            at("known_hosts").display().to_string().into();
        let written = write(model).unwrap();
        let mode = |name: &str| std::fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("hosts.yml"), mode("known_hosts")), (0o644, 0o600));
        assert_eq!(
            digest_of(&at("hosts.yml")).unwrap(),
            written.content_sha256.known().cloned()
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("new")).unwrap().count(),
            2
        );
        let digest = written.content_sha256.known().unwrap();
        std::fs::write(at("hosts.yml"), "mine").unwrap();
        assert_eq!(remove_own(&at("hosts.yml"), digest), Ok(false));
        assert_eq!(
            remove_own(
                &at("known_hosts"),
                written.known_hosts_sha256.known().unwrap()
            ),
            Ok(true)
        );
        assert_eq!(remove_own(&at("known_hosts"), digest), Ok(true));
    }
}
