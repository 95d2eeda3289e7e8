//! Restore: a snapshot to the log directories of a Kafka broker that does not run.
//!
//! A partition's directory is written as Kafka itself would have left it: batches at their offsets, indexes, leader epochs,
//! producers, and its lines in the checkpoints of the root. It is served only under the topic id that the cluster's metadata
//! has, so that is read first ([`ClusterMetadata`]); a disk that was replaced has no metadata, and gets the ids of the backup,
//! which are the cluster's own where the backup is of that cluster.
//!
//! Leader epochs in the batches are kept where the topic is the one that was backed up: the other replicas have the same. A
//! topic that was made anew counts its epochs from 0, and later ones would have consumers believe that records were lost
//! (KIP-320), so there each batch gets epoch 0.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use uuid::Uuid;

use super::contents::SnapshotSource;
use super::kraft::{ClusterMetadata, Replicas};
use super::restore::Restored;
use crate::broker::directory::{
    CLEANER_OFFSETS, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS, checkpoint_of, read_checkpoint, read_topic_id,
    uuid_from_text, write_topic_id,
};
use crate::log::{Checkpoints, Log, LogConfig};
use crate::record::{Batch, batches};
use crate::replication::{
    Assignment, At, Bounds, CopyOptions, Cut, EpochEnd, Hole, LastBatch, Planned, Portion, Progress, Run, Selection,
    Sink, SinkEnd, Source, Topic, TopicPartition, Until, agree, assign, copy,
};
use crate::storage::{Device, OpenFiles};
use crate::{Error, ErrorKind, Result, Timestamp};

/// What says which broker a log directory is of.
const META_PROPERTIES: &str = "meta.properties";
/// How many files are open at a time, at most.
const OPEN_FILES: usize = 256;
/// As much of a log's end is read at a time to find its last batch.
const TAIL_BYTES: usize = 1 << 20;

/// How to restore into log directories.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DirectoryOptions {
    /// The broker whose replicas are restored. Default: the one that the directories say they are of.
    pub broker: Option<i32>,
    /// Whether what the directories hold and the snapshot has not is given up. Default: no, it is refused.
    pub force: bool,
    /// The point in time to restore. Default: the snapshot's own.
    pub at: At,
    /// Which partitions. Default: all of the broker's.
    pub partitions: Portion,
    /// Whether to look and tell, and write nothing.
    pub dry_run: bool,
    /// How to copy.
    pub copy: CopyOptions,
}

/// A log directory of a broker.
struct Home {
    files: Arc<OpenFiles>,
    /// Its own id, if it has one (KIP-858).
    id: Option<Uuid>,
}

impl Home {
    fn device(&self) -> &dyn Device {
        &**self.files.device()
    }
}

/// Whose log directories these are.
struct Broker {
    node_id: i32,
    cluster_id: String,
    homes: Vec<Home>,
    metadata: Option<ClusterMetadata>,
}

