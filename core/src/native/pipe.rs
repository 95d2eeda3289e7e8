//! The pipe between places that people name: what the command line and the bindings both do.
//!
//! A *source* is a cluster or the log of an embedded broker, a *target* the directory of a log, a *repository* a directory or a bucket.
//! These functions open what is named, in an order in which a wrong name leaves nothing behind, and call
//! [`crate::replication`] and [`crate::backup`]. Their futures run on the threads of a [`Runtime`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::files::FileDevice;
use super::repository::RepositoryPlace;
use super::{LocalBroker, Location, Runtime};
use crate::backup::{
    self, Backup, BackupOptions, CheckOptions, CheckReport, DirectoryOptions, Repository, RepositoryError,
    RestoreOptions, Restored, Snapshot, SnapshotSource,
};
use crate::broker::BrokerConfig;
use crate::client::{ClientConfig, Options, Topics};
use crate::replication::{
    self, At, ClusterSource, Cut, Identity, Planned, Progress, Selection, Source as _, TopicPartition, TransferOptions,
    Transferred, Verified, transfer,
};
use crate::storage::Device;
use crate::{Error, ErrorKind, Result};

/// How long a first broker may take to answer, unless an option says: a person waits for it.
pub const BOOTSTRAP_TIMEOUT_MS: i64 = 5_000;

/// Where records are, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A cluster, by the addresses of some of its brokers, separated by commas.
    Cluster(String),
    /// The log of an embedded broker.
    Log(Location),
}

impl Place {
    /// What `text` names: `kafka://HOST:PORT[,…]` or `HOST:PORT[,…]` is a cluster; what [`Location::parse`] knows, and any
    /// directory that is there, is a log.
    ///
    /// # Errors
    /// `Invalid` if it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(addresses) = text.strip_prefix("kafka://") {
            return Ok(Self::Cluster(addresses.trim_end_matches('/').to_owned()));
        }
        match Location::parse(text) {
            Some(location) if !text.contains("://") || text.starts_with("file://") => Ok(Self::Log(location)),
            None if Path::new(text).is_dir() => Ok(Self::Log(Location::Directory(text.into()))),
            None if text.contains(':') => Ok(Self::Cluster(text.to_owned())),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("an address is HOST:PORT, kafka://HOST:PORT[,…], or the directory of a log given={text}"),
            )),
        }
    }

    /// What `text` names where a log is to be made: any name is a directory, but `memory:NAME` and clusters.
    pub fn parse_target(text: &str) -> Self {
        match Self::parse(text) {
            Ok(Self::Cluster(_)) | Err(_) if !text.contains("://") => Self::Log(Location::Directory(text.into())),
            Ok(place) => place,
            Err(_) => Self::Cluster(text.to_owned()),
        }
    }
}

/// Where a restore goes, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A log or a live cluster.
    Place(Place),
    /// All log directories of a Kafka broker that does not run.
    LogDirectories(Vec<PathBuf>),
}

impl Target {
    /// What `text` names: `logdir:DIR[,DIR…]`, or what [`Place::parse_target`] makes of it.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("logdir:") {
            Some(directories) => {
                Self::LogDirectories(directories.split(',').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect())
            }
            None => Self::Place(Place::parse_target(text)),
        }
    }
}

/// A source that is open. An embedded broker stays open as long as this.
#[derive(Clone, Debug)]
pub struct OpenSource {
    cluster: ClusterSource,
    local: Option<Arc<LocalBroker>>,
}

impl OpenSource {
    /// Opens what is at `place` and waits until it answers. `options` are the client's, in Kafka's words.
    ///
    /// # Errors
    /// See [`new`](Self::new) and [`connect`](Self::connect).
    pub async fn open(runtime: &Runtime, place: &Place, options: &Options) -> Result<Self> {
        let source = tokio::task::block_in_place(|| Self::new(runtime, place, options))?;
        source.connect().await?;
        Ok(source)
    }

    /// Opens what is at `place`, and asks no cluster yet. `options` are the client's, in Kafka's words.
    ///
    /// # Errors
    /// `NotFound` for a log that is not there: a wrong name makes no empty one. `Fenced` if another process has it open.
    pub fn new(runtime: &Runtime, place: &Place, options: &Options) -> Result<Self> {
        let addresses = match place {
            Place::Cluster(addresses) => addresses,
            Place::Log(location) => return Self::of_local(open_log(runtime, location)?, options),
        };
        let mut options = options.clone();
        options.set("bootstrap_servers", addresses.as_str());
        if options.value("bootstrap_timeout_ms").is_none() {
            options.set("bootstrap_timeout_ms", BOOTSTRAP_TIMEOUT_MS);
        }
        let config = ClientConfig::from_options(&options)?;
        Ok(Self { cluster: ClusterSource::new(runtime.client(config)), local: None })
    }

