//! Sets of global transaction identifiers and their arithmetic. Pure: it asks no server.
//!
//! The text is MySQL's (<https://dev.mysql.com/doc/refman/en/replication-gtids-concepts.html>), with the tags that 8.3 brought:
//! `uuid:1-3:5,uuid:tag:1-2`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where transactions come from: a server's UUID and a tag, which is usually empty. Both in lower case.
type Origin = (String, String);

/// A set of transactions. Equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// First and last number of each run: in order, not empty, with a gap between any two.
    runs: BTreeMap<Origin, Vec<(u64, u64)>>,
}

/// The highest number that MySQL gives to a transaction, plus one.
const END: u64 = i64::MAX as u64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a set of GTIDs: {reason}")]
pub struct ParseError {
    text: String,
    reason: String,
}

impl GtidSet {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many transactions it holds.
    pub fn count(&self) -> u64 {
        let runs = self.runs.values().flatten();
        runs.map(|(first, last)| last - first + 1)
            .fold(0, u64::saturating_add)
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        self.minus(other).is_empty()
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut runs = BTreeMap::new();
        for (origin, mine) in &self.runs {
            let theirs = other.runs.get(origin).map_or(&[][..], Vec::as_slice);
            let left = minus(mine, theirs);
            if !left.is_empty() {
                runs.insert(origin.clone(), left);
            }
        }
        Self { runs }
    }

    /// What is in either.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut runs = self.runs.clone();
        for (origin, theirs) in &other.runs {
            let mine = runs.entry(origin.clone()).or_default();
            mine.extend(theirs);
            *mine = joined(std::mem::take(mine));
        }
        Self { runs }
    }

    /// Each run: where it comes from (UUID and tag, which is usually empty), its first and its last number.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &str, u64, u64)> {
        self.runs.iter().flat_map(|((uuid, tag), runs)| {
            (runs.iter()).map(move |(first, last)| (uuid.as_str(), tag.as_str(), *first, *last))
        })
    }

    /// With the transaction that the server of this UUID numbers next: the first number that is free.
    #[must_use]
    pub fn with_next_of(&self, uuid: &str) -> Self {
        let origin = (uuid.to_ascii_lowercase(), String::new());
        let next = match self.runs.get(&origin).and_then(|runs| runs.first()) {
            Some((1, last)) => last + 1,
            _ => 1,
        };
        self.plus(&Self {
            runs: BTreeMap::from([(origin, vec![(next, next)])]),
        })
    }
}

