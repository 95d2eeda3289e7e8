//! `ottla backup`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::copies::{TopicsArg, progress_bar, ratio, report, show, snapshot_json};
use super::keys::AccessArgs;
use super::replicate::{byte_count, may_pass};
use super::{Output, Signals, table};
use crate::backup::{Backup as Made, BackupOptions, Compression, Repository, backup};
use crate::native::pipe;
use crate::native::repository::RepositoryPlace;
use crate::replication::{ClusterSource, Selection};
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla backup`.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// kafka://HOST:PORT[,…] or the directory of a log
    source: String,

    /// The repository, made when missing: a directory or a URL
    repository: String,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    topics: TopicsArg,

    /// Groups and patterns such as 'billing,web.*' whose committed offsets are kept; all when not given
    #[arg(long, value_name = "GROUPS")]
    groups: Option<String>,

    /// Read everything, whatever the repository has
    #[arg(long)]
    full: bool,

    /// How objects are stored: as they are, or compressed as a whole
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionWord,

    /// Keep the objects of what the source's retention has removed; restores begin where the source's log does
    #[arg(long)]
    keep_history: bool,

    /// Make no snapshot when nothing has changed since the last one
    #[arg(long)]
    skip_if_unchanged: bool,

    /// Go on: a snapshot every --interval in which something has changed, until Ctrl-C
    #[arg(long)]
    follow: bool,

    /// How long from one snapshot to the next: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1m", requires = "follow")]
    interval: Duration,

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
enum CompressionWord {
    None,
    Zstd,
}

impl Backup {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let place = self.access.place(&self.repository)?;
        let source = Connection::open(&self.source, &self.connection)?;
        let from = ClusterSource::new(source.plain_client()?).limited(self.limit_rate);
        let mut options = BackupOptions {
            full: self.full,
            keep_history: self.keep_history,
            skip_unchanged: self.skip_if_unchanged,
            compression: match self.compression {
                CompressionWord::None => Compression::None,
                CompressionWord::Zstd => Compression::Zstd,
            },
            topics: self.topics.selection()?,
            groups: self.groups.as_deref().map_or_else(|| Ok(Selection::all()), str::parse)?,
            cpu_time: Some(pipe::cpu_time),
            ..BackupOptions::default()
        };
        options.copy.max_bytes = usize::try_from(self.max_memory).unwrap_or(usize::MAX);
        let done = source.block_on(async {
            if self.follow {
                follow(&from, &place, options, self.interval, output).await
            } else {
                once(&from, &pipe::open_for_backup(&from, &place, &options).await?, &options, output).await
            }
        });
        source.close()?;
        done
    }
}

/// A backup, and what there is to say of it.
async fn once(from: &ClusterSource, repository: &Repository, options: &BackupOptions, output: Output) -> Result<()> {
    let bar = progress_bar(output);
    let progress = |progress: &_| show(&bar, progress);
    let made = backup(from, repository, options, &**from.client().clock(), &progress).await;
    bar.finish_and_clear();
    tell(&made?, output)
}

fn tell(made: &Made, output: Output) -> Result<()> {
    let manifest = &made.snapshot.manifest;
    if !made.is_new {
        return output.result(
            || json!({"unchanged": made.snapshot.id.to_string()}),
            || format!("nothing has changed since snapshot {}", made.snapshot.id.short()),
        );
    }
    let costs = manifest.costs;
    report(&made.partitions, Duration::from_millis(costs.milliseconds), output)?;
    for note in &manifest.notes {
        let place =
            note.partition.map_or_else(|| note.topic.clone(), |partition| format!("{}-{partition}", note.topic));
        output.say(format!("note: {place} {}", note.text));
    }
    output.result(
        || snapshot_json(&made.snapshot),
        || {
            let cpu =
                costs.cpu_milliseconds.map_or_else(String::new, |cpu| format!(", {:.1} s of CPU", cpu as f64 / 1e3));
            let ratio = ratio(manifest.totals);
            format!(
                "snapshot {} ({}): {} records, {} new, {} shared, ratio {}{cpu}",
                made.snapshot.id.short(),
                manifest.extent,
                table::count_u64(manifest.totals.records),
                table::bytes(costs.new_stored_bytes),
                table::bytes(costs.shared_bytes),
                if ratio.is_empty() { "-" } else { &ratio },
            )
        },
    )
}

/// A snapshot every `interval`, until the process is asked to end.
async fn follow(
    from: &ClusterSource,
    place: &RepositoryPlace,
    mut options: BackupOptions,
    interval: Duration,
    output: Output,
) -> Result<()> {
    if interval.is_zero() {
        return Err(Error::new(ErrorKind::Invalid, "--interval is longer than nothing"));
    }
    let mut signals = Signals::listen()?;
    output.say(format!("a snapshot every {}; Ctrl-C ends it", humantime::format_duration(interval)));
    let clock = from.client().clock();
    let mut repository = None;
    loop {
        let begun = Instant::now();
        let make = async {
            if repository.is_none() {
                repository = Some(pipe::open_for_backup(from, place, &options).await?);
            }
            match &repository {
                Some(repository) => once(from, repository, &options, output).await,
                None => Ok(()),
            }
        };
        let made = tokio::select! {
            made = make => made,
            // What was put is found by the next run.
            () = signals.wait() => return Ok(()),
        };
        match made {
            Err(error) if may_pass(&error) => {
                output.say(format!("tried again in {}: {error}", table::duration(interval)))
            }
            made => made?,
        }
        // Once is enough, and the first may show that there is a repository.
        options.full = false;
        options.skip_unchanged = true;
        tokio::select! {
            () = clock.sleep(interval.saturating_sub(begun.elapsed())) => {}
            () = signals.wait() => return Ok(()),
        }
    }
}
