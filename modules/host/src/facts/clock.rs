//! The date and time as facts, in the machine's time zone. The C library knows the zone's rules; nothing is computed
//! here but the text.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::libc;
use serde_json::{Value, json};

pub(super) fn now() -> anyhow::Result<Value> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("read the clock: it is before 1970")?;
    let seconds =
        libc::time_t::try_from(since.as_secs()).context("read the clock: it is out of range")?;
    Ok(facts(
        seconds,
        since.subsec_micros(),
        &Broken::local(seconds)?,
        &Broken::utc(seconds)?,
        &summer_name(),
    ))
}

fn facts(
    seconds: libc::time_t,
    micros: u32,
    local: &Broken,
    utc: &Broken,
    summer_name: &str,
) -> Value {
    json!({
        "year": local.format("%Y"),
        "month": local.format("%m"),
        "weekday": local.format("%A"),
        "weekday_number": local.format("%w"),
        "weeknumber": local.format("%W"),
        "day": local.format("%d"),
        "hour": local.format("%H"),
        "minute": local.format("%M"),
        "second": local.format("%S"),
        "epoch": seconds.to_string(),
        "epoch_int": seconds.to_string(),
        "date": local.format("%Y-%m-%d"),
        "time": local.format("%H:%M:%S"),
        "iso8601_micro": format!("{}.{micros:06}Z", utc.format("%Y-%m-%dT%H:%M:%S")),
        "iso8601": utc.format("%Y-%m-%dT%H:%M:%SZ"),
        "iso8601_basic": format!("{}{micros:06}", local.format("%Y%m%dT%H%M%S")),
        "iso8601_basic_short": local.format("%Y%m%dT%H%M%S"),
        "tz": local.format("%Z"),
        "tz_dst": summer_name,
        "tz_offset": local.format("%z"),
    })
}

/// A moment taken apart by the C library.
struct Broken(libc::tm);

impl Broken {
    fn local(seconds: libc::time_t) -> anyhow::Result<Self> {
        let mut parts = MaybeUninit::uninit();
        // SAFETY: both pointers are valid for the call. `tzset` first, because localtime_r need not read the zone; the
        // process has no thread that changes TZ.
        let parts = unsafe {
            tzset();
            if libc::localtime_r(&raw const seconds, parts.as_mut_ptr()).is_null() {
                anyhow::bail!("convert {seconds} s to local time");
            }
            parts.assume_init()
        };
        Ok(Self(parts))
    }

    fn utc(seconds: libc::time_t) -> anyhow::Result<Self> {
        let mut parts = MaybeUninit::uninit();
        // SAFETY: both pointers are valid for the call.
        let parts = unsafe {
            if libc::gmtime_r(&raw const seconds, parts.as_mut_ptr()).is_null() {
                anyhow::bail!("convert {seconds} s to UTC");
            }
            parts.assume_init()
        };
        Ok(Self(parts))
    }

    fn format(&self, format: &str) -> String {
        let format = CString::new(format).expect("formats are literals without NUL");
        let mut text = [0_u8; 128];
        // SAFETY: the buffer's length is passed, the format ends in NUL, and the parts were filled by the C library.
        let length = unsafe {
            libc::strftime(
                text.as_mut_ptr().cast(),
                text.len(),
                format.as_ptr(),
                &raw const self.0,
            )
        };
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

unsafe extern "C" {
    fn tzset();
    static tzname: [*const libc::c_char; 2];
}

/// The zone's abbreviation in summer, or its only one.
fn summer_name() -> String {
    // SAFETY: after `tzset` the C library holds two strings there, and nothing in this process changes them meanwhile.
    unsafe {
        tzset();
        CStr::from_ptr(tzname[1]).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_moment_reads_as_setup_writes_it() {
        let utc = Broken::utc(1_795_354_718).expect("in range");
        let facts = facts(1_795_354_718, 137_304, &utc, &utc, "GMT");
        assert_eq!(
            facts,
            json!({
                "date": "2026-11-22", "day": "22", "epoch": "1795354718", "epoch_int": "1795354718",
                "hour": "13", "iso8601": "2026-11-22T13:38:38Z",
                "iso8601_basic": "20261122T133838137304", "iso8601_basic_short": "20261122T133838",
                "iso8601_micro": "2026-11-22T13:38:38.137304Z", "minute": "38", "month": "11",
                "second": "38", "time": "13:38:38", "tz": "GMT", "tz_dst": "GMT",
                "tz_offset": "+0000", "weekday": "Sunday", "weekday_number": "0",
                "weeknumber": "46", "year": "2026",
            })
        );
    }
}
