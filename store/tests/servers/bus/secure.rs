//! Brokers that encrypt their connections and authenticate clients: the test starts one of its own, since the shared ones do
//! neither.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use event::settings::Secret;
use rcgen::{CertificateParams, CertifiedKey, ExtendedKeyUsagePurpose, KeyPair};
use sendflowr_store::bus::{Bus, EVENTS_TOPIC, RawKafkaConfig};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::{
    PATIENCE, numbered, read, refusal,
    world::{connect, unique},
};
use crate::support;

/// How long the broker may take to start: ten times what it takes on an idle machine.
const START_WITHIN: Duration = Duration::from_secs(60);

const USER: &str = "ann";
const PASSWORD: &str = "right-one";

/// A broker with one listener for passwords and one for certificates. It stops when this is dropped.
struct Broker {
    process: Child,
    by_password: String,
    by_certificate: String,
    /// PEM certificate of the broker, and of a client that authenticates with it.
    certificate: String,
    key: String,
    _folder: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Creates a self-signed certificate for both ends of a connection.
fn certificate() -> CertifiedKey<KeyPair> {
    let mut wanted = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    wanted.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey {
        cert: wanted.self_signed(&signing_key).unwrap(),
        signing_key,
    }
}

fn java() -> Command {
    let libraries = support::address("SENDFLOWR_TEST_KAFKA_LIBRARIES");
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-Dlog4j2.level=WARN", "-cp"]);
    command.arg(format!("{libraries}/*"));
    command
}

impl Broker {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = certificate();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("key.pem"), format!("{key}{certificate}")).unwrap();
        fs::write(at("trusted.pem"), &certificate).unwrap();
        // Reserved until they are released, just before the broker takes them.
        let ports: Vec<TcpListener> = (0..4)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let [inner, by_password, by_certificate, controller] = [0, 1, 2, 3].map(|port| address(&ports[port]));
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required";
        fs::write(
            at("server.properties"),
            format!(
                "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{inner},SASL_SSL://{by_password},SSL://{by_certificate},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{inner},SASL_SSL://{by_password},SSL://{by_certificate}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={plain} user_{USER}=\"{PASSWORD}\";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
",
                at("key.pem"),
                at("trusted.pem"),
                at("logs"),
            ),
        )
        .unwrap();
        let mut format = java();
        format.args(["kafka.tools.StorageTool", "format", "--cluster-id"]);
        format.args(["c2VuZGZsb3dyLXNlY3VyZQ", "--config", &at("server.properties")]);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let user = format!("{mechanism}=[name={USER},password={PASSWORD}]");
            format.args(["--add-scram", &user]);
        }
        assert!(format.stdout(Stdio::null()).status().unwrap().success());
        drop(ports);
        let log = fs::File::create(at("log")).unwrap();
        let mut server = java();
        server.args(["kafka.Kafka", &at("server.properties")]);
        server.stdout(log.try_clone().unwrap()).stderr(log);
        let broker = Self {
            process: server.spawn().unwrap(),
            by_password,
            by_certificate,
            certificate,
            key,
            _folder: folder,
        };
        let deadline = Instant::now() + START_WITHIN;
        let log = broker._folder.path().join("log");
        while let Err(error) = connect(broker.by_password("PLAIN")).await {
            let told = || fs::read_to_string(&log).unwrap();
            assert!(Instant::now() < deadline, "{error}\n{}", told());
        }
        broker
    }

    /// Returns the settings of a user known to the broker.
    fn by_password(&self, mechanism: &str) -> RawKafkaConfig {
        RawKafkaConfig {
            bootstrap_servers: Some(self.by_password.clone()),
            security_protocol: "sasl_ssl".into(),
            sasl_mechanism: Some(mechanism.into()),
            sasl_username: Some(USER.into()),
            sasl_password: Secret::new(PASSWORD),
            ca: Some(self.certificate.clone()),
            ..Default::default()
        }
    }

    /// Returns the settings of a client with a certificate.
    fn by_certificate(&self) -> RawKafkaConfig {
        RawKafkaConfig {
            bootstrap_servers: Some(self.by_certificate.clone()),
            security_protocol: "ssl".into(),
            ca: Some(self.certificate.clone()),
            client_certificate: Some(self.certificate.clone()),
            client_key: Secret::new(self.key.as_str()),
            ..Default::default()
        }
    }
}

#[tokio::test]
#[ignore = "needs Kafka's libraries; cargo xtask test downloads them"]
async fn brokers_that_ask_who_connects_are_told_and_others_learn_why_not() {
    let broker = Broker::start().await;
    let allowed = [
        broker.by_password("PLAIN"),
        broker.by_password("SCRAM-SHA-256"),
        broker.by_password("SCRAM-SHA-512"),
        broker.by_certificate(),
    ];
    for raw in allowed {
        let bus = connect(raw).await.unwrap();
        // The first request looks for the coordinator before any group has formed, which takes the brokers a moment.
        let lag = bus.lag(&unique("group"), &[EVENTS_TOPIC]).await.unwrap();
        assert_eq!(lag.len(), 3);
        let topic = unique("secure");
        bus.append(numbered(&topic, 10)).await.unwrap();
        let mut subscription = bus.subscribe(&unique("group"), &[&topic]).await.unwrap();
        let (keys, _) = read(subscription.as_mut(), 10).await;
        assert_eq!(keys.len(), 10);
        drop(subscription);
        timeout(PATIENCE, bus.close()).await.unwrap();
    }

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let told = refusal(RawKafkaConfig {
            sasl_password: Secret::new("wrong-one"),
            ..broker.by_password(mechanism)
        })
        .await;
        assert!(told.contains("`kafka.sasl_password`"), "{told}");
        assert!(!told.contains("wrong-one"), "{told}");
    }
    let told = refusal(RawKafkaConfig {
        client_certificate: None,
        client_key: Secret::default(),
        ..broker.by_certificate()
    })
    .await;
    assert!(told.contains("`kafka.client_certificate`"), "{told}");
    let told = refusal(RawKafkaConfig {
        ca: Some(certificate().cert.pem()),
        ..broker.by_password("PLAIN")
    })
    .await;
    assert!(told.contains("`kafka.ca`"), "{told}");
}
