//! What lies in the broker's directory: its topics at a start, also those that came from elsewhere, and Kafka's checkpoints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::Leader;
use super::partition::{Partition, PartitionId};
use super::stored::{Change, METADATA_TOPIC, StoredTopic};
use super::topics::{Topic, check_topic_name, is_internal, offsets_configs};
use super::{Broker, Durability, OFFSETS_TOPIC, Then};
use crate::log::{Checkpoints, Log};
use crate::storage::Device;
use crate::{Error, ErrorKind, Result, Timestamp};

/// Kafka's file of the offsets below which everything was synced.
pub(crate) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";

/// Kafka's file of the offsets below which logs are compacted.
pub(crate) const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";

/// Kafka's file of the high watermarks, below which readers see records.
pub(crate) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";

/// Kafka's file of the log start offsets that lie inside a segment.
pub(crate) const LOG_STARTS: &str = "log-start-offset-checkpoint";

/// Writes Kafka's checkpoints: one writer at a time, and nothing that is older than what was written last.
#[derive(Debug)]
pub(super) struct CheckpointWriter {
    device: Arc<dyn Device>,
    /// The number of what was written last.
    written: Mutex<u64>,
}

impl CheckpointWriter {
    pub(super) fn new(device: Arc<dyn Device>) -> Self {
        Self { device, written: Mutex::new(0) }
    }

    /// Writes files, unless some with a higher number are written already. Waits for the device.
    pub(super) fn write(&self, number: u64, files: &[(&str, String)]) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if number <= *written {
            return Ok(());
        }
        for (path, text) in files {
            let replaced = self.device.replace(path, text.as_bytes());
            replaced.map_err(|error| Error::from(error).context(format_args!("writing a checkpoint file={path}")))?;
        }
        *written = number;
        Ok(())
    }
}

/// What the files in the root of a log directory tell of its logs.
#[derive(Debug, Default)]
pub(super) struct RootCheckpoints {
    /// Whether the broker was closed.
    clean: bool,
    starts: BTreeMap<(String, i32), i64>,
    recovery_points: BTreeMap<(String, i32), i64>,
    cleaner_offsets: BTreeMap<(String, i32), i64>,
    high_watermarks: BTreeMap<(String, i32), i64>,
}

