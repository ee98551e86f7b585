//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_response,
    incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use super::call::Call;
use super::metadata::text;
use super::{Session, errors};
use crate::broker::BrokerError;
use crate::cluster::{ConfigChange, ConfigOp};
use crate::config::topic::DescribedConfig;

/// Kafka's `ConfigResource.Type` of topics.
const TOPIC: i8 = 2;
/// … of brokers.
const BROKER: i8 = 4;

pub(super) async fn describe_configs(
    session: &Session,
    _call: &Call,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match configs_of(session, resource) {
            Ok(configs) => {
                let configs = configs.iter().map(|config| describe(config, &request));
                result.with_configs(configs.collect())
            }
            Err(error) => {
                session.count_error("DescribeConfigs", errors::code(&error));
                result.with_error_code(errors::code(&error)).with_error_message(errors::message(&error))
            }
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn configs_of(session: &Session, resource: &DescribeConfigsResource) -> Result<Vec<DescribedConfig>, BrokerError> {
    let only: Option<Vec<String>> =
        resource.configuration_keys.as_ref().map(|keys| keys.iter().map(ToString::to_string).collect());
    match resource.resource_type {
        TOPIC => session.broker().describe_topic_configs(&resource.resource_name, only.as_deref()),
        BROKER => session.broker().describe_broker_configs(&resource.resource_name, only.as_deref()),
        other => Err(unsupported(other)),
    }
}

fn unsupported(resource_type: i8) -> BrokerError {
    BrokerError::InvalidRequest(format!(
        "resources of type {resource_type} have no configs here: topics and brokers do"
    ))
}

fn describe(config: &DescribedConfig, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = config.synonyms.iter().filter(|_| request.include_synonyms).map(|synonym| {
        DescribeConfigsSynonym::default()
            .with_name(text(&synonym.name))
            .with_value(synonym.value.as_deref().map(text))
            .with_source(synonym.source.id())
    });
    DescribeConfigsResourceResult::default()
        .with_name(text(&config.name))
        .with_value(config.value.as_deref().map(text))
        .with_read_only(config.read_only)
        .with_config_source(config.source.id())
        .with_is_sensitive(config.sensitive)
        .with_synonyms(synonyms.collect())
        .with_config_type(config.kind.id())
        .with_documentation(request.include_documentation.then(|| text(config.doc)))
}

async fn alter(
    session: &Session,
    api: &'static str,
    resource: (i8, &StrBytes),
    change: Result<ConfigChange, BrokerError>,
    validate_only: bool,
) -> (i16, Option<StrBytes>) {
    let altered = match (resource.0, change) {
        (_, Err(error)) => Err(error),
        (TOPIC, Ok(change)) => session.broker().alter_topic_configs(resource.1, &change, validate_only).await,
        (BROKER, Ok(_)) => session.broker().check_broker_name(resource.1).and_then(|()| {
            let how = "broker configs cannot be altered by a request: use flags, environment or the settings file";
            Err(BrokerError::InvalidRequest(how.to_owned()))
        }),
        (other, Ok(_)) => Err(unsupported(other)),
    };
    match altered {
        Ok(()) => (0, None),
        Err(error) => {
            session.count_error(api, errors::code(&error));
            (errors::code(&error), errors::message(&error))
        }
    }
}

pub(super) async fn alter_configs(
    session: &Session,
    _call: &Call,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let configs = asked.configs.iter();
        let configs = configs.map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)));
        let change = ConfigChange::Replace(configs.collect());
        let resource = (asked.resource_type, &asked.resource_name);
        let (code, message) = alter(session, "AlterConfigs", resource, Ok(change), request.validate_only).await;
        responses.push(
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name.clone()),
        );
    }
    AlterConfigsResponse::default().with_responses(responses)
}

pub(super) async fn incremental_alter_configs(
    session: &Session,
    _call: &Call,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let operations = asked.configs.iter().map(|config| {
            let value = config.value.as_ref().map(ToString::to_string);
            let operation = match config.config_operation {
                0 => ConfigOp::Set(value),
                1 => ConfigOp::Delete,
                2 => ConfigOp::Append(value),
                3 => ConfigOp::Subtract(value),
                other => return Err(BrokerError::InvalidRequest(format!("unknown config operation {other}"))),
            };
            Ok((config.name.to_string(), operation))
        });
        let change = operations.collect::<Result<_, _>>().map(ConfigChange::Incremental);
        let resource = (asked.resource_type, &asked.resource_name);
        let (code, message) = alter(session, "IncrementalAlterConfigs", resource, change, request.validate_only).await;
        responses.push(
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name.clone()),
        );
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}