/// Puts runs in order and joins those that touch.
fn joined(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (first, last) in runs {
        match joined.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn minus(mine: &[(u64, u64)], theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(first, last) in mine {
        let mut first = first;
        for &(from, to) in theirs {
            if to < first {
                continue;
            }
            if from > last || first > last {
                break;
            }
            if from > first {
                left.push((first, from - 1));
            }
            first = to + 1;
        }
        if first <= last {
            left.push((first, last));
        }
    }
    left
}

impl FromStr for GtidSet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = |reason: String| ParseError {
            text: text.to_owned(),
            reason,
        };
        let mut all: BTreeMap<Origin, Vec<(u64, u64)>> = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let uuid = words.next().unwrap_or_default().to_ascii_lowercase();
            if !is_uuid(&uuid) {
                return Err(refused(format!("{uuid:?} is not a UUID")));
            }
            let mut tag = String::new();
            let mut found = false;
            for word in words {
                if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    tag = word.to_ascii_lowercase();
                    continue;
                }
                let run = run(word).ok_or_else(|| {
                    refused(format!("{word:?} is neither a number nor a run of them"))
                })?;
                found = true;
                all.entry((uuid.clone(), tag.clone()))
                    .or_default()
                    .push(run);
            }
            if !found {
                return Err(refused(format!("{part:?} holds no number")));
            }
        }
        let runs = all
            .into_iter()
            .map(|(origin, runs)| (origin, joined(runs)))
            .collect();
        Ok(Self { runs })
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn run(word: &str) -> Option<(u64, u64)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last && last < END).then_some((first, last))
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Option<&str> = None;
        for ((uuid, tag), runs) in &self.runs {
            match before {
                Some(same) if same == uuid => {}
                Some(_) => write!(f, ",{uuid}")?,
                None => f.write_str(uuid)?,
            }
            before = Some(uuid);
            if !tag.is_empty() {
                write!(f, ":{tag}")?;
            }
            for (first, last) in runs {
                if first == last {
                    write!(f, ":{first}")?;
                } else {
                    write!(f, ":{first}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.replace("A:", &format!("{A}:"))
            .replace("B:", &format!("{B}:"))
            .parse()
            .expect("a set")
    }

    fn short(set: &GtidSet) -> String {
        set.to_string().replace(A, "A").replace(B, "B")
    }

    #[test]
    fn every_way_to_write_a_set_gives_the_same_text() {
        for (text, wanted) in [
            ("", ""),
            (" , ", ""),
            ("A:1", "A:1"),
            ("A:5:1-3:4", "A:1-5"),
            ("A:1-3,\nB:7,A:9", "A:1-3:9,B:7"),
            ("B:1,A:1", "A:1,B:1"),
            ("A:1-3:Tag:4:6-7:other:1", "A:1-3:other:1:tag:4:6-7"),
            ("A:tag:1,A:2", "A:2:tag:1"),
        ] {
            assert_eq!(short(&set(text)), wanted, "{text:?}");
        }
        assert_eq!(set("A:1").to_string(), format!("{A}:1"));
        assert_eq!(
            A.to_uppercase() + ":1",
            "3E11FA47-71CA-11E1-9E33-C80AA9429562:1"
        );
        assert_eq!(
            (A.to_uppercase() + ":1").parse::<GtidSet>().expect("a set"),
            set("A:1")
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in [
            "x:1".to_owned(),
            A.to_owned(),
            format!("{A}:"),
            format!("{A}:0"),
            format!("{A}:3-1"),
            format!("{A}:1-"),
            format!("{A}:-"),
            format!("{A}:1-9223372036854775807"),
            format!("{A}:tag"),
            "3e11fa47-71ca-11e1-9e33+c80aa9429562:1".to_owned(),
        ] {
            let error = text.parse::<GtidSet>().expect_err(&text);
            assert!(error.to_string().contains("is not a set of GTIDs"));
        }
    }

    #[test]
    fn errant_transactions_are_what_the_source_lacks() {
        for (replica, source, errant) in [
            ("A:1-10", "A:1-10", ""),
            ("A:1-10", "A:1-20,B:1", ""),
            ("A:1-10,B:1-2", "A:1-20", "B:1-2"),
            ("A:1-21", "A:1-5:8-20", "A:6-7:21"),
            ("A:5-9", "A:1-3:7:12", "A:5-6:8-9"),
            ("A:tag:1", "A:1", "A:tag:1"),
            ("A:1", "", "A:1"),
        ] {
            let (replica, source) = (set(replica), set(source));
            assert_eq!(short(&replica.minus(&source)), errant);
            assert_eq!(replica.is_subset(&source), errant.is_empty());
        }
    }

    #[test]
    fn runs_are_told_one_by_one_and_the_next_number_is_known() {
        let told: Vec<_> = set("A:1-3:5,B:tag:7")
            .runs()
            .map(|(uuid, tag, first, last)| format!("{} {tag} {first} {last}", uuid == A))
            .collect();
        assert_eq!(told, ["true  1 3", "true  5 5", "false tag 7 7"]);
        for (before, after) in [
            ("A:1-3:5", "A:1-5"),
            ("", "A:1"),
            ("A:4", "A:1:4"),
            ("B:1", "A:1,B:1"),
        ] {
            assert_eq!(short(&set(before).with_next_of(&A.to_uppercase())), after);
        }
    }

    type Plain = BTreeSet<(u8, u8, u64)>;

    /// Small numbers, so that sets meet.
    fn plain() -> impl Strategy<Value = Plain> {
        proptest::collection::btree_set((0..2u8, 0..2u8, 1..12u64), 0..24)
    }

    fn of(plain: &Plain) -> GtidSet {
        let words: Vec<String> = plain
            .iter()
            .map(|(uuid, tag, number)| {
                let uuid = if *uuid == 0 { A } else { B };
                let tag = if *tag == 0 { "" } else { "tag:" };
                format!("{uuid}:{tag}{number}")
            })
            .collect();
        words.join(",").parse().expect("a set")
    }

    proptest! {
        #[test]
        fn it_is_a_set(a in plain(), b in plain()) {
            let (left, right) = (of(&a), of(&b));
            prop_assert_eq!(left.minus(&right), of(&a.difference(&b).copied().collect()));
            prop_assert_eq!(left.plus(&right), of(&a.union(&b).copied().collect()));
            prop_assert_eq!(left.is_subset(&right), a.is_subset(&b));
            prop_assert_eq!(left.count(), a.len() as u64);
            prop_assert_eq!(left.is_empty(), a.is_empty());
            prop_assert_eq!(left.to_string().parse::<GtidSet>().expect("our own text"), left);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f:,\\- _]{0,60}") {
            let _ = text.parse::<GtidSet>();
        }
    }
}
