//! `ottla produce` and `ottla consume`: records as lines.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use super::connection::{Connection, ConnectionArgs};
use super::position::Position;
use super::topics::{no_such_partition, partitions_of, topic};
use super::{Output, PATIENCE, Stdout, table};
use crate::client::config::IsolationLevel;
use crate::client::{Admin, Consumer, ConsumerConfig, Listener, Producer, ProducerConfig, TopicPartition};
use crate::record::Record;
use crate::{Error, ErrorKind, Result};

/// How long delivery of what is left may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(120);

/// How many undelivered records are kept count of before their outcome is looked at.
const OPEN_TICKETS: usize = 10_000;

/// Arguments of `ottla produce`.
#[derive(Debug, Args)]
pub(super) struct Produce {
    /// kafka://HOST:PORT[,…] or the directory of a log, made when missing
    #[arg(value_name = "TARGET")]
    target: String,

    topic: String,

    /// Each line is a value, not a JSON object
    #[arg(long)]
    lines: bool,

    /// With --lines: what separates a key from its value
    #[arg(short = 'K', long, value_name = "DELIMITER", requires = "lines")]
    key_delimiter: Option<String>,

    /// To this partition, where a line does not say
    #[arg(short, long, value_name = "N")]
    partition: Option<i32>,

    /// With this key, where a line does not say
    #[arg(short, long)]
    key: Option<String>,

    /// With this header, before those of the line; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,

    /// Codec: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, default_value = "none")]
    compression: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Produce {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let mut headers: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once('=')
                .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("--header takes NAME=VALUE given={header}")))?;
            headers.push((name.to_owned(), Some(value.as_bytes().to_vec())));
        }
        let connection = Connection::open_or_make(&self.target, &self.connection)?;
        let mut options = connection.options(ProducerConfig::OPTIONS);
        if self.compression != "none" {
            options.set("compression_type", self.compression.as_str());
        }
        let (client, config) = ProducerConfig::from_options(&options)?;
        let (producer, driver) = Producer::new(connection.client(client), config);
        connection.runtime().spawn(driver);
        let mut count: usize = 0;
        let mut open = VecDeque::new();
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
            let all: Vec<(&str, Option<&[u8]>)> =
                headers.iter().chain(&record.headers).map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            open.push_back(connection.block_on(producer.send_waiting(
                &self.topic,
                record.partition.or(self.partition),
                record.timestamp,
                record.key.as_deref().or(self.key.as_ref().map(String::as_bytes)),
                record.value.as_deref(),
                &all,
            ))?);
            count += 1;
            while open.len() > OPEN_TICKETS || open.front().is_some_and(|ticket| ticket.batch().is_settled()) {
                let Some(ticket) = open.pop_front() else { break };
                connection.block_on(ticket.wait())?;
            }
        }
        connection.block_on(producer.flush(FLUSH_PATIENCE))?;
        for ticket in open {
            connection.block_on(ticket.wait())?;
        }
        connection.block_on(producer.close(PATIENCE))?;
        if output.json {
            output.result(|| json!({"topic": self.topic, "records": count}), String::new)?;
        } else {
            output.say(format!("produced {} to {}", table::plural(count, "record"), self.topic));
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

    /// Topics
    #[arg(required = true, value_name = "TOPIC", value_delimiter = ',')]
    topics: Vec<String>,

    /// As a member of this group: from where it stands, and what was printed is committed
    #[arg(short = 'G', long)]
    group: Option<String>,

    /// Where to begin: beginning, end, an offset, -N (the last N of each partition), @MS or a time such as
    /// 2026-01-31T08:00:00Z; with --group, beginning or end for partitions it has committed nothing for
    #[arg(short = 'o', long, value_name = "POSITION", default_value = "beginning", allow_hyphen_values = true)]
    from: String,

    /// Where to end: as --from; the end at the start of the command when not given
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    until: Option<String>,

    /// One partition alone
    #[arg(short, long, value_name = "N", conflicts_with = "group")]
    partition: Option<i32>,

    /// End after so many records
    #[arg(short, long, value_name = "N")]
    count: Option<usize>,

    /// Go on at the end instead of ending there
    #[arg(short = 'F', long, conflicts_with = "until")]
    follow: bool,

    /// Print this for each record instead of a JSON object: %t topic, %p partition, %o offset, %T timestamp in ms, %k key,
    /// %s value, %K and %S their lengths (-1 for none), %h headers, %% a percent sign, \n \r \t \\ \xNN
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "lines")]
    format: Option<String>,

    /// Print values alone, a line each: --format '%s\n'
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
        let format = match (&self.format, self.lines) {
            (Some(format), _) => Format::parse(format)?,
            (None, true) => Format::parse("%s\\n")?,
            (None, false) => Format::Json,
        };
        let from: Position = self.from.parse()?;
        let until: Position = self.until.as_deref().map_or(Ok(Position::End), str::parse)?;
        let connection = Connection::open(&self.source, &self.connection)?;
        let mut options = connection.options(ConsumerConfig::OPTIONS);
        options.set("allow_auto_create_topics", false).set("enable_auto_commit", false);
        options.set("auto_offset_reset", "earliest");
        if self.read_committed {
            options.set("isolation_level", "read_committed");
        }
        if let Some(group) = &self.group {
            options.set("group_id", group.as_str());
            match from {
                Position::Beginning => {}
                Position::End => drop(options.set("auto_offset_reset", "latest")),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "a group begins where it stands; `ottla groups SOURCE reset GROUP --to POSITION` sets that",
                    ));
                }
            }
        }
        let (client, config) = ConsumerConfig::from_options(&options)?;
        let (consumer, driver) = Consumer::new(connection.client(client), config);
        connection.runtime().spawn(driver);
        let mut reading = Reading {
            consumer,
            isolation: if self.read_committed {
                IsolationLevel::ReadCommitted
            } else {
                IsolationLevel::ReadUncommitted
            },
            until: (!self.follow).then_some(until),
            ends: BTreeMap::new(),
            printed: 0,
        };
        let read = connection.block_on(async {
            reading.begin(&self, from).await?;
            reading.read(&format, self.count, self.group.is_some()).await
        });
        connection.block_on(reading.consumer.close(false, PATIENCE))?;
        read?;
        if !output.json {
            output.say(table::plural(reading.printed, "record"));
        }
        connection.close()
    }
}

