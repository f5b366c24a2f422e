//! Judges who caused an open or a click: the person, or a machine that scans links or prefetches images.
//!
//! Clicks are judged by *visits*: the clicks on one message of one person from one address with one agent. Rules assign
//! points to what is known about the visit ([`rules`]); with three points it is a machine's. Addresses, networks and
//! agents of a person that were suspect repeatedly count against later visits ([`reputation`]).
//!
//! An event is judged once, when it arrives, with what is known then. A whole batch is recorded before any of it is
//! judged, so that a burst that arrives together is seen as one. A judgement over the whole past would catch the
//! following, which this one does not:
//! - the first clicks of a burst, if the rest arrives in a later batch;
//! - the first visits of a scanner that only its reputation gives away;
//! - a click that arrives before its delivered event, because its delay is not known then, or counts from an earlier delivery
//!   of the same message;
//! - what was learned before a restart, or has been dropped from the bounded memory.
//!
//! Nearly all of this errs on the mild side: a machine passes for a person. In the other direction, a person who clicks
//! late from a scanner's address passes for the scanner if the mail's delivery is not known.

mod reputation;
mod rules;
mod visit;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod traffic;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use event::{Event, EventType, Timestamp, UniversalId, profile::Profile};
use ipnet::IpNet;

use super::{Fingerprints, agent};
use crate::{ConsumerConfig, recent::Recent};
use reputation::{Reputation, Standard};
use rules::{ClickEvidence, OpenEvidence, Points};
use visit::Visit;

/// Number of machine clicks remembered for one message: scanners follow at most a few dozen links, and the first and
/// last of them bracket the others.
const MACHINE_CLICKS_PER_MESSAGE: usize = 8;

/// An open within this time of a machine's click on the same message, with its agent or from its network, is that
/// machine's: it fetches images along with the links.
const NEAR_CLICK_MS: i64 = 120_000;

/// A habit, and for opens an address, only counts within this time after delivery: later the person's own clicks with
/// the same agent, and other people behind the same address, are more frequent.
const REPUTE_MS: i64 = 3_600_000;

/// The verdict on an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    pub(super) machine: bool,
    /// `rule:points`, see [`rules`].
    pub(super) reasons: Vec<String>,
}

impl From<Points> for Verdict {
    fn from(points: Points) -> Self {
        Self {
            machine: points.are_a_machines(),
            reasons: points.reasons(),
        }
    }
}

/// A click that a machine made.
#[derive(Debug, Clone, Copy)]
struct MachineClick {
    at: Timestamp,
    address: Option<IpAddr>,
    agent: u64,
}

/// The last two deliveries of one message to one person: in some flows a message is delivered again and again, with the same id.
/// Two, so that clicks on the one before are still judged right when they arrive after the last one.
#[derive(Debug, Clone, Copy)]
struct Deliveries {
    last: Timestamp,
    /// The same as `last` if only one is known.
    before: Timestamp,
}

impl Deliveries {
    fn new(at: Timestamp) -> Self {
        Self { last: at, before: at }
    }

    /// Adds a delivery; one that was added before changes nothing, and neither does their order.
    fn add(&mut self, at: Timestamp) {
        if at > self.last {
            *self = Self {
                last: at,
                before: self.last,
            };
        } else if at < self.last && (at > self.before || self.before == self.last) {
            self.before = at;
        }
    }

    /// Returns the delivery that an open or click belongs to: the last one that is not after it.
    fn of(&self, event: &Event) -> Option<Timestamp> {
        let until = last_moment(event);
        [self.last, self.before].into_iter().find(|at| *at <= until)
    }
}

/// Returns the last moment at which an open's or click's mail may have been delivered: [`rules::EARLIEST_MS`] after it.
fn last_moment(event: &Event) -> Timestamp {
    event.timestamp.plus_millis(-rules::EARLIEST_MS)
}

