//! Processors, memory, mounts, firmware names, uptime and load.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::tree::Tree;
use super::{Found, found};

pub(super) fn gather(tree: &Tree) -> anyhow::Result<Found> {
    let mut found = Found::new();
    if let Some(text) = tree.read("/proc/cpuinfo") {
        found.extend(processors(&text, allowed_cpus()));
    }
    if let Some(text) = tree.read("/proc/meminfo") {
        found.extend(memory(&text));
    }
    if let Some(seconds) = tree.read("/proc/uptime").as_deref().and_then(uptime) {
        found.insert("uptime_seconds".to_owned(), json!(seconds));
    }
    if let Some(load) = tree.read("/proc/loadavg").as_deref().and_then(load) {
        found.insert("loadavg".to_owned(), load);
    }
    found.extend(firmware(tree));
    let uuids = uuids(tree);
    let mounts: Vec<Value> = mounts(
        &tree.read("/proc/self/mounts").unwrap_or_default(),
        &tree.read("/proc/self/mountinfo").unwrap_or_default(),
    )
    .into_iter()
    .map(|mount| mount.into_fact(&uuids))
    .collect();
    found.insert("mounts".to_owned(), json!(mounts));
    Ok(found)
}

/// Processors that this process may run on.
fn allowed_cpus() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some(
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .count(),
    )
}

/// `/proc/cpuinfo`. The keys it has differ by architecture: x86 names sockets and cores, ARM only numbers its
/// processors.
fn processors(text: &str, allowed: Option<usize>) -> Found {
    let mut processor = Vec::new();
    let mut flags: Option<Vec<&str>> = None;
    let mut sockets: Vec<(&str, usize)> = Vec::new();
    let mut count = 0;
    let mut siblings = None;
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        match key {
            "processor" => {
                count += 1;
                processor.push(value);
            }
            "vendor_id" | "model name" | "Processor" | "cpu" | "Vendor" => processor.push(value),
            "flags" => flags = Some(value.split_whitespace().collect()),
            "physical id" if !sockets.iter().any(|(id, _)| *id == value) => {
                sockets.push((value, 1));
            }
            "cpu cores" => {
                if let (Some(socket), Ok(cores)) = (sockets.last_mut(), value.parse()) {
                    socket.1 = cores;
                }
            }
            "siblings" => siblings = siblings.or_else(|| value.parse::<usize>().ok()),
            _ => {}
        }
    }
    let cores = sockets.first().map_or(1, |(_, cores)| (*cores).max(1));
    let threads = siblings.map_or(1, |siblings| (siblings / cores).max(1));
    let packages = if sockets.is_empty() {
        count
    } else {
        sockets.len()
    };
    let mut found = found! {
        "processor": processor,
        "processor_count": packages,
        "processor_cores": cores,
        "processor_threads_per_core": threads,
        "processor_vcpus": packages * cores * threads,
        "processor_nproc": allowed.unwrap_or(count),
    };
    if let Some(flags) = flags {
        found.insert("flags".to_owned(), json!(flags));
    }
    found
}

/// `/proc/meminfo`, in MiB although the names say MB: that is what setup means by them.
fn memory(text: &str) -> Found {
    let mib = |key: &str| -> u64 {
        text.lines()
            .find_map(|line| {
                let value = line.strip_prefix(key)?.strip_prefix(':')?;
                value.split_whitespace().next()?.parse::<u64>().ok()
            })
            .unwrap_or(0)
            / 1024
    };
    let (total, free) = (mib("MemTotal"), mib("MemFree"));
    let (swap_total, swap_free) = (mib("SwapTotal"), mib("SwapFree"));
    let without_cache = free + mib("Cached") + mib("Buffers");
    found! {
        "memtotal_mb": total,
        "memfree_mb": free,
        "swaptotal_mb": swap_total,
        "swapfree_mb": swap_free,
        "memory_mb": {
            "real": {"total": total, "used": total.saturating_sub(free), "free": free},
            "nocache": {"free": without_cache, "used": total.saturating_sub(without_cache)},
            "swap": {
                "total": swap_total,
                "free": swap_free,
                "used": swap_total.saturating_sub(swap_free),
                "cached": mib("SwapCached"),
            },
        },
    }
}

fn uptime(text: &str) -> Option<u64> {
    text.split(['.', ' ']).next()?.parse().ok()
}

fn load(text: &str) -> Option<Value> {
    let mut loads = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || loads.next()?.ok();
    Some(json!({"1m": next()?, "5m": next()?, "15m": next()?}))
}

fn firmware(tree: &Tree) -> Found {
    [
        ("bios_date", "bios_date"),
        ("bios_vendor", "bios_vendor"),
        ("bios_version", "bios_version"),
        ("board_name", "board_name"),
        ("board_vendor", "board_vendor"),
        ("product_name", "product_name"),
        ("product_serial", "product_serial"),
        ("product_uuid", "product_uuid"),
        ("product_version", "product_version"),
        ("system_vendor", "sys_vendor"),
    ]
    .into_iter()
    .map(|(fact, file)| {
        let value = tree.line(&format!("/sys/devices/virtual/dmi/id/{file}"));
        (
            fact.to_owned(),
            json!(value.unwrap_or_else(|| "NA".to_owned())),
        )
    })
    .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    mount: String,
    fstype: String,
    options: String,
    dump: u64,
    passno: u64,
}

