//! The response of `/ready`: each dependency, whether it answers and how fast.
//!
//! The route is open to everybody, and each check costs the stores work, so that requests at about the same time share a result.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::ToSchema;

/// Longest wait for a dependency. Orchestrators give a probe one second by default, and repeat it.
const PING_TIMEOUT: Duration = Duration::from_millis(900);

/// How long a result is reused. Orchestrators probe every few seconds and act on several results.
const TOLD_FOR: Duration = Duration::from_secs(1);

/// The readiness of a role: its dependencies, and whether they answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `degraded` (it works, but a dependency that is not needed does not answer), `not_ready` or `stopping`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Why the role is not ready, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<NotReady>,
    /// The role's dependencies, by name.
    pub dependencies: BTreeMap<&'static str, Dependency>,
}

/// Why a role is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotReady {
    /// Stable code: `bus_unavailable`, `events_unavailable`, `stopping`.
    #[schema(example = "events_unavailable")]
    pub code: String,
    /// One human-readable sentence.
    pub message: String,
}

/// A dependency of a role.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Dependency {
    /// `ok`, `unreachable`, `timed_out`, or `unusable` if it answers but what it holds cannot be used, or it refuses what is needed.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Milliseconds until it answered or failed.
    #[schema(example = 0.8)]
    pub latency_ms: f64,
    /// Whether the role cannot work without it.
    pub needed: bool,
}

/// The result of checking one dependency.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    name: &'static str,
    dependency: Dependency,
    /// What went wrong, for the log only: it may contain addresses.
    failure: Option<String>,
}

/// Checks whether a dependency answers, within a second.
pub async fn probe<E: Display>(
    name: &'static str,
    needed: bool,
    ping: impl Future<Output = Result<(), E>>,
) -> Probe {
    let started = Instant::now();
    let answer = tokio::time::timeout(PING_TIMEOUT, ping).await;
    let latency_ms = started.elapsed().as_micros() as f64 / 1_000.0;
    let (status, failure) = match answer {
        Ok(Ok(())) => ("ok", None),
        Ok(Err(error)) => ("unreachable", Some(error.to_string())),
        Err(_elapsed) => ("timed_out", Some("no answer in time".to_owned())),
    };
    let dependency = Dependency {
        status,
        latency_ms,
        needed,
    };
    Probe {
        name,
        dependency,
        failure,
    }
}

/// The state of `/ready`, shared by all requests.
#[derive(Debug, Clone, Default)]
pub struct SharedReadiness {
    last: Arc<Mutex<Option<(Instant, Readiness)>>>,
}

impl SharedReadiness {
    /// Returns the result of `probes`, or their result within the last second. Concurrent callers wait for the same
    /// probes, which should run concurrently. Changes are logged.
    pub async fn ask<const N: usize>(
        &self,
        probes: impl Future<Output = [Probe; N]> + Send + 'static,
    ) -> Readiness {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((told_at, readiness)) = &*last
            && told_at.elapsed() < TOLD_FOR
        {
            return readiness.clone();
        }
        // In a separate task: a caller who hangs up does not make the next one start over.
        let asked = tokio::spawn(async move {
            let probes = probes.await;
            let before = last.as_ref().map(|(_, readiness)| &readiness.dependencies);
            for probe in &probes {
                probe.tell_change(before.and_then(|before| before.get(probe.name)));
            }
            let readiness = Readiness::of(probes);
            *last = Some((Instant::now(), readiness.clone()));
            readiness
        });
        asked
            .await
            .expect("no port panics when it is asked, and nobody aborts the task")
    }
}

impl Probe {
    /// Says, of a dependency that answers, why what it holds cannot be used, or what it refuses, if there is such a reason.
    #[must_use]
    pub fn or_unusable(mut self, failure: Option<String>) -> Self {
        if self.failure.is_none() && failure.is_some() {
            self.dependency.status = "unusable";
            self.failure = failure;
        }
        self
    }

