//! Appends records: they go to the library's queue, and the caller waits until the brokers have acknowledged all of its own.
//!
//! The producer is idempotent: what the library sends again after a lost response is stored once and in order. Concurrent
//! appends share requests. Bytes that wait for acknowledgement are counted before they are queued, and an append for which
//! there is no room is refused at once, so that memory is bounded and the caller can report the overload to its own caller.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Message, OwnedHeaders},
    producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{
    client::{self, Listener, Trouble},
    config::KafkaConfig,
    error::Failure,
};
use crate::{bus::NewRecord, metrics::KafkaCounters};

/// How long a record waits for others to share its request. With 64 callers of one record each, 1 ms got about three times as
/// many records per second acknowledged as the library's default of 5 ms, and half as many again as no wait
/// (`examples/throughput.rs`).
const LINGER_MS: &str = "1";

/// Memory that the library uses per record in addition to the record's own bytes.
const RECORD_OVERHEAD: usize = 512;

/// Upper bound of a record's framing in a request: its batch's header, its own lengths, a few bytes per header.
const FRAMING: usize = 1_024;

/// The library's own limit of its queue, in KiB. It never takes effect: it is twice the largest limit that can be configured
/// here.
const LIBRARY_QUEUE_KBYTES: &str = "2097152";

/// Number of records passed to the library before other tasks may run: about a millisecond of work.
const RECORDS_AT_ONCE: usize = 1_000;

/// How long a new producer is not believed to work when its predecessor was refused: some ten times what brokers take to refuse it
/// too.
const ON_PROBATION: Duration = Duration::from_secs(2);

/// The library's producer, with its thread.
pub(super) type Native = ThreadedProducer<Deliveries>;

/// Appends records.
pub(super) struct Producer {
    config: Arc<KafkaConfig>,
    native: RwLock<Arc<Native>>,
    /// When the brokers refused the latest producer that they refused, and why.
    refused: Mutex<Option<(Instant, RDKafkaErrorCode)>>,
    room: Arc<Semaphore>,
    counters: KafkaCounters,
}

/// Records of one append that wait for acknowledgement.
pub(super) struct Pending {
    left: AtomicUsize,
    /// What failed first, and the topic.
    failure: OnceLock<(RDKafkaErrorCode, String)>,
    done: Notify,
    room: OwnedSemaphorePermit,
    counters: KafkaCounters,
}

impl Pending {
    /// Records the outcome of `count` records.
    fn settle(&self, count: usize, failure: Option<(RDKafkaErrorCode, &str)>) {
        if let Some((code, topic)) = failure {
            // The first failure is the cause; the others follow from it.
            self.failure.get_or_init(|| (code, topic.to_owned()));
        }
        if self.left.fetch_sub(count, Ordering::AcqRel) == count {
            self.done.notify_one();
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.counters.queued(-bytes(&self.room));
    }
}

/// Receives the brokers' acknowledgements.
#[derive(Default)]
pub(super) struct Deliveries {
    listener: Listener,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.listener.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.listener.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        let failure = match result {
            Ok(_) => None,
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                Some((code, message.topic()))
            }
        };
        pending.settle(1, failure);
    }
}

impl Producer {
    /// Starts the library. Blocks while it reads certificates, but does not wait for a connection.
    pub(super) fn start(config: Arc<KafkaConfig>, counters: KafkaCounters) -> Result<Self, Failure> {
        let native = settings(&config).create_with_context(Deliveries::default())?;
        Ok(Self {
            room: Arc::new(Semaphore::new(config.queue_bytes)),
            native: RwLock::new(Arc::new(native)),
            refused: Mutex::default(),
            config,
            counters,
        })
    }

