//! Accepts connections within limits and shuts down gracefully.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    descriptors,
    stall::ReadByItsClient,
    tls::{Certificates, TlsConfig},
};

/// Longest head of a request, give or take the chunk that is read last. Proxies in front of services allow 8 to 32 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest wait for a request's head, and for the next request on an open connection. Waiting longer than the keep-alive
/// of common proxies would only hold unused connections.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest TLS handshake, and longest wait for the first byte of a connection: two round trips, with room for the worst of
/// mobile networks. Whoever opens connections and sends nothing does not keep others out for longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which usually means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of open connections; more wait to be accepted. Lowered if the process may not open that many files.
    pub max_connections: usize,
    /// Time after the signal to stop in which everything is still served. Whoever passes requests on learns from `/ready` that the
    /// process is stopping, and meets no closed door meanwhile.
    pub stop_delay: Duration,
    /// Time that open requests have to finish after that.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    /// 4,096 connections, some 100 MB when all are busy; no delay, since only a load balancer has a use for it; and 20 seconds, less
    /// than orchestrators wait before they kill a process.
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            stop_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// Longest [`Limits::stop_delay`] and [`Limits::drain_timeout`] together. Every role ends within 30 s of the signal; the rest of that
    /// is for the engines, which commit what is queued.
    pub const LONGEST_STOP: Duration = Duration::from_secs(25);
}

/// Serves `router` on `listener`, over TLS if `tls` is given, until `shutdown` and for [`Limits::stop_delay`] more; then lets open
/// requests finish within [`Limits::drain_timeout`] and closes the remaining connections.
///
/// # Errors
/// If the certificate cannot be used at the start; `shutdown` is then cancelled.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsConfig>,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut acceptor = None;
    // Stops watching when this function returns or is dropped.
    let _watch = match tls {
        Some(tls) => {
            let opened = Certificates::open(tls).inspect_err(|_| shutdown.cancel());
            let certificates = opened.map_err(io::Error::other)?;
            acceptor = Some(TlsAcceptor::from(certificates.server_config()));
            let stop = shutdown.child_token();
            tokio::spawn(certificates.watch(stop.clone()));
            Some(stop.drop_guard())
        }
        None => None,
    };
    let connections = Arc::new(Semaphore::new(descriptors::affordable(limits.max_connections)));
    let open = TaskTracker::new();
    let give_up = CancellationToken::new();
    let stops = CancellationToken::new();
    let mut stopping = pin!(async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.stop_delay).await;
        stops.cancel();
    });
    loop {
        let (stream, permit) = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let connection = Connection {
            router: router.clone(),
            stops: stops.clone(),
            give_up: give_up.clone(),
        };
        let acceptor = acceptor.clone();
        open.spawn(async move {
            connection.run(stream, acceptor).await;
            drop(permit);
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(limits.drain_timeout, open.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = open.len(),
            "{} connections did not end in time and are closed",
            open.len()
        );
        give_up.cancel();
        open.wait().await;
    }
    Ok(())
}

/// Waits for a free permit, then for the next connection.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = Arc::clone(connections)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _address) = patiently(|| listener.accept()).await;
    (stream, permit)
}

