use serde_json::{Value, json};

use super::plan::{WATCH_TEXT, complaint, ganesha_text, kernel_text, main_text, trial_text};
use super::*;

fn desired(change: Value) -> Result<Desired, Invalid> {
    let mut json = json!({
        "name": "team",
        "path": "/srv/team",
        "clients": [{"hosts": "10.0.0.1", "squash": "none"}, {"hosts": "10.0.0.0/24", "access": "read_only"}],
    });
    for (key, value) in change.as_object().unwrap() {
        json[key] = value.clone();
    }
    Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
}

fn export(change: Value) -> Export {
    desired(change).unwrap().export.unwrap()
}

const TEAM: &str = "# Managed by ondol.cloud.nfs_export.
EXPORT {
  Export_Id = 1;
  Path = \"/srv/team\";
  Pseudo = \"/srv/team\";
  Protocols = 4;
  SecType = sys;
  Access_Type = NONE;
  CLIENT {
    Clients = 10.0.0.1;
    Access_Type = RW;
    Squash = No_Root_Squash;
  }
  CLIENT {
    Clients = 10.0.0.0/24;
    Access_Type = RO;
    Squash = Root_Squash;
  }
  FSAL {
    Name = VFS;
  }
}
";

fn ganesha(name: &str, text: &str) -> Current {
    Current {
        exports: BTreeMap::from([(name.to_owned(), text.to_owned())]),
        main: Some(main_text(&BTreeSet::from([name]))),
        unit: Unit {
            active: true,
            enabled: true,
            started_at: 20,
        },
        written_at: 10,
        ..Current::default()
    }
}

fn kernel(text: Option<&str>) -> Current {
    Current {
        has_kernel_server: true,
        exports: text
            .map(|it| ("team".to_owned(), it.to_owned()))
            .into_iter()
            .collect(),
        main: None,
        ..ganesha("team", "")
    }
}

#[test]
fn texts_are_those_of_the_servers_manuals() {
    assert_eq!(ganesha_text(&export(json!({})), 1), TEAM);
    assert_eq!(
        kernel_text(&export(json!({}))),
        "# Managed by ondol.cloud.nfs_export.\n\
         \"/srv/team\" 10.0.0.1(rw,sync,no_subtree_check,no_root_squash) 10.0.0.0/24(ro,sync,no_subtree_check,root_squash)\n"
    );
    let cephfs = export(
        json!({"path": "/", "pseudo": "/shared", "cephfs": {"filesystem": "shared", "user": "nfs"}}),
    );
    assert!(ganesha_text(&cephfs, 2).ends_with(
        "  FSAL {\n    Name = CEPH;\n    Filesystem = \"shared\";\n    User_Id = \"nfs\";\n  }\n}\n"
    ));
    assert!(main_text(&BTreeSet::from(["a", "b"])).ends_with(
        "}\n%include \"/etc/ganesha/exports.d/a.conf\"\n%include \"/etc/ganesha/exports.d/b.conf\"\n"
    ));
    let trial = trial_text(TEAM, 20_490, Path::new("/run/x"));
    assert!(
        trial.contains("NFS_Port = 20490;")
            && trial.ends_with(&TEAM.replace("Export_Id = 1;", "Export_Id = 65534;")),
        "{trial}"
    );
}

