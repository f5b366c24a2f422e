//! How long a provider takes from the trigger to the mailbox, learned from the delays that the consumer measured.
//!
//! The model is a table: delays by provider, then by provider and mailbox class, then by these and the part of the week in which
//! the mail was handed over. Each cell's quantile is shrunk towards that of the cell above it, the more so the fewer samples it
//! has and the more they differ; on a log scale, because delays span four orders of magnitude. Quantiles, not means: one mail
//! that hung for a day says nothing about the next. Queue, campaign, type of campaign and size are factors on the table's delay.

mod cells;
mod factors;
mod rows;
mod week;

use std::{collections::BTreeMap, sync::Arc};

use event::{MailboxProvider, Timestamp};
use sha2::{Digest, Sha256};
use store::events::LatencySample;

use crate::config::LatencyConfig;
pub(crate) use cells::quantile;
use cells::{Cell, Delays, EspCells, logarithms};
use factors::{Factors, Mail};
pub(crate) use rows::LatencyFactor;
pub use rows::{LatencyPart, LatencyRow};
pub(crate) use week::part_in_words;
pub use week::{ExpectedLatency, LatencySource, WeekOfLatency};

/// A provider with fewer samples counts as unknown, so that a caller's own estimate has precedence over a handful of test mails.
const MIN_SAMPLES: usize = 10;

/// Delays below this (clock differences make some negative) are raised to it, so that they have a logarithm.
const SHORTEST_MS: f64 = 100.0;

/// Longest expected delay: anything over 12 h is an outage, not a delay to plan with.
const LONGEST_MS: f64 = 12.0 * 3_600_000.0;

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

/// What was learned about a provider.
#[derive(Debug, Clone, PartialEq)]
struct EspDelays {
    cells: EspCells,
    factors: Factors,
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
                .push((week::part(sent_at(sample)), delay_ln));
        }
        let mut model = Self {
            learned_at: Some(learned_at),
            ..Self::empty(config)
        };
        if everything.is_empty() {
            return model;
        }
        let all = Cell::fit(&mut everything, config.quantile, None);
        model.rows.push(rows::row(None, None, &everything, &all));
        for (esp, mailboxes) in by_esp {
            let cells = model.fit_esp(esp, &mailboxes, &all);
            let of_esp = samples.iter().filter(|sample| sample.esp == esp);
            let mails = of_esp.map(|sample| Mail {
                sent_at: sent_at(sample),
                mailbox: sample.mailbox_provider,
                part: week::part(sent_at(sample)),
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
        let mut row = rows::row(Some(esp), None, &delays, &esp_cell);
        let cells = EspCells::fit(mailboxes, q, esp_cell);
        row.parts = rows::parts(&together, cells.by_part(None));
        self.rows.push(row);
        for (mailbox, delays_of_mailbox) in mailboxes {
            let Some(mailbox) = mailbox else { continue };
            let mut delays = logarithms(delays_of_mailbox);
            let cell = Cell::fit(&mut delays, q, Some(&cells.all));
            let mut row = rows::row(Some(esp), Some(mailbox.as_str()), &delays, &cell);
            row.parts = rows::parts(delays_of_mailbox, cells.by_part(Some(*mailbox)));
            self.rows.push(row);
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
            let by_part = cells_told.by_part(mailbox);
            // A class of which nothing is known gets the delays of all classes.
            let is_known = mailbox.is_none_or(|mailbox| cells.by_mailbox_and_part.contains_key(&mailbox));
            let expected = |cell: &Cell| {
                let ms = (cell.expected_ln + shift).exp().clamp(SHORTEST_MS, LONGEST_MS);
                ExpectedLatency {
                    part_samples: Some(if is_known { cell.samples } else { 0 }),
                    ..ExpectedLatency::of_millis(ms, LatencySource::Learned, cells.all.samples)
                }
            };
            return WeekOfLatency(by_part.each_ref().map(expected));
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
            for mailbox in cells.by_mailbox_and_part.keys() {
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

/// Returns when the mail was handed over.
fn sent_at(sample: &LatencySample) -> Timestamp {
    sample.delivered_at.plus_millis(-sample.latency_ms)
}

#[cfg(test)]
mod tests;
