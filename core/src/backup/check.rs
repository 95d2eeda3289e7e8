//! Check: whether a repository holds what its snapshots say.

use std::collections::HashMap;
use std::ops::Range;

use futures::future::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::manifest::{
    ClusterManifest, Digest, GroupsManifest, LastBatch, Object, PartitionReference, TopicReference, TopicsManifest,
};
use super::repository::{MANIFESTS, OBJECTS, Place, Repository, RepositoryError, Snapshot, object_path};
use crate::replication::{Run, TopicPartition};
use crate::{Error, ErrorKind, Result};

/// How many objects are read at a time.
const READS: usize = 4;

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Whether every object is read and each hash and checksum computed, or only what manifests and the list of objects say.
    pub read_data: bool,
    /// Of which objects the data is read. Default: of all.
    pub sample: Sample,
}

/// A part of the objects, the same for the same seed. Each is in it by its name, so that a part of each partition is, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many of a million.
    pub of_million: u32,
    /// What makes another part.
    pub seed: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { of_million: 1_000_000, seed: 0 }
    }
}

impl Sample {
    fn has(self, name: &Digest) -> bool {
        if self.of_million >= 1_000_000 {
            return true;
        }
        let drawn = Digest::of([&self.seed.to_be_bytes()[..], &name.0]).0;
        let drawn = u32::from_be_bytes([drawn[0], drawn[1], drawn[2], drawn[3]]);
        u64::from(drawn) * 1_000_000 < u64::from(self.of_million) << 32
    }
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Manifests that were read and verified, the snapshots' own among them.
    pub manifests: u64,
    /// Objects that snapshots name.
    pub objects: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// Of those, the bytes that were read and verified.
    pub read_bytes: u64,
    /// Objects and manifests that no snapshot names: left by interrupted backups, removed by prune.
    pub unreferenced: u64,
    /// Their bytes as stored.
    pub unreferenced_bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The snapshots in which it shows.
    pub snapshots: Vec<String>,
    /// The topic and partition, if it is about one.
    pub partition: Option<TopicPartition>,
    /// The offsets that cannot be restored, if it is about some.
    pub offsets: Option<Range<i64>>,
    /// What is wrong, and where.
    pub message: String,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks every snapshot of `repository`. What several share is read once.
///
/// # Errors
/// The store's. What is wrong with the repository is no error but in the report.
pub async fn check(repository: &Repository, options: CheckOptions) -> Result<CheckReport> {
    let mut check = Check {
        repository,
        options,
        report: CheckReport::default(),
        sizes: sizes(repository, OBJECTS).await?,
        seen: HashMap::new(),
        snapshot: String::new(),
    };
    for (path, reason) in repository.damaged_keys().await? {
        let message = format!("key file is damaged, who needs it cannot open the repository: {reason} path={path}");
        let problem = Problem { snapshots: Vec::new(), partition: None, offsets: None, message };
        check.report.problems.push(problem);
    }
    let manifests = sizes(repository, MANIFESTS).await?;
    for id in repository.snapshot_ids().await? {
        check.report.snapshots += 1;
        check.snapshot = id.short();
        match repository.snapshot(id).await {
            Ok(snapshot) => {
                check.report.manifests += 1;
                check.snapshot(&snapshot).await?;
            }
            Err(error) => {
                check.found(error, None, None)?;
            }
        }
    }
    let Check { mut report, sizes, seen, .. } = check;
    for (_, bytes) in sizes.iter().chain(&manifests).filter(|(name, _)| !seen.contains_key(name)) {
        report.unreferenced += 1;
        report.unreferenced_bytes += bytes;
    }
    Ok(report)
}

/// The names and sizes of what is under `prefix` and named as ours are.
async fn sizes(repository: &Repository, prefix: &str) -> Result<HashMap<Digest, u64>> {
    let listed = repository.store().list(prefix);
    let named = listed.try_filter_map(|object| async move {
        let name = object.path.rsplit('/').next().and_then(Digest::from_hex);
        Ok(name.map(|name| (name, object.bytes)))
    });
    named.try_collect().await
}

/// Places of problems in the report.
type Found = Vec<usize>;

struct Check<'a> {
    repository: &'a Repository,
    options: CheckOptions,
    report: CheckReport,
    /// The objects that are there.
    sizes: HashMap<Digest, u64>,
    /// The manifests and objects that were looked at, and what is wrong with each or below it.
    seen: HashMap<Digest, Found>,
    /// The snapshot that is being looked at.
    snapshot: String,
}

