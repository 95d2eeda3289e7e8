use bytes::Bytes;

use super::{
    batch::{ATTRIBUTES, BATCH_LENGTH, CRC, LAST_OFFSET_DELTA, MAX_TIMESTAMP, RECORD_COUNT, seal_crc},
    *,
};
use crate::{Error, ErrorKind};

// What the batches in tests/data/record hold.

#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn samples() -> Vec<Sample> {
    let sample = |i: i64| Sample {
        timestamp: 1_700_000_000_000 + i * 37 % 101 - 50,
        key: match i % 3 {
            0 => None,
            1 => Some(vec![]),
            _ => Some(format!("key-{i}").into_bytes()),
        },
        value: match i % 5 {
            0 => None,
            1 => Some(vec![]),
            _ => Some(format!(r#"{{"id":{i},"carrier":"UA","origin":"EWR"}}"#).into_bytes()),
        },
        headers: match i % 4 {
            1 => vec![("trace".into(), Some(vec![0, 1, 255])), ("trace".into(), None)],
            2 => vec![("ключ".into(), Some(vec![]))],
            _ => vec![],
        },
    };
    (0..30).map(sample).collect()
}

fn samples_and_a_large_one() -> Vec<Sample> {
    let mut samples = samples();
    samples.push(Sample {
        timestamp: 1_700_000_000_777,
        key: Some(b"large".to_vec()),
        value: Some((0..100_000).map(|i| b'a' + (i % 10) as u8).collect()),
        headers: vec![],
    });
    samples
}

fn append(builder: &mut Builder, sample: &Sample) -> i32 {
    let headers = sample.headers.iter().map(|(key, value)| (key, value.as_deref()));
    let expected = builder.size_if(sample.timestamp, sample.key.as_deref(), sample.value.as_deref(), headers.clone());
    let index = builder.append(sample.timestamp, sample.key.as_deref(), sample.value.as_deref(), headers).unwrap();
    assert_eq!(builder.estimated_size(), expected, "size_if differs from what append makes");
    index
}

fn builder(options: BuilderOptions, samples: &[Sample]) -> Builder {
    let mut builder = Builder::new(options);
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(append(&mut builder, sample), i as i32);
    }
    builder
}

fn batch(compression: Compression, samples: &[Sample]) -> Batch {
    builder(BuilderOptions { compression, ..Default::default() }, samples).seal(ProducerFields::NONE).unwrap()
}

fn read(batch: &Batch) -> Result<Vec<(i64, Sample)>, RecordError> {
    let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES)?;
    let mut all = vec![];
    for record in &records {
        let record = record?;
        let mut headers = vec![];
        for header in record.headers {
            let (key, value) = header?;
            headers.push((key.to_owned(), value.map(<[u8]>::to_vec)));
        }
        let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
        all.push((record.offset, Sample { timestamp: record.timestamp, key, value, headers }));
    }
    Ok(all)
}

#[track_caller]
fn check_holds(batch: &Batch, base_offset: i64, samples: &[Sample]) {
    let read = read(batch).unwrap();
    assert_eq!(read.len(), samples.len());
    for (i, ((offset, read), sample)) in read.iter().zip(samples).enumerate() {
        assert_eq!((*offset, read), (base_offset + i as i64, sample), "record {i}");
    }
}

fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

macro_rules! data {
    ($name:literal) => {
        hex(include_str!(concat!("../../../tests/data/record/", $name, ".hex")))
    };
}

fn written_by_kafka(codec: Compression) -> Batch {
    Batch::single(match codec {
        Compression::None => data!("kafka_none"),
        Compression::Gzip => data!("kafka_gzip"),
        Compression::Snappy => data!("kafka_snappy"),
        Compression::Lz4 => data!("kafka_lz4"),
        Compression::Zstd => data!("kafka_zstd"),
    })
    .unwrap()
}

fn any_origin() -> Limits {
    Limits { origin: Origin::Log, ..Limits::default() }
}

/// A batch changed by hand, with the checksum made right again.
fn forged(batch: &Batch, change: impl FnOnce(&mut Vec<u8>)) -> Result<Batch, RecordError> {
    let mut bytes = batch.as_bytes().to_vec();
    change(&mut bytes);
    let length = (bytes.len() - Batch::LOG_OVERHEAD) as i32;
    bytes[BATCH_LENGTH..BATCH_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    seal_crc(&mut bytes);
    Batch::single(bytes.into())
}

/// A batch that claims `count` records at consecutive offsets, whatever `records` are.
fn batch_of(codec: Compression, count: i32, records: &[u8]) -> Batch {
    forged(&batch(Compression::None, &samples()[..1]), |bytes| {
        bytes.truncate(Batch::HEADER_LEN);
        bytes.extend_from_slice(records);
        bytes[ATTRIBUTES + 1] = codec.id();
        bytes[LAST_OFFSET_DELTA..LAST_OFFSET_DELTA + 4].copy_from_slice(&(count - 1).max(0).to_be_bytes());
        bytes[RECORD_COUNT..RECORD_COUNT + 4].copy_from_slice(&count.to_be_bytes());
    })
    .unwrap()
}

#[track_caller]
fn check_refused(batch: &Batch, limits: &Limits, expected: RecordError, code: i16) {
    assert_eq!(batch.check_records(limits), Err(expected.clone()));
    assert_eq!(expected.kafka_code(), code, "{expected}");
}

/// A generator of the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = match self.below(10) {
            0 => return None,
            1 => 0,
            2 => self.below(40_000),
            3 => 60 + self.below(10),
            _ => self.below(200),
        };
        // Half of them compress, half do not.
        let alphabet = [2, 256][self.below(2) as usize];
        Some((0..len).map(|_| self.below(alphabet) as u8).collect())
    }

    fn sample(&mut self) -> Sample {
        let timestamp = match self.below(20) {
            0 => self.next() as i64,
            1 => -1,
            _ => 1_700_000_000_000 + self.below(10_000) as i64,
        };
        let headers = (0..self.below(4)).map(|i| (["", "a", "ключ"][i as usize % 3].to_owned(), self.bytes()));
        Sample { timestamp, headers: headers.collect(), key: self.bytes(), value: self.bytes() }
    }
}

