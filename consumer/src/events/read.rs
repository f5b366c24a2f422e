//! The first stage: reads batches, and commits those that have passed all stages.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use event::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::Span;

use super::{Context, Decoded, IDLE_WAIT, IN_FLIGHT, Settled, Ticket, numeric_id};
use crate::{
    ConsumerError, EVENTS_GROUP,
    dead_letter::DeadLetter,
    decode::decode,
    error::Interrupted,
    poll::{ReadBatch, Reader},
    recent::Recent,
};

/// Longest wait for records while batches are in flight: batches that finish meanwhile are committed after it, and a
/// consumer that takes over reads again what is not committed.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// How long nothing may be read, because the other stages are stuck, before this process assumes that others read its partitions.
/// Kafka gives them to others after five minutes, and the member hears of it in its next poll only.
const ASSUME_LOST_AFTER: Duration = Duration::from_secs(4 * 60);

pub(super) async fn run(
    context: Context,
    next: mpsc::Sender<Decoded>,
    settled: mpsc::Receiver<Settled>,
) -> Result<(), ConsumerError> {
    let joined = Reader::join(
        context.dependencies.bus.as_ref(),
        EVENTS_GROUP,
        &context.config,
        &context.dependencies.metrics,
        &context.stop,
    );
    let reading = async {
        let stage = ReadStage {
            reader: joined.await?,
            context: &context,
            ids: Recent::new(context.config.entries()),
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            settled,
            assumed_losses: 0,
        };
        stage.run(next).await
    };
    Interrupted::outcome(reading.await)
}

struct ReadStage<'a> {
    reader: Reader<'a>,
    context: &'a Context,
    /// Ids of events that are in flight or were stored recently. Providers repeat deliveries within minutes: those repeats
    /// are dropped here.
    ids: Recent<u128, ()>,
    places: Arc<Semaphore>,
    settled: mpsc::Receiver<Settled>,
    /// How often nothing was read for [`ASSUME_LOST_AFTER`].
    assumed_losses: u64,
}

impl ReadStage<'_> {
    async fn run(mut self, next: mpsc::Sender<Decoded>) -> Result<(), Interrupted> {
        loop {
            let place = self.place().await;
            self.commit_settled().await;
            let is_idle = self.places.available_permits() == IN_FLIGHT - 1;
            let wait = if is_idle { IDLE_WAIT } else { BUSY_WAIT };
            let batch = match self.reader.next_batch(wait).await {
                Ok(batch) => batch,
                Err(Interrupted::Shutdown) => break,
                Err(fatal) => return Err(fatal),
            };
            self.tell_losses();
            let Some(batch) = batch else { continue };
            let decoded = self.decode(batch, place);
            if next.send(decoded).await.is_err() {
                break;
            }
        }
        // The other stages see that nothing more comes, and end when they are done.
        drop(next);
        while let Some(settled) = self.settled.recv().await {
            self.commit(settled).await;
        }
        Ok(())
    }

    /// Waits until another batch may be in flight; commits meanwhile.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        let mut too_long = pin!(tokio::time::sleep(ASSUME_LOST_AFTER));
        let mut is_too_long = false;
        loop {
            let places = Arc::clone(&self.places);
            tokio::select! {
                place = places.acquire_owned() => {
                    return place.expect("it is never closed");
                }
                Some(settled) = self.settled.recv() => self.commit(settled).await,
                () = &mut too_long, if !is_too_long => {
                    is_too_long = true;
                    self.assumed_losses += 1;
                    self.tell_losses();
                }
            }
        }
    }

    /// Lets the last stage know how often partitions were lost.
    fn tell_losses(&self) {
        let losses = self.reader.losses() + self.assumed_losses;
        self.context.losses.store(losses, Ordering::Release);
    }

    /// Commits the batches that have passed all stages, and what could not be committed before.
    async fn commit_settled(&mut self) {
        while let Ok(settled) = self.settled.try_recv() {
            self.commit(settled).await;
        }
        self.reader.commit(&Span::none()).await;
    }

    async fn commit(&mut self, settled: Settled) {
        for id in &settled.refused {
            // Forgotten, so that it is tried again when an operator puts its dead letter back.
            self.ids.remove(id);
        }
        self.reader.dealt_with(&settled.progress);
        self.reader.commit(&settled.span).await;
    }

    /// Decodes the records; drops events that occur twice in them, are in flight or were stored recently.
    fn decode(&mut self, batch: ReadBatch, place: OwnedSemaphorePermit) -> Decoded {
        let ReadBatch {
            records,
            progress,
            losses,
            span,
        } = batch;
        let ticket = Ticket {
            progress,
            span,
            read_at: Instant::now(),
            records: records.len(),
            losses: losses + self.assumed_losses,
            oldest: records.iter().map(|record| record.appended_at).min(),
            _place: place,
        };
        let _entered = ticket.span.clone().entered();
        let _decoding = tracing::debug_span!("decode").entered();
        let (mut kept, mut events) = (
            Vec::with_capacity(records.len()),
            Vec::with_capacity(records.len()),
        );
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut repeats = 0;
        for record in records {
            match decode(&record) {
                Ok(event) => {
                    if self.is_repeat(&event) {
                        repeats += 1;
                    } else {
                        kept.push(record);
                        events.push(event);
                    }
                }
                Err(letter) => letters.push(letter),
            }
        }
        self.context.dependencies.metrics.stored(0, repeats);
        Decoded {
            ticket,
            records: kept,
            events,
            letters,
        }
    }

    fn is_repeat(&mut self, event: &Event) -> bool {
        let Some(id) = numeric_id(event) else {
            return false;
        };
        if self.ids.get(&id).is_some() {
            return true;
        }
        self.ids.insert(id, ());
        false
    }
}
