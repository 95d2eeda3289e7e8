//! `ottla serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::connection::ConnectionArgs;
use super::copies::TopicsArg;
use super::replicate::{Following, watch};
use super::{Output, wait_for_signal};
use crate::broker::{BrokerConfig, Durability};
use crate::native::{LocalBroker, Location, Runtime, Server, ServerOptions};
use crate::replication::{ClusterSource, Follower, FollowerOptions, Selection};
use crate::{Error, ErrorKind, Result};

/// Numbers below are given by people; Kafka's `reserved.broker.max.id`.
const RESERVED_NODE_IDS: u32 = 1_000;

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
        let (given_node_id, durability) = (config.node_id, config.durability);
        let broker = match &self.data {
            Some(dir) => LocalBroker::open(&runtime, Location::Directory(dir.clone()), config)?,
            None => LocalBroker::in_memory(&runtime, config)?,
        };
        for line in broker.embedded().recovered()? {
            output.say(format!("recovered {line}"));
        }
        let cluster_id = broker.embedded().cluster_id()?;
        let node_id = match &self.follow {
            // The same after a restart, and another than any other follower's.
            Some(_) if given_node_id == 0 && self.node_id.is_none() => generated_node_id(&cluster_id),
            _ => given_node_id,
        };
        broker.embedded().renumber(node_id)?;
        let server = Server::start(&runtime, broker.embedded().clone(), &self.listen, ServerOptions::default())?;
        let address = server.address();
        let (host, port) = match &self.advertise {
            Some(advertised) => parse_advertised(advertised)?,
            None if address.ip().is_unspecified() => ("localhost".to_owned(), address.port()),
            None => (address.ip().to_string(), address.port()),
        };
        broker.embedded().advertise(&host, port)?;
        let follower = self.follower(&runtime, &broker, node_id, selection)?;
        let ready_ms = started.elapsed().as_secs_f64() * 1e3;
        let data = broker.location().to_string();
        let mirroring = follower.as_ref().map(|_| if self.is_synchronous() { "sync" } else { "async" });
        if output.json {
            output.result(
                || {
                    serde_json::json!({
                        "listening": address.to_string(), "advertised": format!("{host}:{port}"), "data": data,
                        "node_id": node_id, "cluster_id": cluster_id, "pid": std::process::id(), "ready_ms": ready_ms,
                        "follows": self.follow, "mirroring": mirroring,
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
            if let (Some(leader), Some(mirroring)) = (&self.follow, mirroring) {
                output.say(format!("follows {leader} ({mirroring}, as node {node_id})"));
            }
        }
        let ended = runtime.block_on(async {
            let Some((follower, driver)) = follower else { return wait_for_signal().await };
            let began = Instant::now();
            let ended = tokio::select! {
                ended = driver => ended,
                never = watch(&follower, output) => never,
                asked = wait_for_signal() => asked,
            };
            ended?;
            let now = Following::of(&follower);
            if output.json {
                output.result(|| now.json("ended", began.elapsed()), String::new)?;
            } else {
                output.say(format!("followed: {}", now.text()));
            }
            Ok(())
        });
        drop(server);
        broker.close()?;
        output.say("closed");
        ended
    }

    fn config(&self) -> Result<BrokerConfig> {
        let mut config = BrokerConfig {
            // A topic that a reader asks for before its copy is here must not take its place.
            auto_create_topics: !self.no_auto_create && self.follow.is_none(),
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

    #[allow(clippy::type_complexity)]
    fn follower(
        &self,
        runtime: &Runtime,
        broker: &LocalBroker,
        node_id: i32,
        selection: Selection,
    ) -> Result<Option<(Follower, futures::future::BoxFuture<'static, Result<()>>)>> {
        let Some(leader) = &self.follow else { return Ok(None) };
        let source = ClusterSource::new(self.connection.client(runtime, leader)?);
        let options = FollowerOptions {
            topics: selection,
            replica_id: self.is_synchronous().then_some(node_id),
            follow_deletions: true,
            groups: Some(Selection::all()),
            ..FollowerOptions::default()
        };
        Ok(Some(Follower::new(source, Arc::new(broker.embedded().clone()), options)))
    }
}

/// A number for a node that nobody gave one, above those that people give, as Kafka once did it.
fn generated_node_id(cluster_id: &str) -> i32 {
    const COUNT: u32 = 1_000_000_000;
    i32::try_from(RESERVED_NODE_IDS + 1 + crc32c::crc32c(cluster_id.as_bytes()) % COUNT).unwrap_or(i32::MAX)
}

fn parse_advertised(text: &str) -> Result<(String, u16)> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("an address is HOST:PORT given={text}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_node_ids_are_above_the_reserved_ones_and_stay() {
        let id = super::generated_node_id("Kj3-x0dQTmuYV6Zq");
        assert!(id > 1_000);
        assert_eq!(id, super::generated_node_id("Kj3-x0dQTmuYV6Zq"));
    }
}
