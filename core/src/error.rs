//! The one public error: what happened, to what, and what a caller can do about it.

use std::fmt;

use crate::protocol::ErrorCode;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The same call may succeed later; nothing was done, or it is safe to repeat.
    Retriable,
    /// Somebody newer has taken over (epoch, generation, owner of a log); stop and open anew.
    Fenced,
    /// The offset is not there (below the start, above the end): choose another.
    OutOfRange,
    /// A topic, group, snapshot or object that the message names is not there.
    NotFound,
    /// What was to be created is there already.
    AlreadyExists,
    /// Authentication or authorization was refused.
    Denied,
    /// The call, option or argument is wrong; correct it.
    Invalid,
    /// This broker, version or platform cannot; the message says what can.
    Unsupported,
    /// Bytes that are not what they claim; the message says where, and what is still good.
    Corrupt,
    /// A disk, quota or buffer limit is reached.
    Full,
    /// The handle was closed, cancelled, or given up after a failed sync: open anew.
    Closed,
    /// The time given to the call ran out before the answer came.
    Timeout,
    /// A defect of Ottla: please report it.
    Internal,
}

/// What went wrong, with Kafka's code when a broker gave one.
///
/// The message is for people: lower case, facts last as `name=value`. Programs ask [`Error::kind`] and [`Error::code`].
pub struct Error {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into(), source: None }
    }

    /// An error that stands for a broker's `code`; the kind follows from the code.
    pub fn from_code(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { kind: code.kind(), code: Some(code), message: message.into(), source: None }
    }

    /// The same error with the one that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with `context` in front of its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Kafka's code, when a broker gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// Whether the same call may succeed later: Kafka's own classification for a broker's code.
    pub fn is_retriable(&self) -> bool {
        self.code.map_or(self.kind == ErrorKind::Retriable, ErrorCode::is_retriable)
    }

    /// The message without the source's.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The same error once more: what is shared by many is reported to each.
pub(crate) fn repeat(error: &Error) -> Error {
    match error.code() {
        Some(code) => Error::from_code(code, error.to_string()),
        None => Error::new(error.kind(), error.to_string()),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?}): {self}", self.kind, self.code)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

impl From<std::io::Error> for Error {
    /// The kind follows from the error's own; what has no counterpart means that the file or connection is of no more use.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::InvalidInput => ErrorKind::Invalid,
            Io::InvalidData => ErrorKind::Corrupt,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::WriteZero => ErrorKind::Full,
            Io::TimedOut => ErrorKind::Timeout,
            Io::Unsupported => ErrorKind::Unsupported,
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::UnexpectedEof
            | Io::Interrupted
            | Io::WouldBlock => ErrorKind::Retriable,
            _ => ErrorKind::Closed,
        };
        Self { kind, code: None, message: error.to_string(), source: None }
    }
}
