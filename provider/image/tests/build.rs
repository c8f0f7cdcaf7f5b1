//! Real builds from this machine's apt sources, and from a mirror in a directory. They need root, mmdebstrap and the machine's mirror.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Error, Image, Recipe, User, build};
use sha2::{Digest, Sha256};

fn quiet(_: ondol_image::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn small() -> Recipe {
    Recipe {
        packages: vec!["sudo".into()],
        ..Recipe::base(Distribution::Debian, "bookworm")
    }
}

/// Shares the machine's downloaded packages with a cache of its own, so that a test downloads nothing twice.
fn scratch_cache() -> tempfile::TempDir {
    let shared = Path::new(DEFAULT_CACHE_DIR);
    fs::create_dir_all(shared.join("debs")).expect("the cache can be made");
    let cache = tempfile::tempdir_in(shared).expect("a directory in the cache can be made");
    std::os::unix::fs::symlink(shared.join("debs"), cache.path().join("debs"))
        .expect("a link can be made");
    cache
}

#[test]
fn the_base_image_is_built_once_and_then_found() {
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    let cache = Path::new(DEFAULT_CACHE_DIR);
    let first = build(&recipe, cache, &mut quiet).expect("the image builds");
    let mut asked = 0;
    let second = build(&recipe, cache, &mut |_| {
        asked += 1;
        ControlFlow::Continue(())
    })
    .expect("the image is found");
    assert_eq!(first, second);
    assert_eq!(asked, 0, "the second time nothing is run");
    assert!(first.package_count > 100, "{}", first.package_count);
    let root = &first.rootfs;
    assert_eq!(
        fs::read_to_string(root.join("etc/machine-id")).expect("readable"),
        ""
    );
    assert!(!root.join("etc/ssh/ssh_host_ed25519_key").exists());
    assert!(!root.join("etc/resolv.conf").exists());
    assert_eq!(
        fs::read_link(root.join("etc/systemd/system/apt-daily.timer")).expect("a link"),
        Path::new("/dev/null")
    );
    assert!(
        root.join("etc/systemd/system/multi-user.target.wants/systemd-networkd.service")
            .is_symlink()
    );
    for package in &recipe.packages {
        assert!(first.manifest.packages.contains_key(package), "{package}");
    }
}

#[test]
fn users_get_their_keys_and_sudo_and_no_password() {
    let cache = scratch_cache();
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummyDummyDummyDummyDummyDummyDummyDummyDum test";
    let recipe = Recipe {
        users: vec![
            User {
                name: "admin".into(),
                sudo: true,
                authorized_keys: vec![key.into()],
            },
            User {
                name: "plain".into(),
                sudo: false,
                authorized_keys: vec![],
            },
        ],
        ..small()
    };
    let image = build(&recipe, cache.path(), &mut quiet).expect("the image builds");
    let read = |path: &str| fs::read_to_string(image.rootfs.join(path)).expect("readable");
    let mode = |path: &str| {
        fs::metadata(image.rootfs.join(path))
            .expect("there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        read("etc/sudoers.d/90-admin"),
        "admin ALL=(ALL:ALL) NOPASSWD:ALL\n"
    );
    assert_eq!(mode("etc/sudoers.d/90-admin"), 0o440);
    assert_eq!(read("home/admin/.ssh/authorized_keys"), format!("{key}\n"));
    assert_eq!(mode("home/admin/.ssh"), 0o700);
    let shadow = read("etc/shadow");
    for user in ["admin", "plain"] {
        assert!(
            shadow
                .lines()
                .any(|line| line.starts_with(&format!("{user}:!:"))),
            "{shadow}"
        );
    }
    assert!(!image.rootfs.join("etc/sudoers.d/90-plain").exists());
}

#[test]
fn an_image_is_built_from_a_mirror_in_a_directory_without_any_network() {
    // Its packages are in the shared cache afterwards.
    let base = Recipe::base(Distribution::Debian, "bookworm");
    build(&base, Path::new(DEFAULT_CACHE_DIR), &mut quiet).expect("the image builds");
    let cache = tempfile::tempdir_in(DEFAULT_CACHE_DIR).expect("a directory in the cache");
    let mirror = cache.path().join("mirror");
    publish(&Path::new(DEFAULT_CACHE_DIR).join("debs"), &mirror);

    let sources = "Types: deb\nURIs: http://mirror.example/apt\nSuites: bookworm\nComponents: main";
    let recipe = Recipe {
        apt_sources: Some(format!(
            "Types: deb\nURIs: file:{}/current\nSuites: bookworm\nComponents: main\nTrusted: yes\n",
            mirror.display()
        )),
        image_sources: Some(sources.into()),
        ..small()
    };
    let image = without_network(&recipe, cache.path());
    assert!(image.manifest.packages.contains_key("sudo"));
    let read = |path: &str| fs::read_to_string(image.rootfs.join(path)).expect("readable");
    assert_eq!(
        read("etc/apt/sources.list.d/ondol.sources"),
        format!("{sources}\n")
    );
    assert!(!read("etc/apt/sources.list").contains("deb "));
    let kept = fs::read_dir(cache.path().join("debs")).expect("the cache of packages");
    assert!(kept.count() > 50, "packages came by way of apt");
}

/// A thread can leave the machine's network for one of its own, in which there is nothing; so do the commands that it runs.
fn without_network(recipe: &Recipe, cache: &Path) -> Image {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
            build(recipe, cache, &mut quiet).expect("the image builds")
        });
        thread.join().expect("no panic")
    })
}

