//! Profiles stay correct whatever happens to their store.

use std::{sync::atomic::Ordering, time::Duration};

use consumer::{ConsumerConfig, EVENTS_GROUP};
use event::{
    EventType::{Clicked, Delivered, Opened},
    event_id,
};
use store::testing::eventually;

use crate::world::{World, deliveries, event, ids, person, profile_of};

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_profile_store_holds_up_no_event_and_is_made_good() {
    for hangs in [false, true] {
        let world = World::default();
        let events = deliveries(3_000, 300);
        world.bus.put_events(&events[..500]);
        let running = world.start();
        world.caught_up().await;
        let switch = if hangs {
            &world.profiles.hangs
        } else {
            &world.profiles.down
        };
        switch.on();
        let rebuilt = || running.metric("sendflowr_consumer_profiles_rebuilt_total");
        let rebuilt_before = rebuilt();
        let calls_before = world.profiles.calls.load(Ordering::SeqCst);
        let start = tokio::time::Instant::now();
        world.bus.put_events(&events[500..]);
        eventually("all events are stored", async || {
            world.events.ids() == ids(&events)
        })
        .await;
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?} with hangs {hangs}",
            start.elapsed()
        );
        let calls = world.profiles.calls.load(Ordering::SeqCst) - calls_before;
        assert!(calls < 20, "{calls} calls for 25 batches");
        assert!(running.metric("sendflowr_consumer_profiles_stale") > 0.0);
        assert_eq!(rebuilt(), rebuilt_before, "nothing was written");
        assert_eq!(
            world.bus.committed(EVENTS_GROUP),
            500,
            "a successor would have to rebuild them"
        );

        switch.off();
        eventually("profiles are repaired", async || {
            running.metric("sendflowr_consumer_profiles_stale") == 0.0
        })
        .await;
        world.caught_up().await;
        let rows = world.events.rows();
        for name in 0..300 {
            let id = person(&format!("p{name}"));
            assert_eq!(world.profiles.of(&id), profile_of(&rows, &id));
        }
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_lacks_events_is_not_taken_for_whole_when_more_come() {
    let world = World::default();
    let events = deliveries(3_000, 1_000);
    world.bus.put_events(&events[..1_000]);
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.bus.put_events(&events[1_000..2_000]);
    eventually("more events are stored", async || {
        world.events.ids().len() == 2_000
    })
    .await;
    world.profiles.down.off();
    let stale = || running.metric("sendflowr_consumer_profiles_stale");
    eventually("the repair has begun", async || stale() < 1_000.0).await;
    assert!(stale() > 0.0, "and is not done");
    world.bus.put_events(&events[2_000..]);
    world.caught_up().await;
    assert_eq!(stale(), 0.0);
    let rows = world.events.rows();
    for name in 0..1_000 {
        let id = person(&format!("p{name}"));
        assert_eq!(world.profiles.of(&id), profile_of(&rows, &id), "p{name}");
    }
    running.stop().await.unwrap();
}

/// The list of stale profiles dies with the consumer; its successor must not take the profiles that it finds for complete.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_dies_in_an_outage_leaves_the_profiles_to_its_successor() {
    let world = World::default();
    let events = deliveries(1_000, 50);
    world.bus.put_events(&events[..500]);
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.bus.put_events(&events[500..]);
    eventually("all events are stored", async || {
        world.events.ids().len() == 1_000
    })
    .await;
    running.kill().await;

    world.profiles.down.off();
    let running = world.start();
    world.caught_up().await;
    let rows = world.events.rows();
    for name in 0..50 {
        let id = person(&format!("p{name}"));
        assert_eq!(world.profiles.of(&id), profile_of(&rows, &id), "p{name}");
    }
    running.stop().await.unwrap();
}

