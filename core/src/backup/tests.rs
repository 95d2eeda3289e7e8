//! Backups of clusters in memory to repositories in memory, undisturbed and disturbed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use uuid::Uuid;

use super::manifest::*;
use super::objects::{Fault, Listed, MemoryObjects, ObjectStore, Put, conformance};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::replication::tests::{MemoryCluster, MemoryLogs};
use crate::replication::{Acl, ClusterSettings, CommittedOffset, Hole, Quota, ScramUser};
use crate::{Error, ErrorKind};

const ID: Uuid = Uuid::from_u128(0x0077_1a00);

/// A repository in memory and what is around it.
struct Bench {
    /// Whether the repository is encrypted.
    is_encrypted: bool,
    objects: MemoryObjects,
    clock: ManualClock,
    /// Small, so that a few batches make an object.
    object_bytes: usize,
}

impl Bench {
    fn new(is_encrypted: bool) -> Self {
        Self {
            is_encrypted,
            objects: MemoryObjects::default(),
            clock: ManualClock::new(1_700_000_000_000),
            object_bytes: 700,
        }
    }

    fn repository(&self) -> Result<Repository> {
        let (store, now) = (Arc::new(self.objects.clone()), 1_700_000_000_000);
        if !self.is_encrypted {
            return block_on(Repository::open_or_create(store, ID, now));
        }
        // A recipient, because passphrases take their time.
        let identity = alice();
        let lock = Lock::Recipient(identity.recipient());
        block_on(Repository::unlock_or_create(store, &[Secret::Identity(identity)], ID, now, &lock, &[7; 32]))
    }

    fn options(&self) -> BackupOptions {
        BackupOptions { object_bytes: self.object_bytes, ..BackupOptions::default() }
    }

    fn backup_with(&self, cluster: &MemoryCluster, options: &BackupOptions) -> Result<Backup> {
        let repository = self.repository()?;
        block_on(backup(cluster, &repository, options, &self.clock, &|_| {}))
    }

    /// Backs up, an hour after the last time.
    fn backup(&self, cluster: &MemoryCluster) -> Result<Backup> {
        self.clock.advance(Duration::from_secs(3_600));
        self.backup_with(cluster, &self.options())
    }

    fn source(&self, snapshot: &str) -> Result<SnapshotSource> {
        let repository = self.repository()?;
        block_on(async {
            let snapshot = repository.find_snapshot(snapshot).await?;
            SnapshotSource::open(repository, snapshot, &Selection::all()).await
        })
    }

    fn restore(&self, snapshot: &str, logs: &MemoryLogs) -> Result<Restored> {
        block_on(restore(&self.source(snapshot)?, logs, &RestoreOptions::default(), &|_| {}))
    }

    fn check(&self, read_data: bool) -> Result<CheckReport> {
        block_on(check(&self.repository()?, CheckOptions { read_data, ..CheckOptions::default() }))
    }

    /// The path, the stored bytes and the body of each object.
    fn bodies(&self) -> Vec<(String, Bytes, Bytes)> {
        let repository = self.repository().unwrap();
        let contents = self.objects.contents().into_iter().filter(|(path, _)| path.starts_with("objects/"));
        contents
            .map(|(path, stored)| {
                let name = Digest::from_hex(path.rsplit('/').next().unwrap()).unwrap();
                let body = repository.open_body(name, stored.clone()).unwrap();
                (path, stored, body)
            })
            .collect()
    }

    fn paths(&self) -> BTreeSet<String> {
        self.objects.contents().into_keys().collect()
    }
}

/// A pair that other implementations of age have in their tests.
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn alice() -> AgeIdentity {
    IDENTITY.parse().unwrap()
}

fn commit(cluster: &MemoryCluster, group: &str, partition: i32, offset: i64) {
    let partition = TopicPartition::new("orders", partition);
    let committed = CommittedOffset { partition, offset, leader_epoch: 0, metadata: format!("where {group} is") };
    cluster.lock().groups.push(GroupOffsets { group: group.to_owned(), kind: String::new(), offsets: vec![committed] });
}

#[test]
fn objects_in_memory_conform() {
    block_on(conformance(&MemoryObjects::default())).unwrap();
}

#[test]
fn an_incremental_snapshot_shares_what_has_not_changed() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        let full = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert_eq!((full.extent, full.parent), (Extent::Full, None));
        assert_eq!((full.totals.topics, full.totals.partitions, full.totals.records), (1, 2, 24));
        assert_eq!(full.costs.new_records, 24);

        let before = bench.paths();
        cluster.lock().log("orders", 1).append(2, 6, 10);
        let second = bench.backup(&cluster).unwrap();
        let manifest = &second.snapshot.manifest;
        assert_eq!(manifest.extent, Extent::Incremental);
        assert_eq!((manifest.totals.records, manifest.costs.new_records, manifest.costs.new_objects), (30, 6, 1));
        assert_eq!(manifest.costs.shared_bytes, full.totals.bytes);
        // An object; its partition, its topic, the list of topics; the snapshot.
        let new: Vec<String> = bench.paths().difference(&before).map(|path| path[..4].to_owned()).collect();
        assert_eq!(new, ["mani", "mani", "mani", "obje", "snap"]);

        let before = bench.paths();
        cluster.lock().reads.clear();
        let third = bench.backup(&cluster).unwrap();
        assert_eq!(third.snapshot.manifest.parent, Some(second.snapshot.id.name));
        assert_eq!(third.snapshot.manifest.costs.manifest_bytes, 0);
        assert_eq!(bench.paths().difference(&before).count(), 1, "nothing but the snapshot");
        assert_eq!(cluster.lock().reads, [], "nothing is read when nothing is new");
        assert!(bench.check(true).unwrap().is_sound());
    }
}

#[test]
fn an_object_is_a_segment() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let bodies: Vec<Bytes> = bench.bodies().into_iter().map(|(_, _, body)| body).collect();
        for log in cluster.logs("orders") {
            let log = log.bytes();
            // In order, whole batches, nothing between.
            let mut rest = &log[..];
            while !rest.is_empty() {
                let body = bodies.iter().find(|body| rest.starts_with(body)).expect("an object continues the log");
                assert!(body.len() < 1_500);
                rest = &rest[body.len()..];
            }
        }
    }
}

#[test]
fn a_restored_log_is_the_source_byte_for_byte_and_groups_go_on() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        commit(&cluster, "billing", 0, 7);
        bench.backup(&cluster).unwrap();
        let logs = MemoryLogs::default();
        let restored = bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        assert_eq!(restored.copied.records(), 24);
        {
            let inner = logs.inner.lock().unwrap();
            assert_eq!(inner.promoted, ["orders"]);
            let (topic, _) = &inner.topics["orders"];
            assert_eq!((topic.id, &topic.config), (Uuid::from_u128(7), &cluster.lock().topics["orders"].0.config));
            let offset = &inner.groups[0].offsets[0];
            assert_eq!((offset.offset, offset.leader_epoch, offset.metadata.as_str()), (7, -1, "where billing is"));
        }
        // Again, and from a later snapshot: only what is new.
        assert_eq!(bench.restore("latest", &logs).unwrap().copied.bytes(), 0);
        cluster.lock().log("orders", 0).append(3, 5, 10);
        bench.backup(&cluster).unwrap();
        assert_eq!(bench.restore("latest", &logs).unwrap().copied.records(), 5);
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn a_target_with_other_records_is_refused_before_anything_is_written() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let first = block_on(bench.repository().unwrap().snapshot_ids()).unwrap()[0];
        cluster.lock().log("orders", 0).append(3, 5, 10);
        bench.backup(&cluster).unwrap();
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        let calls = logs.inner.lock().unwrap().calls;
        let error = bench.restore(&first.to_string(), &logs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("orders-0"), "{error}");
        assert_eq!(logs.inner.lock().unwrap().calls, calls);
    }
}

/// Backs up `cluster` twice, with more produced between, into a repository whose call `at` fails; runs again what failed.
fn disturbed(is_encrypted: bool, fault: Option<(u64, Fault)>) -> (Bench, u64) {
    let bench = Bench::new(is_encrypted);
    let cluster = MemoryCluster::with_orders();
    commit(&cluster, "billing", 1, 3);
    if let Some((at, fault)) = fault {
        bench.objects.fail_at(at, fault);
    }
    for round in 0..2 {
        if let Err(error) = bench.backup(&cluster) {
            assert!(matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Denied), "{error}");
            bench.objects.heal();
            bench.backup_with(&cluster, &bench.options()).unwrap();
        }
        if round == 0 {
            cluster.lock().log("orders", 0).append(2, 9, 300);
            cluster.lock().log("orders", 1).append(4, 1, 3_000);
        }
    }
    let calls = bench.objects.calls();
    bench.objects.heal();
    (bench, calls)
}

#[test]
fn a_backup_that_is_disturbed_anywhere_ends_as_one_that_is_not() {
    for is_encrypted in [false, true] {
        let (undisturbed, calls) = disturbed(is_encrypted, None);
        let expected = undisturbed.objects.contents();
        assert!(calls > 30);
        for fault in [Fault::Gone, Fault::Refused, Fault::AnswerLost, Fault::Forbidden] {
            for at in 0..calls {
                let (bench, _) = disturbed(is_encrypted, Some((at, fault)));
                let found = bench.objects.contents();
                let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), expected.keys().collect());
                assert_eq!(found, expected, "{fault:?} at {at}");
                assert!(bench.check(true).unwrap().is_sound());
            }
        }
    }
}

