//! `ottla check`, `ls`, `diff`, `find`, `forget`, `prune`, `copy`: what is asked and done of a repository.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::copies::{TopicsArg, snapshot_json};
use super::keys::RepositoryArgs;
use super::position::time_text;
use super::records::Text;
use super::{Output, table};
use crate::backup::manifest::PartitionReference;
use crate::backup::{
    self, CheckOptions, Fate, KeepRules, PruneOptions, Pruned, Repository, Sample, SnapshotId, SnapshotSource,
    TopicChange, Transferred,
};
use crate::native::Runtime;
use crate::native::pipe;
use crate::native::repository::{Access, RepositoryPlace, random};
use crate::replication::Selection;
use crate::{Error, ErrorKind, Result};

/// How much a restore of a sample takes into memory.
const SAMPLE_BYTES: u64 = 64 << 20;

/// Arguments of `ottla check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// Read the objects and verify each hash and checksum; with N%, of so many of them, others each time
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    read_data: Option<Percent>,

    /// Restore some topics of the newest snapshot into memory and compare every batch
    #[arg(long)]
    restore_sample: bool,
}

/// A share, as so many of a million.
#[derive(Clone, Copy, Debug)]
struct Percent(u32);

impl std::str::FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number.filter(|number| *number > 0.0 && *number <= 100.0) {
            Some(number) => Ok(Self((number * 10_000.0).round().max(1.0) as u32)),
            None => Err(Error::new(ErrorKind::Invalid, "a share is above 0% and 100% at most, such as 5%")),
        }
    }
}

impl Check {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let seed = random()?;
        let seed = u64::from_be_bytes([seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]]);
        let mut options = CheckOptions::default();
        if let Some(Percent(of_million)) = self.read_data {
            options.read_data = true;
            options.sample = Sample { of_million, seed };
        }
        let runtime = Runtime::new()?;
        let (report, restored) = runtime.block_on(async {
            let repository = self.repository.open().await?;
            let report = backup::check(&repository, options).await?;
            let restored = match self.restore_sample && report.is_sound() {
                true => Some(pipe::check_restore(&runtime, repository, SAMPLE_BYTES, seed).await?),
                false => None,
            };
            Ok::<_, Error>((report, restored))
        })?;
        for problem in &report.problems {
            output.say(format!("problem: {}", problem.message));
        }
        for partition in restored.iter().flat_map(|restored| &restored.differing) {
            output.say(format!("problem: restored batches differ from the repository's partition={partition}"));
        }
        let problems = report.problems.len() + restored.as_ref().map_or(0, |restored| restored.differing.len());
        output.result(
            || {
                json!({
                    "snapshots": report.snapshots, "manifests": report.manifests, "objects": report.objects,
                    "stored_bytes": report.stored_bytes, "read_bytes": report.read_bytes,
                    "unreferenced": report.unreferenced, "unreferenced_bytes": report.unreferenced_bytes,
                    "problems": report.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(),
                    "restored": restored.as_ref().map(|restored| json!({
                        "snapshot": restored.snapshot, "topics": restored.topics, "partitions": restored.partitions,
                        "bytes": restored.bytes,
                        "differing": restored.differing.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    })),
                })
            },
            || {
                let mut text = format!(
                    "{} snapshots, {} objects, {} stored, {} read: {}",
                    report.snapshots,
                    report.objects,
                    table::bytes(report.stored_bytes),
                    table::bytes(report.read_bytes),
                    if problems == 0 { "no problems".to_owned() } else { format!("{problems} problems") }
                );
                if let Some(restored) = &restored {
                    let partitions = table::plural(restored.partitions as usize, "partition");
                    text += &format!("; restored and compared {partitions}, {}", table::bytes(restored.bytes));
                }
                if report.unreferenced > 0 {
                    let bytes = table::bytes(report.unreferenced_bytes);
                    text += &format!("; {bytes} that no snapshot needs (ottla prune)");
                }
                text
            },
        )?;
        if problems == 0 {
            return Ok(());
        }
        let repository = &self.repository.repository;
        Err(Error::new(ErrorKind::Corrupt, format!("the repository is damaged repository={repository}")))
    }
}

