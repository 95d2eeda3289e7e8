//! What a repository says about its objects: the manifests, and how they are written and read.
//!
//! A snapshot is a tree of small manifests, each named by a hash of its bytes, so that two snapshots share every branch in
//! which nothing has changed, and a name that fits is a checksum that holds:
//!
//! ```text
//! snapshot ── topics ── topic ── partition ── objects (record batches as they stood in the log)
//!        └─── groups        (configuration)  └── pages (lists of older objects)
//! ```
//!
//! Each manifest is one MessagePack map whose keys are the names of the fields below, with `format` and `kind` first. Readers
//! skip keys they do not know; what would be wrong to skip raises `format`. `docs/formats.md` has every byte.
//!
//! Nothing here is believed because it could be decoded: [`Manifest::check`] holds every name, number and order to account,
//! and decoding allocates in proportion to the bytes that are there, never to a count in them.

use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::Timestamp;
use crate::replication::ClusterSettings;
pub use crate::replication::{Extent, Hole, LastBatch};

/// The version of the repository's format that is written here, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The largest manifest that is read, in bytes: room for about 300,000 entries in one.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// The largest body of an object that is read, in bytes. A batch may be as large as an `i32` says, and an object holds a
/// whole one at least.
pub const MAX_OBJECT_BYTES: u64 = (1 << 31) + (256 << 20);

/// How many objects a partition's manifest lists itself; older ones move to pages of this many.
pub(super) const PAGE_OBJECTS: usize = 512;

/// The hash of an object's stored bytes (BLAKE3, 32 bytes; keyed in an encrypted repository): its name, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `parts` one after the other.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The keyed digest of `parts` one after the other.
    pub(super) fn keyed<'a>(key: &[u8; 32], parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest that 64 lower-case hexadecimal digits stand for.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(FixedBytes).map(Self)
    }
}

/// Exactly `N` bytes.
struct FixedBytes<const N: usize>;

impl<const N: usize> Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// A UUID as its 16 bytes.
mod uuid_bytes {
    use super::{Deserializer, FixedBytes, Serializer, Uuid};

    pub(super) fn serialize<S: Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(uuid.as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        deserializer.deserialize_bytes(FixedBytes).map(Uuid::from_bytes)
    }
}

/// Bytes of a fixed number.
mod fixed_bytes {
    use super::{Deserializer, FixedBytes, Serializer};

    pub(super) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        deserializer.deserialize_bytes(FixedBytes)
    }
}

/// A secret of 32 bytes that are overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecretBytes(pub(super) Zeroizing<[u8; 32]>);

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&*self.0)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(FixedBytes).map(Zeroizing::new).map(Self)
    }
}

/// Where a manifest or a page is: the name it is stored under, and its size, so that a reader knows what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// The hash of the stored bytes.
    pub name: Digest,
    /// The stored bytes' number.
    pub bytes: u64,
}

/// What a manifest is about. Stored in it, so that one cannot be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The repository itself.
    Repository,
    /// A snapshot.
    Snapshot,
    /// The list of a snapshot's topics.
    Topics,
    /// One topic.
    Topic,
    /// One partition.
    Partition,
    /// A page of a partition's objects.
    Page,
    /// Consumer groups and their committed offsets.
    Groups,
    /// Access rules, users and quotas.
    Cluster,
    /// Objects that a backup has put and no snapshot names yet.
    Pending,
    /// Names of what is to be pruned.
    Mark,
    /// What a key file says openly.
    Key,
    /// What a key file wraps.
    Secrets,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repository => "repository",
            Self::Snapshot => "snapshot",
            Self::Topics => "topics",
            Self::Topic => "topic",
            Self::Partition => "partition",
            Self::Page => "page",
            Self::Groups => "groups",
            Self::Cluster => "cluster",
            Self::Pending => "pending",
            Self::Mark => "mark",
            Self::Key => "key",
            Self::Secrets => "secrets",
        })
    }
}

