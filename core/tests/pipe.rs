//! Replica, backup and restore end to end: from the embedded broker and, if `OTTLA_TEST_KAFKA=HOST:PORT` names one, from a
//! real Kafka, to embedded brokers and repositories on disk.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla::backup::{
    Backup, BackupOptions, CheckOptions, Repository, RestoreOptions, Restored, SnapshotSource, backup, check, restore,
};
use ottla::broker::BrokerConfig;
use ottla::client::{Client, ClientConfig, Consumer, ConsumerConfig, Listener, Options, Producer, ProducerConfig};
use ottla::native::objects::FileObjects;
use ottla::native::{LocalBroker, Runtime};
use ottla::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use ottla::protocol::messages::{BrokerRegistrationRequest, CreateTopicsRequest, broker_registration};
use ottla::replication::{
    Bounds, ClusterSource, Copied, CopyOptions, Extent, Follower, FollowerOptions, LocalLogs, LogSink, Parting,
    Selection, Source, Topic, Until, assign, copy,
};

const LONG: Duration = Duration::from_secs(30);

/// A broker to copy from, or an embedded one to copy to.
struct Broker {
    runtime: Runtime,
    bootstrap: String,
    local: Option<Arc<LocalBroker>>,
}

/// Every broker there is to copy from.
fn sources() -> Vec<Broker> {
    let mut brokers = vec![embedded()];
    match std::env::var("OTTLA_TEST_KAFKA") {
        Ok(bootstrap) => brokers.push(Broker { runtime: Runtime::new().unwrap(), bootstrap, local: None }),
        Err(_) => eprintln!("not tested against Kafka: OTTLA_TEST_KAFKA=HOST:PORT names none"),
    }
    brokers
}

fn embedded() -> Broker {
    let runtime = Runtime::new().unwrap();
    // A follower that goes away is soon not waited for.
    let config = BrokerConfig { replica_lag_time_max_ms: 1_000, ..BrokerConfig::default() };
    let local = LocalBroker::in_memory(&runtime, config).unwrap();
    Broker { runtime, bootstrap: "localhost:9092".to_owned(), local: Some(local) }
}

fn fresh(name: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{nanos}")
}

