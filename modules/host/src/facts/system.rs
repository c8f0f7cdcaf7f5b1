//! The operating system, its names, the user, and the settings that playbooks ask for before anything else.

use std::collections::BTreeMap;

use anyhow::Context;
use nix::sys::utsname::uname;
use nix::unistd::{Gid, Uid, User};
use serde_json::{Map, Value, json};

use super::tree::Tree;
use super::{Found, found};

pub(super) fn gather(tree: &Tree) -> anyhow::Result<Found> {
    let mut found = platform(tree)?;
    found.extend(distribution(tree));
    found.extend(user()?);
    let cmdline = tree.read("/proc/cmdline").unwrap_or_default();
    found.extend(found! {
        "env": std::env::vars_os()
            .map(|(key, value)| (key.to_string_lossy().into_owned(), json!(value.to_string_lossy())))
            .collect::<Map<_, _>>(),
        "cmdline": command_line(&cmdline, false),
        "proc_cmdline": command_line(&cmdline, true),
        "dns": resolver(&tree.read("/etc/resolv.conf").unwrap_or_default()),
        "fips": tree.line("/proc/sys/crypto/fips_enabled").as_deref() == Some("1"),
        "apparmor": {
            "status": if tree.exists("/sys/kernel/security/apparmor") { "enabled" } else { "disabled" },
        },
        "selinux": selinux(tree),
        "pkg_mgr": package_manager(tree),
        "service_mgr": service_manager(
            tree.line("/proc/1/comm").as_deref(),
            tree.exists("/run/systemd/system"),
        ),
        "python": python(tree),
    });
    found.extend(host_keys(tree));
    let id = tree
        .line("/etc/machine-id")
        .or_else(|| tree.line("/var/lib/dbus/machine-id"));
    if let Some(id) = id {
        found.insert("machine_id".to_owned(), json!(id));
    }
    Ok(found)
}

fn platform(tree: &Tree) -> anyhow::Result<Found> {
    let uname = uname().context("read the kernel's names")?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let nodename = text(uname.nodename());
    let machine = text(uname.machine());
    let fqdn = full_name(&nodename, &tree.read("/etc/hosts").unwrap_or_default());
    let domain = fqdn.split_once('.').map_or("", |(_, domain)| domain);
    // The kernel may be wider than the programs on it; a module is built for the latter.
    let bits = if cfg!(target_pointer_width = "64") {
        "64"
    } else {
        "32"
    };
    Ok(found! {
        "system": text(uname.sysname()),
        "kernel": text(uname.release()),
        "kernel_version": text(uname.version()),
        "machine": machine,
        "architecture": machine,
        "userspace_architecture": std::env::consts::ARCH,
        "userspace_bits": bits,
        "nodename": nodename,
        "hostname": nodename.split('.').next().unwrap_or_default(),
        "fqdn": fqdn,
        "domain": domain,
    })
}

/// The name with a domain, from `/etc/hosts` alone: the first line that names the host gives its address, the first
/// line with that address its names. A name server is not asked; without one that would take seconds.
fn full_name(nodename: &str, hosts: &str) -> String {
    let lines: Vec<Vec<&str>> = hosts
        .lines()
        .map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().collect()
        })
        .filter(|fields: &Vec<&str>| fields.len() > 1)
        .collect();
    let own = lines
        .iter()
        .find(|fields| fields[1..].contains(&nodename))
        .and_then(|own| lines.iter().find(|fields| fields[0] == own[0]));
    match own {
        Some(fields) => fields[1..]
            .iter()
            .find(|name| name.contains('.'))
            .unwrap_or(&fields[1]),
        None => nodename,
    }
    .to_owned()
}

/// `NAME="value"` lines, as in os-release.
fn assignments(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name, value.trim_matches(['"', '\''])))
        .collect()
}

fn distribution(tree: &Tree) -> Found {
    const FILE: &str = "/etc/os-release";
    let text = tree.read(FILE).unwrap_or_default();
    let release = assignments(&text);
    let debian_version = tree.line("/etc/debian_version");
    let mut found = named_distribution(&release, debian_version.as_deref());
    if !release.is_empty() {
        found.extend(found! {
            "distribution_file_path": FILE,
            "distribution_file_parsed": true,
        });
    }
    let has_lsb = tree.exists("/etc/lsb-release") || tree.exists("/usr/bin/lsb_release");
    let lsb = if has_lsb {
        let id = found.get("distribution").cloned().unwrap_or_default();
        let version = *release.get("VERSION_ID").unwrap_or(&"");
        json!({
            "id": id,
            "description": release.get("PRETTY_NAME"),
            "release": version,
            "codename": release.get("VERSION_CODENAME"),
            "major_release": version.split('.').next(),
        })
    } else {
        json!({})
    };
    found.insert("lsb".to_owned(), lsb);
    found
}

