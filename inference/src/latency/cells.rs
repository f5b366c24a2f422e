//! The table's cells: quantiles of delays by provider, mailbox class and part of the week.
//!
//! A cell's own quantile and that of the cell above are weighted by how far either can be trusted (empirical Bayes): the error
//! of the first is the spread of the cell's samples divided by their number; the error of the second is how far cells lie apart,
//! which is what the spread of the cell above exceeds that of the cell by. So 250 deliveries that all took 20 minutes, under a
//! provider that usually takes 20 seconds, count almost alone, while a few, or scattered ones, hardly count.

use std::collections::BTreeMap;

use event::MailboxProvider;

use super::week::PARTS;

/// How many samples say as much as a single one that is independent of the others: mails that are sent together wait in the
/// same queue, and a cell that holds a few mailings differs from others by chance. With 5 the loss (`examples/delays.rs`,
/// learned from 3,000 mails at 0.9) is 2 % larger; with 14 it is the same within 0.3 %, but a cell whose samples agree is believed
/// later.
const SAMPLES_PER_QUEUE: f64 = 10.0;

/// The number of samples that a cell needs until its own spread says more than that of the cell above: the spread of a few is
/// small by chance, or because they waited together. With 10 the same loss is 1.3 % larger.
const PRESUMED_SAMPLES: f64 = 20.0;

/// The largest number of samples that the cell above weighs as much as, for cells that are as scattered as it is. With 50
/// the loss is the same within 1 %; with 100 it is 1.4 % larger where little is known.
const MOST_PRIOR_SAMPLES: f64 = 30.0;

/// Delays of one provider and mailbox class: part of the week, logarithm of the delay.
pub(super) type Delays = Vec<(usize, f64)>;

/// The number of delays in one cell and the delay to expect.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cell {
    pub(super) samples: usize,
    /// Logarithm of the expected delay in milliseconds, shrunk towards the cell above.
    pub(super) expected_ln: f64,
    /// Variance of the logarithms.
    variance: f64,
}

impl Cell {
    /// Sorts `delays_ln` and learns from them.
    pub(super) fn fit(delays_ln: &mut [f64], quantile_asked: f64, above: Option<&Self>) -> Self {
        delays_ln.sort_unstable_by(f64::total_cmp);
        let own = quantile(delays_ln, quantile_asked);
        let samples = delays_ln.len();
        let variance = variance(delays_ln);
        let expected_ln = match (own, above) {
            (Some(own), Some(above)) => {
                let weight = own_weight(samples as f64, variance, above.variance);
                weight * own + (1.0 - weight) * above.expected_ln
            }
            (Some(own), None) => own,
            (None, above) => above.map_or(0.0, |above| above.expected_ln),
        };
        Self {
            samples,
            expected_ln,
            variance,
        }
    }
}

/// The cells of one provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct EspCells {
    pub(super) all: Cell,
    by_part: [Cell; PARTS],
    pub(super) by_mailbox_and_part: BTreeMap<MailboxProvider, [Cell; PARTS]>,
}

impl EspCells {
    /// Fits the cells below `all`.
    pub(super) fn fit(mailboxes: &BTreeMap<Option<MailboxProvider>, Delays>, q: f64, all: Cell) -> Self {
        let together: Delays = mailboxes.values().flatten().copied().collect();
        let by_part = fit_parts(&together, q, &all);
        let mut by_mailbox_and_part = BTreeMap::new();
        for (mailbox, delays) in mailboxes {
            let Some(mailbox) = mailbox else { continue };
            let cell = Cell::fit(&mut logarithms(delays), q, Some(&all));
            by_mailbox_and_part.insert(*mailbox, fit_parts(delays, q, &cell));
        }
        Self {
            all,
            by_part,
            by_mailbox_and_part,
        }
    }

    /// Returns the cells of a provider of which nothing is known but `all`.
    pub(super) fn same_everywhere(all: &Cell) -> Self {
        Self {
            all: all.clone(),
            by_part: std::array::from_fn(|_| all.clone()),
            by_mailbox_and_part: BTreeMap::new(),
        }
    }

    pub(super) fn each(&self, take: impl FnMut(&Cell)) {
        let of_mailboxes = self.by_mailbox_and_part.values().flatten();
        std::iter::once(&self.all)
            .chain(&self.by_part)
            .chain(of_mailboxes)
            .for_each(take);
    }

    /// Returns the cells of a mailbox class; those of all classes if it is not known.
    pub(super) fn by_part(&self, mailbox: Option<MailboxProvider>) -> &[Cell; PARTS] {
        let of_mailbox = mailbox.and_then(|mailbox| self.by_mailbox_and_part.get(&mailbox));
        of_mailbox.unwrap_or(&self.by_part)
    }
}

fn fit_parts(delays: &[(usize, f64)], quantile: f64, above: &Cell) -> [Cell; PARTS] {
    std::array::from_fn(|part| Cell::fit(&mut of_part(delays, part), quantile, Some(above)))
}

/// Returns the logarithms of one part of the week.
pub(super) fn of_part(delays: &[(usize, f64)], part: usize) -> Vec<f64> {
    let of_part = delays.iter().filter(|(own, _)| *own == part);
    of_part.map(|(_, delay_ln)| *delay_ln).collect()
}

pub(super) fn logarithms(delays: &[(usize, f64)]) -> Vec<f64> {
    delays.iter().map(|(_, delay_ln)| *delay_ln).collect()
}

/// Returns the weight of a cell's own quantile, 0 to 1, against that of the cell above.
fn own_weight(samples: f64, variance: f64, variance_above: f64) -> f64 {
    let within = (PRESUMED_SAMPLES * variance_above + samples * variance) / (PRESUMED_SAMPLES + samples);
    let between = variance_above - within;
    let prior_samples = if between > 0.0 {
        (SAMPLES_PER_QUEUE * within / between).min(MOST_PRIOR_SAMPLES)
    } else {
        MOST_PRIOR_SAMPLES
    };
    samples / (samples + prior_samples)
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count
}

/// Returns the quantile of sorted values, with linear interpolation; `None` for an empty slice.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}