/// A directory that is removed afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ottla-pipe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Broker {
    fn options(&self) -> Options {
        Options::new().with("bootstrap_servers", self.bootstrap.as_str())
    }

    fn client(&self, config: ClientConfig) -> Client {
        match &self.local {
            Some(local) => Client::new(Arc::new(local.embedded().clone()), self.runtime.clock(), config),
            None => self.runtime.client(config),
        }
    }

    fn source(&self) -> ClusterSource {
        ClusterSource::new(self.client(ClientConfig::from_options(&self.options()).unwrap()))
    }

    fn logs(&self) -> &dyn LocalLogs {
        self.local.as_ref().unwrap().embedded()
    }

    fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.to_owned(),
                num_partitions: partitions,
                replication_factor: 1,
                configs: configs.collect(),
                ..Default::default()
            }],
            timeout_ms: 30_000,
            ..Default::default()
        };
        let response = self.runtime.block_on(self.source().client().call_any(request)).unwrap();
        assert!(response.topics[0].error_code.is_ok(), "{response:?}");
    }

    /// Sends records numbered from `first` to the partitions in turn.
    fn produce(&self, topic: &str, partitions: i32, first: usize, count: usize, codec: &str) {
        let mut options = self.options();
        options.set("compression_type", codec);
        let (client, config) = ProducerConfig::from_options(&options).unwrap();
        let (producer, driver) = Producer::new(self.client(client), config);
        self.runtime.spawn(driver);
        self.runtime.block_on(async {
            for i in first..first + count {
                let (partition, time) = (Some(i as i32 % partitions), Some(1_700_000_000_000 + i as i64));
                let value = format!("value {i} {}", "x".repeat(i % 300));
                let key = (i % 3 > 0).then_some(i.to_be_bytes());
                let key = key.as_ref().map(|key| &key[..]);
                let headers = [("same", Some(&b"1"[..])), ("same", None)];
                producer.send_waiting(topic, partition, time, key, Some(value.as_bytes()), &headers).await.unwrap();
            }
            producer.close(LONG).await.unwrap();
        });
    }

    fn consumer(&self, group: &str) -> Consumer {
        let mut options = self.options();
        options.set("auto_offset_reset", "earliest").set("group_id", group);
        let (client, config) = ConsumerConfig::from_options(&options).unwrap();
        let (consumer, driver) = Consumer::new(self.client(client), config);
        self.runtime.spawn(driver);
        consumer
    }

    /// Consumes `count` records in a group that commits them: partition, offset, value.
    fn consume(&self, group: &str, topic: &str, count: usize) -> Vec<(i32, i64, Vec<u8>)> {
        let consumer = self.consumer(group);
        consumer.subscribe(&[topic], Listener::None).unwrap();
        let mut all = Vec::new();
        let end = std::time::Instant::now() + LONG;
        while all.len() < count && std::time::Instant::now() < end {
            let polled =
                self.runtime.block_on(consumer.poll(Duration::from_millis(200), Some(count - all.len()))).unwrap();
            for batch in &polled.batches {
                for record in batch.iter() {
                    let record = record.unwrap();
                    all.push((batch.partition.partition, record.offset, record.value.unwrap().to_vec()));
                }
            }
        }
        self.runtime.block_on(consumer.close(true, LONG)).unwrap();
        all
    }

    /// The topic, and for each partition its bounds and every byte of its batches.
    fn everything(&self, topic: &str) -> (Topic, Vec<(Bounds, Vec<u8>)>) {
        let source = self.source();
        self.runtime.block_on(async {
            let topics = source.topics(&topic.parse().unwrap()).await.unwrap();
            let mut logs = Vec::new();
            for assignment in assign(&source, &topics, Until::HighWatermark).await.unwrap() {
                let assignment = assignment.unwrap();
                let mut bytes = Vec::new();
                let mut next = assignment.bounds.start;
                while next < assignment.bounds.end {
                    let read = source.read(&assignment.partition, next, 100_000).await.unwrap();
                    for batch in ottla::record::batches(read) {
                        let batch = batch.unwrap();
                        next = batch.next_offset();
                        bytes.extend_from_slice(batch.as_bytes());
                    }
                }
                logs.push((assignment.bounds, bytes));
            }
            (topics.into_iter().next().unwrap(), logs)
        })
    }

    fn backup(&self, topic: &str, group: &str, directory: &Scratch) -> Backup {
        let mut options = BackupOptions::default();
        options.topics = topic.parse().unwrap();
        options.groups = group.parse().unwrap();
        options.object_bytes = 20_000;
        let (source, clock) = (self.source(), self.runtime.clock());
        self.runtime.block_on(async {
            let store = Arc::new(FileObjects::new(&directory.0));
            let repository = Repository::open_or_create(store, uuid::Uuid::from_u128(1), 0).await.unwrap();
            backup(&source, &repository, &options, &*clock, &|_| {}).await.unwrap()
        })
    }

    fn restore(&self, directory: &Scratch) -> Restored {
        self.runtime.block_on(async {
            let repository = Repository::open(Arc::new(FileObjects::new(&directory.0))).await.unwrap();
            let mut options = CheckOptions::default();
            options.read_data = true;
            let report = check(&repository, options).await.unwrap();
            assert!(report.is_sound(), "{report:?}");
            let snapshot = repository.find_snapshot("latest").await.unwrap();
            let source = SnapshotSource::open(repository, snapshot, &Selection::all()).await.unwrap();
            restore(&source, self.logs(), &RestoreOptions::default(), &|_| {}).await.unwrap()
        })
    }

    /// Copies `topic` from `source` to this embedded broker once.
    fn replicate(&self, source: &Self, topic: &str) -> Copied {
        let cluster = source.source();
        source.runtime.block_on(async {
            let topics = cluster.topics(&topic.parse().unwrap()).await.unwrap();
            self.logs().create_copy(&topics[0]).await.unwrap();
            let assignments = assign(&cluster, &topics, Until::HighWatermark).await.unwrap();
            let assignments: Vec<_> = assignments.into_iter().map(Result::unwrap).collect();
            let sink = LogSink::new(self.logs(), Parting::CutBack);
            copy(&cluster, &sink, &assignments, &CopyOptions::default(), &|_| {}).await.unwrap().all().unwrap()
        })
    }
}

/// What is the same in a copy: all but the leader's epoch and the brokers it is on. Of the bytes, their number and a hash.
fn comparable((mut topic, logs): (Topic, Vec<(Bounds, Vec<u8>)>)) -> (Topic, Vec<(i64, i64, usize, u64)>) {
    use std::hash::{DefaultHasher, Hasher};
    topic.partitions.iter_mut().for_each(Vec::clear);
    topic.replication_factor = 1;
    let logs = logs.into_iter().map(|(bounds, bytes)| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        (bounds.start, bounds.end, bytes.len(), hasher.finish())
    });
    (topic, logs.collect())
}

