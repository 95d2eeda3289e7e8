//! Topic and broker configuration in Kafka's words: names, defaults, checks.

use std::collections::BTreeMap;

pub use super::groups::GroupsConfig;
use crate::log::LogConfig;
use crate::record::TimestampType;
use crate::{Error, ErrorKind};

/// What a topic acknowledges with `acks=all`, and what its high watermark follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// The data is synced to the device first (the default).
    #[default]
    Sync,
    /// The operating system has the data; nobody waits for a sync. This is what Kafka does.
    Os,
}

/// How the embedded broker runs. The defaults suit one broker on one machine.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Kafka's `node.id`; default 0.
    pub node_id: i32,
    /// Host that clients are told to connect to.
    pub advertised_host: String,
    /// Port that clients are told to connect to.
    pub advertised_port: u16,
    /// What DescribeLogDirs calls the device: the directory's path, or `memory`.
    pub log_dir: String,
    /// Kafka's `auto.create.topics.enable`; default true.
    pub auto_create_topics: bool,
    /// Kafka's `num.partitions`, for topics created without a count; default 1.
    pub num_partitions: i32,
    /// Whether acknowledged means synced; default [`Durability::Sync`].
    pub durability: Durability,
    /// Kafka's `replica.lag.time.max.ms`: a follower that was not at the end for so long leaves the in-sync replicas.
    pub replica_lag_time_max_ms: i64,
    /// The largest size that a batch may have when decompressed, bytes; default 128 MiB.
    pub max_decompressed_bytes: usize,
    /// The most bytes in one Fetch response; default 55 MiB, as Kafka's `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// The most partitions that one topic may have; default 10,000.
    pub max_partitions: i32,
    /// The most fetch sessions kept, Kafka's `max.incremental.fetch.session.cache.slots`; default 1,000.
    pub max_fetch_sessions: usize,
    /// How consumer groups are coordinated.
    pub groups: GroupsConfig,
    /// Kafka's `offsets.topic.num.partitions`: those of the topic of committed offsets when it is made; default 1.
    pub offsets_topic_num_partitions: i32,
    /// Kafka's `offsets.topic.segment.bytes`: how large its segments become, which are compacted when they are full;
    /// default 100 MiB.
    pub offsets_topic_segment_bytes: i32,
    /// Kafka's `log.retention.check.interval.ms`: how often what is too old is looked for; default 5 minutes.
    pub log_retention_check_interval_ms: i64,
    /// Kafka's `log.cleaner.backoff.ms`: how often compacted topics are looked at, at least 1; default 15 s.
    pub log_cleaner_backoff_ms: i64,
    /// Configuration of topics that do not set a value themselves, by Kafka's topic-level names.
    pub topic_defaults: BTreeMap<String, String>,
    /// The cluster's id; `None` (the default) keeps the one that is stored, or makes one.
    pub cluster_id: Option<String>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: 0,
            advertised_host: "localhost".to_owned(),
            advertised_port: 9092,
            log_dir: "memory".to_owned(),
            auto_create_topics: true,
            num_partitions: 1,
            durability: Durability::Sync,
            replica_lag_time_max_ms: 30_000,
            max_decompressed_bytes: 128 << 20,
            fetch_max_bytes: 55 << 20,
            max_partitions: 10_000,
            max_fetch_sessions: 1_000,
            groups: GroupsConfig::default(),
            offsets_topic_num_partitions: 1,
            offsets_topic_segment_bytes: 100 << 20,
            log_retention_check_interval_ms: 300_000,
            log_cleaner_backoff_ms: 15_000,
            topic_defaults: BTreeMap::new(),
            cluster_id: None,
        }
    }
}

/// One option of the broker.
pub(crate) struct BrokerOption {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The value as Kafka writes it.
    pub(crate) value: fn(&BrokerConfig) -> String,
    /// Takes a value; says what it should have been.
    set: fn(&mut BrokerConfig, &str) -> Result<(), String>,
}

/// An option that is a field with a number of at least so much.
macro_rules! number {
    ($name:literal, $kind:ident, $least:literal, $($field:ident).+) => {
        BrokerOption {
            name: $name,
            kind: Kind::$kind,
            value: |config| config.$($field).+.to_string(),
            set: |config, value| {
                config.$($field).+ = value
                    .trim()
                    .parse()
                    .ok()
                    .filter(|value| ($least..).contains(value))
                    .ok_or_else(|| format!("expected a whole number from {} on", $least))?;
                Ok(())
            },
        }
    };
}

