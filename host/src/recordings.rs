//! Records the latest deliveries of accounts that enable it, for trying a new version of a plugin before it serves.
//!
//! A recording is a sealed delivery in its own file, below `recordings/<provider>@<account>` in the data folder; the
//! file name contains the time of receipt and the plugin that read it. A separate thread writes the recordings, so that
//! neither its failures nor its slowness affect deliveries: what the thread cannot keep up with is not recorded.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use event::{Event, Hasher};

use crate::{
    accounts::{Account, Accounts},
    canonical::{self, Origin, RejectedElement, scrub},
    delivery::{Delivery, DeliveryError},
    error::HostError,
    intake::{Incoming, request_for},
    plugin::{
        Plugin,
        types::{Header, Outcome},
    },
    seal::{OpenError, RawDelivery, SealContext, SealKeyError, Sealer},
};

/// Maximum number of deliveries kept per account: some hours of a busy sender, and a replay of a few seconds.
pub(crate) const MAX_DELIVERIES: usize = 1000;

/// Longest body that is recorded, a batch of about two thousand events. Longer ones reveal nothing that these do not.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Limit of the disk space of an account's recordings, sealed and compressed.
const MAX_ACCOUNT_BYTES: u64 = 64 * 1024 * 1024;

/// Deliveries that may be queued for the disk, with their bodies: 32 MiB at most.
const WAITING: usize = 32;

/// Extension of a recording's file name.
const EXTENSION: &str = "sealed";

/// A delivery that is queued for the disk.
struct Item {
    delivery: RawDelivery,
    plugin: String,
    most: usize,
}

/// Records deliveries. Until it is started, or if no account asks for it, it does nothing and has no thread.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    queue: Option<SyncSender<Item>>,
}

impl Recorder {
    /// Deletes the recordings that accounts no longer keep, and starts recording. Blocks on the disk.
    pub(crate) fn start(folder: &Path, accounts: &Accounts, sealer: Arc<Sealer>) -> Self {
        let mut kept = Kept::default();
        let wanted = accounts.recording();
        if let Err(error) = kept.open(folder, &wanted) {
            tracing::warn!(%error, folder = %folder.display(), "old recordings of deliveries cannot be read or deleted");
        }
        if wanted.is_empty() {
            return Self { queue: None };
        }
        let (queue, items) = sync_channel(WAITING);
        let folder = folder.to_owned();
        let started = thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || keep(&folder, kept, &sealer, &items));
        match started {
            Ok(_) => Self { queue: Some(queue) },
            Err(error) => {
                tracing::warn!(%error, "deliveries are not recorded: the recorder thread cannot be started");
                Self { queue: None }
            }
        }
    }

    /// Records a delivery if its account wants it and the queue has room. Never waits.
    pub(crate) fn keep(&self, account: &Account, plugin: &Plugin, delivery: impl FnOnce() -> RawDelivery) {
        if let (Some(queue), most @ 1..) = (&self.queue, account.record_deliveries()) {
            // The queue is full, or the thread has ended: this delivery is not recorded.
            let _ = queue.try_send(Item {
                delivery: delivery(),
                plugin: plugin.tag().to_owned(),
                most,
            });
        }
    }
}

fn keep(folder: &Path, mut kept: Kept, sealer: &Sealer, items: &Receiver<Item>) {
    let mut works = true;
    for item in items {
        let written = kept.add(folder, &item, sealer);
        // Warns once when failures begin, not for every delivery.
        if let (true, Err(error)) = (works, &written) {
            tracing::warn!(%error, folder = %folder.display(), "deliveries cannot be recorded");
        }
        works = written.is_ok();
    }
}

/// Returns the name of an account's folder. Neither part can contain an `@`.
fn folder_name(provider: &str, account: &str) -> String {
    format!("{provider}@{account}")
}

/// The recordings on the disk, by folder, oldest first, with their sizes.
#[derive(Debug, Default)]
struct Kept(BTreeMap<String, VecDeque<(PathBuf, u64)>>);

impl Kept {
    /// Scans the existing recordings; `wanted` maps the folders to keep to their maximum number of recordings.
    fn open(&mut self, folder: &Path, wanted: &BTreeMap<String, usize>) -> io::Result<()> {
        if !folder.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(most) = wanted.get(&name) else {
                fs::remove_dir_all(entry.path())?;
                continue;
            };
            for draft in fs::read_dir(entry.path())? {
                let draft = draft?.path();
                // Left behind by a crash.
                if draft.extension().is_some_and(|extension| extension == "draft") {
                    fs::remove_file(draft)?;
                }
            }
            let files = self.0.entry(name).or_default();
            for path in recordings(&entry.path())? {
                let size = fs::metadata(&path)?.len();
                files.push_back((path, size));
            }
            trim(files, *most)?;
        }
        Ok(())
    }

    fn add(&mut self, folder: &Path, item: &Item, sealer: &Sealer) -> io::Result<()> {
        let delivery = &item.delivery;
        let name = folder_name(&delivery.provider, &delivery.account);
        let folder = folder.join(&name);
        store::embedded::create_folder(&folder)?;
        let files = self.0.entry(name).or_default();
        // Nothing is added while old ones cannot be removed: the folder would grow without a limit.
        trim(files, item.most)?;
        let sealed = sealer.seal(delivery, &item.plugin);
        let id = uuid::Uuid::now_v7().simple();
        // Renamed once it is complete: a reader never sees a partial recording.
        let draft = folder.join(format!("{id}.draft"));
        let path = folder.join(format!(
            "{:015}_{id}_{}.{EXTENSION}",
            delivery.received_at.as_millis(),
            item.plugin
        ));
        if let Err(error) = fs::write(&draft, &sealed).and_then(|()| fs::rename(&draft, &path)) {
            // On a full disk, the partial file would otherwise stay until the next start.
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        files.push_back((path, sealed.len() as u64));
        trim(files, item.most)
    }
}

