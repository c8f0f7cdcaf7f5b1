//! Stage 6: from bare machines to Ceph on three hosts with NFS, SMB, S3 and FTP on top, asked by clients on another machine, and what is left
//! when hosts are lost under writes.
//!
//! What a single module may do to a cluster is in the module's own tests; this one is about the plays, the servers of shares, the drill and
//! the report.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ondol_tests::ansible::{changed_tasks, nothing_changed};
use ondol_tests::{Site, site::repository, step};
use serde_json::{Value, json};

/// The mirror's machine, from which the storage is asked too, the storage servers, and the two other servers of shares.
const MACHINES: [&str; 6] = [
    "multi-cloud-admin",
    "storage-server-01",
    "storage-server-02",
    "storage-server-03",
    "nfs-server",
    "ftp-server",
];

const STAGE: &str = "ansible-playbook playbooks/06-storage.yml";

/// What check mode cannot foresee, because it is asked of a service that is not there yet.
const UNFORESEEN: [&str; 1] = ["A bucket"];

/// One test, because a cluster is slow to build: each step stands on the one before it.
#[test]
fn stage_6_keeps_three_copies_and_gives_them_to_clients_on_other_machines() -> Result<()> {
    let site = Site::new("storage")?;
    site.keep_machines(&MACHINES)?;

    step("check mode on bare machines foresees the first run, and changes nothing");
    site.make(&["lab", "STAGES=3 4"])?;
    let foreseen = site.must("ansible-playbook playbooks/06-storage.yml --check --diff")?;
    nothing_is_installed(&site)?;
    let first = site.make(&["lab", "STAGES=6"])?;
    let (foreseen, done) = (changed_tasks(&foreseen), changed_tasks(&first));
    ensure!(foreseen.len() > 30, "check mode foresaw next to nothing");
    let not_foreseen: BTreeSet<_> = done
        .difference(&foreseen)
        .filter(|(task, _)| !UNFORESEEN.contains(&task.as_str()))
        .collect();
    assert_eq!(not_foreseen, BTreeSet::new());
    assert_eq!(foreseen.difference(&done).next(), None);
    no_password_is_told(&site, &first)?;

    step("a second run changes nothing, and every service answers a client on another machine");
    nothing_changed(&site.must(STAGE)?, MACHINES.len() + 1)?;
    let checks = site.section("06 storage")?["checks"].clone();
    let checks = checks.as_array().context("the section has checks")?;
    assert_eq!(checks.len(), 8, "{checks:#?}");
    for check in checks {
        ensure!(check["ok"] == json!(true), "{check:#}");
    }
    pools_keep_three_copies_on_three_hosts(&site)?;
    the_storage_servers_are_small(&site)?;
    memory_follows_from_the_machine(&site)?;
    the_metadata_server_is_away_from_nfs_servers(&site)?;

    step("a configuration that its server refuses never replaces the one in use");
    refused_by_the_server(&site)?;

    step("a share comes and goes, and each time the second run changes nothing");
    a_share_comes_and_goes(&site)?;

    step("hosts are lost under writes");
    drill(
        &site,
        "host-loss",
        "a storage host is lost, and a second one",
        6,
    )?;

    step("an OSD dies and comes back, a disk is replaced, the cluster grows and shrinks");
    drill(&site, "osd-loss", "an OSD is lost and comes back", 5)?;
    drill(&site, "disk-replacement", "a disk dies and is replaced", 6)?;
    growth_is_killed_in_the_middle(&site)?;
    drill(
        &site,
        "growth",
        "the cluster grows by an OSD and shrinks again",
        3,
    )?;

    step("check mode foresees what completes a cluster of which a part is gone");
    take_apart(&site)?;
    let before = parts(&site)?;
    let foreseen = changed_tasks(&site.must(&format!("{STAGE} --check --diff --limit ceph"))?);
    assert_eq!(parts(&site)?, before, "check mode changes nothing");
    let done = changed_tasks(&site.must(STAGE)?);
    assert_eq!(foreseen, done);
    assert_eq!(
        done.iter()
            .map(|(task, _)| task.as_str())
            .collect::<Vec<_>>(),
        TAKEN_APART
    );
    nothing_changed(&site.must(&format!("{STAGE} --limit ceph"))?, 3)?;

    // Last, as NFS-Ganesha lets nobody open a file for a while after it: clients of before may want theirs.
    step("an NFS server that Ceph has shut out serves again");
    an_evicted_nfs_server_comes_back(&site)
}