/// Every option of the broker's own, sorted by name. `durability` is ours, the others are Kafka's.
pub(crate) const BROKER_OPTIONS: &[BrokerOption] = &[
    BrokerOption {
        name: "auto.create.topics.enable",
        kind: Kind::Boolean,
        value: |config| config.auto_create_topics.to_string(),
        set: |config, value| {
            config.auto_create_topics = value.trim().parse().map_err(|_| "expected true or false".to_owned())?;
            Ok(())
        },
    },
    BrokerOption {
        name: "durability",
        kind: Kind::String,
        value: |config| match config.durability {
            Durability::Sync => "sync".to_owned(),
            Durability::Os => "os".to_owned(),
        },
        set: |config, value| {
            config.durability = match value.trim() {
                "sync" => Durability::Sync,
                "os" => Durability::Os,
                _ => return Err("expected sync or os".to_owned()),
            };
            Ok(())
        },
    },
    number!("fetch.max.bytes", Int, 1024, fetch_max_bytes),
    number!("group.initial.rebalance.delay.ms", Int, 0, groups.group_initial_rebalance_delay_ms),
    number!("group.max.session.timeout.ms", Int, 0, groups.group_max_session_timeout_ms),
    number!("group.max.size", Int, 1, groups.group_max_size),
    number!("group.min.session.timeout.ms", Int, 0, groups.group_min_session_timeout_ms),
    number!("log.cleaner.backoff.ms", Long, 1, log_cleaner_backoff_ms),
    number!("log.retention.check.interval.ms", Long, 1, log_retention_check_interval_ms),
    number!("max.incremental.fetch.session.cache.slots", Int, 0, max_fetch_sessions),
    number!("node.id", Int, 0, node_id),
    number!("num.partitions", Int, 1, num_partitions),
    number!("offset.metadata.max.bytes", Int, 0, groups.offset_metadata_max_bytes),
    number!("offsets.retention.check.interval.ms", Long, 1, groups.offsets_retention_check_interval_ms),
    BrokerOption {
        name: "offsets.retention.minutes",
        kind: Kind::Int,
        value: |config| (config.groups.offsets_retention_ms / 60_000).to_string(),
        set: |config, value| {
            let minutes = value.trim().parse::<i32>().ok().filter(|minutes| *minutes >= 1);
            let minutes = minutes.ok_or_else(|| "expected a whole number from 1 on".to_owned())?;
            config.groups.offsets_retention_ms = i64::from(minutes) * 60_000;
            Ok(())
        },
    },
    number!("offsets.topic.num.partitions", Int, 1, offsets_topic_num_partitions),
    number!("offsets.topic.segment.bytes", Int, 1, offsets_topic_segment_bytes),
    number!("replica.lag.time.max.ms", Long, 0, replica_lag_time_max_ms),
];

/// What Kafka calls a default of its topics in a broker's configuration, and in a topic's.
const TOPIC_DEFAULTS: &[(&str, &str)] = &[
    ("log.cleaner.delete.retention.ms", "delete.retention.ms"),
    ("log.cleaner.max.compaction.lag.ms", "max.compaction.lag.ms"),
    ("log.cleaner.min.cleanable.ratio", "min.cleanable.dirty.ratio"),
    ("log.cleaner.min.compaction.lag.ms", "min.compaction.lag.ms"),
    ("log.cleanup.policy", "cleanup.policy"),
    ("log.index.interval.bytes", "index.interval.bytes"),
    ("log.index.size.max.bytes", "segment.index.bytes"),
    ("log.message.timestamp.after.max.ms", "message.timestamp.after.max.ms"),
    ("log.message.timestamp.before.max.ms", "message.timestamp.before.max.ms"),
    ("log.message.timestamp.type", "message.timestamp.type"),
    ("log.retention.bytes", "retention.bytes"),
    ("log.retention.ms", "retention.ms"),
    ("log.roll.ms", "segment.ms"),
    ("log.segment.bytes", "segment.bytes"),
    ("message.max.bytes", "max.message.bytes"),
];

