//! The subcommands of `ondol-lab`. Tables are rendered by pure functions.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use ondol_lab::{Lab, LabConfig, PowerState, Status, Vm};
use socket2::{SockRef, TcpKeepalive};

/// Exit code of this program's own failures; `shell` passes on others.
pub(crate) const FAILED: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Look at a lab's VMs, run commands in them, switch their power and network",
    after_help = "A VM is named by its name; kill, stop, start, cut and heal also take a host, which stands for all of its VMs.\n\
                  Everything needs root. Logging: ONDOL_LOG=debug."
)]
pub(crate) struct Arguments {
    /// The lab
    #[arg(long, env = "ONDOL_LAB", default_value = "ondol", global = true)]
    lab: String,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// List VMs: host, state, addresses, memory, uptime
    Ls {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a VM as root, or a login shell; the exit code is the command's
    Shell {
        vm: String,
        /// The command and its arguments, after `--`
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Ask VMs to power off; what still runs after the timeout is killed
    Stop {
        #[arg(required = true, value_name = "VM-OR-HOST")]
        names: Vec<String>,
        /// Seconds to wait for each VM
        #[arg(long, default_value_t = 30)]
        timeout: u64,
    },
    /// Start VMs; those that run are left alone
    Start {
        #[arg(required = true, value_name = "VM-OR-HOST")]
        names: Vec<String>,
    },
    /// Cut the power of VMs, or of whole hosts
    Kill {
        #[arg(required = true, value_name = "VM-OR-HOST")]
        names: Vec<String>,
    },
    /// Unplug the network of VMs until `heal` or their next start
    Cut {
        #[arg(required = true, value_name = "VM-OR-HOST")]
        names: Vec<String>,
    },
    /// Plug the network of VMs in again
    Heal {
        #[arg(required = true, value_name = "VM-OR-HOST")]
        names: Vec<String>,
    },
    /// Connect standard input and output to a port in the lab: `ssh -o ProxyCommand='ondol-lab proxy %h %p' ...`
    Proxy {
        /// An IP address, or the name of a VM (its first-boot address)
        address: String,
        port: u16,
    },
    /// Remove VMs with their disks; without names the whole lab and whatever a crash left of it
    Destroy {
        #[arg(value_name = "VM")]
        names: Vec<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let lab = Lab::open(LabConfig::new(&arguments.lab))?;
    match arguments.command {
        Subcommands::Ls { json } => list(&lab, json)?,
        Subcommands::Shell { vm, command } => return shell(&lab, &vm, &command),
        Subcommands::Stop { names, timeout } => {
            let vms = resolve(&lab, &names)?;
            each(&vms, |vm| {
                lab.stop(&vm.spec.name, Duration::from_secs(timeout))
                    .map(|_| "stopped")
            })?;
        }
        Subcommands::Start { names } => {
            let vms = resolve(&lab, &names)?;
            each(&vms, |vm| lab.start(&vm.spec.name).map(|_| "started"))?;
        }
        Subcommands::Kill { names } => {
            let vms = resolve(&lab, &names)?;
            each(&vms, |vm| lab.kill(&vm.spec.name).map(|_| "killed"))?;
        }
        Subcommands::Cut { names } => {
            let vms = resolve(&lab, &names)?;
            each(&vms, |vm| lab.cut(&vm.spec.name).map(|_| "cut off"))?;
        }
        Subcommands::Heal { names } => {
            let vms = resolve(&lab, &names)?;
            each(&vms, |vm| lab.heal(&vm.spec.name).map(|_| "connected"))?;
        }
        Subcommands::Proxy { address, port } => proxy(&lab, &address, port)?,
        Subcommands::Destroy { names, yes } => destroy(&lab, &names, yes)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Every VM that the names stand for, each once. All names are looked up before anything is done.
fn resolve(lab: &Lab, names: &[String]) -> Result<Vec<Vm>> {
    let mut vms: Vec<Vm> = Vec::new();
    for name in names {
        for vm in lab.find(name)? {
            if !vms.iter().any(|known| known.id == vm.id) {
                vms.push(vm);
            }
        }
    }
    Ok(vms)
}

/// Does `act` to all VMs, some at a time, and says of each what became of it. Fails at the end if any failed.
fn each(vms: &[Vm], act: impl Fn(&Vm) -> ondol_lab::Result<&'static str> + Sync) -> Result<()> {
    const AT_A_TIME: usize = 8;
    let mut failed = 0;
    for some in vms.chunks(AT_A_TIME) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|vm| scope.spawn(|| act(vm))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("the library does not panic"))
                .collect()
        });
        for (vm, result) in some.iter().zip(results) {
            match result {
                Ok(what) => println!("{}/{}: {what}", vm.spec.host, vm.spec.name),
                Err(error) => {
                    failed += 1;
                    eprintln!("ondol-lab: {error}");
                }
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} failed", vms.len());
    }
    Ok(())
}

fn list(lab: &Lab, json: bool) -> Result<()> {
    let status = lab.status()?;
    let mut out = io::stdout().lock();
    let written = if json {
        let text = serde_json::to_string_pretty(&status).context("render the list as JSON")?;
        writeln!(out, "{text}")
    } else {
        write!(out, "{}", table(&status))
    };
    match written {
        // `ondol-lab ls | head` is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write the list");
        }
        _ => {}
    }
    let limits = lab.limits();
    for (enforced, what) in [
        (limits.memory, "memory"),
        (limits.cpu, "processor"),
        (limits.pids, "process"),
    ] {
        if !enforced && !json {
            eprintln!(
                "note: this machine has no cgroup controller for {what} limits: VMs run without"
            );
        }
    }
    Ok(())
}

fn table(status: &[Status]) -> String {
    let mut rows =
        vec![["HOST", "VM", "STATE", "ADDRESSES", "MEMORY", "UPTIME"].map(str::to_owned)];
    let mut sorted: Vec<&Status> = status.iter().collect();
    sorted.sort_by_key(|status| (&status.vm.spec.host, &status.vm.spec.name));
    for Status {
        vm,
        addresses,
        memory_bytes,
        uptime_seconds,
    } in sorted
    {
        let state = match vm.state {
            PowerState::Running => "running",
            PowerState::Stopped => "stopped",
        };
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        rows.push([
            vm.spec.host.clone(),
            vm.spec.name.clone(),
            state.to_owned(),
            if addresses.is_empty() {
                "-".to_owned()
            } else {
                addresses.join(",")
            },
            memory_bytes.map_or_else(
                || "-".to_owned(),
                |bytes| format!("{}/{} MiB", bytes / 1024 / 1024, vm.spec.memory_mib),
            ),
            uptime_seconds.map_or_else(|| "-".to_owned(), duration),
        ]);
    }
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The two largest units: `2d 3h`, `5m 7s`, `12s`.
fn duration(seconds: u64) -> String {
    let units = [
        (seconds / 86400, 'd'),
        (seconds / 3600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = &units[first..units.len().min(first + 2)];
    shown
        .iter()
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn shell(lab: &Lab, vm: &str, command: &[String]) -> Result<ExitCode> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut argv: Vec<&str> = Vec::new();
    if command.is_empty() {
        argv.extend(["su", "--login", "root"]);
    } else if terminal {
        // The VM has its own set of terminals: programs in it can use one of those only.
        argv.extend([
            "su",
            "--login",
            "root",
            "--session-command",
            "exec \"$0\" \"$@\"",
            "--",
        ]);
    }
    if terminal {
        argv.insert(1, "--pty");
    }
    argv.extend(command.iter().map(String::as_str));
    let status = lab
        .command(vm, &argv)?
        .status()
        .with_context(|| format!("run nsenter for {vm}"))?;
    // A shell's way to tell of a signal.
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(i32::from(FAILED));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(FAILED)))
}

fn proxy(lab: &Lab, address: &str, port: u16) -> Result<()> {
    let address = match address.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match lab.find(address)?.as_slice() {
            [vm] => IpAddr::V4(vm.first_boot_address),
            _ => bail!("\"{address}\" is a host with several VMs: name one of them"),
        },
    };
    let connection = lab.connect(SocketAddr::new(address, port), Duration::from_secs(10))?;
    // ssh sends small packets one after another and cannot ask for this itself: all that it holds is our pipe.
    connection
        .set_nodelay(true)
        .context("send small packets at once")?;
    // A VM whose plug was pulled says nothing any more: without this the caller would wait for it for ever.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let socket = SockRef::from(&connection);
    socket
        .set_tcp_keepalive(&keepalive)
        .context("watch the connection")?;
    socket
        .set_tcp_user_timeout(Some(Duration::from_secs(20)))
        .context("watch the connection")?;
    let mut sender = connection.try_clone().context("share the connection")?;
    std::thread::spawn(move || {
        let copied = io::copy(&mut io::stdin().lock(), &mut sender);
        // The other side may want to go on talking after our input has ended.
        if copied.is_ok() {
            drop(sender.shutdown(Shutdown::Write));
        }
    });
    let mut connection = connection;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match io::Read::read(&mut connection, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out
                .write_all(&buffer[..count])
                .and_then(|()| out.flush())
                .context("write to standard output")?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| format!("read from {address} port {port}"));
            }
        }
    }
}

