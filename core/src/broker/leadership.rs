//! Who leads: this broker, or another one that it follows; and how leadership moves.
//!
//! A broker leads all of its topics or none. One that follows remembers its leader (`leader` in the metadata partition), names
//! it to clients while it answers, and takes no records, no commits and no changes. Each term of leadership begins with an
//! explicit promotion (ElectLeaders), which raises the leader epoch by a whole [`TERM`]; an unclean start raises it by one
//! within its term. So a former leader that returns, however often it crashed, is behind the one that was promoted. It
//! learns that from BeginQuorumEpoch (KIP-595), which a leader sends to every broker that it knows until each has answered.
//!
//! A leader that is asked for its vote by a follower stands back: nothing is written while the follower takes the rest and is
//! promoted. Nor is anything after that, until it is known what came of it: the leader follows the other one, or that one has
//! said, [`STAND_BACK_MS`] later, that it does not lead. The vote is remembered; a leader that is restarted still stands back.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::stored::{Change, METADATA_TOPIC, StoredTopic};
use super::topics::code_of;
use super::{Broker, Context, OFFSETS_TOPIC, RequestId};
use crate::protocol::Endpoint;
use crate::protocol::messages::alter_configs::{AlterConfigsResourceResponse, AlterConfigsResponse};
use crate::protocol::messages::begin_quorum_epoch::{self, BeginQuorumEpochRequest, BeginQuorumEpochResponse};
use crate::protocol::messages::broker_registration::{BrokerRegistrationRequest, BrokerRegistrationResponse};
use crate::protocol::messages::create_partitions::{CreatePartitionsResponse, CreatePartitionsTopicResult};
use crate::protocol::messages::create_topics::{CreatableTopicResult, CreateTopicsResponse};
use crate::protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicsResponse};
use crate::protocol::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use crate::protocol::messages::incremental_alter_configs::{
    AlterConfigsResourceResponse as IncrementalResult, IncrementalAlterConfigsResponse,
};
use crate::protocol::messages::vote::{self, VoteRequest, VoteResponse};
use crate::protocol::{ErrorCode, Request, Response};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many leader epochs a term has. The first epoch of a term is the promotion's, the others are for starts of that
/// leader that follow a crash.
pub const TERM: i32 = 10_000;

/// Of so many terms one after the other each is another broker's, by its node id: two that are promoted out of each other's
/// reach lead in different epochs, and it is found out where their histories part.
const TURNS: i32 = 32;

/// How long after it has given its vote a leader asks what came of it, in ms: longer than the other one takes what is left.
pub const STAND_BACK_MS: i64 = 10_000;

/// A leader that has not answered for so long is away: its follower speaks for itself then. In ms.
const AWAY_MS: i64 = 5_000;

/// How long a follower is told of to clients after it has been heard of, in ms.
const PEER_ALIVE_MS: i64 = 5_000;

/// The number of topics among what has a configuration.
const TOPIC_RESOURCE: i8 = 2;

/// The name of the listener that a follower registers which has some of its leader's topics: clients are not sent there.
pub const PARTIAL_LISTENER: &str = "PARTIAL";

/// How many followers a leader remembers.
const MAX_PEERS: usize = 1_000;

/// A broker that leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its node id.
    pub node_id: i32,
    /// The host that it is reached at.
    pub host: String,
    /// The port that it is reached at.
    pub port: u16,
    /// The leader epoch that it leads in.
    pub leader_epoch: i32,
}

impl Leader {
    /// Where it is reached.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.host.clone(), self.port)
    }
}

/// Another broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node id.
    pub node_id: i32,
    /// Where it is reached.
    pub endpoint: Endpoint,
}

/// What the shell has to follow up on.
#[derive(Clone, Debug, PartialEq)]
pub enum LeadershipEvent {
    /// Another broker leads, or the same in a later epoch.
    Follows(Leader),
    /// This broker leads from now on.
    Leads,
    /// This leader has given its vote; [`Broker::unsettled_vote`] is to be settled.
    StandsBack,
    /// Somebody asks that this follower lead, without loss; [`Broker::finish_election`] takes the outcome.
    Asked(RequestId),
    /// A request for the leader; [`Broker::finish_forwarded`] takes its answer. (Kafka's brokers forward, too: KIP-590.)
    Forward(RequestId, Request),
}

/// A partition's replicas and in-sync replicas as its leader has told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownReplicas {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The nodes that have it.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
}

/// A peer, as stored under `peer/NODE_ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredPeer {
    host: String,
    port: u16,
}

/// A vote, as stored under `vote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredVote {
    node_id: i32,
    leader_epoch: i32,
}

/// A vote that was given, of which it is not known yet what came of it.
#[derive(Clone, Copy, Debug)]
struct Vote {
    /// To whom, and for which epoch.
    to: StoredVote,
    /// Tells it from one that was given before or after.
    number: u64,
}

#[derive(Debug)]
struct KnownPeer {
    endpoint: Endpoint,
    /// Tells a node from another with its id.
    incarnation: Uuid,
    /// Whether it has everything that its leader has, so that clients may ask it.
    is_whole: bool,
    seen: Option<Timestamp>,
    /// The newest leader epoch that it has acknowledged.
    acknowledged: i32,
}

