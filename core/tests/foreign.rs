//! Bytes from outside, at each of their entrances: they make sense or are refused. They never panic, and never decide how
//! much memory is taken.
//!
//! Each property is a few thousand inputs as a test, half of them what Kafka or Ottla wrote with a few bytes changed;
//! `BOLERO_RANDOM_ITERATIONS` makes them more, and `cargo bolero test` makes each a fuzzer.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use ottla::backup::manifest::{
    GroupsManifest, Manifest, PageManifest, PartitionManifest, PendingManifest, RepositoryManifest, SnapshotManifest,
    TopicManifest, TopicsManifest,
};
use ottla::broker::{Broker, BrokerConfig, Context, Incoming, RequestId, serves};
use ottla::log::{Checkpoints, Log, LogConfig};
use ottla::protocol::connection::Served;
use ottla::protocol::{ApiKey, ClientConnection, Request, ServerConnection, supported};
use ottla::record::{
    Batch, Builder, BuilderOptions, Compression, ControlType, Limits, NO_HEADERS, Origin, ProducerFields, batches,
    control_batch,
};
use ottla::storage::OpenFiles;
use ottla::storage::memory::{Loss, MemoryDevice};

const NOW: i64 = 1_700_000_000_000;

/// Changes to bytes that were right: where, which bits, and how long they are in the end.
type Edits = (Vec<(u16, u8)>, Option<u16>);

/// Bytes that were right, changed; or quite others.
fn changed(right: &[u8], (edits, len): &Edits) -> Vec<u8> {
    let mut bytes = right.to_vec();
    // Few, or little would come through the first checks.
    let count = edits.first().map_or(0, |(_, bits)| usize::from(bits % 4));
    for (at, bits) in edits.iter().take(count) {
        let at = usize::from(*at) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= bits;
        }
    }
    if let Some(len) = len.filter(|len| len % 4 == 0) {
        bytes.truncate(usize::from(len) % (bytes.len() + 1));
    }
    bytes
}

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/data").join(path)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Requests and responses as Kafka's own classes encode them: API, version, bytes.
fn golden(kind: &str) -> Vec<(ApiKey, i16, Vec<u8>)> {
    let text = std::fs::read_to_string(data("messages.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut parts = line.split(' ');
        let (name, version, bytes) = (parts.next()?.strip_suffix(kind)?, parts.next()?, parts.next().unwrap_or(""));
        let (api, min, max) = supported().find(|(api, ..)| api.name() == Some(name))?;
        let version = version.parse().unwrap();
        (min..=max).contains(&version).then(|| (api, version, unhex(bytes)))
    });
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() > 200, "{}", lines.len());
    lines
}

static REQUESTS: LazyLock<Vec<(ApiKey, i16, Vec<u8>)>> = LazyLock::new(|| golden("Request"));
static RESPONSES: LazyLock<Vec<(ApiKey, i16, Vec<u8>)>> = LazyLock::new(|| golden("Response"));

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn request_frame(api: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        [&api.0.to_be_bytes()[..], &version.to_be_bytes(), &7_i32.to_be_bytes(), &(-1_i16).to_be_bytes()].concat();
    if api.is_flexible(version) {
        bytes.push(0);
    }
    bytes.extend_from_slice(body);
    frame(&bytes)
}

/// What the server makes of it.
fn received(bytes: &[u8]) -> Option<(Request, i16)> {
    let served: Arc<[Served]> = supported().collect::<Vec<_>>().into();
    let mut connection = ServerConnection::new(served, 1 << 20);
    connection.receive(bytes);
    let received = connection.poll_request().ok()??;
    Some((received.request, received.version))
}

/// Takes no more memory than follows from the bytes that came.
fn bounded<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let (result, peak) = peak(act);
    assert!(peak <= (1 << 20) + 256 * bytes, "{peak} bytes are taken for {bytes}");
    result
}