/// What is being printed.
struct Reading {
    consumer: Consumer,
    isolation: IsolationLevel,
    /// Where it ends; goes on without.
    until: Option<Position>,
    /// The offsets at which partitions end.
    ends: BTreeMap<TopicPartition, i64>,
    printed: usize,
}

impl Reading {
    async fn begin(&mut self, args: &Consume, from: Position) -> Result<()> {
        let client = self.consumer.client();
        let admin = Admin::new(client.clone());
        let mut partitions = Vec::new();
        for name in &args.topics {
            partitions.extend(partitions_of(&*topic(&admin, name).await?));
        }
        partitions.retain(|partition| args.partition.is_none_or(|wanted| wanted == partition.partition));
        if partitions.is_empty() {
            return Err(no_such_partition(&args.topics.join(","), args.partition));
        }
        if args.group.is_some() {
            return self.consumer.subscribe(&args.topics, Listener::None);
        }
        // The end first: what comes after it is another command's.
        self.note_ends(&partitions).await?;
        let starts = from.offsets(self.consumer.client(), &partitions, self.isolation, PATIENCE).await?;
        self.consumer.assign(&partitions)?;
        for (partition, start) in &starts {
            self.consumer.seek(partition, *start)?;
        }
        Ok(())
    }

    async fn note_ends(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        if let Some(until) = self.until {
            self.ends.extend(until.offsets(self.consumer.client(), partitions, self.isolation, PATIENCE).await?);
        }
        Ok(())
    }

