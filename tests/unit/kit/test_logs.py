"""No line shows a secret, whatever carried it in."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from isthmus.kit import logs

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