#[test]
fn requests_are_refused_or_say_the_same_when_they_are_said_again() {
    let understood = AtomicUsize::new(0);
    bolero::check!().with_type::<(u16, bool, Vec<u8>, Edits)>().with_iterations(20_000).for_each(
        |(pick, is_right, noise, edits)| {
            let (api, version, body) = &REQUESTS[usize::from(*pick) % REQUESTS.len()];
            let body = if *is_right { changed(body, edits) } else { noise.clone() };
            let bytes = request_frame(*api, *version, &body);
            let Some((request, version)) = bounded(bytes.len(), || received(&bytes)) else { return };
            understood.fetch_add(1, Relaxed);
            // It may be longer than its shortest form; said again, it is what it was.
            let mut client = ClientConnection::new(None, 1 << 20);
            let said = client.request(&request, version).unwrap().bytes.concat();
            assert_eq!(received(&said), Some((request, version)));
        },
    );
    assert!(understood.load(Relaxed) > 1_000, "{understood:?}");
}

#[test]
fn frames_of_noise_are_refused() {
    bolero::check!().with_type::<Vec<u8>>().with_iterations(20_000).for_each(|noise| {
        bounded(noise.len(), || received(noise));
        bounded(noise.len(), || received(&frame(noise)));
    });
}

#[test]
fn responses_are_refused_or_understood() {
    bolero::check!().with_type::<(u16, bool, Vec<u8>, Edits)>().with_iterations(20_000).for_each(
        |(pick, is_right, noise, edits)| {
            let (api, version, right) = &RESPONSES[usize::from(*pick) % RESPONSES.len()];
            let body = if *is_right { changed(right, edits) } else { noise.clone() };
            let asked = REQUESTS.iter().find(|(other, at, _)| other == api && at == version);
            let Some((_, _, request)) = asked else { return };
            let Some((request, _)) = received(&request_frame(*api, *version, request)) else { return };
            let mut client = ClientConnection::new(None, 1 << 20);
            let correlation_id = client.request(&request, *version).unwrap().correlation_id;
            let mut bytes = correlation_id.to_be_bytes().to_vec();
            if api.is_flexible(*version) && *api != ApiKey::API_VERSIONS {
                bytes.push(0);
            }
            bytes.extend_from_slice(&body);
            bounded(bytes.len(), || {
                client.receive(&frame(&bytes));
                let _ = client.poll_response();
            });
        },
    );
}

/// Batches that Kafka and other clients wrote, and some of our own.
static BATCHES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut all: Vec<Vec<u8>> = std::fs::read_dir(data("record"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .map(|path| unhex(&std::fs::read_to_string(path).unwrap()))
        .collect();
    assert!(all.len() > 5);
    for compression in Compression::ALL {
        let mut builder = Builder::new(BuilderOptions { compression, ..BuilderOptions::default() });
        for number in 0..20 {
            let headers = [("h", Some(&b"v"[..])), ("n", None)].into_iter();
            builder.append(NOW + number, Some(b"key"), Some(&[b'x'; 30]), headers).unwrap();
        }
        all.push(
            builder
                .seal(ProducerFields { producer_id: 1, producer_epoch: 0, base_sequence: 5 })
                .unwrap()
                .into_bytes()
                .into(),
        );
    }
    all.push(control_batch(0, 0, 1, 0, ControlType::Abort, 3, NOW).into_bytes().into());
    all
});

/// Makes the checksum right, so that what is behind it is looked at.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() > 21 {
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}

