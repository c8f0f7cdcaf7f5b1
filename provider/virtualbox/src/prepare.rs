//! Stage 1: what a host needs before it can carry VMs, and what is done about what it lacks. Decisions and scripts; nothing is run here.
//!
//! Windows is asked and changed through PowerShell and winget, Linux (Debian and Ubuntu) through sh and apt. macOS is only looked at.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};
use crate::quote::powershell;
use crate::readiness::{self, Readiness, pairs};
use crate::shell::System;

/// What a host is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub virtualbox: bool,
    pub terraform: bool,
    /// On Linux: VirtualBox's kernel driver is loaded.
    pub kernel_driver: bool,
    /// On Windows: nothing but VirtualBox uses the processor's virtualization.
    pub hyper_v_off: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub readiness: Readiness,
    /// VirtualBox's version as its installation tells it.
    pub virtualbox: Option<String>,
    /// On Windows: its folder is on the machine's PATH.
    pub on_path: bool,
    pub terraform: bool,
    /// Features of Windows that need its own hypervisor, and whether they are on.
    pub features: BTreeMap<String, bool>,
    /// Windows starts its hypervisor at boot if anything wants it.
    pub hypervisor_starts: bool,
    /// Windows is configured to start virtualization-based security.
    pub vbs_configured: bool,
    /// It may change the system.
    pub is_administrator: bool,
    /// What was changed takes effect at the next start.
    pub reboot_pending: bool,
    /// Another text after each start.
    pub boot: String,
}

/// One thing to do on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    DisableFeature(String),
    DisableVbs,
    KeepHypervisorFromStarting,
    /// A package of winget's.
    InstallWinget(&'static str),
    AddVirtualBoxToPath,
    /// Packages of apt's.
    InstallApt(Vec<&'static str>),
    LoadDriver,
    Reboot,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DisableFeature(name) => write!(f, "turn the Windows feature {name} off"),
            Self::DisableVbs => f.write_str("turn virtualization-based security off"),
            Self::KeepHypervisorFromStarting => {
                f.write_str("keep Windows from starting its hypervisor")
            }
            Self::InstallWinget(package) => write!(f, "install {package}"),
            Self::AddVirtualBoxToPath => f.write_str("add VirtualBox's folder to PATH"),
            Self::InstallApt(packages) => write!(f, "install {}", packages.join(", ")),
            Self::LoadDriver => f.write_str("load VirtualBox's kernel driver"),
            Self::Reboot => f.write_str("restart the host"),
        }
    }
}

/// Prints what [`read`] reads, beside [`readiness::LOOK_POSIX`].
const LOOK_POSIX: &str = r#"echo "boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.boottime 2>/dev/null | tr -d ' ')"
echo "virtualbox=$(LC_ALL=C VBoxManage --version 2>/dev/null | tail -n 1)"
if command -v terraform >/dev/null 2>&1; then echo terraform=1; else echo terraform=0; fi
if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo admin=1; else echo admin=0; fi"#;

