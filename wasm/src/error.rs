//! The core's errors as JavaScript's: one function, [`to_js`].

use std::cell::RefCell;
use std::error::Error as _;

use js_sys::Function;
use ottla::{Error, ErrorKind};
use wasm_bindgen::prelude::*;

thread_local! {
    /// Makes an error of its parts; js/errors.ts has it.
    static MAKE: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Called once by the loader: `make({ kind, message, retriable, code, name, cause })` returns what is thrown.
#[wasm_bindgen(js_name = setErrors)]
pub fn set_errors(make: Function) {
    MAKE.with_borrow_mut(|known| *known = Some(make));
    std::panic::set_hook(Box::new(|panic| report(&panic.to_string())));
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn report(message: &str);
}

#[wasm_bindgen]
extern "C" {
    /// The parts of an error.
    type Parts;

    #[wasm_bindgen(method, setter, structural)]
    fn set_kind(this: &Parts, kind: &str);
    #[wasm_bindgen(method, setter, structural)]
    fn set_message(this: &Parts, message: &str);
    #[wasm_bindgen(method, setter, structural)]
    fn set_retriable(this: &Parts, retriable: bool);
    #[wasm_bindgen(method, setter, structural)]
    fn set_code(this: &Parts, code: i16);
    #[wasm_bindgen(method, setter, structural)]
    fn set_name(this: &Parts, name: &str);
    #[wasm_bindgen(method, setter, structural)]
    fn set_cause(this: &Parts, cause: JsValue);
}

/// What JavaScript throws for an error of the core.
pub(crate) fn to_js(error: &Error) -> JsValue {
    let parts: Parts = js_sys::Object::new().unchecked_into();
    parts.set_kind(kind(error.kind()));
    parts.set_message(error.message());
    parts.set_retriable(error.is_retriable());
    if let Some(code) = error.code() {
        parts.set_code(code.0);
        parts.set_name(code.name());
    }
    let mut source = error.source();
    let mut causes = Vec::new();
    while let Some(error) = source {
        causes.push(error.to_string());
        source = error.source();
    }
    if let Some(cause) = causes.into_iter().rev().fold(None, |cause: Option<js_sys::Error>, message| {
        let error = js_sys::Error::new(&message);
        if let Some(cause) = cause {
            error.set_cause(&cause);
        }
        Some(error)
    }) {
        parts.set_cause(cause.into());
    }
    MAKE.with_borrow(|make| match make {
        Some(make) => make.call1(&JsValue::UNDEFINED, &parts).unwrap_or_else(|thrown| thrown),
        None => parts.into(),
    })
}

/// For `map_err`.
pub(crate) fn thrown(error: Error) -> JsValue {
    to_js(&error)
}

/// The kind's name in JavaScript.
fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Retriable => "retriable",
        ErrorKind::Fenced => "fenced",
        ErrorKind::OutOfRange => "outOfRange",
        ErrorKind::NotFound => "notFound",
        ErrorKind::AlreadyExists => "alreadyExists",
        ErrorKind::Denied => "denied",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Full => "full",
        ErrorKind::Closed => "closed",
        ErrorKind::Timeout => "timeout",
        // The enum may grow before this list does.
        _ => "internal",
    }
}
