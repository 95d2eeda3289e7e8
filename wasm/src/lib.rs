//! The npm package `ottla`: the core for JavaScript, and what it needs of a JavaScript platform.
//!
//! Values, errors and waiting are translated here, and nothing is decided. The classes of this crate are not the package's face: that is
//! js/index.ts, which adds what the border cannot carry (async iteration, disposal, records that are decoded when looked at) and
//! crosses the border for many records at a time.

// What wasm-bindgen exports has to be `pub`, though no Rust code can reach it.
#![allow(unreachable_pub)]

mod admin;
mod broker;
mod clock;
mod consumer;
mod error;
mod producer;
mod values;
