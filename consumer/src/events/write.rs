//! The third stage: writes a batch, whatever it contains.

use store::{
    StoreError,
    events::{Events, StoredEvent, WriteReport},
};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Context, Prepared, Written, numeric_id};
use crate::{
    ConsumerError,
    dead_letter::{Cause, DeadLetter, set_aside},
    error::Interrupted,
    retry::Attempts,
};

/// Number of times in a row that the store may find a batch too much before it gets half of it. Memory that others use may be free
/// again a moment later, and more and smaller writes cost the store more in the end.
const TOO_MUCH_TIMES: u32 = 3;

pub(super) async fn run(
    context: Context,
    mut batches: mpsc::Receiver<Prepared>,
    next: mpsc::Sender<Written>,
) -> Result<(), ConsumerError> {
    let writing = async {
        while let Some(batch) = batches.recv().await {
            let span = tracing::debug_span!(parent: &batch.ticket.span, "write", rows = batch.rows.len());
            let written = store(&context, batch).instrument(span).await?;
            if next.send(written).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    Interrupted::outcome(writing.await)
}

/// Stores a batch, and dead-letters what can never be stored.
async fn store(context: &Context, batch: Prepared) -> Result<Written, Interrupted> {
    let Prepared {
        ticket,
        records,
        mut rows,
        mut letters,
        strangers,
    } = batch;
    let Context { dependencies, .. } = context;
    let outcome = write(dependencies.events.as_ref(), &rows, context.attempts("write")).await?;
    let WriteReport { inserted, duplicates } = outcome.report;
    dependencies.metrics.stored(inserted, duplicates);
    let mut refused = Vec::new();
    for (index, message) in &outcome.refused {
        refused.extend(numeric_id(&rows[*index].event));
        letters.push(DeadLetter::new(
            &records[*index],
            Cause::StoreRejected,
            message.clone(),
        ));
    }
    // From the last to the first, so that the indices of those before stay valid.
    for (index, _) in outcome.refused.iter().rev() {
        rows.remove(*index);
    }
    set_aside(
        dependencies.bus.as_ref(),
        letters,
        &dependencies.metrics,
        context.attempts("set_aside"),
    )
    .await?;
    Ok(Written {
        ticket,
        rows,
        strangers,
        has_repeats: duplicates > 0,
        refused,
    })
}

/// The outcome of writing a batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    report: WriteReport,
    /// Indices in the batch of events that the store will never accept, ascending, and why.
    refused: Vec<(usize, String)>,
}

/// Writes `batch` in order. Waits for outages to end. A part that the store rejects is split in halves until the rejected
/// events are alone: `n` bad ones among `b` cost about `n · log2(b)` additional writes. A part that stays too much for the store
/// at once is split too, but no event is given up for that.
async fn write(
    events: &dyn Events,
    batch: &[StoredEvent],
    mut attempts: Attempts<'_>,
) -> Result<Outcome, Interrupted> {
    let mut written = Outcome::default();
    // Ranges still to write, the next one last.
    let mut pending = if batch.is_empty() {
        Vec::new()
    } else {
        vec![(0, batch.len())]
    };
    // How often in a row a part was too much at once.
    let mut too_much = 0;
    while let Some((start, end)) = pending.pop() {
        loop {
            let error = match events.write(&batch[start..end]).await {
                Ok(report) => {
                    attempts.succeeded();
                    too_much = 0;
                    written.report.inserted += report.inserted;
                    written.report.duplicates += report.duplicates;
                    break;
                }
                Err(error) => error,
            };
            let is_too_much = matches!(error, StoreError::TooMuch { .. });
            too_much = if is_too_much { too_much + 1 } else { 0 };
            let refusal = attempts.failed(error).await?;
            let is_alone = end - start == 1;
            match refusal {
                Some(refusal) if is_alone => {
                    written.refused.push((start, refusal.to_string()));
                    break;
                }
                None if is_alone || too_much < TOO_MUCH_TIMES => {}
                _ => {
                    let middle = start + (end - start) / 2;
                    pending.push((middle, end));
                    pending.push((start, middle));
                    break;
                }
            }
        }
    }
    Ok(written)
}
