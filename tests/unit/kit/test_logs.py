"""No line shows a secret, whatever carried it in."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from isthmus.kit import lines, logs

TOKEN = f"isthmus_dtest234_abcdefgh2345_{'S3cret-_' * 5}xyz"
JWT = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl_-"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    handlers, level, config = logging.root.handlers[:], logging.root.level, structlog.get_config()
    stream = io.StringIO()
    logs.configure(logs.LogLevel.INFO, logs.LogFormat.JSON, stream=stream)
    yield stream
    structlog.configure(**config)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN} refused", "token isthmus_dtest234_abcdefgh2345_*** refused"),
        ("Authorization: Bearer abc.def-123==", "Authorization: Bearer ***"),
        (f"task token {JWT}.", "task token ***."),
        ("http://user:pass@proxy:3128/", "http://user:***@proxy:3128/"),
        ("https://host.example/d", "https://host.example/d"),
        ("the bearer of news", "the bearer *** news"),
    ],
)
def test_masked(text: str, shown: str) -> None:
    assert logs.masked(text) == shown


def test_secrets_are_masked_wherever_they_are(out: io.StringIO) -> None:
    log = logs.get(component="x")
    try:
        raise RuntimeError(f"cannot send {TOKEN}")
    except RuntimeError:
        log.exception("failed", headers={"a": [f"Bearer {JWT}"]}, url="http://u:p4ss@h/")
    logging.getLogger("library").warning("sent %s", TOKEN)
    text = out.getvalue()
    for secret in ("S3cret", "p4ss", JWT):
        assert secret not in text
    first, second = map(json.loads, text.splitlines())
    assert (first["event"], first["component"], first["level"]) == ("failed", "x", "error")
    assert "RuntimeError" in first["exception"]
    assert (second["level"], second["logger"]) == ("warning", "library")


def test_levels(out: io.StringIO) -> None:
    log = logs.get()
    log.debug("hidden")
    log.info("shown")
    logging.getLogger("library").info("hidden")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["shown"]


def tail(**limits: int) -> logs.Tail:
    return logs.Tail(**{"lines": 5, "line_characters": 200, "size_bytes": 10_000, **limits})


def test_the_tail_has_the_last_lines_without_secrets_whatever_is_written_out() -> None:
    kept = tail()
    config = structlog.get_config()
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        logs.configure(logs.LogLevel.INFO, logs.LogFormat.JSON, stream=io.StringIO(), tail=kept)
        log = logs.get(component="x")
        log.debug("not logged")
        for number in range(4):
            log.info("line", number=number)
        log.warning(f"sent {TOKEN}", forged="a\nb", clear="\x1b[2J")
        logging.getLogger("library").warning("said \x00")
    finally:
        structlog.configure(**config)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    assert len(kept.lines) == 5
    assert "number=1" in kept.lines[0], "the oldest give way"
    assert "sent isthmus_dtest234_abcdefgh2345_***" in kept.lines[3]
    assert "forged='a\\nb'" in kept.lines[3]
    assert "said \\x00" in kept.lines[4]
    assert not any(character in line for line in kept.lines for character in "\n\x1b\x00")


def test_the_tail_is_bounded_in_bytes_as_json() -> None:
    kept = tail(lines=500, size_bytes=4096)
    for number in range(300):
        kept.note(None, "info", {"event": f'{number} "quoted" \\ ' + "é\x1b" * 40, "level": "info"})
        assert len(json.dumps(kept.lines, ensure_ascii=False, separators=(",", ":")).encode()) <= 4096
    assert "299" in kept.lines[-1]
    assert all(len(line) <= 200 for line in kept.lines)


def test_a_traceback_is_lines_of_its_own() -> None:
    kept = tail()
    kept.note(
        None, "error", {"event": "failed", "level": "error", "exception": "Traceback:\n  File x\nRuntimeError: y"}
    )
    assert len(kept.lines) == 4
    assert kept.lines[-1] == "    RuntimeError: y"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Ærø, 東京, a b", "plain, Ærø, 東京, a b"),
        ("\x1b[31m\r\n\t", "\\x1b[31m\\r\\n\\t"),
        ("\x9b\u2028\u202e\ud800", "\\x9b\\u2028\\u202e\\ud800"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert lines.visible(text) == shown


UNCONFIGURED = """
import rich.traceback, structlog, sys, time
import isthmus.kit.logs

def fall(depth):
    secret, large = "hunter2", {number: "x" * 100 for number in range(2000)}
    if depth:
        return fall(depth - 1)
    raise ValueError("the last word " + "y" * int(sys.argv[1]))

began = time.perf_counter()
try:
    fall(40)
except ValueError:
    structlog.get_logger().exception("it failed")
print(time.perf_counter() - began)
"""


@pytest.mark.parametrize("length", [1, 1_000_000])
def test_a_traceback_is_plain_short_and_without_locals_before_logging_is_set_up(length: int) -> None:
    """Rich, which structlog takes if it is there, needs five seconds for this one and prints the secret."""
    ended = subprocess.run(
        [sys.executable, "-c", UNCONFIGURED, str(length)], capture_output=True, text=True, check=True, timeout=60
    )
    *lines, seconds = ended.stdout.splitlines()
    text = "\n".join(lines)
    assert "it failed" in text
    assert "ValueError" in text or "left out" in text
    assert "in fall" in text
    assert "hunter2" not in text.replace('secret, large = "hunter2"', "")
    assert len(text) < 20_000
    assert float(seconds) < 1
