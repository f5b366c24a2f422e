//! Access to protected routes.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use event::settings::Secret;
use serde_json::json;
use subtle::{Choice, ConstantTimeEq};

use crate::origin::is_foreign;

/// Minimum length of a token: 16 random base64 characters are 96 bits, which is infeasible to guess over a network.
const MIN_TOKEN_BYTES: usize = 16;

/// A listener's access settings are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// A token could be guessed, or no header can carry it.
    #[error(
        "`{0}` must be {MIN_TOKEN_BYTES} or more printable ASCII characters; several values are separated by spaces or line \
         breaks"
    )]
    Token(String),
    /// The metrics' token changes nothing: without the other one, everybody may read the metrics.
    #[error("`{metrics_key}` has no effect without `{token_key}`: set both, or neither")]
    MetricsTokenAlone {
        /// The key of the metrics' token.
        metrics_key: String,
        /// The key of the token for everything.
        token_key: String,
    },
    /// Whoever reads the metrics could use every other route, too.
    #[error(
        "`{metrics_key}` is also a value of `{token_key}`, which opens more than the metrics: give it a value of its own"
    )]
    SameToken {
        /// The key of the metrics' token.
        metrics_key: String,
        /// The key of the token for everything.
        token_key: String,
    },
    /// Everybody on the network would be served.
    #[error(
        "`{section}.listen` is {listen}, which others can reach, and there is no token: set `{token_key}`, or \
         `{section}.allow_anonymous = true` if something in front of it checks who asks"
    )]
    Open {
        /// The section of the listener.
        section: &'static str,
        /// Where it listens.
        listen: SocketAddr,
        /// The token's key.
        token_key: String,
    },
}

/// The tokens of one listener, as they are configured.
#[derive(Debug, Default)]
pub struct RawTokens {
    /// For all protected routes; several values are separated by white space, and each is accepted.
    pub token: Option<Secret>,
    /// For `/metrics` alone, likewise.
    pub metrics_token: Option<Secret>,
}

/// Decides whether a request may use protected routes.
#[derive(Clone)]
pub struct Access {
    /// Each is accepted. If there is none, everybody is served.
    tokens: Arc<[Box<str>]>,
    /// Those that `/metrics` accepts besides.
    metrics_tokens: Arc<[Box<str>]>,
    /// Names the settings in 401 responses, so that an operator knows which token is meant.
    keys: Arc<str>,
    metrics_key: Arc<str>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("keys", &self.keys)
            .field("is_open", &self.is_open())
            .finish()
    }
}

impl Access {
    /// Checks the settings of one listener: `section` is its section of the configuration, `key` the token's key there; that of
    /// the metrics is `metrics_token`. Without a token everybody is served, which is only accepted on loopback or with
    /// `allow_anonymous`. With a token, `allow_anonymous` has no effect.
    ///
    /// # Errors
    /// [`InvalidAccess`] naming what to set.
    pub fn try_new(
        section: &'static str,
        key: &str,
        listen: SocketAddr,
        raw: RawTokens,
        allow_anonymous: bool,
    ) -> Result<Self, InvalidAccess> {
        let token_key = format!("{section}.{key}");
        let metrics_key = format!("{section}.metrics_token");
        let Some(token) = raw.token else {
            if raw.metrics_token.is_some() {
                return Err(InvalidAccess::MetricsTokenAlone {
                    metrics_key,
                    token_key,
                });
            }
            if !allow_anonymous && !listen.ip().to_canonical().is_loopback() {
                return Err(InvalidAccess::Open {
                    section,
                    listen,
                    token_key,
                });
            }
            return Ok(Self {
                tokens: Arc::default(),
                metrics_tokens: Arc::default(),
                keys: format!("`{token_key}`").into(),
                metrics_key: metrics_key.into(),
            });
        };
        let tokens = values(&token, &token_key)?;
        let metrics_tokens = match &raw.metrics_token {
            Some(token) => values(token, &metrics_key)?,
            None => Arc::default(),
        };
        if metrics_tokens.iter().any(|token| tokens.contains(token)) {
            return Err(InvalidAccess::SameToken {
                metrics_key,
                token_key,
            });
        }
        Ok(Self {
            tokens,
            metrics_tokens,
            keys: format!("`{token_key}`").into(),
            metrics_key: metrics_key.into(),
        })
    }

