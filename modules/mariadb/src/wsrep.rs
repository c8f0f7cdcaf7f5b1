//! Where a node stands in the history of its cluster, read from the files and words of Galera. Pure.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Identity of one history of transactions. Never the null UUID: that stands for "no history".
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String")]
pub struct Uuid(String);

/// What is not a UUID, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the UUID of a history")]
pub struct NotAUuid(String);

impl TryFrom<String> for Uuid {
    type Error = NotAUuid;

    fn try_from(text: String) -> Result<Self, NotAUuid> {
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if groups != [8, 4, 4, 4, 12] || !digits || is_null(&text) {
            return Err(NotAUuid(text));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

fn is_null(text: &str) -> bool {
    text.bytes().all(|b| b == b'0' || b == b'-')
}

impl Uuid {
    /// `Ok(None)`: the null UUID.
    fn parse(text: &str) -> Result<Option<Self>, NotAUuid> {
        if text.len() == 36 && is_null(text) {
            return Ok(None);
        }
        Self::try_from(text.to_owned()).map(Some)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last transaction of a history that a node holds, as `UUID:seqno`. `None` in its place: it holds no history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The history.
    pub uuid: Uuid,
    /// Number of the transaction; 0 before the first.
    #[schemars(range(min = 0))]
    pub seqno: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uuid, self.seqno)
    }
}

/// `UUID:seqno` as the server writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written(pub(crate) Option<Position>);

impl FromStr for Written {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (uuid, seqno) = text
            .split_once(':')
            .ok_or_else(|| anyhow::anyhow!("{text:?} is not UUID:seqno"))?;
        let seqno: i64 = seqno
            .parse()
            .map_err(|_| anyhow::anyhow!("{text:?} is not UUID:seqno"))?;
        let position = Uuid::parse(uuid)?.and_then(|uuid| {
            // -1 is Galera's "undefined".
            (seqno >= 0).then_some(Position { uuid, seqno })
        });
        Ok(Self(position))
    }
}

/// `grastate.dat`: what Galera noted about the node when it last ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grastate {
    /// Nothing for the null UUID: the node holds no history, or one that Galera gave up.
    pub uuid: Option<Uuid>,
    /// -1 while the server runs and after a crash: then only the server's recovery knows the position.
    #[schemars(range(min = -1))]
    pub seqno: i64,
    /// The node was the last one to end in order.
    pub safe_to_bootstrap: bool,
}

impl Grastate {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let field = |name: &str| {
            text.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let needed = |name: &str| field(name).ok_or_else(|| anyhow::anyhow!("no {name}"));
        let seqno = needed("seqno")?;
        Ok(Self {
            uuid: Uuid::parse(needed("uuid")?)?,
            seqno: seqno
                .parse()
                .map_err(|_| anyhow::anyhow!("seqno {seqno:?} is not a number"))?,
            // Older Galera wrote no such line.
            safe_to_bootstrap: field("safe_to_bootstrap") == Some("1"),
        })
    }

    /// `None`: only the server's recovery knows.
    pub(crate) fn position(&self) -> Option<Position> {
        Some(Position {
            uuid: self.uuid.clone()?,
            seqno: (self.seqno >= 0).then_some(self.seqno)?,
        })
    }
}

/// The text of `grastate.dat` with this node marked as the one to found a component; other lines stay.
pub(crate) fn marked_safe(text: &str) -> String {
    let mut found = false;
    let mut lines: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.trim_start().starts_with("safe_to_bootstrap:") {
                found = true;
                "safe_to_bootstrap: 1"
            } else {
                line
            }
        })
        .collect();
    if !found {
        lines.push("safe_to_bootstrap: 1");
    }
    lines.join("\n") + "\n"
}

/// From the log of `mariadbd --wsrep-recover`.
pub(crate) fn recovered(log: &str) -> anyhow::Result<Option<Position>> {
    let text = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("WSREP: Recovered position:"))
        .map(|(_, position)| position.trim())
        .ok_or_else(|| anyhow::anyhow!("the server named no recovered position"))?;
    // With GTIDs, the position of the binary log follows after a comma.
    let text = text.split([',', ' ']).next().unwrap_or(text);
    Ok(text.parse::<Written>()?.0)
}

