//! Lab machines of a test's own, destroyed with it, also when it panics; and modules run in them as Ansible would run them.
//!
//! The test's own program plays the binary that holds the modules, so it is always as new as the test: see [`answer`]. What a product is expected
//! to do is not said here, and images that are no [`Recipe`] are the test's own business. The tests of `ondol-lab` itself do not stand on this:
//! they test what it takes for granted.
//!
//! It panics where a test would: what fails here fails the test.

pub mod reply;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ondol_image::DEFAULT_CACHE_DIR;
pub use ondol_image::{Distribution, Recipe};
use ondol_kit::{Call, Entry};
pub use ondol_lab::{DiskSpec, Lab, LabConfig, Vm, VmSpec};
use ondol_lab::{Features, Seed, SharedFolder};
use serde_json::{Value, json};

use self::reply::{steps, unchanged};

/// Where a VM sees the directory of the test's own program.
const PROGRAMS: &str = "/run/ondol-test";
/// In the environment of the test's own program when it plays a module: which one.
const MODULE: &str = "ONDOL_TEST_MODULE";
/// The test that plays it.
const ANSWERS: &str = "answers_a_call";
const REPLY: &str = "reply: ";

/// A lab that is the test's alone.
pub struct TestLab(Lab);

impl TestLab {
    /// `name` is one that no other test uses; what an earlier, broken-off run left is removed. `None` where there can be no lab, for want of root:
    /// said aloud, and in CI a failure.
    pub fn open(name: &str) -> Option<Self> {
        let lab = match Lab::open(LabConfig::new(name)) {
            Ok(lab) => lab,
            Err(error) => {
                skip(&error.to_string());
                return None;
            }
        };
        lab.destroy()
            .expect("leftovers of an earlier run can be removed");
        Some(Self(lab))
    }

    pub fn launch(&self, spec: &VmSpec) -> Vm {
        self.create(spec).expect("the VM can be created");
        self.start(&spec.name).expect("the VM starts")
    }

    /// Waits until systemd in the VM has finished booting, with failed units or without.
    pub fn wait_booted(&self, vm: &str) {
        eventually("the VM boots", || {
            let shown = self.exec(vm, &["systemctl", "is-system-running"], b"");
            shown.is_ok_and(|it| matches!(text(&it.stdout).as_str(), "running" | "degraded"))
        });
    }

    pub fn vm(&self, vm: &str) -> Vm {
        self.observe(vm)
            .expect("the lab can be asked")
            .expect("it exists")
    }

    /// At which the VMs reach each other from their first boot on.
    pub fn address(&self, vm: &str) -> String {
        self.vm(vm).first_boot_address.to_string()
    }

    /// Output of a shell script in the VM, which must succeed.
    #[track_caller]
    pub fn sh(&self, vm: &str, script: &str) -> String {
        self.sh_with(vm, script, "")
    }

    /// The same with something on its standard input.
    #[track_caller]
    pub fn sh_with(&self, vm: &str, script: &str, input: &str) -> String {
        self.output(vm, &["sh", "-ec", script], input)
    }

    /// Output of a program in the VM, which must succeed.
    #[track_caller]
    pub fn output(&self, vm: &str, argv: &[&str], input: &str) -> String {
        let output = self.exec(vm, argv, input.as_bytes()).expect("the VM runs");
        assert!(
            output.status.success(),
            "{vm}: {argv:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Whether a shell script succeeds in the VM.
    pub fn sh_ok(&self, vm: &str, script: &str) -> bool {
        self.exec(vm, &["sh", "-ec", script], b"")
            .expect("the VM runs")
            .status
            .success()
    }

    /// A file that only root can read.
    #[track_caller]
    pub fn put(&self, vm: &str, path: &str, text: &str) {
        self.sh_with(vm, &format!("umask 077; cat > {path}"), text);
    }

    /// A module's answer, as Ansible would read it.
    #[track_caller]
    pub fn call(&self, vm: &str, module: &str, args: &Value) -> Value {
        let argv = argv(module);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = self.exec(vm, &argv, input(module, args).as_bytes());
        let output = output.expect("the VM runs");
        match answer_in(&output) {
            Some(answer) => answer,
            None => panic!("{module} on {vm}: {output:?}"),
        }
    }

    /// Check mode foretells what the run then does, the run does it, and a repeat does nothing.
    #[track_caller]
    pub fn converges(&self, vm: &str, module: &str, args: &Value) -> Vec<String> {
        let mut check = args.clone();
        check["_ansible_check_mode"] = json!(true);
        let foretold = steps(&self.call(vm, module, &check));
        let done = steps(&self.call(vm, module, args));
        assert_eq!(done, foretold, "{module} on {vm}");
        unchanged(&self.call(vm, module, args));
        done
    }

    /// A module at work, to be killed or waited for.
    pub fn begin(&self, vm: &str, module: &str, args: &Value) -> Child {
        let argv = argv(module);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let mut command = self.command(vm, &argv).expect("the VM runs");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the module runs");
        let mut stdin = child.stdin.take().expect("is piped");
        stdin
            .write_all(input(module, args).as_bytes())
            .expect("the module reads its arguments");
        child
    }
}

impl Deref for TestLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy() {
            eprintln!("destroy lab \"{}\": {error}", self.config().name);
        }
    }
}

