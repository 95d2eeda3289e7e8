//! `ottla restore`, `ottla verify`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::copies::{TopicsArg, progress_bar, report, show};
use super::keys::AccessArgs;
use super::position::parse_time;
use super::{Output, table};
use crate::backup::{DirectoryOptions, RestoreOptions, Restored};
use crate::native::Runtime;
use crate::native::pipe::{self, Chosen, Place, Target};
use crate::replication::{
    At, ClusterSettings, ClusterSource, PartitionCopied, Planned, Portion, Progress, TopicPartition, TransferOptions,
    Verified,
};
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// REPOSITORY or REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[arg(value_name = "REPOSITORY[@SNAPSHOT]")]
    repository: String,

    /// Directory of a log, made when missing; kafka://HOST:PORT[,…], a live cluster; or logdir:DIR[,DIR…], all log.dirs of a
    /// Kafka broker that does not run
    #[arg(value_name = "TARGET")]
    target: String,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    topics: TopicsArg,

    /// What partitions to restore, such as orders:0,2; may be repeated. All of a topic when none of it is given
    #[arg(long, value_name = "TOPIC:N,N")]
    partitions: Vec<String>,

    /// A point in time: 2026-08-01T12:00Z, or -1h; or an offset, orders:0=1200; may be repeated. Ends before the first batch
    /// that is later
    #[arg(long, value_name = "TIME|TOPIC:N=OFFSET", allow_hyphen_values = true)]
    at: Vec<String>,

    /// Say what would be done, and how much it is; write nothing
    #[arg(long)]
    dry_run: bool,

    /// Give up what the target holds and the snapshot has not; topics of a live cluster are deleted and made anew
    #[arg(long)]
    force: bool,

    /// To a live cluster: what a topic is to be called there; may be repeated
    #[arg(long, value_name = "TOPIC=NAME")]
    rename: Vec<String>,

    /// To a live cluster: on how many brokers each partition is to be; as many as it was on when not given
    #[arg(long, value_name = "COUNT")]
    replication_factor: Option<i16>,

    /// To a live cluster: set the access rules and quotas of the snapshot, too, beside those that are there
    #[arg(long)]
    with_settings: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// With logdir: the broker that the directories have to be of
    #[arg(long, value_name = "NODE_ID")]
    broker: Option<i32>,

    /// With logdir: one more of the broker's log.dirs; may be repeated
    #[arg(long = "log-dir", value_name = "DIR")]
    log_dirs: Vec<PathBuf>,
}

impl Restore {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let selection = self.topics.selection()?;
        let (path, snapshot) = repository_and_snapshot(&self.repository);
        let repository = self.access.place(path)?;
        let chosen = Chosen { repository: &repository, snapshot, topics: &selection };
        let begun = Instant::now();
        let runtime = Runtime::new()?;
        let bar = progress_bar(output);
        let progress = |progress: &Progress| show(&bar, progress);
        let restored = match Target::parse(&self.target) {
            Target::LogDirectories(mut directories) => {
                directories.extend(self.log_dirs.iter().cloned());
                let mut options = DirectoryOptions::default();
                (options.broker, options.force, options.dry_run) = (self.broker, self.force, self.dry_run);
                (options.at, options.partitions) = (self.at(&runtime)?, self.portion()?);
                let restoring = pipe::restore_directories(&runtime, chosen, &directories, &options, &progress);
                let (planned, restored) = runtime.block_on(restoring)?;
                tell(&planned, output)?;
                match restored {
                    None => return Ok(()),
                    Some(restored) => restored,
                }
            }
            Target::Place(Place::Cluster(_)) => return self.to_cluster(chosen, begun, output),
            Target::Place(target) => {
                if self.force || self.dry_run || self.broker.is_some() || !self.log_dirs.is_empty() {
                    let message = "--force, --dry-run, --broker and --log-dir are not for the directory of a log";
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                let mut options = RestoreOptions::default();
                (options.at, options.partitions) = (self.at(&runtime)?, self.portion()?);
                runtime.block_on(pipe::restore(&runtime, chosen, &target, &options, &progress))?
            }
        };
        bar.finish_and_clear();
        self.report(&restored, begun, output)
    }