/// As Ceph does with an NFS server that was silent for too long, or held others up.
fn an_evicted_nfs_server_comes_back(site: &Site) -> Result<()> {
    let server = "storage-server-01";
    let told = site.shell(server, "ceph tell mds.0 client ls")?;
    let sessions: Value = serde_json::from_str(&told).context("parse the sessions")?;
    let of_ganesha = |it: &&Value| {
        let metadata = &it["client_metadata"];
        metadata["hostname"] == server && metadata["uuid"].is_string()
    };
    let session = sessions.as_array().into_iter().flatten().find(of_ganesha);
    let id = &session.context("the NFS server has a session")?["id"];
    let pid = "systemctl show --property=MainPID --value nfs-ganesha";
    let before = site.shell(server, pid)?;
    site.shell(server, &format!("ceph tell mds.0 client evict id={id}"))?;
    // The first request that comes to Ceph is refused, and tells.
    let write = format!(
        "timeout 10 nfs-cp /etc/hostname 'nfs://{server}/shared/evicted?version=4' || true"
    );
    site.shell("multi-cloud-admin", &write)?;
    let restarted = format!("test $({pid}) -gt 0 -a $({pid}) != {}", before.trim());
    let lists = format!("timeout 10 nfs-ls 'nfs://{server}/shared?version=4'");
    for (vm, until) in [(server, restarted), ("multi-cloud-admin", lists)] {
        let waiting = format!("for n in $(seq 150); do {until} && exit; sleep 1; done; exit 1");
        site.shell(vm, &waiting)?;
    }
    nothing_changed(&site.must(&format!("{STAGE} --limit nfs"))?, 2)
}

/// Runs a drill, which must come to its end with every check passed and as many events.
fn drill(site: &Site, name: &str, title: &str, events: usize) -> Result<()> {
    site.must(&format!(
        "ansible-playbook playbooks/drills/ceph-{name}.yml"
    ))?;
    let drill = site.section(&format!("06 drill: {title}"))?;
    assert_eq!(drill["timeline"].as_array().map(Vec::len), Some(events));
    for check in drill["checks"].as_array().context("the drill has checks")? {
        ensure!(check["ok"] == json!(true), "{check:#}");
    }
    Ok(())
}

/// When the fourth OSD is there and its data on the way. The drill that comes next finds all of that.
fn growth_is_killed_in_the_middle(site: &Site) -> Result<()> {
    let mut drill = site
        .command("exec ansible-playbook playbooks/drills/ceph-growth.yml")
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .context("run the drill")?;
    loop {
        let osds = site.shell("storage-server-01", "ceph osd dump")?;
        let up = osds.lines().filter(|line| line.contains(" up   in "));
        if up.count() == 4 {
            break;
        }
        let ended = drill.try_wait().context("look at the drill")?;
        ensure!(ended.is_none(), "the drill ended before it grew:\n{osds}");
        thread::sleep(Duration::from_millis(500));
    }
    // The group, as Ansible has a process for each machine.
    let killed = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", drill.id())])
        .status();
    ensure!(killed.context("kill the drill")?.success());
    let status = drill.wait().context("wait for the drill")?;
    ensure!(!status.success(), "the drill came to its end");
    Ok(())
}

/// An OSD that its machine has forgotten, a pool, and a user.
fn take_apart(site: &Site) -> Result<()> {
    site.shell(
        "storage-server-02",
        "systemctl stop 'ceph-osd@*'; rm -r /var/lib/ceph/osd/ceph-* /etc/systemd/system/ceph-osd@*.d; \
         rm -f /etc/systemd/system/ceph-osd.target.wants/*; systemctl daemon-reload",
    )?;
    site.shell(
        "storage-server-01",
        "ceph config set mon mon_allow_pool_delete true; \
         ceph osd pool delete vms vms --yes-i-really-really-mean-it; \
         ceph config rm mon mon_allow_pool_delete; ceph auth rm client.site",
    )?;
    Ok(())
}

/// The tasks that make that again, by their names.
const TAKEN_APART: [&str; 4] = [
    "A disk image",
    "An OSD on the data disk",
    "Pools",
    "The site's clients reach their pool and their file system, and nothing else",
];

/// Of what was taken apart, what is there.
fn parts(site: &Site) -> Result<String> {
    let kept = site.shell(
        "storage-server-01",
        "ceph osd pool ls; ceph auth ls --format json-pretty | grep entity; ceph config dump",
    )?;
    let forgotten = site.shell(
        "storage-server-02",
        "ls /var/lib/ceph/osd /etc/systemd/system /etc/systemd/system/ceph-osd.target.wants",
    )?;
    Ok(kept + &forgotten)
}

