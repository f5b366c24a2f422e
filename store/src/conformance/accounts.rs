use super::{moment, unique};
use crate::identity::{StoredAccount, StoredAccounts};

/// Checks a store of accounts.
pub async fn accounts(store: &dyn StoredAccounts) {
    let provider = unique("provider");
    let account = |name: &str, sealed: &[u8]| StoredAccount {
        provider: provider.clone(),
        account: name.to_owned(),
        sealed: sealed.to_vec(),
        updated_at: moment("2026-01-10T12:00:00.123Z"),
    };
    let ours = async || {
        let mut accounts = store.accounts().await.unwrap();
        accounts.retain(|account| account.provider == provider);
        accounts
    };
    assert_eq!(ours().await, []);

    // Capital letters sort before small ones whatever the language of the store is, and sealed data may contain any byte.
    for name in ["eu", "EU", "default"] {
        assert!(
            store
                .put_account(&account(name, b"\x00\xff"), None)
                .await
                .unwrap()
        );
    }
    let names: Vec<String> = ours().await.into_iter().map(|account| account.account).collect();
    assert_eq!(names, ["EU", "default", "eu"]);

    let later = StoredAccount {
        updated_at: moment("2026-01-11T12:00:00.000Z"),
        ..account("eu", b"new")
    };
    // Whoever read something else, or nothing, must not overwrite it.
    for before in [None, Some(&b""[..]), Some(b"\x00"), Some(b"new")] {
        assert!(!store.put_account(&later, before).await.unwrap(), "{before:?}");
    }
    assert_eq!(ours().await[2], account("eu", b"\x00\xff"));
    assert!(store.put_account(&later, Some(b"\x00\xff")).await.unwrap());
    assert_eq!(
        ours().await,
        [
            account("EU", b"\x00\xff"),
            account("default", b"\x00\xff"),
            later.clone()
        ]
    );

    assert!(store.remove_account(&provider, "eu").await.unwrap());
    assert!(!store.remove_account(&provider, "eu").await.unwrap());
    // One that was removed meanwhile does not come back.
    assert!(!store.put_account(&later, Some(b"new")).await.unwrap());
    assert_eq!(ours().await.len(), 2);
}