#[test]
fn batches_are_refused_or_read_in_bounded_memory() {
    const LIMIT: usize = 1 << 20;
    let read = AtomicUsize::new(0);
    bolero::check!().with_type::<(u8, bool, Vec<u8>, Edits)>().with_iterations(5_000).for_each(
        |(pick, is_right, noise, edits)| {
            let right = &BATCHES[usize::from(*pick) % BATCHES.len()];
            let bytes = sealed(if *is_right { changed(right, edits) } else { noise.clone() });
            // Twice the limit, and what the codecs themselves work with.
            let ((), peak) = peak(|| {
                for batch in batches(Bytes::from(bytes.clone())).map_while(Result::ok) {
                    for origin in [Origin::Client, Origin::Log] {
                        let limits = Limits { origin, max_decompressed_bytes: LIMIT, ..Limits::default() };
                        let _ = batch.check_records(&limits);
                    }
                    let _ = (batch.control_type(), batch.end_transaction());
                    if let Ok(records) = batch.records(LIMIT) {
                        let mut count = 0;
                        for record in records.iter().map_while(Result::ok) {
                            let _ = record.headers.count();
                            count += 1;
                        }
                        assert!(count as i64 <= i64::from(batch.record_count()), "{count}");
                        read.fetch_add(count, Relaxed);
                    }
                    if let Ok(left) = batch.filtered(Some(NOW), LIMIT, |record| record.offset % 2 == 0) {
                        left.check_crc().unwrap();
                        let again = left.records(LIMIT * 2).unwrap();
                        assert!(again.iter().all(|record| record.is_ok()) && left.next_offset() == batch.next_offset());
                    }
                }
            });
            assert!(peak <= 12 * LIMIT + 64 * bytes.len(), "{peak} bytes are taken");
        },
    );
    assert!(read.load(Relaxed) > 5_000, "{read:?}");
}

/// A log's directory with everything in it.
static LOG: LazyLock<MemoryDevice> = LazyLock::new(|| {
    let device = MemoryDevice::durable();
    let mut log = open(&device, Checkpoints::default()).unwrap();
    for number in 0..24 {
        let mut builder = Builder::new(BuilderOptions { transactional: number % 6 == 4, ..BuilderOptions::default() });
        builder.append(NOW + number, Some(b"k"), Some(&[b'x'; 20]), NO_HEADERS).unwrap();
        let producer = ProducerFields { producer_id: number % 3, producer_epoch: 0, base_sequence: number as i32 / 3 };
        log.append(&[builder.seal(producer).unwrap()], (number / 9) as i32, NOW).unwrap();
        if number % 6 == 4 {
            log.append(&[control_batch(0, 0, number % 3, 0, ControlType::Abort, 0, NOW)], (number / 9) as i32, NOW)
                .unwrap();
        }
    }
    log.close().run().unwrap();
    assert!(device.files().len() > 8);
    device
});

fn open(device: &MemoryDevice, checkpoints: Checkpoints) -> ottla::Result<Log> {
    let config =
        LogConfig { segment_bytes: 700, index_interval_bytes: 100, retention_ms: None, ..LogConfig::default() };
    Log::open(&OpenFiles::new(Arc::new(device.clone()), 4), "t-0", config, checkpoints, NOW).map(|(log, _)| log)
}

#[test]
fn files_of_a_log_are_refused_mended_or_read() {
    let names: Vec<String> = LOG.files().into_keys().collect();
    bolero::check!().with_type::<(u8, bool, Vec<u8>, Edits, bool)>().with_iterations(4_000).for_each(
        |(pick, is_right, noise, edits, is_clean)| {
            let name = &names[usize::from(*pick) % names.len()];
            let right = &LOG.files()[name];
            let device = LOG.crash(Loss::Nothing);
            let bytes = if *is_right { changed(right, edits) } else { noise.clone() };
            let size = bytes.len() + 10_000;
            device.overwrite(name, bytes);
            bounded(size, || {
                let checkpoints = if *is_clean { Checkpoints::CLEAN } else { Checkpoints::default() };
                let Ok(log) = open(&device, checkpoints) else { return };
                let mut offset = log.start();
                while offset < log.end() {
                    let Ok(slice) = log.read(offset, 1 << 16, log.end(), true) else { break };
                    let Ok(bytes) = slice.read() else { break };
                    let Some(last) = batches(bytes).map_while(Result::ok).last() else { break };
                    assert!(last.next_offset() > offset && last.next_offset() <= log.end());
                    offset = last.next_offset();
                }
                let _ = (log.offset_for_time(NOW + 5, log.end()), log.max_timestamp(), log.aborted(0, log.end()));
                let _ = log.last_stable_offset(log.end());
            });
        },
    );
}

