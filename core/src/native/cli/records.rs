//! `ottla topics`, `ottla produce`, `ottla consume`, `ottla groups`.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connection::{Connection, ConnectionArgs};
use super::{Output, table};
use crate::client::{
    Admin, Consumer, ConsumerConfig, NewPartitions, NewTopic, Producer, ProducerConfig, Topic, TopicPartition,
};
use crate::{Error, ErrorKind, Result};

/// How long a command waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `ottla topics`.
#[derive(Debug, Args)]
pub(super) struct Topics {
    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "SOURCE")]
    source: String,

    #[command(subcommand)]
    action: Option<TopicsAction>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum TopicsAction {
    /// List topics (the default)
    List,
    /// Create a topic
    Create {
        name: String,
        /// How many partitions; the broker's default when not given
        #[arg(long, value_name = "N")]
        partitions: Option<i32>,
        /// How many replicas; the broker's default when not given
        #[arg(long, value_name = "N")]
        replication_factor: Option<i16>,
        /// Topic configuration such as retention.ms=60000; may be repeated
        #[arg(long = "config", value_name = "NAME=VALUE")]
        configs: Vec<String>,
    },
    /// Add partitions to a topic
    AddPartitions {
        name: String,
        /// How many it shall have in all
        total: i32,
    },
    /// Delete a topic and all that is in it
    Delete { name: String },
}

impl Topics {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = Connection::open(&self.source, &self.connection)?;
        let admin = Admin::new(connection.plain_client()?);
        match self.action.unwrap_or(TopicsAction::List) {
            TopicsAction::List => {
                let topics = connection.runtime.block_on(admin.list_topics(PATIENCE))?;
                let mut rows = Vec::new();
                let mut found = Vec::new();
                for topic in topics {
                    let wanted = partitions_of(&topic);
                    let at = |time| wanted.iter().cloned().map(|partition| (partition, time)).collect::<Vec<_>>();
                    let sum = |time| {
                        let listed = connection.runtime.block_on(admin.client().list_offsets(
                            at(time),
                            crate::client::config::IsolationLevel::ReadUncommitted,
                            PATIENCE,
                        ))?;
                        listed.into_values().try_fold(0, |sum, found| Ok::<i64, Error>(sum + found?.offset))
                    };
                    let offsets = sum(crate::client::LATEST)? - sum(crate::client::EARLIEST)?;
                    rows.push(vec![topic.name.to_string(), wanted.len().to_string(), table::count(offsets)]);
                    found.push(json!({"topic": &*topic.name, "partitions": wanted.len(), "offsets": offsets}));
                }
                if output.json {
                    for line in found {
                        output.result(|| line, String::new)?;
                    }
                } else {
                    output.result(|| Value::Null, || table::draw(&["topic", "partitions", "offsets"], &rows))?;
                }
            }
            TopicsAction::Create { name, partitions, replication_factor, configs } => {
                let mut topic = NewTopic { partitions, replication_factor, ..NewTopic::new(name.as_str()) };
                for config in configs {
                    let (option, value) = config.split_once('=').ok_or_else(|| {
                        Error::new(ErrorKind::Invalid, format!("--config takes NAME=VALUE given={config}"))
                    })?;
                    topic = topic.config(option, value);
                }
                one(connection.runtime.block_on(admin.create_topics(&[topic], false, PATIENCE))?)?;
                output.result(|| json!({"created": name}), || format!("created {name}"))?;
            }
            TopicsAction::AddPartitions { name, total } => {
                let more = [(name.clone(), NewPartitions { total, assignments: None })].into();
                one(connection.runtime.block_on(admin.create_partitions(&more, false, PATIENCE))?)?;
                output.result(
                    || json!({"topic": name, "partitions": total}),
                    || format!("{name} has {total} partitions"),
                )?;
            }
            TopicsAction::Delete { name } => {
                one(connection.runtime.block_on(admin.delete_topics(&[&name], PATIENCE))?)?;
                output.result(|| json!({"deleted": name}), || format!("deleted {name}"))?;
            }
        }
        connection.close()
    }
}

fn partitions_of(topic: &Topic) -> Vec<TopicPartition> {
    (0..topic.partitions.len() as i32)
        .map(|partition| TopicPartition::new(Arc::clone(&topic.name), partition))
        .collect()
}

/// The result of the one thing that was asked.
fn one<T>(results: impl IntoIterator<Item = (T, Result<()>)>) -> Result<()> {
    results.into_iter().try_for_each(|(_, result)| result)
}