/// Why bytes are not the manifest that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Written in a format that this version does not know.
    #[error("format is not known here, a newer ottla may read it found={found} newest={FORMAT}")]
    Format {
        /// The number in the manifest.
        found: u32,
    },
    /// A manifest, but of something else.
    #[error("is a manifest of something else expected={expected} found={found}")]
    Kind {
        /// What was asked for.
        expected: Kind,
        /// What is there.
        found: Kind,
    },
    /// Not a manifest's MessagePack.
    #[error("cannot be decoded: {reason}")]
    Encoding {
        /// The decoder's words.
        reason: String,
    },
    /// Decoded, but it says what cannot be.
    #[error("does not hold together: {reason}")]
    Content {
        /// What cannot be.
        reason: String,
    },
}

/// A manifest: something that is stored by [`encode`](Manifest::encode) and read back by [`decode`](Manifest::decode).
pub trait Manifest: Serialize + DeserializeOwned {
    /// What it is about.
    const KIND: Kind;

    /// The format and kind that it claims.
    fn header(&self) -> Header;

    /// Whether what it says can be: names, ranges, orders, sums.
    ///
    /// # Errors
    /// `Content` with the first thing that cannot.
    fn check(&self) -> Result<(), ManifestError>;

    /// The bytes to store.
    fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()));
        rmp_serde::to_vec_named(self).expect("numbers, strings and byte strings have a MessagePack form")
    }

    /// Reads what [`encode`](Self::encode) wrote, and checks it.
    ///
    /// # Errors
    /// Whatever is wrong with it: format, kind, encoding, content.
    fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (manifest, rest) = Self::decode_first(bytes)?;
        if rest != 0 {
            return Err(ManifestError::Encoding { reason: format!("bytes follow the manifest bytes={rest}") });
        }
        Ok(manifest)
    }

    /// Reads what [`encode`](Self::encode) wrote at the beginning of `bytes`, and checks it; how many bytes are left.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_first(bytes: &[u8]) -> Result<(Self, usize), ManifestError> {
        let (header, _): (Header, usize) = unpack(bytes)?;
        if header.format == 0 || header.format > FORMAT {
            return Err(ManifestError::Format { found: header.format });
        }
        if header.kind != Self::KIND {
            return Err(ManifestError::Kind { expected: Self::KIND, found: header.kind });
        }
        let (manifest, rest): (Self, usize) = unpack(bytes)?;
        manifest.check()?;
        Ok((manifest, rest))
    }
}

/// Decodes one value at the beginning of `bytes`; how many bytes are left.
fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), ManifestError> {
    // Reads from the slice and moves it on; what is left of it is what follows the value.
    let mut deserializer = rmp_serde::Deserializer::new(bytes);
    deserializer.set_max_depth(16);
    let value =
        T::deserialize(&mut deserializer).map_err(|error| ManifestError::Encoding { reason: error.to_string() })?;
    Ok((value, deserializer.get_ref().len()))
}

/// What every manifest begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format's version.
    pub format: u32,
    /// What the manifest is about.
    pub kind: Kind,
}

impl Header {
    /// The header of what is written here.
    pub const fn new(kind: Kind) -> Self {
        Self { format: FORMAT, kind }
    }
}

macro_rules! manifest {
    ($type:ident, $kind:ident) => {
        impl Manifest for $type {
            const KIND: Kind = Kind::$kind;

            fn header(&self) -> Header {
                Header { format: self.format, kind: self.kind }
            }

            fn check(&self) -> Result<(), ManifestError> {
                self.check_content().map_err(|reason| ManifestError::Content { reason })
            }
        }
    };
}

/// Fails with a formatted reason unless the claim holds.
macro_rules! claim {
    ($claim:expr, $($reason:tt)+) => {
        if !$claim {
            return Err(format!($($reason)+));
        }
    };
}

