//! A cluster and logs in memory, kind to tests, and what `copy` does with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use futures::executor::block_on;
use futures::future::{BoxFuture, FutureExt};
use uuid::Uuid;

use super::*;
use crate::record::{Batch, Builder, BuilderOptions, ControlType, NO_HEADERS, ProducerFields, control_batch};

/// A batch of `count` records of `value` bytes each, at `offset`, from a leader of `epoch`.
pub(crate) fn batch(offset: i64, epoch: i32, count: i32, value: usize, seed: u8) -> Batch {
    let mut builder = Builder::new(BuilderOptions::default());
    for index in 0..count {
        let key = [seed, index as u8];
        builder.append(1_000 + offset + i64::from(index), Some(&key), Some(&vec![seed; value]), NO_HEADERS).unwrap();
    }
    builder.seal(ProducerFields::NONE).unwrap().stamped(offset, epoch)
}

/// A log in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryLog {
    pub(crate) batches: Vec<Batch>,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) high_watermark: i64,
    /// Where the first open transaction begins.
    pub(crate) last_stable: Option<i64>,
}

impl MemoryLog {
    pub(crate) fn append(&mut self, epoch: i32, count: i32, value: usize) {
        self.append_seeded(epoch, count, value, 1);
    }

    pub(crate) fn append_seeded(&mut self, epoch: i32, count: i32, value: usize, seed: u8) {
        self.batches.push(batch(self.end, epoch, count, value, seed));
        self.end += i64::from(count);
        self.high_watermark = self.end;
    }

    pub(crate) fn append_transactional(&mut self, (producer_id, producer_epoch): (i64, i16), count: i32) {
        let mut builder = Builder::new(BuilderOptions { transactional: true, ..BuilderOptions::default() });
        for _ in 0..count {
            builder.append(1_000 + self.end, None, Some(b"in a transaction"), NO_HEADERS).unwrap();
        }
        let producer = ProducerFields { producer_id, producer_epoch, base_sequence: 0 };
        self.batches.push(builder.seal(producer).unwrap().stamped(self.end, 0));
        self.end += i64::from(count);
        self.high_watermark = self.end;
    }

    /// As Kafka does since KIP-890: with the epoch of the next one.
    pub(crate) fn end_transaction(&mut self, (producer_id, producer_epoch): (i64, i16)) {
        let time = 1_000 + self.end;
        self.batches.push(control_batch(self.end, 0, producer_id, producer_epoch + 1, ControlType::Commit, 0, time));
        self.end += 1;
        self.high_watermark = self.end;
    }

    pub(crate) fn set_start(&mut self, start: i64) {
        self.start = start;
        self.batches.retain(|batch| batch.next_offset() > start);
    }

    fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        let epochs = self.batches.iter().map(Batch::partition_leader_epoch);
        let floor = epochs.filter(|found| *found <= epoch).max()?;
        let above = self.batches.iter().find(|batch| batch.partition_leader_epoch() > epoch);
        if above.is_none() && floor < epoch {
            return None;
        }
        Some(EpochEnd { leader_epoch: floor, end: above.map_or(self.end, Batch::base_offset) })
    }

    fn leader_epoch(&self) -> i32 {
        self.batches.last().map_or(-1, Batch::partition_leader_epoch)
    }

    /// The bytes of all batches.
    pub(crate) fn bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        self.batches.iter().for_each(|batch| bytes.extend_from_slice(batch.as_bytes()));
        bytes.freeze()
    }
}

/// A cluster in memory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryCluster(Arc<Mutex<Cluster>>);

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) identity: Identity,
    pub(crate) topics: BTreeMap<String, (Topic, Vec<MemoryLog>)>,
    pub(crate) groups: Vec<GroupOffsets>,
    pub(crate) settings: ClusterSettings,
    /// Reads that were made: partition, offset.
    pub(crate) reads: Vec<(TopicPartition, i64)>,
    /// Called before each read.
    pub(crate) before_read: Option<fn(&mut Self)>,
    /// What is done to the bytes of a read.
    pub(crate) spoil: Option<fn(&TopicPartition, Bytes) -> Bytes>,
}

impl Cluster {
    pub(crate) fn log(&mut self, topic: &str, partition: usize) -> &mut MemoryLog {
        &mut self.topics.get_mut(topic).unwrap().1[partition]
    }

