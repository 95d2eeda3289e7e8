//! What was promised and what was seen, and whether the logs keep to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::executor::Owner;
use crate::client::{FetchedBatch, TopicPartition};
use crate::protocol::messages::{FetchRequest, FetchResponse, ProduceRequest, ProduceResponse};
use crate::record::{Batch, Limits};
use crate::storage::memory::{Loss, MemoryDevice};

/// A record: who sent it, and its number among those of that sender. Numbers of one sender rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordId {
    /// Which of the topics of that name it was sent to, by order of creation.
    pub(super) creation: u32,
    pub(super) sender: u32,
    pub(super) number: u32,
}

impl RecordId {
    /// A value of the record: its id, and bytes that make it `size` long.
    pub(super) fn value(self, size: usize) -> Vec<u8> {
        let mut value = Vec::with_capacity(12 + size);
        for part in [self.creation, self.sender, self.number] {
            value.extend_from_slice(&part.to_be_bytes());
        }
        value.resize(12 + size, (self.number % 251) as u8);
        value
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
        let id = Self { creation: number(0)?, sender: number(4)?, number: number(8)? };
        let padding = (id.number % 251) as u8;
        value[12..].iter().all(|byte| *byte == padding).then_some(id)
    }
}

/// All that is known of a partition, in one of its topic's creations.
#[derive(Debug, Default)]
struct Known {
    /// What stands at an offset for good: somebody has read it, or its sender was told.
    fixed: BTreeMap<i64, RecordId>,
    /// What was acknowledged by all, and where if that was said.
    acknowledged: BTreeMap<RecordId, i64>,
    /// The largest log start that somebody asked for.
    start: i64,
}

/// What was promised and what was seen. What is wrong with it is kept in [`Self::broken`].
#[derive(Debug, Default)]
pub(super) struct History {
    known: BTreeMap<(TopicPartition, u32), Known>,
    /// The high watermark as one connection last heard of it.
    told: BTreeMap<(u64, TopicPartition), i64>,
    /// The largest high watermark that a broker has told readers of, since it was started.
    watermarks: BTreeMap<(Owner, TopicPartition), i64>,
    /// Senders that may have sent twice, or out of order.
    pub(super) careless: BTreeSet<u32>,
    /// Each rule that was broken, in words.
    pub(super) broken: Vec<String>,
    pub(super) reads: u64,
    pub(super) acknowledgements: u64,
}

/// A machine, for the checkers.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) number: usize,
    pub(super) owner: Owner,
    pub(super) is_up: bool,
    pub(super) device: MemoryDevice,
}

impl History {
    pub(super) fn break_rule(&mut self, what: String) {
        self.broken.push(what);
    }

    fn fix(&mut self, partition: &TopicPartition, offset: i64, id: RecordId, who: &str) {
        let known = self.known.entry((partition.clone(), id.creation)).or_default();
        let before = *known.fixed.entry(offset).or_insert(id);
        if before != id {
            self.break_rule(format!(
                "{who}: another record than before at {partition} offset={offset}: {id:?}, was {before:?}"
            ));
        }
    }

    /// A record was acknowledged with `acks=all`.
    pub(super) fn acknowledged(&mut self, partition: &TopicPartition, offset: i64, id: RecordId) {
        self.acknowledgements += 1;
        if offset >= 0 {
            self.fix(partition, offset, id, "acknowledged");
        }
        let known = self.known.entry((partition.clone(), id.creation)).or_default();
        known.acknowledged.insert(id, offset);
    }

    /// A reader has records.
    pub(super) fn read(&mut self, reader: &str, batch: &FetchedBatch) {
        for record in batch.iter() {
            let record = match record {
                Ok(record) => record,
                Err(error) => return self.break_rule(format!("{reader}: a record cannot be read: {error}")),
            };
            self.reads += 1;
            match record.value.and_then(RecordId::parse) {
                Some(id) => self.fix(&batch.partition, record.offset, id, reader),
                None => {
                    let at = format!("{} offset={}", batch.partition, record.offset);
                    self.break_rule(format!("{reader}: a record that nobody sent at {at}"));
                }
            }
        }
    }

