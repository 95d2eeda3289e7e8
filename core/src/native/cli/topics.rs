//! `ottla topics`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::position::{Position, list, time_text};
use super::{Output, PATIENCE, table};
use crate::client::config::IsolationLevel;
use crate::client::{
    Admin, ConfigChange, ConfigEntry, ConfigResource, EARLIEST, LATEST, NewPartitions, NewTopic, Topic, TopicPartition,
};
use crate::{Error, ErrorKind, Result};

/// DescribeConfigs' number for a value that is set on the topic itself.
const SET_ON_TOPIC: i8 = 1;

/// Arguments of `ottla topics`.
#[derive(Debug, Args)]
pub(super) struct Topics {
    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "SOURCE")]
    source: String,

    #[command(subcommand)]
    action: Option<Action>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List topics (the default)
    List,
    /// Show partitions, replicas, offsets and configuration
    Describe {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The whole configuration, not only what is set on the topic
        #[arg(short, long)]
        all: bool,
    },
    /// Create a topic
    Create {
        /// The topic
        name: String,
        /// How many partitions; the broker's default when not given
        #[arg(long, value_name = "N")]
        partitions: Option<i32>,
        /// How many replicas; the broker's default when not given
        #[arg(long, value_name = "N")]
        replication_factor: Option<i16>,
        /// Topic configuration such as retention.ms=60000; may be repeated
        #[arg(long = "config", value_name = "NAME=VALUE")]
        configs: Vec<String>,
    },
    /// Change a topic's configuration, or add partitions
    #[command(arg_required_else_help = true)]
    Alter {
        /// The topic
        name: String,
        /// How many partitions it shall have in all
        #[arg(long, value_name = "N")]
        partitions: Option<i32>,
        /// Topic configuration such as retention.ms=60000; may be repeated
        #[arg(long = "config", value_name = "NAME=VALUE")]
        configs: Vec<String>,
        /// Go back to the default of this configuration; may be repeated
        #[arg(long = "delete-config", value_name = "NAME")]
        deleted: Vec<String>,
    },
    /// Delete topics and all that is in them
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Print each partition's offset at a position
    Offsets {
        /// The topic
        name: String,
        /// beginning, end, an offset, -N (the last N), @MS or a time such as 2026-01-31T08:00:00Z
        #[arg(long, value_name = "POSITION", default_value = "end", allow_hyphen_values = true)]
        at: String,
    },
    /// Delete the records before a position
    DeleteRecords {
        /// The topic
        name: String,
        /// end, an offset, -N (all but the last N), @MS or a time such as 2026-01-31T08:00:00Z
        #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
        before: String,
        /// In this partition alone
        #[arg(short, long, value_name = "N")]
        partition: Option<i32>,
    },
}

impl Topics {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = match &self.action {
            Some(Action::Create { .. }) => Connection::open_or_make(&self.source, &self.connection)?,
            _ => Connection::open(&self.source, &self.connection)?,
        };
        let admin = Admin::new(connection.plain_client()?);
        let done = connection.block_on(async {
            match self.action.unwrap_or(Action::List) {
                Action::List => list_topics(&admin, output).await,
                Action::Describe { names, all } => describe(&admin, &names, all, output).await,
                Action::Create { name, partitions, replication_factor, configs } => {
                    let mut topic = NewTopic { partitions, replication_factor, ..NewTopic::new(name.as_str()) };
                    for config in &configs {
                        let (option, value) = name_and_value(config)?;
                        topic = topic.config(option, value);
                    }
                    one(admin.create_topics(&[topic], false, PATIENCE).await?)?;
                    output.result(|| json!({"created": name}), || format!("created {name}"))
                }
                Action::Alter { name, partitions, configs, deleted } => {
                    alter(&admin, &name, partitions, &configs, deleted, output).await
                }
                Action::Delete { names } => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    for (name, deleted) in admin.delete_topics(&names, PATIENCE).await? {
                        deleted.map_err(|error| no_such_topic(error, &name))?;
                        output.result(|| json!({"deleted": name}), || format!("deleted {name}"))?;
                    }
                    Ok(())
                }
                Action::Offsets { name, at } => offsets(&admin, &name, at.parse()?, output).await,
                Action::DeleteRecords { name, before, partition } => {
                    delete_records(&admin, &name, before.parse()?, partition, output).await
                }
            }
        });
        connection.close()?;
        done
    }
}

