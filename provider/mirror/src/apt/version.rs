//! Order of Debian versions: deb-version(7), "Sorting algorithm". Pure.

use std::cmp::Ordering;

/// Compares as dpkg does. Any text has a place in the order; malformed versions are for others to find.
pub fn compare(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (a_epoch, a) = epoch(a);
    let (b_epoch, b) = epoch(b);
    let (a_upstream, a_revision) = revision(a);
    let (b_upstream, b_revision) = revision(b);
    compare_numbers(a_epoch.as_bytes(), b_epoch.as_bytes())
        .then_with(|| compare_part(a_upstream.as_bytes(), b_upstream.as_bytes()))
        .then_with(|| compare_part(a_revision.as_bytes(), b_revision.as_bytes()))
}

fn epoch(version: &str) -> (&str, &str) {
    version.split_once(':').unwrap_or(("0", version))
}

fn revision(version: &str) -> (&str, &str) {
    // No revision is the same as revision 0, which is the same as an empty one.
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Runs of other characters and runs of digits by turns.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (x, y) = (weight(a), weight(b));
            match x.cmp(&y) {
                Ordering::Equal if x == 0 => break,
                Ordering::Equal => (a, b) = (&a[1..], &b[1..]),
                unequal => return unequal,
            }
        }
        let (a_digits, a_rest) = digits(a);
        let (b_digits, b_rest) = digits(b);
        let order = compare_numbers(a_digits, b_digits);
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
    Ordering::Equal
}

/// Of the first character: a tilde before the end of the text, that before letters, those before the rest. A digit ends the run.
fn weight(text: &[u8]) -> i32 {
    match text.first() {
        None | Some(b'0'..=b'9') => 0,
        Some(b'~') => -1,
        Some(&letter) if letter.is_ascii_alphabetic() => i32::from(letter),
        Some(&other) => i32::from(other) + 256,
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Of any length, so that no date or hash overflows.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    fn significant(digits: &[u8]) -> &[u8] {
        let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
        &digits[zeros..]
    }
    let (a, b) = (significant(a), significant(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ascending = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0.1~beta2",
            "0.1",
            "0.1a",
            "0.1+b1",
            "0.1.1",
            "0.9",
            "0.10",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+deb12u1",
            "1.0-1.1",
            "1.0-2",
            "1.0-10",
            "1.0a-1",
            "1.0+dfsg-1",
            "20240101000000000000000000001",
            "1:0.1",
            "1:1.0-1~bpo12+1",
            "1:1.0-1",
            "10:0",
        ];
        for (index, low) in ascending.iter().enumerate() {
            assert_eq!(compare(low, low), Ordering::Equal);
            for high in &ascending[index + 1..] {
                assert_eq!(compare(low, high), Ordering::Less, "{low} << {high}");
                assert_eq!(compare(high, low), Ordering::Greater, "{high} >> {low}");
            }
        }
    }

    #[test]
    fn zeros_in_front_and_a_missing_revision_make_no_difference() {
        for (a, b) in [
            ("1.0", "1.00"),
            ("1.0", "1.0-0"),
            ("0:1", "1"),
            ("1.0-01", "1.0-1"),
            ("a", "a0"),
        ] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} = {b}");
        }
    }

    #[test]
    fn dpkg_itself_agrees() {
        let versions = [
            "1.0", "1.0~", "1.0-1", "1:0", "2.0+b1", "2.0a", "2.0.", "1.0-1~1", "1.10", "1.9-0",
        ];
        for a in versions {
            for b in versions {
                let word = match compare(a, b) {
                    Ordering::Less => "lt",
                    Ordering::Equal => "eq",
                    Ordering::Greater => "gt",
                };
                let status = std::process::Command::new("dpkg")
                    .args(["--compare-versions", a, word, b])
                    .status();
                let Ok(status) = status else {
                    assert!(std::env::var_os("CI").is_none(), "dpkg is not installed");
                    eprintln!("SKIPPED: dpkg is not installed");
                    return;
                };
                assert!(status.success(), "{a} {word} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in VERSION, b in VERSION, c in VERSION) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            let mut three = [a, b, c];
            three.sort_by(|a, b| compare(a, b));
            prop_assert!(compare(&three[0], &three[2]) != Ordering::Greater);
        }

        #[test]
        fn no_text_makes_it_panic(a in ".*", b in ".*") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }
    }

    const VERSION: &str = "([0-9]:)?[0-9a-c.+~]{0,6}(-[0-9a-c.+~]{0,3})?";
}