    /// A reader that asks one broker alone has a batch, from `from` on.
    pub(super) fn read_batch(&mut self, reader: &str, partition: &TopicPartition, from: i64, batch: &Batch) {
        let read = batch.check_crc().and_then(|()| batch.records(Limits::MAX_DECOMPRESSED_BYTES));
        let records = match read {
            Ok(records) => records,
            Err(error) => return self.break_rule(format!("{reader}: a batch cannot be read at {partition}: {error}")),
        };
        for record in records.iter() {
            match record.map(|record| (record.offset, record.value.and_then(RecordId::parse))) {
                Ok((offset, _)) if offset < from => {}
                Ok((offset, Some(id))) => {
                    self.reads += 1;
                    self.fix(partition, offset, id, reader);
                }
                other => self.break_rule(format!("{reader}: a record that nobody sent at {partition}: {other:?}")),
            }
        }
    }

    /// Somebody asked for the records below `offset` to be deleted.
    pub(super) fn deleting(&mut self, partition: &TopicPartition, creation: u32, offset: i64) {
        let known = self.known.entry((partition.clone(), creation)).or_default();
        known.start = known.start.max(offset);
    }

    /// The leader was lost for good: of what was seen, only what was acknowledged by enough replicas has to be there still.
    pub(super) fn leader_lost(&mut self) {
        for known in self.known.values_mut() {
            let acknowledged: BTreeSet<RecordId> = known.acknowledged.keys().copied().collect();
            known.fixed.retain(|_, id| acknowledged.contains(id));
        }
        self.told.clear();
        self.watermarks.clear();
    }

    /// A broker has answered a fetch of a consumer's.
    pub(super) fn fetched(&mut self, owner: Owner, connection: u64, request: &FetchRequest, response: &FetchResponse) {
        if request.replica_id >= 0 {
            return;
        }
        for topic in &response.responses {
            for data in topic.partitions.iter().filter(|data| data.error_code.is_ok()) {
                let partition = TopicPartition::new(topic.topic.as_str(), data.partition_index);
                let high_watermark = data.high_watermark;
                let mut records = data.records.clone().unwrap_or_default();
                while let Ok(Some(batch)) = Batch::split(&mut records) {
                    if batch.next_offset() > high_watermark {
                        self.break_rule(format!(
                            "read past the high watermark at {partition}: {} to {} of {high_watermark}",
                            batch.base_offset(),
                            batch.next_offset()
                        ));
                    }
                }
                if *partition.topic != *super::STABLE {
                    continue;
                }
                let told = self.told.entry((connection, partition.clone())).or_insert(high_watermark);
                let before = std::mem::replace(told, high_watermark);
                if before > high_watermark {
                    self.break_rule(format!(
                        "the high watermark went back at {partition}: {before} to {high_watermark}"
                    ));
                }
                let largest = self.watermarks.entry((owner, partition)).or_insert(high_watermark);
                *largest = (*largest).max(high_watermark);
            }
        }
    }

    /// A broker has answered a produce request: what it acknowledges with `acks=all` is synced, by as many machines as the
    /// topic asks for. `wiped`: whether a machine has lost its disk lately, and with it the proof.
    pub(super) fn produced(
        &mut self,
        leader: usize,
        machines: &[Machine],
        min_insync: usize,
        wiped: bool,
        request: &ProduceRequest,
        response: &ProduceResponse,
    ) {
        if request.acks != -1 {
            return;
        }
        let mut synced: BTreeMap<usize, BTreeMap<String, Bytes>> = BTreeMap::new();
        for (topic, answers) in request.topic_data.iter().zip(&response.responses) {
            if topic.name != super::STABLE {
                continue;
            }
            for (data, answer) in topic.partition_data.iter().zip(&answers.partition_responses) {
                let Some(mut records) = data.records.clone() else { continue };
                let Ok(Some(batch)) = Batch::split(&mut records) else { continue };
                if !answer.error_code.is_ok() || answer.base_offset < 0 {
                    continue;
                }
                let directory = format!("{}-{}", topic.name, data.index);
                let (mut holders, mut ends) = (Vec::new(), Vec::new());
                for machine in machines {
                    let files =
                        synced.entry(machine.number).or_insert_with(|| machine.device.crash(Loss::Unsynced).files());
                    let batches = batches(files, &directory);
                    ends.push(batches.last().map(Batch::next_offset));
                    // Below where its log begins it was deleted.
                    let is_below = first_offset(files, &directory).is_some_and(|first| first > answer.base_offset);
                    let holds = |found: &Batch| found.base_offset() == answer.base_offset && found.crc() == batch.crc();
                    if is_below || batches.iter().any(holds) {
                        holders.push(machine.number);
                    }
                }
                if !holders.contains(&leader) || (holders.len() < min_insync && !wiped) {
                    self.break_rule(format!(
                        "acknowledged, but not synced where it should be at {directory} offset={}: synced on \
                         machines={holders:?} leader={leader} min.insync.replicas={min_insync} synced ends={ends:?}",
                        answer.base_offset
                    ));
                }
            }
        }
    }