impl Broker {
    /// Opens every stored topic, and adopts directories of topics that are not stored.
    pub(super) fn open_topics(&mut self, dirs: &[String], clean: bool, now: Timestamp) -> Result<()> {
        let stored: Vec<(String, StoredTopic)> = self
            .stored
            .below::<StoredTopic>("topic/")
            .map(|entry| entry.map(|(name, topic)| (name.to_owned(), topic)))
            .collect::<Result<_>>()?;
        let mut known: BTreeMap<String, StoredTopic> = stored.into_iter().collect();
        for name in known.keys() {
            check_topic_name(name).map_err(|reason| Error::new(ErrorKind::Corrupt, reason))?;
        }
        let deleted: BTreeMap<Uuid, String> = self
            .stored
            .below::<String>("deleted/")
            .filter_map(|entry| entry.ok().and_then(|(id, name)| Some((Uuid::parse_str(id).ok()?, name))))
            .collect();
        let mut leftovers: BTreeMap<Uuid, Vec<String>> = deleted.keys().map(|id| (*id, Vec::new())).collect();
        let mut adopted = Vec::new();
        for dir in dirs {
            if let Some(dirs) = dir
                .strip_suffix("-delete")
                .and_then(|name| name.rsplit_once('.'))
                .and_then(|(_, id)| Uuid::parse_str(id).ok())
                .and_then(|id| leftovers.get_mut(&id))
            {
                dirs.push(dir.clone());
                continue;
            }
            let Some((topic, partition)) = parse_dir(dir) else { continue };
            if topic == METADATA_TOPIC || topic.starts_with("__cluster_metadata") {
                continue;
            }
            // A power cut may have taken the id, but not what is known of the deletion.
            let id = read_topic_id(&*self.device, dir)?.or_else(|| {
                let unknown = !known.contains_key(topic);
                deleted.iter().find(|(_, name)| unknown && *name == topic).map(|(id, _)| *id)
            });
            if let Some(dirs) = id.and_then(|id| leftovers.get_mut(&id)) {
                dirs.push(dir.clone());
                continue;
            }
            match known.get_mut(topic) {
                Some(stored) if partition < stored.partitions => {}
                Some(stored) => {
                    stored.partitions = partition.saturating_add(1).min(self.config.max_partitions);
                    adopted.push(topic.to_owned());
                }
                None if !self.holds_log(dir)? => log::warn!("a directory is passed over, it holds no log dir={dir}"),
                None if partition < self.config.max_partitions => {
                    let configs = if topic == OFFSETS_TOPIC {
                        offsets_configs(self.config.offsets_topic_segment_bytes)
                    } else {
                        BTreeMap::new()
                    };
                    let id = match id {
                        Some(id) => id,
                        None => self.random_uuid(),
                    };
                    let stored =
                        StoredTopic { id, partitions: partition + 1, replication_factor: 1, configs, copy: false };
                    known.insert(topic.to_owned(), stored);
                    adopted.push(topic.to_owned());
                }
                None => log::warn!("a directory is passed over, its partition number is too large dir={dir}"),
            }
        }
        let checkpoints = RootCheckpoints {
            clean,
            starts: read_checkpoint(&*self.device, LOG_STARTS)?,
            recovery_points: read_checkpoint(&*self.device, RECOVERY_POINTS)?,
            cleaner_offsets: read_checkpoint(&*self.device, CLEANER_OFFSETS)?,
            high_watermarks: read_checkpoint(&*self.device, HIGH_WATERMARKS)?,
        };
        for (name, stored) in &known {
            if let Err(error) = self.open_topic(name, stored, &checkpoints, now) {
                // One damaged log must not keep the others from being served; its own is left as it is.
                log::error!("a topic cannot be served topic={name}: {error}");
                self.take_offline(name, &error);
            }
        }
        adopted.sort_unstable();
        adopted.dedup();
        let changes = adopted
            .iter()
            .map(|name| Change::set(format!("topic/{name}"), &known[name]))
            .collect::<Result<Vec<_>>>()?;
        self.remember(changes, now)?;
        for (topic_id, dirs) in leftovers {
            self.complete(Then::TopicDeleted { topic_id, dirs });
        }
        Ok(())
    }

    pub(super) fn open_topic(
        &mut self,
        name: &str,
        stored: &StoredTopic,
        checkpoints: &RootCheckpoints,
        now: Timestamp,
    ) -> Result<()> {
        let name: Arc<str> = name.into();
        let topic = Topic {
            id: stored.id,
            replication_factor: stored.replication_factor,
            configs: stored.configs.clone(),
            partitions: Vec::new(),
            internal: is_internal(&name),
            copy: stored.copy,
        };
        self.topic_names.insert(topic.id, Arc::clone(&name));
        self.topics.insert(Arc::clone(&name), topic);
        for index in 0..stored.partitions {
            let start = self.stored.get::<i64>(&format!("start/{}/{index}", stored.id))?;
            let told_start = checkpoints.starts.get(&(name.to_string(), index)).copied().unwrap_or(0);
            // A copy may have been cut below what was written, unless that was at its close.
            let told = |offsets: &BTreeMap<(String, i32), i64>| match offsets.get(&(name.to_string(), index)) {
                Some(offset) if checkpoints.clean || !stored.copy => *offset,
                _ => 0,
            };
            let recovery_point = if checkpoints.clean { i64::MAX } else { told(&checkpoints.recovery_points) };
            let compacted_to = told(&checkpoints.cleaner_offsets);
            let high_watermark = checkpoints.high_watermarks.get(&(name.to_string(), index)).copied().unwrap_or(0);
            let checkpoints = Checkpoints { start: start.unwrap_or(0), recovery_point };
            let id = self.open_partition(&name, index, checkpoints, now)?;
            if stored.copy && self.stored.get::<Leader>("leader")?.is_some() {
                // A follower has records that its leader shows nobody yet.
                let partition = self.partition_mut(id);
                partition.set_limit(high_watermark.min(partition.log.end()));
            }
            let log = &mut self.partition_mut(id).log;
            log.set_compacted_to(compacted_to);
            // Nobody guards that file; it may hide records, but not make us drop a log that ends before.
            match told_start {
                start if start <= log.end() => log.set_start(start)?,
                start => {
                    log::warn!("a log start offset above the log's end is not used log={} start={start}", log.dir())
                }
            }
        }
        Ok(())
    }

