//! The local replica of a cluster's topics: a directory that is an embedded broker, and what keeps it up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::pipe::OpenSource;
use super::{LocalBroker, Location, Runtime, Server};
use crate::broker::{BrokerConfig, ReplicaOf, StoredHole};
use crate::client::Options;
use crate::error::repeat;
use crate::replication::{
    self, Begin, Copied, CopyOptions, CopyState, Follower, FollowerOptions, Identity, LocalLogs as _, PartitionStatus,
    Portion, Progress, Recreated, ReplicateOptions, Selection, Source as _, TopicPartition,
};
use crate::transport::Embedded;
use crate::{Error, ErrorKind, Result, Timestamp};

/// How often it is looked whether there is something to tell.
const LOOK: Duration = Duration::from_millis(100);
/// The pauses before what may pass is tried again, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How many events are kept for a listener that does not listen.
const EVENTS_KEPT: usize = 1_000;

/// What is replicated, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// Which topics. Default: those that were chosen last for this directory, or all but Kafka's own.
    pub topics: Option<Selection>,
    /// Which part of them. What says nothing (`Begin::Start`, no partitions) is as it was last for this directory.
    pub portion: Portion,
    /// Whose committed offsets are copied, too; they take the place of what a group of that name has committed here. Default:
    /// nobody's, groups here are the replica's own.
    pub groups: Option<Selection>,
    /// What to do about topics that the source has made anew. Default: leave the copies, and say so.
    pub recreated: Recreated,
    /// How many bytes of batches are read in a second, at most. Default: no limit.
    pub limit_rate: Option<u64>,
    /// How many bytes are held in memory, about. Default 64 MiB.
    pub max_bytes: usize,
    /// `HOST:PORT` to serve the replica on, port 0 for a free one. Default: no port.
    pub listen: Option<String>,
    /// How to reach the source: a client's options in Kafka's words, but `bootstrap_servers`.
    pub client: Options,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self {
            topics: None,
            portion: Portion::default(),
            groups: None,
            recreated: Recreated::Refuse,
            limit_rate: None,
            max_bytes: CopyOptions::default().max_bytes,
            listen: None,
            client: Options::new(),
        }
    }
}

/// Something that happened to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// Records came.
    Change {
        /// The partitions they are in.
        partitions: Vec<TopicPartition>,
        /// How many, by the batches' own count.
        records: u64,
        /// Bytes of their batches.
        bytes: u64,
    },
    /// Everything is here that the source was known to have.
    UpToDate,
    /// Nothing is written while there is no room on the disk; why. It goes on by itself.
    Paused(String),
    /// Something is wrong; what. What may pass is tried again.
    Error(String),
}

/// The events of a replica, as one listener gets them.
#[derive(Debug)]
pub struct ReplicaEvents(broadcast::Receiver<ReplicaEvent>);

impl ReplicaEvents {
    /// The next event; `None` when the replica is closed and dropped.
    pub async fn next(&mut self) -> Option<ReplicaEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    log::warn!("events of a replica were not taken in time lost={lost}");
                }
            }
        }
    }
}

/// How a replica stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// How the source is reached.
    pub source: String,
    /// The id of the cluster that this is a replica of, once that is known.
    pub cluster_id: Option<String>,
    /// Whether it is following.
    pub is_following: bool,
    /// Why nothing is written now, while there is no room.
    pub paused: Option<String>,
    /// What is wrong as a whole, while it is.
    pub error: Option<String>,
    /// When everything that the source had then was here last.
    pub synced_at: Option<Timestamp>,
    /// Each partition, sorted.
    pub partitions: Vec<ReplicaPartition>,
}

