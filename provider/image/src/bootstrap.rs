//! The command lines that make a root file system. Pure.

use std::path::Path;

use ondol_mirror::apt::sources::Source;

use crate::origin::Origin;
use crate::recipe::{Recipe, Variant};

/// Where the parts of one build are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Directory to fill.
    pub rootfs: &'a Path,
    /// Downloaded packages, kept between builds. On the same file system as `rootfs`: packages are hard-linked, not copied.
    pub debs: &'a Path,
}

/// Runs a command so that it and all its children die with the thread that waits for it, and so that no mount of theirs outlives them.
/// The tools mount /proc and /dev in the new root: a crash would otherwise leave those behind.
/// Who is not root has no mounts to fear for.
pub(crate) fn contained(argv: Vec<String>, as_root: bool) -> Vec<String> {
    let dying = ["setpriv", "--pdeathsig", "KILL", "--"];
    let apart = [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ];
    let apart = if as_root { &apart[..] } else { &[] };
    dying
        .iter()
        .chain(apart)
        .map(|&word| word.to_owned())
        .chain(argv)
        .collect()
}

/// One call of mmdebstrap.
#[derive(Debug, Clone)]
pub(crate) struct Mmdebstrap<'a> {
    /// Otherwise it works in a user namespace, with the subordinate ids of whoever runs it.
    pub as_root: bool,
    /// `directory` or `tar`.
    pub format: &'static str,
    pub variant: Variant,
    pub packages: Vec<&'a str>,
    /// Scripts for the shell that come when all packages are installed; `$1` is the new root.
    pub hooks: Vec<String>,
    pub target: &'a Path,
}

impl Mmdebstrap<'_> {
    /// `debs` keeps downloaded packages between builds.
    pub(crate) fn argv(&self, origin: &Origin, debs: &Path) -> Vec<String> {
        let debs = quoted(debs);
        let archives = r#""$1"/var/cache/apt/archives"#;
        // Hard links where that is possible. From within a namespace of its own it could not write here: there it is copied for it.
        let (bring, keep) = if self.as_root {
            (
                format!("find {debs} -maxdepth 1 -name '*.deb' -exec ln -t {archives} {{}} +"),
                format!(
                    "find {archives} -maxdepth 1 -name '*.deb' -exec cp --link --no-clobber -t {debs} {{}} +"
                ),
            )
        } else {
            (
                format!("sync-in {debs} /var/cache/apt/archives"),
                format!("sync-out /var/cache/apt/archives {debs}"),
            )
        };
        let mut argv = vec![
            "mmdebstrap".to_owned(),
            format!("--mode={}", if self.as_root { "root" } else { "unshare" }),
            format!("--format={}", self.format),
            format!("--variant={}", variant(self.variant)),
            "--skip=essential/unlink,download/empty".to_owned(),
        ];
        argv.extend(
            origin
                .apt_options
                .iter()
                .map(|option| format!("--aptopt={option}")),
        );
        argv.push(format!("--include={}", sorted(&self.packages).join(",")));
        argv.push(format!("--setup-hook=mkdir -p {archives}"));
        argv.push(format!("--setup-hook={bring}"));
        argv.push(format!("--customize-hook={keep}"));
        argv.extend(
            self.hooks
                .iter()
                .map(|hook| format!("--customize-hook={hook}")),
        );
        // The suite is in each line.
        argv.push(String::new());
        argv.push(self.target.display().to_string());
        argv.extend(origin.lines());
        argv
    }
}

/// debootstrap takes one archive only; updates are the business of [`upgrade_script`].
pub(crate) fn debootstrap(
    recipe: &Recipe,
    base: &Source,
    keyring: Option<&str>,
    places: Places<'_>,
) -> Vec<String> {
    let mut argv = vec!["debootstrap".to_owned()];
    if recipe.variant == Variant::Minbase {
        argv.push("--variant=minbase".to_owned());
    }
    argv.push(format!("--components={}", base.components.join(",")));
    argv.push(format!("--cache-dir={}", places.debs.display()));
    if let Some(keyring) = keyring {
        argv.push(format!("--keyring={keyring}"));
    }
    let included = included(recipe);
    if !included.is_empty() {
        argv.push(format!("--include={}", included.join(",")));
    }
    argv.push(base.suite.clone());
    argv.push(places.rootfs.display().to_string());
    argv.push(base.uri.clone());
    argv
}

/// Brings a debootstrapped root up to date with the other sources. `sources_list` holds all of them, keys readable from within.
pub(crate) fn upgrade_script(
    rootfs: &Path,
    sources_list: &str,
    apt_options: &[String],
) -> Vec<String> {
    let options: String = apt_options
        .iter()
        .map(|option| format!("{option};\n"))
        .collect();
    // A package may have made resolv.conf a link to a service that does not run here.
    let script = format!(
        r#"set -e
cd {root}
cp --dereference --remove-destination /etc/resolv.conf etc/resolv.conf
printf %s "$1" > etc/apt/sources.list
printf %s "$2" > etc/apt/apt.conf.d/99ondol-build
chroot . apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot . apt-get -q -y --no-install-recommends dist-upgrade
chroot . apt-get clean
rm -f etc/apt/apt.conf.d/99ondol-build
"#,
        root = quoted(rootfs),
    );
    vec![
        "sh".into(),
        "-c".into(),
        script,
        "sh".into(),
        sources_list.to_owned(),
        options,
    ]
}

