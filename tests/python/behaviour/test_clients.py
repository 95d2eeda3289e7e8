"""What crosses the border between Python and the core: values, errors, callbacks, threads."""

import asyncio
import gc
import logging
import threading
import time

import ottla
import pytest
from ottla import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    OffsetSpec,
    TopicPartition,
    errors,
)
from ottla.admin import ConfigResource, NewPartitions, NewTopic
from ottla.consumer.fetcher import ConsumerRecord
from ottla.partitioner import Partitioner
from ottla.producer.future import RecordMetadata
from ottla.serializer import JsonSerializer


@pytest.fixture
def producer(servers):
    with KafkaProducer(bootstrap_servers=servers) as producer:
        yield producer


def consume(servers, topic, count, **options):
    options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 10_000, **options}
    with KafkaConsumer(topic, bootstrap_servers=servers, **options) as consumer:
        found = []
        for record in consumer:
            found.append(record)
            if len(found) == count:
                break
        return found


def test_a_record_comes_back_as_it_was_sent(servers, producer, topic):
    headers = [("a", b"1"), ("a", b""), ("ä", b"\xff")]
    sent = producer.send(topic, b"value", key=b"key", headers=headers, timestamp_ms=1_700_000_000_000).get(10)
    assert sent == RecordMetadata(topic, 0, TopicPartition(topic, 0), 0, 1_700_000_000_000, None, 3, 5, 6)
    assert isinstance(sent.topic_partition, TopicPartition)
    (record,) = consume(servers, topic, 1)
    assert record == ConsumerRecord(
        topic, 0, record.leader_epoch, 0, 1_700_000_000_000, 0, b"key", b"value", headers, None, 3, 5, 6
    )
    assert type(record) is ConsumerRecord
    assert record._replace(value=1).value == 1


def test_the_garbage_collector_goes_through_no_plain_records(servers, producer, topic):
    for n in range(3):
        producer.send(topic, b'{"n": %d}' % n, headers=[("a", b"1")])
    producer.flush()
    assert [gc.is_tracked(record) for record in consume(servers, topic, 3)] == [False] * 3
    # A deserializer's objects can be part of a cycle.
    parsed = consume(servers, topic, 3, value_deserializer=JsonSerializer())
    assert [gc.is_tracked(record) for record in parsed] == [True] * 3
    parsed[0].headers.append(("b", b"2"))
    assert parsed[0].headers == [("a", b"1"), ("b", b"2")]


def test_close_runs_the_callback_of_what_it_flushed():
    for _ in range(300):
        called = []
        producer = KafkaProducer(bootstrap_servers="memory:close", linger_ms=10_000)
        producer.send("t", b"last").add_callback(called.append)
        producer.close()
        assert called


@pytest.mark.parametrize("max_records", [1, 7, 500])
def test_a_large_batch_is_handed_out_in_parts(servers, topic, max_records):
    count = 2_000
    with KafkaProducer(bootstrap_servers=servers, linger_ms=200, batch_size=500_000) as producer:
        for n in range(count):
            producer.send(topic, b"%d" % n)
    with KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        for start in (0, 555):
            consumer.seek(partition, start)
            found = []
            while len(found) < count - start:
                polled = consumer.poll(timeout_ms=10_000, max_records=max_records)[partition]
                assert len(polled) <= max_records
                found += [(record.offset, int(record.value)) for record in polled]
            assert found == [(n, n) for n in range(start, count)]


