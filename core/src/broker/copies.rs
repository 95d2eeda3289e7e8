//! Topics that are copies of a source's: their batches come with their offsets, by calls that no wire reaches.
//!
//! A copy takes no produce requests and shows readers no more than its source did ([`Broker::raise_high_watermark`]), until
//! it is promoted to a topic of this broker's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::config::check_topic_value;
use super::partition::PartitionId;
use super::stored::{Change, ReplicaOf, StoredHole, StoredTopic};
use super::topics::{check_topic_name, is_internal};
use super::{Broker, OFFSETS_TOPIC, RequestId};
use crate::log::Checkpoints;
use crate::record::Batch;
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many holes of a partition are remembered: the latest.
const MAX_HOLES: usize = 100;
/// Where it is remembered what the copies here are of.
const REPLICA_KEY: &str = "replica";

/// A copy, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The topic's name.
    pub name: String,
    /// The source's topic id; nil when it has none, and the copy gets one of its own.
    pub id: Uuid,
    /// How many partitions it has.
    pub partitions: i32,
    /// The options set on the topic itself. Those that this broker does not know are left out, with a warning.
    pub configs: BTreeMap<String, String>,
}

/// Where a log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyEnd {
    /// The log start offset.
    pub start: i64,
    /// The log end offset.
    pub end: i64,
    /// The leader epoch of the last batch; -1 when there is none.
    pub leader_epoch: i32,
    /// Bytes of its batches.
    pub bytes: u64,
}

