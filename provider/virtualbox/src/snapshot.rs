//! A VM's snapshots, read from its settings file, which alone has names, descriptions and their order without ambiguity. Pure.

use roxmltree::{Document, Node};
use uuid::Uuid;

/// A snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    /// When it was taken, in UTC: `2026-11-22T20:31:25Z`.
    pub taken_at: String,
}

/// All snapshots in a `.vbox` file, parents before their children.
pub fn snapshots(text: &str) -> Vec<Snapshot> {
    let Ok(document) = Document::parse(text) else {
        return Vec::new();
    };
    let is_snapshot = |node: &Node<'_, '_>| node.tag_name().name() == "Snapshot";
    document
        .descendants()
        .filter(is_snapshot)
        .filter_map(|node| {
            let description = node
                .children()
                .find(|child| child.tag_name().name() == "Description");
            Some(Snapshot {
                id: node.attribute("uuid")?.parse().ok()?,
                name: node.attribute("name")?.to_owned(),
                description: description
                    .and_then(|it| it.text())
                    .unwrap_or_default()
                    .to_owned(),
                taken_at: node.attribute("timeStamp").unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read_with_those_that_build_on_them() {
        let found = snapshots(include_str!("../fixtures/7.2.22/snapshots.vbox"));
        let brief: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|it| {
                (
                    it.name.as_str(),
                    it.description.as_str(),
                    it.taken_at.as_str(),
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("c", "d", "2026-11-22T20:39:26Z"),
                ("before it", "", "2026-11-22T20:39:26Z")
            ]
        );
        assert_eq!(
            found[0].id.to_string(),
            "a4f77716-9d09-48b3-8026-9104bcff8b52"
        );
        assert_eq!(snapshots(include_str!("../fixtures/7.2.22/a-01.vbox")), []);
    }
}
