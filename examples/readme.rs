//! The README's example in Rust, as a test: `cargo test -p ottla-examples --doc`.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