    /// Whether every partition that is assigned is at its end.
    async fn is_done(&mut self) -> Result<bool> {
        let is_assigned = self.consumer.group_metadata().is_none_or(|group| group.stable);
        if self.until.is_none() || !is_assigned {
            return Ok(false);
        }
        let assignment = self.consumer.assignment();
        let mut new = assignment.clone();
        new.retain(|partition| !self.ends.contains_key(partition));
        if !new.is_empty() {
            self.note_ends(&new).await?;
        }
        for partition in &assignment {
            let Some(end) = self.ends.get(partition) else { return Ok(false) };
            if self.consumer.position(partition, PATIENCE).await? < *end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read(&mut self, format: &Format, count: Option<usize>, commits: bool) -> Result<()> {
        let mut out = std::io::BufWriter::with_capacity(1 << 16, Stdout::lock());
        let mut left = count.unwrap_or(usize::MAX);
        let mut quiet_since = Instant::now();
        while left > 0 && !self.is_done().await? {
            if self.until.is_some() && quiet_since.elapsed() > PATIENCE {
                let message = format!("nothing arrived in {} s", PATIENCE.as_secs());
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            let polled = self.consumer.poll(Duration::from_millis(200), Some(left.min(10_000))).await?;
            let mut printed = 0;
            let mut positions = HashMap::new();
            for batch in &polled.batches {
                quiet_since = Instant::now();
                let end = self.ends.get(&batch.partition).copied().unwrap_or(i64::MAX);
                for record in batch.iter() {
                    let record = record?;
                    if record.offset >= end {
                        break;
                    }
                    format.write(&mut out, &batch.partition, &record)?;
                    printed += 1;
                }
                positions.insert(batch.partition.clone(), crate::client::OffsetAndMetadata::new(batch.to.min(end)));
            }
            out.flush()?;
            self.printed += printed;
            left = left.saturating_sub(printed);
            if commits && !positions.is_empty() {
                self.consumer.commit(Some(positions), PATIENCE).await?;
            }
        }
        Ok(())
    }
}

/// How a record is printed.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    /// A JSON object a line.
    Json,
    Pieces(Vec<Piece>),
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    /// The letter after the percent sign.
    Field(u8),
}

impl Format {
    /// kcat's: what a percent sign and a backslash mean.
    fn parse(text: &str) -> Result<Self> {
        let invalid = |what: String| Error::new(ErrorKind::Invalid, format!("{what} format={text}"));
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => match rest.next() {
                    Some(b'%') => literal.push(b'%'),
                    Some(field) if b"tpoTksKSh".contains(&field) => {
                        if !literal.is_empty() {
                            pieces.push(Piece::Text(std::mem::take(&mut literal)));
                        }
                        pieces.push(Piece::Field(field));
                    }
                    other => {
                        let other = other.map_or(String::new(), |byte| char::from(byte).to_string());
                        return Err(invalid(format!("a format has no %{other}, see `ottla consume --help`")));
                    }
                },
                b'\\' => match rest.next() {
                    Some(b'n') => literal.push(b'\n'),
                    Some(b'r') => literal.push(b'\r'),
                    Some(b't') => literal.push(b'\t'),
                    Some(b'\\') => literal.push(b'\\'),
                    Some(b'x') => {
                        let digits: Vec<u8> = rest.by_ref().take(2).collect();
                        let byte = std::str::from_utf8(&digits).ok().filter(|digits| digits.len() == 2);
                        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                        literal.push(byte.ok_or_else(|| invalid("two hex digits come after \\x".to_owned()))?);
                    }
                    other => {
                        let other = other.map_or(String::new(), |byte| char::from(byte).to_string());
                        return Err(invalid(format!("a format has no \\{other}, see `ottla consume --help`")));
                    }
                },
                byte => literal.push(byte),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self::Pieces(pieces))
    }

    fn write(&self, out: &mut impl Write, partition: &TopicPartition, record: &Record<'_>) -> Result<()> {
        let pieces = match self {
            Self::Pieces(pieces) => pieces,
            Self::Json => {
                let mut headers = Vec::new();
                for header in record.headers.raw() {
                    let (name, value) = header?;
                    headers.push((Text(Some(name)), Text(value)));
                }
                let line = JsonRecord {
                    topic: &partition.topic,
                    partition: partition.partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: Text(record.key),
                    value: Text(record.value),
                    headers,
                };
                serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
                return Ok(());
            }
        };
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Field(b't') => out.write_all(partition.topic.as_bytes())?,
                Piece::Field(b'p') => write!(out, "{}", partition.partition)?,
                Piece::Field(b'o') => write!(out, "{}", record.offset)?,
                Piece::Field(b'T') => write!(out, "{}", record.timestamp)?,
                Piece::Field(b'k') => out.write_all(record.key.unwrap_or_default())?,
                Piece::Field(b's') => out.write_all(record.value.unwrap_or_default())?,
                Piece::Field(b'K') => write!(out, "{}", length(record.key))?,
                Piece::Field(b'S') => write!(out, "{}", length(record.value))?,
                Piece::Field(_) => {
                    for (place, header) in record.headers.raw().enumerate() {
                        let (name, value) = header?;
                        out.write_all(if place > 0 { b"," } else { b"" })?;
                        out.write_all(name)?;
                        out.write_all(b"=")?;
                        out.write_all(value.unwrap_or(b"NULL"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A record as a line of output gives it.
#[derive(Serialize)]
struct JsonRecord<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Text<'a>,
    value: Text<'a>,
    headers: Vec<(Text<'a>, Text<'a>)>,
}

/// Bytes as JSON: text where they are UTF-8, else base64.
pub(super) struct Text<'a>(pub(super) Option<&'a [u8]>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_none(),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => {
                    let mut map = serializer.serialize_map(Some(1))?;
                    map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                    map.end()
                }
            },
        }
    }
}

/// The reverse of [`Text`]; `None` if it is neither.
#[allow(clippy::option_option)]
fn bytes_from_json(value: &Value) -> Option<Option<Vec<u8>>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.as_bytes().to_vec())),
        Value::Object(fields) if fields.len() == 1 => STANDARD.decode(fields.get("base64")?.as_str()?).ok().map(Some),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_the_way_through_a_line() {
        for bytes in [None, Some(&b""[..]), Some(b"text \xc3\xa4 \"quoted\"\n"), Some(&[0, 255, 128])] {
            let line = serde_json::to_value(Text(bytes)).unwrap();
            assert_eq!(bytes_from_json(&line).unwrap().as_deref(), bytes);
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

    #[test]
    fn formats_are_kcats() {
        let text = |text: &str| Piece::Text(text.as_bytes().to_vec());
        let format = Format::parse(r"%t [%p]\t100%%\x21\n").unwrap();
        let pieces = vec![Piece::Field(b't'), text(" ["), Piece::Field(b'p'), text("]\t100%!\n")];
        assert_eq!(format, Format::Pieces(pieces));
        for wrong in ["%", "%z", r"\", r"\q", r"\x4", r"\xzz"] {
            assert!(Format::parse(wrong).is_err(), "{wrong}");
        }
    }
}
