//! What a group is: its members, the protocols that they share, its committed offsets, and what is being written of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::Timestamp;
use crate::broker::RequestId;
use crate::protocol::messages::consumer_protocol::ConsumerProtocolSubscription;
use crate::protocol::{ErrorCode, Message};

use super::PersistId;
use super::offsets::Offsets;

/// The protocol type of consumers, the only one whose metadata the coordinator reads (for the topics subscribed to).
pub(super) const CONSUMER: &str = "consumer";

/// Where a group stands. (Kafka: `ClassicGroupState`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No members; perhaps committed offsets.
    Empty,
    /// Waits for its members to join the next generation.
    PreparingRebalance,
    /// The generation is there; waits for its leader's assignment, and for that to be written.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
    /// Its deletion is being written.
    Dead,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A request that is answered later, and the version to answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) request: RequestId,
    pub(super) version: i16,
}

/// What a member says of itself each time it joins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims {
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    /// Name and metadata, in the member's order of preference; no name twice.
    pub(super) protocols: Vec<(String, Bytes)>,
}

impl Claims {
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<Arc<str>>,
    pub(super) claims: Claims,
    pub(super) assignment: Bytes,
    /// Has not been told its member id by an answer yet: it cannot send heartbeats.
    pub(super) is_new: bool,
    /// The JoinGroup request that waits for the next generation.
    pub(super) join: Option<Waiter>,
    /// The SyncGroup request that waits for the assignment.
    pub(super) sync: Option<Waiter>,
    /// When its session runs out; every member always has one.
    pub(super) session: Option<Timestamp>,
}

/// The wait before an empty group's first generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// How much longer it may be extended, in milliseconds.
    pub(super) remaining_ms: i64,
    /// Somebody has come since it was last extended.
    pub(super) grew: bool,
}

/// Records that were handed out to be written, and what happens once they are.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) id: PersistId,
    pub(super) purpose: Purpose,
    /// The result, if it came before that of an earlier write.
    pub(super) result: Option<Result<(), ErrorCode>>,
}

#[derive(Debug)]
pub(super) enum Purpose {
    Commit(super::offsets::Commit),
    /// OffsetDelete.
    Forget(super::offsets::Forget),
    /// Offsets that were dropped from memory already (expired, or their topic was deleted).
    Forgotten,
    /// The group with its members' assignments, after which it is stable.
    Assignment {
        generation: i32,
        assignments: BTreeMap<Arc<str>, Bytes>,
    },
    /// The group with a static member under its new member id.
    Replacement(Box<Replacement>),
    /// The group without members.
    Emptied,
    /// The group's end; for a DeleteGroups request, which one, and the place in its answer.
    Delete(Option<(RequestId, usize)>),
}

/// What is needed to answer a static member that came back, and to take it back if that could not be written.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) waiter: Waiter,
    pub(super) instance: Arc<str>,
    pub(super) old_id: Arc<str>,
    pub(super) new_id: Arc<str>,
    pub(super) old_claims: Claims,
    pub(super) old_leader: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) state: State,
    /// When it came into its state; -1 if that is not known (records written before Kafka 2.1).
    pub(super) state_since: Timestamp,
    pub(super) generation: i32,
    /// None until somebody has joined: offsets alone need none.
    pub(super) protocol_type: Option<String>,
    /// The generation's protocol.
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// The member id of each group instance id.
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// How many members know each protocol.
    support: BTreeMap<String, usize>,
    /// How many members wait for the next generation.
    pub(super) joining: usize,
    /// Member ids that were given out and not joined with yet, with the time by which they must.
    pub(super) pending: BTreeMap<Arc<str>, Option<Timestamp>>,
    /// Members of the generation that have not asked for their assignment yet.
    pub(super) pending_sync: BTreeSet<Arc<str>>,
    pub(super) initial_delay: Option<InitialDelay>,
    /// The topics that the generation's members subscribe to; none if their metadata could not be read.
    pub(super) subscribed: Option<BTreeSet<String>>,
    pub(super) offsets: Offsets,
    /// In the order in which they were handed out, which is the order in which they take effect.
    pub(super) writes: VecDeque<Write>,
    pub(super) join_deadline: Option<Timestamp>,
    pub(super) sync_deadline: Option<Timestamp>,
    pub(super) retention_check: Option<Timestamp>,
}

