//! Two followers of one leader: a synchronous one, which `acks=all` waits for, and an asynchronous one, which nobody waits for.
//! Then the leader dies.
//!
//! Run: cargo run -p ottla-examples --bin sync_and_async

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use ottla::broker::BrokerConfig;
use ottla::client::{Admin, ClientConfig, NewTopic, Options, Producer, ProducerConfig, RecordMetadata};
use ottla::native::{LocalBroker, Location, Node, NodeOptions, Runtime};
use ottla::replication::{LocalLogs, TopicPartition, promote};
use ottla::{Error, Result};

const LONG: Duration = Duration::from_secs(20);
const RECORDS: usize = 300;

/// Starts `broker` as one among others: the leader, or a follower of the one at `leader`, over TCP.
fn start(runtime: &Runtime, broker: &Arc<LocalBroker>, leader: Option<&str>, synchronous: bool) -> Result<Node> {
    let options = NodeOptions {
        // A synchronous follower listens, so that clients find it when it leads one day.
        listen: synchronous.then(|| "127.0.0.1:0".to_owned()),
        follow: leader.map(str::to_owned),
        synchronous,
        ..NodeOptions::default()
    };
    let (node, driver) = Node::start(runtime, Arc::clone(broker), options)?;
    runtime.spawn(driver.map(drop));
    if leader.is_some() {
        runtime.block_on(node.member().caught_up(LONG))?;
    }
    Ok(node)
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
    let leading = start(&runtime, &leader, None, true)?;
    let address = leading.address().expect("it listens").to_string();

    // Acknowledged with acks=all shall mean: on two disks.
    let topic = NewTopic::new("orders").partitions(1).config("min.insync.replicas", "2");
    let admin = Admin::new(leader.client(ClientConfig::default()));
    runtime.block_on(admin.create_topics(&[topic], false, LONG))?.remove(0).1?;
    let synchronous = start(&runtime, &sync, Some(&address), true)?;
    let asynchronous = start(&runtime, &mirror, Some(&address), false)?;
    // The leader counts it in as soon as it has everything, and tells it.
    while synchronous.member().in_sync() != Some(1) {
        std::thread::sleep(Duration::from_millis(5));
    }
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
        runtime.block_on(follower.member().caught_up(LONG))?;
        runtime.block_on(follower.close());
    }

    // Alone, the leader refuses what asks for two disks, and still takes what asks for its own word only.
    let refused = send(&runtime, &producer(&runtime, &leader, "all")?, "refused").expect_err("one disk is not two");
    println!("\nboth followers are gone\nacks=all  {refused}");
    let alone = producer(&runtime, &leader, "1")?;
    (0..10).try_for_each(|number| send(&runtime, &alone, &format!("order {number}")).map(drop))?;
    println!("acks=1    10 records are acknowledged");

    // The leader dies, and the synchronous follower takes over: by an act of yours, Ottla elects nobody.
    runtime.block_on(leading.close());
    leader.close()?;
    std::fs::remove_dir_all(home.join("leader"))?;
    let node = start(&runtime, &sync, None, true)?;
    let client = sync.client(ClientConfig::default());
    runtime.block_on(promote(&client, node.endpoint().expect("it listens"), true))?;
    let kept = end(&sync)?;
    println!("\nthe leader is dead: {kept} records live on, and 10 that only acks=1 had acknowledged do not");
    assert_eq!(kept, 2 * RECORDS as i64);
    let place = send(&runtime, &producer(&runtime, &sync, "1")?, "and on")?;
    println!("the new leader goes on at offset {}", place.offset);
    std::fs::remove_dir_all(&home)?;
    Ok(())
}
