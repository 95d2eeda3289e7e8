//! A repository: immutable objects and manifests in an object store, and the snapshots that name them.
//!
//! ```text
//! ottla-repository                 that this is a repository, its id, its format
//! objects/9f/9f1c…                 record batches of a partition; the name is the hash of the bytes
//! manifests/03/03aa…               topics, topic, partition, page and groups manifests; likewise
//! snapshots/001764142500000-5be1…  snapshot manifests; time in milliseconds, then the hash
//! marks/4f1b…                      what a prune may remove later
//! pending/77d0…                    what backups have put and no snapshot names yet
//! keys/c29a…                       key files, if it is encrypted
//! ```
//!
//! Nothing is ever changed: objects are put once and deleted by `prune` alone. A snapshot is committed by one put, after
//! everything below it is there; until then there is no snapshot, and whatever was put is found through `pending/` by the
//! next backup, or because putting the same bytes again finds the same name present.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use uuid::Uuid;

use super::encryption::{Seal, SealError, Shelf};
use super::keys::{Lock, OpenKeys, Secret, put_first_key, unlock};
use super::manifest::{
    Digest, ENCRYPTED, Encoding, FORMAT, Kind, MAX_MANIFEST_BYTES, Manifest, ManifestError, MarkManifest, Object,
    PLAIN, PageManifest, PageReference, PartitionManifest, PartitionReference, PendingManifest, Reference,
    RepositoryManifest, SnapshotManifest, TopicManifest, TopicReference, clipped,
};
use super::objects::{ObjectStore, Put};
use super::prune::check_marks;
use crate::replication::TopicPartition;
use crate::{Error, ErrorKind, Result, Timestamp};

/// Where the repository's own manifest is.
pub(super) const REPOSITORY: &str = "ottla-repository";
pub(super) const OBJECTS: &str = "objects/";
pub(super) const MANIFESTS: &str = "manifests/";
pub(super) const SNAPSHOTS: &str = "snapshots/";
pub(super) const PENDING: &str = "pending/";
pub(super) const MARKS: &str = "marks/";
pub(super) const KEYS: &str = "keys/";

/// The level of Zstandard: what its program takes unless it is told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// How much more than a manifest a file called `ottla-repository` is read for; it is a few hundred bytes.
const MAX_REPOSITORY_BYTES: u64 = 64 << 10;

/// What can be wrong with a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Nothing there says that it is a repository.
    #[error("no repository there, the first backup makes one repository={repository}")]
    NoRepository {
        /// Where it was looked for.
        repository: String,
    },
    /// A repository is there already.
    #[error("a repository is there already repository={repository}")]
    RepositoryExists {
        /// Where.
        repository: String,
    },
    /// There are objects, but they are not a repository's.
    #[error("not empty and not a repository, choose another place repository={repository} found={found}")]
    NotEmpty {
        /// Where.
        repository: String,
        /// One of the objects.
        found: String,
    },
    /// It is encrypted, and nothing was given that could open it.
    #[error(
        "repository is encrypted, give its passphrase (OTTLA_PASSPHRASE, --passphrase-file) or --identity repository={repository}"
    )]
    Encrypted {
        /// Where.
        repository: String,
    },
    /// What was given opens none of its key files.
    #[error("wrong key: what was given opens none of the repository's key files repository={repository} keys={keys}")]
    WrongKey {
        /// Where.
        repository: String,
        /// How many key files there are.
        keys: usize,
    },
    /// A key was given, and it is plain: somebody may have put another repository in its place.
    #[error(
        "repository is not encrypted, but a key was given; --no-encryption takes it as it is repository={repository}"
    )]
    NotEncrypted {
        /// Where.
        repository: String,
    },
    /// The key only writes.
    #[error("this needs a key that reads, and the one that was given only writes repository={repository}")]
    WriteOnly {
        /// Where.
        repository: String,
    },
    /// A prune is about to remove what a snapshot that was to be committed needs, or has.
    #[error(
        "a prune is removing what this needs, run it again after `ottla prune` repository={repository} name={name}"
    )]
    Pruned {
        /// Where.
        repository: String,
        /// An object or manifest.
        name: Digest,
    },
    /// No snapshot has the name that was asked for.
    #[error("no such snapshot repository={repository} snapshot={snapshot}")]
    NoSnapshot {
        /// Where.
        repository: String,
        /// What was asked for.
        snapshot: String,
    },
    /// Several snapshots' names begin with what was asked for.
    #[error("more than one snapshot begins so, give more digits snapshot={snapshot} matches={matches}")]
    AmbiguousSnapshot {
        /// What was asked for.
        snapshot: String,
        /// How many there are.
        matches: usize,
    },
    /// An object or manifest that should be there is not.
    #[error("object is missing from the repository {place}path={path}")]
    Missing {
        /// What it holds.
        place: Place,
        /// Where it should be.
        path: String,
    },
    /// The bytes of an object or manifest are not those that were put.
    #[error("object is damaged: {reason} {place}path={path}")]
    Damaged {
        /// What it holds.
        place: Place,
        /// Where it is.
        path: String,
        /// How that is known.
        reason: String,
    },
    /// A manifest's bytes are as they were put, but cannot be read.
    #[error("manifest {source} {place}path={path}")]
    Manifest {
        /// What it is about.
        place: Place,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: ManifestError,
    },
}