    fn portion(&self) -> Result<Portion> {
        Portion::default().with_partitions(&self.partitions)
    }

    /// The point in time that is wanted.
    fn at(&self, runtime: &Runtime) -> Result<At> {
        let mut at = At::default();
        for text in &self.at {
            let wrong = || {
                let message = "--at takes a time (2026-08-01T12:00Z, -1h) or an offset (TOPIC:PARTITION=OFFSET)";
                Error::new(ErrorKind::Invalid, format!("{message} given={text}"))
            };
            if let Some((partition, offset)) = text.split_once('=') {
                let (topic, number) = partition.rsplit_once(':').ok_or_else(wrong)?;
                let partition = TopicPartition::new(topic, number.parse().map_err(|_| wrong())?);
                at.offsets.insert(partition, offset.parse().map_err(|_| wrong())?);
                continue;
            }
            let time = match text.strip_prefix('-') {
                None => parse_time(text).ok_or_else(wrong)?,
                Some(ago) => {
                    let ago = humantime::parse_duration(ago).map_err(|_| wrong())?;
                    runtime.clock().now().saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))
                }
            };
            at.time = Some(at.time.map_or(time, |earlier| earlier.min(time)));
        }
        Ok(at)
    }

    fn to_cluster(&self, chosen: Chosen<'_>, begun: Instant, output: Output) -> Result<()> {
        let mut options = TransferOptions::default();
        (options.force, options.dry_run) = (self.force, self.dry_run);
        options.replication_factor = self.replication_factor;
        options.settings = self.with_settings;
        options.renamed = renamed(&self.rename)?;
        options.partitions = self.portion()?;
        let target = Connection::open(&self.target, &self.connection)?;
        let cluster = ClusterSource::new(target.plain_client()?);
        let at = self.at(target.runtime())?;
        let bar = progress_bar(output);
        let plan = |planned: &[Planned]| {
            if let Err(error) = tell(planned, output) {
                log::warn!("the plan cannot be told: {error}");
            }
        };
        let progress = |progress: &Progress| show(&bar, progress);
        let restoring = pipe::restore_to_cluster(chosen, &cluster, &at, options, &plan, &progress);
        let Some((snapshot, done)) = target.block_on(restoring)? else { return target.close() };
        bar.finish_and_clear();
        let compared = done.compared.iter().map(|compared| compared.same).sum::<u64>();
        let ClusterSettings { acls, scram_users, quotas, .. } = &done.settings;
        if self.with_settings {
            output.say(format!(
                "set: {}, {}",
                table::plural(acls.len(), "access rule"),
                table::plural(quotas.len(), "quota")
            ));
        }
        for user in scram_users {
            output.say(format!("no backup has the password of the SCRAM user {}: set it anew", user.user));
        }
        let restored = Restored { snapshot: snapshot.id, copied: done.copied, groups: done.groups };
        output.say(format!("read back and compared: {} records, all alike", table::count_u64(compared)));
        self.report(&restored, begun, output)?;
        target.close()
    }

    fn report(&self, restored: &Restored, begun: Instant, output: Output) -> Result<()> {
        let partitions: Vec<PartitionCopied> = restored.copied.done().cloned().collect();
        report(&partitions, begun.elapsed(), output)?;
        output.result(
            || json!({"restored": restored.snapshot.to_string(), "groups": restored.groups.len()}),
            || {
                format!(
                    "restored snapshot {} to {}, {} groups",
                    restored.snapshot.short(),
                    self.target,
                    restored.groups.len()
                )
            },
        )
    }
}

/// What `REPOSITORY[@SNAPSHOT]` names.
fn repository_and_snapshot(text: &str) -> (&str, &str) {
    text.rsplit_once('@').unwrap_or((text, "latest"))
}