impl Mount {
    fn into_fact(self, uuids: &[(String, String)]) -> Value {
        let uuid = uuids
            .iter()
            .find(|(device, _)| *device == self.device)
            .map_or("N/A", |(_, uuid)| uuid);
        let mut fact = json!({
            "mount": self.mount,
            "device": self.device,
            "fstype": self.fstype,
            "options": self.options,
            "dump": self.dump,
            "passno": self.passno,
            "uuid": uuid,
        });
        // A mount that does not answer, or that we may not enter, is listed without sizes.
        if let Ok(size) = statvfs(self.mount.as_str())
            && let Some(fact) = fact.as_object_mut()
        {
            fact.extend(found! {
                "size_total": size.fragment_size() * size.blocks(),
                "size_available": size.fragment_size() * size.blocks_available(),
                "block_size": size.block_size(),
                "block_total": size.blocks(),
                "block_available": size.blocks_available(),
                "block_used": size.blocks().saturating_sub(size.blocks_available()),
                "inode_total": size.files(),
                "inode_available": size.files_available(),
                "inode_used": size.files().saturating_sub(size.files_available()),
            });
        }
        fact
    }
}

/// Mounts of a device or of a network share. `table` is `/proc/self/mounts`, `info` is `/proc/self/mountinfo`, which
/// alone says what is a bind mount.
fn mounts(table: &str, info: &str) -> Vec<Mount> {
    let binds: Vec<String> = info
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (*fields.get(3)? != "/").then(|| unescape(fields[4]))
        })
        .collect();
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [device, mount, fstype, options, dump, passno] = fields[..] else {
                return None;
            };
            if fstype == "none" || !(device.starts_with('/') || device.contains(":/")) {
                return None;
            }
            let mount = unescape(mount);
            let bind = binds.contains(&mount) && !options.split(',').any(|it| it == "bind");
            Some(Mount {
                device: unescape(device),
                fstype: unescape(fstype),
                options: format!("{options}{}", if bind { ",bind" } else { "" }),
                dump: dump.parse().unwrap_or(0),
                passno: passno.parse().unwrap_or(0),
                mount,
            })
        })
        .collect()
}

/// The kernel writes a space in a path as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = rest
            .get(1..4)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Device paths and their file systems' UUIDs, as udev linked them.
fn uuids(tree: &Tree) -> Vec<(String, String)> {
    tree.names("/dev/disk/by-uuid")
        .into_iter()
        .filter_map(|uuid| {
            let device = tree.link_name(&format!("/dev/disk/by-uuid/{uuid}"))?;
            Some((format!("/dev/{device}"), uuid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_cores_and_threads_of_x86() {
        let one = |cpu: u32, socket: u32| {
            format!(
                "processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nphysical id\t: {socket}\nsiblings\t: 4\ncore id\t\t: {}\ncpu cores\t: 2\nflags\t\t: fpu vme\n\n",
                cpu % 2
            )
        };
        let text: String = (0..8).map(|cpu| one(cpu, cpu / 4)).collect();
        let found = processors(&text, Some(3));
        for (key, value) in [
            ("processor_count", 2),
            ("processor_cores", 2),
            ("processor_threads_per_core", 2),
            ("processor_vcpus", 8),
            ("processor_nproc", 3),
        ] {
            assert_eq!(found[key], json!(value), "{key}");
        }
        assert_eq!(found["flags"], json!(["fpu", "vme"]));
        assert_eq!(found["processor"].as_array().map(Vec::len), Some(24));
    }

    #[test]
    fn arm_numbers_its_processors_only() {
        let text = "processor\t: 0\nBogoMIPS\t: 50.00\n\nprocessor\t: 1\nBogoMIPS\t: 50.00\n";
        let found = processors(text, None);
        assert_eq!(
            Value::Object(found),
            json!({"processor": ["0", "1"], "processor_count": 2, "processor_cores": 1,
                "processor_threads_per_core": 1, "processor_vcpus": 2, "processor_nproc": 2})
        );
    }

    #[test]
    fn memory_is_rounded_down_before_it_is_subtracted() {
        let found = memory(
            "MemTotal: 4096 kB\nMemFree: 2047 kB\nBuffers: 1023 kB\nCached: 1024 kB\nSwapCached: 0 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\n",
        );
        assert_eq!(
            Value::Object(found),
            json!({"memtotal_mb": 4, "memfree_mb": 1, "swaptotal_mb": 2, "swapfree_mb": 1,
                "memory_mb": {"real": {"total": 4, "used": 3, "free": 1},
                    "nocache": {"free": 2, "used": 2},
                    "swap": {"total": 2, "free": 1, "used": 1, "cached": 0}}})
        );
    }

    #[test]
    fn only_devices_and_shares_are_mounts() {
        let table = "/dev/sda1 / ext4 rw,relatime 0 1\nproc /proc proc rw 0 0\nnas:/x /mnt/a\\040b nfs4 ro 0 0\n/dev/sda1 /srv ext4 rw 0 0\n";
        let info =
            "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 29 8:1 /data /srv rw - ext4 /dev/sda1 rw\n";
        let mount = |device: &str, mount: &str, fstype: &str, options: &str, passno| Mount {
            device: device.to_owned(),
            mount: mount.to_owned(),
            fstype: fstype.to_owned(),
            options: options.to_owned(),
            dump: 0,
            passno,
        };
        assert_eq!(
            mounts(table, info),
            [
                mount("/dev/sda1", "/", "ext4", "rw,relatime", 1),
                mount("nas:/x", "/mnt/a b", "nfs4", "ro", 0),
                mount("/dev/sda1", "/srv", "ext4", "rw,bind", 0),
            ]
        );
    }

    #[test]
    fn uptime_and_load_are_numbers() {
        assert_eq!(uptime("1625.42 3100.01\n"), Some(1625));
        assert_eq!(
            load("0.08 0.31 0.35 1/200 4711\n"),
            Some(json!({"1m": 0.08, "5m": 0.31, "15m": 0.35}))
        );
        assert_eq!(load("none"), None);
    }
}
