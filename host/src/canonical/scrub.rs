//! Removes addresses from texts and enforces their limits.

use std::borrow::Cow;

use event::{
    identity::{Hasher, MAX_EMAIL_BYTES},
    redact::{PLACEHOLDER, Redactor},
};
use percent_encoding::percent_decode_str;

/// Longest id. The longest ones of known providers have 200 bytes.
const MAX_ID_BYTES: usize = 512;

/// Longest message of a plugin in a response, a log line or a dead letter's header.
const MAX_SENTENCE_BYTES: usize = 300;

/// How many layers of percent-encoding are searched: links contain links.
const PERCENT_LAYERS: usize = 3;

/// Cleans the texts of one event.
pub(super) struct Scrubber {
    redactor: Redactor,
}

impl Scrubber {
    /// Creates the scrubber of an event whose recipient is given as `raw` and whose normalized address is `address`.
    pub(super) fn new(raw: Option<&str>, address: Option<&str>) -> Self {
        // A recipient that is longer than any address is not one: searching for it would be wasted.
        let raw = raw.filter(|raw| raw.len() <= MAX_EMAIL_BYTES);
        // `Ann <ann@example.com>` is no address, but contains one.
        let bare = raw
            .and_then(|raw| raw.rsplit_once('<')?.1.split_once('>'))
            .map(|(bare, _)| bare);
        Self {
            redactor: Redactor::for_recipient([raw, bare, address].into_iter().flatten()),
        }
    }

    /// Returns a human-readable text without addresses and of at most `max` bytes; `None` when nothing is left.
    pub(super) fn text(&self, text: String, max: usize) -> Option<String> {
        let text = without_nul(text);
        let redacted = match self.redactor.text(&text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(redacted) => Some(redacted),
        };
        let mut text = redacted.unwrap_or(text);
        if self.still_shows_own(&text) {
            PLACEHOLDER.clone_into(&mut text);
        }
        // Cut after redacting: a truncated address would not be found.
        cut(&mut text, max);
        is_said(text)
    }

    /// Returns an id, which may look like an address but must not be the recipient's.
    pub(super) fn id(&self, id: String, hasher: &Hasher) -> Option<String> {
        let id = without_nul(id);
        let redacted = match self.redactor.own_address(&id) {
            Cow::Borrowed(_) => None,
            Cow::Owned(redacted) => Some(redacted),
        };
        let id = redacted.unwrap_or(id);
        if self.still_shows_own(&id) {
            // Ids must stay distinct, so this one is not replaced by a placeholder. Without the pepper, whoever knows an address
            // could try the few spellings that it may have in an id.
            return Some(hashed(&id, hasher));
        }
        is_said(shorten_id(id))
    }

    /// Checks whether a text contains an address: the recipient's in any spelling, or another's.
    pub(super) fn shows_address(&self, text: &str) -> bool {
        matches!(self.redactor.text(text), Cow::Owned(_))
            || self.still_shows_own(text)
            || event::identity::normalize_email(text).is_ok()
    }

    /// Checks whether the recipient's address is still there, because any of its characters are percent-encoded, perhaps
    /// several times over.
    fn still_shows_own(&self, text: &str) -> bool {
        let mut layer = Cow::Borrowed(text);
        for _ in 0..PERCENT_LAYERS {
            match percent_decoded(&layer) {
                Some(decoded) => layer = Cow::Owned(decoded),
                None => return false,
            }
            if matches!(self.redactor.own_address(&layer), Cow::Owned(_)) {
                return true;
            }
        }
        false
    }
}

/// Returns a plugin's message in a form fit for responses, logs and headers.
pub(crate) fn sentence(text: &str) -> String {
    let mut text = on_one_line(text);
    if let Cow::Owned(redacted) = Redactor::default().text(&text) {
        text = redacted;
    }
    cut(&mut text, MAX_SENTENCE_BYTES);
    text
}

/// Returns a text with blanks in place of control characters.
pub(crate) fn on_one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// Returns the id, or its hash when it is too long.
pub(super) fn shorten_id(id: String) -> String {
    if id.len() <= MAX_ID_BYTES {
        id
    } else {
        hashed(&id, &Hasher::new())
    }
}

/// Returns the text without NUL, which PostgreSQL cannot store.
pub(super) fn without_nul(mut text: String) -> String {
    if text.contains('\0') {
        text.retain(|letter| letter != '\0');
    }
    text
}

fn hashed(id: &str, hasher: &Hasher) -> String {
    format!("sha256:{}", hasher.text(id))
}

fn is_said(text: String) -> Option<String> {
    if text.trim().is_empty() { None } else { Some(text) }
}

/// Truncates a text at a character boundary.
fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

/// Returns the text with one layer of percent-encoding removed, or `None` when there is none.
fn percent_decoded(text: &str) -> Option<String> {
    match Cow::from(percent_decode_str(text)) {
        Cow::Borrowed(_) => None,
        Cow::Owned(decoded) => Some(String::from_utf8_lossy(&decoded).into_owned()),
    }
}
