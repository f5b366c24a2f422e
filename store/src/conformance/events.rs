mod decisions;
mod doubts;
mod erasure;
mod history;
mod latency;

use std::{collections::BTreeMap, sync::Arc};

use event::{
    BounceType, EmailHash, Event, EventType, IdentifierKind, MailboxProvider, Timestamp, UniversalId,
};

use super::{identifier, moment, unique};
use crate::events::{Enrichment, Events, StoredEvent};

/// Checks an event store.
pub async fn events(store: Arc<dyn Events>) {
    let store = store.as_ref();
    store.ping().await.unwrap();
    history::events_come_back_whole(store).await;
    history::writing_twice_changes_nothing(store).await;
    history::history_is_the_newest_in_order(store).await;
    history::a_history_has_any_number_of_ids(store).await;
    history::profiles_are_what_events_make(store).await;
    history::what_holds_for_long_is_not_hidden_by_later_events(store).await;
    history::sent_times_answer_in_order(store).await;
    history::people_are_known_by_their_events(store).await;
    history::people_are_listed_page_by_page(store).await;
    latency::latency_samples_come_newest_first(store).await;
    latency::the_first_delay_of_an_event_counts(store).await;
    latency::providers_with_many_samples_are_thinned_by_person(store).await;
    latency::one_person_does_not_bring_all_samples(store).await;
    decisions::explanations_stay_as_they_are(store).await;
    decisions::trials_come_newest_first(store).await;
    decisions::forecasts_come_newest_first(store).await;
    decisions::many_decisions_are_thinned_by_person(store).await;
    decisions::one_person_does_not_bring_all_decisions(store).await;
    decisions::touches_are_deliveries_and_human_answers(store).await;
    history::the_first_verdict_on_an_event_counts(store).await;
    history::of_one_id_with_two_times_the_first_counts(store).await;
    erasure::all_events_of_an_id_are_read_page_by_page(store).await;
    erasure::people_are_erased_and_others_stay(store).await;
    erasure::whoever_gets_events_during_an_erasure_is_known(store).await;
    doubts::profiles_are_doubted_until_each_consumer_trusts_them(store).await;
}

fn person(name: &str) -> UniversalId {
    UniversalId::from_identifier(&identifier(&unique("run"), IdentifierKind::ExternalId, name))
}

/// Creates an event with only the required fields.
fn bare(person: &UniversalId, event_type: EventType, timestamp: Timestamp) -> StoredEvent {
    let event = Event {
        event_id: unique("event"),
        esp: "sendgrid".into(),
        account: "default".into(),
        plugin: "sendgrid@1.0.0".into(),
        ingested_at: timestamp.plus_millis(1_500),
        ..Event::bare(event_type, timestamp, person.clone())
    };
    StoredEvent {
        event,
        enrichment: Enrichment::default(),
    }
}

fn full(person: &UniversalId) -> StoredEvent {
    let hash = EmailHash::parse(&"0f".repeat(32)).unwrap();
    let mut stored = bare(person, EventType::Bounced, moment("2026-01-10T12:00:00.007Z"));
    let event = &mut stored.event;
    event.identifiers = vec![
        event::Identifier {
            kind: IdentifierKind::EmailHash,
            value: hash.as_str().to_owned(),
        },
        identifier("run", IdentifierKind::EspUserId, "sendgrid/default/7"),
    ];
    event.recipient_email_hash = Some(hash);
    event.mailbox_provider = Some(MailboxProvider::Icloud);
    event.campaign_id = Some("c1".into());
    event.campaign_name = Some("Größe, 'quoted' \"twice\"".into());
    event.message_id = Some("<m1@mail>".into());
    event.subject = Some(String::new());
    event.click_url = Some("https://example.com/?a=1&b=%20".into());
    event.bounce_type = Some(BounceType::Soft);
    event.reason = Some("452 mailbox full\n\ttry later \u{1F4EC}".into());
    event.user_agent = Some("agent/1.0".into());
    event.ip_address = Some("2001:db8::1".into());
    event.tags = vec!["b".into(), "a".into(), String::new()];
    event.metadata = BTreeMap::from([("order.id".into(), "42".into()), ("empty".into(), String::new())]);
    event.is_machine = Some(false);
    event.provider_event_id = Some("e-1".into());
    stored.enrichment = Enrichment {
        machine: true,
        machine_reasons: vec!["click_within_2s:3".into(), "data_centre:2".into()],
        delivery_latency_ms: Some(-5),
        trace_id: event::TraceId::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
    };
    stored
}

/// Returns whether a person is in the sample of a share of the people.
fn is_among(person: &UniversalId, share: f64) -> bool {
    let hash = u64::from_str_radix(&person.as_str()["sf_".len()..][..16], 16).unwrap();
    (hash as f64) < u64::MAX as f64 * share
}

/// Returns a person whose id is within the first hundredth of all ids.
fn busy_person() -> UniversalId {
    let mut names = 0..;
    let busy = names.find_map(|n: u32| Some(person(&format!("busy {n}"))).filter(|id| is_among(id, 0.01)));
    busy.expect("one name in a hundred will do")
}
