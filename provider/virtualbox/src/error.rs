//! What can go wrong with VirtualBox on a host, in words a person can act on. Rendering for Terraform is the provider's.

use crate::answer::VmState;
use crate::command::Command;
use crate::machine::Output;
use crate::settings::SettingsError;
use crate::version::Version;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Hosts are named by whoever has them; an error says the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing can be said about any VM of the host.
    #[error("could not {act}: {words}. {remedy}")]
    Unreachable {
        act: String,
        words: String,
        remedy: String,
    },
    #[error("VBoxManage is not on the host. {remedy}")]
    NoVirtualBox { remedy: String },
    #[error(
        "VirtualBox {found} is too old: {} or newer is needed. Install a newer VirtualBox on the host",
        Version::OLDEST
    )]
    TooOld { found: Version },
    /// VBoxManage said no.
    #[error("{act}: {words}{}", said(hint))]
    Refused {
        act: String,
        code: Code,
        /// VBoxManage's own.
        words: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// A file on the host could not be read or written.
    #[error("{act}: {words}")]
    File { act: String, words: String },
    #[error("VM \"{vm}\": its settings file {path}: {source}")]
    Settings {
        vm: String,
        path: String,
        source: SettingsError,
    },
    /// The caller asked for something that no VM on this host can be. Nothing was touched.
    #[error("{}: {reason}", field.join("."))]
    Invalid {
        /// Path in [`crate::VmSpec`] in Terraform's words: `disks`, `data`, `size_mib`.
        field: Vec<String>,
        reason: String,
    },
    #[error("{reason}")]
    Exists { vm: String, reason: String },
    #[error("the host has no VM \"{vm}\"")]
    NotFound { vm: String },
    #[error("the image {path}: {reason}")]
    Image { path: String, reason: String },
    #[error("VM \"{vm}\" did not start: {words}{}", said(hint))]
    NotStarted {
        vm: String,
        words: String,
        hint: String,
    },
    #[error("VM \"{vm}\" is still {state:?} after {seconds} s")]
    StillOn {
        vm: String,
        state: VmState,
        seconds: u64,
    },
    #[error(
        "another process has held {lock} for half an hour. Find out what it does on the host, or remove the file if nothing does"
    )]
    Locked { lock: String },
}

fn said(hint: &str) -> String {
    if hint.is_empty() {
        String::new()
    } else {
        format!(". {hint}")
    }
}

impl Error {
    pub fn code(&self) -> Option<&Code> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn invalid(field: &[&str], reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.iter().map(|&step| step.to_owned()).collect(),
            reason: reason.into(),
        }
    }
}

/// VirtualBox's result codes (`VBox/com/VirtualBox.h` of its SDK), and the ones of COM that it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    ObjectNotFound,
    InvalidVmState,
    VmError,
    FileError,
    IprtError,
    PdmError,
    InvalidObjectState,
    HostError,
    NotSupported,
    XmlError,
    InvalidSessionState,
    ObjectInUse,
    InvalidArgument,
    AccessDenied,
    Failure,
    /// VirtualBox's server was just ending, or two were just starting: nothing was done.
    NoServer,
    /// A VM or medium came or went while it was looked at.
    NotReady,
    /// A wrong option or word: VBoxManage itself refused before it asked VirtualBox.
    Syntax,
    Other(String),
    /// It said nothing that has a code.
    None,
}

impl Code {
    fn from_word(word: &str) -> Self {
        match word {
            "VBOX_E_OBJECT_NOT_FOUND" => Self::ObjectNotFound,
            "VBOX_E_INVALID_VM_STATE" => Self::InvalidVmState,
            "VBOX_E_VM_ERROR" => Self::VmError,
            "VBOX_E_FILE_ERROR" => Self::FileError,
            "VBOX_E_IPRT_ERROR" => Self::IprtError,
            "VBOX_E_PDM_ERROR" => Self::PdmError,
            "VBOX_E_INVALID_OBJECT_STATE" => Self::InvalidObjectState,
            "VBOX_E_HOST_ERROR" => Self::HostError,
            "VBOX_E_NOT_SUPPORTED" => Self::NotSupported,
            "VBOX_E_XML_ERROR" => Self::XmlError,
            "VBOX_E_INVALID_SESSION_STATE" => Self::InvalidSessionState,
            "VBOX_E_OBJECT_IN_USE" => Self::ObjectInUse,
            "NS_ERROR_INVALID_ARG" | "E_INVALIDARG" => Self::InvalidArgument,
            "E_ACCESSDENIED" => Self::AccessDenied,
            "NS_ERROR_FAILURE" | "E_FAIL" => Self::Failure,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether the same act can succeed a moment later with nobody changing anything: a VM's session is still being closed after its
    /// power was cut, the server was on its way down, or another VM was just being removed.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::InvalidObjectState | Self::InvalidSessionState | Self::NoServer | Self::NotReady
        )
    }
}

