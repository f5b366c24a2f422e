//! How far a group is behind.

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
};

use super::{
    client::{self, Listener, REQUEST_TIMEOUT},
    config::KafkaConfig,
    error::Failure,
};
use crate::bus::Lag;

impl ConsumerContext for Listener {}

/// Reads the lag of `group`. It does so with a client of its own, because the library tells a group's offsets to clients of
/// that group only; one that never subscribes is no member of it. Blocks.
pub(super) fn read(config: &KafkaConfig, group: &str, topics: &[String]) -> Result<Vec<Lag>, Failure> {
    let mut settings = client::settings(config);
    settings.set("group.id", group);
    let reader: BaseConsumer<Listener> = settings.create_with_context(Listener::default())?;
    let mut wanted = TopicPartitionList::new();
    for topic in topics {
        let Some(metadata) = client::topic(reader.client(), topic, REQUEST_TIMEOUT)? else {
            continue;
        };
        for partition in metadata.partitions {
            wanted.add_partition(topic, partition.number);
        }
    }
    if wanted.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = reader.committed_offsets(wanted, REQUEST_TIMEOUT)?;
    let mut lags = Vec::with_capacity(committed.count());
    for partition in committed.elements() {
        partition.error()?;
        let (topic, number) = (partition.topic(), partition.partition());
        let (first, next) = reader.fetch_watermarks(topic, number, REQUEST_TIMEOUT)?;
        let reached = match partition.offset() {
            Offset::Offset(offset) => offset.max(first),
            // Nothing was committed yet.
            _ => first,
        };
        lags.push(Lag {
            topic: topic.to_owned(),
            partition: number.unsigned_abs(),
            records: u64::try_from(next - reached).unwrap_or(0),
        });
    }
    Ok(lags)
}
