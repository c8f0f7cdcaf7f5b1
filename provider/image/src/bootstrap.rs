//! The command lines that make a root file system. Pure.

use std::path::Path;

use crate::recipe::{Recipe, Variant};
use crate::sources::Source;

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
pub(crate) fn contained(argv: Vec<String>) -> Vec<String> {
    let wrapper = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
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
    wrapper
        .iter()
        .map(|&word| word.to_owned())
        .chain(argv)
        .collect()
}

pub(crate) fn mmdebstrap(
    recipe: &Recipe,
    lines: &[String],
    apt_options: &[String],
    places: Places<'_>,
) -> Vec<String> {
    let debs = quoted(places.debs);
    let archives = r#""$1"/var/cache/apt/archives"#;
    let mut argv = vec![
        "mmdebstrap".to_owned(),
        "--mode=root".to_owned(),
        "--format=directory".to_owned(),
    ];
    argv.push(format!("--variant={}", variant(recipe.variant)));
    argv.push("--skip=essential/unlink,download/empty".to_owned());
    argv.extend(
        apt_options
            .iter()
            .map(|option| format!("--aptopt={option}")),
    );
    argv.push(format!("--include={}", included(recipe).join(",")));
    argv.push(format!(
        "--setup-hook=mkdir -p {archives} && find {debs} -maxdepth 1 -name '*.deb' -exec ln -t {archives} {{}} +"
    ));
    argv.push(format!("--customize-hook=find {archives} -maxdepth 1 -name '*.deb' -exec cp --link --no-clobber -t {debs} {{}} +"));
    argv.push(String::new());
    argv.push(places.rootfs.display().to_string());
    argv.extend(lines.iter().cloned());
    argv
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
    let mut packages: Vec<&str> = recipe.packages.iter().map(String::as_str).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
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
    use crate::sources::parse_list;

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
        let lines = [
            "deb http://m/debian bookworm main".to_owned(),
            "deb http://m/debian bookworm-updates main".to_owned(),
        ];
        insta::assert_snapshot!(mmdebstrap(&recipe(), &lines, &["A \"1\"".to_owned()], places()).join("\n"), @r#"
        mmdebstrap
        --mode=root
        --format=directory
        --variant=minbase
        --skip=essential/unlink,download/empty
        --aptopt=A "1"
        --include=curl,sudo
        --setup-hook=mkdir -p "$1"/var/cache/apt/archives && find '/c/it'\''s/debs' -maxdepth 1 -name '*.deb' -exec ln -t "$1"/var/cache/apt/archives {} +
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
