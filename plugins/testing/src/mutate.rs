//! Real deliveries, damaged: what a plugin must survive.

use std::time::{Duration, Instant};

use sendflowr_plugin_sdk::{Batch, Event, Outcome, Plugin, Request};
use serde_json::Value;

/// Damaged copies of each delivery. Enough to meet every field of the samples several times, in well under a second.
const MUTANTS: usize = 400;

/// A damaged delivery may take this many times the time of the whole one.
const SLOWER_AT_MOST: u32 = 10;

/// Times below this are noise of the machine: real work on a sample takes far less, a blow-up far more.
const NOISE: Duration = Duration::from_millis(50);

/// How often a delivery that took too long is measured again before it counts.
const SECOND_LOOKS: usize = 5;

/// Pseudo-random numbers (xorshift), the same on every run, so that a failure can be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }
}

/// Damages the request again and again and panics when a damaged one is not handled as it should be.
pub(crate) fn check<P: Plugin>(name: &str, request: &Request, random: &mut Random) {
    let whole = timed(|| drop(P::normalize(request)));
    let limit = (whole * SLOWER_AT_MOST).max(NOISE);
    for number in 0..MUTANTS {
        let mut mutant = request.clone();
        mutant.body = damaged(&request.body, number, random);
        let _ = P::authenticate(&mutant);
        let mut outcome = None;
        let mut spent = timed(|| outcome = Some(P::normalize(&mutant)));
        // A machine that was busy with something else is not busy every time; a slow plugin is slow every time.
        for _ in 0..SECOND_LOOKS {
            if spent > limit {
                spent = spent.min(timed(|| outcome = Some(P::normalize(&mutant))));
            }
        }
        let shown = String::from_utf8_lossy(&mutant.body);
        assert!(
            spent <= limit,
            "{name}: {spent:?} instead of {whole:?} for {shown}"
        );
        if let Some(Ok(Outcome::Events(batch))) = outcome
            && let Err(fault) = sound(&batch)
        {
            panic!("{name}: {fault} for {shown}");
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// What every batch must be, whatever it was made of.
fn sound(batch: &Batch) -> Result<(), String> {
    for event in &batch.events {
        let names_someone =
            event.recipient_email.is_some() || !event.identifiers.is_empty() || event.message_id.is_some();
        if !names_someone {
            return Err(format!("event {} names nobody", event.index));
        }
        if jiff::Timestamp::from_millisecond(event.timestamp_ms).is_err() || event.timestamp_ms < 0 {
            return Err(format!("event {} has no time", event.index));
        }
        if blank_text(event) {
            return Err(format!("event {} has an empty field", event.index));
        }
    }
    let events = batch.events.iter().map(|event| event.index);
    let skipped = batch.skipped.iter().map(|skipped| skipped.index);
    let rejected = batch.rejected.iter().map(|rejected| rejected.index);
    if events.is_sorted() && skipped.is_sorted() && rejected.is_sorted() {
        Ok(())
    } else {
        Err("the lists are not in the delivery's order".to_owned())
    }
}

/// Absent fields are absent, never empty: an empty id would make strangers one person.
fn blank_text(event: &Event) -> bool {
    let optional = [
        &event.provider_event_id,
        &event.recipient_email,
        &event.campaign_id,
        &event.message_id,
        &event.click_url,
        &event.ip_address,
    ];
    optional.into_iter().flatten().any(|text| text.trim().is_empty())
        || event
            .identifiers
            .iter()
            .any(|identifier| identifier.value.trim().is_empty())
}

fn damaged(body: &[u8], number: usize, random: &mut Random) -> Vec<u8> {
    let json = serde_json::from_slice::<Value>(body).ok();
    match (number % 4, json) {
        (0, _) | (_, None) => damaged_bytes(body, random),
        (_, Some(mut json)) => {
            for _ in 0..=random.below(3) {
                let target = random.below(count(&json));
                damage_value(&mut json, target, random);
            }
            json.to_string().into_bytes()
        }
    }
}

/// Cut off, a byte changed, a stretch doubled, or something else altogether.
fn damaged_bytes(body: &[u8], random: &mut Random) -> Vec<u8> {
    let at = random.below(body.len());
    let mut bytes = body.to_vec();
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 => {
            let end = at + random.below(body.len() - at);
            bytes.splice(at..at, body[at..end].iter().copied());
        }
        _ => bytes = (0..random.below(200)).map(|_| random.next() as u8).collect(),
    }
    bytes
}

fn count(json: &Value) -> usize {
    1 + match json {
        Value::Array(elements) => elements.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Damages the value at this position in depth-first order; gives what is left of the position.
fn damage_value(json: &mut Value, target: usize, random: &mut Random) -> Option<usize> {
    if target == 0 {
        *json = replacement(json, random);
        return None;
    }
    let mut left = target - 1;
    match json {
        Value::Array(elements) => {
            for element in elements {
                left = damage_value(element, left, random)?;
            }
        }
        Value::Object(fields) => {
            if left < fields.len()
                && random.below(3) == 0
                && let Some(name) = fields.keys().nth(left).cloned()
            {
                fields.remove(&name);
                return None;
            }
            for field in fields.values_mut() {
                left = damage_value(field, left, random)?;
            }
        }
        _ => {}
    }
    Some(left)
}

fn replacement(json: &Value, random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2 => Value::from(random.next()),
        3 => Value::from(-1.5e300),
        4 => Value::from(""),
        5 => Value::from("\u{0}é😀 \"<@>;=&%5B"),
        6 => Value::Array(Vec::new()),
        7 => Value::Object(serde_json::Map::new()),
        8 => Value::from(json.to_string()),
        _ => {
            let mut nested = json.clone();
            for _ in 0..random.below(300) {
                nested = Value::Array(vec![nested]);
            }
            nested
        }
    }
}
