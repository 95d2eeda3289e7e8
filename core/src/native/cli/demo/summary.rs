//! What the demonstration found, as a person reads it.

use std::time::Duration;

use serde_json::{Value, json};

use super::ms;
use crate::native::cli::table;

/// Everything there is to tell.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) records: u64,
    pub(super) partitions: i32,
    pub(super) data_bytes: u64,
    pub(super) copied: Vec<Copied>,
    /// The median with acks=all, and with acks=1.
    pub(super) acknowledgement: (Duration, Duration),
    pub(super) full: Option<BackupCost>,
    pub(super) incremental: Option<BackupCost>,
    /// How much of the burst was acknowledged, with acks=all and acks=1; what the synchronous follower lacked, and the other.
    pub(super) followers: Option<((u64, u64), FollowerLoss, FollowerLoss)>,
    /// How often the group has read each record.
    pub(super) seen: Vec<u8>,
    pub(super) read_before: u64,
    pub(super) read_after: u64,
    pub(super) read_once: bool,
    pub(super) compared: u64,
    pub(super) differing: u64,
}

/// Records that went from one place to another.
#[derive(Debug)]
pub(super) struct Copied {
    name: &'static str,
    records: u64,
    bytes: u64,
    seconds: f64,
}

impl Copied {
    pub(super) fn new(name: &'static str, records: u64, bytes: u64, took: Duration) -> Self {
        Self { name, records, bytes, seconds: took.as_secs_f64() }
    }

    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(0.001)
    }
}

/// What a backup took.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackupCost {
    pub(super) records: u64,
    /// Bytes of keys, values and headers.
    pub(super) data_bytes: u64,
    /// Bytes of record batches, as the producer compressed them.
    pub(super) batch_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) seconds: f64,
}

impl BackupCost {
    fn ratio(&self) -> f64 {
        self.stored_bytes as f64 / self.data_bytes.max(1) as f64
    }
}

/// What a follower lacked when its leader had died.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FollowerLoss {
    /// Of the records acknowledged with acks=all, in the burst and before.
    pub(super) lacking_all: u64,
    /// Of those of the burst that were acknowledged with acks=1.
    pub(super) lacking_one: u64,
    /// Records that it has although nobody was told so.
    pub(super) unacknowledged: u64,
    /// Acknowledged records that no backup has, and it does.
    pub(super) after_backup: u64,
}

impl Summary {
    /// Whether everything came back as it was sent.
    pub(super) fn is_right(&self) -> bool {
        let is_kept = self.followers.as_ref().is_none_or(|(_, synchronous, _)| synchronous.lacking_all == 0);
        self.differing == 0 && self.read_once && is_kept
    }

    pub(super) fn json(&self) -> Value {
        let backup = |cost: &Option<BackupCost>| {
            cost.map(|cost| {
                json!({
                    "records": cost.records, "data_bytes": cost.data_bytes, "batch_bytes": cost.batch_bytes,
                    "stored_bytes": cost.stored_bytes, "seconds": cost.seconds, "stored_to_data": cost.ratio(),
                })
            })
        };
        let loss = |loss: &FollowerLoss| {
            json!({
                "lacking_of_acks_all": loss.lacking_all, "lacking_of_acks_1": loss.lacking_one,
                "unacknowledged": loss.unacknowledged, "after_the_backup": loss.after_backup,
            })
        };
        json!({
            "records": self.records, "partitions": self.partitions, "data_bytes": self.data_bytes,
            "steps": self.copied.iter().map(|copied| json!({
                "step": copied.name, "records": copied.records, "bytes": copied.bytes, "seconds": copied.seconds,
                "mb_per_second": copied.rate(),
            })).collect::<Vec<_>>(),
            "acknowledgement_p50_ms": {
                "acks_all": self.acknowledgement.0.as_secs_f64() * 1e3, "acks_1": self.acknowledgement.1.as_secs_f64() * 1e3,
            },
            "burst": self.followers.as_ref().map(|(acknowledged, synchronous, asynchronous)| json!({
                "acknowledged_with_acks_all": acknowledged.0, "acknowledged_with_acks_1": acknowledged.1,
                "synchronous": loss(synchronous), "asynchronous": loss(asynchronous),
            })),
            "full": backup(&self.full), "incremental": backup(&self.incremental),
            "group": {"before": self.read_before, "after": self.read_after, "each_once": self.read_once},
            "compared": self.compared, "differing": self.differing, "right": self.is_right(),
        })
    }

    pub(super) fn text(&self) -> String {
        let count = table::count_u64;
        let mut parts = vec![format!(
            "\n{} records, {} of keys, values and headers, in {} partitions",
            count(self.records),
            table::bytes(self.data_bytes),
            self.partitions
        )];
        let row = |cells: [String; 5]| cells.to_vec();
        let steps: Vec<Vec<String>> = self
            .copied
            .iter()
            .map(|copied| {
                row([
                    copied.name.to_owned(),
                    count(copied.records),
                    table::bytes(copied.bytes),
                    format!("{:.2}", copied.seconds),
                    format!("{:.0} MB/s", copied.rate()),
                ])
            })
            .collect();
        parts.push(draw(&["", "records", "bytes", "seconds", "rate"], &steps));

        let (all, one) = self.acknowledgement;
        let mut rows = Vec::new();
        let mut headers = ["", "acks=all", "acks=1"];
        rows.push(vec!["acknowledgement, p50".to_owned(), ms(all), ms(one)]);
        if let Some((acknowledged, synchronous, asynchronous)) = &self.followers {
            headers = ["", "synchronous", "asynchronous"];
            rows.insert(0, vec!["acknowledged by".to_owned(), "leader and follower".to_owned(), "leader".to_owned()]);
            rows.push(vec![
                "acknowledged in the burst that the leader died in".to_owned(),
                count(acknowledged.0),
                count(acknowledged.1),
            ]);
            rows.push(vec![
                "of these the follower lacked".to_owned(),
                count(synchronous.lacking_all),
                count(asynchronous.lacking_one),
            ]);
            rows.push(vec![
                "newer than the backup, and found on the follower".to_owned(),
                count(synchronous.after_backup),
                count(asynchronous.after_backup),
            ]);
        }
        parts.push(draw(&headers, &rows));

        if let (Some(full), Some(incremental)) = (&self.full, &self.incremental) {
            let row =
                |name: &str, cell: &dyn Fn(&BackupCost) -> String| vec![name.to_owned(), cell(full), cell(incremental)];
            let rows = vec![
                row("records", &|cost| count(cost.records)),
                row("data", &|cost| table::bytes(cost.data_bytes)),
                row("stored", &|cost| table::bytes(cost.stored_bytes)),
                row("stored ÷ data", &|cost| format!("{:.2}", cost.ratio())),
                row("seconds", &|cost| format!("{:.2}", cost.seconds)),
            ];
            parts.push(draw(&["backup", "full", "incremental"], &rows));
        }
        parts.push(format!(
            "the group read {} before and {} after, {}\n{} records compared by offset, key, value, timestamp and headers: \
             {} differ",
            count(self.read_before),
            count(self.read_after),
            if self.read_once { "each once" } else { "NOT each once" },
            count(self.compared),
            if self.differing == 0 { "none".to_owned() } else { count(self.differing) },
        ));
        parts.join("\n\n")
    }
}

/// A table with a wide first column, so that the tables stand below each other.
fn draw(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        if let Some(first) = row.first_mut() {
            *first = format!("{first:<50}");
        }
    }
    table::draw(headers, &rows)
}
