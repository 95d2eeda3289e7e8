//! The extension `ottla._ottla`: translates Python's values, errors and ways of waiting, and decides nothing.

use pyo3::prelude::*;

/// The extension; `ottla/_ottla.pyi` describes it.
#[pymodule]
mod _ottla {}
