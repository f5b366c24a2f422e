//! How attention to a mail fades: clicks at each age, relative to the clicks expected there from when people act.

use event::Timestamp;

use super::{Person, halvings, is_left};

use crate::model::Population;
use crate::model::drift::LONG_DAYS;
use crate::model::exposure::{AGE_EDGES, AGES, Sums, is_clicked_in_time};
use crate::model::posterior::posterior;
use crate::model::tables::{Derived, Tables};
use crate::model::week::{BINS, bin_of, dot};

/// With fewer clicked mails, attention cannot be distinguished from chance.
const ENOUGH_CLICKS: usize = 200;

/// A person counts for at most this many clicks, so that nobody's attention becomes that of less than twenty people. Chosen, not
/// measured.
const MOST_CLICKS: usize = 10;

/// Weight, in clicks for each band, of the attention that the fit started from.
const PRIOR_CLICKS: f32 = 20.0;

/// More people than this change no band by a hundredth.
const MOST_PEOPLE: usize = 4_000;

/// Minutes over which attention is normalized, a day and a night: the level of engagement absorbs the rest.
const NORMAL_MINUTES: usize = 1_440;

/// Returns whether there are enough clicks on known mails to learn from.
pub(super) fn enough(people: &[Person]) -> bool {
    let clicked = people.iter().flat_map(|person| {
        let mails = person.history.mails.iter();
        mails.filter(|mail| is_clicked_in_time(mail)).take(MOST_CLICKS)
    });
    clicked.take(ENOUGH_CLICKS).count() == ENOUGH_CLICKS
}

/// Refits `tables.attention`, given the people's own weeks (`personal`) or the pooled one.
pub(super) fn refit(
    tables: &mut Tables,
    prior: &Population,
    people: &[Person],
    sums: &[Sums],
    now: Timestamp,
    personal: bool,
) {
    let derived = Derived::new(tables);
    let mut clicks = [PRIOR_CLICKS; AGES];
    let mut expected = [PRIOR_CLICKS; AGES];
    let bands = tables.attention_bands();
    let halvings = halvings(people, MOST_PEOPLE);
    for (Person { draw, history }, sums) in people.iter().zip(sums) {
        if !sums.clicks.exposed || !is_left(*draw, halvings) {
            continue;
        }
        let mut week = [0.0; BINS];
        if personal {
            week = posterior(tables, &derived, sums).week;
        } else {
            week.copy_from_slice(&tables.pooled);
        }
        let shape = tables.level_shape;
        let exposed = dot(&sums.clicks.exposure, &week);
        let level = (shape + sums.clicks.count) / (shape / tables.click_level + exposed);
        let clicked = history
            .mails
            .iter()
            .filter(|mail| is_clicked_in_time(mail))
            .count();
        let share = MOST_CLICKS as f32 / clicked.max(MOST_CLICKS) as f32;
        for mail in &history.mails {
            let age_days = now.millis_since(mail.delivered_at) as f32 / 86_400_000.0;
            let weight = share * (-age_days / LONG_DAYS).exp2();
            let minutes = mail.clicked_at.unwrap_or(now).millis_since(mail.delivered_at) / 60_000;
            let minutes = minutes.max(1) as usize;
            let (bin, minute) = bin_of(mail.delivered_at);
            for band in 0..AGES {
                let (from, to) = (AGE_EDGES[band], AGE_EDGES[band + 1].min(minutes));
                if from >= to {
                    break;
                }
                expected[band] += weight * level * bands[band] * activity(&week, bin * 60 + minute, from, to);
                // The click counts in the band where the exposure ends; at an edge, that is the band before it.
                if mail.clicked_at.is_some() && minutes <= AGE_EDGES[band + 1] {
                    clicks[band] += weight;
                }
            }
        }
    }
    let mut refitted: [f32; AGES] = std::array::from_fn(|band| bands[band] * clicks[band] / expected[band]);
    let day = |bands: &[f32]| -> f32 {
        let hours = AGE_EDGES
            .windows(2)
            .take_while(|edges| edges[1] <= NORMAL_MINUTES);
        hours
            .zip(bands)
            .map(|(edges, band)| (edges[1] - edges[0]) as f32 * band)
            .sum()
    };
    let scale = day(&prior.tables.attention) / day(&refitted);
    refitted.iter_mut().for_each(|band| *band *= scale);
    tables.attention = refitted.to_vec();
}

