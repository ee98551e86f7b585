//! From the text that people type to a store.

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::hedge::{HedgePolicy, HedgeStore};
use super::local::LocalStore;
use super::memory::MemoryStore;
use super::metrics::{MeasuredStore, Metrics};
use super::retry::{RetryPolicy, RetryStore};
use super::s3::{S3Options, S3Store};
use super::{ObjectStore, StoreError};
use crate::base::{Clock, Rng};

/// What a store is built from besides its URL.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Source of modification times and latencies.
    pub clock: Clock,
    /// Source of temporary names and jitter.
    pub rng: Rng,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// For `s3://`: how requests without a clear answer are repeated.
    pub retry: RetryPolicy,
    /// For `s3://`: when slow reads are sent twice; `None` for never.
    pub hedge: Option<HedgePolicy>,
    /// For `s3://`.
    pub s3: S3Options,
}

impl OpenOptions {
    /// Defaults with the given clock and randomness; requests are counted where nobody looks.
    pub fn new(clock: Clock, rng: Rng) -> Self {
        Self {
            clock,
            rng,
            metrics: Metrics::detached(),
            retry: RetryPolicy::default(),
            hedge: Some(HedgePolicy::default()),
            s3: S3Options::default(),
        }
    }
}

/// What a store URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `file://PATH`
    File(PathBuf),
    /// `memory://`
    Memory,
    /// `s3://bucket/prefix`
    S3 {
        /// The bucket.
        bucket: String,
        /// Empty, or ends with a slash.
        prefix: String,
    },
}

const FORMS: &str = "use file:///absolute/path, s3://bucket/prefix or memory://";

impl Location {
    /// Reads `file:///absolute/path`, `file://relative/path`, `s3://bucket[/prefix]` or `memory://`. Errors: `Config`.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let bad = |why: String| StoreError::Config(format!("object store '{text}': {why}; {FORMS}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it is not a URL".to_owned()))?;
        match scheme {
            "file" if rest.is_empty() => Err(bad("the path is missing".to_owned())),
            "file" => Ok(Self::File(file_path(text, rest))),
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(bad("memory:// takes no path".to_owned())),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("the bucket is missing".to_owned()));
                }
                let prefix = prefix.trim_matches('/');
                if prefix.is_empty() {
                    return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: String::new() });
                }
                super::key::check_key(prefix).map_err(|error| bad(error.to_string()))?;
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
            }
            other => Err(bad(format!("'{other}' is not a kind of store"))),
        }
    }
}

/// `%20` and the like are decoded when the text is a proper file URL; otherwise the path is taken as typed.
fn file_path(text: &str, rest: &str) -> PathBuf {
    if rest.starts_with('/')
        && let Ok(url) = Url::parse(text)
        && let Ok(path) = url.to_file_path()
    {
        return path;
    }
    PathBuf::from(rest)
}

/// Opens the store that `url` names. Whether it keeps its word in races is for [`mod@super::probe`].
///
/// S3 stores are wrapped as `retry(hedge(measured(bucket)))`, so that the metrics see each request that is paid for; local
/// and memory stores only as `measured(store)`, since there is nothing to gain from asking them again.
///
/// Errors: `Config` (the URL, no such bucket), `Refused` (permissions, credentials, read-only disk), `Unavailable` (no
/// answer yet; may be repeated).
pub async fn open(url: &str, options: OpenOptions) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let OpenOptions { clock, rng, metrics, retry, hedge, s3 } = options;
    let measured = |store: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
        Arc::new(MeasuredStore::new(store, metrics.clone(), clock.clone()))
    };
    match Location::parse(url)? {
        Location::Memory => Ok(measured(Arc::new(MemoryStore::new(clock.clone())))),
        Location::File(root) => {
            let opened = tokio::task::spawn_blocking(move || LocalStore::open(&root, &rng));
            let store = opened.await.map_err(|error| StoreError::Unavailable {
                operation: "open",
                key: url.to_owned(),
                reason: error.to_string(),
            })??;
            Ok(measured(Arc::new(store)))
        }
        Location::S3 { bucket, prefix } => {
            let mut store = measured(Arc::new(S3Store::open(&bucket, &prefix, s3, clock.clone()).await?));
            if let Some(policy) = hedge {
                store = Arc::new(HedgeStore::new(store, policy, clock.clone(), metrics.clone()));
            }
            Ok(Arc::new(RetryStore::new(store, retry, clock.clone(), rng, metrics.clone())))
        }
    }
}
