//! A client of any broker: producer, consumer, group member, admin.
//!
//! [`Client`] knows where the brokers are and who leads what; the others are built on it. All of it runs on a
//! [`Transport`] and a [`Clock`], and spawns nothing: what runs by itself is handed out as a *driver* future.

mod admin;
pub mod config;
mod consumer;
mod group;
mod offsets;
mod producer;
mod signal;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

pub use self::admin::{
    Admin, ConfigChange, ConfigEntry, ConfigResource, GroupDescription, GroupListing, MemberDescription, NewPartitions,
    NewTopic,
};
pub use self::config::{ClientConfig, ConsumerConfig, Options, ProducerConfig};
pub use self::consumer::{
    Consumer, FetchedBatch, GroupMetadata, Listener, OffsetAndMetadata, OffsetAndTimestamp, Polled, Rebalance,
    TopicFilter,
};
pub use self::offsets::{EARLIEST, LATEST};
pub use self::producer::{BatchState, Header, Producer, RecordMetadata, SendError, Ticket, murmur2};
use crate::clock::Clock;
pub(crate) use crate::error::repeat;
use crate::protocol::messages::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use crate::protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use crate::protocol::{ApiKey, ErrorCode, RequestMessage};
use crate::transport::{Endpoint, Login, Transport, WireConfig};
use crate::{Error, ErrorKind, Result};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition of its two parts.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A broker of the cluster, as it advertises itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Its id.
    pub node_id: i32,
    /// Where it says that clients reach it.
    pub endpoint: Endpoint,
    /// Its rack.
    pub rack: Option<String>,
}

/// What the brokers said of the cluster; a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The controller's id.
    pub controller_id: Option<i32>,
    /// The brokers by id.
    pub brokers: BTreeMap<i32, BrokerAddress>,
    /// The topics that were asked for, by name.
    pub topics: HashMap<Arc<str>, Arc<Topic>>,
    /// Counts the answers that made the snapshot: a larger one is newer.
    pub generation: u64,
    /// When the last answer came, by the clock's monotonic time.
    pub refreshed_at: Duration,
}

impl Cluster {
    /// The partition as it was last heard of.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partition(partition)
    }

    /// The leader's id and the partition's leader epoch.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let partition = self.partition(topic, partition)?;
        Some((partition.leader?, partition.leader_epoch))
    }
}

/// What the brokers said of a topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; nil from brokers that have none.
    pub id: Uuid,
    /// Whether Kafka keeps it for itself.
    pub is_internal: bool,
    /// Its partitions; `partitions[i]` is partition `i`.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// A partition of it.
    pub fn partition(&self, partition: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

/// What the brokers said of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its leader's id, when it has one.
    pub leader: Option<i32>,
    /// How many leaders it has had; -1 from brokers that do not say.
    pub leader_epoch: i32,
    /// The ids of its replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync_replicas: Vec<i32>,
    /// Those that are not there.
    pub offline_replicas: Vec<i32>,
}

/// Which topics to ask for.
#[derive(Clone, Copy, Debug)]
pub enum Topics<'a> {
    /// All there are.
    All,
    /// None: only the brokers.
    None,
    /// These.
    Named(&'a [Arc<str>]),
}

/// What a coordinator is responsible for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoordinatorType {
    /// A consumer group.
    Group,
    /// A transactional producer.
    Transaction,
}

/// Finds brokers and leaders, and calls them. Clones share what they know.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    config: ClientConfig,
    chance: Chance,
    cluster: Mutex<Arc<Cluster>>,
    reach: Reach,
}

/// Which brokers a client calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    #[default]
    Any,
    /// All others: it is this one's own client.
    Except(Endpoint),
    /// This one, whatever it says of others.
    Only(Endpoint),
}

