//! Docker in a VM with the feature `containers`. Apart from the other tests because its image is another 100 MB of packages.
#![expect(
    dead_code,
    reason = "each test file uses its own part of the support module"
)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Recipe};
use ondol_lab::Features;
use support::{TestLab, eventually};

#[test]
#[ignore = "downloads docker.io once: cargo test -p ondol-lab --test docker -- --ignored"]
fn docker_runs_a_container_in_a_vm_with_the_feature_containers() {
    let mut recipe = Recipe::base(Distribution::Debian, "bookworm");
    recipe
        .packages
        .extend(["docker.io", "iptables", "busybox-static"].map(str::to_owned));
    let image = ondol_image::build(&recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("the image builds");
    let lab = TestLab::new("t-docker");
    let mut spec = lab.spec("docker-01");
    spec.image = image.rootfs;
    spec.memory_mib = 1024;
    spec.features = Features {
        containers: true,
        ..Features::default()
    };
    lab.create_and_start(&spec);
    eventually("docker answers", || {
        lab.sh_ok("docker-01", "docker info >/dev/null 2>&1")
    });
    println!(
        "{}",
        lab.sh(
            "docker-01",
            "docker info 2>/dev/null | grep -E 'Server Version|Storage Driver|Cgroup'"
        )
    );
    lab.sh(
        "docker-01",
        "tar -C /bin -c busybox | docker import - hello >/dev/null",
    );
    let hello =
        "docker run --rm --memory 64m hello /busybox sh -c '/busybox id -u; /busybox hostname -i'";
    let said = lab.sh("docker-01", hello);
    assert!(said.starts_with("0\n172."), "{said}");
}
