//! What every transport has to do.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, Either};
use futures::stream::{FuturesUnordered, StreamExt};

use super::{Endpoint, Transport};
use crate::clock::Clock;
use crate::protocol::messages::create_topics::CreatableTopic;
use crate::protocol::messages::delete_topics::DeleteTopicState;
use crate::protocol::messages::fetch::{FetchPartition, FetchTopic};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumRequest, FetchRequest, FetchResponse, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, ProduceResponse,
};
use crate::protocol::{ApiKey, ErrorCode, RequestMessage};
use crate::record::{Batch, Builder, BuilderOptions, NO_HEADERS, ProducerFields};
use crate::{ErrorKind, Result};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many partitions the suite's topic has.
const PARTITIONS: i32 = 8;
/// How long a fetch waits at the broker where the suite wants one that waits.
const LONG_POLL_MS: i32 = 1_000;
/// A batch that no single write or read takes.
const LARGE: usize = 900_000;
const LATEST: i64 = -1;

/// Panics where `transport` does not keep what [`Transport`] promises.
///
/// A broker answers at `broker`, Ottla's or Kafka's; the suite makes a topic there, named `conformance-` and the time, and
/// removes it at the end. Nobody answers at `nobody`; `None` for a transport that reaches one broker whatever it is told.
/// `clock` bounds each step.
///
/// Takes some seconds of that clock's time: requests that wait at the broker are part of it.
pub async fn conformance(transport: &dyn Transport, clock: &dyn Clock, broker: &Endpoint, nobody: Option<&Endpoint>) {
    let topic = format!("conformance-{}", clock.now());
    let suite = Suite { transport, clock, broker, topic };
    suite.creates_its_topic().await;
    suite.versions_are_told().await;
    suite.what_the_broker_lacks_is_refused().await;
    suite.answers_find_their_questions().await;
    suite.requests_go_in_the_order_of_their_first_poll().await;
    suite.a_call_that_nobody_polls_holds_up_nobody().await;
    suite.dropped_calls_harm_nobody().await;
    suite.what_is_large_arrives_whole().await;
    suite.nobody_answers_what_asks_for_no_acknowledgement().await;
    suite.what_waits_on_a_separate_transport_holds_up_nobody().await;
    suite.a_closed_connection_is_opened_again().await;
    if let Some(nobody) = nobody {
        suite.a_broker_that_is_not_there_is_an_error_that_names_it(nobody).await;
    }
    suite.removes_its_topic().await;
}

struct Suite<'a> {
    transport: &'a dyn Transport,
    clock: &'a dyn Clock,
    broker: &'a Endpoint,
    topic: String,
}

