//! What else moves a delay beside provider, mailbox and time of week: how much mail is sent at once, and the campaign.
//!
//! Each is a factor on what the table says, learned from what the table leaves over, and drawn towards 1 where there are few
//! samples. A request that does not tell one gets the table alone, which averages over it.

use std::collections::{BTreeMap, HashMap};

use event::{Timestamp, grid::MINUTE_MS};

use super::{LatencyContext, PRIOR_SAMPLES, quantile};

/// Mail of the ten minutes before counts as sent at once: larger mailings take tens of minutes to go out, and queues of that
/// size outlast the minutes in which they are filled.
pub(super) const AT_ONCE_MS: i64 = 10 * MINUTE_MS;

/// Campaigns kept of a provider, those with the most samples: recurring ones, whose id comes again, are few; of the others
/// each is met once and teaches nothing about the next.
const MAX_CAMPAIGNS: usize = 200;

/// What is left over of one sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Residual<'a> {
    pub(super) sent_at: Timestamp,
    pub(super) campaign: Option<&'a str>,
    /// Logarithm of the delay less that of the delay that the table expects.
    pub(super) ln: f64,
}

/// A shift of the logarithm of the delay, and how many samples it was learned from.
type Shift = (usize, f64);

/// The factors of one provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Factors {
    by_queue: BTreeMap<u32, Shift>,
    by_campaign: BTreeMap<String, Shift>,
    /// The same, of what the queue leaves over.
    by_campaign_after_queue: BTreeMap<String, Shift>,
}

impl Factors {
    pub(super) fn fit(mut residuals: Vec<Residual<'_>>, q: f64) -> Self {
        residuals.sort_by(|a, b| {
            (a.sent_at, a.campaign, a.ln.to_bits()).cmp(&(b.sent_at, b.campaign, b.ln.to_bits()))
        });
        let by_campaign = by_campaign(&residuals, q);
        let classes = queue_classes(&residuals);
        let mut of_class: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (residual, class) in residuals.iter().zip(&classes) {
            of_class.entry(*class).or_default().push(residual.ln);
        }
        let by_queue: BTreeMap<u32, Shift> = of_class
            .into_iter()
            .map(|(class, mut left)| (class, shift(&mut left, q)))
            .collect();
        for (residual, class) in residuals.iter_mut().zip(&classes) {
            residual.ln -= by_queue[class].1;
        }
        Self {
            by_campaign_after_queue: self::by_campaign(&residuals, q),
            by_queue,
            by_campaign,
        }
    }

    /// The shift of the logarithm for what a request tells.
    pub(super) fn shift(&self, context: LatencyContext<'_>) -> f64 {
        let queue = context
            .queue_depth
            .and_then(|depth| self.of_queue(queue_class(depth)));
        let campaigns = match queue {
            Some(_) => &self.by_campaign_after_queue,
            None => &self.by_campaign,
        };
        let campaign = context.campaign_id.and_then(|id| campaigns.get(id));
        queue.unwrap_or(0.0) + campaign.map_or(0.0, |(_, shift)| *shift)
    }

    /// The shift of a class of queues, or of the nearest that was seen: a queue of ten thousand is at least as slow as one of
    /// a thousand.
    fn of_queue(&self, class: u32) -> Option<f64> {
        let below = self.by_queue.range(..=class).next_back();
        let nearest = below.or_else(|| self.by_queue.first_key_value());
        nearest.map(|(_, (_, shift))| *shift)
    }

    /// Everything that was learned, for a digest.
    pub(super) fn each(&self, mut take: impl FnMut(&str, usize, f64)) {
        for (class, (samples, shift)) in &self.by_queue {
            take(&class.to_string(), *samples, *shift);
        }
        for (campaign, (samples, shift)) in self.by_campaign.iter().chain(&self.by_campaign_after_queue) {
            take(campaign, *samples, *shift);
        }
    }
}

/// Powers of four: a queue four times as long moves a delay by something like a factor of two at most, and twenty classes
/// would leave most without samples.
fn queue_class(depth: u32) -> u32 {
    depth.saturating_add(1).ilog2() / 2
}

/// The class of each sample's queue: how many others of the provider were sent in the ten minutes before. `residuals` are in the
/// order of their sending.
fn queue_classes(residuals: &[Residual<'_>]) -> Vec<u32> {
    let mut first = 0;
    let mut classes = Vec::with_capacity(residuals.len());
    for (index, residual) in residuals.iter().enumerate() {
        while residuals[first].sent_at.plus_millis(AT_ONCE_MS) < residual.sent_at {
            first += 1;
        }
        classes.push(queue_class(u32::try_from(index - first).unwrap_or(u32::MAX - 1)));
    }
    classes
}

fn by_campaign(residuals: &[Residual<'_>], q: f64) -> BTreeMap<String, Shift> {
    let mut of_campaign: HashMap<&str, Vec<f64>> = HashMap::new();
    for residual in residuals {
        if let Some(campaign) = residual.campaign {
            of_campaign.entry(campaign).or_default().push(residual.ln);
        }
    }
    let mut largest: Vec<(&str, Vec<f64>)> = of_campaign.into_iter().collect();
    largest.sort_by(|a, b| (b.1.len(), a.0).cmp(&(a.1.len(), b.0)));
    largest
        .into_iter()
        .take(MAX_CAMPAIGNS)
        .map(|(campaign, mut left)| (campaign.to_owned(), shift(&mut left, q)))
        .collect()
}

/// The quantile of what is left over, drawn towards none.
fn shift(left: &mut [f64], q: f64) -> Shift {
    left.sort_unstable_by(f64::total_cmp);
    let samples = left.len();
    let weight = samples as f64 / (samples as f64 + PRIOR_SAMPLES);
    (samples, weight * quantile(left, q).unwrap_or(0.0))
}
