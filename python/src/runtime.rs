//! The threads that the clients of this process share: started with the first handle, ended with the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ottla::ErrorKind;
use ottla::broker::BrokerConfig;
use ottla::client::config::Value;
use ottla::client::{Client, ClientConfig, Options};
use ottla::native::{LocalBroker, Location, Runtime};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::blocking::{self, Deadline, Life};
use crate::errors;

/// A share of the runtime.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Owned>);

struct Owned {
    runtime: Option<Runtime>,
    life: Life,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.life.goes_on() {
            // The threads stayed in the parent, and so did who holds their locks.
            std::mem::forget(self.runtime.take());
        }
    }
}

/// An error in a forked child of a process that had embedded brokers: the registry still names the parent's there.
pub(crate) fn check_embedded_life(py: Python<'_>) -> PyResult<()> {
    static LIFE: Mutex<Option<Life>> = Mutex::new(None);
    LIFE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Life::now).check(py)
}

static RUNTIME: Mutex<Weak<Owned>> = Mutex::new(Weak::new());

impl Shared {
    /// The process's runtime, which is started if nobody has it.
    pub(crate) fn open() -> PyResult<Self> {
        let mut current = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owned) = current.upgrade()
            && owned.life.goes_on()
        {
            return Ok(Self(owned));
        }
        let runtime = Runtime::new().map_err(|error| PyOSError::new_err(format!("cannot start threads: {error}")))?;
        let owned = Arc::new(Owned { runtime: Some(runtime), life: Life::now() });
        *current = Arc::downgrade(&owned);
        Ok(Self(owned))
    }

    /// The runtime itself.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.runtime.as_ref().expect("it is taken only when dropped")
    }

    /// A client of the brokers at `address`, after one of them has answered if `connect` says so.
    pub(crate) fn client(
        &self,
        py: Python<'_>,
        address: &Address,
        config: ClientConfig,
        connect: bool,
    ) -> PyResult<Client> {
        let timeout = Duration::from_millis(config.bootstrap_timeout_ms);
        let client = match address {
            Address::Network => self.runtime().client(config),
            Address::Embedded(broker) => broker.client(config),
        };
        if connect {
            let connected = blocking::wait(py, Deadline::NEVER, client.connect(timeout))?;
            if let Some(Err(error)) = connected {
                return Err(match error.kind() {
                    ErrorKind::Timeout | ErrorKind::Retriable if error.code().is_none() => {
                        errors::named(py, "NoBrokersAvailable", &error.to_string())
                    }
                    _ => errors::raise(py, &error),
                });
            }
        }
        Ok(client)
    }

    /// Opens an embedded broker, or joins the one that this process has at `location`; `None` for one that nobody can join.
    pub(crate) fn broker(
        &self,
        py: Python<'_>,
        location: Option<Location>,
        config: BrokerConfig,
    ) -> PyResult<Arc<LocalBroker>> {
        check_embedded_life(py)?;
        let runtime = self.runtime();
        py.detach(|| match location {
            Some(location) => LocalBroker::open(runtime, location, config),
            None => LocalBroker::in_memory(runtime, config),
        })
        .map_err(|error| errors::raise(py, &error))
    }

    /// Runs a driver; the threads, and an embedded broker, live until it has ended.
    pub(crate) fn drive(&self, driver: impl Future<Output = ()> + Send + 'static, address: &Address) {
        let keep = (self.clone(), address.clone());
        self.runtime().spawn(async move {
            driver.await;
            drop(keep);
        });
    }
}

/// Where a client's brokers are.
#[derive(Clone)]
pub(crate) enum Address {
    /// At the addresses that the options name.
    Network,
    /// In this process. The handle keeps a directory open as long as the client is.
    Embedded(Arc<LocalBroker>),
}

impl Address {
    /// Reads `bootstrap_servers`. An address in this process (`memory:NAME`, a directory) is taken out of the options, and its
    /// broker is opened.
    pub(crate) fn take(py: Python<'_>, runtime: &Shared, options: &mut Options) -> PyResult<Self> {
        let Some(Value::Text(text)) = options.value("bootstrap_servers") else { return Ok(Self::Network) };
        let Some(location) = Location::parse(text.trim()) else { return Ok(Self::Network) };
        let broker = runtime.broker(py, Some(location), BrokerConfig::default())?;
        options.set("bootstrap_servers", Value::Null);
        Ok(Self::Embedded(broker))
    }
}

/// What an open handle holds of the process: threads, and perhaps an embedded broker. Given back when the handle is closed.
pub(crate) struct Held(Mutex<Option<(Shared, Address)>>);

impl Held {
    pub(crate) fn new(runtime: Shared, address: Address) -> Self {
        Self(Mutex::new(Some((runtime, address))))
    }

    /// The threads; `None` after the handle was closed.
    pub(crate) fn runtime(&self) -> Option<Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(runtime, _)| runtime.clone())
    }

    /// Gives everything back. The last user of a broker over a directory closes it, which waits for the device.
    pub(crate) fn give_back(&self, py: Python<'_>) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(held));
    }

    /// In a forked child: lets everything be, for the threads that hold its locks are not there.
    pub(crate) fn abandon(&self) {
        if let Ok(mut held) = self.0.try_lock() {
            std::mem::forget(held.take());
        }
    }
}
