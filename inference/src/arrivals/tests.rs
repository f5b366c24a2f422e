use event::UniversalId;
use store::events::{Forecast, StoredExplanation};

use super::*;
use crate::mail::fixture::{self, Stores};

const MONDAY_MS: i64 = 1_767_571_200_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis_clamped(MONDAY_MS + seconds * 1_000)
}

fn person() -> UniversalId {
    let identifier = event::Hasher::new().email_identifier("ann@example.com").unwrap();
    UniversalId::from_identifier(&identifier)
}

/// A decision made an hour before Monday, which expects a mail sent at `trigger` to take a minute.
fn forecast(trigger: i64, esp: Option<&str>, campaign: Option<&str>) -> StoredForecast {
    StoredForecast {
        reference: format!("dec_{trigger}"),
        universal_id: person(),
        decided_at: at(-3_600),
        forecast: Forecast {
            trigger_at: at(trigger),
            target_at: at(trigger + 60),
            esp: esp.map(str::to_owned),
            mailbox_provider: Some(MailboxProvider::Gmail),
            campaign_id: campaign.map(str::to_owned),
        },
    }
}

fn mail(sent: i64, took: Option<i64>, campaign: Option<&str>) -> Touch {
    Touch {
        universal_id: person(),
        at: at(sent + took.unwrap_or_default()),
        kind: TouchKind::Delivered,
        message_id: None,
        campaign_id: campaign.map(str::to_owned),
        esp: "ses".to_owned(),
        delivery_latency_ms: took.map(|seconds| seconds * 1_000),
    }
}

fn audited(forecasts: &[StoredForecast], touches: &[Touch]) -> Audited {
    let mut audited = Audited::default();
    audited.take(forecasts.iter().collect(), touches.iter().collect());
    audited
}

#[test]
fn a_late_caller_does_not_speak_against_the_delays() {
    let audited = audited(&[forecast(0, Some("ses"), None)], &[mail(600, Some(61), None)]);
    let arrival = &audited.arrivals[0];
    assert_eq!((arrival.expected_ms, arrival.actual_ms), (60_000, 61_000));
    assert_eq!(arrival.off_target_ms, 601_000);
}

#[test]
fn only_mail_that_was_sent_near_the_trigger_counts() {
    let decision = || forecast(0, Some("ses"), Some("spring"));
    let count = |mail: Touch| audited(&[decision()], &[mail]).arrivals.len();
    assert_eq!(count(mail(900, Some(30), Some("spring"))), 1);
    assert_eq!(count(mail(-900, Some(30), None)), 1);
    assert_eq!(count(mail(901, Some(30), Some("spring"))), 0);
    assert_eq!(count(mail(-901, Some(30), Some("spring"))), 0);
    assert_eq!(count(mail(0, Some(30), Some("autumn"))), 0);
    assert_eq!(
        count(mail(0, Some(6 * 3_600), Some("spring"))),
        1,
        "a long delay is a delay"
    );
    let of_another = Touch {
        esp: "mailgun".to_owned(),
        ..mail(0, Some(30), None)
    };
    assert_eq!(count(of_another), 0);
    let told = audited(&[decision()], &[mail(0, None, None)]);
    assert_eq!((told.arrivals.len(), told.unmeasured), (0, 1));
    // A mail that was sent before the decision belongs to another decision.
    let mut later = decision();
    later.decided_at = at(300);
    assert!(audited(&[later], &[mail(0, Some(30), None)]).arrivals.is_empty());
}

#[test]
fn one_mail_is_one_decisions() {
    let mut again = forecast(0, None, None);
    again.decided_at = at(-60);
    let twice = audited(&[forecast(0, None, None), again], &[mail(5, Some(30), None)]);
    assert_eq!((twice.decisions, twice.arrivals.len()), (1, 1));
    let near = audited(
        &[forecast(0, None, None), forecast(300, None, None)],
        &[mail(5, Some(30), None)],
    );
    assert_eq!((near.decisions, near.arrivals.len()), (2, 1));
}

#[test]
fn rows_tell_bias_error_and_coverage() {
    let arrivals: Vec<Arrival> = (0..10)
        .map(|n| Arrival {
            esp: if n < 8 { "ses" } else { "mailgun" }.to_owned(),
            mailbox_provider: (n % 2 == 0).then_some(MailboxProvider::Gmail),
            sent_at: at(n),
            expected_ms: 60_000,
            actual_ms: 10_000 * (n + 1),
            off_target_ms: -5_000,
        })
        .collect();
    let rows = rows(&arrivals);
    let names: Vec<_> = rows
        .iter()
        .map(|row| (row.esp.as_deref(), row.mailbox_provider, row.mails))
        .collect();
    let gmail = Some(MailboxProvider::Gmail);
    assert_eq!(
        names,
        [
            (None, None, 10),
            (Some("mailgun"), None, 2),
            (Some("mailgun"), gmail, 1),
            (Some("ses"), None, 8),
            (Some("ses"), gmail, 4),
        ]
    );
    let all = &rows[0];
    assert_eq!((all.expected_p50_seconds, all.actual_p50_seconds), (60.0, 55.0));
    assert_eq!((all.bias_seconds, all.coverage), (-5.0, 0.6));
    assert_eq!((all.error_p50_seconds, all.off_target_p50_seconds), (25.0, 5.0));
    assert!((all.actual_p90_seconds - 91.0).abs() < 1e-9);
}

#[tokio::test]
async fn drift_is_seen_where_a_day_has_more_decisions_than_are_looked_at() {
    const HOURS: i64 = 14 * 24;
    let (mut decisions, mut mails) = (Vec::new(), Vec::new());
    for hour in 0..HOURS {
        for of_hour in 0..10 {
            let number = (hour * 10 + of_hour) as usize;
            let trigger_at = at(hour * 3_600 + of_hour * 60);
            decisions.push(StoredExplanation {
                reference: format!("dec_{number}"),
                universal_id: fixture::person(number),
                decided_at: trigger_at,
                body: "{}".into(),
                trial: None,
                forecast: Some(Forecast {
                    trigger_at,
                    target_at: trigger_at.plus_millis(10_000),
                    esp: None,
                    mailbox_provider: None,
                    campaign_id: None,
                }),
            });
            let took_ms = if hour < HOURS - 24 { 10_000 } else { 30_000 };
            mails.push(fixture::mail(
                &fixture::person(number),
                trigger_at.plus_millis(took_ms),
                took_ms,
            ));
        }
    }
    let stores = Stores::with(&decisions, &mails).await;
    // The newest 240 decisions are those of the last day.
    let until = at((HOURS + 1) * 3_600);
    let arrivals = arrivals_of(240, &stores.events, &stores.identities, at(0), until)
        .await
        .unwrap();
    assert!((arrivals.people_share - 1.0 / 14.0).abs() < 1e-9);
    assert!((120..=360).contains(&arrivals.mails), "{}", arrivals.mails);
    let drift = &arrivals.drift[0];
    assert_eq!(drift.state, DriftState::Drifting, "{drift:?}");
    assert!(drift.earlier_hours > 100, "{drift:?}");
}
