//! A repository as a sink: objects and manifests in the making.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::lock::Mutex;
use futures::stream::{self, StreamExt, TryStreamExt};
use uuid::Uuid;

use super::manifest::{
    Encoding, EpochStart, FORMAT, Kind, Object, PAGE_OBJECTS, PageManifest, PageReference, PartitionManifest,
    PartitionReference, PendingManifest, PendingObject, Totals,
};
use super::repository::{Compression, Repository};
use super::transactions::Transaction;
use crate::record::Batch;
use crate::replication::{Bounds, EpochEnd, Hole, LastBatch, Run, Sink, SinkEnd, Topic, TopicPartition};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many bytes of objects may be put before what was put is written down, so that an interruption costs no more.
const PENDING_BYTES: u64 = 64 << 20;
/// Likewise, how many objects.
const PENDING_OBJECTS: usize = 256;
/// How many manifests are put at a time.
pub(super) const PUTS: usize = 16;

/// A backup in the making: for each partition what an older snapshot has of it, and what has been put since.
#[derive(Debug)]
pub(super) struct Recording<'a> {
    repository: &'a Repository,
    options: RecordingOptions,
    partitions: HashMap<TopicPartition, Mutex<Recorded>>,
    pending: Mutex<Pending>,
}

#[derive(Debug)]
pub(super) struct RecordingOptions {
    pub(super) cluster_id: Option<String>,
    pub(super) now: Timestamp,
    /// At how many bytes an object is sealed.
    pub(super) object_bytes: usize,
    pub(super) compression: Compression,
    /// Whether objects below the source's log start stay in the snapshot.
    pub(super) keeps_history: bool,
}

/// A partition in the making.
#[derive(Debug)]
struct Recorded {
    topic_id: Uuid,
    /// What the parent has; `None` also when none of it could be kept.
    base: Option<PartitionReference>,
    /// The parent's manifest as far as it is kept, once it was needed.
    kept: Option<Kept>,
    /// Objects that no snapshot has yet, in order.
    fresh: Vec<Object>,
    /// Those of them that an interrupted backup had put.
    taken_over: usize,
    new_holes: Vec<Hole>,
    /// A hole that no object has been put after.
    open_hole: Option<Hole>,
    open: OpenObject,
    transactions: Transactions,
    end: Option<SinkEnd>,
    finished: Option<Bounds>,
}

#[derive(Debug, Default)]
struct Kept {
    holes: Vec<Hole>,
    pages: Vec<PageReference>,
    objects: Vec<Object>,
}

/// The transactions in what is new: by producer, the epoch of the one that is open, and of the last that has ended.
///
/// Only of producers whose every transaction has an epoch of its own, so that it is known again in another partition: its end
/// is written with the next one (KIP-890, transaction version 2).
#[derive(Debug, Default)]
struct Transactions {
    open: HashMap<i64, i16>,
    ended: HashMap<i64, i16>,
}

impl Transactions {
    fn note(&mut self, batch: &Batch) {
        if !batch.is_transactional() {
            return;
        }
        let producer = batch.producer_id();
        if !batch.is_control() {
            self.open.insert(producer, batch.producer_epoch());
        } else if let Some(epoch) = self.open.remove(&producer)
            && epoch != batch.producer_epoch()
        {
            self.ended.insert(producer, epoch);
        }
    }
}

/// Batches that wait until they are enough for an object.
#[derive(Debug, Default)]
struct OpenObject {
    parts: Vec<Bytes>,
    bytes: usize,
    start: i64,
    end: i64,
    batches: u64,
    records: u64,
    min_timestamp: Timestamp,
    max_timestamp: Timestamp,
    epochs: Vec<EpochStart>,
    last: Option<LastBatch>,
}

/// Objects that were put and are not written down yet, and the pages that were written.
#[derive(Debug, Default)]
struct Pending {
    objects: Vec<PendingObject>,
    bytes: u64,
    paths: Vec<String>,
}

/// A partition as it goes into its topic's manifest.
#[derive(Debug)]
pub(super) struct RecordedPartition {
    pub(super) reference: PartitionReference,
    pub(super) holds: Totals,
    /// What of it is new.
    pub(super) fresh: Totals,
    pub(super) manifest_bytes: u64,
}

