//! Puts the host together, accepts connections, and ends in order.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use event::Hasher;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::registry::Registry;
use store::bus::Bus;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    HostConfig, HostError,
    accounts::Findings,
    dead_letter::UnprovenBudget,
    fetch::Fetcher,
    http::{self, App},
    intake::{Intake, SkippedTypes},
    metrics::Metrics,
    plugin::{PluginMetrics, Plugins},
    proof::FetchedCertificates,
    seal::Sealer,
};

/// Longest head of a request, give or take the piece that is read last. Proxies in front of services allow 8 to 32 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest wait for a request's head, and for the next request on an open connection. Longer than the keep-alive of
/// common proxies would only hold connections that nobody uses.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Pause after a failed accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Failures one after the other after which the listener is given up: a minute of [`ACCEPT_PAUSE`]s. By then it is not
/// a lack of file descriptors that passes.
const MAX_ACCEPT_FAILURES: u32 = 600;

/// What the host works with.
#[derive(Clone)]
pub struct Dependencies {
    /// Where events and dead letters go.
    pub bus: Arc<dyn Bus>,
    /// Hashes addresses. Must be the inference service's: another pepper makes everybody a stranger.
    pub hasher: Hasher,
    /// Where metrics are registered and read from by `/metrics`; may be shared with other parts of the process.
    pub registry: Arc<Mutex<Registry>>,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}

/// The host without a listener.
pub struct Server {
    intake: Arc<Intake>,
    router: Router,
    max_connections: usize,
    drain_timeout: Duration,
    /// Cancelled when the host begins to stop, so that `/ready` says so.
    stopping: CancellationToken,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the plugins and everything else but the listener.
    ///
    /// # Errors
    /// [`HostError`] when the plugins cannot be run at all or the dead letters' key is not usable. A single bad plugin
    /// is no error: it is logged and shown under `/plugins`.
    pub async fn start(config: HostConfig, dependencies: Dependencies) -> Result<Self, HostError> {
        let registry = Arc::clone(&dependencies.registry);
        let intake = Arc::new(open_intake(&config, dependencies).await?);
        report_accounts(&intake);
        let stopping = CancellationToken::new();
        let app = App::new(&config, Arc::clone(&intake), registry, stopping.clone());
        Ok(Self {
            intake,
            router: http::router(app),
            max_connections: config.max_connections,
            drain_timeout: config.drain_timeout,
            stopping,
        })
    }

    /// The routes, for tests and for serving in other ways.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// What takes deliveries in.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// Accepts connections until `shutdown`, then lets open requests end, for as long as the configuration grants them.
    ///
    /// # Errors
    /// [`HostError::Listener`] when no connection could be accepted for a minute.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), HostError> {
        let connections = Arc::new(Semaphore::new(self.max_connections));
        let open = TaskTracker::new();
        let give_up = CancellationToken::new();
        let mut failures = 0;
        let mut result = Ok(());
        while let Some(accepted) = shutdown
            .run_until_cancelled(accept(&listener, &connections))
            .await
        {
            match accepted {
                Ok((stream, permit)) => {
                    failures = 0;
                    let router = self.router.clone();
                    let connection = serve_connection(stream, router, shutdown.clone(), give_up.clone());
                    open.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) if failures < MAX_ACCEPT_FAILURES => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(error = %error, "connections cannot be accepted: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => {
                    result = Err(HostError::Listener(error));
                    shutdown.cancel();
                    break;
                }
            }
        }
        drop(listener);
        self.stopping.cancel();
        open.close();
        if tokio::time::timeout(self.drain_timeout, open.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = open.len(),
                "{} connections did not end in time and are cut",
                open.len()
            );
            give_up.cancel();
            open.wait().await;
        }
        result
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _address) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    shutdown: CancellationToken,
    give_up: CancellationToken,
) {
    // Answers are one small write each; waiting to fill a packet would only delay them. A connection that is gone
    // already shows in the next read.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // What goes wrong on a connection (resets, broken requests) is the other side's business and answered by hyper.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = give_up.cancelled() => {}
    }
}

/// Opens everything that deliveries need, without serving: for [`Server::start`] and for replaying dead letters.
///
/// # Errors
/// [`HostError`] when the plugins cannot be run at all or the dead letters' key is not usable.
pub async fn open_intake(config: &HostConfig, dependencies: Dependencies) -> Result<Intake, HostError> {
    let sealer = match &config.seal_key {
        Some(key) => Sealer::from_text(key.expose(), "`host.seal_key`")?,
        None => Sealer::from_file(&config.seal_key_path)?,
    };
    let (metrics, plugin_metrics) = {
        let mut registry = dependencies
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (
            Metrics::register(&mut registry),
            PluginMetrics::register(&mut registry),
        )
    };
    let plugins = Plugins::open(config.plugins.clone(), plugin_metrics).await?;
    let fetcher = Arc::new(Fetcher::new());
    Ok(Intake {
        plugins,
        accounts: config.accounts.clone(),
        hasher: dependencies.hasher,
        bus: dependencies.bus,
        metrics,
        certificates: Arc::new(FetchedCertificates::new(Arc::clone(&fetcher))),
        fetcher,
        sealer,
        unproven: UnprovenBudget::default(),
        skipped: SkippedTypes::default(),
    })
}

/// Serves deliveries on `listener` until `shutdown`, then lets open requests end and returns.
///
/// # Errors
/// [`HostError`] when the host cannot start, or its listener fails.
pub async fn run(
    config: HostConfig,
    dependencies: Dependencies,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), HostError> {
    Server::start(config, dependencies)
        .await?
        .serve(listener, shutdown)
        .await
}

/// Tells the operator what the accounts lack. Providers that nobody has configured are left out: every plugin in the
/// folder would otherwise complain.
fn report_accounts(intake: &Intake) {
    for provider in intake.accounts.providers() {
        let Some(plugin) = intake.plugins.get(provider) else {
            tracing::warn!(
                provider,
                "`accounts.{provider}` is configured, but no plugin serves `{provider}`"
            );
            continue;
        };
        for Findings {
            account,
            missing,
            unknown,
            takes_unsigned,
            ..
        } in intake.accounts.findings(plugin.descriptor())
        {
            if !missing.is_empty() {
                let names = missing.join("`, `");
                tracing::warn!(
                    provider,
                    account,
                    "`accounts.{provider}.{account}` lacks `{names}`"
                );
            }
            if !unknown.is_empty() {
                let names = unknown.join("`, `");
                tracing::warn!(
                    provider,
                    account,
                    "`accounts.{provider}.{account}` has `{names}`, which the plugin does not know"
                );
            }
            if takes_unsigned {
                tracing::warn!(
                    provider,
                    account,
                    "`{provider}` account `{account}` takes deliveries that nothing proves, because it is configured to"
                );
            }
        }
    }
}