#[test]
fn what_an_interrupted_backup_has_put_is_not_read_again() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::new());
        cluster.lock().add_topic("orders", 7, 1);
        for _ in 0..40 {
            cluster.lock().log("orders", 0).append(0, 10, 10_000);
        }
        bench.repository().unwrap();
        // Fails in the middle, after which what was put is written down.
        cluster.lock().spoil = Some(|_, bytes| match bytes.first_chunk().map(|offset| i64::from_be_bytes(*offset)) {
            Some(offset) if offset > 50 => Bytes::from(vec![0; 100]),
            _ => bytes,
        });
        bench.clock.advance(Duration::from_millis(1));
        bench.backup(&cluster).unwrap_err();
        assert!(bench.paths().iter().any(|path| path.starts_with("pending/")));
        let objects = bench.paths().iter().filter(|path| path.starts_with("objects/")).count();
        assert!(objects > 5);

        cluster.lock().spoil = None;
        cluster.lock().reads.clear();
        let made = bench.backup(&cluster).unwrap();
        let first = cluster.lock().reads[0].1;
        assert!(first > 50, "begins where the interrupted run had come to, not at {first}");
        assert_eq!(made.snapshot.manifest.extent, Extent::Full);
        assert_eq!(made.snapshot.manifest.costs.new_records, 400);
        assert!(!bench.paths().iter().any(|path| path.starts_with("pending/")));
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn a_restore_that_stops_at_any_call_goes_on_where_it_was() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        commit(&cluster, "billing", 0, 7);
        bench.backup(&cluster).unwrap();
        let whole = MemoryLogs::default();
        bench.restore("latest", &whole).unwrap();
        let calls = whole.inner.lock().unwrap().calls;
        for at in 0..calls {
            let logs = MemoryLogs::default();
            logs.inner.lock().unwrap().fail_at = Some(at);
            bench.restore("latest", &logs).unwrap_err();
            logs.inner.lock().unwrap().fail_at = None;
            bench.restore("latest", &logs).unwrap();
            assert_eq!(logs.logs("orders"), cluster.logs("orders"), "stopped at call {at}");
            assert_eq!(logs.inner.lock().unwrap().groups, whole.inner.lock().unwrap().groups);
        }
    }
}

#[test]
fn every_flipped_bit_is_harmless_or_named() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        commit(&cluster, "billing", 0, 7);
        bench.backup(&cluster).unwrap();
        cluster.lock().log("orders", 0).append(2, 1, 10);
        bench.backup(&cluster).unwrap();
        let contents = bench.objects.contents();
        let whole = MemoryLogs::default();
        bench.restore("latest", &whole).unwrap();
        for (path, bytes) in &contents {
            for at in (0..bytes.len()).step_by(31) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << (at % 8);
                bench.objects.overwrite(path, Bytes::from(damaged));
                match bench.check(true) {
                    Ok(report) => {
                        assert!(!report.is_sound(), "{path} byte {at}");
                        assert!(report.problems.iter().all(|problem| problem.message.contains("path=")), "{report:?}");
                    }
                    // The repository's own manifest.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{path} byte {at}"),
                }
                let logs = MemoryLogs::default();
                match bench.restore("latest", &logs) {
                    Ok(_) => assert_eq!(logs.logs("orders"), whole.logs("orders"), "{path} byte {at}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{path} byte {at}"),
                }
            }
            bench.objects.overwrite(path, bytes.clone());
        }
        assert!(bench.check(true).unwrap().is_sound());
    }
}

#[test]
fn a_damaged_object_names_topic_partition_and_offsets_and_the_rest_is_restored() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let second_batch = cluster.logs("orders")[1].batches[2].as_bytes().clone();
        let (path, bytes, _) = bench.bodies().into_iter().find(|(_, _, body)| body.ends_with(&second_batch)).unwrap();
        block_on(bench.objects.delete(&path)).unwrap();
        let report = bench.check(false).unwrap();
        let [problem] = &report.problems[..] else { panic!("one problem: {report:?}") };
        assert_eq!(problem.partition, Some(TopicPartition::new("orders", 1)));
        let offsets = problem.offsets.clone().unwrap();
        assert_eq!(offsets.end, 12);
        assert_eq!(problem.snapshots.len(), 1);

        let logs = MemoryLogs::default();
        let error = bench.restore("latest", &logs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let expected = format!("partition=orders-1 offsets={}..12", offsets.start);
        assert!(error.to_string().contains(&expected), "{error}");
        assert_eq!(logs.logs("orders")[0], cluster.logs("orders")[0]);

        bench.objects.overwrite(&path, bytes.slice(1..));
        assert!(!bench.check(false).unwrap().is_sound(), "sizes are compared without reading");
        bench.objects.overwrite(&path, bytes);
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn a_manifest_in_anothers_place_is_refused() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let manifests: Vec<(String, Bytes)> =
            bench.objects.contents().into_iter().filter(|(path, _)| path.starts_with("manifests/")).collect();
        for (path, bytes) in &manifests {
            for (_, other) in manifests.iter().filter(|(other, _)| other != path) {
                bench.objects.overwrite(path, other.clone());
                assert!(!bench.check(false).unwrap().is_sound());
            }
            bench.objects.overwrite(path, bytes.clone());
        }
    }
}

#[test]
fn a_recreated_topic_is_read_anew_and_said_so() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        cluster.lock().add_topic("orders", 8, 1);
        cluster.lock().log("orders", 0).append(0, 50, 10);
        let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert_eq!(manifest.totals.records, 50);
        assert!(manifest.notes[0].text.contains("recreated"), "{:?}", manifest.notes);
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn another_history_is_read_anew_from_where_it_parts() {
    for is_encrypted in [false, true] {
        for epochs_tell in [true, false] {
            let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
            bench.backup(&cluster).unwrap();
            {
                let mut inner = cluster.lock();
                let log = inner.log("orders", 0);
                log.batches.truncate(2);
                log.end = 8;
                // With the same epoch and offsets, only the last batch's checksum tells.
                let epoch = if epochs_tell { 5 } else { 2 };
                log.append_seeded(epoch, 4, 0, 9);
                log.append_seeded(epoch, 4, 0, 9);
            }
            let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
            assert!(manifest.notes[0].text.contains("another"), "{:?}", manifest.notes);
            let logs = MemoryLogs::default();
            bench.restore("latest", &logs).unwrap();
            assert_eq!(logs.logs("orders"), cluster.logs("orders"), "epochs tell: {epochs_tell}");
            // The first snapshot is what it was.
            let report = bench.check(true).unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
    }
}

#[test]
fn what_retention_took_leaves_the_next_snapshot_unless_history_is_kept() {
    for is_encrypted in [false, true] {
        for keep_history in [false, true] {
            let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
            let options = BackupOptions { keep_history, object_bytes: 1, ..BackupOptions::default() };
            bench.backup_with(&cluster, &options).unwrap();
            cluster.lock().log("orders", 0).set_start(8);
            bench.clock.advance(Duration::from_millis(1));
            let manifest = bench.backup_with(&cluster, &options).unwrap().snapshot.manifest;
            assert_eq!(manifest.totals.records, if keep_history { 24 } else { 16 });
            let logs = MemoryLogs::default();
            bench.restore("latest", &logs).unwrap();
            assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        }
    }
}

#[test]
fn offsets_the_source_no_longer_had_are_recorded_as_a_hole() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        let options = BackupOptions { keep_history: true, ..bench.options() };
        bench.backup_with(&cluster, &options).unwrap();
        for _ in 0..2 {
            cluster.lock().log("orders", 1).append(2, 10, 10);
        }
        cluster.lock().log("orders", 1).set_start(22);
        bench.clock.advance(Duration::from_millis(1));
        let made = bench.backup_with(&cluster, &options).unwrap();
        let text = &made.snapshot.manifest.notes[0].text;
        assert!(text.contains("12..22"), "{text}");
        let source = bench.source("latest").unwrap();
        let topic = &source.manifests()["orders"];
        let partition = block_on(bench.repository().unwrap().partition(
            &topic.partitions[1],
            &TopicPartition::new("orders", 1),
            topic.topic_id,
        ));
        assert_eq!(partition.unwrap().holes, [Hole { start: 12, end: 22 }]);
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn groups_are_never_ahead_of_the_data() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        commit(&cluster, "ahead", 0, 99);
        commit(&cluster, "behind", 1, 2);
        let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert!(manifest.notes[0].text.contains("ahead"), "{:?}", manifest.notes);
        let groups = block_on(bench.source("latest").unwrap().groups()).unwrap().groups;
        let offsets: Vec<i64> = groups.iter().map(|group| group.offsets[0].offset).collect();
        assert_eq!(offsets, [12, 2]);
    }
}