impl<'a> Recording<'a> {
    /// A backup of `topics` that goes on where `base` ends.
    pub(super) fn new(
        repository: &'a Repository,
        options: RecordingOptions,
        topics: &[Topic],
        mut base: impl FnMut(&TopicPartition) -> Option<PartitionReference>,
    ) -> Self {
        let partitions = topics
            .iter()
            .flat_map(|topic| topic.topic_partitions().map(|partition| (partition, topic.id)).collect::<Vec<_>>());
        let partitions = partitions.map(|(partition, topic_id)| {
            let recorded = Recorded::new(topic_id, base(&partition));
            (partition, Mutex::new(recorded))
        });
        Self { repository, options, partitions: partitions.collect(), pending: Mutex::default() }
    }

    /// Takes over what interrupted backups have put, where it continues what is there.
    pub(super) async fn take_over(&mut self, pages: &[(String, PendingManifest)]) -> Result<()> {
        let mut found: HashMap<TopicPartition, Vec<&PendingObject>> = HashMap::new();
        for object in pages.iter().flat_map(|(_, page)| &page.objects) {
            let partition = TopicPartition::new(object.topic.as_str(), object.partition);
            if let Some(recorded) = self.partitions.get_mut(&partition)
                && recorded.get_mut().topic_id == object.topic_id
                && (!object.topic_id.is_nil() || object.cluster_id == self.options.cluster_id)
            {
                found.entry(partition).or_default().push(object);
            }
        }
        let repository = self.repository;
        let found: Vec<_> = found.into_iter().collect();
        // By index and boxed, here and elsewhere, because the compiler cannot tell that it is `Send` otherwise.
        let checked = stream::iter(0..found.len()).map(|index| {
            let (partition, objects) = &found[index];
            async move {
                let mut present = Vec::with_capacity(objects.len());
                for object in objects {
                    if repository.has_object(&object.object).await? {
                        present.push(*object);
                    }
                }
                Ok::<_, Error>((partition, present))
            }
            .boxed()
        });
        let checked: Vec<_> = checked.buffer_unordered(PUTS).try_collect().await?;
        for (partition, objects) in checked {
            if let Some(recorded) = self.partitions.get_mut(partition) {
                recorded.get_mut().take_over(&objects);
            }
        }
        Ok(())
    }

    /// Writes down what was put, so that a later backup finds it should this one not come to its end.
    pub(super) async fn write_pending(&self) -> Result<()> {
        let mut pending = self.pending.lock().await;
        if pending.objects.is_empty() {
            return Ok(());
        }
        let page = PendingManifest {
            format: FORMAT,
            kind: Kind::Pending,
            time: self.options.now,
            objects: pending.objects.clone(),
        };
        let path = self.repository.put_pending(&page).await?;
        pending.paths.push(path);
        pending.objects.clear();
        pending.bytes = 0;
        Ok(())
    }

    /// The pages that [`write_pending`](Self::write_pending) has put.
    pub(super) async fn pending_paths(&self) -> Vec<String> {
        self.pending.lock().await.paths.clone()
    }

    /// Where the objects of `partition` end, if it is recorded here.
    pub(super) async fn end(&self, partition: &TopicPartition, topic_id: Uuid) -> Option<i64> {
        let recorded = self.partitions.get(partition)?.lock().await;
        recorded.end.filter(|_| recorded.topic_id == topic_id).map(|end| end.end)
    }

    /// The end that the snapshot gives `partition`, if it is recorded here.
    pub(super) async fn cut(&self, partition: &TopicPartition) -> Option<i64> {
        Some(self.partitions.get(partition)?.lock().await.cut())
    }

    /// Puts the manifests of `topic`'s partitions; what goes into its own.
    pub(super) async fn seal_topic(&self, topic: &Topic) -> Result<Vec<RecordedPartition>> {
        stream::iter(0..topic.partitions.len())
            .map(|index| {
                let partition = TopicPartition::new(topic.name.as_str(), index as i32);
                async move { self.seal_partition(&partition, &topic.partitions[index]).await }.boxed()
            })
            .buffered(PUTS)
            .try_collect()
            .await
    }

