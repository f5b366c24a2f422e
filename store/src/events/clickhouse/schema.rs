//! Brings the database up to date.
//!
//! Steps run once, in order, and are recorded in `schema_migrations`. Every statement of a step may run again and concurrently
//! with itself (`IF NOT EXISTS`, `OR REPLACE`), because ClickHouse has no transactions: if several processes start at once, all
//! of them may run a step, and a process that dies in the middle leaves the step to the next. A database of a newer build is
//! used as it is: steps only add, and older builds must keep working next to newer ones. A user who may only read and write can
//! open a database that is up to date.

use clickhouse::{Client, Row, error::Error, sql::Identifier};
use serde::{Deserialize, Serialize};

use super::{config::ClickHouseConfig, error::Failure};
use crate::events::EXPLANATION_DAYS;

/// A change of the schema.
pub(super) struct Step {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "events",
        sql: include_str!("../../../migrations/clickhouse/0001_events.sql"),
    },
    Step {
        version: 2,
        name: "explanations",
        sql: include_str!("../../../migrations/clickhouse/0002_explanations.sql"),
    },
    Step {
        version: 3,
        name: "trace id",
        sql: include_str!("../../../migrations/clickhouse/0003_trace_id.sql"),
    },
    Step {
        version: 4,
        name: "trials",
        sql: include_str!("../../../migrations/clickhouse/0004_trials.sql"),
    },
    Step {
        version: 5,
        name: "forecasts",
        sql: include_str!("../../../migrations/clickhouse/0005_forecasts.sql"),
    },
    Step {
        version: 6,
        name: "people",
        sql: include_str!("../../../migrations/clickhouse/0006_people.sql"),
    },
    Step {
        version: 7,
        name: "what delays depend on",
        sql: include_str!("../../../migrations/clickhouse/0007_latency_context.sql"),
    },
    Step {
        version: 8,
        name: "closed months",
        sql: include_str!("../../../migrations/clickhouse/0008_closed_months.sql"),
    },
    Step {
        version: 9,
        name: "profile doubts",
        sql: include_str!("../../../migrations/clickhouse/0009_profile_doubts.sql"),
    },
    Step {
        version: 10,
        name: "flushed inserts",
        sql: include_str!("../../../migrations/clickhouse/0010_flushed_inserts.sql"),
    },
];

const MIGRATIONS_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    UInt32,
    name       String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree ORDER BY version";

/// Tables whose rows expire, the time that determines their age, and the maximum number of days that they are kept. Explanations
/// age from when they were stored, which their version tells: a decision may be asked for any moment.
const AGEING: [(&str, &str, u64); 3] = [
    ("email_events", "timestamp", u64::MAX),
    ("message_sent_times", "sent_at", u64::MAX),
    (
        "timing_explanations",
        "intDiv(bitNot(version), 1000)",
        EXPLANATION_DAYS,
    ),
];

#[derive(Row, Serialize, Deserialize)]
struct Applied {
    version: u32,
    name: String,
}

/// Creates the database if it is missing. `server` is a client without a database.
pub(super) async fn make_database(server: &Client, config: &ClickHouseConfig) -> Result<(), Failure> {
    let database = Identifier(&config.database);
    let exists: u8 = server
        .query("EXISTS DATABASE ?")
        .bind(database)
        .fetch_one()
        .await?;
    // Checked first: `CREATE DATABASE` requires its permission even if the database exists.
    if exists == 0 {
        tracing::info!(
            clickhouse.database = config.database,
            "creating the database `{}`",
            config.database
        );
        server
            .query("CREATE DATABASE IF NOT EXISTS ?")
            .bind(database)
            .execute()
            .await?;
    }
    Ok(())
}

