//! Records and their parts, as Python's objects.
//!
//! The only unsafe code of this crate: a `ConsumerRecord` is a tuple of a class of its own, and the stable interface has no
//! function that makes one without making a plain tuple first. And the garbage collector is told not to look at records that
//! hold nothing but numbers, text and bytes: going through them again and again costs more than making them.

use std::ffi::c_int;

use ottla::client::Options;
use ottla::client::config::Value;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple, PyType,
};

/// How many fields a `ConsumerRecord` has.
pub(crate) const FIELDS: usize = 13;

/// Makes instances of a named tuple with [`FIELDS`] fields.
pub(crate) struct RecordClass {
    class: Py<PyType>,
    /// The class's allocator, where an instance may be filled in place.
    allocate: Option<ffi::allocfunc>,
}

impl RecordClass {
    /// `ottla.consumer.fetcher.ConsumerRecord`.
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let class = py.import("ottla.consumer.fetcher")?.getattr("ConsumerRecord")?.cast_into::<PyType>()?;
        // From 3.14 on a tuple keeps its hash in a field that the allocator leaves wrong.
        let allocate = if py.version_info() < (3, 14) { allocator(&class) } else { None };
        Ok(Self { class: class.unbind(), allocate })
    }

    /// A record of these fields. It is `plain` if none of them refers to anything but numbers, text and bytes.
    pub(crate) fn make<'py>(
        &self,
        py: Python<'py>,
        fields: [Bound<'py, PyAny>; FIELDS],
        plain: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class.bind(py);
        match self.allocate {
            Some(allocate) => {
                let record = fill(py, class, allocate, fields)?;
                if plain {
                    leave_alone(&record);
                }
                Ok(record)
            }
            // `tuple.__new__(class, fields)`: the named tuple's own `__new__` is a Python function.
            None => {
                py.get_type::<PyTuple>().call_method1(pyo3::intern!(py, "__new__"), (class, PyTuple::new(py, fields)?))
            }
        }
    }
}

#[allow(unsafe_code)]
fn allocator(class: &Bound<'_, PyType>) -> Option<ffi::allocfunc> {
    // SAFETY: `class` is a live heap type, and its slot `tp_alloc` has exactly this signature, or is null.
    unsafe {
        let slot = ffi::PyType_GetSlot(class.as_type_ptr(), ffi::Py_tp_alloc as c_int);
        std::mem::transmute::<*mut std::ffi::c_void, Option<ffi::allocfunc>>(slot)
    }
}

#[allow(unsafe_code)]
fn fill<'py>(
    py: Python<'py>,
    class: &Bound<'py, PyType>,
    allocate: ffi::allocfunc,
    fields: [Bound<'py, PyAny>; FIELDS],
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: this is what `tuple.__new__` does for a subclass. `class` is a subclass of tuple without fields of its own (a
    // named tuple has `__slots__ = ()`), so its allocator makes a tuple of that many null items, which the garbage collector
    // tolerates; nothing allocates before all are set. `PyTuple_SetItem` takes the reference that `into_ptr` gives up, and
    // the new object has no other owner.
    unsafe {
        let record = Bound::from_owned_ptr_or_err(py, allocate(class.as_type_ptr(), FIELDS as ffi::Py_ssize_t))?;
        for (index, field) in fields.into_iter().enumerate() {
            if ffi::PyTuple_SetItem(record.as_ptr(), index as ffi::Py_ssize_t, field.into_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(record)
    }
}

/// Takes an object from the garbage collector, as Python itself does with a tuple that cannot be part of a cycle.
#[allow(unsafe_code)]
pub(crate) fn leave_alone(object: &Bound<'_, PyAny>) {
    // SAFETY: the callers pass tuples and lists, which have the collector's header; untracking one twice does no harm, and
    // it is still freed when nobody refers to it.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
}

/// A key or value on its way in: bytes of Python's, borrowed, or a copy of a buffer that could change.
pub(crate) enum Data<'a> {
    /// A null.
    Null,
    /// Bytes.
    Bytes(&'a [u8]),
    /// What was in another buffer.
    Copy(Vec<u8>),
}

impl<'a> Data<'a> {
    /// Reads None, bytes, a bytearray or a memoryview; `what` names it in the TypeError for anything else.
    pub(crate) fn read(what: &str, value: Option<&'a Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(Self::Null) };
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.as_bytes()));
        }
        if let Ok(bytes) = value.cast::<PyByteArray>() {
            return Ok(Self::Copy(bytes.to_vec()));
        }
        if value.is_instance_of::<PyMemoryView>() {
            // Whatever the items are, their bytes are meant.
            let buffer = value.call_method1(pyo3::intern!(value.py(), "cast"), ("B",))?;
            return Ok(Self::Copy(PyBuffer::<u8>::get(&buffer)?.to_vec(value.py())?));
        }
        Err(PyTypeError::new_err(format!(
            "a serialized {what} is bytes, a bytearray, a memoryview or None, not {}",
            value.get_type().name()?
        )))
    }

    /// The bytes, or `None` for a null.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Null => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Copy(bytes) => Some(bytes),
        }
    }

    /// How many bytes, or -1 for a null.
    pub(crate) fn size(&self) -> i32 {
        self.as_bytes().map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX))
    }
}

/// Options as the core takes them.
pub(crate) fn options(given: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut options = Options::new();
    for (name, value) in given {
        options.set(&name.extract::<String>()?, option(&name, &value)?);
    }
    Ok(options)
}

fn option(name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    Ok(if value.is_none() {
        Value::Null
    } else if let Ok(yes) = value.cast::<PyBool>() {
        Value::Bool(yes.is_true())
    } else if value.is_instance_of::<PyInt>() {
        Value::Int(value.extract()?)
    } else if let Ok(number) = value.cast::<PyFloat>() {
        Value::Float(number.value())
    } else if let Ok(text) = value.cast::<PyString>() {
        Value::Text(text.to_string())
    } else if let Ok(list) = value.cast::<PyList>() {
        Value::List(list.iter().map(|text| text.extract()).collect::<PyResult<_>>()?)
    } else {
        return Err(PyTypeError::new_err(format!("option {name} has a value of type {}", value.get_type().name()?)));
    })
}

/// Checks a topic's name by Kafka's rule, for the ValueError that kafka-python raises before it asks a broker.
pub(crate) fn check_topic(topic: &str) -> PyResult<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let wrong = if topic.is_empty() {
        "is empty"
    } else if topic == "." || topic == ".." {
        "is a directory's"
    } else if topic.len() > 249 {
        "is longer than 249 characters"
    } else if !topic.chars().all(legal) {
        "has other characters than ASCII letters, digits, '.', '_' and '-'"
    } else {
        return Ok(());
    };
    Err(pyo3::exceptions::PyValueError::new_err(format!("the topic's name {wrong}: {topic:?}")))
}