/// The object `ottla-repository`: that this is a repository, which, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryManifest {
    /// The format's version.
    pub format: u32,
    /// `repository`.
    pub kind: Kind,
    /// The repository's own id, for good.
    #[serde(with = "uuid_bytes")]
    pub id: Uuid,
    /// When it was created.
    pub created: Timestamp,
    /// The hash that names objects: `blake3`, or `blake3-keyed` if it is encrypted.
    pub hash: String,
    /// How stored bytes are sealed: [`PLAIN`], or [`ENCRYPTED`].
    pub encryption: String,
}

/// The word for a repository in which nothing is sealed.
pub const PLAIN: &str = "none";
/// The word for one in which everything is, as `docs/formats.md` has it.
pub const ENCRYPTED: &str = "x25519-chacha20poly1305";

manifest!(RepositoryManifest, Repository);

impl RepositoryManifest {
    fn check_content(&self) -> Result<(), String> {
        let hash = match self.encryption.as_str() {
            PLAIN => "blake3",
            ENCRYPTED => "blake3-keyed",
            other => return Err(format!("encryption is not known encryption={:?}", clipped(other))),
        };
        claim!(self.hash == hash, "hash is not known hash={:?}", clipped(&self.hash));
        Ok(())
    }

    /// Whether everything is sealed.
    pub fn is_encrypted(&self) -> bool {
        self.encryption == ENCRYPTED
    }
}

/// What a key file says openly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyManifest {
    /// The format's version.
    pub format: u32,
    /// `key`.
    pub kind: Kind,
    /// When it was made.
    pub created: Timestamp,
    /// Whose it is, for people; often empty.
    pub label: String,
    /// What it gives.
    pub access: KeyAccess,
    /// What opens it.
    pub lock: KeyLock,
    /// How a passphrase becomes a key.
    pub argon2: Option<Argon2Cost>,
    /// The age recipient whom it is for.
    pub recipient: Option<String>,
}

manifest!(KeyManifest, Key);

/// What a key file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAccess {
    /// Everything.
    Full,
    /// To back up, and to read manifests, but no object.
    Write,
}

impl fmt::Display for KeyAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Full { "full" } else { "write" })
    }
}

/// What opens a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyLock {
    /// A passphrase.
    Passphrase,
    /// An age identity.
    Age,
}

/// What Argon2id takes to make a key of a passphrase. The default is the second recommendation of RFC 9106, 4: 64 MiB, three passes, four
/// lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes of it.
    pub lanes: u32,
    /// What makes the same passphrase another key elsewhere. Drawn anew for each key file.
    #[serde(with = "fixed_bytes")]
    pub salt: [u8; 16],
}

impl Default for Argon2Cost {
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4, salt: [0; 16] }
    }
}

impl KeyManifest {
    /// A key file of `created`, whose lock is told when it is wrapped.
    pub(super) fn new(created: Timestamp, label: &str, access: KeyAccess) -> Self {
        Self {
            format: FORMAT,
            kind: Kind::Key,
            created,
            label: label.to_owned(),
            access,
            lock: KeyLock::Passphrase,
            argon2: None,
            recipient: None,
        }
    }

    fn check_content(&self) -> Result<(), String> {
        let (argon2, recipient) = (self.argon2.as_ref(), self.recipient.as_ref());
        match (self.lock, argon2, recipient) {
            (KeyLock::Passphrase, Some(cost), None) => claim!(
                cost.memory_kib <= 1 << 20 && cost.passes <= 16 && cost.lanes <= 16,
                "argon2 would take too much memory_kib={} passes={} lanes={}",
                cost.memory_kib,
                cost.passes,
                cost.lanes
            ),
            (KeyLock::Age, None, Some(recipient)) => claim!(recipient.len() <= 256, "recipient is too long"),
            _ => return Err("lock and what opens it differ".to_owned()),
        }
        Ok(())
    }
}

/// What a key file wraps: the secrets of a repository.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SecretsManifest {
    pub(super) format: u32,
    pub(super) kind: Kind,
    /// Oldest first, never empty.
    pub(super) generations: Vec<GenerationSecrets>,
}

