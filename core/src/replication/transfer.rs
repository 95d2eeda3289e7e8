//! Topics of a source made again in a live cluster, at their offsets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::cluster_sink::{ClusterSink, is_filler};
use super::compare::{Compare, Compared, compare, first_gap};
use super::{
    Assignment, Bounds, ClusterSettings, ClusterSource, CommittedOffset, Copied, CopyOptions, GroupOffsets, Portion,
    Progress, SHARE, Selection, Source, Topic, TopicPartition, Until, assign, copy, settings,
};
use crate::client::{Admin, ConfigChange, ConfigResource, CoordinatorType, NewTopic, OffsetAndMetadata, check};
use crate::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use crate::protocol::messages::describe_configs::DescribeConfigsResource;
use crate::protocol::messages::{AlterShareGroupOffsetsRequest, DescribeConfigsRequest};
use crate::record::batches;
use crate::{Error, ErrorKind, Result};

/// How long the target may take for a change.
const PATIENCE: Duration = Duration::from_secs(60);
/// An end that has stayed for so long stays.
const SETTLED: Duration = Duration::from_secs(1);
/// How many offsets at the end of what is there already are compared before anything is added to it.
const COMPARED_BEFORE: i64 = 1_000;
/// How many offsets before a log start are filled in a second, about, and how many within it.
const FILLED_PER_SECOND: u64 = 5_000_000;
const MARKERS_PER_SECOND: u64 = 25_000;
/// How fast records are written, about, in bytes a second.
const BYTES_PER_SECOND: u64 = 100 << 20;
/// How much is read to see what a target begins with.
const FILLER_BYTES: usize = 1 << 20;
const KEEP_ALL: &str = "-1";
const TOPIC_RESOURCE: i8 = 2;
/// How many topics' configurations are asked for at a time.
const TOPICS_AT_ONCE: usize = 500;

/// What a topic is set to while it is written, so that nothing goes and nothing is changed.
const HELD: [(&str, &str); 8] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("max.message.bytes", "2147483647"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.type", "CreateTime"),
    ("retention.bytes", KEEP_ALL),
    ("retention.ms", KEEP_ALL),
];

/// What to make again, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct TransferOptions {
    /// Which groups' committed offsets. Default: all.
    pub groups: Selection,
    /// Whether access rules and quotas are set, too, beside those that are there. Default: no.
    pub settings: bool,
    /// Which partitions' records. Default: all.
    pub partitions: Portion,
    /// What topics are to be called that are called otherwise at the source. Default: none.
    pub renamed: BTreeMap<String, String>,
    /// On how many brokers each partition is to be. Default: as many as at the source, or as there are.
    pub replication_factor: Option<i16>,
    /// Whether a topic that is there and holds something else is deleted and made anew. Default: no, it is refused.
    pub force: bool,
    /// Whether to look and tell, and write nothing. Default: no.
    pub dry_run: bool,
    /// How many records and bytes partitions have, as far as it is known: for the plan.
    pub sizes: HashMap<TopicPartition, (u64, u64)>,
    /// How to copy.
    pub copy: CopyOptions,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            groups: Selection::all(),
            settings: false,
            partitions: Portion::default(),
            renamed: BTreeMap::new(),
            replication_factor: None,
            force: false,
            dry_run: false,
            sizes: HashMap::new(),
            copy: CopyOptions::default(),
        }
    }
}

/// What is about to be done with a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which, by its name at the target.
    pub partition: TopicPartition,
    /// The first offset that is to be written.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
    /// Bytes of the batches that are to be written, about.
    pub bytes: u64,
    /// How long it takes, about; 0 where that is not told.
    pub seconds: u64,
    /// What is to be known of it, for people.
    pub note: Option<String>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Transferred {
    /// What was written of each partition.
    pub copied: Copied,
    /// The comparison of what was written.
    pub compared: Vec<Compared>,
    /// The groups whose committed offsets were written.
    pub groups: Vec<GroupOffsets>,
    /// The access rules and quotas that were set; of the users, who is to be given a password again.
    pub settings: ClusterSettings,
}

/// What a topic is at the target.
struct Found {
    /// The options set on it that will be set otherwise meanwhile.
    held: BTreeMap<String, Option<String>>,
}

