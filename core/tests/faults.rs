//! The client over a transport that loses requests and answers, delays and reorders: what was sent arrives once and in order.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use ottla::broker::BrokerConfig;
use ottla::client::{
    Admin, Client, ClientConfig, Consumer, ConsumerConfig, Listener, NewTopic, Options, Producer, ProducerConfig,
    TopicPartition,
};
use ottla::clock::Clock;
use ottla::native::{LocalBroker, Runtime};
use ottla::protocol::{Request, Response, Versions};
use ottla::replication::{ClusterSource, Selection, Source, TransferOptions, transfer, verify};
use ottla::transport::{Endpoint, Transport};
use ottla::{Error, ErrorKind, Result};

const LONG: Duration = Duration::from_secs(60);

/// A transport that fails a share of its calls: before they arrive, or after.
#[derive(Clone, Debug)]
struct Flaky {
    inner: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    state: Arc<AtomicU64>,
    /// Of a hundred calls, how many are lost on their way there, and on their way back, and how many are late.
    lost: Lost,
}

/// May change while calls are made.
type Lost = Arc<[AtomicU64; 3]>;

fn lost(there: u64, back: u64, late: u64) -> Lost {
    Arc::new([there, back, late].map(AtomicU64::new))
}

impl Flaky {
    fn hits(&self, what: usize, draw: u64) -> bool {
        draw < self.lost[what].load(Ordering::Relaxed)
    }

    fn draw(&self) -> u64 {
        let mut x = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % 100
    }
}

impl Transport for Flaky {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        let (there, back, late) = (self.draw(), self.draw(), self.draw());
        let gone = || Error::new(ErrorKind::Retriable, "the connection was lost, says the test");
        Box::pin(async move {
            if self.hits(2, late) {
                self.clock.sleep(Duration::from_millis(late % 4)).await;
            }
            if self.hits(0, there) {
                return Err(gone());
            }
            let response = self.inner.call(to, request).await?;
            if self.hits(1, back) { Err(gone()) } else { Ok(response) }
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

struct World {
    runtime: Runtime,
    broker: Arc<LocalBroker>,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default()).unwrap();
        Self { runtime, broker, seed }
    }

    fn client(&self, config: ClientConfig, lost: Lost) -> Client {
        let transport = Flaky {
            inner: Arc::new(self.broker.embedded().clone()),
            clock: self.runtime.clock(),
            state: Arc::new(AtomicU64::new(self.seed)),
            lost,
        };
        Client::new(Arc::new(transport), self.runtime.clock(), config)
    }

    fn create(&self, topic: &str, partitions: i32) {
        let admin = Admin::new(self.client(ClientConfig::default(), lost(0, 0, 0)));
        let new = NewTopic::new(topic).partitions(partitions);
        self.runtime.block_on(admin.create_topics(&[new], false, LONG)).unwrap()[0].1.as_ref().unwrap();
    }

    fn options(&self) -> Options {
        Options::new()
            .with("retry_backoff_ms", 1_i64)
            .with("retry_backoff_max_ms", 5_i64)
            .with("seed", self.seed as i64)
    }

    fn producer(&self, options: &[(&str, &str)], lost: Lost) -> Producer {
        let mut all = self.options();
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, config) = ProducerConfig::from_options(&all).unwrap();
        let (producer, driver) = Producer::new(self.client(client, lost), config);
        self.runtime.spawn(driver);
        producer
    }

    fn consumer(&self, options: &[(&str, &str)], lost: Lost) -> Consumer {
        let mut all = self.options().with("auto_offset_reset", "earliest").with("fetch_max_wait_ms", 20_i64);
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, config) = ConsumerConfig::from_options(&all).unwrap();
        let (consumer, driver) = Consumer::new(self.client(client, lost), config);
        self.runtime.spawn(driver);
        consumer
    }

    /// The values of each partition in order.
    fn read(&self, consumer: &Consumer, partitions: usize, count: usize) -> Vec<Vec<u64>> {
        let mut all = vec![Vec::new(); partitions];
        let end = std::time::Instant::now() + LONG;
        while all.iter().map(Vec::len).sum::<usize>() < count {
            assert!(std::time::Instant::now() < end, "{:?}", all.iter().map(Vec::len).collect::<Vec<_>>());
            let polled = self.runtime.block_on(consumer.poll(Duration::from_millis(100), None)).unwrap();
            for batch in &polled.batches {
                for record in batch.iter() {
                    let value = record.unwrap().value.unwrap();
                    all[batch.partition.partition as usize].push(u64::from_be_bytes(value.try_into().unwrap()));
                }
            }
        }
        all
    }
}

