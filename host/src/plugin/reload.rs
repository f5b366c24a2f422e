//! Watches the plugin folder and the lock file.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::Notify, time};

use super::registry::Registry;

/// Delay between a change and listing the folder, so that the many changes of one copy cause one listing; also the
/// interval while a file has yet to settle.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How often the folder is listed when there is no notification of a change: notifications get lost on network file
/// systems, through symlinks, and when the folder itself is replaced. Costs one listing of the folder.
const RESCAN: Duration = Duration::from_secs(1);

/// Notifies when the folder may have changed.
pub(crate) struct Watch {
    changed: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Starts watching. Called before the first listing, so that no change is missed between the two.
    pub(crate) fn start(folder: &Path, lock: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let watcher = start_watcher(folder, lock, Arc::clone(&changed));
        if let Err(error) = &watcher {
            tracing::warn!(
                plugin.folder = %folder.display(),
                %error,
                "plugin folder cannot be watched; it is checked every second instead"
            );
        }
        Self {
            changed,
            _watcher: watcher.ok(),
        }
    }

    /// Keeps `registry` in sync with the folder until the task is aborted; `pending` says whether a file has yet to settle.
    pub(crate) async fn keep(self, registry: Arc<Registry>, pending: bool) {
        let mut pending = pending;
        loop {
            // Files that have yet to settle are checked again soon; otherwise it waits for a change, or for the next rescan.
            if pending || time::timeout(RESCAN, self.changed.notified()).await.is_ok() {
                time::sleep(DEBOUNCE).await;
            }
            pending = registry.look(false).await;
        }
    }
}

fn start_watcher(folder: &Path, lock: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files causes events too, which must not lead to reading them again. An error may hide a change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    // Watches its folder, because files are replaced by renaming. If that fails, the next rescan finds the change.
    if let Some(beside) = lock.parent().filter(|beside| *beside != folder) {
        let _ = watcher.watch(beside, RecursiveMode::NonRecursive);
    }
    Ok(watcher)
}