/// Makes `topics` of `source` again in the cluster that `target` reaches: partitions, configuration, records at their offsets
/// and with their timestamps, then what groups had committed.
///
/// Of transactions the outcome is written. Every record that was written is read back and compared before the topic's own
/// retention, compaction and timestamps' type are set. A topic that has a beginning of it gets the rest, after the end of what
/// is there was found to be the same: so one that was interrupted goes on when it is run again, and one from a later source
/// brings what is new. `ahead` is `source` once more, to look ahead in. `plan` is told before anything is written.
///
/// # Errors
/// Before anything is written: `AlreadyExists` if a topic is there and holds something else, `Invalid` if it has another number
/// of partitions. `Invalid` if somebody else writes to a topic meanwhile, or records differ that were read back; the source's
/// and the target's. Run again, it goes on.
pub async fn transfer(
    source: &dyn Source,
    ahead: &dyn Source,
    target: &ClusterSource,
    topics: &[Topic],
    options: &TransferOptions,
    plan: &(dyn Fn(&[Planned]) + Send + Sync),
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Option<Transferred>> {
    let admin = Admin::new(target.client().clone());
    let transfer = Transfer { source, ahead, target, admin, topics, options };
    let assignments: Vec<Assignment> =
        assign(source, topics, Until::LastStable).await?.into_iter().collect::<Result<_>>()?;
    options.partitions.check_found(topics)?;
    if let Some(unknown) = options.renamed.keys().find(|name| !topics.iter().any(|topic| topic.name == **name)) {
        let message = format!("there is no such topic to be called otherwise topic={unknown}");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let assignments: Vec<Assignment> =
        assignments.into_iter().filter(|one| options.partitions.includes(&one.partition)).collect();
    let there = transfer.there().await?;
    let ends = transfer.check(&assignments, &there).await?;
    let anew: Vec<&str> = ends.anew.iter().map(String::as_str).collect();
    plan(&transfer.plan(&assignments, &ends));
    if options.dry_run {
        return Ok(None);
    }
    let bounds = assignments.iter().map(|assignment| (assignment.partition.clone(), assignment.bounds));
    let sink = ClusterSink::new(target.clone(), ahead, options.renamed.clone(), bounds).await?;
    let sink = transfer.sink_for_gaps(sink, &assignments, &ends).await?.keeping(ends.older.clone());
    if !anew.is_empty() {
        let deleted = transfer.admin.delete_topics(&anew, PATIENCE).await?;
        deleted.into_iter().try_for_each(|(_, result)| unless(ErrorKind::NotFound, result))?;
        transfer.wait_until_gone(&anew).await?;
    }
    let held = transfer.hold(&there, &ends).await?;
    let written = transfer.write(&sink, &assignments, &ends, progress).await;
    let (copied, compared) = written.map_err(|error| {
        error.context("the topics keep everything until it is run again, without retention and compaction")
    })?;
    transfer.release(&held).await?;
    let groups = transfer.commit(&sink).await?;
    let settings = if options.settings { source.settings().await? } else { ClusterSettings::default() };
    let written = settings::write(target.client(), target.patience(), &settings).await;
    written.map_err(|error| error.context("records and groups are restored, but not all access rules and quotas"))?;
    Ok(Some(Transferred { copied, compared, groups, settings }))
}

/// Whether a topic is made with this option; older brokers do not know the others.
fn is_set_at_once(option: &str) -> bool {
    !option.starts_with("message.timestamp.") || option == "message.timestamp.type"
}

/// A change whose answer was lost is asked for again, and then found to be made.
fn unless(kind: ErrorKind, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        result => result,
    }
}

/// Where partitions of the target end, and which topics have to go first.
#[derive(Default)]
struct Ends {
    ends: HashMap<TopicPartition, i64>,
    /// Where those of the target begin.
    starts: HashMap<TopicPartition, i64>,
    /// Those that have records from before the source's log start, which stay.
    older: HashSet<TopicPartition>,
    anew: Vec<String>,
}

struct Transfer<'a> {
    source: &'a dyn Source,
    ahead: &'a dyn Source,
    target: &'a ClusterSource,
    admin: Admin,
    topics: &'a [Topic],
    options: &'a TransferOptions,
}

