use std::sync::Arc;

use super::*;
use crate::record::{Builder, BuilderOptions, NO_HEADERS, ProducerFields, batches};
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

// Crashes at every operation.

/// One state that the log went through, or was on its way to.
#[derive(Clone, Default)]
struct Version {
    /// From offset 0 on, also what retention took.
    batches: Vec<Batch>,
    start: i64,
}

impl Version {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, Batch::next_offset)
    }
}

/// What a log should have.
struct Script {
    log: Option<Log>,
    device: MemoryDevice,
    config: LogConfig,
    now: Version,
    /// Every state since the last sync.
    since_sync: Vec<Version>,
    synced: i64,
    /// Whether a step that fails is tried once more; with how many that happened.
    tries_again: bool,
    failed: usize,
}

impl Script {
    /// Goes through everything that a log does, until the power goes.
    fn run(device: &MemoryDevice, config: &LogConfig) -> Self {
        let mut script = Self::new(device, config);
        let _ = script.steps();
        script
    }

    fn new(device: &MemoryDevice, config: &LogConfig) -> Self {
        Self {
            log: None,
            device: device.clone(),
            config: config.clone(),
            now: Version::default(),
            since_sync: vec![],
            synced: 0,
            tries_again: false,
            failed: 0,
        }
    }

    /// Does a step on the log.
    fn step<T>(&mut self, step: impl Fn(&mut Log) -> Result<T>) -> Result<T> {
        if !self.tries_again {
            return step(self.log());
        }
        let before = self.log.as_ref().map(|log| (log.end(), drawn(log)));
        let error = match step(self.log()) {
            Err(error) => error,
            done => return done,
        };
        self.failed += 1;
        let was_closed = self.log().append(&[], 0, NOW).is_err();
        if was_closed {
            let checkpoints = Checkpoints { start: self.now.start, recovery_point: self.synced };
            self.log = Some(self.opened(checkpoints)?);
        } else {
            assert_eq!(before, self.log.as_ref().map(|log| (log.end(), drawn(log))), "nothing of it stays: {error}");
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        }
        step(self.log())
    }

    fn opened(&self, checkpoints: Checkpoints) -> Result<Log> {
        let device = Arc::new(self.device.clone());
        Ok(Log::open(device, DIR, self.config.clone(), checkpoints, NOW)?.0)
    }