fn named_distribution(release: &BTreeMap<&str, &str>, debian_version: Option<&str>) -> Found {
    let get = |key: &str| release.get(key).copied().unwrap_or_default();
    let id = get("ID");
    let name = match id {
        "debian" => "Debian",
        "ubuntu" => "Ubuntu",
        "rhel" => "RedHat",
        "centos" => "CentOS",
        "rocky" => "Rocky",
        "almalinux" => "AlmaLinux",
        "fedora" => "Fedora",
        "alpine" => "Alpine",
        "arch" => "Archlinux",
        "" => "Linux",
        _ => get("NAME").split_whitespace().next().unwrap_or(id),
    };
    let likes: Vec<&str> = std::iter::once(id)
        .chain(get("ID_LIKE").split_whitespace())
        .collect();
    let family = [
        ("debian", "Debian"),
        ("ubuntu", "Debian"),
        ("rhel", "RedHat"),
        ("fedora", "RedHat"),
        ("suse", "Suse"),
        ("alpine", "Alpine"),
        ("arch", "Archlinux"),
    ]
    .into_iter()
    .find(|(like, _)| likes.contains(like))
    .map_or(name, |(_, family)| family);
    // Debian's os-release has no point release; debian_version has, unless the release is not out yet ("trixie/sid").
    let point = debian_version
        .filter(|version| id == "debian" && version.starts_with(|c: char| c.is_ascii_digit()));
    let version = point.unwrap_or_else(|| get("VERSION_ID"));
    let (major, minor) = match version.split_once('.') {
        Some((major, minor)) => (major, Some(minor)),
        None => (version, None),
    };
    let mut found = found! {
        "distribution": name,
        "distribution_version": if version.is_empty() { "NA" } else { version },
        "distribution_major_version": if major.is_empty() { "NA" } else { major },
        "distribution_release": match get("VERSION_CODENAME") { "" => "NA", name => name },
        "distribution_file_variety": family,
        "os_family": family,
    };
    if let Some(minor) = minor.filter(|_| point.is_some()) {
        found.insert("distribution_minor_version".to_owned(), json!(minor));
    }
    found
}

fn user() -> anyhow::Result<Found> {
    let (uid, gid) = (Uid::current(), Gid::current());
    let user = User::from_uid(uid).with_context(|| format!("look up user {uid}"))?;
    let mut found = found! {
        "real_user_id": uid.as_raw(),
        "effective_user_id": Uid::effective().as_raw(),
        "real_group_id": gid.as_raw(),
        "effective_group_id": Gid::effective().as_raw(),
        "user_uid": uid.as_raw(),
        "user_gid": gid.as_raw(),
    };
    // A container may run under a number that no one named.
    if let Some(user) = user {
        found.extend(found! {
            "user_id": user.name,
            "user_gid": user.gid.as_raw(),
            "user_gecos": user.gecos.to_string_lossy(),
            "user_dir": user.dir.to_string_lossy(),
            "user_shell": user.shell.to_string_lossy(),
        });
    }
    Ok(found)
}

/// The kernel's command line as a map. A word given twice keeps its last value, or with `lists` all of them.
fn command_line(text: &str, lists: bool) -> Value {
    let mut map = Map::new();
    for word in words(text) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), json!(value)),
            None => (word, json!(true)),
        };
        match map.get_mut(&name) {
            Some(Value::Array(values)) if lists => values.push(value),
            Some(before) if lists => *before = json!([before.take(), value]),
            _ => {
                map.insert(name, value);
            }
        }
    }
    Value::Object(map)
}

/// Words parted by white space; quotes hold one together and are dropped.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn resolver(text: &str) -> Value {
    let mut dns = Map::new();
    let mut servers: Vec<&str> = Vec::new();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut fields = line.split_whitespace();
        let key = fields.next().unwrap_or_default();
        let rest: Vec<&str> = fields.collect();
        match key {
            "nameserver" => servers.extend(rest),
            "domain" => {
                if let Some(name) = rest.first() {
                    dns.insert(key.to_owned(), json!(name));
                }
            }
            "search" | "sortlist" => {
                dns.insert(key.to_owned(), json!(rest));
            }
            "options" => {
                let options: Map<String, Value> = rest
                    .iter()
                    .map(|option| match option.split_once(':') {
                        Some((name, value)) => (name.to_owned(), json!(value)),
                        None => ((*option).to_owned(), json!(true)),
                    })
                    .collect();
                dns.insert(key.to_owned(), json!(options));
            }
            _ => {}
        }
    }
    if !servers.is_empty() {
        dns.insert("nameservers".to_owned(), json!(servers));
    }
    Value::Object(dns)
}

