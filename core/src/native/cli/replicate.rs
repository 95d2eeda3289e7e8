//! `ottla replicate`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::copies::{TopicsArg, progress_bar, report, show};
use super::{Output, table, wait_for_signal};
use crate::Result;
use crate::native::pipe::{check_apart, start_over};
use crate::replication::{
    ClusterSource, CopyOptions, Follower, FollowerOptions, Member, Parting, PartitionCopied, Role, Selection, Source,
    replicate,
};
use crate::transport::Embedded;

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

    #[command(flatten)]
    topics: TopicsArg,

    /// Start over: drop what DIR has of these topics and copy them from their beginning
    #[arg(long)]
    full: bool,

    /// Go on with what is new until interrupted
    #[arg(short = 'F', long)]
    follow: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Replicate {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let selection = self.topics.selection()?;
        let source = Connection::open(&self.source, &self.connection)?;
        let from = ClusterSource::new(source.plain_client()?);
        // The source first: a wrong address must not leave an empty log behind.
        let topics = source.block_on(from.topics(&selection))?;
        source.block_on(check_apart(&from, Path::new(&self.target)))?;
        let target = Connection::open_directory(&self.target)?;
        let logs = target.embedded()?;
        let outcome = source.block_on(async {
            if self.full {
                start_over(&logs, &topics).await?;
            }
            once(&from, &logs, &selection, output).await?;
            if self.follow { follow(from, &logs, selection, output).await } else { Ok(()) }
        });
        target.close()?;
        source.close()?;
        outcome
    }
}

/// Brings the copies to where the source is, and says what that was.
async fn once(source: &ClusterSource, logs: &Embedded, selection: &Selection, output: Output) -> Result<()> {
    let begun = Instant::now();
    let bar = progress_bar(output);
    let progress = |progress: &_| show(&bar, progress);
    let copied = replicate(source, logs, selection, Parting::CutBack, &CopyOptions::default(), &progress).await;
    bar.finish_and_clear();
    let copied = copied?;
    let done: Vec<PartitionCopied> = copied.done().cloned().collect();
    report(&done, begun.elapsed(), output)?;
    copied.all().map(drop)
}

/// Follows until the process is asked to end.
async fn follow(source: ClusterSource, logs: &Embedded, selection: Selection, output: Output) -> Result<()> {
    let options = FollowerOptions { topics: selection, ..FollowerOptions::default() };
    let (follower, driver) = Follower::new(source, Arc::new(logs.clone()), options);
    output.say("following; Ctrl-C ends it");
    let begun = Instant::now();
    let ended = tokio::select! {
        ended = driver => ended,
        never = watch(|| Following::of(&follower), output) => never,
        asked = wait_for_signal() => asked,
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
    leads: bool,
    in_sync: Option<usize>,
}

impl Following {
    pub(super) fn of(follower: &Follower) -> Self {
        let mut all = Self { error: follower.error(), ..Self::default() };
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
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look();
            bar.set_message(now.text());
            bar.tick();
            let is_news = now != told
                && (now.leads != told.leads
                    || now.error != told.error
                    || now.in_sync != told.in_sync
                    || now.is_caught_up() != told.is_caught_up());
            let is_due = told_at.is_none_or(|at| at.elapsed() >= TELL) && now != told;
            if bar.is_hidden() && (is_news || is_due) {
                // What is wrong has been said as a warning.
                if output.json {
                    let event = match &now {
                        now if now.leads => "leads",
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