fn nothing_is_installed(site: &Site) -> Result<()> {
    for vm in MACHINES {
        site.shell(
            vm,
            "test ! -e /etc/ceph && test ! -e /etc/samba && test ! -e /etc/vsftpd.conf && test ! -e /etc/ganesha && test ! -e /srv/team",
        )
        .with_context(|| format!("look for what check mode left on {vm}"))?;
    }
    Ok(())
}

/// Neither in what the run printed nor in the report.
fn no_password_is_told(site: &Site, output: &str) -> Result<()> {
    let report =
        fs::read_to_string(site.report().join("report.json")).context("read the report")?;
    let secrets = site.secrets()?;
    ensure!(secrets.len() >= 7, "{:?}", secrets.keys());
    for (name, secret) in secrets {
        ensure!(
            !output.contains(&secret) && !report.contains(&secret),
            "the secret {name} was told"
        );
    }
    Ok(())
}

fn pools_keep_three_copies_on_three_hosts(site: &Site) -> Result<()> {
    let told = site.shell("storage-server-01", "ceph osd dump --format json")?;
    let map: Value = serde_json::from_str(&told).context("parse the OSD map")?;
    let pools = map["pools"].as_array().context("there are pools")?;
    ensure!(pools.len() >= 8, "{pools:#?}");
    for pool in pools {
        assert_eq!(
            (&pool["size"], &pool["min_size"]),
            (&json!(3), &json!(2)),
            "{pool:#}"
        );
    }
    let tree = site.shell("storage-server-01", "ceph osd tree --format json")?;
    let tree: Value = serde_json::from_str(&tree).context("parse the tree")?;
    let hosts = tree["nodes"].as_array().into_iter().flatten();
    assert_eq!(hosts.filter(|node| node["type"] == "host").count(), 3);
    Ok(())
}

/// Together under 3 GiB, as the lab promises.
fn the_storage_servers_are_small(site: &Site) -> Result<()> {
    let listed = site.must("ondol-lab ls")?;
    let used: Vec<u64> = listed
        .lines()
        .filter(|line| line.contains(" storage-server-"))
        .filter_map(|line| {
            let memory = line.split_whitespace().find(|word| word.contains('/'))?;
            memory.split_once('/')?.0.parse().ok()
        })
        .collect();
    assert_eq!(used.len(), 3, "{listed}");
    ensure!(used.iter().sum::<u64>() < 3 * 1024, "{listed}");
    Ok(())
}

/// What Ceph is given of a machine's memory: as little as it takes in the lab, and all that can be spared on a machine of its own.
fn memory_follows_from_the_machine(site: &Site) -> Result<()> {
    let told = "mds {{ ceph_mds_cache_mib }}, osd {{ ceph_osd_memory_mib }}, small {{ ceph_osd_is_small }}, \
                stats {{ ceph_options.mgr.mgr_stats_period | default(5) }}";
    let machine =
        |memory_mib, osds| json!({"ceph_memory_mib": memory_mib, "ceph_osds_per_host": osds});
    variables(
        site,
        told,
        &[
            (machine(2048, 1), "mds 256, osd 896, small True, stats 2"),
            (
                machine(16384, 1),
                "mds 2048, osd 11059, small False, stats 5",
            ),
            (
                machine(65536, 12),
                "mds 8192, osd 3916, small False, stats 5",
            ),
        ],
    )
}

/// Active on the one storage server whose computer has no NFS server, and computed so for other sites.
fn the_metadata_server_is_away_from_nfs_servers(site: &Site) -> Result<()> {
    let told = site.shell("storage-server-01", "ceph fs dump --format json")?;
    let dump: Value = serde_json::from_str(&told).context("parse the metadata servers")?;
    let servers = dump["filesystems"][0]["mdsmap"]["info"].as_object();
    let active: Vec<&Value> = servers
        .context("the file system is served")?
        .values()
        .filter(|it| it["state"] == "up:active")
        .map(|it| &it["name"])
        .collect();
    assert_eq!(active, ["storage-server-03"]);
    let told = "{{ ceph_options | select('match', 'mds[.]') | join(' ') }}; absent: {{ ceph_options_absent | select('match', 'mds[.]') | join(' ') }}";
    let [one, two, three] = [1, 2, 3].map(|it| format!("mds.storage-server-0{it}"));
    let nfs_beside = |machines: &str| {
        let machines = format!("{{{{ [{machines}] | map('extract', hostvars, 'vm_host') }}}}");
        json!({"nfs_computers": machines})
    };
    variables(
        site,
        told,
        &[
            (nfs_beside(""), &format!("{one} {two} {three}; absent: ")),
            (
                nfs_beside("'storage-server-01', 'nfs-server'"),
                &format!("{three}; absent: {one} {two}"),
            ),
            (
                nfs_beside("'storage-server-01', 'nfs-server', 'storage-server-03'"),
                &format!("; absent: {one} {two} {three}"),
            ),
        ],
    )
}

