//! How long a provider takes from the trigger to the mailbox, learned from the delays that the consumer measured.
//!
//! The model is a table: delays by provider, then by provider and mailbox class, then by these and part of the week.
//! Each cell's quantile is shrunk towards that of the cell above it, the more so the fewer samples it has; on a log
//! scale, because delays span four orders of magnitude. Quantiles, not means: one mail that hung for a day says nothing
//! about the next. Queue, campaign, type of campaign and size are factors on the table's delay.

mod factors;

use std::{collections::BTreeMap, sync::Arc};

use event::{MailboxProvider, Timestamp, grid};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::events::LatencySample;
use utoipa::ToSchema;

use crate::config::LatencyConfig;
use factors::{Factors, Mail};

/// Parts of the week: weekdays and weekend, six parts of four hours each. Queues follow the sender's day; finer bins
/// would leave most of them without data.
const BINS: usize = 12;

/// Number of samples that weigh as much as the cell above. The error of a median of 20 is about a quarter of the
/// spread: from there on, a cell says more about itself than its provider as a whole does.
const PRIOR_SAMPLES: f64 = 20.0;

/// A provider with fewer samples counts as unknown, so that a caller's own estimate has precedence over a handful of test mails.
const MIN_SAMPLES: usize = 10;

/// Delays below this (clock differences make some negative) are raised to it, so that they have a logarithm.
const SHORTEST_MS: f64 = 100.0;

/// Longest expected delay: anything over 12 h is an outage, not a delay to plan with.
const LONGEST_MS: f64 = 12.0 * 3_600_000.0;

/// Where an expected delay comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatencySource {
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExpectedLatency {
    /// Seconds, to the millisecond.
    pub seconds: f64,
    /// Where it comes from.
    pub source: LatencySource,
    /// Number of deliveries that it was learned from.
    pub samples: usize,
}

