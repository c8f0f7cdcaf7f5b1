//! The provider by itself: how long Terraform waits for its handshake, and how much memory it takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, median};

const ROUNDS: usize = 30;
const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";

/// From exec to the handshake line, as Terraform's plugin client starts a provider.
pub fn handshake() -> Result<Vec<Figure>> {
    let key = rcgen::KeyPair::generate().context("make a client key")?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
        .self_signed(&key)?
        .pem();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut provider = Command::new("terraform-provider-ondol")
            .env("TF_PLUGIN_MAGIC_COOKIE", COOKIE)
            .env("PLUGIN_PROTOCOL_VERSIONS", "6")
            .env("PLUGIN_CLIENT_CERT", &certificate)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start terraform-provider-ondol")?;
        let mut line = String::new();
        BufReader::new(provider.stdout.take().context("the provider's output")?)
            .read_line(&mut line)?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        provider.kill().context("end the provider")?;
        provider.wait().context("wait for the provider")?;
        ensure!(line.starts_with("1|6|unix|"), "not a handshake: {line:?}");
    }
    Ok(vec![Figure::alone(
        "provider: exec to handshake, median of 30",
        median(times),
        "ms",
    )])
}

/// Watches every provider process until it is stopped and keeps the largest resident set that one of them had.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub fn start() -> Self {
        let (stop, peak_kib) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, peak) = (stop.clone(), peak_kib.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let read = |name: &str| {
                        fs::read_to_string(entry.path().join(name)).unwrap_or_default()
                    };
                    if read("comm").starts_with("terraform-provi") {
                        peak.fetch_max(high_water_kib(&read("status")), Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        Watch {
            stop,
            peak_kib,
            thread,
        }
    }

    /// The largest resident set seen, in MiB.
    pub fn finish(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.peak_kib.load(Ordering::Relaxed) as f64 / 1024.0
    }
}

fn high_water_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}
