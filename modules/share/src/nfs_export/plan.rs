//! Which server, what its files say, and what is done. Pure: it reaches neither files nor servers.

use super::*;

impl Desired {
    pub(super) fn server(&self, has_kernel_server: bool) -> Server {
        match self.server {
            Choice::Kernel => Server::Kernel,
            Choice::Ganesha => Server::Ganesha,
            Choice::Auto if has_kernel_server => Server::Kernel,
            Choice::Auto => Server::Ganesha,
        }
    }
}

/// Why nothing may be done, if so.
pub(super) fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let export = desired.export.as_ref()?;
    if desired.server(current.has_kernel_server) == Server::Kernel && !current.has_kernel_server {
        return Some(
            "this machine's kernel has no NFS server; `server: ganesha` needs none".to_owned(),
        );
    }
    // Ganesha drops the second of two exports without a word to anyone but its log.
    let taken = |text: &String| field(text, "Pseudo").is_some_and(|it| it == export.pseudo);
    let other = current
        .exports
        .iter()
        .find(|(name, text)| **name != desired.name && taken(text))?;
    Some(format!(
        "clients find the export {} at {} already",
        other.0, export.pseudo
    ))
}

pub(super) fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let server = desired.server(current.has_kernel_server);
    let name = desired.name.clone();
    let is = current.exports.get(&name);
    let wanted = desired.export.as_ref().map(|export| match server {
        Server::Kernel => kernel_text(export),
        Server::Ganesha => ganesha_text(export, export_id(&name, current)),
    });
    let mut steps = Vec::new();
    let mut names: BTreeSet<&str> = current.exports.keys().map(String::as_str).collect();
    match &wanted {
        Some(_) => names.insert(&name),
        None => names.remove(name.as_str()),
    };
    if let (Some(text), Some(export)) = (&wanted, &desired.export)
        && is != Some(text)
    {
        steps.push(Step::WriteExport {
            server,
            name: name.clone(),
            text: text.clone(),
            local: export.cephfs.is_none().then(|| export.path.clone()),
            new: is.is_none(),
        });
    }
    let removes = wanted.is_none() && is.is_some();
    if server == Server::Ganesha && (wanted.is_some() || removes) {
        let text = main_text(&names);
        if current.main.as_ref() != Some(&text) {
            steps.push(Step::WriteMain { text });
        }
    }
    // After the configuration that named it.
    if removes {
        steps.push(Step::RemoveExport {
            server,
            name: name.clone(),
        });
    }
    let changes = !steps.is_empty();
    if wanted.is_some() {
        if !current.unit.enabled {
            steps.push(Step::Enable(server));
        }
        if !current.unit.active {
            steps.push(Step::Start(server));
        }
    }
    let is_stale = changes || current.unit.is_older_than(current.written_at);
    if current.unit.active && (wanted.is_some() || removes) {
        match server {
            // Publishing twice does no harm, and whether it was done cannot be seen in the server's age.
            Server::Kernel if changes => steps.push(Step::Publish),
            Server::Ganesha if is_stale => steps.push(Step::Restart(server)),
            _ => {}
        }
    }
    if server == Server::Ganesha && (wanted.is_some() || removes) {
        let others = current.exports.iter().filter(|(other, _)| **other != name);
        let mut texts = others.map(|(_, text)| text).chain(&wanted);
        let exports_cephfs = texts.any(|text| text.contains(CEPHFS));
        steps.extend(watch(exports_cephfs, &current.watch));
    }
    steps
}

fn watch(is_wanted: bool, watch: &Watch) -> Option<Step> {
    if !is_wanted {
        return watch.text.is_some().then_some(Step::Unwatch);
    }
    let runs = watch.unit.enabled
        && watch.unit.active
        && !watch.unit.is_older_than(watch.written_at)
        && watch.text.as_deref() == Some(WATCH_TEXT);
    (!runs).then(|| Step::Watch {
        text: WATCH_TEXT.to_owned(),
    })
}

/// The number that the export has, or the lowest that is free.
fn export_id(name: &str, current: &Current) -> u16 {
    let id = |text: &String| field(text, "Export_Id")?.parse::<u16>().ok();
    if let Some(own) = current.exports.get(name).and_then(id) {
        return own;
    }
    let taken: BTreeSet<u16> = current.exports.values().filter_map(id).collect();
    (1..).find(|it| !taken.contains(it)).unwrap_or(u16::MAX)
}

/// The value in a line such as `  Pseudo = "/team";`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_end_matches(';').trim_matches('"'))
    })
}

/// A line of an export.
const CEPHFS: &str = "    Name = CEPH;\n";
const HEADER: &str = "# Managed by ondol.cloud.nfs_export.\n";

