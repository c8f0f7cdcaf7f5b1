//! Dates as Release files write them, in seconds since 1970. Pure.

/// Days since 1970-01-01 of a date of the Gregorian calendar. Counted in eras of 400 years that begin in March, so that the leap day is
/// the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month, day.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Reads `Sat, 17 May 2025 08:46:29 UTC`, with or without the weekday, also with `GMT`, `Z` or an offset such as `+0200`.
pub fn parse(text: &str) -> Option<i64> {
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_whitespace();
    let number = |text: &str, low: i64, high: i64| {
        let digits =
            !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
        let value: i64 = digits.then(|| text.parse().ok()).flatten()?;
        (low..=high).contains(&value).then_some(value)
    };
    let day = number(words.next()?, 1, 31)?;
    let month = words.next()?;
    let month = MONTHS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(month))?
        + 1;
    let year = number(words.next()?, 1970, 9999)?;
    let mut time = words.next()?.split(':');
    let hour = number(time.next()?, 0, 23)?;
    let minute = number(time.next()?, 0, 59)?;
    let second = number(time.next().unwrap_or("0"), 0, 60)?;
    let offset = match words.next() {
        None | Some("UTC" | "GMT" | "Z") => 0,
        Some(zone) => {
            let (sign, digits) = match zone.split_at_checked(1)? {
                ("+", digits) => (1, digits),
                ("-", digits) => (-1, digits),
                _ => return None,
            };
            let (hours, minutes) = digits.split_at_checked(2)?;
            sign * (number(hours, 0, 14)? * 3600 + number(minutes, 0, 59)? * 60)
        }
    };
    let month = i64::try_from(month).expect("there are twelve");
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// As [`parse`] reads it, in UTC.
pub fn format(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[usize::try_from(days.rem_euclid(7)).expect("less than seven")];
    let month = MONTHS[usize::try_from(month - 1).expect("at most twelve")];
    let (hour, minute, second) = time(seconds);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `20250517T084629Z`: sorts by time and is a file name.
pub fn compact(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let (hour, minute, second) = time(seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2025-05-17T08:46:29Z` (RFC 3339).
pub fn iso(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let (hour, minute, second) = time(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn time(seconds: i64) -> (i64, i64, i64) {
    let of_day = seconds.rem_euclid(86_400);
    (of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_of_release_files_are_read() {
        let expected = Some(1_747_471_589);
        for text in [
            "Sat, 17 May 2025 08:46:29 UTC",
            "Sat, 17 May 2025 08:46:29 +0000",
            "Sat, 17 May 2025 10:46:29 +0200",
            "17 may 2025 08:46:29 GMT",
            "Sat, 17 May 2025  8:46:29 Z",
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "Sat, 17 May 2025",
            "Sat, 17 Mai 2025 08:46:29 UTC",
            "Sat, 17 May 2025 25:00:00 UTC",
            "Sat, 17 May 2025 08:46:29 CET",
            "1 Jan 1 1:1:1 +é0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_written_in_three_ways() {
        let leap_day = 1_709_210_096;
        assert_eq!(format(leap_day), "Thu, 29 Feb 2024 12:34:56 UTC");
        assert_eq!(compact(leap_day), "20240229T123456Z");
        assert_eq!(iso(leap_day), "2024-02-29T12:34:56Z");
        assert_eq!(format(0), "Thu, 01 Jan 1970 00:00:00 UTC");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds in 0_i64..250_000_000_000) {
            prop_assert_eq!(parse(&format(seconds)), Some(seconds));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            parse(&text);
        }
    }
}
