//! Restores to log directories in memory, undisturbed and disturbed.

use std::sync::Arc;

use futures::executor::block_on;

use super::*;
use crate::backup::objects::MemoryObjects;
use crate::backup::{BackupOptions, Repository, backup};
use crate::replication::tests::MemoryCluster;
use crate::storage::memory::{Loss, MemoryDevice};

const NOW: Timestamp = 1_700_000_000_000;

fn source(cluster: &MemoryCluster) -> SnapshotSource {
    block_on(async {
        let id = Uuid::from_u128(1);
        let repository = Repository::open_or_create(Arc::new(MemoryObjects::default()), id, NOW).await.unwrap();
        let options = BackupOptions { object_bytes: 700, ..BackupOptions::default() };
        let made = backup(cluster, &repository, &options, &crate::clock::ManualClock::new(NOW), &|_| {}).await.unwrap();
        SnapshotSource::open(repository, made.snapshot, &Selection::all()).await.unwrap()
    })
}

fn formatted(cluster_id: &str) -> MemoryDevice {
    let device = MemoryDevice::durable();
    let text = format!("#comment\nversion=1\nnode.id=0\ncluster.id={cluster_id}\n");
    device.replace(META_PROPERTIES, text.as_bytes()).unwrap();
    device
}

fn restore_to(
    device: &MemoryDevice,
    source: &SnapshotSource,
    options: &DirectoryOptions,
) -> Result<(Vec<Planned>, Option<Restored>)> {
    let devices: [Arc<dyn Device>; 1] = [Arc::new(device.clone())];
    block_on(restore_directories(source, &devices, options, NOW, u64::MAX, &|_| {}))
}

fn stored(device: &MemoryDevice, partition: usize) -> Vec<u8> {
    let dir = format!("orders-{partition}/");
    let files = device.files().into_iter().filter(|(path, _)| path.starts_with(&dir) && path.ends_with(".log"));
    files.flat_map(|(_, bytes)| bytes.to_vec()).collect()
}

fn is_whole(device: &MemoryDevice, cluster: &MemoryCluster) -> bool {
    let logs = cluster.logs("orders");
    (0..logs.len()).all(|partition| stored(device, partition) == logs[partition].bytes())
}

#[test]
fn a_new_disk_gets_the_logs_with_their_epochs_and_ids() {
    let cluster = MemoryCluster::with_orders();
    cluster.lock().log("orders", 1).set_start(6);
    let (device, source) = (formatted("a-cluster"), source(&cluster));
    let (planned, restored) = restore_to(&device, &source, &DirectoryOptions::default()).unwrap();
    assert_eq!((planned.len(), restored.unwrap().copied.records()), (2, 19));
    assert!(is_whole(&device, &cluster));
    let text = |path: &str| String::from_utf8(device.read(path).unwrap().to_vec()).unwrap();
    assert_eq!(text("orders-0/partition.metadata"), "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAABw\n");
    assert_eq!(text("orders-0/leader-epoch-checkpoint"), "0\n2\n0 0\n2 8\n");
    assert_eq!(text(LOG_STARTS), "0\n1\norders 1 6\n");
    assert_eq!(text(HIGH_WATERMARKS), "0\n2\norders 0 12\norders 1 12\n");
    assert_eq!(text(RECOVERY_POINTS), text(HIGH_WATERMARKS));
    assert_eq!(text(CLEANER_OFFSETS), "0\n0\n");

    // Nothing is lacking then; and what comes later is all that is brought.
    let (planned, _) = restore_to(&device, &source, &DirectoryOptions::default()).unwrap();
    assert!(planned.iter().all(|plan| plan.start == plan.end && plan.bytes == 0), "{planned:?}");
    cluster.lock().log("orders", 1).append(2, 6, 10);
    let (_, restored) = restore_to(&device, &self::source(&cluster), &DirectoryOptions::default()).unwrap();
    assert_eq!(restored.unwrap().copied.records(), 6);
    assert!(is_whole(&device, &cluster));
}