manifest!(SecretsManifest, Secrets);

/// A generation of keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationSecrets {
    pub(super) created: Timestamp,
    pub(super) write_key: SecretBytes,
    #[serde(with = "fixed_bytes")]
    pub(super) public_key: [u8; 32],
    /// Missing for who only writes.
    pub(super) read_key: Option<SecretBytes>,
}

impl SecretsManifest {
    fn check_content(&self) -> Result<(), String> {
        claim!(!self.generations.is_empty(), "there is no generation of keys");
        Ok(())
    }

    /// The generation that seals what is written.
    pub(super) fn newest(&self) -> &GenerationSecrets {
        // One at least was there when it was made, or read.
        &self.generations[self.generations.len() - 1]
    }
}

/// A snapshot: the root of the tree, and a summary that can be listed without the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// The format's version.
    pub format: u32,
    /// `snapshot`.
    pub kind: Kind,
    /// When the ends of the source's partitions were noted.
    pub time: Timestamp,
    /// What was backed up.
    pub source: SourceIdentity,
    /// The newest older snapshot that it shares objects with.
    pub parent: Option<Digest>,
    /// Whether everything was read, or only what was new.
    pub extent: Extent,
    /// The patterns that chose the topics; empty for all.
    pub selection: Vec<String>,
    /// The [`TopicsManifest`].
    pub topics: Reference,
    /// The [`GroupsManifest`].
    pub groups: Reference,
    /// The [`ClusterManifest`]; `None` if the source had nothing to put into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Reference>,
    /// How much it holds.
    pub totals: Totals,
    /// What it took to make.
    pub costs: Costs,
    /// What a person should know: a topic that was recreated, offsets the source no longer had.
    pub notes: Vec<Note>,
    /// What it was called in the repository that it was made in, if it was copied from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Digest>,
}

manifest!(SnapshotManifest, Snapshot);

impl SnapshotManifest {
    fn check_content(&self) -> Result<(), String> {
        claim!(self.time >= 0, "time is negative");
        for note in &self.notes {
            check_topic(&note.topic)?;
            claim!(note.partition.is_none_or(|partition| partition >= 0), "partition is negative topic={}", note.topic);
        }
        Ok(())
    }
}

/// The cluster, as far as it says who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// Kafka's cluster id.
    pub cluster_id: Option<String>,
    /// How it was reached, for people.
    pub address: String,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Topics.
    pub topics: u64,
    /// Partitions.
    pub partitions: u64,
    /// Objects.
    pub objects: u64,
    /// Records, by the batches' own count; transaction markers are among them.
    pub records: u64,
    /// Bytes of record batches.
    pub bytes: u64,
    /// Bytes of the objects as stored.
    pub stored_bytes: u64,
}

impl Totals {
    /// Counts `other` in.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { topics, partitions, objects, records, bytes, stored_bytes } = other;
        self.topics = self.topics.saturating_add(*topics);
        self.partitions = self.partitions.saturating_add(*partitions);
        self.objects = self.objects.saturating_add(*objects);
        self.records = self.records.saturating_add(*records);
        self.bytes = self.bytes.saturating_add(*bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(*stored_bytes);
    }
}

/// What a snapshot took to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Milliseconds from the beginning to the commit.
    pub milliseconds: u64,
    /// Objects that it does not share with an older snapshot.
    pub new_objects: u64,
    /// Records in them.
    pub new_records: u64,
    /// Bytes of record batches in them.
    pub new_bytes: u64,
    /// Their bytes as stored.
    pub new_stored_bytes: u64,
    /// Bytes of the manifests that were put.
    pub manifest_bytes: u64,
    /// Bytes of record batches that it shares with older snapshots.
    pub shared_bytes: u64,
    /// Milliseconds of CPU time that the process used which made it, on all cores; `None` if it was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milliseconds: Option<u64>,
}

