//! The person of the demonstration and what happened to her mail.

use event::{Timestamp, grid};
use synth::delivery::{Action, Kind};

/// Her name.
pub(super) const NAME: &str = "Ann";

/// Her address, at a domain reserved for examples.
pub(super) const EMAIL: &str = "ann@example.com";

/// How many weeks back her history goes.
const WEEKS: i64 = 8;

/// Clicks in her whole history: two a week, reported by one provider.
pub(super) const CLICKS: i64 = 2 * WEEKS;

/// The provider through which the newsletter goes.
const NEWSLETTER: &str = "sendgrid";

/// Minutes.
const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;

/// Returns what a provider reports about her. The newsletter arrives in the mornings and waits until she reads mail in the
/// evening; the other providers report one message each, so that every plugin has something to do.
pub(super) fn history(provider: &str, now: Timestamp) -> Vec<Action> {
    if provider == NEWSLETTER {
        newsletter(now)
    } else {
        one_message(provider, now)
    }
}

/// Returns newsletters delivered on Tuesdays and Thursdays at 9:00 and clicked at about 19:40 of the same day.
fn newsletter(now: Timestamp) -> Vec<Action> {
    let monday = now.plus_millis(-grid::week_offset_ms(now));
    let mut actions = Vec::new();
    for week in 1..=WEEKS {
        for (issue, day) in [1, 3].into_iter().enumerate() {
            let morning = (day - 7 * week) * DAY + 9 * HOUR;
            // Between 19:20 and 20:00, a little different every time.
            let evening = morning + 10 * HOUR + 20 + (week * 7 + day * 3) % 40;
            let message = format!("newsletter-{week}-{issue}");
            for (kind, minute) in [
                (Kind::Delivered, morning),
                (Kind::Opened, evening - 1),
                (Kind::Clicked, evening),
            ] {
                actions.push(action(
                    kind,
                    monday.plus_millis(minute * grid::MINUTE_MS),
                    message.clone(),
                ));
            }
        }
    }
    actions
}

/// Returns a message delivered in the morning of the day before yesterday, and opened and clicked that evening.
fn one_message(provider: &str, now: Timestamp) -> Vec<Action> {
    let message = format!("{provider}-message");
    let midnight =
        now.plus_millis(-now.as_millis().rem_euclid(DAY * grid::MINUTE_MS) - 2 * DAY * grid::MINUTE_MS);
    let at = |minute: i64| midnight.plus_millis(minute * grid::MINUTE_MS);
    let evening = 19 * HOUR + 30;
    [
        (Kind::Delivered, 9 * HOUR),
        (Kind::Opened, evening),
        (Kind::Clicked, evening + 1),
    ]
    .map(|(kind, minute)| action(kind, at(minute), message.clone()))
    .to_vec()
}

fn action(kind: Kind, at: Timestamp, message: String) -> Action {
    Action {
        kind,
        at,
        email: EMAIL.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newsletter_is_clicked_in_the_evening_and_never_in_the_future() {
        let now: Timestamp = "2026-01-07T08:00:00Z".parse().unwrap();
        let actions = newsletter(now);
        let clicks: Vec<_> = actions
            .iter()
            .filter(|action| action.kind == Kind::Clicked)
            .collect();
        assert_eq!(clicks.len() as i64, CLICKS);
        for click in clicks {
            let minute = grid::slot(click.at) % 1440;
            assert!((19 * 60 + 20..20 * 60).contains(&minute), "{}", click.at);
            assert!(click.at < now);
        }
    }
}
