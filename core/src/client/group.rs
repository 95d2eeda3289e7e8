//! A member of a consumer group: the classic protocol's client side, as a state machine, and the assignors.
//!
//! After any `handle_…`, ask [`Member::poll_step`] until it returns `None`, and [`Member::poll_timeout`] for when to ask again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::config::Assignor;
use super::{BrokerAddress, Cluster, ConsumerConfig, TopicPartition, check};
use crate::protocol::messages::consumer_protocol::AssignmentTopicPartition;
use crate::protocol::messages::join_group::{JoinGroupRequestProtocol, JoinGroupResponse};
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::sync_group::SyncGroupRequestAssignment;
use crate::protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    LeaveGroupRequest, SyncGroupRequest, SyncGroupResponse,
};
use crate::protocol::{ErrorCode, Message};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

/// Which version of the subscription is written: topics alone, which every assignor reads.
const SUBSCRIPTION_VERSION: i16 = 0;

/// What a member of a group asks its coordinator for, and what it is to it.
#[derive(Debug)]
pub(super) struct Member {
    group_id: Arc<str>,
    instance_id: Option<String>,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    heartbeat_interval: Duration,
    assignors: Vec<Assignor>,
    phase: Phase,
    member_id: String,
    generation: i32,
    protocol: Option<Assignor>,
    coordinator: Option<BrokerAddress>,
    under_way: bool,
    heartbeat_at: Duration,
    retry_at: Duration,
    failures: u32,
    /// As a leader: the topics that were shared out, with their partitions. A change of these calls for a rebalance.
    shared_out: BTreeMap<String, usize>,
    reason: &'static str,
}

#[derive(Debug)]
enum Phase {
    /// Not a member. Joins when the application polls.
    Out,
    /// A rebalance is due: the application gives its partitions up when it polls.
    Revoking,
    Joining,
    /// The leader needs the partitions of the members' topics.
    Assigning(Vec<Subscriber>),
    Syncing(Vec<SyncGroupRequestAssignment>),
    Stable,
}

/// A member, as the assignors see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscriber {
    pub(super) member_id: String,
    pub(super) instance_id: Option<String>,
    pub(super) topics: Vec<String>,
}

/// What the member wants done next.
#[derive(Debug)]
pub(super) enum Step {
    FindCoordinator,
    Join(Endpoint, JoinGroupRequest),
    /// Metadata of these topics.
    Metadata(Vec<Arc<str>>),
    Sync(Endpoint, SyncGroupRequest),
    Heartbeat(Endpoint, HeartbeatRequest),
}

/// What an answer changed for the application.
#[derive(Debug)]
pub(super) enum Change {
    Nothing,
    /// Its partitions are to be given up, when it polls next.
    Rebalance,
    /// Its partitions are somebody else's already.
    Lost,
    Assigned(Vec<TopicPartition>),
    Failed(Error),
}

impl Member {
    pub(super) fn new(group_id: &str, config: &ConsumerConfig) -> Self {
        Self {
            group_id: Arc::from(group_id),
            instance_id: config.group_instance_id.clone(),
            session_timeout: Duration::from_millis(config.session_timeout_ms),
            rebalance_timeout: Duration::from_millis(config.max_poll_interval_ms),
            heartbeat_interval: Duration::from_millis(config.heartbeat_interval_ms),
            assignors: config.partition_assignment_strategy.clone(),
            phase: Phase::Out,
            member_id: String::new(),
            generation: -1,
            protocol: None,
            coordinator: None,
            under_way: false,
            heartbeat_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            failures: 0,
            shared_out: BTreeMap::new(),
            reason: "",
        }
    }

    pub(super) fn group_id(&self) -> &Arc<str> {
        &self.group_id
    }

    pub(super) fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    pub(super) fn member_id(&self) -> &str {
        &self.member_id
    }

    pub(super) fn generation(&self) -> i32 {
        self.generation
    }

    pub(super) fn coordinator(&self) -> Option<&BrokerAddress> {
        self.coordinator.as_ref()
    }

    pub(super) fn set_coordinator(&mut self, coordinator: Option<BrokerAddress>) {
        self.coordinator = coordinator;
    }