/// Standard error's and standard output's part in an answer, without the noise of start scripts, usage texts and progress bars.
fn complaints(output: &Output) -> (Vec<String>, Code) {
    let text = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let mut words: Vec<String> = Vec::new();
    let mut code = Code::None;
    let lines = text.lines().filter_map(|line| {
        let of_windows = || line.split_once("VBoxManage.exe: error: ");
        let parts = line.split_once("VBoxManage: error: ").or_else(of_windows)?;
        Some(parts.1.trim())
    });
    for line in lines {
        if let Some(details) = line.strip_prefix("Details: code ") {
            let word = details.split([' ', ',']).next().unwrap_or_default();
            if code == Code::None {
                code = Code::from_word(word);
            }
        } else if !line.starts_with("Context: ") && !words.iter().any(|it| it == line) {
            words.push(line.trim_end_matches('.').to_owned());
        }
    }
    if words
        .iter()
        .any(|line| line.starts_with("Failed to create the VirtualBox object"))
    {
        code = Code::NoServer;
    }
    if words
        .iter()
        .any(|line| line.starts_with("The object is not ready"))
    {
        code = Code::NotReady;
    }
    let usage = [
        "Unknown option",
        "Invalid option",
        "Not enough parameters",
        "unknown option",
    ];
    if code == Code::None
        && words
            .iter()
            .any(|line| usage.iter().any(|it| line.contains(it)))
    {
        code = Code::Syntax;
    }
    (words, code)
}

/// What VBoxManage answered, or why it did not. It can exit with 0 and have failed; the lists cannot, but complain about VMs that they
/// could not read.
pub fn judge(command: &Command, output: &Output) -> Result<String> {
    let reads = matches!(
        command,
        Command::Version
            | Command::ListVms
            | Command::ListDisks
            | Command::ListBridgedAdapters
            | Command::ListHostOnlyAdapters
            | Command::ListNatNetworks
            | Command::ListVmnets
            | Command::ListDhcpServers
            | Command::ListOsTypes
            | Command::ListSystemProperties
            | Command::HostInfo
    );
    let (words, code) = complaints(output);
    if output.status == Some(0) && (reads || words.is_empty()) {
        return Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""));
    }
    let words = if words.is_empty() {
        output.words()
    } else {
        words.join("; ")
    };
    Err(Error::Refused {
        act: command.act(),
        hint: hint(&code, &words),
        code,
        words,
    })
}

/// What to do about a refusal.
fn hint(code: &Code, words: &str) -> &'static str {
    // A cause that VirtualBox only mentions in words goes before its code.
    let by_words: [(&str, &str); 10] = [
        (
            "autostart database is not set",
            "Set it on the host, as the user that owns the VMs: `VBoxManage setproperty autostartdbpath /etc/vbox`",
        ),
        ("VERR_DISK_FULL", "Free space on the host's disk"),
        ("No space left", "Free space on the host's disk"),
        (
            "/dev/vboxnetctl",
            "The host's kernel driver is not loaded: run `vboxconfig` or install virtualbox-dkms there, then `modprobe vboxnetadp`",
        ),
        (
            "VERR_VM_DRIVER",
            "The host's kernel driver is not loaded: install it for the running kernel (virtualbox-dkms, or `vboxconfig`)",
        ),
        (
            "VERR_VMX_MSR_ALL_VMX_DISABLED",
            "Enable VT-x in the host's firmware setup",
        ),
        (
            "VERR_SVM_DISABLED",
            "Enable AMD-V (SVM) in the host's firmware setup",
        ),
        (
            "VERR_NEM",
            "Hyper-V holds the host's virtualization: turn Hyper-V, VirtualMachinePlatform and VBS off and restart the host",
        ),
        (
            "VERR_ACCESS_DENIED",
            "Give the user that owns the VMs the right to that path",
        ),
        (
            "already locked for a session",
            "Close the VM's window in VirtualBox, or wait until its last task has ended",
        ),
    ];
    if let Some((_, hint)) = by_words.iter().find(|(mark, _)| words.contains(mark)) {
        return hint;
    }
    match code {
        Code::NoServer => {
            "VirtualBox's server does not come up for this user: look for VBoxSVC on the host"
        }
        Code::ObjectInUse => {
            "Something else on the host holds it: close VirtualBox's window there, or wait for its task to end"
        }
        Code::InvalidObjectState | Code::InvalidSessionState => {
            "VirtualBox is still busy with the VM: try again in a moment"
        }
        Code::InvalidVmState => {
            "The VM's present state does not allow it: look at it in VirtualBox (saved, paused or starting)"
        }
        Code::AccessDenied => "Run VBoxManage as the user that owns the VMs",
        Code::XmlError => "The VM's settings file is damaged: restore it from its -prev twin",
        Code::Syntax => {
            "This version of VirtualBox does not know the option: please report it with the output of `VBoxManage --version`"
        }
        Code::NotSupported => "The disk's format or the host cannot do it",
        _ => "",
    }
}