fn variant(variant: Variant) -> &'static str {
    match variant {
        Variant::Minbase => "minbase",
        Variant::Standard => "standard",
    }
}

fn included(recipe: &Recipe) -> Vec<&str> {
    let packages: Vec<&str> = recipe.packages.iter().map(String::as_str).collect();
    sorted(&packages)
}

fn sorted<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// A path as one word of the shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Options of this machine's apt that decide how packages can be fetched at all, as `Key "value"`. `text` is what `apt-config dump` prints.
/// The root file system is built with these and does not keep them.
pub(crate) fn fetch_options(text: &str) -> Vec<String> {
    const KEYS: &[&str] = &[
        "Acquire::http",
        "Acquire::https",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
        "Acquire::Retries",
        "Acquire::ForceIPv4",
        "Acquire::ForceIPv6",
    ];
    let mut options: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let line = line.trim().strip_suffix(';')?;
            let (key, value) = line.split_once(' ')?;
            let wanted = KEYS.iter().any(|&wanted| {
                key.get(..wanted.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(wanted))
                    && (key.len() == wanted.len() || key[wanted.len()..].starts_with("::"))
            });
            (wanted && value != "\"\"").then(|| line.to_owned())
        })
        .collect();
    options.push("APT::Install-Recommends \"false\"".to_owned());
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Distribution;
    use ondol_mirror::apt::sources::parse_list;

    fn places() -> Places<'static> {
        Places {
            rootfs: Path::new("/c/images/.building/rootfs"),
            debs: Path::new("/c/it's/debs"),
        }
    }

    fn recipe() -> Recipe {
        Recipe {
            packages: vec!["sudo".into(), "curl".into(), "sudo".into()],
            ..Recipe::base(Distribution::Debian, "bookworm")
        }
    }

    #[test]
    fn mmdebstrap_is_given_every_source_and_the_kept_packages() {
        let sources = parse_list(
            "deb http://m/debian bookworm main\ndeb http://m/debian bookworm-updates main",
        );
        let origin = Origin {
            keys: vec![None; sources.len()],
            sources,
            apt_options: vec!["A \"1\"".to_owned()],
        };
        let recipe = recipe();
        let command = Mmdebstrap {
            as_root: true,
            format: "directory",
            variant: recipe.variant,
            packages: recipe.packages.iter().map(String::as_str).collect(),
            hooks: Vec::new(),
            target: places().rootfs,
        };
        insta::assert_snapshot!(command.argv(&origin, places().debs).join("\n"), @r#"
        mmdebstrap
        --mode=root
        --format=directory
        --variant=minbase
        --skip=essential/unlink,download/empty
        --aptopt=A "1"
        --include=curl,sudo
        --setup-hook=mkdir -p "$1"/var/cache/apt/archives
        --setup-hook=find '/c/it'\''s/debs' -maxdepth 1 -name '*.deb' -exec ln -t "$1"/var/cache/apt/archives {} +
        --customize-hook=find "$1"/var/cache/apt/archives -maxdepth 1 -name '*.deb' -exec cp --link --no-clobber -t '/c/it'\''s/debs' {} +

        /c/images/.building/rootfs
        deb http://m/debian bookworm main
        deb http://m/debian bookworm-updates main
        "#);
    }

    #[test]
    fn debootstrap_is_given_the_suite_itself_and_its_key() {
        let base = &parse_list("deb http://m/debian bookworm main contrib")[0];
        insta::assert_snapshot!(debootstrap(&recipe(), base, Some("/k.gpg"), places()).join("\n"), @"
        debootstrap
        --variant=minbase
        --components=main,contrib
        --cache-dir=/c/it's/debs
        --keyring=/k.gpg
        --include=curl,sudo
        bookworm
        /c/images/.building/rootfs
        http://m/debian
        ");
    }

    #[test]
    fn only_the_options_that_decide_how_packages_are_fetched_are_carried_over() {
        let dump = "\
Acquire \"\";
Acquire::http \"\";
Acquire::http::Proxy \"http://cache.example:3142\";
Acquire::Check-Valid-Until \"false\";
Acquire::Languages:: \"none\";
Acquire::httpx \"1\";
APT::Install-Recommends \"1\";
";
        assert_eq!(
            fetch_options(dump),
            [
                "Acquire::http::Proxy \"http://cache.example:3142\"",
                "Acquire::Check-Valid-Until \"false\"",
                "APT::Install-Recommends \"false\"",
            ]
        );
    }
}
