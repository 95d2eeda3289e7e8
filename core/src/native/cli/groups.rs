//! `ottla groups`.

use std::collections::{BTreeMap, HashMap};

use clap::{Args, Subcommand};
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::position::{Position, list};
use super::topics::{partitions_of, topic};
use super::{Output, PATIENCE, table};
use crate::client::config::IsolationLevel;
use crate::client::{Admin, LATEST, OffsetAndMetadata, TopicPartition};
use crate::replication::Selection;
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla groups`.
#[derive(Debug, Args)]
pub(super) struct Groups {
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
    /// List consumer groups (the default)
    List,
    /// Show a group's members, committed offsets and lag
    Show { group: String },
    /// Set a group's committed offsets; it must have no members
    Reset {
        group: String,
        /// beginning, end, an offset, -N (the last N), @MS or a time such as 2026-01-31T08:00:00Z
        #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
        to: String,
        /// Topics and patterns such as 'orders,pay.*'; those that it has committed for when not given
        #[arg(long, value_name = "TOPICS")]
        topics: Option<String>,
        /// Only say what would be set
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Delete groups and their committed offsets; they must have no members
    Delete {
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
}

impl Groups {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = Connection::open(&self.source, &self.connection)?;
        let admin = Admin::new(connection.plain_client()?);
        let done = connection.block_on(async {
            match self.action.unwrap_or(Action::List) {
                Action::List => list_groups(&admin, output).await,
                Action::Show { group } => show(&admin, &group, output).await,
                Action::Reset { group, to, topics, dry_run } => {
                    let topics: Option<Selection> = topics.as_deref().map(str::parse).transpose()?;
                    reset(&admin, &group, to.parse()?, topics, dry_run, output).await
                }
                Action::Delete { groups } => {
                    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                    for (group, deleted) in admin.delete_groups(&groups, PATIENCE).await? {
                        deleted?;
                        output.result(|| json!({"deleted": group}), || format!("deleted {group}"))?;
                    }
                    Ok(())
                }
            }
        });
        connection.close()?;
        done
    }
}

async fn list_groups(admin: &Admin, output: Output) -> Result<()> {
    let groups = admin.list_groups(PATIENCE).await?;
    let lines = groups
        .iter()
        .map(|group| json!({"group": group.group_id, "state": group.state, "type": group.group_type}))
        .collect();
    output.rows(lines, || {
        let rows: Vec<Vec<String>> =
            groups.iter().map(|group| vec![group.group_id.clone(), group.state.clone()]).collect();
        table::draw_aligned(&["group", "state"], &rows, |_| false)
    })
}

async fn show(admin: &Admin, group: &str, output: Output) -> Result<()> {
    let committed: BTreeMap<TopicPartition, OffsetAndMetadata> =
        admin.list_group_offsets(group, None, PATIENCE).await?.into_iter().collect();
    let described = described(admin, group).await?;
    let members = described.as_ref().map_or(&[][..], |group| &group.members);
    if committed.is_empty() && members.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the group has committed nothing, or is not there group={group}"),
        ));
    }
    let owner: HashMap<&TopicPartition, &str> = members
        .iter()
        .flat_map(|member| member.assignment.iter().map(|partition| (partition, member.client_id.as_str())))
        .collect();
    let mut partitions: Vec<TopicPartition> = committed.keys().chain(owner.keys().copied()).cloned().collect();
    partitions.sort();
    partitions.dedup();
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for partition in &partitions {
        // Its topic may be gone.
        let at = std::slice::from_ref(partition);
        let end = list(admin.client(), at, LATEST, IsolationLevel::ReadUncommitted, PATIENCE).await;
        let end = end.ok().and_then(|ends| ends.get(partition).copied());
        let at = committed.get(partition).map(|committed| committed.offset);
        let lag = end.map(|end| (end - at.unwrap_or(0)).max(0));
        let number = |number: Option<i64>| number.map_or("-".to_owned(), table::count);
        let member = owner.get(partition).copied();
        rows.push(vec![partition.to_string(), number(at), number(end), number(lag), member.unwrap_or("-").to_owned()]);
        lines.push(json!({
            "group": group, "topic": &*partition.topic, "partition": partition.partition,
            "committed": at, "end": end, "lag": lag, "client": member,
        }));
    }
    if !output.json {
        let state = described.as_ref().map_or("", |group| group.state.as_str());
        output.say(format!("{group}  {state}, {}", table::plural(members.len(), "member")));
    }
    output.rows(lines, || table::draw(&["partition", "committed", "end", "lag", "member"], &rows))
}

async fn described(admin: &Admin, group: &str) -> Result<Option<crate::client::GroupDescription>> {
    let mut described = admin.describe_groups(&[group], PATIENCE).await?;
    match described.pop() {
        Some((_, Ok(group))) => Ok(Some(group)),
        Some((_, Err(error))) if error.kind() == ErrorKind::NotFound => Ok(None),
        Some((_, Err(error))) => Err(error),
        None => Ok(None),
    }
}

async fn reset(
    admin: &Admin,
    group: &str,
    to: Position,
    topics: Option<Selection>,
    dry_run: bool,
    output: Output,
) -> Result<()> {
    let committed = admin.list_group_offsets(group, None, PATIENCE).await?;
    let partitions: Vec<TopicPartition> = match topics {
        None => {
            let mut names: Vec<_> = committed.keys().map(|partition| partition.topic.clone()).collect();
            names.sort();
            names.dedup();
            let mut partitions = Vec::new();
            for name in names {
                partitions.extend(partitions_of(&*topic(admin, &name).await?));
            }
            partitions
        }
        Some(selection) => {
            let all = admin.list_topics(PATIENCE).await?;
            selection.check_found("topic", all.iter().map(|topic| &*topic.name))?;
            all.iter().filter(|topic| selection.matches(&topic.name)).flat_map(|topic| partitions_of(topic)).collect()
        }
    };
    if partitions.is_empty() {
        let message = format!("the group has committed nothing, say which --topics group={group}");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    if let Some(found) = described(admin, group).await?.filter(|found| !found.members.is_empty()) {
        let message =
            format!("the group has members, stop them before its offsets are set group={group} state={}", found.state);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let offsets = to.offsets(admin.client(), &partitions, IsolationLevel::ReadUncommitted, PATIENCE).await?;
    if !dry_run {
        let wanted = offsets.iter().map(|(at, offset)| (at.clone(), OffsetAndMetadata::new(*offset))).collect();
        for result in admin.alter_group_offsets(group, &wanted, PATIENCE).await?.into_values() {
            result?;
        }
    }
    let before = |partition| committed.get(partition).map(|committed| committed.offset);
    let lines = offsets
        .iter()
        .map(|(partition, offset)| {
            json!({
                "group": group, "topic": &*partition.topic, "partition": partition.partition,
                "before": before(partition), "committed": offset, "dry_run": dry_run,
            })
        })
        .collect();
    output.rows(lines, || {
        let rows: Vec<Vec<String>> = offsets
            .iter()
            .map(|(partition, offset)| {
                let before = before(partition).map_or("-".to_owned(), table::count);
                vec![partition.to_string(), before, table::count(*offset)]
            })
            .collect();
        table::draw(&["partition", "before", if dry_run { "would be" } else { "now" }], &rows)
    })
}
