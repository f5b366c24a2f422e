//! Tests of the profile store on Redis.

mod failover;
mod rights;
mod world;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use event::settings::Secret;
use event::{Event, Timestamp, UniversalId, profile::Profile};
use futures::future::join_all;
use prometheus_client::{encoding::text::encode, registry::Registry};
use sendflowr_store::{
    StoreError, conformance,
    profiles::{Profiles, RawRedisConfig, RedisConfig, RedisProfiles, Seen, Update},
};
use tokio::{net::TcpListener, sync::Barrier};

use self::world::{Keys, id};
use crate::gate::Gate;

async fn connect(raw: RawRedisConfig) -> Result<RedisProfiles, StoreError> {
    RedisProfiles::connect(RedisConfig::try_from(raw).unwrap()).await
}

/// Creates a click of an arbitrary person, at a different minute for each number.
fn click(number: i64) -> Event {
    let mut event = Event::from_json(include_bytes!("../../../event/samples/event-v1.json")).unwrap();
    event.timestamp = Timestamp::from_millis_clamped(1_768_000_000_000 + number * 60_000);
    event.message_id = Some(format!("message-{number}"));
    event
}

fn profile_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Profile {
    let mut profile = Profile::default();
    for event in events {
        profile.apply(event, false);
    }
    profile
}

fn clicks(numbers: std::ops::Range<i64>) -> Profile {
    profile_of(&numbers.map(click).collect::<Vec<_>>())
}

async fn get(store: &RedisProfiles, id: &UniversalId) -> Option<Profile> {
    store.get(std::slice::from_ref(id)).await.unwrap().remove(0)
}

async fn put(store: &RedisProfiles, id: &UniversalId, profile: &Profile) {
    store.put(&[(id.clone(), profile.clone())]).await.unwrap();
}

async fn look(store: &RedisProfiles, id: &UniversalId) -> Option<(Profile, Seen)> {
    store.look(std::slice::from_ref(id)).await.unwrap().remove(0)
}

async fn seen(store: &RedisProfiles, id: &UniversalId) -> Seen {
    look(store, id).await.unwrap().1
}

async fn update(store: &RedisProfiles, id: &UniversalId, profile: Profile, seen: Seen) {
    let id = id.clone();
    store.update(&[Update { id, profile, seen }]).await.unwrap();
}

fn count(store: &RedisProfiles, name: &str) -> u64 {
    let mut registry = Registry::default();
    store.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}_total ")));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn conformance() {
    let keys = Keys::new();
    conformance::profiles(Arc::new(keys.open().await)).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_thousand_full_profiles_come_back_as_they_were() {
    let keys = Keys::new();
    let store = keys.open().await;
    let full = clicks(0..1_000);
    assert!(full.to_bytes().len() > 3_600);
    let people: Vec<(UniversalId, Profile)> = (0..1_000).map(|number| (id(number), full.clone())).collect();
    store.put(&people).await.unwrap();
    let ids: Vec<UniversalId> = people.iter().map(|(id, _)| id.clone()).collect();
    let found = store.get(&ids).await.unwrap();
    assert!(found.iter().all(|found| found.as_ref() == Some(&full)));
    let bytes = keys.bytes(&ids[0]).await;
    assert!(bytes.len() <= 4_096 + 8, "{} bytes", bytes.len());
    let seconds = keys.ttl(&ids[0]).await;
    let days = 24 * 60 * 60;
    assert!((34 * days..=35 * days).contains(&seconds), "{seconds}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_cannot_be_read_is_missing_and_is_replaced() {
    let keys = Keys::new();
    let store = keys.open().await;
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    let mut bytes = keys.bytes(&ann).await;
    bytes.truncate(20);
    keys.write(&ann, &bytes).await;
    assert_eq!(get(&store, &ann).await, None);
    assert_eq!(count(&store, "sendflowr_profiles_unreadable"), 1);
    put(&store, &ann, &clicks(0..3)).await;
    assert_eq!(get(&store, &ann).await, Some(clicks(0..3)));
}

/// Values that a server loaded from a snapshot at its start carry the run id of an earlier run.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_an_earlier_life_of_the_server_knew_is_missing() {
    let keys = Keys::new();
    let store = keys.open().await;
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    let mut bytes = keys.bytes(&ann).await;
    bytes[..8].copy_from_slice(b"01234567");
    keys.write(&ann, &bytes).await;
    assert_eq!(get(&store, &ann).await, None);
    assert_eq!(count(&store, "sendflowr_profiles_outdated"), 1);
    // It contains less than the stored value, and is still the one that counts.
    put(&store, &ann, &clicks(0..1)).await;
    assert_eq!(get(&store, &ann).await, Some(clicks(0..1)));
}