    /// Returns access for everybody: for listeners on loopback and for tests.
    pub fn open() -> Self {
        Self {
            tokens: Arc::default(),
            metrics_tokens: Arc::default(),
            keys: "`token`".into(),
            metrics_key: "metrics_token".into(),
        }
    }

    /// Returns who may read the metrics: whoever has a token, or one of the metrics' own.
    #[must_use]
    pub fn for_metrics(&self) -> Self {
        if self.metrics_tokens.is_empty() {
            return self.clone();
        }
        Self {
            tokens: self
                .tokens
                .iter()
                .chain(self.metrics_tokens.iter())
                .cloned()
                .collect(),
            keys: format!("{} or `{}`", self.keys, self.metrics_key).into(),
            ..self.clone()
        }
    }

    /// Checks whether everybody is served, because there is no token.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Checks whether these headers contain a token, or none is needed. Takes the same time for all wrong tokens of the same
    /// length, and for all right ones.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        if self.is_open() {
            return true;
        }
        let mut given = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        // Of several that contradict each other, nobody can say which one counts.
        let (given, None) = (given.next(), given.next()) else {
            return false;
        };
        let Some((scheme, given)) = given.and_then(|given| given.split_at_checked("Bearer ".len())) else {
            return false;
        };
        // All are compared, so that the time does not tell which one is close.
        let is_right = self.tokens.iter().fold(Choice::from(0), |found, token| {
            found | given.ct_eq(token.as_bytes())
        });
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(is_right)
    }

    /// Returns the response to a request that may not use protected routes, or `None` if it may.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let keys = &self.keys;
        let body = |code, message| Json(json!({ "error": { "code": code, "message": message } }));
        if !self.admits(headers) {
            let message = format!(
                "this route needs the header `Authorization: Bearer <token>` with the token of {keys}"
            );
            let challenge = [(WWW_AUTHENTICATE, "Bearer")];
            let answer = (StatusCode::UNAUTHORIZED, challenge, body("unauthorized", message));
            return Some(answer.into_response());
        }
        if self.is_open() && is_foreign(headers) {
            let message = format!(
                "the header `origin` names a web page at another host or port than `host`: without {keys}, such pages are \
                 not served"
            );
            return Some((StatusCode::FORBIDDEN, body("foreign_origin", message)).into_response());
        }
        None
    }
}

/// Returns the values of a setting that holds a token. Whoever replaces one lets both count for a while.
fn values(token: &Secret, key: &str) -> Result<Arc<[Box<str>]>, InvalidAccess> {
    let values: Arc<[Box<str>]> = token.expose().split_ascii_whitespace().map(Box::from).collect();
    let is_sound =
        |value: &str| value.len() >= MIN_TOKEN_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic());
    if values.is_empty() || !values.iter().all(|value| is_sound(value)) {
        return Err(InvalidAccess::Token(key.to_owned()));
    }
    Ok(values)
}