fn renamed(renames: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |rename: &String| {
        let wrong = || Error::new(ErrorKind::Invalid, format!("--rename takes TOPIC=NAME given={rename}"));
        rename.split_once('=').map(|(topic, name)| (topic.to_owned(), name.to_owned())).ok_or_else(wrong)
    };
    renames.iter().map(pair).collect()
}

/// Arguments of `ottla verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// REPOSITORY or REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[arg(value_name = "REPOSITORY[@SNAPSHOT]")]
    repository: String,

    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "CLUSTER")]
    target: String,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    topics: TopicsArg,

    /// What a topic is called there; may be repeated
    #[arg(long, value_name = "TOPIC=NAME")]
    rename: Vec<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Verify {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let (selection, renamed) = (self.topics.selection()?, renamed(&self.rename)?);
        let (path, snapshot) = repository_and_snapshot(&self.repository);
        let repository = self.access.place(path)?;
        let chosen = Chosen { repository: &repository, snapshot, topics: &selection };
        let target = Connection::open(&self.target, &self.connection)?;
        let cluster = ClusterSource::new(target.plain_client()?);
        let bar = progress_bar(output);
        let progress = |records| bar.inc(records);
        let verifying = pipe::verify(chosen, &cluster, &renamed, &progress);
        let (snapshot, verified) = target.block_on(verifying)?;
        bar.finish_and_clear();
        for Verified { compared, removed, lacking } in &verified {
            let line = || {
                json!({
                    "topic": &*compared.partition.topic, "partition": compared.partition.partition,
                    "start": compared.start, "end": compared.end, "same": compared.same,
                    "differing": compared.differing, "first": compared.first, "removed": removed, "lacking": lacking,
                })
            };
            if output.json {
                output.result(line, String::new)?;
                continue;
            }
            let first = compared.first.as_ref().map_or(String::new(), |first| format!(", the first: {first}"));
            if compared.differing > 0 {
                output.say(format!("{}: {} records differ{first}", compared.partition, compared.differing));
            }
            if *lacking > 0 {
                output.say(format!("{}: the last {lacking} offsets are missing", compared.partition));
            }
            if *removed > 0 {
                output.say(format!("{}: the first {removed} offsets have been removed there", compared.partition));
            }
        }
        let same: u64 = verified.iter().map(|one| one.compared.same).sum();
        let wrong = verified.iter().filter(|one| !one.is_alike()).count();
        output.result(
            || json!({"snapshot": snapshot.id.to_string(), "records": same, "partitions": verified.len(), "wrong": wrong}),
            || {
                let partitions = table::plural(verified.len(), "partition");
                format!("{} records of {partitions} are as in snapshot {}", table::count_u64(same), snapshot.id.short())
            },
        )?;
        target.close()?;
        if wrong > 0 {
            let message = format!("the cluster has not what the snapshot has partitions={wrong} of={}", verified.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }
}

/// Says what is to be done with each partition.
fn tell(planned: &[Planned], output: Output) -> Result<()> {
    if output.json {
        for plan in planned {
            let line = json!({
                "plan": &*plan.partition.topic, "partition": plan.partition.partition,
                "start": plan.start, "end": plan.end, "bytes": plan.bytes, "seconds": plan.seconds, "note": plan.note,
            });
            output.result(|| line, String::new)?;
        }
        return Ok(());
    }
    for plan in planned {
        let what = match plan.end - plan.start {
            ..=0 => "nothing to do".to_owned(),
            _ => format!("{} → {}, {}", table::count(plan.start), table::count(plan.end), table::bytes(plan.bytes)),
        };
        let note = plan.note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
        output.say(format!("plan: {} {what}{note}", plan.partition));
    }
    let bytes: u64 = planned.iter().map(|plan| plan.bytes).sum();
    let seconds: u64 = planned.iter().map(|plan| plan.seconds).sum();
    let time = if seconds == 0 { String::new() } else { format!(", about {seconds} s") };
    output.say(format!("plan: {}, {}{time}", table::plural(planned.len(), "partition"), table::bytes(bytes)));
    Ok(())
}
