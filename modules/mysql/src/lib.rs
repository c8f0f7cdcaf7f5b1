//! MySQL 8.0 and newer: instances, users, databases, privileges, GTID replication and failover.
//!
//! MariaDB speaks the same protocol and nearly the same SQL: its modules of accounts, databases and privileges stand on [`client`], [`sql`],
//! [`account`], [`database`] and [`privileges`].

pub mod account;
pub mod client;
pub mod database;
pub mod fence;
pub mod gtid;
pub mod instance;
pub mod local;
pub mod members;
pub mod options;
pub mod privileges;
pub mod rds;
pub mod replication;
pub mod server;
pub mod sha2;
pub mod source;
pub mod sql;
pub mod status;
pub mod user;
