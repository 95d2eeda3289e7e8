use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::records::Record;
use super::state::{Group, State};
use super::{Alarm, ClientInfo, Effect, Groups, GroupsConfig, PersistId, Random};
use crate::Timestamp;
use crate::broker::RequestId;
use crate::protocol::messages::join_group::JoinGroupRequestProtocol;
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::protocol::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::protocol::messages::sync_group::SyncGroupRequestAssignment;
use crate::protocol::messages::*;
use crate::protocol::{Decoder, Encoder, ErrorCode, Message, Request, Response};

const START: Timestamp = 1_700_000_000_000;
const SESSION_MS: i32 = 10_000;
const LONG_SESSION_MS: i32 = 30 * 60_000;
const REBALANCE_MS: i32 = 60_000;
const GRACE_MS: i64 = 50;
const DAY_MS: i64 = 24 * 60 * 60_000;

/// What becomes of the records that are handed out.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Writes,
    Waits,
    Fails(ErrorCode),
}

/// A coordinator, its log, the time, and the answers that it gave.
struct World {
    groups: Groups,
    config: GroupsConfig,
    now: Timestamp,
    disk: Disk,
    requests: BTreeMap<RequestId, (Request, i16)>,
    answers: BTreeMap<RequestId, Response>,
    /// What was handed out, with its place in the log.
    unwritten: VecDeque<(usize, PersistId, Vec<Record>)>,
    places: usize,
    written: BTreeMap<usize, Vec<Record>>,
    next_request: u64,
    topics: Vec<(&'static str, i32)>,
    /// Whether all that must hold is looked at after each step, which takes time with many groups.
    checks: bool,
}

impl World {
    fn new() -> Self {
        Self::with(GroupsConfig::default())
    }

    fn with(config: GroupsConfig) -> Self {
        Self {
            groups: Groups::new(config.clone(), 1),
            config,
            now: START,
            disk: Disk::Writes,
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            unwritten: VecDeque::new(),
            places: 0,
            written: BTreeMap::new(),
            next_request: 0,
            topics: vec![("orders", 4), ("payments", 4)],
            checks: true,
        }
    }

    /// Sends a request as it looks after a way over the wire.
    fn send(&mut self, request: impl Into<Request>, version: i16) -> RequestId {
        let request = over_the_wire(request.into(), version);
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, (request.clone(), version));
        let client = ClientInfo { client_id: "app".to_owned(), host: "/127.0.0.1".to_owned() };
        let topics = &self.topics;
        let exists = |name: &str, partition| topics.iter().any(|(topic, count)| *topic == name && partition < *count);
        self.groups.handle_request(id, &client, request, version, &exists, self.now);
        self.drain();
        id
    }

    fn drain(&mut self) {
        loop {
            while let Some(effect) = self.groups.poll_effect() {
                self.take(effect);
            }
            if self.disk == Disk::Waits || self.unwritten.is_empty() {
                break;
            }
            self.end_write();
        }
        if self.checks {
            check(&self.groups);
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Respond(id, response) => {
                let (request, version) = self.requests.remove(&id).expect("answered once, and only if asked");
                assert_eq!(request.api_key(), response.api_key());
                let mut e = Encoder::new();
                response.encode(&mut e, version).unwrap_or_else(|error| panic!("{error} {response:?}"));
                let mut d = Decoder::new(e.into_bytes().unwrap());
                self.answers.insert(id, Response::decode(request.api_key(), version, &mut d).unwrap());
            }
            Effect::Persist { id, records, .. } => {
                self.unwritten.push_back((self.places, id, records));
                self.places += 1;
            }
        }
    }

    /// Ends the oldest write.
    fn end_write(&mut self) {
        let result = if let Disk::Fails(error) = self.disk { Err(error) } else { Ok(()) };
        self.end_write_at(0, result);
    }

    fn end_write_at(&mut self, index: usize, result: Result<(), ErrorCode>) {
        let (place, id, records) = self.unwritten.remove(index).expect("something to write");
        if result.is_ok() {
            self.written.insert(place, records);
        }
        self.groups.handle_persisted(id, result, self.now);
    }

    fn log(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.written.values().flatten()
    }

    fn write_all(&mut self) {
        self.disk = Disk::Writes;
        self.drain();
    }

    /// Lets time pass, and each alarm go off when it is due.
    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        while let Some(due) = self.groups.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.groups.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// A process that starts with what is in the log.
    fn restarted(&self) -> Groups {
        let mut groups = Groups::new(self.config.clone(), 2);
        for (key, value) in self.log() {
            groups.replay(key, value.as_deref(), self.now).unwrap();
        }
        groups.handle_replayed(self.now);
        check(&groups);
        groups
    }

    fn restart(&mut self) {
        self.groups = self.restarted();
        self.requests.clear();
        self.unwritten.clear();
        self.drain();
    }

    fn is_waiting(&self, id: RequestId) -> bool {
        self.requests.contains_key(&id)
    }

    fn answer<R: TryFrom<Response, Error = Response>>(&mut self, id: RequestId) -> R {
        let answer = self.answers.remove(&id).unwrap_or_else(|| panic!("no answer to {:?}", self.requests.get(&id)));
        answer.try_into().unwrap_or_else(|other| panic!("{other:?}"))
    }

    fn call<R: TryFrom<Response, Error = Response>>(&mut self, request: impl Into<Request>, version: i16) -> R {
        let id = self.send(request, version);
        self.answer(id)
    }

    fn state(&mut self, group: &str) -> String {
        let request = DescribeGroupsRequest { groups: vec![group.to_owned()], ..Default::default() };
        self.call::<DescribeGroupsResponse>(request, 5).groups.remove(0).group_state
    }

    /// Members of one generation, the leader first.
    fn group(&mut self, name: &str, instances: &[Option<&str>]) -> Vec<Peer> {
        let mut peers = instances.iter().map(|instance| Peer::new(name, *instance)).collect::<Vec<_>>();
        self.rebalance(&mut peers);
        peers
    }

    /// Lets all peers join, and share what is there out by the leader.
    fn rebalance(&mut self, peers: &mut [Peer]) {
        let joins = peers.iter_mut().map(|peer| peer.send_join(self)).collect::<Vec<_>>();
        self.pass(GRACE_MS * 2);
        for (peer, id) in peers.iter_mut().zip(joins) {
            peer.joined(self.answer(id));
        }
        peers.sort_by_key(|peer| !peer.is_leader());
        let syncs = peers.iter().map(|peer| peer.send_sync(self)).collect::<Vec<_>>();
        for (peer, id) in peers.iter_mut().zip(syncs) {
            peer.synced(self.answer(id));
        }
    }
}

fn over_the_wire(request: Request, version: i16) -> Request {
    let mut e = Encoder::new();
    request.encode(&mut e, version).unwrap_or_else(|error| panic!("{error} {request:?}"));
    Request::decode(request.api_key(), version, &mut Decoder::new(e.into_bytes().unwrap())).unwrap()
}

/// A client of the group protocol, as simple as it can be.
#[derive(Clone, Debug)]
struct Peer {
    group: String,
    instance: Option<String>,
    topics: Vec<String>,
    protocols: Vec<&'static str>,
    version: i16,
    session_timeout_ms: i32,
    member_id: String,
    generation: i32,
    protocol: Option<String>,
    leader: String,
    members: Vec<String>,
    assignment: Bytes,
}

impl Peer {
    fn new(group: &str, instance: Option<&str>) -> Self {
        Self {
            group: group.to_owned(),
            instance: instance.map(str::to_owned),
            topics: vec!["orders".to_owned()],
            protocols: vec!["range", "roundrobin"],
            version: 9,
            session_timeout_ms: SESSION_MS,
            member_id: String::new(),
            generation: -1,
            protocol: None,
            leader: String::new(),
            members: Vec::new(),
            assignment: Bytes::new(),
        }
    }

    fn is_leader(&self) -> bool {
        self.leader == self.member_id
    }

    fn join(&self) -> JoinGroupRequest {
        let subscription = ConsumerProtocolSubscription { topics: self.topics.clone(), ..Default::default() };
        let metadata = subscription.to_versioned_bytes(1).unwrap();
        let protocol = |name: &&str| JoinGroupRequestProtocol { name: (*name).to_owned(), metadata: metadata.clone() };
        JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: if self.version == 0 { -1 } else { REBALANCE_MS },
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: "consumer".to_owned(),
            protocols: self.protocols.iter().map(protocol).collect(),
            reason: Some("test".to_owned()),
        }
    }

    /// Joins, with the member id that it is given if it has none.
    fn send_join(&mut self, world: &mut World) -> RequestId {
        let id = world.send(self.join(), self.version);
        if world.is_waiting(id) {
            return id;
        }
        let answer = world.answer::<JoinGroupResponse>(id);
        if answer.error_code == ErrorCode::MEMBER_ID_REQUIRED {
            self.member_id = answer.member_id;
            return world.send(self.join(), self.version);
        }
        world.answers.insert(id, answer.into());
        id
    }

    fn joined(&mut self, answer: JoinGroupResponse) {
        assert_eq!(answer.error_code, ErrorCode::NONE, "{answer:?}");
        self.member_id = answer.member_id;
        self.generation = answer.generation_id;
        self.protocol = answer.protocol_name;
        self.leader = answer.leader;
        self.members = answer.members.into_iter().map(|member| member.member_id).collect();
    }

    fn sync(&self) -> SyncGroupRequest {
        let assignment = |member_id: &String| SyncGroupRequestAssignment {
            member_id: member_id.clone(),
            assignment: Bytes::from(format!("{member_id} in {}", self.generation)),
        };
        SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: self.protocol.clone(),
            assignments: self.members.iter().map(assignment).collect(),
        }
    }

    fn send_sync(&self, world: &mut World) -> RequestId {
        world.send(self.sync(), 5)
    }

    fn synced(&mut self, answer: SyncGroupResponse) {
        assert_eq!(answer.error_code, ErrorCode::NONE, "{answer:?}");
        assert_eq!(answer.protocol_name, self.protocol);
        self.assignment = answer.assignment;
    }

    fn heartbeat(&self, world: &mut World) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
        };
        world.call::<HeartbeatResponse>(request, 4).error_code
    }

    fn leave_request(&self) -> LeaveGroupRequest {
        let group_instance_id = self.instance.clone();
        let member = MemberIdentity { member_id: self.member_id.clone(), group_instance_id, reason: None };
        LeaveGroupRequest { group_id: self.group.clone(), members: vec![member], ..Default::default() }
    }

    fn leave(&self, world: &mut World) -> ErrorCode {
        let answer = world.call::<LeaveGroupResponse>(self.leave_request(), 5);
        assert_eq!(answer.error_code, ErrorCode::NONE);
        answer.members[0].error_code
    }

    fn commit_request(&self, topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
        OffsetCommitRequest {
            generation_id_or_member_epoch: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.instance.clone(),
            ..commit(&self.group, topic, partition, offset)
        }
    }

    fn commit(&self, world: &mut World, topic: &str, partition: i32, offset: i64) -> ErrorCode {
        commit_error(world.call(self.commit_request(topic, partition, offset), 9))
    }
}

