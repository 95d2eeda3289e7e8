//! `ottla serve`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::Output;
use crate::broker::{BrokerConfig, Durability};
use crate::native::{LocalBroker, Location, Runtime, Server, ServerOptions};
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

    /// This broker's number
    #[arg(long, value_name = "N", default_value_t = 0)]
    node_id: i32,

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
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DurabilityArg {
    Sync,
    Os,
}

impl Serve {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let started = Instant::now();
        let runtime = Runtime::new()?;
        let mut config = BrokerConfig {
            node_id: self.node_id,
            auto_create_topics: !self.no_auto_create,
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
        let (node_id, durability) = (config.node_id, config.durability);
        let broker = match &self.data {
            Some(dir) => LocalBroker::open(&runtime, Location::Directory(dir.clone()), config)?,
            None => LocalBroker::in_memory(&runtime, config)?,
        };
        for line in broker.embedded().recovered()? {
            output.say(format!("recovered {line}"));
        }
        let server = Server::start(&runtime, broker.embedded().clone(), &self.listen, ServerOptions::default())?;
        let address = server.address();
        let (host, port) = match &self.advertise {
            Some(advertised) => parse_advertised(advertised)?,
            None if address.ip().is_unspecified() => ("localhost".to_owned(), address.port()),
            None => (address.ip().to_string(), address.port()),
        };
        broker.embedded().advertise(&host, port)?;
        let ready_ms = started.elapsed().as_secs_f64() * 1e3;
        let data = broker.location().to_string();
        if output.json {
            let cluster_id = broker.embedded().cluster_id()?;
            output.result(
                || {
                    serde_json::json!({
                        "listening": address.to_string(), "advertised": format!("{host}:{port}"), "data": data,
                        "node_id": node_id, "cluster_id": cluster_id, "pid": std::process::id(), "ready_ms": ready_ms,
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
        }
        let stopped = runtime.block_on(wait_for_signal());
        drop(server);
        broker.close()?;
        output.say("closed");
        stopped
    }
}

fn parse_advertised(text: &str) -> Result<(String, u16)> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("an address is HOST:PORT given={text}")))
}

/// Returns when the process is asked to end.
async fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
