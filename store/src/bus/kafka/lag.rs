//! Reads how far groups lag behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaResult, RDKafkaErrorCode as Code},
};

use super::{
    client::{self, Listener, REQUEST_TIMEOUT},
    config::KafkaConfig,
    error::Failure,
};
use crate::bus::Lag;

/// Pause between two requests while the brokers choose the coordinator of a group, which takes them a few tenths of a second.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl ConsumerContext for Listener {}

/// Reads lags. Keeps a client for each group that it is asked about, because the library returns a group's offsets only to clients
/// of that group, and a new client has to connect and log in first. A client that never subscribes does not become a member.
pub(super) struct Lags {
    config: Arc<KafkaConfig>,
    clients: Mutex<HashMap<String, Arc<BaseConsumer<Listener>>>>,
}

impl Lags {
    pub(super) fn new(config: Arc<KafkaConfig>) -> Self {
        Self {
            config,
            clients: Mutex::default(),
        }
    }

    /// Reads the lag of `group`. Blocks.
    pub(super) fn read(&self, group: &str, topics: &[String]) -> Result<Vec<Lag>, Failure> {
        let client = self.client(group)?;
        // What the library reports on its own, such as a lost connection, is kept until somebody takes it.
        while client.poll(Duration::ZERO).is_some() {}
        let mut wanted = TopicPartitionList::new();
        for topic in topics {
            let Some(metadata) = client::topic(client.client(), topic, REQUEST_TIMEOUT)? else {
                continue;
            };
            for partition in metadata.partitions {
                wanted.add_partition(topic, partition.number);
            }
        }
        if wanted.count() == 0 {
            return Ok(Vec::new());
        }
        let committed = once_settled(|| client.committed_offsets(wanted.clone(), REQUEST_TIMEOUT))
            .map_err(|error| Failure::of_group(group, error))?;
        // One request to each broker for all of its partitions.
        let ends_of = |end: Offset| {
            let mut ends = wanted.clone();
            ends.set_all_offsets(end)?;
            client.offsets_for_times(ends, REQUEST_TIMEOUT)
        };
        let (firsts, nexts) = (ends_of(Offset::Beginning)?, ends_of(Offset::End)?);
        let mut lags = Vec::with_capacity(committed.count());
        for partition in committed.elements() {
            partition.error()?;
            let (topic, number) = (partition.topic(), partition.partition());
            let (first, next) = (
                offset_in(&firsts, topic, number)?,
                offset_in(&nexts, topic, number)?,
            );
            let committed = match partition.offset() {
                Offset::Offset(offset) => offset,
                // Nothing was committed yet.
                _ => first,
            };
            lags.push(Lag {
                topic: topic.to_owned(),
                partition: number.unsigned_abs(),
                records: u64::try_from(next - committed.max(first)).unwrap_or(0),
                lost: u64::try_from(first - committed).unwrap_or(0),
            });
        }
        Ok(lags)
    }

    /// Closes all clients. Blocks.
    pub(super) fn close(&self) {
        self.clients().clear();
    }

    fn client(&self, group: &str) -> Result<Arc<BaseConsumer<Listener>>, Failure> {
        let mut clients = self.clients();
        if let Some(client) = clients.get(group) {
            return Ok(Arc::clone(client));
        }
        let mut settings = client::settings(&self.config);
        settings.set("group.id", group);
        let client: Arc<BaseConsumer<Listener>> =
            Arc::new(settings.create_with_context(Listener::default())?);
        clients.insert(group.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<String, Arc<BaseConsumer<Listener>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offset_in(offsets: &TopicPartitionList, topic: &str, partition: i32) -> Result<i64, Failure> {
    let found = offsets
        .find_partition(topic, partition)
        .expect("the library answers for each partition that it is asked about");
    found.error()?;
    found
        .offset()
        .to_raw()
        .filter(|offset| *offset >= 0)
        .ok_or_else(|| Failure::Library(format!("no offset of the topic `{topic}` partition {partition}")))
}

/// Repeats `ask` until the brokers have chosen the group's coordinator, and returns its result. They choose one when the
/// cluster's first group appears, and when a broker has stopped.
fn once_settled<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let answer = ask();
        let code = answer.as_ref().err().and_then(|error| error.rdkafka_error_code());
        let is_settling = matches!(
            code,
            Some(Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress | Code::NotCoordinator)
        );
        if !is_settling || Instant::now() >= deadline {
            return answer;
        }
        thread::sleep(ASK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        consumer::CommitMode,
        error::KafkaError,
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer},
    };

    use super::*;
    use crate::bus::RawKafkaConfig;

    #[test]
    fn a_group_s_lag_is_read_again_by_the_same_client() {
        let cluster = MockCluster::new(3).unwrap();
        for topic in ["one", "other"] {
            cluster.create_topic(topic, 3, 1).unwrap();
        }
        let raw = RawKafkaConfig {
            bootstrap_servers: Some(cluster.bootstrap_servers()),
            ..Default::default()
        };
        let config = Arc::new(KafkaConfig::try_from(raw).unwrap());
        let producer: BaseProducer = client::settings(&config).create().unwrap();
        let append = |partition, count| {
            for _ in 0..count {
                let record = BaseRecord::<(), str>::to("one").partition(partition).payload("x");
                producer.send(record).unwrap();
            }
            producer.flush(Duration::from_secs(30)).unwrap();
        };
        append(0, 5);
        append(2, 7);
        let lags = Lags::new(Arc::clone(&config));
        let read = |group: &str| {
            let topics = ["one".to_owned(), "missing".to_owned()];
            let lags = lags.read(group, &topics).unwrap();
            lags.into_iter().map(|lag| lag.records).collect::<Vec<_>>()
        };
        assert_eq!(read("group"), [5, 0, 7]);
        let client = lags.client("group").unwrap();
        let mut reached = TopicPartitionList::new();
        reached.add_partition_offset("one", 2, Offset::Offset(4)).unwrap();
        client.commit(&reached, CommitMode::Sync).unwrap();
        append(1, 2);
        assert_eq!(read("group"), [5, 2, 3]);
        assert_eq!(read("group of its own"), [5, 2, 7]);
        assert!(Arc::ptr_eq(&client, &lags.client("group").unwrap()));
        drop(client);
        lags.close();
        assert!(lags.clients().is_empty());
    }

    #[test]
    fn brokers_that_are_settling_are_asked_again() {
        let mut answers = [
            Err(Code::CoordinatorNotAvailable),
            Err(Code::CoordinatorLoadInProgress),
            Err(Code::NotCoordinator),
            Ok(7),
        ]
        .into_iter();
        let answer = once_settled(|| answers.next().unwrap().map_err(KafkaError::OffsetFetch));
        assert_eq!(answer, Ok(7));

        let mut answers = [Err(Code::GroupAuthorizationFailed), Ok(7)].into_iter();
        let refused = once_settled(|| answers.next().unwrap().map_err(KafkaError::OffsetFetch));
        assert!(refused.is_err());
    }
}
