//! The version that VBoxManage prints, and what depends on it.
//!
//! Only what changes a command line is decided here.

use std::fmt;
use std::str::FromStr;

/// A release of VirtualBox. Distribution suffixes (`7.2.22_Debianr175245`) do not take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub patch: u16,
}

impl Version {
    /// The oldest release whose command line this crate knows.
    pub const OLDEST: Self = Self::new(6, 1, 0);

    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    pub fn is_supported(self) -> bool {
        self >= Self::OLDEST
    }

    /// 7.0 renamed most flags (`--bridgeadapter1` became `--bridge-adapter1`). It still takes the old names, but 6.1 does
    /// not know the new ones.
    pub(crate) fn hyphenates(self) -> bool {
        self >= Self::new(7, 0, 0)
    }

    /// 7.1 made the platform of a new VM an option, since hosts with ARM processors take another default.
    pub(crate) fn names_platform(self) -> bool {
        self >= Self::new(7, 1, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What was printed in a version's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of VirtualBox")]
pub struct NotAVersion(pub String);

impl FromStr for Version {
    type Err = NotAVersion;

    /// Reads the last line of `VBoxManage --version`: Debian's start script prints a warning before it.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let line = line.unwrap_or_default();
        let mut numbers = line.splitn(3, '.').map(|part| {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            part[..digits].parse::<u16>().ok()
        });
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) => {
                Ok(Self::new(major, minor, patch))
            }
            _ => Err(NotAVersion(line.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_printed() {
        for (text, expected) in [
            ("7.2.22_Debianr175245\n", "7.2.22"),
            ("6.1.50r161033\r\n", "6.1.50"),
            ("7.0.14_Ubuntur161095", "7.0.14"),
            ("7.1.0_BETA2r164424", "7.1.0"),
            (
                "WARNING: The character device /dev/vboxdrv does not exist.\n\n7.2.0r170228\n",
                "7.2.0",
            ),
        ] {
            let version: Version = text.parse().unwrap();
            assert_eq!(version.to_string(), expected);
        }
        for text in ["", "command not found", "7.2", "a.b.c"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_older_than_6_1_is_not_supported() {
        assert!(!Version::new(6, 0, 24).is_supported());
        assert!(Version::new(6, 1, 0).is_supported());
        assert!(Version::new(7, 2, 22).hyphenates());
    }
}
