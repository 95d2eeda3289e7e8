//! The threads that the clients of this process share: started with the first handle, ended with the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ottla::ErrorKind;
use ottla::client::{Client, ClientConfig};
use ottla::native::Runtime;
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

static RUNTIME: Mutex<Weak<Owned>> = Mutex::new(Weak::new());

impl Shared {
    /// The process's runtime, which is started if nobody has it.
    pub(crate) fn open() -> PyResult<Self> {
        let mut current = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owned) = current.upgrade() {
            if owned.life.goes_on() {
                return Ok(Self(owned));
            }
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

    /// A client of the brokers that the options name, after one of them has answered if `connect` says so.
    pub(crate) fn client(&self, py: Python<'_>, config: ClientConfig, connect: bool) -> PyResult<Client> {
        let timeout = Duration::from_millis(config.bootstrap_timeout_ms);
        let client = self.runtime().client(config);
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

    /// Runs a driver; the threads live until it has ended.
    pub(crate) fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        let keep = self.clone();
        self.runtime().spawn(async move {
            driver.await;
            drop(keep);
        });
    }
}
