//! Who is in a group: joining, leaving, falling silent, and the rebalances that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::Timestamp;
use crate::broker::RequestId;
use crate::protocol::messages::describe_groups::{DescribedGroup, DescribedGroupMember};
use crate::protocol::messages::group_metadata::{GroupMetadataValue, MemberMetadata};
use crate::protocol::messages::join_group::JoinGroupResponseMember;
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use crate::protocol::{ErrorCode, ProtocolError};

use super::records::{self, Record};
use super::state::{Claims, Group, InitialDelay, Member, Purpose, Replacement, State, Waiter, subscribed_topics};
use super::{Alarm, ClientInfo, Outbox};

/// How long a new member may wait for its first generation. It cannot send heartbeats until it knows its member id, and
/// one that has gone away and asks again would leave a dead member behind each time.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60_000;

impl Group {
    pub(super) fn join(
        &mut self,
        request: JoinGroupRequest,
        client: &ClientInfo,
        waiter: Waiter,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        let claims = Claims::new(&request, client, waiter.version);
        let JoinGroupRequest { member_id, group_instance_id: instance, protocol_type, .. } = request;
        let (id, instance) = (member_id.as_str(), instance.as_deref());
        let error = if self.state == State::Dead {
            Some(ErrorCode::COORDINATOR_NOT_AVAILABLE)
        } else if !self.has_room_for(id, out) {
            self.remove(id, out, now);
            Some(ErrorCode::GROUP_MAX_SIZE_REACHED)
        } else if !self.supports(&protocol_type, &claims.protocols) {
            Some(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)
        } else {
            let known = if id.is_empty() {
                self.join_as_new(&protocol_type, claims, instance, client, waiter, out, now)
            } else {
                self.join_again(id, &protocol_type, claims, instance, waiter, out, now)
            };
            known.err()
        };
        if let Some(error) = error {
            let id = if error == ErrorCode::GROUP_MAX_SIZE_REACHED { "" } else { id };
            out.respond(waiter.request, refused_join(error, id, waiter.version));
        }
        log::debug!("join group={} member={id} reason={:?} error={error:?}", self.name, request.reason);
        self.complete_join_if_all_are_there(out, now);
    }