    /// Sets a topic aside whose logs cannot all be opened.
    fn take_offline(&mut self, name: &str, error: &Error) {
        if let Some(topic) = self.topics.remove(name) {
            self.topic_names.remove(&topic.id);
            for id in topic.partitions {
                self.partitions[id.0] = None;
            }
        }
        self.offline.insert(name.to_owned(), format!("the topic's log cannot be opened topic={name}: {error}"));
        if error.kind() == ErrorKind::Full {
            self.without_room.insert(name.to_owned());
        } else {
            self.without_room.remove(name);
        }
    }

    /// Tries the topics again for which the device had no room when they were opened: recovery writes indexes.
    pub(super) fn reopen_without_room(&mut self, now: Timestamp) {
        for name in std::mem::take(&mut self.without_room) {
            let reopened = self.stored.get::<StoredTopic>(&format!("topic/{name}")).and_then(|stored| match stored {
                Some(stored) => self.open_topic(&name, &stored, &RootCheckpoints::default(), now),
                None => Ok(()),
            });
            match reopened {
                Ok(()) => {
                    log::warn!("there is room again, the topic is served topic={name}");
                    self.offline.remove(&name);
                    let opened = self.topics.get(name.as_str()).map(|topic| topic.partitions.clone());
                    self.moved.extend(opened.into_iter().flatten());
                    if name == OFFSETS_TOPIC
                        && !self.is_following()
                        && let Err(error) = self.replay_groups(now)
                    {
                        log::error!("committed offsets cannot be read: {error}");
                    }
                }
                Err(error) => self.take_offline(&name, &error),
            }
        }
    }

    pub(super) fn open_partition(
        &mut self,
        name: &Arc<str>,
        index: i32,
        checkpoints: Checkpoints,
        now: Timestamp,
    ) -> Result<PartitionId> {
        let topic = &self.topics[name];
        let config = topic.config(&self.config.topic_defaults);
        let log_config = topic.log_config(&self.config.topic_defaults);
        let durability = config.durability().unwrap_or(self.config.durability);
        let (topic_id, copy) = (topic.id, topic.copy);
        let dir = format!("{name}-{index}");
        let (log, recovery) = Log::open(&self.files, &dir, log_config, checkpoints, now)
            .map_err(|error| error.context(format_args!("opening partition={dir}")))?;
        let synced_end = if recovery.is_clean() { checkpoints.recovery_point } else { log.start() };
        if !recovery.is_clean() {
            log::warn!("recovered partition={dir}: {recovery}");
            self.recovered.push((dir.clone(), recovery));
        }
        write_topic_id(&*self.device, &dir, topic_id)?;
        let id = PartitionId(self.partitions.len());
        let waits_for_sync = self.device.is_durable() && durability == Durability::Sync;
        let mut partition = Partition::new(Arc::clone(name), index, log, self.leader_epoch, waits_for_sync, synced_end);
        if copy {
            partition.set_limit(partition.log.end());
        }
        self.partitions.push(Some(partition));
        if let Some(topic) = self.topics.get_mut(name) {
            topic.partitions.push(id);
        }
        Ok(id)
    }

    /// Whether a directory has a segment in it.
    fn holds_log(&self, dir: &str) -> Result<bool> {
        Ok(self.device.list(dir)?.iter().any(|entry| !entry.is_dir && entry.name.ends_with(".log")))
    }

    /// Kafka's checkpoint of what is compacted.
    fn cleaner_offsets(&self) -> String {
        let offsets = self.partitions.iter().flatten().map(|partition| (partition, partition.log.compacted_to()));
        checkpoint_text(offsets.filter(|(_, offset)| *offset > 0))
    }

    /// Writes the checkpoints of Kafka's log directory, so that Kafka finds the same starts and high watermarks.
    pub(super) fn write_checkpoints(&self) -> Result<()> {
        let all = || self.partitions.iter().flatten();
        let first = |partition: &Partition| partition.log.segments().next().map_or(0, |(base, _)| base);
        let starts = all()
            .filter(|partition| partition.log.start() > first(partition))
            .map(|partition| (partition, partition.log.start()));
        let ends = all().map(|partition| (partition, partition.log.end()));
        let watermarks = all().map(|partition| (partition, partition.high_watermark()));
        let files = [
            (LOG_STARTS, checkpoint_text(starts)),
            (RECOVERY_POINTS, checkpoint_text(ends)),
            (CLEANER_OFFSETS, self.cleaner_offsets()),
            (HIGH_WATERMARKS, checkpoint_text(watermarks)),
        ];
        // A task that is under way still writes nothing after this.
        self.checkpoint_writer.write(u64::MAX, &files)
    }

