//! What else affects a delay apart from provider, mailbox and time of week: how much mail is sent at once, the campaign
//! and its type, and the size of the mail.
//!
//! Each is a factor on the table's delay, learned from the table's residuals and shrunk towards 1 where there are few
//! samples; a campaign's factor is shrunk towards that of its type. The effect of a type's or a campaign's usual size
//! is already part of its own factor: if one of them is given, size adds only the effect on the residual. A request
//! that does not give a field gets the table's delay, which averages over it.

use std::collections::{BTreeMap, HashMap};

use event::{MailboxProvider, Timestamp, grid::MINUTE_MS};

use super::{
    LatencyContext,
    cells::{Cell, Delays, EspCells, logarithms, quantile},
};

/// Mail of the preceding ten minutes counts as sent at once: larger mailings take tens of minutes to go out, and queues
/// of that size outlast the minutes in which they are filled.
pub(super) const AT_ONCE_MS: i64 = 10 * MINUTE_MS;

/// Maximum number of campaigns and of campaign types kept for a provider, those with the most samples: recurring
/// campaigns, whose name is seen again, are few; each of the others is seen once and says nothing about the next.
const MAX_NAMES: usize = 200;

/// How often table and queue are fitted in turn: what mailbox and hour explain overlaps with what the queue explains, since much
/// is sent at once at certain hours. With two, three or six turns the loss (`examples/delays.rs`) is the same within 1.5 %.
const TURNS: usize = 3;

/// Number of samples that weigh as much as no effect, or as that of a campaign's type. The error of a median of 20 is about a
/// quarter of the spread: from there on, they say more about themselves than all mail of the provider does.
const PRIOR_SAMPLES: f64 = 20.0;

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mail<'a> {
    pub(super) sent_at: Timestamp,
    pub(super) mailbox: Option<MailboxProvider>,
    /// Part of the week in which it was sent.
    pub(super) part: usize,
    pub(super) campaign: Option<&'a str>,
    pub(super) campaign_type: Option<&'a str>,
    pub(super) payload_bytes: Option<u32>,
    /// Logarithm of the delay.
    pub(super) ln: f64,
    /// The number of the provider's mails that it stands for, if only a share of them was read.
    pub(super) stands_for: u32,
}

/// A shift of the logarithm of the delay, preceded by the number of samples it was learned from.
type Shift = (usize, f64);

/// The factors of one provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factors {
    by_queue: BTreeMap<u32, Shift>,
    /// The table for requests that give the queue: fitted to what the queue leaves unexplained.
    after_queue: EspCells,
    of_mail: MailShifts,
    /// The same, for requests that give the queue too.
    of_mail_after_queue: MailShifts,
}

impl Factors {
    /// Learns from the provider's mails; `cells` is the provider's table without factors.
    pub(super) fn fit(mut mails: Vec<Mail<'_>>, cells: &EspCells, q: f64) -> Self {
        mails.sort_by(|a, b| {
            let key = |mail: &Mail<'_>| (mail.sent_at, mail.ln.to_bits(), mail.part);
            let rest = |mail: &Mail<'_>| (mail.mailbox, mail.payload_bytes, mail.stands_for);
            (key(a), rest(a), a.campaign, a.campaign_type).cmp(&(
                key(b),
                rest(b),
                b.campaign,
                b.campaign_type,
            ))
        });
        let left_of =
            |cells: &EspCells, mail: &Mail<'_>| mail.ln - cells.by_part(mail.mailbox)[mail.part].expected_ln;
        let of_mail = MailShifts::fit(&mails, mails.iter().map(|mail| left_of(cells, mail)), q);
        let depths = queue_depths(&mails);
        // The queue explains first what it can: where large mailings always go out in the same part of the week, it is the cause.
        let mut after_queue = EspCells::same_everywhere(&cells.all);
        let mut by_queue: BTreeMap<u32, Shift> = BTreeMap::new();
        for _ in 0..TURNS {
            let left = mails.iter().zip(&depths);
            by_queue = by_class(left.map(|(mail, depth)| (*depth, left_of(&after_queue, mail))), q);
            let mut delays: BTreeMap<Option<MailboxProvider>, Delays> = BTreeMap::new();
            for (mail, depth) in mails.iter().zip(&depths) {
                let of_mailbox = delays.entry(mail.mailbox).or_default();
                of_mailbox.push((mail.part, mail.ln - of_number(&by_queue, *depth)));
            }
            let together: Delays = delays.values().flatten().copied().collect();
            let all = Cell::fit(&mut logarithms(&together), q, None);
            after_queue = EspCells::fit(&delays, q, all);
        }
        let left = mails.iter().zip(&depths);
        let left = left.map(|(mail, depth)| left_of(&after_queue, mail) - of_number(&by_queue, *depth));
        Self {
            of_mail_after_queue: MailShifts::fit(&mails, left, q),
            by_queue,
            after_queue,
            of_mail,
        }
    }

