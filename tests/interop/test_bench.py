"""The benchmarks run; what they measure is for `make bench` to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from servers import ROOT, ottla, peers


def test_every_part_of_the_benchmarks_runs() -> None:
    for peer in ("python", "java"):
        if why := peers.missing(peer):
            pytest.skip(why)
    program = ottla()
    if program is None or not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("ottla is not built and installed: scripts/venv")
    command = [sys.executable, str(ROOT / "tests" / "bench" / "run"), "--quick", "--json"]
    environment = {**os.environ, "OTTLA_BIN": str(program)}
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    parts = json.loads(run.stdout)
    assert set(parts) == {
        "clients", "embedded", "brokers", "starting", "replication", "replica", "followers", "package"
    }  # fmt: skip
    for name, part in parts.items():
        assert part["rows"]
        for row in part["rows"]:
            assert row["medians"], row
            # CPU time of other processes is counted in hundredths of a second: of few records it may be none.
            may_be_none = (
                {"stall_ms"} if name in {"clients", "embedded", "brokers", "starting", "package"} else row["medians"]
            )
            assert all(figure > 0 or (figure == 0 and of in may_be_none) for of, figure in row["medians"].items()), row
