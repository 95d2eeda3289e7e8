"""`ottla serve --trace`: what happens to a record, step by step and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from program import Serve, in_sync, numbers, ok, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Serve]


def steps(broker: Serve, topic: str, first: int) -> list[str]:
    """The steps of the records from offset `first` on, as they were told, with the node of another broker."""
    told = [line for line in broker.lines if "step" in line and line["topic"] == topic]
    # Nothing had been written when it came in: its line is the one before.
    at = next((at for at, line in enumerate(told) if line["first_offset"] == first), len(told))
    received = [told[at - 1]] if at and told[at - 1]["step"] in ("received", "copied") else []
    return [name(line) for line in received + [line for line in told[at:] if line["first_offset"] == first]]


def name(line: dict[str, Any]) -> str:
    return line["step"] if line["node"] is None else f"{line['step']} {line['node']}"


def has(broker: Serve, topic: str, first: int, *wanted: str) -> Callable[[], bool]:
    return lambda: set(wanted) <= set(steps(broker, topic, first))


def assert_order(found: list[str], *wanted: str) -> None:
    """Each of them came once, and in this order; others may lie between."""
    assert [step for step in found if step in wanted] == list(wanted), found


def test_synchronously_a_record_is_acknowledged_when_it_is_synced_everywhere(serve: Start) -> None:
    leader = serve("leader", "--trace")
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    follower = serve("follower", "--follow", leader.address, "--node-id", "7", "--trace")
    wait_until("the follower is in sync", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    ok("produce", leader.address, "orders", "--lines", given=numbers(3))
    all_steps = {"received", "written", "synced", "sent 7", "synced_there 7", "acknowledged"}
    wait_until("every step was told", has(leader, "orders", 0, *all_steps))
    found = steps(leader, "orders", 0)
    # The leader syncs while the records are on their way to the follower: either may come first.
    assert_order(found, "received", "written", "synced", "acknowledged")
    assert_order(found, "received", "written", "sent 7", "synced_there 7", "acknowledged")
    assert set(found) == all_steps
    assert found[-1] == "acknowledged"
    wait_until("the follower's steps were told", has(follower, "orders", 0, "synced"))
    assert steps(follower, "orders", 0) == ["copied", "written", "synced"]

    told = [line for line in leader.lines if line.get("step")]
    assert told[0]["acks"] == -1
    assert {line["last_offset"] for line in told if line["step"] == "written"} == {2}
    # Times are since it was received, and do not go back.
    times = [line["us"] for line in told]
    assert times == sorted(times)
    assert times[0] == 0 < times[-1]


def test_with_acks_1_a_record_is_acknowledged_before_it_is_sent(serve: Start) -> None:
    leader = serve("leader", "--trace")
    ok("topics", leader.address, "create", "orders")
    serve("follower", "--follow", leader.address, "--node-id", "7")
    wait_until("the follower is in sync", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=numbers(3))
    wait_until("every step was told", has(leader, "orders", 0, "synced", "sent 7", "synced_there 7"))
    found = steps(leader, "orders", 0)
    assert_order(found, "received", "written", "acknowledged", "sent 7", "synced_there 7")
    assert_order(found, "acknowledged", "synced")


def test_an_asynchronous_follower_is_sent_a_record_after_it_is_acknowledged(serve: Start) -> None:
    leader = serve("leader", "--trace")
    ok("topics", leader.address, "create", "orders")
    follower = serve("follower", "--follow", leader.address, "--async", "--trace")
    follower.wait_until_caught_up()
    ok("produce", leader.address, "orders", "--lines", given=numbers(3))
    wait_until("it was sent", has(leader, "orders", 0, "sent"))
    assert steps(leader, "orders", 0) == ["received", "written", "synced", "acknowledged", "sent"]
    wait_until("the follower's steps were told", has(follower, "orders", 0, "synced"))
    assert steps(follower, "orders", 0) == ["copied", "written", "synced"]


def test_a_record_that_is_refused_is_told_with_the_reason(serve: Start) -> None:
    leader = serve("leader", "--trace")
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    patience = ("-X", "delivery_timeout_ms=1500", "-X", "request_timeout_ms=1000")
    assert run("produce", leader.address, "orders", "--lines", *patience, given=b"x\n").code != 0
    wait_until("it was told", lambda: any(line.get("step") == "refused" for line in leader.lines))
    told = [line for line in leader.lines if "step" in line]
    assert {line["step"] for line in told} == {"received", "refused"}
    # NOT_ENOUGH_REPLICAS
    assert {line["code"] for line in told if line["step"] == "refused"} == {19}


def test_without_trace_nothing_is_told(serve: Start) -> None:
    leader = serve("leader")
    ok("produce", leader.address, "orders", "--lines", given=numbers(3))
    assert leader.end() == 0
    assert not [line for line in leader.lines if "step" in line]
