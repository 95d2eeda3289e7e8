//! What clients do meanwhile: they send, read, and commit offsets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::executor::{Owner, SimulatedClock};
use super::history::{RecordId, partitions_of};
use super::{CLIENTS, FLEETING, REQUEST_TIMEOUT, STABLE, World, lock};
use crate::client::{
    Admin, Client, Consumer, ConsumerConfig, OffsetAndMetadata, Options, Producer, ProducerConfig, TopicPartition,
};
use crate::protocol::messages::FetchRequest;
use crate::protocol::messages::fetch::{FetchPartition, FetchTopic};
use crate::protocol::{ErrorCode, Response};
use crate::record::Batch;
use crate::transport::Endpoint;
use crate::{Error, ErrorKind};

/// How long after a call was given up its request may arrive.
const LATE: Duration = Duration::from_secs(2);

/// The group that offsets are committed for.
pub(super) const GROUP: &str = "readers";

/// What clients do and have done.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// The topics that are sent to and read from.
    pub(super) topics: BTreeMap<&'static str, TopicState>,
    next_sender: u32,
    /// Sends whose outcome is not known yet, by topic.
    pub(super) unsettled: BTreeMap<&'static str, usize>,
    pub(super) failed: u64,
    /// Where each reader is.
    pub(super) readers: BTreeMap<usize, BTreeMap<TopicPartition, i64>>,
    /// The last offset whose commit was acknowledged, and when.
    pub(super) committed: (i64, Duration),
    /// Each commit, and when it was answered or given up: what was given up may arrive later still.
    pub(super) commits: Vec<(i64, Duration)>,
    /// Counts the leaders that were lost: who reads begins anew.
    pub(super) generation: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TopicState {
    /// How many topics of that name there were.
    pub(super) creation: u32,
    pub(super) partitions: i32,
    /// Whether records are sent to it.
    pub(super) is_open: bool,
}

impl World {
    /// A client's options, and what it runs on.
    fn client_of(&self, number: usize, clock: &SimulatedClock, config: crate::client::ClientConfig) -> Client {
        Client::new(self.network.transport(number, REQUEST_TIMEOUT), Arc::new(clock.clone()), config)
    }

    pub(super) fn admin(&self) -> Admin {
        Admin::new(self.client(CLIENTS + 50, &SimulatedClock::new(&self.executor), &self.addresses()))
    }

    /// A client's options. It knows all machines, and finds out who leads.
    fn options(&self) -> Options {
        let seed = (self.executor.chance().next() >> 2) as i64;
        Options::new()
            .with("bootstrap_servers", self.addresses().as_str())
            .with("seed", seed)
            .with("metadata_max_age_ms", 2_000_i64)
            .with("allow_auto_create_topics", false)
    }

    fn producer(&self, number: usize, clock: &SimulatedClock, is_careless: bool) -> Option<(Producer, u32)> {
        let mut options = self.options();
        options
            .set("delivery_timeout_ms", self.plan.delivery_timeout_ms as i64)
            .set("request_timeout_ms", REQUEST_TIMEOUT.as_millis() as i64)
            .set("max_block_ms", 10_000_i64)
            .set("linger_ms", self.executor.draw(0..20) as i64);
        if is_careless {
            options.set("acks", "1").set("enable_idempotence", false);
        }
        let (client, config) = match ProducerConfig::from_options(&options) {
            Ok(configs) => configs,
            Err(error) => {
                self.break_rule(format!("a producer's options are not taken: {error}"));
                return None;
            }
        };
        let (producer, driver) = Producer::new(self.client_of(number, clock, client), config);
        self.executor.spawn(Owner::World, driver);
        let mut load = lock(&self.load);
        load.next_sender += 1;
        if is_careless {
            lock(&self.history).careless.insert(load.next_sender);
        }
        Some((producer, load.next_sender))
    }
}