impl RepositoryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } | Self::NoSnapshot { .. } | Self::Missing { .. } => ErrorKind::NotFound,
            Self::RepositoryExists { .. } => ErrorKind::AlreadyExists,
            Self::NotEmpty { .. } | Self::AmbiguousSnapshot { .. } | Self::NotEncrypted { .. } => ErrorKind::Invalid,
            Self::Encrypted { .. } | Self::WrongKey { .. } | Self::WriteOnly { .. } => ErrorKind::Denied,
            Self::Pruned { .. } => ErrorKind::Retriable,
            Self::Manifest { source: ManifestError::Format { .. }, .. } => ErrorKind::Unsupported,
            Self::Damaged { .. } | Self::Manifest { .. } => ErrorKind::Corrupt,
        }
    }
}

impl From<RepositoryError> for Error {
    fn from(error: RepositoryError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// What an object or manifest is part of, as far as that is known where it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The snapshot.
    pub snapshot: Option<Digest>,
    /// The topic.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// The offsets.
    pub offsets: Option<Range<i64>>,
}

impl Place {
    /// Somewhere in `snapshot`.
    pub fn snapshot(snapshot: Digest) -> Self {
        Self { snapshot: Some(snapshot), ..Self::default() }
    }

    /// Somewhere in `topic`.
    pub fn topic(topic: &str) -> Self {
        Self { topic: Some(topic.to_owned()), ..Self::default() }
    }

    /// `offsets` of a partition.
    pub fn partition(topic: &str, partition: i32, offsets: Range<i64>) -> Self {
        Self { partition: Some(partition), offsets: Some(offsets), ..Self::topic(topic) }
    }
}

/// The facts that are known, each with a space after it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fact = |name: &str, value: &dyn fmt::Display| write!(f, "{name}={value} ");
        if let Some(snapshot) = &self.snapshot {
            fact("snapshot", snapshot)?;
        }
        match (&self.topic, self.partition) {
            (Some(topic), Some(partition)) => fact("partition", &format_args!("{topic}-{partition}"))?,
            (Some(topic), None) => fact("topic", topic)?,
            (None, _) => {}
        }
        if let Some(offsets) = &self.offsets {
            fact("offsets", &format_args!("{}..{}", offsets.start, offsets.end))?;
        }
        Ok(())
    }
}

/// A snapshot's name: when it was taken, and the hash of its manifest. Ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId {
    /// When its ends were noted, as its name says.
    pub time: Timestamp,
    /// The hash of its manifest. A person gives the first digits of it.
    pub name: Digest,
}

