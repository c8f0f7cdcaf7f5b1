//! The collection as ansible-playbook uses it: the cache and its refusals, become, async, check mode, secrets, facts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use crate::harness::{Played, Site, Sshd, find, is_root, skip, with_each_ansible};
use serde_json::{Value, json};

const KERNEL: &str = "- ondol.cloud.facts:\n    gather_subset: min\n    filter: ansible_kernel";

fn kernel(played: &Played, index: usize) -> String {
    played.result(index)["ansible_facts"]["ansible_kernel"]
        .as_str()
        .unwrap_or_else(|| panic!("no kernel: {}", played.text))
        .to_owned()
}

#[test]
fn over_ssh_the_binary_is_sent_once() {
    with_each_ansible(|site| {
        let Some(sshd) = Sshd::start(site) else {
            return;
        };
        let run = |pipelining: &str| {
            site.run(&format!("{KERNEL}\n{KERNEL}"), |run| {
                run.inventory = sshd.inventory();
                run.environment
                    .push(("ANSIBLE_PIPELINING".to_owned(), pipelining.to_owned()));
            })
            .succeed()
        };
        let first = run("false");
        assert_eq!(first.uploads(), 1, "{}", first.text);
        assert_eq!(kernel(&first, 0), kernel(&first, 1));
        let cached = site.cached();
        assert_eq!(cached.len(), 1, "{cached:?}");
        let path = site.cache().join(&cached[0]);
        let before = fs::metadata(&path).expect("the binary");
        assert_eq!(before.permissions().mode() & 0o777, 0o700);

        for pipelining in ["false", "true"] {
            let again = run(pipelining);
            assert_eq!(again.uploads(), 0, "{}", again.text);
            assert!(
                !again.text.contains("PUT"),
                "nothing is copied: {}",
                again.text
            );
        }
        let after = fs::metadata(&path).expect("the binary");
        assert_eq!(before.ino(), after.ino());
    });
}

#[test]
fn locally_too_and_a_damaged_binary_is_sent_again() {
    with_each_ansible(|site| {
        assert_eq!(site.play(KERNEL).succeed().uploads(), 1);
        let path = site.cache().join(&site.cached()[0]);
        // Not executable any more, as after a careless restore of the home.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let mended = site.play(KERNEL).succeed();
        assert_eq!(mended.uploads(), 1, "{}", mended.text);
        assert_eq!(site.play(KERNEL).succeed().uploads(), 0);
    });
}

#[test]
fn a_binary_that_arrives_changed_is_refused() {
    with_each_ansible(|site| {
        site.shim("cat", "exec head -c 100000");
        let played = site.run(KERNEL, |run| run.shims = true).fail();
        let told = played.message();
        assert!(told.contains("what arrived has the SHA-256"), "{told}");
        assert_eq!(site.cached(), [""; 0], "nothing may be left");
    });
}

/// What makes a cache foreign.
fn refused(site: &Site, spoil: impl Fn(&Site)) {
    site.play(KERNEL).succeed();
    spoil(site);
    let played = site.play(KERNEL).fail();
    let told = played.message();
    assert!(told.contains("refuses the cache"), "{told}");
    assert!(told.contains(&site.cache().display().to_string()), "{told}");
}

#[test]
fn a_cache_that_others_can_write_is_refused() {
    with_each_ansible(|site| {
        refused(site, |site| {
            fs::set_permissions(site.cache(), fs::Permissions::from_mode(0o777)).expect("chmod");
        });
        fs::remove_dir_all(site.cache()).expect("rm");
        refused(site, |site| {
            let path = site.cache().join(&site.cached()[0]);
            fs::set_permissions(path, fs::Permissions::from_mode(0o720)).expect("chmod");
        });
    });
}

#[test]
fn a_cache_that_is_a_link_is_refused() {
    with_each_ansible(|site| {
        refused(site, |site| {
            fs::rename(site.cache(), site.path("elsewhere")).expect("mv");
            symlink(site.path("elsewhere"), site.cache()).expect("ln");
        });
        fs::remove_file(site.cache()).expect("rm");
        refused(site, |site| {
            let path = site.cache().join(&site.cached()[0]);
            fs::rename(&path, site.path("binary")).expect("mv");
            symlink(site.path("binary"), path).expect("ln");
        });
    });
}

