//! The packets of MySQL's protocol that are spoken here, to and from bytes. Pure.
//!
//! Layouts are those of <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basics.html>. A server is not trusted to send what it
//! should: every read is checked.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::Refusal;

pub(super) const QUIT: u8 = 1;
pub(super) const QUERY: u8 = 3;
/// A packet of this length is followed by another part.
pub(super) const LONGEST: usize = 0xff_ffff;

const LONG_PASSWORD: u32 = 1;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const MULTI_RESULTS: u32 = 1 << 17;
const PLUGIN_AUTH: u32 = 1 << 19;
const CONNECT_ATTRIBUTES: u32 = 1 << 20;
const LONG_PROOF: u32 = 1 << 21;
const DEPRECATE_EOF: u32 = 1 << 24;
const SPOKEN: u32 = LONG_PASSWORD
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | MULTI_RESULTS
    | PLUGIN_AUTH
    | CONNECT_ATTRIBUTES
    | LONG_PROOF
    | DEPRECATE_EOF;
/// utf8mb4_general_ci, which every server knows.
const CHARSET: u8 = 45;
const MORE_RESULTS: u16 = 8;

/// The server said something that is not its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("a packet that ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self, bytes: usize) -> Result<u64> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn short(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(
            self.take(2)?.try_into().expect("two bytes"),
        ))
    }

    /// An integer of variable length.
    fn length(&mut self) -> Result<usize> {
        let number = match self.byte()? {
            0xfc => self.number(2)?,
            0xfd => self.number(3)?,
            0xfe => self.number(8)?,
            0xff | 0xfb => return Err(Malformed("a length that is none")),
            small => u64::from(small),
        };
        usize::try_from(number).map_err(|_| Malformed("a length beyond memory"))
    }

    fn counted(&mut self) -> Result<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// Up to a zero, or to the end.
    fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = String::from_utf8_lossy(&self.0[..end.unwrap_or(self.0.len())]).into_owned();
        self.0 = end.map_or(&[], |end| &self.0[end + 1..]);
        text
    }
}

/// What a server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub version: String,
    pub challenge: Vec<u8>,
    pub plugin: String,
    capabilities: u32,
}

impl Greeting {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        if reader.byte()? != 10 {
            return Err(Malformed("a greeting of another protocol"));
        }
        let version = reader.text();
        reader.take(4)?;
        let mut challenge = reader.take(8)?.to_vec();
        reader.take(1)?;
        let low = reader.short()?;
        reader.take(3)?;
        let high = reader.short()?;
        let capabilities = u32::from(high) << 16 | u32::from(low);
        if capabilities & PROTOCOL_41 == 0 || capabilities & PLUGIN_AUTH == 0 {
            return Err(Malformed("a server from before MySQL 5.5"));
        }
        let length = usize::from(reader.byte()?);
        reader.take(10)?;
        let rest = reader.take(length.saturating_sub(8).max(13))?;
        challenge.extend(rest.strip_suffix(b"\0").unwrap_or(rest));
        Ok(Self {
            version,
            challenge,
            plugin: reader.text(),
            capabilities,
        })
    }

    pub(super) fn offers_tls(&self) -> bool {
        self.capabilities & SSL != 0
    }
}

fn login_head(tls: bool) -> Vec<u8> {
    let capabilities = SPOKEN | if tls { SSL } else { 0 };
    let mut bytes = capabilities.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(LONGEST).expect("24 bits").to_le_bytes());
    bytes.push(CHARSET);
    bytes.extend([0; 23]);
    bytes
}

/// Asks for TLS; the same words follow again inside it.
pub(super) fn tls_request() -> Vec<u8> {
    login_head(true)
}

