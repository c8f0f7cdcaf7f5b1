//! VirtualBox: the golden appliance's build and its steps; a plan of 20 hosts beside one of a single host; 40 VMs made at once on one host.
//!
//! Hosts have the real VBoxManage and an SSH server 20 ms away. There is no kernel driver, so no VM is started.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use ondol_image::{DEFAULT_CACHE_DIR, DiskSpec, Distribution, Recipe, build_disk};
use tempfile::TempDir;

use self::support::Host;
use super::delay::proxy;
use super::figure::{Figure, median};
use crate::site::succeeded;

#[expect(dead_code, reason = "the tests need the rest of it")]
#[path = "../../../provider/virtualbox/tests/support/mod.rs"]
mod support;

const HOSTS: usize = 20;
const VMS_PER_HOST: usize = 2;
/// Made at the same time on one host.
const CROWD: usize = 40;
const ROUND_TRIP: Duration = Duration::from_millis(20);
const ROUNDS: usize = 5;
/// Of what a build consists of, shorter steps are not told.
const SHORTEST_STEP_SECONDS: f64 = 0.1;

/// The real VBoxManage, counted, and its answers replayed where they are kept ([`Room::record`]).
const VBOXMANAGE: &str = r#"#!/bin/sh
echo "$*" >>/root/runs
real=/usr/lib/virtualbox/VBoxManage
[ -d /root/answers ] || exec $real "$@"
answer=/root/answers/$(echo "$*" | cksum | cut -d' ' -f1)
if [ -f "$answer.seconds" ]; then
  sleep "$(cat "$answer.seconds")"
  exec cat "$answer"
fi
began=$(date +%s%N)
$real "$@" >"$answer" || { code=$?; cat "$answer"; exit $code; }
took=$(($(date +%s%N) - began))
printf '%d.%09d' $((took / 1000000000)) $((took % 1000000000)) >"$answer.seconds"
exec cat "$answer"
"#;

pub fn virtualbox() -> Result<Vec<Figure>> {
    let site = Room::start(HOSTS + 1)?;

    let rooms = site.root("room", 0..HOSTS, VMS_PER_HOST)?;
    let made = seconds(|| rooms.apply())?;
    // A host of its own, with as many VMs as each of the others.
    let single = site.root("single", HOSTS..HOSTS + 1, VMS_PER_HOST)?;
    single.apply()?;
    let (mut of_room, mut of_single) = (Vec::new(), Vec::new());
    site.runs(0)?;
    for _ in 0..ROUNDS {
        of_single.push(seconds(|| single.plan())?);
        of_room.push(seconds(|| rooms.plan())?);
    }
    let runs = site.runs(0)? as f64 / ROUNDS as f64;
    // Here all hosts share two cores. That is no limit of a room of PCs, where each has its own: so once more with what VBoxManage said
    // when it had the machine to itself, after as long as it took then.
    site.record();
    single.plan()?;
    rooms.plan_one_by_one()?;
    let (mut of_replayed, mut of_replayed_single) = (Vec::new(), Vec::new());
    let (mut by_hosts, mut by_plan) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_replayed_single.push(seconds(|| single.plan())?);
        let before = Processors::now()?;
        of_replayed.push(seconds(|| rooms.plan())?);
        let after = Processors::now()?;
        let children = after.children - before.children;
        by_plan.push(children);
        by_hosts.push(after.all - before.all - children - (after.own - before.own));
    }
    site.forget();
    single.destroy()?;
    rooms.destroy()?;

    let one = site.root("one", HOSTS..HOSTS + 1, 1)?;
    let alone = seconds(|| one.apply())?;
    one.destroy()?;
    let crowd = site.root("crowd", HOSTS..HOSTS + 1, CROWD)?;
    let together = seconds(|| crowd.apply())?;
    let mut of_crowd = Vec::new();
    for _ in 0..ROUNDS {
        of_crowd.push(seconds(|| crowd.plan())?);
    }
    crowd.destroy()?;

    let of_single = median(of_single);
    let name = |what: &str| format!("VirtualBox: {what}");
    Ok(vec![
        Figure::alone(&name("apply of 40 stopped VMs on 20 hosts"), made, "s"),
        Figure::against(
            &name("plan without changes, 20 hosts 20 ms away, all on this machine's cores"),
            median(of_room),
            "s",
            "the plan of one such host",
            of_single,
        ),
        Figure::against(
            &name("plan without changes, 20 hosts 20 ms away, VBoxManage's answers replayed"),
            median(of_replayed),
            "s",
            "the plan of one such host",
            median(of_replayed_single),
        ),
        Figure::against(
            &name("processor time of the 20 hosts' SSH servers and shells in that plan"),
            median(by_hosts),
            "s",
            "Terraform and the provider",
            median(by_plan),
        ),
        Figure::against(
            &name("plan without changes, one host with 40 VMs"),
            median(of_crowd),
            "s",
            "the plan of that host with 2 VMs",
            of_single,
        ),
        Figure::alone(&name("runs of VBoxManage per host and plan"), runs, ""),
        Figure::against(
            &name("40 VMs made at once on one host"),
            together,
            "s",
            "one VM made there",
            alone,
        ),
    ])
}