impl SnapshotId {
    pub(super) fn path(&self) -> String {
        format!("{SNAPSHOTS}{:015}-{}", self.time, self.name)
    }

    fn from_path(path: &str) -> Option<Self> {
        let (time, name) = path.strip_prefix(SNAPSHOTS)?.split_once('-')?;
        let id = Self { time: time.parse().ok().filter(|time| *time >= 0)?, name: Digest::from_hex(name)? };
        (id.path() == path).then_some(id)
    }

    /// The first digits of its name: what is shown, and enough to name it.
    pub fn short(&self) -> String {
        self.name.to_string()[..12].to_owned()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.name, f)
    }
}

/// A snapshot's name and manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What it says.
    pub manifest: SnapshotManifest,
}

/// How bodies of objects are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are: valid segments of a Kafka log.
    #[default]
    None,
    /// Compressed as a whole, where that makes them smaller. Reading them gives the same bytes.
    Zstd,
}

impl From<Encoding> for Compression {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Plain => Self::None,
            Encoding::Zstd => Self::Zstd,
        }
    }
}

/// An object that was put.
#[derive(Clone, Copy, Debug)]
pub(super) struct PutObject {
    pub(super) name: Digest,
    pub(super) bytes: u64,
    pub(super) encoding: Encoding,
}

fn compress(parts: Vec<Bytes>, compression: Compression) -> Result<(Vec<Bytes>, Encoding)> {
    if compression == Compression::None {
        return Ok((parts, Encoding::Plain));
    }
    let failed = |error| Error::new(ErrorKind::Internal, "zstd cannot compress").with_source(error);
    let size: usize = parts.iter().map(Bytes::len).sum();
    let write = || -> io::Result<Vec<u8>> {
        let mut encoder = zstd::stream::Encoder::new(Vec::with_capacity(size / 2), ZSTD_LEVEL)?;
        encoder.set_pledged_src_size(Some(size as u64))?;
        parts.iter().try_for_each(|part| encoder.write_all(part))?;
        encoder.finish()
    };
    let compressed = write().map_err(failed)?;
    match compressed.len() < size {
        true => Ok((vec![Bytes::from(compressed)], Encoding::Zstd)),
        false => Ok((parts, Encoding::Plain)),
    }
}

/// What was compressed, and one byte more at most than `size`: memory is taken as bytes come out, not as a number says.
fn decompress(bytes: &[u8], size: u64) -> io::Result<Bytes> {
    let mut body = Vec::with_capacity((size as usize).min(bytes.len().saturating_mul(8)));
    zstd::stream::Decoder::with_buffer(bytes)?.single_frame().take(size + 1).read_to_end(&mut body)?;
    Ok(Bytes::from(body))
}

/// A repository that is open. Clones share it.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    manifest: RepositoryManifest,
    seal: Seal,
    /// The keys that it was opened with, if it is encrypted.
    keys: Option<OpenKeys>,
}

impl Repository {
    /// Makes a plain repository in an empty `store`, with `id` for good.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one; `Invalid` if something else is there; the store's own.
    pub async fn create(store: Arc<dyn ObjectStore>, id: Uuid, now: Timestamp) -> Result<Self> {
        Self::check_free(&*store).await?;
        Self::put_manifest_of(store, id, now, None).await
    }

