//! The lab's network: a namespace with a bridge, and for each VM a namespace with its ends of the cables.
//!
//! Nothing is routed between a lab and the machine: the only way in is a thread that enters the lab's namespace.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::machine;
use crate::names::{self, BRIDGE, VmNames};

/// Where iproute2 keeps names of network namespaces.
const NETNS_DIR: &str = "/run/netns";

/// The lab's own address in the range of the first-boot addresses; RFC 3927 keeps hosts from choosing it.
pub(crate) const FIRST_BOOT_GATEWAY: &str = "169.254.0.1/16";

/// One cable: an interface of a VM and the bridge port at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cable {
    pub interface: String,
    pub mac: String,
    pub port: String,
}

pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Whether the name stands for a namespace, and not for the empty file that a crash can leave.
fn netns_exists(name: &str) -> bool {
    nix::sys::statfs::statfs(&netns_path(name))
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn add_netns(name: &str) -> Result<()> {
    if !netns_exists(name) {
        delete_netns(name)?;
    }
    machine::run(
        &format!("create network namespace {name}"),
        &["ip", "netns", "add", name],
        "",
    )
    .map(drop)
}

/// Its name goes at once, the namespace with the last process in it.
fn delete_netns(name: &str) -> Result<()> {
    let path = netns_path(name);
    let failed = |error| Error::io(format!("delete network namespace {name}"), error);
    loop {
        // More than one can lie on a name: a tool that outlived its killed caller adds its own when the next caller has made another.
        while netns_exists(name) {
            umount2(&path, MntFlags::MNT_DETACH).map_err(|errno| failed(errno.into()))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && netns_exists(name) => {}
            other => return other.map_err(failed),
        }
    }
}

/// What `ip -j address show` says of one interface; only the fields that matter here.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
struct Address {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
}

/// Lines for `ip -batch` that turn the observed links of a lab's namespace into the wanted bridge. Empty if it is there.
fn plan_bridge(links: &[Link], gateway: &[Ipv4Net]) -> Vec<String> {
    let up =
        |link: Option<&Link>| link.is_some_and(|link| link.flags.iter().any(|flag| flag == "UP"));
    let find = |name: &str| links.iter().find(|link| link.ifname == name);
    let bridge = find(BRIDGE);
    let mut lines = Vec::new();
    if !up(find("lo")) {
        lines.push("link set dev lo up".to_owned());
    }
    if bridge.is_none() {
        lines.push(format!(
            "link add name {BRIDGE} type bridge forward_delay 0 stp_state 0"
        ));
    }
    if !up(bridge) {
        lines.push(format!("link set dev {BRIDGE} up"));
    }
    let first_boot: Ipv4Net = FIRST_BOOT_GATEWAY.parse().expect("a literal network");
    let wanted: Vec<IpNet> = gateway
        .iter()
        .chain([&first_boot])
        .map(|net| IpNet::V4(*net))
        .collect();
    let present: Vec<IpNet> = bridge
        .into_iter()
        .flat_map(|link| &link.addr_info)
        .filter_map(|address| IpNet::new(address.local?, address.prefixlen?).ok())
        .collect();
    for net in &wanted {
        if !present.contains(net) {
            lines.push(format!("address add {net} brd + dev {BRIDGE}"));
        }
    }
    for net in present
        .iter()
        .filter(|net| net.addr().is_ipv4() && !wanted.contains(net))
    {
        lines.push(format!("address delete {net} dev {BRIDGE}"));
    }
    lines
}

/// Makes the lab's namespace and bridge, or mends them. The caller holds the lab's lock.
pub(crate) fn ensure_lab(lab: &str, gateway: &[Ipv4Net]) -> Result<()> {
    let netns = names::lab_netns(lab);
    if !netns_exists(&netns) {
        add_netns(&netns)?;
    }
    let act = format!("lab \"{lab}\": set up its network");
    let text = machine::run(&act, &["ip", "-n", &netns, "-json", "address", "show"], "")?;
    let links: Vec<Link> = serde_json::from_str(&text).map_err(|source| Error::Record {
        act: act.clone(),
        path: PathBuf::from("ip -json address show"),
        source,
    })?;
    batch(&act, &netns, &plan_bridge(&links, gateway))
}

pub(crate) fn remove_lab(lab: &str) -> Result<()> {
    delete_netns(&names::lab_netns(lab))
}

/// Makes the VM's namespace and plugs its cables in. Nothing of an earlier run may be left: see [`remove_vm`].
pub(crate) fn add_vm(names: &VmNames, cables: &[Cable]) -> Result<()> {
    let act = format!("create the network of {}", names.machine);
    add_netns(&names.netns)?;
    let mut lines = Vec::new();
    for Cable {
        interface,
        mac,
        port,
    } in cables
    {
        lines.push(format!(
            "link add name {port} type veth peer name {interface} address {mac} netns {}",
            names.netns
        ));
        lines.push(format!(
            "link set dev {port} alias {}/{interface} master {BRIDGE} up",
            names.machine
        ));
    }
    batch(&act, &names.lab_netns, &lines)
}

/// Removes the VM's namespace and cables, whatever part of them is there. `cables` are those that the VM may have had.
pub(crate) fn remove_vm(names: &VmNames, cables: &[Cable]) -> Result<()> {
    // The kernel takes a deleted namespace's interfaces apart later, in its own time: without this, the port's name would still be
    // taken when the VM is started again at once.
    if netns_exists(&names.lab_netns) {
        let wanted: Vec<&str> = cables.iter().map(|cable| cable.port.as_str()).collect();
        delete_ports(
            &format!("unplug {}", names.machine),
            &names.lab_netns,
            |port| wanted.contains(&port),
        )?;
    }
    delete_netns(&names.netns)
}

/// Ports in the lab that belong to no VM of `known` (by [`Cable::port`]).
pub(crate) fn remove_unknown_ports(lab: &str, known: &[String]) -> Result<()> {
    let netns = names::lab_netns(lab);
    if !netns_exists(&netns) {
        return Ok(());
    }
    delete_ports(
        &format!("lab \"{lab}\": remove interfaces that nothing uses"),
        &netns,
        |port| !known.iter().any(|known| known == port),
    )
}

/// Deletes the ports of a lab's namespace that `unwanted` tells. One that goes by itself meanwhile, because the kernel takes the
/// namespace of its other end apart, is as good as deleted: what counts is that none is left.
fn delete_ports(act: &str, netns: &str, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    let left = || -> Result<Vec<String>> {
        let mut ports = ports(act, netns)?;
        ports.retain(|port| unwanted(port));
        Ok(ports)
    };
    let lines: Vec<String> = left()?
        .iter()
        .map(|port| format!("link delete dev {port}"))
        .collect();
    // Forced, so that a line that fails does not keep the others from being read.
    match batch_with(&["-force"], act, netns, &lines) {
        Err(error) if !left()?.is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// The interfaces of a lab's namespace that are neither its loopback nor its bridge.
fn ports(act: &str, netns: &str) -> Result<Vec<String>> {
    in_netns(&netns_path(netns), || {
        nix::net::if_::if_nameindex().map(|all| {
            all.iter()
                .filter_map(|interface| interface.name().to_str().ok())
                .filter(|name| *name != "lo" && *name != BRIDGE)
                .map(str::to_owned)
                .collect()
        })
    })?
    .map_err(|error| Error::io(format!("{act}: list interfaces"), error))
}

/// VMs of a lab that have a network namespace, whether or not there is a record of them.
pub(crate) fn vms_with_netns(lab: &str) -> Vec<String> {
    let prefix = format!("{}.", names::lab_netns(lab));
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix(&prefix)
                .map(str::to_owned)
        })
        .collect()
}

/// Lets frames through at the bridge's end of the cables, or not.
pub(crate) fn set_plugged(names: &VmNames, cables: &[Cable], plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    let lines: Vec<String> = cables
        .iter()
        .map(|cable| format!("link set dev {} {state}", cable.port))
        .collect();
    batch(
        &format!("set the network of {} {state}", names.machine),
        &names.lab_netns,
        &lines,
    )
}

/// Addresses that the VM has given to its interfaces, without loopback and IPv6 link-local.
pub(crate) fn addresses(names: &VmNames) -> Result<Vec<IpAddr>> {
    if !netns_exists(&names.netns) {
        return Ok(Vec::new());
    }
    let found = in_netns(&netns_path(&names.netns), || {
        nix::ifaddrs::getifaddrs().map(|all| {
            all.filter_map(|interface| {
                let address = interface.address?;
                address
                    .as_sockaddr_in()
                    .map(|v4| IpAddr::V4(v4.ip()))
                    .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .filter(|address| match address {
                IpAddr::V4(v4) => !v4.is_loopback(),
                IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            })
            .collect()
        })
    })?;
    found.map_err(|error| Error::io(format!("read the addresses of {}", names.machine), error))
}

/// The socket is opened in the lab's namespace and stays there: it can be used from anywhere.
pub(crate) fn connect(lab: &str, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let act = format!("lab \"{lab}\": connect to {to}");
    in_netns(&netns_path(&names::lab_netns(lab)), || {
        TcpStream::connect_timeout(&to, timeout)
    })?
    .map_err(|error| Error::io(act, error))
}

/// Runs `work` in a thread of its own inside a network namespace. A thread cannot be trusted to come back, so it ends.
pub(crate) fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let act = || format!("enter network namespace {}", path.display());
    let netns = File::open(path).map_err(|error| Error::io(act(), error))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("lab-netns".to_owned())
            .spawn_scoped(scope, || {
                setns(&netns, CloneFlags::CLONE_NEWNET).map(|()| work())
            })
            .map_err(|error| Error::io(act(), error))?;
        match thread.join() {
            Ok(result) => result.map_err(|errno| Error::io(act(), errno)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn batch(act: &str, netns: &str, lines: &[String]) -> Result<()> {
    batch_with(&[], act, netns, lines)
}

fn batch_with(options: &[&str], act: &str, netns: &str, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = vec!["ip", "-n", netns];
    command.extend(options);
    command.extend(["-batch", "-"]);
    machine::run(act, &command, &(lines.join("\n") + "\n")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Vec<Ipv4Net> {
        vec!["192.168.10.1/24".parse().expect("a network")]
    }

    fn links(text: &str) -> Vec<Link> {
        serde_json::from_str(text).expect("what ip prints")
    }

    #[test]
    fn a_new_namespace_gets_its_bridge_and_both_gateways() {
        let fresh = links(r#"[{"ifname":"lo","flags":["LOOPBACK"],"addr_info":[]}]"#);
        assert_eq!(
            plan_bridge(&fresh, &gateway()),
            [
                "link set dev lo up",
                "link add name ondol0 type bridge forward_delay 0 stp_state 0",
                "link set dev ondol0 up",
                "address add 192.168.10.1/24 brd + dev ondol0",
                "address add 169.254.0.1/16 brd + dev ondol0",
            ]
        );
    }

    #[test]
    fn a_bridge_that_is_right_is_left_alone_and_a_moved_gateway_is_moved() {
        let there = links(
            r#"[{"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
                {"ifname":"ondol0","flags":["BROADCAST","UP"],"addr_info":[
                  {"local":"192.168.10.1","prefixlen":24},{"local":"169.254.0.1","prefixlen":16},{"local":"fe80::1","prefixlen":64}]},
                {"ifname":"v0123456789ab","flags":["UP"],"addr_info":[]}]"#,
        );
        assert_eq!(plan_bridge(&there, &gateway()), Vec::<String>::new());
        let moved = ["10.9.0.1/24".parse().expect("a network")];
        assert_eq!(
            plan_bridge(&there, &moved),
            [
                "address add 10.9.0.1/24 brd + dev ondol0",
                "address delete 192.168.10.1/24 dev ondol0"
            ]
        );
    }
}
