//! MySQL 8.0 and newer: instances, users, databases, privileges, GTID replication and failover.

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
