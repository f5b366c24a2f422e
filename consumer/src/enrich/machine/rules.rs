//! The rules and their points. Pure functions from evidence to points.
//!
//! Points and thresholds were tuned together on synthetic traffic (`traffic.rs`), where they detect 99 % of the machines'
//! clicks and take 2 % of the people's for machines'; real scanners are less regular, so expect less. No rule on time alone
//! is enough: scanners click for half an hour and longer, and people in an open inbox click within seconds. If a provider
//! reports "no machine", that gives no points: it only means that the provider has not recognized one.

/// With this many points it was a machine.
const MACHINE: i32 = 3;

/// With this many points a visit is suspect. People reach that now and then, by opening several links at once or by
/// clicking right away, but not three times out of four from one origin.
const SUSPECT: i32 = 2;

/// Points for the bad reputation of an address, network or habit: sufficient alone, outweighed by a click after an hour.
pub(super) const REPUTATION: i32 = 3;

/// How far before its own delivery a click or open is still believed. Scanners click while the mail is still being handed
/// over, and providers round to seconds; a time further back means a wrong clock or another delivery.
pub(super) const EARLIEST_MS: i64 = -60_000;

/// Each longer limit finds more of the machines and loses more people. Applied alone to synthetic traffic, 2 s catches a
/// quarter of the machines' clicks and none of people's, 10 s half of them and 0.2 % of people's, a minute little more and 1.6 %.
const AT_ONCE_MS: i64 = 2_000;
const SOON_MS: i64 = 10_000;
const WITHIN_A_MINUTE_MS: i64 = 60_000;

/// Scanners click for half an hour and longer; a first click after more than an hour is more likely a person's.
const LATE_MS: i64 = 3_600_000;

/// Rules that applied, with their points.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Points(Vec<(&'static str, i32)>);

impl Points {
    pub(super) fn add(&mut self, rule: &'static str, points: i32) {
        self.0.push((rule, points));
    }

    pub(super) fn are_a_machines(&self) -> bool {
        self.total() >= MACHINE
    }

    /// Checks whether a visit with these points counts against its origin.
    pub(super) fn are_suspect(&self) -> bool {
        self.total() >= SUSPECT
    }

    fn total(&self) -> i32 {
        self.0.iter().map(|(_, points)| points).sum()
    }

    /// Returns the rules as `name:points`. Rules in the person's favour are only listed if other rules count against.
    pub(super) fn reasons(&self) -> Vec<String> {
        let suspicious = self.0.iter().any(|(_, points)| *points > 0);
        let told = self.0.iter().filter(|_| suspicious);
        told.map(|(rule, points)| format!("{rule}:{points}")).collect()
    }
}

/// The evidence of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClickEvidence {
    /// Time from delivery to the visit's first click on this delivery.
    pub(super) first_after_ms: Option<i64>,
    /// The clicks came faster than people click.
    pub(super) burst: bool,
    /// The agent names a tool.
    pub(super) tool_agent: bool,
    /// The agent was reported, and is blank.
    pub(super) blank_agent: bool,
    /// The provider attributes one of the clicks to a machine.
    pub(super) provider_says_so: bool,
}

impl ClickEvidence {
    pub(super) fn points(self) -> Points {
        let mut points = Points::default();
        match self.first_after_ms {
            Some(after) if after < EARLIEST_MS => {}
            Some(after) if after <= AT_ONCE_MS => points.add("click_within_2s", 3),
            Some(after) if after <= SOON_MS => points.add("click_within_10s", 2),
            Some(after) if after <= WITHIN_A_MINUTE_MS => points.add("click_within_60s", 1),
            Some(after) if after > LATE_MS => points.add("click_after_1h", -4),
            Some(_) | None => {}
        }
        if self.burst {
            points.add("click_burst", 2);
        }
        if self.tool_agent {
            // More than a late click can outweigh: a tool is a tool whenever it clicks.
            points.add("tool_agent", 7);
        }
        if self.blank_agent {
            points.add("blank_agent", 5);
        }
        if self.provider_says_so {
            points.add("provider_flag", 6);
        }
        points
    }
}

/// The evidence of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OpenEvidence {
    /// The provider attributes it to a machine.
    pub(super) provider_says_so: bool,
    /// It was fetched by a proxy that fetches when the person opens.
    pub(super) picture_proxy: bool,
    /// The agent names a tool.
    pub(super) tool_agent: bool,
    /// The agent was reported, and is blank.
    pub(super) blank_agent: bool,
    /// The agent is the one with which mail programs prefetch.
    pub(super) prefetch_agent: bool,
    /// It came from a network that prefetches.
    pub(super) relay_address: bool,
    /// Time from delivery to the open.
    pub(super) after_ms: Option<i64>,
    /// It came from the address of a machine's clicks.
    pub(super) machine_address: bool,
    /// It happened close to a machine's click on the same message, with the same agent or from the same network.
    pub(super) near_click: bool,
}