    fn steps(&mut self) -> Result<()> {
        self.since_sync.push(Version::default());
        self.open(Checkpoints::default())?;
        let producer = |sequence| ProducerFields { producer_id: 7, producer_epoch: 0, base_sequence: sequence };
        let other = |sequence| ProducerFields { producer_id: 8, producer_epoch: 1, base_sequence: sequence };
        self.append(&[batch(2, NOW, "first")], 0)?;
        self.sync()?;
        for number in 0..4 {
            self.append(&[produced(2, NOW + 10, "idempotent", producer(number * 2), false)], 0)?;
        }
        self.append(&[produced(1, NOW + 20, "transaction", other(0), true), batch(1, NOW, "between")], 0)?;
        self.sync()?;
        self.append(&[marker_batch(8, 1, ControlType::Abort)], 0)?;
        self.append(&[produced(3, NOW + 30, "open", other(1), true)], 1)?;
        self.append(&[batch(3, NOW, "x"), batch(3, NOW, "y"), batch(3, NOW, "z")], 1)?;
        self.sync()?;
        self.append(&[batch(3, NOW + 40, "cut")], 2)?;
        self.append(&[produced(3, NOW + 40, "cut", producer(8), false)], 2)?;
        self.truncate(12)?;
        self.append(&[batch(4, NOW + 50, "after")], 3)?;
        self.sync()?;
        self.append(&[batch(4, NOW + 50, "more")], 3)?;
        self.append(&[marker_batch(8, 1, ControlType::Abort)], 3)?;
        self.close()?;
        self.open(Checkpoints::CLEAN)?;
        self.append(&[batch(2, NOW + 60, "reopened")], 3)?;
        self.append(&[produced(2, NOW + 60, "reopened", producer(8), false)], 4)?;
        self.set_start(5)?;
        self.retain()?;
        self.append(&[batch(5, NOW + 70, "tail")], 4)?;
        self.sync()?;
        self.append(&[batch(5, NOW + 80, "end")], 4)?;
        self.reset(100)
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn intend(&mut self, version: Version) {
        self.since_sync.push(version.clone());
        self.now = version;
    }

    fn open(&mut self, checkpoints: Checkpoints) -> Result<()> {
        let checkpoints = Checkpoints { start: self.now.start, ..checkpoints };
        let log = match self.opened(checkpoints) {
            Err(_) if self.tries_again => {
                self.failed += 1;
                self.opened(checkpoints)?
            }
            opened => opened?,
        };
        assert_eq!(log.end(), self.now.end());
        self.log = Some(log);
        Ok(())
    }

    fn append(&mut self, batches: &[Batch], epoch: i32) -> Result<()> {
        let mut version = self.now.clone();
        for batch in batches {
            let stamped = batch.stamped(version.end(), epoch);
            version.batches.push(stamped);
            // A call may be cut short between two batches.
            self.since_sync.push(version.clone());
        }
        self.intend(version);
        self.step(|log| log.append(batches, epoch, NOW))?;
        assert_eq!(self.log().end(), self.now.end());
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.synced = self.step(|log| {
            let point = log.sync_point();
            let end = point.end();
            point.run().map(|()| end)
        })?;
        self.since_sync = vec![self.now.clone()];
        Ok(())
    }

    fn truncate(&mut self, to: i64) -> Result<()> {
        let mut version = self.now.clone();
        version.batches.retain(|batch| batch.next_offset() <= to);
        self.synced = self.synced.min(version.end());
        self.intend(version);
        self.step(|log| log.truncate(to))?;
        assert_eq!(self.log().end(), self.now.end());
        Ok(())
    }

    fn set_start(&mut self, start: i64) -> Result<()> {
        let version = Version { start, ..self.now.clone() };
        self.intend(version);
        self.step(|log| log.set_start(start))
    }

    fn retain(&mut self) -> Result<()> {
        let removals = self.step(|log| log.retain(NOW, log.end()))?;
        for removal in removals {
            // What is not removed is found again.
            match removal.run() {
                Err(_) if self.tries_again => self.failed += 1,
                removed => removed?,
            }
        }
        Ok(())
    }

    fn reset(&mut self, start: i64) -> Result<()> {
        self.synced = 0;
        self.since_sync.push(Version { batches: vec![], start });
        self.step(|log| log.reset(start))
    }

    fn close(&mut self) -> Result<()> {
        match self.log().close().run() {
            Err(_) if self.tries_again => {
                self.failed += 1;
                let checkpoints = Checkpoints { start: self.now.start, recovery_point: self.synced };
                self.log = Some(self.opened(checkpoints)?);
                self.log().close().run()?;
            }
            closed => closed?,
        }
        self.synced = self.now.end();
        self.since_sync = vec![self.now.clone()];
        Ok(())
    }

    /// Checks what a crash left.
    fn check(&self, log: &Log, what: &str) {
        let found = read_from(log, log.start());
        let mut next = log.start();
        for batch in &found {
            assert!(batch.base_offset() <= next, "{what}: a hole at {next} in {}", drawn(log));
            next = batch.next_offset();
        }
        assert_eq!(next, log.end(), "{what}: {}", drawn(log));
        if log.end() == 100 && found.is_empty() {
            return; // reset
        }
        assert!(log.end() >= self.synced, "{what}: synced={} {}", self.synced, drawn(log));
        let version = self.since_sync.iter().find(|version| {
            let same = version.batches.iter().filter(|batch| batch.next_offset() > log.start());
            found.len() <= same.clone().count() && same.zip(&found).all(|(a, b)| a == b)
        });
        let Some(version) = version else { panic!("{what}: never was {}", drawn(log)) };
        if log.segments().next().unwrap().0 == 0 {
            let mut producers = Producers::default();
            let mut aborted = Vec::new();
            for batch in version.batches.iter().filter(|batch| batch.next_offset() <= log.end()) {
                let header = Header::of(batch, batch.base_offset(), 0);
                aborted.extend(note_producer(&mut producers, &header, marker(batch)));
            }
            assert_eq!(log.producers().to_snapshot(), producers.to_snapshot(), "{what}: {}", drawn(log));
            assert_eq!(log.aborted(0, i64::MAX), aborted, "{what}: {}", drawn(log));
        }
        // The history loses what lies below the log start when that is raised, not when somebody has stored it.
        for batch in found.iter().filter(|batch| batch.last_offset() >= self.now.start) {
            assert_eq!(log.epochs().epoch_at(batch.last_offset()), Some(batch.partition_leader_epoch()), "{what}");
        }
    }
}

fn marker_batch(producer_id: i64, epoch: i16, control_type: ControlType) -> Batch {
    crate::record::control_batch(0, 0, producer_id, epoch, control_type, 0, NOW + 25)
}

fn crash_config() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 150, ..config() }
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_synced() {
    let config = crash_config();
    let device = MemoryDevice::durable();
    let script = Script::run(&device, &config);
    assert_eq!(script.log.as_ref().unwrap().end(), 100, "the script runs to its end");
    let operations = device.operations();
    assert!(operations > 100, "{operations}");
    let losses = [Loss::Unsynced, Loss::Nothing].into_iter().chain((0..6).map(Loss::Torn));
    let losses: Vec<Loss> = losses.collect();
    for operation in 0..operations {
        let device = MemoryDevice::durable();
        device.power_off_at(operation);
        let script = Script::run(&device, &config);
        for loss in &losses {
            for recovery_point in [0, script.synced] {
                let what = format!("operation={operation} {loss:?} recovery_point={recovery_point}");
                let left = device.crash(*loss);
                let checkpoints = Checkpoints { start: 0, recovery_point };
                let (log, recovery) = open(&left, &config, checkpoints);
                let what = format!("{what}: {recovery}");
                script.check(&log, &what);
                let drawing = (log.start(), log.end(), drawn(&log));
                // Once more, whether or not what recovery did was kept.
                for again in [Loss::Unsynced, Loss::Nothing] {
                    let (log, _) = open(&left.crash(again), &config, checkpoints);
                    assert_eq!((log.start(), log.end(), drawn(&log)), drawing, "{what}: {again:?}");
                }
            }
        }
    }
}

