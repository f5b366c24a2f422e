//! Bindings for every contract version that this host serves.
//!
//! The rest of the host only sees the newest version's types: the module of an older version only converts. A new
//! version adds a variant to each enum here, and the compiler then points to every place that must handle it.

use std::fmt;

use semver::Version;
use wasmtime::{
    Engine, Store, StoreContextMut,
    component::{Component, HasSelf, Linker, WasmStr},
};

use super::{log::Severity, sandbox::Sandbox, wasi};

pub(crate) mod v1_0;
#[expect(
    missing_docs,
    reason = "the generator documents only what the contract documents"
)]
pub(crate) mod v1_1;

/// The contract's types, newest version.
pub use v1_1::sendflowr::connector::types;

/// The package of the contract's interfaces, as written in component imports and exports.
pub(crate) const PACKAGE: &str = "sendflowr:connector/";

/// The contract versions that this host serves, for messages.
pub(crate) const SERVED: &str = "1.0 and 1.1";

/// A contract version that this host serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contract {
    /// 1.0, every patch of it.
    V1_0,
    /// 1.1, every patch of it.
    V1_1,
}

/// Which side is outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// The plugin was built for a contract that this host does not know yet.
    TooNew,
    /// The plugin was built for a contract that this host no longer serves.
    TooOld,
}

impl Contract {
    /// Returns the contract of a plugin that exports this version's interface. Patch versions of one minor version
    /// share their types.
    pub(crate) fn of(version: &Version) -> Result<Self, Unsupported> {
        match (version.major, version.minor) {
            (1, 0) => Ok(Self::V1_0),
            (1, 1) => Ok(Self::V1_1),
            (1.., _) => Err(Unsupported::TooNew),
            (0, _) => Err(Unsupported::TooOld),
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
        })
    }
}

/// A component that is linked to what its contract names, to the closed WASI if it imports that, and to nothing else.
pub(crate) enum Bindings {
    V1_0(v1_0::ConnectorPre<Sandbox>),
    V1_1(v1_1::ConnectorPre<Sandbox>),
}

impl Bindings {
    pub(crate) fn link(engine: &Engine, contract: Contract, component: &Component) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker, component)?;
        match contract {
            Contract::V1_0 => {
                v1_0::sendflowr::connector::types::add_to_linker::<_, HasSelf<Sandbox>>(
                    &mut linker,
                    |own| own,
                )?;
                link_log(&mut linker, "1.0.0")?;
                Ok(Self::V1_0(v1_0::ConnectorPre::new(
                    linker.instantiate_pre(component)?,
                )?))
            }
            Contract::V1_1 => {
                types::add_to_linker::<_, HasSelf<Sandbox>>(&mut linker, |own| own)?;
                link_log(&mut linker, "1.1.0")?;
                Ok(Self::V1_1(v1_1::ConnectorPre::new(
                    linker.instantiate_pre(component)?,
                )?))
            }
        }
    }

    /// Makes a fresh instance. Runs the component's start functions, so the store's limits must be set.
    pub(crate) async fn instantiate(&self, store: &mut Store<Sandbox>) -> wasmtime::Result<Instance> {
        match self {
            Self::V1_0(pre) => Ok(Instance::V1_0(pre.instantiate_async(store).await?)),
            Self::V1_1(pre) => Ok(Instance::V1_1(pre.instantiate_async(store).await?)),
        }
    }
}

/// Links a plugin's log. Does not use the generated function, which copies each message before the rate limit can
/// apply: a plugin that floods its log would make the host allocate megabytes again and again. A line that is not written is not
/// even looked at.
fn link_log(linker: &mut Linker<Sandbox>, version: &str) -> wasmtime::Result<()> {
    let log = |mut store: StoreContextMut<'_, Sandbox>, (severity, message): (Severity, WasmStr)| {
        if store.data().log().admits() {
            let message = message.to_str(&store)?;
            store.data().log().write(severity, &message);
        }
        store.data_mut().end_host_call()
    };
    linker
        .instance(&format!("{PACKAGE}logging@{version}"))?
        .func_wrap("log", log)
}

/// An instance of a plugin, whatever contract it was built for.
pub(crate) enum Instance {
    V1_0(v1_0::Connector),
    V1_1(v1_1::Connector),
}

impl Instance {
    pub(crate) async fn describe(&self, store: &mut Store<Sandbox>) -> wasmtime::Result<types::Descriptor> {
        match self {
            Self::V1_0(connector) => connector
                .sendflowr_connector_plugin()
                .call_describe(store)
                .await
                .map(Into::into),
            Self::V1_1(connector) => connector.sendflowr_connector_plugin().call_describe(store).await,
        }
    }

    pub(crate) async fn authenticate(
        &self,
        store: &mut Store<Sandbox>,
        request: &types::Request,
    ) -> wasmtime::Result<Result<Vec<types::Proof>, types::Rejection>> {
        match self {
            Self::V1_0(connector) => connector
                .sendflowr_connector_plugin()
                .call_authenticate(store, v1_0::RequestParts::of(request).request())
                .await
                .map(v1_0::proofs),
            Self::V1_1(connector) => {
                connector
                    .sendflowr_connector_plugin()
                    .call_authenticate(store, request)
                    .await
            }
        }
    }

    pub(crate) async fn normalize(
        &self,
        store: &mut Store<Sandbox>,
        request: &types::Request,
    ) -> wasmtime::Result<Result<types::Outcome, types::Rejection>> {
        match self {
            Self::V1_0(connector) => connector
                .sendflowr_connector_plugin()
                .call_normalize(store, v1_0::RequestParts::of(request).request())
                .await
                .map(v1_0::outcome),
            Self::V1_1(connector) => {
                connector
                    .sendflowr_connector_plugin()
                    .call_normalize(store, request)
                    .await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_which_side_is_behind() {
        assert_eq!(Contract::of(&Version::new(1, 0, 0)), Ok(Contract::V1_0));
        assert_eq!(Contract::of(&Version::new(1, 0, 7)), Ok(Contract::V1_0));
        assert_eq!(Contract::of(&Version::new(1, 1, 0)), Ok(Contract::V1_1));
        assert_eq!(Contract::of(&Version::new(1, 2, 0)), Err(Unsupported::TooNew));
        assert_eq!(Contract::of(&Version::new(2, 0, 0)), Err(Unsupported::TooNew));
        assert_eq!(Contract::of(&Version::new(0, 9, 0)), Err(Unsupported::TooOld));
    }
}
