//! Behavior that is specific to the embedded event store.

use std::time::{Duration, SystemTime};

use event::{Event, EventType, Identifier, IdentifierKind, Timestamp, UniversalId};
use sendflowr_store::events::{
    Enrichment, Events, Forecast, SqliteEvents, SqliteEventsConfig, StoredEvent, StoredExplanation, Trial,
    TrialGroup,
};

fn explanation(number: usize) -> StoredExplanation {
    let identifier = Identifier {
        kind: IdentifierKind::EmailHash,
        value: "0".repeat(64),
    };
    StoredExplanation {
        reference: format!("dec_{number}"),
        universal_id: UniversalId::from_identifier(&identifier),
        // Decided long ago: the time of storing is what counts.
        decided_at: Timestamp::default(),
        body: "{}".to_owned(),
        trial: Some(Trial {
            group: TrialGroup::Treated,
            target_at: Timestamp::default(),
            model_at: Timestamp::default(),
            propensity: 0.5,
            campaign_id: None,
        }),
        forecast: Some(Forecast {
            trigger_at: Timestamp::default(),
            target_at: Timestamp::default(),
            esp: None,
            mailbox_provider: None,
            campaign_id: None,
        }),
    }
}

#[tokio::test]
async fn explanations_are_removed_when_they_are_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteEventsConfig {
        explanation_retention: Duration::from_millis(500),
        event_retention: None,
    };
    let events = SqliteEvents::open(folder.path(), config).await.unwrap();
    for number in 0..3 {
        events.save_explanations(&[&explanation(number)]).await.unwrap();
    }
    let kept = async |number: usize| {
        let reference = format!("dec_{number}");
        events.explanation(&reference).await.unwrap().is_some()
    };
    assert!(kept(0).await && kept(1).await && kept(2).await);
    tokio::time::sleep(Duration::from_millis(600)).await;
    for number in 3..5 {
        events.save_explanations(&[&explanation(number)]).await.unwrap();
    }
    assert!(!kept(0).await && !kept(2).await && kept(3).await && kept(4).await);
    let id = explanation(0).universal_id;
    let stored = async || {
        events
            .holdings(std::slice::from_ref(&id))
            .await
            .unwrap()
            .explanations
    };
    assert_eq!(stored().await, 5, "they are not found, and still there");
    assert_eq!(
        events.expire(Timestamp::from(SystemTime::now())).await.unwrap(),
        3
    );
    assert_eq!(stored().await, 2);
    let since = Timestamp::default();
    let trials = events.trials(since, since.plus_millis(1), 10).await.unwrap();
    assert_eq!(trials.rows.len(), 2, "what is compared goes with the explanation");
    let forecasts = events.forecasts(since, since.plus_millis(1), 10).await.unwrap();
    assert_eq!(forecasts.rows.len(), 2, "what is audited goes with it too");

    // More than are removed in one transaction.
    let many: Vec<StoredExplanation> = (5..450).map(explanation).collect();
    let many: Vec<&StoredExplanation> = many.iter().collect();
    events.save_explanations(&many).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        events.expire(Timestamp::from(SystemTime::now())).await.unwrap(),
        447
    );
    assert_eq!(stored().await, 0);
}

