//! Maps the errors of the library and of the brokers to what they mean to the caller.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{client::Trouble, config::KafkaConfig};
use crate::StoreError;

/// The engine's name in errors.
const ENGINE: &str = "kafka";

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An error code of a broker, or of the library while it waited for one.
    #[error("{0}")]
    Code(Code),
    /// An error of the library, as text.
    #[error("{0}")]
    Library(String),
    /// Too many bytes wait for acknowledgement.
    #[error("{waiting} bytes wait for acknowledgement, `kafka.queue_bytes` allows {allowed}")]
    QueueFull { waiting: usize, allowed: usize },
    /// The partitions of the records have moved to another member.
    #[error("partitions have moved to another member of the group; their records are read again there")]
    Moved,
    /// No response arrived in time.
    #[error("no answer in time")]
    TimedOut,
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
    /// The data can never be appended.
    #[error("{0}")]
    Rejected(String),
    /// An operator must act.
    #[error("{0}")]
    Misconfigured(String),
}

/// What to do about an error code.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The data can never be appended.
    Data,
    /// The user lacks a permission.
    Right,
    /// The brokers do not accept the value of a setting.
    Setting(&'static str),
    /// It may pass. Includes every code that is not listed here: a retry loses nothing and shows in the retry counter. Also
    /// includes a refused login or certificate: brokers that are about to stop or to start refuse even one that they accepted
    /// before.
    Passing,
}

impl Meaning {
    fn of(code: Code) -> Self {
        match code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => Self::Data,
            Code::InvalidMessage | Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidTopic => {
                Self::Data
            }
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed => Self::Right,
            Code::InvalidSessionTimeout => Self::Setting("kafka.session_timeout_ms"),
            Code::UnsupportedCompressionType => Self::Setting("kafka.compression"),
            Code::InvalidPartitions => Self::Setting("kafka.partitions"),
            Code::InvalidReplicationFactor => Self::Setting("kafka.replication_factor"),
            Code::InvalidConfig => Self::Setting("kafka.max_record_bytes"),
            _ => Self::Passing,
        }
    }
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        if let Some(code) = error.rdkafka_error_code() {
            return Self::Code(code);
        }
        match error {
            // Without the value: it may be a secret.
            KafkaError::ClientConfig(_, _, key, _) => {
                Self::Misconfigured(format!("the client library rejects its setting `{key}`"))
            }
            KafkaError::ClientCreation(reason) => Self::Misconfigured(format!(
                "the client library cannot start: {reason}: look at `kafka.ca`, `kafka.client_certificate` and \
                 `kafka.client_key`"
            )),
            KafkaError::Nul(_) => Self::Rejected("the topic's name has a zero byte".to_owned()),
            KafkaError::Canceled => Self::Closed,
            other => Self::Library(other.to_string()),
        }
    }
}

impl Failure {
    /// Creates the failure for a broker's error about a topic.
    pub(super) fn of_topic(topic: &str, code: Code) -> Self {
        match Meaning::of(code) {
            Meaning::Data => Self::Rejected(format!("topic `{topic}`: {code}")),
            Meaning::Right => Self::Misconfigured(format!(
                "the user may not use the topic `{topic}`: grant it Describe, Read and Write; {code}"
            )),
            Meaning::Setting(_) | Meaning::Passing => Self::Code(code),
        }
    }

