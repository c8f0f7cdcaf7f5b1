//! What is done on a host besides VBoxManage's own work, as scripts: for POSIX shells, and for Windows PowerShell 5.1, which every
//! supported Windows has.
//!
//! Text only; [`crate::machine`] runs it. What varies in length (file contents, lists of paths) goes through standard input, because
//! cmd.exe, OpenSSH's default shell on Windows, cuts a line at 8191 characters and a script doubles and more in base64.

use crate::quote::{encoded_command, posix, powershell, windows_arguments};

/// What lies under a host's default shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Linux(Locker),
    MacOs(Locker),
    Windows,
}

impl System {
    pub fn is_windows(self) -> bool {
        self == Self::Windows
    }

    /// The directory and the rest of a path.
    pub fn split(self, path: &str) -> Option<(&str, &str)> {
        let separators: &[char] = if self.is_windows() {
            &['/', '\\']
        } else {
            &['/']
        };
        path.rfind(separators)
            .map(|at| (&path[..at], &path[at + 1..]))
    }

    pub fn join(self, directory: &str, name: &str) -> String {
        let separator = if self.is_windows() { '\\' } else { '/' };
        format!("{}{separator}{name}", directory.trim_end_matches(separator))
    }

    pub fn is_absolute(self, path: &str) -> bool {
        if self.is_windows() {
            path.starts_with("\\\\") || path.get(1..3).is_some_and(|it| it == ":\\" || it == ":/")
        } else {
            path.starts_with('/')
        }
    }
}

/// What holds a lock file for as long as a program runs. The kernel frees the lock when the holder dies, whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locker {
    /// util-linux.
    Flock,
    /// macOS has no flock command, but it has Perl.
    Perl,
    /// Neither: processes of this host's other users are not kept out.
    Nothing,
}

/// Of a checksum. Older appliances have SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
}

impl Algorithm {
    fn number(self) -> u32 {
        match self {
            Self::Sha1 => 1,
            Self::Sha256 => 256,
        }
    }
}

/// One act on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task<'a> {
    /// Runs a program in the C locale, holding the lock file meanwhile if one is given.
    Run {
        program: &'a str,
        arguments: &'a [String],
        lock: Option<&'a str>,
    },
    /// Starts a program that outlives the session: OpenSSH for Windows kills what a session leaves behind. Elsewhere VirtualBox's own
    /// server starts the VM, so that nothing needs to be detached.
    RunDetached {
        program: &'a str,
        arguments: &'a [String],
    },
    /// Takes a lock file, says so in a line, and keeps it until standard input ends, which it does when whoever asked is gone.
    Hold {
        lock: &'a str,
    },
    /// Paths on standard input, a line each; answers a line each, `=` and the content in base64, or `-`.
    ReadFiles,
    /// Standard input becomes the file, wholly or not at all; readable by its owner only.
    WriteFile {
        path: &'a str,
    },
    /// Standard input goes to the end of a file that has `offset` bytes so far; with 0 it is begun.
    AppendFile {
        path: &'a str,
        offset: u64,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    /// What is absent is no error.
    RemoveFile {
        path: &'a str,
    },
    RemoveTree {
        path: &'a str,
    },
    /// The names in a directory, a line each; nothing if it does not exist.
    List {
        path: &'a str,
    },
    /// Hexadecimal digits.
    Checksum {
        path: &'a str,
        algorithm: Algorithm,
    },
    /// The members of a tar archive, which an .ova is.
    TarList {
        archive: &'a str,
    },
    TarExtract {
        archive: &'a str,
        member: &'a str,
        to: &'a str,
    },
    /// Size of a file in bytes; nothing if there is none.
    Size {
        path: &'a str,
    },
    /// Free space in MiB below a directory.
    FreeMib {
        path: &'a str,
    },
}

/// Prints what tells shells apart; see [`parse_shell`].
pub const WHICH_SHELL: &str = "echo ondol/$PSHOME/%COMSPEC%/";