impl Reach {
    fn holds(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Any => true,
            Self::Except(own) => endpoint != own,
            Self::Only(only) => endpoint == only,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("bootstrap_servers", &self.inner.config.bootstrap_servers)
            .finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// The part of it that a [`Wire`](crate::transport::Wire) needs. A login's entropy is the platform's to add.
    pub fn wire(&self) -> WireConfig {
        WireConfig {
            client_id: self.client_id.clone(),
            login: self.credentials().map(|credentials| Login { credentials, entropy: [0; 32] }),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            connect_timeout: Duration::from_millis(self.socket_connection_setup_timeout_ms),
            reconnect_backoff: Duration::from_millis(self.reconnect_backoff_ms),
            reconnect_backoff_max: Duration::from_millis(self.reconnect_backoff_max_ms),
            max_idle: Duration::from_millis(self.connections_max_idle_ms),
            receive_max_bytes: self.receive_message_max_bytes,
        }
    }
}

impl Client {
    /// A client that has not called anybody yet.
    pub fn new(transport: Arc<dyn Transport>, clock: Arc<dyn Clock>, config: ClientConfig) -> Self {
        let seed = config.seed.unwrap_or_else(|| clock.now() as u64 ^ (clock.monotonic().as_nanos() as u64) << 20);
        let inner = Inner { clock, config, chance: Chance::new(seed), cluster: Mutex::default(), reach: Reach::Any };
        Self { transport, inner: Arc::new(inner) }
    }

    /// A client of those brokers that are within `reach`; it knows nothing of the cluster yet.
    #[must_use]
    pub(crate) fn within_reach(&self, reach: Reach) -> Self {
        let Inner { clock, config, chance, .. } = &*self.inner;
        let inner = Inner {
            clock: Arc::clone(clock),
            config: config.clone(),
            chance: Chance::new(chance.next()),
            cluster: Mutex::default(),
            reach,
        };
        Self { transport: Arc::clone(&self.transport), inner: Arc::new(inner) }
    }

    /// The same client over connections of its own, for requests that wait at the broker.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self { transport: self.transport.separate(), inner: Arc::clone(&self.inner) }
    }

