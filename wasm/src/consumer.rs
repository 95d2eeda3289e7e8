//! The consumer. The records of a poll go out in one buffer, and are taken apart when they are looked at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::{Either, FutureExt, Shared, select};
use futures::pin_mut;
use js_sys::{Array, Function, Promise, Uint8Array};
use ottla::client::{self, FetchedBatch, Listener, OffsetAndMetadata, Rebalance, TopicPartition};
use ottla::record::TimestampType;
use ottla::{Error, ErrorKind, Result};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

use crate::error::thrown;
use crate::values::{milliseconds, partitions};

/// A consumer, as js/consumer.ts drives it. Partitions come as two lists, of topics and of numbers.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Consumer {
    core: client::Consumer,
    topics: Rc<RefCell<Topics>>,
}

/// The places of topics' names in the buffers that go out.
#[derive(Debug, Default)]
struct Topics {
    names: Vec<Arc<str>>,
    places: HashMap<Arc<str>, i32>,
}

impl Topics {
    fn place(&mut self, name: &Arc<str>) -> i32 {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.names.len() as i32;
        self.names.push(Arc::clone(name));
        self.places.insert(Arc::clone(name), place);
        place
    }
}

impl Consumer {
    pub(crate) fn new(core: client::Consumer) -> Self {
        Self { core, topics: Rc::default() }
    }
}

#[wasm_bindgen]
impl Consumer {
    /// The name of the topic that buffers call by this place.
    #[wasm_bindgen(js_name = topicName)]
    pub fn topic_name(&self, place: usize) -> Option<String> {
        self.topics.borrow().names.get(place).map(|name| name.to_string())
    }

    /// Subscribes to topics; `listens` if polls shall return what happens to the assignment.
    pub fn subscribe(&self, topics: Vec<String>, listens: bool) -> Result<(), JsValue> {
        self.core.subscribe(&topics, listener(listens)).map_err(thrown)
    }

    /// Subscribes to the topics for whose names `matches` is true.
    #[wasm_bindgen(js_name = subscribeMatching)]
    pub fn subscribe_matching(&self, matches: Function, listens: bool) -> Result<(), JsValue> {
        let matches = SendWrapper::new(matches);
        let filter = move |name: &str| {
            matches.call1(&JsValue::UNDEFINED, &JsValue::from_str(name)).is_ok_and(|answer| answer.is_truthy())
        };
        self.core.subscribe_filter(Arc::new(filter), listener(listens)).map_err(thrown)
    }

    /// Notes where the logs end, so that nothing sent from now on is missed.
    #[wasm_bindgen(js_name = noteEnds)]
    pub async fn note_ends(&self, timeout_ms: f64) -> Result<(), JsValue> {
        let core = self.core.clone();
        core.note_ends(milliseconds(timeout_ms)).await.map_err(thrown)
    }

    /// Gives up subscription and assignment.
    pub fn unsubscribe(&self) {
        self.core.unsubscribe();
    }

    /// The topics subscribed to.
    pub fn subscription(&self) -> Vec<String> {
        self.core.subscription().iter().map(ToString::to_string).collect()
    }

    /// Consumes these partitions.
    pub fn assign(&self, topics: Vec<String>, numbers: Vec<i32>) -> Result<(), JsValue> {
        self.core.assign(&partitions(topics, &numbers)).map_err(thrown)
    }

    /// The partitions that are consumed now: topic, number, topic, number…
    pub fn assignment(&self) -> Array {
        flat(&self.core.assignment())
    }

