//! `sendflowr plugin normalize`: runs one delivery through a plugin.

use std::{fs, io::Read, path::Path, process::ExitCode, time::SystemTime};

use anyhow::{Context, bail};
use event::Timestamp;
use host::{
    cases::{self, Case, CaseRequest, Expected},
    plugin::Limits,
};
use serde_json::Value;

use super::files::load;
use crate::output;

/// A secret or setting of the account, and its value.
pub(super) type Configured = (String, String);

/// Parses `name=value`.
pub(super) fn configured(text: &str) -> Result<Configured, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be `name=value`".to_owned()),
    }
}

/// Runs the delivery in the file, or on standard input for `-`, with these values of the account, and prints the result.
///
/// # Errors
/// Fails if the delivery cannot be read or run, or the plugin cannot be loaded.
pub(crate) async fn run(
    plugin: &Path,
    delivery: &Path,
    account: &[Configured],
    limits: &Limits,
) -> anyhow::Result<ExitCode> {
    let plugin = load(plugin, limits).await?;
    let (bytes, name) = if delivery == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        (bytes, "standard input".to_owned())
    } else {
        let name = format!("`{}`", delivery.display());
        (
            fs::read(delivery).with_context(|| format!("cannot read {name}"))?,
            name,
        )
    };
    let case = read(&bytes, &plugin.descriptor().slug, account).context(name)?;
    let reading = cases::normalize_one(&plugin, &case, Timestamp::from(SystemTime::now())).await?;
    output::line(&serde_json::to_string_pretty(&reading)?);
    Ok(ExitCode::SUCCESS)
}

/// Parses a case, which is a JSON object, otherwise an HTTP request.
fn read(bytes: &[u8], slug: &str, account: &[Configured]) -> anyhow::Result<Case> {
    let mut case = if bytes.trim_ascii_start().starts_with(b"{") {
        Case::from_json(bytes)?
    } else {
        Case {
            provider: slug.to_owned(),
            name: String::new(),
            config: None,
            now: None,
            request: http_request(bytes)?,
            expect: Expected::default(),
        }
    };
    for (name, value) in account {
        let config = case.config.get_or_insert_default();
        config.insert(name.clone(), value.clone().into());
    }
    Ok(case)
}

/// Parses a request as it goes over the wire, with either kind of line end before the body.
fn http_request(bytes: &[u8]) -> anyhow::Result<CaseRequest> {
    let Ok(mut rest) = std::str::from_utf8(bytes) else {
        bail!("is not text: use a case file, which can contain such a body as `body_base64`");
    };
    let mut line = || {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        line.trim_end_matches('\r')
    };
    let mut words = line().split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        bail!("is neither a case nor an HTTP request, which begins like `POST /webhooks/acme HTTP/1.1`");
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = CaseRequest {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        query: query.to_owned(),
        ..CaseRequest::default()
    };
    loop {
        let header = line();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else {
            bail!(
                "has a line without a colon before the body: headers are `name: value`, and an empty line ends them"
            );
        };
        let values = request
            .headers
            .entry(name.trim().to_ascii_lowercase())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(value.trim().into());
        }
    }
    request.body = rest.to_owned();
    Ok(request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_read_as_they_go_over_the_wire() {
        let wire = b"POST /webhooks/acme/eu?a=b HTTP/1.1\r\nHost: example.com\r\nX-Signature: a:b\r\nx-signature: c\r\n\r\n[1]\r\n\r\n";
        let account = [configured("signing_key=k=1").unwrap()];
        let case = read(wire, "acme", &account).unwrap();
        assert_eq!(case.provider, "acme");
        assert_eq!(case.config.unwrap()["signing_key"], "k=1");
        let request = case.request;
        assert_eq!(request.method.as_deref(), Some("POST"));
        assert_eq!(request.path.as_deref(), Some("/webhooks/acme/eu"));
        assert_eq!(request.query, "a=b");
        assert_eq!(request.headers["host"], json!(["example.com"]));
        assert_eq!(request.headers["x-signature"], json!(["a:b", "c"]));
        assert_eq!(request.body, "[1]\r\n\r\n");
        let bare = read(b"HEAD /webhooks/acme\n", "acme", &[]).unwrap();
        assert_eq!((bare.request.body.as_str(), bare.config), ("", None));
    }

    #[test]
    fn what_is_no_delivery_is_told() {
        for (bytes, told) in [
            (&b""[..], "neither a case nor an HTTP request"),
            (b"POST / HTTP/1.1\nhost example.com\n\n", "without a colon"),
            (b"POST / HTTP/1.1\n\n\xff", "body_base64"),
            (b" {\"provider\":1}", "is not a case"),
        ] {
            let error = read(bytes, "acme", &[]).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(configured("signing_key").is_err());
    }
}
