//! The few outgoing requests of the host itself: certificates and confirmations, from hosts that a plugin declared.

use std::{sync::OnceLock, time::Duration};

use reqwest::{Client, StatusCode, Url, redirect::Policy};
use tokio::sync::Semaphore;

/// Timeout of a request. Providers wait 5 s or more for the host's own answer, and send the delivery again after that.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Limit of a response's size. A certificate with its chain has less than 10 KiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Limit of the length of a file's URL. Those of SNS's certificates have some 100 bytes. They come from senders that have proven
/// nothing yet, and are remembered.
const MAX_FILE_URL_BYTES: usize = 512;

/// Requests at once. Confirmations are rare, and [`certificates`](crate::proof) have a smaller limit of their own.
const REQUESTS_AT_ONCE: usize = 16;

/// A URL that may be fetched: https on the default port, without user, on a host that the plugin declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchAddress(Url);

/// Why a URL is not fetched. The message does not repeat the URL: it comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// Not a URL.
    #[error("it is not a URL")]
    NoUrl,
    /// Another scheme or port, or a URL with user or password.
    #[error("it is not plain https on port 443")]
    NotPlainHttps,
    /// A host that the plugin does not declare.
    #[error("its host is not one that the provider is known to use")]
    Host,
    /// The URL of a file that has more than a path, or that is not written exactly as it would be requested.
    #[error(
        "it is not the plain URL of a file: no query, fragment or port, written exactly as it is requested"
    )]
    NotPlainFile,
    /// The URL of a file that is far longer than any that providers use.
    #[error("it has more than {MAX_FILE_URL_BYTES} bytes")]
    TooLong,
}

impl FetchAddress {
    /// Parses a URL that may be fetched. `hosts` are host names, in which one whole label may be `*`.
    ///
    /// # Errors
    /// [`AddressRefused`] when it may not be fetched.
    pub fn parse(text: &str, hosts: &[String]) -> Result<Self, AddressRefused> {
        let url = Url::parse(text).map_err(|_| AddressRefused::NoUrl)?;
        let is_plain = url.scheme() == "https"
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !is_plain {
            return Err(AddressRefused::NotPlainHttps);
        }
        let host = url.host_str().unwrap_or_default();
        if !hosts.iter().any(|pattern| host_fits(host, pattern)) {
            return Err(AddressRefused::Host);
        }
        Ok(Self(url))
    }

    /// Parses the URL of a file: one that [`parse`](Self::parse) accepts, without query and fragment, and written
    /// exactly as it would be requested.
    ///
    /// A query would let the sender choose what the server returns. A text that parsing changes (`https:/`, leading white space,
    /// `/./`) may have been checked as something other than what is requested, and would give one file any number of URLs.
    ///
    /// # Errors
    /// [`AddressRefused`] when it may not be fetched.
    pub fn parse_file(text: &str, hosts: &[String]) -> Result<Self, AddressRefused> {
        if text.len() > MAX_FILE_URL_BYTES {
            return Err(AddressRefused::TooLong);
        }
        let address = Self::parse(text, hosts)?;
        let Self(url) = &address;
        if url.query().is_some() || url.fragment().is_some() || url.as_str() != text {
            return Err(AddressRefused::NotPlainFile);
        }
        Ok(address)
    }

