//! Reads headers, settings, parameters and the body of a request.

use crate::form;
use crate::text::present;
use crate::{Document, Rejection, Request};

impl Request {
    /// Returns the first header with this name, in any case; a blank value counts as missing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// Returns all headers with this name, in any case, that are not blank, in order of arrival.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .filter_map(|header| present(&header.value))
    }

    /// Returns the first header with this name, in any case, which carries a proof; the delivery is refused
    /// without it.
    pub fn proof_header(&self, name: &str) -> Result<&str, Rejection> {
        self.header(name)
            .ok_or_else(|| Rejection::MissingProof(format!("header `{name}` is missing or empty")))
    }

    /// Returns the operator's value of a setting; a blank value counts as unset.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let setting = self.settings.iter().find(|setting| setting.name == name)?;
        present(&setting.value)
    }

    /// Returns the operator's value of a setting that is a whole number. Any other value is refused rather
    /// than ignored, so that a typing error cannot switch a check off.
    pub fn setting_u64(&self, name: &str) -> Result<Option<u64>, Rejection> {
        let Some(value) = self.setting(name) else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Rejection::InvalidProof(format!(
                "setting `{name}` is not a whole number"
            ))),
        }
    }

    /// Checks whether the operator has configured this secret.
    pub fn has_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|secret| secret == name)
    }

    /// Returns the first query parameter with this name, decoded; a blank value counts as missing.
    pub fn query_parameter(&self, name: &str) -> Option<String> {
        form::decode_pairs(self.query.as_bytes())
            .into_iter()
            .find(|(found, value)| found == name && present(value).is_some())
            .map(|(_, value)| value)
    }

    /// Parses the body as JSON of any kind.
    pub fn json(&self) -> Result<Document<'_>, Rejection> {
        Document::parse(&self.body)
    }

    /// Parses the body as a JSON object; anything else is malformed.
    pub fn json_object(&self) -> Result<Document<'_>, Rejection> {
        let document = self.json()?;
        if !document.root().is_object() {
            return Err(Rejection::Malformed("the body is not a JSON object".to_owned()));
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Header, Rejection, Request, Setting};

    fn request() -> Request {
        Request {
            method: "POST".to_owned(),
            path: "/webhooks/x".to_owned(),
            query: "a=&secret=s%2Bt+u&secret=second".to_owned(),
            headers: [("x-a", "  "), ("x-a", "1"), ("x-a", "2"), ("x-empty", "")]
                .map(|(name, value)| Header {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
                .to_vec(),
            body: b"[1]".to_vec(),
            received_at_ms: 0,
            settings: [("limit", "300"), ("typo", "5m"), ("blank", " ")]
                .map(|(name, value)| Setting {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
                .to_vec(),
            secrets: vec!["key".to_owned()],
        }
    }

    #[test]
    fn blank_headers_and_settings_are_missing() {
        let request = request();
        assert_eq!(request.header("x-a"), Some("1"));
        assert_eq!(request.headers("x-a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(request.header("X-A"), Some("1"));
        assert_eq!(request.proof_header("X-a"), Ok("1"));
        assert_eq!(request.header("x-empty"), None);
        assert_eq!(request.setting("blank"), None);
        assert_eq!(
            request.proof_header("x-empty"),
            Err(Rejection::MissingProof(
                "header `x-empty` is missing or empty".to_owned()
            ))
        );
    }

    #[test]
    fn a_setting_that_is_no_number_is_refused() {
        let request = request();
        assert_eq!(request.setting_u64("limit"), Ok(Some(300)));
        assert_eq!(request.setting_u64("unset"), Ok(None));
        assert!(matches!(
            request.setting_u64("typo"),
            Err(Rejection::InvalidProof(_))
        ));
    }

    #[test]
    fn query_parameters_are_decoded() {
        let request = request();
        assert_eq!(request.query_parameter("secret").as_deref(), Some("s+t u"));
        assert_eq!(request.query_parameter("a"), None);
        assert!(request.has_secret("key") && !request.has_secret("lock"));
    }

    #[test]
    fn a_body_of_another_shape_is_malformed() {
        assert!(matches!(request().json_object(), Err(Rejection::Malformed(_))));
        assert!(request().json().is_ok());
    }
}
