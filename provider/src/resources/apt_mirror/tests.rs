//! Tables of cases.

use std::collections::BTreeMap;

use ondol_image::Distribution;
use ondol_mirror::apt::{self, Snapshot};
use tfplugin::{Attr, Diagnostics, Resource as _, Set, path};

use super::plan::CHANGES_SHOWN;
use super::validate::config_path;
use super::{AptMirrorResource, Mode, Model, Transport, UpstreamModel, changes, needs_sync, plan};
use crate::mirror::Refresh;

fn model() -> Model {
    Model {
        name: "site".into(),
        path: "/srv/mirror".into(),
        distribution: Distribution::Debian.into(),
        suite: "bookworm".into(),
        packages: Set(vec!["nginx".to_owned()]).into(),
        everything: false.into(),
        recommends: false.into(),
        essential: false.into(),
        allow_missing: false.into(),
        keep: 3.into(),
        refresh: Refresh::OnChange.into(),
        base_url: "http://mirror.example/".into(),
        site_key_file: "/var/lib/key".into(),
        cache_dir: "/cache".into(),
        ..Model::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        id: "20260101T000000Z-0123456789ab".to_owned(),
        digest: ondol_mirror::Digest::of(b"x"),
        name: "site".to_owned(),
        suite: "bookworm".to_owned(),
        components: vec!["main".to_owned()],
        architectures: vec!["amd64".to_owned()],
        package_count: 12,
        size_bytes: 345,
        missing: Vec::new(),
        bom: "/srv/mirror/apt/site/snapshots/x/sbom.json".into(),
        manifest: "/srv/mirror/apt/site/snapshots/x/manifest.json".into(),
        public_key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n".to_owned(),
        changed: true,
        requests: 1,
        bytes_received: 1,
    }
}

fn published() -> Model {
    let mut model = plan(None, model()).with_snapshot(&snapshot(), vec![snapshot().id]);
    model.changes = vec!["12 added, 0 changed, 0 removed, 0 unchanged".to_owned()].into();
    model
}

#[test]
fn a_plan_without_a_change_is_empty_and_an_input_opens_the_content() {
    let prior = published();
    assert_eq!(plan(Some(&prior), prior.clone()), prior);

    let more = Model {
        packages: Set(vec!["nginx".to_owned(), "curl".to_owned()]).into(),
        ..prior.clone()
    };
    let planned = plan(Some(&prior), more);
    assert!(
        planned.snapshot_id.is_unknown()
            && planned.changes.is_unknown()
            && planned.package_count.is_unknown()
    );
    let told = |model: &Model| {
        (
            model.sources.clone(),
            model.local_sources.clone(),
            model.public_key.clone(),
        )
    };
    assert_eq!(told(&planned), told(&prior), "machines are told the same");

    let other = plan(
        Some(&prior),
        Model {
            suite: "trixie".into(),
            ..prior.clone()
        },
    );
    assert!(other.sources.is_unknown() && other.local_sources.is_unknown());
    let triggered = [("month".to_owned(), "2".to_owned())].into();
    let triggered: Attr<BTreeMap<_, _>> = Attr::Known(triggered);
    let planned = plan(
        Some(&prior),
        Model {
            triggers: triggered,
            ..prior.clone()
        },
    );
    assert!(planned.snapshot_id.is_unknown());
}

#[test]
fn another_address_changes_the_text_for_clients_and_nothing_else() {
    let prior = published();
    let moved = Model {
        base_url: "http://10.0.0.1".into(),
        // As the framework hands it over: open, because an attribute differs.
        sources: Attr::Unknown,
        content_digest: Attr::Unknown,
        package_count: Attr::Unknown,
        ..prior.clone()
    };
    let planned = plan(Some(&prior), moved.clone());
    let expected = moved.with_snapshot(&snapshot(), vec![snapshot().id]);
    assert_eq!(planned, expected);
    assert!(
        planned
            .sources
            .as_str()
            .unwrap()
            .contains("URIs: http://10.0.0.1/apt/site/current\n")
    );
    assert!(
        planned
            .local_sources
            .as_str()
            .unwrap()
            .contains("URIs: file:/srv/mirror/apt/site/current\n")
    );
    let without = plan(
        Some(&prior),
        Model {
            base_url: Attr::Null,
            ..prior.clone()
        },
    );
    assert_eq!(without.sources, Attr::Null);
}

