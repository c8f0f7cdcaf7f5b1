//! The apt mirror against its peers: apt-mirror, debmirror and aptly fetch the same archive of real packages from a web server on loopback.
//!
//! The packages are the machine's own apt's, kept in `/var/cache/ondol/bench`. The archive is signed, and the tools that check signatures do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::delay::proxy_at;
use super::figure::{Figure, median};
use crate::site::{repository, succeeded};

const CACHE: &str = "/var/cache/ondol/bench";
/// A loopback address of its own, on the usual port: apt-mirror loses what it fetched from any other.
const SERVER: &str = "127.77.0.1";
/// The same server, [`ROUND_TRIP`] away.
const FAR_SERVER: &str = "127.77.0.2";
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// As many packages as the archive has, and of them as many as are others in the changed archive.
const PACKAGES: usize = 1600;
const CHANGED: usize = 80;
/// Larger ones would measure the disk alone.
const LARGEST_BYTES: u64 = 400_000;
const ROUNDS: usize = 3;
const PHASES: [&str; 3] = [
    "first sync",
    "sync without changes",
    "sync with 5 % changed",
];

pub fn mirror() -> Result<Vec<Figure>> {
    let archive = Archive::make()?;
    let mut figures = vec![closure()?];
    let mut costs = Costs::new();
    // Removed at the end only: a file system that has just lost thousands of files is slow to take others.
    let mut made = Vec::new();
    for _ in 0..ROUNDS {
        for tool in TOOLS {
            let work = TempDir::new_in(CACHE).context("make a directory for the mirrors")?;
            archive.show("first")?;
            for (phase, shown) in ["first", "first", "changed"].into_iter().enumerate() {
                archive.show(shown)?;
                let cost = tool
                    .cost(&archive, SERVER, work.path(), phase)
                    .with_context(|| PHASES[phase])?;
                costs.entry((phase, tool.name())).or_default().push(cost);
            }
            made.push(work);
        }
    }
    for (phase, name) in PHASES.into_iter().enumerate() {
        figures.extend(compare(phase, name, &costs));
    }
    figures.extend(floors(&archive, &costs, &mut made)?);
    figures.extend(from_afar(&archive, &mut made)?);
    Ok(figures)
}

/// What it takes to fetch the same files without looking at them: no mirror that comes over HTTP is faster than that.
fn floors(archive: &Archive, costs: &Costs, made: &mut Vec<TempDir>) -> Result<Vec<Figure>> {
    let (first, changed) = (archive.files("first")?, archive.files("changed")?);
    let new = changed.difference(&first).cloned().collect();
    let floor = |(phase, files): (usize, BTreeSet<String>)| {
        let mut settings = String::new();
        for file in &files {
            settings += &format!(
                "url = \"{}/{file}\"\noutput = \"{file}\"\n",
                Archive::url(SERVER)
            );
        }
        fs::write(archive.path("curl"), settings).context("configure curl")?;
        let mut runs = Vec::new();
        for _ in 0..ROUNDS {
            let work = TempDir::new_in(CACHE).context("make a directory for the files")?;
            let fetch = format!(
                "cd {} && curl --silent --show-error --fail --parallel --parallel-max 20 --create-dirs --config {}",
                work.path().display(),
                archive.path("curl").display()
            );
            runs.push(archive.cost_of(&[fetch])?.0.seconds);
            has_packages(work.path(), files.len())?;
            made.push(work);
        }
        Ok(Figure::against(
            &format!("mirror, {}: time", PHASES[phase]),
            middle(costs, phase, Tool::Ondol, |cost| cost.seconds),
            "s",
            "curl (fetches the new packages, nothing else)",
            median(runs),
        ))
    };
    [(0, first), (2, new)].into_iter().map(floor).collect()
}