async fn source(repository: &RepositoryArgs, topics: &Selection) -> Result<SnapshotSource> {
    let (repository, name) = repository.split();
    let repository = repository.open().await?;
    let snapshot = repository.find_snapshot(&name).await?;
    SnapshotSource::open(repository, snapshot, topics).await
}

/// Arguments of `ottla ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    topics: TopicsArg,

    /// A line for each partition
    #[arg(long)]
    partitions: bool,
}

impl Ls {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let topics = self.topics.selection()?;
        let source = Runtime::new()?.block_on(source(&self.repository, &topics))?;
        let all = source.manifests().values();
        if self.partitions {
            let partitions: Vec<(&str, &PartitionReference)> = all
                .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.as_str(), partition)))
                .collect();
            let lines = partitions.iter().map(|(topic, partition)| {
                json!({
                    "topic": topic, "partition": partition.partition, "start": partition.start, "end": partition.end,
                    "records": partition.records, "bytes": partition.bytes, "stored_bytes": partition.stored_bytes,
                    "objects": partition.objects, "replicas": partition.replicas,
                })
            });
            let rows: Vec<Vec<String>> = partitions
                .iter()
                .map(|(topic, partition)| {
                    vec![
                        format!("{topic}-{}", partition.partition),
                        table::count(partition.start),
                        table::count(partition.end),
                        table::count_u64(partition.records),
                        table::bytes(partition.bytes),
                        table::count_u64(partition.objects),
                    ]
                })
                .collect();
            let headers = ["partition", "start", "end", "records", "size", "objects"];
            return output.rows(lines.collect(), || table::draw(&headers, &rows));
        }
        let all: Vec<_> = all
            .map(|topic| {
                let sum = |of: fn(&PartitionReference) -> u64| topic.partitions.iter().map(of).sum::<u64>();
                (topic, sum(|partition| partition.records), sum(|partition| partition.bytes), sum(|p| p.stored_bytes))
            })
            .collect();
        let lines = all.iter().map(|(topic, records, bytes, stored_bytes)| {
            let config = topic.config.iter().map(|entry| (entry.name.clone(), entry.value.clone().into()));
            json!({
                "topic": topic.topic, "topic_id": topic.topic_id.to_string(), "partitions": topic.partitions.len(),
                "replication_factor": topic.replication_factor, "records": records, "bytes": bytes,
                "stored_bytes": stored_bytes, "config": config.collect::<serde_json::Map<_, _>>(),
            })
        });
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|(topic, records, bytes, stored_bytes)| {
                vec![
                    topic.topic.clone(),
                    topic.partitions.len().to_string(),
                    table::count_u64(*records),
                    table::bytes(*bytes),
                    table::bytes(*stored_bytes),
                ]
            })
            .collect();
        output.rows(lines.collect(), || table::draw(&["topic", "partitions", "records", "size", "stored"], &rows))
    }
}

/// Arguments of `ottla diff`.
#[derive(Debug, Args)]
pub(super) struct Diff {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// The older snapshot: the first digits of its name
    before: String,

    /// The newer one
    #[arg(default_value = "latest")]
    after: String,

    #[command(flatten)]
    topics: TopicsArg,
}

