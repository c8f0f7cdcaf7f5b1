//! The one binary that holds every Ansible module of ondol.cloud.
//!
//! Ansible calls it in two ways: the collection's action plugin with `-` and the arguments on standard input, the stock
//! path with the path of a JSON file. Which module is meant stands in `_ansible_module_name`, or else in the name that
//! the binary was called by. Everything about one module is in its own crate.

mod collection;
mod reference;
mod registry;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ondol_kit::{Call, Reply};
use serde_json::{Map, Value};

use registry::{MODULES, find};

const USAGE: &str = "\
ondol-module: the modules of the Ansible collection ondol.cloud; ansible-playbook calls it.

ondol-module -                          run a module, arguments as JSON on standard input
ondol-module FILE                       run a module, arguments as JSON in FILE
ondol-module --list                     names of the modules
ondol-module --schema [NAME]            parameters as JSON Schema
ondol-module --doc NAME                 documentation in YAML
ondol-module --write-collection DIR     write the collection's generated files
ondol-module --write-reference DIR      write the reference in Markdown
ondol-module --check-reference DIR      exit 1 and name the files, if DIR is not what would be written
ondol-module --version
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let told = match words.as_slice() {
        ["-"] if std::io::stdin().is_terminal() => Err(anyhow::anyhow!("{USAGE}")),
        ["-"] => return answer(&args, standard_input()),
        ["--list"] => print(&list()),
        ["--schema"] => print(&schemas()),
        ["--schema", name] => known(name).and_then(|entry| print(&pretty(&entry.schema()))),
        ["--doc", name] => known(name).and_then(|entry| print(&entry.docs()?[0].1)),
        ["--write-collection", dir] => collection::write(Path::new(dir)),
        ["--write-reference", dir] => reference::write(Path::new(dir)),
        ["--check-reference", dir] => match reference::stale(Path::new(dir)) {
            Ok(stale) if stale.is_empty() => Ok(()),
            Ok(stale) => return out_of_date(dir, stale),
            Err(error) => Err(error),
        },
        ["--version" | "-V"] => print(&format!("ondol-module {}\n", env!("CARGO_PKG_VERSION"))),
        ["--help" | "-h"] => print(USAGE),
        [path] if !path.starts_with('-') => return answer(&args, Call::read(Path::new(path))),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{}", format!("{error:#}").trim_end());
            ExitCode::from(2)
        }
    }
}

fn out_of_date(dir: &str, stale: BTreeSet<String>) -> ExitCode {
    let names: Vec<String> = stale.into_iter().collect();
    // Nothing is left to tell if standard error is closed.
    let _ = writeln!(
        std::io::stderr(),
        "{dir} is not what the code says: {}; run: ondol-module --write-reference {dir}",
        names.join(", ")
    );
    ExitCode::FAILURE
}

fn standard_input() -> anyhow::Result<Call> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("read arguments from standard input")?;
    Call::parse(&text)
}

fn answer(args: &[String], call: anyhow::Result<Call>) -> ExitCode {
    let reply = match call {
        Ok(call) => {
            take_environment(&call);
            dispatch(args.first().map(String::as_str), &call)
        }
        Err(error) => Reply::failure(format!("{error:#}")),
    };
    // A line of its own: a login shell or a become program may have written before it.
    match print(&format!("\n{}\n", reply.to_line())) {
        Ok(()) if !reply.failed() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The task's `environment:`, which the action plugin sends with the arguments because it may hold secrets, and a
/// command line can be read by everyone on the machine.
fn take_environment(call: &Call) {
    for (name, value) in &call.environment {
        // SAFETY: called by `main` before any other thread exists.
        unsafe { std::env::set_var(name, value) };
    }
}

fn dispatch(called_as: Option<&str>, call: &Call) -> Reply {
    let own_name = called_as
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let entry = call.module.as_deref().or(own_name).and_then(find);
    match (entry, &call.module) {
        (Some(entry), _) => ondol_kit::run(entry, call),
        (None, Some(name)) => Reply::failure(format!(
            "this binary ({}) holds no module {name:?}; it holds {}",
            env!("CARGO_PKG_VERSION"),
            names().join(", ")
        )),
        (None, None) => Reply::failure("the arguments do not name a module (_ansible_module_name)"),
    }
}

fn known(name: &str) -> anyhow::Result<&'static ondol_kit::Entry> {
    find(name).with_context(|| format!("no module {name:?}; known are {}", names().join(", ")))
}

fn names() -> Vec<&'static str> {
    MODULES.iter().map(|entry| entry.name).collect()
}

fn list() -> String {
    names().join("\n") + "\n"
}

fn schemas() -> String {
    let all: Map<String, Value> = MODULES
        .iter()
        .map(|entry| (entry.name.to_owned(), entry.schema()))
        .collect();
    pretty(&Value::Object(all))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// `print!` would panic on a closed pipe.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to standard output")
}
