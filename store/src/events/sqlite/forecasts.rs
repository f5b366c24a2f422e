//! Conversions between forecasts and rows.

use event::Timestamp;
use sqlx::{
    QueryBuilder, Row,
    sqlite::{SqliteConnection, SqliteRow},
};

use super::{rows, trials};
use crate::{
    StoreError,
    events::{Forecast, StoredExplanation, StoredForecast},
    sqlite::classify,
};

/// Counts the forecasts of a time span.
pub(super) const COUNT: &str =
    "SELECT COUNT(*) FROM timing_forecasts WHERE decided_at >= ?1 AND decided_at < ?2";

/// Selects the newest forecasts of a time span about people below an id, in the order of the table.
pub(super) const NEWEST: &str = "\
SELECT reference, universal_id, decided_at, trigger_at, target_at AS arrive_at, esp, mailbox_provider, campaign_id AS campaign \
FROM timing_forecasts WHERE decided_at >= ?1 AND decided_at < ?2 AND universal_id < ?3 \
ORDER BY decided_at DESC, reference DESC LIMIT ?4";

/// Stores the forecasts of new explanations.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    explanations: &[&StoredExplanation],
) -> Result<(), StoreError> {
    let forecasts: Vec<(&StoredExplanation, &Forecast)> = explanations
        .iter()
        .filter_map(|explanation| Some((*explanation, explanation.forecast.as_ref()?)))
        .collect();
    if forecasts.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::new(
        "INSERT INTO timing_forecasts (decided_at, reference, universal_id, trigger_at, target_at, esp, mailbox_provider, \
         campaign_id) ",
    );
    insert.push_values(forecasts, |mut row, (explanation, forecast)| {
        row.push_bind(explanation.decided_at.to_string())
            .push_bind(&explanation.reference)
            .push_bind(explanation.universal_id.as_str())
            .push_bind(forecast.trigger_at.to_string())
            .push_bind(forecast.target_at.to_string())
            .push_bind(&forecast.esp)
            .push_bind(forecast.mailbox_provider.map(|class| class.as_str()))
            .push_bind(&forecast.campaign_id);
    });
    insert.build().execute(connection).await.map_err(classify)?;
    Ok(())
}

/// Reads a row of [`NEWEST`].
pub(super) fn read(row: &SqliteRow) -> Result<StoredForecast, StoreError> {
    Ok(StoredForecast {
        reference: row.try_get("reference").map_err(classify)?,
        universal_id: trials::universal_id(row)?,
        decided_at: trials::timestamp(row, "decided_at")?,
        forecast: forecast(row, trials::timestamp(row, "trigger_at")?)?,
    })
}

/// Reads the forecast in a row that has a trigger time.
pub(super) fn forecast(row: &SqliteRow, trigger_at: Timestamp) -> Result<Forecast, StoreError> {
    Ok(Forecast {
        trigger_at,
        target_at: trials::timestamp(row, "arrive_at")?,
        esp: row.try_get("esp").map_err(classify)?,
        mailbox_provider: rows::mailbox_provider(row.try_get("mailbox_provider").map_err(classify)?)?,
        campaign_id: row.try_get("campaign").map_err(classify)?,
    })
}
