//! Whether the bucket is there, and making it.

use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use tokio::time::sleep;

use super::S3Options;
use super::setup::Setup;
use crate::objstore::StoreError;

/// How often an unanswered look is repeated, and the pause before it.
const LOOKS: u32 = 3;
const PAUSE_MS: u64 = 300;

/// Makes a bucket; `Ok` if it is already ours.
///
/// Errors: `Config`, `Refused` (credentials, somebody else's), `Unavailable`.
pub async fn create_bucket(bucket: &str, options: &S3Options) -> Result<(), StoreError> {
    let setup = Setup::load(bucket, options).await?;
    let mut request = setup.sdk.create_bucket().bucket(bucket);
    // AWS refuses its first region as a constraint and every other one without.
    if setup.endpoint.is_none() && setup.region != "us-east-1" {
        let place = BucketLocationConstraint::from(setup.region.as_str());
        request = request
            .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build());
    }
    match request.send().await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
        Err(error) => Err(setup.explain("create bucket", &error)),
    }
}

impl Setup {
    /// Errors: `Config` (no such bucket, with the command that makes it), `Refused`, `Unavailable`.
    pub(super) async fn check_bucket(&self) -> Result<(), StoreError> {
        let mut looks = 0;
        loop {
            looks += 1;
            let Err(error) = self.sdk.head_bucket().bucket(&self.bucket).send().await else { return Ok(()) };
            match self.explain("open", &error) {
                StoreError::Unavailable { .. } if looks < LOOKS => sleep(Duration::from_millis(PAUSE_MS)).await,
                error => return Err(error),
            }
        }
    }

    fn explain<E>(&self, operation: &'static str, error: &SdkError<E>) -> StoreError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let key = format!("s3://{}", self.bucket);
        let (bucket, server, region) = (&self.bucket, self.endpoint_name(), &self.region);
        let words = words(error);
        let refused = |reason: String| StoreError::Refused { operation, key: key.clone(), reason };
        match error.raw_response().map(|response| response.status().as_u16()) {
            Some(404) => {
                let flag = self.endpoint.as_ref().map(|url| format!(" --endpoint-url {url}")).unwrap_or_default();
                StoreError::Config(format!(
                    "bucket '{bucket}' does not exist on {server}; make it with: aws{flag} --region {region} s3 mb \
                     s3://{bucket}"
                ))
            }
            Some(301 | 307) => refused(format!("the bucket is in another region than {region}: set AWS_REGION")),
            Some(401 | 403) => refused(format!(
                "{server} does not let these credentials use the bucket ({words}); check AWS_ACCESS_KEY_ID, AWS_PROFILE and \
                 the bucket's policy (it must allow ListBucket, GetObject, PutObject and DeleteObject)"
            )),
            Some(400) => refused(format!("{server} refuses the request ({words}); is the region {region} right?")),
            Some(status @ 402..=499) if status != 408 && status != 429 => refused(format!("{status}: {words}")),
            Some(status) => StoreError::Unavailable { operation, key, reason: format!("{server}: {status} {words}") },
            None if matches!(error, SdkError::ConstructionFailure(_)) => refused(words),
            None if words.to_lowercase().contains("credentials") => refused(format!(
                "{words}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run where a role is given"
            )),
            None => StoreError::Unavailable { operation, key, reason: format!("no answer from {server}: {words}") },
        }
    }
}

/// S3's code and message, or the chain of causes.
fn words<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> String {
    if let Some(code) = error.code() {
        return format!("{code}: {}", error.message().unwrap_or("no message"));
    }
    let mut all = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_words = inner.to_string();
        if !all.contains(&inner_words) {
            all = format!("{all}: {inner_words}");
        }
        cause = inner.source();
    }
    all
}
