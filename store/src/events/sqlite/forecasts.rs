//! Between what decisions expect of the mail's way and rows.

use event::Timestamp;
use sqlx::{
    Row, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{rows, trials};
use crate::{
    StoreError,
    events::{Forecast, StoredExplanation, StoredForecast},
    sqlite::classify,
};

/// The newest forecasts of a time, read in the order of the table.
pub(super) const NEWEST: &str = "\
SELECT reference, universal_id, decided_at, trigger_at, target_at AS arrive_at, esp, mailbox_provider, campaign_id AS campaign \
FROM timing_forecasts WHERE decided_at >= ?1 AND decided_at < ?2 ORDER BY decided_at DESC, reference DESC LIMIT ?3";

/// The statement that stores the forecast of an explanation.
pub(super) fn insert<'a>(
    explanation: &'a StoredExplanation,
    forecast: &'a Forecast,
) -> Query<'a, Sqlite, SqliteArguments> {
    sqlx::query(
        "INSERT INTO timing_forecasts (decided_at, reference, universal_id, trigger_at, target_at, esp, mailbox_provider, \
         campaign_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .bind(explanation.decided_at.to_string())
    .bind(&explanation.reference)
    .bind(explanation.universal_id.as_str())
    .bind(forecast.trigger_at.to_string())
    .bind(forecast.target_at.to_string())
    .bind(&forecast.esp)
    .bind(forecast.mailbox_provider.map(|class| class.as_str()))
    .bind(&forecast.campaign_id)
}

/// A row of [`NEWEST`].
pub(super) fn read(row: &SqliteRow) -> Result<StoredForecast, StoreError> {
    Ok(StoredForecast {
        reference: row.try_get("reference").map_err(classify)?,
        universal_id: trials::universal_id(row)?,
        decided_at: trials::timestamp(row, "decided_at")?,
        forecast: forecast(row, trials::timestamp(row, "trigger_at")?)?,
    })
}

/// The forecast in a row whose trigger is there.
pub(super) fn forecast(row: &SqliteRow, trigger_at: Timestamp) -> Result<Forecast, StoreError> {
    Ok(Forecast {
        trigger_at,
        target_at: trials::timestamp(row, "arrive_at")?,
        esp: row.try_get("esp").map_err(classify)?,
        mailbox_provider: rows::mailbox_provider(row.try_get("mailbox_provider").map_err(classify)?)?,
        campaign_id: row.try_get("campaign").map_err(classify)?,
    })
}
