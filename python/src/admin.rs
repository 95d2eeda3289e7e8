//! `KafkaAdminClient`'s Rust half: each function converts its arguments, asks the core, and converts the answer into plain
//! tuples. An error about one thing of many is an exception in its place, not raised.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use ottla::client::config::IsolationLevel;
use ottla::client::{self, ClientConfig, ConfigChange, ConfigResource, NewPartitions, NewTopic, Topic};
use ottla::{Error, Result as CoreResult};
use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::blocking::{self, Deadline, Life};
use crate::consumer::{offsets, partition, partitions};
use crate::errors;
use crate::runtime::{Address, Held, Shared};
use crate::values;

/// How many partitions a topic shall have, and the brokers of each new one.
type More = (i32, Option<Vec<Vec<i32>>>);

/// A resource's kind and name, and for each option the operation and the value.
type Changes = (i8, String, BTreeMap<String, (u8, String)>);

/// What `KafkaAdminClient` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
#[derive(Default)]
pub(crate) struct Admin {
    inner: OnceLock<Inner>,
}

struct Inner {
    admin: Option<client::Admin>,
    held: Held,
    life: Life,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.life.goes_on() {
            // Its locks may be held by threads that this process does not have.
            std::mem::forget(self.admin.take());
            self.held.abandon();
        }
    }
}

/// An exception, or None.
type Fault = Option<Py<PyBaseException>>;

fn fault<T>(py: Python<'_>, result: CoreResult<T>) -> (Fault, Option<T>) {
    match result {
        Ok(value) => (None, Some(value)),
        Err(error) => (Some(exception(py, &error)), None),
    }
}

fn exception(py: Python<'_>, error: &Error) -> Py<PyBaseException> {
    errors::raise(py, error).into_value(py)
}

fn faults(py: Python<'_>, results: Vec<(String, CoreResult<()>)>) -> Vec<(String, Fault)> {
    results.into_iter().map(|(name, result)| (name, fault(py, result).0)).collect()
}

fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// A partition as `(topic, number)`: Python makes its named tuple of it.
type Place = (String, i32);

fn place(name: &client::TopicPartition) -> Place {
    (name.topic.to_string(), name.partition)
}

/// Index, leader, leader epoch, replicas, those in sync, those offline.
type PartitionRow = (usize, i32, i32, Vec<i32>, Vec<i32>, Vec<i32>);
/// Id, whether it is internal, partitions.
type TopicRow = (String, bool, Vec<PartitionRow>);

fn topic_row(topic: &Topic) -> TopicRow {
    let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
        (
            index,
            partition.leader.unwrap_or(-1),
            partition.leader_epoch,
            partition.replicas.clone(),
            partition.in_sync_replicas.clone(),
            partition.offline_replicas.clone(),
        )
    });
    (topic.id.to_string(), topic.is_internal, partitions.collect())
}

fn resource(kind: i8, name: String) -> ConfigResource {
    match kind {
        2 => ConfigResource::Topic(name),
        4 => ConfigResource::Broker(name),
        kind => ConfigResource::Other(kind, name),
    }
}

fn resource_parts(resource: ConfigResource) -> (i8, String) {
    match resource {
        ConfigResource::Topic(name) => (2, name),
        ConfigResource::Broker(name) => (4, name),
        ConfigResource::Other(kind, name) => (kind, name),
    }
}

/// Name, value, read only, sensitive, source, type, documentation.
type ConfigRow = (String, Option<String>, bool, bool, i8, i8, Option<String>);
/// Member id, static name, client id, host, partitions.
type MemberRow = (String, Option<String>, String, String, Vec<Place>);
/// State, protocol type, protocol, members.
type GroupRow = (String, String, String, Vec<MemberRow>);
/// Name, partitions, replication factor, assignments, configuration.
type NewTopicRow = (String, Option<i32>, Option<i16>, Option<BTreeMap<i32, Vec<i32>>>, BTreeMap<String, String>);

