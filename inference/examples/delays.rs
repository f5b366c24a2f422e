//! Compares the table of delays with a gradient-boosted model, and prints the tables that the documentation quotes.
//!
//! ```text
//! cargo run -p sendflowr-inference --release --example delays -- [--mails 60000] [--seeds 1,2,3]
//! ```
//!
//! The mail is simulated, with known delays (`synth::delays`). Every contestant learns from mail of one half of the people
//! in the first three quarters of the time, and is scored on mail of the other half in the last quarter: pinball loss at
//! the requested quantile, the median absolute error, and how much of the mail arrives within the expected delay.

#![allow(clippy::print_stdout, reason = "a command's output")]

use std::time::Duration;

use event::{MailboxProvider, Timestamp, grid};
use gbdt::{
    config::Config,
    decision_tree::{Data, DataVec},
    gradient_boost::GBDT,
};
use sendflowr_inference::{InferenceConfig, LatencyConfig, LatencyContext, LatencyModel};
use store::events::LatencySample;
use synth::Delay;

/// Number of mails to learn from, the newest of the training time: a provider's first day, a month of a small sender, all.
const SIZES: [usize; 3] = [300, 3_000, usize::MAX];

const QUANTILES: [f64; 2] = [0.5, 0.9];

/// Monday 2026-01-05T00:00:00Z.
const END_MS: i64 = 1_767_571_200_000;

const WEEKS: u32 = 4;

fn main() {
    let (mut mails, mut seeds) = (60_000_usize, vec![1_u64, 2, 3]);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .unwrap_or_else(|| panic!("`{name}` needs a value"));
        match name.as_str() {
            "--mails" => mails = value.parse().expect("`--mails` is a number"),
            "--seeds" => {
                let numbers = value
                    .split(',')
                    .map(|seed| seed.parse().expect("`--seeds` are numbers"));
                seeds = numbers.collect();
            }
            _ => panic!("unknown option `{name}`"),
        }
    }
    let end = Timestamp::from_millis_clamped(END_MS);
    let worlds: Vec<Vec<Delay>> = seeds
        .iter()
        .map(|seed| synth::delays(*seed, mails, mails / 10, WEEKS, end))
        .collect();
    println!("{mails} mails, seeds {seeds:?}; pinball loss and error in seconds, smaller is better");
    for quantile in QUANTILES {
        for size in SIZES {
            compare(&worlds, quantile, size);
        }
    }
}

/// What a contestant has learned: a function from a mail to its delay in milliseconds.
type Predict = Box<dyn Fn(&Delay) -> f64>;

/// Learns the quantile from delays.
type Learn = fn(&[Delay], f64) -> Predict;

fn compare(worlds: &[Vec<Delay>], quantile: f64, size: usize) {
    let contestants: [(&str, Learn); 6] = [
        ("one delay for all", constant),
        ("table", table),
        ("table, queue and campaign", table_with_queue_and_campaign),
        ("table, queue, campaign, type and size", table_with_all),
        ("gradient boosting, the table's inputs", boosted),
        ("gradient boosting, all that is told", boosted_with_all),
    ];
    let mut learned = 0;
    let mut scores = vec![Score::default(); contestants.len() + 1];
    for world in worlds {
        let (train, test) = split(world, size);
        learned += train.len() / worlds.len();
        for ((_, learn), score) in contestants.iter().zip(&mut scores) {
            let predict = learn(&train, quantile);
            score.add(&test, quantile, &*predict);
        }
        // The truth: the median that the simulation knows, times the quantile of the noise.
        let noise: Vec<f64> = test
            .iter()
            .map(|mail| mail.latency_ms as f64 / mail.median_ms)
            .collect();
        let factor = quantile_of(noise, quantile);
        let last = scores.last_mut().expect("there is one more than contestants");
        last.add(&test, quantile, &|mail| mail.median_ms * factor);
    }
    println!("\nquantile {quantile}, learned from {learned} mails");
    println!("| | pinball | median error | within |\n|---|---|---|---|");
    let names = contestants.iter().map(|(name, _)| *name).chain(["the truth"]);
    for (name, score) in names.zip(&mut scores) {
        println!("| {name} | {} |", score.row());
    }
}