#[test]
fn a_cache_of_another_user_is_refused() {
    if !is_root() {
        skip("only root can give a folder away");
        return;
    }
    const NOBODY: u32 = 65534;
    with_each_ansible(|site| {
        refused(site, |site| {
            chown(site.cache(), Some(NOBODY), None).expect("chown");
        });
        fs::remove_dir_all(site.cache()).expect("rm");
        refused(site, |site| {
            chown(site.cache().join(&site.cached()[0]), Some(NOBODY), None).expect("chown");
        });
        // Without a binary in it: found when one is to be stored.
        fs::remove_dir_all(site.cache()).expect("rm");
        fs::create_dir(site.cache()).expect("mkdir");
        chown(site.cache(), Some(NOBODY), None).expect("chown");
        let played = site.play(KERNEL).fail();
        assert!(
            played.message().contains("refuses the cache"),
            "{}",
            played.message()
        );
        assert!(site.cache().exists(), "what is not ours is left alone");
    });
}

#[test]
fn all_but_the_newest_versions_are_removed() {
    with_each_ansible(|site| {
        fs::create_dir_all(site.cache()).expect("mkdir");
        fs::set_permissions(site.cache(), fs::Permissions::from_mode(0o700)).expect("chmod");
        for (age, digit) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let name = digit.repeat(64);
            fs::write(site.cache().join(&name), "old").expect("write");
            let aged = Command::new("touch")
                .args(["-d", &format!("{} days ago", age + 1)])
                .arg(site.cache().join(&name))
                .status();
            assert!(aged.expect("touch runs").success());
        }
        fs::write(site.cache().join("notes"), "not ours").expect("write");
        let stale = site.cache().join(".upload.stale1");
        fs::write(&stale, "half").expect("write");
        let aged = Command::new("touch")
            .args(["-d", "2 hours ago"])
            .arg(&stale)
            .status();
        assert!(aged.expect("touch runs").success());

        site.play(KERNEL).succeed();
        let left = site.cached();
        for (name, stays) in [
            ("a".repeat(64), true),
            ("b".repeat(64), true),
            ("c".repeat(64), false),
            ("d".repeat(64), false),
            ("notes".to_owned(), true),
            (".upload.stale1".to_owned(), false),
        ] {
            assert_eq!(left.contains(&name), stays, "{name}: {left:?}");
        }
    });
}

#[test]
fn a_home_that_cannot_be_written_falls_back_to_remote_tmp() {
    with_each_ansible(|site| {
        let tmp = site.path("remote-tmp");
        let run = || {
            site.run(KERNEL, |run| {
                run.inventory += &format!(" ansible_remote_tmp={}", tmp.display());
                // No folder can be made there, not even by root.
                run.keywords += "\nenvironment: {}";
                run.prefix = ["env", "HOME=/proc/none"].map(ToOwned::to_owned).to_vec();
            })
        };
        let first = run().succeed();
        assert!(first.uploads() >= 1, "{}", first.text);
        let own = fs::read_dir(&tmp)
            .expect("the fallback")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with("ondol-"));
        assert!(own.is_some());
        assert_eq!(run().succeed().uploads(), 0);
    });
}

#[test]
fn a_full_disk_is_told_and_the_next_folder_tried() {
    if !is_root() || find("unshare").is_none() {
        skip("a small disk needs root and unshare");
        return;
    }
    with_each_ansible(|site| {
        let small = |site: &Site, folder: &str| {
            format!(
                "mount -t tmpfs -o size=256k,mode=1777 small {} && ",
                site.path(folder).display()
            )
        };
        fs::create_dir_all(site.home().join(".cache")).expect("mkdir");
        fs::create_dir(site.path("remote-tmp")).expect("mkdir");
        let run = |mounts: String| {
            site.run(KERNEL, |run| {
                run.inventory +=
                    &format!(" ansible_remote_tmp={}", site.path("remote-tmp").display());
                let script = format!("{mounts}exec \"$@\"");
                run.prefix = ["unshare", "--mount", "sh", "-ec", &script, "sh"]
                    .map(ToOwned::to_owned)
                    .to_vec();
            })
        };
        let fell_back = run(small(site, "home/.cache")).succeed();
        assert_eq!(fell_back.uploads(), 2, "{}", fell_back.text);

        fs::remove_dir_all(site.path("remote-tmp")).expect("rm");
        fs::create_dir(site.path("remote-tmp")).expect("mkdir");
        let all = small(site, "home/.cache")
            + &small(site, "remote-tmp")
            + "mount -t tmpfs -o size=256k,mode=1777 small /var/tmp && ";
        let failed = run(all).fail();
        let told = failed.message();
        assert!(told.contains("cannot keep the binary on target"), "{told}");
        assert_eq!(told.matches("No space left on device").count(), 3, "{told}");
        assert!(told.contains("ansible_remote_tmp"), "{told}");
    });
}

