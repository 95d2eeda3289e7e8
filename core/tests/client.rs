//! What the client does against any broker: the embedded one, in process and over TCP, and a real Kafka if
//! `OTTLA_TEST_KAFKA=HOST:PORT` names one.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla::broker::BrokerConfig;
use ottla::client::config::IsolationLevel;
use ottla::client::{
    Admin, Client, ClientConfig, ConfigChange, ConfigResource, Consumer, ConsumerConfig, EARLIEST, Listener,
    NewPartitions, NewTopic, OffsetAndMetadata, Options, Producer, ProducerConfig, Rebalance, TopicPartition,
};
use ottla::native::{LocalBroker, Runtime};
use ottla::protocol::ErrorCode;

const LONG: Duration = Duration::from_secs(30);

/// A broker to test against.
struct Broker {
    runtime: Runtime,
    bootstrap: String,
    local: Option<Arc<LocalBroker>>,
}

/// Every broker there is to test against.
fn brokers() -> Vec<Broker> {
    let runtime = Runtime::new().unwrap();
    let local = LocalBroker::in_memory(&runtime, BrokerConfig::default()).unwrap();
    let mut brokers = vec![Broker { runtime, bootstrap: "localhost:9092".to_owned(), local: Some(local) }];
    match std::env::var("OTTLA_TEST_KAFKA") {
        Ok(bootstrap) => {
            brokers.push(Broker { runtime: Runtime::new().unwrap(), bootstrap, local: None });
        }
        Err(_) => eprintln!("not tested against Kafka: OTTLA_TEST_KAFKA=HOST:PORT names none"),
    }
    brokers
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

    fn producer(&self, options: &[(&str, &str)]) -> Producer {
        let mut all = self.options();
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, producer) = ProducerConfig::from_options(&all).unwrap();
        let (producer, driver) = Producer::new(self.client(client), producer);
        self.runtime.spawn(driver);
        producer
    }
}

/// A topic's name that no other run has used.
fn fresh(name: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{nanos}")
}

#[test]
fn a_record_is_produced_to_a_topic_that_is_created_by_it() {
    for broker in brokers() {
        let topic = fresh("auto");
        let producer = broker.producer(&[]);
        broker.runtime.block_on(async {
            for i in 0..3 {
                let ticket =
                    producer.send_waiting(&topic, Some(0), Some(1000 + i), Some(b"k"), Some(b"v"), &[]).await.unwrap();
                let metadata = ticket.wait().await.unwrap();
                assert_eq!((metadata.offset, metadata.partition, metadata.timestamp), (i, 0, 1000 + i));
            }
            producer.close(LONG).await.unwrap();
            assert!(producer.send(&topic, None, None, None, Some(b"v"), &[]).is_err());
        });
    }
}

#[test]
fn a_million_small_records_arrive_in_order_and_once() {
    for broker in brokers() {
        let topic = fresh("many");
        let producer = broker.producer(&[]);
        let start = std::time::Instant::now();
        broker.runtime.block_on(async {
            producer.prepare(&topic, LONG).await.unwrap();
            let mut last = None;
            for i in 0..1_000_000_i64 {
                let value = i.to_be_bytes();
                last = Some(producer.send_waiting(&topic, Some(0), None, None, Some(&value), &[]).await.unwrap());
            }
            producer.flush(LONG).await.unwrap();
            assert_eq!(last.unwrap().done().unwrap().unwrap().offset, 999_999);
            producer.close(LONG).await.unwrap();
        });
        eprintln!("{:?}", start.elapsed());
    }
}

#[test]
fn connecting_where_nobody_listens_says_what_to_try() {
    for broker in brokers() {
        let config = ClientConfig::from_options(
            &Options::new().with("bootstrap_servers", "127.0.0.1:1").with("retry_backoff_ms", 10_i64),
        )
        .unwrap();
        let client = broker.runtime.client(config);
        let error = broker.runtime.block_on(client.connect(Duration::from_millis(300))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("refused") && text.contains("ottla serve"), "{text}");
    }
}