#[test]
fn a_replica_is_the_source_byte_for_byte_full_and_then_incremental() {
    for source in sources() {
        let (topic, replica) = (fresh("replica"), embedded());
        source.create(&topic, 3, &[("retention.ms", "-1"), ("max.message.bytes", "2000000")]);
        for (round, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
            source.produce(&topic, 3, round * 1_000, 1_000, codec);
            let copied = replica.replicate(&source, &topic);
            assert_eq!(copied.records(), 1_000, "{codec}");
            let extent = if round == 0 { Extent::Full } else { Extent::Incremental };
            assert!(copied.done().all(|done| done.extent == extent && done.parted_at.is_none()));
            assert_eq!(comparable(replica.everything(&topic)), comparable(source.everything(&topic)), "{codec}");
        }
        assert_eq!(replica.replicate(&source, &topic).bytes(), 0);
        // And it reads as any topic does.
        assert_eq!(replica.consume(&fresh("group"), &topic, 5_000).len(), 5_000);
    }
}

#[test]
fn a_backup_is_restored_byte_for_byte_and_the_group_goes_on_where_it_stood() {
    for source in sources() {
        let (topic, group, directory) = (fresh("backup"), fresh("group"), Scratch::new());
        source.create(&topic, 4, &[("retention.ms", "-1")]);
        source.produce(&topic, 4, 0, 2_000, "lz4");
        let mut seen = source.consume(&group, &topic, 1_000);
        assert_eq!(seen.len(), 1_000);
        let full = source.backup(&topic, &group, &directory).snapshot.manifest;
        assert_eq!((full.extent, full.totals.records), (Extent::Full, 2_000));

        source.produce(&topic, 4, 2_000, 500, "none");
        let second = source.backup(&topic, &group, &directory).snapshot.manifest;
        assert_eq!((second.extent, second.costs.new_records), (Extent::Incremental, 500));
        assert_eq!(second.costs.shared_bytes, full.totals.bytes);
        let third = source.backup(&topic, &group, &directory).snapshot.manifest;
        assert_eq!((third.costs.new_objects, third.costs.manifest_bytes), (0, 0));

        let target = embedded();
        let restored = target.restore(&directory);
        assert_eq!(restored.copied.records(), 2_500);
        assert_eq!(comparable(target.everything(&topic)), comparable(source.everything(&topic)));
        seen.extend(target.consume(&group, &topic, 1_500));
        seen.sort_unstable();
        seen.dedup_by(|a, b| (a.0, a.1) == (b.0, b.1));
        assert_eq!(seen.len(), 2_500, "everything once, before or after");

        // Only what is new comes with the next restore; and then the topic is the target's own.
        source.produce(&topic, 4, 2_500, 100, "zstd");
        source.backup(&topic, &group, &directory);
        assert_eq!(target.restore(&directory).copied.records(), 100);
        assert_eq!(comparable(target.everything(&topic)), comparable(source.everything(&topic)));
        target.produce(&topic, 4, 0, 40, "none");
        let ends = |broker: &Broker| broker.everything(&topic).1.iter().map(|(bounds, _)| bounds.end).sum::<i64>();
        assert_eq!(ends(&target), ends(&source) + 40);
    }
}

#[test]
fn a_deleted_prefix_stays_deleted() {
    for source in sources() {
        let (topic, directory) = (fresh("prefix"), Scratch::new());
        source.create(&topic, 2, &[("retention.ms", "-1")]);
        source.produce(&topic, 2, 0, 1_000, "none");
        source.delete_before(&topic, 0, 250);
        source.delete_before(&topic, 1, 500);
        source.backup(&topic, "none", &directory);
        let target = embedded();
        target.restore(&directory);
        let bounds: Vec<(i64, i64)> =
            target.everything(&topic).1.iter().map(|(bounds, _)| (bounds.start, bounds.end)).collect();
        assert_eq!(bounds, [(250, 500), (500, 500)]);
        let replica = embedded();
        replica.replicate(&source, &topic);
        assert_eq!(comparable(replica.everything(&topic)), comparable(source.everything(&topic)));
        source.produce(&topic, 2, 1_000, 10, "none");
        replica.replicate(&source, &topic);
        assert_eq!(comparable(replica.everything(&topic)), comparable(source.everything(&topic)));
    }
}

