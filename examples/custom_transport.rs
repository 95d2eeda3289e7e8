//! A transport of your own: Kafka over a Unix socket.
//!
//! All that it takes is a `Connector`, which opens a stream of bytes; `Wire` does frames, versions and pipelining over it. The
//! suite that Ottla's own transports pass tells whether it keeps its promises. Then a producer and a consumer run over it.
//!
//! Run: cargo run -p ottla-examples --bin custom_transport

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ottla::broker::BrokerConfig;
use ottla::client::{Client, Consumer, ConsumerConfig, Listener, Options, Producer, ProducerConfig};
use ottla::native::{LocalBroker, Runtime, ServerOptions, serve};
use ottla::transport::{Connector, Embedded, Endpoint, Link, Transport, Wire, WireConfig, conformance};
use ottla::{Error, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

const LONG: Duration = Duration::from_secs(10);

/// Brokers by their sockets in a directory: `HOST-PORT.sock`.
#[derive(Debug)]
struct UnixSockets(PathBuf);

impl UnixSockets {
    fn path(&self, of: &Endpoint) -> PathBuf {
        self.0.join(format!("{}-{}.sock", of.host, of.port))
    }
}

impl Connector for UnixSockets {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> BoxFuture<'a, io::Result<Box<dyn Link>>> {
        Box::pin(async move {
            let path = self.path(to);
            // The error says what was tried; the transport adds for whom.
            let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let stream = UnixStream::connect(&path).await.map_err(failed)?;
            Ok(Box::new(stream.compat()) as Box<dyn Link>)
        })
    }
}

/// The other end: each connection is served as those of `ottla serve` are.
async fn listen(listener: UnixListener, broker: Embedded) {
    while let Ok((stream, _)) = listener.accept().await {
        let (reader, writer) = stream.into_split();
        tokio::spawn(serve(reader, writer, "unix", broker.clone(), ServerOptions::default()));
    }
}

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("ottla-sockets-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let runtime = Runtime::new()?;
    let broker = LocalBroker::in_memory(&runtime, BrokerConfig::default())?;
    // What the broker calls itself is what clients ask the connector for.
    let (here, nobody) = (Endpoint::new("letters", 9092), Endpoint::new("nobody", 9092));
    broker.embedded().advertise(&here.host, here.port)?;

    let sockets = UnixSockets(directory.clone());
    let listener = runtime.block_on(async { UnixListener::bind(sockets.path(&here)) })?;
    runtime.spawn(listen(listener, broker.embedded().clone()));
    let transport: Arc<dyn Transport> = Arc::new(Wire::new(Arc::new(sockets), runtime.clock(), WireConfig::default()));

    let begun = Instant::now();
    runtime.block_on(conformance(&*transport, &*runtime.clock(), &here, Some(&nobody)));
    println!("the Unix socket passes the transport suite, in {:.1} s", begun.elapsed().as_secs_f64());

    let options = Options::new().with("bootstrap_servers", here.to_string());
    let (client, config) = ProducerConfig::from_options(&options)?;
    let (producer, driver) = Producer::new(Client::new(Arc::clone(&transport), runtime.clock(), client), config);
    runtime.spawn(driver);
    let (client, config) = ConsumerConfig::from_options(&options.with("auto_offset_reset", "earliest"))?;
    let (consumer, driver) = Consumer::new(Client::new(transport, runtime.clock(), client), config);
    runtime.spawn(driver);
    consumer.subscribe(&["letters"], Listener::None)?;

    let read = runtime.block_on(async {
        for number in 0..10_000 {
            let value = format!("letter {number}");
            producer.send_waiting("letters", None, None, None, Some(value.as_bytes()), &[]).await?;
        }
        producer.close(LONG).await?;
        let mut read = 0;
        while read < 10_000 {
            read += consumer.poll(LONG, None).await?.count();
        }
        consumer.close(false, LONG).await?;
        Ok::<_, Error>(read)
    })?;
    println!("{read} letters were sent and read over it, without any port");
    assert_eq!(read, 10_000);
    std::fs::remove_dir_all(directory)?;
    broker.close()
}
