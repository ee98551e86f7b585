use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::Secret;
use crate::meta::MetaError;
use crate::meta::etcd::login::Login;
use crate::meta::etcd::options::User;
use crate::meta::etcd::status::Verdict;
use crate::meta::etcd::wire::{AuthenticateRequest, AuthenticateResponse};

fn login() -> Login {
    Login::new(Some(User { name: "esker".to_owned(), password: Secret::new("s3cret".to_owned()) }))
}

fn token(number: u32) -> AuthenticateResponse {
    AuthenticateResponse { header: None, token: format!("token-{number}") }
}

#[tokio::test]
async fn one_login_serves_all_until_its_token_is_refused() {
    let (login, count) = (login(), AtomicU32::new(0));
    let get = || {
        login.token(|request| async move {
            assert_eq!((request.name.as_str(), request.password.as_str()), ("esker", "s3cret"));
            assert!(!format!("{request:?}").contains("s3cret"));
            tokio::task::yield_now().await;
            Ok(token(1))
        })
    };
    let count_again = || {
        login.token(|_| async {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(token(2))
        })
    };
    let (first, second) = tokio::join!(get(), count_again());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(count.load(Ordering::Relaxed), 0, "the second waited for the first");
    assert_eq!(first.value, second.value);
    login.forget(&first);
    let third = count_again().await.unwrap();
    assert_ne!(first.value, third.value);
    // Another operation that still had the first token must not throw the new one away.
    login.forget(&second);
    assert_eq!(count_again().await.unwrap().value, third.value);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn without_a_user_or_where_logins_are_off_nothing_is_sent() {
    let never = |_: AuthenticateRequest| async { Err(Verdict::Fail(MetaError::Corrupt("asked".to_owned()))) };
    assert!(Login::new(None).token(never).await.unwrap().value.is_none());
    let login = login();
    assert!(login.token(|_| async { Err(Verdict::NoLogins) }).await.unwrap().value.is_none());
    let known = login.token(never).await.unwrap();
    assert!(known.value.is_none());
    // Authentication was switched on.
    login.forget(&known);
    assert!(login.token(|_| async { Ok(token(1)) }).await.unwrap().value.is_some());
}
