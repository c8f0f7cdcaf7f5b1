//! Whole root trees before and after, from `fixtures/identity/<case>/{before,after,params.json,steps.txt}`.

use std::collections::BTreeMap;
use std::path::Path;

use ondol_kit::{Mode, converge};

use super::*;

struct Fake(String);

impl Kernel for Fake {
    fn hostname(&self) -> anyhow::Result<String> {
        Ok(self.0.clone())
    }

    fn set_hostname(&mut self, name: &str) -> anyhow::Result<()> {
        self.0 = name.to_owned();
        Ok(())
    }
}

fn module(root: &Path) -> HostIdentity {
    HostIdentity {
        root: root.to_owned(),
        kernel: Box::new(Fake("debian".to_owned())),
        notices: Notices::default(),
    }
}

/// Every file and link below `root`. A machine-id that looks made by us reads as `<new>`, once.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_symlink() {
                found.insert(
                    name,
                    format!("-> {}", fs::read_link(&path).unwrap().display()),
                );
            } else if meta.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_symlink() {
            symlink(fs::read_link(&path).unwrap(), target).unwrap();
        } else if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

#[test]
fn every_fixture_becomes_what_it_should_and_stays_so() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/identity");
    let mut cases = 0;
    for case in fs::read_dir(fixtures).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let params: Params =
            serde_json::from_str(&fs::read_to_string(case.join("params.json")).unwrap()).unwrap();
        let desired = Desired::try_from(params).unwrap();
        let steps = fs::read_to_string(case.join("steps.txt")).unwrap();
        let steps: Vec<&str> = steps.lines().collect();
        let temp = tempfile::tempdir().unwrap();
        copy(&case.join("before"), temp.path());
        let before = tree(temp.path());
        let mut module = module(temp.path());

        let check = converge(&mut module, &desired, Mode::Check);
        assert!(check.error.is_none(), "{name}: {:?}", check.error);
        assert_eq!(check.steps, steps, "{name}: check");
        assert_eq!(tree(temp.path()), before, "{name}: check changed something");

        let apply = converge(&mut module, &desired, Mode::Apply);
        assert!(apply.error.is_none(), "{name}: {:?}", apply.error);
        assert_eq!(apply.steps, steps, "{name}: apply");
        let mut expected = tree(&case.join("after"));
        let mut after = tree(temp.path());
        for (path, text) in &mut expected {
            if text == "<new>\n" {
                let made = after.get_mut(path).unwrap();
                assert_eq!(
                    bad_machine_id(Some(made.trim_end()), &[]),
                    None,
                    "{name}: {made}"
                );
                *made = "<new>\n".to_owned();
            }
        }
        assert_eq!(after, expected, "{name}: after");
        if let Some(hostname) = &desired.hostname {
            assert_eq!(module.kernel.hostname().unwrap(), *hostname, "{name}");
        }

        let again = converge(&mut module, &desired, Mode::Apply);
        assert_eq!(again.steps, Vec::<String>::new(), "{name}: again");
        cases += 1;
    }
    assert!(cases >= 4, "only {cases} fixtures were found");
}

#[test]
fn bad_parameters_are_refused_by_name() {
    let table = [
        (
            r#"{"hostname": "Bad_Name"}"#,
            "hostname: \"Bad_Name\" is not a host name (up to 64 of lower-case letters, digits, inner `-`; labels joined by `.`)",
        ),
        (
            r#"{"domain": "x..y"}"#,
            "domain: \"x..y\" is not a domain name",
        ),
        (
            r#"{"hosts": {"a": "10.0.0"}}"#,
            "hosts.a: \"10.0.0\" is not an address",
        ),
        (
            r#"{"hosts": {"a b": "10.0.0.1"}}"#,
            "hosts.a b: \"a b\" is not a domain name",
        ),
        (
            r#"{"timezone": "../../etc/shadow"}"#,
            "timezone: \"../../etc/shadow\" is not the name of a time zone such as Asia/Seoul",
        ),
        (
            r#"{"timezone": "/etc/passwd"}"#,
            "timezone: \"/etc/passwd\" is not the name of a time zone such as Asia/Seoul",
        ),
    ];
    for (json, expected) in table {
        let params: Params = serde_json::from_str(json).unwrap();
        assert_eq!(Desired::try_from(params).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_zone_that_the_machine_does_not_have_names_the_parameter() {
    let temp = tempfile::tempdir().unwrap();
    let params = Params {
        timezone: Some("Asia/Nowhere".to_owned()),
        ..Params::default()
    };
    let error = module(temp.path())
        .observe(&Desired::try_from(params).unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "timezone: \"Asia/Nowhere\" is not in /usr/share/zoneinfo (package tzdata)"
    );
}

#[test]
fn a_machine_id_is_judged_by_the_rules_of_systemd() {
    let good = "0123456789abcdef0123456789abcdef";
    let taken = [good.to_owned()];
    for (id, taken, expected) in [
        (None, &[][..], Some("it is missing")),
        (Some(""), &[], Some("it is empty")),
        (Some("uninitialized"), &[], Some("it is uninitialized")),
        (Some("0123"), &[], Some("it is malformed")),
        (
            Some("0123456789ABCDEF0123456789ABCDEF"),
            &[],
            Some("it is malformed"),
        ),
        (
            Some("00000000000000000000000000000000"),
            &[],
            Some("it is all zeros"),
        ),
        (Some(good), &taken, Some("another machine has it")),
        (Some(good), &[], None),
    ] {
        assert_eq!(bad_machine_id(id, taken), expected, "{id:?}");
    }
}

#[test]
fn a_kept_line_that_says_otherwise_is_a_warning() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("etc")).unwrap();
    fs::write(
        temp.path().join("etc/hosts"),
        "127.0.0.1 localhost\n10.0.0.9 db\n",
    )
    .unwrap();
    let params: Params = serde_json::from_str(r#"{"hosts": {"db": "10.0.0.1"}}"#).unwrap();
    let outcome = converge(
        &mut module(temp.path()),
        &Desired::try_from(params).unwrap(),
        Mode::Apply,
    );
    assert_eq!(
        outcome.notices.warnings,
        [
            "/etc/hosts: the line \"10.0.0.9 db\" outside the managed block says otherwise; it was kept"
        ]
    );
}