#[test]
fn another_architecture_is_an_error_that_names_it() {
    with_each_ansible(|site| {
        site.shim("uname", "echo riscv64");
        for tasks in [
            KERNEL.to_owned(),
            format!("{KERNEL}\n  async: 10\n  poll: 1"),
        ] {
            let played = site.run(&tasks, |run| run.shims = true).fail();
            let told = played.message();
            assert!(told.contains("target is riscv64"), "{told}");
            assert!(told.contains(std::env::consts::ARCH), "{told}");
        }
    });
}

#[test]
fn a_collection_without_its_binary_says_so() {
    with_each_ansible(|site| {
        fs::remove_dir_all(site.collection().join("plugins/bin")).expect("rm");
        let played = site.play(KERNEL).fail();
        let told = played.message();
        assert!(told.contains("holds no binary"), "{told}");
        assert!(told.contains("plugins/bin"), "{told}");
    });
}

#[test]
fn with_two_architectures_the_targets_is_chosen() {
    with_each_ansible(|site| {
        let other = if cfg!(target_arch = "x86_64") {
            "aarch64"
        } else {
            "x86_64"
        };
        let folder = site.collection().join("plugins/bin").join(other);
        fs::create_dir(&folder).expect("mkdir");
        fs::write(folder.join("ondol-module"), "for another machine").expect("write");
        let played = site.play(&format!("{KERNEL}\n{KERNEL}")).succeed();
        assert_eq!(played.uploads(), 1);
        assert_eq!(site.cached().len(), 1);
    });
}

#[test]
fn async_takes_ansibles_own_path() {
    with_each_ansible(|site| {
        let played = site
            .play(&format!(
                "{KERNEL}\n  async: 20\n  poll: 1\n  register: it\n- debug: var=it"
            ))
            .succeed();
        assert!(played.text.contains("async_wrapper"), "{}", played.text);
        assert_eq!(played.uploads(), 0);
        assert!(!kernel(&played, 0).is_empty());
    });
}

#[test]
fn gathering_works_without_python_on_the_target() {
    with_each_ansible(|site| {
        let tasks = "- debug: msg=\"{{ ansible_facts.os_family }} {{ ansible_facts.kernel }}\"";
        let played = site
            .run(tasks, |run| {
                run.keywords = "gather_facts: true".to_owned();
                run.inventory += " ansible_python_interpreter=/nonexistent/python \
                                  ansible_facts_modules='[\"ondol.cloud.facts\"]'";
            })
            .succeed();
        let system = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
        assert!(
            played.message().ends_with(system.trim()),
            "{}",
            played.message()
        );
    });
}

#[test]
fn become_uses_the_other_users_home() {
    let Some(user) = ThrowawayUser::create() else {
        return;
    };
    let methods: Vec<&str> = ["su", "sudo"]
        .into_iter()
        .filter(|method| find(method).is_some())
        .collect();
    with_each_ansible(|site| {
        for method in &methods {
            user.clear_cache();
            let run = || {
                let tasks = "- ondol.cloud.facts:\n    gather_subset: min\n    filter: [ansible_user_id, ansible_effective_user_id]";
                site.run(tasks, |run| {
                    run.keywords += &format!(
                        "\nbecome: true\nbecome_user: {}\nbecome_method: {method}",
                        user.name
                    );
                })
                .succeed()
            };
            let first = run();
            let facts = &first.result(0)["ansible_facts"];
            assert_eq!(facts["ansible_user_id"], json!(user.name), "{method}");
            assert_eq!(first.uploads(), 1, "{method}");
            assert_eq!(run().uploads(), 0, "{method}");
            let kept = fs::read_dir(format!("{}/.cache/ondol", user.home)).expect("a cache");
            assert_eq!(kept.count(), 1, "{method}");
            assert_eq!(
                site.cached(),
                [""; 0],
                "{method}: not in the home of who connects"
            );
        }
    });
}

