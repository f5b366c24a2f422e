//! Users of the server who may not do everything.

use event::settings::Secret;
use sendflowr_store::{
    StoreError,
    profiles::{Profiles, RawRedisConfig},
};

use super::{
    clicks, connect, get, put, seen, update,
    world::{Keys, id},
};

/// The commands that `docs/deployment.md` tells to allow.
const COMMANDS: [&str; 6] = ["+info", "+set", "+mget", "+eval", "+scan", "+unlink"];

async fn user(keys: &Keys, rights: &[&str]) -> RawRedisConfig {
    let user = keys.make_user_without_rights().await;
    keys.allow(&user, rights).await;
    RawRedisConfig {
        user: Some(user),
        password: Secret::new("right"),
        ..keys.settings()
    }
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn the_documented_commands_are_enough() {
    let page = include_str!("../../../../docs/deployment.md");
    assert!(page.contains(&COMMANDS.join(" ")), "{COMMANDS:?}");
    let keys = Keys::new();
    let raw = user(&keys, &COMMANDS).await;
    let name = raw.user.clone().unwrap();
    let store = connect(raw).await.unwrap();
    let ann = id(1);
    store.ping().await.unwrap();
    put(&store, &ann, &clicks(0..2)).await;
    let seen = seen(&store, &ann).await;
    update(&store, &ann, clicks(0..3), seen).await;
    assert_eq!(get(&store, &ann).await, Some(clicks(0..3)));
    assert_eq!(store.erase(std::slice::from_ref(&ann)).await.unwrap(), 1);
    store.clear().await.unwrap();
    keys.remove_user(&name).await;
}

#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_command_that_is_not_allowed_is_named_at_the_start() {
    for missing in COMMANDS {
        let keys = Keys::new();
        let rights: Vec<&str> = COMMANDS.into_iter().filter(|right| *right != missing).collect();
        let raw = user(&keys, &rights).await;
        let name = raw.user.clone().unwrap();
        let error = connect(raw).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Misconfigured { .. }),
            "{missing}: {error}"
        );
        let told = error.to_string();
        assert!(
            told.contains(&format!("'{}'", &missing[1..])),
            "{missing}: {told}"
        );
        assert!(told.contains("`redis.user`"), "{missing}: {told}");
        keys.remove_user(&name).await;
    }
}

/// A ping that succeeded without a right that writing needs would have events read for profiles in vain.
#[tokio::test]
#[ignore = "needs servers; cargo xtask test starts them"]
async fn a_ping_fails_where_writing_does() {
    let keys = Keys::new();
    let raw = user(&keys, &COMMANDS).await;
    let name = raw.user.clone().unwrap();
    let store = connect(raw).await.unwrap();
    keys.allow(&name, &["-eval"]).await;
    store.ping().await.unwrap_err();
    keys.remove_user(&name).await;
}