/// Arguments of `ottla groups`.
#[derive(Debug, Args)]
pub(super) struct Groups {
    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Show this group's committed offsets and lag instead of the list
    group: Option<String>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Groups {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = Connection::open(&self.source, &self.connection)?;
        let admin = Admin::new(connection.plain_client()?);
        let mut rows = Vec::new();
        let mut found = Vec::new();
        let headers: &[&str] = match &self.group {
            None => {
                for group in connection.runtime.block_on(admin.list_groups(PATIENCE))? {
                    rows.push(vec![group.group_id.clone(), group.state.clone()]);
                    found.push(json!({"group": group.group_id, "state": group.state}));
                }
                &["group", "state"]
            }
            Some(group) => {
                let committed = connection.runtime.block_on(admin.list_group_offsets(group, None, PATIENCE))?;
                if committed.is_empty() {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the group has committed nothing, or is not there group={group}"),
                    ));
                }
                let wanted = committed.keys().cloned().map(|partition| (partition, crate::client::LATEST)).collect();
                let ends = connection.runtime.block_on(admin.client().list_offsets(
                    wanted,
                    crate::client::config::IsolationLevel::ReadUncommitted,
                    PATIENCE,
                ))?;
                let mut all: Vec<_> = committed.into_iter().collect();
                all.sort_by(|one, other| one.0.cmp(&other.0));
                for (partition, committed) in all {
                    let end = match ends.get(&partition) {
                        Some(Ok(end)) => Some(end.offset),
                        _ => None,
                    };
                    let lag = end.map(|end| (end - committed.offset).max(0));
                    rows.push(vec![
                        partition.to_string(),
                        table::count(committed.offset),
                        end.map_or("?".to_owned(), table::count),
                        lag.map_or("?".to_owned(), table::count),
                    ]);
                    found.push(json!({
                        "group": group, "topic": &*partition.topic, "partition": partition.partition,
                        "committed": committed.offset, "end": end, "lag": lag,
                    }));
                }
                &["partition", "committed", "end", "lag"]
            }
        };
        if output.json {
            for line in found {
                output.result(|| line, String::new)?;
            }
        } else {
            output.result(|| Value::Null, || table::draw(headers, &rows))?;
        }
        connection.close()
    }
}

/// Arguments of `ottla produce`.
#[derive(Debug, Args)]
pub(super) struct Produce {
    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "TARGET")]
    target: String,

    topic: String,

    /// Each line is a value, not a JSON object
    #[arg(long)]
    lines: bool,

    /// With --lines: what separates a key from its value
    #[arg(short = 'K', long, value_name = "DELIMITER", requires = "lines")]
    key_delimiter: Option<String>,

    /// Codec: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, default_value = "none")]
    compression: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Produce {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = Connection::open(&self.target, &self.connection)?;
        let mut options = connection.options();
        if self.compression != "none" {
            options.set("compression_type", self.compression.as_str());
        }
        let (client, config) = ProducerConfig::from_options(&options)?;
        let (producer, driver) = Producer::new(connection.client(client), config);
        connection.runtime.spawn(driver);
        let mut tickets = Vec::new();
        for (number, line) in std::io::stdin().lock().split(b'\n').enumerate() {
            let mut line = line?;
            if line.last() == Some(&b'\r') && !self.lines {
                line.pop();
            }
            let record = if self.lines {
                Line::from_text(&line, self.key_delimiter.as_deref())
            } else if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            } else {
                Line::from_json(&line).map_err(|error| error.context(format_args!("line {}", number + 1)))?
            };
            let headers: Vec<(&str, Option<&[u8]>)> =
                record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            tickets.push(connection.runtime.block_on(producer.send_waiting(
                &self.topic,
                record.partition,
                record.timestamp,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            ))?);
        }
        connection.runtime.block_on(producer.flush(Duration::from_secs(120)))?;
        let count = tickets.len();
        for ticket in tickets {
            connection.runtime.block_on(ticket.wait())?;
        }
        connection.runtime.block_on(producer.close(PATIENCE))?;
        if output.json {
            output.result(|| json!({"topic": self.topic, "records": count}), String::new)?;
        } else {
            output.say(format!("produced {} records to {}", table::count(count as i64), self.topic));
        }
        connection.close()
    }
}