@pytest.mark.parametrize(
    "value", [b"", b"x" * 100_000, bytearray(b"ab"), memoryview(b"abc")[1:], memoryview(b"abcd").cast("H")]
)
def test_values_are_bytes_of_any_kind(servers, producer, topic, value):
    producer.send(topic, value)
    producer.send(topic, None, key=b"k")
    first, second = consume(servers, topic, 2)
    assert first.value == bytes(value)
    assert (first.key, first.serialized_key_size, first.headers, first.serialized_header_size) == (None, -1, [], -1)
    assert (second.value, second.serialized_value_size) == (None, -1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"value": "text"}, TypeError),
        ({"value": 5}, TypeError),
        ({"value": b"", "key": "text"}, TypeError),
        ({"value": b"", "headers": (("a", b"1"),)}, TypeError),
        ({"value": b"", "headers": [["a", b"1"]]}, TypeError),
        ({"value": b"", "headers": [("a", "1")]}, TypeError),
        ({"value": b"", "headers": [(b"a", b"1")]}, TypeError),
        ({"value": b"", "partition": 7}, ValueError),
        ({"value": b"x" * 2_000_000}, errors.MessageSizeTooLargeError),
        ({"value": b"", "topic": "no/such"}, ValueError),
        ({"value": b"", "topic": "x" * 250}, ValueError),
        ({"value": b"", "topic": None}, TypeError),
    ],
)
def test_what_cannot_be_sent_raises_at_once(producer, topic, arguments, error):
    arguments = {"topic": topic, **arguments}
    with pytest.raises(error):
        producer.send(**arguments)


def test_after_close_a_send_is_an_illegal_state_and_closing_again_does_no_harm(servers, topic):
    producer = KafkaProducer(bootstrap_servers=servers)
    future = producer.send(topic, b"x")
    producer.close()
    producer.close()
    assert future.get(0).offset == 0
    with pytest.raises(errors.IllegalStateError):
        producer.send(topic, b"x")


def test_callbacks_run_on_one_thread_in_order(producer, topic):
    seen = []

    def note(number, metadata):
        seen.append((number, metadata.offset, threading.get_ident()))

    for number in range(500):
        producer.send(topic, b"x", partition=0).add_callback(note, number)
    producer.flush()
    producer.close()
    assert [(number, offset) for number, offset, _ in seen] == [(number, number) for number in range(500)]
    assert len({thread for _, _, thread in seen}) == 1
    assert seen[0][2] != threading.get_ident()


def test_a_callback_may_send(producer, topic):
    done = threading.Event()
    producer.send(topic, b"1").add_callback(
        lambda _metadata: producer.send(topic, b"2").add_callback(lambda _metadata: done.set())
    )
    assert done.wait(10)


def test_a_dropped_producer_delivers_and_runs_its_callbacks(servers, topic):
    seen = []
    KafkaProducer(bootstrap_servers=servers).send(topic, b"x").add_callback(seen.append)
    gc.collect()
    (record,) = consume(servers, topic, 1)
    assert record.value == b"x"
    for _ in range(100):
        if seen:
            break
        time.sleep(0.02)
    assert seen[0].offset == 0


def test_serializers_get_topic_and_headers_and_functions_work_too(servers, topic):
    with pytest.warns(DeprecationWarning, match="serializer"):
        producer = KafkaProducer(
            bootstrap_servers=servers, key_serializer=str.encode, value_serializer=JsonSerializer()
        )
    producer.send(topic, {"a": [1, None]}, key="k")
    producer.close()
    with pytest.warns(DeprecationWarning, match="serializer"):
        (record,) = consume(servers, topic, 1, key_deserializer=bytes.decode, value_deserializer=JsonSerializer())
    assert (record.key, record.value) == ("k", {"a": [1, None]})
    assert record.serialized_value_size == len(b'{"a": [1, null]}')


def test_a_deserializer_that_raises_loses_nothing(servers, producer, topic):
    for value in (b"1", b"bad", b"3"):
        producer.send(topic, value, partition=0)
    producer.flush()
    partition = TopicPartition(topic, 0)
    with pytest.warns(DeprecationWarning, match="serializer"):
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=servers,
            auto_offset_reset="earliest",
            value_deserializer=int,
            consumer_timeout_ms=5000,
        )
    assert next(consumer).value == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            next(consumer)
    assert consumer.position(partition) == 1
    with pytest.raises(ValueError, match="bad"):
        consumer.poll(5000)
    assert consumer.position(partition) == 1
    consumer.seek(partition, 2)
    assert next(consumer).value == 3
    consumer.close()


