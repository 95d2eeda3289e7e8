//! The client on a real Kafka of three brokers whose leaders die and come back: nothing acknowledged is lost, doubled or out of
//! order. Takes a minute and 1.5 GB; runs when `OTTLA_TEST_CLUSTER=1` says so.
#![cfg(all(feature = "native", unix))]
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ottla::client::{
    Admin, ClientConfig, Consumer, ConsumerConfig, Listener, NewTopic, Options, Producer, ProducerConfig,
};
use ottla::native::Runtime;

const LONG: Duration = Duration::from_secs(60);

struct Kafka {
    data: PathBuf,
    bootstrap: String,
    pids: Vec<u32>,
}

impl Kafka {
    fn script() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka")
    }

    /// Starts what does not run.
    fn start(data: PathBuf) -> Self {
        let config = ["default.replication.factor=3", "min.insync.replicas=2", "broker.session.timeout.ms=3000"];
        let mut command = Command::new(Self::script());
        command.args(["start", "--brokers", "3", "--heap", "256m", "--data"]).arg(&data);
        for line in config {
            command.args(["--config", line]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let field = |name: &str| {
            let after = text.split_once(&format!("\"{name}\": ")).unwrap().1;
            after[1..].split(['"', ']']).next().unwrap().to_owned()
        };
        let pids = field("pids").split(',').map(|pid| pid.trim().parse().unwrap()).collect();
        Self { data, bootstrap: field("bootstrap"), pids }
    }

    fn kill(&self, node: usize) {
        assert!(Command::new("kill").args(["-9", &self.pids[node].to_string()]).status().unwrap().success());
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = Command::new(Self::script()).args(["stop", "--kill", "--data"]).arg(&self.data).output();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

#[test]
fn leaders_may_die_and_come_back() {
    if std::env::var_os("OTTLA_TEST_CLUSTER").is_none() {
        eprintln!("skipped: OTTLA_TEST_CLUSTER=1 runs it");
        return;
    }
    let data = std::env::temp_dir().join(format!("ottla-cluster-{}", std::process::id()));
    let mut kafka = Kafka::start(data.clone());
    let runtime = Runtime::new().unwrap();
    let options =
        Options::new().with("bootstrap_servers", kafka.bootstrap.as_str()).with("reconnect_backoff_max_ms", 1_000_i64);
    let client = runtime.client(ClientConfig::from_options(&options).unwrap());
    let new = NewTopic::new("orders").partitions(6);
    runtime.block_on(async {
        Admin::new(client.clone()).create_topics(&[new], false, LONG).await.unwrap()[0].1.as_ref().unwrap();
    });

    let (config, own) = ProducerConfig::from_options(&options).unwrap();
    let (producer, driver) = Producer::new(runtime.client(config), own);
    runtime.spawn(driver);
    let (config, own) = ConsumerConfig::from_options(
        &options
            .clone()
            .with("group_id", "g")
            .with("auto_offset_reset", "earliest")
            .with("session_timeout_ms", 10_000_i64),
    )
    .unwrap();
    let (consumer, driver) = Consumer::new(runtime.client(config), own);
    runtime.spawn(driver);
    consumer.subscribe(&["orders"], Listener::None).unwrap();

    // One thread sends numbers, one reads them, and this one kills.
    let stop = Arc::new(AtomicBool::new(false));
    let sending = std::thread::spawn({
        let (runtime, producer, stop) = (runtime.clone(), producer.clone(), Arc::clone(&stop));
        move || {
            runtime.block_on(async {
                let mut tickets = Vec::new();
                let mut next = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..50 {
                        let partition = Some((next % 6) as i32);
                        let value = next.to_be_bytes();
                        let ticket = producer.send_waiting("orders", partition, None, None, Some(&value), &[]).await;
                        tickets.push(ticket.unwrap());
                        next += 1;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                producer.flush(LONG).await.unwrap();
                for ticket in &tickets {
                    ticket.done().unwrap().unwrap();
                }
                next
            })
        }
    });
    let total = Arc::new(std::sync::atomic::AtomicU64::new(u64::MAX));
    let reading = std::thread::spawn({
        let (runtime, consumer, total) = (runtime.clone(), consumer.clone(), Arc::clone(&total));
        move || {
            let mut seen: Vec<Vec<u64>> = vec![Vec::new(); 6];
            let mut last_offset = [-1_i64; 6];
            let mut again = 0;
            let mut end = Instant::now() + Duration::from_secs(300);
            while (seen.iter().map(Vec::len).sum::<usize>() as u64) < total.load(Ordering::Relaxed) {
                assert!(Instant::now() < end, "{:?}", seen.iter().map(Vec::len).collect::<Vec<_>>());
                let polled = match runtime.block_on(consumer.poll(Duration::from_millis(200), None)) {
                    Ok(polled) => polled,
                    Err(error) => {
                        eprintln!("poll: {error:?}");
                        continue;
                    }
                };
                for batch in &polled.batches {
                    end = Instant::now() + Duration::from_secs(60);
                    for record in batch.iter() {
                        let record = record.unwrap();
                        let partition = batch.partition.partition as usize;
                        // A new member reads again what was not committed: by its offset it is the same record.
                        if record.offset <= last_offset[partition] {
                            again += 1;
                            continue;
                        }
                        last_offset[partition] = record.offset;
                        seen[partition].push(u64::from_be_bytes(record.value.unwrap().try_into().unwrap()));
                    }
                }
            }
            eprintln!("read again: {again}");
            seen
        }
    });
    for round in 0..4 {
        std::thread::sleep(Duration::from_secs(3));
        let start = Instant::now();
        kafka.kill(round % 3);
        std::thread::sleep(Duration::from_secs(5));
        let pids = Kafka::start(data.clone());
        kafka.pids.clone_from(&pids.pids);
        std::mem::forget(pids);
        eprintln!("node {} was away for {:?}", round % 3, start.elapsed());
    }
    std::thread::sleep(Duration::from_secs(3));
    stop.store(true, Ordering::Relaxed);
    let sent = sending.join().unwrap();
    eprintln!("sent: {sent}");
    total.store(sent, Ordering::Relaxed);
    for (partition, values) in reading.join().unwrap().into_iter().enumerate() {
        let expected = (0..sent).filter(|i| *i as usize % 6 == partition);
        assert!(values.into_iter().eq(expected), "partition={partition}");
    }
    runtime.block_on(async {
        consumer.close(true, LONG).await.unwrap();
        producer.close(LONG).await.unwrap();
    });
}
