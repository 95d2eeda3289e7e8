//! `ottla.Repository`: each call converts its arguments, has one function of the core run, and returns plain rows.

use std::path::PathBuf;

use ottla::backup::manifest::{KeyAccess, PartitionReference};
use ottla::backup::{
    AgeRecipient, Fate, KeepRules, KeyFile, Lock, PruneOptions, Repository, Secret, SnapshotSource, TopicChange,
};
use ottla::native::pipe;
use ottla::native::repository::{RepositoryPlace, lock, random, write_new_passphrase};
use ottla::replication::Selection;
use ottla::{Error, ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::errors;
use crate::pipe::{RepositoryRow, Topics, run, selection, snapshot_row};

/// Makes the repository; its id, its encryption, and the file that its key was written to.
#[pyfunction]
pub(crate) fn repository_init(
    py: Python<'_>,
    repository: RepositoryRow,
) -> PyResult<(String, String, Option<PathBuf>)> {
    let place = repository.place(py)?;
    let made = run(py, None, |runtime, _| async move { place.create(runtime.clock().now()).await })?;
    let manifest = made.repository.manifest();
    Ok((manifest.id.to_string(), manifest.encryption.clone(), made.key_file))
}

/// The snapshot `name` of the repository at `place`.
async fn source(place: &RepositoryPlace, name: &str, topics: &Selection) -> Result<SnapshotSource> {
    let repository = place.open().await?;
    let snapshot = repository.find_snapshot(name).await?;
    SnapshotSource::open(repository, snapshot, topics).await
}

/// Topic, partition, start, end, records, bytes, stored bytes, objects.
type LsRow = (String, i32, i64, i64, u64, u64, u64, u64);

/// Returns a row for each partition of a snapshot.
#[pyfunction]
pub(crate) fn repository_ls(
    py: Python<'_>,
    repository: RepositoryRow,
    snapshot: String,
    topics: Option<Topics>,
) -> PyResult<Vec<LsRow>> {
    let (place, topics) = (repository.place(py)?, selection(py, topics)?);
    let source = run(py, None, |_, _| async move { source(&place, &snapshot, &topics).await })?;
    let row = |topic: &str, known: &PartitionReference| {
        let PartitionReference { partition, start, end, records, bytes, stored_bytes, objects, .. } = known;
        (topic.to_owned(), *partition, *start, *end, *records, *bytes, *stored_bytes, *objects)
    };
    let topics = source.manifests().values();
    Ok(topics.flat_map(|topic| topic.partitions.iter().map(|partition| row(&topic.topic, partition))).collect())
}

/// Group, topic, partition, the offset before and after.
type OffsetRow = (String, String, i32, Option<i64>, Option<i64>);

/// Returns topics and committed offsets that differ, as rows.
#[pyfunction]
pub(crate) fn repository_diff<'py>(
    py: Python<'py>,
    repository: RepositoryRow,
    before: String,
    after: String,
) -> PyResult<(Bound<'py, PyList>, Vec<OffsetRow>)> {
    let place = repository.place(py)?;
    let diff = run(py, None, |_, _| async move {
        let all = Selection::all();
        let (before, after) = (source(&place, &before, &all).await?, source(&place, &after, &all).await?);
        ottla::backup::diff(&before, &after).await
    })?;
    let topics = PyList::empty(py);
    for topic in diff.topics {
        let change = match topic.change {
            TopicChange::Added => "added",
            TopicChange::Removed => "removed",
            TopicChange::Recreated => "recreated",
            TopicChange::Changed => "changed",
        };
        let offsets = |range: Option<std::ops::Range<i64>>| range.map(|range| (range.start, range.end));
        let partitions: Vec<_> = topic
            .partitions
            .into_iter()
            .map(|part| (part.partition, offsets(part.before), offsets(part.after), part.records, part.bytes))
            .collect();
        topics.append((topic.topic, change, topic.config, partitions))?;
    }
    let offsets = diff.offsets.into_iter();
    let offsets = offsets
        .map(|diff| (diff.group, diff.partition.topic.to_string(), diff.partition.partition, diff.before, diff.after));
    Ok((topics, offsets.collect()))
}

/// Topic, partition, offset, timestamp, value.
type FoundRow<'py> = (String, i32, i64, i64, Option<Bound<'py, PyBytes>>);

