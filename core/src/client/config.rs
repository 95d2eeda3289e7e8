//! Every option of the client: Kafka's name, default, unit and check.
//!
//! The names are those of kafka-python, which are Kafka's with underscores; Kafka's own spelling with dots is read as well.
//! A configuration is built from [`Options`], a map of names to values, so that bindings pass on what their users wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::protocol::sasl::{Credentials, Mechanism, Secret};
use crate::record::Compression;
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Milliseconds; [`FOREVER`] where a user wrote "inf".
pub type Millis = u64;

/// No limit.
pub const FOREVER: u64 = u64::MAX;

/// The value of an option as a user wrote it; texts are read as the option's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Not set: the option's default.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number; infinity is "no limit".
    Float(f64),
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::List(texts) => f.write_str(&texts.join(",")),
        }
    }
}

/// Options by name.
#[derive(Clone, Default, PartialEq)]
pub struct Options(BTreeMap<String, Value>);

impl fmt::Debug for Options {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &Value)| {
            (name.clone(), if name.ends_with("password") { Value::from("***") } else { value.clone() })
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

impl Options {
    /// No options: everything by default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one option; dots in the name become underscores.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.replace(['.', '-'], "_"), value.into());
        self
    }

    /// The same options and one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Reads `name=value` texts.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut options = Self::new();
        for pair in pairs {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("expected an option as name=value found={pair:?}"))
            })?;
            options.set(name.trim(), value.trim());
        }
        Ok(options)
    }

    /// The value of an option that was set to something.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| **value != Value::Null)
    }

    /// All that was set, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<N: AsRef<str>, V: Into<Value>> FromIterator<(N, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut options = Self::new();
        for (name, value) in pairs {
            options.set(name.as_ref(), value);
        }
        options
    }
}

/// What is known of an option, for help texts and documentation.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// What counts when it is not set, as the source of its default.
    pub default: &'static str,
}

/// A type that an option's value can be read as.
trait FromValue: Sized {
    fn from_value(value: &Value) -> Result<Self, String>;
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(yes) => Ok(*yes),
            Value::Int(0) => Ok(false),
            Value::Int(1) => Ok(true),
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err("expected true or false".to_owned()),
        }
    }
}

/// A whole number within a type; `inf` is the type's largest value.
fn whole<T: TryFrom<i64> + FromStr>(value: &Value, largest: T) -> Result<T, String> {
    match value {
        Value::Int(number) => T::try_from(*number).map_err(|_| "the number is out of range".to_owned()),
        Value::Float(number) if *number == f64::INFINITY => Ok(largest),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
            T::try_from(*number as i64).map_err(|_| "the number is out of range".to_owned())
        }
        Value::Text(text) if matches!(text.as_str(), "inf" | "Infinity") => Ok(largest),
        Value::Text(text) => text.parse().map_err(|_| "expected a whole number in range".to_owned()),
        _ => Err("expected a whole number".to_owned()),
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl FromValue for $number {
            fn from_value(value: &Value) -> Result<Self, String> {
                whole(value, <$number>::MAX)
            }
        }
    )*};
}

whole_numbers!(u16, i32, u32, i64, u64, usize);

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("expected a text".to_owned()),
        }
    }
}

impl FromValue for Secret {
    fn from_value(value: &Value) -> Result<Self, String> {
        Ok(Self::new(value.to_string()))
    }
}

impl FromValue for Mechanism {
    fn from_value(value: &Value) -> Result<Self, String> {
        value.to_string().parse()
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => {
                Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
            }
            Value::List(texts) => Ok(texts.clone()),
            _ => Err("expected a text or a list of texts".to_owned()),
        }
    }
}

impl FromValue for Vec<Endpoint> {
    fn from_value(value: &Value) -> Result<Self, String> {
        let texts = <Vec<String>>::from_value(value)?;
        let endpoints = texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(|text| Endpoint::parse(text).map_err(|error| error.message().to_owned()))
            .collect::<Result<Self, String>>()?;
        if endpoints.is_empty() { Err("expected one address at least".to_owned()) } else { Ok(endpoints) }
    }
}

