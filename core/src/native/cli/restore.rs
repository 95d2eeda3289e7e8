//! `ottla restore`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::copies::{TopicsArg, progress_bar, report, show};
use super::keys::AccessArgs;
use super::{Output, table};
use crate::backup::{DirectoryOptions, Planned, Restored};
use crate::native::Runtime;
use crate::native::pipe::{self, Place};
use crate::replication::{PartitionCopied, Progress};
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// REPOSITORY or REPOSITORY@SNAPSHOT; the newest snapshot when none is named
    #[arg(value_name = "REPOSITORY[@SNAPSHOT]")]
    repository: String,

    /// Directory of a log, made when missing; or logdir:DIR[,DIR...], all log.dirs of a Kafka broker that does not run
    #[arg(value_name = "TARGET")]
    target: String,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    topics: TopicsArg,

    /// Say what would be done, and how much it is; write nothing
    #[arg(long)]
    dry_run: bool,

    /// Give up what the target holds and the snapshot has not
    #[arg(long)]
    force: bool,

    /// With logdir: the broker that the directories have to be of
    #[arg(long, value_name = "NODE_ID")]
    broker: Option<i32>,

    /// With logdir: one more of the broker's log.dirs; may be repeated
    #[arg(long = "log-dir", value_name = "DIR")]
    log_dirs: Vec<PathBuf>,
}

impl Restore {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let (path, name) = match self.repository.rsplit_once('@') {
            Some((path, name)) => (path, name),
            None => (self.repository.as_str(), "latest"),
        };
        let selection = self.topics.selection()?;
        let begun = Instant::now();
        let runtime = Runtime::new()?;
        let repository = self.access.place(path)?;
        let bar = progress_bar(output);
        let progress = |progress: &Progress| show(&bar, progress);
        let restored = if let Some(directories) = self.target.strip_prefix("logdir:") {
            let directories = directories.split(',').filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let directories: Vec<PathBuf> = directories.chain(self.log_dirs.iter().cloned()).collect();
            let mut options = DirectoryOptions::default();
            (options.broker, options.force, options.dry_run) = (self.broker, self.force, self.dry_run);
            let restoring =
                pipe::restore_directories(&runtime, &repository, name, &directories, &selection, &options, &progress);
            let (planned, restored) = runtime.block_on(restoring)?;
            tell(&planned, output)?;
            match restored {
                None => return Ok(()),
                Some(restored) => restored,
            }
        } else {
            if self.force || self.dry_run || self.broker.is_some() || !self.log_dirs.is_empty() {
                let message = "--force, --dry-run, --broker and --log-dir are for logdir:DIR";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let target = Place::parse_target(&self.target);
            runtime.block_on(pipe::restore(&runtime, &repository, name, &target, &selection, &progress))?
        };
        bar.finish_and_clear();
        self.report(&restored, begun, output)
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

/// Says what is to be done with each partition.
fn tell(planned: &[Planned], output: Output) -> Result<()> {
    if output.json {
        for plan in planned {
            let line = json!({
                "plan": &*plan.partition.topic, "partition": plan.partition.partition,
                "start": plan.start, "end": plan.end, "bytes": plan.bytes, "note": plan.note,
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
    output.say(format!("plan: {}, {}", table::plural(planned.len(), "partition"), table::bytes(bytes)));
    Ok(())
}