#[tokio::test]
async fn events_are_removed_when_they_are_too_old_if_an_age_is_set() {
    const DAY_MS: i64 = 86_400_000;
    let now: Timestamp = "2026-06-30T12:00:00Z".parse().unwrap();
    let person = |name: &str| {
        UniversalId::from_identifier(&Identifier {
            kind: IdentifierKind::ExternalId,
            value: name.to_owned(),
        })
    };
    let clicked = |name: &str, age_ms: i64| {
        let at = now.plus_millis(-age_ms);
        StoredEvent {
            event: Event {
                event_id: format!("{name} at {at}"),
                ..Event::bare(EventType::Clicked, at, person(name))
            },
            enrichment: Enrichment::default(),
        }
    };
    let kept = async |events: &SqliteEvents, name: &str| {
        events
            .history(&[person(name)], Timestamp::default(), 10_000)
            .await
            .unwrap()
            .len()
    };
    // Ann has more old events than are removed in one transaction, before a new one; Bob has one that is just not too old; of Carl
    // nothing is left.
    let mut stored: Vec<StoredEvent> = (0..450)
        .map(|number| clicked("ann", 31 * DAY_MS + number))
        .collect();
    stored.extend([
        clicked("ann", DAY_MS),
        clicked("bob", 30 * DAY_MS),
        clicked("bob", 30 * DAY_MS + 1),
    ]);
    stored.extend((0..300).map(|number| clicked("carl", 400 * DAY_MS + number)));
    stored.extend((0..300).map(|number| clicked(&format!("one of many {number}"), 40 * DAY_MS)));

    let folder = tempfile::tempdir().unwrap();
    let open = async |event_retention: Option<Duration>| {
        let config = SqliteEventsConfig {
            event_retention,
            ..SqliteEventsConfig::default()
        };
        SqliteEvents::open(folder.path(), config).await.unwrap()
    };
    let events = open(None).await;
    events.write(&stored).await.unwrap();
    assert_eq!(
        events.expire(now).await.unwrap(),
        0,
        "by default nothing is too old"
    );
    events.close().await;

    let events = open(Some(Duration::from_secs(30 * 86_400))).await;
    assert_eq!(events.expire(now).await.unwrap(), 450 + 1 + 300 + 300);
    assert_eq!(kept(&events, "ann").await, 1);
    assert_eq!(kept(&events, "bob").await, 1);
    assert_eq!(kept(&events, "carl").await, 0);
    assert_eq!(
        events.known(&[person("ann"), person("carl")]).await.unwrap(),
        [true, false]
    );
    assert_eq!(events.expire(now).await.unwrap(), 0);
}

#[tokio::test]
async fn erased_rows_are_overwritten_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let events = SqliteEvents::open(folder.path(), SqliteEventsConfig::default())
        .await
        .unwrap();
    let erased = explanation(0);
    let kept = StoredExplanation {
        universal_id: UniversalId::parse("sf_0123456789abcdef0123456789abcdef").unwrap(),
        ..explanation(1)
    };
    events.save_explanations(&[&erased, &kept]).await.unwrap();
    let (erased, kept) = (erased.universal_id, kept.universal_id);
    let clicked = |person: &UniversalId| StoredEvent {
        event: Event {
            event_id: format!("event of {person}"),
            ..Event::bare(EventType::Clicked, Timestamp::default(), person.clone())
        },
        enrichment: Enrichment::default(),
    };
    events.write(&[clicked(&erased), clicked(&kept)]).await.unwrap();
    let holds = |file: &str, id: &UniversalId| {
        let bytes = std::fs::read(folder.path().join(file)).unwrap();
        let id = id.as_str().as_bytes();
        bytes.windows(id.len()).any(|window| window == id)
    };
    for log in ["events.db-wal", "explanations.db-wal"] {
        assert!(holds(log, &erased) && holds(log, &kept), "{log}");
    }
    events.erase(std::slice::from_ref(&erased)).await.unwrap();
    for file in ["events.db", "explanations.db"] {
        assert!(!holds(file, &erased) && holds(file, &kept), "{file}");
        assert!(!holds(&format!("{file}-wal"), &erased), "{file}");
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_keeps_no_profile_from_being_built() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEvents::open(folder.path(), SqliteEventsConfig::default())
        .await
        .unwrap();
    let people = ["ann", "bob"].map(|name| {
        UniversalId::from_identifier(&Identifier {
            kind: IdentifierKind::ExternalId,
            value: name.to_owned(),
        })
    });
    let event = |number: i64, event_type: EventType, person: &UniversalId| {
        let at = Timestamp::default().plus_millis(number * 60_000);
        StoredEvent {
            event: Event {
                event_id: number.to_string(),
                ..Event::bare(event_type, at, person.clone())
            },
            enrichment: Enrichment::default(),
        }
    };
    let [ann, bob] = &people;
    let good = [
        event(1, EventType::Unsubscribed, ann),
        event(2, EventType::Clicked, bob),
    ];
    store.write(&good).await.unwrap();
    let built = async |limit: usize| {
        store
            .profiles(&people, Timestamp::default(), limit)
            .await
            .unwrap()
    };
    let expected = built(10).await;

    let bad = [
        event(3, EventType::Opened, ann),
        event(4, EventType::Bounced, ann),
    ];
    store.write(&bad).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("events.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for statement in [
        "UPDATE email_events SET event_type = 'open' WHERE event_id = '3'",
        "UPDATE email_events SET bounce_type = '' WHERE event_id = '4'",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    assert_eq!(built(10).await, expected);
    assert_eq!(built(1).await, expected, "they count among the newest");
}
