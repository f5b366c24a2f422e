//! The comparison on simulated people: the share of the best possible gain over a random minute.

use consumer::{ConsumerConfig, MachineFilter};
use event::{
    Event, EventType, Hasher, Timestamp,
    profile::{History, Profile},
};
use sendflowr_inference::model::{Population, TrainingPerson};
use sendflowr_inference::rivals::{self, MinuteScores, choose, hour_of_day};
use synth::{Simulated, Truth, World};

use crate::{SIZE_NAMES, SIZES};

const WINDOWS_HOURS: [i64; 2] = [24, 168];

/// Share of the best possible gain that the model must reach.
const LEAST_SHARE: f64 = 0.40;

/// Events within this time reach the consumer in one batch, as for offline decisions: providers post every few seconds.
const BATCH_MS: i64 = 2_000;

struct Subject {
    profile: Profile,
    history: History,
    truth: Truth,
    clicks: usize,
}

/// Gains of a policy and of the best choice over a random minute, by window and history size.
#[derive(Default, Clone)]
struct Gains {
    name: String,
    gained: [[f64; SIZES.len()]; 2],
    possible: [[f64; SIZES.len()]; 2],
    worse_than_random: usize,
    choices: usize,
}

impl Gains {
    /// The share of the best possible gain in a window.
    fn share(&self, window: usize) -> f64 {
        self.gained[window].iter().sum::<f64>() / self.possible[window].iter().sum::<f64>()
    }
}

/// Prints the comparison and returns the targets that were missed.
pub(crate) fn compare(people: usize, seeds: &[u64]) -> Vec<String> {
    let mut table: Vec<Gains> = Vec::new();
    let mut confidences = Vec::new();
    for seed in seeds {
        compare_world(people, *seed, &mut table, &mut confidences);
    }
    println!("\nsimulated people, mail at the brand's hours: share of the best gain over a random minute");
    print!("{:<44} {:>6} {:>6} {:>7} ", "policy", "24 h", "168 h", "worse");
    println!("{}", SIZE_NAMES.map(|name| format!("{name:>6}")).join(" "));
    for gains in &table {
        print!(
            "{:<44} {:>6.2} {:>6.2} ",
            gains.name,
            gains.share(0),
            gains.share(1)
        );
        print!(
            "{:>6.0}% ",
            100.0 * gains.worse_than_random as f64 / gains.choices as f64
        );
        for size in 0..SIZES.len() {
            let of = |window: usize| gains.gained[window][size] / gains.possible[window][size];
            print!("{:>6.2} ", (of(0) + of(1)) / 2.0);
        }
        println!();
    }
    crate::print_calibration(&confidences);
    let (ours, others) = table.split_last().expect("ours is last");
    // The model's own variants and what nobody can know are no rivals.
    let rivals = || {
        others
            .iter()
            .filter(|gains| !gains.name.contains("ours") && !gains.name.contains("were it known"))
    };
    let mut missed = Vec::new();
    for (window, hours) in WINDOWS_HOURS.into_iter().enumerate() {
        let share = ours.share(window);
        if share < LEAST_SHARE {
            missed.push(format!(
                "{share:.2} of {LEAST_SHARE} of the best gain in {hours} h"
            ));
        }
        for rival in rivals().filter(|rival| rival.share(window) > share) {
            missed.push(format!("worse than `{}` in {hours} h", rival.name));
        }
    }
    missed
}

/// Returns the true probability that a confidence estimates: the share of the person's activity in the window, or to
/// the end of the span if that is later, that falls into the span after the chosen minute.
fn true_confidence(truth: &Truth, chosen: Timestamp, span_ms: i64, start: Timestamp, hours: i64) -> f64 {
    let activity = |from: Timestamp, to: Timestamp| -> f64 {
        let quarters = to.millis_since(from) / 900_000;
        (0..quarters)
            .map(|quarter| truth.activity(from.plus_millis(quarter * 900_000)))
            .sum()
    };
    let end = chosen.plus_millis(span_ms);
    activity(chosen, end) / activity(start, end.max(start.plus_millis(hours * 3_600_000)))
}