/// A user of the server who may read and not write, or a server without memory for more.
#[tokio::test(start_paused = true)]
async fn writes_that_fail_are_tried_ever_less_often_although_reads_work() {
    let world = World::default();
    let events = deliveries(600, 60);
    world.bus.put_events(&events[..300]);
    let running = world.start();
    world.caught_up().await;
    world.profiles.writes_fail.on();
    world.bus.put_events(&events[300..]);
    eventually("all events are stored", async || {
        world.events.ids() == ids(&events)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // After the first seconds every 2.5 to 5 s, for the 60 people together.
    let tries = running.metric("sendflowr_consumer_profile_failures_total");
    assert!((10.0..40.0).contains(&tries), "{tries}");
    let histories = world.events.histories.load(Ordering::SeqCst);
    assert!(histories < 40 * 60, "{histories}");

    world.profiles.writes_fail.off();
    world.caught_up().await;
    assert_eq!(running.metric("sendflowr_consumer_profiles_stale"), 0.0);
    running.stop().await.unwrap();
}

/// Readers may reach the profile store when the consumer does not, or may read it when the consumer cannot write.
#[tokio::test(start_paused = true)]
async fn readers_are_told_while_profiles_lack_events() {
    let world = World::default();
    let events = deliveries(600, 60);
    world.bus.put_events(&events[..300]);
    let running = world.start();
    world.caught_up().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.events.doubts(), 0);

    world.profiles.writes_fail.on();
    world.bus.put_events(&events[300..]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.events.doubts(), 1);
    // The doubt is younger than a minute however long it lasts, so that no other consumer takes this one for gone.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let doubts = store::events::Events::profile_doubts(&*world.events).await;
        assert!(doubts.unwrap()[0].told_before < Duration::from_secs(20));
    }

    world.profiles.writes_fail.off();
    world.caught_up().await;
    eventually("readers are told that it is over", async || {
        world.events.doubts() == 0
    })
    .await;
    running.stop().await.unwrap();
}

/// The server carries out a request that had timed out, after the one that took it back.
#[tokio::test(start_paused = true)]
async fn a_doubt_that_comes_late_is_withdrawn() {
    let world = World::default();
    let running = world.start();
    world.profiles.writes_fail.on();
    world.bus.put_events(&deliveries(60, 6));
    eventually("readers are told", async || world.events.doubts() == 1).await;
    let doubts = store::events::Events::profile_doubts(&*world.events).await;
    let consumer = doubts.unwrap().remove(0).consumer;
    world.profiles.writes_fail.off();
    eventually("readers are told that it is over", async || {
        world.events.doubts() == 0
    })
    .await;
    store::events::Events::doubt_profiles(&*world.events, &consumer)
        .await
        .unwrap();
    eventually("it is withdrawn", async || world.events.doubts() == 0).await;
    running.stop().await.unwrap();
}

/// All decisions reading events is too much for one call that timed out.
#[tokio::test(start_paused = true)]
async fn a_moment_without_the_profile_store_raises_no_doubt() {
    let world = World::default();
    let events = deliveries(600, 60);
    world.bus.put_events(&events[..300]);
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.bus.put_events(&events[300..]);
    eventually("profiles are stale", async || {
        running.metric("sendflowr_consumer_profiles_stale") > 0.0
    })
    .await;
    world.profiles.down.off();
    world.caught_up().await;
    assert_eq!(world.events.doubts_raised.load(Ordering::SeqCst), 0);
    running.stop().await.unwrap();
}

/// Nobody else knows which profiles a consumer knew to be stale when it died.
#[tokio::test(start_paused = true)]
async fn the_doubt_of_a_consumer_that_died_ends_when_another_has_cleared_all_profiles() {
    let world = World::default();
    world.bus.put_events(&deliveries(600, 60));
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    // More than ten minutes: the event is committed, and no successor reads it again.
    tokio::time::sleep(Duration::from_secs(700)).await;
    world.caught_up().await;
    running.kill().await;

    world.profiles.down.off();
    let running = world.start();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.events.doubts(), 1, "the other may still be there");
    assert_eq!(world.profiles.clears.load(Ordering::SeqCst), 0);
    eventually("the doubt has ended", async || world.events.doubts() == 0).await;
    assert_eq!(world.profiles.clears.load(Ordering::SeqCst), 1);
    assert!(world.profiles.of(&person("p5")).is_empty());
    running.stop().await.unwrap();
}

/// While the event store fails there is nobody to tell; but once commits go on without the profiles, readers must know.
#[tokio::test(start_paused = true)]
async fn nothing_is_committed_without_its_profile_before_readers_know() {
    let world = World::default();
    world.bus.put_events(&deliveries(600, 60));
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.events.doubts_fail.on();
    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 600);
    world.events.doubts_fail.off();
    world.caught_up().await;
    assert_eq!(world.events.doubts(), 1);
    running.stop().await.unwrap();
}

