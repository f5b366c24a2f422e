//! Who made an open or a click.
use std::collections::HashMap;
use event::{Event, UniversalId, profile::Profile};
use crate::ConsumerConfig;
#[derive(Debug)]
pub(super) struct Judge;
pub(super) struct Verdict { pub(super) machine: bool, pub(super) reasons: Vec<String> }
impl Judge {
    pub(super) fn new(_: &ConsumerConfig) -> Self { Self }
    pub(super) fn judge(&mut self, batch: &[Event], _: &HashMap<UniversalId, Profile>) -> Vec<Verdict> {
        batch.iter().map(|_| Verdict { machine: false, reasons: vec![] }).collect()
    }
}
