//! Builds the smallest Debian appliance and says when each step began: `cargo run --release --example appliance -- CACHE_DIR`.

use std::ops::ControlFlow;
use std::path::Path;

use ondol_image::{DEFAULT_CACHE_DIR, DiskSpec, Distribution, Progress, Recipe, build_disk};

fn main() -> Result<(), ondol_image::Error> {
    let cache_dir = std::env::args().nth(1);
    let cache_dir = cache_dir.as_deref().unwrap_or(DEFAULT_CACHE_DIR);
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    let spec = DiskSpec::new(DiskSpec::DEFAULT_SIZE_MIB);
    let mut say = |progress: Progress| {
        if let Some(news) = progress.news {
            println!("{:6.1} s  {news}", progress.elapsed.as_secs_f64());
        }
        ControlFlow::Continue(())
    };
    let disk = build_disk(&recipe, &spec, Path::new(cache_dir), &mut say)?;
    println!("{}  {}", disk.manifest.ova_sha256, disk.ova.display());
    Ok(())
}
