"""Kafka's own perf tools run against the broker, and count what they sent."""

from __future__ import annotations

import re
import subprocess

import pytest
from clients import CLIENTS
from servers import Server, kafka

JAVA = next(client for client in CLIENTS if client.name == "java")
COUNT = 20_000


def tool(main: str, *arguments: str) -> str:
    command = kafka.java(main, list(arguments), options=kafka.TOOL_OPTIONS)
    run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    output: str = run.stdout
    return output


def test_kafkas_perf_tools_run(server: Server, topic: str) -> None:
    if why := JAVA.missing():
        pytest.skip(why)
    JAVA.do("create", server.bootstrap, topic=topic, partitions=3)
    sent = tool(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", str(COUNT), "--record-size", "1000", "--throughput", "-1"),
        *("--producer-props", f"bootstrap.servers={server.bootstrap}", "acks=all", "compression.type=lz4"),
    )
    assert re.search(rf"^{COUNT} records sent", sent, re.MULTILINE), sent
    assert "Exception" not in sent, sent
    read = tool(
        "org.apache.kafka.tools.ConsumerPerformance",
        *("--bootstrap-server", server.bootstrap, "--topic", topic, "--hide-header"),
        *("--messages", str(COUNT), "--timeout", "20000"),
    )
    fields = [field.strip() for field in read.splitlines()[-1].split(",")]
    assert int(fields[4]) >= COUNT, read
