use std::{collections::BTreeMap, path::Path, time::Duration};

use sendflowr_store::bus::{NewRecord, Record, SqliteBus, SqliteBusConfig, Subscription};
use tokio::time::Instant;

pub(crate) async fn open_bus(folder: &Path) -> SqliteBus {
    SqliteBus::open(folder, SqliteBusConfig::default()).await.unwrap()
}

pub(crate) fn record(topic: &str, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord {
        topic: topic.into(),
        key: "key".into(),
        value: value.into(),
        headers: BTreeMap::new(),
    }
}

pub(crate) fn values(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| String::from_utf8(record.value.clone()).unwrap())
        .collect()
}

/// Polls until records arrive, for at most 20 s.
pub(crate) async fn next(subscription: &mut dyn Subscription) -> Vec<Record> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let records = subscription
            .poll(1_000, Duration::from_millis(100))
            .await
            .unwrap();
        if !records.is_empty() {
            return records;
        }
        assert!(Instant::now() < deadline, "no record came");
    }
}
