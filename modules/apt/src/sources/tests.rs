//! Plans as tables, and the real apt on a root of the test's own with a repository on this disk.

use std::process::Command;

use ondol_kit::{Mode, converge};

use super::*;

fn desired(json: &str) -> Desired {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    Desired::try_from(serde_json::from_value::<Params>(value).unwrap()).unwrap()
}

const TEXT: &str = "Types: deb\nURIs: http://m/a\nSuites: b\nComponents: main\n";

fn wanted(exclusive: bool, refresh: bool) -> Desired {
    Desired {
        files: BTreeMap::from([
            ("gone.sources".to_owned(), String::new()),
            ("site.sources".to_owned(), TEXT.to_owned()),
        ]),
        exclusive,
        refresh,
    }
}

fn current(files: &[(&str, &str)], outdated: &[&str]) -> Current {
    Current {
        files: files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect(),
        outdated: outdated.iter().map(|it| (*it).to_owned()).collect(),
    }
}

#[test]
fn what_differs_is_planned_and_nothing_else() {
    let site = ("sources.list.d/site.sources", TEXT);
    let table: [(Desired, Current, &[&str]); 8] = [
        (
            wanted(false, true),
            current(&[], &[]),
            &[
                "write the source /etc/apt/sources.list.d/site.sources",
                "fetch the package lists (the sources change)",
            ],
        ),
        (wanted(false, true), current(&[site], &[]), &[]),
        (
            wanted(false, true),
            current(&[site], &["http://m/a/dists/b"]),
            &["fetch the package lists (not what is offered now: http://m/a/dists/b)"],
        ),
        (
            wanted(false, false),
            current(&[("sources.list.d/site.sources", "other")], &[]),
            &["change the source /etc/apt/sources.list.d/site.sources"],
        ),
        (
            wanted(false, false),
            current(&[site, ("sources.list.d/gone.sources", "x")], &[]),
            &["remove the source /etc/apt/sources.list.d/gone.sources"],
        ),
        // Sources that are not named stay, unless they are to be the only ones.
        (
            wanted(false, true),
            current(&[site, ("sources.list", "deb http://x y z\n")], &[]),
            &[],
        ),
        (
            wanted(true, true),
            current(
                &[
                    site,
                    ("sources.list", "deb http://x y z\n"),
                    ("sources.list.d/a.list", "# nothing\n\n"),
                    ("sources.list.d/z.list", "deb http://z y z\n"),
                ],
                &[],
            ),
            &[
                "put the source /etc/apt/sources.list aside as sources.list.disabled",
                "put the source /etc/apt/sources.list.d/z.list aside as sources.list.d/z.list.disabled",
                "fetch the package lists (the sources change)",
            ],
        ),
        (wanted(true, true), current(&[site], &[]), &[]),
    ];
    for (desired, current, expected) in table {
        let steps: Vec<String> = plan(&desired, &current)
            .iter()
            .map(Step::to_string)
            .collect();
        assert_eq!(steps, expected, "{current:?}");
    }
}