/// Why a VM that VirtualBox gave up starting did not start, as far as the host tells.
pub fn start_hint(words: &str, driver_missing: bool) -> String {
    let by_code = hint(&Code::None, words);
    if !by_code.is_empty() {
        return by_code.to_owned();
    }
    if driver_missing {
        return "The host has no /dev/vboxdrv: VirtualBox's kernel driver is not loaded. Install it for the running kernel (Debian and Ubuntu: \
                virtualbox-dkms and the kernel's headers; Oracle's packages: `/sbin/vboxconfig`), then `modprobe vboxdrv`. The VM is registered"
            .to_owned();
    }
    "The VM's VBox.log in the folder Logs beside its settings file says more. The VM stays registered".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(stderr: &str) -> Error {
        let output = Output {
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
            status: Some(1),
        };
        judge(&Command::Start { vm: "a".to_owned() }, &output).unwrap_err()
    }

    #[test]
    fn a_refusal_has_its_code_its_words_and_a_hint() {
        let cases = [
            (
                "VBoxManage: error: Could not find a registered machine named 'nope'\nVBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface IVirtualBox, callee nsISupports\nVBoxManage: error: Context: \"FindMachine(x)\" at line 3248 of file VBoxManageInfo.cpp\n",
                Code::ObjectNotFound,
                "start the VM a: Could not find a registered machine named 'nope'",
            ),
            (
                "0%...VBOX_E_NOT_SUPPORTED\nVBoxManage: error: Failed to resize medium\nVBoxManage: error: Shrinking is not yet supported for medium '/x.vdi'\nVBoxManage: error: Details: code VBOX_E_NOT_SUPPORTED (0x80bb0009), component MediumWrap, interface IMedium\n",
                Code::NotSupported,
                "start the VM a: Failed to resize medium; Shrinking is not yet supported for medium '/x.vdi'. The disk's format or the host cannot do it",
            ),
            (
                "Usage...\r\nVBoxManage.exe: error: Unknown option: --bogus\r\n",
                Code::Syntax,
                "start the VM a: Unknown option: --bogus. This version of VirtualBox does not know the option: please report it with the output of `VBoxManage --version`",
            ),
            (
                "VBoxManage: error: Cannot grow (VERR_DISK_FULL)\nVBoxManage: error: Details: code VBOX_E_IPRT_ERROR (0x80bb0005), x\n",
                Code::IprtError,
                "start the VM a: Cannot grow (VERR_DISK_FULL). Free space on the host's disk",
            ),
            (
                "VBoxManage: error: Failed to create the VirtualBox object!\nVBoxManage: error: Code NS_ERROR_FAILURE (0x80004005) - Operation failed (extended info not available)\n",
                Code::NoServer,
                "start the VM a: Failed to create the VirtualBox object!; Code NS_ERROR_FAILURE (0x80004005) - Operation failed (extended info not available). \
                 VirtualBox's server does not come up for this user: look for VBoxSVC on the host",
            ),
            (
                "VBoxManage: error: The object is not ready\nVBoxManage: error: Details: code E_ACCESSDENIED (0x80070005), component MediumWrap, interface IMedium\n",
                Code::NotReady,
                "start the VM a: The object is not ready",
            ),
            ("killed\n", Code::None, "start the VM a: killed"),
        ];
        for (stderr, code, words) in cases {
            let error = refused(stderr);
            assert_eq!(error.code(), Some(&code));
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn an_error_with_exit_status_0_is_an_error_except_in_lists() {
        let output = Output {
            stdout: b"text\r\n".to_vec(),
            stderr: b"VBoxManage: error: Runtime error opening 'gone.vbox'\n".to_vec(),
            status: Some(0),
        };
        assert_eq!(judge(&Command::ListVms, &output).unwrap(), "text\n");
        assert!(judge(&Command::Start { vm: "a".to_owned() }, &output).is_err());
    }

    #[test]
    fn only_a_session_that_is_closing_is_worth_another_try() {
        assert!(Code::InvalidObjectState.passes() && Code::NoServer.passes());
        for code in [
            Code::ObjectNotFound,
            Code::FileError,
            Code::ObjectInUse,
            Code::Failure,
        ] {
            assert!(!code.passes(), "{code:?}");
        }
    }

    #[test]
    fn a_vm_that_did_not_start_says_what_is_missing() {
        assert!(start_hint("terminated unexpectedly", true).contains("vboxdrv"));
        assert!(start_hint("VERR_SVM_DISABLED", true).contains("AMD-V"));
        assert!(start_hint("terminated unexpectedly", false).contains("VBox.log"));
    }
}