fn destroy(lab: &Lab, names: &[String], yes: bool) -> Result<()> {
    let vms = if names.is_empty() {
        lab.list()?
    } else {
        resolve(lab, names)?
    };
    if !yes {
        for vm in &vms {
            eprintln!("  {}/{}", vm.spec.host, vm.spec.name);
        }
        let what = if names.is_empty() {
            format!("lab \"{}\" with its", lab.config().name)
        } else {
            "these".to_owned()
        };
        if !io::stdin().is_terminal() {
            bail!(
                "destroying {what} {} VMs needs --yes where nobody can be asked",
                vms.len()
            );
        }
        eprint!("Destroy {what} {} VMs and their disks? [y/N] ", vms.len());
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .context("read the answer")?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was destroyed");
        }
    }
    if names.is_empty() {
        lab.destroy()?;
        println!("lab \"{}\": destroyed", lab.config().name);
        return Ok(());
    }
    each(&vms, |vm| lab.delete(&vm.spec.name).map(|()| "destroyed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (307, "5m 7s"),
            (7200, "2h 0m"),
            (183_600, "2d 3h"),
        ];
        for (seconds, wanted) in cases {
            assert_eq!(duration(seconds), wanted);
        }
    }

    #[test]
    fn the_table_groups_vms_by_host_and_leaves_out_what_is_not_known() {
        let status = |name: &str, host: &str, running: bool| -> Status {
            let spec = serde_json::json!({
                "name": name, "host": host, "image": "/image", "cpus": 1, "memory_mib": 512,
            });
            Status {
                vm: Vm {
                    id: Default::default(),
                    spec: serde_json::from_value(spec).expect("a spec"),
                    state: if running {
                        PowerState::Running
                    } else {
                        PowerState::Stopped
                    },
                    first_boot_address: [169, 254, 9, 9].into(),
                    macs: vec![],
                    ssh_host_key: String::new(),
                    acknowledged: true,
                },
                addresses: if running {
                    vec![[192, 168, 10, 5].into()]
                } else {
                    vec![]
                },
                memory_bytes: running.then_some(30 * 1024 * 1024),
                uptime_seconds: running.then_some(75),
            }
        };
        let text = table(&[
            status("mail-01", "srv-02", false),
            status("dns-01", "srv-01", true),
        ]);
        insta::assert_snapshot!(text, @r"
        HOST    VM       STATE    ADDRESSES     MEMORY      UPTIME
        srv-01  dns-01   running  192.168.10.5  30/512 MiB  1m 15s
        srv-02  mail-01  stopped  -             -           -
        ");
    }
}
