//! Prune: what no snapshot needs is removed, in two steps, so that backups may go on meanwhile.
//!
//! A first run *marks* what nothing names. A later run, after a period of grace, looks again and removes what was marked and still
//! is not named by any snapshot or pending page. A backup that would commit what a mark is about to remove fails instead.

use std::collections::{HashMap, HashSet};

use futures::stream::{self, StreamExt, TryStreamExt};

use super::manifest::{Digest, FORMAT, Kind, MarkManifest, TopicsManifest};
use super::recording::PUTS;
use super::repository::{MANIFESTS, OBJECTS, Place, Repository, RepositoryError, Snapshot, manifest_path, object_path};
use crate::replication::TopicPartition;
use crate::{Result, Timestamp};

/// How much clocks may differ, and how long a commit may take: in the last so many milliseconds before a mark is due, a backup does not
/// commit what it names.
const MARGIN_MS: i64 = 10 * 60_000;
/// How many names are in one mark.
const MARK_NAMES: usize = 100_000;

/// How to prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneOptions {
    /// How many milliseconds lie between marking and removing at least: longer than a backup takes. 0 removes at once, which is right only if
    /// no backup runs. Default: a day.
    pub grace_ms: i64,
    /// How old, in milliseconds, what an interrupted backup has written down has to be to be given up. Default: a week.
    pub pending_ms: i64,
    /// Whether nothing is changed.
    pub dry_run: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { grace_ms: 24 * 3_600_000, pending_ms: 7 * 24 * 3_600_000, dry_run: false }
    }
}

/// What a prune has done, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Objects and manifests that were removed.
    pub removed: u64,
    /// Their bytes as stored.
    pub removed_bytes: u64,
    /// Those that were marked, and those that had been and are not due.
    pub marked: u64,
    /// Their bytes as stored.
    pub marked_bytes: u64,
    /// When the last of the marked ones may be removed.
    pub due: Option<Timestamp>,
    /// Pages of interrupted backups that were given up.
    pub pending: u64,
    /// Objects and manifests that are needed.
    pub kept: u64,
    /// Their bytes as stored.
    pub kept_bytes: u64,
}

/// Marks what nothing needs, and removes what was marked long enough ago and is still not needed.
///
/// # Errors
/// `Corrupt` or `NotFound` if a manifest cannot be read, in which case nothing is removed: what it names is not known; the
/// store's. Run again, it goes on.
pub async fn prune(repository: &Repository, options: &PruneOptions, now: Timestamp) -> Result<Pruned> {
    let pruned = pass(repository, options, now).await?;
    if options.grace_ms > 0 || options.dry_run || pruned.marked == 0 {
        return Ok(pruned);
    }
    // What was marked is due already.
    let second = pass(repository, options, now).await?;
    let (removed, removed_bytes) = (pruned.removed + second.removed, pruned.removed_bytes + second.removed_bytes);
    Ok(Pruned { removed, removed_bytes, pending: pruned.pending, ..second })
}

