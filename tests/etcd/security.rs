//! Users, permissions and TLS.

use std::time::Duration;

use esker::base::ErrorKind;
use esker::config::Secret;
use esker::meta::etcd::{Tls, User};
use esker::meta::{EtcdOptions, MetaError, MetaStore};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::server::{Member, binary};
use crate::{commit, leased, member, next, options, put, store_with, until, value};

/// `text` as the gateway wants bytes.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |chunk: &[u8]| {
        let group = (0..3).fold(0, |group, at| group << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        let digit = |at: usize| if at <= chunk.len() { char::from(DIGITS[group >> (18 - 6 * at) & 63]) } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(digits).collect()
}

/// A root, and a user `esker` who may read and write under `/esker/` and nothing else; then authentication goes on.
fn enable_users(etcd: &Member) {
    etcd.ask("/v3/auth/user/add", &json!({ "name": "root", "password": "root" }));
    etcd.ask("/v3/auth/role/add", &json!({ "name": "root" }));
    etcd.ask("/v3/auth/user/grant", &json!({ "user": "root", "role": "root" }));
    etcd.ask("/v3/auth/user/add", &json!({ "name": "esker", "password": "s3cret" }));
    etcd.ask("/v3/auth/role/add", &json!({ "name": "broker" }));
    let permission = json!({ "permType": "READWRITE", "key": base64("/esker/"), "range_end": base64("/esker0") });
    etcd.ask("/v3/auth/role/grant", &json!({ "name": "broker", "perm": permission }));
    etcd.ask("/v3/auth/user/grant", &json!({ "user": "esker", "role": "broker" }));
    etcd.ask("/v3/auth/enable", &json!({}));
}

fn user(name: &str, password: &str) -> User {
    User { name: name.to_owned(), password: Secret::new(password.to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_and_again_when_the_token_has_expired() {
    member!(folder, etcd, "--auth-token-ttl", "1");
    let (meta, metrics) =
        store_with(EtcdOptions { user: Some(user("esker", "s3cret")), ..options(&[etcd.endpoint()]) });
    // Before authentication is on, the password is not needed.
    let first = commit(&meta, vec![put("/esker/c/a", "1")]).await;
    enable_users(&etcd);
    let mut watch = meta.watch("/esker/c/", first + 1).await.unwrap();
    assert_eq!(value(&meta, "/esker/c/a").await.as_deref(), Some("1"));
    commit(&meta, vec![put("/esker/c/a", "2")]).await;
    let before = metrics.logins.get();
    for n in 0..3 {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        commit(&meta, vec![put("/esker/c/a", &n.to_string())]).await;
    }
    assert!(metrics.logins.get() > before, "the token did not last that long");
    etcd.restart();
    until("etcd is back", || async { meta.get("/esker/c/a").await.is_ok() }).await;
    let lease = meta.lease_grant(60_000).await.unwrap();
    commit(&meta, vec![leased("/esker/c/b", "x", lease)]).await;
    meta.lease_keep_alive(lease).await.unwrap();
    meta.lease_revoke(lease).await.unwrap();
    let mut seen = 0;
    while seen < 6 {
        seen += next(&mut watch).await.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_what_to_do() {
    member!(folder, etcd);
    enable_users(&etcd);
    let failed = async |user: Option<User>, key: &str| {
        let (meta, _) = store_with(EtcdOptions { user, ..options(&[etcd.endpoint()]) });
        let error = meta.txn(vec![], vec![put(key, "x")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
        assert!(!format!("{error:?} {meta:?}").contains("s3cret"), "{error:?}");
        let watching = meta.watch(key, 1).await.unwrap_err();
        assert_eq!(watching.kind(), ErrorKind::Environment, "{watching}");
        error.to_string()
    };
    let said = failed(None, "/esker/c/a").await;
    assert!(said.contains("set etcd.user and etcd.password_file"), "{said}");
    let said = failed(Some(user("esker", "s3cret-wrong")), "/esker/c/a").await;
    assert!(said.contains("does not accept user 'esker'"), "{said}");
    let said = failed(Some(user("nobody", "s3cret")), "/esker/c/a").await;
    assert!(said.contains("user 'nobody'"), "{said}");
    let said = failed(Some(user("esker", "s3cret")), "/other/a").await;
    assert!(said.contains("role grant-permission"), "{said}");
}

/// An authority, and PEM files of a server's and a client's certificate that it signed.
struct Papers {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn papers() -> Papers {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let signed = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    Papers { ca: ca_certificate.pem(), server: signed(&["127.0.0.1", "localhost"]), client: signed(&["esker"]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_certificates_on_both_sides() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let papers = papers();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, certificate, key) =
        (file("ca.pem", &papers.ca), file("server.pem", &papers.server.0), file("server.key", &papers.server.1));
    let flags = ["--cert-file", &certificate, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &ca];
    let etcd = Member::with_tls(folder.path(), &flags);
    let tls = Tls { ca: Some(papers.ca.clone()), identity: Some(papers.client.clone()) };
    let (meta, _) = store_with(EtcdOptions { tls: Some(tls), ..options(&[etcd.endpoint()]) });
    until("etcd serves", || async { meta.get("a").await.is_ok() }).await;
    let revision = commit(&meta, vec![put("a", "1")]).await;
    let mut watch = meta.watch("a", revision).await.unwrap();
    assert_eq!(next(&mut watch).await.len(), 1);

    let refused = async |tls: Option<Tls>| {
        let own = EtcdOptions { tls, request_timeout_ms: 2_000, ..options(&[etcd.endpoint()]) };
        store_with(own).0.get("a").await.unwrap_err()
    };
    let strangers = self::papers();
    // A server that others vouch for.
    let error = refused(Some(Tls { ca: Some(strangers.ca), identity: Some(papers.client.clone()) })).await;
    assert!(matches!(&error, MetaError::Environment(text) if text.contains("etcd.ca_file")), "{error:?}");
    // No certificate of our own; one that others signed. The server says why as it closes the connection, and that is not
    // always heard.
    for identity in [None, Some(strangers.client)] {
        let error = refused(Some(Tls { ca: Some(papers.ca.clone()), identity })).await;
        assert!(error.to_string().contains("etcd.cert_file"), "{error:?}");
    }
    assert_eq!(refused(None).await.kind(), ErrorKind::Retriable, "plain text to a TLS port");
    let nonsense = Tls { ca: Some("no PEM".to_owned()), identity: None };
    let own = EtcdOptions { tls: Some(nonsense), ..options(&[etcd.endpoint()]) };
    let (clock, rng) = (esker::base::Clock::system(), esker::base::Rng::system());
    let made = esker::meta::EtcdMeta::new(own, clock, rng, esker::meta::Metrics::detached());
    if let Ok(meta) = made {
        assert_eq!(meta.get("a").await.unwrap_err().kind(), ErrorKind::Environment);
    }
}
