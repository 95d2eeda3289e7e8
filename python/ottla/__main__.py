"""`python -m ottla`, and the command `ottla`.

Everything but `run` is one Rust function. `run` starts a Python script, so it lives in `ottla.run`.
"""

from __future__ import annotations

import signal
import sys

from ottla import _ottla

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments without the program's name; the program's own if left out.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from ottla import run

        return run.main(arguments[1:])
    # Python would only note Ctrl-C until the Rust function returns; the system's own answer ends the process.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _ottla.main(["ottla", *arguments], [sys.executable, "-m", "ottla"])
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
