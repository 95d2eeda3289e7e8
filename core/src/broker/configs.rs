//! The configuration of topics and of the broker: described, and altered.

use std::collections::BTreeMap;

use super::config::{BROKER_OPTIONS, Kind, TOPIC_OPTIONS, TopicConfig, check_topic_value, topic_option};
use super::stored::{Change, StoredTopic};
use super::topics::{Refusal, code_of};
use super::{Broker, Durability, RequestId};
use crate::protocol::messages::alter_configs::{self, AlterConfigsRequest, AlterConfigsResponse};
use crate::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::protocol::messages::incremental_alter_configs::{
    self, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use crate::protocol::{ErrorCode, Response};
use crate::{Error, Timestamp};

/// Where a configuration value is from, in Kafka's numbers.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

/// Kafka's resource types.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

impl Broker {
    pub(super) fn describe_configs(&mut self, id: RequestId, request: DescribeConfigsRequest) {
        let results = request
            .resources
            .iter()
            .map(|resource| {
                let mut result = DescribeConfigsResult {
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.clone(),
                    ..DescribeConfigsResult::default()
                };
                match self.describe_resource(resource, request.include_synonyms) {
                    Ok(configs) => result.configs = configs,
                    Err((code, message)) => {
                        result.error_code = code;
                        result.error_message = Some(message);
                    }
                }
                result
            })
            .collect();
        let response = DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() };
        self.respond(id, Response::DescribeConfigs(response));
    }

    fn describe_resource(
        &self,
        resource: &DescribeConfigsResource,
        synonyms: bool,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let asked =
            |name: &str| resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| key == name));
        match resource.resource_type {
            RESOURCE_TOPIC => {
                let name = resource.resource_name.as_str();
                let Some(topic) = self.topics.get(name) else {
                    return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}")));
                };
                let config = topic.config(&self.config.topic_defaults);
                Ok(TOPIC_OPTIONS
                    .iter()
                    .filter(|option| asked(option.name))
                    .map(|option| {
                        let (value, config_source) = value_of(&config, option.name);
                        let synonyms = if synonyms {
                            let mut all = Vec::new();
                            if let Some(own) = config.own.get(option.name) {
                                all.push((own.clone(), SOURCE_TOPIC));
                            }
                            if let Some(broker) = config.broker.get(option.name) {
                                all.push((broker.clone(), SOURCE_STATIC_BROKER));
                            }
                            all.push((option.default.to_owned(), SOURCE_DEFAULT));
                            all.into_iter()
                                .map(|(value, source)| DescribeConfigsSynonym {
                                    name: option.name.to_owned(),
                                    value: Some(value),
                                    source,
                                })
                                .collect()
                        } else {
                            Vec::new()
                        };
                        DescribeConfigsResourceResult {
                            name: option.name.to_owned(),
                            value: Some(value),
                            config_source,
                            config_type: option.kind as i8,
                            synonyms,
                            ..DescribeConfigsResourceResult::default()
                        }
                    })
                    .collect())
            }
            RESOURCE_BROKER => {
                let name = resource.resource_name.as_str();
                if !name.is_empty() && name.parse() != Ok(self.config.node_id) {
                    return Err((ErrorCode::INVALID_REQUEST, format!("no such broker broker={name}")));
                }
                let config = &self.config;
                let here = format!("PLAINTEXT://{}:{}", config.advertised_host, config.advertised_port);
                let fixed = [
                    ("advertised.listeners", here, Kind::String),
                    ("broker.id", config.node_id.to_string(), Kind::Int),
                    ("default.replication.factor", "1".to_owned(), Kind::Int),
                ];
                // Figures for those alone who ask for them by name, so that they are not taken for options.
                let measured = self.ack_latency().entries().map(|(name, value)| (name, value.to_string(), Kind::Long));
                let measured = measured.into_iter().filter(|_| resource.configuration_keys.is_some());
                let set = BROKER_OPTIONS.iter().map(|option| (option.name, (option.value)(config), option.kind));
                Ok(fixed
                    .into_iter()
                    .chain(set)
                    .chain(measured)
                    .filter(|(name, ..)| asked(name))
                    .map(|(name, value, kind)| DescribeConfigsResourceResult {
                        name: name.to_owned(),
                        value: Some(value),
                        read_only: true,
                        config_source: SOURCE_STATIC_BROKER,
                        config_type: kind as i8,
                        ..DescribeConfigsResourceResult::default()
                    })
                    .collect())
            }
            other => {
                Err((ErrorCode::INVALID_REQUEST, format!("resources are topics and brokers resource_type={other}")))
            }
        }
    }

    pub(super) fn incremental_alter_configs(
        &mut self,
        id: RequestId,
        request: IncrementalAlterConfigsRequest,
        now: Timestamp,
    ) {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let outcome =
                self.topic_to_alter(resource.resource_type, &resource.resource_name).and_then(|mut configs| {
                    for change in &resource.configs {
                        apply_change(&mut configs, change)?;
                    }
                    self.set_configs(&resource.resource_name, configs, request.validate_only, now)
                });
            let (error_code, error_message) = split(outcome);
            responses.push(incremental_alter_configs::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
        }
        let response = IncrementalAlterConfigsResponse { responses, ..Default::default() };
        self.respond_when_remembered(id, Response::IncrementalAlterConfigs(response));
    }

    pub(super) fn alter_configs(&mut self, id: RequestId, request: AlterConfigsRequest, now: Timestamp) {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let outcome = self.topic_to_alter(resource.resource_type, &resource.resource_name).and_then(|_| {
                let mut configs = BTreeMap::new();
                for config in &resource.configs {
                    let Some(value) = &config.value else {
                        let message = format!("a configuration needs a value name={}", config.name);
                        return Err((ErrorCode::INVALID_CONFIG, message));
                    };
                    check_topic_value(&config.name, value).map_err(|reason| (ErrorCode::INVALID_CONFIG, reason))?;
                    configs.insert(config.name.clone(), value.clone());
                }
                self.set_configs(&resource.resource_name, configs, request.validate_only, now)
            });
            let (error_code, error_message) = split(outcome);
            responses.push(alter_configs::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
        }
        let response = AlterConfigsResponse { responses, ..AlterConfigsResponse::default() };
        self.respond_when_remembered(id, Response::AlterConfigs(response));
    }

    fn topic_to_alter(&self, resource_type: i8, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
        if resource_type != RESOURCE_TOPIC {
            let message = "only topics' configuration can be altered; the broker's is given at its start".to_owned();
            return Err((ErrorCode::INVALID_REQUEST, message));
        }
        match self.topics.get(name) {
            Some(topic) => Ok(topic.configs.clone()),
            None => Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}"))),
        }
    }

    pub(super) fn set_configs(
        &mut self,
        name: &str,
        configs: BTreeMap<String, String>,
        validate_only: bool,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if validate_only {
            return Ok(());
        }
        let failed = |error: Error| (code_of(&error), error.to_string());
        let Some(topic) = self.topics.get(name) else { return Ok(()) };
        let stored = StoredTopic { configs: configs.clone(), ..topic.stored() };
        self.remember(vec![Change::set(format!("topic/{name}"), &stored).map_err(failed)?], now).map_err(failed)?;
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        topic.configs = configs;
        let config = TopicConfig { own: &topic.configs, broker: &self.config.topic_defaults };
        let log_config = topic.log_config(&self.config.topic_defaults);
        let durability = config.durability().unwrap_or(self.config.durability);
        let waits_for_sync = self.device.is_durable() && durability == Durability::Sync;
        for id in topic.partitions.clone() {
            let partition = self.partition_mut(id);
            partition.log.update_config(log_config.clone());
            partition.set_waits_for_sync(waits_for_sync);
            self.moved.insert(id);
        }
        self.apply_retention(now);
        Ok(())
    }
}