    pub(super) fn is_out(&self) -> bool {
        matches!(self.phase, Phase::Out)
    }

    /// Whether the application is to give its partitions up.
    pub(super) fn is_revoking(&self) -> bool {
        matches!(self.phase, Phase::Revoking)
    }

    pub(super) fn is_stable(&self) -> bool {
        matches!(self.phase, Phase::Stable)
    }

    /// Whether a generation counts it in.
    fn is_in_generation(&self) -> bool {
        self.generation >= 0 && matches!(self.phase, Phase::Stable | Phase::Revoking)
    }

    /// The application polls, or has given its partitions up: the member may join.
    pub(super) fn join(&mut self) {
        if matches!(self.phase, Phase::Out | Phase::Revoking) {
            self.phase = Phase::Joining;
        }
    }

    /// What it subscribed to, or what there is to share out, has changed.
    pub(super) fn rebalance(&mut self, reason: &'static str) {
        if matches!(self.phase, Phase::Stable) {
            self.phase = Phase::Revoking;
            self.reason = reason;
        }
    }

    /// Leaves the group, if it was in one: the request to send, whose answer nobody needs.
    pub(super) fn leave(&mut self, reason: &str) -> Option<(Endpoint, LeaveGroupRequest)> {
        let member_id = std::mem::take(&mut self.member_id);
        let was_in = !matches!(self.phase, Phase::Out) && !member_id.is_empty();
        self.drop_out();
        let coordinator = self.coordinator.as_ref()?;
        // A static member keeps its place: it comes back, or its session ends.
        if !was_in || self.instance_id.is_some() {
            return None;
        }
        let identity =
            MemberIdentity { member_id: member_id.clone(), group_instance_id: None, reason: Some(reason.to_owned()) };
        let request = LeaveGroupRequest { group_id: self.group_id.to_string(), member_id, members: vec![identity] };
        Some((coordinator.endpoint.clone(), request))
    }

    fn drop_out(&mut self) {
        self.phase = Phase::Out;
        self.generation = -1;
        self.protocol = None;
        self.shared_out.clear();
    }

    /// What to send now; one thing at a time is under way.
    pub(super) fn poll_step(&mut self, now: Duration, topics: &[Arc<str>]) -> Option<Step> {
        if self.under_way || now < self.retry_at || matches!(self.phase, Phase::Out) {
            return None;
        }
        let Some(coordinator) = &self.coordinator else {
            self.under_way = true;
            return Some(Step::FindCoordinator);
        };
        let to = coordinator.endpoint.clone();
        let step = match &self.phase {
            Phase::Out => return None,
            Phase::Joining => Step::Join(to, self.join_request(topics)?),
            Phase::Assigning(members) => {
                let topics: BTreeSet<&str> =
                    members.iter().flat_map(|member| &member.topics).map(String::as_str).collect();
                Step::Metadata(topics.into_iter().map(Arc::from).collect())
            }
            Phase::Syncing(assignments) => Step::Sync(
                to,
                SyncGroupRequest {
                    group_id: self.group_id.to_string(),
                    generation_id: self.generation,
                    member_id: self.member_id.clone(),
                    group_instance_id: self.instance_id.clone(),
                    protocol_type: Some(CONSUMER.to_owned()),
                    protocol_name: self.protocol.map(|protocol| protocol.name().to_owned()),
                    assignments: assignments.clone(),
                },
            ),
            Phase::Stable | Phase::Revoking => {
                if now < self.heartbeat_at || self.generation < 0 {
                    return None;
                }
                self.heartbeat_at = now + self.heartbeat_interval;
                Step::Heartbeat(
                    to,
                    HeartbeatRequest {
                        group_id: self.group_id.to_string(),
                        generation_id: self.generation,
                        member_id: self.member_id.clone(),
                        group_instance_id: self.instance_id.clone(),
                    },
                )
            }
        };
        self.under_way = true;
        Some(step)
    }

    /// When there may be something to do.
    pub(super) fn poll_timeout(&self) -> Duration {
        if self.under_way {
            return Duration::MAX;
        }
        match self.phase {
            Phase::Out => Duration::MAX,
            Phase::Stable | Phase::Revoking if self.coordinator.is_some() => self.heartbeat_at.max(self.retry_at),
            _ => self.retry_at,
        }
    }

