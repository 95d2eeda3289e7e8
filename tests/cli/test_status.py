"""`ottla status`: who leads, who has what, and what mirroring costs."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from program import Serve, in_sync, numbers, ok, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Serve]


def status(broker: Serve) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """The brokers by their ids, and what is said of all."""
    *nodes, total = ok("status", broker.address, "--json").lines
    return {node["node"]: node for node in nodes}, total


def test_status_shows_who_has_what_and_what_it_costs(leader: Serve, serve: Start) -> None:
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    follower = serve("follower", "--follow", leader.address, "--node-id", "7")
    wait_until("the follower is in sync", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    nodes, total = status(leader)
    assert total["stored_for_each_byte"] is None, "nothing was produced"
    assert total["acks_all"]["answered"] == 0
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000))
    for asked in (leader, follower):
        nodes, total = status(asked)
        assert {node["leader"] for node in nodes.values()} == {0}
        assert [(nodes[node]["behind"], nodes[node]["in_sync"]) for node in (0, 7)] == [(0, 1), (0, 1)]
        assert nodes[0]["stored_bytes"] == nodes[7]["stored_bytes"] > 0
        assert total["stored_bytes"] == nodes[0]["stored_bytes"] * 2
        assert total["stored_for_each_byte"] == 2
        assert total["acks_all"]["answered"] >= 1
        acks_all = total["acks_all"]
        assert 0 < acks_all["own_sync_us"]["p50"] <= acks_all["us"]["p50"]
    text = ok("status", leader.address).text
    assert "2.00 bytes for each byte" in text
    assert "follows node 0" in text


def test_what_is_waited_for_followers_is_told_apart(serve: Start) -> None:
    leader = serve("leader", "-v")
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=1")
    ok("produce", leader.address, "orders", "--lines", given=numbers(10))
    nodes, total = status(leader)
    alone, stored = total["acks_all"], nodes[0]["stored_bytes"]
    assert alone["answered"] == 1
    assert alone["followers_us"] == {"p50": 0, "p99": 0}, "there are none"
    assert alone["us"] == alone["own_sync_us"]

    follower = serve("follower", "--follow", leader.address, "--node-id", "7")
    wait_until("the follower is in sync", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    # It holds up an acknowledgement for as long as it is stopped.
    follower.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        # Without a producer id, for which any broker may be asked, the one that is stopped among them.
        options = ["--lines", "-X", "enable_idempotence=false"]
        produced = pool.submit(ok, "produce", leader.address, "orders", *options, given=numbers(1))
        wait_until("it is written", lambda: status(leader)[0][0]["stored_bytes"] > stored)
        nodes, total = status(leader)
        assert nodes[7]["behind"] > 0
        assert nodes[7]["error"] is not None
        assert total["acks_all"] == alone, "what is not acknowledged does not count"
        follower.process.send_signal(signal.SIGCONT)
        produced.result()
    both = status(leader)[1]["acks_all"]
    assert both["answered"] == 2
    # A look at a broker that is stopped takes two seconds, and there were two.
    assert both["followers_us"]["p99"] > 2_000_000 > both["own_sync_us"]["p99"]
    assert both["us"]["p99"] >= both["followers_us"]["p99"]
    assert leader.end() == 0
    assert any("acks=all answered=2" in line for line in leader.errors)


def test_status_of_what_is_not_there(leader: Serve) -> None:
    address = leader.address
    assert leader.end() == 0
    assert run("status", address, "-X", "bootstrap_timeout_ms=500").code == 4
    assert run("status", "a:1,b:2").code == 2
