//! Local replicas under faults: batches that the wire damages, and a disk without room.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use ottla::broker::BrokerConfig;
use ottla::client::{Admin, Client, ClientConfig, NewTopic, Options, Producer, ProducerConfig};
use ottla::native::{LocalBroker, Runtime};
use ottla::protocol::{Request, Response, Versions};
use ottla::replication::{
    ClusterSource, Copied, Follower, FollowerOptions, PartitionStatus, ReplicateOptions, Source, TopicPartition,
    replicate,
};
use ottla::storage::memory::MemoryDevice;
use ottla::transport::{Embedded, Endpoint, RunInline, Transport};
use ottla::{ErrorKind, Result};

const LONG: Duration = Duration::from_secs(30);
/// A batch of `World::produce`, about.
const VALUE: usize = 2_000;

/// A transport that damages one byte in the records of fetch responses, while it is told to.
#[derive(Clone, Debug)]
struct Damaging {
    inner: Arc<dyn Transport>,
    /// How many more answers are damaged.
    left: Arc<AtomicI64>,
    /// How many were.
    damaged: Arc<AtomicU64>,
}

impl Damaging {
    fn damage(&self, response: &mut Response) {
        let Response::Fetch(fetched) = response else { return };
        let records = fetched.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
        for records in records.filter_map(|partition| partition.records.as_mut()).filter(|records| !records.is_empty())
        {
            if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
                let mut bytes = BytesMut::from(&records[..]);
                // Among the records of the first batch.
                bytes[200] ^= 0x10;
                *records = bytes.freeze();
                self.damaged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Transport for Damaging {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        Box::pin(async move {
            let mut response = self.inner.call(to, request).await?;
            self.damage(&mut response);
            Ok(response)
        })
    }

    fn versions<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>> {
        self.inner.versions(to)
    }

    fn close(&self, to: &Endpoint) {
        self.inner.close(to);
    }

    fn separate(&self) -> Arc<dyn Transport> {
        Arc::new(Self { inner: self.inner.separate(), ..self.clone() })
    }
}

/// A leader with a topic of one partition, and the logs of a replica on a device that can be full.
struct World {
    runtime: Runtime,
    leader: Arc<LocalBroker>,
    device: MemoryDevice,
    logs: Embedded,
    left: Arc<AtomicI64>,
    damaged: Arc<AtomicU64>,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let leader = LocalBroker::in_memory(&runtime, BrokerConfig::default()).unwrap();
        let device = MemoryDevice::durable();
        let (clock, runner) = (runtime.clock(), Arc::new(RunInline));
        let logs = Embedded::open(Arc::new(device.clone()), BrokerConfig::default(), clock, runner, 7).unwrap();
        runtime.spawn(logs.drive());
        let world = Self { runtime, leader, device, logs, left: Arc::default(), damaged: Arc::default() };
        let admin = Admin::new(world.leader.client(ClientConfig::default()));
        let new = NewTopic::new("orders").partitions(1);
        world.runtime.block_on(admin.create_topics(&[new], false, LONG)).unwrap()[0].1.as_ref().unwrap();
        world
    }

    fn source(&self) -> ClusterSource {
        let transport = Damaging {
            inner: Arc::new(self.leader.embedded().clone()),
            left: Arc::clone(&self.left),
            damaged: Arc::clone(&self.damaged),
        };
        ClusterSource::new(Client::new(Arc::new(transport), self.runtime.clock(), ClientConfig::default()))
    }

    /// Sends records, each in a batch of its own.
    fn produce(&self, count: usize) {
        let (client, config) = ProducerConfig::from_options(&Options::new().with("batch_size", 0_i64)).unwrap();
        let (producer, driver) = Producer::new(self.leader.client(client), config);
        self.runtime.spawn(driver);
        self.runtime.block_on(async {
            for number in 0..count {
                let value = vec![number as u8; VALUE];
                producer.send_waiting("orders", Some(0), None, None, Some(&value), &[]).await.unwrap();
            }
            producer.close(LONG).await.unwrap();
        });
    }

    fn follow(&self) -> Follower {
        let (follower, driver) = Follower::new(self.source(), Arc::new(self.logs.clone()), FollowerOptions::default());
        self.runtime.spawn(driver);
        follower
    }

    fn replicate(&self) -> Copied {
        let (source, options) = (self.source(), ReplicateOptions::default());
        self.runtime.block_on(replicate(&source, &self.logs, &options, &|_| {})).unwrap()
    }

    /// Every byte of the partition's batches at `source`.
    fn bytes(&self, source: &ClusterSource) -> Vec<u8> {
        let partition = partition();
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            let mut next = 0;
            loop {
                let read = source.read(&partition, next, 1 << 20).await.unwrap_or_else(|_| Bytes::new());
                let mut is_empty = true;
                for batch in ottla::record::batches(read) {
                    let batch = batch.unwrap();
                    batch.check_crc().unwrap();
                    next = batch.next_offset();
                    bytes.extend_from_slice(batch.as_bytes());
                    is_empty = false;
                }
                if is_empty {
                    return bytes;
                }
            }
        })
    }

    fn assert_same(&self) {
        let at = |broker: &Embedded| {
            let client = Client::new(Arc::new(broker.clone()), self.runtime.clock(), ClientConfig::default());
            self.bytes(&ClusterSource::new(client))
        };
        let (there, here) = (at(self.leader.embedded()), at(&self.logs));
        assert!(there == here, "{} bytes at the source, {} here", there.len(), here.len());
    }

    fn end(&self) -> i64 {
        self.logs.copy_states().unwrap().first().map_or(0, |copy| copy.end)
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "it is not so after {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_batch_that_the_wire_damages_once_is_fetched_again() {
    let world = World::new();
    world.produce(50);
    world.left.store(1, Ordering::Relaxed);
    world.replicate().all().unwrap();
    assert_eq!(world.damaged.load(Ordering::Relaxed), 1);
    world.assert_same();
}

