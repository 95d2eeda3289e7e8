"""Help, exit codes, and what wrong input is answered with."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import time
from pathlib import Path

import pytest
from program import Serve, numbers, ok, ottla, run

COMMANDS = [
    [],
    ["serve"],
    ["topics"],
    *(["topics", "SOURCE", one] for one in ("describe", "create", "alter", "delete", "offsets", "delete-records")),
    ["produce"],
    ["consume"],
    ["groups"],
    *(["groups", "SOURCE", one] for one in ("show", "reset", "delete")),
    ["replicate"],
    ["backup"],
    ["restore"],
    ["snapshots"],
    ["check"],
    ["demo"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_that_fits_100_columns(command: list[str]) -> None:
    done = ok(*command, "--help")
    assert "Usage:" in done.text
    assert max(len(line) for line in done.text.splitlines()) <= 100
    assert done.err == ""


def test_the_help_of_the_program_tells_the_exit_codes() -> None:
    text = ok("--help").text
    for command in ("serve", "topics", "produce", "consume", "groups", "replicate", "backup", "restore", "demo", "run"):
        assert f"\n  {command} " in text
    assert "Exit codes: 0 done; 1 failed; 2 wrong command line; 3 not there" in text


def test_version() -> None:
    assert ok("--version").text.startswith("ottla 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["serve", "--nonsense"],
        ["serve", "--async"],
        ["serve", "--topics", "a"],
        ["serve", "--node-id", "-1"],
        ["serve", "--config", "nonsense=1"],
        ["serve", "--config", "retention.ms"],
        ["serve", "--follow", "nonsense"],
        ["topics", "nonsense"],
        ["topics", "http://localhost:9092"],
        ["consume", "localhost:1", "t", "--from", "soon"],
        ["consume", "localhost:1", "t", "--format", "%z"],
        ["replicate", "localhost:1", "x", "--topics", "("],
        ["backup", "localhost:1", "ftp://bucket"],
        ["demo", "--csv", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([str(ottla()), *arguments], cwd=tmp_path, capture_output=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr
    assert not list(tmp_path.iterdir()), "nothing is made by what is not done"


def one_line(done_err: str) -> str:
    lines = done_err.splitlines()
    assert len(lines) == 1, done_err
    assert lines[0].startswith("ottla: ")
    return lines[0]


def test_what_is_not_there_ends_with_3_and_says_what(leader: Serve, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ok("produce", leader.address, "t", "--lines", given=numbers(1))
    ok("backup", leader.address, tmp_path / "repository")
    wrong: list[tuple[list[str | Path], str]] = [
        (["topics", tmp_path / "nothing"], "no such directory"),
        (["topics", tmp_path / "empty"], "holds no log"),
        (["topics", leader.address, "describe", "nothing"], "no such topic topic=nothing"),
        (["topics", leader.address, "alter", "nothing", "--config", "retention.ms=1"], "no such topic topic=nothing"),
        (["topics", leader.address, "delete", "nothing"], "no such topic topic=nothing"),
        (["topics", leader.address, "offsets", "nothing"], "no such topic topic=nothing"),
        (["consume", leader.address, "nothing"], "no such topic topic=nothing"),
        (["consume", leader.address, "t", "-p", "7"], "no such partition partition=t-7"),
        (["groups", leader.address, "show", "nothing"], "group=nothing"),
        (["replicate", leader.address, tmp_path / "r", "--topics", "nothing"], "no such topic topic=nothing"),
        (["backup", leader.address, tmp_path / "b", "--topics", "nothing"], "no such topic topic=nothing"),
        (["snapshots", tmp_path / "nothing"], "repository"),
        (["restore", f"{tmp_path / 'repository'}@ffffffff", tmp_path / "r"], "snapshot"),
    ]
    for arguments, what in wrong:
        done = run(*arguments)
        assert (done.code, done.out) == (3, b""), (arguments, done)
        assert what in one_line(done.err)
    assert not (tmp_path / "r").exists(), "a wrong name leaves no log behind"
    assert not list((tmp_path / "empty").iterdir()), "looking makes no log"


def test_an_address_where_nobody_listens_ends_with_4_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (["topics", address], ["consume", address, "t"], ["replicate", address, "x"]):
            begun = time.monotonic()
            done = run(*arguments)
            assert done.code == 4
            assert address in one_line(done.err)
            assert time.monotonic() - begun < 10


def test_a_port_in_use_and_a_directory_in_use_are_told(leader: Serve, tmp_path: Path) -> None:
    done = run("serve", "--data", tmp_path / "other", "--listen", leader.address)
    assert done.code == 1
    assert f"cannot listen on {leader.address}" in one_line(done.err)
    done = run("topics", leader.data)
    assert done.code == 1
    assert "owned by another process" in one_line(done.err)
    assert str(leader.process.pid) in done.err


def test_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos-1").mkdir()
    (tmp_path / "photos-1" / "one.jpg").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    wrong: list[list[str | Path]] = [
        ["topics", tmp_path],
        ["serve", "--data", tmp_path, "--listen", "127.0.0.1:0"],
        ["produce", tmp_path, "t"],
    ]
    for arguments in wrong:
        done = run(*arguments)
        assert done.code == 2
        assert "no log directory" in one_line(done.err)
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_are_json_with_json(leader: Serve) -> None:
    import json  # noqa: PLC0415

    done = run("topics", leader.address, "describe", "nothing", "--json")
    assert done.code == 3
    error = json.loads(done.err)
    assert error["kind"] == "NotFound"
    assert error["error"] == "no such topic topic=nothing"


def test_a_reader_that_has_enough_ends_it_without_a_word(leader: Serve) -> None:
    ok("produce", leader.address, "t", "--lines", given=numbers(100_000))
    reading = subprocess.Popen(
        [str(ottla()), "consume", leader.address, "t"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reading.stdout is not None
    assert reading.stderr is not None
    reading.stdout.readline()
    reading.stdout.close()
    assert reading.wait(30) == 141
    assert reading.stderr.read() == b""


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(leader: Serve, tmp_path: Path) -> None:
    ok("produce", leader.address, "t", "--lines", given=numbers(1_000))
    ours, its = pty.openpty()
    done = subprocess.run(
        [str(ottla()), "replicate", leader.address, tmp_path / "r"], stderr=its, stdout=subprocess.PIPE, timeout=30
    )
    os.close(its)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "t-0 full: 0 → 1,000" in drawn
    assert "\x1b[" in drawn
    plain = ok("replicate", leader.address, tmp_path / "r2")
    assert "\x1b" not in plain.err + plain.text