/// Sends records as long as there are faults.
pub(super) async fn produce(world: Arc<World>, number: usize, is_careless: bool) {
    let executor = &world.executor;
    let clock = SimulatedClock::new(executor);
    let Some((mut producer, mut sender)) = world.producer(number, &clock, is_careless) else { return };
    let mut record = 0;
    while world.is_troubled() {
        executor.sleep(executor.draw_ms(5..400)).await;
        for _ in 0..executor.draw(1..4) {
            let name = if executor.hits(80) { STABLE } else { FLEETING };
            let Some(topic) = lock(&world.load).topics.get(name).copied().filter(|topic| topic.is_open) else {
                continue;
            };
            let partition = executor.draw(0..topic.partitions as u64) as i32;
            record += 1;
            let id = RecordId { creation: topic.creation, sender, number: record };
            let value = id.value(executor.draw(0..200) as usize);
            *lock(&world.load).unsettled.entry(name).or_default() += 1;
            let sent = producer.send_waiting(name, Some(partition), None, None, Some(&value), &[]).await;
            let settling = Arc::clone(&world);
            let settle = move |outcome: Result<i64, Error>| {
                let mut load = lock(&settling.load);
                *load.unsettled.entry(name).or_default() -= 1;
                match outcome {
                    Ok(offset) => {
                        settling.say(format_args!("{id:?} is at {name}-{partition} offset={offset}"));
                        if !is_careless {
                            let partition = TopicPartition::new(name, partition);
                            lock(&settling.history).acknowledged(&partition, offset, id);
                        }
                    }
                    Err(error) => {
                        load.failed += 1;
                        settling.say(format_args!("{id:?} failed at {name}-{partition}: {error}"));
                    }
                }
            };
            match sent {
                Ok(ticket) => executor.spawn(Owner::World, async move {
                    settle(ticket.wait().await.map(|metadata| metadata.offset));
                }),
                Err(error) => {
                    let is_closed = matches!(error.kind(), ErrorKind::Closed | ErrorKind::Fenced);
                    settle(Err(error));
                    if is_closed {
                        let Some(next) = world.producer(number, &clock, is_careless) else { return };
                        (producer, sender) = next;
                        record = 0;
                    }
                }
            }
        }
    }
}

