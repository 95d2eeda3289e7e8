//! The native platform: what touches the operating system.

pub mod files;
mod network;
mod runtime;

pub use self::network::{TcpConnector, TcpOptions};
pub use self::runtime::{Runtime, SystemClock};