/// Retries accepting until it succeeds. An open listener only fails for temporary reasons, usually a lack of file descriptors:
/// giving up would let anyone who holds many connections end the process.
async fn patiently<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    let mut is_told = false;
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if !is_told {
                    is_told = true;
                    tracing::warn!(error = %error, "connections cannot be accepted now: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    router: Router,
    stops: CancellationToken,
    give_up: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Responses are one small write each; waiting to fill a packet would only delay them. If the connection is already
        // closed, the next read fails.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = acceptor else {
            let mut byte = [0];
            let first = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut byte));
            if let Some(Ok(_)) = self.stops.run_until_cancelled(first).await {
                self.serve(ReadByItsClient::new(stream)).await;
            }
            return;
        };
        let handshake =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(ReadByItsClient::new(stream)));
        match self.stops.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.serve(stream).await,
            // Scanners and clients with plain HTTP: not an error of this side.
            Some(Ok(Err(error))) => tracing::debug!(error = %error, "a TLS handshake failed: {error}"),
            Some(Err(_elapsed)) => tracing::debug!("a TLS handshake took too long"),
            None => {}
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router));
        let mut connection = pin!(connection);
        // Errors on a connection (resets, broken requests) are the client's, and hyper answers them.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.stops.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = self.give_up.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::RawTlsConfig;

    // The clock jumps to the next timer whenever nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_sends_nothing_is_closed_soon() {
        silence_is_cut_short(None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_never_comes_is_given_up_soon() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let raw = RawTlsConfig {
            certificate: Some(certificate),
            key: Some(key),
            reload_seconds: None,
        };
        silence_is_cut_short(TlsConfig::try_new("host", raw).unwrap()).await;
    }

    async fn silence_is_cut_short(tls: Option<TlsConfig>) {
        let served = Served::start(Router::new(), tls, Limits::default()).await;
        let began = tokio::time::Instant::now();
        let mut silent = served.connect().await;
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        assert!(began.elapsed() < HEAD_TIMEOUT / 2, "{:?}", began.elapsed());
        served.stop().await;
    }

    /// A listener that serves.
    struct Served {
        address: std::net::SocketAddr,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    impl Served {
        async fn start(router: Router, tls: Option<TlsConfig>, limits: Limits) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let shutdown = CancellationToken::new();
            let task = tokio::spawn(serve(listener, router, tls, limits, shutdown.clone()));
            Self {
                address,
                shutdown,
                task,
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn stop(self) {
            self.shutdown.cancel();
            self.task.await.unwrap().unwrap();
        }
    }

    /// More than the system buffers for a connection.
    const LONG_ANSWER_BYTES: usize = 16 * 1024 * 1024;

    /// Serves a long answer and a short one, to one connection at a time.
    async fn long_and_short() -> Served {
        let router = Router::new()
            .route("/long", get(|| async { vec![b'x'; LONG_ANSWER_BYTES] }))
            .route("/short", get(|| async { "short" }));
        let limits = Limits {
            max_connections: 1,
            ..Limits::default()
        };
        Served::start(router, None, limits).await
    }

    fn get_request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answers_makes_room() {
        let served = long_and_short().await;
        let began = tokio::time::Instant::now();
        let mut idle = served.connect().await;
        // The second is not even looked at while the answer to the first cannot be written.
        let both = get_request("/long") + &get_request("/short");
        idle.write_all(both.as_bytes()).await.unwrap();
        let mut next = served.connect().await;
        next.write_all(get_request("/short").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let answered = tokio::time::timeout(10 * HEAD_TIMEOUT, next.read_exact(&mut answer)).await;
        assert!(answered.is_ok(), "the first has kept the only place");
        assert_eq!(&answer, b"HTTP/1.1 200");
        assert!(began.elapsed() < 2 * HEAD_TIMEOUT, "{:?}", began.elapsed());
        // Nothing is kept for it: what it has not read is gone.
        let mut rest = Vec::new();
        let error = idle.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(rest.len() < LONG_ANSWER_BYTES / 2, "{}", rest.len());
        served.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_with_a_delay_closes_no_door_before_its_time() {
        let limits = Limits {
            stop_delay: Duration::from_secs(5),
            ..Limits::default()
        };
        let router = Router::new().route("/short", get(|| async { "short" }));
        let served = Served::start(router, None, limits).await;
        let mut kept = served.connect().await;
        served.shutdown.cancel();
        let began = tokio::time::Instant::now();
        let mut new = served.connect().await;
        for stream in [&mut kept, &mut new] {
            stream.write_all(get_request("/short").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
        kept.read_to_end(&mut Vec::new()).await.unwrap();
        let closed = began.elapsed();
        assert!(closed >= limits.stop_delay, "{closed:?}");
        served.task.await.unwrap().unwrap();
        assert!(TcpStream::connect(served.address).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_gets_its_answer() {
        let served = long_and_short().await;
        let mut slow = served.connect().await;
        slow.write_all(get_request("/long").as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut piece = vec![0; LONG_ANSWER_BYTES / 16];
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            slow.read_exact(&mut piece).await.unwrap();
        }
        assert!(began.elapsed() > 3 * HEAD_TIMEOUT);
        served.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_is_never_given_up() {
        // A quarter of an hour of failures.
        const FAILURES: u32 = 10_000;
        // EMFILE: too many open files.
        const NO_DESCRIPTOR_LEFT: i32 = 24;
        let mut failures = 0;
        let accepted = patiently(|| {
            let answer = if failures == FAILURES {
                Ok("a connection")
            } else {
                failures += 1;
                Err(io::Error::from_raw_os_error(NO_DESCRIPTOR_LEFT))
            };
            std::future::ready(answer)
        });
        assert_eq!(accepted.await, "a connection");
    }
}
