//! `ottla serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future;
use futures::stream::StreamExt;
use serde_json::json;

use super::connection::ConnectionArgs;
use super::copies::TopicsArg;
use super::replicate::{Following, watch};
use super::{Output, Signals};
use crate::broker::{AckLatency, BrokerConfig, Durability, Step, Traced};
use crate::native::pipe::Place;
use crate::native::{LocalBroker, Location, Node, NodeOptions, Runtime};
use crate::replication::Role;
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Directory of the logs, made when missing; without it the broker keeps everything in memory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,

    /// What clients are told to connect to, when that is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// This broker's number; 0 when not given, and for a follower one of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    node_id: Option<i32>,

    /// Partitions of topics that are created without a count
    #[arg(long, value_name = "N", default_value_t = 1)]
    partitions: i32,

    /// Do not create topics that clients ask for
    #[arg(long)]
    no_auto_create: bool,

    /// What acks=all means: 'sync', on the device; 'os', handed to the operating system (Kafka's way)
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    durability: DurabilityArg,

    /// An option of the broker or a default of its topics under Kafka's name, such as retention.ms=60000; may be repeated
    #[arg(long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,

    /// Print what happens to records, step by step: received, written, synced, sent to a follower, synced there, acknowledged
    #[arg(long)]
    trace: bool,

    /// Follow the leader at this address: hold copies of its topics, and serve reads of them
    #[arg(long, value_name = "HOST:PORT", help_heading = "Following a leader")]
    follow: Option<String>,

    /// Follow asynchronously, as --mirroring async: the leader does not wait. Any Kafka can be followed so
    #[arg(long = "async", requires = "follow", conflicts_with = "mirroring", help_heading = "Following a leader")]
    asynchronous: bool,

    /// 'sync': acks=all at the leader waits until the records are synced here, too; it must be an Ottla.
    /// 'async': it does not
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t = Mirroring::Sync,
        requires = "follow",
        help_heading = "Following a leader"
    )]
    mirroring: Mirroring,

    #[command(flatten, next_help_heading = "Following a leader")]
    topics: TopicsArg,

    #[command(flatten, next_help_heading = "Following a leader")]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DurabilityArg {
    Sync,
    Os,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mirroring {
    Sync,
    Async,
}

impl Serve {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let started = Instant::now();
        let runtime = Runtime::new()?;
        let selection = self.topics.selection()?;
        if self.follow.is_none() && !selection.is_all() {
            return Err(Error::new(ErrorKind::Invalid, "--topics says what to --follow, and nothing is followed"));
        }
        let config = self.config()?;
        let durability = config.durability;
        let broker = match &self.data {
            Some(dir) => LocalBroker::open(&runtime, Location::Directory(dir.clone()), config)?,
            None => LocalBroker::in_memory(&runtime, config)?,
        };
        for line in broker.embedded().recovered()? {
            output.say(format!("recovered {line}"));
        }
        let traced = if self.trace {
            let steps = broker.embedded().trace()?;
            Some(runtime.spawn(steps.for_each(move |(since, step)| {
                tell(since, &step, output);
                future::ready(())
            })))
        } else {
            None
        };
        let options = NodeOptions {
            listen: Some(self.listen.clone()),
            advertise: self.advertise.as_deref().map(parse_advertised).transpose()?,
            node_id: self.node_id,
            follow: self.follow.as_deref().map(cluster_address).transpose()?,
            synchronous: self.is_synchronous(),
            topics: selection,
            client: self.connection.client_options()?,
        };
        let (node, driver) = Node::start(&runtime, Arc::clone(&broker), options)?;
        let node_id = node.node_id();
        let cluster_id = broker.embedded().cluster_id()?;
        let address = node.address().map(|address| address.to_string()).unwrap_or_default();
        let advertised = node.endpoint().map(ToString::to_string).unwrap_or_default();
        let follows = match node.member().role()? {
            Role::Follower(leader) => Some(self.follow.clone().unwrap_or_else(|| leader.endpoint().to_string())),
            _ => self.follow.clone(),
        };
        // Before anybody hears that this is here: who does may end it at once.
        let mut signals = runtime.block_on(async { Signals::listen() })?;
        let ready_ms = started.elapsed().as_secs_f64() * 1e3;
        let data = broker.location().to_string();
        let mirroring = follows.as_ref().map(|_| if self.is_synchronous() { "sync" } else { "async" });
        if output.json {
            output.result(
                || {
                    serde_json::json!({
                        "listening": address, "advertised": advertised, "data": data,
                        "node_id": node_id, "cluster_id": cluster_id, "pid": std::process::id(), "ready_ms": ready_ms,
                        "follows": follows, "mirroring": mirroring,
                    })
                },
                String::new,
            )?;
        } else {
            let durability = match (self.data.is_some(), durability) {
                (false, _) => "nothing is kept",
                (true, Durability::Sync) => "acks=all is synced",
                (true, Durability::Os) => "durability=os: acknowledged is not synced",
            };
            output.say(format!("ottla serves {data} on {address} ({durability}; ready in {ready_ms:.1} ms)"));
            if let (Some(leader), Some(mirroring)) = (&follows, mirroring) {
                output.say(format!("follows {leader} ({mirroring}, as node {node_id})"));
            }
        }
        let began = Instant::now();
        let ended = runtime.block_on(async {
            let ended = tokio::select! {
                ended = driver => ended,
                never = watch(|| Following::of_member(node.member()), output) => never,
                () = signals.wait() => Ok(()),
            };
            ended?;
            if follows.is_none() {
                return Ok(());
            }
            let now = Following::of_member(node.member());
            if output.json {
                output.result(|| now.json("ended", began.elapsed()), String::new)?;
            } else {
                output.say(format!("followed: {}", now.text()));
            }
            Ok(())
        });
        drop(node);
        log_latency(&broker.embedded().with(|broker, _| broker.ack_latency())?);
        broker.close()?;
        if let Some(traced) = traced {
            // Whether its last lines could be printed or not.
            let _ = runtime.block_on(traced);
        }
        output.say("closed");
        ended
    }

    fn config(&self) -> Result<BrokerConfig> {
        let mut config = BrokerConfig {
            // A topic that a reader asks for before its copy is here must not take its place; one that follows synchronously makes
            // none until it leads.
            auto_create_topics: !self.no_auto_create && (self.follow.is_none() || self.is_synchronous()),
            num_partitions: self.partitions,
            durability: match self.durability {
                DurabilityArg::Sync => Durability::Sync,
                DurabilityArg::Os => Durability::Os,
            },
            ..BrokerConfig::default()
        };
        for given in &self.configs {
            let (name, value) = given
                .split_once('=')
                .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("--config takes NAME=VALUE given={given}")))?;
            config.set(name, value)?;
        }
        if let Some(node_id) = self.node_id {
            config.node_id = node_id;
        }
        Ok(config)
    }

    fn is_synchronous(&self) -> bool {
        !self.asynchronous && self.mirroring == Mirroring::Sync
    }
}