/// Whether the answer to [`WHICH_SHELL`] is that of a Windows host. cmd.exe replaces the last part, PowerShell the middle one, and a
/// POSIX shell empties the latter.
pub fn parse_shell(answer: &str) -> bool {
    let answer = answer.trim();
    !(answer.is_empty() || answer == "ondol//%COMSPEC%/") && answer.contains('\\')
}

/// Prints `key=value` lines about a POSIX host, and makes our directory in the user's home.
pub const DISCOVER_POSIX: &str = r#"umask 077
echo "system=$(uname -s)"
echo "home=$HOME"
mkdir -p "$HOME/.ondol/images" || exit 1
for found in "$(command -v VBoxManage 2>/dev/null)" /usr/local/bin/VBoxManage /Applications/VirtualBox.app/Contents/MacOS/VBoxManage; do
  if [ -n "$found" ] && [ -x "$found" ]; then echo "vboxmanage=$found"; break; fi
done
if flock --version >/dev/null 2>&1; then echo locker=flock
elif command -v perl >/dev/null 2>&1; then echo locker=perl
else echo locker=nothing; fi"#;

/// The same about a Windows host.
pub const DISCOVER_WINDOWS: &str = r#"$ErrorActionPreference='Stop'
'system=Windows'
"home=$env:USERPROFILE"
$null=New-Item -ItemType Directory -Force "$env:USERPROFILE\.ondol\images"
foreach($d in $env:VBOX_MSI_INSTALL_PATH,[Environment]::GetEnvironmentVariable('VBOX_MSI_INSTALL_PATH','Machine'),"$env:ProgramFiles\Oracle\VirtualBox\"){
if($d -and (Test-Path (Join-Path $d 'VBoxManage.exe'))){"vboxmanage=$(Join-Path $d 'VBoxManage.exe')";break}}"#;

/// The line for a host's default shell.
pub fn line(system: System, task: &Task<'_>) -> String {
    match system {
        System::Linux(locker) | System::MacOs(locker) => posix_line(&posix_script(task, locker)),
        System::Windows => encoded_command(&powershell_script(task)),
    }
}

/// Has PowerShell read its script from standard input: for a script that no line holds.
pub const POWERSHELL_STDIN: &str = "powershell.exe -NoLogo -NoProfile -NonInteractive -Command -";

/// What goes with [`POWERSHELL_STDIN`].
pub fn powershell_input(task: &Task<'_>) -> String {
    format!("{}\r\n", powershell_script(task))
}

/// A login shell may be anything; the script is for sh.
pub fn posix_line(script: &str) -> String {
    format!("exec sh -c {}", posix(script))
}

/// How long a program waits for another one's lock. Copying a large disk takes minutes.
const LOCK_PATIENCE_S: u32 = 1800;

/// What a program's exit status cannot be mistaken for: the lock was not to be had.
pub const LOCK_TIMEOUT_STATUS: i32 = 75;