impl Transfer<'_> {
    fn target_name<'t>(&'t self, topic: &'t str) -> &'t str {
        self.options.renamed.get(topic).map_or(topic, String::as_str)
    }

    fn target_partition(&self, partition: &TopicPartition) -> TopicPartition {
        TopicPartition::new(self.target_name(&partition.topic), partition.partition)
    }

    /// Those of the topics that the target has, by its names.
    async fn there(&self) -> Result<BTreeMap<String, Topic>> {
        let names: Vec<&str> = self.topics.iter().map(|topic| self.target_name(&topic.name)).collect();
        let selection = Selection::new(&names)?;
        let found = self.target.topics_beyond(&selection, &BTreeMap::new()).await?;
        Ok(found.into_iter().map(|topic| (topic.name.clone(), topic)).collect())
    }

    /// Whether what is there may be gone on with.
    async fn check(&self, assignments: &[Assignment], there: &BTreeMap<String, Topic>) -> Result<Ends> {
        let mut ends = Ends::default();
        let is_there = |one: &&Assignment| {
            let known = there.get(self.target_name(&one.partition.topic));
            known.is_some_and(|known| (one.partition.partition as usize) < known.partitions.len())
        };
        let pairs: Vec<(TopicPartition, &Assignment)> =
            assignments.iter().filter(is_there).map(|one| (self.target_partition(&one.partition), one)).collect();
        let found = self.settled(&pairs).await?;
        let mut differing = self.what_differs(&pairs, &found).await?;
        ends.starts = pairs.iter().zip(&found).map(|((target, _), bounds)| (target.clone(), bounds.start)).collect();
        for ((target, assignment), there) in pairs.iter().zip(&found) {
            let upto = there.end.min(assignment.bounds.start);
            if there.start >= upto
                || differing.contains_key(&*target.topic)
                || !self.is_older(target, there.start).await?
                || self.first_offset(assignment).await? <= there.start
            {
                continue;
            }
            if there.end > assignment.bounds.start {
                ends.older.insert(target.clone());
            } else {
                let what =
                    format!("holds records that the source no longer has: partition {target} ends at {}", there.end);
                differing.insert(target.topic.to_string(), what);
            }
        }
        ends.ends = pairs.iter().zip(&found).map(|((target, _), bounds)| (target.clone(), bounds.end)).collect();
        for topic in self.topics {
            let name = self.target_name(&topic.name);
            let Some(known) = there.get(name) else { continue };
            let mut wrong = differing.remove(name).map(|what| (ErrorKind::AlreadyExists, what));
            if known.partitions.len() != topic.partitions.len() {
                let (found, wanted) = (known.partitions.len(), topic.partitions.len());
                wrong = Some((ErrorKind::Invalid, format!("has {found} partitions instead of {wanted}")));
            }
            match wrong {
                None => {}
                Some(_) if self.options.force => {
                    if !topic.topic_partitions().all(|partition| self.options.partitions.includes(&partition)) {
                        let message =
                            format!("--force makes a whole topic anew, and some partitions are chosen topic={name}");
                        return Err(Error::new(ErrorKind::Invalid, message));
                    }
                    ends.anew.push(name.to_owned());
                    ends.ends.retain(|partition, _| *partition.topic != *name);
                }
                Some((kind, what)) => {
                    let message = format!(
                        "the target has a topic of that name that {what}: choose another name (--rename), or have it \
                         deleted and made anew (--force) topic={name}"
                    );
                    return Err(Error::new(kind, message));
                }
            }
        }
        Ok(ends)
    }

    /// Where the source's first batch begins, which is written whole: below the log start, perhaps.
    async fn first_offset(&self, Assignment { partition, bounds, .. }: &Assignment) -> Result<i64> {
        if bounds.start >= bounds.end {
            return Ok(bounds.start);
        }
        let read = self.source.read(partition, bounds.start, FILLER_BYTES).await?;
        let first = batches(read).next().transpose();
        let first = first.map_err(|error| Error::from(error).context(format_args!("partition={partition}")))?;
        Ok(first.map_or(bounds.start, |batch| batch.base_offset()))
    }

    /// Whether what the target has at `offset` is a record, and not what a transfer fills offsets with.
    async fn is_older(&self, target: &TopicPartition, offset: i64) -> Result<bool> {
        let read = self.target.read(target, offset, FILLER_BYTES).await?;
        for batch in batches(read) {
            let batch = batch.map_err(|error| Error::from(error).context(format_args!("partition={target}")))?;
            if !batch.is_control() {
                return Ok(!is_filler(&batch)?);
            }
        }
        Ok(false)
    }

    /// Where partitions of the target begin and end. What a transfer that was killed had sent may come to be written still, so
    /// where one is not whole its end is waited for until it stays.
    async fn settled(&self, pairs: &[(TopicPartition, &Assignment)]) -> Result<Vec<Bounds>> {
        let targets: Vec<TopicPartition> = pairs.iter().map(|(target, _)| target.clone()).collect();
        let mut before: Option<Vec<Bounds>> = None;
        loop {
            let bounds = self.target.bounds(&targets, Until::HighWatermark).await?;
            let bounds: Vec<Bounds> = bounds.into_iter().collect::<Result<_>>()?;
            let is_whole = pairs.iter().zip(&bounds).all(|((_, wanted), there)| there.end >= wanted.bounds.end);
            if is_whole || before.as_ref() == Some(&bounds) {
                return Ok(bounds);
            }
            before = Some(bounds);
            self.target.client().clock().sleep(SETTLED).await;
        }
    }

    /// How topics that are there differ from a beginning of what the source has, of those that do.
    async fn what_differs(
        &self,
        pairs: &[(TopicPartition, &Assignment)],
        bounds: &[Bounds],
    ) -> Result<HashMap<String, String>> {
        let mut differing = HashMap::new();
        let mut wanted = Vec::new();
        for ((target, assignment), there) in pairs.iter().zip(bounds) {
            if there.end > assignment.bounds.end {
                let (found, expected) = (there.end, assignment.bounds.end);
                let what = format!("holds other records: partition {target} ends at {found}, not {expected}");
                differing.insert(target.topic.to_string(), what);
                continue;
            }
            let start = there.start.max(assignment.bounds.start).max(there.end - COMPARED_BEFORE);
            if start < there.end {
                let bounds = Bounds { start, end: there.end, leader_epoch: -1 };
                let partition = assignment.partition.clone();
                wanted.push(Compare { partition, target: target.clone(), bounds });
            }
        }
        for compared in compare(self.source, self.ahead, self.target, &wanted, &|_| {}).await {
            let compared = compared?;
            if let Some(first) = compared.first {
                let what = format!("holds other records: {first} partition={}", compared.partition);
                differing.insert(compared.partition.topic.to_string(), what);
            }
        }
        Ok(differing)
    }

    fn plan(&self, assignments: &[Assignment], ends: &Ends) -> Vec<Planned> {
        let planned = assignments.iter().map(|Assignment { partition, bounds, .. }| {
            let target = self.target_partition(partition);
            let there = ends.ends.get(&target).copied().unwrap_or(0);
            let start = there.min(bounds.end);
            let (records, bytes) = self.options.sizes.get(partition).copied().unwrap_or_default();
            let offsets = (bounds.end - bounds.start).max(0).unsigned_abs();
            let left = (bounds.end - start.max(bounds.start)).max(0).unsigned_abs();
            let bytes =
                if offsets == 0 { 0 } else { (u128::from(bytes) * u128::from(left) / u128::from(offsets)) as u64 };
            let before = (bounds.start - start).max(0).unsigned_abs();
            let within = if records == 0 { 0 } else { offsets.saturating_sub(records).min(left) };
            let mut notes = Vec::new();
            let lacking = ends.starts.get(&target).map_or(0, |there| (*there).min(start) - bounds.start);
            if lacking > 0 && !ends.anew.iter().any(|name| **name == *target.topic) {
                notes.push(format!("{lacking} offsets have been removed there and stay away"));
            }
            if ends.anew.iter().any(|name| **name == *target.topic) {
                notes.push("deleted first".to_owned());
            }
            if before > 0 {
                notes.push(format!("{before} offsets before the log start filled and deleted"));
            }
            if within > 0 {
                notes.push(format!("{within} offsets without records filled by markers"));
            }
            Planned {
                partition: target,
                start,
                end: bounds.end,
                bytes,
                seconds: before / FILLED_PER_SECOND + within / MARKERS_PER_SECOND + bytes / BYTES_PER_SECOND,
                note: (!notes.is_empty()).then(|| notes.join(", ")),
            }
        });
        planned.collect()
    }

    /// The sink, if it can fill what gaps there are.
    async fn sink_for_gaps<'s>(
        &self,
        sink: ClusterSink<'s>,
        assignments: &[Assignment],
        ends: &Ends,
    ) -> Result<ClusterSink<'s>> {
        let Some(first) = self.topics.first() else { return Ok(sink) };
        let (sink, refused) = sink.with_gaps(self.target_name(&first.name)).await?;
        let Some(refused) = refused else { return Ok(sink) };
        // Nothing may fill them: then there must be none, which only the batches tell.
        for Assignment { partition, bounds, .. } in assignments {
            let target = self.target_partition(partition);
            let there = ends.ends.get(&target).copied().unwrap_or(0);
            let bounds = Bounds { start: bounds.start.max(there), ..*bounds };
            if let Some(offset) = first_gap(self.source, self.ahead, partition, bounds).await? {
                let message = format!(
                    "offsets without records cannot be kept at this target, {} partition={partition} offset={offset}",
                    refused.message()
                );
                return Err(Error::new(refused.kind(), message));
            }
        }
        Ok(sink)
    }

    /// Copies, and compares what was written.
    async fn write(
        &self,
        sink: &ClusterSink<'_>,
        assignments: &[Assignment],
        ends: &Ends,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<(Copied, Vec<Compared>)> {
        let copied = copy(self.source, sink, assignments, &self.options.copy, progress).await?.all()?;

        let wanted: Vec<Compare> = assignments
            .iter()
            .map(|assignment| {
                let target = sink.target(&assignment.partition);
                let start = ends.ends.get(&target).copied().unwrap_or(0).max(assignment.bounds.start);
                let bounds = Bounds { start, ..assignment.bounds };
                Compare { partition: assignment.partition.clone(), target, bounds }
            })
            .filter(|one| one.bounds.start < one.bounds.end)
            .collect();
        let compared = compare(self.source, self.ahead, self.target, &wanted, &|_| {}).await;
        let compared: Vec<Compared> = compared.into_iter().collect::<Result<_>>()?;
        if let Some(wrong) = compared.iter().find(|compared| compared.differing > 0) {
            let message = format!(
                "what was restored is not what the source has partition={} records={}: {}",
                wrong.partition,
                wrong.differing,
                wrong.first.as_deref().unwrap_or_default()
            );
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok((copied, compared))
    }

    async fn wait_until_gone(&self, names: &[&str]) -> Result<()> {
        let selection = Selection::new(names)?;
        let client = self.target.client();
        client
            .retry(PATIENCE, || async {
                match self.target.topics_beyond(&selection, &BTreeMap::new()).await?.first() {
                    None => Ok(()),
                    Some(topic) => {
                        let message = format!("topic is still being deleted topic={}", topic.name);
                        Err(Error::new(ErrorKind::Retriable, message))
                    }
                }
            })
            .await
    }

    /// Makes the topics that are missing, and has all keep everything as it comes. What was set before.
    async fn hold(&self, there: &BTreeMap<String, Topic>, ends: &Ends) -> Result<BTreeMap<String, Found>> {
        let is_there = |name: &str| there.contains_key(name) && !ends.anew.iter().any(|anew| anew == name);
        let brokers = self.admin.describe_cluster(PATIENCE).await?.brokers.len();
        let brokers = i16::try_from(brokers).unwrap_or(i16::MAX).max(1);
        let mut new = Vec::new();
        for topic in self.topics.iter().filter(|topic| !is_there(self.target_name(&topic.name))) {
            let wanted = self.options.replication_factor.unwrap_or(topic.replication_factor.min(brokers));
            new.push(NewTopic {
                name: self.target_name(&topic.name).to_owned(),
                partitions: i32::try_from(topic.partitions.len()).ok(),
                replication_factor: Some(wanted).filter(|wanted| *wanted > 0),
                configs: self.created_with(topic),
                ..NewTopic::default()
            });
        }
        if !new.is_empty() {
            let created = self.admin.create_topics(&new, false, PATIENCE).await?;
            created.into_iter().try_for_each(|(_, result)| unless(ErrorKind::AlreadyExists, result))?;
        }
        let names: Vec<&str> = self.topics.iter().map(|topic| self.target_name(&topic.name)).collect();
        self.admin.wait_for_topics(&names, PATIENCE).await?;
        let resources: Vec<_> = names.iter().map(|name| (ConfigResource::Topic((*name).to_owned()), None)).collect();
        let described = self.admin.client().retry(PATIENCE, || self.describe(&resources)).await?;
        let mut found = BTreeMap::new();
        let mut changes = Vec::new();
        for topic in self.topics {
            let name = self.target_name(&topic.name);
            let own: BTreeMap<&str, &str> = topic.config.iter().map(|(name, value)| (&**name, &**value)).collect();
            let entries = described.get(name).map(Vec::as_slice).unwrap_or_default();
            // What an interrupted transfer has set, all of it, is not the topic's own. One that was killed when it had made
            // the topic has not set the limits of timestamps yet.
            let is_ours = HELD.iter().all(|(option, value)| {
                let entry = entries.iter().find(|entry| entry.0 == *option);
                entry.is_none_or(|entry| entry.1.as_deref().map_or(!is_set_at_once(option), |set| set == *value))
            });
            let mut held = BTreeMap::new();
            let mut change = BTreeMap::new();
            for (option, value) in HELD {
                // An option that the broker does not know holds nothing back.
                let Some(entry) = entries.iter().find(|entry| entry.0 == option) else { continue };
                let set = entry.1.as_deref().filter(|_| !is_ours);
                let before = if is_there(name) && set.is_some() { set } else { own.get(option).copied() };
                held.insert(option.to_owned(), before.map(str::to_owned));
                change.insert(option.to_owned(), ConfigChange::Set(value.to_owned()));
            }
            found.insert(name.to_owned(), Found { held });
            changes.push((ConfigResource::Topic(name.to_owned()), change));
        }
        self.alter(&changes).await?;
        for node_id in self.admin.describe_cluster(PATIENCE).await?.brokers.keys() {
            self.admin.client().retry(PATIENCE, || self.check_held(*node_id, &changes)).await?;
        }
        Ok(found)
    }

    /// The topic's configuration, but for what is held back from the first record on.
    fn created_with(&self, topic: &Topic) -> BTreeMap<String, String> {
        let mut config: BTreeMap<String, String> = topic.config.iter().cloned().collect();
        for (option, value) in HELD {
            if is_set_at_once(option) {
                config.insert(option.to_owned(), value.to_owned());
            }
        }
        config
    }

    /// Whether a broker knows of the changes: each hears of them by itself, and whatever it appends before is as it was set.
    async fn check_held(
        &self,
        node_id: i32,
        changes: &[(ConfigResource, BTreeMap<String, ConfigChange>)],
    ) -> Result<()> {
        for changes in changes.chunks(TOPICS_AT_ONCE) {
            let resource = |(resource, _): &(ConfigResource, BTreeMap<String, ConfigChange>)| match resource {
                ConfigResource::Topic(name) => Some(DescribeConfigsResource {
                    resource_type: TOPIC_RESOURCE,
                    resource_name: name.clone(),
                    configuration_keys: Some(HELD.iter().map(|(option, _)| (*option).to_owned()).collect()),
                }),
                _ => None,
            };
            let resources = changes.iter().filter_map(resource).collect();
            let request = DescribeConfigsRequest { resources, ..DescribeConfigsRequest::default() };
            let response = self.admin.client().call_node(node_id, request).await?;
            for found in response.results {
                check(found.error_code, found.error_message.as_deref(), format_args!("topic={}", found.resource_name))?;
                let held = |option: &str| HELD.iter().find(|(name, _)| *name == option).map(|(_, value)| *value);
                let late = found.configs.iter().find(|entry| held(&entry.name) != entry.value.as_deref());
                if let Some(late) = late {
                    let message = format!(
                        "a broker does not know yet of an option that was set node={node_id} topic={} option={}",
                        found.resource_name, late.name
                    );
                    return Err(Error::new(ErrorKind::Retriable, message));
                }
            }
        }
        Ok(())
    }

    /// Of each topic the options that it has, with the values set on it itself.
    async fn describe(
        &self,
        resources: &[(ConfigResource, Option<Vec<String>>)],
    ) -> Result<HashMap<String, Vec<(String, Option<String>)>>> {
        const OWN: i8 = 1;
        let mut found = HashMap::new();
        for (resource, entries) in self.admin.describe_configs(resources, PATIENCE).await? {
            if let ConfigResource::Topic(name) = resource {
                let own = |source: i8, value: Option<String>| value.filter(|_| source == OWN);
                let entries = entries?.into_iter().map(|entry| (entry.name, own(entry.source, entry.value)));
                found.insert(name, entries.collect());
            }
        }
        Ok(found)
    }

    async fn alter(&self, changes: &[(ConfigResource, BTreeMap<String, ConfigChange>)]) -> Result<()> {
        let altered = self.admin.alter_configs(changes, false, PATIENCE).await?;
        altered.into_iter().try_for_each(|(_, result)| result)
    }

    /// Sets what was held back to what it is to be.
    async fn release(&self, found: &BTreeMap<String, Found>) -> Result<()> {
        let changes: Vec<_> = found
            .iter()
            .map(|(name, Found { held })| {
                let change = held.iter().map(|(option, value)| {
                    let change = value.clone().map_or(ConfigChange::Delete, ConfigChange::Set);
                    (option.clone(), change)
                });
                (ConfigResource::Topic(name.clone()), change.collect())
            })
            .collect();
        self.alter(&changes).await
    }

    /// Commits for groups what they had committed.
    async fn commit(&self, sink: &ClusterSink<'_>) -> Result<Vec<GroupOffsets>> {
        let mut groups = self.source.committed(self.topics, &self.options.groups).await?;
        let is_chosen = |one: &CommittedOffset| self.options.partitions.includes(&one.partition);
        groups.iter_mut().for_each(|group| group.offsets.retain(is_chosen));
        groups.retain(|group| !group.offsets.is_empty());
        for group in &groups {
            let offsets: HashMap<TopicPartition, OffsetAndMetadata> = group
                .offsets
                .iter()
                .map(|committed| {
                    let metadata = committed.metadata.clone();
                    // The epoch is that of a leader that is gone, and consumers would ask after it.
                    let offset = OffsetAndMetadata { offset: committed.offset, metadata, leader_epoch: -1 };
                    (sink.target(&committed.partition), offset)
                })
                .collect();
            let committed = if group.kind == SHARE {
                self.start_share_group(&group.group, &offsets).await
            } else {
                let committed = self.admin.alter_group_offsets(&group.group, &offsets, PATIENCE).await;
                committed.and_then(|each| each.into_values().try_for_each(|result| result))
            };
            committed.map_err(|error| {
                error.context(format_args!(
                    "records are restored, but not what a group had committed group={}",
                    group.group
                ))
            })?;
        }
        Ok(groups)
    }
    /// Has a share group, which is made when it is not there, start at these offsets (KIP-932).
    async fn start_share_group(&self, group: &str, offsets: &HashMap<TopicPartition, OffsetAndMetadata>) -> Result<()> {
        let mut topics: BTreeMap<String, Vec<AlterShareGroupOffsetsRequestPartition>> = BTreeMap::new();
        for (partition, offset) in offsets {
            topics.entry(partition.topic.to_string()).or_default().push(AlterShareGroupOffsetsRequestPartition {
                partition_index: partition.partition,
                start_offset: offset.offset,
            });
        }
        let topics = topics.into_iter();
        let topics =
            topics.map(|(topic_name, partitions)| AlterShareGroupOffsetsRequestTopic { topic_name, partitions });
        let request = AlterShareGroupOffsetsRequest { group_id: group.to_owned(), topics: topics.collect() };
        let client = self.target.client();
        let ask = || async {
            let coordinator = client.coordinator(CoordinatorType::Group, group).await?;
            let answer = client.call_node(coordinator.node_id, request.clone()).await?;
            check(answer.error_code, answer.error_message.as_deref(), "")?;
            for topic in answer.responses {
                for partition in topic.partitions {
                    let facts = format_args!("partition={}-{}", topic.topic_name, partition.partition_index);
                    check(partition.error_code, partition.error_message.as_deref(), facts)?;
                }
            }
            Ok(())
        };
        client.retry(self.target.patience(), ask).await
    }
}