impl BrokerConfig {
    /// Sets an option under Kafka's name for it, as `ottla serve --config` and `ottla.Broker(config=…)` do: one of the
    /// broker's own (`num.partitions`), or a default of its topics by its topic-level name (`retention.ms`) or its
    /// broker-level one (`log.retention.ms`).
    ///
    /// # Errors
    /// `Invalid` if there is no such option, or it does not take that value. Nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> crate::Result<()> {
        let invalid =
            |why: &str| Error::new(ErrorKind::Invalid, format!("option is not valid, {why} name={name} value={value}"));
        if let Ok(at) = BROKER_OPTIONS.binary_search_by(|option| option.name.cmp(name)) {
            return (BROKER_OPTIONS[at].set)(self, value).map_err(|why| invalid(&why));
        }
        let synonym = TOPIC_DEFAULTS.iter().find(|(broker, _)| *broker == name);
        let topic_name = synonym.map_or(name, |(_, topic)| *topic);
        if topic_option(topic_name).is_none() {
            return Err(invalid("there is no such option of a broker or of a topic"));
        }
        check_topic_value(topic_name, value).map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        self.topic_defaults.insert(topic_name.to_owned(), value.to_owned());
        Ok(())
    }
}

/// The type of a configuration value, with Kafka's number for DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One topic-level configuration.
#[derive(Debug)]
pub(crate) struct TopicOption {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) kind: Kind,
    /// The least value of a number.
    least: i64,
    /// The values a string may take; empty for any.
    one_of: &'static [&'static str],
}

const fn number(name: &'static str, default: &'static str, kind: Kind, least: i64) -> TopicOption {
    TopicOption { name, default, kind, least, one_of: &[] }
}

const fn choice(name: &'static str, default: &'static str, kind: Kind, one_of: &'static [&'static str]) -> TopicOption {
    TopicOption { name, default, kind, least: i64::MIN, one_of }
}

const BOOLEAN: &[&str] = &["true", "false"];
const MAX_LONG: &str = "9223372036854775807";

/// Every topic-level configuration, sorted by name. Defaults are Kafka 4's; `durability` is ours.
pub(crate) const TOPIC_OPTIONS: &[TopicOption] = &[
    choice("cleanup.policy", "delete", Kind::List, &["delete", "compact"]),
    choice(
        "compression.type",
        "producer",
        Kind::String,
        &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
    ),
    number("delete.retention.ms", "86400000", Kind::Long, 0),
    choice("durability", "sync", Kind::String, &["sync", "os"]),
    number("file.delete.delay.ms", "60000", Kind::Long, 0),
    number("flush.messages", MAX_LONG, Kind::Long, 1),
    number("flush.ms", MAX_LONG, Kind::Long, 0),
    choice("follower.replication.throttled.replicas", "", Kind::List, &[]),
    number("index.interval.bytes", "4096", Kind::Int, 0),
    choice("leader.replication.throttled.replicas", "", Kind::List, &[]),
    number("local.retention.bytes", "-2", Kind::Long, -2),
    number("local.retention.ms", "-2", Kind::Long, -2),
    number("max.compaction.lag.ms", MAX_LONG, Kind::Long, 1),
    number("max.message.bytes", "1048588", Kind::Int, 0),
    number("message.timestamp.after.max.ms", "3600000", Kind::Long, 0),
    number("message.timestamp.before.max.ms", MAX_LONG, Kind::Long, 0),
    choice("message.timestamp.type", "CreateTime", Kind::String, &["CreateTime", "LogAppendTime"]),
    number("min.cleanable.dirty.ratio", "0.5", Kind::Double, 0),
    number("min.compaction.lag.ms", "0", Kind::Long, 0),
    number("min.insync.replicas", "1", Kind::Int, 1),
    choice("preallocate", "false", Kind::Boolean, BOOLEAN),
    choice("remote.storage.enable", "false", Kind::Boolean, BOOLEAN),
    number("retention.bytes", "-1", Kind::Long, -1),
    number("retention.ms", "604800000", Kind::Long, -1),
    number("segment.bytes", "1073741824", Kind::Int, 14),
    number("segment.index.bytes", "10485760", Kind::Int, 4),
    number("segment.jitter.ms", "0", Kind::Long, 0),
    number("segment.ms", "604800000", Kind::Long, 1),
    choice("unclean.leader.election.enable", "false", Kind::Boolean, BOOLEAN),
];

/// Looks a topic-level configuration up.
pub(crate) fn topic_option(name: &str) -> Option<&'static TopicOption> {
    TOPIC_OPTIONS.binary_search_by(|option| option.name.cmp(name)).ok().map(|at| &TOPIC_OPTIONS[at])
}