// Reading what others write.

#[test]
fn records_of_each_codec_are_read_as_kafka_wrote_them() {
    for codec in Compression::ALL {
        let batch = written_by_kafka(codec);
        let expected = if codec == Compression::None { samples() } else { samples_and_a_large_one() };
        assert_eq!(batch.compression(), codec);
        check_holds(&batch, 0, &expected);
        let checked = batch.check_records(&Limits::default()).unwrap();
        assert_eq!(checked.count as usize, expected.len());
        assert_eq!(checked.max_timestamp, batch.max_timestamp());
        assert_eq!(Some(checked.min_timestamp), expected.iter().map(|sample| sample.timestamp).min());
        assert_eq!(expected[checked.max_timestamp_delta as usize].timestamp, checked.max_timestamp);
    }
    check_holds(&Batch::single(data!("kafka_python_lz4")).unwrap(), 0, &samples_and_a_large_one());
}

#[test]
fn a_sealed_batch_has_the_bytes_that_kafka_writes() {
    assert_eq!(batch(Compression::None, &samples()), written_by_kafka(Compression::None));

    let options = BuilderOptions { transactional: true, ..Default::default() };
    let producer = ProducerFields { producer_id: 4711, producer_epoch: 3, base_sequence: 2_147_483_640 };
    let batch = builder(options, &samples()).seal_at(producer, 1_234_567_890_123, 7).unwrap();
    assert_eq!(batch.as_bytes(), &data!("kafka_transactional"));
    assert_eq!(batch.last_sequence(), 21);

    let sealed = builder(BuilderOptions::default(), &samples()).seal_at(ProducerFields::NONE, 42, 0).unwrap();
    assert_eq!(sealed.with_log_append_time(1_700_000_009_999).as_bytes(), &data!("kafka_log_append_time"));

    let control = |offset, control_type, time| control_batch(offset, 5, 4711, 3, control_type, 11, time);
    assert_eq!(control(77, ControlType::Commit, 1_700_000_000_000).as_bytes(), &data!("kafka_commit"));
    assert_eq!(control(78, ControlType::Abort, 1_700_000_000_001).as_bytes(), &data!("kafka_abort"));
}

#[test]
fn snappy_is_framed_as_java_frames_it_and_read_without_a_frame_too() {
    let plain = &batch(Compression::None, &samples()).into_bytes()[Batch::HEADER_LEN..];
    let framed = written_by_kafka(Compression::Snappy);
    let ours = batch(Compression::Snappy, &samples_and_a_large_one());
    assert_eq!(framed.as_bytes()[Batch::HEADER_LEN..][..16], ours.as_bytes()[Batch::HEADER_LEN..][..16]);

    let bare = snap::raw::Encoder::new().compress_vec(plain).unwrap();
    check_holds(&batch_of(Compression::Snappy, 30, &bare), 0, &samples()[..]);

    // Two streams, one after the other, are one.
    let mut two = vec![];
    Compression::Snappy.compress(None, &plain[..500], &mut two).unwrap();
    Compression::Snappy.compress(None, &plain[500..], &mut two).unwrap();
    assert_eq!(Compression::Snappy.decompress(&two, plain.len()).unwrap(), plain);
}

#[test]
fn gzip_members_one_after_the_other_are_one_stream() {
    let plain = &batch(Compression::None, &samples()).into_bytes()[Batch::HEADER_LEN..];
    let mut two = vec![];
    Compression::Gzip.compress(Some(1), &plain[..500], &mut two).unwrap();
    Compression::Gzip.compress(Some(100), &plain[500..], &mut two).unwrap();
    let batch = batch_of(Compression::Gzip, 30, &two);
    assert_eq!(batch.records(1 << 20).unwrap().bytes(), plain);
    assert_eq!(batch.check_records(&Limits::default()).unwrap().plain_bytes, plain.len() as u64);
}