fn selinux(tree: &Tree) -> Value {
    let Some(enforce) = tree.line("/sys/fs/selinux/enforce") else {
        return json!({"status": "disabled"});
    };
    let config = tree.read("/etc/selinux/config").unwrap_or_default();
    let config = assignments(&config);
    let of = |key: &str| config.get(key).copied().unwrap_or("unknown");
    json!({
        "status": "enabled",
        "mode": if enforce == "1" { "enforcing" } else { "permissive" },
        "config_mode": of("SELINUX"),
        "type": of("SELINUXTYPE"),
        "policyvers": tree.line("/sys/fs/selinux/policyvers").unwrap_or_else(|| "unknown".to_owned()),
    })
}

fn package_manager(tree: &Tree) -> &'static str {
    [
        ("/usr/bin/apt-get", "apt"),
        ("/usr/bin/dnf", "dnf"),
        ("/usr/bin/yum", "yum"),
        ("/usr/bin/zypper", "zypper"),
        ("/sbin/apk", "apk"),
        ("/usr/bin/pacman", "pacman"),
    ]
    .into_iter()
    .find(|(program, _)| tree.exists(program))
    .map_or("unknown", |(_, name)| name)
}

/// From the name of process 1. A name that says nothing ("init", a shell in a container) is looked behind.
fn service_manager(first: Option<&str>, systemd_runs: bool) -> String {
    match first {
        Some("runit-init") => "runit",
        Some("svscan") => "svc",
        Some("openrc-init") => "openrc",
        Some(name) if name != "init" && !name.ends_with("sh") => name,
        _ if systemd_runs => "systemd",
        _ => "service",
    }
    .to_owned()
}

/// Null says that modules in Python cannot run here.
fn python(tree: &Tree) -> Value {
    let path = "/usr/bin/python3";
    if tree.exists(path) {
        json!({"executable": path})
    } else {
        Value::Null
    }
}

/// The public halves of the SSH daemon's keys.
fn host_keys(tree: &Tree) -> Found {
    ["dsa", "rsa", "ecdsa", "ed25519"]
        .into_iter()
        .filter_map(|algorithm| {
            let text = tree.line(&format!("/etc/ssh/ssh_host_{algorithm}_key.pub"))?;
            let mut fields = text.split_whitespace();
            let (kind, key) = (fields.next()?, fields.next()?);
            let name = format!("ssh_host_key_{algorithm}_public");
            Some([(format!("{name}_keytype"), json!(kind)), (name, json!(key))])
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_comes_from_the_hosts_file() {
        for (hosts, name) in [
            ("", "db-01"),
            ("127.0.0.1 localhost\n", "db-01"),
            (
                "10.0.0.1 db-01.example.org db-01 # me\n",
                "db-01.example.org",
            ),
            ("10.0.0.1 db-01 db-01.example.org\n", "db-01.example.org"),
            ("127.0.0.1 localhost\n127.0.0.1 db-01\n", "localhost"),
            ("#10.0.0.1 db-01.example.org db-01\n", "db-01"),
        ] {
            assert_eq!(full_name("db-01", hosts), name, "{hosts:?}");
        }
    }

    #[test]
    fn captured_releases_are_named_as_setup_names_them() {
        for case in ["ubuntu-22.04", "debian-12"] {
            let found = Value::Object(distribution(&Tree::fixture(case)));
            insta::assert_snapshot!(case, format!("{found:#}"));
        }
    }

    #[test]
    fn an_unreleased_debian_has_no_point_release() {
        let release = assignments("ID=debian\nVERSION_CODENAME=trixie\n");
        let found = named_distribution(&release, Some("trixie/sid"));
        assert_eq!(found["distribution_version"], json!("NA"));
        assert_eq!(found["distribution_release"], json!("trixie"));
    }

    #[test]
    fn a_repeated_word_of_the_command_line() {
        let text = "console=tty0 console=ttyS0 quiet dyndbg=\"file a +p\"\n";
        assert_eq!(
            command_line(text, false),
            json!({"console": "ttyS0", "quiet": true, "dyndbg": "file a +p"})
        );
        assert_eq!(
            command_line(text, true),
            json!({"console": ["tty0", "ttyS0"], "quiet": true, "dyndbg": "file a +p"})
        );
    }

    #[test]
    fn resolv_conf_is_a_map() {
        let text = "# made by hand\nnameserver 10.0.0.53\nnameserver fd00::53 ; spare\nsearch a.example b.example\noptions edns0 ndots:2\n";
        assert_eq!(
            resolver(text),
            json!({"search": ["a.example", "b.example"], "options": {"edns0": true, "ndots": "2"},
                "nameservers": ["10.0.0.53", "fd00::53"]})
        );
    }

    #[test]
    fn the_service_manager_is_process_one() {
        for (first, systemd, name) in [
            (Some("systemd"), true, "systemd"),
            (Some("init"), true, "systemd"),
            (Some("init"), false, "service"),
            (Some("bash"), false, "service"),
            (Some("runit-init"), false, "runit"),
            (None, true, "systemd"),
        ] {
            assert_eq!(service_manager(first, systemd), name, "{first:?}");
        }
    }
}
