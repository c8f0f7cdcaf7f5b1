//! Tables of clusters and what each of their nodes may do.

use super::*;
use crate::facts::Wsrep;
use crate::wsrep::Grastate;

const A: &str = "aaaaaaaa-e696-11f1-8be0-3e7392a1b536";
const B: &str = "bbbbbbbb-e696-11f1-8be0-3e7392a1b536";

fn uuid(text: &str) -> Uuid {
    Uuid::try_from(text.to_owned()).unwrap()
}

fn rules() -> Rules {
    let member = |name: &str, address: &str| (name.to_owned(), address.to_owned());
    Rules {
        members: BTreeMap::from([member("db-01", "10.0.0.1"), member("db-02", "10.0.0.2")]),
        bootstrap: true,
        ..Rules::default()
    }
}

fn empty(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        server: ServerState::Stopped,
        founding: false,
        wsrep: None,
        grastate: None,
        position: None,
        position_known: true,
        databases: Vec::new(),
        half_copied: false,
    }
}

fn stopped(name: &str, history: &str, seqno: i64) -> NodeFacts {
    NodeFacts {
        grastate: Some(Grastate {
            uuid: Some(uuid(history)),
            seqno: -1,
            safe_to_bootstrap: false,
        }),
        position: Some(Position {
            uuid: uuid(history),
            seqno,
        }),
        databases: vec!["app".to_owned()],
        ..empty(name)
    }
}

fn primary(name: &str, history: &str, component: &[&str]) -> NodeFacts {
    NodeFacts {
        server: ServerState::Running,
        wsrep: Some(Wsrep {
            primary: true,
            ready: true,
            state: "Synced".to_owned(),
            cluster_uuid: Some(uuid(history)),
            size: u32::try_from(component.len()).unwrap(),
            component: component.iter().map(|it| (*it).to_owned()).collect(),
            provider_version: String::new(),
        }),
        ..stopped(name, history, 9)
    }
}

fn cut_off(name: &str, history: &str, seqno: i64) -> NodeFacts {
    let mut node = primary(name, history, &[]);
    node.wsrep = node.wsrep.map(|it| Wsrep {
        primary: false,
        ready: false,
        ..it
    });
    node.position = Some(Position {
        uuid: uuid(history),
        seqno,
    });
    node
}

fn both(rules: &Rules, one: &NodeFacts, two: &NodeFacts) -> [Result<Way, Refusal>; 2] {
    let all = [one.clone(), two.clone()];
    [way(rules, one, &all), way(rules, two, &all)]
}

fn joins(name: &str, address: &str, stops_first: bool) -> Result<Way, Refusal> {
    Ok(Way::Join {
        founder: Some(Founder {
            name: name.to_owned(),
            address: address.to_owned(),
            stops_first,
        }),
    })
}

fn founds(history: &str, seqno: i64) -> Result<Way, Refusal> {
    Ok(Way::Found {
        from: Some(Position {
            uuid: uuid(history),
            seqno,
        }),
    })
}

#[test]
fn a_new_cluster_is_founded_by_the_first_node_and_only_when_told() {
    let (one, two) = (empty("db-01"), empty("db-02"));
    assert_eq!(
        both(&rules(), &one, &two),
        [
            Ok(Way::Found { from: None }),
            joins("db-01", "10.0.0.1", false)
        ]
    );
    let not_told = Rules {
        bootstrap: false,
        ..rules()
    };
    assert_eq!(
        both(&not_told, &one, &two),
        [Err(Refusal::NoPrimary), Err(Refusal::NoPrimary)]
    );
}

#[test]
fn a_new_cluster_is_founded_where_the_data_are() {
    let two = NodeFacts {
        server: ServerState::Running,
        databases: vec!["app".to_owned()],
        ..empty("db-02")
    };
    assert_eq!(
        both(&rules(), &empty("db-01"), &two),
        [
            joins("db-02", "10.0.0.2", true),
            Ok(Way::Found { from: None })
        ]
    );
    let one = NodeFacts {
        databases: vec!["shop".to_owned()],
        ..empty("db-01")
    };
    let refused = Err(Refusal::SeveralStandalone(vec![
        "db-01".to_owned(),
        "db-02".to_owned(),
    ]));
    assert_eq!(both(&rules(), &one, &two), [refused.clone(), refused]);
}

#[test]
fn after_all_nodes_died_the_most_advanced_one_founds() {
    assert_eq!(
        both(&rules(), &stopped("db-01", A, 8), &stopped("db-02", A, 9)),
        [joins("db-02", "10.0.0.2", false), founds(A, 9)]
    );
    // They may wait for each other in vain, having started by themselves.
    let starting = |node: NodeFacts| NodeFacts {
        server: ServerState::Starting,
        ..node
    };
    assert_eq!(
        both(
            &rules(),
            &starting(stopped("db-01", A, 9)),
            &starting(stopped("db-02", A, 8))
        ),
        [founds(A, 9), joins("db-01", "10.0.0.1", true)]
    );
}