impl Group {
    pub(super) fn new(name: Arc<str>, now: Timestamp) -> Self {
        Self {
            name,
            state: State::Empty,
            state_since: now,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            support: BTreeMap::new(),
            joining: 0,
            pending: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            initial_delay: None,
            subscribed: None,
            offsets: Offsets::default(),
            writes: VecDeque::new(),
            join_deadline: None,
            sync_deadline: None,
            retention_check: None,
        }
    }

    pub(super) fn enter(&mut self, state: State, now: Timestamp) {
        log::debug!("group changes state group={} from={} to={}", self.name, self.state.name(), state.name());
        self.state = state;
        self.state_since = now;
    }

    pub(super) fn insert(&mut self, id: Arc<str>, member: Member) {
        self.count_protocols(&member.claims.protocols, 1);
        self.joining += usize::from(member.join.is_some());
        if let Some(instance) = &member.instance {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        self.leader.get_or_insert_with(|| Arc::clone(&id));
        self.members.insert(id, member);
    }

    /// Takes a member out; its waiting requests and its session are the caller's.
    pub(super) fn take(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.count_protocols(&member.claims.protocols, -1);
        self.joining -= usize::from(member.join.is_some());
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        self.pending_sync.remove(id);
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Replaces what a member said of itself when it joined.
    pub(super) fn set_claims(&mut self, id: &str, claims: Claims) -> Option<Claims> {
        let member = self.members.get_mut(id)?;
        let old = std::mem::replace(&mut member.claims, claims.clone());
        self.count_protocols(&old.protocols, -1);
        self.count_protocols(&claims.protocols, 1);
        Some(old)
    }

    /// Makes a member wait for the next generation, or no longer; returns the request that waited until now.
    pub(super) fn set_join(&mut self, id: &str, waiter: Option<Waiter>) -> Option<Waiter> {
        let member = self.members.get_mut(id)?;
        let old = std::mem::replace(&mut member.join, waiter);
        self.joining = self.joining + usize::from(waiter.is_some()) - usize::from(old.is_some());
        old
    }

    fn count_protocols(&mut self, protocols: &[(String, Bytes)], change: isize) {
        for (name, _) in protocols {
            let count = self.support.entry(name.clone()).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                self.support.remove(name);
            }
        }
    }

    /// Whether a member with these protocols can be in the group: it shares one with all who are there.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(|(name, _)| self.is_shared(name))
    }

    fn is_shared(&self, protocol: &str) -> bool {
        self.support.get(protocol) == Some(&self.members.len())
    }

    /// The protocol that most members prefer among those that all of them know; of equals, the first by name.
    pub(super) fn elect_protocol(&self) -> Option<String> {
        let mut votes = BTreeMap::<&str, usize>::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.claims.protocols.iter().find(|(name, _)| self.is_shared(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, votes)| *votes).map(|(name, _)| name.to_owned())
    }

    /// Sees to it that the leader is one who waits for the next generation; false if nobody does.
    pub(super) fn elect_leader(&mut self) -> bool {
        if self.leader.as_ref().and_then(|leader| self.members.get(leader)).is_some_and(|leader| leader.join.is_some())
        {
            return true;
        }
        let joining = self.members.iter().find(|(_, member)| member.join.is_some());
        let Some(leader) = joining.map(|(id, _)| Arc::clone(id)) else { return false };
        self.leader = Some(leader);
        true
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// How long its members may take to join again: as long as the most patient of them allows.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        let timeouts = self.members.values().map(|member| i64::from(member.claims.rebalance_timeout_ms));
        timeouts.max().unwrap_or(0).max(1)
    }

    /// The topics that the members subscribe to by the generation's protocol; none if one of them cannot be read.
    pub(super) fn subscriptions(&self) -> Option<BTreeSet<String>> {
        if !self.is_consumer_group() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for (id, member) in &self.members {
            match subscribed_topics(member.claims.metadata(protocol)) {
                Some(more) => topics.extend(more),
                None => {
                    log::warn!("subscription cannot be read group={} member={id} protocol={protocol}", self.name);
                    return None;
                }
            }
        }
        Some(topics)
    }

    /// Whether nothing would be lost if the group were forgotten: it was never written, and nobody waits for it.
    pub(super) fn is_blank(&self) -> bool {
        self.state == State::Empty
            && self.generation == 0
            && self.pending.is_empty()
            && self.offsets.is_empty()
            && self.writes.is_empty()
    }
}

/// The topics in a consumer's metadata; none if it is not a subscription.
pub(super) fn subscribed_topics(metadata: Bytes) -> Option<BTreeSet<String>> {
    let subscription = ConsumerProtocolSubscription::from_versioned_bytes(metadata).ok()?;
    Some(subscription.topics.into_iter().collect())
}
