"""The program `ottla`, run as a user runs it."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def ottla() -> Path | None:
    """The program under test: $OTTLA_BIN, or the newest of the virtual environment's and cargo's."""
    if named := os.environ.get("OTTLA_BIN"):
        return Path(named).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    places = [ROOT / ".venv" / "bin" / "ottla", target / "release" / "ottla", target / "debug" / "ottla"]
    there = [place for place in places if place.is_file()]
    return max(there, key=lambda place: place.stat().st_mtime, default=None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Done:
    """How a run of the program ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: str | Path, given: bytes = b"", timeout: float = 90) -> Done:
    """Runs the program to its end."""
    command = [str(ottla()), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=timeout)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def ok(*arguments: str | Path, given: bytes = b"", timeout: float = 90) -> Done:
    """The same, and it has to succeed."""
    done = run(*arguments, given=given, timeout=timeout)
    assert done.code == 0, f"ottla {' '.join(map(str, arguments))} ended with {done.code}: {done.err}"
    return done


class Program:
    """A run of the program that goes on; its JSON lines are there as they come."""

    def __init__(self, *arguments: str | Path) -> None:
        self.command = [str(ottla()), "--json", *map(str, arguments)]
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._news: queue.Queue[None] = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._readers = [threading.Thread(target=self._read_lines), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            self._news.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(line.decode().rstrip() for line in self.process.stderr)

    def wait_for(self, what: str, is_it: Callable[[dict[str, Any]], bool], timeout: float = 30) -> dict[str, Any]:
        """The first line, from the last one before on, that is what is waited for."""
        end, at = time.monotonic() + timeout, max(len(self.lines) - 1, 0)
        while True:
            for line in self.lines[at:]:
                if is_it(line):
                    return line
            left = end - time.monotonic()
            assert left > 0, f"no line says that it {what}: {self.lines[-3:]} {self.errors[-3:]}"
            try:
                self._news.get(timeout=min(left, 0.2))
            except queue.Empty:
                assert self.process.poll() is None, f"{self.command} ended: {self.errors[-3:]}"

    def wait_until_caught_up(self, records: int | None = None) -> dict[str, Any]:
        return self.wait_for(
            "has caught up",
            lambda line: line.get("event") == "caught_up" and (records is None or line["records"] >= records),
        )

    def end(self, with_signal: signal.Signals = signal.SIGTERM, timeout: float = 30) -> int:
        """Asks it to end and waits; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.command} does not end within {timeout} s of {with_signal.name}") from None
        for reader in self._readers:
            reader.join()
        return code


class Serve(Program):
    """`ottla serve`, ready."""

    def __init__(self, data: Path, *arguments: str, port: int = 0) -> None:
        super().__init__("serve", "--data", data, "--listen", f"127.0.0.1:{port}", *arguments)
        self.data = data
        self.address: str = self.wait_for("listens", lambda line: "listening" in line)["listening"]


def numbers(count: int, first: int = 0) -> bytes:
    """Lines for `ottla produce --lines`."""
    return b"".join(b"%d\n" % number for number in range(first, first + count))


def values(source: str | Path, topic: str) -> list[str]:
    """Every value of a topic, in the order of the numbers they are."""
    return sorted(ok("consume", source, topic, "--lines").text.split(), key=int)


def in_sync(address: str, topic: str) -> list[list[int]]:
    """The in-sync replicas of each partition. A broker that hangs may be asked, and is not waited for long."""
    (described,) = ok("topics", address, "describe", topic, "--json", "-X", "request_timeout_ms=2000").lines
    return [partition["in_sync_replicas"] for partition in described["partitions"]]


def wait_until(what: str, is_so: Callable[[], bool], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end, f"it is not so after {timeout} s: {what}"
        time.sleep(0.05)
