"""Brokers and clients for these tests. A part that is not there skips its tests and says why."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# The program as a user runs it: what the tests of the command line run it with.
sys.path.append(str(Path(__file__).parents[1] / "cli"))

from clients import CLIENTS, Client
from servers import KafkaServer, OttlaServer, Server

SERVERS: list[type[OttlaServer | KafkaServer]] = [OttlaServer, KafkaServer]


@pytest.fixture(scope="session", params=SERVERS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running broker, shared by all tests."""
    if why := request.param.missing():
        pytest.skip(why)
    running: Server = request.param(tmp_path_factory.mktemp(request.param.name))
    try:
        running.start()
        yield running
    finally:
        running.stop(kill=isinstance(running, KafkaServer))


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def server_kind(request: pytest.FixtureRequest) -> type[OttlaServer | KafkaServer]:
    """Each kind of broker, for a test that starts its own."""
    kind: type[OttlaServer | KafkaServer] = request.param
    return kind


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    """Each of the real clients."""
    chosen: Client = request.param
    if why := chosen.missing():
        pytest.skip(why)
    return chosen


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"
