//! The local replica as an object of Python's.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ottla::native::{Replica as Native, ReplicaEvent, ReplicaEvents, ReplicaOptions};
use ottla::replication::{Begin, Copied, Portion, Recreated, TopicPartition};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::blocking::{self, Deadline, Life};
use crate::errors;
use crate::pipe::{From, PartitionRow, Topics, partition_rows, run, selection};
use crate::runtime::{Shared, check_embedded_life};

/// What `ottla.Replica` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
pub(crate) struct Replica {
    open: Mutex<Option<(Native, Shared)>>,
    bootstrap_servers: String,
    data: String,
    life: Life,
}

impl Replica {
    fn open(&self, py: Python<'_>) -> PyResult<(Native, Shared)> {
        self.life.check(py)?;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| errors::closed(py, "the replica"))
    }

    fn take(&self) -> Option<(Native, Shared)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Replica {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        directory: PathBuf,
        source: &Bound<'_, PyAny>,
        topics: Option<Topics>,
        partitions: Vec<String>,
        since: Option<i64>,
        last: Option<u64>,
        groups: Option<Topics>,
        restart: bool,
        limit_rate: Option<u64>,
        max_bytes: Option<usize>,
        listen: Option<String>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let py = source.py();
        check_embedded_life(py)?;
        crate::logging::start(py)?;
        let from = From::take(source, options)?;
        let mut options = ReplicaOptions::default();
        options.topics = topics.map(|topics| selection(py, Some(topics))).transpose()?;
        options.groups = groups.map(|groups| selection(py, Some(groups))).transpose()?;
        let begin = match (since, last) {
            (Some(since), _) => Begin::Since(since),
            (None, Some(last)) => Begin::Last(last),
            (None, None) => Begin::Start,
        };
        options.portion =
            Portion::from(begin).with_partitions(partitions).map_err(|error| errors::raise(py, &error))?;
        options.recreated = if restart { Recreated::Restart } else { Recreated::Refuse };
        options.limit_rate = limit_rate;
        options.max_bytes = max_bytes.unwrap_or(options.max_bytes);
        options.listen = listen;
        let shared = Shared::open()?;
        let opened = py.detach(|| {
            let runtime = shared.runtime();
            let source = from.unconnected(runtime)?;
            Native::open(runtime, &directory, source, options)
        });
        let native = opened.map_err(|error| errors::raise(py, &error))?;
        let bootstrap_servers = native.bootstrap_servers().to_owned();
        let open = Mutex::new(Some((native, shared)));
        Ok(Self { open, bootstrap_servers, data: directory.to_string_lossy().into_owned(), life: Life::now() })
    }

    /// What to give to a client as its `bootstrap_servers`.
    #[getter]
    fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The directory.
    #[getter]
    fn data(&self) -> &str {
        &self.data
    }

    /// Copies once; a row for each partition.
    fn _sync(&self, py: Python<'_>, full: bool, progress: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<PartitionRow>> {
        let (native, _shared) = self.open(py)?;
        let copied = run(py, progress, |_, reported| async move {
            native.sync(full, &|progress| reported.note(progress)).await.and_then(Copied::all)
        })?;
        Ok(partition_rows(copied.done()))
    }

    /// Goes on with what is new, in the background.
    fn follow(&self, py: Python<'_>) -> PyResult<()> {
        let (native, _shared) = self.open(py)?;
        native.follow().map_err(|error| errors::raise(py, &error))
    }

    /// Follows no more.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let (native, _shared) = self.open(py)?;
        blocking::wait(py, Deadline::NEVER, native.stop()).map(drop)
    }

    /// Waits until everything is here that the source has now.
    fn _caught_up(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let (native, _shared) = self.open(py)?;
        let timeout = Deadline::after_seconds(timeout).remaining().unwrap_or(Duration::MAX);
        match blocking::wait(py, Deadline::NEVER, native.caught_up(timeout))? {
            Some(Err(error)) => Err(errors::raise(py, &error)),
            _ => Ok(()),
        }
    }

    /// The fields of a `ReplicaStatus`, with a tuple for each partition.
    fn _status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (native, _shared) = self.open(py)?;
        let status = py.detach(|| native.status()).map_err(|error| errors::raise(py, &error))?;
        let row = PyDict::new(py);
        row.set_item("source", status.source)?;
        row.set_item("cluster_id", status.cluster_id)?;
        row.set_item("is_following", status.is_following)?;
        row.set_item("paused", status.paused)?;
        row.set_item("error", status.error)?;
        row.set_item("synced_at_ms", status.synced_at)?;
        let partitions = status.partitions.into_iter().map(|at| {
            let holes: Vec<(i64, i64, i64)> =
                at.holes.iter().map(|hole| (hole.start, hole.end, hole.found_at)).collect();
            (
                (at.partition.topic.to_string(), at.partition.partition),
                (at.source_end, at.local_start, at.local_end),
                (at.behind_records, at.behind_bytes, at.behind_seconds),
                (at.synced_at, holes, at.error),
            )
        });
        row.set_item("partitions", partitions.collect::<Vec<_>>())?;
        Ok(row)
    }

    /// What happens from now on.
    fn _events(&self, py: Python<'_>) -> PyResult<Events> {
        let (native, _shared) = self.open(py)?;
        Ok(Events { receiver: Mutex::new(native.events()), life: self.life })
    }

    /// Stops, closes the connections, and gives back the port and the directory.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.life.goes_on() {
            return Ok(());
        }
        match self.take() {
            Some((native, shared)) => {
                py.detach(|| shared.runtime().block_on(native.close())).map_err(|error| errors::raise(py, &error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let Some((native, shared)) = self.take() else { return };
        if !self.life.goes_on() {
            // Its threads stayed in the parent.
            std::mem::forget((native, shared));
            return;
        }
        if let Err(error) = shared.runtime().block_on(native.close()) {
            log::warn!("the replica was not closed cleanly: {error}");
        }
    }
}

/// The events of a replica, as one listener gets them.
#[pyclass(frozen, module = "ottla._ottla")]
pub(crate) struct Events {
    receiver: Mutex<ReplicaEvents>,
    life: Life,
}

#[pymethods]
impl Events {
    /// The next event: its kind, what it says, its partitions, records and bytes. None if none comes in time.
    ///
    /// Raises StopIteration when the replica is closed.
    fn _next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.life.check(py)?;
        let deadline = Deadline::after_seconds(timeout);
        let Ok(mut receiver) = self.receiver.try_lock() else {
            return Err(errors::named(py, "InvalidError", "another thread waits for these events, each needs its own"));
        };
        match blocking::wait(py, deadline, receiver.next())? {
            None => Ok(None),
            Some(None) => Err(PyStopIteration::new_err(())),
            Some(Some(event)) => row(py, event).map(Some),
        }
    }
}

fn row(py: Python<'_>, event: ReplicaEvent) -> PyResult<Bound<'_, PyTuple>> {
    type Places = Vec<(String, i32)>;
    let place = |at: TopicPartition| (at.topic.to_string(), at.partition);
    let (kind, message, partitions, records, bytes): (_, Option<String>, Places, u64, u64) = match event {
        ReplicaEvent::Change { partitions, records, bytes } => {
            ("change", None, partitions.into_iter().map(place).collect(), records, bytes)
        }
        ReplicaEvent::UpToDate => ("up_to_date", None, Vec::new(), 0, 0),
        ReplicaEvent::Paused(why) => ("paused", Some(why), Vec::new(), 0, 0),
        ReplicaEvent::Error(what) => ("error", Some(what), Vec::new(), 0, 0),
    };
    (kind, message, partitions, records, bytes).into_pyobject(py)
}