    /// Waits for records or events. `ahead` leaves the positions where they are. Returns the packed records, or the events, or
    /// undefined when the time is up or `stop` was used.
    ///
    /// A buffer has, in little-endian order, `records: u32, runs: u32`; offsets and timestamps of all records as `f64`; four `i32` for
    /// each record: lengths of key and value (-1 is null), number of headers, where its bytes start; five `i32` for each run of
    /// records: topic, partition, leader epoch, timestamp type, number of records; then the bytes: key, value and, for each
    /// header, the lengths of key and value as `i32` and their bytes.
    ///
    /// Events are lists: `"revoked"`, `"lost"` or `"assigned"`, then topic, number, topic, number…
    pub fn poll(&self, timeout_ms: f64, max_records: Option<usize>, ahead: bool, stop: &Stop) -> Promise {
        let core = self.core.clone();
        let stopped = stop.receiver.clone();
        let topics = Rc::clone(&self.topics);
        let timeout = milliseconds(timeout_ms);
        future_to_promise(async move {
            let poll = async {
                if ahead { core.poll_ahead(timeout, max_records).await } else { core.poll(timeout, max_records).await }
            };
            pin_mut!(poll);
            let polled = match select(poll, stopped).await {
                Either::Left((polled, _)) => polled.map_err(thrown)?,
                // Nothing is lost: a poll takes records at the moment when it returns them.
                Either::Right(_) => return Ok(JsValue::UNDEFINED),
            };
            if !polled.events.is_empty() {
                return Ok(polled.events.iter().map(event).collect::<Array>().into());
            }
            if polled.batches.is_empty() {
                return Ok(JsValue::UNDEFINED);
            }
            let packed = pack(&polled.batches, &mut topics.borrow_mut()).map_err(thrown)?;
            Ok(Uint8Array::from(packed.as_slice()).into())
        })
    }

    /// Says that what is below these offsets is consumed.
    pub fn advance(&self, topics: Vec<String>, numbers: Vec<i32>, offsets: &[f64]) {
        for (partition, offset) in partitions(topics, &numbers).iter().zip(offsets) {
            self.core.advance(partition, *offset as i64);
        }
    }

    /// Goes on at an offset.
    pub fn seek(&self, topic: &str, number: i32, offset: f64) -> Result<(), JsValue> {
        self.core.seek(&TopicPartition::new(topic, number), offset as i64).map_err(thrown)
    }

    /// Goes on at the first records of these, or of all.
    #[wasm_bindgen(js_name = seekToBeginning)]
    pub fn seek_to_beginning(&self, topics: Vec<String>, numbers: Vec<i32>) -> Result<(), JsValue> {
        self.core.seek_to_beginning(&partitions(topics, &numbers)).map_err(thrown)
    }

    /// Goes on after the last records of these, or of all.
    #[wasm_bindgen(js_name = seekToEnd)]
    pub fn seek_to_end(&self, topics: Vec<String>, numbers: Vec<i32>) -> Result<(), JsValue> {
        self.core.seek_to_end(&partitions(topics, &numbers)).map_err(thrown)
    }

