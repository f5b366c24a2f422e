//! Writing a batch, whatever is in it.

use store::events::{Events, StoredEvent, WriteReport};

use crate::{error::Interrupted, retry::Attempts};

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) report: WriteReport,
    /// Places in the batch of events that the store will never take, ascending, and why.
    pub(super) refused: Vec<(usize, String)>,
}

/// Writes `batch` in order. Waits out outages. A part that the store refuses is halved until the events that it is
/// about stand alone: `n` bad ones among `b` cost about `n · log2(b)` writes more.
pub(super) async fn write(
    events: &dyn Events,
    batch: &[StoredEvent],
    mut attempts: Attempts<'_>,
) -> Result<Written, Interrupted> {
    let mut written = Written::default();
    // Ranges still to write, the next one last.
    let mut pending = vec![(0, batch.len())];
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
