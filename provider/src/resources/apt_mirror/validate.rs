//! Configurations that cannot be, and the engine's errors, each at the attribute that decides. Pure.

use ondol_mirror::{Error, apt};
use tfplugin::{Diagnostic, Diagnostics, Path, path};

use super::model::{Mode, Model};
use crate::diagnostics::{self, sentence};

pub(super) fn check_selection(config: &Model, diagnostics: &mut Diagnostics) {
    let everything = config.everything == true.into();
    let undecided = config.packages.is_unknown() || config.everything.is_unknown();
    let imported = config.mode() == Mode::ImportArchive || config.transport.is_unknown();
    if everything && config.packages.is_known() {
        diagnostics.error(
            path!["packages"],
            "All packages and some packages",
            "Set packages, or everything = true, which takes every package of the components.",
        );
    } else if !everything && config.packages.is_null() && !undecided && !imported {
        diagnostics.error(
            path!["packages"],
            "Nothing is chosen",
            "Set packages, with whose names all that they need comes too, or everything = true.",
        );
    }
    for package in config.packages.known().into_iter().flatten() {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.:=~".contains(c);
        if package.is_empty() || !package.chars().all(is_part) || package.starts_with('-') {
            diagnostics.error(
                path!["packages"],
                format!("{package:?} is not a package"),
                "Write name, name=version or name:architecture.",
            );
        }
    }
}

pub(super) fn check_transport(config: &Model, diagnostics: &mut Diagnostics) {
    let Some(transport) = config.transport.known() else {
        return;
    };
    let Some(mode) = transport.mode.known() else {
        return;
    };
    let (needs_archive, needs_keyring) = match mode {
        Mode::Online => (false, false),
        Mode::ExportArchive => (true, false),
        Mode::ImportArchive => (true, true),
    };
    let needs = [
        ("archive", &transport.archive, needs_archive, "the tar file"),
        (
            "keyring_file",
            &transport.keyring_file,
            needs_keyring,
            "the public key of the site that exported",
        ),
    ];
    for (name, value, needed, what) in needs {
        if needed && value.is_null() {
            diagnostics::complain(
                diagnostics,
                path!["transport", name],
                "The archive is not described",
                format!("This mode needs {what}."),
            );
        }
        if let Some(file) = value.known()
            && !file.starts_with('/')
        {
            diagnostics::complain(
                diagnostics,
                path!["transport", name],
                format!("{file:?} is not an absolute path"),
                "Terraform may run in any directory: write the path from the root.",
            );
        }
    }
}

/// The engine's words, at the attribute that decides.
pub(super) fn apt_error(error: &Error) -> Diagnostic {
    let detail = sentence(&error.to_string());
    let Error::Apt(apt) = error else {
        return Diagnostic::error("The packages could not be mirrored")
            .detail(format!("{detail} What was published stays published."));
    };
    match apt {
        apt::Error::Invalid { field, reason } => {
            let at = config_path(field);
            diagnostics::at(Diagnostic::error(format!("{at} is not possible")).detail(sentence(reason)), at)
        }
        apt::Error::UnknownSuite { .. } => {
            Diagnostic::error("The archive does not have this suite").detail(detail).at(path!["suite"])
        }
        apt::Error::Unsatisfied(_) => Diagnostic::error("Packages cannot be had")
            .detail(format!("{detail} Correct packages, add an upstream that has them, or set allow_missing = true."))
            .at(path!["packages"]),
        apt::Error::UnknownSnapshot { .. } => {
            Diagnostic::error("There is no such snapshot").detail(detail).at(path!["pin"])
        }
        apt::Error::IncompleteArchive { .. } => {
            Diagnostic::error("The archive is not complete").detail(detail).at(path!["transport"])
        }
        _ => Diagnostic::error("The packages could not be mirrored")
            .detail(format!("{detail} What was published stays published.")),
    }
}

/// `upstreams[0].uris` as a path into the resource.
pub(super) fn config_path(field: &str) -> Path {
    let mut at = Path::root();
    for part in field.split('.') {
        let (name, index) = part.split_once('[').unwrap_or((part, ""));
        at = at.child(if name == "site_key" {
            "site_key_file"
        } else {
            name
        });
        if let Ok(index) = index.trim_end_matches(']').parse::<usize>() {
            at = at.child(index);
        }
    }
    at
}
