//! Databases: a list of 60 resources against the Python collections that do the same, and how long nobody can write when a primary goes.
//!
//! The list runs in lab machines, one with a PostgreSQL and a MariaDB of its own, one of Debian unstable with a MySQL, by the same Ansible over the same
//! connection, and both sides reach the server over its local socket. The collections are those that PyPI's package `ansible` carries, kept in
//! `/var/cache/ondol/bench`. The times without writes are the drills' own, from their reports.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Recipe};
use ondol_lab::{Features, Lab, LabConfig, Seed, VmSpec};
use serde_json::Value;
use tempfile::TempDir;

use super::figure::{Figure, median};
use crate::Site;
use crate::ansible::recap;
use crate::site::{repository, succeeded};

const LAB: &str = "bench-accounts";
const VM: &str = "db";
/// Of each kind: roles or users, databases, grants.
const EACH: u32 = 20;
const RESOURCES: u32 = 3 * EACH;
const ROUNDS: usize = 3;
/// That of the Ansible that runs here, 2.19.
const PEERS: &str = "ansible==12.3.0";
const CACHE: &str = "/var/cache/ondol/bench/collections";

/// A machine and its servers.
struct Kind {
    suite: &'static str,
    packages: &'static [&'static str],
    /// Succeeds when the servers answer.
    asks: &'static str,
    sides: &'static [Side],
}

const STABLE: Kind = Kind {
    suite: "bookworm",
    packages: &[
        "mariadb-server",
        "postgresql",
        "python3",
        "python3-psycopg2",
        "python3-pymysql",
    ],
    asks: "mariadb -e 'SELECT 1' && runuser -u postgres -- psql -c 'SELECT 1'",
    sides: &SIDES,
};

/// Debian 12 has no MySQL.
const UNSTABLE: Kind = Kind {
    suite: "sid",
    packages: &["mysql-server", "python3", "python3-pymysql"],
    asks: "mysql -e 'SELECT 1'",
    sides: &MYSQL_SIDES,
};

/// Time of the whole playbook and of one task of it, first run and repeat, ours against theirs.
pub fn tasks() -> Result<Vec<Figure>> {
    collections()?;
    let mut figures = Vec::new();
    for kind in [&STABLE, &UNSTABLE] {
        let servers = kind.sides[0].product;
        figures.extend(tasks_of(kind).with_context(|| format!("the machine with {servers}"))?);
    }
    Ok(figures)
}

fn tasks_of(kind: &Kind) -> Result<Vec<Figure>> {
    let machine = Machine::start(kind)?;
    let sides = kind.sides;
    let mut times: BTreeMap<(usize, bool, &str), Vec<f64>> = BTreeMap::new();
    let mut idle = Vec::new();
    // The connection is opened and everything is read from the disk once, whoever comes first.
    for (index, side) in sides.iter().enumerate() {
        machine.play(side, &format!("warm{index}"), 1)?;
    }
    for round in 0..ROUNDS {
        idle.push(machine.play(&sides[0], "idle", 0)?.seconds);
        for (index, side) in sides.iter().enumerate() {
            let names = format!("r{round}s{index}");
            for run in ["first run", "repeat"] {
                let played = machine.play(side, &names, EACH)?;
                if side.ours {
                    let wanted = if run == "repeat" { 0 } else { RESOURCES };
                    ensure!(
                        played.changed == wanted,
                        "{} of {wanted} tasks changed something",
                        played.changed
                    );
                }
                let key = (index / 2, side.ours, run);
                times.entry(key).or_default().push(played.seconds);
            }
        }
    }
    let idle = median(idle);
    let mut figures = Vec::new();
    for (pair, sides) in sides.chunks(2).enumerate() {
        let (ours, theirs) = (&sides[0], &sides[1]);
        for run in ["first run", "repeat"] {
            let middle = |ours| median(times.get(&(pair, ours, run)).cloned().unwrap_or_default());
            let name = format!("{}, {} resources, {run}", ours.product, RESOURCES);
            figures.push(Figure::against(
                &format!("{name}: playbook"),
                middle(true),
                "s",
                theirs.peer,
                middle(false),
            ));
            let task = |playbook: f64| (playbook - idle) * 1000.0 / f64::from(RESOURCES);
            figures.push(Figure::against(
                &format!("{name}: a task"),
                task(middle(true)),
                "ms",
                theirs.peer,
                task(middle(false)),
            ));
        }
    }
    Ok(figures)
}

