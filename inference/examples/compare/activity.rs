//! The comparison on real activity times, without deliveries.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use event::{Event, EventType, Hasher, Timestamp, UniversalId, grid::HOUR_MS, profile::Profile};
use flate2::read::MultiGzDecoder;
use sendflowr_inference::model::{Curve, Population, TrainingPerson};
use sendflowr_inference::rivals::{self, Policy, choose, hour_of_day};

use crate::{SIZE_NAMES, SIZES};

/// A person's times before and after the cut.
struct Person {
    id: UniversalId,
    cut: Timestamp,
    history: Vec<Timestamp>,
    future: Vec<Timestamp>,
}

impl Person {
    fn profile(&self, template: &Event, with_future: bool) -> Profile {
        let mut profile = Profile::default();
        let future: &[Timestamp] = if with_future { &self.future } else { &[] };
        for timestamp in self.history.iter().chain(future) {
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

    fn training(&self, template: &Event, with_future: bool) -> TrainingPerson {
        TrainingPerson {
            id: self.id.clone(),
            profile: self.profile(template, with_future),
        }
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

/// Fits the tables that ship with the product and writes them.
///
/// The information on where people live is halved: half of the weight of each shape is spread over all shifts, and half
/// of the pooled response is flat, because another audience lives elsewhere.
pub(crate) fn write_builtin(folder: &Path, file: &Path) {
    let people = read(folder);
    let template = template(people[0].cut);
    let end = people
        .iter()
        .flat_map(|person| person.future.last())
        .max()
        .expect("there is a future");
    let train = people.iter().map(|person| person.training(&template, true));
    let population = Population::plain().refit(train, *end).expect("there are events");
    let mut tables = serde_json::to_value(&population).expect("tables are numbers");
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
    // Four digits are more than the data can support.
    round(&mut tables);
    std::fs::write(file, tables.to_string() + "\n").expect("the file can be written");
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

pub(crate) fn compare(folder: &Path) {
    let people = read(folder);
    let template = template(people[0].cut);
    let mut table: Vec<Scores> = Vec::new();
    let mut outcomes: Vec<(f64, f64)> = Vec::new();
    for fold in 0..2 {
        let (training, held_back): (Vec<_>, Vec<_>) = people
            .iter()
            .enumerate()
            .partition(|(index, _)| index % 2 == fold);
        let end = people
            .iter()
            .flat_map(|person| person.future.last())
            .max()
            .expect("there is a future");
        // Decisions for the held-back people are made before the other people's last weeks, so these weeks are not learned from.
        let train = training
            .iter()
            .map(|(_, person)| person.training(&template, false));
        let population = Population::plain().refit(train, *end).expect("there are events");
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
    print_table(&table);
    crate::print_calibration(&outcomes);
}

fn score_person(
    person: &Person,
    template: &Event,
    population: &Population,
    hours: &[f64; 24],
    table: &mut Vec<Scores>,
    outcomes: &mut Vec<(f64, f64)>,
) {
    let curve = population.curve(Some(&person.profile(template, false)), person.cut);
    let nobody = population.curve(None, person.cut);
    let bits_of = |density: &dyn Fn(Timestamp) -> f64| -> Option<f64> {
        let bits: Vec<f64> = person
            .future
            .iter()
            .map(|time| density(*time).max(1e-9).log2().max(-10.0))
            .collect();
        Some(bits.iter().sum::<f64>() / bits.len() as f64)
    };
    let curve_density = |curve: &Curve, at: Timestamp| curve.density(at) * event::grid::SLOTS as f64;
    let smoothed_hour = rivals::hour_density(&person.history);
    let kernel = rivals::fresh_kernel(&person.history, person.cut);
    let policies: Vec<(&'static str, Policy<'_>, Option<f64>)> = vec![
        ("send now (uniform)", rivals::send_now(), Some(0.0)),
        (
            "best hour",
            rivals::best_hour(&person.history, hours),
            bits_of(&smoothed_hour),
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

fn print_table(table: &[Scores]) {
    println!("\nreal activity times, {} people", table[0].bits.len());
    println!(
        "{:<30} {:>6} {:>7} {:>7} {:>8} {:>8}   bits by history size: {}",
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
        let bits: Vec<f64> = scores.bits.iter().flatten().copied().collect();
        print!(
            "{:<30} {:>6.3} ",
            scores.name,
            bits.iter().sum::<f64>() / bits.len() as f64
        );
        for window in 0..2 {
            print!(
                "{:>7.3} {:>7.3} ",
                ratio(&scores.hits[window], &scores.windows[window]),
                ratio(&scores.near[window], &scores.windows[window])
            );
        }
        for size in 0..SIZES.len() {
            let of_size: Vec<f64> = bits
                .iter()
                .zip(&scores.sizes)
                .filter(|(_, other)| **other == size)
                .map(|(bits, _)| *bits)
                .collect();
            print!("  {:.3}", of_size.iter().sum::<f64>() / of_size.len() as f64);
        }
        println!();
    }
    let ours = table.last().expect("ours is last");
    for rival in &table[..table.len() - 1] {
        let bits = interval(ours.bits.len(), |picked| {
            picked
                .iter()
                .map(|person| ours.bits[*person].unwrap_or(0.0) - rival.bits[*person].unwrap_or(0.0))
                .sum::<f64>()
                / picked.len() as f64
        });
        let hits = interval(ours.bits.len(), |picked| {
            let sum = |values: &[f64]| picked.iter().map(|person| values[*person]).sum::<f64>();
            (sum(&ours.hits[0]) - sum(&rival.hits[0])) / sum(&ours.windows[0])
        });
        println!(
            "ours over {:<30} bits [{:.3}, {:.3}]  hit2h24 [{:.3}, {:.3}]",
            rival.name, bits.0, bits.1, hits.0, hits.1
        );
    }
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