    fn join_request(&self, topics: &[Arc<str>]) -> Option<JoinGroupRequest> {
        let subscription = ConsumerProtocolSubscription {
            topics: topics.iter().map(ToString::to_string).collect(),
            user_data: None,
            ..Default::default()
        };
        let metadata = subscription.to_versioned_bytes(SUBSCRIPTION_VERSION).ok()?;
        let milliseconds = |span: Duration| i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
        Some(JoinGroupRequest {
            group_id: self.group_id.to_string(),
            session_timeout_ms: milliseconds(self.session_timeout),
            rebalance_timeout_ms: milliseconds(self.rebalance_timeout),
            member_id: self.member_id.clone(),
            group_instance_id: self.instance_id.clone(),
            protocol_type: CONSUMER.to_owned(),
            protocols: self
                .assignors
                .iter()
                .map(|assignor| JoinGroupRequestProtocol {
                    name: assignor.name().to_owned(),
                    metadata: metadata.clone(),
                })
                .collect(),
            reason: Some(self.reason.to_owned()).filter(|reason| !reason.is_empty()),
        })
    }

    pub(super) fn handle_coordinator(
        &mut self,
        result: Result<BrokerAddress>,
        now: Duration,
        pause: Duration,
    ) -> Change {
        self.under_way = false;
        match result {
            Ok(coordinator) => {
                self.coordinator = Some(coordinator);
                self.failures = 0;
                Change::Nothing
            }
            Err(error) => self.failed(error, now, pause),
        }
    }

    pub(super) fn handle_joined(
        &mut self,
        result: Result<JoinGroupResponse>,
        now: Duration,
        pause: Duration,
    ) -> Change {
        self.under_way = false;
        if !matches!(self.phase, Phase::Joining) {
            return Change::Nothing;
        }
        let response = match result {
            Ok(response) if response.error_code.is_ok() => response,
            Ok(response) => {
                if response.error_code == ErrorCode::MEMBER_ID_REQUIRED {
                    self.member_id = response.member_id;
                    return Change::Nothing;
                }
                let error = check(response.error_code, None, format_args!("group={}", self.group_id)).err();
                return error.map_or(Change::Nothing, |error| self.failed(error, now, pause));
            }
            Err(error) => return self.failed(error, now, pause),
        };
        self.failures = 0;
        self.reason = "";
        self.member_id = response.member_id;
        self.generation = response.generation_id;
        let name = response.protocol_name.unwrap_or_default();
        let Some(protocol) = self.assignors.iter().copied().find(|assignor| assignor.name() == name) else {
            let error =
                format!("the group chose an assignor that was not offered group={} assignor={name}", self.group_id);
            return Change::Failed(Error::new(ErrorKind::Invalid, error));
        };
        self.protocol = Some(protocol);
        self.phase = if response.leader == self.member_id && !response.skip_assignment {
            let subscribers = response.members.into_iter().map(|member| Subscriber {
                // A subscription that cannot be read gets nothing.
                topics: ConsumerProtocolSubscription::from_versioned_bytes(member.metadata)
                    .map(|subscription| subscription.topics)
                    .unwrap_or_default(),
                member_id: member.member_id,
                instance_id: member.group_instance_id,
            });
            Phase::Assigning(subscribers.collect())
        } else {
            self.shared_out.clear();
            Phase::Syncing(Vec::new())
        };
        Change::Nothing
    }