/// Who makes the resources. Ours and theirs of one product stand beside each other.
struct Side {
    product: &'static str,
    ours: bool,
    peer: &'static str,
    /// `become_user` of the play: theirs log in as the system's user of the server.
    user: &'static str,
    /// A role or user, its database and what it may do there, for `{name}`.
    resources: [&'static str; 3],
}

const SIDES: [Side; 4] = [
    Side {
        product: "PostgreSQL",
        ours: true,
        peer: "ondol.cloud",
        user: "root",
        resources: [
            "ondol.cloud.postgresql_role: {version: 15, name: '{name}', login: true, password: 'secret of {name}'}",
            "ondol.cloud.postgresql_database: {version: 15, name: '{name}', owner: postgres}",
            "ondol.cloud.postgresql_privileges: {version: 15, role: '{name}', database: '{name}', grants: [{object_type: schema, names: [public], privileges: [CREATE, USAGE]}]}",
        ],
    },
    Side {
        product: "PostgreSQL",
        ours: false,
        peer: "community.postgresql",
        user: "postgres",
        resources: [
            "community.postgresql.postgresql_user: {name: '{name}', password: 'secret of {name}', role_attr_flags: LOGIN}",
            "community.postgresql.postgresql_db: {name: '{name}', owner: postgres}",
            "community.postgresql.postgresql_privs: {login_db: '{name}', roles: '{name}', type: schema, objs: public, privs: 'CREATE,USAGE'}",
        ],
    },
    Side {
        product: "MariaDB",
        ours: true,
        peer: "ondol.cloud",
        user: "root",
        resources: [
            "ondol.cloud.mariadb_user: {name: '{name}', password: 'secret of {name}'}",
            "ondol.cloud.mariadb_database: {name: '{name}'}",
            "ondol.cloud.mariadb_privileges: {name: '{name}', privileges: {'{name}.*': [SELECT, INSERT]}}",
        ],
    },
    Side {
        product: "MariaDB",
        ours: false,
        peer: "community.mysql",
        user: "root",
        resources: [
            "community.mysql.mysql_user: {name: '{name}', host: '%', password: 'secret of {name}', column_case_sensitive: true, login_unix_socket: /run/mysqld/mysqld.sock}",
            "community.mysql.mysql_db: {name: '{name}', login_unix_socket: /run/mysqld/mysqld.sock}",
            "community.mysql.mysql_user: {name: '{name}', host: '%', priv: '{name}.*:SELECT,INSERT', column_case_sensitive: true, login_unix_socket: /run/mysqld/mysqld.sock}",
        ],
    },
];

const MYSQL_SIDES: [Side; 2] = [
    Side {
        product: "MySQL",
        ours: true,
        peer: "ondol.cloud",
        user: "root",
        resources: [
            "ondol.cloud.mysql_user: {name: '{name}', password: 'secret of {name}'}",
            "ondol.cloud.mysql_database: {name: '{name}'}",
            "ondol.cloud.mysql_privileges: {name: '{name}', privileges: {'{name}.*': [SELECT, INSERT]}}",
        ],
    },
    // It can compare only a password whose hash it is given with its salt.
    Side {
        product: "MySQL",
        ours: false,
        peer: "community.mysql",
        user: "root",
        resources: [
            "community.mysql.mysql_user: {name: '{name}', host: '%', plugin: caching_sha2_password, plugin_auth_string: 'secret of {name}', salt: 'salt of twenty bytes', column_case_sensitive: true, login_unix_socket: /run/mysqld/mysqld.sock}",
            "community.mysql.mysql_db: {name: '{name}', login_unix_socket: /run/mysqld/mysqld.sock}",
            "community.mysql.mysql_user: {name: '{name}', host: '%', priv: '{name}.*:SELECT,INSERT', column_case_sensitive: true, login_unix_socket: /run/mysqld/mysqld.sock}",
        ],
    },
];

struct Played {
    seconds: f64,
    changed: u32,
}

/// A lab machine with its servers, and what Ansible needs to get there.
struct Machine {
    lab: Lab,
    directory: TempDir,
}

impl Machine {
    fn start(kind: &Kind) -> Result<Self> {
        let mut recipe = Recipe::base(Distribution::Debian, kind.suite);
        let packages = kind.packages.iter().map(|it| (*it).to_owned());
        recipe.packages.extend(packages);
        if kind.suite != STABLE.suite {
            recipe.apt_sources = Some(sources(kind.suite)?);
        }
        let image = ondol_image::build(&recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
            ControlFlow::Continue(())
        })
        .context("build the machine's image")?;
        let directory = tempfile::tempdir().context("make a directory")?;
        let key = directory.path().join("key");
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key);
        succeeded(command)?;
        let public = fs::read_to_string(key.with_extension("pub")).context("read the key")?;
        let lab = Lab::open(LabConfig::new(LAB)).context("open the lab")?;
        lab.destroy().context("remove an earlier run's lab")?;
        let machine = Self { lab, directory };
        let spec = VmSpec {
            name: VM.to_owned(),
            host: "bench".to_owned(),
            image: image.rootfs,
            cpus: 2,
            memory_mib: 2048,
            disks: BTreeMap::new(),
            interfaces: Vec::new(),
            shared_folders: BTreeMap::new(),
            features: Features::default(),
            seed: Seed {
                user: "ondol".to_owned(),
                authorized_keys: vec![public.trim().to_owned()],
                sudo: true,
            },
        };
        let vm = machine.lab.create(&spec).context("create the machine")?;
        machine.lab.start(VM).context("start the machine")?;
        machine.until_answered(kind.asks)?;
        let (address, path) = (vm.first_boot_address, machine.directory.path().display());
        let known = format!("{address} {}\n", vm.ssh_host_key);
        fs::write(machine.directory.path().join("known_hosts"), known)
            .context("write the host's key")?;
        let inventory = format!(
            "all: {{hosts: {{{VM}: {{ansible_host: {address}, ansible_user: ondol, ansible_ssh_private_key_file: {path}/key, \
             ansible_python_interpreter: /usr/bin/python3,\n  ansible_ssh_common_args: '-o UserKnownHostsFile={path}/known_hosts \
             -o StrictHostKeyChecking=yes -o ProxyCommand=\"ondol-lab --lab {LAB} proxy %h %p\"'}}}}}}\n"
        );
        fs::write(machine.directory.path().join("inventory.yml"), inventory)
            .context("write the inventory")?;
        Ok(machine)
    }

    fn until_answered(&self, ask: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let asked = self.lab.exec(VM, &["sh", "-ec", ask], b"");
            if asked.is_ok_and(|it| it.status.success()) {
                return Ok(());
            }
            ensure!(
                began.elapsed() < Duration::from_secs(180),
                "the servers do not answer"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The list of so many resources of each kind.
    fn play(&self, side: &Side, names: &str, each: u32) -> Result<Played> {
        let mut text = format!(
            "- hosts: all\n  gather_facts: false\n  become: true\n  become_user: {}\n  tasks:\n    - ansible.builtin.meta: noop\n",
            side.user
        );
        for resource in side.resources {
            for number in 0..each {
                let task = resource.replace("{name}", &format!("{names}n{number}"));
                let _ = writeln!(text, "    - {task}");
            }
        }
        let file = self.directory.path().join("play.yml");
        fs::write(&file, text).context("write the playbook")?;
        let mut command = Command::new("ansible-playbook");
        command
            .arg("-i")
            .arg(self.directory.path().join("inventory.yml"))
            .arg(&file)
            .env("ANSIBLE_CONFIG", repository().join("playbooks/ansible.cfg"))
            .env(
                "ANSIBLE_COLLECTIONS_PATH",
                format!("{}:{CACHE}", repository().join("target/ansible").display()),
            )
            .stdin(Stdio::null());
        let began = Instant::now();
        let output =
            succeeded(command).with_context(|| format!("{} by {}", side.product, side.peer))?;
        let seconds = began.elapsed().as_secs_f64();
        // A play without tasks has none.
        let changed = recap(&output).first().map_or(0, |(_, counts)| counts[0]);
        Ok(Played { seconds, changed })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.lab.destroy() {
            eprintln!("destroy lab {LAB}: {error}");
        }
    }
}

/// Another suite of the archive that this machine's own apt uses. An archive that is frozen may be past an unstable suite's `Valid-Until`.
fn sources(suite: &str) -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let targets = succeeded(command)?;
    let archive = targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian "))
        .context("apt has no source of Debian with its lists: apt-get update")?;
    Ok(format!(
        "Types: deb\nURIs: {archive}\nSuites: {suite}\nComponents: main\nCheck-Valid-Until: no\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    ))
}

/// The peers, downloaded once: of the package's hundred collections, these two.
fn collections() -> Result<()> {
    let cache = PathBuf::from(CACHE);
    if cache
        .join("ansible_collections/community/postgresql/MANIFEST.json")
        .exists()
    {
        return Ok(());
    }
    fs::create_dir_all(&cache).context("make the cache")?;
    let scratch = TempDir::new_in(&cache).context("make a directory for the download")?;
    let mut download = Command::new("pip");
    download
        .args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            PEERS,
            "--dest",
        ])
        .arg(scratch.path());
    succeeded(download)?;
    // MariaDB's first: the other one's manifest tells a later run that all is there.
    let unpack = "import glob, sys, zipfile\n\
        wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0])\n\
        for name in ('mysql', 'postgresql'):\n\
        \x20   of = [it for it in wheel.namelist() if it.startswith(f'ansible_collections/community/{name}/')]\n\
        \x20   wheel.extractall(sys.argv[2], sorted(of, key=lambda it: it.endswith('MANIFEST.json')))\n";
    let mut command = Command::new("python3");
    command.args(["-c", unpack]).arg(scratch.path()).arg(&cache);
    succeeded(command).map(drop)
}