/// The first sync over a line that has a length.
fn from_afar(archive: &Archive, made: &mut Vec<TempDir>) -> Result<Vec<Figure>> {
    let near = SocketAddr::from((SERVER.parse::<IpAddr>().expect("a literal"), 80));
    proxy_at(&format!("{FAR_SERVER}:80"), near, ROUND_TRIP)?;
    let mut costs = Costs::new();
    for _ in 0..ROUNDS {
        for tool in [Tool::Ondol, Tool::AptMirror, Tool::Aptly] {
            let work = TempDir::new_in(CACHE).context("make a directory for the mirrors")?;
            archive.show("first")?;
            let cost = tool
                .cost(archive, FAR_SERVER, work.path(), 0)
                .context("first sync from afar")?;
            costs.entry((0, tool.name())).or_default().push(cost);
            made.push(work);
        }
    }
    let seconds = |tool| middle(&costs, 0, tool, |cost| cost.seconds);
    let figure = |tool: Tool| {
        Figure::against(
            "mirror, first sync, upstream 20 ms away: time",
            seconds(Tool::Ondol),
            "s",
            tool.described(),
            seconds(tool),
        )
    };
    Ok([Tool::AptMirror, Tool::Aptly].map(figure).into())
}

type Costs = BTreeMap<(usize, &'static str), Vec<Cost>>;

fn middle(costs: &Costs, phase: usize, tool: Tool, of: Measure) -> f64 {
    let rounds = costs.get(&(phase, tool.name())).into_iter().flatten();
    median(rounds.map(of).collect())
}

/// Ours against the best peer, each of the four costs for itself, and every peer's seconds beside it.
fn compare(phase: usize, name: &str, costs: &Costs) -> Vec<Figure> {
    let measures: [(&str, &'static str, Measure); 4] = [
        ("time", "s", |cost| cost.seconds),
        ("processor time", "s", |cost| cost.cpu_seconds),
        ("peak memory", "MiB", |cost| cost.peak_mib),
        ("requests", "", |cost| cost.requests),
    ];
    let mut figures = Vec::new();
    for (measure, unit, of) in measures {
        let ours = middle(costs, phase, Tool::Ondol, of);
        for tool in TOOLS.into_iter().filter(|tool| *tool != Tool::Ondol) {
            figures.push(Figure::against(
                &format!("mirror, {name}: {measure}"),
                ours,
                unit,
                tool.described(),
                middle(costs, phase, tool, of),
            ));
        }
    }
    figures
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Tool {
    Ondol,
    AptMirror,
    Debmirror,
    Aptly,
}

const TOOLS: [Tool; 4] = [Tool::Ondol, Tool::AptMirror, Tool::Debmirror, Tool::Aptly];

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Ondol => "ondol",
            Tool::AptMirror => "apt-mirror",
            Tool::Debmirror => "debmirror",
            Tool::Aptly => "aptly",
        }
    }

    /// With what it leaves out of the work, by its usual settings. aptly does all that ours does. debmirror verifies the signature and the
    /// lists, but packages by their size alone. apt-mirror looks at sizes only, and copies upstream's lists: it signs and keeps nothing.
    fn described(self) -> &'static str {
        match self {
            Tool::AptMirror => "apt-mirror (verifies nothing)",
            Tool::Debmirror => "debmirror (verifies lists only)",
            tool => tool.name(),
        }
    }

    /// Of one sync, after which every package must be there.
    fn cost(self, archive: &Archive, server: &str, work: &Path, phase: usize) -> Result<Cost> {
        let run = || -> Result<Cost> {
            let (cost, said) = archive.cost_of(&self.commands(archive, server, work, phase)?)?;
            has_packages(work, PACKAGES).with_context(|| format!("it said:\n{said}"))?;
            Ok(cost)
        };
        run().with_context(|| self.name())
    }

    /// What a person types for a mirror that clients can use, with each tool's usual settings; parallel where it can be.
    fn commands(
        self,
        archive: &Archive,
        server: &str,
        work: &Path,
        phase: usize,
    ) -> Result<Vec<String>> {
        let (work, url) = (work.display(), Archive::url(server));
        let keyring = archive.path("upstream.gpg");
        let keyring = keyring.display();
        Ok(match self {
            Tool::Ondol => vec![format!(
                "{}/examples/sync --quiet --url {url} --suite bench --keyring {keyring} --path {work}/served --cache {work}/cache --site-key {work}/site.key",
                binaries().display()
            )],
            Tool::AptMirror => {
                let settings = format!(
                    "set base_path {work}\nset run_postmirror 0\nset nthreads 20\ndeb [arch=amd64] {url} bench main\n"
                );
                fs::write(format!("{work}/mirror.list"), settings)
                    .context("configure apt-mirror")?;
                for folder in ["mirror", "skel", "var"] {
                    fs::create_dir_all(format!("{work}/{folder}"))
                        .context("make apt-mirror's folders")?;
                }
                vec![format!("apt-mirror {work}/mirror.list")]
            }
            Tool::Debmirror => vec![format!(
                "debmirror --method=http --host={server} --root=/debian --dist=bench --section=main --arch=amd64 --nosource --i18n --diff=none \
                 --rsync-extra=none --keyring={keyring} {work}/mirror",
            )],
            Tool::Aptly => {
                let settings = serde_json::json!({ "rootDir": format!("{work}/aptly"), "downloadConcurrency": 8, "gpgProvider": "gpg" });
                fs::write(format!("{work}/aptly.conf"), settings.to_string())
                    .context("configure aptly")?;
                let aptly = format!("aptly -config={work}/aptly.conf");
                let publish = match phase {
                    0 => format!(
                        "{aptly} publish snapshot -batch -gpg-key=bench@example.org -distribution=bench -architectures=amd64 s0"
                    ),
                    phase => format!(
                        "{aptly} publish switch -batch -gpg-key=bench@example.org bench s{phase}"
                    ),
                };
                let create = format!(
                    "{aptly} mirror create -keyring={keyring} -architectures=amd64 bench {url} bench main"
                );
                let rest = [
                    format!("{aptly} mirror update -keyring={keyring} bench"),
                    format!("{aptly} snapshot create s{phase} from mirror bench"),
                    publish,
                ];
                (phase == 0)
                    .then_some(create)
                    .into_iter()
                    .chain(rest)
                    .collect()
            }
        })
    }
}

