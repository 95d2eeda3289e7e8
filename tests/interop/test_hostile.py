"""Bytes that no client sends: the broker closes that connection or answers with an error, and serves everyone else."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def header(key: int, version: int, correlation: int = 1, client: bytes = b"hostile") -> bytes:
    return struct.pack(">hhih", key, version, correlation, len(client)) + client


API_VERSIONS = frame(header(18, 0))

#: A name, and what is sent.
ATTACKS = {
    "a request of two gigabytes": struct.pack(">i", 0x7FFF_FFFF) + b"x" * 1000,
    "a request of negative length": struct.pack(">i", -1) + b"x" * 100,
    "a request of no length": struct.pack(">i", 0) * 3,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "the start of TLS": bytes.fromhex("16030100c8010000c40303") + os.urandom(189),
    "an unknown API": frame(header(999, 0) + b"\0" * 20),
    "a negative API": frame(header(-5, 0)),
    "an unknown version of Produce": frame(header(0, 99) + b"\0" * 20),
    "an unknown version of Fetch": frame(header(1, -3) + b"\0" * 20),
    "a header cut short": frame(b"\0\3\0"),
    "a client id beyond the frame": frame(struct.pack(">hhih", 3, 1, 1, 30_000) + b"short"),
    "Metadata of 2147483647 topics": frame(header(3, 1) + struct.pack(">i", 0x7FFF_FFFF)),
    "Metadata of a topic with a negative length": frame(header(3, 1) + struct.pack(">ih", 1, -7)),
    "Fetch of as many topics as fit no memory": frame(
        header(1, 4) + struct.pack(">iiiibi", -1, 0, 0, 1 << 30, 0, 1 << 30)
    ),
    "Fetch 12 with a compact array of 2147483647": frame(
        header(1, 12) + b"\0" + struct.pack(">iiiibii", -1, 0, 0, 1 << 30, 0, 0, -1) + b"\xff\xff\xff\xff\x07"
    ),
    "Produce of records longer than the frame": frame(
        header(0, 3) + struct.pack(">hhii", -1, -1, 1000, 1) + b"\0\1t" + struct.pack(">iii", 1, 0, 0x7FFF_FFF0)
    ),
    "a varint without an end": frame(header(1, 12) + b"\0" + b"\xff" * 200),
}


def answers(server: Server) -> bool:
    """Whether a new connection is answered."""
    host, port = server.bootstrap.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.settimeout(5)
            connection.sendall(API_VERSIONS)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def resident(server: Server) -> int:
    """Bytes of memory that the broker holds, or 0 where the system does not tell."""
    status = Path(f"/proc/{server.pid}/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


@pytest.fixture
def bystander(server: Server) -> Iterator[socket.socket]:
    """A connection that was there before, and has to be served afterwards."""
    host, port = server.bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.settimeout(10)
        yield connection


def send(server: Server, data: bytes) -> bytes:
    """What the broker says to this, up to its closing the connection or half a second of silence."""
    host, port = server.bootstrap.rsplit(":", 1)
    said = b""
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(data)
            while more := connection.recv(1 << 16):
                said += more
        except OSError:
            pass
    return said


def check_serves(server: Server, bystander: socket.socket) -> None:
    bystander.sendall(API_VERSIONS)
    assert len(bystander.recv(4)) == 4, "a connection that did nothing wrong was closed"
    assert answers(server), "new connections are not answered any more"


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_broker_survives(server: Server, bystander: socket.socket, attack: str) -> None:
    before = resident(server)
    for _ in range(3):
        send(server, ATTACKS[attack])
    check_serves(server, bystander)
    assert resident(server) - before < 64 << 20, "memory grew by what a length promised"


def test_the_broker_survives_noise(server: Server, bystander: socket.socket) -> None:
    chance = random.Random(1)
    for _ in range(200):
        key = chance.choice([0, 1, 2, 3, 8, 9, 10, 11, 14, 18, 19, 20, 22, 32, 44])
        noise = frame(header(key, chance.randrange(0, 13)) + chance.randbytes(chance.randrange(0, 200)))
        host, port = server.bootstrap.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(noise)
    check_serves(server, bystander)


def test_connections_that_say_nothing_are_no_burden(server: Server, bystander: socket.socket) -> None:
    host, port = server.bootstrap.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port)), 5) for _ in range(200)]
    for connection in idle[::2]:
        connection.sendall(struct.pack(">i", 1 << 20) + b"half a request")
    before = time.monotonic()
    check_serves(server, bystander)
    assert time.monotonic() - before < 5
    for connection in idle:
        connection.close()


def test_an_unknown_version_of_api_versions_is_answered_with_the_known_ones(server: Server) -> None:
    said = send(server, frame(header(18, 90) + b"\0" * 8))
    size, correlation, error = struct.unpack(">iih", said[:10])
    (count,) = struct.unpack(">i", said[10:14])
    assert (size, correlation, error) == (len(said) - 4, 1, 35)
    keys = {struct.unpack(">hhh", said[14 + 6 * i : 20 + 6 * i])[0] for i in range(count)}
    # Kafka names this one, others name all.
    assert 18 in keys


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", ".", "", "x" * 250, "nul\0", "späße"])
def test_a_topic_with_a_bad_name_is_refused(server: Server, name: str) -> None:
    encoded = name.encode()
    topic = struct.pack(">h", len(encoded)) + encoded + struct.pack(">ihii", 1, 1, 0, 0)
    said = send(server, frame(header(19, 2) + struct.pack(">i", 1) + topic + struct.pack(">ib", 5_000, 0)))
    # Size, correlation, throttle time, number of topics, the topic's name.
    length = 12 + 4 + 2 + len(encoded)
    (error,) = struct.unpack(">h", said[length : length + 2])
    assert error == 17, "INVALID_TOPIC_EXCEPTION"
