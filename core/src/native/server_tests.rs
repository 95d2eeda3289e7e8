use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Buffered, ServerOptions, serve_within};
use crate::broker::BrokerConfig;
use crate::native::{LocalBroker, Runtime};
use crate::{ErrorKind, Result};

/// One connection to a broker in memory, what all connections may hold, and how serving it ends.
fn connect(runtime: &Runtime, options: ServerOptions) -> (DuplexStream, Arc<Semaphore>, JoinHandle<Result<()>>) {
    let broker = LocalBroker::in_memory(runtime, BrokerConfig::default()).unwrap();
    let budget = Arc::new(Semaphore::new(options.max_buffered_bytes));
    let buffered = Buffered { budget: Arc::clone(&budget), held: None };
    let (ours, theirs) = duplex(64 << 10);
    let served = runtime.spawn(async move {
        let (reader, writer) = split(theirs);
        serve_within(reader, writer, "test", broker.embedded().clone(), buffered, options).await
    });
    (ours, budget, served)
}

/// A Metadata request, version 1, for `count` topics of which there is none; its answer is longer.
fn metadata(count: u32) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    body.extend_from_slice(&count.to_be_bytes());
    for _ in 0..count {
        body.extend_from_slice(&1_000_u16.to_be_bytes());
        body.extend_from_slice(&[b'x'; 1_000]);
    }
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

#[test]
fn who_does_not_read_the_answer_holds_no_room_for_requests_and_is_let_go() {
    let runtime = Runtime::new().unwrap();
    let options = ServerOptions { max_idle: Duration::from_secs(2), ..ServerOptions::default() };
    let (mut stream, budget, served) = connect(&runtime, options);
    runtime.block_on(async {
        stream.write_all(&metadata(2_000)).await.unwrap();
        stream.read_u8().await.expect("the answer has begun");
        assert_eq!(budget.available_permits(), options.max_buffered_bytes);
        let ended = timeout(Duration::from_secs(20), served).await.expect("it is let go").unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Timeout);
    });
}

#[test]
fn who_reads_the_answer_slowly_is_served() {
    let runtime = Runtime::new().unwrap();
    let options = ServerOptions { max_idle: Duration::from_secs(2), ..ServerOptions::default() };
    let (mut stream, _, served) = connect(&runtime, options);
    runtime.block_on(async {
        stream.write_all(&metadata(400)).await.unwrap();
        let mut size = stream.read_u32().await.unwrap() as usize;
        assert!(size > 400_000);
        while size > 0 {
            sleep(Duration::from_millis(500)).await;
            let mut part = vec![0; size.min(64 << 10)];
            size -= stream.read_exact(&mut part).await.unwrap();
        }
        drop(stream);
        served.await.unwrap().unwrap();
    });
}

#[test]
fn request_that_comes_byte_by_byte_has_no_longer_than_another() {
    let runtime = Runtime::new().unwrap();
    let options = ServerOptions { max_request_time: Duration::from_secs(1), ..ServerOptions::default() };
    let (mut stream, _, served) = connect(&runtime, options);
    runtime.block_on(async {
        // Whole requests have each their own time.
        for _ in 0..4 {
            let request = metadata(1);
            stream.write_all(&request[..20]).await.unwrap();
            sleep(Duration::from_millis(400)).await;
            stream.write_all(&request[20..]).await.unwrap();
            let size = stream.read_u32().await.unwrap() as usize;
            stream.read_exact(&mut vec![0; size]).await.unwrap();
        }
        let dripping = async {
            for byte in &metadata(1)[..200] {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = dripping => panic!("it is still listened to"),
            ended = served => assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Timeout),
        }
    });
}
