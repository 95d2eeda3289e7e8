//! Values between the languages: options, spans of time, frames of records.

use std::sync::Arc;
use std::time::Duration;

use js_sys::{Array, Object};
use ottla::client::config::Value;
use ottla::client::{Options, TopicPartition};
use ottla::{Error, ErrorKind};
use wasm_bindgen::prelude::*;

use crate::error::to_js;

/// A span in milliseconds; infinity is no limit.
pub(crate) fn milliseconds(milliseconds: f64) -> Duration {
    // Negative numbers and NaN are no time at all.
    Duration::try_from_secs_f64(milliseconds.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}

/// Options from an object: Kafka's names in camelCase, and what JavaScript has for values.
pub(crate) fn options(object: &JsValue) -> Result<Options, JsValue> {
    let mut options = Options::new();
    let Some(object) = object.dyn_ref::<Object>() else { return Ok(options) };
    for entry in Object::entries(object).iter() {
        let entry: Array = entry.unchecked_into();
        let name = entry.get(0).as_string().unwrap_or_default();
        let value = option(&name, &entry.get(1))?;
        options.set(&snake_case(&name), value);
    }
    Ok(options)
}

fn option(name: &str, value: &JsValue) -> Result<Value, JsValue> {
    if value.is_null() || value.is_undefined() {
        return Ok(Value::Null);
    }
    if let Some(yes) = value.as_bool() {
        return Ok(Value::Bool(yes));
    }
    if let Some(number) = value.as_f64() {
        let is_whole = number.fract() == 0.0 && number.abs() <= MAX_SAFE_INTEGER;
        return Ok(if is_whole { Value::Int(number as i64) } else { Value::Float(number) });
    }
    if let Some(text) = value.as_string() {
        return Ok(Value::Text(text));
    }
    if let Some(texts) = value.dyn_ref::<Array>().and_then(|list| list.iter().map(|text| text.as_string()).collect()) {
        return Ok(Value::List(texts));
    }
    Err(invalid(format!("option is not a text, a number, a boolean or a list of texts name={name}")))
}

/// The largest number up to which JavaScript has all whole ones.
pub(crate) const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// `fetchMaxWaitMs` as the core spells it; names with dots or underscores stay as they are.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Partitions from a list of topics and one of numbers.
pub(crate) fn partitions(topics: Vec<String>, numbers: &[i32]) -> Vec<TopicPartition> {
    // Lists of few topics with many partitions: the names are shared.
    let mut names: Vec<Arc<str>> = Vec::new();
    topics
        .into_iter()
        .zip(numbers)
        .map(|(topic, number)| match names.last() {
            Some(name) if **name == *topic => TopicPartition::new(Arc::clone(name), *number),
            _ => {
                let name: Arc<str> = topic.into();
                names.push(Arc::clone(&name));
                TopicPartition::new(name, *number)
            }
        })
        .collect()
}

/// What is thrown for an argument that is wrong.
pub(crate) fn invalid(message: impl Into<String>) -> JsValue {
    to_js(&Error::new(ErrorKind::Invalid, message))
}

/// Reads a buffer from the other side, from front to back.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.position >= self.bytes.len()
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn set_position(&mut self, position: usize) {
        self.position = position;
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, Error> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Bytes of a length, or null if it is negative.
    pub(crate) fn nullable(&mut self, length: i32) -> Result<Option<&'a [u8]>, Error> {
        usize::try_from(length).ok().map(|length| self.take(length)).transpose()
    }

    /// A text of a length.
    pub(crate) fn text(&mut self, length: i32) -> Result<&'a str, Error> {
        let length = usize::try_from(length).map_err(|_| broken())?;
        std::str::from_utf8(self.take(length)?).map_err(|_| broken())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| broken())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.position.checked_add(length).ok_or_else(broken)?;
        let taken = self.bytes.get(self.position..end).ok_or_else(broken)?;
        self.position = end;
        Ok(taken)
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Internal, "a buffer from JavaScript is not as it should be")
}