    /// Makes an encrypted repository in an empty `store`, with `id` for good and a key file for `lock`. `seed` is 32 bytes that
    /// nobody can guess and that are used once.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_encrypted(
        store: Arc<dyn ObjectStore>,
        id: Uuid,
        now: Timestamp,
        lock: &Lock,
        seed: &[u8; 32],
    ) -> Result<Self> {
        Self::check_free(&*store).await?;
        // The key first: a repository without one would be of no use.
        let keys = put_first_key(&*store, id, now, lock, seed).await?;
        Self::put_manifest_of(store, id, now, Some(keys)).await
    }

    /// Fails unless a repository can be made in `store`. Key files alone are what an interrupted creation has left.
    async fn check_free(store: &dyn ObjectStore) -> Result<()> {
        if store.size(REPOSITORY).await?.is_some() {
            return Err(RepositoryError::RepositoryExists { repository: store.place() }.into());
        }
        let mut found = store.list("");
        while let Some(object) = found.try_next().await? {
            if !object.path.starts_with(KEYS) {
                return Err(RepositoryError::NotEmpty { repository: store.place(), found: object.path }.into());
            }
        }
        Ok(())
    }

    async fn put_manifest_of(
        store: Arc<dyn ObjectStore>,
        id: Uuid,
        now: Timestamp,
        keys: Option<OpenKeys>,
    ) -> Result<Self> {
        let (hash, encryption) = if keys.is_some() { ("blake3-keyed", ENCRYPTED) } else { ("blake3", PLAIN) };
        let manifest = RepositoryManifest {
            format: FORMAT,
            kind: Kind::Repository,
            id,
            created: now,
            hash: hash.to_owned(),
            encryption: encryption.to_owned(),
        };
        let encoded = manifest.encode();
        let checksum = Digest::of([encoded.as_slice()]);
        let parts = vec![Bytes::from(encoded), Bytes::copy_from_slice(&checksum.0)];
        let put = store.put_if_absent(REPOSITORY, parts).await?;
        // A store that asked again because an answer was lost finds what it has put.
        if put == Put::Created || Self::read_manifest(&*store).await?.id == id {
            return Ok(Self::new(store, manifest, keys));
        }
        Err(RepositoryError::RepositoryExists { repository: store.place() }.into())
    }

    fn new(store: Arc<dyn ObjectStore>, manifest: RepositoryManifest, keys: Option<OpenKeys>) -> Self {
        let seal = keys.as_ref().map_or(Seal::Plain, OpenKeys::seal);
        Self { store, manifest, seal, keys }
    }

    /// The same, with other keys.
    pub(super) fn with_keys(&self, keys: OpenKeys) -> Self {
        Self::new(self.store.clone(), self.manifest.clone(), Some(keys))
    }

    /// The keys that it was opened with, if it is encrypted.
    pub(super) fn keys(&self) -> Option<&OpenKeys> {
        self.keys.as_ref()
    }

    /// Opens the plain repository in `store`.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Denied` if it is encrypted; `Unsupported` if a newer version wrote it; `Corrupt` if its
    /// manifest is damaged; the store's own.
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<Self> {
        let manifest = Self::read_manifest(&*store).await?;
        if manifest.is_encrypted() {
            return Err(RepositoryError::Encrypted { repository: store.place() }.into());
        }
        Ok(Self::new(store, manifest, None))
    }

    /// Opens the encrypted repository in `store` with `secrets`.
    ///
    /// # Errors
    /// `Denied` if they open none of its key files; `Invalid` if it is plain: what one trusts to be sealed must not be written
    /// to what somebody put in its place; as [`open`](Self::open).
    pub async fn unlock(store: Arc<dyn ObjectStore>, secrets: &[Secret]) -> Result<Self> {
        let manifest = Self::read_manifest(&*store).await?;
        if !manifest.is_encrypted() {
            return Err(RepositoryError::NotEncrypted { repository: store.place() }.into());
        }
        let keys = unlock(&*store, manifest.id, secrets).await?;
        Ok(Self::new(store, manifest, Some(keys)))
    }

    /// What the repository in `store` says of itself, for which no key is needed.
    ///
    /// # Errors
    /// As [`open`](Self::open) but `Denied`.
    pub async fn read_manifest(store: &dyn ObjectStore) -> Result<RepositoryManifest> {
        let bytes = match store.get(REPOSITORY, 0..MAX_REPOSITORY_BYTES).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(RepositoryError::NoRepository { repository: store.place() }.into());
            }
            other => other?,
        };
        let damaged = |reason: &str| RepositoryError::Damaged {
            place: Place::default(),
            path: REPOSITORY.to_owned(),
            reason: reason.to_owned(),
        };
        let (encoded, checksum) = bytes.split_last_chunk::<32>().ok_or_else(|| damaged("is too short"))?;
        if Digest::of([encoded]).0 != *checksum {
            return Err(damaged("checksum differs").into());
        }
        let manifest = RepositoryManifest::decode(encoded).map_err(|source| RepositoryError::Manifest {
            place: Place::default(),
            path: REPOSITORY.to_owned(),
            source,
        })?;
        Ok(manifest)
    }

    /// Opens the plain repository in `store`, or makes one, with `id`, if there is nothing.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`create`](Self::create) but that it is there already or not there.
    pub async fn open_or_create(store: Arc<dyn ObjectStore>, id: Uuid, now: Timestamp) -> Result<Self> {
        match Self::open(store.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        match Self::create(store.clone(), id, now).await {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::open(store).await,
            other => other,
        }
    }

    /// Opens the encrypted repository in `store` with `secrets`, or makes one, with `id` and a key file for `lock`, if there is
    /// nothing. `seed` is as in [`create_encrypted`](Self::create_encrypted).
    ///
    /// # Errors
    /// Those of [`unlock`](Self::unlock) and [`create_encrypted`](Self::create_encrypted) but that it is there already or not
    /// there.
    pub async fn unlock_or_create(
        store: Arc<dyn ObjectStore>,
        secrets: &[Secret],
        id: Uuid,
        now: Timestamp,
        lock: &Lock,
        seed: &[u8; 32],
    ) -> Result<Self> {
        match Self::unlock(store.clone(), secrets).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        match Self::create_encrypted(store.clone(), id, now, lock, seed).await {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::unlock(store, secrets).await,
            other => other,
        }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.manifest.id
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &RepositoryManifest {
        &self.manifest
    }

    /// Where it is.
    pub fn place(&self) -> String {
        self.store.place()
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// The snapshots' names, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn snapshot_ids(&self) -> Result<Vec<SnapshotId>> {
        let mut ids: Vec<SnapshotId> = self
            .store
            .list(SNAPSHOTS)
            .try_filter_map(|object| async move { Ok(SnapshotId::from_path(&object.path)) })
            .try_collect()
            .await?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// The snapshots, oldest first. Reads a small manifest for each.
    ///
    /// # Errors
    /// `Corrupt` if one is damaged; the store's.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let mut snapshots = Vec::new();
        for id in self.snapshot_ids().await? {
            snapshots.push(self.snapshot(id).await?);
        }
        Ok(snapshots)
    }

    /// Reads the snapshot `id`.
    ///
    /// # Errors
    /// `NotFound` if it is not there; `Corrupt` if it is damaged; the store's.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<Snapshot> {
        let path = id.path();
        let place = Place::snapshot(id.name);
        let bytes = self.fetch(&path, 0..MAX_MANIFEST_BYTES, &place).await?;
        let manifest: SnapshotManifest = self.verified(Shelf::Snapshots, &path, bytes, id.name, &place)?;
        if manifest.time != id.time {
            let reason = format!("time differs from its name's time={}", manifest.time);
            return Err(RepositoryError::Damaged { place, path, reason }.into());
        }
        Ok(Snapshot { id, manifest })
    }

    /// The snapshot that `name` stands for: `latest`, or the first digits of one's name.
    ///
    /// # Errors
    /// Those of [`find_snapshot_id`](Self::find_snapshot_id) and [`snapshot`](Self::snapshot).
    pub async fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        self.snapshot(self.find_snapshot_id(name).await?).await
    }

    /// The name of the snapshot that `name` stands for, which is not read.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Invalid` if several begin so; the store's.
    pub async fn find_snapshot_id(&self, name: &str) -> Result<SnapshotId> {
        let ids = self.snapshot_ids().await?;
        let matching: Vec<SnapshotId> = match name {
            "latest" => ids.last().copied().into_iter().collect(),
            "" => Vec::new(),
            prefix => ids.into_iter().filter(|id| id.name.to_string().starts_with(prefix)).collect(),
        };
        match matching[..] {
            [id] => Ok(id),
            [] => Err(RepositoryError::NoSnapshot { repository: self.place(), snapshot: clipped(name) }.into()),
            _ => {
                let matches = matching.len();
                Err(RepositoryError::AmbiguousSnapshot { snapshot: clipped(name), matches }.into())
            }
        }
    }

    /// Commits a snapshot: one put, after which it is there. Everything it names must be, and must not be about to be pruned:
    /// `marks` are those that were there when the backup began, `now` is the time.
    pub(super) async fn commit(
        &self,
        manifest: SnapshotManifest,
        marks: &[(String, MarkManifest)],
        now: Timestamp,
    ) -> Result<Snapshot> {
        let sealed = self.seal.seal(Shelf::Snapshots, vec![Bytes::from(manifest.encode())]);
        let id = SnapshotId { time: manifest.time, name: sealed.name };
        let snapshot = Snapshot { id, manifest };
        check_marks(self, &snapshot, marks, now).await?;
        let path = id.path();
        match self.store.put_if_absent(&path, sealed.parts.clone()).await {
            // It may have been put and the answer lost; then it is found present.
            Err(error) if error.is_retriable() => self.store.put_if_absent(&path, sealed.parts).await?,
            put => put?,
        };
        Ok(snapshot)
    }

    /// Puts the body of an object. Finding it present is as good.
    pub(super) async fn put_object(&self, parts: Vec<Bytes>, compression: Compression) -> Result<PutObject> {
        let (parts, encoding) = compress(parts, compression)?;
        let sealed = self.seal.seal(Shelf::Objects, parts);
        self.store.put_if_absent(&object_path(&sealed.name), sealed.parts).await?;
        Ok(PutObject { name: sealed.name, bytes: sealed.bytes, encoding })
    }

    /// Puts a manifest that is not a snapshot, unless it is the one that is `known` to be there.
    pub(super) async fn put_manifest<M: Manifest>(&self, manifest: &M, known: Option<Reference>) -> Result<Reference> {
        let sealed = self.seal.seal(Shelf::Manifests, vec![Bytes::from(manifest.encode())]);
        let reference = Reference { name: sealed.name, bytes: sealed.bytes };
        if reference.bytes > MAX_MANIFEST_BYTES {
            let message = format!(
                "a manifest would be larger than what is read back, choose fewer topics or groups for a repository kind={} bytes={}",
                M::KIND,
                reference.bytes
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if known != Some(reference) {
            self.store.put_if_absent(&manifest_path(&reference.name), sealed.parts).await?;
        }
        Ok(reference)
    }

    /// Reads a manifest that is not a snapshot. `place` says what it is about, for the error.
    pub(super) async fn get_manifest<M: Manifest>(&self, reference: Reference, place: &Place) -> Result<M> {
        let path = manifest_path(&reference.name);
        if reference.bytes > MAX_MANIFEST_BYTES {
            let reason = format!("is too large to be a manifest bytes={}", reference.bytes);
            return Err(RepositoryError::Damaged { place: place.clone(), path, reason }.into());
        }
        let bytes = self.fetch(&path, 0..reference.bytes + 1, place).await?;
        self.verified(Shelf::Manifests, &path, bytes, reference.name, place)
    }

    /// Reads the body of `object`, whole: record batches, as many bytes as it says, under the hash that it says.
    pub(super) async fn get_object(&self, object: &Object, place: &Place) -> Result<Bytes> {
        let path = object_path(&object.name);
        // One byte more, so that a longer object is not taken for its beginning.
        let bytes = self.fetch(&path, 0..object.stored_bytes + 1, place).await?;
        let damaged = |reason| RepositoryError::Damaged { place: place.clone(), path: path.clone(), reason };
        if bytes.len() as u64 != object.stored_bytes {
            return Err(damaged(format!("size differs expected={}", object.stored_bytes)).into());
        }
        let body = self.open_sealed(Shelf::Objects, &path, bytes, object.name, place)?;
        let body = match object.encoding {
            Encoding::Plain => body,
            Encoding::Zstd => decompress(&body, object.bytes).map_err(|error| damaged(error.to_string()))?,
        };
        if body.len() as u64 != object.bytes {
            return Err(damaged(format!("size of its body differs expected={}", object.bytes)).into());
        }
        Ok(body)
    }

    /// The body of the object that is stored as `stored`.
    #[cfg(test)]
    pub(super) fn open_body(&self, name: Digest, stored: Bytes) -> Result<Bytes> {
        self.open_sealed(Shelf::Objects, &object_path(&name), stored, name, &Place::default())
    }

    /// The manifest of the topic that `reference` stands for.
    pub(super) async fn topic(&self, reference: &TopicReference) -> Result<TopicManifest> {
        let place = Place::topic(&reference.topic);
        let manifest: TopicManifest = self.get_manifest(reference.manifest, &place).await?;
        let fits = manifest.topic == reference.topic && manifest.topic_id == reference.topic_id;
        self.fitting(fits, reference.manifest, place)?;
        Ok(manifest)
    }

    /// The manifest of the partition that `reference` stands for.
    pub(super) async fn partition(
        &self,
        reference: &PartitionReference,
        partition: &TopicPartition,
        topic_id: Uuid,
    ) -> Result<PartitionManifest> {
        let place = Place::partition(&partition.topic, partition.partition, reference.start..reference.end);
        let manifest: PartitionManifest = self.get_manifest(reference.manifest, &place).await?;
        let totals = manifest.totals();
        let fits = *manifest.topic == *partition.topic
            && manifest.topic_id == topic_id
            && manifest.partition == partition.partition
            && (manifest.start, manifest.end) == (reference.start, reference.end)
            && (totals.objects, totals.records) == (reference.objects, reference.records)
            && (totals.bytes, totals.stored_bytes) == (reference.bytes, reference.stored_bytes);
        self.fitting(fits, reference.manifest, place)?;
        Ok(manifest)
    }

    /// The page that `reference` stands for.
    pub(super) async fn page(
        &self,
        reference: &PageReference,
        partition: &TopicPartition,
        topic_id: Uuid,
    ) -> Result<PageManifest> {
        let place = Place::partition(&partition.topic, partition.partition, reference.start..reference.end);
        let manifest: PageManifest = self.get_manifest(reference.page, &place).await?;
        let fits = *manifest.topic == *partition.topic
            && manifest.topic_id == topic_id
            && manifest.partition == partition.partition
            && manifest.reference(reference.page) == *reference;
        self.fitting(fits, reference.page, place)?;
        Ok(manifest)
    }

    /// Fails unless a manifest is the one that its reference describes: one may have been put in another's place.
    fn fitting(&self, fits: bool, reference: Reference, place: Place) -> Result<()> {
        if fits {
            return Ok(());
        }
        let reason = "says something else than what refers to it".to_owned();
        Err(RepositoryError::Damaged { place, path: manifest_path(&reference.name), reason }.into())
    }

    /// Whether `object` is there with the size it should have. Reads nothing of it.
    pub(super) async fn has_object(&self, object: &Object) -> Result<bool> {
        Ok(self.store.size(&object_path(&object.name)).await? == Some(object.stored_bytes))
    }

    /// Puts a page of objects that no snapshot names yet; its path.
    pub(super) async fn put_pending(&self, manifest: &PendingManifest) -> Result<String> {
        let sealed = self.seal.seal(Shelf::Pending, vec![Bytes::from(manifest.encode())]);
        let path = format!("{PENDING}{}", sealed.name);
        self.store.put_if_absent(&path, sealed.parts).await?;
        Ok(path)
    }

    /// The pages that were put and not removed. One that is damaged is left out: what it names is read again.
    pub(super) async fn pending(&self) -> Result<Vec<(String, PendingManifest)>> {
        let mut paths: Vec<String> = self.store.list(PENDING).map_ok(|object| object.path).try_collect().await?;
        paths.sort_unstable();
        let mut pages = Vec::new();
        for path in paths {
            let Some(name) = path.strip_prefix(PENDING).and_then(Digest::from_hex) else { continue };
            let bytes = match self.store.get(&path, 0..MAX_MANIFEST_BYTES).await {
                // Another backup has committed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            match self.verified(Shelf::Pending, &path, bytes, name, &Place::default()) {
                Ok(page) => pages.push((path, page)),
                Err(error) => log::warn!("leaving a pending page out: {error}"),
            }
        }
        Ok(pages)
    }

    /// Puts a mark.
    pub(super) async fn put_mark(&self, mark: &MarkManifest) -> Result<()> {
        let sealed = self.seal.seal(Shelf::Marks, vec![Bytes::from(mark.encode())]);
        self.store.put_if_absent(&format!("{MARKS}{}", sealed.name), sealed.parts).await?;
        Ok(())
    }

    /// The marks that are there, with their paths. One that is damaged is left out: what it names stays.
    pub(super) async fn marks(&self) -> Result<Vec<(String, MarkManifest)>> {
        let mut paths: Vec<String> = self.store.list(MARKS).map_ok(|object| object.path).try_collect().await?;
        paths.sort_unstable();
        let mut marks = Vec::new();
        for path in paths {
            let Some(name) = path.strip_prefix(MARKS).and_then(Digest::from_hex) else { continue };
            let bytes = match self.store.get(&path, 0..MAX_MANIFEST_BYTES).await {
                // Another prune is done with it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            match self.verified(Shelf::Marks, &path, bytes, name, &Place::default()) {
                Ok(mark) => marks.push((path, mark)),
                Err(error) => log::warn!("leaving a mark out: {error}"),
            }
        }
        Ok(marks)
    }

    async fn fetch(&self, path: &str, range: Range<u64>, place: &Place) -> Result<Bytes> {
        match self.store.get(path, range).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(RepositoryError::Missing { place: place.clone(), path: path.to_owned() }.into())
            }
            other => other,
        }
    }

    fn verified<M: Manifest>(&self, on: Shelf, path: &str, bytes: Bytes, name: Digest, place: &Place) -> Result<M> {
        let bytes = self.open_sealed(on, path, bytes, name, place)?;
        M::decode(&bytes)
            .map_err(|source| RepositoryError::Manifest { place: place.clone(), path: path.to_owned(), source }.into())
    }

    /// What is stored as `bytes` under `name`.
    fn open_sealed(&self, on: Shelf, path: &str, bytes: Bytes, name: Digest, place: &Place) -> Result<Bytes> {
        let size = bytes.len();
        self.seal.open(on, name, bytes).map_err(|error| match error {
            SealError::WriteOnly => RepositoryError::WriteOnly { repository: self.place() }.into(),
            damage => {
                let reason = format!("{damage} bytes={size}");
                RepositoryError::Damaged { place: place.clone(), path: path.to_owned(), reason }.into()
            }
        })
    }
}

pub(super) fn object_path(name: &Digest) -> String {
    let name = name.to_string();
    format!("{OBJECTS}{}/{name}", &name[..2])
}

pub(super) fn manifest_path(name: &Digest) -> String {
    let name = name.to_string();
    format!("{MANIFESTS}{}/{name}", &name[..2])
}
