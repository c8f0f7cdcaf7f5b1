//! The bill of materials: SPDX 2.3 as JSON, one package for each file of the pool. Pure.

use serde_json::{Value, json};

use super::snapshot::Manifest;

/// The same for the same manifest. Licences are not in the indexes and so are not told.
pub(crate) fn spdx(manifest: &Manifest) -> Value {
    let packages: Vec<Value> = manifest
        .packages
        .iter()
        .enumerate()
        .map(|(number, entry)| {
            json!({
                "SPDXID": element(number),
                "name": entry.name,
                "versionInfo": entry.version,
                "packageFileName": entry.file,
                "downloadLocation": entry.source,
                "filesAnalyzed": false,
                "supplier": "NOASSERTION",
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": "NOASSERTION",
                "copyrightText": "NOASSERTION",
                "primaryPackagePurpose": "INSTALL",
                "checksums": [{ "algorithm": "SHA256", "checksumValue": entry.sha256 }],
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": purl(&entry.name, &entry.version, &entry.architecture, &manifest.suite),
                }],
            })
        })
        .collect();
    let describes: Vec<Value> = (0..manifest.packages.len())
        .map(|number| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": element(number),
            })
        })
        .collect();
    let namespace = uuid::Uuid::new_v5(
        &uuid::Uuid::NAMESPACE_OID,
        format!("{}/{}", manifest.id, manifest.digest).as_bytes(),
    );
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("apt mirror {} {}", manifest.name, manifest.id),
        "documentNamespace": format!("urn:uuid:{namespace}"),
        "creationInfo": {
            "created": manifest.created,
            "creators": [concat!("Tool: ondol-mirror-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": describes,
    })
}

/// Not by digest: one file may be listed in two components.
fn element(number: usize) -> String {
    format!("SPDXRef-Package-{number}")
}

/// Package URL of type `deb`. Which distribution made a package its index does not say, so that the vendor is left out.
fn purl(name: &str, version: &str, architecture: &str, suite: &str) -> String {
    let quote = |text: &str| {
        let mut quoted = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
                quoted.push(char::from(byte));
            } else {
                quoted += &format!("%{byte:02X}");
            }
        }
        quoted
    };
    format!(
        "pkg:deb/{}@{}?arch={}&distro={}",
        quote(name),
        quote(version),
        quote(architecture),
        quote(suite)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_url_quotes_what_must_be_quoted() {
        assert_eq!(
            purl("g++", "4:12.2.0-3", "amd64", "bookworm"),
            "pkg:deb/g%2B%2B@4%3A12.2.0-3?arch=amd64&distro=bookworm"
        );
    }
}
