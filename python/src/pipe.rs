//! Replicate, back up, restore and check, as functions.
//!
//! Each converts its arguments, has one function of the core run on the runtime's threads, and converts what comes back into
//! plain rows, of which `ottla/pipe.py` makes its values.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ottla::backup::{
    BackupOptions, CheckOptions, Compression, DirectoryOptions, RestoreOptions, Restored, Sample, Snapshot,
};
use ottla::client::Options;
use ottla::native::pipe::{self, Chosen, OpenSource, Place, Target};
use ottla::native::repository::{Access, RepositoryPlace, random};
use ottla::native::{LocalBroker, Location, Replica, ReplicaOptions, Runtime};
use ottla::replication::{
    At, Compared, Copied, PartitionCopied, Portion, Progress, Selection, TransferOptions, Verified,
};
use ottla::{Error, ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::blocking::{self, Deadline};
use crate::broker::Broker;
use crate::errors;
use crate::runtime::{Shared, check_embedded_life};
use crate::values;

/// How often a progress callback may be called.
const TICK: Duration = Duration::from_millis(100);
/// How long a call that is interrupted waits for its work to let go of files and locks.
const LETTING_GO: Duration = Duration::from_millis(100);

/// Topic, number, extent, start, end, batches, records, bytes, what the source no longer had, where histories parted.
pub(crate) type PartitionRow = (String, i32, String, i64, i64, u64, u64, u64, Option<(i64, i64)>, Option<i64>);

pub(crate) fn partition_rows<'a>(copied: impl IntoIterator<Item = &'a PartitionCopied>) -> Vec<PartitionRow> {
    copied
        .into_iter()
        .map(|copied| {
            (
                copied.partition.topic.to_string(),
                copied.partition.partition,
                copied.extent.to_string(),
                copied.start,
                copied.end,
                copied.batches,
                copied.records,
                copied.bytes,
                copied.hole.map(|hole| (hole.start, hole.end)),
                copied.parted_at,
            )
        })
        .collect()
}

/// A snapshot under the names that it has in Python.
pub(crate) fn snapshot_row<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let manifest = &snapshot.manifest;
    let notes = manifest.notes.iter().map(|note| match note.partition {
        Some(partition) => format!("{}-{partition} {}", note.topic, note.text),
        None => format!("{} {}", note.topic, note.text),
    });
    let row = PyDict::new(py);
    row.set_item("id", snapshot.id.to_string())?;
    row.set_item("time_ms", manifest.time)?;
    row.set_item("extent", manifest.extent.to_string())?;
    row.set_item("parent", manifest.parent.map(|parent| parent.to_string()))?;
    row.set_item("source", &manifest.source.address)?;
    row.set_item("topics", manifest.totals.topics)?;
    row.set_item("partitions", manifest.totals.partitions)?;
    row.set_item("records", manifest.totals.records)?;
    row.set_item("bytes", manifest.totals.bytes)?;
    row.set_item("stored_bytes", manifest.totals.stored_bytes)?;
    row.set_item("new_records", manifest.costs.new_records)?;
    row.set_item("new_bytes", manifest.costs.new_bytes)?;
    row.set_item("new_stored_bytes", manifest.costs.new_stored_bytes)?;
    row.set_item("shared_bytes", manifest.costs.shared_bytes)?;
    row.set_item("duration_ms", manifest.costs.milliseconds)?;
    row.set_item("notes", notes.collect::<Vec<_>>())?;
    Ok(row)
}

/// A choice of topics: a text as on the command line, or a list of names and patterns.
#[derive(FromPyObject)]
pub(crate) enum Topics {
    Text(String),
    Choices(Vec<String>),
}

pub(crate) fn selection(py: Python<'_>, topics: Option<Topics>) -> PyResult<Selection> {
    match topics {
        None => Ok(Selection::all()),
        Some(Topics::Text(text)) => text.parse(),
        Some(Topics::Choices(choices)) => Selection::new(choices),
    }
    .map_err(|error: Error| errors::raise(py, &error))
}

/// What `parse` makes of a text; a path object names a directory.
fn place(place: &Bound<'_, PyAny>, parse: impl FnOnce(&str) -> Result<Place>) -> PyResult<Place> {
    match place.extract::<String>() {
        Ok(text) => parse(&text).map_err(|error| errors::raise(place.py(), &error)),
        Err(_) => Ok(Place::Log(Location::Directory(place.extract::<PathBuf>()?))),
    }
}