impl Admin {
    fn inner(&self, py: Python<'_>) -> PyResult<&client::Admin> {
        let inner = self.inner.get().ok_or_else(|| errors::closed(py, "the admin client"))?;
        inner.life.check(py)?;
        Ok(inner.admin.as_ref().expect("it is taken only when dropped"))
    }

    fn wait<T: Send>(py: Python<'_>, future: impl Future<Output = CoreResult<T>> + Send) -> PyResult<T> {
        blocking::wait(py, Deadline::NEVER, future)?
            .expect("there is no deadline")
            .map_err(|error| errors::raise(py, &error))
    }
}

#[pymethods]
impl Admin {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // They are for `__init__`.
        let _ = (args, kwargs);
        Self::default()
    }

    fn _open(&self, py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<()> {
        crate::logging::start(py)?;
        let mut options = values::options(options)?;
        let runtime = Shared::open()?;
        let address = Address::take(py, &runtime, &mut options)?;
        let config = ClientConfig::from_options(&options).map_err(|error| errors::raise(py, &error))?;
        let client = runtime.client(py, &address, config, true)?;
        let admin = client::Admin::new(client);
        let inner = Inner { admin: Some(admin), held: Held::new(runtime, address), life: Life::now() };
        self.inner.set(inner).map_err(|_| errors::named(py, "IllegalStateError", "the admin client is open already"))
    }

    fn _close(&self, py: Python<'_>) {
        if let Some(inner) = self.inner.get().filter(|inner| inner.life.goes_on()) {
            inner.held.give_back(py);
        }
    }

    fn _create_topics(
        &self,
        py: Python<'_>,
        topics: Vec<NewTopicRow>,
        validate_only: bool,
        timeout_ms: f64,
    ) -> PyResult<Vec<(String, Fault)>> {
        let topics: Vec<NewTopic> = topics
            .into_iter()
            .map(|(name, partitions, replication_factor, assignments, configs)| NewTopic {
                name,
                partitions,
                replication_factor,
                assignments,
                configs,
            })
            .collect();
        let admin = self.inner(py)?;
        let results = Self::wait(py, admin.create_topics(&topics, validate_only, milliseconds(timeout_ms)))?;
        Ok(faults(py, results))
    }

    fn _delete_topics(&self, py: Python<'_>, topics: Vec<String>, timeout_ms: f64) -> PyResult<Vec<(String, Fault)>> {
        let admin = self.inner(py)?;
        let results = Self::wait(py, admin.delete_topics(&texts(&topics), milliseconds(timeout_ms)))?;
        Ok(faults(py, results))
    }

    fn _describe_topics(
        &self,
        py: Python<'_>,
        topics: Option<Vec<String>>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(String, Fault, Option<TopicRow>)>> {
        let admin = self.inner(py)?;
        let timeout = milliseconds(timeout_ms);
        let Some(topics) = topics else {
            let found = Self::wait(py, admin.list_topics(timeout))?;
            return Ok(found.iter().map(|topic| (topic.name.to_string(), None, Some(topic_row(topic)))).collect());
        };
        let found = Self::wait(py, admin.describe_topics(&texts(&topics), timeout))?;
        Ok(found
            .into_iter()
            .map(|(name, result)| {
                let (fault, topic) = fault(py, result);
                (name, fault, topic.map(|topic| topic_row(&topic)))
            })
            .collect())
    }

    fn _wait_for_topics(&self, py: Python<'_>, topics: Vec<String>, timeout_ms: f64) -> PyResult<()> {
        let admin = self.inner(py)?;
        Self::wait(py, admin.wait_for_topics(&texts(&topics), milliseconds(timeout_ms)))
    }

    fn _create_partitions(
        &self,
        py: Python<'_>,
        topics: BTreeMap<String, More>,
        validate_only: bool,
        timeout_ms: f64,
    ) -> PyResult<Vec<(String, Fault)>> {
        let admin = self.inner(py)?;
        let wanted = topics
            .into_iter()
            .map(|(name, (total, assignments))| (name, NewPartitions { total, assignments }))
            .collect();
        let results = Self::wait(py, admin.create_partitions(&wanted, validate_only, milliseconds(timeout_ms)))?;
        Ok(faults(py, results))
    }

    fn _delete_records(
        &self,
        py: Python<'_>,
        wanted: Vec<(Bound<'_, PyAny>, i64)>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(Place, Fault, Option<i64>)>> {
        let admin = self.inner(py)?;
        let wanted: HashMap<_, _> =
            wanted.iter().map(|(name, offset)| Ok((partition(name)?, *offset))).collect::<PyResult<_>>()?;
        let results = Self::wait(py, admin.delete_records(&wanted, milliseconds(timeout_ms)))?;
        Ok(results
            .into_iter()
            .map(|(name, result)| {
                let (fault, start) = fault(py, result);
                (place(&name), fault, start)
            })
            .collect())
    }

    #[allow(clippy::type_complexity)]
    fn _list_offsets(
        &self,
        py: Python<'_>,
        wanted: Vec<(Bound<'_, PyAny>, i64)>,
        committed_only: bool,
        timeout_ms: f64,
    ) -> PyResult<Vec<(Place, Fault, Option<(i64, i64, i32)>)>> {
        let admin = self.inner(py)?;
        let wanted: HashMap<_, _> =
            wanted.iter().map(|(name, time)| Ok((partition(name)?, *time))).collect::<PyResult<_>>()?;
        let isolation = if committed_only { IsolationLevel::ReadCommitted } else { IsolationLevel::ReadUncommitted };
        let results = Self::wait(py, admin.list_offsets(&wanted, isolation, milliseconds(timeout_ms)))?;
        Ok(results
            .into_iter()
            .map(|(name, result)| {
                let (fault, found) = fault(py, result);
                (place(&name), fault, found.map(|found| (found.offset, found.timestamp, found.leader_epoch)))
            })
            .collect())
    }

    #[allow(clippy::type_complexity)]
    fn _describe_configs(
        &self,
        py: Python<'_>,
        resources: Vec<(i8, String, Option<Vec<String>>)>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(i8, String, Fault, Vec<ConfigRow>)>> {
        let admin = self.inner(py)?;
        let wanted: Vec<_> = resources.into_iter().map(|(kind, name, names)| (resource(kind, name), names)).collect();
        let results = Self::wait(py, admin.describe_configs(&wanted, milliseconds(timeout_ms)))?;
        Ok(results
            .into_iter()
            .map(|(found, result)| {
                let (kind, name) = resource_parts(found);
                let (fault, entries) = fault(py, result);
                let rows = entries.into_iter().flatten().map(|entry| {
                    (
                        entry.name,
                        entry.value,
                        entry.read_only,
                        entry.is_sensitive,
                        entry.source,
                        entry.kind,
                        entry.documentation,
                    )
                });
                (kind, name, fault, rows.collect())
            })
            .collect())
    }

    fn _alter_configs(
        &self,
        py: Python<'_>,
        changes: Vec<Changes>,
        validate_only: bool,
        timeout_ms: f64,
    ) -> PyResult<Vec<(i8, String, Fault)>> {
        let admin = self.inner(py)?;
        let changes = changes
            .into_iter()
            .map(|(kind, name, entries)| {
                let entries = entries.into_iter().map(|(name, (op, value))| {
                    let change = match op {
                        0 => ConfigChange::Set(value),
                        1 => ConfigChange::Delete,
                        2 => ConfigChange::Append(value),
                        3 => ConfigChange::Subtract(value),
                        _ => return Err(PyValueError::new_err(format!("no such operation on a configuration: {op}"))),
                    };
                    Ok((name, change))
                });
                Ok((resource(kind, name), entries.collect::<PyResult<_>>()?))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let results = Self::wait(py, admin.alter_configs(&changes, validate_only, milliseconds(timeout_ms)))?;
        Ok(results
            .into_iter()
            .map(|(changed, result)| {
                let (kind, name) = resource_parts(changed);
                (kind, name, fault(py, result).0)
            })
            .collect())
    }

    fn _list_groups(&self, py: Python<'_>, timeout_ms: f64) -> PyResult<Vec<(String, String, String, String)>> {
        let admin = self.inner(py)?;
        let found = Self::wait(py, admin.list_groups(milliseconds(timeout_ms)))?;
        Ok(found
            .into_iter()
            .map(|group| (group.group_id, group.protocol_type, group.state, group.group_type))
            .collect())
    }

    fn _describe_groups(
        &self,
        py: Python<'_>,
        groups: Vec<String>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(String, Fault, Option<GroupRow>)>> {
        let admin = self.inner(py)?;
        let found = Self::wait(py, admin.describe_groups(&texts(&groups), milliseconds(timeout_ms)))?;
        Ok(found
            .into_iter()
            .map(|(group, result)| {
                let (fault, described) = fault(py, result);
                let row = described.map(|described| {
                    let members = described.members.into_iter().map(|member| {
                        let partitions = member.assignment.iter().map(place).collect();
                        (member.member_id, member.group_instance_id, member.client_id, member.client_host, partitions)
                    });
                    (described.state, described.protocol_type, described.protocol, members.collect())
                });
                (group, fault, row)
            })
            .collect())
    }

    fn _delete_groups(&self, py: Python<'_>, groups: Vec<String>, timeout_ms: f64) -> PyResult<Vec<(String, Fault)>> {
        let admin = self.inner(py)?;
        let results = Self::wait(py, admin.delete_groups(&texts(&groups), milliseconds(timeout_ms)))?;
        Ok(faults(py, results))
    }

    #[allow(clippy::type_complexity)]
    fn _list_group_offsets(
        &self,
        py: Python<'_>,
        group: &str,
        list: Option<&Bound<'_, PyList>>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(Place, (i64, String, i32))>> {
        let admin = self.inner(py)?;
        let names = list.map(partitions).transpose()?;
        let asked = admin.list_group_offsets(group, names.as_deref(), milliseconds(timeout_ms));
        let found = Self::wait(py, asked)?;
        Ok(found
            .into_iter()
            .map(|(name, found)| (place(&name), (found.offset, found.metadata, found.leader_epoch)))
            .collect())
    }

    fn _alter_group_offsets(
        &self,
        py: Python<'_>,
        group: &str,
        list: &Bound<'_, PyList>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(Place, Fault)>> {
        let admin = self.inner(py)?;
        let wanted = offsets(list)?;
        let results = Self::wait(py, admin.alter_group_offsets(group, &wanted, milliseconds(timeout_ms)))?;
        Ok(results.into_iter().map(|(name, result)| (place(&name), fault(py, result).0)).collect())
    }

    fn _delete_group_offsets(
        &self,
        py: Python<'_>,
        group: &str,
        list: &Bound<'_, PyList>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(Place, Fault)>> {
        let admin = self.inner(py)?;
        let names = partitions(list)?;
        let results = Self::wait(py, admin.delete_group_offsets(group, &names, milliseconds(timeout_ms)))?;
        Ok(results.into_iter().map(|(name, result)| (place(&name), fault(py, result).0)).collect())
    }

    fn _remove_members(
        &self,
        py: Python<'_>,
        group: &str,
        members: Vec<(String, Option<String>)>,
        timeout_ms: f64,
    ) -> PyResult<Vec<(String, Fault)>> {
        let admin = self.inner(py)?;
        let results = Self::wait(py, admin.remove_members(group, &members, milliseconds(timeout_ms)))?;
        Ok(faults(py, results))
    }

    #[allow(clippy::type_complexity)]
    fn _describe_cluster(
        &self,
        py: Python<'_>,
        timeout_ms: f64,
    ) -> PyResult<(Option<String>, i32, Vec<(i32, String, u16, Option<String>)>)> {
        let admin = self.inner(py)?;
        let cluster = Self::wait(py, admin.describe_cluster(milliseconds(timeout_ms)))?;
        let brokers = cluster
            .brokers
            .values()
            .map(|broker| (broker.node_id, broker.endpoint.host.clone(), broker.endpoint.port, broker.rack.clone()));
        Ok((cluster.cluster_id.clone(), cluster.controller_id.unwrap_or(-1), brokers.collect()))
    }
}