    /// Its clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Its transport.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Its options.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn chance(&self) -> &Chance {
        &self.inner.chance
    }

    /// What is known of the cluster now.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&lock(&self.inner.cluster))
    }

    /// Whether a broker has answered yet.
    pub fn is_connected(&self) -> bool {
        self.cluster().generation > 0
    }

    /// Makes sure that a broker answers, within `timeout`; the error says which addresses were tried and what to try next.
    pub async fn connect(&self, timeout: Duration) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        self.retry(timeout, || self.refresh(Topics::None)).await.map(drop)
    }

    /// Asks a broker for `topics`, once, and remembers the answer.
    pub async fn refresh(&self, topics: Topics<'_>) -> Result<Arc<Cluster>> {
        self.refresh_with(topics, self.inner.config.allow_auto_create_topics).await
    }

    /// As [`refresh`](Self::refresh), saying whether topics that are not there may be created.
    pub async fn refresh_with(&self, topics: Topics<'_>, create: bool) -> Result<Arc<Cluster>> {
        let response = self.ask(topics, create).await?;
        Ok(self.learn(&response, matches!(topics, Topics::All)))
    }

    /// Asks a broker for `topics`, once.
    pub(crate) async fn ask(&self, topics: Topics<'_>, create: bool) -> Result<MetadataResponse> {
        let named = |name: &Arc<str>| MetadataRequestTopic { name: Some(name.to_string()), ..Default::default() };
        let request = MetadataRequest {
            topics: match topics {
                Topics::All => None,
                Topics::None => Some(Vec::new()),
                Topics::Named(names) => Some(names.iter().map(named).collect()),
            },
            allow_auto_topic_creation: create,
            ..Default::default()
        };
        self.call_any(request).await
    }

    /// Takes in what a broker said.
    pub(crate) fn learn(&self, response: &MetadataResponse, all: bool) -> Arc<Cluster> {
        let now = self.inner.clock.monotonic();
        let mut known = lock(&self.inner.cluster);
        let next = Arc::new(known.updated(response, all, now));
        *known = Arc::clone(&next);
        next
    }

    /// The topic as it is known, or else as a broker says; waits up to `timeout` for one that is being created.
    pub async fn topic(&self, name: &str, timeout: Duration) -> Result<Arc<Topic>> {
        if let Some(topic) = self.cluster().topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        let names = [Arc::from(name)];
        self.retry(timeout, || async {
            let response = self.ask(Topics::Named(&names), self.inner.config.allow_auto_create_topics).await?;
            let cluster = self.learn(&response, false);
            if let Some(topic) = cluster.topics.get(&names[0]) {
                return Ok(Arc::clone(topic));
            }
            let code = response.topics.first().map_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, |topic| topic.error_code);
            Err(Error::from_code(code, format!("{} topic={name}", code.message())))
        })
        .await
    }

    /// Calls the broker with `node_id`, once.
    pub async fn call_node<R: RequestMessage>(&self, node_id: i32, request: R) -> Result<R::Response> {
        let cluster = self.cluster();
        let Some(broker) = cluster.brokers.get(&node_id) else {
            return Err(Error::new(ErrorKind::Retriable, format!("broker is not known (any more) node={node_id}")));
        };
        self.call_endpoint(&broker.endpoint, request).await.map_err(|error| self.explain(error, &broker.endpoint))
    }

    /// Calls whoever answers first: the brokers that are known, then the bootstrap addresses, each once.
    pub async fn call_any<R: RequestMessage + Clone>(&self, request: R) -> Result<R::Response> {
        let mut failed = Vec::new();
        let mut last = None;
        for endpoint in self.candidates() {
            match self.call_endpoint(&endpoint, request.clone()).await {
                Ok(response) => return Ok(response),
                // Another broker would say the same.
                Err(error) if error.kind() != ErrorKind::Retriable && error.kind() != ErrorKind::Timeout => {
                    return Err(error);
                }
                Err(error) => {
                    failed.push(endpoint);
                    last = Some(error);
                }
            }
        }
        let error = last.unwrap_or_else(|| Error::new(ErrorKind::Invalid, "there is no address in bootstrap_servers"));
        Err(self.explain_all(error, &failed))
    }

    /// Calls the broker at `endpoint`, once.
    pub async fn call_endpoint<R: RequestMessage>(&self, endpoint: &Endpoint, request: R) -> Result<R::Response> {
        if !self.inner.reach.holds(endpoint) {
            let message = format!("that is not the broker to be asked broker={endpoint}");
            return Err(Error::new(ErrorKind::Retriable, message));
        }
        let response = self.transport.call(endpoint, request.into()).await?;
        let api = R::API_KEY;
        R::Response::try_from(response).map_err(|other| {
            Error::new(
                ErrorKind::Corrupt,
                format!("a broker answered something else broker={endpoint} asked={api} answered={}", other.api_key()),
            )
        })
    }

    /// Known brokers in a random order, then the bootstrap addresses that are none of them.
    fn candidates(&self) -> Vec<Endpoint> {
        let cluster = self.cluster();
        let mut candidates: Vec<Endpoint> = cluster.brokers.values().map(|broker| broker.endpoint.clone()).collect();
        if !candidates.is_empty() {
            let first = self.inner.chance.below(candidates.len());
            candidates.rotate_left(first);
        }
        let mut bootstrap = self.inner.config.bootstrap_servers.clone();
        if !bootstrap.is_empty() {
            let first = self.inner.chance.below(bootstrap.len());
            bootstrap.rotate_left(first);
        }
        for endpoint in bootstrap {
            if !candidates.contains(&endpoint) {
                candidates.push(endpoint);
            }
        }
        candidates.retain(|endpoint| self.inner.reach.holds(endpoint));
        candidates
    }

    /// Says what to try when a broker's own address cannot be reached.
    fn explain(&self, error: Error, endpoint: &Endpoint) -> Error {
        let bootstrap = &self.inner.config.bootstrap_servers;
        if error.kind() != ErrorKind::Retriable || error.code().is_some() || bootstrap.contains(endpoint) {
            return error;
        }
        if !error.message().starts_with("cannot connect") {
            return error;
        }
        Error::new(
            error.kind(),
            format!(
                "{error}; the broker advertised this address when asked at {}: if clients cannot reach it, correct \
                 advertised.listeners on the broker",
                join(bootstrap)
            ),
        )
    }

    fn explain_all(&self, error: Error, failed: &[Endpoint]) -> Error {
        let bootstrap = &self.inner.config.bootstrap_servers;
        if error.code().is_some() || !error.message().starts_with("cannot connect") {
            return error;
        }
        let advertised: Vec<&Endpoint> = failed.iter().filter(|endpoint| !bootstrap.contains(endpoint)).collect();
        let hint = if advertised.is_empty() {
            "is a broker running there, and is this the port of a listener for clients? \
             (`ottla serve` starts one; bootstrap_servers='memory:' needs none)"
                .to_owned()
        } else {
            format!(
                "brokers advertised {}: if clients cannot reach that, correct advertised.listeners on the broker",
                join(advertised)
            )
        };
        let tried = if failed.len() > 1 { format!(" (tried {})", join(failed)) } else { String::new() };
        Error::new(error.kind(), format!("{error}{tried}; {hint}"))
    }

    /// Asks who coordinates `key`, once.
    pub async fn coordinator(&self, kind: CoordinatorType, key: &str) -> Result<BrokerAddress> {
        let mut last = None;
        for endpoint in self.candidates() {
            match self.coordinator_from(&endpoint, kind, key).await {
                Ok(broker) => return Ok(broker),
                Err(error) if error.code().is_none() && error.is_retriable() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        let error = last.unwrap_or_else(|| Error::new(ErrorKind::Invalid, "there is no address in bootstrap_servers"));
        Err(self.explain_all(error, &self.candidates()))
    }

    async fn coordinator_from(&self, endpoint: &Endpoint, kind: CoordinatorType, key: &str) -> Result<BrokerAddress> {
        let versions = self.transport.versions(endpoint).await?;
        let mut request = FindCoordinatorRequest {
            key_type: match kind {
                CoordinatorType::Group => 0,
                CoordinatorType::Transaction => 1,
            },
            ..Default::default()
        };
        // Version 4 asks for many keys in a field of its own.
        if versions.version_for(ApiKey::FIND_COORDINATOR)? >= 4 {
            request.coordinator_keys.push(key.to_owned());
        } else {
            key.clone_into(&mut request.key);
        }
        let mut response = self.call_endpoint(endpoint, request).await?;
        let (code, message, node_id, host, port) = match response.coordinators.pop() {
            Some(one) => (one.error_code, one.error_message, one.node_id, one.host, one.port),
            None => (response.error_code, response.error_message, response.node_id, response.host, response.port),
        };
        check(code, message.as_deref(), format_args!("key={key}"))?;
        Ok(BrokerAddress { node_id, endpoint: Endpoint::new(host, port_of(port)?), rack: None })
    }

    /// A pause before try number `attempt` (from 0): exponential, and a fifth more or less by chance.
    pub fn backoff(&self, attempt: u32) -> Duration {
        let config = &self.inner.config;
        let pause = config
            .retry_backoff_ms
            .saturating_mul(1 << attempt.min(20))
            .min(config.retry_backoff_max_ms.max(config.retry_backoff_ms));
        let jitter = 800 + self.inner.chance.below(401) as u64;
        Duration::from_micros(pause.saturating_mul(jitter))
    }

    /// Runs `attempt` until it succeeds, fails for good, or `timeout` has passed; pauses between.
    pub async fn retry<T, F>(&self, timeout: Duration, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let clock = &self.inner.clock;
        let deadline = clock.monotonic().saturating_add(timeout);
        for tries in 0.. {
            let left = deadline.saturating_sub(clock.monotonic());
            let error = match self.within(left, attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let pause = self.backoff(tries);
            if !error.is_retriable() || clock.monotonic() + pause >= deadline {
                return Err(if error.is_retriable() { timed_out(timeout, error) } else { error });
            }
            clock.sleep(pause).await;
        }
        unreachable!("the loop has no end")
    }

    /// The result of `future`, or a timeout.
    pub async fn within<T>(&self, timeout: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
        let sleep = self.inner.clock.sleep(timeout);
        futures::pin_mut!(future);
        match futures::future::select(future, sleep).await {
            futures::future::Either::Left((result, _)) => result,
            futures::future::Either::Right(((), _)) => {
                Err(Error::new(ErrorKind::Timeout, format!("no answer in time timeout_ms={}", timeout.as_millis())))
            }
        }
    }
}

fn timed_out(timeout: Duration, error: Error) -> Error {
    Error::new(ErrorKind::Timeout, format!("gave up after {} ms: {error}", timeout.as_millis()))
}

fn join<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> String {
    endpoints.into_iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", ")
}

fn port_of(port: i32) -> Result<u16> {
    u16::try_from(port)
        .map_err(|_| Error::new(ErrorKind::Corrupt, format!("a broker advertised an impossible port port={port}")))
}

/// A broker's code as a result; the message is the broker's own if it sent one.
pub(crate) fn check(code: ErrorCode, message: Option<&str>, facts: impl fmt::Display) -> Result<()> {
    if code.is_ok() {
        return Ok(());
    }
    Err(Error::from_code(code, format!("{} {facts}", message.unwrap_or(code.message()))))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// This snapshot with an answer taken in.
    fn updated(&self, response: &MetadataResponse, all: bool, now: Duration) -> Self {
        let mut next = Self {
            cluster_id: response.cluster_id.clone().or_else(|| self.cluster_id.clone()),
            controller_id: Some(response.controller_id).filter(|id| *id >= 0),
            brokers: BTreeMap::new(),
            topics: if all { HashMap::new() } else { self.topics.clone() },
            generation: self.generation + 1,
            refreshed_at: now,
        };
        for broker in &response.brokers {
            // A broker that advertises nonsense is one that cannot be called.
            let Ok(port) = port_of(broker.port) else { continue };
            let address = BrokerAddress {
                node_id: broker.node_id,
                endpoint: Endpoint::new(broker.host.clone(), port),
                rack: broker.rack.clone(),
            };
            next.brokers.insert(broker.node_id, address);
        }
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            match topic.error_code {
                ErrorCode::NONE => {
                    let known = self.topics.get(name.as_str());
                    let topic = Arc::new(Topic::updated(known.map(Arc::as_ref), name, topic));
                    next.topics.insert(Arc::clone(&topic.name), topic);
                }
                // Gone, or not for us: forget it. Other errors pass.
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                | ErrorCode::INVALID_TOPIC_EXCEPTION
                | ErrorCode::TOPIC_AUTHORIZATION_FAILED => drop(next.topics.remove(name.as_str())),
                _ => {}
            }
        }
        next
    }
}