/// Something about a topic that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The topic.
    pub topic: String,
    /// The partition, if it is about one.
    pub partition: Option<i32>,
    /// A sentence.
    pub text: String,
}

/// The topics of a snapshot, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsManifest {
    /// The format's version.
    pub format: u32,
    /// `topics`.
    pub kind: Kind,
    /// One for each topic.
    pub topics: Vec<TopicReference>,
}

manifest!(TopicsManifest, Topics);

/// A topic of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReference {
    /// Its name.
    pub topic: String,
    /// Its id; nil when the source knows none.
    #[serde(with = "uuid_bytes")]
    pub topic_id: Uuid,
    /// The [`TopicManifest`].
    pub manifest: Reference,
}

impl TopicsManifest {
    fn check_content(&self) -> Result<(), String> {
        self.topics.iter().try_for_each(|topic| check_topic(&topic.topic))?;
        ascending("topics", &self.topics, |topic| topic.topic.as_str())
    }
}

/// A topic: its configuration and partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicManifest {
    /// The format's version.
    pub format: u32,
    /// `topic`.
    pub kind: Kind,
    /// Its name.
    pub topic: String,
    /// Its id; nil when the source knows none.
    #[serde(with = "uuid_bytes")]
    pub topic_id: Uuid,
    /// On how many brokers each partition was.
    pub replication_factor: i16,
    /// What was set on the topic itself, sorted by name.
    pub config: Vec<ConfigEntry>,
    /// Its partitions, sorted by number.
    pub partitions: Vec<PartitionReference>,
}

manifest!(TopicManifest, Topic);

/// One option of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Kafka's name for it.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A partition of a topic, with what the next backup needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReference {
    /// Its number.
    pub partition: i32,
    /// The [`PartitionManifest`].
    pub manifest: Reference,
    /// The brokers it was on, the preferred one first.
    pub replicas: Vec<i32>,
    /// The log start offset.
    pub start: i64,
    /// The first offset that is not in the snapshot.
    pub end: i64,
    /// The last batch below `end`, if there was any.
    pub last: Option<LastBatch>,
    /// Its objects' number.
    pub objects: u64,
    /// Records in its objects.
    pub records: u64,
    /// Bytes of record batches in its objects.
    pub bytes: u64,
    /// Bytes of its objects as stored.
    pub stored_bytes: u64,
}

impl TopicManifest {
    fn check_content(&self) -> Result<(), String> {
        check_topic(&self.topic)?;
        claim!(self.replication_factor >= -1, "replication factor is negative");
        ascending("config", &self.config, |entry| entry.name.as_str())?;
        ascending("partitions", &self.partitions, |partition| partition.partition)?;
        for partition in &self.partitions {
            claim!(partition.partition >= 0, "partition is negative partition={}", partition.partition);
            check_range("partition", partition.start, partition.end)?;
        }
        Ok(())
    }
}

/// A partition: its offsets, and the objects that hold its batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionManifest {
    /// The format's version.
    pub format: u32,
    /// `partition`.
    pub kind: Kind,
    /// The topic's name.
    pub topic: String,
    /// The topic's id; nil when the source knows none.
    #[serde(with = "uuid_bytes")]
    pub topic_id: Uuid,
    /// Its number.
    pub partition: i32,
    /// The log start offset. The first object may begin below it, because a batch is never cut.
    pub start: i64,
    /// The first offset that is not in the snapshot.
    pub end: i64,
    /// Ranges of offsets that the source no longer had when they were to be copied, ascending. (Offsets that no batch
    /// covers because compaction took the records are not listed.)
    pub holes: Vec<Hole>,
    /// Older objects, ascending, all before `objects`.
    pub pages: Vec<PageReference>,
    /// The newest objects, ascending.
    pub objects: Vec<Object>,
}

manifest!(PartitionManifest, Partition);