/// A commit by nobody's member.
fn commit(group: &str, topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        partition_index: partition,
        committed_offset: offset,
        committed_leader_epoch: 7,
        committed_metadata: Some(format!("at {offset}")),
    };
    OffsetCommitRequest {
        group_id: group.to_owned(),
        topics: vec![OffsetCommitRequestTopic {
            name: topic.to_owned(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn commit_error(answer: OffsetCommitResponse) -> ErrorCode {
    answer.topics[0].partitions[0].error_code
}

/// The committed offset; -1 if there is none.
fn committed(world: &mut World, group: &str, topic: &str, partition: i32) -> i64 {
    let topic =
        OffsetFetchRequestTopics { name: topic.to_owned(), partition_indexes: vec![partition], ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: group.to_owned(), topics: Some(vec![topic]), ..Default::default() };
    let answer = world.call::<OffsetFetchResponse>(
        OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() },
        9,
    );
    answer.groups[0].topics[0].partitions[0].committed_offset
}

fn delete_group(world: &mut World, name: &str) -> ErrorCode {
    let request = DeleteGroupsRequest { groups_names: vec![name.to_owned()] };
    world.call::<DeleteGroupsResponse>(request, 2).results[0].error_code
}

fn list(world: &mut World) -> Vec<String> {
    let answer = world.call::<ListGroupsResponse>(ListGroupsRequest::default(), 5);
    answer.groups.into_iter().map(|group| format!("{} {}", group.group_id, group.group_state)).collect()
}

/// Checks what is always true.
fn check(groups: &Groups) {
    let mut alarms = Vec::new();
    for (name, group) in &groups.groups {
        let alarm = |at: &Option<Timestamp>, alarm: Alarm| at.map(|at| (at, Arc::clone(name), alarm));
        alarms.extend(alarm(&group.join_deadline, Alarm::Join));
        alarms.extend(alarm(&group.sync_deadline, Alarm::Sync));
        alarms.extend(alarm(&group.retention_check, Alarm::Retention));
        for (id, member) in &group.members {
            assert!(member.session.is_some(), "{group:?}");
            alarms.extend(alarm(&member.session, Alarm::Session(Arc::clone(id))));
        }
        for (id, deadline) in &group.pending {
            assert!(deadline.is_some() && !group.members.contains_key(id), "{group:?}");
            alarms.extend(alarm(deadline, Alarm::Pending(Arc::clone(id))));
        }
        check_group(group);
    }
    alarms.sort();
    assert!(alarms.iter().eq(groups.out.alarms.queue.iter()), "{alarms:?} {:?}", groups.out.alarms.queue);
    let writes = groups.groups.values().flat_map(|group| &group.writes).filter(|write| write.result.is_none());
    // A deleted topic's offsets may be written off after the end of their group.
    assert!(writes.count() <= groups.out.writers.len());
}

fn check_group(group: &Group) {
    let joining = group.members.values().filter(|member| member.join.is_some()).count();
    assert_eq!(group.joining, joining, "{group:?}");
    match &group.leader {
        Some(leader) => assert!(group.members.contains_key(leader), "{group:?}"),
        None => assert!(group.members.is_empty(), "{group:?}"),
    }
    let instances = group.members.iter().filter_map(|(id, member)| Some((member.instance.clone()?, Arc::clone(id))));
    assert_eq!(group.instances, instances.collect(), "{group:?}");
    assert!(group.pending_sync.iter().all(|id| group.members.contains_key(id)), "{group:?}");
    assert_eq!(group.sync_deadline.is_some(), !group.pending_sync.is_empty(), "{group:?}");
    assert_eq!(group.join_deadline.is_some(), group.state == State::PreparingRebalance, "{group:?}");
    assert!(group.initial_delay.is_none() || group.state == State::PreparingRebalance, "{group:?}");
    match group.state {
        State::Empty | State::Dead => assert!(group.members.is_empty(), "{group:?}"),
        State::PreparingRebalance => {}
        State::CompletingRebalance | State::Stable => assert!(!group.members.is_empty(), "{group:?}"),
    }
    let waits_for_sync = group.members.values().any(|member| member.sync.is_some());
    assert!(!waits_for_sync || group.state == State::CompletingRebalance, "{group:?}");
    if group.state == State::CompletingRebalance {
        assert_eq!(group.joining, 0, "{group:?}");
    }
    assert!(!group.is_blank(), "a blank group is kept: {group:?}");
}

/// What of the groups must be the same after a restart.
fn remembered(groups: &Groups) -> Vec<String> {
    let lasting = groups.groups.values().filter(|group| {
        matches!(group.state, State::Empty | State::Stable) && (group.generation > 0 || !group.offsets.is_empty())
    });
    let show = |group: &Group| {
        let protocol = group.protocol.as_deref().unwrap_or_default();
        let members = group.members.iter().map(|(id, member)| {
            let metadata = member.claims.metadata(protocol);
            format!("{id} {:?} {:?} {metadata:?} {:?}", member.instance, member.claims.client_id, member.assignment)
        });
        format!(
            "{} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?}",
            group.name,
            group.state,
            group.generation,
            group.protocol_type,
            group.protocol,
            group.leader,
            members.collect::<Vec<_>>(),
            group.subscribed.as_ref().filter(|_| group.state == State::Stable),
            group.offsets,
        )
    };
    lasting.map(show).collect()
}

#[test]
fn a_single_member_gets_all_that_its_leader_gives_out() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    assert_eq!(peers[0].generation, 1);
    assert_eq!(peers[0].protocol.as_deref(), Some("range"));
    assert_eq!(peers[0].assignment, format!("{} in 1", peers[0].member_id));
    assert!(peers[0].member_id.starts_with("app-"));
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
    assert_eq!(world.state("g"), "Stable");
}

#[test]
fn members_that_start_together_share_the_first_generation() {
    let mut world = World::new();
    let mut peers = (0..4).map(|_| Peer::new("g", None)).collect::<Vec<_>>();
    let mut joins = Vec::new();
    for peer in &mut peers {
        joins.push(peer.send_join(&mut world));
        world.pass(GRACE_MS * 3 / 4);
    }
    world.pass(GRACE_MS * 2);
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
        assert_eq!(peer.generation, 1);
    }
    assert_eq!(peers.iter().filter(|peer| peer.is_leader()).count(), 1);
    assert!(peers.iter().all(|peer| peer.members.len() == if peer.is_leader() { 4 } else { 0 }));
}

#[test]
fn the_grace_is_not_waited_for_when_it_is_zero() {
    let mut world = World::with(GroupsConfig { group_initial_rebalance_delay_ms: 0, ..GroupsConfig::default() });
    let mut peer = Peer::new("g", None);
    let join = peer.send_join(&mut world);
    peer.joined(world.answer(join));
    assert_eq!(peer.generation, 1);
}

#[test]
fn followers_that_ask_before_their_leader_wait_for_its_assignment() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None, None]);
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
    }
    let followers = peers[1..].iter().map(|peer| peer.send_sync(&mut world)).collect::<Vec<_>>();
    assert!(followers.iter().all(|id| world.is_waiting(*id)));
    let leader = peers[0].send_sync(&mut world);
    peers[0].synced(world.answer(leader));
    for (peer, id) in peers[1..].iter_mut().zip(followers) {
        peer.synced(world.answer(id));
        assert_eq!(peer.assignment, format!("{} in 2", peer.member_id));
    }
}

#[test]
fn assignments_are_handed_out_after_they_are_written() {
    let mut world = World::new();
    let mut peer = Peer::new("g", None);
    let join = peer.send_join(&mut world);
    world.pass(GRACE_MS);
    world.pass(GRACE_MS);
    peer.joined(world.answer(join));
    world.disk = Disk::Waits;
    let sync = peer.send_sync(&mut world);
    assert!(world.is_waiting(sync));
    assert_eq!(world.state("g"), "CompletingRebalance");
    // A client that has lost patience asks again; one write serves both.
    let again = peer.send_sync(&mut world);
    assert_eq!(world.answer::<SyncGroupResponse>(sync).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(world.unwritten.len(), 1);
    world.write_all();
    peer.synced(world.answer(again));
    assert_eq!(world.state("g"), "Stable");
}

#[test]
fn an_assignment_that_cannot_be_written_ends_in_another_rebalance() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
    }
    world.disk = Disk::Fails(ErrorCode::NOT_ENOUGH_REPLICAS);
    for id in [peers[1].send_sync(&mut world), peers[0].send_sync(&mut world)] {
        assert_eq!(world.answer::<SyncGroupResponse>(id).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    }
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
    world.disk = Disk::Writes;
    world.rebalance(&mut peers);
    assert_eq!(peers[0].generation, 3);
}

#[test]
fn a_rebalance_that_overtakes_the_write_of_an_assignment_wins() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
    }
    world.disk = Disk::Waits;
    let sync = peers[0].send_sync(&mut world);
    let third = Peer::new("g", None).send_join(&mut world);
    assert_eq!(world.answer::<SyncGroupResponse>(sync).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    world.write_all();
    assert_eq!(world.state("g"), "PreparingRebalance");
    assert!(world.is_waiting(third));
}