impl Diff {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let topics = self.topics.selection()?;
        let diff = Runtime::new()?.block_on(async {
            let repository = self.repository.open().await?;
            let mut sources = Vec::with_capacity(2);
            for name in [&self.before, &self.after] {
                let snapshot = repository.find_snapshot(name).await?;
                sources.push(SnapshotSource::open(repository.clone(), snapshot, &Selection::all()).await?);
            }
            backup::diff(&sources[0], &sources[1]).await
        })?;
        let is_chosen = |topic: &str| topics.is_all() || topics.matches(topic);
        let mut lines = Vec::new();
        let mut text = Vec::new();
        for topic in diff.topics.iter().filter(|topic| is_chosen(&topic.topic)) {
            let change = match topic.change {
                TopicChange::Added => "added",
                TopicChange::Removed => "removed",
                TopicChange::Recreated => "recreated",
                TopicChange::Changed => "changed",
            };
            let name = &topic.topic;
            let mut partitions = Vec::new();
            if topic.change != TopicChange::Changed {
                text.push(format!("{name} {change}"));
            }
            for (option, before, after) in &topic.config {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
                text.push(format!("{name} {option}: {} → {}", shown(before), shown(after)));
            }
            for partition in &topic.partitions {
                let shown = |offsets: &Option<std::ops::Range<i64>>| match offsets {
                    Some(offsets) => format!("{}..{}", table::count(offsets.start), table::count(offsets.end)),
                    None => "none".to_owned(),
                };
                text.push(format!(
                    "{name}-{}: {} → {}, {:+} records",
                    partition.partition,
                    shown(&partition.before),
                    shown(&partition.after),
                    partition.records
                ));
                let offsets =
                    |offsets: &Option<std::ops::Range<i64>>| offsets.as_ref().map(|known| [known.start, known.end]);
                partitions.push(json!({
                    "partition": partition.partition, "before": offsets(&partition.before),
                    "after": offsets(&partition.after), "records": partition.records, "bytes": partition.bytes,
                }));
            }
            let config = topic.config.iter().map(|(option, before, after)| json!([option, before, after]));
            lines.push(json!({
                "topic": name, "change": change, "config": config.collect::<Vec<_>>(), "partitions": partitions,
            }));
        }
        for offset in diff.offsets.iter().filter(|offset| is_chosen(&offset.partition.topic)) {
            let shown = |offset: Option<i64>| offset.map_or_else(|| "none".to_owned(), table::count);
            let (group, partition) = (&offset.group, &offset.partition);
            text.push(format!("group {group} {partition}: {} → {}", shown(offset.before), shown(offset.after)));
            lines.push(json!({
                "group": group, "topic": &*partition.topic, "partition": partition.partition,
                "before": offset.before, "after": offset.after,
            }));
        }
        output.rows(lines, || if text.is_empty() { "no difference".to_owned() } else { text.join("\n") })
    }
}

/// Arguments of `ottla find`.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[command(flatten)]
    repository: RepositoryArgs,

    /// The records' key
    key: String,

    #[command(flatten)]
    topics: TopicsArg,
}

impl Find {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let topics = self.topics.selection()?;
        let mut count = 0_usize;
        Runtime::new()?.block_on(async {
            let source = source(&self.repository, &topics).await?;
            let mut tell = |found: backup::FoundRecord| {
                count += 1;
                let partition = &found.partition;
                let value = found.value.as_deref();
                output.result(
                    || {
                        json!({
                            "topic": &*partition.topic, "partition": partition.partition, "offset": found.offset,
                            "timestamp": found.timestamp, "value": Text(value),
                        })
                    },
                    || {
                        let value = value.map_or("null".into(), String::from_utf8_lossy);
                        let value: String = value.chars().take(80).collect();
                        format!("{partition} {} {} {value:?}", found.offset, time_text(found.timestamp))
                    },
                )
            };
            backup::find(&source, self.key.as_bytes(), &mut tell).await
        })?;
        if count > 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("no record has this key key={:.80}", self.key)))
    }
}

