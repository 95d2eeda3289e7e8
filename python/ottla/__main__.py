"""`python -m ottla`, the same as the command `ottla`.

Everything but `run` is the native program that the wheel brings. `run` starts a Python script, so it lives in `ottla.run`.
"""

from __future__ import annotations

import os
import sys

from ottla.cli import program

__all__ = ["main"]


def main() -> int:
    """Run the command line. Returns the exit code of `run`; in any other case this process becomes the program.

    Raises:
        FileNotFoundError: The program is not there.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from ottla import run

        return run.main(arguments[1:])
    path = program()
    sys.stdout.flush()
    os.execv(path, ["ottla", *arguments])  # noqa: S606  (no shell is meant)


if __name__ == "__main__":
    sys.exit(main())