/// Removes the oldest recordings until the account is within its limits.
fn trim(files: &mut VecDeque<(PathBuf, u64)>, most: usize) -> io::Result<()> {
    let mut bytes: u64 = files.iter().map(|(_, size)| size).sum();
    while files.len() > most || bytes > MAX_ACCOUNT_BYTES {
        let Some((path, size)) = files.front() else {
            break;
        };
        match fs::remove_file(path) {
            // It still takes its space, and is tried again.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bytes -= size;
        files.pop_front();
    }
    Ok(())
}

/// Returns the recordings of a folder, oldest first.
fn recordings(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Access to recorded deliveries, for tools.
#[derive(Debug)]
pub struct Recordings {
    folder: PathBuf,
    sealer: Sealer,
    accounts: Accounts,
    hasher: Hasher,
}

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// The file name is not one that a host gives to a recording.
    #[error("does not have a file name that a host gives to recordings")]
    Name,
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its account is no longer configured.
    #[error("its account is no longer configured")]
    UnknownAccount,
}

/// What a plugin makes of a delivery, as it would be stored: addresses hashed, texts redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// Events.
    Events {
        /// In the order of the delivery.
        events: Vec<Event>,
        /// Positions of the elements that are understood but yield no event.
        skipped: Vec<u32>,
        /// Why elements could not be read.
        rejected: Vec<RejectedElement>,
    },
    /// A reply or confirmation of a handshake.
    Handshake,
    /// Nothing: the plugin cannot read the delivery, or fails on it, for this reason.
    Failure(String),
}

impl Recordings {
    /// Opens the recordings in the data folder. Unlike a host it creates no key: that would open nothing, and hide that the
    /// former key is lost.
    ///
    /// # Errors
    /// [`HostError`] when the sealing key is missing or not usable.
    pub fn open(config: &crate::HostConfig, hasher: Hasher) -> Result<Self, HostError> {
        if config.seal_key.is_none() && !config.seal_key_path.exists() {
            return Err(SealKeyError::Missing(config.seal_key_path.clone()).into());
        }
        Ok(Self {
            folder: config.recordings_folder.clone(),
            sealer: config.sealer()?,
            accounts: config.accounts.clone(),
            hasher,
        })
    }