/// The smallest appliance from packages that are on this machine already, and what its build consists of.
pub fn golden_appliance() -> Result<Vec<Figure>> {
    let cache = Path::new(DEFAULT_CACHE_DIR);
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    let spec = DiskSpec::new(DiskSpec::DEFAULT_SIZE_MIB);
    build_disk(&recipe, &spec, cache, &mut |_| ControlFlow::Continue(()))?;
    let scratch = TempDir::new_in(cache).context("make a directory for the image")?;
    symlink(cache.join("debs"), scratch.path().join("debs")).context("share the packages")?;
    let mut steps: Vec<(String, f64)> = Vec::new();
    let began = Instant::now();
    build_disk(&recipe, &spec, scratch.path(), &mut |progress| {
        if let Some(news) = progress.news {
            steps.push((news, progress.elapsed.as_secs_f64()));
        }
        ControlFlow::Continue(())
    })?;
    let whole = began.elapsed().as_secs_f64();
    let mut figures = vec![Figure::alone(
        "golden .ova: built, its packages cached",
        whole,
        "s",
    )];
    let ends = steps.iter().skip(1).map(|(_, at)| *at).chain([whole]);
    for ((news, at), end) in steps.iter().zip(ends) {
        let seconds = end - at;
        if seconds < SHORTEST_STEP_SECONDS {
            continue;
        }
        let news: String = news.trim_start_matches("I: ").chars().take(60).collect();
        let name = format!("golden .ova, step: {news}");
        figures.push(Figure::alone(&name, seconds, "s"));
    }
    Ok(figures)
}

fn seconds(act: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    act()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Processor time since then, in seconds: of everyone, of what this program has run to its end, and its own, which is the 20 ms of the lines.
struct Processors {
    all: f64,
    children: f64,
    own: f64,
}

impl Processors {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read the processors' times")?;
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
            bail!("/proc/stat begins with {first:?}");
        };
        let of = |who| -> Result<f64> {
            let usage = getrusage(who).context("ask for processor time")?;
            let seconds = |it: TimeVal| it.num_microseconds() as f64 / 1e6;
            Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
        };
        Ok(Self {
            // In hundredths of a second on every Linux that Rust knows (proc_stat(5), USER_HZ).
            all: (user + nice + system + irq + softirq) / 100.0,
            children: of(UsageWho::RUSAGE_CHILDREN)?,
            own: of(UsageWho::RUSAGE_SELF)?,
        })
    }
}

/// A host's way in: where its SSH server seems to be, and its public key.
struct Door {
    host: Host,
    address: SocketAddr,
    key: String,
}

/// Hosts, and a directory with what logs in to them.
struct Room {
    doors: Vec<Door>,
    directory: TempDir,
    /// An adapter that all of them can bridge.
    adapter: String,
}

impl Room {
    fn start(size: usize) -> Result<Self> {
        let directory = TempDir::new().context("make a directory")?;
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        keygen.arg(directory.path().join("key"));
        succeeded(keygen)?;
        let public = fs::read_to_string(directory.path().join("key.pub"))?;
        let mut doors = Vec::new();
        for _ in 0..size {
            let Some(host) = Host::start_reachable() else {
                bail!("this machine cannot have hosts with VirtualBox");
            };
            doors.push(open(host, &public)?);
        }
        let host = &doors[0].host;
        let adapters = host.run(&["VBoxManage", "list", "bridgedifs"]);
        let adapter = adapters.lines().find_map(|line| line.strip_prefix("Name:"));
        let adapter = adapter
            .context("this machine has no adapter")?
            .trim()
            .to_owned();
        // One small disk, so that what is measured is the making of VMs and not the copying of bytes.
        host.run(&[
            "sh",
            "-ec",
            "exec >/dev/null; VBoxManage createmedium disk --filename /tmp/golden.vdi --size 64; VBoxManage closemedium disk /tmp/golden.vdi",
        ]);
        fs::copy(
            host.path("/tmp/golden.vdi"),
            directory.path().join("golden.vdi"),
        )
        .context("take the image")?;
        Ok(Self {
            doors,
            directory,
            adapter,
        })
    }

