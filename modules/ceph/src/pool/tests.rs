use serde_json::json;

use super::io::Usage;
use super::*;
use crate::cluster::parse;
use crate::map::tests::osd_map;

fn try_desired(json: serde_json::Value) -> Result<Desired, Invalid> {
    Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
}

fn desired(change: serde_json::Value) -> Desired {
    let mut json = json!({"name": "p1"});
    for (key, value) in change.as_object().unwrap() {
        json[key] = value.clone();
    }
    try_desired(json).unwrap()
}

fn rules() -> BTreeSet<String> {
    BTreeSet::from(["replicated_rule".to_owned(), "r_host".to_owned()])
}

fn absent() -> Current {
    Current {
        rules: rules(),
        ..Current::default()
    }
}

/// A pool of the captured map.
fn present(name: &str) -> Current {
    let map = osd_map();
    let pool = map
        .pools
        .into_iter()
        .find(|it| it.pool_name == name)
        .unwrap();
    Current {
        profile: map
            .erasure_code_profiles
            .get(&pool.erasure_code_profile)
            .cloned(),
        pool: Some(pool),
        rule: Some("replicated_rule".to_owned()),
        rules: rules(),
        objects: None,
    }
}

fn lines(desired: &Desired, current: &Current) -> Vec<String> {
    assert_eq!(refusal(desired, current), None);
    plan(desired, current)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_pool_has_its_sizes_before_anyone_may_use_it() {
    let desired = desired(json!({
        "size": 3, "min_size": 2, "crush_rule": "r_host", "pg_num": 8, "pg_autoscale": "on",
        "applications": ["rbd"], "quota_bytes": 1000, "quota_objects": 0
    }));
    assert_eq!(
        lines(&desired, &absent()),
        [
            "create the replicated pool with 3 copies by the rule r_host",
            "set min_size to 2",
            "set the quota max_bytes to 1000",
            "enable the application rbd",
        ]
    );
}

#[test]
fn an_erasure_coded_pool_brings_its_profile() {
    let desired = desired(
        json!({"erasure": {"k": 2, "m": 1, "overwrites": true}, "min_size": 2, "applications": ["a"]}),
    );
    assert_eq!(
        lines(&desired, &absent()),
        [
            "create the erasure profile p1 (crush-failure-domain=host k=2 m=1)",
            "create the erasure-coded pool by the profile p1",
            "set allow_ec_overwrites to true",
            "set min_size to 2",
            "enable the application a",
        ]
    );
    // As a run that was killed between the two leaves it.
    let mut current = absent();
    current.profile = present("ec1").profile;
    assert_eq!(
        lines(&desired, &current)[0],
        "create the erasure-coded pool by the profile p1"
    );
    current
        .profile
        .as_mut()
        .unwrap()
        .insert("k".into(), "4".into());
    assert_eq!(
        refusal(&desired, &current).as_deref(),
        Some("an erasure profile p1 is there and differs: k is \"4\", not \"2\"")
    );
}

#[test]
fn what_is_as_asked_or_not_named_is_left_alone() {
    for json in [
        json!({}),
        json!({"size": 3, "min_size": 2, "applications": ["rados"], "quota_bytes": 1_000_000}),
        json!({"crush_rule": "replicated_rule", "pg_autoscale": "on", "pg_num": 256}),
    ] {
        assert_eq!(lines(&desired(json), &present("p1")), [""; 0]);
    }
    let erasure = try_desired(json!({"name": "ec1", "erasure": {"k": 2, "m": 1}})).unwrap();
    assert_eq!(lines(&erasure, &present("ec1")), [""; 0]);
}

#[test]
fn what_can_be_changed_is_changed_in_place() {
    for (json, wanted) in [
        (
            json!({"size": 4}),
            vec!["set size to 4 (is 3)", "set min_size to 2 (is 2)"],
        ),
        (
            json!({"size": 4, "min_size": 3}),
            vec!["set size to 4 (is 3)", "set min_size to 3 (is 2)"],
        ),
        (
            json!({"size": 2, "min_size": 1, "allow_less_redundancy": true}),
            vec!["set size to 2 (is 3)", "set min_size to 1 (is 2)"],
        ),
        (
            json!({"crush_rule": "r_host"}),
            vec!["set crush_rule to r_host (is replicated_rule)"],
        ),
        (
            json!({"pg_autoscale": "off", "pg_num": 64}),
            vec![
                "set pg_autoscale_mode to off (is on)",
                "set pg_num to 64 (is 1)",
            ],
        ),
        (
            json!({"quota_bytes": 0, "quota_objects": 5}),
            vec![
                "set the quota max_bytes to 0 (is 1000000)",
                "set the quota max_objects to 5 (is 0)",
            ],
        ),
        (
            json!({"applications": ["rados", "rbd"]}),
            vec!["enable the application rbd"],
        ),
    ] {
        assert_eq!(lines(&desired(json), &present("p1")), wanted);
    }
}

#[test]
fn redundancy_and_data_are_not_lost_without_a_word() {
    for (name, json, wanted) in [
        (
            "p1",
            json!({"size": 2}),
            "size of the pool p1 would fall from 3 to 2; `allow_less_redundancy: true` allows it",
        ),
        (
            "p1",
            json!({"min_size": 1}),
            "min_size of the pool p1 would fall from 2 to 1; `allow_less_redundancy: true` allows it",
        ),
        (
            "p1",
            json!({"min_size": 4}),
            "min_size 4 is more than the pool p1 has",
        ),
        (
            "p1",
            json!({"crush_rule": "nope"}),
            "there is no CRUSH rule nope",
        ),
        (
            "p1",
            json!({"erasure": {"k": 2, "m": 1}}),
            "the pool p1 is replicated, and stays so",
        ),
        (
            "ec1",
            json!({"size": 3}),
            "the pool p1 is erasure-coded, and stays so",
        ),
        (
            "ec1",
            json!({"erasure": {"k": 4, "m": 1}}),
            "the erasure profile of the pool p1 cannot be changed: k is \"2\", not \"4\"",
        ),
    ] {
        let reason = refusal(&desired(json), &present(name)).expect(wanted);
        assert!(reason.starts_with(wanted), "{reason}");
    }
    let mut full = present("p1");
    full.objects = Some(3);
    assert_eq!(
        refusal(&desired(json!({"state": "absent"})), &full).as_deref(),
        Some("the pool p1 holds 3 objects; `delete_data: true` removes them with it")
    );
    assert_eq!(
        lines(
            &desired(json!({"state": "absent", "delete_data": true})),
            &full
        ),
        ["delete the pool with its 3 objects"]
    );
    assert_eq!(
        lines(&desired(json!({"state": "absent"})), &absent()),
        [""; 0]
    );
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    for (json, wanted) in [
        (json!({"name": "a/b"}), "name: "),
        (
            json!({"name": "a", "size": 3, "min_size": 4}),
            "min_size: 4 is more than there are copies",
        ),
        (
            json!({"name": "a", "size": 3, "erasure": {"k": 2, "m": 1}}),
            "size: an erasure-coded pool has k + m",
        ),
        (
            json!({"name": "a", "min_size": 1, "erasure": {"k": 2, "m": 1}}),
            "min_size: 2 shards are needed",
        ),
        (
            json!({"name": "a", "min_size": 4, "erasure": {"k": 2, "m": 1}}),
            "min_size: 4 is more",
        ),
    ] {
        let error = try_desired(json).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn the_objects_of_a_real_cluster_are_counted() {
    let text = r#"{"stats":{"total_bytes":1},"stats_by_class":{},"pools":[{"name":"p1","id":2,"stats":{"stored":0,"objects":7,"kb_used":0}}]}"#;
    let usage: Usage = parse(text).unwrap();
    assert_eq!(
        (usage.pools[0].name.as_str(), usage.pools[0].stats.objects),
        ("p1", 7)
    );
}
