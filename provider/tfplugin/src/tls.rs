//! go-plugin's AutoMTLS: both sides make a certificate for this one run, and each accepts only the other's. There is no
//! authority, no name and no expiry to check: a certificate is the right one, byte for byte, or it is refused.

use std::sync::Arc;

use anyhow::Context;
use p521::ecdsa::signature::Verifier;
use p521::ecdsa::{Signature, VerifyingKey};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

/// What accepts connections, and the certificate that the handshake line tells Terraform to expect.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) certificate: CertificateDer<'static>,
}

/// Makes this run's certificate. `client_pem` is Terraform's, from the environment.
pub(crate) fn identity(client_pem: &str) -> anyhow::Result<Identity> {
    let client = CertificateDer::from_pem_slice(client_pem.as_bytes())
        .context("read Terraform's certificate")?;
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .context("describe a certificate")?;
    // Go's client takes the certificate as its root, and then checks that a root may sign.
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![
        rcgen::KeyUsagePurpose::DigitalSignature,
        rcgen::KeyUsagePurpose::KeyCertSign,
    ];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let certificate = parameters.self_signed(&key).context("make a certificate")?;

    // Named, not the process's default: a second crypto back end in the program must not matter.
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(OnlyTerraform {
        certificate: client,
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .context("use the certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Identity {
        config: Arc::new(config),
        certificate: certificate.der().clone(),
    })
}

/// Accepts the one certificate that Terraform announced. It cannot go through webpki, to which a certificate that is
/// marked as an authority is no client's.
#[derive(Debug)]
struct OnlyTerraform {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for OnlyTerraform {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => verify_p521(message, certificate, signed),
            _ => verify_tls12_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => verify_p521(message, certificate, signed),
            _ => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}

/// Terraform's key is on P-521, which ring does not have.
fn verify_p521(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    /// An uncompressed point: a byte for its form, and two coordinates of 66 bytes.
    const POINT: usize = 1 + 2 * 66;
    let bad = || Error::InvalidCertificate(CertificateError::BadSignature);
    let parsed = ParsedCertificate::try_from(certificate)?;
    let key_info = parsed.subject_public_key_info();
    // The point is the last thing in the key's description.
    let (_, point) = key_info.split_last_chunk::<POINT>().ok_or_else(bad)?;
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| bad())?;
    let signature = Signature::from_der(signed.signature()).map_err(|_| bad())?;
    key.verify(message, &signature).map_err(|_| bad())?;
    Ok(HandshakeSignatureValid::assertion())
}