/// Splits into mail to learn from and mail to be scored on: of other people, and later.
fn split(world: &[Delay], size: usize) -> (Vec<Delay>, Vec<Delay>) {
    let from = world.len() * 3 / 4;
    let half = |mails: &[Delay], parity: usize| -> Vec<Delay> {
        let of_half = mails.iter().filter(|mail| mail.person % 2 == parity).cloned();
        // Each half sees half of the queue.
        let seen = of_half.map(|mail| Delay {
            queue_depth: mail.queue_depth / 2,
            ..mail
        });
        seen.collect()
    };
    let mut train = half(&world[..from], 0);
    train.drain(..train.len().saturating_sub(size));
    (train, half(&world[from..], 1))
}

fn constant(train: &[Delay], quantile: f64) -> Predict {
    let delay = quantile_of(
        train.iter().map(|mail| mail.latency_ms as f64).collect(),
        quantile,
    );
    Box::new(move |_| delay)
}

fn table(train: &[Delay], quantile: f64) -> Predict {
    table_told(train, quantile, |_| LatencyContext::default())
}

fn table_with_queue_and_campaign(train: &[Delay], quantile: f64) -> Predict {
    table_told(train, quantile, |mail| LatencyContext {
        campaign_id: Some(&mail.campaign_id),
        queue_depth: Some(mail.queue_depth),
        ..LatencyContext::default()
    })
}

fn table_with_all(train: &[Delay], quantile: f64) -> Predict {
    table_told(train, quantile, |mail| LatencyContext {
        campaign_id: Some(&mail.campaign_id),
        campaign_type: Some(mail.campaign_type),
        payload_bytes: Some(mail.payload_bytes),
        queue_depth: Some(mail.queue_depth),
    })
}

/// Returns the table, given the fields of a mail that `told` returns.
fn table_told(train: &[Delay], quantile: f64, told: fn(&Delay) -> LatencyContext<'_>) -> Predict {
    let model = fitted(train, quantile);
    Box::new(move |mail| {
        let week = model.week(Some(mail.esp), Some(mail.mailbox), None, told(mail));
        week.handed_over_at(mail.sent_at).as_millis() as f64
    })
}

fn fitted(train: &[Delay], quantile: f64) -> LatencyModel {
    let identifier = event::Hasher::new().email_identifier("a@example.com");
    let person = event::UniversalId::from_identifier(&identifier.expect("it is an address"));
    let samples: Vec<LatencySample> = train
        .iter()
        .map(|mail| LatencySample {
            universal_id: person.clone(),
            esp: mail.esp.to_owned(),
            campaign_id: Some(mail.campaign_id.clone()),
            campaign_type: Some(mail.campaign_type.to_owned()),
            payload_bytes: Some(mail.payload_bytes),
            mailbox_provider: Some(mail.mailbox),
            delivered_at: mail.sent_at.plus_millis(mail.latency_ms),
            latency_ms: mail.latency_ms,
            stands_for: 1,
        })
        .collect();
    let config = LatencyConfig {
        quantile,
        default: Duration::from_secs(60),
        ..InferenceConfig::default().latency
    };
    LatencyModel::fit(config, &samples, Timestamp::from_millis_clamped(END_MS))
}

fn boosted(train: &[Delay], quantile: f64) -> Predict {
    boost(train, quantile, |mail| features(mail)[..5].to_vec())
}

fn boosted_with_all(train: &[Delay], quantile: f64) -> Predict {
    boost(train, quantile, |mail| features(mail).to_vec())
}

