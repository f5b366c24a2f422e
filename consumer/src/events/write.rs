//! The third stage: writes a batch, whatever it contains.

use store::events::{Events, StoredEvent, WriteReport};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Context, Prepared, Written, numeric_id};
use crate::{
    ConsumerError,
    dead_letter::{Cause, DeadLetter, set_aside},
    error::Interrupted,
    retry::Attempts,
};

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
/// events are alone: `n` bad ones among `b` cost about `n · log2(b)` additional writes.
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
    while let Some((start, end)) = pending.pop() {
        let refusal = loop {
            match events.write(&batch[start..end]).await {
                Ok(report) => {
                    attempts.succeeded();
                    written.report.inserted += report.inserted;
                    written.report.duplicates += report.duplicates;
                    break None;
                }
                Err(error) => {
                    if let Some(refusal) = attempts.failed(error).await? {
                        break Some(refusal);
                    }
                }
            }
        };
        match refusal {
            None => {}
            Some(refusal) if end - start == 1 => written.refused.push((start, refusal.to_string())),
            Some(_) => {
                let middle = start + (end - start) / 2;
                pending.push((middle, end));
                pending.push((start, middle));
            }
        }
    }
    Ok(written)
}
