//! Creates damaged copies of a real body.

use serde_json::Value;

/// Pseudorandom numbers (xorshift), the same in every run, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
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

/// An endless sequence of copies of a body, each damaged in another way: fields dropped, types changed, nested deeper, cut off,
/// other bytes. The copies are the same in every run, so that a failure can be repeated.
pub struct Damage<'a> {
    body: &'a [u8],
    random: Random,
    number: usize,
}

impl<'a> Damage<'a> {
    /// Creates copies of this body; another seed gives other copies.
    pub fn of(body: &'a [u8], seed: u64) -> Damage<'a> {
        Damage {
            body,
            random: Random::new(seed),
            number: 0,
        }
    }
}

impl Iterator for Damage<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let number = self.number;
        self.number += 1;
        Some(damaged(self.body, number, &mut self.random))
    }
}

fn damaged(body: &[u8], number: usize, random: &mut Random) -> Vec<u8> {
    // Every fourth copy is damaged without regard to its structure.
    if number.is_multiple_of(4) {
        return damaged_bytes(body, random);
    }
    if let Ok(mut json) = serde_json::from_slice::<Value>(body) {
        damage_json(&mut json, random);
        return json.to_string().into_bytes();
    }
    match std::str::from_utf8(body) {
        Ok(form) if form.contains('=') => damaged_form(form, random).into_bytes(),
        _ => damaged_bytes(body, random),
    }
}

fn damage_json(json: &mut Value, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let target = random.below(count(json));
        damage_value(json, target, random);
    }
}

/// Returns a form with one field dropped, duplicated or damaged; a field that contains JSON is damaged inside.
fn damaged_form(form: &str, random: &mut Random) -> String {
    let mut fields: Vec<String> = form.split('&').map(str::to_owned).collect();
    let target = random.below(fields.len());
    let field = fields[target].clone();
    let (name, value) = field.split_once('=').unwrap_or((&field, ""));
    let text = decoded(value);
    match (random.below(6), serde_json::from_str::<Value>(&text)) {
        (0, _) => {
            fields.remove(target);
        }
        (1, _) => fields.push(field),
        (_, Ok(mut json)) if json.is_array() || json.is_object() => {
            damage_json(&mut json, random);
            fields[target] = format!("{name}={}", encoded(&json.to_string()));
        }
        _ => {
            let value = match replacement(&Value::from(text), random) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            fields[target] = format!("{name}={}", encoded(&value));
        }
    }
    fields.join("&")
}

/// Returns a field of a form as text. Bytes that are not UTF-8 are replaced: it is about to be damaged anyway.
fn decoded(field: &str) -> String {
    let field = field.as_bytes();
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let digits = field
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                at += 2;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    let mut field = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            field.push(char::from(byte));
        } else {
            field.push_str(&format!("%{byte:02X}"));
        }
    }
    field
}

/// Returns the body cut off, with one byte changed, with a part duplicated, or replaced by random bytes.
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

/// Damages the value at this position in depth-first order; returns what is left of the position.
fn damage_value(json: &mut Value, target: usize, random: &mut Random) -> Option<usize> {
    if target == 0 {
        *json = match inner(json) {
            // A document inside a text, as in SNS's envelope, is damaged inside more often than as a whole.
            Some(mut inner) if random.below(4) > 0 => {
                damage_json(&mut inner, random);
                Value::from(inner.to_string())
            }
            _ => replacement(json, random),
        };
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

/// Returns the document that a text contains.
fn inner(json: &Value) -> Option<Value> {
    let inner: Value = serde_json::from_str(json.as_str()?).ok()?;
    (inner.is_object() || inner.is_array()).then_some(inner)
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
