//! The native platform: what touches the operating system.

pub mod buckets;
pub mod cli;
mod embedded;
pub mod files;
mod network;
mod node;
pub mod objects;
pub mod pipe;
pub mod properties;
mod replica;
pub mod repository;
mod runtime;
mod server;
mod tls;

#[cfg(test)]
mod objects_tests;

pub use self::embedded::{LocalBroker, Location};
pub use self::network::{TcpConnector, TcpOptions};
pub use self::node::{Node, NodeOptions};
pub use self::replica::{Replica, ReplicaEvent, ReplicaEvents, ReplicaOptions, ReplicaPartition, ReplicaStatus};
pub use self::runtime::{Runtime, SystemClock};
pub use self::server::{Server, ServerOptions, serve};
pub use self::tls::TlsOptions;
