use std::sync::Arc;

use sendflowr_store::{
    conformance,
    identity::SqliteIdentities,
    profiles::{MemoryProfiles, MemoryProfilesConfig},
    testing::{Embedded, open_embedded},
};

async fn open() -> (tempfile::TempDir, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let engines = open_embedded(&folder.path().join("data")).await.unwrap();
    (folder, engines)
}

#[tokio::test]
async fn bus() {
    let (_folder, engines) = open().await;
    conformance::bus(engines.bus).await;
}

#[tokio::test]
async fn events() {
    let (_folder, engines) = open().await;
    conformance::events(engines.events).await;
}

#[tokio::test]
async fn identities() {
    let (_folder, engines) = open().await;
    conformance::identities(engines.identities).await;
}

#[tokio::test]
async fn accounts() {
    let folder = tempfile::tempdir().unwrap();
    conformance::accounts(&SqliteIdentities::open(folder.path()).await.unwrap()).await;
}

#[tokio::test]
async fn profiles() {
    conformance::profiles(Arc::new(MemoryProfiles::new(&MemoryProfilesConfig::default()))).await;
}

#[tokio::test]
async fn the_data_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, engines) = open().await;
    let mode = std::fs::metadata(folder.path().join("data"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    engines.close().await;
    engines.bus.ping().await.unwrap_err();
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = open_embedded(&file.join("data")).await.unwrap_err();
    assert!(matches!(error, sendflowr_store::StoreError::Misconfigured { .. }));
    assert!(error.to_string().contains("file/data"), "{error}");
}
