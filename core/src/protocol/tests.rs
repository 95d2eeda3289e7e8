use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::connection::{DEFAULT_MAX_FRAME, Outgoing, Received, Served, advertised};
use super::messages::fetch::{FetchableTopicResponse, PartitionData};
use super::messages::*;
use super::*;
use crate::ErrorKind;

/// A message of any kind, found by its name, decoded and encoded again.
fn again(name: &str, version: i16, bytes: Bytes) -> Result<Bytes, ProtocolError> {
    fn message<M: Message>(version: i16, bytes: Bytes) -> Result<Bytes, ProtocolError> {
        let mut d = Decoder::new(bytes);
        let message = M::decode(&mut d, version)?;
        assert_eq!(d.remaining(), 0, "{} version={version}", M::NAME);
        let mut e = Encoder::new();
        message.encode(&mut e, version)?;
        e.into_bytes()
    }

    match name {
        "ConsumerProtocolAssignment" => message::<ConsumerProtocolAssignment>(version, bytes),
        "ConsumerProtocolSubscription" => message::<ConsumerProtocolSubscription>(version, bytes),
        "GroupMetadataKey" => message::<GroupMetadataKey>(version, bytes),
        "GroupMetadataValue" => message::<GroupMetadataValue>(version, bytes),
        "OffsetCommitKey" => message::<OffsetCommitKey>(version, bytes),
        "OffsetCommitValue" => message::<OffsetCommitValue>(version, bytes),
        _ => {
            let (api, is_request) = api(name).expect(name);
            let (mut d, mut e) = (Decoder::new(bytes), Encoder::new());
            if is_request {
                Request::decode(api, version, &mut d)?.encode(&mut e, version)?;
            } else {
                Response::decode(api, version, &mut d)?.encode(&mut e, version)?;
            }
            assert_eq!(d.remaining(), 0, "{name} version={version}");
            e.into_bytes()
        }
    }
}

/// The API of a request or response, and whether it is a request.
fn api(message: &str) -> Option<(ApiKey, bool)> {
    let is_request = message.ends_with("Request");
    let name = message.strip_suffix(if is_request { "Request" } else { "Response" })?;
    ApiKey::ALL.iter().find(|api| api.name() == Some(name)).map(|api| (*api, is_request))
}

/// Messages as Kafka's own classes encode them: name, version, bytes.
fn golden() -> impl Iterator<Item = (&'static str, i16, Bytes)> {
    let lines = include_str!("../../../tests/data/messages.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut parts = line.split(' ');
        let (name, version) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
        (name, version, unhex(parts.next().unwrap()))
    })
}

