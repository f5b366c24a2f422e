use std::collections::BTreeSet;

use super::*;
use event::EventType;

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

#[test]
fn mock_events_are_as_many_as_asked_for_and_the_same_each_time() {
    let hasher = Hasher::new();
    for count in [0, 1, 5, 500] {
        let events = mock_events(count, 7, now(), &hasher);
        assert_eq!(events.len(), count);
        assert!(events.iter().all(|event| event.timestamp <= now()));
        assert!(events.is_sorted_by_key(|event| event.timestamp));
        let ids: BTreeSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids.len(), count, "ids differ");
        assert_eq!(events, mock_events(count, 7, now(), &hasher));
    }
    assert_ne!(
        mock_events(50, 7, now(), &hasher),
        mock_events(50, 8, now(), &hasher)
    );
}

#[test]
fn mock_events_are_mixed_and_carry_latency() {
    let events = mock_events(2_000, 1, now(), &Hasher::new());
    let kinds: BTreeSet<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    for kind in ["sent", "delivered", "opened", "clicked", "site_visit"] {
        assert!(kinds.contains(kind), "{kind} is missing among {kinds:?}");
    }
    let esps: BTreeSet<&str> = events.iter().map(|event| event.esp.as_str()).collect();
    assert!(esps.len() >= 3, "{esps:?}");
    for delivered in events
        .iter()
        .filter(|event| event.event_type == EventType::Delivered)
    {
        let seconds: f64 = delivered.metadata["latency_seconds"].parse().unwrap();
        assert!(seconds > 0.0 && seconds < 7_200.0);
    }
}

#[test]
fn no_address_and_no_persona_shows_in_events() {
    for event in mock_events(300, 3, now(), &Hasher::new()) {
        let text = String::from_utf8(event.to_json()).unwrap();
        assert!(
            !text.contains('@') || text.matches('@').count() == text.matches("synth@").count(),
            "{text}"
        );
        assert!(!text.to_lowercase().contains("persona"), "{text}");
    }
}

/// The events follow the truth: with mail at random minutes, the simulated click rate matches [`Truth::response`].
#[test]
fn clicks_are_as_frequent_as_the_truth_says() {
    let world = World::new(11, 150, now())
        .random_share(1.0)
        .mover_share(0.0)
        .mails_per_week(6.0)
        .weeks(30);
    let hasher = Hasher::new();
    let (mut expected, mut clicked) = (0.0, 0.0);
    for person in 0..world.people() {
        let truth = world.truth(person, now());
        let events = world.events(person, &hasher);
        for delivered in events
            .iter()
            .filter(|s| s.event.event_type == EventType::Delivered && s.event.esp != "postmark")
        {
            expected += truth.response(delivered.event.timestamp);
            let hit = events.iter().any(|s| {
                s.event.event_type == EventType::Clicked
                    && !s.machine
                    && s.event.message_id == delivered.event.message_id
                    && s.event.timestamp.millis_since(delivered.event.timestamp) < 24 * 3_600_000
            });
            clicked += f64::from(u8::from(hit));
        }
    }
    assert!(clicked > 500.0, "{clicked}");
    // Moods, and mail that is noticed twice, explain the difference.
    let ratio = clicked / expected;
    assert!(
        (0.9..1.15).contains(&ratio),
        "{clicked} clicks, {expected} expected"
    );
}