    /// The checkpoints that are written while the broker runs.
    pub(super) fn checkpoint_texts(&self) -> [(&'static str, String); 3] {
        let all = || self.partitions.iter().flatten();
        let points = all().map(|partition| (partition, partition.synced_end()));
        let watermarks = all().map(|partition| (partition, partition.high_watermark()));
        [
            (RECOVERY_POINTS, checkpoint_text(points)),
            (CLEANER_OFFSETS, self.cleaner_offsets()),
            (HIGH_WATERMARKS, checkpoint_text(watermarks)),
        ]
    }

    /// Writes them now, and waits for the device.
    pub(super) fn checkpoint_now(&mut self) -> Result<()> {
        let texts = self.checkpoint_texts();
        self.checkpoint_number += 1;
        self.checkpoint_writer.write(self.checkpoint_number, &texts)?;
        self.checkpoints = texts;
        Ok(())
    }
}

fn checkpoint_text<'a>(offsets: impl Iterator<Item = (&'a Partition, i64)>) -> String {
    let offsets = offsets.map(|(partition, offset)| ((partition.topic.to_string(), partition.index), offset));
    checkpoint_of(&offsets.collect())
}

/// The topic id that a partition's directory tells in Kafka's `partition.metadata`, if there is one.
pub(crate) fn read_topic_id(device: &dyn Device, dir: &str) -> Result<Option<Uuid>> {
    let path = format!("{dir}/partition.metadata");
    if !device.exists(&path)? {
        return Ok(None);
    }
    let bytes = device.read(&path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().find_map(|line| line.strip_prefix("topic_id: ")).and_then(|id| uuid_from_text(id.trim())))
}

/// Says in a partition's directory which topic it is of, unless that is said.
pub(crate) fn write_topic_id(device: &dyn Device, dir: &str, topic_id: Uuid) -> Result<()> {
    let path = format!("{dir}/partition.metadata");
    if !device.exists(&path)? {
        let text = format!("version: 0\ntopic_id: {}\n", uuid_text(topic_id));
        device.create(&path)?.append(&[text.as_bytes()])?;
    }
    Ok(())
}

/// One of Kafka's checkpoints of a log directory: an offset for each topic and partition.
pub(crate) fn read_checkpoint(device: &dyn Device, path: &str) -> Result<BTreeMap<(String, i32), i64>> {
    if !device.exists(path)? {
        return Ok(BTreeMap::new());
    }
    let bytes = device.read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .lines()
        .skip(2)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
            Some(((topic.to_owned(), partition.parse().ok()?), offset.parse().ok()?))
        })
        .collect())
}

/// The text of one of Kafka's checkpoints: version, count, and a line for each partition.
pub(crate) fn checkpoint_of(offsets: &BTreeMap<(String, i32), i64>) -> String {
    let lines: Vec<String> =
        offsets.iter().map(|((topic, partition), offset)| format!("{topic} {partition} {offset}\n")).collect();
    format!("0\n{}\n{}", lines.len(), lines.concat())
}

/// A topic id as Kafka writes it: URL-safe base64 without padding.
pub(crate) fn uuid_text(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    (0..22)
        .map(|at| {
            let shift = 122 - 6 * at;
            let sextet = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(ALPHABET[(sextet & 63) as usize])
        })
        .collect()
}

/// The reverse of [`uuid_text`].
pub(crate) fn uuid_from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0_u128;
    for (at, byte) in text.bytes().enumerate() {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        let shift = 122 - 6 * i32::try_from(at).ok()?;
        bits |= if shift >= 0 { u128::from(sextet) << shift } else { u128::from(sextet) >> -shift };
    }
    Some(Uuid::from_u128(bits))
}

/// The topic and partition that a directory's name stands for.
pub(super) fn parse_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, index) = name.rsplit_once('-')?;
    let partition = index.parse::<i32>().ok().filter(|partition| *partition >= 0)?;
    (check_topic_name(topic).is_ok() && partition.to_string() == index).then_some((topic, partition))
}
