//! Counts skipped elements (understood, but without an event) by type, so that a provider's new type is noticed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::{canonical::scrub, plugin::types::Skipped};

/// Number of skipped types remembered per provider. The longest documented list has 40, but where senders choose the
/// names there may be any number.
const MAX_SKIPPED_TYPES: usize = 64;

/// The name under which further types are counted.
const OTHER_TYPES: &str = "other";

/// A type of skipped elements within a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SkippedType {
    name: String,
    /// The reason of the first such element.
    reason: String,
    count: u64,
}

/// Groups skipped elements by type; types beyond the limit are counted as one.
pub(crate) fn skipped_types(skipped: &[Skipped]) -> Vec<SkippedType> {
    let mut counts: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    let mut rest = 0;
    for element in skipped {
        if let Some((_, count)) = counts.get_mut(element.provider_type.as_str()) {
            *count += 1;
        } else if counts.len() < MAX_SKIPPED_TYPES {
            counts.insert(&element.provider_type, (&element.reason, 1));
        } else {
            rest += 1;
        }
    }
    let types = counts.into_iter().map(|(name, (reason, count))| SkippedType {
        name: scrub::sentence(name),
        reason: scrub::sentence(reason),
        count,
    });
    let mut types: Vec<SkippedType> = types.collect();
    if rest > 0 {
        types.push(SkippedType {
            name: OTHER_TYPES.to_owned(),
            reason: format!("a delivery has more than {MAX_SKIPPED_TYPES} types"),
            count: rest,
        });
    }
    types
}

/// How often each type of each provider was skipped, so that a new type is noticed.
#[derive(Debug, Default)]
pub(crate) struct SkippedTypes(Mutex<BTreeMap<String, BTreeMap<String, u64>>>);

impl SkippedTypes {
    /// Adds the counts of a delivery, and logs the first element of each type.
    pub(crate) fn add(&self, provider: &str, skipped: &[SkippedType]) {
        if skipped.is_empty() {
            return;
        }
        let mut new = Vec::new();
        {
            let mut providers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let types = providers.entry(provider.to_owned()).or_default();
            for found in skipped {
                if let Some(count) = types.get_mut(&found.name) {
                    *count += found.count;
                    continue;
                }
                let name = match types.len() < MAX_SKIPPED_TYPES {
                    true => found.name.as_str(),
                    false => OTHER_TYPES,
                };
                let count = types.entry(name.to_owned()).or_default();
                if *count == 0 {
                    new.push((name, found));
                }
                *count += found.count;
            }
        }
        for (name, found) in new {
            tracing::info!(
                provider,
                r#type = found.name,
                "first element of type `{}` of `{provider}` skipped: {}{}",
                found.name,
                found.reason,
                match name == OTHER_TYPES {
                    true => "; this type and further ones are counted as `other`",
                    false => "",
                }
            );
        }
    }

    /// Returns a provider's skipped types and their counts since the start.
    pub(crate) fn of(&self, provider: &str) -> BTreeMap<String, u64> {
        let providers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        providers.get(provider).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(names: impl IntoIterator<Item = String>) -> Vec<SkippedType> {
        let elements = names.into_iter().map(|name| Skipped {
            index: 0,
            provider_type: name,
            reason: "of no use".to_owned(),
        });
        skipped_types(&elements.collect::<Vec<_>>())
    }

    #[test]
    fn types_beyond_those_remembered_are_counted_together() {
        let types = SkippedTypes::default();
        let named = |n: usize| format!("type {n:02}");
        types.add("acme", &skipped((0..MAX_SKIPPED_TYPES).map(named)));
        assert_eq!(types.of("acme").len(), MAX_SKIPPED_TYPES);
        let late = ["late", "later", "late", "type 07"].map(str::to_owned);
        types.add("acme", &skipped(late));
        let counts = types.of("acme");
        assert_eq!((counts[OTHER_TYPES], counts["type 07"]), (3, 2));
        assert_eq!(counts.len(), MAX_SKIPPED_TYPES + 1);
        assert!(types.of("other").is_empty());
    }

    #[test]
    fn a_delivery_of_many_types_names_some_and_counts_all() {
        let found = skipped((0..1_000).map(|n| format!("type {n}")));
        assert_eq!(found.len(), MAX_SKIPPED_TYPES + 1);
        assert_eq!(found.iter().map(|found| found.count).sum::<u64>(), 1_000);
    }
}
