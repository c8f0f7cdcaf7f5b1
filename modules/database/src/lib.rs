//! What the modules of PostgreSQL, MySQL and MariaDB share: a connection to a server and whom it trusts, what can be seen of another member of a
//! replicated set, SQL as steps, and the session that runs them.
//!
//! Neither protocol is spoken here, and no product's rules of promotion are: what counts as proof that nothing is lost differs for good reasons.
//! MariaDB speaks MySQL's protocol, so its modules of accounts and databases stand on `ondol-mysql`; those of its cluster take only the members from
//! here: they ask their own server alone, through its client program, and the rest is Galera's.

pub mod connection;
pub mod member;
mod session;
pub mod statement;
mod tls;

pub use connection::{Error, Peer, Refusal, Row, Stream};
pub use member::Seen;
pub use session::{Connect, Session};
pub use statement::{Found, Presence, Statement};
pub use tls::Check;
