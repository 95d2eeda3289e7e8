//! Kafka's wire protocol: messages, versions, error codes and the connection.
//!
//! [`messages`] are generated from Kafka's own definitions and know every version of theirs. [`Request`] and [`Response`]
//! hold any of them; [`Message`] is what they share. [`codec`] turns them into bytes and back; [`connection`] does so for
//! either end of a connection. [`sasl`] is what a client says to prove who it is.

mod api;
pub mod codec;
pub mod connection;
mod endpoint;
mod error_code;
pub mod messages;
pub mod sasl;

pub use api::{ApiKey, RequestMessage, ResponseMessage, supported};
pub use codec::{Decoder, Encoder, Message, ProtocolError};
pub use connection::{ClientConnection, ServerConnection, Versions};
pub use endpoint::Endpoint;
pub use error_code::ErrorCode;
pub use messages::{Request, Response};

#[cfg(test)]
mod sasl_tests;
#[cfg(test)]
mod tests;
