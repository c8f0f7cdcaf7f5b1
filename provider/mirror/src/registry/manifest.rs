//! Image manifests and indexes, as far as a mirror has to understand them: what they refer to, and which platforms an
//! index has. Pure. The bytes themselves are kept as they came, because their digest names them.
//!
//! Formats: OCI image specification 1.1 (manifest, index) and Docker's image manifest version 2 schema 2, which are
//! alike in these fields.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::reference::Digest;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a registry is asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Registries need not take larger ones (OCI distribution specification, "Pushing manifests").
pub(crate) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The annotation of an index by which a builder's attestation names the image that it is about.
const ATTESTATION_OF: &str = "vnd.docker.reference.digest";

/// A reference by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformField>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub annotations: Map<String, Value>,
}

impl Descriptor {
    /// Whether it stands for a manifest or an index, not for a blob.
    pub(crate) fn is_manifest(&self) -> bool {
        [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }

    /// Layers that a registry must not hold: they are fetched from elsewhere, by their own licence.
    fn is_elsewhere(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

/// A platform as documents write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlatformField {
    pub architecture: String,
    pub os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A platform that somebody wants: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// Whether a document's platform is this one. A variant that was not asked for does not matter; 64-bit Arm is v8
    /// when it does not say.
    fn covers(&self, field: &PlatformField) -> bool {
        let usual = (field.architecture == "arm64").then_some("v8");
        let variant = field.variant.as_deref().or(usual);
        self.os == field.os
            && self.architecture == field.architecture
            && (self.variant.is_none() || self.variant.as_deref() == variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PlatformField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write \"linux/amd64\" or \"linux/arm/v7\"")]
pub struct InvalidPlatform(String);

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let is_word = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
        };
        let words: Vec<&str> = text.split('/').collect();
        match words.as_slice() {
            [os, architecture, variant @ ..] if variant.len() <= 1 && words.iter().all(is_word) => {
                Ok(Self {
                    os: (*os).to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: variant.first().map(|variant| (*variant).to_owned()),
                })
            }
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

/// A document that a registry answered, understood as far as needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// Several images, one for each platform.
    Index(Vec<Descriptor>),
    Image {
        config: Box<Descriptor>,
        layers: Vec<Descriptor>,
    },
}

/// Why a document cannot be mirrored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    #[error("it is not a manifest: {0}")]
    Json(String),
    #[error(
        "its media type is {0:?}, which is no image manifest that this mirror knows (OCI, or Docker schema 2)"
    )]
    MediaType(String),
    #[error("it says of itself {said:?}, but the registry calls it {sent:?}")]
    TwoMediaTypes { said: String, sent: String },
    #[error("it is an index and an image at once")]
    Ambiguous,
    #[error("its indexes are nested more than {0} deep")]
    TooDeep(usize),
    #[error("it says that {digest} has {said} bytes, and it has {got}")]
    WrongSize { digest: Digest, said: u64, got: u64 },
    #[error("it has no image for {}; it has {}", list(.wanted), if .found.is_empty() { "none that names its platform".to_owned() } else { .found.join(", ") })]
    NoPlatform {
        wanted: Vec<Platform>,
        found: Vec<String>,
    },
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    names.join(", ")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What a document calls itself, or what it must be by its fields: OCI's may leave their media type out, Docker's never do.
pub(crate) fn own_media_type(bytes: &[u8]) -> Result<String, InvalidManifest> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Json(error.to_string()))?;
    let by_fields = if raw.manifests.is_some() {
        OCI_INDEX
    } else {
        OCI_MANIFEST
    };
    Ok(raw.media_type.unwrap_or_else(|| by_fields.to_owned()))
}

/// Reads a document. `media_type` is what the registry or the referring document calls it; if the document itself names
/// another one it is refused, as is one that could be read in two ways.
pub(crate) fn parse(media_type: &str, bytes: &[u8]) -> Result<Document, InvalidManifest> {
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Json(error.to_string()))?;
    if let Some(said) = raw.media_type
        && said != media_type
    {
        return Err(InvalidManifest::TwoMediaTypes {
            said,
            sent: media_type.to_owned(),
        });
    }
    let is_index = match media_type {
        OCI_INDEX | DOCKER_INDEX => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        other => return Err(InvalidManifest::MediaType(other.to_owned())),
    };
    match (is_index, raw.manifests, raw.config, raw.layers) {
        (true, Some(manifests), None, None) => Ok(Document::Index(manifests)),
        (false, None, Some(config), Some(layers)) => Ok(Document::Image {
            config: Box::new(config),
            layers,
        }),
        (_, Some(_), Some(_), _) | (_, Some(_), _, Some(_)) => Err(InvalidManifest::Ambiguous),
        (true, None, ..) => Err(InvalidManifest::Json(
            "an index without manifests".to_owned(),
        )),
        (false, ..) => Err(InvalidManifest::Json(
            "an image without config and layers".to_owned(),
        )),
    }
}

