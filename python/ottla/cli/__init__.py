"""The command line as a function."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["program", "run_cli"]


def run_cli(args: list[str] | None = None) -> int:
    """Run `ottla` with these arguments, or with this program's own, and return its exit code.

    Raises:
        FileNotFoundError: The program is not there.
    """
    arguments = sys.argv[1:] if args is None else args
    return subprocess.call([program(), *arguments])  # noqa: S603


def program() -> str:
    """Where the program `ottla` is that came with this package.

    Raises:
        FileNotFoundError: It is in none of the places where pip puts programs.
    """
    user = sysconfig.get_preferred_scheme("user")
    places = [
        Path(sysconfig.get_path("scripts")),
        Path(sysconfig.get_path("scripts", scheme=user)),
        # pip install --target
        Path(__file__).resolve().parents[2] / "bin",
    ]
    for place in places:
        if (path := place / "ottla").is_file():
            return str(path)
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(f"the program `ottla` is not there, which `pip install` puts beside python; looked in {looked}")
