//! `ottla replicate`, `ottla backup`, `ottla restore`, `ottla snapshots`, `ottla check`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::{Connection, ConnectionArgs};
use super::{Output, table};
use crate::backup::{
    BackupOptions, CheckOptions, Repository, RestoreOptions, Snapshot, SnapshotSource, backup, check, restore,
};
use crate::clock::Clock;
use crate::native::objects::FileObjects;
use crate::replication::{
    Assignment, ClusterSource, CopyOptions, Extent, LocalLogs, LogSink, Parting, PartitionCopied, Progress, Selection,
    Source, Until, assign, copy,
};
use crate::{Error, ErrorKind, Result};

/// Which topics.
#[derive(Debug, Args)]
struct TopicsArg {
    /// Topics and patterns such as 'orders,pay.*'; all but Kafka's own when not given
    #[arg(long, value_name = "TOPICS")]
    topics: Option<String>,
}

impl TopicsArg {
    fn selection(&self) -> Result<Selection> {
        match &self.topics {
            None => Ok(Selection::all()),
            Some(topics) => topics.parse(),
        }
    }
}

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

    /// Go on with what is new until interrupted
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Replicate {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let selection = self.topics.selection()?;
        let source = Connection::open(&self.source, &self.connection)?;
        let target = Connection::open_directory(&self.target)?;
        let from = ClusterSource::new(source.plain_client()?);
        let logs = target
            .local()
            .map(|local| local.embedded().clone())
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a directory was opened without a broker"))?;
        let outcome = source.runtime.block_on(async {
            tokio::select! {
                outcome = replicate(&from, &logs, &selection, self.follow, output) => outcome,
                interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Error::from),
            }
        });
        target.close()?;
        source.close()?;
        outcome
    }
}

/// Brings the copies in `logs` to where the source is; with `follow` again and again.
async fn replicate(
    source: &ClusterSource,
    logs: &dyn LocalLogs,
    selection: &Selection,
    follow: bool,
    output: Output,
) -> Result<()> {
    let mut first = true;
    loop {
        let begun = Instant::now();
        let topics = source.topics(selection).await?;
        for topic in &topics {
            logs.create_copy(topic).await?;
        }
        let assignments: Vec<Assignment> =
            assign(source, &topics, Until::HighWatermark).await?.into_iter().collect::<Result<_>>()?;
        let sink = LogSink::new(logs, Parting::CutBack);
        let bar = if first { progress_bar(output) } else { ProgressBar::hidden() };
        let copied = copy(source, &sink, &assignments, &CopyOptions::default(), &|progress| show(&bar, progress))
            .await?
            .all()?;
        for assignment in &assignments {
            logs.raise_high_watermark(&assignment.partition, assignment.bounds.end).await?;
        }
        bar.finish_and_clear();
        let partitions: Vec<PartitionCopied> = copied.done().cloned().collect();
        if first || copied.records() > 0 {
            report(&partitions, begun.elapsed(), output)?;
        }
        first = false;
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Arguments of `ottla backup`.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// kafka://HOST:PORT[,…] or the directory of a log
    source: String,

    /// Directory of the repository, made when missing
    repository: String,

    #[command(flatten)]
    topics: TopicsArg,

    /// Read everything, whatever the repository has
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Backup {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let source = Connection::open(&self.source, &self.connection)?;
        let clock = source.runtime.clock();
        let from = ClusterSource::new(source.plain_client()?);
        let mut options = BackupOptions { full: self.full, ..BackupOptions::default() };
        options.topics = self.topics.selection()?;
        let bar = progress_bar(output);
        let made = source.runtime.block_on(async {
            let repository =
                Repository::open_or_create(objects(&self.repository)?, random_id(&*clock), clock.now()).await?;
            backup(&from, &repository, &options, &|| clock.now(), &|progress| show(&bar, progress)).await
        })?;
        bar.finish_and_clear();
        let costs = made.snapshot.manifest.costs;
        report(&made.partitions, Duration::from_millis(costs.milliseconds), output)?;
        output.result(
            || snapshot_json(&made.snapshot),
            || {
                format!(
                    "snapshot {} ({}): {} records, {} new, {} shared",
                    made.snapshot.id.short(),
                    made.snapshot.manifest.extent,
                    table::count(i64::try_from(made.snapshot.manifest.totals.records).unwrap_or(i64::MAX)),
                    table::bytes(costs.new_stored_bytes),
                    table::bytes(costs.shared_bytes),
                )
            },
        )?;
        source.close()
    }
}

/// Arguments of `ottla restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// REPOSITORY or REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[arg(value_name = "REPOSITORY[@SNAPSHOT]")]
    repository: String,

    /// Directory of the log, made when missing
    #[arg(value_name = "TARGET")]
    target: String,

    #[command(flatten)]
    topics: TopicsArg,
}