/// Returns the steps that have not run yet.
pub(super) async fn due_steps(client: &Client) -> Result<Vec<&'static Step>, Failure> {
    let applied = match applied(client).await {
        Err(failure) if failure.is_missing_table() => {
            client.query(MIGRATIONS_TABLE).execute().await?;
            Vec::new()
        }
        other => other?,
    };
    let is_due = |step: &&Step| applied.iter().all(|done| done.version != step.version);
    Ok(STEPS.iter().filter(is_due).collect())
}

/// Runs these steps, each in full before the next.
pub(super) async fn run(client: &Client, steps: &[&Step]) -> Result<(), Failure> {
    for step in steps {
        tracing::info!(
            clickhouse.migration = step.version,
            "schema step {} (`{}`) runs",
            step.version,
            step.name
        );
        for statement in statements(step.sql) {
            client.query_raw(&statement).execute().await?;
        }
        let mut insert = client.insert::<Applied>("schema_migrations").await?;
        let note = Applied {
            version: step.version,
            name: step.name.to_owned(),
        };
        insert.write(&note).await?;
        insert.end().await?;
    }
    Ok(())
}

async fn applied(client: &Client) -> Result<Vec<Applied>, Failure> {
    let query = client.query("SELECT ?fields FROM schema_migrations FINAL ORDER BY version");
    Ok(query.fetch_all().await?)
}

/// Splits a step into its statements. Each ends with a semicolon; none of their string literals contains one.
fn statements(sql: &str) -> Vec<String> {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let statements = code.split(';').map(str::trim);
    statements
        .filter(|statement| !statement.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Sets or removes the age after which rows are dropped. Changes nothing if it is already right, since a change rewrites what
/// is stored.
pub(super) async fn set_ttl(client: &Client, ttl_days: Option<u64>) -> Result<(), Error> {
    for (table, since, most) in AGEING {
        let days = ttl_days.unwrap_or(u64::MAX).min(most);
        let days = (days < u64::MAX).then_some(days);
        let engine: String = client
            .query("SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?")
            .bind(table)
            .fetch_one()
            .await?;
        let present = present_ttl(&engine);
        let wanted = days.map(|days| format!("toDateTime({since}) + toIntervalDay({days})"));
        if present == wanted.as_deref() {
            continue;
        }
        let change = match &wanted {
            Some(expression) => format!("ALTER TABLE {table} MODIFY TTL {expression}"),
            None => format!("ALTER TABLE {table} REMOVE TTL"),
        };
        tracing::info!(
            clickhouse.table = table,
            clickhouse.ttl_days = days,
            "changing the age after which rows of `{table}` are dropped"
        );
        client.query_raw(&change).execute().await?;
    }
    Ok(())
}

/// Returns the TTL in a table's definition, which ends where its settings begin.
fn present_ttl(engine: &str) -> Option<&str> {
    let (_, rest) = engine.split_once(" TTL ")?;
    let (expression, _) = rest.split_once(" SETTINGS ").unwrap_or((rest, ""));
    Some(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_may_run_again() {
        for (index, step) in STEPS.iter().enumerate() {
            assert_eq!(step.version as usize, index + 1, "steps count up from 1");
            let statements = statements(step.sql);
            assert!(!statements.is_empty());
            for statement in statements {
                let may_run_again = statement.contains(" IF NOT EXISTS ")
                    || statement.contains(" IF EXISTS ")
                    || statement.starts_with("CREATE OR REPLACE ")
                    || statement.contains(" MODIFY SETTING ")
                    // A set: inserting the same rows again changes nothing.
                    || statement.starts_with("INSERT INTO known_people ");
                assert!(may_run_again, "{statement}");
            }
        }
    }

    #[test]
    fn finds_the_ttl_in_a_definition() {
        let engine = "ReplacingMergeTree(version) ORDER BY a TTL toDateTime(timestamp) + toIntervalDay(30) SETTINGS \
                      index_granularity = 1024";
        assert_eq!(
            present_ttl(engine),
            Some("toDateTime(timestamp) + toIntervalDay(30)")
        );
        assert_eq!(present_ttl("MergeTree ORDER BY a SETTINGS x = 1"), None);
    }
}