#[test]
fn damage_and_another_pin_ask_for_a_sync() {
    let prior = published();
    let damaged = Model {
        drift: vec!["pool/x.deb: missing".to_owned()].into(),
        ..prior.clone()
    };
    let planned = plan(Some(&damaged), damaged.clone());
    assert_eq!(planned.drift, Vec::new().into());
    assert!(planned.snapshot_id.is_unknown());

    let pinned = plan(
        Some(&prior),
        Model {
            pin: "older".into(),
            ..prior.clone()
        },
    );
    assert_eq!(pinned.snapshot_id, "older".into());
    let at_pin = Model {
        pin: snapshot().id.into(),
        ..prior.clone()
    };
    assert!(
        needs_sync(Some(&prior), &at_pin),
        "the configuration has changed"
    );
    assert!(!needs_sync(Some(&at_pin), &at_pin));
    let moved_away = Model {
        snapshot_id: "newer".into(),
        ..at_pin.clone()
    };
    assert!(needs_sync(Some(&moved_away), &at_pin));
}

#[test]
fn changes_are_summed_up_and_only_some_are_named() {
    let entry = |name: &str, version: &str| format!("{name} {version}");
    let parse = |list: &[String]| -> Vec<(String, String, String)> {
        let split = |text: &String| {
            text.split_once(' ')
                .map(|(a, b)| (a.to_owned(), "amd64".to_owned(), b.to_owned()))
        };
        list.iter().filter_map(split).collect()
    };
    let borrow =
        |list: &[(String, String, String)]| -> Vec<(String, String, String)> { list.to_vec() };
    let delta = |before: &[String], after: &[String]| {
        let (before, after) = (borrow(&parse(before)), borrow(&parse(after)));
        apt::closure::delta(
            before
                .iter()
                .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())),
            after
                .iter()
                .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())),
        )
    };
    let one = delta(
        &[entry("a", "1"), entry("b", "1"), entry("c", "1")],
        &[entry("b", "2"), entry("c", "1"), entry("d", "1")],
    );
    assert_eq!(
        changes(&one),
        [
            "1 added, 1 changed, 1 removed, 1 unchanged",
            "+ d 1",
            "~ b 1 -> 2",
            "- a 1"
        ]
    );
    let many: Vec<String> = (0..100)
        .map(|index| entry(&format!("p{index:03}"), "1"))
        .collect();
    let shown = changes(&delta(&[], &many));
    assert_eq!(shown.len(), CHANGES_SHOWN + 2);
    assert_eq!(shown.last().map(String::as_str), Some("... and 60 more"));
    assert_eq!(changes(&delta(&many, &many)), [""; 0]);
}

#[test]
fn a_configuration_that_cannot_be_names_its_attribute() {
    let paths = |model: &Model| -> Vec<String> {
        let mut diagnostics = Diagnostics::new();
        AptMirrorResource::validate(model, &mut diagnostics);
        diagnostics.iter().map(|one| one.path.to_string()).collect()
    };
    assert_eq!(paths(&model()), [""; 0]);
    let twice = UpstreamModel {
        keyring: "k".into(),
        keyring_file: "/k".into(),
        ..UpstreamModel::default()
    };
    let cases = [
        (
            Model {
                packages: Attr::Null,
                ..model()
            },
            vec!["packages"],
        ),
        (
            Model {
                everything: true.into(),
                ..model()
            },
            vec!["packages"],
        ),
        (
            Model {
                packages: Set(vec!["a b".to_owned()]).into(),
                ..model()
            },
            vec!["packages"],
        ),
        (
            Model {
                site_key_file: "/srv/mirror/keys/x".into(),
                ..model()
            },
            vec!["site_key_file"],
        ),
        (
            Model {
                upstreams: vec![twice].into(),
                ..model()
            },
            vec!["upstreams[0].keyring"],
        ),
        (
            Model {
                packages: Attr::Null,
                transport: Transport {
                    mode: Mode::ImportArchive.into(),
                    ..Transport::default()
                }
                .into(),
                ..model()
            },
            vec!["transport.archive", "transport.keyring_file"],
        ),
    ];
    for (wrong, expected) in cases {
        assert_eq!(paths(&wrong), expected);
    }
    assert_eq!(
        config_path("upstreams[1].uris"),
        path!["upstreams", 1usize, "uris"]
    );
    assert_eq!(config_path("site_key"), path!["site_key_file"]);
}
