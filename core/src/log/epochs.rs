//! Leader-epoch history: which leader wrote from which offset on, and so where two histories part.

use std::fmt::Write as _;

/// The history of a log's leader epochs. (KIP-101, KIP-279.)
///
/// Kept in the file `leader-epoch-checkpoint` in Kafka's format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Both fields rise strictly from entry to entry.
    entries: Vec<EpochStart>,
}

/// A leader epoch and the first offset written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: i32,
    /// Its first offset.
    pub start: i64,
}

impl Epochs {
    /// The file's name in the log's directory.
    pub(crate) const FILE: &'static str = "leader-epoch-checkpoint";

    /// The latest epoch; `None` when there was no leader yet.
    pub fn latest(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The first offset of `epoch`, if it wrote any (or was assigned and has not yet).
    pub fn start_of(&self, epoch: i32) -> Option<i64> {
        let at = self.entries.binary_search_by_key(&epoch, |entry| entry.epoch).ok()?;
        Some(self.entries[at].start)
    }

    /// The epoch in which the record at `offset` was written.
    pub fn epoch_at(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        Some(self.entries[after.checked_sub(1)?].epoch)
    }

    /// What OffsetForLeaderEpoch answers: the largest epoch at or below `epoch`, and the offset where it ends (the next
    /// epoch's start, or `log_end` for the latest). `None` when the history has nothing to say: an epoch above the
    /// latest, or an empty history.
    ///
    /// An epoch below the whole history is answered with itself and the first start, so that who asks truncates there.
    pub fn end_offset_for(&self, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        let latest = self.latest()?;
        if epoch == latest {
            return Some((epoch, log_end));
        }
        if epoch < 0 || epoch > latest {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries[after].start;
        Some((after.checked_sub(1).map_or(epoch, |before| self.entries[before].epoch), end))
    }

    /// Notes that `epoch` begins at `start`. Returns whether that was new.
    pub(crate) fn assign(&mut self, epoch: i32, start: i64) -> bool {
        if epoch < 0 || self.latest().is_some_and(|latest| epoch <= latest) {
            return false;
        }
        // Epochs that wrote nothing are forgotten.
        while self.entries.last().is_some_and(|entry| entry.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// Forgets epochs that begin at `end` or behind it. Returns whether there were any.
    pub(crate) fn truncate_from_end(&mut self, end: i64) -> bool {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        let changed = kept < self.entries.len();
        self.entries.truncate(kept);
        changed
    }

    /// Forgets epochs that begin behind `end`, which the log has lost; one that begins there may just not have written.
    pub(crate) fn forget_beyond(&mut self, end: i64) -> bool {
        self.truncate_from_end(end.saturating_add(1))
    }

    /// Forgets what lies below `start`; the epoch that spans it begins there now. Returns whether something changed.
    pub(crate) fn truncate_from_start(&mut self, start: i64) -> bool {
        let after = self.entries.partition_point(|entry| entry.start <= start);
        let Some(spanning) = after.checked_sub(1) else { return false };
        if spanning == 0 && self.entries[0].start == start {
            return false;
        }
        self.entries.drain(..spanning);
        self.entries[0].start = start;
        true
    }

    /// The checkpoint file's text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for EpochStart { epoch, start } in &self.entries {
            let _ = writeln!(text, "{epoch} {start}");
        }
        text
    }

    /// Reads the checkpoint file's text; `None` when it is not one.
    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        if lines.next()?.trim() != "0" {
            return None;
        }
        let count: usize = lines.next()?.trim().parse().ok()?;
        let mut entries: Vec<EpochStart> = Vec::new();
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let (epoch, start) = line.trim().split_once(' ')?;
            let entry = EpochStart { epoch: epoch.parse().ok()?, start: start.trim().parse().ok()? };
            let rises = entries.last().is_none_or(|last| last.epoch < entry.epoch && last.start < entry.start);
            if !rises || entry.epoch < 0 || entry.start < 0 {
                return None;
            }
            entries.push(entry);
        }
        (entries.len() == count).then_some(Self { entries })
    }
}