/// What a broker knows of who leads.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    /// The leader that this broker follows.
    leader: Option<Leader>,
    /// When it answered last, if it has answered ever since.
    heard: Option<Timestamp>,
    /// When it answered last.
    last_heard: Option<Timestamp>,
    peers: BTreeMap<i32, KnownPeer>,
    replicas: BTreeMap<(String, i32), (Vec<i32>, Vec<i32>)>,
    /// Whether a leader is looked for: until one is found, or this broker is found to be it, it takes nothing.
    seeks: bool,
    /// A vote was given: nothing is written until it is known what came of it.
    vote: Option<Vote>,
    /// How many votes were given since the start.
    votes: u64,
    /// Elections that wait for their outcome.
    elections: BTreeMap<RequestId, ElectLeadersRequest>,
    /// Requests that were sent on to the leader, for the case that it does not answer.
    forwarded: BTreeMap<RequestId, (Context, Request)>,
    events: VecDeque<LeadershipEvent>,
}

impl Leadership {
    /// The wall clock was set `by` milliseconds ahead: others were heard of no longer ago for that.
    pub(super) fn clock_was_set(&mut self, by: i64) {
        let peers = self.peers.values_mut().map(|peer| &mut peer.seen);
        for heard in peers.chain([&mut self.heard, &mut self.last_heard]).flatten() {
            *heard = heard.saturating_add(by);
        }
    }
}

/// What clients are told of the cluster.
pub(super) struct View {
    /// Node id and address of each broker, this one first.
    pub(super) brokers: Vec<(i32, Endpoint)>,
    /// Who leads everything; -1 while this broker looks for it.
    pub(super) leader: i32,
}

impl Broker {
    /// The leader that this broker remembers to follow, whether anything follows it now or not.
    ///
    /// # Errors
    /// `Corrupt` if what was stored cannot be read.
    pub fn stored_leader(&self) -> Result<Option<Leader>> {
        self.stored.get("leader")
    }

    /// The leader that is followed now.
    pub fn leader(&self) -> Option<&Leader> {
        self.leadership.leader.as_ref()
    }

