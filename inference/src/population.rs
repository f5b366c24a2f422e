//! The population's tables: fitted on a schedule, kept across restarts, swapped without one.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use event::{Timestamp, UniversalId};
use store::{
    StoreError,
    events::Events,
    identity::{Identities, Person},
    profiles::Profiles,
};
use tokio::task::JoinError;

use crate::{
    Dependencies, InferenceConfig,
    metrics::Metrics,
    model::{Population, TrainingPerson},
    person::whole_profiles,
};

/// Number of people per query when training.
const PAGE: usize = 500;

/// The file in the model folder that holds the newest tables.
const FILE: &str = "population.json";

/// Why tables could not be fitted, saved or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A store cannot be read.
    #[error("people cannot be read for training")]
    Store(#[from] StoreError),
    /// Fitting ended without a result: a bug, which the panic hook has reported, unless the process is stopping.
    #[error("fitting failed unexpectedly: this is a bug, and a line on standard error says where")]
    Panicked(#[source] JoinError),
    /// The tables' file cannot be written or read.
    #[error("the tables' file `{path}` cannot be read or written")]
    File {
        /// The file.
        path: String,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The tables' file has other content.
    #[error("the tables' file `{path}` is malformed: {message}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Fits tables to the past of people in the stores, at most `config.training_people`, up to `now`. Returns `None` if
/// there is too little to learn from.
///
/// Ids are hashes, so the first people in id order are a random sample, and the same one each time.
///
/// # Errors
/// [`TrainError::Store`] when people cannot be read, [`TrainError::Panicked`] when fitting fails.
pub async fn train(
    config: &InferenceConfig,
    events: &dyn Events,
    identities: &dyn Identities,
    profiles: &dyn Profiles,
    now: Timestamp,
) -> Result<Option<Population>, TrainError> {
    let since = now.plus_millis(-i64::try_from(config.history.as_millis()).unwrap_or(i64::MAX));
    let mut people: Vec<TrainingPerson> = Vec::new();
    let mut seen: HashSet<UniversalId> = HashSet::new();
    let mut after: Option<UniversalId> = None;
    while people.len() < config.training_people {
        let limit = PAGE.min(config.training_people - people.len());
        let page = events.people(since, after.as_ref(), limit).await?;
        let Some(last) = page.last() else { break };
        let persons = identities.people(&page).await?;
        // A person with several ids is listed under each of them, but counts once.
        let new = persons
            .iter()
            .filter(|person| seen.insert(person.canonical.clone()));
        let new: Vec<&Person> = new.map(AsRef::as_ref).collect();
        let whole = whole_profiles(events, profiles, &new, since, config.history_events).await?;
        people.extend(new.iter().zip(whole).map(|(person, profile)| TrainingPerson {
            id: person.canonical.clone(),
            profile,
        }));
        after = Some(last.clone());
    }
    fitted(move || Population::fit(people, now)).await
}

/// Fits a model on a thread of its own: it computes too long for one that serves requests.
pub(crate) async fn fitted<T: Send + 'static>(
    fit: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TrainError> {
    tokio::task::spawn_blocking(fit)
        .await
        .map_err(TrainError::Panicked)
}

/// Reads the newest tables saved in `folder`, if there are any.
///
/// # Errors
/// [`TrainError::File`] or [`TrainError::Malformed`].
pub fn load(folder: &Path) -> Result<Option<Population>, TrainError> {
    read(&folder.join(FILE))
}

fn read(path: &Path) -> Result<Option<Population>, TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TrainError::File {
                path: path.display().to_string(),
                source,
            });
        }
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TrainError::Malformed {
            path: path.display().to_string(),
            message: error.to_string(),
        })
}

/// Returns the tables of a version: the built-in ones, or those saved in `folder`. `None` if there are none.
///
/// # Errors
/// [`TrainError::File`] or [`TrainError::Malformed`], the latter also when the file holds other tables than its name says.
pub(crate) fn of_version(version: &str, folder: Option<&Path>) -> Result<Option<Population>, TrainError> {
    let builtin = Population::builtin();
    if builtin.version() == version {
        return Ok(Some(builtin));
    }
    // The version comes from stored text: it must not lead out of the folder.
    let is_plain = version
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let Some(folder) = folder.filter(|_| is_plain) else {
        return Ok(None);
    };
    of_version_in(folder, version)
}

fn of_version_in(folder: &Path, version: &str) -> Result<Option<Population>, TrainError> {
    let path = versioned(folder, version);
    match read(&path)? {
        Some(other) if other.version() != version => Err(TrainError::Malformed {
            path: path.display().to_string(),
            message: format!("it holds the tables `{}`", other.version()),
        }),
        found => Ok(found),
    }
}

/// Returns the file of a version's tables.
fn versioned(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("population-{version}.json"))
}

/// Saves tables in `folder`: as the newest, and under their version for the record.
///
/// # Errors
/// [`TrainError::File`] when they cannot be written; the newest tables are then still the previous ones.
pub fn save(folder: &Path, population: &Population) -> Result<(), TrainError> {
    record(folder, population)?;
    write(&folder.join(FILE), population)
}

/// Saves tables in `folder` under their version, so that decisions made with them can be reproduced.
fn record(folder: &Path, population: &Population) -> Result<(), TrainError> {
    match of_version_in(folder, population.version()) {
        Ok(Some(_)) => Ok(()),
        // A file that does not hold them, such as an empty one that a full disk left, is replaced.
        Ok(None) | Err(TrainError::Malformed { .. }) => {
            write(&versioned(folder, population.version()), population)
        }
        Err(error) => Err(error),
    }
}