/// A line of exports(5).
pub(super) fn kernel_text(export: &Export) -> String {
    let clients: Vec<String> = export
        .clients
        .iter()
        .map(|client| {
            let access = match client.access {
                Access::ReadWrite => "rw",
                Access::ReadOnly => "ro",
            };
            let squash = match client.squash {
                Squash::Root => "root_squash",
                Squash::All => "all_squash",
                Squash::None => "no_root_squash",
            };
            format!("{}({access},sync,no_subtree_check,{squash})", client.hosts)
        })
        .collect();
    format!("{HEADER}\"{}\" {}\n", export.path, clients.join(" "))
}

/// A block of ganesha-export-config(8).
pub(super) fn ganesha_text(export: &Export, id: u16) -> String {
    let fsal = match &export.cephfs {
        None => "    Name = VFS;\n".to_owned(),
        Some(cephfs) => format!(
            "{CEPHFS}    Filesystem = \"{}\";\n    User_Id = \"{}\";\n",
            cephfs.filesystem, cephfs.user
        ),
    };
    let clients: String = export
        .clients
        .iter()
        .map(|client| {
            let access = match client.access {
                Access::ReadWrite => "RW",
                Access::ReadOnly => "RO",
            };
            let squash = match client.squash {
                Squash::Root => "Root_Squash",
                Squash::All => "All_Squash",
                Squash::None => "No_Root_Squash",
            };
            format!(
                "  CLIENT {{\n    Clients = {};\n    Access_Type = {access};\n    Squash = {squash};\n  }}\n",
                client.hosts
            )
        })
        .collect();
    format!(
        "{HEADER}EXPORT {{\n  Export_Id = {id};\n  Path = \"{}\";\n  Pseudo = \"{}\";\n  Protocols = 4;\n  SecType = sys;\n  Access_Type = NONE;\n\
         {clients}  FSAL {{\n{fsal}  }}\n}}\n",
        export.path, export.pseudo
    )
}

/// What Ganesha logs for every request once Ceph has shut it out: the text of ESHUTDOWN (4.3 does, which was tried) or its number (as older ones are
/// known to). A restart of Ganesha restarts this unit too.
pub(super) const WATCH_TEXT: &str = "# Managed by ondol.cloud.nfs_export.
[Unit]
Description=Restart NFS-Ganesha when Ceph has shut it out
BindsTo=nfs-ganesha.service
PartOf=nfs-ganesha.service
After=nfs-ganesha.service

[Service]
ExecStart=/bin/sh -c 'tail -n 0 -F /var/log/ganesha/ganesha.log | { grep -q -E \"transport endpoint shutdown|Mapping 108\" && systemctl --no-block restart nfs-ganesha.service; }'
Restart=always

[Install]
WantedBy=nfs-ganesha.service
";

/// Version 4 alone needs no port mapper, no lock and no mount daemon.
pub(super) fn main_text(names: &BTreeSet<&str>) -> String {
    let includes: String = names
        .iter()
        .map(|name| format!("%include \"{}\"\n", Server::Ganesha.file(name).display()))
        .collect();
    format!(
        "{HEADER}NFS_CORE_PARAM {{\n  Protocols = 4;\n  Enable_NLM = false;\n  Enable_RQUOTA = false;\n}}\n{includes}"
    )
}

/// The same for a second server beside the one that runs, with one export and its records in a directory of its own. The export has another
/// number: with the same one Ganesha takes over the session at the metadata servers, and the server that runs loses it.
pub(super) fn trial_text(export: &str, port: u16, folder: &Path) -> String {
    let export: String = export
        .lines()
        .map(
            |line| match field(line, "Export_Id").and_then(|it| it.parse::<u16>().ok()) {
                Some(id) => format!("  Export_Id = {};\n", u16::MAX - id),
                None => format!("{line}\n"),
            },
        )
        .collect();
    format!(
        "NFS_CORE_PARAM {{\n  Protocols = 4;\n  Enable_NLM = false;\n  Enable_RQUOTA = false;\n  NFS_Port = {port};\n  Bind_addr = 127.0.0.1;\n}}\n\
         NFSv4 {{\n  RecoveryRoot = \"{}\";\n  Graceless = true;\n}}\n{export}",
        folder.display()
    )
}

/// What Ganesha's log says against a configuration, in its own words; `None`: nothing.
pub(super) fn complaint(log: &str) -> Option<String> {
    let words: Vec<&str> = log
        .lines()
        .filter(|line| {
            [
                ":CONFIG :CRIT :",
                ":CONFIG :MAJ :",
                ":CONFIG :FATAL :",
                ":FSAL :CRIT :",
                ":FSAL :MAJ :",
            ]
            .iter()
            .any(|it| line.contains(it))
        })
        .filter_map(|line| {
            line.rsplit_once(" :")
                .map(|(_, words)| words.trim_start_matches([':', ' ']))
        })
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}