    pub(crate) fn add_topic(&mut self, name: &str, id: u128, partitions: usize) {
        let topic = Topic {
            name: name.to_owned(),
            id: Uuid::from_u128(id),
            partitions: vec![vec![0]; partitions],
            replication_factor: 1,
            config: vec![("retention.ms".to_owned(), "-1".to_owned())],
        };
        self.topics.insert(name.to_owned(), (topic, vec![MemoryLog::default(); partitions]));
    }
}

impl MemoryCluster {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Cluster {
            identity: Identity { cluster_id: Some("a-cluster".to_owned()), address: "memory:".to_owned() },
            topics: BTreeMap::new(),
            groups: Vec::new(),
            settings: ClusterSettings::default(),
            reads: Vec::new(),
            before_read: None,
            spoil: None,
        })))
    }

    /// With one topic, `orders`, of two partitions that have a few batches in two epochs.
    pub(crate) fn with_orders() -> Self {
        let cluster = Self::new();
        cluster.lock().add_topic("orders", 7, 2);
        for partition in 0..2 {
            let mut inner = cluster.lock();
            let log = inner.log("orders", partition);
            log.append(0, 5, 100);
            log.append(0, 3, 200);
            log.append(2, 4, 50 * partition);
        }
        cluster
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap()
    }

    pub(crate) fn logs(&self, topic: &str) -> Vec<MemoryLog> {
        self.lock().topics[topic].1.clone()
    }
}

impl Source for MemoryCluster {
    fn identity(&self) -> BoxFuture<'_, Result<Identity>> {
        async { Ok(self.lock().identity.clone()) }.boxed()
    }

    fn topics<'a>(&'a self, selection: &'a Selection) -> BoxFuture<'a, Result<Vec<Topic>>> {
        async {
            let inner = self.lock();
            selection.check_found("topic", inner.topics.keys().map(String::as_str))?;
            let topics = inner.topics.values().map(|(topic, _)| topic);
            Ok(topics.filter(|topic| selection.matches(&topic.name)).cloned().collect())
        }
        .boxed()
    }

    fn committed<'a>(
        &'a self,
        _topics: &'a [Topic],
        _selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Vec<GroupOffsets>>> {
        async { Ok(self.lock().groups.clone()) }.boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<ClusterSettings>> {
        async { Ok(self.lock().settings.clone()) }.boxed()
    }

    fn bounds<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        until: Until,
    ) -> BoxFuture<'a, Result<Vec<Result<Bounds>>>> {
        async move {
            let mut inner = self.lock();
            let bounds = partitions.iter().map(|partition| {
                let log = inner.log(&partition.topic, partition.partition as usize);
                let stable = log.last_stable.filter(|_| until == Until::LastStable);
                let end = stable.unwrap_or(log.high_watermark);
                Ok(Bounds { start: log.start, end, leader_epoch: log.leader_epoch() })
            });
            Ok(bounds.collect())
        }
        .boxed()
    }

    fn offsets_at<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        time: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Result<Option<i64>>>>> {
        async move {
            let mut inner = self.lock();
            let found = partitions.iter().map(|partition| {
                let log = inner.log(&partition.topic, partition.partition as usize);
                // As `batch` makes them: a record's time is its offset and a thousand.
                Ok(Some((time - 1_000).max(log.start)).filter(|offset| *offset < log.end))
            });
            Ok(found.collect())
        }
        .boxed()
    }

    fn epoch_ends<'a>(
        &'a self,
        epochs: &'a [(TopicPartition, i32)],
    ) -> BoxFuture<'a, Result<Vec<Result<Option<EpochEnd>>>>> {
        async {
            let mut inner = self.lock();
            let ends = epochs.iter().map(|(partition, epoch)| {
                Ok(inner.log(&partition.topic, partition.partition as usize).epoch_end(*epoch))
            });
            Ok(ends.collect())
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        offset: i64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let mut inner = self.lock();
            if let Some(before_read) = inner.before_read {
                before_read(&mut inner);
            }
            inner.reads.push((partition.clone(), offset));
            let spoil = inner.spoil;
            let log = inner.log(&partition.topic, partition.partition as usize);
            if offset < log.start || offset > log.end {
                return Err(Error::new(ErrorKind::OutOfRange, "offset is not there"));
            }
            let mut bytes = BytesMut::new();
            for batch in log.batches.iter().filter(|batch| batch.next_offset() > offset) {
                bytes.extend_from_slice(batch.as_bytes());
                if bytes.len() > max_bytes {
                    break;
                }
            }
            bytes.truncate(max_bytes);
            let bytes = bytes.freeze();
            Ok(match spoil {
                Some(spoil) => spoil(partition, bytes),
                None => bytes,
            })
        }
        .boxed()
    }
}