/// A user for one test, removed with its home.
struct ThrowawayUser {
    name: String,
    home: String,
}

impl ThrowawayUser {
    fn create() -> Option<Self> {
        if !is_root() || find("useradd").is_none() {
            skip("making a user needs root and useradd");
            return None;
        }
        let name = format!("ondol-t{}", std::process::id());
        let made = Command::new("useradd")
            .args(["--create-home", "--shell", "/bin/sh", &name])
            .status();
        assert!(made.expect("useradd runs").success());
        Some(Self {
            home: format!("/home/{name}"),
            name,
        })
    }

    fn clear_cache(&self) {
        let _ = fs::remove_dir_all(format!("{}/.cache", self.home));
    }
}

impl Drop for ThrowawayUser {
    fn drop(&mut self) {
        let _ = Command::new("userdel")
            .args(["--remove", &self.name])
            .output();
    }
}

#[test]
fn mistakes_in_a_task_are_explained() {
    with_each_ansible(|site| {
        for (arguments, message) in [
            (
                "filtr: x",
                "filtr: unknown parameter, did you mean \"filter\"? (known are gather_subset, filter)",
            ),
            ("filter: {a: 1}", "filter: expected a list, got a map"),
            (
                "filter: [true]",
                "filter[0]: expected a string, got the boolean true: quote it",
            ),
            (
                "gather_subset: [hardwear]",
                "gather_subset[0]: \"hardwear\" is no subset; known are all, min, hardware, network, virtual",
            ),
        ] {
            let played = site
                .play(&format!("- ondol.cloud.facts:\n    {arguments}"))
                .fail();
            assert_eq!(played.message(), message);
            assert_eq!(played.result(0)["changed"], json!(false));
        }
    });
}

#[test]
fn check_mode_and_omit_and_strings_from_a_command_line() {
    with_each_ansible(|site| {
        let tasks = "- ondol.cloud.facts:\n    gather_subset: \"{{ none_such | default(omit) }}\"\n    filter: \"{{ wanted }}\"";
        let played = site
            .run(tasks, |run| {
                run.arguments.extend(
                    [
                        "--check",
                        "--diff",
                        "-e",
                        "wanted=ansible_kernel,ansible_system",
                    ]
                    .map(ToOwned::to_owned),
                );
            })
            .succeed();
        let facts = &played.result(0)["ansible_facts"];
        assert_eq!(facts["ansible_system"], json!("Linux"));
        assert_eq!(facts["gather_subset"], json!(["all"]));
        assert_eq!(played.result(0)["changed"], json!(false));
    });
}

#[test]
fn different_modules_in_one_play_share_the_binary() {
    with_each_ansible(|site| {
        let Some(sshd) = Sshd::start(site) else {
            return;
        };
        let tasks = format!(
            "{KERNEL}
- ondol.cloud.reachability:
    from: here
    targets: [{{name: there, address: 127.0.0.1}}]
    count: 1
    tcp_ports: [{}]
- ondol.cloud.host_identity:
    hostname: ondol-check-mode
  check_mode: true
  diff: true",
            sshd.port()
        );
        let before = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        let played = site
            .run(&tasks, |run| run.inventory = sshd.inventory())
            .succeed();
        assert_eq!(played.uploads(), 1, "{}", played.text);
        assert_eq!(played.result(1)["reachable"], json!(true));
        assert_eq!(played.result(1)["changed"], json!(false));
        let checked = played.result(2);
        assert_eq!(checked["changed"], json!(true));
        assert!(checked["steps"].as_array().is_some_and(|it| !it.is_empty()));
        assert!(
            checked["diff"].is_object() || checked["diff"].is_array(),
            "{checked}"
        );
        let after = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        assert_eq!(before, after, "check mode must not change the machine");
    });
}

