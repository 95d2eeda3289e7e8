//! The broker through its own face: requests in, answers and tasks out, on a device that can lose power.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    AckLatency, Broker, BrokerConfig, Context, Copy, Incoming, METADATA_TOPIC, ReplicaOf, RequestId, STAND_BACK_MS,
    Step, StoredHole, TERM, Task, Times,
};
use crate::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use crate::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use crate::protocol::messages::delete_topics::DeleteTopicState;
use crate::protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::metadata::MetadataRequestTopic;
use crate::protocol::messages::offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use crate::protocol::messages::produce::{PartitionProduceData, PartitionProduceResponse, TopicProduceData};
use crate::protocol::messages::{
    BeginQuorumEpochRequest, BeginQuorumEpochResponse, BrokerRegistrationRequest, BrokerRegistrationResponse,
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, FetchRequest, FetchResponse, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ProduceRequest,
    VoteRequest, VoteResponse, begin_quorum_epoch, broker_registration, vote,
};
use crate::protocol::{ErrorCode, Request, Response};
use crate::record::{Batch, Builder, BuilderOptions, NO_HEADERS, ProducerFields, batches};
use crate::storage::Device;
use crate::storage::memory::{Loss, MemoryDevice};

const NOW: i64 = 1_700_000_000_000;

/// A broker with its shell: answers are kept, tasks run when asked.
struct Shell {
    broker: Broker,
    now: i64,
    next: u64,
    answers: Vec<(RequestId, Response)>,
    tasks: Vec<Task>,
}

impl Shell {
    fn open(device: &MemoryDevice) -> Self {
        Self::open_with(device, BrokerConfig::default())
    }

    fn open_with(device: &MemoryDevice, config: BrokerConfig) -> Self {
        let broker = Broker::open(Arc::new(device.clone()), config, NOW, 7).unwrap();
        let mut shell = Self { broker, now: NOW, next: 0, answers: Vec::new(), tasks: Vec::new() };
        shell.drain();
        shell.run_tasks();
        shell
    }

    fn drain(&mut self) {
        while let Some((id, reply)) = self.broker.poll_response() {
            self.answers.push((id, reply.read()));
        }
        while let Some(task) = self.broker.poll_task() {
            self.tasks.push(task);
        }
    }

    fn run_tasks(&mut self) {
        while let Some(task) = self.tasks.pop() {
            self.broker.handle_done(task.run(), self.now);
            self.drain();
        }
    }

    /// Hands a request in and leaves its tasks lying.
    fn send(&mut self, request: impl Into<Request>, version: i16) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        let context = Context { version, ..Context::default() };
        self.broker.handle_request(id, &context, Incoming::check(request.into(), 1 << 20), self.now);
        self.drain();
        id
    }

    fn answer(&mut self, id: RequestId) -> Option<Response> {
        let at = self.answers.iter().position(|(other, _)| *other == id)?;
        Some(self.answers.remove(at).1)
    }

    /// Makes a follower known.
    fn register(&mut self, node_id: i32) {
        let request = BrokerRegistrationRequest {
            broker_id: node_id,
            incarnation_id: Uuid::from_u128(node_id as u128),
            listeners: vec![broker_registration::Listener { host: "there".to_owned(), port: 9, ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(self.call::<BrokerRegistrationResponse>(request, 4).error_code, ErrorCode::NONE);
    }

    /// Hands a request in, does all that comes of it, and takes the answer.
    fn call<T: TryFrom<Response, Error = Response>>(&mut self, request: impl Into<Request>, version: i16) -> T {
        let id = self.send(request, version);
        self.run_tasks();
        let response = self.answer(id).expect("it is answered");
        T::try_from(response).expect("the answer fits the request")
    }

    fn wait(&mut self, ms: i64) {
        self.now += ms;
        self.broker.handle_timeout(self.now);
        self.drain();
    }

    fn create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> ErrorCode {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) })
            .collect();
        let topic = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: partitions,
            replication_factor: -1,
            configs,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
        self.call::<crate::protocol::messages::CreateTopicsResponse>(request, 7).topics[0].error_code
    }

    fn produce(&mut self, topic: &str, batch: Batch) -> PartitionProduceResponse {
        let id = self.send(produce(topic, 0, batch, -1), 9);
        self.run_tasks();
        produced(self.answer(id).expect("it is answered"))
    }

    fn fetch(&mut self, topic: &str, offset: i64) -> PartitionData {
        let response: FetchResponse = self.call(fetch(topic, offset, 0), 12);
        response.responses[0].partitions[0].clone()
    }

    fn values(&mut self, topic: &str, offset: i64) -> Vec<(i64, String)> {
        values(self.fetch(topic, offset).records.unwrap())
    }

    fn topics(&mut self) -> Vec<(String, Uuid, usize)> {
        let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
        let response: crate::protocol::messages::MetadataResponse = self.call(request, 12);
        response.topics.into_iter().map(|topic| (topic.name.unwrap(), topic.topic_id, topic.partitions.len())).collect()
    }
}

fn batch(values: &[&str]) -> Batch {
    batch_of(values, ProducerFields::NONE, NOW)
}

fn batch_of(values: &[&str], producer: ProducerFields, timestamp: i64) -> Batch {
    let mut builder = Builder::new(BuilderOptions::default());
    for (at, value) in values.iter().enumerate() {
        builder.append(timestamp + at as i64, Some(b"key"), Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    builder.seal(producer).unwrap()
}

fn produce(topic: &str, partition: i32, batch: Batch, acks: i16) -> ProduceRequest {
    let partition_data = vec![PartitionProduceData { index: partition, records: Some(batch.into_bytes()) }];
    let topic = TopicProduceData { name: topic.to_owned(), partition_data, ..TopicProduceData::default() };
    ProduceRequest { acks, timeout_ms: 1_000, topic_data: vec![topic], ..ProduceRequest::default() }
}

fn init_producer_id() -> InitProducerIdRequest {
    InitProducerIdRequest { transactional_id: None, ..InitProducerIdRequest::default() }
}

fn produced(response: Response) -> PartitionProduceResponse {
    let Response::Produce(response) = response else { panic!("not a produce response: {response:?}") };
    response.responses[0].partition_responses[0].clone()
}

fn fetch(topic: &str, offset: i64, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition {
        partition: 0,
        current_leader_epoch: -1,
        fetch_offset: offset,
        last_fetched_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic { topic: topic.to_owned(), partitions: vec![partition], ..FetchTopic::default() };
    FetchRequest {
        replica_id: -1,
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..FetchRequest::default()
    }
}

fn values(bytes: Bytes) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in batches(bytes) {
        for record in batch.unwrap().records(1 << 20).unwrap().iter() {
            let record = record.unwrap();
            values.push((record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    values
}

fn texts(expected: &[(i64, &str)]) -> Vec<(i64, String)> {
    expected.iter().map(|(offset, text)| (*offset, (*text).to_owned())).collect()
}

#[test]
fn produced_records_are_fetched_at_their_offsets() {
    let mut shell = Shell::open(&MemoryDevice::new());
    assert_eq!(shell.create("t", 1, &[]), ErrorCode::NONE);
    assert_eq!(shell.produce("t", batch(&["a", "b"])).base_offset, 0);
    assert_eq!(shell.produce("t", batch(&["c"])).base_offset, 2);
    assert_eq!(shell.values("t", 0), texts(&[(0, "a"), (1, "b"), (2, "c")]));
    // Fetches return whole batches: the one that holds the offset comes first.
    assert_eq!(shell.values("t", 2), texts(&[(2, "c")]));
    assert_eq!(shell.fetch("t", 3).error_code, ErrorCode::NONE);
    assert_eq!(shell.fetch("t", 4).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(shell.fetch("nowhere", 0).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn acks_all_is_answered_after_the_sync_and_acks_1_before() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    let one = shell.send(produce("t", 0, batch(&["a"]), 1), 9);
    assert!(shell.answer(one).is_some());
    let all = shell.send(produce("t", 0, batch(&["b"]), -1), 9);
    assert!(shell.answer(all).is_none());
    assert_eq!(shell.tasks.len(), 1, "one sync is under way, and the second waits for its turn");
    shell.run_tasks();
    assert_eq!(produced(shell.answer(all).unwrap()).base_offset, 1);
}

#[test]
fn consumer_stops_below_what_is_synced() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    shell.send(produce("t", 0, batch(&["a"]), 1), 9);
    let waiting = shell.send(fetch("t", 0, 500), 12);
    assert!(shell.answer(waiting).is_none(), "nothing that a power cut could take back is shown");
    shell.run_tasks();
    let Some(Response::Fetch(response)) = shell.answer(waiting) else { panic!("the fetch is answered by the sync") };
    assert_eq!(values(response.responses[0].partitions[0].records.clone().unwrap()), texts(&[(0, "a")]));
}

#[test]
fn latest_offset_waits_for_the_sync_that_is_due() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    shell.send(produce("t", 0, batch(&["a"]), 1), 9);
    let wanted = ListOffsetsPartition { partition_index: 0, current_leader_epoch: -1, timestamp: -1 };
    let topic = ListOffsetsTopic { name: "t".to_owned(), partitions: vec![wanted] };
    let id = shell.send(ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() }, 7);
    assert!(shell.answer(id).is_none());
    shell.run_tasks();
    let Some(Response::ListOffsets(response)) = shell.answer(id) else { panic!("it is answered by the sync") };
    assert_eq!(response.topics[0].partitions[0].offset, 1);
}

#[test]
fn acknowledged_records_topics_and_ids_survive_a_power_cut_and_the_epoch_rises() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 3, &[("retention.ms", "-1")]);
    shell.produce("t", batch(&["a", "b"]));
    shell.send(produce("t", 0, batch(&["lost"]), 1), 9);
    let before = shell.topics();
    let id: crate::protocol::messages::InitProducerIdResponse = shell.call(init_producer_id(), 4);

    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.topics(), before);
    assert_eq!(shell.broker.leader_epoch, 1);
    assert_eq!(shell.values("t", 0)[..2], texts(&[(0, "a"), (1, "b")]));
    let again: crate::protocol::messages::InitProducerIdResponse = shell.call(init_producer_id(), 4);
    assert!(again.producer_id > id.producer_id, "an id is never given twice");
}

#[test]
fn what_a_killed_process_left_unsynced_is_shown_and_acknowledged_when_it_is_synced() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    let producer = |base_sequence| ProducerFields { producer_id: 9, producer_epoch: 0, base_sequence };
    shell.produce("t", batch_of(&["synced"], producer(0), NOW));
    shell.send(produce("t", 0, batch_of(&["written"], producer(1), NOW), -1), 9);
    // The process is killed; the operating system has the rest.
    let broker = Broker::open(Arc::new(device.clone()), BrokerConfig::default(), NOW, 8).unwrap();
    let mut shell = Shell { broker, now: NOW, next: 0, answers: Vec::new(), tasks: Vec::new() };
    shell.drain();
    // The producer, who has no answer, sends it again. It is there, but not for good.
    let again = shell.send(produce("t", 0, batch_of(&["written"], producer(1), NOW), -1), 9);
    let reading = shell.send(fetch("t", 1, 60_000), 12);
    assert!(shell.answer(again).is_none() && shell.answer(reading).is_none());
    shell.run_tasks();
    assert_eq!(produced(shell.answer(again).unwrap()).base_offset, 1);
    assert!(shell.answer(reading).is_some());
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.values("t", 0), texts(&[(0, "synced"), (1, "written")]));
}