/// The logs of a broker in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryLogs {
    pub(crate) inner: Mutex<Logs>,
}

#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) topics: BTreeMap<String, (Topic, Vec<MemoryLog>)>,
    pub(crate) groups: Vec<GroupOffsets>,
    pub(crate) holes: Vec<(TopicPartition, Hole)>,
    pub(crate) promoted: Vec<String>,
    /// How many calls that change something there were, and at which one all fails.
    pub(crate) calls: u64,
    pub(crate) fail_at: Option<u64>,
}

impl MemoryLogs {
    pub(crate) fn logs(&self, topic: &str) -> Vec<MemoryLog> {
        self.inner.lock().unwrap().topics[topic].1.clone()
    }

    fn change<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&mut Logs) -> Result<T> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        async move {
            let mut inner = self.inner.lock().unwrap();
            let call = inner.calls;
            inner.calls += 1;
            if inner.fail_at.is_some_and(|at| call >= at) {
                return Err(Error::new(ErrorKind::Closed, "broker is gone"));
            }
            act(&mut inner)
        }
        .boxed()
    }

    fn change_log<'a>(
        &'a self,
        partition: &'a TopicPartition,
        act: impl FnOnce(&mut MemoryLog) + Send + 'a,
    ) -> BoxFuture<'a, Result<()>> {
        self.change(move |inner| {
            act(&mut inner.topics.get_mut(&*partition.topic).expect("the topic is made first").1
                [partition.partition as usize]);
            Ok(())
        })
    }
}

impl LocalLogs for MemoryLogs {
    fn create_copy<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        self.change(|inner| {
            if inner.topics.get(&topic.name).is_some_and(|(there, _)| there.id != topic.id) {
                return Err(Error::new(ErrorKind::AlreadyExists, "another topic is there"));
            }
            let logs = match inner.topics.remove(&topic.name) {
                Some((_, mut logs)) => {
                    logs.resize(topic.partitions.len(), MemoryLog::default());
                    logs
                }
                None => vec![MemoryLog::default(); topic.partitions.len()],
            };
            inner.topics.insert(topic.name.clone(), (topic.clone(), logs));
            Ok(())
        })
    }

    fn delete_copy<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<()>> {
        self.change(|inner| {
            inner.topics.remove(topic);
            Ok(())
        })
    }

    fn copies(&self) -> BoxFuture<'_, Result<Vec<Topic>>> {
        async { Ok(self.inner.lock().unwrap().topics.values().map(|(topic, _)| topic.clone()).collect()) }.boxed()
    }

    fn log_ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<LogEnd>>>> {
        async {
            let inner = self.inner.lock().unwrap();
            let ends = partitions.iter().map(|partition| {
                let log = inner.topics.get(&*partition.topic)?.1.get(partition.partition as usize)?;
                Some(LogEnd { start: log.start, end: log.end, leader_epoch: log.leader_epoch() })
            });
            Ok(ends.collect())
        }
        .boxed()
    }

    fn epoch_end<'a>(
        &'a self,
        partition: &'a TopicPartition,
        leader_epoch: i32,
    ) -> BoxFuture<'a, Result<Option<EpochEnd>>> {
        async move {
            let inner = self.inner.lock().unwrap();
            let log = &inner.topics[&*partition.topic].1[partition.partition as usize];
            let known = log.batches.iter().map(Batch::partition_leader_epoch).filter(|epoch| *epoch <= leader_epoch);
            Ok(known.max().and_then(|epoch| log.epoch_end(epoch)))
        }
        .boxed()
    }

    fn append_copy<'a>(&'a self, partition: &'a TopicPartition, batches: Vec<Batch>) -> BoxFuture<'a, Result<()>> {
        self.change(move |inner| {
            let topic = inner.topics.get_mut(&*partition.topic).expect("the topic is made first");
            let log = &mut topic.1[partition.partition as usize];
            for batch in batches {
                if batch.base_offset() < log.end {
                    return Err(Error::new(ErrorKind::Invalid, "batch goes back"));
                }
                assert!(batch.partition_leader_epoch() >= log.leader_epoch(), "epochs go back");
                log.end = batch.next_offset();
                log.batches.push(batch);
            }
            Ok(())
        })
    }

    fn truncate_copy<'a>(&'a self, partition: &'a TopicPartition, to: i64) -> BoxFuture<'a, Result<()>> {
        self.change_log(partition, move |log| {
            log.batches.retain(|batch| batch.next_offset() <= to);
            log.end = log.batches.last().map_or(log.start, Batch::next_offset);
        })
    }

    fn reset_copy<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        self.change_log(partition, move |log| {
            *log = MemoryLog { start, end: start, high_watermark: start, ..MemoryLog::default() };
        })
    }

    fn note_hole<'a>(&'a self, partition: &'a TopicPartition, hole: Hole) -> BoxFuture<'a, Result<()>> {
        self.change(move |inner| {
            inner.holes.push((partition.clone(), hole));
            Ok(())
        })
    }

    fn raise_start<'a>(&'a self, partition: &'a TopicPartition, start: i64) -> BoxFuture<'a, Result<()>> {
        self.change_log(partition, move |log| log.set_start(log.start.max(start)))
    }

    fn raise_high_watermark<'a>(
        &'a self,
        partition: &'a TopicPartition,
        high_watermark: i64,
    ) -> BoxFuture<'a, Result<()>> {
        self.change_log(partition, move |log| log.high_watermark = high_watermark.min(log.end))
    }

    fn promote_copies<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<()>> {
        self.change(|inner| {
            inner.promoted = topics.to_vec();
            Ok(())
        })
    }

    fn commit_offsets<'a>(&'a self, groups: &'a [GroupOffsets]) -> BoxFuture<'a, Result<()>> {
        self.change(|inner| {
            inner.groups = groups.to_vec();
            Ok(())
        })
    }

    fn sync_copy<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<i64>> {
        self.change(|inner| Ok(inner.topics[&*partition.topic].1[partition.partition as usize].end))
    }
}

