//! The comparison on real activity times, without deliveries.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use event::{Event, EventType, Hasher, Timestamp, UniversalId, grid::HOUR_MS, profile::Profile};
use flate2::read::MultiGzDecoder;
use sendflowr_inference::model::{Curve, Population, TrainingPerson};
use sendflowr_inference::rivals::{self, MinuteScores, choose, hour_of_day};

use crate::{SIZE_NAMES, SIZES, few};

/// Bits per act that the model must reach on real activity.
const LEAST_BITS: f64 = 0.28;

/// A person's times before and after the cut.
pub(crate) struct Person {
    id: UniversalId,
    cut: Timestamp,
    pub(crate) history: Vec<Timestamp>,
    future: Vec<Timestamp>,
}

impl Person {
    /// The profile made of the last acts before the cut, at most `last`, and of those after it if `with_future`.
    fn profile(&self, template: &Event, last: usize, with_future: bool) -> Profile {
        let mut profile = Profile::default();
        let future: &[Timestamp] = if with_future { &self.future } else { &[] };
        let first = self.history.len().saturating_sub(last);
        for timestamp in self.history[first..].iter().chain(future) {
            profile.apply(
                &Event {
                    timestamp: *timestamp,
                    ..template.clone()
                },
                false,
            );
        }
        profile
    }

    pub(crate) fn training(&self, template: &Event, last: usize, with_future: bool) -> TrainingPerson {
        TrainingPerson {
            id: self.id.clone(),
            profile: self.profile(template, last, with_future),
        }
    }

    /// Bits per future act over a uniform week, each act at least -10.
    pub(crate) fn bits(&self, density: &dyn Fn(Timestamp) -> f64) -> f64 {
        let bits = self
            .future
            .iter()
            .map(|time| density(*time).max(1e-9).log2().max(-10.0));
        bits.sum::<f64>() / self.future.len() as f64
    }

    fn size(&self) -> usize {
        SIZES
            .iter()
            .position(|(from, to)| (*from..*to).contains(&self.history.len()))
            .expect("sizes cover all")
    }
}

fn rows(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let path = folder.join(name);
    let mut text = String::new();
    let file = File::open(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    MultiGzDecoder::new(file)
        .read_to_string(&mut text)
        .expect("gzipped text");
    text.lines()
        .skip(1)
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

fn seconds(text: &str) -> Timestamp {
    Timestamp::from_millis_clamped(text.parse::<i64>().expect("epoch seconds") * 1000)
}

fn read(folder: &Path) -> Vec<Person> {
    let mut people = BTreeMap::new();
    for row in rows(folder, "dev_users.csv.gz") {
        people.insert(
            row[0].clone(),
            Person {
                id: crate::person_id(&row[0]),
                cut: seconds(&row[1]),
                history: Vec::new(),
                future: Vec::new(),
            },
        );
    }
    for row in rows(folder, "dev_history.csv.gz") {
        people
            .get_mut(&row[0])
            .expect("a listed person")
            .history
            .push(seconds(&row[1]));
    }
    for row in rows(folder, "dev_future.csv.gz") {
        people
            .get_mut(&row[0])
            .expect("a listed person")
            .future
            .push(seconds(&row[1]));
    }
    people.into_values().collect()
}

/// When the last act of all was.
fn end_of(people: &[Person]) -> Timestamp {
    let last = people.iter().flat_map(|person| person.future.last()).max();
    *last.expect("there is a future")
}

/// Fits the tables that ship with the product and writes them.
pub(crate) fn write_builtin(folder: &Path, file: &Path) {
    let people = read(folder);
    let template = template(people[0].cut);
    let end = end_of(&people);
    let train = people
        .iter()
        .map(|person| person.training(&template, usize::MAX, true));
    let population = Population::plain().refit(train, end).expect("there are events");
    let mut tables = spread(&population);
    // Four digits are more than the data can support.
    round(&mut tables);
    std::fs::write(file, tables.to_string() + "\n").expect("the file can be written");
}

/// Halves what tables know of where people live: half of the weight of each shape is spread over all shifts, and half of the
/// pooled response becomes flat, because another audience lives elsewhere.
pub(crate) fn spread(population: &Population) -> serde_json::Value {
    let mut tables = serde_json::to_value(population).expect("tables are numbers");
    for weights in tables["weights"].as_array_mut().expect("a list of shapes") {
        let weights = weights.as_array_mut().expect("a list of shifts");
        let mean = weights.iter().filter_map(serde_json::Value::as_f64).sum::<f64>() / weights.len() as f64;
        for weight in weights {
            *weight = (0.5 * weight.as_f64().expect("a number") + 0.5 * mean).into();
        }
    }
    for value in tables["pooled"].as_array_mut().expect("a list of hours") {
        *value = (0.5 * value.as_f64().expect("a number") + 0.5).into();
    }
    tables
}

fn round(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(list) => list.iter_mut().for_each(round),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(round),
        serde_json::Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().expect("checked");
            let short: f64 = format!("{exact:.3e}")
                .parse()
                .expect("a number that was just written");
            *value = short.into();
        }
        _ => {}
    }
}