type Measure = fn(&Cost) -> f64;

#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    requests: f64,
}

/// A signed archive of real packages behind nginx: `dists` leads to one of its two states.
#[derive(Debug)]
struct Archive {
    dir: TempDir,
    server: Child,
}

impl Archive {
    fn make() -> Result<Self> {
        let debs = packages()?;
        let dir = TempDir::new().context("make a directory for the archive")?;
        let root = dir.path().join("root");
        let pool = root.join("debian/pool/main");
        fs::create_dir_all(&pool).context("make the archive's pool")?;
        for deb in &debs {
            let name = deb.file_name().and_then(|name| name.to_str());
            let name = without_epoch(name.context("a package has a name")?);
            fs::copy(deb, pool.join(name)).context("copy a package into the archive")?;
        }
        let archive = Self::serve(dir)?;
        archive.shell(
            "export GNUPGHOME=$PWD/gnupg; mkdir -m 700 gnupg; \
             gpg --batch --quiet --passphrase '' --quick-generate-key bench@example.org rsa3072 sign never 2>/dev/null; gpg --export >upstream.gpg; \
             (cd root/debian && apt-ftparchive packages pool) >all",
        )?;
        let all = fs::read_to_string(archive.path("all")).context("read the list of packages")?;
        let stanzas: Vec<&str> = all
            .split("\n\n")
            .filter(|text| !text.trim().is_empty())
            .collect();
        ensure!(
            stanzas.len() == PACKAGES + CHANGED,
            "the archive has {} packages",
            stanzas.len()
        );
        let states = [
            ("first", &stanzas[..PACKAGES]),
            ("changed", &stanzas[CHANGED..]),
        ];
        for (state, stanzas) in states {
            let lists = archive.path(&format!("root/debian/{state}/bench/main/binary-amd64"));
            fs::create_dir_all(&lists).context("make the lists' directory")?;
            fs::write(lists.join("Packages"), stanzas.join("\n\n") + "\n")
                .context("write the list")?;
            archive.shell(&format!(
                "export GNUPGHOME=$PWD/gnupg; cd root/debian/{state}/bench; xz --keep main/binary-amd64/Packages; gzip --keep main/binary-amd64/Packages; \
                 apt-ftparchive -o APT::FTPArchive::Release::Suite=bench -o APT::FTPArchive::Release::Codename=bench \
                   -o APT::FTPArchive::Release::Architectures=amd64 -o APT::FTPArchive::Release::Components=main release . >../Release; mv ../Release .; \
                 gpg --batch --quiet --clearsign --output InRelease Release; gpg --batch --quiet --armor --detach-sign --output Release.gpg Release",
            ))?;
        }
        Ok(archive)
    }

