//! What a dump says of itself, and which of its lines RDS's master user may not repeat. Pure.
//!
//! The lines are those of mysqldump 8.0.26 and newer with `--source-data=2 --set-gtid-purged=COMMENTED`.

use std::borrow::Cow;

use crate::gtid::GtidSet;

/// Reads a dump line by line.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// The text of the set so far, while its lines go on.
    open: Option<String>,
    set: Option<String>,
    log: Option<(String, u64)>,
    complete: bool,
}

/// Where the snapshot lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) gtids: GtidSet,
    /// Of the source's binary log: file and position.
    pub(super) log: (String, u64),
}

/// What only a server's own administrator may say: a session without a binary log. RDS needs its own for backups and for the way back.
const NOT_ON_RDS: [&str; 3] = [
    "SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;",
    "SET @@SESSION.SQL_LOG_BIN= 0;",
    "SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;",
];

/// How lines begin that name a definer: of views, triggers, routines and events.
const DEFINED: [&str; 4] = [
    "/*!50013 DEFINER=",
    "/*!50003 CREATE*/ /*!50017 DEFINER=",
    "CREATE DEFINER=",
    "/*!50106 CREATE*/ /*!50117 DEFINER=",
];

/// The line without ``DEFINER=`user`@`host` ``; `None` if it does not look like that.
fn without_definer(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("DEFINER=")?;
    let after = after_identifier(after_identifier(rest)?.strip_prefix('@')?)?;
    Some(format!("{before}{after}"))
}

/// What comes after a name in backticks, in which a backtick is written twice.
fn after_identifier(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('`')?;
    loop {
        rest = &rest[rest.find('`')? + 1..];
        match rest.strip_prefix('`') {
            Some(more) => rest = more,
            None => return Some(rest),
        }
    }
}

impl Script {
    /// What is to be passed on of a line, which may end with a line feed. Views, triggers, routines and events become the master user's: accounts
    /// are not copied, and what belongs to one that does not exist cannot be used.
    pub(super) fn pass<'a>(&mut self, line: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.open.is_none() && DEFINED.iter().any(|it| line.starts_with(it.as_bytes())) {
            return Some(match without_definer(&String::from_utf8_lossy(line)) {
                Some(text) => Cow::Owned(text.into_bytes()),
                None => Cow::Borrowed(line),
            });
        }
        self.passes(line).then_some(Cow::Borrowed(line))
    }

    fn passes(&mut self, line: &[u8]) -> bool {
        // Rows are on long lines; none of the lines that are of interest is.
        let of_interest = ["SET @", "/* SET @", "-- "];
        if self.open.is_none() && !of_interest.iter().any(|it| line.starts_with(it.as_bytes())) {
            return true;
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if let Some(open) = &mut self.open {
            *open += text;
        } else if let Some((_, rest)) = text
            .split_once("SET @@GLOBAL.GTID_PURGED=")
            .filter(|_| self.set.is_none())
        {
            let rest = rest.trim_start_matches("/*!80000 '+'*/ ");
            self.open = Some(rest.trim_start_matches('\'').to_owned());
        } else {
            if let Some(rest) = text.strip_prefix("-- CHANGE ") {
                self.log = log(rest).or(self.log.take());
            }
            self.complete |= text.starts_with("-- Dump completed");
            return !NOT_ON_RDS.contains(&text);
        }
        if let Some(open) = &self.open
            && let Some((set, _)) = open.split_once('\'')
        {
            self.set = Some(set.trim_start_matches('+').to_owned());
            self.open = None;
        }
        false
    }

    /// What was said, once the dump is over. A text says what is missing.
    pub(super) fn end(self) -> Result<Snapshot, String> {
        if !self.complete {
            return Err("the dump was cut off".to_owned());
        }
        let set = self
            .set
            .ok_or("the dump does not say which transactions it holds")?;
        let log = self
            .log
            .ok_or("the dump does not say where it lies in the binary log")?;
        Ok(Snapshot {
            gtids: set.parse().map_err(|error| format!("{error}"))?,
            log,
        })
    }
}

