//! Reads how far a group lags behind.

use std::{
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

/// Reads the lag of `group`. Uses a client of its own, because the library returns a group's offsets only to clients of that
/// group; a client that never subscribes does not become a member. Blocks.
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
    let committed = once_settled(|| reader.committed_offsets(wanted.clone(), REQUEST_TIMEOUT))?;
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
    use rdkafka::error::KafkaError;

    use super::*;

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