/// A repository as `ottla.Repository` has it: its name; passphrase, file and command of one; files with identities; whether it is
/// plain.
#[derive(FromPyObject)]
pub(crate) struct RepositoryRow(PathBuf, Option<String>, Option<PathBuf>, Option<String>, Vec<PathBuf>, bool);

impl RepositoryRow {
    pub(crate) fn place(self, py: Python<'_>) -> PyResult<RepositoryPlace> {
        let Self(name, passphrase, passphrase_file, passphrase_command, identities, plain) = self;
        let mut access = passphrase.map_or_else(Access::default, Access::passphrase);
        access.passphrase_file = passphrase_file;
        access.passphrase_command = passphrase_command;
        access.identities = identities;
        access.plain = plain;
        RepositoryPlace::new(&text(py, name)?, access).map_err(|error| errors::raise(py, &error))
    }
}

/// What to copy from, and the options of the client that does.
pub(crate) struct From {
    end: End,
    options: Options,
}

/// A broker of this process, or a place to open.
enum End {
    Broker(Arc<LocalBroker>),
    Place(Place),
}

impl From {
    pub(crate) fn take(source: &Bound<'_, PyAny>, options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let options = values::options(options)?;
        let end = match source.cast::<Broker>() {
            Ok(broker) => End::Broker(broker.get().local(source.py())?),
            Err(_) => {
                let place = place(source, Place::parse)?;
                if matches!(place, Place::Log(_)) {
                    check_embedded_life(source.py())?;
                }
                End::Place(place)
            }
        };
        Ok(Self { end, options })
    }

    /// Opens it, and asks no cluster yet.
    pub(crate) fn unconnected(self, runtime: &Runtime) -> Result<OpenSource> {
        match self.end {
            End::Broker(local) => OpenSource::of_local(local, &self.options),
            End::Place(place) => OpenSource::new(runtime, &place, &self.options),
        }
    }

    async fn open(self, runtime: &Runtime) -> Result<OpenSource> {
        match self.end {
            End::Broker(local) => OpenSource::of_local(local, &self.options),
            End::Place(place) => OpenSource::open(runtime, &place, &self.options).await,
        }
    }
}

/// How far the work is, where it has not been told yet.
#[derive(Clone, Default)]
pub(crate) struct Reported(Arc<Mutex<Option<Progress>>>);

impl Reported {
    pub(crate) fn note(&self, progress: &Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(*progress);
    }

    /// Calls `callback` if there is something new.
    fn tell(&self, callback: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Some(callback) = callback else { return Ok(()) };
        let news = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Progress { partitions, total_partitions, offsets, total_offsets, records, bytes }) = news else {
            return Ok(());
        };
        callback.call1((partitions, total_partitions, offsets, total_offsets, records, bytes)).map(drop)
    }
}

/// Runs `work` on the runtime's threads and waits for it, calling `progress` on this thread meanwhile. Ends the work when
/// Ctrl-C, or the callback, raises.
pub(crate) fn run<T, F>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(Runtime, Reported) -> F,
) -> PyResult<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    crate::logging::start(py)?;
    let shared = Shared::open()?;
    let reported = Reported::default();
    let mut task = shared.runtime().spawn(work(shared.runtime().clone(), reported.clone()));
    let done = loop {
        let deadline = if progress.is_some() { Deadline::after(TICK) } else { Deadline::NEVER };
        let waited = blocking::wait(py, deadline, &mut task).and_then(|done| {
            reported.tell(progress)?;
            Ok(done)
        });
        match waited {
            Ok(None) => {}
            Ok(Some(done)) => break done,
            Err(raised) => {
                task.abort();
                let until = Instant::now() + LETTING_GO;
                py.detach(|| {
                    while !task.is_finished() && Instant::now() < until {
                        thread::sleep(Duration::from_millis(1));
                    }
                });
                return Err(raised);
            }
        }
    };
    match done {
        Ok(done) => done.map_err(|error| errors::raise(py, &error)),
        Err(failed) if failed.is_panic() => Err(errors::panicked(py, &*failed.into_panic())),
        Err(_) => Err(errors::closed(py, "the runtime")),
    }
}

