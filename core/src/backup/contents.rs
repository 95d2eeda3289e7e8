//! A snapshot as a source: what a restore, a check, or a copy to another repository reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::manifest::{
    ClusterManifest, GroupsManifest, Object, PageManifest, PartitionManifest, PartitionReference, TopicManifest,
    TopicsManifest,
};
use super::recording::PUTS;
use super::repository::{Place, Repository, RepositoryError, Snapshot, object_path};
use crate::record::Batch;
use crate::replication::{
    Bounds, ClusterSettings, CommittedOffset, EpochEnd, GroupOffsets, Identity, Selection, Source, Topic,
    TopicPartition, Until,
};
use crate::{Error, ErrorKind, Result};

/// A snapshot's topics, read as from a cluster.
///
/// Each read verifies the object it is from; a body is read whole, once, for reads that follow one another.
#[derive(Debug)]
pub struct SnapshotSource {
    repository: Repository,
    snapshot: Snapshot,
    topics: BTreeMap<String, TopicManifest>,
    readers: Mutex<HashMap<TopicPartition, Reader>>,
    /// The largest object in the snapshot, as far as its sums tell.
    object_bytes: usize,
}

/// Where a partition is being read.
#[derive(Clone, Debug)]
struct Reader {
    manifest: Arc<PartitionManifest>,
    page: Option<(usize, Arc<PageManifest>)>,
    body: Option<Body>,
}

#[derive(Clone, Debug)]
struct Body {
    object: Object,
    bytes: Bytes,
    /// A batch's base offset and its place, so that the next read need not search from the beginning.
    at: (i64, usize),
}