#[test]
fn recovery_point_tells_what_is_synced_also_where_nobody_waits_for_it() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[("durability", "os")]);
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NONE);
    assert_eq!(shell.values("t", 0).len(), 1);
    let point = |device: &MemoryDevice| {
        let text = Device::read(device, "recovery-point-offset-checkpoint").unwrap();
        String::from_utf8(text.to_vec()).unwrap().lines().find_map(|line| line.strip_prefix("t 0 ").map(str::to_owned))
    };
    shell.wait(60_000);
    assert_eq!(shell.tasks.len(), 2, "it is synced now and then");
    let checkpoint = shell.tasks.remove(1);
    shell.broker.handle_done(checkpoint.run(), shell.now);
    assert_eq!(point(&device).as_deref(), Some("0"));
    shell.run_tasks();
    shell.wait(60_000);
    shell.run_tasks();
    assert_eq!(point(&device).as_deref(), Some("1"));
    assert_eq!(Shell::open(&device.crash(Loss::Unsynced)).values("t", 0).len(), 1);
}

#[test]
fn clean_close_keeps_the_epoch() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    shell.send(produce("t", 0, batch(&["a"]), 1), 9);
    shell.broker.close(NOW).unwrap();
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.broker.leader_epoch, 0);
    assert_eq!(shell.values("t", 0), texts(&[(0, "a")]));
}

#[test]
fn duplicates_are_answered_with_their_first_offset_and_written_once() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[]);
    let producer = |base_sequence| ProducerFields { producer_id: 9, producer_epoch: 0, base_sequence };
    assert_eq!(shell.produce("t", batch_of(&["a", "b"], producer(0), NOW)).base_offset, 0);
    assert_eq!(shell.produce("t", batch_of(&["c"], producer(2), NOW)).base_offset, 2);
    assert_eq!(shell.produce("t", batch_of(&["a", "b"], producer(0), NOW)).base_offset, 0);
    let gap = shell.produce("t", batch_of(&["e"], producer(9), NOW));
    assert_eq!(gap.error_code, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(shell.values("t", 0).len(), 3);
}

/// A producer's id, as InitProducerId gives it.
fn producer_id(shell: &mut Shell) -> i64 {
    shell.call::<crate::protocol::messages::InitProducerIdResponse>(init_producer_id(), 4).producer_id
}

#[test]
fn producer_ids_begin_above_those_in_logs_that_came_from_elsewhere() {
    let device = MemoryDevice::durable();
    let by = |producer_id, base_sequence| {
        batch_of(&["a"], ProducerFields { producer_id, producer_epoch: 0, base_sequence }, NOW)
    };
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    let mut shell = Shell::open(&device);
    let first = producer_id(&mut shell);
    shell.broker.create_copy(&copy, NOW).unwrap();
    // One was never given out by anybody: the largest that there is does not end them all.
    for (offset, producer) in [(0, first + 7), (1, first + 5_000), (2, i64::MAX)] {
        shell.broker.append_copy("c", 0, &[by(producer, 40).stamped(offset, 0)], NOW).unwrap();
    }
    shell.drain();
    shell.run_tasks();
    assert_eq!(producer_id(&mut shell), first + 5_001);
    // Who wrote before goes on where it was.
    shell.broker.promote_copies(&["c".to_owned()], NOW).unwrap();
    assert_eq!(shell.produce("c", by(first + 5_000, 41)).error_code, ErrorCode::NONE);
    assert_eq!(shell.produce("c", by(first + 5_000, 41)).base_offset, 3, "it is there already");
    shell.broker.close(NOW).unwrap();

    // Its log alone, in the directory of a broker that knows nothing.
    let moved = MemoryDevice::durable();
    for (path, bytes) in device.files().into_iter().filter(|(path, _)| path.starts_with("c-0/")) {
        moved.overwrite(&path, bytes);
    }
    let mut shell = Shell::open(&moved);
    let given = producer_id(&mut shell);
    assert_eq!(given, first + 5_001);
    assert_eq!(shell.produce("c", by(given, 0)).error_code, ErrorCode::NONE);
}

#[test]
fn acks_all_waits_for_every_in_sync_follower_until_it_leaves() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[]);
    shell.register(5);
    let follow = |shell: &mut Shell, offset| {
        let request = FetchRequest { replica_id: 5, ..fetch("t", offset, 0) };
        shell.send(request, 12)
    };
    follow(&mut shell, 0);
    let waiting = shell.send(produce("t", 0, batch(&["a"]), -1), 9);
    let unasked = shell.send(produce("t", 0, batch(&["b"]), 1), 9);
    assert!(shell.answer(unasked).is_some(), "acks=1 does not wait");
    assert!(shell.answer(waiting).is_none());
    assert_eq!(shell.values("t", 0), vec![], "nor do readers see what the follower lacks");
    follow(&mut shell, 1);
    assert!(shell.answer(waiting).is_some());
    assert_eq!(shell.values("t", 0), texts(&[(0, "a")]));

    // It is silent for longer than replica.lag.time.max.ms: it leaves, and the leader goes on alone.
    let waiting = shell.send(ProduceRequest { timeout_ms: 90_000, ..produce("t", 0, batch(&["c"]), -1) }, 9);
    shell.wait(40_000);
    assert!(shell.answer(waiting).is_some());
}

#[test]
fn too_few_in_sync_replicas_refuse_acks_all() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[("min.insync.replicas", "2")]);
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_ENOUGH_REPLICAS);
    let one = shell.send(produce("t", 0, batch(&["b"]), 1), 9);
    assert_eq!(produced(shell.answer(one).unwrap()).error_code, ErrorCode::NONE);
}

#[test]
fn acks_all_is_not_acknowledged_when_the_replica_it_waited_for_leaves() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[("min.insync.replicas", "2")]);
    shell.register(5);
    shell.send(FetchRequest { replica_id: 5, ..fetch("t", 0, 0) }, 12);
    // In sync and at the end: a follower may be silent there for as long as nothing comes.
    let mut produce = produce("t", 0, batch(&["a"]), -1);
    produce.timeout_ms = 120_000;
    let waiting = shell.send(produce, 9);
    shell.wait(30_000);
    assert!(shell.answer(waiting).is_none(), "the follower is still in sync");
    shell.wait(1_000);
    let answer = produced(shell.answer(waiting).unwrap());
    assert_eq!(answer.error_code, ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, "{answer:?}");
}

#[test]
fn a_clock_that_is_set_throws_no_follower_out_and_holds_up_nobody() {
    const HOUR: i64 = 3_600_000;
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[("min.insync.replicas", "2")]);
    shell.register(5);
    let mut monotonic = std::time::Duration::from_secs(1);
    shell.broker.note_clocks(shell.now, monotonic);
    shell.send(FetchRequest { replica_id: 5, ..fetch("t", 0, 0) }, 12);
    for ahead in [HOUR, -2 * HOUR] {
        let waiting = shell.send(produce("t", 0, batch(&["a"]), -1), 9);
        shell.now += ahead;
        assert!(shell.broker.note_clocks(shell.now, monotonic));
        shell.wait(0);
        assert!(shell.answer(waiting).is_none(), "it has its whole second still");
        assert_eq!(shell.broker.partition(shell.broker.find("t", 0).unwrap()).in_sync_followers().len(), 1);
        monotonic += std::time::Duration::from_millis(1_001);
        shell.now += 1_001;
        assert!(!shell.broker.note_clocks(shell.now, monotonic));
        shell.wait(0);
        assert_eq!(produced(shell.answer(waiting).unwrap()).error_code, ErrorCode::REQUEST_TIMED_OUT);
    }
}

#[test]
fn produce_that_times_out_says_so() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[]);
    shell.register(5);
    shell.send(FetchRequest { replica_id: 5, ..fetch("t", 0, 0) }, 12);
    let waiting = shell.send(produce("t", 0, batch(&["a"]), -1), 9);
    shell.wait(1_001);
    assert_eq!(produced(shell.answer(waiting).unwrap()).error_code, ErrorCode::REQUEST_TIMED_OUT);
}

#[test]
fn deleted_topic_does_not_come_back_and_its_name_is_free() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 2, &[]);
    shell.produce("t", batch(&["old"]));
    let state = DeleteTopicState { name: Some("t".to_owned()), ..DeleteTopicState::default() };
    let request = DeleteTopicsRequest { topics: vec![state], ..DeleteTopicsRequest::default() };
    let id = shell.send(request, 6);
    let sync = shell.tasks.remove(0);
    shell.broker.handle_done(sync.run(), NOW);
    shell.drain();
    assert!(shell.answer(id).is_some(), "the deletion is durable; the directories are still there");
    let mut after = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(after.topics(), vec![]);
    assert_eq!(after.create("t", 1, &[]), ErrorCode::NONE);
    assert_eq!(after.values("t", 0), vec![]);
    assert!(device.files().keys().all(|path| !path.contains("old")));
}