fn compare_world(people: usize, seed: u64, table: &mut Vec<Gains>, confidences: &mut Vec<(f64, f64)>) {
    let now: Timestamp = "2026-06-01T12:00:00Z".parse().expect("a moment");
    let world = World::new(seed, people, now);
    let subject = |(index, profile): (usize, Profile)| {
        let history = profile.history(now);
        let clicks = history
            .mails
            .iter()
            .filter(|mail| mail.clicked_at.is_some())
            .count();
        Subject {
            profile,
            history,
            truth: world.truth(index, now),
            clicks,
        }
    };
    let subjects: Vec<Subject> = profiles(&world).into_iter().enumerate().map(subject).collect();
    let train = || {
        subjects
            .iter()
            .enumerate()
            .map(|(index, subject)| TrainingPerson {
                id: crate::person_id(&index.to_string()),
                profile: subject.profile.clone(),
            })
    };

    let started = std::time::Instant::now();
    let fitted = Population::fit(train(), now).expect("there are events");
    println!(
        "seed {seed}: {people} people, {} events, fitted in {:.1?}",
        fitted.events(),
        started.elapsed()
    );
    let builtin = Population::builtin();

    let clicks_of = |subject: &Subject| -> Vec<Timestamp> {
        subject
            .history
            .mails
            .iter()
            .filter_map(|mail| mail.clicked_at)
            .collect()
    };
    let opens_of = |subject: &Subject| -> Vec<Timestamp> {
        subject
            .history
            .mails
            .iter()
            .filter_map(|mail| mail.opened_at)
            .collect()
    };
    let hours = |times: &dyn Fn(&Subject) -> Vec<Timestamp>| -> [f64; 24] {
        let mut hours = [0.0; 24];
        subjects
            .iter()
            .flat_map(times)
            .for_each(|time| hours[hour_of_day(time)] += 1.0);
        hours
    };
    let (all_clicks, all_opens) = (hours(&clicks_of), hours(&opens_of));
    let (mut clicked, mut sent) = ([1.0; 12], [20.0; 12]);
    for mail in subjects.iter().flat_map(|subject| &subject.history.mails) {
        sent[hour_of_day(mail.delivered_at) / 2] += 1.0;
        clicked[hour_of_day(mail.delivered_at) / 2] += f64::from(u8::from(mail.clicked_at.is_some()));
    }
    let slots: [f64; 12] = std::array::from_fn(|slot| clicked[slot] / sent[slot]);
    let usual = world.usual_slot();

    type Make<'a> = Box<dyn Fn(&Subject, &mut dyn FnMut(&MinuteScores<'_>)) + 'a>;
    let average = |at: Timestamp| {
        subjects
            .iter()
            .map(|subject| subject.truth.response(at))
            .sum::<f64>()
    };
    let averages: Vec<f64> = (0..672)
        .map(|quarter| average(now.plus_millis(quarter * 900_000)))
        .collect();
    let best_single = move |at: Timestamp| averages[(at.millis_since(now) / 900_000 % 672) as usize];
    let policies: Vec<(&str, Make<'_>)> = vec![
        ("send now", Box::new(|_, score| score(&rivals::send_now()))),
        (
            "brand's usual hour",
            Box::new(|_, score| score(&rivals::usual_hour(usual))),
        ),
        (
            "best hour of opens",
            Box::new(|s, score| score(&rivals::best_hour(&opens_of(s), &all_opens))),
        ),
        (
            "best hour of clicks",
            Box::new(|s, score| score(&rivals::best_hour(&clicks_of(s), &all_clicks))),
        ),
        (
            "two-hour slots, clicks per mail",
            Box::new(|s, score| score(&rivals::two_hour_slots(&s.history, &slots))),
        ),
        (
            "fresh kernel (60 min, 72 h)",
            Box::new(|s, score| score(&rivals::fresh_kernel(&clicks_of(s), now))),
        ),
        (
            "ours, one curve for all",
            Box::new(|_, score| score(&rivals::curve(&fitted.curve(None, now)))),
        ),
        (
            "the best single curve, were it known",
            Box::new(|_, score| score(&(Box::new(&best_single) as MinuteScores<'_>))),
        ),
        (
            "ours, exposure left out",
            Box::new(|s, score| {
                score(&rivals::curve(
                    &fitted.curve(Some(&without_deliveries(s, now)), now),
                ));
            }),
        ),
        (
            "ours, built-in tables",
            Box::new(|s, score| score(&rivals::curve(&builtin.curve(Some(&s.profile), now)))),
        ),
        (
            "ours",
            Box::new(|s, score| score(&rivals::curve(&fitted.curve(Some(&s.profile), now)))),
        ),
    ];
    for (index, subject) in subjects.iter().enumerate() {
        let start = now.plus_millis((index as i64 * 37 % 168) * 3_600_000);
        let curve = fitted.curve(Some(&subject.profile), now);
        for hours in WINDOWS_HOURS {
            let window = [start..start.plus_millis(hours * 3_600_000)];
            let chosen = curve.best(&window).expect("the window is not empty").at;
            let truth = true_confidence(&subject.truth, chosen, curve.span_ms(), start, hours);
            confidences.push((curve.confidence(chosen, &window), truth));
        }
        if index == 0 {
            println!(
                "the span of the confidence is {:.0} h",
                curve.span_ms() as f64 / 3_600_000.0
            );
        }
    }
    for (row, (name, make)) in policies.iter().enumerate() {
        if table.len() <= row {
            table.push(Gains {
                name: (*name).to_owned(),
                ..Gains::default()
            });
        }
        let gains = &mut table[row];
        for (index, subject) in subjects.iter().enumerate() {
            // Decisions are spread over all hours of the week.
            let start = now.plus_millis((index as i64 * 37 % 168) * 3_600_000);
            let size = SIZES
                .iter()
                .position(|(from, to)| (*from..*to).contains(&subject.clicks))
                .expect("sizes cover all");
            make(subject, &mut |policy| {
                for (window, hours) in WINDOWS_HOURS.into_iter().enumerate() {
                    let chosen = subject.truth.response(choose(policy, start, hours));
                    let responses = (0..hours * 4)
                        .map(|quarter| subject.truth.response(start.plus_millis(quarter * 900_000)));
                    let (sum, best) = responses.fold((0.0, 0.0_f64), |(sum, best), response| {
                        (sum + response, best.max(response))
                    });
                    let mean = sum / (hours * 4) as f64;
                    gains.gained[window][size] += chosen - mean;
                    gains.possible[window][size] += best - mean;
                    gains.worse_than_random += usize::from(chosen < mean);
                    gains.choices += 1;
                }
            });
        }
    }
}

/// Builds the profiles that the consumer would build from the people's events: all in chronological order, machines
/// identified by its filter. Prints how well the filter does.
fn profiles(world: &World) -> Vec<Profile> {
    let hasher = Hasher::new();
    let mut events: Vec<(usize, Simulated)> = (0..world.people())
        .flat_map(|index| {
            let events = world.events(index, &hasher);
            events.into_iter().map(move |simulated| (index, simulated))
        })
        .collect();
    events.sort_by(|(_, a), (_, b)| {
        (a.event.timestamp, &a.event.event_id).cmp(&(b.event.timestamp, &b.event.event_id))
    });
    let mut filter = MachineFilter::new(&ConsumerConfig::default());
    let mut profiles = vec![Profile::default(); world.people()];
    let (mut right, mut stated, mut true_ones) = (0.0, 0.0, 0.0);
    for batch in events.chunk_by(|(_, a), (_, b)| slot(a) == slot(b)) {
        let judged: Vec<Event> = batch
            .iter()
            .map(|(_, simulated)| simulated.event.clone())
            .collect();
        for ((person, simulated), machine) in batch.iter().zip(filter.judge(&judged)) {
            profiles[*person].apply(&simulated.event, machine);
            if simulated.event.event_type == EventType::Clicked {
                right += f64::from(u8::from(machine && simulated.machine));
                stated += f64::from(u8::from(machine));
                true_ones += f64::from(u8::from(simulated.machine));
            }
        }
    }
    println!(
        "clicks by machines, {true_ones} in all: precision {:.3}, recall {:.3}",
        right / stated,
        right / true_ones
    );
    profiles
}

/// Events of one slot reach the consumer together.
fn slot(simulated: &Simulated) -> i64 {
    simulated.event.timestamp.as_millis().div_euclid(BATCH_MS)
}

/// Returns the same clicks and opens without deliveries.
fn without_deliveries(subject: &Subject, now: Timestamp) -> Profile {
    let mut profile = Profile::default();
    let template = synth::mock_events(1, 1, now, &Hasher::new()).remove(0);
    for mail in &subject.history.mails {
        for (at, event_type) in [
            (mail.opened_at, event::EventType::Opened),
            (mail.clicked_at, event::EventType::Clicked),
        ] {
            if let Some(timestamp) = at {
                let event = event::Event {
                    timestamp,
                    event_type,
                    message_id: None,
                    ..template.clone()
                };
                profile.apply(&event, false);
            }
        }
    }
    profile
}
