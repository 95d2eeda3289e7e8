//! The native platform: what touches the operating system.

pub mod files;