#[test]
fn delete_records_moves_the_start_for_good() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    shell.produce("t", batch(&["a", "b", "c"]));
    let wanted = DeleteRecordsPartition { partition_index: 0, offset: 2 };
    let topic = DeleteRecordsTopic { name: "t".to_owned(), partitions: vec![wanted] };
    let request = DeleteRecordsRequest { topics: vec![topic], ..DeleteRecordsRequest::default() };
    let response: crate::protocol::messages::DeleteRecordsResponse = shell.call(request, 2);
    assert_eq!(response.topics[0].partitions[0].low_watermark, 2);
    assert_eq!(shell.fetch("t", 1).error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.fetch("t", 2).log_start_offset, 2);
}

#[test]
fn fetch_session_leaves_out_what_has_not_changed() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("a", 1, &[]);
    shell.create("b", 1, &[]);
    shell.produce("a", batch(&["x"]));
    let mut request = fetch("a", 1, 0);
    request.topics.extend(fetch("b", 0, 0).topics);
    request.session_epoch = 0;
    let first: FetchResponse = shell.call(request, 12);
    assert_eq!(first.responses.len(), 2);
    let next =
        |epoch| FetchRequest { topics: vec![], session_id: first.session_id, session_epoch: epoch, ..fetch("a", 0, 0) };
    let second: FetchResponse = shell.call(next(1), 12);
    assert_eq!((second.error_code, second.responses.len()), (ErrorCode::NONE, 0));
    shell.produce("b", batch(&["y"]));
    let third: FetchResponse = shell.call(next(2), 12);
    assert_eq!(third.responses.iter().map(|topic| topic.topic.as_str()).collect::<Vec<_>>(), ["b"]);
    let stale: FetchResponse = shell.call(next(2), 12);
    assert_eq!(stale.error_code, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    let unknown: FetchResponse = shell.call(FetchRequest { session_id: 1, ..next(3) }, 12);
    assert_eq!(unknown.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn waiting_fetch_is_answered_when_it_has_enough_in_all_its_partitions() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("a", 1, &[]);
    shell.create("b", 1, &[]);
    let size = batch(&["x"]).size() as i32;
    let both = |min_bytes| {
        let mut request = FetchRequest { min_bytes, ..fetch("a", 0, 60_000) };
        request.topics.extend(fetch("b", 0, 0).topics);
        request
    };
    let one = shell.send(both(1), 12);
    let two = shell.send(both(size * 2), 12);
    assert!(shell.answer(one).is_none() && shell.answer(two).is_none());
    shell.produce("b", batch(&["x"]));
    assert!(shell.answer(one).is_some(), "a byte is enough, whichever partition has it");
    assert!(shell.answer(two).is_none());
    shell.produce("a", batch(&["x"]));
    let Some(Response::Fetch(response)) = shell.answer(two) else { panic!("there is enough in both together") };
    assert_eq!(response.responses.len(), 2);
}

#[test]
fn full_partitions_leave_room_for_those_behind_them() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let names = ["a", "b", "c", "d"];
    for name in names {
        shell.create(name, 1, &[]);
        for _ in 0..50 {
            shell.produce(name, batch(&["x"]));
        }
    }
    let size = batch(&["x"]).size();
    let mut request = fetch("a", 0, 0);
    for name in &names[1..] {
        request.topics.extend(fetch(name, 0, 0).topics);
    }
    // There is room for two partitions in an answer, and nobody reads to the end of any.
    request.max_bytes = (size * 2) as i32;
    request.topics.iter_mut().for_each(|topic| topic.partitions[0].partition_max_bytes = size as i32);
    request.session_epoch = 0;
    let served = |response: &FetchResponse| -> Vec<String> {
        let full = response.responses.iter().filter(|topic| !topic.partitions[0].records.as_ref().unwrap().is_empty());
        full.map(|topic| topic.topic.clone()).collect()
    };
    let first: FetchResponse = shell.call(request.clone(), 12);
    assert_eq!(served(&first), ["a", "b"]);
    let mut next = FetchRequest { topics: vec![], session_id: first.session_id, ..request.clone() };
    for (epoch, expected) in [(1, ["c", "d"]), (2, ["a", "b"]), (3, ["c", "d"])] {
        next.session_epoch = epoch;
        assert_eq!(served(&shell.call(next.clone(), 12)), expected);
    }
    // Without a session the order is the client's, who takes turns by itself.
    request.session_epoch = -1;
    request.topics.rotate_left(3);
    assert_eq!(served(&shell.call(request, 12)), ["d", "a"]);
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let long = "x".repeat(250);
    for name in ["", ".", "..", "../up", "a/b", "a\\b", "a b", "ä", long.as_str(), "__ottla_metadata"] {
        assert_eq!(shell.create(name, 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION, "{name:?}");
    }
    assert_eq!(shell.create("a.b", 1, &[]), ErrorCode::NONE);
    assert_eq!(shell.create("a_b", 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION, "it collides with a.b");
    assert_eq!(shell.create("many", 10_001, &[]), ErrorCode::INVALID_PARTITIONS);
    assert_eq!(shell.create("odd", 1, &[("retention.ms", "soon")]), ErrorCode::INVALID_CONFIG);
}

#[test]
fn damaged_batches_are_refused_with_kafkas_code() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[]);
    let good = batch(&["a", "b"]).into_bytes();
    let mut wrong_crc = good.to_vec();
    wrong_crc[20] ^= 1;
    let mut refuse = |bytes: Vec<u8>| {
        let mut request = produce("t", 0, batch(&["x"]), -1);
        request.topic_data[0].partition_data[0].records = Some(bytes.into());
        let id = shell.send(request, 9);
        shell.run_tasks();
        produced(shell.answer(id).unwrap()).error_code
    };
    assert_eq!(refuse(wrong_crc), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(refuse(good[..30].to_vec()), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(refuse(Vec::new()), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(refuse([good.to_vec(), good.to_vec()].concat()), ErrorCode::INVALID_RECORD);
    assert_eq!(shell.values("t", 0), vec![]);
}

#[test]
fn failed_sync_refuses_further_writes_to_that_partition_alone() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("bad", 1, &[]);
    shell.create("good", 1, &[]);
    let waiting = shell.send(produce("bad", 0, batch(&["a"]), -1), 9);
    device.fail_at(device.operations(), std::io::ErrorKind::Other);
    shell.run_tasks();
    let answer = produced(shell.answer(waiting).expect("it does not wait for ever"));
    assert_ne!(answer.error_code, ErrorCode::NONE);
    assert_eq!(shell.produce("bad", batch(&["b"])).error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(shell.produce("good", batch(&["c"])).error_code, ErrorCode::NONE);
}

#[test]
fn full_disk_refuses_and_heals() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    shell.produce("t", batch(&["a"]));
    let used: usize = device.files().values().map(Bytes::len).sum();
    device.set_capacity(Some(used as u64 + 10));
    assert_eq!(shell.produce("t", batch(&["b"])).error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(shell.values("t", 0), texts(&[(0, "a")]));
    device.set_capacity(None);
    assert_eq!(shell.produce("t", batch(&["c"])).base_offset, 1);
}

#[test]
fn a_topic_that_there_is_no_room_to_open_is_served_when_there_is() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    for _ in 0..9 {
        shell.produce("t", batch(&["a"]));
    }
    // What a crash took is made anew, and there is no room for it.
    let device = device.crash(Loss::Nothing);
    device.remove("t-0/partition.metadata").unwrap();
    let mut operations = 0..;
    let broker = loop {
        let device = device.crash(Loss::Nothing);
        device.fail_at(device.operations() + operations.next().unwrap(), std::io::ErrorKind::StorageFull);
        match Broker::open(Arc::new(device), BrokerConfig::default(), NOW, 7) {
            Ok(broker) if broker.offline().contains_key("t") => break broker,
            Ok(broker) => assert!(operations.start < 1_000, "{:?}", broker.offline()),
            Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Full, "{error}"),
        }
    };
    let mut shell = Shell { broker, now: NOW, next: 0, answers: Vec::new(), tasks: Vec::new() };
    shell.drain();
    shell.run_tasks();
    let due = shell.broker.poll_timeout().unwrap();
    assert!(due <= NOW + 2_000, "{due}");
    shell.wait(2_000);
    shell.run_tasks();
    assert!(shell.broker.offline().is_empty(), "{:?}", shell.broker.offline());
    assert_eq!(shell.values("t", 0).len(), 9);
    assert_eq!(shell.produce("t", batch(&["b"])).base_offset, 9);
}

/// A batch with one record.
fn keyed(key: &str, value: Option<&str>) -> Batch {
    let mut builder = Builder::new(BuilderOptions::default());
    builder.append(NOW, Some(key.as_bytes()), value.map(str::as_bytes), NO_HEADERS).unwrap();
    builder.seal(ProducerFields::NONE).unwrap()
}

const COMPACTED: &[(&str, &str)] =
    &[("cleanup.policy", "compact"), ("segment.bytes", "500"), ("min.cleanable.dirty.ratio", "0.1")];

#[test]
fn compacted_topic_keeps_the_last_record_of_each_key_also_over_a_power_cut() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, COMPACTED);
    for number in 0..100 {
        shell.produce("t", keyed(&format!("k{}", number % 4), Some(&format!("v{number}"))));
    }
    let mut keyless = Builder::new(BuilderOptions::default());
    keyless.append(NOW, None, Some(b"x"), NO_HEADERS).unwrap();
    let refused = shell.produce("t", keyless.seal(ProducerFields::NONE).unwrap());
    assert_eq!(refused.error_code, ErrorCode::INVALID_RECORD);
    let size = |device: &MemoryDevice| device.files().values().map(Bytes::len).sum::<usize>();
    let before = size(&device);
    let waiting = shell.send(fetch("t", 0, 60_000), 12);
    assert!(shell.answer(waiting).is_some());
    shell.wait(15_000);
    assert_eq!(shell.tasks.len(), 1);
    // Reads and writes go on between its turns.
    shell.produce("t", keyed("k9", Some("meanwhile")));
    shell.run_tasks();
    shell.wait(1);
    shell.run_tasks();
    assert!(size(&device) * 3 < before, "{} of {before}", size(&device));
    let known = |shell: &mut Shell| {
        let mut known = std::collections::BTreeMap::new();
        let (mut offset, end) = (0, shell.fetch("t", 0).high_watermark);
        while offset < end {
            for batch in batches(shell.fetch("t", offset).records.unwrap()) {
                let batch = batch.unwrap();
                offset = batch.next_offset();
                for record in batch.records(1 << 20).unwrap().iter() {
                    let record = record.unwrap();
                    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                    known.insert(text(record.key), (record.offset, text(record.value)));
                }
            }
        }
        known
    };
    let expected: Vec<_> = (0..4).map(|key| (format!("k{key}"), (96 + key, format!("v{}", 96 + key)))).collect();
    let expected = expected.into_iter().chain([("k9".to_owned(), (100, "meanwhile".to_owned()))]).collect();
    assert_eq!(known(&mut shell), expected);
    shell.wait(60_000);
    shell.run_tasks();
    let offsets = Device::read(&device, "cleaner-offset-checkpoint").unwrap();
    assert!(offsets.starts_with(b"0\n1\nt 0 "), "{offsets:?}");
    for loss in [Loss::Unsynced, Loss::Nothing] {
        let mut shell = Shell::open(&device.crash(loss));
        assert_eq!(known(&mut shell), expected, "{loss:?}");
        let id = shell.broker.find("t", 0).unwrap();
        assert!(shell.broker.partition(id).log.compacted_to() > 90);
    }
}

