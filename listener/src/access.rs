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
use subtle::ConstantTimeEq;

use crate::origin::is_foreign;

/// Minimum length of a token: 16 random base64 characters are 96 bits, which is infeasible to guess over a network.
const MIN_TOKEN_BYTES: usize = 16;

/// A listener's access settings are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// The token could be guessed, or no header can carry it.
    #[error("`{0}` must be {MIN_TOKEN_BYTES} or more printable ASCII characters without spaces")]
    Token(String),
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

/// Decides whether a request may use protected routes.
#[derive(Clone)]
pub struct Access {
    token: Option<Arc<str>>,
    /// Named in 401 responses, so that an operator knows which token is meant.
    token_key: Arc<str>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("token_key", &self.token_key)
            .field("is_open", &self.is_open())
            .finish()
    }
}

impl Access {
    /// Checks the settings of one listener: `section` is its section of the configuration, `key` the token's key there.
    /// Without a token everybody is served, which is only accepted on loopback or with `allow_anonymous`. With a token,
    /// `allow_anonymous` has no effect.
    ///
    /// # Errors
    /// [`InvalidAccess`] naming what to set.
    pub fn try_new(
        section: &'static str,
        key: &str,
        listen: SocketAddr,
        token: Option<Secret>,
        allow_anonymous: bool,
    ) -> Result<Self, InvalidAccess> {
        let token_key = format!("{section}.{key}");
        let Some(token) = token else {
            if !allow_anonymous && !listen.ip().to_canonical().is_loopback() {
                return Err(InvalidAccess::Open {
                    section,
                    listen,
                    token_key,
                });
            }
            return Ok(Self {
                token: None,
                token_key: token_key.into(),
            });
        };
        let token = token.expose();
        if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidAccess::Token(token_key));
        }
        Ok(Self {
            token: Some(token.into()),
            token_key: token_key.into(),
        })
    }

    /// Returns access for everybody: for listeners on loopback and for tests.
    pub fn open() -> Self {
        Self {
            token: None,
            token_key: "token".into(),
        }
    }

    /// Checks whether everybody is served, because there is no token.
    pub fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Checks whether these headers contain the token, or none is needed. Takes the same time for all wrong tokens of the same
    /// length.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let mut given = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        // Of several that contradict each other, nobody can say which one counts.
        let (given, None) = (given.next(), given.next()) else {
            return false;
        };
        let Some((scheme, given)) = given.and_then(|given| given.split_at_checked("Bearer ".len())) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(token.as_bytes()))
    }

    /// Returns the response to a request that may not use protected routes, or `None` if it may.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let key = &self.token_key;
        let body = |code, message| Json(json!({ "error": { "code": code, "message": message } }));
        if !self.admits(headers) {
            let message = format!(
                "this route needs the header `Authorization: Bearer <token>` with the token of `{key}`"
            );
            let challenge = [(WWW_AUTHENTICATE, "Bearer")];
            let answer = (StatusCode::UNAUTHORIZED, challenge, body("unauthorized", message));
            return Some(answer.into_response());
        }
        if self.is_open() && is_foreign(headers) {
            let message = format!(
                "the header `origin` names a web page at another host or port than `host`: without `{key}`, such pages are \
                 not served"
            );
            return Some((StatusCode::FORBIDDEN, body("foreign_origin", message)).into_response());
        }
        None
    }
}

/// Middleware for protected routes: answers requests without the token with 401, and those of foreign web pages, if there is no
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
            token.map(Secret::new),
            allow_anonymous,
        )
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
    fn debug_hides_the_token() {
        let access = access("0.0.0.0:1", Some(TOKEN), false).unwrap();
        assert!(!format!("{access:?}").contains(TOKEN));
    }
}