#[test]
fn a_new_member_must_say_the_id_that_it_is_given() {
    let mut world = World::new();
    let mut peer = Peer::new("g", None);
    let answer = world.call::<JoinGroupResponse>(peer.join(), 4);
    assert_eq!(answer.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    assert_eq!(list(&mut world), ["g Empty"]);
    peer.member_id = answer.member_id;
    let join = world.send(peer.join(), 4);
    assert!(world.is_waiting(join));
    // Before version 4 it was let in at once.
    let mut old = Peer::new("old", None);
    old.version = 3;
    let join = world.send(old.join(), 3);
    assert!(world.is_waiting(join));
    world.pass(GRACE_MS * 2);
    old.joined(world.answer(join));
    assert!(old.is_leader());
}

#[test]
fn a_member_id_that_is_not_used_is_forgotten_with_its_group() {
    let mut world = World::new();
    let mut peer = Peer::new("g", None);
    peer.member_id = world.call::<JoinGroupResponse>(peer.join(), 9).member_id;
    world.pass(i64::from(SESSION_MS));
    assert_eq!(list(&mut world), [""; 0]);
    assert_eq!(world.call::<JoinGroupResponse>(peer.join(), 9).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert!(world.groups.poll_timeout().is_none());
}

#[test]
fn a_rebalance_waits_for_those_who_were_given_an_id() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None]);
    let mut newcomer = Peer::new("g", None);
    newcomer.member_id = world.call::<JoinGroupResponse>(newcomer.join(), 9).member_id;
    let join = peers[0].send_join(&mut world);
    assert!(world.is_waiting(join));
    let newcomer_join = newcomer.send_join(&mut world);
    peers[0].joined(world.answer(join));
    newcomer.joined(world.answer(newcomer_join));
    assert_eq!((peers[0].generation, newcomer.generation), (2, 2));
}