/// Says aloud that a test does not run for want of something; in CI, nothing may be wanting.
pub fn skip(missing: &str) {
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED, not tested: {missing}");
}

/// A machine of one processor and 1 GiB with nothing but the test's own program.
pub fn spec(name: &str, image: &Path) -> VmSpec {
    let own = std::env::current_exe().expect("a program has a file");
    let programs = SharedFolder {
        host_path: own.parent().expect("a file is in a folder").to_owned(),
        guest_path: PROGRAMS.into(),
        read_only: true,
    };
    VmSpec {
        name: name.to_owned(),
        host: format!("srv-{name}"),
        image: image.to_owned(),
        cpus: 1,
        memory_mib: 1024,
        disks: BTreeMap::new(),
        interfaces: Vec::new(),
        shared_folders: BTreeMap::from([("programs".to_owned(), programs)]),
        features: Features::default(),
        seed: Seed::default(),
    }
}

/// Debian 12 with these packages beside those of every machine.
pub fn debian_with(packages: &[&str]) -> Recipe {
    let mut recipe = Recipe::base(Distribution::Debian, "bookworm");
    recipe
        .packages
        .extend(packages.iter().map(|it| (*it).to_owned()));
    recipe
}

/// Built once, then taken from the cache.
pub fn image(recipe: &Recipe) -> PathBuf {
    ondol_image::build(recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("the image builds")
    .rootfs
}

/// Plays the module that the test in the VM is called as. It is to be all of a test named `answers_a_call` that is ignored: elsewhere there is
/// nothing to answer.
pub fn answer(entries: &[Entry]) {
    let module = std::env::var(MODULE).expect("is run in a VM by another test");
    let entry = entries
        .iter()
        .find(|entry| entry.name == module)
        .expect("one of ours");
    let text = std::io::read_to_string(std::io::stdin()).expect("arguments");
    let call = Call::parse(&text).expect("a call");
    println!("\n{REPLY}{}", ondol_kit::run(entry, &call).to_line());
}

/// What runs a module in a VM, its arguments on standard input as [`input`] makes them. No word needs quotes in a shell.
pub fn argv(module: &str) -> Vec<String> {
    let own = std::env::current_exe().expect("a program has a file");
    let own: OsString = own.file_name().expect("a file has a name").to_owned();
    vec![
        "env".to_owned(),
        format!("{MODULE}={module}"),
        format!("{PROGRAMS}/{}", own.to_string_lossy()),
        "--ignored".to_owned(),
        "--exact".to_owned(),
        ANSWERS.to_owned(),
        "--nocapture".to_owned(),
    ]
}

/// Arguments as Ansible hands them over with `--diff` and `-vvv`, unless they say otherwise: a secret that is shown somewhere is shown then.
pub fn input(module: &str, args: &Value) -> String {
    let mut all = json!({"_ansible_diff": true, "_ansible_verbosity": 3});
    all["_ansible_module_name"] = json!(format!("ondol.cloud.{module}"));
    for (name, value) in args.as_object().expect("parameters are a map") {
        all[name] = value.clone();
    }
    all.to_string()
}

/// What the module said; `None` of one that was killed before it could.
pub fn answer_in(output: &Output) -> Option<Value> {
    let text = text(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(REPLY))?;
    Some(serde_json::from_str(line).expect("an answer is JSON"))
}

/// What a test waits for, tried again and again.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < PATIENCE,
            "did not happen within {} s: {what}",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(100));
    }
}

const PATIENCE: Duration = Duration::from_secs(240);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