    /// Asks who the source is.
    ///
    /// # Errors
    /// `Timeout`, with what was tried, if no broker of a cluster answers within `bootstrap_timeout_ms`, here 5 s by default;
    /// `Denied` if it refuses the login.
    pub async fn connect(&self) -> Result<Identity> {
        let client = self.cluster.client();
        let timeout = Duration::from_millis(client.config().bootstrap_timeout_ms);
        let cluster = client.retry(timeout, || client.refresh_with(Topics::None, false)).await?;
        Ok(Identity { cluster_id: cluster.cluster_id.clone(), address: self.address() })
    }

    /// How it is reached, for people.
    pub fn address(&self) -> String {
        match &self.local {
            Some(local) => local.location().to_string(),
            None => {
                let bootstrap = &self.cluster.client().config().bootstrap_servers;
                bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// The same, of which so many bytes of batches are read in a second at most.
    #[must_use]
    pub fn limited(self, limit_rate: Option<u64>) -> Self {
        Self { cluster: self.cluster.limited(limit_rate), ..self }
    }

    /// The embedded broker `local` as a source.
    ///
    /// # Errors
    /// `Invalid` if `options` are.
    pub fn of_local(local: Arc<LocalBroker>, options: &Options) -> Result<Self> {
        let config = ClientConfig::from_options(options)?;
        Ok(Self { cluster: ClusterSource::new(local.client(config)), local: Some(local) })
    }

    /// As the core's functions take it.
    pub fn cluster(&self) -> &ClusterSource {
        &self.cluster
    }

    /// Lets it go; who is the last user of a log closes it.
    ///
    /// # Errors
    /// What the device answers to the close.
    pub fn close(self) -> Result<()> {
        let Self { cluster, local } = self;
        drop(cluster);
        local.map_or(Ok(()), LocalBroker::release)
    }
}

/// The log at `location`, which is there.
fn open_log(runtime: &Runtime, location: &Location) -> Result<Arc<LocalBroker>> {
    match location {
        Location::Memory(_) => LocalBroker::find(location).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("this process has no such broker open broker={location}"))
        }),
        Location::Directory(path) => {
            check_holds_something(path)?;
            open(runtime, location)
        }
    }
}

/// Refuses a directory that is not there, or is empty: to look at it must not make a log of it.
///
/// # Errors
/// `NotFound`; what the system answers when it cannot be read.
pub fn check_holds_something(path: &Path) -> Result<()> {
    let missing = |what: &str| Error::new(ErrorKind::NotFound, format!("{what} directory={}", path.display()));
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing("there is no such directory")),
        Err(error) => Err(Error::from(error).context(format_args!("cannot read the directory {}", path.display()))),
        Ok(mut entries) => match entries.next() {
            None => Err(missing("the directory holds no log, it is empty")),
            Some(_) => Ok(()),
        },
    }
}

/// Opens a log, which may take as long as a recovery, without holding up what else this thread runs.
fn open(runtime: &Runtime, location: &Location) -> Result<Arc<LocalBroker>> {
    tokio::task::block_in_place(|| LocalBroker::open(runtime, location.clone(), BrokerConfig::default()))
}

/// Backs up what `options` choose of `source` to the repository at `place`, which is made when missing.
///
/// # Errors
/// See [`backup::backup`] and [`open_for_backup`].
pub async fn backup(
    source: &ClusterSource,
    place: &RepositoryPlace,
    options: &BackupOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Backup> {
    let repository = open_for_backup(source, place, options).await?;
    backup::backup(source, &repository, options, &**source.client().clock(), progress).await
}

/// The repository at `place`, which is made when missing. The names of what is to be backed up are looked at first: a wrong
/// one leaves no empty repository behind.
///
/// # Errors
/// `NotFound` if a topic is not there; see also [`RepositoryPlace::open_or_create`].
pub async fn open_for_backup(
    source: &ClusterSource,
    place: &RepositoryPlace,
    options: &BackupOptions,
) -> Result<Repository> {
    let topics = source.topics(&options.topics).await?;
    options.topics.check_found("topic", topics.iter().map(|topic| topic.name.as_str()))?;
    place.open_or_create(source.client().clock().now()).await
}

/// The CPU time that this process has used so far, on all cores.
pub fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// What of a repository is meant, as a person names it.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The repository.
    pub repository: &'a RepositoryPlace,
    /// A snapshot of it: `latest`, or the first digits of one.
    pub snapshot: &'a str,
    /// Topics of the snapshot.
    pub topics: &'a Selection,
}

