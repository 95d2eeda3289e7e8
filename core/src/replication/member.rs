//! A broker among others: it leads, or follows the one that does, and goes from one to the other as leadership moves.
//!
//! [`Member`] drives what [`crate::broker`] decides about leadership. A synchronous follower registers with its leader every
//! second (BrokerRegistration), which makes it known to clients, and runs a [`Follower`] with its node id. A leader tells
//! every broker that it knows of its epoch (BeginQuorumEpoch, KIP-595) until each has answered, and follows the one that answers
//! with a later one. A promotion that must lose nothing asks the leader to stand back (Vote), takes what is left, and begins the
//! new term while the leader still waits.
//!
//! An asynchronous follower is a replica that its leader knows nothing of; it is a member of nothing until it is promoted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::future::{AbortHandle, Abortable, BoxFuture, Fuse, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use uuid::Uuid;

use super::{ClusterSource, Follower, FollowerOptions, LocalLogs, TopicPartition};
use crate::broker::{
    KnownReplicas, Leader, LeadershipEvent, METADATA_TOPIC, OFFSETS_TOPIC, PARTIAL_LISTENER, Peer, RequestId,
    STAND_BACK_MS,
};
use crate::client::{Client, Reach, Topics};
use crate::protocol::messages::begin_quorum_epoch::{
    BeginQuorumEpochRequest, LeaderEndpoint, RequestPartitionData as Begun, RequestTopicData as BegunTopic,
};
use crate::protocol::messages::broker_registration::{BrokerRegistrationRequest, Listener};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::vote::{RequestPartitionData as Asked, RequestTopicData as AskedTopic, VoteRequest};
use crate::protocol::messages::{ListOffsetsRequest, MetadataRequest};
use crate::protocol::{ErrorCode, Request, Response};
use crate::transport::{Embedded, Endpoint};
use crate::{Error, ErrorKind, Result};

/// How often a follower registers, and a leader tries those who have not answered.
const BEAT: Duration = Duration::from_secs(1);
/// How long another broker may take to answer a question about leadership.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the leader may take to answer what was asked of this broker.
const FORWARD: Duration = Duration::from_secs(3);
/// How long after its vote a leader asks what came of it.
const STAND_BACK: Duration = Duration::from_millis(STAND_BACK_MS as u64);
/// How long the leader's last records may take to come once it stands back; well within the time that it does.
const CATCH_UP: Duration = Duration::from_millis(STAND_BACK_MS as u64 / 2);
/// Why a leader does not hand over now.
const WAIT: ErrorCode = ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE;
/// How long a registration under an id that another broker has is tried: that one may be gone.
const TWIN_PATIENCE: Duration = Duration::from_secs(8);

/// Makes a client of the brokers at some addresses, `HOST:PORT[,…]`.
pub type Connect = Arc<dyn Fn(&str) -> Result<Client> + Send + Sync>;

/// How to be a member.
#[derive(Clone)]
#[non_exhaustive]
pub struct MemberOptions {
    /// The address of the broker to follow, `HOST:PORT[,…]`; `None` to lead, unless the directory says that it follows.
    pub follow: Option<String>,
    /// Whether the leader waits for what is acknowledged to be here, too. Default: yes.
    pub synchronous: bool,
    /// How to follow; its replica id, deletions and groups are the member's to say.
    pub follower: FollowerOptions,
    /// How other brokers are reached.
    pub connect: Connect,
}

impl MemberOptions {
    /// A member that follows the broker at `follow`, if that is given, synchronously.
    pub fn new(connect: Connect, follow: Option<String>) -> Self {
        Self { follow, synchronous: true, follower: FollowerOptions::default(), connect }
    }
}

impl fmt::Debug for MemberOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberOptions")
            .field("follow", &self.follow)
            .field("synchronous", &self.synchronous)
            .field("follower", &self.follower)
            .finish_non_exhaustive()
    }
}

/// A handle to a member. Its driver does the work; dropping that, or [`stop`](Self::stop), ends it without harm.
#[derive(Clone, Debug)]
pub struct Member {
    shared: Arc<Shared>,
    abort: AbortHandle,
}