    /// Returns the URL as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns its host.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// Checks whether every label matches the pattern's; `*` stands for one whole label.
fn host_fits(host: &str, pattern: &str) -> bool {
    let mut labels = host.split('.');
    let mut wanted = pattern.split('.');
    loop {
        match (labels.next(), wanted.next()) {
            (None, None) => return true,
            (Some(label), Some("*")) if !label.is_empty() => {}
            (Some(label), Some(wanted)) if label.eq_ignore_ascii_case(wanted) => {}
            _ => return false,
        }
    }
}

/// Why a fetch returned nothing usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The HTTP client could not be created, for example because there are no root certificates.
    #[error("the https client could not be created")]
    Client(#[source] reqwest::Error),
    /// No response.
    #[error("no answer from the provider's server")]
    Unreachable(#[source] reqwest::Error),
    /// A response with an error status.
    #[error("the provider's server answered {0}")]
    Status(StatusCode),
    /// A response that is far too long.
    #[error("the provider's server answered more than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
}

/// Fetches URLs: no redirects, five seconds, 64 KiB, 16 at once. Uses the proxy from the process's environment, if any.
pub(crate) struct Fetcher {
    // Created on first use: most hosts never fetch anything, and loading root certificates takes time and memory.
    client: OnceLock<Client>,
    permits: Semaphore,
}

impl Fetcher {
    /// Creates a fetcher, without opening a connection.
    pub(crate) fn new() -> Self {
        Self {
            client: OnceLock::new(),
            permits: Semaphore::new(REQUESTS_AT_ONCE),
        }
    }

    /// Returns the body of the resource at the URL.
    ///
    /// # Errors
    /// [`FetchError`] when there is no successful response of acceptable length in time.
    pub(crate) async fn get(&self, address: &FetchAddress) -> Result<Vec<u8>, FetchError> {
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let request = self.client()?.get(address.0.clone());
        let mut response = request.send().await.map_err(FetchError::Unreachable)?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(FetchError::Unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(FetchError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn client(&self) -> Result<&Client, FetchError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Fails when the process has already chosen a crypto provider, which then works as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .https_only(true)
            .redirect(Policy::none())
            .timeout(TIMEOUT)
            .user_agent(concat!("sendflowr/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(FetchError::Client)?;
        Ok(self.client.get_or_init(|| client))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn takes_declared_hosts_only() {
        let hosts = ["sns.*.amazonaws.com".to_owned(), "keys.acme.test".to_owned()];
        let parse = |text| FetchAddress::parse(text, &hosts).map(|address| address.as_str().to_owned());
        assert!(parse("https://sns.us-east-1.amazonaws.com/a.pem").is_ok());
        assert!(parse("https://SNS.us-east-1.AMAZONAWS.com:443/a.pem").is_ok());
        assert!(parse("https://keys.acme.test/").is_ok());
        for refused in [
            "https://sns.us-east-1.amazonaws.com.evil.test/a.pem",
            "https://sns.a.b.amazonaws.com/a.pem",
            "https://sns..amazonaws.com/a.pem",
            "https://evil.test/sns.us-east-1.amazonaws.com/a.pem",
            "https://evil.test\\@keys.acme.test/",
            "https://evil.test#@keys.acme.test/",
            "https://keys.acme.test./",
            "https://127.0.0.1/",
        ] {
            assert_eq!(parse(refused), Err(AddressRefused::Host), "{refused}");
        }
        for refused in [
            "http://keys.acme.test/",
            "https://keys.acme.test:8443/",
            "https://user@keys.acme.test/",
            "https://:pw@keys.acme.test/",
            "file:///etc/passwd",
        ] {
            assert_eq!(parse(refused), Err(AddressRefused::NotPlainHttps), "{refused}");
        }
        assert_eq!(parse("sns"), Err(AddressRefused::NoUrl));
    }

    #[test]
    fn a_file_has_one_address() {
        let hosts = ["sns.*.amazonaws.com".to_owned()];
        let plain = "https://sns.us-east-1.amazonaws.com/a.pem";
        assert_eq!(FetchAddress::parse_file(plain, &hosts).unwrap().as_str(), plain);
        for refused in [
            "https://sns.us-east-1.amazonaws.com/?Action=ListTopics&x=.pem",
            "https://sns.us-east-1.amazonaws.com/a.pem?",
            "https://sns.us-east-1.amazonaws.com/a.pem?n=1&.pem",
            "https://sns.us-east-1.amazonaws.com/a.pem#.pem",
            "https://sns.us-east-1.amazonaws.com:443/a.pem",
            "https://@sns.us-east-1.amazonaws.com/a.pem",
            "HTTPS://sns.us-east-1.amazonaws.com/a.pem",
            "https://SNS.us-east-1.amazonaws.com/a.pem",
            "https:/sns.us-east-1.amazonaws.com/a.pem",
            "https:\\\\sns.us-east-1.amazonaws.com/a.pem",
            " https://sns.us-east-1.amazonaws.com/a.pem",
            "https://sns.us-east-1.amazonaws.com/a.pem\n",
            "https://sns.us-east-1.amazonaws.com/./a.pem",
            "https://sns.us-east-1.amazonaws.com/b/../a.pem",
        ] {
            let address = FetchAddress::parse_file(refused, &hosts);
            assert_eq!(address, Err(AddressRefused::NotPlainFile), "{refused:?}");
        }
        assert_eq!(
            FetchAddress::parse_file("https://evil.test/a.pem", &hosts),
            Err(AddressRefused::Host)
        );
        let long = |length: usize| {
            format!(
                "{}{}",
                &plain[..plain.len() - 5],
                "a".repeat(length - plain.len() + 1) + ".pem"
            )
        };
        assert!(FetchAddress::parse_file(&long(MAX_FILE_URL_BYTES), &hosts).is_ok());
        assert_eq!(
            FetchAddress::parse_file(&long(MAX_FILE_URL_BYTES + 1), &hosts),
            Err(AddressRefused::TooLong)
        );
    }

    #[tokio::test]
    async fn only_so_many_requests_are_under_way() {
        let fetcher = Fetcher::new();
        let taken = u32::try_from(REQUESTS_AT_ONCE).unwrap();
        let _others = fetcher.permits.acquire_many(taken).await.unwrap();
        let address = FetchAddress::parse("https://localhost/", &["localhost".to_owned()]).unwrap();
        assert!(fetcher.get(&address).now_or_never().is_none());
        // It waits for its turn, and not for an answer.
        assert!(fetcher.client.get().is_none());
    }

    #[tokio::test]
    async fn a_client_can_be_made() {
        assert!(Fetcher::new().client().is_ok());
    }
}
