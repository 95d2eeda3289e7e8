//! The suite that every transport passes, on the system's clock and threads: in process, and over TCP.

use std::net::TcpListener;

use ottla::broker::BrokerConfig;
use ottla::client::ClientConfig;
use ottla::native::{LocalBroker, Runtime, Server, ServerOptions};
use ottla::transport::{Endpoint, conformance};

#[test]
fn the_embedded_broker_passes_the_suite_on_threads() {
    let runtime = Runtime::new().unwrap();
    let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default()).unwrap();
    let endpoint = Endpoint::new("in-process", 9092);
    runtime.block_on(conformance(broker.embedded(), &*runtime.clock(), &endpoint, None));
}

#[test]
fn tcp_passes_the_suite() {
    let runtime = Runtime::new().unwrap();
    let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default()).unwrap();
    let listening =
        Server::start(&runtime, broker.embedded().clone(), "127.0.0.1:0", ServerOptions::default()).unwrap();
    // A port that was free a moment ago, and which nobody listens on.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let transport = runtime.tcp(&ClientConfig::default());
    let endpoint = |address: std::net::SocketAddr| Endpoint::new(address.ip().to_string(), address.port());
    let (server, unused) = (endpoint(listening.address()), endpoint(unused));
    runtime.block_on(conformance(&*transport, &*runtime.clock(), &server, Some(&unused)));
}

/// The suite holds for Kafka, too, and so tells of transports and not of one broker.
#[test]
fn tcp_passes_the_suite_with_a_real_kafka_behind_it() {
    let Ok(kafka) = std::env::var("OTTLA_TEST_KAFKA") else {
        return eprintln!("not tested against Kafka: OTTLA_TEST_KAFKA=HOST:PORT names none");
    };
    let runtime = Runtime::new().unwrap();
    let transport = runtime.tcp(&ClientConfig::default());
    let broker = Endpoint::parse(&kafka).unwrap();
    runtime.block_on(conformance(&*transport, &*runtime.clock(), &broker, None));
}
