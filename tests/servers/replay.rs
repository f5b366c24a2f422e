//! The consumer's dead letters, replayed by the binary.

use event::Timestamp;
use integration_tests::{eventually, letter, scaled::System};
use store::{bus::Bus, events::Events};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn the_consumers_letters_become_rows() {
    let system = System::start(&[]).await;
    let consumer = system.consumer().await;
    // The topic contains what other tests have left there.
    let mark = &system.servers.mark;
    let esp = format!("esp-{mark}");
    let event = letter::open_of(mark, &esp);
    let bus = system.servers.bus().await;
    // The one before it, in the same partition, stays: it is another provider's.
    let other = letter::open_of("somebody", &format!("other-{mark}"));
    let letters = [&other, &event].map(letter::too_new);
    bus.append(letters.to_vec()).await.unwrap();

    let told = system.run(&["replay", "--provider", &esp]);
    assert!(
        told.contains("1 dead letter replayed, 1 event, 0 dead letters failed"),
        "{told}"
    );
    let told = system.run(&["replay", "--provider", &esp]);
    assert!(
        told.contains("0 dead letters replayed, 0 events, 0 dead letters failed"),
        "{told}"
    );
    let events = system.servers.events().await;
    eventually("the event is stored", async || {
        let ids = std::slice::from_ref(&event.universal_id);
        let history = events.history(ids, Timestamp::default(), 10).await.unwrap();
        history.len() == 1
    })
    .await;
    bus.close().await;
    system.until_committed(&consumer).await;
    system.clean().await;
}
