"""`ottla.Replica`: opened at once, brought up to date once or live, read by clients meanwhile, and what it tells."""

import gc
import queue
import resource
import threading
import time
from datetime import timedelta

import ottla
import pytest
from ottla import Broker, KafkaAdminClient, KafkaConsumer, KafkaProducer, Replica, errors


def produce(servers, topic, count, start=0, size=0):
    with KafkaProducer(bootstrap_servers=servers, linger_ms=5) as producer:
        for number in range(start, start + count):
            producer.send(topic, b"%d" % number + b"x" * size, b"%d" % number)


def read(servers, topic, count):
    with KafkaConsumer(topic, bootstrap_servers=servers, group_id=None, auto_offset_reset="earliest") as consumer:
        return sorted(int(record.value.rstrip(b"x")) for record in consumer.consume(count, timeout=30))


def until(what, is_so, timeout=30):
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"it is not so after {timeout} s: {what}"
        time.sleep(0.05)


def following(replica):
    """The events of a replica from now on, and how to wait for a kind of them."""
    events = queue.Queue()
    threading.Thread(target=lambda: [events.put(event) for event in replica.events()], daemon=True).start()

    def wait_for(kind, text="", timeout=30):
        end = time.monotonic() + timeout
        while True:
            event = events.get(timeout=max(end - time.monotonic(), 0.01))
            if event.kind == kind and text in (event.message or ""):
                return event

    return wait_for


@pytest.fixture
def broker():
    with Broker(config={"num.partitions": 2}) as broker:
        yield broker


def test_a_replica_is_synced_in_full_and_then_what_is_new_and_read_by_any_client(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 100)
    with Replica(tmp_path / "replica", broker.bootstrap_servers, [topic]) as replica:
        assert replica.status().partitions == ()
        first = replica.sync()
        assert (first.extent, first.records, len(first.partitions)) == ("full", 100, 2)
        assert read(replica.bootstrap_servers, topic, 100) == list(range(100))
        produce(broker.bootstrap_servers, topic, 10, start=100)
        seen = []
        second = replica.sync(progress=seen.append)
        assert (second.extent, second.records) == ("incremental", 10)
        assert [part.start for part in second.partitions] == [part.end for part in first.partitions]
        assert read(replica.data, topic, 110) == list(range(110))
        status = replica.status()
        assert not status.is_following
        assert status.behind_records == 0
        assert status.synced_at_ms > 0
        assert status.cluster_id
        for partition, moved in zip(status.partitions, second.partitions, strict=True):
            assert (partition.local_start, partition.local_end, partition.source_end) == (0, moved.end, moved.end)
            assert (partition.behind_bytes, partition.behind_seconds, partition.error) == (0, 0.0, None)
        assert "up to date" in repr(status)
        assert topic in str(status)
        assert "<table>" in status._repr_html_()
    replica.close()
    with pytest.raises(errors.ClosedError):
        replica.status()
    # A replica takes records from its source alone.
    with (
        Broker(tmp_path / "replica") as served,
        KafkaProducer(bootstrap_servers=served.bootstrap_servers, retries=0, delivery_timeout_ms=2_000, request_timeout_ms=1_000) as producer,
        pytest.raises(errors.KafkaError),
    ):  # fmt: skip
        producer.send(topic, b"mine").get(timeout=10)


def test_a_replica_opens_and_is_read_while_the_cluster_is_away(tmp_path, topic):
    with Broker(tmp_path / "cluster") as cluster:
        produce(cluster.bootstrap_servers, topic, 50)
        address = cluster.bootstrap_servers
        with Replica(tmp_path / "replica", address) as replica:
            replica.sync()
    with Replica(tmp_path / "replica", address, bootstrap_timeout_ms=500) as replica:
        assert read(replica.bootstrap_servers, topic, 50) == list(range(50))
        with pytest.raises(errors.TimedOutError, match="cannot connect"):
            replica.sync()
        status = replica.status()
        assert [partition.local_end for partition in status.partitions] == [50]
        assert status.partitions[0].source_end is None
        assert status.behind_records is None
        wait_for = following(replica)
        replica.follow()
        wait_for("error", "cannot connect")
        assert "cannot connect" in replica.status().error
        # And when it is back.
        with Broker(tmp_path / "cluster", listen=address) as cluster:
            produce(address, topic, 5, start=50)
            replica.caught_up(30)
            wait_for("up_to_date")
            assert read(replica.bootstrap_servers, topic, 55) == list(range(55))
            assert replica.status().error is None
    fresh = Replica(tmp_path / "fresh", address, bootstrap_timeout_ms=500)
    assert fresh.status().partitions == ()
    fresh.close()


