"""Replicas, followers, backups: between processes, which may be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Program, Serve, free_port, in_sync, numbers, ok, ottla, run, values, wait_until

Start = Callable[..., Serve]


def test_a_replica_is_full_then_incremental_then_full_when_asked(leader: Serve, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000))
    ok("produce", leader.address, "other", "--lines", given=numbers(1))
    first = ok("replicate", leader.address, replica, "--topics", "orders")
    assert "orders-0 full: 0 → 1,000\n" in first.err
    assert first.text == ""
    ok("produce", leader.address, "orders", "--lines", given=numbers(500, 1_000))
    more = ok("replicate", leader.address, replica, "--topics", "ord.*")
    assert "orders-0 incremental: 1,000 → 1,500\n" in more.err
    (again,) = ok("replicate", leader.address, replica, "--topics", "orders", "--json").lines
    assert (again["extent"], again["records"], again["end"]) == ("incremental", 0, 1_500)
    (full,) = ok("replicate", leader.address, replica, "--topics", "orders", "--full", "--json").lines
    assert (full["extent"], full["start"], full["end"], full["records"]) == ("full", 0, 1_500, 1_500)
    assert [line["topic"] for line in ok("topics", replica, "--json").lines] == ["orders"]
    assert ok("consume", replica, "orders").out == ok("consume", leader.address, "orders").out


def test_a_log_is_not_copied_onto_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ok("produce", log, "orders", "--lines", given=numbers(10))
    for more in ((), ("--full",)):
        refused = run("replicate", log, log, *more)
        assert refused.code != 0
        assert "source and target are the same log" in refused.err
    ok("produce", log, "orders", "--lines", given=numbers(1))
    assert len(ok("consume", log, "orders").lines) == 11


def test_a_replica_follows_until_it_is_interrupted_and_goes_on_later(
    leader: Serve, started: Callable[[Program], Program], tmp_path: Path
) -> None:
    replica = tmp_path / "replica"
    ok("topics", leader.address, "create", "orders", "--partitions", "3")
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000))
    following = started(Program("replicate", leader.address, replica, "--follow"))
    following.wait_until_caught_up()
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000, 1_000))
    ok("produce", leader.address, "later", "--lines", given=numbers(10))
    following.wait_until_caught_up(1_010)
    assert following.end(signal.SIGINT) == 0
    assert following.lines[-1]["event"] == "ended"
    assert following.lines[-1]["records"] == 1_010
    assert values(replica, "orders") == [str(number) for number in range(2_000)]
    assert values(replica, "later") == [str(number) for number in range(10)]
    lines = ok("replicate", leader.address, replica, "--json").lines
    assert {line["extent"] for line in lines if line["end"]} == {"incremental"}
    assert sum(line["records"] for line in lines) == 0


def test_a_synchronous_follower_has_all_that_was_acknowledged_when_the_leader_is_killed(
    leader: Serve, serve: Start
) -> None:
    kafka = pytest.importorskip("ottla", reason="the package ottla is not installed in this environment")
    synchronous = serve("synchronous", "--follow", leader.address)
    asynchronous = serve("asynchronous", "--follow", leader.address, "--async")
    config = ["--config", "min.insync.replicas=2"]
    ok("topics", leader.address, "create", "orders", "--partitions", "3", *config)
    wait_until(
        "a follower of each partition is in sync", lambda: {len(s) for s in in_sync(leader.address, "orders")} == {2}
    )
    node_id = synchronous.lines[0]["node_id"]
    assert [sorted(nodes) for nodes in in_sync(leader.address, "orders")] == [[0, node_id]] * 3
    assert asynchronous.lines[0]["mirroring"] == "async"

    options = {"linger_ms": 1, "request_timeout_ms": 1_000, "delivery_timeout_ms": 3_000}
    producer = kafka.KafkaProducer(bootstrap_servers=leader.address, acks="all", **options)
    futures = []
    is_killed = threading.Event()

    def send() -> None:
        for number in range(200_000):
            if is_killed.is_set():
                return
            futures.append((number, producer.send("orders", key=b"%d" % (number % 97), value=b"%d" % number)))
            if number % 20 == 0:
                time.sleep(0.0005)

    sending = threading.Thread(target=send)
    sending.start()
    wait_until("some are acknowledged", lambda: sum(future.is_done for _, future in futures[:20_000]) > 3_000)
    leader.process.kill()
    leader.process.wait()
    is_killed.set()
    sending.join()
    acknowledged = {}
    for number, future in futures:
        try:
            metadata = future.get(timeout=30)
        except kafka.errors.KafkaError:
            continue
        acknowledged[metadata.partition, metadata.offset] = str(number)
    producer.close(timeout=1)
    assert len(acknowledged) > 3_000
    for follower in (synchronous, asynchronous):
        follower.wait_for("is alone", lambda line: line.get("error") is not None)
        assert follower.end() == 0

    # Until it leads it shows no more than what its leader had told it that all have.
    alone = serve("synchronous")
    ok("promote", alone.address, "--unclean")
    there = {
        (line["partition"], line["offset"]): line["value"] for line in ok("consume", alone.address, "orders").lines
    }
    lacking = [place for place, value in acknowledged.items() if there.get(place) != value]
    assert not lacking, (
        f"{len(lacking)} of {len(acknowledged)} acknowledged records are not on the synchronous follower"
    )
    # The other one has a beginning of it, and nothing else.
    for line in ok("consume", asynchronous.data, "orders").lines:
        assert acknowledged.get((line["partition"], line["offset"]), line["value"]) == line["value"]


def test_acks_all_is_refused_while_too_few_are_in_sync(serve: Start, tmp_path: Path) -> None:
    leader = serve("leader", "--config", "replica.lag.time.max.ms=1000")
    ok("topics", leader.address, "create", "orders", "--config", "min.insync.replicas=2")
    refused = run("produce", leader.address, "orders", "--lines", "-X", "delivery_timeout_ms=1500", "-X",
                  "request_timeout_ms=1000", given=b"1\n")  # fmt: skip
    assert refused.code == 4
    assert "min.insync.replicas=2" in refused.err
    ok("produce", leader.address, "orders", "--lines", "-X", "acks=1", given=b"2\n")
    follower = serve("follower", "--follow", leader.address, "--node-id", "7")
    wait_until("the follower is in sync", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    ok("produce", leader.address, "orders", "--lines", given=b"3\n")
    # It goes on after a restart, and is left behind when it is away for long.
    assert follower.end() == 0
    wait_until("the follower has left", lambda: in_sync(leader.address, "orders") != [[0, 7]] or not produced(leader))
    follower = serve("follower", "--follow", leader.address, "--node-id", "7")
    follower.wait_until_caught_up()
    wait_until("the follower is in sync again", lambda: in_sync(leader.address, "orders") == [[0, 7]])
    ok("produce", leader.address, "orders", "--lines", given=b"9\n")
    assert follower.end() == 0
    assert follower.lines[-1]["records"] <= 5, "only what was new has come"
    assert (tmp_path / "follower").is_dir()


def produced(leader: Serve) -> bool:
    return run("produce", leader.address, "orders", "--lines", "-X", "delivery_timeout_ms=1500", "-X",
               "request_timeout_ms=1000", given=b"4\n").code == 0  # fmt: skip


def test_a_follower_sends_clients_to_its_leader_and_serves_reads_when_that_is_away(leader: Serve, serve: Start) -> None:
    follower = serve("follower", "--follow", leader.address, "--topics", "ord.*")
    ok("topics", leader.address, "create", "orders", "--config", "retention.ms=-1")
    wait_until("the topic is here", lambda: run("topics", follower.address, "describe", "orders").code == 0)
    ok("produce", follower.address, "orders", "--lines", given=numbers(100))
    ok("produce", leader.address, "other", "--lines", given=numbers(1))
    ok("consume", follower.address, "orders", "--lines", "-G", "readers", "-c", "60")
    assert ok("consume", leader.address, "orders", "--lines", "-G", "readers", "-c", "1").text == "60\n"
    ok("topics", follower.address, "alter", "orders", "--config", "retention.ms=5000000", "--partitions", "2")

    def configs() -> object:
        return ok("topics", follower.address, "describe", "orders", "--json").lines[0]["configs"]

    wait_until("the configuration has followed", lambda: configs() == {"retention.ms": "5000000"})
    assert len(in_sync(follower.address, "orders")) == 2
    ok("topics", follower.address, "delete-records", "orders", "--before", "10", "-p", "0")
    ok("produce", leader.address, "gone", "--lines", given=numbers(1))
    ok("topics", follower.address, "create", "order-book")
    wait_until("the new topic is here", lambda: status(follower, "order-book", 0)["end"] == 0)
    ok("topics", follower.address, "delete", "order-book")
    wait_until("the deletion has followed", lambda: not (follower.data / "order-book-0").exists())
    wait_until("all is here", lambda: status(follower, "orders", 0)["end"] == 100)

    leader.end(signal.SIGKILL)
    follower.wait_for("is alone", lambda line: line.get("error") is not None)
    wait_until("reads are served here", lambda: values(follower.address, "orders") == [str(n) for n in range(10, 100)])
    assert {line["topic"] for line in ok("topics", follower.address, "--json").lines} >= {"orders"}
    assert not (follower.data / "other-0").exists()
    refused = run("produce", follower.address, "orders", "--lines", "-X", "delivery_timeout_ms=1500", "-X",
                  "request_timeout_ms=1000", given=b"x\n")  # fmt: skip
    assert refused.code == 4
    assert "produce to its leader" in refused.err
    assert follower.end() == 0
    groups = [line["group"] for line in ok("groups", follower.data, "--json").lines]
    assert groups == ["readers"], f"its directory has the groups, too: {follower.errors}"


def status(broker: Serve, topic: str, partition: int) -> dict[str, int]:
    """Where the log of a partition ends at a broker, whoever may read so far."""
    asked = next(line for line in ok("promote", broker.address, "--dry-run", "--json").lines if line.get("asked"))
    ends = (end for end in asked["ends"] if (end["topic"], end["partition"]) == (topic, partition))
    return next(ends, {"end": -1})


def test_a_follower_keeps_its_copies_when_an_empty_leader_comes_back(serve: Start, tmp_path: Path) -> None:
    port = free_port()
    leader = serve("leader", port=port)
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000))
    follower = serve("follower", "--follow", leader.address)
    follower.wait_until_caught_up(1_000)
    leader.end(signal.SIGKILL)
    shutil.rmtree(leader.data)
    leader = serve("leader", port=port)
    ok("produce", leader.address, "orders", "--lines", given=numbers(3))
    follower.wait_for("is another cluster's", lambda line: "another cluster" in (line.get("error") or ""))
    time.sleep(1.5)
    assert values(follower.address, "orders") == [str(number) for number in range(1_000)]
    # And after a restart.
    assert follower.end() == 0
    done = run("serve", "--data", follower.data, "--listen", "127.0.0.1:0", "--follow", leader.address)
    assert done.code == 2
    assert "another cluster" in done.err
    assert values(follower.data, "orders") == [str(number) for number in range(1_000)]


def test_a_follower_with_the_number_of_its_leader_ends(leader: Serve) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", "--follow", leader.address, "--node-id", "0")
    assert done.code == 1
    assert "node_id=0" in done.err


def test_a_backup_is_full_then_incremental_and_comes_back(leader: Serve, tmp_path: Path) -> None:
    repository, restored = tmp_path / "repository", tmp_path / "restored"
    ok("topics", leader.address, "create", "orders", "--partitions", "2", "--config", "retention.ms=-1")
    ok("produce", leader.address, "orders", "--lines", given=numbers(1_000))
    ok("consume", leader.address, "orders", "-G", "readers", "-c", "300")
    first = ok("backup", leader.address, repository, "--json").lines[-1]
    ok("produce", leader.address, "orders", "--lines", given=numbers(100, 1_000))
    second = ok("backup", leader.address, repository, "--json").lines[-1]
    assert (first["extent"], first["new_records"]) == ("full", 1_000)
    assert (second["extent"], second["new_records"], second["records"]) == ("incremental", 100, 1_100)
    listed = ok("snapshots", repository, "--json").lines
    assert [line["snapshot"] for line in listed] == [first["snapshot"], second["snapshot"]]
    assert ok("check", repository, "--read-data", "--json").lines[0]["problems"] == []
    ok("restore", f"{repository}@{first['snapshot']}", restored)
    assert values(restored, "orders") == [str(number) for number in range(1_000)]
    ok("restore", repository, restored)
    # Which partition comes first is left to chance.
    there, here = (ok("consume", place, "orders").out.splitlines() for place in (leader.address, restored))
    assert sorted(here) == sorted(there)
    assert len(ok("consume", restored, "orders", "--lines", "-G", "readers").text.split()) == 800


def test_the_demonstration_on_a_small_file(tmp_path: Path) -> None:
    rows = "".join(
        f'{"UA" if n % 3 else "B6"},{n},"Ørsta, ""N""",{n / 4},2013-01-{1 + n // 200:02}T05:00:00Z\n'
        for n in range(2_000)
    )
    (tmp_path / "f.csv").write_text(f"carrier,flight,dest,delay,time_hour\n{rows}")
    options: list[str | Path] = [
        "--csv",
        tmp_path / "f.csv",
        "--key",
        "carrier",
        "--time",
        "time_hour",
        "--header",
        "dest",
    ]
    done = ok("demo", *options, "--json", "--keep", tmp_path / "kept")
    (found,) = done.lines
    assert found["right"] is True
    assert (found["records"], found["compared"], found["differing"]) == (2_000, 1_900, 0)
    assert found["group"] == {"before": 850, "after": 1_050, "each_once": True}
    assert found["burst"]["synchronous"]["lacking_of_acks_all"] == 0
    assert found["incremental"]["records"] == 200
    assert not (tmp_path / "kept" / "leader").exists()
    topic = json.loads(ok("topics", tmp_path / "kept" / "restored", "--json").out.splitlines()[-1])
    record = ok("consume", tmp_path / "kept" / "restored", topic["topic"], "-c", "1").lines[0]
    assert json.loads(record["value"])["dest"] == 'Ørsta, "N"'
    assert record["headers"] == [["dest", 'Ørsta, "N"']]

    told = ok("demo", *options)
    assert "none differ" in told.text
    assert "synchronous  asynchronous" in told.text
    assert max(len(line) for line in told.text.splitlines()) <= 100
    assert "kill the leader in a burst" in told.err
    for key, time_column in (("nothing", "time_hour"), ("carrier", "flight")):
        done = run("demo", "--csv", tmp_path / "f.csv", "--key", key, "--time", time_column)
        assert done.code == 2
        assert "column=" in done.err
    assert run("demo", "--csv", tmp_path / "none.csv", "--key", "a", "--time", "b").code == 3


