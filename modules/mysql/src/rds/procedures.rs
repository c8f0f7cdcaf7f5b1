//! The procedures by which RDS lets its master user manage replication, and their names by version:
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/mysql-stored-proc-replicating.html>. When one is called is decided elsewhere.

use anyhow::Context as _;

use crate::client::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Procedure {
    /// Host, port, user, password, TLS, delay.
    Set,
    Start,
    Stop,
    Reset,
    /// UUID, first and last number: counts transactions as executed. From 8.0.37 on.
    Count,
}

impl Procedure {
    /// From 8.4 on, and up to 8.0.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Set => [
                "rds_set_external_source_with_auto_position",
                "rds_set_external_master_with_auto_position",
            ],
            Self::Start => ["rds_start_replication"; 2],
            Self::Stop => ["rds_stop_replication"; 2],
            Self::Reset => ["rds_reset_external_source", "rds_reset_external_master"],
            Self::Count => ["rds_set_external_source_gtid_purged"; 2],
        }
    }
}

/// The name that this server has for it.
pub(super) fn procedure(client: &mut Client, procedure: Procedure) -> anyhow::Result<&'static str> {
    let rows = client.query(
        "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'mysql' AND ROUTINE_TYPE = 'PROCEDURE'",
    )?;
    let there: Vec<&str> = rows.iter().map(|row| row.text(0)).collect();
    choose(procedure, &there).with_context(|| {
        format!(
            "MySQL {} there has no procedure mysql.{}: it is no RDS instance, is too old, or the user is not its master user",
            client.version,
            procedure.names()[0]
        )
    })
}

fn choose(procedure: Procedure, there: &[&str]) -> Option<&'static str> {
    let names = procedure.names();
    names.into_iter().find(|name| there.contains(name))
}

pub(super) fn call(client: &mut Client, what: Procedure, arguments: &str) -> anyhow::Result<()> {
    let name = procedure(client, what)?;
    client
        .run(&format!("CALL mysql.{name}({arguments})"))
        .with_context(|| format!("call mysql.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procedure_goes_by_the_name_that_the_version_has() {
        let old = [
            "rds_set_external_master",
            "rds_set_external_master_with_auto_position",
            "rds_start_replication",
            "rds_reset_external_master",
        ];
        let new = [
            "rds_set_external_source_with_auto_position",
            "rds_reset_external_source",
            "rds_start_replication",
        ];
        for (what, of_old, of_new) in [
            (
                Procedure::Set,
                Some("rds_set_external_master_with_auto_position"),
                Some("rds_set_external_source_with_auto_position"),
            ),
            (
                Procedure::Reset,
                Some("rds_reset_external_master"),
                Some("rds_reset_external_source"),
            ),
            (
                Procedure::Start,
                Some("rds_start_replication"),
                Some("rds_start_replication"),
            ),
            (Procedure::Count, None, None),
        ] {
            assert_eq!(choose(what, &old), of_old);
            assert_eq!(choose(what, &new), of_new);
        }
    }
}
