//! What a lab leaves on a machine: mounts, processes, network namespaces, interfaces, loop devices, control groups, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Everything on this machine whose name holds `mark`, one line each, so that a failed assertion can be read.
pub fn of(mark: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, lines: &str| {
        found.extend(
            lines
                .lines()
                .filter(|line| line.contains(mark))
                .map(|line| format!("{kind}: {line}")),
        );
    };
    add(
        "mount",
        &fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
    );
    add("process", &processes());
    add("namespace", &output("ip", &["netns", "list"]));
    add("interface", &output("ip", &["-o", "link"]));
    add(
        "loop device",
        &output(
            "losetup",
            &["--list", "--noheadings", "--output", "NAME,BACK-FILE"],
        ),
    );
    add(
        "control group",
        &control_groups(Path::new("/sys/fs/cgroup"), 3),
    );
    for directory in ["/var/lib/ondol/labs", "/run/ondol/labs", "/run/netns"] {
        add("file", &entries(directory));
    }
    found
}

/// The interfaces of the root namespace, by name.
pub fn interfaces() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// Command lines of all processes but this one and its parents, which may name the lab as an argument.
fn processes() -> String {
    let own: BTreeSet<u32> = ancestors(std::process::id());
    let mut lines = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !own.contains(&pid) && !line.is_empty() {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            lines.push_str(&format!("{pid} {line}\n"));
        }
    }
    lines
}

fn ancestors(pid: u32) -> BTreeSet<u32> {
    let mut chain = BTreeSet::from([pid]);
    let mut next = pid;
    while let Some(parent) = fs::read_to_string(format!("/proc/{next}/status"))
        .ok()
        .and_then(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
        })
        .filter(|&parent| parent > 0 && chain.insert(parent))
    {
        next = parent;
    }
    chain
}

fn control_groups(root: &Path, depth: u32) -> String {
    let mut lines = String::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.push_str(&format!("{}\n", entry.path().display()));
            if depth > 0 {
                lines.push_str(&control_groups(&entry.path(), depth - 1));
            }
        }
    }
    lines
}

fn entries(directory: &str) -> String {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| format!("{}\n", entry.path().display()))
        .collect()
}