impl Document {
    /// What has to be there before it: children of an index, or the blobs of an image.
    pub(crate) fn needs(&self) -> Vec<Descriptor> {
        match self {
            Self::Index(manifests) => manifests.clone(),
            Self::Image { config, layers } => std::iter::once(&**config)
                .chain(layers)
                .filter(|descriptor| !descriptor.is_elsewhere())
                .cloned()
                .collect(),
        }
    }
}

/// An index that has only the given platforms of another one, with the attestations that belong to them. `None` if that
/// would leave out nothing, so that the digest of the whole stays. Fields that a mirror does not know stay as they are.
pub(crate) fn narrow(
    bytes: &[u8],
    manifests: &[Descriptor],
    wanted: &[Platform],
) -> Result<Option<Vec<u8>>, InvalidManifest> {
    let platform = |descriptor: &Descriptor| {
        descriptor.platform.clone().filter(|field| {
            field.os != "unknown" && !descriptor.annotations.contains_key(ATTESTATION_OF)
        })
    };
    let missing: Vec<Platform> = wanted
        .iter()
        .filter(|wanted| {
            !manifests
                .iter()
                .any(|descriptor| platform(descriptor).is_some_and(|field| wanted.covers(&field)))
        })
        .cloned()
        .collect();
    if !missing.is_empty() {
        let found = manifests
            .iter()
            .filter_map(|descriptor| Some(platform(descriptor)?.to_string()));
        return Err(InvalidManifest::NoPlatform {
            wanted: missing,
            found: found.collect(),
        });
    }
    let chosen: Vec<bool> = manifests
        .iter()
        .map(|descriptor| {
            platform(descriptor)
                .is_some_and(|field| wanted.iter().any(|wanted| wanted.covers(&field)))
        })
        .collect();
    let is_about_chosen = |descriptor: &Descriptor| {
        let about = descriptor
            .annotations
            .get(ATTESTATION_OF)
            .and_then(Value::as_str);
        about.is_some_and(|about| {
            manifests
                .iter()
                .zip(&chosen)
                .any(|(image, chosen)| *chosen && image.digest.to_string() == about)
        })
    };
    let keep: Vec<bool> = manifests
        .iter()
        .zip(&chosen)
        .map(|(descriptor, chosen)| *chosen || is_about_chosen(descriptor))
        .collect();
    if keep.iter().all(|keep| *keep) {
        return Ok(None);
    }
    let mut document: Value =
        serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Json(error.to_string()))?;
    if let Some(all) = document.get_mut("manifests").and_then(Value::as_array_mut) {
        let mut keep = keep.iter();
        all.retain(|_| keep.next().copied().unwrap_or(false));
    }
    let bytes = serde_json::to_vec_pretty(&document)
        .map_err(|error| InvalidManifest::Json(error.to_string()))?;
    Ok(Some(bytes))
}

