"""`ottla replicate`: what a source may be wrong with, parts of topics, and what a replica remembers."""

from __future__ import annotations

import json
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from program import Program, Serve, free_port, numbers, ok, run, values, wait_until

Start = Callable[..., Serve]


@contextmanager
def speaks(answer: bytes) -> Iterator[str]:
    """A server that says one thing to everybody; its address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1_000)
            self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_a_source_that_is_no_kafka_is_said_to_be_none_and_nothing_is_made(tmp_path: Path, follow: tuple[str]) -> None:
    with speaks(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as address:
        refused = run("replicate", address, tmp_path / "replica", "-X", "bootstrap_timeout_ms=1500", *follow)
    assert refused.code in (4, 6)
    assert "is it a Kafka broker" in refused.err, refused.err
    assert len(refused.err.splitlines()) == 1
    nobody = run("replicate", f"127.0.0.1:{free_port()}", tmp_path / "replica", "-X", "bootstrap_timeout_ms=500")
    assert nobody.code == 4
    assert list(tmp_path.iterdir()) == []


def test_topics_and_partitions_that_are_not_there_are_named_and_nothing_is_made(leader: Serve, tmp_path: Path) -> None:
    ok("produce", leader.address, "orders", "--lines", given=numbers(1))
    for choice in ("--topics=payments", "--topics=pay.*", "--partitions=orders:0,7", "--partitions=payments:0"):
        refused = run("replicate", leader.address, tmp_path / "replica", choice)
        assert refused.code == 3, refused.err
        assert "no such" in refused.err
        assert "pay" in refused.err or "orders-7" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["leader"]
    # A pattern may come to match later.
    said = ok("replicate", leader.address, tmp_path / "replica", "--topics=orders,pay.*")
    assert "no topic matches yet pattern=pay.*" in said.err


def test_a_replica_of_another_cluster_is_refused_with_both_ids(leader: Serve, serve: Start, tmp_path: Path) -> None:
    other = serve("other")
    for server in (leader, other):
        ok("produce", server.address, server.data.name, "--lines", given=numbers(10))
    replica = tmp_path / "replica"
    ok("replicate", leader.address, replica)
    ids = [server.lines[0]["cluster_id"] for server in (leader, other)]
    for more in ((), ("--full",), ("--recreated", "restart"), ("--follow",)):
        refused = run("replicate", other.address, replica, *more)
        assert refused.code == 2, refused.err
        assert f"cluster_id={ids[0]} source_cluster_id={ids[1]}" in refused.err
    assert values(replica, "leader") == [str(number) for number in range(10)]
    assert [line["topic"] for line in ok("topics", replica, "--json").lines] == ["leader"]


def test_a_topic_made_anew_is_refused_with_both_ids_or_started_over(leader: Serve, tmp_path: Path) -> None:
    replica = tmp_path / "replica"

    def anew(count: int) -> str:
        run("topics", leader.address, "delete", "orders")
        ok("topics", leader.address, "create", "orders")
        ok("produce", leader.address, "orders", "--lines", given=numbers(count))
        return str(ok("topics", leader.address, "describe", "orders", "--json").lines[0]["id"])

    ids = [anew(100)]
    ok("replicate", leader.address, replica)
    ids.append(anew(50))
    ok("produce", leader.address, "other", "--lines", given=numbers(7))
    refused = run("replicate", leader.address, replica)
    assert refused.code == 1
    assert f"topic_id={ids[0]} source_topic_id={ids[1]}" in refused.err
    assert values(replica, "orders") == [str(number) for number in range(100)]
    assert values(replica, "other") == [str(number) for number in range(7)], "the others are copied"
    ok("replicate", leader.address, replica, "--recreated", "restart")
    assert values(replica, "orders") == [str(number) for number in range(50)]
    anew(20)
    ok("replicate", leader.address, replica, "--full")
    assert values(replica, "orders") == [str(number) for number in range(20)]


@pytest.mark.parametrize("recreated", ["refuse", "restart"])
def test_a_topic_made_anew_while_it_is_followed(
    leader: Serve, started: Callable[[Program], Program], tmp_path: Path, recreated: str
) -> None:
    replica = tmp_path / "replica"
    ok("produce", leader.address, "orders", "--lines", given=numbers(100))
    following = started(Program("replicate", leader.address, replica, "--follow", "--recreated", recreated))
    following.wait_until_caught_up()
    ok("topics", leader.address, "delete", "orders")
    ok("produce", leader.address, "orders", "--lines", given=numbers(30, 1_000))
    ok("produce", leader.address, "other", "--lines", given=numbers(5))
    if recreated == "refuse":
        following.wait_for("is another topic", lambda line: "another topic" in (line.get("error") or ""))
        kept = [str(number) for number in range(100)]
    else:
        following.wait_until_caught_up(35)
        kept = [str(number) for number in range(1_000, 1_030)]
    wait_until("the other topic is followed", lambda: any(replica.glob("other-0/*.log")))
    time.sleep(0.5)
    assert following.end(signal.SIGINT) == 0
    assert values(replica, "orders") == kept
    assert values(replica, "other") == [str(number) for number in range(5)]


def test_a_part_of_a_topic_is_copied_at_its_offsets_and_goes_on(leader: Serve, tmp_path: Path) -> None:
    ok("topics", leader.address, "create", "orders", "--partitions", "3")
    lines = b"".join(
        json.dumps({"value": f"{n}", "partition": n % 3, "timestamp": 1_700_000_000_000 + n * 1_000}).encode() + b"\n"
        for n in range(3_000)
    )
    ok("produce", leader.address, "orders", given=lines)

    def offsets(replica: Path) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for line in ok("consume", replica, "orders").lines:
            assert line["value"] == str(line["offset"] * 3 + line["partition"])
            found[line["partition"]].append(line["offset"])
        return found

    last = tmp_path / "last"
    ok("replicate", leader.address, last, "--last", "10")
    assert offsets(last) == {number: list(range(990, 1_000)) for number in range(3)}
    since = tmp_path / "since"
    # The 2,000th second.
    ok("replicate", leader.address, since, "--since", "2023-11-14T22:46:40Z", "--partitions", "orders:0,2")
    assert offsets(since) == {0: list(range(667, 1_000)), 1: [], 2: list(range(666, 1_000))}
    ok("replicate", leader.address, tmp_path / "none", "--since", "1h")
    assert offsets(tmp_path / "none") == {0: [], 1: [], 2: []}
    more = b"".join(json.dumps({"value": f"{n}", "partition": n % 3}).encode() + b"\n" for n in range(3_000, 3_030))
    ok("produce", leader.address, "orders", given=more)
    # What it was begun as is remembered.
    for replica in (last, since, tmp_path / "none"):
        assert "nothing new" not in ok("replicate", leader.address, replica).err
    assert offsets(last) == {number: list(range(990, 1_010)) for number in range(3)}
    assert offsets(since) == {0: list(range(667, 1_010)), 1: [], 2: list(range(666, 1_010))}
    assert offsets(tmp_path / "none") == {number: list(range(1_000, 1_010)) for number in range(3)}
    starts = ok("topics", since, "offsets", "orders", "--at", "beginning", "--json").lines
    assert [line["offset"] for line in starts] == [667, 0, 666]
    ok("replicate", leader.address, last, "--full")
    assert offsets(last) == {number: list(range(1_010)) for number in range(3)}


def test_what_retention_took_is_said_and_remembered(leader: Serve, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    ok("produce", leader.address, "orders", "--lines", given=numbers(10))
    ok("replicate", leader.address, replica)
    ok("produce", leader.address, "orders", "--lines", given=numbers(20, 10))
    ok("topics", leader.address, "delete-records", "orders", "--before", "25", "-p", "0")
    said = ok("replicate", leader.address, replica)
    assert "orders-0: offsets 10 to 24 are missing, the source no longer has them" in said.err
    assert values(replica, "orders") == [str(number) for number in range(25, 30)]


def test_a_replica_goes_on_with_the_topics_it_was_told_before(leader: Serve, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    for topic in ("orders", "pay.in", "other"):
        ok("produce", leader.address, topic, "--lines", given=numbers(3))
    ok("replicate", leader.address, replica, "--topics", "orders,pay.*")
    ok("produce", leader.address, "pay.out", "--lines", given=numbers(4))
    ok("replicate", leader.address, replica)
    assert [line["topic"] for line in ok("topics", replica, "--json").lines] == ["orders", "pay.in", "pay.out"]
    ok("replicate", leader.address, replica, "--topics", ".*")
    assert "other" in [line["topic"] for line in ok("topics", replica, "--json").lines]


def test_committed_offsets_are_copied_for_the_groups_that_are_named(leader: Serve, tmp_path: Path) -> None:
    ok("produce", leader.address, "orders", "--lines", given=numbers(20))
    for group, count in (("readers", 8), ("others", 5)):
        ok("consume", leader.address, "orders", "-G", group, "-c", str(count))
    ok("replicate", leader.address, tmp_path / "own")
    assert ok("groups", tmp_path / "own", "--json").lines == []
    ok("replicate", leader.address, tmp_path / "mirrored", "--groups", "read.*")
    assert [line["group"] for line in ok("groups", tmp_path / "mirrored", "--json").lines] == ["readers"]
    assert ok("consume", tmp_path / "mirrored", "orders", "--lines", "-G", "readers", "-c", "1").text == "8\n"


def test_a_limited_rate_is_kept(leader: Serve, tmp_path: Path) -> None:
    """Not how fast it is, but that it is not faster."""
    lines = b"".join(b"%d %s\n" % (number, b"x" * 1_000) for number in range(1_000))
    ok("produce", leader.address, "orders", "--lines", given=lines)
    begun = time.monotonic()
    ok("replicate", leader.address, tmp_path / "replica", "--limit-rate", "500kB")
    assert time.monotonic() - begun > 1_000 * 1_000 / 500e3 * 0.95
    for wrong in ("0", "fast", "1 parsec", "-1"):
        assert run("replicate", leader.address, tmp_path / "replica", f"--limit-rate={wrong}").code == 2