    fn serve(dir: TempDir) -> Result<Self> {
        let path = dir.path().display();
        let settings = format!(
            "daemon off; user root; pid {path}/pid; error_log {path}/error.log; worker_processes 1; events {{}}\n\
             http {{ access_log {path}/requests.log; sendfile on; keepalive_requests 100000; \
             server {{ listen {SERVER}:80; root {path}/root; }} }}\n"
        );
        fs::write(dir.path().join("nginx.conf"), settings).context("configure nginx")?;
        fs::write(dir.path().join("requests.log"), "").context("make the log")?;
        let server = Command::new("nginx")
            .args([
                "-e",
                &format!("{path}/error.log"),
                "-c",
                &format!("{path}/nginx.conf"),
            ])
            .stdin(Stdio::null())
            .spawn()
            .context("start nginx")?;
        let archive = Self { dir, server };
        let began = Instant::now();
        while TcpStream::connect((SERVER, 80)).is_err() {
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "nginx does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(archive)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(server: &str) -> String {
        format!("http://{server}/debian")
    }

    /// The packages that a state of it lists.
    fn files(&self, state: &str) -> Result<BTreeSet<String>> {
        let list = format!("root/debian/{state}/bench/main/binary-amd64/Packages");
        let list = fs::read_to_string(self.path(&list)).context("read the list of packages")?;
        let file = |line: &str| line.strip_prefix("Filename: ").map(str::to_owned);
        Ok(list.lines().filter_map(file).collect())
    }

    fn show(&self, state: &str) -> Result<()> {
        let (new, dists) = (self.path("root/debian/new"), self.path("root/debian/dists"));
        symlink(state, &new).context("make a link")?;
        fs::rename(&new, &dists).context("switch the archive")
    }

    fn shell(&self, script: &str) -> Result<String> {
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(self.dir.path());
        succeeded(command)
    }

    /// What the commands cost together, and what they said.
    fn cost_of(&self, commands: &[String]) -> Result<(Cost, String)> {
        let log = self.path("requests.log");
        let before = fs::read_to_string(&log)
            .context("read the web server's log")?
            .lines()
            .count();
        let times = self.path("times");
        // Whoever waits for the disk is not to wait for what another has written.
        nix::unistd::sync();
        let began = Instant::now();
        let script = format!("export GNUPGHOME=$PWD/gnupg; {}", commands.join(" && "));
        let mut command = Command::new("/usr/bin/time");
        command
            .args(["-f", "%U %S %M", "-o"])
            .arg(&times)
            .args(["bash", "-euc", &script])
            .current_dir(self.dir.path());
        let said = succeeded(command)?;
        let seconds = began.elapsed().as_secs_f64();
        let times = fs::read_to_string(times).context("read the times")?;
        let fields: Vec<f64> = times
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let [user, system, peak_kib] = fields[..] else {
            bail!("time printed {times:?}");
        };
        let after = fs::read_to_string(&log)
            .context("read the web server's log")?
            .lines()
            .count();
        let cost = Cost {
            seconds,
            cpu_seconds: user + system,
            peak_mib: peak_kib / 1024.0,
            requests: (after - before) as f64,
        };
        Ok((cost, said))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Its worker ends with it only if it is asked.
        let pid = self.server.id().to_string();
        let asked = Command::new("kill").args(["-QUIT", &pid]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

/// Real packages, spread over the alphabet and downloaded by apt once.
fn packages() -> Result<Vec<PathBuf>> {
    let cache = PathBuf::from(CACHE).join("debs");
    fs::create_dir_all(&cache).context("make the cache")?;
    let wanted = PACKAGES + CHANGED;
    if debs(&cache)?.len() < wanted {
        let mut command = Command::new("apt-cache");
        command.arg("dumpavail");
        let names = spread(&succeeded(command)?, wanted);
        ensure!(
            names.len() == wanted,
            "apt knows too few packages: run apt-get update"
        );
        let mut command = Command::new("apt-get");
        command
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .args(names)
            .current_dir(&cache);
        succeeded(command)?;
    }
    let mut found = debs(&cache)?;
    found.sort();
    found.truncate(wanted);
    Ok(found)
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).context("list the packages")?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

/// `count` names out of a list of stanzas, at even distances, none of them large.
fn spread(stanzas: &str, count: usize) -> Vec<String> {
    let mut names: Vec<&str> = stanzas
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            let size: u64 = field("Size")?.parse().ok()?;
            (size <= LARGEST_BYTES).then_some(field("Package")?)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    let step = (names.len() / count.max(1)).max(1);
    names
        .into_iter()
        .step_by(step)
        .take(count)
        .map(str::to_owned)
        .collect()
}

/// As archives name their files; apt writes an epoch and an escaped colon into those that it downloads.
fn without_epoch(name: &str) -> String {
    match (name.split_once('_'), name.split_once("%3a")) {
        (Some((package, _)), Some((_, version))) => format!("{package}_{version}"),
        _ => name.to_owned(),
    }
}

fn has_packages(work: &Path, wanted: usize) -> Result<()> {
    let mut command = Command::new("find");
    command.arg(work).args(["-name", "*.deb", "-printf", "x\n"]);
    let count = succeeded(command)?.lines().count();
    ensure!(count >= wanted, "{count} of {wanted} packages are there");
    Ok(())
}

/// A closure over the whole index that the machine's own apt has.
fn closure() -> Result<Figure> {
    let dir = TempDir::new().context("make a directory for the index")?;
    let index = dir.path().join("Packages");
    let mut command = Command::new("bash");
    command.args([
        "-euc",
        "apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' | while read -r file; do /usr/lib/apt/apt-helper cat-file \"$file\"; echo; done >\"$0\"",
    ]);
    command.arg(&index);
    succeeded(command)?;
    let packages = fs::read_to_string(&index)
        .context("read the index")?
        .matches("\nPackage: ")
        .count();
    let mut runs = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = Command::new(binaries().join("examples/closure"));
        command
            .arg(&index)
            .args(["--", "nginx", "postgresql", "ceph", "mariadb-server"]);
        let began = Instant::now();
        succeeded(command)?;
        runs.push(began.elapsed().as_secs_f64());
    }
    let name =
        format!("mirror: index of {packages} packages read, closure of four services resolved");
    Ok(Figure::alone(&name, median(runs), "s"))
}

fn binaries() -> PathBuf {
    std::env::var_os("ONDOL_BIN_DIR")
        .map_or_else(|| repository().join("target/release"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_archive_has_no_epoch_in_its_name() {
        assert_eq!(without_epoch("a_1%3a2.0_all.deb"), "a_2.0_all.deb");
        assert_eq!(without_epoch("a_2.0_all.deb"), "a_2.0_all.deb");
    }

    #[test]
    fn the_packages_are_spread_and_none_is_large() {
        let stanzas: Vec<String> = (0..10)
            .map(|number| {
                format!(
                    "Package: p{number}\nSize: {}",
                    if number == 4 { LARGEST_BYTES + 1 } else { 100 }
                )
            })
            .collect();
        assert_eq!(spread(&stanzas.join("\n\n"), 3), ["p0", "p3", "p7"]);
        assert_eq!(spread("", 3), Vec::<String>::new());
    }
}
