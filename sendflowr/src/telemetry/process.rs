//! What is counted of the process itself, whatever roles it runs. On other systems than Linux the numbers of `/proc` are 0.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, family::Family, gauge::Gauge},
    registry::Registry,
};

/// When the certificate of each listener that has one expires, in seconds since 1970.
pub(crate) type CertificateExpiry = Family<Vec<(&'static str, &'static str)>, Gauge>;

/// Ticks per second in `/proc`, the same on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Size of a page, in which `/proc` gives memory, is only known to the kernel; `status` gives kB instead.
const BYTES_PER_KB: f64 = 1024.0;

/// Registers the metrics of the process, and returns the one that its listeners set.
pub(crate) fn register_process(registry: &mut Registry) -> CertificateExpiry {
    let build = Family::<Vec<(&str, &str)>, Gauge>::default();
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))])
        .set(1);
    registry.register(
        "sendflowr_build_info",
        "The running version, in the label of a 1",
        build,
    );
    let certificates = CertificateExpiry::default();
    registry.register(
        "sendflowr_tls_certificate_expiry_timestamp_seconds",
        "When the certificate that a listener serves expires, in seconds since 1970",
        certificates.clone(),
    );
    let started = Gauge::<i64>::default();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    started.set(since_1970.as_secs().cast_signed());
    registry.register(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970",
        started,
    );
    registry.register(
        "process_resident_memory_bytes",
        "Memory of the process that is resident",
        Read(MetricType::Gauge, resident_bytes),
    );
    registry.register(
        "process_open_fds",
        "Open file descriptors",
        Read(MetricType::Gauge, open_descriptors),
    );
    registry.register(
        "process_cpu_seconds",
        "Processor time that the process has used",
        Read(MetricType::Counter, cpu_seconds),
    );
    certificates
}

/// A number that is read when it is asked for.
#[derive(Debug)]
struct Read(MetricType, fn() -> Option<f64>);

impl EncodeMetric for Read {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = (self.1)().unwrap_or_default();
        match self.0 {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
            _ => encoder.encode_gauge(&value),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.0
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kb: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kb * BYTES_PER_KB)
}

fn open_descriptors() -> Option<f64> {
    // One of them reads the folder.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may contain anything; user and system time are the 12th and 13th field behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no `{name}` in {text}"))
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(value("process_open_fds") >= 3.0, "{text}");
        assert!(value("process_cpu_seconds_total") < 3_600.0, "{text}");
        assert!(value("process_start_time_seconds") > 1.7e9, "{text}");
        assert!(text.contains(r#"sendflowr_build_info{version=""#), "{text}");
    }
}
