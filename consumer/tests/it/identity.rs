//! The identity group.

use std::{sync::atomic::Ordering, time::Duration};

use consumer::EVENTS_GROUP;
use event::EventType::{Clicked, Opened};

use crate::world::{World, deliveries, event, ids, weak};

#[tokio::test(start_paused = true)]
async fn each_set_of_identifiers_is_recorded_once() {
    let world = World::default();
    let first = event("ann", Opened, "m1", 0);
    let mut linked = event("ann", Clicked, "m1", 5);
    linked.identifiers.push(weak("K1"));
    world.bus.put_events(&[
        first.clone(),
        event("ann", Opened, "m2", 9),
        linked.clone(),
        linked.clone(),
    ]);
    let running = world.start();
    world.identities_caught_up().await;
    world
        .bus
        .put_events(&[event("ann", Clicked, "m9", 20), linked.clone()]);
    world.identities_caught_up().await;
    let sightings = world.identities.sightings();
    let sources: Vec<_> = sightings.iter().map(|sighting| sighting.source.clone()).collect();
    assert_eq!(
        sources,
        [
            format!("event:{}", first.event_id),
            format!("event:{}", linked.event_id)
        ]
    );
    assert_eq!(sightings[1].identifiers, linked.identifiers);
    assert_eq!(sightings[1].seen_at, linked.ingested_at);
    assert_eq!(
        running.metric("sendflowr_consumer_sightings_total{outcome=\"skipped\"}"),
        4.0
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_graph_that_is_down_or_misconfigured_delays_this_group_only() {
    for misconfigured in [false, true] {
        let world = World::default();
        let switch = if misconfigured {
            &world.identities.broken
        } else {
            &world.identities.down
        };
        switch.on();
        let events = deliveries(400, 250);
        world.bus.put_events(&events);
        let running = world.start();
        world.caught_up().await;
        assert_eq!(world.events.ids(), ids(&events));
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(world.bus.committed(consumer::IDENTITY_GROUP), 0);
        switch.off();
        world.identities_caught_up().await;
        assert_eq!(world.identities.sightings().len(), 250);
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sighting_that_the_graph_refuses_holds_up_nothing() {
    let world = World::default();
    let mut poison = event("eve", Opened, "m1", 0);
    poison.identifiers = vec![weak("refused")];
    *world.identities.poison.lock().unwrap() = vec!["refused".into()];
    let mut events = deliveries(20, 20);
    events.insert(7, poison);
    world.bus.put_events(&events);
    let running = world.start();
    world.identities_caught_up().await;
    let sources: Vec<_> = world
        .identities
        .sightings()
        .into_iter()
        .map(|sighting| sighting.source)
        .collect();
    events.remove(7);
    let expected: Vec<_> = events
        .iter()
        .map(|event| format!("event:{}", event.event_id))
        .collect();
    assert_eq!(sources, expected, "the others, in order");
    world.caught_up().await;
    assert_eq!(world.bus.committed(EVENTS_GROUP), 21);
    running.stop().await.unwrap();
}

/// A server that is busy with something else, or merges of people with very many identifiers.
#[tokio::test(start_paused = true)]
async fn sightings_that_take_too_long_together_are_recorded_in_parts() {
    let world = World::default();
    world.identities.too_long.store(5, Ordering::SeqCst);
    let events = deliveries(40, 40);
    world.bus.put_events(&events);
    let running = world.start();
    world.identities_caught_up().await;
    let sightings = world.identities.sightings();
    let sources: Vec<&str> = sightings.iter().map(|sighting| &*sighting.source).collect();
    let expected: Vec<String> = ids(&events).iter().map(|id| format!("event:{id}")).collect();
    assert_eq!(sources, expected, "each once, in order");
    running.stop().await.unwrap();
}