async fn list_topics(admin: &Admin, output: Output) -> Result<()> {
    let mut rows = Vec::new();
    let mut found = Vec::new();
    for topic in admin.list_topics(PATIENCE).await? {
        let partitions = partitions_of(&topic);
        let offsets = sum(admin, &partitions, LATEST).await? - sum(admin, &partitions, EARLIEST).await?;
        rows.push(vec![topic.name.to_string(), partitions.len().to_string(), table::count(offsets)]);
        found.push(json!({"topic": &*topic.name, "partitions": partitions.len(), "offsets": offsets}));
    }
    output.rows(found, || table::draw(&["topic", "partitions", "offsets"], &rows))
}

async fn sum(admin: &Admin, partitions: &[TopicPartition], time: i64) -> Result<i64> {
    let offsets = list(admin.client(), partitions, time, IsolationLevel::ReadUncommitted, PATIENCE).await?;
    Ok(offsets.values().sum())
}

async fn describe(admin: &Admin, names: &[String], all: bool, output: Output) -> Result<()> {
    for (place, name) in names.iter().enumerate() {
        let topic = topic(admin, name).await?;
        let partitions = partitions_of(&topic);
        let client = admin.client();
        let starts = list(client, &partitions, EARLIEST, IsolationLevel::ReadUncommitted, PATIENCE).await?;
        let ends = list(client, &partitions, LATEST, IsolationLevel::ReadUncommitted, PATIENCE).await?;
        let resource = [(ConfigResource::Topic(name.clone()), None)];
        let mut configs: Vec<ConfigEntry> = Vec::new();
        for (_, entries) in admin.describe_configs(&resource, PATIENCE).await? {
            configs.extend(entries?.into_iter().filter(|entry| all || entry.source == SET_ON_TOPIC));
        }
        configs.sort_by(|a, b| a.name.cmp(&b.name));
        let each = || topic.partitions.iter().zip(&partitions).map(|(known, at)| (known, at, starts[at], ends[at]));
        output.result(
            || {
                json!({
                    "topic": name, "id": topic.id.to_string(), "internal": topic.is_internal,
                    "partitions": each().map(|(known, at, start, end)| json!({
                        "partition": at.partition, "leader": known.leader, "leader_epoch": known.leader_epoch,
                        "replicas": known.replicas, "in_sync_replicas": known.in_sync_replicas,
                        "start": start, "end": end,
                    })).collect::<Vec<_>>(),
                    "configs": configs.iter().map(|entry| (entry.name.clone(), json!(entry.value)))
                        .collect::<serde_json::Map<_, _>>(),
                })
            },
            || {
                let rows: Vec<Vec<String>> = each()
                    .map(|(known, at, start, end)| {
                        vec![
                            at.partition.to_string(),
                            known.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                            numbers(&known.replicas),
                            numbers(&known.in_sync_replicas),
                            table::count(start),
                            table::count(end),
                            table::count(end - start),
                        ]
                    })
                    .collect();
                let headers = ["partition", "leader", "replicas", "in sync", "start", "end", "offsets"];
                let gap = if place > 0 { "\n" } else { "" };
                let mut text = format!("{gap}{name}  {}\n\n{}", topic.id, table::draw(&headers, &rows));
                if !configs.is_empty() {
                    let rows: Vec<Vec<String>> = configs
                        .iter()
                        .map(|entry| vec![entry.name.clone(), entry.value.clone().unwrap_or_else(|| "-".to_owned())])
                        .collect();
                    text.push_str(&format!(
                        "\n\n{}",
                        table::draw_aligned(&["configuration", "value"], &rows, |_| false)
                    ));
                }
                text
            },
        )?;
    }
    Ok(())
}

fn numbers(numbers: &[i32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

async fn alter(
    admin: &Admin,
    name: &str,
    partitions: Option<i32>,
    configs: &[String],
    deleted: Vec<String>,
    output: Output,
) -> Result<()> {
    let mut changes = BTreeMap::new();
    for config in configs {
        let (option, value) = name_and_value(config)?;
        changes.insert(option.to_owned(), ConfigChange::Set(value.to_owned()));
    }
    changes.extend(deleted.into_iter().map(|option| (option, ConfigChange::Delete)));
    if changes.is_empty() && partitions.is_none() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "nothing to change: give --config, --delete-config or --partitions",
        ));
    }
    // The broker's answers about configurations do not always say that there is no such topic.
    topic(admin, name).await?;
    if !changes.is_empty() {
        one(admin.alter_configs(&[(ConfigResource::Topic(name.to_owned()), changes)], false, PATIENCE).await?)?;
    }
    if let Some(total) = partitions {
        let more = [(name.to_owned(), NewPartitions { total, assignments: None })].into();
        one(admin.create_partitions(&more, false, PATIENCE).await?)?;
    }
    output.result(|| json!({"altered": name}), || format!("altered {name}"))
}