    /// At any time: logs are whole, their epochs rise, and below a follower's high watermark it has what the leader has.
    pub(super) fn check_logs(&mut self, leader: usize, machines: &[Machine], partitions: i32) {
        let files: Vec<_> = machines.iter().map(|machine| (machine, machine.device.files())).collect();
        let Some((_, leaders)) = files.iter().find(|(machine, _)| machine.number == leader) else { return };
        for index in 0..partitions {
            let partition = TopicPartition::new(super::STABLE, index);
            let directory = partition.to_string();
            let leaders: BTreeMap<i64, Batch> =
                batches(leaders, &directory).into_iter().map(|batch| (batch.base_offset(), batch)).collect();
            for (machine, files) in &files {
                let batches = batches(files, &directory);
                if machine.is_up {
                    self.check_order(machine.number, &directory, &batches);
                }
                let Some(high_watermark) = self.watermarks.get(&(machine.owner, partition.clone())).copied() else {
                    continue;
                };
                if machine.number == leader {
                    continue;
                }
                // What was to be deleted goes in any order.
                let Some(start) = leaders.keys().next().map(|first| (*first).max(self.start_of(&partition))) else {
                    continue;
                };
                let below = batches.iter().filter(|batch| batch.next_offset() <= high_watermark);
                for batch in below.filter(|batch| batch.base_offset() >= start) {
                    if leaders.get(&batch.base_offset()) != Some(batch) {
                        self.break_rule(format!(
                            "machine {} has another batch than the leader below its high watermark {high_watermark} \
                             at {directory} offset={}",
                            machine.number,
                            batch.base_offset()
                        ));
                        break;
                    }
                }
            }
        }
    }

    /// The largest log start that somebody asked for, of any topic of that name.
    fn start_of(&self, partition: &TopicPartition) -> i64 {
        let known = self.known.iter().filter(|((known, _), _)| known == partition);
        known.map(|(_, known)| known.start).max().unwrap_or(0)
    }