    /// Returns the table and the shift of the logarithm for what a request gives; `cells` is the table without factors.
    pub(super) fn told<'a>(
        &'a self,
        context: LatencyContext<'_>,
        cells: &'a EspCells,
    ) -> (&'a EspCells, f64) {
        let queue = context.queue_depth.map(|depth| of_number(&self.by_queue, depth));
        let (cells, of_mail) = match queue {
            Some(_) => (&self.after_queue, &self.of_mail_after_queue),
            None => (cells, &self.of_mail),
        };
        let of_mail = of_mail.of(context.campaign_id, context.campaign_type, context.payload_bytes);
        (cells, queue.unwrap_or(0.0) + of_mail)
    }

    /// Returns the factors of the plain table, as they are reported: field of a request, its value, and the shift.
    pub(super) fn rows(&self) -> Vec<(&'static str, String, Shift)> {
        let classes = |field: &'static str, shifts: &BTreeMap<u32, Shift>| {
            let row = |(class, shift): (&u32, &Shift)| (field, numbers_of(*class), *shift);
            shifts.iter().map(row).collect::<Vec<_>>()
        };
        let names = |field: &'static str, shifts: &BTreeMap<String, Shift>| {
            let row = |(name, shift): (&String, &Shift)| (field, name.clone(), *shift);
            shifts.iter().map(row).collect::<Vec<_>>()
        };
        [
            classes("queue_depth", &self.by_queue),
            names("campaign_type", &self.of_mail.by_type),
            names("campaign_id", &self.of_mail.by_campaign),
            classes("payload_bytes", &self.of_mail.by_size),
        ]
        .concat()
    }

    /// Passes all learned numbers to `take`, for a digest.
    pub(super) fn each(&self, mut take: impl FnMut(usize, f64)) {
        for (samples, shift) in self.by_queue.values() {
            take(*samples, *shift);
        }
        self.after_queue.each(|cell| take(cell.samples, cell.expected_ln));
        for (samples, shift) in self.of_mail.each().chain(self.of_mail_after_queue.each()) {
            take(*samples, *shift);
        }
    }

    /// Returns the names of the known campaign types and campaigns.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.of_mail.by_type.keys().chain(self.of_mail.by_campaign.keys())
    }
}

/// The effect of a mail's own properties on its delay.
#[derive(Debug, Clone, PartialEq)]
struct MailShifts {
    by_type: BTreeMap<String, Shift>,
    /// Includes the effect of the campaign's type.
    by_campaign: BTreeMap<String, Shift>,
    by_size: BTreeMap<u32, Shift>,
    /// The same, for requests that give the type too.
    by_size_after_type: BTreeMap<u32, Shift>,
    /// The same, for requests that give the campaign too.
    by_size_after_campaign: BTreeMap<u32, Shift>,
}