#[test]
fn many_objects_move_to_pages_and_come_back() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::new());
        cluster.lock().add_topic("orders", 7, 1);
        let options = BackupOptions { object_bytes: 1, ..BackupOptions::default() };
        let mut known = 0;
        for _ in 0..3 {
            for _ in 0..300 {
                cluster.lock().log("orders", 0).append(0, 2, 1);
            }
            bench.clock.advance(Duration::from_millis(1));
            let manifest = bench.backup_with(&cluster, &options).unwrap().snapshot.manifest;
            assert_eq!(manifest.costs.new_objects, 300);
            known += 600;
            assert_eq!(manifest.totals.records, known);
        }
        let source = bench.source("latest").unwrap();
        let topic = &source.manifests()["orders"];
        let partition = TopicPartition::new("orders", 0);
        let manifest =
            block_on(bench.repository().unwrap().partition(&topic.partitions[0], &partition, topic.topic_id));
        let manifest = manifest.unwrap();
        assert_eq!((manifest.pages.len(), manifest.objects.len()), (1, 900 - PAGE_OBJECTS));
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));

        // A history that parts within the page takes it up again.
        {
            let mut inner = cluster.lock();
            let log = inner.log("orders", 0);
            log.batches.truncate(100);
            log.end = 200;
            log.append_seeded(3, 5, 10, 9);
        }
        bench.clock.advance(Duration::from_millis(1));
        bench.backup_with(&cluster, &options).unwrap();
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn what_the_cluster_keeps_besides_is_in_the_snapshot() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    assert_eq!(bench.backup(&cluster).unwrap().snapshot.manifest.cluster, None, "there is nothing to tell");
    let acl = |name: &str| Acl {
        resource_type: 2,
        resource_name: name.to_owned(),
        pattern_type: 3,
        principal: "User:alice".to_owned(),
        host: "*".to_owned(),
        operation: 3,
        permission_type: 3,
    };
    let settings = ClusterSettings {
        acls: vec![acl("orders"), acl("payments")],
        scram_users: vec![ScramUser { user: "alice".to_owned(), mechanism: 2, iterations: 4_096 }],
        quotas: vec![Quota {
            entity: vec![("user".to_owned(), None), ("client-id".to_owned(), Some("web".to_owned()))],
            name: "producer_byte_rate".to_owned(),
            value: "1048576.5".to_owned(),
        }],
        unreadable: vec!["nothing of the sort".to_owned()],
    };
    cluster.lock().settings = settings.clone();
    let first = bench.backup(&cluster).unwrap().snapshot.manifest;
    assert_eq!(block_on(bench.source("latest").unwrap().settings()).unwrap(), settings);
    assert_eq!(bench.backup(&cluster).unwrap().snapshot.manifest.cluster, first.cluster, "it is shared");
    assert!(bench.check(true).unwrap().is_sound());
}

#[test]
fn a_cut_is_moved_past_the_end_of_a_transaction_that_another_partition_has() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::new());
    cluster.lock().add_topic("orders", 7, 3);
    let (both, other) = ((41, 3), (42, 0));
    {
        let mut inner = cluster.lock();
        for partition in [0, 1] {
            inner.log("orders", partition).append(0, 2, 10);
            inner.log("orders", partition).append_transactional(both, 2);
        }
        // When the ends are asked for, its end is in partition 0 alone, and another one is open in partition 2.
        inner.log("orders", 0).end_transaction(both);
        inner.log("orders", 1).last_stable = Some(2);
        inner.log("orders", 2).append_transactional(other, 1);
        inner.log("orders", 2).last_stable = Some(0);
        inner.before_read = Some(|inner| {
            let log = inner.log("orders", 1);
            if log.last_stable.take().is_some() {
                log.end_transaction((41, 3));
                // What was produced while the backup ran is left for the next one.
                log.append(0, 1, 10);
                log.last_stable = Some(5);
            }
        });
    }
    let made = bench.backup(&cluster).unwrap();
    let source = bench.source("latest").unwrap();
    let partitions: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new("orders", partition)).collect();
    let bounds = block_on(source.bounds(&partitions, Until::LastStable)).unwrap();
    let ends: Vec<i64> = bounds.into_iter().map(|bounds| bounds.unwrap().end).collect();
    assert_eq!(ends, [5, 5, 0], "whole in both, and not there where it is not over");
    let copied: Vec<(i64, i64)> = made.partitions.iter().map(|copied| (copied.start, copied.end)).collect();
    assert_eq!(copied, [(0, 5), (0, 5), (0, 0)]);
    assert_eq!(made.snapshot.manifest.notes, []);
    assert!(bench.check(true).unwrap().is_sound());
}

#[test]
fn two_backups_at_once_are_both_right() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        let repository = bench.repository().unwrap();
        let options = bench.options();
        let (clock, quiet) = (bench.clock.clone(), |_: &Progress| {});
        let (first, second) = block_on(futures::future::join(
            backup(&cluster, &repository, &options, &clock, &quiet),
            backup(&cluster, &repository, &options, &clock, &quiet),
        ));
        assert_eq!(first.unwrap().snapshot.manifest.totals, second.unwrap().snapshot.manifest.totals);
        assert!(bench.check(true).unwrap().is_sound());
    }
}

#[test]
fn a_topic_that_a_smaller_backup_left_out_is_still_known() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        cluster.lock().add_topic("payments", 9, 1);
        cluster.lock().log("payments", 0).append(0, 5, 5);
        bench.backup(&cluster).unwrap();
        bench.clock.advance(Duration::from_millis(1));
        let one = BackupOptions { topics: "payments".parse().unwrap(), ..bench.options() };
        bench.backup_with(&cluster, &one).unwrap();
        let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert_eq!((manifest.totals.topics, manifest.costs.new_records), (2, 0));
    }
}

#[test]
fn a_damaged_parent_costs_space_and_not_the_backup() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let snapshot = bench.paths().into_iter().find(|path| path.starts_with("snapshots/")).unwrap();
        bench.objects.overwrite(&snapshot, Bytes::from_static(b"?"));
        let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert_eq!(manifest.extent, Extent::Full);
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn a_missing_topic_is_no_success() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        let options = BackupOptions { topics: "orders,absent".parse().unwrap(), ..bench.options() };
        let error = bench.backup_with(&cluster, &options).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "no such topic topic=absent"));
        bench.backup(&cluster).unwrap();
        let repository = bench.repository().unwrap();
        let latest = block_on(repository.find_snapshot("latest")).unwrap();
        let absent = "absent".parse().unwrap();
        let error = block_on(SnapshotSource::open(repository, latest, &absent)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn what_is_no_repository_says_so() {
    let open = |objects: &MemoryObjects| block_on(Repository::open(Arc::new(objects.clone()))).map_err(|e| e.kind());
    let create =
        |objects: &MemoryObjects| block_on(Repository::create(Arc::new(objects.clone()), ID, 0)).map_err(|e| e.kind());
    let objects = MemoryObjects::default();
    assert_eq!(open(&objects).unwrap_err(), ErrorKind::NotFound);
    create(&objects).unwrap();
    assert_eq!(open(&objects).unwrap().id(), ID);
    assert_eq!(create(&objects).unwrap_err(), ErrorKind::AlreadyExists);

    let strange = MemoryObjects::default();
    strange.overwrite("holiday.jpg", Bytes::new());
    assert_eq!(create(&strange).unwrap_err(), ErrorKind::Invalid);

    let mut newer = RepositoryManifest::decode(&{
        let bytes = objects.contents()[repository::REPOSITORY].clone();
        bytes.slice(..bytes.len() - 32)
    })
    .unwrap();
    newer.format = FORMAT + 1;
    let encoded = newer.encode();
    let checksum = Digest::of([encoded.as_slice()]);
    objects.overwrite(repository::REPOSITORY, Bytes::from([encoded.as_slice(), checksum.0.as_slice()].concat()));
    assert_eq!(open(&objects).unwrap_err(), ErrorKind::Unsupported);
}

#[test]
fn a_snapshot_is_found_by_its_first_digits() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
        let repository = bench.repository().unwrap();
        let find =
            |name: &str| block_on(repository.find_snapshot(name)).map(|snapshot| snapshot.id).map_err(|e| e.kind());
        assert_eq!(find("latest"), Err(ErrorKind::NotFound));
        let mut ids = Vec::new();
        for _ in 0..17 {
            ids.push(bench.backup(&cluster).unwrap().snapshot.id);
        }
        assert_eq!(block_on(repository.snapshot_ids()).unwrap(), ids);
        assert_eq!(find("latest"), Ok(ids[16]));
        assert_eq!(find(&ids[3].short()), Ok(ids[3]));
        assert_eq!(find(&ids[3].to_string()), Ok(ids[3]));
        assert_eq!(find(""), Err(ErrorKind::NotFound));
        assert_eq!(find("nothing like it"), Err(ErrorKind::NotFound));
        // Of 17, two begin with the same digit.
        let ambiguous = "0123456789abcdef".chars().filter(|digit| find(&digit.to_string()) == Err(ErrorKind::Invalid));
        assert!(ambiguous.count() > 0);
    }
}