/// A click without a message.
fn template(at: Timestamp) -> Event {
    let event = synth::mock_events(1, 1, at, &Hasher::new()).remove(0);
    Event {
        event_type: EventType::Clicked,
        message_id: None,
        ..event
    }
}

/// The scores of a policy, person by person.
struct Scores {
    name: &'static str,
    /// Bits per future event over a uniform week.
    bits: Vec<Option<f64>>,
    /// Windows (24 h, 168 h) with an act in them, and those with one within two hours of the chosen minute.
    windows: [Vec<f64>; 2],
    hits: [Vec<f64>; 2],
    near: [Vec<f64>; 2],
    sizes: Vec<usize>,
}

/// Prints the comparison and returns the targets that were missed.
pub(crate) fn compare(folder: &Path) -> Vec<String> {
    let people = read(folder);
    let template = template(people[0].cut);
    let end = end_of(&people);
    let mut table: Vec<Scores> = Vec::new();
    let mut outcomes: Vec<(f64, f64)> = Vec::new();
    for fold in 0..2 {
        let (training, held_back): (Vec<_>, Vec<_>) = people
            .iter()
            .enumerate()
            .partition(|(index, _)| index % 2 == fold);
        // Decisions for the held-back people are made before the other people's last weeks, so these weeks are not learned from.
        let train = training
            .iter()
            .map(|(_, person)| person.training(&template, usize::MAX, false));
        let population = Population::plain().refit(train, end).expect("there are events");
        let mut hours = [0.0; 24];
        for (_, person) in &training {
            person
                .history
                .iter()
                .for_each(|time| hours[hour_of_day(*time)] += 1.0);
        }
        for (_, person) in held_back {
            score_person(person, &template, &population, &hours, &mut table, &mut outcomes);
        }
    }
    let missed = print_table(&table);
    crate::print_calibration(&outcomes);
    few::compare(&people, &template, end);
    missed
}

fn score_person(
    person: &Person,
    template: &Event,
    population: &Population,
    hours: &[f64; 24],
    table: &mut Vec<Scores>,
    outcomes: &mut Vec<(f64, f64)>,
) {
    let profile = person.profile(template, usize::MAX, false);
    let curve = population.curve(Some(&profile), person.cut);
    let nobody = population.curve(None, person.cut);
    let bits_of = |density: &dyn Fn(Timestamp) -> f64| Some(person.bits(density));
    let curve_density = |curve: &Curve, at: Timestamp| curve.density(at) * event::grid::SLOTS as f64;
    let smoothed_hour = rivals::hour_density(&person.history);
    let kernel = rivals::fresh_kernel(&person.history, person.cut);
    let all: f64 = hours.iter().sum();
    let slots = std::array::from_fn(|slot| (hours[2 * slot] + hours[2 * slot + 1]) / all);
    let past = profile.history(person.cut);
    let policies: Vec<(&'static str, MinuteScores<'_>, Option<f64>)> = vec![
        ("send now", rivals::send_now(), None),
        (
            "random minute",
            rivals::random_minute(table.first().map_or(0, |scores| scores.bits.len()) as u64),
            Some(0.0),
        ),
        (
            "best hour",
            rivals::best_hour(&person.history, hours),
            bits_of(&smoothed_hour),
        ),
        (
            "two-hour slots, clicks per mail",
            rivals::two_hour_slots(&past, &slots),
            None,
        ),
        (
            "fresh kernel (60 min, 72 h)",
            rivals::fresh_kernel(&person.history, person.cut),
            bits_of(&kernel),
        ),
        (
            "ours, one curve for all",
            rivals::curve(&nobody),
            bits_of(&|at| curve_density(&nobody, at)),
        ),
        (
            "ours",
            rivals::curve(&curve),
            bits_of(&|at| curve_density(&curve, at)),
        ),
    ];
    for (row, (name, policy, bits)) in policies.into_iter().enumerate() {
        if table.len() <= row {
            let empty = || [Vec::new(), Vec::new()];
            table.push(Scores {
                name,
                bits: Vec::new(),
                windows: empty(),
                hits: empty(),
                near: empty(),
                sizes: Vec::new(),
            });
        }
        let scores = &mut table[row];
        scores.bits.push(bits);
        scores.sizes.push(person.size());
        for (window, length) in [24, 168].into_iter().enumerate() {
            let (mut windows, mut hits, mut near) = (0.0, 0.0, 0.0);
            for week in 0..4 {
                let start = person.cut.plus_millis(week * 168 * HOUR_MS);
                let end = start.plus_millis(length * HOUR_MS);
                if !person.future.iter().any(|time| (start..end).contains(time)) {
                    continue;
                }
                let chosen = choose(&policy, start, length);
                let within = |from: i64, to: i64| {
                    let span = chosen.plus_millis(from)..chosen.plus_millis(to);
                    person.future.iter().any(|time| span.contains(time))
                };
                windows += 1.0;
                hits += f64::from(u8::from(within(0, 2 * HOUR_MS)));
                near += f64::from(u8::from(within(-HOUR_MS / 2, HOUR_MS / 2)));
                if name == "ours" {
                    let hit = f64::from(u8::from(within(0, curve.span_ms())));
                    outcomes.push((curve.confidence(chosen, std::slice::from_ref(&(start..end))), hit));
                }
            }
            scores.windows[window].push(windows);
            scores.hits[window].push(hits);
            scores.near[window].push(near);
        }
    }
}

