//! Three machines with PostgreSQL's packages and no cluster, and what a test does with them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ondol_test_lab::reply::{refused, steps, unchanged};
use ondol_test_lab::{Distribution, Recipe, TestLab, VmSpec, argv, eventually, image, input, spec};
use serde_json::{Value, json};

pub(crate) const PASSWORD: &str = r"repl:\'ication 비밀";

pub(crate) struct Set {
    pub(crate) lab: TestLab,
    addresses: BTreeMap<String, String>,
    writer: std::cell::RefCell<String>,
}

/// Systemd, and PostgreSQL as Debian packs it. No Python, no netplan: the machines keep their first-boot addresses.
const PACKAGES: [&str; 9] = [
    "ca-certificates",
    "dbus",
    "iproute2",
    "iptables",
    "openssh-server",
    "postgresql-15",
    "sudo",
    "systemd-sysv",
    "udev",
];

impl Set {
    /// `None`, with a word on standard error, without root.
    pub(crate) fn start(name: &str, vms: &[&str]) -> Option<Self> {
        let mut set = Self {
            lab: TestLab::open(name)?,
            addresses: BTreeMap::new(),
            writer: Default::default(),
        };
        let image = image(&Recipe {
            packages: PACKAGES.map(str::to_owned).to_vec(),
            ..Recipe::base(Distribution::Debian, "bookworm")
        });
        for vm in vms {
            let vm = set.lab.launch(&VmSpec {
                memory_mib: 768,
                ..spec(vm, &image)
            });
            set.addresses
                .insert(vm.spec.name, vm.first_boot_address.to_string());
        }
        for vm in vms {
            set.lab.wait_booted(vm);
            // The package makes one; a site says create_main_cluster = false before it installs.
            set.sh(vm, "pg_dropcluster --stop 15 main; mkdir -p /root/t");
            set.begin_probing(vm);
        }
        Some(set)
    }

    pub(crate) fn boot(&self, vm: &str) {
        self.lab.start(vm).unwrap();
        self.lab.wait_booted(vm);
        self.begin_probing(vm);
    }

    #[track_caller]
    pub(crate) fn sh(&self, vm: &str, script: &str) -> String {
        self.lab.sh(vm, script)
    }

    #[track_caller]
    pub(crate) fn sql(&self, vm: &str, database: &str, sql: &str) -> String {
        let mut argv = vec!["runuser", "-u", "postgres", "--", "psql", "-AtqX"];
        argv.extend(["-v", "ON_ERROR_STOP=1", "-d", database]);
        self.lab.output(vm, &argv, sql)
    }

    fn with_version(args: &Value) -> Value {
        let mut all = args.clone();
        if all["version"].is_null() {
            all["version"] = json!(15);
        }
        all
    }

    pub(crate) fn call(&self, vm: &str, module: &str, args: &Value) -> Value {
        self.lab.call(vm, module, &Self::with_version(args))
    }

    #[track_caller]
    pub(crate) fn check(&self, vm: &str, module: &str, args: &Value) -> Value {
        let mut args = args.clone();
        args["_ansible_check_mode"] = json!(true);
        let reply = self.call(vm, module, &args);
        steps(&reply);
        reply
    }

    #[track_caller]
    pub(crate) fn applies(&self, vm: &str, module: &str, args: &Value) -> Value {
        let began = Instant::now();
        let reply = self.call(vm, module, args);
        println!("{module} on {vm}: {:?} {reply}", began.elapsed());
        steps(&reply);
        reply
    }

    #[track_caller]
    pub(crate) fn unchanged(&self, vm: &str, module: &str, args: &Value) {
        unchanged(&self.call(vm, module, args));
    }

    #[track_caller]
    pub(crate) fn refuses(&self, vm: &str, module: &str, args: &Value, because: &str) {
        refused(&self.call(vm, module, args), because);
    }

    /// Kills the module as soon as the condition holds on the machine.
    pub(crate) fn killed_while(&self, vm: &str, module: &str, args: &Value, condition: &str) {
        let call = argv(module).join(" ");
        let script = format!(
            "cat > /root/t/args; {call} < /root/t/args > /root/t/out & pid=$!; \
             until {condition}; do kill -0 $pid; done; kill -9 $pid; wait $pid || true"
        );
        let args = input(module, &Self::with_version(args));
        self.lab.sh_with(vm, &script, &args);
    }

    pub(crate) fn status(&self, vm: &str) -> Value {
        self.call(vm, "postgresql_status", &json!({}))
    }

    // What a site's variables would say.

    pub(crate) fn instance(&self) -> Value {
        json!({"parameters": parameters(), "restart": "allowed", "pg_hba": rules()})
    }

    pub(crate) fn primary(&self, name: &str, third_follows: &str, fenced: &Value) -> Value {
        let member = |(name, address): (&String, &String)| {
            let upstream = (name == "db-03").then_some(third_follows);
            json!({"name": name, "address": address, "upstream": upstream})
        };
        let members: Vec<Value> = self.addresses.iter().map(member).collect();
        json!({"name": name, "members": members, "replication": {"password": PASSWORD}, "fenced": fenced})
    }

    pub(crate) fn standby(&self, name: &str, upstream: &str, downstream: &[&str]) -> Value {
        json!({
            "name": name,
            "upstream": {"name": upstream, "address": self.addresses[upstream]},
            "downstream": downstream,
            "replication": {"password": PASSWORD},
            "parameters": parameters(),
            "pg_hba": rules(),
        })
    }