#[test]
fn a_source_with_a_mistake_or_a_name_that_apt_ignores_is_refused() {
    let table = [
        (
            r#"{"sources": {"a b": "Types: deb"}}"#,
            "sources.a b: a source's name is made of letters, digits, hyphens, underscores and dots",
        ),
        (
            r#"{"sources": {"site": "Types: deb"}}"#,
            "sources.site: paragraph 1 has no value for URIs",
        ),
    ];
    for (json, expected) in table {
        let params: Params = serde_json::from_str(json).unwrap();
        assert_eq!(Desired::try_from(params).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_lists_are_found_in_what_apt_prints() {
    let printed = "'http://m/debian/dists/bookworm/InRelease' m_debian_dists_bookworm_InRelease 0 \n\
                   'http://m/debian/dists/bookworm/main/binary-amd64/Packages.xz' m_debian_dists_bookworm_main_binary-amd64_Packages 0 \n\
                   W: something\n";
    assert_eq!(
        repositories(printed),
        [Repository {
            uri: "http://m/debian/dists/bookworm".to_owned(),
            list: "m_debian_dists_bookworm".to_owned(),
        }]
    );
}

/// A root for apt and a repository beside it, whose index names one package.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in [
            "root/etc/apt/sources.list.d",
            "root/etc/apt/apt.conf.d",
            "root/etc/apt/preferences.d",
            "root/etc/apt/trusted.gpg.d",
            "root/var/lib/apt/lists/partial",
            "root/var/lib/dpkg",
            "root/var/cache/apt/archives/partial",
            "repository/dists/b/main/binary-amd64",
        ] {
            fs::create_dir_all(place.path(folder)).unwrap();
        }
        fs::write(place.path("root/var/lib/dpkg/status"), "").unwrap();
        place.offer("1.0");
        place
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// What the repository offers from now on.
    fn offer(&self, version: &str) {
        let index = format!(
            "Package: hello\nVersion: {version}\nArchitecture: amd64\nFilename: h.deb\nSize: 1\nSHA256: {:064}\n\n",
            0
        );
        let sum = Command::new("sh")
            .args([
                "-c",
                "printf %s \"$1\" | sha256sum | cut -d' ' -f1",
                "sh",
                &index,
            ])
            .output()
            .unwrap();
        let release = format!(
            "Suite: b\nCodename: b\nArchitectures: amd64\nComponents: main\nDate: Sat, 21 Nov 2026 10:00:00 UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
            String::from_utf8(sum.stdout).unwrap().trim(),
            index.len()
        );
        fs::write(
            self.path("repository/dists/b/main/binary-amd64/Packages"),
            index,
        )
        .unwrap();
        fs::write(self.path("repository/dists/b/Release"), release).unwrap();
    }

    fn desired(&self, extra: &str) -> Desired {
        let uri = self.path("repository");
        // `copy:` and not `file:`, so that the lists are files of their own as they are with a server.
        let text = format!(
            "Types: deb\\nURIs: copy:{}\\nSuites: b\\nComponents: main\\nArchitectures: amd64\\nTrusted: yes\\n",
            uri.display()
        );
        desired(&format!(r#"{{"sources": {{"site": "{text}"}}{extra}}}"#))
    }

    fn run(&self, mode: Mode, desired: &Desired) -> Result<Vec<String>, String> {
        let mut module = AptSources {
            root: self.path("root"),
        };
        let outcome = converge(&mut module, desired, mode);
        match outcome.error {
            Some(error) => Err(format!("{error:#}")),
            None => Ok(outcome.steps),
        }
    }

    /// What apt now knows of the package, compressed lists or not.
    fn listed(&self) -> String {
        let root = format!("Dir={}", self.path("root").display());
        let output = Command::new("apt-cache")
            .args(["-o", &root, "policy", "hello"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn lists_follow_the_repository_and_a_failure_keeps_the_old_ones() {
    let place = Place::new();
    fs::write(
        place.path("root/etc/apt/sources.list"),
        "deb copy:/nowhere b main\n",
    )
    .unwrap();
    let desired = place.desired(r#", "exclusive": true"#);

    let predicted = place.run(Mode::Check, &desired).unwrap();
    assert_eq!(predicted.len(), 3, "{predicted:?}");
    assert!(
        !place
            .path("root/etc/apt/sources.list.d/site.sources")
            .exists()
    );
    assert_eq!(place.run(Mode::Apply, &desired).unwrap(), predicted);
    assert!(
        place.listed().contains("Candidate: 1.0"),
        "{}",
        place.listed()
    );
    assert!(place.path("root/etc/apt/sources.list.disabled").exists());
    assert_eq!(place.run(Mode::Apply, &desired).unwrap(), [""; 0]);

    place.offer("2.0");
    assert_eq!(place.run(Mode::Check, &desired).unwrap().len(), 1);
    assert!(place.listed().contains("Candidate: 1.0"));
    assert_eq!(place.run(Mode::Apply, &desired).unwrap().len(), 1);
    assert!(place.listed().contains("Candidate: 2.0"));
    assert_eq!(place.run(Mode::Apply, &desired).unwrap(), [""; 0]);

    let aside = place.path("aside");
    fs::rename(place.path("repository"), &aside).unwrap();
    let error = place.run(Mode::Apply, &desired).unwrap_err();
    assert!(error.contains("repository/dists/b/Release"), "{error}");
    assert!(place.listed().contains("Candidate: 2.0"));
    fs::rename(&aside, place.path("repository")).unwrap();

    // The index is not the one that the release names.
    place.offer("3.0");
    let index = place.path("repository/dists/b/main/binary-amd64/Packages");
    fs::write(index, "Package: evil\nVersion: 9\n").unwrap();
    let error = place.run(Mode::Apply, &desired).unwrap_err();
    assert!(
        error.contains("Hash Sum mismatch") || error.contains("unexpected size"),
        "{error}"
    );
    assert!(
        place.listed().contains("Candidate: 2.0"),
        "{}",
        place.listed()
    );
}

#[test]
fn nobody_is_asked_when_the_lists_are_of_no_interest() {
    let place = Place::new();
    let desired = place.desired(r#", "refresh": false"#);
    assert_eq!(place.run(Mode::Apply, &desired).unwrap().len(), 1);
    fs::remove_dir_all(place.path("repository")).unwrap();
    assert_eq!(place.run(Mode::Apply, &desired).unwrap(), [""; 0]);
}
