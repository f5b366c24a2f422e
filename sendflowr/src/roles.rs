//! Opens the engines and runs the roles until a signal asks the process to stop.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use consumer::ConsumerConfig;
use event::Hasher;
use inference::InferenceConfig;
use listener::TlsConfig;
use prometheus_client::registry::Registry;
use store::embedded;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, RawConfig, data_folder},
    demo::Demo,
    engines::{Engines, LateAccounts},
    keys::{self, OtherPepper},
    output,
    telemetry::{self, CertificateExpiry, Exporter},
};

/// A role, which can run in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Webhooks in, events out to the bus.
    Host,
    /// From the bus to the stores.
    Consumer,
    /// Decisions.
    Inference,
}

/// Runs all roles in this process, and the demonstration once they are ready.
///
/// # Errors
/// Returns what kept a role from starting, or ended it.
pub(crate) async fn up(
    config: RawConfig,
    demo: Option<Demo>,
    exporter: Option<Exporter>,
) -> anyhow::Result<()> {
    let asked_to_stop = stop_signal();
    let start = async |process: &mut Process| -> anyhow::Result<()> {
        let host = process.host().await?;
        // The other roles serve what the consumer's own listener would, so it is started only if it is configured.
        if process.config.consumer.listen.is_some() {
            let status = process.consumer_with_status().await?;
            tracing::info!("the consumer's status is served on {status}");
        } else {
            process.consumer().await?;
        }
        let inference = process.inference().await?;
        output::line(&format!(
            "sendflowr is ready: webhooks {host}  timing {inference}"
        ));
        if let Some(demo) = demo {
            process.show(demo, host, inference);
        }
        Ok(())
    };
    let process = Process::new(config, exporter, None)?;
    // The future of starting is large; boxed, so that the futures that await it stay small.
    Box::pin(process.run(asked_to_stop, start)).await
}

/// Runs one role in this process.
///
/// # Errors
/// Returns what kept the role from starting, or ended it.
pub(crate) async fn one(config: RawConfig, role: Role, exporter: Option<Exporter>) -> anyhow::Result<()> {
    let asked_to_stop = stop_signal();
    let start = async |process: &mut Process| -> anyhow::Result<()> {
        match role {
            Role::Host => {
                let address = process.host().await?;
                output::line(&format!("sendflowr host is ready: webhooks {address}"));
            }
            Role::Consumer => {
                let address = process.consumer_with_status().await?;
                output::line(&format!("sendflowr consumer is ready: status {address}"));
            }
            Role::Inference => {
                let address = process.inference().await?;
                output::line(&format!("sendflowr inference is ready: timing {address}"));
            }
        }
        Ok(())
    };
    let process = Process::new(config, exporter, Some(role))?;
    Box::pin(process.run(asked_to_stop, start)).await
}

/// What the roles of one process share.
struct Process {
    config: Arc<RawConfig>,
    hasher: Hasher,
    engines: Arc<Engines>,
    registry: Arc<Mutex<Registry>>,
    certificates: CertificateExpiry,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
    exporter: Option<Exporter>,
}