/// Reading hours of events again would hold up new ones.
#[tokio::test(start_paused = true)]
async fn after_a_long_outage_all_profiles_are_forgotten() {
    let world = World::default();
    world.bus.put_events(&deliveries(600, 60));
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 600);
    world.caught_up().await;
    assert_eq!(running.metric("sendflowr_consumer_profiles_stale"), 0.0);
    let all_stale = || running.metric("sendflowr_consumer_profiles_all_stale");
    assert_eq!(all_stale(), 1.0);
    world.bus.put_events(&[event("p6", Opened, "m6", 9_000)]);
    world.caught_up().await;

    world.profiles.down.off();
    eventually("all are cleared", async || all_stale() == 0.0).await;
    assert_eq!(world.profiles.clears.load(Ordering::SeqCst), 1);
    for name in ["p5", "p6", "p7"] {
        assert!(
            world.profiles.of(&person(name)).is_empty(),
            "{name} is rebuilt by readers"
        );
    }
    world.bus.put_events(&[event("p5", Clicked, "m5", 9_100)]);
    world.caught_up().await;
    assert_eq!(
        world.profiles.of(&person("p5")),
        profile_of(&world.events.rows(), &person("p5"))
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_profile_is_rebuilt_from_history_before_it_is_put() {
    let world = World::default();
    world.bus.put_events(&deliveries(600, 120));
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();

    // A restart of the embedded engine.
    world.profiles.forget_all();
    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    let running = world.start();
    world.caught_up().await;
    let counts = world.profiles.of(&person("p5")).counts();
    assert_eq!((counts.deliveries, counts.opens), (5, 1));
    assert!(
        world.profiles.of(&person("p6")).is_empty(),
        "the profile of a person without new events is rebuilt by readers"
    );
    running.stop().await.unwrap();
}

/// Another process of the group updates the profiles of the same people from then on, in a memory of its own.
#[tokio::test(start_paused = true)]
async fn profiles_that_only_this_process_sees_are_forgotten_when_partitions_are_lost() {
    let world = World::default();
    world.bus.put_events(&deliveries(600, 60));
    let running = world.start();
    world.caught_up().await;
    assert!(!world.profiles.of(&person("p5")).is_empty());
    world.bus.losses.store(1, Ordering::SeqCst);
    eventually("all are forgotten", async || {
        (0..60).all(|name| world.profiles.of(&person(&format!("p{name}"))).is_empty())
    })
    .await;

    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    world.caught_up().await;
    let rebuilt = profile_of(&world.events.rows(), &person("p5"));
    assert_eq!(
        world.profiles.of(&person("p5")),
        rebuilt,
        "it stays, being read after the loss"
    );
    running.stop().await.unwrap();
}

/// The group gives the partitions of a member to others that has not polled for minutes, and the member does not hear of it.
#[tokio::test(start_paused = true)]
async fn profiles_that_only_this_process_sees_are_forgotten_when_it_is_stuck_for_minutes() {
    let world = World::default();
    let running = world.start_with(ConsumerConfig {
        batch_events: 10,
        ..ConsumerConfig::default()
    });
    world.bus.put_events(&deliveries(60, 60));
    world.caught_up().await;
    world.events.down.on();
    let more: Vec<_> = (0..100)
        .map(|n| event("p7", Opened, &format!("n{n}"), 9_000))
        .collect();
    world.bus.put_events(&more);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!world.profiles.of(&person("p5")).is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.profiles.of(&person("p5")).is_empty());

    // What was read before may be another's since.
    world.events.down.off();
    world.caught_up().await;
    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    world.caught_up().await;
    let rebuilt = profile_of(&world.events.rows(), &person("p5"));
    assert_eq!(
        world.profiles.of(&person("p5")),
        rebuilt,
        "it stays, being read later"
    );
    running.stop().await.unwrap();
}