async fn pass(repository: &Repository, options: &PruneOptions, now: Timestamp) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    // The objects before the snapshots: what is put in between is not among them.
    let mut sizes: HashMap<Digest, (Shelf, u64)> = HashMap::new();
    for (prefix, shelf) in [(OBJECTS, Shelf::Objects), (MANIFESTS, Shelf::Manifests)] {
        let mut listed = repository.store().list(prefix);
        while let Some(object) = listed.try_next().await? {
            if let Some(name) = object.path.rsplit('/').next().and_then(Digest::from_hex) {
                sizes.insert(name, (shelf, object.bytes));
            }
        }
    }
    let marks = repository.marks().await?;
    let mut live = HashSet::new();
    for id in repository.snapshot_ids().await? {
        names_of(repository, &repository.snapshot(id).await?, &mut live).await?;
    }
    for (path, page) in repository.pending().await? {
        if now.saturating_sub(page.time) > options.pending_ms {
            pruned.pending += 1;
            if !options.dry_run {
                repository.store().delete(&path).await?;
            }
        } else {
            live.extend(page.objects.iter().map(|pending| pending.object.name));
        }
    }

    let mut waiting: HashSet<Digest> = HashSet::new();
    for (path, mark) in &marks {
        if mark.not_before > now {
            waiting.extend(mark.names());
            pruned.due = pruned.due.max(Some(mark.not_before));
            continue;
        }
        let going: Vec<String> = mark
            .names()
            .filter(|name| !live.contains(name))
            .filter_map(|name| {
                let (shelf, bytes) = sizes.remove(&name)?;
                pruned.removed += 1;
                pruned.removed_bytes += bytes;
                Some(shelf.path(&name))
            })
            .collect();
        if options.dry_run {
            continue;
        }
        stream::iter(going)
            .map(|path| async move { repository.store().delete(&path).await })
            .buffer_unordered(PUTS)
            .try_collect::<()>()
            .await?;
        repository.store().delete(path).await?;
    }

    let mut fresh: Vec<(Digest, Shelf)> = Vec::new();
    for (name, (shelf, bytes)) in &sizes {
        if live.contains(name) {
            pruned.kept += 1;
            pruned.kept_bytes += bytes;
            continue;
        }
        pruned.marked += 1;
        pruned.marked_bytes += bytes;
        if !waiting.contains(name) {
            fresh.push((*name, *shelf));
        }
    }
    fresh.sort_unstable_by_key(|(name, _)| *name);
    let not_before = now.saturating_add(options.grace_ms);
    for names in fresh.chunks(MARK_NAMES) {
        let on = |wanted: Shelf| names.iter().filter(|(_, shelf)| *shelf == wanted).map(|(name, _)| *name).collect();
        let (objects, manifests) = (on(Shelf::Objects), on(Shelf::Manifests));
        let mark = MarkManifest { format: FORMAT, kind: Kind::Mark, time: now, not_before, objects, manifests };
        pruned.due = pruned.due.max(Some(not_before));
        if !options.dry_run {
            repository.put_mark(&mark).await?;
        }
    }
    Ok(pruned)
}

/// Where a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shelf {
    Objects,
    Manifests,
}

impl Shelf {
    fn path(self, name: &Digest) -> String {
        match self {
            Self::Objects => object_path(name),
            Self::Manifests => manifest_path(name),
        }
    }
}

/// Adds the names of everything below `snapshot` to `names`. What is below a manifest that is among them is among them, too.
async fn names_of(repository: &Repository, snapshot: &Snapshot, names: &mut HashSet<Digest>) -> Result<()> {
    let place = Place::snapshot(snapshot.id.name);
    names.insert(snapshot.manifest.groups.name);
    names.extend(snapshot.manifest.cluster.map(|cluster| cluster.name));
    if !names.insert(snapshot.manifest.topics.name) {
        return Ok(());
    }
    let topics: TopicsManifest = repository.get_manifest(snapshot.manifest.topics, &place).await?;
    for topic in &topics.topics {
        if !names.insert(topic.manifest.name) {
            continue;
        }
        for reference in repository.topic(topic).await?.partitions {
            if !names.insert(reference.manifest.name) {
                continue;
            }
            let partition = TopicPartition::new(topic.topic.as_str(), reference.partition);
            let manifest = repository.partition(&reference, &partition, topic.topic_id).await?;
            names.extend(manifest.objects.iter().map(|object| object.name));
            for page in &manifest.pages {
                if names.insert(page.page.name) {
                    let page = repository.page(page, &partition, topic.topic_id).await?;
                    names.extend(page.objects.iter().map(|object| object.name));
                }
            }
        }
    }
    Ok(())
}

/// Fails if a mark that is due, or soon will be, names something below `snapshot`, which is about to be committed: it might be
/// removed before the snapshot is seen. `before` are the marks that were there when its backup began.
pub(super) async fn check_marks(
    repository: &Repository,
    snapshot: &Snapshot,
    before: &[(String, MarkManifest)],
    now: Timestamp,
) -> Result<()> {
    let marks = repository.marks().await?;
    let due = marks.iter().chain(before).filter(|(_, mark)| mark.not_before.saturating_sub(MARGIN_MS) <= now);
    let going: HashSet<Digest> = due.flat_map(|(_, mark)| mark.names()).collect();
    if going.is_empty() {
        return Ok(());
    }
    let mut names = HashSet::new();
    names_of(repository, snapshot, &mut names).await?;
    match names.intersection(&going).next() {
        None => Ok(()),
        Some(name) => Err(RepositoryError::Pruned { repository: repository.place(), name: *name }.into()),
    }
}