/// How a partition of a replica stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaPartition {
    /// Which.
    pub partition: TopicPartition,
    /// The source's end when it told last; `None` before it has since the replica was opened.
    pub source_end: Option<i64>,
    /// The first offset here.
    pub local_start: i64,
    /// The end here.
    pub local_end: i64,
    /// How many offsets are missing.
    pub behind_records: Option<u64>,
    /// How many bytes that is, if records are as large as those that are here; an estimate.
    pub behind_bytes: Option<u64>,
    /// For how long something has been missing, in seconds: 0 if nothing is; `None` if that is not known.
    pub behind_seconds: Option<f64>,
    /// When everything that the source had then was here last.
    pub synced_at: Option<Timestamp>,
    /// The latest hundred ranges of offsets that the source removed before they were copied.
    pub holes: Vec<StoredHole>,
    /// What is wrong, while it is.
    pub error: Option<String>,
}

/// A directory that holds copies of a source's topics and is an embedded broker: clients read it while it is brought up to
/// date, and when the source is away.
///
/// Clones are handles to the same replica. [`close`](Self::close) it, or the directory stays locked until the last is dropped.
#[derive(Clone, Debug)]
pub struct Replica {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    directory: PathBuf,
    embedded: Embedded,
    source: OpenSource,
    options: ReplicaOptions,
    bootstrap_servers: String,
    events: broadcast::Sender<ReplicaEvent>,
    /// One copy at a time.
    syncing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is held open, until it is closed.
    held: Option<Held>,
    following: Option<Following>,
    /// What was seen of partitions by copies since it was opened.
    seen: BTreeMap<TopicPartition, Seen>,
    paused: Option<String>,
    error: Option<Error>,
    /// Patterns that matched nothing, and that it was said of.
    unmatched: BTreeSet<String>,
}

#[derive(Debug)]
struct Held {
    local: Arc<LocalBroker>,
    server: Option<Server>,
    /// Whether another user of this process had the directory open.
    is_shared: bool,
    claim: Claim,
}

/// The directories that this process has open as replicas: a broker may be shared, but not who writes into its copies.
static CLAIMED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// One of them; given back when it is dropped.
#[derive(Debug)]
struct Claim(PathBuf);

