"""What all pytest suites here share: with CI=true nothing may be skipped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator

import pytest

CI = os.environ.get("CI") == "true"

# Repositories' keys go where this run ends with them, and none that a person has is found.
_CONFIGURATION = tempfile.TemporaryDirectory(prefix="ottla-configuration-")
os.environ["XDG_CONFIG_HOME"] = _CONFIGURATION.name
os.environ.pop("OTTLA_PASSPHRASE", None)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"with CI=true nothing may be skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report
