//! `[telemetry]`: the export of spans.

use std::collections::BTreeMap;

use event::settings::{OutOfRange, Secret, number};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

/// `[telemetry]`. Without an endpoint nothing is exported, at no cost. The other variables of OpenTelemetry's specification
/// (`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, …) are read by its library.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTelemetryConfig {
    /// Base address of an OpenTelemetry collector that accepts OTLP over HTTP, `http://collector:4318`. Also
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) endpoint: Option<String>,
    /// Service name of the spans. Also `OTEL_SERVICE_NAME`. Default `sendflowr-host`, `sendflowr-consumer`,
    /// `sendflowr-inference`, or `sendflowr` if all three run in one process.
    pub(crate) service_name: Option<String>,
    /// Share of the traces begun here that is exported, 0 to 1. Traces begun by a caller are exported if the caller
    /// exports them. Default all.
    pub(crate) sample_ratio: Option<f64>,
    /// Headers of the exports, for collectors that require a key: `authorization = "Bearer …"`.
    pub(crate) headers: BTreeMap<String, Secret>,
}

/// The validated `[telemetry]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TelemetryConfig {
    /// URL that batches of spans are posted to.
    pub(super) traces_url: String,
    pub(super) service_name: Option<String>,
    pub(super) sample_ratio: Option<f64>,
    pub(super) headers: BTreeMap<String, Secret>,
}

/// A key of `[telemetry]` with an invalid value. Names the key, never a value that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTelemetry {
    #[error("`telemetry.endpoint` must be an address such as `http://collector:4318`")]
    Endpoint,
    #[error(
        "`telemetry.endpoint` must not contain a user, a password or a query: use `telemetry.headers` instead"
    )]
    Credentials,
    #[error(transparent)]
    SampleRatio(#[from] OutOfRange),
    #[error("`telemetry.headers.{0}` is not a valid header")]
    Header(String),
}

impl TelemetryConfig {
    /// Validates the configuration; `None` if spans are not exported.
    pub(crate) fn try_new(raw: RawTelemetryConfig) -> Result<Option<Self>, InvalidTelemetry> {
        if let Some(ratio) = raw.sample_ratio {
            number::<f64, _>("telemetry", "sample_ratio", ratio, 0.0..=1.0)?;
        }
        for (name, value) in &raw.headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value.expose()).is_err() {
                return Err(InvalidTelemetry::Header(name.clone()));
            }
        }
        let Some(endpoint) = raw.endpoint else {
            return Ok(None);
        };
        let url = Url::parse(&endpoint).map_err(|_| InvalidTelemetry::Endpoint)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidTelemetry::Endpoint);
        }
        // A path is appended to it, so a query could not work either.
        let has_more = url.query().is_some() || url.fragment().is_some();
        if !url.username().is_empty() || url.password().is_some() || has_more {
            return Err(InvalidTelemetry::Credentials);
        }
        Ok(Some(Self {
            // As the specification prescribes for a base address.
            traces_url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            service_name: raw.service_name,
            sample_ratio: raw.sample_ratio,
            headers: raw.headers,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Option<TelemetryConfig>, InvalidTelemetry> {
        TelemetryConfig::try_new(toml::from_str(text).unwrap())
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(checked(""), Ok(None));
        assert_eq!(checked("service_name = 'x'\nsample_ratio = 0.1"), Ok(None));
    }

    #[test]
    fn an_endpoint_is_a_base_address() {
        for endpoint in ["http://collector:4318", "http://collector:4318/"] {
            let config = checked(&format!("endpoint = '{endpoint}'")).unwrap().unwrap();
            assert_eq!(config.traces_url, "http://collector:4318/v1/traces");
        }
    }

    #[test]
    fn debug_hides_the_headers() {
        let raw = "endpoint = 'http://collector'\nheaders = { authorization = 's3cret' }";
        let raw: RawTelemetryConfig = toml::from_str(raw).unwrap();
        assert!(!format!("{raw:?}").contains("s3cret"));
        let config = TelemetryConfig::try_new(raw).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn errors_name_the_key_and_not_the_value() {
        for (text, key) in [
            ("endpoint = 's3cret:4318'", "telemetry.endpoint"),
            ("endpoint = 'grpc://s3cret:4317'", "telemetry.endpoint"),
            ("endpoint = 'http://me:s3cret@collector'", "telemetry.headers"),
            (
                "endpoint = 'http://collector/otlp?api_key=s3cret'",
                "telemetry.headers",
            ),
            ("endpoint = 'http://collector/#s3cret'", "telemetry.headers"),
            ("sample_ratio = 1.1", "telemetry.sample_ratio"),
            ("sample_ratio = nan", "telemetry.sample_ratio"),
            (
                "headers = { authorization = \"s3cret\\n\" }",
                "telemetry.headers.authorization",
            ),
        ] {
            let error = checked(text).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("s3cret"), "{error}");
        }
    }
}