/// A manifest of each kind.
fn manifests() -> Vec<(Kind, Vec<u8>)> {
    let bench = Bench::new(false);
    let cluster = MemoryCluster::with_orders();
    commit(&cluster, "billing", 0, 7);
    cluster.lock().settings.unreadable.push("not for us".to_owned());
    bench.backup(&cluster).unwrap();
    let mut found: Vec<(Kind, Vec<u8>)> = Vec::new();
    for (path, bytes) in bench.objects.contents() {
        let bytes = match path.as_str() {
            repository::REPOSITORY => bytes.slice(..bytes.len() - 32),
            path if path.starts_with("objects/") => continue,
            _ => bytes,
        };
        let header: Header = rmp_serde::from_slice(&bytes).unwrap();
        found.push((header.kind, bytes.to_vec()));
    }
    let (_, partition) = found.iter().find(|(kind, _)| *kind == Kind::Partition).unwrap();
    let partition = PartitionManifest::decode(partition).unwrap();
    let page = PageManifest {
        format: FORMAT,
        kind: Kind::Page,
        topic: partition.topic.to_string(),
        topic_id: partition.topic_id,
        partition: 0,
        objects: partition.objects.clone(),
    };
    let pending = PendingManifest {
        format: FORMAT,
        kind: Kind::Pending,
        time: 0,
        objects: vec![PendingObject {
            cluster_id: None,
            topic: partition.topic.to_string(),
            topic_id: partition.topic_id,
            partition: 0,
            after: None,
            hole: None,
            object: partition.objects[0].clone(),
        }],
    };
    found.push((Kind::Page, page.encode()));
    found.push((Kind::Pending, pending.encode()));
    let key = KeyManifest {
        argon2: Some(Argon2Cost::default()),
        ..KeyManifest::new(1_700_000_000_000, "alice", KeyAccess::Write)
    };
    found.push((Kind::Key, key.encode()));
    let (objects, manifests) = (vec![Digest([1; 32]), Digest([2; 32])], vec![Digest([3; 32])]);
    let mark = MarkManifest { format: FORMAT, kind: Kind::Mark, time: 5, not_before: 6, objects, manifests };
    found.push((Kind::Mark, mark.encode()));
    let generation = GenerationSecrets {
        created: 0,
        write_key: SecretBytes(zeroize::Zeroizing::new([1; 32])),
        public_key: [2; 32],
        read_key: None,
    };
    let secrets = SecretsManifest { format: FORMAT, kind: Kind::Secrets, generations: vec![generation] };
    found.push((Kind::Secrets, secrets.encode()));
    found
}

fn decode(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, ManifestError> {
    Ok(match kind {
        Kind::Repository => RepositoryManifest::decode(bytes)?.encode(),
        Kind::Snapshot => SnapshotManifest::decode(bytes)?.encode(),
        Kind::Topics => TopicsManifest::decode(bytes)?.encode(),
        Kind::Topic => TopicManifest::decode(bytes)?.encode(),
        Kind::Partition => PartitionManifest::decode(bytes)?.encode(),
        Kind::Page => PageManifest::decode(bytes)?.encode(),
        Kind::Groups => GroupsManifest::decode(bytes)?.encode(),
        Kind::Cluster => ClusterManifest::decode(bytes)?.encode(),
        Kind::Pending => PendingManifest::decode(bytes)?.encode(),
        Kind::Mark => MarkManifest::decode(bytes)?.encode(),
        Kind::Key => KeyManifest::decode(bytes)?.encode(),
        Kind::Secrets => SecretsManifest::decode(bytes)?.encode(),
    })
}

#[test]
fn manifests_of_each_kind_are_read_as_written() {
    let manifests = manifests();
    let kinds: BTreeSet<String> = manifests.iter().map(|(kind, _)| kind.to_string()).collect();
    assert_eq!(kinds.len(), 12);
    for (kind, bytes) in &manifests {
        assert_eq!(decode(*kind, bytes).as_ref(), Ok(bytes), "{kind}");
        for (other, _) in manifests.iter().filter(|(other, _)| other != kind) {
            assert!(matches!(decode(*other, bytes), Err(ManifestError::Kind { .. })), "{kind} as {other}");
        }
    }
}

#[test]
fn a_hostile_manifest_is_an_error_and_no_panic() {
    for (kind, bytes) in manifests() {
        for at in 0..bytes.len() {
            assert!(decode(kind, &bytes[..at]).is_err(), "{kind} cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // A value may be another one, and fine.
                let _ = decode(kind, &flipped);
            }
            // Arrays, maps, strings and byte strings that claim four billion.
            for marker in [0xdd, 0xdf, 0xdb, 0xc6] {
                let mut claims = bytes[..at].to_vec();
                claims.extend_from_slice(&[marker, 0xff, 0xff, 0xff, 0xff]);
                claims.extend_from_slice(&bytes[at..]);
                assert!(decode(kind, &claims).is_err(), "{kind} claims at {at}");
            }
        }
        let longer = [bytes.as_slice(), &[0xc0]].concat();
        assert!(matches!(decode(kind, &longer), Err(ManifestError::Encoding { .. })), "{kind}");
    }
    // A tower of arrays.
    assert!(decode(Kind::Topics, &[0x91; 100_000]).is_err());
}

#[test]
fn a_manifest_that_says_what_cannot_be_is_refused() {
    let (_, bytes) = manifests().into_iter().find(|(kind, _)| *kind == Kind::Partition).unwrap();
    let good = PartitionManifest::decode(&bytes).unwrap();
    assert!(good.objects.len() > 1);
    type Change = fn(&mut PartitionManifest);
    let bad: [(&str, Change); 14] = [
        ("a name that leaves the directory", |manifest| manifest.topic = "../../etc".to_owned()),
        ("a name that is none", |manifest| manifest.topic = "..".to_owned()),
        ("a long name", |manifest| manifest.topic = "x".repeat(250)),
        ("a negative partition", |manifest| manifest.partition = -1),
        ("a negative start", |manifest| manifest.start = -1),
        ("an end before the start", |manifest| manifest.start = manifest.end + 1),
        ("an end before the last object", |manifest| manifest.end -= 1),
        ("objects that overlap", |manifest| manifest.objects[1].start -= 1),
        ("objects out of order", |manifest| manifest.objects.swap(0, 1)),
        ("a huge object", |manifest| {
            manifest.objects[0].bytes = u64::MAX;
            manifest.objects[0].stored_bytes = u64::MAX;
        }),
        ("more batches than fit", |manifest| manifest.objects[0].batches = u64::MAX),
        ("no epochs", |manifest| manifest.objects[0].epochs.clear()),
        ("a last batch elsewhere", |manifest| manifest.objects[0].last.base_offset = i64::MAX),
        ("a hole the wrong way round", |manifest| manifest.holes.push(Hole { start: 5, end: 5 })),
    ];
    for (what, change) in bad {
        let mut manifest = good.clone();
        change(&mut manifest);
        let encoded = rmp_serde::to_vec_named(&manifest).unwrap();
        let refused = PartitionManifest::decode(&encoded);
        assert!(matches!(refused, Err(ManifestError::Content { .. })), "{what}: {refused:?}");
    }
    let mut newer = good;
    newer.format = FORMAT + 1;
    let encoded = rmp_serde::to_vec_named(&newer).unwrap();
    assert_eq!(PartitionManifest::decode(&encoded), Err(ManifestError::Format { found: FORMAT + 1 }));
}

#[test]
fn a_backup_can_be_spawned() {
    for is_encrypted in [false, true] {
        fn is_send<T: Send>(_: &T) {}
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::new());
        let repository = bench.repository().unwrap();
        let options = bench.options();
        let (clock, quiet) = (bench.clock.clone(), |_: &Progress| {});
        is_send(&backup(&cluster, &repository, &options, &clock, &quiet));
        let report = check(&repository, CheckOptions::default());
        is_send(&report);
        let _: Result<(), Error> = block_on(report).map(drop);
    }
}

/// The repositories in `tests/data`, written by the first version of the format. `OTTLA_RECORD=1` writes them anew, which is
/// right only before a format is released.
#[test]
fn repositories_of_format_1_are_written_and_read_as_ever() {
    for (name, is_encrypted) in [("repository-1", false), ("encrypted-1", true)] {
        let directory = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data")).join(name);
        let bench = Bench::new(is_encrypted);
        let cluster = MemoryCluster::with_orders();
        commit(&cluster, "billing", 0, 7);
        bench.backup(&cluster).unwrap();
        if is_encrypted {
            let repository = bench.repository().unwrap();
            let lock = cheap("correct horse");
            block_on(repository.add_key(&lock, KeyAccess::Full, "a passphrase", 0, &[8; 32])).unwrap();
            let secrets = [Secret::Identity(alice()), passphrase("correct horse")];
            block_on(repository.rotate(&secrets, &[], 1_700_000_500_000, &[9; 32])).unwrap();
        }
        cluster.lock().log("orders", 1).append(2, 3, 10);
        bench.backup(&cluster).unwrap();
        let written = bench.objects.contents();
        if std::env::var_os("OTTLA_RECORD").is_some() {
            let _ = std::fs::remove_dir_all(&directory);
            for (path, bytes) in &written {
                let file = directory.join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, bytes).unwrap();
            }
        }
        let recorded = MemoryObjects::default();
        let mut open = vec![directory.clone()];
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(&directory).unwrap().to_str().unwrap().replace('\\', "/");
                    recorded.overwrite(&name, Bytes::from(std::fs::read(&path).unwrap()));
                }
            }
        }
        assert_eq!(recorded.contents(), written);
        let bench = Bench { objects: recorded, ..Bench::new(is_encrypted) };
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