#[test]
fn committed_offsets_take_up_no_more_and_more_room() {
    use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    use crate::protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
    use crate::protocol::messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
        OffsetFetchResponse,
    };
    let mut config = BrokerConfig::default();
    config.set("offsets.topic.segment.bytes", "3000").unwrap();
    config.set("offsets.topic.num.partitions", "2").unwrap();
    let device = MemoryDevice::durable();
    let mut shell = Shell::open_with(&device, config.clone());
    shell.create("t", 1, &[]);
    let commit = |shell: &mut Shell, group: &str, offset| {
        let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic =
            OffsetCommitRequestTopic { name: "t".to_owned(), partitions: vec![partition], ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        let response: OffsetCommitResponse = shell.call(request, 8);
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::NONE);
    };
    let committed = |shell: &mut Shell, group: &str| -> i64 {
        let topic = OffsetFetchRequestTopics { name: "t".to_owned(), partition_indexes: vec![0], ..Default::default() };
        let group =
            OffsetFetchRequestGroup { group_id: group.to_owned(), topics: Some(vec![topic]), ..Default::default() };
        let request = OffsetFetchRequest { groups: vec![group], ..OffsetFetchRequest::default() };
        let response: OffsetFetchResponse = shell.call(request, 8);
        response.groups[0].topics[0].partitions[0].committed_offset
    };
    let size = |device: &MemoryDevice| -> usize {
        let files = device.files();
        let logs = files.iter().filter(|(path, _)| path.starts_with("__consumer_offsets-") && path.ends_with(".log"));
        logs.map(|(_, bytes)| bytes.len()).sum()
    };
    let mut most = 0;
    for offset in 0..400 {
        for group in ["a", "b", "gone"] {
            if group != "gone" || offset < 50 {
                commit(&mut shell, group, offset);
            }
        }
        if offset == 50 {
            let request = DeleteGroupsRequest { groups_names: vec!["gone".to_owned()] };
            let deleted: DeleteGroupsResponse = shell.call(request, 2);
            assert_eq!(deleted.results[0].error_code, ErrorCode::NONE);
        }
        shell.wait(15_000);
        shell.run_tasks();
        shell.wait(1);
        shell.run_tasks();
        most = most.max(size(&device));
    }
    assert!(most < 20_000, "{most}: three groups need no more, whatever they commit");
    let mut shell = Shell::open_with(&device.crash(Loss::Unsynced), config);
    assert_eq!(["a", "b", "gone"].map(|group| committed(&mut shell, group)), [399, 399, -1]);
}

#[test]
fn topic_deleted_while_it_is_compacted_stays_deleted() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, COMPACTED);
    for number in 0..50 {
        shell.produce("t", keyed("k", Some(&format!("{number}"))));
    }
    shell.wait(15_000);
    let compaction = shell.tasks.remove(0);
    let state = DeleteTopicState { name: Some("t".to_owned()), ..DeleteTopicState::default() };
    let request = DeleteTopicsRequest { topics: vec![state], ..DeleteTopicsRequest::default() };
    shell.call::<crate::protocol::messages::DeleteTopicsResponse>(request, 6);
    let done = compaction.run();
    assert_eq!(Shell::open(&device.crash(Loss::Nothing)).topics(), vec![], "whatever it has left by then");
    shell.broker.handle_done(done, shell.now);
    shell.drain();
    shell.run_tasks();
    assert!(device.files().keys().all(|path| !path.starts_with("t-0")), "{:?}", device.files().keys());
    assert_eq!(shell.create("t", 1, COMPACTED), ErrorCode::NONE);
    assert_eq!(shell.values("t", 0), vec![]);
}

#[test]
fn what_copies_are_of_and_what_they_lack_outlasts_the_broker() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    assert_eq!(shell.broker.replica_of().unwrap(), None);
    let of = ReplicaOf { cluster_id: Some("c1".to_owned()), last: Some(5), ..ReplicaOf::default() };
    shell.broker.set_replica_of(&of, NOW).unwrap();
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 2, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.note_hole("c", 1, 3, 7, NOW).unwrap();
    // Found once more after a crash, and larger by then.
    shell.broker.note_hole("c", 1, 3, 9, NOW + 1).unwrap();
    shell.broker.note_hole("c", 1, 3, 9, NOW + 2).unwrap();
    assert_eq!(shell.broker.note_hole("none", 0, 0, 1, NOW).unwrap_err().kind(), crate::ErrorKind::NotFound);
    shell.broker.close(NOW).unwrap();
    drop(shell);
    let mut shell = Shell::open(&device);
    let holes = [StoredHole { start: 3, end: 9, found_at: NOW + 1 }];
    assert_eq!(shell.broker.replica_of().unwrap(), Some(of));
    assert_eq!(shell.broker.holes("c", 1).unwrap(), holes);
    assert_eq!(shell.broker.holes("c", 0).unwrap(), []);
    // A copy that begins anew lacks nothing; and many holes are the latest hundred.
    shell.broker.append_copy("c", 1, &[batch(&["a"]).stamped(9, 0)], NOW).unwrap();
    shell.broker.raise_start("c", 1, 9, NOW).unwrap();
    shell.broker.reset_copy("c", 1, 0, NOW).unwrap();
    assert_eq!(shell.broker.holes("c", 1).unwrap(), []);
    // And has all of it, also after it was opened once more.
    shell.broker.append_copy("c", 1, &[batch(&["a"]).stamped(0, 0)], NOW).unwrap();
    shell.broker.close(NOW).unwrap();
    drop(shell);
    let mut shell = Shell::open(&device);
    assert_eq!(shell.broker.log_end("c", 1).map(|log| (log.start, log.end)), Some((0, 1)));
    for start in 0..150 {
        shell.broker.note_hole("c", 0, start * 10, start * 10 + 1, NOW).unwrap();
    }
    let holes = shell.broker.holes("c", 0).unwrap();
    assert_eq!((holes.len(), holes[0].start, holes[99].start), (100, 500, 1_490));
    shell.broker.delete_copy("c", NOW).unwrap();
    shell.broker.create_copy(&copy, NOW).unwrap();
    assert_eq!(shell.broker.holes("c", 0).unwrap(), []);
}

#[test]
fn copy_is_not_compacted_until_it_is_promoted() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    let configs = COMPACTED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs };
    shell.broker.create_copy(&copy, NOW).unwrap();
    for offset in 0..40 {
        shell.broker.append_copy("c", 0, &[keyed("k", Some("v")).stamped(offset, 0)], NOW).unwrap();
    }
    shell.broker.raise_high_watermark("c", 0, 40, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    shell.wait(15_000);
    assert!(shell.tasks.is_empty());
    shell.broker.promote_copies(&["c".to_owned()], NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    shell.wait(15_000);
    assert!(!shell.tasks.is_empty());
}

#[test]
fn topic_that_cannot_be_opened_keeps_no_other_from_being_served() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("bad", 2, &[]);
    shell.create("good", 1, &[]);
    shell.produce("good", batch(&["a"]));
    shell.broker.close(NOW).unwrap();
    // Messages of a format that Kafka has not written for years.
    let mut message = vec![0, 0];
    message.extend_from_slice(&(-1_i32).to_be_bytes());
    message.extend_from_slice(&5_i32.to_be_bytes());
    message.extend_from_slice(b"value");
    let mut crc = flate2::Crc::new();
    crc.update(&message);
    let old = [&0_i64.to_be_bytes()[..], &(message.len() as i32 + 4).to_be_bytes(), &crc.sum().to_be_bytes(), &message];
    let path = "bad-1/00000000000000000000.log";
    device.overwrite(path, old.concat());
    for _ in 0..2 {
        let mut shell = Shell::open(&device);
        assert_eq!(shell.values("good", 0), texts(&[(0, "a")]));
        assert_eq!(shell.topics().len(), 1);
        assert!(shell.broker.offline()["bad"].contains("old format"), "{:?}", shell.broker.offline());
        assert_eq!(shell.produce("bad", batch(&["x"])).error_code, ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(shell.create("bad", 1, &[]), ErrorCode::KAFKA_STORAGE_ERROR, "nor is it made anew in its place");
        let asked = MetadataRequestTopic { name: Some("bad".to_owned()), ..MetadataRequestTopic::default() };
        let request =
            MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: true, ..Default::default() };
        let response: crate::protocol::messages::MetadataResponse = shell.call(request, 9);
        assert_eq!(response.topics[0].error_code, ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(device.files()[path], old.concat(), "it is left as it is");
        shell.broker.close(NOW).unwrap();
    }
    // Somebody mends it.
    device.overwrite(path, Bytes::new());
    assert_eq!(Shell::open(&device).topics().len(), 2);
}

#[test]
fn checkpoint_of_log_starts_hides_records_and_drops_none() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    shell.produce("t", batch(&["a", "b"]));
    shell.produce("t", batch(&["c"]));
    shell.broker.close(NOW).unwrap();
    device.overwrite("log-start-offset-checkpoint", "0\n1\nt 0 2\n");
    assert_eq!(Shell::open(&device.crash(Loss::Nothing)).fetch("t", 2).log_start_offset, 2);
    device.overwrite("log-start-offset-checkpoint", "0\n1\nt 0 99999\n");
    assert_eq!(Shell::open(&device).values("t", 0).len(), 3);
}