impl Process {
    /// Prepares one role, or all of them for `None`. Logs the engines that they use.
    fn new(config: RawConfig, exporter: Option<Exporter>, role: Option<Role>) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        if let Some(exporter) = &exporter {
            exporter.register(&mut registry);
        }
        let certificates = telemetry::register_process(&mut registry);
        let registry = Arc::new(Mutex::new(registry));
        for kept in ["model", "recordings"] {
            embedded::make_private(&data_folder(&config).join(kept));
        }
        let mut engines = Engines::new(&config, registry.clone())?;
        engines.do_without_profiles();
        for place in engines.places() {
            let is_used = match role {
                // Accounts are stored with the identities.
                Some(Role::Host) => matches!(place.port, "bus" | "identities"),
                Some(Role::Inference) => place.port != "bus",
                Some(Role::Consumer) | None => true,
            };
            if is_used {
                tracing::info!(
                    engine.port = place.port,
                    engine.kind = place.engine,
                    engine.address = place.address,
                    "{place}"
                );
            }
        }
        for left in engines.left_behind() {
            tracing::warn!("{left}");
        }
        Ok(Self {
            hasher: keys::hasher(&config.identity),
            engines: Arc::new(engines),
            config: Arc::new(config),
            registry,
            certificates,
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            exporter,
        })
    }

    /// Starts the host and returns its address.
    async fn host(&mut self) -> anyhow::Result<Served> {
        let mut config = config::host_config(&self.config)?;
        if let Some(problem) = keys::private_seal_key(&self.config) {
            tracing::warn!("{problem}");
        }
        let listener = listen(config.listen, "host.listen").await?;
        let served = self.served(&listener, "host", config.tls.as_mut())?;
        if self.engines.embeds_identities() {
            keys::keep_pepper(&self.config, &self.engines).await?;
            // A server may be down at first; a file that cannot be used stays so.
            self.engines.stored_accounts().await?;
        } else {
            self.keep_pepper_of_server().await?;
        }
        keys::refuse_new_seal_key(&config, &self.engines).await?;
        let dependencies = host::Dependencies {
            bus: self.engines.bus().await?,
            accounts: Some(Arc::new(LateAccounts(Arc::clone(&self.engines)))),
            hasher: self.hasher.clone(),
            registry: self.registry.clone(),
        };
        let server = host::Server::start(config, dependencies, self.stop.clone()).await?;
        self.tasks
            .spawn(async move { server.serve(listener).await.context("the host failed") });
        Ok(served)
    }

    /// Checks the host's pepper by the identities in PostgreSQL. The server may be down at first: deliveries are taken all the same,
    /// and another pepper ends the process once the server answers.
    async fn keep_pepper_of_server(&mut self) -> anyhow::Result<()> {
        let (config, engines) = (Arc::clone(&self.config), Arc::clone(&self.engines));
        let first = tokio::time::timeout(FIRST_CHECK_WITHIN, is_pepper_kept(&config, &engines));
        if let Ok(kept) = first.await
            && kept?
        {
            return Ok(());
        }
        tracing::warn!(
            "`identity.pepper` cannot be compared yet with the one that the identities in PostgreSQL were hashed with; deliveries \
             are taken meanwhile, and another pepper ends this process then"
        );
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let kept = stop.run_until_cancelled(async {
                while !is_pepper_kept(&config, &engines).await? {
                    tokio::time::sleep(CHECK_AGAIN_AFTER).await;
                }
                anyhow::Ok(())
            });
            if let Some(kept) = kept.await {
                kept?;
            }
            // The first task that ends stops the process.
            stop.cancelled().await;
            Ok(())
        });
        Ok(())
    }

    /// Starts the consumer and its listener, and returns the listener's address.
    async fn consumer_with_status(&mut self) -> anyhow::Result<Served> {
        let mut config = ConsumerConfig::try_from(self.config.consumer.clone())?.status;
        let listener = listen(config.listen, "consumer.listen").await?;
        let served = self.served(&listener, "consumer", config.tls.as_mut())?;
        let dependencies = self.consumer().await?;
        let (registry, stop) = (self.registry.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            consumer::serve_status(config, dependencies, registry, listener, stop)
                .await
                .context("the consumer's listener failed")
        });
        Ok(served)
    }

    /// Starts the consumer. Returns what its listener needs.
    async fn consumer(&mut self) -> anyhow::Result<consumer::Dependencies> {
        let config = ConsumerConfig::try_from(self.config.consumer.clone())?;
        let (bus, events, profiles, identities) = tokio::try_join!(
            self.engines.bus(),
            self.engines.events(),
            self.engines.profiles_for_batches(config.profile_timeout),
            self.engines.identities(),
        )?;
        self.engines.retain_events().await?;
        let metrics = {
            let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
            consumer::Metrics::register(&mut registry)
        };
        let dependencies = consumer::Dependencies {
            bus,
            events,
            profiles,
            identities,
            metrics,
        };
        let stop = self.stop.clone();
        let shared = dependencies.clone();
        self.tasks.spawn(async move {
            consumer::run(config, shared, stop)
                .await
                .context("the consumer failed")
        });
        Ok(dependencies)
    }

    /// Starts the inference service and returns its address.
    async fn inference(&mut self) -> anyhow::Result<Served> {
        let mut raw = self.config.inference.clone();
        raw.model_folder = Some(config::model_folder(&self.config));
        let mut config = InferenceConfig::try_from(raw)?;
        keys::keep_pepper(&self.config, &self.engines).await?;
        let listener = listen(config.listen, "inference.listen").await?;
        let served = self.served(&listener, "inference", config.tls.as_mut())?;
        let (events, identities, profiles) = tokio::try_join!(
            self.engines.events(),
            self.engines.identities(),
            self.engines.profiles(),
        )?;
        let dependencies = inference::Dependencies {
            events,
            identities,
            profiles,
            hasher: self.hasher.clone(),
            registry: self.registry.clone(),
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            inference::run(config, dependencies, listener, stop)
                .await
                .context("the inference service failed")
        });
        Ok(served)
    }

    /// Returns the served address and registers its certificate's expiry metric.
    fn served(
        &self,
        listener: &TcpListener,
        section: &'static str,
        tls: Option<&mut TlsConfig>,
    ) -> anyhow::Result<Served> {
        let address = listener.local_addr()?;
        let is_tls = tls.is_some();
        if let Some(tls) = tls {
            // So that a mistake is reported before anything is started.
            tls.check_files()?;
            tls.tell_expiry(
                self.certificates
                    .get_or_create(&vec![("listener", section)])
                    .clone(),
            );
        }
        Ok(Served { address, is_tls })
    }

    /// Runs the demonstration beside the roles, which go on serving whether it succeeds or not.
    fn show(&mut self, demo: Demo, host: Served, inference: Served) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let shown = stop.run_until_cancelled(demo.run(host.address, inference.address));
            if let Some(Err(error)) = shown.await {
                tracing::error!("the demonstration failed: {error:#}");
            }
            // The first task that ends stops the process.
            stop.cancelled().await;
            Ok(())
        });
    }

    /// Starts roles, waits until the process is asked to stop or a role ends, and stops in order. If the process is asked to
    /// stop while a start waits for its servers, the start is abandoned.
    async fn run(
        mut self,
        asked_to_stop: impl Future<Output = ()>,
        start: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut asked_to_stop = pin!(asked_to_stop);
        let started = tokio::select! {
            started = start(&mut self) => Some(started),
            () = &mut asked_to_stop => None,
        };
        let first = match started {
            Some(Ok(())) => tokio::select! {
                () = asked_to_stop => Ok(()),
                ended = self.tasks.join_next() => flatten(ended),
            },
            // Roles that started before may have open requests.
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        self.end(first).await
    }

    /// Stops the roles in order and closes the engines. Returns the first error.
    async fn end(self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        if !self.tasks.is_empty() {
            tracing::info!("stopping: open requests and batches end first");
        }
        self.stop.cancel();
        let (engines, exporter) = (self.engines, self.exporter);
        let close = async {
            engines.close().await;
            if let Some(exporter) = exporter {
                exporter.shutdown().await;
            }
        };
        stop(self.tasks, result, close).await
    }
}

