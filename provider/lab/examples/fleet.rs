//! Boots a number of VMs at once and measures them: `fleet IMAGE_ROOTFS [COUNT]`, as root. Uses the lab `fleet` and destroys it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ondol_lab::{Features, Lab, LabConfig, Seed, VmSpec};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image: PathBuf = arguments
        .next()
        .ok_or_else(|| anyhow::anyhow!("usage: fleet IMAGE_ROOTFS [COUNT]"))?
        .into();
    let count: usize = arguments.next().map_or(Ok(40), |text| text.parse())?;
    let lab = Lab::open(LabConfig::new("fleet"))?;
    lab.destroy()?;
    let result = measure(&lab, &image, count);
    let began = Instant::now();
    lab.destroy()?;
    println!(
        "destroyed              {:6.2} s",
        began.elapsed().as_secs_f64()
    );
    result
}

fn measure(lab: &Lab, image: &std::path::Path, count: usize) -> anyhow::Result<()> {
    let before = used_mib()?;
    let began = Instant::now();
    let next = Mutex::new(0..count);
    let addresses = Mutex::new(Vec::new());
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    loop {
                        let Some(index) = next.lock().expect("no panic").next() else {
                            return Ok(());
                        };
                        let spec = VmSpec {
                            name: format!("vm-{index:02}"),
                            host: format!("srv-{:02}", index / 2),
                            image: image.to_owned(),
                            cpus: 1,
                            memory_mib: 512,
                            disks: Default::default(),
                            interfaces: Vec::new(),
                            shared_folders: Default::default(),
                            features: Features::default(),
                            seed: Seed::default(),
                        };
                        lab.create(&spec)?;
                        let vm = lab.start(&spec.name)?;
                        addresses
                            .lock()
                            .expect("no panic")
                            .push(vm.first_boot_address);
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    println!(
        "created and started    {:6.2} s",
        began.elapsed().as_secs_f64()
    );
    let addresses = addresses.into_inner()?;
    lab.in_network(|| {
        for address in &addresses {
            let to = SocketAddr::from((*address, 22));
            while std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_err() {
                anyhow::ensure!(
                    began.elapsed() < Duration::from_secs(120),
                    "{to} does not answer"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    })??;
    println!(
        "all answer on port 22  {:6.2} s",
        began.elapsed().as_secs_f64()
    );
    std::thread::sleep(Duration::from_secs(10));
    println!(
        "memory used            {:6} MiB more, with the page cache not counted",
        used_mib()? - before
    );
    let status = lab.status()?;
    let total: u64 = status.iter().filter_map(|status| status.memory_bytes).sum();
    println!("memory of the cgroups  {:6} MiB", total / 1024 / 1024);
    let observed = Instant::now();
    lab.list()?;
    println!(
        "list                   {:6.1} ms",
        observed.elapsed().as_secs_f64() * 1000.0
    );
    Ok(())
}

/// MemTotal - MemFree - Buffers - Cached - SReclaimable + Shmem, as free(1) counts.
fn used_mib() -> anyhow::Result<i64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| -> i64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    let cached = field("Buffers") + field("Cached") + field("SReclaimable") - field("Shmem");
    Ok((field("MemTotal") - field("MemFree") - cached) / 1024)
}