#[test]
fn one_request_makes_so_many_partitions_and_no_more() {
    let config = BrokerConfig { max_partitions: 10, ..BrokerConfig::default() };
    let mut shell = Shell::open_with(&MemoryDevice::new(), config);
    let topics = ["a", "b", "c"].map(|name| CreatableTopic {
        name: name.to_owned(),
        num_partitions: 5,
        replication_factor: -1,
        ..CreatableTopic::default()
    });
    let request = CreateTopicsRequest { topics: topics.into(), ..CreateTopicsRequest::default() };
    let response: crate::protocol::messages::CreateTopicsResponse = shell.call(request, 7);
    let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::NONE, ErrorCode::POLICY_VIOLATION]);
    let asked = |number: i32| MetadataRequestTopic { name: Some(format!("m{number}")), ..Default::default() };
    let request = MetadataRequest {
        topics: Some((0..12).map(asked).collect()),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let response: crate::protocol::messages::MetadataResponse = shell.call(request, 9);
    assert_eq!(response.topics.iter().filter(|topic| topic.error_code == ErrorCode::NONE).count(), 10);
}

#[test]
fn sessions_remember_a_bounded_number_of_partitions() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let mut request = fetch("t", 0, 0);
    let partition = request.topics[0].partitions[0].clone();
    request.topics[0].partitions =
        (0..300_000).map(|number| FetchPartition { partition: number, ..partition.clone() }).collect();
    request.session_epoch = 0;
    let first: FetchResponse = shell.call(request.clone(), 12);
    assert_ne!(first.session_id, 0);
    let second: FetchResponse = shell.call(request.clone(), 12);
    assert_eq!(second.session_id, 0, "it is answered without one");
    assert_eq!(second.responses[0].partitions.len(), 300_000);
    request.session_id = first.session_id;
    request.session_epoch = 1;
    let third: FetchResponse = shell.call(request.clone(), 12);
    assert_eq!(third.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    request.session_epoch = 0;
    let fourth: FetchResponse = shell.call(request, 12);
    assert_ne!(fourth.session_id, 0, "there is room again");
}

#[test]
fn copy_that_is_deleted_answers_who_waits_for_its_sync() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.append_copy("c", 0, &[batch(&["a"]).stamped(0, 0)], NOW).unwrap();
    shell.broker.sync_copy(RequestId(77), "c", 0, NOW).unwrap();
    shell.drain();
    assert!(shell.answer(RequestId(77)).is_none());
    shell.broker.delete_copy("c", NOW).unwrap();
    shell.drain();
    assert!(shell.answer(RequestId(77)).is_some());
}

#[test]
fn options_are_set_under_kafkas_names_and_told_of() {
    let mut config = BrokerConfig::default();
    for (name, value) in [
        ("num.partitions", "3"),
        ("auto.create.topics.enable", "false"),
        ("durability", "os"),
        ("group.min.session.timeout.ms", "10"),
        ("group.max.session.timeout.ms", "20"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.max.size", "5"),
        ("offsets.retention.minutes", "2"),
        ("log.retention.ms", "77"),
        ("segment.bytes", "5000"),
    ] {
        config.set(name, value).unwrap();
    }
    assert_eq!((config.num_partitions, config.auto_create_topics, config.groups.group_max_size), (3, false, 5));
    assert_eq!((config.groups.group_min_session_timeout_ms, config.groups.offsets_retention_ms), (10, 120_000));
    assert_eq!(
        config.topic_defaults,
        [("retention.ms", "77"), ("segment.bytes", "5000")].map(|(n, v)| (n.into(), v.into())).into()
    );
    for (name, value) in [
        ("num.partitions", "0"),
        ("num.partitions", "many"),
        ("auto.create.topics.enable", "yes"),
        ("group.max.size", "-1"),
        ("offsets.retention.minutes", "99999999999"),
        ("retention.ms", "soon"),
        ("no.such.option", "1"),
    ] {
        let error = config.set(name, value).unwrap_err();
        assert!(error.kind() == crate::ErrorKind::Invalid && error.message().contains(name), "{error}");
    }
    let names: Vec<&str> = super::config::BROKER_OPTIONS.iter().map(|option| option.name).collect();
    assert!(names.is_sorted(), "they are found by that");

    let mut shell = Shell::open_with(&MemoryDevice::new(), config);
    let resource = crate::protocol::messages::describe_configs::DescribeConfigsResource {
        resource_type: 4,
        resource_name: "0".to_owned(),
        configuration_keys: Some(vec!["group.max.size".to_owned(), "offsets.retention.minutes".to_owned()]),
    };
    let request = crate::protocol::messages::DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let described: crate::protocol::messages::DescribeConfigsResponse = shell.call(request, 4);
    let shown: Vec<_> = described.results[0].configs.iter().map(|config| config.value.clone().unwrap()).collect();
    assert_eq!(shown, ["5", "2"]);
    // And they hold: a session of half a minute is too long here.
    let join = crate::protocol::messages::JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        ..Default::default()
    };
    let joined: crate::protocol::messages::JoinGroupResponse = shell.call(join, 5);
    assert_eq!(joined.error_code, ErrorCode::INVALID_SESSION_TIMEOUT);
}

