//! What the embedded event store does beyond what every event store does.

use std::time::Duration;

use event::{Identifier, IdentifierKind, Timestamp, UniversalId};
use sendflowr_store::events::{
    Events, Forecast, SqliteEvents, SqliteEventsConfig, StoredExplanation, Trial, TrialGroup,
};

fn explanation(number: usize) -> StoredExplanation {
    let identifier = Identifier {
        kind: IdentifierKind::EmailHash,
        value: "0".repeat(64),
    };
    StoredExplanation {
        reference: format!("dec_{number}"),
        universal_id: UniversalId::from_identifier(&identifier),
        // Asked about long ago: what counts is when it was stored.
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
    // Each removes two at most, so that no decision waits for a great removal.
    events.save_explanations(&[&explanation(3)]).await.unwrap();
    assert!(!kept(0).await && !kept(1).await && kept(2).await && kept(3).await);
    events.save_explanations(&[&explanation(4)]).await.unwrap();
    assert!(!kept(2).await && kept(3).await && kept(4).await);
    let since = Timestamp::default();
    let trials = events.trials(since, since.plus_millis(1), 10).await.unwrap();
    assert_eq!(trials.rows.len(), 2, "what is compared goes with the explanation");
    let forecasts = events.forecasts(since, since.plus_millis(1), 10).await.unwrap();
    assert_eq!(forecasts.rows.len(), 2, "what is audited goes with it too");
}