/// A batch waits for more records after its first; those may have come from a partition that is lost meanwhile.
#[tokio::test(start_paused = true)]
async fn profiles_of_a_batch_are_forgotten_if_partitions_were_lost_while_it_was_read() {
    let world = World::default();
    let running = world.start();
    world.bus.put_events(&deliveries(60, 60));
    eventually("the batch has begun", async || {
        world.bus.handed_out.load(Ordering::SeqCst) == 60
    })
    .await;
    world.bus.losses.store(1, Ordering::SeqCst);
    // The last stage hears of the loss long before the batch reaches it.
    world.events.down.on();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.events.down.off();
    world.caught_up().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.profiles.of(&person("p5")).is_empty());

    world.bus.put_events(&[event("p5", Opened, "m5", 9_000)]);
    world.caught_up().await;
    let rebuilt = profile_of(&world.events.rows(), &person("p5"));
    assert_eq!(world.profiles.of(&person("p5")), rebuilt);
    running.stop().await.unwrap();
}

/// An operator mends what the event store refused, and puts the dead letters back, while profiles wait for their store.
#[tokio::test(start_paused = true)]
async fn a_refused_event_may_come_again_before_profiles_are_repaired() {
    let world = World::default();
    let events = deliveries(10, 5);
    world.bus.put_events(&events[..5]);
    let running = world.start();
    world.caught_up().await;
    world.profiles.down.on();
    world
        .events
        .poison
        .lock()
        .unwrap()
        .push(events[7].event_id.clone());
    world.bus.put_events(&events[5..]);
    eventually("it is set aside", async || world.bus.dead_letters().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 5, "profiles lack events");

    world.events.poison.lock().unwrap().clear();
    world.bus.put_events(&events[7..8]);
    eventually("it is stored", async || {
        world.events.ids().contains(&events[7].event_id)
    })
    .await;
    world.profiles.down.off();
    world.caught_up().await;
    let rows = world.events.rows();
    assert_eq!(world.profiles.of(&person("p2")), profile_of(&rows, &person("p2")));
    running.stop().await.unwrap();
}

