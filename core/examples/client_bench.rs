//! What a record costs the client: CPU time of this process, all threads, for producing and for consuming.
//!
//! `client_bench BOOTSTRAP [RECORDS] [VALUE_BYTES] [option=value ...]` creates a topic of six partitions and deletes it afterwards.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use ottla::client::{
    Admin, ClientConfig, Consumer, ConsumerConfig, NewTopic, Options, Producer, ProducerConfig, SendError,
    TopicPartition,
};
use ottla::native::Runtime;

const LONG: Duration = Duration::from_secs(120);

/// User and system time of the process, all threads, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

struct Meter(Instant, f64);

impl Meter {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn report(&self, what: &str, records: usize, bytes: usize) {
        let (wall, cpu) = (self.0.elapsed().as_secs_f64(), cpu() - self.1);
        println!(
            "{what:8} {:7.0} k records/s  {:7.1} MB/s  {:.3} us CPU/record  ({wall:.2} s, {cpu:.2} s CPU)",
            records as f64 / wall / 1e3,
            bytes as f64 / wall / 1e6,
            cpu * 1e6 / records as f64,
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let bootstrap = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let records: usize = arguments.next().map_or(2_000_000, |n| n.parse().unwrap());
    let size: usize = arguments.next().map_or(100, |n| n.parse().unwrap());
    let rest: Vec<String> = arguments.collect();

    let runtime = Runtime::new().unwrap();
    let common = Options::new().with("bootstrap_servers", bootstrap.as_str());
    let mut options = common.clone();
    for (name, value) in Options::parse(rest.iter().map(String::as_str)).unwrap().iter() {
        options.set(name, value.clone());
    }
    let client = runtime.client(ClientConfig::from_options(&common).unwrap());
    let admin = Admin::new(client.clone());
    let topic = format!("bench-{}", std::process::id());
    runtime.block_on(async {
        admin.create_topics(&[NewTopic::new(&topic).partitions(6)], false, LONG).await.unwrap()[0].1.as_ref().unwrap();
        admin.wait_for_topics(&[&topic], LONG).await.unwrap();
    });

    let values: Vec<Vec<u8>> = (0..1000)
        .map(|i| {
            let mut value =
                format!("{{\"id\":{i},\"name\":\"record {i}\",\"amount\":{}.{},\"tags\":[", i * 7919 % 10_007, i % 100);
            let mut n: u64 = i as u64;
            while value.len() < size - 2 {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                value.push_str(&format!("{},", n >> 40));
            }
            value.truncate(size - 2);
            value.push_str("]}");
            value.into_bytes()
        })
        .collect();

    let (config, own) = ProducerConfig::from_options(&options).unwrap();
    let (producer, driver) = Producer::new(runtime.client(config), own);
    runtime.spawn(driver);
    runtime.block_on(producer.prepare(&topic, LONG)).unwrap();
    let meter = Meter::start();
    let mut last = None;
    let mut waits = 0;
    for i in 0..records {
        loop {
            match producer.send(&topic, None, None, None, Some(&values[i % 1000]), &[]) {
                Ok(ticket) => {
                    last = Some(ticket);
                    break;
                }
                Err(SendError::Full) => {
                    waits += 1;
                    runtime.block_on(producer.room(LONG)).unwrap();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    runtime.block_on(producer.flush(LONG)).unwrap();
    meter.report("produce", records, records * size);
    println!("         last {:?}, waited {waits} times for room", last.unwrap().done().unwrap().unwrap().offset);

    let (config, own) = ConsumerConfig::from_options(&common.clone().with("auto_offset_reset", "earliest")).unwrap();
    let (consumer, driver) = Consumer::new(runtime.client(config), own);
    runtime.spawn(driver);
    let meter = Meter::start();
    let partitions: Vec<TopicPartition> = (0..6).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
    consumer.assign(&partitions).unwrap();
    let (mut count, mut bytes, mut polls, mut longest) = (0, 0, 0, Duration::ZERO);
    while count < records {
        let start = Instant::now();
        let polled = runtime.block_on(consumer.poll(Duration::from_secs(10), Some(10_000))).unwrap();
        longest = longest.max(start.elapsed());
        polls += 1;
        assert!(!polled.is_empty());
        for batch in &polled.batches {
            for record in batch.iter() {
                bytes += record.unwrap().value.map_or(0, <[u8]>::len);
                count += 1;
            }
        }
    }
    meter.report("consume", count, bytes);
    println!("         {polls} polls, the longest took {longest:?}");

    // One at a time.
    let mut times: Vec<Duration> = (0..2_000)
        .map(|i| {
            let start = Instant::now();
            let ticket = producer.send(&topic, Some(0), None, None, Some(&values[i % 1000]), &[]).unwrap();
            runtime.block_on(ticket.wait()).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("one by one: p50 {:?} p90 {:?} p99 {:?}", times[1_000], times[1_800], times[1_980]);
    runtime.block_on(async {
        producer.close(LONG).await.unwrap();
        consumer.close(true, LONG).await.unwrap();
        admin.delete_topics(&[&topic], LONG).await.unwrap();
    });
}