/// Returns a row for each record with the key.
#[pyfunction]
pub(crate) fn repository_find<'py>(
    py: Python<'py>,
    repository: RepositoryRow,
    key: Vec<u8>,
    snapshot: String,
    topics: Option<Topics>,
) -> PyResult<Vec<FoundRow<'py>>> {
    let (place, topics) = (repository.place(py)?, selection(py, topics)?);
    let found = run(py, None, |_, _| async move {
        let source = source(&place, &snapshot, &topics).await?;
        let mut all = Vec::new();
        let mut note = |found| {
            all.push(found);
            Ok(())
        };
        ottla::backup::find(&source, &key, &mut note).await?;
        Ok(all)
    })?;
    let row = |found: ottla::backup::FoundRecord| {
        let value = found.value.map(|value| PyBytes::new(py, &value));
        (found.partition.topic.to_string(), found.partition.partition, found.offset, found.timestamp, value)
    };
    Ok(found.into_iter().map(row).collect())
}

/// `keep` is last, hourly, daily, weekly, monthly, yearly, and how many milliseconds. Returns each snapshot with what keeps it.
#[pyfunction]
pub(crate) fn repository_forget<'py>(
    py: Python<'py>,
    repository: RepositoryRow,
    names: Vec<String>,
    keep: (u32, u32, u32, u32, u32, u32, i64),
    dry_run: bool,
) -> PyResult<Vec<(Bound<'py, PyDict>, Vec<&'static str>)>> {
    let place = repository.place(py)?;
    let fates = run(py, None, |_, _| async move {
        let repository = place.open().await?;
        let (mut going, mut fates) = (Vec::with_capacity(names.len()), Vec::new());
        for name in &names {
            let id = repository.find_snapshot_id(name).await?;
            going.push(id);
            match repository.snapshot(id).await {
                Ok(snapshot) => fates.push(Fate { snapshot, kept_by: Vec::new() }),
                // It can go all the same.
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        if names.is_empty() {
            let (last, hourly, daily, weekly, monthly, yearly, within_ms) = keep;
            let rules = KeepRules { last, hourly, daily, weekly, monthly, yearly, within_ms };
            fates = rules.plan(&repository.snapshots().await?)?;
            going = fates.iter().filter(|fate| !fate.is_kept()).map(|fate| fate.snapshot.id).collect();
        }
        if !dry_run {
            ottla::backup::forget(&repository, &going).await?;
        }
        Ok(fates)
    })?;
    fates.into_iter().map(|fate| Ok((snapshot_row(py, &fate.snapshot)?, fate.kept_by))).collect()
}

/// Returns the fields of `Pruned`.
#[pyfunction]
pub(crate) fn repository_prune<'py>(
    py: Python<'py>,
    repository: RepositoryRow,
    grace_ms: i64,
    dry_run: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let place = repository.place(py)?;
    let mut options = PruneOptions::default();
    (options.grace_ms, options.dry_run) = (grace_ms, dry_run);
    let pruned = run(py, None, |runtime, _| async move {
        let repository = place.open().await?;
        ottla::backup::prune(&repository, &options, runtime.clock().now()).await
    })?;
    let row = PyDict::new(py);
    row.set_item("removed", pruned.removed)?;
    row.set_item("removed_bytes", pruned.removed_bytes)?;
    row.set_item("marked", pruned.marked)?;
    row.set_item("marked_bytes", pruned.marked_bytes)?;
    row.set_item("due_ms", pruned.due)?;
    row.set_item("kept", pruned.kept)?;
    row.set_item("kept_bytes", pruned.kept_bytes)?;
    Ok(row)
}

/// Pairs of ids, how many were there, objects, their bytes.
type CopyRow = (Vec<(String, String)>, usize, u64, u64);

/// Returns what was copied.
#[pyfunction]
pub(crate) fn repository_copy(
    py: Python<'_>,
    repository: RepositoryRow,
    target: RepositoryRow,
    names: Vec<String>,
) -> PyResult<CopyRow> {
    let (place, target) = (repository.place(py)?, target.place(py)?);
    let done = run(py, None, |runtime, _| async move {
        let now = runtime.clock().now();
        let source = place.open().await?;
        let mut snapshots = Vec::with_capacity(names.len());
        for name in &names {
            snapshots.push(source.find_snapshot(name).await?);
        }
        if names.is_empty() {
            snapshots = source.snapshots().await?;
        }
        let target = target.open_or_create(now).await?;
        if target.id() == source.id() {
            return Err(Error::new(ErrorKind::Invalid, "both are the same repository"));
        }
        ottla::backup::transfer(&source, &target, &snapshots, &*runtime.clock(), &|_| {}).await
    })?;
    let pairs = done.snapshots.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
    Ok((pairs, done.present.len(), done.objects, done.stored_bytes))
}

/// Topics, partitions, bytes, and the partitions that differ, as text.
#[pyfunction]
pub(crate) fn repository_restore_sample(
    py: Python<'_>,
    repository: RepositoryRow,
    max_bytes: u64,
) -> PyResult<(Vec<String>, u64, u64, Vec<String>)> {
    crate::runtime::check_embedded_life(py)?;
    let place = repository.place(py)?;
    let sample = run(py, None, |runtime, _| async move {
        let seed = random()?;
        let seed = u64::from_be_bytes([seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]]);
        pipe::check_restore(&runtime, place.open().await?, max_bytes, seed).await
    })?;
    let differing = sample.differing.iter().map(ToString::to_string).collect();
    Ok((sample.topics, sample.partitions, sample.bytes, differing))
}

