//! MariaDB: instances, users, databases and privileges; of Galera, members of a cluster, its arbitrators, its foundation and its recovery.
//!
//! Where the data of several nodes decide something, every node's position is an input: nothing here logs in to another
//! machine. Installing packages and opening firewalls is left to others.

pub mod arbitrator;
pub mod database;
mod facts;
pub mod galera_node;
pub mod instance;
pub mod privileges;
mod server;
mod settings;
pub mod status;
mod target;
pub mod user;
mod wsrep;

pub use facts::{NodeFacts, ServerState, Wsrep};
pub use wsrep::{Grastate, Position, Uuid};