#[test]
fn lz4_frames_are_taken_exactly_where_java_takes_them() {
    let plain: Vec<u8> = (0..100_000).map(|i| b'a' + (i % 10) as u8).collect();
    let lz4 = |frame: &[u8]| Compression::Lz4.decompress(frame, 1 << 20).map_err(|error| error.to_string());
    let frame = data!("lz4_frame_all_checksums");
    assert_eq!(lz4(&frame).unwrap(), plain);

    let changed = |at: usize, bits: u8| {
        let mut frame = frame.to_vec();
        frame[at] ^= bits;
        lz4(&frame).unwrap_err()
    };
    assert_eq!(changed(0, 1), "lz4 failed: not an lz4 frame");
    assert_eq!(changed(4, 0x80), "lz4 failed: unknown version of the lz4 frame");
    assert_eq!(changed(5, 0x08), "lz4 failed: unknown flags in the lz4 header");
    assert_eq!(changed(14, 1), "lz4 failed: lz4 header checksum differs");
    assert_eq!(changed(30, 1), "lz4 failed: lz4 block checksum differs");
    assert_eq!(
        lz4(&data!("lz4_frame_linked")).unwrap_err(),
        "lz4 failed: lz4 blocks depend on each other, which Kafka does not read"
    );
    assert_eq!(lz4(&[0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0]).unwrap_err(), "lz4 failed: not an lz4 frame");
    // Java fails on a frame without its end mark, even when all records are there.
    let ours = batch(Compression::Lz4, &samples());
    let without_end = forged(&ours, |bytes| bytes.truncate(bytes.len() - 4)).unwrap();
    let reason = "lz4 frame is cut off".to_owned();
    check_refused(&without_end, &Limits::default(), RecordError::Codec { codec: Compression::Lz4, reason }, 87);
}

#[test]
fn xxh32_gives_the_published_values() {
    let cases: [(&[u8], u32); 4] = [
        (b"", 0x02cc_5d05),
        (b"a", 0x550d_7456),
        (b"abc", 0x32d1_53ff),
        (b"Nobody inspects the spammish repetition", 0xe229_3b2f),
    ];
    for (bytes, hash) in cases {
        assert_eq!(compression::xxh32(bytes), hash);
    }
}

#[test]
fn control_batches_tell_how_a_transaction_ended() {
    let commit = Batch::single(data!("kafka_commit")).unwrap();
    assert!(commit.is_control() && commit.is_transactional());
    assert_eq!(commit.control_type(), Ok(ControlType::Commit));
    let end = EndTransaction { control_type: ControlType::Commit, coordinator_epoch: 11 };
    assert_eq!(commit.end_transaction(), Ok(end));
    assert_eq!(Batch::single(data!("kafka_abort")).unwrap().control_type(), Ok(ControlType::Abort));
    commit.check_records(&any_origin()).unwrap();

    let leader_change = control_batch(9, 1, -1, -1, ControlType::Other(2), 0, 0);
    assert_eq!(leader_change.control_type(), Ok(ControlType::Other(2)));
    assert_eq!(leader_change.end_transaction(), Err(RecordError::MalformedControl { base_offset: 9 }));
    let plain = batch(Compression::None, &samples());
    assert_eq!(plain.control_type(), Err(RecordError::NotControl { base_offset: 0 }));
    // A claim to be one, without the key of one.
    let forged = forged(&plain, |bytes| bytes[ATTRIBUTES + 1] |= 1 << 5).unwrap();
    assert_eq!(forged.control_type(), Err(RecordError::MalformedControl { base_offset: 0 }));
}

// Round trips.

#[test]
fn whatever_is_appended_is_read_back_through_each_codec() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let samples: Vec<Sample> = (0..1 + random.below(60)).map(|_| random.sample()).collect();
        let plain_size = builder(BuilderOptions::default(), &samples).estimated_size();
        for codec in Compression::ALL {
            let level = if seed % 2 == 0 { None } else { Some(random.below(30) as i32 - 5) };
            let options = BuilderOptions { compression: codec, level, ..Default::default() };
            let sealed = builder(options, &samples).seal(ProducerFields::NONE).unwrap();
            if codec == Compression::None {
                assert_eq!(sealed.size(), plain_size);
            }
            check_holds(&sealed, 0, &samples);
            let checked = sealed.check_records(&Limits::default()).unwrap();
            let largest = samples.iter().map(|sample| sample.timestamp).max();
            assert_eq!((Some(checked.max_timestamp), Some(sealed.max_timestamp())), (largest, largest));
            assert_eq!(checked.plain_bytes as usize, plain_size - Batch::HEADER_LEN);
        }
    }
}

#[test]
fn varints_of_every_length_are_read_back_and_measured() {
    let mut values = vec![0, i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX)];
    for bits in 0..63 {
        values.extend([1 << bits, (1 << bits) - 1, -(1 << bits), -(1 << bits) - 1]);
    }
    for value in values {
        let mut bytes = vec![];
        varint::put(&mut bytes, value);
        assert_eq!(varint::size(value), bytes.len(), "{value}");
        let mut rest = &bytes[..];
        let mut next = || rest.split_off_first().copied().ok_or(());
        assert_eq!(varint::read64(&mut next), Ok(Some(value)));
        assert!(rest.is_empty());
        let mut rest = &bytes[..];
        let mut next = || rest.split_off_first().copied().ok_or(());
        assert_eq!(varint::read32(&mut next), Ok(i32::try_from(value).ok()), "{value}");
    }
    assert_eq!(varint::read64::<()>(|| Ok(0xff)), Ok(None), "an endless one ends");
    assert_eq!(varint::read32::<()>(|| Ok(0x80)), Ok(None), "an endless one ends");
}