    /// Whether the group may have one more member, or has this one already.
    fn has_room_for(&self, id: &str, out: &Outbox) -> bool {
        let max = out.config.group_max_size;
        match self.state {
            State::Dead => true,
            // Those who join again first may stay, should the group be larger than it may be.
            State::PreparingRebalance => match self.members.get(id) {
                Some(member) => member.join.is_some() || self.joining < max,
                None if self.pending.contains_key(id) => self.joining < max,
                None => self.joining + self.pending.len() < max,
            },
            _ if self.members.contains_key(id) => true,
            _ if self.pending.contains_key(id) => self.members.len() < max,
            _ => self.members.len() + self.pending.len() < max,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn join_as_new(
        &mut self,
        protocol_type: &str,
        claims: Claims,
        instance: Option<&str>,
        client: &ClientInfo,
        waiter: Waiter,
        out: &mut Outbox,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let is_taken = |id: &str| self.members.contains_key(id) || self.pending.contains_key(id);
        let id = out.member_id(instance.unwrap_or(&client.client_id), is_taken);
        match instance {
            Some(instance) => match self.instances.get_key_value(instance) {
                Some((instance, old)) => {
                    let (instance, old) = (Arc::clone(instance), Arc::clone(old));
                    self.replace(instance, old, id, claims, waiter, out, now);
                }
                None => self.add(id, Some(instance.into()), protocol_type, claims, waiter, out, now),
            },
            // The member has to say its id first, so that one whose answer is lost does not leave a dead member behind
            // each time that it tries (KIP-394).
            None if waiter.version >= 4 => {
                let mut deadline = None;
                let at = now.saturating_add(claims.session_timeout_ms.into());
                out.alarms.set(&mut deadline, &self.name, Alarm::Pending(Arc::clone(&id)), Some(at));
                out.respond(waiter.request, refused_join(ErrorCode::MEMBER_ID_REQUIRED, &id, waiter.version));
                self.pending.insert(id, deadline);
                self.note_growth();
            }
            None => self.add(id, None, protocol_type, claims, waiter, out, now),
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn join_again(
        &mut self,
        id: &str,
        protocol_type: &str,
        claims: Claims,
        instance: Option<&str>,
        waiter: Waiter,
        out: &mut Outbox,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        if instance.is_none()
            && let Some(id) = self.take_pending(id, out)
        {
            self.add(id, None, protocol_type, claims, waiter, out, now);
            return Ok(());
        }
        self.check_member(id, instance)?;
        let is_unchanged = self.members.get(id).is_some_and(|member| member.claims.protocols == claims.protocols);
        match self.state {
            // It may not have got the answer to its first request.
            State::CompletingRebalance if is_unchanged => self.answer_join(id, waiter, out),
            // A leader that joins again wants a rebalance: something that it watches has changed.
            State::Stable if is_unchanged && !self.is_leader(id) => self.answer_join(id, waiter, out),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.set_claims(id, claims);
                self.await_join(id, waiter, out);
                self.prepare_rebalance(out, now);
            }
            State::Empty | State::Dead => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        id: Arc<str>,
        instance: Option<Arc<str>>,
        protocol_type: &str,
        claims: Claims,
        waiter: Waiter,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        let mut session = None;
        let at = now.saturating_add(NEW_MEMBER_JOIN_TIMEOUT_MS);
        out.alarms.set(&mut session, &self.name, Alarm::Session(Arc::clone(&id)), Some(at));
        let (assignment, join) = (Bytes::new(), Some(waiter));
        self.insert(id, Member { instance, claims, assignment, is_new: true, join, sync: None, session });
        self.note_growth();
        self.prepare_rebalance(out, now);
    }

    /// A static member is back under a new member id: it takes its own place (KIP-345).
    #[allow(clippy::too_many_arguments)]
    fn replace(
        &mut self,
        instance: Arc<str>,
        old_id: Arc<str>,
        new_id: Arc<str>,
        claims: Claims,
        waiter: Waiter,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        let old_leader = self.leader.clone();
        // Whoever still waits under the old id is a second process with the same instance id.
        self.fence(&old_id, out);
        self.rename(&instance, &old_id, &new_id, out, now);
        let Some(old_claims) = self.set_claims(&new_id, claims) else { return };
        self.set_join(&new_id, Some(waiter));
        match self.state {
            State::Stable => {
                if self.elect_protocol() != self.protocol || self.changed_topics(&new_id, &old_claims) {
                    return self.prepare_rebalance(out, now);
                }
                // Everybody keeps what they have, and nobody has to know. Kafka looks at the protocol only, and lets a
                // member that comes back with other topics wait for the next rebalance.
                log::info!("static member is back group={} instance={instance} member={new_id}", self.name);
                let record = self.record(|_, member| member.assignment.clone());
                let replacement = Replacement { waiter, instance, old_id, new_id, old_claims, old_leader };
                self.persist(record, Purpose::Replacement(Box::new(replacement)), out);
            }
            // The leader may be assigning to the old id just now.
            State::CompletingRebalance => self.prepare_rebalance(out, now),
            State::PreparingRebalance | State::Empty | State::Dead => {}
        }
    }

    /// Whether a consumer subscribes to other topics than it did. One that cannot be read is left to its own.
    fn changed_topics(&self, id: &str, old: &Claims) -> bool {
        let (Some(protocol), Some(member)) = (&self.protocol, self.members.get(id)) else { return false };
        self.is_consumer_group()
            && subscribed_topics(member.claims.metadata(protocol)) != subscribed_topics(old.metadata(protocol))
    }

    /// A static member's new id was written, or not.
    pub(super) fn replaced(
        &mut self,
        replacement: Replacement,
        result: Result<(), ErrorCode>,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        let Replacement { waiter, instance, old_id, new_id, old_claims, old_leader } = replacement;
        let waits = self.members.get(&new_id).is_some_and(|member| member.join == Some(waiter));
        if !waits || self.state != State::Stable {
            // It was answered meanwhile, or the rebalance that has begun will.
            return;
        }
        self.set_join(&new_id, None);
        match result {
            Ok(()) => {
                let is_leader = self.is_leader(&new_id);
                let mut answer = self.generation_answer(&new_id);
                if waiter.version >= 9 {
                    answer.skip_assignment = is_leader;
                    answer.members = if is_leader { self.generation_members() } else { Vec::new() };
                } else if is_leader {
                    // Older leaders would assign anew, which nobody would hear of. They are told the old leader's id, so
                    // that they do not know themselves as the leader.
                    answer.leader = old_leader.as_deref().unwrap_or_default().to_owned();
                    answer.members.clear();
                }
                out.respond(waiter.request, answer);
                if let Some(member) = self.members.get_mut(&new_id) {
                    member.is_new = false;
                }
                self.touch(&new_id, out, now);
            }
            Err(error) => {
                self.set_claims(&new_id, old_claims);
                self.rename(&instance, &new_id, &old_id, out, now);
                let mut answer = refused_join(group_error(error), "", waiter.version);
                answer.generation_id = self.generation;
                answer.leader = old_leader.as_deref().unwrap_or_default().to_owned();
                out.respond(waiter.request, answer);
            }
        }
    }

    fn fence(&mut self, id: &str, out: &mut Outbox) {
        if let Some(waiter) = self.set_join(id, None) {
            out.respond(waiter.request, refused_join(ErrorCode::FENCED_INSTANCE_ID, id, waiter.version));
        }
        if let Some(waiter) = self.members.get_mut(id).and_then(|member| member.sync.take()) {
            out.respond(waiter.request, refused_sync(ErrorCode::FENCED_INSTANCE_ID));
        }
    }

    /// Moves a static member, with all that it has, to another member id.
    fn rename(&mut self, instance: &Arc<str>, from: &str, to: &Arc<str>, out: &mut Outbox, now: Timestamp) {
        let Some((from, mut member)) = self.members.remove_entry(from) else { return };
        out.alarms.set(&mut member.session, &self.name, Alarm::Session(Arc::clone(&from)), None);
        self.members.insert(Arc::clone(to), member);
        self.instances.insert(Arc::clone(instance), Arc::clone(to));
        if self.is_leader(&from) {
            self.leader = Some(Arc::clone(to));
        }
        if self.pending_sync.remove(&from) {
            self.pending_sync.insert(Arc::clone(to));
        }
        self.touch(to, out, now);
    }

    /// Makes a member wait for the next generation; what it asked before is answered.
    fn await_join(&mut self, id: &str, waiter: Waiter, out: &mut Outbox) {
        if let Some(before) = self.set_join(id, Some(waiter)) {
            let error = ErrorCode::REBALANCE_IN_PROGRESS;
            out.respond(before.request, refused_join(error, id, before.version));
        }
    }

    /// Starts a rebalance, unless one has begun: everybody must join again.
    fn prepare_rebalance(&mut self, out: &mut Outbox, now: Timestamp) {
        if self.state == State::PreparingRebalance {
            return;
        }
        self.cancel_syncs(ErrorCode::REBALANCE_IN_PROGRESS, out);
        self.stop_waiting_for_syncs(out);
        let timeout_ms = self.rebalance_timeout_ms();
        let delay_ms = i64::from(out.config.group_initial_rebalance_delay_ms);
        let mut wait_ms = timeout_ms;
        if self.state == State::Empty && delay_ms > 0 {
            wait_ms = delay_ms;
            self.initial_delay = Some(InitialDelay { remaining_ms: (timeout_ms - delay_ms).max(0), grew: false });
        }
        log::info!(
            "group prepares to rebalance group={} generation={} members={}",
            self.name,
            self.generation,
            self.members.len()
        );
        self.enter(State::PreparingRebalance, now);
        let at = now.saturating_add(wait_ms);
        out.alarms.set(&mut self.join_deadline, &self.name, Alarm::Join, Some(at));
        self.complete_join_if_all_are_there(out, now);
    }

    /// Somebody has come: those who start together may need a moment more.
    fn note_growth(&mut self) {
        if let Some(delay) = &mut self.initial_delay {
            delay.grew = true;
        }
    }

    fn complete_join_if_all_are_there(&mut self, out: &mut Outbox, now: Timestamp) {
        if self.state == State::PreparingRebalance
            && self.initial_delay.is_none()
            && self.joining == self.members.len()
            && self.pending.is_empty()
        {
            self.complete_join(out, now);
        }
    }

    /// The time to join is over.
    fn join_is_due(&mut self, out: &mut Outbox, now: Timestamp) {
        if let Some(delay) = &mut self.initial_delay
            && delay.grew
            && delay.remaining_ms > 0
        {
            let more_ms = delay.remaining_ms.min(out.config.group_initial_rebalance_delay_ms.into());
            *delay = InitialDelay { remaining_ms: delay.remaining_ms - more_ms, grew: false };
            let at = now.saturating_add(more_ms);
            return out.alarms.set(&mut self.join_deadline, &self.name, Alarm::Join, Some(at));
        }
        self.complete_join(out, now);
    }

    /// The next generation is those who have joined, and the static members, who may come back until their sessions end.
    fn complete_join(&mut self, out: &mut Outbox, now: Timestamp) {
        let is_late = |member: &Member| member.join.is_none() && member.instance.is_none();
        let late = self.members.iter().filter(|(_, member)| is_late(member)).map(|(id, _)| Arc::clone(id));
        for id in late.collect::<Vec<_>>() {
            log::info!("member did not join in time group={} member={id}", self.name);
            self.discard(&id, out);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only static members, none of which has come back yet: wait until they do, or their sessions end.
            let at = now.saturating_add(self.rebalance_timeout_ms());
            return out.alarms.set(&mut self.join_deadline, &self.name, Alarm::Join, Some(at));
        }
        out.alarms.set(&mut self.join_deadline, &self.name, Alarm::Join, None);
        self.initial_delay = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.elect_protocol();
        self.subscribed = self.subscriptions();
        log::info!(
            "group has a generation group={} generation={} members={} protocol={:?}",
            self.name,
            self.generation,
            self.members.len(),
            self.protocol
        );
        if self.members.is_empty() {
            self.leader = None;
            self.enter(State::Empty, now);
            self.persist(self.record(|_, _| Bytes::new()), Purpose::Emptied, out);
            return self.schedule_retention(out, now);
        }
        self.enter(State::CompletingRebalance, now);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let Some(waiter) = self.set_join(&id, None) else { continue };
            self.answer_join(&id, waiter, out);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            // One that is away is judged by its session alone.
            self.pending_sync.insert(Arc::clone(&id));
            self.touch(&id, out, now);
        }
        let at = now.saturating_add(self.rebalance_timeout_ms());
        out.alarms.set(&mut self.sync_deadline, &self.name, Alarm::Sync, Some(at));
    }

    fn answer_join(&self, id: &str, waiter: Waiter, out: &mut Outbox) {
        out.respond(waiter.request, self.generation_answer(id));
    }

    fn generation_answer(&self, id: &str) -> JoinGroupResponse {
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: Some(self.protocol.clone().unwrap_or_default()),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            member_id: id.to_owned(),
            members: if self.is_leader(id) { self.generation_members() } else { Vec::new() },
            ..JoinGroupResponse::default()
        }
    }

    /// What the leader needs to know to assign.
    fn generation_members(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&Arc<str>, &Member)| JoinGroupResponseMember {
            member_id: id.to_string(),
            group_instance_id: member.instance.as_deref().map(str::to_owned),
            metadata: member.claims.metadata(protocol),
        };
        self.members.iter().map(member).collect()
    }

    pub(super) fn sync(&mut self, request: SyncGroupRequest, waiter: Waiter, out: &mut Outbox, now: Timestamp) {
        if let Err(error) = self.check_sync(&request, waiter) {
            return out.respond(waiter.request, refused_sync(error));
        }
        let Some((id, member)) = self.members.get_key_value(request.member_id.as_str()) else { return };
        let id = Arc::clone(id);
        if self.state == State::Stable {
            out.respond(waiter.request, self.assignment_answer(&member.assignment));
            self.touch(&id, out, now);
        } else if let Some(member) = self.members.get_mut(&id)
            && let Some(before) = member.sync.replace(waiter)
        {
            out.respond(before.request, refused_sync(ErrorCode::REBALANCE_IN_PROGRESS));
        }
        self.pending_sync.remove(&id);
        if self.pending_sync.is_empty() {
            self.stop_waiting_for_syncs(out);
        }
        if self.state == State::CompletingRebalance && self.is_leader(&id) && !self.assignment_is_being_written() {
            let given = request.assignments.into_iter().map(|given| (given.member_id, given.assignment));
            let given = given.collect::<BTreeMap<_, _>>();
            // Who was not thought of gets nothing.
            let assignment = |id: &Arc<str>| (Arc::clone(id), given.get(&**id).cloned().unwrap_or_default());
            let assignments = self.members.keys().map(assignment).collect::<BTreeMap<_, _>>();
            let record = self.record(|id, _| assignments.get(id).cloned().unwrap_or_default());
            self.persist(record, Purpose::Assignment { generation: self.generation, assignments }, out);
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest, waiter: Waiter) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |said: &Option<String>, is: &Option<String>| match said {
            Some(said) => is.as_ref() != Some(said),
            None => waiter.version >= 5,
        };
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol_name, &self.protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            State::CompletingRebalance | State::Stable => Ok(()),
            State::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::Empty | State::Dead => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    fn assignment_is_being_written(&self) -> bool {
        self.writes.iter().any(|write| match write.purpose {
            Purpose::Assignment { generation, .. } => generation == self.generation,
            _ => false,
        })
    }

    /// The leader's assignment was written, or not.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        assignments: BTreeMap<Arc<str>, Bytes>,
        result: Result<(), ErrorCode>,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        if self.state != State::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(error) = result {
            self.cancel_syncs(group_error(error), out);
            return self.prepare_rebalance(out, now);
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.enter(State::Stable, now);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let (waiter, assignment) = (member.sync.take(), member.assignment.clone());
            if let Some(waiter) = waiter {
                out.respond(waiter.request, self.assignment_answer(&assignment));
                self.touch(&id, out, now);
            }
        }
        self.schedule_retention(out, now);
    }

    fn assignment_answer(&self, assignment: &Bytes) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: assignment.clone(),
            ..SyncGroupResponse::default()
        }
    }

    fn cancel_syncs(&mut self, error: ErrorCode, out: &mut Outbox) {
        for member in self.members.values_mut() {
            if let Some(waiter) = member.sync.take() {
                out.respond(waiter.request, refused_sync(error));
            }
        }
    }

    fn stop_waiting_for_syncs(&mut self, out: &mut Outbox) {
        self.pending_sync.clear();
        out.alarms.set(&mut self.sync_deadline, &self.name, Alarm::Sync, None);
    }

    /// The time to ask for the assignment is over: who has not, is not there.
    fn sync_is_due(&mut self, out: &mut Outbox, now: Timestamp) {
        let silent = std::mem::take(&mut self.pending_sync);
        for id in &silent {
            log::info!("member did not ask for its assignment group={} member={id}", self.name);
            self.discard(id, out);
        }
        if !silent.is_empty() {
            self.prepare_rebalance(out, now);
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        out: &mut Outbox,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        self.touch(&request.member_id, out, now);
        match self.state {
            State::CompletingRebalance | State::Stable => Ok(()),
            State::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::Empty | State::Dead => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    pub(super) fn leave(&mut self, member: &MemberIdentity, out: &mut Outbox, now: Timestamp) -> Result<(), ErrorCode> {
        let MemberIdentity { member_id, group_instance_id: instance, reason } = member;
        if !member_id.is_empty() {
            if self.take_pending(member_id, out).is_some() {
                self.complete_join_if_all_are_there(out, now);
                return Ok(());
            }
            self.check_member(member_id, instance.as_deref())?;
        }
        let id = match instance {
            // An administrator takes a static member out, and knows it by its instance id.
            Some(instance) if member_id.is_empty() => self.instances.get(instance.as_str()).cloned(),
            _ => self.members.get_key_value(member_id.as_str()).map(|(id, _)| Arc::clone(id)),
        };
        let id = id.ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        log::info!("member leaves group={} member={id} reason={reason:?}", self.name);
        self.remove(&id, out, now);
        Ok(())
    }

    /// Takes a member out for good; the others rebalance.
    fn remove(&mut self, id: &str, out: &mut Outbox, now: Timestamp) {
        self.take_pending(id, out);
        if !self.discard(id, out) {
            return;
        }
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(out, now),
            State::PreparingRebalance => self.complete_join_if_all_are_there(out, now),
            State::Empty | State::Dead => {}
        }
    }

    /// Takes a member out, answers what it waits for, and stops waiting for it.
    fn discard(&mut self, id: &str, out: &mut Outbox) -> bool {
        let Some((id, _)) = self.members.get_key_value(id) else { return false };
        let id = Arc::clone(id);
        let Some(mut member) = self.take(&id) else { return false };
        out.alarms.set(&mut member.session, &self.name, Alarm::Session(id), None);
        if let Some(waiter) = member.join {
            out.respond(waiter.request, refused_join(ErrorCode::UNKNOWN_MEMBER_ID, "", waiter.version));
        }
        if let Some(waiter) = member.sync {
            out.respond(waiter.request, refused_sync(ErrorCode::UNKNOWN_MEMBER_ID));
        }
        if self.pending_sync.is_empty() {
            self.stop_waiting_for_syncs(out);
        }
        true
    }

    fn take_pending(&mut self, id: &str, out: &mut Outbox) -> Option<Arc<str>> {
        let (id, mut deadline) = self.pending.remove_entry(id)?;
        out.alarms.set(&mut deadline, &self.name, Alarm::Pending(Arc::clone(&id)), None);
        Some(id)
    }

    /// Whether the group has the member, under the instance id that it says.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        match instance {
            Some(instance) => match self.instances.get(instance) {
                Some(current) if **current == *id => Ok(()),
                Some(_) => Err(ErrorCode::FENCED_INSTANCE_ID),
                None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            },
            None if self.members.contains_key(id) => Ok(()),
            None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
    }

    /// A member was heard of: its session starts anew.
    pub(super) fn touch(&mut self, id: &str, out: &mut Outbox, now: Timestamp) {
        let Some((id, _)) = self.members.get_key_value(id) else { return };
        let id = Arc::clone(id);
        if let Some(member) = self.members.get_mut(&id) {
            let timeout_ms =
                if member.is_new { NEW_MEMBER_JOIN_TIMEOUT_MS } else { member.claims.session_timeout_ms.into() };
            let at = now.saturating_add(timeout_ms.max(1));
            out.alarms.set(&mut member.session, &self.name, Alarm::Session(id), Some(at));
        }
    }

    /// An alarm has gone off.
    pub(super) fn ring(&mut self, alarm: Alarm, absent: bool, out: &mut Outbox, now: Timestamp) {
        match alarm {
            Alarm::Join => {
                self.join_deadline = None;
                self.join_is_due(out, now);
            }
            Alarm::Sync => {
                self.sync_deadline = None;
                self.sync_is_due(out, now);
            }
            Alarm::Session(id) => {
                let Some(member) = self.members.get_mut(&id) else { return };
                member.session = None;
                // One that waits for an answer of ours cannot say more; a new one might be gone all the same.
                let waits = !member.is_new && (member.join.is_some() || member.sync.is_some());
                if waits || absent {
                    return self.touch(&id, out, now);
                }
                log::info!("member was not heard of in time group={} member={id}", self.name);
                self.remove(&id, out, now);
            }
            Alarm::Pending(id) => {
                self.pending.remove(&id);
                self.complete_join_if_all_are_there(out, now);
            }
            Alarm::Retention => {
                self.retention_check = None;
                self.check_retention(out, now);
            }
        }
    }

    /// Hands out the group's end: its last offsets, and itself. Until that is written, nobody can use it.
    pub(super) fn delete(
        &mut self,
        partitions: &[(String, i32)],
        asked_by: Option<(RequestId, usize)>,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        for id in self.pending.keys().cloned().collect::<Vec<_>>() {
            self.take_pending(&id, out);
        }
        out.alarms.set(&mut self.retention_check, &self.name, Alarm::Retention, None);
        let tombstones = self.tombstones(partitions).and_then(|mut tombstones| {
            tombstones.push((records::group_key(&self.name)?, None));
            Ok(tombstones)
        });
        // The time since which it is empty stays: should it not be written, its offsets expire when they would have.
        let since = self.state_since;
        self.enter(State::Dead, now);
        self.state_since = since;
        self.persist(tombstones, Purpose::Delete(asked_by), out);
    }

    /// The group's end was written, or not.
    pub(super) fn deleted(&mut self, result: Result<(), ErrorCode>, out: &mut Outbox, now: Timestamp) {
        if result.is_err() {
            self.state = State::Empty;
            self.schedule_retention(out, now);
        }
    }

    pub(super) fn describe(&self) -> DescribedGroup {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.as_deref().filter(|_| is_stable).unwrap_or_default();
        let member = |(id, member): (&Arc<str>, &Member)| DescribedGroupMember {
            member_id: id.to_string(),
            group_instance_id: member.instance.as_deref().map(str::to_owned),
            client_id: member.claims.client_id.clone(),
            client_host: member.claims.host.clone(),
            member_metadata: if is_stable { member.claims.metadata(protocol) } else { Bytes::new() },
            member_assignment: if is_stable { member.assignment.clone() } else { Bytes::new() },
        };
        DescribedGroup {
            group_state: self.state.name().to_owned(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol_data: protocol.to_owned(),
            members: self.members.iter().map(member).collect(),
            ..DescribedGroup::default()
        }
    }

    /// The group as a record, with these assignments.
    fn record(&self, assignment: impl Fn(&Arc<str>, &Member) -> Bytes) -> Result<Vec<Record>, ProtocolError> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&Arc<str>, &Member)| MemberMetadata {
            member_id: id.to_string(),
            group_instance_id: member.instance.as_deref().map(str::to_owned),
            client_id: member.claims.client_id.clone(),
            client_host: member.claims.host.clone(),
            rebalance_timeout: member.claims.rebalance_timeout_ms,
            session_timeout: member.claims.session_timeout_ms,
            subscription: member.claims.metadata(protocol),
            assignment: assignment(id, member),
        };
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.as_deref().map(str::to_owned),
            current_state_timestamp: self.state_since,
            members: self.members.iter().map(member).collect(),
        };
        Ok(vec![(records::group_key(&self.name)?, Some(records::group_value(&value)?))])
    }

    pub(super) fn from_record(name: Arc<str>, value: GroupMetadataValue) -> Self {
        let mut group = Self::new(name, value.current_state_timestamp);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        group.protocol = value.protocol;
        let protocol = group.protocol.clone().unwrap_or_default();
        for member in value.members {
            let id = Arc::<str>::from(member.member_id);
            group.take(&id);
            let claims = Claims {
                client_id: member.client_id,
                host: member.client_host,
                session_timeout_ms: member.session_timeout,
                // Records from before Kafka 0.10.1 have none.
                rebalance_timeout_ms: Some(member.rebalance_timeout)
                    .filter(|ms| *ms >= 0)
                    .unwrap_or(member.session_timeout),
                protocols: vec![(protocol.clone(), member.subscription)],
            };
            let instance = member.group_instance_id.map(Arc::from);
            let (assignment, is_new) = (member.assignment, false);
            group.insert(id, Member { instance, claims, assignment, is_new, join: None, sync: None, session: None });
        }
        let leader = value.leader.filter(|leader| group.members.contains_key(leader.as_str()));
        group.leader = leader.map(Arc::from).or(group.leader);
        group.state = if group.members.is_empty() { State::Empty } else { State::Stable };
        group.subscribed = group.subscriptions();
        group
    }

    /// The group was read back: its members must be heard of from now on, and its offsets expire.
    pub(super) fn wake(&mut self, out: &mut Outbox, now: Timestamp) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.touch(&id, out, now);
        }
        if self.members.len() > out.config.group_max_size {
            self.prepare_rebalance(out, now);
        }
        self.schedule_retention(out, now);
    }
}

