//! How long a provider takes from the trigger to the mailbox, learned from the delays that the consumer measured.
//!
//! A table: delays by provider, then by provider and mailbox class, then by these and part of the week. Each cell's
//! quantile is drawn towards that of the cell above it, the more the fewer samples it has; on a log scale, because delays
//! spread over four orders of magnitude. Quantiles, not means: one mail that hung for a day says nothing about the next.

use std::collections::BTreeMap;

use event::{MailboxProvider, Timestamp, grid};
use serde::Serialize;
use store::events::LatencySample;
use utoipa::ToSchema;

use crate::config::LatencyConfig;

/// Parts of the week: weekdays and weekend, six parts of four hours each. Queues follow the sender's day; finer bins would
/// leave most of them without data.
const BINS: usize = 12;

/// Samples that speak as loudly as the cell above. The error of a median of 20 is about a quarter of the spread: from there
/// on a cell knows more about itself than its provider at large does.
const PRIOR_SAMPLES: f64 = 20.0;

/// A provider with fewer samples counts as unknown, so that a caller's own estimate comes before a handful of test mails.
const MIN_SAMPLES: usize = 10;

/// Delays below this (clock differences make some negative) are taken as this, to have a logarithm.
const SHORTEST_MS: f64 = 100.0;

/// Longest expected delay: what takes longer than 12 h is an outage, not a delay to plan with.
const LONGEST_MS: f64 = 12.0 * 3_600_000.0;

/// Where an expected delay comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LatencySource {
    /// Learned from deliveries of this provider.
    Learned,
    /// Learned from deliveries of all providers, because the request names none or an unknown one.
    LearnedAcrossProviders,
    /// The caller's estimate.
    Caller,
    /// The configured default.
    Default,
}

/// The delay expected from trigger to arrival.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct ExpectedLatency {
    /// Seconds, to the millisecond.
    pub seconds: f64,
    /// Where it comes from.
    pub source: LatencySource,
    /// Deliveries that it was learned from.
    pub samples: usize,
}

impl ExpectedLatency {
    /// Milliseconds.
    pub(crate) fn as_millis(self) -> i64 {
        (self.seconds * 1_000.0).round() as i64
    }

    fn of_millis(ms: f64, source: LatencySource, samples: usize) -> Self {
        Self {
            seconds: ms.round() / 1_000.0,
            source,
            samples,
        }
    }
}

/// The delays expected of one provider and mailbox class over the week.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WeekOfLatency([ExpectedLatency; BINS]);

impl WeekOfLatency {
    /// The delay expected of a mail that arrives at `arrival`.
    pub(crate) fn arriving_at(&self, arrival: Timestamp) -> ExpectedLatency {
        self.0[bin(arrival)]
    }

    /// The longest of the week.
    pub(crate) fn longest_ms(&self) -> i64 {
        self.0
            .iter()
            .map(|expected| expected.as_millis())
            .max()
            .unwrap_or(0)
    }

    /// The same delay all week.
    pub(crate) fn constant(expected: ExpectedLatency) -> Self {
        Self([expected; BINS])
    }
}

fn bin(moment: Timestamp) -> usize {
    let slot = grid::slot(moment);
    let (day, hour) = (slot / 1_440, slot / 60 % 24);
    usize::from(day >= 5) * 6 + hour / 4
}

/// Delays of one cell and what they expect.
#[derive(Debug, Clone, PartialEq, Default)]
struct Cell {
    samples: usize,
    /// Logarithm of the expected delay in milliseconds, drawn towards the cell above.
    expected_ln: f64,
}