    // The writer: one row after the other, each on a connection of its own to whoever takes writes.

    /// Runs on `vm`, towards the others.
    pub(crate) fn begin_writing(&self, vm: &str, to: &[&str]) {
        let hosts: Vec<&str> = to.iter().map(|it| self.addresses[*it].as_str()).collect();
        let script = format!(
            "export PGPASSWORD=writes PGCONNECT_TIMEOUT=2\n\
             n=0; while :; do n=$((n + 1))\n\
             timeout 5 psql -qwX 'host={} user=writer dbname=app sslmode=require channel_binding=require target_session_attrs=read-write' \
             -c \"INSERT INTO rows VALUES ($n)\" 2>>/root/t/refused && echo \"$n $(date +%s%N)\" >> /root/t/acknowledged\n\
             sleep 0.1; done\n",
            hosts.join(",")
        );
        let start = "cat > /root/t/writer; : > /root/t/acknowledged; systemd-run --quiet --unit=writer sh /root/t/writer";
        self.lab.sh_with(vm, start, &script);
        self.writer.replace(vm.to_owned());
    }

    pub(crate) fn end_writing(&self) {
        self.sh(&self.writer.borrow(), "systemctl stop writer");
    }

    /// Numbers and times of the rows that were acknowledged.
    fn acknowledged(&self) -> Vec<(u64, u64)> {
        let text = self.sh(&self.writer.borrow(), "cat /root/t/acknowledged");
        let number = |word: Option<&str>| word.and_then(|it| it.parse().ok());
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((number(words.next())?, number(words.next())?))
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn more_rows(&self, count: usize) {
        let before = self.acknowledged().len();
        eventually("more rows are acknowledged", || {
            self.acknowledged().len() >= before + count
        });
    }

    /// The longest time between two rows.
    pub(crate) fn longest_pause(&self) -> Duration {
        let times: Vec<u64> = self
            .acknowledged()
            .into_iter()
            .map(|(_, time)| time)
            .collect();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        Duration::from_nanos(longest.unwrap_or_default())
    }

    /// Every row that was acknowledged until now is there, as soon as the member has caught up.
    #[track_caller]
    pub(crate) fn has_all_rows(&self, vm: &str) {
        let acknowledged: Vec<u64> = self
            .acknowledged()
            .into_iter()
            .map(|(row, _)| row)
            .collect();
        let last = acknowledged.last().copied().unwrap_or_default();
        assert!(last > 0, "nothing was written");
        eventually("the last row arrives", || {
            self.sql(
                vm,
                "app",
                &format!("SELECT count(*) FROM rows WHERE n = {last}"),
            ) == "1"
        });
        let there = self.sql(vm, "app", "SELECT n FROM rows WHERE n > 0");
        let there: std::collections::BTreeSet<u64> =
            there.lines().map(|it| it.parse().unwrap()).collect();
        let lost: Vec<u64> = acknowledged
            .into_iter()
            .filter(|row| !there.contains(row))
            .collect();
        assert_eq!(lost, [0; 0], "rows lost on {vm}");
    }

    /// Arguments of all processes, again and again.
    pub(crate) fn sample_processes(&self, vm: &str) {
        self.sh(
            vm,
            "systemd-run --quiet --unit=sampler sh -c 'while :; do cat /proc/[0-9]*/cmdline >> /root/t/processes 2>/dev/null; sleep 0.05; done'",
        );
    }

    pub(crate) fn sampled_processes(&self, vm: &str) -> String {
        self.sh(vm, "systemctl stop sampler; cat /root/t/processes")
    }

    // The probe: who takes writes, asked all the time on each machine.

    pub(crate) fn begin_probing(&self, vm: &str) {
        let script = "while :; do t=$(date +%s%N)\n\
             r=$(runuser -u postgres -- psql -AtqX -d postgres -c 'SELECT pg_is_in_recovery()' 2>/dev/null || echo -)\n\
             echo \"$t $r\" >> /root/t/probe; sleep 0.25; done\n";
        let start = "cat > /root/t/prober; systemd-run --quiet --unit=prober sh /root/t/prober";
        self.lab.sh_with(vm, start, script);
    }

    /// Who took writes, in the order of time. Two at once would show as one after the other and back again.
    pub(crate) fn writers(&self, vms: &[&str]) -> Vec<String> {
        let mut seen: Vec<(u64, &str)> = Vec::new();
        for vm in vms {
            let log = self.sh(vm, "cat /root/t/probe");
            let writable = log.lines().filter_map(|line| line.strip_suffix(" f"));
            seen.extend(writable.filter_map(|time| Some((time.parse().ok()?, *vm))));
        }
        seen.sort_unstable();
        let mut order: Vec<String> = seen.into_iter().map(|(_, vm)| vm.to_owned()).collect();
        order.dedup();
        order
    }
}

fn parameters() -> Value {
    json!({"listen_addresses": "*", "max_connections": "60", "shared_buffers": "64MB", "wal_keep_size": "256MB"})
}

fn rules() -> Value {
    json!([
        {"type": "local", "method": "peer"},
        {"type": "hostssl", "databases": ["all", "replication"], "address": "169.254.0.0/16", "method": "scram-sha-256"},
    ])
}
