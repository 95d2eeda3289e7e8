"""Builds the wheel: maturin's own backend, with the native program `ottla` beside the extension.

maturin makes one thing of a crate, an extension or a program. Whatever lies in `ottla.data/scripts` goes into the wheel
as a program, so that is where cargo's is put before maturin runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "ottla.data" / "scripts"


def put_program(*options: str) -> None:
    """Compile the program `ottla` with these options of cargo's, and put it where maturin finds it."""
    command = ["cargo", "build", "--locked", "--package", "ottla", "--bin", "ottla", *options]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    (program,) = [message["executable"] for message in messages if message.get("executable")]
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, SCRIPTS / "ottla")
    if "--release" in options and (strip := shutil.which("strip")):
        # maturin does the same to the extension.
        subprocess.run([strip, SCRIPTS / "ottla"], check=True)  # noqa: S603


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel (PEP 517) and return its file name."""
    put_program("--release")
    settings = {"build-args": "--compression-level=9", **(config_settings or {})}
    wheel: str = maturin.build_wheel(wheel_directory, settings, metadata_directory)
    return wheel


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel that leads to this folder (PEP 660), without optimisation, and return its file name."""
    put_program()
    wheel: str = maturin.build_editable(wheel_directory, config_settings, metadata_directory)
    return wheel