#[test]
fn of_equals_the_marked_one_founds_then_the_first() {
    let marked = |mut node: NodeFacts| {
        if let Some(grastate) = &mut node.grastate {
            grastate.safe_to_bootstrap = true;
        }
        node
    };
    assert_eq!(
        both(&rules(), &stopped("db-01", A, 8), &stopped("db-02", A, 8))[0],
        founds(A, 8)
    );
    assert_eq!(
        both(
            &rules(),
            &stopped("db-01", A, 8),
            &marked(stopped("db-02", A, 8))
        )[1],
        founds(A, 8)
    );
    // The mark does not outweigh a transaction.
    assert_eq!(
        both(
            &rules(),
            &stopped("db-01", A, 9),
            &marked(stopped("db-02", A, 8))
        )[0],
        founds(A, 9)
    );
}

#[test]
fn different_histories_are_never_put_together() {
    let (one, two) = (stopped("db-01", A, 8), stopped("db-02", B, 900));
    let refused = Err(Refusal::Histories(vec![
        (
            "db-01".to_owned(),
            Position {
                uuid: uuid(A),
                seqno: 8,
            },
        ),
        (
            "db-02".to_owned(),
            Position {
                uuid: uuid(B),
                seqno: 900,
            },
        ),
    ]));
    assert_eq!(both(&rules(), &one, &two), [refused.clone(), refused]);
}

#[test]
fn what_is_unknown_is_not_taken_for_absent() {
    let one = stopped("db-01", A, 8);
    let alone = way(&rules(), &one, &[]);
    assert_eq!(alone, Err(Refusal::Unknown(vec!["db-02".to_owned()])));
    let lost = Rules {
        lost: BTreeSet::from(["db-02".to_owned()]),
        ..rules()
    };
    assert_eq!(way(&lost, &one, &[]), founds(A, 8));
    let dark = NodeFacts {
        position: None,
        position_known: false,
        ..stopped("db-02", A, 0)
    };
    assert_eq!(
        both(&rules(), &one, &dark)[0],
        Err(Refusal::NoPosition("db-02".to_owned()))
    );
}

#[test]
fn nothing_is_founded_beside_a_primary_component() {
    let one = primary("db-01", A, &["db-01", "garb"]);
    assert_eq!(
        both(&rules(), &one, &stopped("db-02", A, 900)),
        [Ok(Way::Member), Ok(Way::Join { founder: None })]
    );
    assert_eq!(
        both(&rules(), &one, &cut_off("db-02", A, 900)),
        [Ok(Way::Member), Ok(Way::Wait)]
    );
    let founding = NodeFacts {
        founding: true,
        server: ServerState::Starting,
        ..stopped("db-01", A, 8)
    };
    assert_eq!(
        both(&rules(), &founding, &stopped("db-02", A, 9)),
        [Ok(Way::Wait), joins("db-01", "10.0.0.1", false)]
    );
}

#[test]
fn a_node_that_lost_its_quorum_founds_only_when_told() {
    let (one, two) = (cut_off("db-01", A, 9), stopped("db-02", A, 8));
    assert_eq!(
        both(&rules(), &one, &two),
        [founds(A, 9), joins("db-01", "10.0.0.1", true)]
    );
    let not_told = Rules {
        bootstrap: false,
        ..rules()
    };
    assert_eq!(both(&not_told, &one, &two)[0], Err(Refusal::NoPrimary));
}

#[test]
fn two_primary_components_stop_everything() {
    let split = Err(Refusal::SplitBrain("db-01".to_owned(), "db-02".to_owned()));
    let alone = |name: &str, history: &str| primary(name, history, &[name]);
    assert_eq!(
        both(&rules(), &alone("db-01", A), &alone("db-02", A)),
        [split.clone(), split.clone()]
    );
    assert_eq!(
        both(
            &rules(),
            &primary("db-01", A, &["db-01", "db-02"]),
            &primary("db-02", B, &["db-01", "db-02"])
        ),
        [split.clone(), split]
    );
    // One look was before db-02 came, the other after.
    assert_eq!(
        both(
            &rules(),
            &alone("db-01", A),
            &primary("db-02", A, &["db-01", "db-02"])
        ),
        [Ok(Way::Member), Ok(Way::Member)]
    );
}

#[test]
fn data_are_overwritten_only_when_told_or_when_they_are_half_a_copy() {
    let one = primary("db-01", A, &["db-01"]);
    let own = NodeFacts {
        databases: vec!["shop".to_owned()],
        ..empty("db-02")
    };
    assert_eq!(
        both(&rules(), &one, &own)[1],
        Err(Refusal::OwnData {
            name: "db-02".to_owned(),
            databases: vec!["shop".to_owned()]
        })
    );
    let other = stopped("db-02", B, 900);
    assert_eq!(
        both(&rules(), &one, &other)[1],
        Err(Refusal::OtherHistory {
            name: "db-02".to_owned(),
            own: uuid(B),
            cluster: uuid(A)
        })
    );
    let told = Rules {
        discard_local_data: true,
        ..rules()
    };
    let half = NodeFacts {
        half_copied: true,
        ..own.clone()
    };
    for (rules, node) in [(&told, &own), (&told, &other), (&rules(), &half)] {
        assert_eq!(both(rules, &one, node)[1], Ok(Way::Join { founder: None }));
    }
}