def test_a_demonstration_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    demo = subprocess.Popen(
        [str(ottla()), "demo"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until("the followers run", lambda: any(tmp_path.glob("*/asynchronous/.lock")), timeout=60)
    pids = [int(lock.read_text()) for lock in tmp_path.glob("*/*/.lock") if lock.read_text().strip()]
    assert pids
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(30) == 130
    assert not list(tmp_path.iterdir())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_snapshots_one_after_the_other_while_records_come(
    leader: Serve, started: Callable[[Program], Program], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    ok("topics", leader.address, "create", "orders")
    ok("produce", leader.address, "orders", "--lines", given=numbers(100))
    running = started(Program("backup", leader.address, repository, "--follow", "--interval", "200ms"))
    first = running.wait_for("has everything", lambda line: line.get("records") == 100)
    ok("produce", leader.address, "orders", "--lines", given=numbers(10, 100))
    second = running.wait_for("has what is new", lambda line: line.get("records") == 110)
    running.wait_for("has nothing to do", lambda line: line.get("unchanged") == second["snapshot"])
    assert (first["extent"], second["extent"], second["new_records"]) == ("full", "incremental", 10)
    assert second["cpu_milliseconds"] >= 0
    assert running.end() == 0
    listed = ok("snapshots", repository, "--json").lines
    assert [line["records"] for line in listed] == [100, 110], "none was made of nothing"
    ok("restore", repository, tmp_path / "restored")
    assert values(tmp_path / "restored", "orders") == [str(number) for number in range(110)]


def test_a_backup_outlives_that_its_source_is_away(
    leader: Serve, started: Callable[[Program], Program], serve: Callable[..., Serve], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    ok("topics", leader.address, "create", "orders")
    ok("produce", leader.address, "orders", "--lines", given=numbers(10))
    running = started(Program("backup", leader.address, repository, "--follow", "--interval", "100ms"))
    running.wait_for("has everything", lambda line: line.get("records") == 10)
    port = int(leader.address.rpartition(":")[2])
    assert leader.end() == 0
    again = serve("leader", port=port)
    ok("produce", again.address, "orders", "--lines", given=numbers(5))
    running.wait_for("has what is new", lambda line: line.get("records") == 15)
    assert running.end() == 0


def test_what_a_backup_leaves_out_and_how_fast_it_reads(leader: Serve, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    ok("topics", leader.address, "create", "orders")
    ok("produce", leader.address, "orders", "--lines", given=b"x" * 1_000 + b"\n")
    for group in ("billing", "web"):
        ok("consume", leader.address, "orders", "-G", group)
    options = ["--groups", "bill.*", "--limit-rate", "1MB", "--skip-if-unchanged"]
    made = ok("backup", leader.address, repository, *options, "--json").lines[-1]
    assert made["records"] == 1
    again = ok("backup", leader.address, repository, *options, "--json").lines[-1]
    assert again == {"unchanged": made["snapshot"]}
    ok("restore", repository, tmp_path / "restored")
    assert [line["group"] for line in ok("groups", tmp_path / "restored", "list", "--json").lines] == ["billing"]
