"""Repositories in a bucket of a real server; `scripts/s3 run` gives one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from program import numbers, ok, run


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    if "OTTLA_TEST_BUCKET" not in os.environ:
        pytest.skip("no bucket: OTTLA_TEST_BUCKET names none (scripts/s3 run)")
    return f"{os.environ['OTTLA_TEST_BUCKET']}/{request.node.originalname}"


@pytest.mark.parametrize("arguments", [(), ("--no-encryption",)], ids=["encrypted", "plain"])
def test_a_bucket_is_a_repository_like_any_other(bucket: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    log, repository = tmp_path / "log", f"{bucket}/{'plain' if arguments else 'encrypted'}"
    ok("produce", log, "orders", "--lines", given=numbers(20_000))
    ok("backup", log, repository, *arguments)
    ok("produce", log, "orders", "--lines", given=numbers(500, 20_000))
    made = ok("backup", log, repository, *arguments, "--json").lines[-1]
    assert (made["extent"], made["new_records"]) == ("incremental", 500)
    assert len(ok("snapshots", repository, *arguments, "--json").lines) == 2
    report = ok("check", repository, *arguments, "--read-data", "--json").lines[0]
    assert report["read_bytes"] == report["stored_bytes"] > 0
    ok("restore", repository, tmp_path / "restored", *arguments)
    assert ok("consume", tmp_path / "restored", "orders").out == ok("consume", log, "orders").out


def test_a_wrong_credential_or_bucket_is_said(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = run("backup", tmp_path, "s3://ottla-absent/a")
    assert absent.code == 3
    refused = run("init", "s3://ottla-absent/a")
    assert refused.code == 3
    assert "no such bucket" in refused.err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = run("snapshots", bucket)
    assert refused.code == 5
    assert bucket in refused.err
