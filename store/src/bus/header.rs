//! Headers of a dead letter, in addition to [`event::TRACE_HEADER`].
//!
//! Dead letters of the host are sealed deliveries with the key `provider/account`. Those of the consumer are unchanged records,
//! keyed by their position, and keep their own headers in addition to these.

/// Prefix of the names of these headers.
pub const PREFIX: &str = "dead-letter-";

/// Which process dead-lettered it: `host` or `consumer`. `replay` marks a record of which dead letters are done.
pub const STAGE: &str = "dead-letter-stage";

/// The cause: `malformed` or `rejected_elements` from the host; `undecodable`, `schema_too_new` or `store_rejected` from the
/// consumer.
pub const CAUSE: &str = "dead-letter-cause";

/// The cause in a sentence, without personal data.
pub const MESSAGE: &str = "dead-letter-message";

/// Where the host received it, `provider/account`, or where the consumer read it, `topic/partition/offset`.
pub const SOURCE: &str = "dead-letter-source";

/// The provider's slug. This header and those below are set by the host only.
pub const PROVIDER: &str = "dead-letter-provider";

/// The account.
pub const ACCOUNT: &str = "dead-letter-account";

/// The plugin that could not read it, `slug@version`.
pub const PLUGIN: &str = "dead-letter-plugin";

/// Positions of the rejected elements, separated by commas; the first hundred.
pub const INDEXES: &str = "dead-letter-indexes";

/// Id of the request, as in the log and in the response.
pub const REQUEST_ID: &str = "dead-letter-request-id";
