//! Objects in an S3 bucket: AWS, MinIO and others with an atomic `If-None-Match: *`.
//!
//! Invariants
//! - One call is one request (a create that is refused adds a HEAD, a range past the end too). Nothing below this file
//!   repeats a request: the layers above decide.
//! - Every request ends within a time that is computed from its bytes ([`S3Options`]); a write that runs out of time is
//!   `Unavailable`, which says that it may have happened.
//! - `Created::Exists` only if the key was seen to hold an object after the refusal. S3 answers 409 while another operation
//!   on the key is under way and nothing has landed; that is `Unavailable`.
//!
//! A crash or a dropped future leaves at most a request under way, which the store may still carry out. Credentials,
//! region and endpoint come from the standard AWS chain and are fetched again before they expire.

mod bucket;
mod credentials;
mod errors;
mod setup;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::time::timeout;

pub use self::bucket::create_bucket;
use self::errors::{Trouble, trouble};
use super::key::check_key;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Clock;

/// Objects that S3 puts into one answer to a listing.
pub const LIST_PAGE_OBJECTS: usize = 1_000;
/// Range ends past this are asked for as "to the end": servers keep lengths in signed 64-bit numbers.
const RANGE_END_MAX: u64 = i64::MAX as u64;

/// A key pair that takes the place of the chain's credentials.
#[derive(Clone)]
pub struct KeyPair {
    /// `AWS_ACCESS_KEY_ID`
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret_access_key: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, …)", self.access_key_id)
    }
}

/// What the AWS chain does not say, or should not decide.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Server to use instead of the chain's (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, profile) or AWS itself.
    pub endpoint: Option<String>,
    /// Region instead of the chain's. Where neither says one, AWS is refused and other servers get `us-east-1`.
    pub region: Option<String>,
    /// Credentials instead of the chain's.
    pub key_pair: Option<KeyPair>,
    /// Longest time to connect, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time of a request, in milliseconds, besides what its bytes need.
    pub request_timeout_ms: u64,
    /// Slowest transfer that is waited for, in bytes per second: 8 MiB at 1 MiB/s add 8 s to the request's time.
    pub slowest_bytes_per_second: u64,
    /// Longest time of reading a whole object, whose length is not known before, in milliseconds.
    pub whole_get_timeout_ms: u64,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            key_pair: None,
            connect_timeout_ms: 3_000,
            request_timeout_ms: 10_000,
            slowest_bytes_per_second: 1024 * 1024,
            whole_get_timeout_ms: 120_000,
        }
    }
}

/// A bucket, or the part of it below a prefix.
pub struct S3Store {
    client: AmazonS3,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    /// The server in words.
    server: String,
    options: S3Options,
}

impl S3Store {
    /// Connects to `bucket` and makes sure that it is there. `prefix` is empty or ends with a slash.
    ///
    /// Errors: `Config` (no region, no such bucket), `Refused` (credentials, permissions), `Unavailable` (no answer).
    pub async fn open(bucket: &str, prefix: &str, options: S3Options, clock: Clock) -> Result<Self, StoreError> {
        let setup = setup::Setup::load(bucket, &options).await?;
        setup.check_bucket().await?;
        let client = setup.client(&options, clock)?;
        tracing::info!(bucket, prefix, endpoint = setup.endpoint_name(), region = setup.region, "object store opened");
        let server = setup.endpoint_name().to_owned();
        Ok(Self { client, bucket: bucket.to_owned(), prefix: prefix.to_owned(), server, options })
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        check_key(key)?;
        Path::parse(format!("{}{key}", self.prefix)).map_err(|error| StoreError::Config(error.to_string()))
    }