/// Prints the table, and returns the targets that were missed.
fn print_table(table: &[Scores]) -> Vec<String> {
    println!("\nreal activity times, {} people", table[0].bits.len());
    println!(
        "{:<32} {:>6} {:>7} {:>7} {:>8} {:>8}   bits by history size: {}",
        "policy",
        "bits",
        "hit2h24",
        "hit30m",
        "hit2h168",
        "hit30m",
        SIZE_NAMES.join(", ")
    );
    for scores in table {
        let ratio = |part: &[f64], whole: &[f64]| part.iter().sum::<f64>() / whole.iter().sum::<f64>();
        // `-` where a policy states no density.
        let bits = |counts: &dyn Fn(usize) -> bool| {
            let people = scores.bits.iter().zip(&scores.sizes);
            let bits: Vec<f64> = people
                .filter(|(_, size)| counts(**size))
                .filter_map(|(bits, _)| *bits)
                .collect();
            match bits.len() {
                0 => format!("{:>6}", "-"),
                count => format!("{:>6.3}", bits.iter().sum::<f64>() / count as f64),
            }
        };
        print!("{:<32} {} ", scores.name, bits(&|_| true));
        for window in 0..2 {
            print!(
                "{:>7.3} {:>7.3} ",
                ratio(&scores.hits[window], &scores.windows[window]),
                ratio(&scores.near[window], &scores.windows[window])
            );
        }
        for size in 0..SIZES.len() {
            print!(" {}", bits(&|of| of == size));
        }
        println!();
    }
    let ours = table.last().expect("ours is last");
    let own_bits: Vec<f64> = ours.bits.iter().flatten().copied().collect();
    let mean = own_bits.iter().sum::<f64>() / own_bits.len() as f64;
    let mut missed = Vec::new();
    if mean < LEAST_BITS {
        missed.push(format!("{mean:.3} of {LEAST_BITS} bits on real activity"));
    }
    for rival in &table[..table.len() - 1] {
        let hits = |window: usize| {
            interval(ours.bits.len(), |picked| {
                let sum = |values: &[f64]| picked.iter().map(|person| values[*person]).sum::<f64>();
                (sum(&ours.hits[window]) - sum(&rival.hits[window])) / sum(&ours.windows[window])
            })
        };
        let mut leads = vec![("hit2h24", hits(0)), ("hit2h168", hits(1))];
        if rival.bits[0].is_some() {
            let lead = |person: usize| ours.bits[person].unwrap_or(0.0) - rival.bits[person].unwrap_or(0.0);
            let mean = |picked: &[usize]| {
                picked.iter().map(|person| lead(*person)).sum::<f64>() / picked.len() as f64
            };
            leads.insert(0, ("bits", interval(ours.bits.len(), mean)));
        }
        print!("ours over {:<32}", rival.name);
        for (what, (low, high)) in leads {
            print!(" {what} [{low:.3}, {high:.3}]");
            if high < 0.0 {
                missed.push(format!("worse than `{}` by {what}", rival.name));
            }
        }
        println!();
    }
    missed
}

/// A 95 % interval by bootstrap over people.
fn interval(people: usize, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut values: Vec<f64> = (0..400)
        .map(|_| {
            let picked: Vec<usize> = (0..people)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state % people as u64) as usize
                })
                .collect();
            statistic(&picked)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    (values[10], values[389])
}