impl Broker {
    fn consumer(&self, options: &[(&str, &str)]) -> Consumer {
        let mut all = self.options();
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, config) = ConsumerConfig::from_options(&all).unwrap();
        let (consumer, driver) = Consumer::new(self.client(client), config);
        self.runtime.spawn(driver);
        consumer
    }

    /// Sends `count` records whose values are their numbers, to every partition in turn.
    fn fill(&self, topic: &str, partitions: i32, count: usize, options: &[(&str, &str)]) {
        let producer = self.producer(options);
        self.runtime.block_on(async {
            for i in 0..count {
                let partition = Some(i as i32 % partitions);
                let value = i.to_string();
                producer
                    .send_waiting(
                        topic,
                        partition,
                        Some(i as i64),
                        Some(b"key"),
                        Some(value.as_bytes()),
                        &[("h", None)],
                    )
                    .await
                    .unwrap();
            }
            producer.close(LONG).await.unwrap();
        });
    }

    /// Polls until `count` records have come or nothing comes for a while.
    fn consume(&self, consumer: &Consumer, count: usize) -> Vec<(i32, i64, String)> {
        let mut all = Vec::new();
        let end = std::time::Instant::now() + LONG;
        while all.len() < count && std::time::Instant::now() < end {
            let polled = self.runtime.block_on(consumer.poll(Duration::from_millis(500), None)).unwrap();
            for batch in &polled.batches {
                let before = all.len();
                for record in batch.iter() {
                    let record = record.unwrap();
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    all.push((batch.partition.partition, record.offset, value));
                }
                assert_eq!(all.len() - before, batch.count);
            }
        }
        all
    }
}

#[test]
fn what_was_produced_in_each_codec_is_consumed_in_order() {
    for broker in brokers() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let topic = fresh(codec);
            broker.fill(&topic, 1, 5_000, &[("compression_type", codec)]);
            let consumer = broker.consumer(&[("auto_offset_reset", "earliest")]);
            consumer.assign(&[TopicPartition::new(topic.as_str(), 0)]).unwrap();
            let all = broker.consume(&consumer, 5_000);
            assert_eq!(all.len(), 5_000, "{codec}");
            for (i, (_, offset, value)) in all.iter().enumerate() {
                assert_eq!((*offset, value.as_str()), (i as i64, i.to_string().as_str()));
            }
            broker.runtime.block_on(consumer.close(true, LONG)).unwrap();
        }
    }
}

#[test]
fn positions_move_by_poll_by_seek_and_by_reset() {
    for broker in brokers() {
        let topic = fresh("seek");
        broker.fill(&topic, 1, 100, &[]);
        let partition = TopicPartition::new(topic.as_str(), 0);
        let consumer = broker.consumer(&[("auto_offset_reset", "latest"), ("max_poll_records", "30")]);
        consumer.assign(std::slice::from_ref(&partition)).unwrap();
        let position = || broker.runtime.block_on(consumer.position(&partition, LONG)).unwrap();
        assert_eq!(position(), 100);
        consumer.seek_to_beginning(&[]).unwrap();
        assert_eq!(position(), 0);
        let all = broker.consume(&consumer, 1);
        assert_eq!(all.len(), 30);
        assert_eq!(position(), 30);
        consumer.seek(&partition, 90).unwrap();
        assert_eq!(broker.consume(&consumer, 10).len(), 10);
        assert_eq!(position(), 100);
        assert_eq!(consumer.highwater(&partition), Some(100));
        consumer.pause(std::slice::from_ref(&partition)).unwrap();
        consumer.seek(&partition, 0).unwrap();
        let polled = broker.runtime.block_on(consumer.poll(Duration::from_millis(200), None)).unwrap();
        assert!(polled.is_empty());
        assert_eq!(consumer.paused(), std::slice::from_ref(&partition));
        consumer.resume(std::slice::from_ref(&partition)).unwrap();
        assert_eq!(broker.consume(&consumer, 100).len(), 100);
        broker.runtime.block_on(async {
            let times = [(partition.clone(), 42)].into_iter().collect();
            let found = consumer.offsets_for_times(&times, LONG).await.unwrap();
            assert_eq!(found[&partition].unwrap().offset, 42);
            let times = [(partition.clone(), 4_200)].into_iter().collect();
            assert_eq!(consumer.offsets_for_times(&times, LONG).await.unwrap()[&partition], None);
            assert_eq!(
                consumer.beginning_offsets(std::slice::from_ref(&partition), LONG).await.unwrap()[&partition],
                0
            );
            assert_eq!(consumer.end_offsets(std::slice::from_ref(&partition), LONG).await.unwrap()[&partition], 100);
            consumer.seek(&partition, 1_000).unwrap();
            // Out of range: the reset is to the end.
            consumer.poll(Duration::from_millis(300), None).await.unwrap();
            assert_eq!(consumer.position(&partition, LONG).await.unwrap(), 100);
        });
    }
}