impl Claims {
    fn new(request: &JoinGroupRequest, client: &ClientInfo, version: i16) -> Self {
        let mut names = BTreeSet::new();
        let protocols = request.protocols.iter().filter(|protocol| names.insert(protocol.name.as_str()));
        let has_rebalance_timeout = version >= 1 && request.rebalance_timeout_ms >= 0;
        Self {
            client_id: client.client_id.clone(),
            host: client.host.clone(),
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: if has_rebalance_timeout {
                request.rebalance_timeout_ms
            } else {
                request.session_timeout_ms
            },
            protocols: protocols.map(|protocol| (protocol.name.clone(), protocol.metadata.clone())).collect(),
        }
    }
}

pub(super) fn refused_join(error_code: ErrorCode, member_id: &str, version: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code,
        generation_id: -1,
        protocol_name: if version >= 7 { None } else { Some(String::new()) },
        member_id: member_id.to_owned(),
        ..JoinGroupResponse::default()
    }
}

pub(super) fn refused_sync(error_code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code, ..SyncGroupResponse::default() }
}

/// What a client is told when its group could not be written: the log's own errors would mislead it.
pub(super) fn group_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::KAFKA_STORAGE_ERROR => ErrorCode::NOT_COORDINATOR,
        ErrorCode::REQUEST_TIMED_OUT => ErrorCode::REBALANCE_IN_PROGRESS,
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE | ErrorCode::INVALID_FETCH_SIZE => {
            ErrorCode::UNKNOWN_SERVER_ERROR
        }
        other => other,
    }
}
