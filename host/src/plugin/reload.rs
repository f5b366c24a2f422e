//! Watches the plugin folder and the lock file.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::Notify, time};

use super::registry::Registry;

/// How long after a change the folder is looked at, so that the many changes of one copy cost one look, and how
/// often while something has yet to rest.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often the folder is looked at when nothing tells of a change: notifications get lost on network file systems,
/// through symlinks, and when the folder itself is replaced. A look costs a listing of the folder.
const RESCAN: Duration = Duration::from_secs(1);

/// Tells when the folder may have changed.
pub(crate) struct Watch {
    changed: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Starts watching. Started before the first look, so that no change falls between the two.
    pub(crate) fn start(folder: &Path, lock: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let watcher = start_watcher(folder, lock, Arc::clone(&changed));
        if let Err(error) = &watcher {
            tracing::warn!(
                plugin.folder = %folder.display(),
                %error,
                "plugin folder cannot be watched; it is looked at every second instead"
            );
        }
        Self {
            changed,
            _watcher: watcher.ok(),
        }
    }

    /// Keeps `registry` in line with the folder until the task is aborted; `pending` says whether something has yet
    /// to rest.
    pub(crate) async fn keep(self, registry: Arc<Registry>, pending: bool) {
        let mut pending = pending;
        loop {
            // What has yet to rest is looked at again soon; else a change, or the time for another look, is waited for.
            if pending || time::timeout(RESCAN, self.changed.notified()).await.is_ok() {
                time::sleep(DEBOUNCE).await;
            }
            pending = registry.look(false).await;
        }
    }
}

fn start_watcher(folder: &Path, lock: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too, and must not lead to reading them again. An error may hide a change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    // Its folder, because files are replaced by renaming. Where it cannot be watched the next look finds the change.
    if let Some(beside) = lock.parent().filter(|beside| *beside != folder) {
        let _ = watcher.watch(beside, RecursiveMode::NonRecursive);
    }
    Ok(watcher)
}