#[test]
fn a_lone_member_gets_all_partitions_commits_and_goes_on_where_it_stood() {
    for broker in brokers() {
        let (topic, group) = (fresh("lone"), fresh("group"));
        broker.fill(&topic, 1, 100, &[]);
        for round in 0..2 {
            let consumer =
                broker.consumer(&[("auto_offset_reset", "earliest"), ("group_id", &group), ("max_poll_records", "50")]);
            consumer.subscribe(&[&topic], Listener::None).unwrap();
            let all = broker.consume(&consumer, 50);
            assert_eq!(all.first().unwrap().1, round * 50);
            broker.runtime.block_on(consumer.close(true, LONG)).unwrap();
        }
    }
}

#[test]
fn two_members_share_the_partitions_and_a_leaver_gives_its_own_back() {
    for broker in brokers() {
        let (topic, group) = (fresh("shared"), fresh("group"));
        let partitions = broker
            .runtime
            .block_on(broker.client(ClientConfig::from_options(&broker.options()).unwrap()).topic(&topic, LONG))
            .unwrap()
            .partitions
            .len();
        broker.fill(&topic, partitions as i32, 10, &[]);
        let options =
            [("auto_offset_reset", "earliest"), ("group_id", group.as_str()), ("heartbeat_interval_ms", "100")];
        let (one, two) = (broker.consumer(&options), broker.consumer(&options));
        one.subscribe(&[&topic], Listener::Waits).unwrap();
        let events = |consumer: &Consumer| {
            broker.runtime.block_on(consumer.poll(Duration::from_millis(50), None)).unwrap().events
        };
        let until = |what: &str, done: &mut dyn FnMut() -> bool| {
            let end = std::time::Instant::now() + LONG;
            while !done() {
                assert!(std::time::Instant::now() < end, "{what}");
            }
        };
        let mut seen = Vec::new();
        until("the first has all", &mut || {
            seen.extend(events(&one));
            one.assignment().len() == partitions
        });
        assert!(matches!(seen.as_slice(), [Rebalance::Assigned(all)] if all.len() == partitions), "{seen:?}");
        two.subscribe(&[&topic], Listener::None).unwrap();
        let mut seen = Vec::new();
        until("both have a share", &mut || {
            seen.extend(events(&one));
            events(&two);
            one.group_metadata().unwrap().generation_id >= 2
                && two.group_metadata().unwrap().stable
                && one.group_metadata().unwrap().stable
                && one.assignment().len() + two.assignment().len() == partitions
        });
        assert!(matches!(seen.first(), Some(Rebalance::Revoked(all)) if all.len() == partitions), "{seen:?}");
        broker.runtime.block_on(two.close(true, LONG)).unwrap();
        until("the first has all again", &mut || {
            events(&one);
            one.assignment().len() == partitions
        });
        broker.runtime.block_on(one.close(true, LONG)).unwrap();
    }
}

#[test]
fn latest_means_since_the_subscription_even_when_the_topic_is_not_there_yet() {
    for broker in brokers() {
        for exists in [false, true] {
            let (topic, group) = (fresh("latest"), fresh("group"));
            if exists {
                broker.fill(&topic, 1, 10, &[]);
            }
            let consumer = broker.consumer(&[("group_id", &group)]);
            consumer.subscribe(&[&topic], Listener::None).unwrap();
            broker.runtime.block_on(consumer.note_ends(LONG)).unwrap();
            broker.fill(&topic, 1, 3, &[]);
            let all = broker.consume(&consumer, 3);
            assert_eq!(all.len(), 3, "exists={exists}");
            assert_eq!(all[0].1, if exists { 10 } else { 0 });
        }
    }
}