    /// The time for a request that moves `bytes`.
    fn limit(&self, bytes: u64) -> Duration {
        let transfer_ms = bytes.saturating_mul(1_000) / self.options.slowest_bytes_per_second.max(1);
        Duration::from_millis(self.options.request_timeout_ms.saturating_add(transfer_ms))
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        key: &str,
        limit: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        match timeout(limit, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.explain(operation, key, &error)),
            Err(_) => Err(StoreError::Unavailable {
                operation,
                key: key.to_owned(),
                reason: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    fn explain(&self, operation: &'static str, key: &str, error: &object_store::Error) -> StoreError {
        let key = key.to_owned();
        match trouble(error) {
            Trouble::NotFound => StoreError::NotFound { key },
            Trouble::Passing(reason) => StoreError::Unavailable { operation, key, reason },
            Trouble::Final(reason) => {
                StoreError::Refused { operation, key, reason: format!("{reason} (bucket '{}')", self.bucket) }
            }
        }
    }

    async fn write(
        &self,
        operation: &'static str,
        key: &str,
        payload: Payload,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let limit = self.limit(payload.len());
        let payload = PutPayload::from_iter(payload.0);
        let options = PutOptions { mode, ..PutOptions::default() };
        self.within(operation, key, limit, self.client.put_opts(&path, payload, options)).await.map(|_| ())
    }

    async fn fetch(&self, key: &str, range: Option<GetRange>, limit: Duration) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let options = GetOptions { range, ..GetOptions::default() };
        let request = async {
            let answer = self.client.get_opts(&path, options).await?;
            let promised = answer.range.end - answer.range.start;
            Ok((promised, answer.bytes().await?))
        };
        let (promised, bytes) = self.within("get", key, limit, request).await?;
        if bytes.len() as u64 == promised {
            return Ok(bytes);
        }
        let reason = format!("{} bytes came where {promised} were announced", bytes.len());
        Err(StoreError::Unavailable { operation: "get", key: key.to_owned(), reason })
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{} on {}", self.bucket, self.prefix, self.server)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.fetch(key, None, Duration::from_millis(self.options.whole_get_timeout_ms)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.end <= range.start {
            return self.size(key).await.map(|_| Bytes::new());
        }
        let (wanted, limit) = if range.end >= RANGE_END_MAX {
            (GetRange::Offset(range.start), Duration::from_millis(self.options.whole_get_timeout_ms))
        } else {
            (GetRange::Bounded(range.clone()), self.limit(range.end - range.start))
        };
        match self.fetch(key, Some(wanted), limit).await {
            Err(StoreError::Refused { reason, .. }) if errors::is_range_past_end(&reason) => {
                let size = self.size(key).await?;
                if size <= range.start {
                    return Ok(Bytes::new());
                }
                Err(StoreError::Unavailable { operation: "get", key: key.to_owned(), reason })
            }
            fetched => fetched,
        }
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let path = self.path(key)?;
        let head = self.within("size", key, self.limit(0), self.client.head(&path)).await?;
        Ok(head.size)
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.write("put", key, payload, PutMode::Overwrite).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let limit = self.limit(payload.len());
        let payload = PutPayload::from_iter(payload.0);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match timeout(limit, self.client.put_opts(&path, payload, options)).await {
            Ok(Ok(_)) => Ok(Created::Yes),
            // 412, or 409 for an operation under way: only a look tells.
            Ok(Err(error @ object_store::Error::AlreadyExists { .. })) => match self.size(key).await {
                Ok(_) => Ok(Created::Exists),
                Err(StoreError::NotFound { .. }) => Err(StoreError::Unavailable {
                    operation: "create",
                    key: key.to_owned(),
                    reason: format!("another operation on the key is in flight: {}", errors::summary(&error)),
                }),
                Err(other) => Err(StoreError::Unavailable {
                    operation: "create",
                    key: key.to_owned(),
                    reason: format!("the store says that the key is taken, but: {other}"),
                }),
            },
            Ok(Err(error)) => match self.explain("create", key, &error) {
                StoreError::NotFound { key } => Err(StoreError::Refused {
                    operation: "create",
                    key,
                    reason: format!("{} (bucket '{}')", errors::summary(&error), self.bucket),
                }),
                other => Err(other),
            },
            Err(_) => Err(StoreError::Unavailable {
                operation: "create",
                key: key.to_owned(),
                reason: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match self.within("delete", key, self.limit(0), self.client.delete(&path)).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let pages = Pages {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            strip: self.prefix.clone(),
            prefix: prefix.to_owned(),
            start_after: start_after.map(|after| format!("{}{after}", self.prefix)),
            limit: self.limit(0),
            token: None,
            ended: false,
        };
        futures::stream::unfold(pages, |mut pages| async move {
            if pages.ended {
                return None;
            }
            let page = pages.next().await;
            if page.is_err() {
                pages.ended = true;
            }
            Some((page, pages))
        })
        .flat_map(|page| match page {
            Ok(objects) => futures::stream::iter(objects.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        })
        .boxed()
    }
}

/// A listing under way.
struct Pages {
    client: AmazonS3,
    bucket: String,
    strip: String,
    prefix: String,
    start_after: Option<String>,
    limit: Duration,
    token: Option<String>,
    ended: bool,
}

impl Pages {
    async fn next(&mut self) -> Result<Vec<ObjectMeta>, StoreError> {
        let full_prefix = format!("{}{}", self.strip, self.prefix);
        let options = PaginatedListOptions {
            offset: self.start_after.clone(),
            page_token: self.token.take(),
            max_keys: Some(LIST_PAGE_OBJECTS),
            ..PaginatedListOptions::default()
        };
        let prefix = (!full_prefix.is_empty()).then_some(full_prefix.as_str());
        let unavailable = |reason| StoreError::Unavailable { operation: "list", key: self.prefix.clone(), reason };
        let page = match timeout(self.limit, self.client.list_paginated(prefix, options)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                return Err(match trouble(&error) {
                    Trouble::Passing(reason) => unavailable(reason),
                    Trouble::NotFound | Trouble::Final(_) => StoreError::Refused {
                        operation: "list",
                        key: self.prefix.clone(),
                        reason: format!("{} (bucket '{}')", errors::summary(&error), self.bucket),
                    },
                });
            }
            Err(_) => return Err(unavailable(format!("no answer within {} ms", self.limit.as_millis()))),
        };
        self.token = page.page_token;
        self.ended = self.token.is_none();
        let own = |object: object_store::ObjectMeta| {
            let key = object.location.as_ref().strip_prefix(self.strip.as_str())?.to_owned();
            Some(ObjectMeta { key, size_bytes: object.size, modified_ms: object.last_modified.timestamp_millis() })
        };
        let mut objects: Vec<_> = page.result.objects.into_iter().filter_map(own).collect();
        // S3 promises order; some of its likes do only by accident. Pages follow each other in any case.
        if !objects.is_sorted_by(|a, b| a.key <= b.key) {
            objects.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(objects)
    }
}