/// From the arguments of a server that is starting: where systemd's unit let it recover to.
pub(crate) fn start_position(arguments: &[String]) -> anyhow::Result<Option<Written>> {
    arguments
        .iter()
        .find_map(|it| {
            let it = it.strip_prefix("--wsrep")?;
            it.strip_prefix("_start_position=")
                .or_else(|| it.strip_prefix("-start-position="))
        })
        .map(|text| text.split(',').next().unwrap_or(text).parse())
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "39eb9282-e696-11f1-8be0-3e7392a1b536";

    fn at(seqno: i64) -> Position {
        Position {
            uuid: Uuid(A.to_owned()),
            seqno,
        }
    }

    #[test]
    fn grastate_is_read_in_all_its_states() {
        let text = |uuid: &str, seqno: &str, safe: &str| {
            format!("# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\n{safe}")
        };
        for (text, state, position) in [
            (
                text(A, "-1", "safe_to_bootstrap: 0\n"),
                (Some(A), -1, false),
                None,
            ),
            (
                text(A, "12", "safe_to_bootstrap: 1\n"),
                (Some(A), 12, true),
                Some(at(12)),
            ),
            (text(A, "7", ""), (Some(A), 7, false), Some(at(7))),
            (
                text(
                    "00000000-0000-0000-0000-000000000000",
                    "-1",
                    "safe_to_bootstrap: 1\n",
                ),
                (None, -1, true),
                None,
            ),
        ] {
            let grastate = Grastate::parse(&text).unwrap();
            let uuid = grastate.uuid.as_ref().map(|it| it.0.as_str());
            assert_eq!((uuid, grastate.seqno, grastate.safe_to_bootstrap), state);
            assert_eq!(grastate.position(), position);
        }
    }

    #[test]
    fn a_grastate_that_cannot_be_right_is_an_error() {
        for (text, error) in [
            ("", "no seqno"),
            ("uuid: x\nseqno: 1\n", "\"x\" is not the UUID of a history"),
            (
                "uuid: 39eb9282-e696-11f1-8be0-3e7392a1b536\nseqno: soon\n",
                "seqno \"soon\" is not a number",
            ),
            ("seqno: 1\n", "no uuid"),
        ] {
            let found = Grastate::parse(text).unwrap_err().to_string();
            assert_eq!(found, error, "{text:?}");
        }
    }

    #[test]
    fn marking_changes_one_line() {
        let text =
            "# GALERA saved state\nversion: 2.1\nuuid:    u\nseqno:   -1\nsafe_to_bootstrap: 0\n";
        assert_eq!(
            marked_safe(text),
            text.replace("bootstrap: 0", "bootstrap: 1")
        );
        assert_eq!(marked_safe("seqno: 1"), "seqno: 1\nsafe_to_bootstrap: 1\n");
    }

    #[test]
    fn recovery_names_the_position() {
        let log = |position: &str| {
            format!(
                "2026-11-22 17:12:19 0 [Note] Server socket created on IP: '0.0.0.0', port: '3306'.\n\
                 2026-11-22 17:12:19 0 [Note] WSREP: Recovered position: {position}\n"
            )
        };
        assert_eq!(recovered(&log(&format!("{A}:8"))).unwrap(), Some(at(8)));
        assert_eq!(
            recovered(&log(&format!("{A}:8,0-1-14"))).unwrap(),
            Some(at(8))
        );
        assert_eq!(
            recovered(&log("00000000-0000-0000-0000-000000000000:-1")).unwrap(),
            None
        );
        assert!(recovered("[ERROR] InnoDB: no space left").is_err());
        assert!(recovered(&log("soon")).is_err());
    }

    #[test]
    fn a_starting_server_says_where_it_begins() {
        let arguments = |text: &str| vec!["/usr/sbin/mariadbd".to_owned(), text.to_owned()];
        for (argument, found) in [
            (
                format!("--wsrep_start_position={A}:8"),
                Some(Written(Some(at(8)))),
            ),
            (
                format!("--wsrep-start-position={A}:8,0-1-2"),
                Some(Written(Some(at(8)))),
            ),
            (
                "--wsrep_start_position=00000000-0000-0000-0000-000000000000:-1".to_owned(),
                Some(Written(None)),
            ),
            ("--basedir=/usr".to_owned(), None),
        ] {
            assert_eq!(start_position(&arguments(&argument)).unwrap(), found);
        }
    }
}
