//! PostgreSQL: instances, roles, databases, replication and failover.
//!
//! # A replicated set
//!
//! A set is a few members, each a cluster on a machine of its own. There is no daemon of ours that watches them: what happens, happens because a play
//! says so, and each module looks for itself before it acts. What a member is can be read from the machine:
//!
//! | state | told by |
//! |---|---|
//! | absent | no configuration, no data |
//! | unfinished | `<data>.ondol-creating` (initdb), `<data>.ondol-new` (base backup), data with `standby.signal` but no configuration |
//! | primary | runs, not in recovery; `start.conf` says `manual` |
//! | standby | runs in recovery, or is stopped and has `standby.signal`; `start.conf` says `auto` |
//! | old primary | stopped, no `standby.signal` |
//! | fenced | stopped, `start.conf` says `disabled` |
//!
//! ```text
//!            instance                 standby: base backup
//!   absent ───────────▶ primary      absent ───────────▶ standby ─┐
//!                       │  ▲   ▲                          ▲  ▲   │ primary: promote
//!                 fence │  │   └──────────────────────────┼──┼───┘
//!                       ▼  │ primary, if nobody was       │  │
//!                     fenced  promoted                    │  │ standby: rewind
//!                       └─────────────────────────────────┘  │
//!   primary ── its machine dies ──▶ old primary ─────────────┘
//! ```
//!
//! # Who may take writes
//!
//! 1. Only `postgresql_primary` promotes, and only it starts a primary. A primary of a set does not start at boot: a machine that was dead during
//!    a failover comes back without a second writer. A standby does start at boot.
//! 2. It asks every other member over the replication protocol, which tells system identifier, timeline and end of log. One that takes writes
//!    forbids the promotion, whatever the caller says. One of another system identifier is no member.
//! 3. One that does not answer is not gone. The caller must say how it was fenced, and what can be seen must not speak against it: a machine that
//!    refuses the connection is not powered off.
//! 4. Nothing that was acknowledged may be lost, unless the caller accepts it. Proof is the end of the log of a primary that was shut down in order,
//!    or the rule of `postgresql_synchronous`, which the primary writes into its own log while the rule is in force. If each commit waited for k
//!    of n standbys, any n - k + 1 of them hold every commit between them, and the one that is ahead holds all.
//! 5. A rule ends with its timeline. It is weakened only after the note is taken back, and a standby that is gone then must be given up in words.
//!
//! # How a member comes back
//!
//! An old primary that was shut down in order and whose last record the new one has simply follows. Any other is rewound. Its data is replaced only
//! with leave (`allow_base_backup`). While data is neither old nor new, `start.conf` says `disabled`; a base backup is taken beside the data and
//! takes its place when it is whole.
//!
//! # What is deliberately not here
//!
//! Automatic failover, connection routing, logical replication, backups. Debian's layout is taken for granted.

mod client;
mod cluster;
pub mod database;
pub mod extension;
pub mod fence;
mod hba;
pub mod instance;
pub mod primary;
pub mod privileges;
mod replication;
pub mod role;
mod scram;
pub mod server;
mod settings;
mod sql;
pub mod standby;
pub mod status;
pub mod synchronous;

pub use database::PostgresqlDatabase;
pub use extension::PostgresqlExtension;
pub use fence::PostgresqlFence;
pub use instance::PostgresqlInstance;
pub use primary::PostgresqlPrimary;
pub use privileges::PostgresqlPrivileges;
pub use role::PostgresqlRole;
pub use standby::PostgresqlStandby;
pub use status::PostgresqlStatus;
pub use synchronous::PostgresqlSynchronous;

#[cfg(test)]
mod tests {
    use ondol_kit::{Entry, unsupported_keywords};

    use super::*;

    #[test]
    fn every_module_is_documented_and_promises_no_rule_that_the_kit_does_not_enforce() {
        for entry in [
            Entry::module::<PostgresqlDatabase>(),
            Entry::module::<PostgresqlExtension>(),
            Entry::module::<PostgresqlFence>(),
            Entry::module::<PostgresqlInstance>(),
            Entry::module::<PostgresqlPrimary>(),
            Entry::module::<PostgresqlPrivileges>(),
            Entry::module::<PostgresqlRole>(),
            Entry::module::<PostgresqlStandby>(),
            Entry::probe::<PostgresqlStatus>(),
            Entry::module::<PostgresqlSynchronous>(),
        ] {
            assert_eq!(
                unsupported_keywords(&entry.schema()),
                [""; 0],
                "{}",
                entry.name
            );
            entry.docs().expect(entry.name);
        }
    }
}