struct Shared {
    broker: Embedded,
    /// What is followed is written here: the broker's logs.
    logs: Arc<dyn LocalLogs>,
    options: MemberOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    follower: Option<Follower>,
    error: Option<String>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Whom this broker follows, if anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows, as an in-sync replica may.
    Follower(Leader),
    /// It follows the broker at this address, which knows nothing of it.
    Replica(String),
}

impl Member {
    /// A member whose logs are `broker`'s, and its driver. The driver ends when the member is stopped, or with an error when
    /// following cannot go on: see [`Follower::new`].
    ///
    /// # Errors
    /// `Invalid` if it is to be an asynchronous follower, but was promoted before and leads.
    pub fn new(broker: Embedded, options: MemberOptions) -> Result<(Self, BoxFuture<'static, Result<()>>)> {
        Self::with_logs(broker.clone(), Arc::new(broker), options)
    }

    /// As [`new`](Self::new), with logs that stand before the broker's own.
    pub(crate) fn with_logs(
        broker: Embedded,
        logs: Arc<dyn LocalLogs>,
        options: MemberOptions,
    ) -> Result<(Self, BoxFuture<'static, Result<()>>)> {
        let is_replica = options.follow.is_some() && !options.synchronous;
        broker.with(|broker, now| {
            if is_replica && broker.promoted()?.is_some() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "this directory was promoted and leads, it is no copy any more; serve it without following, or follow into \
                     another directory",
                ));
            }
            if is_replica {
                return broker.forget_leader(now);
            }
            broker.resume_following(now)?;
            // One that was promoted leads until it learns of a later one.
            broker.seek(options.follow.is_some() && broker.promoted()?.is_none());
            Ok(())
        })??;
        let events = broker.leadership();
        let shared = Arc::new(Shared { broker, logs, options, state: Mutex::default() });
        let (abort, registration) = AbortHandle::new_pair();
        let driver = Abortable::new(drive(Arc::clone(&shared), events), registration);
        Ok((Self { shared, abort }, driver.map(|ended| ended.unwrap_or(Ok(()))).boxed()))
    }

    /// Ends the driver.
    pub fn stop(&self) {
        self.abort.abort();
    }

    /// What this broker is now.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn role(&self) -> Result<Role> {
        let (leader, promoted) =
            self.shared.broker.with(|broker, _| Ok::<_, Error>((broker.leader().cloned(), broker.promoted()?)))??;
        let is_replica = !self.shared.options.synchronous && promoted.is_none();
        Ok(match (leader, &self.shared.options.follow) {
            (Some(leader), _) => Role::Follower(leader),
            (None, Some(address)) if is_replica && self.follower().is_some() => Role::Replica(address.clone()),
            _ => Role::Leader,
        })
    }

    /// What follows the leader now; `None` while this broker leads or looks for one.
    pub fn follower(&self) -> Option<Follower> {
        self.shared.state().follower.clone()
    }

    /// The leader epoch that this broker leads or follows in.
    ///
    /// # Errors
    /// `Closed` if the broker is.
    pub fn leader_epoch(&self) -> Result<i32> {
        self.shared.broker.with(|broker, _| broker.leader_epoch())
    }

    /// Waits until this broker has what its leader had when it was asked after this call; at once if it leads.
    ///
    /// # Errors
    /// `Timeout` after `timeout`, with what is missing.
    pub async fn caught_up(&self, timeout: Duration) -> Result<()> {
        let clock = Arc::clone(self.shared.broker.clock());
        let deadline = clock.monotonic().saturating_add(timeout);
        loop {
            if let Some(follower) = self.follower() {
                return follower.caught_up(deadline.saturating_sub(clock.monotonic())).await;
            }
            let leads = self.role()? == Role::Leader;
            let promoted = self.shared.broker.with(|broker, _| broker.promoted())??.is_some();
            if leads && (promoted || self.shared.options.follow.is_none()) {
                return Ok(());
            }
            if clock.monotonic() >= deadline {
                let why = self.error().unwrap_or_else(|| "the leader has not answered yet".to_owned());
                let message = format!("not caught up after {} ms: {why}", timeout.as_millis());
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Of how many partitions this follower is in sync, as its leader told last; `None` for a leader or a replica.
    pub fn in_sync(&self) -> Option<usize> {
        self.shared.broker.with(|broker, _| broker.leader().map(|_| broker.in_sync_partitions())).ok().flatten()
    }

    /// Why there is no leader to follow, while that is so.
    pub fn error(&self) -> Option<String> {
        self.shared.state().error.clone()
    }
}

/// What comes after following.
enum Next {
    /// Look again who leads.
    Anew,
    /// The member's work is done.
    Closed,
}

async fn drive(shared: Arc<Shared>, mut events: mpsc::UnboundedReceiver<LeadershipEvent>) -> Result<()> {
    let mut asked = shared.options.follow.clone();
    loop {
        let (followed, peers) = shared.broker.with(|broker, _| (broker.leader().cloned(), broker.peers()))?;
        // Any of them knows who leads, should the one that led be gone for good.
        let addresses = |first: Option<&str>, leader: &Leader| {
            let known = std::iter::once(leader.endpoint()).chain(peers).map(|endpoint| endpoint.to_string());
            first.map(str::to_owned).into_iter().chain(known).collect::<Vec<_>>().join(",")
        };
        let next = match (asked.take(), followed) {
            (Some(address), _) if !shared.options.synchronous => shared.replicate(&address, &mut events).await?,
            (Some(address), Some(leader)) => shared.follow(&addresses(Some(&address), &leader), &mut events).await?,
            (Some(address), None) => shared.follow(&address, &mut events).await?,
            (None, Some(leader)) => shared.follow(&addresses(None, &leader), &mut events).await?,
            (None, None) => shared.lead(&mut events).await?,
        };
        shared.broker.with(|broker, now| {
            broker.seek(false);
            broker.answer_open(now);
        })?;
        let mut state = shared.state();
        if let Some(follower) = state.follower.take() {
            follower.stop();
        }
        state.error = None;
        drop(state);
        if matches!(next, Next::Closed) {
            return Ok(());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This broker's number and address.
    fn own(&self) -> Result<(i32, Endpoint)> {
        self.broker.with(|broker, _| {
            let config = broker.config();
            (config.node_id, Endpoint::new(config.advertised_host.clone(), config.advertised_port))
        })
    }

    /// A client of the brokers at `addresses` that never takes this broker for one of them.
    fn connect(&self, addresses: &str) -> Result<Client> {
        let client = (self.options.connect)(addresses)?;
        let (_, own) = self.own()?;
        Ok(client.within_reach(Reach::Except(own)))
    }

    /// Says what is wrong, once.
    fn note_error(&self, error: &Error) {
        let text = error.to_string();
        let mut state = self.state();
        if state.error.as_ref() != Some(&text) {
            log::warn!("cannot follow now: {text}");
            state.error = Some(text);
        }
    }

    /// Leads until another broker does: tells those who do not know.
    async fn lead(&self, events: &mut mpsc::UnboundedReceiver<LeadershipEvent>) -> Result<Next> {
        let clock = Arc::clone(self.broker.clock());
        // The vote that is not settled, and since when that is known; a clock that is set does not shorten it.
        let mut voted: Option<(u64, Duration)> = None;
        loop {
            let (untold, vote) = self.broker.with(|broker, _| (broker.untold_peers(), broker.unsettled_vote()))?;
            for peer in &untold {
                if let Err(error) = self.announce(peer).await {
                    log::debug!("a broker was not told who leads node={}: {error}", peer.node_id);
                }
                if self.broker.with(|broker, _| broker.leader().is_some())? {
                    return Ok(Next::Anew);
                }
            }
            if let Some((peer, leader_epoch, number)) = vote {
                let now = clock.monotonic();
                let since = voted.filter(|(known, _)| *known == number).map_or(now, |(_, since)| since);
                voted = Some((number, since));
                if now.saturating_sub(since) >= STAND_BACK
                    && let Err(error) = self.settle_vote(&peer, leader_epoch, number).await
                {
                    log::warn!(
                        "standing back until it is known whether another broker leads, promote one of the two if that one is lost \
                         node={}: {error}",
                        peer.node_id
                    );
                }
                if self.broker.with(|broker, _| broker.leader().is_some())? {
                    return Ok(Next::Anew);
                }
            }
            let is_settled = self.broker.with(|broker, _| broker.untold_peers().is_empty() && !broker.stands_back())?;
            let event = if is_settled {
                events.next().await
            } else {
                match futures::future::select(events.next(), clock.sleep(BEAT)).await {
                    futures::future::Either::Left((event, _)) => event,
                    futures::future::Either::Right(_) => continue,
                }
            };
            match event {
                None => return Ok(Next::Closed),
                Some(LeadershipEvent::Follows(_)) => return Ok(Next::Anew),
                Some(LeadershipEvent::Leads | LeadershipEvent::StandsBack) => {}
                Some(LeadershipEvent::Asked(id)) => self.finish(id, Ok(()))?,
                Some(LeadershipEvent::Forward(id, _)) => self.answer(id, None)?,
            }
        }
    }

    /// Asks the broker that was given this one's vote what came of it: follows it, or goes on leading.
    async fn settle_vote(&self, peer: &Peer, leader_epoch: i32, number: u64) -> Result<()> {
        let client = self.connect(&peer.endpoint.to_string())?;
        let response = client.within(PATIENCE, client.call_endpoint(&peer.endpoint, VoteRequest::default())).await?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let answer = answer.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the broker did not say whom it follows"))?;
        self.broker.with(|broker, now| {
            if answer.leader_epoch < leader_epoch {
                return broker.take_vote_back(number, now);
            }
            if answer.leader_id != peer.node_id {
                // Another one leads by now, and will say so.
                return Ok(());
            }
            let leader = Leader {
                node_id: peer.node_id,
                host: peer.endpoint.host.clone(),
                port: peer.endpoint.port,
                leader_epoch: answer.leader_epoch,
            };
            broker.follow(leader, None, now)
        })?
    }

    /// Tells a broker that this one leads; follows the one that it names if that is later.
    async fn announce(&self, peer: &Peer) -> Result<()> {
        let (node_id, own) = self.own()?;
        let (cluster_id, leader_epoch) =
            self.broker.with(|broker, _| (broker.cluster_id().to_owned(), broker.leader_epoch()))?;
        let begun = Begun { partition_index: 0, voter_directory_id: Uuid::nil(), leader_id: node_id, leader_epoch };
        let request = BeginQuorumEpochRequest {
            cluster_id: Some(cluster_id),
            voter_id: peer.node_id,
            topics: vec![BegunTopic { topic_name: METADATA_TOPIC.to_owned(), partitions: vec![begun] }],
            leader_endpoints: vec![LeaderEndpoint { name: "PLAINTEXT".to_owned(), host: own.host, port: own.port }],
        };
        let client = self.connect(&peer.endpoint.to_string())?;
        let response = client.within(PATIENCE, client.call_endpoint(&peer.endpoint, request)).await?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let Some(answer) = answer.filter(|_| response.error_code == ErrorCode::NONE) else {
            return Err(Error::from_code(response.error_code, response.error_code.message()));
        };
        let later = response.node_endpoints.iter().find(|endpoint| endpoint.node_id == answer.leader_id);
        self.broker.with(|broker, now| match (answer.error_code, later) {
            (ErrorCode::NONE, _) => {
                broker.note_acknowledged(peer.node_id, leader_epoch);
                Ok(())
            }
            (_, Some(endpoint)) if answer.leader_epoch > leader_epoch => {
                let leader = Leader {
                    node_id: answer.leader_id,
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                    leader_epoch: answer.leader_epoch,
                };
                broker.follow(leader, None, now)
            }
            (code, _) => Err(Error::from_code(code, code.message())),
        })?
    }

    /// Follows the broker at `address` as a replica that it knows nothing of.
    async fn replicate(&self, address: &str, events: &mut mpsc::UnboundedReceiver<LeadershipEvent>) -> Result<Next> {
        let source = ClusterSource::new(self.connect(address)?);
        let options = FollowerOptions {
            replica_id: None,
            follow_deletions: true,
            groups: Some(super::Selection::all()),
            ..self.options.follower.clone()
        };
        let (follower, driver) = Follower::new(source, Arc::clone(&self.logs), options);
        self.state().follower = Some(follower);
        let mut driver = driver.fuse();
        loop {
            futures::select_biased! {
                event = events.next() => match event {
                    None => return Ok(Next::Closed),
                    Some(LeadershipEvent::Asked(id)) => self.finish(id, Ok(()))?,
                    Some(LeadershipEvent::Forward(id, _)) => self.answer(id, None)?,
                    Some(_) => return Ok(Next::Anew),
                },
                ended = driver => return ended.map(|()| Next::Closed),
            }
        }
    }

    /// Follows the leader that the brokers at `addresses` know, as one of its own.
    async fn follow(&self, addresses: &str, events: &mut mpsc::UnboundedReceiver<LeadershipEvent>) -> Result<Next> {
        let mut client = self.connect(addresses)?;
        let mut follower: Option<Follower> = None;
        let mut driver: Fuse<BoxFuture<'static, Result<()>>> = Fuse::terminated();
        let mut elections: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut beat: Fuse<BoxFuture<'_, Result<Leader>>> = self.register(client.clone()).boxed().fuse();
        let mut pause: Fuse<BoxFuture<'static, ()>> = Fuse::terminated();
        let mut forwarded: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        let mut twin_since = None;
        let mut followed = self.broker.with(|broker, _| broker.leader().map(Leader::endpoint))?;
        loop {
            futures::select_biased! {
                event = events.next() => match event {
                    None => return Ok(Next::Closed),
                    Some(LeadershipEvent::Leads) => return Ok(Next::Anew),
                    // It leads no more.
                    Some(LeadershipEvent::StandsBack) => {}
                    // One that is followed already, in a later epoch, is found by the follower itself.
                    Some(LeadershipEvent::Follows(leader)) => {
                        if follower.is_some() && followed != Some(leader.endpoint()) {
                            return Ok(Next::Anew);
                        }
                        followed = Some(leader.endpoint());
                    }
                    Some(LeadershipEvent::Asked(id)) => {
                        elections.push(self.elect(id, client.clone()).boxed());
                    }
                    Some(LeadershipEvent::Forward(id, request)) => {
                        forwarded.push(self.forward(id, request, client.clone()).boxed());
                    }
                },
                () = elections.select_next_some() => {}
                () = forwarded.select_next_some() => {}
                ended = driver => {
                    ended?;
                    return Ok(Next::Closed);
                }
                registered = beat => {
                    let now = client.clock().monotonic();
                    let registered = registered.and_then(|leader| self.take_in(&client, leader));
                    if registered.is_err() {
                        self.broker.with(|broker, _| broker.note_away())?;
                    }
                    match registered {
                        Ok(()) => {
                            twin_since = None;
                            self.state().error = None;
                            let leader = self.broker.with(|broker, _| broker.leader().map(Leader::endpoint))?;
                            if let (None, Some(leader)) = (&follower, leader) {
                                // Of the leader alone: others may take themselves for it while it is away.
                                let client = self.connect(&leader.to_string())?.within_reach(Reach::Only(leader));
                                let (made, made_driver) = self.follower(&client)?;
                                self.state().follower = Some(made.clone());
                                follower = Some(made);
                                driver = made_driver.fuse();
                            }
                        }
                        Err(error) if error.code() == Some(ErrorCode::DUPLICATE_BROKER_REGISTRATION) => {
                            let since = *twin_since.get_or_insert(now);
                            if now.saturating_sub(since) >= TWIN_PATIENCE {
                                let (node_id, _) = self.own()?;
                                let message = format!(
                                    "another broker that runs has this node id, give this one an id of its own node_id={node_id}"
                                );
                                return Err(Error::new(ErrorKind::Fenced, message));
                            }
                            self.note_error(&error);
                        }
                        // It is the other one that has to follow.
                        Err(error) if error.kind() == ErrorKind::Fenced && error.code().is_none() => {
                            let (leads, promoted) =
                                self.broker.with(|broker, _| (broker.leader().is_none(), broker.promoted()))?;
                            let cluster = client.cluster();
                            let controller = cluster.controller_id.and_then(|id| cluster.brokers.get(&id));
                            let (node_id, own) = self.own()?;
                            if cluster.controller_id == Some(node_id) {
                                if leads && promoted?.is_some() && controller.is_some_and(|it| it.endpoint == own) {
                                    // They follow this broker, which was promoted and is started as it was before.
                                    return Ok(Next::Anew);
                                }
                                return Err(error);
                            }
                            if !leads {
                                // A former leader that does not know it yet; it will be told.
                                self.note_error(&error);
                                pause = client.clock().sleep(BEAT).fuse();
                                continue;
                            }
                            log::warn!("not following: {error}");
                            if let Some(other) = cluster.controller_id.and_then(|id| cluster.brokers.get(&id)) {
                                let peer = Peer { node_id: other.node_id, endpoint: other.endpoint.clone() };
                                self.broker.with(|broker, now| broker.note_cluster(Vec::new(), vec![peer], now))??;
                            }
                            return Ok(Next::Anew);
                        }
                        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Closed)
                            || (error.kind() == ErrorKind::Invalid && follower.is_none()) => return Err(error),
                        Err(error) => self.note_error(&error),
                    }
                    pause = client.clock().sleep(BEAT).fuse();
                }
                () = pause => {
                    if self.state().error.is_some() {
                        // Whoever was asked last does not know; others among those that were told of may.
                        client = self.connect(addresses)?;
                    }
                    beat = self.register(client.clone()).boxed().fuse();
                }
            }
        }
    }

    fn follower(&self, client: &Client) -> Result<(Follower, BoxFuture<'static, Result<()>>)> {
        let (node_id, _) = self.own()?;
        let options = FollowerOptions {
            replica_id: Some(node_id),
            follow_deletions: true,
            // The groups come as the log of their leader, so that nothing committed there is lost with it.
            groups: None,
            topics: self.options.follower.topics.clone().also(OFFSETS_TOPIC),
            ..self.options.follower.clone()
        };
        Ok(Follower::new(ClusterSource::new(client.clone()), Arc::clone(&self.logs), options))
    }

    /// Registers with the leader that the cluster names.
    async fn register(&self, client: Client) -> Result<Leader> {
        let (node_id, own) = self.own()?;
        let cluster = client.within(PATIENCE, client.refresh_with(Topics::All, false)).await?;
        let controller = cluster.controller_id.and_then(|id| cluster.brokers.get(&id));
        let leader = controller.ok_or_else(|| Error::new(ErrorKind::Retriable, "no leader is known"))?;
        if leader.node_id == node_id {
            let message =
                format!("the leader has this follower's node id, give the follower one of its own node_id={node_id}");
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        let incarnation_id = self.broker.with(|broker, now| broker.incarnation(now))??;
        let request = BrokerRegistrationRequest {
            broker_id: node_id,
            cluster_id: cluster.cluster_id.clone().unwrap_or_default(),
            incarnation_id,
            listeners: vec![Listener {
                name: if self.options.follower.topics.is_all() { "PLAINTEXT" } else { PARTIAL_LISTENER }.to_owned(),
                host: own.host,
                port: own.port,
                security_protocol: 0,
            }],
            ..BrokerRegistrationRequest::default()
        };
        let response = client.within(PATIENCE, client.call_endpoint(&leader.endpoint, request)).await;
        let response = response.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the leader is no Ottla, and can be followed asynchronously only: --async broker={}",
                    leader.node_id
                ),
            ),
            _ => error,
        })?;
        if response.error_code != ErrorCode::NONE {
            let code = response.error_code;
            return Err(Error::from_code(
                code,
                format!("{} leader={} node_id={node_id}", code.message(), leader.endpoint),
            ));
        }
        Ok(Leader {
            node_id: leader.node_id,
            host: leader.endpoint.host.clone(),
            port: leader.endpoint.port,
            leader_epoch: i32::try_from(response.broker_epoch).unwrap_or(0),
        })
    }

    /// Takes in what the leader has said of itself and its followers.
    fn take_in(&self, client: &Client, leader: Leader) -> Result<()> {
        let cluster = client.cluster();
        let replicas = cluster.topics.values().flat_map(|topic| {
            (0_i32..).zip(&topic.partitions).map(|(partition, known)| KnownReplicas {
                topic: topic.name.to_string(),
                partition,
                replicas: known.replicas.clone(),
                in_sync: known.in_sync_replicas.clone(),
            })
        });
        let brokers = cluster.brokers.values();
        let brokers = brokers.map(|broker| Peer { node_id: broker.node_id, endpoint: broker.endpoint.clone() });
        let (replicas, brokers) = (replicas.collect(), brokers.collect());
        self.broker.with(|broker, now| {
            broker.follow(leader, cluster.cluster_id.as_deref(), now)?;
            broker.note_cluster(replicas, brokers, now)
        })?
    }

    fn finish(&self, id: RequestId, outcome: Result<()>) -> Result<()> {
        self.broker.with(|broker, now| broker.finish_election(id, outcome, now))
    }

    fn answer(&self, id: RequestId, response: Option<Response>) -> Result<()> {
        self.broker.with(|broker, now| broker.finish_forwarded(id, response, now))
    }

    /// Has the leader answer a request.
    async fn forward(&self, id: RequestId, request: Request, client: Client) {
        let leader = self.broker.with(|broker, _| broker.leader().map(Leader::endpoint)).ok().flatten();
        let response = match leader {
            Some(leader) => client.within(FORWARD, client.transport().call(&leader, request)).await.ok(),
            None => None,
        };
        // A broker that is closed has answered everybody.
        let _ = self.answer(id, response);
    }

    /// Becomes the leader without losing anything, or answers why not.
    async fn elect(&self, id: RequestId, client: Client) {
        let outcome = self.succeed(&client).await;
        if let Err(error) = self.finish(id, outcome) {
            log::warn!("an election could not be answered: {error}");
        }
    }

    async fn succeed(&self, client: &Client) -> Result<()> {
        let Some(leader) = self.broker.with(|broker, _| broker.leader().cloned())? else { return Ok(()) };
        if !self.options.follower.topics.is_all() {
            let message = "this follower has only some of its leader's topics and cannot take its place; an unclean election \
                           (--unclean) makes it lead those";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        match self.take_over(client, &leader).await {
            Ok(()) => Ok(()),
            // Nobody there to hand over: what this broker knows has to do.
            Err(error)
                if error.code().is_none() && matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Timeout) =>
            {
                log::info!("the leader cannot hand over: {error}");
                self.broker.with(|broker, now| {
                    broker.check_safe_alone(now)?;
                    broker.promote(now)
                })?
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the leader to stand back, takes what it has, and is promoted while it waits.
    async fn take_over(&self, client: &Client, leader: &Leader) -> Result<()> {
        let clock = client.clock();
        let (node_id, _) = self.own()?;
        let (cluster_id, epoch) = self.broker.with(|broker, _| (broker.cluster_id().to_owned(), broker.next_term()))?;
        let asked = Asked { replica_epoch: epoch, replica_id: node_id, ..Asked::default() };
        let request = VoteRequest {
            cluster_id: Some(cluster_id),
            voter_id: leader.node_id,
            topics: vec![AskedTopic { topic_name: METADATA_TOPIC.to_owned(), partitions: vec![asked] }],
        };
        let endpoint = leader.endpoint();
        let began = clock.monotonic();
        let response = client.within(PATIENCE, client.call_endpoint(&endpoint, request)).await?;
        let granted = response.topics.iter().flat_map(|topic| &topic.partitions).any(|answer| answer.vote_granted);
        if !granted {
            let message = format!("the leader does not stand back for this follower leader={endpoint}");
            return Err(Error::from_code(WAIT, message));
        }
        // What it took last comes, and what it knows of topics, their options and groups with it.
        let follower = self.state().follower.clone();
        let follower = follower.ok_or_else(|| Error::from_code(WAIT, "not promoted, nothing is followed yet"))?;
        follower.look_at_everything();
        follower.caught_up(CATCH_UP).await.map_err(|error| Error::from_code(WAIT, format!("not promoted: {error}")))?;
        let topics = client.within(PATIENCE, self.topics_of(client, &endpoint)).await?;
        let ends = client.within(PATIENCE, self.ends_of(client, &endpoint, &topics)).await?;
        loop {
            let missing = self.broker.with(|broker, _| {
                if broker.leader() != Some(leader) {
                    return Some("another broker leads".to_owned());
                }
                let copies = broker.copies().into_iter();
                let copies: BTreeMap<String, (Uuid, i32)> =
                    copies.map(|copy| (copy.name, (copy.id, copy.partitions))).collect();
                if copies != topics {
                    return Some("topics have not all been followed".to_owned());
                }
                ends.iter().find_map(|(partition, theirs)| {
                    let log = broker.log_end(&partition.topic, partition.partition);
                    let ours = log.map_or((-1, 0), |log| (log.leader_epoch, log.end));
                    (ours != *theirs)
                        .then(|| format!("partition={partition} end={} epoch={} leaders={theirs:?}", ours.1, ours.0))
                })
            })?;
            if clock.monotonic().saturating_sub(began) >= CATCH_UP {
                let missing = missing.unwrap_or_else(|| "it took too long".to_owned());
                let message = format!("not promoted, the leader's last changes did not come in time: {missing}");
                return Err(Error::from_code(WAIT, message));
            }
            if missing.is_none() {
                return self.broker.with(|broker, now| broker.promote(now))?;
            }
            clock.sleep(Duration::from_millis(2)).await;
        }
    }

    /// The leader's topics: id and number of partitions of each.
    async fn topics_of(&self, client: &Client, leader: &Endpoint) -> Result<BTreeMap<String, (Uuid, i32)>> {
        let request = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        let response = client.call_endpoint(leader, request).await?;
        let topics = response.topics.into_iter().filter_map(|topic| {
            let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            Some((topic.name?, (topic.topic_id, partitions)))
        });
        Ok(topics.collect())
    }

    /// The epoch of the last batch and the end of every log at the leader, whoever may read so far.
    async fn ends_of(
        &self,
        client: &Client,
        leader: &Endpoint,
        topics: &BTreeMap<String, (Uuid, i32)>,
    ) -> Result<Vec<(TopicPartition, (i32, i64))>> {
        let topics = topics.iter().map(|(name, (_, partitions))| ListOffsetsTopic {
            name: name.clone(),
            partitions: (0..*partitions)
                .map(|partition_index| ListOffsetsPartition {
                    partition_index,
                    current_leader_epoch: -1,
                    timestamp: -1,
                })
                .collect(),
        });
        let request = ListOffsetsRequest { replica_id: -2, topics: topics.collect(), ..Default::default() };
        let response = client.call_endpoint(leader, request).await?;
        let mut ends = Vec::new();
        for topic in response.topics {
            for answer in topic.partitions {
                let partition = TopicPartition::new(topic.name.as_str(), answer.partition_index);
                match answer.error_code {
                    ErrorCode::NONE => ends.push((partition, (answer.leader_epoch, answer.offset))),
                    code => return Err(Error::from_code(code, format!("{} partition={partition}", code.message()))),
                }
            }
        }
        Ok(ends)
    }
}