impl Restore {
    pub(super) fn run(self, output: Output) -> Result<()> {
        if self.target.starts_with("kafka://") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a restore goes to the directory of a log; restoring into a live cluster comes later",
            ));
        }
        let (path, name) = match self.repository.rsplit_once('@') {
            Some((path, name)) => (path, name),
            None => (self.repository.as_str(), "latest"),
        };
        let selection = self.topics.selection()?;
        let begun = Instant::now();
        let runtime = crate::native::Runtime::new()?;
        // The repository first: a wrong name must not leave an empty log behind.
        let source = runtime.block_on(async {
            let repository = Repository::open(objects(path)?).await?;
            let snapshot = repository.find_snapshot(name).await?;
            SnapshotSource::open(repository, snapshot, &selection).await
        })?;
        let target = Connection::open_directory(&self.target)?;
        let logs = target
            .local()
            .map(|local| local.embedded().clone())
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a directory was opened without a broker"))?;
        let bar = progress_bar(output);
        let restored = target
            .runtime
            .block_on(restore(&source, &logs, &RestoreOptions::default(), &|progress| show(&bar, progress)))?;
        bar.finish_and_clear();
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
        )?;
        target.close()
    }
}

/// Arguments of `ottla snapshots`.
#[derive(Debug, Args)]
pub(super) struct Snapshots {
    /// Directory of the repository
    repository: String,
}

impl Snapshots {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let runtime = crate::native::Runtime::new()?;
        let snapshots =
            runtime.block_on(async { Repository::open(objects(&self.repository)?).await?.snapshots().await })?;
        if output.json {
            for snapshot in &snapshots {
                output.result(|| snapshot_json(snapshot), String::new)?;
            }
            return Ok(());
        }
        let rows: Vec<Vec<String>> = snapshots
            .iter()
            .map(|snapshot| {
                let manifest = &snapshot.manifest;
                vec![
                    snapshot.id.short(),
                    time_text(manifest.time),
                    manifest.extent.to_string(),
                    manifest.totals.topics.to_string(),
                    manifest.totals.partitions.to_string(),
                    table::count(i64::try_from(manifest.totals.records).unwrap_or(i64::MAX)),
                    table::bytes(manifest.costs.new_stored_bytes),
                    table::bytes(manifest.costs.shared_bytes),
                    format!("{:.1} s", manifest.costs.milliseconds as f64 / 1e3),
                ]
            })
            .collect();
        let headers = ["snapshot", "time (UTC)", "kind", "topics", "partitions", "records", "new", "shared", "took"];
        output.result(|| Value::Null, || table::draw(&headers, &rows))
    }
}

/// Arguments of `ottla check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Directory of the repository
    repository: String,

    /// Read every object and verify each hash and checksum
    #[arg(long)]
    read_data: bool,
}

impl Check {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let runtime = crate::native::Runtime::new()?;
        let options = CheckOptions { read_data: self.read_data };
        let report =
            runtime.block_on(async { check(&Repository::open(objects(&self.repository)?).await?, options).await })?;
        for problem in &report.problems {
            output.say(format!("problem: {}", problem.message));
        }
        output.result(
            || {
                json!({
                    "snapshots": report.snapshots, "manifests": report.manifests, "objects": report.objects,
                    "stored_bytes": report.stored_bytes, "read_bytes": report.read_bytes,
                    "problems": report.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(),
                })
            },
            || {
                format!(
                    "{} snapshots, {} objects, {} stored, {} read: {}",
                    report.snapshots,
                    report.objects,
                    table::bytes(report.stored_bytes),
                    table::bytes(report.read_bytes),
                    if report.is_sound() {
                        "no problems".to_owned()
                    } else {
                        format!("{} problems", report.problems.len())
                    }
                )
            },
        )?;
        if report.is_sound() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Corrupt, format!("the repository is damaged repository={}", self.repository)))
        }
    }
}

