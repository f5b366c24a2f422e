//! The answer of `/ready`: each dependency, whether it answers and how fast.

use std::{
    collections::BTreeMap,
    fmt::Display,
    time::{Duration, Instant},
};

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Longest wait for a dependency. Orchestrators give a probe one second by default, and ask again.
const PING_TIMEOUT: Duration = Duration::from_millis(900);

/// What a role needs, and whether it answers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `degraded` (it works, with less behind it), `not_ready` or `stopping`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Why not, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<NotReady>,
    /// What it works with, by name.
    pub dependencies: BTreeMap<&'static str, Dependency>,
}

/// Why a role is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotReady {
    /// Stable code: `bus_unavailable`, `events_unavailable`, `stopping`.
    #[schema(example = "events_unavailable")]
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

/// Something that a role works with.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Dependency {
    /// `ok`, `unreachable` or `timed_out`.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Milliseconds until it answered, or failed to.
    #[schema(example = 0.8)]
    pub latency_ms: f64,
    /// Whether the role cannot work without it.
    pub needed: bool,
}

/// What asking one dependency came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    name: &'static str,
    dependency: Dependency,
}

/// Asks a dependency whether it answers, within a second. A failure is logged here.
pub async fn probe<E: Display>(
    name: &'static str,
    needed: bool,
    ping: impl Future<Output = Result<(), E>>,
) -> Probe {
    let started = Instant::now();
    let answer = tokio::time::timeout(PING_TIMEOUT, ping).await;
    let latency_ms = started.elapsed().as_micros() as f64 / 1_000.0;
    let status = match answer {
        Ok(Ok(())) => "ok",
        Ok(Err(error)) => {
            tracing::warn!(dependency = name, error = %error, "the {name} port does not answer: {error}");
            "unreachable"
        }
        Err(_elapsed) => {
            tracing::warn!(dependency = name, "the {name} port does not answer in time");
            "timed_out"
        }
    };
    let dependency = Dependency {
        status,
        latency_ms,
        needed,
    };
    Probe { name, dependency }
}

impl Readiness {
    /// Not ready as soon as something needed does not answer, degraded when something else does not.
    pub fn of(probes: impl IntoIterator<Item = Probe>) -> Self {
        let mut readiness = Self {
            status: "ready",
            error: None,
            dependencies: BTreeMap::new(),
        };
        for Probe { name, dependency } in probes {
            if dependency.status != "ok" {
                if dependency.needed {
                    readiness.status = "not_ready";
                    readiness.error.get_or_insert_with(|| NotReady {
                        code: format!("{name}_unavailable"),
                        message: format!("the {name} port does not answer: see its server and the log"),
                    });
                } else if readiness.error.is_none() {
                    readiness.status = "degraded";
                }
            }
            readiness.dependencies.insert(name, dependency);
        }
        readiness
    }

    /// The role is ending: it finishes what it has and takes nothing more.
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

    #[tokio::test(start_paused = true)]
    async fn a_dependency_that_hangs_is_not_waited_for() {
        let hangs = probe("bus", true, std::future::pending::<Result<(), &str>>()).await;
        assert_eq!(Readiness::of([hangs]).dependencies["bus"].status, "timed_out");
    }
}