#[test]
fn header_keys_that_are_not_text_are_read_as_bytes_only() {
    let mut builder = Builder::new(BuilderOptions::default());
    builder.append(0, None, None, [(&[0xff_u8][..], None), (b"ok", Some(&b"v"[..]))].into_iter()).unwrap();
    let batch = builder.seal(ProducerFields::NONE).unwrap();
    batch.check_records(&Limits::default()).unwrap();
    let records = batch.records(0).unwrap();
    let headers = records.iter().next().unwrap().unwrap().headers;
    assert_eq!(headers.len(), 2);
    let raw: Vec<_> = headers.raw().map(Result::unwrap).collect();
    assert_eq!(raw, [(&[0xff][..], None), (b"ok", Some(&b"v"[..]))]);
    let error = RecordError::Malformed { index: 0, field: Field::HeaderKey };
    assert_eq!(headers.collect::<Result<Vec<_>, _>>(), Err(error));
}

#[test]
fn an_empty_builder_seals_nothing() {
    let builder = Builder::new(BuilderOptions::default());
    assert!(builder.is_empty());
    assert_eq!(builder.estimated_size(), Batch::HEADER_LEN);
    let error = builder.seal(ProducerFields::NONE).unwrap_err();
    assert_eq!(error, RecordError::Count { count: 0, last_offset_delta: -1 });
}

// The header.

#[test]
fn a_stamp_changes_offset_and_epoch_and_leaves_the_checksum_right() {
    let batch = written_by_kafka(Compression::Lz4);
    let mut bytes = batch.stamp(1_000_000_000_000, 9).to_vec();
    bytes.extend_from_slice(&batch.as_bytes()[16..]);
    let stamped = Batch::single(bytes.into()).unwrap();
    assert_eq!(stamped, batch.stamped(1_000_000_000_000, 9));
    stamped.check_crc().unwrap();
    assert_eq!((stamped.base_offset(), stamped.partition_leader_epoch()), (1_000_000_000_000, 9));
    assert_eq!((stamped.last_offset(), stamped.next_offset()), (1_000_000_000_030, 1_000_000_000_031));
    check_holds(&stamped, 1_000_000_000_000, &samples_and_a_large_one());
}

#[test]
fn log_append_time_is_the_time_of_all_records() {
    let batch = batch(Compression::Zstd, &samples()).with_log_append_time(5);
    batch.check_crc().unwrap();
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(batch.max_timestamp(), 5);
    assert!(read(&batch).unwrap().iter().all(|(_, sample)| sample.timestamp == 5));
    check_refused(&batch, &Limits::default(), RecordError::ProducerLogAppendTime, 32);
    let built = BuilderOptions { timestamp_type: TimestampType::LogAppendTime, ..Default::default() };
    let built = builder(built, &samples()).seal(ProducerFields::NONE).unwrap();
    assert_eq!(built.timestamp_type(), TimestampType::LogAppendTime);
}

#[test]
fn edited_headers_keep_the_checksum_right() {
    let batch = batch(Compression::Gzip, &samples());
    let producer = ProducerFields { producer_id: 5, producer_epoch: 6, base_sequence: i32::MAX };
    let with_producer = batch.with_producer(producer);
    with_producer.check_records(&Limits::default()).unwrap();
    assert_eq!((with_producer.producer_id(), with_producer.producer_epoch()), (5, 6));
    assert_eq!((with_producer.base_sequence(), with_producer.last_sequence()), (i32::MAX, 28));
    assert_eq!(batch.last_sequence(), -1);

    let lying = forged(&batch, |bytes| bytes[MAX_TIMESTAMP] = 0x7f).unwrap();
    let checked = lying.check_records(&Limits::default()).unwrap();
    assert_ne!(checked.max_timestamp, lying.max_timestamp());
    assert_eq!(lying.with_max_timestamp(checked.max_timestamp), batch);
}

#[test]
fn batches_are_split_up_to_a_partial_tail_or_an_error() {
    let one = batch(Compression::None, &samples()[..1]);
    let two = batch(Compression::Zstd, &samples());
    let mut bytes = [&one.as_bytes()[..], &two.as_bytes()[..]].concat();
    let whole = Bytes::from(bytes.clone());
    assert_eq!(batches(whole.clone()).collect::<Result<Vec<_>, _>>().unwrap(), [one.clone(), two.clone()]);
    for end in one.size()..whole.len() {
        let found: Vec<_> = batches(whole.slice(..end)).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, std::slice::from_ref(&one), "cut at {end}");
    }

    bytes[one.size() + 16] = 3;
    let found: Vec<_> = batches(bytes.into()).collect();
    assert_eq!(found, [Ok(one.clone()), Err(RecordError::Magic { base_offset: 0, magic: 3 })]);

    let error = Batch::single(whole.clone()).unwrap_err();
    assert_eq!(error, RecordError::AfterBatch { size: one.size(), trailing: two.size() });
    assert_eq!(error.kafka_code(), 87);
    assert_eq!(Batch::claimed_size(&whole[..12]), Some(one.size()));
    assert_eq!(Batch::claimed_size(&whole[..11]), None);
}