    /// The metadata that the leader asked for.
    pub(super) fn handle_metadata(&mut self, result: Result<Arc<Cluster>>, now: Duration, pause: Duration) -> Change {
        self.under_way = false;
        let Phase::Assigning(members) = &self.phase else { return Change::Nothing };
        let cluster = match result {
            Ok(cluster) => cluster,
            Err(error) => return self.failed(error, now, pause),
        };
        let topics: BTreeSet<&String> = members.iter().flat_map(|member| &member.topics).collect();
        let counts: BTreeMap<String, usize> = topics
            .into_iter()
            .filter_map(|topic| Some((topic.clone(), cluster.topics.get(topic.as_str())?.partitions.len())))
            .collect();
        let shares = match self.protocol {
            Some(Assignor::RoundRobin) => assign_round_robin(members, &counts),
            _ => assign_range(members, &counts),
        };
        let mut assignments = Vec::with_capacity(shares.len());
        for (member_id, share) in shares {
            let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for (topic, partition) in share {
                topics.entry(topic).or_default().push(partition);
            }
            let assignment = ConsumerProtocolAssignment {
                assigned_partitions: topics
                    .into_iter()
                    .map(|(topic, partitions)| AssignmentTopicPartition { topic, partitions })
                    .collect(),
                user_data: None,
            };
            match assignment.to_versioned_bytes(SUBSCRIPTION_VERSION) {
                Ok(assignment) => assignments.push(SyncGroupRequestAssignment { member_id, assignment }),
                Err(error) => return Change::Failed(error.into()),
            }
        }
        self.shared_out = counts;
        self.phase = Phase::Syncing(assignments);
        Change::Nothing
    }

    pub(super) fn handle_synced(
        &mut self,
        result: Result<SyncGroupResponse>,
        now: Duration,
        pause: Duration,
    ) -> Change {
        self.under_way = false;
        if !matches!(self.phase, Phase::Syncing(_)) {
            return Change::Nothing;
        }
        let response = match result.and_then(|response| {
            check(response.error_code, None, format_args!("group={}", self.group_id))?;
            Ok(response)
        }) {
            Ok(response) => response,
            Err(error) => {
                // Whatever it is, the generation is over or unknown: join again.
                self.phase = Phase::Joining;
                return self.failed(error, now, pause);
            }
        };
        let assignment = if response.assignment.is_empty() {
            ConsumerProtocolAssignment::default()
        } else {
            match ConsumerProtocolAssignment::from_versioned_bytes(response.assignment) {
                Ok(assignment) => assignment,
                Err(error) => {
                    return Change::Failed(Error::from(error).context("the group's leader sent no assignment"));
                }
            }
        };
        self.phase = Phase::Stable;
        self.failures = 0;
        self.heartbeat_at = now + self.heartbeat_interval;
        let assigned = assignment.assigned_partitions.into_iter().flat_map(|topic| {
            let name: Arc<str> = Arc::from(topic.topic);
            topic.partitions.into_iter().map(move |partition| TopicPartition { topic: Arc::clone(&name), partition })
        });
        Change::Assigned(assigned.collect())
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        result: Result<HeartbeatResponse>,
        now: Duration,
        pause: Duration,
    ) -> Change {
        self.under_way = false;
        let error = match result {
            Ok(response) => check(response.error_code, None, format_args!("group={}", self.group_id)).err(),
            Err(error) => Some(error),
        };
        match error {
            None => {
                self.failures = 0;
                Change::Nothing
            }
            Some(error) => self.failed(error, now, pause),
        }
    }

