//! A small client of the RDS API: one signed request, one answer in XML.
//!
//! Written out here and not taken from Amazon's SDK, which brings an asynchronous runtime and some hundred crates to every target for five calls.
//! It does not look for credentials, retry, or follow redirects. The signature is version 4:
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use ondol_database::connection::Patience;
use ondol_database::{Check, Stream};
use ondol_kit::{Invalid, Secret};
use ring::{digest, hmac};
use roxmltree::{Document, Node};
use schemars::JsonSchema;
use serde::Deserialize;

/// How the AWS API is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Region, such as V(ap-northeast-2).
    pub region: String,
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// Token of a temporary key.
    pub session_token: Option<Secret>,
    /// Another address than the region's own, C(http://) or C(https://) with host and port: a proxy, or a stand-in in tests. Over C(http://) nobody
    /// proves who answers.
    pub endpoint: Option<String>,
    /// Authorities that the API's certificate may be signed by.
    #[serde(default = "system_authorities")]
    pub ca_file: String,
}

fn system_authorities() -> String {
    "/etc/ssl/certs/ca-certificates.crt".to_owned()
}

/// [`Account`] after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    account: Account,
    host: String,
    port: u16,
    encrypted: bool,
}

/// What the API said no to: its own code, such as `DBInstanceNotFound`, and words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the AWS API says to {action}: {message} ({code})")]
pub struct Refused {
    pub action: String,
    pub code: String,
    pub message: String,
}

const VERSION: &str = "2014-10-31";
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(60),
};

impl Api {
    pub fn new(account: Account) -> Result<Self, Invalid> {
        let word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        if !word(&account.region) {
            return Err(Invalid::new("aws.region", "is not the name of one"));
        }
        let wrong = || Invalid::new("aws.endpoint", "must be http:// or https:// with a host");
        let usual = format!("https://rds.{}.amazonaws.com", account.region);
        let url = account.endpoint.as_deref().unwrap_or(&usual);
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let encrypted = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (rest, if encrypted { 443 } else { 80 }),
        };
        if host.is_empty() || host.contains(['/', ' ', '\r', '\n', '@']) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            encrypted,
            account,
        })
    }

    /// The text of the answer, which is XML. A no is a [`Refused`].
    pub fn call(&self, action: &str, parameters: &[(String, String)]) -> anyhow::Result<String> {
        let body = form(action, parameters);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("read the clock")?;
        let request = self.request(&body, now.as_secs());
        let answer = self
            .exchange(request.as_bytes())
            .with_context(|| format!("ask the AWS API at {} to {action}", self.host))?;
        let (status, body) = response(&answer)?;
        if status == 200 {
            return Ok(body);
        }
        let (code, message) = refusal(&body).unwrap_or((status.to_string(), body));
        Err(Refused {
            action: action.to_owned(),
            code,
            message,
        }
        .into())
    }

    fn exchange(&self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut stream = Stream::dial(&self.host, self.port, PATIENCE)?;
        if self.encrypted {
            let check = Check::Host(Path::new(&self.account.ca_file));
            stream
                .encrypt(&self.host, &check)
                .map_err(anyhow::Error::msg)?;
        }
        stream.write_all(request)?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // A server that closes without a last word of TLS: the length in the answer tells whether it is whole.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            other => drop(other?),
        }
        Ok(answer)
    }

    fn host_header(&self) -> String {
        match (self.encrypted, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// The whole request, signed at that time.
    fn request(&self, body: &str, unix_s: u64) -> String {
        let time = basic_time(unix_s);
        let mut headers = vec![
            ("content-type", TYPE.to_owned()),
            ("host", self.host_header()),
            ("x-amz-date", time.clone()),
        ];
        if let Some(token) = &self.account.session_token {
            headers.push(("x-amz-security-token", token.expose().to_owned()));
        }
        let signed = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let signed = signed.join(";");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let canonical = format!("POST\n/\n\n{lines}\n{signed}\n{}", sha256(body.as_bytes()));
        let scope = format!("{}/{}/rds/aws4_request", &time[..8], self.account.region);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            sha256(canonical.as_bytes())
        );
        let secret = format!("AWS4{}", self.account.secret_access_key.expose());
        let mut key = secret.into_bytes();
        for part in [&time[..8], &self.account.region, "rds", "aws4_request"] {
            key = sign(&key, part.as_bytes());
        }
        let signature = hex(&sign(&key, to_sign.as_bytes()));
        let head: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "POST / HTTP/1.1\r\n{head}authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}\r\n\
             content-length: {}\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n{body}",
            self.account.access_key_id,
            body.len()
        )
    }
}

const TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

