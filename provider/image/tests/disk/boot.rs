//! The disk of the appliance under QEMU's emulation, as a hypervisor would start it: an AHCI disk, an Intel adapter, a seed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::shared;

/// Emulation on two cores that others use too.
const DEADLINE: Duration = Duration::from_secs(480);
const ADDRESS: &str = "10.77.3.20";
const MAC: &str = "08:00:27:00:0d:15";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firmware {
    Bios,
    Efi,
}

#[test]
fn the_disk_boots_from_bios_and_from_efi_and_becomes_what_the_seed_says() {
    let disk = shared().vmdk;
    std::thread::scope(|scope| {
        for (firmware, name) in [(Firmware::Bios, "node-bios"), (Firmware::Efi, "node-efi")] {
            let disk = &disk;
            scope.spawn(move || boot(firmware, name, disk));
        }
    });
}

fn boot(firmware: Firmware, name: &str, disk: &Path) {
    let machine = Machine::start(firmware, name, disk);
    let began = Instant::now();
    machine.wait_for_ssh();
    eprintln!(
        "{firmware:?}: SSH answers after {:.0} s",
        began.elapsed().as_secs_f64()
    );
    // One session: under emulation each costs seconds.
    let said = machine
        .ssh(
            "hostname; ip -4 -brief address show scope global | tr -s ' '; test -d /sys/firmware/efi && echo Efi || echo Bios; \
             df --output=size --block-size=1M / | tail -n 1; wc -c < /etc/machine-id; ls /etc/ssh/ssh_host_ed25519_key; \
             cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -cE '^(deb|URIs)' || true",
        )
        .unwrap_or_else(|words| panic!("{words}\n{}", machine.last_words()));
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    let [
        hostname,
        address,
        booted,
        size,
        machine_id,
        host_key,
        sources,
    ] = said.as_slice()
    else {
        panic!("{said:#?}")
    };
    assert_eq!(*hostname, name, "the name is the seed's");
    assert!(address.contains(&format!("UP {ADDRESS}/24")), "{address}");
    assert_eq!(*booted, format!("{firmware:?}"));
    // The image's root partition has less than 2 GiB of the disk's ten.
    let size: u64 = size.parse().expect("a number");
    assert!(size > 9500, "the root file system grew to {size} MiB");
    assert_eq!(*machine_id, "33", "thirty-two digits and the line's end");
    assert_eq!(*host_key, "/etc/ssh/ssh_host_ed25519_key");
    assert_eq!(*sources, "0", "no source of packages");
    if firmware == Firmware::Bios {
        // What the first new kernel will do.
        let entries = machine.ssh(
            "sudo update-grub 2>/dev/null; sudo grep -c 'root=UUID=.*console=ttyS0' /boot/grub/grub.cfg",
        );
        assert_ne!(entries.as_deref().map(str::trim), Ok("0"));
    }
    eprintln!(
        "{firmware:?}: done after {:.0} s",
        began.elapsed().as_secs_f64()
    );
}

/// Ends with the value.
struct Machine {
    process: Child,
    dir: tempfile::TempDir,
    port: u16,
    until: Instant,
}

impl Machine {
    fn start(firmware: Firmware, name: &str, disk: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = dir.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status()
            .expect("ssh-keygen is installed");
        assert!(made.success());
        let seed = seed(dir.path(), name);
        // Free a moment ago; nobody else on this machine picks ports at random.
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();

        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-nodefaults",
                "-accel",
                "tcg",
                "-machine",
                "q35",
                "-m",
                "1024",
                "-smp",
                "2",
            ])
            .args(["-display", "none", "-device", "VGA"])
            .arg("-serial")
            .arg(format!("file:{}", dir.path().join("serial").display()))
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=vmdk,snapshot=on,file={}",
                disk.display()
            ))
            .args(["-device", "ide-hd,drive=disk,bus=ide.0,bootindex=1"])
            .arg("-blockdev")
            .arg(format!(
                "driver=vvfat,node-name=seed,label=cidata,read-only=on,dir={}",
                seed.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=seed"])
            .arg("-netdev")
            .arg(format!(
                "user,id=net,net=10.77.3.0/24,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{ADDRESS}:22"
            ))
            .args(["-device", &format!("e1000,netdev=net,mac={MAC}")]);
        if firmware == Firmware::Efi {
            let variables = dir.path().join("variables");
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("ovmf is installed");
            command
                .args([
                    "-drive",
                    "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                ])
                .arg("-drive")
                .arg(format!("if=pflash,format=raw,file={}", variables.display()));
        }
        let log = File::create(dir.path().join("qemu")).expect("writable");
        let process = command
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("qemu-system-x86_64 is installed");
        Self {
            process,
            dir,
            port,
            until: Instant::now() + DEADLINE,
        }
    }

    fn wait_for_ssh(&self) {
        while let Err(words) = self.ssh("true") {
            assert!(
                Instant::now() < self.until,
                "SSH does not answer: {words}\n{}",
                self.last_words()
            );
            let serial = self.read("serial");
            for fatal in [
                "Kernel panic",
                "grub rescue>",
                "No bootable device",
                "Emergency Shell",
            ] {
                assert!(!serial.contains(fatal), "{}", self.last_words());
            }
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    fn ssh(&self, command: &str) -> Result<String, String> {
        let output = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=20",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-o", "LogLevel=ERROR", "-l", "tester", "127.0.0.1"])
            .args(["-p", &self.port.to_string()])
            .arg("-i")
            .arg(self.dir.path().join("key"))
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .expect("ssh is installed");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn read(&self, file: &str) -> String {
        fs::read(self.dir.path().join(file))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let serial = self.read("serial");
        let lines: Vec<&str> = serial.lines().collect();
        let last = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("QEMU: {}\nserial console: {last}", self.read("qemu"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A NoCloud seed's files.
fn seed(dir: &Path, name: &str) -> PathBuf {
    let seed = dir.join("seed");
    fs::create_dir(&seed).expect("writable");
    let key = fs::read_to_string(dir.join("key.pub")).expect("made just now");
    let files = [
        (
            "meta-data",
            format!("instance-id: {name}-1\nlocal-hostname: {name}\n"),
        ),
        (
            "user-data",
            format!(
                "#cloud-config\nusers:\n  - name: tester\n    shell: /bin/bash\n    sudo: ALL=(ALL) NOPASSWD:ALL\n    \
                 ssh_authorized_keys:\n      - {key}"
            ),
        ),
        (
            "network-config",
            format!(
                "version: 2\nethernets:\n  first:\n    match: {{macaddress: '{MAC}'}}\n    addresses: [{ADDRESS}/24]\n"
            ),
        ),
    ];
    for (file, text) in files {
        fs::write(seed.join(file), text).expect("writable");
    }
    seed
}
