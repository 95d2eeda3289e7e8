//! The extension `ottla._ottla`: translates Python's values, errors and ways of waiting, and decides nothing.
//!
//! `ottla/_ottla.pyi` describes what it offers; the package's Python code is its only caller.

// The attribute macros of pyo3 make unsafe functions; those written here are in `values.rs` alone.
#![deny(unsafe_op_in_unsafe_fn)]

mod admin;
mod blocking;
mod broker;
mod consumer;
mod errors;
mod future;
mod logging;
mod pipe;
mod producer;
mod replica;
mod repository;
mod runtime;
mod values;

use pyo3::prelude::*;

/// The extension; `ottla/_ottla.pyi` describes it.
#[pymodule]
mod _ottla {
    use pyo3::prelude::*;
    use pyo3::types::PyList;

    #[pymodule_export]
    use crate::admin::Admin;
    #[pymodule_export]
    use crate::broker::Broker;
    #[pymodule_export]
    use crate::consumer::Consumer;
    #[pymodule_export]
    use crate::future::{Future, FutureRecordMetadata};
    #[pymodule_export]
    use crate::pipe::{backup, check, replicate, restore, snapshots, verify};
    #[pymodule_export]
    use crate::producer::Producer;
    #[pymodule_export]
    use crate::replica::{Events, Replica};
    #[pymodule_export]
    use crate::repository::{
        repository_add_key, repository_copy, repository_diff, repository_find, repository_forget, repository_init,
        repository_keys, repository_ls, repository_prune, repository_remove_key, repository_restore_sample,
        repository_rotate,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BEGINNING", ottla::client::EARLIEST)?;
        module.add("END", ottla::client::LATEST)?;
        crate::blocking::init(module)?;
        crate::logging::init(module)
    }

    /// Every code that a broker answers with: code, name, meaning, whether it is retriable, whether metadata is stale.
    #[pyfunction]
    fn error_codes(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
        PyList::new(
            py,
            ottla::protocol::ErrorCode::ALL
                .iter()
                .map(|code| (code.0, code.name(), code.message(), code.is_retriable(), code.is_invalid_metadata())),
        )
    }

    /// Kafka's hash of a key.
    #[pyfunction]
    fn murmur2(data: &[u8]) -> u32 {
        ottla::client::murmur2(data)
    }
}