#[test]
fn what_cannot_be_a_batch_is_refused_with_kafkas_code() {
    let whole = batch(Compression::None, &samples());
    let single = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.as_bytes().to_vec();
        change(&mut bytes);
        Batch::single(bytes.into()).unwrap_err()
    };
    type Change = &'static dyn Fn(&mut Vec<u8>);
    let cases: [(Change, i16); 9] = [
        (&|bytes| bytes.clear(), 87),
        (&|bytes| bytes.truncate(30), 87),
        (&|bytes| bytes[BATCH_LENGTH] = 0x80, 2),
        (&|bytes| bytes[BATCH_LENGTH] = 0x7f, 87),
        (&|bytes| bytes[BATCH_LENGTH + 2..BATCH_LENGTH + 4].copy_from_slice(&[0, 48]), 2),
        (&|bytes| bytes[16] = 1, 87),
        (&|bytes| bytes[16] = 0xff, 2),
        (&|bytes| bytes[ATTRIBUTES + 1] = 5, 76),
        (&|bytes| bytes[LAST_OFFSET_DELTA] = 0xff, 87),
    ];
    for (i, (change, code)) in cases.into_iter().enumerate() {
        let error = single(change);
        assert_eq!(error.kafka_code(), code, "case {i}: {error}");
    }
    // The next offset is a number, too.
    assert!(single(&|bytes| bytes[..8].copy_from_slice(&(i64::MAX - 29).to_be_bytes())).kafka_code() == 87);
    let mut bytes = whole.as_bytes().to_vec();
    bytes[..8].copy_from_slice(&(i64::MAX - 30).to_be_bytes());
    assert_eq!(Batch::single(bytes.into()).unwrap().next_offset(), i64::MAX);
}

// What a broker refuses.

#[test]
fn a_batch_that_breaks_a_rule_is_refused_with_the_reason_and_kafkas_code() {
    let batch = batch(Compression::None, &samples());
    let limits = Limits::default();
    let forged = |change: &dyn Fn(&mut Vec<u8>)| forged(&batch, |bytes| change(bytes)).unwrap();

    let mut bytes = batch.as_bytes().to_vec();
    bytes[CRC] ^= 1;
    let (expected, found) = (batch.crc() ^ 1 << 24, batch.crc());
    let wrong = Batch::single(bytes.into()).unwrap();
    check_refused(&wrong, &limits, RecordError::Checksum { base_offset: 0, expected, found }, 2);

    let max_batch_bytes = batch.size() - 1;
    let error = RecordError::TooLarge { size: batch.size(), limit: max_batch_bytes };
    check_refused(&batch, &Limits { max_batch_bytes, ..limits.clone() }, error, 10);
    let error = RecordError::TooManyRecords { count: 30, limit: 29 };
    check_refused(&batch, &Limits { max_records: 29, ..limits.clone() }, error, 10);

    for count in [i32::MIN, -1, 0, 29, 31, i32::MAX] {
        let wrong = forged(&|bytes| bytes[RECORD_COUNT..][..4].copy_from_slice(&count.to_be_bytes()));
        check_refused(&wrong, &limits, RecordError::Count { count, last_offset_delta: 29 }, 87);
    }
    let error = RecordError::BaseOffset { base_offset: 1 };
    check_refused(&batch.stamped(1, 0), &limits, error, 87);
    check_refused(&forged(&|bytes| bytes[ATTRIBUTES + 1] |= 1 << 5), &limits, RecordError::Control, 87);

    let producers = [
        (ProducerFields { producer_id: 1, producer_epoch: -1, base_sequence: 0 }, false),
        (ProducerFields { producer_id: 1, producer_epoch: 0, base_sequence: -1 }, false),
        (ProducerFields { producer_id: -2, producer_epoch: 0, base_sequence: 0 }, false),
        (ProducerFields::NONE, true),
    ];
    for (producer, transactional) in producers {
        let options = BuilderOptions { transactional, ..Default::default() };
        let wrong = builder(options, &samples()).seal(producer).unwrap();
        let ProducerFields { producer_id, producer_epoch, base_sequence } = producer;
        let error = RecordError::Producer { producer_id, producer_epoch, base_sequence, transactional };
        check_refused(&wrong, &limits, error, 87);
    }

    check_refused(&batch, &Limits { keys_required: true, ..limits.clone() }, RecordError::KeyRequired { index: 0 }, 87);
    let (min, max) = (1_699_999_999_950, 1_700_000_000_046);
    let (index, timestamp) = (19, 1_700_000_000_047);
    assert_eq!(samples()[index as usize].timestamp, timestamp);
    let error = RecordError::TimestampRange { index, timestamp, min, max };
    check_refused(&batch, &Limits { timestamps: min..=max, ..limits.clone() }, error, 32);
    assert!(batch.check_records(&Limits { timestamps: min..=timestamp, ..limits.clone() }).is_ok());
    let untimed = Sample { timestamp: -1, ..Sample::default() };
    let untimed = builder(BuilderOptions::default(), &[untimed]).seal(ProducerFields::NONE).unwrap();
    assert!(untimed.check_records(&Limits { timestamps: min..=max, ..limits }).is_ok());
}

