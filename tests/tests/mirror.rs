//! Machines of a lab that fetch the mirror's lists again and again while Terraform publishes it anew: nobody may see half of it.
//!
//! The mirror has a directory of its own, because all labs of a machine share the usual one.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use ondol_tests::Site;
use ondol_tests::site::repository;
use serde_json::Value;

const SERVER: &str = "multi-cloud-admin";
const CLIENTS: [&str; 5] = [
    "dns-server",
    "web-server-01",
    "web-server-02",
    "was-server-01",
    "k8s-master",
];
const PUBLISHES: usize = 20;

/// Ends by itself when nobody ends it. Prints how often the lists came, how often not, and how many different lists there were.
const UPDATES: &str = "good=0; bad=0; end=$(($(date +%s) + 300)); : >/run/seen; rm -f /run/stop
until [ -e /run/stop ] || [ $(date +%s) -ge $end ]; do
  if apt-get -qq -o APT::Update::Error-Mode=any update >>/run/said 2>&1; then good=$((good + 1)); else bad=$((bad + 1)); fi
  cat /var/lib/apt/lists/*InRelease | sha256sum >>/run/seen
done
cat /run/said >&2; echo $good $bad $(sort -u /run/seen | wc -l)";

#[test]
fn machines_update_without_an_error_while_the_mirror_is_published_twenty_times() -> Result<()> {
    let mut site = Site::new("mirror")?;
    let mirror = site.directory().with_extension("mirror");
    let packages = site.directory().with_extension("packages.yaml");
    for left in [&mirror, &site.directory().with_extension("disk")] {
        if left.exists() {
            fs::remove_dir_all(left).context("remove what an interrupted run has left")?;
        }
    }
    let list = fs::read_to_string(repository().join("terraform/packages.yaml"))
        .context("read the list of packages")?;
    fs::write(&packages, &list).context("write the list of packages")?;
    site.set("mirror_dir", &mirror.display().to_string());
    site.set("packages", &packages.display().to_string());
    site.keep_machines(&[&[SERVER], &CLIENTS[..]].concat())?;
    site.make(&["lab", "STAGES=3"])?;
    ensure!(
        site.shell(CLIENTS[0], "apt-get install -y hello").is_err(),
        "a package that is not listed can be installed"
    );

    let clients = CLIENTS.map(|client| updating(&site, client));
    for publish in 1..=PUBLISHES {
        let more = if publish % 2 == 1 {
            "more: [hello]\n"
        } else {
            ""
        };
        fs::write(&packages, format!("{list}{more}")).context("write the list of packages")?;
        publish_again(&site)?;
    }
    for client in CLIENTS {
        site.shell(client, "touch /run/stop")?;
    }
    for (client, process) in CLIENTS.iter().zip(clients) {
        let output = process?.wait_with_output().context("wait for a client")?;
        let (said, counts) = (
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        let counts: Vec<usize> = counts
            .split_whitespace()
            .filter_map(|count| count.parse().ok())
            .collect();
        let [good, bad, lists] = counts[..] else {
            anyhow::bail!("{client} did not end as it should: {said}");
        };
        eprintln!("{client}: {good} updates, {bad} failed, {lists} different lists");
        ensure!(
            bad == 0 && said.is_empty(),
            "{client}: {bad} failed: {said}"
        );
        ensure!(
            good >= PUBLISHES && lists > 5,
            "{client} saw {lists} lists in {good} updates: too few to prove anything"
        );
    }

    it_goes_back_and_forth(&mut site)?;
    another_site_has_the_same_from_an_archive(&mut site, &mirror)?;
    fs::remove_dir_all(&mirror).context("remove the mirror")
}

/// What is published is the first snapshot again, which is without `hello`; the newest has it.
fn it_goes_back_and_forth(site: &mut Site) -> Result<()> {
    let hello =
        "apt-get -qq update && apt-get -qq install -y hello && hello && apt-get -qq purge -y hello";
    ensure!(
        site.shell(CLIENTS[0], hello).is_err(),
        "hello can be installed"
    );
    let snapshots = output(site, "mirror_snapshots")?;
    let snapshots = snapshots["site"]
        .as_array()
        .context("snapshots are listed")?;
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    site.set("mirror_pin", &format!("{{ site = {} }}", snapshots[1]));
    publish_again(site)?;
    site.shell(CLIENTS[0], hello)?;
    site.unset("mirror_pin");
    publish_again(site)?;
    ensure!(
        site.shell(CLIENTS[0], hello).is_err(),
        "hello can be installed still"
    );
    Ok(())
}

fn another_site_has_the_same_from_an_archive(site: &mut Site, mirror: &Path) -> Result<()> {
    let disk = site.directory().with_extension("disk");
    fs::create_dir_all(&disk).context("make the disk's directory")?;
    let transport = |mode: &str| format!("{{ mode = {mode:?}, directory = {disk:?} }}");
    site.set("mirror_transport", &transport("export_archive"));
    publish_again(site)?;
    fs::copy(mirror.join("keys/site.asc"), disk.join("site.asc")).context("copy the key")?;
    let here = output(site, "mirror_digest")?;

    let mut other = Site::new("mirror-2")?;
    let served = other.directory().with_extension("mirror");
    if served.exists() {
        fs::remove_dir_all(&served).context("remove what an interrupted run has left")?;
    }
    other.set("mirror_dir", &served.display().to_string());
    other.set("mirror_transport", &transport("import_archive"));
    other.keep_machines(&[SERVER])?;
    other.make(&["site-env"])?;
    publish_again(&other)?;
    assert_eq!(output(&other, "mirror_digest")?["site"], here["site"]);
    fs::remove_dir_all(&disk).context("remove the disk's directory")?;
    fs::remove_dir_all(&served).context("remove the second mirror")
}

fn publish_again(site: &Site) -> Result<()> {
    // Both, as in the guide: an output of both is written only then.
    site.must("terraform -chdir=terraform/lab apply -auto-approve -input=false -no-color -target=ondol_apt_mirror.site -target=ondol_apt_mirror.suite")
        .map(drop)
}

fn output(site: &Site, name: &str) -> Result<Value> {
    let json = site.must(&format!(
        "terraform -chdir=terraform/lab output -json {name}"
    ))?;
    serde_json::from_str(&json).with_context(|| format!("parse output {name}"))
}

fn updating(site: &Site, client: &str) -> Result<Child> {
    let script = UPDATES.replace('\'', r"'\''");
    site.command(&format!(
        "exec ondol-lab shell {client} -- sh -c '{script}'"
    ))
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .with_context(|| format!("start the updates of {client}"))
}