impl ExpectedLatency {
    /// Returns the delay in milliseconds.
    pub fn as_millis(self) -> i64 {
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
pub struct WeekOfLatency([ExpectedLatency; BINS]);

impl WeekOfLatency {
    /// Returns the delay expected of a mail that arrives at `arrival`.
    pub fn arriving_at(&self, arrival: Timestamp) -> ExpectedLatency {
        self.0[bin(arrival)]
    }

    /// Returns the longest expected delay of the week, in milliseconds.
    pub(crate) fn longest_ms(&self) -> i64 {
        self.0
            .iter()
            .map(|expected| expected.as_millis())
            .max()
            .unwrap_or(0)
    }

    /// Returns the expected delay of each part of the week, in milliseconds.
    pub(crate) fn milliseconds(&self) -> Vec<i64> {
        self.0.iter().map(|expected| expected.as_millis()).collect()
    }

    /// Returns the week whose [`WeekOfLatency::milliseconds`] are `ms`, or one value for the whole week, with the
    /// source and samples of `of`; `None` if there are not that many values.
    pub(crate) fn of_milliseconds(ms: &[i64], of: ExpectedLatency) -> Option<Self> {
        let part = |ms: i64| ExpectedLatency::of_millis(ms as f64, of.source, of.samples);
        match ms {
            [all] => Some(Self::constant(part(*all))),
            _ => <[i64; BINS]>::try_from(ms).ok().map(|ms| Self(ms.map(part))),
        }
    }

    /// Creates a week with the same delay throughout.
    pub(crate) fn constant(expected: ExpectedLatency) -> Self {
        Self([expected; BINS])
    }
}

fn bin(moment: Timestamp) -> usize {
    let slot = grid::slot(moment);
    let (day, hour) = (slot / 1_440, slot / 60 % 24);
    usize::from(day >= 5) * 6 + hour / 4
}

/// The number of delays in one cell and the delay to expect.
#[derive(Debug, Clone, PartialEq, Default)]
struct Cell {
    samples: usize,
    /// Logarithm of the expected delay in milliseconds, shrunk towards the cell above.
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
pub struct LatencyRow {
    /// Provider; `null` in the row of all providers.
    #[schema(example = "sendgrid")]
    pub esp: Option<String>,
    /// Class of the mailbox; `null` in rows of all classes.
    #[schema(example = "gmail")]
    pub mailbox_provider: Option<&'static str>,
    /// Number of deliveries.
    pub samples: usize,
    /// The delay that decisions expect, at the configured quantile and shrunk towards the row above.
    pub expected_seconds: f64,
    /// Median of the deliveries' delays.
    pub p50_seconds: f64,
    /// 90th percentile.
    pub p90_seconds: f64,
    /// 99th percentile.
    pub p99_seconds: f64,
}

/// How much longer, or less long, a mail takes if a request gives this value.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct LatencyFactor {
    /// Provider.
    #[schema(example = "sendgrid")]
    pub(crate) esp: String,
    /// Field of the request: `queue_depth`, `campaign_type`, `campaign_id` or `payload_bytes`.
    #[schema(example = "payload_bytes")]
    pub(crate) field: &'static str,
    /// Its value: a name, or the first and the last number of a class.
    #[schema(example = "16383-65534")]
    pub(crate) value: String,
    /// Number of deliveries.
    pub(crate) samples: usize,
    /// Factor on the delay of the provider's table, shrunk towards 1 if there are few deliveries. If a request gives
    /// several fields, what their factors have in common counts once.
    #[schema(example = 1.4)]
    pub(crate) factor: f64,
}

/// The learned delays.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyModel {
    config: LatencyConfig,
    learned_at: Option<Timestamp>,
    version: Option<Arc<str>>,
    all: Option<Cell>,
    by_esp: BTreeMap<String, EspDelays>,
    rows: Vec<LatencyRow>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct EspCells {
    all: Cell,
    by_bin: [Cell; BINS],
    by_mailbox_and_bin: BTreeMap<MailboxProvider, [Cell; BINS]>,
}

/// What was learned about a provider.
#[derive(Debug, Clone, PartialEq)]
struct EspDelays {
    cells: EspCells,
    factors: Factors,
}

impl EspCells {
    /// Fits the cells below `all`.
    fn fit(mailboxes: &BTreeMap<Option<MailboxProvider>, Delays>, q: f64, all: Cell) -> Self {
        let together: Delays = mailboxes.values().flatten().copied().collect();
        let by_bin = fit_bins(&together, q, &all);
        let mut by_mailbox_and_bin = BTreeMap::new();
        for (mailbox, delays) in mailboxes {
            let Some(mailbox) = mailbox else { continue };
            let cell = Cell::fit(&mut logarithms(delays), q, Some(&all));
            by_mailbox_and_bin.insert(*mailbox, fit_bins(delays, q, &cell));
        }
        Self {
            all,
            by_bin,
            by_mailbox_and_bin,
        }
    }

    fn each(&self, take: impl FnMut(&Cell)) {
        let of_mailboxes = self.by_mailbox_and_bin.values().flatten();
        std::iter::once(&self.all)
            .chain(&self.by_bin)
            .chain(of_mailboxes)
            .for_each(take);
    }

    /// Returns the cells of a mailbox class; those of all classes if it is not known.
    fn by_bin(&self, mailbox: Option<MailboxProvider>) -> &[Cell; BINS] {
        let of_mailbox = mailbox.and_then(|mailbox| self.by_mailbox_and_bin.get(&mailbox));
        of_mailbox.unwrap_or(&self.by_bin)
    }
}

/// What a request may give in addition to provider and mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencyContext<'a> {
    /// The campaign.
    pub campaign_id: Option<&'a str>,
    /// Type of campaign.
    pub campaign_type: Option<&'a str>,
    /// Size of the mail.
    pub payload_bytes: Option<u32>,
    /// How many mails go to the provider in the ten minutes before this one.
    pub queue_depth: Option<u32>,
}

/// Delays of one provider and mailbox class: part of the week, logarithm of the delay.
type Delays = Vec<(usize, f64)>;

impl LatencyModel {
    /// Makes a model that knows nothing yet.
    pub fn empty(config: LatencyConfig) -> Self {
        Self {
            config,
            learned_at: None,
            version: None,
            all: None,
            by_esp: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    /// Learns from `samples`, in any order.
    pub fn fit(config: LatencyConfig, samples: &[LatencySample], learned_at: Timestamp) -> Self {
        let mut by_esp: BTreeMap<&str, BTreeMap<Option<MailboxProvider>, Delays>> = BTreeMap::new();
        let mut everything = Vec::with_capacity(samples.len());
        for sample in samples {
            let delay_ln = delay_ln(sample);
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
            let of_esp = samples.iter().filter(|sample| sample.esp == esp);
            let mails = of_esp.map(|sample| Mail {
                sent_at: sample.delivered_at.plus_millis(-sample.latency_ms),
                mailbox: sample.mailbox_provider,
                bin: bin(sample.delivered_at),
                campaign: sample.campaign_id.as_deref(),
                campaign_type: sample.campaign_type.as_deref(),
                payload_bytes: sample.payload_bytes,
                ln: delay_ln(sample),
                stands_for: sample.stands_for,
            });
            let factors = Factors::fit(mails.collect(), &cells, config.quantile);
            model.by_esp.insert(esp.to_owned(), EspDelays { cells, factors });
        }
        model.all = Some(all);
        model.version = Some(model.digest());
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
        let cells = EspCells::fit(mailboxes, q, esp_cell);
        for (mailbox, delays_of_mailbox) in mailboxes {
            let Some(mailbox) = mailbox else { continue };
            let mut delays = logarithms(delays_of_mailbox);
            let cell = Cell::fit(&mut delays, q, Some(&cells.all));
            self.rows
                .push(row(Some(esp), Some(mailbox.as_str()), &delays, &cell));
        }
        cells
    }

    /// Returns the delays to expect over the week. What was learned about the provider comes first, then the caller's
    /// estimate, then what was learned about all providers, then the default.
    pub fn week(
        &self,
        esp: Option<&str>,
        mailbox: Option<MailboxProvider>,
        caller_seconds: Option<f64>,
        context: LatencyContext<'_>,
    ) -> WeekOfLatency {
        let learned = esp
            .and_then(|esp| self.by_esp.get(esp))
            .filter(|learned| learned.cells.all.samples >= MIN_SAMPLES);
        if let Some(EspDelays { cells, factors }) = learned {
            let (cells_told, shift) = factors.told(context, cells);
            let by_bin = cells_told.by_bin(mailbox);
            return WeekOfLatency(std::array::from_fn(|bin| {
                let ms = (by_bin[bin].expected_ln + shift)
                    .exp()
                    .clamp(SHORTEST_MS, LONGEST_MS);
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

    /// Returns all rows of the table; the row of all providers comes first.
    pub(crate) fn rows(&self) -> &[LatencyRow] {
        &self.rows
    }

    /// Returns the effects on delays of anything other than mailbox and time of week, by provider.
    pub(crate) fn factors(&self) -> Vec<LatencyFactor> {
        let mut rows = Vec::new();
        for (esp, EspDelays { factors, .. }) in &self.by_esp {
            for (field, value, (samples, shift)) in factors.rows() {
                rows.push(LatencyFactor {
                    esp: esp.clone(),
                    field,
                    value,
                    samples,
                    factor: (shift.exp() * 1_000.0).round() / 1_000.0,
                });
            }
        }
        rows
    }

    /// Returns the version of the table: a hash of its content; `None` if nothing was learned.
    pub(crate) fn version(&self) -> Option<Arc<str>> {
        self.version.clone()
    }

    fn digest(&self) -> Arc<str> {
        let mut hash = Sha256::new();
        let mut number = |samples: usize, ln: f64| {
            hash.update((samples as u64).to_le_bytes());
            hash.update(ln.to_le_bytes());
        };
        self.all
            .iter()
            .for_each(|all| number(all.samples, all.expected_ln));
        for EspDelays { cells, factors } in self.by_esp.values() {
            cells.each(|cell| number(cell.samples, cell.expected_ln));
            factors.each(&mut number);
        }
        for (esp, EspDelays { cells, factors }) in &self.by_esp {
            hash.update(esp);
            for mailbox in cells.by_mailbox_and_bin.keys() {
                hash.update(mailbox.as_str());
            }
            for name in factors.names() {
                hash.update(name);
            }
        }
        let hash = hash.finalize();
        let prefix = u64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"));
        format!("{prefix:016x}").into()
    }

    /// Returns when the table was learned; `None` before the first time.
    pub(crate) fn learned_at(&self) -> Option<Timestamp> {
        self.learned_at
    }

    pub(crate) fn config(&self) -> LatencyConfig {
        self.config
    }
}

fn delay_ln(sample: &LatencySample) -> f64 {
    (sample.latency_ms as f64).clamp(SHORTEST_MS, LONGEST_MS).ln()
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

/// Returns the quantile of sorted values, with linear interpolation; `None` for an empty slice.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
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
mod tests;