/// What storage's variables come to where others are given.
fn variables(site: &Site, told: &str, cases: &[(Value, &str)]) -> Result<()> {
    let tasks: Vec<Value> = cases
        .iter()
        .map(|(given, wanted)| {
            let mut vars = given.clone();
            vars["told"] = told.into();
            vars["wanted"] = (*wanted).into();
            json!({
                "name": wanted,
                "vars": vars,
                "ansible.builtin.assert": {"that": "told == wanted", "fail_msg": "{{ told }}"},
            })
        })
        .collect();
    let variables = repository().join("playbooks/group_vars/all/storage.yml");
    let play = json!({"hosts": "localhost", "gather_facts": false, "vars_files": [variables], "tasks": tasks});
    plays(site, &[play]).map(drop)
}

/// Runs plays of this test's own.
fn plays(site: &Site, plays: &[Value]) -> Result<String> {
    let file = site.directory().join("plays.yml");
    fs::write(&file, Value::from(plays).to_string()).context("write the plays")?;
    site.must(&format!("ansible-playbook {}", file.display()))
}

/// A play of one task on a machine, which must end as `unless` says.
fn play(machine: &str, module: &str, arguments: &Value, unless: &str) -> Value {
    let task = json!({
        "name": format!("{module} on {machine}"),
        format!("ondol.cloud.{module}"): arguments,
        "register": "it",
        "failed_when": unless,
    });
    json!({"hosts": machine, "gather_facts": false, "become": true, "tasks": [task]})
}

fn refused_by_the_server(site: &Site) -> Result<()> {
    let cases = [
        (
            "storage-server-02",
            "samba_share",
            "/etc/samba/smb.conf",
            json!({"name": "team", "path": "/srv/team", "settings": {"no such option": "1"}}),
            "Unknown parameter encountered",
        ),
        (
            "ftp-server",
            "vsftpd",
            "/etc/vsftpd.conf",
            json!({"users": ["transfer"], "certificate": "/etc/hosts", "private_key": "/etc/ssl/private/ftp.key"}),
            "cannot load RSA certificate",
        ),
        (
            "ftp-server",
            "vsftpd",
            "/etc/vsftpd.conf",
            json!({"users": ["transfer"], "certificate": "/etc/ssl/certs/ftp.pem", "private_key": "/etc/ssl/private/ftp.key", "settings": {"bogus": "1"}}),
            "unrecognised variable in config file",
        ),
        (
            "storage-server-01",
            "nfs_export",
            "/etc/ganesha/exports.d/shared.conf",
            json!({"name": "shared", "path": "/none", "cephfs": {"filesystem": "shared", "user": "nfs"}, "pseudo": "/shared", "clients": [{"hosts": "192.168.10.0/24"}]}),
            "NFS-Ganesha refuses it",
        ),
    ];
    let files = || {
        let read = |(machine, _, file, _, _): &(&str, _, &str, _, _)| {
            site.shell(machine, &format!("cat {file}"))
        };
        cases.iter().map(read).collect::<Result<Vec<_>>>()
    };
    let before = files()?;
    let refused: Vec<Value> = cases
        .iter()
        .map(|(machine, module, _, arguments, words)| {
            let unless = format!("it is not failed or '{words}' not in it.msg");
            play(machine, module, arguments, &unless)
        })
        .collect();
    plays(site, &refused)?;
    assert_eq!(files()?, before);
    Ok(())
}

fn a_share_comes_and_goes(site: &Site) -> Result<()> {
    let mut all = Vec::new();
    for (machine, module, arguments) in [
        (
            "storage-server-02",
            "samba_share",
            json!({"name": "extra", "path": "/srv", "read_only": true}),
        ),
        (
            "storage-server-02",
            "samba_user",
            json!({"name": "games", "password": "of-this-test-alone"}),
        ),
        (
            "nfs-server",
            "nfs_export",
            json!({"name": "extra", "path": "/", "cephfs": {"filesystem": "shared", "user": "nfs"}, "pseudo": "/extra", "clients": [{"hosts": "192.168.10.0/24"}]}),
        ),
    ] {
        let mut absent = arguments.clone();
        absent["state"] = json!("absent");
        for arguments in [&arguments, &absent] {
            for unless in [
                "it is failed or it is not changed",
                "it is failed or it is changed",
            ] {
                all.push(play(machine, module, arguments, unless));
            }
        }
    }
    let told = plays(site, &all)?;
    ensure!(!told.contains("of-this-test-alone"), "{told}");
    Ok(())
}
