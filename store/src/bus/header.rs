//! Headers of a dead letter, beside [`event::TRACE_HEADER`].
//!
//! The host's letters are sealed deliveries under the key `provider/account`. The consumer's are records as they were, keyed by their
//! place, with their own headers beside these.

/// What the names of these headers begin with.
pub const PREFIX: &str = "dead-letter-";

/// Who set it aside: `host` or `consumer`.
pub const STAGE: &str = "dead-letter-stage";

/// Why: `malformed` or `rejected_elements` of the host's; `undecodable`, `schema_too_new` or `store_rejected` of the consumer's.
pub const CAUSE: &str = "dead-letter-cause";

/// The cause in a sentence, without personal data.
pub const MESSAGE: &str = "dead-letter-message";

/// Where it came in, `provider/account`, or where it stood, `topic/partition/offset`.
pub const SOURCE: &str = "dead-letter-source";

/// The provider's slug; of the host's alone, as the rest.
pub const PROVIDER: &str = "dead-letter-provider";

/// The account.
pub const ACCOUNT: &str = "dead-letter-account";

/// The plugin that could not read it, `slug@version`.
pub const PLUGIN: &str = "dead-letter-plugin";

/// Positions of the rejected elements, separated by commas; the first hundred.
pub const INDEXES: &str = "dead-letter-indexes";

/// Id of the request, as in the log and in the answer.
pub const REQUEST_ID: &str = "dead-letter-request-id";