/// The lock of a passphrase that takes no time.
fn cheap(text: &str) -> Lock {
    Lock::Passphrase(passphrase(text), Argon2Cost { memory_kib: 64, passes: 1, lanes: 1, salt: [0; 16] })
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(zeroize::Zeroizing::new(text.to_owned()))
}

fn unlock(bench: &Bench, secrets: &[Secret]) -> Result<Repository> {
    block_on(Repository::unlock(Arc::new(bench.objects.clone()), secrets))
}

#[test]
fn keys_are_noted_as_age_notes_them() {
    assert_eq!(alice().recipient().to_string(), RECIPIENT);
    assert_eq!(RECIPIENT.parse::<AgeRecipient>().unwrap(), alice().recipient());
    let file = format!("# created: today\n# public key: {RECIPIENT}\n\n{IDENTITY}\n");
    assert_eq!(AgeIdentity::parse_file(&file).unwrap()[0].recipient(), alice().recipient());
    let lower = IDENTITY.to_lowercase();
    assert_eq!(lower.parse::<AgeIdentity>().unwrap().recipient(), alice().recipient());
    for bad in ["", "age1", &RECIPIENT[..61], &RECIPIENT.replace('q', "z"), IDENTITY, "ssh-ed25519 AAAA"] {
        assert_eq!(bad.parse::<AgeRecipient>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
    }
    let slip = IDENTITY.replace("GQ9778", "GQ9787");
    let error = slip.parse::<AgeIdentity>().unwrap_err();
    assert!(!error.to_string().contains("GQ9787"), "a secret is not said: {error}");
    assert!(AgeIdentity::parse_file("# nothing\n").is_err());
}

#[test]
fn nothing_that_is_stored_tells_a_name() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    commit(&cluster, "billing", 0, 7);
    bench.backup(&cluster).unwrap();
    let batch = cluster.logs("orders")[0].batches[0].as_bytes().clone();
    for (path, bytes) in bench.objects.contents() {
        for secret in [&b"orders"[..], b"billing", b"retention", b"cluster", &batch[61..]] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{path}");
        }
        let is_open = path == repository::REPOSITORY || path.starts_with("keys/");
        assert!(is_open || bytes[0] == if path.starts_with("objects/") { 2 } else { 1 });
    }
}

