//! Talks to one registry: manifests, blobs, and authentication.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE},
    redirect::Policy,
};
use serde::Deserialize;

use super::{
    artifact::{Digest, INDEX_TYPE, MANIFEST_TYPE},
    challenge::Challenge,
    credentials::Credentials,
    reference::Reference,
};

/// Longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Longest silence in the middle of a response; the total time is bounded by the caller.
const SILENCE: Duration = Duration::from_secs(30);

/// Redirects that are followed: registries serve blobs from elsewhere, after one or two.
const MOST_REDIRECTS: usize = 5;

/// Largest manifest that is read: ours have 1 kB, and an artifact with thousands of layers is not a component.
const MOST_MANIFEST_BYTES: u64 = 256 << 10;

/// Largest token or error that is read. Tokens have a few kilobytes.
const MOST_ANSWER_BYTES: u64 = 64 << 10;

/// The access that the registry is asked to grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

impl Operation {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

/// A connection to one repository of a registry.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    repository: String,
    operation: Operation,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

/// The token may be under either name. Some registries fill both, some leave one of them empty.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<ErrorCode>,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: String,
}

impl Client {
    /// Creates a client for the repository of `reference`. It uses plain HTTP on this machine, and elsewhere only if
    /// `plain_http` is set.
    ///
    /// # Errors
    /// Fails if the host is not valid, or the machine has no root certificates.
    pub(crate) fn new(
        reference: &Reference,
        operation: Operation,
        credentials: Option<Credentials>,
        plain_http: bool,
    ) -> anyhow::Result<Self> {
        let is_plain = plain_http || reference.is_local();
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/", reference.host()))
            .with_context(|| format!("`{}` is not a registry", reference.registry))?;
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > MOST_REDIRECTS {
                attempt.error("it redirects too many times")
            } else if !is_plain && attempt.url().scheme() != "https" {
                attempt.error("it redirects from https to something else")
            } else {
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .redirect(redirects)
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(SILENCE)
            .user_agent(concat!("sendflowr/", env!("CARGO_PKG_VERSION")));
        if reference.is_local() {
            builder = builder.no_proxy();
        }
        Ok(Self {
            http: builder.build().context("cannot create an HTTP client")?,
            base,
            repository: reference.repository.clone(),
            operation,
            credentials,
            authorization: None,
        })
    }

    /// Returns the manifest with this tag or digest, `None` if there is none.
    ///
    /// # Errors
    /// Fails if the registry does not answer, refuses, or sends more bytes than a manifest may have.
    pub(super) async fn manifest(&mut self, reference: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let accept = format!("{MANIFEST_TYPE}, {INDEX_TYPE}");
        let response = self
            .send(|http| http.get(url.clone()).header(ACCEPT, accept.as_str()))
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = succeeded(response).await?;
        let claimed = response.headers().get("docker-content-digest").cloned();
        let bytes = bounded(response, MOST_MANIFEST_BYTES)
            .await
            .context("the manifest")?;
        // Not strictly needed, since the digest is computed from the bytes; but a registry that contradicts itself is unreliable.
        let found = Digest::of(&bytes).to_string();
        if claimed.is_some_and(|claimed| claimed.as_bytes() != found.as_bytes()) {
            bail!("the digest that the registry states for the manifest is wrong, it is {found}");
        }
        Ok(Some(bytes))
    }

    /// Returns the blob with this digest and size.
    ///
    /// # Errors
    /// Fails like [`Client::manifest`], and if the bytes are not the requested ones.
    pub(super) async fn blob(&mut self, digest: &Digest, size: u64) -> anyhow::Result<Vec<u8>> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = succeeded(self.send(|http| http.get(url.clone())).await?).await?;
        let bytes = bounded(response, size).await.context("the layer")?;
        let found = Digest::of(&bytes);
        if found != *digest {
            bail!("the registry sent a layer with the digest {found} for {digest}");
        }
        Ok(bytes)
    }