impl SnapshotSource {
    /// The topics of `snapshot` that `selection` chooses. Reads their manifests, not those of their partitions.
    ///
    /// # Errors
    /// `NotFound` if a topic is named that is not there, or a manifest is missing; `Corrupt` if one is damaged.
    pub async fn open(repository: Repository, snapshot: Snapshot, selection: &Selection) -> Result<Self> {
        let place = Place::snapshot(snapshot.id.name);
        let topics: TopicsManifest = repository.get_manifest(snapshot.manifest.topics, &place).await?;
        selection.check_found("topic", topics.topics.iter().map(|topic| topic.topic.as_str()))?;
        let topics = topics.topics.into_iter().filter(|topic| selection.is_all() || selection.matches(&topic.topic));
        let topics: Vec<TopicManifest> = stream::iter(topics)
            .map(|topic| {
                let repository = &repository;
                async move { repository.topic(&topic).await }
            })
            .buffered(PUTS)
            .try_collect()
            .await?;
        let object_bytes = topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            // What an object has at most: all bytes, and as a rule no more than the usual size.
            .map(|partition| usize::try_from(partition.bytes).unwrap_or(usize::MAX).min(super::OBJECT_BYTES))
            .max()
            .unwrap_or(0);
        let topics = topics.into_iter().map(|topic| (topic.topic.clone(), topic)).collect();
        Ok(Self { repository, snapshot, topics, readers: Mutex::default(), object_bytes })
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The topics' manifests, by name.
    pub fn manifests(&self) -> &BTreeMap<String, TopicManifest> {
        &self.topics
    }

    fn reference(&self, partition: &TopicPartition) -> Result<(&TopicManifest, &PartitionReference)> {
        let topic = self.topics.get(&*partition.topic);
        topic
            .and_then(|topic| {
                let index = topic.partitions.binary_search_by_key(&partition.partition, |known| known.partition);
                Some((topic, &topic.partitions[index.ok()?]))
            })
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "partition is not in the snapshot"))
    }

    async fn manifest(&self, partition: &TopicPartition) -> Result<PartitionManifest> {
        let (topic, reference) = self.reference(partition)?;
        self.repository.partition(reference, partition, topic.topic_id).await
    }

    async fn read_at(&self, partition: &TopicPartition, offset: i64, max_bytes: usize) -> Result<Bytes> {
        let (topic, reference) = self.reference(partition)?;
        if !(reference.start..=reference.end).contains(&offset) {
            let message = format!("offset is not in the snapshot offset={offset}");
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        let known = self.readers().remove(partition);
        let mut reader = match known {
            Some(reader) => reader,
            None => Reader { manifest: Arc::new(self.manifest(partition).await?), page: None, body: None },
        };
        let Some(object) = self.object_at(&mut reader, partition, topic, offset).await? else {
            return Ok(Bytes::new());
        };
        let place = Place::partition(&partition.topic, partition.partition, object.start..object.end);
        let mut body = match reader.body.take().filter(|body| body.object.name == object.name) {
            Some(body) if body.at.0 <= offset => body,
            Some(body) => Body { at: (object.start, 0), ..body },
            None => {
                let bytes = self.repository.get_object(&object, &place).await?;
                Body { at: (object.start, 0), object: object.clone(), bytes }
            }
        };
        let found = body.find(offset).map_err(|reason| RepositoryError::Damaged {
            place,
            path: object_path(&object.name),
            reason,
        })?;
        let found = body.bytes.slice(found..found.saturating_add(max_bytes).min(body.bytes.len()));
        // A partition that is read to its end is not kept.
        let is_end = reader.manifest.objects.last().is_some_and(|last| last.name == object.name)
            && body.at.1 + found.len() == body.bytes.len();
        if !is_end {
            reader.body = Some(body);
            self.readers().insert(partition.clone(), reader);
        }
        Ok(found)
    }

    /// The object that holds `offset`, or the first after it.
    async fn object_at(
        &self,
        reader: &mut Reader,
        partition: &TopicPartition,
        topic: &TopicManifest,
        offset: i64,
    ) -> Result<Option<Object>> {
        let manifest = reader.manifest.clone();
        let index = manifest.pages.partition_point(|page| page.end <= offset);
        if let Some(page) = manifest.pages.get(index) {
            let page = match reader.page.take() {
                Some((known, page)) if known == index => page,
                _ => Arc::new(self.repository.page(page, partition, topic.topic_id).await?),
            };
            let at = page.objects.partition_point(|object| object.end <= offset);
            let object = page.objects.get(at).cloned();
            reader.page = Some((index, page));
            return Ok(object);
        }
        let at = manifest.objects.partition_point(|object| object.end <= offset);
        Ok(manifest.objects.get(at).cloned())
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, HashMap<TopicPartition, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The access rules, users and quotas.
    async fn cluster(&self) -> Result<ClusterSettings> {
        let Some(reference) = self.snapshot.manifest.cluster else { return Ok(ClusterSettings::default()) };
        let place = Place::snapshot(self.snapshot.id.name);
        let manifest: ClusterManifest = self.repository.get_manifest(reference, &place).await?;
        Ok(manifest.settings)
    }

    /// The groups' manifest.
    pub(super) async fn groups(&self) -> Result<GroupsManifest> {
        let place = Place::snapshot(self.snapshot.id.name);
        self.repository.get_manifest(self.snapshot.manifest.groups, &place).await
    }

    async fn epoch_end(&self, partition: &TopicPartition, leader_epoch: i32) -> Result<Option<EpochEnd>> {
        let (topic, reference) = self.reference(partition)?;
        let manifest = self.manifest(partition).await?;
        let mut below = None;
        let mut check = |objects: &[Object]| {
            objects.iter().flat_map(|object| &object.epochs).find_map(|start| {
                if start.epoch > leader_epoch {
                    return Some(below.map(|epoch| EpochEnd { leader_epoch: epoch, end: start.start }));
                }
                below = Some(start.epoch);
                None
            })
        };
        for page in &manifest.pages {
            let page = self.repository.page(page, partition, topic.topic_id).await?;
            if let Some(found) = check(&page.objects) {
                return Ok(found);
            }
        }
        match check(&manifest.objects) {
            Some(found) => Ok(found),
            // As a leader does: an epoch newer than all is one it never had.
            None => Ok(below
                .filter(|epoch| *epoch == leader_epoch)
                .map(|leader_epoch| EpochEnd { leader_epoch, end: reference.end })),
        }
    }
}

impl Body {
    /// The place of the batch that holds `offset` or is the first after it.
    fn find(&mut self, offset: i64) -> Result<usize, String> {
        let (_, mut place) = self.at;
        loop {
            let mut rest = self.bytes.slice(place..);
            match Batch::split(&mut rest) {
                Ok(Some(batch)) if batch.next_offset() > offset => {
                    self.at = (batch.base_offset(), place);
                    return Ok(place);
                }
                Ok(Some(batch)) => place += batch.size(),
                Ok(None) => return Err(format!("ends before its last offset expected={}", self.object.end)),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Source for SnapshotSource {
    fn identity(&self) -> BoxFuture<'_, Result<Identity>> {
        let source = &self.snapshot.manifest.source;
        let identity = Identity { cluster_id: source.cluster_id.clone(), address: source.address.clone() };
        async move { Ok(identity) }.boxed()
    }

    fn topics<'a>(&'a self, selection: &'a Selection) -> BoxFuture<'a, Result<Vec<Topic>>> {
        async move {
            selection.check_found("topic", self.topics.keys().map(String::as_str))?;
            let topics = self.topics.values().filter(|topic| selection.is_all() || selection.matches(&topic.topic));
            topics.map(topic_of).collect()
        }
        .boxed()
    }

    fn committed<'a>(
        &'a self,
        topics: &'a [Topic],
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Vec<GroupOffsets>>> {
        async move {
            let groups = self.groups().await?.groups;
            let is_chosen = |topic: &str| topics.binary_search_by(|known| known.name.as_str().cmp(topic)).is_ok();
            let groups = groups.into_iter().filter(|group| selection.is_all() || selection.matches(&group.group));
            let groups = groups.map(|group| GroupOffsets {
                group: group.group,
                kind: group.kind,
                offsets: group
                    .offsets
                    .into_iter()
                    .filter(|offset| is_chosen(&offset.topic))
                    .map(|offset| CommittedOffset {
                        partition: TopicPartition::new(offset.topic, offset.partition),
                        offset: offset.offset,
                        leader_epoch: offset.leader_epoch,
                        metadata: offset.metadata,
                    })
                    .collect(),
            });
            Ok(groups.filter(|group| !group.offsets.is_empty()).collect())
        }
        .boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<ClusterSettings>> {
        self.cluster().boxed()
    }

    fn bounds<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        _until: Until,
    ) -> BoxFuture<'a, Result<Vec<Result<Bounds>>>> {
        async move {
            let bounds = partitions.iter().map(|partition| {
                let (_, reference) = self.reference(partition)?;
                let leader_epoch = reference.last.map_or(-1, |last| last.leader_epoch);
                Ok(Bounds { start: reference.start, end: reference.end, leader_epoch })
            });
            Ok(bounds.collect())
        }
        .boxed()
    }

    fn epoch_ends<'a>(
        &'a self,
        epochs: &'a [(TopicPartition, i32)],
    ) -> BoxFuture<'a, Result<Vec<Result<Option<EpochEnd>>>>> {
        async move {
            let asked = stream::iter(epochs.to_vec());
            let ends = asked.map(|(partition, epoch)| async move { self.epoch_end(&partition, epoch).await });
            Ok(ends.buffered(PUTS).collect().await)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        offset: i64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Bytes>> {
        self.read_at(partition, offset, max_bytes).boxed()
    }

    fn least_read(&self) -> usize {
        self.object_bytes.max(1 << 20)
    }
}

/// The topic as it is to be created again.
///
/// Partitions are numbered from 0 without a gap, or nothing could be created.
fn topic_of(manifest: &TopicManifest) -> Result<Topic> {
    let numbered = manifest.partitions.iter().enumerate().all(|(index, known)| known.partition as usize == index);
    if !numbered {
        let message = format!("snapshot lacks partitions of a topic topic={}", manifest.topic);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(Topic {
        name: manifest.topic.clone(),
        id: manifest.topic_id,
        partitions: manifest.partitions.iter().map(|partition| partition.replicas.clone()).collect(),
        replication_factor: manifest.replication_factor,
        config: manifest.config.iter().map(|entry| (entry.name.clone(), entry.value.clone())).collect(),
    })
}
