"""Bytes that no client sends: the broker closes that connection or answers with an error, and serves everyone else."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import CONFLUENT, decode
from servers import KafkaServer, OttlaServer, Server, ottla


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
    "a request cut short": struct.pack(">i", 100) + header(3, 1) + b"\0\0",
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


def crc32c(data: bytes) -> int:
    """The checksum of a record batch."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def varint(value: int) -> bytes:
    """A zigzag varint."""
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(offset: int = 0, value: bytes = b"value") -> bytes:
    body = b"\0" + varint(0) + varint(offset) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(
    records: bytes, count: int = 1, codec: int = 0, crc: int | None = None, last_delta: int | None = None
) -> bytes:
    """A record batch; a header field that is given is what it says, right or wrong."""
    last = count - 1 if last_delta is None else last_delta
    body = struct.pack(">hiqqqhii", codec, last, 1_790_000_000_000, 1_790_000_000_000, -1, -1, -1, count) + records
    checksum = crc32c(body) if crc is None else crc
    return struct.pack(">qiibI", 0, len(body) + 9, -1, 2, checksum) + body


def produce(server: Server, topic: str, records: bytes, wait: float = 10) -> int:
    """The code that a Produce of these bytes is answered with; -1000 if the connection is closed instead."""
    name = topic.encode()
    request = struct.pack(">hhii", -1, -1, 5_000, 1) + struct.pack(">h", len(name)) + name
    request += struct.pack(">iii", 1, 0, len(records)) + records
    host, port = server.bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.settimeout(wait)
        connection.sendall(frame(header(0, 3) + request))
        said = b""
        while len(said) < 4 or len(said) < 4 + struct.unpack(">i", said[:4])[0]:
            more = connection.recv(1 << 16)
            if not more:
                return -1000
            said += more
    # Size, correlation, topics, the topic's name, partitions, partition.
    (code,) = struct.unpack_from(">h", said, 4 + 4 + 4 + 2 + len(name) + 4 + 4)
    return int(code)


#: Batches, and the codes that both brokers answer with.
BATCHES = {
    "a wrong checksum": (batch(record(), crc=7), {2}),
    "more records than there are": (batch(record(), count=5), {2, 87}),
    "fewer records than there are": (batch(record() + record(1), count=1), {2, 87}),
    "a record count of none": (batch(b"", count=0, last_delta=0), {2, 87}),
    "a negative record count": (batch(record(), count=-7, last_delta=0), {2, 87}),
    "a record that is longer than its batch": (batch(varint(1000) + b"\0"), {2, 87}),
    "a record of negative length": (batch(varint(-9) + b"\0" * 8), {2, 87}),
    "offsets that are not the records' number": (batch(record(), last_delta=9), {2, 87}),
    "a batch cut short": (batch(record())[:-3], {2, 87}),
    "a batch of no bytes": (b"", {2, 87}),
    "a batch that is noise": (bytes(range(100)), {2, 87, -1}),
    "bytes behind the batch": (batch(record()) + b"more", {2, 87}),
    "two batches": (batch(record()) * 2, {2, 87}),
    "gzip that is none": (batch(b"no gzip at all", codec=1), {2, 87, -1}),
    "an unknown codec": (batch(record(), codec=7), {2, 76, 87, -1}),
    "the oldest format": (struct.pack(">qiIbb", 0, 14, 0, 0, 0) + b"\xff" * 8, {2, 43, 87}),
}