#[test]
fn a_malformed_record_is_refused_by_the_field_where_it_is_wrong() {
    let malformed = |field| RecordError::Malformed { index: 0, field };
    // length, attributes, timestamp delta, offset delta, key, value, headers
    let cases: [(&[u8], i32, RecordError); 18] = [
        (&[], 1, malformed(Field::Length)),
        (&[12, 0, 0, 0, 1, 1], 1, malformed(Field::HeaderCount)),
        (&[1, 0, 0, 0, 1, 1, 0], 1, malformed(Field::Length)),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], 1, malformed(Field::Length)),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1, malformed(Field::Length)),
        (&[10, 0, 0, 0, 1, 1, 0], 1, malformed(Field::Length)),
        (&[14, 0, 0, 0, 1, 1, 0, 0], 1, malformed(Field::Length)),
        (&[14, 0, 0, 0, 1, 1, 0], 1, malformed(Field::Length)),
        (&[12, 0, 0, 0, 3, 1, 0], 1, malformed(Field::Key)),
        (&[12, 0, 0, 0, 8, 1, 0], 1, malformed(Field::Key)),
        (&[12, 0, 0, 0, 1, 3, 0], 1, malformed(Field::Value)),
        (&[12, 0, 0, 0, 1, 4, 0], 1, malformed(Field::Value)),
        (&[12, 0, 0, 0, 1, 1, 1], 1, malformed(Field::HeaderCount)),
        (&[12, 0, 0, 0, 1, 1, 2], 1, malformed(Field::HeaderCount)),
        (&[16, 0, 0, 0, 1, 1, 2, 1, 1], 1, malformed(Field::HeaderKey)),
        (&[16, 0, 0, 0, 1, 1, 2, 0, 2], 1, malformed(Field::HeaderValue)),
        (&[12, 0, 0, 0, 1, 1, 0, 0], 1, RecordError::AfterRecords { count: 1 }),
        (&[12, 0, 0, 2, 1, 1, 0], 1, RecordError::Offset { index: 0, offset_delta: 1 }),
    ];
    for (i, (records, count, expected)) in cases.into_iter().enumerate() {
        for codec in Compression::ALL {
            let mut packed = vec![];
            codec.compress(None, records, &mut packed).unwrap();
            let batch = batch_of(codec, count, &packed);
            let found = batch.check_records(&Limits::default()).unwrap_err();
            // A cut-off length field or a length beyond the bytes may show at another field: still malformed.
            let same = match (&found, &expected) {
                (RecordError::Malformed { index: 0, .. }, RecordError::Malformed { field: Field::Length, .. }) => true,
                (found, expected) => found == expected,
            };
            assert!(same, "case {i} with {codec}: expected {expected:?}, found {found:?}");
            assert_eq!(found.kafka_code(), 87);
            assert!(read(&batch).is_err(), "case {i} with {codec} is read");
        }
    }
}

#[test]
fn only_a_log_has_gaps_and_batches_without_records() {
    // Of three records the second is gone, and the first and third keep their offsets.
    let records: [u8; 14] = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0];
    let compacted = forged(&batch_of(Compression::None, 3, &records), |bytes| bytes[RECORD_COUNT + 3] = 2).unwrap();
    let offsets: Vec<i64> = read(&compacted).unwrap().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 2]);
    assert_eq!(compacted.check_records(&any_origin()).unwrap().count, 2);
    check_refused(&compacted, &Limits::default(), RecordError::Count { count: 2, last_offset_delta: 2 }, 87);

    for codec in Compression::ALL {
        let emptied = forged(&batch_of(codec, 3, &[]), |bytes| bytes[RECORD_COUNT + 3] = 0).unwrap();
        assert_eq!(read(&emptied), Ok(vec![]));
        assert_eq!(emptied.check_records(&any_origin()).unwrap().max_timestamp, -1);
        check_refused(&emptied, &Limits::default(), RecordError::Count { count: 0, last_offset_delta: 2 }, 87);
    }

    // Offsets that go back, or beyond the last, are nobody's.
    for (first, second) in [(4, 2), (2, 2), (0, 6), (0, 1)] {
        let records = [12, 0, 0, first, 1, 1, 0, 12, 0, 0, second, 1, 1, 0];
        let batch = forged(&batch_of(Compression::None, 3, &records), |bytes| bytes[RECORD_COUNT + 3] = 2).unwrap();
        assert!(matches!(batch.check_records(&any_origin()), Err(RecordError::Offset { index: 1, .. })));
        assert_eq!(read(&batch), Err(RecordError::Malformed { index: 1, field: Field::OffsetDelta }));
    }
}

