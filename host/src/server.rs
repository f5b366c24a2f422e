//! Assembles the host, accepts connections, and shuts down in order.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use event::Hasher;
use listener::{Limits, TlsConfig};
use prometheus_client::registry::Registry;
use store::{bus::Bus, identity::StoredAccounts};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    HostConfig, HostError,
    accounts::AccountBook,
    dead_letter::Budget,
    denied::Denials,
    fetch::Fetcher,
    http::{self, App},
    intake::Intake,
    metrics::Metrics,
    plugin::{PluginMetrics, Plugins},
    proof::FetchedCertificates,
    recordings::Recorder,
    rejected::Rejections,
    skipped::SkippedTypes,
};

/// How often the accounts are compared with the plugins: as often as the plugin folder is listed when nothing tells of a change.
const PLUGINS_EVERY: Duration = Duration::from_secs(1);

/// The services that the host depends on.
#[derive(Clone)]
pub struct Dependencies {
    /// The bus that events and dead letters are written to.
    pub bus: Arc<dyn Bus>,
    /// The store of accounts that are not in the configuration, if there is one.
    pub accounts: Option<Arc<dyn StoredAccounts>>,
    /// Hashes addresses. Must be the inference service's hasher: with another pepper, every person would be unknown there.
    pub hasher: Hasher,
    /// The registry in which metrics are registered and from which `/metrics` reads them; may be shared with other
    /// parts of the process.
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
    limits: Limits,
    tls: Option<TlsConfig>,
    shutdown: CancellationToken,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the plugins and everything else except the listener. From `shutdown` on, as long as anything is served, `/ready` reports
    /// that the host is stopping.
    ///
    /// # Errors
    /// [`HostError`] when plugins cannot be run at all or the key of the dead letters is not usable. A single bad
    /// plugin is not an error: it is logged and shown under `/plugins`.
    pub async fn start(
        config: HostConfig,
        dependencies: Dependencies,
        shutdown: CancellationToken,
    ) -> Result<Self, HostError> {
        let registry = Arc::clone(&dependencies.registry);
        let mut intake = open_intake(&config, dependencies).await?;
        intake.recorder = {
            let (folder, accounts) = (config.recordings_folder.clone(), config.accounts.clone());
            let sealer = Arc::clone(&intake.sealer);
            tokio::task::spawn_blocking(move || Recorder::start(&folder, &accounts, sealer))
                .await
                .expect("starting the recorder neither panics nor is aborted")
        };
        let intake = Arc::new(intake);
        report_accounts(&intake);
        let app = App::new(&config, Arc::clone(&intake), registry, shutdown.clone());
        Ok(Self {
            intake,
            router: http::router(app),
            limits: config.limits,
            tls: config.tls,
            shutdown,
        })
    }

    /// Returns the routes, for tests and for serving them in other ways.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Returns the intake, which accepts deliveries.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// Accepts connections until the shutdown, then lets open requests finish within the configured drain timeout.
    ///
    /// # Errors
    /// [`HostError::Listener`] when the certificate is no longer usable.
    pub async fn serve(self, listener: TcpListener) -> Result<(), HostError> {
        let Self {
            intake,
            router,
            limits,
            tls,
            shutdown,
        } = self;
        // A listener that fails cancels `shutdown` too.
        let (served, (), ()) = tokio::join!(
            listener::serve(listener, router, tls, limits, shutdown.clone()),
            intake
                .accounts
                .follow(&shutdown, || intake.forget_removed_accounts()),
            report_missing_plugins(&intake, &shutdown),
        );
        served.map_err(HostError::Listener)
    }
}

/// Opens everything that deliveries need, without serving or recording them: for [`Server::start`] and for replaying
/// dead letters, which may run beside a host.
///
/// # Errors
/// [`HostError`] when plugins cannot be run at all or the key of the dead letters is not usable.
pub async fn open_intake(config: &HostConfig, dependencies: Dependencies) -> Result<Intake, HostError> {
    let sealer = Arc::new(config.sealer()?);
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
    let accounts = AccountBook::open(
        config.accounts.clone(),
        dependencies.accounts,
        Arc::clone(&sealer),
    )
    .await;
    Ok(Intake {
        plugins,
        accounts,
        hasher: dependencies.hasher,
        bus: dependencies.bus,
        metrics,
        certificates: Arc::new(FetchedCertificates::new(Arc::clone(&fetcher))),
        fetcher,
        sealer,
        recorder: Recorder::default(),
        letters: Budget::default(),
        skipped: SkippedTypes::default(),
        rejections: Rejections::default(),
        denials: Denials::default(),
    })
}

/// Serves deliveries on `listener` until `shutdown`, then lets open requests finish and returns.
///
/// # Errors
/// [`HostError`] when the host cannot start, or its listener fails.
pub async fn run(
    config: HostConfig,
    dependencies: Dependencies,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), HostError> {
    Server::start(config, dependencies, shutdown)
        .await?
        .serve(listener)
        .await
}

/// Logs which providers have accounts and no plugin: at once, and whenever one loses its plugin or gets an account without one.
async fn report_missing_plugins(intake: &Intake, shutdown: &CancellationToken) {
    let mut known = BTreeSet::new();
    loop {
        let accounts = intake.accounts();
        let providers = accounts.configured().map(|account| account.provider());
        let missing: BTreeSet<String> = providers
            .filter(|provider| intake.plugins.get(provider).is_none())
            .map(str::to_owned)
            .collect();
        for provider in missing.difference(&known) {
            tracing::warn!(
                %provider,
                "`{provider}` has accounts, but no plugin serves it: their deliveries are answered with 503 until one does"
            );
        }
        known = missing;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PLUGINS_EVERY) => {}
        }
    }
}

/// Logs what is wrong with the accounts that have a plugin. Providers without any account are left out: otherwise every plugin in
/// the folder would cause warnings.
fn report_accounts(intake: &Intake) {
    let accounts = intake.accounts();
    for provider in accounts.providers() {
        let Some(plugin) = intake.plugins.get(provider) else {
            continue;
        };
        for findings in accounts.findings(plugin.descriptor()) {
            let account = &findings.account;
            for problem in findings.problems() {
                tracing::warn!(provider, account, "`accounts.{provider}.{account}` {problem}");
            }
            if findings.takes_unsigned {
                tracing::warn!(
                    provider,
                    account,
                    "`{provider}` account `{account}` accepts unsigned deliveries, because it is configured to"
                );
            }
        }
    }
}
