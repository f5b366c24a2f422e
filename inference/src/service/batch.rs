//! Decides a batch window by window: reading people and choosing for each of them alone can run ahead; after that, the
//! choices of one window after the other are fitted into the providers' capacity.

use std::sync::Arc;

use tracing::Instrument;

use super::{Basis, Decision, Service, Weighed};
use crate::{
    decision::{Capacity, Room},
    error::ApiError,
    explanation::Explanation,
    inquiry::Inquiry,
    person::{Known, Wanted},
};

/// Number of lines decided together. Within them, the line that loses most chooses first. Enough for one query to each store
/// to cost little per person, and 20 MB at most.
pub(crate) const WINDOW_LINES: usize = 1_024;

/// A batch in progress.
pub(crate) struct Batch {
    service: Arc<Service>,
    capacity: Capacity,
    /// The minutes that are taken; `None` once they are lost.
    room: Option<Room>,
}

/// The lines of a window, each with its choice or its error. Boxed: a choice carries 4 kB of profile.
pub(crate) struct Window(Vec<Result<Box<Weighed>, ApiError>>);

impl Service {
    /// Chooses for each line the minute that it would get alone.
    pub(crate) async fn weigh_all(self: Arc<Self>, lines: Vec<Result<Inquiry, ApiError>>) -> Window {
        let count = lines.len();
        let inquiries = lines.iter().filter_map(|line| line.as_ref().ok());
        let wanted: Vec<Wanted> = inquiries.map(Inquiry::wanted).collect();
        let reading = self.people.read(&wanted);
        let known = reading
            .instrument(tracing::debug_span!("read people", people = wanted.len()))
            .await;
        // A thousand curves take a good part of a second: too long for a thread that serves other requests.
        let weighing = tokio::task::spawn_blocking(move || self.weigh_each(lines, known));
        Window(weighing.await.unwrap_or_else(|_| all(&ApiError::Internal, count)))
    }

    fn weigh_each(
        &self,
        lines: Vec<Result<Inquiry, ApiError>>,
        known: Vec<Result<Known, ApiError>>,
    ) -> Vec<Result<Box<Weighed>, ApiError>> {
        let mut known = known.into_iter();
        let mut weighed = Vec::with_capacity(lines.len());
        for line in lines {
            let choice = line.and_then(|inquiry| {
                let known = known.next().expect("every requested person was looked up")?;
                self.weigh(inquiry, known).map(Box::new)
            });
            weighed.push(choice);
        }
        weighed
    }
}

impl Batch {
    pub(crate) fn new(service: Arc<Service>, capacity: Capacity) -> Self {
        Self {
            service,
            capacity,
            room: Some(Room::default()),
        }
    }

    /// Fits the window's choices into the providers' capacity and returns the decisions, in their order.
    pub(crate) async fn tell(&mut self, window: Window) -> Vec<Result<Decision, ApiError>> {
        let count = window.0.len();
        let told = match self.room.take() {
            Some(room) => self.placed(window, room).await,
            None => all(&ApiError::BrokenBatch, count),
        };
        let mut decisions = Vec::with_capacity(count);
        for answer in told {
            let decision = match answer {
                Ok((told, explain)) => self.service.deliver(Ok(told), explain).await,
                Err(error) => self.service.deliver(Err(error), false).await,
            };
            decisions.push(decision);
        }
        decisions
    }

    /// Fits the window's choices into the capacity that is left, and keeps what is left after them.
    async fn placed(&mut self, window: Window, mut room: Room) -> Vec<Told> {
        let count = window.0.len();
        let capacity = self.capacity.clone();
        let telling = tokio::task::spawn_blocking(move || {
            let mut choices = window.0;
            make_room(&mut choices, &capacity, &mut room);
            let told: Vec<Told> = choices
                .into_iter()
                .map(|choice| choice.map(|weighed| (weighed.told(), weighed.basis.inquiry.explain)))
                .collect();
            (told, room)
        });
        // Without its table of taken minutes nothing can be guaranteed for the rest: every later line fails too.
        let Ok((told, room)) = telling.await else {
            return all(&ApiError::Internal, count);
        };
        self.room = Some(room);
        told
    }
}

type Told = Result<((Decision, Explanation), bool), ApiError>;

fn all<T>(error: &ApiError, count: usize) -> Vec<Result<T, ApiError>> {
    (0..count).map(|_| Err(error.clone())).collect()
}

/// The line that loses most by moving chooses first; of equals, the earlier line. The loss is that of the model's choice, before
/// the experiment draws: a group that chose first, or was refused less often, would no longer be comparable to the other.
fn make_room(choices: &mut [Result<Box<Weighed>, ApiError>], capacity: &Capacity, room: &mut Room) {
    let mut order: Vec<(usize, f64, u32)> = Vec::with_capacity(choices.len());
    for (index, choice) in choices.iter_mut().enumerate() {
        let Ok(weighed) = choice else { continue };
        match capacity.of(weighed.basis.inquiry.esp.as_deref()) {
            Some(per_minute) => {
                order.push((index, weighed.choice.stake(weighed.basis.facts()), per_minute));
            }
            None => weighed.draw_alone(),
        }
    }
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (index, _, per_minute) in order {
        let Ok(weighed) = &mut choices[index] else {
            continue;
        };
        let esp = weighed.basis.inquiry.esp.clone().unwrap_or_default();
        let Basis { draw, .. } = &weighed.basis;
        let facts = weighed.basis.facts();
        match weighed
            .choice
            .placed(draw.as_ref(), facts, room.of(&esp, per_minute))
        {
            Some(choice) => {
                room.take(&esp, choice.trigger_at);
                weighed.choice = choice;
            }
            None => choices[index] = Err(ApiError::OverCapacity { per_minute }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use arc_swap::ArcSwap;
    use event::Hasher;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{
        Dependencies, InferenceConfig, explanation::Explanations, metrics::Metrics, model::Population,
    };

    #[tokio::test]
    async fn lines_after_a_lost_table_of_minutes_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let stores = store::testing::open_embedded(folder.path()).await.unwrap();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let config = InferenceConfig::default();
        let (explanations, _writers) = Explanations::start(stores.events.clone(), 1, metrics.clone());
        let dependencies = Dependencies {
            events: stores.events,
            identities: stores.identities,
            profiles: stores.profiles,
            hasher: Hasher::new(),
            registry: Arc::new(Mutex::new(registry)),
        };
        let population = Arc::new(ArcSwap::from_pointee(Population::builtin()));
        let service = Service::new(&config, dependencies, explanations, population, metrics);
        let capacity = Capacity {
            of_each: Some(1),
            by_esp: BTreeMap::new(),
        };
        let mut batch = Batch::new(Arc::new(service), capacity);
        let window = || Window(vec![Err(ApiError::LineTooLong { limit_bytes: 1 })]);
        let told = Box::pin(batch.tell(window())).await;
        assert!(matches!(told[..], [Err(ApiError::LineTooLong { .. })]));
        // What a panic leaves behind.
        batch.room = None;
        for _ in 0..2 {
            let told = Box::pin(batch.tell(window())).await;
            assert!(matches!(told[..], [Err(ApiError::BrokenBatch)]));
        }
    }
}