/// Arguments of `ottla consume`.
#[derive(Debug, Args)]
pub(super) struct Consume {
    /// kafka://HOST:PORT[,…] or the directory of a log
    #[arg(value_name = "SOURCE")]
    source: String,

    topic: String,

    /// Where to begin: beginning, end, or a timestamp in ms
    #[arg(long, default_value = "beginning")]
    from: String,

    /// One partition alone
    #[arg(short, long, value_name = "N")]
    partition: Option<i32>,

    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<usize>,

    /// Go on at the end instead of ending there
    #[arg(short, long)]
    follow: bool,

    /// Print values alone, a line each, instead of JSON objects
    #[arg(long)]
    lines: bool,

    /// Only records of committed transactions
    #[arg(long)]
    read_committed: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Consume {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let connection = Connection::open(&self.source, &self.connection)?;
        let mut options = connection.options();
        options.set("auto_offset_reset", "earliest").set("allow_auto_create_topics", false);
        if self.read_committed {
            options.set("isolation_level", "read_committed");
        }
        let (client, config) = ConsumerConfig::from_options(&options)?;
        let (consumer, driver) = Consumer::new(connection.client(client), config);
        connection.runtime.spawn(driver);
        let runtime = &connection.runtime;
        let topic = runtime.block_on(consumer.partitions_for_topic(&self.topic, PATIENCE))?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no such topic topic={} source={}", self.topic, self.source))
        })?;
        let partitions: Vec<TopicPartition> = partitions_of(&topic)
            .into_iter()
            .filter(|partition| self.partition.is_none_or(|wanted| wanted == partition.partition))
            .collect();
        if partitions.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("no such partition topic={}", self.topic)));
        }
        consumer.assign(&partitions)?;
        let ends = runtime.block_on(consumer.end_offsets(&partitions, PATIENCE))?;
        match self.from.as_str() {
            "beginning" => consumer.seek_to_beginning(&partitions)?,
            "end" => consumer.seek_to_end(&partitions)?,
            time => {
                let time: i64 = time.parse().map_err(|_| {
                    Error::new(ErrorKind::Invalid, format!("--from takes beginning, end or milliseconds given={time}"))
                })?;
                let wanted: Vec<_> = partitions.iter().cloned().map(|partition| (partition, time)).collect();
                let found = runtime.block_on(consumer.offsets_for_times(&wanted.into_iter().collect(), PATIENCE))?;
                for partition in &partitions {
                    let offset = found.get(partition).and_then(Option::as_ref).map_or(ends[partition], |at| at.offset);
                    consumer.seek(partition, offset)?;
                }
            }
        }
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut left = self.count.unwrap_or(usize::MAX);
        let mut seen = 0_usize;
        let mut quiet_since = Instant::now();
        'all: while left > 0 {
            if !self.follow {
                let mut done = true;
                for partition in &partitions {
                    done &= runtime.block_on(consumer.position(partition, PATIENCE))? >= ends[partition];
                }
                if done {
                    break;
                }
                if quiet_since.elapsed() > PATIENCE {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("nothing arrived in 30 s topic={}", self.topic),
                    ));
                }
            }
            let polled = runtime.block_on(consumer.poll(Duration::from_millis(200), Some(left.min(10_000))))?;
            for batch in &polled.batches {
                quiet_since = Instant::now();
                for record in batch.iter() {
                    let record = record?;
                    if self.lines {
                        out.write_all(record.value.unwrap_or_default())?;
                    } else {
                        let mut headers = Vec::new();
                        for header in record.headers {
                            let (name, value) = header?;
                            headers.push(json!([name, bytes_to_json(value)]));
                        }
                        let line = json!({
                            "topic": &*batch.partition.topic, "partition": batch.partition.partition,
                            "offset": record.offset, "timestamp": record.timestamp,
                            "key": bytes_to_json(record.key), "value": bytes_to_json(record.value), "headers": headers,
                        });
                        write!(out, "{line}")?;
                    }
                    out.write_all(b"\n")?;
                    seen += 1;
                    left -= 1;
                    if left == 0 {
                        break 'all;
                    }
                }
            }
            out.flush()?;
        }
        out.flush()?;
        drop(out);
        connection.runtime.block_on(consumer.close(false, PATIENCE))?;
        if !output.json {
            output.say(format!("{} records", table::count(seen as i64)));
        }
        connection.close()
    }
}