/// A page of a partition's objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageReference {
    /// The [`PageManifest`].
    pub page: Reference,
    /// The base offset of its first batch.
    pub start: i64,
    /// The offset after its last batch.
    pub end: i64,
    /// Its objects' number.
    pub objects: u64,
    /// Records in its objects.
    pub records: u64,
    /// Bytes of record batches in its objects.
    pub bytes: u64,
    /// Bytes of its objects as stored.
    pub stored_bytes: u64,
    /// The largest timestamp in its batches.
    pub max_timestamp: Timestamp,
}

/// A list of a partition's objects that will not change any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageManifest {
    /// The format's version.
    pub format: u32,
    /// `page`.
    pub kind: Kind,
    /// The topic's name.
    pub topic: String,
    /// The topic's id; nil when the source knows none.
    #[serde(with = "uuid_bytes")]
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
    /// The objects, ascending.
    pub objects: Vec<Object>,
}

manifest!(PageManifest, Page);

/// How an object's body is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As it is: a valid segment of a Kafka log.
    Plain,
    /// Compressed as a whole, as one Zstandard frame.
    Zstd,
}

/// An object: consecutive whole record batches of one partition, untouched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The hash of the stored bytes.
    pub name: Digest,
    /// How the body is stored.
    pub encoding: Encoding,
    /// The stored bytes' number.
    pub stored_bytes: u64,
    /// The body's number of bytes.
    pub bytes: u64,
    /// The base offset of the first batch.
    pub start: i64,
    /// The offset after the last batch.
    pub end: i64,
    /// Its batches' number.
    pub batches: u64,
    /// Its records' number, by the batches' own count.
    pub records: u64,
    /// The smallest base timestamp of its batches.
    pub min_timestamp: Timestamp,
    /// The largest timestamp of its batches.
    pub max_timestamp: Timestamp,
    /// The leader epochs of its batches and the first offset of each, ascending; never empty.
    pub epochs: Vec<EpochStart>,
    /// The last batch.
    pub last: LastBatch,
}

/// A leader epoch and the first offset that was written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch; -1 in batches of brokers that had none.
    pub epoch: i32,
    /// The offset.
    pub start: i64,
}

impl Object {
    fn check(&self) -> Result<(), String> {
        let start = self.start;
        check_range("object", start, self.end)?;
        claim!(self.start < self.end, "object is empty start={start}");
        claim!(self.bytes <= MAX_OBJECT_BYTES, "object is too large start={start} bytes={}", self.bytes);
        claim!(self.stored_bytes <= MAX_OBJECT_BYTES, "object is too large start={start} bytes={}", self.stored_bytes);
        let sealed = self.bytes.saturating_add(super::encryption::OVERHEAD as u64);
        match self.encoding {
            Encoding::Zstd => {}
            Encoding::Plain => {
                claim!(
                    self.stored_bytes == self.bytes || self.stored_bytes == sealed,
                    "object's sizes differ start={start}"
                );
            }
        }
        claim!(
            self.batches > 0 && self.batches <= self.bytes / 61,
            "object cannot hold its batches start={start} batches={}",
            self.batches
        );
        claim!(self.epochs.first().is_some_and(|first| first.start == start), "epochs begin elsewhere start={start}");
        for pair in self.epochs.windows(2) {
            claim!(
                pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start,
                "epochs are not ascending start={start}"
            );
        }
        let last_epoch = self.epochs.last().map(|last| (last.epoch, last.start));
        claim!(
            (start..self.end).contains(&self.last.base_offset)
                && last_epoch
                    .is_some_and(|(epoch, start)| epoch == self.last.leader_epoch && start <= self.last.base_offset),
            "last batch is not in the object start={start}"
        );
        Ok(())
    }
}

/// Whether `objects` are each possible, ascend without overlap, and stay within `start..end`.
fn check_objects(objects: &[Object], mut start: i64, end: i64) -> Result<(), String> {
    for object in objects {
        object.check()?;
        claim!(object.start >= start, "objects overlap start={} expected={start}", object.start);
        claim!(object.end <= end, "object ends beyond its list end={} expected={end}", object.end);
        start = object.end;
    }
    Ok(())
}