#[test]
fn a_claimed_count_reserves_nothing() {
    for codec in Compression::ALL {
        let mut packed = vec![];
        codec.compress(None, &[12, 0, 0, 0, 1, 1, 0], &mut packed).unwrap();
        let batch = batch_of(codec, i32::MAX, &packed);
        assert_eq!(batch.record_count(), i32::MAX);
        assert_eq!(batch.check_records(&Limits::default()).unwrap_err().kafka_code(), 87);
        let records = batch.records(1000).unwrap();
        assert_eq!(records.iter().size_hint().0, 0);
        assert_eq!(records.iter().count(), 2, "a record and an error");
    }
    // A header count that only the record's length could tell to be impossible.
    let batch = batch_of(Compression::None, 1, &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
    let error = RecordError::Malformed { index: 0, field: Field::HeaderCount };
    assert_eq!(batch.check_records(&Limits::default()), Err(error.clone()));
    assert_eq!(read(&batch), Err(error));
}

#[test]
fn decompression_ends_at_the_limit() {
    let large = Sample { value: Some(vec![0; 8 << 20]), ..Default::default() };
    for codec in Compression::ALL.into_iter().skip(1) {
        let bomb = batch(codec, std::slice::from_ref(&large));
        let plain = bomb.records(1 << 30).unwrap().bytes().len();
        let error = |limit| RecordError::DecompressedTooLarge { codec, limit };
        for limit in [0, 1, 1000, 1 << 20, plain - 1] {
            assert_eq!(bomb.records(limit).unwrap_err(), error(limit));
            let limits = Limits { max_decompressed_bytes: limit, ..Default::default() };
            check_refused(&bomb, &limits, error(limit), 10);
        }
        assert_eq!(bomb.records(plain).unwrap().bytes().len(), plain);
        let limits = Limits { max_decompressed_bytes: plain, ..Default::default() };
        assert_eq!(bomb.check_records(&limits).unwrap().plain_bytes, plain as u64);
    }
    // The same for many records, of which each is small.
    let many = vec![Sample { value: Some(vec![7; 100]), ..Default::default() }; 20_000];
    for codec in Compression::ALL.into_iter().skip(1) {
        let limit = 1_000_000;
        let limits = Limits { max_decompressed_bytes: limit, ..Default::default() };
        check_refused(&batch(codec, &many), &limits, RecordError::DecompressedTooLarge { codec, limit }, 10);
    }
}

#[test]
fn sizes_that_a_codec_claims_are_not_believed() {
    // Bare snappy: 4 GiB - 1 in 7 bytes, and 2 MiB in as many as could never hold them.
    for claim in [&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0][..], &[0x80, 0x80, 0x80, 0x01, 0, 0, 0]] {
        let batch = batch_of(Compression::Snappy, 1, claim);
        assert!(matches!(batch.records(1 << 20), Err(RecordError::Codec { .. })));
        assert!(matches!(batch.check_records(&Limits::default()), Err(RecordError::Codec { .. })));
    }
    // Framed snappy: a chunk longer than what is there, and one of -1 bytes.
    for length in [100u32, u32::MAX] {
        let mut packed = vec![];
        Compression::Snappy.compress(None, b"", &mut packed).unwrap();
        packed.extend_from_slice(&length.to_be_bytes());
        packed.extend_from_slice(&[1; 10]);
        let batch = batch_of(Compression::Snappy, 1, &packed);
        let reason = "snappy chunk is cut off".to_owned();
        check_refused(&batch, &Limits::default(), RecordError::Codec { codec: Compression::Snappy, reason }, 87);
    }
    // zstd: a window of 256 MiB; and a content size of 2^62 in a frame of one byte, which is no lie that costs anything.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x90, 0x09, 0, 0, 0];
    let claim = [0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x09, 0, 0, 0];
    for frame in [&window[..], &claim] {
        let batch = batch_of(Compression::Zstd, 1, frame);
        assert!(matches!(batch.records(1 << 20), Err(RecordError::Codec { .. })), "{:?}", batch.records(1 << 20));
        assert!(matches!(batch.check_records(&Limits::default()), Err(RecordError::Codec { .. })));
    }
    // LZ4: a block of 2 GiB - 1.
    let mut packed = vec![];
    Compression::Lz4.compress(None, b"", &mut packed).unwrap();
    packed.truncate(7);
    packed.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(batch_of(Compression::Lz4, 1, &packed).records(1 << 20), Err(RecordError::Codec { .. })));
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    for codec in Compression::ALL {
        let whole = written_by_kafka(codec);
        let whole = if codec == Compression::Snappy { batch(codec, &samples()) } else { whole };
        for end in 0..whole.size() {
            let mut cut = whole.as_bytes().slice(..end);
            assert_eq!(Batch::split(&mut cut), Ok(None));
            assert_eq!(cut.len(), end);
            let expected = if end < 12 { Batch::HEADER_LEN } else { whole.size() };
            assert_eq!(Batch::single(cut), Err(RecordError::Incomplete { expected, found: end }));
        }
        let leader_epoch = 12 * 8..16 * 8;
        for bit in (0..whole.size() * 8).filter(|bit| !leader_epoch.contains(bit)) {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let checked = Batch::single(bytes.into()).and_then(|batch| batch.check_records(&Limits::default()));
            assert!(checked.is_err(), "bit {bit} of {codec}");
        }
    }
}