/// A click or open, and the keys and properties that its rules and reputations need, computed once.
struct Clues<'a> {
    event: &'a Event,
    /// Fingerprint of person and message.
    message: Option<u64>,
    /// Fingerprint of person, message, address and agent.
    visit: u64,
    agent: u64,
    address: Option<IpAddr>,
    /// Fingerprint of address and agent.
    neighbour: Option<u64>,
    /// Fingerprint of person and agent.
    habit: Option<u64>,
    tool_agent: bool,
    blank_agent: bool,
    /// The last delivery of the message that is not after the event.
    delivered_at: Option<Timestamp>,
}

impl Clues<'_> {
    /// Returns the time from delivery to the event.
    fn after_ms(&self) -> Option<i64> {
        let delivered_at = self.delivered_at?;
        Some(self.event.timestamp.millis_since(delivered_at))
    }
}

/// Judges one batch after the other.
#[derive(Debug)]
pub(super) struct Judge {
    fingerprints: Fingerprints,
    relay_ranges: Vec<IpNet>,
    /// By person and message.
    delivered: Recent<u64, Deliveries>,
    visits: Recent<u64, Visit>,
    /// By person and message, oldest first.
    machine_clicks: Recent<u64, Vec<MachineClick>>,
    addresses: Recent<IpAddr, Reputation>,
    networks: Recent<IpNet, Reputation>,
    /// By address and agent: distinguishes the people behind a scanner's address from the scanner.
    neighbours: Recent<u64, Reputation>,
    /// By person and agent.
    habits: Recent<u64, Reputation>,
}

impl Judge {
    pub(super) fn new(config: &ConsumerConfig) -> Self {
        let entries = config.entries();
        Self {
            fingerprints: Fingerprints::default(),
            relay_ranges: config.relay_ranges.clone(),
            delivered: Recent::new(entries),
            visits: Recent::new(entries),
            machine_clicks: Recent::new(entries),
            addresses: Recent::new(entries),
            networks: Recent::new(entries),
            neighbours: Recent::new(entries),
            habits: Recent::new(entries),
        }
    }

    /// Returns the people in `batch` who opened or clicked a mail whose delivery is not remembered.
    pub(super) fn unknown_deliveries(&self, batch: &[Event]) -> HashSet<UniversalId> {
        let mut delivered: HashMap<u64, Deliveries> = HashMap::new();
        for event in batch {
            if event.event_type == EventType::Delivered
                && let Some(key) = self.message_key(event)
            {
                let deliveries = delivered.entry(key).or_insert(Deliveries::new(event.timestamp));
                deliveries.add(event.timestamp);
            }
        }
        let mut people = HashSet::new();
        for event in batch {
            if !matches!(event.event_type, EventType::Opened | EventType::Clicked) {
                continue;
            }
            let Some(key) = self.message_key(event) else {
                continue;
            };
            let known = [self.delivered.get(&key), delivered.get(&key)];
            if !known.into_iter().flatten().any(|known| known.of(event).is_some()) {
                people.insert(event.universal_id.clone());
            }
        }
        people
    }

    /// Returns a verdict for each event of `batch`. The people's `profiles` know deliveries that are not in memory.
    pub(super) fn judge(
        &mut self,
        batch: &[Event],
        profiles: &HashMap<UniversalId, Profile>,
    ) -> Vec<Verdict> {
        for event in batch {
            if event.event_type == EventType::Delivered {
                self.remember_delivery(event);
            }
        }
        let clues_to = |of: EventType| -> Vec<(usize, Clues<'_>)> {
            let events = batch.iter().enumerate();
            events
                .filter(|(_, event)| event.event_type == of)
                .map(|(index, event)| (index, self.clues(event, profiles)))
                .collect()
        };
        let (clicks, opens) = (clues_to(EventType::Clicked), clues_to(EventType::Opened));
        for (_, click) in &clicks {
            self.join_visit(click);
        }
        // The own evidence of all visits is counted before any visit is judged by it.
        for (_, click) in &clicks {
            self.count_visit(click);
        }
        let mut verdicts = vec![Verdict::default(); batch.len()];
        for (index, click) in &clicks {
            verdicts[*index] = self.click_points(click).into();
            if verdicts[*index].machine {
                self.remember_machine_click(click);
            }
        }
        // Opens are judged by the clicks around them.
        for (index, open) in &opens {
            verdicts[*index] = self.open_points(open).into();
        }
        // Of clicks elsewhere than in mail, only what the provider says is known.
        for (event, verdict) in batch.iter().zip(&mut verdicts) {
            if matches!(event.event_type, EventType::SmsClick | EventType::PushClick)
                && event.is_machine == Some(true)
            {
                let evidence = ClickEvidence {
                    provider_says_so: true,
                    ..ClickEvidence::default()
                };
                *verdict = evidence.points().into();
            }
        }
        verdicts
    }