    async fn seal_partition(&self, partition: &TopicPartition, replicas: &[i32]) -> Result<RecordedPartition> {
        let mut recorded = self.recorded(partition)?.lock().await;
        let bounds = recorded.finished.ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("partition was not finished partition={partition}"))
        })?;
        let end = recorded.cut();
        let is_unchanged = |base: &PartitionReference| {
            recorded.kept.is_none()
                && recorded.fresh.is_empty()
                && recorded.new_holes.is_empty()
                && (base.start, base.end) == (bounds.start, end)
        };
        let mut fresh = Totals { partitions: 1, ..Totals::default() };
        for object in &recorded.fresh {
            fresh.objects += 1;
            fresh.records += object.records;
            fresh.bytes += object.bytes;
            fresh.stored_bytes += object.stored_bytes;
        }
        if let Some(base) = recorded.base.as_ref().filter(|base| is_unchanged(base)) {
            let holds = Totals {
                partitions: 1,
                objects: base.objects,
                records: base.records,
                bytes: base.bytes,
                stored_bytes: base.stored_bytes,
                ..Totals::default()
            };
            let reference = PartitionReference { replicas: replicas.to_vec(), ..base.clone() };
            return Ok(RecordedPartition { reference, holds, fresh, manifest_bytes: 0 });
        }

        self.load(&mut recorded, partition).await?;
        let last = recorded.last();
        let Kept { mut holes, mut pages, mut objects } = recorded.kept.take().unwrap_or_default();
        holes.append(&mut recorded.new_holes);
        objects.append(&mut recorded.fresh);
        if !self.options.keeps_history {
            holes.retain(|hole| hole.end >= bounds.start);
            pages.retain(|page| page.end > bounds.start);
            objects.retain(|object| object.end > bounds.start);
        }
        let mut manifest_bytes = 0;
        while objects.len() > PAGE_OBJECTS {
            let rest = objects.split_off(PAGE_OBJECTS);
            let page = PageManifest {
                format: FORMAT,
                kind: Kind::Page,
                topic: partition.topic.to_string(),
                topic_id: recorded.topic_id,
                partition: partition.partition,
                objects: std::mem::replace(&mut objects, rest),
            };
            let reference = self.repository.put_manifest(&page, None).await?;
            manifest_bytes += reference.bytes;
            pages.push(page.reference(reference));
        }
        let manifest = PartitionManifest {
            format: FORMAT,
            kind: Kind::Partition,
            topic: partition.topic.to_string(),
            topic_id: recorded.topic_id,
            partition: partition.partition,
            start: bounds.start,
            end,
            holes,
            pages,
            objects,
        };
        let holds = manifest.totals();
        let reference = self.repository.put_manifest(&manifest, None).await?;
        let reference = PartitionReference {
            partition: partition.partition,
            manifest: reference,
            replicas: replicas.to_vec(),
            start: manifest.start,
            end: manifest.end,
            last,
            objects: holds.objects,
            records: holds.records,
            bytes: holds.bytes,
            stored_bytes: holds.stored_bytes,
        };
        manifest_bytes += reference.manifest.bytes;
        Ok(RecordedPartition { reference, holds, fresh, manifest_bytes })
    }

    fn recorded(&self, partition: &TopicPartition) -> Result<&Mutex<Recorded>> {
        self.partitions.get(partition).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("partition is not part of the backup partition={partition}"))
        })
    }

    /// The last transaction of each producer that has ended in what is new of a partition.
    pub(super) async fn ended(&self, partition: &TopicPartition) -> Vec<Transaction> {
        let Some(recorded) = self.partitions.get(partition) else { return Vec::new() };
        recorded.lock().await.transactions.ended.iter().map(|(producer, epoch)| (*producer, *epoch)).collect()
    }

    /// Reads the parent's manifest of a partition that is about to change.
    async fn load(&self, recorded: &mut Recorded, partition: &TopicPartition) -> Result<()> {
        let Some(base) = recorded.base.as_ref().filter(|_| recorded.kept.is_none()) else { return Ok(()) };
        let manifest = self.repository.partition(base, partition, recorded.topic_id).await?;
        recorded.kept = Some(Kept { holes: manifest.holes, pages: manifest.pages, objects: manifest.objects });
        Ok(())
    }

    /// Puts what waits for `partition` as an object.
    async fn seal(&self, recorded: &mut Recorded, partition: &TopicPartition) -> Result<()> {
        let Some((parts, object)) = std::mem::take(&mut recorded.open).seal() else { return Ok(()) };
        let put = self.repository.put_object(parts, self.options.compression).await?;
        let object = Object { name: put.name, stored_bytes: put.bytes, encoding: put.encoding, ..object };
        let pending = PendingObject {
            cluster_id: self.options.cluster_id.clone(),
            topic: partition.topic.to_string(),
            topic_id: recorded.topic_id,
            partition: partition.partition,
            after: recorded.end.map(|end| end.end),
            hole: recorded.open_hole.take(),
            object: object.clone(),
        };
        recorded.push(object);
        let is_enough = {
            let mut all = self.pending.lock().await;
            all.bytes += pending.object.stored_bytes;
            all.objects.push(pending);
            all.bytes >= PENDING_BYTES || all.objects.len() >= PENDING_OBJECTS
        };
        if is_enough { self.write_pending().await } else { Ok(()) }
    }
}

