//! How the last change of a guest stands, as the guest itself tells.

/// State of the last change since boot. A reboot forgets it, together with a change that was not confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing was begun since the guest booted.
    #[default]
    None,
    /// Applied or about to be; the guest takes it back unless it is confirmed in time.
    Pending {
        id: String,
        /// The new state is running (addresses may still take a moment to appear).
        applied: bool,
        seconds_left: u64,
    },
    /// Being confirmed or taken back at this moment.
    Settling { id: String },
    /// Durable.
    Confirmed { id: String },
    /// Taken back; the old state runs.
    RolledBack { id: String, reason: String },
    /// Its guard died without settling it. The next `begin` takes it back first; so does a reboot.
    Abandoned { id: String },
}

/// `lines` without their leading `status `.
pub(crate) fn parse_status_lines(lines: &[&str]) -> Status {
    let value = |key: &str| {
        lines
            .iter()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    };
    let id = value("id").unwrap_or_default().to_owned();
    match value("state") {
        Some("pending") => Status::Pending {
            id,
            applied: value("applied") == Some("yes"),
            seconds_left: value("seconds_left")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        },
        Some("settling") => Status::Settling { id },
        Some("confirmed") => Status::Confirmed { id },
        Some("rolled-back") => Status::RolledBack {
            id,
            reason: value("reason").unwrap_or("no reason recorded").to_owned(),
        },
        Some("abandoned") => Status::Abandoned { id },
        _ => Status::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read() {
        let id = || "c1".to_owned();
        for (text, expected) in [
            ("state none", Status::None),
            (
                "state pending|id c1|applied yes|seconds_left 12",
                Status::Pending {
                    id: id(),
                    applied: true,
                    seconds_left: 12,
                },
            ),
            (
                "state pending|id c1|seconds_left -1",
                Status::Pending {
                    id: id(),
                    applied: false,
                    seconds_left: 0,
                },
            ),
            ("state settling|id c1", Status::Settling { id: id() }),
            ("state confirmed|id c1", Status::Confirmed { id: id() }),
            (
                "state rolled-back|id c1|reason not confirmed within 5 s",
                Status::RolledBack {
                    id: id(),
                    reason: "not confirmed within 5 s".to_owned(),
                },
            ),
            ("state abandoned|id c1", Status::Abandoned { id: id() }),
        ] {
            let lines: Vec<&str> = text.split('|').collect();
            assert_eq!(parse_status_lines(&lines), expected, "{text}");
        }
    }
}
