//! Outages, poison and crashes: nothing is lost, nothing is counted twice.

use std::{sync::atomic::Ordering, time::Duration};

use consumer::{ConsumerConfig, EVENTS_GROUP};
use store::{bus::header, testing::eventually};

use crate::fakes::FakeBus;
use crate::world::{World, deliveries, ids, person, profile_of};

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_event_store_is_waited_out() {
    let world = World::default();
    let running = world.start();
    let events = deliveries(5_000, 40);
    world.bus.put_events(&events[..300]);
    world.caught_up().await;
    world.events.down.on();
    world.bus.put_events(&events[300..]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(
        world.bus.committed(EVENTS_GROUP),
        300,
        "nothing unwritten is committed"
    );
    assert!(
        world.bus.handed_out.load(Ordering::SeqCst) <= 700,
        "four batches are held and no more is read"
    );
    let attempts = running
        .metric("sendflowr_consumer_retries_total{group=\"sendflowr-events\",operation=\"sent_times\"}");
    assert!(
        (10.0..40.0).contains(&attempts),
        "{attempts} attempts in 5 minutes are not a busy loop"
    );
    world.events.down.off();
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events), "all, once, in order");
    let rows = world.events.rows();
    assert_eq!(world.profiles.of(&person("p7")), profile_of(&rows, &person("p7")));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_in_an_outage_leaves_the_batch_for_the_next_start() {
    let world = World::default();
    world.events.down.on();
    let events = deliveries(150, 3);
    world.bus.put_events(&events);
    let running = world.start();
    tokio::time::sleep(Duration::from_secs(100)).await;
    running.stop().await.unwrap();
    assert_eq!(world.bus.committed(EVENTS_GROUP), 0);
    world.events.down.off();
    let running = world.start();
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn poison_is_found_and_the_rest_stored() {
    let world = World::default();
    let events = deliveries(100, 5);
    let poison = [13, 14, 77].map(|n: usize| events[n].event_id.clone());
    *world.events.poison.lock().unwrap() = poison.to_vec();
    world.bus.put_events(&events);
    let running = world.start();
    world.caught_up().await;

    let mut good = ids(&events);
    good.retain(|id| !poison.contains(id));
    assert_eq!(world.events.ids(), good);
    let letters = world.bus.dead_letters();
    let sources: Vec<&str> = letters
        .iter()
        .map(|letter| letter.headers[header::SOURCE].as_str())
        .collect();
    assert_eq!(
        sources,
        ["email-events/0/13", "email-events/0/14", "email-events/0/77"]
    );
    assert_eq!(letters[0].value, events[13].to_json());
    assert_eq!(letters[0].headers[header::CAUSE], "store_rejected");
    assert_eq!(
        letters[0].headers[header::MESSAGE],
        "fake refused the data: a value is out of range"
    );
    let rows = world.events.rows();
    assert_eq!(
        world.profiles.of(&person("p3")),
        profile_of(&rows, &person("p3")),
        "poison leaves no trace in profiles"
    );
    assert!(world.events.writes.load(Ordering::SeqCst) < 50, "not one by one");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_put_back_is_tried_again() {
    let world = World::default();
    let events = deliveries(10, 2);
    *world.events.poison.lock().unwrap() = vec![events[3].event_id.clone()];
    world.bus.put_events(&events);
    let running = world.start();
    world.caught_up().await;
    let letters = world.bus.dead_letters();
    assert_eq!((letters.len(), world.events.ids().len()), (1, 9));

    // The store is fixed, and the consumer keeps running.
    world.events.poison.lock().unwrap().clear();
    world.bus.put(letters[0].value.clone());
    world.caught_up().await;
    assert_eq!(world.events.ids().last(), Some(&events[3].event_id));
    let rows = world.events.rows();
    assert_eq!(world.profiles.of(&person("p1")), profile_of(&rows, &person("p1")));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_is_in_flight() {
    let world = World::default();
    let events = deliveries(2_000, 40);
    world.bus.put_events(&events);
    let running = world.start();
    eventually("some are written", async || !world.events.ids().is_empty()).await;
    running.stop().await.unwrap();
    let read = world.bus.handed_out.load(Ordering::SeqCst);
    assert_eq!(world.events.ids(), ids(&events[..read]));
    assert_eq!(world.bus.committed(EVENTS_GROUP), read, "nothing is read again");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_bus_that_does_not_answer() {
    for hang in [
        |bus: &FakeBus| bus.lags_hang.on(),
        |bus: &FakeBus| bus.subscribes_hang.on(),
    ] {
        let world = World::default();
        hang(&world.bus);
        let running = world.start();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let stopped = tokio::time::timeout(Duration::from_secs(1), running.stop());
        stopped.await.expect("it stops soon").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_committed_before_its_dead_letter_is_kept() {
    let world = World::default();
    world.bus.appends_fail.on();
    world.bus.put(b"{}".to_vec());
    let running = world.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 0);
    world.bus.appends_fail.off();
    world.caught_up().await;
    assert_eq!(world.bus.dead_letters().len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_write_and_commit_counts_nothing_twice() {
    for cannot_tell_duplicates in [false, true] {
        let world = World::default();
        if cannot_tell_duplicates {
            world.events.cannot_tell_duplicates.on();
        }
        let events = deliveries(250, 7);
        world.bus.put_events(&events);
        world.bus.commits_hang.on();
        let running = world.start();
        eventually("what was read ahead is written", async || {
            world.events.ids().len() == 250
        })
        .await;
        eventually("and applied", async || {
            !world.profiles.of(&person("p0")).is_empty()
        })
        .await;
        running.kill().await;
        assert_eq!(world.bus.committed(EVENTS_GROUP), 0);

        world.bus.commits_hang.off();
        let running = world.start();
        world.caught_up().await;
        assert_eq!(world.events.ids(), ids(&events));
        let rows = world.events.rows();
        for name in ["p0", "p3", "p6"] {
            assert_eq!(world.profiles.of(&person(name)), profile_of(&rows, &person(name)));
        }
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn failing_commits_and_polls_lose_nothing() {
    let world = World::default();
    world.bus.commits_fail.on();
    let events = deliveries(30, 2);
    world.bus.put_events(&events[..10]);
    let running = world.start();
    eventually("the events are stored", async || world.events.ids().len() == 10).await;
    world.bus.polls_fail.on();
    world.bus.put_events(&events[10..]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.bus.polls_fail.off();
    world.bus.commits_fail.off();
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_misconfigured_event_store_ends_the_consumer_with_its_words() {
    let world = World::default();
    world.events.broken.on();
    world.bus.put_events(&deliveries(1, 1));
    let error = world
        .start_with(ConsumerConfig::default())
        .ended()
        .await
        .unwrap_err();
    assert_eq!(
        event::chain(&error),
        "the consumer group `sendflowr-events` stopped at sent_times: fake is not usable: the table is missing, look at \
         `events.database`"
    );
    assert_eq!(world.bus.committed(EVENTS_GROUP), 0);
}

/// Ending the consumer would end the roles beside it.
#[tokio::test(start_paused = true)]
async fn what_has_worked_and_is_refused_later_is_waited_for() {
    let world = World::default();
    let events = deliveries(200, 20);
    world.bus.put_events(&events[..100]);
    let running = world.start();
    world.caught_up().await;
    world.events.broken.on();
    world.bus.put_events(&events[100..]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 100);
    let tries = ["sent_times", "write"].map(|operation| {
        let labels = format!("group=\"{EVENTS_GROUP}\",operation=\"{operation}\"");
        running.metric(&format!("sendflowr_consumer_retries_total{{{labels}}}"))
    });
    assert!(tries.iter().sum::<f64>() > 5.0, "{tries:?}");
    world.events.broken.off();
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_stays_too_much_at_once_is_halved_and_nothing_of_it_given_up() {
    let world = World::default();
    let events = deliveries(100, 20);
    world.events.too_much.store(30, Ordering::SeqCst);
    world.bus.put_events(&events);
    let running = world.start();
    world.caught_up().await;
    assert_eq!(world.events.ids(), ids(&events));
    // Three times whole, once each half but the second, which is then tried three times, and the four quarters.
    assert_eq!(world.events.writes.load(Ordering::SeqCst), 3 + 1 + 3 + 4);
    assert!(world.bus.dead_letters().is_empty());

    // A single event waits until there is room.
    world.events.too_much.store(1, Ordering::SeqCst);
    let one = deliveries(101, 20);
    world.bus.put_events(&one[100..]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 100);
    assert!(world.bus.dead_letters().is_empty());
    world.events.too_much.store(0, Ordering::SeqCst);
    world.caught_up().await;
    running.stop().await.unwrap();
}
