//! `sendflowr topics`: the topics of the bus and how far their readers are.

use store::bus::{DEAD_LETTERS_TOPIC, EVENTS_TOPIC};

use crate::{config::RawConfig, engines::Engines, keys::REPLAY_GROUP, output};

/// Creates the topics that are missing, then shows their partitions, how much each consumer group has still to read, and how much
/// was deleted before the group has read it.
///
/// # Errors
/// Fails if the bus cannot be opened or queried.
pub(crate) async fn run(config: RawConfig) -> anyhow::Result<()> {
    Engines::existing(&config)?
        .closed_after(async |engines| print(engines).await)
        .await
}

async fn print(engines: &Engines) -> anyhow::Result<()> {
    let bus = engines.bus().await?;
    if let Some(kafka) = engines.kafka().await? {
        let mut rows = Vec::new();
        for topic in kafka.topics(&[EVENTS_TOPIC, DEAD_LETTERS_TOPIC]).await? {
            for partition in &topic.partitions {
                rows.push(vec![
                    topic.name.clone(),
                    partition.partition.to_string(),
                    if partition.has_leader { "yes" } else { "no" }.to_owned(),
                    partition.replicas.to_string(),
                    partition.in_sync_replicas.to_string(),
                    partition.first_offset.to_string(),
                    partition.next_offset.to_string(),
                ]);
            }
        }
        let header = [
            "topic",
            "partition",
            "leader",
            "replicas",
            "in sync",
            "first",
            "next",
        ];
        output::line(&output::table(&header, &rows));
        output::line("");
    }
    let mut rows = Vec::new();
    for (group, topic) in [
        (consumer::EVENTS_GROUP, EVENTS_TOPIC),
        (consumer::IDENTITY_GROUP, EVENTS_TOPIC),
        (REPLAY_GROUP, DEAD_LETTERS_TOPIC),
    ] {
        for lag in bus.lag(group, &[topic]).await? {
            rows.push(vec![
                group.to_owned(),
                lag.topic,
                lag.partition.to_string(),
                lag.records.to_string(),
                lag.lost.to_string(),
            ]);
        }
    }
    output::line(&output::table(
        &["group", "topic", "partition", "behind", "lost"],
        &rows,
    ));
    Ok(())
}
