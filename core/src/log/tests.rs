use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::record::{Builder, BuilderOptions, NO_HEADERS, ProducerFields, batches};
use crate::storage::memory::{Loss, MemoryDevice};
use crate::storage::{Device, Entry};

pub(super) const NOW: Timestamp = 1_700_000_000_000;
pub(super) const DIR: &str = "orders-0";

/// A batch of `count` records whose values say `text` and a number.
fn batch(count: i32, timestamp: Timestamp, text: &str) -> Batch {
    produced(count, timestamp, text, ProducerFields::NONE, false)
}

pub(super) fn produced(
    count: i32,
    timestamp: Timestamp,
    text: &str,
    producer: ProducerFields,
    transactional: bool,
) -> Batch {
    let mut builder = Builder::new(BuilderOptions { transactional, ..BuilderOptions::default() });
    for number in 0..count {
        let value = format!("{text} {number}");
        let key = number.to_be_bytes();
        builder.append(timestamp + i64::from(number), Some(&key), Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    builder.seal(producer).unwrap()
}

pub(super) fn config() -> LogConfig {
    LogConfig { retention_ms: None, ..LogConfig::default() }
}

/// So few that nearly every use opens a file anew.
pub(super) fn files(device: &MemoryDevice) -> Arc<OpenFiles> {
    OpenFiles::new(Arc::new(device.clone()), 1)
}

pub(super) fn open(device: &MemoryDevice, config: &LogConfig, checkpoints: Checkpoints) -> (Log, Recovery) {
    Log::open(&files(device), DIR, config.clone(), checkpoints, NOW).unwrap()
}

pub(super) fn fresh(config: &LogConfig) -> (MemoryDevice, Log) {
    let device = MemoryDevice::durable();
    let (log, recovery) = open(&device, config, Checkpoints::default());
    assert!(recovery.created);
    (device, log)
}

/// All batches from `offset` on, read as a consumer does.
pub(super) fn read_from(log: &Log, offset: i64) -> Vec<Batch> {
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

/// Offset, key and value of all records as text.
pub(super) fn all_records(log: &Log) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut all = Vec::new();
    for batch in read_from(log, log.start()).iter().filter(|batch| !batch.is_control()) {
        for record in batch.records(1 << 20).unwrap().iter() {
            let record = record.unwrap();
            if record.offset >= log.start() {
                all.push((record.offset, text(record.key.unwrap_or_default()), record.value.map(text)));
            }
        }
    }
    all
}

/// Numbers that look random and follow from a seed.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The log as text: `[0..5 e1][5..9 e2]`.
pub(super) fn drawn(log: &Log) -> String {
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
        Ok(Log::open(&files(&self.device), DIR, self.config.clone(), checkpoints, NOW)?.0)
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

pub(super) fn marker_batch(producer_id: i64, epoch: i16, control_type: ControlType) -> Batch {
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
                    // Some things that recovery does may fail, so it may even succeed.
                    let _ = Log::open(&files(&disturbed), DIR, config.clone(), checkpoints, NOW);
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
fn a_copy_that_a_full_device_refuses_leaves_the_log_as_it_was_and_takes_it_later() {
    let config = config();
    let copied = |epoch: i32, offset: i64| batch(1, NOW, "copied").stamped(offset, epoch);
    for spare in 0..200 {
        let (device, mut log) = fresh(&config);
        log.append_copy(&[copied(0, 0)], NOW).unwrap();
        let used: u64 = device.files().values().map(|bytes| bytes.len() as u64).sum();
        device.set_capacity(Some(used + spare));
        let before = (log.end(), drawn(&log), log.epochs().clone());
        // The new epoch may have room, and neither the records nor the way back.
        if let Err(error) = log.append_copy(&[copied(3, 1)], NOW) {
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        } else {
            continue;
        }
        assert_eq!((log.end(), drawn(&log), log.epochs().clone()), before, "spare={spare}");
        device.set_capacity(None);
        // What comes in its place may be of the epoch before.
        log.append_copy(&[copied(0, 1)], NOW).unwrap();
        let after = (log.end(), drawn(&log), log.epochs().clone());
        let (other, _) = open(&device.crash(Loss::Nothing), &config, Checkpoints::default());
        assert_eq!((other.end(), drawn(&other), other.epochs().clone()), after, "spare={spare}");
    }
}

#[test]
fn a_cut_at_the_end_takes_the_epoch_along_of_which_nothing_has_come() {
    let (device, mut log) = fresh(&config());
    log.append(&[batch(3, NOW, "a")], 1, NOW).unwrap();
    log.assign_epoch(2).unwrap();
    log.truncate(3).unwrap();
    assert_eq!((log.end(), log.epochs().latest()), (3, Some(1)), "or who follows would be told to cut for ever");
    let (log, _) = open(&device.crash(Loss::Nothing), &config(), Checkpoints::default());
    assert_eq!((log.end(), log.epochs().latest()), (3, Some(1)));
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

// Open files.

/// A device that counts the files that are open.
#[derive(Clone, Debug)]
struct Counting {
    device: MemoryDevice,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// More than so many cannot be open.
    limit: usize,
}

#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn File>,
    open: Arc<AtomicUsize>,
}

impl Counting {
    fn new(limit: usize) -> Self {
        Self { device: MemoryDevice::durable(), open: Arc::default(), most: Arc::default(), limit }
    }

    fn counted(&self, open: impl FnOnce() -> io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        if self.open.load(Relaxed) >= self.limit {
            return Err(io::Error::other("too many open files"));
        }
        let file = open()?;
        self.most.fetch_max(self.open.fetch_add(1, Relaxed) + 1, Relaxed);
        Ok(Arc::new(CountedFile { file, open: Arc::clone(&self.open) }))
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl File for CountedFile {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.file.read_at(position, len)
    }
    fn append(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.file.append(parts)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Device for Counting {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.counted(|| self.device.open(path))
    }
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.counted(|| self.device.create(path))
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.device.create_dir(path)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.device.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.device.list(dir)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.device.remove(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.device.remove_dir(path)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.device.rename(from, to)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.device.sync_dir(dir)
    }
}

/// Thirty logs of many segments, through all that opens a file. Returns how many were open at a time.
fn through_many_logs(device: &Counting, files: &Arc<OpenFiles>) -> usize {
    let config = LogConfig { segment_bytes: 450, index_interval_bytes: 100, ..config() };
    let open_all = |checkpoints| -> Vec<Log> {
        let open = |at| Log::open(files, &format!("orders-{at}"), config.clone(), checkpoints, NOW).unwrap().0;
        (0..30).map(open).collect()
    };
    let mut logs = open_all(Checkpoints::default());
    for number in 0..20 {
        for log in &mut logs {
            log.append(&[batch(2, NOW + number, "value")], 0, NOW).unwrap();
        }
    }
    let points: Vec<SyncPoint> = logs.iter().map(Log::sync_point).collect();
    assert!(points.iter().all(|point| point.files.len() >= 12), "closed segments are synced, too");
    points.into_iter().for_each(|point| point.run().unwrap());
    for (log, offset) in logs.iter().zip(0..) {
        assert_eq!(read_from(log, offset % 40).last().unwrap().next_offset(), 40);
    }
    drop(logs);
    // As after a crash, when everything is looked at.
    let mut logs = open_all(Checkpoints::default());
    for log in &mut logs {
        assert_eq!((log.end(), log.offset_for_time(NOW + 7, 40).unwrap()), (40, Some((NOW + 7, 13))));
        log.sync_point().run().unwrap();
        log.append(&[batch(1, NOW, "after")], 1, NOW).unwrap();
        log.truncate(15).unwrap();
        log.close().run().unwrap();
    }
    drop(logs);
    let logs = open_all(Checkpoints::CLEAN);
    assert!(logs.iter().all(|log| log.end() == 14));
    device.most.load(Relaxed)
}

#[test]
fn few_files_are_open_at_a_time_however_many_segments_there_are() {
    let device = Counting::new(usize::MAX);
    let most = through_many_logs(&device, &OpenFiles::new(Arc::new(device.clone()), 8));
    // Those that are kept, the active segments that a sync has in its hands, and one that is being used.
    assert!(most <= 8 + 30 + 2, "{most}");
    assert!(device.open.load(Relaxed) <= 8);
}

#[test]
fn where_no_more_files_can_be_opened_others_are_closed_for_them() {
    let device = Counting::new(40);
    let most = through_many_logs(&device, &OpenFiles::new(Arc::new(device.clone()), 1_000));
    assert_eq!(most, 40);
}

#[test]
fn a_new_epoch_is_written_at_once_and_synced_with_the_data() {
    let (device, mut log) = fresh(&config());
    log.append(&[batch(1, NOW, "a")], 0, NOW).unwrap();
    log.sync_point().run().unwrap();
    let before = device.syncs();
    log.append(&[batch(1, NOW, "b")], 1, NOW).unwrap();
    log.append_copy(&[batch(1, NOW, "c").stamped(2, 2)], NOW).unwrap();
    log.set_start(1).unwrap();
    assert_eq!(device.syncs(), before, "an append waits for no device");
    // A killed process leaves the history beside the batches, a power cut neither.
    let (left, recovery) = open(&device.crash(Loss::Nothing), &config(), Checkpoints::default());
    assert_eq!((left.end(), left.epochs().latest(), recovery.cut), (3, Some(2), None));
    let (left, _) = open(&device.crash(Loss::Unsynced), &config(), Checkpoints::default());
    assert_eq!((left.end(), left.epochs().latest()), (1, Some(0)));
    log.sync_point().run().unwrap();
    let (left, recovery) = open(&device.crash(Loss::Unsynced), &config(), Checkpoints { start: 1, recovery_point: 3 });
    assert_eq!((left.end(), recovery.cut), (3, None));
    assert_eq!(left.epochs(), log.epochs());
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
    let (log, recovery) = match Log::open(&files(device), DIR, config.clone(), checkpoints, NOW) {
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
                    let _ = Log::open(&files(&device), DIR, config.clone(), checkpoints, NOW);
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

// Reading.

/// Four segments, a batch of three records a second.
fn timed_log() -> (MemoryDevice, Log) {
    let config = LogConfig { segment_bytes: 1500, index_interval_bytes: 200, ..config() };
    let (device, mut log) = fresh(&config);
    for number in 0..50 {
        log.append(&[batch(3, NOW + number * 1000, "value")], 0, NOW).unwrap();
    }
    assert!(log.segments().len() >= 4);
    (device, log)
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let (_device, log) = timed_log();
    for offset in 0..150 {
        let slice = log.read(offset, 1, log.end(), true).unwrap();
        assert_eq!(slice.first_offset(), offset / 3 * 3);
        let found: Vec<Batch> = batches(slice.read().unwrap()).map(|batch| batch.unwrap()).collect();
        assert_eq!((found.len(), found[0].base_offset()), (1, offset / 3 * 3));
    }
    assert!(log.read(150, 1000, log.end(), true).unwrap().is_empty());
    for offset in [-1, 151] {
        let error = log.read(offset, 1000, log.end(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
}

#[test]
fn a_read_stops_at_its_bounds() {
    let (_device, log) = timed_log();
    let size = read_from(&log, 0)[0].size();
    for upto in 0..150 {
        let slice = log.read(3, 1 << 20, upto, true).unwrap();
        let last = batches(slice.read().unwrap()).map(|batch| batch.unwrap().next_offset()).last();
        match last {
            None => assert!(upto < 6, "{upto}"),
            Some(last) => assert!(last <= upto && (upto - last < 3 || last == log.segments[1].base), "{upto} {last}"),
        }
    }
    assert!(log.read(0, size - 1, 150, false).unwrap().read().unwrap().len() < size);
    assert_eq!(log.read(0, 0, 150, true).unwrap().len(), size);
    assert_eq!(log.read(0, 0, 150, false).unwrap().len(), 0);
    assert_eq!(log.read(0, size * 2 + 5, 150, false).unwrap().len(), size * 2 + 5);
}

#[test]
fn a_slice_outlives_its_segment() {
    let (_device, mut log) = timed_log();
    let slice = log.read(0, 1000, log.end(), true).unwrap();
    let before = slice.read().unwrap();
    log.set_start(100).unwrap();
    let removals = log.retain(NOW, log.end()).unwrap();
    assert!(!removals.is_empty());
    removals.into_iter().for_each(|removal| removal.run().unwrap());
    assert_eq!(slice.read().unwrap(), before);
    assert_eq!(log.read(0, 1000, log.end(), true).unwrap_err().kind(), ErrorKind::OutOfRange);
}

#[test]
fn gaps_are_skipped() {
    let config = LogConfig { segment_bytes: 300, index_interval_bytes: 50, ..config() };
    let (device, mut log) = fresh(&config);
    let copies: Vec<Batch> =
        [0, 10, 11, 30, 47, 90, 1000].into_iter().map(|base| batch(2, NOW, "copy").stamped(base, 5)).collect();
    let error = log.append_copy(&copies[..3], NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "the third one goes back: {error}");
    assert_eq!((log.end(), log.epochs().latest()), (0, None));
    let copies: Vec<Batch> = copies.into_iter().filter(|batch| batch.base_offset() != 11).collect();
    log.append_copy(&copies, NOW).unwrap();
    let check = |log: &Log| {
        assert_eq!(drawn(log), "[0..2 e5][10..12 e5][30..32 e5][47..49 e5][90..92 e5][1000..1002 e5]");
        for offset in 0..1001 {
            let first = log.read(offset, 1 << 20, log.end(), true).unwrap().first_offset();
            let expected = copies.iter().find(|batch| batch.last_offset() >= offset).unwrap().base_offset();
            assert_eq!(first, expected, "offset={offset}");
        }
    };
    check(&log);
    assert_eq!(log.append_copy(&[batch(1, NOW, "x").stamped(1002, 4)], NOW).unwrap_err().kind(), ErrorKind::Invalid);
    log.sync_point().run().unwrap();
    let (mut log, recovery) = open(&device, &config, Checkpoints::default());
    assert!(recovery.cut.is_none(), "{recovery}");
    check(&log);
    log.truncate(50).unwrap();
    assert_eq!(drawn(&log), "[0..2 e5][10..12 e5][30..32 e5][47..49 e5]");
    assert_eq!(log.end(), open(&device.crash(Loss::Nothing), &config, Checkpoints::default()).0.end());
}

#[test]
fn offsets_that_do_not_fit_an_index_begin_a_segment() {
    let (device, mut log) = fresh(&config());
    let far = i64::from(i32::MAX) + 10;
    for base in [far, far + 5, far * 3] {
        log.append_copy(&[batch(2, NOW, "far").stamped(base, 0)], NOW).unwrap();
    }
    let bases: Vec<i64> = log.segments().map(|(base, _)| base).collect();
    assert_eq!(bases, [far, far * 3]);
    assert_eq!(log.start(), far, "an empty segment at 0 could not be kept");
    let (other, recovery) = open(&device, &config(), Checkpoints::default());
    assert_eq!((other.end(), drawn(&other)), (log.end(), drawn(&log)), "{recovery}");
    let last = batch(1, NOW, "last").stamped(i64::MAX - 2, 0);
    log.append_copy(&[last], NOW).unwrap();
    assert_eq!(log.append(&[batch(1, NOW, "beyond")], 0, NOW).unwrap_err().kind(), ErrorKind::OutOfRange);
}

#[test]
fn what_reached_the_disk_before_what_comes_before_it_is_cut_off() {
    let config = LogConfig { segment_bytes: 300, skips_offsets: false, ..config() };
    let (device, mut log) = fresh(&config);
    for offset in 0..8 {
        log.append(&[batch(1, NOW, &format!("value {offset}"))], 0, NOW).unwrap();
    }
    let bases: Vec<i64> = log.segments().map(|(base, _)| base).collect();
    assert!(bases.len() > 2, "{bases:?}");
    // A power cut leaves the names of all segments, and of the one before the last only its first batch.
    for keeps_last in [false, true] {
        let left = device.crash(Loss::Nothing);
        let path = |base: i64| format!("{DIR}/{base:020}.log");
        let cut = bases[bases.len() - 2];
        let bytes = left.files()[&path(cut)].clone();
        let first = Batch::split(&mut bytes.clone()).unwrap().unwrap();
        left.overwrite(&path(cut), bytes.slice(..first.size()));
        if !keeps_last {
            left.overwrite(&path(bases[bases.len() - 1]), Bytes::new());
        }
        let (found, recovery) = open(&left, &config, Checkpoints::default());
        assert_eq!(found.end(), first.next_offset(), "{recovery}");
        assert!(recovery.cut.is_some(), "{recovery}");
        // Below the log start the removal of segments may have got there in any order.
        let start = Checkpoints { start: bases[bases.len() - 1], ..Checkpoints::default() };
        let left = device.crash(Loss::Nothing);
        left.overwrite(&path(cut), bytes.slice(..first.size()));
        assert_eq!(open(&left, &config, start).0.end(), 8);
        // Where offsets are missing by right they stay missing.
        let skips = LogConfig { skips_offsets: true, ..config.clone() };
        let left = device.crash(Loss::Nothing);
        left.overwrite(&path(cut), bytes.slice(..first.size()));
        assert_eq!(open(&left, &skips, Checkpoints::default()).0.end(), 8);
    }
}

#[test]
fn damage_behind_a_snapshot_takes_nothing_before_it() {
    let (device, mut log) = fresh(&config());
    for value in ["a", "b", "c"] {
        log.append(&[batch(2, NOW, value)], 0, NOW).unwrap();
    }
    log.close().run().unwrap();
    let (mut log, _) = open(&device, &config(), Checkpoints::CLEAN);
    let path = format!("{DIR}/{:020}.log", 0);
    let whole = device.files()[&path].len();
    log.append(&[batch(1, NOW, "torn")], 0, NOW).unwrap();
    // What was closed was synced; of what came after it the disk has the size and no byte.
    let left = device.crash(Loss::Nothing);
    let mut bytes = left.files()[&path].to_vec();
    bytes[whole..].fill(0);
    left.overwrite(&path, bytes);
    let (log, recovery) = open(&left, &config(), Checkpoints { recovery_point: 6, ..Checkpoints::default() });
    assert_eq!(drawn(&log), "[0..2 e0][2..4 e0][4..6 e0]", "{recovery}");
}

#[test]
fn a_snapshot_knows_all_batches_that_may_be_sent_again() {
    let mut producers = Producers::default();
    let numbered = |base_sequence| {
        let fields = ProducerFields { producer_id: 9, producer_epoch: 2, base_sequence };
        produced(3, NOW, "x", fields, false)
    };
    for at in 0..8 {
        note_producer(&mut producers, &Header::of(&numbered(at * 3), i64::from(at) * 3, 0), None);
    }
    let read = Producers::from_snapshot(&producers.to_snapshot(), NOW, 1).unwrap();
    assert_eq!(read.to_snapshot(), producers.to_snapshot());
    for at in 3..8 {
        let again = read.check(&numbered(at * 3));
        assert!(
            matches!(again, Ok(Checked::Duplicate { base_offset, .. }) if base_offset == i64::from(at) * 3),
            "{again:?}"
        );
    }
    assert!(matches!(read.check(&numbered(24)), Ok(Checked::Accept)));
    assert!(read.check(&numbered(6)).is_err());
}

#[test]
fn the_first_record_at_or_after_a_time_is_found() {
    let (device, log) = timed_log();
    let check = |log: &Log| {
        for time in (NOW - 500..NOW + 51_000).step_by(250) {
            // Record n of batch b has time b s + n ms.
            let expected =
                (0..150).map(|offset| (NOW + offset / 3 * 1000 + offset % 3, offset)).find(|(at, _)| *at >= time);
            assert_eq!(log.offset_for_time(time, log.end()).unwrap(), expected);
            let below = expected.filter(|(_, offset)| *offset < 70);
            assert_eq!(log.offset_for_time(time, 70).unwrap(), below);
        }
        assert_eq!(log.max_timestamp().unwrap(), Some((NOW + 49_002, 149)));
    };
    check(&log);
    let indexes: Vec<String> = device.files().into_keys().filter(|path| path.ends_with("index")).collect();
    assert!(indexes.len() > 4, "{indexes:?}");
    for index in indexes {
        Device::remove(&device, &index).unwrap();
    }
    check(&open(&device, log.config(), Checkpoints::default()).0);
}

#[test]
fn times_that_go_back_are_found_by_the_largest_before() {
    let config = LogConfig { index_interval_bytes: 50, ..config() };
    let (_device, mut log) = fresh(&config);
    for time in [5, 9, 2, 7, 12, 1, 11, 9] {
        log.append(&[batch(1, NOW + time, "v")], 0, NOW).unwrap();
    }
    let found = |time| log.offset_for_time(NOW + time, log.end()).unwrap().map(|(at, offset)| (at - NOW, offset));
    let all: Vec<_> = [0, 5, 6, 9, 10, 12, 13].map(found).into();
    assert_eq!(all, [Some((5, 0)), Some((5, 0)), Some((9, 1)), Some((9, 1)), Some((12, 4)), Some((12, 4)), None]);
    assert_eq!(log.max_timestamp().unwrap(), Some((NOW + 12, 4)));
    let (_device, log) = fresh(&config);
    assert_eq!((log.max_timestamp().unwrap(), log.offset_for_time(0, 10).unwrap()), (None, None));
}

#[test]
fn log_append_time_is_stamped_into_every_batch() {
    let config = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..config() };
    let (_device, mut log) = fresh(&config);
    let appended = log.append(&[batch(2, 5, "old")], 0, NOW).unwrap();
    assert_eq!(appended.log_append_time, Some(NOW));
    let batch = &read_from(&log, 0)[0];
    assert_eq!((batch.timestamp_type(), batch.max_timestamp()), (TimestampType::LogAppendTime, NOW));
    assert_eq!(log.offset_for_time(NOW, 2).unwrap(), Some((NOW, 0)));
}

// Indexes.

#[test]
fn a_log_that_is_only_read_between_open_and_close_is_not_written_to() {
    for count in [0, 1, 60] {
        let config = LogConfig { segment_bytes: 2000, index_interval_bytes: 200, ..config() };
        let (device, mut log) = fresh(&config);
        for number in 0..count {
            log.append(&[batch(3, NOW + number, "value")], 0, NOW).unwrap();
        }
        let before = read_from(&log, 0);
        log.close().run().unwrap();
        let operations = device.operations();
        for _ in 0..2 {
            let (mut log, recovery) = open(&device, &config, Checkpoints::CLEAN);
            assert!(recovery.is_clean(), "{recovery}");
            assert_eq!(read_from(&log, 0), before);
            log.offset_for_time(NOW + 1, log.end()).unwrap();
            log.close().run().unwrap();
            assert_eq!(device.operations(), operations, "batches={count}");
        }
        // What is written to it is synced with it again.
        let (mut log, _) = open(&device, &config, Checkpoints::CLEAN);
        log.append(&[batch(1, NOW + 100, "next")], 0, NOW).unwrap();
        log.close().run().unwrap();
        let device = device.crash(Loss::Unsynced);
        let (log, recovery) = open(&device, &config, Checkpoints::CLEAN);
        assert!(recovery.is_clean(), "{recovery}");
        assert_eq!((log.end(), read_from(&log, 0).len()), (count * 3 + 1, before.len() + 1));
        assert_eq!(log.offset_for_time(NOW + 100, log.end()).unwrap(), Some((NOW + 100, count * 3)));
    }
}

#[test]
fn an_index_that_points_beside_the_batches_is_made_anew() {
    let (device, mut log) = timed_log();
    let config = log.config().clone();
    let right = read_from(&log, 0);
    log.close().run().unwrap();
    for suffix in [INDEX, TIME_INDEX] {
        let base = log.segments[1].base;
        let path = log.place.path(base, suffix);
        let device = device.crash(Loss::Nothing);
        let bytes = device.files()[&path].clone();
        let entry = if suffix == INDEX { 8 } else { 12 };
        assert!(bytes.len() >= 3 * entry);
        // All entries moved by one, and yet in order.
        let moved: Vec<u8> = bytes
            .chunks(entry)
            .flat_map(|entry| {
                let (head, tail) = entry.split_at(entry.len() - 4);
                let value = u32::from_be_bytes(tail.try_into().unwrap()) + 1;
                [head, &value.to_be_bytes()].concat()
            })
            .collect();
        device.overwrite(&path, moved);
        let (log, recovery) = open(&device, &config, Checkpoints::CLEAN);
        assert!(recovery.is_clean(), "what is old is looked at when it is used: {recovery}");
        for batch in &right {
            let slice = log.read(batch.base_offset(), 1, log.end(), true).unwrap();
            assert_eq!(slice.read().unwrap(), batch.as_bytes());
            let time = batch.base_timestamp();
            assert_eq!(log.offset_for_time(time, log.end()).unwrap(), Some((time, batch.base_offset())));
        }
        assert_eq!(device.files()[&path], bytes, "{suffix}: and written again");
    }
}

#[test]
fn preallocated_indexes_of_kafka_end_at_their_zeroes() {
    let (device, mut log) = timed_log();
    let right = read_from(&log, 0);
    log.close().run().unwrap();
    let base = log.active().base;
    for suffix in [INDEX, TIME_INDEX] {
        let path = log.place.path(base, suffix);
        let mut bytes = device.files()[&path].to_vec();
        assert!(!bytes.is_empty());
        bytes.resize(10 * 1024 * 1024 / 12 * 12, 0);
        device.overwrite(&path, bytes);
    }
    let (mut log, recovery) = open(&device, log.config(), Checkpoints::CLEAN);
    assert!(recovery.is_clean(), "{recovery}");
    assert_eq!(read_from(&log, 0), right);
    log.append(&[batch(1, NOW, "more")], 0, NOW).unwrap();
    log.close().run().unwrap();
    assert!(device.files().iter().all(|(path, bytes)| path.ends_with(".log") || bytes.len() < 1000));
}

#[test]
fn index_entries_stand_as_kafka_writes_them() {
    let config = LogConfig { index_interval_bytes: 100, ..config() };
    let (device, mut log) = fresh(&config);
    for number in 0..4 {
        log.append(&[batch(2, NOW + number * 10, "value")], 0, NOW).unwrap();
    }
    let size = read_from(&log, 0)[0].size() as u32;
    assert!(size < 100 && size * 2 > 100);
    log.close().run().unwrap();
    let read = |suffix| device.files()[&log.place.path(0, suffix)].to_vec();
    // The third batch is the first behind more than 100 bytes: its last offset and position.
    let entry = [5_u32.to_be_bytes(), (2 * size).to_be_bytes()].concat();
    assert_eq!(read(INDEX), entry);
    // The largest time up to there, and at the end the largest of all.
    let times = [(NOW + 21, 5_u32), (NOW + 31, 7)]
        .map(|(time, offset)| [&time.to_be_bytes()[..], &offset.to_be_bytes()].concat());
    assert_eq!(read(TIME_INDEX), times.concat());
}

// Segments come and go.

#[test]
fn a_segment_spans_no_more_time_than_it_may() {
    let config = LogConfig { segment_ms: 10_000, ..config() };
    let (_device, mut log) = fresh(&config);
    for second in [0, 5, 10, 11, 3, 22] {
        log.append(&[batch(1, NOW + second * 1000, "v")], 0, NOW).unwrap();
    }
    let bases: Vec<i64> = log.segments().map(|(base, _)| base).collect();
    assert_eq!(bases, [0, 3, 5]);
}

#[test]
fn a_batch_larger_than_a_segment_is_refused_and_a_copy_of_one_is_not() {
    let config = LogConfig { segment_bytes: 500, ..config() };
    let (_device, mut log) = fresh(&config);
    let large = batch(100, NOW, "large");
    assert_eq!(log.append(std::slice::from_ref(&large), 0, NOW).unwrap_err().kind(), ErrorKind::Invalid);
    log.append_copy(&[batch(1, NOW, "a").stamped(0, 0), large.stamped(1, 0), batch(1, NOW, "z").stamped(101, 0)], NOW)
        .unwrap();
    assert_eq!(log.segments().map(|(base, _)| base).collect::<Vec<_>>(), [0, 1, 101]);
}

#[test]
fn retention_takes_whole_segments_that_are_old_or_too_much() {
    let by_time = LogConfig { retention_ms: Some(20_000), ..timed_log().1.config().clone() };
    let by_size = LogConfig { retention_bytes: Some(2_500), ..timed_log().1.config().clone() };
    for (config, is_time) in [(by_time, true), (by_size, false)] {
        let (device, mut log) = timed_log();
        log.update_config(config.clone());
        let now = NOW + 50_000;
        assert!(log.retain(now, 0).unwrap().is_empty(), "nothing above the high watermark");
        let removals = log.retain(now, log.end()).unwrap();
        let first = log.segments().next().unwrap().0;
        assert_eq!(log.start(), first);
        assert!(first > 0 && log.epochs().start_of(0) == Some(first));
        if is_time {
            let oldest = log.segments[0].largest(&log.place).unwrap().unwrap().0;
            assert!(now - oldest <= 20_000);
        } else {
            // As Kafka does: what is left is at least the limit.
            assert!(log.size_bytes() >= 2_500 && log.size_bytes() - log.segments[0].size < 2_500);
        }
        removals.into_iter().for_each(|removal| removal.run().unwrap());
        assert!(device.files().keys().filter(|path| path.ends_with(".log")).count() == log.segments().len());
        assert!(log.retain(now, log.end()).unwrap().is_empty());
        let (log, _) = open(&device, &config, Checkpoints::default());
        assert_eq!(log.start(), first);
    }
}

#[test]
fn a_log_whose_records_are_all_too_old_ends_empty_at_its_end() {
    let (device, mut log) = timed_log();
    log.update_config(LogConfig { retention_ms: Some(1), ..log.config().clone() });
    log.retain(NOW + 100_000, log.end()).unwrap().into_iter().for_each(|removal| removal.run().unwrap());
    assert_eq!((log.start(), log.end(), log.size_bytes()), (150, 150, 0));
    let (log, _) = open(&device, log.config(), Checkpoints::default());
    assert_eq!((log.start(), log.end()), (150, 150));
}

#[test]
fn deleted_records_are_out_of_reach_at_once() {
    let (device, mut log) = timed_log();
    log.set_start(70).unwrap();
    assert_eq!(log.set_start(151).unwrap_err().kind(), ErrorKind::OutOfRange);
    log.set_start(30).unwrap();
    assert_eq!(log.start(), 70);
    assert_eq!(log.read(69, 100, log.end(), true).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(log.offset_for_time(0, log.end()).unwrap(), Some((NOW + 23_001, 70)));
    let before = log.segments().len();
    log.retain(NOW, log.end()).unwrap().into_iter().for_each(|removal| removal.run().unwrap());
    assert!(log.segments().len() < before && log.segments().next().unwrap().0 <= 70);
    let (log, _) = open(&device, log.config(), Checkpoints { start: 70, recovery_point: 0 });
    assert_eq!((log.start(), log.end()), (70, 150));
    let (log, _) = open(&device, log.config(), Checkpoints { start: 500, recovery_point: 0 });
    assert_eq!((log.start(), log.end()), (500, 500), "the end never lies below the start");
}

#[test]
fn truncation_keeps_whole_batches_and_forgets_their_leaders() {
    let right: Vec<Batch> = read_from(&timed_log().1, 0);
    for to in (0..152).rev() {
        let (device, mut log) = timed_log();
        log.truncate(to).unwrap();
        let end = (to / 3 * 3).min(150);
        assert_eq!((log.end(), read_from(&log, 0).len() as i64), (end, end / 3), "to={to}");
        log.append(&[batch(2, NOW, "after")], 9, NOW).unwrap();
        assert_eq!(log.epochs().start_of(9), Some(end));
        let (other, recovery) = open(&device, log.config(), Checkpoints::default());
        assert_eq!(read_from(&other, 0)[..(end / 3) as usize], right[..(end / 3) as usize], "to={to} {recovery}");
        assert_eq!(other.end(), end + 2);
        log.truncate(end).unwrap();
        assert_eq!(log.epochs().latest(), (end > 0).then_some(0));
    }
}

#[test]
fn truncation_below_the_first_segment_starts_the_log_there() {
    let (device, mut log) = timed_log();
    log.set_start(100).unwrap();
    log.retain(NOW, log.end()).unwrap().into_iter().for_each(|removal| removal.run().unwrap());
    log.truncate(7).unwrap();
    assert_eq!((log.start(), log.end(), log.segments().len()), (7, 7, 1));
    log.append(&[batch(2, NOW, "after")], 1, NOW).unwrap();
    let (log, _) = open(&device, log.config(), Checkpoints::default());
    assert_eq!(drawn(&log), "[7..9 e1]");
}

#[test]
fn a_reset_log_starts_and_ends_where_it_is_told() {
    for start in [0, 50, 1_000_000] {
        let (device, mut log) = timed_log();
        log.reset(start).unwrap();
        assert_eq!((log.start(), log.end(), log.epochs().latest()), (start, start, None));
        log.append_copy(&[batch(2, NOW, "copy").stamped(start, 3)], NOW).unwrap();
        let (log, _) = open(&device, log.config(), Checkpoints::default());
        assert_eq!(drawn(&log), format!("[{start}..{} e3]", start + 2));
    }
}

#[test]
fn an_older_leader_is_refused() {
    let (_device, mut log) = fresh(&config());
    log.assign_epoch(5).unwrap();
    assert_eq!(log.append(&[batch(1, NOW, "old")], 4, NOW).unwrap_err().kind(), ErrorKind::Invalid);
    log.append(&[batch(1, NOW, "new")], 5, NOW).unwrap();
}

#[test]
fn an_epoch_outlives_a_crash_before_its_first_batch() {
    let (device, mut log) = fresh(&config());
    log.append(&[batch(1, NOW, "a")], 0, NOW).unwrap();
    log.sync_point().run().unwrap();
    log.assign_epoch(3).unwrap();
    let (log, _) = open(&device.crash(Loss::Unsynced), &config(), Checkpoints::default());
    assert_eq!((log.end(), log.epochs().latest()), (1, Some(3)));
}

#[test]
fn batches_behind_damage_are_kept_in_quarantine() {
    let config = LogConfig { segment_bytes: 400, ..config() };
    let (device, mut log) = fresh(&config);
    for _ in 0..12 {
        log.append(&[batch(2, NOW, "value")], 0, NOW).unwrap();
    }
    let (right, bases) = (read_from(&log, 0), log.segments().map(|(base, _)| base).collect::<Vec<_>>());
    let size = right[0].size() as u64;
    assert!(bases.len() == 3, "{bases:?}");
    log.sync_point().run().unwrap();
    let path = log.place.path(bases[1], LOG);
    device.flip(&path, size + 70, 1).unwrap();
    let (log, recovery) = open(&device, &config, Checkpoints::default());
    assert_eq!(log.end(), bases[1] + 2);
    let cut = recovery.cut.as_ref().unwrap();
    assert_eq!((cut.segment, cut.position, cut.reason), (bases[1], size, Damage::Checksum));
    assert_eq!(cut.bytes, (11 - bases[1] as u64 / 2) * size);
    let kept: Vec<String> = [1, 2].map(|at| format!("{:020}.quarantine", bases[at])).into();
    assert_eq!(cut.quarantined, kept);
    assert_eq!(
        recovery.to_string(),
        format!(
            "cut {} bytes at segment={:020} position={size} (checksum differs), valid batches kept in {} and {} end={}",
            cut.bytes,
            bases[1],
            kept[0],
            kept[1],
            bases[1] + 2
        )
    );
    let bytes = kept.iter().flat_map(|name| device.files()[&format!("{DIR}/{name}")].to_vec()).collect::<Vec<u8>>();
    let all: Vec<u8> =
        right[(bases[1] / 2 + 1) as usize..].iter().flat_map(|batch| batch.as_bytes().to_vec()).collect();
    assert_eq!(bytes.len(), all.len());
    assert_eq!(bytes[size as usize..], all[size as usize..], "every byte but the flipped one's batch");
}

#[test]
fn damage_below_the_recovery_point_costs_one_batch() {
    let config = LogConfig { segment_bytes: 400, ..config() };
    let (device, mut log) = fresh(&config);
    for _ in 0..12 {
        log.append(&[batch(2, NOW, "value")], 0, NOW).unwrap();
    }
    log.sync_point().run().unwrap();
    let right = read_from(&log, 0);
    // Its length, so that nobody finds the next one by it.
    device.flip(&log.place.path(0, LOG), right[0].size() as u64 + 9, 0x40).unwrap();
    Device::remove(&device, &log.place.path(0, SNAPSHOT)).ok();
    Device::remove(&device, &log.place.in_dir(Epochs::FILE)).unwrap();
    let (log, recovery) = open(&device, &config, Checkpoints { start: 0, recovery_point: log.end() });
    assert_eq!((log.end(), recovery.damaged.len()), (24, 1), "{recovery}");
    for (at, batch) in right.iter().enumerate() {
        let read = log.read(batch.base_offset(), 1, log.end(), true).and_then(|slice| slice.read());
        match at {
            1 => assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt),
            _ => assert_eq!(read.unwrap(), batch.as_bytes()),
        }
    }
}

#[test]
fn messages_of_old_formats_are_refused_and_not_cut() {
    let (device, log) = fresh(&config());
    let mut message = vec![1, 0]; // format 1, no attributes
    message.extend_from_slice(&NOW.to_be_bytes());
    message.extend_from_slice(&(-1_i32).to_be_bytes());
    message.extend_from_slice(&5_i32.to_be_bytes());
    message.extend_from_slice(b"value");
    let mut crc = flate2::Crc::new();
    crc.update(&message);
    let mut bytes = 0_i64.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(message.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(&crc.sum().to_be_bytes());
    bytes.extend_from_slice(&message);
    bytes.resize(100, 0);
    device.overwrite(&log.place.path(0, LOG), bytes.clone());
    let opened = Log::open(&files(&device), DIR, config(), Checkpoints::default(), NOW);
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(device.files()[&log.place.path(0, LOG)], bytes);
}

// Leader epochs.

#[test]
fn histories_part_where_an_epoch_ends() {
    let mut epochs = Epochs::default();
    assert_eq!(epochs.end_offset_for(0, 10), None);
    for (epoch, start) in [(1, 5), (3, 10), (4, 10), (7, 20)] {
        assert!(epochs.assign(epoch, start));
    }
    assert!(!epochs.assign(7, 30) && !epochs.assign(2, 40), "an epoch begins once, and none goes back");
    let ends: Vec<_> = (0..9).map(|epoch| epochs.end_offset_for(epoch, 33)).collect();
    let expected = [
        Some((0, 5)),
        Some((1, 10)),
        Some((1, 10)),
        Some((1, 10)),
        Some((4, 20)),
        Some((4, 20)),
        Some((4, 20)),
        Some((7, 33)),
        None,
    ];
    assert_eq!(ends, expected, "3 wrote nothing");
    assert_eq!(epochs.to_text(), "0\n3\n1 5\n4 10\n7 20\n");
    assert_eq!(Epochs::from_text(epochs.to_text().as_bytes()), Some(epochs.clone()));
    epochs.truncate_from_start(12);
    assert_eq!(epochs.to_text(), "0\n2\n4 12\n7 20\n");
    epochs.truncate_from_end(20);
    assert_eq!(epochs.to_text(), "0\n1\n4 12\n");
    for text in
        ["", "1\n0\n", "0\n1\n", "0\n1\n4\n", "0\n2\n4 12\n4 13\n", "0\n2\n4 12\n5 11\n", "0\n1\n-1 5\n", "0\nx\n"]
    {
        assert_eq!(Epochs::from_text(text.as_bytes()), None, "{text:?}");
    }
}

// Producers.

/// Producer 7's batch of `count` records.
fn by_producer(epoch: i16, sequence: i32, count: i32) -> Batch {
    produced(count, NOW, "p", ProducerFields { producer_id: 7, producer_epoch: epoch, base_sequence: sequence }, false)
}

/// The name of Kafka's code for it.
pub(super) fn code(error: &ProducerError) -> &'static str {
    crate::protocol::ErrorCode(error.kafka_code()).name()
}

/// Appends it if the log accepts it, and says what the log says.
fn offer(log: &mut Log, batch: &Batch) -> String {
    match log.producers().check(batch) {
        Ok(Checked::Accept) => {
            let appended = log.append(std::slice::from_ref(batch), 0, NOW).unwrap();
            format!("at {}", appended.base_offset)
        }
        Ok(Checked::Duplicate { base_offset, .. }) => format!("is at {base_offset}"),
        Err(error) => code(&error).to_owned(),
    }
}

#[test]
fn a_producers_batches_go_in_once_and_in_order() {
    let (_device, mut log) = fresh(&config());
    let script = [
        // An unknown producer may begin anywhere: what was before may have been deleted.
        (0, 10, 2, "at 0"),
        (0, 10, 2, "is at 0"),
        (0, 13, 1, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (0, 11, 1, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (0, 12, 1, "at 2"),
        (0, 13, 1, "at 3"),
        (0, 14, 1, "at 4"),
        (0, 15, 1, "at 5"),
        (0, 10, 2, "is at 0"),
        (0, 16, 1, "at 6"),
        // Five are known, and the first is none of them any more.
        (0, 10, 2, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (0, 12, 1, "is at 2"),
        (0, 12, 5, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        // A new life begins with 0 and ends the old one.
        (1, 17, 1, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (1, 0, 3, "at 7"),
        (0, 17, 1, "INVALID_PRODUCER_EPOCH"),
        (0, 16, 1, "INVALID_PRODUCER_EPOCH"),
        (1, 0, 3, "is at 7"),
        (1, 3, 1, "at 10"),
    ];
    for (step, (epoch, sequence, count, expected)) in script.into_iter().enumerate() {
        assert_eq!(offer(&mut log, &by_producer(epoch, sequence, count)), expected, "step {step}");
    }
}

#[test]
fn sequences_go_on_with_zero_after_the_largest() {
    let (_device, mut log) = fresh(&config());
    let last = i32::MAX;
    assert_eq!(offer(&mut log, &by_producer(0, last - 3, 2)), "at 0");
    assert_eq!(offer(&mut log, &by_producer(0, last - 1, 4)), "at 2");
    assert_eq!(offer(&mut log, &by_producer(0, last - 1, 4)), "is at 2");
    assert_eq!(offer(&mut log, &by_producer(0, 3, 1)), "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(offer(&mut log, &by_producer(0, 2, 1)), "at 6");
}

#[test]
fn producers_are_known_after_every_kind_of_open() {
    let config = LogConfig { segment_bytes: 500, ..config() };
    let (device, mut log) = fresh(&config);
    for sequence in 0..20 {
        assert_eq!(offer(&mut log, &by_producer(0, sequence, 1)), format!("at {sequence}"));
    }
    let crashed = device.crash(Loss::Nothing);
    log.close().run().unwrap();
    let without: MemoryDevice = crashed.crash(Loss::Nothing);
    for path in without.files().into_keys().filter(|path| !path.ends_with(".log")) {
        Device::remove(&without, &path).unwrap();
    }
    for (device, checkpoints) in
        [(device, Checkpoints::CLEAN), (crashed, Checkpoints::default()), (without, Checkpoints::CLEAN)]
    {
        let (mut log, _) = open(&device, &config, checkpoints);
        assert_eq!(offer(&mut log, &by_producer(0, 19, 1)), "is at 19");
        assert_eq!(offer(&mut log, &by_producer(0, 21, 1)), "OUT_OF_ORDER_SEQUENCE_NUMBER");
        assert_eq!(offer(&mut log, &by_producer(0, 20, 1)), "at 20");
        log.truncate(15).unwrap();
        assert_eq!(offer(&mut log, &by_producer(0, 20, 1)), "OUT_OF_ORDER_SEQUENCE_NUMBER");
        assert_eq!(offer(&mut log, &by_producer(0, 15, 1)), "at 15");
    }
}

#[test]
fn producers_that_write_nothing_are_forgotten() {
    let (device, mut log) = fresh(&config());
    offer(&mut log, &by_producer(0, 5, 1));
    let day = log.config().producer_expiration_ms;
    let _ = log.retain(NOW + day - 1, log.end()).unwrap();
    assert_eq!(log.producers().len(), 1);
    let _ = log.retain(NOW + day, log.end()).unwrap();
    assert!(log.producers().is_empty());
    assert_eq!(offer(&mut log, &by_producer(0, 99, 1)), "at 1");
    log.close().run().unwrap();
    let (log, _) = Log::open(&files(&device), DIR, config(), Checkpoints::CLEAN, NOW + day).unwrap();
    assert!(log.producers().is_empty());
}

#[test]
fn open_and_aborted_transactions_are_known_to_readers_of_committed_data() {
    let config = LogConfig { segment_bytes: 400, ..config() };
    let (device, mut log) = fresh(&config);
    let data = |id, sequence| {
        produced(1, NOW, "t", ProducerFields { producer_id: id, producer_epoch: 0, base_sequence: sequence }, true)
    };
    let mut append = |batch: Batch| log.append(&[batch], 0, NOW).unwrap().base_offset;
    assert_eq!(append(batch(1, NOW, "plain")), 0);
    assert_eq!((append(data(1, 0)), append(data(2, 0)), append(data(1, 1))), (1, 2, 3));
    assert_eq!(append(marker_batch(1, 0, ControlType::Abort)), 4);
    assert_eq!(append(data(1, 2)), 5);
    assert_eq!(append(marker_batch(2, 0, ControlType::Commit)), 6);
    assert_eq!(append(marker_batch(1, 0, ControlType::Abort)), 7);
    assert_eq!(append(data(3, 0)), 8);
    // An end of nothing is no transaction.
    assert_eq!(append(marker_batch(4, 0, ControlType::Abort)), 9);
    assert!(log.segments().len() > 1);
    let check = |log: &Log| {
        let stable: Vec<i64> = (0..=10).map(|high_watermark| log.last_stable_offset(high_watermark)).collect();
        // A transaction is over for readers when its end is below the high watermark.
        assert_eq!(stable, [0, 1, 1, 1, 1, 2, 2, 5, 8, 8, 8]);
        let aborted =
            |from, upto| log.aborted(from, upto).iter().map(|a| (a.producer_id, a.first_offset)).collect::<Vec<_>>();
        assert_eq!(aborted(0, 10), [(1, 1), (1, 5)]);
        assert_eq!(aborted(0, 5), [(1, 1)]);
        assert_eq!(aborted(5, 10), [(1, 5)]);
        assert_eq!(aborted(8, 10), []);
        let last_stable: Vec<i64> = log.aborted(0, 10).iter().map(|aborted| aborted.last_stable_offset).collect();
        assert_eq!(last_stable, [2, 8]);
        let wrong =
            produced(1, NOW, "w", ProducerFields { producer_id: 3, producer_epoch: 0, base_sequence: 1 }, false);
        assert_eq!(code(&log.producers().check(&wrong).unwrap_err()), "INVALID_TXN_STATE");
        let fenced = log.producers().check_marker(1, 0, -1).unwrap_err();
        assert_eq!(code(&fenced), "TRANSACTION_COORDINATOR_FENCED");
    };
    check(&log);
    let crashed = device.crash(Loss::Nothing);
    let (reopened, _) = open(&crashed, &config, Checkpoints::default());
    check(&reopened);
    log.close().run().unwrap();
    let (log, _) = open(&device, &config, Checkpoints::CLEAN);
    assert_eq!(log.last_stable_offset(10), 8);
    assert_eq!(log.aborted(0, 10).len(), 2);
}

#[test]
fn a_snapshot_has_kafkas_bytes() {
    let mut producers = Producers::default();
    let batch = produced(3, NOW, "x", ProducerFields { producer_id: 9, producer_epoch: 2, base_sequence: 4 }, true);
    assert!(note_producer(&mut producers, &Header::of(&batch, 100, 0), None).is_none());
    let bytes = producers.to_snapshot();
    let mut expected = vec![0, 0, 0, 1];
    expected.extend_from_slice(&9_i64.to_be_bytes());
    expected.extend_from_slice(&2_i16.to_be_bytes());
    expected.extend_from_slice(&6_i32.to_be_bytes()); // last sequence
    expected.extend_from_slice(&102_i64.to_be_bytes()); // last offset
    expected.extend_from_slice(&2_i32.to_be_bytes()); // offset delta
    expected.extend_from_slice(&(NOW + 2).to_be_bytes());
    expected.extend_from_slice(&(-1_i32).to_be_bytes()); // coordinator epoch
    expected.extend_from_slice(&100_i64.to_be_bytes()); // transaction start
    assert_eq!(bytes[..2], [0, 1]);
    assert_eq!(bytes[2..6], crc32c::crc32c(&expected).to_be_bytes());
    assert_eq!(bytes[6..], expected);
    let read = Producers::from_snapshot(&bytes, NOW, 1).unwrap();
    assert_eq!(read.to_snapshot(), bytes);
    assert_eq!(read.first_unstable_offset(1000), Some(100));
    for len in 0..bytes.len() {
        assert!(Producers::from_snapshot(&bytes[..len], NOW, 1).is_none());
    }
}