#[test]
fn a_wrong_key_says_so_and_a_passphrase_opens() {
    let bench = Bench::new(true);
    let repository = bench.repository().unwrap();
    let cluster = MemoryCluster::with_orders();
    bench.backup(&cluster).unwrap();
    block_on(repository.add_key(&cheap("correct horse"), KeyAccess::Full, "", 5, &[1; 32])).unwrap();
    let opened = unlock(&bench, &[passphrase("battery"), passphrase("correct horse")]).unwrap();
    assert_eq!(block_on(opened.snapshots()).unwrap().len(), 1);
    let error = unlock(&bench, &[passphrase("Correct horse")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().starts_with("wrong key"), "{error}");
    let other = AgeIdentity::parse_file("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0");
    assert_eq!(unlock(&bench, &[Secret::Identity(other.unwrap().remove(0))]).unwrap_err().kind(), ErrorKind::Denied);
    let error = block_on(Repository::open(Arc::new(bench.objects.clone()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("is encrypted"), "{error}");
}

#[test]
fn a_plain_repository_in_an_encrypted_ones_place_is_not_written_to() {
    let bench = Bench::new(false);
    bench.repository().unwrap();
    assert_eq!(unlock(&bench, &[Secret::Identity(alice())]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_key_file_of_another_repository_opens_nothing() {
    let (bench, other) = (Bench::new(true), Bench::new(true));
    bench.repository().unwrap();
    let lock = Lock::Recipient(alice().recipient());
    let id = Uuid::from_u128(2);
    block_on(Repository::create_encrypted(Arc::new(other.objects.clone()), id, 0, &lock, &[1; 32])).unwrap();
    let (path, _) = bench.objects.contents().into_iter().find(|(path, _)| path.starts_with("keys/")).unwrap();
    block_on(bench.objects.delete(&path)).unwrap();
    for (path, bytes) in other.objects.contents().into_iter().filter(|(path, _)| path.starts_with("keys/")) {
        bench.objects.overwrite(&path, bytes);
    }
    assert_eq!(unlock(&bench, &[Secret::Identity(alice())]).unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn a_host_that_only_writes_backs_up_incrementally_and_reads_no_record() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    let repository = bench.repository().unwrap();
    bench.backup(&cluster).unwrap();
    block_on(repository.add_key(&cheap("host"), KeyAccess::Write, "host", 5, &[1; 32])).unwrap();
    let host = unlock(&bench, &[passphrase("host")]).unwrap();
    assert!(!host.can_read());
    cluster.lock().log("orders", 1).append(2, 6, 10);
    let options = bench.options();
    bench.clock.advance(Duration::from_millis(1));
    let made = block_on(backup(&cluster, &host, &options, &bench.clock, &|_| {})).unwrap().snapshot.manifest;
    assert_eq!((made.extent, made.costs.new_records, made.costs.new_objects), (Extent::Incremental, 6, 1));

    let latest = block_on(host.find_snapshot("latest")).unwrap();
    let source = block_on(SnapshotSource::open(host.clone(), latest, &Selection::all())).unwrap();
    let error = block_on(restore(&source, &MemoryLogs::default(), &RestoreOptions::default(), &|_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("only writes"), "{error}");
    assert!(block_on(check(&host, CheckOptions::default())).unwrap().is_sound());
    assert_eq!(
        block_on(check(&host, CheckOptions { read_data: true, ..CheckOptions::default() })).unwrap_err().kind(),
        ErrorKind::Denied
    );
    // Nor can it let itself in.
    let lock = cheap("more");
    let more = block_on(host.add_key(&lock, KeyAccess::Full, "", 5, &[2; 32])).unwrap_err();
    assert_eq!(more.kind(), ErrorKind::Denied);
    assert_eq!(block_on(host.rotate(&[], &[], 5, &[2; 32])).unwrap_err().kind(), ErrorKind::Denied);
    block_on(host.add_key(&lock, KeyAccess::Write, "", 5, &[2; 32])).unwrap();

    let logs = MemoryLogs::default();
    bench.restore("latest", &logs).unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
}

#[test]
fn a_key_that_was_removed_opens_nothing_that_is_written_after_a_rotation() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    let repository = bench.repository().unwrap();
    let leaver = block_on(repository.add_key(&cheap("leaver"), KeyAccess::Full, "", 5, &[1; 32])).unwrap();
    bench.backup(&cluster).unwrap();
    let former = unlock(&bench, &[passphrase("leaver")]).unwrap();
    // Its passphrase is not known to who rotates.
    let error = block_on(repository.rotate(&[Secret::Identity(alice())], &[], 6, &[2; 32])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&leaver.short()), "{error}");
    let found = block_on(repository.find_key(&leaver.short())).unwrap();
    block_on(repository.remove_key(&found)).unwrap();
    let before = bench.paths();
    let rotated = block_on(repository.rotate(&[Secret::Identity(alice())], &[], 6, &[2; 32])).unwrap();
    assert_eq!(rotated.generations().len(), 2);
    let data = |paths: &BTreeSet<String>| paths.iter().filter(|path| !path.starts_with("keys/")).cloned().collect();
    let (before, after): (BTreeSet<String>, BTreeSet<String>) = (data(&before), data(&bench.paths()));
    assert_eq!(before, after, "nothing is written again");
    assert_eq!(unlock(&bench, &[passphrase("leaver")]).unwrap_err().kind(), ErrorKind::Denied);

    cluster.lock().log("orders", 0).append(2, 5, 10);
    let made = bench.backup(&cluster).unwrap();
    assert_eq!(made.snapshot.manifest.extent, Extent::Incremental);
    assert_eq!(block_on(former.snapshot(made.snapshot.id)).unwrap_err().kind(), ErrorKind::Corrupt);
    let ids = block_on(former.snapshot_ids()).unwrap();
    assert!(block_on(former.snapshot(ids[0])).is_ok(), "what it knows it knows");
    let logs = MemoryLogs::default();
    bench.restore("latest", &logs).unwrap();
    assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    assert!(bench.check(true).unwrap().is_sound());
    // The last one stays.
    let last = block_on(rotated.key_files()).unwrap().remove(0);
    assert_eq!(block_on(rotated.remove_key(&last)).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_key_file_that_somebody_put_there_gets_nothing_by_a_rotation() {
    let bench = Bench::new(true);
    let repository = bench.repository().unwrap();
    let host: AgeRecipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
    let lock = Lock::Recipient(host);
    block_on(repository.add_key(&lock, KeyAccess::Write, "host", 5, &[1; 32])).unwrap();
    let secrets = [Secret::Identity(alice())];
    for trusted in [&[][..], &[(host, KeyAccess::Full)], &[(alice().recipient(), KeyAccess::Write)]] {
        let error = block_on(repository.rotate(&secrets, trusted, 6, &[2; 32])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&host.to_string()), "{error}");
    }
    assert_eq!(repository.generations().len(), 1);
    let rotated = block_on(repository.rotate(&secrets, &[(host, KeyAccess::Write)], 6, &[2; 32])).unwrap();
    assert_eq!(rotated.generations().len(), 2);
}

#[test]
fn a_rotation_that_is_disturbed_anywhere_is_done_when_it_is_run_again() {
    let rotate = |fault: Option<(u64, Fault)>| {
        let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
        let repository = bench.repository().unwrap();
        bench.backup(&cluster).unwrap();
        block_on(repository.add_key(&cheap("second"), KeyAccess::Full, "", 5, &[1; 32])).unwrap();
        let secrets = [Secret::Identity(alice()), passphrase("second")];
        let begin = bench.objects.calls();
        if let Some((at, fault)) = fault {
            bench.objects.fail_at(begin + at, fault);
        }
        let first = block_on(repository.rotate(&secrets, &[], 6, &[2; 32]));
        let calls = bench.objects.calls() - begin;
        bench.objects.heal();
        if first.is_err() {
            let repository = unlock(&bench, &secrets[..1]).unwrap();
            block_on(repository.rotate(&secrets, &[], 7, &[3; 32])).unwrap();
        }
        for secret in &secrets {
            let opened = unlock(&bench, std::slice::from_ref(secret)).unwrap();
            assert!(opened.generations().len() >= 2);
            assert_eq!(block_on(opened.key_files()).unwrap().len(), 2, "{fault:?}");
        }
        bench.backup(&cluster).unwrap();
        assert!(bench.check(true).unwrap().is_sound());
        calls
    };
    let calls = rotate(None);
    assert!(calls > 5);
    for fault in [Fault::Gone, Fault::Refused, Fault::AnswerLost, Fault::Forbidden] {
        for at in 0..calls {
            rotate(Some((at, fault)));
        }
    }
}

#[test]
fn a_key_file_that_asks_for_too_much_is_refused() {
    let good = KeyManifest { argon2: Some(Argon2Cost::default()), ..KeyManifest::new(0, "", KeyAccess::Full) };
    assert!(KeyManifest::decode(&good.encode()).is_ok());
    type Change = fn(&mut KeyManifest);
    let bad: [Change; 5] = [
        |key| key.argon2 = Some(Argon2Cost { memory_kib: u32::MAX, ..Argon2Cost::default() }),
        |key| key.argon2 = Some(Argon2Cost { passes: u32::MAX, ..Argon2Cost::default() }),
        |key| key.argon2 = Some(Argon2Cost { lanes: 1_000, ..Argon2Cost::default() }),
        |key| key.argon2 = None,
        |key| key.recipient = Some(RECIPIENT.to_owned()),
    ];
    for change in bad {
        let mut key = good.clone();
        change(&mut key);
        let refused = KeyManifest::decode(&rmp_serde::to_vec_named(&key).unwrap());
        assert!(matches!(refused, Err(ManifestError::Content { .. })), "{key:?}");
    }
}

const HOUR: i64 = 3_600_000;

fn snapshots_at(times: &[i64]) -> Vec<Snapshot> {
    let bench = Bench::new(false);
    let cluster = MemoryCluster::with_orders();
    times.iter().for_each(|time| {
        bench.clock.set(*time);
        bench.backup_with(&cluster, &bench.options()).unwrap();
    });
    block_on(bench.repository().unwrap().snapshots()).unwrap()
}

#[test]
fn rules_keep_the_newest_of_each_period() {
    // Every six hours from 2023-11-14 22:13:20, for forty days.
    let times: Vec<i64> = (0..160).map(|n| 1_700_000_000_000 + n * 6 * HOUR).collect();
    let snapshots = snapshots_at(&times);
    let kept = |rules: KeepRules| -> Vec<usize> {
        let fates = rules.plan(&snapshots).unwrap();
        fates.iter().enumerate().filter(|(_, fate)| fate.is_kept()).map(|(index, _)| index).collect()
    };
    let none = KeepRules::default();
    assert_eq!(none.plan(&snapshots).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(kept(KeepRules { last: 3, ..none }), [157, 158, 159]);
    assert_eq!(kept(KeepRules { last: 1_000, ..none }).len(), 160);
    assert_eq!(kept(KeepRules { hourly: 3, ..none }), [157, 158, 159]);
    // The last is of 2023-12-24, 16:13; the day's newest of those before are of 22:13.
    assert_eq!(kept(KeepRules { daily: 3, ..none }), [152, 156, 159]);
    // Sundays, 22:13.
    assert_eq!(kept(KeepRules { weekly: 3, ..none }), [104, 132, 159]);
    assert_eq!(kept(KeepRules { monthly: 5, ..none }), [64, 159]);
    assert_eq!(kept(KeepRules { yearly: 5, ..none }), [159]);
    assert_eq!(kept(KeepRules { within_ms: 12 * HOUR, ..none }), [157, 158, 159]);
    let both = KeepRules { last: 1, daily: 2, ..none }.plan(&snapshots).unwrap();
    assert_eq!(both[159].kept_by, ["last", "daily"]);
    assert_eq!(both[156].kept_by, ["daily"]);
}

#[test]
fn each_source_and_choice_keeps_its_own() {
    let bench = Bench::new(false);
    let cluster = MemoryCluster::with_orders();
    bench.backup(&cluster).unwrap();
    bench.clock.advance(Duration::from_millis(HOUR as u64));
    let one = BackupOptions { topics: "orders".parse().unwrap(), ..bench.options() };
    bench.backup_with(&cluster, &one).unwrap();
    let snapshots = block_on(bench.repository().unwrap().snapshots()).unwrap();
    let fates = KeepRules { last: 1, ..KeepRules::default() }.plan(&snapshots).unwrap();
    assert!(fates.iter().all(Fate::is_kept));
}

/// Two snapshots, of which the older one, that has a topic alone, is forgotten.
fn forgotten(is_encrypted: bool) -> (Bench, MemoryCluster, MemoryLogs) {
    let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::with_orders());
    cluster.lock().add_topic("payments", 9, 1);
    cluster.lock().log("payments", 0).append(0, 50, 500);
    bench.backup(&cluster).unwrap();
    cluster.lock().topics.remove("payments");
    cluster.lock().log("orders", 0).append(2, 5, 10);
    bench.backup(&cluster).unwrap();
    let whole = MemoryLogs::default();
    bench.restore("latest", &whole).unwrap();
    let repository = bench.repository().unwrap();
    let first = block_on(repository.snapshot_ids()).unwrap()[0];
    block_on(forget(&repository, &[first])).unwrap();
    (bench, cluster, whole)
}

fn prune_at(bench: &Bench, now: i64) -> Result<Pruned> {
    block_on(prune(&bench.repository()?, &PruneOptions::default(), now))
}

#[test]
fn what_nothing_needs_is_marked_first_and_removed_after_a_day() {
    for is_encrypted in [false, true] {
        let (bench, cluster, whole) = forgotten(is_encrypted);
        let before = bench.paths();
        let start = bench.clock.now();
        let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
        let dry = block_on(prune(&bench.repository().unwrap(), &dry, start)).unwrap();
        assert_eq!(bench.paths(), before);
        let marked = prune_at(&bench, start).unwrap();
        assert_eq!((dry.marked, dry.marked_bytes), (marked.marked, marked.marked_bytes));
        assert!(marked.marked > 3 && marked.removed == 0 && marked.due == Some(start + 24 * HOUR), "{marked:?}");
        assert_eq!(bench.paths().difference(&before).count(), 1, "a mark");
        let report = bench.check(true).unwrap();
        assert_eq!((report.unreferenced, report.unreferenced_bytes), (marked.marked, marked.marked_bytes));
        // Too early.
        let again = prune_at(&bench, start + 23 * HOUR).unwrap();
        assert_eq!((again.removed, again.marked), (0, marked.marked));
        let removed = prune_at(&bench, start + 25 * HOUR).unwrap();
        assert_eq!((removed.removed, removed.removed_bytes, removed.marked), (marked.marked, marked.marked_bytes, 0));
        assert_eq!((removed.kept, removed.kept_bytes), (marked.kept, marked.kept_bytes));
        assert_eq!(before.len() as u64 - removed.removed, bench.paths().len() as u64);
        let report = bench.check(true).unwrap();
        assert!(report.is_sound() && report.unreferenced == 0, "{report:?}");
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), whole.logs("orders"));
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

#[test]
fn what_is_needed_again_is_not_removed() {
    let (bench, cluster, _) = forgotten(false);
    let start = bench.clock.now();
    assert!(prune_at(&bench, start).unwrap().marked > 0);
    // The topic is back as it was: the same bytes are put under the same names, which are marked.
    cluster.lock().add_topic("payments", 9, 1);
    cluster.lock().log("payments", 0).append(0, 50, 500);
    bench.backup(&cluster).unwrap();
    let removed = prune_at(&bench, start + 25 * HOUR).unwrap();
    assert!(bench.check(true).unwrap().is_sound(), "{removed:?}");
    let logs = MemoryLogs::default();
    bench.restore("latest", &logs).unwrap();
    assert_eq!(logs.logs("payments"), cluster.logs("payments"));
}

#[test]
fn a_backup_does_not_commit_what_is_about_to_be_removed() {
    let (bench, cluster, _) = forgotten(false);
    let start = bench.clock.now();
    prune_at(&bench, start).unwrap();
    cluster.lock().add_topic("payments", 9, 1);
    cluster.lock().log("payments", 0).append(0, 50, 500);
    bench.clock.set(start + 30 * HOUR);
    let error = bench.backup(&cluster).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(error.to_string().contains("ottla prune"), "{error}");
    prune_at(&bench, start + 31 * HOUR).unwrap();
    bench.backup(&cluster).unwrap();
    assert!(bench.check(true).unwrap().is_sound());
    // What shares nothing of it is not held up.
    let (bench, cluster, _) = forgotten(false);
    prune_at(&bench, start).unwrap();
    bench.clock.set(start + 30 * HOUR);
    bench.backup(&cluster).unwrap();
}

#[test]
fn a_prune_that_is_disturbed_anywhere_is_done_when_it_is_run_again() {
    let run = |fault: Option<(u64, Fault)>| {
        let (bench, cluster, _) = forgotten(true);
        let start = bench.clock.now();
        let begin = bench.objects.calls();
        if let Some((at, fault)) = fault {
            bench.objects.fail_at(begin + at, fault);
        }
        let (mut now, mut done) = (start, false);
        for _ in 0..6 {
            match prune_at(&bench, now) {
                Ok(pruned) => done = pruned.marked == 0,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Denied), "{error}");
                    bench.objects.heal();
                    continue;
                }
            }
            if done {
                break;
            }
            now += 25 * HOUR;
        }
        assert!(done);
        let calls = bench.objects.calls() - begin;
        bench.objects.heal();
        let report = bench.check(true).unwrap();
        assert!(report.is_sound() && report.unreferenced == 0, "{fault:?} {report:?}");
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        calls
    };
    let calls = run(None);
    assert!(calls > 20);
    for fault in [Fault::Gone, Fault::Refused, Fault::AnswerLost, Fault::Forbidden] {
        for at in 0..calls {
            run(Some((at, fault)));
        }
    }
}

#[test]
fn nothing_is_removed_while_a_manifest_cannot_be_read() {
    let (bench, _, _) = forgotten(false);
    let path = bench.paths().into_iter().find(|path| path.starts_with("snapshots/")).unwrap();
    let bytes = bench.objects.contents()[&path].clone();
    let mut damaged = bytes.to_vec();
    damaged[20] ^= 1;
    bench.objects.overwrite(&path, Bytes::from(damaged));
    let before = bench.paths();
    let now = bench.clock.now();
    let at_once = PruneOptions { grace_ms: 0, ..PruneOptions::default() };
    let error = block_on(prune(&bench.repository().unwrap(), &at_once, now)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(bench.paths(), before);
    bench.objects.overwrite(&path, bytes);
    let pruned = block_on(prune(&bench.repository().unwrap(), &at_once, now)).unwrap();
    assert!(pruned.removed > 0 && pruned.marked == 0, "{pruned:?}");
    assert!(bench.check(true).unwrap().is_sound());
}

#[test]
fn what_an_interrupted_backup_has_put_is_kept_for_a_week() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    bench.backup(&cluster).unwrap();
    for _ in 0..40 {
        cluster.lock().log("orders", 0).append(2, 10, 10_000);
    }
    cluster.lock().spoil = Some(|_, bytes| match bytes.first_chunk().map(|offset| i64::from_be_bytes(*offset)) {
        Some(offset) if offset > 60 => Bytes::from(vec![0; 100]),
        _ => bytes,
    });
    bench.backup(&cluster).unwrap_err();
    let now = bench.clock.now();
    let kept = prune_at(&bench, now + HOUR).unwrap();
    assert_eq!((kept.marked, kept.pending), (0, 0), "{kept:?}");
    let given_up = prune_at(&bench, now + 8 * 24 * HOUR).unwrap();
    assert_eq!((given_up.marked > 0, given_up.pending), (true, 1), "{given_up:?}");
}

#[test]
fn copied_snapshots_are_the_same_under_other_keys_and_shared_as_before() {
    for (from, to) in [(false, true), (true, false), (true, true)] {
        let (bench, cluster) = (Bench::new(from), MemoryCluster::with_orders());
        commit(&cluster, "billing", 0, 7);
        bench.backup(&cluster).unwrap();
        cluster.lock().log("orders", 1).append(2, 6, 10);
        bench.backup(&cluster).unwrap();
        let other = Bench::new(to);
        let (source, target) = (bench.repository().unwrap(), other.repository().unwrap());
        let copy = || {
            let snapshots = block_on(source.snapshots()).unwrap();
            block_on(transfer(&source, &target, &snapshots, &ManualClock::new(5), &|_| {})).unwrap()
        };
        let first = copy();
        assert_eq!((first.snapshots.len(), first.present.len()), (2, 0));
        assert_eq!(first.objects as usize, bench.bodies().len());
        assert!(other.check(true).unwrap().is_sound());
        let bodies = |bench: &Bench| bench.bodies().into_iter().map(|(_, _, body)| body).collect::<BTreeSet<_>>();
        assert_eq!(bodies(&bench), bodies(&other));
        let logs = MemoryLogs::default();
        other.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        let there = block_on(target.snapshots()).unwrap();
        assert_eq!(there[1].manifest.parent, Some(there[0].id.name));
        let (was, is) = (block_on(source.snapshots()).unwrap()[1].clone(), &there[1]);
        assert_eq!((is.manifest.time, is.manifest.original), (was.manifest.time, Some(was.id.name)));
        assert_eq!(is.manifest.totals.records, was.manifest.totals.records);

        // Again: nothing. One more: what is new.
        let again = copy();
        assert_eq!((again.snapshots.len(), again.present.len(), again.objects), (0, 2, 0));
        cluster.lock().log("orders", 1).append(2, 6, 10);
        bench.backup(&cluster).unwrap();
        let more = copy();
        assert_eq!((more.snapshots.len(), more.present.len(), more.objects), (1, 2, 1));
        assert!(other.check(true).unwrap().is_sound());
        // A backup to the copy goes on from there.
        other.clock.set(bench.clock.now());
        cluster.lock().log("orders", 0).append(2, 3, 10);
        assert_eq!(other.backup(&cluster).unwrap().snapshot.manifest.costs.new_records, 3);
    }
}

#[test]
fn a_damaged_object_is_not_copied() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    bench.backup(&cluster).unwrap();
    let (path, stored, _) = bench.bodies().remove(0);
    let mut damaged = stored.to_vec();
    damaged[100] ^= 4;
    bench.objects.overwrite(&path, Bytes::from(damaged));
    let other = Bench::new(false);
    let (source, target) = (bench.repository().unwrap(), other.repository().unwrap());
    let snapshots = block_on(source.snapshots()).unwrap();
    let error = block_on(transfer(&source, &target, &snapshots, &ManualClock::new(5), &|_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("partition=orders-"), "{error}");
    assert_eq!(block_on(target.snapshot_ids()).unwrap(), []);
    bench.objects.overwrite(&path, stored);
    block_on(transfer(&source, &target, &snapshots, &ManualClock::new(5), &|_| {})).unwrap();
    assert!(other.check(true).unwrap().is_sound());
}

#[test]
fn compressed_objects_give_the_same_bytes() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench { object_bytes: 20_000, ..Bench::new(is_encrypted) }, MemoryCluster::new());
        cluster.lock().add_topic("orders", 7, 1);
        for _ in 0..40 {
            cluster.lock().log("orders", 0).append(0, 10, 3_000);
        }
        bench.clock.advance(Duration::from_millis(1));
        let options = BackupOptions { compression: Compression::Zstd, ..bench.options() };
        let totals = bench.backup_with(&cluster, &options).unwrap().snapshot.manifest.totals;
        assert!(totals.stored_bytes < totals.bytes / 2, "{totals:?}");
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
        // Objects that were put otherwise are shared all the same.
        cluster.lock().log("orders", 0).append(0, 1, 1);
        let manifest = bench.backup(&cluster).unwrap().snapshot.manifest;
        assert_eq!(manifest.costs.new_records, 1);
        let other = Bench::new(!is_encrypted);
        let (source, target) = (bench.repository().unwrap(), other.repository().unwrap());
        block_on(transfer(&source, &target, &block_on(source.snapshots()).unwrap(), &ManualClock::new(5), &|_| {}))
            .unwrap();
        assert!(other.check(true).unwrap().is_sound());
        let copied = block_on(target.find_snapshot("latest")).unwrap().manifest.totals;
        assert!(copied.stored_bytes < copied.bytes / 2, "{copied:?}");
    }
}

#[test]
fn a_compressed_body_that_is_longer_than_it_says_takes_no_more_memory() {
    let bench = Bench::new(false);
    let repository = bench.repository().unwrap();
    let put = block_on(repository.put_object(vec![Bytes::from(vec![7; 50_000_000])], Compression::Zstd)).unwrap();
    assert!(put.bytes < 10_000);
    let object = Object {
        name: put.name,
        encoding: Encoding::Zstd,
        stored_bytes: put.bytes,
        bytes: 1_000,
        start: 0,
        end: 1,
        batches: 1,
        records: 1,
        min_timestamp: 0,
        max_timestamp: 0,
        epochs: vec![EpochStart { epoch: 0, start: 0 }],
        last: LastBatch { base_offset: 0, leader_epoch: 0, crc: 0 },
    };
    let error = block_on(repository.get_object(&object, &Place::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("expected=1000"), "{error}");
}

#[test]
fn a_sample_of_the_data_is_read() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::new());
    cluster.lock().add_topic("orders", 7, 1);
    for _ in 0..400 {
        cluster.lock().log("orders", 0).append(0, 1, 1_000);
    }
    bench.backup(&cluster).unwrap();
    let (path, stored, _) = bench.bodies().remove(7);
    let mut damaged = stored.to_vec();
    damaged[200] ^= 1;
    bench.objects.overwrite(&path, Bytes::from(damaged));
    let mut found = 0;
    for seed in 0..20 {
        let options = CheckOptions { read_data: true, sample: Sample { of_million: 100_000, seed } };
        let report = block_on(check(&bench.repository().unwrap(), options)).unwrap();
        let share = report.read_bytes as f64 / report.stored_bytes as f64;
        assert!((0.03..0.2).contains(&share), "{share}");
        found += report.problems.len();
    }
    // A tenth of each of twenty.
    assert!((1..10).contains(&found), "{found}");
}