impl Topic {
    fn updated(known: Option<&Self>, name: &str, response: &MetadataResponseTopic) -> Self {
        let name = known.map_or_else(|| Arc::from(name), |known| Arc::clone(&known.name));
        // A topic that was deleted and made anew has another id, and its epochs start again.
        let known = known.filter(|known| known.id == response.topic_id);
        let mut numbered: Vec<_> = response
            .partitions
            .iter()
            .filter(|partition| partition.partition_index >= 0)
            .map(|partition| {
                let next = Partition {
                    leader: Some(partition.leader_id).filter(|leader| *leader >= 0),
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replica_nodes.clone(),
                    in_sync_replicas: partition.isr_nodes.clone(),
                    offline_replicas: partition.offline_replicas.clone(),
                };
                // A broker that lags behind says what was; epochs tell (KIP-320).
                let known = known.and_then(|known| known.partition(partition.partition_index));
                let next = match known {
                    Some(known) if known.leader_epoch > next.leader_epoch && next.leader_epoch >= 0 => known.clone(),
                    _ => next,
                };
                (partition.partition_index, next)
            })
            .collect();
        numbered.sort_by_key(|(number, _)| *number);
        // Numbers are consecutive from 0; what comes after a gap cannot be right.
        let partitions = numbered
            .into_iter()
            .enumerate()
            .take_while(|(i, (number, _))| *i == *number as usize)
            .map(|(_, (_, p))| p)
            .collect();
        Self { name, id: response.topic_id, is_internal: response.is_internal, partitions }
    }
}

/// What is left to chance, from a seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