/// Name, when it was made, recipient, access, label, whether it is the one that is used.
type KeyRow = (String, i64, Option<String>, String, String, bool);

fn key_row(file: &KeyFile, repository: &Repository) -> KeyRow {
    let manifest = &file.manifest;
    (
        file.name.to_string(),
        manifest.created,
        manifest.recipient.clone(),
        manifest.access.to_string(),
        manifest.label.clone(),
        repository.opened_by() == Some(file.name),
    )
}

/// Returns a row for each key.
#[pyfunction]
pub(crate) fn repository_keys(py: Python<'_>, repository: RepositoryRow) -> PyResult<Vec<KeyRow>> {
    let place = repository.place(py)?;
    run(py, None, |_, _| async move {
        let repository = place.open().await?;
        let files = repository.key_files().await?;
        Ok(files.iter().map(|file| key_row(file, &repository)).collect())
    })
}

/// For `recipient`, or `passphrase`, or a new one that is written to `key_file`. Returns the key's row.
#[pyfunction]
pub(crate) fn repository_add_key(
    py: Python<'_>,
    repository: RepositoryRow,
    recipient: Option<String>,
    passphrase: Option<String>,
    key_file: Option<PathBuf>,
    access: &str,
    label: String,
) -> PyResult<KeyRow> {
    let place = repository.place(py)?;
    let access = match access {
        "full" => KeyAccess::Full,
        "write" => KeyAccess::Write,
        _ => return Err(errors::named(py, "InvalidError", "access is 'full' or 'write'")),
    };
    run(py, None, |runtime, _| async move {
        let repository = place.open().await?;
        let lock = match (recipient, passphrase, key_file) {
            (Some(recipient), None, None) => Lock::Recipient(recipient.parse::<AgeRecipient>()?),
            (None, Some(passphrase), None) => Lock::passphrase(passphrase),
            (None, None, Some(path)) => lock(write_new_passphrase(&path)?),
            _ => return Err(Error::new(ErrorKind::Invalid, "one of recipient, passphrase and key_file is given")),
        };
        let file = repository.add_key(&lock, access, &label, runtime.clock().now(), &random()?).await?;
        Ok(key_row(&file, &repository))
    })
}

/// Removes the key whose name begins so.
#[pyfunction]
pub(crate) fn repository_remove_key(py: Python<'_>, repository: RepositoryRow, key: String) -> PyResult<()> {
    let place = repository.place(py)?;
    run(py, None, |_, _| async move {
        let repository = place.open().await?;
        let found = repository.find_key(&key).await?;
        repository.remove_key(&found).await
    })
}

/// Begins a new generation of keys; how many there are.
#[pyfunction]
pub(crate) fn repository_rotate(
    py: Python<'_>,
    repository: RepositoryRow,
    recipients: Vec<String>,
    write_recipients: Vec<String>,
) -> PyResult<usize> {
    let place = repository.place(py)?;
    let parse = |names: Vec<String>, access| {
        names
            .into_iter()
            .map(move |name| Ok((name.parse::<AgeRecipient>()?, access)))
            .collect::<Result<Vec<_>, Error>>()
    };
    let full = parse(recipients, KeyAccess::Full).map_err(|error| errors::raise(py, &error))?;
    let write = parse(write_recipients, KeyAccess::Write).map_err(|error| errors::raise(py, &error))?;
    let trusted = [full, write].concat();
    run(py, None, |runtime, _| async move {
        let repository = place.open().await?;
        let secrets: Vec<Secret> = place.secrets_for(repository.id())?;
        Ok(repository.rotate(&secrets, &trusted, runtime.clock().now(), &random()?).await?.generations().len())
    })
}
