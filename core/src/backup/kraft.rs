//! What a Kafka broker's own copy of the cluster's metadata says of topics (`__cluster_metadata`, KIP-500).
//!
//! The newest snapshot (`…-….checkpoint`) and the log after it are record batches like all others. Of their records only those
//! count that say which topics there are, under which ids, and which brokers and directories their partitions are on; all
//! other kinds, and fields that later versions add, are passed over.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::record::{Limits, batches};
use crate::storage::Device;
use crate::{Error, ErrorKind, Result};

/// The directory of the metadata's log.
const DIRECTORY: &str = "__cluster_metadata-0";

// The kinds of records that count, by their `apiKey` in Kafka's definitions.
const TOPIC: u64 = 2;
const PARTITION: u64 = 3;
const PARTITION_CHANGE: u64 = 5;
const REMOVE_TOPIC: u64 = 9;

/// The topics of a cluster, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterMetadata {
    pub(super) topics: BTreeMap<String, ClusterTopic>,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterTopic {
    pub(super) id: Uuid,
    /// By number.
    pub(super) partitions: BTreeMap<i32, Replicas>,
}

/// Where a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replicas {
    /// The brokers.
    pub(super) brokers: Vec<i32>,
    /// The log directory of each, in the brokers' order; empty where Kafka has not noted them.
    pub(super) directories: Vec<Uuid>,
}

impl Replicas {
    /// The log directory on `broker`, if that is known. Ids below 100 stand for "not known" and the like (KIP-858).
    pub(super) fn directory(&self, broker: i32) -> Option<Uuid> {
        let at = self.brokers.iter().position(|replica| *replica == broker)?;
        self.directories.get(at).copied().filter(|id| id.as_u128() >= 100)
    }
}

impl ClusterMetadata {
    /// Reads what is below `device`; `None` if there is no metadata.
    ///
    /// # Errors
    /// `Corrupt` if a checksum differs or a record is not what it claims; what the device answers.
    pub(super) fn read(device: &dyn Device) -> Result<Option<Self>> {
        if !device.exists(DIRECTORY)? {
            return Ok(None);
        }
        let names: Vec<String> = device.list(DIRECTORY)?.into_iter().map(|entry| entry.name).collect();
        let mut reading = Reading::default();
        let mut end = 0;
        let mut found = false;
        let newest = names.iter().filter_map(|name| Some((snapshot_end(name)?, name))).max();
        if let Some((snapshot_end, name)) = newest {
            reading.file(device, name, 0)?;
            end = snapshot_end;
            found = true;
        }
        for name in names.iter().filter(|name| name.ends_with(".log")) {
            reading.file(device, name, end)?;
            found = true;
        }
        Ok(found.then(|| reading.metadata()))
    }
}

/// The offset after the last record that a snapshot has, by its name: offset and epoch.
fn snapshot_end(name: &str) -> Option<i64> {
    let (end, epoch) = name.strip_suffix(".checkpoint")?.split_once('-')?;
    epoch.parse::<i32>().ok()?;
    end.parse().ok()
}

#[derive(Default)]
struct Reading {
    names: HashMap<Uuid, String>,
    partitions: HashMap<Uuid, BTreeMap<i32, Replicas>>,
}

