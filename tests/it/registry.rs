//! A registry in this process that implements enough of the distribution protocol for one artifact, honestly
//! or not.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::net::TcpListener;

/// How the registry behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Honest,
    /// Never answers.
    Silent,
    /// Names another digest than the manifest's.
    LyingHeader,
    /// Sends these bytes for every manifest.
    Manifests(&'static [u8]),
    /// Sends this many zeros for every manifest.
    LongManifests(usize),
    /// Changes a byte of every blob.
    AlteredBlobs,
    /// Sends one byte more of every blob.
    LongBlobs,
    /// Answers every request for a manifest with this status.
    Status(u16),
    /// Redirects requests for a manifest in circles.
    Circles,
    /// Accepts every token only twice.
    ShortTokens,
    /// Stores no signature.
    NoSignatures,
}

/// How the registry authenticates requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// With user name and password.
    Basic,
    /// With a token, which its own `/token` issues for user name and password.
    Token,
    /// With a token that cannot be sent back.
    BrokenToken,
}

/// The accepted user name and password.
pub(crate) const USER: (&str, &str) = ("ann", "s3cret-of-ann");

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    door: Door,
    stored: Mutex<Stored>,
}

struct Stored {
    manner: Manner,
    /// By tag and by digest.
    manifests: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    /// The issued tokens; each is named by its position.
    tokens: Vec<Token>,
}

struct Token {
    may_push: bool,
    uses_left: usize,
}

impl Registry {
    pub(crate) async fn start(door: Door) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stored = Stored {
            manner: Manner::Honest,
            manifests: HashMap::new(),
            blobs: HashMap::new(),
            tokens: Vec::new(),
        };
        let shared = Arc::new(Shared {
            address,
            door,
            stored: Mutex::new(stored),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    /// Returns the `oci://…` reference of a tag in this registry.
    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("oci://{}/acme/plugins:{tag}", self.address)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.shared.stored().manner = manner;
    }

    /// Stores a blob and returns its digest.
    pub(crate) fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.shared.stored().blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// Stores a manifest and returns its digest.
    pub(crate) fn manifest(&self, tag: &str, bytes: &[u8]) -> String {
        self.shared.stored().put_manifest(tag, bytes)
    }
}

impl Shared {
    fn stored(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_let_in(&self, method: &Method, authorization: &str) -> bool {
        match self.door {
            Door::Open => true,
            Door::Basic => authorization == basic(),
            Door::Token | Door::BrokenToken => {
                let is_read = [Method::GET, Method::HEAD].contains(method);
                self.stored().takes_token(authorization, is_read)
            }
        }
    }
}

impl Stored {
    /// Issues a token, as registries do: under two names, one of which may be empty.
    fn give_token(&mut self, may_push: bool) -> serde_json::Value {
        let uses_left = match self.manner {
            Manner::ShortTokens => 2,
            _ => usize::MAX,
        };
        let number = self.tokens.len();
        self.tokens.push(Token { may_push, uses_left });
        let token = format!("token-{number}");
        match number % 2 {
            0 => json!({ "token": token, "access_token": "" }),
            _ => json!({ "token": token, "access_token": token }),
        }
    }

    fn takes_token(&mut self, authorization: &str, is_read: bool) -> bool {
        let number = authorization
            .strip_prefix("Bearer token-")
            .and_then(|number| number.parse::<usize>().ok());
        let Some(token) = number.and_then(|number| self.tokens.get_mut(number)) else {
            return false;
        };
        let is_taken = token.uses_left > 0 && (is_read || token.may_push);
        token.uses_left -= usize::from(is_taken);
        is_taken
    }