#[test]
fn a_batch_that_comes_damaged_each_time_is_named_and_never_written() {
    let world = World::new();
    world.produce(20);
    world.left.store(i64::MAX, Ordering::Relaxed);
    let error = world.replicate().all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let message = error.to_string();
    assert!(message.contains("orders-0") && message.contains("base_offset="), "{message}");
    assert_eq!(world.end(), 0);

    let follower = world.follow();
    let wrong = |status: &PartitionStatus| status.error.as_ref().is_some_and(|error| error.contains("checksum"));
    until("the follower says what is wrong", || follower.status().get(&partition()).is_some_and(wrong));
    let before = world.damaged.load(Ordering::Relaxed);
    until("it is fetched again", || world.damaged.load(Ordering::Relaxed) > before + 2);
    assert_eq!(world.end(), 0);
    world.left.store(0, Ordering::Relaxed);
    world.runtime.block_on(follower.caught_up(LONG)).unwrap();
    assert_eq!(follower.status()[&partition()].error, None);
    world.produce(20);
    world.runtime.block_on(follower.caught_up(LONG)).unwrap();
    world.assert_same();
}

#[test]
fn a_full_disk_pauses_a_follower_which_goes_on_when_there_is_room() {
    let world = World::new();
    world.produce(10);
    let follower = world.follow();
    world.runtime.block_on(follower.caught_up(LONG)).unwrap();
    assert_eq!(follower.paused(), None);
    let used: usize = world.device.files().values().map(Bytes::len).sum();
    world.device.set_capacity(Some(used as u64 + 10 * VALUE as u64));
    let end = world.end();
    world.produce(100);
    until("the follower is paused", || follower.paused().is_some());
    let status = follower.status()[&partition()].clone();
    assert!(status.error.is_some_and(|error| error.contains("until there is room")));
    assert!(world.end() < 110 && world.end() >= end, "{}", world.end());
    world.device.set_capacity(None);
    world.runtime.block_on(follower.caught_up(LONG)).unwrap();
    assert_eq!((follower.paused(), world.end()), (None, 110));
    world.assert_same();
}

#[test]
fn a_full_disk_ends_a_copy_that_the_next_one_goes_on_with() {
    let world = World::new();
    world.produce(1_500);
    let used: usize = world.device.files().values().map(Bytes::len).sum();
    world.device.set_capacity(Some(used as u64 + (3 << 20) / 2));
    let error = world.replicate().all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let end = world.end();
    assert!(end > 0 && end < 1_500, "{end}");
    world.device.set_capacity(None);
    let copied = world.replicate().all().unwrap();
    assert_eq!(copied.done().next().unwrap().start, end);
    world.assert_same();
}
