//! Two followers of one leader: a synchronous one, which `acks=all` waits for, and an asynchronous one, which nobody waits for.
//! Then the leader dies.
//!
//! Run: cargo run -p ottla-examples --bin sync_and_async

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla::broker::BrokerConfig;
use ottla::client::{Admin, ClientConfig, NewTopic, Options, Producer, ProducerConfig, RecordMetadata};
use ottla::native::{LocalBroker, Location, Runtime, Server, ServerOptions};
use ottla::replication::{ClusterSource, Follower, FollowerOptions, LocalLogs, TopicPartition};
use ottla::{Error, Result};

const LONG: Duration = Duration::from_secs(20);
const RECORDS: usize = 300;

/// Follows the leader at `address` in `broker`, over TCP. With a replica id it is one that the leader counts in.
fn follow(runtime: &Runtime, address: &str, broker: &LocalBroker, replica_id: Option<i32>) -> Result<Follower> {
    let client = runtime.client(ClientConfig::from_options(&Options::new().with("bootstrap_servers", address))?);
    let mut options = FollowerOptions::default();
    options.replica_id = replica_id;
    options.refresh_interval = Duration::from_millis(100);
    let (follower, driver) = Follower::new(ClusterSource::new(client), Arc::new(broker.embedded().clone()), options);
    runtime.spawn(driver);
    runtime.block_on(follower.caught_up(LONG))?;
    Ok(follower)
}

/// A producer that takes a broker's first word for it, so that refusals show.
fn producer(runtime: &Runtime, broker: &LocalBroker, acks: &str) -> Result<Producer> {
    let options = Options::new().with("acks", acks).with("retries", 0).with("enable_idempotence", false);
    let (client, config) = ProducerConfig::from_options(&options)?;
    let (producer, driver) = Producer::new(broker.client(client), config);
    runtime.spawn(driver);
    Ok(producer)
}

/// Sends an order and waits until it is acknowledged.
fn send(runtime: &Runtime, producer: &Producer, value: &str) -> Result<RecordMetadata> {
    let sent = producer.send_waiting("orders", None, None, None, Some(value.as_bytes()), &[]);
    runtime.block_on(async { sent.await?.wait().await })
}

fn main() -> Result<()> {
    let home = std::env::temp_dir().join(format!("ottla-sync-and-async-{}", std::process::id()));
    let runtime = Runtime::new()?;
    let open = |node_id, name| {
        // A follower that is silent for a second is not waited for any more.
        let config = BrokerConfig { node_id, replica_lag_time_max_ms: 1_000, ..BrokerConfig::default() };
        LocalBroker::open(&runtime, Location::Directory(home.join(name)), config)
    };
    let (leader, sync, mirror) = (open(0, "leader")?, open(1, "synchronous")?, open(2, "asynchronous")?);
    let server = Server::start(&runtime, leader.embedded().clone(), "127.0.0.1:0", ServerOptions::default())?;
    let address = server.address();
    leader.embedded().advertise(&address.ip().to_string(), address.port())?;

    // Acknowledged with acks=all shall mean: on two disks.
    let topic = NewTopic::new("orders").partitions(1).config("min.insync.replicas", "2");
    let admin = Admin::new(leader.client(ClientConfig::default()));
    runtime.block_on(admin.create_topics(&[topic], false, LONG))?.remove(0).1?;
    let synchronous = follow(&runtime, &address.to_string(), &sync, Some(1))?;
    let asynchronous = follow(&runtime, &address.to_string(), &mirror, None)?;
    let end = |broker: &LocalBroker| {
        let ends = runtime.block_on(broker.embedded().log_ends(&[TopicPartition::new("orders", 0)]))?;
        Ok::<_, Error>(ends[0].map_or(0, |end| end.end))
    };

    println!("{:10}{:>16}{:>26}{:>26}", "", "p50 of an ack", "lacked by synchronous", "lacked by asynchronous");
    for acks in ["all", "1"] {
        let producer = producer(&runtime, &leader, acks)?;
        let (mut times, mut lacked) = (Vec::new(), [0, 0]);
        for number in 0..RECORDS {
            let begun = Instant::now();
            let place = send(&runtime, &producer, &format!("order {number}"))?;
            times.push(begun.elapsed());
            // It is acknowledged at this moment: who has it?
            lacked[0] += usize::from(end(&sync)? <= place.offset);
            lacked[1] += usize::from(end(&mirror)? <= place.offset);
        }
        times.sort();
        let p50 = format!("{:.2} ms", times[RECORDS / 2].as_secs_f64() * 1e3);
        let [first, second] = lacked.map(|lacked| format!("{lacked} of {RECORDS}"));
        println!("acks={acks:5}{p50:>16}{first:>26}{second:>26}");
        assert!(acks == "1" || lacked[0] == 0, "what acks=all acknowledged is on the synchronous follower's disk");
    }
    for follower in [synchronous, asynchronous] {
        runtime.block_on(follower.caught_up(LONG))?;
        follower.stop();
    }

    // Alone, the leader refuses what asks for two disks, and still takes what asks for its own word only.
    let refused = send(&runtime, &producer(&runtime, &leader, "all")?, "refused").expect_err("one disk is not two");
    println!("\nboth followers are gone\nacks=all  {refused}");
    let alone = producer(&runtime, &leader, "1")?;
    (0..10).try_for_each(|number| send(&runtime, &alone, &format!("order {number}")).map(drop))?;
    println!("acks=1    10 records are acknowledged");

    // The leader dies, and the synchronous follower takes over: by an act of yours, Ottla elects nobody.
    runtime.block_on(server.close());
    leader.close()?;
    std::fs::remove_dir_all(home.join("leader"))?;
    runtime.block_on(sync.embedded().promote_copies(&["orders".to_owned()]))?;
    let kept = end(&sync)?;
    println!("\nthe leader is dead: {kept} records live on, and 10 that only acks=1 had acknowledged do not");
    assert_eq!(kept, 2 * RECORDS as i64);
    let place = send(&runtime, &producer(&runtime, &sync, "1")?, "and on")?;
    println!("the new leader goes on at offset {}", place.offset);
    std::fs::remove_dir_all(&home)?;
    Ok(())
}