#[test]
fn an_export_is_made_changed_left_alone_and_removed() {
    let wider = json!({"clients": [{"hosts": "10.0.0.0/24"}]});
    let absent = json!({"state": "absent"});
    let kernel_line = kernel_text(&export(json!({})));
    let cephfs = json!({"cephfs": {"filesystem": "shared", "user": "nfs"}});
    let cephfs_text = ganesha_text(&export(cephfs.clone()), 1);
    let watched = Current {
        watch: Watch {
            unit: Unit {
                active: true,
                enabled: true,
                started_at: 20,
            },
            text: Some(WATCH_TEXT.to_owned()),
            written_at: 10,
        },
        ..ganesha("team", &cephfs_text)
    };
    let ill_watched = |change: fn(&mut Watch)| {
        let mut current = watched.clone();
        change(&mut current.watch);
        current
    };
    let watch = "write and start nfs-ganesha-evicted.service, which restarts NFS-Ganesha when Ceph has shut it out";
    let late = Current {
        written_at: 30,
        ..ganesha("team", TEAM)
    };
    for (change, current, wanted) in [
        (
            json!({}),
            Current::default(),
            vec![
                "create the export team of NFS-Ganesha",
                "write /etc/ganesha/ganesha.conf",
                "enable NFS-Ganesha",
                "start NFS-Ganesha",
            ],
        ),
        (json!({}), ganesha("team", TEAM), vec![]),
        (
            cephfs.clone(),
            Current::default(),
            vec![
                "create the export team of NFS-Ganesha",
                "write /etc/ganesha/ganesha.conf",
                "enable NFS-Ganesha",
                "start NFS-Ganesha",
                watch,
            ],
        ),
        (cephfs.clone(), watched.clone(), vec![]),
        (cephfs.clone(), ganesha("team", &cephfs_text), vec![watch]),
        (
            cephfs.clone(),
            ill_watched(|it| it.unit.active = false),
            vec![watch],
        ),
        (
            cephfs.clone(),
            ill_watched(|it| it.unit.enabled = false),
            vec![watch],
        ),
        (
            cephfs.clone(),
            ill_watched(|it| it.text = Some("other".to_owned())),
            vec![watch],
        ),
        // Killed before its restart.
        (
            cephfs.clone(),
            ill_watched(|it| it.written_at = 30),
            vec![watch],
        ),
        (
            absent.clone(),
            watched.clone(),
            vec![
                "write /etc/ganesha/ganesha.conf",
                "remove the export team of NFS-Ganesha",
                "restart NFS-Ganesha with its new exports",
                "stop and remove nfs-ganesha-evicted.service",
            ],
        ),
        // Killed before the restart.
        (
            json!({}),
            late,
            vec!["restart NFS-Ganesha with its new exports"],
        ),
        (
            wider.clone(),
            ganesha("team", TEAM),
            vec![
                "change the export team of NFS-Ganesha",
                "restart NFS-Ganesha with its new exports",
            ],
        ),
        (
            absent.clone(),
            ganesha("team", TEAM),
            vec![
                "write /etc/ganesha/ganesha.conf",
                "remove the export team of NFS-Ganesha",
                "restart NFS-Ganesha with its new exports",
            ],
        ),
        (absent.clone(), Current::default(), vec![]),
        (
            json!({}),
            kernel(None),
            vec![
                "create the export team of the kernel's NFS server",
                "let the kernel's NFS server know",
            ],
        ),
        (json!({}), kernel(Some(&kernel_line)), vec![]),
        (
            absent,
            kernel(Some(&kernel_line)),
            vec![
                "remove the export team of the kernel's NFS server",
                "let the kernel's NFS server know",
            ],
        ),
        // A file system of Ceph's is Ganesha's, whatever the kernel has.
        (
            cephfs,
            Current {
                has_kernel_server: true,
                ..ganesha("team", TEAM)
            },
            vec![
                "change the export team of NFS-Ganesha",
                "restart NFS-Ganesha with its new exports",
                watch,
            ],
        ),
    ] {
        let desired = desired(change.clone()).unwrap();
        assert_eq!(refusal(&desired, &current), None, "{change}");
        let steps: Vec<String> = plan(&desired, &current)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(steps, wanted, "{change}");
    }
}

#[test]
fn two_exports_have_two_numbers_and_two_places() {
    let current = ganesha("other", &TEAM.replace("/srv/team", "/srv/other"));
    let steps = plan(&desired(json!({})).unwrap(), &current);
    let Some(Step::WriteExport { text, .. }) = steps.first() else {
        panic!("{steps:?}");
    };
    assert!(text.contains("Export_Id = 2;"), "{text}");
    assert_eq!(
        refusal(&desired(json!({"pseudo": "/srv/other"})).unwrap(), &current).as_deref(),
        Some("clients find the export other at /srv/other already")
    );
    assert_eq!(
        refusal(
            &desired(json!({"server": "kernel"})).unwrap(),
            &Current::default()
        )
        .as_deref(),
        Some("this machine's kernel has no NFS server; `server: ganesha` needs none")
    );
}

#[test]
fn what_cannot_be_written_down_is_refused() {
    for change in [
        json!({"name": "../x"}),
        json!({"path": "srv"}),
        json!({"path": null}),
        json!({"path": "/a\"b"}),
        json!({"pseudo": "/"}),
        json!({"clients": []}),
        json!({"clients": [{"hosts": "10.0.0.1(rw)"}]}),
        json!({"clients": [{"hosts": "a"}, {"hosts": "a"}]}),
        json!({"server": "kernel", "cephfs": {"filesystem": "shared", "user": "nfs"}}),
    ] {
        assert!(desired(change.clone()).is_err(), "{change}");
    }
}

/// As NFS-Ganesha 4.3 says it.
#[test]
fn a_complaint_is_in_ganeshas_own_words() {
    let at = "23/11/2026 05:49:43 : epoch 6b0 : nfs-server : nfs-ganesha-1040[main] ";
    let log = format!(
        "{at}create_export :FSAL :CRIT :Unable to read Ceph configuration for /srv.\n\
         {at}main :NFS STARTUP :WARN :No export entries found in configuration file !!!\n\
         {at}config_errs_to_log :CONFIG :CRIT :Config File (/run/dry/c.conf:3): Unknown parameter (Nope)\n\
         {at}gsh_dbus_pkginit :DBUS :CRIT :server failed becoming primary bus owner (org.ganesha.nfsd, 2)\n"
    );
    assert_eq!(
        complaint(&log).as_deref(),
        Some(
            "Unable to read Ceph configuration for /srv.; Config File (/run/dry/c.conf:3): Unknown parameter (Nope)"
        )
    );
    assert_eq!(complaint(log.lines().nth(3).unwrap()), None);
}
