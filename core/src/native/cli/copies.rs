//! `ottla snapshots`, and what the verbs that copy share.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::keys::RepositoryArgs;
use super::position::time_text;
use super::{Output, table};
use crate::Result;
use crate::backup::Snapshot;
use crate::backup::manifest::Totals;
use crate::native::Runtime;
use crate::replication::{Extent, PartitionCopied, Progress, Selection};

/// Which topics.
#[derive(Debug, Args)]
pub(super) struct TopicsArg {
    /// Topics and patterns such as 'orders,pay.*'; all but Kafka's own when not given
    #[arg(long, value_name = "TOPICS")]
    topics: Option<String>,
}

impl TopicsArg {
    pub(super) fn selection(&self) -> Result<Selection> {
        match &self.topics {
            None => Ok(Selection::all()),
            Some(topics) => topics.parse(),
        }
    }
}

/// Arguments of `ottla snapshots`.
#[derive(Debug, Args)]
pub(super) struct Snapshots {
    #[command(flatten)]
    repository: RepositoryArgs,
}

impl Snapshots {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let snapshots = Runtime::new()?.block_on(async { self.repository.open().await?.snapshots().await })?;
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
                    table::count_u64(manifest.totals.records),
                    table::bytes(manifest.costs.new_stored_bytes),
                    table::bytes(manifest.costs.shared_bytes),
                    ratio(manifest.totals),
                    format!("{:.1} s", manifest.costs.milliseconds as f64 / 1e3),
                    manifest
                        .costs
                        .cpu_milliseconds
                        .map_or_else(String::new, |cpu| format!("{:.1} s", cpu as f64 / 1e3)),
                ]
            })
            .collect();
        let headers = [
            "snapshot",
            "time (UTC)",
            "kind",
            "topics",
            "partitions",
            "records",
            "new",
            "shared",
            "ratio",
            "took",
            "CPU",
        ];
        output.rows(snapshots.iter().map(snapshot_json).collect(), || table::draw(&headers, &rows))
    }
}

/// Bytes of record batches for each byte stored.
pub(super) fn ratio(totals: Totals) -> String {
    match totals.stored_bytes {
        0 => String::new(),
        stored => format!("{:.2}", totals.bytes as f64 / stored as f64),
    }
}

pub(super) fn progress_bar(output: Output) -> ProgressBar {
    // Drawn on stderr, and only if that is a terminal.
    let bar = output.draws(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

pub(super) fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total_offsets);
    bar.set_position(progress.offsets);
    bar.set_message(format!(
        "{} of {} partitions, {} records, {}",
        progress.partitions,
        progress.total_partitions,
        table::count_u64(progress.records),
        table::bytes(progress.bytes)
    ));
}

/// How many partitions of a topic are told of one by one.
const TOLD: usize = 16;

/// Says for each partition what was copied: "orders-0 full: 0 → 1,204,331".
pub(super) fn report(partitions: &[PartitionCopied], took: Duration, output: Output) -> Result<()> {
    if output.json {
        for copied in partitions {
            let line = json!({
                "topic": &*copied.partition.topic, "partition": copied.partition.partition,
                "extent": copied.extent.to_string(), "start": copied.start, "end": copied.end,
                "records": copied.records, "bytes": copied.bytes,
                "hole": copied.hole.map(|hole| [hole.start, hole.end]), "parted_at": copied.parted_at,
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
        let moved: Vec<_> = copied.iter().filter(|copied| copied.end > copied.start).collect();
        if moved.is_empty() {
            output.say(format!("{topic}: nothing new in {}", table::plural(copied.len(), "partition")));
        }
        for partition in moved.iter().take(TOLD) {
            output.say(format!(
                "{topic}-{} {}: {} → {}",
                partition.partition.partition,
                partition.extent,
                table::count(partition.start),
                table::count(partition.end)
            ));
        }
        if moved.len() > TOLD {
            output.say(format!("{topic}: and {} more", table::plural(moved.len() - TOLD, "partition")));
        }
        for partition in &copied {
            if let Some(hole) = partition.hole {
                output.say(format!(
                    "{topic}-{}: offsets {} to {} are missing, the source no longer has them",
                    partition.partition.partition,
                    table::count(hole.start),
                    table::count(hole.end - 1)
                ));
            }
            if let Some(parted_at) = partition.parted_at {
                output.say(format!(
                    "{topic}-{}: the source's history is another from offset {} on, and was copied anew",
                    partition.partition.partition,
                    table::count(parted_at)
                ));
            }
        }
    }
    let records: u64 = partitions.iter().map(|copied| copied.records).sum();
    let bytes: u64 = partitions.iter().map(|copied| copied.bytes).sum();
    let kind =
        if partitions.iter().any(|copied| copied.extent == Extent::Incremental) { "incremental" } else { "full" };
    output.say(format!(
        "{kind}: {} records, {} in {} ({:.0} MB/s)",
        table::count_u64(records),
        table::bytes(bytes),
        table::duration(took),
        bytes as f64 / 1e6 / took.as_secs_f64().max(0.001)
    ));
    Ok(())
}

pub(super) fn snapshot_json(snapshot: &Snapshot) -> Value {
    let manifest = &snapshot.manifest;
    json!({
        "snapshot": snapshot.id.to_string(), "time": manifest.time, "extent": manifest.extent.to_string(),
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "topics": manifest.totals.topics, "partitions": manifest.totals.partitions, "records": manifest.totals.records,
        "new_records": manifest.costs.new_records, "new_bytes": manifest.costs.new_bytes,
        "new_stored_bytes": manifest.costs.new_stored_bytes, "shared_bytes": manifest.costs.shared_bytes,
        "bytes": manifest.totals.bytes, "stored_bytes": manifest.totals.stored_bytes,
        "milliseconds": manifest.costs.milliseconds, "cpu_milliseconds": manifest.costs.cpu_milliseconds,
        "notes": manifest.notes.iter().map(|note| format!("{note:?}")).collect::<Vec<_>>(),
    })
}