/// Middleware for protected routes: answers requests without a token with 401, and those of foreign web pages, if there is no
/// token, with 403.
pub async fn protect(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.refusal(request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn access(listen: &str, token: Option<&str>, allow_anonymous: bool) -> Result<Access, InvalidAccess> {
        let listen = listen.parse().unwrap();
        Access::try_new(
            "host",
            "admin_token",
            listen,
            RawTokens {
                token: token.map(Secret::new),
                metrics_token: None,
            },
            allow_anonymous,
        )
    }

    fn with_metrics_token(token: Option<&str>, metrics_token: &str) -> Result<Access, InvalidAccess> {
        let tokens = RawTokens {
            token: token.map(Secret::new),
            metrics_token: Some(Secret::new(metrics_token)),
        };
        Access::try_new(
            "host",
            "admin_token",
            "127.0.0.1:1".parse().unwrap(),
            tokens,
            true,
        )
    }

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            AUTHORIZATION,
            HeaderValue::from_str(&format!("Bearer {value}")).unwrap(),
        )])
    }

    #[test]
    fn beyond_this_machine_a_token_is_needed() {
        let error = access("0.0.0.0:5215", None, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`host.listen` is 0.0.0.0:5215, which others can reach, and there is no token: set `host.admin_token`, or \
             `host.allow_anonymous = true` if something in front of it checks who asks"
        );
        assert!(access("[::]:5215", None, false).is_err());
        assert!(access("192.0.2.1:5215", None, false).is_err());
        for (listen, token, allow_anonymous) in [
            ("0.0.0.0:5215", Some(TOKEN), false),
            ("0.0.0.0:5215", None, true),
            ("127.0.0.1:5215", None, false),
            ("[::1]:5215", None, false),
            ("[::ffff:127.0.0.1]:5215", None, false),
        ] {
            assert!(access(listen, token, allow_anonymous).is_ok(), "{listen}");
        }
    }

    #[test]
    fn tokens_that_could_be_guessed_are_refused() {
        for token in [
            "",
            "short",
            "0123456789abcde",
            "0123456789 abcdef",
            " \n",
            "0123456789abcdef short",
            "0123456789abcdé",
        ] {
            let error = access("127.0.0.1:1", Some(token), false).unwrap_err();
            assert_eq!(
                error,
                InvalidAccess::Token("host.admin_token".to_owned()),
                "{token}"
            );
        }
    }

    #[test]
    fn only_the_token_is_admitted() {
        let access = access("0.0.0.0:1", Some(TOKEN), true).unwrap();
        let admits = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            access.admits(&headers)
        };
        assert!(!access.admits(&HeaderMap::new()));
        assert!(admits("Bearer 0123456789abcdef"));
        assert!(admits("bearer 0123456789abcdef"));
        for wrong in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcde",
            "Bearer ",
            "Bearer",
            "",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(Access::open().admits(&HeaderMap::new()));
    }

    #[test]
    fn each_of_several_values_is_admitted_and_nothing_else() {
        const NEW: &str = "fedcba9876543210ff";
        let access = access("0.0.0.0:1", Some(&format!("{NEW}\r\n{TOKEN}\n")), false).unwrap();
        assert!(access.admits(&bearer(NEW)) && access.admits(&bearer(TOKEN)));
        for wrong in [
            "",
            "fedcba9876543210",
            &format!("{NEW} {TOKEN}"),
            &format!("{NEW}{TOKEN}"),
        ] {
            assert!(!access.admits(&bearer(wrong)), "{wrong}");
        }
    }

    #[test]
    fn the_token_of_the_metrics_opens_nothing_else() {
        const METRICS: &str = "metrics-0123456789 metrics-9876543210";
        let access = with_metrics_token(Some(TOKEN), METRICS).unwrap();
        let metrics = access.for_metrics();
        assert!(access.admits(&bearer(TOKEN)) && metrics.admits(&bearer(TOKEN)));
        for token in METRICS.split(' ') {
            assert!(
                metrics.admits(&bearer(token)) && !access.admits(&bearer(token)),
                "{token}"
            );
        }
        assert!(!metrics.admits(&bearer(METRICS)) && !metrics.admits(&HeaderMap::new()));
    }

    #[test]
    fn a_token_of_the_metrics_that_protects_nothing_is_refused() {
        let error =
            |token, metrics_token: &str| with_metrics_token(token, metrics_token).unwrap_err().to_string();
        assert_eq!(
            error(None, "metrics-0123456789"),
            "`host.metrics_token` has no effect without `host.admin_token`: set both, or neither"
        );
        assert_eq!(
            error(Some(TOKEN), &format!("metrics-0123456789 {TOKEN}")),
            "`host.metrics_token` is also a value of `host.admin_token`, which opens more than the metrics: give it a value of its \
             own"
        );
        assert!(error(Some(TOKEN), "short").starts_with("`host.metrics_token` must be 16 or more"));
    }

    #[test]
    fn debug_hides_the_token() {
        let access = access("0.0.0.0:1", Some(TOKEN), false).unwrap();
        assert!(!format!("{access:?}").contains(TOKEN));
    }
}
