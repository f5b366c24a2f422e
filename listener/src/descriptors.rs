//! File descriptors: how many the process may have, and how many of them connections may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are reserved for everything other than connections: the embedded databases take some 50, the clients of
/// servers some ten each, and a plugin or a certificate one while it is read.
const RESERVED: u64 = 256;

/// Fewest descriptors with which a process can work: with all roles and embedded engines it has some 55 open before the first
/// connection comes, and each delivery and decision needs some for a moment.
const LEAST: u64 = 128;

/// Listeners in one process: host, inference and consumer.
const LISTENERS: u64 = 3;

/// The process may open too few files to work.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process may open only {0} files and needs {LEAST}: raise that limit (`LimitNOFILE`, `ulimit -n`)"
)]
pub struct TooFewFiles(u64);

/// Raises this process's limit of open files to the hard limit. Supervisors and shells set 1,024, which is less than the
/// number of a host's connections.
///
/// # Errors
/// [`TooFewFiles`] if even that is too low.
pub fn raise_file_limit() -> Result<(), TooFewFiles> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(limit @ ..LEAST) = maximum {
        return Err(TooFewFiles(limit));
    }
    if current == maximum {
        return Ok(());
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %error, "cannot raise the limit of open files: {error}");
    }
    Ok(())
}

/// Returns how many of the `wanted` connections a listener can hold without using descriptors that the rest of the process
/// needs.
pub(crate) fn affordable(wanted: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return wanted;
    };
    let affordable = wanted.min(share(limit));
    if affordable < wanted {
        tracing::warn!(
            connections = affordable,
            "at most {affordable} connections are held at once instead of {wanted}: the process may open only {limit} \
             files, raise that limit (`LimitNOFILE`, `ulimit -n`)"
        );
    }
    affordable
}

/// Returns each listener's share of `limit` descriptors.
fn share(limit: u64) -> usize {
    // If there are very few, half of them are still for connections.
    let reserved = RESERVED.min(limit / 2);
    let share = (limit - reserved) / LISTENERS;
    usize::try_from(share).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_others() {
        for (limit, connections) in [(0, 1), (128, 21), (1_024, 256), (1_048_576, 349_440)] {
            assert_eq!(share(limit), connections, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_it_may_be() {
        raise_file_limit().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(affordable(1), 1);
    }
}