fn posix_script(task: &Task<'_>, locker: Locker) -> String {
    match task {
        Task::Run {
            program,
            arguments,
            lock,
        } => {
            let words: Vec<String> = std::iter::once(*program)
                .chain(arguments.iter().map(String::as_str))
                .map(posix)
                .collect();
            let command = format!("env LC_ALL=C LANG=C {}", words.join(" "));
            match (lock.map(posix), locker) {
                // -o: VirtualBox's server outlives the command that started it and must not inherit the lock.
                (Some(lock), Locker::Flock) => format!(
                    "umask 077; exec flock -o -w {LOCK_PATIENCE_S} -E {LOCK_TIMEOUT_STATUS} {lock} {command}"
                ),
                (Some(lock), Locker::Perl) => format!(
                    "umask 077; exec perl -e 'use Fcntl qw(:flock);open(F,\">>\",shift)||die;$SIG{{ALRM}}=sub{{exit {LOCK_TIMEOUT_STATUS}}};\
                     alarm {LOCK_PATIENCE_S};flock(F,LOCK_EX)||die;alarm 0;$r=system(@ARGV);exit($r==-1?127:$r>>8)' {lock} {command}"
                ),
                _ => format!("exec {command}"),
            }
        }
        Task::RunDetached { program, arguments } => posix_script(
            &Task::Run {
                program,
                arguments,
                lock: None,
            },
            locker,
        ),
        Task::Hold { lock } => {
            let arguments = ["-c".to_owned(), "echo held; exec cat >/dev/null".to_owned()];
            let hold = Task::Run {
                program: "sh",
                arguments: &arguments,
                lock: Some(lock),
            };
            posix_script(&hold, locker)
        }
        Task::ReadFiles => "while IFS= read -r f; do if c=$(base64 <\"$f\" 2>/dev/null | tr -d '\\n') && [ -f \"$f\" ] && [ -r \"$f\" ]; \
                            then echo \"=$c\"; else echo -; fi; done"
            .to_owned(),
        Task::WriteFile { path } => {
            let (path, temporary) = (posix(path), posix(&format!("{path}.ondol-new")));
            format!("set -e; umask 077; mkdir -p \"$(dirname {path})\"; cat >{temporary}; mv -f {temporary} {path}")
        }
        Task::AppendFile { path, offset: 0 } => format!("umask 077; cat >{}", posix(path)),
        Task::AppendFile { path, offset } => {
            let path = posix(path);
            format!("[ \"$(wc -c <{path})\" -eq {offset} ] || {{ echo {path} has another length than {offset} >&2; exit 1; }}; cat >>{path}")
        }
        Task::Rename { from, to } => format!("mv -f {} {}", posix(from), posix(to)),
        Task::RemoveFile { path } => format!("rm -f {}", posix(path)),
        Task::RemoveTree { path } => format!("rm -rf {}", posix(path)),
        Task::List { path } => format!("if [ -d {0} ]; then ls -A {0}; fi", posix(path)),
        Task::Checksum { path, algorithm } => format!(
            "if command -v sha{1}sum >/dev/null; then sha{1}sum <{0}; else shasum -a {1} <{0}; fi | cut -d' ' -f1",
            posix(path),
            algorithm.number()
        ),
        Task::TarList { archive } => format!("tar -tf {}", posix(archive)),
        Task::TarExtract {
            archive,
            member,
            to,
        } => format!("umask 077; tar -xOf {} {} >{}", posix(archive), posix(member), posix(to)),
        Task::Size { path } => format!("if [ -f {0} ]; then wc -c <{0}; fi", posix(path)),
        Task::FreeMib { path } => format!("df -Pm {} | awk 'NR==2{{print $4}}'", posix(path)),
    }
}

/// Opens a file that nobody else has open as `$f`.
fn powershell_lock(lock: &str) -> String {
    format!(
        "$e=(Get-Date).AddSeconds({LOCK_PATIENCE_S});while(!$f){{try{{$f=[IO.File]::Open({},'OpenOrCreate','ReadWrite','None')}}\
         catch [IO.IOException]{{if((Get-Date) -gt $e){{exit {LOCK_TIMEOUT_STATUS}}};Start-Sleep -Milliseconds 100}}}}",
        powershell(lock)
    )
}