fn objects(path: &str) -> Result<Arc<FileObjects>> {
    if path.contains("://") && !path.starts_with("file://") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("a repository is a directory; object stores come later given={path}"),
        ));
    }
    Ok(Arc::new(FileObjects::new(path.strip_prefix("file://").unwrap_or(path))))
}

/// An id that no other repository has.
fn random_id(clock: &dyn Clock) -> Uuid {
    use std::hash::{BuildHasher, RandomState};
    let half = |salt: u64| u128::from(RandomState::new().hash_one((clock.now(), std::process::id(), salt)));
    uuid::Builder::from_random_bytes(((half(1) << 64) | half(2)).to_be_bytes()).into_uuid()
}

fn progress_bar(output: Output) -> ProgressBar {
    if output.quiet || output.json {
        return ProgressBar::hidden();
    }
    // Drawn on stderr, and only if that is a terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total_offsets);
    bar.set_position(progress.offsets);
    bar.set_message(format!(
        "{} of {} partitions, {} records, {}",
        progress.partitions,
        progress.total_partitions,
        table::count(i64::try_from(progress.records).unwrap_or(i64::MAX)),
        table::bytes(progress.bytes)
    ));
}

/// Says for each topic what was copied: "full: 0 → 1,204,331".
fn report(partitions: &[PartitionCopied], took: Duration, output: Output) -> Result<()> {
    if output.json {
        for copied in partitions {
            let line = json!({
                "topic": &*copied.partition.topic, "partition": copied.partition.partition,
                "extent": copied.extent.to_string(), "start": copied.start, "end": copied.end,
                "records": copied.records, "bytes": copied.bytes,
                "hole": copied.hole.as_ref().map(|hole| format!("{hole:?}")), "parted_at": copied.parted_at,
            });
            output.result(|| line, String::new)?;
        }
        return Ok(());
    }
    let mut topics: BTreeMap<&str, Vec<&PartitionCopied>> = BTreeMap::new();
    for copied in partitions {
        topics.entry(&copied.partition.topic).or_default().push(copied);
    }
    for (topic, copied) in topics {
        let moved = |copied: &&&PartitionCopied| copied.end > copied.start;
        for partition in copied.iter().filter(moved).take(8) {
            output.say(format!(
                "{topic}-{} {}: {} → {}",
                partition.partition.partition,
                partition.extent,
                table::count(partition.start),
                table::count(partition.end)
            ));
        }
        let moving = copied.iter().filter(moved).count();
        if moving > 8 {
            output.say(format!("{topic}: and {} more partitions", moving - 8));
        }
        for partition in copied.iter().filter(|copied| copied.hole.is_some()) {
            output.say(format!(
                "{topic}-{}: the source no longer has some offsets: {:?}",
                partition.partition.partition, partition.hole
            ));
        }
    }
    let records: u64 = partitions.iter().map(|copied| copied.records).sum();
    let bytes: u64 = partitions.iter().map(|copied| copied.bytes).sum();
    let kind =
        if partitions.iter().any(|copied| copied.extent == Extent::Incremental) { "incremental" } else { "full" };
    let seconds = took.as_secs_f64().max(0.001);
    output.say(format!(
        "{kind}: {} records, {} in {seconds:.1} s ({:.0} MB/s)",
        table::count(i64::try_from(records).unwrap_or(i64::MAX)),
        table::bytes(bytes),
        bytes as f64 / 1e6 / seconds
    ));
    Ok(())
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    let manifest = &snapshot.manifest;
    json!({
        "snapshot": snapshot.id.to_string(), "time": manifest.time, "extent": manifest.extent.to_string(),
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "topics": manifest.totals.topics, "partitions": manifest.totals.partitions, "records": manifest.totals.records,
        "new_records": manifest.costs.new_records, "new_bytes": manifest.costs.new_bytes,
        "new_stored_bytes": manifest.costs.new_stored_bytes, "shared_bytes": manifest.costs.shared_bytes,
        "milliseconds": manifest.costs.milliseconds,
        "notes": manifest.notes.iter().map(|note| format!("{note:?}")).collect::<Vec<_>>(),
    })
}

/// A moment as `2026-11-24 08:15:02`.
fn time_text(ms: i64) -> String {
    let (days, seconds) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1000);
    // Days to a date in the proleptic Gregorian calendar, counted in 400-year eras from March (H. Hinnant's algorithm).
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = day_of_year - (153 * month_index + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
