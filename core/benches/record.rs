//! What a record costs: to append, to seal, to read, to check; per codec.
//!
//! A batch holds as many records as make about 16 KiB (Kafka's default `batch.size`) or 1 MB, with values like JSON and an
//! eight-byte key. Times are for a batch; throughput is in records, so its reciprocal is the cost of one.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ottla::record::{Batch, Builder, BuilderOptions, Compression, Limits, NO_HEADERS, ProducerFields};

type Event = ([u8; 8], Vec<u8>);

/// Events whose values are `size` bytes of JSON with what differs from one to the next.
fn events(count: usize, size: usize) -> Vec<Event> {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut event = |i: usize| {
        let mut value = format!(r#"{{"id":{i}"#);
        while value.len() < size {
            let (number, carrier) = (next() % 1_000_000, ["UA", "AA", "DL", "B6"][next() as usize % 4]);
            value += &format!(r#","flight":{number},"carrier":"{carrier}","delay":{}"#, next() % 100);
        }
        value.truncate(size - 1);
        value.push('}');
        ((i as u64).to_be_bytes(), value.into_bytes())
    };
    (0..count).map(&mut event).collect()
}

fn options(compression: Compression, capacity: usize) -> BuilderOptions {
    BuilderOptions { compression, capacity, ..BuilderOptions::default() }
}

fn fill(builder: &mut Builder, events: &[Event]) {
    for (i, (key, value)) in events.iter().enumerate() {
        builder.append(1_700_000_000_000 + i as i64, Some(key), Some(value), NO_HEADERS).expect("a small batch");
    }
}

fn sealed(compression: Compression, events: &[Event]) -> Batch {
    let mut builder = Builder::new(options(compression, 0));
    fill(&mut builder, events);
    builder.seal(ProducerFields::NONE).expect("records")
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("record::append");
    for (value, count) in [(100, 140), (1024, 15), (100, 9_000)] {
        let events = events(count, value);
        let capacity = count * (value + 24) + Batch::HEADER_LEN;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("value={value} records={count}"), |b| {
            b.iter(|| {
                let mut builder = Builder::new(options(Compression::None, capacity));
                fill(&mut builder, black_box(&events));
                builder
            });
        });
    }
    let events = events(140, 100);
    group.throughput(Throughput::Elements(140));
    group.bench_function("value=100 records=140 headers=2", |b| {
        b.iter(|| {
            let mut builder = Builder::new(options(Compression::None, 32 << 10));
            for (key, value) in black_box(&events) {
                let headers = [("trace", Some(&b"0123456789abcdef"[..])), ("kind", None)];
                builder.append(1_700_000_000_000, Some(key), Some(value), headers.into_iter()).expect("room");
            }
            builder
        });
    });
    group.finish();
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("record::seal");
    for count in [140, 9_000] {
        let events = events(count, 100);
        group.throughput(Throughput::Elements(count as u64));
        for codec in Compression::ALL {
            let mut builder = Builder::new(options(codec, 0));
            fill(&mut builder, &events);
            group.bench_function(format!("value=100 records={count} codec={codec}"), |b| {
                b.iter_batched(
                    || builder.clone(),
                    |builder| builder.seal(ProducerFields::NONE).expect("records"),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

fn iterate(c: &mut Criterion) {
    let mut group = c.benchmark_group("record::iterate");
    for (value, count) in [(100, 140), (1024, 15), (100, 9_000)] {
        let events = events(count, value);
        group.throughput(Throughput::Elements(count as u64));
        let codecs = if value == 100 { &Compression::ALL[..] } else { &[Compression::None] };
        for &codec in codecs {
            let batch = sealed(codec, &events);
            group.bench_function(format!("value={value} records={count} codec={codec}"), |b| {
                b.iter(|| {
                    let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES).expect("a whole batch");
                    let mut sum = 0;
                    for record in &records {
                        let record = record.expect("a whole record");
                        sum += record.offset + record.timestamp + record.value.map_or(0, |value| value.len() as i64);
                        black_box(record.key);
                    }
                    sum
                });
            });
        }
    }
    group.finish();
}

fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("record::check");
    for count in [140, 9_000] {
        let events = events(count, 100);
        group.throughput(Throughput::Elements(count as u64));
        for codec in Compression::ALL {
            let batch = sealed(codec, &events);
            let limits = Limits::default();
            group.bench_function(format!("value=100 records={count} codec={codec}"), |b| {
                b.iter(|| batch.check_records(black_box(&limits)).expect("a right batch"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append, seal, iterate, check);
criterion_main!(benches);