def test_a_replica_that_follows_tells_of_what_comes(broker, tmp_path, topic):
    events = queue.Queue()

    def note(event):
        events.put((event, threading.current_thread().name))
        if event.kind == "up_to_date":
            # It may call anything.
            replica_status.append(replica.status())
            raise ValueError("a listener that fails is no harm")

    replica_status = []
    produce(broker.bootstrap_servers, topic, 20)
    replica = Replica(tmp_path / "replica", broker, topic, on_event=note, listen=None)
    for another in (Replica, ottla.replicate):
        with pytest.raises(errors.FencedError, match="open already"):
            another(*((tmp_path / "replica", broker) if another is Replica else (broker, tmp_path / "replica")))
    replica.follow()
    replica.follow()
    replica.caught_up(30)
    assert replica.bootstrap_servers == str(tmp_path / "replica")
    assert read(replica.bootstrap_servers, topic, 20) == list(range(20))
    produce(broker.bootstrap_servers, topic, 30, start=20)
    replica.caught_up(30)
    assert read(replica.bootstrap_servers, topic, 50) == list(range(50))
    until("it was told twice that all is here", lambda: len(replica_status) >= 2)
    with pytest.raises(errors.InvalidError, match="follows already|stop"):
        replica.sync()
    assert replica.status().is_following
    replica.stop()
    assert not replica.status().is_following
    with pytest.raises(errors.InvalidError, match="does not follow"):
        replica.caught_up(1)
    produce(broker.bootstrap_servers, topic, 10, start=50)
    assert replica.sync().records == 10
    replica.close()
    until("the listener's thread has ended", lambda: "ottla-replica-events" not in {t.name for t in threading.enumerate()})
    told = [events.get_nowait() for _ in range(events.qsize())]
    assert {name for _, name in told} == {"ottla-replica-events"}
    changes = [event for event, _ in told if event.kind == "change"]
    assert sum(event.records for event in changes) == 60
    assert all(event.bytes > 0 for event in changes)
    assert {place.topic for event in changes for place in event.partitions} == {topic}