/// Of `REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000003', SOURCE_LOG_POS=157;`, or the same with the older names.
fn log(text: &str) -> Option<(String, u64)> {
    let (_, rest) = text.split_once("_LOG_FILE='")?;
    let (file, rest) = rest.split_once('\'')?;
    let (_, position) = rest.split_once("_LOG_POS=")?;
    Some((
        file.to_owned(),
        position.trim_end_matches(';').parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn read(text: &str) -> (String, Result<Snapshot, String>) {
        let mut script = Script::default();
        let passed = text
            .split_inclusive('\n')
            .filter_map(|line| script.pass(line.as_bytes()))
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .collect();
        (passed, script.end())
    }

    #[test]
    fn a_dump_says_where_it_lies_and_loses_only_what_rds_refuses() {
        let dump = format!(
            "-- MySQL dump 10.13\n/*!40103 SET TIME_ZONE='+00:00' */;\nSET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\n\
             SET @@SESSION.SQL_LOG_BIN= 0;\n--\n/* SET @@GLOBAL.GTID_PURGED='+{A}:1-57,\n{B}:1-3';*/\n\
             -- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000003', SOURCE_LOG_POS=157;\n\
             INSERT INTO `t` VALUES (1,'SET @@SESSION.SQL_LOG_BIN= 0;');\nSET @other = 1;\n\
             SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n-- Dump completed on 2026-11-23  0:30:00\n"
        );
        let (passed, snapshot) = read(&dump);
        assert_eq!(
            passed,
            "-- MySQL dump 10.13\n/*!40103 SET TIME_ZONE='+00:00' */;\n--\n\
             -- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000003', SOURCE_LOG_POS=157;\n\
             INSERT INTO `t` VALUES (1,'SET @@SESSION.SQL_LOG_BIN= 0;');\nSET @other = 1;\n-- Dump completed on 2026-11-23  0:30:00\n"
        );
        let snapshot = snapshot.expect("a snapshot");
        assert_eq!(snapshot.gtids.to_string(), format!("{A}:1-57,{B}:1-3"));
        assert_eq!(snapshot.log, ("binlog.000003".to_owned(), 157));
        let uncommented = format!(
            "SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '{A}:1-5';\n-- CHANGE MASTER TO MASTER_LOG_FILE='b.1', MASTER_LOG_POS=4;\n-- Dump completed\n"
        );
        let snapshot = read(&uncommented).1.expect("a snapshot");
        assert_eq!(snapshot.gtids.to_string(), format!("{A}:1-5"));
        assert_eq!(snapshot.log, ("b.1".to_owned(), 4));
    }

    #[test]
    fn what_is_defined_becomes_the_master_users() {
        for (line, passed) in [
            (
                "/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */\n",
                "/*!50013  SQL SECURITY DEFINER */\n",
            ),
            (
                "/*!50003 CREATE*/ /*!50017 DEFINER=`o``k`@`%`*/ /*!50003 TRIGGER `t` AFTER INSERT ON `a` FOR EACH ROW SET @a = 1 */;;\n",
                "/*!50003 CREATE*/ /*!50017 */ /*!50003 TRIGGER `t` AFTER INSERT ON `a` FOR EACH ROW SET @a = 1 */;;\n",
            ),
            (
                "CREATE DEFINER=`root`@`localhost` PROCEDURE `p`()\n",
                "CREATE  PROCEDURE `p`()\n",
            ),
            (
                "CREATE DEFINER=odd PROCEDURE `p`()\n",
                "CREATE DEFINER=odd PROCEDURE `p`()\n",
            ),
            (
                "INSERT INTO `t` VALUES ('CREATE DEFINER=`a`@`b` ');\n",
                "INSERT INTO `t` VALUES ('CREATE DEFINER=`a`@`b` ');\n",
            ),
        ] {
            assert_eq!(read(line).0, passed);
        }
    }

    #[test]
    fn a_dump_that_was_cut_off_or_says_too_little_is_known() {
        let set = format!("/* SET @@GLOBAL.GTID_PURGED='+{A}:1-5';*/\n");
        let log = "-- CHANGE MASTER TO MASTER_LOG_FILE='b.1', MASTER_LOG_POS=4;\n";
        let end = "-- Dump completed\n";
        for (text, words) in [
            (format!("{set}{log}"), "cut off"),
            (format!("{log}{end}"), "which transactions"),
            (format!("{set}{end}"), "binary log"),
        ] {
            let error = read(&text).1.expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}