#[test]
fn an_admin_manages_topics_configurations_records_and_groups() {
    for broker in brokers() {
        let (topic, group) = (fresh("admin"), fresh("group"));
        let admin = Admin::new(broker.client(ClientConfig::from_options(&broker.options()).unwrap()));
        let runtime = &broker.runtime;
        let new = NewTopic::new(&topic).partitions(2).config("segment.bytes", "1234567").config("retention.ms", "-1");
        runtime.block_on(async {
            let created = admin.create_topics(std::slice::from_ref(&new), false, LONG).await.unwrap();
            created[0].1.as_ref().unwrap();
            admin.wait_for_topics(&[&topic], LONG).await.unwrap();
            let again = admin.create_topics(std::slice::from_ref(&new), false, LONG).await.unwrap();
            assert_eq!(again[0].1.as_ref().unwrap_err().code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
            assert!(admin.list_topics(LONG).await.unwrap().iter().any(|listed| *listed.name == *topic));
            let more = [(topic.clone(), NewPartitions { total: 3, assignments: None })].into_iter().collect();
            admin.create_partitions(&more, false, LONG).await.unwrap()[0].1.as_ref().unwrap();
            let end = std::time::Instant::now() + LONG;
            loop {
                let described = admin.describe_topics(&[&topic], LONG).await.unwrap();
                if described[0].1.as_ref().unwrap().partitions.len() == 3 {
                    break;
                }
                assert!(std::time::Instant::now() < end);
            }
            let gone = admin.describe_topics(&["no-such-topic"], LONG).await.unwrap();
            assert_eq!(gone[0].1.as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));

            let resource = ConfigResource::Topic(topic.clone());
            let retention = async || {
                let described = admin.describe_configs(&[(resource.clone(), None)], LONG).await.unwrap();
                let entries = described.into_iter().next().unwrap().1.unwrap();
                entries.into_iter().find(|entry| entry.name == "segment.bytes").unwrap().value
            };
            assert_eq!(retention().await.as_deref(), Some("1234567"));
            let change = [("segment.bytes".to_owned(), ConfigChange::Set("7654321".to_owned()))].into_iter().collect();
            admin.alter_configs(&[(resource.clone(), change)], false, LONG).await.unwrap()[0].1.as_ref().unwrap();
            let end = std::time::Instant::now() + LONG;
            while retention().await.as_deref() != Some("7654321") {
                assert!(std::time::Instant::now() < end);
            }
            let wrong = [("segment.bytes".to_owned(), ConfigChange::Set("x".to_owned()))].into_iter().collect();
            assert!(admin.alter_configs(&[(resource.clone(), wrong)], false, LONG).await.unwrap()[0].1.is_err());
        });

        broker.fill(&topic, 1, 10, &[]);
        let partition = TopicPartition::new(topic.as_str(), 0);
        runtime.block_on(async {
            let up_to = [(partition.clone(), 4)].into_iter().collect();
            assert_eq!(*admin.delete_records(&up_to, LONG).await.unwrap()[&partition].as_ref().unwrap(), 4);
            let wanted = [(partition.clone(), EARLIEST)].into_iter().collect();
            let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted, LONG).await.unwrap();
            assert_eq!(found[&partition].as_ref().unwrap().offset, 4);
        });

        let consumer = broker.consumer(&[("auto_offset_reset", "earliest"), ("group_id", &group)]);
        consumer.subscribe(&[&topic], Listener::None).unwrap();
        assert_eq!(broker.consume(&consumer, 6).len(), 6);
        runtime.block_on(async {
            consumer.commit(None, LONG).await.unwrap();
            let listed = admin.list_groups(LONG).await.unwrap();
            assert!(listed.iter().any(|listed| listed.group_id == group && listed.protocol_type == "consumer"));
            let described = admin.describe_groups(&[&group], LONG).await.unwrap();
            let described = described[0].1.as_ref().unwrap();
            assert_eq!((described.state.as_str(), described.members.len()), ("Stable", 1));
            assert_eq!(described.members[0].assignment.len(), 3);
            let offsets = admin.list_group_offsets(&group, None, LONG).await.unwrap();
            assert_eq!(offsets[&partition].offset, 10);
            assert!(admin.delete_groups(&[&group], LONG).await.unwrap()[0].1.is_err(), "it has a member");
            consumer.close(true, LONG).await.unwrap();

            let to = [(partition.clone(), OffsetAndMetadata::new(7))].into_iter().collect();
            admin.alter_group_offsets(&group, &to, LONG).await.unwrap()[&partition].as_ref().unwrap();
            assert_eq!(admin.list_group_offsets(&group, None, LONG).await.unwrap()[&partition].offset, 7);
            let gone = admin.delete_group_offsets(&group, std::slice::from_ref(&partition), LONG).await.unwrap();
            gone[&partition].as_ref().unwrap();
            assert!(!admin.list_group_offsets(&group, None, LONG).await.unwrap().contains_key(&partition));
            admin.delete_groups(&[&group], LONG).await.unwrap()[0].1.as_ref().unwrap();
            admin.delete_topics(&[&topic], LONG).await.unwrap()[0].1.as_ref().unwrap();
            assert!(!admin.describe_cluster(LONG).await.unwrap().brokers.is_empty());
        });
    }
}