/// Arguments of `ottla forget`.
#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// Snapshots to remove, by the first digits of their names, instead of rules
    #[arg(value_name = "SNAPSHOT", conflicts_with = "rules")]
    snapshots: Vec<String>,

    /// Keep the newest N of each source and choice of topics
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_last: u32,

    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_hourly: u32,

    /// Likewise days
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_daily: u32,

    /// Likewise weeks, from Monday
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_weekly: u32,

    /// Likewise months
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_monthly: u32,

    /// Likewise years
    #[arg(long, value_name = "N", default_value = "0", group = "rules")]
    keep_yearly: u32,

    /// Keep all that are no more than so much older than the newest, such as 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, group = "rules")]
    keep_within: Option<Duration>,

    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl Forget {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let runtime = Runtime::new()?;
        let (repository, going, fates) = runtime.block_on(async {
            let repository = self.repository.open().await?;
            let (going, fates) = self.plan(&repository, output).await?;
            Ok::<_, Error>((repository, going, fates))
        })?;
        // What is going to happen, before it does.
        let lines = fates.iter().map(|fate| {
            let mut line = snapshot_json(&fate.snapshot);
            line["kept_by"] = json!(fate.kept_by);
            line
        });
        let rows: Vec<Vec<String>> = fates
            .iter()
            .map(|fate| {
                let manifest = &fate.snapshot.manifest;
                vec![
                    if fate.is_kept() { "keep" } else { "remove" }.to_owned(),
                    fate.snapshot.id.short(),
                    time_text(manifest.time),
                    manifest.source.address.clone(),
                    table::count_u64(manifest.totals.records),
                    fate.kept_by.join(", "),
                ]
            })
            .collect();
        output.rows(lines.collect(), || {
            table::draw(&["", "snapshot", "time (UTC)", "source", "records", "kept by"], &rows)
        })?;
        let removed = table::plural(going.len(), "snapshot");
        if self.dry_run {
            output.say(format!("{removed} would be removed"));
            return Ok(());
        }
        runtime.block_on(backup::forget(&repository, &going))?;
        output.say(format!("{removed} removed; `ottla prune` removes what only they held"));
        Ok(())
    }

    /// Which snapshots go, and what becomes of each that can be read: of all with rules, else of the named ones.
    async fn plan(&self, repository: &Repository, output: Output) -> Result<(Vec<SnapshotId>, Vec<Fate>)> {
        if self.snapshots.is_empty() {
            let rules = KeepRules {
                last: self.keep_last,
                hourly: self.keep_hourly,
                daily: self.keep_daily,
                weekly: self.keep_weekly,
                monthly: self.keep_monthly,
                yearly: self.keep_yearly,
                within_ms: self.keep_within.map_or(0, |within| i64::try_from(within.as_millis()).unwrap_or(i64::MAX)),
            };
            let fates = rules.plan(&repository.snapshots().await?)?;
            let going = fates.iter().filter(|fate| !fate.is_kept()).map(|fate| fate.snapshot.id).collect();
            return Ok((going, fates));
        }
        let mut going = Vec::with_capacity(self.snapshots.len());
        let mut fates = Vec::with_capacity(self.snapshots.len());
        for name in &self.snapshots {
            let id = repository.find_snapshot_id(name).await?;
            going.push(id);
            match repository.snapshot(id).await {
                Ok(snapshot) => fates.push(Fate { snapshot, kept_by: Vec::new() }),
                // It can go all the same, and has to before anything can be pruned.
                Err(error) if error.kind() == ErrorKind::Corrupt => output.say(format!("{}: {error}", id.short())),
                Err(error) => return Err(error),
            }
        }
        Ok((going, fates))
    }
}

/// Arguments of `ottla prune`.
#[derive(Debug, Args)]
pub(super) struct Prune {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// How long marked objects stay: longer than any backup takes. 0s removes at once, if no backup is running
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1d")]
    grace: Duration,