pub(super) fn login(user: &str, proof: &[u8], plugin: &str, tls: bool) -> Vec<u8> {
    let mut bytes = login_head(tls);
    bytes.extend(user.bytes().chain([0]));
    push_counted(&mut bytes, proof);
    bytes.extend(plugin.bytes().chain([0]));
    let mut attributes = Vec::new();
    for word in ["program_name", "ondol", "_client_name", "ondol"] {
        push_counted(&mut attributes, word.as_bytes());
    }
    push_counted(&mut bytes, &attributes);
    bytes
}

/// All that is sent this way is short.
fn push_counted(to: &mut Vec<u8>, bytes: &[u8]) {
    to.push(u8::try_from(bytes.len()).expect("shorter than 251 bytes"));
    to.extend(bytes);
}

/// The server's part in a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    Done,
    Refused,
    Switch {
        plugin: String,
        challenge: Vec<u8>,
    },
    /// The server knew the proof; it says that all is well next.
    Known,
    /// The server has only the stored text, and needs the password to compare.
    WantsPassword,
}

impl Login {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            0 => Ok(Self::Done),
            0xff => Ok(Self::Refused),
            0xfe => {
                let plugin = reader.text();
                let challenge = reader.0.strip_suffix(b"\0").unwrap_or(reader.0).to_vec();
                Ok(Self::Switch { plugin, challenge })
            }
            1 => match reader.byte()? {
                3 => Ok(Self::Known),
                4 => Ok(Self::WantsPassword),
                _ => Err(Malformed("a login that goes on in an unknown way")),
            },
            _ => Err(Malformed("an unknown answer to a login")),
        }
    }
}

/// `mysql_native_password`, for servers from before 8.0: SHA1(password) XOR SHA1(challenge SHA1(SHA1(password))).
pub(super) fn native_scramble(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let once = sha1(password);
    let mask = sha1(&[challenge, sha1(once.as_ref()).as_ref()].concat());
    let pairs = once.as_ref().iter().zip(mask.as_ref());
    pairs.map(|(byte, mask)| byte ^ mask).collect()
}

/// How the answer to a statement begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Refused,
    Done { more: bool },
    Columns(usize),
}

impl Answer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        match bytes.first() {
            Some(0xff) => Ok(Self::Refused),
            Some(0) => Ok(Self::Done { more: more(bytes)? }),
            Some(0xfb) => Err(Malformed("a wish for a local file")),
            _ => Ok(Self::Columns(Reader(bytes).length()?)),
        }
    }
}

/// Whether another answer follows this OK.
fn more(bytes: &[u8]) -> Result<bool> {
    let mut reader = Reader(bytes);
    reader.byte()?;
    reader.length()?;
    reader.length()?;
    Ok(reader.short()? & MORE_RESULTS != 0)
}

/// The alias of a column: catalog, schema, table and original table come before it.
pub(super) fn column_name(bytes: &[u8]) -> Result<String> {
    let mut reader = Reader(bytes);
    for _ in 0..4 {
        reader.counted()?;
    }
    Ok(String::from_utf8_lossy(reader.counted()?).into_owned())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Row(Vec<Option<String>>),
    End { more: bool },
    Refused,
}

pub(super) fn row(bytes: &[u8], columns: usize) -> Result<Line> {
    match bytes.first() {
        Some(0xff) => return Ok(Line::Refused),
        // A row may begin so too, with a value of more than 16 MiB.
        Some(0xfe) if bytes.len() < LONGEST => return Ok(Line::End { more: more(bytes)? }),
        _ => {}
    }
    let mut reader = Reader(bytes);
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        if reader.0.first() == Some(&0xfb) {
            reader.byte()?;
            row.push(None);
        } else {
            row.push(Some(
                String::from_utf8_lossy(reader.counted()?).into_owned(),
            ));
        }
    }
    Ok(Line::Row(row))
}

/// An ERR packet. Before the login it has no SQLSTATE.
pub(super) fn refusal(bytes: &[u8]) -> Result<Refusal> {
    let mut reader = Reader(bytes);
    reader.byte()?;
    let code = reader.short()?;
    if reader.0.first() == Some(&b'#') {
        reader.take(6)?;
    }
    Ok(Refusal {
        code,
        message: String::from_utf8_lossy(reader.0).into_owned(),
    })
}