impl MailShifts {
    /// Learns from the residual of each of `mails`.
    fn fit(mails: &[Mail<'_>], left: impl Iterator<Item = f64>, q: f64) -> Self {
        let left: Vec<f64> = left.collect();
        let each = || mails.iter().zip(&left);
        let by_type = by_name(each().map(|(mail, left)| (mail.campaign_type, *left, 0.0)), q);
        let of_type = |mail: &Mail<'_>| named(&by_type, mail.campaign_type).unwrap_or(0.0);
        let by_campaign = by_name(
            each().map(|(mail, left)| (mail.campaign, *left, of_type(mail))),
            q,
        );
        let by_size_after = |of_name: &dyn Fn(&Mail<'_>) -> f64| {
            let sizes = each().filter_map(|(mail, left)| Some((mail.payload_bytes?, left - of_name(mail))));
            by_class(sizes, q)
        };
        Self {
            by_size: by_size_after(&|_| 0.0),
            by_size_after_type: by_size_after(&of_type),
            by_size_after_campaign: by_size_after(&|mail| {
                named(&by_campaign, mail.campaign).unwrap_or_else(|| of_type(mail))
            }),
            by_type,
            by_campaign,
        }
    }

    /// Returns the shift for the given fields of a mail. An unknown campaign is treated like others of its type.
    fn of(&self, campaign: Option<&str>, campaign_type: Option<&str>, bytes: Option<u32>) -> f64 {
        let (of_name, sizes) = if let Some(of_campaign) = named(&self.by_campaign, campaign) {
            (of_campaign, &self.by_size_after_campaign)
        } else if let Some(of_type) = named(&self.by_type, campaign_type) {
            (of_type, &self.by_size_after_type)
        } else {
            (0.0, &self.by_size)
        };
        of_name + bytes.map_or(0.0, |bytes| of_number(sizes, bytes))
    }

    /// Returns all shifts, in a fixed order.
    fn each(&self) -> impl Iterator<Item = &Shift> {
        let of_names = self.by_type.values().chain(self.by_campaign.values());
        let of_sizes = [
            &self.by_size,
            &self.by_size_after_type,
            &self.by_size_after_campaign,
        ];
        of_names.chain(of_sizes.into_iter().flat_map(BTreeMap::values))
    }
}

fn named(shifts: &BTreeMap<String, Shift>, name: Option<&str>) -> Option<f64> {
    shifts.get(name?).map(|(_, shift)| *shift)
}

/// Returns the shift of a number: interpolated between the middles of the two classes around it; outside the classes that were
/// seen, that of the nearest one, since a queue of ten thousand is at least as slow as one of a thousand. 0 if none was seen.
fn of_number(shifts: &BTreeMap<u32, Shift>, number: u32) -> f64 {
    // The number's position on a scale on which the middle of each class is at the class's own index.
    let place = (f64::from(number) + 1.0).log2() / 2.0 - 0.5;
    let class = place.max(0.0) as u32;
    let below = shifts.range(..=class).next_back();
    let above = shifts.range(class + 1..).next();
    match (below, above) {
        (Some((below, (_, from))), Some((above, (_, to)))) => {
            let share = (place - f64::from(*below)) / f64::from(above - below);
            from + (to - from) * share.max(0.0)
        }
        (Some((_, (_, shift))), None) | (None, Some((_, (_, shift)))) => *shift,
        (None, None) => 0.0,
    }
}

/// Returns the class of a queue or of a size. Powers of four: a queue four times as long changes a delay by something like a
/// factor of two at most, a mail four times as large by less, and with twenty classes most would have no samples.
fn class_of(number: u32) -> u32 {
    number.saturating_add(1).ilog2() / 2
}

/// Returns the range of a class's numbers, such as `3-14`.
fn numbers_of(class: u32) -> String {
    let first = |class: u32| 4_u64.pow(class) - 1;
    format!("{}-{}", first(class), first(class + 1) - 1)
}

/// Returns how many other mails of the provider were sent in the ten minutes before each mail, including those that
/// were not read. `mails` are in the order in which they were sent.
fn queue_depths(mails: &[Mail<'_>]) -> Vec<u32> {
    let mut first = 0;
    let mut depths = Vec::with_capacity(mails.len());
    for (index, mail) in mails.iter().enumerate() {
        while mails[first].sent_at.plus_millis(AT_ONCE_MS) < mail.sent_at {
            first += 1;
        }
        let read = u32::try_from(index - first).unwrap_or(u32::MAX);
        depths.push(read.saturating_mul(mail.stands_for));
    }
    depths
}

/// Returns the shift of each name, from each mail's name, its residual, and the shift above it; the name's shift is
/// shrunk towards the mean of the latter.
fn by_name<'a>(mails: impl Iterator<Item = (Option<&'a str>, f64, f64)>, q: f64) -> BTreeMap<String, Shift> {
    let mut of_name: HashMap<&str, (Vec<f64>, f64)> = HashMap::new();
    for (name, left, above) in mails {
        if let Some(name) = name {
            let (of_name, sum) = of_name.entry(name).or_default();
            of_name.push(left);
            *sum += above;
        }
    }
    let mut largest: Vec<(&str, (Vec<f64>, f64))> = of_name.into_iter().collect();
    largest
        .sort_by(|(a, (left_of_a, _)), (b, (left_of_b, _))| (left_of_b.len(), a).cmp(&(left_of_a.len(), b)));
    largest
        .into_iter()
        .take(MAX_NAMES)
        .map(|(name, (mut left, above))| {
            let above = above / left.len() as f64;
            (name.to_owned(), shift(&mut left, q, above))
        })
        .collect()
}

/// Returns the shift of each class, from each mail's number and its residual.
fn by_class(mails: impl Iterator<Item = (u32, f64)>, q: f64) -> BTreeMap<u32, Shift> {
    let mut of_class: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (number, left) in mails {
        of_class.entry(class_of(number)).or_default().push(left);
    }
    let shifts = of_class
        .into_iter()
        .map(|(class, mut left)| (class, shift(&mut left, q, 0.0)));
    shifts.collect()
}

/// Returns the quantile of the residuals, shrunk towards `above`.
fn shift(left: &mut [f64], q: f64, above: f64) -> Shift {
    left.sort_unstable_by(f64::total_cmp);
    let samples = left.len();
    let weight = samples as f64 / (samples as f64 + PRIOR_SAMPLES);
    let own = quantile(left, q).unwrap_or(above);
    (samples, weight * own + (1.0 - weight) * above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_between_two_classes_get_a_shift_between_theirs() {
        let shifts = BTreeMap::from([(0, (9, 0.0)), (2, (9, 2.0))]);
        // The middle of class 1, from 3 to 14, is 7 on a logarithmic scale.
        assert!((of_number(&shifts, 7) - 1.0).abs() < 1e-9);
        assert!((0..100).is_sorted_by_key(|number| of_number(&shifts, number)));
        assert_eq!((of_number(&shifts, 0), of_number(&shifts, u32::MAX)), (0.0, 2.0));
        let none = BTreeMap::new();
        assert_eq!(of_number(&none, 7), 0.0);
    }

    #[test]
    fn classes_are_told_by_their_first_and_last_number() {
        for number in [0, 2, 3, 14, 15, 70_000] {
            let numbers = numbers_of(class_of(number));
            let (first, last) = numbers.split_once('-').unwrap();
            let ends: [u32; 2] = [first.parse().unwrap(), last.parse().unwrap()];
            assert!(ends[0] <= number && number <= ends[1], "{number}: {numbers}");
            assert_eq!(class_of(ends[0]), class_of(ends[1]));
        }
    }
}