/// Returns the integral of a week's activity over the ages `from` to `to` (minutes) of a mail delivered at minute
/// `start` of the week, in hours.
fn activity(week: &[f32; BINS], start: usize, from: usize, to: usize) -> f32 {
    let (mut at, end) = (start + from, start + to);
    let mut sum = 0.0;
    while at < end {
        let hour_end = ((at / 60 + 1) * 60).min(end);
        sum += week[at / 60 % BINS] * (hour_end - at) as f32 / 60.0;
        at = hour_end;
    }
    sum
}

#[cfg(test)]
mod tests {
    use event::profile::{History, Mail};

    use super::*;

    #[test]
    fn many_clicks_of_few_people_are_not_enough() {
        let mail = Mail {
            delivered_at: Timestamp::from_millis_clamped(0),
            opened_at: None,
            clicked_at: Some(Timestamp::from_millis_clamped(60_000)),
        };
        let person = |draw| Person {
            draw,
            history: History {
                mails: vec![mail; 300],
                ..History::default()
            },
        };
        let people: Vec<Person> = (0..20).map(person).collect();
        assert!(enough(&people));
        assert!(!enough(&people[1..]));
    }

    /// Somebody with so many mails, one a day, each clicked after so many minutes.
    fn clicker(draw: u64, mails: i64, minutes: i64, now: Timestamp) -> Person {
        let mail = |day: i64| {
            let delivered_at = now.plus_millis(-day * 86_400_000);
            Mail {
                delivered_at,
                opened_at: None,
                clicked_at: Some(delivered_at.plus_millis(minutes * 60_000)),
            }
        };
        Person {
            draw,
            history: History {
                mails: (4..4 + mails).rev().map(mail).collect(),
                ..History::default()
            },
        }
    }

    #[test]
    fn nobodys_attention_becomes_that_of_one_person() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let prior = Population::builtin();
        let refitted = |clicks: i64| {
            let mut people: Vec<Person> = (0..19).map(|draw| clicker(draw, 10, 10, now)).collect();
            people.push(clicker(19, clicks, 200, now));
            let mut tables = prior.tables.clone();
            let sums = super::super::sums_of(&people, now, &Derived::new(&tables));
            refit(&mut tables, &prior, &people, &sums, now, false);
            tables.attention[4] / tables.attention[0]
        };
        // One who clicks twenty times as often counts no more for it.
        let (often, alike) = (refitted(190), refitted(10));
        assert!(often < 1.5 * alike, "{often} instead of {alike}");
    }

    #[test]
    fn clicks_that_come_too_late_teach_nothing() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let people =
            |minutes| -> Vec<Person> { (0..20).map(|draw| clicker(draw, 10, minutes, now)).collect() };
        assert!(enough(&people(72 * 60)));
        assert!(!enough(&people(72 * 60 + 1)));
    }

    #[test]
    fn a_click_at_an_edge_counts() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let prior = Population::builtin();
        for (band, edges) in AGE_EDGES.windows(2).enumerate() {
            let mail = |day: i64| {
                let delivered_at = now.plus_millis(-day * 86_400_000);
                Mail {
                    delivered_at,
                    opened_at: None,
                    clicked_at: Some(delivered_at.plus_millis(edges[1] as i64 * 60_000)),
                }
            };
            let people = [Person {
                draw: 0,
                history: History {
                    mails: (4..304).rev().map(mail).collect(),
                    ..History::default()
                },
            }];
            let mut tables = prior.tables.clone();
            let sums = super::super::sums_of(&people, now, &Derived::new(&tables));
            refit(&mut tables, &prior, &people, &sums, now, false);
            assert!(
                tables.attention[band] > prior.tables.attention[band],
                "{} minutes: {:?}",
                edges[1],
                tables.attention
            );
        }
    }
}