    fn clues<'a>(&self, event: &'a Event, profiles: &HashMap<UniversalId, Profile>) -> Clues<'a> {
        let person = event.universal_id.as_str();
        let message_id = event.message_id.as_deref();
        let agent = event.user_agent.as_deref();
        let address = address(event);
        let message = self.message_key(event);
        let remembered = message.and_then(|key| self.delivered.get(&key)?.of(event));
        let delivered_at = remembered.or_else(|| {
            let profile = profiles.get(&event.universal_id)?;
            profile.last_delivered(message_id?, last_moment(event))
        });
        let agent_fingerprint = self.fingerprints.of(agent.unwrap_or_default());
        Clues {
            event,
            message,
            visit: self
                .fingerprints
                .of((person, message_id, event.ip_address.as_deref(), agent_fingerprint)),
            agent: agent_fingerprint,
            address,
            neighbour: address.map(|address| self.fingerprints.of((address, agent_fingerprint))),
            habit: agent.map(|_| self.fingerprints.of((person, agent_fingerprint))),
            tool_agent: agent.is_some_and(agent::is_tool),
            blank_agent: agent.is_some_and(agent::is_blank),
            delivered_at,
        }
    }

    fn remember_delivery(&mut self, event: &Event) {
        if let Some(key) = self.message_key(event) {
            let deliveries = self.delivered.entry(key, || Deliveries::new(event.timestamp));
            deliveries.add(event.timestamp);
        }
    }

    fn join_visit(&mut self, click: &Clues<'_>) {
        let Clues { event, .. } = click;
        let link = self
            .fingerprints
            .of(event.click_url.as_deref().unwrap_or_default());
        let visit = self.visits.entry(click.visit, || Visit::new(event.timestamp));
        visit.add(event.timestamp, link, event.is_machine == Some(true));
    }

    /// Counts the visit of a click in all reputations that it affects: once, and once more when it turns suspect.
    fn count_visit(&mut self, click: &Clues<'_>) {
        let suspect = self.own_points(click).are_suspect();
        let at = click.event.timestamp;
        let visit = self.visits.entry(click.visit, || Visit::new(at));
        let (new, turned) = visit.count(suspect);
        if !new && !turned {
            return;
        }
        if let Some(address) = click.address {
            self.addresses
                .entry(address, || Reputation::new(at))
                .count(at, new, turned);
            self.networks
                .entry(network(address), || Reputation::new(at))
                .count(at, new, turned);
        }
        if let Some(neighbour) = click.neighbour {
            self.neighbours
                .entry(neighbour, || Reputation::new(at))
                .count(at, new, turned);
        }
        if let Some(habit) = click.habit {
            self.habits
                .entry(habit, || Reputation::new(at))
                .count(at, new, turned);
        }
    }

    /// Returns the points for the visit's own evidence.
    fn own_points(&self, click: &Clues<'_>) -> Points {
        let mut evidence = ClickEvidence {
            tool_agent: click.tool_agent,
            blank_agent: click.blank_agent,
            provider_says_so: click.event.is_machine == Some(true),
            ..ClickEvidence::default()
        };
        if let Some(visit) = self.visits.get(&click.visit) {
            // Of a message that was delivered again and again, the visit's clicks on earlier deliveries do not count.
            evidence.first_after_ms = click.delivered_at.and_then(|delivered_at| {
                let first = visit.first_since(delivered_at.plus_millis(rules::EARLIEST_MS))?;
                Some(first.millis_since(delivered_at))
            });
            evidence.burst = visit.has_burst();
            evidence.provider_says_so |= visit.flagged();
        }
        evidence.points()
    }

    /// Returns the points for the visit's own evidence and for the reputation of its origin.
    fn click_points(&self, click: &Clues<'_>) -> Points {
        let at = click.event.timestamp;
        let mut points = self.own_points(click);
        if let Some(address) = click.address {
            let person_behind_it = self.is_known_neighbour(click);
            let is = |reputation: Option<&Reputation>, standard| {
                reputation.is_some_and(|reputation| reputation.is_bad(standard, at))
            };
            if !person_behind_it && is(self.addresses.get(&address), Standard::ADDRESS) {
                points.add("machine_address", rules::REPUTATION);
            }
            if !person_behind_it && is(self.networks.get(&network(address)), Standard::NETWORK) {
                points.add("machine_network", rules::REPUTATION);
            }
        }
        let soon = click.after_ms().is_some_and(|after| after <= REPUTE_MS);
        let habit = click.habit.and_then(|key| self.habits.get(&key));
        if soon && habit.is_some_and(|habit| habit.is_bad(Standard::HABIT, at)) {
            points.add("machine_habit", rules::REPUTATION);
        }
        points
    }

    fn open_points(&self, open: &Clues<'_>) -> Points {
        let Clues { event, address, .. } = open;
        let agent = event.user_agent.as_deref();
        let after_ms = open.after_ms();
        let clicks = open.message.and_then(|key| self.machine_clicks.get(&key));
        let clicks = clicks.map_or(&[][..], Vec::as_slice);
        // Later, people behind a scanner's address open more mail than the scanner does.
        let soon = after_ms.is_none_or(|after| after <= REPUTE_MS);
        let machine_address = address.filter(|_| soon && !self.is_known_neighbour(open));
        let machine_address = machine_address.is_some_and(|address| {
            let reputation = self.addresses.get(&address);
            reputation.is_some_and(|reputation| reputation.is_bad(Standard::ADDRESS, event.timestamp))
                || clicks.iter().any(|click| click.address == Some(address))
        });
        let near_click = clicks.iter().any(|click| {
            let same_network = address.is_some() && click.address.map(network) == address.map(network);
            let same_maker = same_network || click.agent == open.agent;
            same_maker && event.timestamp.millis_since(click.at).abs() <= NEAR_CLICK_MS
        });
        let evidence = OpenEvidence {
            provider_says_so: event.is_machine == Some(true),
            picture_proxy: agent.is_some_and(agent::is_picture_proxy),
            tool_agent: open.tool_agent,
            blank_agent: open.blank_agent,
            prefetch_agent: agent.is_some_and(agent::is_bare),
            relay_address: address
                .is_some_and(|address| self.relay_ranges.iter().any(|r| r.contains(&address))),
            after_ms,
            machine_address,
            near_click,
        };
        evidence.points()
    }

    fn remember_machine_click(&mut self, click: &Clues<'_>) {
        let Some(key) = click.message else { return };
        let clicks = self.machine_clicks.entry(key, Vec::new);
        if clicks.len() == MACHINE_CLICKS_PER_MESSAGE {
            clicks.pop();
        }
        clicks.push(MachineClick {
            at: click.event.timestamp,
            address: click.address,
            agent: click.agent,
        });
    }

    /// Checks whether this agent has a good reputation at its address, whatever the address's own reputation.
    fn is_known_neighbour(&self, clues: &Clues<'_>) -> bool {
        let reputation = clues.neighbour.and_then(|key| self.neighbours.get(&key));
        reputation.is_some_and(|reputation| reputation.is_good(clues.event.timestamp))
    }

    fn message_key(&self, event: &Event) -> Option<u64> {
        let message_id = event.message_id.as_deref()?;
        Some(self.fingerprints.of((event.universal_id.as_str(), message_id)))
    }
}

/// Returns the event's network address, with an IPv4-mapped IPv6 address converted to IPv4.
fn address(event: &Event) -> Option<IpAddr> {
    let address: IpAddr = event.ip_address.as_deref()?.trim().parse().ok()?;
    Some(address.to_canonical())
}

/// Returns the network that shares a reputation: the size that one operator usually has, /16 or /48.
fn network(address: IpAddr) -> IpNet {
    let prefix = if address.is_ipv4() { 16 } else { 48 };
    IpNet::new_assert(address, prefix).trunc()
}
