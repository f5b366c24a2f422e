//! The table's cells: quantiles of delays by provider, mailbox class and part of the week.

use std::collections::BTreeMap;

use event::MailboxProvider;

use super::week::PARTS;

/// Number of samples that weigh as much as the cell above. The error of a median of 20 is about a quarter of the
/// spread: from there on, a cell says more about itself than its provider as a whole does.
const PRIOR_SAMPLES: f64 = 20.0;

/// Delays of one provider and mailbox class: part of the week, logarithm of the delay.
pub(super) type Delays = Vec<(usize, f64)>;

/// The number of delays in one cell and the delay to expect.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cell {
    pub(super) samples: usize,
    /// Logarithm of the expected delay in milliseconds, shrunk towards the cell above.
    pub(super) expected_ln: f64,
}

impl Cell {
    /// Sorts `delays_ln` and learns from them.
    pub(super) fn fit(delays_ln: &mut [f64], quantile_asked: f64, above: Option<&Self>) -> Self {
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

/// Returns the quantile of sorted values, with linear interpolation; `None` for an empty slice.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}