/// If the server has restarted between look and update, writes of others may be lost and the value be the same as before.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn what_was_seen_in_another_life_of_the_server_is_not_updated() {
    let keys = Keys::new();
    let store = keys.open().await;
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    let mut seen = seen(&store, &ann).await;
    seen.0[..8].copy_from_slice(b"01234567");
    keys.write(&ann, &seen.0).await;
    update(&store, &ann, clicks(0..3), seen).await;
    assert_eq!(get(&store, &ann).await, None);
    assert_eq!(count(&store, "sendflowr_profiles_disputes"), 1);
    let seconds = keys.ttl(&ann).await;
    assert!((50..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_writer_that_was_overtaken_replaces_nothing() {
    let keys = Keys::new();
    let (slow, fast) = (keys.open().await, keys.open().await);
    let ann = id(1);
    put(&slow, &ann, &clicks(0..5)).await;
    let mut old = get(&slow, &ann).await.unwrap();
    put(&fast, &ann, &clicks(0..6)).await;
    old.apply(&click(9), false);
    put(&slow, &ann, &old).await;
    assert_eq!(get(&fast, &ann).await, None, "neither knows everything");
    assert_eq!(count(&slow, "sendflowr_profiles_disputes"), 1);
    // Until the dispute is over.
    put(&fast, &ann, &clicks(0..7)).await;
    assert_eq!(get(&slow, &ann).await, None);
    let seconds = keys.ttl(&ann).await;
    assert!((50..=60).contains(&seconds), "{seconds}");
    keys.delete(&ann).await;
    put(&fast, &ann, &clicks(0..10)).await;
    assert_eq!(get(&slow, &ann).await, Some(clicks(0..10)));
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_update_of_what_is_no_longer_there_replaces_nothing() {
    let keys = Keys::new();
    let (slow, fast) = (keys.open().await, keys.open().await);
    let ann = id(1);
    put(&slow, &ann, &clicks(0..5)).await;
    let (seen_first, seen_too) = (seen(&slow, &ann).await, seen(&fast, &ann).await);
    update(&fast, &ann, clicks(0..6), seen_too.clone()).await;
    assert_eq!(get(&slow, &ann).await, Some(clicks(0..6)));
    // A writer that applies the same events does not cause a dispute.
    update(&slow, &ann, clicks(0..6), seen_first).await;
    assert_eq!(get(&slow, &ann).await, Some(clicks(0..6)));
    // This one contains everything that is stored, but the store cannot know that.
    update(&slow, &ann, clicks(0..7), seen_too).await;
    assert_eq!(look(&fast, &ann).await, None, "neither knows everything");
    assert_eq!(count(&slow, "sendflowr_profiles_disputes"), 1);
    assert_eq!(count(&fast, "sendflowr_profiles_disputes"), 0);
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_update_does_not_bring_back_what_is_gone() {
    let keys = Keys::new();
    let store = keys.open().await;
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    let seen = seen(&store, &ann).await;
    keys.delete(&ann).await;
    update(&store, &ann, clicks(0..3), seen).await;
    assert_eq!(get(&store, &ann).await, None);
    assert_eq!(count(&store, "sendflowr_profiles_disputes"), 1);
    let seconds = keys.ttl(&ann).await;
    assert!((50..=60).contains(&seconds), "{seconds}");
}

/// Eight consumers, each of which behaves as if it were the only one, work on the same people. The profiles that they leave
/// behind are complete or missing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn no_number_of_writers_leaves_a_profile_that_lacks_something() {
    const PEOPLE: usize = 500;
    let keys = Keys::new();
    let histories: Arc<Vec<Mutex<Vec<Event>>>> = Arc::new((0..PEOPLE).map(|_| Mutex::default()).collect());
    let start = Arc::new(Barrier::new(8));
    let consumers = (0..8).map(|consumer: usize| {
        let (keys, histories, start) = (keys.clone(), Arc::clone(&histories), Arc::clone(&start));
        tokio::spawn(async move {
            let store = keys.open().await;
            start.wait().await;
            for step in 0..150 {
                // All begin with the same person; later they meet now and then.
                let person = step * (step + consumer * 97) % PEOPLE;
                let (id, history) = (id(person as i64), &histories[person]);
                let known = look(&store, &id).await;
                let event = click((step * 8 + consumer) as i64);
                // Events are written first, as in the consumer.
                history.lock().unwrap().push(event.clone());
                match known {
                    Some((mut profile, seen)) => {
                        profile.apply(&event, false);
                        update(&store, &id, profile, seen).await;
                    }
                    None => {
                        let profile = profile_of(history.lock().unwrap().iter());
                        put(&store, &id, &profile).await;
                    }
                }
            }
            count(&store, "sendflowr_profiles_disputes")
        })
    });
    let disputes: u64 = join_all(consumers).await.into_iter().map(Result::unwrap).sum();
    let store = keys.open().await;
    let mut whole = 0;
    for (person, history) in histories.iter().enumerate() {
        let history = history.lock().unwrap().clone();
        if let Some(profile) = get(&store, &id(person as i64)).await {
            assert_eq!(profile, profile_of(&history), "{person}");
            whole += 1;
        }
    }
    assert!(
        whole > 0 && disputes > 0,
        "{whole} whole, {disputes} disputes: nothing was tried"
    );
}

/// As a full server, a replica and one that cannot save its snapshot do. What could not be written makes the rest wrong.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_server_that_only_answers_reads_is_not_read() {
    let keys = Keys::new();
    let user = keys.make_user_without_rights().await;
    keys.allow(&user, &["+@all"]).await;
    let store = connect(RawRedisConfig {
        user: Some(user.clone()),
        password: Secret::new("right"),
        ..keys.settings()
    })
    .await
    .unwrap();
    let ann = id(1);
    let people = std::slice::from_ref(&ann);
    put(&store, &ann, &clicks(0..2)).await;
    keys.allow(&user, &["-@write"]).await;
    store.put(&[(ann.clone(), clicks(0..3))]).await.unwrap_err();
    store.get(people).await.unwrap_err();
    store.look(people).await.unwrap_err();
    store.ping().await.unwrap_err();
    keys.allow(&user, &["+@write"]).await;
    store.ping().await.unwrap();
    assert_eq!(get(&store, &ann).await, Some(clicks(0..2)));
    keys.remove_user(&user).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn clearing_takes_ones_own_profiles_only() {
    let (mine, others) = (Keys::new(), Keys::new());
    let (store, other_store) = (mine.open().await, others.open().await);
    let profile = clicks(0..1);
    let people: Vec<(UniversalId, Profile)> =
        (0..2_500).map(|number| (id(number), profile.clone())).collect();
    store.put(&people).await.unwrap();
    put(&other_store, &id(1), &profile).await;
    store.clear().await.unwrap();
    let ids: Vec<UniversalId> = people.into_iter().map(|(id, _)| id).collect();
    assert!(store.get(&ids).await.unwrap().iter().all(Option::is_none));
    assert_eq!(get(&other_store, &id(1)).await, Some(profile));
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn an_outage_costs_callers_nothing_and_ends_by_itself() {
    let keys = Keys::new();
    let gate = keys.gate().await;
    let store = connect(RawRedisConfig {
        port: gate.port(),
        response_timeout_ms: 100,
        ..keys.settings()
    })
    .await
    .unwrap();
    let ann = id(1);
    put(&store, &ann, &clicks(0..2)).await;
    for close in [Gate::break_all, Gate::silence] {
        close(&gate);
        let start = Instant::now();
        let first = store.get(std::slice::from_ref(&ann)).await.unwrap_err();
        assert!(matches!(first, StoreError::Unavailable { .. }), "{first}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // Otherwise each call would wait for 100 ms.
        let start = Instant::now();
        for _ in 0..100 {
            let error = store.put(&[(ann.clone(), clicks(0..3))]).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            store.ping().await.unwrap_err();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        gate.open();
        // A connection attempt that was started during the silence is abandoned after 3 s.
        let start = Instant::now();
        while store.get(std::slice::from_ref(&ann)).await.ok() != Some(vec![Some(clicks(0..2))]) {
            assert!(start.elapsed() < Duration::from_secs(6), "still away");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_server_that_comes_later_is_used_from_then_on() {
    let keys = Keys::new();
    let gate = keys.gate().await;
    gate.break_all();
    let raw = RawRedisConfig {
        port: gate.port(),
        ..keys.settings()
    };
    let store = RedisProfiles::connect_or_go_on(RedisConfig::try_from(raw).unwrap())
        .await
        .unwrap();
    let ann = id(1);
    store.get(std::slice::from_ref(&ann)).await.unwrap_err();
    gate.open();
    let start = Instant::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(6), "still away");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    put(&store, &ann, &clicks(0..2)).await;
    assert_eq!(get(&store, &ann).await, Some(clicks(0..2)));
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn wrong_settings_are_named_within_ten_seconds() {
    let keys = Keys::new();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let right = keys.settings();
    let user = keys.make_user_without_rights().await;
    let cases = [
        (
            "`redis.password`",
            RawRedisConfig {
                password: Secret::new("hunter2"),
                user: Some(user.clone()),
                ..right.clone()
            },
        ),
        (
            "`redis.password`",
            RawRedisConfig {
                password: Secret::new("hunter2"),
                ..right.clone()
            },
        ),
        (
            "`redis.password`",
            RawRedisConfig {
                password: Secret::default(),
                ..right.clone()
            },
        ),
        (
            "`redis.user`",
            RawRedisConfig {
                password: Secret::new("right"),
                user: Some(user.clone()),
                ..right.clone()
            },
        ),
        (
            "`redis.database`",
            RawRedisConfig {
                database: 1_000_000,
                ..right.clone()
            },
        ),
        (
            "`redis.port`",
            RawRedisConfig {
                port: closed_port,
                ..right.clone()
            },
        ),
        (
            "`redis.port`",
            RawRedisConfig {
                port: silent_port,
                ..right.clone()
            },
        ),
        (
            "`redis.host`",
            RawRedisConfig {
                host: Some("no-such-host.invalid".into()),
                ..right.clone()
            },
        ),
        (
            "`redis.secure`",
            RawRedisConfig {
                secure: true,
                ..right.clone()
            },
        ),
    ];
    let attempts = cases.map(|(setting, raw)| async move {
        let start = Instant::now();
        let error = connect(raw).await.unwrap_err();
        (setting, error, start.elapsed())
    });
    for (setting, error, took) in join_all(attempts).await {
        assert!(
            matches!(error, StoreError::Misconfigured { .. }),
            "{setting}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains(setting), "{setting}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(took < Duration::from_secs(10), "{setting}: {took:?}");
    }
    keys.remove_user(&user).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn tls_protects_the_connection_and_checks_the_server() {
    let keys = Keys::new();
    let front = keys.tls_front().await;
    let behind_tls = |host: &str, ca: Option<&str>| RawRedisConfig {
        host: Some(host.to_owned()),
        port: front.port,
        secure: true,
        ca: ca.map(str::to_owned),
        ..keys.settings()
    };
    let certificate = Some(front.certificate.as_str());
    let store = connect(behind_tls("127.0.0.1", certificate)).await.unwrap();
    put(&store, &id(1), &clicks(0..2)).await;
    assert_eq!(get(&store, &id(1)).await, Some(clicks(0..2)));
    let attempts = [
        connect(behind_tls("127.0.0.1", None)),
        connect(behind_tls("localhost", certificate)),
        connect(behind_tls(
            "127.0.0.1",
            Some("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"),
        )),
    ];
    for refused in join_all(attempts).await {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        assert!(error.to_string().contains("`redis.ca`"), "{error}");
    }
}
