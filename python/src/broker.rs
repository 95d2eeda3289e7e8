//! The embedded broker as an object of Python's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use std::time::Duration;

use ottla::broker::BrokerConfig;
use ottla::client::{ClientConfig, Options};
use ottla::native::{LocalBroker, Location, Node, NodeOptions};
use ottla::replication::{Role, promote};
use ottla::transport::Endpoint;
use ottla::{Error, ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking::{self, Deadline, Life};
use crate::errors;
use crate::pipe::{Topics, selection};
use crate::runtime::Shared;
use crate::values;

/// What `ottla.Broker` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
pub(crate) struct Broker {
    open: Mutex<Option<Open>>,
    bootstrap_servers: String,
    data: Option<String>,
    life: Life,
}

struct Open {
    node: Node,
    broker: Arc<LocalBroker>,
    runtime: Shared,
}

impl Open {
    /// Ends the connections, then the broker. Waits for the device.
    fn close(self) -> Result<()> {
        let Self { node, broker, runtime } = self;
        runtime.runtime().block_on(node.close());
        let closed = broker.close();
        drop(broker);
        drop(runtime);
        closed
    }
}

impl Broker {
    /// The broker itself, for what runs beside its clients.
    pub(crate) fn local(&self, py: Python<'_>) -> PyResult<Arc<LocalBroker>> {
        self.life.check(py)?;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| Arc::clone(&open.broker)).ok_or_else(|| errors::closed(py, "the broker"))
    }

    fn with_node<T>(&self, py: Python<'_>, look: impl FnOnce(&Node) -> Result<T>) -> PyResult<T> {
        self.life.check(py)?;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or_else(|| errors::closed(py, "the broker"))?;
        look(&open.node).map_err(|error| errors::raise(py, &error))
    }

    fn take(&self) -> Option<Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Broker {
    #[new]
    fn new(
        py: Python<'_>,
        data: Option<String>,
        listen: Option<String>,
        options: Vec<(String, String)>,
        advertise: Option<String>,
        node_id: Option<i32>,
        follow: Option<Follow<'_>>,
    ) -> PyResult<Self> {
        crate::logging::start(py)?;
        let config = config(&options).map_err(|error| errors::raise(py, &error))?;
        let runtime = Shared::open()?;
        let location = match (&data, &listen) {
            (Some(directory), _) => Some(Location::Directory(directory.into())),
            (None, Some(_)) => None,
            (None, None) => Some(Location::Memory(unused_name())),
        };
        let broker = runtime.broker(py, location, config)?;
        let mut options = NodeOptions { listen, node_id, ..NodeOptions::default() };
        let started = set_up(py, &mut options, advertise, follow)
            .and_then(|()| py.detach(|| start(&runtime, &broker, options)).map_err(|error| errors::raise(py, &error)));
        let node = match started {
            Ok(node) => node,
            Err(error) => {
                let _ = py.detach(|| broker.close());
                return Err(error);
            }
        };
        let bootstrap_servers = match node.endpoint() {
            Some(endpoint) => endpoint.to_string(),
            None => broker.location().to_string(),
        };
        let open = Mutex::new(Some(Open { node, broker, runtime }));
        Ok(Self { open, bootstrap_servers, data, life: Life::now() })
    }

    /// What to give to a client as its `bootstrap_servers`.
    #[getter]
    fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The directory, or None for a broker in memory.
    #[getter]
    fn data(&self) -> Option<&str> {
        self.data.as_deref()
    }

    /// The broker's number.
    #[getter]
    fn node_id(&self, py: Python<'_>) -> PyResult<i32> {
        self.with_node(py, |node| Ok(node.node_id()))
    }

    /// The address of the leader that it follows, or None if it leads.
    #[getter]
    fn leader(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.with_node(py, |node| {
            Ok(match node.member().role()? {
                Role::Leader => None,
                Role::Follower(leader) => Some(leader.endpoint().to_string()),
                Role::Replica(address) => Some(address),
            })
        })
    }

    /// The leader epoch that it leads or follows in.
    #[getter]
    fn leader_epoch(&self, py: Python<'_>) -> PyResult<i32> {
        self.with_node(py, |node| node.member().leader_epoch())
    }

    /// Wait until it has what its leader had when this was called.
    fn wait_until_caught_up(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let member = self.with_node(py, |node| Ok(node.member().clone()))?;
        let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
        let waited = blocking::wait(py, Deadline::after(timeout), async move { member.caught_up(timeout).await })?;
        waited.unwrap_or_else(|| Err(late(timeout))).map_err(|error| errors::raise(py, &error))
    }

    /// Make this broker the leader. Whether it was not before.
    fn promote(&self, py: Python<'_>, unclean: bool, timeout: f64) -> PyResult<bool> {
        let local = self.local(py)?;
        let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
        let client = local.client(ClientConfig::from_options(&Options::new()).map_err(|e| errors::raise(py, &e))?);
        // Any address is this broker, without a port.
        let here = Endpoint::new("localhost", Endpoint::DEFAULT_PORT);
        let promoted =
            blocking::wait(py, Deadline::after(timeout), async move { promote(&client, &here, unclean).await })?;
        promoted.unwrap_or_else(|| Err(late(timeout))).map_err(|error| errors::raise(py, &error))
    }

    /// Close the connections, write what is left, and give back the port and the directory.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.life.goes_on() {
            return Ok(());
        }
        match self.take() {
            Some(open) => py.detach(|| open.close()).map_err(|error| errors::raise(py, &error)),
            None => Ok(()),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(open) = self.take() else { return };
        if !self.life.goes_on() {
            // Its threads stayed in the parent.
            std::mem::forget(open);
            return;
        }
        if let Err(error) = open.close() {
            log::warn!("the embedded broker was not closed cleanly: {error}");
        }
    }
}

/// Whom to follow: the address, whether synchronously, which topics, and a client's options.
type Follow<'py> = (String, bool, Option<Topics>, Bound<'py, PyDict>);

fn set_up(
    py: Python<'_>,
    options: &mut NodeOptions,
    advertise: Option<String>,
    follow: Option<Follow<'_>>,
) -> PyResult<()> {
    options.advertise =
        advertise.map(|address| Endpoint::parse(&address)).transpose().map_err(|error| errors::raise(py, &error))?;
    if let Some((address, synchronous, topics, client)) = follow {
        options.follow = Some(address);
        options.synchronous = synchronous;
        options.topics = selection(py, topics)?;
        options.client = values::options(&client)?;
    }
    Ok(())
}

/// Listens, if it is to, and leads or follows.
fn start(runtime: &Shared, broker: &Arc<LocalBroker>, options: NodeOptions) -> Result<Node> {
    let (node, driver) = Node::start(runtime.runtime(), Arc::clone(broker), options)?;
    let name = broker.location().to_string();
    runtime.runtime().spawn(async move {
        if let Err(error) = driver.await {
            log::error!("a broker follows its leader no more broker={name}: {error}");
        }
    });
    Ok(node)
}

fn late(timeout: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no outcome in time timeout_ms={}", timeout.as_millis()))
}

/// A name that no broker of this process has.
fn unused_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("broker-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A configuration of Kafka's names.
fn config(options: &[(String, String)]) -> Result<BrokerConfig> {
    let mut config = BrokerConfig::default();
    options.iter().try_for_each(|(name, value)| config.set(name, value))?;
    Ok(config)
}
