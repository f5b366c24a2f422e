//! Who made an open or a click: the person, or a machine that scans links or prefetches pictures.
//!
//! Clicks are judged by *visits*: the clicks of one person's message from one address with one agent. Rules give
//! points to what is known of the visit ([`rules`]); with three points it was a machine's. Addresses, networks and a
//! person's agents that were suspect again and again count against later visits ([`reputation`]).
//!
//! An event is judged once, when it arrives, with what is known then. All of a batch is taken in before any of it is
//! judged, so that a burst that arrives together is seen as one. What a judgement over the whole past would see and
//! this one does not:
//! - the first clicks of a burst, when the rest arrives in a later batch;
//! - the first visits of a scanner that nothing but its reputation gives away;
//! - a click that arrives before its delivered event: its delay is not known then;
//! - what was learned before a restart, or has fallen out of the bounded memory.
//!
//! Nearly all of this makes it milder: a machine passes for a person. The other way round, a person who clicks late
//! from a scanner's address passes for the scanner when the mail's delivery is not known.

mod reputation;
mod rules;
mod visit;

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

/// Times of machine clicks remembered of one message: scanners follow at most a few dozen links, and the first and
/// last of them bracket the others.
const MACHINE_CLICKS_PER_MESSAGE: usize = 8;

/// An open this close to a machine's click of the same message, with its agent or from its network, is that machine's:
/// it fetches pictures with the links.
const NEAR_CLICK_MS: i64 = 120_000;

/// A habit, and for opens an address, only speaks within this time after delivery: later the person's own clicks with
/// the same agent, and other people behind the same address, prevail.
const REPUTE_MS: i64 = 3_600_000;

/// What was found about an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    pub(super) machine: bool,
    /// `rule:points`, see [`rules`].
    pub(super) reasons: Vec<String>,
}

/// A click that a machine made.
#[derive(Debug, Clone, Copy)]
struct MachineClick {
    at: Timestamp,
    address: Option<IpAddr>,
    agent: u64,
}

/// Judges batch after batch.
#[derive(Debug)]
pub(super) struct Judge {
    fingerprints: Fingerprints,
    relay_ranges: Vec<IpNet>,
    /// First delivery, by person and message.
    delivered: Recent<u64, Timestamp>,
    visits: Recent<u64, Visit>,
    /// By person and message, oldest first.
    machine_clicks: Recent<u64, Vec<MachineClick>>,
    addresses: Recent<IpAddr, Reputation>,
    networks: Recent<IpNet, Reputation>,
    /// By address and agent: tells the people behind a scanner's address from the scanner.
    neighbours: Recent<u64, Reputation>,
    /// By person and agent.
    habits: Recent<u64, Reputation>,
}

