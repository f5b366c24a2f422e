//! Topics that keep or take less than they should.

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use sendflowr_store::{
    StoreError,
    bus::{Bus, NewRecord},
    testing::commit_returned,
};

use super::{
    behind, numbered, read, record,
    world::{World, settings, unique},
};

fn admin() -> AdminClient<DefaultClientContext> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", settings().bootstrap_servers.unwrap());
    client.create().unwrap()
}

/// As the topic's retention does.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn records_deleted_before_a_group_has_read_them_are_told_as_lost() {
    let world = World::new().await;
    let (topic, group) = (unique("deleted"), unique("group"));
    world.append(numbered(&topic, 30)).await.unwrap();
    let mut subscription = world.subscribe(&group, &[&topic]).await.unwrap();
    read(subscription.as_mut(), 30).await;
    commit_returned(subscription.as_mut(), &[&topic]).await.unwrap();
    drop(subscription);
    world.append(numbered(&topic, 60)).await.unwrap();
    let lost = async || -> u64 {
        let lags = world.lag(&group, &[&topic]).await.unwrap();
        lags.iter().map(|lag| lag.lost).sum()
    };
    assert_eq!((behind(&world, &group, &topic).await, lost().await), (60, 0));

    let mut everything = TopicPartitionList::new();
    for partition in 0..3 {
        everything
            .add_partition_offset(&topic, partition, Offset::End)
            .unwrap();
    }
    admin()
        .delete_records(&everything, &AdminOptions::new())
        .await
        .unwrap();
    assert_eq!((behind(&world, &group, &topic).await, lost().await), (0, 60));
    // A group that has read nothing yet has lost nothing.
    let new = world.lag(&unique("group"), &[&topic]).await.unwrap();
    assert!(new.iter().all(|lag| lag.lost == 0), "{new:?}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_topic_that_takes_no_large_batches_is_named_with_its_setting() {
    let world = World::new().await;
    let topic = unique("narrow");
    let narrow = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "10000");
    for made in admin()
        .create_topics([&narrow], &AdminOptions::new())
        .await
        .unwrap()
    {
        made.unwrap();
    }
    // Each fits, and they must not fit together only because of compression.
    let mut noise = 1_u64;
    let records: Vec<NewRecord> = (0..100)
        .map(|number| NewRecord {
            value: std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            })
            .take(1_200)
            .collect(),
            ..record(&topic, &number.to_string())
        })
        .collect();
    let error = world.append(records).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains(&topic) && told.contains("`max.message.bytes`"),
        "{told}"
    );
}
