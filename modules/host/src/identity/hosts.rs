//! The text of `/etc/hosts`. Pure.

use std::net::{IpAddr, Ipv4Addr};

use super::{Hosts, HostsScope};

const BEGIN: &str = "# BEGIN ondol.cloud.host_identity: what is changed in here by hand is undone";
const END: &str = "# END ondol.cloud.host_identity";
/// What every Debian has, and a minimal image may lack.
const LOOPBACK: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
";

/// The file as it should be, from the file as it is.
pub(super) fn with_hosts(current: Option<&str>, hosts: &Hosts, own: &str) -> String {
    let mut block = format!("{BEGIN}\n");
    for (address, names) in &hosts.lines {
        block.push_str(&format!("{address} {}\n", names.join(" ")));
    }
    block.push_str(&format!("{END}\n"));
    if hosts.scope == HostsScope::Whole {
        return format!("{LOOPBACK}{block}");
    }
    let current = current.unwrap_or_default();
    let mut text = String::new();
    if !current
        .lines()
        .any(|line| fields(line).is_some_and(|(_, names)| names.contains(&"localhost")))
    {
        text.push_str(LOOPBACK);
    }
    let mut placed = false;
    let mut inside = false;
    // A block that somebody cut off has no end; what follows it is not ours to delete.
    let closed = current.lines().any(|line| line == END);
    for line in current.lines() {
        if line == BEGIN {
            if !placed {
                text.push_str(&block);
                placed = true;
            }
            inside = closed;
            continue;
        }
        if line == END {
            inside = false;
            continue;
        }
        if inside || own_loopback(line, hosts, own) {
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    if !placed {
        text.push_str(&block);
    }
    text
}

/// Lines outside the block that give one of our names another address of the same family.
pub(super) fn contradictions<'a>(current: &'a str, hosts: &Hosts, own: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in current.lines() {
        match line {
            BEGIN => inside = true,
            END => inside = false,
            _ if inside || own_loopback(line, hosts, own) => {}
            _ => {
                let Some((address, names)) = fields(line) else {
                    continue;
                };
                let contradicts = hosts.lines.iter().any(|(ours, our_names)| {
                    *ours != address
                        && ours.is_ipv4() == address.is_ipv4()
                        && our_names.iter().any(|name| names.contains(&name.as_str()))
                });
                if contradicts {
                    found.push(line);
                }
            }
        }
    }
    found
}

/// Debian's line `127.0.1.1 NAME` for the machine's own name, where our block has that name's real address.
fn own_loopback(line: &str, hosts: &Hosts, own: &str) -> bool {
    let short = own.split('.').next().unwrap_or(own);
    let is_own = |name: &str| name == own || name == short;
    let known = hosts
        .lines
        .iter()
        .any(|(_, names)| names.iter().any(|name| is_own(name)));
    known
        && fields(line).is_some_and(|(address, names)| {
            address == IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))
                && names.iter().any(|name| is_own(name))
        })
}

/// Address and names of a line; `None` for comments and what is no line of hosts(5).
fn fields(line: &str) -> Option<(IpAddr, Vec<&str>)> {
    let mut words = line.split('#').next()?.split_whitespace();
    let address = words.next()?.parse().ok()?;
    Some((address, words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(scope: HostsScope) -> Hosts {
        Hosts {
            scope,
            lines: vec![
                (
                    [10, 0, 0, 1].into(),
                    vec!["a.in".to_owned(), "a".to_owned()],
                ),
                (
                    [10, 0, 0, 2].into(),
                    vec!["b.in".to_owned(), "b".to_owned()],
                ),
            ],
        }
    }

    #[test]
    fn a_block_is_appended_once_and_replaced_in_its_place() {
        let once = with_hosts(
            Some("127.0.0.1 localhost\n127.0.1.1 a\n10.9.9.9 other"),
            &hosts(HostsScope::Block),
            "a",
        );
        assert_eq!(
            once,
            format!(
                "127.0.0.1 localhost\n10.9.9.9 other\n{BEGIN}\n10.0.0.1 a.in a\n10.0.0.2 b.in b\n{END}\n"
            )
        );
        assert_eq!(
            with_hosts(Some(&once), &hosts(HostsScope::Block), "a"),
            once
        );
        let edited = once.replace("10.0.0.2", "10.0.0.99") + "10.1.1.1 after\n";
        assert_eq!(
            with_hosts(Some(&edited), &hosts(HostsScope::Block), "a"),
            once + "10.1.1.1 after\n"
        );
    }

    #[test]
    fn a_block_without_its_end_takes_nothing_with_it() {
        let torn = format!("127.0.0.1 localhost\n{BEGIN}\n10.1.1.1 mine\n");
        let text = with_hosts(Some(&torn), &hosts(HostsScope::Block), "x");
        assert!(text.ends_with(&format!("{END}\n10.1.1.1 mine\n")), "{text}");
        assert_eq!(
            with_hosts(Some(&text), &hosts(HostsScope::Block), "x"),
            text
        );
    }

    #[test]
    fn the_line_of_another_name_on_127_0_1_1_stays() {
        let text = with_hosts(
            Some("127.0.0.1 localhost\n127.0.1.1 elsewhere\n"),
            &hosts(HostsScope::Block),
            "a",
        );
        assert!(text.contains("127.0.1.1 elsewhere\n"));
    }

    #[test]
    fn a_missing_file_gets_its_loopback_and_the_whole_file_nothing_else() {
        let expected = format!("{LOOPBACK}{BEGIN}\n10.0.0.1 a.in a\n10.0.0.2 b.in b\n{END}\n");
        assert_eq!(with_hosts(None, &hosts(HostsScope::Block), "a"), expected);
        assert_eq!(
            with_hosts(Some("10.9.9.9 other\n"), &hosts(HostsScope::Whole), "a"),
            expected
        );
    }

    #[test]
    fn a_line_that_says_otherwise_is_found() {
        let text = "10.0.0.7 a\n10.0.0.1 a\n2001:db8::1 a\n# 10.0.0.8 a\n10.0.0.9 c\n127.0.1.1 a\n";
        assert_eq!(
            contradictions(text, &hosts(HostsScope::Block), "a"),
            ["10.0.0.7 a"]
        );
    }
}