impl Claim {
    fn new(directory: &Path) -> Result<Self> {
        let directory = directory.canonicalize()?;
        if !CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.clone()) {
            let message = format!(
                "this process has the replica open already, use that one or close it first directory={}",
                directory.display()
            );
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        Ok(Self(directory))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[derive(Debug)]
struct Following {
    follower: Follower,
    task: JoinHandle<()>,
}

/// What a copy saw of a partition.
#[derive(Clone, Copy, Debug)]
struct Seen {
    source_end: i64,
    at: Timestamp,
}

impl Replica {
    /// Opens the replica in `directory`, which is made when missing, at once: the source need not be there. Copies nothing yet.
    /// Waits for the device.
    ///
    /// # Errors
    /// `Fenced` if another process has the directory open, or this one has as a replica; `AlreadyExists` if the port is taken. See
    /// also `Broker::open`.
    pub fn open(runtime: &Runtime, directory: &Path, source: OpenSource, options: ReplicaOptions) -> Result<Self> {
        let location = Location::Directory(directory.into());
        let is_shared = LocalBroker::find(&location).is_some();
        // A topic that a reader asks for before its copy is here must not take its place.
        let config = BrokerConfig { auto_create_topics: false, ..BrokerConfig::default() };
        let local = LocalBroker::open(runtime, location, config)?;
        let claim = Claim::new(directory)?;
        let (server, bootstrap_servers) = match &options.listen {
            Some(listen) => {
                let (server, address) = local.listen(listen)?;
                (Some(server), address)
            }
            None => (None, local.location().to_string()),
        };
        let source = source.limited(options.limit_rate);
        let embedded = local.embedded().clone();
        let state = State { held: Some(Held { local, server, is_shared, claim }), ..State::default() };
        let inner = Inner {
            runtime: runtime.clone(),
            directory: directory.to_owned(),
            embedded,
            source,
            options,
            bootstrap_servers,
            events: broadcast::Sender::new(EVENTS_KEPT),
            syncing: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same, after the source has answered and has what `options` choose: a wrong name must not leave an empty log behind.
    ///
    /// # Errors
    /// As [`open`](Self::open); what the source answers.
    pub async fn open_checked(
        runtime: &Runtime,
        directory: &Path,
        source: OpenSource,
        options: ReplicaOptions,
    ) -> Result<Self> {
        let identity = source.connect().await?;
        let topics = options.topics.clone().unwrap_or_default();
        let found = source.cluster().topics(&topics).await?;
        options.portion.check_found(&found)?;
        check_apart(&identity, directory)?;
        tokio::task::block_in_place(|| Self::open(runtime, directory, source, options))
    }

    /// What to give to a client as its `bootstrap_servers`: `HOST:PORT`, or the directory where no port was asked for.
    pub fn bootstrap_servers(&self) -> &str {
        &self.inner.bootstrap_servers
    }

    /// Brings the replica to where the source is: whole topics at first, what is new after that. With `full` what is here of
    /// the chosen topics is dropped before, and copied anew.
    ///
    /// What a partition fails with is in its place in the result.
    ///
    /// # Errors
    /// `NotFound` if a topic or partition is not there; `Timeout` if the source does not answer; `Invalid` if this is a replica
    /// of another cluster, or follows already.
    pub async fn sync(&self, full: bool, progress: &(dyn Fn(&Progress) + Send + Sync)) -> Result<Copied> {
        if self.is_following() {
            let message = "the replica follows its source, stop that first to copy once";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let copied = self.inner.sync(full, progress).await;
        self.inner.tell_of(&copied);
        copied
    }

    /// Goes on with what is new, in the background, until [`stop`](Self::stop); full at first where nothing is here. What may pass
    /// is tried again: a source that is away, a disk without room. Does nothing if it follows already.
    ///
    /// # Errors
    /// `Closed` if the replica is; `Corrupt` if what it remembers is unreadable.
    pub fn follow(&self) -> Result<()> {
        let inner = &self.inner;
        let of = inner.embedded.replica_of()?;
        let (topics, portion) = inner.plan(of.as_ref(), false)?;
        let mut state = inner.state();
        if state.held.is_none() {
            return Err(closed());
        }
        if state.following.as_ref().is_some_and(|following| !following.task.is_finished()) {
            return Ok(());
        }
        let options = FollowerOptions {
            topics,
            portion,
            groups: inner.options.groups.clone(),
            recreated: inner.options.recreated,
            cluster_id: of.and_then(|of| of.cluster_id),
            max_bytes: inner.options.max_bytes / 2,
            ..FollowerOptions::default()
        };
        let logs = Arc::new(inner.embedded.clone());
        let (follower, driver) = Follower::new(inner.source.cluster().clone(), logs, options);
        let task = inner.runtime.spawn(Arc::clone(inner).follow(follower.clone(), driver));
        state.error = None;
        state.following = Some(Following { follower, task });
        Ok(())
    }

    /// The follower, while it follows.
    pub fn follower(&self) -> Option<Follower> {
        let state = self.inner.state();
        let following = state.following.as_ref().filter(|following| !following.task.is_finished());
        following.map(|following| following.follower.clone())
    }

    fn is_following(&self) -> bool {
        self.follower().is_some()
    }

    /// Returns when it follows no more because it cannot go on; why. Never, as long as it does or if it was stopped.
    pub async fn failed(&self) -> Error {
        loop {
            {
                let state = self.inner.state();
                if let (Some(following), Some(error)) = (&state.following, &state.error)
                    && following.task.is_finished()
                {
                    return repeat(error);
                }
            }
            self.inner.runtime.clock().sleep(LOOK).await;
        }
    }

    /// Waits until everything is here that the source had when this was called, while it follows.
    ///
    /// # Errors
    /// `Timeout` after `timeout`, with what is missing; `Invalid` if it does not follow; why it does not any more.
    pub async fn caught_up(&self, timeout: Duration) -> Result<()> {
        let Some(follower) = self.follower() else {
            return Err(match &self.inner.state().error {
                Some(error) => repeat(error).context("the replica follows no more"),
                None => Error::new(ErrorKind::Invalid, "the replica does not follow its source"),
            });
        };
        let caught_up = tokio::select! {
            caught_up = follower.caught_up(timeout) => caught_up,
            why = self.failed() => Err(why.context("the replica follows no more")),
        };
        match (&caught_up, &self.inner.state().error) {
            (Err(error), Some(why)) if error.kind() == ErrorKind::Timeout => {
                Err(Error::new(ErrorKind::Timeout, format!("{}: {why}", error.message())))
            }
            _ => caught_up,
        }
    }

    /// Follows no more. What is here stays, and goes on from there.
    pub async fn stop(&self) {
        let following = self.inner.state().following.take();
        if let Some(Following { follower, task }) = following {
            follower.stop();
            task.abort();
            // It ends at any point without harm.
            drop(task.await);
        }
        let mut state = self.inner.state();
        state.paused = None;
        state.error = None;
    }

    /// What happens from now on. A listener that is more than a thousand events behind loses the oldest.
    pub fn events(&self) -> ReplicaEvents {
        ReplicaEvents(self.inner.events.subscribe())
    }

    /// How each partition stands. Asks nobody.
    ///
    /// # Errors
    /// `Closed` if the replica is; `Corrupt` if what it remembers is unreadable.
    pub fn status(&self) -> Result<ReplicaStatus> {
        let inner = &self.inner;
        let of = inner.embedded.replica_of()?;
        let (topics, portion) = inner.plan(of.as_ref(), false)?;
        let of = of.unwrap_or_default();
        let copies = inner.embedded.copy_states()?;
        let follower = self.follower();
        let followed = follower.as_ref().map(Follower::status).unwrap_or_default();
        let now = inner.runtime.clock().now();
        let state = inner.state();
        let stands = |copy: CopyState| {
            let seen = state.seen.get(&copy.partition).copied();
            let found = followed.get(&copy.partition);
            let is_chosen = topics.matches(&copy.partition.topic) && portion.includes(&copy.partition);
            let is_gone = !followed.is_empty() && found.is_none() && is_chosen;
            ReplicaPartition::of(copy, seen, found, is_gone.then_some(GONE), now)
        };
        Ok(ReplicaStatus {
            source: inner.source.address(),
            cluster_id: of.cluster_id,
            is_following: follower.is_some(),
            paused: follower.as_ref().and_then(Follower::paused).or_else(|| state.paused.clone()),
            error: follower.as_ref().and_then(Follower::error).or_else(|| state.error.as_ref().map(Error::to_string)),
            synced_at: of.synced_at,
            partitions: copies.into_iter().map(stands).collect(),
        })
    }

    /// Stops, ends the connections of its clients and closes the directory, unless others of this process use it. Safe to repeat.
    ///
    /// # Errors
    /// What the device answers; the next start recovers.
    pub async fn close(&self) -> Result<()> {
        self.stop().await;
        let held = self.inner.state().held.take();
        let Some(Held { local, server, is_shared, claim }) = held else { return Ok(()) };
        if let Some(server) = server {
            server.close().await;
        }
        let closed = tokio::task::block_in_place(|| if is_shared { local.release() } else { local.close() });
        drop(claim);
        closed
    }
}

/// What is said of a copy whose topic is not there any more.
const GONE: &str = "the source no longer has it, what is here stays";

impl ReplicaPartition {
    fn of(
        copy: CopyState,
        seen: Option<Seen>,
        followed: Option<&PartitionStatus>,
        error: Option<&str>,
        now: Timestamp,
    ) -> Self {
        let followed = followed.filter(|status| status.at_end.is_some() || status.source_end > 0);
        let source_end = followed.map(|status| status.source_end).or_else(|| seen.map(|seen| seen.source_end));
        let source_end = source_end.map(|end| end.max(copy.end));
        let synced_at = followed.and_then(|status| status.at_end).or_else(|| seen.map(|seen| seen.at));
        let behind = source_end.map(|end| end.saturating_sub(copy.end).max(0) as u64);
        let offsets = copy.end.saturating_sub(copy.start).max(0) as u64;
        Self {
            source_end,
            local_start: copy.start,
            local_end: copy.end,
            behind_records: behind,
            behind_bytes: match behind {
                Some(behind) if offsets > 0 => {
                    u64::try_from(u128::from(behind) * u128::from(copy.bytes) / u128::from(offsets)).ok()
                }
                Some(0) => Some(0),
                _ => None,
            },
            behind_seconds: match behind {
                Some(0) => Some(0.0),
                Some(_) => synced_at.map(|at| now.saturating_sub(at).max(0) as f64 / 1e3),
                None => None,
            },
            synced_at,
            partition: copy.partition,
            holes: copy.holes,
            error: followed.and_then(|status| status.error.clone()).or_else(|| error.map(str::to_owned)),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to copy, by what was asked for and what the directory remembers. A full copy forgets which part it was.
    fn plan(&self, of: Option<&ReplicaOf>, full: bool) -> Result<(Selection, Portion)> {
        let ReplicaOptions { topics, portion, .. } = &self.options;
        let of = of.cloned().unwrap_or_default();
        let topics = match topics {
            Some(topics) => topics.clone(),
            None => Selection::new(of.topics)?,
        };
        if full {
            return Ok((topics, portion.clone()));
        }
        let begin = match (portion.begin, of.since, of.last) {
            (Begin::Start, Some(since), _) => Begin::Since(since),
            (Begin::Start, None, Some(last)) => Begin::Last(last),
            (begin, _, _) => begin,
        };
        let choices = portion.choices();
        let choices = if choices.is_empty() { of.partitions } else { choices };
        Ok((topics, Portion::from(begin).with_partitions(choices)?))
    }

    async fn sync(&self, full: bool, progress: &(dyn Fn(&Progress) + Send + Sync)) -> Result<Copied> {
        let _one_at_a_time = self.syncing.lock().await;
        let before = self.embedded.replica_of()?;
        let (topics, portion) = self.plan(before.as_ref(), full)?;
        let identity = self.source.connect().await?;
        check_apart(&identity, &self.directory)?;
        let of = self.check_cluster(before.as_ref(), &identity, &topics, &portion)?;
        let source = self.source.cluster();
        // Before the records: a group is not to go on beyond what is here.
        let groups = match &self.options.groups {
            Some(groups) => source.committed(&source.topics(&topics).await?, groups).await?,
            None => Vec::new(),
        };
        if before.as_ref() != Some(&of) {
            // Before the first record, or another cluster's could follow it.
            source.topics(&topics).await?;
            self.embedded.set_replica_of(&of).await?;
        }
        let options = ReplicateOptions {
            topics: topics.clone(),
            portion,
            full,
            recreated: self.options.recreated,
            copy: CopyOptions { max_bytes: self.options.max_bytes, ..CopyOptions::default() },
            ..ReplicateOptions::default()
        };
        let began = self.runtime.clock().now();
        let copied = replication::replicate(source, &self.embedded, &options, progress).await?;
        self.tell_of_unmatched(&topics).await?;
        {
            let mut state = self.state();
            for done in copied.done() {
                state.seen.insert(done.partition.clone(), Seen { source_end: done.end, at: began });
            }
        }
        if copied.partitions.iter().all(Result::is_ok) {
            self.embedded.commit_offsets(&groups).await?;
            self.embedded.set_replica_of(&ReplicaOf { synced_at: Some(began), ..of }).await?;
        }
        Ok(copied)
    }

    /// Says once which patterns match nothing, for it may be that nothing was meant to come later.
    async fn tell_of_unmatched(&self, topics: &Selection) -> Result<()> {
        let copies = self.embedded.copies().await?;
        for pattern in topics.unmatched(copies.iter().map(|topic| topic.name.as_str())) {
            if self.state().unmatched.insert(pattern.to_owned()) {
                log::warn!("no topic matches yet pattern={pattern}");
            }
        }
        Ok(())
    }

    /// What the directory is a replica of, with what it is to remember from now on.
    fn check_cluster(
        &self,
        before: Option<&ReplicaOf>,
        identity: &Identity,
        topics: &Selection,
        portion: &Portion,
    ) -> Result<ReplicaOf> {
        if let (Some(was), Some(is)) = (before.and_then(|of| of.cluster_id.as_ref()), &identity.cluster_id)
            && was != is
        {
            let message = format!(
                "the directory is a replica of another cluster, choose another directory directory={} cluster_id={was} \
                 source_cluster_id={is} source={}",
                self.directory.display(),
                identity.address
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(ReplicaOf {
            cluster_id: identity.cluster_id.clone().or_else(|| before.and_then(|of| of.cluster_id.clone())),
            address: identity.address.clone(),
            topics: topics.choices().map(str::to_owned).collect(),
            partitions: portion.choices(),
            since: match portion.begin {
                Begin::Since(since) => Some(since),
                _ => None,
            },
            last: match portion.begin {
                Begin::Last(last) => Some(last),
                _ => None,
            },
            synced_at: before.and_then(|of| of.synced_at),
        })
    }

    /// Copies, then follows, and tells of it, until it cannot go on.
    async fn follow(self: Arc<Self>, follower: Follower, driver: BoxFuture<'static, Result<()>>) {
        let ended = tokio::select! {
            ended = self.keep_up(driver) => ended,
            never = self.watch(&follower) => never,
        };
        if let Err(error) = ended {
            log::error!("the replica follows no more: {error}");
            self.fail(&error);
        }
    }

    /// A copy of many partitions at once brings what is missing faster than following does; then there is little left.
    async fn keep_up(&self, driver: BoxFuture<'static, Result<()>>) -> Result<()> {
        let clock = self.runtime.clock();
        let mut pause = PAUSES.0;
        loop {
            let copied = self.sync(false, &|_| {}).await;
            if let Ok(copied) = &copied
                && copied.records() > 0
            {
                self.tell(changed(copied));
                pause = PAUSES.0;
            }
            let failed = match &copied {
                Err(error) => Some(error),
                // What one partition fails with, following tells of.
                Ok(copied) => copied.partitions.iter().filter_map(|copied| copied.as_ref().err()).find(|error| {
                    error.is_retriable()
                        || matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Full | ErrorKind::Closed)
                }),
            };
            let Some(error) = failed else { break };
            match error.kind() {
                ErrorKind::Full => self.pause(error),
                _ if error.is_retriable() => self.fail(error),
                ErrorKind::Timeout | ErrorKind::NotFound | ErrorKind::AlreadyExists => self.fail(error),
                _ => return copied.map(drop),
            }
            clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        {
            let mut state = self.state();
            state.error = None;
            state.paused = None;
        }
        driver.await
    }

    fn pause(&self, error: &Error) {
        let why = format!("paused until there is room: {error}");
        let mut state = self.state();
        let is_news = state.paused.is_none();
        state.error = None;
        state.paused = Some(why.clone());
        drop(state);
        if is_news {
            log::warn!("{why}");
            self.tell(ReplicaEvent::Paused(why));
        }
    }

    fn fail(&self, error: &Error) {
        let text = error.to_string();
        let mut state = self.state();
        let is_news = state.error.as_ref().is_none_or(|error| error.to_string() != text);
        state.error = Some(repeat(error));
        state.paused = None;
        drop(state);
        if is_news {
            log::warn!("the replica is not brought up to date: {text}");
            self.tell(ReplicaEvent::Error(text));
        }
    }

    fn tell(&self, event: ReplicaEvent) {
        // If nobody listens, so be it.
        let _ = self.events.send(event);
    }

    /// Tells what became of a copy that was asked for.
    fn tell_of(&self, copied: &Result<Copied>) {
        match copied {
            Err(error) => self.tell(ReplicaEvent::Error(error.to_string())),
            Ok(copied) => {
                if copied.records() > 0 {
                    self.tell(changed(copied));
                }
                match copied.partitions.iter().find_map(|copied| copied.as_ref().err()) {
                    Some(error) => self.tell(ReplicaEvent::Error(error.to_string())),
                    None => self.tell(ReplicaEvent::UpToDate),
                }
            }
        }
    }

    /// Tells of what the follower does.
    async fn watch(&self, follower: &Follower) -> Result<()> {
        let clock = self.runtime.clock();
        let mut looked_at = follower.changes();
        let mut told: BTreeMap<TopicPartition, (u64, u64)> = BTreeMap::new();
        let (mut is_up_to_date, mut paused, mut error) = (false, None, None);
        loop {
            clock.sleep(LOOK).await;
            let changes = follower.changes();
            if changes == looked_at {
                continue;
            }
            looked_at = changes;
            let status = follower.status();
            let (mut partitions, mut records, mut bytes) = (Vec::new(), 0, 0);
            for (partition, status) in &status {
                let before = told.entry(partition.clone()).or_default();
                // One that was made anew counts from nothing.
                let came = if status.records >= before.0 { *before } else { (0, 0) };
                if status.records > came.0 {
                    partitions.push(partition.clone());
                    records += status.records - came.0;
                    bytes += status.bytes - came.1.min(status.bytes);
                }
                *before = (status.records, status.bytes);
            }
            let has_changed = !partitions.is_empty();
            if has_changed {
                self.tell(ReplicaEvent::Change { partitions, records, bytes });
            }
            let paused_now = follower.paused();
            if let (Some(why), None) = (&paused_now, &paused) {
                self.tell(ReplicaEvent::Paused(why.clone()));
            }
            let error_now = follower.error().or_else(|| {
                status.iter().find_map(|(partition, status)| Some(format!("{partition}: {}", status.error.as_ref()?)))
            });
            if let Some(what) = &error_now
                && paused_now.is_none()
                && error != error_now
            {
                self.tell(ReplicaEvent::Error(what.clone()));
            }
            let is_now =
                error_now.is_none() && !status.is_empty() && status.values().all(PartitionStatus::is_caught_up);
            if is_now && (has_changed || !is_up_to_date) {
                self.tell(ReplicaEvent::UpToDate);
            }
            (is_up_to_date, paused, error) = (is_now, paused_now, error_now);
        }
    }
}

fn changed(copied: &Copied) -> ReplicaEvent {
    let partitions = copied.done().filter(|done| done.records > 0).map(|done| done.partition.clone());
    ReplicaEvent::Change { partitions: partitions.collect(), records: copied.records(), bytes: copied.bytes() }
}

/// Refuses a directory that is the source itself, however that was named: copied onto itself, a topic would be emptied by `full`,
/// and take no produce requests in any case. Only a log of this process can be; another's has its owner.
fn check_apart(source: &Identity, directory: &Path) -> Result<()> {
    let Some(open) = LocalBroker::find(&Location::Directory(directory.into())) else { return Ok(()) };
    let own = open.embedded().cluster_id();
    if source.cluster_id.as_ref().is_some_and(|id| own.is_ok_and(|own| own == *id)) {
        let message = format!("source and target are the same log directory={}", directory.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the replica is closed")
}