impl OpenEvidence {
    pub(super) fn points(self) -> Points {
        let mut points = Points::default();
        if self.provider_says_so {
            points.add("provider_flag", 6);
        }
        if self.picture_proxy {
            // The proxy's own agent, address and speed say nothing about who opened the mail.
            return points;
        }
        let at_once = self
            .after_ms
            .is_some_and(|after| (EARLIEST_MS..=AT_ONCE_MS).contains(&after));
        let rules = [
            (self.tool_agent, "tool_agent", 7),
            (self.blank_agent, "blank_agent", 5),
            (self.prefetch_agent, "prefetch_agent", 4),
            (self.relay_address, "relay_address", 4),
            (at_once, "open_within_2s", 3),
            (self.machine_address, "machine_address", 3),
            (self.near_click, "near_machine_click", 3),
        ];
        for (applies, rule, value) in rules {
            if applies {
                points.add(rule, value);
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clicks_get_the_points_of_the_table() {
        let none = ClickEvidence::default();
        let after = |first_after_ms| ClickEvidence {
            first_after_ms: Some(first_after_ms),
            ..none
        };
        let burst = |evidence| ClickEvidence {
            burst: true,
            ..evidence
        };
        let tool = |evidence| ClickEvidence {
            tool_agent: true,
            ..evidence
        };
        let blank = |evidence| ClickEvidence {
            blank_agent: true,
            ..evidence
        };
        let flag = |evidence| ClickEvidence {
            provider_says_so: true,
            ..evidence
        };
        let table: [(ClickEvidence, &[&str], bool); 17] = [
            (none, &[], false),
            (after(2_000), &["click_within_2s:3"], true),
            (after(-30_000), &["click_within_2s:3"], true),
            (after(-60_001), &[], false),
            (after(2_001), &["click_within_10s:2"], false),
            (after(10_001), &["click_within_60s:1"], false),
            (after(60_001), &[], false),
            (after(3_600_001), &[], false),
            (burst(none), &["click_burst:2"], false),
            (
                burst(after(60_000)),
                &["click_within_60s:1", "click_burst:2"],
                true,
            ),
            (burst(after(60_001)), &["click_burst:2"], false),
            (tool(none), &["tool_agent:7"], true),
            (
                tool(after(3_600_001)),
                &["click_after_1h:-4", "tool_agent:7"],
                true,
            ),
            (blank(none), &["blank_agent:5"], true),
            (
                blank(after(3_600_001)),
                &["click_after_1h:-4", "blank_agent:5"],
                false,
            ),
            (flag(none), &["provider_flag:6"], true),
            (
                flag(burst(after(3_600_001))),
                &["click_after_1h:-4", "click_burst:2", "provider_flag:6"],
                true,
            ),
        ];
        for (evidence, reasons, machine) in table {
            let points = evidence.points();
            assert_eq!(points.reasons(), reasons, "{evidence:?}");
            assert_eq!(points.are_a_machines(), machine, "{evidence:?}");
        }
    }

    #[test]
    fn opens_get_the_points_of_the_table() {
        let none = OpenEvidence::default();
        let table: [(OpenEvidence, &[&str], bool); 10] = [
            (none, &[], false),
            (
                OpenEvidence {
                    provider_says_so: true,
                    picture_proxy: true,
                    ..none
                },
                &["provider_flag:6"],
                true,
            ),
            (
                OpenEvidence {
                    tool_agent: true,
                    ..none
                },
                &["tool_agent:7"],
                true,
            ),
            (
                OpenEvidence {
                    blank_agent: true,
                    ..none
                },
                &["blank_agent:5"],
                true,
            ),
            (
                OpenEvidence {
                    prefetch_agent: true,
                    ..none
                },
                &["prefetch_agent:4"],
                true,
            ),
            (
                OpenEvidence {
                    relay_address: true,
                    ..none
                },
                &["relay_address:4"],
                true,
            ),
            (
                OpenEvidence {
                    after_ms: Some(1_500),
                    ..none
                },
                &["open_within_2s:3"],
                true,
            ),
            (
                OpenEvidence {
                    after_ms: Some(2_500),
                    ..none
                },
                &[],
                false,
            ),
            (
                OpenEvidence {
                    near_click: true,
                    ..none
                },
                &["near_machine_click:3"],
                true,
            ),
            (
                OpenEvidence {
                    picture_proxy: true,
                    after_ms: Some(500),
                    machine_address: true,
                    near_click: true,
                    ..none
                },
                &[],
                false,
            ),
        ];
        for (evidence, reasons, machine) in table {
            let points = evidence.points();
            assert_eq!(points.reasons(), reasons, "{evidence:?}");
            assert_eq!(points.are_a_machines(), machine, "{evidence:?}");
        }
    }
}
