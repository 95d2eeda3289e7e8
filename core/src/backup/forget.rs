//! Forget: which snapshots stay, by rules.

use std::collections::BTreeMap;

use super::repository::{Repository, Snapshot, SnapshotId};
use crate::{Error, ErrorKind, Result, Timestamp};

const DAY_MS: i64 = 86_400_000;

/// Which snapshots stay: each rule keeps some, and what none keeps goes.
///
/// The rules are restic's. They are applied to each source and choice of topics apart, newest first: of the snapshots of one
/// hour, day, week (from Monday), month or year (in UTC) the newest stays, for so many of those in which there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// The newest so many.
    pub last: u32,
    /// One for each of the last so many hours that have any.
    pub hourly: u32,
    /// Likewise days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// All that are no more than so many milliseconds older than the newest.
    pub within_ms: i64,
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The rules that keep it; it goes if there are none.
    pub kept_by: Vec<&'static str>,
}

impl Fate {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.kept_by.is_empty()
    }
}

impl KeepRules {
    /// What becomes of each of `snapshots`, in their order.
    ///
    /// # Errors
    /// `Invalid` if there is no rule: that would remove everything.
    pub fn plan(&self, snapshots: &[Snapshot]) -> Result<Vec<Fate>> {
        if *self == Self::default() {
            let message = "there is no rule that keeps anything, give one such as --keep-last 7";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut fates: Vec<Fate> =
            snapshots.iter().map(|snapshot| Fate { snapshot: snapshot.clone(), kept_by: Vec::new() }).collect();
        let mut groups: BTreeMap<_, Vec<&mut Fate>> = BTreeMap::new();
        for fate in &mut fates {
            let manifest = &fate.snapshot.manifest;
            // A source without an id is known by its address alone.
            let source = manifest.source.cluster_id.clone().unwrap_or_else(|| manifest.source.address.clone());
            groups.entry((source, manifest.selection.clone())).or_default().push(fate);
        }
        for mut group in groups.into_values() {
            group.sort_by_key(|fate| std::cmp::Reverse(fate.snapshot.id));
            self.keep(&mut group);
        }
        Ok(fates)
    }

    /// Applies the rules to snapshots of one group, newest first.
    fn keep(&self, group: &mut [&mut Fate]) {
        let Some(newest) = group.first().map(|fate| fate.snapshot.id.time) else { return };
        for fate in group.iter_mut().take(self.last as usize) {
            fate.kept_by.push("last");
        }
        type Period = fn(Timestamp) -> i64;
        let periods: [(&str, u32, Period); 5] = [
            ("hourly", self.hourly, |time| time.div_euclid(DAY_MS / 24)),
            ("daily", self.daily, |time| time.div_euclid(DAY_MS)),
            // 1970-01-01 was a Thursday.
            ("weekly", self.weekly, |time| (time.div_euclid(DAY_MS) + 3).div_euclid(7)),
            ("monthly", self.monthly, |time| month(time)),
            ("yearly", self.yearly, |time| month(time).div_euclid(12)),
        ];
        for (name, count, period) in periods {
            let (mut left, mut last) = (count, None);
            for fate in group.iter_mut() {
                let period = period(fate.snapshot.id.time);
                if left == 0 {
                    break;
                }
                if last != Some(period) {
                    fate.kept_by.push(name);
                    last = Some(period);
                    left -= 1;
                }
            }
        }
        for fate in
            group.iter_mut().filter(|fate| self.within_ms > 0 && newest - fate.snapshot.id.time <= self.within_ms)
        {
            fate.kept_by.push("within");
        }
    }
}

/// Months since the year 0, by the proleptic Gregorian calendar in UTC.
fn month(time: Timestamp) -> i64 {
    // Years that begin in March have their leap day last; 400 of them have 146,097 days.
    let days = time.div_euclid(DAY_MS) + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    (era * 400 + year) * 12 + month + 2
}

/// Removes snapshots. What only they hold stays until it is pruned. One that is gone already is no error.
///
/// # Errors
/// The store's; what was removed before stays removed.
pub async fn forget(repository: &Repository, snapshots: &[SnapshotId]) -> Result<()> {
    for id in snapshots {
        repository.store().delete(&id.path()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (ms, year, number) in [
            (0, 1970, 1),
            (-1, 1969, 12),
            (951_782_400_000, 2000, 2),
            (951_868_800_000, 2000, 3),
            (1_709_164_800_000, 2024, 2),
            (1_709_251_200_000, 2024, 3),
            (1_735_689_599_999, 2024, 12),
            (1_735_689_600_000, 2025, 1),
            (4_107_542_400_000, 2100, 3),
        ] {
            assert_eq!(month(ms), year * 12 + number - 1, "{ms}");
        }
    }
}
