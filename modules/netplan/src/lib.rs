//! A guest's netplan: rendering, drift, and a change that rolls itself back.
//!
//! One way for both who use it, Terraform over SSH and Ansible on the guest:
//! 1. `Desired::present(&config, hostname)` checks what the user gave (`Vec<Problem>` with paths).
//! 2. Run `OBSERVE` on the guest, `parse_observation` its output. `blockers` names what stands against it on this guest.
//! 3. `plan` says what to do. Empty: done.
//! 4. `Change::of(...)`: the part that could cut the guest off. Run `begin`, read it with `parse_begin`; connect to the NEW address; run `confirm`,
//!    read it with `parse_status`. Not confirmed in time, the guest takes it back by itself.
//! 5. `direct(&steps)`: the rest, as one script.
//!
//! Nothing but `module` does any I/O. NetworkManager, and devices other than Ethernet, are not handled.

mod change;
mod config;
pub mod module;
mod observe;
mod plan;
mod render;
mod status;

pub use change::{
    BeginError, Change, ChangeId, abort, begin, confirm, direct, parse_begin, parse_status, status,
};
pub use config::{
    CheckedRoute, Config, Ethernet, Interface, Match, Nameservers, Network, Problem, Route, Segment,
};
pub use module::Netplan;
pub use observe::{
    Definition, Dns, FILE, FILE_NAME, Hostname, Link, OBSERVE, ObservationError, Observed,
    OtherFile, OwnFile, REPLACED, RunningAddress, RunningRoute, parse_observation,
};
pub use plan::{Desired, Presence, Step, blockers, plan};
pub use render::{HEADER, render};
pub use status::Status;