#[test]
fn an_idempotent_producer_delivers_once_and_in_order_whatever_is_lost() {
    for seed in 0..8 {
        let world = World::new(seed);
        world.create("orders", 3);
        let producer = world.producer(&[("batch_size", "200"), ("linger_ms", "1")], lost(10, 10, 20));
        const EACH: u64 = 1_000;
        world.runtime.block_on(async {
            let mut tickets = Vec::new();
            for i in 0..EACH {
                for partition in 0..3 {
                    let value = i.to_be_bytes();
                    let ticket = producer.send_waiting("orders", Some(partition), None, None, Some(&value), &[]).await;
                    tickets.push((i, ticket.unwrap()));
                }
            }
            producer.flush(LONG).await.unwrap();
            for (i, ticket) in tickets {
                let offset = ticket.done().unwrap().unwrap().offset;
                assert!(offset == i as i64 || offset == -1, "seed={seed} i={i} offset={offset}");
            }
            producer.close(LONG).await.unwrap();
        });
        let consumer = world.consumer(&[], lost(10, 10, 20));
        let partitions: Vec<TopicPartition> = (0..3).map(|number| TopicPartition::new("orders", number)).collect();
        consumer.assign(&partitions).unwrap();
        for values in world.read(&consumer, 3, 3 * EACH as usize) {
            assert!(values.into_iter().eq(0..EACH), "seed={seed}");
        }
    }
}

#[test]
fn a_group_over_a_lossy_network_consumes_everything() {
    for seed in 0..5 {
        let world = World::new(seed);
        world.create("orders", 4);
        let producer = world.producer(&[], lost(0, 0, 0));
        world.runtime.block_on(async {
            for i in 0..1_000_u64 {
                let value = i.to_be_bytes();
                producer.send_waiting("orders", Some((i % 4) as i32), None, None, Some(&value), &[]).await.unwrap();
            }
            producer.close(LONG).await.unwrap();
        });
        let options = [("group_id", "g"), ("heartbeat_interval_ms", "20"), ("auto_commit_interval_ms", "20")];
        let consumer = world.consumer(&options, lost(10, 10, 20));
        consumer.subscribe(&["orders"], Listener::None).unwrap();
        let all = world.read(&consumer, 4, 1_000);
        for (partition, values) in all.into_iter().enumerate() {
            // At least once: a lost membership starts again from what was committed.
            let mut values = values;
            values.sort_unstable();
            values.dedup();
            assert!(values.into_iter().eq((0..250).map(|i| i * 4 + partition as u64)), "seed={seed}");
        }
        world.runtime.block_on(consumer.close(true, LONG)).unwrap();
    }
}