impl Check<'_> {
    async fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let place = Place::snapshot(snapshot.id.name);
        let groups = snapshot.manifest.groups;
        if self.again(&groups.name).is_none() {
            let read = self.repository.get_manifest::<GroupsManifest>(groups, &place).await;
            let found = self.read(read, None, None)?.1;
            self.seen.insert(groups.name, found);
        }
        if let Some(cluster) = snapshot.manifest.cluster
            && self.again(&cluster.name).is_none()
        {
            let read = self.repository.get_manifest::<ClusterManifest>(cluster, &place).await;
            let found = self.read(read, None, None)?.1;
            self.seen.insert(cluster.name, found);
        }
        let topics = snapshot.manifest.topics;
        if self.again(&topics.name).is_some() {
            return Ok(());
        }
        let read = self.repository.get_manifest::<TopicsManifest>(topics, &place).await;
        let (manifest, mut found) = self.read(read, None, None)?;
        for topic in manifest.iter().flat_map(|manifest| &manifest.topics) {
            found.extend(self.topic(topic).await?);
        }
        self.seen.insert(topics.name, found);
        Ok(())
    }

    async fn topic(&mut self, topic: &TopicReference) -> Result<Found> {
        if let Some(found) = self.again(&topic.manifest.name) {
            return Ok(found);
        }
        let read = self.repository.topic(topic).await;
        let (manifest, mut found) = self.read(read, None, None)?;
        for reference in manifest.iter().flat_map(|manifest| &manifest.partitions) {
            let partition = TopicPartition::new(topic.topic.as_str(), reference.partition);
            found.extend(self.partition(&partition, reference, topic).await?);
        }
        self.seen.insert(topic.manifest.name, found.clone());
        Ok(found)
    }

    async fn partition(
        &mut self,
        partition: &TopicPartition,
        reference: &PartitionReference,
        topic: &TopicReference,
    ) -> Result<Found> {
        if let Some(found) = self.again(&reference.manifest.name) {
            return Ok(found);
        }
        let read = self.repository.partition(reference, partition, topic.topic_id).await;
        let (manifest, mut found) = self.read(read, Some(partition), Some(reference.start..reference.end))?;
        for page in manifest.iter().flat_map(|manifest| &manifest.pages) {
            if let Some(known) = self.again(&page.page.name) {
                found.extend(known);
                continue;
            }
            let read = self.repository.page(page, partition, topic.topic_id).await;
            let (read, mut below) = self.read(read, Some(partition), Some(page.start..page.end))?;
            if let Some(read) = read {
                below.extend(self.objects(partition, &read.objects).await?);
            }
            self.seen.insert(page.page.name, below.clone());
            found.extend(below);
        }
        if let Some(manifest) = manifest {
            found.extend(self.objects(partition, &manifest.objects).await?);
        }
        self.seen.insert(reference.manifest.name, found.clone());
        Ok(found)
    }

    async fn objects(&mut self, partition: &TopicPartition, objects: &[Object]) -> Result<Found> {
        let mut all = Found::new();
        let mut unseen = Vec::new();
        for object in objects {
            match self.again(&object.name) {
                Some(found) => all.extend(found),
                None => unseen.push(object),
            }
        }
        let (repository, sizes, options) = (self.repository, &self.sizes, self.options);
        let checked: Vec<Result<()>> = stream::iter(0..unseen.len())
            .map(|index| check_object(repository, options, sizes, partition, unseen[index]).boxed())
            .buffered(READS)
            .collect()
            .await;
        for (object, checked) in unseen.into_iter().zip(checked) {
            self.report.objects += 1;
            self.report.stored_bytes += object.stored_bytes;
            let mut found = Found::new();
            match checked {
                Ok(()) if self.options.read_data && self.options.sample.has(&object.name) => {
                    self.report.read_bytes += object.stored_bytes
                }
                Ok(()) => {}
                Err(error) => found.push(self.found(error, Some(partition), Some(object.start..object.end))?),
            }
            self.seen.insert(object.name, found.clone());
            all.extend(found);
        }
        Ok(all)
    }

    /// What was found before, if the manifest or object has been looked at; it shows in this snapshot, too.
    fn again(&mut self, name: &Digest) -> Option<Found> {
        let found = self.seen.get(name)?.clone();
        for &problem in &found {
            let snapshots = &mut self.report.problems[problem].snapshots;
            if snapshots.last() != Some(&self.snapshot) {
                snapshots.push(self.snapshot.clone());
            }
        }
        Some(found)
    }

    /// Counts a manifest that was read, or notes why it could not be.
    fn read<M>(
        &mut self,
        read: Result<M>,
        partition: Option<&TopicPartition>,
        offsets: Option<Range<i64>>,
    ) -> Result<(Option<M>, Found)> {
        match read {
            Ok(manifest) => {
                self.report.manifests += 1;
                Ok((Some(manifest), Found::new()))
            }
            Err(error) => Ok((None, vec![self.found(error, partition, offsets)?])),
        }
    }

    /// Notes what is wrong with the repository; passes on what is wrong with the way to it.
    fn found(
        &mut self,
        error: Error,
        partition: Option<&TopicPartition>,
        offsets: Option<Range<i64>>,
    ) -> Result<usize> {
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported) {
            return Err(error);
        }
        self.report.problems.push(Problem {
            snapshots: vec![self.snapshot.clone()],
            partition: partition.cloned(),
            offsets,
            message: error.to_string(),
        });
        Ok(self.report.problems.len() - 1)
    }
}

