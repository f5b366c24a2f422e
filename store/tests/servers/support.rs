/// Returns the address in an environment variable that `cargo xtask test` sets.
pub(crate) fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("`{variable}` is not set: `cargo xtask test` starts the servers and sets it")
    })
}

/// Address and login of a test server. A string is empty if the address has no value for it.
pub(crate) struct Server {
    /// The whole address.
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Server {
    /// Reads the address `scheme://[[user]:password@]host:port[/database]` of a server from this environment variable.
    pub(crate) fn of(variable: &str) -> Self {
        let address = address(variable);
        let (_, rest) = address.split_once("://").expect("an address has a scheme");
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (place, _) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = place.rsplit_once(':').expect("an address has a port");
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            host: host.to_owned(),
            port: port.parse().expect("a port is a number"),
            address,
        }
    }
}