impl Judge {
    pub(super) fn new(config: &ConsumerConfig) -> Self {
        let entries = config.memory_entries;
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

    /// People in `batch` who opened or clicked a mail whose delivery is not remembered.
    pub(super) fn unknown_deliveries(&self, batch: &[Event]) -> HashSet<UniversalId> {
        let delivered = batch
            .iter()
            .filter(|event| event.event_type == EventType::Delivered)
            .filter_map(|event| self.message_key(event));
        let delivered: HashSet<u64> = delivered.collect();
        let mut people = HashSet::new();
        for event in batch {
            if !matches!(event.event_type, EventType::Opened | EventType::Clicked) {
                continue;
            }
            let Some(key) = self.message_key(event) else {
                continue;
            };
            if self.delivered.get(&key).is_none() && !delivered.contains(&key) {
                people.insert(event.universal_id.clone());
            }
        }
        people
    }

    /// A verdict for each event of `batch`; people's profiles know deliveries that this memory does not.
    pub(super) fn judge(
        &mut self,
        batch: &[Event],
        profiles: &HashMap<UniversalId, Profile>,
    ) -> Vec<Verdict> {
        for event in batch {
            match event.event_type {
                EventType::Delivered => self.remember_delivery(event),
                EventType::Clicked => self.join_visit(event),
                _ => {}
            }
        }
        let clicks = || {
            batch
                .iter()
                .filter(|event| event.event_type == EventType::Clicked)
        };
        // Each visit's own evidence counts before any is judged by it.
        for event in clicks() {
            self.count_visit(event, profiles);
        }
        let mut verdicts = vec![Verdict::default(); batch.len()];
        // Opens are judged by the clicks around them.
        for event_type in [EventType::Clicked, EventType::Opened] {
            for (event, verdict) in batch.iter().zip(&mut verdicts) {
                if event.event_type != event_type {
                    continue;
                }
                let points = match event_type {
                    EventType::Clicked => self.click_points(event, profiles),
                    _ => self.open_points(event, profiles),
                };
                *verdict = Verdict {
                    machine: points.are_a_machines(),
                    reasons: points.reasons(),
                };
                if verdict.machine && event_type == EventType::Clicked {
                    self.remember_machine_click(event);
                }
            }
        }
        verdicts
    }

    fn remember_delivery(&mut self, event: &Event) {
        if let Some(key) = self.message_key(event) {
            let first = self.delivered.entry(key, || event.timestamp);
            *first = event.timestamp.min(*first);
        }
    }

    fn join_visit(&mut self, event: &Event) {
        let link = self
            .fingerprints
            .of(&[event.click_url.as_deref().unwrap_or_default()]);
        let key = self.visit_key(event);
        let visit = self.visits.entry(key, || Visit::new(event.timestamp));
        visit.add(event.timestamp, link, event.is_machine == Some(true));
    }

    /// Counts the visit of `event` in all reputations that it bears on, once, and once more when it turns suspect.
    fn count_visit(&mut self, event: &Event, profiles: &HashMap<UniversalId, Profile>) {
        let suspect = self.own_points(event, profiles).are_suspect();
        let key = self.visit_key(event);
        let visit = self.visits.entry(key, || Visit::new(event.timestamp));
        let (new, turned) = visit.count(suspect);
        if !new && !turned {
            return;
        }
        let at = event.timestamp;
        if let Some(address) = address(event) {
            self.addresses
                .entry(address, || Reputation::new(at))
                .count(at, new, turned);
            self.networks
                .entry(network(address), || Reputation::new(at))
                .count(at, new, turned);
            let neighbour = self.neighbour_key(event, address);
            self.neighbours
                .entry(neighbour, || Reputation::new(at))
                .count(at, new, turned);
        }
        if let Some(habit) = self.habit_key(event) {
            self.habits
                .entry(habit, || Reputation::new(at))
                .count(at, new, turned);
        }
    }

    /// Points for what the visit itself shows.
    fn own_points(&self, event: &Event, profiles: &HashMap<UniversalId, Profile>) -> Points {
        let mut evidence = ClickEvidence {
            tool_agent: event.user_agent.as_deref().is_some_and(agent::is_tool),
            blank_agent: event.user_agent.as_deref().is_some_and(agent::is_blank),
            provider_says_so: event.is_machine == Some(true),
            ..ClickEvidence::default()
        };
        if let Some(visit) = self.visits.get(&self.visit_key(event)) {
            let delivered_at = self.delivered_at(event, profiles);
            evidence.first_after_ms =
                delivered_at.map(|delivered_at| visit.first().millis_since(delivered_at));
            evidence.burst = visit.has_burst();
            evidence.provider_says_so |= visit.flagged();
        }
        evidence.points()
    }

    /// Points for what the visit shows and for the repute of where it came from.
    fn click_points(&self, event: &Event, profiles: &HashMap<UniversalId, Profile>) -> Points {
        let mut points = self.own_points(event, profiles);
        if let Some(address) = address(event) {
            let person_behind_it = self.is_known_neighbour(event, address);
            let is = |reputation: Option<&Reputation>, standard| {
                reputation.is_some_and(|reputation| reputation.is_bad(standard, event.timestamp))
            };
            if !person_behind_it && is(self.addresses.get(&address), Standard::ADDRESS) {
                points.add("machine_address", rules::REPUTATION);
            }
            if !person_behind_it && is(self.networks.get(&network(address)), Standard::NETWORK) {
                points.add("machine_network", rules::REPUTATION);
            }
        }
        let soon = self
            .delivered_at(event, profiles)
            .is_some_and(|delivered_at| event.timestamp.millis_since(delivered_at) <= REPUTE_MS);
        let habit = self.habit_key(event).and_then(|key| self.habits.get(&key));
        if soon && habit.is_some_and(|habit| habit.is_bad(Standard::HABIT, event.timestamp)) {
            points.add("machine_habit", rules::REPUTATION);
        }
        points
    }

    fn open_points(&self, event: &Event, profiles: &HashMap<UniversalId, Profile>) -> Points {
        let agent = event.user_agent.as_deref();
        let address = address(event);
        let after_ms = self
            .delivered_at(event, profiles)
            .map(|delivered_at| event.timestamp.millis_since(delivered_at));
        let clicks = self
            .message_key(event)
            .and_then(|key| self.machine_clicks.get(&key));
        let clicks = clicks.map_or(&[][..], Vec::as_slice);
        // Later, people behind a scanner's address open more mail than the scanner does.
        let soon = after_ms.is_none_or(|after| after <= REPUTE_MS);
        let machine_address = address.filter(|address| soon && !self.is_known_neighbour(event, *address));
        let machine_address = machine_address.is_some_and(|address| {
            let reputation = self.addresses.get(&address);
            reputation.is_some_and(|reputation| reputation.is_bad(Standard::ADDRESS, event.timestamp))
                || clicks.iter().any(|click| click.address == Some(address))
        });
        let agent_fingerprint = self.agent_fingerprint(event);
        let near_click = clicks.iter().any(|click| {
            let same_network = address.is_some() && click.address.map(network) == address.map(network);
            let same_maker = same_network || click.agent == agent_fingerprint;
            same_maker && event.timestamp.millis_since(click.at).abs() <= NEAR_CLICK_MS
        });
        let evidence = OpenEvidence {
            provider_says_so: event.is_machine == Some(true),
            picture_proxy: agent.is_some_and(agent::is_picture_proxy),
            tool_agent: agent.is_some_and(agent::is_tool),
            blank_agent: agent.is_some_and(agent::is_blank),
            prefetch_agent: agent.is_some_and(agent::is_bare),
            relay_address: address
                .is_some_and(|address| self.relay_ranges.iter().any(|r| r.contains(&address))),
            after_ms,
            machine_address,
            near_click,
        };
        evidence.points()
    }

    fn remember_machine_click(&mut self, event: &Event) {
        let click = MachineClick {
            at: event.timestamp,
            address: address(event),
            agent: self.agent_fingerprint(event),
        };
        if let Some(key) = self.message_key(event) {
            let clicks = self.machine_clicks.entry(key, Vec::new);
            if clicks.len() == MACHINE_CLICKS_PER_MESSAGE {
                clicks.pop();
            }
            clicks.push(click);
        }
    }

    /// Whether this agent has a good name at this address, whatever the address's own.
    fn is_known_neighbour(&self, event: &Event, address: IpAddr) -> bool {
        let reputation = self.neighbours.get(&self.neighbour_key(event, address));
        reputation.is_some_and(|reputation| reputation.is_good(event.timestamp))
    }

    fn delivered_at(&self, event: &Event, profiles: &HashMap<UniversalId, Profile>) -> Option<Timestamp> {
        let remembered = self
            .message_key(event)
            .and_then(|key| self.delivered.get(&key).copied());
        remembered.or_else(|| {
            profiles
                .get(&event.universal_id)?
                .delivered_at(event.message_id.as_deref()?)
        })
    }

    fn message_key(&self, event: &Event) -> Option<u64> {
        let message_id = event.message_id.as_deref()?;
        Some(self.fingerprints.of(&[event.universal_id.as_str(), message_id]))
    }

    fn visit_key(&self, event: &Event) -> u64 {
        self.fingerprints.of(&[
            event.universal_id.as_str(),
            event.message_id.as_deref().unwrap_or_default(),
            event.ip_address.as_deref().unwrap_or_default(),
            event.user_agent.as_deref().unwrap_or_default(),
        ])
    }

    fn agent_fingerprint(&self, event: &Event) -> u64 {
        self.fingerprints
            .of(&[event.user_agent.as_deref().unwrap_or_default()])
    }

    fn habit_key(&self, event: &Event) -> Option<u64> {
        Some(
            self.fingerprints
                .of(&[event.universal_id.as_str(), event.user_agent.as_deref()?]),
        )
    }

    fn neighbour_key(&self, event: &Event, address: IpAddr) -> u64 {
        let agent = event.user_agent.as_deref().unwrap_or_default();
        self.fingerprints.of(&[&address.to_string(), agent])
    }
}

/// Where the event came from, an IPv4 address in IPv6 clothes as the IPv4 address.
fn address(event: &Event) -> Option<IpAddr> {
    let address: IpAddr = event.ip_address.as_deref()?.trim().parse().ok()?;
    Some(address.to_canonical())
}

/// The neighbourhood that shares a reputation: what one operator usually has, /16 or /48.
fn network(address: IpAddr) -> IpNet {
    let prefix = if address.is_ipv4() { 16 } else { 48 };
    IpNet::new_assert(address, prefix).trunc()
}