impl Reading {
    fn file(&mut self, device: &dyn Device, name: &str, from: i64) -> Result<()> {
        let path = format!("{DIRECTORY}/{name}");
        let damaged =
            |reason: String| Error::new(ErrorKind::Corrupt, format!("the cluster's metadata: {reason} file={path}"));
        for batch in batches(device.read(&path)?) {
            let batch = batch.map_err(|error| damaged(error.to_string()))?;
            batch.check_crc().map_err(|error| damaged(error.to_string()))?;
            if batch.is_control() || batch.base_offset() < from {
                continue;
            }
            let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES).map_err(|error| damaged(error.to_string()))?;
            for record in records.iter() {
                let record = record.map_err(|error| damaged(error.to_string()))?;
                let value = record.value.unwrap_or_default();
                let read = self.record(value);
                read.ok_or_else(|| damaged(format!("record cannot be read offset={}", record.offset)))?;
            }
        }
        Ok(())
    }

    /// Takes in a record: frame version, kind, version, then the fields.
    fn record(&mut self, value: &[u8]) -> Option<()> {
        let mut fields = Fields(value);
        let (_frame, kind, version) = (fields.varint()?, fields.varint()?, fields.varint()?);
        match kind {
            TOPIC => {
                let name = fields.string()?;
                self.names.insert(fields.uuid()?, name);
            }
            REMOVE_TOPIC => {
                let id = fields.uuid()?;
                self.names.remove(&id);
                self.partitions.remove(&id);
            }
            PARTITION => {
                let (partition, id) = (fields.int()?, fields.uuid()?);
                let brokers = fields.array(Fields::int)?;
                for _ in ["in sync", "removing", "adding"] {
                    fields.array(Fields::int)?;
                }
                let (_leader, _leader_epoch, _partition_epoch) = (fields.int()?, fields.int()?, fields.int()?);
                let directories = if version >= 1 { fields.array(Fields::uuid)? } else { Vec::new() };
                self.partitions.entry(id).or_default().insert(partition, Replicas { brokers, directories });
            }
            PARTITION_CHANGE => {
                let (partition, id) = (fields.int()?, fields.uuid()?);
                let known = self.partitions.entry(id).or_default().entry(partition).or_default();
                for _ in 0..fields.varint()? {
                    let (tag, size) = (fields.varint()?, usize::try_from(fields.varint()?).ok()?);
                    let mut value = Fields(fields.take(size)?);
                    match tag {
                        2 => known.brokers = value.array(Fields::int)?,
                        8 => known.directories = value.array(Fields::uuid)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    fn metadata(mut self) -> ClusterMetadata {
        let topics = self.names.into_iter().map(|(id, name)| {
            let partitions = self.partitions.remove(&id).unwrap_or_default();
            (name, ClusterTopic { id, partitions })
        });
        ClusterMetadata { topics: topics.collect() }
    }
}

/// What is left of a record's fields. `None` where they end too early.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        self.0.split_off(..size)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = *self.0.split_off_first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn uuid(&mut self) -> Option<Uuid> {
        Uuid::from_slice(self.take(16)?).ok()
    }

    fn string(&mut self) -> Option<String> {
        let size = usize::try_from(self.varint()?).ok()?.checked_sub(1)?;
        String::from_utf8(self.take(size)?.to_vec()).ok()
    }

    /// A compact array; one that is null has nothing in it.
    fn array<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.varint()?.saturating_sub(1);
        // No room is made by a count: each item takes bytes that have to be there.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::{Builder, BuilderOptions, NO_HEADERS, ProducerFields};
    use crate::storage::memory::MemoryDevice;

    const ID: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    const HOME: Uuid = Uuid::from_u128(0xabc0_0000_0000_0000_0000_0000_0000_0001);

    fn topic(name: &str) -> Vec<u8> {
        let mut bytes = vec![1, 2, 0, name.len() as u8 + 1];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(ID.as_bytes());
        bytes.push(0);
        bytes
    }

    fn partition(number: i32, brokers: &[i32]) -> Vec<u8> {
        let mut bytes = vec![1, 3, 1];
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(ID.as_bytes());
        for list in [brokers, brokers, &[], &[]] {
            bytes.push(list.len() as u8 + 1);
            list.iter().for_each(|broker| bytes.extend_from_slice(&broker.to_be_bytes()));
        }
        bytes.extend_from_slice(&[0; 12]);
        bytes.push(brokers.len() as u8 + 1);
        brokers.iter().for_each(|_| bytes.extend_from_slice(HOME.as_bytes()));
        bytes.push(0);
        bytes
    }

    fn moved(number: i32, brokers: &[i32]) -> Vec<u8> {
        let mut bytes = vec![1, 5, 0];
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(ID.as_bytes());
        bytes.extend_from_slice(&[2, 1, 4, 0, 0, 0, 9, 2, 4 * brokers.len() as u8 + 1, brokers.len() as u8 + 1]);
        brokers.iter().for_each(|broker| bytes.extend_from_slice(&broker.to_be_bytes()));
        bytes
    }

    fn write(device: &MemoryDevice, name: &str, base_offset: i64, values: &[Vec<u8>]) {
        let mut builder = Builder::new(BuilderOptions::default());
        for value in values {
            builder.append(0, None, Some(value), NO_HEADERS).unwrap();
        }
        let batch = builder.seal_at(ProducerFields::NONE, base_offset, 1).unwrap();
        device.overwrite(&format!("{DIRECTORY}/{name}"), batch.into_bytes());
    }

    #[test]
    fn the_log_goes_on_where_the_snapshot_ends() {
        let device = MemoryDevice::new();
        assert_eq!(ClusterMetadata::read(&device).unwrap(), None);
        let snapshot = [topic("orders"), partition(0, &[1, 2]), partition(1, &[2, 3])];
        write(&device, "00000000000000000007-0000000002.checkpoint", 0, &snapshot);
        write(&device, "00000000000000000003-0000000001.checkpoint", 0, &[topic("older")]);
        write(&device, "00000000000000000000.log", 0, &[topic("in the snapshot already")]);
        write(&device, "00000000000000000007.log", 7, &[vec![1, 200, 1, 0, 9], moved(1, &[3, 1])]);
        let metadata = ClusterMetadata::read(&device).unwrap().unwrap();
        let (name, orders) = metadata.topics.first_key_value().unwrap();
        assert_eq!((metadata.topics.len(), name.as_str(), orders.id), (1, "orders", ID));
        assert_eq!(orders.partitions[&0].directory(2), Some(HOME));
        assert_eq!(orders.partitions[&0].directory(3), None);
        assert_eq!(orders.partitions[&1].brokers, [3, 1]);
        let mut removed = vec![1, 9, 0];
        removed.extend_from_slice(ID.as_bytes());
        write(&device, "00000000000000000009.log", 9, &[removed]);
        assert!(ClusterMetadata::read(&device).unwrap().unwrap().topics.is_empty());
    }

    #[test]
    fn every_byte_that_is_wrong_or_missing_is_an_error_or_harmless() {
        let whole = partition(3, &[1, 2, 3]);
        for size in 0..whole.len() {
            let _ = Reading::default().record(&whole[..size]);
            let mut wrong = whole.clone();
            wrong[size] ^= 0xff;
            let _ = Reading::default().record(&wrong);
        }
        // An array that claims two thousand million items.
        let mut claims = vec![1, 3, 1, 0, 0, 0, 0];
        claims.extend_from_slice(ID.as_bytes());
        claims.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x07]);
        assert_eq!(Reading::default().record(&claims), None);
        let device = MemoryDevice::new();
        write(&device, "00000000000000000000.log", 0, &[claims]);
        let device: Arc<dyn Device> = Arc::new(device);
        assert_eq!(ClusterMetadata::read(&*device).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