fn form(action: &str, parameters: &[(String, String)]) -> String {
    let first = [("Action", action), ("Version", VERSION)];
    let rest = parameters.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let pairs = first.into_iter().chain(rest);
    let words: Vec<String> = pairs
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    words.join("&")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20150830T123600Z`, of seconds since 1970. The civil calendar from days: an era of 400 years has 146097 of them, and begins in March.
fn basic_time(unix_s: u64) -> String {
    let days = unix_s / 86400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Status and body of an HTTP answer.
fn response(bytes: &[u8]) -> anyhow::Result<(u16, String)> {
    let text = std::str::from_utf8(bytes).context("the AWS API's answer is not text")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the AWS API's answer was cut off")?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.context("what answered at the AWS API's address does not speak HTTP")?;
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        return Ok((status, joined(body)?));
    }
    if let Some(length) = header("content-length") {
        anyhow::ensure!(
            length.parse() == Ok(body.len()),
            "the AWS API's answer was cut off"
        );
    }
    Ok((status, body.to_owned()))
}

/// A body that came in chunks, each behind its length.
fn joined(mut text: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    loop {
        let Some((length, rest)) = text.split_once("\r\n") else {
            bail!("the AWS API's answer was cut off");
        };
        let length = length.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).context("read the length of a chunk")?;
        if length == 0 {
            return Ok(body);
        }
        body += rest
            .get(..length)
            .context("the AWS API's answer was cut off")?;
        text = rest
            .get(length..)
            .and_then(|it| it.strip_prefix("\r\n"))
            .context("the AWS API's answer was cut off")?;
    }
}

/// Code and message of an `ErrorResponse`.
fn refusal(body: &str) -> Option<(String, String)> {
    let document = Document::parse(body).ok()?;
    let error = document
        .descendants()
        .find(|it| it.tag_name().name() == "Error")?;
    Some((text(error, "Code"), text(error, "Message")))
}

/// The text of a child; empty if there is none.
pub(super) fn text(node: Node<'_, '_>, name: &str) -> String {
    let child = node.children().find(|it| it.tag_name().name() == name);
    let text = child.and_then(|it| it.text()).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(endpoint: Option<&str>) -> Account {
        Account {
            region: "us-east-1".to_owned(),
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
            endpoint: endpoint.map(str::to_owned),
            ca_file: system_authorities(),
        }
    }

    #[test]
    fn times_are_as_calendars_have_them() {
        for (unix_s, wanted) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(basic_time(unix_s), wanted);
        }
    }

    #[test]
    fn the_key_is_derived_as_the_documentation_does_it() {
        // <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>, the example of a signing key.
        let mut key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec();
        for part in ["20150830", "us-east-1", "iam", "aws4_request"] {
            key = sign(&key, part.as_bytes());
        }
        assert_eq!(
            hex(&key),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }

    #[test]
    fn a_request_says_whose_it_is_and_holds_no_secret() {
        let api = Api::new(account(Some("http://127.0.0.1:5000/"))).expect("valid");
        let body = form(
            "DescribeDBInstances",
            &[("DBInstanceIdentifier".to_owned(), "a&b c".to_owned())],
        );
        assert_eq!(
            body,
            "Action=DescribeDBInstances&Version=2014-10-31&DBInstanceIdentifier=a%26b%20c"
        );
        let request = api.request(&body, 1_440_938_160);
        assert!(request.starts_with("POST / HTTP/1.1\r\ncontent-type: "));
        assert!(request.contains("\r\nhost: 127.0.0.1:5000\r\nx-amz-date: 20150830T123600Z\r\n"));
        assert!(request.contains("Credential=AKIDEXAMPLE/20150830/us-east-1/rds/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature="));
        assert!(!request.contains("wJalr") && !format!("{api:?}").contains("wJalr"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        let host = |endpoint| {
            let api = Api::new(account(endpoint)).expect("valid");
            (api.host_header(), api.port, api.encrypted)
        };
        assert_eq!(
            host(None),
            ("rds.us-east-1.amazonaws.com".to_owned(), 443, true)
        );
        assert_eq!(
            host(Some("http://127.0.0.1:5000")),
            ("127.0.0.1:5000".to_owned(), 5000, false)
        );
        for wrong in [
            "127.0.0.1:5000",
            "ftp://a",
            "https://",
            "http://a:b",
            "http://a/b",
        ] {
            assert_eq!(
                Api::new(account(Some(wrong))).expect_err(wrong).param,
                "aws.endpoint"
            );
        }
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>";
        assert_eq!(response(whole).expect("whole"), (200, "<a/>".to_owned()));
        let chunks = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n<a/\r\n1\r\n>\r\n0\r\n\r\n";
        assert_eq!(response(chunks).expect("whole"), (404, "<a/>".to_owned()));
        for cut in [&whole[..whole.len() - 1], &chunks[..60], b"SSH-2.0\r\n\r\n"] {
            assert!(response(cut).is_err());
        }
        let no = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>DBInstanceNotFound</Code><Message>no such</Message></Error></ErrorResponse>";
        assert_eq!(
            refusal(no),
            Some(("DBInstanceNotFound".to_owned(), "no such".to_owned()))
        );
    }
}
