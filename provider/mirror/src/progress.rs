//! How far a sync is: counted where the work is done, told a few times a second to whoever wants to know. Prints nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Told while a sync runs: at least four times a second, and once more at the end.
pub trait Progress: Send + Sync {
    fn report(&self, status: &Status);
}

/// For callers that do not want to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: &Status) {}
}

impl<F: Fn(&Status) + Send + Sync> Progress for F {
    fn report(&self, status: &Status) {
        self(status);
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// What is going on, for example `fetch packages`.
    pub phase: String,
    pub elapsed: Duration,
    /// Files of the present phase.
    pub files_done: u64,
    pub files_total: u64,
    /// Bytes of the present phase, those that were there already not counted.
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Bytes that came over the line since the beginning, of all phases.
    pub bytes_received: u64,
    /// Requests since the beginning, of all phases.
    pub requests: u64,
    /// Bytes a second, over the last few seconds.
    pub rate: f64,
    /// Of the present phase, at the present rate.
    pub remaining: Option<Duration>,
}

impl fmt::Display for Status {
    /// One line: `fetch packages: 120/1500 files, 34.5/410.0 MB, 11.2 MB/s, 34 s left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        f.write_str(&self.phase)?;
        if self.files_total > 0 {
            write!(
                f,
                ": {}/{} files, {:.1}/{:.1} MB",
                self.files_done,
                self.files_total,
                mb(self.bytes_done),
                mb(self.bytes_total)
            )?;
            if self.rate > 0.0 {
                write!(f, ", {:.1} MB/s", self.rate / 1e6)?;
            }
            if let Some(remaining) = self.remaining {
                write!(f, ", {} s left", remaining.as_secs_f64().ceil())?;
            }
        }
        Ok(())
    }
}

/// The counters. Shared by the tasks that fetch.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    phase: Mutex<String>,
    files_done: AtomicU64,
    files_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_received: AtomicU64,
    requests: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            phase: Mutex::default(),
            files_done: AtomicU64::default(),
            files_total: AtomicU64::default(),
            bytes_done: AtomicU64::default(),
            bytes_total: AtomicU64::default(),
            bytes_received: AtomicU64::default(),
            requests: AtomicU64::default(),
        }
    }
}

impl Meter {
    /// Begins a phase of `files` files and `bytes` bytes. Zero where that is not known or not the point.
    pub fn phase(&self, name: impl Into<String>, files: u64, bytes: u64) {
        *self.phase.lock().expect("nothing panics under this lock") = name.into();
        self.files_done.store(0, Ordering::Relaxed);
        self.bytes_done.store(0, Ordering::Relaxed);
        self.files_total.store(files, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of this phase that did not have to come over the line.
    pub(crate) fn resumed(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes counted as done that turned out to be of no use.
    pub(crate) fn discarded(&self, bytes: u64) {
        self.bytes_done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn file_done(&self) {
        self.files_done(1);
    }

    pub(crate) fn files_done(&self, files: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
    }

    /// Bytes that came over the line so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    /// Requests sent so far, retries included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn status(&self, window: &Window) -> Status {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (done, total) = (load(&self.bytes_done), load(&self.bytes_total));
        let rate = window.rate();
        let left = total.saturating_sub(done);
        Status {
            phase: self
                .phase
                .lock()
                .expect("nothing panics under this lock")
                .clone(),
            elapsed: self.began.elapsed(),
            files_done: load(&self.files_done),
            files_total: load(&self.files_total),
            bytes_done: done,
            bytes_total: total,
            bytes_received: load(&self.bytes_received),
            requests: load(&self.requests),
            rate,
            remaining: (rate > 0.0 && total > 0)
                .then(|| Duration::try_from_secs_f64(left as f64 / rate).ok())
                .flatten(),
        }
    }

    /// Runs `work` and tells `progress` how far it is meanwhile.
    pub async fn shown<T>(&self, progress: &dyn Progress, work: impl Future<Output = T>) -> T {
        const TICK: Duration = Duration::from_millis(200);
        let mut window = Window::default();
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    window.push(self.began.elapsed(), self.bytes_received());
                    progress.report(&self.status(&window));
                    return done;
                }
                _ = tick.tick() => {
                    window.push(self.began.elapsed(), self.bytes_received());
                    progress.report(&self.status(&window));
                }
            }
        }
    }
}

/// What came in over the last few seconds.
#[derive(Debug, Default)]
struct Window(VecDeque<(Duration, u64)>);

impl Window {
    const LENGTH: Duration = Duration::from_secs(5);

    fn push(&mut self, at: Duration, bytes: u64) {
        self.0.push_back((at, bytes));
        while self.0.len() > 2 && at - self.0[0].0 > Self::LENGTH {
            self.0.pop_front();
        }
    }

    fn rate(&self) -> f64 {
        match (self.0.front(), self.0.back()) {
            (Some((from, before)), Some((to, after))) if to > from => {
                (after - before) as f64 / (*to - *from).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut window = Window::default();
        assert_eq!(window.rate(), 0.0);
        for second in 0..=10 {
            window.push(Duration::from_secs(second), second * second * 100);
        }
        assert_eq!(window.rate(), (10_000.0 - 2_500.0) / 5.0);
    }

    #[test]
    fn a_line_says_counts_bytes_rate_and_time_left() {
        let meter = Meter::default();
        meter.phase("fetch packages", 1500, 410_000_000);
        meter.resumed(10_000_000);
        meter.received(24_500_000);
        meter.file_done();
        let mut window = Window::default();
        window.push(Duration::ZERO, 0);
        window.push(Duration::from_secs(2), 24_500_000);
        assert_eq!(
            meter.status(&window).to_string(),
            "fetch packages: 1/1500 files, 34.5/410.0 MB, 12.2 MB/s, 31 s left"
        );
        meter.phase("publish", 0, 0);
        assert_eq!(meter.status(&window).to_string(), "publish");
    }
}
