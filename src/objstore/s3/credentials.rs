//! The AWS chain's credentials in the form that the S3 client asks for.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::base::Clock;

/// Credentials are fetched again this long before they end, in milliseconds.
const RENEW_BEFORE_MS: i64 = 5 * 60 * 1_000;
/// Credentials without an end are asked for again after this time, in milliseconds: the file may have changed.
const RECHECK_MS: i64 = 15 * 60 * 1_000;
/// Longest time for the chain to answer, in milliseconds.
const LOAD_TIMEOUT_MS: u64 = 10_000;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error(
    "no AWS credentials: {reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is given"
)]
pub(crate) struct NoCredentials {
    pub(crate) reason: String,
    /// Whether it may go away by itself.
    pub(crate) passing: bool,
}

/// Fetches once for all who wait, keeps until shortly before the end. When renewal fails, the old ones serve as long as
/// they are valid.
pub(super) struct ChainCredentials {
    chain: SharedCredentialsProvider,
    clock: Clock,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    credential: Arc<AwsCredential>,
    renew_at_ms: i64,
    ends_at_ms: i64,
}

impl ChainCredentials {
    pub(super) fn new(chain: SharedCredentialsProvider, clock: Clock) -> Self {
        Self { chain, clock, kept: Mutex::default() }
    }

    async fn load(&self) -> Result<Kept, NoCredentials> {
        let loaded = timeout(Duration::from_millis(LOAD_TIMEOUT_MS), self.chain.provide_credentials()).await;
        let credentials = match loaded {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(error)) => {
                let passing =
                    matches!(error, CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_));
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                return Err(NoCredentials { reason: format!("{error}{cause}"), passing });
            }
            Err(_) => {
                let reason = format!("the chain gave no answer within {LOAD_TIMEOUT_MS} ms");
                return Err(NoCredentials { reason, passing: true });
            }
        };
        let now_ms = self.clock.wall_ms();
        let ends_at_ms = credentials
            .expiry()
            .and_then(|end| end.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        Ok(Kept {
            credential: Arc::new(AwsCredential {
                key_id: credentials.access_key_id().to_owned(),
                secret_key: credentials.secret_access_key().to_owned(),
                token: credentials.session_token().map(str::to_owned),
            }),
            renew_at_ms: ends_at_ms.map_or(now_ms + RECHECK_MS, |end_ms| end_ms - RENEW_BEFORE_MS),
            ends_at_ms: ends_at_ms.unwrap_or(i64::MAX),
        })
    }
}

impl fmt::Debug for ChainCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainCredentials")
    }
}

#[async_trait]
impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        let now_ms = self.clock.wall_ms();
        if let Some(kept) = &*kept
            && now_ms < kept.renew_at_ms
        {
            return Ok(kept.credential.clone());
        }
        match self.load().await {
            Ok(fresh) => Ok(kept.insert(fresh).credential.clone()),
            Err(error) => match &*kept {
                Some(old) if now_ms < old.ends_at_ms => {
                    tracing::warn!(%error, "credentials not renewed; going on with the old ones");
                    Ok(old.credential.clone())
                }
                _ => Err(object_store::Error::Generic { store: "S3", source: Box::new(error) }),
            },
        }
    }
}
