"""`ottla run`: a script written for kafka-python, unchanged, on Ottla.

The script gets `kafka` from Ottla. When it opens a client whose bootstrap servers are all on this machine and refuse
the connection, an embedded broker in memory is started there for as long as the script runs; a remote address, or one
where something listens, is left alone. A loop over a consumer never ends, as in Kafka: after three seconds without a
message the command says what it waits for, and `--idle-exit` ends such loops.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ottla import _clients, install_as_kafka
from ottla.broker import Broker
from ottla.errors import AlreadyExistsError, KafkaError

if TYPE_CHECKING:
    from ottla.consumer import KafkaConsumer

__all__ = ["main"]

NOTICE_AFTER_S = 3.0
"""How long a consumer waits before the command says so."""

_KAFKA_PORT = 9092
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def duration(text: str) -> float:
    """Return the seconds that a text such as `3s`, `500ms` or `2` stands for.

    Raises:
        argparse.ArgumentTypeError: It stands for none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"not a duration, such as 3s or 500ms: {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def endpoints(bootstrap_servers: str) -> list[tuple[str, int]]:
    """Return host and port of each address in the list; none of a `memory:` broker or of a directory."""
    found = []
    for entry in bootstrap_servers.split(","):
        address = entry.strip().rpartition("://")[2]
        if not address or address.startswith(("memory:", ".", "/", "~")):
            return []
        host, colon, port = address.rpartition(":")
        if not colon or address.endswith("]"):
            host, port = address, str(_KAFKA_PORT)
        if not port.isdecimal():
            return []
        found.append((host.strip("[]"), int(port)))
    return found


def _addresses(host: str, port: int) -> list[tuple[int, Any]] | None:
    """Return the socket addresses of a host on this machine, or None if it is another or unknown."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
    if all(str(address[0]).startswith("127.") or address[0] == "::1" for _, address in addresses):
        return addresses
    return None


def refuses(host: str, port: int) -> bool:
    """Return whether the address is on this machine and nothing listens there."""
    addresses = _addresses(host, port)
    if not addresses:
        return False
    refused = False
    for family, address in addresses:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(address)
            except ConnectionRefusedError:
                refused = True
            except OSError:
                # Such as IPv6 being off: says nothing about a broker.
                continue
            else:
                return False
    return refused


def _say(text: str) -> None:
    print(f"ottla run: {text}", file=sys.stderr, flush=True)  # noqa: T201 (a command's own output)


class Session:
    """What `ottla run` does for a script's clients: given to `ottla._clients` while the script runs."""

    def __init__(self, idle_exit_s: float | None) -> None:
        self.idle_exit_s = idle_exit_s
        self.brokers: list[Broker] = []

    def before_open(self, bootstrap_servers: str) -> None:
        """Start a broker where the client is about to look for one, if it is to be embedded."""
        addresses = endpoints(bootstrap_servers)
        if not addresses or not all(refuses(host, port) for host, port in addresses):
            return
        host, port = addresses[0]
        listen = f"127.0.0.1:{port}" if host in ("localhost", "127.0.0.1") else f"{host}:{port}"
        try:
            broker = Broker(listen=listen)
        except (AlreadyExistsError, OSError) as error:
            # Somebody was faster; the client will say if that is no broker.
            _say(f"no embedded broker at {listen}: {error}")
            return
        self.brokers.append(broker)
        _say(f"nothing listens at {host}:{port}; an embedded broker, in memory, does so until the script ends")

    def watch(self, consumer: KafkaConsumer) -> None:
        """Have the consumer say when it has waited long, and stop if it is to."""
        consumer._watch_idle(NOTICE_AFTER_S, lambda: self.notice(consumer), self.idle_exit_s)

    def notice(self, consumer: KafkaConsumer) -> None:
        """Say what the consumer waits for."""
        topics = sorted(consumer.subscription() or {partition.topic for partition in consumer.assignment()})
        group = consumer.config["group_id"]
        what = f"topic {', '.join(topics)}" if topics else "no topic at all"
        member = f" as a member of group {group}" if group else ""
        ends = "" if self.idle_exit_s is None else f" (--idle-exit after {self.idle_exit_s:g} s)"
        _say(f"still waiting for messages of {what}{member}; Ctrl-C ends it{ends}")

    def close(self) -> None:
        """Close what the script left open, then the brokers."""
        _clients.close_all()
        for broker in self.brokers:
            broker.close()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n{self.format_usage()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ottla run",
        description="Run a Python script that imports kafka, with Ottla as its kafka. When nothing listens on its"
        " bootstrap address on this machine, an embedded broker does so for as long as the script runs.",
        epilog="Exit code: the script's own; 1 if it raised; 2 for wrong arguments; 130 after Ctrl-C.",
    )
    parser.add_argument(
        "--idle-exit",
        type=duration,
        metavar="TIME",
        help="end a loop over a consumer after this long without a message, such as 3s or 500ms",
    )
    parser.add_argument("script", type=Path, help="the script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def _execute(script: Path, arguments: list[str]) -> int:
    """Run the script as `__main__` and return its exit code."""
    source = script.read_bytes()
    module = ModuleType("__main__")
    module.__dict__.update(__file__=str(script), __builtins__=__builtins__, __spec__=None, __cached__=None)
    sys.modules["__main__"] = module
    sys.argv = [str(script), *arguments]
    sys.path[0:1] = [str(script.resolve().parent)]
    try:
        exec(compile(source, str(script), "exec"), module.__dict__)  # noqa: S102 (running a script is the command)
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        print(exit_.code, file=sys.stderr)  # noqa: T201 (as the interpreter does)
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BaseException as error:  # noqa: BLE001 (the script's own, whatever it is)
        # Without this module's own frame.
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace.tb_next if trace else None)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Run `ottla run` with these arguments and return its exit code."""
    options = _parser().parse_args(arguments)
    script: Path = options.script
    if not script.is_file():
        _say(f"no such script: {script}")
        return 2
    try:
        install_as_kafka()
    except (RuntimeError, KafkaError) as error:
        _say(str(error))
        return 2
    session = Session(options.idle_exit)
    _clients.session = session
    try:
        return _execute(script, options.args)
    finally:
        _clients.session = None
        session.close()
