//! A message that is delivered again and again, with the same id.

use std::collections::HashMap;

use event::{
    Event,
    EventType::{self, Clicked, Delivered},
    Hasher, Timestamp, UniversalId,
    grid::DAY_MS,
};

use super::Judge;
use crate::ConsumerConfig;

/// When the first mail is delivered.
const FIRST_MS: i64 = 1_767_571_200_000;
/// When the next one is.
const NEXT_MS: i64 = FIRST_MS + 14 * DAY_MS;

fn event(event_type: EventType, at_ms: i64) -> Event {
    let identifier = Hasher::new().email_identifier("ann@example.com").unwrap();
    Event {
        message_id: Some("step".into()),
        ip_address: Some("198.51.100.7".into()),
        user_agent: Some("Mozilla/5.0 Chrome/126.0.0.0".into()),
        click_url: Some("https://shop.example/".into()),
        ..Event::bare(
            event_type,
            Timestamp::from_millis_clamped(at_ms),
            UniversalId::from_identifier(&identifier),
        )
    }
}

/// Judges events that arrive one by one, and returns the reasons for the last verdict.
fn last_verdict(events: &[(EventType, i64)]) -> Vec<String> {
    let mut judge = Judge::new(&ConsumerConfig::default());
    let verdicts = events.iter().map(|(event_type, at_ms)| {
        judge
            .judge(&[event(*event_type, *at_ms)], &HashMap::new())
            .remove(0)
    });
    verdicts.last().unwrap().reasons
}

#[test]
fn a_click_counts_from_the_last_delivery_before_it() {
    let next = [(Delivered, FIRST_MS), (Delivered, NEXT_MS)];
    for (after_ms, reasons) in [
        (2_000, &["click_within_2s:3"][..]),
        (9_000, &["click_within_10s:2"]),
        (3_600_000, &[]),
        // Providers round to seconds.
        (-900, &["click_within_2s:3"]),
        // A click on the mail before.
        (-90_000, &[]),
    ] {
        let click = (Clicked, NEXT_MS + after_ms);
        assert_eq!(last_verdict(&[next[0], next[1], click]), reasons, "{after_ms}");
        assert_eq!(
            last_verdict(&[next[1], next[0], click]),
            reasons,
            "{after_ms}, in any order"
        );
        let again = [next[0], next[1], next[0], next[1], click];
        assert_eq!(last_verdict(&again), reasons, "{after_ms}, told twice");
    }
}

#[test]
fn a_click_that_arrives_after_the_next_delivery_counts_from_its_own() {
    let late = [
        (Delivered, FIRST_MS),
        (Delivered, NEXT_MS),
        (Clicked, FIRST_MS + 5_000),
    ];
    assert_eq!(last_verdict(&late), ["click_within_10s:2"]);
    // Of the deliveries before these two nothing is known any more.
    let older = [
        (Delivered, FIRST_MS - DAY_MS),
        late[0],
        late[1],
        (Clicked, FIRST_MS - DAY_MS + 1_000),
    ];
    assert_eq!(last_verdict(&older), [""; 0]);
}

#[test]
fn clicks_on_the_mail_before_do_not_count() {
    // One visit: the same message, address and agent.
    let slow_then_fast = [
        (Delivered, FIRST_MS),
        (Clicked, FIRST_MS + DAY_MS),
        (Delivered, NEXT_MS),
        (Clicked, NEXT_MS + 1_000),
    ];
    assert_eq!(last_verdict(&slow_then_fast), ["click_within_2s:3"]);
    let fast_then_slow = [
        (Delivered, FIRST_MS),
        (Clicked, FIRST_MS + 1_000),
        (Delivered, NEXT_MS),
        (Clicked, NEXT_MS + DAY_MS),
    ];
    assert_eq!(last_verdict(&fast_then_slow), [""; 0]);
    // The first click on the same mail still counts for those that follow it.
    let all_day = [slow_then_fast[2], slow_then_fast[3], (Clicked, NEXT_MS + DAY_MS)];
    assert_eq!(last_verdict(&all_day), ["click_within_2s:3"]);
}
