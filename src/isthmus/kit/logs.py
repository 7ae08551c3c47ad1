"""Logging for a process: structlog, to standard error, for people (console) or for machines (json).

One line per change, not per retry, is the callers' business. Ours is that no line shows a secret: whatever looks like
an agent token, a bearer token or the password of a URL is masked on its way out, in every value of every event, because
an exception's text can carry anything.

Tracebacks are plain and bounded, also in a process that has not called ``configure``: structlog's own default has Rich
print the locals of every frame, which holds a process up for seconds and shows whatever secret is in them.

What libraries log by the standard ``logging`` module comes out the same way, from WARNING upwards.
"""

import logging
import re
import sys
from collections import deque
from enum import StrEnum
from typing import Any, Final, TextIO

from isthmus.kit import lines

# structlog imports rich if it is there, for tracebacks that we do not print: 5 MB in every process that logs.
_HAD_RICH: Final = "rich" in sys.modules
if not _HAD_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger
finally:
    if not _HAD_RICH:
        del sys.modules["rich"]

#: What is masked, and by what. The parts of an agent token before the secret are public.
_SECRETS: Final = (
    (re.compile(r"\b(isthmus_d[a-z2-7]{7}_[a-z2-7]{12}_)[A-Za-z0-9_-]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]+=*"), r"\1***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"), "***"),
    (re.compile(r"(\w://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
)


class LogLevel(StrEnum):
    """From chatty to quiet."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Lines for people, or one JSON object a line."""

    CONSOLE = "console"
    JSON = "json"


def masked(text: str) -> str:
    """``text`` without anything that looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _mask(value: object) -> object:
    match value:
        case str():
            return masked(value)
        case dict():
            return {key: _mask(one) for key, one in value.items()}
        case list() | tuple():
            return [_mask(one) for one in value]
        case _:
            return value


def _mask_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: _mask(value) for key, value in event.items()}


class Tail:
    """The end of a process's log, in memory: what its last lines were, whatever became of standard error.

    The newest ``lines`` are kept, none longer than ``line_characters``, and together at most ``size_bytes`` as JSON.
    """

    def __init__(self, *, lines: int, line_characters: int, size_bytes: int) -> None:
        self._kept: deque[str] = deque(maxlen=lines)
        self._line_characters = line_characters
        self._size_bytes = size_bytes
        self._size = 0
        self._write = structlog.dev.ConsoleRenderer(colors=False, sort_keys=False, pad_event_to=0)

    @property
    def lines(self) -> tuple[str, ...]:
        """The newest last."""
        return tuple(self._kept)

    def note(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Keep the line of a masked event, and pass it on: a processor of structlog's."""
        known = {key: value for key, value in event.items() if not key.startswith("_")}
        trace = str(known.pop("exception", ""))
        self._add(str(self._write(logger, method, known)))
        for line in trace.splitlines():
            self._add(f"    {line}")
        return event

    def _add(self, line: str) -> None:
        line = lines.visible(line)[: self._line_characters]
        if len(self._kept) == self._kept.maxlen:
            self._drop()
        self._kept.append(line)
        self._size += _json_bytes(line)
        while self._size > self._size_bytes:
            self._drop()

    def _drop(self) -> None:
        self._size -= _json_bytes(self._kept.popleft())


def _json_bytes(line: str) -> int:
    """What the line takes in a list, with its quotes and a comma. Nothing else is escaped in what is visible."""
    return len(line.encode()) + line.count("\\") + line.count('"') + 3


#: What is kept of a traceback, in characters: its beginning says where it began, its end what went wrong.
_TRACEBACK_HEAD: Final = 4_000
_TRACEBACK_TAIL: Final = 12_000


def _bound_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    text = event.get("exception")
    if isinstance(text, str) and len(text) > _TRACEBACK_HEAD + _TRACEBACK_TAIL:
        left_out = len(text) - _TRACEBACK_HEAD - _TRACEBACK_TAIL
        head, tail = text[:_TRACEBACK_HEAD], text[-_TRACEBACK_TAIL:]
        event["exception"] = f"{head}\n... {left_out} characters left out ...\n{tail}"
    return event


_TRACEBACKS: Final[tuple[Processor, ...]] = (structlog.processors.format_exc_info, _bound_traceback)

if not structlog.is_configured():  # until somebody configures it: as it is, but for tracebacks and secrets
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            *_TRACEBACKS,
            _mask_event,
            structlog.dev.ConsoleRenderer(),
        ]
    )


def configure(
    level: LogLevel = LogLevel.INFO,
    form: LogFormat = LogFormat.CONSOLE,
    *,
    stream: TextIO | None = None,
    tail: Tail | None = None,
) -> None:
    """Set up logging for the whole process. Call it once, before the first line. ``tail`` keeps the last lines."""
    out = sys.stderr if stream is None else stream
    numeric = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *_TRACEBACKS,
        _mask_event,
    ]
    if tail is not None:
        shared.append(tail.note)
    renderer: Processor
    if form is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), sort_keys=False)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(out)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.root.handlers[:] = [foreign]
    logging.root.setLevel(max(numeric, logging.WARNING))


def get(**values: Any) -> FilteringBoundLogger:
    """A logger that adds ``values`` to each of its lines."""
    logger: FilteringBoundLogger = structlog.get_logger(**values)
    return logger