/// Provider, mailbox, day, hour, minute; queue, recurring campaign, type and size.
fn features(mail: &Delay) -> [f64; 9] {
    const PROVIDERS: [&str; 4] = ["sendgrid", "mailgun", "ses", "postmark"];
    const FLOWS: [&str; 4] = ["welcome", "receipt", "reminder", "reset"];
    const TYPES: [&str; 4] = ["newsletter", "promotion", "automation", "transactional"];
    let place = |names: &[&str], name: &str| {
        let place = names.iter().position(|own| *own == name);
        place.map_or(names.len() as f64, |place| place as f64)
    };
    let slot = grid::slot(mail.sent_at);
    let mailbox = MailboxProvider::ALL
        .iter()
        .position(|class| *class == mail.mailbox);
    [
        place(&PROVIDERS, mail.esp),
        mailbox.unwrap_or_default() as f64,
        (slot / 1_440) as f64,
        (slot / 60 % 24) as f64,
        (slot % 60) as f64,
        f64::from(mail.queue_depth).ln_1p(),
        place(&FLOWS, &mail.campaign_id),
        place(&TYPES, mail.campaign_type),
        f64::from(mail.payload_bytes).ln_1p(),
    ]
}

/// Trees for the median of the delay's logarithm (least absolute deviation), plus the quantile of their residuals on the
/// fifth of the mail that was left out of the fit.
fn boost(train: &[Delay], quantile: f64, features: impl Fn(&Delay) -> Vec<f64> + 'static) -> Predict {
    let row =
        move |mail: &Delay| -> Vec<f32> { features(mail).into_iter().map(|value| value as f32).collect() };
    let ln = |mail: &Delay| (mail.latency_ms as f64).max(100.0).ln();
    let mut config = Config::new();
    config.set_feature_size(row(&train[0]).len());
    config.set_loss("LAD");
    // Usual values for some ten thousand rows.
    config.set_iterations(200);
    config.set_shrinkage(0.1);
    config.set_max_depth(5);
    config.set_min_leaf_size(20.min(train.len() / 10));
    config.set_training_optimization_level(2);
    let is_left_out = |index: usize| index % 5 == 4;
    let mut fitted_to: DataVec = Vec::new();
    for (_, mail) in train.iter().enumerate().filter(|(index, _)| !is_left_out(*index)) {
        fitted_to.push(Data::new_training_data(row(mail), 1.0, ln(mail) as f32, None));
    }
    let mut trees = GBDT::new(&config);
    trees.fit(&mut fitted_to);
    let predict =
        move |mail: &Delay| f64::from(trees.predict(&vec![Data::new_test_data(row(mail), None)])[0]);
    let left_out = train.iter().enumerate().filter(|(index, _)| is_left_out(*index));
    let left_over = quantile_of(
        left_out.map(|(_, mail)| ln(mail) - predict(mail)).collect(),
        quantile,
    );
    Box::new(move |mail| (predict(mail) + left_over).exp())
}

#[derive(Debug, Clone, Default)]
struct Score {
    pinball: f64,
    errors: Vec<f64>,
    within: usize,
}

impl Score {
    fn add(&mut self, test: &[Delay], quantile: f64, predict: &dyn Fn(&Delay) -> f64) {
        for mail in test {
            let over_seconds = (mail.latency_ms as f64 - predict(mail)) / 1_000.0;
            self.pinball += (quantile * over_seconds).max((quantile - 1.0) * over_seconds);
            self.within += usize::from(over_seconds <= 0.0);
            self.errors.push(over_seconds.abs());
        }
    }

    fn row(&mut self) -> String {
        let mails = self.errors.len() as f64;
        let error = quantile_of(std::mem::take(&mut self.errors), 0.5);
        format!(
            "{:.2} | {error:.2} | {:.3}",
            self.pinball / mails,
            self.within as f64 / mails
        )
    }
}

fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[(quantile * (values.len() - 1) as f64) as usize]
}