    /// Show what would be marked and removed, and do neither
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let runtime = Runtime::new()?;
        let now = runtime.clock().now();
        let grace_ms = i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX);
        let options = PruneOptions { grace_ms, ..PruneOptions::default() };
        let dry = PruneOptions { dry_run: true, ..options };
        let (repository, plan) = runtime.block_on(async {
            let repository = self.repository.open().await?;
            let plan = backup::prune(&repository, &dry, now).await?;
            Ok::<_, Error>((repository, plan))
        })?;
        let of =
            |count: u64, bytes: u64| format!("{} ({})", table::plural(count as usize, "object"), table::bytes(bytes));
        output.say(format!(
            "plan: remove {}, mark {}, keep {}",
            of(plan.removed, plan.removed_bytes),
            of(plan.marked, plan.marked_bytes),
            of(plan.kept, plan.kept_bytes)
        ));
        let done = match self.dry_run {
            true => plan,
            false => runtime.block_on(backup::prune(&repository, &options, now))?,
        };
        output.result(
            || pruned_json(&done, self.dry_run),
            || {
                let verb = if self.dry_run { "would remove" } else { "removed" };
                let mut text = format!("{verb} {}", of(done.removed, done.removed_bytes));
                if let (Some(due), true) = (done.due, done.marked > 0) {
                    let marked = of(done.marked, done.marked_bytes);
                    text += &format!("; {marked} marked: run `ottla prune` again after {}", time_text(due));
                }
                text
            },
        )
    }
}

fn pruned_json(pruned: &Pruned, dry_run: bool) -> serde_json::Value {
    json!({
        "removed": pruned.removed, "removed_bytes": pruned.removed_bytes, "marked": pruned.marked,
        "marked_bytes": pruned.marked_bytes, "due": pruned.due, "pending": pruned.pending,
        "kept": pruned.kept, "kept_bytes": pruned.kept_bytes, "dry_run": dry_run,
    })
}

/// Arguments of `ottla copy`.
#[derive(Debug, Args)]
pub(super) struct Copy {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// The other repository, made when missing
    target: String,

    /// Snapshots to copy, by the first digits of their names; all when none is named
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,

    /// The first line of FILE is the other repository's passphrase; without it, as for any repository
    #[arg(long, value_name = "FILE")]
    to_passphrase_file: Option<PathBuf>,

    /// The first line that COMMAND prints is the other's passphrase
    #[arg(long, value_name = "COMMAND")]
    to_passphrase_command: Option<String>,

    /// FILE has an age identity that opens the other
    #[arg(long, value_name = "FILE")]
    to_identity: Vec<PathBuf>,

    /// The other is, or is made, without encryption
    #[arg(long)]
    to_no_encryption: bool,
}

impl Copy {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let access = Access {
            passphrase_file: self.to_passphrase_file.clone(),
            passphrase_command: self.to_passphrase_command.clone(),
            identities: self.to_identity.clone(),
            plain: self.to_no_encryption,
            ..Access::default()
        };
        let runtime = Runtime::new()?;
        let now = runtime.clock().now();
        let bar = output.draws(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{msg}  {elapsed}") {
            bar.set_style(style);
        }
        let show = |done: &Transferred| {
            bar.set_message(format!("{} objects, {}", table::count_u64(done.objects), table::bytes(done.stored_bytes)));
        };
        let done = runtime.block_on(async {
            let source = self.repository.open().await?;
            let mut snapshots = Vec::new();
            for name in &self.snapshots {
                snapshots.push(source.find_snapshot(name).await?);
            }
            if self.snapshots.is_empty() {
                snapshots = source.snapshots().await?;
            }
            let target = RepositoryPlace::new(&self.target, access)?.open_or_create(now).await?;
            if target.id() == source.id() {
                return Err(Error::new(ErrorKind::Invalid, "both are the same repository"));
            }
            backup::transfer(&source, &target, &snapshots, &*runtime.clock(), &show).await
        })?;
        bar.finish_and_clear();
        let pairs = done.snapshots.iter().map(|(from, to)| json!({"from": from.to_string(), "to": to.to_string()}));
        output.result(
            || {
                json!({
                    "snapshots": pairs.collect::<Vec<_>>(), "present": done.present.len(), "objects": done.objects,
                    "stored_bytes": done.stored_bytes,
                })
            },
            || {
                format!(
                    "copied {}, {} objects, {}; {} there already",
                    table::plural(done.snapshots.len(), "snapshot"),
                    table::count_u64(done.objects),
                    table::bytes(done.stored_bytes),
                    done.present.len()
                )
            },
        )
    }
}
