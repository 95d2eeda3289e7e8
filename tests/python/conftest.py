"""Fixtures: brokers of Ottla's, and names that no other test has."""

import itertools
import os

import ottla
import pytest

_NUMBERS = itertools.count()


@pytest.fixture
def topic():
    """A topic's name that no other test uses."""
    return f"topic-{os.getpid()}-{next(_NUMBERS)}"


@pytest.fixture(params=["in-process", "tcp"])
def servers(request):
    """A broker in this process: without a port, and over TCP."""
    with ottla.Broker(listen=None if request.param == "in-process" else "127.0.0.1:0") as broker:
        yield broker.bootstrap_servers