#[test]
fn damage_under_a_right_checksum_never_panics_and_reader_and_check_agree() {
    for codec in Compression::ALL {
        let whole = batch(codec, &samples()[..8]);
        let agree = |damaged: Result<Batch, RecordError>| {
            let Ok(damaged) = damaged else { return };
            let limits = Limits { max_decompressed_bytes: 1 << 20, ..any_origin() };
            let checked = damaged.check_records(&limits);
            let read = damaged.records(1 << 20).and_then(|records| {
                let mut count = 0;
                for record in &records {
                    record?.headers.raw().try_for_each(|header| header.map(drop))?;
                    count += 1;
                }
                Ok(count)
            });
            assert_eq!(checked.as_ref().ok().map(|checked| checked.count), read.as_ref().ok().copied(), "{damaged:?}");
            let _ = damaged.control_type();
        };
        for at in ATTRIBUTES..whole.size() {
            for bit in 0..8 {
                agree(forged(&whole, |bytes| bytes[at] ^= 1 << bit));
            }
            for value in [0, 0x7f, 0x80, 0xff] {
                agree(forged(&whole, |bytes| bytes[at] = value));
            }
            agree(forged(&whole, |bytes| _ = bytes.remove(at)));
            agree(forged(&whole, |bytes| bytes.insert(at, 0x81)));
        }
        for end in Batch::HEADER_LEN..whole.size() {
            let cut = forged(&whole, |bytes| bytes.truncate(end)).unwrap();
            assert!(cut.check_records(&Limits::default()).is_err(), "cut at {end} of {codec}");
            agree(Ok(cut));
        }
        let mut random = Random(codec.id().into());
        for _ in 0..300 {
            let noise: Vec<u8> = (0..random.below(100)).map(|_| random.next() as u8).collect();
            let keep = random.below(30) as usize;
            agree(forged(&whole, |bytes| {
                bytes.truncate(Batch::HEADER_LEN + keep);
                bytes.extend_from_slice(&noise);
            }));
        }
    }
}

#[test]
fn after_an_error_there_are_no_more_records() {
    let batch = batch_of(Compression::None, 3, &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 2, 9, 1, 0, 12, 0, 0, 4, 1, 1, 0]);
    let records = batch.records(0).unwrap();
    let mut iter = records.iter();
    assert!(iter.next().unwrap().is_ok());
    assert_eq!(iter.next().unwrap().unwrap_err(), RecordError::Malformed { index: 1, field: Field::Key });
    assert!(iter.next().is_none());
    let after = batch_of(Compression::None, 1, &[12, 0, 0, 0, 1, 1, 0, 0]);
    let records = after.records(0).unwrap();
    let found: Vec<_> = records.iter().map(|record| record.map(|record| record.offset)).collect();
    assert_eq!(found, [Ok(0), Err(RecordError::AfterRecords { count: 1 })]);
}

#[test]
fn the_rest_of_a_batch_is_the_same_when_its_first_records_are_left_out() {
    for codec in [Compression::None, Compression::Zstd] {
        let batch = batch(codec, &samples());
        let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES).unwrap();
        let places = |records: &Records| -> Vec<_> {
            records
                .iter()
                .map(|record| record.map(|record| (record.offset, record.key.map(<[u8]>::to_vec))).unwrap())
                .collect()
        };
        let all = places(&records);
        for first in 0..=all.len() + 1 {
            let mut rest = records.clone();
            rest.skip(first);
            assert_eq!((rest.skipped(), &places(&rest)[..]), (first.min(all.len()), &all[first.min(all.len())..]));
            rest.skip(3);
            assert_eq!(places(&rest), all[(first + 3).min(all.len())..]);
        }
    }
}

#[test]
fn leaving_records_out_stops_where_the_iteration_tells_what_is_wrong() {
    let batch = batch_of(Compression::None, 3, &[12, 0, 0, 0, 1, 1, 0, 99, 0, 0, 2, 1, 1, 0]);
    let mut records = batch.records(0).unwrap();
    records.skip(3);
    assert_eq!(records.skipped(), 1);
    let error = records.iter().next().unwrap().unwrap_err();
    assert_eq!(error, RecordError::Malformed { index: 1, field: Field::Length });
    // One that was left out does not come again.
    let batch = batch_of(Compression::None, 3, &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0]);
    let mut records = batch.records(0).unwrap();
    records.skip(1);
    let error = records.iter().next().unwrap().unwrap_err();
    assert_eq!(error, RecordError::Malformed { index: 1, field: Field::OffsetDelta });
}

// What a caller is told.

#[test]
fn errors_become_the_crates_with_a_kind_and_the_facts() {
    let error: Error = RecordError::Checksum { base_offset: 7, expected: 1, found: 2 }.into();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = "bad record batch: batch checksum differs base_offset=7 expected=00000001 found=00000002";
    assert_eq!(error.to_string(), text);
    let error: Error = RecordError::Magic { base_offset: 0, magic: 1 }.into();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error: Error = RecordError::TooLarge { size: 2, limit: 1 }.into();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn codecs_have_kafkas_names_and_numbers() {
    let names: Vec<String> = Compression::ALL.iter().map(|codec| format!("{} {codec}", codec.id())).collect();
    assert_eq!(names, ["0 none", "1 gzip", "2 snappy", "3 lz4", "4 zstd"]);
    for codec in Compression::ALL {
        assert_eq!(codec.name().parse(), Ok(codec));
        assert_eq!(Compression::from_id(codec.id()), Some(codec));
    }
    assert_eq!(Compression::from_id(5), None);
    assert_eq!("LZ4".parse::<Compression>(), Err(RecordError::UnknownCompressionName));
}
