//! Files of this machine that stand for an upstream.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::course::Broken;
use super::{Download, check_length};
use crate::error::Failure;
use crate::pool::Partial;
use crate::progress::Meter;

pub(super) async fn read_local(
    partial: &mut Partial,
    path: &Path,
    download: &Download,
    meter: &Meter,
) -> Result<(), Broken> {
    use tokio::io::AsyncReadExt as _;
    meter.discarded(partial.size());
    partial.restart().map_err(Broken::Local)?;
    let mut file = tokio::fs::File::open(path).await.map_err(local_failure)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).await.map_err(local_failure)?;
        if count == 0 {
            break;
        }
        check_length(partial, &buffer[..count], download)?;
        partial.write(&buffer[..count]).map_err(Broken::Local)?;
        meter.received(count as u64);
    }
    match download.size {
        Some(expected) if partial.size() < expected => Err(Failure::WrongSize {
            got: partial.size(),
            expected,
        }
        .into()),
        _ => Ok(()),
    }
}

pub(super) fn local_failure(error: std::io::Error) -> Broken {
    match error.kind() {
        ErrorKind::NotFound => Failure::NotFound.into(),
        _ => Failure::Transport(error.to_string()).into(),
    }
}

/// `file:/x`, `file:///x`, `copy:/x`: apt's two names for a local directory.
pub(super) fn local_path(url: &str) -> Option<PathBuf> {
    let rest = url
        .strip_prefix("file:")
        .or_else(|| url.strip_prefix("copy:"))?;
    let path = match rest.strip_prefix("//") {
        // A host name may stand here, and only this machine makes sense.
        Some(rest) => &rest[rest.find('/')?..],
        None => rest,
    };
    Some(PathBuf::from(percent_decoded(path)))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let byte = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[index]));
        index += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_have_several_forms() {
        for url in [
            "file:/a/b%20c",
            "file:///a/b%20c",
            "file://localhost/a/b%20c",
            "copy:/a/b c",
        ] {
            assert_eq!(local_path(url), Some(PathBuf::from("/a/b c")), "{url}");
        }
        assert_eq!(local_path("http://a/b"), None);
        assert_eq!(local_path("file:///%zz%4"), Some(PathBuf::from("/%zz%4")));
    }
}