/// A record to produce, as a line of input gives it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    partition: Option<i32>,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Line {
    fn from_text(line: &[u8], delimiter: Option<&str>) -> Self {
        let at = delimiter
            .filter(|delimiter| !delimiter.is_empty())
            .and_then(|delimiter| line.windows(delimiter.len()).position(|part| part == delimiter.as_bytes()));
        let (key, value) = match (at, delimiter) {
            (Some(at), Some(delimiter)) => (Some(line[..at].to_vec()), &line[at + delimiter.len()..]),
            _ => (None, line),
        };
        Self { key, value: Some(value.to_vec()), ..Self::default() }
    }

    fn from_json(line: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::new(ErrorKind::Invalid, format!("{what}; a record is {SHAPE}"));
        let parsed: Value = serde_json::from_slice(line)
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("no JSON: {error}; a record is {SHAPE}")))?;
        let Value::Object(fields) = parsed else { return Err(bad("no JSON object")) };
        let mut record = Self::default();
        for (name, value) in fields {
            match (name.as_str(), &value) {
                // What `ottla consume` prints besides is passed over, so that its output can be produced again.
                ("topic" | "offset", _) => {}
                ("partition", Value::Number(number)) => {
                    record.partition = Some(
                        number
                            .as_i64()
                            .and_then(|number| i32::try_from(number).ok())
                            .ok_or_else(|| bad("partition is no number"))?,
                    );
                }
                ("timestamp", Value::Number(number)) => {
                    record.timestamp = Some(number.as_i64().ok_or_else(|| bad("timestamp is no number"))?);
                }
                ("partition" | "timestamp", Value::Null) => {}
                ("key", value) => record.key = bytes_from_json(value).ok_or_else(|| bad("key is no bytes"))?,
                ("value", value) => record.value = bytes_from_json(value).ok_or_else(|| bad("value is no bytes"))?,
                ("headers", Value::Array(headers)) => {
                    for header in headers {
                        let pair = header
                            .as_array()
                            .filter(|pair| pair.len() == 2)
                            .ok_or_else(|| bad("a header is a pair"))?;
                        let name = pair[0].as_str().ok_or_else(|| bad("a header's name is text"))?;
                        let value = bytes_from_json(&pair[1]).ok_or_else(|| bad("a header's value is no bytes"))?;
                        record.headers.push((name.to_owned(), value));
                    }
                }
                (other, _) => return Err(bad(&format!("unknown or wrong field {other:?}"))),
            }
        }
        Ok(record)
    }
}

/// What a line of `ottla produce` looks like.
const SHAPE: &str = r#"{"key": …, "value": …, "headers": [["name", …]], "partition": N, "timestamp": MS} where … is text, null or {"base64": "…"}"#;

/// Bytes as JSON: text where they are UTF-8, else base64.
fn bytes_to_json(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({"base64": STANDARD.encode(bytes)}),
        },
    }
}

/// The reverse of [`bytes_to_json`]; `None` if it is neither.
#[allow(clippy::option_option)]
fn bytes_from_json(value: &Value) -> Option<Option<Vec<u8>>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.as_bytes().to_vec())),
        Value::Object(fields) if fields.len() == 1 => STANDARD.decode(fields.get("base64")?.as_str()?).ok().map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_the_way_through_a_line() {
        for bytes in [None, Some(&b""[..]), Some(b"text \xc3\xa4 \"quoted\"\n"), Some(&[0, 255, 128])] {
            assert_eq!(bytes_from_json(&bytes_to_json(bytes)).unwrap().as_deref(), bytes);
        }
        let line =
            br#"{"key":null,"value":{"base64":"AP8="},"headers":[["h","1"],["h",null]],"timestamp":5,"offset":9}"#;
        let record = Line::from_json(line).unwrap();
        assert_eq!((record.key, record.value), (None, Some(vec![0, 255])));
        assert_eq!(record.headers, [("h".to_owned(), Some(b"1".to_vec())), ("h".to_owned(), None)]);
        assert_eq!(record.timestamp, Some(5));
        assert!(Line::from_json(b"{\"valeu\":1}").is_err());
        assert!(Line::from_json(b"nonsense").is_err());
    }

    #[test]
    fn plain_lines_are_cut_at_the_first_delimiter() {
        let record = Line::from_text(b"k::v::w", Some("::"));
        assert_eq!((record.key.unwrap(), record.value.unwrap()), (b"k".to_vec(), b"v::w".to_vec()));
        assert_eq!(Line::from_text(b"v", Some(":")).key, None);
    }
}