fn write(path: &Path, population: &Population) -> Result<(), TrainError> {
    let text = serde_json::to_vec(population).expect("tables are lists of finite numbers");
    store::embedded::replace(path, &text).map_err(|source| TrainError::File {
        path: path.display().to_string(),
        source,
    })
}

/// The tables in use.
pub(crate) type CurrentPopulation = Arc<ArcSwap<Population>>;

/// Returns the tables to start with: the saved ones, otherwise the built-in ones. These are recorded in the model folder: a later
/// release may have others, and the decisions made with these can still be reproduced.
pub(crate) fn initial(config: &InferenceConfig) -> Population {
    let kept = config.model_folder.as_deref().map_or(Ok(None), load);
    let builtin = match kept {
        Ok(Some(kept)) => return kept,
        Ok(None) => Population::builtin(),
        Err(error) => {
            let error = event::chain(&error);
            tracing::warn!(error, "starting with the built-in population tables: {error}");
            Population::builtin()
        }
    };
    if let Some(folder) = &config.model_folder
        && let Err(error) = record(folder, &builtin)
    {
        let error = event::chain(&error);
        tracing::warn!(
            error,
            "decisions made with the built-in population tables cannot be reproduced by later releases: {error}"
        );
    }
    builtin
}

/// Notices when another process saves tables in the model folder, such as `sendflowr train`.
pub(crate) struct Watch {
    folder: PathBuf,
    /// When the file that was seen last was written.
    seen: Option<SystemTime>,
    /// When the file was written that could not be read last.
    complained_of: Option<SystemTime>,
}

impl Watch {
    /// Watches for files other than the one that is there now; to be called before that one is read.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            seen: written_at(folder),
            complained_of: None,
        }
    }

    /// Puts the tables in the folder into use if their file has changed. Tables that were fitted here but could not be saved
    /// stay in use until then.
    pub(crate) fn look(&mut self, current: &CurrentPopulation) {
        let written_at = written_at(&self.folder);
        if written_at == self.seen {
            return;
        }
        match load(&self.folder) {
            // Saved by this process.
            Ok(Some(tables)) if tables.version() == current.load().version() => self.seen = written_at,
            Ok(Some(tables)) => {
                self.seen = written_at;
                tracing::info!(
                    population.version = tables.version(),
                    "population tables `{}`, saved by another process, are in use",
                    tables.version()
                );
                current.store(Arc::new(tables));
            }
            Ok(None) => self.seen = written_at,
            // Tried again: the file may become readable without being written.
            Err(error) => {
                if self.complained_of != written_at {
                    self.complained_of = written_at;
                    let error = event::chain(&error);
                    tracing::warn!(
                        error,
                        "population tables in the model folder are not used: {error}"
                    );
                }
            }
        }
    }
}

fn written_at(folder: &Path) -> Option<SystemTime> {
    std::fs::metadata(folder.join(FILE)).ok()?.modified().ok()
}

/// Fits, saves and swaps the tables once.
pub(crate) async fn refit(
    config: &InferenceConfig,
    dependencies: &Dependencies,
    current: &CurrentPopulation,
    metrics: &Metrics,
    now: Timestamp,
) {
    let Dependencies {
        events,
        identities,
        profiles,
        ..
    } = dependencies;
    let fitted = match train(config, &**events, &**identities, &**profiles, now).await {
        Ok(Some(population)) => population,
        Ok(None) => {
            tracing::debug!("there is too little data yet to fit population tables");
            return metrics.refit("population", "too_little_data");
        }
        Err(error) => {
            let error = event::chain(&error);
            tracing::warn!(error, "population tables were not refitted: {error}");
            return metrics.refit("population", "failed");
        }
    };
    if let Some(folder) = &config.model_folder
        && let Err(error) = save(folder, &fitted)
    {
        let error = event::chain(&error);
        tracing::warn!(
            error,
            "the new population tables are in use, but will be lost on restart: {error}"
        );
    }
    tracing::info!(
        population.version = fitted.version(),
        "population tables `{}` are in use",
        fitted.version()
    );
    metrics.refit("population", "fitted");
    current.store(Arc::new(fitted));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_is_written_again_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let population = Population::builtin();
        let path = versioned(folder.path(), population.version());
        for damaged in ["", "{\"shapes\":", "{}"] {
            std::fs::write(&path, damaged).unwrap();
            record(folder.path(), &population).unwrap();
            assert_eq!(
                of_version_in(folder.path(), population.version()).unwrap(),
                Some(population.clone())
            );
        }
        let modified = || std::fs::metadata(&path).unwrap().modified().unwrap();
        let before = modified();
        record(folder.path(), &population).unwrap();
        assert_eq!(modified(), before, "a sound record stays");
        save(folder.path(), &population).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        let names: Vec<_> = names
            .into_iter()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn tables_saved_by_several_at_once_are_always_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for population in [Population::builtin(), Population::plain()] {
                let folder = folder.path();
                threads.spawn(move || {
                    for _ in 0..50 {
                        save(folder, &population).unwrap();
                        load(folder).unwrap().unwrap();
                    }
                });
            }
        });
    }

    #[tokio::test]
    async fn a_fit_that_panics_is_no_lack_of_data() {
        assert_eq!(fitted(|| 1).await.unwrap(), 1);
        let failed = fitted(|| -> Option<Population> { panic!("a bug") }).await;
        assert!(matches!(failed, Err(TrainError::Panicked(_))));
    }
}