#[test]
fn a_crash_inside_recovery_changes_nothing() {
    let config = crash_config();
    let device = MemoryDevice::durable();
    Script::run(&device, &config);
    let mut cuts = 0;
    for operation in (0..device.operations()).step_by(3) {
        let device = MemoryDevice::durable();
        device.power_off_at(operation);
        let script = Script::run(&device, &config);
        for seed in 0..3 {
            let left = device.crash(Loss::Torn(seed));
            let checkpoints = Checkpoints { start: 0, recovery_point: script.synced };
            let undisturbed = left.crash(Loss::Nothing);
            let (log, recovery) = open(&undisturbed, &config, checkpoints);
            cuts += usize::from(recovery.cut.is_some());
            let expected = (log.start(), log.end(), drawn(&log));
            for second in 0..undisturbed.operations() {
                for loss in [Loss::Unsynced, Loss::Nothing, Loss::Torn(second)] {
                    let disturbed = left.crash(Loss::Nothing);
                    disturbed.power_off_at(second);
                    let device: Arc<dyn Device> = Arc::new(disturbed.clone());
                    // Some things that recovery does may fail, so it may even succeed.
                    let _ = Log::open(device, DIR, config.clone(), checkpoints, NOW);
                    let (log, _) = open(&disturbed.crash(loss), &config, checkpoints);
                    let found = (log.start(), log.end(), drawn(&log));
                    assert_eq!(found, expected, "operation={operation} seed={seed} second={second} {loss:?}");
                }
            }
        }
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn a_full_device_leaves_nothing_half_done_at_any_operation() {
    let config = crash_config();
    let device = MemoryDevice::durable();
    Script::run(&device, &config);
    let mut failed = 0;
    for operation in 0..device.operations() {
        let device = MemoryDevice::durable();
        device.fail_at(operation, io::ErrorKind::StorageFull);
        let mut script = Script::new(&device, &config);
        script.tries_again = true;
        script.steps().unwrap_or_else(|error| panic!("operation={operation}: {error}"));
        failed += script.failed;
    }
    assert!(failed > 60, "{failed}");
}

#[test]
fn a_full_device_refuses_appends_until_there_is_room() {
    let config = LogConfig { segment_bytes: 1000, index_interval_bytes: 100, ..config() };
    let (device, mut log) = fresh(&config);
    log.append(&[batch(2, NOW, "fits")], 0, NOW).unwrap();
    for spare in 0..1500 {
        let used: u64 = device.files().values().map(|bytes| bytes.len() as u64).sum();
        device.set_capacity(Some(used + spare));
        let before = (log.end(), drawn(&log));
        let three = [batch(5, NOW, "does not fit"), batch(5, NOW, "does not fit"), batch(5, NOW, "does not fit")];
        match log.append(&three, 0, NOW) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                assert_eq!((log.end(), drawn(&log)), before, "spare={spare}");
                device.set_capacity(None);
                let (other, _) = open(&device.crash(Loss::Nothing), &config, Checkpoints::default());
                assert_eq!((other.end(), drawn(&other)), before, "spare={spare}");
            }
            Ok(appended) => assert_eq!(appended.end, before.0 + 15),
        }
        device.set_capacity(None);
        log.append(&[batch(1, NOW, "room again")], 0, NOW).unwrap();
        if log.segments().len() > 20 {
            log.reset(log.end()).unwrap();
        }
    }
}

