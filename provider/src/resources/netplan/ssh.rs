//! The `ssh` attribute: how to log in on a guest, and what it must prove to be.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Diagnostics, attribute, path};

use crate::diagnostics;
use crate::ssh::{Credential, HostKeyPolicy, Secret, parse_pin};

pub(super) const DEFAULT_PORT: u16 = 22;

/// How to log in to a guest. What is given of keys, agent and password is tried in that order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ssh {
    /// The user. One who is not root needs sudo without a password.
    #[schemars(transform = attribute::required)]
    pub user: Attr<String>,
    /// TCP port.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_PORT), range(min = 1, max = 65535))]
    pub port: Attr<u16>,
    /// The guest's public host key, `ssh_host_key` of the `ondol_vm`. This or `known_hosts_file` is needed:
    /// no key is accepted unseen.
    pub host_key: Attr<String>,
    /// A known_hosts file with the guest's key for each of its addresses.
    pub known_hosts_file: Attr<String>,
    /// A private key file.
    pub private_key_file: Attr<String>,
    /// The text of a private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key: Attr<String>,
    /// The passphrase of the private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key_passphrase: Attr<String>,
    /// Offer the keys of the SSH agent that SSH_AUTH_SOCK names.
    pub agent: Attr<bool>,
    /// The user's password.
    #[schemars(transform = attribute::sensitive)]
    pub password: Attr<String>,
}

impl Ssh {
    pub(super) fn credentials(&self) -> Vec<Credential> {
        let passphrase = self.private_key_passphrase.known().map(Secret::new);
        let mut credentials = Vec::new();
        if let Some(path) = self.private_key_file.known() {
            credentials.push(Credential::KeyFile {
                path: expand_home(path),
                passphrase: passphrase.clone(),
            });
        }
        if let Some(text) = self.private_key.known() {
            credentials.push(Credential::Key {
                text: Secret::new(text),
                passphrase,
            });
        }
        if self.agent == true.into() {
            credentials.push(Credential::Agent { socket: None });
        }
        if let Some(password) = self.password.known() {
            credentials.push(Credential::Password(Secret::new(password)));
        }
        credentials
    }

    pub(super) fn host_key_policy(&self) -> Result<HostKeyPolicy, Diagnostic> {
        match (self.host_key.known(), self.known_hosts_file.known()) {
            (Some(key), _) => Ok(HostKeyPolicy::Pinned(key.clone())),
            (None, Some(file)) => Ok(HostKeyPolicy::KnownHosts(expand_home(file))),
            (None, None) => Err(no_host_key()),
        }
    }

    pub(super) fn validate(&self, diagnostics: &mut Diagnostics) {
        if self.host_key.is_null() && self.known_hosts_file.is_null() {
            diagnostics.push(no_host_key());
        }
        if let Some(key) = self.host_key.known()
            && let Err(error) = parse_pin(key)
        {
            diagnostics::complain(
                diagnostics,
                path!["ssh", "host_key"],
                "host_key is not a public key",
                diagnostics::sentence(&error.to_string()),
            );
        }
        let nothing = self.private_key_file.is_null()
            && self.private_key.is_null()
            && self.password.is_null()
            && !self.agent.is_unknown()
            && self.agent != true.into();
        if nothing {
            diagnostics.error(
                path!["ssh"],
                "There is no way to log in",
                "Set one of private_key_file, private_key, agent = true and password.",
            );
        }
        if self.user.as_str() == Some("") {
            diagnostics::complain(
                diagnostics,
                path!["ssh", "user"],
                "The user has no name",
                "Name the user to log in as.",
            );
        }
    }
}

pub(super) fn no_host_key() -> Diagnostic {
    Diagnostic::error("The guest's host key is not pinned")
        .detail("Set host_key (the ssh_host_key of the ondol_vm) or known_hosts_file: a key that nobody vouches for is not accepted.")
        .at(path!["ssh", "host_key"])
}

pub(super) fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}
