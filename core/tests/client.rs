//! What the client does against a broker: a real one at `OTTLA_TEST_KAFKA=HOST:PORT`, skipped without.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla::client::{Client, ClientConfig, Options, Producer, ProducerConfig};
use ottla::native::Runtime;

const LONG: Duration = Duration::from_secs(30);

struct Broker {
    runtime: Runtime,
    bootstrap: String,
}

impl Broker {
    fn new() -> Option<Self> {
        let Ok(bootstrap) = std::env::var("OTTLA_TEST_KAFKA") else {
            eprintln!("skipped: OTTLA_TEST_KAFKA=HOST:PORT names no broker");
            return None;
        };
        Some(Self { runtime: Runtime::new().unwrap(), bootstrap })
    }

    fn options(&self) -> Options {
        Options::new().with("bootstrap_servers", self.bootstrap.as_str())
    }

    fn client(&self) -> Client {
        self.runtime.client(ClientConfig::from_options(&self.options()).unwrap())
    }

    fn producer(&self, options: &[(&str, &str)]) -> Producer {
        let mut all = self.options();
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, producer) = ProducerConfig::from_options(&all).unwrap();
        let (producer, driver) = Producer::new(self.runtime.client(client), producer);
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
    let Some(broker) = Broker::new() else { return };
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

#[test]
fn a_million_small_records_arrive_in_order_and_once() {
    let Some(broker) = Broker::new() else { return };
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

#[test]
fn connecting_where_nobody_listens_says_what_to_try() {
    let Some(broker) = Broker::new() else { return };
    let config = ClientConfig::from_options(
        &Options::new().with("bootstrap_servers", "127.0.0.1:1").with("retry_backoff_ms", 10_i64),
    )
    .unwrap();
    let client = broker.runtime.client(config);
    let error = broker.runtime.block_on(client.connect(Duration::from_millis(300))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("refused") && text.contains("ottla serve"), "{text}");
    assert!(!broker.client().is_connected());
}
