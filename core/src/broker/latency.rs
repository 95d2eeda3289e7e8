//! How long producers wait for `acks=all`, and for what: this broker's own device, or its followers.

use std::time::Duration;

/// How many buckets a doubling has: a time is known to an eighth.
const PARTS: usize = 8;
/// Times up to 2^40 µs, twelve days, are told apart.
const BUCKETS: usize = 39 * PARTS;

/// Times, counted in buckets that grow with them.
#[derive(Clone, Debug)]
struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0 }
    }
}

impl Histogram {
    fn record(&mut self, time: Duration) {
        self.counts[bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))] += 1;
        self.count += 1;
    }

    /// The time in µs that `part` of all stayed at or below, to an eighth; 0 when there are none.
    fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return largest(at);
            }
        }
        0
    }

    fn times(&self) -> Times {
        Times { p50: self.quantile(0.50), p99: self.quantile(0.99) }
    }
}

/// The bucket of a time in µs: each up to 8 has one of its own, and each doubling after that has eight.
fn bucket(micros: u64) -> usize {
    if micros < PARTS as u64 {
        return micros as usize;
    }
    let doubling = micros.ilog2() as usize;
    let part = (micros >> (doubling - 3)) as usize & (PARTS - 1);
    ((doubling - 2) * PARTS + part).min(BUCKETS - 1)
}

/// The largest time of a bucket, in µs.
fn largest(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    let (doubling, part) = (bucket / PARTS + 2, bucket % PARTS);
    (((PARTS + part + 1) as u64) << (doubling - 3)) - 1
}

/// Half of all were within `p50`, 99 of 100 within `p99`; in µs, to an eighth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
}

/// How long producers have waited for `acks=all` since the broker was opened. What was refused does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckLatency {
    /// How many requests were answered.
    pub count: u64,
    /// From a request's arrival until it was answered.
    pub total: Times,
    /// Until it was on this broker's own device.
    pub own: Times,
    /// What was waited for followers after that.
    pub added: Times,
}

/// The measurements behind [`AckLatency`].
#[derive(Debug, Default)]
pub(super) struct Latencies {
    total: Histogram,
    own: Histogram,
    added: Histogram,
}

impl Latencies {
    /// A request came in at `received`, was on this device at `own`, and is answered at `answered`.
    pub(super) fn record(&mut self, received: Duration, own: Duration, answered: Duration) {
        self.total.record(answered.saturating_sub(received));
        self.own.record(own.saturating_sub(received));
        self.added.record(answered.saturating_sub(own));
    }

    pub(super) fn read(&self) -> AckLatency {
        AckLatency {
            count: self.total.count,
            total: self.total.times(),
            own: self.own.times(),
            added: self.added.times(),
        }
    }
}

impl AckLatency {
    /// It as DescribeConfigs tells it, under names of ours: Kafka has such figures in JMX alone.
    pub(super) fn entries(&self) -> [(&'static str, u64); 7] {
        [
            ("ottla.ack.count", self.count),
            ("ottla.ack.us.p50", self.total.p50),
            ("ottla.ack.us.p99", self.total.p99),
            ("ottla.ack.own.us.p50", self.own.p50),
            ("ottla.ack.own.us.p99", self.own.p99),
            ("ottla.ack.added.us.p50", self.added.p50),
            ("ottla.ack.added.us.p99", self.added.p99),
        ]
    }

    /// It as another broker has told it; what was not told is 0.
    pub fn from_entries<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut found = Self::default();
        for (name, value) in entries {
            let Ok(value) = value.parse() else { continue };
            match name {
                "ottla.ack.count" => found.count = value,
                "ottla.ack.us.p50" => found.total.p50 = value,
                "ottla.ack.us.p99" => found.total.p99 = value,
                "ottla.ack.own.us.p50" => found.own.p50 = value,
                "ottla.ack.own.us.p99" => found.own.p99 = value,
                "ottla.ack.added.us.p50" => found.added.p50 = value,
                "ottla.ack.added.us.p99" => found.added.p99 = value,
                _ => {}
            }
        }
        found
    }

    /// The names under which DescribeConfigs of a broker tells it.
    pub fn names() -> Vec<String> {
        Self::default().entries().iter().map(|(name, _)| (*name).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_known_to_an_eighth() {
        for micros in (0..20).map(|at| 7_u64.pow(at / 2) + u64::from(at)).chain([u64::MAX >> 25]) {
            let told = largest(bucket(micros));
            assert!(told >= micros && told <= micros + micros / 8 + 1, "{micros} is told as {told}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for at in 0..BUCKETS {
            assert_eq!(bucket(largest(at)), at);
        }
    }

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let mut times = Histogram::default();
        assert_eq!(times.times(), Times::default());
        for micros in 1..=100 {
            times.record(Duration::from_micros(micros));
        }
        let Times { p50, p99 } = times.times();
        assert!((50..=57).contains(&p50) && (99..=111).contains(&p99), "{p50} {p99}");
    }
}