#[test]
fn module_defaults_and_groups_reach_the_module() {
    with_each_ansible(|site| {
        let facts = "- ondol.cloud.facts:";
        // The defaults of one module must not reach another: they would be unknown parameters there.
        let both = format!("{facts}\n- ondol.cloud.reachability:\n    targets: []");
        for (name, tasks) in [
            ("ondol.cloud.facts", both.as_str()),
            ("group/ondol.cloud.all", facts),
        ] {
            let played = site
                .run(tasks, |run| {
                    run.keywords += &format!("\nmodule_defaults:\n  {name}:\n    filter: ansible_kernel\n    gather_subset: min");
                })
                .succeed();
            let facts = played.result(0)["ansible_facts"].as_object();
            let names: Vec<&String> = facts.expect("facts").keys().collect();
            assert!(names.contains(&&"ansible_kernel".to_owned()), "{names:?}");
            assert!(
                !names.contains(&&"ansible_system".to_owned()),
                "{name}: {names:?}"
            );
        }
    });
}

#[test]
fn environment_and_arguments_are_in_no_command_line_and_no_file() {
    const SECRET: &str = "correct-horse-battery";
    with_each_ansible(|site| {
        fs::write(site.path("vars.json"), json!({"token": SECRET}).to_string()).expect("write");
        let tasks = "- ondol.cloud.facts:\n    gather_subset: min\n    filter: [ansible_kernel, \"{{ token }}\"]\n  environment:\n    TOKEN: \"{{ token }}\"\n- ondol.cloud.facts:\n    gather_subset: min\n    filter: ansible_env\n  environment:\n    TOKEN: \"{{ token }}\"\n  no_log: true\n  register: seen\n- assert:\n    that: seen.ansible_facts.ansible_env.TOKEN == token\n    quiet: true";
        let played = site
            .run(tasks, |run| {
                run.arguments = ["-vvvv", "-e", "@vars.json"]
                    .map(ToOwned::to_owned)
                    .to_vec();
                run.environment
                    .push(("ANSIBLE_KEEP_REMOTE_FILES".to_owned(), "1".to_owned()));
            })
            .succeed();
        let first_play = played
            .text
            .split("TASK [assert]")
            .next()
            .unwrap_or_default();
        // The echo of the arguments, which a user asks for with -vvv, is not a command line.
        let commands: Vec<&str> = first_play
            .lines()
            .filter(|line| line.contains("EXEC"))
            .collect();
        assert!(!commands.is_empty());
        for line in &commands {
            assert!(!line.contains(SECRET), "{line}");
        }
        let censored = &played.result(1);
        assert!(censored["censored"].is_string(), "{censored}");
        let found = Command::new("grep")
            .args(["-rl", "--exclude=vars.json", "--exclude=results", SECRET])
            .arg(site.path(""))
            .output()
            .expect("grep runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    });
}

/// Keys whose value may differ from setup's, and why.
const MAY_DIFFER: &[(&str, &str)] = &[
    ("ansible_date_time", "time goes on"),
    (
        "ansible_env",
        "Python's interpreter and the shell add variables",
    ),
    ("ansible_loadavg", "it changes, and setup does not round"),
    ("ansible_memfree_mb", "it changes"),
    ("ansible_memory_mb", "it changes"),
    (
        "ansible_mounts",
        "free space changes; compared without it below",
    ),
    (
        "ansible_python",
        "only the interpreter's path is known without running it",
    ),
    ("ansible_swapfree_mb", "it changes"),
    ("ansible_uptime_seconds", "time goes on"),
];

/// Keys that older versions of setup do not give.
const MAY_BE_MISSING: &[(&str, &str)] = &[("ansible_flags", "since ansible-core 2.17")];

#[test]
fn facts_are_those_of_setup() {
    with_each_ansible(|site| {
        // Interfaces and mounts of other tests come and go, so that two looks may differ; not three times though.
        let mut differing = Vec::new();
        for _ in 0..3 {
            let played = site
                .play("- ondol.cloud.facts:\n- ansible.builtin.setup:")
                .succeed();
            differing = differences(
                &played.result(0)["ansible_facts"],
                &played.result(1)["ansible_facts"],
            );
            if differing.is_empty() {
                break;
            }
        }
        assert_eq!(differing, [""; 0]);
    });
}

fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let listed = |list: &[(&str, &str)], key: &str| list.iter().any(|(it, _)| *it == key);
    let mut differing = Vec::new();
    for (key, value) in ours.as_object().expect("facts") {
        match theirs.get(key) {
            _ if listed(MAY_DIFFER, key) => {}
            None if listed(MAY_BE_MISSING, key) => {}
            Some(other) if same(value, other) => {}
            other => differing.push(format!("{key}: {value} and not {other:?}")),
        }
    }
    let mounts = |facts: &Value| -> Value {
        let mounts = facts["ansible_mounts"].as_array().expect("mounts").iter();
        mounts
            .map(|it| {
                json!([
                    it["mount"],
                    it["device"],
                    it["fstype"],
                    it["options"],
                    it["size_total"],
                    it["uuid"]
                ])
            })
            .collect()
    };
    if !same(&mounts(ours), &mounts(theirs)) {
        differing.push(format!(
            "mounts: {} and not {}",
            mounts(ours),
            mounts(theirs)
        ));
    }
    for (fact, key) in [
        ("ansible_date_time", "date"),
        ("ansible_date_time", "tz"),
        ("ansible_date_time", "tz_dst"),
        ("ansible_date_time", "tz_offset"),
        ("ansible_date_time", "weekday"),
        ("ansible_date_time", "weeknumber"),
        ("ansible_env", "HOME"),
        ("ansible_python", "executable"),
    ] {
        if ours[fact][key] != theirs[fact][key] {
            differing.push(format!(
                "{fact}.{key}: {} and not {}",
                ours[fact][key], theirs[fact][key]
            ));
        }
    }
    differing
}

/// Equal but for the order of a list, which setup takes from a set or a folder.
fn same(a: &Value, b: &Value) -> bool {
    let sorted = |list: &[Value]| {
        let mut texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    };
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            sorted(a) == sorted(b)
                || (a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| same(a, b))))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn ansible_doc_knows_every_module() {
    with_each_ansible(|site| {
        let listed = site
            .ansible("ansible-doc")
            .args(["-l", "--json", "ondol.cloud"])
            .output()
            .expect("ansible-doc runs");
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("a list");
        let names = Command::new(env!("CARGO_BIN_EXE_ondol-module"))
            .arg("--list")
            .output()
            .expect("runs");
        for name in String::from_utf8_lossy(&names.stdout).lines() {
            let full = format!("ondol.cloud.{name}");
            assert!(listed[&full].is_string(), "{full}: {listed}");
            let shown = site
                .ansible("ansible-doc")
                .arg(&full)
                .output()
                .expect("runs");
            let text = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.status.success(), "{full}");
            assert!(text.contains("EXAMPLES"), "{text}");
            assert!(!text.contains("ERROR"), "{text}");
        }
    });
}

