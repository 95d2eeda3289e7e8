"""kcat, the command line of librdkafka. What it cannot say (a timestamp, a topic's partitions) it is not asked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from itertools import groupby
from typing import Any

from common import Patience, decode, encode, main

Record = dict[str, Any]

FORMAT = "%p %o %T %K %S %h\\n%k%s\\n"


def kcat(bootstrap: str, *arguments: str, stdin: bytes = b"") -> bytes:
    command = ["kcat", "-b", bootstrap, "-q", *arguments]
    run = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {run.stderr.decode(errors='replace').strip()}")
    return run.stdout


def topics(bootstrap: str) -> dict[str, int]:
    listing = json.loads(kcat(bootstrap, "-L", "-J"))
    return {topic["topic"]: len(topic["partitions"]) for topic in listing["topics"]}


def produce(bootstrap: str, topic: str, codec: str, records: list[Record]) -> None:
    # One run writes to one partition with one set of headers.
    def run_of(record: Record) -> tuple[int, str]:
        return record["partition"], json.dumps(record["headers"])

    for (partition, _), group in groupby(sorted(records, key=run_of), key=run_of):
        batch = list(group)
        headers = []
        for name, value in batch[0]["headers"]:
            headers += ["-H", f"{name}={(decode(value) or b'').decode()}"]
        lines = b"".join((decode(r["key"]) or b"") + b"\t" + (decode(r["value"]) or b"") + b"\n" for r in batch)
        # -Z: empty is null.
        kcat(bootstrap, "-P", "-t", topic, "-p", str(partition), "-z", codec, "-K", "\t", "-Z", *headers, stdin=lines)


class Reader:
    """Takes records out of FORMAT, as they come."""

    LINE = re.compile(rb"(\d+) (\d+) (-?\d+) (-?\d+) (-?\d+) (.*)")

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, data: bytes) -> list[Record]:
        self.pending += data
        records = []
        while b"\n" in self.pending:
            line, rest = self.pending.split(b"\n", 1)
            match = self.LINE.fullmatch(line)
            if match is None:
                raise RuntimeError(f"kcat printed {line!r}")
            partition, offset, timestamp, key, value = (int(match[i]) for i in range(1, 6))
            ends = max(key, 0), max(key, 0) + max(value, 0)
            if len(rest) < ends[1] + 1:
                break
            names = [entry.partition(b"=") for entry in match[6].split(b",") if entry]
            records.append(
                {
                    "partition": partition,
                    "offset": offset,
                    "timestamp": timestamp,
                    "key": None if key < 0 else encode(rest[: ends[0]]),
                    "value": None if value < 0 else encode(rest[ends[0] : ends[1]]),
                    "headers": [[name.decode(), encode(text)] for name, _, text in names],
                }
            )
            self.pending = rest[ends[1] + 1 :]
        return records


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Record]:
    output = kcat(bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-X", "check.crcs=true", "-f", FORMAT)
    return Reader().feed(output)


class Member:
    """A running `kcat -G`."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        command = ["kcat", "-b", bootstrap, "-u", "-G", group, "-f", FORMAT]
        for setting in (
            "auto.offset.reset=earliest",
            "session.timeout.ms=10000",
            "heartbeat.interval.ms=300",
            "fetch.wait.max.ms=100",
        ):
            command += ["-X", setting]
        self.process = subprocess.Popen(
            [*command, topic], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.records: list[Record] = []
        self.partitions: list[int] = []
        self.said: list[str] = []
        self.threads = [threading.Thread(target=self._read), threading.Thread(target=self._listen)]
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        reader = Reader()
        while data := os.read(self.process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
            self.records += reader.feed(data)

    def _listen(self) -> None:
        for line in self.process.stderr:  # type: ignore[union-attr]
            text = line.decode(errors="replace").strip()
            self.said.append(text)
            if "rebalanced" in text:
                assigned = text.partition("assigned:")[2]
                self.partitions = sorted(int(p) for p in re.findall(r"\[(\d+)\]", assigned))

    def check(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"kcat ended: {self.said}")

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        for thread in self.threads:
            thread.join()


def until(condition: Any, members: list[Member], what: str) -> None:
    pause = threading.Event()
    patience = Patience()
    while not condition() and patience.lasts(what):
        for each in members:
            each.check()
        pause.wait(0.05)


def group(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    everything = list(range(partitions))
    phases = []
    members = [Member(bootstrap, group, topic)]
    try:
        first = members[0]
        until(lambda: first.partitions == everything, members, "the first member's partitions")
        phases.append([first.partitions])
        members.append(Member(bootstrap, group, topic))
        second = members[1]
        until(
            lambda: (
                first.partitions and second.partitions and sorted(first.partitions + second.partitions) == everything
            ),
            members,
            "partitions for both members",
        )
        phases.append([first.partitions, second.partitions])
        until(lambda: len(first.records) + len(second.records) >= count, members, f"{count} records")
        second.leave()
        until(lambda: first.partitions == everything, [first], "the partitions of the member that left")
        phases.append([first.partitions])
        first.leave()
    finally:
        for each in members:
            each.process.kill()
    return {"phases": phases, "records": first.records + second.records}


def resume(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    member = Member(bootstrap, group, topic)
    try:
        until(lambda: len(member.records) >= count, [member], f"{count} records")
        threading.Event().wait(1.0)
        member.leave()
    finally:
        member.process.kill()
    return {"committed": None, "records": member.records}


def offsets(bootstrap: str, topic: str, partitions: int, times: list[int]) -> dict[str, Any]:
    def at(instant: int) -> dict[str, int]:
        found = {}
        for partition in range(partitions):
            output = kcat(bootstrap, "-Q", "-t", f"{topic}:{partition}:{instant}").decode()
            match = re.search(r"\[(\d+)\] offset (-?\d+)", output)
            if match is None:
                raise RuntimeError(f"kcat -Q printed {output!r}")
            found[match[1]] = int(match[2])
        return found

    return {"earliest": at(-2), "latest": at(-1), "times": {str(instant): at(instant) for instant in times}}


if __name__ == "__main__":
    main(
        {"topics": topics, "produce": produce, "consume": consume, "group": group, "resume": resume, "offsets": offsets}
    )