    /// How often VBoxManage was run on a host since this was asked last.
    fn runs(&self, index: usize) -> Result<usize> {
        let file = self.doors[index].host.path("/root/runs");
        let runs = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, "").context("forget the runs")?;
        Ok(runs.lines().count())
    }

    /// From now on VBoxManage's answers are kept, and a question that was answered once is answered with that.
    fn record(&self) {
        for door in &self.doors {
            door.host.run(&["mkdir", "/root/answers"]);
        }
    }

    fn forget(&self) {
        for door in &self.doors {
            door.host.run(&["rm", "-r", "/root/answers"]);
        }
    }

    /// A root module with so many VMs on each of some hosts.
    fn root(&self, name: &str, hosts: Range<usize>, vms: usize) -> Result<Root> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let provider = std::env::split_paths(&path)
            .find(|directory| directory.join("terraform-provider-ondol").is_file())
            .context("terraform-provider-ondol is not on PATH")?;
        let directory = self.directory.path().join(name);
        fs::create_dir(&directory)?;
        let cli = format!(
            "provider_installation {{\n dev_overrides {{ \"ondol/ondol\" = {provider:?} }}\n direct {{}}\n}}\n"
        );
        fs::write(directory.join("cli.tfrc"), cli)?;
        let mut text = "terraform {\n required_providers { ondol = { source = \"ondol/ondol\" } }\n}\nprovider \"ondol\" {\n hosts = {\n".to_owned();
        let key = self.directory.path().join("key");
        for (number, door) in self.doors[hosts.clone()].iter().enumerate() {
            writeln!(
                text,
                "h{number} = {{ engine = \"virtualbox\"\n ssh = {{ address = \"{}\", port = {}, user = \"root\", host_key = {:?}, private_key_file = {key:?} }}\n\
                 virtualbox = {{ bridged_adapter = {:?}, vboxmanage = \"/root/VBoxManage\" }} }}",
                door.address.ip(),
                door.address.port(),
                door.key,
                self.adapter
            )?;
        }
        writeln!(
            text,
            " }}\n}}\nresource \"ondol_vm\" \"this\" {{\n for_each = {{ for it in setproduct(range({}), range({vms})) : \"vm-${{it[0]}}-${{it[1]}}\" => \"h${{it[0]}}\" }}\n \
             host = each.value\n name = each.key\n image = {:?}\n memory_mib = 256\n power = \"stopped\"\n \
             seed = {{ user = \"ops\", authorized_keys = [{:?}] }}\n}}",
            hosts.len(),
            self.directory.path().join("golden.vdi"),
            fs::read_to_string(self.directory.path().join("key.pub"))?.trim()
        )?;
        fs::write(directory.join("main.tf"), text)?;
        Ok(Root { directory })
    }
}

fn open(host: Host, public: &str) -> Result<Door> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let script = format!(
        "umask 077; mkdir -p /root/.ssh; echo '{}' >/root/.ssh/authorized_keys
         ssh-keygen -q -t ed25519 -N '' -f /root/host_key
         printf '%s\\n' 'Port {port}' 'ListenAddress 127.0.0.1' 'HostKey /root/host_key' 'UsePAM no' 'PidFile none' 'MaxStartups 100' >/root/sshd
         /usr/sbin/sshd -f /root/sshd",
        public.trim()
    );
    host.run(&["sh", "-ec", &script]);
    let vboxmanage = host.path("/root/VBoxManage");
    fs::write(&vboxmanage, VBOXMANAGE).context("write VBoxManage's wrapper")?;
    fs::set_permissions(&vboxmanage, fs::Permissions::from_mode(0o755))?;
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < until, "an SSH server does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let key = host.run(&["cut", "-d ", "-f1,2", "/root/host_key.pub"]);
    let address = proxy(SocketAddr::from(([127, 0, 0, 1], port)), ROUND_TRIP)?;
    Ok(Door {
        host,
        address,
        key: key.trim().to_owned(),
    })
}

struct Root {
    directory: PathBuf,
}

impl Root {
    fn terraform(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .args(["-input=false", "-no-color"])
            .current_dir(&self.directory)
            .env("TF_CLI_CONFIG_FILE", self.directory.join("cli.tfrc"))
            .env("CHECKPOINT_DISABLE", "1");
        succeeded(command).map(drop)
    }

    fn apply(&self) -> Result<()> {
        self.terraform(&["apply", "-auto-approve", "-parallelism=40"])
    }

    /// One with changes is a failure.
    fn plan(&self) -> Result<()> {
        self.terraform(&["plan", "-detailed-exitcode", "-parallelism=40"])
    }

    fn plan_one_by_one(&self) -> Result<()> {
        self.terraform(&["plan", "-detailed-exitcode", "-parallelism=1"])
    }

    fn destroy(&self) -> Result<()> {
        self.terraform(&["destroy", "-auto-approve", "-parallelism=40"])
    }
}