impl Recorded {
    fn new(topic_id: Uuid, base: Option<PartitionReference>) -> Self {
        let end = base.as_ref().map(|base| SinkEnd {
            end: base.end,
            leader_epoch: base.last.map_or(-1, |last| last.leader_epoch),
            last: base.last,
        });
        // What begins and ends at 0 has not begun: a full copy from wherever the source begins is right.
        let end = end.filter(|end| end.end > 0);
        Self {
            topic_id,
            base,
            kept: None,
            fresh: Vec::new(),
            taken_over: 0,
            new_holes: Vec::new(),
            open_hole: None,
            open: OpenObject::default(),
            transactions: Transactions::default(),
            end,
            finished: None,
        }
    }

    fn take_over(&mut self, objects: &[&PendingObject]) {
        loop {
            let after = self.end.map(|end| end.end);
            let next = objects
                .iter()
                .filter(|pending| pending.after == after)
                // Of two that continue from here, the one that goes further; of equal ones, always the same.
                .max_by_key(|pending| (pending.object.end, pending.object.name));
            let Some(next) = next else { return };
            let leader_epoch = next.object.epochs.first().map_or(-1, |first| first.epoch);
            if self.end.is_some_and(|end| leader_epoch < end.leader_epoch) {
                return;
            }
            if let Some(hole) = next.hole {
                self.add_hole(hole);
                self.open_hole = None;
            }
            self.push(next.object.clone());
            self.taken_over += 1;
        }
    }

    fn push(&mut self, object: Object) {
        self.end = Some(SinkEnd { end: object.end, leader_epoch: object.last.leader_epoch, last: Some(object.last) });
        self.fresh.push(object);
    }

    fn add_hole(&mut self, hole: Hole) {
        match self.new_holes.last_mut() {
            Some(last) if last.end == hole.start => last.end = hole.end,
            _ => self.new_holes.push(hole),
        }
        match &mut self.open_hole {
            Some(open) if open.end == hole.start => open.end = hole.end,
            open => *open = Some(hole),
        }
    }

    /// The end of the partition: the source's, or that of what was there already should it be ahead.
    fn cut(&self) -> i64 {
        let bounds = self.finished.map_or(0, |bounds| bounds.end);
        self.end.map_or(bounds, |end| end.end.max(bounds))
    }

    /// The last batch of what is held.
    fn last(&self) -> Option<LastBatch> {
        match (self.fresh.last(), &self.kept) {
            (Some(object), _) => Some(object.last),
            // Objects may be in pages only, which end with what the parent's end was.
            (None, Some(_)) => self.end.and_then(|end| end.last),
            (None, None) => self.base.as_ref().and_then(|base| base.last),
        }
    }
}

