//! The bill of materials: SPDX 2.3 as JSON, one package for each file of the pool. Pure.
//!
//! Serialised straight from the manifest: a tree of JSON values for thousands of packages took longer than all else that is published.

use std::fmt;

use serde::{Serialize, Serializer};

use super::snapshot::Manifest;
use crate::digest::Digest;

/// The same for the same manifest. Licences are not in the indexes and so are not told.
pub(crate) fn spdx(manifest: &Manifest) -> impl Serialize + '_ {
    let packages = manifest
        .packages
        .iter()
        .enumerate()
        .map(|(number, entry)| Package {
            id: Element(number),
            name: &entry.name,
            version_info: &entry.version,
            package_file_name: &entry.file,
            download_location: &entry.source,
            files_analyzed: false,
            supplier: NO_ASSERTION,
            license_concluded: NO_ASSERTION,
            license_declared: NO_ASSERTION,
            copyright_text: NO_ASSERTION,
            primary_package_purpose: "INSTALL",
            checksums: [Checksum {
                algorithm: "SHA256",
                checksum_value: &entry.sha256,
            }],
            external_refs: [Reference {
                category: "PACKAGE-MANAGER",
                kind: "purl",
                locator: PackageUrl {
                    name: &entry.name,
                    version: &entry.version,
                    architecture: &entry.architecture,
                    suite: &manifest.suite,
                },
            }],
        })
        .collect();
    let relationships = (0..manifest.packages.len())
        .map(|number| Relationship {
            spdx_element_id: DOCUMENT,
            relationship_type: "DESCRIBES",
            related_spdx_element: Element(number),
        })
        .collect();
    let namespace = uuid::Uuid::new_v5(
        &uuid::Uuid::NAMESPACE_OID,
        format!("{}/{}", manifest.id, manifest.digest).as_bytes(),
    );
    Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: format!("apt mirror {} {}", manifest.name, manifest.id),
        document_namespace: format!("urn:uuid:{namespace}"),
        creation_info: CreationInfo {
            created: &manifest.created,
            creators: [concat!("Tool: ondol-mirror-", env!("CARGO_PKG_VERSION"))],
        },
        packages,
        relationships,
    }
}

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const NO_ASSERTION: &str = "NOASSERTION";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo<'a>,
    packages: Vec<Package<'a>>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
struct CreationInfo<'a> {
    created: &'a str,
    creators: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package<'a> {
    #[serde(rename = "SPDXID")]
    id: Element,
    name: &'a str,
    version_info: &'a str,
    package_file_name: &'a str,
    download_location: &'a str,
    files_analyzed: bool,
    supplier: &'static str,
    license_concluded: &'static str,
    license_declared: &'static str,
    copyright_text: &'static str,
    primary_package_purpose: &'static str,
    checksums: [Checksum<'a>; 1],
    external_refs: [Reference<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum<'a> {
    algorithm: &'static str,
    checksum_value: &'a Digest,
}

#[derive(Serialize)]
struct Reference<'a> {
    #[serde(rename = "referenceCategory")]
    category: &'static str,
    #[serde(rename = "referenceType")]
    kind: &'static str,
    #[serde(rename = "referenceLocator")]
    locator: PackageUrl<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: &'static str,
    relationship_type: &'static str,
    related_spdx_element: Element,
}

/// By place in the manifest and not by digest: one file may be listed in two components.
struct Element(usize);

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("SPDXRef-Package-{}", self.0))
    }
}

/// Package URL of type `deb`. Which distribution made a package its index does not say, so that the vendor is left out.
struct PackageUrl<'a> {
    name: &'a str,
    version: &'a str,
    architecture: &'a str,
    suite: &'a str,
}

impl fmt::Display for PackageUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pkg:deb/{}@{}?arch={}&distro={}",
            Quoted(self.name),
            Quoted(self.version),
            Quoted(self.architecture),
            Quoted(self.suite)
        )
    }
}

