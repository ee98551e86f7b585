//! How to reach etcd.

use std::fmt;

use crate::config::Secret;

/// A user of etcd's own authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Password.
    pub password: Secret,
}

/// TLS to etcd. All texts are PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that may sign the servers' certificates; without one, those that the machine trusts.
    pub ca: Option<String>,
    /// This client's certificate and its key, where the servers ask for one.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ca, certificate) = (self.ca.is_some(), self.identity.is_some());
        f.debug_struct("Tls").field("ca", &ca).field("certificate", &certificate).finish()
    }
}

/// How to reach etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `host:port` of the members' client listeners, at least one.
    pub endpoints: Vec<String>,
    /// TLS; `None` for plain text.
    pub tls: Option<Tls>,
    /// Who to log in as, where etcd's authentication is on.
    pub user: Option<User>,
    /// Longest time that one operation may take, repetitions included, in milliseconds.
    pub request_timeout_ms: u64,
}

impl EtcdOptions {
    /// Plain text, nobody logged in, [`DEFAULT_REQUEST_TIMEOUT_MS`].
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: None, user: None, request_timeout_ms: DEFAULT_REQUEST_TIMEOUT_MS }
    }
}

/// Default of the longest time of one operation, in milliseconds.
pub const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 5_000;