    /// Uploads a blob, unless the registry has it.
    ///
    /// # Errors
    /// Fails if the registry does not answer or refuses.
    pub(super) async fn put_blob(&mut self, bytes: &[u8]) -> anyhow::Result<Digest> {
        let digest = Digest::of(bytes);
        let present = self.url(&format!("blobs/{digest}"))?;
        if self
            .send(|http| http.head(present.clone()))
            .await?
            .status()
            .is_success()
        {
            return Ok(digest);
        }
        let start = self.url("blobs/uploads/")?;
        let begun = succeeded(self.send(|http| http.post(start.clone())).await?).await?;
        let place = begun
            .headers()
            .get(LOCATION)
            .and_then(|place| place.to_str().ok());
        let place = place.context("the registry names no URL for the upload")?;
        let mut place = self.upload_place(begun.url(), place)?;
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        let sent = self
            .send(|http| {
                http.put(place.clone())
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .body(bytes.to_vec())
            })
            .await?;
        succeeded(sent).await?;
        Ok(digest)
    }

    /// Uploads a manifest under this tag or digest.
    ///
    /// # Errors
    /// Fails if the registry does not answer or refuses.
    pub(super) async fn put_manifest(&mut self, reference: &str, manifest: &[u8]) -> anyhow::Result<()> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let sent = self
            .send(|http| {
                http.request(Method::PUT, url.clone())
                    .header(CONTENT_TYPE, MANIFEST_TYPE)
                    .body(manifest.to_vec())
            })
            .await?;
        succeeded(sent).await?;
        Ok(())
    }

    /// Returns the URL of an upload. Registries name it in full, or relative to that of the request.
    fn upload_place(&self, asked: &Url, named: &str) -> anyhow::Result<Url> {
        let place = asked
            .join(named)
            .context("what the registry names for the upload is not a URL")?;
        if place.scheme() != "https" && self.base.scheme() == "https" {
            bail!("the URL that the registry names for the upload does not use https");
        }
        Ok(place)
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        let path = format!("v2/{}/{path}", self.repository);
        self.base
            .join(&path)
            .context("the address of the artifact is not a URL")
    }

    /// Sends a request, and once more with new authorization if the registry asks for it: that of earlier requests may have
    /// expired, or grant less.
    async fn send(
        &mut self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> anyhow::Result<Response> {
        let response = self.attempt(request(&self.http)).await?;
        // If a redirect led elsewhere, it is not the registry that asks.
        let is_asked =
            response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == self.base.origin();
        if !is_asked {
            return Ok(response);
        }
        let challenge = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .find_map(|header| Challenge::parse(header.to_str().ok()?))
            .context("the registry asks for a kind of authentication that is not supported")?;
        self.authorization = Some(self.authorize(&challenge).await?);
        self.attempt(request(&self.http)).await
    }

    async fn attempt(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let mut request = request.build().context("the request cannot be made")?;
        // An upload may go elsewhere: the authorization is only for the registry.
        if let Some(authorization) = &self.authorization
            && request.url().origin() == self.base.origin()
        {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        answered(self.http.execute(request).await)
    }

    async fn authorize(&self, challenge: &Challenge) -> anyhow::Result<HeaderValue> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            let Some(credentials) = &self.credentials else {
                bail!(
                    "the registry asks for a user and password: set `[registry]`, or log in with `docker login`"
                );
            };
            let request = self.http.get(self.base.clone());
            let request = with_credentials(request, credentials).build()?;
            let header = request.headers().get(AUTHORIZATION);
            return header.cloned().context("the user and password cannot be sent");
        };
        let mut realm =
            Url::parse(realm).context("the address of the registry's token server is not a URL")?;
        if realm.scheme() != "https" && self.base.scheme() == "https" {
            bail!("the registry's token server does not use https");
        }
        let own = format!("repository:{}:{}", self.repository, self.operation.actions());
        // The registry names the scope of the refused request, with its own name for the repository. A push begins with
        // reading but needs more, so its whole scope is requested as well.
        let scopes = match scope.as_deref() {
            Some(asked) if self.operation == Operation::Pull => vec![asked],
            Some(asked) if !own.starts_with(asked) => vec![asked, &own],
            _ => vec![own.as_str()],
        };
        realm
            .query_pairs_mut()
            .extend_pairs(service.iter().map(|service| ("service", service.as_str())))
            .extend_pairs(scopes.into_iter().map(|scope| ("scope", scope)));
        let mut request = self.http.get(realm);
        if let Some(credentials) = &self.credentials {
            request = with_credentials(request, credentials);
        }
        let response = answered(request.send().await).context("the registry's token server")?;
        let response = succeeded(response).await.context("the registry's token server")?;
        let answer = bounded(response, MOST_ANSWER_BYTES).await.context("the token")?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&answer).ok();
        let tokens = answer.map(|answer| [answer.token, answer.access_token]);
        let mut tokens = tokens.into_iter().flatten().flatten();
        let Some(token) = tokens.find(|token| !token.is_empty()) else {
            bail!("the registry's token server sent something other than a token");
        };
        let Ok(mut header) = HeaderValue::from_str(&format!("Bearer {token}")) else {
            bail!("the registry's token server sent a token that is not a valid header value");
        };
        header.set_sensitive(true);
        Ok(header)
    }
}