impl Suite<'_> {
    async fn creates_its_topic(&self) {
        let topics = vec![CreatableTopic {
            name: self.topic.clone(),
            num_partitions: PARTITIONS,
            replication_factor: 1,
            ..Default::default()
        }];
        let created = self.call(CreateTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() }).await;
        assert_eq!(created.topics[0].error_code, ErrorCode::NONE, "creates its topic");
        let ready = async {
            while self.try_end(self.transport, 0).await.is_err() {
                self.clock.sleep(Duration::from_millis(50)).await;
            }
        };
        self.within("waiting for the topic", ready).await;
    }

    async fn removes_its_topic(&self) {
        let mut request = DeleteTopicsRequest { timeout_ms: 30_000, ..Default::default() };
        let versions = self.transport.versions(self.broker).await.expect("versions");
        // From version 6 on a topic may be named by its id, too.
        if versions.version_for(ApiKey::DELETE_TOPICS).expect("what every broker speaks") < 6 {
            request.topic_names = vec![self.topic.clone()];
        } else {
            request.topics = vec![DeleteTopicState { name: Some(self.topic.clone()), ..Default::default() }];
        }
        let removed = self.call(request).await;
        assert_eq!(removed.responses[0].error_code, ErrorCode::NONE, "removes its topic");
    }

    async fn versions_are_told(&self) {
        let ask = || self.within("asking for versions", self.transport.versions(self.broker));
        let versions = ask().await.expect("the broker says what it speaks");
        for api in [ApiKey::PRODUCE, ApiKey::FETCH, ApiKey::LIST_OFFSETS, ApiKey::METADATA] {
            versions.version_for(api).expect("what every broker speaks");
        }
        assert_eq!(ask().await.expect("the broker says it again"), versions, "versions are the same when asked again");
    }

    async fn what_the_broker_lacks_is_refused(&self) {
        let versions = self.transport.versions(self.broker).await.expect("versions");
        if versions.served(ApiKey::DESCRIBE_QUORUM).is_none() {
            let error = self.try_call(self.transport, DescribeQuorumRequest::default()).await.expect_err("a refusal");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
        self.end(0).await;
    }

    /// Many questions at a time, each with an answer of its own.
    async fn answers_find_their_questions(&self) {
        let mut sent: FuturesUnordered<_> = (0..PARTITIONS)
            .map(|partition| async move {
                let batch = batch(&vec![b"x".to_vec(); partition as usize + 1]);
                self.call(self.produce(partition, batch, 1)).await
            })
            .collect();
        while let Some(response) = sent.next().await {
            base_offset(&response);
        }
        let mut asked: FuturesUnordered<_> = (0..200)
            .map(|number| async move {
                if number % 7 == 0 {
                    let response = self.call(MetadataRequest { topics: Some(Vec::new()), ..Default::default() }).await;
                    assert!(!response.brokers.is_empty(), "a question for brokers gets an answer about them");
                } else {
                    let partition = (number * 5) % PARTITIONS;
                    assert_eq!(
                        self.end(partition).await,
                        i64::from(partition) + 1,
                        "the answer about another partition"
                    );
                }
            })
            .collect();
        while asked.next().await.is_some() {}
    }

    async fn requests_go_in_the_order_of_their_first_poll(&self) {
        let start = self.end(0).await;
        // Made in the opposite order of that in which they are polled.
        let mut calls: VecDeque<_> = VecDeque::new();
        for number in (0..20_u8).rev() {
            let request = self.produce(0, batch(&[vec![number]]), 1);
            calls.push_front((number, self.transport.call(self.broker, request.into())));
        }
        let mut under_way = Vec::new();
        for (number, mut call) in calls {
            let answer = poll_once(&mut call).await;
            under_way.push((number, call, answer));
        }
        for (number, call, answer) in under_way {
            let answer = match answer {
                Some(answer) => answer,
                None => self.within("waiting for an acknowledgement", call).await,
            };
            let response =
                answer.expect("an acknowledgement").try_into().expect("a produce is answered by its response");
            assert_eq!(base_offset(&response), start + i64::from(number), "requests are sent in their order");
        }
    }

    async fn a_call_that_nobody_polls_holds_up_nobody(&self) {
        let request = || self.list_end(2).into();
        let mut left = self.transport.call(self.broker, request());
        let answer = poll_once(&mut left).await;
        assert_eq!(self.end(1).await, 2);
        let mut asked: FuturesUnordered<_> = (0..20).map(|_| self.end(3)).collect();
        while let Some(end) = asked.next().await {
            assert_eq!(end, 4);
        }
        let answer = match answer {
            Some(answer) => answer,
            None => self.within("taking up a call that was left", left).await,
        };
        let response = answer.expect("its answer is kept").try_into().expect("a question for offsets gets offsets");
        assert_eq!(self.offset(&response, 2), Some(3));
    }

    async fn dropped_calls_harm_nobody(&self) {
        let before = self.end(4).await;
        drop(self.transport.call(self.broker, self.produce(4, batch(&[b"never".to_vec()]), 1).into()));
        assert_eq!(self.end(4).await, before, "a call that was never polled was never made");

        // Some while they are under way.
        let mut calls = Vec::new();
        for number in 0..60 {
            let partition = number % PARTITIONS;
            if partition == 0 {
                // Its end has moved on.
                continue;
            }
            let mut call = self.transport.call(self.broker, self.list_end(partition).into());
            let answer = poll_once(&mut call).await;
            if number % 3 != 0 {
                calls.push((partition, call, answer));
            }
        }
        for (partition, call, answer) in calls {
            let answer = match answer {
                Some(answer) => answer,
                None => self.within("waiting beside calls that were dropped", call).await,
            };
            let response = answer.expect("an answer").try_into().expect("a question for offsets gets offsets");
            assert_eq!(self.offset(&response, partition), Some(i64::from(partition) + 1));
        }

        // One that waits at the broker: its answer comes when nobody wants it any more.
        let mut waits = self.transport.call(self.broker, self.fetch(5, 6).into());
        assert!(poll_once(&mut waits).await.is_none(), "a fetch at the end waits for records");
        drop(waits);
        for _ in 0..3 {
            assert_eq!(self.end(6).await, 7, "who asks next gets the answer of a call that was dropped");
        }
    }

    async fn what_is_large_arrives_whole(&self) {
        let mut chance = 1_u32;
        let mut noise = || {
            // xorshift: what no codec and no accident makes right.
            chance ^= chance << 13;
            chance ^= chance >> 17;
            chance ^= chance << 5;
            chance as u8
        };
        let batches: Vec<Bytes> = (0..6).map(|_| batch(&[(0..LARGE).map(|_| noise()).collect()])).collect();
        let start = self.end(7).await;
        let mut sent: FuturesUnordered<_> =
            batches.iter().map(|batch| self.call(self.produce(7, batch.clone(), 1))).collect();
        while let Some(response) = sent.next().await {
            base_offset(&response);
        }
        let (mut found, mut next) = (Vec::new(), start);
        while found.len() < batches.len() {
            let response = self.call(self.fetch(7, next)).await;
            let mut records = records(response);
            assert!(!records.is_empty(), "what is below the end is there");
            while let Some(batch) = Batch::split(&mut records).expect("whole batches") {
                batch.check_crc().expect("bytes arrive as they were sent");
                next = batch.next_offset();
                found.push(batch.crc());
            }
        }
        let crc = |bytes: &Bytes| {
            let batch = Batch::split(&mut bytes.clone()).expect("a batch that was built").expect("is whole");
            batch.crc()
        };
        assert_eq!(found, batches.iter().map(crc).collect::<Vec<_>>(), "each arrives once, in order");
    }

    async fn nobody_answers_what_asks_for_no_acknowledgement(&self) {
        let before = self.end(1).await;
        for number in 0..5 {
            let unanswered = self.call(self.produce(1, batch(&[b"acks=0".to_vec()]), 0));
            let (unanswered, end) = future::join(unanswered, self.end(2)).await;
            assert_eq!(unanswered, ProduceResponse::default(), "with acks=0 the answer says nothing");
            assert_eq!(end, 3, "the next request's answer is its own");
            assert_eq!(self.end(1).await, before + number + 1, "what was sent before is there");
        }
    }

    async fn what_waits_on_a_separate_transport_holds_up_nobody(&self) {
        let separate = self.transport.separate();
        let end = self.end(3).await;
        let mut waits = separate.call(self.broker, self.fetch_waiting(3, end, 30_000).into());
        assert!(poll_once(&mut waits).await.is_none(), "a fetch at the end waits for records");
        let record = async {
            assert_eq!(self.end(4).await, 5);
            base_offset(&self.call(self.produce(3, batch(&[b"news".to_vec()]), 1)).await)
        };
        let produced = match future::select(Box::pin(record), waits).await {
            Either::Left((produced, fetched)) => {
                let fetched = self.within("waiting for the record", fetched).await.expect("the fetch is answered");
                assert!(!records(fetched.try_into().expect("a fetch is answered by its response")).is_empty());
                produced
            }
            Either::Right((fetched, record)) => {
                // The record's own answer was on its way.
                let fetched = fetched.expect("the fetch is answered").try_into().expect("by its response");
                assert!(!records(fetched).is_empty(), "a fetch on a separate transport holds up the others");
                self.within("waiting for an acknowledgement", record).await
            }
        };
        assert_eq!(produced, end);
    }

    async fn a_closed_connection_is_opened_again(&self) {
        let end = self.end(5).await;
        let mut waits = self.transport.call(self.broker, self.fetch(5, end).into());
        assert!(poll_once(&mut waits).await.is_none(), "a fetch at the end waits for records");
        let separate = self.transport.separate();
        assert_eq!(self.within("asking", self.try_end(&*separate, 5)).await.expect("an answer"), end);
        self.transport.close(self.broker);
        self.transport.close(self.broker);
        self.transport.close(&Endpoint::new("never-used.invalid", 1));
        if let Err(error) = self.within("ending a call whose connection was closed", waits).await {
            assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Retriable), "{error}");
        }
        assert_eq!(self.end(5).await, end, "the next call opens the connection again");
        self.transport.versions(self.broker).await.expect("versions, after the connection was closed");
        separate.close(self.broker);
        assert_eq!(self.end(5).await, end, "a separate transport's connections are its own");
    }

    async fn a_broker_that_is_not_there_is_an_error_that_names_it(&self, nobody: &Endpoint) {
        for _ in 0..2 {
            let request = MetadataRequest::default();
            let call = self.transport.call(nobody, request.into());
            let error = self.within("not finding a broker", call).await.expect_err("nobody answers");
            assert!(matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Timeout), "{error}");
            assert!(error.to_string().contains(&nobody.to_string()), "the error does not say who is missing: {error}");
        }
        self.within("not finding a broker", self.transport.versions(nobody)).await.expect_err("nobody answers");
        self.end(0).await;
    }

    /// A call that has to be answered.
    async fn call<R: RequestMessage>(&self, request: R) -> R::Response {
        self.try_call(self.transport, request).await.expect("an answer")
    }

    async fn try_call<R: RequestMessage>(&self, transport: &dyn Transport, request: R) -> Result<R::Response> {
        let response = self.within("waiting for an answer", transport.call(self.broker, request.into())).await?;
        Ok(R::Response::try_from(response).unwrap_or_else(|_| panic!("answered by another kind of response")))
    }

    /// The end of a partition whose question has to be answered.
    async fn end(&self, partition: i32) -> i64 {
        self.try_end(self.transport, partition).await.expect("an end")
    }

    async fn try_end(&self, transport: &dyn Transport, partition: i32) -> Result<i64, String> {
        let response = self.try_call(transport, self.list_end(partition)).await.map_err(|error| error.to_string())?;
        self.offset(&response, partition).ok_or_else(|| format!("{response:?}"))
    }

    fn offset(&self, response: &<ListOffsetsRequest as RequestMessage>::Response, partition: i32) -> Option<i64> {
        let topic = response.topics.first().expect("an answer about the topic");
        let answer = topic.partitions.first().expect("an answer about the partition");
        assert_eq!((&*topic.name, answer.partition_index), (&*self.topic, partition), "the answer to another question");
        (answer.error_code == ErrorCode::NONE).then_some(answer.offset)
    }

    fn list_end(&self, partition: i32) -> ListOffsetsRequest {
        let partitions =
            vec![ListOffsetsPartition { partition_index: partition, current_leader_epoch: -1, timestamp: LATEST }];
        let topics = vec![ListOffsetsTopic { name: self.topic.clone(), partitions }];
        ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }
    }

    fn produce(&self, index: i32, records: Bytes, acks: i16) -> ProduceRequest {
        let partition_data = vec![PartitionProduceData { index, records: Some(records) }];
        let topic_data = vec![TopicProduceData { name: self.topic.clone(), partition_data, ..Default::default() }];
        ProduceRequest { acks, timeout_ms: 30_000, topic_data, ..Default::default() }
    }

    /// Waits for a second where there is nothing.
    fn fetch(&self, partition: i32, fetch_offset: i64) -> FetchRequest {
        self.fetch_waiting(partition, fetch_offset, LONG_POLL_MS)
    }

    fn fetch_waiting(&self, partition: i32, fetch_offset: i64, max_wait_ms: i32) -> FetchRequest {
        let partitions = vec![FetchPartition {
            partition,
            current_leader_epoch: -1,
            fetch_offset,
            partition_max_bytes: 4 << 20,
            ..Default::default()
        }];
        FetchRequest {
            replica_id: -1,
            max_wait_ms,
            min_bytes: 1,
            max_bytes: 16 << 20,
            session_epoch: -1,
            topics: vec![FetchTopic { topic: self.topic.clone(), partitions, ..Default::default() }],
            ..Default::default()
        }
    }

    async fn within<T>(&self, what: &str, act: impl Future<Output = T>) -> T {
        match future::select(Box::pin(act), self.clock.sleep(PATIENCE)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => panic!("{what} took more than {} s", PATIENCE.as_secs()),
        }
    }
}

/// Polls a call; its answer if that was there at once.
async fn poll_once<F: Future + Unpin>(call: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *call).poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn batch(values: &[Vec<u8>]) -> Bytes {
    let mut builder = Builder::new(BuilderOptions::default());
    for value in values {
        builder.append(1_700_000_000_000, Some(b"key"), Some(value), NO_HEADERS).expect("a record that fits");
    }
    let batch = builder.seal(ProducerFields::NONE).expect("a batch");
    batch.as_bytes().clone()
}

fn base_offset(response: &ProduceResponse) -> i64 {
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, ErrorCode::NONE, "records are taken");
    partition.base_offset
}

fn records(response: FetchResponse) -> Bytes {
    assert_eq!(response.error_code, ErrorCode::NONE);
    let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    partition.map_or_else(Bytes::new, |partition| {
        assert_eq!(partition.error_code, ErrorCode::NONE, "records are read");
        partition.records.unwrap_or_default()
    })
}
