"""Logging for a process: structlog, to standard error, for people (console) or for machines (json).

One line per change, not per retry, is the callers' business. Ours is that no line shows a secret: whatever looks like
an agent token, a bearer token or the password of a URL is masked on its way out, in every value of every event, because
an exception's text can carry anything.

What libraries log by the standard ``logging`` module comes out the same way, from WARNING upwards.
"""

import logging
import re
import sys
from enum import StrEnum
from typing import Any, Final, TextIO

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


def configure(
    level: LogLevel = LogLevel.INFO, form: LogFormat = LogFormat.CONSOLE, *, stream: TextIO | None = None
) -> None:
    """Set up logging for the whole process. Call it once, before the first line."""
    out = sys.stderr if stream is None else stream
    numeric = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _mask_event,
    ]
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