/// Copies `source` to `logs` once.
fn replicate(source: &MemoryCluster, logs: &MemoryLogs, parting: Parting) -> Result<Copied> {
    block_on(async {
        let topics = source.topics(&Selection::all()).await?;
        for topic in &topics {
            logs.create_copy(topic).await?;
        }
        let assignments: Vec<Assignment> =
            assign(source, &topics, Until::HighWatermark).await?.into_iter().collect::<Result<_>>()?;
        copy(source, &LogSink::new(logs, parting), &assignments, &CopyOptions::default(), &|_| {}).await
    })
}

fn ranges(copied: &Copied) -> Vec<(Extent, i64, i64, u64)> {
    copied.done().map(|done| (done.extent, done.start, done.end, done.records)).collect()
}

#[test]
fn copy_brings_everything_and_then_only_what_is_new() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    let copied = replicate(&cluster, &logs, Parting::Refuse).unwrap();
    assert_eq!(ranges(&copied), [(Extent::Full, 0, 12, 12), (Extent::Full, 0, 12, 12)]);
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));

    cluster.lock().log("orders", 1).append(2, 6, 10);
    cluster.lock().reads.clear();
    let copied = replicate(&cluster, &logs, Parting::Refuse).unwrap();
    assert_eq!(ranges(&copied), [(Extent::Incremental, 12, 12, 0), (Extent::Incremental, 12, 18, 6)]);
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    assert_eq!(cluster.lock().reads, [(TopicPartition::new("orders", 1), 12)]);
}

