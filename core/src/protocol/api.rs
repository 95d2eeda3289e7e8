//! The table of APIs: keys, names, versions, and the two enums that hold any request and any response.

use std::fmt;

use super::codec::Message;

/// The number that says what a request is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKey(pub i16);

impl ApiKey {
    /// The lowest and highest version of the API that Ottla speaks as a client; `None` if it does not know the API.
    ///
    /// These are the versions that we have messages for, less those that mean something that our clients do not do:
    /// topic ids in place of names, requests that only brokers send, and the second transaction protocol (KIP-890),
    /// which a broker has to be asked for by feature, not by version.
    pub fn client_versions(self) -> Option<(i16, i16)> {
        let (min, max) = self.known_versions()?;
        let cap = match self {
            // Version 12 adds partitions to the transaction by itself.
            Self::PRODUCE => 11,
            Self::FETCH | Self::METADATA => 12,
            Self::LIST_OFFSETS => 10,
            Self::OFFSET_COMMIT | Self::OFFSET_FETCH => 9,
            // Not released: two-phase commit (KIP-939).
            Self::INIT_PRODUCER_ID => 5,
            Self::ADD_PARTITIONS_TO_TXN => 3,
            Self::ADD_OFFSETS_TO_TXN | Self::END_TXN | Self::TXN_OFFSET_COMMIT => 4,
            _ => max,
        };
        Some((min, max.min(cap)))
    }
}

/// The APIs that Ottla speaks as a client, with the lowest and highest version of each, in the order of their keys.
pub fn supported() -> impl Iterator<Item = (ApiKey, i16, i16)> {
    ApiKey::ALL.iter().filter_map(|&api| api.client_versions().map(|(min, max)| (api, min, max)))
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "api {}", self.0),
        }
    }
}

/// A request, which knows its response.
pub trait RequestMessage: Message + Into<super::Request> {
    /// The key under which it is sent.
    const API_KEY: ApiKey;
    /// What answers it.
    type Response: ResponseMessage;
}

/// A response.
pub trait ResponseMessage: Message + Into<super::Response> + TryFrom<super::Response, Error = super::Response> {
    /// The key of the request that it answers.
    const API_KEY: ApiKey;
}

macro_rules! apis {
    ($($key:literal $constant:ident $name:ident($request:ident, $response:ident),)*) => {
        use super::api::{ApiKey, RequestMessage, ResponseMessage};
        use super::codec::{Decoder, Encoder, Message, ProtocolError};

        impl ApiKey {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $constant: Self = Self($key);
            )*

            /// The APIs that there are messages for, in the order of their keys.
            pub const ALL: &'static [Self] = &[$(Self::$constant),*];

            /// Kafka's name; `None` for an API that there are no messages for.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($key => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The lowest and highest version that there are messages for.
            pub fn known_versions(self) -> Option<(i16, i16)> {
                match self.0 {
                    $($key => Some(<$request as Message>::VERSIONS),)*
                    _ => None,
                }
            }

            /// Whether `version` has compact lengths and tagged fields (KIP-482); false for an API without messages.
            pub fn is_flexible(self, version: i16) -> bool {
                match self.0 {
                    $($key => version >= <$request as Message>::FLEXIBLE,)*
                    _ => false,
                }
            }
        }

        /// Any request.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant)]
        pub enum Request {
            $(
                #[doc = concat!("[`", stringify!($request), "`].")]
                $name($request),
            )*
        }

        impl Request {
            /// The key under which it is sent.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$constant,)*
                }
            }

            /// Appends the request in `version`.
            ///
            /// # Errors
            /// As [`Message::encode`].
            pub fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), ProtocolError> {
                match self {
                    $(Self::$name(request) => request.encode(e, version),)*
                }
            }

            /// Takes a request off the decoder's bytes.
            ///
            /// # Errors
            /// [`ProtocolError::UnknownApi`], or as [`Message::decode`].
            pub fn decode(api: ApiKey, version: i16, d: &mut Decoder) -> Result<Self, ProtocolError> {
                match api.0 {
                    $($key => <$request as Message>::decode(d, version).map(Self::$name),)*
                    _ => Err(ProtocolError::UnknownApi(api)),
                }
            }
        }

        /// Any response.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant)]
        pub enum Response {
            $(
                #[doc = concat!("[`", stringify!($response), "`].")]
                $name($response),
            )*
        }

        impl Response {
            /// The key of the request that it answers.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$constant,)*
                }
            }

            /// Appends the response in `version`.
            ///
            /// # Errors
            /// As [`Message::encode`].
            pub fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), ProtocolError> {
                match self {
                    $(Self::$name(response) => response.encode(e, version),)*
                }
            }

            /// Takes a response off the decoder's bytes.
            ///
            /// # Errors
            /// [`ProtocolError::UnknownApi`], or as [`Message::decode`].
            pub fn decode(api: ApiKey, version: i16, d: &mut Decoder) -> Result<Self, ProtocolError> {
                match api.0 {
                    $($key => <$response as Message>::decode(d, version).map(Self::$name),)*
                    _ => Err(ProtocolError::UnknownApi(api)),
                }
            }
        }

        $(
            impl RequestMessage for $request {
                const API_KEY: ApiKey = ApiKey::$constant;
                type Response = $response;
            }

            impl ResponseMessage for $response {
                const API_KEY: ApiKey = ApiKey::$constant;
            }

            impl From<$request> for Request {
                fn from(request: $request) -> Self {
                    Self::$name(request)
                }
            }

            impl From<$response> for Response {
                fn from(response: $response) -> Self {
                    Self::$name(response)
                }
            }

            impl TryFrom<Response> for $response {
                type Error = Response;

                fn try_from(response: Response) -> Result<Self, Response> {
                    match response {
                        Response::$name(response) => Ok(response),
                        other => Err(other),
                    }
                }
            }
        )*
    };
}

pub(super) use apis;