/// The machines of a site with all three products. A machine of MySQL is made from another suite's image.
const SITE: [&str; 8] = [
    "multi-cloud-admin",
    "postgresql-db-01",
    "postgresql-db-02",
    "mysql-db-01",
    "mysql-db-02",
    "mariadb-01",
    "mariadb-02",
    "monitoring-01",
];
const DRILLS: [(&str, &str); 7] = [
    ("postgresql-switchover", "07 drill: PostgreSQL switchover"),
    (
        "postgresql-failover",
        "07 drill: PostgreSQL failover, power lost",
    ),
    (
        "postgresql-failover -e fault=cut",
        "07 drill: PostgreSQL failover, network cut",
    ),
    ("mysql-switchover", "07 drill: MySQL switchover"),
    ("mysql-failover", "07 drill: MySQL failover, power lost"),
    ("mariadb-failover", "07 drill: MariaDB failover, power lost"),
    (
        "mariadb-failover -e fault=cut",
        "07 drill: MariaDB failover, network cut",
    ),
];

/// Seconds in which no row was acknowledged, as each drill's own timeline has them.
pub fn outages() -> Result<Vec<Figure>> {
    let site = Site::new("bench-outages")?;
    site.keep_machines(&SITE)?;
    site.make(&["lab", "STAGES=7"])?;
    let mut figures = Vec::new();
    for (drill, section) in DRILLS {
        let (file, more) = drill.split_once(' ').unwrap_or((drill, ""));
        site.must(&format!(
            "ansible-playbook playbooks/drills/{file}.yml {more}"
        ))
        .with_context(|| section.to_owned())?;
        let seconds = without_writes(&site.section(section)?)
            .with_context(|| format!("{section:?} has no time without a write"))?;
        figures.push(Figure::alone(
            &format!(
                "{}: no write acknowledged",
                section.trim_start_matches("07 drill: ")
            ),
            seconds,
            "s",
        ));
    }
    Ok(figures)
}

fn without_writes(section: &Value) -> Option<f64> {
    let figures = section["figures"].as_array()?;
    let figure = figures
        .iter()
        .find(|it| it["name"] == "longest time without a write")?;
    figure["value"].as_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_without_writes_is_the_sections_own() {
        let figure = |value: f64| json!({"name": "longest time without a write", "value": value});
        let cases = [
            (
                json!({"figures": [{"name": "rows acknowledged", "value": 9}, figure(1.5)]}),
                Some(1.5),
            ),
            (json!({"figures": []}), None),
            (json!({}), None),
        ];
        for (section, seconds) in cases {
            assert_eq!(without_writes(&section), seconds, "{section}");
        }
    }

    #[test]
    fn ours_and_theirs_of_one_product_stand_beside_each_other() {
        for pair in SIDES.chunks(2).chain(MYSQL_SIDES.chunks(2)) {
            assert_eq!(pair[0].product, pair[1].product);
            assert_eq!((pair[0].ours, pair[1].ours), (true, false));
        }
    }
}