async fn offsets(admin: &Admin, name: &str, at: Position, output: Output) -> Result<()> {
    let partitions = partitions_of(&*topic(admin, name).await?);
    let client = admin.client();
    let found = at.offsets(client, &partitions, IsolationLevel::ReadUncommitted, PATIENCE).await?;
    // The time of the record that is there, where it was asked for by its time.
    let mut times: HashMap<TopicPartition, i64> = HashMap::new();
    if let Position::Time(time) = at {
        let wanted = partitions.iter().map(|partition| (partition.clone(), time)).collect();
        for (partition, found) in client.list_offsets(wanted, IsolationLevel::ReadUncommitted, PATIENCE).await? {
            times.extend(Some((partition, found?.timestamp)).filter(|(_, time)| *time >= 0));
        }
    }
    let lines = found
        .iter()
        .map(|(partition, offset)| {
            json!({
                "topic": name, "partition": partition.partition, "offset": offset,
                "timestamp": times.get(partition),
            })
        })
        .collect();
    output.rows(lines, || {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|(partition, offset)| {
                let time = times.get(partition).map_or(String::new(), |time| time_text(*time));
                vec![partition.to_string(), table::count(*offset), time]
            })
            .collect();
        table::draw(&["partition", "offset", if times.is_empty() { "" } else { "time (UTC)" }], &rows)
    })
}

async fn delete_records(
    admin: &Admin,
    name: &str,
    before: Position,
    partition: Option<i32>,
    output: Output,
) -> Result<()> {
    let mut partitions = partitions_of(&*topic(admin, name).await?);
    partitions.retain(|known| partition.is_none_or(|wanted| wanted == known.partition));
    if partitions.is_empty() {
        return Err(no_such_partition(name, partition));
    }
    let before = before.offsets(admin.client(), &partitions, IsolationLevel::ReadUncommitted, PATIENCE).await?;
    let deleted = admin.delete_records(&before.into_iter().collect(), PATIENCE).await?;
    let mut starts = BTreeMap::new();
    for (partition, start) in deleted {
        starts.insert(partition, start?);
    }
    let lines =
        starts.iter().map(|(at, start)| json!({"topic": name, "partition": at.partition, "start": start})).collect();
    output.rows(lines, || {
        let rows: Vec<Vec<String>> =
            starts.iter().map(|(partition, start)| vec![partition.to_string(), table::count(*start)]).collect();
        table::draw(&["partition", "start"], &rows)
    })
}

/// The topic, as a broker says now.
pub(super) async fn topic(admin: &Admin, name: &str) -> Result<Arc<Topic>> {
    let mut described = admin.describe_topics(&[name], PATIENCE).await?;
    described.pop().map_or_else(
        || Err(Error::new(ErrorKind::Retriable, "the broker's answer leaves the topic out")),
        |(_, topic)| topic.map_err(|error| no_such_topic(error, name)),
    )
}

fn no_such_topic(error: Error, name: &str) -> Error {
    match error.code() {
        Some(crate::protocol::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
            Error::new(ErrorKind::NotFound, format!("no such topic topic={name}"))
        }
        _ => error,
    }
}

pub(super) fn no_such_partition(topic: &str, partition: Option<i32>) -> Error {
    let partition = partition.map_or(String::new(), |partition| format!(" partition={topic}-{partition}"));
    Error::new(ErrorKind::NotFound, format!("no such partition{partition}"))
}

pub(super) fn partitions_of(topic: &Topic) -> Vec<TopicPartition> {
    (0..topic.partitions.len() as i32)
        .map(|partition| TopicPartition::new(Arc::clone(&topic.name), partition))
        .collect()
}

fn name_and_value(config: &str) -> Result<(&str, &str)> {
    config
        .split_once('=')
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("--config takes NAME=VALUE given={config}")))
}

/// The result of the one thing that was asked.
fn one<T>(results: impl IntoIterator<Item = (T, Result<()>)>) -> Result<()> {
    results.into_iter().try_for_each(|(_, result)| result)
}
