"""A leader and two synchronous followers, each `ottla serve`, are killed under load: nothing acknowledged is lost.

$OTTLA_SOAK says how often each of them is killed; twice when it is not set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import DRIVERS, Running, check_acknowledged, records
from program import Serve, in_sync, ok, run, wait_until
from segments import check_dump, check_same, dump
from servers import OttlaServer, kafka, peers

PARTITIONS = 3
SOAK = int(os.environ.get("OTTLA_SOAK", "2"))
#: Acknowledged between two faults, at least.
ENOUGH = 1_500
NODES = (0, 1, 2)


class Trio:
    """A leader and two followers, each with a directory and a port that stay the same over restarts."""

    def __init__(self, serve: Callable[..., Serve]) -> None:
        self._serve = serve
        self._ports: list[int] = kafka.free_ports(len(NODES))
        self.servers: dict[int, Serve] = {}
        #: Who leads; the others follow.
        self.leading = NODES[0]
        for node in NODES:
            self.start(node)

    @property
    def followers(self) -> list[int]:
        return [node for node in NODES if node != self.leading]

    @property
    def leader(self) -> str:
        """The leader's address."""
        return f"127.0.0.1:{self._ports[self.leading]}"

    @property
    def addresses(self) -> str:
        """Every broker's address."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def promote(self, node: int) -> None:
        ok("promote", self.servers[node].address)
        self.leading = node

    def promote_who_has_most(self) -> bool:
        """Promote, without the leader, the follower that has all that is acknowledged.

        Where neither has it of all partitions, neither is promoted, and each names the other.
        """
        for node, other in (self.followers, self.followers[::-1]):
            done = run("promote", self.servers[node].address)
            if done.code == 0:
                self.leading = node
                return True
            assert f"node {other} at " in done.err, done.err
        return False

    def start(self, node: int, *, is_told: bool = True) -> None:
        # Small segments, so that crashes hit rolls, too.
        settings = ["log.segment.bytes=60000", "replica.lag.time.max.ms=1500", "min.insync.replicas=2"]
        options = ["--node-id", str(node), *(part for setting in settings for part in ("--config", setting))]
        if node != self.leading and is_told:
            options += ["--follow", self.leader]
        self.servers[node] = self._serve(f"node-{node}", *options, port=self._ports[node])

    def kill(self, node: int) -> None:
        self.servers[node].end(signal.SIGKILL)

    def in_sync(self) -> list[list[int]]:
        """The in-sync replicas of each partition."""
        return [sorted(replicas) for replicas in in_sync(self.leader, "orders")]

    def wait_until_in_sync(self, *nodes: int) -> None:
        wait_until(f"in sync are exactly {nodes}", lambda: self.in_sync() == [sorted(nodes)] * PARTITIONS, timeout=60)


@pytest.fixture
def trio(serve: Callable[..., Serve]) -> Trio:
    for why in (OttlaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)
    return Trio(serve)


def test_nothing_acknowledged_is_lost_while_leader_and_followers_are_killed(trio: Trio, tmp_path: Path) -> None:
    ok("topics", trio.leader, "create", "orders", "--partitions", str(PARTITIONS))
    trio.wait_until_in_sync(*NODES)
    arguments = [trio.leader, "orders", str(PARTITIONS), "8"]
    producer = Running(tmp_path / "producer", peers.python(), DRIVERS / "firehose.py", *arguments)
    try:
        for _ in range(SOAK):
            # One is away: the other two are enough.
            for node in trio.followers:
                producer.wait_for_more(ENOUGH, "acknowledgement")
                trio.kill(node)
                producer.wait_for_more(ENOUGH, "acknowledgement")
                trio.start(node)
                trio.wait_until_in_sync(*NODES)
            # The leader: nothing is acknowledged until it is back, and then what was sent meanwhile.
            producer.wait_for_more(ENOUGH, "acknowledgement")
            trio.kill(trio.leading)
            trio.start(trio.leading)
            producer.wait_for_more(ENOUGH, "acknowledgement")
            trio.wait_until_in_sync(*NODES)
            # One that hangs leaves the in-sync replicas, and comes back.
            hanging, other = trio.followers
            hangs = trio.servers[hanging].process
            hangs.send_signal(signal.SIGSTOP)
            trio.wait_until_in_sync(trio.leading, other)
            producer.wait_for_more(ENOUGH, "acknowledgement")
            hangs.send_signal(signal.SIGCONT)
            trio.wait_until_in_sync(*NODES)
            # All at once, as when the power fails.
            producer.wait_for_more(ENOUGH, "acknowledgement")
            for node in (*trio.followers, trio.leading):
                trio.servers[node].process.kill()
            for node in (trio.leading, *trio.followers):
                trio.kill(node)
                trio.start(node)
            trio.wait_until_in_sync(*NODES)
        producer.wait_for_more(ENOUGH, "acknowledgement")
        producer.end()
    finally:
        producer.kill()

    check_acknowledged(records(trio.leader, "orders"), producer.lines)
    for node in trio.followers:
        check_acknowledged(records(trio.servers[node].address, "orders"), producer.lines)
    # Closed one after the other: a follower whose leader ends has all that is acknowledged.
    for node in (trio.leading, *trio.followers):
        assert trio.servers[node].end() == 0
    for partition in range(PARTITIONS):
        name = f"orders-{partition}"
        leader = trio.servers[trio.leading].data / name
        for node in trio.followers:
            batches = check_same(leader, trio.servers[node].data / name)
        assert len(list(leader.glob("*.log"))) > 1
        # Each start of a leader that was killed begins an epoch.
        assert len({batch.leader_epoch for batch in batches}) > 2 * SOAK
    check_dump(dump(trio.servers[trio.followers[0]].data / "orders-0"))


def test_leadership_moves_under_load_and_nothing_acknowledged_is_lost(trio: Trio, tmp_path: Path) -> None:
    ok("topics", trio.leader, "create", "orders", "--partitions", str(PARTITIONS))
    trio.wait_until_in_sync(*NODES)
    arguments = [trio.addresses, "orders", str(PARTITIONS), "8"]
    producer = Running(tmp_path / "producer", peers.python(), DRIVERS / "firehose.py", *arguments)
    try:
        for _ in range(SOAK):
            # From hand to hand, while records flow.
            producer.wait_for_more(ENOUGH, "acknowledgement")
            trio.promote(trio.followers[0])
            producer.wait_for_more(ENOUGH, "acknowledgement")
            trio.wait_until_in_sync(*NODES)
            # The leader dies, and one of the others takes its place.
            former = trio.leading
            trio.kill(former)
            for node in trio.followers:
                trio.servers[node].wait_for("is alone", lambda line: line.get("error") is not None)
            if trio.promote_who_has_most():
                producer.wait_for_more(ENOUGH, "acknowledgement")
            # It comes back as if nothing had been: it learns, gives up what it had alone, and follows.
            trio.start(former, is_told=False)
            trio.wait_until_in_sync(*NODES)
        producer.wait_for_more(ENOUGH, "acknowledgement")
        producer.end()
    finally:
        producer.kill()

    check_acknowledged(records(trio.leader, "orders"), producer.lines)
    for node in (trio.leading, *trio.followers):
        assert trio.servers[node].end() == 0
    for partition in range(PARTITIONS):
        name = f"orders-{partition}"
        for node in trio.followers:
            batches = check_same(trio.servers[trio.leading].data / name, trio.servers[node].data / name)
        assert max(batch.leader_epoch for batch in batches) >= SOAK * 10_000


def test_without_enough_in_sync_nothing_is_acknowledged_and_nothing_that_was_is_lost(
    trio: Trio, tmp_path: Path
) -> None:
    ok("topics", trio.leader, "create", "orders", "--partitions", str(PARTITIONS), "--config", "min.insync.replicas=3")
    trio.wait_until_in_sync(*NODES)
    arguments = [trio.leader, "orders", str(PARTITIONS), "8"]
    producer = Running(tmp_path / "producer", peers.python(), DRIVERS / "firehose.py", *arguments)
    try:
        for _ in range(SOAK):
            producer.wait_for_more(ENOUGH, "acknowledgement")
            for node in trio.followers:
                trio.servers[node].process.send_signal(signal.SIGSTOP)
            # The one that had all when the other one left stays: nothing more is written, so it lacks nothing.
            wait_until("too few are in sync", lambda: all(len(r) < 3 for r in trio.in_sync()), timeout=60)
            # Meanwhile all that is tried is refused.
            counts = [len(producer.lines) for _ in range(4) if trio.in_sync()]
            assert counts[1:] == counts[1:2] * 3, f"acknowledged with too few in sync: {counts}"
            trio.kill(trio.leading)
            for node in trio.followers:
                trio.servers[node].process.send_signal(signal.SIGCONT)
            trio.start(trio.leading)
            trio.wait_until_in_sync(*NODES)
        producer.wait_for_more(ENOUGH, "acknowledgement")
        producer.end()
    finally:
        producer.kill()
    for node in (trio.leading, *trio.followers):
        check_acknowledged(records(trio.servers[node].address, "orders"), producer.lines)
