//! Copies of snapshots from one repository to another, whose keys may differ.

use std::collections::HashMap;

use futures::future::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::manifest::{
    ClusterManifest, Digest, GroupsManifest, MarkManifest, Object, PageReference, PartitionReference, Reference,
    TopicReference, TopicsManifest,
};
use super::repository::{Place, Repository, Snapshot, SnapshotId};
use crate::clock::Clock;
use crate::replication::TopicPartition;
use crate::{Error, Result};

/// How many objects are copied at a time: each is in memory meanwhile.
const OBJECTS: usize = 4;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// The snapshots that were copied: what each is called in the source, and in the target.
    pub snapshots: Vec<(SnapshotId, SnapshotId)>,
    /// Those that the target had.
    pub present: Vec<SnapshotId>,
    /// Objects that were read and put.
    pub objects: u64,
    /// Their bytes as stored in the target.
    pub stored_bytes: u64,
}

/// Copies `snapshots` of `source` to `target`, oldest first: objects and manifests as they are, sealed for the target. What
/// several snapshots share is copied once; each object's hash is verified. A snapshot that the target has a copy of is left out. `progress` is
/// called with what was copied, after each object.
///
/// # Errors
/// `Corrupt` or `NotFound` if something in the source is damaged or missing; `Denied` if its key only writes; the stores'. Run
/// again, it goes on: what was put is found present.
pub async fn transfer(
    source: &Repository,
    target: &Repository,
    snapshots: &[Snapshot],
    clock: &dyn Clock,
    progress: &(dyn Fn(&Transferred) + Send + Sync),
) -> Result<Transferred> {
    let there = target.snapshots().await?;
    let known = there.into_iter().map(|there| (there.manifest.original.unwrap_or(there.id.name), there)).collect();
    let marks = target.marks().await?;
    let mut transfer = Transfer {
        source,
        target,
        progress,
        clock,
        marks,
        known,
        manifests: HashMap::new(),
        objects: HashMap::new(),
        done: Transferred::default(),
    };
    let mut snapshots: Vec<&Snapshot> = snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| snapshot.id);
    for snapshot in snapshots {
        transfer.snapshot(snapshot).await?;
    }
    Ok(transfer.done)
}

struct Transfer<'a> {
    source: &'a Repository,
    target: &'a Repository,
    progress: &'a (dyn Fn(&Transferred) + Send + Sync),
    clock: &'a dyn Clock,
    /// The target's marks when this began.
    marks: Vec<(String, MarkManifest)>,
    /// Snapshots that the target has, by what they were called first.
    known: HashMap<Digest, Snapshot>,
    /// What manifests of the source are called in the target.
    manifests: HashMap<Digest, Reference>,
    /// What objects of the source are in the target.
    objects: HashMap<Digest, Object>,
    done: Transferred,
}

