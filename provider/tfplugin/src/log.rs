//! Log lines that Terraform understands: hclog's JSON on stderr. Terraform passes on what its own level allows, so this
//! only keeps what would be thrown away there from being made.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries below this one, which are silent unless something is wrong with them.
const LIBRARIES: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];

/// Sends `tracing` events of this process to Terraform.
pub(crate) fn start() {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let level = level(
        variable("TF_LOG_PROVIDER")
            .or_else(|| variable("TF_LOG"))
            .as_deref(),
    );
    let filter = Targets::new()
        .with_default(level)
        .with_targets(LIBRARIES.map(|library| (library, level.min(LevelFilter::WARN))));
    // A provider that set up its own subscriber keeps it.
    drop(
        tracing_subscriber::registry()
            .with(HcLog.with_filter(filter))
            .try_init(),
    );
}

/// The level of Terraform's own variable. Without one, Terraform drops everything, so only errors are written.
fn level(text: Option<&str>) -> LevelFilter {
    match text.map(str::to_ascii_uppercase).as_deref() {
        Some("TRACE" | "JSON") => LevelFilter::TRACE,
        Some("DEBUG") => LevelFilter::DEBUG,
        Some("INFO") => LevelFilter::INFO,
        Some("WARN") => LevelFilter::WARN,
        Some("OFF") => LevelFilter::OFF,
        _ => LevelFilter::ERROR,
    }
}

struct HcLog;

impl<S: Subscriber> Layer<S> for HcLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line(event, SystemTime::now());
        // Nobody is left to tell when stderr is gone.
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    }
}

fn line(event: &Event<'_>, now: SystemTime) -> Value {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let Fields(mut line) = fields;
    let level = match *event.metadata().level() {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    };
    line.insert("@level".to_owned(), level.into());
    line.insert("@module".to_owned(), event.metadata().target().into());
    line.insert("@timestamp".to_owned(), timestamp(now).into());
    Value::Object(line)
}

/// RFC 3339 with exactly six digits of a second, because go-plugin reads no other number of them.
fn timestamp(now: SystemTime) -> String {
    let now = prost_types::Timestamp::from(now);
    let whole = prost_types::Timestamp { nanos: 0, ..now };
    let micros = now.nanos / 1000;
    format!("{}.{micros:06}Z", whole.to_string().trim_end_matches('Z'))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            "message" => "@message",
            name => name,
        };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timestamp_is_written_as_go_plugin_reads_it() {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_795_354_581, 7_000);
        assert_eq!(timestamp(at), "2026-11-22T13:36:21.000007Z");
    }

    #[test]
    fn terraforms_own_levels_decide_what_is_written() {
        let cases = [
            (None, LevelFilter::ERROR),
            (Some("trace"), LevelFilter::TRACE),
            (Some("JSON"), LevelFilter::TRACE),
            (Some("Info"), LevelFilter::INFO),
            (Some("off"), LevelFilter::OFF),
        ];
        for (text, expected) in cases {
            assert_eq!(level(text), expected, "{text:?}");
        }
    }
}
