//! The population's tables: fitted on a schedule, kept over restarts, swapped without one.

use std::{collections::HashSet, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use event::{Timestamp, UniversalId};
use store::{
    StoreError,
    events::Events,
    identity::{Identities, Person},
    profiles::Profiles,
};

use crate::{
    Dependencies, InferenceConfig,
    metrics::Metrics,
    model::{Population, TrainingPerson},
    person::whole_profiles,
};

/// People asked for at once when training.
const PAGE: usize = 500;

/// The file in the model folder that holds the newest tables.
const FILE: &str = "population.json";

/// Why tables could not be fitted, kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A store cannot be read.
    #[error("people cannot be read for training")]
    Store(#[from] StoreError),
    /// The tables' file cannot be written or read.
    #[error("the tables' file `{path}` cannot be read or written")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tables' file holds something else.
    #[error("the tables' file `{path}` cannot be understood: {message}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Fits tables to the past of people in the stores, at most `config.training_people`, up to `now`. `None` when there is
/// too little to learn from.
///
/// Ids are hashes, so the first people in their order are a random sample, and the same one each time.
///
/// # Errors
/// [`TrainError::Store`] when people cannot be read.
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
        // A person with several ids is met under each of them, and counts once.
        let new = persons
            .iter()
            .filter(|person| seen.insert(person.canonical.clone()));
        let new: Vec<&Person> = new.map(AsRef::as_ref).collect();
        let whole = whole_profiles(events, profiles, &new, since, config.history_events).await?;
        people.extend(whole.into_iter().map(|profile| TrainingPerson { profile }));
        after = Some(last.clone());
    }
    let fit = tokio::task::spawn_blocking(move || Population::fit(people, now));
    // A cancelled fit means that the runtime ends; a panic in it is a fault of ours and has been reported.
    Ok(fit.await.unwrap_or(None))
}

/// Reads the newest tables kept in `folder`, if there are any.
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

/// The tables of a version: the built-in ones, or what `folder` keeps. `None` where there are none.
///
/// # Errors
/// [`TrainError::File`] or [`TrainError::Malformed`], also when the file holds other tables than its name says.
pub(crate) fn of_version(version: &str, folder: Option<&Path>) -> Result<Option<Population>, TrainError> {
    let builtin = Population::builtin();
    if builtin.version() == version {
        return Ok(Some(builtin));
    }
    // It comes out of a stored text: it must not lead out of the folder.
    let is_plain = version
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let Some(folder) = folder.filter(|_| is_plain) else {
        return Ok(None);
    };
    let path = folder.join(format!("population-{version}.json"));
    match read(&path)? {
        Some(other) if other.version() != version => Err(TrainError::Malformed {
            path: path.display().to_string(),
            message: format!("it holds the tables `{}`", other.version()),
        }),
        found => Ok(found),
    }
}

/// Keeps tables in `folder`: as the newest, and under their version for the record.
///
/// # Errors
/// [`TrainError::File`] when they cannot be written; the newest are then still the ones before.
pub fn save(folder: &Path, population: &Population) -> Result<(), TrainError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| TrainError::File { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let kept = folder.join(format!("population-{}.json", population.version()));
    let text = serde_json::to_vec(population).expect("tables are lists of finite numbers");
    std::fs::write(&kept, text).map_err(failed(&kept))?;
    // Written beside and renamed: a reader never sees half a file.
    let newest = folder.join(FILE);
    let beside = folder.join(format!("{FILE}.new"));
    std::fs::copy(&kept, &beside).map_err(failed(&beside))?;
    std::fs::rename(&beside, &newest).map_err(failed(&newest))
}

/// The tables in use.
pub(crate) type CurrentPopulation = Arc<ArcSwap<Population>>;

/// The tables to start with: the kept ones, else the built-in ones.
pub(crate) fn initial(config: &InferenceConfig) -> Population {
    let kept = config.model_folder.as_deref().map_or(Ok(None), load);
    match kept {
        Ok(kept) => kept.unwrap_or_else(Population::builtin),
        Err(error) => {
            let error = event::chain(&error);
            tracing::warn!(error, "starting with the built-in population tables: {error}");
            Population::builtin()
        }
    }
}

/// Fits, keeps and swaps the tables once.
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
            tracing::debug!("too little is known yet to fit population tables");
            return metrics.refit("population", "too_little_data");
        }
        Err(error) => {
            let error = event::chain(&error);
            tracing::warn!(error, "population tables stay as they are: {error}");
            return metrics.refit("population", "failed");
        }
    };
    if let Some(folder) = &config.model_folder
        && let Err(error) = save(folder, &fitted)
    {
        let error = event::chain(&error);
        tracing::warn!(
            error,
            "new population tables are used, but will be lost with a restart: {error}"
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
