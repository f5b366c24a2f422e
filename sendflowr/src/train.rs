//! `sendflowr train`: fits the population's tables to the event store now, instead of waiting for the schedule.

use std::time::SystemTime;

use event::Timestamp;
use inference::InferenceConfig;

use crate::{
    config::{self, RawConfig},
    engines::Engines,
    output,
};

/// Fits the tables and saves them in the model folder, where a running inference service finds them within seconds.
///
/// # Errors
/// Fails if the stores cannot be read or the tables cannot be saved.
pub(crate) async fn run(config: RawConfig) -> anyhow::Result<()> {
    let engines = Engines::existing(&config)?;
    let folder = config::model_folder(&config);
    let config = InferenceConfig::try_from(config.inference)?;
    let now = Timestamp::from(SystemTime::now());
    let fitted = engines.closed_after(async |engines| {
        let (events, identities, profiles) =
            tokio::try_join!(engines.events(), engines.identities(), engines.profiles())?;
        Ok(inference::train(&config, &*events, &*identities, &*profiles, now).await?)
    });
    let fitted = fitted.await?;
    let Some(population) = fitted else {
        output::line("no person has clicked or opened yet: the tables stay as they are");
        return Ok(());
    };
    inference::save_population(&folder, &population)?;
    output::line(&format!(
        "population tables `{}` from {} events of {} people are in `{}`",
        population.version(),
        population.events(),
        population.people(),
        folder.display()
    ));
    Ok(())
}