def test_a_partitioner_written_in_python_is_asked(servers, topic):
    class Last(Partitioner):
        def partition(self, topic, key, serialized_key, value, serialized_value, cluster):
            assert cluster.available_partitions_for_topic(topic) == {0, 1, 2}
            return max(cluster.partitions_for_topic(topic))

    KafkaAdminClient(bootstrap_servers=servers).create_topics([NewTopic(topic, 3)])
    with KafkaProducer(bootstrap_servers=servers, partitioner=Last()) as producer:
        assert producer.send(topic, b"x", key=b"k").get(10).partition == 2
    with KafkaProducer(bootstrap_servers=servers, partitioner=lambda _key, every, _available: every[1]) as producer:
        assert producer.send(topic, b"x", key=b"k").get(10).partition == 1
    with KafkaProducer(bootstrap_servers=servers) as producer:
        assert {producer.send(topic, b"x", key=b"21").get(10).partition for _ in range(3)} == {
            (ottla.partitioner.murmur2(b"21") & 0x7FFFFFFF) % 3
        }


def test_iteration_moves_the_position_record_by_record_and_poll_by_batch(servers, producer, topic):
    for number in range(10):
        producer.send(topic, b"%d" % number, partition=0)
    producer.flush()
    partition = TopicPartition(topic, 0)
    with KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=topic, auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
        assert consumer.position(partition) == 3
        consumer.commit()
        assert consumer.committed(partition) == 3
        # What the iteration has read ahead is not lost to a poll.
        polled = consumer.poll(5000, max_records=4)
        assert [record.offset for record in polled[partition]] == [3, 4, 5, 6]
        assert consumer.position(partition) == 7
        consumer.seek_to_beginning()
        assert [record.offset for record in consumer.consume(5, timeout=5)] == [0, 1, 2, 3, 4]
        consumer.seek(partition, 9)
        assert [record.offset for record in consumer.consume(5, timeout=0.2)] == [9]
        consumer.seek_to_end()
        assert consumer.poll(100) == {}
        assert consumer.highwater(partition) == 10


def test_pause_holds_back_what_was_read_ahead(servers, producer, topic):
    for number in range(4):
        producer.send(topic, b"%d" % number, partition=0)
    producer.flush()
    partition = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=300) as consumer:
        consumer.assign([partition])
        assert next(consumer).offset == 0
        consumer.pause(partition)
        assert consumer.paused() == {partition}
        assert list(consumer) == []
        consumer.resume(partition)
        assert [record.offset for record in consumer] == [1, 2, 3]


def test_consumer_timeout_ends_the_loop_and_another_goes_on(servers, producer, topic):
    with KafkaConsumer(topic, bootstrap_servers=servers, consumer_timeout_ms=200) as consumer:
        started = time.monotonic()
        assert list(consumer) == []
        assert 0.15 < time.monotonic() - started < 2
        producer.send(topic, b"later")
        assert [record.value for record in consumer] == [b"later"]
    assert list(consumer) == []
    with pytest.raises(errors.IllegalStateError):
        consumer.poll(0)


def test_latest_means_since_the_constructor(servers, producer, topic):
    producer.send(topic, b"before").get(10)
    consumer = KafkaConsumer(topic, bootstrap_servers=servers, group_id=topic, consumer_timeout_ms=10_000)
    producer.send(topic, b"after").get(10)
    assert next(consumer).value == b"after"
    consumer.close()


def test_misuse_raises_what_kafka_python_raises(servers, topic):
    partition = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=servers) as consumer:
        with pytest.raises(errors.IllegalStateError):
            consumer.subscribe()
        with pytest.raises(errors.IllegalStateError):
            consumer.subscribe([topic], pattern="x")
        with pytest.raises(TypeError):
            consumer.subscribe([partition])
        with pytest.raises(TypeError):
            consumer.subscribe([topic], listener=print)
        with pytest.raises(errors.IllegalStateError):
            consumer.poll(0)
        consumer.subscribe([topic])
        with pytest.raises(errors.IllegalStateError):
            consumer.assign([partition])
        consumer.unsubscribe()
        assert consumer.subscription() is None
        consumer.assign([partition])
        with pytest.raises(errors.IllegalStateError):
            consumer.subscribe([topic])
        with pytest.raises(ValueError, match="negative"):
            consumer.poll(-1)
        with pytest.raises(TypeError):
            consumer.poll(0, max_records="1")
        with pytest.raises(ValueError, match="max_records"):
            consumer.poll(0, max_records=0)
        with pytest.raises(ValueError, match="not assigned"):
            consumer.seek(TopicPartition(topic, 9), 0)
        with pytest.raises(ValueError, match="offset"):
            consumer.seek(partition, -1)
        with pytest.raises(TypeError):
            consumer.position((topic, 0))
        with pytest.raises(errors.IllegalStateError):
            consumer.position(TopicPartition(topic, 9))
        for call in (consumer.commit, consumer.commit_async, lambda: consumer.committed(partition)):
            with pytest.raises(errors.IllegalStateError):
                call()
        with pytest.raises(ValueError, match="time"):
            consumer.offsets_for_times({partition: -5})


