//! From the AWS chain to a client: region, endpoint, credentials, timeouts, and no retries.

use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_s3::config::retry::RetryConfig as SdkRetries;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::S3Options;
use super::credentials::ChainCredentials;
use crate::base::Clock;
use crate::objstore::StoreError;

/// Region for servers that do not care.
const ANY_REGION: &str = "us-east-1";
/// Buckets of S3 Express One Zone end with this.
const DIRECTORY_BUCKET_SUFFIX: &str = "--x-s3";
/// Ceiling of the client itself, in milliseconds; the limits by request are shorter.
const CLIENT_TIMEOUT_MS: u64 = 600_000;
/// Idle connections kept, and for how long (S3 closes them after about 20 s).
const IDLE_CONNECTIONS_MAX: usize = 64;
const IDLE_CONNECTION_MS: u64 = 15_000;

/// Everything that is known before the first request.
pub(super) struct Setup {
    pub(super) bucket: String,
    pub(super) region: String,
    /// None: AWS itself.
    pub(super) endpoint: Option<String>,
    pub(super) sdk: aws_sdk_s3::Client,
    chain: SdkConfig,
}

impl Setup {
    /// Reads the chain. Errors: `Config`.
    pub(super) async fn load(bucket: &str, options: &S3Options) -> Result<Self, StoreError> {
        if bucket.ends_with(DIRECTORY_BUCKET_SUFFIX) {
            return Err(StoreError::Config(format!(
                "bucket '{bucket}' is a directory bucket (S3 Express One Zone), which does not list its keys in order; use \
                 a general purpose bucket"
            )));
        }
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        if let Some(region) = &options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(pair) = &options.key_pair {
            let (id, secret) = (&pair.access_key_id, &pair.secret_access_key);
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "settings"));
        }
        let chain = loader.load().await;
        let endpoint = options.endpoint.clone().or_else(|| chain_endpoint(&chain));
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint)?;
        }
        let region = match (chain.region(), &endpoint) {
            (Some(region), _) => region.to_string(),
            (None, Some(_)) => ANY_REGION.to_owned(),
            (None, None) => {
                return Err(StoreError::Config(format!(
                    "the region of bucket '{bucket}' is not known: set AWS_REGION, or AWS_ENDPOINT_URL for a server that is \
                     not AWS"
                )));
            }
        };
        let times = TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
            .operation_timeout(Duration::from_millis(options.request_timeout_ms))
            .build();
        let mut config = aws_sdk_s3::config::Builder::from(&chain)
            .region(Region::new(region.clone()))
            .retry_config(SdkRetries::disabled())
            .timeout_config(times);
        if let Some(endpoint) = &endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        let sdk = aws_sdk_s3::Client::from_conf(config.build());
        Ok(Self { bucket: bucket.to_owned(), region, endpoint, sdk, chain })
    }

    /// The server in words.
    pub(super) fn endpoint_name(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS")
    }

    /// The client for objects.
    pub(super) fn client(&self, options: &S3Options, clock: Clock) -> Result<AmazonS3, StoreError> {
        let ms = Duration::from_millis;
        let http = ClientOptions::new()
            .with_timeout(ms(CLIENT_TIMEOUT_MS))
            .with_connect_timeout(ms(options.connect_timeout_ms))
            .with_pool_idle_timeout(ms(IDLE_CONNECTION_MS))
            .with_pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .with_allow_http(self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")));
        let retries =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: ms(CLIENT_TIMEOUT_MS) };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_retry(retries)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(http);
        builder = match self.chain.credentials_provider() {
            Some(chain) => builder.with_credentials(Arc::new(ChainCredentials::new(chain, clock))),
            None => builder.with_skip_signature(true),
        };
        builder = match &self.endpoint {
            Some(endpoint) => {
                builder.with_endpoint(endpoint.trim_end_matches('/')).with_virtual_hosted_style_request(false)
            }
            // Over TLS the body need not be hashed a second time for the signature.
            None => builder.with_virtual_hosted_style_request(!self.bucket.contains('.')).with_unsigned_payload(true),
        };
        builder.build().map_err(|error| StoreError::Config(format!("bucket '{}': {error}", self.bucket)))
    }
}

/// `AWS_ENDPOINT_URL_S3` and the profile's `services` section, then `AWS_ENDPOINT_URL` and the profile's `endpoint_url`.
fn chain_endpoint(chain: &SdkConfig) -> Option<String> {
    let for_s3 = chain.service_config().and_then(|services| {
        let key = aws_types::service_config::ServiceConfigKey::builder()
            .service_id("s3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok()?;
        services.load_config(key)
    });
    for_s3.or_else(|| chain.endpoint_url().map(str::to_owned))
}

fn check_endpoint(endpoint: &str) -> Result<(), StoreError> {
    let parsed = url::Url::parse(endpoint).ok();
    if parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Ok(());
    }
    Err(StoreError::Config(format!("S3 endpoint '{endpoint}' is not an http:// or https:// URL")))
}