impl Chosen<'_> {
    /// Opens it.
    ///
    /// # Errors
    /// `NotFound` if repository, snapshot or topic are not there.
    pub async fn open(&self) -> Result<SnapshotSource> {
        let repository = self.repository.open().await?;
        let snapshot = repository.find_snapshot(self.snapshot).await?;
        SnapshotSource::open(repository, snapshot, self.topics).await
    }

    /// Opens it twice, for who reads ahead in one of them.
    async fn open_both(&self) -> Result<(SnapshotSource, SnapshotSource)> {
        let repository = self.repository.open().await?;
        if !repository.can_read() {
            return Err(RepositoryError::WriteOnly { repository: repository.place() }.into());
        }
        let snapshot = repository.find_snapshot(self.snapshot).await?;
        let first = SnapshotSource::open(repository.clone(), snapshot.clone(), self.topics).await?;
        Ok((first, SnapshotSource::open(repository, snapshot, self.topics).await?))
    }
}

/// Restores what is `chosen` to `target`: the directory of a log, made when missing, or `memory:NAME`.
///
/// # Errors
/// `NotFound` if repository, snapshot or topic are not there, and nothing is made at `target` then; `Unsupported` if `target`
/// is a cluster; `Invalid` if a broker of this process serves the directory: it would see its topics change under its clients.
/// See also [`backup::restore`].
pub async fn restore(
    runtime: &Runtime,
    chosen: Chosen<'_>,
    target: &Place,
    options: &RestoreOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Restored> {
    let Place::Log(location) = target else {
        let message = "this restore goes to the directory of a log, and a cluster was named";
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    let source = chosen.open().await?;
    if matches!(location, Location::Directory(_)) && LocalBroker::find(location).is_some() {
        let message = format!("a broker of this process has the directory open, close it first directory={location}");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let local = open(runtime, location)?;
    let restored = backup::restore(&source, local.embedded(), options, progress).await?;
    local.release()?;
    Ok(restored)
}

/// Restores what is `chosen` to `directories`: all log directories (`log.dirs`) of a Kafka broker,
/// which does not run. Returns the plan, and what was done unless only the plan was wanted.
///
/// # Errors
/// See [`backup::restore_directories`]. `Fenced` if the broker runs; `Full` if there is too little space, and nothing is
/// written then; `NotFound` if a directory is not there.
pub async fn restore_directories(
    runtime: &Runtime,
    chosen: Chosen<'_>,
    directories: &[PathBuf],
    options: &DirectoryOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<(Vec<Planned>, Option<Restored>)> {
    let source = chosen.open().await?;
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    for directory in directories {
        check_holds_something(directory)?;
        let device = FileDevice::open(directory).map_err(|error| match error.kind() {
            ErrorKind::Fenced => {
                let message = format!(
                    "a broker runs on the log directory, stop it first directory={}: {}",
                    directory.display(),
                    error.message()
                );
                Error::new(ErrorKind::Fenced, message)
            }
            _ => error,
        })?;
        devices.push(Arc::new(device));
    }
    backup::restore_directories(&source, &devices, options, runtime.clock().now(), room(directories)?, progress).await
}

/// Restores what is `chosen`, as it was `at` a time, to the live cluster `target`. Tells the plan first; returns `None` if only
/// that was wanted.
///
/// # Errors
/// `NotFound` if repository, snapshot or topic are not there; see [`transfer`].
pub async fn restore_to_cluster(
    chosen: Chosen<'_>,
    target: &ClusterSource,
    at: &At,
    mut options: TransferOptions,
    plan: &(dyn Fn(&[Planned]) + Send + Sync),
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Option<(Snapshot, Transferred)>> {
    // What is looked ahead for is read on its own.
    let (source, ahead) = chosen.open_both().await?;
    let snapshot = source.snapshot().clone();
    for (name, topic) in source.manifests() {
        let known = topic
            .partitions
            .iter()
            .map(|known| (TopicPartition::new(name.as_str(), known.partition), (known.records, known.bytes)));
        options.sizes.extend(known);
    }
    let topics = source.topics(&Selection::all()).await?;
    let ends = Cut::find(&source, &topics, at).await?;
    let (source, ahead) = (Cut::new(&source, ends.clone()), Cut::new(&ahead, ends));
    let transferred = transfer(&source, &ahead, target, &topics, &options, plan, progress).await?;
    Ok(transferred.map(|transferred| (snapshot, transferred)))
}

/// Compares every record of what is `chosen` with what `target` has; see [`replication::verify`].
///
/// # Errors
/// `NotFound` if repository, snapshot or topic are not there; see [`replication::verify`].
pub async fn verify(
    chosen: Chosen<'_>,
    target: &ClusterSource,
    renamed: &BTreeMap<String, String>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(Snapshot, Vec<Verified>)> {
    let (source, ahead) = chosen.open_both().await?;
    let snapshot = source.snapshot().clone();
    let topics = source.topics(&Selection::all()).await?;
    let verified = replication::verify(&source, &ahead, target, &topics, renamed, progress).await?;
    Ok((snapshot, verified))
}

/// How many bytes there is room for on the file systems of `directories`, each counted once.
fn room(directories: &[PathBuf]) -> Result<u64> {
    let mut rooms = BTreeMap::new();
    for directory in directories {
        let found = rustix::fs::statvfs(directory).map_err(std::io::Error::from)?;
        rooms.insert(found.f_fsid, found.f_bavail.saturating_mul(found.f_frsize));
    }
    Ok(rooms.into_values().fold(0, u64::saturating_add))
}

/// Checks the repository at `repository`; see [`backup::check`].
///
/// # Errors
/// `NotFound` if there is none. What is wrong with it is in the report.
pub async fn check(repository: &RepositoryPlace, options: CheckOptions) -> Result<CheckReport> {
    backup::check(&repository.open().await?, options).await
}

/// What [`check_restore`] has restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredSample {
    /// The snapshot, in short.
    pub snapshot: String,
    /// Topics that were restored.
    pub topics: Vec<String>,
    /// Their partitions.
    pub partitions: u64,
    /// Bytes of record batches in them.
    pub bytes: u64,
    /// Partitions whose batches came back otherwise.
    pub differing: Vec<TopicPartition>,
}

/// Restores some topics of the newest snapshot of `repository` into memory and compares every batch with the objects'. Topics are
/// taken by chance, which `seed` decides, while they have no more than `max_bytes` together, but one at least if there is any.
///
/// # Errors
/// `NotFound` if there is no snapshot; `Denied` with a key that only writes; see [`backup::restore`].
pub async fn check_restore(
    runtime: &Runtime,
    repository: Repository,
    max_bytes: u64,
    seed: u64,
) -> Result<RestoredSample> {
    let snapshot = repository.find_snapshot("latest").await?;
    let all = SnapshotSource::open(repository.clone(), snapshot.clone(), &Selection::all()).await?;
    let mut topics: Vec<(&String, u64)> = all
        .manifests()
        .iter()
        .map(|(name, topic)| (name, topic.partitions.iter().map(|partition| partition.bytes).sum()))
        .collect();
    topics.sort_by_cached_key(|(name, _)| blake3::hash(&[&seed.to_be_bytes(), name.as_bytes()].concat()).to_hex());
    let mut sample = RestoredSample { snapshot: snapshot.id.short(), ..RestoredSample::default() };
    for (name, bytes) in topics {
        if sample.topics.is_empty() || sample.bytes.saturating_add(bytes) <= max_bytes {
            sample.topics.push(name.clone());
            sample.bytes += bytes;
        }
    }
    if sample.topics.is_empty() {
        return Ok(sample);
    }
    let source = SnapshotSource::open(repository, snapshot, &Selection::new(&sample.topics)?).await?;
    let local = LocalBroker::in_memory(runtime, BrokerConfig::default())?;
    backup::restore(&source, local.embedded(), &RestoreOptions::default(), &|_| {}).await?;
    let restored = OpenSource::of_local(local, &Options::new())?;
    for (topic, manifest) in source.manifests() {
        for known in &manifest.partitions {
            let partition = TopicPartition::new(topic.as_str(), known.partition);
            let was = backup::content(&source, &partition, known.start, known.end).await?;
            let is = backup::content(restored.cluster(), &partition, known.start, known.end).await?;
            sample.partitions += 1;
            if was != is {
                sample.differing.push(partition);
            }
        }
    }
    restored.close()?;
    Ok(sample)
}

/// An id that nothing else has.
pub(super) fn random_id() -> Uuid {
    use std::hash::{BuildHasher, RandomState};
    let half =
        |salt: u64| u128::from(RandomState::new().hash_one((std::time::SystemTime::now(), std::process::id(), salt)));
    uuid::Builder::from_random_bytes(((half(1) << 64) | half(2)).to_be_bytes()).into_uuid()
}