/// New people have no history to read, however their events are split into batches; others have.
#[tokio::test(start_paused = true)]
async fn only_strangers_are_taken_for_strangers() {
    let world = World::default();
    let events = deliveries(1_200, 150);
    world.bus.put_events(&events[..1_000]);
    let running = world.start();
    world.caught_up().await;
    assert_eq!(world.events.histories.load(Ordering::SeqCst), 0);
    let are_true = || {
        let rows = world.events.rows();
        (0..150)
            .map(|name| person(&format!("p{name}")))
            .all(|id| world.profiles.of(&id) == profile_of(&rows, &id))
    };
    assert!(are_true());

    // The process remembers them, and the next one does not; the event store does.
    world.profiles.forget_all();
    world.bus.put_events(&events[1_000..1_100]);
    world.caught_up().await;
    running.stop().await.unwrap();
    world.profiles.forget_all();
    let running = world.start();
    world.bus.put_events(&events[1_100..]);
    world.bus.put_events(&deliveries(1_050, 150)[1_000..]);
    world.caught_up().await;
    assert!(world.events.histories.load(Ordering::SeqCst) >= 200);
    let rows = world.events.rows();
    for event in &events[1_100..] {
        let id = &event.universal_id;
        assert_eq!(world.profiles.of(id), profile_of(&rows, id));
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn people_with_long_histories_are_rebuilt_in_full() {
    let world = World::default();
    // People who together have more events than are read for one person.
    world.bus.put_events(&deliveries(12_000, 40));
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();
    world.profiles.forget_all();
    let opens: Vec<_> = (0..40)
        .map(|n| event(&format!("p{n}"), Opened, "m1", 100_000))
        .collect();
    world.bus.put_events(&opens);
    let running = world.start();
    world.caught_up().await;
    let rows = world.events.rows();
    for name in ["p0", "p17", "p39"] {
        let profile = world.profiles.of(&person(name));
        assert_eq!(profile, profile_of(&rows, &person(name)));
        assert_eq!((profile.counts().deliveries, profile.counts().opens), (300, 1));
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_stored_verdict_counts_when_an_event_comes_again() {
    for (profile_lost, cannot_tell) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::default();
        if cannot_tell {
            world.events.cannot_tell_duplicates.on();
        }
        // Two links at once, half a minute after delivery: a machine.
        let mut clicks = [event("ann", Clicked, "m1", 30), event("ann", Clicked, "m1", 30)];
        for (n, click) in clicks.iter_mut().enumerate() {
            click.click_url = Some(format!("https://shop.example/{n}"));
            click.event_id = event_id(click);
        }
        world.bus.put_events(&[event("ann", Delivered, "m1", 0)]);
        world.bus.put_events(&clicks);
        let running = world.start();
        world.caught_up().await;
        running.stop().await.unwrap();
        assert_eq!(
            world.events.rows()[1].enrichment.machine_reasons,
            ["click_within_60s:1", "click_burst:2"]
        );

        // One of the clicks again, in a process that does not know the other: alone it looks like a person's.
        if profile_lost {
            world.profiles.forget_all();
        }
        world.bus.put_events(&clicks[..1]);
        let running = world.start();
        world.caught_up().await;
        assert_eq!(
            running.metric("sendflowr_consumer_verdicts_total{event_type=\"clicked\",verdict=\"human\"}"),
            1.0
        );
        let counts = world.profiles.of(&person("ann")).counts();
        assert_eq!(
            (counts.deliveries, counts.clicks),
            (1, 0),
            "profile lost: {profile_lost}, duplicates cannot be told: {cannot_tell}"
        );
        running.stop().await.unwrap();
    }
}

/// With batches of 100, 800 records may have been stored by a predecessor.
#[tokio::test(start_paused = true)]
async fn verdicts_are_believed_once_no_predecessor_can_have_stored_the_events() {
    let world = World::default();
    world.bus.put_events(&[event("ann", Delivered, "m1", 0)]);
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();
    let running = world.start();
    let rebuilt = || running.metric("sendflowr_consumer_profiles_rebuilt_total");
    world.bus.put_events(&[event("bob", Delivered, "m1", 0)]);
    world.caught_up().await;
    world.bus.put_events(&[event("bob", Clicked, "m1", 600)]);
    world.caught_up().await;
    assert_eq!(
        rebuilt(),
        0.0,
        "people without stored events have no events with other verdicts"
    );
    world.bus.put_events(&[event("ann", Clicked, "m1", 600)]);
    world.caught_up().await;
    assert_eq!(rebuilt(), 1.0, "the history of others' early clicks is read");
    world.bus.put_events(&deliveries(800, 5));
    world.caught_up().await;
    let before = rebuilt();
    world.bus.put_events(&[event("ann", Clicked, "m2", 700)]);
    world.caught_up().await;
    assert_eq!(rebuilt(), before, "later clicks cost no read of the history");
    let rows = world.events.rows();
    assert_eq!(
        world.profiles.of(&person("ann")),
        profile_of(&rows, &person("ann"))
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_profile_knows_deliveries_that_memory_does_not() {
    let world = World::default();
    world.bus.put_events(&[event("ann", Delivered, "m1", 0)]);
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();
    world.bus.put_events(&[event("ann", Clicked, "m1", 1)]);
    let running = world.start();
    world.caught_up().await;
    assert_eq!(
        world.events.rows()[1].enrichment.machine_reasons,
        ["click_within_2s:3"]
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_profile_knows_which_delivery_of_a_repeated_message_was_clicked() {
    const DAY: i64 = 86_400;
    let delivered = |day: i64| event("ann", Delivered, "step", day * DAY);
    let clicked = |day: i64| event("ann", Clicked, "step", day * DAY + 1);
    let world = World::default();
    world.bus.put_events(&[delivered(-42), delivered(-28)]);
    let running = world.start();
    world.caught_up().await;
    running.stop().await.unwrap();
    // Memory knows nothing, then only a delivery after the click.
    world.bus.put_events(&[clicked(-28)]);
    let running = world.start();
    world.caught_up().await;
    world.bus.put_events(&[delivered(-14)]);
    world.caught_up().await;
    world.bus.put_events(&[clicked(-42)]);
    world.caught_up().await;
    for click in [2, 4] {
        let reasons = &world.events.rows()[click].enrichment.machine_reasons;
        assert_eq!(reasons, &["click_within_2s:3"], "{click}");
    }
    running.stop().await.unwrap();
}