    /// Returns the files of all of a provider's accounts, or of one of them, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn of(&self, provider: &str, account: Option<&str>) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        if !self.folder.exists() {
            return Ok(files);
        }
        let mut folders: Vec<PathBuf> = fs::read_dir(&self.folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        folders.sort();
        for folder in folders {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let is_wanted = match account {
                Some(account) => name == folder_name(provider, account).as_str(),
                None => name.split_once('@').is_some_and(|(of, _)| of == provider),
            };
            if is_wanted {
                files.extend(recordings(&folder)?);
            }
        }
        Ok(files)
    }

    /// Opens a recording. Returns `None` when the recording has been removed to make room since it was listed: hosts
    /// keep recording.
    ///
    /// # Errors
    /// [`RecordingError`] when it was not made by this host, or is damaged.
    pub fn read(&self, file: &Path) -> Result<Option<RawDelivery>, RecordingError> {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let folder = text(file.parent().and_then(Path::file_name));
        let (provider, account) = folder.split_once('@').ok_or(RecordingError::Name)?;
        let stem = text(file.file_stem());
        let plugin = stem.splitn(3, '_').nth(2).ok_or(RecordingError::Name)?;
        let context = SealContext {
            provider,
            account,
            plugin,
        };
        match fs::read(file) {
            Ok(sealed) => Ok(Some(self.sealer.open(&sealed, &context)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs a plugin on a delivery and treats the delivery as proven. Stores nothing.
    ///
    /// # Errors
    /// [`RecordingError::UnknownAccount`] when its account is no longer configured.
    pub async fn run(&self, plugin: &Arc<Plugin>, raw: RawDelivery) -> Result<Made, RecordingError> {
        let account = self
            .accounts
            .get(&raw.provider, &raw.account)
            .map_err(|_| RecordingError::UnknownAccount)?;
        let received_at = raw.received_at;
        let request = Arc::new(request_for(plugin, &account, Incoming::from(raw)));
        let outcome = match Delivery::new(plugin, &account, request).await {
            Ok(delivery) => delivery.proven_at_receipt().normalize().await,
            Err(error) => Err(error.into()),
        };
        let batch = match outcome {
            Ok(Outcome::Events(batch)) => batch,
            Ok(Outcome::Reply(_) | Outcome::Confirm(_)) => return Ok(Made::Handshake),
            Err(DeliveryError::Malformed { reason, .. }) => {
                return Ok(Made::Failure(scrub::sentence(&reason)));
            }
            Err(error) => return Ok(Made::Failure(scrub::sentence(&error.to_string()))),
        };
        let origin = Origin {
            provider: account.provider(),
            account: account.name(),
            // Every version would put its own tag here, which does not count as a difference.
            plugin: "",
            external_id_scope: account.external_id_scope(),
            received_at,
            now: received_at,
        };
        let converted = canonical::convert(batch, &self.hasher, &origin);
        let skipped = converted.skipped.iter();
        Ok(Made::Events {
            skipped: skipped.map(|element| element.index).collect(),
            events: converted.events,
            rejected: converted.rejected,
        })
    }
}

impl From<RawDelivery> for Incoming {
    fn from(raw: RawDelivery) -> Self {
        let headers = raw.headers.into_iter();
        Self {
            method: raw.method,
            path: raw.path,
            query: raw.query,
            headers: headers.map(|(name, value)| Header { name, value }).collect(),
            body: raw.body,
            received_at: raw.received_at,
        }
    }
}

impl Accounts {
    /// Returns the folders of the accounts that keep recordings, and the maximum number of each.
    fn recording(&self) -> BTreeMap<String, usize> {
        let mut folders = BTreeMap::new();
        for account in self.configured() {
            if account.record_deliveries() > 0 {
                let name = folder_name(account.provider(), account.name());
                folders.insert(name, account.record_deliveries());
            }
        }
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(second: u32, body: Vec<u8>, most: usize) -> Item {
        Item {
            delivery: RawDelivery {
                provider: "acme".into(),
                account: "..".into(),
                method: "POST".into(),
                path: "/webhooks/acme".into(),
                query: String::new(),
                headers: vec![],
                body,
                received_at: format!("2026-01-10T12:00:{second:02}.000Z").parse().unwrap(),
                is_proven: true,
                rejected: Vec::new(),
            },
            plugin: "acme@1.0.0".into(),
            most,
        }
    }

    #[test]
    fn the_oldest_make_room_and_nothing_stays_when_it_is_turned_off() {
        let folder = tempfile::tempdir().unwrap();
        let recordings_folder = folder.path().join("recordings");
        let sealer = Sealer::new(&[7; 32]);
        let mut kept = Kept::default();
        for second in 0..5 {
            kept.add(
                &recordings_folder,
                &item(second, b"ann@example.com".to_vec(), 3),
                &sealer,
            )
            .unwrap();
        }
        let inner = recordings_folder.join("acme@..");
        let files = recordings(&inner).unwrap();
        assert_eq!(files.len(), 3);
        let first = files[0].file_name().unwrap().to_string_lossy().into_owned();
        assert!(first.ends_with("_acme@1.0.0.sealed"), "{first}");
        let bytes = fs::read(&files[0]).unwrap();
        assert!(!bytes.windows(3).any(|window| window == b"ann"));

        // A start with a smaller number, and one without any.
        let wanted = |most| BTreeMap::from([("acme@..".to_owned(), most)]);
        Kept::default().open(&recordings_folder, &wanted(1)).unwrap();
        assert_eq!(recordings(&inner).unwrap(), files[2..]);
        Kept::default()
            .open(&recordings_folder, &BTreeMap::new())
            .unwrap();
        assert!(!inner.exists());
    }

    #[test]
    fn a_recording_that_cannot_be_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut item = item(0, b"x".to_vec(), 3);
        // There is no folder of this name: the file is written, but cannot be renamed.
        item.plugin = "acme/no@1.0.0".into();
        Kept::default()
            .add(folder.path(), &item, &Sealer::new(&[7; 32]))
            .unwrap_err();
        assert_eq!(fs::read_dir(folder.path().join("acme@..")).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_added_while_old_recordings_cannot_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let sealer = Sealer::new(&[7; 32]);
        let mut kept = Kept::default();
        let mut add = |second| kept.add(folder.path(), &item(second, b"x".to_vec(), 1), &sealer);
        let inner = folder.path().join("acme@..");
        add(0).unwrap();
        // A folder stands in for a file that the disk does not let go.
        let oldest = recordings(&inner).unwrap().remove(0);
        fs::remove_file(&oldest).unwrap();
        fs::create_dir(&oldest).unwrap();
        for second in 1..5 {
            add(second).unwrap_err();
        }
        assert_eq!(recordings(&inner).unwrap().len(), 2);
        fs::remove_dir(&oldest).unwrap();
        add(5).unwrap();
        assert_eq!(recordings(&inner).unwrap().len(), 1);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = VecDeque::new();
        for name in ["1", "2", "3"] {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            files.push_back((path, MAX_ACCOUNT_BYTES / 2));
        }
        trim(&mut files, 10).unwrap();
        assert_eq!(files.len(), 2);
        assert!(!folder.path().join("1").exists() && folder.path().join("2").exists());
    }
}