impl PageManifest {
    fn check_content(&self) -> Result<(), String> {
        check_topic(&self.topic)?;
        claim!(self.partition >= 0, "partition is negative");
        claim!(!self.objects.is_empty(), "page is empty");
        check_objects(&self.objects, 0, i64::MAX)
    }

    /// What a partition's manifest says of this page.
    pub fn reference(&self, page: Reference) -> PageReference {
        let sum = |of: fn(&Object) -> u64| self.objects.iter().map(of).fold(0, u64::saturating_add);
        PageReference {
            page,
            start: self.objects.first().map_or(0, |object| object.start),
            end: self.objects.last().map_or(0, |object| object.end),
            objects: self.objects.len() as u64,
            records: sum(|object| object.records),
            bytes: sum(|object| object.bytes),
            stored_bytes: sum(|object| object.stored_bytes),
            max_timestamp: self.objects.iter().map(|object| object.max_timestamp).max().unwrap_or(-1),
        }
    }
}

impl PartitionManifest {
    fn check_content(&self) -> Result<(), String> {
        check_topic(&self.topic)?;
        claim!(self.partition >= 0, "partition is negative");
        check_range("partition", self.start, self.end)?;
        let mut start = 0;
        for hole in &self.holes {
            check_range("hole", hole.start, hole.end)?;
            claim!(hole.start >= start && hole.start < hole.end, "holes are not ascending start={}", hole.start);
            start = hole.end;
        }
        let mut start = 0;
        for page in &self.pages {
            check_range("page", page.start, page.end)?;
            claim!(page.start >= start && page.start < page.end, "pages are not ascending start={}", page.start);
            start = page.end;
        }
        check_objects(&self.objects, start, self.end)
    }

    /// How much it holds.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { partitions: 1, ..Totals::default() };
        let mut add = |objects: u64, records: u64, bytes: u64, stored_bytes: u64| {
            totals.objects = totals.objects.saturating_add(objects);
            totals.records = totals.records.saturating_add(records);
            totals.bytes = totals.bytes.saturating_add(bytes);
            totals.stored_bytes = totals.stored_bytes.saturating_add(stored_bytes);
        };
        self.pages.iter().for_each(|page| add(page.objects, page.records, page.bytes, page.stored_bytes));
        self.objects.iter().for_each(|object| add(1, object.records, object.bytes, object.stored_bytes));
        totals
    }
}

/// Consumer groups with what they had committed, sorted by group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsManifest {
    /// The format's version.
    pub format: u32,
    /// `groups`.
    pub kind: Kind,
    /// One for each group.
    pub groups: Vec<Group>,
}

manifest!(GroupsManifest, Groups);

/// A consumer group's committed offsets, sorted by topic and partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The group's id.
    pub group: String,
    /// Its kind in Kafka's words: `classic`, `consumer`, `share`, `streams`; empty when the source did not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What it had committed; of a share group, where it starts.
    pub offsets: Vec<GroupOffset>,
}

/// What a group had committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset that the group would read.
    pub offset: i64,
    /// The leader epoch committed with it; -1 if none.
    pub leader_epoch: i32,
    /// The text committed with it.
    pub metadata: String,
}

impl GroupsManifest {
    fn check_content(&self) -> Result<(), String> {
        ascending("groups", &self.groups, |group| group.group.as_str())?;
        for group in &self.groups {
            ascending("offsets", &group.offsets, |offset| (offset.topic.as_str(), offset.partition))?;
            for offset in &group.offsets {
                check_topic(&offset.topic)?;
                claim!(offset.partition >= 0 && offset.offset >= 0, "offset is negative topic={}", offset.topic);
            }
        }
        Ok(())
    }
}

/// What the cluster keeps besides topics and groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterManifest {
    /// The format's version.
    pub format: u32,
    /// `cluster`.
    pub kind: Kind,
    /// Access rules, users and quotas.
    #[serde(flatten)]
    pub settings: ClusterSettings,
}

