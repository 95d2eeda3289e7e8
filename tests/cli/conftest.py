"""Running programs that end with their test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import program


@pytest.fixture(autouse=True)
def _built() -> None:
    if program.ottla() is None:
        pytest.skip("no 'ottla' was built: neither .venv/bin/ottla nor one of cargo's")


@pytest.fixture
def started() -> Iterator[Callable[[program.Program], program.Program]]:
    """Takes programs that are killed when the test has ended, if they run still."""
    running: list[program.Program] = []

    def take(one: program.Program) -> program.Program:
        running.append(one)
        return one

    yield take
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def serve(started: Callable[[program.Program], program.Program], tmp_path: Path) -> Callable[..., program.Serve]:
    """Starts `ottla serve` over a directory of that name."""

    def start(name: str, *arguments: str, port: int = 0) -> program.Serve:
        server = program.Serve(tmp_path / name, *arguments, port=port)
        started(server)
        return server

    return start


@pytest.fixture
def leader(serve: Callable[..., program.Serve]) -> program.Serve:
    """A broker that is there."""
    return serve("leader")