/// Whether an object is there, and, if its data is to be read, whether it is what its manifest says.
async fn check_object(
    repository: &Repository,
    options: CheckOptions,
    sizes: &HashMap<Digest, u64>,
    partition: &TopicPartition,
    object: &Object,
) -> Result<()> {
    let place = Place::partition(&partition.topic, partition.partition, object.start..object.end);
    let path = object_path(&object.name);
    if !options.read_data || !options.sample.has(&object.name) {
        return match sizes.get(&object.name) {
            None => Err(RepositoryError::Missing { place, path }.into()),
            Some(bytes) if *bytes != object.stored_bytes => {
                let reason = format!("size differs expected={} found={bytes}", object.stored_bytes);
                Err(RepositoryError::Damaged { place, path, reason }.into())
            }
            Some(_) => Ok(()),
        };
    }
    let bytes = repository.get_object(object, &place).await?;
    let damaged =
        |reason: String| Error::from(RepositoryError::Damaged { place: place.clone(), path: path.clone(), reason });
    let first_epoch = object.epochs.first().map_or(-1, |first| first.epoch);
    let run = Run::check(&bytes, object.start, first_epoch, i64::MAX).map_err(|error| damaged(error.to_string()))?;
    let (first, last) = (run.batches().first(), run.batches().last());
    let fits = run.bytes().len() == bytes.len()
        && first.is_some_and(|first| first.base_offset() == object.start)
        && last.is_some_and(|last| LastBatch::from(last) == object.last && last.next_offset() == object.end)
        && (run.batches().len() as u64, run.records()) == (object.batches, object.records);
    if fits { Ok(()) } else { Err(damaged("holds other batches than its manifest says".to_owned())) }
}