    /// Logs that a dependency is down or back.
    fn tell_change(&self, before: Option<&Dependency>) {
        let name = self.name;
        let was_lost = before.is_some_and(|before| before.status != "ok");
        match &self.failure {
            Some(error) if !was_lost => {
                let what = match self.dependency.status {
                    "unusable" => "cannot be used",
                    _ => "does not answer",
                };
                tracing::warn!(dependency = name, error, "dependency `{name}` {what}: {error}");
            }
            None if was_lost => tracing::info!(dependency = name, "dependency `{name}` answers again"),
            _ => {}
        }
    }
}

impl Readiness {
    /// Not ready if a needed dependency does not answer, degraded if only others do not.
    fn of(probes: impl IntoIterator<Item = Probe>) -> Self {
        let mut readiness = Self {
            status: "ready",
            error: None,
            dependencies: BTreeMap::new(),
        };
        for Probe { name, dependency, .. } in probes {
            if dependency.status != "ok" {
                if dependency.needed {
                    readiness.status = "not_ready";
                    readiness.error.get_or_insert_with(|| NotReady {
                        code: format!("{name}_unavailable"),
                        message: format!("dependency `{name}` does not answer, or refuses what is needed: check its server and the log"),
                    });
                } else if readiness.error.is_none() {
                    readiness.status = "degraded";
                }
            }
            readiness.dependencies.insert(name, dependency);
        }
        readiness
    }

    /// Returns the readiness of a role that is stopping: it finishes its work and accepts nothing more.
    pub fn stopping() -> Self {
        Self {
            status: "stopping",
            error: Some(NotReady {
                code: "stopping".to_owned(),
                message: "this process is stopping: ask another".to_owned(),
            }),
            dependencies: BTreeMap::new(),
        }
    }
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        if self.error.is_none() {
            return Json(self).into_response();
        }
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(self)).into_response();
        response.headers_mut().insert(RETRY_AFTER, 1.into());
        response
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn asked(name: &'static str, needed: bool, answers: bool) -> Probe {
        probe(
            name,
            needed,
            async move { if answers { Ok(()) } else { Err("gone") } },
        )
        .await
    }

    #[tokio::test]
    async fn what_is_needed_decides() {
        let all = Readiness::of([
            asked("events", true, true).await,
            asked("profiles", false, true).await,
        ]);
        assert_eq!((all.status, all.error), ("ready", None));
        let some = Readiness::of([
            asked("events", true, true).await,
            asked("profiles", false, false).await,
        ]);
        assert_eq!((some.status, some.error.clone()), ("degraded", None));
        assert_eq!(some.dependencies["profiles"].status, "unreachable");
        assert_eq!(some.into_response().status(), StatusCode::OK);
        let none = Readiness::of([
            asked("events", true, false).await,
            asked("profiles", false, false).await,
        ]);
        assert_eq!(none.status, "not_ready");
        assert_eq!(none.error.as_ref().unwrap().code, "events_unavailable");
        let response = none.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn what_answers_may_still_be_unusable() {
        let unusable = |probe: Probe| Readiness::of([probe.or_unusable(Some("why".to_owned()))]);
        let answers = unusable(asked("accounts", false, true).await);
        assert_eq!(answers.status, "degraded");
        assert_eq!(answers.dependencies["accounts"].status, "unusable");
        let silent = unusable(asked("accounts", false, false).await);
        assert_eq!(silent.dependencies["accounts"].status, "unreachable");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dependency_that_hangs_is_not_waited_for() {
        let hangs = probe("bus", true, std::future::pending::<Result<(), &str>>()).await;
        assert_eq!(Readiness::of([hangs]).dependencies["bus"].status, "timed_out");
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_an_answer() {
        let readiness = SharedReadiness::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let asked = Arc::clone(&asked);
            let ping = async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<(), &str>(())
            };
            readiness.ask(async { [probe("bus", true, ping).await] })
        };
        // A caller who hangs up does not end the check for the others.
        assert!(
            tokio::time::timeout(Duration::from_millis(10), ask())
                .await
                .is_err()
        );
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (readiness, asked) = (readiness.clone(), Arc::clone(&asked));
            all.spawn(async move {
                let ping = async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    Ok::<(), &str>(())
                };
                readiness.ask(async { [probe("bus", true, ping).await] }).await
            });
        }
        for answer in all.join_all().await {
            assert_eq!(answer.status, "ready");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::sleep(TOLD_FOR).await;
        assert_eq!(ask().await.status, "ready");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