impl Broker {
    fn open(directories: &[Arc<dyn Device>]) -> Result<Self> {
        let mut broker: Option<Self> = None;
        for device in directories {
            let properties = properties(&**device)?;
            let property = |name: &str| {
                properties.get(name).ok_or_else(|| {
                    let message = format!("{META_PROPERTIES} of the log directory lacks {name}");
                    Error::new(ErrorKind::Invalid, message)
                })
            };
            let node_id = property("node.id")?.parse().map_err(|_| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{META_PROPERTIES} of the log directory has no number in node.id"),
                )
            })?;
            let cluster_id = property("cluster.id")?.clone();
            let id = properties.get("directory.id").and_then(|id| uuid_from_text(id));
            let home = Home { files: OpenFiles::new(Arc::clone(device), OPEN_FILES), id };
            let metadata = ClusterMetadata::read(&**device)?;
            match &mut broker {
                None => broker = Some(Self { node_id, cluster_id, homes: vec![home], metadata }),
                Some(broker) if broker.node_id != node_id || broker.cluster_id != cluster_id => {
                    let message = format!(
                        "these are log directories of different brokers nodes={},{node_id} clusters={},{cluster_id}",
                        broker.node_id, broker.cluster_id
                    );
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                Some(broker) => {
                    broker.homes.push(home);
                    broker.metadata = broker.metadata.take().or(metadata);
                }
            }
        }
        broker.ok_or_else(|| Error::new(ErrorKind::Invalid, "no log directory is named"))
    }

    /// Under which id a topic is to be served, and where its partitions are.
    fn topic(&self, topic: &Topic, source_cluster: Option<&str>) -> Result<(Uuid, BTreeMap<i32, Replicas>)> {
        let Some(metadata) = &self.metadata else {
            // The disk is new. Only a backup of this cluster knows the ids.
            if source_cluster != Some(self.cluster_id.as_str()) || topic.id.is_nil() {
                let message = format!(
                    "the directory has no metadata of its cluster, and the backup is of another one: start the broker once, \
                     create the topics, and stop it cluster={} backup_of={}",
                    self.cluster_id,
                    source_cluster.unwrap_or("unknown")
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let replicas = |brokers: &Vec<i32>| Replicas { brokers: brokers.clone(), directories: Vec::new() };
            let partitions = topic.partitions.iter().zip(0..).map(|(brokers, number)| (number, replicas(brokers)));
            return Ok((topic.id, partitions.collect()));
        };
        let known = metadata.topics.get(&topic.name).ok_or_else(|| {
            let message = format!(
                "the broker's cluster has no such topic, and would not serve it: start the broker, create it, and stop it \
                 topic={} partitions={}",
                topic.name,
                topic.partitions.len()
            );
            Error::new(ErrorKind::NotFound, message)
        })?;
        if known.partitions.len() < topic.partitions.len() {
            let message = format!(
                "the broker's cluster has fewer partitions of the topic than the backup topic={} partitions={} backup={}",
                topic.name,
                known.partitions.len(),
                topic.partitions.len()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok((known.id, known.partitions.clone()))
    }

    /// In which of the log directories a partition is, or is to be.
    fn home(&self, dir: &str, assigned: Option<Uuid>) -> Result<&Home> {
        for home in &self.homes {
            if home.device().exists(dir)? {
                return Ok(home);
            }
        }
        let assigned = self.homes.iter().find(|home| assigned.is_some() && home.id == assigned);
        Ok(assigned.unwrap_or(&self.homes[0]))
    }
}

fn properties(device: &dyn Device) -> Result<HashMap<String, String>> {
    if !device.exists(META_PROPERTIES)? {
        let message = "not a log directory of a Kafka broker, meta.properties is missing: format it first with \
                       `kafka-storage.sh format`, with the cluster's id";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let bytes = device.read(META_PROPERTIES)?;
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}

/// Restores what `source` has of the replicas on a broker, whose log directories these are, and which does not run.
///
/// A directory that has a beginning of a partition gets the rest, so a restore that was interrupted goes on when it is run
/// again. Returns what was done, and the plan, which is all if only that is wanted. What groups had committed is in
/// partitions of `__consumer_offsets` that are not touched. `now` is for what producers are remembered,
/// `room` is how many bytes may be written.
///
/// # Errors
/// Before anything is written: `Invalid` if the directories are not of one broker, or hold records that the snapshot has not;
/// `NotFound` if the cluster has no such topic; `Full` if there is not enough room. `Corrupt` if something is damaged, after the rest is restored.
pub async fn restore_directories(
    source: &SnapshotSource,
    directories: &[Arc<dyn Device>],
    options: &DirectoryOptions,
    now: Timestamp,
    room: u64,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<(Vec<Planned>, Option<Restored>)> {
    let broker = Broker::open(directories)?;
    if let Some(wanted) = options.broker.filter(|wanted| *wanted != broker.node_id) {
        let message = format!("the directories are another broker's wanted={wanted} found={}", broker.node_id);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let topics = source.topics(&Selection::all()).await?;
    let source_cluster = source.snapshot().manifest.source.cluster_id.as_deref();
    options.partitions.check_found(&topics)?;
    let cut = Cut::new(source, Cut::find(source, &topics, &options.at).await?);
    let mut replicas = HashMap::new();
    for topic in &topics {
        let (topic_id, partitions) = broker.topic(topic, source_cluster)?;
        for partition in topic.topic_partitions() {
            let Some(known) = partitions.get(&partition.partition) else { continue };
            if !known.brokers.contains(&broker.node_id) || !options.partitions.includes(&partition) {
                continue;
            }
            let dir = format!("{}-{}", topic.name, partition.partition);
            let home = broker.home(&dir, known.directory(broker.node_id))?;
            if let Some(other) = read_topic_id(home.device(), &dir)?.filter(|id| *id != topic_id) {
                let message = format!(
                    "the directory is another topic's of that name, which the cluster no longer has: move it away \
                     directory={dir} topic_id={topic_id} found={other}"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let replica = Replica {
                files: Arc::clone(&home.files),
                dir,
                topic_id,
                keeps_epochs: topic_id == topic.id,
                config: log_config(topic),
                now,
                log: Mutex::default(),
                begun: Mutex::default(),
            };
            replicas.insert(partition, replica);
        }
    }
    let assignments: Vec<Assignment> =
        assign(&cut, &topics, Until::HighWatermark).await?.into_iter().collect::<Result<_>>()?;
    let assignments: Vec<Assignment> =
        assignments.into_iter().filter(|assignment| replicas.contains_key(&assignment.partition)).collect();
    let sink = DirectorySink { replicas, force: options.force };
    let planned = sink.plan(source, &cut, &assignments).await?;
    if options.dry_run {
        sink.close()?;
        return Ok((planned, None));
    }
    let bytes: u64 = planned.iter().map(|plan| plan.bytes).sum();
    if bytes > room {
        sink.close()?;
        return Err(Error::new(ErrorKind::Full, format!("too little space for the restore bytes={bytes} free={room}")));
    }
    sink.clear(&planned, &assignments)?;
    let copied = copy(&cut, &sink, &assignments, &options.copy, progress).await;
    // Also what is whole where something else failed.
    sink.close()?;
    sink.write_checkpoints(&broker)?;
    let copied = copied?.all()?;
    Ok((planned, Some(Restored { snapshot: source.snapshot().id, copied, groups: Vec::new() })))
}

/// What of a topic's configuration decides how its files look.
fn log_config(topic: &Topic) -> LogConfig {
    let defaults = LogConfig::default();
    let number = |name: &str| {
        let value = topic.config.iter().find(|(known, _)| known == name);
        value.and_then(|(_, value)| value.trim().parse::<i64>().ok()).filter(|value| *value > 0)
    };
    let size = |name: &str, default: u64| number(name).map_or(default, i64::unsigned_abs);
    LogConfig {
        segment_bytes: size("segment.bytes", defaults.segment_bytes),
        segment_ms: number("segment.ms").unwrap_or(defaults.segment_ms),
        index_interval_bytes: size("index.interval.bytes", defaults.index_interval_bytes),
        segment_index_bytes: size("segment.index.bytes", defaults.segment_index_bytes),
        retention_ms: None,
        deletes: false,
        ..defaults
    }
}

/// A partition's directory, and its log from when it is needed.
struct Replica {
    files: Arc<OpenFiles>,
    dir: String,
    topic_id: Uuid,
    keeps_epochs: bool,
    config: LogConfig,
    now: Timestamp,
    log: Mutex<Option<Log>>,
    /// Where it begins, until something has been written.
    begun: Mutex<Option<i64>>,
}

impl Replica {
    fn device(&self) -> &dyn Device {
        &**self.files.device()
    }

    /// Whether it has files of a log. Looks without making any.
    fn is_there(&self) -> Result<bool> {
        let device = self.device();
        Ok(device.exists(&self.dir)? && device.list(&self.dir)?.iter().any(|entry| entry.name.ends_with(".log")))
    }

    /// Its log, made if it is missing.
    fn with_log<T>(&self, act: impl FnOnce(&mut Log) -> Result<T>) -> Result<T> {
        let mut open = lock(&self.log);
        if open.is_none() {
            self.device().create_dir(&self.dir)?;
            write_topic_id(self.device(), &self.dir, self.topic_id)?;
            self.device().open(&format!("{}/partition.metadata", self.dir))?.sync()?;
            let told = read_checkpoint(self.device(), LOG_STARTS)?;
            // Nothing is known of it, so everything is looked at.
            let (mut log, recovery) =
                Log::open(&self.files, &self.dir, self.config.clone(), Checkpoints::default(), self.now)?;
            if !recovery.is_clean() {
                log::info!("recovered log={}: {recovery}", self.dir);
            }
            let start = self.key().and_then(|key| told.get(&key).copied()).unwrap_or(0);
            if start <= log.end() {
                log.set_start(start)?;
            }
            *open = Some(log);
        }
        match &mut *open {
            Some(log) => act(log),
            None => Err(Error::new(ErrorKind::Internal, "the log was just opened")),
        }
    }

    fn key(&self) -> Option<(String, i32)> {
        let (topic, partition) = self.dir.rsplit_once('-')?;
        Some((topic.to_owned(), partition.parse().ok()?))
    }

    fn end(&self) -> Result<Option<SinkEnd>> {
        if lock(&self.log).is_none() && !self.is_there()? {
            return Ok(None);
        }
        self.with_log(|log| {
            if log.end() == 0 {
                return Ok(None);
            }
            let last = last_batch(log)?;
            let leader_epoch = last.filter(|_| self.keeps_epochs).map_or(-1, |last| last.leader_epoch);
            Ok(Some(SinkEnd { end: log.end(), leader_epoch, last }))
        })
    }
}

/// The last batch of a log; none where there is none.
fn last_batch(log: &Log) -> Result<Option<LastBatch>> {
    let Some((base, _)) = log.segments().filter(|(_, size)| *size > 0).last() else { return Ok(None) };
    let mut last = None;
    let mut at = base.max(log.start());
    // The index finds the place of an offset; from there on batch follows batch.
    while at < log.end() {
        let slice = log.read(at, TAIL_BYTES, log.end(), true)?;
        let mut found = None;
        for batch in batches(slice.read()?) {
            found = Some(batch?);
        }
        let Some(batch) = found else { break };
        at = batch.next_offset();
        last = Some(LastBatch::from(&batch));
    }
    Ok(last)
}

/// Replicas as a sink.
struct DirectorySink {
    replicas: HashMap<TopicPartition, Replica>,
    force: bool,
}

impl DirectorySink {
    fn replica(&self, partition: &TopicPartition) -> Result<&Replica> {
        let missing = || Error::new(ErrorKind::Internal, format!("no directory was chosen partition={partition}"));
        self.replicas.get(partition).ok_or_else(missing)
    }

    fn refuse<T>(partition: &TopicPartition, what: &str) -> Result<T> {
        let message = format!(
            "the directory holds records that the snapshot has not, they would be lost (--force gives them up) \
             partition={partition} {what}"
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// What is to be done, from what is there. Nothing is written.
    async fn plan(&self, source: &SnapshotSource, cut: &Cut<'_>, assignments: &[Assignment]) -> Result<Vec<Planned>> {
        let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
        let ends = self.ends(&names).await?;
        if !self.force {
            agree(cut, self, assignments).await?;
        }
        let mut planned = Vec::with_capacity(assignments.len());
        for (Assignment { partition, bounds, .. }, end) in assignments.iter().zip(ends) {
            let topic = source.manifests().get(&*partition.topic);
            let reference = topic.and_then(|topic| topic.partitions.get(partition.partition as usize));
            let all = reference.map_or(0, |reference| (reference.end - reference.start).max(1).unsigned_abs());
            let share = |offsets: i64| {
                let bytes = reference.map_or(0, |reference| reference.bytes);
                (u128::from(bytes) * u128::from(offsets.max(0).unsigned_abs()) / u128::from(all.max(1))) as u64
            };
            let bytes = share(bounds.end - bounds.start);
            let mut plan = Planned {
                partition: partition.clone(),
                start: bounds.start,
                end: bounds.end,
                bytes,
                seconds: 0,
                note: None,
            };
            if let Some(end) = end {
                let ours =
                    reference.filter(|reference| reference.end == bounds.end).and_then(|reference| reference.last);
                let same_end = ours.zip(end.last);
                let differs = same_end.is_some_and(|(ours, theirs)| {
                    end.end == bounds.end && (ours.crc, ours.base_offset) != (theirs.crc, theirs.base_offset)
                });
                if end.end > bounds.end || differs {
                    if !self.force {
                        Self::refuse(partition, &format!("end={} snapshot_end={}", end.end, bounds.end))?;
                    }
                    plan.note = Some(format!("emptied first, offsets up to {} are given up", end.end));
                } else if self.replica(partition)?.with_log(|log| Ok(log.start()))? > bounds.start {
                    plan.note = Some("emptied first, its beginning is missing".to_owned());
                } else {
                    plan.start = end.end;
                    plan.bytes = share(bounds.end - end.end);
                }
            }
            planned.push(plan);
        }
        Ok(planned)
    }

    /// Empties what the plan says is emptied.
    fn clear(&self, planned: &[Planned], assignments: &[Assignment]) -> Result<()> {
        for (plan, assignment) in planned.iter().zip(assignments) {
            if plan.note.is_some() {
                self.replica(&assignment.partition)?.with_log(|log| log.reset(0))?;
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        for replica in self.replicas.values() {
            if let Some(log) = &mut *lock(&replica.log) {
                log.close().run()?;
            }
        }
        Ok(())
    }

    /// Brings the lines of these partitions in the roots' checkpoints to what their logs are.
    fn write_checkpoints(&self, broker: &Broker) -> Result<()> {
        for home in &broker.homes {
            let device = home.device();
            let [mut starts, mut ends, mut watermarks, mut cleaned] = [
                read_checkpoint(device, LOG_STARTS)?,
                read_checkpoint(device, RECOVERY_POINTS)?,
                read_checkpoint(device, HIGH_WATERMARKS)?,
                read_checkpoint(device, CLEANER_OFFSETS)?,
            ];
            for replica in self.replicas.values().filter(|replica| Arc::ptr_eq(&replica.files, &home.files)) {
                let open = lock(&replica.log);
                let (Some(log), Some(key)) = (&*open, replica.key()) else { continue };
                starts.remove(&key);
                cleaned.remove(&key);
                if log.segments().next().is_some_and(|(base, _)| base < log.start()) {
                    starts.insert(key.clone(), log.start());
                }
                ends.insert(key.clone(), log.end());
                watermarks.insert(key, log.end());
            }
            for (path, offsets) in [
                (LOG_STARTS, starts),
                (RECOVERY_POINTS, ends),
                (HIGH_WATERMARKS, watermarks),
                (CLEANER_OFFSETS, cleaned),
            ] {
                device.replace(path, checkpoint_of(&offsets).as_bytes())?;
            }
        }
        Ok(())
    }
}

impl Sink for DirectorySink {
    fn ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<SinkEnd>>>> {
        let ends = partitions.iter().map(|partition| self.replica(partition)?.end()).collect();
        futures::future::ready(ends).boxed()
    }

    fn begin<'a>(&'a self, partition: &'a TopicPartition, start: i64, hole: Option<Hole>) -> BoxFuture<'a, Result<()>> {
        async move {
            if let Some(Hole { start, end }) = hole {
                log::warn!(
                    "the backup lacks what comes after the log's end partition={partition} offsets={start}..{end}"
                );
            }
            *lock(&self.replica(partition)?.begun) = Some(start);
            Ok(())
        }
        .boxed()
    }

    fn truncate<'a>(&'a self, partition: &'a TopicPartition, to: EpochEnd) -> BoxFuture<'a, Result<Option<SinkEnd>>> {
        async move {
            if !self.force {
                return Self::refuse(partition, &format!("offset={}", to.end));
            }
            let replica = self.replica(partition)?;
            replica.with_log(|log| {
                let ours = log.epochs().end_offset_for(to.leader_epoch, log.end()).map_or(to.end, |(_, end)| end);
                log.truncate(to.end.min(if replica.keeps_epochs { ours } else { to.end }))
            })?;
            replica.end()
        }
        .boxed()
    }

    fn write<'a>(&'a self, partition: &'a TopicPartition, run: Run) -> BoxFuture<'a, Result<()>> {
        async move {
            let replica = self.replica(partition)?;
            let begun = lock(&replica.begun).take();
            let written: Vec<Batch> = match replica.keeps_epochs {
                true => run.into_batches(),
                false => run.batches().iter().map(|batch| batch.stamped(batch.base_offset(), 0)).collect(),
            };
            replica.with_log(|log| {
                if let (Some(start), Some(first)) = (begun, written.first()) {
                    log.reset(start.min(first.base_offset()))?;
                }
                log.append_copy(&written, replica.now)?;
                // Batches are not cut, but what lies below is not there.
                begun.map_or(Ok(()), |start| log.set_start(start))
            })
        }
        .boxed()
    }

    fn finish<'a>(&'a self, partition: &'a TopicPartition, bounds: Bounds) -> BoxFuture<'a, Result<()>> {
        async move {
            let replica = self.replica(partition)?;
            let begun = lock(&replica.begun).take();
            replica.with_log(|log| {
                if let Some(start) = begun {
                    log.reset(start)?;
                }
                log.set_start(bounds.start.min(log.end()))?;
                log.sync_point().run()
            })
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "log_directory_tests.rs"]
mod tests;
