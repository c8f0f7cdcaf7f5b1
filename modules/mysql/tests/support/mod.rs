//! Lab machines with the real MySQL of Debian unstable on Debian 12: an image that is built once per machine, a lab of its own for each test,
//! and the modules run in the machines as Ansible would run them.
//!
//! The machines are Debian 12's but for MySQL and the libraries that it needs: unstable's systemd no longer runs on the cgroups of older hosts.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use ondol_test_lab::{TestLab, reply, skip, spec};
use serde_json::Value;

/// Counted up when what is in the image changes.
const IMAGE: &str = "/var/cache/ondol/mysql/image-1";
const PACKAGES: &str = "ca-certificates,curl,dbus,iproute2,iputils-ping,netplan.io,openssh-server,perl,procps,psmisc,python3-minimal,sudo,\
                        systemd,systemd-resolved,systemd-sysv,udev";
const ATTEMPTS: u32 = 3;

/// Prefers Debian 12 in everything that MySQL does not need newer.
const PREFER: &str = r#"mkdir -p "$1"/etc/apt/preferences.d
printf 'Package: *\nPin: release n=sid\nPin-Priority: 100\n' > "$1"/etc/apt/preferences.d/sid"#;

/// The package's script calls unstable's systemd-sysusers in a way that Debian 12's does not know, so the user is made beforehand. What the
/// package makes of the data directory is not what a test wants to find. A file that moved from one package to another on the way from Debian 12
/// to unstable may be in both for a moment.
const INSTALL: &str = r#"set -e
cp --dereference --remove-destination /etc/resolv.conf "$1"/etc/resolv.conf
chroot "$1" sh -e <<'END'
export DEBIAN_FRONTEND=noninteractive
useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /bin/false mysql
dpkg-divert --quiet --local --rename --divert /usr/bin/systemd-sysusers.real --add /usr/bin/systemd-sysusers
ln -s /bin/true /usr/bin/systemd-sysusers
apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-overwrite -t sid install mysql-server \
  systemd/bookworm systemd-sysv/bookworm udev/bookworm systemd-resolved/bookworm </dev/null
rm /usr/bin/systemd-sysusers
dpkg-divert --quiet --local --rename --remove /usr/bin/systemd-sysusers
systemctl disable --quiet mysql.service
systemctl enable --quiet systemd-networkd.service
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
  console-getty.service getty@.service systemd-networkd-wait-online.service
find /var/lib/mysql -mindepth 1 -delete
rm -rf /etc/ssh/ssh_host_* /etc/resolv.conf /etc/hostname /var/lib/dbus/machine-id /var/log/mysql/*
: > /etc/machine-id
END
rm -rf "$1"/var/cache/apt/archives/*.deb"#;

/// The image, or why there is none.
fn image() -> Result<PathBuf, String> {
    let image = PathBuf::from(IMAGE);
    if !nix::unistd::geteuid().is_root() {
        return Err("root".to_owned());
    }
    if image.exists() {
        return Ok(image);
    }
    let cache = image.parent().expect("it has one");
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let file = File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    let _lock =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    if image.exists() {
        return Ok(image);
    }
    let uri = debian()?;
    let source = |suite: &str| {
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main")
    };
    let partial = cache.join("partial");
    let mut words = String::new();
    for attempt in 1..=ATTEMPTS {
        eprintln!("building the image with MySQL (attempt {attempt} of {ATTEMPTS}) ...");
        let _ = fs::remove_dir_all(&partial);
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--mode=root"])
            .arg(format!("--include={PACKAGES}"))
            .args([
                "--aptopt=APT::Install-Recommends \"false\"",
                "--aptopt=Acquire::Retries \"5\"",
            ])
            // A frozen mirror's unstable is older than its own promise; its signature is checked all the same.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(format!("--setup-hook={PREFER}"))
            .arg(format!("--customize-hook={INSTALL}"))
            .arg("bookworm")
            .arg(&partial)
            .args([source("bookworm"), source("sid")])
            .output()
            .map_err(|error| format!("mmdebstrap (apt-get install mmdebstrap): {error}"))?;
        if output.status.success() {
            fs::rename(&partial, &image).map_err(|error| error.to_string())?;
            return Ok(image);
        }
        words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    let _ = fs::remove_dir_all(&partial);
    Err(format!("Debian unstable's mysql-server: {words}"))
}

/// Where this machine's own Debian comes from.
fn debian() -> Result<String, String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian "))
        .map(str::to_owned)
        .ok_or_else(|| "an apt source of Debian with its lists (apt-get update)".to_owned())
}

/// A lab with its machines up.
pub(crate) struct Site(TestLab);

impl Site {
    /// `None` where this machine cannot have one: said aloud, and in CI a failure. `lab` is a name that no other test uses.
    pub(crate) fn start(lab: &str, machines: &[&str]) -> Option<Self> {
        let image = match image() {
            Ok(image) => image,
            Err(missing) => {
                skip(&format!("a test with the real MySQL needs {missing}"));
                return None;
            }
        };
        let lab = TestLab::open(lab)?;
        for name in machines {
            lab.launch(&spec(name, &image));
        }
        for name in machines {
            lab.wait_booted(name);
        }
        Some(Self(lab))
    }

    /// What the server of a VM answers to SQL, by the distribution's own client.
    #[track_caller]
    pub(crate) fn sql(&self, vm: &str, sql: &str) -> String {
        self.output(vm, &["mysql", "--batch", "--skip-column-names"], sql)
    }

    /// The steps of a call that must succeed.
    #[track_caller]
    pub(crate) fn steps(&self, vm: &str, module: &str, args: &Value) -> Vec<String> {
        reply::steps(&self.call(vm, module, args))
    }

    /// Why a call that must fail failed.
    #[track_caller]
    pub(crate) fn refusal(&self, vm: &str, module: &str, args: &Value) -> String {
        reply::failure(&self.call(vm, module, args))
    }
}

impl Deref for Site {
    type Target = TestLab;

    fn deref(&self) -> &TestLab {
        &self.0
    }
}