    fn put_manifest(&mut self, tag: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.manifests.insert(tag.to_owned(), bytes.to_vec());
        self.manifests.insert(digest.clone(), bytes.to_vec());
        digest
    }
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)))
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: header::HeaderMap,
    body: Bytes,
) -> Response {
    let manner = shared.stored().manner;
    if manner == Manner::Silent {
        std::future::pending::<()>().await;
    }
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default();
    if uri.path() == "/token" {
        if authorization != basic() {
            return status(StatusCode::UNAUTHORIZED);
        }
        let answer = if shared.door == Door::BrokenToken {
            json!({ "token": "a\nb" })
        } else {
            let may_push = uri.query().is_some_and(|query| query.contains("push"));
            shared.stored().give_token(may_push)
        };
        return of(StatusCode::OK, answer.to_string().into_bytes());
    }
    if !shared.is_let_in(&method, authorization) {
        let challenge = match shared.door {
            Door::Basic => "Basic realm=\"here\"".to_owned(),
            // Asks for the scope of reading, whatever was requested, as some registries do.
            _ => format!(
                "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:acme/plugins:pull\"",
                shared.address
            ),
        };
        // Registries behind a company's proxy offer several kinds.
        let response = with(
            status(StatusCode::UNAUTHORIZED),
            header::WWW_AUTHENTICATE,
            "Negotiate",
        );
        return with(response, header::WWW_AUTHENTICATE, &challenge);
    }
    let Some(path) = uri.path().strip_prefix("/v2/acme/plugins/") else {
        return status(StatusCode::NOT_FOUND);
    };
    let mut stored = shared.stored();
    match (method, path.split_once('/')) {
        (Method::POST, Some(("blobs", "uploads/"))) => {
            // Relative to the request.
            with(status(StatusCode::ACCEPTED), header::LOCATION, "1?state=x")
        }
        (Method::PUT, Some(("blobs", "uploads/1"))) => {
            let claimed = uri.query().unwrap_or_default().replace("%3A", ":");
            if !claimed.ends_with(&format!("digest={}", digest(&body))) {
                return status(StatusCode::BAD_REQUEST);
            }
            stored.blobs.insert(digest(&body), body.to_vec());
            status(StatusCode::CREATED)
        }
        (Method::PUT, Some(("manifests", tag)))
            if manner == Manner::NoSignatures && tag.ends_with(".minisig") =>
        {
            status(StatusCode::INSUFFICIENT_STORAGE)
        }
        (Method::PUT, Some(("manifests", tag))) => {
            stored.put_manifest(tag, &body);
            status(StatusCode::CREATED)
        }
        (Method::HEAD | Method::GET, Some(("blobs", digest))) => {
            let Some(mut blob) = stored.blobs.get(digest).cloned() else {
                return status(StatusCode::NOT_FOUND);
            };
            match manner {
                Manner::AlteredBlobs => blob[0] ^= 1,
                Manner::LongBlobs => blob.push(0),
                _ => {}
            }
            of(StatusCode::OK, blob)
        }
        (Method::GET, Some(("manifests", tag))) => {
            let Some(manifest) = stored.manifests.get(tag).cloned() else {
                let error = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"evil\u001b[2J"}]}"#;
                return of(StatusCode::NOT_FOUND, error.to_vec());
            };
            match manner {
                Manner::Manifests(bytes) => of(StatusCode::OK, bytes.to_vec()),
                Manner::LongManifests(length) => of(StatusCode::OK, vec![0; length]),
                Manner::LyingHeader => {
                    let header = header::HeaderName::from_static("docker-content-digest");
                    with(of(StatusCode::OK, manifest), header, &digest(b"something else"))
                }
                Manner::Status(code) => {
                    let error = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"evil\u001b[2J"}]}"#;
                    of(StatusCode::from_u16(code).expect("a status"), error.to_vec())
                }
                Manner::Circles => {
                    let place = format!("http://{}/v2/acme/plugins/manifests/{tag}", shared.address);
                    with(status(StatusCode::TEMPORARY_REDIRECT), header::LOCATION, &place)
                }
                _ => of(StatusCode::OK, manifest),
            }
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn status(status: StatusCode) -> Response {
    of(status, Vec::new())
}

fn of(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

fn with(mut response: Response, name: header::HeaderName, value: &str) -> Response {
    let value = value.parse().expect("a header value");
    response.headers_mut().append(name, value);
    response
}