impl OpenObject {
    /// Adds a batch; `part` holds its bytes.
    fn add(&mut self, batch: &Batch) {
        if self.batches == 0 {
            self.start = batch.base_offset();
            self.min_timestamp = batch.base_timestamp();
            self.max_timestamp = batch.max_timestamp();
        }
        let epoch = batch.partition_leader_epoch();
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, start: batch.base_offset() });
        }
        self.bytes += batch.size();
        self.end = batch.next_offset();
        self.batches += 1;
        self.records += batch.record_count().max(0) as u64;
        self.min_timestamp = self.min_timestamp.min(batch.base_timestamp());
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp());
        self.last = Some(LastBatch::from(batch));
    }

    /// The bytes, and the object but for its name; `None` if there is nothing.
    fn seal(self) -> Option<(Vec<Bytes>, Object)> {
        let object = Object {
            name: super::manifest::Digest([0; 32]),
            encoding: Encoding::Plain,
            stored_bytes: self.bytes as u64,
            bytes: self.bytes as u64,
            start: self.start,
            end: self.end,
            batches: self.batches,
            records: self.records,
            min_timestamp: self.min_timestamp,
            max_timestamp: self.max_timestamp,
            epochs: self.epochs,
            last: self.last?,
        };
        Some((self.parts, object))
    }
}

impl Sink for Recording<'_> {
    fn ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<SinkEnd>>>> {
        async move {
            let mut ends = Vec::with_capacity(partitions.len());
            for partition in partitions {
                ends.push(self.recorded(partition)?.lock().await.end);
            }
            Ok(ends)
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        partition: &'a TopicPartition,
        _start: i64,
        hole: Option<Hole>,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut recorded = self.recorded(partition)?.lock().await;
            if let Some(hole) = hole {
                self.seal(&mut recorded, partition).await?;
                recorded.add_hole(hole);
            }
            Ok(())
        }
        .boxed()
    }

    fn truncate<'a>(&'a self, partition: &'a TopicPartition, to: EpochEnd) -> BoxFuture<'a, Result<Option<SinkEnd>>> {
        async move {
            let mut recorded = self.recorded(partition)?.lock().await;
            self.load(&mut recorded, partition).await?;
            let topic_id = recorded.topic_id;
            // What is given up here stays in older snapshots.
            let agrees = |object: &Object| object.end <= to.end && object.last.leader_epoch <= to.leader_epoch;
            recorded.fresh.retain(agrees);
            let mut last = recorded.fresh.last().cloned();
            if last.is_none() {
                let kept = recorded.kept.get_or_insert_default();
                kept.objects.retain(agrees);
                while kept.objects.is_empty()
                    && let Some(page) = kept.pages.pop()
                {
                    let page = self.repository.page(&page, partition, topic_id).await?;
                    kept.objects = page.objects;
                    kept.objects.retain(agrees);
                }
                last = kept.objects.last().cloned();
            }
            let end = last.as_ref().map_or(0, |last| last.end);
            if let Some(kept) = &mut recorded.kept {
                kept.holes.retain(|hole| hole.end <= end);
            }
            recorded.new_holes.retain(|hole| hole.end <= end);
            recorded.open_hole = None;
            recorded.taken_over = recorded.taken_over.min(recorded.fresh.len());
            recorded.end =
                last.map(|last| SinkEnd { end: last.end, leader_epoch: last.last.leader_epoch, last: Some(last.last) });
            if recorded.end.is_none() {
                recorded.base = None;
            }
            Ok(recorded.end)
        }
        .boxed()
    }

    fn write<'a>(&'a self, partition: &'a TopicPartition, run: Run) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut recorded = self.recorded(partition)?.lock().await;
            let bytes = run.bytes();
            let (mut from, mut to) = (0, 0);
            for batch in run.batches() {
                if recorded.open.bytes > 0 && recorded.open.bytes + batch.size() > self.options.object_bytes {
                    if from < to {
                        recorded.open.parts.push(bytes.slice(from..to));
                    }
                    self.seal(&mut recorded, partition).await?;
                    from = to;
                }
                recorded.open.add(batch);
                recorded.transactions.note(batch);
                to += batch.size();
            }
            if from < to {
                recorded.open.parts.push(bytes.slice(from..to));
            }
            Ok(())
        }
        .boxed()
    }

    fn finish<'a>(&'a self, partition: &'a TopicPartition, bounds: Bounds) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut recorded = self.recorded(partition)?.lock().await;
            self.seal(&mut recorded, partition).await?;
            recorded.finished = Some(bounds);
            Ok(())
        }
        .boxed()
    }

    fn held_back(&self) -> usize {
        self.options.object_bytes
    }
}
