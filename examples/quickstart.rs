//! Kafka in one program: a broker in memory, a producer, and a consumer in a group.
//!
//! Run: cargo run -p ottla-examples --bin quickstart

use std::time::Duration;

use ottla::Result;
use ottla::broker::BrokerConfig;
use ottla::client::{Consumer, ConsumerConfig, Listener, Options, Producer, ProducerConfig};
use ottla::native::{LocalBroker, Runtime};

const LONG: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    // The threads that run what goes on in the background. The library itself starts none.
    let runtime = Runtime::new()?;
    let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default())?;

    // Options have Kafka's names. With `runtime.client(...)` in place of `broker.client(...)`, and `bootstrap_servers` among the
    // options, the same code speaks to a cluster over TCP.
    let options = Options::new().with("compression_type", "zstd");
    let (client, config) = ProducerConfig::from_options(&options)?;
    let (producer, driver) = Producer::new(broker.client(client), config);
    runtime.spawn(driver);

    runtime.block_on(async {
        for name in ["Ottla", "Franz", "Elli"] {
            let value = format!("{{\"hello\": {name:?}}}");
            let headers = [("language", Some(&b"en"[..]))];
            let sent = producer
                .send_waiting("greetings", None, None, Some(name.as_bytes()), Some(value.as_bytes()), &headers)
                .await?;
            // Waits until the record is acknowledged.
            let place = sent.wait().await?;
            println!("sent to partition {} at offset {}", place.partition, place.offset);
        }
        producer.close(LONG).await
    })?;

    let options = Options::new().with("group_id", "readers").with("auto_offset_reset", "earliest");
    let (client, config) = ConsumerConfig::from_options(&options)?;
    let (consumer, driver) = Consumer::new(broker.client(client), config);
    runtime.spawn(driver);
    consumer.subscribe(&["greetings"], Listener::None)?;

    let mut seen = Vec::new();
    runtime.block_on(async {
        while seen.len() < 3 {
            // Records come as the batches they were sent in, and are views over their bytes.
            for batch in consumer.poll(LONG, None).await?.batches {
                for record in batch.iter() {
                    let record = record?;
                    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"null")).into_owned();
                    println!("offset {}: {} says {}", record.offset, text(record.key), text(record.value));
                    seen.push(text(record.key));
                }
            }
        }
        // Commits what was polled, and leaves the group.
        consumer.close(true, LONG).await
    })?;
    assert_eq!(seen, ["Ottla", "Franz", "Elli"]);
    broker.close()
}