#[test]
fn metadata_creates_a_topic_that_a_client_asks_for() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let asked = MetadataRequestTopic { name: Some("new".to_owned()), ..MetadataRequestTopic::default() };
    let request =
        MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: true, ..MetadataRequest::default() };
    let response: crate::protocol::messages::MetadataResponse = shell.call(request.clone(), 9);
    assert_eq!(response.topics[0].error_code, ErrorCode::NONE);
    assert_eq!(response.topics[0].partitions.len(), 1);

    let config = BrokerConfig { auto_create_topics: false, ..BrokerConfig::default() };
    let mut shell = Shell::open_with(&MemoryDevice::new(), config);
    let response: crate::protocol::messages::MetadataResponse = shell.call(request, 9);
    assert_eq!(response.topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn copy_removes_nothing_by_age_until_it_is_promoted() {
    let device = MemoryDevice::durable();
    let configs = [("segment.bytes".to_owned(), "100".to_owned()), ("retention.ms".to_owned(), "1000".to_owned())];
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: configs.into() };
    let much_later = NOW + 1_000_000_000;
    let mut shell = Shell::open(&device);
    shell.broker.create_copy(&copy, NOW).unwrap();
    for (offset, value) in [(0, "a"), (10, "b"), (20, "c")] {
        shell.broker.append_copy("c", 0, &[batch(&[value]).stamped(offset, 3)], NOW).unwrap();
    }
    shell.broker.raise_high_watermark("c", 0, 21, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    let ends = |shell: &Shell| shell.broker.log_end("c", 0).map(|log| (log.start, log.end));
    // As when it is brought up to date.
    shell.broker.create_copy(&copy, much_later).unwrap();
    assert_eq!(ends(&shell), Some((0, 21)));
    shell.broker.close(NOW).unwrap();
    let mut shell = Shell::open(&device);
    shell.broker.create_copy(&copy, much_later).unwrap();
    assert_eq!(ends(&shell), Some((0, 21)));
    // What its source has removed it removes; and all that is too old once it is nobody's copy.
    shell.broker.raise_start("c", 0, 10, much_later).unwrap();
    assert_eq!(ends(&shell), Some((10, 21)));
    shell.broker.promote_copies(&["c".to_owned()], much_later).unwrap();
    shell.drain();
    shell.run_tasks();
    shell.broker.handle_timeout(much_later);
    assert_ne!(ends(&shell), Some((10, 21)));
}

#[test]
fn copy_keeps_offsets_takes_no_produce_and_is_promoted() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    let id = Uuid::from_u128(42);
    let copy = Copy { name: "c".to_owned(), id, partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    let batches = [batch(&["a"]).stamped(10, 3), batch(&["b"]).stamped(20, 4)];
    shell.broker.append_copy("c", 0, &batches, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    assert_eq!(shell.values("c", 10), vec![], "the source's high watermark is not known yet");
    shell.broker.raise_high_watermark("c", 0, 11, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    assert_eq!(shell.values("c", 0), texts(&[(10, "a")]), "the first batch above a gap");
    assert_eq!(shell.values("c", 10), texts(&[(10, "a")]));
    assert_eq!(shell.produce("c", batch(&["x"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    shell.broker.promote_copies(&["c".to_owned()], NOW).unwrap();
    assert_eq!(shell.broker.leader_epoch, 10_000);
    assert_eq!(shell.produce("c", batch(&["x"])).base_offset, 21);

    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.values("c", 20), texts(&[(20, "b"), (21, "x")]));
    assert_eq!(shell.topics(), vec![("c".to_owned(), id, 1)]);
}

#[test]
fn copies_are_synced_in_large_pieces_and_at_once_for_who_waits() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.raise_high_watermark("c", 0, 0, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    let large = "x".repeat(1 << 20);
    let mut offset = 0;
    let mut append = |shell: &mut Shell, value: &str| {
        shell.broker.append_copy("c", 0, &[batch(&[value]).stamped(offset, 0)], NOW).unwrap();
        shell.drain();
        offset += 1;
        shell.tasks.len()
    };
    assert_eq!(append(&mut shell, "x"), 0, "nobody may read it yet");
    shell.broker.raise_high_watermark("c", 0, 1, NOW).unwrap();
    shell.drain();
    assert_eq!(shell.tasks.len(), 1, "readers wait for it");
    shell.run_tasks();
    assert_eq!(shell.values("c", 0), texts(&[(0, "x")]));
    assert_eq!(append(&mut shell, "x"), 0);
    shell.broker.sync_copy(RequestId(77), "c", 0, NOW).unwrap();
    shell.drain();
    assert_eq!((shell.tasks.len(), shell.answer(RequestId(77))), (1, None), "somebody waits for it");
    shell.run_tasks();
    assert!(shell.answer(RequestId(77)).is_some());
    let tasks: Vec<usize> = (0..16).map(|_| append(&mut shell, &large)).collect();
    assert_eq!(tasks, [[0; 15].as_slice(), &[1]].concat());
    shell.run_tasks();
    assert_eq!(append(&mut shell, "x"), 0);
    shell.broker.promote_copies(&["c".to_owned()], NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    assert_eq!(shell.values("c", 18), texts(&[(18, "x")]), "it is a copy no more");
}

#[test]
fn what_is_done_again_and_again_has_an_interval() {
    for name in ["log.cleaner.backoff.ms", "log.retention.check.interval.ms", "offsets.retention.check.interval.ms"] {
        let mut config = BrokerConfig::default();
        assert_eq!(config.set(name, "0").unwrap_err().kind(), crate::ErrorKind::Invalid, "{name}");
        config.set(name, "1").unwrap();
    }
}

#[test]
fn sync_from_before_a_truncation_acknowledges_nothing_that_came_after_it() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    type Cut = fn(&mut Broker);
    let cuts: [Cut; 2] =
        [|broker| broker.truncate_copy("c", 0, 1, NOW).unwrap(), |broker| broker.reset_copy("c", 0, 1, NOW).unwrap()];
    for (number, cut) in cuts.into_iter().enumerate() {
        shell.broker.reset_copy("c", 0, 0, NOW).unwrap();
        shell.drain();
        shell.run_tasks();
        let batches = [batch(&["a"]).stamped(0, 3), batch(&["b", "c"]).stamped(1, 3)];
        shell.broker.append_copy("c", 0, &batches, NOW).unwrap();
        shell.broker.raise_high_watermark("c", 0, 3, NOW).unwrap();
        shell.drain();
        let old = shell.tasks.pop().expect("a sync of all three");
        assert!(shell.tasks.is_empty());
        cut(&mut shell.broker);
        shell.broker.append_copy("c", 0, &[batch(&["x"]).stamped(1, 4)], NOW).unwrap();
        let id = RequestId(77 + number as u64);
        assert_eq!(shell.broker.sync_copy(id, "c", 0, NOW).unwrap(), 2);
        shell.broker.handle_done(old.run(), NOW);
        shell.drain();
        assert!(shell.answer(id).is_none(), "the second record is not synced yet");
        shell.run_tasks();
        let answer = shell.answer(id).expect("it is synced now");
        assert!(matches!(answer, Response::Heartbeat(answer) if answer.error_code == ErrorCode::NONE));
    }
}

fn is_checkpoint(task: &Task) -> bool {
    matches!(task.0, super::TaskKind::Checkpoints { .. })
}

#[test]
fn recovery_point_of_a_copy_that_was_cut_is_lowered_before_it_is_promoted() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    let point = || {
        let text = Device::read(&device, "recovery-point-offset-checkpoint").ok()?;
        String::from_utf8(text.to_vec()).unwrap().lines().find_map(|line| line.strip_prefix("c 0 ").map(str::to_owned))
    };
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    let batches = [batch(&["a"]).stamped(0, 3), batch(&["b", "c"]).stamped(1, 3)];
    shell.broker.append_copy("c", 0, &batches, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    shell.wait(60_000);
    let at = shell.tasks.iter().position(is_checkpoint).unwrap();
    let late = shell.tasks.remove(at);
    shell.run_tasks();
    shell.wait(60_000);
    shell.wait(60_000);
    assert!(!shell.tasks.iter().any(is_checkpoint), "one is under way already");
    shell.broker.truncate_copy("c", 0, 1, shell.now).unwrap();
    shell.broker.promote_copies(&["c".to_owned()], shell.now).unwrap();
    assert_eq!(point().as_deref(), Some("1"), "before the first record that is its own");
    let done = late.run();
    assert_eq!(point().as_deref(), Some("1"), "what was told before comes too late");
    shell.broker.handle_done(done, shell.now);
    shell.drain();
    shell.run_tasks();
    assert_eq!(shell.produce("c", batch(&["x"])).base_offset, 1);

    shell.wait(60_000);
    let at = shell.tasks.iter().position(is_checkpoint).unwrap();
    let late = shell.tasks.remove(at);
    shell.run_tasks();
    assert_eq!(shell.produce("c", batch(&["y"])).base_offset, 2);
    shell.broker.close(shell.now).unwrap();
    assert_eq!(point().as_deref(), Some("3"));
    drop(late.run());
    assert_eq!(point().as_deref(), Some("3"), "nothing is written behind the broker that was closed");
}

#[test]
fn what_is_told_of_a_copys_compaction_counts_no_more_than_its_recovery_point() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    let copy = Copy { name: "c".to_owned(), id: Uuid::from_u128(42), partitions: 1, configs: [].into() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.append_copy("c", 0, &[batch(&["a", "b"]).stamped(0, 3)], NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    device.overwrite("cleaner-offset-checkpoint", "0\n1\nc 0 2\n");
    let mut shell = Shell::open(&device.crash(Loss::Nothing));
    let id = shell.broker.find("c", 0).unwrap();
    assert_eq!(shell.broker.partition_mut(id).log.compacted_to(), 0);
}

#[test]
fn compaction_ends_when_the_broker_is_closed() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, COMPACTED);
    for number in 0..50 {
        shell.produce("t", keyed("k", Some(&format!("{number}"))));
    }
    shell.wait(15_000);
    let compaction = shell.tasks.remove(0);
    shell.broker.close(shell.now).unwrap();
    drop(compaction.run());
    assert!(device.files().keys().all(|path| !path.ends_with(".cleaned")), "{:?}", device.files().keys());
}

#[test]
fn session_remembers_no_name_that_no_topic_can_have() {
    let mut shell = Shell::open(&MemoryDevice::new());
    assert_eq!(shell.create("t", 1, &[]), ErrorCode::NONE);
    let mut request = fetch("t", 0, 0);
    request.topics.extend(fetch(&"x".repeat(30_000), 0, 0).topics);
    let named = request.topics.clone();
    request.session_epoch = 0;
    let first: FetchResponse = shell.call(request.clone(), 12);
    assert_eq!(first.responses.len(), 2);
    assert_eq!(first.responses[1].partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    request.session_id = first.session_id;
    for (epoch, names, answered) in [(1, vec![], 0), (2, named[1..].to_vec(), 1), (3, vec![], 0)] {
        request.session_epoch = epoch;
        request.topics = names;
        let next: FetchResponse = shell.call(request.clone(), 12);
        assert_eq!((next.error_code, next.responses.len()), (ErrorCode::NONE, answered), "epoch {epoch}");
        assert_eq!(next.session_id, first.session_id);
    }
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NONE);
    request.session_epoch = 4;
    let last: FetchResponse = shell.call(request, 12);
    assert_eq!(last.responses.iter().map(|topic| topic.topic.as_str()).collect::<Vec<_>>(), ["t"]);
}

// Leadership

const THERE: &str = "other.example";

fn told(epoch: i32, node_id: i32, cluster_id: &str) -> BeginQuorumEpochRequest {
    let partition = begin_quorum_epoch::RequestPartitionData {
        partition_index: 0,
        leader_id: node_id,
        leader_epoch: epoch,
        ..Default::default()
    };
    BeginQuorumEpochRequest {
        cluster_id: Some(cluster_id.to_owned()),
        voter_id: 0,
        topics: vec![begin_quorum_epoch::RequestTopicData {
            topic_name: METADATA_TOPIC.to_owned(),
            partitions: vec![partition],
        }],
        leader_endpoints: vec![begin_quorum_epoch::LeaderEndpoint {
            name: "PLAINTEXT".to_owned(),
            host: THERE.to_owned(),
            port: 9,
        }],
    }
}

fn tell(shell: &mut Shell, epoch: i32) -> (ErrorCode, i32, i32) {
    let request = told(epoch, 7, shell.broker.cluster_id());
    let answer = shell.call::<BeginQuorumEpochResponse>(request, 1);
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.leader_id, partition.leader_epoch)
}

#[test]
fn a_leader_that_learns_of_a_later_one_takes_no_more_and_tells_who_waits() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[("min.insync.replicas", "1")]);
    assert_eq!(shell.produce("t", batch(&["a"])).base_offset, 0);
    // It waits for its sync when the news comes.
    let waiting = shell.send(produce("t", 0, batch(&["b"]), -1), 9);
    assert!(shell.answer(waiting).is_none());
    let asked = shell.send(told(TERM, 7, shell.broker.cluster_id()), 1);
    let Some(Response::Produce(refused)) = shell.answer(waiting) else { panic!("not answered") };
    assert_eq!(refused.responses[0].partition_responses[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    shell.run_tasks();
    assert!(shell.answer(asked).is_some(), "answered once it is remembered");
    assert_eq!(shell.produce("t", batch(&["c"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    // What changes the cluster is sent on to the leader, and refused where that is away.
    shell.broker.note_away();
    assert_eq!(shell.create("u", 1, &[]), ErrorCode::NOT_CONTROLLER);

    // Also after a crash, whoever opens it.
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.produce("t", batch(&["c"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(shell.broker.stored_leader().unwrap().map(|leader| leader.node_id), Some(7));
    assert_eq!(shell.broker.leader_epoch(), TERM, "an unclean start of a follower raises no epoch");
}

#[test]
fn an_older_leader_is_told_who_leads() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    assert_eq!(tell(&mut shell, 2 * TERM), (ErrorCode::NONE, 7, 2 * TERM));
    let mut stale = told(TERM, 8, shell.broker.cluster_id());
    let answer = shell.call::<BeginQuorumEpochResponse>(stale.clone(), 1);
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!((answer.node_endpoints[0].node_id, &*answer.node_endpoints[0].host), (7, THERE));
    stale.cluster_id = Some("another".to_owned());
    let answer = shell.call::<BeginQuorumEpochResponse>(stale, 1);
    assert_eq!(answer.error_code, ErrorCode::INCONSISTENT_CLUSTER_ID);
    let answer = shell.call::<BeginQuorumEpochResponse>(BeginQuorumEpochRequest::default(), 1);
    assert_eq!(answer.error_code, ErrorCode::INCONSISTENT_CLUSTER_ID);
    // Meant for another broker, without an end, or with an epoch above which there is none.
    let good = told(3 * TERM, 8, shell.broker.cluster_id());
    let elsewhere = BeginQuorumEpochRequest { voter_id: 5, ..good.clone() };
    let nowhere = BeginQuorumEpochRequest { leader_endpoints: Vec::new(), ..good };
    let last = told(i32::MAX, 8, shell.broker.cluster_id());
    for bad in [elsewhere, nowhere, last] {
        let answer = shell.call::<BeginQuorumEpochResponse>(bad, 1);
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::INVALID_REQUEST);
    }
}

#[test]
fn a_promotion_begins_a_term_that_no_start_of_the_former_leader_reaches() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    tell(&mut shell, 0);
    // In the same epoch two lead: neither follows the other by itself.
    assert_eq!(shell.broker.leader(), None);
    assert_eq!(tell(&mut shell, 3), (ErrorCode::NONE, 7, 3));
    shell.broker.promote(NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    assert_eq!((shell.broker.leader(), shell.broker.leader_epoch()), (None, TERM));
    assert_eq!(shell.produce("t", batch(&["a"])).base_offset, 0);
    assert_eq!(tell(&mut shell, 3).0, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(shell.broker.untold_peers()[0].node_id, 7, "the former leader is to be told");
    // Crashes raise the epoch within the term.
    let mut device = device;
    for crash in 1..4 {
        device = device.crash(Loss::Unsynced);
        assert_eq!(Shell::open(&device).broker.leader_epoch(), TERM + crash);
    }
    let mut shell = Shell::open(&device);
    assert!(shell.broker.promoted().unwrap().is_some());
    assert_eq!(shell.broker.untold_peers()[0].node_id, 7, "and still after a restart");
    assert_eq!(shell.values("t", 0), texts(&[(0, "a")]));
}

#[test]
fn what_a_leader_has_given_its_vote_for_is_waited_for() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    let cluster_id = shell.broker.cluster_id().to_owned();
    let register = BrokerRegistrationRequest {
        broker_id: 7,
        cluster_id: cluster_id.clone(),
        incarnation_id: Uuid::from_u128(1),
        listeners: vec![broker_registration::Listener {
            name: "PLAINTEXT".to_owned(),
            host: THERE.to_owned(),
            port: 9,
            security_protocol: 0,
        }],
        ..Default::default()
    };
    let ask = |shell: &mut Shell, node_id: i32| {
        let asked = vote::RequestPartitionData { replica_epoch: TERM, replica_id: node_id, ..Default::default() };
        let topic = vote::RequestTopicData { topic_name: METADATA_TOPIC.to_owned(), partitions: vec![asked] };
        let request = VoteRequest { cluster_id: Some(cluster_id.clone()), voter_id: 0, topics: vec![topic] };
        shell.call::<VoteResponse>(request, 2).topics[0].partitions[0].vote_granted
    };
    assert!(!ask(&mut shell, 7), "nobody knows it");
    assert_eq!(shell.call::<BrokerRegistrationResponse>(register.clone(), 4).broker_epoch, 0);
    let other = BrokerRegistrationRequest { broker_id: 8, ..register.clone() };
    assert_eq!(shell.call::<BrokerRegistrationResponse>(other, 4).broker_epoch, 0);
    assert!(ask(&mut shell, 7));
    assert!(!ask(&mut shell, 8), "both would lead in the same epoch");
    assert!(ask(&mut shell, 7), "it may ask again");
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let (peer, leader_epoch, number) = shell.broker.unsettled_vote().unwrap();
    assert_eq!((peer.node_id, leader_epoch), (7, TERM));
    // It is not known whether the other one leads: not by the time, nor after a restart.
    shell.wait(10 * STAND_BACK_MS);
    shell.broker.take_vote_back(number - 1, NOW).unwrap();
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let mut restarted = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(restarted.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(restarted.broker.unsettled_vote().unwrap().0.node_id, 7);
    assert!(restarted.broker.next_term() > TERM, "it may be taken already");
    restarted.broker.promote(NOW).unwrap();
    assert_eq!(restarted.produce("t", batch(&["a"])).base_offset, 0);

    shell.broker.take_vote_back(number, NOW).unwrap();
    shell.drain();
    shell.run_tasks();
    assert_eq!(shell.produce("t", batch(&["a"])).base_offset, 0, "nobody came");

    // Another with its number, while it is heard of, is found out.
    shell.call::<BrokerRegistrationResponse>(register.clone(), 4);
    let twin = BrokerRegistrationRequest { incarnation_id: Uuid::from_u128(2), ..register.clone() };
    let code = |shell: &mut Shell, request| shell.call::<BrokerRegistrationResponse>(request, 4).error_code;
    assert_eq!(code(&mut shell, twin.clone()), ErrorCode::DUPLICATE_BROKER_REGISTRATION);
    assert_eq!(code(&mut shell, register.clone()), ErrorCode::NONE);
    shell.wait(10_000);
    assert_eq!(code(&mut shell, twin), ErrorCode::NONE, "the first is gone");
    let own = BrokerRegistrationRequest { broker_id: 0, ..register.clone() };
    assert_eq!(code(&mut shell, own), ErrorCode::DUPLICATE_BROKER_REGISTRATION);
    let other = BrokerRegistrationRequest { cluster_id: "another".to_owned(), ..register.clone() };
    assert_eq!(code(&mut shell, other), ErrorCode::INCONSISTENT_CLUSTER_ID);
    let nowhere = BrokerRegistrationRequest { listeners: Vec::new(), ..register };
    assert_eq!(code(&mut shell, nowhere), ErrorCode::INVALID_REGISTRATION);
}

#[test]
fn a_fetch_under_the_leaders_own_number_is_no_replica() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[("min.insync.replicas", "2")]);
    shell.send(FetchRequest { replica_id: 0, ..fetch("t", 0, 0) }, 12);
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_ENOUGH_REPLICAS);
    // Nor is one under a number that nobody has registered with.
    shell.send(FetchRequest { replica_id: 5, ..fetch("t", 0, 0) }, 12);
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_ENOUGH_REPLICAS);
    shell.register(5);
    shell.send(FetchRequest { replica_id: 5, ..fetch(METADATA_TOPIC, 0, 0) }, 12);
    assert_eq!(shell.create("u", 1, &[]), ErrorCode::NONE, "nobody holds up what the broker remembers");
}

#[test]
fn who_looks_for_a_leader_takes_nothing() {
    let mut shell = Shell::open(&MemoryDevice::new());
    shell.create("t", 1, &[]);
    shell.broker.seek(true);
    assert_eq!(shell.produce("t", batch(&["a"])).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(shell.create("u", 1, &[]), ErrorCode::NOT_CONTROLLER);
    shell.broker.seek(false);
    assert_eq!(shell.produce("t", batch(&["a"])).base_offset, 0);
}

#[test]
fn each_node_gives_out_producer_ids_of_its_own() {
    let next = producer_id;
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    assert_eq!((next(&mut shell), next(&mut shell)), (0, 1));
    shell.broker.take_node_id(Some(7), 0, NOW).unwrap();
    assert_eq!((next(&mut shell), next(&mut shell)), (7 << 30, (7 << 30) + 1));
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.broker.take_node_id(None, 0, NOW).unwrap(), 7, "it keeps its number");
    assert!(next(&mut shell) > (7 << 30) + 1);
}

#[test]
fn leaders_that_wrote_nothing_end_where_the_log_ends() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    shell.create("t", 1, &[]);
    shell.produce("t", batch(&["a", "b"]));
    drop(shell);
    // The second leader writes something that a follower fetches and a power cut takes, the third writes nothing.
    let device = device.crash(Loss::Unsynced);
    let mut shell = Shell::open(&device);
    shell.register(5);
    shell.send(produce("t", 0, batch(&["lost"]), 1), 9);
    let mut replica = fetch("t", 2, 0);
    replica.replica_id = 5;
    let fetched = shell.send(replica.clone(), 12);
    let Some(Response::Fetch(response)) = shell.answer(fetched) else { panic!("it is answered at once") };
    let fetched = Batch::single(response.responses[0].partitions[0].records.clone().unwrap()).unwrap();
    assert_eq!((fetched.base_offset(), fetched.partition_leader_epoch()), (2, 1));
    shell.tasks.clear();
    drop(shell);
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.values("t", 0), texts(&[(0, "a"), (1, "b")]));

    replica.topics[0].partitions[0].fetch_offset = 3;
    replica.topics[0].partitions[0].last_fetched_epoch = 1;
    let response: FetchResponse = shell.call(replica.clone(), 12);
    let diverging = &response.responses[0].partitions[0].diverging_epoch;
    assert_eq!((diverging.epoch, diverging.end_offset), (0, 2), "only what was never acknowledged is to be cut");
    let asked = OffsetForLeaderPartition { partition: 0, current_leader_epoch: -1, leader_epoch: 1 };
    let asked = OffsetForLeaderTopic { topic: "t".to_owned(), partitions: vec![asked] };
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![asked] };
    let response: OffsetForLeaderEpochResponse = shell.call(request, 4);
    let end = &response.topics[0].partitions[0];
    assert_eq!((end.leader_epoch, end.end_offset), (0, 2));

    // Of an epoch that is still to come nothing is known, and nothing is to be cut for it.
    replica.topics[0].partitions[0].last_fetched_epoch = 9;
    let response: FetchResponse = shell.call(replica, 12);
    let data = &response.responses[0].partitions[0];
    assert_eq!((data.error_code, data.diverging_epoch.end_offset), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
}

#[test]
fn a_topic_that_a_power_cut_may_take_back_is_told_to_nobody() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    let topic =
        CreatableTopic { name: "t".to_owned(), num_partitions: 1, replication_factor: -1, ..CreatableTopic::default() };
    shell.send(CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() }, 7);
    let asked = shell.send(MetadataRequest { topics: None, ..MetadataRequest::default() }, 12);
    assert!(shell.answer(asked).is_none());
    shell.run_tasks();
    let Some(Response::Metadata(response)) = shell.answer(asked) else { panic!("it is answered") };
    assert_eq!(response.topics.len(), 1);
}

#[test]
fn what_replaces_a_copys_cut_end_is_shown_when_its_source_shows_it() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let copy = Copy { name: "t".to_owned(), id: Uuid::from_u128(1), partitions: 1, configs: Default::default() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.append_copy("t", 0, &[batch(&["a"]).stamped(0, 0), batch(&["b"]).stamped(1, 0)], NOW).unwrap();
    shell.broker.raise_high_watermark("t", 0, 2, NOW).unwrap();
    shell.broker.truncate_copy("t", 0, 1, NOW).unwrap();
    shell.broker.append_copy("t", 0, &[batch(&["c"]).stamped(1, 1)], NOW).unwrap();
    shell.drain();
    assert_eq!(shell.values("t", 0), texts(&[(0, "a")]));
    shell.broker.raise_high_watermark("t", 0, 2, NOW).unwrap();
    assert_eq!(shell.values("t", 0), texts(&[(0, "a"), (1, "c")]));
}

#[test]
fn how_far_a_copy_may_be_read_outlasts_that_its_start_is_raised() {
    let mut shell = Shell::open(&MemoryDevice::new());
    let copy = Copy { name: "t".to_owned(), id: Uuid::from_u128(1), partitions: 1, configs: Default::default() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    shell.broker.append_copy("t", 0, &[batch(&["a"]).stamped(0, 0), batch(&["b"]).stamped(1, 0)], NOW).unwrap();
    // The source shows more than has come so far, and says so once.
    shell.broker.raise_high_watermark("t", 0, 3, NOW).unwrap();
    shell.broker.raise_start("t", 0, 1, NOW).unwrap();
    shell.broker.append_copy("t", 0, &[batch(&["c"]).stamped(2, 0)], NOW).unwrap();
    shell.drain();
    assert_eq!(shell.values("t", 1), texts(&[(1, "b"), (2, "c")]));
}

#[test]
fn a_restarted_follower_shows_what_its_leader_showed() {
    let device = MemoryDevice::durable();
    let mut shell = Shell::open(&device);
    tell(&mut shell, TERM);
    let copy = Copy { name: "t".to_owned(), id: Uuid::from_u128(1), partitions: 1, configs: Default::default() };
    shell.broker.create_copy(&copy, NOW).unwrap();
    let batches = [batch(&["a"]).stamped(0, TERM), batch(&["b"]).stamped(1, TERM)];
    shell.broker.append_copy("t", 0, &batches, NOW).unwrap();
    shell.broker.raise_high_watermark("t", 0, 1, NOW).unwrap();
    shell.broker.close(NOW).unwrap();
    for _ in 0..2 {
        let mut shell = Shell::open(&device.crash(Loss::Unsynced));
        shell.drain();
        shell.run_tasks();
        assert_eq!(shell.values("t", 0), texts(&[(0, "a")]), "its leader may have shown no more to anybody");
    }
    let mut shell = Shell::open(&device);
    shell.broker.raise_high_watermark("t", 0, 2, NOW).unwrap();
    assert_eq!(shell.values("t", 0), texts(&[(0, "a"), (1, "b")]));
}

#[test]
fn two_that_are_promoted_out_of_each_others_reach_lead_in_different_epochs() {
    let epochs = (0..4).map(|node_id| {
        let config = BrokerConfig { node_id, ..BrokerConfig::default() };
        let mut shell = Shell::open_with(&MemoryDevice::durable(), config);
        tell(&mut shell, 3);
        shell.broker.promote(NOW).unwrap();
        let first = shell.broker.leader_epoch();
        assert!(shell.broker.next_term() > first);
        first
    });
    let epochs: std::collections::BTreeSet<i32> = epochs.collect();
    assert_eq!(epochs.len(), 4, "{epochs:?}");
}

#[test]
fn who_looks_for_a_leader_takes_the_one_that_there_is_and_names_nobody() {
    // An empty disk, and a crash: it is in a later epoch than a leader that was never restarted.
    let device = MemoryDevice::durable();
    drop(Shell::open(&device));
    let mut shell = Shell::open(&device.crash(Loss::Unsynced));
    assert_eq!(shell.broker.leader_epoch(), 1);
    shell.broker.seek(true);
    let answer = shell.call::<VoteResponse>(VoteRequest::default(), 2);
    assert_eq!(answer.topics[0].partitions[0].leader_id, -1, "it is no leader to be followed");
    let metadata = MetadataRequest { topics: None, ..Default::default() };
    let metadata: crate::protocol::messages::MetadataResponse = shell.call(metadata, 9);
    assert_eq!(metadata.controller_id, -1);
    assert_eq!(tell(&mut shell, 0), (ErrorCode::NONE, 7, 0));
    assert_eq!(shell.broker.leader().map(|leader| leader.node_id), Some(7));
}

#[test]
fn a_follower_without_anything_is_not_sure_to_lack_nothing() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    tell(&mut shell, 3);
    let error = shell.broker.check_safe_alone(NOW).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{error}");
}

/// The steps that were taken since this was asked last, with the offsets of what took them.
fn steps(shell: &mut Shell) -> Vec<(Step, Option<(i64, i64)>)> {
    std::iter::from_fn(|| shell.broker.poll_step()).map(|traced| (traced.step, traced.offsets)).collect()
}

fn follower_fetch(offset: i64) -> FetchRequest {
    FetchRequest { replica_id: 7, ..fetch("t", offset, 0) }
}

#[test]
fn steps_of_a_record_are_told_as_they_are_taken() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    shell.register(7);
    shell.send(produce("t", 0, batch(&["a"]), -1), 9);
    assert_eq!(steps(&mut shell), [], "nobody traces");
    shell.run_tasks();
    shell.send(follower_fetch(1), 12);
    shell.broker.trace();

    let all = Some((1, 2));
    shell.send(produce("t", 0, batch(&["b", "c"]), -1), 9);
    assert_eq!(steps(&mut shell), [(Step::Received { acks: -1 }, None), (Step::Written, all)]);
    shell.send(follower_fetch(1), 12);
    assert_eq!(steps(&mut shell), [(Step::Sent(Some(7)), all)]);
    shell.send(follower_fetch(3), 12);
    assert_eq!(steps(&mut shell), [(Step::SyncedAt(7), all)], "the follower is faster than this broker's own device");
    shell.run_tasks();
    assert_eq!(steps(&mut shell), [(Step::Synced, all), (Step::Acknowledged, all)]);
    // A reader is told of once.
    shell.send(fetch("t", 1, 0), 12);
    shell.send(fetch("t", 1, 0), 12);
    assert_eq!(steps(&mut shell), [(Step::Sent(None), all)]);

    // Nobody is told of acks=0, and a batch that is refused is in no log.
    shell.send(produce("t", 0, batch(&["d"]), 0), 9);
    assert_eq!(steps(&mut shell), [(Step::Received { acks: 0 }, None), (Step::Written, Some((3, 3)))]);
    shell.send(produce("nowhere", 0, batch(&["e"]), 1), 9);
    let refused = Step::Refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(steps(&mut shell), [(Step::Received { acks: 1 }, None), (refused, None)]);
}

#[test]
fn what_a_fetch_has_no_room_for_is_not_told_as_sent() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    shell.register(7);
    shell.broker.trace();
    let size = batch(&["a"]).size();
    for value in ["a", "b", "c"] {
        shell.send(produce("t", 0, batch(&[value]), 1), 9);
    }
    steps(&mut shell);
    let mut small = follower_fetch(0);
    small.topics[0].partitions[0].partition_max_bytes = i32::try_from(size * 5 / 2).unwrap();
    shell.send(small, 12);
    let sent = |first| (Step::Sent(Some(7)), Some((first, first)));
    assert_eq!(steps(&mut shell), [sent(0), sent(1)]);
    shell.send(follower_fetch(1), 12);
    let synced = (Step::SyncedAt(7), Some((0, 0)));
    assert_eq!(steps(&mut shell), [synced, sent(2)], "each is told once");
}