#[test]
fn a_diff_tells_what_is_other_and_nothing_else() {
    let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
    cluster.lock().add_topic("gone", 8, 1);
    cluster.lock().add_topic("anew", 9, 1);
    cluster.lock().add_topic("same", 10, 1);
    commit(&cluster, "billing", 0, 7);
    bench.backup(&cluster).unwrap();
    cluster.lock().topics.remove("gone");
    cluster.lock().add_topic("anew", 11, 1);
    cluster.lock().add_topic("new", 12, 2);
    cluster.lock().log("orders", 1).append(2, 6, 10);
    cluster.lock().topics.get_mut("orders").unwrap().0.config.clear();
    cluster.lock().groups.clear();
    commit(&cluster, "billing", 0, 9);
    commit(&cluster, "audit", 1, 2);
    bench.backup(&cluster).unwrap();
    let ids = block_on(bench.repository().unwrap().snapshot_ids()).unwrap();
    let [before, after] = [0, 1].map(|index: usize| bench.source(&ids[index].name.to_string()).unwrap());
    let told = block_on(diff(&before, &after)).unwrap();
    let changes: Vec<_> = told.topics.iter().map(|topic| (topic.topic.as_str(), topic.change)).collect();
    let expected = [
        ("anew", TopicChange::Recreated),
        ("gone", TopicChange::Removed),
        ("new", TopicChange::Added),
        ("orders", TopicChange::Changed),
    ];
    assert_eq!(changes, expected);
    let [partition] = &told.topics[3].partitions[..] else { panic!("one partition: {told:?}") };
    assert_eq!((partition.partition, &partition.before, &partition.after), (1, &Some(0..12), &Some(0..18)));
    assert_eq!(partition.records, 6);
    assert!(told.topics[3].config.iter().all(|(_, before, after)| before.is_some() && after.is_none()));
    let offsets: Vec<_> = told.offsets.iter().map(|offset| (&*offset.group, offset.before, offset.after)).collect();
    assert_eq!(offsets, [("audit", None, Some(2)), ("billing", Some(7), Some(9))]);
    assert_eq!(block_on(diff(&after, &after)).unwrap(), Diff::default());
}

