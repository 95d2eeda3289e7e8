//! Kafka's wire protocol: messages, versions, error codes and the connection.
//!
//! [`messages`] are generated from Kafka's own definitions and know every version of theirs. [`Request`] and [`Response`]
//! hold any of them; [`Message`] is what they share. [`codec`] turns them into bytes and back.

mod api;
pub mod codec;
mod error_code;
pub mod messages;

pub use api::{ApiKey, RequestMessage, ResponseMessage, supported};
pub use codec::{Decoder, Encoder, Message, ProtocolError};
pub use error_code::ErrorCode;
pub use messages::{Request, Response};
