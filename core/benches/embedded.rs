//! What a request costs the embedded broker: handed in, and over a TCP connection to itself.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ottla::broker::BrokerConfig;
use ottla::client::ClientConfig;
use ottla::native::{LocalBroker, Runtime, Server, ServerOptions};
use ottla::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use ottla::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use ottla::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ottla::protocol::{Request, Response};
use ottla::record::{Builder, BuilderOptions, NO_HEADERS, ProducerFields};
use ottla::transport::{Endpoint, Transport};

const TOPIC: &str = "bench";

/// A batch of `count` records of 100 bytes, acks=all.
fn produce(count: usize) -> Request {
    let mut builder = Builder::new(BuilderOptions::default());
    for i in 0..count {
        builder.append(1_700_000_000_000 + i as i64, None, Some(&[b'x'; 100]), NO_HEADERS).expect("a small batch");
    }
    let batch = builder.seal(ProducerFields::NONE).expect("records");
    let data = PartitionProduceData { index: 0, records: Some(batch.into_bytes()) };
    let topic = TopicProduceData { name: TOPIC.to_owned(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }.into()
}

/// Up to 1 MiB from the start of the log.
fn fetch() -> Request {
    let partition = FetchPartition { partition: 0, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: TOPIC.to_owned(), partitions: vec![partition], ..Default::default() };
    FetchRequest {
        replica_id: -1,
        max_wait_ms: 0,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
    .into()
}

fn calls(c: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default()).expect("memory");
    let server = Server::start(&runtime, broker.embedded().clone(), "127.0.0.1:0", ServerOptions::default());
    let server = server.expect("a free port");
    let to = Endpoint::new(server.address().ip().to_string(), server.address().port());
    let ways: [(&str, Arc<dyn Transport>); 2] =
        [("in process", Arc::new(broker.embedded().clone())), ("over TCP", runtime.tcp(&ClientConfig::default()))];
    let topic = MetadataRequestTopic { name: Some(TOPIC.to_owned()), ..Default::default() };
    let create = MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() };
    runtime.block_on(ways[0].1.call(&to, create.into())).expect("a topic");

    let filling = produce(1_000);
    for _ in 0..20 {
        runtime.block_on(ways[0].1.call(&to, filling.clone())).expect("an answer");
    }
    let (fetching, small) = (fetch(), produce(1));
    let mut group = c.benchmark_group("embedded");
    for (way, transport) in &ways {
        for (what, request, bytes) in [("produce 1 record", &small, 100), ("fetch 1 MiB", &fetching, 1 << 20)] {
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(format!("{what}, {way}"), |b| {
                b.iter(|| {
                    let answer = runtime.block_on(transport.call(&to, black_box(request.clone())));
                    let answer: Response = answer.expect("an answer");
                    answer
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