/// A mirror as a program that knows nothing of ours would make it: all packages of `debs` in one suite, behind a link.
fn publish(debs: &Path, mirror: &Path) {
    let snapshot = mirror.join("snapshots/1");
    let index = snapshot.join("dists/bookworm/main/binary-amd64");
    fs::create_dir_all(&index).expect("writable");
    fs::create_dir_all(snapshot.join("pool")).expect("writable");
    let mut packages = String::new();
    for entry in fs::read_dir(debs).expect("the cache of packages").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".deb") {
            continue;
        }
        fs::hard_link(entry.path(), snapshot.join("pool").join(&name)).expect("one file system");
        let control = Command::new("dpkg-deb")
            .arg("--field")
            .arg(entry.path())
            .output()
            .expect("dpkg-deb is part of dpkg");
        let content = fs::read(entry.path()).expect("readable");
        packages += &format!(
            "{}Filename: pool/{name}\nSize: {}\nSHA256: {}\n\n",
            String::from_utf8_lossy(&control.stdout),
            content.len(),
            sha256(&content)
        );
    }
    fs::write(index.join("Packages"), &packages).expect("writable");
    let release = format!(
        "Origin: Test\nSuite: bookworm\nCodename: bookworm\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nArchitectures: amd64\n\
         Components: main\nSHA256:\n {} {} main/binary-amd64/Packages\n",
        sha256(packages.as_bytes()),
        packages.len()
    );
    fs::write(snapshot.join("dists/bookworm/Release"), release).expect("writable");
    std::os::unix::fs::symlink("snapshots/1", mirror.join("current")).expect("writable");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_suite_that_the_machine_has_no_source_for_is_refused_by_name() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let recipe = Recipe::base(Distribution::Ubuntu, "bookworm");
    let error = build(&recipe, cache.path(), &mut quiet)
        .expect_err("this machine is not Ubuntu's bookworm");
    assert!(
        matches!(&error, Error::UnknownSuite { suite, .. } if suite == "bookworm"),
        "{error}"
    );
    assert!(error.to_string().contains("suite"), "{error}");
    let recipe = Recipe::base(Distribution::Debian, "nosuch");
    let text = build(&recipe, cache.path(), &mut quiet)
        .expect_err("there is no such suite")
        .to_string();
    assert!(
        text.contains("nosuch") && text.contains("bookworm"),
        "{text}"
    );
}

#[test]
fn a_package_that_does_not_exist_fails_with_the_tools_own_words_and_leaves_nothing() {
    let cache = scratch_cache();
    let recipe = Recipe {
        packages: vec!["no-such-package-anywhere".into()],
        ..small()
    };
    let error = build(&recipe, cache.path(), &mut quiet)
        .expect_err("there is no such package")
        .to_string();
    assert!(error.contains("no-such-package-anywhere"), "{error}");
    assert_eq!(directories(&cache.path().join("images")), BTreeSet::new());
}

#[test]
fn a_build_that_is_broken_off_stops_at_once_and_leaves_neither_directory_nor_process() {
    let cache = scratch_cache();
    let mut stopped = None;
    let result = build(&small(), cache.path(), &mut |progress| {
        if progress.elapsed.as_secs() >= 3 {
            stopped.get_or_insert_with(std::time::Instant::now);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
    assert!(stopped.expect("was stopped").elapsed().as_secs() < 20);
    assert_eq!(directories(&cache.path().join("images")), BTreeSet::new());
    assert_eq!(processes_about(cache.path()), Vec::<String>::new());
}

#[test]
fn what_a_crashed_build_left_is_removed_by_the_next_one() {
    let cache = scratch_cache();
    let recipe = small();
    let left = cache
        .path()
        .join("images")
        .join(format!(".building-{}", recipe.digest()));
    fs::create_dir_all(left.join("rootfs/etc")).expect("can be made");
    fs::create_dir_all(
        cache
            .path()
            .join("images")
            .join(recipe.digest())
            .join("rootfs"),
    )
    .expect("can be made");
    let (a, b) = std::thread::scope(|scope| {
        let one = scope.spawn(|| build(&recipe, cache.path(), &mut quiet));
        let two = scope.spawn(|| build(&recipe, cache.path(), &mut quiet));
        (one.join().expect("no panic"), two.join().expect("no panic"))
    });
    assert_eq!(a.expect("builds"), b.expect("builds or finds"));
    assert_eq!(
        directories(&cache.path().join("images")),
        BTreeSet::from([recipe.digest()])
    );
}

fn directories(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .expect("the directory is there")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn processes_about(path: &Path) -> Vec<String> {
    let needle = path.to_str().expect("UTF-8");
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|cmdline| String::from_utf8_lossy(&cmdline).replace('\0', " "))
        .filter(|cmdline| cmdline.contains(needle))
        .collect()
}
