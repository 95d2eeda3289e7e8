//! `ottla replicate`.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::connection::ConnectionArgs;
use super::copies::{progress_bar, report, show};
use super::position::parse_time;
use super::{Output, Signals, table};
use crate::native::pipe::{OpenSource, Place};
use crate::native::{Replica, ReplicaOptions, Runtime};
use crate::replication::{Begin, Follower, Member, PartitionCopied, Portion, Recreated, Role, Selection};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How often what follows is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often a line tells of it where there is no terminal, if there is anything to tell.
const TELL: Duration = Duration::from_secs(5);

/// Arguments of `ottla replicate`.
#[derive(Debug, Args)]
pub(super) struct Replicate {
    /// kafka://HOST:PORT[,…] or the directory of a log
    source: String,

    /// Directory of the local log, made when missing
    #[arg(value_name = "DIR")]
    target: String,

    /// Topics and patterns such as 'orders,pay.*'. When not given, those that were chosen last for DIR, or all but Kafka's own
    #[arg(long, value_name = "TOPICS")]
    topics: Option<String>,

    /// Start over: drop what DIR has of these topics and copy them from their beginning
    #[arg(long)]
    full: bool,

    /// Go on with what is new until interrupted
    #[arg(short = 'F', long)]
    follow: bool,

    /// Of partitions that have not begun, only records of this time or later: 2026-08-01T12:00Z, or 1h, 30m, 7d before now
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true, help_heading = "A part of it")]
    since: Option<Timestamp>,

    /// Of partitions that have not begun, only the last N records
    #[arg(long, value_name = "N", conflicts_with = "since", help_heading = "A part of it")]
    last: Option<u64>,

    /// Of a topic, only these partitions: orders:0,2. May be repeated
    #[arg(long, value_name = "TOPIC:N,N", help_heading = "A part of it")]
    partitions: Vec<String>,

    /// Copy the committed offsets of these groups, too: names and patterns
    #[arg(long, value_name = "GROUPS")]
    groups: Option<Selection>,

    /// A topic that was deleted and made anew at the source: 'refuse' leaves the copy and says so, 'restart' copies the new one
    #[arg(long, value_enum, default_value_t = RecreatedArg::Refuse)]
    recreated: RecreatedArg,

    /// Read so many bytes in a second at most: 500kB, 10MB
    #[arg(long, value_name = "BYTES", value_parser = byte_count)]
    limit_rate: Option<u64>,

    /// Hold so many bytes in memory, about
    #[arg(long, value_name = "BYTES", value_parser = byte_count, default_value = "64MiB")]
    max_memory: u64,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RecreatedArg {
    Refuse,
    Restart,
}

impl Replicate {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let begin = match (self.since, self.last) {
            (Some(since), _) => Begin::Since(since),
            (None, Some(last)) => Begin::Last(last),
            (None, None) => Begin::Start,
        };
        let options = ReplicaOptions {
            topics: self.topics.as_deref().map(str::parse).transpose()?,
            portion: Portion::from(begin).with_partitions(&self.partitions)?,
            groups: self.groups,
            recreated: match self.recreated {
                RecreatedArg::Refuse => Recreated::Refuse,
                RecreatedArg::Restart => Recreated::Restart,
            },
            limit_rate: self.limit_rate,
            max_bytes: usize::try_from(self.max_memory).unwrap_or(usize::MAX),
            ..ReplicaOptions::default()
        };
        let (place, client) = (Place::parse(&self.source)?, self.connection.client_options()?);
        let runtime = Runtime::new()?;
        runtime.block_on(async {
            let source = OpenSource::open(&runtime, &place, &client).await?;
            let replica = Replica::open_checked(&runtime, Path::new(&self.target), source, options).await?;
            let outcome = async {
                match once(&replica, self.full, output).await {
                    // It is tried again.
                    Err(error) if self.follow && may_pass(&error) => log::warn!("{error}"),
                    done => done?,
                }
                if self.follow { follow(&replica, output).await } else { Ok(()) }
            }
            .await;
            replica.close().await?;
            outcome
        })
    }
}

/// Whether following goes on in spite of it.
pub(super) fn may_pass(error: &Error) -> bool {
    error.is_retriable() || matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Full)
}

/// A moment: RFC 3339 in UTC, or so long before now.
fn since(text: &str) -> std::result::Result<Timestamp, String> {
    let ago = humantime::parse_duration(text.strip_prefix('-').unwrap_or(text));
    let moment = match ago {
        Ok(ago) => SystemTime::now().checked_sub(ago).and_then(|at| at.duration_since(UNIX_EPOCH).ok()),
        Err(_) => None,
    };
    moment
        .and_then(|since| Timestamp::try_from(since.as_millis()).ok())
        .or_else(|| parse_time(text))
        .ok_or_else(|| "a time is such as 2026-08-01T12:00Z, or 1h, 30m, 7d before now".to_owned())
}

/// A number of bytes: 10MB, 512kB, 1MiB.
pub(super) fn byte_count(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().trim_end_matches("/s").to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => 0,
    };
    let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(factor)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "a number of bytes is such as 500kB, 10MB, 64MiB".to_owned())
}

/// Brings the copies to where the source is, and says what that was.
async fn once(replica: &Replica, full: bool, output: Output) -> Result<()> {
    let begun = Instant::now();
    let bar = progress_bar(output);
    let progress = |progress: &_| show(&bar, progress);
    let copied = replica.sync(full, &progress).await;
    bar.finish_and_clear();
    let copied = copied?;
    let done: Vec<PartitionCopied> = copied.done().cloned().collect();
    report(&done, begun.elapsed(), output)?;
    copied.all().map(drop)
}

