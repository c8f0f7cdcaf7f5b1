//! Terraform's side of the protocol, for tests of what Terraform itself does not send: it starts a provider, shakes
//! hands, and calls it. It can also do so wrongly, on purpose.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

pub use crate::proto::plugin::grpc_controller_client::GrpcControllerClient;
pub use crate::proto::tfplugin6::provider_client::ProviderClient;

/// A client's certificate and key.
pub struct Certificate {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Certificate {
    pub fn new() -> anyhow::Result<Self> {
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make a key")?;
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).context("make a certificate")?;
        Ok(Self { certificate, key })
    }
}

/// A provider that runs.
pub struct Plugin {
    pub process: Child,
    /// `unix` or `tcp`.
    pub network: String,
    pub address: String,
    certificate: CertificateDer<'static>,
}

impl Plugin {
    /// Starts a provider as Terraform does, and reads its handshake line. It is killed when this is dropped.
    pub async fn start(
        command: std::process::Command,
        client: &Certificate,
    ) -> anyhow::Result<Self> {
        let mut process = Command::from(command)
            .env(
                "TF_PLUGIN_MAGIC_COOKIE",
                "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
            )
            .env("PLUGIN_PROTOCOL_VERSIONS", "5,6")
            .env("PLUGIN_CLIENT_CERT", client.certificate.pem())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the provider")?;
        let stdout = process.stdout.take().context("its output is not a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .await
            .context("read the handshake line")?;
        let parts: Vec<_> = line.trim().split('|').collect();
        let ["1", "6", network, address, "grpc", certificate] = parts[..] else {
            bail!("the handshake line is {line:?}");
        };
        let certificate = STANDARD_NO_PAD
            .decode(certificate)
            .context("read its certificate")?;
        Ok(Self {
            process,
            network: network.to_owned(),
            address: address.to_owned(),
            certificate: certificate.into(),
        })
    }

    /// A connection with nothing on it.
    pub async fn dial(&self) -> anyhow::Result<Box<dyn Stream>> {
        Ok(match self.network.as_str() {
            #[cfg(unix)]
            "unix" => Box::new(tokio::net::UnixStream::connect(&self.address).await?),
            _ => Box::new(tokio::net::TcpStream::connect(&self.address).await?),
        })
    }

    /// A channel for calls. `None` presents no certificate.
    pub async fn connect(&self, client: Option<&Certificate>) -> anyhow::Result<Channel> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(OnlyThisProvider {
            certificate: self.certificate.clone(),
            algorithms: provider.signature_verification_algorithms,
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match client {
            Some(client) => builder.with_client_auth_cert(
                vec![client.certificate.der().clone()],
                PrivateKeyDer::Pkcs8(client.key.serialize_der().into()),
            )?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").context("name the server")?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, self.dial().await?)
            .await?;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| std::io::Error::other("the connection is closed"));
            std::future::ready(stream)
        });
        let endpoint = Endpoint::from_static("http://localhost");
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    /// A client that calls the provider as Terraform does.
    pub async fn client(&self, client: &Certificate) -> anyhow::Result<ProviderClient<Channel>> {
        let channel = self.connect(Some(client)).await?;
        Ok(ProviderClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX))
    }
}

/// A connection to a provider.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Accepts the certificate of the handshake line.
#[derive(Debug)]
struct OnlyThisProvider {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OnlyThisProvider {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another provider answered".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
