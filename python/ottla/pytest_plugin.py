"""Pytest's fixture `ottla_broker`: a broker of its own for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ottla.broker import Broker


@pytest.fixture
def ottla_broker() -> Iterator[Broker]:
    """Give the test an embedded broker in memory, on a free port; see its `bootstrap_servers`."""
    from ottla.broker import Broker

    with Broker() as broker:
        yield broker