def test_new_topics_and_partitions_are_picked_up_and_a_recreated_topic_is_said_or_started_over(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    produce(servers, f"{topic}-a", 10)
    with (
        Replica(tmp_path / "kept", servers, f"{topic}.*", follow=True) as kept,
        Replica(tmp_path / "anew", servers, f"{topic}.*", recreated="restart", follow=True) as anew,
        KafkaAdminClient(bootstrap_servers=servers) as admin,
    ):
        wait_for = following(kept)
        kept.caught_up(30)
        anew.caught_up(30)
        produce(servers, f"{topic}-b", 10)
        admin.create_partitions({f"{topic}-a": 4})
        produce(servers, f"{topic}-a", 30, start=10)
        for replica in (kept, anew):
            until("the topic and the partitions are there", lambda replica=replica: len(replica.status().partitions) == 6)
            replica.caught_up(30)
            assert read(replica.bootstrap_servers, f"{topic}-a", 40) == list(range(40))
        admin.delete_topics([f"{topic}-b"])
        produce(servers, f"{topic}-b", 3, start=500)
        wait_for("error", "another topic")
        until("it is started over", lambda: [p.local_end for p in anew.status().partitions[-2:]] != [0, 10])
        anew.caught_up(30)
        assert read(anew.bootstrap_servers, f"{topic}-b", 3) == [500, 501, 502]
        assert read(kept.bootstrap_servers, f"{topic}-b", 10) == list(range(10))
        # What the source has no more stays, and is said.
        admin.delete_topics([f"{topic}-a"])
        until("it is said to be gone", lambda: "no longer has it" in (anew.status().partitions[0].error or ""))
        anew.caught_up(30)
        assert read(anew.bootstrap_servers, f"{topic}-a", 40) == list(range(40))


def test_a_part_a_limit_and_groups_are_what_was_asked_for(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    produce(servers, topic, 40)
    with KafkaConsumer(topic, bootstrap_servers=servers, group_id="g", auto_offset_reset="earliest") as consumer:
        consumer.consume(15, timeout=30)
        consumer.commit()
    begun = time.monotonic()
    with Replica(tmp_path / "last", broker, topic, last=3, groups="g", limit_rate=2_000) as replica:
        moved = replica.sync()
        assert moved.bytes / 2_000 <= time.monotonic() - begun
        assert [part.end - part.start for part in moved.partitions] == [3, 3]
        assert [p.local_end - p.local_start for p in replica.status().partitions] == [3, 3]
        with KafkaAdminClient(bootstrap_servers=replica.bootstrap_servers) as admin:
            assert sum(offset.offset for offset in admin.list_group_offsets("g")["g"].values()) == 15
    with Replica(tmp_path / "some", broker, topic, partitions={topic: [1]}, since=timedelta(days=40_000)) as replica:
        assert [(part.partition, part.start) for part in replica.sync().partitions] == [(1, 0)]
    with Replica(tmp_path / "none", broker, topic, since=1_800_000_000_000) as replica:
        assert replica.sync().records == 0
        assert [p.local_start for p in replica.status().partitions] == [p.end for p in moved.partitions]
    with pytest.raises(errors.NotFoundError, match=f"{topic}-9"), Replica(tmp_path / "no", broker, partitions={topic: [9]}) as replica:
        replica.sync()
    for wrong in ({"recreated": "maybe"}, {"since": 1, "last": 1}, {"bootstrap_servers": "x:1"}, {"colour": "red"}):
        with pytest.raises((ValueError, TypeError, errors.KafkaError)):
            Replica(tmp_path / "wrong", broker, **wrong)


def test_a_replica_of_another_cluster_is_refused_and_stays_readable(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 10)
    ottla.replicate(broker, tmp_path / "replica", topic)
    with Broker() as other:
        produce(other.bootstrap_servers, topic, 3)
        with pytest.raises(errors.InvalidError, match="another cluster"):
            ottla.replicate(other, tmp_path / "replica", topic, full=True)
        with Replica(tmp_path / "replica", other) as replica:
            with pytest.raises(errors.InvalidError, match="another cluster"):
                replica.sync(full=True)
            wait_for = following(replica)
            replica.follow()
            wait_for("error", "another cluster")
            with pytest.raises(errors.InvalidError, match="another cluster"):
                replica.caught_up(30)
            assert read(replica.bootstrap_servers, topic, 10) == list(range(10))


def test_offsets_that_retention_took_are_in_the_status_also_after_it_was_opened_anew(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        produce(servers, topic, 40)
        with Replica(tmp_path / "replica", servers, topic) as replica:
            replica.sync()
            ends = [partition.local_end for partition in replica.status().partitions]
            produce(servers, topic, 40, start=40)
            places = [ottla.TopicPartition(topic, number) for number in range(2)]
            with KafkaConsumer(bootstrap_servers=servers) as consumer:
                now = consumer.end_offsets(places)
            admin.delete_records({place: now[place] - 2 for place in places})
            moved = replica.sync()
            holes = [(end, now[place] - 2) for end, place in zip(ends, places, strict=True)]
            assert [part.hole for part in moved.partitions] == holes
            produce(servers, topic, 10, start=80)
            replica.sync()
    with Replica(tmp_path / "replica", servers, topic) as replica:
        assert [partition.holes for partition in replica.status().partitions] == [(hole,) for hole in holes]
        assert f"{holes[0][1] - holes[0][0]:,}" in str(replica.status())


def test_a_disk_without_room_pauses_a_replica_that_goes_on_when_there_is_some(broker, tmp_path, topic):
    servers = broker.bootstrap_servers
    produce(servers, topic, 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Replica(tmp_path / "replica", servers, topic, listen=None, follow=True) as replica:
        replica.caught_up(30)
        wait_for = following(replica)
        try:
            # For this process no file may be larger, which is as a full disk is. The broker's logs are in memory.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            produce(servers, topic, 400, start=20, size=1_000)
            wait_for("paused", "until there is room")
            status = replica.status()
            assert "until there is room" in status.paused
            assert "until there is room" in str(status)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        replica.caught_up(30)
        assert replica.status().paused is None
        assert read(replica.bootstrap_servers, topic, 420) == list(range(420))
    # At the first copy, too.
    with Replica(tmp_path / "other", servers, topic, listen=None) as replica:
        wait_for = following(replica)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            with pytest.raises(errors.FullError):
                replica.sync()
            replica.follow()
            wait_for("paused", "until there is room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        wait_for("up_to_date")
        assert read(replica.bootstrap_servers, topic, 420) == list(range(420))


def test_a_replica_that_is_dropped_gives_its_directory_back(broker, tmp_path, topic):
    produce(broker.bootstrap_servers, topic, 10)
    replica = Replica(tmp_path / "replica", broker, topic, follow=True)
    replica.caught_up(30)
    del replica
    gc.collect()
    with Broker(tmp_path / "replica") as served:
        assert read(served.bootstrap_servers, topic, 10) == list(range(10))