impl Broker {
    /// Makes a copy. A topic that is there under that id becomes a copy again: partitions are added, options set and removed,
    /// and what its logs hold stays.
    ///
    /// # Errors
    /// `AlreadyExists` if there is another topic of that name: one with another id.
    pub fn create_copy(&mut self, copy: &Copy, now: Timestamp) -> Result<()> {
        let name = copy.name.as_str();
        check_topic_name(name).map_err(|reason| Error::new(ErrorKind::Invalid, reason))?;
        // The committed offsets of a cluster are its leader's, and only its members' to have.
        let is_offsets = name == OFFSETS_TOPIC && self.is_following();
        if is_internal(name) && !is_offsets {
            return Err(Error::new(ErrorKind::Invalid, format!("an internal topic cannot be a copy topic={name}")));
        }
        if is_offsets && self.topics.get(name).is_some_and(|topic| topic.id != copy.id) {
            self.remove_topic(name, now)?;
        }
        if let Some(why) = self.offline.get(name) {
            return Err(Error::new(ErrorKind::Corrupt, why.clone()));
        }
        if copy.partitions < 1 || copy.partitions > self.config.max_partitions {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a topic has 1 to {} partitions topic={name} partitions={}",
                    self.config.max_partitions, copy.partitions
                ),
            ));
        }
        let mut configs = copy.configs.clone();
        configs.retain(|option, value| match check_topic_value(option, value) {
            Ok(()) => true,
            Err(reason) => {
                log::warn!("an option of the source's is left out topic={name}: {reason}");
                false
            }
        });
        let Some(topic) = self.topics.get(name) else {
            let id = if copy.id.is_nil() { self.random_uuid() } else { copy.id };
            let stored = StoredTopic { id, partitions: copy.partitions, replication_factor: 1, configs, copy: true };
            return self.create_stored(name, stored, now);
        };
        if topic.id != copy.id && !(copy.id.is_nil() && topic.copy) {
            let what = if topic.copy {
                "the copy here is of another topic of that name, which was deleted and made anew at its source; start over \
                 (replicate --recreated restart) or choose another place"
            } else {
                "another topic of that name is here, delete it or choose another place"
            };
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{what} topic={name} topic_id={} source_topic_id={}", topic.id, copy.id),
            ));
        }
        if !topic.copy {
            let stored = StoredTopic { copy: true, ..topic.stored() };
            let ids = topic.partitions.clone();
            self.remember(vec![Change::set(format!("topic/{name}"), &stored)?], now)?;
            for id in ids {
                let partition = self.partition_mut(id);
                partition.set_limit(partition.high_watermark());
            }
            if let Some(topic) = self.topics.get_mut(name) {
                topic.copy = true;
            }
        }
        let Some(topic) = self.topics.get(name) else { return Err(not_found(name)) };
        let before = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if copy.partitions > before {
            let stored = StoredTopic { partitions: copy.partitions, ..topic.stored() };
            let name: Arc<str> = name.into();
            self.remember(vec![Change::set(format!("topic/{name}"), &stored)?], now)?;
            for index in before..copy.partitions {
                self.open_partition(&name, index, Checkpoints::default(), now)?;
            }
        }
        self.set_configs(name, configs, false, now).map_err(|(code, message)| Error::from_code(code, message))?;
        self.settle(now);
        Ok(())
    }

    /// Removes a copy, if it is there.
    ///
    /// # Errors
    /// `Invalid` if the topic is no copy.
    pub fn delete_copy(&mut self, name: &str, now: Timestamp) -> Result<()> {
        match self.topics.get(name) {
            None => Ok(()),
            Some(topic) if !topic.copy => Err(no_copy(name)),
            Some(_) => {
                self.remove_topic(name, now)?;
                self.settle(now);
                Ok(())
            }
        }
    }

    /// Makes copies topics of this broker's own, which take produce requests, under a leader epoch above all of theirs.
    /// Topics that are no copies stay as they are. Waits for the device.
    ///
    /// # Errors
    /// `NotFound` if there is no such topic; nothing is changed then, nor if the recovery points cannot be written.
    pub fn promote_copies(&mut self, names: &[String], now: Timestamp) -> Result<()> {
        let mut any = false;
        for name in names {
            any |= self.topics.get(name.as_str()).ok_or_else(|| not_found(name))?.copy;
        }
        if any {
            self.take_the_lead(names, Vec::new(), now)?;
            self.settle(now);
        }
        Ok(())
    }

    /// Begins a new term as the leader of `names`, which are there; `changes` are remembered with it.
    pub(super) fn take_the_lead(&mut self, names: &[String], mut changes: Vec<Change>, now: Timestamp) -> Result<()> {
        let mut ids = Vec::new();
        for name in names {
            let Some(topic) = self.topics.get(name.as_str()).filter(|topic| topic.copy) else { continue };
            let stored = StoredTopic { copy: false, ..topic.stored() };
            changes.push(Change::set(format!("topic/{name}"), &stored)?);
            ids.extend_from_slice(&topic.partitions);
        }
        if self.device.is_durable() {
            // What was written of a copy may be above where it was cut since; of a topic it is believed.
            self.checkpoint_now()?;
        }
        let epoch = self.next_term();
        changes.push(Change::set("leader-epoch", &epoch)?);
        self.remember(changes, now)?;
        if self.device.is_durable() {
            // The new epoch is durable before the first append under it (Decision 1), and before anybody is told.
            let point = self.partition(self.metadata).log.sync_point();
            let end = point.end();
            point.run()?;
            let metadata = self.metadata;
            self.partition_mut(metadata).note_synced(end);
            self.moved.insert(metadata);
        }
        self.set_leader_epoch(epoch);
        for name in names {
            let Some(topic) = self.topics.get_mut(name.as_str()) else { continue };
            topic.copy = false;
            let (log_config, partitions) = (topic.log_config(&self.config.topic_defaults), topic.partitions.clone());
            for id in partitions {
                self.partition_mut(id).log.update_config(log_config.clone());
            }
        }
        for id in ids {
            self.partition_mut(id).lift_limit();
            self.moved.insert(id);
        }
        Ok(())
    }

    /// The copies here, in the order of their names.
    pub fn copies(&self) -> Vec<Copy> {
        self.topics
            .iter()
            .filter(|(_, topic)| topic.copy)
            .map(|(name, topic)| Copy {
                name: name.to_string(),
                id: topic.id,
                partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
                configs: topic.configs.clone(),
            })
            .collect()
    }

    /// Where a log begins and ends; `None` if there is no such partition, or it has nothing and never had.
    pub fn log_end(&self, topic: &str, partition: i32) -> Option<CopyEnd> {
        let log = &self.partition(self.find(topic, partition)?).log;
        (log.end() > 0).then(|| CopyEnd {
            start: log.start(),
            end: log.end(),
            leader_epoch: log.epochs().latest().unwrap_or(-1),
            bytes: log.size_bytes(),
        })
    }

    /// The epoch asked for, or the largest below it that the log has, and where it ends (KIP-101).
    pub fn epoch_end(&self, topic: &str, partition: i32, leader_epoch: i32) -> Option<(i32, i64)> {
        let log = &self.partition(self.find(topic, partition)?).log;
        log.epochs().end_offset_for(leader_epoch, log.end())
    }

    /// Appends batches as they are; offsets between the log's end and the first of them stay empty.
    ///
    /// # Errors
    /// See `Log::append_copy`; `Invalid` if the topic is no copy.
    pub fn append_copy(&mut self, topic: &str, partition: i32, batches: &[Batch], now: Timestamp) -> Result<()> {
        let id = self.copy(topic, partition)?;
        self.partition_mut(id).append_copy(batches, now)?;
        self.trace_copied(id, batches);
        if batches.iter().any(|batch| batch.producer_id() >= self.producer_ids.start) {
            self.pass_producer_ids(id);
        }
        self.moved.insert(id);
        self.settle(now);
        Ok(())
    }

    /// Cuts a copy back to the last batch boundary at or below `to`.
    ///
    /// # Errors
    /// See `Log::truncate`; `Invalid` if the topic is no copy.
    pub fn truncate_copy(&mut self, topic: &str, partition: i32, to: i64, now: Timestamp) -> Result<()> {
        let id = self.copy(topic, partition)?;
        let partition = self.partition_mut(id);
        partition.log.truncate(to)?;
        partition.after_truncation();
        self.moved.insert(id);
        self.settle(now);
        Ok(())
    }

    /// Drops everything of a copy; it then begins and ends at `start`. At 0 it begins anew, and has no holes.
    ///
    /// # Errors
    /// See `Log::reset`; `Invalid` if the topic is no copy.
    pub fn reset_copy(&mut self, topic: &str, index: i32, start: i64, now: Timestamp) -> Result<()> {
        let id = self.copy(topic, index)?;
        let topic_id = self.topics[topic].id;
        let mut changes = Vec::new();
        // First, or a start that was raised once would be raised again by the next opening.
        if self.stored.get::<i64>(&format!("start/{topic_id}/{index}"))?.is_some_and(|raised| raised > start) {
            changes.push(Change::remove(format!("start/{topic_id}/{index}")));
        }
        if start == 0 {
            changes.push(Change::remove(format!("holes/{topic_id}/{index}")));
        }
        self.remember(changes, now)?;
        let partition = self.partition_mut(id);
        partition.log.reset(start)?;
        partition.after_truncation();
        self.moved.insert(id);
        self.settle(now);
        Ok(())
    }

    /// Raises a copy's log start offset, if it is below `start`.
    ///
    /// # Errors
    /// See `Log::set_start`; `Invalid` if the topic is no copy.
    pub fn raise_start(&mut self, topic: &str, index: i32, start: i64, now: Timestamp) -> Result<()> {
        let id = self.copy(topic, index)?;
        let topic_id = self.topics[topic].id;
        let partition = self.partition_mut(id);
        if start > partition.log.start() {
            partition.log.set_start(start)?;
            partition.after_start_moved();
            self.remember(vec![Change::set(format!("start/{topic_id}/{index}"), &start)?], now)?;
            self.moved.insert(id);
            self.settle(now);
        }
        Ok(())
    }

    /// Remembers that a copy lacks the offsets from `start` to `end`. One that begins at the same offset takes the place of the
    /// one that was noted before.
    ///
    /// # Errors
    /// `Invalid` if the topic is no copy.
    pub fn note_hole(&mut self, topic: &str, index: i32, start: i64, end: i64, now: Timestamp) -> Result<()> {
        self.copy(topic, index)?;
        let key = format!("holes/{}/{index}", self.topics[topic].id);
        let mut holes: Vec<StoredHole> = self.stored.get(&key)?.unwrap_or_default();
        if holes.iter().any(|hole| hole.start == start && hole.end >= end) {
            return Ok(());
        }
        holes.retain(|hole| hole.start != start);
        holes.push(StoredHole { start, end, found_at: now });
        holes.drain(..holes.len().saturating_sub(MAX_HOLES));
        self.remember(vec![Change::set(key, &holes)?], now)?;
        self.settle(now);
        Ok(())
    }

    /// The offsets that a copy lacks although its source had them, the latest hundred, in the order in which they were found.
    ///
    /// # Errors
    /// `Corrupt` if what was remembered is unreadable.
    pub fn holes(&self, topic: &str, index: i32) -> Result<Vec<StoredHole>> {
        let Some(topic) = self.topics.get(topic) else { return Ok(Vec::new()) };
        Ok(self.stored.get(&format!("holes/{}/{index}", topic.id))?.unwrap_or_default())
    }

    /// What the copies here are of, if that was ever said.
    ///
    /// # Errors
    /// `Corrupt` if what was remembered is unreadable.
    pub fn replica_of(&self) -> Result<Option<ReplicaOf>> {
        self.stored.get(REPLICA_KEY)
    }

    /// Remembers what the copies here are of.
    ///
    /// # Errors
    /// What the device answers.
    pub fn set_replica_of(&mut self, of: &ReplicaOf, now: Timestamp) -> Result<()> {
        self.remember(vec![Change::set(REPLICA_KEY, of)?], now)?;
        self.settle(now);
        Ok(())
    }

    /// Lets consumers read below `high_watermark`, as far as the log is synced.
    ///
    /// # Errors
    /// `Invalid` if the topic is no copy.
    pub fn raise_high_watermark(
        &mut self,
        topic: &str,
        partition: i32,
        high_watermark: i64,
        now: Timestamp,
    ) -> Result<()> {
        let id = self.copy(topic, partition)?;
        self.partition_mut(id).raise_limit(high_watermark);
        self.moved.insert(id);
        self.settle(now);
        Ok(())
    }

    /// Answers `id` once everything that is in the partition now is synced, by [`Broker::poll_response`] with a Heartbeat
    /// response, which says nothing but a code. Returns the end that will be synced then.
    ///
    /// # Errors
    /// `NotFound` if there is no such partition; `Closed` if an earlier sync has failed.
    pub fn sync_copy(&mut self, id: RequestId, topic: &str, partition: i32, now: Timestamp) -> Result<i64> {
        let at = self.find(topic, partition).ok_or_else(|| not_found(topic))?;
        self.sync_partition(id, at, now)
    }

    /// Answers `id` once everything that the broker remembers of itself is synced; see [`Self::sync_copy`].
    ///
    /// # Errors
    /// `Closed` if an earlier sync has failed.
    pub fn sync_metadata(&mut self, id: RequestId, now: Timestamp) -> Result<i64> {
        self.sync_partition(id, self.metadata, now)
    }

    fn sync_partition(&mut self, id: RequestId, at: PartitionId, now: Timestamp) -> Result<i64> {
        let partition = self.partition(at);
        if partition.is_failed() {
            return Err(Error::new(
                ErrorKind::Closed,
                format!("an earlier sync failed partition={}-{}", partition.topic, partition.index),
            ));
        }
        let end = partition.log.end();
        self.partition_mut(at).wait_for_sync(end, id);
        self.moved.insert(at);
        self.settle(now);
        Ok(end)
    }

    fn copy(&self, topic: &str, partition: i32) -> Result<PartitionId> {
        match self.topics.get(topic) {
            Some(found) if found.copy => {}
            Some(_) => return Err(no_copy(topic)),
            None => return Err(not_found(topic)),
        }
        self.find(topic, partition)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no such partition partition={topic}-{partition}")))
    }
}

fn no_copy(topic: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the topic is no copy, it takes records by produce alone topic={topic}"))
}

fn not_found(topic: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such topic topic={topic}"))
}
