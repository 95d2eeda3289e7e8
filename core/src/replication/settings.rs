//! What a cluster keeps besides topics and groups: who may do what, who may log in, and how much anybody may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{Client, check};
use crate::protocol::messages::alter_client_quotas::{EntityData, OpData, RequestEntryData};
use crate::protocol::messages::create_acls::AclCreation;
use crate::protocol::messages::{
    AlterClientQuotasRequest, CreateAclsRequest, DescribeAclsRequest, DescribeClientQuotasRequest,
    DescribeUserScramCredentialsRequest,
};
use crate::{Error, ErrorKind, Result};

/// The numbers by which Kafka says "whichever".
const ANY: i8 = 1;

/// What a cluster keeps besides topics and groups, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Access rules.
    pub acls: Vec<Acl>,
    /// Users that log in by SCRAM. A cluster tells nobody their passwords, nor what it keeps of them: they are set anew.
    pub scram_users: Vec<ScramUser>,
    /// Limits on what clients may use.
    pub quotas: Vec<Quota>,
    /// What could not be read, and why, a sentence for each: these lists are empty for that reason.
    pub unreadable: Vec<String>,
}

impl ClusterSettings {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// An access rule, by the numbers of Kafka's protocol (KIP-140, KIP-290).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Acl {
    /// Of what kind the resource is: 2 topic, 3 group, 4 cluster, 5 transactional id, 6 delegation token, 7 user.
    pub resource_type: i8,
    /// The resource's name, `*` for all.
    pub resource_name: String,
    /// How the name is meant: 3 literally, 4 as a prefix.
    pub pattern_type: i8,
    /// Who, for example `User:alice`.
    pub principal: String,
    /// From which host, `*` for all.
    pub host: String,
    /// What is done: 2 everything, 3 read, 4 write, 5 create, 6 delete, 7 alter, 8 describe, …
    pub operation: i8,
    /// 2 denied, 3 allowed.
    pub permission_type: i8,
}

/// A user that logs in by SCRAM (KIP-554).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScramUser {
    /// The user's name.
    pub user: String,
    /// 1 SCRAM-SHA-256, 2 SCRAM-SHA-512.
    pub mechanism: i8,
    /// How often the password was hashed.
    pub iterations: i32,
}

/// A limit (KIP-546).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quota {
    /// Whom it is for: pairs of a kind (`user`, `client-id`, `ip`) and a name, which is nothing for the default.
    pub entity: Vec<(String, Option<String>)>,
    /// What is limited, for example `producer_byte_rate`.
    pub name: String,
    /// The limit, a number in decimal.
    pub value: String,
}

/// Asks the cluster for each list. One that the cluster does not have, or does not show us, is empty; why not is said.
pub(super) async fn read(client: &Client, patience: Duration) -> Result<ClusterSettings> {
    let mut settings = ClusterSettings::default();
    let acls = client.retry(patience, || acls(client)).await;
    settings.acls = readable("access rules", acls, &mut settings.unreadable)?;
    let users = client.retry(patience, || scram_users(client)).await;
    settings.scram_users = readable("SCRAM users", users, &mut settings.unreadable)?;
    let quotas = client.retry(patience, || quotas(client)).await;
    settings.quotas = readable("quotas", quotas, &mut settings.unreadable)?;
    Ok(settings)
}

/// Sets the access rules and quotas. Users cannot be made, as nobody has their passwords. What is there besides stays.
pub(super) async fn write(client: &Client, patience: Duration, settings: &ClusterSettings) -> Result<()> {
    if !settings.acls.is_empty() {
        let creations = settings.acls.iter().map(|acl| AclCreation {
            resource_type: acl.resource_type,
            resource_name: acl.resource_name.clone(),
            resource_pattern_type: acl.pattern_type,
            principal: acl.principal.clone(),
            host: acl.host.clone(),
            operation: acl.operation,
            permission_type: acl.permission_type,
        });
        let request = CreateAclsRequest { creations: creations.collect() };
        let answer = client.retry(patience, || client.call_any(request.clone())).await?;
        for (result, acl) in answer.results.into_iter().zip(&settings.acls) {
            let facts = format_args!("access_rule={acl:?}");
            check(result.error_code, result.error_message.as_deref(), facts)?;
        }
    }
    let mut entries: Vec<RequestEntryData> = Vec::new();
    for quota in &settings.quotas {
        let value = quota.value.parse().map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("a quota is no number name={} value={}", quota.name, quota.value))
        })?;
        let entity = quota.entity.iter();
        let entity = entity.map(|(kind, name)| EntityData { entity_type: kind.clone(), entity_name: name.clone() });
        entries.push(RequestEntryData {
            entity: entity.collect(),
            ops: vec![OpData { key: quota.name.clone(), value, remove: false }],
        });
    }
    if !entries.is_empty() {
        let request = AlterClientQuotasRequest { entries, validate_only: false };
        for entry in client.retry(patience, || client.call_any(request.clone())).await?.entries {
            let facts = format_args!("quota_of={:?}", entry.entity);
            check(entry.error_code, entry.error_message.as_deref(), facts)?;
        }
    }
    Ok(())
}

fn readable<T: Ord>(what: &str, list: Result<Vec<T>>, unreadable: &mut Vec<String>) -> Result<Vec<T>> {
    match list {
        Ok(mut list) => {
            list.sort_unstable();
            list.dedup();
            Ok(list)
        }
        // It has none.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::Denied => {
            unreadable.push(format!("{what} could not be read: {error}"));
            Ok(Vec::new())
        }
        Err(error) => Err(error.context(format_args!("reading the cluster's {what}"))),
    }
}

async fn acls(client: &Client) -> Result<Vec<Acl>> {
    let request = DescribeAclsRequest {
        resource_type_filter: ANY,
        resource_name_filter: None,
        pattern_type_filter: ANY,
        principal_filter: None,
        host_filter: None,
        operation: ANY,
        permission_type: ANY,
    };
    let response = client.call_any(request).await?;
    check(response.error_code, response.error_message.as_deref(), "")?;
    let mut acls = Vec::new();
    for resource in response.resources {
        acls.extend(resource.acls.into_iter().map(|acl| Acl {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            pattern_type: resource.pattern_type,
            principal: acl.principal,
            host: acl.host,
            operation: acl.operation,
            permission_type: acl.permission_type,
        }));
    }
    Ok(acls)
}

async fn scram_users(client: &Client) -> Result<Vec<ScramUser>> {
    let response = client.call_any(DescribeUserScramCredentialsRequest { users: None }).await?;
    check(response.error_code, response.error_message.as_deref(), "")?;
    let mut users = Vec::new();
    for result in response.results {
        check(result.error_code, result.error_message.as_deref(), format_args!("user={}", result.user))?;
        users.extend(result.credential_infos.into_iter().map(|info| ScramUser {
            user: result.user.clone(),
            mechanism: info.mechanism,
            iterations: info.iterations,
        }));
    }
    Ok(users)
}

async fn quotas(client: &Client) -> Result<Vec<Quota>> {
    let response = client.call_any(DescribeClientQuotasRequest::default()).await?;
    check(response.error_code, response.error_message.as_deref(), "")?;
    let mut quotas = Vec::new();
    for entry in response.entries.unwrap_or_default() {
        let entity: Vec<_> = entry.entity.into_iter().map(|part| (part.entity_type, part.entity_name)).collect();
        quotas.extend(entry.values.into_iter().map(|value| Quota {
            entity: entity.clone(),
            name: value.key,
            value: value.value.to_string(),
        }));
    }
    Ok(quotas)
}
