//! What the modules of PostgreSQL and MySQL share: a connection to a server and whom it trusts, members of a replicated set that ask each other,
//! and SQL as steps.
//!
//! Neither protocol is spoken here, and no product's rules of promotion are: what counts as proof that nothing is lost differs for good reasons.
//! MariaDB's modules do not use it: they ask their own server alone, through its client program, and members see each other by Galera.

pub mod connection;
pub mod member;
pub mod statement;
mod tls;

pub use connection::{Error, Peer, Refusal, Row, Stream};
pub use member::Seen;
pub use statement::{Found, Presence, Statement};
pub use tls::Check;
