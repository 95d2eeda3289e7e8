//! A broker of this process that listens, and is one among others.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::{LocalBroker, Runtime, Server, ServerOptions};
use crate::client::{ClientConfig, Options};
use crate::replication::{FollowerOptions, Member, MemberOptions, Selection};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Numbers below are given by people; Kafka's `reserved.broker.max.id`.
const RESERVED_NODE_IDS: u32 = 1_000;
/// The longest pause before a broker that is away is looked for again.
const RECONNECT_BACKOFF_MAX_MS: i64 = 1_000;

/// How a broker listens, and whom it follows.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// `HOST:PORT` to listen on; port 0 takes a free one. `None` for no port.
    pub listen: Option<String>,
    /// What clients and other brokers are told to connect to, when that is not where it listens.
    pub advertise: Option<Endpoint>,
    /// The broker's number; `None` for the one that it has had, or else 0, or for a follower one of its own.
    pub node_id: Option<i32>,
    /// The address of the leader, `[kafka://]HOST:PORT[,…]`; `None` to lead, unless it followed before.
    pub follow: Option<String>,
    /// Whether the leader's `acks=all` waits for this broker, too. Default: yes.
    pub synchronous: bool,
    /// What to follow. Default: all but Kafka's own.
    pub topics: Selection,
    /// A client's options, for reaching the leader.
    pub client: Options,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: None,
            node_id: None,
            follow: None,
            synchronous: true,
            topics: Selection::all(),
            client: Options::new(),
        }
    }
}

/// A broker that listens and leads or follows. Whoever drops it ends its connections; the broker stays open.
pub struct Node {
    broker: Arc<LocalBroker>,
    server: Option<Server>,
    member: Member,
    node_id: i32,
    endpoint: Option<Endpoint>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("node_id", &self.node_id).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node on `broker`. What it follows or leads is driven by the future, which ends as [`Member`]'s does.
    ///
    /// # Errors
    /// The address to listen on is in use or none; see also [`Member::new`].
    pub fn start(
        runtime: &Runtime,
        broker: Arc<LocalBroker>,
        options: NodeOptions,
    ) -> Result<(Self, BoxFuture<'static, Result<()>>)> {
        let NodeOptions { listen, advertise, node_id, follow, synchronous, topics, client } = options;
        if follow.is_some() && synchronous && listen.is_none() {
            let message = "a synchronous follower listens, so that clients find it when it is promoted; follow asynchronously or \
                           give it an address to listen on";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let embedded = broker.embedded();
        let follows = follow.is_some();
        let node_id = embedded.with(|broker, now| {
            let generated = generated_node_id(broker.cluster_id());
            let node_id = broker.take_node_id(node_id, if follows { generated } else { 0 }, now)?;
            if !follows || synchronous {
                // Before anybody can ask it for anything.
                broker.resume_following(now)?;
                broker.seek(follows && broker.promoted()?.is_none());
            }
            Ok::<_, Error>(node_id)
        })??;
        let server = listen
            .map(|listen| Server::start(runtime, embedded.clone(), &listen, ServerOptions::default()))
            .transpose()?;
        let endpoint = match (&server, advertise) {
            (_, Some(advertised)) => Some(advertised),
            (Some(server), None) if server.address().ip().is_unspecified() => {
                Some(Endpoint::new("localhost", server.address().port()))
            }
            (Some(server), None) => Some(Endpoint::new(server.address().ip().to_string(), server.address().port())),
            (None, None) => None,
        };
        if let Some(endpoint) = &endpoint {
            embedded.advertise(&endpoint.host, endpoint.port)?;
        }
        let threads = runtime.clone();
        let connect = move |addresses: &str| {
            let mut options = client.clone();
            options.set("bootstrap_servers", addresses);
            if options.value("reconnect_backoff_max_ms").is_none() {
                options.set("reconnect_backoff_max_ms", RECONNECT_BACKOFF_MAX_MS);
            }
            Ok(threads.client(ClientConfig::from_options(&options)?))
        };
        let follow = follow.map(|address| address.trim_start_matches("kafka://").trim_end_matches('/').to_owned());
        let mut options = MemberOptions::new(Arc::new(connect), follow);
        options.synchronous = synchronous;
        options.follower = FollowerOptions { topics, ..FollowerOptions::default() };
        let (member, driver) = Member::new(embedded.clone(), options)?;
        Ok((Self { broker, server, member, node_id, endpoint }, driver))
    }

    /// Its broker.
    pub fn broker(&self) -> &Arc<LocalBroker> {
        &self.broker
    }

    /// Whom it follows, and how far it is.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Its number.
    pub fn node_id(&self) -> i32 {
        self.node_id
    }

    /// Where clients find it; `None` if it does not listen.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// Where it listens.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.server.as_ref().map(Server::address)
    }

    /// Ends what it follows and its connections, and returns when the address is free again. The broker stays open.
    pub async fn close(self) {
        self.member.stop();
        if let Some(server) = self.server {
            server.close().await;
        }
    }
}

/// A number for a node that nobody gave one, above those that people give, as Kafka once did it.
fn generated_node_id(cluster_id: &str) -> i32 {
    const COUNT: u32 = 1_000_000_000;
    i32::try_from(RESERVED_NODE_IDS + 1 + crc32c::crc32c(cluster_id.as_bytes()) % COUNT).unwrap_or(i32::MAX)
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