/// Whether the configuration of a single image says that it is for one of these platforms.
pub(crate) fn check_platform(config: &[u8], wanted: &[Platform]) -> Result<(), InvalidManifest> {
    let field: PlatformField =
        serde_json::from_slice(config).map_err(|error| InvalidManifest::Json(error.to_string()))?;
    if wanted.iter().any(|wanted| wanted.covers(&field)) {
        return Ok(());
    }
    Err(InvalidManifest::NoPlatform {
        wanted: wanted.to_vec(),
        found: vec![field.to_string()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn image(digit: char, os: &str, architecture: &str, variant: Option<&str>) -> Value {
        let mut platform = json!({"architecture": architecture, "os": os});
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        json!({"mediaType": OCI_MANIFEST, "digest": digest(digit), "size": 7, "platform": platform})
    }

    fn attestation(digit: char, about: char) -> Value {
        json!({"mediaType": OCI_MANIFEST, "digest": digest(digit), "size": 7,
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {ATTESTATION_OF: digest(about)}})
    }

    fn index(manifests: Vec<Value>) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, "x-unknown": 1});
        serde_json::to_vec(&index).unwrap()
    }

    fn narrowed(manifests: Vec<Value>, wanted: &[&str]) -> Result<Option<Vec<char>>, String> {
        let bytes = index(manifests);
        let Document::Index(manifests) = parse(OCI_INDEX, &bytes).unwrap() else {
            panic!("an index")
        };
        let wanted: Vec<Platform> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let narrowed = narrow(&bytes, &manifests, &wanted).map_err(|error| error.to_string())?;
        Ok(narrowed.map(|bytes| {
            let document: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(document["x-unknown"], 1);
            let Document::Index(kept) = parse(OCI_INDEX, &bytes).unwrap() else {
                panic!("an index")
            };
            kept.iter()
                .map(|one| one.digest.0.to_string().chars().next().unwrap())
                .collect()
        }))
    }

    #[test]
    fn an_index_is_narrowed_to_the_wanted_platforms_and_their_attestations() {
        let all = || {
            vec![
                image('a', "linux", "amd64", None),
                image('b', "linux", "arm64", Some("v8")),
                image('c', "linux", "arm", Some("v7")),
                attestation('d', 'a'),
                attestation('e', 'b'),
            ]
        };
        let cases: [(&[&str], Option<Vec<char>>); 6] = [
            (&["linux/amd64"], Some(vec!['a', 'd'])),
            (&["linux/arm64"], Some(vec!['b', 'e'])),
            (&["linux/arm64/v8"], Some(vec!['b', 'e'])),
            (&["linux/arm"], Some(vec!['c'])),
            (&["linux/arm/v7", "linux/amd64"], Some(vec!['a', 'c', 'd'])),
            (&["linux/arm/v7", "linux/amd64", "linux/arm64"], None),
        ];
        for (wanted, expected) in cases {
            assert_eq!(narrowed(all(), wanted), Ok(expected), "{wanted:?}");
        }
        let error = narrowed(all(), &["linux/amd64", "linux/s390x", "linux/arm/v6"]).unwrap_err();
        assert_eq!(
            error,
            "it has no image for linux/s390x, linux/arm/v6; it has linux/amd64, linux/arm64/v8, linux/arm/v7"
        );
    }

    #[test]
    fn a_document_that_could_be_read_in_two_ways_is_refused() {
        let descriptor = image('a', "linux", "amd64", None);
        let both = json!({"manifests": [descriptor], "config": descriptor, "layers": []});
        let bytes = serde_json::to_vec(&both).unwrap();
        for media_type in [OCI_INDEX, OCI_MANIFEST] {
            assert_eq!(parse(media_type, &bytes), Err(InvalidManifest::Ambiguous));
        }
        assert!(matches!(
            parse(OCI_MANIFEST, &index(Vec::new())),
            Err(InvalidManifest::TwoMediaTypes { .. })
        ));
        let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(
            parse(schema_1, b"{}"),
            Err(InvalidManifest::MediaType(_))
        ));
        assert!(matches!(
            parse(OCI_INDEX, b"{}"),
            Err(InvalidManifest::Json(_))
        ));
        assert!(matches!(
            parse(OCI_MANIFEST, b"{"),
            Err(InvalidManifest::Json(_))
        ));
    }

    #[test]
    fn layers_that_no_registry_may_hold_are_not_needed() {
        let layer = |media_type: &str, digit| json!({"mediaType": media_type, "digest": digest(digit), "size": 1});
        let manifest = json!({
        "schemaVersion": 2,
        "config": layer("application/vnd.oci.image.config.v1+json", 'a'),
        "layers": [
            layer("application/vnd.oci.image.layer.v1.tar+gzip", 'b'),
            layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 'c'),
            layer("application/vnd.oci.image.layer.nondistributable.v1.tar", 'd'),
        ]});
        let document = parse(OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap();
        let needs: Vec<String> = document
            .needs()
            .iter()
            .map(|one| one.digest.0.to_string()[..1].to_owned())
            .collect();
        assert_eq!(needs, ["a", "b"]);
    }

    proptest::proptest! {
        /// What a registry sends is anybody's.
        #[test]
        fn no_document_makes_it_panic(text in "\\PC{0,200}", keys in "[{}\\[\\]\",:a-z0-9]{0,80}") {
            for bytes in [&text, &keys] {
                for media_type in [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX] {
                    drop(parse(media_type, bytes.as_bytes()));
                }
                drop(own_media_type(bytes.as_bytes()));
                drop(bytes.parse::<Platform>());
                drop(bytes.parse::<super::super::Reference>());
                drop(bytes.parse::<super::super::LocalName>());
                drop(super::super::auth::challenge(std::iter::once(bytes.as_str())));
                drop(super::super::AuthFile::parse(bytes));
            }
        }
    }

    #[test]
    fn a_single_image_must_be_for_a_wanted_platform() {
        let config = br#"{"architecture": "arm64", "os": "linux", "rootfs": {}}"#;
        let wanted = |text: &str| [text.parse::<Platform>().unwrap()];
        assert_eq!(check_platform(config, &wanted("linux/arm64/v8")), Ok(()));
        let error = check_platform(config, &wanted("linux/amd64")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it has no image for linux/amd64; it has linux/arm64"
        );
        for wrong in ["linux", "linux/", "Linux/amd64", "linux/arm/v7/x", "../x"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }
}
