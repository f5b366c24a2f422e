//! Moments in people's past whose future is known: what the confidence and the presence are fitted to.
//!
//! Each person's last four weeks are held back; the curve is made from what came before a moment within them. Only people
//! without known deliveries are used: the acts of the others cluster where the sender sent, whatever the person prefers, and
//! they are decided for by the answers of a whole day.

use event::{Timestamp, grid::DAY_MS, profile::History};

use super::{Person, halvings, is_left};

use crate::{
    draw,
    model::{Curve, Population, exposure::act_times},
};

/// How long before a person's last act the held-back part begins.
const HELD_BACK_MS: i64 = 28 * DAY_MS;

/// Within how much of the held-back part the moment lies: a week of it is left to look at.
const SPREAD_MS: i64 = 21 * DAY_MS;

/// More people than this change the fitted values in the third digit only.
const MOST_PEOPLE: usize = 4_000;

/// A moment in a person's past.
pub(super) struct HeldBack {
    /// The moment.
    pub(super) cut: Timestamp,
    /// The person's curve, made from what happened up to then.
    pub(super) curve: Curve,
    /// The person's last act up to then, as a decision takes it.
    pub(super) last: Option<Timestamp>,
    /// When the person acted afterwards, oldest first, one act for each visit.
    pub(super) future: Vec<Timestamp>,
}

/// Returns a moment of every person who is used.
pub(super) fn moments(population: &Population, people: &[Person]) -> Vec<HeldBack> {
    let halvings = halvings(people, MOST_PEOPLE);
    let people = people.iter().filter(|person| is_left(person.draw, halvings));
    let moments = people.filter_map(|Person { draw, history }| {
        if !history.mails.is_empty() {
            return None;
        }
        let end = history.activities.last()?.at;
        // Anywhere in the first three of the four weeks, as drawn for the person: reproducible, and spread over all hours. Mixed
        // again, because whether a person is used depends on the number as well.
        let spread_ms = draw::fraction(draw::mix(*draw), SPREAD_MS as u64) as i64;
        let cut = end.plus_millis(-HELD_BACK_MS + spread_ms);
        let split = history.activities.partition_point(|activity| activity.at <= cut);
        // Where mail is known elsewhere, a person of whom nothing is known yet is decided for as the people with deliveries are.
        if split == 0 && population.tables.attention_learned {
            return None;
        }
        let known = History {
            activities: history.activities[..split].to_vec(),
            ..History::default()
        };
        let mut future = act_times(history);
        future.retain(|act| *act > cut);
        Some(HeldBack {
            cut,
            curve: population.curve_of(&known, cut),
            last: act_times(&known).last().copied(),
            future,
        })
    });
    moments.collect()
}

#[cfg(test)]
mod tests {
    use event::profile::{Activity, Mail};

    use super::*;

    /// Somebody who clicks twice in each visit, one visit a day.
    fn visitor() -> Person {
        let act = |minute: i64| Activity {
            at: Timestamp::from_millis_clamped(1_700_000_000_000 / DAY_MS * DAY_MS + minute * 60_000),
            strong: true,
        };
        let visits = (0..60).flat_map(|day| [day * 1_440 + 601, day * 1_440 + 629]);
        Person {
            draw: 1,
            history: History {
                activities: visits.map(act).collect(),
                ..History::default()
            },
        }
    }

    #[test]
    fn a_visit_is_one_act_that_begins_with_its_first_click() {
        let moments = moments(&Population::plain(), &[visitor()]);
        let [moment] = &moments[..] else {
            panic!("{} moments", moments.len())
        };
        let minute = |at: Timestamp| at.as_millis() / 60_000 % 1_440;
        assert_eq!(moment.last.map(minute), Some(601));
        assert!(moment.future.len() >= 7 && moment.future.iter().all(|act| minute(*act) == 601));
    }

    #[test]
    fn moments_are_of_people_who_are_decided_for_alike() {
        let mut population = Population::plain();
        let stranger = || {
            let mut person = visitor();
            // Everything within the four weeks that are held back, after every moment that may be drawn.
            let end = person.history.activities[119].at;
            let held_back = end.plus_millis(-HELD_BACK_MS + SPREAD_MS);
            person.history.activities.retain(|act| act.at > held_back);
            person
        };
        let count = |population: &Population, person| moments(population, &[person]).len();
        assert_eq!(count(&population, stranger()), 1);
        population.tables.attention_learned = true;
        assert_eq!(count(&population, stranger()), 0);
        assert_eq!(count(&population, visitor()), 1);
        let mut mailed = visitor();
        mailed.history.mails.push(Mail {
            delivered_at: mailed.history.activities[0].at,
            opened_at: None,
            clicked_at: None,
        });
        assert_eq!(count(&population, mailed), 0);
    }
}
