//! What else moves a delay beside provider, mailbox and time of week: how much mail is sent at once, and the campaign.
//!
//! Each is a factor on what the table says, learned from what the table leaves over, and drawn towards 1 where there are few
//! samples. A request that does not tell one gets the table alone, which averages over it.

use std::collections::{BTreeMap, HashMap};

use event::{MailboxProvider, Timestamp, grid::MINUTE_MS};

use super::{Cell, Delays, EspCells, LatencyContext, PRIOR_SAMPLES, logarithms, quantile};

/// Mail of the ten minutes before counts as sent at once: larger mailings take tens of minutes to go out, and queues of that
/// size outlast the minutes in which they are filled.
pub(super) const AT_ONCE_MS: i64 = 10 * MINUTE_MS;

/// Campaigns kept of a provider, those with the most samples: recurring ones, whose id comes again, are few; of the others
/// each is met once and teaches nothing about the next.
const MAX_CAMPAIGNS: usize = 200;

/// Times that table and queue are fitted by turns: what mailbox and hour explain and what the queue explains overlap, since much
/// is sent at once at certain hours. Twice, three times or six, the loss (`examples/delays.rs`) is the same within 1.5 %.
const TURNS: usize = 3;

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mail<'a> {
    pub(super) sent_at: Timestamp,
    pub(super) mailbox: Option<MailboxProvider>,
    /// Part of the week in which it arrived.
    pub(super) bin: usize,
    pub(super) campaign: Option<&'a str>,
    /// Logarithm of the delay.
    pub(super) ln: f64,
}

/// A shift of the logarithm of the delay, and how many samples it was learned from.
type Shift = (usize, f64);

/// The factors of one provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factors {
    by_queue: BTreeMap<u32, Shift>,
    /// The table where the queue is told: of what the queue leaves over.
    after_queue: EspCells,
    by_campaign: BTreeMap<String, Shift>,
    /// The same, where the queue is told too.
    by_campaign_after_queue: BTreeMap<String, Shift>,
}

impl Factors {
    /// Learns from the provider's mails, whose table without factors is `cells`.
    pub(super) fn fit(mut mails: Vec<Mail<'_>>, cells: &EspCells, q: f64) -> Self {
        mails.sort_by(|a, b| {
            let key = |mail: &Mail<'_>| (mail.sent_at, mail.ln.to_bits(), mail.bin);
            (key(a), a.mailbox, a.campaign).cmp(&(key(b), b.mailbox, b.campaign))
        });
        let left_of =
            |cells: &EspCells, mail: &Mail<'_>| mail.ln - cells.by_bin(mail.mailbox)[mail.bin].expected_ln;
        let left = mails.iter().map(|mail| (mail.campaign, left_of(cells, mail)));
        let of_campaigns = by_campaign(left, q);
        let classes = queue_classes(&mails);
        let mut after_queue = cells.clone();
        let mut by_queue: BTreeMap<u32, Shift> = BTreeMap::new();
        for _ in 0..TURNS {
            let mut of_class: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
            for (mail, class) in mails.iter().zip(&classes) {
                of_class
                    .entry(*class)
                    .or_default()
                    .push(left_of(&after_queue, mail));
            }
            let shifts = of_class
                .into_iter()
                .map(|(class, mut left)| (class, shift(&mut left, q)));
            by_queue = shifts.collect();
            let mut delays: BTreeMap<Option<MailboxProvider>, Delays> = BTreeMap::new();
            for (mail, class) in mails.iter().zip(&classes) {
                let of_mailbox = delays.entry(mail.mailbox).or_default();
                of_mailbox.push((mail.bin, mail.ln - by_queue[class].1));
            }
            let together: Delays = delays.values().flatten().copied().collect();
            let all = Cell::fit(&mut logarithms(&together), q, None);
            after_queue = EspCells::fit(&delays, q, all);
        }
        let left = mails.iter().zip(&classes);
        let left = left.map(|(mail, class)| (mail.campaign, left_of(&after_queue, mail) - by_queue[class].1));
        Self {
            by_campaign_after_queue: by_campaign(left, q),
            by_queue,
            after_queue,
            by_campaign: of_campaigns,
        }
    }

    /// The table and the shift of the logarithm for what a request tells; `cells` is the table without factors.
    pub(super) fn told<'a>(
        &'a self,
        context: LatencyContext<'_>,
        cells: &'a EspCells,
    ) -> (&'a EspCells, f64) {
        let queue = context
            .queue_depth
            .and_then(|depth| self.of_queue(queue_class(depth)));
        let (cells, campaigns) = match queue {
            Some(_) => (&self.after_queue, &self.by_campaign_after_queue),
            None => (cells, &self.by_campaign),
        };
        let campaign = context.campaign_id.and_then(|id| campaigns.get(id));
        (
            cells,
            queue.unwrap_or(0.0) + campaign.map_or(0.0, |(_, shift)| *shift),
        )
    }

    /// The shift of a class of queues, or of the nearest that was seen: a queue of ten thousand is at least as slow as one of
    /// a thousand.
    fn of_queue(&self, class: u32) -> Option<f64> {
        let below = self.by_queue.range(..=class).next_back();
        let nearest = below.or_else(|| self.by_queue.first_key_value());
        nearest.map(|(_, (_, shift))| *shift)
    }

    /// All numbers that were learned, for a digest.
    pub(super) fn each(&self, mut take: impl FnMut(usize, f64)) {
        for (samples, shift) in self.by_queue.values() {
            take(*samples, *shift);
        }
        self.after_queue.each(|cell| take(cell.samples, cell.expected_ln));
        for (samples, shift) in self
            .by_campaign
            .values()
            .chain(self.by_campaign_after_queue.values())
        {
            take(*samples, *shift);
        }
    }

    /// The campaigns that are known.
    pub(super) fn campaigns(&self) -> impl Iterator<Item = &String> {
        self.by_campaign.keys()
    }
}

/// Powers of four: a queue four times as long moves a delay by something like a factor of two at most, and twenty classes
/// would leave most without samples.
fn queue_class(depth: u32) -> u32 {
    depth.saturating_add(1).ilog2() / 2
}

/// The class of each mail's queue: how many others of the provider were sent in the ten minutes before. `mails` are in the order
/// of their sending.
fn queue_classes(mails: &[Mail<'_>]) -> Vec<u32> {
    let mut first = 0;
    let mut classes = Vec::with_capacity(mails.len());
    for (index, mail) in mails.iter().enumerate() {
        while mails[first].sent_at.plus_millis(AT_ONCE_MS) < mail.sent_at {
            first += 1;
        }
        classes.push(queue_class(u32::try_from(index - first).unwrap_or(u32::MAX)));
    }
    classes
}

fn by_campaign<'a>(left: impl Iterator<Item = (Option<&'a str>, f64)>, q: f64) -> BTreeMap<String, Shift> {
    let mut of_campaign: HashMap<&str, Vec<f64>> = HashMap::new();
    for (campaign, ln) in left {
        if let Some(campaign) = campaign {
            of_campaign.entry(campaign).or_default().push(ln);
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