/// A broker's answers and tasks, until nothing moves any more. Returns who was answered.
fn drain(broker: &mut Broker, now: i64) -> Vec<RequestId> {
    let mut answered = Vec::new();
    loop {
        while let Some((id, reply)) = broker.poll_response() {
            reply.read();
            answered.push(id);
        }
        let Some(task) = broker.poll_task() else { return answered };
        broker.handle_done(task.run(), now);
    }
}

fn broker(device: &MemoryDevice) -> ottla::Result<Broker> {
    let config = BrokerConfig { max_partitions: 8, ..BrokerConfig::default() };
    let mut broker = Broker::open(Arc::new(device.clone()), config, NOW, 1)?;
    drain(&mut broker, NOW);
    Ok(broker)
}

#[test]
fn each_request_that_can_be_said_is_answered_once() {
    let right: Vec<_> = REQUESTS.iter().filter(|(api, ..)| serves(*api)).collect();
    bolero::check!().with_type::<Vec<(u16, Edits)>>().with_iterations(1_000).for_each(|script| {
        let mut broker = broker(&MemoryDevice::new()).unwrap();
        let mut now = NOW;
        let mut asked = Vec::new();
        let mut answered = Vec::new();
        for (number, (pick, edits)) in script.iter().take(40).enumerate() {
            let (api, version, body) = right[usize::from(*pick) % right.len()];
            let bytes = request_frame(*api, *version, &changed(body, edits));
            let Some((request, version)) = received(&bytes) else { continue };
            let id = RequestId(number as u64);
            let context = Context { version, ..Context::default() };
            broker.handle_request(id, &context, Incoming::check(request, 1 << 20), now);
            asked.push(id);
            answered.extend(drain(&mut broker, now));
        }
        // Whoever waits for others, or for a time that was its own to choose.
        for _ in 0..8 {
            now = now.saturating_add(30 * 24 * 60 * 60_000);
            broker.handle_timeout(now);
            answered.extend(drain(&mut broker, now));
        }
        answered.sort_unstable();
        assert_eq!(answered, asked);
    });
}

/// A broker's directory: topics, groups, producer ids, checkpoints.
static BROKER: LazyLock<MemoryDevice> = LazyLock::new(|| {
    let device = MemoryDevice::durable();
    let mut broker = broker(&device).unwrap();
    for (number, (api, version, body)) in REQUESTS.iter().enumerate() {
        let asked = [ApiKey::CREATE_TOPICS, ApiKey::OFFSET_COMMIT, ApiKey::INIT_PRODUCER_ID, ApiKey::METADATA];
        if asked.contains(api)
            && let Some((request, version)) = received(&request_frame(*api, *version, body))
            && serves(*api)
        {
            let context = Context { version, ..Context::default() };
            broker.handle_request(RequestId(number as u64), &context, Incoming::check(request, 1 << 20), NOW);
            drain(&mut broker, NOW);
        }
    }
    for topic in ["orders", "groups"] {
        let name = [&(topic.len() as u16).to_be_bytes()[..], topic.as_bytes()].concat();
        let body = [&1_i32.to_be_bytes()[..], &name, &[0, 0, 0, 2, 0, 1], &[0; 8], &[0, 0, 0, 9, 0]].concat();
        let (request, version) = received(&request_frame(ApiKey::CREATE_TOPICS, 2, &body)).unwrap();
        let context = Context { version, ..Context::default() };
        broker.handle_request(RequestId(0), &context, Incoming::check(request, 1 << 20), NOW);
        drain(&mut broker, NOW);
    }
    broker.close(NOW).unwrap();
    assert!(device.files().len() > 10, "{:?}", device.files().keys());
    device
});

