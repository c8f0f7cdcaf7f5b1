//! Real disks from this machine's apt sources, built and booted. They need mmdebstrap, the machine's mirror, QEMU and OVMF.

mod boot;
mod virtualbox;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use ondol_image::{
    BootableDisk, DEFAULT_CACHE_DIR, DiskSpec, Distribution, Progress, Recipe, build_disk,
};

/// The disk that all tests of this machine share, and the example of `ondol_golden_image`.
fn shared() -> BootableDisk {
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    let began = Instant::now();
    build_disk(
        &recipe,
        &SPEC,
        Path::new(DEFAULT_CACHE_DIR),
        &mut |progress: Progress| {
            if let Some(news) = progress.news {
                eprintln!("{:7.1} s  {news}", progress.elapsed.as_secs_f64());
            }
            ControlFlow::Continue(())
        },
    )
    .inspect(|_| eprintln!("{:7.1} s  the disk is there", began.elapsed().as_secs_f64()))
    .expect("the disk builds")
}

const SPEC: DiskSpec = DiskSpec {
    size_mib: DiskSpec::DEFAULT_SIZE_MIB,
    source_date_epoch: None,
};

#[test]
fn two_builds_are_the_same_to_the_last_byte() {
    let first = shared();
    let cache = scratch_cache();
    let began = Instant::now();
    let second = build_disk(
        &first.manifest.recipe,
        &SPEC,
        cache.path(),
        &mut |progress| {
            if let Some(news) = progress.news {
                eprintln!("{:7.1} s  {news}", progress.elapsed.as_secs_f64());
            }
            ControlFlow::Continue(())
        },
    )
    .expect("the disk builds again");
    eprintln!("built again in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(first.manifest, second.manifest);
    assert!(fs::read(&first.ova).expect("readable") == fs::read(&second.ova).expect("readable"));
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
