"""Repositories: their keys, and what can be asked and done of them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from program import numbers, ok, run

IDENTITY = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33"
RECIPIENT = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with 1,000 records."""
    ok("produce", tmp_path / "log", "orders", "--lines", given=numbers(1_000))
    return tmp_path / "log"


def passphrase(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    return path


def test_the_first_backup_writes_a_key_file_and_says_where(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    repository = tmp_path / "repository"
    made = ok("backup", log, repository)
    (key,) = (tmp_path / "configuration" / "ottla" / "keys").iterdir()
    assert str(key) in made.err
    assert "without it nobody can restore" in made.err
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    again = ok("backup", log, repository)
    assert str(key) not in again.err
    ok("restore", repository, tmp_path / "restored")
    assert ok("consume", tmp_path / "restored", "orders").out == ok("consume", log, "orders").out
    for path in repository.rglob("*"):
        assert not path.is_file() or b"orders" not in path.read_bytes(), path

    # Elsewhere the file is a passphrase file like any other; without it there is nothing.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    refused = run("snapshots", repository)
    assert refused.code == 5
    assert "is encrypted" in refused.err
    assert len(ok("snapshots", repository, "--passphrase-file", key, "--json").lines) == 2


def test_passphrases_come_from_the_environment_a_file_or_a_command(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    monkeypatch.setenv("OTTLA_PASSPHRASE", "correct horse")
    made = ok("init", repository, "--json").lines[0]
    assert (made["encryption"], made["key_file"]) == ("x25519-chacha20poly1305", None)
    assert run("init", repository).code == 1
    ok("backup", log, repository)
    monkeypatch.delenv("OTTLA_PASSPHRASE")
    right, wrong = passphrase(tmp_path / "right", "correct horse"), passphrase(tmp_path / "wrong", "Correct horse")
    assert len(ok("snapshots", repository, "--passphrase-file", right, "--json").lines) == 1
    assert len(ok("snapshots", repository, "--passphrase-command", f"cat {right}", "--json").lines) == 1
    refused = run("snapshots", repository, "--passphrase-file", wrong)
    assert refused.code == 5
    assert "wrong key" in refused.err
    for command, reason in (("exit 3", "failed"), ("true", "empty first line")):
        refused = run("snapshots", repository, "--passphrase-command", command)
        assert refused.code == 2
        assert reason in refused.err
    refused = run("snapshots", repository, "--no-encryption")
    assert refused.code == 5


def test_a_plain_repository_is_one_that_was_asked_for(log: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    ok("init", repository, "--no-encryption")
    ok("backup", log, repository)
    assert any(b"orders" in path.read_bytes() for path in repository.rglob("*") if path.is_file())
    given = passphrase(tmp_path / "given", "correct horse")
    refused = run("backup", log, repository, "--passphrase-file", given)
    assert refused.code == 2
    assert "not encrypted, but a key was given" in refused.err


def test_a_backup_host_writes_what_it_cannot_read(log: Path, tmp_path: Path) -> None:
    repository, owner = tmp_path / "repository", passphrase(tmp_path / "owner", "owner")
    host, identity = tmp_path / "host", tmp_path / "identity"
    identity.write_text(f"# made by age-keygen\n{IDENTITY}\n")
    ok("backup", log, repository, "--passphrase-file", owner)
    ok(
        "key",
        "add",
        repository,
        "--passphrase-file",
        owner,
        "--new-key-file",
        host,
        "--access",
        "write",
        "--label",
        "host",
    )
    ok("key", "add", repository, "--passphrase-file", owner, "--recipient", RECIPIENT)
    keys = ok("key", "list", repository, "--passphrase-file", owner, "--json").lines
    assert [(key["access"], key["label"], key["recipient"], key["used"]) for key in keys] == [
        ("full", "", None, True),
        ("write", "host", None, False),
        ("full", "", RECIPIENT, False),
    ]
    ok("produce", log, "orders", "--lines", given=numbers(500, 1_000))
    (line, made) = ok("backup", log, repository, "--passphrase-file", host, "--json").lines
    assert (line["extent"], made["new_records"]) == ("incremental", 500)
    refused = run("restore", repository, tmp_path / "refused", "--passphrase-file", host)
    assert refused.code == 5
    assert "only writes" in refused.err
    ok("restore", repository, tmp_path / "restored", "--identity", identity)
    assert ok("consume", tmp_path / "restored", "orders").out == ok("consume", log, "orders").out


def test_a_rotation_shuts_out_whose_key_was_removed(log: Path, tmp_path: Path) -> None:
    repository, owner = tmp_path / "repository", ("--passphrase-file", passphrase(tmp_path / "owner", "owner"))
    leaver = passphrase(tmp_path / "leaver", "leaver")
    ok("backup", log, repository, *owner)
    (key,) = ok("key", "add", repository, *owner, "--new-passphrase-file", leaver, "--json").lines
    refused = run("key", "rotate", repository, *owner)
    assert refused.code == 2
    assert key["key"][:8] in refused.err
    ok("key", "remove", repository, *owner, key["key"][:8])
    (rotated,) = ok("key", "rotate", repository, *owner, "--json").lines
    assert rotated["generations"] == 2
    assert run("snapshots", repository, "--passphrase-file", leaver).code == 5
    ok("produce", log, "orders", "--lines", given=numbers(10))
    assert ok("backup", log, repository, *owner, "--json").lines[-1]["new_records"] == 10
    assert ok("check", repository, *owner, "--read-data", "--json").lines[0]["problems"] == []
    (last,) = ok("key", "list", repository, *owner, "--json").lines
    refused = run("key", "remove", repository, *owner, last["key"])
    assert refused.code == 2
    assert "the last key" in refused.err


def test_where_no_key_can_be_kept_none_is_made(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    refused = run("backup", log, tmp_path / "repository")
    assert refused.code == 2
    assert "passphrase" in refused.err
    assert not (tmp_path / "repository").exists()


@pytest.fixture
def repository(log: Path, tmp_path: Path) -> Path:
    """A repository with two snapshots, of 1,000 records and of 1,500."""
    ok("backup", log, tmp_path / "repository")
    ok("produce", log, "orders", "--lines", "-K", ":", given=b"a:1\nb:2\na:3\n")
    ok("produce", log, "orders", "--lines", given=numbers(497, 1_003))
    ok("topics", log, "create", "payments", "--config", "retention.ms=-1")
    ok("backup", log, tmp_path / "repository")
    return tmp_path / "repository"


def snapshots(repository: Path) -> list[str]:
    return [line["snapshot"] for line in ok("snapshots", repository, "--json").lines]


def test_what_is_in_a_snapshot_is_listed(repository: Path) -> None:
    topics = {line["topic"]: line for line in ok("ls", repository, "--json").lines}
    assert sorted(topics) == ["orders", "payments"]
    assert topics["orders"]["records"] == 1_500
    assert topics["payments"]["config"] == {"retention.ms": "-1"}
    (first, _) = snapshots(repository)
    (line,) = ok("ls", f"{repository}@{first[:12]}", "--partitions", "--json").lines
    assert (line["topic"], line["partition"], line["start"], line["end"]) == ("orders", 0, 0, 1_000)
    assert "orders" in ok("ls", repository).text
    assert run("ls", repository, "--topics", "absent").code == 3


def test_a_diff_tells_what_has_changed(repository: Path) -> None:
    (first, second) = snapshots(repository)
    orders, payments = ok("diff", repository, first[:12], "--json").lines
    assert (payments["topic"], payments["change"]) == ("payments", "added")
    (partition,) = orders["partitions"]
    assert (partition["before"], partition["after"], partition["records"]) == ([0, 1_000], [0, 1_500], 500)
    assert "orders-0: 0..1,000 → 0..1,500, +500 records" in ok("diff", repository, first[:12], second[:12]).text
    assert ok("diff", repository, second, second).text == "no difference\n"


def test_a_key_is_found_where_it_is(repository: Path) -> None:
    found = ok("find", repository, "a", "--json").lines
    assert [(line["topic"], line["offset"], line["value"]) for line in found] == [
        ("orders", 1_000, "1"),
        ("orders", 1_002, "3"),
    ]
    assert run("find", repository, "nobody").code == 3


def test_snapshots_are_forgotten_by_rules_and_what_they_held_is_pruned(repository: Path, tmp_path: Path) -> None:
    first, second = snapshots(repository)
    assert run("forget", repository).code == 2
    fates = ok("forget", repository, "--keep-last", "1", "--dry-run", "--json").lines
    assert [(line["snapshot"], line["kept_by"]) for line in fates] == [(first, []), (second, ["last"])]
    assert snapshots(repository) == [first, second]
    ok("forget", repository, "--keep-last", "1")
    assert snapshots(repository) == [second]
    marked = ok("prune", repository, "--json").lines[0]
    assert marked["marked"] > 0
    assert marked["removed"] == 0
    removed = ok("prune", repository, "--grace", "0s", "--json").lines[0]
    # What is marked waits for its day.
    assert removed["removed"] == 0
    for mark in (repository / "marks").iterdir():
        mark.unlink()
    planned = ok("prune", repository, "--grace", "0s", "--dry-run", "--json").lines[0]
    removed = ok("prune", repository, "--grace", "0s", "--json").lines[0]
    assert removed["removed"] == planned["marked"] == marked["marked"]
    report = ok("check", repository, "--read-data", "--json").lines[0]
    assert report["problems"] == []
    assert report["unreferenced"] == 0
    ok("restore", repository, tmp_path / "restored")
    assert len(ok("consume", tmp_path / "restored", "orders").lines) == 1_500
    ok("forget", repository, second[:8])
    assert snapshots(repository) == []


def test_snapshots_are_copied_to_a_repository_with_another_key(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    to = ("--to-passphrase-file", passphrase(tmp_path / "to", "another"))
    (copied,) = ok("copy", repository, other, *to, "--json").lines
    assert (len(copied["snapshots"]), copied["present"]) == (2, 0)
    (again,) = ok("copy", repository, other, *to, "--json").lines
    assert (again["snapshots"], again["present"], again["objects"]) == ([], 2, 0)
    opened = ("--passphrase-file", tmp_path / "to")
    assert ok("check", other, *opened, "--read-data", "--json").lines[0]["problems"] == []
    ok("restore", other, tmp_path / "restored", *opened)
    assert len(ok("consume", tmp_path / "restored", "orders").lines) == 1_500
    plain = tmp_path / "plain"
    ok("copy", repository, plain, snapshots(repository)[0][:12], "--to-no-encryption")
    assert len(ok("snapshots", plain, "--json").lines) == 1
    assert run("copy", repository, repository).code == 2


def test_a_check_reads_a_sample_and_restores_one(repository: Path) -> None:
    (report,) = ok("check", repository, "--restore-sample", "--json").lines
    restored = report["restored"]
    assert restored["topics"]
    assert restored["partitions"] >= 1
    assert restored["differing"] == []
    assert report["read_bytes"] == 0
    assert ok("check", repository, "--read-data=100%", "--json").lines[0]["read_bytes"] == report["stored_bytes"]
    assert ok("check", repository, "--read-data=0.001%", "--json").lines[0]["read_bytes"] < report["stored_bytes"]
    for share in ("0%", "101%", "5", "x%"):
        assert run("check", repository, f"--read-data={share}").code == 2
    damaged_object = next(path for path in (repository / "objects").rglob("*") if path.is_file())
    data = bytearray(damaged_object.read_bytes())
    data[100] ^= 1
    damaged_object.chmod(0o600)
    damaged_object.write_bytes(data)
    damaged = run("check", repository, "--read-data")
    assert damaged.code == 6
    assert "partition=orders-0 offsets=" in damaged.err


def test_objects_are_compressed_as_a_whole_if_that_is_wanted(log: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    made = ok("backup", log, repository, "--compression", "zstd", "--json").lines[-1]
    assert made["new_stored_bytes"] < made["new_bytes"] / 2
    ok("check", repository, "--read-data")
    ok("restore", repository, tmp_path / "restored")
    assert ok("consume", tmp_path / "restored", "orders").out == ok("consume", log, "orders").out


def test_a_snapshot_that_is_damaged_can_be_removed(repository: Path) -> None:
    first, second = snapshots(repository)
    damaged = next(path for path in (repository / "snapshots").iterdir() if path.name.endswith(first))
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    for verb in (("prune", "--grace", "0s"), ("forget", "--keep-last", "1")):
        refused = run(verb[0], repository, *verb[1:])
        assert refused.code == 6
        assert first in refused.err
    ok("forget", repository, first[:12])
    assert snapshots(repository) == [second]
    ok("prune", repository, "--grace", "0s")
    ok("check", repository, "--read-data")