/// Reads to the end as a client does, from whoever leads.
pub(super) async fn read(world: Arc<World>, number: usize) {
    let executor = &world.executor;
    let clock = SimulatedClock::new(executor);
    let name = "reader of the leader";
    loop {
        let options = world
            .options()
            .with("auto_offset_reset", "earliest")
            .with("request_timeout_ms", REQUEST_TIMEOUT.as_millis() as i64)
            .with("fetch_max_wait_ms", 500_i64);
        let (client, config) = match ConsumerConfig::from_options(&options) {
            Ok(configs) => configs,
            Err(error) => return world.break_rule(format!("a consumer's options are not taken: {error}")),
        };
        let (consumer, driver) = Consumer::new(world.client_of(number, &clock, client), config);
        executor.spawn(Owner::World, driver);
        let mut assigned = Vec::new();
        let generation = lock(&world.load).generation;
        let is_stale = || lock(&world.load).generation != generation;
        while !is_stale() {
            let wanted: Vec<TopicPartition> = {
                let load = lock(&world.load);
                load.topics
                    .iter()
                    .filter(|(_, topic)| topic.is_open)
                    .flat_map(|(name, topic)| partitions_of(name, topic.partitions))
                    .collect()
            };
            if wanted != assigned {
                if let Err(error) = consumer.assign(&wanted) {
                    world.say(format_args!("{name}: cannot assign: {error}"));
                }
                assigned = wanted;
            }
            match consumer.poll(Duration::from_millis(500), None).await {
                // A leader of the past is believed by who asks it: what it shows may be lost.
                Ok(polled) if !is_stale() => {
                    let is_believed = !world.has_former_leader();
                    for batch in &polled.batches {
                        world.say(format_args!("{name}: {} {} to {}", batch.partition, batch.from, batch.to));
                        if is_believed {
                            lock(&world.history).read(name, batch);
                        }
                        let mut load = lock(&world.load);
                        load.readers.entry(number).or_default().insert(batch.partition.clone(), batch.to);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    world.say(format_args!("{name}: {error}"));
                    executor.sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

/// Reads to the end what one machine shows, whatever it is (KIP-392's fetch from a follower).
pub(super) async fn read_at(world: Arc<World>, number: usize, machine: usize) {
    let executor = &world.executor;
    let name = format!("reader of machine {machine}");
    let transport = world.network.transport(number, REQUEST_TIMEOUT);
    let endpoint = Endpoint::new(format!("machine{machine}"), 9092);
    let mut positions: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut generation = 0;
    loop {
        executor.sleep(executor.draw_ms(1..300)).await;
        if !world.is_readable(machine) {
            continue;
        }
        let now = lock(&world.load).generation;
        if std::mem::replace(&mut generation, now) != now {
            positions.clear();
        }
        for partition in world.names() {
            let offset = positions.get(&partition).copied().unwrap_or(0);
            let wanted = FetchPartition {
                partition: partition.partition,
                current_leader_epoch: -1,
                fetch_offset: offset,
                last_fetched_epoch: -1,
                log_start_offset: -1,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let topic = FetchTopic { topic: STABLE.to_owned(), partitions: vec![wanted], ..Default::default() };
            let request = FetchRequest {
                replica_id: -1,
                max_wait_ms: 100,
                min_bytes: 1,
                max_bytes: 1 << 20,
                session_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            };
            let starts = lock(&world.machines)[machine].starts;
            let Ok(Response::Fetch(answer)) = transport.call(&endpoint, request.into()).await else { continue };
            // What comes while the machine is restarted may be from either life of it.
            let is_stale =
                lock(&world.machines)[machine].starts != starts || lock(&world.load).generation != generation;
            if is_stale || !world.is_readable(machine) {
                continue;
            }
            let data = answer.responses.into_iter().flat_map(|topic| topic.partitions).next().unwrap_or_default();
            if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
                let start = world.log_end(machine, &partition).map_or(0, |end| end.start);
                if start > offset {
                    positions.insert(partition, start);
                }
                continue;
            }
            let mut records = data.records.unwrap_or_default();
            let mut next = offset;
            while let Ok(Some(batch)) = Batch::split(&mut records) {
                lock(&world.history).read_batch(&name, &partition, offset, &batch);
                next = batch.next_offset();
            }
            if next > offset {
                world.say(format_args!("{name}: {partition} {offset} to {next}"));
                lock(&world.load).readers.entry(number).or_default().insert(partition.clone(), next);
                positions.insert(partition, next);
            }
        }
    }
}

/// Commits offsets that rise, as long as there are faults.
pub(super) async fn commit(world: Arc<World>) {
    let admin = Admin::new(world.client(CLIENTS + 60, &SimulatedClock::new(&world.executor), &world.addresses()));
    let partition = TopicPartition::new(STABLE, 0);
    let mut offset = 0;
    while world.is_troubled() {
        world.executor.sleep(world.executor.draw_ms(100..1_500)).await;
        offset += 1;
        let generation = lock(&world.load).generation;
        let offsets = HashMap::from([(partition.clone(), OffsetAndMetadata::new(offset))]);
        let committed = admin.alter_group_offsets(GROUP, &offsets, Duration::from_secs(5)).await;
        let now = world.executor.now();
        lock(&world.load).commits.push((offset, now));
        let is_believed = !world.has_former_leader();
        match committed.map(|mut results| results.remove(&partition)) {
            Ok(Some(Ok(()))) => {
                let mut load = lock(&world.load);
                if load.generation == generation && is_believed {
                    world.say(format_args!("committed {offset}"));
                    load.committed = (offset, now);
                }
            }
            other => world.say(format_args!("commit of {offset} failed: {other:?}")),
        }
    }
}

impl Load {
    /// The least offset that may be committed now: one that was on its way when the last was acknowledged may have come after it.
    pub(super) fn least_committed(&self) -> i64 {
        let (last, at) = self.committed;
        let late = self.commits.iter().filter(|(_, ended)| *ended + LATE > at).map(|(offset, _)| *offset);
        late.min().map_or(last, |late| late.min(last))
    }
}
