//! A partition as its leader has it: the log, what of it is synced, who follows, and how far everybody may read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::RequestId;
use crate::log::{Appended, Log, SyncPoint};
use crate::record::Batch;
use crate::{Result, Timestamp};

/// The place of a partition in the broker's table; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PartitionId(pub(crate) usize);

/// What the leader knows of one follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follower {
    /// The follower's synced end: the offset it asked for last.
    pub(crate) end: i64,
    /// When it was last at the leader's end.
    pub(crate) caught_up: Timestamp,
    /// The leader's end when it fetched last, and when: it was caught up then if it reaches that end later (KIP-16).
    fetched: (i64, Timestamp),
}

/// How many bytes of a copy may be written before a sync is begun that nobody waits for.
const COPIED_AT_ONCE: usize = 16 << 20;

/// One partition of which this broker is the leader.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) index: i32,
    pub(crate) log: Log,
    pub(crate) leader_epoch: i32,
    /// Whether the high watermark follows what is synced, or what is written (a device without durability, `durability=os`).
    waits_for_sync: bool,
    /// Everything below it survives a power cut.
    synced_end: i64,
    /// What the sync that is under way makes good: everything below this that was not cut off since.
    syncing: Option<i64>,
    /// Bytes of copies that came since the last sync was begun.
    unsynced: usize,
    failed: bool,
    high_watermark: i64,
    followers: BTreeMap<i32, Follower>,
    in_sync: BTreeSet<i32>,
    /// For a copy: how far its source lets readers go.
    limit: Option<i64>,
    /// Who waits for the synced end to reach an offset.
    sync_waits: BTreeSet<(i64, RequestId)>,
    /// Waiting for the high watermark to reach an offset: (offset, row in the broker's table of deferred answers).
    waits: BTreeSet<(i64, u64)>,
    /// How far this broker itself was when [`Self::poll_own_reached`] was asked last.
    own_told: i64,
    /// Fetches that wait for anything new here.
    fetches: BTreeSet<u64>,
}