#[test]
fn joins_are_refused_as_kafka_refuses_them() {
    let mut world = World::new();
    let mut refused = |change: &dyn Fn(&mut JoinGroupRequest), version| {
        let mut request = Peer::new("g", None).join();
        change(&mut request);
        let answer = world.call::<JoinGroupResponse>(request, version);
        assert_eq!((answer.generation_id, answer.leader.as_str(), answer.members.len()), (-1, "", 0));
        assert_eq!(answer.protocol_name, if version >= 7 { None } else { Some(String::new()) });
        answer.error_code
    };
    for version in [2, 6, 9] {
        assert_eq!(refused(&|join| join.group_id.clear(), version), ErrorCode::INVALID_GROUP_ID);
        assert_eq!(refused(&|join| join.session_timeout_ms = 5_999, version), ErrorCode::INVALID_SESSION_TIMEOUT);
        assert_eq!(refused(&|join| join.session_timeout_ms = 1_800_001, version), ErrorCode::INVALID_SESSION_TIMEOUT);
        assert_eq!(refused(&|join| join.member_id = "who".to_owned(), version), ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(refused(&|join| join.protocols.clear(), version), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        assert_eq!(refused(&|join| join.protocol_type.clear(), version), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    // None of that has left a group behind.
    assert_eq!(list(&mut world), [""; 0]);

    world.group("g", &[None]);
    let mut other = Peer::new("g", None);
    other.protocols = vec!["sticky"];
    assert_eq!(world.call::<JoinGroupResponse>(other.join(), 9).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let mut connect = Peer::new("g", None).join();
    connect.protocol_type = "connect".to_owned();
    assert_eq!(world.call::<JoinGroupResponse>(connect, 9).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn members_vote_for_a_protocol_that_all_of_them_know() {
    let mut world = World::new();
    let protocols = [vec!["sticky", "range", "roundrobin"], vec!["range", "roundrobin"], vec!["roundrobin", "range"]];
    let mut peers = protocols.map(|protocols| Peer { protocols, ..Peer::new("g", None) });
    world.rebalance(&mut peers);
    assert!(peers.iter().all(|peer| peer.protocol.as_deref() == Some("range")));
    // One who lists a protocol twice does not count twice.
    let mut twice = Peer { protocols: vec!["sticky", "sticky", "sticky", "range"], ..Peer::new("g", None) };
    let join = twice.send_join(&mut world);
    let mut joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    joins.push(join);
    for join in joins {
        assert_eq!(world.answer::<JoinGroupResponse>(join).protocol_name.as_deref(), Some("range"));
    }
}

#[test]
fn a_newcomer_makes_the_others_join_again() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let mut newcomer = Peer::new("g", None);
    let join = newcomer.send_join(&mut world);
    assert!(peers.iter().all(|peer| peer.heartbeat(&mut world) == ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(world.state("g"), "PreparingRebalance");
    // What was read until now may be committed still.
    assert_eq!(peers[0].commit(&mut world, "orders", 0, 5), ErrorCode::NONE);
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    newcomer.joined(world.answer(join));
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
    }
    assert_eq!(peers[0].commit(&mut world, "orders", 0, 6), ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(committed(&mut world, "g", "orders", 0), 5);
    peers.push(newcomer);
    assert!(peers.iter().all(|peer| peer.generation == 2 && peer.heartbeat(&mut world) == ErrorCode::NONE));
}

#[test]
fn a_leader_that_joins_again_starts_a_rebalance_and_an_unchanged_follower_does_not() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let join = peers[1].send_join(&mut world);
    let answer = world.answer::<JoinGroupResponse>(join);
    assert_eq!((answer.error_code, answer.generation_id), (ErrorCode::NONE, 1));
    assert_eq!((answer.leader, answer.members.len()), (peers[0].member_id.clone(), 0));
    let sync = peers[1].send_sync(&mut world);
    assert_eq!(world.answer::<SyncGroupResponse>(sync).assignment, peers[1].assignment);
    assert_eq!(world.state("g"), "Stable");
    let join = peers[0].send_join(&mut world);
    assert!(world.is_waiting(join));
    assert_eq!(world.state("g"), "PreparingRebalance");
    let follower = peers[1].send_join(&mut world);
    assert_eq!(world.answer::<JoinGroupResponse>(join).generation_id, 2);
    assert_eq!(world.answer::<JoinGroupResponse>(follower).generation_id, 2);
    // Nobody has seen the answer's generation yet: who asks again gets it again.
    let again = peers[1].send_join(&mut world);
    assert_eq!(world.answer::<JoinGroupResponse>(again).generation_id, 2);
    peers[1].topics = vec!["payments".to_owned()];
    let changed = peers[1].send_join(&mut world);
    assert!(world.is_waiting(changed));
}

#[test]
fn a_join_that_is_repeated_is_answered_once_each() {
    let mut world = World::new();
    let mut peer = Peer::new("g", None);
    let first = peer.send_join(&mut world);
    let second = peer.send_join(&mut world);
    assert_eq!(world.answer::<JoinGroupResponse>(first).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    world.pass(GRACE_MS * 2);
    peer.joined(world.answer(second));
}

#[test]
fn heartbeats_and_syncs_are_fenced() {
    let mut world = World::new();
    let peers = world.group("g", &[None, Some("static")]);
    let check = |world: &mut World, peer: &Peer, heartbeat, sync| {
        assert_eq!(peer.heartbeat(world), heartbeat);
        assert_eq!(world.call::<SyncGroupResponse>(peer.sync(), 5).error_code, sync);
    };
    for peer in &peers {
        let fenced = Peer { generation: 0, ..peer.clone() };
        check(&mut world, &fenced, ErrorCode::ILLEGAL_GENERATION, ErrorCode::ILLEGAL_GENERATION);
        let unknown = Peer { member_id: "who".to_owned(), instance: None, ..peer.clone() };
        check(&mut world, &unknown, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::UNKNOWN_MEMBER_ID);
        let twin = Peer { member_id: "who".to_owned(), instance: Some("static".to_owned()), ..peer.clone() };
        check(&mut world, &twin, ErrorCode::FENCED_INSTANCE_ID, ErrorCode::FENCED_INSTANCE_ID);
        let stranger = Peer { instance: Some("stranger".to_owned()), ..peer.clone() };
        check(&mut world, &stranger, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::UNKNOWN_MEMBER_ID);
        let nowhere = Peer { group: "nowhere".to_owned(), ..peer.clone() };
        check(&mut world, &nowhere, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::UNKNOWN_MEMBER_ID);
        let nameless = Peer { group: String::new(), ..peer.clone() };
        check(&mut world, &nameless, ErrorCode::INVALID_GROUP_ID, ErrorCode::INVALID_GROUP_ID);
        check(&mut world, peer, ErrorCode::NONE, ErrorCode::NONE);
    }
    let other = SyncGroupRequest { protocol_name: Some("roundrobin".to_owned()), ..peers[0].sync() };
    assert_eq!(world.call::<SyncGroupResponse>(other, 5).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let other = SyncGroupRequest { protocol_type: None, ..peers[0].sync() };
    assert_eq!(world.call::<SyncGroupResponse>(other, 5).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let old = SyncGroupRequest { protocol_type: None, protocol_name: None, ..peers[0].sync() };
    assert_eq!(world.call::<SyncGroupResponse>(old, 3).error_code, ErrorCode::NONE);
}

#[test]
fn a_member_that_falls_silent_is_taken_out_when_its_session_ends() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    for _ in 0..5 {
        world.pass(i64::from(SESSION_MS) / 3);
        assert_eq!(
            peers[0].heartbeat(&mut world),
            [ErrorCode::NONE, ErrorCode::REBALANCE_IN_PROGRESS]
                [usize::from(world.groups.groups["g"].members.len() == 1)]
        );
    }
    assert_eq!(peers[1].heartbeat(&mut world), ErrorCode::UNKNOWN_MEMBER_ID);
    peers.truncate(1);
    world.rebalance(&mut peers);
    assert_eq!(peers[0].generation, 2);
    // Commits keep a member alive, too.
    for offset in 0..5 {
        world.pass(i64::from(SESSION_MS) / 2);
        assert_eq!(peers[0].commit(&mut world, "orders", 0, offset), ErrorCode::NONE);
    }
    world.pass(i64::from(SESSION_MS));
    assert_eq!(world.state("g"), "Empty");
    assert_eq!(committed(&mut world, "g", "orders", 0), 4);
}

#[test]
fn a_member_that_waits_for_the_others_outlives_its_session() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let join = peers[0].send_join(&mut world);
    for _ in 0..5 {
        world.pass(i64::from(SESSION_MS) - 1);
        peers[1].heartbeat(&mut world);
    }
    assert!(world.is_waiting(join));
    // The other one is alive, but does not join.
    world.pass(i64::from(SESSION_MS) - 1);
    peers[1].heartbeat(&mut world);
    world.pass(i64::from(SESSION_MS) - 1);
    peers[0].joined(world.answer(join));
    assert_eq!((peers[0].generation, peers[0].members.len()), (2, 1));
    assert_eq!(peers[1].heartbeat(&mut world), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_new_member_that_waits_too_long_is_let_go() {
    let mut world = World::new();
    let mut peers = [Peer::new("g", None)];
    let mut join = peers[0].join();
    join.rebalance_timeout_ms = 10 * 60_000;
    join.member_id = world.call::<JoinGroupResponse>(join.clone(), 9).member_id;
    let id = world.send(join, 9);
    world.pass(GRACE_MS * 2);
    peers[0].joined(world.answer(id));
    let newcomer = Peer::new("g", None).send_join(&mut world);
    for _ in 0..100 {
        world.pass(5_000);
        peers[0].heartbeat(&mut world);
    }
    let answer = world.answer::<JoinGroupResponse>(newcomer);
    assert_eq!((answer.error_code, answer.member_id.as_str()), (ErrorCode::UNKNOWN_MEMBER_ID, ""));
}

#[test]
fn a_member_that_never_asks_for_its_assignment_is_taken_out() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    for (peer, join) in peers.iter_mut().zip(joins) {
        peer.joined(world.answer(join));
    }
    let sync = peers[0].send_sync(&mut world);
    peers[0].synced(world.answer(sync));
    for _ in 0..12 {
        assert_eq!(peers[1].heartbeat(&mut world), ErrorCode::NONE);
        assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
        world.pass(i64::from(REBALANCE_MS) / 12);
    }
    assert_eq!(peers[1].heartbeat(&mut world), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn who_was_away_does_not_judge_who_fell_silent() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    // A laptop that was asleep.
    world.now += 3_600_000;
    world.groups.handle_timeout(world.now);
    world.drain();
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
    world.pass(i64::from(SESSION_MS) + 1);
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn the_last_member_leaves_an_empty_group_that_is_written() {
    let mut world = World::new();
    let peers = world.group("g", &[None, None]);
    assert_eq!(peers[0].leave(&mut world), ErrorCode::NONE);
    assert_eq!(peers[0].leave(&mut world), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(peers[1].heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(peers[1].leave(&mut world), ErrorCode::NONE);
    assert_eq!(list(&mut world), ["g Empty"]);
    world.restart();
    assert_eq!(list(&mut world), ["g Empty"]);
    let next = world.group("g", &[None]);
    assert_eq!(next[0].generation, 3);
}

#[test]
fn many_can_be_taken_out_at_once() {
    let mut world = World::new();
    let peers = world.group("g", &[None, Some("a"), Some("b")]);
    let mut pending = Peer::new("g", None);
    pending.member_id = world.call::<JoinGroupResponse>(pending.join(), 9).member_id;
    let dynamic = peers.iter().find(|peer| peer.instance.is_none()).unwrap();
    let b = peers.iter().find(|peer| peer.instance.as_deref() == Some("b")).unwrap();
    let member = |member_id: &str, instance: Option<&str>| MemberIdentity {
        member_id: member_id.to_owned(),
        group_instance_id: instance.map(str::to_owned),
        reason: Some("the administrator wills it".to_owned()),
    };
    let members = vec![
        member(&dynamic.member_id, None),
        member("", Some("a")),
        member("wrong", Some("b")),
        member("", Some("nobody")),
        member(&pending.member_id, None),
        member("", None),
        member(&b.member_id, Some("b")),
    ];
    let request = LeaveGroupRequest { group_id: "g".to_owned(), members, ..Default::default() };
    let answer = world.call::<LeaveGroupResponse>(request.clone(), 5);
    assert_eq!(answer.error_code, ErrorCode::NONE);
    let errors = answer.members.iter().map(|member| member.error_code.name()).collect::<Vec<_>>();
    let unknown = "UNKNOWN_MEMBER_ID";
    assert_eq!(errors, ["NONE", "NONE", "FENCED_INSTANCE_ID", unknown, "NONE", unknown, "NONE"]);
    assert_eq!(world.state("g"), "Empty");
    let nowhere = LeaveGroupRequest { group_id: "nowhere".to_owned(), ..request };
    let answer = world.call::<LeaveGroupResponse>(nowhere, 3);
    assert!(answer.members.iter().all(|member| member.error_code == ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn one_that_leaves_in_an_old_version_is_answered_in_it() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    let leave = |member_id: &str| LeaveGroupRequest {
        group_id: "g".to_owned(),
        member_id: member_id.to_owned(),
        ..Default::default()
    };
    for version in 0..3 {
        let answer = world.call::<LeaveGroupResponse>(leave("who"), version);
        assert_eq!(answer.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    assert_eq!(world.call::<LeaveGroupResponse>(leave(&peers[0].member_id), 1).error_code, ErrorCode::NONE);
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn a_member_that_leaves_is_answered_what_it_waits_for() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, None]);
    let join = peers[1].clone();
    peers[0].send_join(&mut world);
    let mut waiting = join.clone();
    waiting.topics = vec!["payments".to_owned()];
    let mut third = Peer::new("g", None);
    let join = third.send_join(&mut world);
    assert_eq!(third.leave(&mut world), ErrorCode::NONE);
    assert_eq!(world.answer::<JoinGroupResponse>(join).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_static_member_that_comes_back_keeps_its_assignment_without_a_rebalance() {
    for version in [5, 8, 9] {
        let mut world = World::new();
        let mut peers = world.group("g", &[Some("a"), Some("b"), None]);
        let names = peers.iter().map(|peer| peer.member_id.clone()).collect::<Vec<_>>();
        for (index, peer) in peers.iter_mut().enumerate() {
            let Some(instance) = peer.instance.clone() else { continue };
            let was_leader = peer.is_leader();
            let mut back = Peer { version, ..Peer::new("g", Some(&instance)) };
            world.disk = Disk::Waits;
            let join = back.send_join(&mut world);
            assert!(world.is_waiting(join), "it is answered once it is written");
            world.write_all();
            let answer = world.answer::<JoinGroupResponse>(join);
            assert_eq!((answer.error_code, answer.generation_id), (ErrorCode::NONE, 1));
            assert!(answer.member_id.starts_with(&format!("{instance}-")));
            assert_ne!(answer.member_id, names[index]);
            assert_eq!(answer.skip_assignment, was_leader && version >= 9);
            assert_eq!(answer.members.len(), if was_leader && version >= 9 { 3 } else { 0 });
            // A leader of an older version must not know itself as the leader, or it would assign anew.
            assert_eq!(answer.leader == answer.member_id, was_leader && version >= 9);
            back.joined(answer);
            let sync = world.send(SyncGroupRequest { assignments: Vec::new(), ..back.sync() }, 5);
            back.synced(world.answer(sync));
            assert_eq!(back.assignment, peer.assignment);
            assert_eq!(peer.heartbeat(&mut world), ErrorCode::FENCED_INSTANCE_ID);
            assert_eq!(back.heartbeat(&mut world), ErrorCode::NONE);
            assert_eq!(remembered(&world.groups), remembered(&world.restarted()));
        }
        assert_eq!(world.state("g"), "Stable");
    }
}

#[test]
fn a_static_member_that_comes_back_changed_starts_a_rebalance() {
    let change: [fn(&mut Peer); 2] =
        [|peer| peer.topics = vec!["payments".to_owned()], |peer| peer.protocols = vec!["roundrobin"]];
    for change in change {
        let mut world = World::new();
        let peers = world.group("g", &[Some("a"), Some("b")]);
        let mut back = Peer::new("g", peers[1].instance.as_deref());
        change(&mut back);
        let join = back.send_join(&mut world);
        assert!(world.is_waiting(join));
        assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
    }
}

#[test]
fn a_static_member_that_cannot_be_written_stays_who_it_was() {
    let mut world = World::new();
    let peers = world.group("g", &[Some("a"), None]);
    let peer = peers.iter().find(|peer| peer.instance.is_some()).unwrap();
    let before = remembered(&world.groups);
    world.disk = Disk::Fails(ErrorCode::KAFKA_STORAGE_ERROR);
    let join = Peer::new("g", Some("a")).send_join(&mut world);
    let answer = world.answer::<JoinGroupResponse>(join);
    assert_eq!((answer.error_code, answer.member_id.as_str()), (ErrorCode::NOT_COORDINATOR, ""));
    assert_eq!(peer.heartbeat(&mut world), ErrorCode::NONE);
    assert_eq!(remembered(&world.groups), before);
}

#[test]
fn the_last_of_two_processes_with_one_instance_id_wins() {
    let mut world = World::new();
    world.group("g", &[Some("a"), None]);
    world.disk = Disk::Waits;
    let first = Peer::new("g", Some("a")).send_join(&mut world);
    let second = Peer::new("g", Some("a")).send_join(&mut world);
    assert_eq!(world.answer::<JoinGroupResponse>(first).error_code, ErrorCode::FENCED_INSTANCE_ID);
    world.write_all();
    assert_eq!(world.answer::<JoinGroupResponse>(second).error_code, ErrorCode::NONE);
    assert_eq!(world.groups.groups["g"].members.len(), 2);
}

#[test]
fn a_static_member_that_comes_back_while_all_join_is_told_with_all() {
    let mut world = World::new();
    let mut peers = world.group("g", &[Some("a"), None]);
    peers.sort_by_key(|peer| peer.instance.is_some());
    world.disk = Disk::Waits;
    let back = Peer::new("g", Some("a")).send_join(&mut world);
    let newcomer = Peer::new("g", None).send_join(&mut world);
    world.write_all();
    assert!(world.is_waiting(back));
    let join = peers[0].send_join(&mut world);
    for id in [back, newcomer, join] {
        let answer = world.answer::<JoinGroupResponse>(id);
        assert_eq!((answer.error_code, answer.generation_id), (ErrorCode::NONE, 2));
    }
}

#[test]
fn a_static_member_that_is_away_stays_until_its_session_ends() {
    let mut world = World::new();
    let mut peers = world.group("g", &[Some("a"), None]);
    peers.sort_by_key(|peer| peer.instance.is_some());
    let mut request = peers[0].join();
    request.rebalance_timeout_ms = 1_000;
    request.protocols[0].metadata = Bytes::from_static(b"changed");
    let away = peers.remove(1);
    // Its rebalance timeout is the longer one.
    let join = world.send(request, 9);
    for _ in 0..7 {
        away.heartbeat(&mut world);
        world.pass(i64::from(SESSION_MS) - 1);
    }
    peers[0].joined(world.answer(join));
    assert_eq!((peers[0].generation, peers[0].members.len()), (2, 2));
    let sync = peers[0].send_sync(&mut world);
    peers[0].synced(world.answer(sync));
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
    world.pass(1);
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn a_group_of_static_members_alone_waits_for_any_of_them() {
    let mut world = World::new();
    let peers = world.group("g", &[Some("a"), Some("b"), None]);
    let dynamic = peers.iter().find(|peer| peer.instance.is_none()).unwrap();
    assert_eq!(dynamic.leave(&mut world), ErrorCode::NONE);
    for _ in 0..20 {
        world.pass(5_000);
        for peer in peers.iter().filter(|peer| peer.instance.is_some()) {
            assert_eq!(peer.heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS);
        }
    }
    world.pass(i64::from(SESSION_MS) * 2);
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn a_full_group_lets_nobody_else_in() {
    let mut world = World::with(GroupsConfig { group_max_size: 2, ..GroupsConfig::default() });
    let mut peers = world.group("g", &[None, None]);
    let refused = world.call::<JoinGroupResponse>(Peer::new("g", None).join(), 9);
    assert_eq!((refused.error_code, refused.member_id.as_str()), (ErrorCode::GROUP_MAX_SIZE_REACHED, ""));
    assert_eq!(world.state("g"), "Stable");
    world.rebalance(&mut peers);
    // Ids that were given out count, so that nobody can fill the memory with them.
    let first = world.call::<JoinGroupResponse>(Peer::new("h", None).join(), 9);
    let second = world.call::<JoinGroupResponse>(Peer::new("h", None).join(), 9);
    let third = world.call::<JoinGroupResponse>(Peer::new("h", None).join(), 9);
    let errors = [first, second, third].map(|answer| answer.error_code);
    let given = ErrorCode::MEMBER_ID_REQUIRED;
    assert_eq!(errors, [given, given, ErrorCode::GROUP_MAX_SIZE_REACHED]);

    // A limit that was lowered sends the last ones home.
    world.config.group_max_size = 1;
    world.restart();
    let joins = peers.iter_mut().map(|peer| peer.send_join(&mut world)).collect::<Vec<_>>();
    let errors = joins.into_iter().map(|join| world.answer::<JoinGroupResponse>(join).error_code);
    assert_eq!(errors.collect::<Vec<_>>(), [ErrorCode::NONE, ErrorCode::GROUP_MAX_SIZE_REACHED]);
}

#[test]
fn the_oldest_versions_get_through_a_whole_generation() {
    let mut world = World::new();
    let mut peer = Peer { version: 0, ..Peer::new("g", None) };
    let join = world.send(peer.join(), 0);
    world.pass(GRACE_MS * 2);
    peer.joined(world.answer(join));
    assert_eq!(world.groups.groups["g"].rebalance_timeout_ms(), i64::from(SESSION_MS));
    let sync = SyncGroupRequest { protocol_type: None, protocol_name: None, ..peer.sync() };
    let answer = world.call::<SyncGroupResponse>(sync, 0);
    assert_eq!((answer.error_code, answer.assignment), (ErrorCode::NONE, format!("{} in 1", peer.member_id).into()));
    let commit =
        OffsetCommitRequest { group_instance_id: None, retention_time_ms: -1, ..peer.commit_request("orders", 1, 9) };
    assert_eq!(commit_error(world.call(commit, 2)), ErrorCode::NONE);
    let topics = vec![OffsetFetchRequestTopic { name: "orders".to_owned(), partition_indexes: vec![0, 1] }];
    let fetch = OffsetFetchRequest { group_id: "g".to_owned(), topics: Some(topics), ..Default::default() };
    let answer = world.call::<OffsetFetchResponse>(fetch, 1);
    let offsets = answer.topics[0].partitions.iter().map(|partition| partition.committed_offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [-1, 9]);
}

#[test]
fn commits_are_fenced() {
    let mut world = World::new();
    let peers = world.group("g", &[None, Some("a")]);
    let mut refused = |change: &dyn Fn(&mut OffsetCommitRequest), expected| {
        for (peer, version) in [(&peers[0], 9), (&peers[1], 8)] {
            let mut request = peer.commit_request("orders", 0, 1);
            change(&mut request);
            assert_eq!(commit_error(world.call(request, version)), expected);
        }
    };
    refused(&|commit| commit.generation_id_or_member_epoch = 0, ErrorCode::ILLEGAL_GENERATION);
    refused(&|commit| commit.generation_id_or_member_epoch = -1, ErrorCode::ILLEGAL_GENERATION);
}

#[test]
fn commits_of_the_wrong_members_are_refused_by_name() {
    let mut world = World::new();
    let peers = world.group("g", &[None, Some("a")]);
    let fixed = peers.iter().find(|peer| peer.instance.is_some()).unwrap();
    let dynamic = peers.iter().find(|peer| peer.instance.is_none()).unwrap();
    let attempt = |world: &mut World, peer: Peer| peer.commit(world, "orders", 0, 1);
    let stale = Peer { member_id: dynamic.member_id.clone(), ..fixed.clone() };
    assert_eq!(attempt(&mut world, stale), ErrorCode::FENCED_INSTANCE_ID);
    let unknown = Peer { member_id: "who".to_owned(), ..dynamic.clone() };
    assert_eq!(attempt(&mut world, unknown), ErrorCode::UNKNOWN_MEMBER_ID);
    // Nobody's member must keep out while there are members.
    assert_eq!(commit_error(world.call(commit("g", "orders", 0, 1), 9)), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(attempt(&mut world, dynamic.clone()), ErrorCode::NONE);
    assert_eq!(attempt(&mut world, fixed.clone()), ErrorCode::NONE);
    // A generation of a group that is not there.
    let request = OffsetCommitRequest { generation_id_or_member_epoch: 3, ..commit("nowhere", "orders", 0, 1) };
    assert_eq!(commit_error(world.call(request.clone(), 8)), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(commit_error(world.call(request, 9)), ErrorCode::GROUP_ID_NOT_FOUND);
    // And of one without members.
    assert_eq!(commit_error(world.call(commit("alone", "orders", 0, 1), 9)), ErrorCode::NONE);
    let request = OffsetCommitRequest {
        generation_id_or_member_epoch: 3,
        member_id: "who".to_owned(),
        ..commit("alone", "orders", 0, 1)
    };
    assert_eq!(commit_error(world.call(request, 9)), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn an_offset_is_committed_once_it_is_written() {
    let mut world = World::new();
    assert_eq!(commit_error(world.call(commit("g", "orders", 0, 1), 9)), ErrorCode::NONE);
    world.disk = Disk::Waits;
    let id = world.send(commit("g", "orders", 0, 2), 9);
    assert!(world.is_waiting(id));
    assert_eq!(committed(&mut world, "g", "orders", 0), 1);
    world.write_all();
    assert_eq!(commit_error(world.answer(id)), ErrorCode::NONE);
    assert_eq!(committed(&mut world, "g", "orders", 0), 2);
    for (error, told) in [
        (ErrorCode::NOT_ENOUGH_REPLICAS, ErrorCode::COORDINATOR_NOT_AVAILABLE),
        (ErrorCode::KAFKA_STORAGE_ERROR, ErrorCode::NOT_COORDINATOR),
        (ErrorCode::MESSAGE_TOO_LARGE, ErrorCode::INVALID_COMMIT_OFFSET_SIZE),
    ] {
        world.disk = Disk::Fails(error);
        assert_eq!(commit_error(world.call(commit("g", "orders", 0, 3), 9)), told);
        assert_eq!(commit_error(world.call(commit("never", "orders", 0, 3), 9)), told);
    }
    assert_eq!(committed(&mut world, "g", "orders", 0), 2);
    assert_eq!(list(&mut world), ["g Empty"]);
}

#[test]
fn writes_take_effect_in_their_order_whatever_order_they_end_in() {
    let mut world = World::new();
    world.disk = Disk::Waits;
    let commits = (1..=3).map(|offset| world.send(commit("g", "orders", 0, offset), 9)).collect::<Vec<_>>();
    for (index, result) in [(2, Ok(())), (1, Err(ErrorCode::KAFKA_STORAGE_ERROR))] {
        world.end_write_at(index, result);
        world.drain();
        assert!(commits.iter().all(|id| world.is_waiting(*id)));
    }
    world.write_all();
    let errors = commits.into_iter().map(|id| commit_error(world.answer(id))).collect::<Vec<_>>();
    assert_eq!(errors, [ErrorCode::NONE, ErrorCode::NOT_COORDINATOR, ErrorCode::NONE]);
    assert_eq!(committed(&mut world, "g", "orders", 0), 3);
}

#[test]
fn a_commit_is_judged_partition_by_partition() {
    let mut world = World::new();
    let mut request = commit("g", "orders", 0, 5);
    request.topics.extend(commit("g", "nothing", 0, 5).topics);
    request.topics.extend(commit("g", "orders", 4, 5).topics);
    request.topics.extend(commit("g", "payments", 1, 5).topics);
    request.topics[3].partitions[0].committed_metadata = Some("x".repeat(4097));
    request.topics.extend(commit("g", "payments", 2, 5).topics);
    request.topics[4].partitions[0].committed_metadata = None;
    let answer = world.call::<OffsetCommitResponse>(request, 9);
    let errors = answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect::<Vec<_>>();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let expected = [ErrorCode::NONE, unknown, unknown, ErrorCode::OFFSET_METADATA_TOO_LARGE, ErrorCode::NONE];
    assert_eq!(errors, expected);
    assert_eq!(world.log().count(), 2);
    let unknown = world.call::<OffsetCommitResponse>(commit("other", "nothing", 0, 5), 9);
    assert_eq!(commit_error(unknown), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let nothing = OffsetCommitRequest { group_id: "other".to_owned(), ..Default::default() };
    assert_eq!(world.call::<OffsetCommitResponse>(nothing, 9).topics, []);
    assert_eq!(list(&mut world), ["g Empty"]);
}

#[test]
fn offsets_are_fetched_in_every_version() {
    let mut world = World::new();
    for (topic, partition, offset) in [("orders", 0, 10), ("orders", 2, 12), ("payments", 1, 21)] {
        assert_eq!(commit_error(world.call(commit("g", topic, partition, offset), 9)), ErrorCode::NONE);
    }
    for version in 1..8 {
        let topics = vec![OffsetFetchRequestTopic { name: "orders".to_owned(), partition_indexes: vec![2, 1] }];
        let request = OffsetFetchRequest { group_id: "g".to_owned(), topics: Some(topics), ..Default::default() };
        let answer = world.call::<OffsetFetchResponse>(request, version);
        let partitions = &answer.topics[0].partitions;
        assert_eq!((partitions[0].committed_offset, partitions[1].committed_offset), (12, -1));
        assert_eq!(partitions[0].committed_leader_epoch, if version >= 5 { 7 } else { -1 });
        assert_eq!((partitions[0].metadata.as_deref(), partitions[1].metadata.as_deref()), (Some("at 12"), Some("")));
        if version >= 2 {
            let request = OffsetFetchRequest { group_id: "g".to_owned(), topics: None, ..Default::default() };
            let answer = world.call::<OffsetFetchResponse>(request, version);
            assert_eq!((answer.topics.len(), answer.topics[0].partitions.len()), (2, 2));
        }
    }
    for version in 8..=9 {
        let group = |name: &str, topics: Option<Vec<OffsetFetchRequestTopics>>| OffsetFetchRequestGroup {
            group_id: name.to_owned(),
            topics,
            ..Default::default()
        };
        let topic =
            OffsetFetchRequestTopics { name: "payments".to_owned(), partition_indexes: vec![1], ..Default::default() };
        let groups = vec![
            group("g", None),
            group("g", Some(vec![topic.clone()])),
            group("nowhere", Some(vec![topic])),
            group("nowhere", None),
            group("g", Some(Vec::new())),
        ];
        let answer = world.call::<OffsetFetchResponse>(OffsetFetchRequest { groups, ..Default::default() }, version);
        let shown = answer.groups.iter().map(|group| {
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.committed_offset).collect::<Vec<_>>()
        });
        assert_eq!(shown.collect::<Vec<_>>(), [vec![10, 12, 21], vec![21], vec![-1], vec![], vec![]]);
        assert!(answer.groups.iter().all(|group| group.error_code == ErrorCode::NONE));
    }
}

fn delete_offsets(world: &mut World, group: &str, topics: &[(&str, i32)]) -> (ErrorCode, Vec<ErrorCode>) {
    let topic = |(name, partition_index): &(&str, i32)| OffsetDeleteRequestTopic {
        name: (*name).to_owned(),
        partitions: vec![OffsetDeleteRequestPartition { partition_index: *partition_index }],
    };
    let topics = topics.iter().map(topic).collect();
    let answer = world.call::<OffsetDeleteResponse>(OffsetDeleteRequest { group_id: group.to_owned(), topics }, 0);
    let errors = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
    (answer.error_code, errors.collect())
}

#[test]
fn offsets_of_topics_that_are_read_are_not_deleted() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    assert_eq!(peers[0].commit(&mut world, "orders", 0, 1), ErrorCode::NONE);
    assert_eq!(peers[0].commit(&mut world, "payments", 0, 1), ErrorCode::NONE);
    let wanted = [("orders", 0), ("payments", 0), ("payments", 3), ("nothing", 0)];
    let (error, errors) = delete_offsets(&mut world, "g", &wanted);
    let (none, unknown) = (ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!((error, errors), (none, vec![ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC, none, none, unknown]));
    assert_eq!((committed(&mut world, "g", "orders", 0), committed(&mut world, "g", "payments", 0)), (1, -1));
    peers[0].leave(&mut world);
    assert_eq!(delete_offsets(&mut world, "g", &[("orders", 0)]), (none, vec![none]));
    assert_eq!(committed(&mut world, "g", "orders", 0), -1);
    assert_eq!(delete_offsets(&mut world, "nowhere", &[("orders", 0)]), (ErrorCode::GROUP_ID_NOT_FOUND, vec![]));
    world.restart();
    assert_eq!(committed(&mut world, "g", "payments", 0), -1);
    assert_eq!(committed(&mut world, "g", "orders", 0), -1);
}

#[test]
fn a_subscription_that_cannot_be_read_counts_as_everything() {
    let mut world = World::new();
    let mut peer = Peer::new("g", None);
    for metadata in [&b""[..], b"\0", b"\0\x01\xff\xff\xff\xff", b"\0\0\x7f\xff\xff\xff", b"\xff\xff\xff\xff"] {
        let mut request = peer.join();
        request.protocols.iter_mut().for_each(|protocol| protocol.metadata = Bytes::from_static(metadata));
        if request.member_id.is_empty() {
            request.member_id = world.call::<JoinGroupResponse>(request.clone(), 9).member_id;
        }
        let join = world.send(request, 9);
        world.pass(GRACE_MS * 2);
        peer.joined(world.answer(join));
        let sync = peer.send_sync(&mut world);
        peer.synced(world.answer(sync));
        assert_eq!(peer.commit(&mut world, "orders", 0, 1), ErrorCode::NONE);
        let (_, errors) = delete_offsets(&mut world, "g", &[("orders", 0)]);
        assert_eq!(errors, [ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC]);
        assert_eq!(remembered(&world.groups), remembered(&world.restarted()));
    }
}

#[test]
fn offsets_of_members_of_another_kind_are_not_deleted() {
    let mut world = World::new();
    let request = JoinGroupRequest { protocol_type: "connect".to_owned(), ..Peer::new("g", None).join() };
    world.send(request, 3);
    assert_eq!(delete_offsets(&mut world, "g", &[("orders", 0)]).0, ErrorCode::NON_EMPTY_GROUP);
}

#[test]
fn only_groups_without_members_are_deleted() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    assert_eq!(peers[0].commit(&mut world, "orders", 0, 1), ErrorCode::NONE);
    assert_eq!(delete_group(&mut world, "g"), ErrorCode::NON_EMPTY_GROUP);
    assert_eq!(delete_group(&mut world, "nowhere"), ErrorCode::GROUP_ID_NOT_FOUND);
    peers[0].leave(&mut world);
    world.disk = Disk::Waits;
    let commit_id = world.send(commit("g", "payments", 0, 1), 9);
    let names = ["g", "nowhere", "g"].map(str::to_owned).to_vec();
    let delete = world.send(DeleteGroupsRequest { groups_names: names }, 2);
    // Until its end is written the group is neither there nor gone.
    let join = world.send(Peer::new("g", None).join(), 9);
    assert_eq!(world.answer::<JoinGroupResponse>(join).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let refused = world.call::<OffsetCommitResponse>(commit("g", "orders", 0, 2), 9);
    assert_eq!(commit_error(refused), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(delete_group(&mut world, "g"), ErrorCode::GROUP_ID_NOT_FOUND);
    assert_eq!(committed(&mut world, "g", "orders", 0), -1);
    world.write_all();
    let answer = world.answer::<DeleteGroupsResponse>(delete);
    let errors = answer.results.iter().map(|result| (result.group_id.as_str(), result.error_code));
    let expected = [("g", ErrorCode::NONE), ("nowhere", ErrorCode::GROUP_ID_NOT_FOUND)];
    assert_eq!(errors.collect::<Vec<_>>(), expected);
    assert_eq!(commit_error(world.answer(commit_id)), ErrorCode::NONE);
    assert_eq!(list(&mut world), [""; 0]);
    world.restart();
    assert_eq!(list(&mut world), [""; 0]);
    assert!(world.groups.poll_timeout().is_none());
}

#[test]
fn a_deletion_that_cannot_be_written_leaves_the_group() {
    let mut world = World::new();
    assert_eq!(commit_error(world.call(commit("g", "orders", 0, 7), 9)), ErrorCode::NONE);
    world.disk = Disk::Fails(ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(delete_group(&mut world, "g"), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(committed(&mut world, "g", "orders", 0), 7);
    world.disk = Disk::Writes;
    assert_eq!(delete_group(&mut world, "g"), ErrorCode::NONE);
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut world = World::new();
    world.group("stable", &[None]);
    assert_eq!(commit_error(world.call(commit("empty", "orders", 0, 7), 9)), ErrorCode::NONE);
    let mut list = |states: &[&str], types: &[&str], version| {
        let filter = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = ListGroupsRequest { states_filter: filter(states), types_filter: filter(types) };
        let answer = world.call::<ListGroupsResponse>(request, version);
        let show = |group: &list_groups::ListedGroup| {
            format!("{} {} {} {}", group.group_id, group.protocol_type, group.group_state, group.group_type)
        };
        answer.groups.iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(list(&[], &[], 5), ["empty  Empty classic", "stable consumer Stable classic"]);
    assert_eq!(list(&[], &[], 4), ["empty  Empty ", "stable consumer Stable "]);
    assert_eq!(list(&[], &[], 0), ["empty   ", "stable consumer  "]);
    assert_eq!(list(&["stable", "dead"], &[], 4), ["stable consumer Stable "]);
    assert_eq!(list(&["STABLE"], &["Classic", "share"], 5), ["stable consumer Stable classic"]);
    assert_eq!(list(&[], &["consumer"], 5), [""; 0]);
}

#[test]
fn groups_are_described() {
    let mut world = World::new();
    let peers = world.group("g", &[Some("a")]);
    for version in 0..=6 {
        let request = DescribeGroupsRequest {
            groups: vec!["g".to_owned(), "nowhere".to_owned()],
            include_authorized_operations: version >= 3,
        };
        let answer = world.call::<DescribeGroupsResponse>(request, version);
        let [group, nowhere] = &answer.groups[..] else { panic!("{answer:?}") };
        assert_eq!((group.error_code, group.group_state.as_str()), (ErrorCode::NONE, "Stable"));
        assert_eq!((group.protocol_type.as_str(), group.protocol_data.as_str()), ("consumer", "range"));
        assert_eq!(group.authorized_operations, if version >= 3 { 328 } else { i32::MIN });
        let member = &group.members[0];
        assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("app", "/127.0.0.1"));
        assert_eq!((&member.member_id, &member.member_assignment), (&peers[0].member_id, &peers[0].assignment));
        assert_eq!(member.member_metadata, peers[0].join().protocols[0].metadata);
        assert_eq!(member.group_instance_id.as_deref(), (version >= 4).then_some("a"));
        let gone = if version >= 6 { ErrorCode::GROUP_ID_NOT_FOUND } else { ErrorCode::NONE };
        assert_eq!((nowhere.error_code, nowhere.group_state.as_str()), (gone, "Dead"));
        assert_eq!(nowhere.error_message.is_some(), version >= 6);
    }
    // What members say while they rebalance is nobody's business yet.
    Peer::new("g", None).send_join(&mut world);
    let request = DescribeGroupsRequest { groups: vec!["g".to_owned()], ..Default::default() };
    let group = world.call::<DescribeGroupsResponse>(request, 5).groups.remove(0);
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("PreparingRebalance", ""));
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
    assert_eq!(group.authorized_operations, i32::MIN);
}

#[test]
fn offsets_expire_when_nobody_has_needed_them_for_the_retention_time() {
    let mut world = World::new();
    let config = world.config.clone();
    let (retention, check_every) = (config.offsets_retention_ms, config.offsets_retention_check_interval_ms);
    // Nobody's members: since the commit.
    assert_eq!(commit_error(world.call(commit("alone", "orders", 0, 1), 9)), ErrorCode::NONE);
    world.pass(DAY_MS);
    assert_eq!(commit_error(world.call(commit("alone", "orders", 1, 1), 9)), ErrorCode::NONE);
    // Members: since they left.
    let mut peers = [Peer { session_timeout_ms: LONG_SESSION_MS, ..Peer::new("g", None) }];
    world.rebalance(&mut peers);
    peers[0].commit(&mut world, "orders", 0, 1);
    for _ in 0..DAY_MS / i64::from(LONG_SESSION_MS) {
        world.pass(i64::from(LONG_SESSION_MS) - 1);
        assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
    }
    peers[0].leave(&mut world);
    let left = world.now;
    world.pass(START + retention + check_every - world.now);
    assert_eq!(committed(&mut world, "alone", "orders", 0), -1);
    assert_eq!(committed(&mut world, "alone", "orders", 1), 1);
    world.pass(DAY_MS);
    assert_eq!(list(&mut world), ["g Empty"]);
    assert_eq!(committed(&mut world, "g", "orders", 0), 1);
    world.pass(left + retention + check_every - world.now);
    assert_eq!(list(&mut world), [""; 0]);
    assert!(world.groups.poll_timeout().is_none());
    world.restart();
    assert_eq!(list(&mut world), [""; 0]);
}

#[test]
fn members_keep_the_offsets_of_what_they_subscribe_to() {
    let mut world = World::new();
    let mut peers = [Peer { session_timeout_ms: LONG_SESSION_MS, ..Peer::new("g", None) }];
    world.rebalance(&mut peers);
    peers[0].commit(&mut world, "orders", 0, 1);
    peers[0].commit(&mut world, "payments", 0, 1);
    for _ in 0..8 * DAY_MS / i64::from(LONG_SESSION_MS) {
        world.pass(i64::from(LONG_SESSION_MS) - 1);
        assert_eq!(peers[0].heartbeat(&mut world), ErrorCode::NONE);
    }
    assert_eq!((committed(&mut world, "g", "orders", 0), committed(&mut world, "g", "payments", 0)), (1, -1));
}

#[test]
fn old_clients_say_themselves_how_long_an_offset_is_kept() {
    let mut world = World::new();
    let request = OffsetCommitRequest { retention_time_ms: 30 * 60_000, ..commit("g", "orders", 0, 1) };
    assert_eq!(commit_error(world.call(request, 4)), ErrorCode::NONE);
    let mut again = world.restarted();
    assert_eq!(again.groups["g"].offsets.iter().next().unwrap().2.expire_timestamp, Some(START + 30 * 60_000));
    assert_eq!(again.poll_timeout(), Some(START + 30 * 60_000));
    world.pass(30 * 60_000 - 1);
    assert_eq!(committed(&mut world, "g", "orders", 0), 1);
    world.pass(10 * 60_000);
    assert_eq!(list(&mut world), [""; 0]);
    again.handle_timeout(world.now);
}

#[test]
fn a_group_without_offsets_goes_soon_after_its_last_member() {
    let mut world = World::new();
    let peers = world.group("g", &[None]);
    peers[0].leave(&mut world);
    assert_eq!(list(&mut world), ["g Empty"]);
    world.pass(10 * 60_000);
    assert_eq!(list(&mut world), [""; 0]);
    assert_eq!(world.restarted().groups.len(), 0);
}

#[test]
fn a_deleted_topic_takes_its_offsets_with_it() {
    let mut world = World::new();
    for topic in ["orders", "payments"] {
        assert_eq!(commit_error(world.call(commit("g", topic, 0, 5), 9)), ErrorCode::NONE);
    }
    world.disk = Disk::Waits;
    let late = world.send(commit("g", "orders", 1, 6), 9);
    world.groups.topic_deleted("orders");
    world.drain();
    // A topic that gets the name must not inherit them, not even one that is there at once.
    assert_eq!(committed(&mut world, "g", "orders", 0), -1);
    let newer = world.send(commit("g", "orders", 2, 1), 9);
    world.write_all();
    assert_eq!(
        (commit_error(world.answer(late)), commit_error(world.answer(newer))),
        (ErrorCode::NONE, ErrorCode::NONE)
    );
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        let offsets = (0..3).map(|partition| committed(&mut world, "g", "orders", partition)).collect::<Vec<_>>();
        assert_eq!(offsets, [-1, -1, 1]);
        assert_eq!(committed(&mut world, "g", "payments", 0), 5);
    }
}

#[test]
fn a_stable_group_goes_on_after_a_restart() {
    let mut world = World::new();
    let mut peers = world.group("g", &[None, Some("a"), None]);
    for (partition, peer) in peers.iter().enumerate() {
        assert_eq!(peer.commit(&mut world, "orders", partition as i32, 100), ErrorCode::NONE);
    }
    let before = remembered(&world.groups);
    world.restart();
    assert_eq!(remembered(&world.groups), before);
    for peer in &peers {
        assert_eq!(peer.heartbeat(&mut world), ErrorCode::NONE);
        let sync = peer.send_sync(&mut world);
        assert_eq!(world.answer::<SyncGroupResponse>(sync).assignment, peer.assignment);
    }
    assert_eq!(peers[0].commit(&mut world, "orders", 0, 101), ErrorCode::NONE);
    // A member that did not survive it is missed.
    let gone = peers.pop().unwrap();
    world.pass(i64::from(SESSION_MS) - 1);
    peers.iter().for_each(|peer| assert_eq!(peer.heartbeat(&mut world), ErrorCode::NONE));
    world.pass(1);
    peers.iter().for_each(|peer| assert_eq!(peer.heartbeat(&mut world), ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(gone.heartbeat(&mut world), ErrorCode::UNKNOWN_MEMBER_ID);
    world.rebalance(&mut peers);
    assert_eq!(peers[0].generation, 2);
}

#[test]
fn records_are_kafkas_to_the_byte() {
    let mut world = World::new();
    assert_eq!(commit_error(world.call(commit("g", "orders", 3, 258), 9)), ErrorCode::NONE);
    let (key, value) = world.log().next_back().cloned().unwrap();
    assert_eq!(key[..], *b"\0\x01\0\x01g\0\x06orders\0\0\0\x03");
    let mut expected = b"\0\x03\0\0\0\0\0\0\x01\x02\0\0\0\x07\0\x06at 258".to_vec();
    expected.extend(START.to_be_bytes());
    assert_eq!(value.unwrap()[..], expected);
    let peers = world.group("g", &[None]);
    let (key, value) = world.log().next_back().cloned().unwrap();
    assert_eq!(key[..], *b"\0\x02\0\x01g");
    let value = value.unwrap();
    // Version 3, protocol type, generation 1, protocol.
    assert!(value.starts_with(b"\0\x03\0\x08consumer\0\0\0\x01\0\x05range"));
    assert!(value.ends_with(&peers[0].assignment));
}

#[test]
fn a_group_has_the_partition_that_kafka_gives_it() {
    let check = |group, partitions, partition| assert_eq!(super::partition_of(group, partitions), partition, "{group}");
    check("g", 50, 3);
    check("test_group", 1, 0);
    check("", 50, 0);
    // The hashes of these are negative, the least that there is, and of two units for one character.
    check("polygenelubricantt", 50, 47);
    check("polygenelubricants", 50, 0);
    check("\u{1f600}", 50, 49);
    check("g", 0, 0);
}

#[test]
fn records_that_are_not_understood_are_passed_over_or_refused() {
    let mut world = World::new();
    world.group("g", &[None, Some("a")]);
    assert_eq!(commit_error(world.call(commit("h", "orders", 0, 1), 9)), ErrorCode::NONE);
    let mut groups = world.restarted();
    let before = remembered(&groups);
    // Groups of the newer protocols, and versions to come.
    for (key, value) in [(3_i16, 0_i16), (9, 0), (1, 5), (2, 99), (-1, 0), (2, -1)] {
        let (key, value) = (key.to_be_bytes(), value.to_be_bytes());
        groups.replay(&key, Some(&value), START).unwrap();
    }
    groups.replay(&3_i16.to_be_bytes(), None, START).unwrap();
    assert!(groups.replay(b"", None, START).is_err());
    assert!(groups.replay(b"\0", Some(b""), START).is_err());
    // Every record, cut off anywhere or with any bit turned.
    for (key, value) in world.log() {
        let value = value.as_ref().unwrap();
        for end in 0..key.len() {
            assert!(groups.replay(&key[..end], Some(value), START).is_err());
        }
        for end in 0..value.len() {
            assert!(groups.replay(key, Some(&value[..end]), START).is_err());
        }
        assert_eq!(remembered(&groups), before);
        for bit in 0..value.len() * 8 {
            let mut value = value.to_vec();
            value[bit / 8] ^= 1 << (bit % 8);
            let mut groups = Groups::new(GroupsConfig::default(), 1);
            let _ = groups.replay(key, Some(&value), START);
            groups.handle_replayed(START);
            check(&groups);
            while groups.poll_effect().is_some() {}
            for _ in 0..10 {
                groups.handle_timeout(groups.poll_timeout().unwrap_or(START));
                check(&groups);
            }
        }
    }
}

#[test]
fn records_of_every_version_that_kafka_has_written_are_read() {
    let key = |kind: i16| [&kind.to_be_bytes()[..], b"\0\x01g\0\x01t\0\0\0\0"].concat();
    for kind in [0, 1] {
        for version in 0..=4 {
            let value =
                OffsetCommitValue { offset: 9, commit_timestamp: 8, expire_timestamp: -1, ..Default::default() };
            let value = value.to_versioned_bytes(version).unwrap();
            let mut groups = Groups::new(GroupsConfig::default(), 1);
            groups.replay(&key(kind), Some(&value), START).unwrap();
            let committed = groups.groups["g"].offsets.iter().next().unwrap().2.clone();
            assert_eq!((committed.offset, committed.leader_epoch, committed.expire_timestamp), (9, -1, None));
        }
    }
    for version in 0..=4 {
        let member = group_metadata::MemberMetadata {
            member_id: "m".to_owned(),
            session_timeout: 10_000,
            rebalance_timeout: if version == 0 { -1 } else { 20_000 },
            ..Default::default()
        };
        let value = GroupMetadataValue {
            protocol_type: "consumer".to_owned(),
            generation: 5,
            protocol: Some("range".to_owned()),
            leader: Some("m".to_owned()),
            members: vec![member],
            ..Default::default()
        };
        let value = value.to_versioned_bytes(version).unwrap();
        let mut groups = Groups::new(GroupsConfig::default(), 1);
        groups.replay(b"\0\x02\0\x01g", Some(&value), START).unwrap();
        groups.handle_replayed(START);
        check(&groups);
        let group = &groups.groups["g"];
        assert_eq!((group.state, group.generation, group.state_since), (State::Stable, 5, -1));
        assert_eq!(group.rebalance_timeout_ms(), if version == 0 { 10_000 } else { 20_000 });
    }
}

#[test]
fn names_that_a_record_has_no_room_for_are_answered() {
    let mut world = World::new();
    let name = "g".repeat(40_000);
    let id = RequestId(77);
    let request = commit(&name, "orders", 0, 1);
    world.requests.insert(id, (request.clone().into(), 9));
    world.groups.handle_request(id, &ClientInfo::default(), request.into(), 9, &|_, _| true, world.now);
    world.drain();
    assert_eq!(commit_error(world.answer(id)), ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(list(&mut world), [""; 0]);
}

#[test]
fn thousands_of_groups_and_members_are_no_burden() {
    let mut world = World::new();
    world.checks = false;
    let mut peers = (0..2_000).map(|group| Peer::new(&format!("g{group}"), None)).collect::<Vec<_>>();
    world.rebalance(&mut peers);
    assert!(peers.iter().all(|peer| !peer.assignment.is_empty() && peer.heartbeat(&mut world) == ErrorCode::NONE));
    check(&world.groups);
    let mut peers = (0..1_000).map(|_| Peer { version: 3, ..Peer::new("big", None) }).collect::<Vec<_>>();
    world.rebalance(&mut peers);
    check(&world.groups);
    assert_eq!(peers[0].members.len(), 1_000);
    assert!(peers.iter().all(|peer| peer.generation == 1 && !peer.assignment.is_empty()));
    world.pass(10 * 60_000 + 60_000);
    check(&world.groups);
    assert_eq!(list(&mut world), [""; 0]);
}

/// Random clients, disks and clocks; what must hold is checked after each step, and at the end everybody has an answer.
#[test]
fn whatever_happens_each_request_is_answered_once_and_the_log_tells_the_truth() {
    let seeds = std::env::var("OTTLA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let mut assigned = 0;
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| random_run(seed));
        assigned += outcome.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    // Chance finds its way to assignments, or nothing much was tested.
    assert!(assigned > 5 * seeds, "{assigned} assignments with {seeds} seeds");
}

/// Returns how many members got an assignment.
fn random_run(seed: u64) -> u64 {
    let mut assigned = 0;
    let mut random = Random(seed);
    let mut pick = |bound: usize| (random.next() % bound as u64) as usize;
    let config = GroupsConfig { group_max_size: 5, ..GroupsConfig::default() };
    let mut world = World::with(config);
    world.disk = Disk::Waits;
    let with_failures = seed.is_multiple_of(3);
    let with_restarts = seed.is_multiple_of(2);
    let mut peers = Vec::new();
    for index in 0..10 {
        let group = ["g", "h"][index % 2];
        // Now and then two processes have one instance id, and fence each other for ever.
        let other = if seed.is_multiple_of(4) { "a" } else { "b" };
        let instance = [None, None, None, Some("a"), Some(other)][index / 2];
        let mut peer = Peer::new(group, instance);
        peer.version = [9, 9, 5, 3, 8][pick(5)].max(if instance.is_some() { 5 } else { 0 });
        peers.push((peer, None::<RequestId>, None::<(RequestId, String)>));
    }
    let mut generations = BTreeMap::<String, i32>::new();
    let mut leaders = BTreeMap::<(String, i32), String>::new();
    for _ in 0..400 {
        let at = pick(peers.len());
        match pick(60) {
            // What a client would do next.
            20.. => {
                let (peer, join, sync) = &mut peers[at];
                if join.is_some() || sync.is_some() {
                    // It waits.
                } else if peer.generation == -1 || peer.member_id.is_empty() {
                    *join = Some(world.send(peer.join(), peer.version));
                } else if peer.assignment.is_empty() {
                    *sync = Some((world.send(peer.sync(), 5), peer.member_id.clone()));
                } else if peer.heartbeat(&mut world) != ErrorCode::NONE {
                    *join = Some(world.send(peer.join(), peer.version));
                }
            }
            0..5 => {
                let (peer, join, _) = &mut peers[at];
                peer.topics = vec![["orders", "orders", "orders", "payments"][pick(4)].to_owned()];
                *join = Some(world.send(peer.join(), peer.version));
            }
            5..9 => {
                let (peer, _, sync) = &mut peers[at];
                *sync = Some((world.send(peer.sync(), 5), peer.member_id.clone()));
            }
            9..11 => drop(peers[at].0.heartbeat(&mut world)),
            11 => {
                let peer = &peers[at].0;
                world.send(peer.commit_request("orders", pick(4) as i32, pick(100) as i64), 9);
            }
            12 => drop(world.send(commit(["g", "h", "i"][pick(3)], "payments", pick(4) as i32, 1), 9)),
            13 if pick(3) == 0 => drop(world.send(peers[at].0.leave_request(), 5)),
            14 if pick(4) == 0 => {
                let names = ["g", "h", "i"].map(str::to_owned).to_vec();
                world.send(DeleteGroupsRequest { groups_names: names }, 2);
            }
            15 if pick(4) == 0 => {
                world.groups.topic_deleted("payments");
                world.drain();
            }
            16 => world.pass([1, 20, 60, 3_000, 11_000, 61_000][pick(6)]),
            17 if with_restarts && pick(10) == 0 => {
                world.restart();
                generations.clear();
                leaders.clear();
            }
            18 if pick(6) == 0 => peers[at].0.member_id.clear(),
            _ => {}
        }
        // Some of the writes end, each group's in order or not.
        while !world.unwritten.is_empty() && pick(3) > 0 {
            let end = pick(world.unwritten.len().min(2));
            let fails = with_failures && pick(8) == 0;
            let result = if fails { Err(ErrorCode::NOT_ENOUGH_REPLICAS) } else { Ok(()) };
            if !fails && end != 0 && with_restarts {
                continue; // A log is written from its start.
            }
            world.end_write_at(end, result);
            world.drain();
        }
        for (peer, join, sync) in &mut peers {
            if let Some(answer) = join.and_then(|id| world.answers.remove(&id)) {
                *join = None;
                let answer = JoinGroupResponse::try_from(answer).unwrap();
                match answer.error_code {
                    ErrorCode::NONE => {
                        if peer.version == 9 {
                            let leader = leaders.entry((peer.group.clone(), answer.generation_id));
                            // A static leader that came back has another id in the same generation.
                            let known = leader.or_insert_with(|| answer.leader.clone());
                            let is_static = answer.leader.starts_with("a-") || answer.leader.starts_with("b-");
                            assert!(*known == answer.leader || is_static, "{answer:?}");
                        }
                        peer.joined(answer);
                    }
                    ErrorCode::MEMBER_ID_REQUIRED => peer.member_id = answer.member_id,
                    ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID => peer.member_id.clear(),
                    _ => {}
                }
                peer.assignment.clear();
            }
            if let Some((answer, member_id)) =
                sync.as_ref().and_then(|(id, member_id)| Some((world.answers.remove(id)?, member_id.clone())))
            {
                *sync = None;
                let answer = SyncGroupResponse::try_from(answer).unwrap();
                if answer.error_code != ErrorCode::NONE {
                    peer.generation = -1;
                } else if !answer.assignment.is_empty() {
                    peer.assignment = answer.assignment.clone();
                    assigned += 1;
                    // A static member gets what it had under its old id.
                    assert!(answer.assignment.starts_with(member_id.as_bytes()) || peer.instance.is_some());
                }
            }
        }
        for name in ["g", "h", "i"] {
            let generation = world.groups.groups.get(name).map(|group| group.generation);
            match generation {
                Some(generation) => {
                    let before = generations.insert(name.to_owned(), generation).unwrap_or(0);
                    assert!(before <= generation);
                }
                None => {
                    generations.remove(name);
                    leaders.retain(|(group, _), _| group != name);
                }
            }
        }
        if !with_failures && world.unwritten.is_empty() {
            let (now, then) = (remembered(&world.groups), remembered(&world.restarted()));
            // Groups between two generations are remembered as they were before.
            assert!(now.iter().all(|group| then.contains(group)), "{now:#?} {then:#?}");
        }
    }
    world.write_all();
    world.pass(30 * 60_000);
    assert!(world.requests.is_empty(), "{:?}", world.requests);
    assert!(world.groups.groups.values().all(|group| group.state == State::Empty));
    assert!(world.groups.groups.values().all(|group| group.writes.is_empty()));
    assigned
}