impl Cell {
    fn fit(delays_ln: &mut [f64], quantile_asked: f64, above: Option<&Self>) -> Self {
        delays_ln.sort_unstable_by(f64::total_cmp);
        let own = quantile(delays_ln, quantile_asked);
        let samples = delays_ln.len();
        let expected_ln = match (own, above) {
            (Some(own), Some(above)) => {
                let weight = samples as f64 / (samples as f64 + PRIOR_SAMPLES);
                weight * own + (1.0 - weight) * above.expected_ln
            }
            (Some(own), None) => own,
            (None, above) => above.map_or(0.0, |above| above.expected_ln),
        };
        Self { samples, expected_ln }
    }
}

/// One row of the table, as `GET /latency` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LatencyRow {
    /// Provider; `null` in the row of all providers.
    #[schema(example = "sendgrid")]
    pub esp: Option<String>,
    /// Class of the mailbox; `null` in rows of all classes.
    #[schema(example = "gmail")]
    pub mailbox_provider: Option<&'static str>,
    /// Deliveries.
    pub samples: usize,
    /// What a decision expects, at the configured quantile and drawn towards the row above.
    pub expected_seconds: f64,
    /// Median of the deliveries.
    pub p50_seconds: f64,
    /// 90 of 100 were faster.
    pub p90_seconds: f64,
    /// 99 of 100 were faster.
    pub p99_seconds: f64,
}

/// What was learned about delays.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LatencyModel {
    config: LatencyConfig,
    learned_at: Option<Timestamp>,
    all: Option<Cell>,
    by_esp: BTreeMap<String, EspCells>,
    rows: Vec<LatencyRow>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct EspCells {
    all: Cell,
    by_bin: [Cell; BINS],
    by_mailbox_and_bin: BTreeMap<MailboxProvider, [Cell; BINS]>,
}

/// Delays of one provider and mailbox class: part of the week, logarithm of the delay.
type Delays = Vec<(usize, f64)>;

