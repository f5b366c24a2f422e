//! Assembles the service, runs its scheduled work, and shuts it down in order.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use axum::Router;
use event::Timestamp;
use listener::{LogRates, SharedReadiness};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Dependencies, InferenceConfig, InferenceError,
    explanation::{ExplanationWriters, Explanations},
    http::{self, App},
    latency::LatencyModel,
    metrics::Metrics,
    population,
    service::{AUDITED_DAYS, Service},
};

/// Number of delays that are read per provider to learn from. If there are more, a share of about this many is read, at
/// least half as many: more than the 22,639 of the last column in `docs/timing.md`, beyond which the table has little
/// left to learn. For ten such providers they take some 100 MB while the table is learned.
const LATENCY_SAMPLES_PER_PROVIDER: usize = 50_000;

/// How long after the start tables are fitted for the first time: at the start, requests come first.
const FIRST_REFIT: Duration = Duration::from_secs(60);

/// Time between two looks for tables that `sendflowr train` saved. A look costs next to nothing if there are none.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Time between two looks whether a consumer doubts profiles. For so long a decision may use one that lacks events; a look reads a
/// table of a few rows.
const LOOK_FOR_DOUBTS_EVERY: Duration = Duration::from_secs(1);

/// Time between two audits of arrivals: they compare hours, and each reads the decisions of two weeks.
const AUDIT_EVERY: Duration = Duration::from_secs(3_600);

/// The service without a listener: its router, and the tasks behind it.
pub struct Server {
    router: Router,
    writers: ExplanationWriters,
    schedules: Vec<JoinHandle<()>>,
    background: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts everything except the listener. Must be called within a tokio runtime. From `shutdown` on, `/ready` reports that the
    /// service is stopping.
    pub fn start(config: &InferenceConfig, dependencies: Dependencies, shutdown: CancellationToken) -> Self {
        let metrics = {
            let mut registry = dependencies
                .registry
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Metrics::register(&mut registry)
        };
        let events = Arc::clone(&dependencies.events);
        let (explanations, writers) = Explanations::start(events, config.explanation_queue, metrics.clone());
        let mut watch = config.model_folder.as_deref().map(population::Watch::new);
        let current = Arc::new(ArcSwap::from_pointee(population::initial(config)));
        let service = Service::new(
            config,
            dependencies.clone(),
            explanations,
            Arc::clone(&current),
            metrics.clone(),
        );
        let service = Arc::new(service);
        let background = CancellationToken::new();
        let latency = {
            let (service, config) = (Arc::clone(&service), config.clone());
            on_schedule(
                background.clone(),
                Duration::ZERO,
                config.latency.refresh,
                move || {
                    let (service, config) = (Arc::clone(&service), config.clone());
                    async move { learn_latency(&service, &config).await }
                },
            )
        };
        let watched = {
            let current = Arc::clone(&current);
            on_schedule(background.clone(), WATCH_EVERY, WATCH_EVERY, move || {
                if let Some(watch) = &mut watch {
                    watch.look(&current);
                }
                std::future::ready(())
            })
        };
        let doubts = {
            let service = Arc::clone(&service);
            on_schedule(
                background.clone(),
                LOOK_FOR_DOUBTS_EVERY,
                LOOK_FOR_DOUBTS_EVERY,
                move || {
                    let service = Arc::clone(&service);
                    async move { service.people.look_for_doubts().await }
                },
            )
        };
        let tables = {
            let config = config.clone();
            let first = FIRST_REFIT.min(config.refit_interval);
            on_schedule(background.clone(), first, config.refit_interval, move || {
                let (config, dependencies) = (config.clone(), dependencies.clone());
                let (current, metrics) = (Arc::clone(&current), metrics.clone());
                async move { population::refit(&config, &dependencies, &current, &metrics, clock()).await }
            })
        };
        let audit = {
            let service = Arc::clone(&service);
            let first = FIRST_REFIT.min(AUDIT_EVERY);
            on_schedule(background.clone(), first, AUDIT_EVERY, move || {
                let service = Arc::clone(&service);
                async move {
                    if let Err(error) = service.arrivals(AUDITED_DAYS, clock()).await {
                        let error = event::chain(&error);
                        tracing::warn!(error, "arrivals could not be audited: {error}");
                    }
                }
            })
        };
        let router = http::router(App {
            service,
            max_body_bytes: config.max_body_bytes,
            request_timeout: config.request_timeout,
            access: config.access.clone(),
            readiness: SharedReadiness::default(),
            stopping: shutdown,
            batches: Arc::new(Semaphore::new(http::MAX_BATCHES)),
            capacity_per_minute: Arc::new(config.capacity_per_minute.clone()),
            server_errors: Arc::new(LogRates::of_server_errors()),
        });
        Self {
            router,
            writers,
            schedules: vec![latency, watched, doubts, tables, audit],
            background,
        }
    }

    /// Returns the routes, for tests and for serving in other ways. Every clone must be dropped before [`Server::stop`]
    /// can finish.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Returns the OpenAPI description of all routes.
    pub fn openapi() -> utoipa::openapi::OpenApi {
        http::openapi()
    }

    /// Stops the schedules and waits until every explanation is stored, ten seconds at most.
    pub async fn stop(self) {
        self.background.cancel();
        futures::future::join_all(self.schedules).await;
        drop(self.router);
        self.writers.drain().await;
    }
}

/// Serves decisions on `listener` until `shutdown`, then lets open requests finish, stores the explanations that wait
/// to be stored and returns.
///
/// # Errors
/// [`InferenceError`] when the listener fails.
pub async fn run(
    config: InferenceConfig,
    dependencies: Dependencies,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), InferenceError> {
    let InferenceConfig { tls, limits, .. } = config.clone();
    let server = Server::start(&config, dependencies, shutdown.clone());
    let served = listener::serve(listener, server.router(), tls, limits, shutdown).await;
    server.stop().await;
    Ok(served?)
}

fn clock() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Runs `work` after `first` and then every `period`, one run at a time, until `stop` is cancelled. A run that is
/// cancelled has changed nothing that is visible elsewhere.
fn on_schedule<F>(
    stop: CancellationToken,
    first: Duration,
    period: Duration,
    mut work: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if stop.run_until_cancelled(work()).await.is_none() {
                return;
            }
        }
    })
}

async fn learn_latency(service: &Service, config: &InferenceConfig) {
    let now = clock();
    let window_ms = i64::try_from(config.latency.window.as_millis()).unwrap_or(i64::MAX);
    let samples = service
        .dependencies
        .events
        .latency_samples(now.plus_millis(-window_ms), LATENCY_SAMPLES_PER_PROVIDER)
        .await;
    let samples = match samples {
        Ok(samples) => samples,
        Err(error) => {
            tracing::warn!(error = %error, "expected delays were not refreshed, deliveries cannot be read: {error}");
            return service.metrics.refit("latency", "failed");
        }
    };
    let outcome = if samples.is_empty() {
        "too_little_data"
    } else {
        "fitted"
    };
    let config = config.latency;
    // Half a million samples take a good part of a second.
    match population::fitted(move || LatencyModel::fit(config, &samples, now)).await {
        Ok(model) => {
            service.metrics.refit("latency", outcome);
            service.latency.store(Arc::new(model));
        }
        Err(error) => {
            let error = event::chain(&error);
            tracing::warn!(error, "expected delays were not refreshed: {error}");
            service.metrics.refit("latency", "failed");
        }
    }
}
