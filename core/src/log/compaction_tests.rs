//! Compaction: what stays, what goes and when, and that no crash changes that.

use std::collections::BTreeMap;

use super::tests::{
    DIR, Draw, NOW, all_records, code, config, drawn, files, fresh, marker_batch, open, produced, read_from,
};
use super::*;
use crate::record::{Builder, batches};
use crate::record::{BuilderOptions, Compression, NO_HEADERS, ProducerFields};
use crate::storage::Device;
use crate::storage::memory::{Loss, MemoryDevice};

fn compacting() -> LogConfig {
    LogConfig {
        segment_bytes: 400,
        index_interval_bytes: 100,
        compacts: true,
        deletes: false,
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: 1_000,
        ..config()
    }
}

/// With it one new segment replaces several.
fn joining() -> LogConfig {
    LogConfig { segment_bytes: 1_600, ..compacting() }
}

/// A batch of `key=value` and, without a value, of deletions: `key`.
fn keyed(records: &[&str]) -> Batch {
    by(ProducerFields::NONE, false, Compression::None, records)
}

fn by(producer: ProducerFields, transactional: bool, compression: Compression, records: &[&str]) -> Batch {
    let mut builder = Builder::new(BuilderOptions { compression, transactional, ..BuilderOptions::default() });
    for (number, record) in records.iter().enumerate() {
        let (key, value) = match record.split_once('=') {
            Some((key, value)) => (key, Some(value.as_bytes())),
            None => (*record, None),
        };
        let headers = [("h", Some(&b"x"[..])), ("n", None)].into_iter();
        builder.append(NOW + number as i64, Some(key.as_bytes()), value, headers).unwrap();
    }
    builder.seal(producer).unwrap()
}

/// Begins a segment, so that what is there can be compacted.
fn roll(log: &mut Log) {
    log.roll(log.end()).unwrap();
}

/// Compacts whatever can be; returns whether something was swapped.
fn compact(log: &mut Log, now: Timestamp) -> bool {
    let Some(compaction) = log.compaction(now, log.end()).unwrap() else { return false };
    let Some(swap) = log.begin_swap(compaction.run()).unwrap() else { return false };
    let removals = log.finish_swap(swap.run()).unwrap();
    removals.into_iter().for_each(|removal| removal.run().unwrap());
    true
}

/// The records as text: `3 key=value`.
fn records(log: &Log) -> Vec<String> {
    all_records(log)
        .into_iter()
        .map(|(offset, key, value)| match value {
            Some(value) => format!("{offset} {key}={value}"),
            None => format!("{offset} {key}"),
        })
        .collect()
}

#[test]
fn of_each_key_the_last_record_stays_at_its_offset() {
    for compression in Compression::ALL {
        let (device, mut log) = fresh(&compacting());
        let put = |log: &mut Log, records: &[&str]| {
            log.append(&[by(ProducerFields::NONE, false, compression, records)], 0, NOW).unwrap();
        };
        put(&mut log, &["a=1", "b=1", "c=1"]);
        put(&mut log, &["a=2"]);
        roll(&mut log);
        put(&mut log, &["b=2", "d=1"]);
        put(&mut log, &["a=3", "e="]);
        roll(&mut log);
        put(&mut log, &["c=active"]);
        assert!(compact(&mut log, NOW));
        let expected = ["2 c=1", "4 b=2", "5 d=1", "6 a=3", "7 e=", "8 c=active"];
        assert_eq!(records(&log), expected, "{compression}");
        assert_eq!((log.start(), log.end(), log.compacted_to()), (0, 9, 8));
        // One batch kept one of its three records, and all that its header says of offsets.
        assert_eq!(drawn(&log), "[0..3 e0][4..6 e0][6..8 e0][8..9 e0]");
        let first = &read_from(&log, 0)[0];
        assert_eq!((first.record_count(), first.compression(), first.max_timestamp()), (1, compression, NOW + 2));
        for offset in 0..9 {
            let found = log.read(offset, 1, log.end(), true).unwrap().first_offset();
            assert_eq!(found, [0, 0, 0, 4, 4, 4, 6, 6, 8][offset as usize]);
        }
        assert_eq!(log.offset_for_time(NOW + 2, 9).unwrap(), Some((NOW + 2, 2)));
        assert!(!compact(&mut log, NOW), "there is nothing new");
        // And it opens as it is, whether or not it is believed.
        log.sync_point().run().unwrap();
        for checkpoints in [Checkpoints::default(), Checkpoints { start: 0, recovery_point: 9 }] {
            let (left, recovery) = open(&device.crash(Loss::Unsynced), &compacting(), checkpoints);
            assert_eq!((records(&left), recovery.cut), (records(&log), None));
        }
        assert!(device.files().keys().all(|path| !path.contains(".cleaned") && !path.contains(".deleted")));
    }
}

