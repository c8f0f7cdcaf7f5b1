//! A provider's life: what Terraform said in the environment, the one line that answers it, and the end. Nothing but
//! that line may be written to stdout.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
#[cfg(unix)]
use std::time::SystemTime;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

#[cfg(unix)]
use crate::leftovers;
use crate::proto::plugin::Empty;
use crate::proto::plugin::grpc_controller_server::{GrpcController, GrpcControllerServer};
use crate::proto::tfplugin6::provider_server::ProviderServer;
use crate::server::{Server, log_panics};
use crate::transport::{Listener, Transport, Wishes};
use crate::{Provider, log, tls};

/// What Terraform puts into the environment, so that a user who runs the program gets an explanation.
const COOKIE: (&str, &str) = (
    "TF_PLUGIN_MAGIC_COOKIE",
    "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
);
/// Versions: of the handshake line, and of the provider protocol.
const HANDSHAKE_VERSION: u32 = 1;
const PROTOCOL_VERSION: u32 = 6;
/// How long open connections get to close once Terraform has asked the provider to exit.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a provider looks whether Terraform still exists.
const LIFE_SIGN: Duration = Duration::from_secs(1);

/// Runs a provider until Terraform ends it. Call it from `main`, which prints nothing before.
pub fn serve<P: Provider>(provider: P) -> ExitCode {
    serve_on(provider, Transport::native())
}

/// [`serve`], listening in a way of one's choice.
pub fn serve_on<P: Provider>(provider: P, transport: Transport) -> ExitCode {
    if std::env::var(COOKIE.0).as_deref() != Ok(COOKIE.1) {
        eprintln!(
            "This program is a Terraform provider. Terraform runs it: name it in the required_providers of a \
             configuration, then run \"terraform init\"."
        );
        return ExitCode::FAILURE;
    }
    share_one_arena();
    log::start();
    log_panics();
    match run(provider, transport) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The provider cannot serve Terraform: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A provider has a thread for every operation that blocks, and each waits most of the time: with an arena for each, as
/// glibc gives them, what was freed in one is of no use to another. To be called before the first thread is started.
fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers, and no other thread allocates yet. It cannot fail for this parameter; if it
    // did, only memory would be lost.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

fn run<P: Provider>(provider: P, transport: Transport) -> anyhow::Result<()> {
    speaks_our_protocol(std::env::var("PLUGIN_PROTOCOL_VERSIONS").ok().as_deref())?;
    let client = std::env::var("PLUGIN_CLIENT_CERT").context(
        "Terraform did not send its certificate in PLUGIN_CLIENT_CERT, and this provider speaks to nobody without one",
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One answers StopProvider while the other is busy.
        .worker_threads(2)
        .thread_name("provider")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(listen(provider, transport, &client));
    // A thread that still blocks must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// The client lists the versions that it speaks, such as `5,6`. One that lists none is a test.
fn speaks_our_protocol(versions: Option<&str>) -> anyhow::Result<()> {
    let spoken = versions.is_none_or(|versions| {
        versions
            .split(',')
            .any(|version| version.trim() == PROTOCOL_VERSION.to_string())
    });
    anyhow::ensure!(
        spoken,
        "Terraform speaks plugin protocol {}, this provider only {PROTOCOL_VERSION}; use Terraform 1.0 or newer",
        versions.unwrap_or_default()
    );
    Ok(())
}

async fn listen<P: Provider>(
    provider: P,
    transport: Transport,
    client: &str,
) -> anyhow::Result<()> {
    ignore_interrupts()?;
    let (listener, folder) = Listener::bind(transport, &Wishes::from_environment()).await?;
    let identity = tls::identity(client)?;
    let (network, address) = listener.announce()?;
    let connections = listener.connections(TlsAcceptor::from(identity.config));
    let line = format!(
        "{HANDSHAKE_VERSION}|{PROTOCOL_VERSION}|{network}|{address}|grpc|{}\n",
        STANDARD_NO_PAD.encode(&identity.certificate)
    );
    let mut stdout = std::io::stdout();
    stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush())
        .context("write the handshake line")?;
    #[cfg(unix)]
    if let Some(folder) = &folder {
        let own = folder.path().to_owned();
        // Now, because until here Terraform was waiting.
        tokio::task::spawn_blocking(move || leftovers::sweep(&own, SystemTime::now()));
    }

    let stop = CancellationToken::new();
    let exit = CancellationToken::new();
    let served = tonic::transport::Server::builder()
        .add_service(GrpcControllerServer::new(Controller(exit.clone())))
        .add_service(
            ProviderServer::new(Server::new(provider, stop.clone()))
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX),
        )
        .serve_with_incoming_shutdown(connections, exit.clone().cancelled_owned());
    let farewell = async {
        exit.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    let orphaned = async {
        parent_gone().await;
        tracing::warn!("Terraform is gone");
        stop.cancel();
        tokio::time::sleep(P::GRACE + FAREWELL).await;
    };
    let ended = tokio::select! {
        result = served => result.context("serve Terraform"),
        () = farewell => Ok(()),
        () = orphaned => Ok(()),
    };
    drop(folder);
    ended
}

/// Ctrl-C reaches every process of the terminal. Terraform hears it too, and asks providers to stop in its own way.
fn ignore_interrupts() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupts = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
        tokio::spawn(async move { while interrupts.recv().await.is_some() {} });
    }
    #[cfg(windows)]
    {
        let mut interrupts = tokio::signal::windows::ctrl_c().context("watch for Ctrl-C")?;
        tokio::spawn(async move { while interrupts.recv().await.is_some() {} });
    }
    Ok(())
}

/// Ends when the process that started this one does. A Terraform that is killed says no goodbye.
async fn parent_gone() {
    #[cfg(unix)]
    {
        let parent = std::os::unix::process::parent_id();
        while std::os::unix::process::parent_id() == parent {
            tokio::time::sleep(LIFE_SIGN).await;
        }
    }
    #[cfg(not(unix))]
    {
        let _ = LIFE_SIGN;
        std::future::pending::<()>().await;
    }
}

/// go-plugin's own service: the request to exit.
struct Controller(CancellationToken);

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.cancel();
        Ok(Response::new(Empty {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terraform_that_speaks_only_another_protocol_is_told_so() {
        for (versions, spoken) in [
            (None, true),
            (Some("5,6"), true),
            (Some("6"), true),
            (Some("5"), false),
        ] {
            assert_eq!(
                speaks_our_protocol(versions).is_ok(),
                spoken,
                "{versions:?}"
            );
        }
    }
}