impl LatencyModel {
    /// Knows nothing yet.
    pub(crate) fn empty(config: LatencyConfig) -> Self {
        Self {
            config,
            learned_at: None,
            all: None,
            by_esp: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    /// Learns from `samples`, whatever their order.
    pub(crate) fn fit(config: LatencyConfig, samples: &[LatencySample], learned_at: Timestamp) -> Self {
        let mut by_esp: BTreeMap<&str, BTreeMap<Option<MailboxProvider>, Delays>> = BTreeMap::new();
        let mut everything = Vec::with_capacity(samples.len());
        for sample in samples {
            let delay_ln = (sample.latency_ms as f64).clamp(SHORTEST_MS, LONGEST_MS).ln();
            everything.push(delay_ln);
            let esp = by_esp.entry(&sample.esp).or_default();
            esp.entry(sample.mailbox_provider)
                .or_default()
                .push((bin(sample.delivered_at), delay_ln));
        }
        let mut model = Self {
            learned_at: Some(learned_at),
            ..Self::empty(config)
        };
        if everything.is_empty() {
            return model;
        }
        let all = Cell::fit(&mut everything, config.quantile, None);
        model.rows.push(row(None, None, &everything, &all));
        for (esp, mailboxes) in by_esp {
            let cells = model.fit_esp(esp, &mailboxes, &all);
            model.by_esp.insert(esp.to_owned(), cells);
        }
        model.all = Some(all);
        model
    }

    fn fit_esp(
        &mut self,
        esp: &str,
        mailboxes: &BTreeMap<Option<MailboxProvider>, Delays>,
        all: &Cell,
    ) -> EspCells {
        let q = self.config.quantile;
        let together: Delays = mailboxes.values().flatten().copied().collect();
        let mut delays = logarithms(&together);
        let esp_cell = Cell::fit(&mut delays, q, Some(all));
        self.rows.push(row(Some(esp), None, &delays, &esp_cell));
        let by_bin = fit_bins(&together, q, &esp_cell);
        let mut by_mailbox_and_bin = BTreeMap::new();
        for (mailbox, delays_of_mailbox) in mailboxes {
            let Some(mailbox) = mailbox else { continue };
            let mut delays = logarithms(delays_of_mailbox);
            let cell = Cell::fit(&mut delays, q, Some(&esp_cell));
            self.rows
                .push(row(Some(esp), Some(mailbox.as_str()), &delays, &cell));
            by_mailbox_and_bin.insert(*mailbox, fit_bins(delays_of_mailbox, q, &cell));
        }
        EspCells {
            all: esp_cell,
            by_bin,
            by_mailbox_and_bin,
        }
    }

    /// The delays to expect over the week. What was learned of the provider comes first, then the caller's estimate, then
    /// what was learned of all providers, then the default.
    pub(crate) fn week(
        &self,
        esp: Option<&str>,
        mailbox: Option<MailboxProvider>,
        caller_seconds: Option<f64>,
    ) -> WeekOfLatency {
        let learned = esp
            .and_then(|esp| self.by_esp.get(esp))
            .filter(|cells| cells.all.samples >= MIN_SAMPLES);
        if let Some(cells) = learned {
            let of_mailbox = mailbox.and_then(|mailbox| cells.by_mailbox_and_bin.get(&mailbox));
            let by_bin = of_mailbox.unwrap_or(&cells.by_bin);
            return WeekOfLatency(std::array::from_fn(|bin| {
                let ms = by_bin[bin].expected_ln.exp();
                ExpectedLatency::of_millis(ms, LatencySource::Learned, cells.all.samples)
            }));
        }
        if let Some(seconds) = caller_seconds {
            let expected = ExpectedLatency::of_millis(seconds * 1_000.0, LatencySource::Caller, 0);
            return WeekOfLatency::constant(expected);
        }
        match self.all.as_ref().filter(|all| all.samples >= MIN_SAMPLES) {
            Some(all) => WeekOfLatency::constant(ExpectedLatency::of_millis(
                all.expected_ln.exp(),
                LatencySource::LearnedAcrossProviders,
                all.samples,
            )),
            None => {
                let ms = self.config.default.as_secs_f64() * 1_000.0;
                WeekOfLatency::constant(ExpectedLatency::of_millis(ms, LatencySource::Default, 0))
            }
        }
    }

    /// All that is known, the row of all providers first.
    pub(crate) fn rows(&self) -> &[LatencyRow] {
        &self.rows
    }

    /// When it was learned; `None` before the first time.
    pub(crate) fn learned_at(&self) -> Option<Timestamp> {
        self.learned_at
    }

    pub(crate) fn config(&self) -> LatencyConfig {
        self.config
    }
}

fn logarithms(delays: &[(usize, f64)]) -> Vec<f64> {
    delays.iter().map(|(_, delay_ln)| *delay_ln).collect()
}

fn fit_bins(delays: &[(usize, f64)], quantile: f64, above: &Cell) -> [Cell; BINS] {
    std::array::from_fn(|bin| {
        let mut in_bin: Vec<f64> = delays
            .iter()
            .filter(|(at, _)| *at == bin)
            .map(|(_, delay)| *delay)
            .collect();
        Cell::fit(&mut in_bin, quantile, Some(above))
    })
}

/// The quantile of sorted values, linear between neighbours; `None` of nothing.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

fn row(
    esp: Option<&str>,
    mailbox_provider: Option<&'static str>,
    sorted_ln: &[f64],
    cell: &Cell,
) -> LatencyRow {
    let seconds = |ln: f64| ln.exp().round() / 1_000.0;
    let at = |q| quantile(sorted_ln, q).map_or(0.0, seconds);
    LatencyRow {
        esp: esp.map(str::to_owned),
        mailbox_provider,
        samples: sorted_ln.len(),
        expected_seconds: seconds(cell.expected_ln),
        p50_seconds: at(0.5),
        p90_seconds: at(0.9),
        p99_seconds: at(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InferenceConfig;

    const MONDAY_MS: i64 = 1_767_571_200_000;

    fn sample(esp: &str, mailbox: MailboxProvider, hour: i64, latency_ms: i64) -> LatencySample {
        let identifier = event::Hasher::new().email_identifier("a@example.com").unwrap();
        LatencySample {
            universal_id: event::UniversalId::from_identifier(&identifier),
            esp: esp.to_owned(),
            campaign_id: None,
            mailbox_provider: Some(mailbox),
            delivered_at: Timestamp::from_millis_clamped(MONDAY_MS + hour * 3_600_000),
            latency_ms,
        }
    }

    fn fit(samples: &[LatencySample]) -> LatencyModel {
        LatencyModel::fit(InferenceConfig::default().latency, samples, Timestamp::default())
    }

    fn monday(hour: i64) -> Timestamp {
        Timestamp::from_millis_clamped(MONDAY_MS + hour * 3_600_000)
    }

    #[test]
    fn falls_back_from_provider_to_caller_to_everybody_to_default() {
        use LatencySource::{Caller, Default, Learned, LearnedAcrossProviders};
        let samples = vec![sample("sendgrid", MailboxProvider::Gmail, 1, 4_000); 30];
        let model = fit(&samples);
        let source =
            |model: &LatencyModel, esp, caller| model.week(esp, None, caller).arriving_at(monday(1)).source;
        assert_eq!(source(&model, Some("sendgrid"), Some(99.0)), Learned);
        assert_eq!(source(&model, Some("mailgun"), Some(99.0)), Caller);
        assert_eq!(source(&model, Some("mailgun"), None), LearnedAcrossProviders);
        let few = fit(&samples[..MIN_SAMPLES - 1]);
        assert_eq!(source(&few, Some("sendgrid"), None), Default);
        let expected = model
            .week(Some("sendgrid"), Some(MailboxProvider::Gmail), None)
            .arriving_at(monday(1));
        assert_eq!(
            expected,
            ExpectedLatency {
                seconds: 4.0,
                source: Learned,
                samples: 30
            }
        );
    }

    #[test]
    fn one_mail_that_hung_changes_nothing() {
        let mut samples: Vec<_> = (0..99)
            .map(|n| sample("ses", MailboxProvider::Other, n, 1_000 + 10 * n))
            .collect();
        let before = fit(&samples)
            .week(Some("ses"), None, None)
            .arriving_at(monday(1))
            .seconds;
        samples.push(sample("ses", MailboxProvider::Other, 1, 80_000_000));
        let after = fit(&samples)
            .week(Some("ses"), None, None)
            .arriving_at(monday(1))
            .seconds;
        assert!((after - before).abs() < 0.05, "{before} {after}");
    }

    #[test]
    fn a_part_of_the_week_speaks_when_it_has_data() {
        let mut samples = vec![sample("ses", MailboxProvider::Other, 10, 2_000); 400];
        samples.extend(vec![sample("ses", MailboxProvider::Other, 17, 60_000); 200]);
        samples.push(sample("ses", MailboxProvider::Other, 30, 60_000));
        let week = fit(&samples).week(Some("ses"), None, None);
        let at = |hour| week.arriving_at(monday(hour)).seconds;
        assert!(at(10) < 2.3, "{}", at(10));
        assert!(at(17) > 40.0, "{}", at(17));
        assert!(
            at(30) < 3.0,
            "one sample of a night does not make a slow night: {}",
            at(30)
        );
        assert_eq!(at(24 + 10), at(10), "weekdays share their parts");
    }

    #[test]
    fn the_order_of_samples_does_not_matter() {
        let mut samples: Vec<_> = (0..50)
            .map(|n| {
                sample(
                    ["ses", "sendgrid"][n % 2],
                    MailboxProvider::ALL[n % 5],
                    n as i64 * 7,
                    500 + 31 * n as i64,
                )
            })
            .collect();
        let one_way = fit(&samples);
        samples.reverse();
        assert_eq!(fit(&samples), one_way);
        assert_eq!(one_way.rows().len(), 1 + 2 + 10);
    }
}