/// Checks one topic-level configuration.
///
/// # Errors
/// What is wrong with it, for the error message of INVALID_CONFIG.
pub fn check_topic_value(name: &str, value: &str) -> Result<(), String> {
    let Some(option) = topic_option(name) else {
        return Err(format!("unknown topic configuration name={name}"));
    };
    let fits = match option.kind {
        Kind::Int => value.trim().parse::<i32>().is_ok_and(|value| i64::from(value) >= option.least),
        Kind::Long => value.trim().parse::<i64>().is_ok_and(|value| value >= option.least),
        Kind::Double => value.trim().parse::<f64>().is_ok_and(|value| (0.0..=1.0).contains(&value)),
        Kind::List => option.one_of.is_empty() || value.split(',').all(|part| option.one_of.contains(&part.trim())),
        Kind::Boolean | Kind::String => option.one_of.is_empty() || option.one_of.contains(&value),
    };
    if fits {
        Ok(())
    } else if option.one_of.is_empty() {
        Err(format!("invalid value name={name} value={value} least={}", option.least))
    } else {
        Err(format!("invalid value name={name} value={value} allowed={}", option.one_of.join(",")))
    }
}

/// A topic's configuration: what it sets itself over the broker's defaults over Kafka's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicConfig<'a> {
    pub(crate) own: &'a BTreeMap<String, String>,
    pub(crate) broker: &'a BTreeMap<String, String>,
}

impl TopicConfig<'_> {
    fn text(&self, name: &str) -> &str {
        self.own
            .get(name)
            .or_else(|| self.broker.get(name))
            .map_or_else(|| topic_option(name).map_or("", |option| option.default), String::as_str)
    }

    fn integer(&self, name: &str) -> i64 {
        // Checked when it was set; a stored value that no longer parses counts as the default.
        self.text(name)
            .trim()
            .parse()
            .unwrap_or_else(|_| topic_option(name).and_then(|option| option.default.parse().ok()).unwrap_or_default())
    }

    pub(crate) fn log_config(&self) -> LogConfig {
        let policy = self.text("cleanup.policy");
        let unlimited = |name| Some(self.integer(name)).filter(|value| *value >= 0);
        LogConfig {
            segment_bytes: self.integer("segment.bytes").max(1) as u64,
            // What waits in the active segment is not compacted, so it is not to wait for longer than it may.
            segment_ms: if self.compacted() {
                self.integer("segment.ms").min(self.integer("max.compaction.lag.ms"))
            } else {
                self.integer("segment.ms")
            },
            index_interval_bytes: self.integer("index.interval.bytes").max(0) as u64,
            retention_ms: unlimited("retention.ms"),
            retention_bytes: unlimited("retention.bytes").map(|bytes| bytes as u64),
            deletes: policy.split(',').any(|part| part.trim() == "delete"),
            compacts: self.compacted(),
            skips_offsets: self.compacted(),
            delete_retention_ms: self.integer("delete.retention.ms"),
            min_compaction_lag_ms: self.integer("min.compaction.lag.ms"),
            max_compaction_lag_ms: self.integer("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: self.text("min.cleanable.dirty.ratio").trim().parse().unwrap_or(0.5),
            segment_index_bytes: self.integer("segment.index.bytes").max(0) as u64,
            timestamp_type: self.timestamp_type(),
            ..LogConfig::default()
        }
    }

    pub(crate) fn compacted(&self) -> bool {
        self.text("cleanup.policy").split(',').any(|part| part.trim() == "compact")
    }

    pub(crate) fn max_message_bytes(&self) -> usize {
        self.integer("max.message.bytes").max(0) as usize
    }

    pub(crate) fn min_insync_replicas(&self) -> usize {
        self.integer("min.insync.replicas").max(1) as usize
    }

    pub(crate) fn timestamp_type(&self) -> TimestampType {
        if self.text("message.timestamp.type") == "LogAppendTime" {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    pub(crate) fn timestamp_before_max_ms(&self) -> i64 {
        self.integer("message.timestamp.before.max.ms")
    }

    pub(crate) fn timestamp_after_max_ms(&self) -> i64 {
        self.integer("message.timestamp.after.max.ms")
    }

    /// `None` when neither the topic nor the broker's topic defaults say.
    pub(crate) fn durability(&self) -> Option<Durability> {
        let set = self.own.get("durability").or_else(|| self.broker.get("durability"))?;
        Some(if set == "os" { Durability::Os } else { Durability::Sync })
    }
}