    fn check_order(&mut self, machine: usize, directory: &str, batches: &[Batch]) {
        // Segments of records that were to be deleted may go in any order.
        let it = self.known.keys().map(|(partition, _)| partition).find(|partition| partition.to_string() == directory);
        let start = it.map_or(0, |partition| self.start_of(partition));
        for pair in batches.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            if second.base_offset() != first.next_offset() && second.base_offset() > start {
                self.break_rule(format!(
                    "machine {machine}: a gap at {directory}: {} to {}",
                    first.next_offset(),
                    second.base_offset()
                ));
            }
            if second.partition_leader_epoch() < first.partition_leader_epoch() {
                self.break_rule(format!(
                    "machine {machine}: leader epochs go back at {directory} offset={}: {} to {}",
                    second.base_offset(),
                    first.partition_leader_epoch(),
                    second.partition_leader_epoch()
                ));
            }
        }
    }

    /// In the end: the leader's log has all that was promised, once and in order, and the followers' are the same, byte for byte.
    /// `start` is where the leader says that the log begins.
    pub(super) fn check_end(
        &mut self,
        partition: &TopicPartition,
        creation: u32,
        start: i64,
        leader: usize,
        machines: &[Machine],
    ) {
        let directory = partition.to_string();
        let Some(found) = machines.iter().find(|machine| machine.number == leader) else { return };
        let log = batches(&found.device.files(), &directory);
        self.check_order(leader, &directory, &log);
        let end = log.last().map_or(start, Batch::next_offset);
        for machine in machines.iter().filter(|machine| machine.number != leader) {
            let copy = batches(&machine.device.files(), &directory);
            self.check_order(machine.number, &directory, &copy);
            // Records that were to be deleted may be there or not.
            let from = self.known.get(&(partition.clone(), creation)).map_or(start, |known| known.start.max(start));
            let at = |batches: &[Batch]| -> Vec<Batch> {
                batches.iter().filter(|batch| batch.next_offset() > from).cloned().collect()
            };
            let (copy, log) = (at(&copy), at(&log));
            if copy != log {
                let parted = copy.iter().zip(&log).position(|(copy, log)| copy != log);
                let ends = [&copy, &log].map(|batches| batches.last().map(Batch::next_offset));
                self.break_rule(format!(
                    "machine {} is not the same as the leader in the end at {directory}: ends={ends:?} from {from} \
                     first other batch={parted:?}",
                    machine.number
                ));
            }
        }

        let mut records: BTreeMap<i64, RecordId> = BTreeMap::new();
        for batch in &log {
            let read = batch.check_crc().and_then(|()| batch.records(Limits::MAX_DECOMPRESSED_BYTES));
            let read = match read {
                Ok(read) => read,
                Err(error) => return self.break_rule(format!("a batch cannot be read at {directory}: {error}")),
            };
            for record in read.iter() {
                match record.map(|record| (record.offset, record.value.and_then(RecordId::parse))) {
                    Ok((offset, Some(id))) => drop(records.insert(offset, id)),
                    other => return self.break_rule(format!("a record that nobody sent at {directory}: {other:?}")),
                }
            }
        }
        let known = self.known.remove(&(partition.clone(), creation)).unwrap_or_default();
        if start > known.start {
            self.break_rule(format!("more was deleted than asked for at {directory}: {start} of {}", known.start));
        }
        for (offset, id) in known.fixed.range(start..) {
            let is_deleted = *offset < known.start && !records.contains_key(offset);
            if records.get(offset) != Some(id) && !is_deleted {
                self.break_rule(format!(
                    "lost: {id:?} was at {directory} offset={offset}, there is {:?}, start={start} end={end}",
                    records.get(offset)
                ));
            }
        }
        let present: BTreeSet<RecordId> = records.values().copied().collect();
        for (id, offset) in &known.acknowledged {
            // Where its place was not told it may have been deleted since.
            let is_deleted = *offset < known.start.max(start) && known.start > 0;
            if !present.contains(id) && !is_deleted {
                self.break_rule(format!("lost: {id:?} was acknowledged at {directory} offset={offset}"));
            }
        }
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        for (offset, id) in &records {
            if id.creation != creation {
                self.break_rule(format!("a record of an earlier topic at {directory} offset={offset}: {id:?}"));
            }
            let before = last.insert(id.sender, id.number);
            if before.is_some_and(|before| before >= id.number) && !self.careless.contains(&id.sender) {
                self.break_rule(format!(
                    "twice or out of order at {directory} offset={offset}: {id:?} after number {before:?}"
                ));
            }
        }
        self.known.insert((partition.clone(), creation), known);
    }
}

/// The whole batches of a partition's segments, in their order, up to the first that is damaged: what a machine that has lost
/// power has behind it is not its log.
fn batches(files: &BTreeMap<String, Bytes>, directory: &str) -> Vec<Batch> {
    let prefix = format!("{directory}/");
    let mut batches: Vec<Batch> = Vec::new();
    let segments = files.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
    for (_, content) in segments.filter(|(path, _)| path.ends_with(".log")) {
        let mut content = content.clone();
        while let Ok(Some(batch)) = Batch::split(&mut content) {
            if batch.check_crc().is_err() {
                return batches;
            }
            batches.push(batch);
        }
        if !content.is_empty() {
            return batches;
        }
    }
    batches
}

/// Where the first segment of a partition begins: what was below is deleted.
fn first_offset(files: &BTreeMap<String, Bytes>, directory: &str) -> Option<i64> {
    let prefix = format!("{directory}/");
    let names = files.range(prefix.clone()..).map_while(|(path, _)| path.strip_prefix(&prefix));
    names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).min()
}

/// The topic's name of a partition, shared.
pub(super) fn partitions_of(topic: &str, count: i32) -> Vec<TopicPartition> {
    let topic: Arc<str> = topic.into();
    (0..count).map(|index| TopicPartition::new(Arc::clone(&topic), index)).collect()
}