impl Transfer<'_> {
    async fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let original = snapshot.manifest.original.unwrap_or(snapshot.id.name);
        if let Some(there) = self.known.get(&original).cloned() {
            self.done.present.push(snapshot.id);
            return self.learn(snapshot, &there).await;
        }
        let place = Place::snapshot(snapshot.id.name);
        let mut manifest = snapshot.manifest.clone();
        let groups: GroupsManifest = self.source.get_manifest(manifest.groups, &place).await?;
        manifest.groups = self.target.put_manifest(&groups, None).await?;
        if let Some(cluster) = manifest.cluster {
            let cluster: ClusterManifest = self.source.get_manifest(cluster, &place).await?;
            manifest.cluster = Some(self.target.put_manifest(&cluster, None).await?);
        }
        manifest.topics = self.topics(snapshot.manifest.topics, &place).await?;
        // The parent is called otherwise there, or is not there.
        manifest.parent = manifest.parent.and_then(|parent| self.known.get(&parent).map(|known| known.id.name));
        let mut stored_bytes = 0_u64;
        let topics: TopicsManifest = self.target.get_manifest(manifest.topics, &place).await?;
        for topic in &topics.topics {
            let partitions = self.target.topic(topic).await?.partitions;
            stored_bytes += partitions.iter().map(|partition| partition.stored_bytes).sum::<u64>();
        }
        manifest.totals.stored_bytes = stored_bytes;
        manifest.original = Some(original);
        let made = self.target.commit(manifest, &self.marks, self.clock.now()).await?;
        self.done.snapshots.push((snapshot.id, made.id));
        self.known.insert(original, made.clone());
        // What later snapshots call their parent.
        self.known.insert(snapshot.id.name, made);
        (self.progress)(&self.done);
        Ok(())
    }

    /// Notes what is called how in the target, of a snapshot that was copied before: the two trees have the same shape.
    async fn learn(&mut self, snapshot: &Snapshot, there: &Snapshot) -> Result<()> {
        let (from, to) = (snapshot.manifest.topics, there.manifest.topics);
        if self.manifests.insert(from.name, to).is_some() {
            return Ok(());
        }
        let from: TopicsManifest = self.source.get_manifest(from, &Place::snapshot(snapshot.id.name)).await?;
        let to: TopicsManifest = self.target.get_manifest(to, &Place::snapshot(there.id.name)).await?;
        for (from, to) in from.topics.iter().zip(&to.topics) {
            if self.manifests.insert(from.manifest.name, to.manifest).is_some() {
                continue;
            }
            let (topic, id) = (from.topic.as_str(), from.topic_id);
            let (from, to) = (self.source.topic(from).await?, self.target.topic(to).await?);
            for (from, to) in from.partitions.iter().zip(&to.partitions) {
                if self.manifests.insert(from.manifest.name, to.manifest).is_some() {
                    continue;
                }
                let partition = TopicPartition::new(topic, from.partition);
                let from = self.source.partition(from, &partition, id).await?;
                let to = self.target.partition(to, &partition, id).await?;
                for (from, to) in from.pages.iter().zip(&to.pages) {
                    if self.manifests.insert(from.page.name, to.page).is_some() {
                        continue;
                    }
                    let from = self.source.page(from, &partition, id).await?;
                    let to = self.target.page(to, &partition, id).await?;
                    self.learn_objects(&from.objects, &to.objects);
                }
                self.learn_objects(&from.objects, &to.objects);
            }
        }
        Ok(())
    }

    fn learn_objects(&mut self, from: &[Object], to: &[Object]) {
        let same = from.iter().zip(to).filter(|(from, to)| (from.start, from.last) == (to.start, to.last));
        self.objects.extend(same.map(|(from, to)| (from.name, to.clone())));
    }

    async fn topics(&mut self, reference: Reference, place: &Place) -> Result<Reference> {
        if let Some(known) = self.manifests.get(&reference.name) {
            return Ok(*known);
        }
        let mut topics: TopicsManifest = self.source.get_manifest(reference, place).await?;
        for topic in &mut topics.topics {
            topic.manifest = self.topic(topic).await?;
        }
        self.put(reference, &topics).await
    }

    async fn topic(&mut self, topic: &TopicReference) -> Result<Reference> {
        if let Some(known) = self.manifests.get(&topic.manifest.name) {
            return Ok(*known);
        }
        let mut manifest = self.source.topic(topic).await?;
        for reference in &mut manifest.partitions {
            *reference = self.partition(topic, reference).await?;
        }
        self.put(topic.manifest, &manifest).await
    }

    async fn partition(
        &mut self,
        topic: &TopicReference,
        reference: &PartitionReference,
    ) -> Result<PartitionReference> {
        let partition = TopicPartition::new(topic.topic.as_str(), reference.partition);
        let mut manifest = self.source.partition(reference, &partition, topic.topic_id).await?;
        for page in &mut manifest.pages {
            *page = self.page(topic, &partition, page).await?;
        }
        manifest.objects = self.objects(&partition, &manifest.objects).await?;
        let stored_bytes = manifest.totals().stored_bytes;
        let put = match self.manifests.get(&reference.manifest.name) {
            Some(known) => *known,
            None => self.put(reference.manifest, &manifest).await?,
        };
        Ok(PartitionReference { manifest: put, stored_bytes, ..reference.clone() })
    }

    async fn page(
        &mut self,
        topic: &TopicReference,
        partition: &TopicPartition,
        reference: &PageReference,
    ) -> Result<PageReference> {
        let mut page = self.source.page(reference, partition, topic.topic_id).await?;
        page.objects = self.objects(partition, &page.objects).await?;
        let put = match self.manifests.get(&reference.page.name) {
            Some(known) => *known,
            None => self.put(reference.page, &page).await?,
        };
        Ok(page.reference(put))
    }

    async fn objects(&mut self, partition: &TopicPartition, objects: &[Object]) -> Result<Vec<Object>> {
        let (source, target) = (self.source, self.target);
        let unknown: Vec<&Object> = objects.iter().filter(|object| !self.objects.contains_key(&object.name)).collect();
        let mut copies = stream::iter(0..unknown.len())
            .map(|index| {
                let object = unknown[index];
                async move {
                    let place = Place::partition(&partition.topic, partition.partition, object.start..object.end);
                    let body = source.get_object(object, &place).await?;
                    let put = target.put_object(vec![body], object.encoding.into()).await?;
                    let (stored_bytes, encoding) = (put.bytes, put.encoding);
                    Ok::<_, Error>((object.name, Object { name: put.name, stored_bytes, encoding, ..object.clone() }))
                }
                .boxed()
            })
            .buffered(OBJECTS);
        while let Some((name, object)) = copies.try_next().await? {
            self.done.objects += 1;
            self.done.stored_bytes += object.stored_bytes;
            self.objects.insert(name, object);
            (self.progress)(&self.done);
        }
        // Each is there now, or was.
        Ok(objects.iter().filter_map(|object| self.objects.get(&object.name).cloned()).collect())
    }

    async fn put<M: super::manifest::Manifest>(&mut self, was: Reference, manifest: &M) -> Result<Reference> {
        let reference = self.target.put_manifest(manifest, None).await?;
        self.manifests.insert(was.name, reference);
        Ok(reference)
    }
}