/// The payload with headers, in as many parts as it takes.
pub(super) fn frames(payload: &[u8], sequence: &mut u8) -> Vec<Vec<u8>> {
    let mut rest = payload;
    let mut frames = Vec::new();
    loop {
        let (part, after) = rest.split_at(rest.len().min(LONGEST));
        let [a, b, c, _] = u32::try_from(part.len()).expect("24 bits").to_le_bytes();
        frames.push([&[a, b, c, *sequence], part].concat());
        *sequence = sequence.wrapping_add(1);
        rest = after;
        if part.len() < LONGEST {
            return frames;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As MySQL 9.7.4 greets.
    fn greeting() -> Vec<u8> {
        let mut bytes = b"\x0a9.7.4-2\0".to_vec();
        bytes.extend([9, 0, 0, 0]);
        bytes.extend(b"12345678\0");
        bytes.extend([0xff, 0xff, 255, 2, 0, 0xff, 0xdf, 21]);
        bytes.extend([0; 10]);
        bytes.extend(b"abcdefghijkl\0caching_sha2_password\0");
        bytes
    }

    #[test]
    fn a_greeting_is_read() {
        let read = Greeting::parse(&greeting()).expect("a greeting");
        assert_eq!(read.version, "9.7.4-2");
        assert_eq!(read.challenge, b"12345678abcdefghijkl");
        assert_eq!(read.plugin, "caching_sha2_password");
        assert!(read.offers_tls());
    }

    #[test]
    fn a_refusal_is_read_with_and_without_a_state() {
        let refusal = |bytes: &[u8]| {
            let read = refusal(bytes).expect("a refusal");
            (read.code, read.message)
        };
        assert_eq!(
            refusal(b"\xff\x15\x04#28000Access denied"),
            (1045, "Access denied".to_owned())
        );
        assert_eq!(
            refusal(b"\xff\x10\x04Too many connections"),
            (1040, "Too many connections".to_owned())
        );
    }

    #[test]
    fn rows_and_their_end_are_told_apart() {
        assert_eq!(
            row(b"\x01a\xfb\x00", 3),
            Ok(Line::Row(vec![
                Some("a".to_owned()),
                None,
                Some(String::new())
            ]))
        );
        assert_eq!(
            row(&[0xfe, 0, 0, 2, 0, 0, 0], 3),
            Ok(Line::End { more: false })
        );
        assert_eq!(
            row(&[0xfe, 0, 0, 10, 0, 0, 0], 3),
            Ok(Line::End { more: true })
        );
        assert!(row(b"\x05ab", 1).is_err());
    }

    #[test]
    fn a_long_payload_goes_in_parts() {
        let mut sequence = 0;
        let sent = frames(&vec![b'x'; LONGEST + 1], &mut sequence);
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0][..4], [0xff, 0xff, 0xff, 0]);
        assert_eq!(sent[1], [1, 0, 0, 1, b'x']);
        assert_eq!(frames(b"", &mut sequence), [[0, 0, 0, 2]]);
    }

    #[test]
    fn a_login_says_who_and_proves_it() {
        let bytes = login("app", b"proof", "caching_sha2_password", false);
        let tail = b"app\0\x05proofcaching_sha2_password\0";
        assert_eq!(bytes[32..32 + tail.len()], tail[..]);
        assert_eq!(native_scramble(b"", b"12345678"), Vec::<u8>::new());
        assert_eq!(native_scramble(b"x", b"12345678901234567890").len(), 20);
    }

    proptest! {
        #[test]
        fn no_server_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), columns in 0..4usize) {
            let _ = Greeting::parse(&bytes);
            let _ = Login::parse(&bytes);
            let _ = Answer::parse(&bytes);
            let _ = column_name(&bytes);
            let _ = row(&bytes, columns);
            let _ = refusal(&bytes);
        }
    }
}
