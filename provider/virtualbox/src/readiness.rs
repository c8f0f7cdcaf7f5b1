//! Whether a host can run VMs at all: what its processor, its firmware and its system say, which VirtualBox itself tells only in part, and
//! not at all while its kernel driver is missing.
//!
//! Scripts and their answers; [`crate::machine`] runs them. What is done about it is [`crate::prepare`]'s decision.

use std::collections::BTreeMap;

/// What was found. `None` is what this system has no word for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    pub cpus: Option<u32>,
    /// The processor has VT-x or AMD-V, and the firmware has not turned it off.
    pub cpu_virtualization: Option<bool>,
    /// VirtualBox's kernel driver is there.
    pub driver: Option<bool>,
    /// Another hypervisor that holds the processor's virtualization: `Hyper-V` makes VirtualBox slow, `KVM` may keep it from starting VMs.
    pub hypervisor: Option<String>,
    /// Windows' virtualization-based security runs, which needs Hyper-V.
    pub vbs: Option<bool>,
}

/// Prints `key=value` lines about a Linux or macOS host.
pub const LOOK_POSIX: &str = r#"echo "cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
if [ "$(uname -s)" = Darwin ]; then
  echo "virtualization=$(sysctl -n kern.hv_support 2>/dev/null)"
else
  if grep -qwE 'vmx|svm' /proc/cpuinfo; then echo virtualization=1; else echo virtualization=0; fi
  if [ -c /dev/vboxdrv ]; then echo driver=1; else echo driver=0; fi
  if [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; then echo hypervisor=KVM; else echo hypervisor=; fi
fi"#;

/// The same about a Windows host. Firmware says nothing while a hypervisor runs, which could not run without it.
pub const LOOK_WINDOWS: &str = r"$c=Get-CimInstance Win32_ComputerSystem
$p=@(Get-CimInstance Win32_Processor)[0]
$g=Get-CimInstance -Namespace root\Microsoft\Windows\DeviceGuard Win32_DeviceGuard -ErrorAction SilentlyContinue
'cpus='+$c.NumberOfLogicalProcessors
'virtualization='+[int]($c.HypervisorPresent -or $p.VirtualizationFirmwareEnabled)
'driver='+[int]($null -ne (Get-Service VBoxSup,VBoxDrv -ErrorAction SilentlyContinue))
'hypervisor='+$(if($c.HypervisorPresent){'Hyper-V'})
'vbs='+[int]($g.VirtualizationBasedSecurityStatus -eq 2)";

/// The `key=value` lines of an answer; what else is printed is passed over.
pub(crate) fn pairs(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .collect()
}

/// Reads the answer to [`LOOK_POSIX`] or [`LOOK_WINDOWS`].
pub fn read(text: &str) -> Readiness {
    let pairs = pairs(text);
    let flag = |key: &str| match pairs.get(key).copied() {
        Some("1") => Some(true),
        Some("0") => Some(false),
        _ => None,
    };
    let hypervisor = pairs.get("hypervisor").filter(|it| !it.is_empty());
    Readiness {
        cpus: pairs.get("cpus").and_then(|it| it.parse().ok()),
        cpu_virtualization: flag("virtualization"),
        driver: flag("driver"),
        hypervisor: hypervisor.map(|&it| it.to_owned()),
        vbs: flag("vbs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_systems_answer_is_read() {
        let linux = "cpus=8\nvirtualization=1\ndriver=0\nhypervisor=KVM\n";
        let windows = "cpus=16\r\nvirtualization=1\r\ndriver=1\r\nhypervisor=Hyper-V\r\nvbs=1\r\n";
        let cases = [
            (
                linux,
                Readiness {
                    cpus: Some(8),
                    cpu_virtualization: Some(true),
                    driver: Some(false),
                    hypervisor: Some("KVM".to_owned()),
                    vbs: None,
                },
            ),
            (
                windows,
                Readiness {
                    cpus: Some(16),
                    cpu_virtualization: Some(true),
                    driver: Some(true),
                    hypervisor: Some("Hyper-V".to_owned()),
                    vbs: Some(true),
                },
            ),
            (
                "cpus=10\nvirtualization=1\n",
                Readiness {
                    cpus: Some(10),
                    cpu_virtualization: Some(true),
                    ..Readiness::default()
                },
            ),
            ("cpus=\nhypervisor=\n", Readiness::default()),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected);
        }
    }
}
