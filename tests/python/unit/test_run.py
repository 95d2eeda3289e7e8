"""What `ottla run` does before it needs a broker."""

import argparse
import socket
import subprocess
import sys
import textwrap

import pytest
from ottla import run


@pytest.mark.parametrize(
    ("text", "seconds"), [("3s", 3), ("500ms", 0.5), ("2", 2), ("1.5 s", 1.5), ("1m", 60), ("1h", 3600)]
)
def test_durations_have_units(text, seconds):
    assert run.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3s", "3 weeks"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        run.duration(text)


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("localhost", [("localhost", 9092)]),
        ("localhost:9093, 127.0.0.1", [("localhost", 9093), ("127.0.0.1", 9092)]),
        ("PLAINTEXT://[::1]:9094", [("::1", 9094)]),
        ("memory:", []),
        ("memory:name", []),
        ("./data", []),
        ("/var/data", []),
        ("host:port", []),
    ],
)
def test_endpoints_of_bootstrap_servers(servers, expected):
    assert run.endpoints(servers) == expected


def test_only_an_address_on_this_machine_that_refuses_gets_a_broker():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.listen()
        assert not run.refuses("127.0.0.1", port)
    assert run.refuses("127.0.0.1", port)
    assert run.refuses("localhost", port)
    # Documentation addresses; never called.
    assert not run.refuses("192.0.2.1", 9092)
    assert not run.refuses("no-such-host.invalid", 9092)


def ottla_run(tmp_path, code, *arguments, options=()):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "ottla", "run", *options, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_script_runs_as_main_with_its_arguments_its_folder_and_kafka(tmp_path):
    (tmp_path / "beside.py").write_text("value = 5")
    done = ottla_run(
        tmp_path,
        """
        import sys, beside, kafka, ottla
        from kafka.errors import KafkaError
        print(__name__, __file__ == sys.argv[0], sys.argv[1:], beside.value, kafka is ottla)
        """,
        "-v",
        "--idle-exit",
    )
    assert done.stdout == "__main__ True ['-v', '--idle-exit'] 5 True\n"
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("code", "returncode", "stderr"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import sys; sys.exit()", 0, ""),
        ("raise KeyboardInterrupt", 130, "ottla run: interrupted\n"),
    ],
)
def test_the_exit_code_is_the_scripts(tmp_path, code, returncode, stderr):
    done = ottla_run(tmp_path, code)
    assert (done.returncode, done.stderr) == (returncode, stderr)


def test_a_traceback_shows_the_script_only(tmp_path):
    done = ottla_run(tmp_path, "def f():\n    1 / 0\nf()\n")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "ottla/run.py" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--idle-exit", "soon", "x.py"], ["no-such-script.py"]])
def test_wrong_arguments_end_with_2_and_a_line_that_says_why(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ottla", "run", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ottla run: ")
