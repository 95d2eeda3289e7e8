"""Brokers of this process that lead and follow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import ottla
from ottla import KafkaConsumer, KafkaProducer
from ottla.admin import KafkaAdminClient, NewTopic
from ottla.errors import EligibleLeadersNotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def wait_until(what: str, is_so: Callable[[], bool], timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"not so in time: {what}"
        time.sleep(0.02)


def produce(broker: ottla.Broker, *values: bytes) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for future in [producer.send("orders", value) for value in values]:
            future.get(20)


def read(bootstrap_servers: str, count: int) -> list[bytes]:
    options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 10_000}
    with KafkaConsumer("orders", bootstrap_servers=bootstrap_servers, **options) as consumer:
        return [record.value for _, record in zip(range(count), consumer, strict=False)]


def in_sync(broker: ottla.Broker) -> list[int]:
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        (topic,) = admin.describe_topics(["orders"])
        return sorted(topic["partitions"][0]["isr_nodes"])


def test_a_follower_is_promoted_and_the_leader_follows_it(tmp_path: Path) -> None:
    with (
        ottla.Broker(tmp_path / "leader") as leader,
        ottla.Broker(tmp_path / "follower", follow=leader, node_id=7) as follower,
    ):
        assert (leader.leads, leader.leader, leader.node_id, leader.leader_epoch) == (True, None, 0, 0)
        with KafkaAdminClient(bootstrap_servers=leader.bootstrap_servers) as admin:
            admin.create_topics([NewTopic("orders", 1, 1, topic_configs={"min.insync.replicas": "2"})])
        wait_until("the follower is in sync", lambda: in_sync(leader) == [0, 7])
        produce(leader, b"1", b"2")
        follower.wait_until_caught_up()
        assert not follower.leads
        assert follower.leader == leader.bootstrap_servers

        assert follower.promote()
        assert (follower.leads, follower.leader_epoch) == (True, 80_000)
        assert not follower.promote()
        wait_until("the former leader follows", lambda: leader.leader == follower.bootstrap_servers)
        # Whichever address a client has, it finds the leader.
        wait_until("it is in sync", lambda: in_sync(follower) == [0, 7])
        produce(leader, b"3")
        assert read(leader.bootstrap_servers, 3) == [b"1", b"2", b"3"]
        assert read(follower.bootstrap_servers, 3) == [b"1", b"2", b"3"]
    # Opened again, the former leader knows that it follows: it shows what it was told that all have, and that comes later.
    assert read(str(tmp_path / "leader"), 2) == [b"1", b"2"]
    assert read(str(tmp_path / "follower"), 3) == [b"1", b"2", b"3"]


def test_a_promotion_that_may_lose_something_is_refused_and_can_be_insisted_on(tmp_path: Path) -> None:
    leader = ottla.Broker(tmp_path / "leader")
    with ottla.Broker(tmp_path / "follower", follow=leader.bootstrap_servers) as follower:
        produce(leader, b"1")
        follower.wait_until_caught_up()
        leader.close()
        with pytest.raises(EligibleLeadersNotAvailableError, match="orders-0"):
            follower.promote()
        assert not follower.leads
        assert follower.promote(unclean=True)
        produce(follower, b"2")
        assert read(follower.bootstrap_servers, 2) == [b"1", b"2"]


def test_an_asynchronous_follower_serves_reads_and_is_not_waited_for(tmp_path: Path) -> None:
    with ottla.Broker(tmp_path / "leader") as leader:
        produce(leader, b"1")
        options = {"follow": leader, "mirroring": "async", "listen": None}
        with ottla.Broker(tmp_path / "replica", **options) as replica:
            replica.wait_until_caught_up()
            assert in_sync(leader) == [0]
            assert read(replica.bootstrap_servers, 1) == [b"1"]
            with pytest.raises(EligibleLeadersNotAvailableError, match="unclean"):
                replica.promote()
            assert replica.promote(unclean=True)
            assert replica.leads
            produce(replica, b"2")
        # It has records of its own now, and is nobody's copy.
        with pytest.raises(ottla.errors.KafkaError, match="was promoted"):
            ottla.Broker(tmp_path / "replica", **options)


def test_what_says_how_to_follow_needs_a_leader(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="nothing is followed"):
        ottla.Broker(tmp_path / "b", topics="orders")
    with pytest.raises(TypeError, match="nothing is followed"):
        ottla.Broker(tmp_path / "b", security_protocol="SSL")
    with pytest.raises(ValueError, match="sometimes"):
        ottla.Broker(tmp_path / "b", follow="localhost:1", mirroring="sometimes")
    with pytest.raises(ottla.errors.KafkaError, match="listens"):
        ottla.Broker(tmp_path / "b", follow="localhost:1", listen=None)
