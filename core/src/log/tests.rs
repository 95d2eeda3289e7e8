use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::record::{Builder, BuilderOptions, Compression, NO_HEADERS, ProducerFields, batches};
use crate::storage::memory::{Loss, MemoryDevice};

const NOW: Timestamp = 1_700_000_000_000;
const DIR: &str = "orders-0";

/// A batch of `count` records whose values say `text` and a number.
fn batch(count: i32, timestamp: Timestamp, text: &str) -> Batch {
    produced(count, timestamp, text, ProducerFields::NONE, false)
}

fn produced(count: i32, timestamp: Timestamp, text: &str, producer: ProducerFields, transactional: bool) -> Batch {
    let mut builder = Builder::new(BuilderOptions { transactional, ..BuilderOptions::default() });
    for number in 0..count {
        let value = format!("{text} {number}");
        let key = number.to_be_bytes();
        builder.append(timestamp + i64::from(number), Some(&key), Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    builder.seal(producer).unwrap()
}

fn config() -> LogConfig {
    LogConfig { retention_ms: None, ..LogConfig::default() }
}

fn open(device: &MemoryDevice, config: &LogConfig, checkpoints: Checkpoints) -> (Log, Recovery) {
    Log::open(Arc::new(device.clone()), DIR, config.clone(), checkpoints, NOW).unwrap()
}

fn fresh(config: &LogConfig) -> (MemoryDevice, Log) {
    let device = MemoryDevice::durable();
    let (log, recovery) = open(&device, config, Checkpoints::default());
    assert!(recovery.created);
    (device, log)
}

/// All batches from `offset` on, read as a consumer does.
fn read_from(log: &Log, offset: i64) -> Vec<Batch> {
    let mut found = Vec::new();
    let mut offset = offset;
    while offset < log.end() {
        let slice = log.read(offset, 1 << 20, log.end(), true).unwrap();
        if slice.is_empty() {
            break;
        }
        let before = found.len();
        for batch in batches(slice.read().unwrap()) {
            let batch = batch.unwrap();
            batch.check_crc().unwrap();
            offset = batch.next_offset();
            found.push(batch);
        }
        assert!(found.len() > before, "a read makes progress");
    }
    found
}

/// The log as text: `[0..5 e1][5..9 e2]`.
fn drawn(log: &Log) -> String {
    let batches = read_from(log, log.start());
    let draw = |batch: &Batch| {
        format!("[{}..{} e{}]", batch.base_offset(), batch.next_offset(), batch.partition_leader_epoch())
    };
    batches.iter().map(draw).collect()
}

#[test]
fn batches_get_offsets_and_the_leaders_epoch() {
    let (_device, mut log) = fresh(&config());
    let appended = log.append(&[batch(5, NOW, "a"), batch(2, NOW, "b")], 1, NOW).unwrap();
    assert_eq!(appended, Appended { base_offset: 0, end: 7, log_append_time: None });
    log.append(&[batch(1, NOW, "c")], 3, NOW).unwrap();
    assert_eq!(drawn(&log), "[0..5 e1][5..7 e1][7..8 e3]");
    assert_eq!((log.start(), log.end()), (0, 8));
    let entries: Vec<_> = log.epochs().entries().iter().map(|entry| (entry.epoch, entry.start)).collect();
    assert_eq!(entries, [(1, 0), (3, 7)]);
}

#[test]
fn a_log_opens_as_it_was_closed() {
    let config = LogConfig { segment_bytes: 2000, index_interval_bytes: 200, ..config() };
    let (device, mut log) = fresh(&config);
    for number in 0..60 {
        log.append(&[batch(3, NOW + number, "value")], 0, NOW).unwrap();
    }
    let before = read_from(&log, 0);
    assert!(log.segments().len() > 3);
    log.close().run().unwrap();
    assert_eq!(log.append(&[batch(1, NOW, "x")], 0, NOW).unwrap_err().kind(), ErrorKind::Closed);
    let device = device.crash(Loss::Unsynced);
    let (mut log, recovery) = open(&device, &config, Checkpoints::CLEAN);
    assert!(recovery.is_clean(), "{recovery}");
    assert_eq!(recovery.scanned_bytes, 0);
    assert_eq!(read_from(&log, 0), before);
    log.append(&[batch(1, NOW, "next")], 0, NOW).unwrap();
    assert_eq!(log.end(), 181);
    let (log, _) = open(&device, &config, Checkpoints::default());
    assert_eq!(log.end(), 181);
}

#[test]
fn a_torn_tail_is_cut_at_the_last_whole_batch() {
    let (device, mut log) = fresh(&config());
    log.append(&[batch(5, NOW, "a")], 0, NOW).unwrap();
    log.append(&[batch(5, NOW, "b")], 0, NOW).unwrap();
    log.sync_point().run().unwrap();
    let path = format!("{DIR}/{:020}.log", 0);
    let bytes = device.files()[&path].clone();
    let whole = read_from(&log, 0)[0].size();
    for len in 0..bytes.len() {
        let device = device.crash(Loss::Unsynced);
        device.overwrite(&path, bytes.slice(..len));
        let (log, recovery) = open(&device, &config(), Checkpoints::default());
        let (end, drawing) = if len < whole { (0, "") } else { (5, "[0..5 e0]") };
        assert_eq!((log.end(), drawn(&log).as_str()), (end, drawing), "len={len} {recovery}");
        let cut = recovery.cut.map(|cut| (cut.position, cut.bytes, cut.quarantined.len()));
        let kept = if len < whole { 0 } else { whole };
        assert_eq!(cut, (len > kept).then_some((kept as u64, (len - kept) as u64, 0)), "len={len}");
    }
}