fn unhex(text: &str) -> Bytes {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn encoded(message: &impl Message, version: i16) -> Result<Bytes, ProtocolError> {
    let mut e = Encoder::new();
    message.encode(&mut e, version)?;
    e.into_bytes()
}

fn decoded<M: Message>(bytes: impl Into<Bytes>, version: i16) -> Result<M, ProtocolError> {
    M::decode(&mut Decoder::new(bytes.into()), version)
}

#[track_caller]
fn round_trips<M: Message + PartialEq + Debug>(message: &M, version: i16) {
    assert_eq!(&decoded::<M>(encoded(message, version).unwrap(), version).unwrap(), message);
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

// Messages

#[test]
fn every_message_in_every_version_is_byte_for_byte_what_kafka_writes() {
    let mut seen = std::collections::HashSet::new();
    for (name, version, bytes) in golden() {
        assert_eq!(again(name, version, bytes.clone()), Ok(bytes), "{name} version={version}");
        seen.insert((name, version));
    }
    for api in ApiKey::ALL {
        let (min, max) = api.known_versions().unwrap();
        for version in min..=max {
            for kind in ["Request", "Response"] {
                let name = format!("{api}{kind}");
                assert!(seen.contains(&(name.as_str(), version)), "{name} version={version}");
            }
        }
    }
}

#[test]
fn a_message_that_ends_early_is_an_error_wherever_it_ends() {
    for (name, version, bytes) in golden() {
        for end in 0..bytes.len() {
            let result = again(name, version, bytes.slice(..end));
            assert!(matches!(result, Err(ProtocolError::Truncated { .. })), "{name} {version} {end} {result:?}");
        }
    }
}

#[test]
fn a_damaged_message_is_an_error_or_another_message() {
    let mut numbers = Numbers(1);
    for (name, version, bytes) in golden().filter(|(_, _, bytes)| !bytes.is_empty()) {
        for _ in 0..20 {
            let mut damaged = bytes.to_vec();
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(damaged.len());
                damaged[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.below(256) as u8][numbers.below(6)];
            }
            let Some((api, is_request)) = api(name) else { continue };
            let d = &mut Decoder::new(damaged.into());
            // Whatever could be decoded can be encoded.
            if is_request {
                if let Ok(request) = Request::decode(api, version, d) {
                    assert_eq!(request.encode(&mut Encoder::new(), version), Ok(()), "{request:?}");
                }
            } else if let Ok(response) = Response::decode(api, version, d) {
                assert_eq!(response.encode(&mut Encoder::new(), version), Ok(()), "{response:?}");
            }
        }
    }
}

#[test]
fn random_bytes_are_never_a_panic() {
    let mut numbers = Numbers(2);
    for api in ApiKey::ALL {
        let (min, max) = api.known_versions().unwrap();
        for version in min - 1..=max + 1 {
            for _ in 0..30 {
                let length = numbers.below(60);
                let bytes: Bytes = (0..length).map(|_| numbers.below(256) as u8 & 0x8f).collect();
                let _ = Request::decode(*api, version, &mut Decoder::new(bytes.clone()));
                let _ = Response::decode(*api, version, &mut Decoder::new(bytes));
            }
        }
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_takes_no_memory() {
    // Version 12: replica id, max wait, min bytes, max bytes, isolation, session, epoch, then the count of the topics.
    let mut fetch = vec![0; 25];
    fetch.extend([0xff, 0xff, 0xff, 0xff, 0x07]);
    assert_eq!(fetch.len(), 30);
    assert!(matches!(decoded::<FetchRequest>(fetch, 12), Err(ProtocolError::Truncated { position: 30, .. })));

    let mut fetch = vec![0; 25];
    fetch.extend(i32::MAX.to_be_bytes());
    assert!(matches!(decoded::<FetchRequest>(fetch, 11), Err(ProtocolError::Truncated { position: 29, .. })));

    // Ten topics need more than the ten bytes that are there.
    let mut fetch = vec![0; 25];
    fetch.extend([0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(decoded::<FetchRequest>(fetch, 11), Err(ProtocolError::Truncated { position: 29, .. })));
}

#[test]
fn lengths_below_minus_one_are_errors() {
    let invalid = |result| matches!(result, Err(ProtocolError::InvalidLength { .. }));
    assert!(invalid(decoded::<SaslHandshakeRequest>(vec![0xff, 0xfe], 1).map(drop)));
    assert!(invalid(decoded::<SaslAuthenticateRequest>(vec![0xff, 0xff, 0xff, 0xfe], 0).map(drop)));
    assert!(invalid(decoded::<MetadataRequest>(vec![0xff, 0xff, 0xff, 0xfe], 1).map(drop)));
}

#[test]
fn null_is_refused_where_the_version_has_none() {
    let null = |result| matches!(result, Err(ProtocolError::UnexpectedNull { .. }));
    assert!(null(decoded::<SaslHandshakeRequest>(vec![0xff, 0xff], 1).map(drop)));
    assert!(null(decoded::<MetadataRequest>(vec![0xff; 4], 0).map(drop)));
    assert_eq!(decoded::<MetadataRequest>(vec![0xff; 4], 1).unwrap().topics, None);

    let all = MetadataRequest { topics: None, ..Default::default() };
    assert_eq!(encoded(&all, 1).unwrap(), [0xff; 4].as_slice());
    let message = "MetadataRequest";
    assert_eq!(
        encoded(&all, 0),
        Err(ProtocolError::FieldNotInVersion { message, version: 0, field: "topics" }),
        "null would say something else in version 0"
    );
}

#[test]
fn a_string_has_to_be_utf8() {
    let result = decoded::<SaslHandshakeRequest>(vec![0, 2, 0xc3, 0x28], 1);
    assert_eq!(result, Err(ProtocolError::InvalidUtf8 { position: 2 }));
}

#[test]
fn a_variable_length_number_has_at_most_32_bits() {
    for bytes in [[0xff; 6], [0x80, 0x80, 0x80, 0x80, 0x10, 0]] {
        let result = decoded::<SaslAuthenticateRequest>(bytes.to_vec(), 2);
        assert_eq!(result, Err(ProtocolError::InvalidVarint { position: 5 }));
    }
}

#[test]
fn a_field_that_the_version_lacks_is_refused_if_it_matters_and_dropped_if_not() {
    let named = |member: &str| HeartbeatRequest { group_instance_id: Some(member.to_owned()), ..Default::default() };
    let message = "HeartbeatRequest";
    let error = ProtocolError::FieldNotInVersion { message, version: 2, field: "group_instance_id" };
    assert_eq!(encoded(&named("a"), 2), Err(error.clone()));
    assert_eq!(crate::Error::from(error).kind(), ErrorKind::Unsupported);
    round_trips(&named("a"), 3);

    let throttled = HeartbeatResponse { throttle_time_ms: 5, ..Default::default() };
    let dropped: HeartbeatResponse = decoded(encoded(&throttled, 0).unwrap(), 0).unwrap();
    assert_eq!(dropped.throttle_time_ms, 0);
    round_trips(&throttled, 1);
}

#[test]
fn a_value_longer_than_its_length_field_is_refused() {
    let name = "x".repeat(i16::MAX as usize + 1);
    let request = SaslHandshakeRequest { mechanism: name.clone() };
    assert!(matches!(encoded(&request, 1), Err(ProtocolError::TooLong { length: 32768, limit: 32767, .. })));
    let request = DescribeGroupsRequest { groups: vec![name], ..Default::default() };
    assert!(matches!(encoded(&request, 5), Err(ProtocolError::TooLong { length: 32768, limit: 32767, .. })));
}

#[test]
fn a_version_that_does_not_exist_is_refused() {
    let (message, min, max) = ("ProduceRequest", 3, 13);
    for version in [-1, 2, 14] {
        let error = ProtocolError::UnsupportedVersion { message, version, min, max };
        assert_eq!(encoded(&ProduceRequest::default(), version), Err(error.clone()));
        assert_eq!(decoded::<ProduceRequest>(vec![0; 30], version), Err(error));
    }
    let unknown = Request::decode(ApiKey(999), 0, &mut Decoder::new(Bytes::new()));
    assert_eq!(unknown, Err(ProtocolError::UnknownApi(ApiKey(999))));
}

#[test]
fn an_unknown_tagged_field_is_skipped() {
    let request = HeartbeatRequest { group_id: "g".to_owned(), generation_id: 7, ..Default::default() };
    let bytes = encoded(&request, 4).unwrap();
    let mut newer = bytes[..bytes.len() - 1].to_vec();
    newer.extend([2, 100, 3, 1, 2, 3, 0xff, 1, 0]);
    assert_eq!(decoded::<HeartbeatRequest>(newer, 4), Ok(request));
}

#[test]
fn a_tagged_field_cannot_reach_beyond_its_size() {
    // One tagged field with tag 0, the cluster id, of two bytes; the string claims more than those.
    let bytes = encoded(&FetchRequest::default(), 12).unwrap();
    let mut bytes = bytes[..bytes.len() - 1].to_vec();
    bytes.extend([1, 0, 2, 5, b'a', b'b', b'c', b'd']);
    assert!(matches!(
        decoded::<FetchRequest>(bytes, 12),
        Err(ProtocolError::Truncated { wanted: 4, remaining: 1, .. })
    ));
}

#[test]
fn tagged_fields_are_written_only_if_they_say_something() {
    let bytes = encoded(&FetchResponse::default(), 16).unwrap();
    assert_eq!(bytes[..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);

    let mut partition = PartitionData::default();
    partition.current_leader.leader_id = 4;
    let responses = vec![FetchableTopicResponse {
        topic_id: Uuid::from_u128(1),
        partitions: vec![partition],
        ..Default::default()
    }];
    round_trips(&FetchResponse { responses, ..Default::default() }, 16);
}

#[test]
fn records_are_neither_copied_in_nor_out() {
    let records = Bytes::from(vec![7; 5000]);
    let small = Bytes::from_static(b"few");
    let partition = |index, records| produce::PartitionProduceData { index, records };
    let request = ProduceRequest {
        acks: -1,
        topic_data: vec![produce::TopicProduceData {
            name: "orders".to_owned(),
            partition_data: vec![partition(0, Some(records.clone())), partition(1, Some(small)), partition(2, None)],
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut e = Encoder::new();
    request.encode(&mut e, 9).unwrap();
    let length = e.len();
    let pieces = e.finish().unwrap();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[1].as_ptr(), records.as_ptr());
    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), length);

    let frame = Bytes::from(pieces.concat());
    let again: ProduceRequest = decoded(frame.clone(), 9).unwrap();
    assert_eq!(again, request);
    let found = again.topic_data[0].partition_data[0].records.as_ref().unwrap();
    assert!(frame.as_ptr_range().contains(&found.as_ptr()));
}

#[test]
fn fields_are_where_kafka_has_them() {
    // Written down by hand from the protocol guide: ListOffsets version 1 and Produce version 9.
    let partition = |partition_index, timestamp| list_offsets::ListOffsetsPartition {
        partition_index,
        timestamp,
        ..Default::default()
    };
    let topics = vec![list_offsets::ListOffsetsTopic { name: "t".to_owned(), partitions: vec![partition(3, -2)] }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let expected = unhex("ffffffff000000010001740000000100000003fffffffffffffffe");
    assert_eq!(encoded(&request, 1).unwrap(), expected);

    let request = ProduceRequest {
        transactional_id: Some("x".to_owned()),
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![produce::TopicProduceData {
            name: "t".to_owned(),
            partition_data: vec![produce::PartitionProduceData { index: 2, records: Some(Bytes::from_static(b"r")) }],
            ..Default::default()
        }],
    };
    let expected = unhex("0278ffff0000753002027402000000020272000000");
    assert_eq!(encoded(&request, 9).unwrap(), expected);
}

#[test]
fn a_group_subscription_of_a_newer_client_is_read_as_the_newest_we_know() {
    let topics = vec!["a".to_owned(), "b".to_owned()];
    let subscription = ConsumerProtocolSubscription { topics, generation_id: 9, ..Default::default() };
    let bytes = subscription.to_versioned_bytes(3).unwrap();
    assert_eq!(ConsumerProtocolSubscription::from_versioned_bytes(bytes.clone()).unwrap(), subscription);
    let mut newer = bytes.to_vec();
    newer[1] = 8;
    newer.extend(b"what a later version adds");
    assert_eq!(ConsumerProtocolSubscription::from_versioned_bytes(newer.into()).unwrap(), subscription);

    let value = OffsetCommitValue { offset: 5, ..Default::default() }.to_versioned_bytes(4).unwrap();
    let mut newer = value.to_vec();
    newer[1] = 5;
    let result = OffsetCommitValue::from_versioned_bytes(newer.into());
    assert!(matches!(result, Err(ProtocolError::UnsupportedVersion { version: 5, max: 4, .. })));
}

#[test]
fn client_versions_use_topic_names_and_are_known() {
    let all: Vec<_> = supported().collect();
    assert_eq!(all.len(), ApiKey::ALL.len());
    assert!(all.is_sorted());
    for (api, min, max) in all {
        let known = api.known_versions().unwrap();
        assert!(known.0 == min && min <= max && max <= known.1, "{api}");
    }
    assert_eq!(ApiKey::FETCH.client_versions(), Some((4, 12)));
    assert_eq!(ApiKey::METADATA.client_versions(), Some((0, 12)));
    assert_eq!(ApiKey(4).client_versions(), None);
}

// Error codes

#[test]
fn every_error_code_has_a_name_and_is_found_by_it() {
    for (index, &code) in ErrorCode::ALL.iter().enumerate() {
        assert_eq!(i32::from(code.0), index as i32 - 1, "no gaps");
        assert_eq!(ErrorCode::from_name(code.name()), Some(code));
        assert!(!code.message().is_empty());
        assert!(!code.is_invalid_metadata() || code.is_retriable());
    }
    for unknown in [-2, 137, i16::MIN, i16::MAX] {
        assert_eq!(ErrorCode(unknown).name(), "UNKNOWN_SERVER_ERROR");
        assert!(!ErrorCode(unknown).is_retriable());
        assert_eq!(ErrorCode(unknown).kind(), ErrorKind::Internal);
    }
    assert_eq!(ErrorCode::from_name("NO_SUCH_CODE"), None);
}

#[test]
fn an_error_code_says_what_kafkas_clients_do_with_it() {
    assert!(ErrorCode::NOT_LEADER_OR_FOLLOWER.is_invalid_metadata());
    assert!(ErrorCode::NOT_COORDINATOR.is_retriable() && !ErrorCode::NOT_COORDINATOR.is_invalid_metadata());
    assert!(!ErrorCode::REBALANCE_IN_PROGRESS.is_retriable());
    assert_eq!(ErrorCode::NONE.ok(), Ok(()));
    let error = crate::Error::from(ErrorCode::PRODUCER_FENCED);
    assert_eq!((error.kind(), error.code()), (ErrorKind::Fenced, Some(ErrorCode::PRODUCER_FENCED)));
}

// Connection

const SERVED: &[Served] = &[
    (ApiKey::PRODUCE, 3, 12),
    (ApiKey::METADATA, 0, 12),
    (ApiKey::SASL_HANDSHAKE, 1, 1),
    (ApiKey::API_VERSIONS, 0, 4),
    (ApiKey::HEARTBEAT, 0, 4),
];

fn pair() -> (ClientConnection, ServerConnection) {
    let client = ClientConnection::new(Some("client".to_owned()), DEFAULT_MAX_FRAME);
    (client, ServerConnection::new(Arc::from(SERVED), DEFAULT_MAX_FRAME))
}

fn heartbeat(generation_id: i32) -> Request {
    HeartbeatRequest { generation_id, ..Default::default() }.into()
}

fn beat(throttle_time_ms: i32) -> Response {
    HeartbeatResponse { throttle_time_ms, ..Default::default() }.into()
}

#[track_caller]
fn send(client: &mut ClientConnection, server: &mut ServerConnection, request: &Request, version: i16) -> Outgoing {
    let outgoing = client.request(request, version).unwrap();
    server.receive(&outgoing.bytes.concat());
    outgoing
}

#[track_caller]
fn next(server: &mut ServerConnection) -> Received {
    server.poll_request().unwrap().expect("a request")
}

#[test]
fn a_request_and_its_response_cross_in_every_version() {
    let (mut client, mut server) = pair();
    for &(api, min, max) in SERVED {
        for version in min..=max {
            let (request, response): (Request, Response) = match api {
                ApiKey::PRODUCE => {
                    (ProduceRequest { acks: 1, ..Default::default() }.into(), ProduceResponse::default().into())
                }
                ApiKey::METADATA => (MetadataRequest::default().into(), MetadataResponse::default().into()),
                ApiKey::SASL_HANDSHAKE => {
                    (SaslHandshakeRequest::default().into(), SaslHandshakeResponse::default().into())
                }
                ApiKey::API_VERSIONS => (ApiVersionsRequest::default().into(), ApiVersionsResponse::default().into()),
                _ => (heartbeat(1), beat(0)),
            };
            let sent = send(&mut client, &mut server, &request, version);
            assert!(sent.expects_response);
            let received = next(&mut server);
            assert_eq!((received.api_key, received.version), (api, version));
            assert_eq!(received.correlation_id, sent.correlation_id);
            assert_eq!(received.client_id.as_deref(), Some("client"));
            assert_eq!(received.request, request);
            server.respond(received.ticket.unwrap(), &response).unwrap();
            client.receive(&server.poll_transmit().unwrap().concat());
            assert_eq!(client.poll_response(), Ok(Some((sent.correlation_id, response))));
        }
    }
    assert_eq!(server.poll_request(), Ok(None));
    assert_eq!(server.poll_transmit(), None);
    assert_eq!(client.in_flight(), 0);
}

#[test]
fn headers_are_as_kafka_has_them() {
    let (mut client, mut server) = pair();
    // size, key 12, version, correlation id, client id; tagged fields from version 4 on.
    let bytes = client.request(&heartbeat(7), 3).unwrap().bytes.concat();
    assert_eq!(Bytes::from(bytes), unhex("0000001a000c0003000000000006636c69656e74000000000007 0000ffff"));
    let bytes = client.request(&heartbeat(7), 4).unwrap().bytes.concat();
    assert_eq!(Bytes::from(bytes.clone()), unhex("00000019000c0004000000010006636c69656e740001000000070100 00"));

    server.receive(&bytes);
    let ticket = next(&mut server).ticket.unwrap();
    server.respond(ticket, &beat(1)).unwrap();
    let response = server.poll_transmit().unwrap().concat();
    assert_eq!(Bytes::from(response), unhex("0000000c00000001000000000100 0000"));
}

#[test]
fn bytes_may_arrive_one_at_a_time() {
    let (mut client, mut server) = pair();
    let bytes = [client.request(&heartbeat(1), 4).unwrap(), client.request(&heartbeat(2), 4).unwrap()]
        .map(|outgoing| outgoing.bytes.concat())
        .concat();
    let mut generations = Vec::new();
    for byte in bytes {
        server.receive(&[byte]);
        while let Some(received) = server.poll_request().unwrap() {
            let Request::Heartbeat(request) = received.request else { panic!() };
            generations.push(request.generation_id);
            server.respond(received.ticket.unwrap(), &beat(request.generation_id)).unwrap();
        }
    }
    assert_eq!(generations, [1, 2]);
    let mut found = Vec::new();
    while let Some(pieces) = server.poll_transmit() {
        for byte in pieces.concat() {
            client.receive(&[byte]);
            found.extend(client.poll_response().unwrap());
        }
    }
    assert_eq!(found, [(0, beat(1)), (1, beat(2))]);
}

#[test]
fn large_responses_arrive_whole_however_they_are_cut() {
    let records = |seed: usize, size: usize| Bytes::from_iter((0..size).map(|i| (seed * 31 + i * 7) as u8));
    let answer = |seed, size| {
        let partitions = vec![PartitionData { records: Some(records(seed, size)), ..Default::default() }];
        let responses = vec![FetchableTopicResponse { topic: "t".to_owned(), partitions, ..Default::default() }];
        Response::from(FetchResponse { responses, ..Default::default() })
    };
    // Around the sizes that have memory of their own, that are read at once, and that are believed.
    let sizes = [10, 65_000, 65_500, 65_536, 70_000, 1_000_000, 5, 9 << 20, 300_000, 20 << 20, 100_000, 1];
    for step in [usize::MAX, 1 << 20, 100_003] {
        let (mut client, _) = pair();
        let mut server = ServerConnection::new(Arc::from([(ApiKey::FETCH, 4, 12)]), DEFAULT_MAX_FRAME);
        for _ in sizes {
            send(&mut client, &mut server, &FetchRequest { max_wait_ms: 1, ..Default::default() }.into(), 11);
        }
        let mut stream = Vec::new();
        for (seed, size) in sizes.into_iter().enumerate() {
            let received = server.poll_request().unwrap().unwrap();
            server.respond(received.ticket.unwrap(), &answer(seed, size)).unwrap();
            stream.extend(server.poll_transmit().unwrap().concat());
        }
        let mut seen = 0;
        for part in stream.chunks(step.min(stream.len())) {
            client.receive(part);
            while let Some((number, response)) = client.poll_response().unwrap() {
                assert_eq!(number as usize, seen);
                assert!(response == answer(seen, sizes[seen]), "response {seen}, {} bytes", sizes[seen]);
                seen += 1;
            }
        }
        assert_eq!(seen, sizes.len());
    }
}

#[test]
fn responses_leave_in_the_order_of_the_requests() {
    let (mut client, mut server) = pair();
    let tickets = [1, 2, 3].map(|generation| {
        send(&mut client, &mut server, &heartbeat(generation), 4);
        next(&mut server).ticket.unwrap()
    });
    server.respond(tickets[2], &beat(3)).unwrap();
    server.respond(tickets[1], &beat(2)).unwrap();
    assert_eq!(server.poll_transmit(), None);
    server.respond(tickets[0], &beat(1)).unwrap();
    server.respond(tickets[0], &beat(9)).unwrap();
    while let Some(pieces) = server.poll_transmit() {
        client.receive(&pieces.concat());
    }
    for id in 0..3 {
        assert_eq!(client.poll_response(), Ok(Some((id, beat(id + 1)))));
    }
    server.respond(tickets[1], &beat(9)).unwrap();
    assert_eq!(server.poll_transmit(), None);
}

#[test]
fn a_produce_request_without_acks_is_not_answered() {
    let (mut client, mut server) = pair();
    let sent = send(&mut client, &mut server, &ProduceRequest::default().into(), 9);
    assert!(!sent.expects_response);
    assert_eq!(next(&mut server).ticket, None);
    assert_eq!(client.in_flight(), 0);

    let sent = send(&mut client, &mut server, &heartbeat(1), 4);
    let ticket = next(&mut server).ticket.unwrap();
    server.respond(ticket, &beat(1)).unwrap();
    client.receive(&server.poll_transmit().unwrap().concat());
    assert_eq!(client.poll_response(), Ok(Some((sent.correlation_id, beat(1)))));
}

#[test]
fn a_newer_api_versions_request_is_answered_with_version_0_and_the_whole_table() {
    let (mut client, mut server) = pair();
    let sent = send(&mut client, &mut server, &ApiVersionsRequest::default().into(), 5);
    assert_eq!(server.poll_request(), Ok(None));
    client.receive(&server.poll_transmit().unwrap().concat());
    let (id, response) = client.poll_response().unwrap().unwrap();
    let Response::ApiVersions(response) = response else { panic!() };
    assert_eq!(id, sent.correlation_id);
    assert_eq!(response.error_code, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(response.api_keys, advertised(SERVED));
    assert_eq!(response.api_keys.len(), SERVED.len());

    // A version that nobody knows yet: what follows the correlation id is not looked at.
    server.receive(&unhex("0000000a0012 7fff 0000002a ffff"));
    assert_eq!(server.poll_request(), Ok(None));
    assert_eq!(server.poll_transmit().unwrap().concat()[4..10], [0, 0, 0, 42, 0, 35]);

    // And the connection goes on.
    send(&mut client, &mut server, &ApiVersionsRequest::default().into(), 4);
    assert_eq!(next(&mut server).version, 4);
}

#[test]
fn a_request_that_is_not_served_ends_the_connection() {
    let (mut client, mut server) = pair();
    let bytes = client.request(&SaslHandshakeRequest::default().into(), 0).unwrap().bytes.concat();
    server.receive(&bytes);
    let error = ProtocolError::UnsupportedVersion { message: "SaslHandshake", version: 0, min: 1, max: 1 };
    assert_eq!(server.poll_request(), Err(error.clone()));
    send(&mut client, &mut server, &heartbeat(1), 4);
    assert_eq!(server.poll_request(), Err(error));

    let (mut client, mut server) = pair();
    send(&mut client, &mut server, &DescribeClusterRequest::default().into(), 0);
    assert_eq!(server.poll_request(), Err(ProtocolError::UnknownApi(ApiKey::DESCRIBE_CLUSTER)));

    // Said to be served because of old clients, and not served.
    let (_, mut server) = pair();
    server.receive(&unhex("0000000a0000 0002 0000002a ffff"));
    assert!(matches!(server.poll_request(), Err(ProtocolError::UnsupportedVersion { version: 2, .. })));
}

#[test]
fn frames_with_impossible_sizes_end_the_connection() {
    let max_frame = 100;
    for (bytes, error) in [
        ([0xff; 4], ProtocolError::InvalidLength { position: 4, length: -1 }),
        ([0x80, 0, 0, 0], ProtocolError::InvalidLength { position: 4, length: i32::MIN.into() }),
        ([0, 0, 0, 101], ProtocolError::FrameTooLarge { size: 101, limit: 100 }),
        ([0x7f, 0xff, 0xff, 0xff], ProtocolError::FrameTooLarge { size: i32::MAX as usize, limit: 100 }),
    ] {
        let mut server = ServerConnection::new(Arc::from(SERVED), max_frame);
        server.receive(&bytes);
        assert_eq!(server.poll_request(), Err(error.clone()));
        let mut client = ClientConnection::new(None, max_frame);
        client.receive(&bytes);
        assert_eq!(client.poll_response(), Err(error));
    }
    for size in 0..8 {
        let (_, mut server) = pair();
        server.receive(&[0, 0, 0, size]);
        server.receive(&vec![0; size.into()]);
        assert!(matches!(server.poll_request(), Err(ProtocolError::Truncated { .. })));
    }
}

#[test]
fn an_announced_size_takes_no_memory() {
    let (_, mut server) = pair();
    server.receive(&(DEFAULT_MAX_FRAME as i32).to_be_bytes());
    assert_eq!(server.poll_request(), Ok(None));
    assert!(server.read_buffer().capacity() < 64 << 10);
    for _ in 0..10 {
        server.receive(&[0; 4096]);
        assert_eq!(server.poll_request(), Ok(None));
        assert!(server.read_buffer().capacity() < 256 << 10);
    }
}

#[test]
fn no_more_requests_are_handed_out_than_may_wait() {
    let (mut client, mut server) = pair();
    for generation in 0..100 {
        send(&mut client, &mut server, &heartbeat(generation), 4);
    }
    let mut tickets = Vec::new();
    while let Some(received) = server.poll_request().unwrap() {
        tickets.extend(received.ticket);
    }
    assert_eq!(tickets.len(), 64);
    assert!(!server.wants_bytes());
    server.respond(tickets[0], &beat(0)).unwrap();
    assert!(server.poll_transmit().is_some());
    assert!(server.wants_bytes());
    assert!(server.poll_request().unwrap().is_some());
    assert!(server.poll_request().unwrap().is_none());
}

#[test]
fn no_more_requests_are_handed_out_while_large_responses_wait() {
    let (mut client, mut server) = pair();
    for _ in 0..4 {
        send(&mut client, &mut server, &ApiVersionsRequest::default().into(), 0);
    }
    let large =
        ApiVersionsResponse { api_keys: vec![api_versions::ApiVersion::default(); 200_000], ..Default::default() };
    let first = next(&mut server).ticket.unwrap();
    let second = next(&mut server).ticket.unwrap();
    server.respond(second, &large.clone().into()).unwrap();
    assert!(server.poll_transmit().is_none(), "the first comes first");
    assert!(server.poll_request().unwrap().is_none() && !server.wants_bytes());
    server.respond(first, &ApiVersionsResponse::default().into()).unwrap();
    assert!(server.poll_transmit().is_some() && server.poll_request().unwrap().is_none());
    assert!(server.poll_transmit().is_some() && server.poll_request().unwrap().is_some());
}

#[test]
fn a_response_that_was_not_asked_for_ends_the_connection() {
    let (mut client, mut server) = pair();
    client.receive(&[0, 0, 0, 4, 0, 0, 0, 7]);
    let error = ProtocolError::UnexpectedResponse { found: 7, expected: None };
    assert_eq!(client.poll_response(), Err(error.clone()));
    assert_eq!(client.poll_response(), Err(error));

    let (mut client, _) = pair();
    send(&mut client, &mut server, &heartbeat(1), 4);
    send(&mut client, &mut server, &heartbeat(2), 4);
    client.receive(&[0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(client.poll_response(), Err(ProtocolError::UnexpectedResponse { found: 1, expected: Some(0) }));
}

#[test]
fn a_request_that_cannot_be_encoded_leaves_the_connection_as_it_was() {
    let (mut client, mut server) = pair();
    assert!(client.request(&heartbeat(1), 5).is_err());
    assert_eq!(client.in_flight(), 0);
    assert_eq!(send(&mut client, &mut server, &heartbeat(1), 4).correlation_id, 0);
    assert_eq!(next(&mut server).correlation_id, 0);
}

#[test]
fn a_response_that_cannot_be_encoded_can_be_replaced() {
    let (mut client, mut server) = pair();
    send(&mut client, &mut server, &heartbeat(1), 4);
    let ticket = next(&mut server).ticket.unwrap();
    let long = "x".repeat(40_000);
    let impossible = SaslHandshakeResponse { mechanisms: vec![long], ..Default::default() };
    assert!(server.respond(ticket, &impossible.into()).is_err());
    server.respond(ticket, &beat(1)).unwrap();
    client.receive(&server.poll_transmit().unwrap().concat());
    assert_eq!(client.poll_response(), Ok(Some((0, beat(1)))));
}

#[test]
fn the_highest_version_that_both_sides_know_is_chosen() {
    let versions: Versions = SERVED.iter().copied().chain([(ApiKey::FETCH, 13, 18), (ApiKey(500), 0, 3)]).collect();
    assert_eq!(versions.version_for(ApiKey::PRODUCE), Ok(11));
    assert_eq!(versions.version_for(ApiKey::METADATA), Ok(12));
    assert_eq!(versions.version_within(ApiKey::METADATA, 0, 8), Ok(8));
    assert_eq!(versions.served(ApiKey::FETCH), Some((13, 18)));
    for api in [ApiKey::FETCH, ApiKey::DESCRIBE_CLUSTER, ApiKey(500)] {
        let error = versions.version_for(api).unwrap_err();
        assert!(matches!(error, ProtocolError::NoCommonVersion { .. }));
        assert_eq!(crate::Error::from(error).kind(), ErrorKind::Unsupported);
    }

    let response = ApiVersionsResponse { api_keys: advertised(SERVED), ..Default::default() };
    assert_eq!(Versions::from(&response).served(ApiKey::PRODUCE), Some((0, 12)));
    assert_eq!(Versions::from(&response).version_for(ApiKey::HEARTBEAT), Ok(4));
}
