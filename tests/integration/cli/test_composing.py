"""Compositions with real processes: order, watching, and nothing left behind on any way out."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.cli.composing import Composition, Program, ProgramError
from isthmus.kit import processes


def program(
    tmp_path: Path, name: str, code: str, *, ready: Callable[[], bool] = lambda: True, **more: float
) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-c", textwrap.dedent(code)),
        environment={},
        log=tmp_path / f"{name}.log",
        ready=ready,
        **more,
    )


SLEEPER = "import time; time.sleep(600)"


def test_programs_are_ready_when_they_say_so_and_some_leave_first(tmp_path: Path) -> None:
    told: list[str] = []
    ended = tmp_path / "ended"
    code = """
        import pathlib, signal, sys, time
        def stop(*_):
            time.sleep({pause})
            with open({ended!r}, "a") as file: file.write("{name} ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path({ready!r}).touch()
        time.sleep(600)
    """
    with Composition() as composition:
        for name, leaves_first in (("one", True), ("two", False), ("three", False)):
            ready = tmp_path / name
            text = code.format(ended=str(ended), name=name, ready=str(ready), pause=0.5 if leaves_first else 0)
            one = program(tmp_path, name, text, ready=ready.exists)
            composition.start(dataclasses.replace(one, leaves_first=leaves_first))
            composition.await_ready(told=told.append)
        composition.check()
        assert composition.end("three") == 0
        assert composition.end("nobody") is None
    assert told == ["one", "two", "three"]
    assert ended.read_text() == "three one two "


def test_a_program_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Composition() as composition:
        pid = composition.start(program(tmp_path, "sleeper", SLEEPER))
        composition.start(program(tmp_path, "broken", "import sys; sys.exit('no database')", ready=lambda: False))
        with pytest.raises(ProgramError, match="broken ended by itself with code 1") as caught:
            composition.await_ready()
        assert "no database" in caught.value.hint
    assert not processes.is_alive(pid)


def test_patience_ends(tmp_path: Path) -> None:
    with Composition() as composition:
        composition.start(program(tmp_path, "slow", SLEEPER, ready=lambda: False, ready_seconds=0.3))
        with pytest.raises(ProgramError, match=r"slow was not ready within 0.3 s"):
            composition.await_ready()


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    code = f"""
        import pathlib, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path({str(flag)!r}).touch()
        time.sleep(600)
    """
    with Composition() as composition:
        pid = composition.start(program(tmp_path, "deaf", code, ready=flag.exists, stop_seconds=0.3))
        composition.await_ready()
    assert not processes.is_alive(pid)


def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    missing = Program("missing", ("/no/such/program",), {}, tmp_path / "log", lambda: True)
    with Composition() as composition, pytest.raises(ProgramError, match="missing cannot be started"):
        composition.start(missing)


#: Starts a program whose grandchild has a session of its own, says the grandchild's pid, and goes on as it is told.
CONTAINED = """
import pathlib, sys, time
from isthmus.cli import composing

def run():
    place = pathlib.Path(sys.argv[1])
    grandchild = "import os, subprocess, sys, time; " \\
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); " \\
        "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(600)"
    with composing.Composition() as composition:
        said = place / "pid"
        composition.start(composing.Program(
            "parent", (sys.executable, "-c", grandchild, str(said)), {"PATH": "/usr/bin:/bin"}, place / "log",
            lambda: said.exists() and bool(said.read_text()),
        ))
        composition.await_ready()
        (place / "started").touch()
        if sys.argv[2] == "return":
            return 7
        if sys.argv[2] == "raise":
            raise RuntimeError("boom")
        composition.watch()

sys.exit(composing.contained(run))
"""


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("way", "code"),
    [("return", 7), ("raise", 1), ("SIGTERM", 130), ("SIGINT", 130), ("SIGHUP", 130), ("SIGKILL inside", 137)],
)
def test_nothing_is_left_on_any_way_out(tmp_path: Path, way: str, code: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(CONTAINED)
    outer = subprocess.Popen([sys.executable, script, tmp_path, way], start_new_session=True, stderr=subprocess.PIPE)
    _await((tmp_path / "started").exists)
    grandchild = int((tmp_path / "pid").read_text())
    below = {grandchild, *processes.descendants(outer.pid)}
    if way == "SIGKILL inside":
        os.kill(processes.children(outer.pid)[0], signal.SIGKILL)
    elif way == "SIGINT":  # as a terminal does it
        os.killpg(outer.pid, signal.SIGINT)
    elif way.startswith("SIG"):
        outer.send_signal(signal.Signals[way])
    _, said = outer.communicate(timeout=30)
    assert outer.returncode == code, said
    assert (b"boom" in said) == (way == "raise")
    assert [pid for pid in below if processes.is_alive(pid)] == []


def test_a_killed_container_takes_the_rest_along(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CONTAINED)
    outer = subprocess.Popen([sys.executable, script, tmp_path, "watch"], start_new_session=True)
    _await((tmp_path / "started").exists)
    below = processes.descendants(outer.pid)
    outer.kill()
    outer.wait()
    _await(lambda: not any(processes.is_alive(pid) for pid in below))