/// Says how long `acks=all` took, if anybody has asked for it.
fn log_latency(latency: &AckLatency) {
    let AckLatency { count, total, own, added } = latency;
    if *count > 0 {
        log::info!(
            "acks=all answered={count} us_p50={} us_p99={} own_sync_us_p50={} own_sync_us_p99={} followers_us_p50={} \
             followers_us_p99={}",
            total.p50,
            total.p99,
            own.p50,
            own.p99,
            added.p50,
            added.p99
        );
    }
}

/// Prints a step that records have taken, and how long after they came in.
fn tell(since: Duration, traced: &Traced, output: Output) {
    let Traced { topic, partition, offsets, bytes, step, .. } = traced;
    if output.json {
        let (name, node, code) = match *step {
            Step::Received { .. } => ("received", None, None),
            Step::Copied => ("copied", None, None),
            Step::Written => ("written", None, None),
            Step::Synced => ("synced", None, None),
            Step::Sent(node) => ("sent", node, None),
            Step::SyncedAt(node) => ("synced_there", Some(node), None),
            Step::Acknowledged => ("acknowledged", None, None),
            Step::Refused(code) => ("refused", None, Some(code.0)),
        };
        let mut line = json!({
            "step": name, "us": since.as_micros(), "topic": &**topic, "partition": partition,
            "first_offset": offsets.map(|(first, _)| first), "last_offset": offsets.map(|(_, last)| last),
            "bytes": bytes, "node": node, "code": code,
        });
        if let Step::Received { acks } = step {
            line["acks"] = json!(acks);
        }
        // Who does not read the lines does not end the broker.
        let _ = output.result(|| line, String::new);
        return;
    }
    let what = match step {
        Step::Received { acks: -1 } => format!("received: {bytes} bytes, acks=all"),
        Step::Received { acks } => format!("received: {bytes} bytes, acks={acks}"),
        Step::Copied => format!("received from the leader: {bytes} bytes"),
        Step::Written => "written".to_owned(),
        Step::Synced => "synced".to_owned(),
        Step::Sent(Some(node)) => format!("sent to follower {node}"),
        Step::Sent(None) => "sent to a reader".to_owned(),
        Step::SyncedAt(node) => format!("synced at follower {node}"),
        Step::Acknowledged => "acknowledged".to_owned(),
        Step::Refused(code) => format!("refused: {}", code.message()),
    };
    let place = match offsets {
        Some((first, last)) if first < last => format!("{topic}-{partition} {first}…{last}"),
        Some((first, _)) => format!("{topic}-{partition} {first}"),
        None => format!("{topic}-{partition}"),
    };
    output.say(format!("{:>9} µs  {place}  {what}", since.as_micros()));
}

/// The address of a cluster, and nothing else.
fn cluster_address(text: &str) -> Result<String> {
    match Place::parse(text)? {
        Place::Cluster(servers) => Ok(servers),
        Place::Log(_) => {
            let message = format!("the address of a cluster is HOST:PORT or kafka://HOST:PORT[,…] given={text}");
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

fn parse_advertised(text: &str) -> Result<Endpoint> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some(Endpoint::new(host.trim_matches(['[', ']']), port.parse().ok()?)))
        .filter(|endpoint| !endpoint.host.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("an address is HOST:PORT given={text}")))
}
