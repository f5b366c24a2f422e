use event::{Identifier, IdentifierKind, UniversalId, profile::Profile};
use sendflowr_store::profiles::{MemoryProfiles, MemoryProfilesConfig, Profiles};

fn person(n: usize) -> UniversalId {
    UniversalId::from_identifier(&Identifier {
        kind: IdentifierKind::ExternalId,
        value: n.to_string(),
    })
}

#[tokio::test]
async fn memory_is_bounded() {
    let config = MemoryProfilesConfig {
        capacity_bytes: 20_000,
    };
    let profiles = MemoryProfiles::new(&config);
    let all: Vec<_> = (0..1_000).map(|n| (person(n), Profile::default())).collect();
    profiles.put(&all).await.unwrap();
    let ids: Vec<_> = all.into_iter().map(|(id, _)| id).collect();
    let found = profiles.get(&ids).await.unwrap().into_iter().flatten().count();
    let entry_bytes = Profile::default().to_bytes().len();
    assert!(found > 0);
    assert!(
        found * entry_bytes <= 20_000,
        "{found} profiles of {entry_bytes} bytes"
    );
}
