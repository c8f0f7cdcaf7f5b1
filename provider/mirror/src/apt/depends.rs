//! Relationship fields of binary packages: Debian policy, chapter 7. Pure.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// What a version must be to the one that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Relation {
    pub fn holds(self, have: &str, wanted: &str) -> bool {
        let order = version::compare(have, wanted);
        match self {
            Self::Earlier => order == Ordering::Less,
            Self::EarlierOrEqual => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::LaterOrEqual => order != Ordering::Less,
            Self::Later => order == Ordering::Greater,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        })
    }
}

/// One package name with its conditions, for example `python3:any (>= 3.11)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term<'a> {
    pub name: &'a str,
    /// After the colon, for example `any`.
    pub architecture: Option<&'a str>,
    pub version: Option<(Relation, &'a str)>,
}

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(architecture) = self.architecture {
            write!(f, ":{architecture}")?;
        }
        match self.version {
            Some((relation, version)) => write!(f, " ({relation} {version})"),
            None => Ok(()),
        }
    }
}

/// The clauses of a field, all of which must hold; each as it is written.
pub fn clauses(field: &str) -> impl Iterator<Item = &str> {
    field
        .split(',')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
}

/// The alternatives of a clause, one of which must hold. Those that cannot be understood are left out: they hold for nothing.
pub fn alternatives(clause: &str) -> impl Iterator<Item = Term<'_>> {
    clause.split('|').filter_map(term)
}

/// Architecture lists and build profiles, which are for source packages, are passed over.
pub fn term(text: &str) -> Option<Term<'_>> {
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '(' | '[' | '<'))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (name, architecture) = match name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (name, None),
    };
    if name.is_empty() {
        return None;
    }
    let version = match rest.trim_start().strip_prefix('(') {
        Some(rest) => Some(condition(rest.split_once(')')?.0.trim())?),
        None => None,
    };
    Some(Term {
        name,
        architecture,
        version,
    })
}

fn condition(text: &str) -> Option<(Relation, &str)> {
    const RELATIONS: [(&str, Relation); 7] = [
        ("<<", Relation::Earlier),
        ("<=", Relation::EarlierOrEqual),
        (">=", Relation::LaterOrEqual),
        (">>", Relation::Later),
        ("=", Relation::Equal),
        // Of old, and with this meaning in spite of their looks.
        ("<", Relation::EarlierOrEqual),
        (">", Relation::LaterOrEqual),
    ];
    let (sign, relation) = RELATIONS.iter().find(|(sign, _)| text.starts_with(sign))?;
    let version = text[sign.len()..].trim();
    (!version.is_empty()).then_some((*relation, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_is_clauses_of_alternatives() {
        let field = "libc6 (>= 2.36), python3:any (<<3.12),\n debconf (>= 0.5) | debconf-2.0,, x [amd64] <!nocheck>, y ( = 1:2-3 )";
        let read: Vec<Vec<Term<'_>>> = clauses(field)
            .map(|clause| alternatives(clause).collect())
            .collect();
        let plain = |name| Term {
            name,
            architecture: None,
            version: None,
        };
        assert_eq!(
            read,
            [
                vec![Term {
                    version: Some((Relation::LaterOrEqual, "2.36")),
                    ..plain("libc6")
                }],
                vec![Term {
                    architecture: Some("any"),
                    version: Some((Relation::Earlier, "3.12")),
                    ..plain("python3")
                }],
                vec![
                    Term {
                        version: Some((Relation::LaterOrEqual, "0.5")),
                        ..plain("debconf")
                    },
                    plain("debconf-2.0")
                ],
                vec![plain("x")],
                vec![Term {
                    version: Some((Relation::Equal, "1:2-3")),
                    ..plain("y")
                }],
            ]
        );
        assert_eq!(read[1][0].to_string(), "python3:any (<< 3.12)");
    }

    #[test]
    fn what_cannot_be_understood_holds_for_nothing() {
        for text in ["", " ", "(>= 1)", "a (1)", "a (>= 1", "a (>=)", ":any"] {
            assert_eq!(term(text), None, "{text:?}");
        }
    }

    #[test]
    fn relations_compare_versions() {
        let all = [
            (Relation::Earlier, [true, false, false]),
            (Relation::EarlierOrEqual, [true, true, false]),
            (Relation::Equal, [false, true, false]),
            (Relation::LaterOrEqual, [false, true, true]),
            (Relation::Later, [false, false, true]),
        ];
        for (relation, expected) in all {
            assert_eq!(
                ["1", "2", "3"].map(|have| relation.holds(have, "2")),
                expected,
                "{relation}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_a_term_reads_as_it_is_written(text in ".*") {
            for clause in clauses(&text) {
                for read in alternatives(clause) {
                    let again = read.to_string();
                    if !read.architecture.is_some_and(str::is_empty) {
                        prop_assert_eq!(term(&again).map(|term| term.to_string()), Some(again));
                    }
                }
            }
        }
    }
}