#[test]
fn after_a_failed_sync_a_log_takes_no_more_writes() {
    let config = crash_config();
    let device = MemoryDevice::durable();
    Script::run(&device, &config);
    for sync in 0..40 {
        let device = MemoryDevice::durable();
        let mut log = open(&device, &config, Checkpoints::default()).0;
        let mut acknowledged = Vec::new();
        let mut since = Vec::new();
        device.fail_sync_at(sync);
        for number in 0..40 {
            since.push(batch(2, NOW, &format!("value {number}")).stamped(log.end(), 0));
            let appended = log.append(&[batch(2, NOW, &format!("value {number}"))], 0, NOW);
            let synced = appended.and_then(|_| log.sync_point().run());
            if let Err(error) = synced {
                // The epochs are synced by the first append, which then did nothing.
                if log.end() > 0 {
                    let again = log.append(&[batch(1, NOW, "x")], 0, NOW).unwrap_err();
                    assert_eq!(again.kind(), ErrorKind::Closed, "{error}");
                }
                break;
            }
            acknowledged.append(&mut since);
        }
        let (log, recovery) = open(&device.crash(Loss::Nothing), &config, Checkpoints::default());
        let found = read_from(&log, 0);
        assert_eq!(found[..acknowledged.len()], acknowledged, "sync={sync} {recovery}");
        assert!(found.len() <= acknowledged.len() + 1);
    }
}

// Damage.

/// A small log with everything in it, closed cleanly.
fn closed_log() -> (MemoryDevice, LogConfig, Vec<Batch>) {
    let config = LogConfig { segment_bytes: 450, index_interval_bytes: 100, ..config() };
    let (device, mut log) = fresh(&config);
    let producer = |sequence| ProducerFields { producer_id: 7, producer_epoch: 0, base_sequence: sequence };
    log.append(&[batch(2, NOW, "a"), batch(1, NOW + 1, "b")], 0, NOW).unwrap();
    log.append(&[produced(2, NOW + 2, "c", producer(0), true)], 1, NOW).unwrap();
    log.append(&[marker_batch(7, 0, ControlType::Abort)], 1, NOW).unwrap();
    for number in 0..8 {
        log.append(&[batch(2, NOW + 3 + number, "d")], 1 + (number / 6) as i32, NOW).unwrap();
    }
    let batches = read_from(&log, 0);
    assert!(
        log.segments().len() == 3 && log.epochs().entries().len() == 3 && log.tail.recent.len() > 1,
        "{:?}",
        log.segments().collect::<Vec<_>>()
    );
    log.close().run().unwrap();
    (device.crash(Loss::Unsynced), config, batches)
}

