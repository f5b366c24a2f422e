//! What a decision was computed from besides its request: stored with the explanation, so that the decision can be recomputed
//! after person, settings and providers have changed.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use event::profile::Profile;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::{
    config::{HotPath, PolicyConfig},
    decision::{Draw, FullMinutes},
    latency::WeekOfLatency,
};

/// What a decision was computed from, besides the request and the population's tables, which the explanation names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    /// Whether the request set `now`.
    pub now_was_told: bool,
    /// The caller's estimate of the delay in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_latency_seconds: Option<Exact>,
    /// The profile in its stored form, base64: times of mails, opens and clicks, and nothing that identifies anybody.
    #[schema(value_type = String)]
    pub profile: Base64,
    /// Expected delay in milliseconds of mail handed over in each of the twelve parts of the week (weekdays, then weekend, by four
    /// hours of UTC); a single value if all are the same.
    pub latency_ms: Vec<i64>,
    /// How signals were weighted.
    pub policy: Policy,
    /// How the experiment drew; absent if the decision takes no part in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// Allowed minutes in which the provider had no room; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_minutes: Option<FullMinutes>,
}

impl Inputs {
    pub(crate) fn profile_of(profile: &Profile) -> Base64 {
        Base64(if profile.is_empty() {
            Vec::new()
        } else {
            profile.to_bytes()
        })
    }

    /// Returns the profile that was used; `None` if the bytes cannot be decoded.
    pub(crate) fn profile(&self) -> Option<Profile> {
        if self.profile.0.is_empty() {
            return Some(Profile::default());
        }
        Profile::from_bytes(&self.profile.0).ok()
    }

    pub(crate) fn latency_of(week: &WeekOfLatency) -> Vec<i64> {
        let mut ms = week.milliseconds();
        if ms.iter().all(|part| *part == ms[0]) {
            ms.truncate(1);
        }
        ms
    }
}

/// A number stored as text, because JSON readers may change the last bits of a number.
#[derive(Debug, Clone, Copy, PartialEq, ToSchema)]
#[schema(value_type = String, example = "0.5")]
pub(crate) struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number
            .map(Self)
            .ok_or_else(|| de::Error::custom("must be a number in quotes"))
    }
}

/// A seed stored as text: clients read a number as a signed one of 64 bits, or as a double, and neither holds every seed. In
/// explanations of earlier versions it is a number, and stays one, so that a replay of them is the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seed {
    number: u64,
    is_text: bool,
}

impl Seed {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            is_text: true,
        }
    }

    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_text {
            true => serializer.collect_str(&self.number),
            false => serializer.serialize_u64(self.number),
        }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = match &value {
            serde_json::Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        match number {
            Some(number) => Ok(Self {
                number,
                is_text: value.is_string(),
            }),
            None => Err(de::Error::custom("must be a whole number in quotes")),
        }
    }
}

/// Bytes stored as base64 text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(text);
        bytes.map(Self).map_err(|_| de::Error::custom("must be base64"))
    }
}

/// How signals were weighted: the sections `[inference.hot_paths]` and `[inference.breakers]` as weights and seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// Weight and half-life in seconds of each hot path: site visit, product view, SMS click, push click.
    #[schema(value_type = Vec<Vec<Value>>, example = json!([["0.5", 1800]]))]
    hot_paths: [(Exact, u64); 4],
    /// Seconds of silence: complaint, support ticket, unsubscription, hard bounce.
    #[schema(value_type = Vec<i64>)]
    breaker_seconds: [u64; 4],
}

impl From<&PolicyConfig> for Policy {
    fn from(config: &PolicyConfig) -> Self {
        let path = |path: HotPath| (Exact(path.weight), path.half_life.as_secs());
        Self {
            hot_paths: [
                path(config.site_visit),
                path(config.product_view),
                path(config.sms_click),
                path(config.push_click),
            ],
            breaker_seconds: [
                config.marked_spam.as_secs(),
                config.support_ticket.as_secs(),
                config.unsubscribed.as_secs(),
                config.hard_bounce.as_secs(),
            ],
        }
    }
}

impl From<&Policy> for PolicyConfig {
    fn from(policy: &Policy) -> Self {
        let [site_visit, product_view, sms_click, push_click] =
            policy.hot_paths.map(|(weight, seconds)| HotPath {
                weight: weight.0,
                half_life: Duration::from_secs(seconds),
            });
        let [marked_spam, support_ticket, unsubscribed, hard_bounce] =
            policy.breaker_seconds.map(Duration::from_secs);
        Self {
            site_visit,
            product_view,
            sms_click,
            push_click,
            marked_spam,
            support_ticket,
            unsubscribed,
            hard_bounce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        for number in [0.1 + 0.2, 1e-300, 0.0, 12_345.678_9, f64::MIN_POSITIVE] {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), number.to_bits(), "{text}");
        }
        for bad in ["\"NaN\"", "\"inf\"", "1.0", "\"one\""] {
            assert!(serde_json::from_str::<Exact>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_policy_comes_back() {
        let mut config = crate::InferenceConfig::default().policy;
        config.site_visit.weight = 1.0 / 3.0;
        config.hard_bounce = Duration::from_secs(77);
        let text = serde_json::to_string(&Policy::from(&config)).unwrap();
        let back: Policy = serde_json::from_str(&text).unwrap();
        assert_eq!(PolicyConfig::from(&back), config);
    }
}
