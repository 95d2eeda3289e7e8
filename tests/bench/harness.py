"""What all benchmarks share: contenders that take turns, medians, and tables.

A part compares contenders. In each round every contender runs once, so that whatever else the machine does falls
on all of them; the table shows each measure's median and, beside it, its ratio to that of the group's first contender.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Took = dict[str, float]


def _peers() -> Any:
    loader = importlib.machinery.SourceFileLoader("peers_script", str(ROOT / "scripts" / "peers"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


peers = _peers()
kafka = peers.kafka


class Unavailable(Exception):
    """Why something cannot be measured here, in one line."""


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int = 5
    quick: bool = False
    scale: float = 1.0
    only: str = ""

    def count(self, records: int) -> int:
        """How many records instead of so many."""
        return max(2_000, int(records * (0.01 if self.quick else self.scale)))


@dataclass(frozen=True)
class Measure:
    """A column, and whether its ratio stands beside it."""

    name: str
    title: str
    digits: int = 2
    ratio: bool = False


@dataclass(frozen=True)
class Contender:
    """Something that is measured, and against whom in its group it stands."""

    group: str
    name: str
    run: Callable[[], Took]
    quick: bool = False


@dataclass
class Part:
    """A comparison: what it measures, and who takes part."""

    title: str
    measures: list[Measure]
    contenders: list[Contender]
    notes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """A contender's medians, and its ratios to the first of its group."""

    group: str
    name: str
    medians: Took
    spread: dict[str, tuple[float, float]]
    ratios: Took
    failed: str = ""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def measure(part: Part, options: Options) -> list[Row]:
    """Lets the contenders take turns; the rows stand in the order of the contenders."""
    chosen = [c for c in part.contenders if (c.quick or not options.quick) and options.only in f"{c.group} {c.name}"]
    took: dict[tuple[str, str], list[Took]] = {(c.group, c.name): [] for c in chosen}
    failed: dict[tuple[str, str], str] = {}
    rounds = 1 if options.quick else options.rounds
    for number in range(rounds):
        for contender in chosen:
            key = (contender.group, contender.name)
            if key in failed:
                continue
            try:
                result = contender.run()
            except (Unavailable, subprocess.SubprocessError, OSError, RuntimeError) as error:
                failed[key] = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
                say(f"  {contender.group}: {contender.name}: failed: {failed[key]}")
                continue
            took[key].append(result)
            shown = ", ".join(f"{m.title} {result[m.name]:.{m.digits}f}" for m in part.measures if m.name in result)
            say(f"  round {number + 1}/{rounds}  {contender.group}: {contender.name}: {shown}")
    rows: list[Row] = []
    first: dict[str, Took] = {}
    for (group, name), results in took.items():
        medians = {
            m.name: statistics.median(r[m.name] for r in results)
            for m in part.measures
            if results and m.name in results[0]
        }
        spread = {m: (min(r[m] for r in results), max(r[m] for r in results)) for m in medians}
        base = first.setdefault(group, medians) if results else {}
        ratios = {m: medians[m] / base[m] for m in medians if base.get(m)}
        rows.append(Row(group, name, medians, spread, ratios, failed.get((group, name), "")))
    return rows


def table(part: Part, rows: list[Row]) -> str:
    """The rows as a person reads them."""
    head = ["", *(title for m in part.measures for title in ((m.title, "ratio") if m.ratio else (m.title,)))]
    lines: list[list[str] | str] = []
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(group)
        cells = ["  " + row.name]
        if row.failed:
            cells.append(f"— {row.failed}")
        else:
            for m in part.measures:
                value = row.medians.get(m.name)
                cells.append("" if value is None else f"{value:,.{m.digits}f}")
                if m.ratio:
                    ratio = row.ratios.get(m.name)
                    cells.append("" if ratio is None else f"{ratio:.2f}")
        lines.append(cells)
    widths = [len(title) for title in head]
    for line in lines:
        if not isinstance(line, str) and len(line) == len(head):
            widths = [max(width, len(cell)) for width, cell in zip(widths, line, strict=True)]
    widths[0] = max([widths[0], *(len(line) for line in lines if isinstance(line, str))])

    def shown(cells: list[str]) -> str:
        return "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=False))
        ).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    out = [part.title, rule, shown(head), rule]
    for line in lines:
        if isinstance(line, str):
            out.append(line)
        elif len(line) == len(head):
            out.append(shown(line))
        else:
            out.append(f"{line[0].ljust(widths[0])}  {line[1]}")
    out.append(rule)
    out.extend(part.notes)
    return "\n".join(out)


def as_json(part: Part, rows: list[Row]) -> dict[str, Any]:
    """The rows for a program."""
    return {
        "title": part.title,
        "rows": [
            {
                "group": row.group,
                "name": row.name,
                "medians": row.medians,
                "least_and_most": row.spread,
                "ratios": row.ratios,
                **({"failed": row.failed} if row.failed else {}),
            }
            for row in rows
        ],
    }


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix=f"ottla-bench-{prefix}-", dir=os.environ.get("OTTLA_BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def ottla_python() -> Path:
    """The interpreter that has Ottla, as a user installs it."""
    path = ROOT / ".venv" / "bin" / "python"
    if not path.exists():
        raise Unavailable("there is no .venv with ottla in it: make bench, or scripts/venv")
    return path


def peers_python() -> Path:
    """The interpreter that has the other clients."""
    if why := peers.missing("python"):
        raise Unavailable(f"{why}: scripts/peers")
    path: Path = peers.python()
    return path


def ottla() -> Path:
    """The program `ottla`: $OTTLA_BIN, or what a user installs."""
    if named := os.environ.get("OTTLA_BIN"):
        return Path(named).resolve()
    return ottla_python().parent / "ottla"


def run(command: list[str | Path], timeout: float = 600, **options: Any) -> str:
    """A command's output; what it said when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
        **options,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(f"{Path(str(command[0])).name} ended with {done.returncode}: {said[-1]}")
    output: str = done.stdout
    return output