#[test]
fn a_record_that_is_sent_again_is_answered_and_not_told_as_written() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    let id = producer_id(&mut shell);
    let producer = ProducerFields { producer_id: id, producer_epoch: 0, base_sequence: 0 };
    shell.produce("t", batch_of(&["a"], producer, NOW));
    shell.broker.trace();
    shell.produce("t", batch_of(&["a"], producer, NOW));
    let told = [(Step::Received { acks: -1 }, None), (Step::Acknowledged, Some((0, 0)))];
    assert_eq!(steps(&mut shell), told);
}

#[test]
fn what_is_waited_for_followers_is_told_apart_from_the_own_sync() {
    let mut shell = Shell::open(&MemoryDevice::durable());
    shell.create("t", 1, &[]);
    shell.register(7);
    let at = |shell: &mut Shell, ms| shell.broker.arrive(std::time::Duration::from_millis(ms));
    assert_eq!(shell.broker.ack_latency(), AckLatency::default());
    shell.send(follower_fetch(0), 12);

    at(&mut shell, 100);
    shell.send(produce("t", 0, batch(&["a"]), -1), 9);
    at(&mut shell, 101);
    shell.run_tasks();
    assert_eq!(shell.broker.ack_latency().count, 0, "the follower does not have it");
    at(&mut shell, 104);
    shell.send(follower_fetch(1), 12);
    let latency = shell.broker.ack_latency();
    let about = |times: Times, us: u64| times.p50 == times.p99 && (us..=us + us / 8).contains(&times.p50);
    assert_eq!(latency.count, 1);
    assert!(about(latency.own, 1_000), "{latency:?}");
    assert!(about(latency.added, 3_000), "{latency:?}");
    assert!(about(latency.total, 4_000), "{latency:?}");
    // acks=1 waits for nobody, and what is not acknowledged was waited for in vain.
    shell.send(produce("t", 0, batch(&["b"]), 1), 9);
    shell.send(produce("t", 0, batch(&["c"]), -1), 9);
    shell.wait(2_000);
    assert_eq!(shell.broker.ack_latency(), latency);
}