def test_two_members_share_and_the_listener_is_told(servers, topic):
    told = []

    class Listener(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked):
            told.append(("revoked", len(revoked)))

        def on_partitions_assigned(self, assigned):
            told.append(("assigned", len(assigned)))

    KafkaAdminClient(bootstrap_servers=servers).create_topics([NewTopic(topic, 4)])
    options = {"bootstrap_servers": servers, "group_id": topic, "heartbeat_interval_ms": 100}
    first = KafkaConsumer(**options)
    first.subscribe([topic], listener=Listener())
    until(lambda: first.poll(50) or len(first.assignment()) == 4)
    assert told == [("assigned", 4)]
    second = KafkaConsumer(topic, **options)
    until(lambda: first.poll(20) or second.poll(20) or len(first.assignment()) == len(second.assignment()) == 2)
    assert told == [("assigned", 4), ("revoked", 4), ("assigned", 2)]
    assert not first.assignment() & second.assignment()
    assert first.group_metadata().generation_id == second.group_metadata().generation_id
    second.close()
    until(lambda: first.poll(20) or len(first.assignment()) == 4)
    first.close()
    assert told[-1] == ("revoked", 4)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"


def test_commits_are_kept_and_can_be_made_without_waiting(servers, producer, topic):
    for _ in range(5):
        producer.send(topic, b"x", partition=0)
    producer.flush()
    partition = TopicPartition(topic, 0)
    options = {"bootstrap_servers": servers, "group_id": topic, "auto_offset_reset": "earliest"}
    with KafkaConsumer(topic, enable_auto_commit=False, **options) as consumer:
        assert consumer.committed(partition) is None
        assert len(consumer.consume(5, timeout=10)) == 5
        seen = []
        future = consumer.commit_async({partition: OffsetAndMetadata(2, "note")}, lambda *answer: seen.append(answer))
        until(lambda: consumer.poll(20) or future.is_done)
        assert seen == [({partition: OffsetAndMetadata(2, "note")}, None)]
        assert consumer.committed(partition, metadata=True)[:2] == (2, "note")
    # An exception in the block does not commit, a clean end does.
    with pytest.raises(ZeroDivisionError), KafkaConsumer(topic, **options) as consumer:  # noqa: PT012
        assert next(consumer).offset == 2
        raise ZeroDivisionError
    with KafkaConsumer(topic, **options) as consumer:
        assert next(consumer).offset == 2
    with KafkaConsumer(topic, **options) as consumer:
        assert next(consumer).offset == 3


def test_offsets_by_time_and_ends(servers, producer, topic):
    for time_ms in (1000, 2000, 3000):
        producer.send(topic, b"x", partition=0, timestamp_ms=time_ms)
    producer.flush()
    partition = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=servers) as consumer:
        assert consumer.beginning_offsets([partition]) == {partition: 0}
        assert consumer.end_offsets([partition]) == {partition: 3}
        found = consumer.offsets_for_times({partition: 1500})
        assert found[partition][:2] == (1, 2000)
        assert consumer.offsets_for_times({partition: 9000}) == {partition: None}
        assert topic in consumer.topics()
        assert consumer.partitions_for_topic(topic) == {0}
        assert consumer.partitions_for_topic("no-such-topic") == set()
        with pytest.raises(errors.KafkaError):
            consumer.end_offsets([TopicPartition(topic, 99)], timeout_ms=300)


