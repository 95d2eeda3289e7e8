"""Kafka's own command-line tools, each a JVM of its own. The console producer sets neither partition nor timestamp."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from common import Patience, decode, encode, main

Record = dict[str, Any]

_loader = importlib.machinery.SourceFileLoader(
    "kafka_script", str(Path(__file__).resolve().parents[3] / "scripts" / "kafka")
)
sys.dont_write_bytecode = True
kafka = importlib.util.module_from_spec(importlib.util.spec_from_loader("kafka_script", _loader))  # type: ignore[arg-type]
_loader.exec_module(kafka)

READER = "--reader-property" if kafka.RENAMED else "--property"
FORMATTER = "--formatter-property" if kafka.RENAMED else "--property"
CONSUMER = "--command-property" if kafka.RENAMED else "--consumer-property"

NULL = "<null>"
PRINT = {
    "print.partition": "true",
    "print.offset": "true",
    "print.timestamp": "true",
    "print.headers": "true",
    "print.key": "true",
    "null.literal": NULL,
}


def command(main_class: str, arguments: list[str]) -> list[str]:
    line: list[str] = kafka.java(main_class, arguments, options=kafka.TOOL_OPTIONS)
    return line


def tool(main_class: str, *arguments: str, stdin: str = "") -> str:
    run = subprocess.run(
        command(main_class, list(arguments)),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    # Several tools report an error and still end with 0.
    if run.returncode != 0 or "Exception" in run.stderr or "ERROR" in run.stderr:
        raise RuntimeError(f"{main_class} {' '.join(arguments)}: {run.stderr.strip()} {run.stdout.strip()[-500:]}")
    return run.stdout


def create(bootstrap: str, topic: str, partitions: int) -> None:
    arguments = ["--create", "--topic", topic, "--partitions", str(partitions), "--replication-factor", "1"]
    tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap, *arguments)


def topics(bootstrap: str) -> dict[str, int]:
    output = tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap, "--describe")
    return {name: int(count) for name, count in re.findall(r"Topic: (\S+)\s.*PartitionCount: (\d+)", output)}


def produce(bootstrap: str, topic: str, codec: str, records: list[Record]) -> None:
    def text(data: str | None) -> str:
        return NULL if data is None else (decode(data) or b"").decode()

    lines = ""
    for record in records:
        headers = ",".join(f"{name}:{text(value)}" for name, value in record["headers"]) or NULL
        lines += f"{headers}\t{text(record['key'])}\t{text(record['value'])}\n"
    arguments = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        topic,
        "--compression-codec",
        codec,
        "--request-required-acks",
        "all",
    ]
    for setting in ("parse.key=true", "parse.headers=true", f"null.marker={NULL}"):
        arguments += [READER, setting]
    tool("org.apache.kafka.tools.ConsoleProducer", *arguments, stdin=lines)


LINE = re.compile(r"(?:CreateTime|LogAppendTime):(\d+)\tPartition:(\d+)\tOffset:(\d+)\t([^\t]*)\t([^\t]*)\t([^\t]*)")


def parse(line: str) -> Record:
    match = LINE.fullmatch(line)
    if match is None:
        raise RuntimeError(f"the console consumer printed {line!r}")

    def data(text: str) -> str | None:
        return None if text == NULL else encode(text.encode())

    headers = [] if match[4] == "NO_HEADERS" else [entry.partition(":") for entry in match[4].split(",")]
    return {
        "timestamp": int(match[1]),
        "partition": int(match[2]),
        "offset": int(match[3]),
        "headers": [[name, data(value)] for name, _, value in headers],
        "key": data(match[5]),
        "value": data(match[6]),
    }


def console_consumer(bootstrap: str, topic: str, *arguments: str) -> list[str]:
    line = ["--bootstrap-server", bootstrap, "--topic", topic, *arguments]
    for key, value in PRINT.items():
        line += [FORMATTER, f"{key}={value}"]
    return command("org.apache.kafka.tools.consumer.ConsoleConsumer", line)


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Record]:
    arguments = ["--from-beginning", "--max-messages", str(count), "--timeout-ms", "20000"]
    line = console_consumer(bootstrap, topic, *arguments)
    run = subprocess.run(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60
    )
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    return [parse(each) for each in run.stdout.splitlines()]


class Member:
    """A running console consumer of a group. Which partitions it has, only the broker tells."""

    def __init__(self, bootstrap: str, group: str, topic: str, name: str) -> None:
        arguments = ["--group", group]
        for setting in (
            f"client.id={name}",
            "auto.offset.reset=earliest",
            "session.timeout.ms=10000",
            "heartbeat.interval.ms=300",
            "fetch.max.wait.ms=100",
        ):
            arguments += [CONSUMER, setting]
        line = console_consumer(bootstrap, topic, *arguments)
        self.name = name
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.records: list[Record] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            self.records.append(parse(line.rstrip("\n")))

    def check(self) -> None:
        if self.process.poll() is not None:
            self.errors.seek(0)
            raise RuntimeError(f"the console consumer ended: {self.errors.read().decode()}")

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.thread.join()


def shares(bootstrap: str, group: str) -> dict[str, list[int]]:
    """The partitions of each member, by client id, as the coordinator tells."""
    arguments = ["--bootstrap-server", bootstrap, "--describe", "--group", group]
    line = command("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", arguments)
    run = subprocess.run(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    found: dict[str, list[int]] = {}
    for row in rows(run.stdout):
        if row.get("CLIENT-ID", "-") != "-":
            found.setdefault(row["CLIENT-ID"], []).append(int(row["PARTITION"]))
    return {name: sorted(partitions) for name, partitions in found.items()}


def rows(output: str) -> list[dict[str, str]]:
    """The lines of a table as the tools print it."""
    table: list[dict[str, str]] = []
    names: list[str] = []
    for line in output.splitlines():
        words = line.split()
        if words[:1] == ["GROUP"]:
            names = words
        elif names and len(words) == len(names):
            table.append(dict(zip(names, words, strict=True)))
    return table


def group(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    everything = list(range(partitions))
    phases: list[list[list[int]]] = []
    members = [Member(bootstrap, group, topic, "first")]

    def await_shares(names: list[str], what: str) -> None:
        patience = Patience()
        while patience.lasts(what):
            for each in members:
                each.check()
            now = shares(bootstrap, group)
            if sorted(now) == names and all(now.values()) and sorted(sum(now.values(), [])) == everything:
                phases.append([now[name] for name in names])
                return

    try:
        await_shares(["first"], "the first member's partitions")
        members.append(Member(bootstrap, group, topic, "second"))
        await_shares(["first", "second"], "partitions for both members")
        patience = Patience()
        while sum(len(each.records) for each in members) < count and patience.lasts(f"{count} records"):
            threading.Event().wait(0.1)
        second = members.pop()
        second.leave()
        await_shares(["first"], "the partitions of the member that left")
        members[0].leave()
        return {"phases": phases, "records": members[0].records + second.records}
    finally:
        for each in members:
            each.process.kill()


def resume(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    arguments = ["--bootstrap-server", bootstrap, "--describe", "--group", group]
    line = command("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", arguments)
    run = subprocess.run(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    committed = {
        row["PARTITION"]: int(row["CURRENT-OFFSET"]) for row in rows(run.stdout) if row["CURRENT-OFFSET"] != "-"
    }
    member = Member(bootstrap, group, topic, "first")
    try:
        patience = Patience()
        while len(member.records) < count and patience.lasts(f"{count} records"):
            member.check()
            threading.Event().wait(0.1)
        threading.Event().wait(1.0)
        member.leave()
    finally:
        member.process.kill()
    return {"committed": committed, "records": member.records}


def offsets(bootstrap: str, topic: str, partitions: int, times: list[int]) -> dict[str, Any]:
    def at(instant: int) -> dict[str, int]:
        arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--time", str(instant)]
        output = tool("org.apache.kafka.tools.GetOffsetShell", *arguments)
        # No line, or a line without a number: no record is that late.
        found = {str(p): -1 for p in range(partitions)}
        found |= {
            p: int(offset) for p, offset in re.findall(rf"^{re.escape(topic)}:(\d+):(\d+)$", output, re.MULTILINE)
        }
        return found

    return {"earliest": at(-2), "latest": at(-1), "times": {str(instant): at(instant) for instant in times}}


def delete_records(bootstrap: str, topic: str, before: dict[str, int]) -> dict[str, int]:
    wanted = {
        "version": 1,
        "partitions": [{"topic": topic, "partition": int(p), "offset": offset} for p, offset in before.items()],
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "offsets.json"
        path.write_text(json.dumps(wanted))
        output = tool(
            "org.apache.kafka.tools.DeleteRecordsCommand",
            "--bootstrap-server",
            bootstrap,
            "--offset-json-file",
            str(path),
        )
    return {p: int(low) for p, low in re.findall(r"-(\d+)\s+low_watermark: (\d+)", output)}


def delete(bootstrap: str, topic: str) -> None:
    tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap, "--delete", "--topic", topic)


if __name__ == "__main__":
    main(
        {
            "create": create,
            "topics": topics,
            "produce": produce,
            "consume": consume,
            "group": group,
            "resume": resume,
            "offsets": offsets,
            "delete_records": delete_records,
            "delete": delete,
        }
    )