/// Reads as much as can be read. The batches that come are right, or nothing comes.
fn check_damaged(device: &MemoryDevice, config: &LogConfig, checkpoints: Checkpoints, right: &[Batch], what: &str) {
    let device: Arc<dyn Device> = Arc::new(device.clone());
    let (log, recovery) = match Log::open(device, DIR, config.clone(), checkpoints, NOW) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{what}: {error}");
            return;
        }
    };
    let what = format!("{what}: {recovery}");
    let mut readable = 0;
    let bound = log.end().min(100);
    for offset in log.start()..bound {
        let read = log.read(offset, 1 << 20, log.end(), true).and_then(|slice| slice.read());
        match read {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
            Ok(bytes) => {
                for found in batches(bytes) {
                    let Ok(found) = found else { break };
                    if found.check_crc().is_err() {
                        break;
                    }
                    readable += 1;
                    // Nothing guards the leader epoch of a batch that was closed cleanly and is not the last.
                    let is_right = right.iter().any(|batch| {
                        batch.base_offset() == found.base_offset() && batch.as_bytes()[16..] == found.as_bytes()[16..]
                    });
                    assert!(is_right, "{what}: {found:?}");
                }
            }
        }
    }
    let is_at_start = recovery.cut.is_some_and(|cut| (cut.segment, cut.position) == (0, 0));
    assert!(readable > 0 || is_at_start, "{what}: something can be read");
    for timestamp in NOW..NOW + 8 {
        match log.offset_for_time(timestamp, log.end()) {
            Ok(Some((found, offset))) => {
                let batch = right.iter().find(|batch| batch.next_offset() > offset).unwrap();
                assert!(found >= timestamp && batch.max_timestamp() >= found, "{what}: {timestamp} {found} {offset}");
            }
            Ok(None) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
        }
    }
    let _ = (log.max_timestamp(), log.aborted(0, log.end()), log.last_stable_offset(log.end()));
}

#[test]
fn a_flipped_byte_anywhere_gives_right_data_or_an_error() {
    let (device, config, right) = closed_log();
    for (path, bytes) in device.files() {
        for position in 0..bytes.len() as u64 {
            for mask in [0x01, 0x80, 0xff] {
                for checkpoints in [Checkpoints::CLEAN, Checkpoints::default()] {
                    let device = device.crash(Loss::Nothing);
                    device.flip(&path, position, mask).unwrap();
                    let what = format!("{path} position={position} mask={mask:#x} {checkpoints:?}");
                    check_damaged(&device, &config, checkpoints, &right, &what);
                }
            }
        }
    }
}

#[test]
fn files_cut_emptied_zeroed_or_missing_give_right_data_or_an_error() {
    let (device, config, right) = closed_log();
    for (path, bytes) in device.files() {
        let len = bytes.len();
        let mut variants = vec![None, Some(vec![]), Some(vec![0; len]), Some(vec![0xff; len])];
        variants.push(Some(bytes.iter().rev().copied().collect()));
        variants.push(Some([&bytes[..], &[0; 700]].concat()));
        variants.push(Some([&bytes[..], &bytes[..]].concat()));
        variants.extend((0..len).step_by(7).map(|len| Some(bytes[..len].to_vec())));
        for (number, variant) in variants.into_iter().enumerate() {
            if variant.as_ref().is_none_or(Vec::is_empty) && path.ends_with("0000.log") {
                continue; // nothing can be read, rightly
            }
            for checkpoints in [Checkpoints::CLEAN, Checkpoints::default()] {
                let device = device.crash(Loss::Nothing);
                match &variant {
                    Some(bytes) => device.overwrite(&path, bytes.clone()),
                    None => Device::remove(&device, &path).unwrap(),
                }
                let what = format!("{path} variant={number} {checkpoints:?}");
                if path.ends_with(".log") {
                    let device: Arc<dyn Device> = Arc::new(device.clone());
                    let _ = Log::open(device, DIR, config.clone(), checkpoints, NOW);
                } else {
                    check_damaged(&device, &config, checkpoints, &right, &what);
                    let (log, _) = open(&device.crash(Loss::Nothing), &config, checkpoints);
                    assert_eq!(read_from(&log, 0), right, "{what}: only the batches count");
                    assert_eq!(log.epochs().entries().len(), 3, "{what}");
                }
            }
        }
    }
}
