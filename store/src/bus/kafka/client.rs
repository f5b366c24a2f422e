//! What all clients of the library share: connection settings, and where their messages go.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    client::Client,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{config::KafkaConfig, error::Failure};

/// Longest wait for the response to one request. A healthy broker responds in milliseconds; the request that takes longest by
/// design, a fetch, waits 100 ms for records.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to reconnect, so that an outage ends within a second of the brokers' return.
const RECONNECT_WITHIN_MS: u32 = 1_000;

/// Returns the settings that producers and readers share.
pub(super) fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set_log_level(RDKafkaLogLevel::Info)
        .set("client.id", "sendflowr")
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("security.protocol", protocol(config))
        .set("socket.timeout.ms", millis(REQUEST_TIMEOUT))
        .set("socket.connection.setup.timeout.ms", millis(REQUEST_TIMEOUT))
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", RECONNECT_WITHIN_MS.to_string())
        // Brokers close connections that were idle for long; that is not worth a message.
        .set("log.connection.close", "false")
        // A topic created automatically by the brokers would have their default number of partitions instead of ours.
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false");
    if let Some(sasl) = &config.sasl {
        settings
            .set("sasl.mechanism", sasl.mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", sasl.password.expose());
    }
    if let Some(tls) = &config.tls {
        if let Some(ca) = &tls.ca {
            settings.set("ssl.ca.pem", ca);
        }
        if let Some(client) = &tls.client {
            settings
                .set("ssl.certificate.pem", &client.certificate)
                .set("ssl.key.pem", client.key.expose());
        }
    }
    settings
}

fn protocol(config: &KafkaConfig) -> &'static str {
    match (&config.tls, &config.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    }
}

/// Formats a duration as the library expects it.
pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Forwards what a client reports on its own: to the log, and to callers that wait for a connection.
#[derive(Debug, Default)]
pub(super) struct Listener {
    trouble: Mutex<Option<Trouble>>,
}

/// Why there is no connection, in the words of the library. The text names addresses but never secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

impl Trouble {
    /// Returns whether a broker responded and refused this client.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::SSL
        )
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Listener {
    /// Returns the latest trouble. That all brokers are down says less than what happened to each, so it does not replace that.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // The library restores its connections itself, and what it cannot restore is returned as an error of a call.
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
                if facility != "CONFWARN" =>
            {
                tracing::warn!(kafka.facility = facility, "kafka client: {message}");
            }
            RDKafkaLogLevel::Notice => {
                tracing::info!(kafka.facility = facility, "kafka client: {message}");
            }
            // Includes warnings about settings that only one kind of client reads.
            _ => tracing::debug!(kafka.facility = facility, "kafka client: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "kafka client: {reason}");
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if code != RDKafkaErrorCode::AllBrokersDown || trouble.is_none() {
            *trouble = Some(Trouble {
                code,
                reason: reason.to_owned(),
            });
        }
    }
}

/// What the brokers know about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicMetadata {
    pub(super) partitions: Vec<PartitionMetadata>,
}

/// What the brokers know about a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionMetadata {
    pub(super) number: i32,
    pub(super) has_leader: bool,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
}

impl TopicMetadata {
    /// Returns whether all its partitions can be written and read.
    pub(super) fn is_settled(&self) -> bool {
        !self.partitions.is_empty() && self.partitions.iter().all(|partition| partition.has_leader)
    }
}

/// Asks the brokers for a topic; returns `None` if there is none of that name. Blocks.
pub(super) fn topic<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    within: Duration,
) -> Result<Option<TopicMetadata>, Failure> {
    let metadata = client.fetch_metadata(Some(name), within)?;
    let Some(topic) = metadata.topics().first() else {
        return Ok(None);
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(Failure::of_topic(name, code)),
    }
    let mut partitions: Vec<PartitionMetadata> = topic
        .partitions()
        .iter()
        .map(|partition| PartitionMetadata {
            number: partition.id(),
            has_leader: partition.leader() >= 0,
            replicas: partition.replicas().len(),
            in_sync: partition.isr().len(),
        })
        .collect();
    partitions.sort_unstable_by_key(|partition| partition.number);
    Ok(Some(TopicMetadata { partitions }))
}

/// Runs `work`, which waits for brokers, on a thread of its own. If it ran on the runtime's threads for blocking work, the
/// process could not end until brokers that hang responded.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = oneshot::channel();
    let runtime = Handle::current();
    let started = thread::Builder::new()
        .name("kafka-call".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            // Nobody receives it if the caller has given up.
            let _ = sender.send(work());
        });
    if let Err(error) = started {
        return Err(Failure::Library(format!("cannot start a thread: {error}")));
    }
    match receiver.await {
        Ok(result) => result,
        Err(_) => Err(Failure::Library("the call panicked".to_owned())),
    }
}