    /// The next offset to consume.
    pub async fn position(&self, topic: &str, number: i32, timeout_ms: f64) -> Result<f64, JsValue> {
        let core = self.core.clone();
        let partition = TopicPartition::new(topic, number);
        let position = core.position(&partition, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(position as f64)
    }

    /// Returns no records of these until they are resumed.
    pub fn pause(&self, topics: Vec<String>, numbers: Vec<i32>) -> Result<(), JsValue> {
        self.core.pause(&partitions(topics, &numbers)).map_err(thrown)
    }

    /// Returns records of these again.
    pub fn resume(&self, topics: Vec<String>, numbers: Vec<i32>) -> Result<(), JsValue> {
        self.core.resume(&partitions(topics, &numbers)).map_err(thrown)
    }

    /// The partitions that are paused: topic, number, topic, number…
    pub fn paused(&self) -> Array {
        flat(&self.core.paused())
    }

    /// Where the logs start, in the order of the partitions.
    #[wasm_bindgen(js_name = beginningOffsets)]
    pub async fn beginning_offsets(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        timeout_ms: f64,
    ) -> Result<Vec<f64>, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let found = core.beginning_offsets(&wanted, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(in_order(&wanted, &found))
    }

    /// Where the logs end, in the order of the partitions.
    #[wasm_bindgen(js_name = endOffsets)]
    pub async fn end_offsets(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        timeout_ms: f64,
    ) -> Result<Vec<f64>, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let found = core.end_offsets(&wanted, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(in_order(&wanted, &found))
    }

    /// The first records at these times or later: offset, timestamp and leader epoch of each, in the order of the partitions;
    /// -1 where there is none.
    #[wasm_bindgen(js_name = offsetsForTimes)]
    pub async fn offsets_for_times(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        times: Vec<f64>,
        timeout_ms: f64,
    ) -> Result<Vec<f64>, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let times = wanted.iter().cloned().zip(times.into_iter().map(|time| time as i64)).collect();
        let found = core.offsets_for_times(&times, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(wanted
            .iter()
            .flat_map(|partition| match found.get(partition) {
                Some(Some(found)) => [found.offset as f64, found.timestamp as f64, f64::from(found.leader_epoch)],
                _ => [-1.0; 3],
            })
            .collect())
    }

    /// Commits all positions.
    #[wasm_bindgen(js_name = commitPositions)]
    pub async fn commit_positions(&self, timeout_ms: f64) -> Result<(), JsValue> {
        let core = self.core.clone();
        core.commit(None, milliseconds(timeout_ms)).await.map_err(thrown)
    }

    /// Commits these offsets.
    pub async fn commit(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        offsets: Vec<f64>,
        metadata: Vec<String>,
        leader_epochs: Vec<i32>,
        timeout_ms: f64,
    ) -> Result<(), JsValue> {
        let core = self.core.clone();
        let offsets = partitions(topics, &numbers)
            .into_iter()
            .zip(offsets.into_iter().zip(metadata).zip(leader_epochs))
            .map(|(partition, ((offset, metadata), leader_epoch))| {
                (partition, OffsetAndMetadata { offset: offset as i64, metadata, leader_epoch })
            })
            .collect();
        core.commit(Some(offsets), milliseconds(timeout_ms)).await.map_err(thrown)
    }

    /// What the group committed, in the order of the partitions: offset, metadata and leader epoch of each, or null.
    pub async fn committed(&self, topics: Vec<String>, numbers: Vec<i32>, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let found = core.committed(&wanted, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(wanted
            .iter()
            .map(|partition| match found.get(partition) {
                Some(Some(found)) => {
                    let offset = JsValue::from_f64(found.offset as f64);
                    JsValue::from(Array::of3(&offset, &JsValue::from_str(&found.metadata), &found.leader_epoch.into()))
                }
                _ => JsValue::NULL,
            })
            .collect())
    }

    /// The names of all topics.
    pub async fn topics(&self, timeout_ms: f64) -> Result<Vec<String>, JsValue> {
        let core = self.core.clone();
        let names = core.topics(milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(names.iter().map(ToString::to_string).collect())
    }

    /// How many partitions a topic has; undefined when there is no such topic.
    #[wasm_bindgen(js_name = partitionCount)]
    pub async fn partition_count(&self, topic: String, timeout_ms: f64) -> Result<Option<usize>, JsValue> {
        let core = self.core.clone();
        let found = core.partitions_for_topic(&topic, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(found.map(|topic| topic.partitions.len()))
    }

    /// The place in the group: group id, generation, member id, instance id or undefined.
    #[wasm_bindgen(js_name = groupMetadata)]
    pub fn group_metadata(&self) -> Option<Array> {
        let metadata = self.core.group_metadata()?;
        let parts = Array::of3(
            &JsValue::from_str(&metadata.group_id),
            &metadata.generation_id.into(),
            &JsValue::from_str(&metadata.member_id),
        );
        parts.push(&metadata.group_instance_id.map_or(JsValue::UNDEFINED, JsValue::from));
        Some(parts)
    }

    /// Commits if it does so by itself and `commit` is set, and leaves the group.
    pub async fn close(&self, commit: bool, timeout_ms: f64) -> Result<(), JsValue> {
        let core = self.core.clone();
        core.close(commit, milliseconds(timeout_ms)).await.map_err(thrown)
    }
}

/// Ends a poll early.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Stop {
    sender: Option<oneshot::Sender<()>>,
    receiver: Shared<oneshot::Receiver<()>>,
}

#[wasm_bindgen]
impl Stop {
    /// For one poll, or several in turn.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        let (sender, receiver) = oneshot::channel();
        Self { sender: Some(sender), receiver: receiver.shared() }
    }

    /// Ends the poll.
    pub fn stop(&mut self) {
        // The poll may have ended by itself.
        drop(self.sender.take());
    }
}

fn listener(listens: bool) -> Listener {
    if listens { Listener::Waits } else { Listener::None }
}

/// Partitions as the other side takes them: topic, number, topic, number…
pub(crate) fn flat(partitions: &[TopicPartition]) -> Array {
    let list = Array::new();
    for partition in partitions {
        list.push(&JsValue::from_str(&partition.topic));
        list.push(&partition.partition.into());
    }
    list
}

fn event(event: &Rebalance) -> JsValue {
    let (name, partitions) = match event {
        Rebalance::Revoked(partitions) => ("revoked", partitions),
        Rebalance::Lost(partitions) => ("lost", partitions),
        Rebalance::Assigned(partitions) => ("assigned", partitions),
    };
    let list = flat(partitions);
    list.unshift(&JsValue::from_str(name));
    list.into()
}

fn in_order(wanted: &[TopicPartition], found: &HashMap<TopicPartition, i64>) -> Vec<f64> {
    wanted.iter().map(|partition| found.get(partition).map_or(-1.0, |offset| *offset as f64)).collect()
}

/// Packs records as [`Consumer::poll`] says.
fn pack(batches: &[FetchedBatch], topics: &mut Topics) -> Result<Vec<u8>> {
    let count: usize = batches.iter().map(|batch| batch.count).sum();
    let mut floats = Vec::with_capacity(2 * count);
    let mut timestamps = Vec::with_capacity(count);
    let mut ints: Vec<i32> = Vec::with_capacity(4 * count + 5 * batches.len());
    let mut runs: Vec<i32> = Vec::with_capacity(5 * batches.len());
    let mut data = Vec::new();
    for batch in batches {
        let before = timestamps.len();
        for record in batch.iter() {
            let record = record?;
            floats.push(record.offset as f64);
            timestamps.push(record.timestamp as f64);
            let start = length(data.len())?;
            let key = put(&mut data, record.key)?;
            let value = put(&mut data, record.value)?;
            ints.extend([key, value, length(record.headers.len())?, start]);
            for header in record.headers {
                let (key, value) = header?;
                data.extend_from_slice(&length(key.len())?.to_le_bytes());
                data.extend_from_slice(&value.map_or(Ok(-1), |value| length(value.len()))?.to_le_bytes());
                data.extend_from_slice(key.as_bytes());
                data.extend_from_slice(value.unwrap_or_default());
            }
        }
        let timestamp_type = i32::from(batch.timestamp_type == TimestampType::LogAppendTime);
        let place = topics.place(&batch.partition.topic);
        let records = length(timestamps.len() - before)?;
        runs.extend([place, batch.partition.partition, batch.leader_epoch, timestamp_type, records]);
    }
    let header = [length(timestamps.len())?, length(batches.len())?];
    floats.append(&mut timestamps);
    ints.append(&mut runs);
    let mut packed = Vec::with_capacity(8 + 8 * floats.len() + 4 * ints.len() + data.len());
    packed.extend(header.iter().flat_map(|int| int.to_le_bytes()));
    packed.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
    packed.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
    packed.append(&mut data);
    Ok(packed)
}

fn put(data: &mut Vec<u8>, bytes: Option<&[u8]>) -> Result<i32> {
    let Some(bytes) = bytes else { return Ok(-1) };
    data.extend_from_slice(bytes);
    length(bytes.len())
}

fn length(length: usize) -> Result<i32> {
    i32::try_from(length)
        .map_err(|_| Error::new(ErrorKind::Full, "a poll has more than 2 GiB: set max_poll_records to less"))
}