/// The same for Windows. Features can only be asked for by an administrator.
const LOOK_WINDOWS: &str = r"$ErrorActionPreference='SilentlyContinue'
'boot='+(Get-CimInstance Win32_OperatingSystem).LastBootUpTime.ToString('o')
$v=Get-ItemProperty HKLM:\SOFTWARE\Oracle\VirtualBox
'virtualbox='+$v.Version
'path='+[int](([Environment]::GetEnvironmentVariable('Path','Machine') -split ';').TrimEnd('\') -contains ([string]$v.InstallDir).TrimEnd('\'))
'terraform='+[int]($null -ne (Get-Command terraform.exe))
'admin='+[int](New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())).IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
foreach($f in 'Microsoft-Hyper-V-All','VirtualMachinePlatform','HypervisorPlatform'){$o=Get-WindowsOptionalFeature -Online -FeatureName $f;if($o){'feature:'+$f+'='+[int]([string]$o.State -like 'Enable*')}}
'launch='+[int][bool]((bcdedit.exe /enum '{current}') -match 'hypervisorlaunchtype\s+Auto')
'vbs_configured='+[int]((Get-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Control\DeviceGuard).EnableVirtualizationBasedSecurity -eq 1)
'reboot='+[int](Test-Path 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending')";

/// The script that looks, for sh and for PowerShell.
pub fn look() -> (String, String) {
    (
        format!("{}\n{LOOK_POSIX}", readiness::LOOK_POSIX),
        format!("{}\n{LOOK_WINDOWS}", readiness::LOOK_WINDOWS),
    )
}

/// Reads the answer to [`look`].
pub fn read(text: &str) -> Found {
    let pairs = pairs(text);
    let is = |key: &str| pairs.get(key) == Some(&"1");
    let version = pairs.get("virtualbox").filter(|it| !it.is_empty());
    let features = pairs.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("feature:")?;
        Some((name.to_owned(), *value == "1"))
    });
    Found {
        readiness: readiness::read(text),
        virtualbox: version.map(|&it| it.to_owned()),
        on_path: is("path"),
        terraform: is("terraform"),
        features: features.collect(),
        hypervisor_starts: is("launch"),
        vbs_configured: is("vbs_configured"),
        is_administrator: is("admin"),
        reboot_pending: is("reboot"),
        boot: pairs.get("boot").copied().unwrap_or_default().to_owned(),
    }
}

/// What is to be done, in order. A restart is last, and only there if something before it needs one.
pub fn plan(system: System, found: &Found, wish: &Wish) -> Vec<Step> {
    match system {
        System::Windows => plan_windows(found, wish),
        System::Linux(_) => plan_linux(found, wish),
        System::MacOs(_) => Vec::new(),
    }
}

fn plan_windows(found: &Found, wish: &Wish) -> Vec<Step> {
    let mut steps = Vec::new();
    if wish.hyper_v_off {
        let on = found.features.iter().filter(|(_, on)| **on);
        steps.extend(on.map(|(name, _)| Step::DisableFeature(name.clone())));
        if found.vbs_configured {
            steps.push(Step::DisableVbs);
        }
        if found.hypervisor_starts {
            steps.push(Step::KeepHypervisorFromStarting);
        }
        // What is off by now still runs until the next start.
        let runs = found.readiness.hypervisor.is_some() || found.readiness.vbs == Some(true);
        if !steps.is_empty() || found.reboot_pending || runs {
            steps.push(Step::Reboot);
        }
    }
    let mut installs = Vec::new();
    if wish.virtualbox && found.virtualbox.is_none() {
        installs.push(Step::InstallWinget("Oracle.VirtualBox"));
    }
    if wish.virtualbox && (!found.on_path || found.virtualbox.is_none()) {
        installs.push(Step::AddVirtualBoxToPath);
    }
    if wish.terraform && !found.terraform {
        installs.push(Step::InstallWinget("Hashicorp.Terraform"));
    }
    installs.extend(steps);
    installs
}

fn plan_linux(found: &Found, wish: &Wish) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut packages = Vec::new();
    if wish.virtualbox && found.virtualbox.is_none() {
        packages.push("virtualbox");
        if wish.kernel_driver {
            packages.push("virtualbox-dkms");
        }
    }
    if wish.terraform && !found.terraform {
        packages.push("terraform");
    }
    if !packages.is_empty() {
        steps.push(Step::InstallApt(packages));
    }
    if wish.virtualbox && wish.kernel_driver && found.readiness.driver == Some(false) {
        steps.push(Step::LoadDriver);
    }
    steps
}

