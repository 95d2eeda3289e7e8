//! A place in a log, as a person names it: `beginning`, `end`, an offset, the last so many, a time.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use crate::client::config::IsolationLevel;
use crate::client::{Client, EARLIEST, LATEST, TopicPartition};
use crate::{Error, ErrorKind, Result, Timestamp};

/// What the help says of it.
pub(super) const SHAPE: &str = "beginning, end, an offset, -N (the last N), @MS or a time such as 2026-01-31T08:00:00Z";

/// A place in each of some partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Beginning,
    End,
    Offset(i64),
    /// So many offsets before the end.
    Last(i64),
    /// The first record of this time or later; the end where there is none.
    Time(Timestamp),
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::new(ErrorKind::Invalid, format!("a position is {SHAPE} given={text}"));
        Ok(match text {
            "beginning" | "earliest" => Self::Beginning,
            "end" | "latest" => Self::End,
            _ => {
                if let Some(ms) = text.strip_prefix('@') {
                    Self::Time(ms.parse().ok().filter(|ms| *ms >= 0).ok_or_else(invalid)?)
                } else if let Some(last) = text.strip_prefix('-') {
                    Self::Last(last.parse().ok().filter(|last| *last >= 0).ok_or_else(invalid)?)
                } else if let Ok(offset) = text.parse() {
                    Self::Offset(offset)
                } else {
                    Self::Time(parse_time(text).ok_or_else(invalid)?)
                }
            }
        })
    }
}

impl Position {
    /// The offset of each partition: none below its start or beyond its end.
    pub(super) async fn offsets(
        self,
        client: &Client,
        partitions: &[TopicPartition],
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let ask = |time| list(client, partitions, time, isolation, timeout);
        let ends = match self {
            Self::Beginning => return ask(EARLIEST).await,
            _ => ask(LATEST).await?,
        };
        let mut offsets = match self {
            Self::Time(time) => ask(time).await?,
            _ => ends.clone(),
        };
        let starts = match self {
            Self::End => return Ok(ends),
            _ => ask(EARLIEST).await?,
        };
        for (partition, offset) in &mut offsets {
            let (start, end) = (starts[partition], ends[partition].max(starts[partition]));
            let wanted = match self {
                Self::Offset(offset) => offset,
                Self::Last(last) => end.saturating_sub(last),
                _ if *offset < 0 => end,
                _ => *offset,
            };
            *offset = wanted.clamp(start, end);
        }
        Ok(offsets)
    }
}

/// What leaders answer for each of `partitions` at `time`; -1 where there is nothing.
pub(super) async fn list(
    client: &Client,
    partitions: &[TopicPartition],
    time: i64,
    isolation: IsolationLevel,
    timeout: Duration,
) -> Result<BTreeMap<TopicPartition, i64>> {
    let wanted = partitions.iter().map(|partition| (partition.clone(), time)).collect();
    let found = client.list_offsets(wanted, isolation, timeout).await?;
    let found: BTreeMap<TopicPartition, i64> =
        found.into_iter().map(|(partition, found)| Ok((partition, found?.offset))).collect::<Result<_>>()?;
    match partitions.iter().find(|partition| !found.contains_key(partition)) {
        Some(missing) => Err(Error::new(ErrorKind::Retriable, format!("no broker answered for partition={missing}"))),
        None => Ok(found),
    }
}

/// `2026-01-31`, `2026-01-31T08:00Z`, `2026-01-31 08:00:00` or `2026-01-31T08:00:00.250Z`, in UTC, in ms.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let whole = match text.trim_end_matches('Z') {
        day if day.len() == "2026-01-31".len() => format!("{day}T00:00:00Z"),
        minute if minute.len() == "2026-01-31T08:00".len() => format!("{minute}:00Z"),
        _ => text.to_owned(),
    };
    let time = humantime::parse_rfc3339_weak(&whole).ok()?;
    Timestamp::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// A moment as `2026-01-31 08:00:00`, in UTC.
pub(super) fn time_text(ms: Timestamp) -> String {
    let since = u64::try_from(ms).ok().and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    since.map_or_else(
        || "-".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', ""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_said_in_many_ways() {
        let parse = |text: &str| text.parse::<Position>().ok();
        assert_eq!(parse("beginning"), Some(Position::Beginning));
        assert_eq!(parse("end"), Some(Position::End));
        assert_eq!(parse("42"), Some(Position::Offset(42)));
        assert_eq!(parse("-10"), Some(Position::Last(10)));
        assert_eq!(parse("@1700000000000"), Some(Position::Time(1_700_000_000_000)));
        assert_eq!(parse("2013-01-01T05:00:00Z"), Some(Position::Time(1_357_016_400_000)));
        assert_eq!(parse("2013-01-01 05:00:00"), parse("2013-01-01T05:00:00Z"));
        assert_eq!(parse("2013-01-01T05:00Z"), parse("2013-01-01T05:00:00Z"));
        assert_eq!(parse("2013-01-01 05:00"), parse("2013-01-01T05:00:00Z"));
        assert_eq!(parse("1970-01-02"), Some(Position::Time(86_400_000)));
        for wrong in ["", "soon", "@", "@-1", "--1", "2013-13-01", "9999999999999999999"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(time_text(1_357_016_400_000), "2013-01-01 05:00:00");
    }
}
