use std::sync::Arc;

use event::{Event, IdentifierKind, UniversalId, profile::Profile};

use super::{identifier, unique};
use crate::profiles::{Profiles, Update};

/// Checks a profile store.
pub async fn profiles(store: Arc<dyn Profiles>) {
    store.ping().await.unwrap();
    let run = unique("run");
    let id = |name| UniversalId::from_identifier(&identifier(&run, IdentifierKind::ExternalId, name));
    let (ann, bob, nobody) = (id("ann"), id("bob"), id("nobody"));
    let one = profile(&["2026-01-10T12:00:00Z"]);
    let two = profile(&["2026-01-10T12:00:00Z", "2026-01-11T08:30:00Z"]);
    assert_ne!(one, two);

    assert_eq!(store.get(&[]).await.unwrap(), []);
    store.put(&[]).await.unwrap();
    store
        .put(&[(ann.clone(), one.clone()), (bob.clone(), Profile::default())])
        .await
        .unwrap();
    let found = store
        .get(&[bob.clone(), nobody.clone(), ann.clone(), bob.clone()])
        .await
        .unwrap();
    let empty = Some(Profile::default());
    assert_eq!(
        found,
        [empty.clone(), None, Some(one.clone()), empty],
        "in the order asked, nothing where there is none"
    );

    store.put(&[(ann.clone(), two.clone())]).await.unwrap();
    assert_eq!(
        store.get(std::slice::from_ref(&ann)).await.unwrap(),
        [Some(two.clone())],
        "a newer profile replaces the older"
    );

    let looks = store.look(&[nobody.clone(), ann.clone()]).await.unwrap();
    let [None, Some((known, seen))] = &looks[..] else {
        panic!("a look finds what is there: {looks:?}");
    };
    assert_eq!(*known, two);
    let three = profile(&[
        "2026-01-10T12:00:00Z",
        "2026-01-11T08:30:00Z",
        "2026-01-12T08:30:00Z",
    ]);
    let update = Update {
        id: ann.clone(),
        profile: three.clone(),
        seen: seen.clone(),
    };
    store.update(&[update]).await.unwrap();
    assert_eq!(
        store.get(&[ann.clone(), bob.clone()]).await.unwrap(),
        [Some(three), Some(Profile::default())],
        "an update replaces what was looked at, and nothing else"
    );
    store.update(&[]).await.unwrap();
    assert_eq!(store.look(&[]).await.unwrap(), []);

    assert_eq!(store.erase(&[ann.clone(), nobody.clone()]).await.unwrap(), 1);
    assert_eq!(
        store.get(&[ann.clone(), bob.clone()]).await.unwrap(),
        [None, Some(Profile::default())],
        "others stay"
    );
    assert_eq!(store.erase(std::slice::from_ref(&ann)).await.unwrap(), 0);
    store.put(&[(ann.clone(), one.clone())]).await.unwrap();
    assert_eq!(
        store.get(&[ann]).await.unwrap(),
        [Some(one)],
        "a profile put after its erasure is new"
    );
    assert_eq!(store.erase(&[]).await.unwrap(), 0);
}

/// Returns the profile of a person who clicked at these times.
fn profile(clicks: &[&str]) -> Profile {
    let sample = include_bytes!("../../../event/samples/event-v1.json");
    let mut event = Event::from_json(sample).unwrap();
    let mut profile = Profile::default();
    for click in clicks {
        event.timestamp = super::moment(click);
        profile.apply(&event, false);
    }
    profile
}
