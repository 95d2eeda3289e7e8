use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{BrokerConfig, Context};
use crate::native::files::FileDevice;
use crate::native::{LocalBroker, Location, Runtime};
use crate::protocol::messages::CreateTopicsRequest;
use crate::protocol::messages::create_topics::CreatableTopic;
use crate::transport::{Embedded, Runner};

/// A device that is slow.
#[derive(Debug)]
struct Late;

impl Runner for Late {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            job();
        });
    }
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn directory_is_free_when_the_broker_is_closed_whatever_was_under_way() {
    let directory = Directory(std::env::temp_dir().join(format!("ottla-closed-{}", std::process::id())));
    let runtime = Runtime::new().unwrap();
    for _ in 0..3 {
        let device = Arc::new(FileDevice::open(&directory.0).unwrap());
        let broker = Embedded::open(device, BrokerConfig::default(), runtime.clock(), Arc::new(Late), 1).unwrap();
        let topic = CreatableTopic {
            name: "t".to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..CreateTopicsRequest::default() };
        let _waits = broker.call(&Context { version: 7, ..Context::default() }, request.into());
        broker.close().unwrap();
    }
}

#[test]
fn directory_that_was_just_closed_is_waited_for() {
    let directory = Directory(std::env::temp_dir().join(format!("ottla-reopened-{}", std::process::id())));
    let runtime = Runtime::new().unwrap();
    let open = || LocalBroker::open(&runtime, Location::Directory(directory.0.clone()), BrokerConfig::default());
    let first = open().unwrap();
    first.close().unwrap();
    // Somebody still reads what was fetched, say.
    let held = FileDevice::open(&directory.0).unwrap();
    let let_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    let second = open().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    let_go.join().unwrap();
    drop(first);
    second.embedded().cluster_id().expect("it is open");
    second.close().unwrap();
}