    /// The leader epoch: this broker's own, or that of the leader that it follows.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Follows `leader` from now on, or goes on doing so: it has just answered. A broker that led stands down.
    ///
    /// `cluster_id` is the leader's; it becomes this broker's if it has none that anybody knows.
    ///
    /// # Errors
    /// `Fenced` if this broker has been in a later epoch: it is the other one that has to follow. `Invalid` if its topics are
    /// another cluster's.
    pub fn follow(&mut self, leader: Leader, cluster_id: Option<&str>, now: Timestamp) -> Result<()> {
        let before = self.stored_leader()?;
        if let Some(theirs) = cluster_id.filter(|theirs| *theirs != self.cluster_id) {
            if before.is_some() {
                let message = format!(
                    "another cluster answers than the one that was followed, what is here stays as it is cluster_id={theirs} \
                     followed={}",
                    self.cluster_id
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            if let Some(own) = self.topics.iter().find(|(_, topic)| !topic.copy && !topic.internal) {
                let message = format!(
                    "a broker with topics of its own cannot follow another cluster's leader, choose an empty directory \
                     topic={} cluster_id={} leaders_cluster_id={theirs}",
                    own.0, self.cluster_id
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            self.remember(vec![Change::set("cluster-id", &theirs)?], now)?;
            theirs.clone_into(&mut self.cluster_id);
        }
        if before.is_some() && leader.leader_epoch < self.leader_epoch
            || before.is_none() && leader.leader_epoch < self.leader_epoch && self.leader_epoch >= TERM
        {
            let message = format!(
                "this broker is in a later leader epoch and does not follow leader={} leader_epoch={} own={}",
                leader.node_id, leader.leader_epoch, self.leader_epoch
            );
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        self.leadership.heard = Some(now);
        self.leadership.last_heard = Some(now);
        if self.leadership.leader.as_ref() != Some(&leader) {
            self.stand_down(leader, now)?;
        }
        self.settle(now);
        Ok(())
    }

    /// Goes on following the leader that is remembered, if there is one: nothing has been heard of it yet.
    ///
    /// # Errors
    /// `Corrupt` if what was stored cannot be read; what the device answers.
    pub fn resume_following(&mut self, now: Timestamp) -> Result<()> {
        if let Some(leader) = self.stored_leader()?
            && self.leader().is_none()
        {
            self.stand_down(leader, now)?;
            self.settle(now);
        }
        Ok(())
    }

    /// Follows nobody any more; what was copied stays a copy.
    ///
    /// # Errors
    /// What the device answers.
    pub fn forget_leader(&mut self, now: Timestamp) -> Result<()> {
        self.remember(vec![Change::remove("leader")], now)?;
        self.leadership.leader = None;
        self.settle(now);
        Ok(())
    }

    /// Becomes a follower of `leader`: every topic a copy, what waits refused, groups forgotten until this broker leads again.
    fn stand_down(&mut self, leader: Leader, now: Timestamp) -> Result<()> {
        let led = self.leadership.leader.is_none();
        let mut changes = vec![
            Change::set("leader", &leader)?,
            Change::set("leader-epoch", &leader.leader_epoch)?,
            Change::remove(format!("peer/{}", leader.node_id)),
            Change::remove("vote"),
        ];
        let own: Vec<_> = self.topics.iter().filter(|(_, topic)| !topic.copy).map(|(name, _)| name.clone()).collect();
        for name in &own {
            let stored = StoredTopic { copy: true, ..self.topics[name].stored() };
            changes.push(Change::set(format!("topic/{name}"), &stored)?);
        }
        self.remember(changes, now)?;
        if led && !own.is_empty() {
            log::warn!(
                "another broker leads, this one takes no records any more leader={} address={} leader_epoch={} own={}",
                leader.node_id,
                leader.endpoint(),
                leader.leader_epoch,
                self.leader_epoch
            );
        }
        self.leadership.peers.remove(&leader.node_id);
        self.leadership.vote = None;
        self.set_leader_epoch(leader.leader_epoch);
        for name in own {
            let Some(topic) = self.topics.get_mut(&name) else { continue };
            topic.copy = true;
            let (log_config, partitions) = (topic.log_config(&self.config.topic_defaults), topic.partitions.clone());
            for id in partitions {
                let partition = self.partition_mut(id);
                partition.log.update_config(log_config.clone());
                partition.drop_followers();
                partition.set_limit(partition.high_watermark());
                // An offset that is waited for here may come to be another record's.
                self.refuse_waits(id, ErrorCode::NOT_LEADER_OR_FOLLOWER, "another broker leads now");
                self.moved.insert(id);
            }
        }
        for (id, result) in std::mem::take(&mut self.persisted) {
            self.groups.handle_persisted(id, result, now);
        }
        self.groups.stand_down();
        let fetches: Vec<u64> = self.fetches.keys().copied().collect();
        for row in fetches {
            self.answer_fetch(row, now);
        }
        self.leadership.leader = Some(leader.clone());
        self.leadership.seeks = false;
        self.answer_forwarded(now);
        self.answer_elections(now);
        self.leadership.events.push_back(LeadershipEvent::Follows(leader));
        Ok(())
    }

    /// What the leader has told of its partitions' replicas, and of the other brokers.
    pub fn note_cluster(&mut self, replicas: Vec<KnownReplicas>, brokers: Vec<Peer>, now: Timestamp) -> Result<()> {
        self.leadership.replicas =
            replicas.into_iter().map(|it| ((it.topic, it.partition), (it.replicas, it.in_sync))).collect();
        let leader = self.leadership.leader.as_ref().map(|leader| leader.node_id);
        for peer in brokers {
            if peer.node_id != self.config.node_id && Some(peer.node_id) != leader {
                self.note_peer(peer, Uuid::nil(), true, now)?;
            }
        }
        self.settle(now);
        Ok(())
    }

    fn note_peer(&mut self, peer: Peer, incarnation: Uuid, is_whole: bool, now: Timestamp) -> Result<()> {
        let Peer { node_id, endpoint } = peer;
        if !self.leadership.peers.contains_key(&node_id) && self.leadership.peers.len() >= MAX_PEERS {
            return Err(Error::new(ErrorKind::Full, format!("a leader has at most {MAX_PEERS} followers")));
        }
        let stored = StoredPeer { host: endpoint.host.clone(), port: endpoint.port };
        self.remember(vec![Change::set(format!("peer/{node_id}"), &stored)?], now)?;
        let known = self.leadership.peers.entry(node_id).or_insert_with(|| KnownPeer {
            endpoint: endpoint.clone(),
            incarnation,
            is_whole,
            seen: None,
            acknowledged: -1,
        });
        known.endpoint = endpoint;
        known.incarnation = incarnation;
        known.is_whole = is_whole;
        known.seen = Some(now);
        Ok(())
    }

    /// Reads the peers and the vote that were stored, when the broker is opened.
    pub(super) fn recall_peers(&mut self) -> Result<()> {
        let to: Option<StoredVote> = self.stored.get("vote")?;
        self.leadership.vote = to.map(|to| Vote { to, number: 0 });
        let mut peers = BTreeMap::new();
        for peer in self.stored.below::<StoredPeer>("peer/") {
            let (node_id, StoredPeer { host, port }) = peer?;
            let Ok(node_id) = node_id.parse::<i32>() else { continue };
            let endpoint = Endpoint::new(host, port);
            peers.insert(
                node_id,
                KnownPeer { endpoint, incarnation: Uuid::nil(), is_whole: true, seen: None, acknowledged: -1 },
            );
        }
        self.leadership.peers = peers;
        Ok(())
    }

    /// Whether a follower has registered under that number, with this leader or with one before.
    pub(super) fn is_registered(&self, node_id: i32) -> bool {
        self.leadership.peers.contains_key(&node_id)
    }

    /// Where the other brokers are reached that this one knows, but its leader.
    pub fn peers(&self) -> Vec<Endpoint> {
        self.leadership.peers.values().map(|peer| peer.endpoint.clone()).collect()
    }

    /// Whether this leader stands back, because it has given its vote.
    pub fn stands_back(&self) -> bool {
        self.leadership.leader.is_none() && self.leadership.vote.is_some()
    }

    /// The broker that was given this leader's vote, the epoch that it was given for, and the number of that vote. When
    /// [`STAND_BACK_MS`] have gone by since, it can be asked what came of it.
    pub fn unsettled_vote(&self) -> Option<(Peer, i32, u64)> {
        let vote = self.leadership.vote.filter(|_| self.leadership.leader.is_none())?;
        let known = self.leadership.peers.get(&vote.to.node_id)?;
        let peer = Peer { node_id: vote.to.node_id, endpoint: known.endpoint.clone() };
        Some((peer, vote.to.leader_epoch, vote.number))
    }

    /// Who was given the vote of that number does not lead, and will not by it: this one goes on.
    ///
    /// # Errors
    /// What the device answers; it stands back then as before.
    pub fn take_vote_back(&mut self, number: u64, now: Timestamp) -> Result<()> {
        if let Some(vote) = self.leadership.vote.filter(|vote| vote.number == number) {
            self.remember(vec![Change::remove("vote")], now)?;
            self.leadership.vote = None;
            log::info!("the other broker does not lead, going on node={}", vote.to.node_id);
            self.settle(now);
        }
        Ok(())
    }

    /// The brokers that this leader has not told of its epoch yet; none for a follower.
    pub fn untold_peers(&self) -> Vec<Peer> {
        if self.leadership.leader.is_some() {
            return Vec::new();
        }
        let untold = self.leadership.peers.iter().filter(|(_, peer)| peer.acknowledged < self.leader_epoch);
        untold.map(|(node_id, peer)| Peer { node_id: *node_id, endpoint: peer.endpoint.clone() }).collect()
    }

    /// A peer has answered that it takes this broker for the leader in `leader_epoch`.
    pub fn note_acknowledged(&mut self, node_id: i32, leader_epoch: i32) {
        if let Some(peer) = self.leadership.peers.get_mut(&node_id) {
            peer.acknowledged = peer.acknowledged.max(leader_epoch);
        }
    }

    /// The next thing that the shell has to follow up on.
    pub fn poll_leadership(&mut self) -> Option<LeadershipEvent> {
        self.leadership.events.pop_front()
    }

    /// Whether this broker is the one that writes.
    pub(super) fn accepts_writes(&self) -> bool {
        self.leadership.leader.is_none() && !self.leadership.seeks && self.leadership.vote.is_none()
    }

    /// Sends a request on to the leader if it is one that the leader answers, and it answers at all; or gives it back.
    pub(super) fn forward(
        &mut self,
        id: RequestId,
        context: &Context,
        request: Request,
        now: Timestamp,
    ) -> Option<Request> {
        let to_leader = changes_cluster(&request)
            || match &request {
                Request::Metadata(_) | Request::DescribeTopicPartitions(_) | Request::InitProducerId(_) => true,
                Request::DescribeConfigs(asked) => {
                    asked.resources.iter().all(|asked| asked.resource_type == TOPIC_RESOURCE)
                }
                _ => false,
            };
        if !to_leader || self.answering_leader(now).is_none() {
            return Some(request);
        }
        let mut asked = request.clone();
        if let Request::Metadata(asked) = &mut asked {
            // What the version says by leaving it out is said.
            asked.allow_auto_topic_creation |= context.version < 4;
            asked.topics = asked.topics.take().filter(|topics| context.version > 0 || !topics.is_empty());
        }
        self.leadership.events.push_back(LeadershipEvent::Forward(id, asked));
        self.leadership.forwarded.insert(id, (context.clone(), request));
        None
    }

    /// The leader's answer to a request that was [sent on](LeadershipEvent::Forward); `None` if there is none: this broker says
    /// what it knows then.
    pub fn finish_forwarded(&mut self, id: RequestId, response: Option<Response>, now: Timestamp) {
        let Some((context, request)) = self.leadership.forwarded.remove(&id) else { return };
        match response {
            Some(response) => self.respond(id, response),
            None => {
                self.note_away();
                self.answer(id, &context, request, now);
            }
        }
        self.settle(now);
    }

    /// Looks for a leader to follow, or has stopped: while it does it takes no records, commits or changes.
    pub fn seek(&mut self, seeks: bool) {
        self.leadership.seeks = seeks && self.leadership.leader.is_none();
    }

    /// Whoever was to answer requests and elections does so no more: what is open is answered by what this broker is.
    pub fn answer_open(&mut self, now: Timestamp) {
        self.answer_forwarded(now);
        self.answer_elections(now);
        self.settle(now);
    }

    fn answer_elections(&mut self, now: Timestamp) {
        let open: Vec<RequestId> = self.leadership.elections.keys().copied().collect();
        for id in open {
            let outcome = if self.is_following() {
                Err(Error::new(ErrorKind::Retriable, "the election was overtaken by another one"))
            } else {
                Ok(())
            };
            self.finish_election(id, outcome, now);
        }
    }

    /// Who was to answer is the leader no more.
    fn answer_forwarded(&mut self, now: Timestamp) {
        for (id, (context, request)) in std::mem::take(&mut self.leadership.forwarded) {
            self.answer(id, &context, request, now);
        }
    }

    /// The leader does not answer.
    pub fn note_away(&mut self) {
        self.leadership.heard = None;
    }

    /// Whether another broker leads.
    pub(super) fn is_following(&self) -> bool {
        self.leadership.leader.is_some()
    }

    /// The leader, while it answers.
    fn answering_leader(&self, now: Timestamp) -> Option<&Leader> {
        let heard = self.leadership.heard?;
        self.leadership.leader.as_ref().filter(|_| now.saturating_sub(heard) < AWAY_MS)
    }

    /// Who is there, for clients: what they ask next goes where this says.
    ///
    /// A follower whose leader is away names itself: what it has can be read, and whoever writes tries again until a broker
    /// is promoted.
    pub(super) fn view(&self, now: Timestamp) -> View {
        let own = Endpoint::new(self.config.advertised_host.clone(), self.config.advertised_port);
        let mut brokers = vec![(self.config.node_id, own)];
        let leader = self.answering_leader(now);
        // One that is away comes back, and followers that know each other alone would not find it.
        if let Some(leader) = &self.leadership.leader {
            brokers.push((leader.node_id, leader.endpoint()));
        }
        let is_alone = self.is_following() && leader.is_none();
        let alive = |seen: Timestamp| is_alone || now.saturating_sub(seen) < PEER_ALIVE_MS;
        let peers = self.leadership.peers.iter().filter(|(_, peer)| peer.is_whole && peer.seen.is_some_and(alive));
        brokers.extend(peers.map(|(node_id, peer)| (*node_id, peer.endpoint.clone())));
        // One that looks for a leader has nothing to be asked for, nor is anybody to look for one here.
        let own = if self.leadership.seeks { -1 } else { self.config.node_id };
        View { brokers, leader: leader.map_or(own, |leader| leader.node_id) }
    }

    /// The coordinator of all groups: the leader. `None` while there is none that answers.
    pub(super) fn coordinator(&self, now: Timestamp) -> Option<(i32, Endpoint)> {
        if self.is_following() {
            return self.answering_leader(now).map(|leader| (leader.node_id, leader.endpoint()));
        }
        if self.leadership.seeks {
            return None;
        }
        let own = Endpoint::new(self.config.advertised_host.clone(), self.config.advertised_port);
        Some((self.config.node_id, own))
    }

    /// The replicas and in-sync replicas of a partition that is followed, as the leader told them. Until it has, nobody is known to
    /// be in sync.
    pub(super) fn known_replicas(&self, topic: &str, partition: i32) -> Option<(Vec<i32>, Vec<i32>)> {
        let leader = self.leader()?.node_id;
        let known = self.leadership.replicas.get(&(topic.to_owned(), partition)).cloned();
        Some(known.unwrap_or_else(|| (vec![leader, self.config.node_id], Vec::new())))
    }

    /// Of how many partitions this follower is in sync, as its leader told last.
    pub fn in_sync_partitions(&self) -> usize {
        let node_id = self.config.node_id;
        let is_here = |name: &str| self.topics.get(name).is_some_and(|topic| !topic.internal);
        let known = self.leadership.replicas.iter().filter(|((name, _), _)| is_here(name));
        known.filter(|(_, (_, in_sync))| in_sync.contains(&node_id)).count()
    }

    pub(super) fn register_broker(&mut self, id: RequestId, request: BrokerRegistrationRequest, now: Timestamp) {
        let error_code = self.registered(&request, now).err().unwrap_or(ErrorCode::NONE);
        let response = BrokerRegistrationResponse {
            error_code,
            broker_epoch: if error_code == ErrorCode::NONE { i64::from(self.leader_epoch) } else { -1 },
            ..BrokerRegistrationResponse::default()
        };
        self.respond_when_remembered(id, Response::BrokerRegistration(response));
    }

    fn registered(
        &mut self,
        request: &BrokerRegistrationRequest,
        now: Timestamp,
    ) -> std::result::Result<(), ErrorCode> {
        if self.is_following() || self.leadership.seeks {
            return Err(ErrorCode::NOT_CONTROLLER);
        }
        if !request.cluster_id.is_empty() && request.cluster_id != self.cluster_id {
            return Err(ErrorCode::INCONSISTENT_CLUSTER_ID);
        }
        let node_id = request.broker_id;
        let listener = request.listeners.first().ok_or(ErrorCode::INVALID_REGISTRATION)?;
        if node_id < 0 || listener.host.is_empty() || listener.host.len() > 255 {
            return Err(ErrorCode::INVALID_REGISTRATION);
        }
        if node_id == self.config.node_id {
            return Err(ErrorCode::DUPLICATE_BROKER_REGISTRATION);
        }
        let twin = self.leadership.peers.get(&node_id).is_some_and(|peer| {
            peer.incarnation != request.incarnation_id
                && !peer.incarnation.is_nil()
                && peer.seen.is_some_and(|seen| now.saturating_sub(seen) < AWAY_MS)
        });
        if twin {
            return Err(ErrorCode::DUPLICATE_BROKER_REGISTRATION);
        }
        let endpoint = Endpoint::new(listener.host.clone(), listener.port);
        self.note_peer(Peer { node_id, endpoint }, request.incarnation_id, listener.name != PARTIAL_LISTENER, now)
            .map_err(|error| code_of(&error))?;
        // Who registers has asked this leader, and needs not be told of it.
        self.note_acknowledged(node_id, self.leader_epoch);
        Ok(())
    }

    /// KIP-595: another broker says that it leads.
    pub(super) fn begin_quorum_epoch(&mut self, id: RequestId, request: BeginQuorumEpochRequest, now: Timestamp) {
        let error_code = self.told_of_leader(&request, now).err().unwrap_or(ErrorCode::NONE);
        let named = self.named_leader();
        let leader_id = named.as_ref().map_or(-1, |(leader_id, _)| *leader_id);
        let partition = begin_quorum_epoch::ResponsePartitionData {
            partition_index: 0,
            error_code,
            leader_id,
            leader_epoch: self.leader_epoch,
        };
        let response = BeginQuorumEpochResponse {
            error_code: if error_code == ErrorCode::INCONSISTENT_CLUSTER_ID { error_code } else { ErrorCode::NONE },
            topics: vec![begin_quorum_epoch::ResponseTopicData {
                topic_name: METADATA_TOPIC.to_owned(),
                partitions: vec![partition],
            }],
            node_endpoints: named
                .map(|(node_id, Endpoint { host, port })| begin_quorum_epoch::NodeEndpoint { node_id, host, port })
                .into_iter()
                .collect(),
        };
        self.respond_when_remembered(id, Response::BeginQuorumEpoch(response));
    }

    /// Whom this broker takes for the leader; `None` while it looks for it.
    fn named_leader(&self) -> Option<(i32, Endpoint)> {
        match self.leader() {
            Some(leader) => Some((leader.node_id, leader.endpoint())),
            None if self.leadership.seeks => None,
            None => {
                let own = Endpoint::new(self.config.advertised_host.clone(), self.config.advertised_port);
                Some((self.config.node_id, own))
            }
        }
    }

    fn told_of_leader(
        &mut self,
        request: &BeginQuorumEpochRequest,
        now: Timestamp,
    ) -> std::result::Result<(), ErrorCode> {
        if request.cluster_id.as_deref() != Some(&*self.cluster_id) {
            return Err(ErrorCode::INCONSISTENT_CLUSTER_ID);
        }
        if request.voter_id != self.config.node_id {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let told = request.topics.first().and_then(|topic| topic.partitions.first());
        let (told, endpoint) = told.zip(request.leader_endpoints.first()).ok_or(ErrorCode::INVALID_REQUEST)?;
        // There is always a later term.
        let has_later = told.leader_epoch < i32::MAX - (TURNS + 2) * TERM;
        if told.leader_id < 0 || told.leader_id == self.config.node_id || endpoint.host.is_empty() || !has_later {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let leader = Leader {
            node_id: told.leader_id,
            host: endpoint.host.clone(),
            port: endpoint.port,
            leader_epoch: told.leader_epoch,
        };
        let is_known = self.leader().is_some_and(|known| known.node_id == leader.node_id);
        // One that looks for a leader has led nobody: its epoch is of starts on an empty disk, and nothing was acknowledged in it.
        let is_nothing = self.leadership.seeks && self.leader_epoch < TERM;
        let is_behind = leader.leader_epoch < self.leader_epoch;
        if !is_nothing && (is_behind || (leader.leader_epoch == self.leader_epoch && !is_known)) {
            if leader.leader_epoch == self.leader_epoch {
                log::error!(
                    "two brokers lead in one epoch, promote one of them again leader_epoch={} nodes={},{}",
                    self.leader_epoch,
                    self.config.node_id,
                    leader.node_id
                );
            }
            return Err(ErrorCode::FENCED_LEADER_EPOCH);
        }
        self.leadership.heard = Some(now);
        self.leadership.last_heard = Some(now);
        if self.leader() != Some(&leader) {
            self.stand_down(leader, now).map_err(|error| code_of(&error))?;
        }
        Ok(())
    }

    /// A follower asks whether it may lead (KIP-595's Vote): this leader stands back then.
    pub(super) fn vote(&mut self, id: RequestId, request: VoteRequest, now: Timestamp) {
        let asked = request.topics.first().and_then(|topic| topic.partitions.first());
        let same_cluster = request.cluster_id.as_deref().is_none_or(|theirs| theirs == self.cluster_id);
        let mut vote_granted = asked.is_some_and(|asked| {
            same_cluster
                && !self.is_following()
                && !self.leadership.seeks
                && asked.replica_epoch > self.leader_epoch
                // One at a time: two would lead in the same epoch.
                && self.leadership.vote.is_none_or(|vote| vote.to.node_id == asked.replica_id)
                && self.leadership.peers.get(&asked.replica_id).is_some_and(|peer| peer.is_whole)
        });
        if let Some(asked) = asked.filter(|asked| vote_granted && !asked.pre_vote) {
            let before = self.leadership.vote.map_or(-1, |vote| vote.to.leader_epoch);
            let to = StoredVote { node_id: asked.replica_id, leader_epoch: asked.replica_epoch.max(before) };
            let given = Change::set("vote", &to).and_then(|change| self.remember(vec![change], now));
            match given {
                Ok(()) => {
                    log::info!("standing back, another broker is to lead node={}", to.node_id);
                    self.leadership.votes += 1;
                    self.leadership.vote = Some(Vote { to, number: self.leadership.votes });
                    self.leadership.events.push_back(LeadershipEvent::StandsBack);
                }
                Err(error) => {
                    log::warn!("a vote is not given, it cannot be remembered node={}: {error}", to.node_id);
                    vote_granted = false;
                }
            }
        }
        let partition = vote::ResponsePartitionData {
            partition_index: 0,
            error_code: if same_cluster { ErrorCode::NONE } else { ErrorCode::INCONSISTENT_CLUSTER_ID },
            leader_id: self.named_leader().map_or(-1, |(leader_id, _)| leader_id),
            leader_epoch: self.leader_epoch,
            vote_granted,
        };
        let topic = vote::ResponseTopicData { topic_name: METADATA_TOPIC.to_owned(), partitions: vec![partition] };
        self.respond_when_remembered(
            id,
            Response::Vote(VoteResponse { topics: vec![topic], ..VoteResponse::default() }),
        );
    }

    /// ElectLeaders asks this broker to lead (KIP-183, KIP-460): *preferred* without loss, *unclean* whatever is lost.
    pub(super) fn elect_leaders(&mut self, id: RequestId, request: ElectLeadersRequest, now: Timestamp) {
        const UNCLEAN: i8 = 1;
        let has_copies = self.topics.values().any(|topic| topic.copy);
        if !self.is_following() && !has_copies && !self.stands_back() {
            return self.finish(id, &request, ErrorCode::ELECTION_NOT_NEEDED, "this broker leads already");
        }
        if request.election_type == UNCLEAN {
            return match self.promote(now) {
                Ok(()) => self.finish(id, &request, ErrorCode::NONE, ""),
                Err(error) => self.finish(id, &request, code_of(&error), &error.to_string()),
            };
        }
        if self.stands_back() {
            let message = "another broker was given this one's vote, and it has not said yet whether it leads; an unclean election \
                           (--unclean) makes this one lead, and what the other one took may be lost";
            return self.finish(id, &request, ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, message);
        }
        if !self.is_following() {
            let message = "what is here is a copy that its source knows nothing of and that may lack some of it; an unclean \
                           election (--unclean) makes it a cluster of its own";
            return self.finish(id, &request, ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, message);
        }
        self.leadership.elections.insert(id, request);
        self.leadership.events.push_back(LeadershipEvent::Asked(id));
    }

    /// The outcome of an election that was [asked for](LeadershipEvent::Asked).
    pub fn finish_election(&mut self, id: RequestId, outcome: Result<()>, now: Timestamp) {
        let Some(request) = self.leadership.elections.remove(&id) else { return };
        match outcome {
            Ok(()) => self.finish(id, &request, ErrorCode::NONE, ""),
            Err(error) => {
                let code = match error.kind() {
                    ErrorKind::Unsupported => ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
                    _ => error.code().unwrap_or(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE),
                };
                self.finish(id, &request, code, &error.to_string());
            }
        }
        self.settle(now);
    }

    fn finish(&mut self, id: RequestId, request: &ElectLeadersRequest, error_code: ErrorCode, message: &str) {
        let asked: Vec<(String, Vec<i32>)> = match &request.topic_partitions {
            Some(topics) => topics.iter().map(|topic| (topic.topic.clone(), topic.partitions.clone())).collect(),
            None => {
                let shown = self.topics.iter().filter(|(_, topic)| !topic.internal);
                shown.map(|(name, topic)| (name.to_string(), (0..topic.partitions.len() as i32).collect())).collect()
            }
        };
        let results = asked.into_iter().map(|(topic, partitions)| ReplicaElectionResult {
            partition_result: partitions
                .into_iter()
                .map(|index| {
                    let there = self.find(&topic, index).is_some();
                    PartitionResult {
                        partition_id: index,
                        error_code: if there { error_code } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION },
                        error_message: (there && !message.is_empty()).then(|| message.to_owned()),
                    }
                })
                .collect(),
            topic,
        });
        let response = ElectLeadersResponse {
            replica_election_results: results.collect(),
            error_code: match error_code {
                ErrorCode::ELECTION_NOT_NEEDED => ErrorCode::NONE,
                code => code,
            },
            ..ElectLeadersResponse::default()
        };
        self.respond_when_remembered(id, Response::ElectLeaders(response));
    }

    /// The epoch that a promotion of this broker would begin: that of the next term which is its own.
    pub fn next_term(&self) -> i32 {
        let logs = self.partitions.iter().flatten().filter(|partition| *partition.topic != *METADATA_TOPIC);
        let latest = logs.filter_map(|partition| partition.log.epochs().latest()).max().unwrap_or(-1);
        let voted = self.leadership.vote.map_or(-1, |vote| vote.to.leader_epoch);
        let term = self.leader_epoch.max(latest).max(voted).max(0) / TERM;
        let own = self.config.node_id.rem_euclid(TURNS).saturating_add(1);
        let ahead = own.saturating_sub(term).saturating_sub(1).rem_euclid(TURNS).saturating_add(1);
        term.saturating_add(ahead).saturating_mul(TERM)
    }

    /// Makes this broker the leader of everything that it has, in a new term. Waits for the device.
    ///
    /// # Errors
    /// What the device answers; nothing is changed then.
    pub fn promote(&mut self, now: Timestamp) -> Result<()> {
        let former = self.leadership.leader.clone();
        let followed = former.is_some();
        let names: Vec<String> =
            self.topics.iter().filter(|(_, topic)| topic.copy).map(|(name, _)| name.to_string()).collect();
        let mut changes = vec![Change::remove("leader"), Change::remove("vote"), Change::set("promoted", &now)?];
        if let Some(leader) = &former {
            let stored = StoredPeer { host: leader.host.clone(), port: leader.port };
            changes.push(Change::set(format!("peer/{}", leader.node_id), &stored)?);
        }
        self.take_the_lead(&names, changes, now)?;
        if let Some(leader) = former {
            let incarnation = Uuid::nil();
            let endpoint = leader.endpoint();
            let peer = KnownPeer { endpoint, incarnation, is_whole: true, seen: None, acknowledged: -1 };
            self.leadership.peers.insert(leader.node_id, peer);
        }
        self.leadership.leader = None;
        self.leadership.vote = None;
        self.leadership.heard = None;
        self.leadership.last_heard = None;
        self.leadership.replicas.clear();
        self.leadership.seeks = false;
        self.answer_forwarded(now);
        // One that followed nobody has been coordinating its own groups all the time.
        if followed && self.topics.contains_key(OFFSETS_TOPIC) {
            self.replay_groups(now)?;
        }
        log::warn!("this broker leads now node={} leader_epoch={}", self.config.node_id, self.leader_epoch);
        self.leadership.events.push_back(LeadershipEvent::Leads);
        self.settle(now);
        Ok(())
    }

    /// Whether it is sure that this follower alone has everything that was acknowledged with `acks=all`: it was in sync
    /// when its leader was heard last, and no fewer than all replicas must have a record. Of committed offsets it is not sure, which
    /// fewer replicas acknowledge, nor of topics that the leader has made since.
    ///
    /// # Errors
    /// `Unsupported`, with the partition of which it is not sure.
    pub fn check_safe_alone(&self, now: Timestamp) -> Result<()> {
        let node_id = self.config.node_id;
        let heard = self.leadership.last_heard.map(|heard| now.saturating_sub(heard) / 1_000);
        let when = heard.map_or("it has not been heard since this follower was started".to_owned(), |seconds| {
            format!("it was heard {seconds} s ago")
        });
        let copies = || self.topics.iter().filter(|(_, topic)| topic.copy && !topic.internal);
        if copies().next().is_none() {
            let message = format!(
                "the leader does not answer ({when}), and this follower has nothing of it yet, promote it with an unclean election \
                 (--unclean) if what the leader had may be lost"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        for (name, topic) in copies() {
            let needed = topic.config(&self.config.topic_defaults).min_insync_replicas();
            for index in 0..topic.partitions.len() as i32 {
                let known = self.leadership.replicas.get(&(name.to_string(), index));
                let why = match known {
                    None => "its replicas are not known".to_owned(),
                    Some((_, in_sync)) if !in_sync.contains(&node_id) => "this follower was not in sync".to_owned(),
                    Some((replicas, _)) if needed < replicas.len() => {
                        format!(
                            "in sync then, but later acknowledgements may be lost: min.insync.replicas={needed} of {} replicas",
                            replicas.len()
                        )
                    }
                    Some(_) => continue,
                };
                let message = format!(
                    "the leader does not answer ({when}), and this follower may lack acknowledged records, promote it with \
                     an unclean election (--unclean) if they may be lost partition={name}-{index}: {why}"
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(())
    }

    /// Whether this directory's broker was promoted, and when; it leads, and follows nobody but by learning of a later epoch.
    ///
    /// # Errors
    /// `Corrupt` if what was stored cannot be read.
    pub fn promoted(&self) -> Result<Option<Timestamp>> {
        self.stored.get("promoted")
    }

    /// Tells this data from any other, for as long as it is there: a directory under another node's number is found by it.
    ///
    /// # Errors
    /// What the device answers.
    pub fn incarnation(&mut self, now: Timestamp) -> Result<Uuid> {
        if let Some(incarnation) = self.stored.get("incarnation")? {
            return Ok(incarnation);
        }
        let incarnation = self.random_uuid();
        self.remember(vec![Change::set("incarnation", &incarnation)?], now)?;
        self.settle(now);
        Ok(incarnation)
    }
}

/// Whether a request changes topics or configurations, which only a leader does.
pub(super) fn changes_cluster(request: &Request) -> bool {
    matches!(
        request,
        Request::CreateTopics(_)
            | Request::DeleteTopics(_)
            | Request::CreatePartitions(_)
            | Request::AlterConfigs(_)
            | Request::IncrementalAlterConfigs(_)
    )
}

/// The answer to a request that [changes the cluster](changes_cluster): the leader has to be asked.
pub(super) fn refused(request: &Request) -> Response {
    const WHY: ErrorCode = ErrorCode::NOT_CONTROLLER;
    let message = || Some("this broker follows another, which takes changes".to_owned());
    match request {
        Request::CreateTopics(request) => {
            let topics = request.topics.iter().map(|topic| CreatableTopicResult {
                name: topic.name.clone(),
                error_code: WHY,
                error_message: message(),
                ..CreatableTopicResult::default()
            });
            CreateTopicsResponse { topics: topics.collect(), ..Default::default() }.into()
        }
        Request::DeleteTopics(request) => {
            let named = request.topic_names.iter().map(|name| (Some(name.clone()), Uuid::nil()));
            let asked = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
            let responses = named.chain(asked).map(|(name, topic_id)| DeletableTopicResult {
                name,
                topic_id,
                error_code: WHY,
                error_message: message(),
            });
            DeleteTopicsResponse { responses: responses.collect(), ..Default::default() }.into()
        }
        Request::CreatePartitions(request) => {
            let results = request.topics.iter().map(|topic| CreatePartitionsTopicResult {
                name: topic.name.clone(),
                error_code: WHY,
                error_message: message(),
            });
            CreatePartitionsResponse { results: results.collect(), ..Default::default() }.into()
        }
        Request::AlterConfigs(request) => {
            let responses = request.resources.iter().map(|resource| AlterConfigsResourceResponse {
                error_code: WHY,
                error_message: message(),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
            AlterConfigsResponse { responses: responses.collect(), ..Default::default() }.into()
        }
        Request::IncrementalAlterConfigs(request) => {
            let responses = request.resources.iter().map(|resource| IncrementalResult {
                error_code: WHY,
                error_message: message(),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
            IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() }.into()
        }
        other => unreachable!("does not change the cluster: {}", other.api_key()),
    }
}