def test_admin_answers_with_plain_values(servers, producer, topic):
    partition = TopicPartition(topic, 0)
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        created = admin.create_topics(
            {topic: {"num_partitions": 2, "configs": {"retention.ms": 5000}}}, wait_for_metadata=True
        )
        assert created == {"topics": [{"name": topic, "error_code": 0, "error_message": None}]}
        with pytest.raises(errors.TopicAlreadyExistsError):
            admin.create_topics([topic])
        assert admin.create_topics([topic], raise_errors=False)["topics"][0]["error_code"] == 36
        assert topic in admin.list_topics()
        (described,) = admin.describe_topics([topic])
        assert [entry["partition_index"] for entry in described["partitions"]] == [0, 1]
        admin.create_partitions({topic: NewPartitions(3)})
        assert len(admin.describe_topics([topic])[0]["partitions"]) == 3
        resource = ConfigResource("TOPIC", topic)
        configs = admin.describe_configs([resource])["topic"][topic]
        assert configs["retention.ms"]["value"] == "5000"
        assert admin.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": 6000})]) == {"topic": {topic: "OK"}}
        with pytest.raises(ValueError, match="no such options"):
            admin.alter_configs([ConfigResource("TOPIC", topic, {"no.such": 1})])
        admin.reset_configs([ConfigResource("TOPIC", topic)])
        assert "retention.ms" not in admin.describe_configs([resource])["topic"][topic]

        for _ in range(5):
            producer.send(topic, b"x", partition=0)
        producer.flush()
        assert admin.delete_records({partition: 2})[partition]["low_watermark"] == 2
        assert admin.list_partition_offsets({partition: OffsetSpec.EARLIEST})[partition].offset == 2
        assert admin.alter_group_offsets("g" + topic, {partition: OffsetAndMetadata(4)}) == {partition: errors.NoError}
        assert admin.list_group_offsets("g" + topic)["g" + topic][partition].offset == 4
        assert admin.reset_group_offsets("g" + topic, {partition: OffsetSpec.EARLIEST})[partition]["offset"] == 2
        assert {"g" + topic} <= {group["group_id"] for group in admin.list_groups()}
        group = admin.describe_groups(["g" + topic])["g" + topic]
        assert (group["error"], group["group_state"], group["members"]) == (None, "Empty", [])
        assert admin.delete_group_offsets("g" + topic, [partition]) == {partition: errors.NoError}
        admin.alter_group_offsets("g" + topic, {partition: OffsetAndMetadata(4)})
        assert admin.delete_groups(["g" + topic]) == {"g" + topic: "OK"}
        cluster = admin.describe_cluster()
        assert [broker["broker_id"] for broker in cluster["brokers"]] == [cluster["controller_id"]]
        admin.delete_topics([topic])
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            admin.delete_topics([topic])
    with pytest.raises(errors.IllegalStateError):
        admin.list_topics()


def test_many_threads_send_through_one_producer(servers, producer, topic):
    def send(thread):
        for number in range(500):
            producer.send(topic, b"%d-%d" % (thread, number), partition=0)

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.flush()
    found = consume(servers, topic, 4000)
    for thread in range(8):
        mine = [record.value for record in found if record.value.startswith(b"%d-" % thread)]
        assert mine == [b"%d-%d" % (thread, number) for number in range(500)]


def test_the_core_logs_to_logging(servers, topic, caplog):
    with caplog.at_level(logging.DEBUG, logger="ottla"):
        with KafkaConsumer(topic, bootstrap_servers=servers, group_id=topic, consumer_timeout_ms=300) as consumer:
            list(consumer)
        for _ in range(100):
            if any(record.name.startswith("ottla.") for record in caplog.records):
                break
            time.sleep(0.02)
    assert any(record.name.startswith("ottla.") for record in caplog.records)


def test_metrics_have_both_shapes(servers, producer, topic):
    producer.send(topic, b"x").get(10)
    numbers = producer.metrics()["producer-metrics"]
    raw = {name.name: metric.value() for name, metric in producer.metrics(raw=True).items()}
    assert raw == numbers


def test_a_coroutine_waits_for_an_acknowledgement(producer, topic):
    async def send():
        return await producer.send(topic, b"x")

    assert asyncio.run(send()).offset == 0
