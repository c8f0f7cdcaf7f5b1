//! Engine and SSH errors as Terraform diagnostics: what was done where, the tool's own words, what to do,
//! and the attribute that decides.
//!
//! Only translation; nothing is decided here.

use tfplugin::{Diagnostic, Diagnostics, Key, Path, Step, path};

use crate::engine::EngineError;
use crate::ssh;

/// An engine's error about a resource that has a `host` attribute and a VM's attributes.
pub fn engine(error: &EngineError) -> Diagnostic {
    match error {
        EngineError::Unreachable { host, act, words, remedy } => Diagnostic::error(format!("Host {host:?} cannot be reached"))
            .detail(format!(
                "hosts[{host:?}]: could not {act}: {words}. {remedy}. Its VMs are not taken to be gone: nothing was changed."
            ))
            .at(path!["host"]),
        EngineError::Invalid { host, field, reason } => {
            let at = field_path(field);
            Diagnostic::error(format!("{at} is not possible")).detail(format!("Host {host:?}: {at}: {reason}.")).at(at)
        }
        EngineError::Exists { host, vm, words } => Diagnostic::error(format!("VM {vm:?} already exists"))
            .detail(format!("Host {host:?}: {words}."))
            .at(path!["name"]),
        EngineError::Failed { host, act, words } => {
            Diagnostic::error(format!("Could not {act} on host {host:?}")).detail(words.clone())
        }
    }
}

/// A field of a VM's spec as a path into `ondol_vm`.
pub fn field_path(field: &[String]) -> Path {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_map = false;
    for (position, name) in field.iter().enumerate() {
        steps.push(match name.parse::<u64>() {
            _ if in_map => Key(name.clone()).into(),
            Ok(index) if position > 0 => Step::Index(index),
            _ => Step::Attribute(name.clone()),
        });
        in_map = match name.as_str() {
            "disks" | "shared_folders" => position == 0,
            "port_forwards" => true,
            _ => false,
        };
    }
    steps.into_iter().collect()
}

/// An SSH error about a resource that has an `ssh` attribute. `act` is what failed: `read the netplan of "web-01"`.
pub fn ssh(error: &ssh::Error, act: &str) -> Diagnostic {
    let diagnostic =
        Diagnostic::error(format!("Could not {act}")).detail(sentence(&error.to_string()));
    match error.attribute() {
        Some(name) => at(diagnostic, path!["ssh", name]),
        None => diagnostic,
    }
}

/// Names an attribute within another one in words too: Terraform shows the line of a top-level attribute, but of a nested one
/// only the resource.
pub fn at(diagnostic: Diagnostic, path: Path) -> Diagnostic {
    let name = path.to_string();
    let said = diagnostic.summary.contains(&name) || diagnostic.detail.contains(&name);
    let detail = if said || path.steps().len() < 2 {
        diagnostic.detail.clone()
    } else {
        format!("{name}: {}", diagnostic.detail)
    };
    diagnostic.detail(detail).at(path)
}

/// An error about an attribute, which is named as [`at`] names it.
pub fn complain(
    all: &mut Diagnostics,
    path: Path,
    summary: impl Into<String>,
    detail: impl Into<String>,
) {
    all.push(at(Diagnostic::error(summary).detail(detail), path));
}

/// Upper case first, full stop last.
pub fn sentence(text: &str) -> String {
    let mut chars = text.trim().chars();
    let mut sentence: String = match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => return String::new(),
    };
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_spec_becomes_a_path_into_the_resource() {
        let cases = [
            (vec!["memory_mib"], path!["memory_mib"]),
            (
                vec!["disks", "data", "size_mib"],
                path!["disks", Key("data"), "size_mib"],
            ),
            (
                vec!["disks", "0", "size_mib"],
                path!["disks", Key("0"), "size_mib"],
            ),
            (
                vec!["network_interfaces", "1", "mac_address"],
                path!["network_interfaces", 1usize, "mac_address"],
            ),
            (
                vec!["seed", "authorized_keys", "0"],
                path!["seed", "authorized_keys", 0usize],
            ),
            (
                vec!["network_interfaces", "0", "port_forwards", "ssh"],
                path!["network_interfaces", 0usize, "port_forwards", Key("ssh")],
            ),
        ];
        for (field, expected) in cases {
            let field: Vec<String> = field.into_iter().map(str::to_owned).collect();
            assert_eq!(field_path(&field), expected);
        }
    }

    #[test]
    fn a_nested_attribute_is_named_in_words_once() {
        let error = || Diagnostic::error("No").detail("Because.");
        assert_eq!(at(error(), path!["host"]).detail, "Because.");
        assert_eq!(
            at(error(), path!["ssh", "user"]).detail,
            "ssh.user: Because."
        );
        let named = Diagnostic::error("ssh.user is empty").detail("Because.");
        assert_eq!(at(named, path!["ssh", "user"]).detail, "Because.");
    }

    #[test]
    fn an_unreachable_host_is_never_gone() {
        let error = EngineError::Unreachable {
            host: "srv-07".to_owned(),
            act: "look for the VM \"web-01\"".to_owned(),
            words: "no route".to_owned(),
            remedy: "Check the cable".to_owned(),
        };
        let diagnostic = engine(&error);
        assert_eq!(diagnostic.path, path!["host"]);
        assert!(
            diagnostic
                .detail
                .contains("hosts[\"srv-07\"]: could not look for the VM \"web-01\": no route. Check the cable."),
            "{}",
            diagnostic.detail
        );
    }
}
