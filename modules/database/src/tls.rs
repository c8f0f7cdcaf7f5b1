//! The TLS half of a connection: whose certificate is taken.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// What a server's certificate must show. That the server holds its key is checked in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check<'a> {
    /// That the authority in this file signed it for the host's name or address.
    Host(&'a Path),
    /// That the authority in this file signed it, for whatever name.
    Signer(&'a Path),
    /// Nothing yet. Safe only if what follows is bound to the certificate: the caller must insist on that.
    Later,
}

/// A handshake that has not begun. Errors are texts for a person.
pub(crate) fn connection(host: &str, check: &Check<'_>) -> Result<ClientConnection, String> {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let any_name = |roots| {
        let verifier = AnyName { roots, provider };
        Arc::new(verifier) as Arc<dyn ServerCertVerifier>
    };
    let config = match check {
        Check::Host(path) => builder.with_root_certificates(roots(path)?),
        Check::Signer(path) => builder
            .dangerous()
            .with_custom_certificate_verifier(any_name(Some(roots(path)?))),
        Check::Later => builder
            .dangerous()
            .with_custom_certificate_verifier(any_name(None)),
    };
    let config = config.with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| told(&error))? {
        let certificate = certificate.map_err(|error| told(&error))?;
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    if roots.is_empty() {
        return Err(told(&"holds no certificate"));
    }
    Ok(roots)
}

/// Does not look at whom a certificate names. Without roots it does not look at who signed it either.
#[derive(Debug)]
struct AnyName {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::connection::{Patience, Stream};

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::self_signed(params, key).expect("a certificate")
    }

    #[test]
    fn who_signed_and_whom_it_names_count_as_the_check_says() {
        let (ours, other) = (authority(), authority());
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("written");
            path
        };
        let (ours_pem, other_pem) = (file("ours", &ours.pem()), file("other", &other.pem()));
        let empty = file("empty", "");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["db.example".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &ours).expect("a certificate");
        let provider = Arc::new(provider::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|it| {
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                it.with_no_client_auth()
                    .with_single_cert(vec![certificate.der().clone()], key)
            })
            .expect("a server");
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let patience = Patience {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(5),
        };
        for (host, check, words) in [
            ("db.example", Check::Host(&ours_pem), None),
            (
                "other.example",
                Check::Host(&ours_pem),
                Some("not valid for name"),
            ),
            ("db.example", Check::Host(&other_pem), Some("BadSignature")),
            ("other.example", Check::Signer(&ours_pem), None),
            (
                "db.example",
                Check::Signer(&other_pem),
                Some("BadSignature"),
            ),
            (
                "db.example",
                Check::Signer(&empty),
                Some("holds no certificate"),
            ),
            ("other.example", Check::Later, None),
        ] {
            let mut stream = Stream::dial("127.0.0.1", port, patience).expect("connected");
            let (mut socket, _) = listener.accept().expect("connected");
            let config = config.clone();
            let server = thread::spawn(move || {
                let mut connection = ServerConnection::new(config).expect("a server");
                // One that is not trusted learns it by an alert.
                while connection.is_handshaking() && connection.complete_io(&mut socket).is_ok() {}
            });
            assert!(!stream.is_private() && stream.certificate().is_none());
            match (stream.encrypt(host, &check), words) {
                (Ok(()), None) => {
                    assert!(stream.is_private(), "{check:?}");
                    assert_eq!(stream.certificate(), Some(certificate.der()));
                }
                (Err(error), Some(words)) => assert!(error.contains(words), "{error}"),
                (made, _) => panic!("{host} {check:?}: {made:?}"),
            }
            drop(stream);
            server.join().expect("the server ends");
        }
    }
}