#[test]
fn a_list_that_lags_behind_costs_no_data() {
    // What the second backup sees does not have what the first has put: it reads more than it would have to.
    let calls = {
        let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
        bench.backup(&cluster).unwrap();
        let begin = bench.objects.calls();
        bench.backup(&cluster).unwrap();
        bench.objects.calls() - begin
    };
    for at in 0..calls {
        let (bench, cluster) = (Bench::new(true), MemoryCluster::with_orders());
        bench.repository().unwrap();
        let known = bench.objects.calls();
        bench.objects.fail_at(known, Fault::Stale);
        bench.backup(&cluster).unwrap();
        cluster.lock().log("orders", 0).append(2, 5, 10);
        let begin = bench.objects.calls();
        bench.objects.move_fault(begin + at);
        bench.backup(&cluster).unwrap();
        bench.objects.heal();
        assert!(bench.check(true).unwrap().is_sound());
        let logs = MemoryLogs::default();
        bench.restore("latest", &logs).unwrap();
        assert_eq!(logs.logs("orders"), cluster.logs("orders"));
    }
}

/// Every byte of a small repository, in each of its bits in turn. A restore is harmed by none: it brings what was backed up, or
/// fails and says where.
#[test]
fn every_flipped_byte_of_a_small_repository_is_harmless_or_named() {
    for is_encrypted in [false, true] {
        let (bench, cluster) = (Bench::new(is_encrypted), MemoryCluster::new());
        cluster.lock().add_topic("orders", 7, 1);
        cluster.lock().log("orders", 0).append(0, 2, 20);
        commit(&cluster, "billing", 0, 1);
        let options = BackupOptions { compression: Compression::Zstd, ..bench.options() };
        bench.backup_with(&cluster, &options).unwrap();
        let now = bench.clock.now();
        let stray = format!("manifests/00/{}", "0".repeat(64));
        bench.objects.overwrite(&stray, Bytes::from_static(b"nobody's"));
        assert_eq!(prune_at(&bench, now).unwrap().marked, 1);
        let contents = bench.objects.contents();
        let whole = MemoryLogs::default();
        bench.restore("latest", &whole).unwrap();
        for (path, bytes) in &contents {
            for at in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << (at % 8);
                bench.objects.overwrite(path, Bytes::from(damaged));
                let told = bench.check(true).map(|report| report.problems);
                match told {
                    Ok(problems) if problems.is_empty() => {
                        assert!(*path == stray || path.starts_with("marks/"), "{path} byte {at}");
                    }
                    Ok(problems) => {
                        assert!(
                            problems.iter().all(|problem| problem.message.contains(path.as_str())),
                            "{path} byte {at}"
                        );
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path} byte {at}: {error}");
                        assert!(error.to_string().contains(path.as_str()), "{path} byte {at}: {error}");
                    }
                }
                let logs = MemoryLogs::default();
                match bench.restore("latest", &logs) {
                    Ok(_) => assert_eq!(logs.logs("orders"), whole.logs("orders"), "{path} byte {at}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path} byte {at}: {error}");
                        assert!(error.to_string().contains(path.as_str()), "{path} byte {at}: {error}");
                    }
                }
                // What is damaged is never a reason to remove what is not.
                if at % 16 == 0 {
                    let before = bench.paths();
                    let pruned = prune_at(&bench, now + 25 * HOUR);
                    let gone: Vec<String> = before.difference(&bench.paths()).cloned().collect();
                    let may_go = |path: &String| path.starts_with("marks/") || *path == stray;
                    assert!(gone.iter().all(may_go), "{path} byte {at}: {gone:?} {pruned:?}");
                    for made in bench.paths().difference(&before) {
                        block_on(bench.objects.delete(made)).unwrap();
                    }
                    contents.iter().for_each(|(path, bytes)| bench.objects.overwrite(path, bytes.clone()));
                }
            }
            bench.objects.overwrite(path, bytes.clone());
        }
        bench.restore("latest", &MemoryLogs::default()).unwrap();
    }
}

/// A store that asks twice, as if the first answer had been lost.
#[derive(Debug)]
struct AsksTwice(MemoryObjects);

impl ObjectStore for AsksTwice {
    fn place(&self) -> String {
        self.0.place()
    }

    fn put_if_absent<'a>(&'a self, path: &'a str, parts: Vec<Bytes>) -> BoxFuture<'a, Result<Put>> {
        Box::pin(async move {
            self.0.put_if_absent(path, parts.clone()).await?;
            self.0.put_if_absent(path, parts).await
        })
    }

    fn get<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.0.get(path, range)
    }

    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        self.0.size(path)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>> {
        self.0.list(prefix)
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        self.0.delete(path)
    }
}

#[test]
fn a_repository_whose_own_creation_is_found_present_is_made() {
    let store = Arc::new(AsksTwice(MemoryObjects::default()));
    let lock = Lock::Recipient(alice().recipient());
    let made = block_on(Repository::create_encrypted(store.clone(), ID, 0, &lock, &[7; 32])).unwrap();
    assert_eq!(made.id(), ID);
    let again = block_on(Repository::create_encrypted(store, Uuid::from_u128(5), 0, &lock, &[8; 32]));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_creation_that_is_disturbed_anywhere_is_done_when_it_is_run_again() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        for at in 0..8 {
            let bench = Bench::new(true);
            bench.objects.fail_at(at, fault);
            let _ = bench.repository();
            bench.objects.heal();
            bench.repository().unwrap();
            bench.backup(&MemoryCluster::with_orders()).unwrap();
            assert!(bench.check(true).unwrap().is_sound());
        }
    }
}