    /// A commit was refused: what that says of the membership.
    pub(super) fn handle_refused_commit(&mut self, code: ErrorCode, now: Duration) -> Change {
        match code {
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE => {
                self.coordinator = None;
                Change::Nothing
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION | ErrorCode::REBALANCE_IN_PROGRESS
                if self.is_in_generation() =>
            {
                // The heartbeat finds out what it means.
                self.heartbeat_at = now;
                Change::Nothing
            }
            _ => Change::Nothing,
        }
    }

    /// Partitions were added to topics that this leader shared out, or such a topic came.
    pub(super) fn handle_cluster(&mut self, cluster: &Cluster) -> Change {
        let changed = self.shared_out.iter().any(|(topic, count)| {
            cluster.topics.get(topic.as_str()).is_some_and(|topic| topic.partitions.len() != *count)
        });
        if !changed || !self.is_stable() {
            return Change::Nothing;
        }
        self.rebalance("the partitions of a topic have changed");
        Change::Rebalance
    }

    fn failed(&mut self, error: Error, now: Duration, pause: Duration) -> Change {
        let was_in = self.is_in_generation();
        let Some(code) = error.code() else {
            if error.is_retriable() || error.kind() == ErrorKind::Timeout {
                // Its broker is gone or out of reach; the coordinator may be another by now.
                self.coordinator = None;
                self.pause(now, pause);
                return Change::Nothing;
            }
            return Change::Failed(error);
        };
        match code {
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE => {
                self.coordinator = None;
                self.pause(now, pause);
                Change::Nothing
            }
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => {
                self.pause(now, pause);
                Change::Nothing
            }
            ErrorCode::REBALANCE_IN_PROGRESS => {
                if matches!(self.phase, Phase::Stable) {
                    self.phase = Phase::Revoking;
                    return Change::Rebalance;
                }
                Change::Nothing
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION => {
                if code == ErrorCode::UNKNOWN_MEMBER_ID {
                    self.member_id.clear();
                }
                self.generation = -1;
                self.shared_out.clear();
                if was_in {
                    self.phase = Phase::Out;
                    return Change::Lost;
                }
                self.phase = Phase::Joining;
                Change::Nothing
            }
            ErrorCode::FENCED_INSTANCE_ID => {
                self.member_id.clear();
                self.drop_out();
                Change::Failed(error)
            }
            _ if error.is_retriable() => {
                self.pause(now, pause);
                Change::Nothing
            }
            _ => {
                self.drop_out();
                Change::Failed(error)
            }
        }
    }

    fn pause(&mut self, now: Duration, pause: Duration) {
        self.failures += 1;
        self.retry_at = now + pause;
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// Members in the assignors' order: static ones by their names first, then the others by their ids, as Kafka has it.
fn ordered(members: &[Subscriber]) -> Vec<&Subscriber> {
    let mut ordered: Vec<&Subscriber> = members.iter().collect();
    ordered.sort_by(|one, other| match (&one.instance_id, &other.instance_id) {
        (Some(one), Some(other)) => one.cmp(other),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => one.member_id.cmp(&other.member_id),
    });
    ordered
}

/// A member's share.
type Share = Vec<(String, i32)>;

/// Each topic's partitions in ranges; the first members get one more where it does not come out even.
pub(super) fn assign_range(members: &[Subscriber], partitions: &BTreeMap<String, usize>) -> BTreeMap<String, Share> {
    let mut shares: BTreeMap<String, Share> =
        members.iter().map(|member| (member.member_id.clone(), Vec::new())).collect();
    let members = ordered(members);
    for (topic, count) in partitions {
        let subscribed: Vec<&&Subscriber> = members.iter().filter(|member| member.topics.contains(topic)).collect();
        if subscribed.is_empty() {
            continue;
        }
        let (each, more) = (count / subscribed.len(), count % subscribed.len());
        let mut next = 0;
        for (i, member) in subscribed.iter().enumerate() {
            let size = each + usize::from(i < more);
            if let Some(share) = shares.get_mut(&member.member_id) {
                share.extend((next..next + size).map(|partition| (topic.clone(), partition as i32)));
            }
            next += size;
        }
    }
    shares
}

/// All topics' partitions in turn, leaving out who has not subscribed to the topic.
pub(super) fn assign_round_robin(
    members: &[Subscriber],
    partitions: &BTreeMap<String, usize>,
) -> BTreeMap<String, Share> {
    let mut shares: BTreeMap<String, Share> =
        members.iter().map(|member| (member.member_id.clone(), Vec::new())).collect();
    let members = ordered(members);
    if members.is_empty() {
        return shares;
    }
    let topics: HashMap<&str, BTreeSet<&str>> = members
        .iter()
        .map(|member| (member.member_id.as_str(), member.topics.iter().map(String::as_str).collect()))
        .collect();
    let mut turn = 0;
    for (topic, count) in partitions {
        let subscribes = |place: usize| topics[members[place].member_id.as_str()].contains(topic.as_str());
        if !(0..members.len()).any(subscribes) {
            continue;
        }
        for partition in 0..*count {
            while !subscribes(turn) {
                turn = (turn + 1) % members.len();
            }
            if let Some(share) = shares.get_mut(&members[turn].member_id) {
                share.push((topic.clone(), partition as i32));
            }
            turn = (turn + 1) % members.len();
        }
    }
    shares
}