#[test]
fn a_record_that_cannot_be_delivered_fails_in_time_and_those_after_the_outage_arrive() {
    let world = World::new(1);
    world.create("orders", 1);
    let network = lost(0, 0, 0);
    let options = [("delivery_timeout_ms", "300"), ("request_timeout_ms", "100")];
    let producer = world.producer(&options, Arc::clone(&network));
    let send = async |i: u64| {
        producer.send_waiting("orders", Some(0), None, None, Some(&i.to_be_bytes()), &[]).await.unwrap().wait().await
    };
    world.runtime.block_on(async {
        assert_eq!(send(0).await.unwrap().offset, 0);
        // It arrives, but nobody hears of it; then nothing arrives.
        network[1].store(100, Ordering::Relaxed);
        let start = std::time::Instant::now();
        let error = send(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.message().contains("delivery_timeout_ms"), "{error}");
        assert!((300..3_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        network[0].store(100, Ordering::Relaxed);
        assert_eq!(send(2).await.unwrap_err().kind(), ErrorKind::Timeout);
        network[0].store(0, Ordering::Relaxed);
        network[1].store(0, Ordering::Relaxed);
        assert_eq!(send(3).await.unwrap().offset, 2);
        assert_eq!(send(4).await.unwrap().offset, 3);
    });
    let consumer = world.consumer(&[], lost(0, 0, 0));
    consumer.assign(&[TopicPartition::new("orders", 0)]).unwrap();
    assert_eq!(world.read(&consumer, 1, 4), [[0, 1, 3, 4]]);
}

#[test]
fn a_full_buffer_makes_callers_wait_and_lets_them_go_on() {
    let world = World::new(3);
    world.create("orders", 1);
    let producer = world.producer(&[("buffer_memory", "5000"), ("batch_size", "500")], lost(0, 0, 50));
    world.runtime.block_on(async {
        producer.prepare("orders", LONG).await.unwrap();
        let mut waited = 0;
        for _ in 0..1_000 {
            loop {
                match producer.send("orders", None, None, None, Some(&[7; 100]), &[]) {
                    Ok(_) => break,
                    Err(ottla::client::SendError::Full) => {
                        waited += 1;
                        assert!(producer.buffered_bytes() <= 5_000);
                        producer.room(LONG).await.unwrap();
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        assert!(waited > 10);
        producer.close(LONG).await.unwrap();
        assert_eq!(producer.buffered_bytes(), 0);
    });
}

/// `orders` of two partitions: batches of several sizes, some of them removed from one.
fn fill(world: &World) {
    world.create("orders", 2);
    world.runtime.block_on(async {
        let producer = world.producer(&[("linger_ms", "1")], lost(0, 0, 0));
        // Not so old that they would be removed.
        let begun = world.runtime.clock().now();
        for number in 0..600_i64 {
            let value = vec![b'v'; (number % 90) as usize];
            let partition = Some((number % 2) as i32);
            producer.send_waiting("orders", partition, Some(begun + number), None, Some(&value), &[]).await.unwrap();
            if number % 17 == 0 {
                producer.flush(LONG).await.unwrap();
            }
        }
        producer.flush(LONG).await.unwrap();
        let admin = Admin::new(world.client(ClientConfig::default(), lost(0, 0, 0)));
        let cut = [(TopicPartition::new("orders", 1), 123)].into_iter().collect();
        admin.delete_records(&cut, LONG).await.unwrap();
    });
}

#[test]
fn what_is_made_again_over_lost_answers_is_at_its_offsets_and_once() {
    let source = World::new(0);
    fill(&source);
    let from = ClusterSource::new(source.client(ClientConfig::default(), lost(0, 0, 0)));
    for seed in 1..=20 {
        let target = World::new(seed);
        let (config, _) = ProducerConfig::from_options(&target.options()).unwrap();
        let to = ClusterSource::new(target.client(config, lost(5, 5, 30)));
        target.runtime.block_on(async {
            let topics = from.topics(&Selection::all()).await.unwrap();
            let options = TransferOptions::default();
            let done = transfer(&from, &from, &to, &topics, &options, &|_| {}, &|_| {}).await;
            let done = done.unwrap_or_else(|error| panic!("seed {seed}: {error}")).unwrap();
            assert_eq!(done.copied.partitions.len(), 2);
            let verified = verify(&from, &from, &to, &topics, &Default::default(), &|_| {}).await.unwrap();
            for (partition, same) in verified.iter().zip([300, 300 - 123]) {
                assert_eq!((partition.compared.same, partition.is_alike()), (same, true), "seed {seed}: {partition:?}");
                assert_eq!(partition.removed, 0);
            }
        });
    }
}

/// Somebody else who sends a record just before the second batch of a partition.
#[derive(Debug)]
struct Interloper {
    inner: Arc<dyn Transport>,
    produced: AtomicU64,
}

impl Transport for Interloper {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        Box::pin(async move {
            if let Request::Produce(mine) = &request
                && self.produced.fetch_add(1, Ordering::Relaxed) == 1
            {
                let mut other = mine.clone();
                let mut builder = ottla::record::Builder::new(ottla::record::BuilderOptions::default());
                builder.append(0, None, Some(b"mine"), ottla::record::NO_HEADERS).unwrap();
                let batch = builder.seal(ottla::record::ProducerFields::NONE).unwrap();
                other.topic_data[0].partition_data[0].records = Some(batch.into_bytes());
                self.inner.call(to, Request::Produce(other)).await?;
            }
            self.inner.call(to, request).await
        })
    }

    fn versions<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, Result<Arc<Versions>>> {
        self.inner.versions(to)
    }

    fn close(&self, to: &Endpoint) {
        self.inner.close(to);
    }

    fn separate(&self) -> Arc<dyn Transport> {
        self.inner.separate()
    }
}

#[test]
fn who_writes_between_is_noticed_and_nothing_is_called_restored() {
    let (source, target) = (World::new(0), World::new(1));
    fill(&source);
    let from = ClusterSource::new(source.client(ClientConfig::default(), lost(0, 0, 0)));
    let transport = Interloper { inner: Arc::new(target.broker.embedded().clone()), produced: AtomicU64::new(0) };
    let to = ClusterSource::new(Client::new(Arc::new(transport), target.runtime.clock(), ClientConfig::default()));
    target.runtime.block_on(async {
        let topics = from.topics(&Selection::all()).await.unwrap();
        let mut options = TransferOptions::default();
        let error = transfer(&from, &from, &to, &topics, &options, &|_| {}, &|_| {}).await.unwrap_err();
        assert!(error.message().contains("somebody else writes"), "{error}");
        let error = transfer(&from, &from, &to, &topics, &options, &|_| {}, &|_| {}).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        options.force = true;
        transfer(&from, &from, &to, &topics, &options, &|_| {}, &|_| {}).await.unwrap();
        let verified = verify(&from, &from, &to, &topics, &Default::default(), &|_| {}).await.unwrap();
        assert!(verified.iter().all(|partition| partition.is_alike() && partition.removed == 0), "{verified:?}");
    });
}

/// A transport that keeps answers to Produce until it is told.
#[derive(Clone, Debug)]
struct Keeping {
    inner: Arc<dyn Transport>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    released: bool,
    /// Who waits, by the order of the requests.
    wakers: Vec<Option<Waker>>,
}

impl Transport for Keeping {
    fn call<'a>(&'a self, to: &'a Endpoint, request: Request) -> BoxFuture<'a, Result<Response>> {
        if !matches!(request, Request::Produce(_)) {
            return self.inner.call(to, request);
        }
        Box::pin(async move {
            let response = self.inner.call(to, request).await?;
            let mut place = None;
            poll_fn(|cx| {
                let mut kept = self.kept.lock().unwrap();
                if kept.released {
                    return Poll::Ready(());
                }
                let place = *place.get_or_insert_with(|| {
                    kept.wakers.push(None);
                    kept.wakers.len() - 1
                });
                kept.wakers[place] = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
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

#[test]
fn batches_are_settled_in_their_order_whichever_call_is_looked_at_first() {
    let world = World::new(1);
    world.create("t", 1);
    let kept = Arc::new(Mutex::new(Kept::default()));
    let (_, config) = ProducerConfig::from_options(&world.options().with("acks", 1_i64)).unwrap();
    let transport = Keeping { inner: Arc::new(world.broker.embedded().clone()), kept: Arc::clone(&kept) };
    let client = Client::new(Arc::new(transport), world.runtime.clock(), ClientConfig::default());
    let (producer, driver) = Producer::new(client, config);
    world.runtime.spawn(driver);
    let settled = Arc::new(Mutex::new(Vec::new()));
    let clock = world.runtime.clock();
    world.runtime.block_on(async {
        let mut tickets = Vec::new();
        for number in 0..3 {
            let ticket = producer.send_waiting("t", Some(0), None, None, Some(b"x"), &[]).await.unwrap();
            let settled = Arc::clone(&settled);
            ticket.batch().on_settled(move || settled.lock().unwrap().push(number));
            tickets.push(ticket);
            while kept.lock().unwrap().wakers.len() <= number {
                clock.sleep(Duration::from_millis(1)).await;
            }
        }
        {
            // The last is woken first, as by something else, and the answers are there before it looks.
            let mut kept = kept.lock().unwrap();
            kept.released = true;
            for waker in kept.wakers.iter_mut().rev() {
                waker.take().unwrap().wake();
            }
        }
        for ticket in tickets {
            ticket.wait().await.unwrap();
        }
    });
    assert_eq!(*settled.lock().unwrap(), [0, 1, 2]);
}