#[test]
fn the_tarball_installs_and_runs() {
    const GALAXY_LIMIT: u64 = 20_000_000;
    with_each_ansible(|site| {
        let installed = site.path("installed").display().to_string();
        let galaxy = |arguments: &[&str]| {
            let output = site
                .ansible("ansible-galaxy")
                .args(arguments)
                // It would find the tree that the tarball was made from, and have nothing to do.
                .env("ANSIBLE_COLLECTIONS_PATH", &installed)
                .output()
                .expect("ansible-galaxy runs");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let tree = site.collection().display().to_string();
        galaxy(&["collection", "build", &tree]);
        let tarball = site.path("ondol-cloud-0.1.0.tar.gz");
        let size = fs::metadata(&tarball).expect("a tarball").len();
        assert!(size < GALAXY_LIMIT, "{size} bytes");
        galaxy(&[
            "collection",
            "install",
            "--offline",
            "-p",
            &installed,
            &tarball.display().to_string(),
        ]);
        let played = site
            .run(
                &format!("{KERNEL}\n{KERNEL}\n  async: 20\n  poll: 1"),
                |run| {
                    run.environment
                        .push(("ANSIBLE_COLLECTIONS_PATH".to_owned(), installed));
                },
            )
            .succeed();
        assert!(played.text.contains("/installed/"), "{}", played.text);
        assert_eq!(kernel(&played, 0), kernel(&played, 1));
    });
}