fn with_credentials(request: RequestBuilder, credentials: &Credentials) -> RequestBuilder {
    request.basic_auth(&credentials.username, Some(credentials.password.expose()))
}

fn answered(result: reqwest::Result<Response>) -> anyhow::Result<Response> {
    // The URL may contain a token, and the reader knows which registry was asked.
    result.map_err(reqwest::Error::without_url).context("no answer")
}

/// Returns the response if it is a success, otherwise an error with the code that the registry sent, if any.
async fn succeeded(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(response, MOST_ANSWER_BYTES).await.unwrap_or_default();
    let code = serde_json::from_slice::<ErrorAnswer>(&body)
        .ok()
        .and_then(|answer| Some(answer.errors.into_iter().next()?.code))
        .filter(|code| {
            code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        });
    match (status, code) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            bail!("{status}: the registry denies access; set `[registry]`, or log in with `docker login`")
        }
        (_, Some(code)) => bail!("the registry answered {status}, {code}"),
        (_, None) => bail!("the registry answered {status}"),
    }
}

/// Returns the body of a response if it has at most `limit` bytes.
async fn bounded(mut response: Response, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)
        .context("the response breaks off")?
    {
        if (body.len() + chunk.len()) as u64 > limit {
            bail!("has more than {limit} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_spoken_to_this_machine_alone_unless_it_is_asked_for() {
        crate::choose_tls();
        let scheme = |registry: &str, plain_http: bool| {
            let reference = format!("oci://{registry}/acme:1").parse::<Reference>().unwrap();
            let client = Client::new(&reference, Operation::Pull, None, plain_http).unwrap();
            client.base.scheme().to_owned()
        };
        assert_eq!(scheme("127.0.0.1:5000", false), "http");
        assert_eq!(scheme("registry.test:5000", false), "https");
        assert_eq!(scheme("10.0.0.1:5000", false), "https");
        assert_eq!(scheme("registry.test:5000", true), "http");
    }

    #[tokio::test]
    async fn a_token_server_without_https_gets_no_credentials() {
        crate::choose_tls();
        let reference: Reference = "oci://registry.test/acme:1".parse().unwrap();
        let credentials = Credentials {
            username: "ann".to_owned(),
            password: event::settings::Secret::new("s3cret"),
        };
        let client = Client::new(&reference, Operation::Pull, Some(credentials), false).unwrap();
        let challenge = Challenge::parse(r#"Bearer realm="http://registry.test/token""#).unwrap();
        let error = client.authorize(&challenge).await.unwrap_err().to_string();
        assert_eq!(error, "the registry's token server does not use https");
    }

    #[test]
    fn uploads_stay_with_https() {
        crate::choose_tls();
        let reference: Reference = "oci://registry.test/acme:1".parse().unwrap();
        let place = |named: &str, plain_http: bool| {
            let client = Client::new(&reference, Operation::Push, None, plain_http).unwrap();
            client.upload_place(&client.base, named).map(String::from)
        };
        let (secure, plain) = ("https://store.test/1?a=b", "http://registry.test/v2/1");
        assert_eq!(place(secure, false).unwrap(), secure);
        assert_eq!(place("/v2/1", false).unwrap(), "https://registry.test/v2/1");
        assert_eq!(
            place(plain, false).unwrap_err().to_string(),
            "the URL that the registry names for the upload does not use https"
        );
        assert_eq!(place(plain, true).unwrap(), plain);
    }
}