#[test]
fn histories_are_cut_back_to_where_they_part() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    {
        // The leader lost its second epoch, and has another history since.
        let mut inner = cluster.lock();
        let log = inner.log("orders", 0);
        log.batches.pop();
        log.end = 8;
        log.append_seeded(1, 2, 10, 9);
        log.append_seeded(3, 2, 10, 9);
    }
    let refused = replicate(&cluster, &logs, Parting::Refuse).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let copied = replicate(&cluster, &logs, Parting::CutBack).unwrap();
    let parted: Vec<Option<i64>> = copied.done().map(|done| done.parted_at).collect();
    assert_eq!(parted, [Some(8), None]);
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn a_source_without_our_newest_epoch_cuts_back_to_its_own() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    {
        let mut inner = cluster.lock();
        let log = inner.log("orders", 0);
        log.batches.pop();
        log.end = 8;
        log.append_seeded(0, 20, 10, 9);
    }
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn a_damaged_batch_is_named_and_never_written_and_others_go_on() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    cluster.lock().spoil = Some(|partition, bytes| {
        let mut bytes = BytesMut::from(&bytes[..]);
        if partition.partition == 0 {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        bytes.freeze()
    });
    let copied = replicate(&cluster, &logs, Parting::CutBack).unwrap();
    let error = copied.partitions[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let message = error.to_string();
    assert!(message.contains("orders-0") && message.contains("checksum differs base_offset=8"), "{message}");
    assert_eq!(logs.logs("orders")[0].batches.len(), 0);
    assert_eq!(logs.logs("orders")[1], cluster.logs("orders")[1]);
    // Twice: it might have been the wire.
    let reads = cluster.lock().reads.iter().filter(|(partition, _)| partition.partition == 0).count();
    assert_eq!(reads, 2);

    cluster.lock().spoil = None;
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn a_log_start_within_a_batch_is_kept() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    cluster.lock().log("orders", 0).set_start(6);
    cluster.lock().log("orders", 1).set_start(12);
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn an_empty_copy_goes_on_within_a_batch() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    cluster.lock().log("orders", 0).set_start(6);
    // What a crash leaves of a copy whose only segment is damaged: nothing, at its start.
    block_on(logs.reset_copy(&TopicPartition::new("orders", 0), 6)).unwrap();
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn what_retention_took_before_it_was_copied_is_a_hole() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    for _ in 0..3 {
        cluster.lock().log("orders", 0).append(2, 10, 10);
    }
    cluster.lock().log("orders", 0).set_start(32);
    let copied = replicate(&cluster, &logs, Parting::CutBack).unwrap();
    let holes: Vec<Option<Hole>> = copied.done().map(|done| done.hole).collect();
    assert_eq!(holes, [Some(Hole { start: 12, end: 32 }), None]);
    let noted = (TopicPartition::new("orders", 0), Hole { start: 12, end: 32 });
    assert_eq!(logs.inner.lock().unwrap().holes, [noted]);
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

/// Copies what `options` say of `source` to `logs` once.
fn replicate_with(source: &MemoryCluster, logs: &MemoryLogs, options: &ReplicateOptions) -> Result<Copied> {
    block_on(super::replicate(source, logs, options, &|_| {}))
}

#[test]
fn a_part_begins_where_it_is_told_and_goes_on_from_its_end() {
    let cluster = MemoryCluster::with_orders();
    for (begin, start) in [
        (Begin::Start, 0),
        (Begin::Last(3), 9),
        (Begin::Last(7), 5),
        (Begin::Last(100), 0),
        (Begin::Last(0), 12),
        (Begin::Since(1_006), 6),
        (Begin::Since(0), 0),
        (Begin::Since(9_999), 12),
    ] {
        let logs = MemoryLogs::default();
        let mut options = ReplicateOptions { portion: Portion::from(begin), ..ReplicateOptions::default() };
        options.portion = options.portion.with_partitions(["orders:1"]).unwrap();
        let copied = replicate_with(&cluster, &logs, &options).unwrap().all().unwrap();
        let of = |copied: &Copied| -> Vec<(i32, i64, i64)> {
            copied.done().map(|done| (done.partition.partition, done.start, done.end)).collect()
        };
        assert_eq!(of(&copied), [(1, start, 12)], "{begin:?}");
        let there = logs.logs("orders");
        assert_eq!((there[1].start, there[1].end, there[1].high_watermark), (start, 12, 12), "{begin:?}");
        assert_eq!(there[0], MemoryLog::default());
        let expected: Vec<Batch> =
            cluster.logs("orders")[1].batches.iter().filter(|b| b.next_offset() > start).cloned().collect();
        assert_eq!(there[1].batches, expected, "{begin:?}");

        let later = MemoryCluster::with_orders();
        later.lock().log("orders", 1).append(2, 10, 10);
        let copied = replicate_with(&later, &logs, &options).unwrap().all().unwrap();
        assert_eq!(of(&copied), [(1, 12, 22)], "{begin:?}");
        assert_eq!(logs.logs("orders")[1].start, start, "{begin:?}");
    }
    let options = |choice: &str| ReplicateOptions {
        portion: Portion::default().with_partitions([choice]).unwrap(),
        ..ReplicateOptions::default()
    };
    for missing in ["orders:2", "payments:0"] {
        let error = replicate_with(&cluster, &MemoryLogs::default(), &options(missing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    for wrong in ["orders", "orders:", "orders:x", "orders:-1", "orders:1;2"] {
        assert_eq!(Portion::default().with_partitions([wrong]).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
    }
}

#[test]
fn a_topic_that_was_made_anew_is_refused_while_others_go_on_or_started_over() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    let plain = ReplicateOptions::default();
    replicate_with(&cluster, &logs, &plain).unwrap().all().unwrap();
    let before = logs.logs("orders");
    let anew = |id| {
        let mut inner = cluster.lock();
        inner.add_topic("orders", id, 1);
        inner.log("orders", 0).append_seeded(0, 4, 10, id as u8);
    };
    anew(8);
    cluster.lock().add_topic("payments", 20, 1);
    cluster.lock().log("payments", 0).append(0, 3, 10);
    let copied = replicate_with(&cluster, &logs, &plain).unwrap();
    assert_eq!(copied.done().map(|done| done.partition.to_string()).collect::<Vec<_>>(), ["payments-0"]);
    assert_eq!(copied.all().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(logs.logs("orders"), before);
    for (id, options) in [
        (8, ReplicateOptions { recreated: Recreated::Restart, ..ReplicateOptions::default() }),
        (9, ReplicateOptions { full: true, ..ReplicateOptions::default() }),
    ] {
        anew(id);
        replicate_with(&cluster, &logs, &options).unwrap().all().unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        let copied = replicate_with(&cluster, &logs, &plain).unwrap().all().unwrap();
        assert_eq!(copied.records(), 0);
    }
}

#[test]
fn retention_that_overtakes_a_copy_is_a_hole_and_no_failure() {
    let (cluster, logs) = (MemoryCluster::new(), MemoryLogs::default());
    cluster.lock().add_topic("big", 9, 1);
    for _ in 0..40 {
        cluster.lock().log("big", 0).append(0, 10, 20_000);
    }
    cluster.lock().before_read = Some(|cluster| {
        if cluster.reads.len() == 1 {
            cluster.log("big", 0).set_start(300);
        }
    });
    let copied = replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    let done = copied.done().next().unwrap();
    let hole = done.hole.unwrap();
    assert!(hole.start > 0 && hole.end == 300, "{hole:?}");
    assert_eq!(logs.logs("big"), cluster.logs("big"));
}

#[test]
fn a_batch_larger_than_a_read_is_copied() {
    let (cluster, logs) = (MemoryCluster::new(), MemoryLogs::default());
    cluster.lock().add_topic("big", 9, 1);
    cluster.lock().log("big", 0).append(0, 1, 6 << 20);
    cluster.lock().log("big", 0).append(0, 1, 10);
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("big"), cluster.logs("big"));
}

#[test]
fn offsets_that_compaction_emptied_stay_empty() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    {
        let mut inner = cluster.lock();
        let log = inner.log("orders", 0);
        log.batches.remove(1);
        // And at the end, as after a roll.
        log.end += 3;
        log.high_watermark += 3;
    }
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("orders")[0].batches, cluster.logs("orders")[0].batches);
    cluster.lock().log("orders", 0).append(2, 1, 1);
    replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap();
    assert_eq!(logs.logs("orders")[0].batches, cluster.logs("orders")[0].batches);
}

#[test]
fn a_copy_that_stops_at_any_call_goes_on_where_it_was() {
    let cluster = MemoryCluster::with_orders();
    let whole = MemoryLogs::default();
    replicate(&cluster, &whole, Parting::Refuse).unwrap().all().unwrap();
    let calls = whole.inner.lock().unwrap().calls;
    for at in 0..calls {
        let logs = MemoryLogs::default();
        logs.inner.lock().unwrap().fail_at = Some(at);
        let stopped = replicate(&cluster, &logs, Parting::Refuse).and_then(Copied::all);
        assert!(stopped.is_err(), "call {at} was made");
        logs.inner.lock().unwrap().fail_at = None;
        replicate(&cluster, &logs, Parting::Refuse).unwrap().all().unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"), "stopped at call {at}");
    }
}

#[test]
fn a_source_that_is_cut_back_while_it_is_read_is_an_error() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    cluster.lock().before_read = Some(|cluster| {
        let log = cluster.log("orders", 0);
        log.batches.truncate(2);
        log.end = 8;
        log.high_watermark = 8;
    });
    let error = replicate(&cluster, &logs, Parting::CutBack).unwrap().all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
}

#[test]
fn another_topic_of_the_same_name_is_left_alone() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    replicate(&cluster, &logs, Parting::CutBack).unwrap();
    cluster.lock().add_topic("orders", 8, 2);
    let error = replicate(&cluster, &logs, Parting::CutBack).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn progress_ends_at_its_totals() {
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    let last = Mutex::new(Progress::default());
    block_on(async {
        let topics = cluster.topics(&Selection::all()).await.unwrap();
        logs.create_copy(&topics[0]).await.unwrap();
        let assignments = assign(&cluster, &topics, Until::HighWatermark).await.unwrap();
        let assignments: Vec<Assignment> = assignments.into_iter().map(Result::unwrap).collect();
        let note = |progress: &Progress| *last.lock().unwrap() = *progress;
        let sink = LogSink::new(&logs, Parting::Refuse);
        copy(&cluster, &sink, &assignments, &CopyOptions::default(), &note).await.unwrap();
    });
    let last = last.into_inner().unwrap();
    let bytes: usize = cluster.logs("orders").iter().map(|log| log.bytes().len()).sum();
    let expected = Progress {
        partitions: 2,
        total_partitions: 2,
        offsets: 24,
        total_offsets: 24,
        records: 24,
        bytes: bytes as u64,
    };
    assert_eq!(last, expected);
}

#[test]
fn a_step_changes_batches_on_their_way() {
    #[derive(Debug)]
    struct Redate;
    impl Step for Redate {
        fn apply(&self, _: &TopicPartition, batch: Batch) -> Result<Batch> {
            Ok(batch.with_log_append_time(77))
        }
    }
    let (cluster, logs) = (MemoryCluster::with_orders(), MemoryLogs::default());
    block_on(async {
        let topics = cluster.topics(&Selection::all()).await.unwrap();
        logs.create_copy(&topics[0]).await.unwrap();
        let assignments = assign(&cluster, &topics, Until::HighWatermark).await.unwrap();
        let assignments: Vec<Assignment> = assignments.into_iter().map(Result::unwrap).collect();
        let options = CopyOptions { steps: vec![Box::new(Redate)], ..CopyOptions::default() };
        copy(&cluster, &LogSink::new(&logs, Parting::Refuse), &assignments, &options, &|_| {}).await.unwrap();
    });
    let batches = &logs.logs("orders")[0].batches;
    assert!(batches.iter().all(|batch| batch.max_timestamp() == 77 && batch.check_crc().is_ok()));
}

#[test]
fn a_selection_is_names_and_whole_patterns() {
    let selection: Selection = "orders,pay.*,a.b,x{1,2}y".parse().unwrap();
    for (name, is_chosen) in [
        ("orders", true),
        ("orders2", false),
        ("payments", true),
        ("repay", false),
        ("a.b", true),
        ("aXb", false),
        ("xxy", true),
        ("__consumer_offsets", false),
    ] {
        assert_eq!(selection.matches(name), is_chosen, "{name}");
    }
    assert!(Selection::all().matches("orders") && !Selection::all().matches("__transaction_state"));
    assert!("__consumer_offsets".parse::<Selection>().unwrap().matches("__consumer_offsets"));
    assert_eq!(selection.to_string(), "orders,pay.*,a.b,x{1,2}y");
    assert_eq!("a,,b".parse::<Selection>().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!("a(b".parse::<Selection>().unwrap_err().kind(), ErrorKind::Invalid);
    let missing = selection.check_found("topic", ["orders", "a.b", "xxy"].into_iter()).unwrap_err();
    assert_eq!(missing.to_string(), "no such topic topic=pay.*");
    // What may come later need not be there.
    selection.check_names_found("topic", ["orders", "a.b", "xxy"].into_iter()).unwrap();
    assert_eq!(selection.unmatched(["orders", "a.b", "xxy"].into_iter()).collect::<Vec<_>>(), ["pay.*"]);
    let missing = selection.check_names_found("topic", ["orders", "payments"].into_iter()).unwrap_err();
    assert_eq!(missing.to_string(), "no such topic topic=a.b");
    let pattern: Selection = "pay.*".parse().unwrap();
    let missing = pattern.check_names_found("topic", ["orders"].into_iter()).unwrap_err();
    assert_eq!(missing.to_string(), "no such topic topic=pay.*");
    Selection::all().check_names_found("topic", [].into_iter()).unwrap();
}
