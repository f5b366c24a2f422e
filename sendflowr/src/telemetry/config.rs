//! `[telemetry]`: where spans are exported.

use std::collections::BTreeMap;

use event::settings::{OutOfRange, Secret, number};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

/// `[telemetry]`. Without an endpoint nothing is exported and nothing of it costs anything. The other variables of
/// OpenTelemetry's specification (`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, …) are read by its library.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTelemetryConfig {
    /// Base address of an OpenTelemetry collector that takes OTLP over HTTP, `http://collector:4318`. Also
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) endpoint: Option<String>,
    /// The name under which spans show. Also `OTEL_SERVICE_NAME`. Default `sendflowr-host`, `sendflowr-consumer`,
    /// `sendflowr-inference`, or `sendflowr` where all three are one process.
    pub(crate) service_name: Option<String>,
    /// Part of the traces that begin here which is exported, 0 to 1. Traces that a caller began are exported when the
    /// caller exports them. Default all.
    pub(crate) sample_ratio: Option<f64>,
    /// Headers of the exports, for collectors that want a key: `authorization = "Bearer …"`.
    pub(crate) headers: BTreeMap<String, Secret>,
}

/// Where spans are exported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TelemetryConfig {
    /// Where batches of spans are posted.
    pub(super) traces_url: String,
    pub(super) service_name: Option<String>,
    pub(super) sample_ratio: Option<f64>,
    pub(super) headers: BTreeMap<String, Secret>,
}

/// A key of `[telemetry]` that cannot be used. Names the key, never what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTelemetry {
    #[error("`telemetry.endpoint` must be an address such as `http://collector:4318`")]
    Endpoint,
    #[error("`telemetry.endpoint` must not hold a password: put it into `telemetry.headers`")]
    Credentials,
    #[error(transparent)]
    SampleRatio(#[from] OutOfRange),
    #[error("`telemetry.headers.{0}` is no header that can be sent")]
    Header(String),
}

impl TelemetryConfig {
    /// The configuration, if spans are to be exported at all.
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
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTelemetry::Credentials);
        }
        Ok(Some(Self {
            // As the specification has it for a base address.
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