    /// Returns the library's producer, which also serves requests about topics.
    pub(super) fn native(&self) -> Arc<Native> {
        Arc::clone(&self.native.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns why there is no connection.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.native().client().context().listener.trouble()
    }

    /// Appends records to topics that exist. After a failure some of them may have been appended.
    pub(super) async fn append(&self, records: &[NewRecord]) -> Result<(), Failure> {
        let room = self.room_for(records)?;
        self.counters.queued(bytes(&room));
        let native = self.native();
        let pending = Arc::new(Pending {
            left: AtomicUsize::new(records.len()),
            failure: OnceLock::new(),
            done: Notify::new(),
            room,
            counters: self.counters.clone(),
        });
        for (number, record) in records.iter().enumerate() {
            if let Err(code) = send(&native, record, &pending) {
                pending.settle(records.len() - number, Some((code, &record.topic)));
                break;
            }
            if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        pending.done.notified().await;
        let Some((code, topic)) = pending.failure.get() else {
            return Ok(());
        };
        self.check_native(&native)?;
        Err(Failure::of_append(topic, *code))
    }

    /// Fails if the library's producer will never work, and starts another. That one counts as failing for a moment too if the
    /// brokers refused the first.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.check_native(&self.native())?;
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused {
            Some((at, code)) if at.elapsed() < ON_PROBATION => Err(Failure::Code(code)),
            _ => Ok(()),
        }
    }

    fn check_native(&self, native: &Arc<Native>) -> Result<(), Failure> {
        // Every call on a producer that has failed only reports that it has; this is why.
        let Some((code, reason)) = native.client().fatal_error() else {
            return Ok(());
        };
        tracing::error!(kafka.code = %code, "kafka's producer has failed and is being restarted: {reason}");
        let failure = Failure::Code(code);
        if failure.is_misconfiguration() {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused = Some((Instant::now(), code));
        }
        self.replace(native);
        Err(failure)
    }

    /// Checks the sizes of the records and takes the room they need. An append larger than the whole queue may go alone: it is
    /// in memory already.
    fn room_for(&self, records: &[NewRecord]) -> Result<OwnedSemaphorePermit, Failure> {
        let mut bytes = 0;
        for record in records {
            let size = size(record);
            if size + FRAMING > self.config.max_record_bytes {
                return Err(Failure::Rejected(format!(
                    "a record for the topic `{}` has {size} bytes, `kafka.max_record_bytes` is {}",
                    record.topic, self.config.max_record_bytes
                )));
            }
            bytes += size + RECORD_OVERHEAD;
        }
        let bytes = bytes.min(self.config.queue_bytes);
        // At most 1 GiB, as configured.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| Failure::QueueFull {
                waiting: self.config.queue_bytes - self.room.available_permits(),
                allowed: self.config.queue_bytes,
            })
    }

    /// Starts a new producer of the library in place of `failed`. Records that wait in the old one fail.
    fn replace(&self, failed: &Arc<Native>) {
        let mut native = self.native.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&native, failed) {
            return;
        }
        match settings(&self.config).create_with_context(Deliveries::default()) {
            Ok(new) => *native = Arc::new(new),
            Err(error) => {
                tracing::error!(error = %Failure::from(error), "kafka's producer could not be restarted");
            }
        }
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::settings(config);
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", config.compression)
        .set("linger.ms", LINGER_MS)
        .set("delivery.timeout.ms", client::millis(config.delivery_timeout))
        .set("message.max.bytes", config.max_record_bytes.to_string())
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", LIBRARY_QUEUE_KBYTES)
        // The partitioner of Kafka's own clients: other programs find a key in the same partition.
        .set("partitioner", "murmur2_random");
    settings
}

fn send(native: &Native, record: &NewRecord, pending: &Arc<Pending>) -> Result<(), RDKafkaErrorCode> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    let record = BaseRecord::with_opaque_to(&record.topic, Arc::clone(pending))
        .key(&record.key)
        .payload(&record.value)
        .headers(headers);
    native
        .send(record)
        .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
}

/// Returns the number of bytes that a permit stands for.
fn bytes(room: &OwnedSemaphorePermit) -> i64 {
    i64::try_from(room.num_permits()).unwrap_or(i64::MAX)
}