impl Partition {
    /// A leader over `log`, of which everything below `synced_end` is known to be synced. The rest, which a process that was
    /// killed has left perhaps, is shown and acknowledged when it is.
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        log: Log,
        leader_epoch: i32,
        waits_for_sync: bool,
        synced_end: i64,
    ) -> Self {
        let synced_end = synced_end.clamp(log.start(), log.end());
        let high_watermark = if waits_for_sync { synced_end } else { log.end() };
        Self {
            topic,
            index,
            log,
            leader_epoch,
            waits_for_sync,
            synced_end,
            syncing: None,
            unsynced: 0,
            failed: false,
            high_watermark,
            followers: BTreeMap::new(),
            in_sync: BTreeSet::new(),
            limit: None,
            sync_waits: BTreeSet::new(),
            waits: BTreeSet::new(),
            own_told: synced_end,
            fetches: BTreeSet::new(),
        }
    }

    /// How far the leader itself is: what is synced, or what is written where nobody waits for a sync.
    fn own_end(&self) -> i64 {
        if self.waits_for_sync { self.synced_end } else { self.log.end() }
    }

    /// Appends checked batches as the leader; returns where they went.
    pub(crate) fn append(&mut self, batches: &[Batch], now: Timestamp) -> Result<Appended> {
        let appended = self.log.append(batches, self.leader_epoch, now)?;
        self.advance();
        Ok(appended)
    }

    /// Appends batches that already have their offsets.
    pub(crate) fn append_copy(&mut self, batches: &[Batch], now: Timestamp) -> Result<()> {
        self.log.append_copy(batches, now)?;
        self.unsynced += batches.iter().map(Batch::size).sum::<usize>();
        self.advance();
        Ok(())
    }

    /// The log was cut or emptied: nothing above its end counts any more.
    pub(crate) fn after_truncation(&mut self) {
        let end = self.log.end();
        // What comes in the place of what was cut is another's, and may be read when the source says so.
        self.limit = self.limit.map(|limit| limit.min(end));
        self.after_start_moved();
    }

    /// The log begins later than it did, or has nothing any more. How far its source lets readers go stays as it was told, beyond
    /// the end perhaps: it is told once.
    pub(crate) fn after_start_moved(&mut self) {
        let end = self.log.end();
        self.synced_end = self.synced_end.min(end);
        self.syncing = self.syncing.map(|syncing| syncing.min(end));
        if self.log.start() == end {
            self.synced_end = end;
        }
        self.high_watermark = self.high_watermark.clamp(self.log.start(), end);
        self.advance();
    }

    /// Moves the high watermark to the least synced end of the in-sync replicas; it never goes back.
    fn advance(&mut self) -> bool {
        let least = self
            .in_sync
            .iter()
            .filter_map(|node| self.followers.get(node))
            .map(|follower| follower.end)
            .fold(self.own_end().min(self.limit.unwrap_or(i64::MAX)), i64::min);
        let moved = least > self.high_watermark;
        self.high_watermark = self.high_watermark.max(least).max(self.log.start());
        moved
    }

    /// Where the records of leaders up to `epoch` end, and the last of these leaders' epochs that has any (KIP-101). `None` when
    /// it is not known here.
    ///
    /// A leader's own epoch begins where its log ends until it writes in it, so that all who led before it end there.
    pub(crate) fn epoch_end(&self, epoch: i32) -> Option<(i32, i64)> {
        let end = self.log.end();
        let latest = self.log.epochs().latest();
        if self.limit.is_none() && epoch <= self.leader_epoch && latest.is_none_or(|latest| latest < epoch) {
            let last = if epoch == self.leader_epoch { epoch } else { latest.unwrap_or(epoch) };
            return Some((last, end));
        }
        self.log.epochs().end_offset_for(epoch, end)
    }

    /// What must be synced next, if anything is and no sync is under way; [`Self::handle_synced`] is told of its success.
    pub(crate) fn poll_sync(&mut self) -> Option<SyncPoint> {
        if !self.waits_for_sync || (self.unsynced < COPIED_AT_ONCE && !self.is_sync_wanted()) {
            return None;
        }
        self.poll_flush()
    }

    /// Whether a sync shows readers more, or is waited for. Of a copy its source says how far it may be read: what lies beyond
    /// is synced in larger pieces.
    fn is_sync_wanted(&self) -> bool {
        self.limit.is_none_or(|limit| limit > self.synced_end) || !self.sync_waits.is_empty()
    }

    /// As [`Self::poll_sync`], also where nobody waits for it: so that a crash leaves little to be checked.
    pub(crate) fn poll_flush(&mut self) -> Option<SyncPoint> {
        if self.syncing.is_some() || self.synced_end >= self.log.end() {
            return None;
        }
        let point = self.log.sync_point();
        self.syncing = Some(point.end());
        self.unsynced = 0;
        Some(point)
    }

    /// The sync that was under way has succeeded.
    pub(crate) fn handle_synced(&mut self) {
        if let Some(end) = self.syncing.take() {
            self.note_synced(end);
        }
    }

    /// Everything below `end` is synced, as the log is now.
    pub(crate) fn note_synced(&mut self, end: i64) {
        self.synced_end = self.synced_end.max(end.min(self.log.end()));
        self.advance();
    }

    /// A sync has failed: what the device holds is unknown, so the log takes no more writes until it is opened anew.
    pub(crate) fn handle_sync_failed(&mut self) {
        // `syncing` stays set: a sync that failed must not be tried again, it could falsely succeed.
        self.failed = true;
    }

    /// Whether a sync has failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed
    }

    /// A follower fetched from `offset`: it has everything below. Returns whether the in-sync replicas changed.
    pub(crate) fn handle_follower_fetch(&mut self, node: i32, offset: i64, now: Timestamp) -> bool {
        let end = self.log.end();
        let follower =
            self.followers.entry(node).or_insert(Follower { end: -1, caught_up: 0, fetched: (i64::MAX, now) });
        follower.end = offset.min(end);
        if offset >= end {
            follower.caught_up = now;
        } else if offset >= follower.fetched.0 {
            follower.caught_up = follower.caught_up.max(follower.fetched.1);
        }
        follower.fetched = (end, now);
        // A follower joins when it has all that a reader may have seen (KIP-227's predecessor rule: end ≥ high watermark).
        let joins = offset >= self.high_watermark && self.in_sync.insert(node);
        self.advance();
        joins
    }

    /// Drops followers that have not been at the end for `lag_ms`. Returns those that left.
    pub(crate) fn shrink_in_sync(&mut self, now: Timestamp, lag_ms: i64) -> Vec<i32> {
        let end = self.log.end();
        let left: Vec<i32> = self
            .in_sync
            .iter()
            .copied()
            .filter(|node| {
                self.followers
                    .get(node)
                    .is_none_or(|follower| follower.end < end && now.saturating_sub(follower.caught_up) > lag_ms)
            })
            .collect();
        for node in &left {
            self.in_sync.remove(node);
        }
        if !left.is_empty() {
            self.advance();
        }
        left
    }

    /// The wall clock was set `by` milliseconds ahead: followers were heard of no longer ago for that.
    pub(crate) fn clock_was_set(&mut self, by: i64) {
        for follower in self.followers.values_mut() {
            follower.caught_up = follower.caught_up.saturating_add(by);
            follower.fetched.1 = follower.fetched.1.saturating_add(by);
        }
    }

    /// When [`Self::shrink_in_sync`] could next drop somebody.
    pub(crate) fn next_shrink(&self, lag_ms: i64) -> Option<Timestamp> {
        let end = self.log.end();
        self.in_sync
            .iter()
            .filter_map(|node| self.followers.get(node))
            .filter(|follower| follower.end < end)
            .map(|follower| follower.caught_up.saturating_add(lag_ms).saturating_add(1))
            .min()
    }

    /// Whether its source says how far it may be read.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Another broker leads: nobody follows this one any more.
    pub(crate) fn drop_followers(&mut self) {
        self.followers.clear();
        self.in_sync.clear();
    }

    /// Makes it a copy, whose readers see nothing above `limit`.
    pub(crate) fn set_limit(&mut self, limit: i64) {
        self.limit = Some(limit);
        self.high_watermark = self.high_watermark.min(limit).max(self.log.start());
    }

    /// The source's high watermark has moved.
    pub(crate) fn raise_limit(&mut self, limit: i64) {
        if let Some(current) = &mut self.limit {
            *current = limit.max(*current);
            self.advance();
        }
    }

    /// It is no copy any more.
    pub(crate) fn lift_limit(&mut self) {
        self.limit = None;
        self.advance();
    }

    pub(crate) fn wait_for_sync(&mut self, offset: i64, id: RequestId) {
        self.sync_waits.insert((offset, id));
    }

    /// Takes the next of those who wait for a sync that has come.
    pub(crate) fn poll_synced(&mut self) -> Option<RequestId> {
        let &(offset, id) = self.sync_waits.first()?;
        if offset > self.own_end() {
            return None;
        }
        self.sync_waits.pop_first();
        Some(id)
    }

    /// Takes all who wait for a sync that will not come.
    pub(crate) fn take_sync_waits(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.sync_waits).into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn set_waits_for_sync(&mut self, waits: bool) {
        self.waits_for_sync = waits;
        self.advance();
    }

    pub(crate) fn wait(&mut self, offset: i64, row: u64) {
        self.waits.insert((offset, row));
    }

    pub(crate) fn stop_waiting(&mut self, offset: i64, row: u64) {
        self.waits.remove(&(offset, row));
    }

    /// Takes the next row whose offset the high watermark has reached.
    pub(crate) fn poll_reached(&mut self) -> Option<u64> {
        let &(offset, row) = self.waits.first()?;
        if offset > self.high_watermark {
            return None;
        }
        self.waits.pop_first();
        Some(row)
    }

    /// The rows whose offset this broker itself has reached since it was asked last: they wait for followers, if at all.
    pub(crate) fn poll_own_reached(&mut self) -> Vec<u64> {
        let own_end = self.own_end();
        let before = std::mem::replace(&mut self.own_told, own_end);
        let reached = (before.saturating_add(1), 0)..=(own_end, u64::MAX);
        if reached.is_empty() { Vec::new() } else { self.waits.range(reached).map(|(_, row)| *row).collect() }
    }

    /// Takes every row that waits, reached or not: the partition goes away or failed.
    pub(crate) fn take_waits(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waits).into_iter().map(|(_, row)| row).collect()
    }

    pub(crate) fn fetches(&mut self) -> &mut BTreeSet<u64> {
        &mut self.fetches
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Everything below it survives a power cut.
    pub(crate) fn synced_end(&self) -> i64 {
        self.synced_end
    }

    /// The first offset of an open transaction, or the high watermark.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        self.log
            .producers()
            .first_unstable_offset(self.high_watermark)
            .map_or(self.high_watermark, |first| first.min(self.high_watermark))
    }

    /// The in-sync followers; the leader itself is always in sync and not among them.
    pub(crate) fn in_sync_followers(&self) -> &BTreeSet<i32> {
        &self.in_sync
    }

    pub(crate) fn followers(&self) -> &BTreeMap<i32, Follower> {
        &self.followers
    }
}