/// Returns a row for each partition.
#[pyfunction]
pub(crate) fn replicate(
    source: &Bound<'_, PyAny>,
    directory: PathBuf,
    topics: Option<Topics>,
    full: bool,
    progress: Option<&Bound<'_, PyAny>>,
    options: &Bound<'_, PyDict>,
) -> PyResult<Vec<PartitionRow>> {
    let py = source.py();
    check_embedded_life(py)?;
    let (from, topics) = (From::take(source, options)?, selection(py, topics)?);
    let copied = run(py, progress, |runtime, reported| async move {
        let source = from.open(&runtime).await?;
        let mut options = ReplicaOptions::default();
        options.topics = Some(topics);
        let replica = Replica::open_checked(&runtime, &directory, source, options).await?;
        let copied = replica.sync(full, &|progress| reported.note(progress)).await.and_then(Copied::all);
        replica.close().await?;
        copied
    })?;
    Ok(partition_rows(copied.done()))
}

/// Returns the snapshot and a row for each partition.
#[pyfunction]
pub(crate) fn backup<'py>(
    source: &Bound<'py, PyAny>,
    repository: RepositoryRow,
    topics: Option<Topics>,
    full: bool,
    compression: &str,
    progress: Option<&Bound<'py, PyAny>>,
    options: &Bound<'py, PyDict>,
) -> PyResult<(Bound<'py, PyDict>, Vec<PartitionRow>)> {
    let py = source.py();
    let from = From::take(source, options)?;
    let mut options = BackupOptions::default();
    options.topics = selection(py, topics)?;
    options.full = full;
    options.compression = match compression {
        "none" => Compression::None,
        "zstd" => Compression::Zstd,
        _ => return Err(errors::named(py, "InvalidError", "compression is 'none' or 'zstd'")),
    };
    let repository = repository.place(py)?;
    let made = run(py, progress, |runtime, reported| async move {
        let source = from.open(&runtime).await?;
        let made = pipe::backup(source.cluster(), &repository, &options, &|progress| reported.note(progress)).await?;
        source.close()?;
        Ok(made)
    })?;
    Ok((snapshot_row(py, &made.snapshot)?, partition_rows(&made.partitions)))
}

/// What `restore` takes beside places: which point in time and partitions, and what may become of the target.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RestoreRequest {
    at_ms: Option<i64>,
    partitions: Vec<String>,
    rename: BTreeMap<String, String>,
    replication_factor: Option<i16>,
    force: bool,
}

/// Returns the snapshot's id, a row for each partition, and the groups' names.
#[pyfunction]
pub(crate) fn restore(
    repository: RepositoryRow,
    target: &Bound<'_, PyAny>,
    snapshot: String,
    topics: Option<Topics>,
    request: RestoreRequest,
    progress: Option<&Bound<'_, PyAny>>,
    options: &Bound<'_, PyDict>,
) -> PyResult<(String, Vec<PartitionRow>, Vec<String>)> {
    let py = target.py();
    check_embedded_life(py)?;
    let topics = selection(py, topics)?;
    let client = values::options(options)?;
    let target = match target.extract::<String>() {
        Ok(text) => Target::parse(&text),
        Err(_) => Target::Place(place(target, Place::parse)?),
    };
    let repository = repository.place(py)?;
    let at = At { time: request.at_ms, ..At::default() };
    let partitions = Portion::default().with_partitions(&request.partitions);
    let partitions = partitions.map_err(|error| errors::raise(py, &error))?;
    let restored = run(py, progress, |runtime, reported| async move {
        let progress = |progress: &Progress| reported.note(progress);
        let chosen = Chosen { repository: &repository, snapshot: &snapshot, topics: &topics };
        match target {
            Target::LogDirectories(directories) => {
                let mut options = DirectoryOptions::default();
                (options.at, options.partitions, options.force) = (at, partitions, request.force);
                let restoring = pipe::restore_directories(&runtime, chosen, &directories, &options, &progress);
                let (_, restored) = restoring.await?;
                restored.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "nothing was restored, though more than a plan was wanted")
                })
            }
            Target::Place(cluster @ Place::Cluster(_)) => {
                let mut options = TransferOptions::default();
                (options.partitions, options.force) = (partitions, request.force);
                (options.renamed, options.replication_factor) = (request.rename, request.replication_factor);
                let target = OpenSource::open(&runtime, &cluster, &client).await?;
                let restoring =
                    pipe::restore_to_cluster(chosen, target.cluster(), &at, options, &|_| {}, &progress).await?;
                target.close()?;
                let (snapshot, done) = restoring.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "nothing was restored, though more than a plan was wanted")
                })?;
                Ok(Restored { snapshot: snapshot.id, copied: done.copied, groups: done.groups })
            }
            Target::Place(log) => {
                let mut options = RestoreOptions::default();
                (options.at, options.partitions) = (at, partitions);
                pipe::restore(&runtime, chosen, &log, &options, &progress).await
            }
        }
    })?;
    let groups = restored.groups.into_iter().map(|group| group.group).collect();
    Ok((restored.snapshot.to_string(), partition_rows(restored.copied.done()), groups))
}