fn powershell_script(task: &Task<'_>) -> String {
    // Without this a failed cmdlet prints its complaint and goes on.
    let strict = |body: String| {
        format!("$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';{body}")
    };
    match task {
        Task::Run {
            program,
            arguments,
            lock,
        } => {
            let run = format!(
                "$i=New-Object Diagnostics.ProcessStartInfo;$i.FileName={};$i.Arguments={};$i.UseShellExecute=$false;\
                 $i.EnvironmentVariables['LANG']='C';$p=[Diagnostics.Process]::Start($i);$p.WaitForExit();$c=$p.ExitCode",
                powershell(program),
                powershell(&windows_arguments(arguments.iter().map(String::as_str)))
            );
            match lock {
                None => strict(format!("{run};exit $c")),
                Some(lock) => strict(format!(
                    "{};try{{{run}}}finally{{$f.Close()}};exit $c",
                    powershell_lock(lock)
                )),
            }
        }
        Task::Hold { lock } => strict(format!(
            "{};[Console]::Out.WriteLine('held');[Console]::Out.Flush();$null=[Console]::In.ReadToEnd();$f.Close()",
            powershell_lock(lock)
        )),
        Task::RunDetached { program, arguments } => {
            let words = std::iter::once(*program).chain(arguments.iter().map(String::as_str));
            strict(format!(
                "$r=Invoke-CimMethod -ClassName Win32_Process -MethodName Create -Arguments @{{CommandLine={}}};exit $r.ReturnValue",
                powershell(&windows_arguments(words))
            ))
        }
        Task::ReadFiles => strict(
            "$n=New-Object IO.StreamReader([Console]::OpenStandardInput(),[Text.Encoding]::UTF8);\
             while($null -ne ($f=$n.ReadLine())){if(Test-Path -LiteralPath $f -PathType Leaf){\
             $s=[IO.File]::Open($f,'Open','Read','ReadWrite');$m=New-Object IO.MemoryStream;$s.CopyTo($m);$s.Close();\
             '='+[Convert]::ToBase64String($m.ToArray())}else{'-'}}"
                .to_owned(),
        ),
        Task::WriteFile { path } => strict(format!(
            "$p={};$null=New-Item -ItemType Directory -Force (Split-Path -LiteralPath $p);$t=$p+'.ondol-new';\
             $s=[IO.File]::Create($t);[Console]::OpenStandardInput().CopyTo($s);$s.Close();Move-Item -Force -LiteralPath $t $p",
            powershell(path)
        )),
        Task::AppendFile { path, offset } => {
            let open = if *offset == 0 {
                "$s=[IO.File]::Create($p)".to_owned()
            } else {
                format!("$s=[IO.File]::Open($p,'Append');if($s.Position -ne {offset}){{throw \"$p has another length than {offset}\"}}")
            };
            strict(format!(
                "$p={};{open};[Console]::OpenStandardInput().CopyTo($s);$s.Close()",
                powershell(path)
            ))
        }
        Task::Rename { from, to } => strict(format!(
            "Move-Item -Force -LiteralPath {} {}",
            powershell(from),
            powershell(to)
        )),
        Task::RemoveFile { path } => strict(format!(
            "$p={};if(Test-Path -LiteralPath $p){{Remove-Item -Force -LiteralPath $p}}",
            powershell(path)
        )),
        Task::RemoveTree { path } => strict(format!(
            "$p={};if(Test-Path -LiteralPath $p){{Remove-Item -Recurse -Force -LiteralPath $p}}",
            powershell(path)
        )),
        Task::List { path } => strict(format!(
            "$p={};if(Test-Path -LiteralPath $p){{Get-ChildItem -Force -Name -LiteralPath $p}}",
            powershell(path)
        )),
        Task::Checksum { path, algorithm } => strict(format!(
            "(Get-FileHash -Algorithm SHA{} -LiteralPath {}).Hash.ToLower()",
            algorithm.number(),
            powershell(path)
        )),
        // Windows has had bsdtar since 1803.
        Task::TarList { archive } => strict(format!("tar.exe -tf {};exit $LASTEXITCODE", powershell(archive))),
        Task::TarExtract {
            archive,
            member,
            to,
        } => strict(format!(
            // PowerShell would read the bytes of a pipe as text.
            "$d={to}+'.d';$null=New-Item -ItemType Directory -Force $d;tar.exe -xf {archive} -C $d {member};$c=$LASTEXITCODE;\
             if($c -eq 0){{Move-Item -Force -LiteralPath (Join-Path $d {member}) {to}}};Remove-Item -Recurse -Force -LiteralPath $d;exit $c",
            to = powershell(to),
            archive = powershell(archive),
            member = powershell(member),
        )),
        Task::Size { path } => strict(format!(
            "$p={};if(Test-Path -LiteralPath $p -PathType Leaf){{(Get-Item -Force -LiteralPath $p).Length}}",
            powershell(path)
        )),
        Task::FreeMib { path } => strict(format!(
            "[math]::Floor((New-Object IO.DriveInfo([IO.Path]::GetPathRoot({}))).AvailableFreeSpace/1MB)",
            powershell(path)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Vec<String> {
        ["startvm", "it's \"web\" 01", "--type", "headless"]
            .map(str::to_owned)
            .to_vec()
    }

    fn every_task(arguments: &[String]) -> Vec<Task<'_>> {
        let program = "C:\\Program Files\\Oracle\\VirtualBox\\VBoxManage.exe";
        vec![
            Task::Run {
                program,
                arguments,
                lock: None,
            },
            Task::Run {
                program,
                arguments,
                lock: Some("/home/it's/.ondol/host.lock"),
            },
            Task::RunDetached { program, arguments },
            Task::ReadFiles,
            Task::WriteFile { path: "/v m/x" },
            Task::AppendFile {
                path: "/v m/x",
                offset: 0,
            },
            Task::AppendFile {
                path: "/v m/x",
                offset: 5,
            },
            Task::Rename {
                from: "/v m/x",
                to: "/v m/y",
            },
            Task::RemoveFile { path: "/v m/x" },
            Task::RemoveTree { path: "/v m" },
            Task::List { path: "/v m" },
            Task::Checksum {
                path: "/v m/x",
                algorithm: Algorithm::Sha256,
            },
            Task::TarList {
                archive: "/v m/x.ova",
            },
            Task::TarExtract {
                archive: "/v m/x.ova",
                member: "a disk.vmdk",
                to: "/v m/y",
            },
            Task::FreeMib { path: "/v m" },
            Task::Hold {
                lock: "/home/it's/.ondol/images.lock",
            },
            Task::Size { path: "/v m/x" },
        ]
    }

    #[test]
    fn scripts_for_posix_shells() {
        let arguments = arguments();
        let scripts: Vec<String> = every_task(&arguments)
            .iter()
            .map(|task| posix_script(task, Locker::Flock))
            .collect();
        insta::assert_snapshot!(scripts.join("\n\n"));
        let locked = &every_task(&arguments)[1];
        insta::assert_snapshot!("with_perl", posix_script(locked, Locker::Perl));
    }

    #[test]
    fn scripts_for_powershell() {
        let arguments = arguments();
        let scripts: Vec<String> = every_task(&arguments)
            .iter()
            .map(powershell_script)
            .collect();
        insta::assert_snapshot!(scripts.join("\n\n"));
        for task in every_task(&arguments) {
            let line = line(System::Windows, &task);
            assert!(line.len() < 8191, "{} characters: {task:?}", line.len());
        }
    }

    #[test]
    fn a_shell_is_known_by_what_it_makes_of_a_line() {
        for (answer, windows) in [
            ("ondol//%COMSPEC%/\n", false),
            ("", false),
            ("ondol/$PSHOME/C:\\Windows\\system32\\cmd.exe/\r\n", true),
            (
                "ondol/C:\\Windows\\System32\\WindowsPowerShell\\v1.0/%COMSPEC%/\r\n",
                true,
            ),
        ] {
            assert_eq!(parse_shell(answer), windows, "{answer:?}");
        }
    }

    #[test]
    fn paths_are_taken_apart_as_their_host_does() {
        let linux = System::Linux(Locker::Flock);
        assert_eq!(linux.split("/a b/c.vbox"), Some(("/a b", "c.vbox")));
        assert_eq!(
            System::Windows.split(r"C:\V\a.vbox"),
            Some((r"C:\V", "a.vbox"))
        );
        assert_eq!(System::Windows.join(r"C:\V", "a"), r"C:\V\a");
        assert_eq!(linux.join("/v/", "a"), "/v/a");
        assert!(System::Windows.is_absolute(r"D:\x") && !System::Windows.is_absolute("x.vdi"));
        assert!(linux.is_absolute("/x") && !linux.is_absolute("x.vdi"));
    }
}
