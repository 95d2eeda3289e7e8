"""Leadership that moves: promotion, the former leader's return, clients that go with it."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from program import Serve, in_sync, numbers, ok, run, values, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., Serve]


def survey(broker: Serve) -> dict[int, dict[str, Any]]:
    """Every broker that this one knows, by its node id."""
    lines = ok("promote", broker.address, "--dry-run", "--json").lines
    return {line["node"]: line for line in lines if "node" in line}


def follower_of(leader: Serve, serve: Start, name: str, node_id: int) -> Serve:
    follower = serve(name, "--follow", leader.address, "--node-id", str(node_id))
    follower.wait_until_caught_up()
    return follower


def all_in_sync(leader: Serve, topic: str, nodes: list[int]) -> Callable[[], bool]:
    return lambda: all(sorted(partition) == nodes for partition in in_sync(leader.address, topic))


def follows(broker: Serve, leading: int) -> Callable[[], bool]:
    """Whether all that a broker knows of take one for the leader."""
    return lambda: all(node["leader"] == leading for node in survey(broker).values())


def stored(data: Path, topic: str) -> dict[str, bytes]:
    """What each partition holds; readers of a follower see what it has been told that all have, which comes later."""
    partitions = sorted(data.glob(f"{topic}-*"))
    return {each.name: b"".join(log.read_bytes() for log in sorted(each.glob("*.log"))) for each in partitions}


def knows_that_it_is_in_sync(follower: Serve, partitions: int) -> None:
    follower.wait_for("has been told that it is in sync", lambda line: line.get("in_sync") == partitions)


def test_leadership_is_handed_over_and_everything_goes_with_it(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders", "--partitions", "2", "--config", "min.insync.replicas=2")
    follower = follower_of(leader, serve, "follower", 7)
    wait_until("the follower is in sync", all_in_sync(leader, "orders", [0, 7]))
    ok("produce", leader.address, "orders", "--lines", given=numbers(100))
    ok("consume", leader.address, "orders", "-G", "readers", "-c", "60")

    assert ok("promote", follower.address, "--json").lines[-1] == {
        "promoted": 7, "address": follower.address, "leader_epoch": 80_000
    }  # fmt: skip
    wait_until("the former leader follows", lambda: survey(follower).get(0, {}).get("leader") == 7)
    wait_until("the former leader is in sync", all_in_sync(follower, "orders", [0, 7]))
    # Through either address, records go to the new leader, and the group goes on.
    ok("produce", leader.address, "orders", "--lines", given=numbers(10, 100))
    assert len(ok("consume", leader.address, "orders", "--lines", "-G", "readers", "-c", "50").text.split()) == 50
    assert sorted(map(int, values(follower.address, "orders"))) == list(range(110))
    assert "leads already" in ok("promote", follower.address).err

    # And back, after which both directories hold the same.
    ok("promote", leader.address)
    wait_until("the follower follows again", lambda: survey(leader).get(7, {}).get("leader") == 0)
    wait_until("the follower is in sync again", all_in_sync(leader, "orders", [0, 7]))
    ok("produce", follower.address, "orders", "--lines", given=numbers(10, 110))
    wait_until("nothing is missing", lambda: all(node["behind"] == 0 for node in survey(leader).values()))
    assert leader.end() == follower.end() == 0
    assert sorted(map(int, values(leader.data, "orders"))) == list(range(120))
    assert stored(follower.data, "orders") == stored(leader.data, "orders")


def test_a_former_leader_that_comes_back_is_fenced_cut_back_and_follows(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    follower = follower_of(leader, serve, "follower", 7)
    knows_that_it_is_in_sync(follower, 1)
    ok("produce", leader.address, "orders", "--lines", given=numbers(100))
    # These are acknowledged by the leader alone; the follower has of them what was on its way to it, if anything.
    follower.process.send_signal(signal.SIGSTOP)
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=numbers(1, 999))
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=numbers(50, 1_000))
    port = int(leader.address.rsplit(":", 1)[1])
    leader.end(signal.SIGKILL)
    follower.process.send_signal(signal.SIGCONT)
    follower.wait_for("is alone", lambda line: line.get("error") is not None)

    # In sync, of two replicas that both must have a record: nothing acknowledged by all can be missing.
    ok("promote", follower.address)
    ok("topics", follower.address, "alter", "orders", "--config", "min.insync.replicas=1")
    ok("produce", follower.address, "orders", "--lines", given=numbers(20, 100))

    # It was not closed cleanly and does not know that it leads no more: it learns, and cuts off what it had alone.
    former = serve("leader", port=port)
    wait_until("the former leader follows", lambda: survey(follower).get(0, {}).get("leader") == 7)
    wait_until("the former leader is in sync", all_in_sync(follower, "orders", [0, 7]))
    ok("produce", former.address, "orders", "--lines", given=numbers(1, 120))
    wait_until("nothing is missing", lambda: all(node["behind"] == 0 for node in survey(follower).values()))
    assert former.end() == 0
    assert follower.end() == 0
    found = values(follower.data, "orders")
    assert stored(former.data, "orders") == stored(follower.data, "orders")
    assert [value for value in found if int(value) < 999] == [str(number) for number in range(121)]
    assert len(found) <= 122, "what the former leader had alone is gone"
    # Started again it knows whom it follows.
    assert serve("leader", port=port).lines[0]["follows"] == follower.address


def test_promotion_that_may_lose_acknowledged_records_needs_a_flag(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders")
    follower = follower_of(leader, serve, "follower", 7)
    knows_that_it_is_in_sync(follower, 1)
    ok("produce", leader.address, "orders", "--lines", given=numbers(10))
    leader.end(signal.SIGKILL)
    follower.wait_for("is alone", lambda line: line.get("error") is not None)
    refused = run("promote", follower.address)
    assert refused.code == 1
    assert "--unclean" in refused.err
    assert "min.insync.replicas=1" in refused.err
    assert run("produce", follower.address, "orders", "--lines", "-X", "delivery_timeout_ms=1500", "-X",
               "request_timeout_ms=1000", given=b"x\n").code == 4  # fmt: skip
    ok("promote", follower.address, "--unclean")
    ok("produce", follower.address, "orders", "--lines", given=numbers(1, 10))
    assert values(follower.address, "orders") == [str(number) for number in range(11)]


def test_the_follower_that_has_most_is_named(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    ahead = follower_of(leader, serve, "ahead", 7)
    behind = follower_of(leader, serve, "behind", 8)
    wait_until("both are in sync", all_in_sync(leader, "orders", [0, 7, 8]))
    for follower in (ahead, behind):
        knows_that_it_is_in_sync(follower, 1)
    behind.process.send_signal(signal.SIGSTOP)
    # The first of these may still be on its way to it.
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=numbers(1))
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=numbers(9, 1))
    wait_until("one of them has all", lambda: survey(ahead)[7]["behind"] == 0)
    leader.end(signal.SIGKILL)
    behind.process.send_signal(signal.SIGCONT)
    for follower in (ahead, behind):
        follower.wait_for("is alone", lambda line: line.get("error") is not None)
    refused = run("promote", behind.address)
    assert refused.code == 1
    assert f"node 7 at {ahead.address} has more of orders-0" in refused.err
    # Two of three answer, and an acknowledgement needed two: one of the two has everything, and this is the one ahead.
    ok("promote", ahead.address)
    wait_until("the other one follows", lambda: survey(ahead).get(8, {}).get("leader") == 7)
    wait_until("the other one is in sync", all_in_sync(ahead, "orders", [7, 8]))
    ok("produce", behind.address, "orders", "--lines", given=numbers(5, 10))
    assert values(behind.address, "orders") == [str(number) for number in range(15)]


def test_a_producer_and_a_group_go_on_at_the_new_leader(leader: Serve, serve: Start) -> None:
    kafka = pytest.importorskip("ottla", reason="the package ottla is not installed in this environment")
    ok("topics", leader.address, "create", "orders", "--partitions", "2", "--config", "min.insync.replicas=2")
    follower = follower_of(leader, serve, "follower", 7)
    wait_until("the follower is in sync", all_in_sync(leader, "orders", [0, 7]))
    producer = kafka.KafkaProducer(bootstrap_servers=leader.address)
    consumer = kafka.KafkaConsumer(
        "orders", bootstrap_servers=leader.address, group_id="readers", auto_offset_reset="earliest"
    )
    done = threading.Event()
    futures: list[Any] = []

    def send() -> None:
        while not done.is_set():
            number = len(futures)
            futures.append(producer.send("orders", key=b"%d" % (number % 13), value=b"%d" % number))
            time.sleep(0.002)

    sending = threading.Thread(target=send)
    sending.start()
    read: list[int] = []

    def poll() -> None:
        read.extend(int(record.value) for records in consumer.poll(500).values() for record in records)

    try:
        while len(read) < 200:
            poll()
        consumer.commit()
        for broker in (follower, leader, follower):
            ok("promote", broker.address)
            before = len(read)
            while len(read) < before + 200:
                poll()
            other = leader if broker is follower else follower
            leading = 7 if broker is follower else 0
            wait_until("the other one follows", follows(other, leading))
            wait_until("it is in sync", all_in_sync(broker, "orders", [0, 7]))
    finally:
        done.set()
        sending.join()
    assert all(future.get(timeout=60) is not None for future in futures)
    while len(set(read)) < len(futures):
        poll()
    assert set(read) == set(range(len(futures)))
    consumer.close()
    producer.close()
    assert sorted(map(int, values(follower.address, "orders"))) == list(range(len(futures)))


def test_two_followers_with_one_number_are_found_out(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders")
    follower_of(leader, serve, "one", 7)
    done = run("serve", "--listen", "127.0.0.1:0", "--follow", leader.address, "--node-id", "7")
    assert done.code == 1
    assert "node_id=7" in done.err


def test_a_broker_with_topics_of_its_own_does_not_follow_another_cluster(leader: Serve, serve: Start) -> None:
    other = serve("other")
    ok("produce", other.address, "mine", "--lines", given=numbers(3))
    assert other.end() == 0
    done = run("serve", "--data", other.data, "--listen", "127.0.0.1:0", "--follow", leader.address)
    assert done.code == 2
    assert "topic=mine" in done.err
    assert values(other.data, "mine") == ["0", "1", "2"]


def test_the_broker_that_is_asked_is_the_one_at_the_address(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders")
    follower = follower_of(leader, serve, "follower", 7)
    # By another name than the one that it gives.
    port = follower.address.rsplit(":", 1)[1]
    assert ok("promote", f"localhost:{port}", "--json").lines[-1]["promoted"] == 7
    wait_until("it leads", lambda: survey(follower)[7]["leader"] == 7)


def test_nothing_that_the_leader_has_is_missing_after_a_hand_over(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders")
    follower = follower_of(leader, serve, "follower", 7)
    # Newer than the follower's last look at the leader.
    ok("produce", leader.address, "orders", "--lines", given=numbers(5))
    ok("topics", leader.address, "create", "later", "--partitions", "3", "--config", "retention.ms=-1")
    ok("produce", leader.address, "later", "--lines", given=numbers(50))
    ok("topics", leader.address, "alter", "orders", "--config", "retention.ms=777777", "--partitions", "2")
    ok("consume", leader.address, "orders", "--lines", "-G", "readers", "-c", "3")
    ok("promote", follower.address)
    assert sorted(map(int, values(follower.address, "later"))) == list(range(50))
    described = ok("topics", follower.address, "describe", "orders", "--json").lines[0]
    assert described["configs"] == {"retention.ms": "777777"}
    assert len(in_sync(follower.address, "orders")) == 2
    assert ok("consume", follower.address, "orders", "--lines", "-G", "readers", "-c", "2").text == "3\n4\n"


def test_a_follower_whose_leader_is_away_takes_nothing(serve: Start) -> None:
    follower = serve("follower", "--follow", "127.0.0.1:1", "--node-id", "7")
    refused = run("produce", follower.address, "orders", "--lines", "-X", "delivery_timeout_ms=1500", "-X",
                  "request_timeout_ms=1000", "-X", "max_block_ms=1500", given=b"x\n")  # fmt: skip
    assert refused.code != 0
    assert not (follower.data / "orders-0").exists()
