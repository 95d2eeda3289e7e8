//! The embedded broker as an object of Python's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ottla::Result;
use ottla::broker::BrokerConfig;
use ottla::native::{LocalBroker, Location, Server};
use pyo3::prelude::*;

use crate::blocking::Life;
use crate::errors;
use crate::runtime::Shared;

/// What `ottla.Broker` does in Rust.
#[pyclass(subclass, frozen, weakref, module = "ottla._ottla")]
pub(crate) struct Broker {
    open: Mutex<Option<Open>>,
    bootstrap_servers: String,
    data: Option<String>,
    life: Life,
}

struct Open {
    server: Option<Server>,
    broker: Arc<LocalBroker>,
    runtime: Shared,
}

impl Open {
    /// Ends the connections, then the broker. Waits for the device.
    fn close(self) -> Result<()> {
        let Self { server, broker, runtime } = self;
        if let Some(server) = server {
            runtime.runtime().block_on(server.close());
        }
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
        let started = py.detach(|| start(&broker, listen.as_deref()));
        let (server, bootstrap_servers) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = py.detach(|| broker.close());
                return Err(errors::raise(py, &error));
            }
        };
        let open = Mutex::new(Some(Open { server, broker, runtime }));
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

/// Listens, if it is to, and says where clients find the broker.
fn start(broker: &LocalBroker, listen: Option<&str>) -> Result<(Option<Server>, String)> {
    let Some(listen) = listen else { return Ok((None, broker.location().to_string())) };
    let (server, address) = broker.listen(listen)?;
    Ok((Some(server), address))
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