#: Kafka's code for it.
NOT_LEADER_OR_FOLLOWER = 6


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_that_is_wrong_is_refused(server: Server, bystander: socket.socket, topic: str, kind: str) -> None:
    if why := CONFLUENT.missing():
        pytest.skip(why)
    records, codes = BATCHES[kind]
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=1)
    for _ in range(100):
        code = produce(server, topic, batch(record()))
        if code != NOT_LEADER_OR_FOLLOWER:
            break
        # A real Kafka tells of a topic before its partition has a leader.
        time.sleep(0.1)
    assert code == 0, "a right one is taken"
    code = produce(server, topic, records)
    check_serves(server, bystander)
    if code == 0 and isinstance(server, KafkaServer):
        return  # it cuts off what follows and cannot be a batch
    # Kafka closes the connection over some of them; Ottla always says what it is.
    assert code in codes or (code == -1000 and isinstance(server, KafkaServer)), code
    assert code != -1 or isinstance(server, KafkaServer), "unknown is no answer"
    stored = CONFLUENT.do("consume", server.bootstrap, topic=topic, partitions=1, count=1)
    assert [decode(found["value"]) for found in stored] == [b"value"], "nothing of it is stored"


#: What Kafka takes on trust: it stores a compression bomb, and runs out of memory for what is only announced.
only_ottla = pytest.mark.parametrize("server", [OttlaServer], indirect=True, ids=["ottla"])


@only_ottla
def test_a_compression_bomb_is_refused_in_bounded_memory(server: Server, bystander: socket.socket, topic: str) -> None:
    if why := CONFLUENT.missing():
        pytest.skip(why)
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=1)
    size = 400 << 20
    body = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(varint(len(body) + size + 1) + body)
    zeroes = bytes(1 << 20)
    for _ in range(size >> 20):
        packed += packer.compress(zeroes)
    packed += packer.compress(b"\0") + packer.flush()
    before = resident(server)
    for _ in range(3):
        assert produce(server, topic, batch(packed, codec=1), wait=60) == 10, "MESSAGE_TOO_LARGE"
    assert resident(server) - before < 64 << 20
    check_serves(server, bystander)


def test_names_of_topics_do_not_leave_the_directory(server: Server, bystander: socket.socket) -> None:
    around = sorted(path.name for path in server.logs.parent.iterdir())
    for name in [b"../../escape", b"..", b"a/b", b"x" * 300, b"\xff\xfe", b"nul\0"]:
        encoded = struct.pack(">h", len(name)) + name
        # Asked for by Metadata, which creates what is not there, and written to.
        send(server, frame(header(3, 1) + struct.pack(">i", 1) + encoded))
        request = struct.pack(">hhii", -1, -1, 5_000, 1) + encoded + struct.pack(">iii", 1, 0, 0)
        send(server, frame(header(0, 3) + request))
    check_serves(server, bystander)
    assert sorted(path.name for path in server.logs.parent.iterdir()) == around
    assert not [path for path in server.logs.iterdir() if "escape" in path.name or path.name.startswith("x" * 200)]


@only_ottla
def test_many_large_requests_share_a_bounded_memory(server: Server, bystander: socket.socket) -> None:
    before = resident(server)
    host, port = server.bootstrap.rsplit(":", 1)
    part = b"x" * (1 << 20)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((host, int(port)), 5)) for _ in range(20)]
        for connection in connections:
            connection.setblocking(False)
            connection.sendall(struct.pack(">i", 95 << 20))
        sent, end = 0, time.monotonic() + 8
        while sent < 1 << 30 and time.monotonic() < end:
            for connection in connections:
                with contextlib.suppress(OSError):
                    sent += connection.send(part)
            check = time.monotonic()
            if sent % (32 << 20) < len(part):
                bystander.sendall(API_VERSIONS)
                bystander.recv(1 << 12)
                assert time.monotonic() - check < 2, "others wait for them"
        assert sent > 200 << 20, "there is room for two of the largest"
        assert resident(server) - before < 400 << 20
        check_serves(server, bystander)
    # A large one that is whole has its turn as soon as the others have gone, or were closed because there was no room.
    assert produce(server, "no-such-topic-", batch(record(value=bytes(900_000)))) == 3