#[test]
fn what_the_snapshot_has_not_is_given_up_only_if_that_is_said() {
    let cluster = MemoryCluster::with_orders();
    let (device, source) = (formatted("a-cluster"), source(&cluster));
    cluster.lock().log("orders", 0).append(3, 2, 10);
    restore_to(&device, &self::source(&cluster), &DirectoryOptions::default()).unwrap();
    let before = device.files();
    let error = restore_to(&device, &source, &DirectoryOptions::default()).unwrap_err();
    assert!(error.message().contains("--force"), "{error}");
    assert!(error.message().contains("partition=orders-0"), "{error}");
    let logs = |files: BTreeMap<String, bytes::Bytes>| -> Vec<_> {
        files.into_iter().filter(|(path, _)| path.ends_with(".log")).collect()
    };
    assert_eq!(logs(device.files()), logs(before));
    let force = DirectoryOptions { force: true, ..DirectoryOptions::default() };
    restore_to(&device, &source, &force).unwrap();
    assert_eq!(stored(&device, 0), source_bytes(&cluster, 12));
}

/// The batches of partition 0 below an offset.
fn source_bytes(cluster: &MemoryCluster, end: i64) -> Vec<u8> {
    let log = cluster.logs("orders").swap_remove(0);
    log.batches.iter().filter(|batch| batch.base_offset() < end).flat_map(|batch| batch.as_bytes().to_vec()).collect()
}

#[test]
fn directories_that_are_not_the_brokers_are_refused_before_anything_is_written() {
    let cluster = MemoryCluster::with_orders();
    let source = source(&cluster);
    let refused = |device: &MemoryDevice, options: &DirectoryOptions, what: &str| {
        let before = device.files();
        let error = restore_to(device, &source, options).unwrap_err();
        assert!(error.message().contains(what), "{error}");
        assert_eq!(device.files(), before);
    };
    let default = DirectoryOptions::default();
    refused(&MemoryDevice::durable(), &default, "format it first");
    refused(&formatted("another-cluster"), &default, "the backup is of another one");
    let broker = DirectoryOptions { broker: Some(7), ..DirectoryOptions::default() };
    refused(&formatted("a-cluster"), &broker, "wanted=7 found=0");
    let device = formatted("a-cluster");
    write_topic_id(&device, "orders-1", Uuid::from_u128(99)).unwrap();
    refused(&device, &default, "directory=orders-1");
    let devices: [Arc<dyn Device>; 1] = [Arc::new(formatted("a-cluster"))];
    let error = block_on(restore_directories(&source, &devices, &default, NOW, 10, &|_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let dry = DirectoryOptions { dry_run: true, ..DirectoryOptions::default() };
    let device = formatted("a-cluster");
    let before = device.files();
    assert_eq!(restore_to(&device, &source, &dry).unwrap().0.len(), 2);
    assert_eq!(device.files(), before);
}

#[test]
fn wherever_the_power_goes_a_second_run_brings_the_rest() {
    let cluster = MemoryCluster::with_orders();
    let source = source(&cluster);
    let device = formatted("a-cluster");
    let begun = device.operations();
    restore_to(&device, &source, &DirectoryOptions::default()).unwrap();
    let operations = device.operations() - begun;
    assert!(operations > 20);
    for operation in 0..operations {
        for loss in [Loss::Nothing, Loss::Torn(operation), Loss::Shuffled(operation)] {
            let device = formatted("a-cluster");
            device.power_off_at(device.operations() + operation);
            restore_to(&device, &source, &DirectoryOptions::default()).unwrap_err();
            let device = device.crash(loss);
            restore_to(&device, &source, &DirectoryOptions::default())
                .unwrap_or_else(|error| panic!("operation {operation} {loss:?}: {error}"));
            assert!(is_whole(&device, &cluster), "operation {operation} {loss:?}");
        }
    }
}