/// Follows until the process is asked to end.
async fn follow(replica: &Replica, output: Output) -> Result<()> {
    replica.follow()?;
    let Some(follower) = replica.follower() else { return Err(replica.failed().await) };
    let mut signals = Signals::listen()?;
    output.say("following; Ctrl-C ends it");
    let begun = Instant::now();
    let ended = tokio::select! {
        failed = replica.failed() => Err(failed),
        never = watch(|| Following::of(&follower), output) => never,
        () = signals.wait() => Ok(()),
    };
    ended?;
    let now = Following::of(&follower);
    if output.json {
        output.result(|| now.json("ended", begun.elapsed()), String::new)?;
    } else {
        output.say(format!("followed for {}: {}", table::duration(begun.elapsed()), now.text()));
    }
    Ok(())
}

/// What a follower has done so far, and what it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Following {
    pub(super) partitions: usize,
    pub(super) caught_up: usize,
    records: u64,
    bytes: u64,
    lag: u64,
    error: Option<String>,
    is_paused: bool,
    leads: bool,
    in_sync: Option<usize>,
}

impl Following {
    pub(super) fn of(follower: &Follower) -> Self {
        let is_paused = follower.paused().is_some();
        let mut all = Self { error: follower.error(), is_paused, ..Self::default() };
        for (partition, status) in follower.status() {
            all.partitions += 1;
            all.caught_up += usize::from(status.is_caught_up());
            all.records += status.records;
            all.bytes += status.bytes;
            all.lag += status.lag();
            if all.error.is_none() {
                all.error = status.error.map(|error| format!("{partition}: {error}"));
            }
        }
        all
    }

    /// Of a broker that leads there is nothing to tell but that.
    pub(super) fn of_member(member: &Member) -> Self {
        let mut all = match member.follower() {
            Some(follower) => Self::of(&follower),
            None => Self { leads: member.role().is_ok_and(|role| role == Role::Leader), ..Self::default() },
        };
        all.in_sync = member.in_sync();
        if let Some(error) = member.error() {
            all.error = Some(error);
        }
        all
    }

    /// Whether everything that is known to be there is here.
    pub(super) fn is_caught_up(&self) -> bool {
        self.error.is_none() && self.caught_up == self.partitions
    }

    pub(super) fn text(&self) -> String {
        if self.leads {
            return "leads".to_owned();
        }
        let state = match &self.error {
            Some(error) => error.clone(),
            None if self.is_caught_up() => "caught up".to_owned(),
            None if self.lag == 0 => "catching up".to_owned(),
            None => format!("{} behind", table::count_u64(self.lag)),
        };
        format!(
            "{}, {} records, {}, {state}",
            table::plural(self.partitions, "partition"),
            table::count_u64(self.records),
            table::bytes(self.bytes),
        )
    }

    pub(super) fn json(&self, event: &str, since: Duration) -> serde_json::Value {
        json!({
            "event": event, "partitions": self.partitions, "caught_up": self.is_caught_up(), "records": self.records,
            "bytes": self.bytes, "lag": self.lag, "error": self.error, "in_sync": self.in_sync, "seconds": since.as_secs_f64(),
        })
    }
}

/// Tells how following goes: on a terminal at any time, else now and then when something has changed.
pub(super) fn watch<'a>(look: impl Fn() -> Following + Send + 'a, output: Output) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let bar = output.draws(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        let (begun, mut told_at) = (Instant::now(), None::<Instant>);
        let mut told = Following::default();
        let first = look();
        if first.leads {
            // That is no news.
            told = first;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look();
            if now.leads {
                bar.finish_and_clear();
            } else {
                if bar.is_finished() {
                    bar.reset();
                }
                bar.set_message(now.text());
                bar.tick();
            }
            let is_news = now != told
                && (now.leads != told.leads
                    || now.error != told.error
                    || now.is_paused != told.is_paused
                    || now.in_sync != told.in_sync
                    || now.is_caught_up() != told.is_caught_up());
            let is_due = told_at.is_none_or(|at| at.elapsed() >= TELL) && now != told;
            if bar.is_hidden() && (is_news || is_due) {
                // What is wrong has been said as a warning.
                if output.json {
                    let event = match &now {
                        now if now.leads => "leads",
                        now if now.is_paused => "paused",
                        now if now.is_caught_up() => "caught_up",
                        _ => "following",
                    };
                    output.result(|| now.json(event, begun.elapsed()), String::new)?;
                } else if now.error.is_none() {
                    output.say(now.text());
                }
                told = now;
                told_at = Some(Instant::now());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("500kB", 500_000),
            ("10MB", 10_000_000),
            ("10 MB/s", 10_000_000),
            ("64MiB", 64 << 20),
            ("2g", 2_000_000_000),
        ] {
            assert_eq!(byte_count(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "0", "MB", "-1", "1.5MB", "1 parsec", "99999999999GB"] {
            assert!(byte_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_a_moment_or_so_long_ago() {
        assert_eq!(since("2026-08-01T12:00Z"), Ok(1_785_585_600_000));
        assert_eq!(since("2026-08-01T12:00:00.250Z"), Ok(1_785_585_600_250));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as Timestamp);
        for ago in ["1h", "-1h", "60m"] {
            let passed = now - since(ago).unwrap_or(0);
            assert!((3_590_000..=3_610_000).contains(&passed), "{ago} {passed}");
        }
        for wrong in ["", "soon", "1 parsec", "2026-13-01"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