def test_who_asks_for_much_and_takes_nothing_is_given_little(
    server: Server, bystander: socket.socket, topic: str
) -> None:
    if why := CONFLUENT.missing():
        pytest.skip(why)
    CONFLUENT.do("create", server.bootstrap, topic=topic, partitions=1)
    large = batch(record(value=os.urandom(900_000)))
    for _ in range(12):
        assert produce(server, topic, large) == 0
    name = struct.pack(">h", len(topic)) + topic.encode()
    request = struct.pack(">iiiibi", -1, 100, 1, 1 << 30, 0, 1) + name + struct.pack(">iiqi", 1, 0, 0, 1 << 30)
    before = resident(server)
    host, port = server.bootstrap.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection((host, int(port)), 5))
            connection.sendall(frame(header(1, 4) + request) * 60)
        time.sleep(2)
        assert resident(server) - before < 128 << 20, "it holds what nobody takes"
        check_serves(server, bystander)


# What a start meets.


def refused_start(*arguments: str) -> str:
    """What `ottla serve` says when it does not serve: one line, and an exit code that says so."""
    if why := OttlaServer.missing():
        pytest.skip(why)
    run = subprocess.run([str(ottla()), "serve", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode not in (0, 101), run
    assert run.stdout == ""
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    assert "panicked" not in lines[0]
    return lines[0]


def test_a_directory_that_is_not_a_log_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").write_text("years of work")
    said = refused_start("--data", str(tmp_path), "--listen", "127.0.0.1:0")
    assert str(tmp_path) in said and "thesis.odt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.odt"]
    said = refused_start("--data", str(tmp_path / "thesis.odt"), "--listen", "127.0.0.1:0")
    assert "thesis.odt" in said
    assert (tmp_path / "thesis.odt").read_text() == "years of work"


def test_a_port_in_use_and_a_directory_in_use_are_said(tmp_path: Path) -> None:
    if why := OttlaServer.missing():
        pytest.skip(why)
    running = OttlaServer(tmp_path)
    try:
        running.start()
        said = refused_start("--listen", running.bootstrap)
        assert running.bootstrap in said and "--listen" in said
        said = refused_start("--data", str(running.data), "--listen", "127.0.0.1:0")
        assert str(running.data) in said and f"owner_pid={running.pid}" in said
        assert answers(running)
    finally:
        running.stop()
    for listen in ["nowhere", "127.0.0.1:99999", "256.1.1.1:9092"]:
        assert listen in refused_start("--listen", listen)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_refuses_and_heals_and_loses_nothing(small_disk: Path, topic: str) -> None:
    for why in (OttlaServer.missing(), CONFLUENT.missing()):
        if why:
            pytest.skip(why)
    ballast = small_disk / "lost+found"
    ballast.write_bytes(bytes(2 << 20))
    running = OttlaServer(small_disk, "--config", "segment.bytes=1000000")
    try:
        running.start()
        CONFLUENT.do("create", running.bootstrap, topic=topic, partitions=1)

        def fill() -> list[bytes]:
            """Writes until there is no room; returns what was acknowledged."""
            values: list[bytes] = []
            for _ in range(100):
                value = os.urandom(100_000)
                before = time.monotonic()
                code = produce(running, topic, batch(record(value=value)))
                if code:
                    assert code == 56, "KAFKA_STORAGE_ERROR"
                    assert time.monotonic() - before < 2
                    return values
                values.append(value)
            raise AssertionError("it was to be full by now")

        def check(expected: list[bytes]) -> None:
            stored = CONFLUENT.do("consume", running.bootstrap, topic=topic, partitions=1, count=len(expected))
            assert [decode(found["value"]) for found in stored] == expected

        values = fill()
        assert len(values) > 5
        check(values)
        assert produce(running, topic, batch(record(value=os.urandom(100_000)))) == 56
        assert answers(running)
        ballast.unlink()
        values += fill()
        assert len(values) > 20, "it goes on where there is room again"
        check(values)
        # A crash and a start on the full disk.
        running.restart(kill=True)
        check(values)
        running.restart()
        check(values)
    finally:
        running.stop(kill=True)