/// Whether anything can be done at all. What only a person at the host can change is said here.
pub fn check(system: System, found: &Found, wish: &Wish, steps: &[Step]) -> Result<()> {
    let by_hand = matches!(system, System::MacOs(_))
        && (wish.virtualbox && found.virtualbox.is_none() || wish.terraform && !found.terraform);
    if by_hand {
        return Err(Error::File {
            act: "prepare the host".to_owned(),
            words: "on macOS nothing is installed: install VirtualBox and Terraform by hand, or leave them out with virtualbox = false and terraform = false"
                .to_owned(),
        });
    }
    if found.readiness.cpu_virtualization == Some(false) {
        return Err(Error::File {
            act: "look at the host's processor".to_owned(),
            words: "its virtualization is off or missing: turn on VT-x (Intel) or AMD-V, also called SVM (AMD), in the firmware setup that the host offers when it starts. \
                    Inside a virtual machine, turn on nested virtualization for it"
                .to_owned(),
        });
    }
    if !steps.is_empty() && !found.is_administrator {
        return Err(Error::File {
            act: "prepare the host".to_owned(),
            words: "the user that SSH logs in as may not change the system: take an administrator on Windows, or root or one with passwordless sudo on Linux".to_owned(),
        });
    }
    Ok(())
}

/// The script of a step: for sh on Linux, for PowerShell on Windows. It ends with another status than 0 if it failed.
pub fn script(step: &Step) -> String {
    const SUDO: &str = "if [ \"$(id -u)\" = 0 ]; then s=; else s='sudo -n'; fi; ";
    match step {
        Step::DisableFeature(name) => format!(
            "$ErrorActionPreference='Stop';$null=Disable-WindowsOptionalFeature -Online -NoRestart -FeatureName {}",
            powershell(name)
        ),
        Step::DisableVbs => "$ErrorActionPreference='Stop';$k='HKLM:\\SYSTEM\\CurrentControlSet\\Control\\DeviceGuard';\
             Set-ItemProperty $k EnableVirtualizationBasedSecurity 0 -Type DWord;\
             $h=$k+'\\Scenarios\\HypervisorEnforcedCodeIntegrity';if(Test-Path $h){Set-ItemProperty $h Enabled 0 -Type DWord}"
            .to_owned(),
        Step::KeepHypervisorFromStarting => {
            "bcdedit.exe /set hypervisorlaunchtype off;exit $LASTEXITCODE".to_owned()
        }
        Step::InstallWinget(package) => format!(
            "winget.exe install --exact --id {} --silent --accept-package-agreements --accept-source-agreements --disable-interactivity;exit $LASTEXITCODE",
            powershell(package)
        ),
        Step::AddVirtualBoxToPath => "$ErrorActionPreference='Stop';$d=(Get-ItemProperty HKLM:\\SOFTWARE\\Oracle\\VirtualBox).InstallDir.TrimEnd('\\');\
             $p=[Environment]::GetEnvironmentVariable('Path','Machine').TrimEnd(';');\
             [Environment]::SetEnvironmentVariable('Path',$p+';'+$d,'Machine')"
            .to_owned(),
        Step::InstallApt(packages) => format!(
            "{SUDO}exec $s env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        ),
        Step::LoadDriver => format!("{SUDO}$s modprobe vboxdrv && $s modprobe vboxnetflt && $s modprobe vboxnetadp"),
        // A moment later, so that the answer arrives.
        Step::Reboot => "shutdown.exe /r /t 5 /c Ondol;exit $LASTEXITCODE".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Locker;

    const WISH: Wish = Wish {
        virtualbox: true,
        terraform: true,
        kernel_driver: true,
        hyper_v_off: true,
    };

    /// Written by hand after what the scripts print: no Windows was asked.
    const BARE_WINDOWS: &str = "cpus=8\r\nvirtualization=1\r\ndriver=0\r\nhypervisor=Hyper-V\r\nvbs=1\r\nboot=2026-11-22T08:00:00\r\nvirtualbox=\r\npath=0\r\n\
        terraform=0\r\nadmin=1\r\nfeature:Microsoft-Hyper-V-All=0\r\nfeature:VirtualMachinePlatform=1\r\nlaunch=1\r\nvbs_configured=1\r\nreboot=0\r\n";
    const READY_WINDOWS: &str = "cpus=8\nvirtualization=1\ndriver=1\nhypervisor=\nvbs=0\nboot=b\nvirtualbox=7.2.4\npath=1\nterraform=1\nadmin=1\n\
        feature:VirtualMachinePlatform=0\nlaunch=0\nvbs_configured=0\nreboot=0\n";

    fn lines(system: System, text: &str, wish: &Wish) -> Vec<String> {
        let steps = plan(system, &read(text), wish);
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn windows_is_brought_to_what_virtualbox_needs() {
        assert_eq!(
            lines(System::Windows, BARE_WINDOWS, &WISH),
            [
                "install Oracle.VirtualBox",
                "add VirtualBox's folder to PATH",
                "install Hashicorp.Terraform",
                "turn the Windows feature VirtualMachinePlatform off",
                "turn virtualization-based security off",
                "keep Windows from starting its hypervisor",
                "restart the host",
            ]
        );
        assert_eq!(lines(System::Windows, READY_WINDOWS, &WISH), [""; 0]);
        let only_started = READY_WINDOWS.replace("hypervisor=", "hypervisor=Hyper-V");
        assert_eq!(
            lines(System::Windows, &only_started, &WISH),
            ["restart the host"]
        );
        let left_alone = Wish {
            hyper_v_off: false,
            terraform: false,
            ..WISH
        };
        assert_eq!(
            lines(System::Windows, BARE_WINDOWS, &left_alone),
            [
                "install Oracle.VirtualBox",
                "add VirtualBox's folder to PATH"
            ]
        );
    }

    #[test]
    fn linux_gets_packages_and_the_driver() {
        let linux = System::Linux(Locker::Flock);
        let bare = "cpus=2\nvirtualization=1\ndriver=0\nhypervisor=\nboot=x\nvirtualbox=\nterraform=0\nadmin=1\n";
        assert_eq!(
            lines(linux, bare, &WISH),
            [
                "install virtualbox, virtualbox-dkms, terraform",
                "load VirtualBox's kernel driver"
            ]
        );
        let ready = bare
            .replace("driver=0", "driver=1")
            .replace("virtualbox=", "virtualbox=7.2.22r175245")
            .replace("terraform=0", "terraform=1");
        assert_eq!(lines(linux, &ready, &WISH), [""; 0]);
        let mac = System::MacOs(Locker::Perl);
        assert_eq!(lines(mac, bare, &WISH), [""; 0], "it is only looked at");
    }

    #[test]
    fn what_only_a_person_can_change_is_said() {
        let linux = System::Linux(Locker::Flock);
        let check = |found: &Found, steps: &[Step]| check(linux, found, &WISH, steps);
        let off = read("virtualization=0\nadmin=1\n");
        assert!(
            check(&off, &[])
                .unwrap_err()
                .to_string()
                .contains("firmware setup")
        );
        let user = read("virtualization=1\nadmin=0\n");
        assert_eq!(check(&user, &[]), Ok(()));
        let error = check(&user, &[Step::LoadDriver]).unwrap_err().to_string();
        assert!(error.contains("administrator"), "{error}");
        let mac = System::MacOs(Locker::Perl);
        let error = super::check(mac, &user, &WISH, &[]).unwrap_err();
        assert!(error.to_string().contains("by hand"), "{error}");
    }

    #[test]
    fn the_scripts_of_all_steps() {
        let steps = [
            Step::DisableFeature("VirtualMachinePlatform".to_owned()),
            Step::DisableVbs,
            Step::KeepHypervisorFromStarting,
            Step::InstallWinget("Oracle.VirtualBox"),
            Step::AddVirtualBoxToPath,
            Step::InstallApt(vec!["virtualbox", "virtualbox-dkms"]),
            Step::LoadDriver,
            Step::Reboot,
        ];
        let (posix, windows) = look();
        let scripts: Vec<String> = [posix, windows]
            .into_iter()
            .chain(steps.iter().map(script))
            .collect();
        insta::assert_snapshot!(scripts.join("\n\n"));
        for text in scripts {
            let line = crate::quote::encoded_command(&text);
            assert!(line.len() < 8191, "{} characters: {text}", line.len());
        }
    }
}