/// Topic, number, start, end, records alike and not, the first of these, offsets removed and lacking at the target.
pub(crate) type VerifiedRow = (String, i32, i64, i64, u64, u64, Option<String>, u64, u64);

/// Returns a row for each partition.
#[pyfunction]
pub(crate) fn verify(
    repository: RepositoryRow,
    cluster: &Bound<'_, PyAny>,
    snapshot: String,
    topics: Option<Topics>,
    rename: BTreeMap<String, String>,
    options: &Bound<'_, PyDict>,
) -> PyResult<Vec<VerifiedRow>> {
    let py = cluster.py();
    let from = From::take(cluster, options)?;
    let topics = selection(py, topics)?;
    let repository = repository.place(py)?;
    let verified = run(py, None, |runtime, _| async move {
        let target = from.open(&runtime).await?;
        let chosen = Chosen { repository: &repository, snapshot: &snapshot, topics: &topics };
        let (_, verified) = pipe::verify(chosen, target.cluster(), &rename, &|_| {}).await?;
        target.close()?;
        Ok(verified)
    })?;
    let rows = verified.into_iter().map(|Verified { compared, removed, lacking }| {
        let Compared { partition, start, end, same, differing, first } = compared;
        (partition.topic.to_string(), partition.partition, start, end, same, differing, first, removed, lacking)
    });
    Ok(rows.collect())
}

/// Returns the snapshots, oldest first.
#[pyfunction]
pub(crate) fn snapshots(py: Python<'_>, repository: RepositoryRow) -> PyResult<Bound<'_, PyList>> {
    let repository = repository.place(py)?;
    let found = run(py, None, |_, _| async move { repository.open().await?.snapshots().await })?;
    let rows = found.iter().map(|snapshot| snapshot_row(py, snapshot)).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, rows)
}

/// Returns what was found: counts, and a row for each problem.
#[pyfunction]
pub(crate) fn check(py: Python<'_>, repository: RepositoryRow, read_data: f64) -> PyResult<Bound<'_, PyDict>> {
    let repository = repository.place(py)?;
    let mut options = CheckOptions::default();
    if !(0.0..=1.0).contains(&read_data) {
        return Err(errors::named(py, "InvalidError", "read_data is a share from 0 to 1"));
    }
    options.read_data = read_data > 0.0;
    let seed = random().map_err(|error| errors::raise(py, &error))?;
    let seed = u64::from_be_bytes([seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]]);
    options.sample = Sample { of_million: (read_data * 1e6).round().max(1.0) as u32, seed };
    let report = run(py, None, |_, _| async move { pipe::check(&repository, options).await })?;
    let row = PyDict::new(py);
    row.set_item("snapshots", report.snapshots)?;
    row.set_item("manifests", report.manifests)?;
    row.set_item("objects", report.objects)?;
    row.set_item("stored_bytes", report.stored_bytes)?;
    row.set_item("read_bytes", report.read_bytes)?;
    row.set_item("unreferenced", report.unreferenced)?;
    row.set_item("unreferenced_bytes", report.unreferenced_bytes)?;
    let problems: Vec<_> = report
        .problems
        .into_iter()
        .map(|problem| {
            let partition = problem.partition.map(|at| (at.topic.to_string(), at.partition));
            (problem.message, problem.snapshots, partition, problem.offsets.map(|offsets| (offsets.start, offsets.end)))
        })
        .collect();
    row.set_item("problems", problems)?;
    Ok(row)
}

/// A repository's place as text: it may be a URL.
fn text(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    path.into_os_string().into_string().map_err(|path| {
        errors::named(py, "InvalidError", &format!("a repository's name is UTF-8 given={}", path.display()))
    })
}
