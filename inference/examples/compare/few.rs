//! What tables fitted to few people are worth to strangers: the measurement behind the weight of the built-in tables in a fit.
//!
//! On real activity times. A third of the people make the tables that a fit starts from, as the built-in ones are made; of
//! another third a few people are learned from, and the rest are strangers, of whom nothing is known. Both come from anywhere,
//! or from a quarter of the day: people whose acts are centred within three hours of the same hour, as in one region.

use std::f64::consts::TAU;

use event::{Event, Timestamp, grid};
use sendflowr_inference::model::Population;

use crate::activity::{Person, spread};

/// Numbers of people who are learned from.
const SIZES: [usize; 7] = [0, 1, 5, 20, 100, 400, 800];

/// Divisions of the people into three parts, each drawn anew. The part of the day of a region differs from draw to draw.
const DRAWS: usize = 6;

/// Everybody's last act, the last three, all.
const LASTS: [usize; 3] = [1, 3, usize::MAX];

pub(crate) fn compare(people: &[Person], template: &Event, end: Timestamp) {
    println!(
        "\nbits per act of strangers, where tables are fitted to few people ({DRAWS} draws; the worst change)"
    );
    println!("{:<24} {}", "", SIZES.map(|size| format!("{size:>15}")).join(""));
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bits = vec![[const { Vec::new() }; SIZES.len()]; 2 * LASTS.len()];
    for draw in 0..DRAWS {
        let mut drawn: Vec<&Person> = people.iter().collect();
        for place in (1..drawn.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            drawn.swap(place, (state % (place as u64 + 1)) as usize);
        }
        let (elsewhere, here) = drawn.split_at(drawn.len() / 3);
        let train = elsewhere
            .iter()
            .map(|person| person.training(template, usize::MAX, false));
        let fitted = Population::plain().refit(train, end).expect("there are events");
        let start: Population = serde_json::from_value(spread(&fitted)).expect("they remain whole");
        let hour = (24 * draw / DRAWS) as f64;
        let near = |person: &&&Person| centre(&person.history).is_some_and(|at| apart(at, hour) < 3.0);
        let region: Vec<&Person> = here.iter().filter(near).copied().collect();
        for (audience, audience_bits) in [here, &region].into_iter().zip(bits.chunks_mut(LASTS.len())) {
            let (known, strangers) = audience.split_at(audience.len() / 2);
            for (last, row) in LASTS.into_iter().zip(audience_bits) {
                for (size, cell) in SIZES.into_iter().zip(row) {
                    let few = known
                        .iter()
                        .filter(|person| !person.history.is_empty())
                        .take(size);
                    let few = few.map(|person| person.training(template, last, false));
                    let tables = start.refit(few, end).unwrap_or_else(|| start.clone());
                    cell.push(bits_of_strangers(&tables, strangers, end));
                }
            }
        }
    }
    let names = ["anywhere", "one region"].into_iter().flat_map(|audience| {
        ["last act", "last 3 acts", "all acts"].map(|last| format!("{audience}, {last}"))
    });
    for (name, row) in names.zip(&bits) {
        print!("{name:<24} ");
        for cell in row {
            let mean = cell.iter().sum::<f64>() / DRAWS as f64;
            let changes = cell.iter().zip(&row[0]).map(|(bits, before)| bits - before);
            print!("  {mean:.3} ({:+.3})", changes.fold(f64::MAX, f64::min));
        }
        println!();
    }
}

fn bits_of_strangers(tables: &Population, strangers: &[&Person], now: Timestamp) -> f64 {
    let curve = tables.curve(None, now);
    let of = |person: &&Person| person.bits(&|at| curve.density(at) * grid::SLOTS as f64);
    strangers.iter().map(of).sum::<f64>() / strangers.len() as f64
}

/// Returns the hour of the day around which these moments lie.
fn centre(times: &[Timestamp]) -> Option<f64> {
    let (mut x, mut y) = (0.0, 0.0);
    for time in times {
        let angle = (grid::slot(*time) % 1_440) as f64 / 1_440.0 * TAU;
        x += angle.cos();
        y += angle.sin();
    }
    (!times.is_empty()).then(|| y.atan2(x) / TAU * 24.0)
}

/// Returns how many hours lie between two hours of the day.
fn apart(a: f64, b: f64) -> f64 {
    ((a - b + 12.0).rem_euclid(24.0) - 12.0).abs()
}