impl Broker {
    fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        use ottla::protocol::messages::DeleteRecordsRequest;
        use ottla::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: topic.to_owned(),
                partitions: vec![DeleteRecordsPartition { partition_index: partition, offset }],
            }],
            timeout_ms: 30_000,
        };
        let response = self.runtime.block_on(self.source().client().call_any(request)).unwrap();
        assert!(response.topics[0].partitions[0].error_code.is_ok(), "{response:?}");
    }
}

#[test]
fn a_source_that_is_not_there_or_lacks_the_topic_is_an_error() {
    for source in sources() {
        let cluster = source.source();
        let error = source.runtime.block_on(cluster.topics(&"no-such-topic".parse().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "no such topic topic=no-such-topic");
    }
}

impl Broker {
    /// Follows `source` in this embedded broker.
    fn follow(&self, source: &Self, options: FollowerOptions) -> Follower {
        let logs = Arc::new(self.local.as_ref().unwrap().embedded().clone());
        let (follower, driver) = Follower::new(source.source(), logs, options);
        self.runtime.spawn(driver);
        follower
    }

    fn assert_follows(&self, follower: &Follower, source: &Self, topic: &str) {
        self.runtime.block_on(follower.caught_up(LONG)).unwrap();
        assert_eq!(comparable(self.everything(topic)), comparable(source.everything(topic)));
    }
}

fn following(topic: &str) -> FollowerOptions {
    let mut options = FollowerOptions::default();
    options.topics = format!("{topic}.*").parse().unwrap();
    options.refresh_interval = Duration::from_millis(50);
    options
}

#[test]
fn an_asynchronous_follower_keeps_up_with_topics_partitions_and_records() {
    for source in sources() {
        let (topic, replica) = (fresh("follow"), embedded());
        source.create(&topic, 2, &[("retention.ms", "-1")]);
        source.produce(&topic, 2, 0, 500, "zstd");
        let follower = replica.follow(&source, following(&topic));
        replica.assert_follows(&follower, &source, &topic);
        for round in 1..5 {
            source.produce(&topic, 2, round * 500, 500, "none");
            replica.assert_follows(&follower, &source, &topic);
        }
        // A topic that appears later, and one that grows.
        let later = format!("{topic}-later");
        source.create(&later, 1, &[("retention.ms", "-1")]);
        source.produce(&later, 1, 0, 10, "none");
        source.grow(&topic, 5);
        source.produce(&topic, 5, 2_500, 500, "none");
        replica.assert_follows(&follower, &source, &later);
        replica.assert_follows(&follower, &source, &topic);
        // What the source deletes goes here, too.
        source.delete_before(&topic, 0, 100);
        std::thread::sleep(Duration::from_millis(200));
        replica.assert_follows(&follower, &source, &topic);
        // Stopped in the middle and begun anew, it goes on where it was.
        follower.stop();
        source.produce(&topic, 5, 3_000, 1_000, "lz4");
        let follower = replica.follow(&source, following(&topic));
        replica.assert_follows(&follower, &source, &topic);
        let records: u64 = follower.status().values().map(|status| status.records).sum();
        assert_eq!(records, 1_000);
    }
}

impl Broker {
    fn grow(&self, topic: &str, partitions: i32) {
        use ottla::protocol::messages::CreatePartitionsRequest;
        use ottla::protocol::messages::create_partitions::CreatePartitionsTopic;
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic { name: topic.to_owned(), count: partitions, assignments: None }],
            timeout_ms: 30_000,
            ..Default::default()
        };
        let response = self.runtime.block_on(self.source().client().call_any(request)).unwrap();
        assert!(response.results[0].error_code.is_ok(), "{response:?}");
    }
}