manifest!(ClusterManifest, Cluster);

impl ClusterManifest {
    fn check_content(&self) -> Result<(), String> {
        let ClusterSettings { acls, scram_users, quotas, .. } = &self.settings;
        ascending("acls", acls, |acl| acl)?;
        ascending("scram_users", scram_users, |user| user)?;
        ascending("quotas", quotas, |quota| quota)?;
        for quota in quotas {
            claim!(quota.value.parse::<f64>().is_ok(), "quota is no number value={:?}", clipped(&quota.value));
        }
        Ok(())
    }
}

/// Objects that a backup has put and that no snapshot names yet: what the next backup need not read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingManifest {
    /// The format's version.
    pub format: u32,
    /// `pending`.
    pub kind: Kind,
    /// When it was put.
    pub time: Timestamp,
    /// The objects.
    pub objects: Vec<PendingObject>,
}

manifest!(PendingManifest, Pending);

/// An object that was put, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingObject {
    /// The source's cluster id.
    pub cluster_id: Option<String>,
    /// The topic's name.
    pub topic: String,
    /// The topic's id; nil when the source knows none.
    #[serde(with = "uuid_bytes")]
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
    /// Where the partition ended in the repository before this object; `None` if it had not begun.
    pub after: Option<i64>,
    /// Offsets that the source no longer had, between `after` and the object.
    pub hole: Option<Hole>,
    /// The object.
    pub object: Object,
}

impl PendingManifest {
    fn check_content(&self) -> Result<(), String> {
        for pending in &self.objects {
            check_topic(&pending.topic)?;
            claim!(pending.partition >= 0, "partition is negative");
            pending.object.check()?;
            let start = pending.object.start;
            claim!(pending.after.is_none_or(|after| (0..=start).contains(&after)), "object overlaps start={start}");
            if let Some(hole) = pending.hole {
                claim!(
                    pending.after == Some(hole.start) && hole.start < hole.end && hole.end <= start,
                    "hole is elsewhere start={}",
                    hole.start
                );
            }
        }
        Ok(())
    }
}

/// Names of objects and manifests that a prune found that nothing needs, and may remove later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkManifest {
    /// The format's version.
    pub format: u32,
    /// `mark`.
    pub kind: Kind,
    /// When it was put.
    pub time: Timestamp,
    /// Before this nothing is removed.
    pub not_before: Timestamp,
    /// Objects, sorted.
    pub objects: Vec<Digest>,
    /// Manifests, sorted.
    pub manifests: Vec<Digest>,
}

manifest!(MarkManifest, Mark);

impl MarkManifest {
    fn check_content(&self) -> Result<(), String> {
        claim!(self.not_before >= self.time, "a mark is due before it was made");
        ascending("objects", &self.objects, |name| name)?;
        ascending("manifests", &self.manifests, |name| name)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = Digest> {
        self.objects.iter().chain(&self.manifests).copied()
    }
}

/// Whether `topic` is a name that Kafka allows, and so one that is safe as part of a path.
pub(crate) fn is_topic_name(topic: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&topic.len()) && topic != "." && topic != ".." && topic.bytes().all(allowed)
}

fn check_topic(topic: &str) -> Result<(), String> {
    claim!(is_topic_name(topic), "topic's name is not allowed topic={:?}", clipped(topic));
    Ok(())
}

fn check_range(what: &str, start: i64, end: i64) -> Result<(), String> {
    claim!((0..=end).contains(&start), "{what} has no such offsets start={start} end={end}");
    Ok(())
}

fn ascending<'a, T, K: Ord>(what: &str, entries: &'a [T], key: impl Fn(&'a T) -> K) -> Result<(), String> {
    claim!(entries.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])), "{what} are not sorted or not unique");
    Ok(())
}

/// As much of a foreign text as belongs into a message.
pub(super) fn clipped(text: &str) -> String {
    text.chars().take(40).collect()
}