#[test]
fn files_of_a_broker_are_refused_or_opened() {
    let names: Vec<String> = BROKER.files().into_keys().collect();
    bolero::check!().with_type::<(u8, bool, Vec<u8>, Edits)>().with_iterations(2_000).for_each(
        |(pick, is_right, noise, edits)| {
            let name = &names[usize::from(*pick) % names.len()];
            let device = BROKER.crash(Loss::Nothing);
            let bytes = if *is_right { changed(&BROKER.files()[name], edits) } else { noise.clone() };
            device.overwrite(name, bytes);
            bounded(100_000, || {
                let Ok(mut broker) = broker(&device) else { return };
                broker.close(NOW).unwrap();
            });
        },
    );
}

#[test]
fn manifests_are_refused_or_say_the_same_when_they_are_written_again() {
    fn check<M: Manifest>(bytes: &[u8]) -> bool {
        let Ok(manifest) = M::decode(bytes) else { return false };
        let written = manifest.encode();
        assert_eq!(M::decode(&written).unwrap().encode(), written);
        true
    }
    let mut right = Vec::new();
    let mut folders = vec![data("repository-1")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                right.push(std::fs::read(path).unwrap());
            }
        }
    }
    right.sort();
    let read = AtomicUsize::new(0);
    bolero::check!().with_type::<(u8, bool, Vec<u8>, Edits)>().with_iterations(20_000).for_each(
        |(pick, is_right, noise, edits)| {
            let right = &right[usize::from(*pick) % right.len()];
            let bytes = if *is_right { changed(right, edits) } else { noise.clone() };
            let kinds = [
                check::<RepositoryManifest>,
                check::<SnapshotManifest>,
                check::<TopicsManifest>,
                check::<TopicManifest>,
                check::<PartitionManifest>,
                check::<PageManifest>,
                check::<GroupsManifest>,
                check::<PendingManifest>,
            ];
            let understood = bounded(bytes.len(), || kinds.iter().filter(|check| check(&bytes)).count());
            assert!(understood <= 1, "a manifest is of one kind");
            read.fetch_add(understood, Relaxed);
        },
    );
    assert!(read.load(Relaxed) > 100, "{read:?}");
}

#[test]
fn a_batch_in_memory_is_what_it_was_on_the_wire() {
    type Fields = (Option<Vec<u8>>, Option<Vec<u8>>, i16);
    bolero::check!().with_type::<(u8, Vec<Fields>)>().with_iterations(4_000).for_each(|(codec, fields)| {
        let compression = Compression::ALL[usize::from(*codec) % 5];
        let mut builder = Builder::new(BuilderOptions { compression, ..BuilderOptions::default() });
        for (key, value, time) in fields {
            builder.append(NOW + i64::from(*time), key.as_deref(), value.as_deref(), NO_HEADERS).unwrap();
        }
        let Ok(batch) = builder.seal(ProducerFields::NONE) else { return assert!(fields.is_empty()) };
        let batch = Batch::single(batch.into_bytes()).unwrap();
        batch.check_records(&Limits::default()).unwrap();
        let records = batch.records(usize::MAX).unwrap();
        let found: Vec<Fields> = records
            .iter()
            .map(Result::unwrap)
            .map(|record| {
                (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), (record.timestamp - NOW) as i16)
            })
            .collect();
        assert_eq!(&found, fields);
    });
}

/// The system's allocator, which counts for each thread.
struct Counting;

thread_local! {
    static TAKEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// What `act` returns, and how many bytes it had at most at a time.
fn peak<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = TAKEN.with(|taken| {
        let (now, _) = taken.get();
        taken.set((now, now));
        now
    });
    let result = act();
    (result, TAKEN.with(|taken| taken.get().1).saturating_sub(before))
}

fn count(taken: usize, given: usize) {
    // A thread that ends has nothing to count with any more.
    let _ = TAKEN.try_with(|cell| {
        let (now, most) = cell.get();
        let now = (now + taken).saturating_sub(given);
        cell.set((now, most.max(now)));
    });
}

#[allow(unsafe_code)] // an allocator can be nothing else
// SAFETY: everything is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
