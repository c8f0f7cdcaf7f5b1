//! What a run of ansible-playbook did, read from what it prints.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

/// The hosts of a run's recap, each with its counts of changed, unreachable and failed tasks.
pub fn recap(output: &str) -> Vec<(String, [u32; 3])> {
    let Some((_, recap)) = output.rsplit_once("PLAY RECAP") else {
        return Vec::new();
    };
    let count = |line: &str, word: &str| {
        let rest = line.split_once(&format!("{word}="))?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    recap
        .lines()
        .filter_map(|line| {
            let (host, counts) = line.split_once(" : ")?;
            Some((
                host.trim().to_owned(),
                [
                    count(counts, "changed")?,
                    count(counts, "unreachable")?,
                    count(counts, "failed")?,
                ],
            ))
        })
        .collect()
}

/// Fails unless a run had so many hosts and changed nothing on any of them.
pub fn nothing_changed(output: &str, hosts: usize) -> Result<()> {
    let recap = recap(output);
    ensure!(
        recap.len() == hosts,
        "the recap has {} hosts and not {hosts}:\n{output}",
        recap.len()
    );
    for (host, counts) in recap {
        ensure!(
            counts == [0, 0, 0],
            "{host}: {counts:?} tasks changed, unreachable, failed:\n{output}"
        );
    }
    Ok(())
}

/// Which task changed, or would change, which host. A task that another one foresees in check mode goes by that one's name.
pub fn changed_tasks(output: &str) -> BTreeSet<(String, String)> {
    let mut task = "";
    let mut changed = BTreeSet::new();
    for line in output.lines() {
        if let Some((name, _)) = line
            .strip_prefix("TASK [")
            .and_then(|rest| rest.rsplit_once(']'))
        {
            task = name.trim_end_matches(", in check mode");
        } else if let Some((host, _)) = line
            .strip_prefix("changed: [")
            .and_then(|rest| rest.split_once(']'))
        {
            // A task that is delegated is printed as `changed: [host -> other]`.
            let host = host.split(" -> ").next().unwrap_or(host);
            changed.insert((task.to_owned(), host.to_owned()));
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECAP: &str = "ok: [x]\n\nPLAY RECAP *****\n\
                         dns-server   : ok=5    changed=1    unreachable=0    failed=2    skipped=0\n\
                         k8s-master   : ok=5    changed=0    unreachable=1    failed=0    skipped=0\n";

    #[test]
    fn a_recap_gives_changed_unreachable_and_failed_of_each_host() {
        assert_eq!(
            recap(RECAP),
            [
                ("dns-server".to_owned(), [1, 0, 2]),
                ("k8s-master".to_owned(), [0, 1, 0])
            ]
        );
        assert_eq!(recap("no recap here"), []);
    }

    #[test]
    fn a_run_that_changed_something_or_lacks_a_host_is_told() {
        assert!(nothing_changed(RECAP, 2).is_err());
        let idle = "PLAY RECAP *****\nx : ok=5 changed=0 unreachable=0 failed=0\n";
        assert!(nothing_changed(idle, 1).is_ok());
        assert!(nothing_changed(idle, 2).is_err());
        assert!(nothing_changed("", 1).is_err());
    }

    #[test]
    fn changed_tasks_go_by_task_and_host() {
        let output = "TASK [One, in check mode] ****\nok: [a]\nchanged: [b]\n\nTASK [Two] ***\nchanged: [a -> localhost]\nskipping: [b]\n";
        let pair = |task: &str, host: &str| (task.to_owned(), host.to_owned());
        assert_eq!(
            changed_tasks(output),
            BTreeSet::from([pair("One", "b"), pair("Two", "a")])
        );
    }
}
