//! One sync of one mirror from the command line, with what it cost as a line of JSON.
//!
//! ```text
//! sync --url http://127.0.0.1:8080 --suite bookworm --keyring upstream.gpg --path /srv/mirror --cache /tmp/cache [--package nginx]...
//! sync --machine Debian --suite bookworm --path /srv/mirror --package nginx --plan
//! ```
//!
//! Without `--package` whole components are taken. Progress goes to standard error.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use ondol_mirror::apt::{
    self, Config, DEFAULT_SITE_KEY, Keyring, Machine, Request, Selection, Trust, Upstream,
};
use ondol_mirror::fetch::Options;
use ondol_mirror::progress::Status;
use ondol_mirror::{Cache, CancellationToken, DEFAULT_CACHE_DIR};

#[derive(Parser)]
struct Arguments {
    /// Root of the archive; more than one are the same archive.
    #[arg(long, required_unless_present = "machine")]
    url: Vec<String>,
    /// Take this machine's apt sources of this distribution, for example Debian.
    #[arg(long, conflicts_with = "url")]
    machine: Option<String>,
    #[arg(long)]
    suite: String,
    #[arg(long, default_value = "main")]
    component: Vec<String>,
    /// Whatever the archive says is believed without this.
    #[arg(long)]
    keyring: Option<PathBuf>,
    #[arg(long, default_value = "amd64")]
    architecture: Vec<String>,
    #[arg(long)]
    path: PathBuf,
    #[arg(long, default_value = "example")]
    name: String,
    #[arg(long, default_value = DEFAULT_CACHE_DIR)]
    cache: PathBuf,
    #[arg(long, default_value = DEFAULT_SITE_KEY)]
    site_key: PathBuf,
    #[arg(long)]
    package: Vec<String>,
    #[arg(long)]
    recommends: bool,
    #[arg(long)]
    essential: bool,
    #[arg(long)]
    priority: Vec<String>,
    #[arg(long)]
    allow_missing: bool,
    #[arg(long, default_value_t = 3)]
    keep: usize,
    #[arg(long)]
    pin: Option<String>,
    #[arg(long)]
    parallel: Option<usize>,
    /// Only say what would be done.
    #[arg(long)]
    plan: bool,
    #[arg(long)]
    quiet: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let config = config(&arguments)?;
    let cache = Cache::open(&arguments.cache)?;
    let quiet = arguments.quiet;
    let progress = move |status: &Status| {
        if !quiet {
            eprint!("\r\x1b[K{status}");
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let began = Instant::now();
    if arguments.plan {
        let plan = runtime.block_on(apt::plan(
            &config,
            &cache,
            &progress,
            CancellationToken::new(),
        ))?;
        eprintln!();
        print!("{}", plan.delta);
        println!(
            "{}",
            serde_json::json!({
                "seconds": began.elapsed().as_secs_f64(),
                "up_to_date": plan.up_to_date,
                "packages": plan.package_count,
                "downloads": plan.download_count,
                "download_bytes": plan.download_bytes,
            })
        );
        return Ok(());
    }
    let snapshot = runtime.block_on(apt::sync(
        &config,
        &cache,
        &progress,
        CancellationToken::new(),
    ))?;
    eprintln!();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    println!(
        "{}",
        serde_json::json!({
            "seconds": began.elapsed().as_secs_f64(),
            "cpu_seconds": seconds(usage.user_time()) + seconds(usage.system_time()),
            "peak_memory_bytes": usage.max_rss() * 1024,
            "requests": snapshot.requests,
            "bytes_received": snapshot.bytes_received,
            "packages": snapshot.package_count,
            "size_bytes": snapshot.size_bytes,
            "missing": snapshot.missing.len(),
            "changed": snapshot.changed,
            "snapshot": snapshot.id,
            "digest": snapshot.digest,
        })
    );
    Ok(())
}

fn config(arguments: &Arguments) -> Result<Config, Box<dyn std::error::Error>> {
    let (upstreams, fetch) = match &arguments.machine {
        Some(distribution) => {
            let machine = Machine::observe()?;
            (
                machine.upstreams(distribution, &arguments.suite)?,
                machine.fetch_options(),
            )
        }
        None => (vec![upstream(arguments)?], Options::default()),
    };
    Ok(Config {
        name: arguments.name.clone(),
        path: std::path::absolute(&arguments.path)?,
        suite: Path::new(&arguments.suite).file_name().map_or_else(
            || arguments.name.clone(),
            |name| name.to_string_lossy().into_owned(),
        ),
        upstreams,
        architectures: arguments.architecture.clone(),
        selection: if arguments.package.is_empty() {
            Selection::Everything
        } else {
            Selection::Closure(Request {
                packages: arguments.package.clone(),
                recommends: arguments.recommends,
                essential: arguments.essential,
                priorities: arguments.priority.clone(),
            })
        },
        allow_missing: arguments.allow_missing,
        keep: arguments.keep,
        pin: arguments.pin.clone(),
        site_key: std::path::absolute(&arguments.site_key)?,
        fetch: Options {
            parallel: arguments.parallel.unwrap_or(fetch.parallel),
            ..fetch
        },
    })
}

fn upstream(arguments: &Arguments) -> Result<Upstream, Box<dyn std::error::Error>> {
    let is_flat = arguments.suite.ends_with('/');
    Ok(Upstream {
        uris: arguments.url.clone(),
        suite: arguments.suite.clone(),
        components: if is_flat {
            Vec::new()
        } else {
            arguments.component.clone()
        },
        trust: match &arguments.keyring {
            Some(path) => Trust::Keyring(Keyring::load(path)?),
            None => Trust::Anyone,
        },
        check_valid_until: true,
    })
}