impl Serialize for PackageUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Percent-encoded for a package URL.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~');
        let mut rest = self.0;
        while !rest.is_empty() {
            let plain = rest.find(|c| !is_plain(c)).unwrap_or(rest.len());
            f.write_str(&rest[..plain])?;
            let Some(special) = rest[plain..].chars().next() else {
                break;
            };
            let end = plain + special.len_utf8();
            for byte in rest[plain..end].bytes() {
                write!(f, "%{byte:02X}")?;
            }
            rest = &rest[end..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apt::select::Entry;

    #[test]
    fn a_package_url_quotes_what_must_be_quoted() {
        let url = PackageUrl {
            name: "g++",
            version: "4:12.2.0-3é",
            architecture: "amd64",
            suite: "bookworm",
        };
        assert_eq!(
            url.to_string(),
            "pkg:deb/g%2B%2B@4%3A12.2.0-3%C3%A9?arch=amd64&distro=bookworm"
        );
    }

    #[test]
    fn every_package_is_told_with_its_proof_and_its_place() {
        let sha256 = Digest::of(b"x");
        let manifest = Manifest {
            format: Manifest::FORMAT,
            id: "20260101T000000Z-0123456789ab".to_owned(),
            digest: Digest::of(b"y"),
            name: "site".to_owned(),
            suite: "bookworm".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            components: vec!["main".to_owned()],
            architectures: vec!["amd64".to_owned()],
            indexes: Vec::new(),
            packages: vec![Entry {
                name: "hello".to_owned(),
                version: "2.10-3".to_owned(),
                architecture: "amd64".to_owned(),
                component: "main".to_owned(),
                sha256,
                size: 7,
                file: "pool/2d/2d711642b726b044-hello_2.10-3_amd64.deb".to_owned(),
                source: "http://archive.example/debian/pool/hello.deb".to_owned(),
            }],
            missing: Vec::new(),
        };
        let document = serde_json::to_value(spdx(&manifest)).expect("plain values");
        assert_eq!(
            document,
            json!({
                "spdxVersion": "SPDX-2.3",
                "dataLicense": "CC0-1.0",
                "SPDXID": "SPDXRef-DOCUMENT",
                "name": "apt mirror site 20260101T000000Z-0123456789ab",
                "documentNamespace": document["documentNamespace"],
                "creationInfo": {
                    "created": "2026-01-01T00:00:00Z",
                    "creators": [concat!("Tool: ondol-mirror-", env!("CARGO_PKG_VERSION"))],
                },
                "packages": [{
                    "SPDXID": "SPDXRef-Package-0",
                    "name": "hello",
                    "versionInfo": "2.10-3",
                    "packageFileName": "pool/2d/2d711642b726b044-hello_2.10-3_amd64.deb",
                    "downloadLocation": "http://archive.example/debian/pool/hello.deb",
                    "filesAnalyzed": false,
                    "supplier": "NOASSERTION",
                    "licenseConcluded": "NOASSERTION",
                    "licenseDeclared": "NOASSERTION",
                    "copyrightText": "NOASSERTION",
                    "primaryPackagePurpose": "INSTALL",
                    "checksums": [{ "algorithm": "SHA256", "checksumValue": sha256.to_string() }],
                    "externalRefs": [{
                        "referenceCategory": "PACKAGE-MANAGER",
                        "referenceType": "purl",
                        "referenceLocator": "pkg:deb/hello@2.10-3?arch=amd64&distro=bookworm",
                    }],
                }],
                "relationships": [{
                    "spdxElementId": "SPDXRef-DOCUMENT",
                    "relationshipType": "DESCRIBES",
                    "relatedSpdxElement": "SPDXRef-Package-0",
                }],
            })
        );
        let namespace = document["documentNamespace"].as_str().expect("a text");
        assert!(namespace.starts_with("urn:uuid:"), "{namespace}");
    }
}