#[test]
fn a_synchronous_follower_has_what_acks_all_acknowledged() {
    let (leader, replica, topic) = (embedded(), embedded(), fresh("sync"));
    leader.create(&topic, 2, &[("retention.ms", "-1"), ("min.insync.replicas", "2")]);
    let mut options = following(&topic);
    options.replica_id = Some(1);
    // Only who is registered under a number counts.
    let registration = BrokerRegistrationRequest {
        broker_id: 1,
        incarnation_id: uuid::Uuid::from_u128(1),
        listeners: vec![broker_registration::Listener { host: "localhost".to_owned(), port: 9, ..Default::default() }],
        ..BrokerRegistrationRequest::default()
    };
    let source = leader.source();
    let registered = leader.runtime.block_on(source.client().call_any(registration)).unwrap();
    assert!(registered.error_code.is_ok(), "{registered:?}");
    let follower = replica.follow(&leader, options.clone());
    replica.runtime.block_on(follower.caught_up(LONG)).unwrap();
    for round in 0..20 {
        // The producer waits for all; so what it sent is there when it returns, whatever happens to the leader next.
        leader.produce(&topic, 2, round * 100, 100, "none");
        let partitions: Vec<_> = (0..2).map(|p| ottla::replication::TopicPartition::new(topic.as_str(), p)).collect();
        let ends = replica.runtime.block_on(replica.logs().log_ends(&partitions)).unwrap();
        let held: i64 = ends.iter().map(|end| end.unwrap().end).sum();
        assert_eq!(held, (round as i64 + 1) * 100);
    }
    replica.assert_follows(&follower, &leader, &topic);
    // Without its follower the leader has too few.
    follower.stop();
    let follower = replica.follow(&leader, options);
    leader.produce(&topic, 2, 2_000, 100, "none");
    replica.assert_follows(&follower, &leader, &topic);
}

#[test]
fn committed_offsets_follow_when_they_are_asked_for() {
    for source in sources() {
        let (topic, group, replica) = (fresh("groups"), fresh("group"), embedded());
        source.create(&topic, 1, &[("retention.ms", "-1")]);
        source.produce(&topic, 1, 0, 100, "none");
        let mut options = following(&topic);
        options.groups = Some(group.parse().unwrap());
        let follower = replica.follow(&source, options);
        assert_eq!(source.consume(&group, &topic, 60).len(), 60);
        replica.assert_follows(&follower, &source, &topic);
        replica.runtime.block_on(follower.caught_up(LONG)).unwrap();
        let rest = replica.consume(&group, &topic, 40);
        assert_eq!(rest.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), (60..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_former_leader_gives_up_what_its_successor_never_had_and_follows() {
    let (first, second, topic) = (embedded(), embedded(), fresh("failover"));
    first.create(&topic, 2, &[("retention.ms", "-1")]);
    first.produce(&topic, 2, 0, 1_000, "lz4");
    let mut options = following(&topic);
    options.replica_id = Some(1);
    options.follow_deletions = true;
    let follower = second.follow(&first, options.clone());
    second.assert_follows(&follower, &first, &topic);
    follower.stop();
    // Nobody has these but the first, when the second takes over and goes another way.
    first.produce(&topic, 2, 5_000, 300, "none");
    second.runtime.block_on(second.logs().promote_copies(std::slice::from_ref(&topic))).unwrap();
    second.produce(&topic, 2, 1_000, 100, "none");
    assert_ne!(comparable(first.everything(&topic)), comparable(second.everything(&topic)));

    options.replica_id = Some(2);
    let follower = first.follow(&second, options);
    first.assert_follows(&follower, &second, &topic);
    second.produce(&topic, 2, 1_100, 100, "zstd");
    first.assert_follows(&follower, &second, &topic);
}

#[test]
fn a_topic_that_is_deleted_and_made_anew_is_followed_anew() {
    let (leader, replica, topic) = (embedded(), embedded(), fresh("anew"));
    leader.create(&topic, 1, &[("retention.ms", "-1")]);
    leader.produce(&topic, 1, 0, 100, "none");
    let mut options = following(&topic);
    options.follow_deletions = true;
    let follower = replica.follow(&leader, options);
    replica.assert_follows(&follower, &leader, &topic);
    leader.delete(&topic);
    leader.create(&topic, 2, &[("retention.ms", "-1")]);
    leader.produce(&topic, 2, 0, 50, "none");
    replica.assert_follows(&follower, &leader, &topic);
    leader.delete(&topic);
    replica.runtime.block_on(follower.caught_up(LONG)).unwrap();
    let left = replica.runtime.block_on(replica.logs().copies()).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

impl Broker {
    fn delete(&self, topic: &str) {
        use ottla::protocol::messages::DeleteTopicsRequest;
        let request = DeleteTopicsRequest {
            topic_names: vec![topic.to_owned()],
            topics: vec![ottla::protocol::messages::delete_topics::DeleteTopicState {
                name: Some(topic.to_owned()),
                ..Default::default()
            }],
            timeout_ms: 30_000,
        };
        let response = self.runtime.block_on(self.source().client().call_any(request)).unwrap();
        assert!(response.responses[0].error_code.is_ok(), "{response:?}");
    }
}