/// How long a host that starts waits for the check of its pepper by PostgreSQL: as long as for the accounts that are stored there.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(2);

/// Pause before the check is tried again. The accounts are read as often.
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Returns whether the pepper is the one that is kept with the identities; `false` if they cannot be reached.
///
/// # Errors
/// [`OtherPepper`].
async fn is_pepper_kept(config: &Arc<RawConfig>, engines: &Arc<Engines>) -> anyhow::Result<bool> {
    let (config, engines, runtime) = (Arc::clone(config), Arc::clone(engines), Handle::current());
    // On a thread of its own: the compiler cannot prove that the migrations' future is `Send`.
    let kept = move || runtime.block_on(keys::keep_pepper(&config, &engines));
    match tokio::task::spawn_blocking(kept).await? {
        Err(error) if !error.is::<OtherPepper>() => Ok(false),
        kept => kept.map(|()| true),
    }
}

/// How long a stop may take: the documented 30 s but for the second that threads get to end after it.
const STOP_WITHIN: Duration = Duration::from_secs(29);

/// How long the roles may take of it: longer than the host's maximum for its open requests. What they leave, and at least the last
/// three seconds, is for the engines and the last spans.
const ROLES_WITHIN: Duration = Duration::from_secs(26);

/// Waits for the roles to end and then closes what they use, all of it within [`STOP_WITHIN`]. Returns the first error.
async fn stop(
    mut roles: JoinSet<anyhow::Result<()>>,
    mut result: anyhow::Result<()>,
    close: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while let Ok(ended) = tokio::time::timeout_at(began + ROLES_WITHIN, roles.join_next()).await {
        if ended.is_none() {
            break;
        }
        result = result.and(flatten(ended));
    }
    roles.abort_all();
    // What was acknowledged is safe, however they end.
    if tokio::time::timeout_at(began + STOP_WITHIN, close).await.is_err() {
        tracing::warn!("the engines were not closed within {STOP_WITHIN:?} of the signal to stop");
    }
    result
}

fn flatten(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(result)) => result,
        Some(Err(failure)) => bail!("a role ended unexpectedly: {failure}"),
        None => Ok(()),
    }
}

/// The address that a role is served at; displayed as a URL.
#[derive(Debug, Clone, Copy)]
struct Served {
    address: SocketAddr,
    is_tls: bool,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (`{key}`)"))
}

/// Returns a future that completes on Ctrl-C or SIGTERM. No signal after the call is lost: in a container nothing else would
/// end the process.
pub(crate) fn stop_signal() -> impl Future<Output = ()> {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        tokio::select! {
            () = received(terminate) => {}
            () = received(interrupt) => {}
        }
    }
}

async fn received(signal: io::Result<Signal>) {
    match signal {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Without a handler the signal ends the process by default, so waiting forever is right.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_in_time_whatever_does_not() {
        for roles_end_after in [1, 1_000] {
            let mut roles = JoinSet::new();
            roles.spawn(async move {
                tokio::time::sleep(Duration::from_secs(roles_end_after)).await;
                Ok(())
            });
            let began = Instant::now();
            stop(roles, Ok(()), std::future::pending()).await.unwrap();
            assert_eq!(began.elapsed(), STOP_WITHIN);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_engines_are_closed_after_roles_that_do_not_end() {
        let mut roles = JoinSet::new();
        roles.spawn(std::future::pending());
        let (began, mut closed) = (Instant::now(), None);
        let close = async { closed = Some(began.elapsed()) };
        stop(roles, Ok(()), close).await.unwrap();
        assert_eq!(closed, Some(ROLES_WITHIN));
    }
}