#[test]
fn a_deletion_stays_for_its_retention_time_and_then_goes() {
    let (_device, mut log) = fresh(&compacting());
    log.append(&[keyed(&["a=1", "b=1"]), keyed(&["a", "b=2"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["c=1"])], 0, NOW).unwrap();
    assert!(compact(&mut log, NOW + 50));
    assert_eq!(records(&log), ["2 a", "3 b=2", "4 c=1"]);
    let batch = &read_from(&log, 0)[0];
    assert!(batch.has_delete_horizon());
    assert_eq!(batch.base_timestamp(), NOW + 1_050);
    batch.check_crc().unwrap();
    let times: Vec<_> = batch.records(1 << 20).unwrap().iter().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [NOW, NOW + 1], "the records' times are what they were");
    for (now, expected) in [(NOW + 1_049, &["2 a", "3 b=2", "4 c=1"][..]), (NOW + 1_050, &["3 b=2", "4 c=1"][..])] {
        roll(&mut log);
        log.append(&[keyed(&[&format!("x={now}")])], 0, NOW).unwrap();
        assert!(compact(&mut log, now) || expected.len() == 3);
        assert_eq!(records(&log)[..expected.len()], *expected);
    }
}

#[test]
fn what_an_aborted_transaction_wrote_goes_and_hides_nothing() {
    let (device, mut log) = fresh(&compacting());
    let producer = |producer_id, base_sequence| ProducerFields { producer_id, producer_epoch: 0, base_sequence };
    let data = |id, sequence, records: &[&str]| by(producer(id, sequence), true, Compression::None, records);
    log.append(&[keyed(&["a=1", "b=1"])], 0, NOW).unwrap();
    log.append(&[data(1, 0, &["a=aborted"]), data(2, 0, &["b=committed"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[marker_batch(1, 0, ControlType::Abort), marker_batch(2, 0, ControlType::Commit)], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[data(3, 0, &["a=open"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["z=1"])], 0, NOW).unwrap();
    assert!(compact(&mut log, NOW));
    assert_eq!(records(&log), ["0 a=1", "3 b=committed", "6 a=open", "7 z=1"]);
    assert_eq!(log.compacted_to(), 6, "not the open transaction's");
    let check = |log: &Log| {
        let aborted = log.aborted(0, log.end());
        assert_eq!(
            aborted.iter().map(|a| (a.producer_id, a.first_offset, a.last_offset)).collect::<Vec<_>>(),
            [(1, 2, 4)]
        );
        assert_eq!(log.last_stable_offset(log.end()), 6);
        let controls = read_from(log, 0).iter().filter(|batch| batch.is_control()).count();
        assert_eq!(controls, 2, "{}", drawn(log));
    };
    check(&log);
    log.close().run().unwrap();
    check(&open(&device, &compacting(), Checkpoints::CLEAN).0);
    check(&open(&device, &compacting(), Checkpoints::default()).0);
}

#[test]
fn an_aborted_transaction_hides_nothing_when_its_marker_is_not_compacted_yet() {
    let (_device, mut log) = fresh(&compacting());
    let producer = ProducerFields { producer_id: 1, producer_epoch: 0, base_sequence: 0 };
    log.append(&[keyed(&["k=1"]), by(producer, true, Compression::None, &["k=aborted"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[marker_batch(1, 0, ControlType::Abort)], 0, NOW).unwrap();
    assert!(compact(&mut log, NOW));
    assert_eq!(records(&log), ["0 k=1"]);
    log.append(&[keyed(&["z=1"])], 0, NOW).unwrap();
    roll(&mut log);
    compact(&mut log, NOW);
    assert_eq!(records(&log), ["0 k=1", "3 z=1"]);
}

#[test]
fn a_producers_sequence_outlives_its_records() {
    let (device, mut log) = fresh(&compacting());
    let batch = |sequence, records: &[&str]| {
        let producer = ProducerFields { producer_id: 7, producer_epoch: 3, base_sequence: sequence };
        by(producer, false, Compression::Lz4, records)
    };
    log.append(&[batch(0, &["a=1"]), batch(1, &["a=2", "b=1"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["a=3", "b=2"])], 0, NOW).unwrap();
    roll(&mut log);
    assert!(compact(&mut log, NOW));
    assert_eq!(records(&log), ["3 a=3", "4 b=2"]);
    assert_eq!(drawn(&log), "[1..3 e0][3..5 e0]", "an empty batch remembers");
    log.sync_point().run().unwrap();
    for path in device.files().into_keys().filter(|path| !path.ends_with(".log")) {
        Device::remove(&device, &path).unwrap();
    }
    let (mut log, _) = open(&device, &compacting(), Checkpoints::default());
    let repeated = log.producers().check(&batch(1, &["a=2", "b=1"]));
    assert!(matches!(repeated, Ok(Checked::Duplicate { base_offset: 1, last_offset: 2, .. })), "{repeated:?}");
    assert_eq!(code(&log.producers().check(&batch(5, &["c=1"])).unwrap_err()), "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(log.producers().check(&batch(3, &["c=1"])), Ok(Checked::Accept));
    // Once it has gone on, nothing needs the old one.
    log.append(&[batch(3, &["c=1"])], 0, NOW).unwrap();
    roll(&mut log);
    assert!(compact(&mut log, NOW));
    assert_eq!(drawn(&log), "[3..5 e0][5..6 e0]");
    assert_eq!(log.start(), 0);
}

#[test]
fn a_log_is_compacted_when_enough_of_it_is_new_or_old_enough() {
    let dirty = |config: LogConfig, now: Timestamp, high_watermark: i64| {
        let (_device, mut log) = fresh(&config);
        for number in 0..4 {
            log.append(&[keyed(&[&format!("a={number}")])], 0, NOW).unwrap();
            roll(&mut log);
        }
        log.set_compacted_to(3);
        log.compaction(now, high_watermark).unwrap().map(|compaction| compaction.from())
    };
    let ratio = |ratio| LogConfig { min_cleanable_dirty_ratio: ratio, ..compacting() };
    assert_eq!(dirty(ratio(0.2), NOW, 4), Some(3));
    assert_eq!(dirty(ratio(0.3), NOW, 4), None, "a quarter is new");
    assert_eq!(dirty(ratio(0.2), NOW, 3), None, "not above the high watermark");
    assert_eq!(dirty(LogConfig { max_compaction_lag_ms: 10, ..ratio(0.9) }, NOW + 11, 4), Some(3));
    assert_eq!(dirty(LogConfig { max_compaction_lag_ms: 10, ..ratio(0.9) }, NOW + 10, 4), None);
    assert_eq!(dirty(LogConfig { min_compaction_lag_ms: 10, ..ratio(0.0) }, NOW + 9, 4), None);
    assert_eq!(dirty(LogConfig { min_compaction_lag_ms: 10, ..ratio(0.0) }, NOW + 10, 4), Some(3));
    assert_eq!(dirty(LogConfig { compacts: false, ..ratio(0.0) }, NOW, 4), None);
}

/// A log of many segments with chance in it, and what it says of each key.
fn random_log(seed: u64, batches: usize, config: &LogConfig) -> (MemoryDevice, Log) {
    let (device, mut log) = fresh(config);
    let mut draw = Draw(seed);
    for number in 0..batches {
        let records: Vec<String> = (0..1 + draw.below(4))
            .map(|_| match (draw.below(12), draw.below(6)) {
                (key, 0) => format!("k{key}"),
                (key, _) => format!("k{key}={number}"),
            })
            .collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let codec = Compression::ALL[draw.below(5)];
        log.append(&[by(ProducerFields::NONE, false, codec, &records)], 0, NOW).unwrap();
    }
    roll(&mut log);
    (device, log)
}

/// What a reader of everything knows in the end.
fn state(log: &Log) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for (_, key, value) in all_records(log) {
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
    state
}

#[test]
fn readers_know_the_same_after_compaction_however_often_and_in_however_small_steps() {
    for seed in 0..40 {
        let config = LogConfig { delete_retention_ms: (seed % 3) as i64 * 20, ..compacting() };
        let (device, mut log) = random_log(seed, 60, &config);
        let (before, known) = (records(&log), state(&log));
        let mut now = NOW;
        let mut turns = 0;
        while let Some(mut compaction) = log.compaction(now, log.end()).unwrap() {
            compaction.max_keys = 1 + seed as usize % 9;
            let from = log.compacted_to();
            if let Some(swap) = log.begin_swap(compaction.run()).unwrap() {
                let removals = log.finish_swap(swap.run()).unwrap();
                removals.into_iter().for_each(|removal| removal.run().unwrap());
            }
            assert!(log.compacted_to() > from, "seed={seed}");
            assert_eq!(state(&log), known, "seed={seed} turn={turns}");
            assert!(records(&log).iter().all(|record| before.contains(record)), "seed={seed}");
            now += 10;
            turns += 1;
        }
        assert!(turns > 1);
        let left = records(&log);
        assert!(left.len() <= 13, "one for each key seed={seed} {left:?}");
        log.sync_point().run().unwrap();
        let (again, recovery) = open(&device.crash(Loss::Unsynced), &config, Checkpoints::default());
        assert_eq!((records(&again), recovery.cut), (left, None), "seed={seed}");
        assert_eq!(again.end(), log.end());
    }
}

#[test]
fn a_compaction_cut_short_at_any_operation_has_happened_or_not() {
    let config = compacting();
    let mut operation = 0;
    let mut states = 0;
    loop {
        let (device, mut log) = random_log(3, 14, &config);
        log.update_config(joining());
        log.sync_point().run().unwrap();
        let (before, known, end) = (records(&log), state(&log), log.end());
        device.power_off_at(device.operations() + operation);
        let compaction = log.compaction(NOW, end).unwrap().unwrap();
        let outcome = (|| {
            let Some(swap) = log.begin_swap(compaction.run())? else { return Ok(()) };
            for removal in log.finish_swap(swap.run())? {
                removal.run()?;
            }
            log.append(&[keyed(&["k1=after"])], 1, NOW)?;
            log.sync_point().run()
        })();
        for loss in
            [Loss::Unsynced, Loss::Nothing].into_iter().chain((0..6).map(Loss::Torn)).chain((0..12).map(Loss::Shuffled))
        {
            for checkpoints in [Checkpoints::default(), Checkpoints { start: 0, recovery_point: end }] {
                let what = format!("operation={operation} {loss:?} {checkpoints:?}");
                let left = device.crash(loss);
                let (mut log, recovery) = open(&left, &config, checkpoints);
                let what = format!("{what}: {recovery}");
                assert!(log.start() == 0 && (log.end() == end || log.end() == end + 1), "{what}: end={}", log.end());
                let mut found = state(&log);
                if log.end() > end {
                    assert_eq!(found.insert("k1".to_owned(), known["k1"].clone()).as_deref(), Some("after"), "{what}");
                }
                assert_eq!(found, known, "{what}");
                let all = records(&log);
                assert!(all.iter().all(|record| before.contains(record) || record.ends_with("after")), "{what}");
                assert!(recovery.cut.is_none_or(|cut| cut.segment == end), "{what}");
                let names = |device: &MemoryDevice| device.files().into_keys().collect::<Vec<_>>();
                assert!(names(&left).iter().all(|name| !name.ends_with(".swap")), "{what} {:?}", names(&left));
                // Interrupted or not: it is opened once more, and compacted in the end.
                let (again, _) = open(&left.crash(Loss::Unsynced), &config, checkpoints);
                assert_eq!(records(&again), all, "{what}");
                roll(&mut log);
                compact(&mut log, NOW);
                assert!(records(&log).len() <= 13, "{what}");
                states += 1;
            }
        }
        if outcome.is_ok() {
            break;
        }
        operation += 1;
    }
    println!("{operation} operations, {states} states");
    assert!(operation > 40 && states > 600, "{operation} {states}");
}

#[test]
fn old_segments_stay_until_the_names_of_the_new_ones_are_synced() {
    let (device, mut log) = random_log(4, 20, &compacting());
    log.sync_point().run().unwrap();
    let names = |device: &MemoryDevice, end: &str| device.files().keys().filter(|name| name.ends_with(end)).count();
    let old = names(&device, ".log");
    let swap = log.begin_swap(log.compaction(NOW, log.end()).unwrap().unwrap().run()).unwrap().unwrap();
    let swap = swap.run().unwrap();
    // Whatever order names reach the disk in from here on, the new ones are there.
    let left = device.crash(Loss::Unsynced);
    assert!(names(&left, ".log.swap") > 0 && names(&left, ".log.swap") == names(&device, ".log.swap"));
    assert_eq!((names(&left, ".log"), names(&device, ".log")), (old, old));
    let removals = log.finish_swap(Ok(swap)).unwrap();
    // Nor does the order matter that comes then: the old ones are gone before the new ones take their names.
    let left = device.crash(Loss::Unsynced);
    assert_eq!(names(&left, ".log"), old - removals.len());
    assert!(names(&left, ".log.swap") > 0 && names(&device, ".log.swap") == 0);
}

#[test]
fn the_end_of_a_swap_may_be_cut_short_too() {
    let config = compacting();
    let mut operation = 0;
    loop {
        let (device, mut log) = random_log(6, 20, &config);
        log.update_config(joining());
        log.sync_point().run().unwrap();
        let (known, end) = (state(&log), log.end());
        let swap = log.begin_swap(log.compaction(NOW, end).unwrap().unwrap().run()).unwrap().unwrap();
        let _swap = swap.run().unwrap();
        let device = device.crash(Loss::Unsynced);
        let checkpoints = Checkpoints { start: 0, recovery_point: end };
        device.power_off_at(operation);
        let opened = Log::open(&files(&device), DIR, config.clone(), checkpoints, NOW);
        for loss in [Loss::Unsynced, Loss::Nothing].into_iter().chain((0..30).map(Loss::Shuffled)) {
            let (log, recovery) = open(&device.crash(loss), &config, checkpoints);
            assert!(recovery.cut.is_none(), "operation={operation} {loss:?} {recovery}");
            assert_eq!((state(&log), log.end()), (known.clone(), end), "operation={operation} {loss:?}");
        }
        if opened.is_ok() {
            break;
        }
        operation += 1;
    }
    assert!(operation > 10, "{operation}");
}

#[test]
fn a_full_device_during_compaction_changes_nothing() {
    let config = compacting();
    let mut failed = 0;
    for operation in 0.. {
        let (device, mut log) = random_log(5, 14, &config);
        log.sync_point().run().unwrap();
        let (before, known) = (records(&log), state(&log));
        device.fail_at(device.operations() + operation, io::ErrorKind::StorageFull);
        let compaction = log.compaction(NOW, log.end()).unwrap().unwrap();
        let finished = log.begin_swap(compaction.run()).and_then(|swap| match swap {
            Some(swap) => log.finish_swap(swap.run()),
            None => Ok(vec![]),
        });
        let Err(error) = finished else { break };
        failed += 1;
        assert_eq!(error.kind(), ErrorKind::Full, "operation={operation}: {error}");
        if log.append(&[], 0, NOW).is_ok() {
            assert_eq!(records(&log), before, "operation={operation}");
        } else {
            // Halfway through: opening it anew ends that.
            log = open(&device, &config, Checkpoints::default()).0;
        }
        assert_eq!(state(&log), known, "operation={operation}");
        compact(&mut log, NOW);
        assert!(state(&log) == known && records(&log).len() <= 13, "operation={operation}");
    }
    assert!(failed > 40, "{failed}");
}

#[test]
fn a_log_that_changes_meanwhile_keeps_what_it_has() {
    type Act = fn(&mut Log);
    let changes: [(&str, Act); 5] = [
        ("append", |log| {
            log.append(&[keyed(&["k1=meanwhile"])], 0, NOW).unwrap();
        }),
        ("truncate", |log| log.truncate(40).unwrap()),
        ("reset", |log| log.reset(7).unwrap()),
        ("start", |log| log.set_start(50).unwrap()),
        ("retain", |log| {
            log.set_start(50).unwrap();
            for removal in log.retain(NOW, log.end()).unwrap() {
                removal.run().unwrap();
            }
        }),
    ];
    for (name, change) in changes {
        for at in 0..3 {
            let config = compacting();
            let (device, mut log) = random_log(8, 60, &config);
            let compaction = log.compaction(NOW, log.end()).unwrap().unwrap();
            if at == 0 {
                change(&mut log);
            }
            let compacted = compaction.run();
            if at == 1 {
                change(&mut log);
            }
            let swap = log.begin_swap(compacted).unwrap();
            if let Some(swap) = swap {
                if at == 2 {
                    change(&mut log);
                }
                for removal in log.finish_swap(swap.run()).unwrap() {
                    removal.run().unwrap();
                }
            } else if at == 2 {
                panic!("there is something to swap");
            }
            let (_other, mut expected) = random_log(8, 60, &config);
            change(&mut expected);
            assert_eq!((log.start(), log.end()), (expected.start(), expected.end()), "{name} at={at}");
            assert_eq!(state_from(&log, log.start()), state_from(&expected, log.start()), "{name} at={at}");
            log.append(&[keyed(&["k2=then"])], 1, NOW).unwrap();
            log.sync_point().run().unwrap();
            let (left, recovery) =
                open(&device.crash(Loss::Unsynced), &config, Checkpoints { start: log.start(), recovery_point: 0 });
            assert_eq!((records(&left), recovery.cut), (records(&log), None), "{name} at={at}");
            assert!(device.files().keys().all(|path| !path.ends_with(".swap")), "{name} at={at}");
        }
    }
}

/// A record, one of a transaction, and in the next segment how that ends.
fn log_with_an_abort() -> (MemoryDevice, Log) {
    let (device, mut log) = fresh(&compacting());
    let producer = ProducerFields { producer_id: 1, producer_epoch: 0, base_sequence: 0 };
    log.append(&[keyed(&["a=1"]), by(producer, true, Compression::None, &["a=2"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[marker_batch(1, 0, ControlType::Abort), keyed(&["b=1"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["z=1"])], 0, NOW).unwrap();
    (device, log)
}

#[test]
fn an_abort_that_is_cut_off_during_a_swap_does_not_come_back() {
    let (device, mut log) = log_with_an_abort();
    log.sync_point().run().unwrap();
    let swap = log.begin_swap(log.compaction(NOW, log.end()).unwrap().unwrap().run()).unwrap().unwrap();
    let swapping = device.crash(Loss::Nothing);
    log.truncate(2).unwrap();
    assert_eq!(log.finish_swap(swap.run()).unwrap().len(), 0);
    log.append(&[marker_batch(1, 0, ControlType::Commit), keyed(&["z=1"])], 1, NOW).unwrap();
    assert!(log.aborted(0, log.end()).is_empty());
    log.close().run().unwrap();
    let (log, _) = open(&device.crash(Loss::Unsynced), &compacting(), Checkpoints::CLEAN);
    assert!(log.aborted(0, log.end()).is_empty());
    assert_eq!(log.last_stable_offset(log.end()), 4);
    // The same when a crash kept the new index and not the new segment.
    let path = log.place.path(0, LOG);
    Device::remove(&swapping, &format!("{path}{}", compaction::SWAP)).unwrap();
    let (mut log, _) = open(&swapping, &compacting(), Checkpoints { start: 0, recovery_point: 5 });
    assert_eq!(log.aborted(0, log.end()).len(), 1);
    log.truncate(2).unwrap();
    log.append(&[marker_batch(1, 0, ControlType::Commit), keyed(&["z=1"])], 1, NOW).unwrap();
    log.close().run().unwrap();
    let (log, _) = open(&swapping.crash(Loss::Unsynced), &compacting(), Checkpoints::CLEAN);
    assert!(log.aborted(0, log.end()).is_empty());
}

#[test]
fn an_abort_whose_marker_a_crash_took_does_not_come_back() {
    let (device, log) = log_with_an_abort();
    log.sync_point().run().unwrap();
    // The index reached the disk before the marker did.
    device.overwrite(&log.place.path(2, LOG), Bytes::new());
    Device::remove(&device, &log.place.path(4, LOG)).unwrap();
    let (mut log, _) = open(&device, &compacting(), Checkpoints { start: 0, recovery_point: 2 });
    assert_eq!(log.end(), 2);
    log.append(&[marker_batch(1, 0, ControlType::Commit), keyed(&["z=1"])], 1, NOW).unwrap();
    log.close().run().unwrap();
    let (log, _) = open(&device.crash(Loss::Unsynced), &compacting(), Checkpoints::CLEAN);
    assert!(log.aborted(0, log.end()).is_empty());
}

/// As [`state`], of the keys that are at or above an offset.
fn state_from(log: &Log, from: i64) -> BTreeMap<String, (i64, Option<String>)> {
    let mut state = BTreeMap::new();
    for (offset, key, value) in all_records(log).into_iter().filter(|(offset, ..)| *offset >= from) {
        state.insert(key, (offset, value));
    }
    state
}

#[test]
fn a_damaged_segment_is_not_compacted() {
    let (device, mut log) = random_log(2, 60, &compacting());
    let before = records(&log).len();
    device.flip(&log.place.path(0, LOG), 100, 1).unwrap();
    let compaction = log.compaction(NOW, log.end()).unwrap().unwrap();
    let error = log.begin_swap(compaction.run()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(log.compaction(NOW, log.end()).unwrap().is_none(), "it is not tried again and again");
    assert!(device.files().keys().all(|path| !path.contains(".cleaned")));
    device.flip(&log.place.path(0, LOG), 100, 1).unwrap();
    let (log, _) = open(&device, &compacting(), Checkpoints::default());
    assert_eq!(records(&log).len(), before);
}

#[test]
fn a_swap_that_kafka_did_not_finish_is_finished() {
    // Two segments, and the one that was to replace them; one of them is renamed already.
    let (device, mut log) = fresh(&compacting());
    log.append(&[keyed(&["a=1", "b=1"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["a=2"])], 0, NOW).unwrap();
    roll(&mut log);
    log.append(&[keyed(&["c=1"])], 0, NOW).unwrap();
    log.sync_point().run().unwrap();
    let mut whole: Vec<u8> = Vec::new();
    let [first, second] = [0, 2].map(|base| log.place.path(base, LOG));
    let all = device.files();
    for batch in batches(all[&first].clone()).chain(batches(all[&second].clone())) {
        let batch = batch.unwrap();
        let left = batch.filtered(None, 1 << 20, |record| record.offset > 0).unwrap();
        whole.extend_from_slice(left.as_bytes());
    }
    device.overwrite(&format!("{first}.swap"), whole);
    device.overwrite(&format!("{}.swap", log.place.path(0, INDEX)), vec![0; 8]);
    device.overwrite(&format!("{second}.deleted"), all[&second].clone());
    Device::remove(&device, &second).unwrap();
    let (log, recovery) = open(&device, &compacting(), Checkpoints { start: 0, recovery_point: 4 });
    assert_eq!((records(&log), recovery.cut), (vec!["1 b=1".into(), "2 a=2".into(), "3 c=1".to_owned()], None));
    assert_eq!(log.segments().map(|(base, _)| base).collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn records_without_a_key_go() {
    let config = compacting();
    let (_device, mut log) = fresh(&LogConfig { compacts: false, ..config.clone() });
    let mut builder = Builder::new(BuilderOptions::default());
    builder.append(NOW, None, Some(b"keyless"), NO_HEADERS).unwrap();
    builder.append(NOW, Some(b"a"), Some(b"1"), NO_HEADERS).unwrap();
    log.append(
        &[builder.seal(ProducerFields::NONE).unwrap(), produced(1, NOW, "v", ProducerFields::NONE, false)],
        0,
        NOW,
    )
    .unwrap();
    roll(&mut log);
    log.update_config(config);
    assert!(compact(&mut log, NOW));
    assert_eq!(read_from(&log, 0)[0].record_count(), 1);
}
