//! Who may log in from where: rules in, the text of `pg_hba.conf` out. Whether the server accepts them is for `instance` to ask.

use std::collections::BTreeMap;

use ondol_kit::Invalid;
use schemars::JsonSchema;
use serde::Deserialize;

/// One line of C(pg_hba.conf). The first that fits a connection decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// How the client comes.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Databases: names, V(all), V(replication), V(sameuser).
    #[serde(default = "all")]
    pub databases: Vec<String>,
    /// Roles: names, V(all), V(+group).
    #[serde(default = "all")]
    pub users: Vec<String>,
    /// Network as V(192.168.10.0/24), a host name, V(samenet) or V(all). Not for the type V(local).
    pub address: Option<String>,
    /// V(scram-sha-256), V(peer), V(reject), V(cert) and what else the server knows.
    pub method: String,
    /// Options of the method.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Over the socket in the file system.
    Local,
    /// Over TCP, encrypted or not.
    Host,
    /// Over TCP with TLS only.
    Hostssl,
    /// Over TCP without TLS only.
    Hostnossl,
}

fn all() -> Vec<String> {
    vec!["all".to_owned()]
}

const HEADER: &str = "# Written by ondol.cloud.postgresql_instance. Changes here are lost.\n";

/// What can be said without the server.
pub(crate) fn check(rules: &[Rule]) -> Result<(), Invalid> {
    for (index, rule) in rules.iter().enumerate() {
        let invalid =
            |name: &str, reason: &str| Err(Invalid::new(format!("pg_hba[{index}].{name}"), reason));
        match (rule.kind, &rule.address) {
            (Kind::Local, Some(_)) => return invalid("address", "a local rule has none"),
            (Kind::Host | Kind::Hostssl | Kind::Hostnossl, None) => {
                return invalid("address", "is needed unless the type is local");
            }
            _ => {}
        }
        for (name, list) in [("databases", &rule.databases), ("users", &rule.users)] {
            if list.is_empty() {
                return invalid(name, "must not be empty");
            }
        }
        let words = (rule.databases.iter())
            .chain(&rule.users)
            .chain(&rule.address)
            .chain([&rule.method])
            .chain(rule.options.iter().flat_map(|(name, value)| [name, value]));
        if words.clone().any(|word| word.contains(['\n', '\r', '\0'])) {
            return invalid("method", "the rule must be one line");
        }
        if rule.method.is_empty() || rule.method.contains(char::is_whitespace) {
            return invalid("method", "must be one word");
        }
    }
    Ok(())
}

/// The file, one line for each rule in order.
pub(crate) fn render(rules: &[Rule]) -> String {
    let lines = rules.iter().map(|rule| {
        let kind = match rule.kind {
            Kind::Local => "local",
            Kind::Host => "host",
            Kind::Hostssl => "hostssl",
            Kind::Hostnossl => "hostnossl",
        };
        let list = |names: &[String]| {
            names
                .iter()
                .map(|it| word(it))
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut words = vec![kind.to_owned(), list(&rule.databases), list(&rule.users)];
        words.extend(rule.address.iter().map(|it| word(it)));
        words.push(rule.method.clone());
        words.extend((rule.options.iter()).map(|(name, value)| word(&format!("{name}={value}"))));
        words.join(" ") + "\n"
    });
    std::iter::once(HEADER.to_owned()).chain(lines).collect()
}

/// Quoted where the server would take it apart. Key words lose their meaning in quotes, so plain names stay bare.
fn word(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | ',' | '#');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The rule that a line of the rendered file came from.
pub(crate) fn rule_of_line(line: usize) -> usize {
    line.saturating_sub(1 + HEADER.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: serde_json::Value) -> Vec<Rule> {
        serde_json::from_value(json).expect("rules")
    }

    #[test]
    fn rules_become_lines_in_their_order() {
        let rules = rules(serde_json::json!([
            {"type": "local", "users": ["postgres"], "method": "peer"},
            {"type": "hostssl", "databases": ["replication", "my db"], "users": ["repl", "+ops"], "address": "192.168.10.0/24", "method": "scram-sha-256"},
            {"type": "host", "address": "all", "method": "cert", "options": {"map": "m x", "clientcert": "verify-full"}},
        ]));
        check(&rules).expect("sound");
        let text = render(&rules);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "local all postgres peer",
                "hostssl replication,\"my db\" repl,+ops 192.168.10.0/24 scram-sha-256",
                "host all all all cert clientcert=verify-full \"map=m x\"",
            ]
        );
        assert_eq!(rule_of_line(3), 1);
    }

    #[test]
    fn a_rule_that_cannot_be_a_line_is_refused() {
        for (json, path) in [
            (
                serde_json::json!([{"type": "local", "address": "all", "method": "peer"}]),
                "pg_hba[0].address",
            ),
            (
                serde_json::json!([{"type": "host", "method": "peer"}]),
                "pg_hba[0].address",
            ),
            (
                serde_json::json!([{"type": "local", "users": [], "method": "peer"}]),
                "pg_hba[0].users",
            ),
            (
                serde_json::json!([{"type": "local", "method": "peer map=x"}]),
                "pg_hba[0].method",
            ),
            (
                serde_json::json!([{"type": "local", "users": ["a\nlocal all all trust"], "method": "peer"}]),
                "pg_hba[0].method",
            ),
        ] {
            let error = check(&rules(json)).expect_err("unsound");
            assert_eq!(error.param, path);
        }
    }
}