pub(super) fn value_of(config: &TopicConfig<'_>, name: &str) -> (String, i8) {
    if let Some(value) = config.own.get(name) {
        (value.clone(), SOURCE_TOPIC)
    } else if let Some(value) = config.broker.get(name) {
        (value.clone(), SOURCE_STATIC_BROKER)
    } else {
        (topic_option(name).map_or("", |option| option.default).to_owned(), SOURCE_DEFAULT)
    }
}

/// Applies one change of IncrementalAlterConfigs: set (0), delete (1), append (2) or subtract (3).
fn apply_change(
    configs: &mut BTreeMap<String, String>,
    change: &incremental_alter_configs::AlterableConfig,
) -> Result<(), Refusal> {
    let invalid = |reason: String| (ErrorCode::INVALID_CONFIG, reason);
    let name = &change.name;
    let option = topic_option(name).ok_or_else(|| invalid(format!("unknown topic configuration name={name}")))?;
    if change.config_operation == 1 {
        configs.remove(name);
        return Ok(());
    }
    let Some(value) = &change.value else {
        return Err(invalid(format!("a configuration needs a value name={name}")));
    };
    let value = match change.config_operation {
        0 => value.clone(),
        operation @ (2 | 3) => {
            if option.kind != Kind::List {
                return Err(invalid(format!("only a list can be appended to or subtracted from name={name}")));
            }
            let now = configs.get(name).map_or(option.default, String::as_str);
            let mut parts: Vec<&str> = now.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
            for part in value.split(',').map(str::trim) {
                if operation == 3 {
                    parts.retain(|existing| *existing != part);
                } else if !parts.contains(&part) {
                    parts.push(part);
                }
            }
            parts.join(",")
        }
        other => {
            return Err((ErrorCode::INVALID_REQUEST, format!("unknown operation operation={other} name={name}")));
        }
    };
    check_topic_value(name, &value).map_err(invalid)?;
    configs.insert(name.clone(), value);
    Ok(())
}

fn split(outcome: Result<(), Refusal>) -> (ErrorCode, Option<String>) {
    match outcome {
        Ok(()) => (ErrorCode::NONE, None),
        Err((code, message)) => (code, Some(message)),
    }
}