/// Returns the size of a record in bytes.
fn size(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    record.key.len() + record.value.len() + headers
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;
    use crate::bus::RawKafkaConfig;

    /// An address at which nobody listens.
    const NOBODY: &str = "127.0.0.1:1";

    const SOON: Duration = Duration::from_secs(1);

    fn producer(servers: String, delivery_timeout: Duration) -> Producer {
        let raw = RawKafkaConfig {
            bootstrap_servers: Some(servers),
            queue_bytes: 1024 * 1024,
            delivery_timeout_ms: delivery_timeout.as_millis() as u64,
            ..Default::default()
        };
        let config = KafkaConfig::try_from(raw).unwrap();
        Producer::start(Arc::new(config), KafkaCounters::default()).unwrap()
    }

    fn record(bytes: usize) -> NewRecord {
        NewRecord {
            topic: "topic".to_owned(),
            key: "key".to_owned(),
            value: vec![b'x'; bytes],
            headers: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn goes_on_after_a_fatal_error() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("topic", 1, 1).unwrap();
        // Long enough for the busiest machine.
        let producer = producer(cluster.bootstrap_servers(), Duration::from_secs(60));
        producer.append(&[record(1)]).await.unwrap();
        let first = producer.native();

        let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
        producer.append(&[record(1)]).await.unwrap_err();
        assert!(first.client().fatal_error().is_some());
        assert!(!Arc::ptr_eq(&first, &producer.native()), "it is replaced");
        producer.append(&[record(1)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_right_that_is_missing_is_told_as_one() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("topic", 1, 1).unwrap();
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied]);
        let producer = producer(cluster.bootstrap_servers(), Duration::from_secs(60));
        let refused = producer.append(&[record(1)]).await.unwrap_err();
        assert!(
            matches!(
                refused,
                Failure::Code(RDKafkaErrorCode::ClusterAuthorizationFailed)
            ),
            "{refused:?}"
        );
        // Its successor is not believed to work at once.
        producer.check().unwrap_err();
        producer.append(&[record(1)]).await.unwrap();
        tokio::time::sleep(ON_PROBATION).await;
        producer.check().unwrap();
    }

    #[tokio::test]
    async fn a_key_is_in_the_partition_that_kafka_s_own_clients_choose() {
        // Of seven, by Kafka's murmur2; the library's own choice would differ for each of these keys.
        let partitions = [("bob", 5), ("21", 3), ("abc", 4)];
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("topic", 7, 1).unwrap();
        let producer = producer(cluster.bootstrap_servers(), Duration::from_secs(60));
        for (key, partition) in partitions {
            let key = key.to_owned();
            producer.append(&[NewRecord { key, ..record(1) }]).await.unwrap();
            let native = producer.native();
            let (_, end) = native
                .client()
                .fetch_watermarks("topic", partition, Duration::from_secs(10))
                .unwrap();
            assert_eq!(end, 1, "partition {partition}");
        }
    }

    #[tokio::test]
    async fn refuses_what_there_is_no_room_for_and_gives_room_back() {
        // No broker is there: everything waits until it times out.
        let producer = Arc::new(producer(NOBODY.to_owned(), SOON));
        let waiting = {
            let producer = Arc::clone(&producer);
            tokio::spawn(async move { producer.append(&[record(700_000)]).await })
        };
        while producer.room.available_permits() == producer.config.queue_bytes {
            tokio::task::yield_now().await;
        }
        let refused = producer.append(&[record(700_000)]).await;
        assert!(matches!(refused, Err(Failure::QueueFull { .. })), "{refused:?}");
        let told = waiting.await.unwrap();
        assert!(
            matches!(told, Err(Failure::Code(RDKafkaErrorCode::MessageTimedOut))),
            "{told:?}"
        );
        // The callback that reported the outcome holds the room for a moment longer.
        while producer.room.available_permits() < producer.config.queue_bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn refuses_a_long_record_and_all_that_come_with_it() {
        let producer = producer(NOBODY.to_owned(), SOON);
        let long = record(producer.config.max_record_bytes);
        let refused = producer.append(&[record(1), long]).await;
        assert!(matches!(refused, Err(Failure::Rejected(_))), "{refused:?}");
        // The room is held for as long as a record waits.
        assert_eq!(
            producer.room.available_permits(),
            producer.config.queue_bytes,
            "none waits"
        );
    }
}