    /// Creates the failure of a request about a group.
    pub(super) fn of_group(group: &str, error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(code @ Code::GroupAuthorizationFailed) => Self::Misconfigured(format!(
                "the user may not use the group `{group}`: grant it Read; {code}"
            )),
            // The library asks again, for as long as it may, when the user lacks the right.
            Some(code @ Code::OperationTimedOut) => Self::Library(format!(
                "no answer about the group `{group}`: the brokers are down or busy, or the user lacks Read on it; {code}"
            )),
            _ => error.into(),
        }
    }

    /// Creates the failure for a broker's error about records appended to a topic.
    pub(super) fn of_append(topic: &str, code: Code) -> Self {
        match code {
            // Records are sent in batches, whose size the topic limits: each of them may be small.
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Self::Rejected(format!(
                "the topic `{topic}` does not take batches of this size: set its `max.message.bytes` to \
                 `kafka.max_record_bytes`; {code}"
            )),
            _ => Self::of_topic(topic, code),
        }
    }

    /// Creates the failure for a broker's error about creating a topic.
    pub(super) fn of_new_topic(topic: &str, code: Code) -> Self {
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                Self::Misconfigured(format!(
                    "the user may not create the topic `{topic}`, which is missing: create it, or grant Create; {code}"
                ))
            }
            Code::PolicyViolation => Self::Misconfigured(format!(
                "a policy of the brokers forbids creating the topic `{topic}`, which is missing: create it, or look at \
                 `kafka.partitions`, `kafka.replication_factor` and `kafka.max_record_bytes`; {code}"
            )),
            _ => Self::of_topic(topic, code),
        }
    }

    /// Returns the failure as the value of a metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::Rejected(_) => "rejected",
            Self::Misconfigured(_) => "misconfigured",
            Self::Code(code) => match Meaning::of(*code) {
                Meaning::Data => "rejected",
                Meaning::Right | Meaning::Setting(_) => "misconfigured",
                Meaning::Passing => "unavailable",
            },
            Self::Library(_) | Self::Moved | Self::TimedOut | Self::Closed => "unavailable",
        }
    }

    /// Returns whether an operator must act.
    pub(super) fn is_misconfiguration(&self) -> bool {
        self.label() == "misconfigured"
    }

    /// Returns whether a topic does not exist (any more).
    pub(super) fn is_unknown_topic(&self) -> bool {
        matches!(
            self,
            Self::Code(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
        )
    }

    /// Returns the error for a client that never had a connection.
    pub(super) fn at_start(self, trouble: Option<Trouble>, config: &KafkaConfig) -> StoreError {
        let may_pass = match &self {
            Self::Code(code) => Meaning::of(*code) == Meaning::Passing,
            Self::TimedOut | Self::Library(_) => true,
            _ => false,
        };
        if !may_pass {
            return self.into();
        }
        let servers = &config.bootstrap_servers;
        let reason = match &trouble {
            Some(trouble) => trouble.to_string(),
            None => self.to_string(),
        };
        let message = match trouble {
            Some(trouble) if trouble.is_refusal() && trouble.code != Code::SSL => format!(
                "the brokers at `{servers}` refuse the user: look at `kafka.sasl_mechanism`, `kafka.sasl_username` and \
                 `kafka.sasl_password`; {reason}"
            ),
            Some(trouble) if trouble.is_refusal() => format!(
                "no encrypted connection to the brokers at `{servers}`: their certificate is signed by another authority than \
                 `kafka.ca` has, or expired, or for another host name than `kafka.bootstrap_servers` has; otherwise look at \
                 `kafka.security_protocol` and `kafka.client_certificate`; {reason}"
            ),
            _ => format!(
                "no broker answers at `{servers}`: look at `kafka.bootstrap_servers`, `kafka.security_protocol` and, if the \
                 brokers ask for it, `kafka.client_certificate`; {reason}"
            ),
        };
        StoreError::misconfigured(ENGINE, message)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let misconfigured = |message: String| Self::misconfigured(ENGINE, message);
        match &failure {
            Failure::Rejected(_) => {}
            Failure::Misconfigured(message) => return misconfigured(message.clone()),
            Failure::Code(code) => match Meaning::of(*code) {
                Meaning::Data => {}
                Meaning::Right => {
                    return misconfigured(format!(
                        "the user may not do what is needed: grant it Describe, Read and Write on the topics, Read on the \
                         groups `sendflowr-*`, and IdempotentWrite on the cluster; {code}"
                    ));
                }
                Meaning::Setting(key) => return misconfigured(format!("look at `{key}`; {code}")),
                Meaning::Passing => return Self::unavailable(ENGINE, failure),
            },
            Failure::Library(_)
            | Failure::QueueFull { .. }
            | Failure::Moved
            | Failure::TimedOut
            | Failure::Closed => return Self::unavailable(ENGINE, failure),
        }
        Self::rejected(ENGINE, failure.to_string())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;
    use crate::bus::RawKafkaConfig;

    fn config() -> KafkaConfig {
        KafkaConfig::try_from(RawKafkaConfig {
            bootstrap_servers: Some("kafka:9092".to_owned()),
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn tells_by_the_code_who_must_act() {
        let told = |code| StoreError::from(Failure::Code(code));
        assert!(matches!(
            told(Code::MessageTimedOut),
            StoreError::Unavailable { .. }
        ));
        assert!(matches!(
            told(Code::NotEnoughReplicas),
            StoreError::Unavailable { .. }
        ));
        assert!(matches!(
            told(Code::Authentication),
            StoreError::Unavailable { .. }
        ));
        assert!(matches!(
            told(Code::MessageSizeTooLarge),
            StoreError::Rejected { .. }
        ));
        let error = told(Code::TopicAuthorizationFailed);
        assert!(matches!(error, StoreError::Misconfigured { .. }));
        assert!(error.to_string().contains("grant"), "{error}");
        let error = told(Code::InvalidSessionTimeout);
        assert!(
            error.to_string().contains("`kafka.session_timeout_ms`"),
            "{error}"
        );
    }

    #[test]
    fn a_request_about_a_group_names_it_and_the_right() {
        for code in [Code::OperationTimedOut, Code::GroupAuthorizationFailed] {
            let told =
                StoreError::from(Failure::of_group("readers", KafkaError::OffsetFetch(code))).to_string();
            assert!(told.contains("`readers`") && told.contains("Read"), "{told}");
        }
    }

    #[test]
    fn a_batch_that_is_too_large_names_the_topic_and_its_setting() {
        let told = StoreError::from(Failure::of_append("email-events", Code::MessageSizeTooLarge));
        assert!(matches!(told, StoreError::Rejected { .. }), "{told}");
        let told = told.to_string();
        assert!(
            told.contains("`email-events`") && told.contains("`max.message.bytes`"),
            "{told}"
        );
    }

    #[test]
    fn what_keeps_it_from_starting_names_the_setting() {
        let told = |code, reason: &str| {
            let trouble = Trouble {
                code,
                reason: reason.to_owned(),
            };
            let failure = Failure::Code(Code::BrokerTransportFailure);
            failure.at_start(Some(trouble), &config()).to_string()
        };
        assert_eq!(
            told(Code::BrokerTransportFailure, "Connection refused"),
            "kafka is not usable: no broker answers at `kafka:9092`: look at `kafka.bootstrap_servers`, \
             `kafka.security_protocol` and, if the brokers ask for it, `kafka.client_certificate`; Connection refused"
        );
        assert!(told(Code::Authentication, "x").contains("`kafka.sasl_password`"));
        let encrypted = told(Code::SSL, "x");
        for cause in [
            "`kafka.ca`",
            "expired",
            "`kafka.bootstrap_servers`",
            "`kafka.client_certificate`",
        ] {
            assert!(encrypted.contains(cause), "{encrypted}");
        }
        let error = Failure::Code(Code::TopicAuthorizationFailed).at_start(None, &config());
        assert!(error.to_string().contains("grant"), "{error}");
    }

    #[test]
    fn a_setting_that_is_refused_is_not_repeated() {
        let error = KafkaError::ClientConfig(
            RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "bad value hunter2".into(),
            "ssl.key.pem".into(),
            "hunter2".into(),
        );
        let told = StoreError::from(Failure::from(error)).to_string();
        assert!(
            told.contains("`ssl.key.pem`") && !told.contains("hunter2"),
            "{told}"
        );
    }
}