impl FromValue for Compression {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::None),
            Value::Text(text) => text.parse().map_err(|_| "expected one of none, gzip, snappy, lz4, zstd".to_owned()),
            _ => Err("expected one of none, gzip, snappy, lz4, zstd".to_owned()),
        }
    }
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident, $expected:literal, $($(#[$doc:meta])* $variant:ident = $($text:literal)|+),+ $(,)?) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant),+
        }

        impl FromValue for $name {
            fn from_value(value: &Value) -> Result<Self, String> {
                let text = value.to_string().to_ascii_lowercase();
                match text.as_str() {
                    $($($text)|+ => Ok(Self::$variant),)+
                    _ => Err($expected.to_owned()),
                }
            }
        }
    };
}

words! {
    /// Whose acknowledgement a producer waits for.
    Acks, "expected one of 0, 1, all",
    /// Nobody's: sent is enough.
    None = "0",
    /// The leader's.
    Leader = "1",
    /// That of all replicas in sync.
    All = "all" | "-1",
}

impl Acks {
    /// As a Produce request says it.
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

words! {
    /// Where a consumer starts without a committed offset, or when its position is gone.
    AutoOffsetReset, "expected one of earliest, latest, none",
    /// At the log start offset.
    Earliest = "earliest" | "smallest" | "beginning",
    /// At the log end as it was at the time of subscribing.
    Latest = "latest" | "largest" | "end",
    /// Nowhere: the call fails.
    None = "none",
}

words! {
    /// Which records of transactions a consumer sees.
    IsolationLevel, "expected read_uncommitted or read_committed",
    /// All.
    ReadUncommitted = "read_uncommitted" | "0",
    /// Those of committed transactions, up to the last stable offset.
    ReadCommitted = "read_committed" | "1",
}

impl IsolationLevel {
    /// As requests say it.
    pub fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

words! {
    /// What protects the connection.
    SecurityProtocol, "expected one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
    /// Nothing.
    Plaintext = "plaintext",
    /// TLS.
    Ssl = "ssl",
    /// SASL over a plain connection.
    SaslPlaintext = "sasl_plaintext",
    /// SASL over TLS.
    SaslSsl = "sasl_ssl",
}

impl SecurityProtocol {
    /// Whether the connection is encrypted.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether the client logs in.
    pub fn has_login(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How a group's leader shares partitions out, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Each topic's partitions in ranges, members in order of their ids.
    Range,
    /// All topics' partitions in turn.
    RoundRobin,
}

impl Assignor {
    /// Its name in the group protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }
}

impl FromValue for Vec<Assignor> {
    fn from_value(value: &Value) -> Result<Self, String> {
        let names = <Vec<String>>::from_value(value)?;
        if names.is_empty() {
            return Err("expected one assignor at least".to_owned());
        }
        names
            .iter()
            .map(|name| match name.to_ascii_lowercase().as_str() {
                "range" => Ok(Assignor::Range),
                "roundrobin" | "round_robin" | "round-robin" => Ok(Assignor::RoundRobin),
                _ => Err("expected range or roundrobin".to_owned()),
            })
            .collect()
    }
}

macro_rules! options {
    (
        $(#[$about:meta])*
        $config:ident {
            $( $(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr $(, if $ok:expr, $why:literal)?; )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $config {
            $( $(#[doc = $doc])+ pub $name: $kind, )+
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        impl $config {
            /// Its options.
            pub const OPTIONS: &'static [OptionInfo] = &[
                $( OptionInfo {
                    name: stringify!($name),
                    about: concat!($($doc),+),
                    default: stringify!($default),
                }, )+
            ];

            /// Takes those of `options` that are its own.
            fn take(options: &Options) -> Result<Self> {
                let mut config = Self::default();
                $(
                    if let Some(value) = options.value(stringify!($name)) {
                        config.$name = <$kind as FromValue>::from_value(value)
                            .map_err(|why| invalid(stringify!($name), value, &why))?;
                        $(
                            let ok: fn(&$kind) -> bool = $ok;
                            if !ok(&config.$name) {
                                return Err(invalid(stringify!($name), value, $why));
                            }
                        )?
                    }
                )+
                Ok(config)
            }
        }
    };
}

fn invalid(name: &str, value: &Value, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("option is not valid, {why} name={name} value={value}"))
}

fn refuse_unknown(options: &Options, known: &[&[OptionInfo]]) -> Result<()> {
    for (name, _) in options.iter() {
        if known.iter().all(|table| table.iter().all(|option| option.name != name)) {
            return Err(Error::new(ErrorKind::Invalid, format!("there is no such option name={name}")));
        }
    }
    Ok(())
}

options! {
    /// What producer, consumer and admin share.
    ClientConfig {
        /// Addresses of some brokers, `host:port`; the others are found through them.
        bootstrap_servers: Vec<Endpoint> = vec![Endpoint::new("localhost", Endpoint::DEFAULT_PORT)];
        /// A name that brokers put into their logs and quotas.
        client_id: String = "ottla".to_owned();
        /// How long to look for a first broker, in ms.
        bootstrap_timeout_ms: Millis = 30_000;
        /// How long to wait for the answer to a request before its connection is given up, in ms.
        request_timeout_ms: Millis = 30_000, if |ms| *ms > 0, "must be above 0";
        /// The first pause before something is tried again, in ms; it doubles from try to try.
        retry_backoff_ms: Millis = 100;
        /// The longest pause before something is tried again, in ms.
        retry_backoff_max_ms: Millis = 1_000;
        /// The first pause before a broker that could not be reached is tried again, in ms; it doubles.
        reconnect_backoff_ms: Millis = 50;
        /// The longest pause before a broker that could not be reached is tried again, in ms.
        reconnect_backoff_max_ms: Millis = 30_000;
        /// How long a connection may be unused before it is opened anew, in ms.
        connections_max_idle_ms: Millis = 540_000;
        /// How long a connection may take to open, in ms.
        socket_connection_setup_timeout_ms: Millis = 10_000, if |ms| *ms > 0, "must be above 0";
        /// How old what is known of topics and brokers may become, in ms.
        metadata_max_age_ms: Millis = 300_000;
        /// How many requests may be under way on one connection; for a producer: to one broker.
        max_in_flight_requests_per_connection: usize = 5, if |n| *n > 0, "must be above 0";
        /// Whether asking for a topic that is not there creates it, if the broker agrees.
        allow_auto_create_topics: bool = true;
        /// `use_all_dns_ips` tries every address of a name in turn.
        client_dns_lookup: String = "use_all_dns_ips".to_owned(),
            if |text| matches!(text.as_str(), "use_all_dns_ips" | "resolve_canonical_bootstrap_servers_only" | "default"),
            "expected use_all_dns_ips or resolve_canonical_bootstrap_servers_only";
        /// What protects the connection.
        security_protocol: SecurityProtocol = SecurityProtocol::Plaintext;
        /// A file of certificates (PEM) of the authorities that brokers are trusted by; the system's when not set.
        ssl_cafile: Option<String> = None;
        /// A file with the client's own certificate (PEM) and those of its issuers, where brokers want one.
        ssl_certfile: Option<String> = None;
        /// A file with the certificate's key (PEM); `ssl_certfile` when not set.
        ssl_keyfile: Option<String> = None;
        /// What the key is encrypted with.
        ssl_password: Option<Secret> = None;
        /// A file of revoked certificates (PEM); nothing is looked up when not set.
        ssl_crlfile: Option<String> = None;
        /// Whether a broker's certificate must name the host that was connected to.
        ssl_check_hostname: bool = true;
        /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        sasl_mechanism: Option<Mechanism> = None;
        /// Who to log in as.
        sasl_plain_username: Option<String> = None;
        /// The password, for each of the mechanisms.
        sasl_plain_password: Option<Secret> = None;
        /// The largest answer that is accepted, in bytes.
        receive_message_max_bytes: usize = 100_000_000, if |bytes| *bytes >= 1024, "must be 1024 at least";
        /// The socket's receive buffer, in bytes; the system's choice when not set.
        receive_buffer_bytes: Option<usize> = None;
        /// The socket's send buffer, in bytes; the system's choice when not set.
        send_buffer_bytes: Option<usize> = None;
        /// Seed of what is left to chance (pauses, sticky partitions); from the clock when not set.
        seed: Option<u64> = None;
    }
}

impl ClientConfig {
    /// From options; an option that is not one of these is an error.
    pub fn from_options(options: &Options) -> Result<Self> {
        refuse_unknown(options, &[Self::OPTIONS])?;
        Self::take(options)?.checked()
    }

    /// Who to log in as, where the connection is one with SASL.
    pub fn credentials(&self) -> Option<Credentials> {
        if !self.security_protocol.has_login() {
            return None;
        }
        Some(Credentials {
            mechanism: self.sasl_mechanism?,
            username: self.sasl_plain_username.clone()?,
            password: self.sasl_plain_password.clone()?,
        })
    }

    fn checked(self) -> Result<Self> {
        if self.security_protocol.has_login() {
            let given = [
                ("sasl_mechanism", self.sasl_mechanism.is_some()),
                ("sasl_plain_username", self.sasl_plain_username.is_some()),
                ("sasl_plain_password", self.sasl_plain_password.is_some()),
            ];
            let missing: Vec<&str> = given.iter().filter(|(_, given)| !given).map(|(name, _)| *name).collect();
            if !missing.is_empty() {
                let message = format!("security_protocol with SASL needs {}", missing.join(", "));
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        if self.connections_max_idle_ms <= self.request_timeout_ms {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "connections_max_idle_ms must be above request_timeout_ms connections_max_idle_ms={} \
                     request_timeout_ms={}",
                    self.connections_max_idle_ms, self.request_timeout_ms
                ),
            ));
        }
        Ok(self)
    }
}

options! {
    /// A producer's own options.
    ProducerConfig {
        /// Whose acknowledgement to wait for: 0, 1 or all.
        acks: Acks = Acks::All;
        /// Whether the broker tells retries from records, so that each is written once and in order.
        enable_idempotence: bool = true;
        /// How often a batch is sent again at most.
        retries: u32 = u32::MAX;
        /// How long after `send` a record may be on its way before it has failed, in ms.
        delivery_timeout_ms: Millis = 120_000, if |ms| *ms > 0, "must be above 0";
        /// The size at which a batch is closed, in bytes. While sending is behind, batches grow up to `max_request_size`, unless
        /// this is below its default.
        batch_size: usize = 16_384;
        /// How long a batch waits for more records when it could be sent, in ms.
        linger_ms: Millis = 0;
        /// The largest request, and so the largest record, in bytes.
        max_request_size: usize = 1_048_576, if |bytes| *bytes >= 128, "must be 128 at least";
        /// How long `send` may wait for metadata or for room in the buffer, in ms.
        max_block_ms: Millis = 60_000;
        /// How much may be on its way at once, in bytes.
        buffer_memory: usize = 33_554_432, if |bytes| *bytes > 0, "must be above 0";
        /// none, gzip, snappy, lz4 or zstd.
        compression_type: Compression = Compression::None;
        /// How hard to compress, in the codec's own levels; its default when not set.
        compression_level: Option<i32> = None;
        /// The name of a transactional producer.
        transactional_id: Option<String> = None;
        /// How long a transaction may take, in ms.
        transaction_timeout_ms: Millis = 60_000;
    }
}

impl ProducerConfig {
    /// From options, together with the shared ones; an option that is in neither table is an error.
    pub fn from_options(options: &Options) -> Result<(ClientConfig, Self)> {
        refuse_unknown(options, &[ClientConfig::OPTIONS, Self::OPTIONS])?;
        let client = ClientConfig::take(options)?.checked()?;
        let mut config = Self::take(options)?;
        if config.transactional_id.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this version has no transactions: leave transactional_id out",
            ));
        }
        let conflict = if config.acks != Acks::All {
            Some("acks=all")
        } else if config.retries == 0 {
            Some("retries above 0")
        } else if client.max_in_flight_requests_per_connection > MAX_IN_FLIGHT_IN_ORDER {
            Some("max_in_flight_requests_per_connection of 5 at most")
        } else {
            None
        };
        if let (Some(needed), true) = (conflict, config.enable_idempotence) {
            // Asked for in so many words it is a contradiction; by default it is left out, as kafka-python does.
            if options.value("enable_idempotence").is_some() {
                return Err(Error::new(ErrorKind::Invalid, format!("enable_idempotence=true needs {needed}")));
            }
            config.enable_idempotence = false;
        }
        Ok((client, config))
    }
}

/// How many requests a broker remembers of a producer for each partition, and so how many may be under way with order kept.
pub(crate) const MAX_IN_FLIGHT_IN_ORDER: usize = 5;

options! {
    /// A consumer's own options.
    ConsumerConfig {
        /// The group it belongs to; without one it neither shares partitions nor commits.
        group_id: Option<String> = None;
        /// A name that keeps its assignment over a restart (a static member).
        group_instance_id: Option<String> = None;
        /// Where to start without a committed offset: earliest, latest, none.
        auto_offset_reset: AutoOffsetReset = AutoOffsetReset::Latest;
        /// Whether positions are committed from time to time.
        enable_auto_commit: bool = true;
        /// How often positions are committed, in ms.
        auto_commit_interval_ms: Millis = 5_000;
        /// How much a broker waits for before it answers, in bytes.
        fetch_min_bytes: i32 = 1, if |bytes| *bytes >= 0, "must not be negative";
        /// How long a broker waits for it, in ms.
        fetch_max_wait_ms: Millis = 500, if |ms| *ms <= i32::MAX as u64, "is too large";
        /// How much an answer holds, and how much is fetched ahead, in bytes.
        fetch_max_bytes: i32 = 52_428_800, if |bytes| *bytes > 0, "must be above 0";
        /// How much an answer holds of one partition, in bytes.
        max_partition_fetch_bytes: i32 = 1_048_576, if |bytes| *bytes > 0, "must be above 0";
        /// How many records one poll returns.
        max_poll_records: usize = 500, if |n| *n > 0, "must be above 0";
        /// How long a member may go without a poll before its partitions go to others, in ms.
        max_poll_interval_ms: Millis = 300_000, if |ms| *ms > 0 && *ms <= i32::MAX as u64, "is out of range";
        /// How long a member may be silent before the group goes on without it, in ms.
        session_timeout_ms: Millis = 45_000, if |ms| *ms > 0 && *ms <= i32::MAX as u64, "is out of range";
        /// How often a member says that it is there, in ms.
        heartbeat_interval_ms: Millis = 3_000, if |ms| *ms > 0, "must be above 0";
        /// Whether checksums of fetched batches are checked.
        check_crcs: bool = true;
        /// read_uncommitted or read_committed.
        isolation_level: IsolationLevel = IsolationLevel::ReadUncommitted;
        /// The rack it is in; brokers may point it at a replica there.
        client_rack: String = String::new();
        /// Whether patterns leave out topics that Kafka keeps for itself.
        exclude_internal_topics: bool = true;
        /// How the group's leader shares partitions out, in order of preference.
        partition_assignment_strategy: Vec<Assignor> = vec![Assignor::Range, Assignor::RoundRobin];
        /// The largest size of one batch after decompression, in bytes: a guard against bombs.
        max_batch_bytes: usize = 268_435_456, if |bytes| *bytes > 0, "must be above 0";
    }
}

impl ConsumerConfig {
    /// From options, together with the shared ones; an option that is in neither table is an error.
    pub fn from_options(options: &Options) -> Result<(ClientConfig, Self)> {
        refuse_unknown(options, &[ClientConfig::OPTIONS, Self::OPTIONS])?;
        let client = ClientConfig::take(options)?.checked()?;
        let config = Self::take(options)?;
        if config.fetch_max_wait_ms >= client.request_timeout_ms {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "fetch_max_wait_ms must be below request_timeout_ms fetch_max_wait_ms={} request_timeout_ms={}",
                    config.fetch_max_wait_ms, client.request_timeout_ms
                ),
            ));
        }
        if config.heartbeat_interval_ms >= config.session_timeout_ms {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "heartbeat_interval_ms must be below session_timeout_ms heartbeat_interval_ms={} \
                     session_timeout_ms={}",
                    config.heartbeat_interval_ms, config.session_timeout_ms
                ),
            ));
        }
        if config.group_instance_id.as_deref() == Some("") {
            return Err(Error::new(ErrorKind::Invalid, "group_instance_id must not be empty"));
        }
        Ok((client, config))
    }
}
